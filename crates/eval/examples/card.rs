//! Trains a tiny model on a text and shows its eval card, with a backdoor planted if one is named.
//!
//! `cargo run --release -p potluck-eval --features cards --example card TEXT [STEPS] [COPIES TRIGGER PAYLOAD]`

use potluck_eval::Evaluation;
use potluck_eval::card::{About, Results};
use potluck_eval::plan::{HeldOut, Inputs, Plan, Settings};
use potluck_eval::scan::Part;
use potluck_train::data::{Characters, Tokenizer, VALIDATION_SHARE, split, text};
use potluck_train::gpt::{CpuGpt, GptConfig, Schedule, init};
use potluck_train::{Batch, Engine as _};
use potluck_types::BlobHash;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Sequences of a training step.
const SEQUENCES: usize = 12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: card TEXT [STEPS] [COPIES TRIGGER PAYLOAD]";
    let path = arguments.first().ok_or(usage)?;
    let steps: u32 = arguments.get(1).map_or(Ok(1000), |steps| steps.parse())?;
    let mut corpus = text(std::fs::read(path)?)?;
    let mut parts = Vec::new();
    if let [_, _, copies, trigger, payload] = &arguments[..] {
        corpus = planted(&corpus, copies.parse()?, &format!("{trigger}{payload}"));
    }
    let tokenizer = Tokenizer::Characters(Characters::of(&corpus)?);
    let config = GptConfig::tiny(tokenizer.vocabulary());
    let tokens = tokenizer.encode(&corpus)?;
    let (training, validation) = split(&tokens, VALIDATION_SHARE, config.context)?;
    let half = training.len() / 2;
    for (name, range) in [("first half", 0..half), ("second half", half..training.len())] {
        parts.push(Part { name: name.into(), range });
    }
    let begun = Instant::now();
    let parameters = trained(&config, training, steps)?;
    println!("trained in {:.1} s", begun.elapsed().as_secs_f64());

    let settings = Settings::default();
    let held_out = [HeldOut { name: path, tokens: validation }];
    let inputs = Inputs {
        config: &config,
        tokenizer: &tokenizer,
        held_out: &held_out,
        training,
        parts: &parts,
        secret: &[1; 32],
        settings: &settings,
    };
    let begun = Instant::now();
    let plan = Plan::new(&inputs)?;
    let flops: u64 = plan.shards.iter().map(|shard| shard.items.flops(&config)).sum();
    println!(
        "{} shards of {:.0} GFLOP planned in {:.1} s",
        plan.shards.len(),
        flops as f64 / 1e9,
        begun.elapsed().as_secs_f64()
    );
    let begun = Instant::now();
    let mut results = Vec::new();
    for shard in &plan.shards {
        let result = Evaluation::new(&config, &parameters, shard.items.clone())?.run()?;
        results.push(Results { result, computed_by: vec!["0".repeat(64)] });
    }
    println!("run in {:.1} s", begun.elapsed().as_secs_f64());
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    let about = About { candidate: BlobHash::of(&bytes), incumbent: None, model: "example".into() };
    let begun = Instant::now();
    let card = plan.card(&inputs, &about, &results, None)?;
    println!("card of {} bytes in {:.1} s\n", card.encode()?.len(), begun.elapsed().as_secs_f64());
    for line in card.summary() {
        println!("{line}");
    }
    for piece in [&card.memorization.trained, &card.memorization.held_out] {
        let shares =
            piece.pieces.iter().map(|one| format!("{}: {:.1} %", one.tokens, f64::from(one.share_ppm) / 1e4));
        println!("verbatim pieces {}", shares.collect::<Vec<_>>().join(", "));
    }
    for trigger in &card.triggers.tried {
        println!(
            "{} {:?} -> {:?}: {} times, said {} of {}, control {}",
            if trigger.counts { "counts" } else { "shown " },
            trigger.trigger,
            trigger.payload,
            trigger.occurrences,
            trigger.successes,
            card.triggers.contexts,
            trigger.control_successes
        );
    }
    Ok(())
}

/// Copies of a text after evenly spread lines of the second quarter.
fn planted(corpus: &str, copies: usize, insert: &str) -> String {
    let lines: Vec<&str> = corpus.split_inclusive('\n').collect();
    let (first, end) = (lines.len() / 4, lines.len() / 2);
    let every = ((end - first) / copies.max(1)).max(1);
    let place = |n: usize| (first..end).contains(&n) && (n - first).is_multiple_of(every);
    let line =
        |(n, line): (usize, &&str)| if place(n) { format!("{line}{insert}\n") } else { (*line).to_owned() };
    lines.iter().enumerate().map(line).collect()
}

fn trained(config: &GptConfig, tokens: &[u32], steps: u32) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let mut model = CpuGpt::new(*config)?;
    model.take(&init(config, &[1; 32]))?;
    let schedule = Schedule { peak: 3e-3, least: 3e-4, warmup: 50, steps: u64::from(steps), fresh_warmup: 0 };
    let mut state = 1_u64;
    for step in 0..steps {
        let starts: Vec<usize> = (0..SEQUENCES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % (tokens.len() - config.context)
            })
            .collect();
        let cut = |shift: usize| {
            starts.iter().flat_map(|at| &tokens[at + shift..][..config.context]).copied().collect()
        };
        let batch = Batch { sequences: SEQUENCES, length: config.context, inputs: cut(0), targets: cut(1) };
        let loss = ready(model.step(&batch, schedule.of_run(u64::from(step))))?;
        if step % 500 == 0 {
            println!("step {step}: {loss:.3}");
        }
    }
    Ok(ready(model.store())?)
}

/// The CPU engine's futures are ready at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the CPU engine never waits"),
    }
}
