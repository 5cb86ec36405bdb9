//! The public log, for whoever checks it: `potluck audit` and `potluck receipt`.
//!
//! `source.rs` reads a log from a relay or a folder; `known.rs` is what this machine remembers of logs,
//! `signer.rs` who signed one; `audit.rs` checks a
//! whole log, `model.rs` that a model follows from it, `receipt.rs` one entry; `read.rs` reads and checks a log for commands
//! that go by it, and `prove.rs` is what a volunteer demands before it works.

pub mod audit;
pub(crate) mod known;
mod model;
pub mod prove;
pub(crate) mod read;
pub mod receipt;
mod signer;
pub(crate) mod source;
