//! Installs what is missing, into a cache outside the clone where it can. Every step is skipped in
//! milliseconds where its result is there already.

pub(crate) mod apt;
pub(crate) mod browser;
pub(crate) mod go;
pub(crate) mod network;
pub(crate) mod npm;
pub(crate) mod postgres;
pub(crate) mod tools;
pub(crate) mod wasm;

use anyhow::{Context, Result, anyhow};
use std::path::PathBuf;
use std::thread;

/// The cache: `POTLUCK_CACHE`, else the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    let folder = set("POTLUCK_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").or_else(home).map(|folder| folder.join("potluck")))
        .context("there is no place for a cache\nhint: set POTLUCK_CACHE to a folder")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Everything that the tests and the demo need.
pub(crate) struct Ready {
    /// Builds for wasm32.
    pub(crate) wasm: wasm::Toolchain,
    /// Folder of wasm-bindgen and Trunk.
    pub(crate) tools: PathBuf,
    /// Chromium.
    pub(crate) chromium: PathBuf,
}

/// Sets up everything.
pub(crate) fn everything() -> Result<Ready> {
    everything_and(|| Ok(())).map(|(ready, ())| ready)
}

/// Sets up everything, and what `more` brings. Tools are compiled meanwhile: that takes processors, and what is brought takes
/// the network and the disk.
pub(crate) fn everything_and<T>(more: impl FnOnce() -> Result<T>) -> Result<(Ready, T)> {
    let wasm = wasm::toolchain()?;
    thread::scope(|scope| {
        let tools = scope.spawn(tools::all);
        let brought = browser::chromium().and_then(|chromium| {
            browser::software_vulkan();
            Ok((chromium, more()?))
        });
        let tools = tools.join().map_err(|_| anyhow!("the tools could not be built"))??;
        let (chromium, more) = brought?;
        Ok((Ready { wasm, tools, chromium }, more))
    })
}
