//! What an auditor does with a log: read it from its first entry, and derive everything again.
//!
//! The [`Checker`] takes the entries' bytes in the order of their indices. It trusts nothing but them: form, times,
//! transitions, signatures, tallies, gates and opened secrets are checked anew. That the bytes are those of the log is
//! for proofs of inclusion to say.

use crate::canonical::FormError;
use crate::entry::{Body, Entry};
use crate::state::{Refused, State};
use std::collections::BTreeMap;

/// Errors that a report lists; more are only counted. A log with one error is wrong already.
pub const MAX_LISTED_ERRORS: usize = 100;

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// It cannot be read, or is not canonical.
    #[error(transparent)]
    Form(#[from] FormError),
    /// It does not follow from what came before.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// An error at an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index}: {wrong}")]
pub struct Finding {
    /// The entry.
    pub index: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What a log alone cannot show. Not errors: what else to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unchecked {
    /// Results: a log holds their hashes.
    #[error(
        "{count} results: the log holds their hashes; fetch them and repeat the checks with the epoch's secret"
    )]
    Results {
        /// How many.
        count: u64,
    },
    /// Shards may be counted twice.
    #[error(
        "{count} accepted results: that each shard counts once takes the job's grid, which the log names by hash"
    )]
    Shards {
        /// How many.
        count: u64,
    },
    /// Aggregates: a log holds hashes.
    #[error(
        "{count} aggregates: auditors attest those of promoted candidates; derive others from their updates"
    )]
    Aggregates {
        /// How many.
        count: u64,
    },
    /// Numbers on eval cards.
    #[error("{count} eval cards: the log holds their numbers; repeat the evaluation")]
    Cards {
        /// How many.
        count: u64,
    },
    /// Commits: a log holds one hash of them.
    #[error("{count} lists of commits: fetch them, and draw the audits again with the epoch's secret")]
    Commits {
        /// How many.
        count: u64,
    },
    /// A secret that is not public.
    #[error("epoch {incarnation} is not opened: what was drawn from it cannot be drawn again yet")]
    Epoch {
        /// The epoch.
        incarnation: u32,
    },
    /// The tree of the log.
    #[error(
        "{count} successions: compare the root that each names with that of the log's tree at its size, and the \
         signatures under the checkpoints since with the mirror's key"
    )]
    Successions {
        /// How many.
        count: usize,
    },
    /// The people behind keys.
    #[error(
        "{people} people in the roles document: that they are different people, and who holds their keys"
    )]
    People {
        /// How many.
        people: usize,
    },
}

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Entries read.
    pub entries: u64,
    /// Entries by kind, those in order only.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The first errors.
    pub errors: Vec<Finding>,
    /// Errors in all.
    pub error_count: u64,
    /// Signatures that were checked and held.
    pub signatures: u64,
    /// What the log alone cannot show.
    pub unchecked: Vec<Unchecked>,
}

impl Report {
    /// Whether every entry follows from those before it.
    pub fn clean(&self) -> bool {
        self.error_count == 0
    }
}

/// Reads a log entry by entry.
///
/// An entry that is wrong is reported and skipped, so that one bad entry does not hide what comes after it: what it would
/// have changed stays as it was, and later entries that build on it are reported too.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    state: State,
    entries: u64,
    kinds: BTreeMap<&'static str, u64>,
    errors: Vec<Finding>,
    error_count: u64,
    signatures: u64,
}

impl Checker {
    /// A checker that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next entry. Its index is the number of those read before.
    pub fn read(&mut self, bytes: &[u8]) {
        let index = self.entries;
        self.entries += 1;
        let entry = match Entry::decode(bytes) {
            Ok(entry) => entry,
            Err(error) => return self.wrong(index, error.into()),
        };
        if let Err(error) = self.state.skip_to(index).apply(index, &entry) {
            return self.wrong(index, error.into());
        }
        *self.kinds.entry(entry.body.kind()).or_default() += 1;
        if matches!(entry.body, Body::Signed(_)) {
            self.signatures += 1;
        }
    }

    fn wrong(&mut self, index: u64, wrong: Wrong) {
        self.error_count += 1;
        if self.errors.len() < MAX_LISTED_ERRORS {
            self.errors.push(Finding { index, wrong });
        }
    }

    /// The state as the log gives it so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was found so far.
    pub fn report(&self) -> Report {
        let count = |kind: &str| self.kinds.get(kind).copied().unwrap_or(0);
        let results = count("result_accepted") + count("result_rejected");
        let mut unchecked = vec![
            Unchecked::Results { count: results },
            Unchecked::Shards { count: count("result_accepted") },
            Unchecked::Commits { count: count("commits") },
            Unchecked::Aggregates { count: count("aggregate") },
            Unchecked::Cards { count: count("card") },
        ];
        unchecked.retain(|item| {
            !matches!(
                item,
                Unchecked::Results { count: 0 }
                    | Unchecked::Shards { count: 0 }
                    | Unchecked::Commits { count: 0 }
                    | Unchecked::Aggregates { count: 0 }
                    | Unchecked::Cards { count: 0 }
            )
        });
        unchecked
            .extend(self.state.unopened_epochs().map(|(incarnation, _)| Unchecked::Epoch { incarnation }));
        let successions = self.state.successions().len();
        if successions > 0 {
            unchecked.push(Unchecked::Successions { count: successions });
        }
        let roles = self.state.roles();
        let people = roles.stewards.len() + roles.auditors.len() + roles.operators.len();
        if people > 0 {
            unchecked.push(Unchecked::People { people });
        }
        Report {
            entries: self.entries,
            kinds: self.kinds.clone(),
            errors: self.errors.clone(),
            error_count: self.error_count,
            signatures: self.signatures,
            unchecked,
        }
    }
}
