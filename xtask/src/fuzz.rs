//! Fuzzing of decoders of what strangers send or leave in files, by cargo-fuzz: `fuzz/`.

use crate::run::{Step, must, root, target};
use crate::setup::tools;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Memory that one input may make a decoder take, in MB.
const MAX_MEMORY_MB: u32 = 2048;
/// Time that one input may take, in seconds.
const MAX_SECONDS: u32 = 10;
/// Longest input, in bytes, however long the files of a corpus are.
const MAX_INPUT_BYTES: u64 = 1 << 17;
/// Longest input of a decoder whose corpus has short files only.
const MIN_INPUT_BYTES: u64 = 1 << 10;

/// Time for each decoder where nothing else is asked for, in minutes.
const USUAL_MINUTES: f64 = 1.0;
/// Lines of the fuzzer that are kept, to show them if it fails.
const KEPT_LINES: usize = 60;
/// Progress is told so often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// What the leak detector says where the system does not let it look at the process.
const NO_LEAK_DETECTOR: &str = "LeakSanitizer has encountered a fatal error";

#[derive(Args)]
pub(crate) struct Options {
    /// Time for each decoder, in minutes [default: 1, or none with --runs]
    #[arg(long)]
    minutes: Option<f64>,
    /// Ends each decoder after so many executions, or when its time is over, whichever is first
    #[arg(long)]
    runs: Option<u64>,
    /// This decoder alone: the name of a file in fuzz/libfuzzer/fuzz_targets
    #[arg(long)]
    only: Option<String>,
}

/// When the fuzzer of a decoder ends.
#[derive(Debug, Clone, Copy)]
struct Goal {
    seconds: Option<f64>,
    runs: Option<u64>,
}

impl Goal {
    fn of(options: &Options) -> Self {
        let minutes = options.minutes.or_else(|| options.runs.is_none().then_some(USUAL_MINUTES));
        Self { seconds: minutes.map(|minutes| (minutes * 60.0).ceil()), runs: options.runs }
    }

    /// Seconds until then, for a decoder that came so far in so many seconds.
    fn left(self, executions: u64, seconds: f64) -> f64 {
        let time = self.seconds.map(|all| (all - seconds).max(0.0));
        let runs =
            self.runs.map(|runs| runs.saturating_sub(executions) as f64 * seconds / executions.max(1) as f64);
        time.into_iter().chain(runs).fold(f64::INFINITY, f64::min)
    }
}

/// Runs the fuzzer on each decoder; `false` if one broke its word. What it found is then in `fuzz/libfuzzer/artifacts`.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let names = names(&root().join("fuzz/libfuzzer/fuzz_targets"))?;
    let wanted: Vec<_> = match &options.only {
        None => names,
        Some(only) => {
            ensure!(names.contains(only), "there is no decoder {only}: {}", names.join(", "));
            vec![only.clone()]
        }
    };
    let goal = Goal::of(options);
    let step = Step::start("build the fuzzer's programs");
    let mut build = cargo_fuzz("build")?;
    if let Some(only) = &options.only {
        build.arg(only);
    }
    must(&mut build, "it says above what does not build")?;
    step.done();
    let (mut all, mut spent, mut failed) = (0, 0.0, 0);
    println!("{:<16} {:>12} {:>9} {:>9}", "decoder", "executions", "seconds", "per s");
    for (index, name) in wanted.iter().enumerate() {
        let outcome = fuzz(name, goal, (wanted.len() - index - 1) as f64)?;
        let Outcome { executions, seconds, passed, said } = outcome;
        println!(
            "{name:<16} {executions:>12} {seconds:>9.0} {:>9.0}",
            executions as f64 / seconds.max(0.001)
        );
        (all, spent) = (all + executions, spent + seconds);
        if !passed {
            failed += 1;
            println!("{said}");
        }
    }
    let decoders = wanted.len();
    println!("{decoders} decoders, {all} executions in {spent:.0} s; {failed} broke their word");
    Ok(failed == 0)
}

/// How a fuzzer ended.
struct Outcome {
    executions: u64,
    seconds: f64,
    passed: bool,
    /// Its last lines.
    said: String,
}

/// cargo-fuzz with one of its commands.
fn cargo_fuzz(command: &str) -> Result<Command> {
    let tools = tools::cargo_fuzz()?;
    let mut fuzz = Command::new(tools.join(format!("cargo-fuzz{}", std::env::consts::EXE_SUFFIX)));
    fuzz.args(["fuzz", command, "--fuzz-dir"])
        .arg(root().join("fuzz/libfuzzer"))
        .current_dir(root())
        // Coverage and the sanitizer of addresses are flags that only nightly compilers take without this.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target().join("fuzz"));
    Ok(fuzz)
}

/// Runs the fuzzer on one decoder; `others` come after it.
fn fuzz(name: &str, goal: Goal, others: f64) -> Result<Outcome> {
    let found = target().join("fuzz-corpus").join(name);
    std::fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let corpus = root().join("fuzz/corpus").join(name);
    let mut fuzz = cargo_fuzz("run")?;
    // What the fuzzer finds goes to the first folder; the committed corpus is only read.
    fuzz.arg(name)
        .arg(&found)
        .arg(&corpus)
        .arg("--")
        .args(goal.seconds.map(|seconds| format!("-max_total_time={seconds}")))
        .args(goal.runs.map(|runs| format!("-runs={runs}")))
        .arg(format!("-rss_limit_mb={MAX_MEMORY_MB}"))
        .arg(format!("-timeout={MAX_SECONDS}"))
        .arg(format!("-max_len={}", max_input(&corpus)?))
        .args(["-detect_leaks=1", "-print_final_stats=1"]);
    let start = Instant::now();
    let mut child =
        fuzz.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cargo-fuzz cannot be run")?;
    let mut said = VecDeque::new();
    let (mut executions, mut told) = (None, Instant::now());
    for line in BufReader::new(child.stderr.take().context("the fuzzer says nothing")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        executions = executions_of(&line).or(executions);
        if let Some(executions) = executions.filter(|_| told.elapsed() >= TELL_EVERY) {
            told = Instant::now();
            let seconds = start.elapsed().as_secs_f64();
            let (rate, left) = (executions as f64 / seconds, goal.left(executions, seconds));
            // The others take as long, as far as anybody knows.
            let all = left + others * (left + seconds);
            eprintln!(
                "  {name}: {executions} executions, {rate:.0} per s; {left:.0} s left, {all:.0} s in all"
            );
        }
        said.push_back(line);
        if said.len() > KEPT_LINES {
            said.pop_front();
        }
    }
    let status = child.wait()?;
    let seconds = start.elapsed().as_secs_f64();
    let said = Vec::from(said).join("\n");
    ensure!(
        !said.contains(NO_LEAK_DETECTOR),
        "{name}: the leak detector cannot look at the process\nhint: allow ptrace here, or run it elsewhere\n{said}"
    );
    let Some(executions) = executions else { bail!("{name}: the fuzzer did not run\n{said}") };
    Ok(Outcome { executions, seconds, passed: status.success(), said })
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

/// Longest input for a decoder, in bytes: twice its longest file. Time goes with length, and longer ones are more of the same.
fn max_input(corpus: &Path) -> Result<u64> {
    let mut longest = 0;
    for file in std::fs::read_dir(corpus).with_context(|| format!("cannot read {}", corpus.display()))? {
        longest = longest.max(file?.metadata()?.len());
    }
    Ok((2 * longest).clamp(MIN_INPUT_BYTES, MAX_INPUT_BYTES))
}

/// How often the decoder was called, as a line of libFuzzer's says: as it goes, or at the end.
fn executions_of(line: &str) -> Option<u64> {
    let count = line.strip_prefix('#').or_else(|| line.strip_prefix("stat::number_of_executed_units:"))?;
    count.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_what_the_fuzzer_says() {
        assert_eq!(executions_of("#512\tNEW    cov: 2 ft: 2 corp: 1/1b"), Some(512));
        assert_eq!(executions_of("stat::number_of_executed_units: 4096"), Some(4096));
        assert_eq!(executions_of("stat::peak_rss_mb: 40"), None);
        assert_eq!(executions_of("    #1 0x55d0 in main"), None);
    }

    #[test]
    fn time_left_is_that_of_the_goal_which_is_nearer() {
        let options = |minutes, runs| Options { minutes, runs, only: None };
        let left = |minutes, runs| Goal::of(&options(minutes, runs)).left(1000, 10.0).round() as u64;
        assert_eq!(left(None, None), 50);
        assert_eq!(left(Some(2.0), None), 110);
        assert_eq!(left(None, Some(5000)), 40);
        assert_eq!(left(Some(0.5), Some(5000)), 20);
    }

    #[test]
    fn each_decoder_has_a_corpus() {
        let fuzz = root().join("fuzz");
        for name in names(&fuzz.join("libfuzzer/fuzz_targets")).unwrap() {
            assert!(fuzz.join("corpus").join(&name).is_dir(), "{name}");
        }
    }
}
