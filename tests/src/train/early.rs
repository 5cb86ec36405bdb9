//! The first rounds of short runs, where rounding does most: AdamW begins anew in each of them, and the learning rate rises.
//!
//! Honest updates are made as other devices would: every sum in another order, and parameters that round a little
//! differently at the start. Counted is how many of them one replay refutes, and how many all replays of an audit do.

use super::cores::Cores;
use super::corpus::CONTEXT;
use super::drift::{Renaming, Reversed};
use super::run::{fresh, train, validate};
use super::{Corpus, Progress, seed};
use anyhow::{Context as _, Result, anyhow};
use potluck_proto::{LearningRate, TrainTask, UpdateCodec};
use potluck_rounds::allowed::Allowed;
use potluck_rounds::replay::judge;
use potluck_rounds::{AuditError, Data, Host, Plan, Repeated, Submitted, Terms, Way, repeat, settle, sizes};
use potluck_train::data::{BLOCKS_PER_ROUND, DataSet};
use potluck_train::gpt::{CpuGpt, GptConfig};
use potluck_train::outer::OuterParams;
use potluck_train::round::Update;
use potluck_verify::{AggregateParams, ReplayError};
use std::sync::Arc;
use std::thread;

/// Rounds of a run, as of the demo's.
pub const ROUNDS: u64 = 12;
/// Its workers.
pub const WORKERS: u32 = 2;
/// Inner steps of a round.
const INNER: u32 = 10;
/// Steps of warm-up.
const WARMUP: u32 = 20;
/// By how much another device's parameters are off at most, relative: eight times the rounding of f32.
const OFF: f32 = 1.0 / (1 << 21) as f32;
/// Tokens that the relay validates with; the loss that counts is of all validation windows.
const HELD_OUT: usize = 3000;

/// What the learning rate does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Its peak, in billionths.
    pub peak_nano: u32,
    /// Steps of warm-up whenever AdamW begins anew.
    pub fresh_warmup: u32,
}

/// What became of a setting's runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Early {
    /// Relative deviations of the honest updates from the first replay, before they were encoded, the least first.
    pub deviations: Vec<f64>,
    /// Honest updates that the first replay refutes.
    pub refuted_once: u32,
    /// That all of an audit's replays refute.
    pub refuted: u32,
    /// In rounds too unstable for anybody to be judged.
    pub unjudged: u32,
    /// Mean validation loss after the last round, in nats per token.
    pub loss: f64,
}

impl Early {
    /// The deviation that this share of the updates does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.deviations.len().saturating_sub(1);
        self.deviations.get((share * last as f64) as usize).copied().unwrap_or(f64::NAN)
    }
}

/// Trains a run for each of the seeds from 1 on, side by side. Progress is in rounds.
///
/// # Errors
/// What the engine, the host or a comparison says.
pub fn early(corpus: &Corpus, setting: Setting, seeds: u64, progress: Progress<'_>) -> Result<Early> {
    let cores = Cores::all();
    let runs = thread::scope(|scope| {
        let one = |number| {
            let cores = &cores;
            scope.spawn(move || {
                let _core = cores.take();
                run(corpus, setting, number, progress)
            })
        };
        let threads: Vec<_> = (1..=seeds).map(one).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Early>>| {
            thread.join().map_err(|_| anyhow!("a run's thread panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut all = Early { deviations: Vec::new(), refuted_once: 0, refuted: 0, unjudged: 0, loss: 0.0 };
    for run in runs {
        all.deviations.extend(run.deviations);
        all.refuted_once += run.refuted_once;
        all.refuted += run.refuted;
        all.unjudged += run.unjudged;
        all.loss += run.loss / seeds as f64;
    }
    all.deviations.sort_by(f64::total_cmp);
    Ok(all)
}

fn run(corpus: &Corpus, setting: Setting, number: u64, progress: Progress<'_>) -> Result<Early> {
    let config = GptConfig::tiny(corpus.vocabulary);
    let set = |tokens: &[u32]| DataSet::new(tokens, corpus.vocabulary).map(Arc::new);
    let held_out = corpus.tokens.last_chunk::<HELD_OUT>().context("the corpus is too short")?;
    let data = Data { train: set(&corpus.tokens)?, validation: set(held_out)? };
    let terms = terms(&config, setting, number);
    let (mut host, _) = Host::start(terms, fresh(&config, number), data, seed(number, "gate"))?;
    let mut early = Early { deviations: Vec::new(), refuted_once: 0, refuted: 0, unjudged: 0, loss: 0.0 };
    for _ in 0..ROUNDS {
        let tasks = host.tasks(WORKERS)?;
        let mut results = Vec::new();
        for task in &tasks {
            results.push(early.worker(&host, &config, task)?);
        }
        let submitted = tasks.iter().zip(&results);
        let submitted: Vec<_> =
            submitted.map(|(task, result)| Submitted { task, result, weight: 1.0, audited: true }).collect();
        let closed = host.close(&submitted)?;
        host.commit(closed);
        progress(1);
    }
    early.loss = validate(&mut CpuGpt::new(config)?, host.parameters(), corpus)?;
    Ok(early)
}

impl Early {
    /// Judges what two other devices would send, and gives what the first of them sends.
    fn worker(&mut self, host: &Host, config: &GptConfig, task: &TrainTask) -> Result<Vec<u8>> {
        let (plan, start, data) = (Plan::of(task)?, host.parameters(), &*host.data().train);
        let take = |way| -> Result<_, AuditError> { Ok(Repeated::Dense(repeat(&plan, start, data, way)?)) };
        let plain = take(Way::Plain)?;
        let honest =
            [other_order(&plan, config, start, data)?, other_rounding(&plan, config, start, data, task)?];
        let mut results = Vec::new();
        for update in honest {
            self.deviations.push(deviation(&update, plain.update()));
            let result = plan.result(Repeated::Dense(update))?.result;
            let once = judge(&plan, plan.part(), &plain, &result, &Allowed::usual(plan.codec()))?;
            self.refuted_once += u32::from(!once.confirmed());
            match settle(&plan, plan.part(), &result, take) {
                Ok((judgement, _)) => self.refuted += u32::from(!judgement.confirmed()),
                Err(AuditError::Replay(ReplayError::Unstable { .. })) => self.unjudged += 1,
                Err(error) => return Err(error.into()),
            }
            results.push(result);
        }
        Ok(results.swap_remove(0))
    }
}

fn other_order(plan: &Plan, config: &GptConfig, start: &[f32], data: &DataSet) -> Result<Update> {
    let names = Renaming::new(config)?;
    let mut update = train(plan.part(), &names.apply(start), &mut CpuGpt::new(*config)?, &Reversed(data))?;
    update.delta = names.undo(&update.delta);
    Ok(update)
}

fn other_rounding(
    plan: &Plan,
    config: &GptConfig,
    start: &[f32],
    data: &DataSet,
    task: &TrainTask,
) -> Result<Update> {
    let purpose = format!("device of round {}, worker {}", task.round, task.worker);
    let mut bytes = blake3::Hasher::new().update(&task.seed).update(purpose.as_bytes()).finalize_xof();
    let mut off = || {
        let mut four = [0; 4];
        bytes.fill(&mut four);
        1.0 + OFF * (u32::from_le_bytes(four) as f32 / (1_u32 << 31) as f32 - 1.0)
    };
    let start: Vec<f32> = start.iter().map(|value| value * off()).collect();
    train(plan.part(), &start, &mut CpuGpt::new(*config)?, &Reversed(data))
}

fn deviation(claimed: &Update, replayed: &Update) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let pairs = claimed.delta.iter().zip(&replayed.delta);
    norm(&mut pairs.map(|(a, b)| f64::from(a - b))) / norm(&mut replayed.delta.iter().map(|b| f64::from(*b)))
}

fn terms(config: &GptConfig, setting: Setting, number: u64) -> Terms {
    Terms {
        model: sizes::of_config(config).into(),
        steps: INNER,
        sequences: 8,
        length: CONTEXT as u32,
        rate: LearningRate {
            peak_nano: setting.peak_nano,
            least_nano: 100_000,
            warmup: WARMUP,
            steps: ROUNDS as u32 * INNER,
            fresh_warmup: setting.fresh_warmup,
        },
        seed: seed(number, "early rounds"),
        blocks_dealt: BLOCKS_PER_ROUND,
        codec: UpdateCodec::Int4,
        outer: OuterParams::default(),
        aggregate: AggregateParams::default(),
        streak: 0,
    }
}
