//! The encoding of items and answers, and what hostile bytes do.
#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

use potluck_eval::items::{MAX_GENERATED, MAX_ITEMS, MAX_ITEMS_BYTES, MAX_TOKENS};
use potluck_eval::{Answer, Answers, EvalError, Item, Items};
use potluck_train::gpt::{GptConfig, Sampling};
use proptest::prelude::*;

const CONFIG: GptConfig = GptConfig { vocabulary: 11, context: 6, layers: 1, heads: 2, width: 8, bias: true };

fn item() -> impl Strategy<Value = Item> {
    let token = 0..11_u32;
    let score = prop::collection::vec(token.clone(), 2..=7)
        .prop_flat_map(|tokens| (1..tokens.len(), Just(tokens)))
        .prop_map(|(from, tokens)| Item::Score { tokens, from });
    let temperature = prop_oneof![Just(0.0), 0.1_f32..=100.0];
    let generate =
        (prop::collection::vec(token, 1..=6), 1..20_usize, temperature, 0..11_usize, any::<[u8; 32]>());
    let generate = generate.prop_map(|(prompt, count, temperature, top_k, seed)| Item::Generate {
        prompt,
        count,
        sampling: Sampling { temperature, top_k, seed },
    });
    prop_oneof![score, generate]
}

fn items() -> impl Strategy<Value = Items> {
    prop::collection::vec(item(), 1..8).prop_map(|items| Items::new(items, &CONFIG).unwrap())
}

proptest! {
    #[test]
    fn items_come_back_and_have_one_encoding(items in items(), cut in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let bytes = items.encode();
        prop_assert!(bytes.len() <= MAX_ITEMS_BYTES);
        prop_assert_eq!(Items::decode(&bytes, &CONFIG), Ok(items.clone()));
        let at = cut.index(bytes.len());
        prop_assert!(Items::decode(&bytes[..at], &CONFIG).is_err());
        prop_assert!(Items::decode(&[&bytes[..], &[0]].concat(), &CONFIG).is_err());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1_u8 << bit;
        // Other bytes are other items, or none.
        if let Ok(other) = Items::decode(&flipped, &CONFIG) {
            prop_assert_eq!(other.encode(), flipped);
        }
    }

    #[test]
    fn hostile_bytes_are_an_error(items in items(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Items::decode(&bytes, &CONFIG).is_err());
        let magic = [&b"PLEVAL\x00\x01"[..], &bytes].concat();
        if let Ok(other) = Items::decode(&magic, &CONFIG) {
            prop_assert_eq!(other.encode(), magic);
        }
        if let Ok(answers) = Answers::decode(&items, &CONFIG, &bytes) {
            prop_assert_eq!(answers.answers().len(), items.items().len());
        }
    }

    #[test]
    fn answers_have_the_length_that_the_items_say(items in items(), byte in any::<u8>()) {
        let found = items.result_bytes();
        let fine = vec![0; found];
        prop_assert_eq!(Answers::decode(&items, &CONFIG, &fine).unwrap().answers().len(), items.items().len());
        for wrong in [found - 1, found + 1] {
            let error = EvalError::Answers { found: wrong, expected: found };
            prop_assert_eq!(Answers::decode(&items, &CONFIG, &vec![byte; wrong]), Err(error));
        }
        let tops = Answers::decode(&items, &CONFIG, &vec![0xff; found]);
        let refused = matches!(tops, Err(EvalError::Answer { item: 0, .. }));
        prop_assert!(refused);
        prop_assert!(items.flops(&CONFIG) > 0 && items.memory_bytes(&CONFIG) >= CONFIG.step_bytes(1, 1));
        prop_assert!(items.passes() >= items.items().len() as u64);
    }
}

#[test]
fn what_a_model_cannot_run_is_refused_with_the_reason() {
    let draw = |temperature, top_k| Item::Generate {
        prompt: vec![1],
        count: 2,
        sampling: Sampling { temperature, top_k, seed: [1; 32] },
    };
    let bad = [
        Item::Score { tokens: vec![1], from: 1 },
        Item::Score { tokens: vec![1; 8], from: 1 },
        Item::Score { tokens: vec![1, 2], from: 0 },
        Item::Score { tokens: vec![1, 2], from: 2 },
        Item::Score { tokens: vec![1, 11], from: 1 },
        Item::greedy(vec![], 1),
        Item::greedy(vec![1; 7], 1),
        Item::greedy(vec![1], 0),
        Item::greedy(vec![11], 1),
        draw(-0.0, 0),
        draw(0.01, 0),
        draw(101.0, 0),
        draw(f32::NAN, 0),
        draw(f32::INFINITY, 0),
        draw(1.0, 11),
    ];
    let fine = Item::Score { tokens: vec![1, 2], from: 1 };
    for item in bad {
        let error = Items::new(vec![fine.clone(), item.clone()], &CONFIG).unwrap_err();
        assert!(matches!(error, EvalError::Item { item: 1, .. }), "{item:?}: {error}");
    }
    let many = [
        ("items", vec![]),
        ("items", vec![fine.clone(); MAX_ITEMS + 1]),
        ("tokens to generate", vec![Item::greedy(vec![1], MAX_GENERATED), Item::greedy(vec![1], 1)]),
        ("tokens to generate", vec![Item::greedy(vec![1], usize::MAX), Item::greedy(vec![1], usize::MAX)]),
    ];
    for (what, items) in many {
        let error = Items::new(items, &CONFIG).unwrap_err();
        assert!(matches!(error, EvalError::Limit { what: found, .. } if found == what), "{error}");
    }
    let wide = GptConfig { context: 4096, ..CONFIG };
    let long = vec![Item::greedy(vec![1; 4096], 1); MAX_TOKENS / 4096 + 1];
    assert!(matches!(Items::new(long, &wide), Err(EvalError::Limit { what: "tokens", .. })));
    assert!(matches!(Items::new(vec![fine], &GptConfig { heads: 3, ..CONFIG }), Err(EvalError::Model(_))));
}

#[test]
fn lengths_that_are_not_there_take_no_memory() {
    let mut bytes = b"PLEVAL\x00\x01".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.push(1);
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    assert!(matches!(Items::decode(&bytes, &CONFIG), Err(EvalError::Limit { what: "tokens", .. })));
    bytes[13..17].copy_from_slice(&(MAX_TOKENS as u32).to_le_bytes());
    assert!(matches!(Items::decode(&bytes, &CONFIG), Err(EvalError::Encoding { expected: "tokens", .. })));
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Items::decode(&bytes, &CONFIG), Err(EvalError::Limit { what: "items", .. })));
}

#[test]
fn the_encoding_never_changes() {
    let draw = Sampling { temperature: 0.5, top_k: 3, seed: [9; 32] };
    let items = vec![
        Item::Score { tokens: vec![1, 2, 3], from: 2 },
        Item::Generate { prompt: vec![4], count: 5, sampling: draw },
    ];
    let items = Items::new(items, &CONFIG).unwrap();
    let mut expected = b"PLEVAL\x00\x01\x02\x00\x00\x00".to_vec();
    expected.extend(b"\x01\x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00");
    expected.extend(b"\x02\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x3f\x03\x00\x00\x00");
    expected.extend([9; 32]);
    expected.extend(b"\x04\x00\x00\x00");
    assert_eq!(items.encode(), expected);
    assert_eq!(items.result_bytes(), 8 + 20);
    let mut result = 1_234_567_i64.to_le_bytes().to_vec();
    result.extend([5, 4, 3, 2, 1].iter().flat_map(|token: &u32| token.to_le_bytes()));
    let answers = Answers::decode(&items, &CONFIG, &result).unwrap();
    assert_eq!(answers.answers(), [Answer::Score(1_234_567), Answer::Tokens(vec![5, 4, 3, 2, 1])]);
}
