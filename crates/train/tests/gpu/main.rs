//! The GPU engine against a plain f64 model: natively on any adapter, and in a browser through WebGPU.
//!
//! Where there is no adapter each test says so and passes: the CPU engine is what such a machine uses. A build with
//! `POTLUCK_REQUIRE_GPU` set fails there instead, so that CI cannot skip them unseen.
#![cfg(feature = "gpu")]

mod reference;

use potluck_train::engine::{Batch, Engine, Moments, TrainError};
use potluck_train::gpt::{CpuGpt, GptConfig, GpuGpt, GpuGptOptions, KernelShape, Kind, Layout, init};

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// Declares a test that runs natively and, as an asynchronous one, in a browser.
macro_rules! both {
    ($name:ident, $body:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            futures_executor::block_on($body);
        }
        #[cfg(target_arch = "wasm32")]
        #[wasm_bindgen_test::wasm_bindgen_test]
        async fn $name() {
            $body.await;
        }
    };
}

fn say(text: &str) {
    #[cfg(not(target_arch = "wasm32"))]
    println!("{text}");
    #[cfg(target_arch = "wasm32")]
    wasm_bindgen_test::console_log!("{text}");
}

/// Odd sizes: nothing is a multiple of a tile, and the vocabulary none of 4.
const SMALL: GptConfig = GptConfig { vocabulary: 11, context: 6, layers: 2, heads: 2, width: 8, bias: false };
/// A NaN that no arithmetic makes.
const POISON: u32 = 0x7fc0_dead;

async fn device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    match instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await {
        Ok(adapter) => {
            say(&adapter.get_info().name);
            // The default limits of WebGPU, which every browser gives.
            Some(adapter.request_device(&wgpu::DeviceDescriptor::default()).await.expect("a device"))
        }
        Err(reason) => {
            assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "no GPU adapter: {reason}");
            say(&format!("skipped: no GPU adapter here ({reason})"));
            None
        }
    }
}

async fn engine(config: GptConfig, sequences: usize, length: usize, shape: KernelShape) -> Option<GpuGpt> {
    let (device, queue) = device().await?;
    let options = GpuGptOptions::new(sequences, length, shape);
    Some(GpuGpt::new(device, queue, config, options).await.expect("an engine"))
}

/// Fresh parameters, five times as large so that attention and GELU leave their linear range, with norms and biases
/// that are not 1 and 0.
fn parameters(config: &GptConfig) -> Vec<f32> {
    let mut parameters = init(config, &[5; 32]);
    for tensor in &Layout::new(config).tensors {
        for (i, x) in parameters[tensor.range()].iter_mut().enumerate() {
            match tensor.kind {
                Kind::Embedding | Kind::Linear => *x *= 5.0,
                Kind::Norm | Kind::Bias => *x += 0.3 * (i as f32 * 1.7).sin(),
            }
        }
    }
    parameters
}

/// Tokens of a batch, some of them more often than others.
fn batch(config: &GptConfig, sequences: usize, length: usize, seed: u64) -> Batch {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut tokens = |count: usize| {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize
        };
        (0..count).map(|_| (next() % config.vocabulary).min(next() % config.vocabulary) as u32).collect()
    };
    let inputs = tokens(sequences * length);
    Batch { sequences, length, inputs, targets: tokens(sequences * length) }
}

/// Each tensor of `got` is near that of `want`, relative to the tensor's norm. Written so that NaN fails. Gives the
/// greatest relative deviation.
fn assert_near(config: &GptConfig, got: &[f32], want: &[f64], tolerance: f64, what: &str) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut worst = 0.0_f64;
    for tensor in &Layout::new(config).tensors {
        let (got, want) = (&got[tensor.range()], &want[tensor.range()]);
        let square = |x: f64| x * x;
        let norm = want.iter().map(|x| square(*x)).sum::<f64>().sqrt();
        let apart = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - w)).sum::<f64>().sqrt();
        let relative = apart / norm.max(1e-12);
        assert!(relative <= tolerance, "{what}: {} {relative:e}", tensor.name);
        worst = worst.max(relative);
    }
    worst
}

/// Each element of a gradient is near, relative to itself and its tensor's root mean square. (Parameters need not be:
/// AdamW divides a gradient that is nearly zero by itself, rounding included.)
fn assert_each_near(config: &GptConfig, got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    for tensor in &Layout::new(config).tensors {
        let (got, want) = (&got[tensor.range()], &want[tensor.range()]);
        let unit = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let near = (f64::from(*g) - w).abs() <= tolerance * (unit + w.abs()) + 1e-12;
            assert!(near, "{what}: {}[{i}]: {g} for {w}", tensor.name);
        }
    }
}

/// Loss, gradient and three steps of AdamW, with poisoned buffers.
async fn compare(config: GptConfig, most: [usize; 2], shape: KernelShape, batches: [[usize; 2]; 3]) {
    let Some(mut engine) = engine(config, most[0], most[1], shape).await else { return };
    let start = parameters(&config);
    engine.load(&start).await.expect("valid in this test");
    assert_eq!(engine.store().await.expect("valid in this test"), start);
    let mut truth = reference::Optimizer::new(&start);
    for (n, [sequences, length]) in batches.into_iter().enumerate() {
        let what = format!("{shape:?} bias {} step {n} of {sequences} x {length}", config.bias);
        let batch = batch(&config, sequences, length, n as u64 + 1);
        let (_, gradient) = reference::loss_and_gradient(&config, &truth.parameters, &batch);
        engine.fill_scratch(POISON).expect("valid in this test");
        let alone = engine.loss(&batch).await.expect("valid in this test");
        engine.fill_scratch(POISON).expect("valid in this test");
        let loss = engine.step(&batch, 0.01).await.expect("valid in this test");
        assert_eq!(alone.to_bits(), loss.to_bits(), "{what}");
        let want = truth.step(&config, &batch, 0.01);
        assert!((f64::from(loss) - want).abs() <= 1e-4 * want, "{what}: {loss} for {want}");
        let got = engine.gradient().await.expect("valid in this test");
        assert_each_near(&config, &got, &gradient, 1e-2, &format!("{what}, gradient"));
        let gradient = assert_near(&config, &got, &gradient, 1e-3, &format!("{what}, gradient"));
        let mut got = engine.store().await.expect("valid in this test");
        // A bias of the keys changes nothing, so that its gradient is rounding, which AdamW makes as large as any.
        for at in Layout::new(&config).blocks.iter().filter_map(|block| block.qkv_bias) {
            let keys = at + config.width..at + 2 * config.width;
            for (got, want) in got[keys.clone()].iter_mut().zip(&truth.parameters[keys]) {
                *got = *want as f32;
            }
        }
        let moved = assert_near(&config, &got, &truth.parameters, 1e-3, &format!("{what}, parameters"));
        say(&format!("{what}: gradient {gradient:.1e}, parameters {moved:.1e}"));
    }
}

both!(gradients_and_steps_of_odd_sizes_are_those_of_the_reference, async {
    for shape in KernelShape::ALL {
        for bias in [false, true] {
            // Full, then smaller in both ways, then a single row shorter than a vec4 of keys.
            compare(GptConfig { bias, ..SMALL }, [3, 6], shape, [[3, 6], [2, 5], [1, 3]]).await;
        }
    }
});

both!(gradients_and_steps_of_tiny_are_those_of_the_reference, async {
    let tiny = GptConfig::tiny(65);
    for shape in [KernelShape::Direct16x8, KernelShape::Tiled] {
        compare(tiny, [2, 64], shape, [[2, 64], [2, 64], [1, 37]]).await;
    }
});

// Weights large enough for tiles of 64 x 64, heads of 64, a context of 256.
both!(gradients_of_wide_heads_and_large_tiles_are_those_of_the_reference, async {
    let config = GptConfig { vocabulary: 70, context: 256, layers: 1, heads: 4, width: 256, bias: true };
    compare(config, [6, 256], KernelShape::Tiled, [[1, 70], [1, 6], [1, 256]]).await;
});

both!(a_device_repeats_its_own_bits, async {
    let config = GptConfig::tiny(65);
    let start = parameters(&config);
    let batches: Vec<Batch> = (1..4).map(|seed| batch(&config, 2, 64, seed)).collect();
    let run = || async {
        let mut engine = engine(config, 2, 64, KernelShape::Direct16x8).await?;
        let mut ends = Vec::new();
        // Twice in one engine: loading forgets moments and steps.
        for _ in 0..2 {
            engine.load(&start).await.expect("valid in this test");
            let mut losses = Vec::new();
            for batch in &batches {
                losses.push(engine.step(batch, 0.01).await.expect("valid in this test").to_bits());
            }
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            ends.push((losses, bits(engine.store().await.expect("valid in this test"))));
            engine.fill_scratch(POISON).expect("valid in this test");
        }
        Some(ends)
    };
    let (Some(first), Some(second)) = (run().await, run().await) else { return };
    assert!(first[0] == first[1] && first == second);
});

both!(a_step_in_many_submissions_has_the_same_bits, async {
    let Some((device, queue)) = device().await else { return };
    let config = GptConfig { bias: true, ..SMALL };
    let start = parameters(&config);
    let mut ends = Vec::new();
    for submission_flops in [f64::INFINITY, 1e4, 0.0] {
        let options = GpuGptOptions { submission_flops, ..GpuGptOptions::new(3, 6, KernelShape::Direct4x4) };
        let mut engine =
            GpuGpt::new(device.clone(), queue.clone(), config, options).await.expect("an engine");
        engine.load(&start).await.expect("valid in this test");
        for seed in 1..3 {
            engine.step(&batch(&config, 3, 6, seed), 0.01).await.expect("valid in this test");
        }
        let end = engine.store().await.expect("valid in this test");
        ends.push(end.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    }
    assert!(ends[0] == ends[1] && ends[0] == ends[2]);
});

both!(a_device_goes_on_where_another_one_ended, async {
    let config = GptConfig::tiny(65);
    let batches: Vec<Batch> = (1..5).map(|seed| batch(&config, 2, 64, seed)).collect();
    let Some(mut whole) = engine(config, 2, 64, KernelShape::Direct16x8).await else { return };
    whole.load(&init(&config, &[1; 32])).await.expect("valid in this test");
    let Some(mut second) = engine(config, 2, 64, KernelShape::Direct16x8).await else { return };
    // It had something else before.
    second.load(&parameters(&config)).await.expect("valid in this test");
    second.step(&batches[0], 2e-3).await.expect("valid in this test");
    let mut cpu = CpuGpt::new(config).expect("a model");
    for (at, batch) in batches.iter().enumerate() {
        if at == 2 {
            let (parameters, moments) = (
                whole.store().await.expect("they are there"),
                whole.moments().await.expect("they are there"),
            );
            assert_eq!(moments.steps, 2);
            second.resume(&parameters, &moments).await.expect("valid in this test");
            cpu.resume(&parameters, &moments).await.expect("valid in this test");
            let short = Moments { first: moments.first[1..].to_vec(), ..moments };
            assert!(matches!(second.resume(&parameters, &short).await, Err(TrainError::Length { .. })));
        }
        whole.step(batch, 2e-3).await.expect("valid in this test");
        if at >= 2 {
            second.step(batch, 2e-3).await.expect("valid in this test");
            cpu.step(batch, 2e-3).await.expect("valid in this test");
        }
    }
    let [whole_after, second_after] =
        [whole.store().await, second.store().await].map(|after| after.expect("they are there"));
    assert!(whole_after == second_after, "one training without a break");
    let cpu_after: Vec<f64> =
        cpu.store().await.expect("they are there").iter().map(|value| f64::from(*value)).collect();
    assert_near(&config, &second_after, &cpu_after, 1e-4, "parameters where the CPU went on");
});

both!(steps_lower_the_loss, async {
    let config = GptConfig::tiny(65);
    let Some(mut engine) = engine(config, 4, 64, KernelShape::Direct16x8).await else { return };
    engine.load(&init(&config, &[1; 32])).await.expect("valid in this test");
    let batch = batch(&config, 4, 64, 9);
    let first = engine.step(&batch, 2e-3).await.expect("valid in this test");
    assert!((first - 65.0_f32.ln()).abs() < 0.2, "{first}");
    for _ in 0..15 {
        engine.step(&batch, 2e-3).await.expect("valid in this test");
    }
    let last = engine.loss(&batch).await.expect("valid in this test");
    assert!(last < first - 0.5, "{first} {last}");
});

both!(bad_input_is_refused_and_the_engine_goes_on, async {
    let Some(mut engine) = engine(SMALL, 2, 5, KernelShape::Direct8x8).await else { return };
    let start = parameters(&SMALL);
    assert_eq!(
        engine.load(&start[1..]).await,
        Err(TrainError::Length { found: start.len() - 1, expected: start.len() })
    );
    engine.load(&start).await.expect("valid in this test");
    let good = batch(&SMALL, 2, 5, 1);
    let mut bad = vec![
        Batch { sequences: 0, inputs: Vec::new(), targets: Vec::new(), ..good.clone() },
        Batch { inputs: good.inputs[1..].to_vec(), ..good.clone() },
        Batch { targets: good.targets[1..].to_vec(), ..good.clone() },
    ];
    bad.extend([[1, 7], [1, 6], [3, 5]].map(|[s, l]| batch(&SMALL, s, l, 1)));
    for batch in bad {
        let refused = engine.step(&batch, 0.1).await.expect_err("refused in this test");
        assert!(matches!(refused, TrainError::Batch { .. }), "{refused}");
    }
    let mut wrong = good.clone();
    wrong.targets[3] = 11;
    assert_eq!(engine.loss(&wrong).await, Err(TrainError::Token { token: 11, vocabulary: 11 }));
    let loss = engine.loss(&good).await.expect("valid in this test");

    let mut broken = start.clone();
    broken[40] = f32::NAN;
    for value in [f32::NAN, f32::INFINITY] {
        broken[40] = value;
        engine.load(&broken).await.expect("valid in this test");
        let all = Batch { inputs: vec![5; 10], ..good.clone() };
        assert_eq!(engine.step(&all, 0.1).await, Err(TrainError::NotFinite { step: 0 }));
    }
    engine.load(&start).await.expect("valid in this test");
    assert_eq!(engine.loss(&good).await, Ok(loss));
});

both!(sizes_that_do_not_work_are_refused_with_a_text_that_helps, async {
    let Some((device, queue)) = device().await else { return };
    let options = |sequences, length| GpuGptOptions::new(sequences, length, KernelShape::Direct8x8);
    let refuse = async |config, options| {
        GpuGpt::new(device.clone(), queue.clone(), config, options).await.err().expect("refused").to_string()
    };
    assert!(refuse(GptConfig { heads: 3, ..SMALL }, options(1, 1)).await.contains("3 heads"));
    assert!(refuse(GptConfig { heads: 4, ..SMALL }, options(1, 1)).await.contains("multiple of 4"));
    assert!(refuse(SMALL, options(1, 7)).await.contains("length = 7 is outside 1..=6"));
    assert!(refuse(SMALL, options(0, 6)).await.contains("sequences = 0"));
    let large = refuse(GptConfig::small(100_000), options(64, 256)).await;
    assert!(large.contains("smaller batch"), "{large}");
});

both!(a_lost_device_says_so, async {
    let Some((device, queue)) = device().await else { return };
    let shape = KernelShape::Direct8x8;
    let options = GpuGptOptions::new(2, 6, shape);
    let mut engine = GpuGpt::new(device.clone(), queue, SMALL, options).await.expect("valid in this test");
    let batch = batch(&SMALL, 2, 6, 1);
    engine.step(&batch, 0.1).await.expect("valid in this test");
    device.destroy();
    for lost in [
        engine.step(&batch, 0.1).await.expect_err("refused in this test"),
        engine.store().await.expect_err("refused in this test"),
        engine.loss(&batch).await.expect_err("refused in this test"),
    ] {
        assert!(matches!(lost, TrainError::Device(_)), "{lost:?}");
        say(&lost.to_string());
    }
});
