//! Runs, derived again from what their rounds were closed with, and made again without a part of it.

use super::{STREAK, World, data, terms};
use crate::derive::{
    ClosedRound, Closing, Counted, Derivation, DeriveError, Place, Rebuild, Rebuilt, RebuiltRound, Without,
    rebuild, rederive,
};
use crate::host::{Closed, Host, Submitted, Terms, named};
use crate::sizes;
use potluck_proto::{TrainTask, UpdateCodec};
use potluck_train::data::{BLOCK_TOKENS, Order};
use potluck_types::{BlobHash, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const fn volunteer(worker: u32) -> VolunteerId {
    VolunteerId([worker as u8 + 1; 32])
}

/// A run that was held, as the log has it.
#[derive(Debug, Default)]
struct History {
    rounds: Vec<ClosedRound>,
    blobs: BTreeMap<BlobHash, Vec<u8>>,
    closings: Vec<Closing>,
}

impl History {
    /// Notes a round, and takes it as over.
    fn commit(&mut self, host: &mut Host, updates: &[Submitted<'_>], closed: Closed) {
        let counted = |update: &Submitted<'_>| {
            self.blobs.insert(BlobHash::of(update.result), update.result.to_vec());
            let streak = update.task.streak.iter();
            Counted {
                worker: update.task.worker,
                volunteer: volunteer(update.task.worker),
                update: BlobHash::of(update.result),
                weight_ppm: (update.weight * 1e6).round() as u32,
                audited: update.audited,
                streak: Some(streak.map(|past| Place { round: past.round, worker: past.worker }).collect()),
            }
        };
        self.rounds.push(ClosedRound {
            round: closed.round,
            before: closed.before,
            after: closed.after,
            step: BlobHash::of(&closed.step),
            checkpoint: closed.checkpoint.as_deref().map(BlobHash::of),
            restarted: closed.fresh,
            updates: updates.iter().map(counted).collect(),
        });
        self.closings.push(match closed.gate {
            "kept" => Closing::Kept,
            "audited only" => Closing::AuditedOnly,
            _ => Closing::StoodStill,
        });
        host.commit(closed);
    }

    fn rounds(&self) -> impl Iterator<Item = Result<ClosedRound, DeriveError>> {
        self.rounds.iter().cloned().map(Ok)
    }

    fn results(&self, round: u64) -> Vec<Vec<u8>> {
        self.rounds[round as usize]
            .updates
            .iter()
            .map(|counted| self.blobs[&counted.update].clone())
            .collect()
    }

    fn rederive(&self, terms: Terms) -> Result<Derivation, DeriveError> {
        let mut closings = Vec::new();
        let fetch = |_, counted: &Counted| Ok(self.blobs[&counted.update].clone());
        let told = |_: &ClosedRound, closing| closings.push(closing);
        let derived = rederive(terms, start(&terms), self.rounds(), fetch, told)?;
        assert_eq!(closings, self.closings);
        Ok(derived)
    }

    fn rebuild(&self, terms: Terms, without: Without) -> Result<(Rebuilt, Vec<RebuiltRound>), DeriveError> {
        let mut told = Vec::new();
        let fetch = |_, counted: &Counted| Ok(self.blobs[&counted.update].clone());
        let begun = (terms, start(&terms));
        let spec = *data().train.spec();
        let built =
            rebuild(begun, spec.tokens, (without, None), self.rounds(), fetch, |round| told.push(*round))?;
        Ok((built, told))
    }
}

fn start(terms: &Terms) -> Vec<f32> {
    sizes::model(&terms.model).init(&terms.seed)
}

fn begin(terms: Terms) -> Host {
    Host::start(terms, start(&terms), data(), [5; 32]).unwrap().0
}

/// What a worker sends whose update has these values, in the run's codec or in codec S.
fn sends(task: &TrainTask, values: &[f32]) -> Vec<u8> {
    let losses = vec![1.0_f32; task.steps as usize];
    let sketch = if task.codec == UpdateCodec::TopK {
        vec![0; potluck_train::streak::SKETCH_BYTES]
    } else {
        Vec::new()
    };
    let head = losses.iter().flat_map(|loss| loss.to_le_bytes()).chain(sketch);
    head.chain(sizes::codec(task.codec).encode(values).unwrap()).collect()
}

/// Small values that follow from round and worker.
fn noise(count: usize, round: u64, worker: u32, scale: f32) -> Vec<f32> {
    let draw = |at: usize| {
        let hash =
            (at as u64 ^ (round << 20) ^ (u64::from(worker) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|at| scale * draw(at)).collect()
}

/// What each worker of a round does: scale of its update, whether a replay confirmed it, and whether it uses codec S.
type Sends = (f32, bool, bool);

/// Holds rounds with such updates; the relay starts anew before some of them.
fn hold(terms: Terms, rounds: &[Vec<Sends>], restarts: &BTreeSet<u64>) -> (Host, History) {
    let mut host = begin(terms);
    let mut history = History::default();
    let (mut checkpoint, mut steps) = (None, Vec::new());
    for (round, sent) in (0..).zip(rounds) {
        if restarts.contains(&round) {
            let checkpoint = checkpoint.unwrap_or_else(|| host.tasks(1).unwrap()[0].checkpoint);
            host = Host::resume(terms, &host.state(), data(), [5; 32], checkpoint, steps.clone()).unwrap();
        }
        let mut tasks = host.tasks(sent.len() as u32).unwrap();
        let mut results = Vec::new();
        for (task, (scale, _, sparse)) in tasks.iter_mut().zip(sent) {
            if *sparse {
                task.codec = UpdateCodec::TopK;
            }
            results.push(sends(task, &noise(host.parameters().len(), round, task.worker, *scale)));
        }
        let updates: Vec<_> = tasks
            .iter()
            .zip(&results)
            .zip(sent)
            .map(|((task, result), (_, audited, _))| {
                let weight = f64::from(250_000 + 150_000 * (task.worker % 4)) / 1e6;
                Submitted { task, result, weight, audited: *audited }
            })
            .collect();
        let closed = host.close(&updates).unwrap();
        match &closed.checkpoint {
            Some(next) => {
                checkpoint = Some(named(next));
                steps.clear();
            }
            None => steps.push(named(&closed.step)),
        }
        history.commit(&mut host, &updates, closed);
    }
    (host, history)
}

/// Rounds of six, five, three and two workers; one in which the gate combines the audited only, and one that it takes back.
fn varied(sparse: bool) -> Vec<Vec<Sends>> {
    let mut rounds: Vec<Vec<Sends>> = Vec::new();
    for round in 0..26_u32 {
        let workers = [6, 5, 7, 3, 2][round as usize % 5];
        let scale = |worker: u32| 0.0004 * (1.0 + ((round * 5 + worker) % 7) as f32 / 3.0);
        // Where there are few, a relay replays all.
        let few = workers < 4 || sparse;
        rounds.push((0..workers).map(|w| (scale(w), few || w % 2 == 0, sparse && w % 3 == 0)).collect());
    }
    // Before enough norms are known for a cap, these raise the loss.
    rounds[1] = vec![(20.0, false, false); 4];
    rounds[1].push((0.0001, true, false));
    rounds[13] = vec![(20.0, true, false); 5];
    // Larger than three times the median: capped.
    rounds[23] = vec![(0.006, true, false); 6];
    rounds
}

#[test]
fn every_way_of_closing_is_derived_again_bit_by_bit() {
    for (codec, sparse) in [(UpdateCodec::Int4, false), (UpdateCodec::F32, false), (UpdateCodec::Int4, true)]
    {
        let terms = Terms { streak: if sparse { STREAK } else { 0 }, ..terms(codec, true) };
        let (host, history) = hold(terms, &varied(sparse), &BTreeSet::from([3, 12]));
        let seen: BTreeSet<_> = history.closings.iter().map(|closing| format!("{closing:?}")).collect();
        assert_eq!(seen.len(), 3, "{:?}", history.closings);
        assert!(history.rounds.iter().any(|round| round.checkpoint.is_some()));
        let derived = history.rederive(terms).unwrap();
        assert_eq!(derived.parameters(), host.parameters());
        assert_eq!(derived.round(), 26);
    }
}

#[test]
fn norms_are_forgotten_when_a_relay_starts() {
    let terms = terms(UpdateCodec::Int4, false);
    let mut rounds = vec![vec![(0.001, true, false); 6]; 9];
    rounds.push(vec![(0.02, true, false); 6]);
    let (_, capped) = hold(terms, &rounds, &BTreeSet::new());
    let (_, free) = hold(terms, &rounds, &BTreeSet::from([8]));
    let last = |history: &History| history.rounds.last().unwrap().after;
    assert_ne!(last(&capped), last(&free), "the cap acts");
    capped.rederive(terms).unwrap();
    free.rederive(terms).unwrap();
    let mut hidden = free;
    hidden.rounds[8].restarted = false;
    let error = hidden.rederive(terms).unwrap_err();
    assert!(matches!(error, DeriveError::After { round: 9, .. }), "{error}");
}

#[test]
fn real_workers_with_streaks_are_derived_again() {
    for codec in [UpdateCodec::TopK, UpdateCodec::Int8] {
        let mut world = World::new(codec, false);
        let mut history = History::default();
        let mut kept = vec![None; 4];
        for _ in 0..4 {
            let mut tasks = world.host.tasks(4).unwrap();
            if codec == UpdateCodec::TopK {
                for task in &mut tasks {
                    let past = history.rounds.iter().map(|round| potluck_proto::PastUpdate {
                        round: round.round,
                        worker: task.worker,
                        result: Some(round.updates[task.worker as usize].update),
                    });
                    task.streak = past.collect();
                }
            }
            let mut results = Vec::new();
            for (task, kept) in tasks.iter().zip(&mut kept) {
                let done = world.work_on(task, kept.take());
                *kept = done.kept;
                results.push(done.result);
            }
            let updates = super::submitted(&tasks, &results);
            let closed = world.close(&updates);
            history.commit(&mut world.host, &updates, closed);
        }
        let derived = history.rederive(terms(codec, false)).unwrap();
        assert_eq!(derived.parameters(), world.host.parameters());
    }
}

type Change = fn(&mut ClosedRound);

#[test]
fn what_was_changed_is_named() {
    let terms = terms(UpdateCodec::Int4, false);
    let (_, history) = hold(terms, &varied(false), &BTreeSet::new());
    let begun = || Derivation::start(terms, start(&terms)).unwrap();
    let follow = |derivation: &mut Derivation, round: &ClosedRound, results: &[Vec<u8>]| {
        derivation.follow(round, results).map(drop)
    };
    let first = history.rounds[0].clone();
    let results = history.results(0);

    // Any byte of any update.
    for (worker, at) in [(0, 0), (3, 200), (5, results[5].len() - 1)] {
        let mut bad = results.clone();
        bad[worker][at] ^= 1;
        let error = follow(&mut begun(), &first, &bad).unwrap_err();
        assert!(error.to_string().starts_with(&format!("round 0, worker {worker}: ")), "{error}");
    }
    // Also one whose hash the log was made to name.
    let mut bad = results.clone();
    bad[2].truncate(100);
    let mut lied = first.clone();
    lied.updates[2].update = BlobHash::of(&bad[2]);
    let error = follow(&mut begun(), &lied, &bad).unwrap_err();
    assert!(error.to_string().contains("100 bytes, which no result of this run has"), "{error}");

    // A weight, a worker, one left out, one more, an order of others.
    let cases: [(&str, Change); 4] = [
        ("weight", |round| round.updates[1].weight_ppm += 1000),
        ("parameters", |round| round.after = BlobHash([7; 32])),
        ("step", |round| round.step = BlobHash([7; 32])),
        ("checkpoint", |round| round.checkpoint = Some(BlobHash([7; 32]))),
    ];
    for (what, change) in cases {
        let mut round = first.clone();
        change(&mut round);
        let error = follow(&mut begun(), &round, &results).unwrap_err();
        let expected = match what {
            "step" | "checkpoint" => matches!(error, DeriveError::Blobs { round: 0 }),
            _ => matches!(error, DeriveError::After { round: 0, .. }),
        };
        assert!(expected, "{what}: {error}");
    }
    let mut fewer = first.clone();
    fewer.updates.pop();
    assert!(matches!(
        follow(&mut begun(), &fewer, &results),
        Err(DeriveError::Count { round: 0, found: 6, expected: 5 })
    ));
    let error = follow(&mut begun(), &fewer, &results[..5]).unwrap_err();
    assert!(matches!(error, DeriveError::After { .. }), "{error}");
    let error = follow(&mut begun(), &history.rounds[1], &history.results(1)).unwrap_err();
    assert!(matches!(error, DeriveError::Chain { round: 1, next: 0, .. }), "{error}");
    let mut other = start(&terms);
    other[0] += 1.0;
    let error = Derivation::start(terms, other).unwrap().follow(&first, &results).unwrap_err();
    assert!(matches!(error, DeriveError::Chain { .. }), "{error}");
    assert!(Derivation::start(terms, vec![0.0; 3]).is_err());

    // Whatever failed, nothing changed.
    let mut derivation = begun();
    let mut round = first.clone();
    round.step = BlobHash([7; 32]);
    follow(&mut derivation, &round, &results).unwrap_err();
    follow(&mut derivation, &first, &results).unwrap();

    // A round is not held beyond the limit.
    let mut huge = first.clone();
    let each = 4 * begun().parameters().len() as u64;
    huge.updates = vec![huge.updates[0].clone(); (super::super::derive::MAX_ROUND_BYTES / each) as usize + 1];
    assert!(matches!(begun().fits(&huge), Err(DeriveError::Memory { round: 0, .. })));
}

#[test]
fn without_a_volunteer_is_what_a_host_makes_of_the_others() {
    for sparse in [false, true] {
        let terms = Terms { streak: if sparse { STREAK } else { 0 }, ..terms(UpdateCodec::Int4, false) };
        let mut rounds = varied(sparse);
        // The gate decides by itself: the rounds in which it acts would be others without the volunteer.
        (rounds[1], rounds[13]) = (rounds[5].clone(), rounds[5].clone());
        let restarts = BTreeSet::from([7]);
        let (host, history) = hold(terms, &rounds, &restarts);
        let without = Without { volunteers: BTreeSet::from([volunteer(1)]), ..Without::default() };
        let (built, told) = history.rebuild(terms, without).unwrap();
        assert_eq!(built.original, history.rounds[25].after);
        assert_ne!(built.parameters, host.parameters());
        assert_eq!((built.left_out, built.rounds), (26, 26));
        assert!(told.iter().all(|round| round.left_out == 1 && round.stepped));

        // A host that never saw that worker, given the same bytes of the others.
        let mut other = begin(terms);
        let (mut checkpoint, mut steps) = (other.tasks(1).unwrap()[0].checkpoint, Vec::new());
        for (number, round) in history.rounds.iter().enumerate() {
            if restarts.contains(&(number as u64)) {
                other =
                    Host::resume(terms, &other.state(), data(), [5; 32], checkpoint, steps.clone()).unwrap();
            }
            let mut tasks = other.tasks(round.updates.len() as u32).unwrap();
            let results = history.results(round.round);
            for (task, (_, _, sparse)) in tasks.iter_mut().zip(&rounds[number]) {
                if *sparse {
                    task.codec = UpdateCodec::TopK;
                }
            }
            let counted =
                tasks.iter().zip(&results).zip(&round.updates).filter(|(_, update)| update.worker != 1);
            let updates: Vec<_> = counted
                .map(|((task, result), update)| Submitted {
                    task,
                    result,
                    weight: f64::from(update.weight_ppm) / 1e6,
                    audited: update.audited,
                })
                .collect();
            let closed = other.close(&updates).unwrap();
            assert_eq!(closed.gate, "kept");
            match &closed.checkpoint {
                Some(next) => (checkpoint, steps) = (named(next), Vec::new()),
                None => steps.push(named(&closed.step)),
            }
            other.commit(closed);
        }
        assert_eq!(built.parameters, other.parameters());
    }
}

fn without_tokens(range: Range<u64>) -> Without {
    Without { tokens: std::iter::once(range).collect(), ..Without::default() }
}

#[test]
fn without_a_range_of_tokens_whoever_touched_it_is_left_out() {
    let terms = terms(UpdateCodec::Int4, false);
    let (_, history) = hold(terms, &vec![vec![(0.002, true, false); 6]; 12], &BTreeSet::new());
    let range = BLOCK_TOKENS as u64 + 100..BLOCK_TOKENS as u64 + 300;
    let spec = *data().train.spec();
    let order = Order::of_records(terms.seed, &spec, terms.length as usize, terms.blocks_dealt, 1).unwrap();
    let touches = |round: u64, worker: u32| {
        let starts = (0..terms.steps)
            .flat_map(|step| order.batch(round, worker, step, terms.sequences as usize).unwrap());
        let mut seen = starts.flat_map(|start| start..=start + u64::from(terms.length));
        seen.any(|token| range.contains(&token))
    };
    let without = without_tokens(range.clone());
    let (built, told) = history.rebuild(terms, without).unwrap();
    let expected = |round: u64| (0..6).filter(|worker| touches(round, *worker)).count();
    for round in &told {
        assert_eq!(round.left_out, expected(round.round), "round {}", round.round);
    }
    assert!((2..40).contains(&built.left_out), "{}", built.left_out);

    // The token that follows a sequence belongs to it, the next one does not.
    let start = order.batch(0, 0, 0, terms.sequences as usize).unwrap()[0];
    for (from, out) in [(start, true), (start + u64::from(terms.length), true)] {
        let one = without_tokens(from..from + 1);
        assert_eq!(history.rebuild(terms, one).unwrap().1[0].left_out >= 1, out);
    }

    // Nothing left: no step is taken, but for what was owed.
    let all = without_tokens(0..spec.tokens);
    let (built, _) = history.rebuild(terms, all).unwrap();
    assert_eq!((built.left_out, built.emptied), (72, 12));
    let far =
        built.parameters.iter().zip(self::start(&terms)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-4, "{far}");

    let nothing = history.rebuild(terms, Without::default()).unwrap().0;
    assert_eq!((nothing.hash, nothing.left_out), (nothing.original, 0));
    for tokens in [5..5, spec.tokens - 1..spec.tokens + 1] {
        assert!(matches!(history.rebuild(terms, without_tokens(tokens)), Err(DeriveError::Range { .. })));
    }
    let many = Without { tokens: vec![0..1; 300], ..Without::default() };
    assert!(matches!(history.rebuild(terms, many), Err(DeriveError::TooMany { found: 300, .. })));
}

#[test]
fn a_streak_carries_what_its_earlier_rounds_saw() {
    let terms = terms(UpdateCodec::TopK, false);
    let (_, mut history) = hold(terms, &vec![vec![(0.002, true, true); 4]; 3], &BTreeSet::new());
    let spec = *data().train.spec();
    let order = Order::of_records(terms.seed, &spec, terms.length as usize, terms.blocks_dealt, 1).unwrap();
    // Tokens that worker 2 saw in round 0, and not in round 1.
    let start = order.batch(0, 2, 0, terms.sequences as usize).unwrap()[0];
    let without = without_tokens(start..start + 1);
    let left_out = |history: &History| {
        let mut rebuild = Rebuild::start(terms, self::start(&terms), spec.tokens, without.clone())?;
        let rounds = history.rounds.iter();
        rounds
            .map(|round| Ok(rebuild.follow(round, &history.results(round.round))?.left_out))
            .collect::<Result<Vec<_>, DeriveError>>()
    };
    assert_eq!(left_out(&history).unwrap(), [1, 0, 0]);
    for round in [1, 2] {
        history.rounds[round].updates[2].streak = Some(vec![Place { round: 0, worker: 2 }]);
    }
    assert_eq!(left_out(&history).unwrap(), [1, 1, 1]);
    history.rounds[1].updates[3].streak = None;
    assert!(matches!(left_out(&history), Err(DeriveError::Streak { round: 1, worker: 3 })));
}

#[test]
fn without_enough_votes_only_audited_updates_count() {
    // Five votes are enough for a median; of the three that are left only those that were replayed count.
    let terms = terms(UpdateCodec::F32, false);
    let sent = vec![
        (0.002, true, false),
        (0.002, true, false),
        (0.002, true, false),
        (0.003, false, false),
        (0.004, true, false),
    ];
    let (_, history) = hold(terms, &[sent], &BTreeSet::new());
    let without = |workers: &[u32]| Without {
        volunteers: workers.iter().map(|worker| volunteer(*worker)).collect(),
        ..Without::default()
    };
    let with_three = history.rebuild(terms, without(&[0, 1])).unwrap().0;
    let with_two = history.rebuild(terms, without(&[0, 1, 3])).unwrap().0;
    assert_eq!(with_three.hash, with_two.hash);
    let (bare, told) = history.rebuild(terms, without(&[0, 1, 2, 4])).unwrap();
    assert_eq!((bare.emptied, told[0].stepped), (1, false));
}

#[test]
fn steps_taken_again_give_what_the_run_would_have_come_to() {
    let terms = terms(UpdateCodec::Int8, false);
    let hold = |workers: &[u32], rounds: u64| {
        let mut world = World::new(UpdateCodec::Int8, false);
        let mut history = History::default();
        for _ in 0..rounds {
            let tasks: Vec<_> = world.host.tasks(5).unwrap();
            let tasks: Vec<_> = tasks.into_iter().filter(|task| workers.contains(&task.worker)).collect();
            let results: Vec<_> = tasks.iter().map(|task| world.work(task)).collect();
            let updates = super::submitted(&tasks, &results);
            let closed = world.close(&updates);
            history.commit(&mut world.host, &updates, closed);
        }
        (world.host.parameters().to_vec(), history)
    };
    let (_, history) = hold(&[0, 1, 2, 3, 4], 4);
    let (expected, _) = hold(&[0, 1, 3, 4], 4);
    let data = data().train;
    let without = Without { volunteers: BTreeSet::from([volunteer(2)]), ..Without::default() };
    let fetch = |_, counted: &Counted| Ok::<_, DeriveError>(history.blobs[&counted.update].clone());
    let tokens = data.spec().tokens;
    let again = |without: &Without| {
        let begun = (terms, start(&terms));
        rebuild(begun, tokens, (without.clone(), Some(&*data)), history.rounds(), fetch, |_| {}).unwrap()
    };
    let built = again(&without);
    assert_eq!(built.parameters, expected);
    assert_eq!((built.left_out, built.untouched), (4, 0));
    // Where nothing is left out, nothing is taken again.
    assert_eq!(again(&Without::default()).hash, built.original);

    let sparse = Terms { streak: STREAK, ..terms };
    let mut rebuild = Rebuild::start(sparse, start(&sparse), tokens, without).unwrap();
    let error = rebuild.follow_again(&history.rounds[0], &history.results(0), &*data).unwrap_err();
    assert!(matches!(error, DeriveError::Sparse), "{error}");
}
