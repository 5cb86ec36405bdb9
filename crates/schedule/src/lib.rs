//! The relay as a pure state machine: sessions, consent, leases, results, jobs.
//!
//! `Relay::step(now, input) -> outputs`: no clock, no randomness, no I/O. The simulator runs this very code.

pub mod grid;
pub mod io;

pub use grid::{Grid, GridError};
pub use io::{
    AcceptedTile, Check, CheckVerdict, Input, JobProgress, JobSpec, Output, Record, Ticket, Totals,
};

use potluck_types::{Instant, JobId};

/// What differs between relays.
#[derive(Debug, Clone)]
pub struct Config {
    /// Secret from which consent tokens are derived; drawn anew at every start.
    pub seed: [u8; 32],
    /// Grows by one at every start of the relay: the upper half of every fencing token.
    pub incarnation: u32,
}

/// The state machine.
#[derive(Debug)]
pub struct Relay {}

impl Relay {
    /// An empty relay.
    pub fn new(_config: &Config) -> Self {
        Self {}
    }

    /// Takes in what happened and says what is to be done, in order.
    pub fn step(&mut self, _now: Instant, _input: Input) -> Vec<Output> {
        Vec::new()
    }

    /// When [`Input::Tick`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        None
    }

    /// How far a job is; `None` if it is neither running nor just completed.
    pub fn progress(&self, _job: &JobId) -> Option<JobProgress> {
        None
    }

    /// Counters of the whole relay.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}
