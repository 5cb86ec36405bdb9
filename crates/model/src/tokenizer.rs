//! `tokenizer.json`, as the `tokenizers` library reads and writes it.
//!
//! Characters are a WordLevel model behind a split at every character, bytes a byte-level BPE without merges. Whatever a file
//! asks for beyond byte-level BPE as GPT-2's is refused by name.

use potluck_train::data::{Added, Bpe, Characters, DataError, Tokenizer, byte_characters};
use serde_json::{Map, Value, json};

/// Why a tokenizer cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A part that is not implemented.
    #[error("{part} is {found}; {expected} is implemented")]
    Part {
        /// The part.
        part: String,
        /// What it is, shortened.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Tokens that make no vocabulary.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// Characters of a value that are repeated in an error.
const SHOWN: usize = 60;

/// A value as it is repeated in an error.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if value.is_null() => "missing".to_owned(),
        None => text,
    }
}

/// Cuts a text into its characters, line breaks among them.
const EVERY_CHARACTER: &str = r"[\s\S]";
/// Parts of the file at the top.
const PARTS: [&str; 9] = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
];

fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

fn split_characters() -> Value {
    json!({ "type": "Split", "pattern": { "Regex": EVERY_CHARACTER }, "behavior": "Isolated", "invert": false })
}

/// Writes a tokenizer.
pub fn to_json(tokenizer: &Tokenizer) -> Vec<u8> {
    let bpe = |vocabulary: Map<String, Value>, merges: Vec<Value>| {
        json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        })
    };
    let mut added = Vec::new();
    let (pre_tokenizer, decoder, model) = match tokenizer {
        Tokenizer::Characters(characters) => {
            let ids = characters.characters().iter().map(char::to_string).zip((0..).map(|id: u32| json!(id)));
            let vocabulary: Map<String, Value> = ids.collect();
            // The name of the unknown token is asked for; it is not in the vocabulary, so that unknown characters are an
            // error there too.
            let model = json!({ "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unknown>" });
            (split_characters(), json!({ "type": "Fuse" }), model)
        }
        Tokenizer::Bytes => {
            let ids = byte_characters().map(String::from).into_iter().zip((0..).map(|id: u32| json!(id)));
            (byte_level(), byte_level(), bpe(ids.collect(), Vec::new()))
        }
        Tokenizer::Bpe(tokenizer) => {
            added.extend(tokenizer.added().iter().map(|token| {
                json!({
                    "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            }));
            let vocabulary = tokenizer.names().map(|(name, id)| (name.to_owned(), json!(id))).collect();
            let merges = tokenizer.merges().map(|(left, right)| json!([left, right])).collect();
            (byte_level(), byte_level(), bpe(vocabulary, merges))
        }
    };
    let value = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    });
    format!("{value:#}\n").into_bytes()
}

fn refused(part: &str, found: &Value, expected: &'static str) -> TokenizerError {
    TokenizerError::Part { part: part.to_owned(), found: short(found), expected }
}

/// Reads a tokenizer.
///
/// # Errors
/// The first part of the file that is not implemented.
pub fn from_json(file: &Value) -> Result<Tokenizer, TokenizerError> {
    let object = file.as_object().ok_or_else(|| refused("the file", file, "an object"))?;
    if let Some((part, found)) = object.iter().find(|(part, _)| !PARTS.contains(&part.as_str())) {
        return Err(refused(part, found, "no such part"));
    }
    let part = |name: &str| object.get(name).unwrap_or(&Value::Null);
    for name in ["truncation", "padding", "normalizer"] {
        if !part(name).is_null() {
            return Err(refused(name, part(name), "none"));
        }
    }
    let model = part("model");
    let is_of = |value: &Value, kind: &str| value.get("type").and_then(Value::as_str) == Some(kind);
    if is_of(model, "WordLevel") {
        return characters(model, part("pre_tokenizer"), part("added_tokens"));
    }
    // Old files do not name the type.
    if !(is_of(model, "BPE") || model.get("type").is_none() && model.get("merges").is_some()) {
        return Err(refused("model", model.get("type").unwrap_or(model), "BPE"));
    }
    let pre_tokenizer = part("pre_tokenizer");
    settings(
        "pre_tokenizer",
        pre_tokenizer,
        &[("type", &[json!("ByteLevel")]), ("add_prefix_space", &[json!(false)])],
    )?;
    let usual = [Value::Null, json!(true)];
    settings("pre_tokenizer", pre_tokenizer, &[("use_regex", &usual)])?;
    // ByteLevel changes nothing but positions here.
    for (name, may_lack) in [("post_processor", true), ("decoder", false)] {
        if !(is_of(part(name), "ByteLevel") || may_lack && part(name).is_null()) {
            return Err(refused(name, part(name), "ByteLevel"));
        }
    }
    bpe(model, part("added_tokens"))
}

/// Checks settings within a part; a missing one counts as null.
fn settings(part: &str, value: &Value, fields: &[(&str, &[Value])]) -> Result<(), TokenizerError> {
    for (field, implemented) in fields {
        let found = value.get(field).unwrap_or(&Value::Null);
        if !implemented.contains(found) {
            let name = format!("{part}.{field}");
            return Err(refused(&name, found, "only what GPT-2's byte-level BPE has there"));
        }
    }
    Ok(())
}

fn id(part: &str, value: &Value) -> Result<u32, TokenizerError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| refused(part, value, "a number"))
}

fn vocabulary(model: &Value) -> Result<Vec<(String, u32)>, TokenizerError> {
    let found = model.get("vocab").unwrap_or(&Value::Null);
    let entries = found.as_object().ok_or_else(|| refused("model.vocab", found, "an object"))?;
    entries.iter().map(|(token, value)| Ok((token.clone(), id("model.vocab", value)?))).collect()
}

fn characters(model: &Value, pre_tokenizer: &Value, added: &Value) -> Result<Tokenizer, TokenizerError> {
    if *pre_tokenizer != split_characters() {
        return Err(refused("pre_tokenizer", pre_tokenizer, "a split at every character"));
    }
    if added.as_array().is_some_and(|added| !added.is_empty()) {
        return Err(refused("added_tokens", added, "none beside characters"));
    }
    let mut tokens = vocabulary(model)?;
    tokens.sort_by_key(|(_, id)| *id);
    let mut found = Vec::with_capacity(tokens.len());
    for (expected, (token, id)) in (0..).zip(tokens) {
        let mut characters = token.chars();
        let (Some(character), None, true) = (characters.next(), characters.next(), id == expected) else {
            return Err(refused("model.vocab", &json!({ token: id }), "one character a token, ids from 0"));
        };
        found.push(character);
    }
    Ok(Tokenizer::Characters(Characters::new(found)?))
}

fn bpe(model: &Value, added: &Value) -> Result<Tokenizer, TokenizerError> {
    let none: &[Value] = &[Value::Null, json!("")];
    let off: &[Value] = &[Value::Null, json!(false)];
    settings(
        "model",
        model,
        &[
            ("dropout", &[Value::Null, json!(0.0)]),
            ("continuing_subword_prefix", none),
            ("end_of_word_suffix", none),
            ("byte_fallback", off),
            ("ignore_merges", off),
        ],
    )?;
    let merges = model.get("merges").unwrap_or(&Value::Null);
    let merges = merges.as_array().ok_or_else(|| refused("model.merges", merges, "a list"))?;
    let pair = |merge: &Value| {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(parts) => match &parts[..] {
                [left, right] => left.as_str().zip(right.as_str()),
                _ => None,
            },
            _ => None,
        };
        let (left, right) = pair.ok_or_else(|| refused("model.merges", merge, "two tokens each"))?;
        Ok((left.to_owned(), right.to_owned()))
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<_>, TokenizerError>>()?;
    let added = added.as_array().map(Vec::as_slice).unwrap_or_default();
    let token = |token: &Value| {
        settings("added_tokens", token, &[("single_word", off), ("lstrip", off), ("rstrip", off)])?;
        let content = token.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| refused("added_tokens.content", token, "a text"))?.to_owned();
        Ok(Added { content, id: id("added_tokens.id", token.get("id").unwrap_or(&Value::Null))? })
    };
    let added = added.iter().map(token).collect::<Result<Vec<_>, TokenizerError>>()?;
    let bpe = Bpe::new(vocabulary(model)?, merges, added).map_err(DataError::from)?;
    Ok(if bpe.is_bytes() && bpe.merges().next().is_none() { Tokenizer::Bytes } else { Tokenizer::Bpe(bpe) })
}
