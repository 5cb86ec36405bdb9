//! Which sequences make which batch: a pseudo-random function of seed, round, worker and step, so that anybody can say
//! what a worker had to train on.
//!
//! # How to recompute it
//! Let `n` be the tokens of the training part, `c` the context and `r` the tokens of a record: 1 for text, where a
//! sequence may begin anywhere. Sequences begin at those of the tokens `0..n - c` that are multiples of `r`: `s` of them.
//! `draws(label, numbers..)` is the sequence of little-endian u64 in the extended output of BLAKE3, keyed with the seed, of
//! the label's bytes followed by the numbers, little-endian: round (u64), worker (u32), step (u32). `below(k)` takes the
//! next draw `x` with `x < 2^64 - 2^64 mod k`, passing over others, and is `x mod k`: every value equally often.
//!
//! - *Uniform* (`blocks` is 0, or the data set has no more blocks than that): the starts of a batch are
//!   `r below(s)` from `draws("potluck order v1", round, worker, step)`, one for each sequence.
//! - *By blocks*: first `b` blocks are dealt to the worker for the round, from
//!   `draws("potluck blocks v1", round, worker)`: each is the block in which token `r below(s)` lies. Then each
//!   sequence of a batch takes two draws of `draws("potluck order v1", round, worker, step)`: `below(b)` chooses one of
//!   the dealt blocks, and `below(m)` one of the `m` starts that lie in it.
//!
//! Either way each sequence is uniform over all starts: a block is dealt as often as it has starts. By blocks, sequences of
//! one worker and round have neighbors in common, but a round touches at most `2 b` blocks (a sequence that begins near
//! a block's end needs the next one), and other workers and rounds have other blocks.

use super::{BLOCK_TOKENS, DataError, Spec};
use std::collections::BTreeSet;

/// Blocks that are dealt to a worker for a round unless the run says otherwise: 256 KiB of short tokens, no more than what a
/// round of a small model sends anyway.
pub const BLOCKS_PER_ROUND: u32 = 8;
/// Most sequences of a batch.
pub const MAX_BATCH: usize = 4096;
/// Most steps for which [`Order::blocks`] is asked: ten thousand steps are hours of a tab's work.
const MAX_STEPS: u32 = 10_000;
/// Label of a batch's draws.
const BATCH: &[u8] = b"potluck order v1";
/// Label of the draws of a round's blocks.
const DEAL: &[u8] = b"potluck blocks v1";

/// The order of a run's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    seed: [u8; 32],
    /// Sequences that there are.
    starts: u64,
    /// Tokens from one start to the next.
    record: u64,
    tokens: u64,
    length: usize,
    /// Blocks dealt for a round; 0 for uniform draws.
    dealt: u32,
}

/// Draws from one keyed stream.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(seed: &[u8; 32], label: &[u8], round: u64, worker: u32, step: Option<u32>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(seed);
        hasher.update(label).update(&round.to_le_bytes()).update(&worker.to_le_bytes());
        if let Some(step) = step {
            hasher.update(&step.to_le_bytes());
        }
        Self(hasher.finalize_xof())
    }

    /// Uniform below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        loop {
            let mut eight = [0; 8];
            self.0.fill(&mut eight);
            let draw = u64::from_le_bytes(eight);
            if let Some(value) = reduce(draw, bound) {
                return value;
            }
        }
    }
}

/// `draw mod bound`, but `None` for the draws above the last full multiple of `bound`.
const fn reduce(draw: u64, bound: u64) -> Option<u64> {
    // 2^64 mod bound, in 64 bits.
    let excess = (u64::MAX % bound + 1) % bound;
    if draw > u64::MAX - excess { None } else { Some(draw % bound) }
}

impl Order {
    /// The order of sequences of `length` tokens in a data set; `blocks` are dealt to a worker for a round, 0 for
    /// uniform draws.
    ///
    /// # Errors
    /// [`DataError::Size`], or [`DataError::Start`] if the data set holds no such sequence.
    pub fn new(seed: [u8; 32], data: &Spec, length: usize, blocks: u32) -> Result<Self, DataError> {
        Self::of_records(seed, data, length, blocks, 1)
    }

    /// As [`Order::new`], but sequences begin only where a record of so many tokens does. 0 is taken for 1.
    ///
    /// # Errors
    /// As [`Order::new`].
    pub fn of_records(
        seed: [u8; 32],
        data: &Spec,
        length: usize,
        blocks: u32,
        record: usize,
    ) -> Result<Self, DataError> {
        data.check()?;
        data.blocks_of(0, length)?;
        let record = record.max(1) as u64;
        let starts = (data.tokens - length as u64).div_ceil(record);
        let dealt = if blocks < data.blocks() { blocks } else { 0 };
        Ok(Self { seed, starts, record, tokens: data.tokens, length, dealt })
    }

    /// First tokens of a batch's sequences.
    ///
    /// # Determinism
    /// Integers only: the same everywhere.
    ///
    /// # Errors
    /// [`DataError::Batch`].
    pub fn batch(&self, round: u64, worker: u32, step: u32, sequences: usize) -> Result<Vec<u64>, DataError> {
        self.cut(&self.deal(round, worker), round, worker, step, sequences)
    }

    fn cut(
        &self,
        dealt: &[u64],
        round: u64,
        worker: u32,
        step: u32,
        sequences: usize,
    ) -> Result<Vec<u64>, DataError> {
        if !(1..=MAX_BATCH).contains(&sequences) {
            return Err(DataError::Batch { sequences });
        }
        let mut draws = Draws::new(&self.seed, BATCH, round, worker, Some(step));
        let start = |_| {
            if dealt.is_empty() {
                return draws.below(self.starts) * self.record;
            }
            let block = dealt[draws.below(dealt.len() as u64) as usize];
            let [first, next] = [block, block + 1].map(|block| self.starts_before(block));
            (first + draws.below((next - first).max(1))) * self.record
        };
        Ok((0..sequences).map(start).collect())
    }

    /// Starts that lie before a block.
    fn starts_before(&self, block: u64) -> u64 {
        (block * BLOCK_TOKENS as u64).div_ceil(self.record).min(self.starts)
    }

    /// The blocks that a worker draws from in a round; empty for uniform draws.
    fn deal(&self, round: u64, worker: u32) -> Vec<u64> {
        let mut draws = Draws::new(&self.seed, DEAL, round, worker, None);
        (0..self.dealt).map(|_| draws.below(self.starts) * self.record / BLOCK_TOKENS as u64).collect()
    }

    /// The blocks that the first `steps` batches of a round touch, at most 10,000 of them: what a worker fetches.
    ///
    /// # Errors
    /// [`DataError::Batch`].
    pub fn blocks(
        &self,
        round: u64,
        worker: u32,
        steps: u32,
        sequences: usize,
    ) -> Result<BTreeSet<u32>, DataError> {
        let dealt = self.deal(round, worker);
        let mut blocks = BTreeSet::new();
        for step in 0..steps.min(MAX_STEPS) {
            for start in self.cut(&dealt, round, worker, step, sequences)? {
                let last = start + self.length as u64;
                blocks.extend([start, last].map(|token| (token / BLOCK_TOKENS as u64) as u32));
            }
        }
        Ok(blocks)
    }

    /// Tokens of a sequence.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Tokens of the data set.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }
}

/// First tokens of up to `count` sequences, evenly spread and not overlapping: what validation looks at. Of records of
/// more than one token every so many.
///
/// # Errors
/// [`DataError::Start`] if the data set holds no sequence of this length.
pub fn evenly(data: &Spec, length: usize, count: usize, record: usize) -> Result<Vec<u64>, DataError> {
    data.check()?;
    data.blocks_of(0, length)?;
    if record > 1 {
        let records = (data.tokens - length as u64).div_ceil(record as u64);
        let count = (count.min(MAX_BATCH) as u64).clamp(1, records);
        return Ok((0..count).map(|at| at * records / count * record as u64).collect());
    }
    // The last sequence needs one more token, the one that follows it.
    let most = (data.tokens - 1) / length as u64;
    let count = (count.min(MAX_BATCH) as u64).clamp(1, most);
    let room = data.tokens - 1 - count * length as u64;
    let gaps = count.max(2) - 1;
    Ok((0..count).map(|at| at * length as u64 + room * at / gaps).collect())
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: [u8; 32] = [7; 32];

    fn spec(tokens: u64) -> Spec {
        Spec { vocabulary: 65, tokens, tree: [0; 32] }
    }

    #[test]
    fn the_order_never_changes() {
        // Recomputed in Python from the description above.
        let uniform = Order::new(SEED, &spec(1_003_854), 64, 0).unwrap();
        assert_eq!(uniform.batch(0, 0, 0, 4).unwrap(), [662_860, 633_216, 680_211, 960_396]);
        assert_eq!(uniform.batch(3, 2, 19, 4).unwrap(), [201_589, 780_718, 875_650, 599_512]);
        let by_blocks = Order::new(SEED, &spec(1_003_854), 64, 8).unwrap();
        assert_eq!(by_blocks.deal(3, 2), [46, 19, 41, 41, 4, 7, 59, 31]);
        assert_eq!(by_blocks.batch(3, 2, 19, 4).unwrap(), [674_604, 685_682, 674_590, 68_760]);
        assert_eq!(by_blocks.batch(1 << 40, u32::MAX, u32::MAX, 2).unwrap(), [576_310, 588_912]);
    }

    #[test]
    fn records_are_never_cut() {
        let data = spec(20 * BLOCK_TOKENS as u64 + 300);
        let records = (data.tokens - 64).div_ceil(65);
        for blocks in [0, 3] {
            let order = Order::of_records(SEED, &data, 64, blocks, 65).unwrap();
            let mut seen = BTreeSet::new();
            for round in 0..2000 {
                let touched = order.blocks(round, 1, 1, 16).unwrap();
                for start in order.batch(round, 1, 0, 16).unwrap() {
                    assert!(start.is_multiple_of(65) && start + 64 < data.tokens);
                    assert!(data.blocks_of(start, 64).unwrap().all(|block| touched.contains(&block)));
                    seen.insert(start / 65);
                }
            }
            assert!(seen.len() as u64 > records * 99 / 100, "{} of {records}", seen.len());
        }
        assert_eq!(evenly(&spec(650), 64, 4, 65).unwrap(), [0, 130, 325, 455]);
        assert_eq!(evenly(&spec(650), 64, 40, 65).unwrap().len(), 10);
        assert_eq!(evenly(&spec(65), 64, 40, 65).unwrap(), [0]);
    }

    #[test]
    fn ranges_are_reduced_without_bias() {
        assert_eq!(reduce(u64::MAX, 1), Some(0));
        assert_eq!(reduce(u64::MAX, 1 << 63), Some((1 << 63) - 1));
        // 2^64 = 3 * 6148914691236517205 + 1: exactly the last draw is passed over.
        assert_eq!(reduce(u64::MAX, 3), None);
        assert_eq!(reduce(u64::MAX - 1, 3), Some(2));
        // 2^64 mod (2^63 + 1) = 2^63 - 1 draws are passed over.
        let bound = (1 << 63) + 1;
        assert_eq!(reduce(bound, bound), None);
        assert_eq!(reduce(bound - 1, bound), Some(bound - 1));
    }

    /// Chi-squared of a histogram against equal counts, divided by its degrees of freedom.
    fn unevenness(counts: &[u32], expected: &[f64]) -> f64 {
        let each = |(count, expected): (&u32, &f64)| (f64::from(*count) - expected).powi(2) / expected;
        counts.iter().zip(expected).map(each).sum::<f64>() / (counts.len() - 1) as f64
    }

    #[test]
    fn starts_are_uniform_over_the_corpus_in_both_modes() {
        // The last block has few starts: dealing blocks evenly would draw them 60 times too often.
        let data = spec(20 * BLOCK_TOKENS as u64 + 300);
        let starts = data.tokens - 64;
        let bins = 1000_u64;
        let expected: Vec<f64> = vec![1.0; bins as usize];
        for blocks in [0, 4] {
            let order = Order::new(SEED, &data, 64, blocks).unwrap();
            let mut counts = vec![0_u32; bins as usize];
            let mut drawn = 0_u32;
            // Many rounds of few sequences: those of one round share their blocks.
            for round in 0..20_000 {
                for start in order.batch(round, round as u32 % 5, 0, 4).unwrap() {
                    assert!(start < starts);
                    counts[(start * bins / starts) as usize] += 1;
                    drawn += 1;
                }
            }
            let expected: Vec<f64> = expected.iter().map(|x| x * f64::from(drawn) / bins as f64).collect();
            let unevenness = unevenness(&counts, &expected);
            // Deviation of this statistic: root of 2 / 999 = 0.045, somewhat more by blocks.
            assert!((0.8..1.3).contains(&unevenness), "{blocks}: {unevenness}");
            // The last 236 starts and the first of the data set.
            let last = counts.last().copied().unwrap_or_default();
            assert!((40..=125).contains(&last), "{blocks}: {last}");
        }
    }

    #[test]
    fn a_round_touches_few_blocks_and_says_which() {
        let data = spec(1000 * BLOCK_TOKENS as u64);
        let order = Order::new(SEED, &data, 256, BLOCKS_PER_ROUND).unwrap();
        let mut seen = BTreeSet::new();
        for worker in 0..20 {
            let blocks = order.blocks(5, worker, 20, 8).unwrap();
            assert!(blocks.len() <= 2 * BLOCKS_PER_ROUND as usize, "{}", blocks.len());
            for step in 0..20 {
                for start in order.batch(5, worker, step, 8).unwrap() {
                    assert!(data.blocks_of(start, 256).unwrap().all(|index| blocks.contains(&index)));
                }
            }
            seen.extend(blocks);
        }
        // Other workers have other blocks.
        assert!(seen.len() > 120, "{}", seen.len());
        // A small data set is drawn from as a whole.
        let small = Order::new(SEED, &spec(8 * BLOCK_TOKENS as u64), 64, 8).unwrap();
        assert_eq!(small.dealt, 0);
        assert_eq!(small.blocks(0, 0, 100, 8).unwrap().len(), 8);
    }

    #[test]
    fn rounds_workers_steps_and_seeds_differ() {
        for blocks in [0, 3] {
            let data = spec(1 << 20);
            let order = |seed| Order::new(seed, &data, 64, blocks).unwrap();
            let mut seen = BTreeSet::new();
            for (round, worker, step) in (0..64).map(|n| (n & 3, n as u32 >> 2 & 3, n as u32 >> 4)) {
                assert!(seen.insert(order(SEED).batch(round, worker, step, 4).unwrap()));
            }
            assert!(seen.insert(order([8; 32]).batch(0, 0, 0, 4).unwrap()));
            // A longer batch begins like a shorter one.
            assert_eq!(order(SEED).batch(0, 0, 0, 8).unwrap()[..4], order(SEED).batch(0, 0, 0, 4).unwrap());
        }
    }

    #[test]
    fn bad_sizes_are_refused() {
        assert!(matches!(Order::new(SEED, &spec(64), 64, 0), Err(DataError::Start { .. })));
        assert!(matches!(Order::new(SEED, &spec(1), 64, 0), Err(DataError::Size { .. })));
        let one = Order::new(SEED, &spec(65), 64, 0).unwrap();
        assert_eq!(one.batch(0, 0, 0, 2).unwrap(), [0, 0]);
        assert_eq!(one.batch(0, 0, 0, 0), Err(DataError::Batch { sequences: 0 }));
        assert!(one.batch(0, 0, 0, MAX_BATCH + 1).is_err());
        assert!(evenly(&spec(64), 64, 1, 1).is_err());
    }

    proptest! {
        #[test]
        fn validation_is_spread_without_overlaps(
            tokens in 2..100_000_u64,
            length in 1..512_usize,
            count in 0..200_usize,
        ) {
            prop_assume!(tokens > length as u64);
            let starts = evenly(&spec(tokens), length, count, 1).unwrap();
            prop_assert!(!starts.is_empty() && starts.len() <= count.max(1));
            prop_assert_eq!(starts[0], 0);
            for pair in starts.windows(2) {
                prop_assert!(pair[1] - pair[0] >= length as u64);
            }
            let last = starts[starts.len() - 1];
            prop_assert!(last + (length as u64) < tokens);
            if starts.len() > 1 {
                prop_assert_eq!(last + length as u64 + 1, tokens);
            }
        }
    }
}
