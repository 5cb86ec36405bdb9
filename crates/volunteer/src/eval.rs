//! Shards of evals: what adapters do with [`Workload::Eval`](crate::Workload::Eval). [`prepare`] checks a task and its
//! inputs, and gives an [`Evaluation`] that makes one forward pass at a time, so that an adapter can rest, stop and hear
//! messages between two of them.

use crate::io::Failure;
pub use potluck_eval::Evaluation;
use potluck_eval::{EvalError, Items, parameters};
use potluck_proto::EvalTask;
use potluck_rounds::sizes;
use potluck_train::{Model, TrainError};

/// An evaluation of a task.
///
/// # Errors
/// Inputs that are not what the task says, or a model that cannot be asked: only text models can.
pub fn prepare(task: &EvalTask, values: &[u8], items: &[u8]) -> Result<Evaluation, EvalError> {
    let Model::Gpt(config) = sizes::model(&task.model) else {
        return Err(EvalError::Model(TrainError::Missing("answers of a model that writes no text")));
    };
    let values = parameters(values, &config)?;
    let items = Items::decode(items, &config)?;
    let (found, expected) = (task.result_bytes as usize, items.result_bytes());
    if found != expected {
        return Err(EvalError::Answers { found, expected });
    }
    Evaluation::new(&config, &values, items)
}

impl From<&EvalError> for Failure {
    /// What the engine has to know of it.
    fn from(_: &EvalError) -> Self {
        Self::BadTask
    }
}
