//! The outer step: what the combined update does to the parameters, and how everybody comes to hold the same ones.
//!
//! **Which vector is canonical.** A round's parameters are what a [`Replica`] holds, and nothing else: the relay has
//! one, and so has each volunteer. The relay never applies its own exact step. It encodes the step as int8, with error
//! feedback, and then follows the decoded bytes as volunteers do: θ ← θ - decoded step, one f32 subtraction a value.
//! Replicas with equal bits therefore stay equal, and what int8 left out is in the relay's error, which is part of the
//! next step.
//!
//! **Checkpoints.** After every 20th round (and at the start) each replica rounds its parameters to f16, by itself and
//! without a download; only then does the round count as over. So a checkpoint in f16 is exact: who starts from one
//! and follows the later steps holds the same bits as who was there from the start. What the rounding took away the
//! relay adds to its error: the next step makes it good.
//!
//! Determinism: f32 on the CPU; each product, sum and difference is rounded on its own, none fused.

use crate::codec::{Codec, CodecError, Feedback, MAX_MAGNITUDE, check_values, hash_values, round_to_f16};
use potluck_types::BlobHash;
use std::num::NonZeroU64;

/// How a step travels to the volunteers.
pub const STEP_CODEC: Codec = Codec::Int8;
/// How a checkpoint travels.
pub const CHECKPOINT_CODEC: Codec = Codec::F16;

/// How the outer step is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OuterParams {
    /// Decay of the momentum. Default 0.9.
    pub momentum: f32,
    /// Learning rate of [`OuterRule::Nesterov`]. Default 0.7.
    pub rate: f32,
    /// Learning rate of [`OuterRule::Plain`]. Default 1.
    pub plain_rate: f32,
    /// Rounds from one checkpoint to the next. Default 20.
    pub checkpoint_every: NonZeroU64,
}

impl Default for OuterParams {
    fn default() -> Self {
        let checkpoint_every = NonZeroU64::MIN.saturating_add(19);
        Self { momentum: 0.9, rate: 0.7, plain_rate: 1.0, checkpoint_every }
    }
}

/// What becomes of the combined update d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OuterRule {
    /// For dense codecs: m ← (0.9 · m) + d, step = 0.7 · (d + (0.9 · m)) with the new m.
    /// Source: Douillard et al., DiLoCo, arXiv 2311.08105.
    Nesterov,
    /// For codec S: step = 1.0 · d. The momentum neither acts nor changes: the volunteers' error feedback already is one,
    /// and the two together diverge.
    Plain,
}

/// Why a step cannot be taken. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OuterError {
    /// A vector of another length.
    #[error("{what} has {found} values, the model {expected}")]
    Length {
        /// Which vector.
        what: &'static str,
        /// Its values.
        found: usize,
        /// Parameters of the model.
        expected: usize,
    },
    /// A value left the range that codecs carry.
    #[error(
        "{what} {index} is {value:e}, not within ±{MAX_MAGNITUDE}: the run diverged; go back to an earlier round"
    )]
    Diverged {
        /// Which vector.
        what: &'static str,
        /// Which value.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// The step of another round.
    #[error(
        "the step leads to round {found}, expected was {expected}: fetch the steps in between, or a checkpoint"
    )]
    Round {
        /// Round that the step leads to.
        found: u64,
        /// The next round.
        expected: u64,
    },
    /// A checkpoint of a round that has none.
    #[error("round {round} has no checkpoint: there is one every {every} rounds")]
    NoCheckpoint {
        /// The round.
        round: u64,
        /// Rounds from one to the next.
        every: u64,
    },
    /// A codec refused.
    #[error("{what}: {source}")]
    Codec {
        /// What was encoded or decoded.
        what: &'static str,
        /// Why not.
        source: CodecError,
    },
}

/// The parameters that relay and volunteers hold alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    parameters: Vec<f32>,
    round: u64,
    checkpoint_every: NonZeroU64,
}

impl Replica {
    /// Round 0: the given parameters, rounded to f16.
    ///
    /// # Errors
    /// [`OuterError::Diverged`] for a value that is not finite or too large.
    pub fn start(mut parameters: Vec<f32>, checkpoint_every: NonZeroU64) -> Result<Self, OuterError> {
        round_to_f16(&mut parameters).map_err(|error| diverged("parameter", &parameters, error))?;
        Ok(Self { parameters, round: 0, checkpoint_every })
    }

    /// Starts from the checkpoint of a round.
    ///
    /// # Errors
    /// [`OuterError::NoCheckpoint`] if the round has none, [`OuterError::Codec`] for bytes that are none.
    pub fn from_checkpoint(
        round: u64,
        bytes: &[u8],
        parameters: usize,
        checkpoint_every: NonZeroU64,
    ) -> Result<Self, OuterError> {
        if round % checkpoint_every != 0 {
            return Err(OuterError::NoCheckpoint { round, every: checkpoint_every.get() });
        }
        let parameters = CHECKPOINT_CODEC
            .decode(bytes, parameters)
            .map_err(|source| OuterError::Codec { what: "checkpoint", source })?;
        Ok(Self { parameters, round, checkpoint_every })
    }

    /// Takes the step that leads to `round`.
    ///
    /// # Errors
    /// [`OuterError::Round`] if that is not the next one, [`OuterError::Codec`] for bytes that are no step,
    /// [`OuterError::Diverged`]; nothing has changed then.
    pub fn follow(&mut self, round: u64, step: &[u8]) -> Result<(), OuterError> {
        if Some(round) != self.round.checked_add(1) {
            return Err(OuterError::Round { found: round, expected: self.round.saturating_add(1) });
        }
        let mut next = STEP_CODEC
            .decode(step, self.parameters.len())
            .map_err(|source| OuterError::Codec { what: "step", source })?;
        for (step, parameter) in next.iter_mut().zip(&self.parameters) {
            *step = parameter - *step;
        }
        let ready =
            if round % self.checkpoint_every == 0 { round_to_f16(&mut next) } else { check_values(&next) };
        ready.map_err(|error| diverged("parameter", &next, error))?;
        (self.parameters, self.round) = (next, round);
        Ok(())
    }

    /// The parameters from which the next round starts.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Rounds that are over.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The checkpoint, if the round has one: the parameters as f16, exactly.
    ///
    /// # Errors
    /// [`OuterError::NoCheckpoint`] otherwise.
    pub fn checkpoint(&self) -> Result<Vec<u8>, OuterError> {
        if self.round % self.checkpoint_every != 0 {
            return Err(OuterError::NoCheckpoint { round: self.round, every: self.checkpoint_every.get() });
        }
        CHECKPOINT_CODEC
            .encode(&self.parameters)
            .map_err(|source| OuterError::Codec { what: "checkpoint", source })
    }

    /// Hash of the parameters: BLAKE3 of their f32, little-endian; what a round's specification names.
    pub fn hash(&self) -> BlobHash {
        let mut hasher = blake3::Hasher::new();
        hash_values(&mut hasher, &self.parameters);
        BlobHash(*hasher.finalize().as_bytes())
    }
}

/// The relay's side: its replica, the momentum, and the error of the downlink.
///
/// To take a step back (see the gate in `potluck-verify`), keep a clone from before it and publish nothing in between.
#[derive(Debug, Clone, PartialEq)]
pub struct Outer {
    params: OuterParams,
    replica: Replica,
    momentum: Vec<f32>,
    feedback: Feedback,
}

impl Outer {
    /// Round 0. The parameters are rounded to f16, and the first step makes that good.
    ///
    /// # Errors
    /// [`OuterError::Diverged`] for a value that is not finite or too large.
    pub fn start(parameters: Vec<f32>, params: OuterParams) -> Result<Self, OuterError> {
        let exact = parameters.clone();
        let momentum = vec![0.0; parameters.len()];
        let replica = Replica::start(parameters, params.checkpoint_every)?;
        let mut feedback = Feedback::new(STEP_CODEC, 1.0, exact.len())
            .map_err(|source| OuterError::Codec { what: "error of the steps", source })?;
        feedback.carry(replica.parameters.iter().zip(&exact).map(|(rounded, exact)| rounded - exact));
        Ok(Self { params, replica, momentum, feedback })
    }

    /// Goes on from a state that was stored: parameters after `round`, momentum, and error of the downlink.
    ///
    /// # Errors
    /// [`OuterError::Length`] or [`OuterError::Diverged`].
    pub fn resume(
        round: u64,
        parameters: Vec<f32>,
        momentum: Vec<f32>,
        error: Vec<f32>,
        params: OuterParams,
    ) -> Result<Self, OuterError> {
        let expected = parameters.len();
        for (what, values) in [("parameter", &parameters), ("momentum", &momentum), ("error", &error)] {
            length(what, values, expected)?;
            check_values(values).map_err(|error| diverged(what, values, error))?;
        }
        let feedback = Feedback::resume(STEP_CODEC, 1.0, error)
            .map_err(|source| OuterError::Codec { what: "error of the steps", source })?;
        let replica = Replica { parameters, round, checkpoint_every: params.checkpoint_every };
        Ok(Self { params, replica, momentum, feedback })
    }

    /// Takes the step for the combined update of the volunteers (θ before - θ after), and gives its bytes: what
    /// volunteers follow to the next round.
    ///
    /// # Errors
    /// [`OuterError::Length`], [`OuterError::Diverged`] or [`OuterError::Codec`]; nothing has changed then.
    pub fn step(&mut self, update: &[f32], rule: OuterRule) -> Result<Vec<u8>, OuterError> {
        self.check(update)?;
        let (momentum, step) = match rule {
            OuterRule::Nesterov => self.nesterov(update),
            OuterRule::Plain => (self.momentum.clone(), self.plain(update)),
        };
        self.take(momentum, &step)
    }

    /// The step where some volunteers sent dense updates and others sparse ones, each combined by itself:
    /// (share · Nesterov's step for the dense ones) + the plain step for the sparse ones.
    ///
    /// `share` is that of the dense ones among all. The sparse step is whole, for it is not a mean of its senders but about
    /// their sum: each value has one sender at a time, who sends all that it has saved up.
    ///
    /// # Errors
    /// As [`Outer::step`].
    pub fn step_of_both(&mut self, dense: &[f32], sparse: &[f32], share: f32) -> Result<Vec<u8>, OuterError> {
        self.check(dense)?;
        self.check(sparse)?;
        let (momentum, mut step) = self.nesterov(dense);
        for (step, plain) in step.iter_mut().zip(self.plain(sparse)) {
            *step = (share * *step) + plain;
        }
        self.take(momentum, &step)
    }

    fn check(&self, update: &[f32]) -> Result<(), OuterError> {
        length("update", update, self.momentum.len())?;
        check_values(update).map_err(|error| diverged("update", update, error))
    }

    /// Momentum and step of [`OuterRule::Nesterov`].
    fn nesterov(&self, update: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let OuterParams { momentum: decay, rate, .. } = self.params;
        let momentum: Vec<f32> = self.momentum.iter().zip(update).map(|(m, d)| (decay * m) + d).collect();
        let step = momentum.iter().zip(update).map(|(m, d)| rate * (d + (decay * m))).collect();
        (momentum, step)
    }

    /// Step of [`OuterRule::Plain`].
    fn plain(&self, update: &[f32]) -> Vec<f32> {
        update.iter().map(|d| self.params.plain_rate * d).collect()
    }

    /// Encodes a step and follows it.
    fn take(&mut self, momentum: Vec<f32>, step: &[f32]) -> Result<Vec<u8>, OuterError> {
        check_values(&momentum).map_err(|error| diverged("momentum", &momentum, error))?;
        let mut feedback = self.feedback.clone();
        let codec = |source| OuterError::Codec { what: "step", source };
        let bytes = feedback.encode(step).map_err(codec)?;
        let mut replica = self.replica.clone();
        replica.follow(replica.round.saturating_add(1), &bytes)?;
        if replica.round % replica.checkpoint_every == 0 {
            let sent = STEP_CODEC.decode(&bytes, step.len()).map_err(codec)?;
            let exact = self.replica.parameters.iter().zip(sent).map(|(parameter, step)| parameter - step);
            feedback.carry(replica.parameters.iter().zip(exact).map(|(rounded, exact)| rounded - exact));
        }
        (self.replica, self.momentum, self.feedback) = (replica, momentum, feedback);
        Ok(bytes)
    }

    /// What volunteers hold.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The momentum, to be stored.
    pub fn momentum(&self) -> &[f32] {
        &self.momentum
    }

    /// What the downlink has left out, to be stored.
    pub fn error(&self) -> &[f32] {
        self.feedback.error()
    }

    /// Hash of the whole state: BLAKE3 in its mode for deriving keys, of the round and the number of parameters (u64
    /// each), then parameters, momentum and error (f32 each), all little-endian.
    pub fn hash(&self) -> BlobHash {
        let mut hasher = blake3::Hasher::new_derive_key("potluck 2026 outer state v1");
        hasher.update(&self.replica.round.to_le_bytes());
        hasher.update(&(self.momentum.len() as u64).to_le_bytes());
        for values in [&self.replica.parameters, &self.momentum, self.feedback.error()] {
            hash_values(&mut hasher, values);
        }
        BlobHash(*hasher.finalize().as_bytes())
    }
}

fn length(what: &'static str, values: &[f32], expected: usize) -> Result<(), OuterError> {
    if values.len() == expected {
        return Ok(());
    }
    Err(OuterError::Length { what, found: values.len(), expected })
}

/// Says which value of which vector a codec would not carry.
fn diverged(what: &'static str, values: &[f32], error: CodecError) -> OuterError {
    match error {
        CodecError::NotFinite { index } | CodecError::TooLarge { index, .. } => {
            OuterError::Diverged { what, index, value: values[index] }
        }
        source => OuterError::Codec { what, source },
    }
}
