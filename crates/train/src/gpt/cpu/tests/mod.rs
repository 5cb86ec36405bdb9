//! The engine against the reference, and its behavior.

mod reference;

use super::*;
use crate::gpt::init;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The CPU engine's futures are ready at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the CPU engine never waits"),
    }
}

fn small(bias: bool) -> GptConfig {
    GptConfig { vocabulary: 11, context: 6, layers: 2, heads: 2, width: 8, bias }
}

/// Parameters that are far from where training starts, so that no gradient is tiny: norms and biases among them.
fn parameters(config: &GptConfig, scale: f32) -> Vec<f32> {
    let mut values = init(config, &[3; 32]);
    let mut bits = blake3::Hasher::new_keyed(&[4; 32]).finalize_xof();
    for tensor in &Layout::new(config).tensors {
        for value in &mut values[tensor.range()] {
            let mut two = [0; 2];
            bits.fill(&mut two);
            let uniform = f32::from(u16::from_le_bytes(two)) / 65536.0 - 0.5;
            *value = if tensor.decays() { *value * scale } else { *value + 0.4 * uniform };
        }
    }
    values
}

fn batch(config: &GptConfig, sequences: usize, length: usize) -> Batch {
    let token = |i: usize| ((i * i + 3 * i + i / 7) % config.vocabulary) as u32;
    let count = sequences * length;
    Batch {
        sequences,
        length,
        inputs: (0..count).map(token).collect(),
        targets: (0..count).map(|i| token(i + 1)).collect(),
    }
}

fn engine(config: GptConfig, parameters: &[f32]) -> CpuGpt {
    let mut engine = CpuGpt::new(config).unwrap();
    ready(engine.load(parameters)).unwrap();
    engine
}

/// Compares all gradients with central differences of the reference.
fn check_gradients(config: GptConfig, sequences: usize, length: usize, every: usize) {
    let (values, batch) = (parameters(&config, 15.0), batch(&config, sequences, length));
    let mut engine = engine(config, &values);
    let mut wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    let loss = engine.run(&batch, true).unwrap();
    let expected = reference::loss(&config, &wide, &batch);
    assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
    for tensor in &engine.layout.tensors {
        let (mut difference, mut size) = (0.0, 0.0);
        for i in tensor.range().step_by(if tensor.cols * tensor.rows > 64 { every } else { 1 }) {
            let value = wide[i];
            let mut at = |x| {
                wide[i] = x;
                reference::loss(&config, &wide, &batch)
            };
            let slope = (at(value + 1e-5) - at(value - 1e-5)) / 2e-5;
            wide[i] = value;
            difference += (f64::from(engine.gradient[i]) - slope).powi(2);
            size += slope * slope;
        }
        assert!(size > 1e-12, "{} has no gradient to compare", tensor.name);
        let error = (difference / size).sqrt();
        assert!(error < 1e-3, "{}: {error:e}", tensor.name);
    }
}

#[test]
fn gradients_agree_with_finite_differences_of_the_reference() {
    for bias in [false, true] {
        check_gradients(small(bias), 3, 6, 1);
        check_gradients(small(bias), 2, 4, 1);
        check_gradients(small(bias), 1, 1, 1);
    }
}

#[test]
fn gradients_agree_where_attention_has_several_blocks_of_queries() {
    let config = GptConfig { vocabulary: 5, context: 150, layers: 1, heads: 1, width: 4, bias: true };
    check_gradients(config, 1, 150, 3);
}

#[test]
fn gradients_agree_where_logits_come_in_chunks() {
    // 40 tokens in chunks of 16 rows, of which only the targets' and some others' gradients are compared.
    let config = GptConfig { vocabulary: 1 << 17, context: 20, layers: 1, heads: 2, width: 2, bias: false };
    let batch = batch(&config, 2, 20);
    assert!(head::rows(40, config.vocabulary) < 40);
    let values = parameters(&config, 15.0);
    let mut engine = engine(config, &values);
    let mut wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    let loss = engine.run(&batch, true).unwrap();
    let expected = reference::loss(&config, &wide, &batch);
    assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
    for token in [0, batch.inputs[17], batch.targets[3], batch.targets[39]] {
        let i = token as usize * 2 + 1;
        let value = wide[i];
        let mut at = |x| {
            wide[i] = x;
            reference::loss(&config, &wide, &batch)
        };
        let slope = (at(value + 1e-4) - at(value - 1e-4)) / 2e-4;
        wide[i] = value;
        let found = f64::from(engine.gradient[i]);
        assert!((found - slope).abs() < 1e-3 * slope.abs(), "{token}: {found} {slope}");
    }
}

#[test]
fn a_step_is_clip_and_adamw() {
    let config = small(true);
    for most in [1e-3, 1e3] {
        let values = parameters(&config, 15.0);
        let constants = AdamW { clip: most, ..AdamW::default() };
        let mut engine = CpuGpt::with_constants(config, constants).unwrap();
        ready(engine.load(&values)).unwrap();
        let mut gradients: Vec<Vec<f64>> = vec![Vec::new(); values.len()];
        for step in 0..5 {
            let batch = batch(&config, 2 + step % 2, 6);
            engine.run(&batch, true).unwrap();
            let norm = engine.gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let scale = if norm > f64::from(most) { f64::from(most) / norm } else { 1.0 };
            for (list, g) in gradients.iter_mut().zip(&engine.gradient) {
                list.push(f64::from(*g) * scale);
            }
            ready(engine.step(&batch, 1e-2)).unwrap();
        }
        for tensor in &engine.layout.tensors {
            for i in tensor.range() {
                let expected = reference::adamw(
                    f64::from(values[i]),
                    &gradients[i],
                    f64::from(1e-2_f32),
                    tensor.decays(),
                );
                let found = f64::from(engine.parameters[i]);
                // Where a clipped gradient is as small as epsilon, its rounding shows.
                let bound = 2e-6 + 2e-5 * (expected - f64::from(values[i])).abs();
                assert!((found - expected).abs() < bound, "{} {i}: {found} {expected}", tensor.name);
            }
        }
    }
}

#[test]
fn a_small_model_learns_a_batch_by_heart() {
    let config = GptConfig { vocabulary: 17, context: 16, layers: 2, heads: 2, width: 32, bias: true };
    let mut engine = engine(config, &init(&config, &[5; 32]));
    let batch = batch(&config, 4, 16);
    let first = ready(engine.step(&batch, 3e-3)).unwrap();
    assert!((f64::from(first) - 17.0_f64.ln()).abs() < 0.2, "{first}");
    for _ in 0..250 {
        ready(engine.step(&batch, 3e-3)).unwrap();
    }
    let last = ready(engine.loss(&batch)).unwrap();
    assert!(last < 0.1, "{last}");
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_run_has_the_same_bits_whatever_was_computed_before() {
    let config = GptConfig::tiny(65);
    let start = init(&config, &[6; 32]);
    let (one, other) = (batch(&config, 3, 64), batch(&config, 2, 37));
    let mut engine = engine(config, &start);
    let mut run = |before: Option<&Batch>| {
        if let Some(batch) = before {
            ready(engine.step(batch, 0.1)).unwrap();
        }
        ready(engine.load(&start)).unwrap();
        let mut losses = Vec::new();
        for batch in [&one, &other, &one] {
            losses.push(ready(engine.step(batch, 2e-3)).unwrap());
            losses.push(ready(engine.loss(&other)).unwrap());
        }
        (bits(&losses), bits(&ready(engine.store()).unwrap()))
    };
    let first = run(None);
    assert_eq!(first, run(None));
    assert_eq!(first, run(Some(&batch(&config, 7, 64))));
    assert_ne!(first.1, bits(&start));
}

#[test]
fn logits_are_those_of_the_reference() {
    let config = small(true);
    let values = parameters(&config, 15.0);
    let wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    let mut engine = engine(config, &values);
    for tokens in [&[3][..], &[1, 10, 0, 4], &[2, 2, 7, 7, 9, 1]] {
        let expected = reference::logits(&config, &wide, tokens);
        let found = engine.logits(tokens).unwrap();
        assert_eq!(found.len(), config.vocabulary);
        for (found, expected) in found.iter().zip(expected.last().unwrap()) {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}

#[test]
fn losses_are_those_of_the_reference_and_of_a_batch() {
    let config = small(true);
    let values = parameters(&config, 15.0);
    let wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    let mut engine = engine(config, &values);
    let tokens = [2, 2, 7, 7, 9, 1, 4];
    let batch =
        Batch { sequences: 1, length: 6, inputs: tokens[..6].to_vec(), targets: tokens[1..].to_vec() };
    for from in 1..tokens.len() {
        let found = engine.losses(&tokens, from).unwrap();
        assert_eq!(found.len(), tokens.len() - from);
        for (at, loss) in (from..).zip(&found) {
            let row = &reference::logits(&config, &wide, &tokens[..at])[at - 1];
            let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
            let expected = sum.ln() - row[tokens[at] as usize];
            assert!((loss - expected).abs() < 1e-4, "{at}: {loss} {expected}");
        }
        let mut rows = 0;
        let each = engine.each_logits(&tokens[..6], from - 1, |at, logits| {
            assert_eq!(at, from - 1 + rows);
            rows += 1;
            let expected = &reference::logits(&config, &wide, &tokens[..=at])[at];
            let off = logits.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
            assert!(off.fold(0.0, f64::max) < 1e-4);
            Ok::<(), TrainError>(())
        });
        assert_eq!((each, rows), (Ok(()), 7 - from));
    }
    let mean = engine.losses(&tokens, 1).unwrap().iter().sum::<f64>() / 6.0;
    assert!((mean - engine.run(&batch, false).unwrap()).abs() < 1e-12);
}

#[test]
fn losses_of_a_large_vocabulary_come_in_chunks() {
    let config = GptConfig { vocabulary: 1 << 17, context: 40, layers: 1, heads: 2, width: 2, bias: false };
    let values = parameters(&config, 15.0);
    let mut engine = engine(config, &values);
    let tokens: Vec<u32> = (0..41).map(|i| i * 3001 % (1 << 17)).collect();
    let whole = engine.losses(&tokens, 1).unwrap();
    assert!(head::rows(40, config.vocabulary) < 40);
    assert_eq!(whole[30..], engine.losses(&tokens, 31).unwrap());
    let mut tops = Vec::new();
    engine
        .each_logits(&tokens[..40], 0, |at, logits| {
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            tops.push(sum.ln() - f64::from(logits[tokens[at + 1] as usize]));
            Ok::<(), TrainError>(())
        })
        .unwrap();
    for (found, expected) in whole.iter().zip(&tops) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn bad_input_is_refused_with_the_reason() {
    let config = small(false);
    let good = parameters(&config, 1.0);
    let mut engine = engine(config, &good);
    let found = good.len() - 1;
    assert_eq!(ready(engine.load(&good[1..])), Err(TrainError::Length { found, expected: good.len() }));

    let fine = batch(&config, 2, 6);
    let short = |cut: fn(&mut Batch)| {
        let mut batch = fine.clone();
        cut(&mut batch);
        batch
    };
    let misfits = [
        short(|batch| batch.sequences = 0),
        short(|batch| batch.length = 0),
        short(|batch| batch.length = 7),
        short(|batch| batch.sequences = 3),
        short(|batch| batch.sequences = usize::MAX),
        short(|batch| _ = batch.inputs.pop()),
        short(|batch| batch.targets.push(0)),
    ];
    for misfit in &misfits {
        let error = ready(engine.step(misfit, 1e-3)).unwrap_err();
        assert!(matches!(error, TrainError::Batch { .. }), "{error}");
        assert_eq!(ready(engine.loss(misfit)), Err(error));
    }
    let beyond = TrainError::Token { token: 11, vocabulary: 11 };
    for batch in [short(|batch| batch.inputs[5] = 11), short(|batch| batch.targets[0] = 11)] {
        assert_eq!(ready(engine.step(&batch, 1e-3)), Err(beyond.clone()));
    }
    assert!(matches!(engine.logits(&[]), Err(TrainError::Batch { .. })));
    assert!(matches!(engine.logits(&[0; 7]), Err(TrainError::Batch { .. })));
    assert_eq!(engine.logits(&[11]), Err(beyond.clone()));
    for (tokens, from) in [(&[][..], 0), (&[1], 1), (&[1, 2], 0), (&[1, 2], 2), (&[0; 8], 1)] {
        assert!(matches!(engine.losses(tokens, from), Err(TrainError::Batch { .. })), "{tokens:?} {from}");
    }
    for bad in [[11, 0], [0, 11]] {
        assert_eq!(engine.losses(&bad, 1), Err(beyond.clone()));
        assert_eq!(engine.each_logits(&bad, 1, |_, _| Ok(())), Err(beyond.clone()));
    }
    let stop = TrainError::Missing("this");
    assert_eq!(engine.each_logits(&[1, 2], 0, |_, _| Err(stop.clone())), Err(stop.clone()));
    let none: Result<(), TrainError> = engine.each_logits(&[1], 1, |_, _| Ok(()));
    assert!(matches!(none, Err(TrainError::Batch { .. })));
    // Nothing of this was counted or changed the parameters.
    assert_eq!((bits(&engine.parameters), engine.optimizer.steps()), (bits(&good), 0));

    for bad in [f32::NAN, f32::INFINITY, 1e38] {
        for tensor in Layout::new(&config).tensors {
            let mut values = good.clone();
            values[tensor.range()].fill(bad);
            ready(engine.load(&values)).unwrap();
            let error = ready(engine.step(&fine, 1e-3)).err();
            if !bad.is_finite() {
                assert_eq!(error, Some(TrainError::NotFinite { step: 0 }), "{bad} in {}", tensor.name);
            }
        }
    }
    assert!(matches!(CpuGpt::new(GptConfig { heads: 3, ..config }), Err(TrainError::Heads { .. })));
    assert!(matches!(CpuGpt::new(GptConfig { layers: 0, ..config }), Err(TrainError::Size { .. })));
}
