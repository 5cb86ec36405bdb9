//! `browser`: our kernels and their peers multiply the same matrices in one headless Chromium session.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::contest::{Contender, Samples, Session, pages, pair};
use crate::row::{Report, Row};
use crate::server::Folders;
use crate::{artifacts, peers};

const SIDES: [u32; 3] = [256, 512, 1024];
const UNITS: [&str; 2] = ["GFLOP/s", "GFLOP/CPU-s"];

/// Largest error of an element, relative to the sum of its terms' magnitudes: several times what f32 sums of 1024
/// terms reach in any order, and far below what a missing or doubled term of 1024 leaves.
const MAX_ERROR: f64 = 4e-6;

const GPU_GOAL: f64 = 1.5;
const WASM_GOAL: f64 = 1.1;
/// Within 5 % of the better of our two.
const AUTO_GOAL: f64 = 0.95;

/// Runs all sizes.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let page = pages();
    let folders = Folders { npm: peers::install(&page)?, engine: artifacts::engine()?, burn: None, page };
    let session = Session::open(folders, "").await?;
    let outcome = sizes(report, &session).await;
    session.close(&outcome).await;
    outcome
}

async fn sizes(report: &mut Report, session: &Session) -> Result<()> {
    let auto = &session.machine["auto"];
    report.note(&format!(
        "{}, auto chose {} in {} ms",
        session.describe().await?,
        auto["choice"].as_str().unwrap_or("nothing"),
        auto["ms"],
    ));
    let contenders = session.contenders()?;
    for side in SIDES {
        let samples = one_size(report, session, &contenders, side).await?;
        rows(report, &contenders, &samples, side, session.software())?;
    }
    Ok(())
}

async fn one_size(
    report: &Report,
    session: &Session,
    contenders: &[Contender],
    side: u32,
) -> Result<BTreeMap<String, Samples>> {
    session.tab.evaluate::<Value>(&format!("bench.begin({side})")).await?;
    let mut all = BTreeMap::new();
    for contender in contenders {
        let name = Value::from(contender.name.as_str());
        let prepared: Result<Value, _> = session.tab.evaluate(&format!("bench.prepare({name})")).await;
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
        all.insert(contender.name.clone(), Samples::new(session.run(&contender.name, 1).await?));
    }
    session.rounds(contenders, &mut all, 2.0 * f64::from(side).powi(3) / 1e9, true).await?;
    Ok(all)
}

/// The figures of one size.
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
        pair(report, &format!("browser.{backend}.{side}"), [mine, theirs], label, by_cpu, goal, UNITS);
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
    pair(report, &format!("browser.auto.{side}"), [auto, better], label, software, AUTO_GOAL, UNITS);
    Ok(())
}
