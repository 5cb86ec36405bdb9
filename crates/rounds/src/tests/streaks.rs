//! Workers of codec S: what they keep is found again from public data, and what they send is right or refuted.

use super::{STEPS, STREAK, World, submitted};
use crate::allowed::Way;
use crate::audit::{AuditError, Auditor, Fault};
use crate::host::Submitted;
use crate::replay::again;
use crate::work::{Finished, Plan, Repeated, TaskError};
use potluck_proto::{PastUpdate, TrainTask, UpdateCodec};
use potluck_train::codec::Codec;
use potluck_train::streak::{SKETCH_BYTES, Streak, Taken};
use potluck_types::BlobHash;
use potluck_types::limits::MAX_STREAK_ROUNDS;
use std::sync::Arc;

const WORKERS: u32 = 5;

/// Workers that each go on with their streak, as the machine would deal it.
struct Crew {
    world: World,
    streaks: Vec<Vec<PastUpdate>>,
    kept: Vec<Option<Arc<Streak>>>,
    /// The first so many send codec R.
    dense: usize,
}

impl Crew {
    fn new(dense: usize) -> Self {
        let codec = if dense > 0 { UpdateCodec::Int4 } else { UpdateCodec::TopK };
        let mut world = World::new(codec, true);
        world.host = super::with_sparse(codec);
        let count = WORKERS as usize;
        Self { world, streaks: vec![Vec::new(); count], kept: vec![None; count], dense }
    }

    fn tasks(&self) -> Vec<TrainTask> {
        let mut tasks = self.world.host.tasks(WORKERS).unwrap();
        for (task, streak) in tasks.iter_mut().zip(&self.streaks).skip(self.dense) {
            (task.codec, task.streak) = (UpdateCodec::TopK, streak.clone());
        }
        tasks
    }

    fn work(&self, tasks: &[TrainTask]) -> Vec<Finished> {
        tasks.iter().zip(&self.kept).map(|(task, kept)| self.world.work_on(task, kept.clone())).collect()
    }

    /// Closes a round with what was sent.
    fn close(&mut self, tasks: &[TrainTask], done: Vec<Finished>) -> String {
        let results: Vec<Vec<u8>> = done.iter().map(|done| done.result.clone()).collect();
        let closed = self.world.close(&submitted(tasks, &results));
        assert_eq!(closed.gate, "kept");
        let rule = closed.rule();
        self.world.host.commit(closed);
        let ends = self.world.host.round().is_multiple_of(STREAK);
        for (at, (task, done)) in tasks.iter().zip(done).enumerate() {
            let result = Some(BlobHash::of(&done.result));
            self.streaks[at].push(PastUpdate { round: task.round, worker: task.worker, result });
            self.kept[at] = done.kept;
            if ends {
                self.streaks[at].clear();
            }
        }
        rule
    }

    fn round(&mut self) -> String {
        let tasks = self.tasks();
        let done = self.work(&tasks);
        self.close(&tasks, done)
    }

    fn auditor(&self) -> Auditor {
        Auditor::new(&self.world.host)
    }
}

fn verdict(auditor: &Auditor, task: &TrainTask, result: &[u8]) -> Option<Fault> {
    match auditor.check(task, result).unwrap() {
        Err(fault) => Some(fault),
        Ok(()) => auditor.replay(task, result).unwrap().fault(),
    }
}

#[test]
fn every_round_of_a_streak_is_replayed_from_public_data() {
    let mut crew = Crew::new(0);
    let first = crew.world.host.validation_loss().unwrap();
    // Two ends of streaks and a checkpoint lie on the way.
    for round in 0..23_u64 {
        let tasks = crew.tasks();
        let past = (round % STREAK) as usize;
        assert!(tasks.iter().all(|task| task.streak.len() == past), "{round}");
        let done = crew.work(&tasks);
        let auditor = crew.auditor();
        for (task, done) in tasks.iter().zip(&done) {
            // One worker is replayed at each round, one now and then, the others never.
            if task.worker == 0 || (task.worker == 1 && round % 4 == 3) {
                assert_eq!(
                    verdict(&auditor, task, &done.result),
                    None,
                    "round {round}, worker {}",
                    task.worker
                );
            }
        }
        assert_eq!(crew.close(&tasks, done), "mean of each index");
    }
    let last = crew.world.host.validation_loss().unwrap();
    assert!(last < first - 0.5, "{first} -> {last}");
}

#[test]
fn another_device_s_rounding_passes_along_a_whole_streak() {
    let mut crew = Crew::new(0);
    for round in 0..6 {
        let tasks = crew.tasks();
        let mut done = crew.work(&tasks);
        // The first worker's device rounds otherwise, and keeps what follows from that.
        let plan = Plan::of(&tasks[0]).unwrap();
        let kept = crew.kept[0].as_deref().cloned();
        let kept = kept.unwrap_or_else(|| Streak::new(plan.parameters()).unwrap());
        let data = Arc::clone(&crew.world.host.data().train);
        let mut taken =
            again(&plan, plan.part(), &kept, crew.world.host.parameters(), &*data, Way::Plain).unwrap();
        drift(&mut taken);
        done[0] = plan.result(Repeated::Sparse(taken)).unwrap();
        if round == 5 {
            assert_eq!(verdict(&crew.auditor(), &tasks[0], &done[0].result), None);
        }
        crew.close(&tasks, done);
    }
}

fn drift(taken: &mut Taken) {
    for (at, (value, sum)) in taken.update.delta.iter_mut().zip(&mut taken.sum).enumerate() {
        let off = *value * 4e-5 * ((at * 7919 % 13) as f32 / 6.0 - 1.0);
        *value += off;
        *sum += off;
    }
}

#[test]
fn each_cheat_of_codec_s_is_found_also_rounds_later() {
    let mut crew = Crew::new(0);
    for _ in 0..3 {
        crew.round();
    }
    let tasks = crew.tasks();
    let done = crew.work(&tasks);
    let auditor = crew.auditor();
    let honest = &done[0].result;
    let plan = Plan::of(&tasks[0]).unwrap();
    let (head, encoded) = honest.split_at(plan.head_bytes());
    let sent = Codec::TopK.decode(encoded, plan.parameters()).unwrap();
    let with = |values: &[f32]| [head, &Codec::TopK.encode(values).unwrap()].concat();
    let refuted = |result: &[u8]| {
        assert!(matches!(verdict(&auditor, &tasks[0], result), Some(Fault::Refuted(_) | Fault::Encoding(_))));
    };
    refuted(&with(&sent.iter().map(|value| 1.5 * value).collect::<Vec<_>>()));
    refuted(&with(&sent.iter().map(|value| -value).collect::<Vec<_>>()));
    refuted(&with(&vec![0.0; sent.len()]));
    // Another worker's bytes, with its head and with ours.
    refuted(&done[1].result);
    refuted(&[head, &done[1].result[plan.head_bytes()..]].concat());
    // Half of the steps, the other losses made up.
    let fewer = TrainTask { steps: STEPS / 2, steps_before: tasks[0].steps_before, ..tasks[0].clone() };
    let fewer = crew.world.work_on(&fewer, crew.kept[0].clone()).result;
    let from = 2 * STEPS as usize;
    refuted(&[&head[..4 * STEPS as usize], &fewer[from..]].concat());
    // Arithmetic that keeps eight bits: the sketch tells, whatever is sent.
    let data = Arc::clone(&crew.world.host.data().train);
    let kept = crew.kept[0].as_deref().unwrap();
    let mut taken =
        again(&plan, plan.part(), kept, crew.world.host.parameters(), &*data, Way::Plain).unwrap();
    for (value, sum) in taken.update.delta.iter_mut().zip(&mut taken.sum) {
        let coarse = f32::from_bits(value.to_bits() & 0xffff_0000);
        *sum += coarse - *value;
        *value = coarse;
    }
    refuted(&plan.result(Repeated::Sparse(taken)).unwrap().result);
    // Who forgets what it kept, but says that it goes on.
    let anew = crew.world.work_on(&TrainTask { streak: Vec::new(), ..tasks[0].clone() }, None).result;
    refuted(&anew);
    // Somebody else's error.
    let other = crew.world.work_on(&tasks[0], crew.kept[1].clone()).result;
    refuted(&other);
    assert!(matches!(verdict(&auditor, &tasks[0], &honest[1..]), Some(Fault::Length { .. })));
    assert_eq!(verdict(&auditor, &tasks[0], honest), None);
    assert_eq!(plan.head_bytes(), 4 * STEPS as usize + SKETCH_BYTES);

    // A wrong update that nobody replayed is found by a replay of a later round.
    let mut cheated = done.clone();
    cheated[2].result = done[3].result.clone();
    crew.close(&tasks, cheated);
    let tasks = crew.tasks();
    let done = crew.work(&tasks);
    let auditor = crew.auditor();
    match verdict(&auditor, &tasks[2], &done[2].result) {
        Some(Fault::Encoding(cause)) => assert!(cause.contains("in round 3"), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(verdict(&auditor, &tasks[4], &done[4].result), None);
}

#[test]
fn what_did_not_count_waits_and_is_found_again() {
    let mut crew = Crew::new(0);
    crew.round();
    for round in 1..5_u64 {
        let tasks = crew.tasks();
        let mut done = crew.work(&tasks);
        let auditor = crew.auditor();
        for (task, done) in tasks.iter().zip(&done).take(2) {
            assert_eq!(verdict(&auditor, task, &done.result), None, "round {round}, worker {}", task.worker);
        }
        // In two rounds the first worker's update comes too late.
        let late = (round < 3).then(|| done.remove(0));
        let late = late.map(|late| (late, tasks[0].clone(), crew.streaks[0].clone()));
        let results: Vec<Vec<u8>> = done.iter().map(|done| done.result.clone()).collect();
        let others = &tasks[tasks.len() - results.len()..];
        let closed = crew.world.close(&submitted(others, &results));
        crew.world.host.commit(closed);
        for (task, done) in others.iter().zip(done) {
            let at = task.worker as usize;
            let result = Some(BlobHash::of(&done.result));
            crew.streaks[at].push(PastUpdate { round, worker: task.worker, result });
            crew.kept[at] = done.kept;
        }
        if let Some((late, task, mut streak)) = late {
            streak.push(PastUpdate { round, worker: task.worker, result: None });
            crew.streaks[0] = streak;
            let plan = Plan::of(&task).unwrap();
            let waits = late.kept.unwrap().take_back(&late.result[plan.head_bytes()..]).unwrap();
            crew.kept[0] = Some(Arc::new(waits));
        }
    }
    // Who says that its update counted when it did not starts elsewhere.
    let tasks = crew.tasks();
    assert_eq!(tasks[0].streak.iter().filter(|past| past.result.is_none()).count(), 2);
    let other = crew.world.work_on(&tasks[0], crew.kept[1].clone());
    assert!(verdict(&crew.auditor(), &tasks[0], &other.result).is_some());
}

#[test]
fn a_round_may_hold_both_codecs() {
    let mut crew = Crew::new(3);
    let first = crew.world.host.validation_loss().unwrap();
    for _ in 0..12 {
        let tasks = crew.tasks();
        let done = crew.work(&tasks);
        let auditor = crew.auditor();
        assert_eq!(verdict(&auditor, &tasks[0], &done[0].result), None);
        assert_eq!(verdict(&auditor, &tasks[4], &done[4].result), None);
        // Three of one kind and two of the other: few of each, so that all have to be replayed.
        let results: Vec<Vec<u8>> = done.iter().map(|done| done.result.clone()).collect();
        let mut updates: Vec<Submitted<'_>> = submitted(&tasks, &results);
        updates[1].audited = false;
        updates[3].audited = false;
        assert_eq!(crew.world.host.suspects(&updates).unwrap(), [1, 3]);
        assert_eq!(crew.close(&tasks, done), "mean of the audited of 3, mean of the audited of 2");
    }
    let last = crew.world.host.validation_loss().unwrap();
    assert!(last < first - 0.3, "{first} -> {last}");
}

#[test]
fn streaks_that_cannot_be_are_refused() {
    let mut crew = Crew::new(0);
    for _ in 0..2 {
        crew.round();
    }
    let task = crew.tasks().swap_remove(0);
    let refuse = |change: &dyn Fn(&mut TrainTask)| {
        let mut task = task.clone();
        change(&mut task);
        Plan::of(&task).map(drop)
    };
    assert!(refuse(&|_| ()).is_ok());
    let wrong = |outcome| matches!(outcome, Err(TaskError::Streak { round: 2 }));
    assert!(wrong(refuse(&|task| task.streak.reverse())));
    assert!(wrong(refuse(&|task| task.streak[1].round = 2)));
    assert!(wrong(refuse(&|task| task.streak[0].round = 1)));
    assert!(wrong(refuse(&|task| task.codec = UpdateCodec::Int8)));
    assert!(matches!(
        refuse(&|task| task.streak = vec![task.streak[0]; MAX_STREAK_ROUNDS + 1]),
        Err(TaskError::Size { field: "streak", .. })
    ));
    // A streak of which the relay knows nothing cannot be judged, and nobody is blamed for it.
    let mut unknown = task.clone();
    unknown.streak[0].result = Some(BlobHash([9; 32]));
    let done = crew.work(&crew.tasks());
    assert!(matches!(
        crew.auditor().replay(&unknown, &done[0].result),
        Err(AuditError::Forgotten { round: 0 })
    ));
}
