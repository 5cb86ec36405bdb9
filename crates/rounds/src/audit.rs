//! What is checked of every update, and the replay of some.

use crate::allowed::{Way, settle};
use crate::history::{History, Shadows};
use crate::host::Host;
use crate::reference::{Reference, now};
use crate::replay::{Judgement, Parts, again, repeat, split};
use crate::work::{Plan, Repeated, TaskError};
use potluck_proto::{PastUpdate, TrainTask};
use potluck_train::Engine as _;
use potluck_train::data::DataSet;
use potluck_train::round::Part;
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use potluck_verify::{ReplayError, Tolerances};
use std::sync::Arc;

/// What is wrong with an update.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not the number of bytes that the task has.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// Bytes that came.
        found: u64,
        /// Bytes of losses and update.
        expected: u64,
    },
    /// A loss that no training has.
    #[error("the loss of step {step} is {loss}")]
    Loss {
        /// Which step.
        step: usize,
        /// What is claimed.
        loss: f32,
    },
    /// The loss of the first batch is not that of the round's parameters.
    #[error("the first loss is {claimed}, the round's parameters have {found} on this batch")]
    FirstLoss {
        /// What is claimed.
        claimed: f32,
        /// What it is.
        found: f32,
    },
    /// Bytes that no encoder writes.
    #[error("{0}")]
    Encoding(String),
    /// Not what the steps give.
    #[error("{0}")]
    Refuted(String),
}

/// Why an update could not be checked: not the volunteer's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The task, its data, or the engine.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The comparison.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A round of a streak of which nothing is known here any more.
    #[error("round {round} of the streak is not in the relay's memory: the update cannot be replayed")]
    Forgotten {
        /// The round.
        round: u64,
    },
}

/// Checks updates of one round. Cheap to clone; does not change while the round lasts.
#[derive(Debug, Clone)]
pub struct Auditor {
    parameters: Arc<Vec<f32>>,
    data: Arc<DataSet>,
    history: Arc<History>,
    shadows: Shadows,
}

impl Auditor {
    /// For the round that a run is in.
    pub fn new(host: &Host) -> Self {
        Self {
            parameters: Arc::new(host.parameters().to_vec()),
            data: Arc::clone(&host.data().train),
            history: Arc::clone(host.history()),
            shadows: host.shadows().clone(),
        }
    }

    /// What is checked of every update: length, losses, encoding, and the first loss against a forward pass. A worker of
    /// codec S that goes on with a streak starts elsewhere than the others: its first loss only a replay can tell.
    /// Costs about a third of one inner step.
    ///
    /// # Errors
    /// The check itself failed.
    pub fn check(&self, task: &TrainTask, result: &[u8]) -> Result<Result<(), Fault>, AuditError> {
        let plan = Plan::of(task)?;
        let Some(Parts { losses, encoded, .. }) = split(&plan, result) else {
            return Ok(Err(Fault::Length { found: result.len() as u64, expected: plan.result_bytes() }));
        };
        if let Some((step, &loss)) =
            losses.iter().enumerate().find(|(_, loss)| !(loss.is_finite() && **loss >= 0.0))
        {
            return Ok(Err(Fault::Loss { step, loss }));
        }
        if let Err(error) = plan.codec().decode(encoded, plan.parameters()) {
            return Ok(Err(Fault::Encoding(error.to_string())));
        }
        if !task.streak.is_empty() {
            return Ok(Ok(()));
        }
        let part = plan.part();
        let starts = part.order.batch(part.round, part.worker, 0, part.sequences).map_err(TaskError::from)?;
        let batch = self.data.batch(&starts, part.order.length()).map_err(TaskError::from)?;
        let mut engine = Reference::new(plan.model()).map_err(TaskError::from)?;
        now(engine.load(&self.parameters)).map_err(TaskError::from)?;
        let found = now(engine.loss(&batch)).map_err(TaskError::from)?;
        let claimed = losses.first().copied().unwrap_or(f32::NAN);
        if f64::from(claimed - found).abs() > Tolerances::default().loss {
            return Ok(Err(Fault::FirstLoss { claimed, found }));
        }
        Ok(Ok(()))
    }

    /// Takes the steps, and encodes what comes of them, to see whether that can be done.
    ///
    /// # Errors
    /// Why nobody can: above all, a loss that is not finite.
    pub fn attempt(&self, task: &TrainTask) -> Result<(), AuditError> {
        let plan = Plan::of(task)?;
        // With codec S as a worker that begins: what another one kept is not the task's.
        let update = repeat(&plan, &self.parameters, &*self.data, Way::Plain)?;
        plan.codec().encode(&update.delta).map(drop).map_err(TaskError::from)?;
        Ok(())
    }

    /// Takes the steps again and compares, in several ways before anybody is refuted (see [`settle`]): with codec S those of
    /// the whole streak, from the last of its rounds on that a replay has confirmed.
    ///
    /// # Errors
    /// The replay itself failed, as it does when the run diverges, or is too unstable for anybody to be judged.
    pub fn replay(&self, task: &TrainTask, result: &[u8]) -> Result<Judgement, AuditError> {
        let plan = Plan::of(task)?;
        if plan.is_sparse() {
            return self.replay_streak(&plan, task, result);
        }
        let take = |way| Ok(Repeated::Dense(repeat(&plan, &self.parameters, &*self.data, way)?));
        settle(&plan, plan.part(), result, take).map(|(judgement, _)| judgement)
    }

    fn replay_streak(&self, plan: &Plan, task: &TrainTask, result: &[u8]) -> Result<Judgement, AuditError> {
        let known = (0..task.streak.len()).rev().find_map(|at| {
            let shadow = self.shadows.after(&task.streak[at].result?)?;
            Some((at + 1, shadow))
        });
        let (from, mut kept) = match known {
            Some(known) => known,
            None => (0, Arc::new(Streak::new(plan.parameters()).map_err(TaskError::from)?)),
        };
        let mut replica = self.history.first().clone();
        for PastUpdate { round, worker, result } in &task.streak[from..] {
            self.history.lead(&mut replica, *round)?;
            let steps_before = round.saturating_mul(plan.part().steps.into());
            let part = Part { round: *round, worker: *worker, steps_before, ..plan.part() };
            let Some(result) = result else {
                let taken = again(plan, part, &kept, replica.parameters(), &*self.data, Way::Plain)?;
                kept = Arc::new(Streak::unsent(taken).map_err(TaskError::from)?);
                continue;
            };
            let sent = self.history.sent(*round, *worker, result)?;
            let (judgement, after) = self.step(plan, part, &kept, replica.parameters(), sent)?;
            let Some(after) = after else {
                let cause = judgement.fault().map_or_else(String::new, |fault| fault.to_string());
                let report = Err(format!("what it sent in round {round} is wrong: {cause}"));
                return Ok(Judgement { report, ..judgement });
            };
            kept = self.shadows.remember(*result, after);
        }
        let (judgement, after) = self.step(plan, plan.part(), &kept, &self.parameters, result)?;
        if let Some(after) = after {
            self.shadows.remember(BlobHash::of(result), after);
        }
        Ok(judgement)
    }

    /// One round of a streak; also what the worker kept, if what it sent is right.
    fn step(
        &self,
        plan: &Plan,
        part: Part,
        kept: &Streak,
        parameters: &[f32],
        result: &[u8],
    ) -> Result<(Judgement, Option<Streak>), AuditError> {
        let take = |way| -> Result<_, AuditError> {
            Ok(Repeated::Sparse(again(plan, part, kept, parameters, &*self.data, way)?))
        };
        let (judgement, repeated) = settle(plan, part, result, take)?;
        let after = match (repeated, split(plan, result)) {
            (Repeated::Sparse(taken), Some(Parts { encoded, .. })) if judgement.confirmed() => {
                Some(Streak::sent(taken, encoded).map_err(TaskError::from)?)
            }
            _ => None,
        };
        Ok((judgement, after))
    }
}

impl Judgement {
    /// As a fault, if the claim does not stand.
    pub fn fault(&self) -> Option<Fault> {
        match &self.report {
            Err(cause) => Some(Fault::Encoding(cause.clone())),
            Ok(report) => match report.verdict {
                potluck_verify::ReplayVerdict::Confirmed => None,
                potluck_verify::ReplayVerdict::Refuted(reason) => Some(Fault::Refuted(reason.to_string())),
            },
        }
    }
}
