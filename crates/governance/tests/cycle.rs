//! The whole way of a model: genesis, run, rounds, candidate, card, votes, promotion, pause, resume, rollback, appeal.

mod common;
use common::*;
use potluck_governance::entry::*;
use potluck_governance::gate::{gate, promotion_ready};
use potluck_governance::model::{model_page, timeline};
use potluck_governance::state::Outcome;
use potluck_governance::statement::*;
use potluck_governance::*;

#[test]
fn a_model_is_promoted_paused_resumed_and_rolled_back() {
    let mut world = World::new();
    let first = world.candidate();
    let proposal = world.all_but("nothing", first).unwrap();
    let checks = gate(&world.state, &first);
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    assert_eq!(promotion_ready(&world.state, &first, world.now), Ok(()));
    let promoted = world.log(world.promotion(first, proposal));

    // A second version, from the same run.
    for round in 3..6 {
        world.round(round, 2_400_000);
    }
    world.log(candidate(5));
    let second = parameters(5);
    let proposal = world.all_but("nothing", second).unwrap();
    world.log(world.promotion(second, proposal));
    assert_eq!(world.state.models()["small"].current().unwrap().candidate, second);

    // A later card changes nothing of what was read before the vote.
    world.log(Card { card: hash(66), ..card(second, Some(first)) });

    // A steward pauses; a majority resumes.
    let pause =
        world.say(3, Pause { scope: Scope::Model("small".to_owned()), reason: "Odd output.".to_owned() });
    assert_eq!(world.state.paused(RUN, world.now).map(|pause| pause.id), Some(pause));
    world.say(1, Resume { pause });
    assert!(world.state.paused(RUN, world.now).is_some());
    world.say(2, Resume { pause });
    assert!(world.state.paused(RUN, world.now).is_none());

    // A rollback by the same votes; nothing leaves the record.
    let proposal = world.pass(ProposalKind::RollBack, "small", first);
    world.log(Rollback { model: "small".to_owned(), to: first, proposal });
    let page = model_page(&world.state, "small", world.now).unwrap();
    assert_eq!((page.current, page.versions.len(), page.changes.len()), (Some(first), 2, 3));
    assert!(page.versions[0].in_use && !page.versions[1].in_use);
    let version = &page.versions[1];
    assert_eq!(version.rollback_target, Some(first));
    assert_eq!(version.dissent[0].name, "Cy");
    assert_eq!(version.approvals.iter().map(|voice| voice.name.as_str()).collect::<Vec<_>>(), ["Ada", "Bo"]);
    assert_eq!((version.signed_off.len(), version.lineage.signed_off.len()), (2, 0));
    assert_eq!(version.signed_off[0].reason.as_deref(), Some("Reads well."));
    assert_eq!(version.dissent[0].reason.as_deref(), Some("Too early."));
    assert_eq!(version.lineage.contributors.len(), 4);
    assert_eq!(version.lineage.contributors[0].sum.rounds, 6);
    assert_eq!(version.lineage.contributors[0].share_ppm, 250_000);
    assert_eq!(version.lineage.rounds, Some((0, 5)));
    assert_eq!(page.versions[0].lineage.contributors[0].sum.rounds, 3);
    assert_eq!(version.lineage.reproduced_by, ["Mia", "Ned"]);
    let line = timeline(&world.state, &version.proposal, world.now).unwrap();
    assert!(matches!(line.outcome, Outcome::Passed(_)));
    assert_eq!(line.events.len(), 3 + 3 + 2 + 2 + 1);

    // An auditor reads it all and finds the same.
    let mut checker = Checker::new();
    for bytes in &world.log {
        checker.read(bytes);
    }
    let report = checker.report();
    assert!(report.clean(), "{:?}", report.errors);
    assert_eq!(report.entries, world.log.len() as u64);
    assert_eq!(checker.state(), &world.state);
    assert!(promoted < report.entries);
    // Without the second vote for the second version, its promotion is found out.
    let bad = world.log.iter().position(|bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.contains(r#"\"kind\":\"vote\""#) && text.contains(r#"\"vote\":\"yes\""#)
    });
    let mut checker = Checker::new();
    for (i, bytes) in world.log.iter().enumerate() {
        if Some(i) != bad {
            checker.read(bytes);
        }
    }
    assert!(!checker.report().clean());
}

#[test]
fn an_upheld_appeal_takes_a_promotion_back() {
    let mut world = World::new();
    let first = world.candidate();
    let proposal = world.all_but("nothing", first).unwrap();
    world.log(world.promotion(first, proposal));
    for round in 3..6 {
        world.round(round, 2_400_000);
    }
    world.log(candidate(5));
    let second = parameters(5);
    let proposal = world.all_but("nothing", second).unwrap();
    let decision = world.log(world.promotion(second, proposal));
    // All stewards voted and both auditors attested: nobody is left to judge.
    let appeal = Appeal { decision, reason: "The probes were too few.".to_owned() };
    assert!(matches!(world.say_refused(31, appeal.clone()), Refused::Unfit { .. }));
    // The roles change: Dee follows Cy, and had no part in it.
    let mut roles = roles();
    roles.stewards[2] = roles::Person { name: "Dee".to_owned(), key: key(4) };
    roles.operators.pop();
    let proposal = world.propose(1, ProposalKind::Roles, "Dee for Cy", roles.hash());
    for n in 1..4 {
        world.vote(n, proposal, Ballot::Yes);
    }
    world.now += SECOND;
    world.log(NewRoles { proposal, roles });
    let signed = world.sign(31, appeal);
    let id = signed.id();
    world.log(signed);
    assert!(matches!(
        world.say_refused(1, Vote { proposal: id, vote: Ballot::No, reason: None }),
        Refused::NotOnPanel { .. }
    ));
    world.vote(4, id, Ballot::Yes);
    world.now += SECOND;
    world.log(Rollback { model: "small".to_owned(), to: first, proposal: id });
    assert_eq!(world.state.models()["small"].current().unwrap().candidate, first);
}

#[test]
fn parameters_change_within_bounds_and_rules_by_three_to_one() {
    let mut world = World::new();
    let change = |value| constitution::ParameterChange { name: "audit_rate_ppm".to_owned(), value };
    let proposal = world.propose(1, ProposalKind::Parameter, "audit_rate_ppm", change(100_000).hash());
    // One of three is under the quorum of half; an abstention makes it.
    world.vote(1, proposal, Ballot::Yes);
    assert!(
        matches!(world.state.outcome(&proposal, world.now + SECOND), Some(Outcome::Failed(t)) if !t.quorum_met)
    );
    world.vote(2, proposal, Ballot::Abstain);
    world.now += SECOND;
    let set = |value| ParameterSet { proposal, name: "audit_rate_ppm".to_owned(), value };
    assert!(matches!(world.refused(set(900_000)), Refused::Unfit { .. }));
    assert!(matches!(world.refused(set(100_001)), Refused::Unjustified(_)));
    world.log(set(100_000));
    assert!(matches!(world.refused(set(100_000)), Refused::Unjustified(gate::Missing::Used { .. })));
    assert_eq!(world.state.constitution().parameters[0].value, 100_000);

    // Of three stewards, two are no three to one.
    let mut new = world.state.constitution().clone();
    new.seconds = 3;
    let proposal = world.pass(ProposalKind::Constitution, "fewer seconds", new.hash());
    assert!(matches!(
        world.refused(Amendment { proposal, constitution: new.clone() }),
        Refused::Unjustified(gate::Missing::Votes(_))
    ));
    // All three are, unless volunteers advise against it by more than 2:1.
    world.credit(40..44);
    for against in [2, 3] {
        let proposal = world.propose(1, ProposalKind::Constitution, "fewer seconds", new.hash());
        for n in 1..4 {
            world.vote(n, proposal, Ballot::Yes);
        }
        world.say(40, Advise { proposal, vote: Ballot::Yes });
        for n in 41..41 + against {
            world.say(n, Advise { proposal, vote: Ballot::No });
        }
        assert!(matches!(
            world.say_refused(45, Advise { proposal, vote: Ballot::No }),
            Refused::UnknownKey { .. }
        ));
        world.now += SECOND;
        let outcome = world.state.outcome(&proposal, world.now);
        assert_eq!(matches!(outcome, Some(Outcome::Passed(_))), against == 2, "{outcome:?}");
        if against == 2 {
            world.log(Amendment { proposal, constitution: new.clone() });
        }
    }
    assert_eq!(world.state.constitution().seconds, 3);
}

#[test]
fn a_volunteer_proposes_with_the_seconds_of_others() {
    let mut world = World::new();
    world.credit(40..46);
    let proposal = world.propose(40, ProposalKind::Kernel, "faster matmul", hash(9));
    let vote = Vote { proposal, vote: Ballot::Yes, reason: None };
    assert!(matches!(world.say_refused(1, vote.clone()), Refused::Unseconded { have: 0, need: 5 }));
    assert!(matches!(world.say_refused(40, Second { proposal }), Refused::IdleSecond { .. }));
    let second = world.proposal(ProposalKind::Kernel, "another", hash(10));
    assert!(matches!(world.say_refused(40, second), Refused::TooManyProposals { limit: 1, .. }));
    for n in 41..46 {
        world.say(n, Second { proposal });
    }
    world.say(1, vote);
    world.vote(2, proposal, Ballot::Yes);
    world.now += SECOND;
    let kernel = Kernel { name: "faster matmul".to_owned(), hash: hash(9), proposal: Some(proposal) };
    assert!(matches!(
        world.refused(kernel.clone()),
        Refused::Unjustified(gate::Missing::Attestations { have: 0, need: 1 })
    ));
    world.say(12, Attest { subject: hash(9), reproduces: true });
    world.log(kernel);
    assert_eq!(world.state.kernels().len(), 1);
}
