//! How a seed is run, and what comes out.

use crate::trace::{Sink, TraceHash};
use potluck_schedule::Config;

/// How to run a seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Receives a readable line for each event.
    pub sink: Option<Sink>,
    /// Changes the relay's configuration at each of its starts; tests plant bugs with it.
    pub configure: fn(&mut Config),
}

impl Default for Options {
    fn default() -> Self {
        Self { sink: None, configure: |_| {} }
    }
}

/// A run in which every invariant held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOutcome {
    /// The seed.
    pub seed: u64,
    /// Events.
    pub events: u64,
    /// Leases given.
    pub leases: u64,
    /// Rounds closed.
    pub rounds: u64,
    /// Updates that counted.
    pub updates: u64,
    /// Of which wrong, but not drawn for a replay.
    pub deceived: u64,
    /// Updates of codec S that went on with a streak.
    pub streaks: u64,
    /// Those in whose streak a round did not count.
    pub waited: u64,
    /// Shards of evals whose answers counted.
    pub settled: u64,
    /// Answers that were found to be wrong.
    pub refuted: u64,
    /// Shards with wrong answers that counted: only liars answered, and their lie was not drawn.
    pub misled: u64,
    /// Results rejected.
    pub rejected: u64,
    /// Rejections of honest volunteers whose bytes a broken link kept from arriving in time.
    pub honest_undelivered: u64,
    /// Commits under an ended lease or a wrong fence.
    pub late_commits: u64,
    /// Sessions refused because somebody said to be whom it cannot prove to be.
    pub impostors: u64,
    /// Times the relay was killed.
    pub crashes: u64,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Of which after the faults stopped, until the last job was complete.
    pub liveness_ms: u64,
    /// The same for the same seed.
    pub trace: TraceHash,
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed} at {at_ms} ms: {what}\nhint: cargo xtask sim --seed {seed} --trace")]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Simulated time, in milliseconds.
    pub at_ms: u64,
    /// The invariant, and what was seen instead.
    pub what: String,
}
