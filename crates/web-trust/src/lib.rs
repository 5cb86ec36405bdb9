//! The public log in the browser, as modules of their own that pages load when they need them.
//!
//! What is true of a log, `potluck-ledger` and `potluck-governance` decide; here their answers become JSON for pages.
//! `witness.rs`: does this checkpoint follow from the last one; `receipt.rs`: does a file prove its entry. With the feature
//! `governance`, for pages that people read: `reader.rs` reads a whole log, bundle by bundle, against a checkpoint;
//! `pages`: what pages show of it; `statement.rs`: the texts that people sign; `successor.rs`: whether another relay goes on with a log. What JavaScript sees: `bindings`.
//!
//! Architecture invariant: no clock, no network, no storage. JavaScript fetches, keeps and tells the time; nothing that
//! it passes on needs to be right, since everything is checked against the log's key.

#[cfg(feature = "governance")]
pub mod pages;
#[cfg(feature = "governance")]
pub mod reader;
pub mod receipt;
#[cfg(feature = "governance")]
pub mod statement;
#[cfg(feature = "governance")]
pub mod successor;
pub mod witness;

#[cfg(target_arch = "wasm32")]
mod bindings;

/// Why something was refused: a sentence that says what is wrong and what to do.
pub type Problem = String;
