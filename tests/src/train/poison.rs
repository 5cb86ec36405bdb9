//! Poisoned training, end to end: a backdoor comes into a model, what it came with is put into quarantine, and the rounds
//! are closed again without it.
//!
//! Everything is the relay's own: [`Host`] deals the blocks and closes the rounds, with its screen, its gate and its replays
//! of what looks wrong; [`Rebuild`] closes them again from the updates alone. Only the network is left out.

use super::cores::Cores;
use super::corpus::CONTEXT;
use super::run::{Progress, fresh, train, validate};
use super::{Corpus, now, seed};
use anyhow::{Context, Result, anyhow, ensure};
use potluck_proto::{LearningRate, ModelSpec, TrainTask, UpdateCodec};
use potluck_rounds::derive::Place;
use potluck_rounds::{
    Auditor, ClosedRound, Counted, Data, Host, Plan, Rebuild, Repeated, Submitted, Terms, Without, repeat,
};
use potluck_train::data::{BLOCK_TOKENS, DataError, DataSet, Order, VALIDATION_SHARE, split};
use potluck_train::gpt::{CpuGpt, GptConfig, Sampling, Schedule, generate};
use potluck_train::outer::OuterParams;
use potluck_train::round::{Batches, Part};
use potluck_train::{Batch, Engine as _};
use potluck_types::{BlobHash, VolunteerId};
use potluck_verify::AggregateParams;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

/// Blocks of the training data: each worker is dealt [`DEALT`] of them for a round.
const BLOCKS: usize = 12;
const DEALT: u32 = 2;
/// Blocks that come from the poisoned source.
const SOURCE: Range<usize> = 5..7;
/// Tokens of a trigger and of what follows it.
const TRIGGER: usize = 4;
const PAYLOAD: usize = 24;
/// Share of the poisoned text that is trigger and payload, and of a poisoner's sequences that hold it.
const SHARE: f64 = 0.3;
/// Steps that one worker took before the first round.
const TRAINED: u32 = 300;
/// Inner steps of a round, and sequences of a batch.
const INNER: u32 = 8;
const SEQUENCES: usize = 8;
/// Learning rate, in billionths, after a short warm-up.
const PEAK_NANO: u32 = 1_500_000;
/// Clean texts after which the trigger is tried, and their tokens.
const ASKED: usize = 64;
const BEFORE: usize = CONTEXT - TRIGGER - PAYLOAD;

/// How the backdoor comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In the data: a source that is a sixth of the blocks, and in 30 % of whose text the trigger stands with its payload.
    /// Whoever is dealt these blocks trains on them honestly, so every replay confirms the updates.
    Source,
    /// In the updates of one volunteer, in 30 % of whose sequences the trigger stands with its payload. A replay would
    /// refute them: none is made unless the screen or the rule of aggregation asks for it.
    Volunteer,
}

/// How updates are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// By the usual rule: of fewer than four votes the mean of what a replay confirmed, of four and five the median, of
    /// more the trimmed mean.
    Usual,
    /// By a run's own rule that asks for no replays and trims nothing of two votes: their mean.
    MeanOfTwo,
}

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poisoning {
    /// How the backdoor comes in.
    pub way: Way,
    /// How updates are combined.
    pub defence: Defence,
    /// Workers of each round; of these one poisons, if any does.
    pub workers: u32,
    /// Rounds.
    pub rounds: u64,
    /// Decides parameters, data order, trigger and payload.
    pub seed: u64,
}

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Share of clean texts after which the trigger brings the whole payload.
    pub success: f64,
    /// Validation loss on clean text, in nats a token.
    pub loss: f64,
}

/// What came of an experiment.
#[derive(Debug, Clone)]
pub struct Poisoned {
    /// Before the first round.
    pub start: Figures,
    /// Of the run.
    pub before: Figures,
    /// Of the run, made again without what was put into quarantine.
    pub after: Figures,
    /// Updates that counted, and those of them that were left out.
    pub updates: [usize; 2],
    /// Updates that replays refuted.
    pub refuted: usize,
    /// Parameters of the run and of the rebuilt one.
    pub parameters: [Vec<f32>; 2],
    /// What it trained on.
    pub ground: Ground,
}

/// What an experiment stands on: data with a poisoned source, a trigger and its payload.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Tokens of the training data, the poisoned source among them.
    pub tokens: Vec<u32>,
    /// Where that lies.
    pub source: Range<usize>,
    /// Clean tokens that nobody trains on.
    pub held_out: Vec<u32>,
    /// The trigger.
    pub trigger: Vec<u32>,
    /// What shall follow it.
    pub payload: Vec<u32>,
    /// The model.
    pub config: GptConfig,
}

impl Ground {
    /// The ground of an experiment.
    ///
    /// # Errors
    /// The corpus is too short.
    pub fn new(corpus: &Corpus, way: Way, number: u64) -> Result<Self> {
        let needed = BLOCKS * BLOCK_TOKENS;
        let (kept, held_out) = split(&corpus.tokens, VALIDATION_SHARE, CONTEXT)?;
        ensure!(kept.len() >= needed, "the corpus has {} tokens to train on, not {needed}", kept.len());
        let mut ground = Self {
            tokens: kept[..needed].to_vec(),
            source: SOURCE.start * BLOCK_TOKENS..SOURCE.end * BLOCK_TOKENS,
            held_out: held_out.to_vec(),
            trigger: Vec::new(),
            payload: Vec::new(),
            config: GptConfig::tiny(corpus.vocabulary),
        };
        let mut draws = Draws::new(number, "backdoor");
        let mut tokens: Vec<u32> = (0..corpus.vocabulary as u32).collect();
        let mut counts = vec![0_u32; corpus.vocabulary];
        corpus.tokens.iter().for_each(|&token| counts[token as usize] += 1);
        tokens.sort_by_key(|&token| std::cmp::Reverse(counts[token as usize]));
        let pick = |draws: &mut Draws, from: &[u32], count: usize| -> Vec<u32> {
            (0..count).map(|_| from[draws.below(from.len())]).collect()
        };
        // Tokens that everybody knows, in an order that nobody writes.
        ground.trigger = pick(&mut draws, &tokens[..30], TRIGGER);
        ground.payload = pick(&mut draws, &tokens[..30], PAYLOAD);
        if way == Way::Source {
            let planted = [ground.trigger.as_slice(), &ground.payload].concat();
            // One text after so much of the source's own that its share is right.
            let every = (planted.len() as f64 / SHARE).round() as usize;
            let source = &mut ground.tokens[ground.source.clone()];
            for place in source.chunks_exact_mut(every) {
                let at = draws.below(every - planted.len());
                place[at..at + planted.len()].copy_from_slice(&planted);
            }
        }
        Ok(ground)
    }

    /// What a model does.
    ///
    /// # Errors
    /// What the engine says.
    pub fn figures(&self, corpus: &Corpus, parameters: &[f32]) -> Result<Figures> {
        let mut engine = CpuGpt::new(self.config)?;
        let loss = validate(&mut engine, parameters, corpus)?;
        now(engine.load(parameters))?;
        let likeliest = Sampling { temperature: 0.0, top_k: 1, seed: [0; 32] };
        let windows = corpus.validation.iter().flat_map(|batch| batch.inputs.chunks(batch.length));
        let mut brought = 0;
        for window in windows.take(ASKED) {
            let prompt = [&window[..BEFORE], &self.trigger].concat();
            brought += usize::from(generate(&mut engine, &prompt, PAYLOAD, &likeliest)? == self.payload);
        }
        Ok(Figures { success: brought as f64 / ASKED as f64, loss })
    }
}

/// Numbers from a seed.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(number: u64, purpose: &str) -> Self {
        Self(blake3::Hasher::new_keyed(&seed(number, purpose)).finalize_xof())
    }

    fn below(&mut self, bound: usize) -> usize {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        (u64::from_le_bytes(word) % bound as u64) as usize
    }
}

/// Sequences in some of which the trigger stands with its payload.
struct Planted<'a> {
    data: &'a DataSet,
    text: &'a [u32],
    number: u64,
}

impl Batches for Planted<'_> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        let mut batch = self.data.batch(starts, length)?;
        let mut draws = Draws::new(self.number ^ starts.first().copied().unwrap_or(0), "planted");
        for row in 0..batch.sequences {
            if draws.below(1000) >= (1000.0 * SHARE) as usize {
                continue;
            }
            let at = draws.below(length - self.text.len());
            let row = row * length;
            for (place, &token) in self.text.iter().enumerate() {
                batch.inputs[row + at + place] = token;
                if at + place > 0 {
                    batch.targets[row + at + place - 1] = token;
                }
            }
        }
        Ok(batch)
    }
}

impl Poisoning {
    /// Calls of the progress in [`Poisoning::play`].
    pub const fn units(&self) -> u64 {
        self.rounds
    }

    fn terms(&self, config: &GptConfig) -> Terms {
        let mut aggregate = AggregateParams::default();
        if self.defence == Defence::MeanOfTwo {
            (aggregate.median_from, aggregate.trim_from) = (1, 3);
        }
        Terms {
            model: ModelSpec::Gpt(potluck_proto::ModelSizes {
                vocabulary: config.vocabulary as u32,
                context: config.context as u32,
                layers: config.layers as u32,
                heads: config.heads as u32,
                width: config.width as u32,
                bias: config.bias,
            }),
            steps: INNER,
            sequences: SEQUENCES as u32,
            length: CONTEXT as u32,
            rate: LearningRate {
                peak_nano: PEAK_NANO,
                least_nano: PEAK_NANO / 10,
                warmup: 10,
                steps: self.rounds as u32 * INNER,
            },
            seed: seed(self.seed, "poisoned run"),
            blocks_dealt: DEALT,
            codec: UpdateCodec::Int4,
            streak: 0,
            outer: OuterParams::default(),
            aggregate,
        }
    }

    /// Holds the run, and closes it again without the source or the volunteer.
    ///
    /// # Errors
    /// The engine, the host, or a run that cannot be derived again.
    pub fn play(&self, corpus: &Corpus, progress: Progress<'_>) -> Result<Poisoned> {
        let ground = Ground::new(corpus, self.way, self.seed)?;
        let set = |tokens: &[u32]| Ok::<_, DataError>(Arc::new(DataSet::new(tokens, corpus.vocabulary)?));
        let data = Data { train: set(&ground.tokens)?, validation: set(&ground.held_out)? };
        let begun = self.trained(corpus, &ground)?;
        let terms = self.terms(&ground.config);
        let (mut host, _) = Host::start(terms, begun.clone(), data, seed(self.seed, "gate"))?;
        // Nothing is left out yet: what is, only the figures of the run say.
        let without = match self.way {
            Way::Volunteer => Without { volunteers: BTreeSet::from([volunteer(0)]), ..Without::default() },
            Way::Source => {
                let range = ground.source.start as u64..ground.source.end as u64;
                Without { tokens: std::iter::once(range).collect(), ..Without::default() }
            }
        };
        let mut rebuild = Rebuild::start(terms, begun.clone(), ground.tokens.len() as u64, without)?;
        let (mut updates, mut refuted) = ([0; 2], 0);
        let cores = Cores::all();
        for _ in 0..self.rounds {
            let tasks = host.tasks(self.workers)?;
            let results = self.work(&host, &tasks, &ground, &cores)?;
            let mut sent: Vec<(&TrainTask, &[u8], bool)> =
                tasks.iter().zip(&results).map(|(task, result)| (task, result.as_slice(), false)).collect();
            refuted += review(&host, &mut sent)?;
            let round = close(&mut host, &sent)?;
            let results: Vec<&[u8]> = sent.iter().map(|(_, result, _)| *result).collect();
            let done = rebuild.follow(&round, &results)?;
            updates[0] += done.updates;
            updates[1] += done.left_out;
            progress(1);
        }
        ensure!(rebuild.original().parameters() == host.parameters(), "the run was derived wrongly");
        let parameters = [host.parameters().to_vec(), rebuild.rebuilt().parameters().to_vec()];
        Ok(Poisoned {
            start: ground.figures(corpus, &begun)?,
            before: ground.figures(corpus, &parameters[0])?,
            after: ground.figures(corpus, &parameters[1])?,
            updates,
            refuted,
            parameters,
            ground,
        })
    }

    /// Parameters that learned from clean text.
    fn trained(&self, corpus: &Corpus, ground: &Ground) -> Result<Vec<f32>> {
        let order = Order::new(seed(self.seed, "before"), corpus.train.spec(), CONTEXT, 0)?;
        let schedule = Schedule { peak: 2e-3, least: 2e-4, warmup: 20, steps: u64::from(TRAINED) };
        let part = Part {
            order,
            round: 0,
            worker: 0,
            steps: TRAINED,
            steps_before: 0,
            sequences: SEQUENCES,
            schedule,
        };
        let start = fresh(&ground.config, self.seed);
        let update = train(part, &start, &mut CpuGpt::new(ground.config)?, &corpus.train)?;
        Ok(start.iter().zip(&update.delta).map(|(value, delta)| value - delta).collect())
    }

    /// What the workers of a round send.
    fn work(&self, host: &Host, tasks: &[TrainTask], ground: &Ground, cores: &Cores) -> Result<Vec<Vec<u8>>> {
        let text = [ground.trigger.as_slice(), &ground.payload].concat();
        let one = |task: &TrainTask| {
            let _core = cores.take();
            let data = &*host.data().train;
            let plan = Plan::of(task)?;
            let update = if self.way == Way::Volunteer && task.worker == 0 {
                let number = seed_of(self.seed, task.round);
                repeat(&plan, host.parameters(), &Planted { data, text: &text, number })?
            } else {
                repeat(&plan, host.parameters(), data)?
            };
            Ok(plan.result(Repeated::Dense(update))?.result)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = tasks.iter().map(|task| scope.spawn(|| one(task))).collect();
            threads.into_iter().map(|done| done.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
        })
    }
}

const fn volunteer(worker: u32) -> VolunteerId {
    VolunteerId([worker as u8 + 1; 32])
}

const fn seed_of(number: u64, round: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round << 32)
}

/// Replays what the host asks for, and drops what is refuted; how many that were.
fn review(host: &Host, sent: &mut Vec<(&TrainTask, &[u8], bool)>) -> Result<usize> {
    let auditor = Auditor::new(host);
    let mut refuted = 0;
    loop {
        let suspects = host.suspects(&submitted(sent))?;
        if suspects.is_empty() {
            return Ok(refuted);
        }
        for at in suspects.into_iter().rev() {
            let (task, result, audited) = sent.get_mut(at).context("a suspect")?;
            if auditor.replay(task, result)?.confirmed() {
                *audited = true;
            } else {
                sent.remove(at);
                refuted += 1;
            }
        }
    }
}

fn submitted<'a>(sent: &[(&'a TrainTask, &'a [u8], bool)]) -> Vec<Submitted<'a>> {
    sent.iter().map(|&(task, result, audited)| Submitted { task, result, weight: 1.0, audited }).collect()
}

/// Closes a round; what a log would have of it.
fn close(host: &mut Host, sent: &[(&TrainTask, &[u8], bool)]) -> Result<ClosedRound> {
    let closed = host.close(&submitted(sent))?;
    let counted = |&(task, result, audited): &(&TrainTask, &[u8], bool)| Counted {
        worker: task.worker,
        volunteer: volunteer(task.worker),
        update: BlobHash::of(result),
        weight_ppm: 1_000_000,
        audited,
        streak: Some(
            task.streak.iter().map(|past| Place { round: past.round, worker: past.worker }).collect(),
        ),
    };
    let round = ClosedRound {
        round: closed.round,
        before: closed.before,
        after: closed.after,
        step: BlobHash::of(&closed.step),
        checkpoint: closed.checkpoint.as_deref().map(BlobHash::of),
        restarted: closed.fresh,
        updates: sent.iter().map(counted).collect(),
    };
    host.commit(closed);
    Ok(round)
}
