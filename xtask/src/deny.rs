//! What the workspace depends on: licenses, sources, crates that are banned, and known flaws. `deny.toml` says what may be.

use crate::run::{cargo, must_quietly, root, succeeds};
use crate::setup::tools;
use anyhow::Result;
use std::process::Command;

/// Checks all of it; `false` if something may not be. Known flaws are looked up where their database can be fetched.
pub(crate) fn run() -> Result<bool> {
    let program = tools::cargo_deny()?;
    // Of every platform: it asks nobody for them below.
    must_quietly(cargo().args(["fetch", "--locked", "--quiet"]), "look at what cargo says above")?;
    let deny = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(root());
        command
    };
    let allowed = succeeds(&mut deny(&[
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    if !deny(&["fetch", "db"]).output()?.status.success() {
        println!("the database of known flaws could not be fetched from here: advisories are not checked");
        return Ok(allowed);
    }
    Ok(allowed & succeeds(&mut deny(&["--offline", "check", "advisories"]))?)
}
