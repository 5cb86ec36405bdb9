//! Evals: who is asked, when answers are compared, and what becomes of wrong ones.

use super::*;
use crate::eval::{EvalAnswer, EvalError, EvalInput, EvalOutput, EvalProgress, EvalSpec};
use potluck_proto::EvalTask;
use proptest::prelude::*;

const EVAL: JobId = JobId([8; 16]);
const MEMORY: u64 = 5_000_000;

fn eval(shards: u32, copies: u32) -> EvalSpec {
    let shard = |shard: u32| EvalTask {
        model: spec(1).model,
        parameters: blob("parameters", 600_000),
        items: blob(&format!("items {shard}"), 4000),
        result_bytes: 80 + shard,
        memory_bytes: MEMORY,
        flops: 1_000_000_000,
    };
    EvalSpec { id: EVAL, name: "bard, round 12".into(), shards: (0..shards).map(shard).collect(), copies }
}

impl World {
    fn evaluating(spec: &EvalSpec, volunteers: u64) -> Self {
        let mut world = Self::new();
        for volunteer in 1..=volunteers {
            world.join(volunteer, volunteer as u8);
        }
        world.eval(EvalInput::Added { spec: Box::new(spec.clone()), done: Vec::new() });
        world
    }

    fn eval(&mut self, input: EvalInput) {
        self.input(Input::Eval(input));
    }

    /// Asks for a lease, in vain if the volunteer was wrong too often and is sent away.
    fn ask(&mut self, session: u64) -> Option<Lease> {
        self.say(session, self.lease_request(session, 10_000, 1 << 30));
        self.answer(session)?.ok()
    }

    fn settling(&mut self) -> Option<(u32, Vec<EvalAnswer>)> {
        self.take(|output| match output {
            Output::Eval(EvalOutput::Settle { shard, answers, .. }) => Some((*shard, answers.clone())),
            _ => None,
        })
    }

    fn settled(&mut self, shard: u32, refuted: &[EvalAnswer]) {
        let refuted = refuted.iter().map(|answer| answer.volunteer).collect();
        self.eval(EvalInput::Settled { eval: EVAL, shard, refuted });
    }

    fn completed(&mut self) -> bool {
        let completed = |output: &Output| matches!(output, Output::Eval(EvalOutput::Completed { .. }));
        self.take(|output| completed(output).then_some(())).is_some()
    }

    fn in_memory(&self) -> u64 {
        self.relay.totals().result_bytes
    }
}

#[test]
fn each_shard_is_answered_by_different_volunteers_and_counts_once_settled() {
    let mut world = World::evaluating(&eval(2, 2), 3);
    let first = world.request(1).unwrap();
    assert!(matches!(first.task, Task::Eval(_)));
    // Another is asked the same shard, so that it can be compared; the first gets the other one.
    assert_eq!(world.request(2).unwrap().shard, first.shard);
    let other = world.request(1).unwrap();
    assert_ne!(other.shard, first.shard);
    assert_eq!(world.request(1), Err(NoWorkReason::EnoughLeases));
    world.deliver(1, &first);
    assert_eq!((world.settling(), world.verdict(1)), (None, None));
    // A volunteer that leaves is replaced, one that answered is not asked again.
    world.input(Input::Closed { session: SessionId(2) });
    let second = world.request(3).unwrap();
    assert_eq!(second.shard, first.shard);
    world.deliver(3, &second);
    let (shard, answers) = world.settling().unwrap();
    assert_eq!((shard, answers.len()), (first.shard, 2));
    assert_eq!(world.verdict(3), None, "nothing counts before it is settled");
    world.settled(shard, &[]);
    assert_eq!((world.verdict(1), world.verdict(3)), (Some(Outcome::Accepted), Some(Outcome::Accepted)));
    let progress = world.relay.eval_progress(&EVAL).unwrap();
    assert_eq!(progress, EvalProgress { shards: 2, done: 1, waiting: 0, leased: 1, rejected: 0 });
    world.deliver(1, &other);
    assert_eq!(world.request(1), Err(NoWorkReason::Idle), "nobody answers a shard twice");
    let last = world.request(3).unwrap();
    world.deliver(3, &last);
    let (shard, _) = world.settling().unwrap();
    world.settled(shard, &[]);
    assert!(world.completed());
    assert_eq!((world.in_memory(), world.relay.eval_progress(&EVAL)), (0, None));
}

#[test]
fn a_halt_takes_shards_back_and_holds_nobody_up_afterwards() {
    let mut world = World::evaluating(&eval(1, 2), 2);
    let (first, second) = (world.request(1).unwrap(), world.request(2).unwrap());
    world.deliver(2, &second);
    world.input(Input::Halted { halted: true });
    let revoked = world.take(|output| match output {
        Output::Send { message: Message::Revoke(revoke), .. } => Some(revoke.lease),
        _ => None,
    });
    assert_eq!(revoked, Some(first.lease));
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
    world.input(Input::Halted { halted: false });
    // What was delivered before still counts; who was interrupted goes on at once.
    let again = world.request(1).unwrap();
    world.deliver(1, &again);
    let (shard, answers) = world.settling().unwrap();
    assert_eq!(answers.len(), 2);
    world.settled(shard, &[]);
    assert!(world.completed());
}

#[test]
fn who_is_wrong_is_blamed_and_another_is_asked() {
    let mut world = World::evaluating(&eval(1, 2), 3);
    for volunteer in [1, 2] {
        let lease = world.request(volunteer).unwrap();
        world.deliver(volunteer, &lease);
    }
    let (shard, answers) = world.settling().unwrap();
    world.settled(shard, &answers[1..]);
    assert_eq!(world.verdict(2), Some(Outcome::Rejected(RejectReason::WrongAnswer)));
    assert_eq!(world.verdict(1), None);
    assert_eq!(world.request(2), Err(NoWorkReason::CoolingDown));
    let rejected = world.take(|output| match output {
        Output::Rejected { job, shard, claim, reason, .. } => Some((*job, *shard, *claim, *reason)),
        _ => None,
    });
    assert_eq!(rejected, Some((EVAL, shard, Some(answers[1].claim), RejectReason::WrongAnswer)));
    world.now += Duration::from_secs(30);
    for session in 1..=3 {
        world.say(session, Ping { nonce: 1 });
    }
    assert_eq!(world.request(2), Err(NoWorkReason::Idle), "it is not asked this again");
    let lease = world.request(3).unwrap();
    world.deliver(3, &lease);
    let (shard, answers) = world.settling().unwrap();
    assert_eq!(answers.iter().map(|answer| answer.volunteer).collect::<BTreeSet<_>>().len(), 2);
    world.settled(shard, &[]);
    assert!(world.completed());
}

#[test]
fn what_cannot_be_settled_begins_again_and_what_cannot_be_done_goes_to_others() {
    let mut world = World::evaluating(&eval(1, 1), 2);
    assert_eq!(world.request_with(1, 1000, MEMORY - 1), Err(NoWorkReason::Idle));
    let lease = world.request(1).unwrap();
    world.say(1, Release { lease: lease.lease, reason: ReleaseReason::Unsupported });
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
    let lease = world.request(2).unwrap();
    world.deliver(2, &lease);
    let (shard, _) = world.settling().unwrap();
    world.eval(EvalInput::Failed { eval: EVAL, shard });
    assert_eq!((world.verdict(2), world.in_memory()), (Some(Outcome::Superseded), 0));
    let lease = world.request(2).unwrap();
    // What was settled late, or for another eval, changes nothing.
    world.settled(shard, &[]);
    world.eval(EvalInput::Settled { eval: RUN, shard, refuted: Vec::new() });
    world.eval(EvalInput::Canceled { eval: EVAL });
    assert_eq!(world.revoked(2), Some(RevokeReason::JobCanceled));
    world.commit(2, &lease, claim_of(b"late"));
    assert_eq!(world.verdict(2), Some(Outcome::Late));
}

#[test]
fn who_lets_a_shard_lapse_lets_others_go_first_and_longer_each_time() {
    let mut world = World::evaluating(&eval(1, 1), 2);
    let pass = |world: &mut World| {
        world.now += Duration::from_secs(1);
        for session in [1, 2] {
            world.say(session, Ping { nonce: 1 });
        }
    };
    let mut rests = Vec::new();
    for lapse in 0..3 {
        let lease = world.request(1).unwrap();
        if lapse == 0 {
            // Giving it back just before its deadline is no way around.
            world.say(1, Release { lease: lease.lease, reason: ReleaseReason::Withdrawn });
        } else {
            let due = world.now + lease.deadline;
            while world.now < due {
                pass(&mut world);
            }
            assert_eq!(world.revoked(1), Some(RevokeReason::DeadlinePassed));
        }
        let lapsed = world.now;
        while world.relay.find_eval(&VolunteerKey([1; 32]).id(), 1 << 30).is_none() {
            assert!(
                world.relay.find_eval(&VolunteerKey([2; 32]).id(), 1 << 30).is_some(),
                "others are asked"
            );
            pass(&mut world);
        }
        rests.push(world.now.since(lapsed));
    }
    assert_eq!(rests, [10, 20, 40].map(Duration::from_secs));
    let lease = world.request(2).unwrap();
    world.deliver(2, &lease);
    let (shard, _) = world.settling().unwrap();
    world.settled(shard, &[]);
    assert!(world.completed());
}

#[test]
fn evals_out_of_bounds_are_refused_and_durable_shards_are_not_asked_again() {
    let mut world = World::evaluating(&eval(2, 1), 1);
    let lacks = |change: fn(&mut EvalSpec)| {
        let mut spec = eval(1, 1);
        change(&mut spec);
        spec.check().unwrap_err()
    };
    assert_eq!(lacks(|spec| spec.shards.clear()), EvalError::Shards { shards: 0 });
    assert_eq!(lacks(|spec| spec.copies = 0), EvalError::Copies { copies: 0 });
    assert!(matches!(lacks(|spec| spec.shards[0].result_bytes = 0), EvalError::Size { shard: 0, .. }));
    assert!(matches!(lacks(|spec| spec.shards[0].parameters.bytes = 1 << 40), EvalError::Size { .. }));
    assert_eq!(world.relay.eval_fits(&eval(1, 1)), Err(EvalError::Taken));
    world.eval(EvalInput::Canceled { eval: EVAL });
    world.eval(EvalInput::Added { spec: Box::new(eval(2, 1)), done: vec![0, 7] });
    let lease = world.request(1).unwrap();
    assert_eq!(lease.shard, 1);
    world.eval(EvalInput::Canceled { eval: EVAL });
    world.eval(EvalInput::Added { spec: Box::new(eval(2, 1)), done: vec![0, 1] });
    assert!(world.completed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever volunteers and adapter do, in whatever order: each shard is settled from answers of as many different
    /// volunteers as were asked for, each answer gets one verdict at most, and at the end all of them have one and no
    /// memory is taken.
    #[test]
    fn evals_end_whatever_happens(
        copies in 1_u32..4,
        acts in proptest::collection::vec((1_u64..7, 0_u8..10), 1..200),
    ) {
        let mut world = World::evaluating(&eval(3, copies), 6);
        let mut held: BTreeMap<u64, Vec<Lease>> = BTreeMap::new();
        let mut open: Vec<(u32, Vec<EvalAnswer>)> = Vec::new();
        let mut wrong = BTreeSet::new();
        let mut verdicts: BTreeMap<u64, usize> = BTreeMap::new();
        // At the end everybody asks, answers and is compared until nothing is left.
        let ending = (0..40).flat_map(|_| (1..7).flat_map(|who| [(who, 0), (who, 3), (who, 5)]).chain([(1, 9)]));
        let (mut completed, mut delivered) = (false, 0);
        for (who, act) in acts.into_iter().chain(ending) {
            match act {
                0..=2 => if let Some(lease) = world.ask(who) {
                    prop_assert!(!wrong.contains(&(lease.shard, who)), "asked again after a wrong answer");
                    held.entry(who).or_default().push(lease);
                },
                3 | 4 => if let Some(lease) = held.entry(who).or_default().pop() {
                    world.deliver(who, &lease);
                    delivered += 1;
                },
                5 => if let Some((shard, _)) = open.pop() {
                    world.settled(shard, &[]);
                },
                6 => if let Some((shard, answers)) = open.pop() {
                    wrong.extend(answers.iter().take(1).map(|answer| (shard, key_of(&answer.volunteer))));
                    world.settled(shard, &answers[..1]);
                },
                7 => if let Some((shard, _)) = open.pop() {
                    world.eval(EvalInput::Failed { eval: EVAL, shard });
                },
                8 => if let Some(lease) = held.entry(who).or_default().pop() {
                    world.say(who, Release { lease: lease.lease, reason: ReleaseReason::Withdrawn });
                },
                _ => {
                    world.now += Duration::from_secs(20);
                    world.input(Input::Tick);
                    (1..7).for_each(|session| world.say(session, Ping { nonce: 1 }));
                }
            }
            completed |= world.completed();
            while let Some((shard, answers)) = world.settling() {
                let names: BTreeSet<_> = answers.iter().map(|answer| answer.volunteer).collect();
                prop_assert_eq!((names.len(), answers.len()), (copies as usize, copies as usize));
                prop_assert!(open.iter().all(|(other, _)| *other != shard), "settled twice at once");
                open.push((shard, answers));
            }
            for session in 1..7 {
                while world.verdict(session).is_some() {
                    *verdicts.entry(session).or_default() += 1;
                }
            }
        }
        let completed = completed || world.completed();
        prop_assert!(completed || !wrong.is_empty(), "it does not end");
        if completed {
            prop_assert_eq!((world.in_memory(), world.relay.eval_progress(&EVAL)), (0, None));
        }
        prop_assert!(verdicts.values().sum::<usize>() <= delivered, "an answer got two verdicts");
    }
}

/// The number of a volunteer of the tests.
fn key_of(volunteer: &potluck_types::VolunteerId) -> u64 {
    (1..=6).find(|key| VolunteerKey([*key as u8; 32]).id() == *volunteer).unwrap()
}
