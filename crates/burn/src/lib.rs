//! Training any model that is written with the [`burn`] crate.
//!
//! A model is a burn module that says what it classifies ([`Classifier`]); [`BurnEngine`] makes a
//! [`potluck_train::Engine`] of it. [`Digits`] is the example. Where it runs is chosen when it starts ([`Backend`]):
//! volunteers use WebGPU, the relay and auditors replay on the CPU.
//!
//! Burn computes the loss and its gradient; parameters, moments, clipping and AdamW are ours and on the CPU
//! ([`potluck_train::gpt::Optimizer`]), so that two machines differ only by how their devices round a gradient. For
//! that a step reads the gradient back once, and uploads the parameters once.

mod backend;
mod digits;
mod engine;

pub use backend::{Backend, SetupError};
pub use digits::Digits;
pub use engine::{BurnEngine, Classifier, MAX_SEQUENCES};

#[cfg(feature = "gpu")]
pub use burn::tensor::wgpu::{WgpuSetup, wgpu};
