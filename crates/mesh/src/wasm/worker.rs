//! The Worker's half: what the engine talks to.

use super::Post;
use super::messages::{self, Server, Signal, ToPage, ToWorker};
use super::pipe;
use crate::io::{LinkAction, LinkEvent, Links, SEND_LOW_BYTES};
use js_sys::{Array, ArrayBuffer, Uint8Array};
use potluck_proto::LinkPath;
use potluck_types::LinkId;
use potluck_types::limits::MAX_PEER_FRAME_BYTES;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use wasm_bindgen::prelude::Closure;
use wasm_bindgen::{JsCast as _, JsValue};
use web_sys::{MessageEvent, MessagePort, RtcDataChannel, RtcDataChannelState, RtcDataChannelType};

/// Frames that may come before a channel says that it is open: the other end says hello twice a second, and little else
/// until it is heard.
const MAX_EARLY: usize = 16;

/// Links whose connections [`PageLinks`](super::PageLinks) makes on the page's thread. A handle: clones are the same.
#[derive(Clone)]
pub struct WorkerLinks(Rc<Worker>);

struct Worker {
    post: Post,
    hear: Box<dyn Fn(LinkEvent)>,
    /// A handful at most.
    links: RefCell<Vec<Link>>,
    /// Connections so far.
    connections: Cell<u32>,
}

/// A link, as long as it has a connection.
struct Link {
    id: LinkId,
    connection: u32,
    channel: Option<Channel>,
    opened: bool,
    /// Frames that came before the channel said that it is open: until then it takes none.
    early: Vec<Vec<u8>>,
}

enum Channel {
    Direct(Direct),
    Piped(Piped),
}

impl WorkerLinks {
    /// No links yet. `post` passes a message to the page; `hear` is called with every event, also before an action
    /// returns.
    pub fn new(
        post: impl Fn(&JsValue, &Array) -> Result<(), JsValue> + 'static,
        hear: impl Fn(LinkEvent) + 'static,
    ) -> Self {
        Self(Rc::new(Worker {
            post: Box::new(post),
            hear: Box::new(hear),
            links: RefCell::default(),
            connections: Cell::new(0),
        }))
    }

    /// Takes in a message of the page.
    pub fn take(&self, message: &JsValue) {
        let Some((says, carried)) = messages::read::<ToWorker>(message) else { return };
        let worker = &self.0;
        match says {
            ToWorker::Signal { connection, signal: Signal { attempt, what, body } } => {
                worker.hear(connection, |link| LinkEvent::Signal { link, attempt, kind: what, body });
            }
            ToWorker::Channel { connection } => Worker::connect(worker, connection, carried),
            ToWorker::Path { connection, turn } => {
                let path = if turn { LinkPath::Turn } else { LinkPath::Direct };
                worker.hear(connection, |link| LinkEvent::Path { link, path });
            }
            ToWorker::Interrupted { connection } => {
                worker.hear(connection, |link| LinkEvent::Interrupted { link });
            }
            ToWorker::Restored { connection } => {
                worker.hear(connection, |link| LinkEvent::Restored { link });
            }
            ToWorker::Failed { connection } => worker.fail(connection),
        }
    }
}

impl Links for WorkerLinks {
    fn carry_out(&mut self, action: LinkAction) {
        self.0.carry_out(action);
    }
}

impl Worker {
    fn carry_out(&self, action: LinkAction) {
        match action {
            LinkAction::Open { link, attempt, offers, servers } => {
                self.close(link);
                let connection = self.connections.get() + 1;
                self.connections.set(connection);
                self.links.borrow_mut().push(Link {
                    id: link,
                    connection,
                    channel: None,
                    opened: false,
                    early: Vec::new(),
                });
                let servers = servers.iter().map(Server::from).collect();
                self.say(&ToPage::Open { connection, attempt, offers, servers });
            }
            LinkAction::Signal { link, attempt, kind, body } => {
                if let Some(connection) = self.connection(link) {
                    let signal = Signal { attempt, what: kind, body };
                    self.say(&ToPage::Signal { connection, signal });
                }
            }
            LinkAction::Restart { link, attempt, servers } => {
                if let Some(connection) = self.connection(link) {
                    let servers = servers.iter().map(Server::from).collect();
                    self.say(&ToPage::Restart { connection, attempt, servers });
                }
            }
            LinkAction::Send { link, frame } => {
                let links = self.links.borrow();
                let found = links.iter().find(|found| found.id == link && found.opened);
                let Some((connection, channel)) =
                    found.and_then(|found| Some((found.connection, found.channel.as_ref()?)))
                else {
                    return;
                };
                let (sent, drained) = match channel {
                    Channel::Direct(direct) => (direct.send(&frame), direct.drained()),
                    Channel::Piped(piped) => (piped.send(&frame), None),
                };
                drop(links);
                if !sent {
                    self.fail(connection);
                } else if let Some(buffered) = drained {
                    self.drained(connection, buffered);
                }
            }
            LinkAction::Close { link } => self.close(link),
        }
    }

    fn say(&self, message: &ToPage) {
        messages::say(&self.post, message);
    }

    fn connection(&self, link: LinkId) -> Option<u32> {
        self.links.borrow().iter().find(|found| found.id == link).map(|found| found.connection)
    }

    /// Says something about a connection that is still there.
    fn hear(&self, connection: u32, event: impl FnOnce(LinkId) -> LinkEvent) {
        let link =
            self.links.borrow().iter().find(|found| found.connection == connection).map(|found| found.id);
        if let Some(link) = link {
            (self.hear)(event(link));
        }
    }

    /// Forgets a connection; the link that it was of, if it was still there.
    fn forget(&self, connection: u32) -> Option<LinkId> {
        let mut links = self.links.borrow_mut();
        let at = links.iter().position(|found| found.connection == connection)?;
        let removed = links.swap_remove(at);
        drop(links);
        self.say(&ToPage::Close { connection });
        Some(removed.id)
    }

    fn close(&self, link: LinkId) {
        if let Some(connection) = self.connection(link) {
            self.forget(connection);
        }
    }

    fn fail(&self, connection: u32) {
        if let Some(link) = self.forget(connection) {
            (self.hear)(LinkEvent::Failed { link });
        }
    }

    /// A connection has its channel.
    fn connect(this: &Rc<Self>, connection: u32, carried: JsValue) {
        let weak = Rc::downgrade(this);
        let channel = match carried.dyn_into::<MessagePort>() {
            Ok(port) => Channel::Piped(Piped::new(weak, connection, port)),
            Err(carried) => {
                // Not asked what it is: browsers whose Workers do not know the class transfer none.
                Channel::Direct(Direct::new(weak, connection, carried.unchecked_into()))
            }
        };
        let open = matches!(&channel, Channel::Direct(direct) if direct.is_open());
        let mut links = this.links.borrow_mut();
        // What belongs to no connection any more is closed.
        let Some(link) = links.iter_mut().find(|found| found.connection == connection) else { return };
        link.channel = Some(channel);
        drop(links);
        if open {
            this.opened(connection);
        }
    }

    fn opened(&self, connection: u32) {
        let first = {
            let mut links = self.links.borrow_mut();
            let found = links.iter_mut().find(|found| found.connection == connection);
            found.is_some_and(|link| !std::mem::replace(&mut link.opened, true))
        };
        if !first {
            return;
        }
        self.hear(connection, |link| LinkEvent::Opened { link });
        let early = {
            let mut links = self.links.borrow_mut();
            let found = links.iter_mut().find(|found| found.connection == connection);
            found.map(|link| std::mem::take(&mut link.early)).unwrap_or_default()
        };
        for frame in early {
            self.hear(connection, |link| LinkEvent::Frame { link, frame });
        }
    }

    fn received(&self, connection: u32, data: &JsValue) {
        let is_open =
            |channel: &Option<Channel>| matches!(channel, Some(Channel::Direct(direct)) if direct.is_open());
        let open = {
            let links = self.links.borrow();
            links.iter().any(|found| found.connection == connection && is_open(&found.channel))
        };
        if open {
            self.opened(connection);
        }
        {
            let mut links = self.links.borrow_mut();
            let Some(found) = links.iter_mut().find(|found| found.connection == connection) else { return };
            // In a Worker a message may come before the channel is open and takes any itself.
            if !found.opened {
                if found.early.len() < MAX_EARLY {
                    found.early.push(bytes(data));
                    return;
                }
                // The channel is reliable: nothing of it may be left out.
                drop(links);
                return self.fail(connection);
            }
        }
        self.hear(connection, |link| LinkEvent::Frame { link, frame: bytes(data) });
    }

    fn drained(&self, connection: u32, buffered: u64) {
        self.hear(connection, |link| LinkEvent::Drained { link, buffered });
    }
}

/// A message's bytes. Empty for what is no buffer, and for one that is longer than any frame: both are refused alike.
fn bytes(data: &JsValue) -> Vec<u8> {
    match data.dyn_ref::<ArrayBuffer>() {
        Some(buffer) if buffer.byte_length() as usize <= MAX_PEER_FRAME_BYTES => {
            Uint8Array::new(buffer).to_vec()
        }
        _ => Vec::new(),
    }
}

/// A channel that was transferred. Dropping it closes the channel, and nothing of it is heard any more.
struct Direct {
    channel: RtcDataChannel,
    believed: Rc<Believed>,
    _opened: Closure<dyn Fn()>,
    _received: Closure<dyn Fn(MessageEvent)>,
    _drained: Closure<dyn Fn()>,
    _closed: Closure<dyn Fn()>,
}

impl Direct {
    fn new(worker: Weak<Worker>, connection: u32, channel: RtcDataChannel) -> Self {
        channel.set_binary_type(RtcDataChannelType::Arraybuffer);
        channel.set_buffered_amount_low_threshold(SEND_LOW_BYTES as u32);
        let links = worker.clone();
        let opened = Closure::<dyn Fn()>::new(move || {
            if let Some(links) = links.upgrade() {
                links.opened(connection);
            }
        });
        let links = worker.clone();
        let received = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            if let Some(links) = links.upgrade() {
                links.received(connection, &event.data());
            }
        });
        let believed = Rc::<Believed>::default();
        let (links, from, known) = (worker.clone(), channel.clone(), Rc::clone(&believed));
        let drained = Closure::<dyn Fn()>::new(move || {
            // More may have been sent since; then this comes again.
            if let (Some(links), Some(buffered)) =
                (links.upgrade(), known.drained(from.buffered_amount().into()))
            {
                links.drained(connection, buffered);
            }
        });
        let closed = Closure::<dyn Fn()>::new(move || {
            if let Some(links) = worker.upgrade() {
                links.fail(connection);
            }
        });
        channel.set_onopen(Some(opened.as_ref().unchecked_ref()));
        channel.set_onmessage(Some(received.as_ref().unchecked_ref()));
        channel.set_onbufferedamountlow(Some(drained.as_ref().unchecked_ref()));
        channel.set_onclose(Some(closed.as_ref().unchecked_ref()));
        Self { channel, believed, _opened: opened, _received: received, _drained: drained, _closed: closed }
    }

    fn is_open(&self) -> bool {
        self.channel.ready_state() == RtcDataChannelState::Open
    }

    /// `false` if the channel takes no more.
    fn send(&self, frame: &[u8]) -> bool {
        self.believed.send(frame.len());
        self.channel.send_with_u8_array(frame).is_ok()
    }

    /// What the channel holds, if that is to be told now: the browser tells only where it once held more than the
    /// threshold, and small messages never add up to that.
    fn drained(&self) -> Option<u64> {
        self.believed.drained(self.channel.buffered_amount().into())
    }
}

/// Bytes that the machine believes the channel to hold: what it was told last, and what was sent since.
#[derive(Default)]
struct Believed(Cell<u64>);

impl Believed {
    fn send(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }

    /// Whether to tell that the channel holds so many.
    fn drained(&self, buffered: u64) -> Option<u64> {
        let told = self.0.get() > SEND_LOW_BYTES && buffered <= SEND_LOW_BYTES;
        told.then(|| {
            self.0.set(buffered);
            buffered
        })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.channel.set_onopen(None);
        self.channel.set_onmessage(None);
        self.channel.set_onbufferedamountlow(None);
        self.channel.set_onclose(None);
        self.channel.close();
    }
}

/// The Worker's end of a [`Pipe`](super::pipe::Pipe). Dropping it closes the port.
struct Piped {
    port: MessagePort,
    bytes: Rc<Bytes>,
    _heard: Closure<dyn Fn(MessageEvent)>,
}

/// Bytes that went through a port.
#[derive(Default)]
struct Bytes {
    /// Into the port.
    sent: Cell<u64>,
    /// Out of the channel at its other end, as that told last.
    left: Cell<u64>,
    believed: Believed,
}

impl Bytes {
    fn buffered(&self) -> u64 {
        self.sent.get().saturating_sub(self.left.get())
    }

    fn send(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
        self.believed.send(bytes);
    }

    /// What is on its way, if that is to be told now.
    fn leave(&self, left: u64) -> Option<u64> {
        self.left.set(left);
        self.believed.drained(self.buffered())
    }
}

impl Piped {
    fn new(worker: Weak<Worker>, connection: u32, port: MessagePort) -> Self {
        let bytes = Rc::<Bytes>::default();
        let counted = Rc::clone(&bytes);
        let heard = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            let Some(links) = worker.upgrade() else { return };
            let data = event.data();
            if let Some(left) = data.as_f64() {
                if let Some(buffered) = counted.leave(left as u64) {
                    links.drained(connection, buffered);
                }
            } else if let Some(open) = data.as_bool() {
                if open {
                    links.opened(connection);
                } else {
                    links.fail(connection);
                }
            } else {
                links.received(connection, &data);
            }
        });
        port.set_onmessage(Some(heard.as_ref().unchecked_ref()));
        Self { port, bytes, _heard: heard }
    }

    /// Always takes it: one that is too much closes the channel at the other end of the port.
    fn send(&self, frame: &[u8]) -> bool {
        self.bytes.send(frame.len());
        // A copy, which leaves for good.
        pipe::post(&self.port, &Uint8Array::from(frame).buffer());
        true
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        self.port.set_onmessage(None);
        self.port.close();
    }
}
