//! What a log's hashes promise of a model, and whether files are what was promised.
//!
//! A candidate's entry names its parameters and its run by hash and id; the run's entry names its request by hash; the
//! request says how large the model is and names the tokenizer by hash. So whoever trusts a checkpoint of the log needs to
//! trust nobody for the rest.

use potluck_train::TrainError;
use potluck_train::data::Tokenizer;
use potluck_train::gpt::{Decoder, GptConfig, Layout};
use potluck_types::BlobHash;
use potluck_types::limits::MAX_CHECKPOINT_BYTES;
use serde::Deserialize;

use crate::tokenizer::{self, TokenizerError};

/// Longest request of a run, in bytes: its names are short, and the tokenizer is named by its hash.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Longest `tokenizer.json`, in bytes.
pub const MAX_TOKENIZER_BYTES: usize = 8 << 20;

/// Why a model cannot be used: each says what was promised and what came.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Bytes that are others than the log names.
    #[error(
        "{what}: the log names {expected}, and what came is {found}: it was changed or damaged on the way"
    )]
    Hash {
        /// Which file.
        what: &'static str,
        /// The hash in the log, or in what the log names.
        expected: BlobHash,
        /// The hash of what came.
        found: BlobHash,
    },
    /// Too long.
    #[error("{what}: {bytes} bytes; at most {limit} are read")]
    Long {
        /// Which file.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A request that says nothing of a model.
    #[error("the run’s request cannot be read: {0}")]
    Request(String),
    /// A model that does not write.
    #[error("the run trains no model of text")]
    NoText,
    /// No tokenizer.
    #[error("the run has no tokenizer: its model reads and writes numbers only")]
    NoTokenizer,
    /// A tokenizer that is not understood.
    #[error("the tokenizer cannot be used: {0}")]
    Tokenizer(String),
    /// A tokenizer of another model.
    #[error("the tokenizer has {found} tokens, the model only {expected}")]
    Vocabulary {
        /// Tokens of the tokenizer.
        found: usize,
        /// Tokens of the model.
        expected: usize,
    },
    /// Another number of parameters.
    #[error("{found} bytes of parameters; a model of these sizes has {expected}")]
    Parameters {
        /// What came.
        found: u64,
        /// What the sizes say.
        expected: u64,
    },
    /// A parameter that is no number.
    #[error("parameter {index} is not a finite number: the model is broken")]
    NotFinite {
        /// Its place.
        index: usize,
    },
    /// Sizes that make no model, or too large a one.
    #[error("its sizes make no model: {0}")]
    Sizes(TrainError),
}

impl From<TokenizerError> for Unfit {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(error.to_string())
    }
}

/// What of a run's request is about the model. Whatever else it says, the hash covers.
#[derive(Deserialize)]
struct Request {
    model: RequestModel,
    #[serde(default)]
    tokenizer: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a model is the sizes of a GPT, or a name")]
enum RequestModel {
    Gpt {
        vocabulary: u32,
        context: u32,
        layers: u32,
        heads: u32,
        width: u32,
        bias: bool,
    },
    /// Nothing is known of it but that it is no GPT.
    Named(#[expect(dead_code, reason = "that it is a name is all that counts")] String),
}

/// A model as its run's request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promised {
    /// Its sizes: they make a model.
    pub config: GptConfig,
    /// The hash of its `tokenizer.json`.
    pub tokenizer: BlobHash,
}

/// Bytes of a file that is what the log names.
fn proven(what: &'static str, bytes: &[u8], limit: usize, expected: &BlobHash) -> Result<(), Unfit> {
    if bytes.len() > limit {
        return Err(Unfit::Long { what, bytes: bytes.len() as u64, limit: limit as u64 });
    }
    let found = BlobHash::of(bytes);
    if found != *expected {
        return Err(Unfit::Hash { what, expected: *expected, found });
    }
    Ok(())
}

impl Promised {
    /// Reads a run's request, whose hash the run's entry in the log names.
    ///
    /// # Errors
    /// [`Unfit`]: it is another one, or its model does not write.
    pub fn read(request: &[u8], hash: &BlobHash) -> Result<Self, Unfit> {
        proven("the run’s request", request, MAX_REQUEST_BYTES, hash)?;
        let unread = |error: serde_json::Error| Unfit::Request(error.to_string());
        let request: Request = serde_json::from_slice(request).map_err(unread)?;
        let RequestModel::Gpt { vocabulary, context, layers, heads, width, bias } = request.model else {
            return Err(Unfit::NoText);
        };
        let [vocabulary, context, layers, heads, width] =
            [vocabulary, context, layers, heads, width].map(|size| size as usize);
        let config = GptConfig { vocabulary, context, layers, heads, width, bias };
        config.check().map_err(Unfit::Sizes)?;
        let tokenizer = request.tokenizer.ok_or(Unfit::NoTokenizer)?;
        let tokenizer =
            tokenizer.parse().map_err(|_| Unfit::Request("its tokenizer is named by no hash".to_owned()))?;
        let promised = Self { config, tokenizer };
        let (bytes, limit) = (promised.bytes(), MAX_CHECKPOINT_BYTES as u64);
        if bytes > limit {
            return Err(Unfit::Long { what: "the model", bytes, limit });
        }
        Ok(promised)
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> usize {
        Layout::new(&self.config).parameters()
    }

    /// Bytes of its parameters: f32 each.
    pub fn bytes(&self) -> u64 {
        4 * self.parameters() as u64
    }

    /// The model, ready to read, and its tokenizer. `parameters` is what the candidate's entry names by `hash`.
    ///
    /// # Errors
    /// [`Unfit`]: a file that is not what was promised.
    pub fn open(
        &self,
        tokenizer: &[u8],
        parameters: &[u8],
        hash: &BlobHash,
    ) -> Result<(Decoder, Tokenizer), Unfit> {
        proven("the tokenizer", tokenizer, MAX_TOKENIZER_BYTES, &self.tokenizer)?;
        proven("the model’s parameters", parameters, MAX_CHECKPOINT_BYTES, hash)?;
        let file = serde_json::from_slice(tokenizer).map_err(|error| Unfit::Tokenizer(error.to_string()))?;
        let tokenizer = tokenizer::from_json(&file)?;
        let (found, expected) = (tokenizer.vocabulary(), self.config.vocabulary);
        // A model may have tokens to spare, which stand for nothing and which it hardly ever writes.
        if found > expected {
            return Err(Unfit::Vocabulary { found, expected });
        }
        Ok((decoder(self.config, parameters)?, tokenizer))
    }
}

/// A model that reads, from its parameters: 4 bytes each, little-endian, in the order of [`Layout`].
///
/// # Errors
/// [`Unfit::Sizes`], [`Unfit::Parameters`], [`Unfit::NotFinite`].
pub fn decoder(config: GptConfig, parameters: &[u8]) -> Result<Decoder, Unfit> {
    config.check().map_err(Unfit::Sizes)?;
    let (found, expected) = (parameters.len() as u64, 4 * Layout::new(&config).parameters() as u64);
    if found != expected {
        return Err(Unfit::Parameters { found, expected });
    }
    let values: Vec<f32> =
        parameters.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(Unfit::NotFinite { index });
    }
    Decoder::new(config, values).map_err(Unfit::Sizes)
}

#[cfg(test)]
#[path = "promised_tests.rs"]
mod tests;
