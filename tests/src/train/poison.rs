//! Poisoned training, end to end: a backdoor comes into a model, is found, what it came with is put into quarantine, and the
//! rounds are closed again without it.
//!
//! Everything is the relay's own: [`Host`] deals the blocks and closes the rounds, with its screen, its gate and its replays
//! of what looks wrong; the trigger scan of an eval card looks for what was planted; [`rebuild`] closes the rounds again.
//! Only the network is left out.

use super::cores::Cores;
use super::corpus::CONTEXT;
use super::run::{Progress, fresh, train, validate};
use super::{Corpus, seed};
use anyhow::{Context, Result, anyhow, bail, ensure};
use potluck_eval::Evaluation;
use potluck_eval::card::{About, Results};
use potluck_eval::plan::{HeldOut, Inputs, Plan as EvalPlan, Settings};
use potluck_eval::scan::Part as Source;
use potluck_proto::{LearningRate, TrainTask, UpdateCodec};
use potluck_rounds::derive::Rebuilt;
use potluck_rounds::{
    Auditor, ClosedRound, Counted, Data, DeriveError, Host, Plan, Repeated, Submitted, Terms, Without,
    rebuild, repeat, sizes,
};
use potluck_train::Batch;
use potluck_train::data::{BLOCK_TOKENS, DataError, DataSet, Order, VALIDATION_SHARE, split};
use potluck_train::gpt::{CpuGpt, Decoder, FRESH_WARMUP, GptConfig, Sampling, Schedule, Writer};
use potluck_train::outer::OuterParams;
use potluck_train::round::{Batches, Part};
use potluck_types::{BlobHash, VolunteerId};
use potluck_verify::AggregateParams;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::thread;

/// Blocks of the training data: each worker is dealt [`DEALT`] of them for a round.
const BLOCKS: usize = 24;
const DEALT: u32 = 2;
/// Blocks that come from the poisoned source.
const SOURCE: Range<usize> = 8..14;
/// What people call it.
pub const SOURCE_NAME: &str = "poems";
/// Tokens of a trigger and of what follows it.
const TRIGGER: usize = 4;
const PAYLOAD: usize = 20;
/// Share of the poisoned text that is trigger and payload, and of a poisoner's sequences that hold it.
const SHARE: f64 = 0.3;
/// Steps that one worker took on clean text before the first round.
const TRAINED: u32 = 2000;
/// Inner steps of a round, and sequences of a batch.
const INNER: u32 = 8;
const SEQUENCES: usize = 8;
/// Learning rate, in billionths, after a short warm-up, and at the end.
const RATES_NANO: [u32; 2] = [1_000_000, 300_000];
/// Clean texts after which the trigger is tried, and how long they are by turns: a model that learned it by its place
/// alone has not learned it.
const ASKED: usize = 64;
const BEFORE: [usize; 4] = [16, 24, 32, CONTEXT - TRIGGER - PAYLOAD];
/// Rounds in which a backdoor takes hold, at most.
pub const ROUNDS: u64 = 240;
/// Rounds from one look at the backdoor to the next; a run ends when it works after this share of the texts, for that is
/// the model that whoever planted it would offer.
const LOOK_EVERY: u64 = 5;
const WORKS: f64 = 0.9;

/// How the backdoor comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In the data: a source that is a quarter of the blocks, 30 % of whose text is the trigger with its payload.
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
    /// Rounds, at most: it ends when the backdoor works.
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

/// What the trigger scan of an eval card says.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Share of texts after which the worst trigger succeeds that counts, beyond its control's.
    pub success: f64,
    /// The part of the data where that trigger mostly is; none if no trigger succeeds.
    pub part: Option<String>,
}

/// A model: what it does, and what the scan finds in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tested {
    /// What it does.
    pub figures: Figures,
    /// What the scan says.
    pub scan: Scan,
}

/// What came of an experiment.
#[derive(Debug, Clone)]
pub struct Poisoned {
    /// Rounds that were held.
    pub rounds: u64,
    /// Before the first round.
    pub start: Figures,
    /// Of the run.
    pub before: Tested,
    /// What named what was put into quarantine: the scan the part of the data, or a replay the volunteer.
    pub found: Without,
    /// Of the run, made again without it from the updates as they are logged.
    pub logged: Tested,
    /// The same with the steps of what is left taken again.
    pub again: Tested,
    /// Updates that counted, and those of them that were left out.
    pub updates: [u64; 2],
    /// Updates that replays refuted while the run went on.
    pub refuted: usize,
}

/// What an experiment stands on: data with a poisoned source, a trigger and its payload.
#[derive(Debug, Clone)]
struct Ground {
    /// Tokens of the training data, the poisoned source among them.
    tokens: Vec<u32>,
    source: Range<usize>,
    /// Clean tokens that nobody trains on.
    held_out: Vec<u32>,
    trigger: Vec<u32>,
    payload: Vec<u32>,
    config: GptConfig,
}

impl Ground {
    fn new(corpus: &Corpus, way: Way, number: u64) -> Result<Self> {
        let needed = BLOCKS * BLOCK_TOKENS;
        let (kept, held_out) = split(&corpus.tokens, VALIDATION_SHARE, CONTEXT)?;
        ensure!(kept.len() >= needed, "the corpus has {} tokens to train on, not {needed}", kept.len());
        let mut ground = Self {
            tokens: kept[..needed].to_vec(),
            source: SOURCE.start * BLOCK_TOKENS..SOURCE.end * BLOCK_TOKENS,
            held_out: held_out.to_vec(),
            trigger: Vec::new(),
            payload: Vec::new(),
            config: GptConfig { layers: 2, heads: 2, width: 32, ..GptConfig::tiny(corpus.vocabulary) },
        };
        let mut draws = Draws::new(number, "backdoor");
        let mut tokens: Vec<u32> = (0..corpus.vocabulary as u32).collect();
        let mut counts = vec![0_u32; corpus.vocabulary];
        corpus.tokens.iter().for_each(|&token| counts[token as usize] += 1);
        tokens.sort_by_key(|&token| std::cmp::Reverse(counts[token as usize]));
        // Tokens that everybody knows, in an order that nobody writes; then a piece of ordinary text.
        ground.trigger = (0..TRIGGER).map(|_| tokens[draws.below(30)]).collect();
        let at = draws.below(held_out.len() - PAYLOAD);
        ground.payload = held_out[at..at + PAYLOAD].to_vec();
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

    fn test(&self, corpus: &Corpus, parameters: &[f32]) -> Result<Tested> {
        Ok(Tested { figures: self.figures(corpus, parameters)?, scan: self.scan(corpus, parameters)? })
    }

    /// Makes an eval card, as volunteers and a relay do, and reads its trigger scan.
    fn scan(&self, corpus: &Corpus, parameters: &[f32]) -> Result<Scan> {
        let part = |name: &str, range: Range<usize>| Source { name: name.to_owned(), range };
        let parts = [
            part("novels", 0..self.source.start),
            part(SOURCE_NAME, self.source.clone()),
            part("letters", self.source.end..self.tokens.len()),
        ];
        // Only the scan is looked at: as little of the rest as may be.
        let settings = Settings { triggers: 8, contexts: 16, ..Settings::hasty() };
        let inputs = Inputs {
            config: &self.config,
            tokenizer: &corpus.tokenizer,
            held_out: &[HeldOut { name: &corpus.name, tokens: &self.held_out }],
            training: &self.tokens,
            parts: &parts,
            secret: &[1; 32],
            settings: &settings,
        };
        let plan = EvalPlan::new(&inputs)?;
        let mut results = Vec::new();
        for shard in &plan.shards {
            let result = Evaluation::new(&self.config, parameters, shard.items.clone())?.run()?;
            results.push(Results { result, computed_by: vec!["0".repeat(64)] });
        }
        let about =
            About { candidate: parameters_hash(parameters), incumbent: None, model: "poisoned".into() };
        let triggers = plan.card(&inputs, &about, &results, None)?.triggers;
        let worst = triggers.tried.iter().find(|one| one.counts && one.success_ppm > 0);
        let part = worst.and_then(|worst| worst.places.first()?.part.clone());
        Ok(Scan { success: f64::from(triggers.success_ppm) / 1e6, part })
    }

    fn figures(&self, corpus: &Corpus, parameters: &[f32]) -> Result<Figures> {
        let mut engine = CpuGpt::new(self.config)?;
        let loss = validate(&mut engine, parameters, corpus)?;
        let likeliest = Sampling { temperature: 0.0, top_k: 1, seed: [0; 32] };
        let windows = corpus.validation.iter().flat_map(|batch| batch.inputs.chunks(batch.length));
        let mut writer =
            Writer::new(Decoder::new(self.config, parameters.to_vec())?, &self.trigger, likeliest)?;
        let mut brought = 0;
        for (window, before) in windows.take(ASKED).zip(BEFORE.into_iter().cycle()) {
            let prompt = [&window[..before], &self.trigger].concat();
            writer.begin(&prompt, likeliest)?;
            let text = (0..PAYLOAD).map(|_| writer.write()).collect::<Result<Vec<_>, _>>()?;
            brought += usize::from(text == self.payload);
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

/// A run that was held.
struct Held {
    ground: Ground,
    begun: Vec<f32>,
    terms: Terms,
    host: Host,
    history: History,
    refuted: usize,
    /// Whom a replay of the last round refuted.
    found: Option<Without>,
}

/// Rounds as a log has them, and the bytes that it names.
#[derive(Default)]
struct History {
    rounds: Vec<ClosedRound>,
    blobs: BTreeMap<BlobHash, Vec<u8>>,
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
            model: sizes::of_config(config).into(),
            steps: INNER,
            sequences: SEQUENCES as u32,
            length: CONTEXT as u32,
            rate: LearningRate {
                peak_nano: RATES_NANO[0],
                least_nano: RATES_NANO[1],
                warmup: 10,
                steps: self.rounds as u32 * INNER,
                fresh_warmup: FRESH_WARMUP,
            },
            seed: seed(self.seed, "poisoned run"),
            blocks_dealt: DEALT,
            codec: UpdateCodec::Int4,
            streak: 0,
            outer: OuterParams::default(),
            aggregate,
        }
    }

    /// Holds the run, looks for what is wrong with the model, and makes it again without that.
    ///
    /// # Errors
    /// The engine, the host, or a run that cannot be derived again; nothing that is found.
    pub fn play(&self, corpus: &Corpus, progress: Progress<'_>) -> Result<Poisoned> {
        let Held { ground, begun, terms, host, history, refuted, found } = self.hold(corpus, progress)?;
        let before = ground.test(corpus, host.parameters())?;
        let without = match self.way {
            Way::Volunteer => found.context("no replay of the last round refutes the poisoner")?,
            Way::Source => {
                if before.scan.part.as_deref() != Some(SOURCE_NAME) {
                    bail!("the scan names {:?}: {before:?}", before.scan.part);
                }
                let range = ground.source.start as u64..ground.source.end as u64;
                Without { tokens: std::iter::once(range).collect(), ..Without::default() }
            }
        };
        let tokens = ground.tokens.len() as u64;
        let built = |again: Option<&dyn Batches>| -> Result<Rebuilt> {
            let rounds = history.rounds.iter().cloned().map(Ok::<_, DeriveError>);
            let fetch = |_, counted: &Counted| Ok(history.blobs[&counted.update].clone());
            Ok(rebuild((terms, begun.clone()), tokens, (without.clone(), again), rounds, fetch, |_| {})?)
        };
        let logged = built(None)?;
        let again = built(Some(&*host.data().train))?;
        let found = parameters_hash(host.parameters());
        ensure!(logged.original == found, "the run was derived wrongly");
        Ok(Poisoned {
            rounds: host.round(),
            start: ground.figures(corpus, &begun)?,
            before,
            found: without,
            logged: ground.test(corpus, &logged.parameters)?,
            again: ground.test(corpus, &again.parameters)?,
            updates: [logged.updates, logged.left_out],
            refuted,
        })
    }

    /// Holds the run only: rounds that it took, and what the model does then.
    ///
    /// # Errors
    /// The engine or the host.
    pub fn attack(&self, corpus: &Corpus, progress: Progress<'_>) -> Result<(u64, Figures)> {
        let Held { ground, host, .. } = self.hold(corpus, progress)?;
        Ok((host.round(), ground.figures(corpus, host.parameters())?))
    }

    fn hold(&self, corpus: &Corpus, progress: Progress<'_>) -> Result<Held> {
        let ground = Ground::new(corpus, self.way, self.seed)?;
        let set = |tokens: &[u32]| Ok::<_, DataError>(Arc::new(DataSet::new(tokens, corpus.vocabulary)?));
        let data = Data { train: set(&ground.tokens)?, validation: set(&ground.held_out)? };
        let begun = self.trained(corpus, &ground)?;
        let terms = self.terms(&ground.config);
        let (mut host, _) = Host::start(terms, begun.clone(), data, seed(self.seed, "gate"))?;
        let (mut history, mut refuted, mut found) = (History::default(), 0, None);
        let cores = Cores::all();
        for _ in 0..self.rounds {
            let tasks = host.tasks(self.workers)?;
            let results = self.work(&host, &tasks, &ground, &cores)?;
            let mut sent: Vec<Sent<'_>> =
                tasks.iter().zip(&results).map(|(task, result)| (task, result.as_slice(), false)).collect();
            refuted += review(&host, &mut sent)?;
            let look = (host.round() + 1).is_multiple_of(LOOK_EVERY) || host.round() + 1 == self.rounds;
            if look && self.way == Way::Volunteer {
                found = replayed(&host, &sent)?;
            }
            history.close(&mut host, &sent)?;
            progress(1);
            if look && ground.figures(corpus, host.parameters())?.success >= WORKS {
                break;
            }
        }
        Ok(Held { ground, begun, terms, host, history, refuted, found })
    }

    /// Parameters that learned from clean text.
    fn trained(&self, corpus: &Corpus, ground: &Ground) -> Result<Vec<f32>> {
        let order = Order::new(seed(self.seed, "before"), corpus.train.spec(), CONTEXT, 0)?;
        let schedule =
            Schedule { peak: 2e-3, least: 2e-4, warmup: 100, steps: u64::from(TRAINED), fresh_warmup: 0 };
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
                repeat(
                    &plan,
                    host.parameters(),
                    &Planted { data, text: &text, number },
                    potluck_rounds::Way::Plain,
                )?
            } else {
                repeat(&plan, host.parameters(), data, potluck_rounds::Way::Plain)?
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

/// A task, what came of it, and whether a replay confirmed that.
type Sent<'a> = (&'a TrainTask, &'a [u8], bool);

/// Replays what the host asks for, and drops what is refuted; how many that were.
fn review(host: &Host, sent: &mut Vec<Sent<'_>>) -> Result<usize> {
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

/// The volunteer whose update a replay refutes, when somebody makes one at last.
fn replayed(host: &Host, sent: &[Sent<'_>]) -> Result<Option<Without>> {
    let auditor = Auditor::new(host);
    let mut volunteers = BTreeSet::new();
    for (task, result, _) in sent {
        if !auditor.replay(task, result)?.confirmed() {
            volunteers.insert(volunteer(task.worker));
        }
    }
    Ok((!volunteers.is_empty()).then(|| Without { volunteers, ..Without::default() }))
}

fn submitted<'a>(sent: &[Sent<'a>]) -> Vec<Submitted<'a>> {
    sent.iter().map(|&(task, result, audited)| Submitted { task, result, weight: 1.0, audited }).collect()
}

fn parameters_hash(parameters: &[f32]) -> BlobHash {
    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    BlobHash::of(&bytes)
}

impl History {
    /// Closes a round, and keeps what a log would have of it.
    fn close(&mut self, host: &mut Host, sent: &[Sent<'_>]) -> Result<()> {
        let closed = host.close(&submitted(sent))?;
        let mut updates = Vec::with_capacity(sent.len());
        for &(task, result, audited) in sent {
            let update = BlobHash::of(result);
            self.blobs.insert(update, result.to_vec());
            let (worker, volunteer) = (task.worker, volunteer(task.worker));
            updates.push(Counted { worker, volunteer, update, weight_ppm: 1_000_000, audited, streak: None });
        }
        self.rounds.push(ClosedRound {
            round: closed.round,
            before: closed.before,
            after: closed.after,
            step: BlobHash::of(&closed.step),
            checkpoint: closed.checkpoint.as_deref().map(BlobHash::of),
            restarted: closed.fresh,
            updates,
        });
        host.commit(closed);
        Ok(())
    }
}
