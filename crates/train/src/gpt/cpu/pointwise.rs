//! Operations on each element or row: tanh GELU, biases, embeddings.

use super::lanes::vectorize;
use super::math::sigmoid;

/// tanh GELU is x (1 + tanh u) / 2 with u = sqrt(2/π) (x + 0.044715 x³), which equals x times the sigmoid of 2u.
/// This is 2 sqrt(2/π).
const SCALE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv 1606.08415.
pub(super) fn gelu(x: &[f32], out: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * sigmoid(SCALE * x * (1.0 + CUBIC * x * x));
            }
        },
    );
}

/// Multiplies the gradient of the output by the derivative at `x`.
pub(super) fn gelu_backward(x: &[f32], grad: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            for (grad, x) in grad.iter_mut().zip(x) {
                let gate = sigmoid(SCALE * x * (1.0 + CUBIC * x * x));
                let slope = SCALE * (1.0 + 3.0 * CUBIC * x * x);
                *grad *= gate + x * slope * gate * (1.0 - gate);
            }
        },
    );
}

/// Adds a bias to each row.
pub(super) fn add_to_rows(bias: &[f32], rows: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(bias.len()) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        },
    );
}

/// Adds all rows, first to last, to `sums`: the gradient of a bias.
pub(super) fn add_rows(rows: &[f32], sums: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            for row in rows.chunks_exact(sums.len()) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        },
    );
}

/// Each token's row plus its position's.
///
/// Shapes: `out` tokens x width; `token_rows` and `position_rows` hold a row for each token and position that occurs.
pub(super) fn embed(
    tokens: &[u32],
    length: usize,
    width: usize,
    token_rows: &[f32],
    position_rows: &[f32],
    out: &mut [f32],
) {
    for ((i, token), out) in tokens.iter().enumerate().zip(out.chunks_exact_mut(width)) {
        let (token, position) = (*token as usize * width, i % length * width);
        let rows = token_rows[token..token + width].iter().zip(&position_rows[position..position + width]);
        for (out, (token, position)) in out.iter_mut().zip(rows) {
            *out = token + position;
        }
    }
}

/// Adds each row's gradient to its token's or position's row.
pub(super) fn scatter(indices: impl Iterator<Item = usize>, grad: &[f32], width: usize, rows: &mut [f32]) {
    for (index, grad) in indices.zip(grad.chunks_exact(width)) {
        for (to, grad) in rows[index * width..][..width].iter_mut().zip(grad) {
            *to += grad;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tanh GELU as it is usually written, in f64.
    fn exact(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }

    #[test]
    fn gelu_and_its_derivative_agree_with_f64() {
        let x: Vec<f32> = (-2400..=2400).map(|i| i as f32 / 200.0).collect();
        let (mut out, mut grad) = (vec![0.0; x.len()], vec![1.0; x.len()]);
        gelu(&x, &mut out);
        gelu_backward(&x, &mut grad);
        for ((x, out), grad) in x.iter().zip(out).zip(grad) {
            let x = f64::from(*x);
            assert!((f64::from(out) - exact(x)).abs() < 1e-6 * x.abs().max(1.0), "{x} {out}");
            let slope = (exact(x + 1e-5) - exact(x - 1e-5)) / 2e-5;
            assert!((f64::from(grad) - slope).abs() < 2e-6, "{x} {grad} {slope}");
        }
    }
}
