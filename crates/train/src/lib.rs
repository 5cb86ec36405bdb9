//! Training by low-communication data parallelism: what volunteers run in a round and auditors repeat.
//!
//! A round starts from the same parameters for everybody. Each volunteer takes H inner steps of AdamW on batches that a
//! pseudo-random function assigns to it, and sends the compressed difference (the pseudo-gradient); the relay combines
//! the differences and takes the outer step. Source: Douillard et al., DiLoCo, arXiv 2311.08105.
//!
//! Everything here is a function of its arguments: no clock, no randomness of its own, no I/O.

pub mod codec;
pub mod data;
pub mod digits;
pub mod engine;
pub mod gpt;
pub mod model;
pub mod outer;
pub mod round;
pub mod streak;

pub use engine::{Batch, Engine, Moments, TrainError};
pub use model::Model;
