//! Replay: a worker's steps, repeated, against what it committed to.
//!
//! With codec S the rounds of the worker's streak are repeated one after the other: [`again`] takes the steps of one,
//! [`judge`] compares, and [`Streak::sent`] says what the worker kept, if what it sent is right.

use crate::allowed::{Allowed, Way};
use crate::opening::nearest;
use crate::reference::{Reference, now};
use crate::work::{Plan, Repeated, TaskError};
use potluck_train::gpt::Tensor;
use potluck_train::round::{Batches, Part, Round, Update};
use potluck_train::streak::{SKETCH_VALUES, Streak, Taken};
use potluck_verify::{ReplayError, ReplayReport, Tolerances, compare};

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Its figures, or why the committed bytes are no update at all.
    pub report: Result<ReplayReport, String>,
    /// What they were allowed to be.
    pub allowed: Allowed,
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
pub fn judge(
    plan: &Plan,
    part: Part,
    repeated: &Repeated,
    result: &[u8],
    allowed: &Allowed,
) -> Result<Judgement, ReplayError> {
    let refuted = |cause: String, bytes| Ok(Judgement { report: Err(cause), allowed: *allowed, bytes });
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
        let within = deviation <= allowed.sketch;
        if !within {
            let cause = format!(
                "by its sketch, the update deviates by about {deviation:.2e} of its norm, tolerance {:.0e}",
                allowed.sketch
            );
            return refuted(cause, bytes);
        }
    }
    let claimed = match nearest(codec, encoded, ours) {
        Ok(claimed) => claimed,
        Err(cause) => return refuted(format!("the committed update is none: {cause}"), bytes),
    };
    let report = report(plan, claimed, &losses, repeated, &allowed.report)?;
    Ok(Judgement { report: Ok(report), allowed: *allowed, bytes })
}

/// The figures of a claimed raw update.
pub(crate) fn report(
    plan: &Plan,
    mut claimed: Vec<f32>,
    losses: &[f32],
    repeated: &Repeated,
    tolerances: &Tolerances,
) -> Result<ReplayReport, ReplayError> {
    let (model, ours) = (plan.model(), repeated.encoded());
    for idle in model.idle() {
        if let (Some(claimed), Some(ours)) = (claimed.get_mut(idle.clone()), ours.get(idle)) {
            claimed.copy_from_slice(ours);
        }
    }
    let tensors: Vec<_> = model.tensors().iter().map(Tensor::range).collect();
    compare(&claimed, ours, &tensors, losses, &repeated.update().losses, tolerances)
}

/// Distance of two sketches, relative to the second.
pub(crate) fn apart(claimed: &[f32], ours: &[f32; SKETCH_VALUES]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let distance = norm(&mut claimed.iter().zip(ours).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    if distance == 0.0 { 0.0 } else { distance / norm(&mut ours.iter().map(|value| f64::from(*value))) }
}

/// Takes a worker's steps again, on the CPU, without a pause.
///
/// # Errors
/// What the engine or the data say.
pub fn repeat(plan: &Plan, parameters: &[f32], data: &impl Batches, way: Way) -> Result<Update, TaskError> {
    let mut engine = Reference::new(plan.model())?;
    let start = way.start(parameters);
    let update = now(async {
        let round = Round::start(plan.part(), &start, &mut engine).await?;
        round.finish(&mut engine, &way.batches(data)).await
    });
    Ok(update?)
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
    way: Way,
) -> Result<Taken, TaskError> {
    let mut engine = Reference::new(plan.model())?;
    let start = kept.start(parameters)?;
    let start = way.start(&start);
    let taken = now(async {
        let round = kept.load(part, &start, &mut engine).await?;
        kept.finish(round, plan.model(), &mut engine, &way.batches(data)).await
    });
    Ok(taken?)
}
