//! Why the relay's side of a run does not go on.

use crate::work::TaskError;
use potluck_train::TrainError;
use potluck_train::codec::CodecError;
use potluck_train::data::DataError;
use potluck_train::outer::OuterError;
use potluck_types::limits::MAX_TASK_BLOCKS;
use potluck_verify::{AggregateError, GateError, ScreenError};

/// Why a run cannot begin, or a round not be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Data of another vocabulary than the model's.
    #[error(
        "the {what} data have a vocabulary of {found}, the model of {expected}: use one tokenizer for both"
    )]
    Vocabulary {
        /// Which data.
        what: &'static str,
        /// Their vocabulary.
        found: u32,
        /// The model's.
        expected: u32,
    },
    /// A worker would have to fetch too many blocks.
    #[error(
        "a worker would need up to {blocks} blocks of the data in a round; the limit is {MAX_TASK_BLOCKS}: deal fewer \
         blocks, at most {}", MAX_TASK_BLOCKS / 2
    )]
    Blocks {
        /// Blocks that it would need.
        blocks: u64,
    },
    /// A loss that is not finite.
    #[error("the loss is {loss}: the run diverged; begin again with a lower learning rate")]
    NotFinite {
        /// The loss.
        loss: f64,
    },
    /// Whatever was combined, the loss rose, in several rounds in a row.
    #[error(
        "in {rounds} rounds in a row the loss rose, to {loss:.3} at last, and the step was taken back: begin again with a \
         lower learning rate"
    )]
    Reverted {
        /// Rounds in a row.
        rounds: u32,
        /// The last loss that was tried.
        loss: f64,
    },
    /// A stored state that cannot be used.
    #[error("the stored state of the run cannot be used: {0}")]
    State(&'static str),
    /// An update that was not checked before.
    #[error("the update of worker {worker} has another length than its task says")]
    Unchecked {
        /// Whose.
        worker: u32,
    },
    /// The model, its loss, or the device.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A task that nobody could do.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// An update that is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The outer step.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// Updates of different lengths.
    #[error(transparent)]
    Screen(#[from] ScreenError),
    /// Updates that cannot be combined.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
    /// A loss with which no gate can start.
    #[error(transparent)]
    Gate(#[from] GateError),
}
