//! `tokenizer.json` among a model's files; what it says is read and written in `potluck_model::tokenizer`.

use super::ModelError;
pub(super) use potluck_model::tokenizer::to_json;
use potluck_model::tokenizer::{self, TokenizerError};
use potluck_train::data::Tokenizer;
use serde_json::{Value, json};

/// What makes `transformers` take `tokenizer.json` as it is.
pub(super) fn loader(context: usize) -> Vec<u8> {
    let value = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": false,
    });
    format!("{value:#}\n").into_bytes()
}

pub(super) fn from_json(file: &Value) -> Result<Tokenizer, ModelError> {
    Ok(tokenizer::from_json(file)?)
}

impl From<TokenizerError> for ModelError {
    fn from(error: TokenizerError) -> Self {
        match error {
            TokenizerError::Part { part, found, expected } => Self::Tokenizer { part, found, expected },
            TokenizerError::Data(error) => error.into(),
            other => {
                Self::Tokenizer { part: "the file".into(), found: other.to_string(), expected: "GPT-2's" }
            }
        }
    }
}
