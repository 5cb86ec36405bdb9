//! What a task needs before it runs, and what has to come out: all of it checked before anything is fetched.

use crate::io::{TrainInputs, Workload};
use crate::train::Plan;
use potluck_proto::{BlobRef, EvalTask, MatmulTask, ModelSpec, Task, TrainTask};
use potluck_rounds::sizes;
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use potluck_types::limits::{MAX_BLOB_BYTES, MAX_CHECKPOINT_BYTES, MAX_EVAL_RESULT_BYTES};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a task needs, and what has to come out.
#[derive(Debug)]
pub(crate) struct Needs {
    /// Blobs to fetch, of at most [`MAX_BLOB_BYTES`] each, or [`MAX_CHECKPOINT_BYTES`] for a round or an eval.
    pub(crate) inputs: Vec<BlobRef>,
    /// Length of the result.
    pub(crate) result_bytes: u64,
    /// Floating-point operations, for statistics.
    pub(crate) flops: u64,
}

impl Needs {
    /// `None` for a task that makes no sense or does not fit into so much memory.
    pub(crate) fn of(task: &Task, memory_bytes: u64) -> Option<Self> {
        let ((needs, memory), largest) = match task {
            Task::Matmul(task) => (tile(task)?, MAX_BLOB_BYTES),
            Task::Train(task) => (round(task)?, MAX_CHECKPOINT_BYTES),
            Task::Eval(task) => (shard(task)?, MAX_CHECKPOINT_BYTES),
        };
        let small = needs.inputs.iter().all(|input| (1..=largest as u64).contains(&input.bytes));
        (small && needs.result_bytes <= MAX_BLOB_BYTES as u64 && memory <= memory_bytes).then_some(needs)
    }
}

/// Needs of a tile and its memory, if panels and shape agree.
fn tile(task: &MatmulTask) -> Option<(Needs, u64)> {
    let (rows, cols, depth) = (u64::from(task.rows), u64::from(task.cols), u64::from(task.depth));
    let element = task.dtype.operand_bytes() as u64;
    let size = |count: u64| count.checked_mul(depth)?.checked_mul(element).filter(|size| *size > 0);
    let stacked =
        |panels: &[BlobRef]| panels.iter().try_fold(0_u64, |sum, panel| sum.checked_add(panel.bytes));
    let (a, bt) = (size(rows)?, size(cols)?);
    if stacked(&task.a) != Some(a) || stacked(&task.bt) != Some(bt) {
        return None;
    }
    let result_bytes = rows.checked_mul(cols)?.checked_mul(task.dtype.result_bytes() as u64)?;
    let memory = a.checked_add(bt)?.checked_add(result_bytes)?;
    let flops = rows.saturating_mul(cols).saturating_mul(depth).saturating_mul(2);
    let inputs = task.a.iter().chain(&task.bt).copied().collect();
    Some((Needs { inputs, result_bytes, flops }, memory))
}

/// Needs of a part of a round and its memory, if sizes and inputs agree.
fn round(task: &TrainTask) -> Option<(Needs, u64)> {
    let plan = Plan::of(task).ok()?;
    let blocks = task.blocks.iter().map(|block| &block.blob);
    let inputs: Vec<_> =
        std::iter::once(&task.checkpoint).chain(&task.outer_steps).chain(blocks).copied().collect();
    let fetched = inputs.iter().try_fold(0_u64, |sum, input| sum.checked_add(input.bytes))?;
    let memory = fetched.checked_add(plan.run_bytes())?;
    Some((Needs { inputs, result_bytes: plan.result_bytes(), flops: plan.flops() }, memory))
}

/// Needs of a shard of an eval and its memory, if model and sizes agree. Parameters are held twice: as they came, and as the
/// model has them.
fn shard(task: &EvalTask) -> Option<(Needs, u64)> {
    let ModelSpec::Gpt(_) = task.model else { return None };
    let model = sizes::model(&task.model);
    model.check().ok()?;
    let fits = task.parameters.bytes == 4 * model.parameters() as u64
        && (1..=MAX_EVAL_RESULT_BYTES as u32).contains(&task.result_bytes);
    let held = task.parameters.bytes.checked_mul(2)?.checked_add(task.items.bytes)?;
    let inputs = vec![task.parameters, task.items];
    let needs = Needs { inputs, result_bytes: task.result_bytes.into(), flops: task.flops };
    fits.then_some((needs, held.max(task.memory_bytes)))
}

/// A task with its inputs.
pub(crate) fn workload(
    task: &Task,
    inputs: &BTreeMap<BlobHash, Arc<Vec<u8>>>,
    kept: Option<Arc<Streak>>,
) -> Workload {
    // A lease runs once all of its inputs are there.
    let one = |blob: &BlobRef| inputs.get(&blob.hash).cloned().unwrap_or_default();
    let all = |blobs: &[BlobRef]| blobs.iter().map(one).collect();
    match task {
        Task::Matmul(task) => Workload::Matmul { task: task.clone(), a: all(&task.a), bt: all(&task.bt) },
        Task::Train(task) => {
            let inputs = TrainInputs {
                checkpoint: one(&task.checkpoint),
                outer_steps: all(&task.outer_steps),
                blocks: task.blocks.iter().map(|block| one(&block.blob)).collect(),
                kept,
            };
            Workload::Train { task: task.clone(), inputs }
        }
        Task::Eval(task) => {
            Workload::Eval { task: *task, parameters: one(&task.parameters), items: one(&task.items) }
        }
    }
}
