//! The connection: opening and reopening it, the order of the protocol, and what a relay may ask.

use crate::engine::{Engine, Person};
use crate::io::Action;
use crate::limits::{
    ASK_TIMEOUT, CONNECT_TIMEOUT, MAX_RECONNECT, MAX_RESULTS, MIN_PING, RECONNECT, RETRY, share,
};
use crate::work::{Device, Stage};
use potluck_proto::{
    BlobMissing, BlobRequest, Challenge, Consent, Hello, LeaseRequest, Membership, Message, NoWork,
    NoWorkReason, OLDEST_VERSION, PROTOCOL_VERSION, Picture, Ping, Refusal, RefusalCode, Welcome, Withdraw,
    cell, decode, encode,
};
use potluck_types::limits::{
    MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT, MAX_HELD_BLOBS, MAX_LEASES_PER_SESSION, PICTURE_SIDE,
    SESSION_TIMEOUT,
};
use potluck_types::{ConsentToken, Duration, Instant};

/// The connection to the relay.
#[derive(Debug)]
pub(crate) enum Link {
    /// None; after `failures` in a row the next one is tried at `retry_at`.
    Down { failures: u32, retry_at: Instant },
    /// Being opened.
    Opening { failures: u32, since: Instant },
    /// Open.
    Up(Session),
    /// The relay refused for good.
    Refused(RefusalCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreed {
    No,
    Asked,
    Granted { token: ConsentToken, until: Instant },
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Session {
    failures: u32,
    since: Instant,
    /// The relay's public key, as its challenge named it; `None` until that came and was answered.
    pub(crate) relay: Option<[u8; 32]>,
    welcomed: bool,
    agreed: Agreed,
    asked: Option<Instant>,
    last_heard: Instant,
    last_ping: Instant,
    timeout: Duration,
    /// What it was told that others may see.
    told: Option<Membership>,
}

impl Engine {
    pub(crate) fn send(&mut self, message: impl Into<Message>) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        // Everything that the engine sends is bounded; a message that does not fit a frame is not sent.
        if let Ok(frame) = encode(&message.into()) {
            self.counters.bytes_out += frame.len() as u64;
            self.out.push(Action::Send(frame));
        }
    }

    fn session_mut(&mut self) -> Option<&mut Session> {
        match &mut self.link {
            Link::Up(session) => Some(session),
            _ => None,
        }
    }

    /// Closes the connection, if there is one.
    pub(crate) fn hang_up(&mut self) {
        if matches!(self.link, Link::Up(_) | Link::Opening { .. }) {
            self.out.push(Action::Disconnect);
        }
    }

    pub(crate) fn connected(&mut self) {
        let Link::Opening { failures, .. } = self.link else { return };
        let now = self.now;
        self.link = Link::Up(Session {
            failures,
            since: now,
            relay: None,
            welcomed: false,
            agreed: Agreed::No,
            asked: None,
            last_heard: now,
            last_ping: now,
            timeout: SESSION_TIMEOUT,
            told: None,
        });
    }

    /// Says who this is, and proves it for this session and this relay alone.
    fn challenged(&mut self, challenge: &Challenge) {
        if let Some(session) = self.session_mut() {
            session.relay = Some(challenge.relay);
            self.send(Hello::answer(challenge, &self.options.key, self.options.agent.clone()));
        }
    }

    /// The connection is gone, and the leases with it.
    pub(crate) fn disconnected(&mut self) {
        let failures = match &self.link {
            Link::Up(Session { failures, .. }) | Link::Opening { failures, .. } => *failures,
            Link::Down { .. } | Link::Refused(_) => return,
        };
        // First, so that transfers between peers go on: the leases come back with the relay.
        self.mesh.relay_down();
        self.hold_fetch();
        self.drop_all_work();
        let wait = self.backoff(failures);
        self.link = Link::Down { failures: failures.saturating_add(1), retry_at: self.now + wait };
    }

    /// Another relay is the one from now on. What was proven of the log at the one before has to be proven there.
    pub(crate) fn moved(&mut self, relay_host: String) {
        self.hang_up();
        self.disconnected();
        self.proofs.clear();
        self.mesh.moved(relay_host);
        self.link = Link::Down { failures: 0, retry_at: self.now };
    }

    /// Exponential, and spread over half of its length, so that a restarted relay is not stormed.
    fn backoff(&self, failures: u32) -> Duration {
        let base = RECONNECT.0.saturating_mul(1 << failures.min(16)).min(MAX_RECONNECT.0);
        let mixed = (self.options.jitter ^ u64::from(failures)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Duration(base / 2 + mixed % (base / 2 + 1))
    }

    /// Something is wrong with the connection or with the relay: start over after a while.
    fn give_up(&mut self) {
        self.hang_up();
        self.disconnected();
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) {
        let now = self.now;
        let Some(session) = self.session_mut() else { return };
        session.last_heard = now;
        let (challenged, welcomed) = (session.relay.is_some(), session.welcomed);
        self.counters.bytes_in += frame.len() as u64;
        let Ok(message) = decode(frame) else { return self.give_up() };
        match message {
            Message::Challenge(challenge) if !challenged => self.challenged(&challenge),
            Message::Welcome(welcome) if challenged && !welcomed => self.welcome(&welcome),
            Message::Refusal(refusal) => self.refused(refusal),
            _ if !welcomed => self.give_up(),
            Message::ConsentGranted(granted) => {
                if let Some(session) = self.session_mut()
                    && session.agreed == Agreed::Asked
                {
                    session.agreed = Agreed::Granted { token: granted.token, until: now + granted.valid_for };
                    session.failures = 0;
                    self.counters.refusal = None;
                    self.ask_at = now;
                    self.ask_fetch(granted.token);
                    self.mesh.consented(granted.token);
                }
            }
            Message::Lease(lease) => {
                let asked = self.session_mut().and_then(|session| session.asked.take());
                self.no_work = None;
                self.take_lease(lease, asked.is_some());
            }
            Message::NoWork(none) => self.nothing_to_do(&none),
            Message::Verdict(verdict) => self.verdict(&verdict),
            Message::Revoke(revoke) => self.revoked(revoke.lease),
            Message::Picture(picture) => self.pictured(picture),
            Message::BlobRequest(request) => self.serve_result(&request),
            Message::BlobChunk(chunk) => self.mesh.chunk(&chunk),
            Message::BlobTree(tree) => {
                self.fetch_granted(&tree);
                self.mesh.tree(tree);
            }
            Message::BlobMissing(BlobMissing { hash }) => {
                if !self.fetch_denied(&hash) {
                    self.mesh.missing(&hash);
                }
            }
            Message::MeshSettings(settings) => self.mesh.settings(settings),
            Message::Neighbor(neighbor) => self.mesh.neighbor(neighbor),
            Message::Signal(signal) => self.mesh.signal(signal),
            Message::Unlink(unlink) => self.mesh.unlinked(unlink),
            Message::Pong(_) => {}
            // A volunteer's message, a second challenge, or a second welcome.
            _ => self.give_up(),
        }
    }

    fn welcome(&mut self, welcome: &Welcome) {
        if !(OLDEST_VERSION..=PROTOCOL_VERSION).contains(&welcome.version) {
            return self.give_up();
        }
        if let Some(session) = self.session_mut() {
            session.welcomed = true;
            session.timeout = welcome.session_timeout.max(Duration(3 * MIN_PING.0));
        }
        let window = u64::from(welcome.max_chunks_in_flight).clamp(1, MAX_CHUNKS_IN_FLIGHT as u64);
        self.mesh.relay_up(welcome.max_chunk_bytes.into(), window);
    }

    fn refused(&mut self, refusal: Refusal) {
        self.hang_up();
        self.disconnected();
        let Refusal { code, message, retry_after } = refusal;
        self.counters.refusal = Some((code, message));
        self.link = if retry_after == Duration(0) {
            Link::Refused(code)
        } else {
            let failures = match self.link {
                Link::Down { failures, .. } => failures,
                _ => 0,
            };
            let wait = Duration(retry_after.0.clamp(*RETRY.start(), *RETRY.end()));
            Link::Down { failures, retry_at: self.now + wait + Duration(self.options.jitter % 500) }
        };
    }

    fn nothing_to_do(&mut self, none: &NoWork) {
        let now = self.now;
        let Some(session) = self.session_mut() else { return };
        session.asked = None;
        if none.reason == NoWorkReason::NoConsent && matches!(session.agreed, Agreed::Granted { .. }) {
            // The person's agreement still stands (else `stop` came first): say it again.
            session.agreed = Agreed::No;
        }
        self.no_work = Some(none.reason);
        self.ask_at = now + Duration(none.retry_after.0.clamp(*RETRY.start(), *RETRY.end()));
    }

    fn pictured(&mut self, picture: Picture) {
        let most = usize::from(PICTURE_SIDE) * usize::from(PICTURE_SIDE);
        let rectangular =
            picture.columns > 0 && picture.cells.len().is_multiple_of(usize::from(picture.columns));
        if picture.cells.is_empty() || picture.cells.len() > most || !rectangular {
            return;
        }
        if self.no_work == Some(NoWorkReason::Idle) && picture.cells.contains(&cell::FREE) {
            self.ask_at = self.now;
        }
        self.counters.picture = Some(picture);
    }

    /// The relay may take another request: a lease ended, or a result is on its way.
    pub(crate) fn ask_soon(&mut self) {
        if self.no_work == Some(NoWorkReason::EnoughLeases) {
            self.no_work = None;
            self.ask_at = self.now;
        }
    }

    /// What others may see changed: it is told with the next consent, or now.
    pub(crate) fn membership(&mut self, membership: Membership) {
        if membership.mistake().is_some() {
            return;
        }
        self.membership = Some(membership);
        if self.session_mut().is_some_and(|session| session.welcomed) {
            self.say_membership();
        }
    }

    /// Tells what others may see, unless it was told in this session.
    fn say_membership(&mut self) {
        let membership = self.membership.clone();
        let Some(session) = self.session_mut() else { return };
        if session.told == membership {
            return;
        }
        session.told.clone_from(&membership);
        if let Some(membership) = membership {
            self.send(membership);
        }
    }

    /// Consent ends for the relay; the person's agreement may still stand.
    pub(crate) fn withdraw(&mut self) {
        self.drop_all_work();
        self.hold_fetch();
        if let Some(session) = self.session_mut() {
            session.asked = None;
            if std::mem::replace(&mut session.agreed, Agreed::No) != Agreed::No {
                self.send(Withdraw {});
            }
        }
        self.mesh.withdrawn();
    }

    /// Connects, keeps alive, agrees, asks.
    pub(crate) fn advance_link(&mut self) {
        let now = self.now;
        match &self.link {
            Link::Down { failures, retry_at } if *retry_at <= now && self.may_work() => {
                self.link = Link::Opening { failures: *failures, since: now };
                self.out.push(Action::Connect);
            }
            Link::Opening { since, .. } if now.since(*since) >= CONNECT_TIMEOUT => self.give_up(),
            Link::Up(session) => {
                let welcome_late = !session.welcomed && now.since(session.since) >= CONNECT_TIMEOUT;
                let silent = now.since(session.last_heard) >= session.timeout;
                if welcome_late || silent {
                    self.give_up();
                } else if session.welcomed {
                    self.talk();
                }
            }
            _ => {}
        }
    }

    fn talk(&mut self) {
        let (now, left, may_work) = (self.now, self.agreed_until.since(self.now), self.may_work());
        let wants_more = self.wants_more();
        let (origin, text_version, preset) =
            (self.options.origin.clone(), self.options.text_version, self.preset);
        let ask_at = self.ask_at;
        let Some(session) = self.session_mut() else { return };
        let mut ping = false;
        if now.since(session.last_ping) >= ping_interval(session.timeout) {
            session.last_ping = now;
            ping = true;
        }
        let mut agree = false;
        let mut ask = None;
        if may_work {
            match session.agreed {
                Agreed::Granted { until, .. } if until <= now => session.agreed = Agreed::No,
                _ => {}
            }
            match session.agreed {
                Agreed::No => {
                    session.agreed = Agreed::Asked;
                    agree = true;
                }
                Agreed::Asked => {}
                Agreed::Granted { token, .. } => {
                    let unanswered = session.asked.is_some_and(|asked| now.since(asked) < ASK_TIMEOUT);
                    if wants_more && !unanswered && ask_at <= now {
                        session.asked = Some(now);
                        ask = Some(token);
                    }
                }
            }
        }
        if ping {
            self.send(Ping { nonce: now.0 as u32 });
        }
        if agree {
            self.send(Consent { text_version, origin, preset, valid_for: left });
            self.say_membership();
        }
        if let (Some(consent), Device::Ready { backend, mflops }) = (ask, &self.device) {
            let request = LeaseRequest {
                consent,
                backend: *backend,
                mflops: (f64::from(*mflops) * share(self.preset)) as u32,
                memory_bytes: self.options.memory_bytes,
                held: self.mesh.held().take(MAX_HELD_BLOBS).collect(),
                kept: self.said_kept(),
            };
            self.send(request);
        }
    }

    /// Whether another lease would be of use: one computes, one is fetched.
    fn wants_more(&self) -> bool {
        if self.fetch.is_some() {
            return false;
        }
        let results = self.work.iter().filter(|work| matches!(work.stage, Stage::Committed { .. })).count();
        self.person == Person::Lending
            && matches!(self.device, Device::Ready { .. })
            && self.work.len() - results < MAX_LEASES_PER_SESSION
            && results < MAX_RESULTS
    }

    /// Serves a part of a result that was committed to.
    fn serve_result(&mut self, request: &BlobRequest) {
        let BlobRequest { hash, offset, bytes } = *request;
        if bytes as usize > MAX_CHUNK_BYTES {
            return self.give_up();
        }
        match self.read_result(&hash, offset, bytes) {
            Some(chunk) => self.send(chunk),
            None => self.send(BlobMissing { hash }),
        }
    }

    /// When the link has something to do.
    pub(crate) fn link_wake(&self) -> Option<Instant> {
        match &self.link {
            Link::Down { retry_at, .. } => self.may_work().then_some(*retry_at),
            Link::Opening { since, .. } => Some(*since + CONNECT_TIMEOUT),
            Link::Refused(_) => None,
            Link::Up(session) => {
                let mut wake = (session.last_ping + ping_interval(session.timeout))
                    .min(session.last_heard + session.timeout);
                if !session.welcomed {
                    return Some((session.since + CONNECT_TIMEOUT).min(session.last_heard + session.timeout));
                }
                if let Agreed::Granted { until, .. } = session.agreed {
                    wake = wake.min(until);
                    if self.may_work() && self.wants_more() {
                        wake = wake.min(session.asked.map_or(self.ask_at, |asked| asked + ASK_TIMEOUT));
                    }
                }
                Some(wake)
            }
        }
    }
}

const fn ping_interval(timeout: Duration) -> Duration {
    let third = timeout.0 / 3;
    Duration(if third > MIN_PING.0 { third } else { MIN_PING.0 })
}
