//! What a volunteer does: a forward pass at a time, so that its program can rest, stop and answer between two.

use crate::EvalError;
use crate::answers::MAX_NATS;
use crate::items::{Item, Items};
use potluck_train::TrainError;
use potluck_train::gpt::{CpuGpt, GptConfig, Layout};

/// Reads parameters: 4 bytes each, little-endian, in the order of [`Layout`], nothing else.
///
/// # Errors
/// [`EvalError::Model`] for sizes that make no model, [`EvalError::Parameters`] for another length,
/// [`EvalError::NotFinite`] for a parameter that is NaN or infinite.
pub fn parameters(bytes: &[u8], config: &GptConfig) -> Result<Vec<f32>, EvalError> {
    config.check()?;
    let expected = 4 * Layout::new(config).parameters();
    if bytes.len() != expected {
        return Err(EvalError::Parameters { found: bytes.len(), expected });
    }
    let values: Vec<_> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    finite(&values)?;
    Ok(values)
}

fn finite(parameters: &[f32]) -> Result<(), EvalError> {
    match parameters.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(EvalError::NotFinite { index }),
        None => Ok(()),
    }
}

/// A model with these parameters.
pub(crate) fn model(config: &GptConfig, parameters: &[f32]) -> Result<CpuGpt, EvalError> {
    finite(parameters)?;
    let mut model = CpuGpt::new(*config)?;
    model.take(parameters)?;
    Ok(model)
}

/// What the engine says about an item.
pub(crate) fn said(item: usize, error: TrainError) -> EvalError {
    match error {
        TrainError::NotFinite { .. } => EvalError::Diverged { item },
        error => EvalError::Model(error),
    }
}

/// Nats as millionths; `None` for what cannot be counted.
pub(crate) fn micro_nats(nats: f64, tokens: usize) -> Option<i64> {
    (nats.is_finite() && nats <= MAX_NATS * tokens as f64).then(|| (nats.max(0.0) * 1e6).round() as i64)
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Forward passes that were made.
    pub passes: u64,
    /// Forward passes in all.
    pub of: u64,
}

/// An evaluation at work.
///
/// Memory: [`Items::memory_bytes`].
///
/// Determinism: as [`CpuGpt`]: machines of a kind give the same bytes, and others give nearly the same.
pub struct Evaluation {
    model: CpuGpt,
    items: Items,
    /// The item at work.
    at: usize,
    /// What the model sees next, of a prompt and its continuation.
    seen: Vec<u32>,
    /// Tokens generated for the item.
    written: usize,
    result: Vec<u8>,
    progress: Progress,
}

impl Evaluation {
    /// Begins. Nothing is computed yet.
    ///
    /// # Errors
    /// As [`Items::check`]; [`EvalError::NotFinite`]; [`EvalError::Model`] for parameters of another model.
    pub fn new(config: &GptConfig, parameters: &[f32], items: Items) -> Result<Self, EvalError> {
        items.check(config)?;
        let progress = Progress { passes: 0, of: items.passes() };
        let model = model(config, parameters)?;
        let result = Vec::with_capacity(items.result_bytes());
        Ok(Self { model, items, at: 0, seen: Vec::new(), written: 0, result, progress })
    }

    /// Makes one forward pass; none if all are made.
    ///
    /// # Errors
    /// [`EvalError::Diverged`] where the model gives no numbers, [`EvalError::Model`] where it takes more memory than
    /// [`potluck_train::gpt::MAX_STEP_BYTES`]. Another call gives the same error.
    pub fn step(&mut self) -> Result<Progress, EvalError> {
        let Self { model, items, at, seen, written, result, progress } = self;
        let Some(item) = items.items().get(*at) else { return Ok(*progress) };
        let finished = match item {
            Item::Score { tokens, from } => {
                let losses = model.losses(tokens, *from).map_err(|error| said(*at, error))?;
                let sum = micro_nats(losses.iter().sum(), losses.len());
                result.extend(sum.ok_or(EvalError::Diverged { item: *at })?.to_le_bytes());
                true
            }
            Item::Generate { prompt, count, sampling } => {
                let context = model.config().context;
                if *written == 0 {
                    seen.clear();
                    seen.extend(prompt.iter().skip(prompt.len().saturating_sub(context)));
                }
                let logits = model.logits(seen).map_err(|error| said(*at, error))?;
                let token = sampling.draw(&logits, *written as u64).map_err(|error| said(*at, error))?;
                result.extend(token.to_le_bytes());
                if seen.len() == context {
                    seen.remove(0);
                }
                seen.push(token);
                *written += 1;
                written == count
            }
        };
        if finished {
            (*at, *written) = (*at + 1, 0);
        }
        progress.passes += 1;
        Ok(*progress)
    }

    /// How far it is.
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether all passes are made.
    pub const fn done(&self) -> bool {
        self.progress.passes >= self.progress.of
    }

    /// The result: [`Items::result_bytes`] bytes.
    ///
    /// # Errors
    /// [`EvalError::Unfinished`].
    pub fn finish(self) -> Result<Vec<u8>, EvalError> {
        if self.done() {
            Ok(self.result)
        } else {
            Err(EvalError::Unfinished { left: self.progress.of - self.progress.passes })
        }
    }

    /// Makes all passes at once, for callers that need no rest.
    ///
    /// # Errors
    /// As [`Evaluation::step`].
    pub fn run(mut self) -> Result<Vec<u8>, EvalError> {
        while !self.done() {
            self.step()?;
        }
        self.finish()
    }
}
