//! From a task and its inputs to an update: a volunteer's part of a round.
//!
//! [`Plan`] checks what a task says, [`Prepared`] rebuilds the parameters and checks the blocks, [`TrainRun`] takes one
//! inner step at a time, so that an adapter can rest, stop and hear messages between two of them.

use crate::allowed::Way;
use crate::sizes;
use potluck_proto::{PastUpdate, TrainTask};
use potluck_train::codec::{Codec, CodecError};
use potluck_train::data::{DataError, Held, MAX_BATCH, Order, Spec};
use potluck_train::gpt::MAX_STEP_BYTES;
use potluck_train::outer::{CHECKPOINT_CODEC, OuterError, Replica, STEP_CODEC};
use potluck_train::round::{MAX_STEPS, Part, Round, RoundError, Update};
use potluck_train::streak::{SKETCH_BYTES, SKETCH_VALUES, Streak, Taken, sketch};
use potluck_train::{Engine, Model, TrainError};
use potluck_types::BlobHash;
use potluck_types::limits::{MAX_STREAK_ROUNDS, MAX_TASK_BLOCKS, MAX_TASK_STEPS};
use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Why a part of a round cannot be completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A number outside its limits.
    #[error("{field} = {value} is outside {least}..={most}: the relay's task makes no sense")]
    Size {
        /// Field of the task.
        field: &'static str,
        /// What it says.
        value: u64,
        /// Least that works.
        least: u64,
        /// Most that works.
        most: u64,
    },
    /// A blob of another length than its content has.
    #[error("{what}: {found} bytes instead of {expected}: the relay's task contradicts itself")]
    BlobLength {
        /// Which blob.
        what: &'static str,
        /// What the task says.
        found: u64,
        /// What its content has.
        expected: u64,
    },
    /// More or fewer blobs than belong there.
    #[error("{found} {what} instead of {expected}: the relay's task contradicts itself")]
    Count {
        /// Which blobs.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many belong there.
        expected: u64,
    },
    /// Checkpoint and outer steps lead elsewhere than the task says.
    #[error("the parameters have the hash {found}, the round starts from {expected}: fetch the inputs anew")]
    Parameters {
        /// Hash of what was rebuilt.
        found: BlobHash,
        /// Hash in the task.
        expected: BlobHash,
    },
    /// A streak that no worker can have.
    #[error("the streak does not lead to round {round}: the relay's task makes no sense")]
    Streak {
        /// The round of the task.
        round: u64,
    },
    /// A streak that does not go on here.
    #[error("what was kept after the last round of the streak is not here: ask for a task that begins anew")]
    NotKept,
    /// The model, its loss, or the device.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The data set or its blocks.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The checkpoint or an outer step.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// The update left the range that codecs carry.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The number of inner steps.
    #[error(transparent)]
    Round(RoundError),
}

impl From<RoundError> for TaskError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Train(error) => Self::Train(error),
            RoundError::Data(error) => Self::Data(error),
            error => Self::Round(error),
        }
    }
}

/// Inputs of a part of a training round.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainInputs {
    /// The checkpoint.
    pub checkpoint: Arc<Vec<u8>>,
    /// The outer steps since, in order.
    pub outer_steps: Vec<Arc<Vec<u8>>>,
    /// The blocks of tokens, in the order of the task.
    pub blocks: Vec<Arc<Vec<u8>>>,
    /// What was kept after the last round of the task's streak; not looked at where it has none.
    pub kept: Option<Arc<Streak>>,
}

/// A task in the words of `potluck-train`, all sizes within their limits.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    model: Model,
    parameters: usize,
    data: Spec,
    part: Part,
    codec: Codec,
    seed: [u8; 32],
}

impl Plan {
    /// Checks a task. Takes no memory that grows with what it says.
    ///
    /// # Errors
    /// Sizes beyond the limits of `potluck-train`, blobs of other lengths than their content has, a checkpoint that does
    /// not lead to the round.
    pub fn of(task: &TrainTask) -> Result<Self, TaskError> {
        let model = sizes::model(&task.model);
        model.check()?;
        let [shortest, longest] = model.lengths().map(|length| length as u64);
        within("steps", task.steps.into(), 1, MAX_STEPS.into())?;
        within("sequences", task.sequences.into(), 1, MAX_BATCH as u64)?;
        within("length", task.length.into(), shortest, longest)?;
        within("checkpoint_every", task.checkpoint_every.into(), 1, u32::MAX.into())?;
        within("outer steps", task.outer_steps.len() as u64, 0, MAX_TASK_STEPS as u64)?;
        within("blocks", task.blocks.len() as u64, 1, MAX_TASK_BLOCKS as u64)?;
        let (sequences, length) = (task.sequences as usize, task.length as usize);
        within("memory of a step", model.step_bytes(sequences, length), 0, MAX_STEP_BYTES)?;
        let data = sizes::data(task);
        let order = Order::of_records(task.seed, &data, length, task.blocks_dealt, model.record())?;
        let plan = Self {
            model,
            parameters: model.parameters(),
            data,
            part: Part {
                order,
                round: task.round,
                worker: task.worker,
                steps: task.steps,
                steps_before: task.steps_before,
                sequences,
                schedule: sizes::schedule(&task.rate),
            },
            codec: sizes::codec(task.codec),
            seed: task.seed,
        };
        plan.check_inputs(task)?;
        check_streak(task)?;
        Ok(plan)
    }

    fn check_inputs(&self, task: &TrainTask) -> Result<(), TaskError> {
        if !task.checkpoint_round.is_multiple_of(task.checkpoint_every.into()) {
            let (round, every) = (task.checkpoint_round, task.checkpoint_every.into());
            return Err(OuterError::NoCheckpoint { round, every }.into());
        }
        let missing = task.round.checked_sub(task.checkpoint_round);
        let found = task.outer_steps.len() as u64;
        if missing != Some(found) {
            let expected = missing.unwrap_or_default();
            return Err(TaskError::Count { what: "outer steps", found, expected });
        }
        let length = |what, found: u64, expected: usize| match expected as u64 {
            expected if found == expected => Ok(()),
            expected => Err(TaskError::BlobLength { what, found, expected }),
        };
        length("checkpoint", task.checkpoint.bytes, CHECKPOINT_CODEC.encoded_len(self.parameters))?;
        for step in &task.outer_steps {
            length("outer step", step.bytes, STEP_CODEC.encoded_len(self.parameters))?;
        }
        for (at, block) in task.blocks.iter().enumerate() {
            length("block", block.blob.bytes, self.data.block_bytes(block.index)?)?;
            if task.blocks[..at].iter().any(|other| other.index == block.index) {
                return Err(TaskError::Count { what: "blocks of one number", found: 2, expected: 1 });
            }
        }
        Ok(())
    }

    /// The model, to make an engine for.
    pub const fn model(&self) -> Model {
        self.model
    }

    /// What the worker has to do, in the words of `potluck-train`.
    pub const fn part(&self) -> Part {
        self.part
    }

    /// How the update is encoded.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Parameters of the model.
    pub const fn parameters(&self) -> usize {
        self.parameters
    }

    /// Bytes of the result before the encoded update: a loss a step, and the sketch if there is one.
    pub const fn head_bytes(&self) -> usize {
        4 * self.part.steps as usize + if self.is_sparse() { SKETCH_BYTES } else { 0 }
    }

    /// Length of the result: a loss a step, a sketch with codec S, then the update.
    pub fn result_bytes(&self) -> u64 {
        (self.head_bytes() + self.codec.encoded_len(self.parameters)) as u64
    }

    /// Whether updates are encoded by codec S, so that the worker keeps something for the next round.
    pub const fn is_sparse(&self) -> bool {
        matches!(self.codec, Codec::TopK)
    }

    /// Memory of the run, but for its inputs: the CPU engine, the parameters before and after, their difference, the
    /// result, and with codec S what was and what is kept (three vectors each), the start, and the sum to be encoded.
    pub fn run_bytes(&self) -> u64 {
        let Part { sequences, order, .. } = self.part;
        let vectors = if self.is_sparse() { 11 } else { 3 };
        let vectors = vectors * 4 * self.parameters as u64;
        self.model
            .step_bytes(sequences, order.length())
            .saturating_add(vectors)
            .saturating_add(self.result_bytes())
    }

    /// What a worker commits to whose steps came to this.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    pub fn result(&self, repeated: Repeated) -> Result<Finished, CodecError> {
        let update = repeated.update();
        let mut result: Vec<u8> = update.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        let (mut encoded, kept) = match repeated {
            Repeated::Dense(update) => (self.codec.encode(&update.delta)?, None),
            Repeated::Sparse(taken) => {
                result.extend(self.sketch(self.part, &taken.update).iter().flat_map(|sum| sum.to_le_bytes()));
                let (encoded, kept) = Streak::encode(taken)?;
                (encoded, Some(Arc::new(kept)))
            }
        };
        result.append(&mut encoded);
        Ok(Finished { result, kept })
    }

    /// The sketch of an update that came of a part of this run.
    pub(crate) fn sketch(&self, part: Part, update: &Update) -> [f32; SKETCH_VALUES] {
        sketch(&self.seed, part.round, part.worker, &update.delta)
    }

    /// Floating-point operations of all steps.
    pub fn flops(&self) -> u64 {
        let Part { steps, sequences, order, .. } = self.part;
        self.model.step_flops(sequences, order.length()).saturating_mul(steps.into())
    }
}

/// Whether a streak could be a worker's: rounds before this one, in order.
fn check_streak(task: &TrainTask) -> Result<(), TaskError> {
    within("streak", task.streak.len() as u64, 0, MAX_STREAK_ROUNDS as u64)?;
    let mut next = 0;
    for PastUpdate { round, .. } in &task.streak {
        if task.codec != potluck_proto::UpdateCodec::TopK || *round < next || *round >= task.round {
            return Err(TaskError::Streak { round: task.round });
        }
        next = round + 1;
    }
    Ok(())
}

fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), TaskError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(TaskError::Size { field, value, least, most })
}

/// A part of a round whose inputs are in order: parameters rebuilt, blocks checked.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    replica: Replica,
    data: Held,
    /// With codec S: what was kept.
    kept: Option<Arc<Streak>>,
    /// Where the steps start, if elsewhere than at the round's parameters.
    start: Option<Vec<f32>>,
    way: Way,
}

impl Prepared {
    /// Rebuilds the parameters from checkpoint and outer steps, and checks them and the blocks against the task.
    ///
    /// # Errors
    /// As [`Plan::of`]; inputs that are not what the task says.
    pub fn new(task: &TrainTask, inputs: TrainInputs) -> Result<Self, TaskError> {
        let plan = Plan::of(task)?;
        let TrainInputs { checkpoint, outer_steps, blocks, kept } = inputs;
        let counts = [
            ("outer steps", outer_steps.len(), task.outer_steps.len()),
            ("blocks", blocks.len(), task.blocks.len()),
        ];
        if let Some((what, found, expected)) = counts.into_iter().find(|(_, found, named)| found != named) {
            return Err(TaskError::Count { what, found: found as u64, expected: expected as u64 });
        }
        let every = NonZeroU64::new(task.checkpoint_every.into()).unwrap_or(NonZeroU64::MIN);
        let mut replica =
            Replica::from_checkpoint(task.checkpoint_round, &checkpoint, plan.parameters, every)?;
        for step in &outer_steps {
            replica.follow(replica.round().saturating_add(1), step)?;
        }
        let (found, expected) = (replica.hash(), task.parameters);
        if found != expected {
            return Err(TaskError::Parameters { found, expected });
        }
        let mut data = Held::new(plan.data)?;
        for (block, bytes) in task.blocks.iter().zip(blocks) {
            data.insert(block.index, Arc::unwrap_or_clone(bytes), &block.proof)?;
        }
        let kept = if plan.is_sparse() {
            let kept = if task.streak.is_empty() {
                Arc::new(Streak::new(plan.parameters)?)
            } else {
                kept.filter(|kept| kept.parameters() == plan.parameters).ok_or(TaskError::NotKept)?
            };
            Some(kept)
        } else {
            None
        };
        let start = kept.as_ref().map(|kept| kept.start(replica.parameters())).transpose()?;
        Ok(Self { plan, replica, data, kept, start, way: Way::Plain })
    }

    /// For a replay in another way.
    #[must_use]
    pub fn in_way(mut self, way: Way) -> Self {
        if let Cow::Owned(start) = way.start(self.start()) {
            self.start = Some(start);
        }
        self.way = way;
        self
    }

    fn start(&self) -> &[f32] {
        self.start.as_deref().unwrap_or_else(|| self.replica.parameters())
    }

    /// The model, to make an engine for.
    pub const fn model(&self) -> Model {
        self.plan.model()
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Inner steps that are done.
    pub done: u32,
    /// Inner steps in all.
    pub steps: u32,
}

impl Progress {
    /// Whether all steps are done.
    pub const fn complete(self) -> bool {
        self.done >= self.steps
    }
}

/// What a worker commits to, and what it keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Losses, the sketch if the codec has one, and the encoded update; [`Plan::result_bytes`] in all.
    pub result: Vec<u8>,
    /// With codec S, what the streak's next round goes on from, if this result is accepted.
    pub kept: Option<Arc<Streak>>,
}

impl From<Vec<u8>> for Finished {
    /// A result after which nothing is kept.
    fn from(result: Vec<u8>) -> Self {
        Self { result, kept: None }
    }
}

/// A part of a round under way.
///
/// Determinism: on one engine the result is a function of task and inputs.
#[derive(Debug)]
pub struct TrainRun<'a, E> {
    prepared: &'a Prepared,
    engine: E,
    round: Round<'a>,
}

impl<'a, E: Engine> TrainRun<'a, E> {
    /// Gives an engine for [`Prepared::model`] the round's parameters.
    ///
    /// # Errors
    /// Parameters that the engine refuses, or what the device says.
    pub async fn start(prepared: &'a Prepared, mut engine: E) -> Result<Self, TaskError> {
        let part = prepared.plan.part;
        let round = match &prepared.kept {
            Some(kept) => kept.load(part, prepared.start(), &mut engine).await?,
            None => Round::start(part, prepared.start(), &mut engine).await?,
        };
        Ok(Self { prepared, engine, round })
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        Progress { done: self.round.done(), steps: self.prepared.plan.part.steps }
    }

    /// Takes the next inner step, if there is one left.
    ///
    /// # Errors
    /// A block that the task did not name, a loss that is not finite, or what the device says.
    pub async fn step(&mut self) -> Result<Progress, TaskError> {
        let Prepared { data, way, .. } = self.prepared;
        self.round.step(&mut self.engine, &way.batches(data)).await?;
        Ok(self.progress())
    }

    /// The result, when all steps are done; takes those that are left.
    ///
    /// # Errors
    /// As [`TrainRun::step`]; an update beyond what codecs carry.
    pub async fn finish(self) -> Result<Finished, TaskError> {
        let plan = self.prepared.plan;
        Ok(plan.result(self.repeat().await?)?)
    }

    /// The update, when all steps are done; takes those that are left.
    ///
    /// # Errors
    /// As [`TrainRun::step`].
    pub async fn repeat(self) -> Result<Repeated, TaskError> {
        let Self { prepared, mut engine, round } = self;
        let Prepared { plan, data, way, .. } = prepared;
        let data = way.batches(data);
        Ok(match &prepared.kept {
            Some(kept) => Repeated::Sparse(kept.finish(round, plan.model, &mut engine, &data).await?),
            None => Repeated::Dense(round.finish(&mut engine, &data).await?),
        })
    }
}

/// A worker's steps, taken again.
#[derive(Debug, Clone, PartialEq)]
pub enum Repeated {
    /// With a codec that keeps nothing.
    Dense(Update),
    /// With codec S.
    Sparse(Taken),
}

impl Repeated {
    /// What the steps changed, and the losses on the way.
    pub const fn update(&self) -> &Update {
        match self {
            Self::Dense(update) | Self::Sparse(Taken { update, .. }) => update,
        }
    }

    /// What the encoder gets.
    pub fn encoded(&self) -> &[f32] {
        match self {
            Self::Dense(update) => &update.delta,
            Self::Sparse(taken) => &taken.sum,
        }
    }
}
