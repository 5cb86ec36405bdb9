//! Attacks on a run: ten workers, three of which cheat together, with what a relay does about it and without.

use super::cores::Cores;
use super::drift::skip;
use super::oracle::{Coarse, round_to_bits};
use super::run::{Progress, fresh, mean, order, train, validate};
use super::{Corpus, seed};
use anyhow::{Result, anyhow};
use potluck_train::codec::Codec;
use potluck_train::data::{DataError, DataSet};
use potluck_train::gpt::{CpuGpt, GptConfig, Layout, Schedule, Tensor};
use potluck_train::outer::{Outer, OuterParams, OuterRule};
use potluck_train::round::{Batches, Part, Update};
use potluck_types::BlobHash;
use potluck_verify::{
    AggregateParams, AuditParams, Scope, ScreenParams, ScreenVerdict, Secret, Sender, Tolerances, aggregate,
    commits_hash, compare, is_audited, screen,
};
use std::ops::Range;
use std::thread;

/// Workers of a run.
pub const WORKERS: usize = 10;
/// The last ones of them cheat.
pub const CHEATS: usize = 3;
/// Inner steps of a round.
pub const INNER: u32 = 5;
/// Sequences of a batch.
const SEQUENCES: usize = 8;
/// Steps that one worker took before the first round, so that there is something to lose.
const TRAINED: u32 = 200;
/// Rounds that each key took part in before the first one here: cheats that waited until not every update of theirs is
/// audited.
const ROUNDS_BEFORE: u32 = 5;

/// What the three send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attack {
    /// Nothing, ever: what three workers less cost.
    Silent,
    /// Their update, turned around.
    SignFlip,
    /// Their update times this.
    Scale(f32),
    /// The honest mean minus z standard deviations at each coordinate.
    /// Source: Baruch et al., A little is enough, arXiv 1902.06156.
    Alie(f32),
    /// Minus ε times the honest mean. Source: Xie et al., Fall of empires, arXiv 1903.03936.
    InnerProduct(f32),
    /// Noise of the norm of an honest update.
    Noise,
    /// Zeros: a free rider.
    Zeros,
    /// The update of an honest worker.
    Copy,
    /// Their own update of the round before.
    Stale,
    /// Work on targets that are turned around.
    LabelFlip,
    /// Work on batches of somebody else.
    OtherData,
    /// Two of five steps, scaled up.
    SkippedSteps,
    /// Parameters rounded to bf16 before each step.
    Bf16Weights,
    /// An honest update, rounded to bf16.
    Bf16Update,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Silent,
        Self::SignFlip,
        Self::Scale(10.0),
        Self::Alie(1.0),
        Self::Alie(1.5),
        Self::Alie(3.0),
        Self::InnerProduct(0.5),
        Self::InnerProduct(5.0),
        Self::Noise,
        Self::Zeros,
        Self::Copy,
        Self::Stale,
        Self::LabelFlip,
        Self::OtherData,
        Self::SkippedSteps,
        Self::Bf16Weights,
        Self::Bf16Update,
    ];

    /// For people.
    pub fn name(self) -> String {
        match self {
            Self::Silent => "silent".into(),
            Self::SignFlip => "sign-flip".into(),
            Self::Scale(factor) => format!("scale-{factor}"),
            Self::Alie(z) => format!("alie-{z}"),
            Self::InnerProduct(epsilon) => format!("ipm-{epsilon}"),
            Self::Noise => "noise".into(),
            Self::Zeros => "zeros".into(),
            Self::Copy => "copy".into(),
            Self::Stale => "stale".into(),
            Self::LabelFlip => "label-flip".into(),
            Self::OtherData => "other-data".into(),
            Self::SkippedSteps => "skipped-steps".into(),
            Self::Bf16Weights => "bf16-weights".into(),
            Self::Bf16Update => "bf16-update".into(),
        }
    }
}

/// What an attack did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damage {
    /// The attack.
    pub attack: Attack,
    /// By how much the validation loss is above the run where all are honest, in nats, with screen, audits and robust
    /// aggregation.
    pub guarded: f64,
    /// The same with a plain mean of all updates; infinite if the run diverged.
    pub plain: f64,
    /// Rounds until the last of the three was found out; none if one never was.
    pub caught: Option<u32>,
    /// How many were found out.
    pub found: u32,
    /// Updates of theirs that the screen stopped.
    pub screened: u32,
}

/// Plays attacks, on all cores; also the loss of the run where all are honest.
///
/// # Errors
/// What the engine, a codec or the aggregation says of honest work.
pub fn play(
    corpus: &Corpus,
    attacks: &[Attack],
    rounds: u32,
    number: u64,
    progress: Progress<'_>,
) -> Result<(f64, Vec<Damage>)> {
    let cores = Cores::all();
    let stage = Stage::new(corpus, rounds, number)?;
    thread::scope(|scope| {
        let spawn = |attack: Option<Attack>, guarded: bool| {
            let (stage, cores) = (&stage, &cores);
            scope.spawn(move || stage.play(attack, guarded, cores, progress))
        };
        let clean = [spawn(None, true), spawn(None, false)];
        let both = |&attack: &Attack| (attack, spawn(Some(attack), true), spawn(Some(attack), false));
        let games: Vec<_> = attacks.iter().map(both).collect();
        let end = |game: thread::ScopedJoinHandle<'_, Result<Game>>| {
            game.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        let [guarded, plain] = clean.map(end);
        let (guarded, plain) = (guarded?, plain?);
        let damages = games.into_iter().map(|(attack, with, without)| {
            let (with, without) = (end(with)?, end(without)?);
            Ok(Damage {
                attack,
                guarded: with.loss - guarded.loss,
                plain: without.loss - plain.loss,
                caught: with.caught,
                found: with.found,
                screened: with.screened,
            })
        });
        Ok((guarded.loss, damages.collect::<Result<_>>()?))
    })
}

/// Calls of the progress in [`play`].
pub fn units(attacks: usize, rounds: u32) -> u64 {
    2 * (1 + attacks as u64) * u64::from(rounds)
}

/// What all games have in common.
struct Stage<'a> {
    corpus: &'a Corpus,
    config: GptConfig,
    start: Vec<f32>,
    tensors: Vec<Range<usize>>,
    part: Part,
    rounds: u32,
    secret: Secret,
}

/// How a game ended.
struct Game {
    loss: f64,
    caught: Option<u32>,
    found: u32,
    screened: u32,
}

/// A worker's standing with the relay.
#[derive(Clone, Copy)]
struct Key {
    rounds: u32,
    passed: u32,
    expelled: bool,
}

/// One worker's upload, and what it says about it.
struct Claim {
    worker: u32,
    update: Update,
    bytes: Vec<u8>,
}

impl<'a> Stage<'a> {
    fn new(corpus: &'a Corpus, rounds: u32, number: u64) -> Result<Self> {
        let config = GptConfig::tiny(corpus.vocabulary);
        let steps = u64::from(TRAINED + rounds * INNER);
        let part = Part {
            order: order(number, &corpus.train)?,
            round: 0,
            worker: 0,
            steps: TRAINED,
            steps_before: 0,
            sequences: SEQUENCES,
            schedule: Schedule { peak: 2e-3, least: 1e-4, warmup: 100, steps },
        };
        let fresh = fresh(&config, number);
        let trained = train(part, &fresh, &mut CpuGpt::new(config)?, &corpus.train)?;
        let start = fresh.iter().zip(trained.delta).map(|(before, delta)| before - delta).collect();
        let tensors = Layout::new(&config).tensors.iter().map(Tensor::range).collect();
        let secret = Secret(seed(number, "epoch"));
        Ok(Self { corpus, config, start, tensors, part, rounds, secret })
    }

    fn part(&self, round: u32, worker: u32) -> Part {
        let steps_before = u64::from(TRAINED + round * INNER);
        Part { round: 1 + u64::from(round), worker, steps: INNER, steps_before, ..self.part }
    }

    fn play(
        &self,
        attack: Option<Attack>,
        guarded: bool,
        cores: &Cores,
        progress: Progress<'_>,
    ) -> Result<Game> {
        let mut engine = CpuGpt::new(self.config)?;
        let mut outer = Outer::start(self.start.clone(), OuterParams::default())?;
        let mut keys = [Key { rounds: ROUNDS_BEFORE, passed: 0, expelled: false }; WORKERS];
        let mut stale: Vec<Update> = Vec::new();
        let mut previous: Option<Vec<f32>> = None;
        let mut game = Game { loss: f64::INFINITY, caught: None, found: 0, screened: 0 };
        for round in 0..self.rounds {
            let _core = cores.take();
            let before = outer.replica().parameters().to_vec();
            let Ok(claims) = self.claims(round, &before, attack, &keys, &mut stale, &mut engine) else {
                // Nobody can train from what the attack left.
                return Ok(game);
            };
            let combined = if guarded {
                self.guard(round, &before, &claims, &mut keys, previous.as_deref(), &mut game, &mut engine)?
            } else {
                let decoded = claims.iter().map(|claim| Codec::Int4.decode(&claim.bytes, before.len()));
                mean(&decoded.collect::<Result<Vec<_>, _>>()?)
            };
            if outer.step(&combined, OuterRule::Nesterov).is_err() {
                return Ok(game);
            }
            previous = Some(combined);
            progress(1);
        }
        let _core = cores.take();
        game.loss = validate(&mut engine, outer.replica().parameters(), self.corpus).unwrap_or(f64::INFINITY);
        Ok(game)
    }

    /// Screen, audits by replay, and robust aggregation of what is left.
    #[expect(clippy::too_many_arguments, reason = "the relay's whole view of a round")]
    fn guard(
        &self,
        round: u32,
        before: &[f32],
        claims: &[Claim],
        keys: &mut [Key; WORKERS],
        previous: Option<&[f32]>,
        game: &mut Game,
        engine: &mut CpuGpt,
    ) -> Result<Vec<f32>> {
        let decoded = claims.iter().map(|claim| Codec::Int4.decode(&claim.bytes, before.len()));
        let decoded: Vec<Vec<f32>> = decoded.collect::<Result<_, _>>()?;
        let views: Vec<&[f32]> = decoded.iter().map(Vec::as_slice).collect();
        let reports = screen(&views, previous, &ScreenParams::default())?;
        let commits: Vec<BlobHash> = claims.iter().map(commit).collect();
        let all = commits_hash(&commits);
        let audits = AuditParams::default();
        let mut updates = Vec::new();
        for (number, claim) in claims.iter().enumerate() {
            let key = &mut keys[claim.worker as usize];
            let refused = reports[number].verdict != ScreenVerdict::Passed;
            let cheats = claim.worker as usize >= WORKERS - CHEATS;
            game.screened += u32::from(refused && cheats);
            let rate = audits.rate(key.rounds, key.passed);
            key.rounds += 1;
            // Whoever fails the screen is replayed for certain: that decides whether it was a cheat or bad luck.
            let audited = refused || is_audited(&self.secret, &all, &commits[number], rate);
            if audited {
                if !self.confirms(claim, round, before, engine)? {
                    key.expelled = true;
                    game.found += 1;
                    if game.found == CHEATS as u32 {
                        game.caught = Some(round + 1);
                    }
                    continue;
                }
                key.passed += 1;
            }
            let sender = Sender { weight: 1.0, audited, cluster: u64::from(claim.worker) };
            updates.push(potluck_verify::Update { values: &decoded[number], sender });
        }
        Ok(aggregate(&updates, Scope::All, &AggregateParams::default())?.values)
    }

    /// Replays a worker's part, and encodes what it claims once more.
    fn confirms(&self, claim: &Claim, round: u32, before: &[f32], engine: &mut CpuGpt) -> Result<bool> {
        let replayed = train(self.part(round, claim.worker), before, engine, &self.corpus.train)?;
        let report = compare(
            &claim.update.delta,
            &replayed.delta,
            &self.tensors,
            &claim.update.losses,
            &replayed.losses,
            &Tolerances::default(),
        )?;
        Ok(report.confirmed()
            && Codec::Int4.encode(&claim.update.delta).is_ok_and(|bytes| bytes == claim.bytes))
    }

    /// What the workers send that still take part.
    fn claims(
        &self,
        round: u32,
        before: &[f32],
        attack: Option<Attack>,
        keys: &[Key; WORKERS],
        stale: &mut Vec<Update>,
        engine: &mut CpuGpt,
    ) -> Result<Vec<Claim>> {
        let honest_workers = if attack.is_some() { WORKERS - CHEATS } else { WORKERS };
        let data = &self.corpus.train;
        let mut updates = Vec::new();
        for (worker, key) in keys.iter().enumerate().take(honest_workers) {
            if !key.expelled {
                updates.push((worker, train(self.part(round, worker as u32), before, engine, data)?));
            }
        }
        let honest: Vec<Update> = updates.iter().map(|(_, update)| update.clone()).collect();
        let mut work = Vec::new();
        for (worker, key) in keys.iter().enumerate().skip(honest_workers) {
            let Some(attack) = attack.filter(|&attack| attack != Attack::Silent) else { continue };
            if key.expelled {
                continue;
            }
            let part = self.part(round, worker as u32);
            let own = match attack {
                Attack::LabelFlip => train(part, before, engine, &Flipped(data, self.config.vocabulary))?,
                Attack::OtherData => {
                    train(Part { worker: part.worker + 1000, ..part }, before, engine, data)?
                }
                Attack::SkippedSteps => skip(part, 2, before, engine, data)?,
                Attack::Bf16Weights => train(part, before, &mut Coarse::new(self.config, 8)?, data)?,
                _ => train(part, before, engine, data)?,
            };
            let last = stale.get(worker - honest_workers);
            let update = falsify(attack, &own, &honest, last, part.round);
            work.push(own);
            updates.push((worker, update));
        }
        *stale = work;
        let claim = |(worker, update): (usize, Update)| {
            let bytes = Codec::Int4.encode(&update.delta)?;
            Ok(Claim { worker: worker as u32, update, bytes })
        };
        updates.into_iter().map(claim).collect()
    }
}

fn commit(claim: &Claim) -> BlobHash {
    let mut signed = claim.worker.to_le_bytes().to_vec();
    signed.extend_from_slice(&claim.bytes);
    BlobHash::of(&signed)
}

/// What a cheat makes of its own update and of those of the honest, all of which it knows.
fn falsify(attack: Attack, own: &Update, honest: &[Update], stale: Option<&Update>, round: u64) -> Update {
    let mut update = own.clone();
    let each = |update: &mut Update, change: &dyn Fn(f32) -> f32| {
        update.delta.iter_mut().for_each(|value| *value = change(*value));
    };
    let average = || mean(&honest.iter().map(|update| update.delta.clone()).collect::<Vec<_>>());
    match attack {
        Attack::SignFlip => each(&mut update, &|value| -value),
        Attack::Scale(factor) => each(&mut update, &|value| factor * value),
        Attack::Bf16Update => each(&mut update, &|value| round_to_bits(value, 8)),
        Attack::Zeros => update.delta.fill(0.0),
        Attack::Alie(z) => {
            let mean = average();
            for (at, value) in update.delta.iter_mut().enumerate() {
                let squares = honest.iter().map(|other| (other.delta[at] - mean[at]).powi(2)).sum::<f32>();
                *value = mean[at] - z * (squares / honest.len() as f32).sqrt();
            }
        }
        Attack::InnerProduct(epsilon) => {
            update.delta = average().into_iter().map(|value| -epsilon * value).collect();
        }
        Attack::Noise => {
            let norm = own.delta.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let deviation = norm / (own.delta.len() as f64).sqrt();
            noise(&mut update.delta, deviation, round);
        }
        Attack::Copy => update.clone_from(honest.first().unwrap_or(own)),
        Attack::Stale => update.clone_from(stale.unwrap_or(own)),
        Attack::Silent
        | Attack::LabelFlip
        | Attack::OtherData
        | Attack::SkippedSteps
        | Attack::Bf16Weights => {}
    }
    update
}

/// Normal numbers, as sums of twelve uniform ones.
fn noise(values: &mut [f32], deviation: f64, round: u64) {
    let mut bits = blake3::Hasher::new_keyed(&seed(round, "noise")).finalize_xof();
    let mut draw = [0_u8; 24];
    for value in values {
        bits.fill(&mut draw);
        let sum: u32 = draw.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two))).sum();
        *value = ((f64::from(sum) / 65_536.0 - 6.0) * deviation) as f32;
    }
}

/// Targets turned around: the first token of the vocabulary for the last one.
struct Flipped<'a>(&'a DataSet, usize);

impl Batches for Flipped<'_> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<potluck_train::Batch, DataError> {
        let mut batch = self.0.batch(starts, length)?;
        batch.targets.iter_mut().for_each(|target| *target = self.1 as u32 - 1 - *target);
        Ok(batch)
    }
}
