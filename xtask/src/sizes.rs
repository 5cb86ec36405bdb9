//! What a browser loads, compressed as the relay could serve it at best.

use crate::run::root;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// Budget of the engine's wasm, in bytes.
const ENGINE_GOAL: usize = 400_000;
/// Budget of everything that loads before the click on consent, in bytes.
const PAGE_GOAL: usize = 60_000;

fn brotli_bytes(path: &Path) -> Result<usize> {
    let plain = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { quality: 11, lgwin: 22, ..Default::default() };
    brotli::BrotliCompress(&mut plain.as_slice(), &mut out, &parameters)?;
    Ok(out.len())
}

/// Whether a file belongs to the engine: loaded only after consent.
fn is_engine(name: &str) -> bool {
    name.starts_with("potluck-web") || name.starts_with("worker")
}

/// Measures `dist/`; `false` if a goal is missed.
pub(crate) fn run(as_json: bool) -> Result<bool> {
    let (mut engine, mut page) = (0, 0);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("dist"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !entry.path().is_file() {
            continue;
        }
        let bytes = brotli_bytes(&entry.path())?;
        let end = entry.path().extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
        let loads_before = ["html", "css", "js", "svg"].contains(&end.as_str());
        if end == "wasm" {
            engine += bytes;
        } else if loads_before && !is_engine(&name) {
            page += bytes;
        }
        files.push((name, bytes));
    }
    let rows = [("engine wasm", engine, ENGINE_GOAL), ("page before consent", page, PAGE_GOAL)];
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
