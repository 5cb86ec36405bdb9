//! The volunteer engine as a pure state machine: consent, lease, fetch, run, commit, stop.
//!
//! [`Engine::step`]`(now, event) -> actions`: no clock, no sockets, no kernel of its own. Three adapters run
//! it: the tab's Worker, the native command, and the simulator. Where to look: `engine.rs` routes events and
//! talks to the person; `link.rs` speaks the protocol; `work.rs` takes leases through inputs, kernel, commit;
//! `task.rs` says
//! what a task needs; `status.rs` says what a person sees; `fetch.rs` gets a public blob instead of
//! work; `compute.rs` turns panels into a
//! product, `train.rs` a checkpoint and tokens into an update, `eval.rs` parameters and questions into answers; `trainer.rs` chooses CPU or GPU for it; `proof.rs` says what
//! has to stand in the public log before anything is computed for it; `rest.rs` keeps to the share that people allow.
//!
//! Architecture invariant: nothing connects before [`Event::Start`], and after [`Event::Stop`] nothing is sent.
//! Architecture invariant: a relay is not trusted; hashes, sizes and lists are checked, memory is bounded.

// Tests share files with those in `tests`, which know this crate by its name.
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
extern crate self as potluck_volunteer;

pub mod compute;
mod engine;
pub mod eval;
mod fetch;
pub mod io;
mod keep;
mod limits;
mod link;
pub mod proof;
pub mod rest;
mod status;
mod task;
#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests;
pub mod train;
#[cfg(feature = "gpu")]
pub mod trainer;
mod work;

pub use engine::Engine;
pub use io::{Action, Choice, Conditions, Event, Failure, Options, Run, RunId, TrainInputs, Workload};
pub use limits::{DEFAULT_CACHE_BYTES, DEFAULT_MEMORY_BYTES};
pub use potluck_mesh::{LinkAction, LinkEvent, Peer};
pub use proof::Subject;
pub use status::{State, Status, Training, WaitReason};
