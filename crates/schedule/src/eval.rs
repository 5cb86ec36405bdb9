//! Evals: what goes in, what comes out, and one eval's shards.
//!
//! Every shard of an eval is answered by several volunteers, none of whom sees the others' answers. Nothing counts before
//! the adapter has compared them: where they differ it finds out who is wrong.

use crate::io::Ticket;
use crate::leasing::Claim;
use crate::policy::{LAPSE_REST, MAX_LAPSE_REST, MAX_LAPSES};
use potluck_proto::{Backend, BlobRef, EvalTask};
use potluck_types::limits::{MAX_CHECKPOINT_BYTES, MAX_EVAL_RESULT_BYTES};
use potluck_types::{Duration, Instant, JobId, LeaseId, SessionId, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Evals that are not finished, in one relay. With [`MAX_EVAL_SHARDS`] and [`MAX_EVAL_COPIES`] their answers take at most
/// 128 MiB, and in practice a hundredth of it.
pub const MAX_EVALS: usize = 4;
/// Shards of one eval.
pub const MAX_EVAL_SHARDS: usize = 256;
/// Volunteers that answer one shard.
pub const MAX_EVAL_COPIES: u32 = 8;

/// An eval: shards of questions, each to be answered by several volunteers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalSpec {
    /// The eval. Shares the name space of jobs.
    pub id: JobId,
    /// What volunteers are told that they work on.
    pub name: String,
    /// The shards.
    pub shards: Vec<EvalTask>,
    /// Volunteers that answer each shard.
    pub copies: u32,
}

/// Why an eval cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Too few or too many shards.
    #[error("an eval of {shards} shards: 1 to {MAX_EVAL_SHARDS} are possible")]
    Shards {
        /// How many.
        shards: usize,
    },
    /// Too few or too many volunteers for each shard.
    #[error("{copies} volunteers for each shard: 1 to {MAX_EVAL_COPIES} are possible")]
    Copies {
        /// How many.
        copies: u32,
    },
    /// A shard's sizes are out of bounds.
    #[error(
        "shard {shard} has a result of {result} bytes from parameters of {parameters}: at most \
         {MAX_EVAL_RESULT_BYTES} and {MAX_CHECKPOINT_BYTES} are possible, and neither may be 0"
    )]
    Size {
        /// Which.
        shard: usize,
        /// Bytes of its result.
        result: u32,
        /// Bytes of the parameters.
        parameters: u64,
    },
    /// As many evals as the relay holds.
    #[error("{MAX_EVALS} evals are under way, as many as this relay holds: wait for one to end")]
    TooMany,
    /// A job, run or eval of this name is there.
    #[error("a job, run or eval with this id is under way")]
    Taken,
}

impl EvalSpec {
    /// Checks an eval on its own.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(&self) -> Result<(), EvalError> {
        let shards = self.shards.len();
        if !(1..=MAX_EVAL_SHARDS).contains(&shards) {
            return Err(EvalError::Shards { shards });
        }
        if !(1..=MAX_EVAL_COPIES).contains(&self.copies) {
            return Err(EvalError::Copies { copies: self.copies });
        }
        let fits = |task: &EvalTask| {
            (1..=MAX_EVAL_RESULT_BYTES as u32).contains(&task.result_bytes)
                && [task.parameters.bytes, task.items.bytes]
                    .iter()
                    .all(|bytes| (1..=MAX_CHECKPOINT_BYTES as u64).contains(bytes))
        };
        match self.shards.iter().enumerate().find(|(_, task)| !fits(task)) {
            None => Ok(()),
            Some((shard, task)) => {
                let (result, parameters) = (task.result_bytes, task.parameters.bytes);
                Err(EvalError::Size { shard, result, parameters })
            }
        }
    }
}

/// What happened to an eval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalInput {
    /// An eval begins; after a restart, goes on.
    Added {
        /// The eval.
        spec: Box<EvalSpec>,
        /// Shards that are durable already.
        done: Vec<u32>,
    },
    /// The answers of [`EvalOutput::Settle`] were compared. If nobody was wrong, they are durable and the shard is done;
    /// else it is asked again in place of the wrong ones.
    Settled {
        /// The eval.
        eval: JobId,
        /// The shard.
        shard: u32,
        /// Whose answers are wrong.
        refuted: Vec<VolunteerId>,
    },
    /// The answers could not be compared or stored: nobody's fault, the shard begins again.
    Failed {
        /// The eval.
        eval: JobId,
        /// The shard.
        shard: u32,
    },
    /// The eval is given up.
    Canceled {
        /// The eval.
        eval: JobId,
    },
}

/// What is to be done for an eval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalOutput {
    /// The eval cannot be held. Nothing of it is kept.
    Refused {
        /// The eval.
        eval: JobId,
        /// Why.
        error: EvalError,
    },
    /// All answers to a shard are here: check and compare them, and make them durable if nobody is wrong. Then
    /// [`EvalInput::Settled`] or [`EvalInput::Failed`].
    Settle {
        /// The eval.
        eval: JobId,
        /// The shard.
        shard: u32,
        /// What was asked.
        task: EvalTask,
        /// The answers, in the order in which they came.
        answers: Vec<EvalAnswer>,
    },
    /// Every shard of the eval is durable.
    Completed {
        /// The eval.
        eval: JobId,
    },
}

/// One volunteer's answers to a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalAnswer {
    /// Under which it came.
    pub ticket: Ticket,
    /// Whose.
    pub volunteer: VolunteerId,
    /// What it was computed with.
    pub backend: Backend,
    /// What was committed. Length and hash are part of the check.
    pub claim: BlobRef,
    /// The bytes that arrived.
    pub result: Arc<Vec<u8>>,
    /// The site on which the volunteer agreed, if that was in the relay's frame: results are counted for it.
    pub site: Option<Arc<str>>,
}

/// An eval's state, for API, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvalProgress {
    /// Shards in all.
    pub shards: u32,
    /// Shards that are durable.
    pub done: u32,
    /// Answers that wait for others to be compared with.
    pub waiting: u32,
    /// Leases that are out.
    pub leased: u32,
    /// Answers that were wrong.
    pub rejected: u32,
}

/// Answers that are here: they no longer depend on their session.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) ticket: Ticket,
    pub(crate) lease: LeaseId,
    pub(crate) session: SessionId,
    pub(crate) volunteer: VolunteerId,
    pub(crate) claim: Claim,
    pub(crate) bytes: Arc<Vec<u8>>,
    /// On which site its person agreed.
    pub(crate) site: Option<Arc<str>>,
}

/// Somebody gave no answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lapse {
    times: u32,
    /// Until then others go first.
    until: Instant,
}

/// One shard.
#[derive(Debug, Default)]
pub(crate) struct EvalShard {
    pub(crate) leases: BTreeMap<LeaseId, VolunteerId>,
    pub(crate) answers: Vec<Answered>,
    /// Whose answers were wrong, or who could not do it: not asked again.
    pub(crate) passed_over: BTreeSet<VolunteerId>,
    /// Who was leased it and gave no answer.
    lapses: BTreeMap<VolunteerId, Lapse>,
    pub(crate) settling: bool,
    pub(crate) done: bool,
}

impl EvalShard {
    /// Whether another volunteer is to be asked.
    pub(crate) fn open(&self, copies: u32) -> bool {
        !self.done && !self.settling && self.leases.len() + self.answers.len() < copies as usize
    }

    /// Whether this volunteer may be asked.
    pub(crate) fn may_ask(&self, volunteer: &VolunteerId, now: Instant) -> bool {
        !self.passed_over.contains(volunteer)
            && self.lapses.get(volunteer).is_none_or(|lapse| lapse.until <= now)
            && !self.leases.values().any(|other| other == volunteer)
            && !self.answers.iter().any(|answer| answer.volunteer == *volunteer)
    }

    /// A lease ended without an answer: others go first.
    fn lapsed(&mut self, volunteer: VolunteerId, now: Instant) {
        if self.lapses.len() >= MAX_LAPSES && !self.lapses.contains_key(&volunteer) {
            let first =
                self.lapses.iter().min_by_key(|(_, lapse)| lapse.until).map(|(volunteer, _)| *volunteer);
            first.and_then(|first| self.lapses.remove(&first));
        }
        let lapse = self.lapses.entry(volunteer).or_default();
        let rest = LAPSE_REST.0.saturating_mul(1 << lapse.times.min(20));
        lapse.times = lapse.times.saturating_add(1);
        lapse.until = now + Duration(rest).min(MAX_LAPSE_REST);
    }

    /// Its answers are durable: what was remembered of volunteers is not needed any more.
    pub(crate) fn finish(&mut self) {
        self.done = true;
        self.passed_over.clear();
        self.lapses.clear();
    }
}

/// An eval that is under way.
#[derive(Debug)]
pub(crate) struct Eval {
    pub(crate) spec: EvalSpec,
    pub(crate) shards: Vec<EvalShard>,
    pub(crate) rejected: u32,
}

impl Eval {
    pub(crate) fn new(spec: EvalSpec, done: &[u32]) -> Self {
        let mut shards: Vec<EvalShard> = spec.shards.iter().map(|_| EvalShard::default()).collect();
        for shard in done {
            if let Some(shard) = shards.get_mut(*shard as usize) {
                shard.done = true;
            }
        }
        Self { spec, shards, rejected: 0 }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.shards.iter().all(|shard| shard.done)
    }

    /// A shard for this volunteer: one that others have begun goes first, so that it can be compared soon. `twice` also asks
    /// whoever was asked, which is a bug.
    pub(crate) fn shard_for(
        &self,
        volunteer: &VolunteerId,
        memory_bytes: u64,
        now: Instant,
        twice: bool,
    ) -> Option<u32> {
        let shards = self.shards.iter().zip(&self.spec.shards).enumerate();
        let open = shards.filter(|(_, (shard, task))| {
            let may_ask = shard.may_ask(volunteer, now) || twice;
            shard.open(self.spec.copies) && task.memory_bytes <= memory_bytes && may_ask
        });
        let begun = |shard: &EvalShard| shard.leases.len() + shard.answers.len();
        open.max_by_key(|(index, (shard, _))| (begun(shard), std::cmp::Reverse(*index)))
            .map(|(index, _)| index as u32)
    }

    /// A lease of a shard ended without an answer.
    pub(crate) fn lapsed(&mut self, shard: u32, volunteer: VolunteerId, now: Instant) {
        if let Some(shard) = self.shards.get_mut(shard as usize) {
            shard.lapsed(volunteer, now);
        }
    }

    pub(crate) fn unlease(&mut self, shard: u32, lease: LeaseId) {
        if let Some(shard) = self.shards.get_mut(shard as usize) {
            shard.leases.remove(&lease);
        }
    }

    pub(crate) fn progress(&self) -> EvalProgress {
        let sum = |count: fn(&EvalShard) -> usize| self.shards.iter().map(count).sum::<usize>() as u32;
        EvalProgress {
            shards: self.shards.len() as u32,
            done: sum(|shard| usize::from(shard.done)),
            waiting: sum(|shard| shard.answers.len()),
            leased: sum(|shard| shard.leases.len()),
            rejected: self.rejected,
        }
    }
}
