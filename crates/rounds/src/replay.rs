//! Replay: a worker's steps, repeated, against what it committed to.

use crate::opening::nearest;
use crate::reference::{Reference, now};
use crate::work::{Plan, TaskError};
use potluck_train::codec::Codec;
use potluck_train::gpt::Tensor;
use potluck_train::round::{Batches, Round, Update};
use potluck_verify::{ReplayError, ReplayReport, Tolerances, compare};

/// Tolerances for updates whose codec leaves something open.
///
/// What an honest volunteer's own rounding changes stays mostly within the step of a code, and [`nearest`] takes it for
/// right; so does it take most of what coarse arithmetic changes. What is left of either is about thirty times less than
/// in f32, so the tolerances are ten times tighter.
pub const LOSSY: Tolerances = Tolerances { whole: 1e-4, tensor: 1e-3, tensor_floor: 1e-3, loss: 1e-3 };

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

/// A result in two: losses, encoded update. `None` for bytes of another length.
pub fn split<'a>(plan: &Plan, result: &'a [u8]) -> Option<(Vec<f32>, &'a [u8])> {
    let losses = 4 * plan.part().steps as usize;
    if result.len() as u64 != plan.result_bytes() {
        return None;
    }
    let (losses, update) = result.split_at(losses);
    Some((losses.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect(), update))
}

/// Compares a result with a replay of the same task.
///
/// Values that have no influence are not compared: see [`potluck_train::Model::idle`].
///
/// # Errors
/// The replay's fault: another task's, or not finite.
pub fn judge(plan: &Plan, replayed: &Update, result: &[u8]) -> Result<Judgement, ReplayError> {
    let Some((losses, encoded)) = split(plan, result) else {
        let (found, expected) = (result.len(), plan.result_bytes());
        let report = Err(format!("the committed result has {found} bytes instead of {expected}"));
        return Ok(Judgement { report, bytes: None });
    };
    let codec = plan.codec();
    let bytes = codec.encode(&replayed.delta).ok().map(|bytes| {
        let equal = bytes.iter().zip(encoded).filter(|(ours, theirs)| ours == theirs).count();
        (equal, bytes.len())
    });
    let mut claimed = match nearest(codec, encoded, &replayed.delta) {
        Ok(claimed) => claimed,
        Err(cause) => {
            return Ok(Judgement { report: Err(format!("the committed update is none: {cause}")), bytes });
        }
    };
    let model = plan.model();
    for idle in model.idle() {
        if let (Some(claimed), Some(replayed)) = (claimed.get_mut(idle.clone()), replayed.delta.get(idle)) {
            claimed.copy_from_slice(replayed);
        }
    }
    let tensors: Vec<_> = model.tensors().iter().map(Tensor::range).collect();
    let report = compare(&claimed, &replayed.delta, &tensors, &losses, &replayed.losses, &tolerances(codec))?;
    Ok(Judgement { report: Ok(report), bytes })
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
