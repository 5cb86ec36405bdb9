//! Reading a token at a time agrees with the forward pass over the whole text, and has the same bits on every machine:
//! natively and in a browser these tests expect the same hash.

use potluck_train::TrainError;
use potluck_train::gpt::{
    CHUNK, CpuGpt, Decoder, GptConfig, Kind, Layout, MAX_STEP_BYTES, Sampling, Writer, init,
};

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// By how much a logit may lie off that of the training engine, which fuses and cuts sums otherwise: a share of the greatest
/// logit, or of 1 if that is less.
const TOLERANCE: f32 = 2e-5;
/// BLAKE3 of what `the_bits_are_the_same_on_every_machine` computes.
const GOLDEN: &str = "046f23582bb61a3bdcf4afb857513d49c351ff561cb0ed21cf20cbab416cb98d";

/// Uniform numbers in -0.5..0.5.
fn noise(label: u64) -> impl Iterator<Item = f32> {
    let mut hasher = blake3::Hasher::new_keyed(&[4; 32]);
    hasher.update(&label.to_le_bytes());
    let mut reader = hasher.finalize_xof();
    std::iter::repeat_with(move || {
        let mut two = [0; 2];
        reader.fill(&mut two);
        f32::from(u16::from_le_bytes(two)) / 65536.0 - 0.5
    })
}

/// Parameters of a model that has learned something: matrices are large, norms and biases are not what they begin as.
fn parameters(config: &GptConfig, seed: u8) -> Vec<f32> {
    let mut values = init(config, &[seed; 32]);
    let mut noise = noise(u64::from(seed));
    for tensor in &Layout::new(config).tensors {
        for value in &mut values[tensor.range()] {
            let one = noise.next().unwrap_or_default();
            *value = match tensor.kind {
                Kind::Embedding | Kind::Linear => *value * 8.0,
                Kind::Norm | Kind::Bias => *value + 0.4 * one,
            };
        }
    }
    values
}

fn tokens(config: &GptConfig, count: usize) -> Vec<u32> {
    let last = config.vocabulary as f32 - 1.0;
    noise(99).take(count).map(|x| ((x + 0.5) * last).round() as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Odd sizes, one head and many, with and without biases, longer than a block of queries.
fn configs() -> Vec<GptConfig> {
    let odd = GptConfig { vocabulary: 11, context: 6, layers: 2, heads: 2, width: 10, bias: true };
    vec![
        GptConfig { context: 1, layers: 1, heads: 1, ..odd },
        odd,
        GptConfig { vocabulary: 300, context: 150, layers: 3, heads: 3, width: 51, bias: true },
        GptConfig::tiny(65),
        GptConfig { layers: 1, ..GptConfig::mini(97) },
    ]
}

#[cfg_attr(not(target_arch = "wasm32"), test)]
#[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
fn every_position_agrees_with_the_full_forward_pass() {
    for config in configs() {
        let values = parameters(&config, 7);
        let text = tokens(&config, config.context);
        let mut engine = CpuGpt::new(config).unwrap();
        engine.take(&values).unwrap();
        let mut decoder = Decoder::new(config, values).unwrap();
        let mut worst = 0.0_f32;
        let visit = |at: usize, expected: &[f32]| {
            decoder.feed(&text[at..=at])?;
            let found = decoder.logits()?;
            let scale = expected.iter().fold(1.0, |most: f32, logit| most.max(logit.abs()));
            for (found, expected) in found.iter().zip(expected) {
                worst = worst.max((found - expected).abs() / scale);
            }
            Ok::<(), TrainError>(())
        };
        engine.each_logits(&text, 0, visit).unwrap();
        assert!(worst < TOLERANCE, "{config:?}: {worst:e}");
        assert_eq!(decoder.seen(), config.context);
        let more = decoder.feed(&[0]);
        assert!(matches!(more, Err(TrainError::Batch { .. })), "{more:?}");
    }
}

#[cfg_attr(not(target_arch = "wasm32"), test)]
#[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
fn how_a_text_is_cut_changes_no_bit() {
    for config in configs() {
        let text = tokens(&config, config.context);
        let mut decoder = Decoder::new(config, parameters(&config, 3)).unwrap();
        decoder.feed(&text).unwrap();
        let whole = bits(decoder.logits().unwrap());
        assert_eq!(bits(decoder.logits().unwrap()), whole, "asked again");
        for size in [1, 2, 3, CHUNK, CHUNK + 1, 50] {
            decoder.clear();
            for part in text.chunks(size) {
                decoder.feed(part).unwrap();
            }
            assert_eq!(bits(decoder.logits().unwrap()), whole, "{config:?} {size}");
        }
        // Something else in between is forgotten.
        decoder.clear();
        decoder.feed(&text[..text.len() / 2]).unwrap();
        decoder.clear();
        decoder.feed(&text).unwrap();
        assert_eq!(bits(decoder.logits().unwrap()), whole);
    }
}

#[cfg_attr(not(target_arch = "wasm32"), test)]
#[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
fn the_bits_are_the_same_on_every_machine() {
    let mut hasher = blake3::Hasher::new();
    for config in configs() {
        let text = tokens(&config, config.context);
        let mut decoder = Decoder::new(config, parameters(&config, 5)).unwrap();
        for token in &text {
            decoder.feed(&[*token]).unwrap();
            for logit in decoder.logits().unwrap() {
                hasher.update(&logit.to_bits().to_le_bytes());
            }
        }
        let sampling = Sampling { temperature: 0.8, top_k: 9, seed: [6; 32] };
        let mut writer = Writer::new(decoder, &text, sampling).unwrap();
        for _ in 0..2 * config.context + 5 {
            hasher.update(&writer.write().unwrap().to_le_bytes());
        }
    }
    assert_eq!(hasher.finalize().to_hex().as_str(), GOLDEN);
}

#[cfg_attr(not(target_arch = "wasm32"), test)]
#[cfg_attr(target_arch = "wasm32", wasm_bindgen_test::wasm_bindgen_test)]
fn what_does_not_fit_is_refused() {
    let config = GptConfig::tiny(65);
    let values = parameters(&config, 1);
    let short = Decoder::new(config, values[1..].to_vec()).err();
    assert_eq!(short, Some(TrainError::Length { found: values.len() - 1, expected: values.len() }));
    assert!(matches!(
        Decoder::new(GptConfig { heads: 3, ..config }, Vec::new()),
        Err(TrainError::Heads { .. })
    ));
    let mut decoder = Decoder::new(config, values.clone()).unwrap();
    assert!(matches!(decoder.logits(), Err(TrainError::Batch { .. })), "nothing was read");
    assert_eq!(decoder.feed(&[1, 65]), Err(TrainError::Token { token: 65, vocabulary: 65 }));
    assert_eq!(decoder.seen(), 0, "nothing was read of what was refused");
    assert!(decoder.feed(&[1; 65]).is_err());
    let mut broken = values;
    broken[0] = f32::NAN;
    let mut decoder = Decoder::new(config, broken).unwrap();
    decoder.feed(&[0]).unwrap();
    assert_eq!(decoder.logits().err(), Some(TrainError::NotFinite { step: 1 }));
    // Many narrow layers with a long context: small, but for what is kept of each position.
    let deep = GptConfig { vocabulary: 2, context: 4096, layers: 64, heads: 1, width: 256, bias: false };
    assert!(deep.check().is_ok() && deep.decode_bytes() > 512 << 20 && deep.decode_bytes() < MAX_STEP_BYTES);
}
