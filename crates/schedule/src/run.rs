//! A training run as the relay takes it in, and what goes in and out of the machine for its rounds.
//!
//! Units: times in milliseconds, rates in millionths, sizes in bytes.

use crate::io::Ticket;
use crate::policy::{LARGE_UPDATE_BYTES, MAX_UPDATES_IN_MEMORY_BYTES, SLOW_LINK_BYTES_PER_SECOND};
use potluck_proto::{
    Backend, BlobRef, DataSetSpec, LearningRate, ModelSpec, RejectReason, TrainTask, UpdateCodec,
};
use potluck_types::limits::{MAX_BLOB_BYTES, MAX_RUN_WORKERS};
use potluck_types::{JobId, VolunteerId};
use std::sync::Arc;

/// How often updates are replayed.
///
/// Source: `verification.md`, 2.8: all of a key's first ones, then `max(0.05, 0.5 * 0.8^passed)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditPolicy {
    /// Replays that a key has to pass before one of its updates may go unreplayed.
    pub first: u32,
    /// Rate after those, in millionths.
    pub rate: u32,
    /// The rate is multiplied by this for each further replay passed, in millionths.
    pub decay: u32,
    /// Least rate, in millionths.
    pub least: u32,
}

impl Default for AuditPolicy {
    fn default() -> Self {
        Self { first: 5, rate: 500_000, decay: 800_000, least: 50_000 }
    }
}

impl AuditPolicy {
    /// Rate for a key that passed this many replays, in millionths.
    pub fn rate_after(&self, passed: u32) -> u32 {
        let Some(further) = passed.checked_sub(self.first) else { return 1_000_000 };
        let mut rate = u64::from(self.rate);
        for _ in 0..further {
            if rate <= u64::from(self.least) || self.decay >= 1_000_000 {
                break;
            }
            rate = rate * u64::from(self.decay) / 1_000_000;
        }
        rate.max(u64::from(self.least)).min(1_000_000) as u32
    }
}

/// Which volunteers send codec S in a run of another codec: those that passed as many replays as a newcomer has to
/// ([`AuditPolicy::first`]), where the link is slow or the other update large.
///
/// Source: `training.md`, "Two codecs, chosen per volunteer and run".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparsePolicy {
    /// Length of one update, with what comes with it but for the losses.
    pub update_bytes: u64,
    /// A link slower than this is slow, in bytes per second.
    pub slow_link: u64,
    /// An update longer than this is large, in bytes.
    pub large_update: u64,
}

impl SparsePolicy {
    /// With a slow link of 2 Mbit/s and a large update of 2.5 MB, that of five million parameters.
    pub const fn new(update_bytes: u64) -> Self {
        Self { update_bytes, slow_link: SLOW_LINK_BYTES_PER_SECOND, large_update: LARGE_UPDATE_BYTES }
    }
}

/// A run: what its tasks have in common, and how its rounds are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The run. Shares the name space of jobs.
    pub id: JobId,
    /// What its submitter called it.
    pub name: String,
    /// The model.
    pub model: ModelSpec,
    /// Rounds in all.
    pub rounds: u64,
    /// Inner steps of a worker in a round.
    pub steps: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub length: u32,
    /// Learning rate.
    pub rate: LearningRate,
    /// Seed of the data order.
    pub seed: [u8; 32],
    /// Blocks that the order deals to a worker for a round; 0 for uniform draws.
    pub blocks_dealt: u32,
    /// How updates are encoded.
    pub codec: UpdateCodec,
    /// Length of one encoded update, with what comes with it but for the losses.
    pub update_bytes: u64,
    /// Rounds of a streak of codec S; 0 where nobody sends that.
    pub streak: u64,
    /// Who sends codec S in place of the run's own, if anybody does.
    pub sparse: Option<SparsePolicy>,
    /// Memory that one worker needs, inputs among it: who offers less is not asked.
    pub memory_bytes: u64,
    /// Floating-point operations of one worker's part of a round: an estimate, for deadlines.
    pub flops: u64,
    /// The data set.
    pub data: DataSetSpec,
    /// Workers without which no round opens.
    pub min_workers: u32,
    /// Workers of a round at most.
    pub max_workers: u32,
    /// Whether a round opens with fewer than `min_workers` after a time of grace.
    pub short_rounds: bool,
    /// How often updates are replayed.
    pub audit: AuditPolicy,
}

/// Why a run cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A size is zero.
    #[error("{what} is 0: give at least 1")]
    Zero {
        /// What.
        what: &'static str,
    },
    /// The numbers of workers contradict each other or the limit.
    #[error(
        "{min} to {max} workers were asked for: the first may not exceed the second, nor that {MAX_RUN_WORKERS}"
    )]
    Workers {
        /// Least.
        min: u32,
        /// Most.
        max: u32,
    },
    /// One result is larger than a blob may be.
    #[error("an update takes {bytes} bytes; the limit is {MAX_BLOB_BYTES}: choose a smaller model or codec")]
    Update {
        /// Bytes of a result.
        bytes: u64,
    },
    /// The results of a round do not fit in memory.
    #[error(
        "the updates of the fewest workers of all runs take {bytes} bytes; the limit is \
         {MAX_UPDATES_IN_MEMORY_BYTES}: ask for fewer workers, choose a smaller codec, or wait for another run to end"
    )]
    Memory {
        /// Bytes that all runs together would need.
        bytes: u64,
    },
    /// As many runs as the relay holds.
    #[error("{runs} runs are under way, as many as this relay holds: wait for one to end")]
    TooMany {
        /// Runs under way.
        runs: usize,
    },
    /// A job, run or eval of this name is there.
    #[error("a job, run or eval with this id is under way")]
    Taken,
}

impl RunSpec {
    /// Checks a run on its own.
    ///
    /// # Errors
    /// Sizes of zero, numbers of workers that contradict each other, results that are too large.
    pub fn check(&self) -> Result<(), RunError> {
        let sizes = [
            ("the number of rounds", self.rounds),
            ("the number of inner steps", self.steps.into()),
            ("the number of sequences", self.sequences.into()),
            ("the length of a sequence", self.length.into()),
            ("the length of an update", self.update_bytes),
            ("the least number of workers", self.min_workers.into()),
        ];
        if (self.codec == UpdateCodec::TopK || self.sparse.is_some()) && self.streak == 0 {
            return Err(RunError::Zero { what: "the length of a streak" });
        }
        if let Some((what, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(RunError::Zero { what });
        }
        if self.min_workers > self.max_workers || self.max_workers > MAX_RUN_WORKERS {
            return Err(RunError::Workers { min: self.min_workers, max: self.max_workers });
        }
        let bytes = self.result_bytes();
        if bytes > MAX_BLOB_BYTES as u64 {
            return Err(RunError::Update { bytes });
        }
        let bytes = self.reserved_bytes();
        if bytes > MAX_UPDATES_IN_MEMORY_BYTES { Err(RunError::Memory { bytes }) } else { Ok(()) }
    }

    /// Length of the longest result: a loss a step, then the update.
    pub fn result_bytes(&self) -> u64 {
        self.update_bytes
            .max(self.sparse.map_or(0, |sparse| sparse.update_bytes))
            .saturating_add(4 * u64::from(self.steps))
    }

    /// Length of a result of the run's own codec, or of codec S in its place.
    pub(crate) fn result_bytes_of(&self, codec: UpdateCodec) -> u64 {
        let update = if codec == self.codec {
            self.update_bytes
        } else {
            self.sparse.map_or(0, |sparse| sparse.update_bytes)
        };
        update.saturating_add(4 * u64::from(self.steps))
    }

    /// Memory that the fewest workers' results take.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.result_bytes().saturating_mul(self.min_workers.into())
    }

    /// Whether tasks are this run's for a round: one for each worker, in order.
    pub(crate) fn tasks_fit(&self, round: u64, tasks: &[TrainTask]) -> bool {
        let fits = |(worker, task): (usize, &TrainTask)| {
            (task.round, task.worker as usize) == (round, worker)
                && (task.model, task.steps, task.sequences, task.length)
                    == (self.model, self.steps, self.sequences, self.length)
                && (task.rate, task.seed, task.blocks_dealt) == (self.rate, self.seed, self.blocks_dealt)
                && (task.codec, task.data) == (self.codec, self.data)
                && task.streak.is_empty()
                && task.checkpoint_round <= round
        };
        tasks.len() == self.max_workers as usize && tasks.iter().enumerate().all(fits)
    }
}

/// What happened to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunInput {
    /// A run begins; after a restart, goes on.
    Added {
        /// The run.
        spec: Box<RunSpec>,
        /// The first round that is not durable yet.
        next_round: u64,
    },
    /// The tasks that [`RunOutput::PrepareRound`] asked for.
    Ready {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// One for each worker, in order, complete.
        tasks: Vec<TrainTask>,
    },
    /// A [`CheckUpdate`] is done.
    Checked {
        /// Which.
        ticket: Ticket,
        /// What it found. Norm and losses the adapter keeps under the ticket.
        verdict: UpdateVerdict,
    },
    /// Before the round can be closed, some of its updates had to be replayed: those that look wrong among the others,
    /// or all where they are few. The round is not closed; the machine decides again with what is left.
    Reviewed {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// Workers whose updates a replay has confirmed.
        confirmed: Vec<u32>,
        /// Workers whose updates are wrong.
        refuted: Vec<u32>,
    },
    /// The step of [`RunOutput::CloseRound`] is taken and durable.
    Stored {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
    },
    /// The round could not be prepared or closed, or its tasks cannot be done: the run pauses.
    Failed {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// Why, for people.
        reason: String,
    },
    /// The round could not be closed because the run was paused meanwhile: it is given up, as by [`RunInput::Paused`].
    Halted {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
    },
    /// The submitter paused a run. A round that is being closed is closed first; any other is given up.
    Paused {
        /// The run.
        run: JobId,
    },
    /// The submitter lets a paused run go on.
    Resumed {
        /// The run.
        run: JobId,
    },
    /// The submitter canceled a run.
    Canceled {
        /// The run.
        run: JobId,
    },
}

/// What is to be done for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutput {
    /// The run cannot be held. Nothing of it is kept.
    Refused {
        /// The run.
        run: JobId,
        /// Why.
        error: RunError,
    },
    /// Make the tasks of a round; they come back in [`RunInput::Ready`].
    PrepareRound {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// How many tasks.
        workers: u32,
    },
    /// A volunteer could not do a task that should suit it. Try the task: if it cannot be done, because the loss is not
    /// finite for example, say [`RunInput::Failed`]; else nothing. At most once an attempt.
    TryTask {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// The worker whose task it is.
        worker: u32,
    },
    /// Check an update. Comes only after all commits of the round are in.
    CheckUpdate(CheckUpdate),
    /// Aggregate, take the outer step, make it durable; then [`RunInput::Stored`], [`RunInput::Reviewed`] or
    /// [`RunInput::Failed`].
    CloseRound {
        /// The run.
        run: JobId,
        /// The round.
        round: u64,
        /// The updates that count, by worker.
        updates: Vec<AcceptedUpdate>,
    },
    /// The run paused. It goes on after [`RunInput::Resumed`].
    Paused {
        /// The run.
        run: JobId,
        /// Why.
        reason: PauseReason,
    },
    /// Every round of the run is durable.
    Completed {
        /// The run.
        run: JobId,
    },
}

/// An update to be checked, off the thread that steps the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckUpdate {
    /// Comes back in [`RunInput::Checked`].
    pub ticket: Ticket,
    /// The run.
    pub run: JobId,
    /// The round.
    pub round: u64,
    /// What was to be done.
    pub task: Arc<TrainTask>,
    /// Who did it.
    pub volunteer: VolunteerId,
    /// With what.
    pub backend: Backend,
    /// What was committed. Length and hash are part of the check.
    pub claim: BlobRef,
    /// The bytes that arrived.
    pub result: Arc<Vec<u8>>,
    /// Whether the steps are to be replayed. Drawn after the commits of the round were closed.
    pub audit: bool,
}

/// What a [`CheckUpdate`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateVerdict {
    /// It passed what was asked for.
    Right,
    /// It is wrong.
    Wrong(RejectReason),
    /// The relay could not check: nobody's fault, the update does not count.
    Undecided,
}

/// An update that passed its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedUpdate {
    /// The ticket under which it was checked.
    pub ticket: Ticket,
    /// Whose.
    pub volunteer: VolunteerId,
    /// Its number in the round.
    pub worker: u32,
    /// What was to be done.
    pub task: Arc<TrainTask>,
    /// What it was computed with.
    pub backend: Backend,
    /// Hash and length of the result.
    pub claim: BlobRef,
    /// The result.
    pub result: Arc<Vec<u8>>,
    /// Credibility of the volunteer, in millionths.
    pub weight: u32,
    /// Whether its steps were replayed.
    pub audited: bool,
    /// The site on which the volunteer agreed, if that was in the relay's frame: results are counted for it.
    pub site: Option<Arc<str>>,
}

/// Why a run pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseReason {
    /// Its submitter asked.
    Asked,
    /// A round could not be prepared or closed.
    Failed(String),
    /// The tasks of a round were not the run's.
    WrongTasks,
}

/// Where a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPhase {
    /// Its tasks are made.
    Preparing,
    /// It waits for enough volunteers that ask.
    Gathering,
    /// Workers compute and commit.
    Open,
    /// All commits are in: updates are checked, some are replayed.
    Auditing,
    /// The outer step is taken and made durable.
    Closing,
    /// The run pauses.
    Paused,
}

/// A run's state, for API, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// Rounds in all.
    pub rounds: u64,
    /// The round under way: this many are durable.
    pub round: u64,
    /// How often this round was repeated.
    pub attempt: u32,
    /// Where it is.
    pub phase: RunPhase,
    /// Volunteers that asked lately, while the round gathers.
    pub asking: u32,
    /// Workers that the round expects.
    pub expected: u32,
    /// Workers that compute or send.
    pub leased: u32,
    /// Updates that arrived.
    pub delivered: u32,
    /// Updates that passed their checks.
    pub verified: u32,
    /// Updates accepted since this relay started.
    pub accepted: u64,
    /// Updates rejected since this relay started.
    pub rejected: u64,
    /// Leases that ended without an update since this relay started.
    pub leases_lost: u64,
    /// Rounds repeated since this relay started.
    pub repeated: u64,
}
