//! Training and evaluation: updates, blocks of tokens, items of evals and what is answered, eval cards, tokenizers, and
//! requests of runs.

use potluck_eval::answers::{Answer, Answers};
use potluck_eval::card::EvalCard;
use potluck_eval::items::{Item, Items};
use potluck_model::promised::Promised;
use potluck_model::tokenizer::{from_json, to_json};
use potluck_train::codec::Codec;
use potluck_train::data::{Held, Spec, leaf};
use potluck_train::gpt::{GptConfig, MAX_CONTEXT, Sampling};
use potluck_types::BlobHash;

const CODECS: [Codec; 5] = [Codec::F32, Codec::F16, Codec::Int8, Codec::Int4, Codec::TopK];
/// Parameters that an update may have here: of several blocks of each codec.
const MAX_PARAMETERS: u16 = 20_000;
/// Longest text that a tokenizer of a stranger writes here.
const SAMPLE: &str = "The quick brown fox\n";

/// The first byte names the codec, the next two how many parameters there are.
pub(crate) fn update(bytes: &[u8]) -> bool {
    let Some(([codec, low, high], bytes)) = bytes.split_first_chunk::<3>() else { return false };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let parameters = usize::from(u16::from_le_bytes([*low, *high]) % MAX_PARAMETERS);
    let Ok(values) = codec.decode(bytes, parameters) else { return false };
    assert_eq!(values.len(), parameters);
    assert!(values.iter().all(|value| value.is_finite()), "{codec:?}");
    true
}

pub(crate) fn eval_items(bytes: &[u8]) -> bool {
    let Ok(items) = Items::decode(bytes, &GptConfig::tiny(65)) else { return false };
    assert_eq!(items.encode(), bytes);
    true
}

/// What a volunteer answers to three items.
pub(crate) fn eval_answers(bytes: &[u8]) -> bool {
    let config = GptConfig::tiny(65);
    let sampling = Sampling { temperature: 0.8, top_k: 5, seed: [3; 32] };
    let items = vec![
        Item::Score { tokens: vec![1, 2, 3, 4], from: 1 },
        Item::greedy(vec![5, 6], 4),
        Item::Generate { prompt: vec![7], count: 2, sampling },
    ];
    let items = Items::new(items, &config).expect("items that fit the model");
    let Ok(read) = Answers::decode(&items, &config, bytes) else { return false };
    let mut again = Vec::new();
    for answer in read.answers() {
        match answer {
            Answer::Score(score) => again.extend(score.to_le_bytes()),
            Answer::Tokens(tokens) => again.extend(tokens.iter().flat_map(|token| token.to_le_bytes())),
        }
    }
    assert_eq!(again, bytes);
    true
}

/// A block of tokens from a stranger: the size of the vocabulary, the tokens of the data set, and which block this is (u32,
/// little-endian), hashes of the proof (one byte); then the proof, and the block. Without a proof it is the only block.
pub(crate) fn block(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<13>() else { return false };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let Some((proof, block)) = rest.split_at_checked(32 * usize::from(head[12])) else { return false };
    let proof = proof.as_chunks().0;
    let tree = if proof.is_empty() { leaf(&BlobHash::of(block)) } else { [0; 32] };
    let spec = Spec { vocabulary: number(0), tokens: number(4).into(), tree };
    let Ok(mut held) = Held::new(spec) else { return false };
    if held.insert(number(8), block.to_vec(), proof).is_err() {
        return false;
    }
    let length = (block.len() / spec.token_bytes() - 1).min(MAX_CONTEXT);
    let batch = held.batch(&[0], length).expect("a block that was taken has its tokens");
    assert!(batch.inputs.iter().chain(&batch.targets).all(|token| *token < spec.vocabulary));
    true
}

pub(crate) fn eval_card(bytes: &[u8]) -> bool {
    let Ok(card) = EvalCard::decode(bytes) else { return false };
    assert_eq!(card.encode().expect("what was read can be written"), bytes);
    true
}

pub(crate) fn tokenizer(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice(bytes) else { return false };
    let Ok(tokenizer) = from_json(&json) else { return false };
    let again = serde_json::from_slice(&to_json(&tokenizer)).expect("JSON");
    let again = from_json(&again).expect("what was read can be written");
    assert_eq!(again.vocabulary(), tokenizer.vocabulary());
    // A text that it can write comes back as it was.
    if let Ok(tokens) = tokenizer.encode(SAMPLE) {
        assert_eq!(tokenizer.decode(&tokens).as_deref(), Ok(SAMPLE));
        assert_eq!(again.encode(SAMPLE), Ok(tokens));
    }
    true
}

/// What a page reads of a run before it fetches the model.
pub(crate) fn run_request(bytes: &[u8]) -> bool {
    let Ok(promised) = Promised::read(bytes, &BlobHash::of(bytes)) else { return false };
    assert_eq!(promised.bytes(), 4 * promised.parameters() as u64);
    true
}
