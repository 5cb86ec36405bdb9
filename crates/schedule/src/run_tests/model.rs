//! Does anything in any order to one run.

use super::*;
use potluck_types::limits::SESSION_TIMEOUT;
use proptest::prelude::*;

/// What the model may do in one step.
#[derive(Debug, Clone)]
enum Op {
    Open(u64, u8),
    Close(u64),
    Request(u64, u32),
    Commit(u64, bool),
    Answer(u64),
    Check(u8),
    Settle(bool),
    Prepare,
    Withdraw(u64),
    Agree(u64),
    Pause(bool),
    Wait(u16),
    /// Four volunteers join, work and are found right, and the round is stored: what chance alone rarely strings
    /// together. Other steps come in between.
    Work,
}

impl Op {
    /// The plain steps of a step.
    fn plain(self) -> Vec<Self> {
        let Self::Work = self else { return vec![self] };
        let everybody = |step: fn(u64) -> Self| (1..5).map(step);
        let mut steps = vec![Self::Prepare, Self::Pause(false), Self::Prepare, Self::Wait(3_000)];
        steps.extend(everybody(|s| Self::Open(s, s as u8)));
        for _ in 0..2 {
            steps.extend(everybody(|s| Self::Request(s, 10_000)));
        }
        steps.extend(everybody(|s| Self::Commit(s, true)).chain(everybody(Self::Answer)));
        steps.extend(vec![Self::Check(9); 4]);
        steps.extend([Self::Settle(true), Self::Settle(true)]);
        steps
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1..7u64, 1..6u8).prop_map(|(s, key)| Op::Open(s, key)),
        1 => (1..7u64).prop_map(Op::Close),
        8 => (1..7u64, 100..100_000u32).prop_map(|(s, speed)| Op::Request(s, speed)),
        6 => (1..7u64, prop::bool::weighted(0.9)).prop_map(|(s, honest)| Op::Commit(s, honest)),
        8 => (1..7u64).prop_map(Op::Answer),
        6 => (0..10u8).prop_map(Op::Check),
        3 => prop::bool::weighted(0.9).prop_map(Op::Settle),
        3 => Just(Op::Prepare),
        1 => (1..7u64).prop_map(Op::Withdraw),
        1 => (1..7u64).prop_map(Op::Agree),
        1 => any::<bool>().prop_map(Op::Pause),
        3 => (0..20_000u16).prop_map(Op::Wait),
        2 => Just(Op::Work),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever happens in whatever order: rounds close once and in order, with at most one update a worker and a
    /// volunteer, all of them checked; no lease without consent; queues and memory stay bounded and end empty.
    #[test]
    fn rounds_close_once_and_in_order(ops in prop::collection::vec(op(), 1..200)) {
        let spec = RunSpec { min_workers: 2, max_workers: 4, ..spec(4) };
        let mut world = World::with(&spec, 0);
        let mut open: BTreeMap<u64, (bool, Vec<Lease>)> = BTreeMap::new();
        let (mut checks, mut right) = (Vec::new(), BTreeSet::new());
        let mut pending: Option<u64> = None;
        let mut stored = 0;
        let (mut next, mut ids) = (100, BTreeMap::new());
        for op in ops.into_iter().flat_map(Op::plain) {
            match op {
                Op::Open(s, key) if !open.contains_key(&s) => {
                    next += 1;
                    ids.insert(s, next);
                    world.greet(next, key);
                    if world.relay.sessions.contains_key(&SessionId(next)) {
                        world.agree(next);
                        open.insert(s, (true, Vec::new()));
                    }
                }
                Op::Close(s) if open.remove(&s).is_some() => {
                    world.input(Input::Closed { session: SessionId(ids[&s]) });
                }
                Op::Request(s, mflops) => {
                    if let Some((consents, leases)) = open.get_mut(&s) {
                        let id = ids[&s];
                        let consent = world.tokens[&id];
                        world.say(id, LeaseRequest { consent, backend: Backend::WasmSimd, mflops, memory_bytes: 1 << 30, held: vec![], kept: Vec::new() });
                        if let Some(lease) = world.heard(id, |m| match m { Message::Lease(lease) => Some(lease.clone()), _ => None }) {
                            prop_assert!(*consents, "a lease without consent");
                            leases.push(lease);
                        }
                    }
                }
                Op::Commit(s, honest) => {
                    if let Some((_, leases)) = open.get_mut(&s) && !leases.is_empty() {
                        let mut lease = leases.remove(0);
                        lease.fence = if honest { lease.fence } else { Fence(lease.fence.0 ^ 1) };
                        world.commit(ids[&s], &lease, claim_of(&result_of(&lease, 0)));
                    }
                }
                Op::Answer(s) => {
                    while let Some(request) = ids.get(&s).and_then(|id| world.heard(*id, |m| match m { Message::BlobRequest(request) => Some(request.clone()), _ => None })) {
                        world.say(ids[&s], BlobChunk { hash: request.hash, offset: request.offset, data: vec![0; request.bytes as usize] });
                    }
                }
                Op::Check(verdict) => {
                    checks.extend(world.checks());
                    if let Some(check) = checks.pop() {
                        let verdict = match verdict {
                            0 => UpdateVerdict::Wrong(RejectReason::WrongUpdate),
                            1 => UpdateVerdict::Undecided,
                            _ => UpdateVerdict::Right,
                        };
                        if verdict == UpdateVerdict::Right {
                            right.insert(check.ticket);
                        }
                        world.checked(check.ticket, verdict);
                    }
                }
                Op::Settle(works) => {
                    if let Some((round, updates)) = world.closing() {
                        prop_assert_eq!(pending, None);
                        prop_assert_eq!(round, stored, "rounds close in order");
                        prop_assert!(updates.len() >= 2);
                        let workers: BTreeSet<_> = updates.iter().map(|update| update.worker).collect();
                        let volunteers: BTreeSet<_> = updates.iter().map(|update| update.volunteer).collect();
                        prop_assert!(workers.len() == updates.len() && volunteers.len() == updates.len());
                        prop_assert!(updates.iter().all(|update| right.remove(&update.ticket)), "each is checked and counts once");
                        pending = Some(round);
                    } else if let Some(round) = pending.take() {
                        if works {
                            stored += 1;
                            world.run(RunInput::Stored { run: RUN, round });
                        } else {
                            world.run(RunInput::Failed { run: RUN, round, reason: String::new() });
                        }
                    }
                }
                Op::Prepare => drop(world.prepare(&spec)),
                Op::Withdraw(s) => {
                    if let Some((consents, leases)) = open.get_mut(&s) {
                        *consents = false;
                        leases.clear();
                        world.say(ids[&s], Withdraw {});
                    }
                }
                Op::Agree(s) => {
                    if let Some((consents, _)) = open.get_mut(&s) {
                        *consents = true;
                        world.agree(ids[&s]);
                    }
                }
                Op::Pause(pause) => world.run(if pause { RunInput::Paused { run: RUN } } else { RunInput::Resumed { run: RUN } }),
                Op::Wait(ms) => world.wait(Duration(u64::from(ms))),
                Op::Open(..) | Op::Close(_) | Op::Work => {}
            }
            open.retain(|s, _| world.relay.sessions.contains_key(&SessionId(ids[s])));
            prop_assert!(world.relay.totals().result_bytes <= MAX_RESULTS_IN_MEMORY_BYTES as u64);
            prop_assert!(world.relay.sessions.values().all(|session| session.leases.len() <= MAX_LEASES_PER_SESSION));
            if let Some(run) = world.relay.runs.get(&RUN) {
                prop_assert_eq!(run.round, stored);
                prop_assert!(run.slots.len() <= 4 && run.asking.len() <= 6);
                let leased: BTreeSet<_> = run.slots.iter().filter_map(crate::round::Slot::lease).collect();
                let out: BTreeSet<_> = world.relay.leases.keys().copied().collect();
                prop_assert_eq!(leased, out, "slots and leases agree");
            }
        }
        world.run(RunInput::Canceled { run: RUN });
        prop_assert_eq!(world.relay.totals().result_bytes, 0);
        prop_assert!(world.relay.leases.is_empty() && world.relay.runs.is_empty());
        // Silent sessions end; the timers of those that left before fire once more, and arm nothing.
        world.wait(SESSION_TIMEOUT);
        prop_assert!(world.relay.sessions.is_empty());
        prop_assert_eq!(world.relay.next_wake(), None);
    }
}
