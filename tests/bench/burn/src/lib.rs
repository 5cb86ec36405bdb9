//! The GPT as a person would write it with burn, from the modules that burn brings: what ours is compared with.
//!
//! Natively its gradients are compared (`tests/gradient.rs`); in a browser, `cargo xtask bench step` times its steps.

#[cfg(target_arch = "wasm32")]
#[path = "../../../../crates/web-burn/src/constructors.rs"]
mod constructors;
#[cfg(target_arch = "wasm32")]
mod contender;
mod gpt;

#[cfg(target_arch = "wasm32")]
pub use contender::BurnGpt;
pub use gpt::{Gpt, Order};
