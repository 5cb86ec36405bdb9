//! Codecs: error bounds, what encoding its own values again gives, hostile bytes.
#![cfg(not(target_arch = "wasm32"))]

use potluck_train::codec::{
    BLOCK, Codec, CodecError, Feedback, KEPT, MAX_MAGNITUDE, MAX_PARAMETERS, SPARSE_BLOCK, decode_sparse,
};
use proptest::prelude::*;

/// Values over many magnitudes, with zeros and equal ones among them.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0_f32..1.0,
        2 => (-1.0_f32..1.0, -30..15_i32).prop_map(|(x, e)| x * 2.0_f32.powi(e)),
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => prop::sample::select(vec![0.25_f32, -0.25, 1e-3, MAX_MAGNITUDE, -MAX_MAGNITUDE, 1e-40]),
    ]
}

fn values(most: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(value(), 0..most)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn largest(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max)
}

/// The scale is the largest magnitude, up to an f16 step above it.
fn most_scale(block: &[f32]) -> f64 {
    let least_step = 1.0 / 16_777_216.0;
    largest(block) * (1.0 + 1.0 / 1024.0) + least_step
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lengths_are_as_stated_and_f32_loses_nothing(values in values(700)) {
        for codec in Codec::ALL {
            let bytes = codec.encode(&values).unwrap();
            prop_assert_eq!(bytes.len(), codec.encoded_len(values.len()));
            prop_assert_eq!(codec.decode(&bytes, values.len()).unwrap().len(), values.len());
        }
        let bytes = Codec::F32.encode(&values).unwrap();
        prop_assert_eq!(bits(&Codec::F32.decode(&bytes, values.len()).unwrap()), bits(&values));
    }

    #[test]
    fn f16_is_within_half_a_step_and_loses_nothing_the_second_time(values in values(300)) {
        let decoded = Codec::F16.decode(&Codec::F16.encode(&values).unwrap(), values.len()).unwrap();
        for (x, y) in values.iter().zip(&decoded) {
            let step = (f64::from(x.abs()) / 1024.0).max(1.0 / 16_777_216.0);
            prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= step / 2.0);
        }
        let again = Codec::F16.decode(&Codec::F16.encode(&decoded).unwrap(), values.len()).unwrap();
        prop_assert_eq!(bits(&again), bits(&decoded));
    }

    #[test]
    fn integers_are_within_half_a_step_of_their_block(values in values(700)) {
        for (codec, most) in [(Codec::Int8, 127.0), (Codec::Int4, 7.0)] {
            let bytes = codec.encode(&values).unwrap();
            let decoded = codec.decode(&bytes, values.len()).unwrap();
            for (block, decoded) in values.chunks(BLOCK).zip(decoded.chunks(BLOCK)) {
                let bound = most_scale(block) / (2.0 * most) * (1.0 + 1e-5);
                for (x, y) in block.iter().zip(decoded) {
                    prop_assert!((f64::from(*x) - f64::from(*y)).abs() <= bound, "{x} {y} {bound}");
                }
                // The next one up from the largest is an f16 scale at most; nothing grows beyond it.
                prop_assert!(largest(decoded) <= most_scale(block));
            }
            // Where the scale has all its bits the largest value keeps its integer, so the scale survives.
            let fine = values.chunks(BLOCK).all(|block| largest(block) == 0.0 || largest(block) >= 1.6e-5);
            if fine {
                prop_assert_eq!(codec.encode(&decoded).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn sparse_keeps_the_largest_and_its_own_values_survive(values in values(5000)) {
        let bytes = Codec::TopK.encode(&values).unwrap();
        let decoded = Codec::TopK.decode(&bytes, values.len()).unwrap();
        let entries = decode_sparse(&bytes, values.len()).unwrap();
        let mut dense = vec![0.0; values.len()];
        for &(index, value) in &entries {
            dense[index as usize] = value;
        }
        prop_assert_eq!(bits(&dense), bits(&decoded));
        prop_assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (block, decoded) in values.chunks(SPARSE_BLOCK).zip(decoded.chunks(SPARSE_BLOCK)) {
            let kept: Vec<usize> = (0..block.len()).filter(|&at| decoded[at] != 0.0).collect();
            let countable = block.iter().filter(|value| value.abs() >= 1.0 / 16_777_216.0).count();
            prop_assert_eq!(kept.len(), countable.min(KEPT));
            let least = kept.iter().map(|&at| block[at].abs()).fold(f32::INFINITY, f32::min);
            let left = (0..block.len()).filter(|at| decoded[*at] == 0.0).map(|at| block[at].abs());
            prop_assert!(left.fold(0.0, f32::max) <= least);
            for at in kept {
                prop_assert_eq!(block[at] < 0.0, decoded[at] < 0.0);
            }
        }
        prop_assert_eq!(Codec::TopK.encode(&decoded).unwrap(), bytes);
    }

    #[test]
    fn arbitrary_bytes_are_decoded_to_finite_values_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..800),
        parameters in 0..700_usize,
    ) {
        for codec in Codec::ALL {
            // With the length that fits, and with the one that came.
            let mut fitted = bytes.clone();
            fitted.resize(codec.encoded_len(parameters), 0x2a);
            for bytes in [&bytes, &fitted] {
                if let Ok(values) = codec.decode(bytes, parameters) {
                    prop_assert_eq!(values.len(), parameters);
                    prop_assert!(values.iter().all(|value| value.abs() <= MAX_MAGNITUDE));
                }
            }
        }
    }

    #[test]
    fn one_changed_bit_never_breaks_a_decoder(values in values(600), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        for codec in Codec::ALL {
            let mut bytes = codec.encode(&values).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(values) = codec.decode(&bytes, values.len()) {
                prop_assert!(values.iter().all(|value| value.abs() <= MAX_MAGNITUDE));
            }
        }
    }

    #[test]
    fn feedback_loses_nothing_over_the_rounds(updates in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 400), 1..6)) {
        // Without decay, what was sent and what is left are what was put in.
        let mut feedback = Feedback::new(Codec::TopK, 1.0, 400).unwrap();
        let mut sent = vec![0.0_f64; 400];
        for update in &updates {
            let bytes = feedback.encode(update).unwrap();
            for (index, value) in decode_sparse(&bytes, 400).unwrap() {
                sent[index as usize] += f64::from(value);
            }
        }
        for at in 0..400 {
            let put: f64 = updates.iter().map(|update| f64::from(update[at])).sum();
            prop_assert!((put - sent[at] - f64::from(feedback.error()[at])).abs() < 1e-5);
        }
    }
}

#[test]
fn sizes_are_those_of_the_design() {
    let bytes = |codec: Codec| codec.encoded_len(804_096);
    assert_eq!(Codec::ALL.map(bytes), [3_216_384, 1_608_192, 810_378, 408_330, 22_852]);
    assert_eq!(Codec::TopK.encoded_len(4096), 116);
    assert_eq!(Codec::TopK.encoded_len(1), 116);
    assert_eq!(Codec::Int4.encoded_len(257), 2 + 128 + 2 + 1);
    assert_eq!(Codec::ALL.map(|codec| codec.encoded_len(0)), [0; 5]);
}

#[test]
fn what_cannot_be_sent_is_refused_with_its_place() {
    for codec in Codec::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(codec.encode(&[0.0, 1.0, bad, bad]), Err(CodecError::NotFinite { index: 2 }));
        }
        let value = -65_505.0;
        assert_eq!(codec.encode(&[0.0, value]), Err(CodecError::TooLarge { index: 1, value }));
        assert_eq!(
            codec.decode(&[], MAX_PARAMETERS + 1),
            Err(CodecError::Parameters { found: MAX_PARAMETERS + 1, most: MAX_PARAMETERS })
        );
        // A promise of a large model allocates nothing when the bytes are not there.
        let expected = codec.encoded_len(MAX_PARAMETERS);
        assert_eq!(codec.decode(&[0; 8], MAX_PARAMETERS), Err(CodecError::Length { found: 8, expected }));
    }
    assert!(matches!(decode_sparse(&[0; 115], 10), Err(CodecError::Length { found: 115, expected: 116 })));
}

#[test]
fn hostile_scales_are_refused() {
    // Infinity, NaN, -infinity, -1, -0.
    for scale in [0x7c00_u16, 0x7e01, 0xfc00, 0xbc00, 0x8000] {
        for codec in [Codec::Int8, Codec::Int4, Codec::TopK] {
            let mut bytes = codec.encode(&[0.5, -0.25, 0.125]).unwrap();
            bytes[..2].copy_from_slice(&scale.to_le_bytes());
            assert!(
                matches!(codec.decode(&bytes, 3), Err(CodecError::Scale { block: 0, .. })),
                "{codec:?} {scale:x}"
            );
        }
    }
    for codec in [Codec::F32, Codec::F16] {
        let mut bytes = codec.encode(&[0.5, 0.5]).unwrap();
        bytes.fill(0xff);
        assert_eq!(codec.decode(&bytes, 2), Err(CodecError::NotFinite { index: 0 }));
    }
    let huge = 1e30_f32.to_le_bytes();
    assert_eq!(Codec::F32.decode(&huge, 1), Err(CodecError::TooLarge { index: 0, value: 1e30 }));
    // A scale of zero with values.
    for codec in [Codec::Int8, Codec::Int4] {
        let mut bytes = codec.encode(&[0.5, -0.25]).unwrap();
        bytes[..2].fill(0);
        assert_eq!(codec.decode(&bytes, 2), Err(CodecError::Scale { block: 0, scale: 0.0 }));
    }
    // The large magnitude below the small one, and a small one of zero.
    let mut bytes = Codec::TopK.encode(&[0.5, -0.25]).unwrap();
    bytes[..4].rotate_left(2);
    assert!(matches!(Codec::TopK.decode(&bytes, 2), Err(CodecError::Scale { .. })));
    bytes[..2].fill(0);
    assert!(matches!(Codec::TopK.decode(&bytes, 2), Err(CodecError::Scale { .. })));
}

#[test]
fn integers_that_no_encoder_writes_are_refused() {
    let mut bytes = Codec::Int8.encode(&vec![0.5; 300]).unwrap();
    bytes[2 + 256 + 2] = 0x80;
    assert_eq!(Codec::Int8.decode(&bytes, 300), Err(CodecError::Code { index: 256, code: -128 }));
    let mut bytes = Codec::Int4.encode(&[0.5, 0.5, 0.5]).unwrap();
    bytes[2] = 0x87;
    assert_eq!(Codec::Int4.decode(&bytes, 3), Err(CodecError::Code { index: 1, code: -8 }));
    bytes[2] = 0x77;
    bytes[3] = 0x17;
    assert_eq!(Codec::Int4.decode(&bytes, 3), Err(CodecError::Unused { block: 0 }));
}

#[test]
fn hostile_indices_are_refused() {
    let good = Codec::TopK.encode(&[0.5, -0.25, 0.125, 0.75]).unwrap();
    assert_eq!(decode_sparse(&good, 4).unwrap().len(), 4);
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Codec::TopK.decode(&bytes, 4)
    };
    // Slots 0 and 1 are in bytes 4 to 6: indices 0 and 1.
    assert_eq!(with(&|b| b[4] = 1), Err(CodecError::Index { block: 0, slot: 1, index: 1 }), "repeated");
    assert_eq!(with(&|b| b[4] = 2), Err(CodecError::Index { block: 0, slot: 1, index: 1 }), "descending");
    assert_eq!(with(&|b| b[9] = 0xff), Err(CodecError::Index { block: 0, slot: 3, index: 4083 }), "beyond");
    assert_eq!(with(&|b| b[8] = 0x00), Err(CodecError::Unused { block: 0 }), "its code remains");
    assert_eq!(with(&|b| b[99] = 1), Err(CodecError::Unused { block: 0 }), "a slot after the end");
    assert_eq!(with(&|b| b[115] = 0xc0), Err(CodecError::Unused { block: 0 }), "a code after the end");
    assert_eq!(with(&|b| b[..4].fill(0)), Err(CodecError::Unused { block: 0 }), "values of an empty block");
}

#[test]
fn a_failed_encoding_leaves_the_error_as_it_was() {
    let mut feedback = Feedback::sparse(3).unwrap();
    feedback.encode(&[1.0, 0.3, -0.2]).unwrap();
    let before = feedback.clone();
    assert_eq!(feedback.encode(&[0.0, f32::NAN, 0.0]), Err(CodecError::NotFinite { index: 1 }));
    assert_eq!(feedback.encode(&[0.0]), Err(CodecError::FeedbackLength { found: 1, expected: 3 }));
    assert_eq!(feedback, before);
    assert_eq!(feedback.hash(), before.hash());
    feedback.encode(&[0.0; 3]).unwrap();
    assert_ne!(feedback.hash(), before.hash());
    let resumed = Feedback::resume(Codec::TopK, Feedback::SPARSE_DECAY, feedback.error().to_vec()).unwrap();
    assert_eq!(resumed, feedback);
    assert!(Feedback::resume(Codec::TopK, 0.95, vec![f32::INFINITY]).is_err());
    let left = Feedback::resume(Codec::TopK, 0.95, vec![0.0, 2.0, -4.0]).unwrap();
    assert_eq!(left.ahead(&[1.0; 3], Feedback::LOOKAHEAD).unwrap(), [1.0, 0.0, 3.0]);
    assert_eq!(left.ahead(&[1.0], 0.5), Err(CodecError::FeedbackLength { found: 1, expected: 3 }));
}
