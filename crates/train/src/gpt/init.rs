//! Fresh parameters: a function of a seed, the same bits everywhere.

use super::{GptConfig, Kind, Layout};

/// Standard deviation of matrices.
const DEVIATION: f64 = 0.02;
/// Uniform numbers whose sum stands for a normal one (Irwin-Hall): additions only, so every platform rounds alike.
const TERMS: u32 = 12;

/// Parameters in the order of [`Layout`]: matrices normal with deviation 0.02 (those that write into the residual
/// stream divided by the root of their number), norms 1, biases 0.
///
/// # Determinism
/// Bitwise, everywhere: BLAKE3's extended output of the seed, and f64 arithmetic without library functions but the
/// correctly rounded square root.
pub fn init(config: &GptConfig, seed: &[u8; 32]) -> Vec<f32> {
    let layout = Layout::new(config);
    let mut parameters = vec![0.0; layout.parameters()];
    let residual = DEVIATION / f64::from(2 * config.layers as u32).sqrt();
    for tensor in &layout.tensors {
        let values = &mut parameters[tensor.range()];
        match tensor.kind {
            Kind::Norm => {
                values.fill(1.0);
                continue;
            }
            Kind::Bias => continue,
            Kind::Embedding | Kind::Linear => {}
        }
        let deviation = if tensor.name.contains("c_proj") { residual } else { DEVIATION };
        draw(seed, &tensor.name, deviation, values);
    }
    parameters
}

/// Fills a tensor with normal values, drawn from seed and name.
pub(crate) fn draw(seed: &[u8; 32], name: &str, deviation: f64, values: &mut [f32]) {
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(b"potluck init v1 ").update(name.as_bytes());
    let mut bits = hasher.finalize_xof();
    let mut draw = [0_u8; 2 * TERMS as usize];
    for value in values {
        bits.fill(&mut draw);
        let sum: u32 = draw.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two))).sum();
        // Each term is uniform on the odd multiples of 2^-17 in (0, 1): mean 1/2, variance 1/12.
        let normal = (f64::from(2 * sum + TERMS) / f64::from(1_u32 << 17)) - f64::from(TERMS / 2);
        *value = (normal * deviation) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_as_asked_and_the_seed_decides() {
        let config = GptConfig { bias: true, ..GptConfig::tiny(65) };
        let parameters = init(&config, &[7; 32]);
        for tensor in &Layout::new(&config).tensors {
            let values = &parameters[tensor.range()];
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
            let spread =
                values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
            let deviation = match tensor.kind {
                Kind::Norm | Kind::Bias => 0.0,
                Kind::Linear if tensor.name.contains("c_proj") => DEVIATION / 6.0_f64.sqrt(),
                _ => DEVIATION,
            };
            assert!((spread.sqrt() - deviation).abs() <= 0.05 * deviation, "{}", tensor.name);
        }
        assert_eq!(parameters, init(&config, &[7; 32]));
        assert_ne!(parameters, init(&config, &[8; 32]));
    }

    #[test]
    fn the_bits_never_change() {
        let bytes: Vec<u8> =
            init(&GptConfig::tiny(65), &[1; 32]).iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "a17d100584e73e576b58a01b534caa7e7038656c6c6528dbb33526f8eef2fe30"
        );
    }
}
