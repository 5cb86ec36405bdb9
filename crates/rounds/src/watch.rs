//! Losses on the validation data: one that everybody may know, and one on windows that nobody knows, for the gate.

use crate::error::HostError;
use crate::reference::{Reference, now};
use potluck_train::data::{DataSet, evenly};
use potluck_train::{Batch, Engine as _, Model};
use std::sync::Arc;

/// Tokens of the windows that the known loss is the mean of.
const KNOWN_TOKENS: usize = 4096;
/// Tokens of the windows that only the relay knows.
const SECRET_TOKENS: usize = 2048;
/// Tokens of a batch: few enough for its activations to stay in a cache.
const BATCH_TOKENS: usize = 1024;
/// Rounds after which other windows are drawn.
const ROTATE_EVERY: u64 = 20;

/// What losses are measured on.
#[derive(Debug)]
pub(crate) struct Watch {
    model: Model,
    data: Arc<DataSet>,
    length: usize,
    known: Vec<Batch>,
    secret: [u8; 32],
}

impl Watch {
    /// # Errors
    /// Data that hold no window of this length.
    pub(crate) fn new(
        model: Model,
        data: &Arc<DataSet>,
        length: usize,
        secret: [u8; 32],
    ) -> Result<Self, HostError> {
        let starts = evenly(data.spec(), length, (KNOWN_TOKENS / length).max(1), model.record())?;
        let known = batches(data, &starts, length)?;
        Ok(Self { model, data: Arc::clone(data), length, known, secret })
    }

    /// The loss that everybody may know.
    ///
    /// # Errors
    /// [`HostError::NotFinite`].
    pub(crate) fn loss(&self, parameters: &[f32]) -> Result<f64, HostError> {
        mean(self.model, parameters, &self.known)
    }

    /// The loss on the windows that are drawn for a round.
    ///
    /// # Errors
    /// [`HostError::NotFinite`].
    pub(crate) fn secret_loss(&self, parameters: &[f32], round: u64) -> Result<f64, HostError> {
        let key = blake3::derive_key("potluck 2026 windows of the gate v1", &self.secret);
        let mut words = blake3::Hasher::new_keyed(&key).update(&epoch(round).to_le_bytes()).finalize_xof();
        // Every window needs one more token, the one that follows it.
        let record = self.model.record() as u64;
        let room = (self.data.spec().tokens - self.length as u64).div_ceil(record);
        let starts = std::iter::repeat_with(|| {
            let mut word = [0; 8];
            words.fill(&mut word);
            u64::from_le_bytes(word) % room * record
        });
        let starts: Vec<u64> = starts.take((SECRET_TOKENS / self.length).max(1)).collect();
        mean(self.model, parameters, &batches(&self.data, &starts, self.length)?)
    }

    /// Whether other windows are drawn for the round after this one.
    #[expect(clippy::unused_self, reason = "how windows rotate is the watch's business")]
    pub(crate) const fn rotates_after(&self, round: u64) -> bool {
        epoch(round) != epoch(round + 1)
    }
}

const fn epoch(round: u64) -> u64 {
    round / ROTATE_EVERY
}

fn batches(data: &DataSet, starts: &[u64], length: usize) -> Result<Vec<Batch>, HostError> {
    let windows = (BATCH_TOKENS / length).max(1);
    Ok(starts.chunks(windows).map(|starts| data.batch(starts, length)).collect::<Result<_, _>>()?)
}

fn mean(model: Model, parameters: &[f32], batches: &[Batch]) -> Result<f64, HostError> {
    let mut engine = Reference::new(model)?;
    now(engine.load(parameters))?;
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        sum += f64::from(now(engine.loss(batch))?) * batch.inputs.len() as f64;
        tokens += batch.inputs.len();
    }
    let loss = sum / tokens.max(1) as f64;
    if loss.is_finite() { Ok(loss) } else { Err(HostError::NotFinite { loss }) }
}
