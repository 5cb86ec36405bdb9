//! Rounds in which rounding alone moves an update by more than usual: honest devices pass all the same, cheats do not.

use super::{STEPS, World, terms};
use crate::allowed::{Allowed, Way, settle};
use crate::audit::AuditError;
use crate::replay::{Judgement, judge, repeat};
use crate::work::{Plan, Repeated};
use potluck_proto::{TrainTask, UpdateCodec};
use potluck_train::round::Update;
use potluck_verify::ReplayError;

/// Weights whose gradient is brought to nothing, so that one replay refutes an honest device: one a case.
const CASES: usize = 8;

/// A run whose rounds begin with the whole learning rate.
fn world(codec: UpdateCodec) -> World {
    let mut terms = terms(codec, false);
    (terms.rate.fresh_warmup, terms.rate.warmup) = (0, 0);
    World::of(terms)
}

/// How far a weight goes in the first step, from these parameters.
fn first_step(world: &World, task: &TrainTask, parameters: &[f32], at: usize) -> f32 {
    let plan = Plan::of(&TrainTask { steps: 1, ..task.clone() }).unwrap();
    repeat(&plan, parameters, &*world.host.data().train, Way::Plain).unwrap().delta[at]
}

/// Two parameter vectors that differ in the last bit of one weight, between which its gradient changes its sign: what
/// becomes of it is rounding's choice. `None` if its gradient keeps its sign within 0.5 of where the weight is.
fn edge(world: &World, task: &TrainTask, at: usize) -> Option<[Vec<f32>; 2]> {
    let with = |value: f32| {
        let mut parameters = world.host.parameters().to_vec();
        parameters[at] = value;
        parameters
    };
    // Weight decay moves it too, but by far less than a step.
    let rises = |value: f32| first_step(world, task, &with(value), at) < 0.0;
    let middle = world.host.parameters()[at];
    let (mut low, mut high) = (middle - 0.5, middle + 0.5);
    if rises(low) == rises(high) {
        return None;
    }
    let side = rises(low);
    loop {
        let between = f32::midpoint(low, high);
        if between <= low || between >= high {
            return Some([with(low), with(high)]);
        }
        if rises(between) == side { low = between } else { high = between }
    }
}

fn settled(world: &World, plan: &Plan, parameters: &[f32], result: &[u8]) -> Result<Judgement, AuditError> {
    let take = |way| -> Result<_, AuditError> {
        Ok(Repeated::Dense(repeat(plan, parameters, &*world.host.data().train, way)?))
    };
    settle(plan, plan.part(), result, take).map(|(judgement, _)| judgement)
}

#[test]
fn who_came_out_with_another_sign_passes_and_no_cheat_does() {
    let world = world(UpdateCodec::Int4);
    let tasks = world.host.tasks(2).unwrap();
    let task = &tasks[0];
    let plan = Plan::of(task).unwrap();
    let data = &*world.host.data().train;
    let take = |parameters: &[f32], way| repeat(&plan, parameters, data, way).unwrap();
    let result = |update| plan.result(Repeated::Dense(update)).unwrap().result;
    let usual = Allowed::usual(plan.codec());
    let (mut cases, mut confirmed) = (0, 0);
    let edges = (0..plan.parameters()).step_by(29).filter_map(|at| edge(&world, task, at));
    for [ours, theirs] in edges {
        let honest = result(take(&theirs, Way::Plain));
        let plain = Repeated::Dense(take(&ours, Way::Plain));
        if judge(&plan, plan.part(), &plain, &honest, &usual).unwrap().confirmed() {
            // The next steps brought it back, or the code of its value hides it.
            continue;
        }
        cases += 1;
        confirmed += usize::from(settled(&world, &plan, &ours, &honest).unwrap().confirmed());

        let update = take(&ours, Way::Plain);
        let times = |factor: f32| Update {
            delta: update.delta.iter().map(|value| factor * value).collect(),
            ..update.clone()
        };
        let fewer = Plan::of(&TrainTask { steps: STEPS - 1, ..task.clone() }).unwrap();
        let left_out = repeat(&fewer, &ours, data, Way::Plain).unwrap();
        let other = Plan::of(&tasks[1]).unwrap();
        let others = repeat(&other, &ours, data, Way::Plain).unwrap();
        let cheats =
            [times(1.5), times(-1.0), times(0.0), Update { delta: left_out.delta, ..update.clone() }]
                .into_iter()
                .chain([Update { delta: others.delta, ..update.clone() }]);
        for (number, cheat) in cheats.enumerate() {
            let judgement = settled(&world, &plan, &ours, &result(cheat)).unwrap();
            assert!(!judgement.confirmed(), "cheat {number}: {judgement:?}");
        }
        if cases == CASES {
            break;
        }
    }
    // Each of the other replays comes out with either sign.
    assert_eq!(cases, CASES);
    assert!(confirmed >= CASES - 2, "{confirmed} of {CASES}");
}

/// An update whose values are off by up to this share, by a pattern for each number.
fn off(update: &Update, share: f32, number: usize) -> Update {
    let pattern = |at: usize| ((at * 7919 + number * 104_729) % 1009) as f32 / 504.0 - 1.0;
    let moved = |(at, value): (usize, &f32)| value * (1.0 + share * pattern(at));
    Update { delta: update.delta.iter().enumerate().map(moved).collect(), ..update.clone() }
}

#[test]
fn what_replays_are_apart_is_allowed_and_nobody_is_judged_where_that_is_too_much() {
    let world = world(UpdateCodec::F32);
    let tasks = world.host.tasks(1).unwrap();
    let plan = Plan::of(&tasks[0]).unwrap();
    let right = repeat(&plan, world.host.parameters(), &*world.host.data().train, Way::Plain).unwrap();
    let settle = |claimed: f32, apart: f32| {
        let claim = plan.result(Repeated::Dense(off(&right, claimed, 9))).unwrap().result;
        let mut replays = 0;
        let take = |_| -> Result<_, ReplayError> {
            replays += 1;
            Ok(Repeated::Dense(off(&right, apart, replays)))
        };
        let settled = settle(&plan, plan.part(), &claim, take).map(|(judgement, _)| judgement);
        (settled, replays)
    };
    let (first, replays) = settle(0.0, 0.0);
    assert!(first.unwrap().confirmed());
    assert_eq!(replays, 1, "who is right is replayed once");

    let (refuted, replays) = settle(0.02, 0.0);
    let refuted = refuted.unwrap();
    assert!(!refuted.confirmed());
    assert_eq!(replays, Way::ALL.len());
    assert_eq!(refuted.allowed, Allowed::usual(plan.codec()), "replays that agree allow nothing more");

    let (explained, _) = settle(0.02, 0.01);
    let explained = explained.unwrap();
    assert!(explained.confirmed(), "{explained:?}");
    assert!((0.01..0.05).contains(&explained.allowed.report.whole), "{explained:?}");

    let (cheat, _) = settle(0.2, 0.01);
    assert!(!cheat.unwrap().confirmed());

    let (nobody, _) = settle(0.2, 0.2);
    assert!(matches!(nobody, Err(ReplayError::Unstable { .. })), "{nobody:?}");
    // What is beyond even that is a cheat all the same.
    let (cheat, _) = settle(10.0, 0.2);
    assert!(!cheat.unwrap().confirmed());
}
