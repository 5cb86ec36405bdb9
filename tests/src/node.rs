//! The npm package as somebody has it who installed its archive, and Node to run it.

use crate::POLL;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where `cargo xtask test` installs it, with its examples.
const FOLDER: &str = "../target/npm/check";
/// Set where it has to be there.
const REQUIRED: &str = "POTLUCK_REQUIRE_NPM";

/// The folder in which the package is installed; says so where it is not.
///
/// # Panics
/// It is not there, and has to be.
pub fn installed() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    if folder.join("job.js").is_file() {
        return Some(folder);
    }
    let missing = "the npm package is not installed in target/npm/check: `cargo xtask npm --check` does that";
    assert!(std::env::var_os(REQUIRED).is_none_or(|value| value != "1"), "{missing}");
    // Not `eprintln`: the test harness shows that of failing tests only.
    drop(writeln!(std::io::stderr(), "SKIPPED: {missing}"));
    None
}

/// What a script prints as its last line, and whether it succeeds. `script` is a file of the folder or, with an `await` in it, the
/// text of a module that runs there.
///
/// # Panics
/// There is no Node, the script does not end within `limit`, or its last line is no JSON.
pub fn run(folder: &Path, script: &str, environment: &[(&str, &str)], limit: Duration) -> (bool, Value) {
    let mut node = Command::new("node");
    if script.contains("await") {
        node.args(["--input-type=module", "--eval", script]);
    } else {
        node.arg(script);
    }
    // Some variables of the person who runs the tests would send local requests elsewhere.
    for proxy in ["NODE_OPTIONS", "NODE_USE_ENV_PROXY"] {
        node.env_remove(proxy);
    }
    node.current_dir(folder).envs(environment.iter().copied());
    node.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.spawn().expect("Node runs");
    let started = Instant::now();
    // What it prints is less than a pipe holds.
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > limit {
            drop(child.kill());
            let output = child.wait_with_output().expect("an output");
            panic!("not within {} s: {output:?}", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
    let output = child.wait_with_output().expect("an output");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (
        output.status.success(),
        said.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))),
    )
}
