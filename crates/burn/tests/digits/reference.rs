//! The digits model in f64, as plainly as it can be written, and AdamW.

use potluck_train::digits::{CHANNELS, CLASSES, FEATURES, HIDDEN, SIDE, tensors};
use potluck_train::engine::Batch;

/// Convolution 3 x 3, a zero at each side, then ReLU. Images are channels x side x side.
fn convolve(image: &[f64], side: usize, stride: usize, weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let channels = image.len() / (side * side);
    let out = side / stride;
    let mut result = Vec::new();
    for (o, bias) in bias.iter().enumerate() {
        for y in 0..out {
            for x in 0..out {
                let mut sum = *bias;
                for c in 0..channels {
                    for ky in 0..3 {
                        for kx in 0..3 {
                            let (row, col) = (y * stride + ky, x * stride + kx);
                            if (1..=side).contains(&row) && (1..=side).contains(&col) {
                                sum += weight[((o * channels + c) * 3 + ky) * 3 + kx]
                                    * image[(c * side + row - 1) * side + col - 1];
                            }
                        }
                    }
                }
                result.push(sum.max(0.0));
            }
        }
    }
    result
}

/// The weight is input x output.
fn linear(input: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let column =
        |o: usize| input.iter().enumerate().map(|(i, x)| x * weight[i * bias.len() + o]).sum::<f64>();
    bias.iter().enumerate().map(|(o, bias)| bias + column(o)).collect()
}

pub(super) fn logits(parameters: &[f64], image: &[u32]) -> Vec<f64> {
    let tensors = tensors();
    let at = |i: usize| &parameters[tensors[i].range()];
    let image: Vec<f64> = image.iter().map(|pixel| f64::from(*pixel) / 16.0).collect();
    let x = convolve(&image, SIDE, 1, at(0), at(1));
    assert_eq!(x.len(), CHANNELS[0] * SIDE * SIDE);
    let x = convolve(&x, SIDE, 2, at(2), at(3));
    assert_eq!(x.len(), FEATURES);
    let x: Vec<f64> = linear(&x, at(4), at(5)).into_iter().map(|x| x.max(0.0)).collect();
    assert_eq!(x.len(), HIDDEN);
    let x = linear(&x, at(6), at(7));
    assert_eq!(x.len(), CLASSES);
    x
}

/// Mean cross-entropy.
pub(super) fn loss(parameters: &[f64], batch: &Batch) -> f64 {
    let rows = batch.inputs.chunks(batch.length).zip(batch.targets.chunks(batch.length));
    let total: f64 = rows
        .map(|(image, targets)| {
            let logits = logits(parameters, image);
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            sum.ln() - logits[targets[batch.length - 1] as usize]
        })
        .sum();
    total / batch.sequences as f64
}

/// AdamW on one parameter after clipping; `gradients` of each step so far.
pub(super) fn adamw(mut p: f64, gradients: &[f64], learning_rate: f64, decays: bool) -> f64 {
    let (mut m, mut v) = (0.0, 0.0);
    for (t, g) in (1..).zip(gradients) {
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        if decays {
            p -= learning_rate * 0.1 * p;
        }
        let (m, v): (f64, f64) = (m / (1.0 - 0.9_f64.powi(t)), v / (1.0 - 0.99_f64.powi(t)));
        p -= learning_rate * m / (v.sqrt() + 1e-8);
    }
    p
}
