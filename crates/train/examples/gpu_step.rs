//! Milliseconds of an inner step on the adapter at hand, for each shape of kernels.
//!
//! `cargo run --release -p potluck-train --features gpu --example gpu_step [tiny|mini|small] [sequences]`

use std::time::Instant;

use futures_executor::block_on;
use potluck_train::engine::{Batch, Engine};
use potluck_train::gpt::{GptConfig, GpuGpt, GpuGptOptions, KernelShape, Layout, init};

/// Steps that are timed for each shape.
const STEPS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "tiny".to_owned());
    let config = match model.as_str() {
        "tiny" => GptConfig::tiny(65),
        "mini" => GptConfig::mini(65),
        "small" => GptConfig::small(65),
        other => return Err(format!("{other} is no model: use tiny, mini or small").into()),
    };
    let sequences = arguments.next().map_or(Ok(4), |text| text.parse())?;
    block_on(measure(&model, config, sequences))
}

async fn measure(model: &str, config: GptConfig, sequences: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = instance
        .request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        })
        .await?;
    let rows = sequences * config.context;
    println!("{}: {model}, {sequences} x {} tokens a step", adapter.get_info().name, config.context);
    let tokens: Vec<u32> = (0..=rows).map(|i| (i * i % config.vocabulary) as u32).collect();
    let batch = Batch {
        sequences,
        length: config.context,
        inputs: tokens[..rows].to_vec(),
        targets: tokens[1..].to_vec(),
    };
    let start = init(&config, &[1; 32]);
    let flops = 6.0 * rows as f64 * Layout::new(&config).parameters() as f64;
    for shape in KernelShape::ALL {
        let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
        let began = Instant::now();
        let options = GpuGptOptions::new(sequences, config.context, shape);
        let mut engine = GpuGpt::new(device, queue, config, options).await?;
        engine.load(&start).await?;
        let mut loss = engine.step(&batch, 1e-3).await?;
        let first = began.elapsed();
        let mut times = Vec::new();
        for _ in 0..STEPS {
            let began = Instant::now();
            loss = engine.step(&batch, 1e-3).await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[STEPS / 2]);
        println!(
            "{:12} median {median:8.2} ms, best {best:8.2} ms, {:7.0} tokens/s, {:6.2} GFLOP/s; {:.2} s until the first step; loss {loss:.4}",
            shape.name(),
            rows as f64 / median * 1e3,
            flops / median / 1e6,
            first.as_secs_f64(),
        );
    }
    Ok(())
}
