//! Files that are what was promised open a model; any other is refused by name.

use super::*;
use crate::tokenizer::to_json;
use potluck_train::data::Characters;
use potluck_train::gpt::init;
use serde_json::{Value, json};

const CONFIG: GptConfig = GptConfig { vocabulary: 5, context: 8, layers: 1, heads: 2, width: 8, bias: false };

struct Files {
    request: Vec<u8>,
    tokenizer: Vec<u8>,
    parameters: Vec<u8>,
}

fn tokenizer(text: &str) -> Vec<u8> {
    to_json(&Tokenizer::Characters(Characters::of(text).unwrap()))
}

fn request(tokenizer: &Value, change: impl Fn(&mut Value)) -> Vec<u8> {
    let model = json!({
        "vocabulary": 5, "context": 8, "layers": 1, "heads": 2, "width": 8, "bias": false,
    });
    let mut request = json!({ "name": "whale", "model": model, "tokenizer": tokenizer, "rounds": 3 });
    change(&mut request);
    request.to_string().into_bytes()
}

fn files() -> Files {
    let tokenizer = tokenizer("abcd\n");
    let named = json!(BlobHash::of(&tokenizer).to_string());
    let parameters = init(&CONFIG, &[1; 32]).iter().flat_map(|value| value.to_le_bytes()).collect();
    Files { request: request(&named, |_| {}), tokenizer, parameters }
}

fn open(files: &Files) -> Result<(Decoder, Tokenizer), Unfit> {
    let promised = Promised::read(&files.request, &BlobHash::of(&files.request))?;
    promised.open(&files.tokenizer, &files.parameters, &BlobHash::of(&files.parameters))
}

fn read(request: &[u8]) -> Result<Promised, Unfit> {
    Promised::read(request, &BlobHash::of(request))
}

#[test]
fn what_was_promised_opens() {
    let files = files();
    let promised = read(&files.request).unwrap();
    assert_eq!((promised.config, promised.tokenizer), (CONFIG, BlobHash::of(&files.tokenizer)));
    assert_eq!(promised.bytes(), files.parameters.len() as u64);
    let (decoder, tokenizer) = open(&files).unwrap();
    assert_eq!((*decoder.config(), tokenizer.vocabulary()), (CONFIG, 5));
}

#[test]
fn a_changed_byte_is_refused_wherever_it_is() {
    let files = files();
    let hash = BlobHash::of(&files.request);
    let promised = read(&files.request).unwrap();
    let named = BlobHash::of(&files.parameters);
    let flip = |bytes: &[u8], at: usize| {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        changed
    };
    for at in 0..files.request.len() {
        let refused = Promised::read(&flip(&files.request, at), &hash).unwrap_err();
        assert!(matches!(refused, Unfit::Hash { what: "the run’s request", .. }), "{refused}");
    }
    for at in (0..files.tokenizer.len()).step_by(7) {
        let changed = promised.open(&flip(&files.tokenizer, at), &files.parameters, &named);
        assert!(matches!(changed, Err(Unfit::Hash { what: "the tokenizer", .. })));
    }
    for at in (0..files.parameters.len()).step_by(97) {
        let changed = promised.open(&files.tokenizer, &flip(&files.parameters, at), &named);
        let Err(refused) = changed else { unreachable!("byte {at} was changed") };
        assert!(refused.to_string().starts_with("the model’s parameters: the log names"), "{refused}");
    }
    let cut = promised.open(&files.tokenizer, &files.parameters[1..], &named);
    assert!(matches!(cut, Err(Unfit::Hash { .. })));
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    let good = files();
    // The hashes are right, and the files are not.
    let parameters = |parameters: Vec<u8>| open(&Files { parameters, ..files() }).err();
    let (found, expected) = (good.parameters.len() as u64 - 4, good.parameters.len() as u64);
    let short = good.parameters[4..].to_vec();
    assert_eq!(parameters(short), Some(Unfit::Parameters { found, expected }));
    let mut broken = good.parameters.clone();
    broken[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(parameters(broken), Some(Unfit::NotFinite { index: 10 }));

    let with_tokenizer = |tokenizer: Vec<u8>| {
        let named = json!(BlobHash::of(&tokenizer).to_string());
        open(&Files { request: request(&named, |_| {}), tokenizer, ..files() }).err()
    };
    let other = with_tokenizer(tokenizer("abcde\n"));
    assert_eq!(other, Some(Unfit::Vocabulary { found: 6, expected: 5 }));
    assert_eq!(with_tokenizer(tokenizer("abc\n")), None);
    assert!(matches!(with_tokenizer(b"{}".to_vec()), Some(Unfit::Tokenizer(_))));
    assert!(matches!(with_tokenizer(b"no JSON".to_vec()), Some(Unfit::Tokenizer(_))));

    let named = json!(BlobHash::of(&good.tokenizer).to_string());
    let changed = |change: &dyn Fn(&mut Value)| read(&request(&named, change)).unwrap_err();
    assert_eq!(changed(&|request| request["model"] = json!("digits")), Unfit::NoText);
    assert_eq!(changed(&|request| request["tokenizer"] = Value::Null), Unfit::NoTokenizer);
    assert!(matches!(changed(&|request| request["tokenizer"] = json!("x")), Unfit::Request(_)));
    assert!(matches!(changed(&|request| request["model"]["width"] = json!(9)), Unfit::Sizes(_)));
    assert!(matches!(changed(&|request| request["model"]["width"] = json!(-1)), Unfit::Request(_)));
    assert!(matches!(changed(&|request| request["model"] = json!([])), Unfit::Request(_)));
    assert!(matches!(read(b"no JSON"), Err(Unfit::Request(_))));
    assert!(matches!(read(&vec![b' '; MAX_REQUEST_BYTES + 1]), Err(Unfit::Long { .. })));
    let large = changed(&|request| {
        for (size, value) in [("layers", 12), ("width", 512), ("context", 1024)] {
            request["model"][size] = json!(value);
        }
    });
    assert!(matches!(large, Unfit::Long { what: "the model", .. }), "{large}");
}
