//! Why a run's parameters cannot be derived again.

use super::MAX_ROUND_BYTES;
use crate::error::HostError;
use potluck_train::data::DataError;
use potluck_types::BlobHash;

/// Why a run's parameters cannot be derived again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeriveError {
    /// Another number of parameters than the model has.
    #[error("{found} parameters for a model of {expected}: give those that the run started from")]
    Parameters {
        /// How many there are.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// A round that does not follow the one before.
    #[error(
        "round {round} starts from parameters {named}; what was derived is before round {next} and has {found}"
    )]
    Chain {
        /// The round.
        round: u64,
        /// The round that would be next.
        next: u64,
        /// Where it starts, by the log.
        named: BlobHash,
        /// What was derived.
        found: BlobHash,
    },
    /// The updates lead elsewhere.
    #[error("round {round}: its updates lead to parameters {found}, the log names {named}")]
    After {
        /// The round.
        round: u64,
        /// By the log.
        named: BlobHash,
        /// What was derived.
        found: BlobHash,
    },
    /// The parameters are right, but not what leads to them.
    #[error("round {round}: the parameters are right, but the log names another step or checkpoint for them")]
    Blobs {
        /// The round.
        round: u64,
    },
    /// In no way can the round be closed.
    #[error("round {round}: neither the step of its updates nor none at all gives parameters within range")]
    NoStep {
        /// The round.
        round: u64,
    },
    /// Another number of results than updates.
    #[error("round {round}: {found} results for {expected} updates")]
    Count {
        /// The round.
        round: u64,
        /// Results that were given.
        found: usize,
        /// Updates that counted.
        expected: usize,
    },
    /// An update that is not what the log names.
    #[error("round {round}, worker {worker}: the update cannot be used: {problem}")]
    Update {
        /// The round.
        round: u64,
        /// The worker.
        worker: u32,
        /// What is wrong.
        problem: String,
    },
    /// More than is held at once.
    #[error("round {round}: its updates take {bytes} bytes of memory; the limit is {MAX_ROUND_BYTES}")]
    Memory {
        /// The round.
        round: u64,
        /// What they take.
        bytes: u64,
    },
    /// It is not known which rounds are in an update of codec S.
    #[error(
        "round {round}, worker {worker}: its streak is not known, so that nobody can say which tokens its update has seen: \
         take the round's record from the relay"
    )]
    Streak {
        /// The round.
        round: u64,
        /// The worker.
        worker: u32,
    },
    /// Workers of codec S keep what is not sent: their steps cannot be taken again from elsewhere.
    #[error(
        "workers of this run keep what they did not send: their steps cannot be taken again; rebuild as logged"
    )]
    Sparse,
    /// A range of tokens that is none.
    #[error("tokens {from} to {to} are no range of a data set of {tokens} tokens")]
    Range {
        /// The first token.
        from: u64,
        /// The one after the last.
        to: u64,
        /// Tokens that there are.
        tokens: u64,
    },
    /// More is to be left out than anybody lists.
    #[error("{found} volunteers and ranges are to be left out; the limit is {most}")]
    TooMany {
        /// How many.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// The order of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model, the aggregation or the outer step.
    #[error(transparent)]
    Host(#[from] HostError),
}
