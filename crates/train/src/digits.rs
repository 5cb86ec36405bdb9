//! The classifier of handwritten digits: facts that everybody needs; `potluck-burn` trains it.
//!
//! A record of its data sets is [`RECORD`] tokens: the pixels of an 8 x 8 image, row by row (0 to 16), then the digit.
//! A sequence is the [`PIXELS`] of one image; of its targets the last is the digit, and the others do not count.
//!
//! The model: pixels / 16; convolution 3 x 3, 1 to 8 channels, padding 1; convolution 3 x 3, 8 to 16 channels, stride 2,
//! padding 1; linear, 256 to 32; linear, 32 to 10; ReLU after each but the last.

use crate::gpt::{Kind, Tensor, normal};

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Tokens of an image and its digit.
pub const RECORD: usize = PIXELS + 1;
/// Intensities of a pixel; digits are fewer.
pub const VOCABULARY: usize = 17;
/// Digits.
pub const CLASSES: usize = 10;
/// Parameters.
pub const PARAMETERS: usize = 9802;
/// Values of all layers of one image, forward.
pub const ACTIVATIONS: usize = PIXELS + 8 * 64 + 16 * 16 + 32 + CLASSES;
/// Products of one image, forward: 3 x 3 x 8 for 64 places, 3 x 3 x 8 x 16 for 16, and the matrices.
pub const PRODUCTS: u64 = 72 * 64 + 1152 * 16 + 256 * 32 + 32 * 10;

/// Name, rows (outputs of a convolution, inputs of a linear layer, as burn stores them) and columns.
const TENSORS: [(&str, usize, usize); 8] = [
    ("conv1.weight", 8, 9),
    ("conv1.bias", 1, 8),
    ("conv2.weight", 16, 72),
    ("conv2.bias", 1, 16),
    ("hidden.weight", 256, 32),
    ("hidden.bias", 1, 32),
    ("output.weight", 32, 10),
    ("output.bias", 1, 10),
];

/// The tensors in the order of the flat vector.
pub fn tensors() -> Vec<Tensor> {
    let mut start = 0;
    let tensor = |(name, rows, cols): (&str, usize, usize)| {
        let kind = if name.ends_with("bias") { Kind::Bias } else { Kind::Linear };
        let tensor = Tensor { name: name.to_owned(), rows, cols, start, kind };
        start += rows * cols;
        tensor
    };
    TENSORS.into_iter().map(tensor).collect()
}

/// Fresh parameters: weights normal with deviation √(2 / inputs), biases 0. The bits are those of `gpt::init`'s draws.
pub fn init(seed: &[u8; 32]) -> Vec<f32> {
    let mut parameters = vec![0.0; PARAMETERS];
    for tensor in tensors() {
        if tensor.kind == Kind::Bias {
            continue;
        }
        let inputs = if tensor.name.starts_with("conv") { tensor.cols } else { tensor.rows };
        let deviation = (2.0 / inputs as f64).sqrt();
        normal(seed, &tensor.name, deviation, &mut parameters[tensor.range()]);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_no_gaps_and_the_seed_decides() {
        let tensors = tensors();
        for pair in tensors.windows(2) {
            assert_eq!(pair[0].range().end, pair[1].start);
        }
        assert_eq!(tensors[7].range().end, PARAMETERS);
        let parameters = init(&[7; 32]);
        for tensor in &tensors {
            let values = &parameters[tensor.range()];
            let spread = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
            let inputs = if tensor.name.starts_with("conv") { tensor.cols } else { tensor.rows };
            let expected = if tensor.kind == Kind::Bias { 0.0 } else { 2.0 / inputs as f64 };
            assert!((spread - expected).abs() <= 0.3 * expected, "{}: {spread}", tensor.name);
        }
        assert_ne!(init(&[8; 32]), parameters);
    }
}
