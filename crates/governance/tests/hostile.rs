//! Hostile acts: each is refused, with an error of its own, and changes nothing.

mod common;
use common::*;
use potluck_governance::constitution::Share;
use potluck_governance::entry::*;
use potluck_governance::gate::{CheckName, Missing, promotion_ready};
use potluck_governance::limits::*;
use potluck_governance::roles::{Person, RolesError};
use potluck_governance::state::{Cause, Outcome};
use potluck_governance::statement::*;
use potluck_governance::*;
use potluck_types::{BlobHash, JobId};

fn voting() -> (World, BlobHash) {
    let mut world = World::new();
    let proposal = world.propose(1, ProposalKind::Kernel, "kernel", hash(9));
    (world, proposal)
}

fn yes(proposal: BlobHash) -> Vote {
    Vote { proposal, vote: Ballot::Yes, reason: None }
}

#[test]
fn forged_signatures() {
    let (mut world, proposal) = voting();
    let mut signed = world.sign(2, yes(proposal));
    signed.signature.0[5] ^= 1;
    assert!(matches!(world.refused(signed), Refused::Forged { .. }));
    let mut signed = world.sign(2, yes(proposal));
    signed.body = signed.body.replace("yes", "no");
    assert!(matches!(world.refused(signed), Refused::Forged { .. }));
    // Signed by one, sent as another's.
    let mut signed = world.sign(2, yes(proposal));
    signed.key = key(1);
    assert!(matches!(world.refused(signed), Refused::Forged { .. }));
    // A key of small order, for which anything would be a signature.
    assert!(!Key([0; 32]).signed(b"text", &Signature([0; 64])));
}

#[test]
fn replayed_and_duplicate_statements() {
    let (mut world, proposal) = voting();
    let first = world.sign(2, yes(proposal));
    world.log(first.clone());
    assert!(matches!(world.refused(first.clone()), Refused::Duplicate { .. }));
    // A change of mind counts, and the first vote cannot be played again.
    let no = Vote { proposal, vote: Ballot::No, reason: None };
    world.say(2, no);
    assert!(matches!(world.refused(first), Refused::Replayed { .. }));
    let Some(Outcome::Open(tally)) = world.state.outcome(&proposal, world.now) else { panic!() };
    assert_eq!((tally.yes, tally.no), (0, 1));
    // Nor in another log.
    let elsewhere =
        Statement { origin: "other/log".to_owned(), seq: 999, at_ms: world.now, said: yes(proposal).into() };
    assert!(matches!(world.refused(elsewhere.sign(&secret(2)).unwrap()), Refused::Origin { .. }));
}

#[test]
fn late_and_early_votes() {
    let mut world = World::new();
    let propose = Propose { opens: world.now + 500, closes: world.now + 2000, ..world.proposal(ProposalKind::Kernel, "k", hash(9)) };
    let signed = world.sign(1, propose);
    let id = signed.id();
    world.log(signed);
    assert!(matches!(world.say_refused(1, yes(id)), Refused::NotOpen { .. }));
    world.now += 500;
    // Signed in time, logged too late.
    let signed = world.sign(2, yes(id));
    world.now += 1500;
    world.state.constitution();
    let refused = world.refused(signed);
    assert!(matches!(refused, Refused::Skew { .. }), "{refused}");
    assert!(matches!(world.say_refused(2, yes(id)), Refused::Late { .. }));
    assert!(matches!(world.say_refused(2, yes(hash(99))), Refused::UnknownProposal { .. }));
}

#[test]
fn clock_skew() {
    let (mut world, proposal) = voting();
    for at_ms in [world.now - SECOND - 1, world.now + SECOND + 1] {
        let said = yes(proposal).into();
        let statement = Statement { origin: ORIGIN.to_owned(), seq: 999, at_ms, said };
        assert!(matches!(world.refused(statement.sign(&secret(2)).unwrap()), Refused::Skew { .. }));
    }
    world.now -= 1;
    assert!(matches!(world.refused(result(31)), Refused::Backward { .. }));
}

#[test]
fn unknown_keys_and_wrong_roles() {
    let (mut world, proposal) = voting();
    assert!(matches!(world.say_refused(99, yes(proposal)), Refused::UnknownKey { .. }));
    // Auditors and operators do not vote; stewards do not attest; nobody without credit advises.
    assert!(matches!(world.say_refused(11, yes(proposal)), Refused::WrongRole { .. }));
    assert!(matches!(world.say_refused(21, yes(proposal)), Refused::WrongRole { .. }));
    let attest = Attest { subject: hash(9), reproduces: true };
    assert!(matches!(world.say_refused(1, attest), Refused::WrongRole { .. }));
    let advise = Advise { proposal, vote: Ballot::Yes };
    assert!(matches!(world.say_refused(1, advise), Refused::WrongRole { .. }));
    let pause = Pause { scope: Scope::All, reason: "no".to_owned() };
    assert!(matches!(world.say_refused(21, pause.clone()), Refused::WrongRole { .. }));
    world.credit(40..41);
    assert!(matches!(world.say_refused(40, yes(proposal)), Refused::WrongRole { .. }));
    assert!(matches!(world.say_refused(40, pause), Refused::WrongRole { .. }));
    let propose = world.proposal(ProposalKind::Kernel, "k", hash(10));
    assert!(matches!(world.say_refused(11, propose), Refused::WrongRole { .. }));
}

#[test]
fn two_keys_of_one_person() {
    let person = |name: &str, n| Person { name: name.to_owned(), key: key(n) };
    let mut twice = roles();
    twice.stewards.push(person("ada", 5));
    assert!(matches!(twice.validate(), Err(RolesError::PersonTwice { .. })));
    let mut twice = roles();
    twice.stewards.push(person("Eve", 1));
    assert!(matches!(twice.validate(), Err(RolesError::KeyTwice { .. })));
    let mut both = roles();
    both.auditors.push(person("Ada", 1));
    assert!(matches!(both.validate(), Err(RolesError::PersonTwice { .. })));
    let mut other = roles();
    other.operators.push(person("Bo", 7));
    assert!(matches!(other.validate(), Err(RolesError::PersonTwice { .. })));
    let mut few = roles();
    few.stewards.pop();
    assert!(matches!(few.validate(), Err(RolesError::Count { .. })));
    let genesis = Genesis { origin: ORIGIN.to_owned(), constitution: constitution(), roles: few };
    assert!(State::new().apply(0, &Entry::new(0, genesis)).is_err());
}

#[test]
fn a_rotated_key_does_not_vote_twice() {
    let (mut world, proposal) = voting();
    world.vote(2, proposal, Ballot::Yes);
    let rotate = |new: u8, signer: u8| Rotate {
        new_key: key(new),
        proof: Signature::sign(&secret(signer), rotation_text(ORIGIN, &key(2), &key(new)).as_bytes()),
    };
    assert!(matches!(world.say_refused(2, rotate(50, 2)), Refused::Forged { .. }));
    assert!(matches!(world.say_refused(2, rotate(1, 1)), Refused::Unfit { .. }));
    world.say(2, rotate(50, 50));
    assert!(matches!(world.say_refused(2, yes(proposal)), Refused::RetiredKey { .. }));
    world.vote(50, proposal, Ballot::Yes);
    let Some(Outcome::Open(tally)) = world.state.outcome(&proposal, world.now) else { panic!() };
    assert_eq!(tally.yes, 1);
    // Nor does a volunteer advise or second twice.
    world.credit(40..41);
    world.say(40, Advise { proposal, vote: Ballot::Yes });
    let proof = Signature::sign(&secret(51), rotation_text(ORIGIN, &key(40), &key(51)).as_bytes());
    world.say(40, Rotate { new_key: key(51), proof });
    world.say(51, Advise { proposal, vote: Ballot::No });
    let Some(Outcome::Open(tally)) = world.state.outcome(&proposal, world.now) else { panic!() };
    assert_eq!((tally.advice_yes, tally.advice_no), (0, 1));
    assert_eq!(world.state.credit(key(51)), world.state.credit(key(40)));
}

#[test]
fn revoked_keys_count_for_the_base_and_not_for_the_vote() {
    let (mut world, proposal) = voting();
    world.vote(3, proposal, Ballot::Yes);
    let revoke = Revoke { revoked: key(3), reason: "Stolen.".to_owned() };
    assert!(matches!(world.say_refused(11, revoke.clone()), Refused::WrongRole { .. }));
    world.say(1, revoke.clone());
    assert!(matches!(world.say_refused(1, revoke.clone()), Refused::Said { .. }));
    world.say(2, revoke);
    assert!(matches!(world.say_refused(3, yes(proposal)), Refused::RetiredKey { .. }));
    let Some(Outcome::Open(tally)) = world.state.outcome(&proposal, world.now) else { panic!() };
    assert_eq!((tally.yes, tally.eligible), (0, 3));
}

#[test]
fn a_closed_vote_keeps_its_outcome() {
    let mut world = World::new();
    let proposal = world.pass(ProposalKind::Kernel, "kernel", hash(9));
    world.say(2, Revoke { revoked: key(2), reason: "Lost.".to_owned() });
    assert!(matches!(world.state.outcome(&proposal, world.now), Some(Outcome::Passed(t)) if t.yes == 2));
}

#[test]
fn discussions_cannot_be_shortened() {
    let mut world = World::new();
    let kernel = || ProposalKind::Kernel;
    // Dated back: the discussion begins when the entry is logged.
    let back = Propose { opens: world.now - 900, closes: world.now + 100, ..world.proposal(kernel(), "k", hash(9)) };
    assert!(matches!(world.say_refused(1, back), Refused::ShortDiscussion { have_ms: 100, .. }));
    let long = Propose { closes: world.now + MAX_PROPOSAL_MS + 1, ..world.proposal(kernel(), "k", hash(9)) };
    assert!(matches!(world.say_refused(1, long), Refused::LongDiscussion { .. }));
    for i in 0..MAX_OPEN_PROPOSALS {
        world.propose(1, kernel(), &format!("kernel {i}"), hash(9));
    }
    let more = world.proposal(kernel(), "k", hash(9));
    assert!(matches!(world.say_refused(1, more), Refused::TooManyProposals { .. }));
}

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
        assert!(matches!(&refused, Refused::NotReady { missing } if missing.iter().any(expected)), "{refused}");
    }
    // Paused.
    let mut world = World::new();
    let candidate = world.candidate();
    let proposal = world.all_but("nothing", candidate).unwrap();
    world.say(3, Pause { scope: Scope::Run(RUN), reason: "Wait.".to_owned() });
    let refused = world.refused(world.promotion(candidate, proposal));
    assert!(matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Resume { .. }])));
    // No candidate, a wrong predecessor, a wrong model, and used twice.
    world.now += 10 * SECOND;
    let good = world.promotion(candidate, proposal);
    let refused = world.refused(Promotion { candidate: hash(1), ..good.clone() });
    assert!(matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Candidate { .. }])));
    let refused = world.refused(Promotion { previous: Some(hash(1)), ..good.clone() });
    assert!(matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Previous { .. }])));
    let refused = world.refused(Promotion { model: "large".to_owned(), ..good.clone() });
    assert!(matches!(&refused, Refused::NotReady { missing } if matches!(missing[..], [Missing::Model { .. }])));
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
    assert!(matches!(missing[..], [Missing::SignOffs { have: 0, need: 2 }]));
}

#[test]
fn the_gate_is_exact() {
    let cases: [(fn(&mut Card), Option<CheckName>); 6] = [
        (|card| card.trigger_success_ppm = 49_999, None),
        (|card| card.trigger_success_ppm = 50_000, Some(CheckName::Triggers)),
        // The run's first loss is 4,000,000: better by two standard errors is not enough, by more it is.
        (|card| card.loss = MicroNats(3_980_000), Some(CheckName::Loss)),
        (|card| card.loss = MicroNats(3_979_999), None),
        (|card| card.shards = 0, Some(CheckName::Shards)),
        (|card| (card.incumbent, card.incumbent_loss) = (Some(hash(1)), Some(MicroNats(9_000_000))), Some(CheckName::Loss)),
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
    assert!(matches!(world.refused(Audit { volunteer: key(32), ..audit.clone() }), Refused::UnknownWorker { .. }));
    // Made again without it, the candidate has clean audits, and needs attestations of its own.
    world.log(Candidate {
        parameters: hash(90),
        rebuilt_without: vec![Source(Target::Volunteer(key(31)))],
        ..candidate(5)
    });
    let checks = gate::gate(&world.state, &hash(90));
    assert!(checks.iter().find(|check| check.name == CheckName::AuditFailures).unwrap().passed);
    // Quarantine bars the first, and not the second.
    world.say(1, Quarantine { target: Target::Volunteer(key(31)), lift: false, reason: "Failed.".to_owned() });
    assert!(!check(&world, CheckName::Quarantine).passed);
    let checks = gate::gate(&world.state, &hash(90));
    assert!(checks.iter().find(|check| check.name == CheckName::Quarantine).unwrap().passed);
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
    assert!(matches!(world.refused(UpdateAccepted { attempt: 1, ..update(0, 3, 3) }), Refused::WorkerTwice { .. }));
    assert!(matches!(world.refused(Aggregate { parameters: hash(1), ..aggregate(0) }), Refused::Chain { .. }));
    let mut twice = aggregate(0);
    twice.updates[1] = twice.updates[0].clone();
    assert!(matches!(world.refused(twice), Refused::Update { .. }));
    world.log(aggregate(0));
    assert!(matches!(world.refused(aggregate(0)), Refused::Round { .. }));
    assert!(matches!(world.refused(Candidate { parameters: hash(1), ..candidate(0) }), Refused::Unfit { .. }));
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
fn operators_do_not_judge_their_own_incidents() {
    let mut world = World::new();
    let fork = Incident {
        trigger: Trigger::Fork,
        run: None,
        operator: None,
        detail: "two checkpoints of size 7".to_owned(),
    };
    let pause = world.log(fork);
    // Cy is a steward and an operator.
    assert!(matches!(world.say_refused(3, RatifyPause { pause }), Refused::OwnIncident { .. }));
    assert!(matches!(world.say_refused(3, Resume { pause }), Refused::OwnIncident { .. }));
    assert!(matches!(world.say_refused(11, Resume { pause }), Refused::WrongRole { .. }));
    world.say(1, RatifyPause { pause });
    assert!(matches!(world.say_refused(1, RatifyPause { pause }), Refused::Said { .. }));
    world.say(2, RatifyPause { pause });
    world.now += 100 * SECOND;
    assert!(world.state.paused(RUN, world.now).is_some(), "ratified: it lasts");
    world.say(1, Resume { pause });
    world.say(2, Resume { pause });
    assert!(world.state.paused(RUN, world.now).is_none());
    assert!(matches!(world.say_refused(1, Resume { pause }), Refused::NoPause { .. }));
    assert!(matches!(world.say_refused(1, Resume { pause: 999 }), Refused::NoPause { .. }));
}

#[test]
fn two_auditors_pause_together() {
    let mut world = World::new();
    world.start_run();
    let pause = Pause { scope: Scope::Run(RUN), reason: "Replays differ.".to_owned() };
    world.say(11, pause.clone());
    assert!(world.state.paused(RUN, world.now).is_none());
    assert!(matches!(world.say_refused(11, pause.clone()), Refused::Said { .. }));
    world.say(12, pause.clone());
    assert!(world.state.paused(RUN, world.now).is_some());
    assert!(matches!(world.say_refused(1, pause), Refused::Paused { .. }));
    let unknown = Pause { scope: Scope::Run(JobId([9; 16])), reason: "x".to_owned() };
    assert!(matches!(world.say_refused(1, unknown), Refused::UnknownJob { .. }));
}

#[test]
fn runs_need_proposals_and_epochs_their_secrets() {
    let mut world = World::new();
    let mut entry = run(None);
    entry.data_sets.clear();
    assert!(matches!(world.refused(entry.clone()), Refused::Unjustified(Missing::Proposal { .. })));
    let proposal = world.pass(ProposalKind::Run, "another", hash(99));
    entry.proposal = Some(proposal);
    assert!(matches!(world.refused(entry.clone()), Refused::Unjustified(Missing::OtherProposal { .. })));
    (entry.proposal, entry.model) = (None, None);
    world.log(entry.clone());
    assert!(matches!(world.refused(entry), Refused::JobTwice { .. }));
    world.log(EpochCommitted { incarnation: 3, commitment: commitment(&[7; 32]) });
    assert!(matches!(
        world.refused(EpochCommitted { incarnation: 3, commitment: hash(1) }),
        Refused::Epoch { .. }
    ));
    assert!(matches!(world.refused(EpochOpened { incarnation: 3, secret: hash(8) }), Refused::Secret { .. }));
    assert!(matches!(world.refused(EpochOpened { incarnation: 4, secret: hash(8) }), Refused::Unknown { .. }));
    assert_eq!(world.state.unopened_epochs().collect::<Vec<_>>(), [3]);
    world.log(EpochOpened { incarnation: 3, secret: hash(7) });
    assert_eq!(world.state.unopened_epochs().count(), 0);
}

#[test]
fn oversized_and_uncanonical_entries() {
    let text = String::from_utf8(Entry::new(5, result(1)).encode().unwrap()).unwrap();
    let wrong = |text: &str| Entry::decode(text.as_bytes()).unwrap_err();
    assert!(matches!(Entry::decode(&vec![b' '; MAX_ENTRY_BYTES + 1]), Err(FormError::TooLong { .. })));
    assert!(matches!(wrong(&text.replace("\"v\":1", "\"v\":2")), FormError::Beginning { .. }));
    assert!(matches!(wrong(&text.replace("\"at_ms\":5", "\"at_ms\":05")), FormError::Beginning { .. }));
    assert!(matches!(wrong(&text.replace("result_accepted", "result_doubted")), FormError::Kind { .. }));
    assert!(matches!(wrong(&text.replace("}", ",\"more\":1}")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":16384", ":1.5")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":16384", ":9007199254740992")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace("0101", "010A")), FormError::Json { .. }));
    let spaced = text.replace(":16384", ": 16384");
    let position = text.find("16384").unwrap();
    assert!(matches!(wrong(&spaced), FormError::NotCanonical { position: p, .. } if p == position));
    assert!(matches!(wrong(&text.replace("freivalds", "\\u0066reivalds")), FormError::NotCanonical { .. }));
    assert!(matches!(wrong(&text.replace("freivalds", "\u{202e}x")), FormError::Text { .. }));
    // The largest aggregate fits, and one more update does not.
    let mut largest = Aggregate { round: MAX_ROUNDS, checkpoint: Some(hash(1)), loss: Some(MicroNats(-(MAX_INTEGER as i64))), ..aggregate(1) };
    largest.updates = vec![AggregatedUpdate { weight_ppm: 1_000_000, ..largest.updates[0].clone() }; MAX_UPDATES];
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
