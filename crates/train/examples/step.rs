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

fn main() -> Result<(), TrainError> {
    for (name, config, sequences) in
        [("tiny", GptConfig::tiny(65), 4), ("mini", GptConfig::mini(65), 4), ("small", GptConfig::small(65), 2)]
    {
        let length = config.context;
        let tokens: Vec<u32> = (0..=sequences * length).map(|i| (i * i % 65) as u32).collect();
        let (inputs, targets) = (tokens[..sequences * length].to_vec(), tokens[1..].to_vec());
        let batch = Batch { sequences, length, inputs, targets };
        let mut engine = CpuGpt::new(config)?;
        ready(engine.load(&init(&config, &[1; 32])))?;
        // The best of several: other programs only make it slower.
        let (mut step, mut forward) = (f64::INFINITY, f64::INFINITY);
        let mut loss = 0.0;
        let start = Instant::now();
        while start.elapsed().as_secs() < 5 {
            let at = Instant::now();
            loss = ready(engine.step(&batch, 1e-3))?;
            step = step.min(at.elapsed().as_secs_f64());
            let at = Instant::now();
            ready(engine.loss(&batch))?;
            forward = forward.min(at.elapsed().as_secs_f64());
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
