//! The command as people and programs use it: one program, for linking its suites one by one takes longer than running most.
#![expect(
    clippy::unwrap_used,
    clippy::duration_suboptimal_units,
    reason = "in a test an unwrap is how it fails, and limits in seconds compare at a glance"
)]

mod cdp;
mod client;
mod command;
mod crash;
mod crash_run;
mod native;
mod processes;
mod runs;
mod runs_relay;
mod tabs;
