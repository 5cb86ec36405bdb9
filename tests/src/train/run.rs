//! One run: so many inner steps by some method, and what came of it.

use super::cores::Cores;
use super::corpus::CONTEXT;
use super::{Corpus, now, seed};
use anyhow::{Context, Result, anyhow, ensure};
use potluck_train::Engine;
use potluck_train::codec::{Codec, decode_sparse};
use potluck_train::data::{BLOCKS_PER_ROUND, DataSet, Order};
use potluck_train::gpt::{CpuGpt, FRESH_WARMUP, GptConfig, Schedule, init};
use potluck_train::outer::{Outer, OuterParams, OuterRule, Replica};
use potluck_train::round::{Batches, Part, Round, Update};
use potluck_train::streak::{SKETCH_BYTES, Streak};
use potluck_types::limits::MAX_STREAK_ROUNDS;
use potluck_verify::{AggregateParams, Scope, Sender, SparseUpdate, aggregate, aggregate_sparse};
use std::thread;

/// Told how many tokens were trained on since the last call.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// How workers work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Gradients of all workers' batches, averaged at each step: one engine with the batches of all.
    Synchronous,
    /// The first worker on its own batches, never talking to anybody.
    Alone,
    /// FedAvg: the plain mean of the workers' f32 updates becomes the step, each round.
    /// Source: McMahan et al., arXiv 1602.05629.
    Average,
    /// Codec R: int4, robust aggregation, outer Nesterov.
    Robust,
    /// Codec S: top-64 of 4096 with error feedback, mean per index, plain outer step. Workers keep what a
    /// [`Streak`] keeps.
    Sparse,
}

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// For people.
    pub name: &'static str,
    /// How workers work together.
    pub method: Method,
    /// Sizes of the model; its vocabulary is the corpus's.
    pub config: GptConfig,
    /// Workers.
    pub workers: u32,
    /// Sequences of a worker's batch.
    pub sequences: usize,
    /// Inner steps of a round.
    pub inner: u32,
    /// Inner steps of the whole run.
    pub steps: u32,
    /// Greatest learning rate.
    pub peak: f32,
    /// Share of the uploads that is lost.
    pub lost: f64,
    /// Whether each worker has a contiguous part of the text instead of all of it.
    pub shards: bool,
    /// Whether the updates of a round are combined only after the next one, as if their audits took that long; a worker
    /// then starts ahead by this share of its own update that waits. For codec R.
    /// Source: Kale et al., Eager updates for overlapped communication and computation in DiLoCo, arXiv 2502.12996.
    pub eager: Option<f32>,
    /// Rounds of a streak of codec S.
    pub streak: u64,
    /// Of the workers of [`Method::Sparse`], so many use codec R.
    pub dense: u32,
    /// Decides parameters, data order and losses of uploads.
    pub seed: u64,
}

impl Plan {
    /// A run of `tiny` by codec R as volunteers do it by default.
    pub fn tiny(corpus: &Corpus, seed: u64) -> Self {
        Self {
            name: "ours",
            method: Method::Robust,
            config: GptConfig::tiny(corpus.vocabulary),
            workers: 4,
            sequences: 8,
            inner: 10,
            steps: 600,
            peak: 2e-3,
            lost: 0.0,
            shards: false,
            eager: None,
            streak: MAX_STREAK_ROUNDS as u64,
            dense: 0,
            seed,
        }
    }

    /// Tokens that it trains on.
    pub fn tokens(&self) -> u64 {
        let workers = if self.method == Method::Alone { 1 } else { u64::from(self.workers) };
        workers * u64::from(self.steps) * (self.sequences * CONTEXT) as u64
    }

    /// The schedule of the learning rate.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            peak: self.peak,
            least: 1e-4,
            warmup: 100,
            steps: u64::from(self.steps),
            fresh_warmup: FRESH_WARMUP.into(),
        }
    }

    fn rounds(&self) -> u64 {
        u64::from(self.steps / self.inner)
    }

    /// Whether an upload is lost: a pseudo-random function of seed, round and worker.
    fn loses(&self, round: u64, worker: u32) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&seed(self.seed, "lost uploads"));
        hasher.update(&round.to_le_bytes()).update(&worker.to_le_bytes());
        let mut word = [0; 4];
        hasher.finalize_xof().fill(&mut word);
        f64::from(u32::from_le_bytes(word)) < self.lost * 2.0_f64.powi(32)
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Validation loss, in nats per token.
    pub loss: f64,
    /// Bytes that a worker sent; of the one that sent most.
    pub up: u64,
    /// Bytes that a worker received, the first checkpoint among them.
    pub down: u64,
    /// Rounds, or steps where each of them is one.
    pub rounds: u64,
    /// Tokens of all workers.
    pub tokens: u64,
}

/// Runs plans side by side, on all cores; outcomes in the order of the plans.
///
/// # Errors
/// What the engine, a codec, the aggregation or the outer step says.
pub fn run_all(plans: &[Plan], corpus: &Corpus, progress: Progress<'_>) -> Result<Vec<Outcome>> {
    let cores = Cores::all();
    thread::scope(|scope| {
        let runs: Vec<_> =
            plans.iter().map(|plan| scope.spawn(|| run(plan, corpus, &cores, progress))).collect();
        let outcomes = runs.into_iter().zip(plans);
        outcomes.map(|(run, plan)| join(run).with_context(|| format!("the run `{}`", plan.name))).collect()
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a worker's thread panicked"))?
}

fn run(plan: &Plan, corpus: &Corpus, cores: &Cores, progress: Progress<'_>) -> Result<Outcome> {
    ensure!(plan.inner > 0 && plan.steps.is_multiple_of(plan.inner), "steps must be whole rounds: {plan:?}");
    ensure!(plan.workers > 0, "a run needs a worker: {plan:?}");
    match plan.method {
        Method::Synchronous | Method::Alone => together(plan, corpus, cores, progress),
        Method::Average | Method::Robust | Method::Sparse => by_rounds(plan, corpus, cores, progress),
    }
}

/// The order of a data set in the runs of a seed.
pub(super) fn order(number: u64, data: &DataSet) -> Result<Order> {
    Ok(Order::new(seed(number, "data order"), data.spec(), CONTEXT, BLOCKS_PER_ROUND)?)
}

/// The parameters that the runs of a seed start from.
pub(super) fn fresh(config: &GptConfig, number: u64) -> Vec<f32> {
    init(config, &seed(number, "parameters"))
}

/// The loss of parameters on the validation windows.
///
/// # Errors
/// What the engine says.
pub fn validate(engine: &mut CpuGpt, parameters: &[f32], corpus: &Corpus) -> Result<f64> {
    now(engine.load(parameters))?;
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in &corpus.validation {
        sum += f64::from(now(engine.loss(batch))?) * batch.inputs.len() as f64;
        tokens += batch.inputs.len();
    }
    ensure!(tokens > 0, "no validation windows");
    Ok(sum / tokens as f64)
}

/// One engine, an optimizer that goes on, and at each step the batches that the workers would have had.
fn together(plan: &Plan, corpus: &Corpus, cores: &Cores, progress: Progress<'_>) -> Result<Outcome> {
    let order = order(plan.seed, &corpus.train)?;
    let schedule = plan.schedule();
    let workers = if plan.method == Method::Alone { 1 } else { plan.workers };
    let mut engine = CpuGpt::new(plan.config)?;
    now(engine.load(&fresh(&plan.config, plan.seed)))?;
    for round in 0..plan.rounds() {
        let _core = cores.take();
        for step in 0..plan.inner {
            let mut starts = Vec::new();
            for worker in 0..workers {
                starts.extend(order.batch(round, worker, step, plan.sequences)?);
            }
            let batch = corpus.train.batch(&starts, CONTEXT)?;
            let rate = schedule.of_run(round * u64::from(plan.inner) + u64::from(step));
            now(engine.step(&batch, rate))?;
            progress(batch.inputs.len() as u64);
        }
    }
    let parameters = now(engine.store())?;
    let _core = cores.take();
    let loss = validate(&mut engine, &parameters, corpus)?;
    // Each step sends a gradient and receives their mean, both f32.
    let each = Codec::F32.encode(&parameters)?.len() as u64;
    let exchanged = if workers == 1 { 0 } else { each * u64::from(plan.steps) };
    let rounds = u64::from(plan.steps);
    Ok(Outcome { loss, up: exchanged, down: exchanged, rounds, tokens: plan.tokens() })
}

/// A worker: an engine, what it keeps, and the part of the text that it has, if not all.
struct Member {
    engine: CpuGpt,
    kept: Option<Streak>,
    /// Its update that is not combined yet, as the others decode it.
    waits: Option<Vec<f32>>,
    shard: Option<DataSet>,
    order: Order,
    up: u64,
}

impl Member {
    fn new(plan: &Plan, corpus: &Corpus, worker: u32) -> Result<Self> {
        let engine = CpuGpt::new(plan.config)?;
        let sparse = plan.method == Method::Sparse && worker >= plan.dense;
        let kept = sparse.then(|| Streak::new(engine.parameters())).transpose()?;
        let shard = if plan.shards {
            let length = corpus.tokens.len() / plan.workers as usize;
            let tokens = &corpus.tokens[worker as usize * length..][..length];
            Some(DataSet::new(tokens, corpus.vocabulary)?)
        } else {
            None
        };
        let order = order(plan.seed, shard.as_ref().unwrap_or(&corpus.train))?;
        Ok(Self { engine, kept, waits: None, shard, order, up: 0 })
    }

    /// Trains, and encodes the update. `None` if the upload is lost.
    fn upload(
        &mut self,
        plan: &Plan,
        part: Part,
        parameters: &[f32],
        corpus: &Corpus,
    ) -> Result<Option<Vec<u8>>> {
        let data = self.shard.as_ref().unwrap_or(&corpus.train);
        let ahead = |waits: &Vec<f32>| -> Vec<f32> {
            let share = plan.eager.unwrap_or_default();
            parameters.iter().zip(waits).map(|(parameter, own)| parameter - share * own).collect()
        };
        if let Some(kept) = &mut self.kept {
            if part.round.is_multiple_of(plan.streak) {
                *kept = Streak::new(parameters.len())?;
            }
            let start = kept.start(parameters)?;
            let engine = &mut self.engine;
            let taken = now(async {
                let round = kept.load(part, &start, engine).await?;
                kept.finish(round, plan.config.into(), engine, data).await
            })?;
            if plan.loses(part.round, part.worker) {
                // The relay does not say that it counted: all of it still waits.
                *kept = Streak::unsent(taken)?;
                return Ok(None);
            }
            let bytes;
            (bytes, *kept) = Streak::encode(taken)?;
            self.up += (bytes.len() + SKETCH_BYTES) as u64;
            return Ok(Some(bytes));
        }
        let start = self.waits.as_ref().map(ahead);
        let update = train(part, start.as_deref().unwrap_or(parameters), &mut self.engine, data)?;
        let codec = if plan.method == Method::Average { Codec::F32 } else { Codec::Int4 };
        let bytes = codec.encode(&update.delta)?;
        if plan.eager.is_some() {
            self.waits = Some(codec.decode(&bytes, parameters.len())?);
        }
        self.up += bytes.len() as u64;
        Ok((!plan.loses(part.round, part.worker)).then_some(bytes))
    }
}

/// A worker's part of a round.
///
/// # Errors
/// What the engine says.
pub fn train<E: Engine>(
    part: Part,
    parameters: &[f32],
    engine: &mut E,
    data: &impl Batches,
) -> Result<Update> {
    Ok(now(async { Round::start(part, parameters, engine).await?.finish(engine, data).await })?)
}

fn by_rounds(plan: &Plan, corpus: &Corpus, cores: &Cores, progress: Progress<'_>) -> Result<Outcome> {
    let mut members =
        (0..plan.workers).map(|worker| Member::new(plan, corpus, worker)).collect::<Result<Vec<_>>>()?;
    let parameters = fresh(&plan.config, plan.seed);
    let count = parameters.len();
    let params = OuterParams::default();
    let mut outer = Outer::start(parameters, params)?;
    // Volunteers hold what they decoded, never the relay's own vector.
    let checkpoint = outer.replica().checkpoint()?;
    let mut replica = Replica::from_checkpoint(0, &checkpoint, count, params.checkpoint_every)?;
    let mut down = checkpoint.len() as u64;
    let mut waiting = None;
    for round in 0..plan.rounds() {
        let before = replica.parameters();
        let uploads: Vec<Option<Vec<u8>>> = thread::scope(|scope| {
            let work = |(worker, member): (u32, &mut Member)| {
                let _core = cores.take();
                let part = Part {
                    order: member.order,
                    round,
                    worker,
                    steps: plan.inner,
                    steps_before: round * u64::from(plan.inner),
                    sequences: plan.sequences,
                    schedule: plan.schedule(),
                };
                let upload = member.upload(plan, part, before, corpus)?;
                progress(u64::from(plan.inner) * (plan.sequences * CONTEXT) as u64);
                Ok(upload)
            };
            let threads: Vec<_> =
                (0..).zip(&mut members).map(|member| scope.spawn(move || work(member))).collect();
            threads.into_iter().map(join).collect::<Result<_>>()
        })?;
        let due = if plan.eager.is_some() { waiting.replace(uploads) } else { Some(uploads) };
        down += follow(plan, due, &mut outer, &mut replica)?;
    }
    down += follow(plan, waiting, &mut outer, &mut replica)?;
    ensure!(replica.hash() == outer.replica().hash(), "relay and volunteers hold different parameters");
    let _core = cores.take();
    let first = &mut members.first_mut().context("a run needs a worker")?.engine;
    let loss = validate(first, replica.parameters(), corpus)?;
    let up = members.iter().map(|member| member.up).max().unwrap_or(0);
    Ok(Outcome { loss, up, down, rounds: plan.rounds(), tokens: plan.tokens() })
}

/// The outer step of updates, if any came; the bytes that tell volunteers of it.
fn follow(
    plan: &Plan,
    uploads: Option<Vec<Option<Vec<u8>>>>,
    outer: &mut Outer,
    replica: &mut Replica,
) -> Result<u64> {
    let count = replica.parameters().len();
    let uploads = uploads.unwrap_or_default();
    let step = if plan.dense > 0 && !uploads.is_empty() {
        let (dense, sparse) = uploads.split_at(plan.dense as usize);
        let share = plan.dense as f32 / plan.workers as f32;
        let Some((dense, _)) = combine(Method::Robust, dense, count)? else { return Ok(0) };
        let Some((sparse, _)) = combine(Method::Sparse, sparse, count)? else { return Ok(0) };
        outer.step_of_both(&dense, &sparse, share)?
    } else {
        let Some((update, rule)) = combine(plan.method, &uploads, count)? else { return Ok(0) };
        outer.step(&update, rule)?
    };
    replica.follow(outer.replica().round(), &step)?;
    Ok(step.len() as u64)
}

/// What came becomes one update. `None` if nothing came.
fn combine(
    method: Method,
    uploads: &[Option<Vec<u8>>],
    count: usize,
) -> Result<Option<(Vec<f32>, OuterRule)>> {
    let came: Vec<(u64, &[u8])> =
        (0..).zip(uploads).filter_map(|(worker, upload)| Some((worker, upload.as_deref()?))).collect();
    if came.is_empty() {
        return Ok(None);
    }
    // Everybody here is honest, and a replay has said so.
    let sender = |&(cluster, _): &(u64, &[u8])| Sender { weight: 1.0, audited: true, cluster };
    let params = AggregateParams::default();
    let combined = match method {
        Method::Sparse => {
            let decoded =
                came.iter().map(|(_, bytes)| decode_sparse(bytes, count)).collect::<Result<Vec<_>, _>>()?;
            let updates: Vec<SparseUpdate<'_>> = decoded
                .iter()
                .zip(&came)
                .map(|(entries, from)| SparseUpdate { entries, sender: sender(from) })
                .collect();
            (aggregate_sparse(&updates, count, Scope::All, &params)?.values, OuterRule::Plain)
        }
        Method::Average => {
            let decoded = came
                .iter()
                .map(|(_, bytes)| Codec::F32.decode(bytes, count))
                .collect::<Result<Vec<_>, _>>()?;
            (mean(&decoded), OuterRule::Plain)
        }
        _ => {
            let decoded = came
                .iter()
                .map(|(_, bytes)| Codec::Int4.decode(bytes, count))
                .collect::<Result<Vec<_>, _>>()?;
            let updates: Vec<potluck_verify::Update<'_>> = decoded
                .iter()
                .zip(&came)
                .map(|(values, from)| potluck_verify::Update { values, sender: sender(from) })
                .collect();
            (aggregate(&updates, Scope::All, &params)?.values, OuterRule::Nesterov)
        }
    };
    Ok(Some(combined))
}

/// The plain mean, value by value.
pub fn mean(updates: &[Vec<f32>]) -> Vec<f32> {
    let count = updates.len() as f64;
    let length = updates.first().map_or(0, Vec::len);
    let sum = |at: usize| updates.iter().map(|update| f64::from(update[at])).sum::<f64>();
    (0..length).map(|at| (sum(at) / count) as f32).collect()
}
