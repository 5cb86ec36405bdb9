//! Deterministic simulator of relay and swarm, replayable by seed.
//!
//! One thread, one seed. The relay's real state machine, the volunteers' real engine, the real codec and the
//! real checks run against simulated links, clocks, devices, persons, a store by its contract, and adversaries
//! that speak raw frames. First the safety phase: faults of every kind, while the invariants of [`watch`] are
//! checked at each step. Then the liveness phase: faults stop, honest volunteers stay (one, or as many as an
//! eval wants answers), everything must complete within bounded simulated time.
//!
//! Where to look: [`plan`] reads a seed; [`world`] holds the state and routes events; `host` is the relay
//! process, `rounds` its part of training runs and `evals` of evals, `crowd` the clients; [`liar`] the adversaries; [`link`] the wires; [`store`] what survives a crash.
//!
//! Architecture invariant: never depends on `relay`: that crate is only an adapter, as this one is.

pub mod act;
pub mod capacity;
mod crowd;
pub mod driver;
pub mod eval;
mod evals;
pub mod examiner;
mod honest;
mod host;
pub mod liar;
pub mod link;
pub mod outcome;
pub mod plan;
pub mod product;
pub mod queue;
pub mod referee;
pub mod rng;
mod rounds;
pub mod run;
pub mod store;
pub mod trace;
pub mod watch;
pub mod world;

pub use outcome::{Options, RunOutcome, Violation};
pub use world::run;
