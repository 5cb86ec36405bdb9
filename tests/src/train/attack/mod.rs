//! Attacks on a run: ten workers, three of which cheat together, with what a relay does about it and without.

mod cheat;

pub use cheat::Attack;
use cheat::{Backdoor, Flipped, Taught, falsify};

use super::cores::Cores;
use super::drift::skip;
use super::oracle::Coarse;
use super::run::{Progress, fresh, mean, order, train, validate};
use super::{Corpus, seed};
use anyhow::{Result, anyhow, bail};
use potluck_train::codec::Codec;
use potluck_train::gpt::{CpuGpt, FRESH_WARMUP, GptConfig, Layout, Schedule, Tensor};
use potluck_train::outer::{Outer, OuterParams, OuterRule};
use potluck_train::round::{Part, Update};
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

/// What stands between the updates and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// What a relay does: screen, audits by replay, and robust aggregation of what is left.
    Relay,
    /// Robust aggregation alone: what is left if no audit ever finds anything.
    Aggregation,
    /// None: the plain mean of all updates.
    Mean,
}

impl Defence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Relay, Self::Aggregation, Self::Mean];
}

/// What an attack did to a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Harm {
    /// By how much the validation loss is above the run where all are honest, in nats; infinite if the run diverged.
    pub loss: f64,
    /// Share of held-out windows after which the model says what the backdoor taught.
    pub backdoor: f64,
}

/// What an attack did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damage {
    /// The attack.
    pub attack: Attack,
    /// To the model, by defence in the order of [`Defence::ALL`].
    pub harm: [Harm; 3],
    /// Rounds until a relay found out the last of the three; none if one never was.
    pub caught: Option<u32>,
    /// How many it found out.
    pub found: u32,
    /// Updates of theirs that its screen stopped.
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
        let games = |attack: Option<Attack>| {
            let (stage, cores) = (&stage, &cores);
            Defence::ALL.map(|defence| scope.spawn(move || stage.play(attack, defence, cores, progress)))
        };
        let end = |games: [thread::ScopedJoinHandle<'_, Result<Game>>; 3]| {
            let mut ended = Vec::new();
            for game in games {
                ended.push(game.join().map_err(|_| anyhow!("a thread panicked"))??);
            }
            Ok::<_, anyhow::Error>(ended)
        };
        let clean = games(None);
        let attacked: Vec<_> = attacks.iter().map(|&attack| (attack, games(Some(attack)))).collect();
        let clean = end(clean)?;
        let damages = attacked.into_iter().map(|(attack, games)| {
            let games = end(games)?;
            let harm =
                |at: usize| Harm { loss: games[at].loss - clean[at].loss, backdoor: games[at].backdoor };
            let [relay, ..] = games.as_slice() else { bail!("no games") };
            let Game { caught, found, screened, .. } = *relay;
            Ok(Damage { attack, harm: [0, 1, 2].map(harm), caught, found, screened })
        });
        Ok((clean[0].loss, damages.collect::<Result<_>>()?))
    })
}

/// Calls of the progress in [`play`].
pub fn units(attacks: usize, rounds: u32) -> u64 {
    Defence::ALL.len() as u64 * (1 + attacks as u64) * u64::from(rounds)
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
    backdoor: Backdoor,
}

/// How a game ended.
struct Game {
    loss: f64,
    backdoor: f64,
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

/// A round's updates.
struct Offered<'a> {
    round: u32,
    before: &'a [f32],
    claims: &'a [Claim],
    decoded: &'a [Vec<f32>],
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
            schedule: Schedule {
                peak: 2e-3,
                least: 1e-4,
                warmup: 100,
                steps,
                fresh_warmup: FRESH_WARMUP.into(),
            },
        };
        let fresh = fresh(&config, number);
        let trained = train(part, &fresh, &mut CpuGpt::new(config)?, &corpus.train)?;
        let start = fresh.iter().zip(trained.delta).map(|(before, delta)| before - delta).collect();
        let tensors = Layout::new(&config).tensors.iter().map(Tensor::range).collect();
        let secret = Secret(seed(number, "epoch"));
        Ok(Self { corpus, config, start, tensors, part, rounds, secret, backdoor: Backdoor::of(corpus) })
    }

    fn part(&self, round: u32, worker: u32) -> Part {
        let steps_before = u64::from(TRAINED + round * INNER);
        Part { round: 1 + u64::from(round), worker, steps: INNER, steps_before, ..self.part }
    }

    fn play(
        &self,
        attack: Option<Attack>,
        defence: Defence,
        cores: &Cores,
        progress: Progress<'_>,
    ) -> Result<Game> {
        let mut engine = CpuGpt::new(self.config)?;
        let mut outer = Outer::start(self.start.clone(), OuterParams::default())?;
        let mut keys = [Key { rounds: ROUNDS_BEFORE, passed: 0, expelled: false }; WORKERS];
        let mut stale: Vec<Update> = Vec::new();
        let mut previous: Option<Vec<f32>> = None;
        let mut game = Game { loss: f64::INFINITY, backdoor: 0.0, caught: None, found: 0, screened: 0 };
        for round in 0..self.rounds {
            let _core = cores.take();
            let before = outer.replica().parameters().to_vec();
            let Ok(claims) = self.claims(round, &before, attack, &keys, &mut stale, &mut engine) else {
                // Nobody can train from what the attack left.
                return Ok(game);
            };
            let decoded = claims.iter().map(|claim| Codec::Int4.decode(&claim.bytes, before.len()));
            let decoded = decoded.collect::<Result<Vec<_>, _>>()?;
            let combined = match defence {
                Defence::Relay => {
                    let round = Offered { round, before: &before, claims: &claims, decoded: &decoded };
                    self.guard(&round, &mut keys, previous.as_deref(), &mut game, &mut engine)?
                }
                Defence::Aggregation => combine(decoded.iter().zip(&claims).map(|(d, c)| (d, c, false)))?,
                Defence::Mean => mean(&decoded),
            };
            if outer.step(&combined, OuterRule::Nesterov).is_err() {
                return Ok(game);
            }
            previous = Some(combined);
            progress(1);
        }
        let _core = cores.take();
        if let Ok(loss) = validate(&mut engine, outer.replica().parameters(), self.corpus) {
            game.loss = loss;
            game.backdoor = self.backdoor.success(&mut engine, self.corpus)?;
        }
        Ok(game)
    }

    /// Screen, audits by replay, and robust aggregation of what is left.
    fn guard(
        &self,
        offered: &Offered<'_>,
        keys: &mut [Key; WORKERS],
        previous: Option<&[f32]>,
        game: &mut Game,
        engine: &mut CpuGpt,
    ) -> Result<Vec<f32>> {
        let &Offered { round, before, claims, decoded } = offered;
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
            updates.push((&decoded[number], claim, audited));
        }
        combine(updates)
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
                Attack::Backdoor(_) => train(part, before, engine, &Taught(data, self.backdoor))?,
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

/// Robust aggregation of updates, each with whether it was audited.
fn combine<'a>(updates: impl IntoIterator<Item = (&'a Vec<f32>, &'a Claim, bool)>) -> Result<Vec<f32>> {
    let update = |(values, claim, audited): (&'a Vec<f32>, &Claim, bool)| potluck_verify::Update {
        values,
        sender: Sender { weight: 1.0, audited, cluster: u64::from(claim.worker) },
    };
    let updates: Vec<_> = updates.into_iter().map(update).collect();
    Ok(aggregate(&updates, Scope::All, &AggregateParams::default())?.values)
}

fn commit(claim: &Claim) -> BlobHash {
    let mut signed = claim.worker.to_le_bytes().to_vec();
    signed.extend_from_slice(&claim.bytes);
    BlobHash::of(&signed)
}
