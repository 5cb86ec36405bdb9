//! The digits model on burn, against a plain f64 model and against itself on other devices.
#![cfg(all(feature = "cpu", not(target_arch = "wasm32")))]
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is how it fails")]

mod data;
mod reference;
mod vector;

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use futures_executor::block_on;
use potluck_burn::{Backend, BurnEngine, Classifier, Digits, SetupError};
use potluck_train::engine::{AdamW, Batch, Engine, TrainError};
use potluck_train::{digits, gpt};

fn engine(parameters: &[f32]) -> BurnEngine<Digits> {
    let mut engine = BurnEngine::new(Backend::cpu()).unwrap();
    block_on(engine.load(parameters)).unwrap();
    engine
}

/// Fresh parameters with biases that are not 0: where an image is blank, the first convolution gives its bias, and a ReLU
/// has no slope at 0 for finite differences to find.
fn parameters() -> Vec<f32> {
    let mut parameters = digits::init(&[5; 32]);
    for tensor in digits::tensors().iter().filter(|tensor| !tensor.decays()) {
        for (i, x) in parameters[tensor.range()].iter_mut().enumerate() {
            *x += 0.3 * ((i + 1) as f32 * 1.7).sin();
        }
    }
    parameters
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_module_is_what_the_facts_say() {
    let engine = engine(&digits::init(&[0; 32]));
    assert_eq!(engine.tensors(), digits::tensors());
    assert_eq!(engine.parameters(), digits::PARAMETERS);
}

#[test]
fn logits_loss_and_gradient_agree_with_the_reference() {
    let data = data::load();
    let batch = data.batch(&[0, 500, 1000]);
    let values = parameters();
    let mut engine = engine(&values);
    let mut wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();

    let logits = block_on(engine.logits(&batch.inputs)).unwrap();
    for (row, image) in logits.chunks(digits::CLASSES).zip(batch.inputs.chunks(digits::PIXELS)) {
        for (found, expected) in row.iter().zip(reference::logits(&wide, image)) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
    let (loss, gradient) = block_on(engine.gradient(&batch)).unwrap();
    let expected = reference::loss(&wide, &batch);
    assert!((f64::from(loss) - expected).abs() < 1e-5, "{loss} {expected}");
    assert_eq!(loss.to_bits(), block_on(engine.loss(&batch)).unwrap().to_bits());

    for tensor in digits::tensors() {
        let (mut difference, mut size) = (0.0, 0.0);
        for i in tensor.range().step_by(if tensor.rows * tensor.cols > 1000 { 11 } else { 1 }) {
            let value = wide[i];
            let mut at = |x| {
                wide[i] = x;
                reference::loss(&wide, &batch)
            };
            let slope = (at(value + 1e-6) - at(value - 1e-6)) / 2e-6;
            wide[i] = value;
            difference += (f64::from(gradient[i]) - slope).powi(2);
            size += slope * slope;
        }
        assert!(size > 1e-12, "{} has no gradient to compare", tensor.name);
        let error = (difference / size).sqrt();
        assert!(error < 1e-4, "{}: {error:e}", tensor.name);
    }
}

#[test]
fn a_step_is_clip_and_adamw() {
    let data = data::load();
    for most in [1e-3, 1e3] {
        let values = parameters();
        let constants = AdamW { clip: most, ..AdamW::default() };
        let mut engine = BurnEngine::<Digits>::with_constants(Backend::cpu(), constants).unwrap();
        block_on(engine.load(&values)).unwrap();
        let mut gradients: Vec<Vec<f64>> = vec![Vec::new(); values.len()];
        for step in 0..5 {
            let rows: Vec<usize> = (0..4 + step % 2).map(|row| row * 100 + step).collect();
            let batch = data.batch(&rows);
            let (loss, gradient) = block_on(engine.gradient(&batch)).unwrap();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let scale = if norm > f64::from(most) { f64::from(most) / norm } else { 1.0 };
            for (list, g) in gradients.iter_mut().zip(&gradient) {
                list.push(f64::from(*g) * scale);
            }
            assert_eq!(block_on(engine.step(&batch, 1e-2)).unwrap().to_bits(), loss.to_bits());
        }
        let found = block_on(engine.store()).unwrap();
        for tensor in digits::tensors() {
            for i in tensor.range() {
                let start = f64::from(values[i]);
                let rate = f64::from(1e-2_f32);
                let expected = reference::adamw(start, &gradients[i], rate, tensor.decays());
                // Where a clipped gradient is as small as epsilon, its rounding shows.
                let bound = 2e-6 + 2e-5 * (expected - start).abs();
                assert!((f64::from(found[i]) - expected).abs() < bound, "{} {i}", tensor.name);
            }
        }
    }
}

/// Losses and parameters of some steps.
fn train(engine: &mut BurnEngine<Digits>, data: &data::Data, steps: usize) -> (Vec<f32>, Vec<f32>) {
    let losses =
        (0..steps).map(|step| block_on(engine.step(&data.drawn(step as u64, 32), 3e-3)).unwrap()).collect();
    (losses, block_on(engine.store()).unwrap())
}

#[test]
fn six_hundred_steps_learn_the_digits() {
    let data = data::load();
    let mut engine = engine(&digits::init(&[1; 32]));
    let (losses, _) = train(&mut engine, &data, 600);
    assert!((losses[0] - 10.0_f32.ln()).abs() < 1.0, "{}", losses[0]);
    let (inputs, labels) = data.held_out();
    let logits = block_on(engine.logits(&inputs)).unwrap();
    let greatest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|best| best.0);
    let right = logits
        .chunks(digits::CLASSES)
        .zip(&labels)
        .filter(|(row, label)| greatest(row) == Some(**label as usize));
    let accuracy = right.count() as f64 / labels.len() as f64;
    println!("accuracy {accuracy:.4} on {} images", labels.len());
    assert!(accuracy >= 0.95, "{accuracy}");
}

#[test]
fn the_processor_repeats_its_bits() {
    let data = data::load();
    let start = digits::init(&[2; 32]);
    let mut engine = engine(&start);
    let (losses, parameters) = train(&mut engine, &data, 10);
    assert_ne!(bits(&parameters), bits(&start));
    block_on(engine.load(&start)).unwrap();
    for mut again in [engine, self::engine(&start)] {
        let (other_losses, other) = train(&mut again, &data, 10);
        assert_eq!((bits(&losses), bits(&parameters)), (bits(&other_losses), bits(&other)));
    }
}

#[test]
fn losses_are_those_that_browsers_compare_with() {
    let mut engine = engine(&digits::init(&vector::SEED));
    let losses: Vec<f32> = (0..vector::LOSSES.len())
        .map(|step| block_on(engine.step(&vector::batch(step), vector::RATE)).unwrap())
        .collect();
    let wide: Vec<f64> = digits::init(&vector::SEED).into_iter().map(f64::from).collect();
    let first = reference::loss(&wide, &vector::batch(0));
    assert!((f64::from(losses[0]) - first).abs() < 1e-5, "{} {first}", losses[0]);
    // Processors with and without fused multiply-add round differently.
    let near = losses.iter().zip(vector::LOSSES).all(|(found, expected)| (found - expected).abs() < 1e-5);
    assert!(near, "{losses:?}");
}

#[cfg(feature = "gpu")]
#[test]
fn a_gpu_agrees_within_the_tolerance_of_replay() {
    use potluck_verify::{Tolerances, compare};

    let backend = match block_on(Backend::gpu()) {
        Ok(backend) => backend,
        Err(reason) => {
            assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "{reason}");
            println!("skipped: {reason}");
            return;
        }
    };
    let data = data::load();
    let start = digits::init(&[3; 32]);
    let mut gpu = BurnEngine::new(backend).unwrap();
    block_on(gpu.load(&start)).unwrap();
    let [(claimed_losses, claimed), (losses, replayed)] =
        [gpu, engine(&start)].map(|mut engine| train(&mut engine, &data, 10));
    let update = |end: &[f32]| -> Vec<f32> { start.iter().zip(end).map(|(a, b)| a - b).collect() };
    let ranges: Vec<_> = digits::tensors().iter().map(gpt::Tensor::range).collect();
    let tolerances = Tolerances::default();
    let report =
        compare(&update(&claimed), &update(&replayed), &ranges, &claimed_losses, &losses, &tolerances)
            .unwrap();
    println!("whole {:.2e}, worst tensor {:?}", report.whole, report.worst_tensor());
    assert!(report.confirmed(), "{report:?}");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let start = digits::init(&[4; 32]);
    let mut engine = engine(&start);
    let good = data::load().batch(&[1, 2]);
    let mut fails = |batch: Batch| {
        let error = block_on(engine.loss(&batch)).unwrap_err();
        assert_eq!(block_on(engine.step(&batch, 0.1)).unwrap_err(), error);
        error
    };
    let of = |sequences, length, inputs, targets| Batch { sequences, length, inputs, targets };
    for batch in [
        of(0, 64, vec![], vec![]),
        of(2, 64, good.inputs[1..].to_vec(), good.targets.clone()),
        of(2, 64, good.inputs.clone(), good.targets[1..].to_vec()),
        of(4, 32, good.inputs.clone(), good.targets.clone()),
        of(1 << 40, 64, good.inputs.clone(), good.targets.clone()),
    ] {
        assert!(matches!(fails(batch), TrainError::Batch { .. }));
    }
    let mut bright = good.clone();
    bright.inputs[70] = 17;
    assert_eq!(fails(bright), TrainError::Token { token: 17, vocabulary: 17 });
    let mut eleventh = good.clone();
    eleventh.targets[127] = 10;
    assert_eq!(fails(eleventh), TrainError::Token { token: 10, vocabulary: 10 });
    let mut ignored = good.clone();
    ignored.targets[126] = u32::MAX;
    assert!(block_on(engine.loss(&ignored)).is_ok());
    assert!(block_on(engine.logits(&good.inputs[1..])).is_err());
    let length = TrainError::Length { found: 3, expected: digits::PARAMETERS };
    assert_eq!(block_on(engine.load(&[0.0; 3])).unwrap_err(), length);
    assert_eq!(block_on(engine.store()).unwrap(), start);
}

#[test]
fn values_that_are_not_finite_are_errors() {
    let good = data::load().batch(&[1, 2]);
    let mut values = digits::init(&[4; 32]);
    values[0] = f32::NAN;
    let mut engine = engine(&values);
    let not_finite = TrainError::NotFinite { step: 0 };
    assert_eq!(block_on(engine.loss(&good)).unwrap_err(), not_finite);
    assert_eq!(block_on(engine.step(&good, 0.1)).unwrap_err(), not_finite);
    assert_eq!(block_on(engine.store()).unwrap_err(), not_finite);
    assert_eq!(block_on(engine.logits(&good.inputs)).unwrap_err(), not_finite);
    block_on(engine.load(&digits::init(&[4; 32]))).unwrap();
    block_on(engine.step(&good, f32::INFINITY)).unwrap();
    assert_eq!(block_on(engine.store()).unwrap_err(), TrainError::NotFinite { step: 1 });
}

#[derive(Module, Debug)]
struct Forgetful {
    layer: Linear,
    dropout: Option<Dropout>,
    norm: Option<BatchNorm>,
}

impl Forgetful {
    fn of(device: &Device, dropout: bool, norm: bool) -> Self {
        Self {
            layer: LinearConfig::new(3, 2).init(device),
            dropout: dropout.then(|| DropoutConfig::new(0.5).init()),
            norm: norm.then(|| BatchNormConfig::new(2).init(device)),
        }
    }
}

/// The fewest lines that make a model.
macro_rules! forgetful {
    ($name:ident, $dropout:expr, $norm:expr) => {
        #[derive(Module, Debug)]
        struct $name {
            inner: Forgetful,
        }

        impl Classifier for $name {
            const INPUTS: usize = 3;
            const GREATEST: u32 = 1;
            const CLASSES: usize = 2;

            fn new(device: &Device) -> Self {
                Self { inner: Forgetful::of(device, $dropout, $norm) }
            }

            fn logits(&self, inputs: Tensor<2>) -> Tensor<2> {
                self.inner.layer.forward(inputs)
            }
        }
    };
}
forgetful!(Plain, false, false);
forgetful!(WithDropout, true, false);
forgetful!(WithNorm, false, true);

#[test]
fn models_that_replay_could_not_repeat_are_refused() {
    let plain = BurnEngine::<Plain>::new(Backend::cpu()).unwrap();
    let names: Vec<&str> = plain.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["inner.layer.weight", "inner.layer.bias"]);
    let refused = |result: Option<SetupError>| match result {
        Some(SetupError::Stateful(path)) => path,
        other => panic!("{other:?}"),
    };
    println!("{}", refused(BurnEngine::<WithDropout>::new(Backend::cpu()).err()));
    println!("{}", refused(BurnEngine::<WithNorm>::new(Backend::cpu()).err()));
}
