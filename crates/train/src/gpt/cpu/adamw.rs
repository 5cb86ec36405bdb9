//! Clipping by the global norm and AdamW.

use super::lanes::vectorize;
use crate::engine::AdamW;
use crate::gpt::Layout;

/// Partial sums of the squared norm.
const LANES: usize = 16;
/// Added to the norm before the clip is divided by it, as PyTorch does.
const CLIP_EPSILON: f64 = 1e-6;

/// Moments and counts.
pub(super) struct State {
    first: Vec<f32>,
    second: Vec<f32>,
    /// beta1 and beta2 to the power of the steps taken: products, since powers are a library's.
    powers: [f64; 2],
}

impl State {
    pub(super) fn new(parameters: usize) -> Self {
        Self { first: vec![0.0; parameters], second: vec![0.0; parameters], powers: [1.0; 2] }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
        self.powers = [1.0; 2];
    }

    /// One step with the gradient multiplied by `scale`.
    ///
    /// Shapes: `parameters` and `gradient` as the layout says.
    pub(super) fn step(
        &mut self,
        constants: &AdamW,
        layout: &Layout,
        learning_rate: f32,
        scale: f32,
        gradient: &[f32],
        parameters: &mut [f32],
    ) {
        let betas = [constants.beta1, constants.beta2].map(f64::from);
        for (power, beta) in self.powers.iter_mut().zip(betas) {
            *power *= beta;
        }
        let size = (f64::from(learning_rate) / (1.0 - self.powers[0])) as f32;
        let root = (1.0 / (1.0 - self.powers[1]).sqrt()) as f32;
        let keep = (1.0 - f64::from(learning_rate) * f64::from(constants.weight_decay)) as f32;
        let [rest1, rest2] = betas.map(|beta| (1.0 - beta) as f32);
        let (beta2, epsilon) = (constants.beta2, constants.epsilon);
        for tensor in &layout.tensors {
            let range = tensor.range();
            let keep = if tensor.decays() { keep } else { 1.0 };
            let (parameters, gradient) = (&mut parameters[range.clone()], &gradient[range.clone()]);
            let (first, second) = (&mut self.first[range.clone()], &mut self.second[range]);
            vectorize(
                #[inline(always)]
                || {
                    let moments = first.iter_mut().zip(second);
                    for ((p, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
                        let g = g * scale;
                        *m += (g - *m) * rest1;
                        *v = *v * beta2 + g * g * rest2;
                        *p = *p * keep - size * *m / (v.sqrt() * root + epsilon);
                    }
                },
            );
        }
    }
}

/// Global norm of a gradient, summed in f64.
pub(super) fn norm(gradient: &[f32]) -> f64 {
    let mut sums = [0.0_f64; LANES];
    vectorize(
        #[inline(always)]
        || {
            let (body, tail) = gradient.as_chunks::<LANES>();
            // A local array stays in registers.
            let mut local = [0.0_f64; LANES];
            for chunk in body {
                for l in 0..LANES {
                    local[l] += f64::from(chunk[l]) * f64::from(chunk[l]);
                }
            }
            for (sum, g) in local.iter_mut().zip(tail) {
                *sum += f64::from(*g) * f64::from(*g);
            }
            sums = local;
        },
    );
    sums.iter().sum::<f64>().sqrt()
}

/// What to multiply a gradient of this norm by.
pub(super) fn clip(norm: f64, most: f32) -> f32 {
    (f64::from(most) / (norm + CLIP_EPSILON)).min(1.0) as f32
}
