//! The one source of chance: ChaCha8 from the seed. Everything that a run does follows from it.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use std::ops::RangeInclusive;

/// A stream of random draws.
///
/// Determinism: bitwise, on every machine; [`Rng::fork`] gives streams that do not disturb each other.
#[derive(Debug, Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// An independent stream, so that drawing more in one part of the world does not shift all others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A whole number in the range, both ends included.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let span = high.saturating_sub(low).saturating_add(1);
        // The bias of a plain remainder is below 2^-40 for every range that the simulator uses.
        low + self.0.next_u64() % span.max(1)
    }

    /// An index below `len`; 0 for an empty range.
    pub fn below(&mut self, len: usize) -> usize {
        (self.0.next_u64() % (len.max(1) as u64)) as usize
    }

    /// Whether something with this many chances in a thousand happens.
    pub fn permille(&mut self, chances: u64) -> bool {
        self.0.next_u64() % 1000 < chances
    }

    /// One of several, each as likely.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())).copied() }
    }

    /// Uniform in [-1, 1) with 24 bits.
    pub fn signed_unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_range_and_follow_from_the_seed() {
        let mut rng = Rng::new(7);
        assert!((0..1000).all(|_| (3..=9).contains(&rng.within(3..=9))));
        assert!((0..1000).all(|_| (-1.0..1.0).contains(&rng.signed_unit())));
        assert_eq!(rng.within(5..=5), 5);
        assert_eq!(Rng::new(7).bits(), Rng::new(7).bits());
        assert_ne!(Rng::new(7).bits(), Rng::new(8).bits());
        assert!(!rng.permille(0) && rng.permille(1000));
        let seen = (0..10_000).filter(|_| rng.permille(250)).count();
        assert!((2_200..2_800).contains(&seen), "{seen} of 10,000");
    }
}
