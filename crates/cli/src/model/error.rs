//! Why a model folder cannot be read or written, and what to do.

use super::{CONFIG, TENSORS, TOKENIZER};
use potluck_train::TrainError;
use potluck_train::data::DataError;
use std::path::PathBuf;

/// Why a model folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{} could not be {action}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A file that is larger than any that is implemented.
    #[error("{} has more than {most} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        most: u64,
    },
    /// A file that is no JSON.
    #[error("{} is not valid JSON: {cause}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        cause: String,
    },
    /// A safetensors file that is damaged.
    #[error("{TENSORS} is damaged: {why}")]
    Damaged {
        /// What is wrong.
        why: String,
    },
    /// A tensor that is not there.
    #[error("{TENSORS} lacks the tensor {name}")]
    Missing {
        /// Its name, without `transformer.`.
        name: String,
    },
    /// A tensor that a GPT-2 of these sizes does not have.
    #[error("{TENSORS} has a tensor {name}, which a GPT-2 of these sizes does not have")]
    Extra {
        /// Its name.
        name: String,
    },
    /// A tensor of another shape.
    #[error("the tensor {name} has the shape {found:?} instead of {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the sizes ask for.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not implemented.
    #[error("the tensor {name} has the type {found}; F32, F16 and BF16 are implemented")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that holds NaN or infinity.
    #[error("the tensor {name} holds values that are not finite")]
    NotFinite {
        /// Its name.
        name: String,
    },
    /// An output head of its own.
    #[error("lm_head.weight is not the token embedding: only tied heads are implemented")]
    Head,
    /// A setting of the model that is not implemented.
    #[error("{CONFIG}: {field} is {found}; {expected} is implemented")]
    Config {
        /// The setting.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A part of a tokenizer that is not implemented.
    #[error("{TOKENIZER}: {part} is {found}; {expected} is implemented")]
    Tokenizer {
        /// The part.
        part: String,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Model and tokenizer have different vocabularies.
    #[error("the model has {model} tokens, its tokenizer {tokens}")]
    Vocabulary {
        /// The model's.
        model: usize,
        /// The tokenizer's.
        tokens: usize,
    },
    /// The tokenizer's tables do not fit together.
    #[error("{TOKENIZER}: {0}")]
    Data(#[from] DataError),
    /// Sizes or parameters that do not work.
    #[error("{CONFIG}: {0}")]
    Sizes(#[from] TrainError),
}

impl ModelError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { action: "read", .. } => {
                "name a folder that holds model.safetensors, config.json and tokenizer.json"
            }
            Self::File { .. } => "check that the folder may be written and has space",
            Self::Damaged { .. } | Self::Json { .. } => "download or export the folder again",
            Self::Missing { .. } | Self::Extra { .. } | Self::Shape { .. } => {
                "check that config.json and model.safetensors belong together, and that the model is a GPT-2"
            }
            Self::NotFinite { .. } => "take an earlier checkpoint: this model has diverged",
            Self::Type { .. } => "save it with model.float().save_pretrained(FOLDER)",
            Self::Vocabulary { .. } => "check that tokenizer.json belongs to this model",
            _ => "use a GPT-2 with a byte-level BPE tokenizer, such as potluck exports",
        }
    }
}
