//! Who sends codec S, and which streaks go on.

use super::*;
use potluck_proto::PastUpdate;

const SESSIONS: [u64; 3] = [1, 2, 3];

fn sparse(rounds: u64) -> RunSpec {
    RunSpec { codec: UpdateCodec::TopK, update_bytes: SPARSE, ..spec(rounds) }
}

fn train(lease: &Lease) -> &TrainTask {
    let Task::Train(task) = &lease.task else { unreachable!("only the run is there") };
    task
}

/// What a volunteer kept after its part.
fn after(lease: &Lease, counted: bool) -> Kept {
    let TrainTask { round, worker, .. } = *train(lease);
    Kept { run: RUN, round, worker, counted }
}

impl World {
    /// Deals a round and closes it: each session keeps what follows its update. Each one's task, and who was replayed.
    fn sparse_round(&mut self, spec: &RunSpec) -> (BTreeMap<u64, TrainTask>, Vec<bool>) {
        let leases = self.deal(&SESSIONS);
        assert_eq!(leases.len(), SESSIONS.len());
        for (session, lease) in &leases {
            self.deliver(*session, lease);
        }
        let audits = self.all_right().iter().map(|check| check.audit).collect();
        let (round, updates) = self.closing().expect("the round closes");
        for (session, lease) in &leases {
            let update = updates.iter().find(|update| update.worker == lease.shard).unwrap();
            assert_eq!(&*update.task, train(lease), "the update counts as what was asked for");
            self.kept.insert(*session, vec![after(lease, true)]);
            self.results.insert(*session, update.claim.hash);
        }
        self.run(RunInput::Stored { run: spec.id, round });
        for session in SESSIONS {
            assert_eq!(self.verdict(session), Some(Outcome::Accepted));
        }
        self.prepare(spec);
        (leases.into_iter().map(|(session, lease)| (session, train(&lease).clone())).collect(), audits)
    }
}

#[test]
fn a_streak_goes_on_for_who_kept_what_follows_it_and_ends_with_the_others() {
    let spec = sparse(25);
    let mut world = World::with(&spec, 3);
    let mut streaks: BTreeMap<u64, Vec<PastUpdate>> = BTreeMap::new();
    for round in 0..2 * STREAK + 2 {
        if round.is_multiple_of(STREAK) {
            streaks.clear();
        }
        if round == 4 {
            // Its tab was closed: it has nothing any more. Another one claims what was never its own.
            world.kept.remove(&1);
            streaks.remove(&1);
            let foreign = world.kept[&3].clone();
            world.kept.insert(2, foreign);
            streaks.remove(&2);
        }
        let (tasks, audits) = world.sparse_round(&spec);
        if round < 5 {
            assert_eq!(audits, [true; 3]);
        }
        for (session, task) in tasks {
            let streak = streaks.entry(session).or_default();
            assert_eq!((task.codec, &task.streak), (UpdateCodec::TopK, &*streak), "round {round}, {session}");
            streak.push(PastUpdate { round, worker: task.worker, result: Some(world.results[&session]) });
        }
    }
}

#[test]
fn whoever_is_absent_for_a_round_goes_on_and_whoever_is_refuted_does_not() {
    let spec = RunSpec { min_workers: 2, ..sparse(9) };
    let mut world = World::with(&spec, 3);
    world.sparse_round(&spec);
    // The third one does not ask; the second one is refuted. Both still have what they kept after the first round.
    world.wait_awake(GATHER, &SESSIONS);
    let leases = world.deal(&[1, 2]);
    for session in [1, 2] {
        world.deliver(session, &leases[&session]);
    }
    world.wait_awake(Duration::from_secs(60), &SESSIONS);
    let checks = world.checks();
    assert_eq!(checks.len(), 2);
    for check in checks {
        let wrong = check.task.worker == leases[&2].shard;
        let reason = RejectReason::WrongUpdate;
        let verdict = if wrong { UpdateVerdict::Wrong(reason) } else { UpdateVerdict::Right };
        world.checked(check.ticket, verdict);
    }
    // One is too few: the round is repeated, with the same streaks but for the liar's.
    assert!(world.closing().is_none());
    world.wait_awake(Duration::from_secs(30), &SESSIONS);
    let leases = world.deal(&SESSIONS);
    let lengths: Vec<_> = leases.values().map(|lease| train(lease).streak.len()).collect();
    assert_eq!(lengths, [1, 0, 1]);
}

#[test]
fn a_streak_goes_on_after_an_update_that_did_not_count() {
    let spec = RunSpec { min_workers: 2, ..sparse(9) };
    let mut world = World::with(&spec, 3);
    world.sparse_round(&spec);
    let before = world.kept[&3][0];
    // The third one is too late.
    let late = world.deal(&SESSIONS);
    for session in [1, 2] {
        world.deliver(session, &late[&session]);
    }
    world.wait_awake(Duration::from_secs(60), &SESSIONS);
    assert_eq!(world.revoked(3), Some(RevokeReason::DeadlinePassed));
    world.all_right();
    let (closed, _) = world.closing().expect("two are enough");
    world.run(RunInput::Stored { run: spec.id, round: closed });
    for session in [1, 2] {
        world.kept.insert(session, vec![after(&late[&session], true)]);
    }
    world.prepare(&spec);
    // It has taken the steps, and does not know whether they count; it also has what was before.
    world.kept.insert(3, vec![after(&late[&3], true), after(&late[&3], false), before]);
    let leases = world.deal(&SESSIONS);
    let counted = |session: u64| -> Vec<bool> {
        train(&leases[&session]).streak.iter().map(|past| past.result.is_some()).collect()
    };
    assert_eq!((counted(1), counted(3)), (vec![true, true], vec![true, false]));
}

#[test]
fn who_lost_its_steps_goes_on_from_before_them() {
    let spec = RunSpec { min_workers: 2, ..sparse(9) };
    let mut world = World::with(&spec, 3);
    world.sparse_round(&spec);
    let leases = world.deal(&SESSIONS);
    for session in [1, 2] {
        world.deliver(session, &leases[&session]);
    }
    world.wait_awake(Duration::from_secs(60), &SESSIONS);
    world.all_right();
    let (closed, _) = world.closing().unwrap();
    world.run(RunInput::Stored { run: spec.id, round: closed });
    world.prepare(&spec);
    // Its steps were not done at the deadline.
    assert_eq!(train(&world.deal(&SESSIONS)[&3]).streak.len(), 1);
}

#[test]
fn a_restart_begins_all_streaks_anew() {
    let spec = sparse(9);
    let mut world = World::with(&spec, 3);
    world.sparse_round(&spec);
    world.sparse_round(&spec);
    let kept = std::mem::take(&mut world.kept);
    let mut world = World::of(2);
    world.kept = kept;
    world.add(&spec, 2);
    for session in SESSIONS {
        world.join(session, session as u8);
    }
    assert!(world.deal(&SESSIONS).values().all(|lease| train(lease).streak.is_empty()));
}

#[test]
fn credible_volunteers_with_slow_links_send_codec_s_and_the_others_do_not() {
    let sparse = SparsePolicy::new(SPARSE);
    let spec = RunSpec { sparse: Some(sparse), ..spec(20) };
    assert_eq!(spec.result_bytes(), UPDATE + u64::from(STEPS) * 4);
    let mut world = World::with(&spec, 3);
    let mut seen = Vec::new();
    for _ in 0..8 {
        let leases = world.deal(&SESSIONS);
        for (session, lease) in &leases {
            let bytes = result_of(lease, 0);
            world.commit(*session, lease, claim_of(&bytes));
            // The second one's chunks take half a second each, 400 kB/s over all; the third one's twice as long.
            while let Some(request) = world.heard(*session, |m| match m {
                Message::BlobRequest(request) => Some(request.clone()),
                _ => None,
            }) {
                world.now += Duration(500 * (*session - 1));
                let data = bytes[request.offset as usize..][..request.bytes as usize].to_vec();
                world.say(*session, BlobChunk { hash: request.hash, offset: request.offset, data });
            }
        }
        let audits = world.all_right();
        let (round, updates) = world.closing().expect("the round closes");
        for (session, lease) in &leases {
            let update = updates.iter().find(|update| update.worker == lease.shard).unwrap();
            assert_eq!(&*update.task, train(lease));
            world.kept.insert(*session, vec![after(lease, true)]);
        }
        world.run(RunInput::Stored { run: spec.id, round });
        for session in SESSIONS {
            assert_eq!(world.verdict(session), Some(Outcome::Accepted));
        }
        world.prepare(&spec);
        let codecs: Vec<_> = leases.values().map(|lease| train(lease).codec).collect();
        seen.push((codecs, leases[&3].clone(), audits.len()));
    }
    let [r, s] = [UpdateCodec::Int4, UpdateCodec::TopK];
    for (round, (codecs, third, _)) in seen.iter().enumerate() {
        // Five replays passed: now it is credible, and its link was slow all the while.
        let expected = if round < 5 { [r, r, r] } else { [r, r, s] };
        assert_eq!(codecs[..], expected, "round {round}");
        assert_eq!(train(third).streak.len(), round.saturating_sub(5), "round {round}");
    }
    let policy = RunSpec { sparse: Some(SparsePolicy { large_update: 0, ..sparse }), ..spec };
    let mut world = World::with(&policy, 3);
    for _ in 0..5 {
        world.round(&policy, &SESSIONS);
    }
    assert!(
        world.deal(&SESSIONS).values().all(|lease| train(lease).codec == s),
        "large updates, whatever the link"
    );
}

#[test]
fn tasks_of_a_run_come_without_streaks() {
    let spec = sparse(3);
    let mut world = World::new();
    world.run(RunInput::Added { spec: Box::new(spec.clone()), next_round: 0 });
    let mut tasks: Vec<_> = (0..5).map(|worker| task(&spec, 0, worker)).collect();
    tasks[3].streak = vec![PastUpdate { round: 0, worker: 0, result: None }];
    world.run(RunInput::Ready { run: RUN, round: 0, tasks });
    assert_eq!(world.paused(), Some(PauseReason::WrongTasks));
}
