//! How a token is drawn from the softmax of a model's logits.

use super::cpu::math::exp;
use crate::TrainError;

/// What the arithmetic of a draw itself may be off by, as a probability: weights are exact to a millionth.
const SLACK: f64 = 2e-6;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn from; 0 means all.
    pub top_k: usize,
    /// Decides all draws.
    pub seed: [u8; 32],
}

impl Sampling {
    /// Draws the token at a position of the output.
    ///
    /// Of equal logits the lower token counts as the likelier one. A temperature that is not a positive number counts as
    /// 0.
    ///
    /// # Determinism
    /// Bitwise, everywhere, given the logits: the draw is BLAKE3 of seed and position, and the arithmetic is our own.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] at step `position` where there are no logits or one is not finite.
    pub fn draw(&self, logits: &[f32], position: u64) -> Result<u32, TrainError> {
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return Err(TrainError::NotFinite { step: position });
        }
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let sharp = !(self.temperature.is_finite() && self.temperature > 0.0);
        let kept = if sharp { 1 } else { self.top_k };
        if (1..tokens.len()).contains(&kept) {
            tokens.select_nth_unstable_by(kept - 1, likelier);
            tokens.truncate(kept);
        }
        // So that the draw does not depend on how the kept ones were found.
        tokens.sort_unstable_by(likelier);
        let most = logits[tokens[0] as usize];
        let temperature = self.temperature.max(f32::MIN_POSITIVE);
        let weight = |token: &u32| f64::from(exp((logits[*token as usize] - most) / temperature));
        let total: f64 = if sharp { 1.0 } else { tokens.iter().map(weight).sum() };
        let mut left = self.uniform(position) * total;
        let last = tokens.len() - 1;
        for token in &tokens[..last] {
            left -= weight(token);
            if left < 0.0 {
                return Ok(*token);
            }
        }
        Ok(tokens[last])
    }

    /// Whether [`Sampling::draw`] could have drawn `token` at a position if each logit were off by up to `off`, as on a
    /// machine that rounds otherwise.
    ///
    /// Never false for what such logits give. True also for some tokens that they do not quite give: every bound is
    /// taken by itself, and where logits lie within `2 off` of each other their order counts as open.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] at step `position` where there are no logits or one is not finite.
    pub fn could_draw(
        &self,
        logits: &[f32],
        position: u64,
        token: u32,
        off: f64,
    ) -> Result<bool, TrainError> {
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return Err(TrainError::NotFinite { step: position });
        }
        let Some(claimed) = logits.get(token as usize).map(|logit| f64::from(*logit)) else {
            return Ok(false);
        };
        let mut order: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
        order.sort_unstable_by(|a, b| b.total_cmp(a));
        let reach = 2.0 * off;
        let sharp = !(self.temperature.is_finite() && self.temperature > 0.0);
        let kept = match (sharp, self.top_k) {
            (true, _) => 1,
            (false, 0) => order.len(),
            (false, kept) => kept.min(order.len()),
        };
        // The last that is kept, and the first that is not: what lies within reach of both may be either.
        if claimed + reach < order[kept - 1] {
            return Ok(false);
        }
        if sharp {
            return Ok(true);
        }
        let first_out = order.get(kept).copied().unwrap_or(f64::NEG_INFINITY);
        let temperature = f64::from(self.temperature.max(f32::MIN_POSITIVE));
        let weight = |logit: f64| f64::from(exp(((logit - order[0]) / temperature) as f32));
        // Weights that surely come before the token, that are its own or may lie on either side, and that come after it
        // perhaps or surely.
        let (mut before, mut near, mut after, mut surely_after) = (0.0, 0.0, 0.0, 0.0);
        for logit in order.iter().take_while(|logit| **logit + reach >= order[kept - 1]) {
            let weight = weight(*logit);
            if *logit > claimed + reach {
                before += weight;
            } else if *logit + reach >= claimed {
                near += weight;
            } else {
                after += weight;
                surely_after += if *logit > first_out + reach { weight } else { 0.0 };
            }
        }
        let grown = (off / temperature).exp();
        let least = (before / grown) / (before / grown + (near + after) * grown);
        let most = (before + near) * grown / ((before + near) * grown + surely_after / grown);
        let uniform = self.uniform(position);
        Ok(least - SLACK <= uniform && uniform <= most + SLACK)
    }

    /// A number in 0..1 with 53 bits.
    fn uniform(&self, position: u64) -> f64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(b"potluck sample v1").update(&position.to_le_bytes());
        let mut eight = [0; 8];
        hasher.finalize_xof().fill(&mut eight);
        (u64::from_le_bytes(eight) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_k: usize) -> Sampling {
        Sampling { temperature, top_k, seed: [9; 32] }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, 2.0, -1.0, 2.0, 1.0];
        for (temperature, top_k) in [(1.0, 0), (0.5, 0), (2.0, 3), (1.0, 1), (1.0, 99)] {
            let sampling = sampling(temperature, top_k);
            let mut counts = [0_u32; 5];
            for position in 0..20_000 {
                counts[sampling.draw(&logits, position).unwrap() as usize] += 1;
            }
            let kept = if top_k == 0 { 5 } else { top_k.min(5) };
            let order = [1, 3, 4, 0, 2];
            let weights = order.map(|token: usize| f64::from(logits[token] / temperature).exp());
            let total: f64 = weights[..kept].iter().sum();
            for (rank, token) in order.into_iter().enumerate() {
                let expected = if rank < kept { weights[rank] / total } else { 0.0 };
                let found = f64::from(counts[token]) / 20_000.0;
                // Five standard deviations.
                let bound = 5.0 * (expected * (1.0 - expected) / 20_000.0).sqrt();
                assert!(
                    (found - expected).abs() <= bound,
                    "{temperature} {top_k} {token}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn no_temperature_takes_the_first_of_the_likeliest() {
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            for position in 0..50 {
                assert_eq!(sampling(temperature, 0).draw(&[1.0, 3.0, 3.0, 2.0], position), Ok(1));
            }
        }
        assert_eq!(sampling(1.0, 0).draw(&[f32::NAN, 1.0], 4), Err(TrainError::NotFinite { step: 4 }));
        assert_eq!(sampling(1.0, 0).draw(&[], 0), Err(TrainError::NotFinite { step: 0 }));
    }

    /// Numbers in -1..1.
    fn noise(label: u64) -> impl Iterator<Item = f32> {
        let mut hasher = blake3::Hasher::new_keyed(&[5; 32]);
        hasher.update(&label.to_le_bytes());
        let mut reader = hasher.finalize_xof();
        std::iter::repeat_with(move || {
            let mut two = [0; 2];
            reader.fill(&mut two);
            f32::from(i16::from_le_bytes(two)) / 32_768.0
        })
    }

    #[test]
    fn what_slightly_other_logits_give_could_be_drawn_and_nearly_nothing_else() {
        let (mut others, mut allowed) = (0_u32, 0_u32);
        for case in 0..3000_u64 {
            let mut noise = noise(case);
            let size = 2 + (case % 40) as usize;
            // A third of the cases have many logits that are nearly or exactly equal.
            let spread = if case % 3 == 0 { 0.002 } else { 4.0 };
            let logits: Vec<f32> =
                noise.by_ref().take(size).map(|x| (x * spread * 64.0).round() / 64.0).collect();
            let off = 1e-3_f32;
            let shaken: Vec<f32> = logits.iter().zip(&mut noise).map(|(l, n)| l + n * off * 0.99).collect();
            let sampling = sampling([0.0, 0.25, 1.0, 3.0][(case / 40 % 4) as usize], (case / 7 % 6) as usize);
            let drawn = sampling.draw(&shaken, case).unwrap();
            assert_eq!(sampling.could_draw(&logits, case, drawn, f64::from(off)), Ok(true), "{case}");
            let own = sampling.draw(&logits, case).unwrap();
            assert_eq!(sampling.could_draw(&logits, case, own, 0.0), Ok(true), "{case}");
            if spread > 1.0 {
                let may = |token: &u32| sampling.could_draw(&logits, case, *token, f64::from(off)).unwrap();
                let equal = |token: &u32| logits[*token as usize].to_bits() == logits[own as usize].to_bits();
                let wrong = (0..size as u32).filter(|token| !equal(token));
                let wrong: Vec<_> = wrong.collect();
                others += wrong.len() as u32;
                allowed += wrong.iter().filter(|token| may(token)).count() as u32;
            }
        }
        assert!(others > 20_000 && allowed * 100 < others, "{allowed} of {others}");
        assert_eq!(sampling(0.0, 0).could_draw(&[1.0, 2.0, 1.9995], 0, 2, 1e-3), Ok(true));
        assert_eq!(sampling(0.0, 0).could_draw(&[1.0, 2.0, 1.9], 0, 2, 1e-3), Ok(false));
        assert_eq!(sampling(1.0, 0).could_draw(&[1.0, 2.0], 0, 2, 1e-3), Ok(false), "no such token");
        let unclear = Err(TrainError::NotFinite { step: 3 });
        assert_eq!(sampling(1.0, 0).could_draw(&[1.0, f32::NAN], 3, 0, 1e-3), unclear);
    }
}
