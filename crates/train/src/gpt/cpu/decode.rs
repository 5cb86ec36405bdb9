//! Inference: what follows a text, a token at a time, with the keys and values of what was read kept.
//!
//! A token costs a product with each matrix and one pass over what is kept, instead of a forward pass over the whole
//! text. Source of the scheme: Shazeer, Fast Transformer Decoding, arXiv 1911.02150.
//!
//! # Determinism
//! Bitwise, everywhere, and whatever the chunks: unlike the training engine nothing here is fused, every sum has the
//! same sixteen partial sums, and elementary functions are our own. A machine with AVX2, a phone and wasm give the same
//! logits, so that a seed gives the same text on all of them.

use super::lanes::{greatest, sum, sum2, vectorize};
use super::math::exp;
use super::norm::{self, Stats};
use super::{MAX_STEP_BYTES, pointwise};
use crate::TrainError;
use crate::gpt::{GptConfig, Layout};

/// Tokens that are read at once: each row of a matrix is then taken from memory once for all of them. A reader that has
/// to be stopped within a moment reads no more than this at a time.
pub const CHUNK: usize = 8;

/// A GPT that reads a text and says what follows. It cannot learn: no gradient, no optimizer.
///
/// Memory: [`GptConfig::decode_bytes`], all of it allocated at the start.
///
/// Determinism: see the module.
pub struct Decoder {
    config: GptConfig,
    layout: Layout,
    parameters: Vec<f32>,
    /// For each block: what each position read, context x width.
    kept: Vec<Kept>,
    /// Tokens read.
    seen: usize,
    rows: Rows,
}

struct Kept {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Activations of a chunk. Shapes: [`CHUNK`] x the given width.
struct Rows {
    /// The residual stream: width.
    x: Vec<f32>,
    stats: Stats,
    /// Width.
    norm: Vec<f32>,
    /// Queries, keys, values: 3 width.
    qkv: Vec<f32>,
    /// Width.
    attended: Vec<f32>,
    /// 4 width.
    up: Vec<f32>,
    /// 4 width.
    active: Vec<f32>,
    /// One head's scores of one token: context.
    scores: Vec<f32>,
    /// Of the last token that was read: vocabulary.
    logits: Vec<f32>,
}

/// Floats of a token of a chunk, in widths: the fields of [`Rows`].
const ROW_WIDTHS: u64 = 1 + 1 + 3 + 1 + 4 + 4;

impl GptConfig {
    /// Bytes that a [`Decoder`] of this model holds: parameters, the keys and values of its context, and activations.
    pub fn decode_bytes(&self) -> u64 {
        let [layers, context, width, vocabulary] =
            [self.layers, self.context, self.width, self.vocabulary].map(|size| size as u64);
        let kept = 2 * layers * context * width;
        let rows = CHUNK as u64 * (ROW_WIDTHS * width + 2) + context + vocabulary;
        4 * (Layout::new(self).parameters() as u64 + kept + rows)
    }
}

impl Decoder {
    /// A model with these parameters, in the order of [`Layout`]. It has read nothing.
    ///
    /// # Errors
    /// As [`GptConfig::check`]; [`TrainError::Length`]; [`TrainError::Batch`] for a model that would take more than
    /// [`MAX_STEP_BYTES`].
    pub fn new(config: GptConfig, parameters: Vec<f32>) -> Result<Self, TrainError> {
        config.check()?;
        let layout = Layout::new(&config);
        if parameters.len() != layout.parameters() {
            return Err(TrainError::Length { found: parameters.len(), expected: layout.parameters() });
        }
        let GptConfig { context, width, vocabulary, .. } = config;
        if config.decode_bytes() > MAX_STEP_BYTES {
            let why = "the keys and values of its context would take more memory than MAX_STEP_BYTES";
            return Err(TrainError::Batch { sequences: 1, length: context, why });
        }
        let all = || vec![0.0; context * width];
        let rows = |width: usize| vec![0.0; CHUNK * width];
        Ok(Self {
            config,
            layout,
            parameters,
            kept: (0..config.layers).map(|_| Kept { keys: all(), values: all() }).collect(),
            seen: 0,
            rows: Rows {
                x: rows(width),
                stats: Stats::new(CHUNK),
                norm: rows(width),
                qkv: rows(3 * width),
                attended: rows(width),
                up: rows(4 * width),
                active: rows(4 * width),
                scores: vec![0.0; context],
                logits: vec![0.0; vocabulary],
            },
        })
    }

    /// The model's sizes.
    pub const fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Tokens that it has read.
    pub const fn seen(&self) -> usize {
        self.seen
    }

    /// Forgets what it has read.
    pub const fn clear(&mut self) {
        self.seen = 0;
    }

    /// Reads on, a [`CHUNK`] at a time.
    ///
    /// # Errors
    /// [`TrainError::Batch`] where it would have read more than its context, [`TrainError::Token`]. Nothing was read then.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<(), TrainError> {
        let GptConfig { context, vocabulary, .. } = self.config;
        if tokens.len() > context - self.seen {
            let length = self.seen + tokens.len();
            let why = "its rows are longer than the model's context";
            return Err(TrainError::Batch { sequences: 1, length, why });
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(TrainError::Token { token: *token, vocabulary });
        }
        for chunk in tokens.chunks(CHUNK) {
            self.read(chunk);
        }
        Ok(())
    }

    /// Logits of the token that follows what it has read: a number for each token of the vocabulary.
    ///
    /// # Errors
    /// [`TrainError::Batch`] where it has read nothing, [`TrainError::NotFinite`] where a logit is not finite.
    pub fn logits(&mut self) -> Result<&[f32], TrainError> {
        let Self { config, layout, parameters, rows, seen, .. } = self;
        if *seen == 0 {
            return Err(TrainError::Batch { sequences: 1, length: 0, why: "it has no tokens" });
        }
        let GptConfig { vocabulary, width, .. } = *config;
        let embedding = &parameters[layout.tokens..][..vocabulary * width];
        // Reading left the last token's row here.
        let last = &rows.norm[..width];
        linear(Matrix { data: embedding, bias: None, inputs: width }, last, &mut rows.logits, false);
        if rows.logits.iter().all(|logit| logit.is_finite()) {
            Ok(&rows.logits)
        } else {
            Err(TrainError::NotFinite { step: *seen as u64 })
        }
    }

    /// Reads a chunk that fits; the last norm of its last token is the first row of `rows.norm` then.
    fn read(&mut self, tokens: &[u32]) {
        let Self { config, layout, parameters, kept, seen, rows } = self;
        let (width, count) = (config.width, tokens.len());
        let all = count * width;
        let parameters: &[f32] = parameters;
        let x = &mut rows.x[..all];
        let position_rows = &parameters[layout.positions + *seen * width..];
        pointwise::embed(tokens, count, width, &parameters[layout.tokens..], position_rows, x);
        let vector = |start: usize, size: usize| &parameters[start..start + size];
        let matrix = |start: usize, bias: Option<usize>, outputs: usize, inputs: usize| Matrix {
            data: vector(start, outputs * inputs),
            bias: bias.map(|bias| vector(bias, outputs)),
            inputs,
        };
        for (at, kept) in layout.blocks.iter().zip(kept) {
            let bias = |start: Option<usize>| start.map(|start| vector(start, width));
            let (x, norm) = (&mut rows.x[..all], &mut rows.norm[..all]);
            let (wide, active) = (&mut rows.up[..4 * all], &mut rows.active[..4 * all]);
            norm::forward(x, vector(at.norm1, width), bias(at.norm1_bias), norm, &mut rows.stats);
            let heads = &mut rows.qkv[..3 * all];
            linear(matrix(at.qkv, at.qkv_bias, 3 * width, width), norm, heads, false);
            for (row, heads) in heads.chunks_exact(3 * width).enumerate() {
                let place = (*seen + row) * width..(*seen + row + 1) * width;
                kept.keys[place.clone()].copy_from_slice(&heads[width..2 * width]);
                kept.values[place].copy_from_slice(&heads[2 * width..]);
            }
            let attended = &mut rows.attended[..all];
            for (row, (heads, attended)) in
                heads.chunks_exact(3 * width).zip(attended.chunks_exact_mut(width)).enumerate()
            {
                attend(&heads[..width], kept, *seen + row + 1, config.heads, &mut rows.scores, attended);
            }
            linear(matrix(at.out, at.out_bias, width, width), attended, x, true);
            norm::forward(x, vector(at.norm2, width), bias(at.norm2_bias), norm, &mut rows.stats);
            linear(matrix(at.up, at.up_bias, 4 * width, width), norm, wide, false);
            pointwise::gelu(wide, active);
            linear(matrix(at.down, at.down_bias, width, 4 * width), active, x, true);
        }
        let (weight, bias) = (vector(layout.norm, width), layout.norm_bias.map(|bias| vector(bias, width)));
        let last = &rows.x[all - width..all];
        norm::forward(last, weight, bias, &mut rows.norm[..width], &mut rows.stats);
        *seen += count;
    }
}

/// A linear layer: outputs x inputs, and a number for each output.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    bias: Option<&'a [f32]>,
    inputs: usize,
}

/// `out` = or += x·Wᵀ + b, for each row of `x`.
///
/// Shapes: `data` outputs x inputs, `bias` outputs, `x` rows x inputs, `out` rows x outputs.
fn linear(matrix: Matrix<'_>, x: &[f32], out: &mut [f32], add: bool) {
    let Matrix { data, bias, inputs } = matrix;
    let outputs = data.len() / inputs;
    vectorize(
        #[inline(always)]
        || {
            for (output, weight) in data.chunks_exact(inputs).enumerate() {
                let bias = bias.map_or(0.0, |bias| bias[output]);
                for (x, out) in x.chunks_exact(inputs).zip(out.chunks_exact_mut(outputs)) {
                    let total = sum2(weight, x, |w, x| w * x) + bias;
                    out[output] = if add { out[output] + total } else { total };
                }
            }
        },
    );
}

/// Attention of one token to the first `seen` of what is kept.
///
/// Shapes: `query` and `out` width, `scores` at least `seen`.
fn attend(query: &[f32], kept: &Kept, seen: usize, heads: usize, scores: &mut [f32], out: &mut [f32]) {
    let width = query.len();
    let size = width / heads;
    let scale = 1.0 / (size as f32).sqrt();
    let scores = &mut scores[..seen];
    vectorize(
        #[inline(always)]
        || {
            for (head, (query, out)) in query.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
                for (score, keys) in scores.iter_mut().zip(kept.keys.chunks_exact(width)) {
                    *score = sum2(query, &keys[head * size..][..size], |q, k| q * k);
                }
                let most = greatest(scores);
                for score in &mut *scores {
                    *score = exp((*score - most) * scale);
                }
                let inverse = 1.0 / sum(scores, |p| p);
                out.fill(0.0);
                for (score, values) in scores.iter().zip(kept.values.chunks_exact(width)) {
                    let weight = score * inverse;
                    for (out, value) in out.iter_mut().zip(&values[head * size..][..size]) {
                        *out += weight * value;
                    }
                }
            }
        },
    );
}
