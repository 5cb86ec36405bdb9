//! Evaluation of a language model by volunteers: what they compute, how the relay checks it, and the eval card that
//! people read before they vote on a candidate.
//!
//! A shard is a list of [`Item`]s: windows of text to score and prompts to continue. A volunteer runs them with
//! [`Evaluation`], a forward pass at a time. The relay computes some of them again, drawn from a secret, and compares:
//! [`Checker`]. Machines round differently, so answers agree within tolerances that are stated and measured in
//! [`mod@check`].
//!
//! With the feature `cards`, `plan` cuts shards for a candidate, `scan` looks for backdoors without knowing their
//! triggers, and `card` is what comes out.
//!
//! Everything here is a function of its arguments: no clock, no randomness of its own, no I/O.

pub mod answers;
#[cfg(feature = "cards")]
pub mod card;
pub mod check;
pub mod error;
pub mod items;
#[cfg(feature = "cards")]
pub mod plan;
pub mod run;
#[cfg(feature = "cards")]
pub mod scan;
pub mod settle;
#[cfg(feature = "cards")]
pub mod stats;

pub use answers::{Answer, Answers};
pub use check::{CheckError, Checker, check, compare};
pub use error::EvalError;
pub use items::{Item, Items};
pub use run::{Evaluation, Progress, parameters};
pub use settle::{COPIES, draw, settle};
