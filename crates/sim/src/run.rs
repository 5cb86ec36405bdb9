//! Training runs with real numbers in them, small enough for thousands of seeds: terms, data, a worker's part of a
//! round, and the test that an update is right.

use crate::plan::PlannedRun;
use crate::rng::Rng;
use potluck_proto::{BlobRef, DataSetSpec, LearningRate, ModelSizes, Task, TrainTask, UpdateCodec};
use potluck_rounds::{
    Data, Finished, Host, HostError, Plan, Prepared, Reference, Repeated, TaskError, Terms, TrainInputs,
    TrainRun, Way, again, replay, sizes,
};
use potluck_schedule::{RunSpec, SparsePolicy};
use potluck_train::data::{DataError, DataSet, Held};
use potluck_train::outer::{OuterParams, Replica};
use potluck_train::round::Part;
use potluck_train::streak::Streak;
use potluck_types::{BlobHash, JobId};
use potluck_verify::AggregateParams;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// An update further than this from the right one, relative to its norm, is wrong.
///
/// A replay allows for 1e-3, and a value at the border of two codes may fall to either side: with int4, a seventh of
/// the largest value, for a few values in a thousand. Lies of the simulator are larger.
pub const WRONG_UPDATE: f64 = 0.1;
/// The same of codec S: at the border of the 64 largest, rounding decides which values are sent.
const WRONG_SPARSE: f64 = 0.4;
/// By how much a device's arithmetic differs, relative to each value: half of what a replay allows for.
const DRIFT: f32 = 5e-5;
/// Rounds of a streak: few, so that some end.
const STREAK: u64 = 4;
const VOCABULARY: u32 = 5;
const TRAIN_TOKENS: usize = 400;
const VALIDATION_TOKENS: usize = 120;

/// All runs of a seed.
pub type Runs = BTreeMap<JobId, Arc<Training>>;

/// A run and its data.
#[derive(Debug)]
pub struct Training {
    /// What the machine is told.
    pub spec: RunSpec,
    terms: Terms,
    data: Data,
    secret: [u8; 32],
}

impl Training {
    /// Draws the data of a run.
    ///
    /// # Errors
    /// Data or terms that are none: not with these sizes.
    pub fn draw(rng: &mut Rng, id: JobId, planned: &PlannedRun) -> Result<Self, HostError> {
        let mut set = |count| {
            let mut last = 0;
            let tokens: Vec<u32> = std::iter::repeat_with(|| {
                last = (2 * last + 1 + u32::from(rng.permille(200))) % VOCABULARY;
                last
            })
            .take(count)
            .collect();
            Ok::<_, DataError>(Arc::new(DataSet::new(&tokens, VOCABULARY as usize)?))
        };
        let data = Data { train: set(TRAIN_TOKENS)?, validation: set(VALIDATION_TOKENS)? };
        let terms = Terms {
            model: ModelSizes {
                vocabulary: VOCABULARY,
                context: 4,
                layers: 1,
                heads: 1,
                width: 4,
                bias: planned.bias,
            }
            .into(),
            steps: 2,
            sequences: 2,
            length: 4,
            rate: LearningRate {
                peak_nano: 3_000_000,
                least_nano: 300_000,
                warmup: 1,
                steps: 100,
                fresh_warmup: 1,
            },
            seed: rng.bytes(),
            blocks_dealt: 0,
            codec: planned.codec,
            outer: OuterParams::default(),
            aggregate: AggregateParams::default(),
            streak: if planned.sparse || planned.codec == UpdateCodec::TopK { STREAK } else { 0 },
        };
        let parameters = sizes::model(&terms.model).parameters();
        let secret = rng.bytes();
        let initial = sizes::model(&terms.model).init(&terms.seed);
        let (host, _) = Host::start(terms, initial, data.clone(), secret)?;
        let (memory_bytes, flops) = (host.memory_bytes()?, host.flops()?);
        let spec = RunSpec {
            id,
            name: format!("{parameters} parameters"),
            model: terms.model,
            rounds: planned.rounds,
            steps: terms.steps,
            sequences: terms.sequences,
            length: terms.length,
            rate: terms.rate,
            seed: terms.seed,
            blocks_dealt: terms.blocks_dealt,
            codec: terms.codec,
            update_bytes: sizes::update_bytes(terms.codec, parameters),
            streak: terms.streak,
            // Every update counts as large: who is credible sends codec S.
            sparse: planned.sparse.then(|| SparsePolicy {
                large_update: 0,
                ..SparsePolicy::new(sizes::update_bytes(UpdateCodec::TopK, parameters))
            }),
            memory_bytes,
            flops,
            data: DataSetSpec { tokens: data.train.spec().tokens, tree: data.train.spec().tree },
            min_workers: 1,
            max_workers: planned.max_workers,
            short_rounds: false,
            audit: planned.audit,
        };
        Ok(Self { spec, terms, data, secret })
    }

    /// The run before its first round, with its first checkpoint.
    ///
    /// # Errors
    /// As [`Host::start`].
    pub fn start(&self) -> Result<(Host, Vec<u8>), HostError> {
        let parameters = sizes::model(&self.terms.model).init(&self.terms.seed);
        Host::start(self.terms, parameters, self.data.clone(), self.secret)
    }

    /// The run after a restart.
    ///
    /// # Errors
    /// As [`Host::resume`].
    pub fn resume(&self, state: &[u8], checkpoint: BlobRef, steps: Vec<BlobRef>) -> Result<Host, HostError> {
        Host::resume(self.terms, state, self.data.clone(), self.secret, checkpoint, steps)
    }

    /// The blocks of tokens, as volunteers fetch them.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        let train = &self.data.train;
        (0..train.spec().blocks()).filter_map(|index| train.block(index).ok())
    }
}

/// The blobs that a task names, in order.
pub fn refs(task: &Task) -> Vec<BlobRef> {
    match task {
        Task::Matmul(task) => task.a.iter().chain(&task.bt).copied().collect(),
        Task::Train(task) => {
            let blocks = task.blocks.iter().map(|block| block.blob);
            [task.checkpoint].into_iter().chain(task.outer_steps.iter().copied()).chain(blocks).collect()
        }
        Task::Eval(task) => vec![task.parameters, task.items],
    }
}

/// The inputs of a task, if all are known.
pub fn inputs(task: &TrainTask, blob: impl Fn(&BlobHash) -> Option<Arc<Vec<u8>>>) -> Option<TrainInputs> {
    let mut inputs = TrainInputs {
        checkpoint: blob(&task.checkpoint.hash)?,
        outer_steps: task.outer_steps.iter().map(|step| blob(&step.hash)).collect::<Option<_>>()?,
        blocks: task.blocks.iter().map(|block| blob(&block.blob.hash)).collect::<Option<_>>()?,
        kept: None,
    };
    if !task.streak.is_empty() {
        inputs.kept = Some(Arc::new(kept(task, &inputs, blob)?));
    }
    Some(inputs)
}

/// What was kept after the last round of a task's streak, from what was sent in its rounds. The data are one block.
fn kept(
    task: &TrainTask,
    inputs: &TrainInputs,
    blob: impl Fn(&BlobHash) -> Option<Arc<Vec<u8>>>,
) -> Option<Streak> {
    let plan = Plan::of(task).ok()?;
    let every = NonZeroU64::new(task.checkpoint_every.into())?;
    let (start, count) = (task.checkpoint_round, plan.parameters());
    let mut replica = Replica::from_checkpoint(start, &inputs.checkpoint, count, every).ok()?;
    let mut data = Held::new(sizes::data(task)).ok()?;
    for (block, bytes) in task.blocks.iter().zip(&inputs.blocks) {
        data.insert(block.index, bytes.to_vec(), &block.proof).ok()?;
    }
    let mut kept = Streak::new(count).ok()?;
    for past in &task.streak {
        while replica.round() < past.round {
            let step = inputs.outer_steps.get((replica.round() - start) as usize)?;
            replica.follow(replica.round() + 1, step).ok()?;
        }
        let steps_before = past.round * u64::from(task.steps);
        let part = Part { round: past.round, worker: past.worker, steps_before, ..plan.part() };
        let taken = again(&plan, part, &kept, replica.parameters(), &data, Way::Plain).ok()?;
        let Some(result) = past.result else {
            kept = Streak::unsent(taken).ok()?;
            continue;
        };
        let sent = blob(&result)?;
        kept = Streak::sent(taken, replay::split(&plan, &sent)?.encoded).ok()?;
    }
    Some(kept)
}

/// What a worker makes of its task, with the rounding of another device if there is a `drift`.
///
/// # Errors
/// What the task, its inputs or the engine say.
pub fn work(task: &TrainTask, inputs: TrainInputs, drift: Option<&mut Rng>) -> Result<Finished, TaskError> {
    let plan = Plan::of(task)?;
    let prepared = Prepared::new(task, inputs)?;
    let engine = Reference::new(prepared.model())?;
    let mut repeated = now(async {
        let mut run = TrainRun::start(&prepared, engine).await?;
        while !run.step().await?.complete() {}
        run.repeat().await
    })?;
    if let Some(rng) = drift {
        let (update, mut sum) = match &mut repeated {
            Repeated::Dense(update) => (update, None),
            Repeated::Sparse(taken) => (&mut taken.update, Some(&mut taken.sum)),
        };
        for loss in &mut update.losses {
            *loss *= 1.0 + DRIFT * rng.signed_unit();
        }
        for (at, value) in update.delta.iter_mut().enumerate() {
            let drift = *value * DRIFT * rng.signed_unit();
            *value += drift;
            if let Some(sum) = &mut sum {
                sum[at] += drift;
            }
        }
    }
    Ok(plan.result(repeated)?)
}

fn decoded(task: &TrainTask, result: &[u8]) -> Option<(Plan, Vec<f32>)> {
    let plan = Plan::of(task).ok()?;
    let parts = replay::split(&plan, result)?;
    let delta = plan.codec().decode(parts.encoded, plan.parameters()).ok()?;
    Some((plan, delta))
}

/// A result whose update is so many times as long. `None` for what is no result of the task.
pub fn scaled(task: &TrainTask, result: &[u8], factor: f32) -> Option<Vec<u8>> {
    let (plan, delta) = decoded(task, result)?;
    let delta: Vec<f32> = delta.iter().map(|value| factor * value).collect();
    let head = result.get(..plan.head_bytes())?;
    Some([head, &plan.codec().encode(&delta).ok()?].concat())
}

/// Whether a result's update is so far from the right one that it is wrong: see [`WRONG_UPDATE`]. So is what is no
/// result of the task.
pub fn is_right(task: &TrainTask, result: &[u8], right: &[u8]) -> bool {
    let (Some((plan, found)), Some((_, expected))) = (decoded(task, result), decoded(task, right)) else {
        return false;
    };
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let off = norm(&mut found.iter().zip(&expected).map(|(found, expected)| f64::from(found - expected)));
    let length = norm(&mut expected.iter().map(|value| f64::from(*value)));
    off <= length * if plan.is_sparse() { WRONG_SPARSE } else { WRONG_UPDATE }
}

/// The value of a future that never waits, as those of the CPU engine.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the CPU engine waits for nothing"),
    }
}
