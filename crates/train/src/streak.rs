//! Codec S from round to round: what a worker keeps, and how its steps can still be taken again by everybody.
//!
//! A worker of codec S sends 64 of each 4096 values and keeps the rest, and AdamW's moments, for its next round. What
//! it keeps is never sent: it follows from public data. A worker's updates in a row are a *streak*; it begins with
//! nothing kept, and each of its rounds is a function of the round's parameters, the data, and what the worker sent in the
//! rounds of the streak before. An auditor takes all of these rounds again, and after each of them takes out of the
//! error what the worker *did* send. So its error differs from the worker's by rounding and nothing else, although on the
//! border of the 64 largest rounding decides which values are sent. Where an update did not count, nothing was sent, and
//! all of it waits.
//!
//! Streaks end where the number of a round is a multiple of [`streak_rounds`]: what must be taken again is bounded.
//!
//! Values without influence ([`Model::idle`]) are never sent: their gradients are rounding noise, which AdamW turns
//! into full steps, different on each device.

use crate::codec::{CodecError, Feedback, decode_sparse};
use crate::engine::{Engine, Moments, TrainError};
use crate::model::Model;
use crate::round::{Batches, Part, Round, RoundError, Update};
use potluck_types::limits::MAX_STREAK_ROUNDS;
use std::fmt;

/// Values of a [`sketch`].
pub const SKETCH_VALUES: usize = 32;
/// Bytes of a [`sketch`].
pub const SKETCH_BYTES: usize = 4 * SKETCH_VALUES;

/// Memory that a relay spends on the rounds since streaks began: of each the step, a byte a parameter, and what all workers
/// sent.
const MAX_HISTORY_BYTES: u64 = 512 << 20;
/// Rounds of a streak, whatever the model: in fewer, most of what is found is dropped unsent (decision 0013).
const MIN_STREAK_ROUNDS: u64 = 20;

/// Rounds of a streak of a model with so many parameters, in rounds of at most so many workers.
pub fn streak_rounds(parameters: usize, workers: u32) -> u64 {
    let sent = Feedback::SPARSE_CODEC.encoded_len(parameters) as u64;
    let round = sent.saturating_mul(workers.into()).saturating_add(parameters as u64);
    (MAX_HISTORY_BYTES / round.max(1)).clamp(MIN_STREAK_ROUNDS, MAX_STREAK_ROUNDS as u64)
}

/// What a worker keeps between two rounds of a streak. Memory: three values a parameter.
#[derive(Clone, PartialEq)]
pub struct Streak {
    moments: Moments,
    feedback: Feedback,
}

impl fmt::Debug for Streak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streak({} parameters, {} steps)", self.parameters(), self.moments.steps)
    }
}

/// What a round of a streak came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// What the steps changed, values without influence left out.
    pub update: Update,
    /// The update and what waited before: what is encoded.
    pub sum: Vec<f32>,
    moments: Moments,
}

impl Streak {
    /// Nothing is kept yet.
    ///
    /// # Errors
    /// [`CodecError::Parameters`].
    pub fn new(parameters: usize) -> Result<Self, CodecError> {
        let zeros = || vec![0.0; parameters];
        let moments = Moments { first: zeros(), second: zeros(), steps: 0 };
        Ok(Self { moments, feedback: Feedback::sparse(parameters)? })
    }

    /// Parameters of the model that it belongs to.
    pub fn parameters(&self) -> usize {
        self.feedback.error().len()
    }

    /// Where a worker starts a round whose parameters are these: see [`Feedback::ahead`].
    ///
    /// # Errors
    /// [`CodecError::FeedbackLength`].
    pub fn start(&self, parameters: &[f32]) -> Result<Vec<f32>, CodecError> {
        self.feedback.ahead(parameters, Feedback::LOOKAHEAD)
    }

    /// Gives an engine the start of a round, and the optimizer what it remembered.
    ///
    /// # Errors
    /// [`TrainError::Moments`] from an engine that cannot go on; or what the device says.
    pub async fn load<'a, E: Engine>(
        &self,
        part: Part,
        start: &'a [f32],
        engine: &mut E,
    ) -> Result<Round<'a>, RoundError> {
        let round = Round::resume(part, start, self.moments.steps)?;
        engine.resume(start, &self.moments).await?;
        Ok(round)
    }

    /// Takes what is left of a round.
    ///
    /// # Errors
    /// As [`Round::finish`].
    pub async fn finish<E: Engine>(
        &self,
        round: Round<'_>,
        model: Model,
        engine: &mut E,
        data: &impl Batches,
    ) -> Result<Taken, RoundError> {
        let mut update = round.finish(engine, data).await?;
        for idle in model.idle() {
            if let Some(values) = update.delta.get_mut(idle) {
                values.fill(0.0);
            }
        }
        let moments = engine.moments().await?;
        let sum = self
            .feedback
            .sum(&update.delta)
            .map_err(|_| TrainError::Length { found: update.delta.len(), expected: self.parameters() })?;
        Ok(Taken { update, sum, moments })
    }

    /// Encodes what a round came to; also what is kept then.
    ///
    /// # Errors
    /// As [`Codec::encode`](crate::codec::Codec::encode).
    pub fn encode(taken: Taken) -> Result<(Vec<u8>, Self), CodecError> {
        let bytes = Feedback::SPARSE_CODEC.encode(&taken.sum)?;
        let kept = Self::sent(taken, &bytes)?;
        Ok((bytes, kept))
    }

    /// What is kept where nothing of it counted: all of it waits.
    ///
    /// # Errors
    /// As [`Feedback::resume`].
    pub fn unsent(taken: Taken) -> Result<Self, CodecError> {
        let Taken { sum, moments, .. } = taken;
        let feedback = Feedback::resume(Feedback::SPARSE_CODEC, Feedback::SPARSE_DECAY, sum)?;
        Ok(Self { moments, feedback })
    }

    /// The same from what was kept as if these bytes had been sent, up to the rounding of a difference and a sum.
    ///
    /// # Errors
    /// As [`Codec::decode`](crate::codec::Codec::decode).
    pub fn take_back(&self, bytes: &[u8]) -> Result<Self, CodecError> {
        let mut error = self.feedback.error().to_vec();
        for (index, value) in decode_sparse(bytes, error.len())? {
            error[index as usize] += value;
        }
        let feedback = Feedback::resume(Feedback::SPARSE_CODEC, Feedback::SPARSE_DECAY, error)?;
        Ok(Self { moments: self.moments.clone(), feedback })
    }

    /// What is kept by who sent these bytes.
    ///
    /// # Errors
    /// As [`Codec::decode`](crate::codec::Codec::decode).
    pub fn sent(taken: Taken, bytes: &[u8]) -> Result<Self, CodecError> {
        let Taken { sum, moments, .. } = taken;
        let feedback = Feedback::left(Feedback::SPARSE_CODEC, Feedback::SPARSE_DECAY, sum, bytes)?;
        Ok(Self { moments, feedback })
    }
}

/// A few sums of an update's values with random signs, which tell almost as much about how far two updates are apart as the
/// updates would: the bytes of codec S say little of the values that it leaves out.
///
/// Value i adds to sum `h mod 32` with the sign of bit 5 of `h`, its hash (`mix`) under a key of run, round and worker. The
/// distance of two sketches is that of the updates up to a factor of about 1 ± 1/8 (one standard deviation).
/// Source: Charikar, Chen and Farach-Colton, Finding frequent items in data streams, ICALP 2002.
///
/// Determinism: bitwise; sums in f64, in order, rounded to f32.
pub fn sketch(seed: &[u8; 32], round: u64, worker: u32, delta: &[f32]) -> [f32; SKETCH_VALUES] {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("potluck 2026 sketch v1", seed));
    hasher.update(&round.to_le_bytes()).update(&worker.to_le_bytes());
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    let key = u64::from_le_bytes(word);
    let mut sums = [0.0_f64; SKETCH_VALUES];
    for (index, value) in (0_u64..).zip(delta) {
        let hash = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let value = f64::from(*value);
        sums[(hash % SKETCH_VALUES as u64) as usize] += if hash >> 5 & 1 == 0 { value } else { -value };
    }
    sums.map(|sum| sum as f32)
}

/// The finalizer of SplitMix64. Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, salt: u32) -> Vec<f32> {
        let value = |at: u32| (at.wrapping_mul(2_654_435_761) ^ salt).wrapping_mul(0x9e37_79b9) >> 8;
        (0..count as u32).map(|at| value(at) as f32 / 8_388_608.0 - 1.0).collect()
    }

    fn norm(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
    }

    #[test]
    fn a_sketch_tells_how_far_two_updates_are_apart() {
        let update = values(20_000, 1);
        for (round, salt) in (0..40).zip(2..) {
            let noise = values(20_000, salt);
            let other: Vec<f32> =
                update.iter().zip(noise).map(|(value, noise)| value + 1e-3 * noise).collect();
            let apart = norm(update.iter().zip(&other).map(|(a, b)| a - b));
            let sketches = [&update, &other].map(|update| sketch(&[7; 32], round, 3, update));
            let told = norm(sketches[0].iter().zip(sketches[1]).map(|(a, b)| a - b));
            // Four standard deviations.
            assert!((0.5..1.5).contains(&(told / apart)), "{told} {apart}");
        }
    }

    #[test]
    fn sketches_are_frozen_and_differ_between_workers() {
        let update = values(1000, 5);
        let of = |seed, round, worker| sketch(&[seed; 32], round, worker, &update).map(f32::to_bits);
        let first = of(1, 2, 3);
        for other in [of(2, 2, 3), of(1, 3, 3), of(1, 2, 4)] {
            assert_ne!(first, other);
        }
        let mut hasher = blake3::Hasher::new();
        for bits in first {
            hasher.update(&bits.to_le_bytes());
        }
        assert_eq!(hasher.finalize().to_hex()[..16], *"f34b1f9fcaa07090");
        assert_eq!(sketch(&[1; 32], 2, 3, &[]).map(f32::to_bits), [0; SKETCH_VALUES]);
    }

    #[test]
    fn streaks_of_large_models_and_crowds_are_shorter() {
        let rounds = |workers| [0, 156_160, 804_096, 10_650_000].map(|count| streak_rounds(count, workers));
        assert_eq!(rounds(8), [100, 100, 100, 41]);
        assert_eq!(rounds(256), [100, 100, 80, MIN_STREAK_ROUNDS]);
    }
}
