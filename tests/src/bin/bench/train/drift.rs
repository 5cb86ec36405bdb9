//! `drift`: what a replay finds between honest runs that add up in another order or on another device, and between them
//! and cheats.

use super::Options;
use crate::artifacts;
use crate::contest::{Session, pages};
use crate::row::{Goal, Report, Row};
use crate::server::Folders;
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use potluck_kernels::{Gpu, GpuOptions};
use potluck_tests::train::drift::{Drift, Stage, measure};
use potluck_train::gpt::{GpuGpt, GpuGptOptions};
use potluck_train::round::{Part, Round, Update};
use potluck_verify::Tolerances;
use potluck_volunteer::trainer::kernel_shape;
use serde_json::{Value, json};

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
        let rate = part.schedule.at(part.steps_before + u64::from(step));
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
