//! What a tab takes of the device, and the rest that follows. Work beside kernels counts for the share that people allow as well.

use gloo_timers::future::TimeoutFuture;
use potluck_volunteer::{Action, Event};
use std::cell::Cell;
use std::time::Duration;
use web_time::Instant;

/// What the browser's own threads and the page take for each byte of a frame that comes or goes. No page can measure it: this is
/// what `cargo xtask bench page` found of Chromium on a processor of two cores.
const TRANSPORT_NS_PER_BYTE: u64 = 22;
/// The engine hears of it in pieces of this size at least.
const PIECE: Duration = Duration::from_millis(20);

/// A rest is cut into pieces of this length, so that a Stop is noticed soon.
const REST_PIECE_MS: u32 = 50;

/// Rest that the device is due.
#[derive(Default)]
pub(crate) struct Rest {
    owed: Cell<Duration>,
    /// Whether it is being taken.
    taken: Cell<bool>,
}

impl Rest {
    pub(crate) const fn owed(&self) -> Duration {
        self.owed.get()
    }

    /// Adds the rest after `busy`, so that busy / (busy + rest) = share. Whoever works in a rest owes that part of it once more.
    pub(crate) fn owe(&self, busy: Duration, share: f64) {
        let share = share.clamp(0.01, 1.0);
        let again = if self.taken.get() { 1.0 } else { 0.0 };
        self.owed.set(self.owed.get() + busy.mul_f64(1.0 / share - 1.0 + again));
    }

    /// Takes a piece of it.
    pub(crate) async fn take(&self) {
        let start = Instant::now();
        self.taken.set(true);
        TimeoutFuture::new((self.owed.get().as_millis() as u32).min(REST_PIECE_MS)).await;
        self.taken.set(false);
        self.owed.set(self.owed.get().saturating_sub(start.elapsed()));
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

/// Bytes of a frame that came.
pub(crate) const fn received(event: &Event) -> u64 {
    if let Event::Frame(frame) = event { frame.len() as u64 } else { 0 }
}

/// Bytes of frames that go.
pub(crate) fn sent(actions: &[Action]) -> u64 {
    let bytes = |action: &Action| if let Action::Send(frame) = action { frame.len() as u64 } else { 0 };
    actions.iter().map(bytes).sum()
}
