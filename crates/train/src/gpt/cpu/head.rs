//! The output head, tied to the token embedding, and the mean cross-entropy; a chunk of rows at a time, so that not
//! all logits are in memory at once.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

use super::gemm::{Matrix, Packs, Target, product};
use super::lanes::{greatest, sum, vectorize};
use super::math::{exp, ln};

/// Logits in memory at once, but 16 rows at the least: 16 MiB.
const LOGITS: usize = 1 << 22;
/// Fewest rows at once: thinner products spend their time packing the embedding.
const ROWS: usize = 16;

/// Rows of logits that are in memory at once.
pub(super) fn rows(tokens: usize, vocabulary: usize) -> usize {
    (LOGITS / vocabulary).max(ROWS).min(tokens)
}

/// Gradients that the head fills in.
pub(super) struct Gradients<'a> {
    /// Of the input: written.
    pub(super) x: &'a mut [f32],
    /// Of the embedding: written.
    pub(super) embedding: &'a mut [f32],
}

/// What a row of logits says against its target, in nats, and the sum of the row's exponentials, which take the
/// logits' place.
#[inline(always)]
fn surprise(logits: &mut [f32], target: usize) -> (f64, f32) {
    let most = greatest(logits);
    let right = f64::from(logits[target]) - f64::from(most);
    for x in &mut *logits {
        *x = exp(*x - most);
    }
    let sum = sum(logits, |p| p);
    (ln(f64::from(sum)) - right, sum)
}

/// Logits of the rows of `x`, a chunk at a time: `visit` gets the number of a chunk's first row and its logits.
///
/// Shapes: `x` tokens x width, `embedding` vocabulary x width, `logits` [`rows`] x vocabulary.
pub(super) fn each_chunk<E>(
    x: &[f32],
    embedding: &[f32],
    width: usize,
    logits: &mut [f32],
    packs: &mut Packs,
    mut visit: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<(), E> {
    let (tokens, vocabulary) = (x.len() / width, embedding.len() / width);
    let rows = rows(tokens, vocabulary);
    for first in (0..tokens).step_by(rows.max(1)) {
        let count = rows.min(tokens - first);
        let logits = &mut logits[..count * vocabulary];
        product(
            [count, vocabulary, width],
            Matrix::rows(&x[first * width..][..count * width], width),
            Matrix::transposed(embedding, width),
            Target { data: logits, stride: vocabulary, add: false },
            packs,
        );
        visit(first, logits)?;
    }
    Ok(())
}

/// The loss of each row of logits, in nats: `losses` has one for each of `targets`. The logits are overwritten.
pub(super) fn losses(logits: &mut [f32], targets: &[u32], losses: &mut [f64]) {
    let vocabulary = logits.len() / targets.len().max(1);
    vectorize(
        #[inline(always)]
        || {
            let rows = logits.chunks_exact_mut(vocabulary.max(1)).zip(targets);
            for ((logits, target), loss) in rows.zip(&mut *losses) {
                *loss = surprise(logits, *target as usize).0;
            }
        },
    );
}

/// Mean cross-entropy of the rows of `x` in nats, and the gradients if they are wanted.
///
/// Shapes: `x` tokens x width, `embedding` vocabulary x width, `logits` [`rows`] x vocabulary.
pub(super) fn cross_entropy(
    x: &[f32],
    targets: &[u32],
    embedding: &[f32],
    width: usize,
    mut gradients: Option<Gradients<'_>>,
    logits: &mut [f32],
    packs: &mut Packs,
) -> f64 {
    let vocabulary = embedding.len() / width;
    let rows = rows(targets.len(), vocabulary);
    let weight = 1.0 / targets.len() as f32;
    let mut total = 0.0;
    for (chunk, targets) in targets.chunks(rows).enumerate() {
        let x = &x[chunk * rows * width..][..targets.len() * width];
        let logits = &mut logits[..targets.len() * vocabulary];
        product(
            [targets.len(), vocabulary, width],
            Matrix::rows(x, width),
            Matrix::transposed(embedding, width),
            Target { data: logits, stride: vocabulary, add: false },
            packs,
        );
        let backward = gradients.is_some();
        vectorize(
            #[inline(always)]
            || {
                for (logits, target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
                    let target = *target as usize;
                    let (loss, sum) = surprise(logits, target);
                    total += loss;
                    if backward {
                        let scale = weight / sum;
                        for p in &mut *logits {
                            *p *= scale;
                        }
                        logits[target] -= weight;
                    }
                }
            },
        );
        if let Some(gradients) = &mut gradients {
            let grad_x = &mut gradients.x[chunk * rows * width..][..targets.len() * width];
            product(
                [targets.len(), width, vocabulary],
                Matrix::rows(logits, vocabulary),
                Matrix::rows(embedding, width),
                Target { data: grad_x, stride: width, add: false },
                packs,
            );
            product(
                [vocabulary, width, targets.len()],
                Matrix::transposed(logits, vocabulary),
                Matrix::rows(x, width),
                Target { data: gradients.embedding, stride: width, add: chunk > 0 },
                packs,
            );
        }
    }
    total / targets.len() as f64
}
