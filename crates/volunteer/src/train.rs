//! Parts of training rounds: what adapters do with [`Workload::Train`](crate::Workload::Train). [`Prepared`] checks a
//! task and its inputs, [`TrainRun`] takes one inner step at a time, so that an adapter can rest, stop and hear messages
//! between two of them.

use crate::io::Failure;
pub use potluck_rounds::Reference;
pub use potluck_rounds::work::{Finished, Plan, Prepared, Progress, TaskError, TrainRun};
use potluck_train::TrainError;

impl From<&TaskError> for Failure {
    /// What the engine has to know of it.
    fn from(error: &TaskError) -> Self {
        match error {
            TaskError::Train(TrainError::Device(_)) => Self::DeviceLost,
            _ => Self::BadTask,
        }
    }
}
