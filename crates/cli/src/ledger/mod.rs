//! The public log, for whoever checks it: `potluck audit` and `potluck receipt`.
//!
//! `source.rs` reads a log from a relay or a folder; `known.rs` is what this machine remembers of logs; `audit.rs` checks a
//! whole log, `model.rs` that a model follows from it, `receipt.rs` one entry.

pub mod audit;
mod known;
pub mod prove;
mod model;
pub mod receipt;
mod source;
