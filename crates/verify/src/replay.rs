//! Replay: a volunteer's inner steps, repeated by an auditor, compared.
//!
//! Honest work on another device differs by rounding: measured 1e-5 to 8e-5 of the update's norm. Coarser arithmetic
//! differs by 3e-3 and more, other data by about 1. Whether encoded bytes and error feedback are right is compared
//! bit by bit, without tolerance, by whoever has the codec.

use crate::aggregate::norm;
use std::ops::Range;

/// What rounding may explain, logged with each round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Deviation of the whole update, relative to its norm. Default 1e-3.
    pub whole: f64,
    /// Deviation of a tensor, relative to its norm. Default 1e-2.
    pub tensor: f64,
    /// A tensor's norm counts as at least this share of the whole update's. Default 1e-3: where the
    /// true update is next to nothing, rounding is most of it.
    pub tensor_floor: f64,
    /// Difference of a step's loss, in nats. Default 1e-3.
    pub loss: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self { whole: 1e-3, tensor: 1e-2, tensor_floor: 1e-3, loss: 1e-3 }
    }
}

/// Whether a replay confirms a claim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplayVerdict {
    /// Within tolerance everywhere.
    Confirmed,
    /// Not what the steps give.
    Refuted(ReplayReason),
}

/// Why a claim is refuted: the first reason, in this order.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayReason {
    /// The claimed update has another length.
    #[error("{found} values are claimed for {expected} parameters")]
    Length {
        /// Values claimed.
        found: usize,
        /// Parameters.
        expected: usize,
    },
    /// A claimed value is NaN or infinite.
    #[error("the claimed value {index} is not finite")]
    NotFinite {
        /// Which value.
        index: usize,
    },
    /// Losses of another number of steps.
    #[error("{found} losses are claimed for {expected} steps")]
    Steps {
        /// Losses claimed.
        found: usize,
        /// Steps.
        expected: usize,
    },
    /// The whole update deviates.
    #[error("the update deviates by {deviation:.2e} of its norm, tolerance {tolerance:.0e}")]
    Whole {
        /// Relative deviation.
        deviation: f64,
        /// What rounding may explain.
        tolerance: f64,
    },
    /// A tensor deviates.
    #[error("tensor {tensor} deviates by {deviation:.2e} of its norm, tolerance {tolerance:.0e}")]
    Tensor {
        /// Which one.
        tensor: usize,
        /// Relative deviation.
        deviation: f64,
        /// What rounding may explain.
        tolerance: f64,
    },
    /// A loss deviates.
    #[error("the loss of step {step} deviates by {difference:.2e} nats, tolerance {tolerance:.0e}")]
    Loss {
        /// Which step.
        step: usize,
        /// Claimed minus replayed, without sign.
        difference: f64,
        /// What rounding may explain.
        tolerance: f64,
    },
}

/// All figures of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayReport {
    /// Confirmed, or the first reason why not.
    pub verdict: ReplayVerdict,
    /// ||claimed - replayed|| / ||replayed||: NaN or infinite if that is not defined.
    pub whole: f64,
    /// The same for each tensor, in their order; empty if the lengths differ.
    pub tensors: Vec<f64>,
    /// |claimed - replayed| of each step's loss; empty if the numbers of steps differ.
    pub losses: Vec<f64>,
}

impl ReplayReport {
    /// Whether the claim stands.
    pub fn confirmed(&self) -> bool {
        self.verdict == ReplayVerdict::Confirmed
    }

    /// The largest deviation of a tensor, and which it is. NaN counts as largest.
    pub fn worst_tensor(&self) -> Option<(usize, f64)> {
        self.tensors.iter().copied().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
    }
}

/// Why nothing can be compared: a fault of the auditor or of the run, not of the volunteer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A tensor beyond the parameters.
    #[error("tensor {tensor} is {range:?} of {parameters} parameters: use the layout of this model")]
    Tensor {
        /// Which one.
        tensor: usize,
        /// Where it should be.
        range: Range<usize>,
        /// Parameters.
        parameters: usize,
    },
    /// The replay itself failed.
    #[error("the replay gave values that are not finite: repeat it on another device before you judge")]
    NotFinite,
    /// Honest replays are so far apart that no cheat can be told from them.
    #[error(
        "rounding alone moves an update of this round by up to {whole:.0e} of its norm, and a tensor by {tensor:.0e}, so \
         nobody can be judged: begin the run again with a lower peak of the learning rate, or a longer fresh-warmup"
    )]
    Unstable {
        /// How far the replays were apart, relative to the update's norm.
        whole: f64,
        /// The same of a tensor.
        tensor: f64,
    },
}

/// Compares a claimed update (θ before - θ after) and its losses with a replay of the same steps.
///
/// # Errors
/// [`ReplayError`] if the replay itself cannot be used.
pub fn compare(
    claimed: &[f32],
    replayed: &[f32],
    tensors: &[Range<usize>],
    claimed_losses: &[f32],
    replayed_losses: &[f32],
    tolerances: &Tolerances,
) -> Result<ReplayReport, ReplayError> {
    let parameters = replayed.len();
    let wrong = |range: &Range<usize>| range.start > range.end || range.end > parameters;
    if let Some(tensor) = tensors.iter().position(wrong) {
        return Err(ReplayError::Tensor { tensor, range: tensors[tensor].clone(), parameters });
    }
    if !replayed.iter().chain(replayed_losses).all(|value| value.is_finite()) {
        return Err(ReplayError::NotFinite);
    }
    let same_steps = claimed_losses.len() == replayed_losses.len();
    let losses: Vec<f64> = if same_steps {
        let pairs = claimed_losses.iter().zip(replayed_losses);
        pairs.map(|(&claimed, &replayed)| (f64::from(claimed) - f64::from(replayed)).abs()).collect()
    } else {
        Vec::new()
    };
    if claimed.len() != parameters {
        let reason = ReplayReason::Length { found: claimed.len(), expected: parameters };
        let verdict = ReplayVerdict::Refuted(reason);
        return Ok(ReplayReport { verdict, whole: f64::NAN, tensors: Vec::new(), losses });
    }
    let length = norm(replayed.iter().copied());
    let whole = relative(difference(claimed, replayed), length);
    let tensors: Vec<f64> = tensors
        .iter()
        .map(|range| {
            let (claimed, replayed) = (&claimed[range.clone()], &replayed[range.clone()]);
            let least = tolerances.tensor_floor * length;
            relative(difference(claimed, replayed), norm(replayed.iter().copied()).max(least))
        })
        .collect();
    let reason = if let Some(index) = claimed.iter().position(|value| !value.is_finite()) {
        Some(ReplayReason::NotFinite { index })
    } else if !same_steps {
        Some(ReplayReason::Steps { found: claimed_losses.len(), expected: replayed_losses.len() })
    } else {
        first_beyond(whole, &tensors, &losses, tolerances)
    };
    let verdict = reason.map_or(ReplayVerdict::Confirmed, ReplayVerdict::Refuted);
    Ok(ReplayReport { verdict, whole, tensors, losses })
}

/// The first figure that is not within tolerance; NaN is not.
fn first_beyond(
    whole: f64,
    tensors: &[f64],
    losses: &[f64],
    tolerances: &Tolerances,
) -> Option<ReplayReason> {
    // NaN is not within anything.
    let within = |figure: f64, tolerance: f64| figure <= tolerance;
    if !within(whole, tolerances.whole) {
        return Some(ReplayReason::Whole { deviation: whole, tolerance: tolerances.whole });
    }
    if let Some(tensor) = tensors.iter().position(|&deviation| !within(deviation, tolerances.tensor)) {
        let (deviation, tolerance) = (tensors[tensor], tolerances.tensor);
        return Some(ReplayReason::Tensor { tensor, deviation, tolerance });
    }
    let step = losses.iter().position(|&difference| !within(difference, tolerances.loss))?;
    Some(ReplayReason::Loss { step, difference: losses[step], tolerance: tolerances.loss })
}

/// Norm of a difference that is taken in f64.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| {
        let difference = f64::from(a) - f64::from(b);
        difference * difference
    });
    squares.sum::<f64>().sqrt()
}

/// 0 of nothing is nothing; something of nothing is infinite.
fn relative(difference: f64, length: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / length }
}
