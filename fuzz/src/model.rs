//! Training and evaluation: updates, items of evals, eval cards, tokenizers, and requests of runs.

use potluck_eval::card::EvalCard;
use potluck_eval::items::Items;
use potluck_model::promised::Promised;
use potluck_model::tokenizer::{from_json, to_json};
use potluck_train::codec::Codec;
use potluck_train::gpt::GptConfig;
use potluck_types::BlobHash;

const CODECS: [Codec; 5] = [Codec::F32, Codec::F16, Codec::Int8, Codec::Int4, Codec::TopK];
/// Parameters that an update may have here: of several blocks of each codec.
const MAX_PARAMETERS: u16 = 20_000;
/// Longest text that a tokenizer of a stranger writes here.
const SAMPLE: &str = "The quick brown fox\n";

/// The first byte names the codec, the next two how many parameters there are.
pub(crate) fn update(bytes: &[u8]) {
    let Some(([codec, low, high], bytes)) = bytes.split_first_chunk::<3>() else { return };
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let parameters = usize::from(u16::from_le_bytes([*low, *high]) % MAX_PARAMETERS);
    let Ok(values) = codec.decode(bytes, parameters) else { return };
    assert_eq!(values.len(), parameters);
    assert!(values.iter().all(|value| value.is_finite()), "{codec:?}");
}

pub(crate) fn eval_items(bytes: &[u8]) {
    if let Ok(items) = Items::decode(bytes, &GptConfig::tiny(65)) {
        assert_eq!(items.encode(), bytes);
    }
}

pub(crate) fn eval_card(bytes: &[u8]) {
    if let Ok(card) = EvalCard::decode(bytes) {
        assert_eq!(card.encode().expect("what was read can be written"), bytes);
    }
}

pub(crate) fn tokenizer(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let Ok(tokenizer) = from_json(&json) else { return };
    let again = serde_json::from_slice(&to_json(&tokenizer)).expect("JSON");
    let again = from_json(&again).expect("what was read can be written");
    assert_eq!(again.vocabulary(), tokenizer.vocabulary());
    // A text that it can write comes back as it was.
    if let Ok(tokens) = tokenizer.encode(SAMPLE) {
        assert_eq!(tokenizer.decode(&tokens).as_deref(), Ok(SAMPLE));
        assert_eq!(again.encode(SAMPLE), Ok(tokens));
    }
}

/// What a page reads of a run before it fetches the model.
pub(crate) fn run_request(bytes: &[u8]) {
    if let Ok(promised) = Promised::read(bytes, &BlobHash::of(bytes)) {
        assert_eq!(promised.bytes(), 4 * promised.parameters() as u64);
    }
}
