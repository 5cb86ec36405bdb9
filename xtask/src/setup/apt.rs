//! Debian packages, where there is `apt-get` and the right to use it.

use crate::run::{must_quietly, output_of, which};
use anyhow::{Result, bail};
use std::process::Command;
use std::sync::Once;

/// Lists of packages are fetched once a run.
static UPDATED: Once = Once::new();

/// Installs packages without questions.
///
/// # Errors
/// No apt-get, no right to install, or what apt-get says.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("there is no apt-get here");
    }
    let root = output_of(Command::new("id").arg("-u")).as_deref() == Some("0");
    let sudo = !root && output_of(Command::new("sudo").args(["-n", "true"])).is_some();
    if !root && !sudo {
        bail!("installing {} needs root", packages.join(" "));
    }
    let apt = |args: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if sudo {
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    let hint = format!("install these packages by hand: {}", packages.join(" "));
    let mut updated = Ok(());
    UPDATED.call_once(|| updated = must_quietly(&mut apt(&["update"]), &hint));
    updated?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    must_quietly(&mut apt(&args), &hint)
}
