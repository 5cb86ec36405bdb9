//! Tokens per second of the CPU engine, one thread: `cargo run --release -p potluck-train --example step`.

use potluck_train::gpt::{CpuGpt, GptConfig, init};
use potluck_train::{Batch, Engine as _, TrainError};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The CPU engine's futures are ready at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the CPU engine never waits"),
    }
}

/// Batches of 65 characters, each another.
fn batches(sequences: usize, length: usize) -> Vec<Batch> {
    let count = sequences * length;
    let token = |i: usize| (blake3::hash(&i.to_le_bytes()).as_bytes()[0] % 65).into();
    let batch = |b: usize| {
        let tokens: Vec<u32> = (b * count..=(b + 1) * count).map(token).collect();
        Batch { sequences, length, inputs: tokens[..count].to_vec(), targets: tokens[1..].to_vec() }
    };
    (0..16).map(batch).collect()
}

fn main() -> Result<(), TrainError> {
    for (name, config, sequences) in [
        ("tiny", GptConfig::tiny(65), 4),
        ("mini", GptConfig::mini(65), 4),
        ("small", GptConfig::small(65), 2),
    ] {
        let length = config.context;
        let batches = batches(sequences, length);
        let parameters = init(&config, &[1; 32]);
        let mut engine = CpuGpt::new(config)?;
        // The best of several: other programs only make it slower.
        let (mut step, mut forward) = (f64::INFINITY, f64::INFINITY);
        let mut loss = 0.0;
        let start = Instant::now();
        while start.elapsed().as_secs() < 5 {
            ready(engine.load(&parameters))?;
            for batch in &batches {
                let at = Instant::now();
                loss = ready(engine.step(batch, 1e-3))?;
                step = step.min(at.elapsed().as_secs_f64());
                let at = Instant::now();
                ready(engine.loss(batch))?;
                forward = forward.min(at.elapsed().as_secs_f64());
            }
        }
        let count = (sequences * length) as f64;
        // Two operations for each weight in forward, four in backward; the position embedding has none.
        let flops = 6.0 * (engine.parameters() - config.context * config.width) as f64 * count;
        println!(
            "{name}: {sequences} x {length}, {:.2} ms a step ({:.2} forward), {:.0} tokens/s, {:.1} GFLOP/s, loss {loss:.3}",
            1e3 * step,
            1e3 * forward,
            count / step,
            flops / step / 1e9,
        );
    }
    Ok(())
}
