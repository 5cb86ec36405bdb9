//! `drift`: what a replay finds between honest runs that add up in another order or on another device, and between them
//! and cheats.

use super::{Options, bar};
use crate::artifacts;
use crate::contest::{Session, pages};
use crate::row::{Goal, Report, Row};
use crate::server::Folders;
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use potluck_kernels::{Gpu, GpuOptions};
use potluck_tests::train::Corpus;
use potluck_tests::train::drift::{Drift, Stage, measure};
use potluck_tests::train::early::{self, Setting, early};
use potluck_train::gpt::{GpuGpt, GpuGptOptions};
use potluck_train::round::{Part, Round, Update};
use potluck_verify::Tolerances;
use potluck_volunteer::trainer::kernel_shape;
use serde_json::{Value, json};

/// Peaks of the learning rate in billionths, and steps of warm-up whenever AdamW begins anew, of the first rounds measured.
const EARLY: [(u32, u32); 4] = [(2_000_000, 0), (2_000_000, 2), (3_000_000, 0), (3_000_000, 2)];
/// Runs of each.
const EARLY_SEEDS: u64 = 16;
/// Inner steps of the rounds that are measured.
const INNER: [u32; 3] = [5, 10, 20];

/// Measures all ways at all lengths of a round; other devices unless it has to be quick.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let corpus = options.corpus(report)?;
    let Tolerances { whole, tensor, loss, .. } = Tolerances::default();
    report.note(&format!("tolerances: update {whole:e}, tensor {tensor:e}, loss {loss:e} nats"));
    let mut stage = Stage::new(&corpus)?;
    let lengths = if options.quick { &INNER[..1] } else { &INNER };
    for &inner in lengths {
        for drift in measure(&mut stage, inner)? {
            row(report, &drift, inner);
        }
    }
    if options.quick {
        return Ok(());
    }
    first_rounds(report, &corpus)?;
    let runtime = crate::runtime()?;
    runtime.block_on(gpu(report, &mut stage))?;
    runtime.block_on(browser(report, &mut stage))
}

fn row(report: &mut Report, drift: &Drift, inner: u32) {
    let tolerance = Tolerances::default().whole;
    // A cheat must be above the tolerance of the update, or another figure must give it away.
    let goal = if drift.honest { Goal::ValueAtMost(tolerance) } else { Goal::ValueAtLeast(tolerance) };
    let peer = format!(
        "tensor {:.1e}, loss {:.1e}, confirmed {} of {}",
        drift.tensor, drift.loss, drift.confirmed, drift.samples
    );
    let row = Row::new(format!("drift.{}.h{inner}", drift.name), drift.whole, "of the update");
    report.row(row.digits(7).with_peer(peer).goal(goal));
}

/// The first rounds of short runs: what the learning rate makes of rounding, and what an audit makes of that.
fn first_rounds(report: &mut Report, corpus: &Corpus) -> Result<()> {
    report.note(&format!(
        "first rounds: {EARLY_SEEDS} runs a setting, {} rounds of 10 steps, {} workers, each by two other devices",
        early::ROUNDS,
        early::WORKERS
    ));
    for (peak_nano, fresh_warmup) in EARLY {
        let bar = bar("first rounds", EARLY_SEEDS * early::ROUNDS, "rounds");
        let setting = Setting { peak_nano, fresh_warmup };
        let found = early(corpus, setting, EARLY_SEEDS, &|rounds| bar.inc(rounds))?;
        bar.finish_and_clear();
        let name = format!("drift.early.p{}.w{fresh_warmup}", peak_nano / 1_000_000);
        let updates = found.deviations.len() as f64;
        let [middle, most, greatest] = [0.5, 0.99, 1.0].map(|share| found.quantile(share));
        let figures = format!("99 % within {most:.1e}, greatest {greatest:.1e}, loss {:.4}", found.loss);
        report
            .row(Row::new(format!("{name}.deviation"), middle, "of the update").digits(7).with_peer(figures));
        let once =
            format!("of {updates}, {} by one replay; {} not judged", found.refuted_once, found.unjudged);
        let refuted = Row::new(format!("{name}.refuted"), f64::from(found.refuted), "honest updates");
        report.row(refuted.digits(0).with_peer(once).goal(Goal::ValueAtMost(0.0)));
    }
    Ok(())
}

/// This machine's GPU, or what stands in for one.
async fn gpu(report: &mut Report, stage: &mut Stage<'_>) -> Result<()> {
    let gpu = match Gpu::request(GpuOptions::default()).await {
        Ok(gpu) => gpu,
        Err(cause) => {
            report.note(&format!("no native GPU: {cause}"));
            return Ok(());
        }
    };
    report.note(&format!("native GPU: {}", gpu.adapter().name));
    let calibrated = potluck_kernels::Variant::Tiled64;
    let shape = kernel_shape(calibrated, gpu.adapter().is_software);
    for inner in INNER {
        let mut drift = Drift::new("honest-native-gpu".to_owned(), true);
        for part in stage.parts(inner) {
            let options = GpuGptOptions::new(part.sequences, part.order.length(), shape);
            let (device, queue) = (gpu.device().clone(), gpu.queue().clone());
            let mut engine = GpuGpt::new(device, queue, stage.config(), options).await?;
            let round = Round::start(part, stage.start(), &mut engine).await?;
            let claimed = round.finish(&mut engine, stage.data()).await?;
            stage.judge(&mut drift, part, &claimed)?;
        }
        row(report, &drift, inner);
    }
    Ok(())
}

/// A tab's two engines.
async fn browser(report: &mut Report, stage: &mut Stage<'_>) -> Result<()> {
    let page = pages();
    // No peers here: nothing of npm is asked for.
    let folders = Folders { npm: page.clone(), engine: artifacts::engine()?, burn: None, page };
    let session = Session::open(folders, "drift.html").await?;
    let outcome = tabs(report, stage, &session).await;
    session.close(&outcome).await;
    outcome
}

async fn tabs(report: &mut Report, stage: &mut Stage<'_>, session: &Session) -> Result<()> {
    report.note(&session.describe().await?);
    for backend in ["webgpu", "wasm"] {
        for inner in INNER {
            let mut drift = Drift::new(format!("honest-tab-{backend}"), true);
            for part in stage.parts(inner) {
                let claimed = in_tab(stage, session, backend, part).await?;
                stage.judge(&mut drift, part, &claimed)?;
            }
            row(report, &drift, inner);
        }
    }
    Ok(())
}

async fn in_tab(stage: &Stage<'_>, session: &Session, backend: &str, part: Part) -> Result<Update> {
    let mut batches = Vec::new();
    for step in 0..part.steps {
        let starts = part.order.batch(part.round, part.worker, step, part.sequences)?;
        let batch = stage.data().batch(&starts, part.order.length())?;
        let rate = part.rate(step, step.into());
        batches.push(json!({ "inputs": batch.inputs, "targets": batch.targets, "rate": rate }));
    }
    let start: Vec<u8> = stage.start().iter().flat_map(|value| value.to_le_bytes()).collect();
    let task = json!({
        "backend": backend,
        "vocabulary": stage.config().vocabulary,
        "start": BASE64_STANDARD.encode(start),
        "sequences": part.sequences,
        "length": part.order.length(),
        "batches": batches,
    });
    let answer = session.patiently(&format!("bench.train({task})")).await?;
    let losses: Vec<f32> = answer["losses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .map(|l| l as f32)
        .collect();
    let after = BASE64_STANDARD.decode(answer["after"].as_str().context("the page gave no parameters")?)?;
    let after = after.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four));
    let delta = stage.start().iter().zip(after).map(|(before, after)| before - after).collect();
    Ok(Update { delta, losses })
}
