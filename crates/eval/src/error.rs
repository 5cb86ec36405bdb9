//! Why items cannot be run or answers not be read, and what to do.

use potluck_train::TrainError;

/// Why an evaluation cannot go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Bytes that are no list of items.
    #[error(
        "byte {position} of the items: expected {expected}; they were damaged, or a newer version wrote them"
    )]
    Encoding {
        /// Bytes before it.
        position: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// Too many of something.
    #[error("{found} {what} are outside 1..={most}: cut the items into more shards")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// An item that the model cannot run.
    #[error("item {item}: {why}")]
    Item {
        /// Its number, from 0.
        item: usize,
        /// What is wrong, and what works.
        why: &'static str,
    },
    /// Parameters of another length than the model has.
    #[error("{found} bytes of parameters for a model of {expected}: they belong to another model")]
    Parameters {
        /// Bytes given.
        found: usize,
        /// Bytes that it has: four for each parameter.
        expected: usize,
    },
    /// A parameter is NaN or infinite: the candidate is broken, and nothing can be said about it.
    #[error("parameter {index} is not a finite number: the candidate is broken")]
    NotFinite {
        /// Its place in the flat vector.
        index: usize,
    },
    /// The model's numbers leave what can be counted: the candidate is broken, and nothing can be said about it.
    #[error("item {item}: the model gives numbers that are not finite, or a loss beyond all bounds")]
    Diverged {
        /// The item.
        item: usize,
    },
    /// The result was asked for before the last pass.
    #[error("{left} forward passes are left: run them first")]
    Unfinished {
        /// Forward passes that are left.
        left: u64,
    },
    /// A result of another length than the items have.
    #[error("a result of {found} bytes instead of {expected}: it belongs to other items, or is cut off")]
    Answers {
        /// Bytes given.
        found: usize,
        /// Bytes that the items' answers take.
        expected: usize,
    },
    /// An answer that no model gives.
    #[error("the answer to item {item}: {why}")]
    Answer {
        /// The item.
        item: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// There is no such item.
    #[error("there is no item {item}: there are {items}")]
    NoItem {
        /// Asked for.
        item: usize,
        /// Items that there are.
        items: usize,
    },
    /// The model's sizes or what the engine says.
    #[error(transparent)]
    Model(#[from] TrainError),
}
