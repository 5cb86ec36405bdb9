//! The `potluck` command as a library, so that xtask and the end-to-end tests drive the same code.

pub mod cdp;
