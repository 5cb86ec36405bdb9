//! The gate after the step: if the loss on a secret shard of the validation data rises too much, the step is taken again
//! from audited updates only, and if that does not help, not at all. An alarm, not a selector: a backdoor that does not
//! touch the loss passes.

use std::collections::VecDeque;

/// Parameters of the gate, logged with each run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateParams {
    /// How many standard deviations the loss may rise. Default 3.
    pub sigmas: f64,
    /// Changes of the loss, of the last accepted rounds, that the deviation is taken from. Default 20.
    pub window: usize,
    /// Changes that are needed before they say anything. Default 5.
    pub least_changes: usize,
    /// Standard deviation until then, in nats. Default 0.3: the momentum of the first steps overshoots.
    pub first_sigma: f64,
    /// Least standard deviation, in nats. Default 0.002: a run that hardly moves must not stop for nothing.
    pub least_sigma: f64,
}

impl Default for GateParams {
    fn default() -> Self {
        Self { sigmas: 3.0, window: 20, least_changes: 5, first_sigma: 0.3, least_sigma: 0.002 }
    }
}

/// What to do with a step that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateAction {
    /// Keep it; the round is over.
    Keep,
    /// Take it back, combine the audited updates only, and ask again.
    AggregateAudited,
    /// Take it back; the round is over without a step.
    Revert,
}

/// A loss with which no gate can start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the loss before the step is {loss}: go back to a round whose loss is finite")]
pub struct GateError {
    /// The loss.
    pub loss: f64,
}

/// Watches the loss of a run from round to round.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    params: GateParams,
    last: f64,
    changes: VecDeque<f64>,
    audited_only: bool,
}

impl Gate {
    /// Starts with the loss of the parameters before the first step.
    ///
    /// # Errors
    /// [`GateError`] if the loss is not finite.
    pub fn new(loss: f64, params: GateParams) -> Result<Self, GateError> {
        if !loss.is_finite() {
            return Err(GateError { loss });
        }
        Ok(Self { params, last: loss, changes: VecDeque::new(), audited_only: false })
    }

    /// The standard deviation of the loss's changes about their mean, in nats.
    pub fn sigma(&self) -> f64 {
        let count = self.changes.len();
        if count < self.params.least_changes.max(2) {
            return self.params.first_sigma.max(self.params.least_sigma);
        }
        let mean = self.changes.iter().sum::<f64>() / count as f64;
        let squares: f64 = self.changes.iter().map(|change| (change - mean) * (change - mean)).sum();
        (squares / (count - 1) as f64).sqrt().max(self.params.least_sigma)
    }

    /// The greatest loss with which the next step is kept.
    pub fn limit(&self) -> f64 {
        self.last + self.params.sigmas * self.sigma()
    }

    /// Whether the step that is now tried was combined from audited updates only.
    pub fn audited_only(&self) -> bool {
        self.audited_only
    }

    /// Judges the step that was tried by the loss after it. A loss that is not finite is too high.
    pub fn judge(&mut self, loss: f64) -> GateAction {
        // NaN and infinities are not within the limit.
        if loss.is_finite() && loss <= self.limit() {
            self.changes.push_back(loss - self.last);
            if self.changes.len() > self.params.window {
                self.changes.pop_front();
            }
            self.last = loss;
            self.audited_only = false;
            return GateAction::Keep;
        }
        if self.audited_only {
            return self.give_up();
        }
        self.audited_only = true;
        GateAction::AggregateAudited
    }

    /// Ends the round without a step: the audited updates could not be combined.
    pub fn give_up(&mut self) -> GateAction {
        self.audited_only = false;
        GateAction::Revert
    }

    /// Another shard is used from now on; `loss` is that of the current parameters on it.
    ///
    /// # Errors
    /// [`GateError`] if the loss is not finite; the gate is then as it was.
    pub fn rotate(&mut self, loss: f64) -> Result<(), GateError> {
        if !loss.is_finite() {
            return Err(GateError { loss });
        }
        self.last = loss;
        Ok(())
    }
}
