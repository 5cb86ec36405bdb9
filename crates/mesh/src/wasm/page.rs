//! The page's half: owns the connections.

use super::Post;
use super::messages::{self, Server, Signal, ToPage, ToWorker};
use super::pipe::Pipe;
use crate::io::CHANNEL_LABEL;
use js_sys::{Array, Function, Promise, Reflect};
use potluck_proto::SignalKind;
use potluck_types::limits::MAX_CANDIDATES;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use wasm_bindgen::prelude::Closure;
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    EventTarget, MessageChannel, RtcConfiguration, RtcDataChannel, RtcDataChannelEvent, RtcIceCandidateInit,
    RtcIceConnectionState, RtcIceGatheringState, RtcOfferOptions, RtcPeerConnection,
    RtcPeerConnectionIceEvent, RtcPeerConnectionState, RtcSdpType, RtcSessionDescriptionInit, RtcStatsReport,
};

/// An event that only some browsers have, on the transport under a connection.
const PAIR_CHANGE: &str = "selectedcandidatepairchange";

/// Connections on the page's thread, for [`WorkerLinks`](super::WorkerLinks). Dropping it closes them all.
pub struct PageLinks(Rc<Page>);

struct Page {
    post: Post,
    connections: RefCell<BTreeMap<u32, Rc<Connection>>>,
}

impl PageLinks {
    /// No connections yet. `post` passes a message to the Worker; where the browser cannot transfer a channel it fails,
    /// as the Worker's `postMessage` does.
    pub fn new(post: impl Fn(&JsValue, &Array) -> Result<(), JsValue> + 'static) -> Self {
        Self(Rc::new(Page { post: Box::new(post), connections: RefCell::default() }))
    }

    /// Takes in a message of the Worker.
    pub fn take(&self, message: &JsValue) {
        let Some((says, _)) = messages::read::<ToPage>(message) else { return };
        match says {
            ToPage::Open { connection, attempt, offers, servers } => {
                match Connection::open(&self.0, connection, attempt, offers, &servers) {
                    Ok(opened) => drop(self.0.connections.borrow_mut().insert(connection, opened)),
                    Err(_) => self.0.say(&ToWorker::Failed { connection }),
                }
            }
            ToPage::Signal { connection, signal } => {
                if let Some(found) = self.0.find(connection) {
                    found.signal(signal);
                }
            }
            ToPage::Restart { connection, attempt, servers } => {
                if let Some(found) = self.0.find(connection) {
                    found.restart(attempt, &servers);
                }
            }
            ToPage::Close { connection } => self.0.close(connection),
        }
    }

    /// Connections that there are.
    pub fn len(&self) -> usize {
        self.0.connections.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for PageLinks {
    fn drop(&mut self) {
        for connection in self.0.connections.take().into_values() {
            connection.close();
        }
    }
}

impl Page {
    fn say(&self, message: &ToWorker) {
        messages::say(&self.post, message);
    }

    fn find(&self, connection: u32) -> Option<Rc<Connection>> {
        self.connections.borrow().get(&connection).cloned()
    }

    fn close(&self, connection: u32) {
        let removed = self.connections.borrow_mut().remove(&connection);
        if let Some(removed) = removed {
            removed.close();
        }
    }
}

/// Something that takes a while: one at a time, in order.
enum Job {
    Offer { attempt: u32, restart: bool },
    Description { attempt: u32, what: RtcSdpType, sdp: String },
    Candidate { attempt: u32, text: String },
}

/// The other end's description of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Remote {
    #[default]
    Missing,
    Here,
    /// Taken in. Until then candidates wait.
    Settled,
}

/// Where signaling stands.
#[derive(Default)]
struct Talk {
    attempt: u32,
    jobs: VecDeque<Job>,
    working: bool,
    remote: Remote,
    /// Candidates that wait.
    early: Vec<String>,
    /// Candidates of this attempt that came.
    received: usize,
    /// Candidates of this attempt that were sent.
    sent: usize,
    /// Whether the other end knows that there are no more.
    ended: bool,
    /// What this end's candidates of this attempt are marked with. `None` before there can be any.
    fragment: Option<String>,
}

impl Talk {
    /// Forgets what belongs to an older attempt.
    fn begin(&mut self, attempt: u32) {
        *self = Self { attempt, working: self.working, ..Self::default() };
    }

    /// A description came. `None` if there was one.
    fn described(&mut self, what: RtcSdpType, sdp: String) -> Option<Job> {
        let is_first = self.remote == Remote::Missing;
        self.remote = if is_first { Remote::Here } else { self.remote };
        is_first.then_some(Job::Description { attempt: self.attempt, what, sdp })
    }
}

struct Connection {
    number: u32,
    page: Weak<Page>,
    peer: RtcPeerConnection,
    offers: bool,
    talk: RefCell<Talk>,
    /// Whether the one channel is there.
    has_channel: Cell<bool>,
    pipe: RefCell<Option<Pipe>>,
    interrupted: Cell<bool>,
    connected: Cell<bool>,
    /// Whether it runs through a TURN server, as it was told last.
    turn: Cell<Option<bool>>,
    /// Resolved when the connection closes: whoever waits for it then goes.
    closed: Promise,
    close: OnceCell<Function>,
    is_closed: Cell<bool>,
    listeners: RefCell<Option<Listeners>>,
}

/// Kept alive as long as the connection may call them.
struct Listeners {
    _candidate: Closure<dyn Fn(RtcPeerConnectionIceEvent)>,
    _channel: Closure<dyn Fn(RtcDataChannelEvent)>,
    _connection: Closure<dyn Fn()>,
    _ice: Closure<dyn Fn()>,
    pair: Closure<dyn Fn()>,
    /// What `pair` listens to, once there is such a thing.
    transport: Option<EventTarget>,
}

fn configuration(servers: &[Server]) -> Result<RtcConfiguration, JsValue> {
    let configuration = RtcConfiguration::new();
    configuration.set_ice_servers(&serde_wasm_bindgen::to_value(servers)?);
    Ok(configuration)
}

/// What a closed connection gives to who waits for it, and what a failed one gives.
enum Ended {
    Closed,
    Failed,
}

impl From<JsValue> for Ended {
    fn from(_: JsValue) -> Self {
        Self::Failed
    }
}

impl Connection {
    fn open(
        page: &Rc<Page>,
        number: u32,
        attempt: u32,
        offers: bool,
        servers: &[Server],
    ) -> Result<Rc<Self>, JsValue> {
        let peer = RtcPeerConnection::new_with_configuration(&configuration(servers)?)?;
        let close = OnceCell::new();
        let closed = Promise::new(&mut |resolve, _| drop(close.set(resolve)));
        let this = Rc::new(Self {
            number,
            page: Rc::downgrade(page),
            peer,
            offers,
            talk: RefCell::new(Talk { attempt, ..Talk::default() }),
            has_channel: Cell::new(offers),
            pipe: RefCell::default(),
            interrupted: Cell::default(),
            connected: Cell::default(),
            turn: Cell::default(),
            closed,
            close,
            is_closed: Cell::default(),
            listeners: RefCell::default(),
        });
        this.listen();
        if offers {
            // Reliable and in order, as channels are unless one asks for less.
            let channel = this.peer.create_data_channel(CHANNEL_LABEL);
            // At once: a channel that has been used cannot be transferred.
            this.hand_over(channel);
            this.push(Job::Offer { attempt, restart: false });
        }
        Ok(this)
    }

    fn listen(self: &Rc<Self>) {
        let listener = |act: fn(&Rc<Self>)| {
            let this = Rc::downgrade(self);
            Closure::<dyn Fn()>::new(move || {
                if let Some(this) = this.upgrade() {
                    act(&this);
                }
            })
        };
        let this = Rc::downgrade(self);
        let candidate =
            Closure::<dyn Fn(RtcPeerConnectionIceEvent)>::new(move |event: RtcPeerConnectionIceEvent| {
                if let Some(this) = this.upgrade() {
                    this.found(&event);
                }
            });
        let this = Rc::downgrade(self);
        let channel = Closure::<dyn Fn(RtcDataChannelEvent)>::new(move |event: RtcDataChannelEvent| {
            let channel = event.channel();
            match this.upgrade() {
                Some(this) if channel.label() == CHANNEL_LABEL && !this.has_channel.replace(true) => {
                    this.hand_over(channel);
                }
                // Nobody asked for it.
                _ => channel.close(),
            }
        });
        let connection = listener(|this| {
            if this.peer.connection_state() == RtcPeerConnectionState::Failed {
                this.fail();
            }
        });
        let ice = listener(Self::ice_changed);
        let pair = listener(Self::look);
        self.peer.set_onicecandidate(Some(candidate.as_ref().unchecked_ref()));
        self.peer.set_ondatachannel(Some(channel.as_ref().unchecked_ref()));
        self.peer.set_onconnectionstatechange(Some(connection.as_ref().unchecked_ref()));
        self.peer.set_oniceconnectionstatechange(Some(ice.as_ref().unchecked_ref()));
        *self.listeners.borrow_mut() = Some(Listeners {
            _candidate: candidate,
            _channel: channel,
            _connection: connection,
            _ice: ice,
            pair,
            transport: None,
        });
    }

    fn say(&self, message: &ToWorker) {
        if let Some(page) = self.page.upgrade() {
            page.say(message);
        }
    }

    /// Ends it without a word. Again is harmless.
    fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        self.peer.set_onicecandidate(None);
        self.peer.set_ondatachannel(None);
        self.peer.set_onconnectionstatechange(None);
        self.peer.set_oniceconnectionstatechange(None);
        if let Some(Listeners { pair, transport: Some(transport), .. }) = self.listeners.take() {
            // It takes any type of event.
            drop(transport.remove_event_listener_with_callback(PAIR_CHANGE, pair.as_ref().unchecked_ref()));
        }
        drop(self.pipe.take());
        self.peer.close();
        self.talk.borrow_mut().jobs.clear();
        if let Some(close) = self.close.get() {
            // The resolver of a promise throws nothing.
            drop(close.call0(&JsValue::NULL));
        }
    }

    fn fail(&self) {
        let Some(page) = self.page.upgrade() else { return };
        if !self.is_closed.get() {
            page.say(&ToWorker::Failed { connection: self.number });
            page.close(self.number);
            // It may not be in the list yet.
            self.close();
        }
    }

    /// Gives the channel to the Worker: itself where browsers can, else its messages.
    fn hand_over(&self, channel: RtcDataChannel) {
        let Some(page) = self.page.upgrade() else { return };
        let message = ToWorker::Channel { connection: self.number };
        if messages::carry(&page.post, &message, &channel).is_ok() {
            return;
        }
        let Ok(ports) = MessageChannel::new() else { return self.fail() };
        if messages::carry(&page.post, &message, &ports.port2()).is_err() {
            return self.fail();
        }
        *self.pipe.borrow_mut() = Some(Pipe::new(channel, ports.port1()));
    }

    /// A signal of the other end. What belongs to another attempt, or comes twice, is nothing.
    fn signal(self: &Rc<Self>, Signal { attempt, what, body }: Signal) {
        let job = {
            let talk = &mut *self.talk.borrow_mut();
            match what {
                SignalKind::Offer if !self.offers && attempt >= talk.attempt => {
                    if attempt > talk.attempt {
                        talk.begin(attempt);
                    }
                    talk.described(RtcSdpType::Offer, body)
                }
                SignalKind::Answer if self.offers && attempt == talk.attempt => {
                    talk.described(RtcSdpType::Answer, body)
                }
                SignalKind::Candidate if attempt == talk.attempt && talk.received < MAX_CANDIDATES => {
                    talk.received += 1;
                    if talk.remote == Remote::Settled {
                        Some(Job::Candidate { attempt, text: body })
                    } else {
                        talk.early.push(body);
                        None
                    }
                }
                _ => None,
            }
        };
        if let Some(job) = job {
            self.push(job);
        }
    }

    fn restart(self: &Rc<Self>, attempt: u32, servers: &[Server]) {
        if !self.offers {
            return;
        }
        self.talk.borrow_mut().begin(attempt);
        let configured =
            configuration(servers).and_then(|all| self.peer.set_configuration_with_configuration(&all));
        match configured {
            Ok(()) => self.push(Job::Offer { attempt, restart: true }),
            Err(_) => self.fail(),
        }
    }

    fn push(self: &Rc<Self>, job: Job) {
        let idle = {
            let mut talk = self.talk.borrow_mut();
            talk.jobs.push_back(job);
            !std::mem::replace(&mut talk.working, true)
        };
        if idle {
            let this = Rc::clone(self);
            spawn_local(async move { this.work().await });
        }
    }

    async fn work(&self) {
        loop {
            let job = {
                let mut talk = self.talk.borrow_mut();
                let job = talk.jobs.pop_front();
                talk.working = job.is_some();
                job
            };
            let Some(job) = job else { return };
            match self.carry_out(job).await {
                Ok(()) => {}
                Err(Ended::Closed) => return,
                Err(Ended::Failed) => return self.fail(),
            }
        }
    }

    /// Waits for a promise, but no longer than the connection lasts.
    async fn until_closed(&self, promise: Promise) -> Result<JsValue, Ended> {
        let first = JsFuture::from(Promise::race(&Array::of2(&promise, &self.closed))).await;
        if self.is_closed.get() { Err(Ended::Closed) } else { Ok(first?) }
    }

    fn is_at(&self, attempt: u32) -> bool {
        self.talk.borrow().attempt == attempt
    }

    async fn carry_out(&self, job: Job) -> Result<(), Ended> {
        match job {
            Job::Offer { attempt, restart } => {
                let options = RtcOfferOptions::new();
                options.set_ice_restart(restart);
                let offer = self.peer.create_offer_with_rtc_offer_options(&options);
                let offer = self.until_closed(offer).await?;
                self.describe(attempt, SignalKind::Offer, RtcSdpType::Offer, &offer).await
            }
            Job::Description { attempt, what, sdp } => {
                if !is_for_data_only(&sdp) {
                    return Err(Ended::Failed);
                }
                let description = RtcSessionDescriptionInit::new(what);
                description.set_sdp(&sdp);
                self.until_closed(self.peer.set_remote_description(&description)).await?;
                if !self.is_at(attempt) {
                    return Ok(());
                }
                if what == RtcSdpType::Offer {
                    let answer = self.until_closed(self.peer.create_answer()).await?;
                    self.describe(attempt, SignalKind::Answer, RtcSdpType::Answer, &answer).await?;
                }
                let mut talk = self.talk.borrow_mut();
                if talk.attempt == attempt {
                    talk.remote = Remote::Settled;
                    let early = std::mem::take(&mut talk.early);
                    talk.jobs.extend(early.into_iter().map(|text| Job::Candidate { attempt, text }));
                }
                Ok(())
            }
            Job::Candidate { attempt, text } => {
                if self.is_at(attempt) {
                    let candidate = RtcIceCandidateInit::new(&text);
                    candidate.set_sdp_mid(Some("0"));
                    candidate.set_sdp_m_line_index(Some(0));
                    let added = self.peer.add_ice_candidate_with_opt_rtc_ice_candidate_init(Some(&candidate));
                    // There may be others: one that cannot be read, or not be resolved, is no failure.
                    if let Err(Ended::Closed) = self.until_closed(added).await {
                        return Err(Ended::Closed);
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells this end's description to the other one, and begins to look for candidates.
    async fn describe(
        &self,
        attempt: u32,
        what: SignalKind,
        kind: RtcSdpType,
        description: &JsValue,
    ) -> Result<(), Ended> {
        let sdp = Reflect::get(description, &"sdp".into())?.as_string().unwrap_or_default();
        {
            let mut talk = self.talk.borrow_mut();
            if talk.attempt != attempt {
                return Ok(());
            }
            talk.fragment = Some(fragment(&sdp).to_owned());
        }
        // Before there are candidates: they follow.
        let signal = Signal { attempt, what, body: sdp.clone() };
        self.say(&ToWorker::Signal { connection: self.number, signal });
        let description = RtcSessionDescriptionInit::new(kind);
        description.set_sdp(&sdp);
        self.until_closed(self.peer.set_local_description(&description)).await.map(drop)
    }

    /// A candidate of this end, or the news that there are no more.
    fn found(&self, event: &RtcPeerConnectionIceEvent) {
        let candidate = event.candidate();
        let body = candidate.as_ref().map(web_sys::RtcIceCandidate::candidate).unwrap_or_default();
        let signal = {
            let talk = &mut *self.talk.borrow_mut();
            let Some(fragment) = &talk.fragment else { return };
            let marked = candidate
                .and_then(|candidate| Reflect::get(&candidate, &"usernameFragment".into()).ok())
                .and_then(|mark| mark.as_string())
                .filter(|mark| !mark.is_empty());
            let is_late = marked.is_some_and(|mark| mark != *fragment);
            let is_last = body.is_empty();
            if is_late || talk.ended || is_last && self.is_gathering() {
                return;
            }
            // Room for the last one is kept.
            if !is_last && talk.sent + 1 >= MAX_CANDIDATES {
                return;
            }
            talk.sent += 1;
            talk.ended = is_last;
            Signal { attempt: talk.attempt, what: SignalKind::Candidate, body }
        };
        self.say(&ToWorker::Signal { connection: self.number, signal });
    }

    fn is_gathering(&self) -> bool {
        self.peer.ice_gathering_state() != RtcIceGatheringState::Complete
    }

    fn ice_changed(self: &Rc<Self>) {
        match self.peer.ice_connection_state() {
            RtcIceConnectionState::Connected | RtcIceConnectionState::Completed => {
                self.connected.set(true);
                if self.interrupted.replace(false) {
                    self.say(&ToWorker::Restored { connection: self.number });
                }
                self.watch_pair();
                self.look();
            }
            RtcIceConnectionState::Disconnected
                if self.connected.get() && !self.interrupted.replace(true) =>
            {
                self.say(&ToWorker::Interrupted { connection: self.number });
            }
            _ => {}
        }
    }

    /// Listens for a change of path, where the browser tells.
    fn watch_pair(&self) {
        let mut listeners = self.listeners.borrow_mut();
        let Some(listeners) = listeners.as_mut().filter(|listeners| listeners.transport.is_none()) else {
            return;
        };
        let transport = ["sctp", "transport", "iceTransport"]
            .iter()
            .try_fold(self.peer.clone().unchecked_into(), |from: JsValue, name| {
                Reflect::get(&from, &JsValue::from_str(name))
            });
        let Some(transport) = transport.ok().and_then(|found| found.dyn_into::<EventTarget>().ok()) else {
            return;
        };
        let listener = listeners.pair.as_ref().unchecked_ref();
        if transport.add_event_listener_with_callback(PAIR_CHANGE, listener).is_ok() {
            listeners.transport = Some(transport);
        }
    }

    /// Finds out how the connection runs, and says so if that is news.
    fn look(self: &Rc<Self>) {
        let this = Rc::clone(self);
        spawn_local(async move {
            let Ok(report) = this.until_closed(this.peer.get_stats()).await else { return };
            let Some(turn) = uses_turn(&report.unchecked_into()) else { return };
            if this.turn.replace(Some(turn)) != Some(turn) {
                this.say(&ToWorker::Path { connection: this.number, turn });
            }
        });
    }
}

/// Whether a description asks for a data channel, and neither for sound nor for pictures: those would be decoded.
fn is_for_data_only(sdp: &str) -> bool {
    let mut media = sdp.lines().filter(|line| line.starts_with("m="));
    media.next().is_some_and(|line| line.starts_with("m=application ")) && media.next().is_none()
}

/// What the candidates that belong to a description are marked with.
fn fragment(sdp: &str) -> &str {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).unwrap_or_default()
}

/// Whether either end of the pair in use is a TURN server. `None` while no pair is.
fn uses_turn(report: &RtcStatsReport) -> Option<bool> {
    let get = |from: &JsValue, name: &str| Reflect::get(from, &JsValue::from_str(name)).ok();
    let text = |from: &JsValue, name: &str| get(from, name).and_then(|value| value.as_string());
    let truth = |from: &JsValue, name: &str| get(from, name).is_some_and(|value| value.is_truthy());
    let all: Vec<JsValue> = js_sys::try_iter(&report.values()).ok()??.flatten().collect();
    let selected = all.iter().find_map(|entry| text(entry, "selectedCandidatePairId"));
    let is_pair = |entry: &&JsValue| text(entry, "type").as_deref() == Some("candidate-pair");
    let pair = match selected {
        Some(selected) => all.iter().find(|entry| text(entry, "id").as_ref() == Some(&selected)),
        // Not every browser names it.
        None => all.iter().filter(is_pair).find(|pair| {
            truth(pair, "selected")
                || truth(pair, "nominated") && text(pair, "state").as_deref() == Some("succeeded")
        }),
    }?;
    let is_relayed = |end: &str| {
        let id = text(pair, end)?;
        let candidate = all.iter().find(|entry| text(entry, "id").as_ref() == Some(&id))?;
        Some(text(candidate, "candidateType").as_deref() == Some("relay"))
    };
    Some(is_relayed("localCandidateId")? || is_relayed("remoteCandidateId")?)
}
