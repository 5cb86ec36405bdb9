//! What a witness does: it remembers the log's latest checkpoint and accepts only what that one leads to.
//!
//! A tab, a monitor or a witness server holds one [`Witness`] for each log. It is pure: whoever calls it fetches the
//! proof, gives the time, keeps the checkpoint, and sends the cosignature.
//!
//! Store an accepted checkpoint before its cosignature leaves: a witness that forgets one can be led onto a fork, and
//! its signature then vouches for it.
//!
//! Source: c2sp.org/tlog-witness, "add-checkpoint".

use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::fork::{ForkEvidence, Suspicion};
use crate::hash::{TreeHash, TreeHead};
use crate::key::VerifierKey;
use crate::note::{MAX_TIMESTAMP_S, cosignature_message};
use crate::proof::{ProofError, verify_consistency};

/// The memory of a witness, for one log.
#[derive(Debug, Clone)]
pub struct Witness {
    origin: String,
    log: VerifierKey,
    latest: Option<SignedCheckpoint>,
}

/// A checkpoint that is consistent with all that were accepted before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The checkpoint: store it before the cosignature leaves.
    pub checkpoint: SignedCheckpoint,
    /// The bytes to sign; the signature goes to [`crate::Note::attach_cosignature`] along with the time.
    pub message: Vec<u8>,
    /// The time that the message states, in seconds since 1970.
    pub timestamp_s: u64,
    /// Entries that are new to this witness.
    pub new_entries: u64,
}

/// Why a checkpoint was not accepted. The witness is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// Malformed, of another log, or not signed by the log: whoever sent it may have made it up.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log signed two trees of the same size: a fork, which the evidence proves to anybody.
    #[error("the log forked: it signed two trees of {size} entries")]
    Fork {
        /// Entries of both trees.
        size: u64,
        /// Both notes.
        evidence: Box<ForkEvidence>,
    },
    /// The log signed this tree, but a larger one is known. Notes may arrive late, so this is no fork by itself.
    #[error("the log has {latest} entries already; this checkpoint has {offered}")]
    Stale {
        /// Entries of the latest checkpoint that is known.
        latest: u64,
        /// Entries of this one.
        offered: u64,
        /// Whether the proof given shows that the latest tree begins with this one. If not, the two notes are a
        /// [`Suspicion`] at most.
        consistent: bool,
        /// Both notes.
        notes: Box<Suspicion>,
    },
    /// The proof does not lead from the latest checkpoint to this one. Either whoever sent it made a mistake, or the
    /// log forked: with the tiles, [`ForkEvidence::from_tiles`] tells and proves which.
    #[error("the proof does not lead from {latest} entries to {offered}")]
    BadProof {
        /// Entries of the latest checkpoint that is known; 0 if none is.
        latest: u64,
        /// Entries of this one.
        offered: u64,
        /// What is wrong with the proof.
        source: ProofError,
        /// Both notes; none if this is the first.
        notes: Option<Box<Suspicion>>,
    },
    /// A time that no cosignature can state.
    #[error("a cosignature cannot state the time {timestamp_s} s")]
    Timestamp {
        /// The time, in seconds since 1970.
        timestamp_s: u64,
    },
}

impl Witness {
    /// A witness that knows nothing of the log yet: it will accept the first checkpoint that the log signed, with an
    /// empty proof.
    pub fn new(origin: &str, log: VerifierKey) -> Self {
        Self { origin: origin.to_owned(), log, latest: None }
    }

    /// A witness that goes on from the checkpoint that it stored.
    ///
    /// # Errors
    /// [`CheckpointError`] if that is not a checkpoint signed by this log.
    pub fn restore(origin: &str, log: VerifierKey, latest: &[u8]) -> Result<Self, CheckpointError> {
        let latest = Some(SignedCheckpoint::open(latest, origin, &log)?);
        Ok(Self { origin: origin.to_owned(), log, latest })
    }

    /// The latest checkpoint that was accepted.
    pub fn latest(&self) -> Option<&SignedCheckpoint> {
        self.latest.as_ref()
    }

    /// The tree that a consistency proof has to start from.
    pub fn head(&self) -> TreeHead {
        self.latest.as_ref().map_or(TreeHead::EMPTY, SignedCheckpoint::head)
    }

    /// Takes a signed checkpoint and the proof that leads to it from [`Self::head`]; for a smaller checkpoint, the
    /// proof that leads from it to [`Self::head`], if there is one.
    ///
    /// # Errors
    /// [`WitnessError`] names what is wrong, and keeps both notes where the log may be at fault.
    pub fn offer(
        &mut self,
        note: &[u8],
        proof: &[TreeHash],
        timestamp_s: u64,
    ) -> Result<Accepted, WitnessError> {
        if timestamp_s > MAX_TIMESTAMP_S {
            return Err(WitnessError::Timestamp { timestamp_s });
        }
        let offered = SignedCheckpoint::open(note, &self.origin, &self.log)?;
        let (old, new) = (self.head(), offered.head());
        if let Some(latest) = &self.latest {
            if old.size == new.size
                && let Ok(evidence) = ForkEvidence::same_size(latest, &offered)
            {
                return Err(WitnessError::Fork { size: new.size, evidence: Box::new(evidence) });
            }
            if old.size > new.size {
                let consistent = verify_consistency(&new, &old, proof).is_ok();
                let notes = Box::new(Suspicion { older: offered, newer: latest.clone() });
                return Err(WitnessError::Stale { latest: old.size, offered: new.size, consistent, notes });
            }
        }
        if let Err(source) = verify_consistency(&old, &new, proof) {
            let notes = self.latest.clone().map(|older| Box::new(Suspicion { older, newer: offered }));
            return Err(WitnessError::BadProof { latest: old.size, offered: new.size, source, notes });
        }
        self.latest = Some(offered.clone());
        let message = cosignature_message(offered.note().text(), timestamp_s);
        Ok(Accepted { checkpoint: offered, message, timestamp_s, new_entries: new.size - old.size })
    }
}
