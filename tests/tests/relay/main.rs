//! Suites around a real relay without a browser: one program, for linking them one by one takes longer than running most.

mod bad_input;
mod bad_runs;
mod client;
mod governance;
mod log;
mod poison;
mod rebuild;
mod runs;
mod train;
mod views;
mod witness;
