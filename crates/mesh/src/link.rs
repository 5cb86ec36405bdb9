//! How a link comes, breaks and comes back.
//!
//! The end that the relay told to offer does all that needs a beginning: the first connection, a restart of ICE when nothing
//! comes through, a new connection when that fails. The other end waits and answers. An *attempt* numbers offers: its upper
//! 24 bits count connections, its lower 8 bits restarts of that connection's ICE.

use potluck_proto::LinkPath;
use potluck_types::{Duration, Instant};

/// A connection that is not open by then is given up: candidates through a slow TURN server take a few seconds.
pub(crate) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// An open channel on which nothing was heard by then is given up.
pub(crate) const GREET_TIMEOUT: Duration = Duration::from_secs(10);
/// Hello is said again after this time: a browser loses what arrives while a channel is on its way to a Worker.
pub(crate) const HELLO_AGAIN: Duration = Duration(500);
/// Who does not offer waits so long for an offer.
pub(crate) const OFFER_TIMEOUT: Duration = Duration::from_secs(60);
/// ICE is restarted when nothing came through for so long: its own checks often find a way before.
pub(crate) const RESTART_AFTER: Duration = Duration::from_secs(2);
/// ... and again after this time.
pub(crate) const RESTART_AGAIN: Duration = Duration::from_secs(5);
/// An interrupted link is given up after this time.
pub(crate) const INTERRUPTED_TIMEOUT: Duration = Duration::from_secs(60);
/// First wait before a new connection; doubles with each failure.
pub(crate) const RETRY: Duration = Duration(1000);
/// Connections in a row that fail before a link is given up.
pub(crate) const MAX_TRIES: u32 = 4;
/// A link that held for so long has no failures.
pub(crate) const STEADY: Duration = Duration::from_secs(60);
/// Offers that one link may bring in its life: thousands of them are an attack.
pub(crate) const MAX_OFFERS: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No connection: to be opened at that time, or an offer to come until then.
    Waiting(Instant),
    /// A connection is being made.
    Opening(Instant),
    /// The channel is open; nothing was heard.
    Greeting { until: Instant, hello: Instant },
    /// Works.
    Up { since: Instant },
    /// Nothing comes through.
    Interrupted { since: Instant, restart: Instant },
}

/// What to do with a link now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Open,
    Restart,
    Hello,
    /// The connection is given up, but not the link.
    Fail,
    GiveUp,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) offers: bool,
    pub(crate) attempt: u32,
    pub(crate) stage: Stage,
    pub(crate) assigned: Instant,
    tries: u32,
    offers_seen: u32,
    pub(crate) path: Option<LinkPath>,
    /// What was reported of bytes and path.
    pub(crate) reported: ([u64; 2], Option<LinkPath>),
}

impl Link {
    pub(crate) fn new(offers: bool, now: Instant) -> Self {
        let wait = if offers { Duration(0) } else { OFFER_TIMEOUT };
        Self {
            offers,
            attempt: 0,
            stage: Stage::Waiting(now + wait),
            assigned: now,
            tries: 0,
            offers_seen: 0,
            path: None,
            reported: ([0; 2], None),
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    /// Whether there is a connection, working or not.
    pub(crate) const fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Up { .. } | Stage::Interrupted { .. })
    }

    /// Whether it is on its way up for the first time.
    pub(crate) const fn is_new(&self) -> bool {
        self.tries == 0 && !self.is_connected()
    }

    /// A new connection begins: its attempt.
    pub(crate) fn open(&mut self, now: Instant) -> u32 {
        self.attempt = ((self.attempt >> 8) + 1) << 8;
        self.stage = Stage::Opening(now + OPEN_TIMEOUT);
        self.attempt
    }

    /// ICE is to begin anew: its attempt; `None` if it did so too often.
    pub(crate) fn restart(&mut self, now: Instant) -> Option<u32> {
        let Stage::Interrupted { restart, .. } = &mut self.stage else { return None };
        *restart = now + RESTART_AGAIN;
        if self.attempt & 0xff == 0xff {
            return None;
        }
        self.attempt += 1;
        Some(self.attempt)
    }

    /// An offer came: whether it is for a new connection; `None` if it may not come.
    pub(crate) fn offered(&mut self, attempt: u32, now: Instant) -> Option<bool> {
        if self.offers || attempt <= self.attempt || self.offers_seen >= MAX_OFFERS {
            return None;
        }
        self.offers_seen += 1;
        let fresh = attempt >> 8 != self.attempt >> 8;
        self.attempt = attempt;
        if fresh {
            self.stage = Stage::Opening(now + OPEN_TIMEOUT);
        }
        Some(fresh)
    }

    /// Too many offers.
    pub(crate) const fn is_flooded(&self) -> bool {
        self.offers_seen >= MAX_OFFERS
    }

    /// The connection failed.
    pub(crate) fn failed(&mut self, now: Instant) {
        if let Stage::Up { since } = self.stage
            && now.since(since) >= STEADY
        {
            self.tries = 0;
        }
        let wait = if self.offers { Duration(RETRY.0 << self.tries.min(8)) } else { OFFER_TIMEOUT };
        self.tries += 1;
        self.path = None;
        self.stage = Stage::Waiting(now + wait);
    }

    /// The relay is back: what needs it need not wait.
    pub(crate) fn relay_is_back(&mut self, now: Instant) {
        self.tries = 0;
        match &mut self.stage {
            Stage::Waiting(at) => *at = now + if self.offers { Duration(0) } else { OFFER_TIMEOUT },
            Stage::Interrupted { restart, .. } => *restart = now,
            _ => {}
        }
    }

    /// What is due. Without the relay no offer can be made, and waiting costs nothing.
    pub(crate) fn due(&self, now: Instant, relay: bool) -> Due {
        match self.stage {
            Stage::Waiting(at) if at <= now && relay => {
                if self.offers && self.tries < MAX_TRIES {
                    Due::Open
                } else {
                    Due::GiveUp
                }
            }
            Stage::Opening(until) | Stage::Greeting { until, .. } if until <= now => Due::Fail,
            Stage::Greeting { hello, .. } if hello <= now => Due::Hello,
            Stage::Interrupted { since, .. } if now.since(since) >= INTERRUPTED_TIMEOUT => Due::Fail,
            Stage::Interrupted { restart, .. } if restart <= now && relay && self.offers => Due::Restart,
            _ => Due::Nothing,
        }
    }

    /// When something is due, if nothing else happens.
    pub(crate) fn wake(&self, relay: bool) -> Option<Instant> {
        match self.stage {
            Stage::Waiting(at) => relay.then_some(at),
            Stage::Opening(until) => Some(until),
            Stage::Greeting { until, hello } => Some(until.min(hello)),
            Stage::Up { .. } => None,
            Stage::Interrupted { since, restart } => {
                let end = since + INTERRUPTED_TIMEOUT;
                Some(if relay && self.offers { end.min(restart) } else { end })
            }
        }
    }
}
