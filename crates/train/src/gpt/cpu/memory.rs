//! Activations and scratch memory of a step: allocated once, used by each step.

use super::attention::{Scores, Stats as SoftmaxStats};
use super::gemm::Packs;
use super::head;
use super::norm::Stats;
use crate::gpt::{GptConfig, Layout};

/// Most bytes that a step may take, parameters and optimizer included: a quarter of what wasm can address, and what
/// ordinary computers have to spare.
pub const MAX_STEP_BYTES: u64 = if usize::BITS < 64 { 1 << 30 } else { 4 << 30 };

/// Floats of each token and block, in widths: the fields of [`Block`].
const BLOCK_WIDTHS: u64 = 1 + 1 + 3 + 1 + 1 + 1 + 4 + 4;
/// Floats of each token outside blocks, in widths: last residual and norm, and three gradients.
const TOKEN_WIDTHS: u64 = 1 + 1 + 1 + 1 + 4;

/// What a block's forward leaves for its backward. Shapes: tokens x the given width.
pub(super) struct Block {
    /// The residual stream before the block: width.
    pub(super) x: Vec<f32>,
    pub(super) stats1: Stats,
    /// Width.
    pub(super) norm1: Vec<f32>,
    /// 3 width.
    pub(super) qkv: Vec<f32>,
    pub(super) softmax: SoftmaxStats,
    /// What attention gathered, before its output matrix: width.
    pub(super) attended: Vec<f32>,
    /// The residual stream after attention: width.
    pub(super) mid: Vec<f32>,
    pub(super) stats2: Stats,
    /// Width.
    pub(super) norm2: Vec<f32>,
    /// Before GELU: 4 width.
    pub(super) up: Vec<f32>,
    /// After GELU: 4 width.
    pub(super) active: Vec<f32>,
}

/// Memory for batches of up to so many tokens in sequences of up to a length.
pub(super) struct Memory {
    pub(super) tokens: usize,
    pub(super) length: usize,
    pub(super) blocks: Vec<Block>,
    /// The residual stream after the last block, and its norm.
    pub(super) x: Vec<f32>,
    pub(super) stats: Stats,
    pub(super) norm: Vec<f32>,
    /// Gradient of the residual stream: tokens x width.
    pub(super) grad_x: Vec<f32>,
    /// Gradient of what an operation read: tokens x width.
    pub(super) grad_narrow: Vec<f32>,
    /// The same where that is wider: tokens x 4 width.
    pub(super) grad_wide: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) scores: Scores,
    /// Two rows of width.
    pub(super) row: Vec<f32>,
    pub(super) packs: Packs,
}

impl Memory {
    pub(super) fn new(config: &GptConfig, tokens: usize, length: usize) -> Self {
        let rows = |width: usize| vec![0.0; tokens * width];
        let width = config.width;
        let block = |_| Block {
            x: rows(width),
            stats1: Stats::new(tokens),
            norm1: rows(width),
            qkv: rows(3 * width),
            softmax: SoftmaxStats::new(tokens * config.heads),
            attended: rows(width),
            mid: rows(width),
            stats2: Stats::new(tokens),
            norm2: rows(width),
            up: rows(4 * width),
            active: rows(4 * width),
        };
        Self {
            tokens,
            length,
            blocks: (0..config.layers).map(block).collect(),
            x: rows(width),
            stats: Stats::new(tokens),
            norm: rows(width),
            grad_x: rows(width),
            grad_narrow: rows(width),
            grad_wide: rows(4 * width),
            logits: vec![0.0; head::rows(tokens, config.vocabulary) * config.vocabulary],
            scores: Scores::new(length),
            row: vec![0.0; 2 * width],
            packs: Packs::new(),
        }
    }
}

impl GptConfig {
    /// Bytes that the CPU engine holds when it trains on batches of `sequences` x `length`: parameters, gradient,
    /// moments, activations and scratch. Compare with [`MAX_STEP_BYTES`], or with what a tab may use, before work is
    /// accepted.
    pub fn step_bytes(&self, sequences: usize, length: usize) -> u64 {
        let [layers, heads, width, vocabulary] =
            [self.layers, self.heads, self.width, self.vocabulary].map(|size| size as u64);
        let tokens = (sequences as u64).saturating_mul(length as u64);
        let per_token = layers * (BLOCK_WIDTHS * width + 4 + 2 * heads) + TOKEN_WIDTHS * width + 2;
        let length = length.min(self.context);
        let counted_tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        let fixed = 4 * Layout::new(self).parameters() as u64
            + head::rows(counted_tokens, self.vocabulary) as u64 * vocabulary
            + 2 * Scores::elements(length) as u64
            + 2 * width;
        tokens.saturating_mul(per_token).saturating_add(fixed).saturating_mul(4).saturating_add(Packs::BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_step_are_those_that_are_allocated() {
        let norm = |stats: &Stats| stats.mean.len() + stats.inverse.len();
        for config in [GptConfig::tiny(65), GptConfig { vocabulary: 50_000, ..GptConfig::mini(65) }] {
            for (sequences, length) in [(1, 1), (4, 64), (300, 17)] {
                let memory = Memory::new(&config, sequences * length, length);
                let blocks: usize = memory
                    .blocks
                    .iter()
                    .map(|block| {
                        let vectors = [
                            &block.x,
                            &block.norm1,
                            &block.qkv,
                            &block.attended,
                            &block.mid,
                            &block.norm2,
                            &block.up,
                            &block.active,
                        ];
                        vectors.iter().map(|vector| vector.len()).sum::<usize>()
                            + norm(&block.stats1)
                            + norm(&block.stats2)
                            + 2 * sequences * length * config.heads
                    })
                    .sum();
                let vectors = [
                    &memory.x,
                    &memory.norm,
                    &memory.grad_x,
                    &memory.grad_narrow,
                    &memory.grad_wide,
                    &memory.logits,
                    &memory.row,
                ];
                let others = vectors.iter().map(|vector| vector.len()).sum::<usize>();
                let floats = blocks
                    + others
                    + norm(&memory.stats)
                    + 2 * Scores::elements(length)
                    + 4 * Layout::new(&config).parameters();
                assert_eq!(4 * floats as u64 + Packs::BYTES, config.step_bytes(sequences, length));
            }
        }
        assert_eq!(GptConfig::tiny(65).step_bytes(usize::MAX, usize::MAX), u64::MAX);
    }
}
