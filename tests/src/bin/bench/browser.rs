//! `browser`: our kernels and their peers multiply the same matrices in one headless Chromium session.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab};
use serde_json::Value;

use crate::clock::processes_cpu;
use crate::row::{Goal, Report, Row, median};
use crate::{peers, server};

const SIDES: [u32; 3] = [256, 512, 1024];
const ROUNDS: usize = 9;

/// One sample repeats the product until it should last this long.
const SAMPLE: Duration = Duration::from_millis(150);
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
}

/// Runs all sizes.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let folders = server::Folders { npm: peers::install(&page)?, engine: engine()?, page };
    let server = server::start(folders).await?;
    let options = LaunchOptions { gpu: Gpu::Auto, ..LaunchOptions::default() };
    let browser = Browser::launch(&options).await?;
    let outcome = session(report, &browser, &format!("http://{}/", server.address)).await;
    browser.close().await;
    outcome
}

/// The folder of our kernels as wasm, as `cargo xtask bench` built it.
fn engine() -> Result<PathBuf> {
    let folder = PathBuf::from(
        env::var_os("POTLUCK_BENCH_ENGINE")
            .context("no engine. hint: run `cargo xtask bench browser`, which builds it")?,
    );
    let glue = folder.join("potluck_bench_engine.js");
    ensure!(
        glue.is_file(),
        "{} is missing. hint: run `cargo xtask bench browser`, which builds it",
        glue.display()
    );
    Ok(folder)
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
    tab.wait_for("Boolean(window.bench)", Duration::from_secs(60)).await?;
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
        rows(report, &contenders, &samples, side)?;
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
        if !(error <= MAX_ERROR) {
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
        }
        let hopeless = hopeless(&running, &all);
        running.retain(|c| !hopeless.contains(&c.name));
        // Another order each round: nobody always follows the one that heats the machine.
        let half = running.len() / 2;
        running.rotate_left(half);
    }
    Ok(all)
}

/// The peers that are far from the best of their class.
fn hopeless(running: &[&Contender], all: &BTreeMap<String, Samples>) -> BTreeSet<String> {
    let speed = |c: &Contender| all.get(&c.name).map_or(0.0, |s| median(&s.wall));
    let peers = || running.iter().filter(|c| c.peer.is_some());
    peers()
        .filter(|c| {
            let best = peers().filter(|o| o.backend == c.backend).map(|o| speed(o)).fold(0.0, f64::max);
            speed(c) < HOPELESS * best
        })
        .map(|c| c.name.clone())
        .collect()
}

fn rows(
    report: &mut Report,
    contenders: &[Contender],
    all: &BTreeMap<String, Samples>,
    side: u32,
) -> Result<()> {
    let ours = |backend: &str| {
        contenders.iter().find(|c| c.peer.is_none() && c.backend == backend).and_then(|c| all.get(&c.name))
    };
    let (webgpu, wasm, auto) = (ours("webgpu"), ours("wasm"), ours("auto"));
    for (backend, mine, goal) in [("webgpu", webgpu, GPU_GOAL), ("wasm", wasm, WASM_GOAL)] {
        let best = contenders
            .iter()
            .filter(|c| c.peer.is_some() && c.backend == backend)
            .filter_map(|c| Some((c, all.get(&c.name)?)))
            .max_by(|x, y| median(&x.1.wall).total_cmp(&median(&y.1.wall)));
        let (Some(mine), Some((peer, theirs))) = (mine, best) else {
            report.note(&format!("{backend} at {side}: nothing to compare"));
            continue;
        };
        let label = peer.peer.as_deref().unwrap_or_default();
        report.row(
            Row::new(format!("browser.{backend}.{side}"), median(&mine.wall), "GFLOP/s")
                .against(format!("{label} {backend} {:.2}", median(&theirs.wall)), ratio(mine, theirs))
                .goal(Goal::RatioAtLeast(goal)),
        );
        report.row(
            Row::new(format!("browser.{backend}.{side}.per-cpu-second"), per_cpu(mine), "GFLOP/CPU-s")
                .against(
                    format!("{label} {backend} {:.2}", per_cpu(theirs)),
                    per_cpu(mine) / per_cpu(theirs),
                ),
        );
        for other in
            contenders.iter().filter(|c| c.backend == backend && c.peer.is_some() && c.name != peer.name)
        {
            let Some(samples) = all.get(&other.name) else { continue };
            let speed = median(&samples.wall);
            report.row(Row::new(format!("browser.{}.{side}", other.name), speed, "GFLOP/s"));
        }
    }
    let (Some(webgpu), Some(wasm), Some(auto)) = (webgpu, wasm, auto) else {
        bail!("the page lacks one of our contenders");
    };
    let (label, better) =
        if median(&webgpu.wall) > median(&wasm.wall) { ("our webgpu", webgpu) } else { ("our wasm", wasm) };
    report.row(
        Row::new(format!("browser.auto.{side}"), median(&auto.wall), "GFLOP/s")
            .against(format!("{label} {:.2}", median(&better.wall)), ratio(auto, better))
            .goal(Goal::RatioAtLeast(AUTO_GOAL)),
    );
    Ok(())
}

/// The median over the rounds of one's speed divided by the other's in the same round.
fn ratio(mine: &Samples, theirs: &Samples) -> f64 {
    median(&mine.wall.iter().zip(&theirs.wall).map(|(m, t)| m / t).collect::<Vec<_>>())
}

fn per_cpu(samples: &Samples) -> f64 {
    samples.gflop / samples.cpu_seconds
}
