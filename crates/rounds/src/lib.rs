//! Both sides of a training round, in the words of the protocol.
//!
//! A volunteer's: `work.rs`, from a task and its inputs to an update. The relay's: `host.rs` makes the tasks, combines
//! the updates and takes the step; `audit.rs` checks updates; `watch.rs` measures losses. Both, and anybody who wants to
//! know: `replay.rs` compares what was committed with the same steps taken again, by the engine of `reference.rs`.
//!
//! Everything here is a function of its arguments: no clock, no randomness of its own, no I/O. Relay, volunteer,
//! command line and simulator share it.

pub mod audit;
mod error;
pub mod host;
pub mod opening;
mod reference;
pub mod replay;
pub mod sizes;
#[cfg(test)]
mod tests;
mod watch;
pub mod work;

pub use audit::{AuditError, Auditor, Fault};
pub use error::HostError;
pub use host::{Closed, Data, Host, Submitted, Terms, named};
pub use reference::Reference;
pub use replay::{Judgement, judge, repeat};
pub use work::{Plan, Prepared, TaskError, TrainInputs, TrainRun};
