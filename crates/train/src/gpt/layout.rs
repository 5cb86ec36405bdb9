//! The order of tensors in the flat vector.
//!
//! Token embedding, position embedding, then for each block: norm, attention in, attention out, norm, MLP in, MLP out,
//! then the last norm. Each weight is followed by its bias where there are biases. Matrices are output x input,
//! row-major, so that the input dimension is contiguous (Hugging Face's GPT-2 stores input x output).

use super::GptConfig;
use std::ops::Range;

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row for each token or position.
    Embedding,
    /// A linear layer's matrix, which Hugging Face stores transposed.
    Linear,
    /// A norm's weight.
    Norm,
    /// A bias.
    Bias,
}

/// A tensor within the flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Hugging Face's name, without `transformer.`.
    pub name: String,
    /// Rows (outputs); 1 for vectors.
    pub rows: usize,
    /// Columns (inputs, contiguous).
    pub cols: usize,
    /// First element.
    pub start: usize,
    /// What it is.
    pub kind: Kind,
}

impl Tensor {
    /// Elements in the flat vector.
    pub const fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows * self.cols
    }

    /// Whether weight decay applies: to matrices only.
    pub const fn decays(&self) -> bool {
        matches!(self.kind, Kind::Embedding | Kind::Linear)
    }
}

/// First elements of a block's tensors. Biases are `None` where the model has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTensors {
    /// Weight of the norm before attention: width.
    pub norm1: usize,
    /// Its bias.
    pub norm1_bias: Option<usize>,
    /// Queries, keys, values: 3 width x width.
    pub qkv: usize,
    /// Its bias: 3 width.
    pub qkv_bias: Option<usize>,
    /// Attention's output: width x width.
    pub out: usize,
    /// Its bias.
    pub out_bias: Option<usize>,
    /// Weight of the norm before the MLP.
    pub norm2: usize,
    /// Its bias.
    pub norm2_bias: Option<usize>,
    /// MLP in: 4 width x width.
    pub up: usize,
    /// Its bias: 4 width.
    pub up_bias: Option<usize>,
    /// MLP out: width x 4 width.
    pub down: usize,
    /// Its bias.
    pub down_bias: Option<usize>,
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All tensors, in order, without gaps.
    pub tensors: Vec<Tensor>,
    /// Token embedding and output head: vocabulary x width.
    pub tokens: usize,
    /// Position embedding: context x width.
    pub positions: usize,
    /// Each block's tensors.
    pub blocks: Vec<BlockTensors>,
    /// Weight of the last norm.
    pub norm: usize,
    /// Its bias.
    pub norm_bias: Option<usize>,
}

struct Builder {
    tensors: Vec<Tensor>,
    end: usize,
    bias: bool,
}

impl Builder {
    fn tensor(&mut self, name: String, rows: usize, cols: usize, kind: Kind) -> usize {
        let start = self.end;
        self.end += rows * cols;
        self.tensors.push(Tensor { name, rows, cols, start, kind });
        start
    }

    /// A weight, and its bias if there are biases.
    fn pair(&mut self, name: &str, rows: usize, cols: usize, kind: Kind) -> (usize, Option<usize>) {
        let weight = self.tensor(format!("{name}.weight"), rows, cols, kind);
        let outputs = if kind == Kind::Linear { rows } else { cols };
        (weight, self.bias.then(|| self.tensor(format!("{name}.bias"), 1, outputs, Kind::Bias)))
    }
}

impl Layout {
    /// The layout of a model whose sizes are within their limits.
    pub fn new(config: &GptConfig) -> Self {
        let width = config.width;
        let mut to = Builder { tensors: Vec::new(), end: 0, bias: config.bias };
        let tokens = to.tensor("wte.weight".into(), config.vocabulary, width, Kind::Embedding);
        let positions = to.tensor("wpe.weight".into(), config.context, width, Kind::Embedding);
        let mut block = |h: usize| {
            let (norm1, norm1_bias) = to.pair(&format!("h.{h}.ln_1"), 1, width, Kind::Norm);
            let (qkv, qkv_bias) = to.pair(&format!("h.{h}.attn.c_attn"), 3 * width, width, Kind::Linear);
            let (out, out_bias) = to.pair(&format!("h.{h}.attn.c_proj"), width, width, Kind::Linear);
            let (norm2, norm2_bias) = to.pair(&format!("h.{h}.ln_2"), 1, width, Kind::Norm);
            let (up, up_bias) = to.pair(&format!("h.{h}.mlp.c_fc"), 4 * width, width, Kind::Linear);
            let (down, down_bias) = to.pair(&format!("h.{h}.mlp.c_proj"), width, 4 * width, Kind::Linear);
            BlockTensors {
                norm1,
                norm1_bias,
                qkv,
                qkv_bias,
                out,
                out_bias,
                norm2,
                norm2_bias,
                up,
                up_bias,
                down,
                down_bias,
            }
        };
        let blocks = (0..config.layers).map(&mut block).collect();
        let (norm, norm_bias) = to.pair("ln_f", 1, width, Kind::Norm);
        Self { tensors: to.tensors, tokens, positions, blocks, norm, norm_bias }
    }

    /// Length of the flat vector.
    pub fn parameters(&self) -> usize {
        self.tensors.last().map_or(0, |tensor| tensor.range().end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_numbers_of_parameters() {
        let count = |config: GptConfig| Layout::new(&config).parameters();
        assert_eq!(count(GptConfig::tiny(65)), 156_160);
        assert_eq!(count(GptConfig::mini(65)), 804_096);
        // nanoGPT prints 10.65 M without the position embedding.
        assert_eq!(count(GptConfig::small(65)) - 256 * 384, 10_646_784);
        // GPT-2, 124 M.
        let gpt2 =
            GptConfig { vocabulary: 50_257, context: 1024, layers: 12, heads: 12, width: 768, bias: true };
        assert_eq!(count(gpt2), 124_439_808);
    }

    #[test]
    fn tensors_have_no_gaps_and_decay_is_for_matrices() {
        for bias in [false, true] {
            let layout = Layout::new(&GptConfig { bias, ..GptConfig::tiny(65) });
            let mut end = 0;
            for tensor in &layout.tensors {
                assert_eq!(tensor.start, end, "{}", tensor.name);
                end = tensor.range().end;
                let named = match tensor.kind {
                    Kind::Embedding => ["wte.weight", "wpe.weight"].contains(&tensor.name.as_str()),
                    Kind::Linear => tensor.name.contains(".c_") && tensor.name.contains(".weight"),
                    Kind::Norm => tensor.name.contains("ln_") && tensor.name.contains(".weight"),
                    Kind::Bias => bias && tensor.name.contains(".bias"),
                };
                assert!(named, "{tensor:?}");
            }
            assert_eq!(end, layout.parameters());
            assert_eq!(layout.blocks.len(), 3);
        }
    }
}
