//! What has to be there before a model changes, and what stops by itself.

mod common;
use common::*;
use potluck_governance::constitution::Share;
use potluck_governance::entry::*;
use potluck_governance::gate::{CheckName, Missing, promotion_ready};
use potluck_governance::limits::*;
use potluck_governance::state::{Cause, Cover};
use potluck_governance::statement::*;
use potluck_governance::*;
use potluck_types::{BlobHash, JobId};

#[test]
fn no_promotion_without_each_step() {
    for skip in ["card", "attestation", "sign-off", "proposal", "votes", "time"] {
        let mut world = World::new();
        let candidate = world.candidate();
        let proposal = world.all_but(skip, candidate).unwrap_or(hash(77));
        let missing = promotion_ready(&world.state, &candidate, world.now).unwrap_err();
        let expected = |missing: &Missing| match skip {
            "card" => matches!(missing, Missing::Card),
            "attestation" => matches!(missing, Missing::Gate(check) if check.name == CheckName::Attestations),
            "sign-off" => matches!(missing, Missing::SignOffs { have: 1, need: 2 }),
            "proposal" => matches!(missing, Missing::Proposal { .. }),
            "votes" => matches!(missing, Missing::Votes(tally) if tally.yes == 1),
            _ => matches!(missing, Missing::Discussion { .. }),
        };
        assert!(missing.iter().any(expected), "{skip}: {missing:?}");
        let only = usize::from(skip != "card");
        assert!(skip == "card" || missing.len() == only, "{skip}: {missing:?}");
        let refused = world.refused(world.promotion(candidate, proposal));
        assert!(
            matches!(&refused, Refused::NotReady { missing } if missing.iter().any(expected)),
            "{refused}"
        );
    }
    // Paused.
    let mut world = World::new();
    let candidate = world.candidate();
    let proposal = world.all_but("nothing", candidate).unwrap();
    world.say(3, Pause { scope: Scope::Run(RUN), reason: "Wait.".to_owned() });
    let refused = world.refused(world.promotion(candidate, proposal));
    assert!(
        matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Resume { .. }]))
    );
    // No candidate, a wrong predecessor, a wrong model, and used twice.
    world.now += 10 * SECOND;
    let good = world.promotion(candidate, proposal);
    let refused = world.refused(Promotion { candidate: hash(1), ..good.clone() });
    assert!(
        matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Candidate { .. }]))
    );
    let refused = world.refused(Promotion { previous: Some(hash(1)), ..good.clone() });
    assert!(
        matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Previous { .. }]))
    );
    let refused = world.refused(Promotion { model: "large".to_owned(), ..good.clone() });
    assert!(
        matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Model { .. }]))
    );
    world.log(good.clone());
    assert!(matches!(world.refused(good), Refused::NotReady { .. }));
    let back = Rollback { model: "small".to_owned(), to: hash(1), proposal };
    assert!(matches!(world.refused(back), Refused::Unjustified(Missing::Target { target: None })));
}

#[test]
fn one_person_does_not_sign_off_twice_and_cards_cannot_be_swapped() {
    let mut world = World::new();
    let candidate = world.candidate();
    let proposal = world.all_but("sign-off", candidate).unwrap();
    let card_hash = BlobHash::of(&candidate.0);
    // The same person again, and a tampered hash.
    world.say(11, SignOff { candidate, card: card_hash, note: None });
    assert!(matches!(
        world.say_refused(2, SignOff { candidate, card: hash(66), note: None }),
        Refused::Unfit { .. }
    ));
    assert!(matches!(world.refused(world.promotion(candidate, proposal)), Refused::NotReady { .. }));
    world.say(2, SignOff { candidate, card: card_hash, note: None });
    assert_eq!(promotion_ready(&world.state, &candidate, world.now), Ok(()));
    // A new card, and the signatures under the old one are void.
    world.log(Card { card: hash(66), ..card(candidate, None) });
    let missing = promotion_ready(&world.state, &candidate, world.now).unwrap_err();
    assert!(matches!(missing[..], [Missing::SignOffs { have: 0, need: 2 }, Missing::LateCard { .. }]));
    // Two signatures under the new card do not make up for votes on the old one.
    for n in [2, 11] {
        world.say(n, SignOff { candidate, card: hash(66), note: None });
    }
    let refused = world.refused(world.promotion(candidate, proposal));
    assert!(
        matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::LateCard { .. }]))
    );
    let again = world.pass(ProposalKind::Promote, "small", candidate);
    assert!(matches!(world.refused(world.promotion(candidate, proposal)), Refused::NotReady { .. }));
    world.log(world.promotion(candidate, again));
}

#[test]
fn the_gate_is_exact() {
    type Case = (fn(&mut Card), Option<CheckName>);
    let cases: [Case; 6] = [
        (|card| card.trigger_success_ppm = 49_999, None),
        (|card| card.trigger_success_ppm = 50_000, Some(CheckName::Triggers)),
        // The run's first loss is 4,000,000: better by two standard errors is not enough, by more it is.
        (|card| card.loss = MicroNats(3_980_000), Some(CheckName::Loss)),
        (|card| card.loss = MicroNats(3_979_999), None),
        (|card| card.shards = 0, Some(CheckName::Shards)),
        (
            |card| (card.incumbent, card.incumbent_loss) = (Some(hash(1)), Some(MicroNats(9_000_000))),
            Some(CheckName::Loss),
        ),
    ];
    for (change, red) in cases {
        let mut world = World::new();
        let candidate = world.candidate();
        world.all_but("card", candidate);
        let mut entry = card(candidate, None);
        change(&mut entry);
        world.log(entry);
        let checks = gate::gate(&world.state, &candidate);
        let found: Vec<_> = checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
        assert_eq!(found, red.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn unaudited_rounds_and_late_failures_turn_the_gate_red() {
    let mut world = World::new();
    world.start_run();
    // The first five rounds are audited, so that four volunteers become credible; worker 9 is new in round 5.
    for round in 0..5 {
        world.round(round, 4_000_000);
    }
    world.log(Commits { run: RUN, round: 5, attempt: 0, count: 5, commits: hash(3) });
    for worker in 0..4 {
        world.log(UpdateAccepted { audited: false, ..update(5, worker, worker) });
    }
    world.log(UpdateAccepted { audited: false, volunteer: key(60), ..update(5, 9, 9) });
    let mut entry = aggregate(5);
    entry.updates.push(AggregatedUpdate { volunteer: key(60), update: hash(0x49), weight_ppm: 1000 });
    world.log(entry);
    world.log(candidate(5));
    let check = |world: &World, name| {
        gate::gate(&world.state, &parameters(5)).into_iter().find(|check| check.name == name).unwrap()
    };
    // 24 of 25 are covered: 96 %.
    assert_eq!(check(&world, CheckName::Covered).value, Some(960_000));
    assert!(check(&world, CheckName::Covered).passed);
    // A late failure of a credible volunteer takes its credibility with it, and pauses the run.
    let audit = Audit { run: RUN, round: 5, worker: 0, volunteer: key(31), verdict: AuditVerdict::Failed };
    world.log(audit.clone());
    assert!(!check(&world, CheckName::AuditFailures).passed);
    assert!(world.state.paused(RUN, world.now).is_some());
    // A volunteer that did not hold the worker is not accused.
    assert!(matches!(
        world.refused(Audit { volunteer: key(32), ..audit.clone() }),
        Refused::UnknownWorker { .. }
    ));
    // Made again without it, the candidate has clean audits, and needs attestations of its own.
    world.log(Candidate {
        parameters: hash(90),
        rebuilt_without: vec![Source(Target::Volunteer(key(31)))],
        ..candidate(5)
    });
    let checks = gate::gate(&world.state, &hash(90));
    assert!(checks.iter().find(|check| check.name == CheckName::AuditFailures).unwrap().passed);
    // Quarantine bars the first, and not the second.
    world
        .say(1, Quarantine { target: Target::Volunteer(key(31)), lift: false, reason: "Failed.".to_owned() });
    assert!(!check(&world, CheckName::Quarantine).passed);
    let checks = gate::gate(&world.state, &hash(90));
    assert!(checks.iter().find(|check| check.name == CheckName::Quarantine).unwrap().passed);
}

#[test]
fn a_failure_takes_what_was_counted_on_credibility() {
    let mut world = World::new();
    world.start_run();
    for round in 0..7 {
        world.log(Commits { run: RUN, round, attempt: 0, count: 4, commits: hash(3) });
        for worker in 0..4 {
            world.log(UpdateAccepted { audited: round < 5, ..update(round, worker, worker) });
        }
        world.log(aggregate(round));
    }
    let covers = |world: &World, n| -> Vec<Cover> {
        world.state.runs()[&RUN].contributions[&key(n)].iter().map(|one| one.cover).collect()
    };
    assert_eq!(covers(&world, 31)[4..], [Cover::Passed, Cover::Credible, Cover::Credible]);
    world.log(Audit { run: RUN, round: 6, worker: 0, volunteer: key(31), verdict: AuditVerdict::Failed });
    assert_eq!(covers(&world, 31)[4..], [Cover::Passed, Cover::Bare, Cover::Failed]);
    assert_eq!(covers(&world, 32)[4..], [Cover::Passed, Cover::Credible, Cover::Credible]);
    // The second replay clears it: the last verdict counts, and credibility has to be earned again.
    world.log(Audit { run: RUN, round: 6, worker: 0, volunteer: key(31), verdict: AuditVerdict::Passed });
    assert_eq!(covers(&world, 31)[4..], [Cover::Passed, Cover::Bare, Cover::Passed]);
    let credit = world.state.credit(key(31)).expect("it contributed");
    assert_eq!((credit.audits_passed, credit.audits_failed, credit.streak), (6, 0, 1));
}

#[test]
fn aggregates_hold_what_was_accepted() {
    let mut world = World::new();
    world.start_run();
    assert!(matches!(world.refused(aggregate(0)), Refused::Commits { .. }));
    world.log(Commits { run: RUN, round: 0, attempt: 1, count: 4, commits: hash(3) });
    assert!(matches!(world.refused(update(0, 0, 0)), Refused::Attempt { current: 1, found: 0, .. }));
    assert!(matches!(world.refused(aggregate(0)), Refused::Update { .. }));
    for worker in 0..4 {
        world.log(UpdateAccepted { attempt: 1, ..update(0, worker, worker) });
    }
    assert!(matches!(
        world.refused(UpdateAccepted { attempt: 1, ..update(0, 3, 3) }),
        Refused::WorkerTwice { .. }
    ));
    assert!(matches!(
        world.refused(Aggregate { parameters: hash(1), ..aggregate(0) }),
        Refused::Chain { .. }
    ));
    let mut twice = aggregate(0);
    twice.updates[1] = twice.updates[0].clone();
    assert!(matches!(world.refused(twice), Refused::Update { .. }));
    world.log(aggregate(0));
    assert!(matches!(world.refused(aggregate(0)), Refused::Round { .. }));
    assert!(matches!(
        world.refused(Candidate { parameters: hash(1), ..candidate(0) }),
        Refused::Unfit { .. }
    ));
    assert!(matches!(world.refused(candidate(1)), Refused::Unfit { .. }));
}

#[test]
fn runs_pause_by_themselves() {
    let cause = |world: &World| match &world.state.paused(RUN, world.now)?.cause {
        Cause::Automatic { trigger, .. } => Some(*trigger),
        _ => None,
    };
    let started = || {
        let mut world = World::new();
        world.start_run();
        world.round(0, 4_000_000);
        world
    };
    // A rise of exactly 5 % does not, and of more does.
    let mut world = started();
    world.round(1, 4_200_000);
    assert_eq!(cause(&world), None);
    world.round(2, 4_410_001);
    assert_eq!(cause(&world), Some(Trigger::LossRise));
    assert!(matches!(world.refused(aggregate(3)), Refused::Paused { .. }));
    world.now += 5 * SECOND;
    assert_eq!(cause(&world), None, "a pause that nobody ratifies expires");
    let mut world = started();
    world.round_with(1, None, false, |worker| worker);
    assert_eq!(cause(&world), Some(Trigger::NonFinite));
    // Two of four in one cluster are more than a third.
    let mut world = started();
    world.round_with(1, None, true, |worker| worker.min(2));
    assert_eq!(cause(&world), Some(Trigger::ClusterShare));
    // One failed audit of five workers.
    let mut world = started();
    world.log(UpdateRejected {
        run: RUN,
        round: 1,
        attempt: 0,
        worker: 7,
        volunteer: key(60),
        update: hash(1),
        audited: true,
        reason: "replay differs".to_owned(),
    });
    world.round(1, 4_000_000);
    assert_eq!(cause(&world), Some(Trigger::AuditFailures));
}

#[test]
fn oversized_and_uncanonical_entries() {
    let text = String::from_utf8(Entry::new(5, result(1)).encode().unwrap()).unwrap();
    let wrong = |text: &str| Entry::decode(text.as_bytes()).unwrap_err();
    assert!(matches!(Entry::decode(&vec![b' '; MAX_ENTRY_BYTES + 1]), Err(FormError::TooLong { .. })));
    assert!(matches!(wrong(&text.replace("\"v\":1", "\"v\":2")), FormError::Beginning { .. }));
    assert!(matches!(wrong(&text.replace("\"at_ms\":5", "\"at_ms\":05")), FormError::Beginning { .. }));
    assert!(matches!(wrong(&text.replace("result_accepted", "result_doubted")), FormError::Kind { .. }));
    assert!(matches!(wrong(&text.replace('}', ",\"more\":1}")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":16384", ":1.5")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":16384", ":9007199254740992")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace("0101", "010A")), FormError::Json { .. }));
    let spaced = text.replace(":16384", ": 16384");
    let position = text.find("16384").unwrap();
    assert!(matches!(wrong(&spaced), FormError::NotCanonical { position: p, .. } if p == position));
    assert!(matches!(wrong(&text.replace("freivalds", "\\u0066reivalds")), FormError::NotCanonical { .. }));
    assert!(matches!(wrong(&text.replace("freivalds", "\u{202e}x")), FormError::Text { .. }));
    // The largest aggregate fits, and one more update does not.
    let mut largest = Aggregate {
        round: MAX_ROUNDS,
        checkpoint: Some(hash(1)),
        loss: Some(MicroNats(-MAX_INTEGER.cast_signed())),
        ..aggregate(1)
    };
    largest.updates =
        vec![AggregatedUpdate { weight_ppm: 1_000_000, ..largest.updates[0].clone() }; MAX_UPDATES];
    assert!(Entry::new(MAX_INTEGER, largest.clone()).encode().unwrap().len() < MAX_ENTRY_BYTES);
    largest.updates.push(largest.updates[0].clone());
    assert!(matches!(Entry::new(0, largest).encode(), Err(FormError::Number { .. })));
    let mut statement = World::new().sign(1, Pause { scope: Scope::All, reason: "x".to_owned() });
    statement.body = "\u{1}".repeat(MAX_STATEMENT_BYTES);
    assert!(matches!(Entry::new(0, statement).encode(), Err(FormError::TooLong { .. })));
}

#[test]
fn shares_are_exact_and_constitutions_sane() {
    assert!(Share::new(2, 3).reached(2, 3) && !Share::new(2, 3).reached(4, 7));
    assert!(!Share::new(1, 3).exceeded(1, 3) && Share::new(1, 3).exceeded(333_334, 1_000_000));
    assert_eq!(Constitution::default().validate(), Ok(()));
    let mut free = Constitution::default();
    free.rules.promote.yes = Share::new(0, 1);
    assert!(free.validate().is_err());
    let mut nothing = Constitution::default();
    nothing.pause.cluster.den = 0;
    assert!(nothing.validate().is_err());
}

#[test]
fn a_log_may_begin_with_nobody_in_office_and_is_founded_once() {
    let mut world = World::new();
    let founding = Founding { constitution: constitution(), roles: roles() };
    assert!(matches!(world.refused(founding.clone()), Refused::Founded));

    world.state = State::new();
    world.log.clear();
    let genesis =
        Genesis { origin: ORIGIN.to_owned(), constitution: Constitution::default(), roles: Roles::nobody() };
    world.log(genesis);
    // Work goes on; nothing is decided.
    world.log(Job { job: JOB, name: String::new(), spec: hash(8), submitter: None });
    let pause = Pause { scope: Scope::All, reason: "?".to_owned() };
    assert!(matches!(world.say_refused(1, pause.clone()), Refused::UnknownKey { .. }));
    let nobody = Founding { constitution: constitution(), roles: Roles::nobody() };
    world.refused(nobody);
    world.log(founding.clone());
    assert_eq!(world.state.roles(), &roles());
    assert!(matches!(world.refused(founding), Refused::Founded));
    world.say(1, pause);
}

#[test]
fn data_sets_of_models_are_approved_others_are_only_named() {
    let mut world = World::new();
    let set = DataSet {
        id: "poems".to_owned(),
        name: "poems".to_owned(),
        manifest: hash(0x44),
        tokens: 9,
        source: "a shelf".to_owned(),
        license: "public domain".to_owned(),
        proposed_by: None,
        proposal: None,
    };
    world.log(set.clone());
    let run = Run {
        run: JobId([0xcc; 16]),
        name: String::new(),
        request: hash(0x45),
        checkpoint: hash(1),
        parameters: hash(2),
        data_sets: vec!["poems".to_owned()],
        model: Some("small".to_owned()),
        proposal: None,
    };
    let refused = world.refused(run.clone());
    let expected = Missing::Proposal { kind: ProposalKind::DataSet };
    assert!(matches!(&refused, Refused::Unjustified(missing) if *missing == expected), "{refused}");
    world.log(Run { model: None, ..run });
    assert!(matches!(world.refused(set.clone()), Refused::Twice { .. }));
    let other = DataSet { tokens: 10, proposal: Some(hash(1)), ..set };
    assert!(matches!(world.refused(other), Refused::Twice { .. }));
}
