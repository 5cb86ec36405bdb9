//! Another trainer: gradients at parameters of fewer bits, AdamW of its own on f32 masters, as mixed precision does it.

use potluck_train::engine::AdamW;
use potluck_train::gpt::{CpuGpt, GptConfig, Layout};
use potluck_train::{Batch, Engine, TrainError};

/// With both decays 0, AdamW takes `rate * g / (|g| + epsilon)`: with an epsilon this great, g times their quotient.
const EPSILON: f32 = 1.099_511_6e12;
/// Times the gradient: so much that the parameter it is taken from does not matter.
const GAIN: f32 = 1.099_511_6e12;

/// Trains on parameters that are rounded to so many bits for forward and backward.
pub(super) struct Coarse {
    /// Gives gradients: its step is so made that the parameters' change is one.
    gradients: CpuGpt,
    layout: Layout,
    constants: AdamW,
    bits: u32,
    parameters: Vec<f32>,
    moments: [Vec<f32>; 2],
    steps: i32,
}

impl Coarse {
    /// `bits` of the significand are kept, the first one among them: 8 are bf16, 11 tf32, 24 all.
    pub(super) fn new(config: GptConfig, bits: u32) -> Result<Self, TrainError> {
        let plain = AdamW { beta1: 0.0, beta2: 0.0, epsilon: EPSILON, weight_decay: 0.0, clip: f32::MAX };
        let gradients = CpuGpt::with_constants(config, plain)?;
        let zeros = vec![0.0; gradients.parameters()];
        Ok(Self {
            gradients,
            layout: Layout::new(&config),
            constants: AdamW::default(),
            bits,
            parameters: zeros.clone(),
            moments: [zeros.clone(), zeros],
            steps: 0,
        })
    }
}

/// Rounds to that many bits, ties to even, as hardware does.
pub(super) fn round_to_bits(value: f32, bits: u32) -> f32 {
    let drop = 24_u32.saturating_sub(bits);
    if drop == 0 {
        return value;
    }
    let (word, unit) = (value.to_bits(), 1_u32 << drop);
    let odd = (word >> drop) & 1;
    f32::from_bits((word + unit / 2 - 1 + odd) & !(unit - 1))
}

impl Engine for Coarse {
    fn parameters(&self) -> usize {
        self.parameters.len()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        self.gradients.load(parameters).await?;
        self.parameters.copy_from_slice(parameters);
        self.moments.iter_mut().for_each(|moment| moment.fill(0.0));
        self.steps = 0;
        Ok(())
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        Ok(self.parameters.clone())
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        let coarse: Vec<f32> = self.parameters.iter().map(|&x| round_to_bits(x, self.bits)).collect();
        self.gradients.load(&coarse).await?;
        let loss = self.gradients.step(batch, GAIN * EPSILON).await?;
        let after = self.gradients.store().await?;
        let mut gradient: Vec<f32> = coarse.iter().zip(after).map(|(a, b)| (a - b) / GAIN).collect();
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let AdamW { beta1, beta2, epsilon, weight_decay, clip } = self.constants;
        if norm > f64::from(clip) {
            let scale = (f64::from(clip) / norm) as f32;
            gradient.iter_mut().for_each(|g| *g *= scale);
        }
        self.steps += 1;
        let [first, second] = &mut self.moments;
        let correct = [beta1, beta2].map(|beta| 1.0 - f64::from(beta).powi(self.steps));
        for tensor in &self.layout.tensors {
            for at in tensor.range() {
                let g = gradient[at];
                first[at] = beta1 * first[at] + (1.0 - beta1) * g;
                second[at] = beta2 * second[at] + (1.0 - beta2) * g * g;
                let root = (f64::from(second[at]) / correct[1]).sqrt() + f64::from(epsilon);
                let step = f64::from(first[at]) / correct[0] / root;
                let decay = if tensor.decays() { f64::from(weight_decay * self.parameters[at]) } else { 0.0 };
                self.parameters[at] -= (f64::from(learning_rate) * (step + decay)) as f32;
            }
        }
        Ok(loss)
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        let coarse: Vec<f32> = self.parameters.iter().map(|&x| round_to_bits(x, self.bits)).collect();
        self.gradients.load(&coarse).await?;
        self.gradients.loss(batch).await
    }
}

#[cfg(test)]
mod tests {
    use super::round_to_bits;

    #[test]
    fn rounding_keeps_bits_and_ties_go_to_even() {
        let bf16 = |word: u32| round_to_bits(f32::from_bits(word), 8).to_bits();
        assert_eq!(bf16(0x3f80_0000), 0x3f80_0000);
        assert_eq!([0x3f80_8000, 0x3f81_8000].map(bf16), [0x3f80_0000, 0x3f82_0000]);
        assert_eq!([0x3f80_8001, 0xbf80_7fff].map(bf16), [0x3f81_0000, 0xbf80_0000]);
        assert_eq!(round_to_bits(0.1, 24).to_bits(), 0.1_f32.to_bits());
        assert!((round_to_bits(0.1, 11) - 0.1).abs() < 0.1 / 2048.0);
    }
}
