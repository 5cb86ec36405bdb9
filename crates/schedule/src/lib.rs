//! The relay as a pure state machine: sessions, consent, leases, results, jobs.
//!
//! [`Relay::step`]`(now, input) -> outputs`: no clock, no randomness, no I/O. The simulator runs this very
//! code. Where to look: `relay.rs` holds the state and routes inputs; `session.rs` speaks the protocol, `admission.rs` lets in;
//! `leasing.rs` decides who gets which shard; `results.rs` takes results in; `job.rs` is one job's map of
//! units; `grid.rs` cuts products; `credibility.rs` says what a record is worth; `picture.rs` draws. Training:
//! `run.rs` is what goes in and out, `round.rs` the state of one run's round, `dealing.rs` who gets its slots,
//! `rounds.rs` how it goes on. Evals: `eval.rs` has the state of one, `evals.rs` how it goes on. `mesh/` says who links to
//! whom; `embeds.rs` on which other sites tabs may be lent, `switches.rs` what the operator switched off, `teams.rs` what others may see
//! of a volunteer.
//!
//! Architecture invariant: no output leases a shard to a session without a valid consent.
//! Architecture invariant: a session is a volunteer's only after a signature of its key over this session's challenge.
//! Architecture invariant: whose updates are replayed is drawn only after all commits of the round are closed.
//! Architecture invariant: a unit of work is accepted exactly once, and only after [`Input::Stored`]; a
//! round only after [`RunInput::Stored`]; an eval's shard only after [`EvalInput::Settled`].

mod admission;
mod credibility;
mod dealing;
mod embeds;
pub mod eval;
mod evals;
pub mod grid;
pub mod io;
mod job;
mod leasing;
mod mesh;
mod picture;
mod policy;
mod relay;
mod results;
mod round;
mod rounds;
pub mod run;
#[cfg(test)]
mod run_tests;
mod session;
mod switches;
mod teams;
#[cfg(test)]
mod tests;

pub use credibility::credibility;
pub use embeds::{EMBED_PREFIX, Embeds, embedder, is_origin};
pub use eval::{EvalAnswer, EvalError, EvalInput, EvalOutput, EvalProgress, EvalSpec};
pub use grid::{Grid, GridError};
pub use io::{
    AcceptedTile, Check, CheckVerdict, Input, JobProgress, JobSpec, Output, Record, Ticket, Totals,
};
pub use mesh::{MeshCounts, MeshLink, MeshMember, MeshPicture};
pub use relay::{Config, PlantedBug, Relay};
pub use run::{
    AcceptedUpdate, AuditPolicy, CheckUpdate, PauseReason, RunError, RunInput, RunOutput, RunPhase,
    RunProgress, RunSpec, SparsePolicy, UpdateVerdict,
};
pub use switches::{Kernel, Switches};
