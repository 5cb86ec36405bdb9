//! `browser`: our kernels and their peers multiply the same matrices in one headless Chromium session.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab};
use serde_json::Value;

use crate::artifacts;
use crate::clock::processes_cpu;
use crate::row::{Goal, Report, Row, median};
use crate::{peers, server};

const SIDES: [u32; 3] = [256, 512, 1024];
const ROUNDS: usize = 21;
/// A contender that has computed for this long at one size, and for [`MIN_ROUNDS`], is done with it.
const ENOUGH: Duration = Duration::from_secs(6);
const MIN_ROUNDS: usize = 5;

/// One sample repeats the product until it should last this long.
const SAMPLE: Duration = Duration::from_millis(80);
/// Repetitions in one sample, however fast.
const MAX_COUNT: u32 = 200;

/// Largest error of an element, relative to the sum of its terms' magnitudes: several times what f32 sums of 1024
/// terms reach in any order, and far below what a missing or doubled term of 1024 leaves.
const MAX_ERROR: f64 = 4e-6;

/// A peer below this share of its class's best after the first round cannot be the best: it is not run again.
const HOPELESS: f64 = 0.5;

const GPU_GOAL: f64 = 1.5;
const WASM_GOAL: f64 = 1.1;
/// Within 5 % of the better of our two.
const AUTO_GOAL: f64 = 0.95;

/// Who multiplies, as the page says.
#[derive(Debug, Clone)]
struct Contender {
    name: String,
    /// None: ours.
    peer: Option<String>,
    backend: String,
}

/// What one contender reached at one size.
#[derive(Debug, Default, Clone)]
struct Samples {
    /// GFLOP/s of wall time by round.
    wall: Vec<f64>,
    /// GFLOP and CPU-seconds of the whole browser, summed over the rounds.
    gflop: f64,
    cpu_seconds: f64,
    count: u32,
    /// Milliseconds of all rounds.
    spent: f64,
}

impl Samples {
    /// GFLOP per second of processor time, or the median of GFLOP per second of wall time.
    fn rate(&self, by_cpu: bool) -> f64 {
        if by_cpu { self.gflop / self.cpu_seconds } else { median(&self.wall) }
    }
}

/// Runs all sizes.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let folders = server::Folders { npm: peers::install(&page)?, engine: artifacts::engine()?, page };
    let server = server::start(folders).await?;
    let options = LaunchOptions { gpu: Gpu::Auto, ..LaunchOptions::default() };
    let browser = Browser::launch(&options).await?;
    let outcome = session(report, &browser, &format!("http://{}/", server.address)).await;
    browser.close().await;
    outcome
}

async fn session(report: &mut Report, browser: &Browser, url: &str) -> Result<()> {
    let tab = browser.new_tab().await?;
    tab.goto(url).await?;
    let outcome = sizes(report, browser, &tab).await;
    if outcome.is_err() {
        for line in tab.console() {
            eprintln!("[page] {}: {}", line.level, line.text);
        }
    }
    outcome
}

async fn sizes(report: &mut Report, browser: &Browser, tab: &Tab) -> Result<()> {
    tab.wait_for("Boolean(window.bench)", Duration::from_mins(1)).await?;
    let machine: Value = tab.evaluate("bench.machine()").await?;
    ensure!(machine["isolated"] == Value::Bool(false), "the page is isolated: wasm could use threads");
    report.note(&format!(
        "browser: {}, WebGPU adapter {}{}, auto chose {} in {} ms",
        browser.version().await?,
        machine["adapter"].as_str().unwrap_or("unknown"),
        if machine["fallback"] == Value::Bool(true) { " (software)" } else { "" },
        machine["auto"]["choice"].as_str().unwrap_or("nothing"),
        machine["auto"]["ms"],
    ));
    let contenders: Vec<Contender> = machine["contenders"]
        .as_array()
        .context("the page names no contenders")?
        .iter()
        .map(|c| Contender {
            name: c["name"].as_str().unwrap_or_default().to_owned(),
            peer: c["peer"].as_str().map(str::to_owned),
            backend: c["backend"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    for side in SIDES {
        let samples = one_size(report, browser, tab, &contenders, side).await?;
        rows(report, &contenders, &samples, side, machine["fallback"] == Value::Bool(true))?;
    }
    Ok(())
}

async fn one_size(
    report: &Report,
    browser: &Browser,
    tab: &Tab,
    contenders: &[Contender],
    side: u32,
) -> Result<BTreeMap<String, Samples>> {
    let pid = browser.process_id().context("Chromium ended")?;
    tab.evaluate::<Value>(&format!("bench.begin({side})")).await?;
    let gflop = 2.0 * f64::from(side).powi(3) / 1e9;
    let mut all = BTreeMap::new();
    for contender in contenders {
        let name = Value::from(contender.name.as_str());
        let prepared: Result<Value, _> = tab.evaluate(&format!("bench.prepare({name})")).await;
        let error = match prepared {
            Ok(answer) => answer["error"].as_f64().unwrap_or(f64::NAN),
            // A peer that does not run here is no peer; ours must run.
            Err(cause) if contender.peer.is_some() => {
                report.note(&format!("{} at {side} does not run here: {cause}", contender.name));
                continue;
            }
            Err(cause) => bail!("{} at {side}: {cause}", contender.name),
        };
        if error.is_nan() || error > MAX_ERROR {
            let text =
                format!("{} at {side} gives wrong products: error {error:.1e} against f64", contender.name);
            ensure!(contender.peer.is_some(), text);
            report.note(&text);
            continue;
        }
        let once: f64 = tab.evaluate(&format!("bench.run({name}, 1)")).await?;
        let count =
            (SAMPLE.as_secs_f64() * 1e3 / once.max(0.1)).round().clamp(1.0, f64::from(MAX_COUNT)) as u32;
        all.insert(contender.name.clone(), Samples { count, ..Samples::default() });
    }
    let mut running: Vec<&Contender> = contenders.iter().filter(|c| all.contains_key(&c.name)).collect();
    for _ in 0..ROUNDS {
        for contender in &running {
            let Some(samples) = all.get_mut(&contender.name) else { continue };
            let name = Value::from(contender.name.as_str());
            let before = processes_cpu(pid);
            let ms: f64 = tab.evaluate(&format!("bench.run({name}, {})", samples.count)).await?;
            let work = gflop * f64::from(samples.count);
            samples.cpu_seconds += processes_cpu(pid).saturating_sub(before).as_secs_f64();
            samples.gflop += work;
            samples.wall.push(work / ms * 1e3);
            samples.spent += ms;
        }
        let hopeless = hopeless(&running, &all);
        let done = |c: &Contender| {
            all.get(&c.name)
                .is_none_or(|s| s.wall.len() >= MIN_ROUNDS && s.spent >= ENOUGH.as_secs_f64() * 1e3)
        };
        running.retain(|c| !hopeless.contains(&c.name) && !done(c));
        // Another order each round: nobody always follows the one that heats the machine.
        let half = running.len() / 2;
        running.rotate_left(half);
    }
    Ok(all)
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

/// The figures of one size.
///
/// Where the processor does the work (wasm, or WebGPU on a software adapter), the goal is judged by the rate per second
/// of processor time: on a shared machine rates of wall time vary threefold from one run to the next, these by a tenth,
/// and on an idle one they are the same for a single thread. On a real GPU it is judged by wall time.
fn rows(
    report: &mut Report,
    contenders: &[Contender],
    all: &BTreeMap<String, Samples>,
    side: u32,
    software: bool,
) -> Result<()> {
    let ours = |backend: &str| {
        contenders.iter().find(|c| c.peer.is_none() && c.backend == backend).and_then(|c| all.get(&c.name))
    };
    let (webgpu, wasm, auto) = (ours("webgpu"), ours("wasm"), ours("auto"));
    for (backend, mine, goal) in [("webgpu", webgpu, GPU_GOAL), ("wasm", wasm, WASM_GOAL)] {
        let by_cpu = software || backend == "wasm";
        let peers = || {
            let of_class = contenders.iter().filter(|c| c.peer.is_some() && c.backend == backend);
            of_class.filter_map(|c| Some((c, all.get(&c.name)?)))
        };
        let best = peers().max_by(|x, y| x.1.rate(by_cpu).total_cmp(&y.1.rate(by_cpu)));
        let (Some(mine), Some((peer, theirs))) = (mine, best) else {
            report.note(&format!("{backend} at {side}: nothing to compare"));
            continue;
        };
        let label = peer.peer.as_deref().unwrap_or_default();
        pair(report, &format!("browser.{backend}.{side}"), mine, theirs, label, by_cpu, goal);
        for (other, samples) in peers() {
            let (wall, cpu) = (samples.rate(false), samples.rate(true));
            let label = format!("{cpu:.2} per CPU-second");
            report.row(
                Row::new(format!("browser.{}.{side}", other.name), wall, "GFLOP/s")
                    .against(label, wall / cpu),
            );
        }
    }
    let (Some(wasm), Some(auto)) = (wasm, auto) else {
        bail!("the page lacks one of our contenders");
    };
    let (label, better) = match webgpu {
        Some(webgpu) if webgpu.rate(software) > wasm.rate(software) => ("our webgpu", webgpu),
        _ => ("our wasm", wasm),
    };
    pair(report, &format!("browser.auto.{side}"), auto, better, label, software, AUTO_GOAL);
    Ok(())
}

/// A rate of wall time and one of processor time; one of them has the goal.
fn pair(
    report: &mut Report,
    name: &str,
    mine: &Samples,
    theirs: &Samples,
    label: &str,
    by_cpu: bool,
    goal: f64,
) {
    let (wall, cpu) = (theirs.rate(false), theirs.rate(true));
    let goal = Goal::RatioAtLeast(goal);
    let row = Row::new(name, mine.rate(false), "GFLOP/s")
        .against(format!("{label} {wall:.2}"), ratio(mine, theirs));
    report.row(if by_cpu { row } else { row.goal(goal) });
    let row = Row::new(format!("{name}.per-cpu-second"), mine.rate(true), "GFLOP/CPU-s")
        .against(format!("{label} {cpu:.2}"), mine.rate(true) / cpu);
    report.row(if by_cpu { row.goal(goal) } else { row });
}

/// The median over the rounds of one's speed divided by the other's in the same round.
fn ratio(mine: &Samples, theirs: &Samples) -> f64 {
    median(&mine.wall.iter().zip(&theirs.wall).map(|(m, t)| m / t).collect::<Vec<_>>())
}
