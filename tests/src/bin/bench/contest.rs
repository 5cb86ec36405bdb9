//! Contenders that take turns in one browser session.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab};
use serde_json::Value;

use crate::clock::processes_cpu;
use crate::row::{Goal, Report, Row, median};
use crate::server::{self, Folders};

const ROUNDS: usize = 21;
/// A contender that has computed for this long, and for [`MIN_ROUNDS`], is done.
const ENOUGH: Duration = Duration::from_secs(6);
const MIN_ROUNDS: usize = 5;
/// What a contender may take to begin.
const PATIENCE: Duration = Duration::from_mins(5);
/// One sample repeats the work until it should last this long.
const SAMPLE: Duration = Duration::from_millis(80);
/// Repetitions in one sample, however fast.
const MAX_COUNT: u32 = 200;
/// A peer below this share of its class's best after the first round cannot be the best: it is not run again.
const HOPELESS: f64 = 0.5;

/// Who computes, as the page says.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    /// None: ours.
    pub(crate) peer: Option<String>,
    pub(crate) backend: String,
}

/// What one contender reached.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples {
    /// Work per second of wall time, by round.
    wall: Vec<f64>,
    /// Work and CPU-seconds of the whole browser, summed over the rounds.
    work: f64,
    cpu_seconds: f64,
    count: u32,
    /// Milliseconds of all rounds.
    spent: f64,
}

impl Samples {
    /// For a contender that takes `once` milliseconds.
    pub(crate) fn new(once: f64) -> Self {
        let count = (SAMPLE.as_secs_f64() * 1e3 / once.max(0.1)).round().clamp(1.0, f64::from(MAX_COUNT));
        Self { count: count as u32, ..Self::default() }
    }

    /// Work per second of processor time, or the median of work per second of wall time.
    pub(crate) fn rate(&self, by_cpu: bool) -> f64 {
        if by_cpu { self.work / self.cpu_seconds } else { median(&self.wall) }
    }
}

/// A tab on a page of `tests/bench`, and its browser.
pub(crate) struct Session {
    pub(crate) browser: Browser,
    pub(crate) tab: Tab,
    /// What the page says of the machine and its contenders.
    pub(crate) machine: Value,
    _server: server::Server,
}

impl Session {
    /// Serves the folders and opens `page`.
    pub(crate) async fn open(folders: Folders, page: &str) -> Result<Self> {
        let server = server::start(folders).await?;
        let options = LaunchOptions { gpu: Gpu::Auto, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await?;
        let tab = browser.new_tab().await?;
        tab.goto(&format!("http://{}/{page}", server.address)).await?;
        tab.wait_for("Boolean(window.bench)", Duration::from_mins(1)).await?;
        let machine: Value = tab.evaluate("bench.machine()").await?;
        anyhow::ensure!(machine["isolated"] == false, "the page is isolated: wasm could use threads");
        Ok(Self { browser, tab, machine, _server: server })
    }

    /// Ends the browser; what the page said goes to standard error if something failed.
    pub(crate) async fn close(self, outcome: &Result<()>) {
        if outcome.is_err() {
            for line in self.tab.console() {
                eprintln!("[page] {}: {}", line.level, line.text);
            }
        }
        self.browser.close().await;
    }

    /// Whether the adapter computes on the processor.
    pub(crate) fn software(&self) -> bool {
        self.machine["fallback"] == true
    }

    /// Browser and adapter, for the report.
    pub(crate) async fn describe(&self) -> Result<String> {
        Ok(format!(
            "browser: {}, WebGPU adapter {}{}",
            self.browser.version().await?,
            self.machine["adapter"].as_str().unwrap_or("unknown"),
            if self.software() { " (software)" } else { "" },
        ))
    }

    /// The page's contenders.
    pub(crate) fn contenders(&self) -> Result<Vec<Contender>> {
        let list = self.machine["contenders"].as_array().context("the page names no contenders")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(list
            .iter()
            .map(|c| Contender {
                name: text(&c["name"]).unwrap_or_default(),
                peer: text(&c["peer"]),
                backend: text(&c["backend"]).unwrap_or_default(),
            })
            .collect())
    }

    /// The value of a promise that may take minutes, as compiling kernels does on a software adapter.
    pub(crate) async fn patiently(&self, promise: &str) -> Result<Value> {
        let keep = format!(
            "window.answer = null;
             ({promise}).then((value) => {{ window.answer = {{ value }}; }},
                              (error) => {{ window.answer = {{ error: String(error?.stack ?? error) }}; }});
             true"
        );
        let _: bool = self.tab.evaluate(&keep).await?;
        self.tab.wait_for("Boolean(window.answer)", PATIENCE).await?;
        let mut answer: Value = self.tab.evaluate("window.answer").await?;
        match answer["error"].as_str() {
            Some(error) => anyhow::bail!("{error}"),
            None => Ok(answer["value"].take()),
        }
    }

    /// Milliseconds of `count` repetitions.
    pub(crate) async fn run(&self, name: &str, count: u32) -> Result<f64> {
        Ok(self.tab.evaluate(&format!("bench.run({}, {count})", Value::from(name))).await?)
    }

    /// All that have samples take turns, until each has computed enough; `work` is that of one repetition. Where only the
    /// best peer counts, `best_only`, those that cannot be it are not run again.
    pub(crate) async fn rounds(
        &self,
        contenders: &[Contender],
        all: &mut BTreeMap<String, Samples>,
        work: f64,
        best_only: bool,
    ) -> Result<()> {
        let pid = self.browser.process_id().context("Chromium ended")?;
        let mut running: Vec<&Contender> = contenders.iter().filter(|c| all.contains_key(&c.name)).collect();
        for _ in 0..ROUNDS {
            for contender in &running {
                let Some(samples) = all.get_mut(&contender.name) else { continue };
                let before = processes_cpu(pid);
                let ms = self.run(&contender.name, samples.count).await?;
                let amount = work * f64::from(samples.count);
                samples.cpu_seconds += processes_cpu(pid).saturating_sub(before).as_secs_f64();
                samples.work += amount;
                samples.wall.push(amount / ms * 1e3);
                samples.spent += ms;
            }
            let hopeless = if best_only { hopeless(&running, all) } else { BTreeSet::new() };
            let done = |c: &Contender| {
                all.get(&c.name)
                    .is_none_or(|s| s.wall.len() >= MIN_ROUNDS && s.spent >= ENOUGH.as_secs_f64() * 1e3)
            };
            running.retain(|c| !hopeless.contains(&c.name) && !done(c));
            // Another order each round: nobody always follows the one that heats the machine.
            let half = running.len() / 2;
            running.rotate_left(half);
        }
        Ok(())
    }
}

/// The folder of the pages.
pub(crate) fn pages() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench")
}

/// The peers that are far from the best of their class.
fn hopeless(running: &[&Contender], all: &BTreeMap<String, Samples>) -> BTreeSet<String> {
    let speed = |c: &Contender| all.get(&c.name).map_or(0.0, |s| s.rate(false));
    let peers = || running.iter().filter(|c| c.peer.is_some());
    peers()
        .filter(|c| {
            let best = peers().filter(|o| o.backend == c.backend).map(|o| speed(o)).fold(0.0, f64::max);
            speed(c) < HOPELESS * best
        })
        .map(|c| c.name.clone())
        .collect()
}

/// A rate of wall time and one of processor time; one of them has the goal.
///
/// Where the processor does the work (wasm, or WebGPU on a software adapter), the goal is judged by the rate per second
/// of processor time: on a shared machine rates of wall time vary threefold from one run to the next, these by a tenth,
/// and on an idle one they are the same for a single thread. On a real GPU it is judged by wall time.
pub(crate) fn pair(
    report: &mut Report,
    name: &str,
    [mine, theirs]: [&Samples; 2],
    label: &str,
    by_cpu: bool,
    goal: f64,
    units: [&'static str; 2],
) {
    let (wall, cpu) = (theirs.rate(false), theirs.rate(true));
    let goal = Goal::RatioAtLeast(goal);
    let row =
        Row::new(name, mine.rate(false), units[0]).against(format!("{label} {wall:.2}"), ratio(mine, theirs));
    report.row(if by_cpu { row } else { row.goal(goal) });
    let row = Row::new(format!("{name}.per-cpu-second"), mine.rate(true), units[1])
        .against(format!("{label} {cpu:.2}"), mine.rate(true) / cpu);
    report.row(if by_cpu { row.goal(goal) } else { row });
}

/// The median over the rounds of one's speed divided by the other's in the same round.
fn ratio(mine: &Samples, theirs: &Samples) -> f64 {
    median(&mine.wall.iter().zip(&theirs.wall).map(|(m, t)| m / t).collect::<Vec<_>>())
}
