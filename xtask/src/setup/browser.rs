//! Chromium, its driver, Firefox, and a software Vulkan for native GPU tests.

use super::apt;
use crate::run::{Step, which};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Names under which the browser is found.
const NAMES: &[&str] =
    &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"];
/// The same of Firefox.
const FIREFOX: &[&str] = &["firefox-esr", "firefox"];
/// Places outside of the PATH.
const PLACES: &[&str] = &[
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
];

fn find() -> Option<PathBuf> {
    let set = std::env::var_os("CHROME").map(PathBuf::from).filter(|path| path.is_file());
    let named = || NAMES.iter().find_map(|name| which(name));
    set.or_else(named).or_else(|| PLACES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// A Chromium, installed if there is none.
pub(crate) fn chromium() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let step = Step::start("install Chromium");
    apt::install(&["chromium", "chromium-driver"]).context(
        "no Chromium was found\nhint: install it (Debian: apt install chromium chromium-driver; Fedora: dnf install \
         chromium chromedriver; macOS: brew install --cask chromium; Windows: winget install Google.Chrome) or set CHROME \
         to its path",
    )?;
    step.done();
    find().context("Chromium was installed but is not on the PATH\nhint: set CHROME to its path")
}

/// The driver that wasm-bindgen's test runner needs.
pub(crate) fn chromedriver() -> Result<PathBuf> {
    let set = std::env::var_os("CHROMEDRIVER").map(PathBuf::from).filter(|path| path.is_file());
    if let Some(found) = set.or_else(|| which("chromedriver")) {
        return Ok(found);
    }
    apt::install(&["chromium-driver"]).context(
        "chromedriver was not found\nhint: install the one of your Chromium's version, or set CHROMEDRIVER to its path",
    )?;
    which("chromedriver").context("chromedriver was installed but is not on the PATH\nhint: set CHROMEDRIVER")
}

/// Firefox, which only tests need. Without it those tests say that they were skipped.
pub(crate) fn firefox() {
    let set = std::env::var_os("FIREFOX").is_some_and(|path| Path::new(&path).is_file());
    if set || FIREFOX.iter().any(|name| which(name).is_some()) {
        return;
    }
    let step = Step::start("install Firefox");
    match apt::install(&["firefox-esr"]) {
        Ok(()) => drop(step.done()),
        Err(error) => eprintln!("  no Firefox ({error:#}): its tests will be skipped"),
    }
}

/// A software adapter for native GPU tests. Without it those tests say that they were skipped.
pub(crate) fn software_vulkan() {
    let drivers = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let has_driver = drivers
        .iter()
        .any(|folder| Path::new(folder).read_dir().is_ok_and(|mut entries| entries.next().is_some()));
    if has_driver || !cfg!(target_os = "linux") {
        return;
    }
    let step = Step::start("install a software Vulkan driver");
    match apt::install(&["mesa-vulkan-drivers", "libvulkan1"]) {
        Ok(()) => drop(step.done()),
        Err(error) => eprintln!(
            "  no Vulkan driver ({error}): native GPU tests will be skipped, browsers are not affected"
        ),
    }
}
