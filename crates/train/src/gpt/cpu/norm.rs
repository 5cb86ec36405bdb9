//! Layer norm: each row less its mean, divided by its deviation, times a weight, plus a bias if there is one.
//!
//! Source: Ba et al., Layer Normalization, arXiv 1607.06450.

use super::lanes::{sum, sum2, vectorize};

/// Added to the variance.
const EPSILON: f32 = 1e-5;

/// What backward needs of each row besides the input.
pub(super) struct Stats {
    pub(super) mean: Vec<f32>,
    /// One over the deviation.
    pub(super) inverse: Vec<f32>,
}

impl Stats {
    pub(super) fn new(rows: usize) -> Self {
        Self { mean: vec![0.0; rows], inverse: vec![0.0; rows] }
    }
}

/// Shapes: `x` and `out` rows x width, `weight` and `bias` width.
pub(super) fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32], stats: &mut Stats) {
    let width = weight.len();
    vectorize(
        #[inline(always)]
        || {
            let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
            for ((x, out), (mean, inverse)) in rows.zip(stats.mean.iter_mut().zip(&mut stats.inverse)) {
                *mean = sum(x, |x| x) / width as f32;
                let center = *mean;
                let variance = sum(x, |x| (x - center) * (x - center)) / width as f32;
                *inverse = 1.0 / (variance + EPSILON).sqrt();
                let scale = *inverse;
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = (x - center) * scale * weight;
                }
                if let Some(bias) = bias {
                    for (out, bias) in out.iter_mut().zip(bias) {
                        *out += bias;
                    }
                }
            }
        },
    );
}

/// Adds to the gradients of the input and of the weight. The bias's is the sum of `grad_out`'s rows.
///
/// Shapes: `grad_out`, `x` and `grad_x` rows x width, `weight` and `grad_weight` width, `scratch` twice that.
pub(super) fn backward(
    grad_out: &[f32],
    x: &[f32],
    stats: &Stats,
    weight: &[f32],
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    scratch: &mut [f32],
) {
    let width = weight.len();
    let (normal, product) = scratch.split_at_mut(width);
    vectorize(
        #[inline(always)]
        || {
            let rows =
                grad_out.chunks_exact(width).zip(x.chunks_exact(width)).zip(grad_x.chunks_exact_mut(width));
            for (((grad_out, x), grad_x), (mean, inverse)) in rows.zip(stats.mean.iter().zip(&stats.inverse))
            {
                for (normal, x) in normal.iter_mut().zip(x) {
                    *normal = (x - mean) * inverse;
                }
                for ((product, grad), weight) in product.iter_mut().zip(grad_out).zip(weight) {
                    *product = grad * weight;
                }
                for ((grad_weight, grad), normal) in grad_weight.iter_mut().zip(grad_out).zip(&*normal) {
                    *grad_weight += grad * normal;
                }
                let average = sum(product, |g| g) / width as f32;
                let slope = sum2(product, normal, |g, n| g * n) / width as f32;
                for ((grad_x, product), normal) in grad_x.iter_mut().zip(&*product).zip(&*normal) {
                    *grad_x += inverse * (product - average - normal * slope);
                }
            }
        },
    );
}
