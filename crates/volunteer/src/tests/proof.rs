//! Shards of evals, and what has to stand in the public log before anything is computed.

use super::*;
use potluck_train::gpt::{GptConfig, Layout};

const CONFIG: GptConfig =
    GptConfig { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };

/// A shard, and its inputs.
fn shard() -> (EvalTask, Vec<Vec<u8>>) {
    let parameters = vec![1; 4 * Layout::new(&CONFIG).parameters()];
    let items = vec![2; 100];
    let sizes = ModelSizes { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };
    let task = EvalTask {
        model: sizes.into(),
        parameters: named(&parameters),
        items: named(&items),
        result_bytes: 24,
        memory_bytes: 1 << 20,
        flops: 1_000_000,
    };
    (task, vec![parameters, items])
}

#[test]
fn a_shard_of_an_eval_runs_once_its_parameters_are_proven() {
    let mut world = World::lending_with(true);
    let (task, blobs) = shard();
    world.asked();
    world.lease(1, task);
    let subject = Subject::Parameters(task.parameters.hash);
    assert_eq!(world.demanded, [subject]);
    world.serve(&blobs);
    assert!(world.runs.is_empty(), "inputs come meanwhile, but nothing runs");
    world.event(Event::Proven { subject, outcome: Ok(()) });
    let run = world.runs.pop_front().unwrap();
    assert!(world.engine.status().evaluating);
    let result = computed(&run);
    world.event(Event::KernelDone { run: run.id, result: result.clone(), busy: Duration(5), kept: None });
    assert_eq!(world.committed().unwrap().result, named(&result));
    // What was shown once is not asked for again.
    world.lease(2, task);
    assert_eq!(world.demanded.len(), 1);
    assert_eq!(world.runs.len(), 1);
}

#[test]
fn what_is_not_proven_is_given_back_and_not_tried_again_at_once() {
    let mut world = World::lending_with(true);
    let (task, blobs) = shard();
    world.asked();
    world.lease(1, task);
    world.serve(&blobs);
    let subject = Subject::Parameters(task.parameters.hash);
    // An answer to something that was not asked proves nothing.
    world.event(Event::Proven { subject: Subject::Run(JobId([0; 16])), outcome: Ok(()) });
    assert!(world.runs.is_empty());
    world.event(Event::Proven { subject, outcome: Err("there is no such candidate".into()) });
    assert_eq!(world.released(), Some(ReleaseReason::Unproven));
    assert_eq!(world.engine.status().unproven.as_deref(), Some("there is no such candidate"));
    world.event(Event::Proven { subject, outcome: Ok(()) });
    world.lease(2, task);
    assert_eq!((world.released(), world.demanded.len()), (Some(ReleaseReason::Unproven), 1));
    for _ in 0..7 {
        world.wait(10_000);
        world.hear(Pong { nonce: 0 });
    }
    world.lease(3, task);
    assert_eq!(world.demanded, [subject, subject]);
    world.event(Event::Proven { subject, outcome: Ok(()) });
    assert_eq!(world.runs.len(), 1);
    assert_eq!(world.engine.status().unproven, None);
}

#[test]
fn shards_that_make_no_sense_or_do_not_fit_are_given_back() {
    let (good, _) = shard();
    let check = |what: &str, change: &dyn Fn(&mut EvalTask)| {
        let mut world = World::lending_with(true);
        let mut task = good;
        change(&mut task);
        world.lease(1, task);
        assert_eq!(world.released(), Some(ReleaseReason::Unsupported), "{what}");
        assert!(world.demanded.is_empty(), "{what}");
    };
    check("another model", &|task| task.model = ModelSpec::Digits);
    check("parameters", &|task| task.parameters.bytes += 4);
    check("no items", &|task| task.items.bytes = 0);
    check("no result", &|task| task.result_bytes = 0);
    check("a long result", &|task| task.result_bytes = u32::MAX);
    check("memory", &|task| task.memory_bytes = 1 << 40);
}
