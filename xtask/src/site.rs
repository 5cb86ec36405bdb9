//! Builds the page and its engine into `dist/` with Trunk.

use crate::run::{must_quietly, path_with, root};
use crate::setup::{tools, wasm};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// What the site is made from.
const SOURCES: &[&str] = &[
    "www",
    "crates/web",
    "crates/volunteer",
    "crates/rounds",
    "crates/train",
    "crates/kernels",
    "crates/proto",
    "crates/types",
    "Cargo.toml",
    "Cargo.lock",
    "Trunk.toml",
];

/// Builds the site, unless it is newer than all of its sources.
pub(crate) fn build() -> Result<()> {
    let root = root();
    let stamp = root.join("dist/.built");
    let built = stamp.metadata().and_then(|meta| meta.modified()).ok();
    let newest = SOURCES.iter().filter_map(|source| newest(&root.join(source))).max();
    if let (Some(built), Some(newest)) = (built, newest)
        && built >= newest
    {
        return Ok(());
    }
    let toolchain = wasm::toolchain()?;
    let tools = tools::all()?;
    let started = SystemTime::now();
    let mut trunk = Command::new(tools.join("trunk"));
    trunk
        .args(["build", "--release", "--config"])
        .arg(root.join("Trunk.toml"))
        .current_dir(&root)
        .env("PATH", path_with(&tools))
        // It understands only true and false; other programs set it to 1.
        .env_remove("NO_COLOR");
    toolchain.apply(&mut trunk);
    must_quietly(&mut trunk, "cargo xtask setup, then look at what Trunk says above")?;
    std::fs::write(&stamp, "").context("cannot write into dist")?;
    std::fs::File::options().write(true).open(&stamp)?.set_modified(started)?;
    Ok(())
}

/// When the newest file below a path was changed.
fn newest(path: &Path) -> Option<SystemTime> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).ok()?.flatten();
        return entries
            .filter(|entry| entry.file_name() != "dist")
            .filter_map(|entry| newest(&entry.path()))
            .max();
    }
    path.metadata().ok()?.modified().ok()
}
