//! Fuzzing of decoders of what strangers send or leave in files, by cargo-fuzz: `fuzz/`.

use crate::run::{Step, root, target};
use crate::setup::tools;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::path::Path;
use std::process::Command;

/// Memory that one input may make a decoder take, in MB.
const MAX_MEMORY_MB: u32 = 2048;
/// Time that one input may take, in seconds.
const MAX_SECONDS: u32 = 10;
/// Longest input, in bytes: longer ones are found by no other code.
const MAX_INPUT_BYTES: u32 = 1 << 17;

#[derive(Args)]
pub(crate) struct Options {
    /// Time for each decoder
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Ends earlier after so many executions of each
    #[arg(long)]
    runs: Option<u64>,
    /// This decoder alone: the name of a file in fuzz/fuzz_targets
    #[arg(long)]
    only: Option<String>,
}

/// Runs the fuzzer on each decoder; `false` if one broke its word. What it found is then in `fuzz/artifacts`.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let names = names(&root().join("fuzz/fuzz_targets"))?;
    let wanted: Vec<_> = match &options.only {
        None => names,
        Some(only) => {
            ensure!(names.contains(only), "there is no decoder {only}: {}", names.join(", "));
            vec![only.clone()]
        }
    };
    let tools = tools::cargo_fuzz()?;
    let mut passed = true;
    println!("{:<16} {:>12} {:>9}", "decoder", "executions", "seconds");
    for name in wanted {
        let step = Step::start(&format!("fuzz {name}"));
        let found = target().join("fuzz-corpus").join(&name);
        std::fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        // What the fuzzer finds goes to the first folder; the committed corpus is only read.
        let mut fuzz = Command::new(tools.join(format!("cargo-fuzz{}", std::env::consts::EXE_SUFFIX)));
        fuzz.args(["fuzz", "run", &name])
            .arg(&found)
            .arg(root().join("fuzz/corpus").join(&name))
            .arg("--")
            .arg(format!("-max_total_time={}", (options.minutes * 60.0).ceil()))
            .args(options.runs.map(|runs| format!("-runs={runs}")))
            .arg(format!("-rss_limit_mb={MAX_MEMORY_MB}"))
            .arg(format!("-timeout={MAX_SECONDS}"))
            .arg(format!("-max_len={MAX_INPUT_BYTES}"))
            .arg("-print_final_stats=1")
            .current_dir(root())
            // Coverage and the sanitizer of addresses are flags that only nightly compilers take without this.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", target().join("fuzz"));
        let output = fuzz.output().context("cargo-fuzz cannot be run")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let seconds = step.done();
        let Some(executions) = executions(&said) else {
            bail!("{name}: the fuzzer did not run\n{}", tail(&said));
        };
        println!("{name:<16} {executions:>12} {seconds:>9.0}");
        if !output.status.success() {
            passed = false;
            println!("{}", tail(&said));
        }
    }
    Ok(passed)
}

/// The decoders, by the names of their programs.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        names.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// How often the decoder was called, as libFuzzer says at the end, or how far it had come when it failed.
fn executions(said: &str) -> Option<u64> {
    let number = |text: &str| text.split_whitespace().next()?.trim_start_matches('#').parse().ok();
    let last = said.lines().rev().find_map(|line| line.split_once("stat::number_of_executed_units:"));
    last.and_then(|(_, count)| number(count))
        .or_else(|| said.lines().rev().filter(|line| line.starts_with('#')).find_map(number))
}

fn tail(said: &str) -> String {
    let lines: Vec<_> = said.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_what_the_fuzzer_says() {
        assert_eq!(executions("#1\tINITED\nstat::number_of_executed_units: 4096\nstat::x: 1"), Some(4096));
        assert_eq!(executions("#2\tINITED cov: 1\n#512\tNEW cov: 2\n==1== ERROR: libFuzzer"), Some(512));
        assert_eq!(executions("error: could not compile"), None);
    }

    #[test]
    fn each_decoder_has_a_corpus() {
        let fuzz = root().join("fuzz");
        for name in names(&fuzz.join("fuzz_targets")).unwrap() {
            assert!(fuzz.join("corpus").join(&name).is_dir(), "{name}");
        }
    }
}
