//! Builds the page and its engine into `dist/` with Trunk.

use crate::run::{Step, cargo, must_quietly, path_with, root};
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
    "crates/mesh",
    "crates/rounds",
    "crates/train",
    "crates/kernels",
    "crates/proto",
    "crates/types",
    "Cargo.toml",
    "Cargo.lock",
    "Trunk.toml",
];

/// File whose time says when a folder was built.
const STAMP: &str = ".built";

/// A module that pages and tabs load only when they need it, in a folder of its own.
struct Module {
    package: &'static str,
    features: &'static [&'static str],
    profile: &'static str,
    /// Of the module and its folder.
    name: &'static str,
    /// What it is made from, besides the workspace's files.
    sources: &'static [&'static str],
    /// What people are told.
    what: &'static str,
}

/// Models written with burn.
const BURN: Module = Module {
    package: "potluck-web-burn",
    features: &[],
    profile: "wasm-burn",
    name: "burn",
    sources: &["crates/web-burn", "crates/burn", "crates/train"],
    what: "build the module of burn (the first time some minutes)",
};
/// The public log for tabs that lend: witness and receipts.
const TRUST: Module = Module {
    package: "potluck-web-trust",
    features: &[],
    profile: "wasm-trust",
    name: "trust",
    sources: &["crates/web-trust", "crates/ledger", "crates/governance", "crates/types"],
    what: "build the module of the public log",
};
/// The public log for pages that people read: all of that, whole logs and statements.
const GOVERNANCE: Module = Module {
    features: &["--features", "governance"],
    name: "governance",
    what: "build the module of the governance pages",
    ..TRUST
};

/// The model page: a model that writes.
const MODEL: Module = Module {
    package: "potluck-web-model",
    features: &[],
    profile: "wasm-model",
    name: "model",
    sources: &["crates/web-model", "crates/model", "crates/train", "crates/types"],
    what: "build the module of the model page",
};

/// Builds the site, all of it, unless it is newer than its sources.
pub(crate) fn build() -> Result<()> {
    page()?;
    BURN.build()
}

/// Builds the pages, the engine and the modules of the public log and of the model page, unless they are newer than their
/// sources. A module of burn that is there stays.
pub(crate) fn page() -> Result<()> {
    engine()?;
    TRUST.build()?;
    GOVERNANCE.build()?;
    MODEL.build()
}

fn engine() -> Result<()> {
    let root = root();
    let dist = root.join("dist");
    let stamp = dist.join(STAMP);
    if !is_stale(&stamp, SOURCES) {
        return Ok(());
    }
    let toolchain = wasm::toolchain()?;
    let tools = tools::all()?;
    let started = SystemTime::now();
    // Trunk makes the folder anew.
    let modules = [BURN, TRUST, GOVERNANCE, MODEL].map(|Module { name, .. }| {
        let [there, kept] = [dist.join(name), root.join("target/wasm/kept").join(name)];
        (move_folder(&there, &kept), there, kept)
    });
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
    for (_, there, kept) in modules.iter().filter(|(moved, ..)| *moved) {
        move_folder(kept, there);
    }
    mark(&stamp, started)
}

impl Module {
    /// Builds it, unless it is newer than its sources.
    fn build(&self) -> Result<()> {
        let Self { package, features, profile, name, sources, what } = self;
        let folder = root().join("dist").join(name);
        let stamp = folder.join(STAMP);
        if !is_stale(&stamp, &[*sources, &["Cargo.toml", "Cargo.lock"]].concat()) {
            return Ok(());
        }
        let toolchain = wasm::toolchain()?;
        let tools = tools::all()?;
        let started = SystemTime::now();
        let step = Step::start(what);
        let mut build = cargo();
        build.args(["build", "--quiet", "--target", wasm::TARGET, "--profile", profile, "-p", package]);
        build.arg("--no-default-features").args(*features);
        toolchain.apply(&mut build);
        must_quietly(&mut build, "look at what the compiler says above")?;
        let built = root().join("target/wasm").join(wasm::TARGET).join(profile);
        let mut bindgen = Command::new(tools.join("wasm-bindgen"));
        bindgen
            .args([
                "--target",
                "web",
                "--no-typescript",
                "--remove-name-section",
                "--out-name",
                name,
                "--out-dir",
            ])
            .arg(folder)
            .arg(built.join(format!("{}.wasm", package.replace('-', "_"))));
        must_quietly(&mut bindgen, "cargo xtask setup, then look at what wasm-bindgen says above")?;
        step.done();
        mark(&stamp, started)
    }
}

/// Whether a stamp is older than a source, or not there.
pub(crate) fn is_stale(stamp: &Path, sources: &[&str]) -> bool {
    let built = stamp.metadata().and_then(|meta| meta.modified()).ok();
    let newest = sources.iter().filter_map(|source| newest(&root().join(source))).max();
    built.is_none_or(|built| newest.is_some_and(|newest| built < newest))
}

pub(crate) fn mark(path: &Path, when: SystemTime) -> Result<()> {
    std::fs::write(path, "").context("cannot write a stamp")?;
    std::fs::File::options().write(true).open(path)?.set_modified(when)?;
    Ok(())
}

/// Whether there was a folder, which is now at another place.
fn move_folder(from: &Path, to: &Path) -> bool {
    // What is left there from an earlier build.
    let _ = std::fs::remove_dir_all(to);
    let _ = to.parent().map(std::fs::create_dir_all);
    std::fs::rename(from, to).is_ok()
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
