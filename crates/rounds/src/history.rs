//! What a relay remembers of the rounds since streaks began: enough to take those of any worker of codec S again.

use crate::audit::AuditError;
use crate::work::TaskError;
use potluck_train::outer::Replica;
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of [`Shadows`] of one run: those of 16 workers of `mini`, or of two with ten million parameters. The oldest
/// goes first; what it would have saved is then computed again.
const MAX_SHADOW_BYTES: usize = 256 << 20;

/// Parameters where streaks may have begun, the outer steps since, and what workers of codec S sent.
///
/// Memory: four bytes a parameter, one more for each step, and what was sent.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// Streaks end where the number of a round is a multiple of this.
    rounds: u64,
    first: Replica,
    steps: Vec<Arc<Vec<u8>>>,
    sent: BTreeMap<(u64, u32), Sent>,
}

/// An update that counted.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    hash: BlobHash,
    bytes: Arc<Vec<u8>>,
}

impl Sent {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { hash: BlobHash::of(bytes), bytes: Arc::new(bytes.to_vec()) }
    }
}

impl History {
    /// Nothing is known from before.
    pub(crate) fn new(rounds: u64, replica: &Replica) -> Self {
        Self { rounds, first: replica.clone(), steps: Vec::new(), sent: BTreeMap::new() }
    }

    /// The parameters where streaks may have begun.
    pub(crate) const fn first(&self) -> &Replica {
        &self.first
    }

    /// A round is over, by this step, to these parameters; workers of codec S sent this.
    pub(crate) fn push(&mut self, step: &[u8], replica: &Replica, sent: Vec<(u32, Sent)>) {
        let next = replica.round();
        if next.is_multiple_of(self.rounds) {
            // Streaks end here.
            *self = Self::new(self.rounds, replica);
            return;
        }
        self.steps.push(Arc::new(step.to_vec()));
        self.sent.extend(sent.into_iter().map(|(worker, sent)| ((next - 1, worker), sent)));
    }

    /// Leads a replica on to a round.
    pub(crate) fn lead(&self, replica: &mut Replica, round: u64) -> Result<(), AuditError> {
        if round < replica.round() {
            return Err(AuditError::Forgotten { round });
        }
        while replica.round() < round {
            let at = replica.round() - self.first.round();
            let step = self.steps.get(at as usize).ok_or(AuditError::Forgotten { round })?;
            replica.follow(replica.round() + 1, step).map_err(TaskError::from)?;
        }
        Ok(())
    }

    /// What a worker sent in a round.
    pub(crate) fn sent(&self, round: u64, worker: u32, hash: &BlobHash) -> Result<&[u8], AuditError> {
        let sent = self.sent.get(&(round, worker)).filter(|sent| sent.hash == *hash);
        sent.map(|sent| sent.bytes.as_slice()).ok_or(AuditError::Forgotten { round })
    }
}

/// What workers kept, as replays found it, by the update after which they kept it: so that no round is taken again
/// twice. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadows(Arc<Mutex<Found>>);

/// What was kept after an update, the oldest first.
type Found = VecDeque<(BlobHash, Arc<Streak>)>;

impl Shadows {
    fn lock(&self) -> MutexGuard<'_, Found> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept after an update, if a replay confirmed it.
    pub(crate) fn after(&self, result: &BlobHash) -> Option<Arc<Streak>> {
        self.lock().iter().find(|(of, _)| of == result).map(|(_, kept)| Arc::clone(kept))
    }

    /// A replay confirmed an update.
    pub(crate) fn remember(&self, result: BlobHash, kept: Streak) -> Arc<Streak> {
        let kept = Arc::new(kept);
        let most = MAX_SHADOW_BYTES / (12 * kept.parameters()).max(1);
        let mut all = self.lock();
        all.retain(|(of, _)| *of != result);
        while all.len() >= most.max(1) {
            all.pop_front();
        }
        all.push_back((result, Arc::clone(&kept)));
        kept
    }

    /// Streaks end.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}
