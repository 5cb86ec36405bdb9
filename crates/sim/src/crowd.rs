//! The crowd: carries out what clients say, and lets them appear, die, and be troubled by their links.

use crate::act::{Act, Library};
use crate::driver::PersonEvent;
use crate::link::{ConnId, Item, Pipe, Side};
use crate::trace::brief;
use crate::world::{Conn, Event, World};
use potluck_proto::decode;
use potluck_types::limits::{MAX_FRAME_BYTES, MAX_QUEUED_FRAMES, MESSAGE_BURST, MESSAGES_PER_SECOND};

impl World {
    pub(crate) fn appear(&mut self, client: usize) -> Result<(), String> {
        let now = self.queue.now();
        let slot = &mut self.slots[client];
        if slot.alive {
            return Ok(());
        }
        slot.alive = true;
        slot.life += 1;
        self.trace.note(now, b'A', client as u64, &[], || format!("client {client} appears"));
        let planned = self.plan.volunteers[client];
        let acts = self.slots[client].driver.start(now);
        self.note_name(client);
        self.perform(client, acts)?;
        if !self.calm {
            if planned.killed_every_ms > 0 {
                let wait = self.rng.within(planned.killed_every_ms / 2..=planned.killed_every_ms * 2);
                self.queue.after(wait, Event::Kill { client });
            }
            if planned.person_every_ms > 0 {
                let wait = self.rng.within(1..=planned.person_every_ms * 2);
                self.queue.after(wait, Event::Person { client });
            }
        }
        Ok(())
    }

    /// The watch knows by name whom it must not see rejected.
    fn note_name(&mut self, client: usize) {
        if self.is_honest(client) {
            let name = self.slots[client].driver.id();
            self.watch.honest.insert(name);
        }
    }

    /// The tab or process is gone, with or without a goodbye on the wire.
    pub(crate) fn kill(&mut self, client: usize) {
        if self.calm || !self.slots[client].alive {
            return;
        }
        let (now, silent) = (self.queue.now(), self.rng.permille(300));
        self.trace.note(now, b'k', client as u64, &[silent.into()], || {
            format!("client {client} is killed{}", if silent { " and nobody is told" } else { "" })
        });
        let slot = &mut self.slots[client];
        slot.alive = false;
        slot.life += 1;
        let new_name = self.rng.permille(300);
        slot.driver.killed(new_name);
        if let Some(conn) = slot.conn.take() {
            self.conns[conn].down.vanish();
            if silent {
                self.conns[conn].up.vanish();
            } else {
                self.put(conn, Side::Relay, Item::End);
            }
        }
        let wait = self.rng.within(10..=20_000);
        self.queue.after(wait, Event::Appear { client });
    }

    pub(crate) fn wake(&mut self, client: usize, life: u32, tag: u64) -> Result<(), String> {
        let now = self.queue.now();
        let slot = &mut self.slots[client];
        if !slot.alive || slot.life != life {
            return Ok(());
        }
        self.trace.note(now, b'w', client as u64, &tag.to_le_bytes(), || format!("client {client} wakes"));
        let library = Library {
            products: &self.products,
            blobs: &self.store.blobs,
            overheard: self.overheard.as_ref(),
        };
        let acts = slot.driver.woken(now, tag, library);
        self.perform(client, acts)
    }

    pub(crate) fn computed(
        &mut self,
        client: usize,
        life: u32,
        run: u64,
        result: Result<Vec<u8>, crate::act::Failure>,
    ) -> Result<(), String> {
        let now = self.queue.now();
        let slot = &mut self.slots[client];
        if !slot.alive || slot.life != life {
            return Ok(());
        }
        self.trace.note(now, b'c', client as u64, &run.to_le_bytes(), || match &result {
            Ok(bytes) => format!("client {client}: kernel {run} made {} bytes", bytes.len()),
            Err(failure) => format!("client {client}: kernel {run} failed: {failure:?}"),
        });
        let acts = slot.driver.computed(now, run, result);
        self.perform(client, acts)
    }

    pub(crate) fn person(&mut self, client: usize, does: Option<PersonEvent>) -> Result<(), String> {
        let now = self.queue.now();
        let every = self.plan.volunteers[client].person_every_ms;
        let Some(does) = does.or_else(|| (!self.calm).then(|| PersonEvent::draw(&mut self.rng))) else {
            return Ok(());
        };
        if !self.calm && every > 0 {
            let wait = self.rng.within(1..=every * 2);
            self.queue.after(wait, Event::Person { client });
        }
        let slot = &mut self.slots[client];
        if !slot.alive {
            return Ok(());
        }
        self.trace.note(now, b'p', client as u64, &[does as u8], || {
            format!("client {client}: its person: {does:?}")
        });
        let acts = slot.driver.person(now, does);
        self.perform(client, acts)
    }

    pub(crate) fn client_receives(&mut self, conn: ConnId) -> Result<(), String> {
        loop {
            let now = self.queue.now();
            let client = self.conns[conn].client;
            let item = match self.conns[conn].down.receive(now) {
                Ok(item) => item,
                Err(Some(due)) => {
                    self.queue.at(due, Event::Due { conn, side: Side::Client });
                    return Ok(());
                }
                Err(None) => return Ok(()),
            };
            let slot = &mut self.slots[client];
            if !slot.alive || slot.conn != Some(conn) {
                continue;
            }
            let acts = match item {
                Item::Start => slot.driver.opened(now),
                Item::Frame(frame) => slot.driver.frame(now, &frame),
                Item::End => {
                    slot.conn = None;
                    self.trace
                        .note(now, b'x', client as u64, &[], || format!("client {client} is disconnected"));
                    slot.driver.closed(now)
                }
            };
            self.perform(client, acts)?;
        }
    }

    /// Carries out what a client says.
    pub(crate) fn perform(&mut self, client: usize, acts: Vec<Act>) -> Result<(), String> {
        let honest = self.slots[client].driver.is_engine();
        for act in acts {
            let now = self.queue.now();
            match act {
                Act::Connect => {
                    if self.slots[client].conn.is_some() {
                        if honest {
                            return Err(format!("client {client} connects a second time"));
                        }
                        continue;
                    }
                    self.connect(client);
                }
                Act::Send(frame) => {
                    if honest {
                        self.look_at_honest_frame(client, &frame)?;
                    }
                    let Some(conn) = self.slots[client].conn else { continue };
                    self.put(conn, Side::Relay, Item::Frame(frame));
                    let waiting = self.conns[conn].up.waiting(now);
                    if honest && waiting > 2 * MAX_QUEUED_FRAMES {
                        return Err(format!("client {client} has {waiting} frames waiting for its link"));
                    }
                }
                Act::Close => {
                    if let Some(conn) = self.slots[client].conn.take() {
                        self.trace
                            .note(now, b'e', client as u64, &[], || format!("client {client} disconnects"));
                        self.put(conn, Side::Relay, Item::End);
                        if !honest {
                            let acts = self.slots[client].driver.closed(now);
                            self.perform(client, acts)?;
                        }
                    }
                }
                Act::Wake { after_ms, tag } => {
                    let life = self.slots[client].life;
                    self.queue.after(after_ms, Event::Wake { client, life, tag });
                }
                Act::Compute { after_ms, run, result } => {
                    let life = self.slots[client].life;
                    self.queue.after(after_ms, Event::Computed { client, life, run, result });
                }
            }
        }
        self.slots[client].driver.look().map_err(|what| format!("client {client}: {what}"))
    }

    /// What a client that runs the real engine may put on the wire.
    fn look_at_honest_frame(&mut self, client: usize, frame: &[u8]) -> Result<(), String> {
        let now = self.queue.now();
        if frame.len() > MAX_FRAME_BYTES {
            return Err(format!("client {client} sends a frame of {} bytes", frame.len()));
        }
        let message = decode(frame).map_err(|error| format!("client {client} sends garbage: {error}"))?;
        let slot = &mut self.slots[client];
        if slot.driver.has_stopped() {
            return Err(format!("client {client} sends after Stop: {}", brief(&message)));
        }
        if slot.second != now / 1000 {
            (slot.second, slot.sent) = (now / 1000, 0);
        }
        slot.sent += 1;
        if slot.sent > MESSAGE_BURST + MESSAGES_PER_SECOND {
            return Err(format!("event storm: client {client} sends {} messages in a second", slot.sent));
        }
        Ok(())
    }

    fn connect(&mut self, client: usize) {
        let quality = self.plan.volunteers[client].quality;
        let conn = self.conns.len();
        let (up, down) = (Pipe::new(quality, self.rng.fork()), Pipe::new(quality, self.rng.fork()));
        self.conns.push(Conn { client, up, down, session: None, start: 0, relay_open: false });
        self.slots[client].conn = Some(conn);
        // TCP and WebSocket handshakes: two round trips.
        let wait = 1 + 4 * quality.delay_ms + self.rng.within(0..=quality.jitter_ms);
        self.queue.after(wait, Event::Accept { conn });
    }

    /// A link gets into trouble: it stalls one way or both, breaks, or is cut without anybody being told.
    pub(crate) fn trouble(&mut self) {
        if self.calm {
            return;
        }
        let every = self.plan.faults.trouble_every_ms.max(1);
        let wait = self.rng.within(1..=every * 2);
        self.queue.after(wait, Event::Trouble);
        let open: Vec<_> = (0..self.conns.len()).filter(|conn| self.conns[*conn].relay_open).collect();
        let Some(conn) = self.rng.pick(&open) else { return };
        let (now, kind) = (self.queue.now(), self.rng.below(6));
        let client = self.conns[conn].client;
        self.trace.note(now, b't', client as u64, &[kind as u8], || {
            let kinds =
                ["stalls upwards", "stalls downwards", "stalls", "breaks", "is cut", "is cut upwards"];
            format!("-- the link of client {client} {}", kinds[kind])
        });
        let until = now + self.rng.within(100..=30_000).min(self.plan.safety_ms.saturating_sub(now));
        let breaks = [now + self.rng.within(0..=2_000), now + self.rng.within(0..=2_000)];
        let link = &mut self.conns[conn];
        match kind {
            0 => link.up.stall(until),
            1 => link.down.stall(until),
            2 => {
                link.up.stall(until);
                link.down.stall(until);
            }
            3 => {
                let (at_relay, at_client) = (link.up.snap(breaks[0]), link.down.snap(breaks[1]));
                self.queue.at(at_relay, Event::Due { conn, side: Side::Relay });
                self.queue.at(at_client, Event::Due { conn, side: Side::Client });
            }
            4 => {
                link.up.vanish();
                link.down.vanish();
            }
            _ => link.up.vanish(),
        }
    }
}
