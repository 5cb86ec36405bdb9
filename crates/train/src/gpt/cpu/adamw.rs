//! Clipping by the global norm and AdamW.

use super::lanes::vectorize;
use crate::engine::{AdamW, Moments, TrainError};
use crate::gpt::Tensor;

/// Partial sums of the squared norm.
const LANES: usize = 16;
/// Added to the norm before the clip is divided by it, as PyTorch does.
const CLIP_EPSILON: f64 = 1e-6;

/// Clipping and AdamW on the CPU, with the moments and the count of steps: what every engine does that keeps its
/// parameters there.
///
/// # Order of operations
/// The gradient's norm is summed in f64; all else is f32, for each element: `g *= clip / (norm + 1e-6)` if that is below
/// 1, `m += (g - m)(1 - beta1)`, `v = v beta2 + g g (1 - beta2)`, then
/// `p = p (1 - rate decay) - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)`, where only tensors that
/// decay are multiplied by `1 - rate decay`.
///
/// # Determinism
/// Bitwise, everywhere.
pub struct Optimizer {
    constants: AdamW,
    first: Vec<f32>,
    second: Vec<f32>,
    /// beta1 and beta2 to the power of the steps taken: products, since powers are a library's.
    powers: [f64; 2],
    steps: u64,
}

impl Optimizer {
    /// For so many parameters.
    pub fn new(constants: AdamW, parameters: usize) -> Self {
        let (first, second) = (vec![0.0; parameters], vec![0.0; parameters]);
        Self { constants, first, second, powers: [1.0; 2], steps: 0 }
    }

    /// Forgets everything but the constants.
    pub fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
        self.powers = [1.0; 2];
        self.steps = 0;
    }

    /// Goes on from what [`Optimizer::moments`] gave. The caller has compared the lengths.
    pub(crate) fn resume(&mut self, moments: &Moments) {
        self.first.copy_from_slice(&moments.first);
        self.second.copy_from_slice(&moments.second);
        self.powers = powers(&self.constants, moments.steps);
        self.steps = moments.steps;
    }

    /// What it remembers.
    pub(crate) fn moments(&self) -> Moments {
        Moments { first: self.first.clone(), second: self.second.clone(), steps: self.steps }
    }

    /// Steps taken.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// One step.
    ///
    /// Shapes: `parameters` and `gradient` as the tensors say, which cover as many elements as the optimizer was made
    /// for.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] if the gradient is not; nothing changes then.
    pub fn step(
        &mut self,
        tensors: &[Tensor],
        learning_rate: f32,
        gradient: &[f32],
        parameters: &mut [f32],
    ) -> Result<(), TrainError> {
        let norm = norm(gradient);
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { step: self.steps });
        }
        let constants = self.constants;
        let scale = clip(norm, constants.clip);
        let betas = [constants.beta1, constants.beta2].map(f64::from);
        for (power, beta) in self.powers.iter_mut().zip(betas) {
            *power *= beta;
        }
        let size = (f64::from(learning_rate) / (1.0 - self.powers[0])) as f32;
        let root = (1.0 / (1.0 - self.powers[1]).sqrt()) as f32;
        let keep = (1.0 - f64::from(learning_rate) * f64::from(constants.weight_decay)) as f32;
        let [rest1, rest2] = betas.map(|beta| (1.0 - beta) as f32);
        let (beta2, epsilon) = (constants.beta2, constants.epsilon);
        for tensor in tensors {
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
        self.steps += 1;
        Ok(())
    }
}

/// The powers after so many steps, by the products that these steps would have made.
fn powers(constants: &AdamW, steps: u64) -> [f64; 2] {
    let betas = [constants.beta1, constants.beta2].map(f64::from);
    betas.map(|beta| {
        let mut power = 1.0;
        for _ in 0..steps {
            power *= beta;
            if power < f64::MIN_POSITIVE {
                // Next to nothing beside 1: the rest changes no bias.
                break;
            }
        }
        power
    })
}

/// Global norm of a gradient, summed in f64.
fn norm(gradient: &[f32]) -> f64 {
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
fn clip(norm: f64, most: f32) -> f32 {
    (f64::from(most) / (norm + CLIP_EPSILON)).min(1.0) as f32
}
