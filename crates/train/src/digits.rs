//! A small convolutional classifier of handwritten digits: what is fixed about it wherever it is computed.
//!
//! Pixels / 16; convolution 3 x 3 to 8 channels, ReLU; convolution 3 x 3 with stride 2 to 16 channels, ReLU; linear to
//! 32, ReLU; linear to 10. Both convolutions pad with a zero at each side. The engine is in `potluck-burn`.
//!
//! A record of a data set is 65 tokens: the pixels of an image, row by row, then the digit. In a
//! [`Batch`](crate::Batch) rows have 64 positions, so that the inputs of a row are its pixels and its last target is
//! the digit; the other targets are pixels again, and nothing looks at them.

use crate::gpt::{Kind, Tensor, draw};

/// Pixels along a side.
pub const SIDE: usize = 8;
/// Pixels of an image: the length of a batch's rows.
pub const PIXELS: usize = SIDE * SIDE;
/// Tokens of an image and its digit: one example of a data set.
pub const RECORD: usize = PIXELS + 1;
/// Tokens that there are: the values of a pixel. Digits are fewer.
pub const VOCABULARY: usize = WHITE as usize + 1;
/// Greatest value of a pixel; the least is 0.
pub const WHITE: u32 = 16;
/// Digits.
pub const CLASSES: usize = 10;
/// Channels after each convolution.
pub const CHANNELS: [usize; 2] = [8, 16];
/// Side of a convolution's kernel.
pub const KERNEL: usize = 3;
/// Width of the hidden layer.
pub const HIDDEN: usize = 32;
/// What the convolutions leave of an image: 16 channels of 4 x 4.
pub const FEATURES: usize = CHANNELS[1] * SIDE * SIDE / 4;
/// Values of all layers of one image, forward.
pub const ACTIVATIONS: usize = PIXELS + CHANNELS[0] * PIXELS + FEATURES + HIDDEN + CLASSES;
/// Products of one image, forward.
pub const PRODUCTS: u64 = {
    let area = KERNEL * KERNEL * CHANNELS[0];
    (area * PIXELS + area * FEATURES + FEATURES * HIDDEN + HIDDEN * CLASSES) as u64
};
/// Length of the flat vector.
pub const PARAMETERS: usize = 9802;

/// A tensor's name, its shape, and to how many inputs each of its outputs listens.
struct Fact {
    name: &'static str,
    shape: &'static [usize],
    fan_in: usize,
}

/// All tensors in the order of the flat vector, row-major. Convolutions are output x input x height x width, linear
/// layers input x output, as burn stores them.
const FACTS: [Fact; 8] = {
    const fn weight(name: &'static str, shape: &'static [usize], fan_in: usize) -> Fact {
        Fact { name, shape, fan_in }
    }
    const fn bias(name: &'static str, shape: &'static [usize]) -> Fact {
        Fact { name, shape, fan_in: 0 }
    }
    const AREA: usize = KERNEL * KERNEL;
    [
        weight("conv1.weight", &[CHANNELS[0], 1, KERNEL, KERNEL], AREA),
        bias("conv1.bias", &[CHANNELS[0]]),
        weight("conv2.weight", &[CHANNELS[1], CHANNELS[0], KERNEL, KERNEL], CHANNELS[0] * AREA),
        bias("conv2.bias", &[CHANNELS[1]]),
        weight("hidden.weight", &[FEATURES, HIDDEN], FEATURES),
        bias("hidden.bias", &[HIDDEN]),
        weight("output.weight", &[HIDDEN, CLASSES], HIDDEN),
        bias("output.bias", &[CLASSES]),
    ]
};

/// Where each tensor lies in the flat vector. Rows are its first dimension, columns all others; a bias is one row.
///
/// Kernels and matrices decay ([`Kind::Linear`]), biases do not.
pub fn tensors() -> Vec<Tensor> {
    let mut end = 0;
    let tensor = |fact: &Fact| {
        let count: usize = fact.shape.iter().product();
        let (rows, kind) = if fact.fan_in > 0 { (fact.shape[0], Kind::Linear) } else { (1, Kind::Bias) };
        let start = end;
        end += count;
        Tensor { name: fact.name.into(), rows, cols: count / rows, start, kind }
    };
    FACTS.iter().map(tensor).collect()
}

/// Shapes of the tensors, in their order.
pub fn shapes() -> impl Iterator<Item = &'static [usize]> {
    FACTS.iter().map(|fact| fact.shape)
}

/// Fresh parameters: kernels and matrices normal with deviation sqrt(2 / inputs of an output), biases 0.
/// Source: He et al., Delving Deep into Rectifiers, arXiv 1502.01852.
///
/// # Determinism
/// As [`gpt::init`](crate::gpt::init).
pub fn init(seed: &[u8; 32]) -> Vec<f32> {
    let mut parameters = vec![0.0; PARAMETERS];
    for (tensor, fact) in tensors().iter().zip(&FACTS) {
        if fact.fan_in > 0 {
            let deviation = (2.0 / fact.fan_in as f64).sqrt();
            draw(seed, fact.name, deviation, &mut parameters[tensor.range()]);
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_no_gaps_and_the_sum_is_as_documented() {
        let tensors = tensors();
        let starts: Vec<usize> = tensors.iter().map(|tensor| tensor.start).collect();
        assert_eq!(starts, [0, 72, 80, 1232, 1248, 9440, 9472, 9792]);
        assert_eq!(tensors.last().map(|tensor| tensor.range().end), Some(PARAMETERS));
        for (tensor, shape) in tensors.iter().zip(shapes()) {
            assert_eq!(tensor.range().len(), shape.iter().product::<usize>());
            assert_eq!(tensor.decays(), tensor.name.ends_with(".weight"), "{}", tensor.name);
        }
    }

    #[test]
    fn deviations_are_as_asked_and_the_seed_decides() {
        let parameters = init(&[7; 32]);
        for (tensor, fact) in tensors().iter().zip(&FACTS) {
            let values = &parameters[tensor.range()];
            let spread = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
            let deviation = if fact.fan_in > 0 { (2.0 / fact.fan_in as f64).sqrt() } else { 0.0 };
            // Few numbers are as far from their deviation as few numbers are.
            let bound = 3.0 * deviation / (2.0 * values.len() as f64).sqrt();
            assert!((spread.sqrt() - deviation).abs() <= bound, "{} {}", fact.name, spread.sqrt());
        }
        assert_eq!(parameters, init(&[7; 32]));
        assert_ne!(parameters, init(&[8; 32]));
    }

    #[test]
    fn the_bits_never_change() {
        const BITS: &str = "7ad224e3f05230dc7ea194396a60c468b6439a0d08746b9c660f9aaf9a27654d";
        let bytes: Vec<u8> = init(&[1; 32]).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), BITS);
    }
}
