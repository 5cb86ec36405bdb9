//! What a run trains: what everybody needs to know of a model, whatever engine trains it.

use crate::digits;
use crate::engine::TrainError;
use crate::gpt::{self, GptConfig, Layout, Tensor};
use std::ops::Range;

/// A model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// A GPT, trained by [`gpt`].
    Gpt(GptConfig),
    /// The classifier of digits, trained by burn: see [`digits`].
    Digits,
}

impl From<GptConfig> for Model {
    fn from(config: GptConfig) -> Self {
        Self::Gpt(config)
    }
}

impl Model {
    /// Whether the sizes make a model.
    ///
    /// # Errors
    /// [`TrainError::Size`], [`TrainError::Heads`].
    pub fn check(&self) -> Result<(), TrainError> {
        match self {
            Self::Gpt(config) => config.check(),
            Self::Digits => Ok(()),
        }
    }

    /// Tensors in the order of the flat vector, without gaps.
    pub fn tensors(&self) -> Vec<Tensor> {
        match self {
            Self::Gpt(config) => Layout::new(config).tensors,
            Self::Digits => digits::tensors(),
        }
    }

    /// Length of the flat vector.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Gpt(config) => Layout::new(config).parameters(),
            Self::Digits => digits::PARAMETERS,
        }
    }

    /// Fresh parameters.
    ///
    /// # Determinism
    /// Bitwise, everywhere: a function of the seed.
    pub fn init(&self, seed: &[u8; 32]) -> Vec<f32> {
        match self {
            Self::Gpt(config) => gpt::init(config, seed),
            Self::Digits => digits::init(seed),
        }
    }

    /// Values that have no influence, so that they have no gradient but rounding, which `AdamW` turns into steps of full
    /// length: the bias of a GPT's keys. Attention does not change when the same vector is added to all keys.
    pub fn idle(&self) -> Vec<Range<usize>> {
        match self {
            Self::Gpt(config) => {
                let biases = Layout::new(config).blocks.into_iter().filter_map(|block| block.qkv_bias);
                biases.map(|bias| bias + config.width..bias + 2 * config.width).collect()
            }
            Self::Digits => Vec::new(),
        }
    }

    /// Size of the vocabulary.
    pub const fn vocabulary(&self) -> usize {
        match self {
            Self::Gpt(config) => config.vocabulary,
            Self::Digits => digits::VOCABULARY,
        }
    }

    /// Least and most tokens of a sequence.
    pub const fn lengths(&self) -> [usize; 2] {
        match self {
            Self::Gpt(config) => [1, config.context],
            Self::Digits => [digits::PIXELS; 2],
        }
    }

    /// Tokens from where one sequence may begin to where the next may: 1 for text.
    pub const fn record(&self) -> usize {
        match self {
            Self::Gpt(_) => 1,
            Self::Digits => digits::RECORD,
        }
    }

    /// Bytes that a step takes on the CPU: parameters, gradient, moments and activations.
    pub fn step_bytes(&self, sequences: usize, length: usize) -> u64 {
        match self {
            Self::Gpt(config) => config.step_bytes(sequences, length),
            // burn keeps each layer before and after its ReLU, and both gradients.
            Self::Digits => {
                let activations = (sequences as u64).saturating_mul(4 * digits::ACTIVATIONS as u64);
                activations.saturating_add(6 * digits::PARAMETERS as u64).saturating_mul(4)
            }
        }
    }

    /// Floating-point operations of a step: two forward and four backward for each product; a GPT has one for each
    /// parameter and token, and two for each layer, channel and pair of positions. An estimate, for deadlines.
    pub fn step_flops(&self, sequences: usize, length: usize) -> u64 {
        let products = match self {
            Self::Gpt(config) => config.products(length),
            Self::Digits => digits::PRODUCTS,
        };
        products.saturating_mul(6).saturating_mul(sequences as u64)
    }
}
