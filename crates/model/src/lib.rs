//! A model for people who use it, wherever they do: in a page, at a command line, at the relay.
//!
//! `promised.rs`: a run's request, whose hash stands in the log, says what the model is like; files that are other than
//! promised are refused. `text.rs`: text in, text out, a piece at a time. `tokenizer.rs`: `tokenizer.json`.
//!
//! Everything here is a function of its arguments: no clock, no randomness of its own, no I/O.

pub mod promised;
pub mod text;
pub mod tokenizer;

pub use promised::{MAX_REQUEST_BYTES, MAX_TOKENIZER_BYTES, Promised, Unfit};
pub use text::{Characters, TextError, TextWriter, prompt_tokens, seed_bytes};
