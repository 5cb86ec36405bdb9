//! Leases of training rounds.

use super::*;
use crate::train::{Finished, Plan, Prepared, Reference, TaskError, TrainRun};
use crate::{TrainInputs, Training};
use potluck_proto::{Kept, PastUpdate, UpdateCodec};
use potluck_train::TrainError;
use potluck_train::data::DataError;
use potluck_train::gpt::{GptConfig, Layout};
use potluck_train::outer::{CHECKPOINT_CODEC, OuterError, STEP_CODEC};
use potluck_train::streak::Streak;
use potluck_types::limits::MAX_CHECKPOINT_BYTES;
use std::sync::Arc;

#[path = "../../tests/rounds/mod.rs"]
mod rounds;
use rounds::{Example, example, now};

fn sizes(task: &mut TrainTask) -> &mut potluck_proto::ModelSizes {
    match &mut task.model {
        potluck_proto::ModelSpec::Gpt(sizes) => sizes,
        potluck_proto::ModelSpec::Digits => unreachable!("a GPT"),
    }
}

/// The round after so many others, small enough for a step in microseconds.
fn after(rounds: u64) -> Example {
    let config = GptConfig { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };
    example(config, 40_000, rounds, 1)
}

/// Three outer steps after a checkpoint.
fn round() -> Example {
    after(7)
}

pub(super) fn trained(task: &TrainTask, inputs: TrainInputs) -> Result<Vec<u8>, TaskError> {
    let prepared = Prepared::new(task, inputs)?;
    now(async {
        let engine = Reference::new(prepared.model())?;
        let mut run = TrainRun::start(&prepared, engine).await?;
        while !run.step().await?.complete() {}
        Ok(run.finish().await?.result)
    })
}

#[test]
fn a_round_goes_from_inputs_to_an_accepted_update() {
    let mut world = World::lending();
    let example = round();
    assert_eq!((example.task.checkpoint_round, example.task.outer_steps.len()), (4, 3));
    world.asked();
    world.lease(1, example.task.clone());
    assert_eq!(world.engine.state(), State::Waiting(WaitReason::FetchingInputs));
    world.serve(&example.blobs);
    assert_eq!(world.engine.state(), State::Computing);
    assert!(world.asked().is_some(), "the next lease is fetched while this one computes");
    let run = world.runs.pop_front().unwrap();
    let shown = |step| Some(Training { round: 7, step, steps: 2 });
    assert_eq!(world.engine.status().training, shown(1));
    for (steps, step) in [(1, 2), (2, 2), (u32::MAX, 2)] {
        world.event(Event::KernelProgress { run: run.id, steps });
        assert_eq!(world.engine.status().training, shown(step));
    }
    assert_eq!(shown(2).unwrap().to_string(), "training round 7, step 2 of 2");
    let result = computed(&run);
    assert_eq!(result, example.result(), "as crate train does it by itself");
    world.event(Event::KernelDone { run: run.id, result: result.clone(), busy: Duration(5), kept: None });
    assert_eq!(world.committed().unwrap().result, named(&result));
    assert_eq!(world.engine.status().training, None);
    world.hear(Verdict { lease: LeaseId(1), outcome: Outcome::Accepted });
    let status = world.engine.status();
    // 17 x 8 tokens, 8 x 8 positions, 12 x 8 x 8 in the block and three norms; attention's two products of 8 channels
    // with 8 positions; 2 steps of 2 x 8 tokens.
    let token = 17 * 8 + 8 * 8 + 12 * 8 * 8 + 3 * 8 + 2 * 8 * 8;
    assert_eq!((status.accepted, status.accepted_flops), (1, 6 * token * 2 * 16));

    // The next round needs one more outer step, and nothing that is there already.
    let next = after(8);
    world.asked();
    world.lease(2, next.task.clone());
    let blobs: Vec<_> = next.blobs.iter().filter(|blob| !example.blobs.contains(blob)).cloned().collect();
    world.serve(&blobs);
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn a_round_is_computed_with_what_was_measured_unless_the_adapter_says_another() {
    for (measured, on_cpu) in [(Backend::WebGpu, Backend::WasmSimd), (Backend::NativeGpu, Backend::NativeCpu)]
    {
        for computed in [measured, on_cpu] {
            let mut world = World::new();
            world.start(Preset::Full);
            world.event(Event::Calibrated { backend: measured, mflops: 1000 });
            world.connected();
            world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
            let example = round();
            world.lease(1, example.task.clone());
            world.serve(&example.blobs);
            let run = world.runs.pop_front().unwrap();
            assert_eq!(run.backend, measured);
            if computed != measured {
                world.event(Event::RunsOn { run: run.id, backend: computed });
            }
            world.event(Event::KernelDone {
                run: run.id,
                result: example.result(),
                busy: Duration(5),
                kept: None,
            });
            assert_eq!(world.committed().unwrap().backend, computed, "the commit says what computed");
        }
    }
}

#[test]
fn stop_and_pause_end_a_round_between_its_steps() {
    for stop in [false, true] {
        let mut world = World::lending();
        let example = round();
        world.lease(1, example.task.clone());
        world.serve(&example.blobs);
        let run = world.runs.pop_front().unwrap();
        world.event(Event::KernelProgress { run: run.id, steps: 1 });
        world.event(if stop { Event::Stop } else { Event::Pause });
        assert!(world.others.contains(&"cancel"));
        world.sent.clear();
        let result = example.result();
        world.event(Event::KernelProgress { run: run.id, steps: 2 });
        world.event(Event::KernelDone { run: run.id, result, busy: Duration(1), kept: None });
        assert!(world.sent.is_empty());
        assert_eq!(world.engine.state(), if stop { State::Stopped } else { State::Paused });
    }
}

/// A part of a round of codec S that goes on after these updates, and its result.
fn sparse(round: u64, past: &[Option<BlobHash>]) -> (Example, Finished) {
    let mut example = after(round);
    let earlier = |(at, result): (usize, &Option<BlobHash>)| {
        let round = round - past.len() as u64 + at as u64;
        PastUpdate { round, worker: example.task.worker, result: *result }
    };
    let streak = past.iter().enumerate().map(earlier).collect();
    (example.task.codec, example.task.streak) = (UpdateCodec::TopK, streak);
    // What is computed does not matter here, only that its length is right.
    let anew = TrainTask { streak: Vec::new(), ..example.task.clone() };
    let prepared = Prepared::new(&anew, example.inputs()).unwrap();
    let done = now(async {
        let engine = Reference::new(prepared.model())?;
        TrainRun::start(&prepared, engine).await?.finish().await
    });
    (example, done.map_err(|error: TaskError| error.to_string()).unwrap())
}

/// Runs a lease up to its commit, and tells the outcome; what the run was given that was kept.
fn run_sparse(
    world: &mut World,
    lease: u64,
    (example, done): &(Example, Finished),
    outcome: Outcome,
) -> Option<Arc<Streak>> {
    world.lease(lease, example.task.clone());
    world.serve(&example.blobs);
    let run = world.runs.pop_front().unwrap();
    let Finished { result, kept } = done.clone();
    world.event(Event::KernelDone { run: run.id, result, busy: Duration(1), kept });
    assert_eq!(world.committed().unwrap().result, named(&done.result));
    world.hear(Verdict { lease: LeaseId(lease), outcome });
    let Workload::Train { inputs, .. } = run.work else { unreachable!("a part of a round") };
    inputs.kept
}

fn kept(round: u64, counted: bool) -> Kept {
    Kept { run: JobId([0; 16]), round, worker: after(round).task.worker, counted }
}

#[test]
fn what_was_kept_goes_on_as_the_verdict_says() {
    let mut world = World::lending();
    assert_eq!(world.asked().unwrap().kept, []);
    let first = sparse(2, &[]);
    let hash = Some(BlobHash::of(&first.1.result));
    assert_eq!(run_sparse(&mut world, 1, &first, Outcome::Accepted), None);
    assert_eq!(world.engine.said_kept(), [kept(2, true)]);

    // An update that is late: all of it waits, and what was before is still there.
    let second = sparse(3, &[hash]);
    assert_eq!(run_sparse(&mut world, 3, &second, Outcome::Late), first.1.kept);
    assert_eq!(world.engine.said_kept(), [kept(3, false), kept(2, true)]);
    let third = sparse(4, &[hash, None]);
    let waits = run_sparse(&mut world, 4, &third, Outcome::Accepted).unwrap();
    let encoded = &second.1.result[Plan::of(&second.0.task).unwrap().head_bytes()..];
    assert_eq!(*waits, second.1.kept.as_ref().unwrap().take_back(encoded).unwrap());
    assert_ne!(waits, first.1.kept.unwrap());
    assert_eq!(world.engine.said_kept(), [kept(4, true)]);

    // Before the verdict it may be either.
    let next = Some(BlobHash::of(&third.1.result));
    let fourth = sparse(5, &[hash, None, next]);
    world.lease(5, fourth.0.task.clone());
    world.serve(&fourth.0.blobs);
    let run = world.runs.pop_front().unwrap();
    let Finished { result, kept: after } = fourth.1;
    world.event(Event::KernelDone { run: run.id, result, busy: Duration(1), kept: after });
    assert_eq!(world.engine.said_kept(), [kept(5, true), kept(5, false), kept(4, true)]);

    // Streaks that are not this one's are given back.
    for past in [&[hash, None, hash][..], &[hash, None, None]] {
        world.lease(6, sparse(5, past).0.task);
        assert_eq!(world.released(), Some(ReleaseReason::Unsupported), "{past:?}");
    }
    // Who stops lets go of everything.
    world.event(Event::Stop);
    assert_eq!(world.engine.said_kept(), []);
}

#[test]
fn an_update_of_another_length_is_not_committed() {
    let mut world = World::lending();
    let example = round();
    world.lease(1, example.task.clone());
    world.serve(&example.blobs);
    let run = world.runs.pop_front().unwrap().id;
    let mut result = example.result();
    result.pop();
    world.event(Event::KernelDone { run, result, busy: Duration(1), kept: None });
    assert_eq!(world.released(), Some(ReleaseReason::DeviceFailed));
    assert!(world.committed().is_none());
}

#[test]
fn bad_rounds_do_not_cost_the_device() {
    let mut world = World::lending();
    let example = round();
    for id in 1..=10 {
        world.lease(id, example.task.clone());
        world.serve(&example.blobs);
        let run = world.runs.pop_front().unwrap().id;
        world.event(Event::KernelFailed { run, failure: Failure::BadTask });
        assert_eq!(world.released(), Some(ReleaseReason::Unsupported));
    }
    assert_eq!(world.engine.status().backend, Some(Backend::WasmSimd));
}

#[test]
fn rounds_that_make_no_sense_or_do_not_fit_are_given_back() {
    let good = round().task;
    let check = |what: &str, change: &dyn Fn(&mut TrainTask)| {
        let mut world = World::lending();
        let mut task = good.clone();
        change(&mut task);
        world.lease(1, task);
        assert_eq!(world.released(), Some(ReleaseReason::Unsupported), "{what}");
        assert!(world.said(|m| matches!(m, Message::BlobRequest(_)).then_some(())).is_none(), "{what}");
    };
    check("width", &|task| sizes(task).width = u32::MAX);
    check("heads", &|task| sizes(task).heads = 3);
    check("layers", &|task| sizes(task).layers = 0);
    check("no steps", &|task| task.steps = 0);
    check("steps", &|task| task.steps = 10_001);
    check("sequences", &|task| task.sequences = u32::MAX);
    check("no length", &|task| task.length = 0);
    check("length", &|task| task.length = 9);
    check("checkpoint", &|task| task.checkpoint.bytes += 2);
    check("checkpoint's round", &|task| task.checkpoint_round = 5);
    check("checkpoints", &|task| task.checkpoint_every = 0);
    check("a later checkpoint", &|task| task.checkpoint_round = 8);
    check("an outer step more", &|task| task.round = 6);
    check("an outer step less", &|task| task.outer_steps.truncate(2));
    check("an outer step", &|task| task.outer_steps[1].bytes = u64::MAX);
    check("no blocks", &|task| task.blocks.clear());
    check("a block twice", &|task| task.blocks.push(task.blocks[0].clone()));
    check("a block's length", &|task| task.blocks[0].blob.bytes -= 1);
    check("a block beyond", &|task| task.blocks[0].index = 3);
    check("tokens", &|task| task.data.tokens = u64::MAX);
    // A larger model, with blobs of its lengths.
    let resize = |task: &mut TrainTask, width| {
        let config = GptConfig { vocabulary: 17, context: 8, layers: 12, heads: 2, width, bias: false };
        let parameters = Layout::new(&config).parameters();
        let resized = sizes(task);
        (resized.layers, resized.width) = (12, width as u32);
        task.checkpoint.bytes = CHECKPOINT_CODEC.encoded_len(parameters) as u64;
        let step = STEP_CODEC.encoded_len(parameters) as u64;
        task.outer_steps.iter_mut().for_each(|one| one.bytes = step);
        assert!(Plan::of(task).is_ok());
    };
    check("memory of a step", &|task| {
        task.sequences = 4096;
        resize(task, 16);
    });
    let mut task = good.clone();
    resize(&mut task, 352);
    assert!(task.checkpoint.bytes > MAX_CHECKPOINT_BYTES as u64);
    check("a checkpoint that is too large", &|task| resize(task, 352));
}

#[test]
fn inputs_that_are_not_what_the_task_says_are_told_apart() {
    let example = round();
    let with = |change: &dyn Fn(&mut TrainTask, &mut TrainInputs)| {
        let (mut task, mut inputs) = (example.task.clone(), example.inputs());
        change(&mut task, &mut inputs);
        let error = trained(&task, inputs).unwrap_err();
        assert_eq!(Failure::from(&error), Failure::BadTask, "{error}");
        error
    };
    let error = with(&|_, inputs| inputs.outer_steps.swap(0, 1));
    assert!(matches!(error, TaskError::Parameters { .. }), "{error}");
    let error = with(&|_, inputs| drop(inputs.outer_steps.pop()));
    assert!(matches!(error, TaskError::Count { what: "outer steps", found: 2, expected: 3 }), "{error}");
    let error = with(&|_, inputs| drop(inputs.blocks.pop()));
    assert!(matches!(error, TaskError::Count { what: "blocks", .. }), "{error}");
    let error = with(&|_, inputs| inputs.checkpoint = Arc::new(Vec::new()));
    assert!(matches!(error, TaskError::Outer(OuterError::Codec { .. })), "{error}");
    let error = with(&|_, inputs| Arc::make_mut(&mut inputs.blocks[0])[0] ^= 1);
    assert!(matches!(error, TaskError::Data(DataError::NotIncluded { .. })), "{error}");
    let error = with(&|task, _| task.blocks[0].proof.clear());
    assert!(matches!(error, TaskError::Data(DataError::NotIncluded { .. })), "{error}");
    let error = with(&|task, _| (task.sequences, task.blocks_dealt, task.worker) = (64, 0, 0));
    assert!(matches!(error, TaskError::Data(DataError::Missing { .. })), "{error}");
    let lost = TaskError::from(TrainError::Device("gone".into()));
    assert_eq!(Failure::from(&lost), Failure::DeviceLost);
}
