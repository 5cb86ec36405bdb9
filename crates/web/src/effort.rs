//! What a tab takes of the device. Work beside kernels counts for the share that people allow as well.

use gloo_timers::future::TimeoutFuture;
use potluck_volunteer::rest::{self, Doing};
use potluck_volunteer::{Action, Event, LinkAction, LinkEvent};
use std::cell::RefCell;
use std::time::Duration;
use web_time::Instant;

/// What the browser's own threads and the page take for each byte of a frame that comes or goes. No page can measure it: this is
/// what `cargo xtask bench page` found of Chromium on a processor of two cores.
const TRANSPORT_NS_PER_BYTE: u64 = 22;
/// The engine hears of it in pieces of this size at least.
const PIECE: Duration = Duration::from_millis(20);

/// A rest is cut into pieces of this length, so that a Stop is noticed soon.
const REST_PIECE_MS: u32 = 50;

/// Rest that the device is due, by the browser's clock.
pub(crate) struct Rest {
    began: Instant,
    rest: RefCell<rest::Rest>,
}

impl Rest {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), rest: RefCell::new(rest::Rest::new(Duration::ZERO)) }
    }

    /// What is owed now.
    pub(crate) fn owed(&self) -> Duration {
        self.rest.borrow().owed()
    }

    /// From now on the device does this.
    pub(crate) fn turn(&self, doing: Doing) {
        self.rest.borrow_mut().turn(doing, self.began.elapsed());
    }

    /// Adds the rest after `busy`, so that busy / (busy + rest) = share.
    pub(crate) fn owe(&self, busy: Duration, share: f64) {
        self.rest.borrow_mut().owe(busy, share);
    }

    /// Whether a kernel's time is being taken, in which all that the Worker does is counted.
    pub(crate) fn is_computing(&self) -> bool {
        self.rest.borrow().doing() == Doing::Computing
    }

    /// Takes a piece of what is owed.
    pub(crate) async fn take(&self) {
        TimeoutFuture::new((self.owed().as_millis() as u32).min(REST_PIECE_MS)).await;
        self.turn(Doing::Nothing);
    }
}

/// Time at work that the engine has not heard of.
#[derive(Default)]
pub(crate) struct Effort {
    untold: Duration,
}

impl Effort {
    /// Adds time in which the Worker was busy, and frames that came or went meanwhile, in bytes. What both took.
    pub(crate) fn add(&mut self, busy: Duration, bytes: u64) -> Duration {
        let took = busy + Duration::from_nanos(bytes.saturating_mul(TRANSPORT_NS_PER_BYTE));
        self.untold += took;
        took
    }

    /// What the engine should hear, once it is worth an event.
    pub(crate) fn tell(&mut self) -> Option<Event> {
        if self.untold < PIECE {
            return None;
        }
        let told = self.untold.as_millis() as u64;
        self.untold -= Duration::from_millis(told);
        Some(Event::Spent(potluck_types::Duration(told)))
    }
}

/// Bytes of a frame that came, from the relay or from a peer.
pub(crate) const fn received(event: &Event) -> u64 {
    match event {
        Event::Frame(frame) | Event::Link(LinkEvent::Frame { frame, .. }) => frame.len() as u64,
        _ => 0,
    }
}

/// Bytes of frames that go.
pub(crate) fn sent(actions: &[Action]) -> u64 {
    let bytes = |action: &Action| match action {
        Action::Send(frame) | Action::Link(LinkAction::Send { frame, .. }) => frame.len() as u64,
        _ => 0,
    };
    actions.iter().map(bytes).sum()
}
