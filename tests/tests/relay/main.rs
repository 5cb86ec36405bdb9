//! Suites around a real relay without a browser: one program, for linking them one by one takes longer than running most.

mod backup;
mod bad_input;
mod bad_runs;
mod client;
mod damage;
mod doctor;
#[cfg(target_os = "linux")]
mod faults;
mod governance;
mod log;
mod mirror;
#[cfg(target_os = "linux")]
mod nodes;
mod operator;
mod poison;
mod rebuild;
mod runs;
#[cfg(target_os = "linux")]
mod store;
mod train;
mod views;
mod witness;
