//! Both sides of a training round, in the words of the protocol.
//!
//! A volunteer's: `work.rs`, from a task and its inputs to an update. The relay's: `host.rs` makes the tasks and closes
//! rounds, `combine.rs` makes one step of their updates; `audit.rs` checks updates; `watch.rs` measures losses. Both, and anybody who wants to
//! know: `replay.rs` compares what was committed with the same steps taken again, by the engine of `reference.rs`, within
//! what `allowed.rs` allows; with codec S from what `history.rs` remembers. And `derive` closes rounds of the past again from what is public, as they were
//! closed, or without some of their updates.
//!
//! Everything here is a function of its arguments: no clock, no randomness of its own, no I/O. Relay, volunteer,
//! command line and simulator share it.

pub mod allowed;
pub mod audit;
mod combine;
pub mod derive;
mod error;
mod history;
pub mod host;
pub mod opening;
mod reference;
pub mod replay;
pub mod sizes;
#[cfg(test)]
mod tests;
mod watch;
pub mod work;

pub use allowed::{Allowed, Way, settle};
pub use audit::{AuditError, Auditor, Fault};
pub use combine::Group;
pub use derive::{ClosedRound, Counted, Derivation, DeriveError, Rebuild, Without, rebuild, rederive};
pub use error::HostError;
pub use host::{Closed, Data, Host, Submitted, Terms, named};
pub use reference::Reference;
pub use replay::{Judgement, again, repeat};
pub use work::{Finished, Plan, Prepared, Repeated, TaskError, TrainInputs, TrainRun};
