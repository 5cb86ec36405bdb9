//! Go and its implementation of logs, with which tests compare ours.

use super::apt;
use crate::run::{Step, which};

/// The compiler, and golang.org/x/mod.
const PACKAGES: &[&str] = &["golang-go", "golang-golang-x-mod-dev"];
/// Where Debian has the sources of packages.
const SOURCES: &str = "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog";

/// Installs them; whether they are there. Without them those tests say that they were skipped.
pub(crate) fn ready() -> bool {
    let there = || which("go").is_some() && std::path::Path::new(SOURCES).is_dir();
    if there() {
        return true;
    }
    let step = Step::start("install Go");
    match apt::install(PACKAGES) {
        Ok(()) => drop(step.done()),
        Err(error) => eprintln!("  no Go ({error:#}): the tests that compare logs with it will be skipped"),
    }
    there()
}
