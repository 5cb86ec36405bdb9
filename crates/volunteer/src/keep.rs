//! What a volunteer keeps of rounds of codec S, until the relay says where it goes on.
//!
//! After an update that counted, what was sent is out of the error; after one that did not, all of it still waits. Which
//! of the two holds is known by the verdict; where that never came (the connection broke), by the next task.

use potluck_proto::{Kept, Outcome, PastUpdate, Task};
use potluck_train::codec::Codec;
use potluck_train::streak::Streak;
use potluck_types::limits::MAX_KEPT;
use potluck_types::{BlobHash, JobId};
use std::sync::Arc;

/// Rounds that are kept: the last one, and the one before it, from which a repeated round starts again. Three values a
/// parameter each.
const ROUNDS: usize = 2;

/// A round whose steps are taken.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    run: JobId,
    round: u64,
    worker: u32,
    /// What is kept if the update counts.
    after: Arc<Streak>,
    result: Arc<Vec<u8>>,
    /// Whether it did, once that is known.
    counted: Option<bool>,
}

impl Entry {
    /// For a task of codec S; `None` for any other.
    pub(crate) fn of(run: JobId, task: &Task, after: Arc<Streak>, result: Arc<Vec<u8>>) -> Option<Self> {
        let Task::Train(task) = task else { return None };
        Some(Self { run, round: task.round, worker: task.worker, after, result, counted: None })
    }

    /// What the volunteer may say of it.
    pub(crate) fn said(&self) -> impl Iterator<Item = Kept> + '_ {
        let Self { run, round, worker, .. } = *self;
        let said =
            [true, false].into_iter().filter(|counted| self.counted.is_none_or(|known| known == *counted));
        said.map(move |counted| Kept { run, round, worker, counted })
    }

    /// What is kept if a streak ends with this update; `None` if it is another one, or was told otherwise.
    pub(crate) fn at(&self, run: JobId, last: &PastUpdate) -> Option<Arc<Streak>> {
        if (self.run, self.round, self.worker) != (run, last.round, last.worker) {
            return None;
        }
        if self.counted.is_some_and(|counted| counted != last.result.is_some()) {
            return None;
        }
        match last.result {
            Some(result) if result == BlobHash::of(&self.result) => Some(Arc::clone(&self.after)),
            Some(_) => None,
            None => {
                let encoded = Codec::TopK.encoded_len(self.after.parameters());
                let encoded = self.result.get(self.result.len().checked_sub(encoded)?..)?;
                self.after.take_back(encoded).ok().map(Arc::new)
            }
        }
    }
}

/// The rounds that are kept, the newest first.
#[derive(Debug, Default)]
pub(crate) struct Keep(Vec<Entry>);

impl Keep {
    /// A round ended, with an outcome if it was told.
    pub(crate) fn push(&mut self, entry: Entry, outcome: Option<Outcome>) {
        let counted = outcome.map(|outcome| outcome == Outcome::Accepted);
        if counted == Some(true) {
            self.0.clear();
        }
        self.0.insert(0, Entry { counted, ..entry });
        self.0.truncate(ROUNDS);
    }

    /// The rounds that are kept.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }
}

/// What to say in a request: of results whose verdicts are due, and of what is kept.
pub(crate) fn said<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Kept> {
    entries.flat_map(Entry::said).take(MAX_KEPT).collect()
}
