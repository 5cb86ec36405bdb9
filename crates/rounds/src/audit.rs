//! What is checked of every update, and the replay of some.

use crate::host::Host;
use crate::reference::{Reference, now};
use crate::replay::{Judgement, judge, repeat, split};
use crate::work::{Plan, TaskError};
use potluck_proto::TrainTask;
use potluck_train::Engine as _;
use potluck_train::data::DataSet;
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
}

/// Checks updates of one round. Cheap to clone; does not change while the round lasts.
#[derive(Debug, Clone)]
pub struct Auditor {
    parameters: Arc<Vec<f32>>,
    data: Arc<DataSet>,
}

impl Auditor {
    /// For the round that a run is in.
    pub fn new(host: &Host) -> Self {
        Self { parameters: Arc::new(host.parameters().to_vec()), data: Arc::clone(&host.data().train) }
    }

    /// What is checked of every update: length, losses, encoding, and the first loss against a forward pass.
    /// Costs about a third of one inner step.
    ///
    /// # Errors
    /// The check itself failed.
    pub fn check(&self, task: &TrainTask, result: &[u8]) -> Result<Result<(), Fault>, AuditError> {
        let plan = Plan::of(task)?;
        let Some((losses, encoded)) = split(&plan, result) else {
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
        let update = repeat(&plan, &self.parameters, &*self.data)?;
        plan.codec().encode(&update.delta).map(drop).map_err(TaskError::from)?;
        Ok(())
    }

    /// Takes the steps again and compares.
    ///
    /// # Errors
    /// The replay itself failed, as it does when the run diverges.
    pub fn replay(&self, task: &TrainTask, result: &[u8]) -> Result<Judgement, AuditError> {
        let plan = Plan::of(task)?;
        let replayed = repeat(&plan, &self.parameters, &*self.data)?;
        Ok(judge(&plan, &replayed, result)?)
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
