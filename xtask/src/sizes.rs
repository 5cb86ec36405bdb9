//! What a browser loads, compressed as the relay could serve it at best.

use crate::run::root;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// Budget of the engine's wasm, in bytes.
const ENGINE_GOAL: usize = 400_000;
/// Budget of everything that loads before the click on consent, in bytes.
const PAGE_GOAL: usize = 60_000;
/// Budget of the module with which a tab that lends watches the log, in bytes.
const TRUST_GOAL: usize = 120_000;
/// Budget of the pages about the log, all of them, in bytes: scripts, texts and styles of their own.
const LOG_PAGES_GOAL: usize = 40_000;
/// Budget of the pages of projects, results and the operator, in bytes: scripts and texts of their own.
const WORK_PAGES_GOAL: usize = 20_000;
/// Budget of the widget's loader, which other sites load, in bytes.
const LOADER_GOAL: usize = 5_000;
/// Budget of the widget's frame before consent, in bytes.
const FRAME_GOAL: usize = 25_000;
/// Budget of the module that these pages derive everything with, in bytes.
const GOVERNANCE_GOAL: usize = 350_000;
/// Budget of the module in which a model writes, in bytes.
const MODEL_GOAL: usize = 130_000;
/// Budget of the model page, in bytes: scripts, texts and styles of its own.
const MODEL_PAGE_GOAL: usize = 15_000;

/// Bytes of a file, compressed.
pub(crate) fn brotli_bytes(path: &Path) -> Result<usize> {
    let plain = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { quality: 11, lgwin: 22, ..Default::default() };
    brotli::BrotliCompress(&mut plain.as_slice(), &mut out, &parameters)?;
    Ok(out.len())
}

/// Scripts and styles of the pages about the log, which the donate page does not load.
const LOG_PAGES: [&str; 14] = [
    "acts.js",
    "governance.html",
    "governance.js",
    "keys.js",
    "log.js",
    "models.html",
    "models.js",
    "page.js",
    "pages.css",
    "proposal-timeline.js",
    "proposal.js",
    "receipts.html",
    "receipts.js",
    "sample.js",
];
/// Scripts and texts of the pages of projects, results and the operator.
const WORK_PAGES: [&str; 9] = [
    "operator.html",
    "operator.js",
    "projects.html",
    "projects.js",
    "results-job.js",
    "results-run.js",
    "results.html",
    "results.js",
    "tokens.js",
];
/// Scripts and styles of the model page, which loads some of the pages about the log besides.
const MODEL_PAGE: [&str; 8] = [
    "download.js",
    "model-worker.js",
    "model.css",
    "model.html",
    "model.js",
    "peers.js",
    "share.js",
    "versions.js",
];
/// What the widget's frame is made of before consent.
const FRAME: [&str; 4] = ["widget-guard.js", "widget.css", "widget.html", "widget.js"];
/// The page for those who run a site, and what the widget's frame loads after consent beside what the donate page has.
const FOR_SITES: [&str; 5] = ["embed-check.js", "embed-page.js", "embed.css", "embed.html", "widget-run.js"];
/// What the donate page loads after consent.
const AFTER_CONSENT: [&str; 3] = ["mirrors.js", "prove.js", "worker.js"];

/// What a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Loads before the click on consent.
    Page,
    Engine,
    Trust,
    LogPages,
    WorkPages,
    Loader,
    Frame,
    Governance,
    Model,
    ModelPage,
    /// Small, or fetched by few.
    Other,
}

fn part(path: &str) -> Part {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match (folder, end) {
        ("trust", "wasm" | "js") => Part::Trust,
        ("governance", "wasm" | "js") => Part::Governance,
        ("model", "wasm" | "js") => Part::Model,
        ("", "wasm") => Part::Engine,
        ("", _) if MODEL_PAGE.contains(&name) => Part::ModelPage,
        ("", _) if LOG_PAGES.contains(&name) => Part::LogPages,
        ("", _) if WORK_PAGES.contains(&name) => Part::WorkPages,
        ("", _) if name == "embed.js" => Part::Loader,
        ("", _) if FRAME.contains(&name) => Part::Frame,
        ("", _) if FOR_SITES.contains(&name) => Part::Other,
        ("", "html" | "css" | "js" | "svg")
            if !AFTER_CONSENT.contains(&name) && !name.starts_with("potluck-web") =>
        {
            Part::Page
        }
        _ => Part::Other,
    }
}

/// Measures `dist/`; `false` if a goal is missed.
pub(crate) fn run(as_json: bool) -> Result<bool> {
    let mut files = Vec::new();
    for folder in ["", "trust", "governance", "model"] {
        for entry in std::fs::read_dir(root().join("dist").join(folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.path().is_file() {
                let name = Path::new(folder).join(name).to_string_lossy().into_owned();
                files.push((name, brotli_bytes(&entry.path())?));
            }
        }
    }
    let of =
        |asked| files.iter().filter(|(name, _)| part(name) == asked).map(|(_, bytes)| bytes).sum::<usize>();
    let rows = [
        ("engine wasm", of(Part::Engine), ENGINE_GOAL),
        ("page before consent", of(Part::Page), PAGE_GOAL),
        ("log in a tab that lends", of(Part::Trust), TRUST_GOAL),
        ("pages about the log", of(Part::LogPages), LOG_PAGES_GOAL),
        ("pages about work", of(Part::WorkPages), WORK_PAGES_GOAL),
        ("log in these pages", of(Part::Governance), GOVERNANCE_GOAL),
        ("widget's loader", of(Part::Loader), LOADER_GOAL),
        ("widget's frame before consent", of(Part::Frame), FRAME_GOAL),
        ("model that writes", of(Part::Model), MODEL_GOAL),
        ("model page", of(Part::ModelPage), MODEL_PAGE_GOAL),
    ];
    let mut all_met = true;
    if !as_json {
        files.sort();
        for (name, bytes) in files {
            println!("  {name:<32} {:>8.1} kB", bytes as f64 / 1e3);
        }
    }
    for (name, bytes, goal) in rows {
        let met = bytes > 0 && bytes < goal;
        all_met &= met;
        let (value, ratio) = (bytes as f64 / 1e3, bytes as f64 / goal as f64);
        if as_json {
            let goal = format!("< {} kB", goal / 1000);
            let row = json!({"name": name, "value": value, "unit": "kB (brotli)", "peer": "budget", "ratio": ratio, "goal": goal, "met": met});
            println!("{row}");
        } else {
            let mark = if met { "met" } else { "MISSED" };
            println!("{name:<34} {value:>8.1} kB of {} kB, {ratio:.2} of the budget: {mark}", goal / 1000);
        }
    }
    Ok(all_met)
}
