//! Hostile acts: each is refused, with an error of its own, and changes nothing.

mod common;
use common::*;
use potluck_governance::entry::*;
use potluck_governance::gate::Missing;
use potluck_governance::limits::*;
use potluck_governance::roles::{Person, RolesError};
use potluck_governance::state::Outcome;
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
    let propose = Propose {
        opens: world.now + 500,
        closes: world.now + 2000,
        ..world.proposal(ProposalKind::Kernel, "k", hash(9))
    };
    let signed = world.sign(1, propose);
    let id = signed.id();
    world.log(signed);
    assert!(matches!(world.say_refused(1, yes(id)), Refused::NotOpen { .. }));
    world.now += 500;
    // Signed in time, logged too late.
    let signed = world.sign(2, yes(id));
    world.now += 1500;
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
    let refused = State::new().apply(0, &Entry::new(0, genesis));
    assert!(matches!(refused, Err(Refused::Roles(RolesError::Count { found: 2, .. }))));
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
    // Whoever holds the stolen key makes a new one of it, and is not rid of those who want it out of use.
    let mut fled = world.clone();
    let proof = Signature::sign(&secret(50), rotation_text(ORIGIN, &key(3), &key(50)).as_bytes());
    fled.say(3, Rotate { new_key: key(50), proof });
    fled.say(2, Revoke { revoked: key(50), reason: "Stolen.".to_owned() });
    assert!(matches!(fled.say_refused(50, yes(proposal)), Refused::RetiredKey { .. }));
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
    let back =
        Propose { opens: world.now - 900, closes: world.now + 100, ..world.proposal(kernel(), "k", hash(9)) };
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
    assert!(matches!(
        world.refused(EpochOpened { incarnation: 4, secret: hash(8) }),
        Refused::Unknown { .. }
    ));
    assert_eq!(world.state.unopened_epochs().map(|(epoch, _)| epoch).collect::<Vec<_>>(), [3]);
    world.log(EpochOpened { incarnation: 3, secret: hash(7) });
    assert_eq!(world.state.unopened_epochs().count(), 0);
}
