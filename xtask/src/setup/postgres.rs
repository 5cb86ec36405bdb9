//! PostgreSQL, for relays whose records are there. Tests start servers of their own; the one that the package may start is not used.

use super::apt;
use crate::run::Step;
use std::path::Path;

/// Where Debian keeps its versions: the same place as `tests/src/postgres.rs` looks at.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Installs it where it is missing; whether it is there. Without it those tests say that they were skipped.
pub(crate) fn server() -> bool {
    let is_there = || Path::new(VERSIONS).read_dir().is_ok_and(|mut versions| versions.next().is_some());
    if is_there() || !cfg!(target_os = "linux") {
        return is_there();
    }
    let step = Step::start("install PostgreSQL");
    match apt::install(&["postgresql"]) {
        Ok(()) => drop(step.done()),
        Err(error) => eprintln!("  {error:#}: tests with PostgreSQL will be skipped"),
    }
    is_there()
}
