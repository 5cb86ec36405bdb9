//! What tests in network namespaces need.

use super::apt;
use crate::run::{Step, which};

/// Programs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// Installs what is missing. Without it those tests say that they were skipped.
pub(crate) fn namespaces() {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() || !cfg!(target_os = "linux") {
        return;
    }
    let step = Step::start(&format!("install {}", missing.join(", ")));
    match apt::install(&missing) {
        Ok(()) => drop(step.done()),
        Err(error) => eprintln!("  {error:#}: tests in network namespaces will be skipped"),
    }
}
