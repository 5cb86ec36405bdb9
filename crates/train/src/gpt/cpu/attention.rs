//! Causal multi-head attention, a block of queries at a time.
//!
//! Probabilities are computed again in backward rather than kept: memory grows with the length, not with its square.
//! Source of that: Dao et al., FlashAttention, arXiv 2205.14135.

use super::gemm::{Matrix, Packs, Target, product};
use super::lanes::{greatest, sum, sum2, vectorize};
use super::math::exp;

/// Queries whose probabilities are in memory at once.
const QUERIES: usize = 64;

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub(super) sequences: usize,
    pub(super) length: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
}

/// What backward needs of each softmax: its greatest score and one over its sum.
pub(super) struct Stats {
    greatest: Vec<f32>,
    inverse: Vec<f32>,
}

impl Stats {
    /// `rows`: sequences x heads x length.
    pub(super) fn new(rows: usize) -> Self {
        Self { greatest: vec![0.0; rows], inverse: vec![0.0; rows] }
    }
}

/// Memory for the scores of one block, to be used again and again.
pub(super) struct Scores {
    probabilities: Vec<f32>,
    gradient: Vec<f32>,
}

impl Scores {
    /// Elements of each of the two.
    pub(super) const fn elements(length: usize) -> usize {
        let queries = if length < QUERIES { length } else { QUERIES };
        queries * length
    }

    /// For sequences of up to `length`.
    pub(super) fn new(length: usize) -> Self {
        let elements = Self::elements(length);
        Self { probabilities: vec![0.0; elements], gradient: vec![0.0; elements] }
    }
}

/// A block of queries of one head of one sequence.
#[derive(Clone, Copy)]
struct Block {
    /// First element of the head's queries, keys and values, in a matrix of 3 width columns.
    head: usize,
    /// First element of the head's output, in a matrix of width columns.
    out: usize,
    /// First of the head's rows in [`Stats`].
    stats: usize,
    /// First query and number of them.
    first: usize,
    count: usize,
}

impl Attention {
    const fn head_size(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size() as f32).sqrt()
    }

    /// All blocks; those of a head follow each other, the last one first.
    fn blocks(self) -> impl Iterator<Item = Block> {
        let heads = (0..self.sequences).flat_map(move |s| (0..self.heads).map(move |h| (s, h)));
        heads.flat_map(move |(s, h)| {
            let (row, col) = (s * self.length, h * self.head_size());
            (0..self.length).step_by(QUERIES).rev().map(move |first| Block {
                head: row * 3 * self.width + col,
                out: row * self.width + col,
                stats: (s * self.heads + h) * self.length,
                first,
                count: QUERIES.min(self.length - first),
            })
        })
    }

    /// Scores of a block, before scaling: queries x keys up to the last query.
    fn scores(&self, qkv: &[f32], block: Block, scores: &mut [f32], packs: &mut Packs) {
        let (stride, keys) = (3 * self.width, block.first + block.count);
        product(
            [block.count, keys, self.head_size()],
            Matrix::rows(&qkv[block.head + block.first * stride..], stride),
            Matrix::transposed(&qkv[block.head + self.width..], stride),
            Target { data: scores, stride: keys, add: false },
            packs,
        );
    }

    /// Shapes: `qkv` tokens x 3 width, `out` tokens x width.
    pub(super) fn forward(
        self,
        qkv: &[f32],
        out: &mut [f32],
        stats: &mut Stats,
        scores: &mut Scores,
        packs: &mut Packs,
    ) {
        let (stride, scale) = (3 * self.width, self.scale());
        for block in self.blocks() {
            let keys = block.first + block.count;
            let scores = &mut scores.probabilities[..block.count * keys];
            self.scores(qkv, block, scores, packs);
            let stats_range = block.stats + block.first..block.stats + keys;
            let (most, inverse) = (&mut stats.greatest[stats_range.clone()], &mut stats.inverse[stats_range]);
            vectorize(
                #[inline(always)]
                || {
                    let rows = scores.chunks_exact_mut(keys).zip(most.iter_mut().zip(inverse.iter_mut()));
                    for ((query, row), (most, inverse)) in
                        (block.first..).zip(rows).map(|(q, (r, s))| ((q, r), s))
                    {
                        let (seen, later) = row.split_at_mut(query + 1);
                        *most = greatest(seen);
                        let shift = *most;
                        for p in &mut *seen {
                            *p = exp((*p - shift) * scale);
                        }
                        *inverse = 1.0 / sum(seen, |p| p);
                        let inverse = *inverse;
                        for p in seen {
                            *p *= inverse;
                        }
                        later.fill(0.0);
                    }
                },
            );
            product(
                [block.count, self.head_size(), keys],
                Matrix::rows(scores, keys),
                Matrix::rows(&qkv[block.head + 2 * self.width..], stride),
                Target {
                    data: &mut out[block.out + block.first * self.width..],
                    stride: self.width,
                    add: false,
                },
                packs,
            );
        }
    }

    /// Writes the gradient of `qkv`.
    ///
    /// Shapes: `qkv` and `grad_qkv` tokens x 3 width, `grad_out` tokens x width.
    pub(super) fn backward(
        self,
        qkv: &[f32],
        grad_out: &[f32],
        grad_qkv: &mut [f32],
        stats: &Stats,
        scores: &mut Scores,
        packs: &mut Packs,
    ) {
        let (size, stride, scale) = (self.head_size(), 3 * self.width, self.scale());
        for block in self.blocks() {
            let keys = block.first + block.count;
            let probabilities = &mut scores.probabilities[..block.count * keys];
            let gradient = &mut scores.gradient[..block.count * keys];
            let (queries, first_key, first_value) =
                (block.head + block.first * stride, block.head + self.width, block.head + 2 * self.width);
            let grad_out = &grad_out[block.out + block.first * self.width..];
            self.scores(qkv, block, probabilities, packs);
            product(
                [block.count, keys, size],
                Matrix::rows(grad_out, self.width),
                Matrix::transposed(&qkv[first_value..], stride),
                Target { data: gradient, stride: keys, add: false },
                packs,
            );
            let stats_range = block.stats + block.first..block.stats + keys;
            let (most, inverse) = (&stats.greatest[stats_range.clone()], &stats.inverse[stats_range]);
            vectorize(
                #[inline(always)]
                || {
                    let rows = probabilities.chunks_exact_mut(keys).zip(gradient.chunks_exact_mut(keys));
                    let rows = rows.zip(most.iter().zip(inverse));
                    for (query, ((row, grad_row), (most, inverse))) in (block.first..).zip(rows) {
                        let (seen, later) = row.split_at_mut(query + 1);
                        let (grad, grad_later) = grad_row.split_at_mut(query + 1);
                        for p in &mut *seen {
                            *p = exp((*p - most) * scale) * inverse;
                        }
                        later.fill(0.0);
                        let average = sum2(seen, grad, |p, g| p * g);
                        for (grad, p) in grad.iter_mut().zip(&*seen) {
                            *grad = p * (*grad - average) * scale;
                        }
                        grad_later.fill(0.0);
                    }
                },
            );
            product(
                [block.count, size, keys],
                Matrix::rows(gradient, keys),
                Matrix::rows(&qkv[first_key..], stride),
                Target { data: &mut grad_qkv[queries..], stride, add: false },
                packs,
            );
            // The last block of a head comes first and reaches all of its keys.
            let add = keys < self.length;
            product(
                [keys, size, block.count],
                Matrix::transposed(gradient, keys),
                Matrix::rows(&qkv[queries..], stride),
                Target { data: &mut grad_qkv[first_key..], stride, add },
                packs,
            );
            product(
                [keys, size, block.count],
                Matrix::transposed(probabilities, keys),
                Matrix::rows(grad_out, self.width),
                Target { data: &mut grad_qkv[first_value..], stride, add },
                packs,
            );
        }
    }
}
