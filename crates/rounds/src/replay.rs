//! Replay: a worker's steps, repeated, against what it committed to.
//!
//! With codec S the rounds of the worker's streak are repeated one after the other: [`again`] takes the steps of one,
//! [`judge`] compares, and [`Streak::sent`] says what the worker kept, if what it sent is right.

use crate::opening::nearest;
use crate::reference::{Reference, now};
use crate::work::{Plan, Repeated, TaskError};
use potluck_train::Batch;
use potluck_train::codec::Codec;
use potluck_train::data::DataError;
use potluck_train::gpt::Tensor;
use potluck_train::round::{Batches, Part, Round, Update};
use potluck_train::streak::{SKETCH_VALUES, Streak, Taken};
use potluck_verify::{ReplayError, ReplayReport, Tolerances, compare};

/// Tolerances for updates whose codec leaves something open.
///
/// What an honest volunteer's own rounding changes stays mostly within the step of a code, and [`nearest`] takes it for
/// right; so does it take most of what coarse arithmetic changes. What is left of either is about thirty times less than
/// in f32, so the tolerances are ten times tighter.
pub const LOSSY: Tolerances = Tolerances { whole: 1e-4, tensor: 1e-3, tensor_floor: 1e-3, loss: 1e-3 };

/// By how much a sketch may deviate: an update in f32 may as much.
const SKETCHED: f64 = 1e-3;

/// The tolerances for a codec.
pub fn tolerances(codec: Codec) -> Tolerances {
    if codec == Codec::F32 { Tolerances::default() } else { LOSSY }
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Its figures, or why the committed bytes are no update at all.
    pub report: Result<ReplayReport, String>,
    /// Bytes of the encoded update, and how many of them encoding the replay gives too.
    pub bytes: Option<(usize, usize)>,
}

impl Judgement {
    /// Whether the claim stands.
    pub fn confirmed(&self) -> bool {
        self.report.as_ref().is_ok_and(ReplayReport::confirmed)
    }
}

/// The parts of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts<'a> {
    /// Loss of each step.
    pub losses: Vec<f32>,
    /// With codec S, the sketch of the update.
    pub sketch: Vec<f32>,
    /// The encoded update.
    pub encoded: &'a [u8],
}

/// The parts of a result. `None` for bytes of another length.
pub fn split<'a>(plan: &Plan, result: &'a [u8]) -> Option<Parts<'a>> {
    if result.len() as u64 != plan.result_bytes() {
        return None;
    }
    let (head, encoded) = result.split_at(plan.head_bytes());
    let mut losses: Vec<f32> = head.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let sketch = losses.split_off(plan.part().steps as usize);
    Some(Parts { losses, sketch, encoded })
}

/// Compares a result with a replay of the same steps. Of codec S both what is sent and the sketch have to be right.
///
/// Values that have no influence are not compared: see [`potluck_train::Model::idle`].
///
/// # Errors
/// The replay's fault: another task's, or not finite.
pub fn judge(plan: &Plan, part: Part, repeated: &Repeated, result: &[u8]) -> Result<Judgement, ReplayError> {
    let refuted = |cause: String, bytes| Ok(Judgement { report: Err(cause), bytes });
    let Some(Parts { losses, sketch, encoded }) = split(plan, result) else {
        let (found, expected) = (result.len(), plan.result_bytes());
        return refuted(format!("the committed result has {found} bytes instead of {expected}"), None);
    };
    let (codec, update, ours) = (plan.codec(), repeated.update(), repeated.encoded());
    let bytes = codec.encode(ours).ok().map(|bytes| {
        let equal = bytes.iter().zip(encoded).filter(|(ours, theirs)| ours == theirs).count();
        (equal, bytes.len())
    });
    if let Repeated::Sparse(_) = repeated {
        let deviation = apart(&sketch, &plan.sketch(part, update));
        // NaN is within nothing.
        let within = deviation <= SKETCHED;
        if !within {
            let cause = format!(
                "by its sketch, the update deviates by about {deviation:.2e} of its norm, tolerance {SKETCHED:.0e}"
            );
            return refuted(cause, bytes);
        }
    }
    let mut claimed = match nearest(codec, encoded, ours) {
        Ok(claimed) => claimed,
        Err(cause) => return refuted(format!("the committed update is none: {cause}"), bytes),
    };
    let model = plan.model();
    for idle in model.idle() {
        if let (Some(claimed), Some(ours)) = (claimed.get_mut(idle.clone()), ours.get(idle)) {
            claimed.copy_from_slice(ours);
        }
    }
    let tensors: Vec<_> = model.tensors().iter().map(Tensor::range).collect();
    let report = compare(&claimed, ours, &tensors, &losses, &update.losses, &tolerances(codec))?;
    Ok(Judgement { report: Ok(report), bytes })
}

/// Distance of two sketches, relative to the second.
fn apart(claimed: &[f32], ours: &[f32; SKETCH_VALUES]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let distance = norm(&mut claimed.iter().zip(ours).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    if distance == 0.0 { 0.0 } else { distance / norm(&mut ours.iter().map(|value| f64::from(*value))) }
}

/// Takes a worker's steps again, on the CPU, without a pause.
///
/// # Errors
/// What the engine or the data say.
pub fn repeat(plan: &Plan, parameters: &[f32], data: &impl Batches) -> Result<Update, TaskError> {
    let mut engine = Reference::new(plan.model())?;
    let update = now(async {
        let round = Round::start(plan.part(), parameters, &mut engine).await?;
        round.finish(&mut engine, data).await
    });
    Ok(update?)
}

/// Batches with their rows in reverse: the same losses and gradients, added up in another order.
///
/// Whoever is refuted is replayed once more with these: what rounding alone makes of an update that a first replay missed
/// would have to deceive both alike.
#[derive(Debug, Clone, Copy)]
pub struct Reversed<'a, B>(pub &'a B);

impl<B: Batches> Batches for Reversed<'_, B> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        let reversed: Vec<u64> = starts.iter().rev().copied().collect();
        self.0.batch(&reversed, length)
    }
}

/// Takes the steps of a round of a streak again, on the CPU, without a pause: `part` says which round and worker.
///
/// # Errors
/// What the engine or the data say.
pub fn again(
    plan: &Plan,
    part: Part,
    kept: &Streak,
    parameters: &[f32],
    data: &impl Batches,
) -> Result<Taken, TaskError> {
    let mut engine = Reference::new(plan.model())?;
    let start = kept.start(parameters)?;
    let taken = now(async {
        let round = kept.load(part, &start, &mut engine).await?;
        kept.finish(round, plan.model(), &mut engine, data).await
    });
    Ok(taken?)
}
