//! The GPT-2 architecture: sizes, and where each tensor lies in the flat parameter vector.
//!
//! Pre-norm blocks, learned positions, tanh GELU, causal attention, the output head tied to the token embedding.
//! Source: Radford et al., Language Models are Unsupervised Multitask Learners, 2019; names as in Hugging Face's GPT-2.

mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
mod init;
mod layout;
mod sampling;
mod schedule;
mod writer;

pub use cpu::{CHUNK, CpuGpt, Decoder, MAX_STEP_BYTES, Optimizer};
#[cfg(feature = "gpu")]
pub use gpu::{GpuGpt, GpuGptOptions, KernelShape, Pipelines};
pub(crate) use init::draw;
pub use init::init;
pub use layout::{BlockTensors, Kind, Layout, Tensor};
pub use sampling::Sampling;
pub use schedule::{FRESH_WARMUP, Schedule};
pub use writer::Writer;

use crate::TrainError;

/// Most tokens in a vocabulary.
pub const MAX_VOCABULARY: usize = 1 << 17;
/// Most positions of context.
pub const MAX_CONTEXT: usize = 4096;
/// Most blocks.
pub const MAX_LAYERS: usize = 64;
/// Greatest width.
pub const MAX_WIDTH: usize = 4096;
/// Most parameters: what re-execution can audit on ordinary computers.
pub const MAX_PARAMETERS: usize = 64 << 20;

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptConfig {
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions of context.
    pub context: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Whether linear layers and norms have biases, as in GPT-2's published weights.
    pub bias: bool,
}

impl GptConfig {
    /// 3 blocks of 64, context 64, no biases: 156,160 parameters with 65 characters.
    pub const fn tiny(vocabulary: usize) -> Self {
        Self { vocabulary, context: 64, layers: 3, heads: 4, width: 64, bias: false }
    }

    /// nanoGPT's CPU configuration: 4 blocks of 128, context 64: 804,096 parameters with 65 characters.
    pub const fn mini(vocabulary: usize) -> Self {
        Self { vocabulary, context: 64, layers: 4, heads: 4, width: 128, bias: false }
    }

    /// nanoGPT's character model: 6 blocks of 384, context 256: 10.7 M parameters with 65 characters.
    pub const fn small(vocabulary: usize) -> Self {
        Self { vocabulary, context: 256, layers: 6, heads: 6, width: 384, bias: false }
    }

    /// Products of a forward pass over a sequence: one for each parameter and token, and two for each layer, channel
    /// and pair of positions.
    pub(crate) fn products(&self, length: usize) -> u64 {
        let attention = 2 * (self.layers as u64).saturating_mul(self.width as u64);
        let parameters = Layout::new(self).parameters() as u64;
        let token = attention.saturating_mul(length as u64).saturating_add(parameters);
        token.saturating_mul(length as u64)
    }

    /// Floating-point operations of a forward pass over a sequence of so many tokens. An estimate, for deadlines.
    pub fn forward_flops(&self, length: usize) -> u64 {
        self.products(length).saturating_mul(2)
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// [`TrainError::Size`] or [`TrainError::Heads`] for the first that does not work.
    pub fn check(&self) -> Result<(), TrainError> {
        let sizes = [
            ("vocabulary", self.vocabulary, 2, MAX_VOCABULARY),
            ("context", self.context, 1, MAX_CONTEXT),
            ("layers", self.layers, 1, MAX_LAYERS),
            ("heads", self.heads, 1, MAX_WIDTH),
            ("width", self.width, 1, MAX_WIDTH),
        ];
        for (field, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                let [value, least, most] = [value, least, most].map(|size| size as u64);
                return Err(TrainError::Size { field, value, least, most });
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(TrainError::Heads { width: self.width, heads: self.heads });
        }
        let parameters = Layout::new(self).parameters();
        if parameters > MAX_PARAMETERS {
            let (value, most) = (parameters as u64, MAX_PARAMETERS as u64);
            return Err(TrainError::Size { field: "parameters", value, least: 1, most });
        }
        Ok(())
    }
}
