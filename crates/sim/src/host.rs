//! The relay process: carries out what the machine says through links, checks and store; dies and starts again.

use crate::evals::Writing;
use crate::link::{ConnId, Item, Side};
use crate::rounds::Open;
use crate::store::Pending;
use crate::trace::brief;
use crate::world::{Event, MAX_TICKS_PER_SECOND, World};
use potluck_mesh::tree::tree_of;
use potluck_proto::{
    BlobChunk, BlobMissing, BlobRequest, BlobTree, MeshSettings, Message, RejectReason, decode, encode,
};
use potluck_schedule::{Check, CheckVerdict, Config, Input, Output, Relay};
use potluck_types::limits::MAX_QUEUED_FRAMES;
use potluck_types::{BlobHash, DType, Duration, Instant, JobId, MatmulShape, SessionId};
use potluck_verify::{Params, Secret, Verdict, check_blob, check_bytes, probe_seed};
use std::collections::{BTreeMap, VecDeque};

/// The relay's public key, the same in all of its lives.
const RELAY: [u8; 32] = [0xfe; 32];

/// One life of the relay.
pub(crate) struct Host {
    pub(crate) relay: Relay,
    pub(crate) runs: BTreeMap<JobId, Open>,
    pub(crate) writing: Vec<Writing>,
    secret: Secret,
    sessions: BTreeMap<SessionId, ConnId>,
    next_session: u64,
    tick_at: Option<u64>,
    commit_due: bool,
    second: u64,
    ticks: u32,
}

impl World {
    /// Feeds the machine, and everything that follows at once.
    pub(crate) fn step(&mut self, input: Input) -> Result<(), String> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.queue.now();
            let Some(host) = &mut self.host else { return Ok(()) };
            self.watch.input(now, &input);
            let outputs = host.relay.step(Instant(now), input);
            for output in outputs {
                self.watch.output(now, &output, &self.products, &self.store)?;
                self.carry_out(output, &mut inputs)?;
            }
        }
        self.arm();
        Ok(())
    }

    fn arm(&mut self) {
        let start = self.start;
        let Some(host) = &mut self.host else { return };
        if let Some(Instant(at)) = host.relay.next_wake()
            && host.tick_at.is_none_or(|armed| at < armed)
        {
            host.tick_at = Some(at);
            self.queue.at(at, Event::Tick { start, at });
        }
    }

    pub(crate) fn tick(&mut self, start: u32, at: u64) -> Result<(), String> {
        let now = self.queue.now();
        let Some(host) = self.host.as_mut().filter(|host| self.start == start && host.tick_at == Some(at))
        else {
            return Ok(());
        };
        host.tick_at = None;
        if host.relay.next_wake().is_some_and(|wake| wake.0 <= now) {
            if host.second != now / 1000 {
                (host.second, host.ticks) = (now / 1000, 0);
            }
            host.ticks += 1;
            if host.ticks > MAX_TICKS_PER_SECOND {
                return Err(format!("event storm: the relay's timer fires {} times in a second", host.ticks));
            }
            self.trace.note(now, b'T', 0, &[], || "relay: timer".into());
            self.step(Input::Tick)?;
            let wake = self.host.as_ref().and_then(|host| host.relay.next_wake());
            if let Some(wake) = wake.filter(|wake| wake.0 <= now) {
                return Err(format!("the relay's timer does not advance: due at {} ms after a tick", wake.0));
            }
        }
        self.arm();
        Ok(())
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) -> Result<(), String> {
        let (now, start) = (self.queue.now(), self.start);
        match output {
            Output::Send { session, message } => self.send_down(session, &message, inputs),
            Output::SendChunk { session, request } => {
                let read_ms = self.rng.within(0..=3);
                self.queue.after(read_ms, Event::ChunkRead { start, session, request });
                Ok(())
            }
            Output::SendTree { session, hash } => {
                let read_ms = self.rng.within(0..=3);
                self.queue.after(read_ms, Event::TreeRead { start, session, hash });
                Ok(())
            }
            Output::AskPublic { session, blob } => {
                // Nothing of a simulated job is: its operands are its submitter's.
                inputs.push_back(Input::Public { session, blob, public: false });
                Ok(())
            }
            Output::MeshSettings { session } => {
                let settings = MeshSettings { servers: Vec::new(), valid_for: Duration::from_secs(3600) };
                self.send_down(session, &settings.into(), inputs)
            }
            Output::Close { session } => {
                let conn = self.host.as_mut().and_then(|host| host.sessions.remove(&session));
                if let Some(conn) = conn {
                    self.trace.note(now, b'C', session.0, &[], || format!("relay: closes session {session}"));
                    self.conns[conn].relay_open = false;
                    self.put(conn, Side::Client, Item::End);
                    // "Closed need not follow": both must do.
                    if self.rng.permille(500) {
                        inputs.push_back(Input::Closed { session });
                    }
                }
                Ok(())
            }
            Output::Check(check) => {
                let verdict = self.check(&check);
                let slowest = if self.calm { 20 } else { self.plan.faults.slow_check_ms };
                let takes = self.rng.within(1..=slowest.max(1));
                self.trace.note(now, b'K', check.ticket.0, &check.claim.hash.0, || {
                    format!("relay: checks ticket {}: {verdict:?}", check.ticket.0)
                });
                self.queue.after(takes, Event::Checked { start, ticket: check.ticket, verdict });
                Ok(())
            }
            Output::Store { ticket, tile, result, .. } => {
                self.trace.note(now, b'S', ticket.0, &tile.result.hash.0, || {
                    format!("relay: stores ticket {}: shard {} {:?}", ticket.0, tile.shard, tile.tile)
                });
                self.store.pending.push(Pending { ticket, tile, result });
                if let Some(host) = &mut self.host
                    && !host.commit_due
                {
                    host.commit_due = true;
                    let slowest = if self.calm { 10 } else { self.plan.faults.slow_store_ms };
                    self.queue.after(self.rng.within(1..=slowest.max(1)), Event::GroupCommit { start });
                }
                Ok(())
            }
            Output::Rejected { volunteer, reason, shard, .. } => {
                self.trace.note(now, b'R', u64::from(shard), &volunteer.0, || {
                    format!("relay: rejects shard {shard} of volunteer {volunteer:?}: {reason:?}")
                });
                self.store.records.entry(volunteer).or_default().rejected += 1;
                Ok(())
            }
            Output::Membership { volunteer, membership } => {
                self.trace.note(now, b'T', u64::from(membership.listed), &volunteer.0, || {
                    format!("relay: volunteer {volunteer:?} may be seen as {membership:?}")
                });
                Ok(())
            }
            Output::Run(output) => self.carry_out_run(output),
            Output::Eval(output) => self.carry_out_eval(output),
            Output::JobCompleted { job } => {
                self.trace.note(now, b'J', 0, &job.0, || format!("relay: job {job:?} is complete"));
                self.queue.after(self.rng.within(0..=200), Event::RecordCompleted { start, job });
                Ok(())
            }
        }
    }

    fn send_down(
        &mut self,
        session: SessionId,
        message: &Message,
        inputs: &mut VecDeque<Input>,
    ) -> Result<(), String> {
        let now = self.queue.now();
        let frame =
            encode(message).map_err(|error| format!("the relay's own message cannot be sent: {error}"))?;
        let Some(&conn) = self.host.as_ref().and_then(|host| host.sessions.get(&session)) else {
            return Ok(());
        };
        self.trace.note(now, b'<', session.0, &frame, || format!("session {session} <- {}", brief(message)));
        self.put(conn, Side::Client, Item::Frame(frame));
        if self.conns[conn].down.waiting(now) > MAX_QUEUED_FRAMES {
            self.trace.say(now, || format!("relay: session {session} reads too slowly"));
            self.drop_session(session);
            inputs.push_back(Input::Closed { session });
        }
        Ok(())
    }

    /// The adapter gives a connection up.
    fn drop_session(&mut self, session: SessionId) {
        if let Some(conn) = self.host.as_mut().and_then(|host| host.sessions.remove(&session)) {
            let at = self.queue.now() + 1;
            self.conns[conn].relay_open = false;
            let due = self.conns[conn].down.snap(at);
            self.queue.at(due, Event::Due { conn, side: Side::Client });
        }
    }

    pub(crate) fn chunk_read(
        &mut self,
        start: u32,
        session: SessionId,
        request: &BlobRequest,
    ) -> Result<(), String> {
        if !self.host.as_ref().is_some_and(|host| self.start == start && host.sessions.contains_key(&session))
        {
            return Ok(());
        }
        let unreadable = !self.calm && self.rng.permille(self.plan.faults.unreadable);
        let library = self.library();
        let blob = library.blob(&request.hash);
        let (from, to) = (request.offset as usize, request.offset as usize + request.bytes as usize);
        let data = blob.and_then(|blob| blob.get(from..to)).filter(|_| !unreadable);
        let message = match data {
            Some(data) => {
                BlobChunk { hash: request.hash, offset: request.offset, data: data.to_vec() }.into()
            }
            None => Message::from(BlobMissing { hash: request.hash }),
        };
        self.answer(session, &message)
    }

    /// A blob was read: its tree goes out.
    pub(crate) fn tree_read(
        &mut self,
        start: u32,
        session: SessionId,
        hash: &BlobHash,
    ) -> Result<(), String> {
        if !self.host.as_ref().is_some_and(|host| self.start == start && host.sessions.contains_key(&session))
        {
            return Ok(());
        }
        let unreadable = !self.calm && self.rng.permille(self.plan.faults.unreadable);
        let library = self.library();
        let message = match library.blob(hash).filter(|_| !unreadable) {
            Some(blob) => BlobTree { hash: *hash, groups: tree_of(blob) }.into(),
            None => Message::from(BlobMissing { hash: *hash }),
        };
        self.answer(session, &message)
    }

    fn answer(&mut self, session: SessionId, message: &Message) -> Result<(), String> {
        let mut inputs = VecDeque::new();
        self.send_down(session, message, &mut inputs)?;
        inputs.into_iter().try_for_each(|input| self.step(input))
    }

    /// What the real adapter does with a [`Check`]: length, hash, then the probabilistic check.
    fn check(&mut self, check: &Check) -> CheckVerdict {
        if !self.calm && self.rng.permille(self.plan.faults.undecided) {
            return CheckVerdict::Undecided;
        }
        let (Some(product), Some(host)) = (self.products.get(&check.job), &self.host) else {
            return CheckVerdict::Undecided;
        };
        if check.result.len() as u64 != check.claim.bytes {
            return CheckVerdict::Wrong(RejectReason::WrongLength);
        }
        if check_blob(&check.result, &check.claim.hash).is_err() {
            return CheckVerdict::Wrong(RejectReason::WrongHash);
        }
        let panels = |refs: &[potluck_proto::BlobRef]| -> Option<Vec<&[u8]>> {
            refs.iter().map(|panel| product.blobs.get(&panel.hash).map(|blob| blob.as_slice())).collect()
        };
        let (Some(a), Some(bt)) = (panels(&check.task.a), panels(&check.task.bt)) else {
            return CheckVerdict::Undecided;
        };
        let shape = MatmulShape { m: check.task.rows, k: check.task.depth, n: check.task.cols };
        let widen = f64::from(1u32 << check.widened.min(16));
        let base = Params::default();
        let params =
            Params { lambda: base.lambda * widen, lambda_blocked: base.lambda_blocked * widen, ..base };
        let task = potluck_verify::Product { dtype: check.task.dtype, shape, a: &a, bt: &bt };
        let blocked = check.task.dtype == DType::F32;
        let seed = probe_seed(&host.secret, &check.claim.hash);
        match check_bytes(&task, &check.result, &seed, &params, blocked) {
            Ok(report) => match report.verdict {
                Verdict::Accepted => CheckVerdict::Right { cleared_rows: report.flagged_rows },
                Verdict::Rejected(potluck_verify::RejectReason::WrongLength { .. }) => {
                    CheckVerdict::Wrong(RejectReason::WrongLength)
                }
                Verdict::Rejected(_) => CheckVerdict::Wrong(RejectReason::WrongProduct),
            },
            Err(_) => CheckVerdict::Undecided,
        }
    }

    pub(crate) fn group_commit(&mut self) -> Result<(), String> {
        let (now, start) = (self.queue.now(), self.start);
        if let Some(host) = &mut self.host {
            host.commit_due = false;
        }
        let durable = self.calm || !self.rng.permille(self.plan.faults.store_fails);
        let pending = std::mem::take(&mut self.store.pending);
        self.trace.note(now, b'G', pending.len() as u64, &[durable.into()], || {
            format!("store: group commit of {}, durable: {durable}", pending.len())
        });
        for pending in pending {
            let ticket = pending.ticket;
            if durable {
                self.write(pending)?;
            }
            let later = self.rng.within(0..=3);
            self.queue.after(later, Event::StoreAck { start, ticket, durable });
        }
        Ok(())
    }

    fn write(&mut self, pending: Pending) -> Result<(), String> {
        let product = self.products.get(&pending.tile.job).ok_or("a result of an unknown job is stored")?;
        self.store.write(product, pending.tile, pending.result)
    }

    pub(crate) fn record_completed(&mut self, job: JobId) {
        let rows = self.store.jobs.entry(job).or_default();
        rows.completed = !rows.canceled;
        self.trace.note(self.queue.now(), b'D', 0, &job.0, || {
            format!("store: job {job:?} is recorded as complete")
        });
        self.look_whether_done();
    }

    pub(crate) fn submit(&mut self, job: usize) -> Result<(), String> {
        let id = self.job_ids[job];
        if self.host.is_none() {
            // Nobody answers; the submitter tries again.
            self.queue.after(700, Event::Submit { job });
            return Ok(());
        }
        let rows = self.store.jobs.entry(id).or_default();
        if rows.canceled {
            return Ok(());
        }
        self.submitted.push(id);
        let spec = self.products[&id].spec.clone();
        self.trace.note(self.queue.now(), b'+', job as u64, &id.0, || {
            format!("submitter: job {id:?} {} in {} units", spec.name, spec.grid.unit_count())
        });
        self.step(Input::JobAdded { job: spec, accepted: Vec::new() })
    }

    pub(crate) fn cancel(&mut self, job: usize) -> Result<(), String> {
        let id = self.job_ids[job];
        if self.host.is_none() {
            self.queue.after(400, Event::Cancel { job });
            return Ok(());
        }
        let rows = self.store.jobs.entry(id).or_default();
        if !rows.completed {
            rows.canceled = true;
            self.trace
                .note(self.queue.now(), b'-', job as u64, &id.0, || format!("submitter: cancels {id:?}"));
            self.step(Input::JobCanceled { job: id })?;
        }
        self.look_whether_done();
        Ok(())
    }

    pub(crate) fn accept(&mut self, conn: ConnId) -> Result<(), String> {
        let now = self.queue.now();
        let client = self.conns[conn].client;
        let honest = self.is_honest(client);
        let Some(host) = &mut self.host else {
            let due = self.conns[conn].down.snap(now + 1);
            self.queue.at(due, Event::Due { conn, side: Side::Client });
            return Ok(());
        };
        let session = SessionId(host.next_session);
        host.next_session += 1;
        host.sessions.insert(session, conn);
        let link = &mut self.conns[conn];
        (link.session, link.start, link.relay_open) = (Some(session), self.start, true);
        self.trace
            .note(now, b'O', session.0, &[], || format!("relay: client {client} opens session {session}"));
        let holds = self.slots[client].driver.id();
        self.watch.opened(session, honest, holds);
        self.put(conn, Side::Client, Item::Start);
        self.step(Input::Opened { session, address: None })
    }

    pub(crate) fn relay_receives(&mut self, conn: ConnId) -> Result<(), String> {
        loop {
            let now = self.queue.now();
            let link = &mut self.conns[conn];
            let item = match link.up.receive(now) {
                Ok(item) => item,
                Err(Some(due)) => {
                    self.queue.at(due, Event::Due { conn, side: Side::Relay });
                    return Ok(());
                }
                Err(None) => return Ok(()),
            };
            let Some(session) = link.session.filter(|_| link.relay_open && link.start == self.start) else {
                continue;
            };
            match item {
                Item::Start => {}
                Item::Frame(frame) => {
                    let decoded = decode(&frame);
                    self.trace.note(now, b'>', session.0, &frame, || match &decoded {
                        Ok(message) => format!("session {session} -> {}", brief(message)),
                        Err(error) => format!("session {session} -> garbage: {error}"),
                    });
                    if let Ok(Message::Hello(hello)) = &decoded
                        && self.slots[self.conns[conn].client].driver.is_engine()
                    {
                        self.overheard = Some(hello.clone());
                    }
                    match decoded {
                        Ok(message) => self.step(Input::Message { session, message })?,
                        Err(error) => self.step(Input::Undecodable { session, error })?,
                    }
                }
                Item::End => {
                    self.trace.note(now, b'X', session.0, &[], || format!("session {session} ended"));
                    self.conns[conn].relay_open = false;
                    if let Some(host) = &mut self.host {
                        host.sessions.remove(&session);
                    }
                    self.step(Input::Closed { session })?;
                }
            }
        }
    }

    /// Kill -9: what was in memory is gone; what was on its way to the disk is there or not, as a whole.
    pub(crate) fn crash(&mut self, down_ms: u64) -> Result<(), String> {
        if self.host.is_none() {
            return Ok(());
        }
        let now = self.queue.now();
        let polite = self.rng.permille(self.plan.faults.polite);
        if polite {
            self.step(Input::ShuttingDown)?;
        }
        self.crashes += 1;
        self.trace.note(now, b'!', down_ms, &[polite.into()], || {
            format!("-- the relay is {} for {down_ms} ms", if polite { "stopped" } else { "killed" })
        });
        self.lose_runs()?;
        self.lose_evals()?;
        self.host = None;
        self.watch.relay_died();
        let pending = std::mem::take(&mut self.store.pending);
        if self.rng.permille(500) {
            pending.into_iter().try_for_each(|pending| self.write(pending))?;
        }
        for conn in 0..self.conns.len() {
            if !std::mem::replace(&mut self.conns[conn].relay_open, false) {
                continue;
            }
            if self.rng.permille(850) {
                let at = now + self.rng.within(0..=500);
                let due = self.conns[conn].down.snap(at);
                self.queue.at(due, Event::Due { conn, side: Side::Client });
            } else {
                self.conns[conn].down.vanish();
            }
        }
        self.queue.after(down_ms, Event::Restart);
        Ok(())
    }

    pub(crate) fn restart(&mut self) -> Result<(), String> {
        if self.host.is_some() {
            return Ok(());
        }
        let now = self.queue.now();
        self.start += 1;
        let mut config = Config::new(self.rng.bytes(), self.start, RELAY);
        (self.options.configure)(&mut config);
        self.trace.note(now, b'*', u64::from(self.start), &[], || {
            format!("-- the relay starts, number {}", self.start)
        });
        self.host = Some(Host {
            relay: Relay::new(config),
            runs: BTreeMap::new(),
            writing: Vec::new(),
            secret: Secret(self.rng.bytes()),
            sessions: BTreeMap::new(),
            next_session: 1,
            tick_at: None,
            commit_due: false,
            second: 0,
            ticks: 0,
        });
        let records: Vec<_> = self.store.records.iter().map(|(id, record)| (*id, *record)).collect();
        for (volunteer, record) in records {
            self.step(Input::VolunteerKnown { volunteer, record })?;
        }
        for id in self.submitted.clone() {
            let rows = self.store.jobs.entry(id).or_default();
            if rows.canceled || rows.completed {
                continue;
            }
            let accepted: Vec<_> = rows.tiles.iter().map(|(tile, _)| tile.clone()).collect();
            let durable = rows.durable_units();
            let spec = self.products[&id].spec.clone();
            self.step(Input::JobAdded { job: spec, accepted })?;
            let progress = self.host.as_ref().and_then(|host| host.relay.progress(&id));
            if progress.is_none_or(|progress| u64::from(progress.accepted) != durable) {
                return Err(format!(
                    "after a restart job {id:?} has {progress:?}, durable are {durable} units"
                ));
            }
        }
        self.find_runs()?;
        self.find_evals()
    }

    /// Everybody leaves and what is on its way ends: nothing may be left in the relay's memory.
    pub(crate) fn drain(&mut self) -> Result<(), String> {
        let sessions: Vec<_> = self.host.iter().flat_map(|host| host.sessions.keys().copied()).collect();
        for session in sessions {
            self.drop_session(session);
            self.step(Input::Closed { session })?;
        }
        while self.host.as_ref().is_some_and(|host| host.relay.totals().result_bytes > 0) {
            let start = self.start;
            match self.queue.pop() {
                Some(Event::Checked { start: of, ticket, verdict }) if of == start => {
                    self.step(Input::Checked { ticket, verdict })?;
                }
                Some(Event::GroupCommit { start: of }) if of == start => self.group_commit()?,
                Some(Event::StoreAck { start: of, ticket, durable }) if of == start => {
                    self.step(if durable {
                        Input::Stored { ticket }
                    } else {
                        Input::StoreFailed { ticket }
                    })?;
                }
                Some(_) => {}
                None => return Err("result bytes stay in memory although nothing is on its way".into()),
            }
        }
        let totals = self.host.as_ref().map(|host| host.relay.totals()).unwrap_or_default();
        if totals.sessions + totals.leases + totals.consenting + totals.result_bytes > 0 {
            return Err(format!("everybody left, and the relay still holds {totals:?}"));
        }
        Ok(())
    }
}
