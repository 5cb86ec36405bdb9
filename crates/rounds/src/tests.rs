//! Whole rounds between a host and workers that hold nothing but their tasks and the blobs that these name.

use crate::allowed::Way;
use crate::audit::{Auditor, Fault};
use crate::error::HostError;
use crate::host::{Closed, Data, Host, Submitted, Terms, named};
use crate::reference::{Reference, now};
use crate::work::{Finished, Prepared, TrainInputs, TrainRun};
use potluck_proto::{LearningRate, ModelSizes, ModelSpec, TrainTask, UpdateCodec};
use potluck_train::codec::Codec;
use potluck_train::data::DataSet;
use potluck_train::outer::OuterParams;
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use potluck_verify::AggregateParams;
use std::collections::BTreeMap;
use std::sync::Arc;

mod derive;
mod streaks;
mod unstable;

const VOCABULARY: u32 = 23;
const STEPS: u32 = 6;
const STREAK: u64 = 10;
const SECRET: [u8; 32] = [5; 32];

fn terms(codec: UpdateCodec, bias: bool) -> Terms {
    Terms {
        model: ModelSizes { vocabulary: VOCABULARY, context: 16, layers: 2, heads: 2, width: 16, bias }
            .into(),
        steps: STEPS,
        sequences: 4,
        length: 16,
        rate: LearningRate {
            peak_nano: 3_000_000,
            least_nano: 100_000,
            warmup: 5,
            steps: 400,
            fresh_warmup: 4,
        },
        seed: [3; 32],
        blocks_dealt: 1,
        codec,
        outer: OuterParams::default(),
        aggregate: AggregateParams::default(),
        streak: if codec == UpdateCodec::TopK { STREAK } else { 0 },
    }
}

/// A language whose next token depends on the last one, so that there is something to learn.
fn tokens(count: u32, salt: u32) -> Vec<u32> {
    let next = |last: &mut u32, at: u32| {
        let noise = at.wrapping_mul(2_654_435_761).wrapping_add(salt).rotate_left(9) % 4;
        *last = (*last * 5 + noise) % VOCABULARY;
        Some(*last)
    };
    (0..count).scan(1, |last, at| next(last, at)).collect()
}

fn data() -> Data {
    let set = |count, salt| Arc::new(DataSet::new(&tokens(count, salt), VOCABULARY as usize).unwrap());
    Data { train: set(60_000, 0), validation: set(5_000, 77) }
}

/// A relay's run, and every blob that it gave out.
struct World {
    host: Host,
    blobs: BTreeMap<BlobHash, Arc<Vec<u8>>>,
}

impl World {
    fn new(codec: UpdateCodec, bias: bool) -> Self {
        Self::of(terms(codec, bias))
    }

    fn of(terms: Terms) -> Self {
        let parameters = crate::sizes::model(&terms.model).init(&terms.seed);
        let (host, checkpoint) = Host::start(terms, parameters, data(), SECRET).unwrap();
        let mut world = Self { host, blobs: BTreeMap::new() };
        let train = Arc::clone(&world.host.data().train);
        for index in 0..train.spec().blocks() {
            world.put(train.block(index).unwrap());
        }
        world.put(&checkpoint);
        world
    }

    fn put(&mut self, blob: &[u8]) {
        self.blobs.insert(named(blob).hash, Arc::new(blob.to_vec()));
    }

    /// What an honest worker commits to.
    fn work(&self, task: &TrainTask) -> Vec<u8> {
        self.work_on(task, None).result
    }

    /// The same of one that kept something.
    fn work_on(&self, task: &TrainTask, kept: Option<Arc<Streak>>) -> Finished {
        let blob = |blob: &potluck_proto::BlobRef| Arc::clone(&self.blobs[&blob.hash]);
        let inputs = TrainInputs {
            checkpoint: blob(&task.checkpoint),
            outer_steps: task.outer_steps.iter().map(blob).collect(),
            blocks: task.blocks.iter().map(|block| blob(&block.blob)).collect(),
            kept,
        };
        let prepared = Prepared::new(task, inputs).unwrap();
        let engine = Reference::new(prepared.model()).unwrap();
        now(async { TrainRun::start(&prepared, engine).await?.finish().await }).unwrap()
    }

    fn close(&mut self, updates: &[Submitted<'_>]) -> Closed {
        assert_eq!(self.host.suspects(updates).unwrap(), [0; 0]);
        let closed = self.host.close(updates).unwrap();
        let before = self.host.round();
        assert_eq!(self.host.round(), before, "closing changes nothing");
        self.put(&closed.step);
        if let Some(checkpoint) = &closed.checkpoint {
            self.put(checkpoint);
        }
        closed
    }
}

fn submitted<'a>(tasks: &'a [TrainTask], results: &'a [Vec<u8>]) -> Vec<Submitted<'a>> {
    let update =
        |(task, result): (&'a TrainTask, &'a Vec<u8>)| Submitted { task, result, weight: 1.0, audited: true };
    tasks.iter().zip(results).map(update).collect()
}

/// A run some of whose workers may send codec S.
fn with_sparse(codec: UpdateCodec) -> Host {
    let terms = Terms { streak: STREAK, ..terms(codec, true) };
    let parameters = crate::sizes::model(&terms.model).init(&terms.seed);
    Host::start(terms, parameters, data(), SECRET).unwrap().0
}

#[test]
fn rounds_learn_and_a_resumed_host_goes_on_as_if_nothing_had_happened() {
    let mut world = World::new(UpdateCodec::Int4, false);
    let first = world.host.validation_loss().unwrap();
    let mut steps = Vec::new();
    let mut checkpoint = None;
    // One checkpoint lies on the way.
    for round in 0..22 {
        let tasks = world.host.tasks(4).unwrap();
        assert!(tasks.iter().all(|task| task.round == round));
        let results: Vec<_> = tasks.iter().map(|task| world.work(task)).collect();
        let closed = world.close(&submitted(&tasks, &results));
        assert_eq!((closed.rule().as_str(), closed.gate), ("median", "kept"));
        assert_eq!(closed.before, tasks[0].parameters);
        match &closed.checkpoint {
            Some(next) => {
                checkpoint = Some(named(next));
                steps.clear();
            }
            None => steps.push(named(&closed.step)),
        }
        let state = closed.state();
        world.host.commit(closed);
        assert_eq!(state, world.host.state());
    }
    let last = world.host.validation_loss().unwrap();
    assert!(last < first - 0.5, "{first} -> {last}");

    let state = world.host.state();
    let resume = |state: &[u8], steps: &[potluck_proto::BlobRef]| {
        let terms = terms(UpdateCodec::Int4, false);
        Host::resume(terms, state, data(), SECRET, checkpoint.unwrap(), steps.to_vec())
    };
    let again = resume(&state, &steps).unwrap();
    assert_eq!(again.tasks(3).unwrap(), world.host.tasks(3).unwrap());
    let tasks = again.tasks(4).unwrap();
    let results: Vec<_> = tasks.iter().map(|task| world.work(task)).collect();
    let [ours, theirs] =
        [&again, &world.host].map(|host| host.close(&submitted(&tasks, &results)).unwrap().after);
    assert_eq!(ours, theirs);

    assert!(matches!(resume(&state, &steps[1..]), Err(HostError::State(_))));
    for at in [0, 9, 20, state.len() / 2, state.len() - 1] {
        let mut broken = state.clone();
        broken[at] ^= 1;
        assert!(matches!(resume(&broken, &steps), Err(HostError::State(_))), "{at}");
    }
    assert!(matches!(resume(&state[1..], &steps), Err(HostError::State(_))));
}

/// The same steps on another device: rounding that differs.
fn drifted(world: &World, task: &TrainTask) -> Vec<u8> {
    let result = world.work(task);
    let plan = crate::Plan::of(task).unwrap();
    let replayed =
        crate::repeat(&plan, world.host.parameters(), &*world.host.data().train, Way::Plain).unwrap();
    let (losses, _) = result.split_at(4 * STEPS as usize);
    let noise = |at: usize| 1.0 + 4e-5 * ((at * 7919 % 13) as f32 / 6.0 - 1.0);
    let delta: Vec<f32> = replayed.delta.iter().enumerate().map(|(at, value)| value * noise(at)).collect();
    [losses, &plan.codec().encode(&delta).unwrap()].concat()
}

#[test]
fn honest_updates_pass_and_each_cheat_is_found() {
    for codec in [UpdateCodec::F32, UpdateCodec::F16, UpdateCodec::Int8, UpdateCodec::Int4] {
        for bias in [false, true] {
            let world = World::new(codec, bias);
            let auditor = Auditor::new(&world.host);
            let tasks = world.host.tasks(2).unwrap();
            let honest = world.work(&tasks[0]);
            let verdict = |result: &[u8]| match auditor.check(&tasks[0], result).unwrap() {
                Err(fault) => Some(fault),
                Ok(()) => auditor.replay(&tasks[0], result).unwrap().fault(),
            };
            assert_eq!(verdict(&honest), None);
            assert_eq!(verdict(&drifted(&world, &tasks[0])), None, "{codec:?}");

            let plan = crate::Plan::of(&tasks[0]).unwrap();
            let codec = plan.codec();
            let (losses, encoded) = honest.split_at(4 * STEPS as usize);
            let delta = codec.decode(encoded, plan.parameters()).unwrap();
            let with = |delta: &[f32]| [losses, &codec.encode(delta).unwrap()].concat();
            let scaled: Vec<f32> = delta.iter().map(|value| 1.5 * value).collect();
            assert!(matches!(verdict(&with(&scaled)), Some(Fault::Refuted(_))), "{codec:?}");
            let flipped: Vec<f32> = delta.iter().map(|value| -value).collect();
            assert!(matches!(verdict(&with(&flipped)), Some(Fault::Refuted(_))), "{codec:?}");
            // Another worker's update, under its own losses and under ours.
            let other = world.work(&tasks[1]);
            assert!(matches!(verdict(&other), Some(Fault::FirstLoss { .. })), "{codec:?}");
            let copied = [losses, &other[4 * STEPS as usize..]].concat();
            assert!(matches!(verdict(&copied), Some(Fault::Refuted(_))), "{codec:?}");
            // Half of the steps.
            let fewer = TrainTask { steps: STEPS / 2, ..tasks[0].clone() };
            let fewer = world.work(&fewer);
            let skipped = [losses, &fewer[2 * STEPS as usize..]].concat();
            assert!(matches!(verdict(&skipped), Some(Fault::Refuted(_))), "{codec:?}");
            // Arithmetic that keeps eight bits.
            let raw =
                crate::repeat(&plan, world.host.parameters(), &*world.host.data().train, Way::Plain).unwrap();
            let coarse = |value: &f32| f32::from_bits(value.to_bits() & 0xffff_0000);
            let coarse: Vec<f32> = raw.delta.iter().map(coarse).collect();
            assert!(matches!(verdict(&with(&coarse)), Some(Fault::Refuted(_))), "{codec:?}");

            assert!(matches!(verdict(&honest[1..]), Some(Fault::Length { .. })));
            let mut nan = honest.clone();
            nan[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            assert!(matches!(verdict(&nan), Some(Fault::Loss { step: 1, .. })));
            let mut broken = honest.clone();
            if codec != Codec::F32 {
                // A scale, or a value, that is infinite.
                broken[4 * STEPS as usize..][..2].copy_from_slice(&0x7c00_u16.to_le_bytes());
                assert!(matches!(verdict(&broken), Some(Fault::Encoding(_))), "{codec:?}");
            }
        }
    }
}

#[test]
fn what_looks_wrong_is_replayed_first_and_so_is_everything_where_workers_are_few() {
    let world = World::new(UpdateCodec::Int8, false);
    let tasks = world.host.tasks(6).unwrap();
    let results: Vec<_> = tasks.iter().map(|task| world.work(task)).collect();
    let unaudited = |results: &[Vec<u8>], count: usize| {
        let mut updates = submitted(&tasks, results);
        updates.truncate(count);
        for update in &mut updates {
            update.audited = false;
        }
        world.host.suspects(&updates).unwrap()
    };
    assert_eq!(unaudited(&results, 6), [0; 0]);
    assert_eq!(unaudited(&results, 3), [0, 1, 2]);
    let mut copied = results.clone();
    copied[4] = results[1].clone();
    assert_eq!(unaudited(&copied, 6), [4]);
    // Who was replayed is no suspect any more.
    assert_eq!(world.host.suspects(&submitted(&tasks, &copied)).unwrap(), [0; 0]);
}

#[test]
fn a_run_has_the_rules_that_it_asks_for() {
    let world = World::new(UpdateCodec::Int8, false);
    let tasks = world.host.tasks(3).unwrap();
    let results: Vec<_> = tasks.iter().map(|task| world.work(task)).collect();
    let mut updates = submitted(&tasks, &results);
    for update in &mut updates {
        update.audited = false;
    }
    let of = |change: &dyn Fn(&mut Terms)| {
        let mut terms = terms(UpdateCodec::Int8, false);
        change(&mut terms);
        let parameters = crate::sizes::model(&terms.model).init(&terms.seed);
        let (host, _) = Host::start(terms, parameters, data(), SECRET).unwrap();
        let suspects = host.suspects(&updates).unwrap();
        let closed = suspects.is_empty().then(|| host.close(&updates).unwrap());
        (suspects, closed.map(|closed| (closed.rule(), closed.after)))
    };
    assert_eq!(of(&|_| ()), (vec![0, 1, 2], None), "three are few");
    let median = of(&|terms| terms.aggregate.median_from = 3).1.unwrap();
    assert_eq!(median.0, "median");
    let trimmed = |terms: &mut Terms| (terms.aggregate.median_from, terms.aggregate.trim_from) = (3, 3);
    assert_eq!(of(&trimmed).1.unwrap().0, "mean, 1 trimmed at either end");
    let slow = |terms: &mut Terms| (terms.aggregate.median_from, terms.outer.rate) = (3, 0.1);
    assert_ne!(of(&slow).1.unwrap().1, median.1);
}

fn sizes(terms: &mut Terms) -> &mut ModelSizes {
    let ModelSpec::Gpt(sizes) = &mut terms.model else { unreachable!("a GPT") };
    sizes
}

#[test]
fn terms_that_nobody_could_work_under_are_refused_at_once() {
    let start = |change: &dyn Fn(&mut Terms)| {
        let mut terms = terms(UpdateCodec::Int4, false);
        change(&mut terms);
        let model = crate::sizes::model(&terms.model);
        let parameters = model.check().map(|()| model.init(&terms.seed)).unwrap_or_default();
        Host::start(terms, parameters, data(), SECRET).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(start(&|_| ()), Ok(()));
    for (change, expected) in [
        (&(|terms: &mut Terms| sizes(terms).vocabulary = 24) as &dyn Fn(&mut Terms), "vocabulary"),
        (&|terms| terms.steps = 0, "steps"),
        (&|terms| terms.sequences = 0, "sequences"),
        (&|terms| terms.length = 17, "length"),
        (&|terms| sizes(terms).heads = 3, "head"),
    ] {
        let error = start(change).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let terms = terms(UpdateCodec::Int4, false);
    let mut parameters = crate::sizes::model(&terms.model).init(&terms.seed);
    for value in &mut parameters {
        *value *= 1e30;
    }
    assert!(Host::start(terms, parameters, data(), SECRET).is_err());
}
