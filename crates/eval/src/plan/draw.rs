//! What is drawn from a secret.

/// A stream of numbers that a key and a label decide.
pub(super) struct Draws(blake3::OutputReader);

impl Draws {
    /// The stream of a label; `number` tells streams of one label apart.
    pub(super) fn new(secret: &[u8; 32], label: &str, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher
            .update(b"potluck eval v1 ")
            .update(label.as_bytes())
            .update(&[0])
            .update(&number.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// A number below `bound`, or 0 for 0. A bias of `bound` in 2^64 is no matter here.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let mut eight = [0; 8];
        self.0.fill(&mut eight);
        ((u128::from(u64::from_le_bytes(eight)) * bound as u128) >> 64) as usize
    }

    /// 32 bytes.
    pub(super) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill(&mut seed);
        seed
    }

    /// Starts of up to `count` windows of `length` tokens that do not overlap, from `tokens` tokens, ascending. Fewer where
    /// there is no room for more; none where there is none for one.
    pub(super) fn windows(&mut self, tokens: usize, length: usize, count: usize) -> Vec<usize> {
        let slots = tokens / length.max(1);
        let shift = self.below(tokens - slots * length + 1);
        let mut chosen = std::collections::BTreeSet::new();
        // Floyd's way to draw distinct numbers.
        let count = count.min(slots);
        for most in slots - count..slots {
            let slot = self.below(most + 1);
            chosen.insert(if chosen.contains(&slot) { most } else { slot });
        }
        chosen.into_iter().map(|slot| shift + slot * length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_the_secret_decides() {
        let starts = |secret: u8, tokens, count| Draws::new(&[secret; 32], "x", 0).windows(tokens, 10, count);
        for (tokens, count) in [(0, 3), (9, 3), (10, 3), (101, 3), (101, 10), (1000, 50)] {
            let found = starts(1, tokens, count);
            assert_eq!(found.len(), count.min(tokens / 10));
            assert!(found.windows(2).all(|pair| pair[0] + 10 <= pair[1]));
            assert!(found.iter().all(|start| start + 10 <= tokens));
        }
        assert_eq!(starts(1, 1000, 50), starts(1, 1000, 50));
        assert_ne!(starts(1, 1000, 50), starts(2, 1000, 50));
        let mut seen = [0; 10];
        for number in 0..1000 {
            let mut draws = Draws::new(&[3; 32], "y", number);
            draws.windows(100, 10, 3).into_iter().for_each(|start| seen[start / 10] += 1);
        }
        assert!(seen.iter().all(|count| (220..380).contains(count)), "{seen:?}");
    }
}
