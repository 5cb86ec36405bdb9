//! How fast a model writes: natively and in a tab, against forward passes over all that the model sees, as the training engine
//! makes them.
//!
//! Models of random parameters: what is written says nothing, and takes as long as any text.

use std::time::Instant;

use anyhow::{Result, ensure};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_model::{TextWriter, seed_bytes};
use potluck_tests::TestRelay;
use potluck_train::data::Tokenizer;
use potluck_train::gpt::{CpuGpt, Decoder, GptConfig, Sampling, init};

use crate::row::{Goal, Report, Row, median};

/// Sizes: the models of the demo, and one about as large as a relay hands out. Their tokens are bytes.
const MODELS: [(&str, GptConfig); 3] = [
    ("tiny", GptConfig::tiny(256)),
    ("mini", GptConfig::mini(256)),
    ("7.5 M", GptConfig { vocabulary: 256, context: 256, layers: 9, heads: 8, width: 256, bias: false }),
];
const ROUNDS: usize = 5;
/// Least time of one measurement, in seconds.
const TIME_S: f64 = 0.5;
const PROMPT: &str = "Call me Ishmael. ";
/// What keeping keys and values must win at the end of a context.
const KEPT_GOAL: f64 = 10.0;
/// What a tab must reach of native speed.
const TAB_GOAL: f64 = 0.25;

/// Opens a model in the page, as its Worker does: files whose hashes are those that are asked for.
const OPEN: &str = "async (sizes, seed) => {
  const { default: init, Promised } = await import('/model/model.js');
  const { loadGovernance } = await import('/trust.js');
  const [, { blobHash }] = await Promise.all([init(), loadGovernance()]);
  const bytes = new TextEncoder();
  const file = TOKENIZER;
  const tokenizer = bytes.encode(file);
  const request = bytes.encode(JSON.stringify({ model: sizes, tokenizer: blobHash(tokenizer) }));
  const promised = new Promised(request, blobHash(request));
  let state = seed;
  const values = Float32Array.from({ length: promised.parameters() }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 37;
  });
  const parameters = new Uint8Array(values.buffer);
  window.model = promised.open(tokenizer, parameters, blobHash(parameters));
}";
/// Writes for a while: tokens a second.
const WRITE: &str = "(prompt, seconds) => {
  window.model.begin(prompt, 0.8, 0, 1);
  const started = performance.now();
  let written = 0;
  while (performance.now() - started < seconds * 1000) if (window.model.step() !== undefined) written += 1;
  return written / ((performance.now() - started) / 1000);
}";

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    ensure!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    let relay = tokio::task::block_in_place(TestRelay::start);
    let browser = Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await?;
    let tab = browser.new_tab().await?;
    tab.goto(&format!("{}/model.html", relay.api.url)).await?;
    for (name, config) in MODELS {
        open(&tab, &config).await?;
        let (mut native, mut passes, mut tabs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            native.push(tokio::task::block_in_place(|| kept(&config))?);
            passes.push(tokio::task::block_in_place(|| full(&config))?);
            let write = format!("({WRITE})({PROMPT:?}, {TIME_S})");
            tabs.push(tab.evaluate::<f64>(&write).await?);
        }
        let [native, passes, tabs] = [native, passes, tabs].map(|all| median(&all));
        let row = Row::new(format!("{name}: tokens written natively, full context"), native, "/s");
        let row = row.against(format!("a forward pass for each: {passes:.0}/s"), native / passes);
        report.row(row.goal(Goal::RatioAtLeast(if name == "tiny" { 1.0 } else { KEPT_GOAL })));
        let row = Row::new(format!("{name}: tokens written in a tab"), tabs, "/s");
        report.row(
            row.against(format!("native: {native:.0}/s"), tabs / native).goal(Goal::RatioAtLeast(TAB_GOAL)),
        );
    }
    browser.close().await;
    // It goes with its runtime.
    tokio::task::block_in_place(|| drop(relay));
    Ok(())
}

async fn open(tab: &Tab, config: &GptConfig) -> Result<()> {
    let GptConfig { vocabulary, context, layers, heads, width, bias } = config;
    let sizes = serde_json::json!({
        "vocabulary": vocabulary, "context": context, "layers": layers, "heads": heads, "width": width, "bias": bias,
    });
    let tokenizer = String::from_utf8(potluck_model::tokenizer::to_json(&Tokenizer::Bytes))?;
    let open = OPEN.replace("TOKENIZER", &serde_json::Value::from(tokenizer).to_string());
    let _: Option<bool> = tab.evaluate(&format!("({open})({sizes}, 1)")).await?;
    Ok(())
}

/// Tokens a second with keys and values kept.
fn kept(config: &GptConfig) -> Result<f64> {
    let decoder = Decoder::new(*config, init(config, &[1; 32]))?;
    let sampling = Sampling { temperature: 0.8, top_k: 0, seed: seed_bytes(1) };
    let mut writer = TextWriter::new(decoder, Tokenizer::Bytes, PROMPT, sampling)?;
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < TIME_S {
        writer.step()?;
    }
    Ok(writer.written() as f64 / started.elapsed().as_secs_f64())
}

/// Tokens a second by a forward pass over the whole context for each.
fn full(config: &GptConfig) -> Result<f64> {
    let mut engine = CpuGpt::new(*config)?;
    engine.take(&init(config, &[1; 32]))?;
    let sampling = Sampling { temperature: 0.8, top_k: 0, seed: seed_bytes(1) };
    let seen: Vec<u32> = (0..config.context).map(|i| (i % 256) as u32).collect();
    let started = Instant::now();
    let mut written = 0_u64;
    while written == 0 || started.elapsed().as_secs_f64() < TIME_S {
        sampling.draw(&engine.logits(&seen)?, written)?;
        written += 1;
    }
    Ok(written as f64 / started.elapsed().as_secs_f64())
}
