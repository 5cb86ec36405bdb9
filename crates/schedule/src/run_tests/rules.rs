//! Pauses, limits and pictures of training runs.

use super::*;

#[test]
fn a_pause_gives_the_round_up_and_a_failure_pauses() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    let leases = world.deal(&[1, 2, 3]);
    world.deliver(1, &leases[&1]);
    world.run(RunInput::Paused { run: RUN });
    assert_eq!(world.verdict(1), Some(Outcome::Superseded));
    assert_eq!(world.revoked(2), Some(RevokeReason::JobCanceled));
    assert_eq!(world.paused(), Some(PauseReason::Asked));
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
    world.run(RunInput::Resumed { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));

    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    let (round, _) = world.closing().unwrap();
    // A pause while a round closes comes after it.
    world.run(RunInput::Paused { run: RUN });
    assert_eq!(world.paused(), None);
    world.run(RunInput::Stored { run: RUN, round });
    assert_eq!((world.paused(), world.progress().round), (Some(PauseReason::Asked), 1));
    assert_eq!([world.verdict(1), world.verdict(2)], [Some(Outcome::Accepted); 2]);
    world.run(RunInput::Resumed { run: RUN });
    world.prepare(&spec);

    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    let (round, _) = world.closing().unwrap();
    world.run(RunInput::Failed { run: RUN, round, reason: "the loss is NaN".into() });
    assert_eq!(world.paused(), Some(PauseReason::Failed("the loss is NaN".into())));
    assert_eq!((world.verdict(2), world.progress().round), (Some(Outcome::Superseded), 1));
    assert_eq!(world.relay.totals().result_bytes, 0);

    // Tasks that are not this run's.
    world.run(RunInput::Resumed { run: RUN });
    let tasks = (0..5).map(|worker| TrainTask { steps: 99, ..task(&spec, 1, worker) }).collect();
    world.run(RunInput::Ready { run: RUN, round: 1, tasks });
    assert_eq!(world.paused(), Some(PauseReason::WrongTasks));
}

#[test]
fn a_round_in_which_nobody_can_be_judged_pauses_the_run_and_blames_nobody() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    let checks = world.checks();
    assert_eq!(checks.len(), 3);
    world.checked(checks[0].ticket, UpdateVerdict::Right);
    world.run(RunInput::Failed { run: RUN, round: 0, reason: "unstable".into() });
    assert_eq!(world.paused(), Some(PauseReason::Failed("unstable".into())));
    // What the other checks find comes too late to count.
    world.checked(checks[1].ticket, UpdateVerdict::Undecided);
    world.checked(checks[2].ticket, UpdateVerdict::Wrong(RejectReason::WrongUpdate));
    assert_eq!([1, 2, 3].map(|session| world.verdict(session)), [Some(Outcome::Superseded); 3]);
    assert_eq!(world.relay.totals().result_bytes, 0);

    world.run(RunInput::Resumed { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));
    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    assert_eq!(world.closing().map(|(round, updates)| (round, updates.len())), Some((0, 3)));
}

#[test]
fn a_round_that_a_pause_kept_from_closing_is_repeated() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    let (round, _) = world.closing().unwrap();
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Halted { run: RUN, round });
    assert_eq!(world.paused(), Some(PauseReason::Asked), "that is no failure of the run");
    assert_eq!((world.verdict(2), world.progress().round), (Some(Outcome::Superseded), 0));
    world.run(RunInput::Resumed { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));
    assert_eq!(world.deal(&[1, 2, 3]).len(), 3);
}

#[test]
fn who_pauses_and_goes_on_while_tasks_are_made_asks_for_them_once() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Resumed { run: RUN });
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Resumed { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));
    assert_eq!(world.prepare(&spec), None, "they were asked for already");
    assert_eq!(world.deal(&[1, 2, 3]).len(), 3);
    // An answer that comes while the run pauses is for nothing: the next one is asked for.
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Resumed { run: RUN });
    world.run(RunInput::Paused { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));
    world.run(RunInput::Resumed { run: RUN });
    assert_eq!(world.prepare(&spec), Some(0));
    assert_eq!(world.deal(&[1, 2, 3]).len(), 3);
}

#[test]
fn who_resumes_while_a_round_closes_takes_the_pause_back() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    let (round, _) = world.closing().unwrap();
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Resumed { run: RUN });
    world.run(RunInput::Stored { run: RUN, round });
    assert_eq!((world.paused(), world.prepare(&spec)), (None, Some(1)));
}

#[test]
fn a_round_that_became_durable_is_over_whatever_failed_meanwhile() {
    for resumed in [false, true] {
        let spec = spec(3);
        let mut world = World::with(&spec, 3);
        for (session, lease) in world.deal(&[1, 2, 3]) {
            world.deliver(session, &lease);
        }
        world.all_right();
        let (round, _) = world.closing().unwrap();
        // Of a task that was tried, for example, long ago.
        world.run(RunInput::Failed { run: RUN, round, reason: "late".into() });
        assert_eq!(world.verdict(1), Some(Outcome::Superseded));
        if resumed {
            world.run(RunInput::Resumed { run: RUN });
            world.prepare(&spec);
        }
        world.run(RunInput::Stored { run: RUN, round });
        if !resumed {
            world.run(RunInput::Resumed { run: RUN });
        }
        assert_eq!(world.prepare(&spec), Some(1));
        assert_eq!(world.progress().round, 1);
    }
}

#[test]
fn who_cannot_do_a_task_is_not_leased_it_again_and_again() {
    let spec = RunSpec { min_workers: 1, ..spec(3) };
    let mut world = World::with(&spec, 2);
    let leases = world.deal(&[1, 2]);
    let unsupported = |lease: &Lease| Release { lease: lease.lease, reason: ReleaseReason::Unsupported };
    world.say(1, unsupported(&leases[&1]));
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
    for _ in 0..EXCUSED.0 / 20_000 {
        world.wait_awake(Duration::from_secs(20), &[1, 2]);
    }
    let lease = world.request(1).or_else(|_| {
        world.wait_awake(GATHER, &[1, 2]);
        world.request(1)
    });
    world.say(1, unsupported(&lease.unwrap()));
    // Whoever lets the run go on may have changed something.
    world.run(RunInput::Paused { run: RUN });
    world.run(RunInput::Resumed { run: RUN });
    world.prepare(&spec);
    assert!(world.deal(&[1, 2]).contains_key(&1));
}

#[test]
fn who_never_commits_cannot_hold_a_run_up() {
    let spec = RunSpec { min_workers: 1, ..spec(3) };
    let mut world = World::with(&spec, 2);
    for attempt in 0..2 {
        let leases = world.deal(&[1, 2]);
        assert_eq!((leases.len(), world.progress().attempt), (2, attempt));
        world.deliver(1, &leases[&1]);
        assert!(world.checks().is_empty(), "the other may still commit");
        let deadline = leases[&2].deadline;
        world.wait_awake(deadline, &[1, 2]);
    }
    assert_eq!(world.all_right().len(), 1, "one of two is enough the second time");
    assert_eq!(world.closing().map(|(round, updates)| (round, updates.len())), Some((0, 1)));
}

#[test]
fn a_canceled_run_takes_everything_along() {
    let mut world = World::with(&spec(3), 3);
    let leases = world.deal(&[1, 2, 3]);
    world.deliver(1, &leases[&1]);
    world.commit(2, &leases[&2], claim_of(&result_of(&leases[&2], 0)));
    world.run(RunInput::Canceled { run: RUN });
    assert_eq!(world.revoked(3), Some(RevokeReason::JobCanceled));
    assert!(world.relay.leases.is_empty() && world.relay.runs.is_empty());
    assert_eq!(world.relay.totals().result_bytes, 0);
    world.wait(Duration::from_secs(50));
    assert_eq!(world.progress().round, 0, "its progress stays readable");
}

#[test]
fn runs_that_cannot_be_held_are_refused() {
    let refused = |world: &mut World, spec: RunSpec| {
        world.run(RunInput::Added { spec: Box::new(spec), next_round: 0 });
        world.take(|output| match output {
            Output::Run(RunOutput::Refused { error, .. }) => Some(*error),
            _ => None,
        })
    };
    let mut world = World::new();
    let base = spec(1);
    assert!(matches!(refused(&mut world, spec(0)), Some(RunError::Zero { .. })));
    let workers = RunSpec { min_workers: 6, ..base.clone() };
    assert_eq!(refused(&mut world, workers), Some(RunError::Workers { min: 6, max: 5 }));
    let large = RunSpec { update_bytes: 1 << 40, ..base.clone() };
    assert!(matches!(refused(&mut world, large), Some(RunError::Update { .. })));
    let heavy = RunSpec { update_bytes: MAX_UPDATES_IN_MEMORY_BYTES / 4, ..base.clone() };
    assert_eq!(refused(&mut world, heavy.clone()), None, "three of four fit");
    let second = RunSpec { id: JobId([8; 16]), ..heavy.clone() };
    assert!(matches!(refused(&mut world, second), Some(RunError::Memory { .. })));
    assert_eq!(refused(&mut world, heavy), Some(RunError::Taken));
}

#[test]
fn memory_for_results_is_shared_and_never_blocks() {
    // Five workers, but updates for four of them fit.
    let spec = RunSpec { update_bytes: MAX_UPDATES_IN_MEMORY_BYTES / 4 - 100, ..spec(1) };
    let mut world = World::with(&spec, 5);
    let leases = world.deal(&[1, 2, 3, 4, 5]);
    assert_eq!(leases.len(), 4);
    let bytes =
        |lease: &Lease| vec![lease.lease.0 as u8; (MAX_UPDATES_IN_MEMORY_BYTES / 4 - 100 + 16) as usize];
    for (session, lease) in &leases {
        let bytes = bytes(lease);
        world.commit(*session, lease, claim_of(&bytes));
        world.send_bytes(*session, &bytes);
    }
    assert_eq!(world.progress().delivered, 4);
    assert!(world.relay.totals().result_bytes <= MAX_UPDATES_IN_MEMORY_BYTES);
    world.input(Input::JobAdded { job: matrix_job(1), accepted: Vec::new() });
    let lease = world.request(5).unwrap();
    world.deliver(5, &lease);
    assert!(world.take(|output| matches!(output, Output::Check(_)).then_some(())).is_some());
}

#[test]
fn pictures_show_the_workers_of_a_round() {
    let spec = spec(2);
    let mut world = World::with(&spec, 3);
    let picture = |world: &mut World, session| {
        world.wait(Duration(1000));
        let mut last = None;
        while let Some(next) = world.heard(session, |m| match m {
            Message::Picture(picture) => Some(picture.clone()),
            _ => None,
        }) {
            last = Some(next);
        }
        last.unwrap()
    };
    let leases = world.deal(&[1, 2, 3]);
    let seen = picture(&mut world, 1);
    assert_eq!((seen.job, seen.columns, seen.cells.len(), seen.volunteers), (RUN, 5, 5, 3));
    assert_eq!(seen.cells[leases[&1].shard as usize], cell::YOURS_LEASED);
    assert_eq!(seen.cells[leases[&2].shard as usize], cell::LEASED);
    for (session, lease) in &leases {
        world.deliver(*session, lease);
    }
    world.all_right();
    world.run(RunInput::Stored { run: RUN, round: 0 });
    let seen = picture(&mut world, 2);
    assert_eq!(seen.cells[leases[&2].shard as usize], cell::YOURS_ACCEPTED);
    assert_eq!(seen.cells[leases[&1].shard as usize], cell::ACCEPTED);
    assert_eq!(seen.accepted_permille, 500);
}

#[test]
fn a_task_that_a_volunteer_cannot_do_is_tried_once_and_may_end_the_round() {
    let spec = spec(2);
    let mut world = World::with(&spec, 3);
    let leases = world.deal(&[1, 2, 3]);
    let tried = |world: &mut World| {
        world.take(|output| match output {
            Output::Run(RunOutput::TryTask { run: RUN, round, worker }) => Some((*round, *worker)),
            _ => None,
        })
    };
    let release = |lease: &Lease, reason| Release { lease: lease.lease, reason };
    world.say(1, release(&leases[&1], ReleaseReason::DeviceFailed));
    assert_eq!(tried(&mut world), None);
    world.say(2, release(&leases[&2], ReleaseReason::Unsupported));
    assert_eq!(tried(&mut world), Some((0, leases[&2].shard)));
    world.say(3, release(&leases[&3], ReleaseReason::Unsupported));
    assert_eq!(tried(&mut world), None, "once is enough");
    let reason = "the loss is NaN".to_owned();
    world.run(RunInput::Failed { run: RUN, round: 0, reason: reason.clone() });
    assert_eq!(world.paused(), Some(PauseReason::Failed(reason)));
    assert_eq!(world.progress().phase, RunPhase::Paused);
}

#[test]
fn a_review_before_the_close_blames_liars_and_weighs_the_rest_again() {
    let spec = spec(2);
    let mut world = World::with(&spec, 4);
    for (session, lease) in world.deal(&[1, 2, 3, 4]) {
        world.deliver(session, &lease);
    }
    world.all_right();
    let (round, updates) = world.closing().unwrap();
    let liar = updates[1].clone();
    let review = |round, confirmed, refuted| RunInput::Reviewed { run: RUN, round, confirmed, refuted };
    world.run(review(round + 1, vec![], vec![liar.worker]));
    assert!(world.closing().is_none(), "another round's review says nothing");
    world.run(review(round, vec![updates[0].worker, 77], vec![liar.worker, 99]));
    let (again, rest) = world.closing().unwrap();
    assert_eq!((again, rest.len()), (round, 3));
    assert!(rest.iter().all(|update| update.volunteer != liar.volunteer));
    assert!(rest[0].audited);
    assert_eq!((world.progress().rejected, world.relay.totals().rejected), (1, 1));
    // Fewer than the floor: the round is repeated.
    world.run(review(round, vec![], vec![rest[0].worker]));
    assert!(world.closing().is_none());
    assert_eq!((world.progress().repeated, world.progress().phase), (1, RunPhase::Gathering));
    assert_eq!(world.relay.totals().result_bytes, 0);
    world.run(review(round, vec![], vec![0]));
    world.run(RunInput::Stored { run: RUN, round });
    assert_eq!(world.progress().round, 0, "nothing is closed");
}

#[test]
fn updates_name_the_site_on_which_their_person_agreed_even_if_the_tab_is_gone_by_then() {
    let spec = spec(1);
    let mut world = World::with(&spec, 3);
    world.agree_on(2, "embed:https://a.example");
    let leases = world.deal(&[1, 2, 3]);
    for (session, lease) in &leases {
        world.deliver(*session, lease);
    }
    world.input(Input::Closed { session: SessionId(2) });
    world.all_right();
    let (_, updates) = world.closing().unwrap();
    let site = |session: u64| {
        let update = updates.iter().find(|update| update.worker == leases[&session].shard).unwrap();
        update.site.as_deref()
    };
    assert_eq!([1, 2, 3].map(site), [None, Some("https://a.example"), None]);
}
