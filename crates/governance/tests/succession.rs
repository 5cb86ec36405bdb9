//! Mirrors and successions: who may take over the log, who did, and what is refused on the way.

mod common;
use common::*;
use potluck_governance::constitution::{Rules, Share};
use potluck_governance::entry::*;
use potluck_governance::gate::Missing;
use potluck_governance::limits::*;
use potluck_governance::mirrors::Mirrors;
use potluck_governance::state::Outcome;
use potluck_governance::statement::*;
use potluck_governance::*;
use potluck_types::BlobHash;

/// The constitution's and a whole genesis' hash from before there were mirrors.
const OLD_CONSTITUTION: &str = "55ac81b10775983191a977ff60315d7d1a629ca7f4ada8194f2ad9ef68612eb7";
const OLD_GENESIS: &str = "e91db020e29346efbc88ad252afaf7ba61491bde2dd8c0c5ba56768f7c79e492";

/// A log that lists the mirrors 61 and 62.
fn mirrored() -> World {
    let mut world = World::new();
    list(&mut world, mirrors());
    world
}

fn list(world: &mut World, document: Mirrors) -> u64 {
    let proposal = world.pass_votes(ProposalKind::Mirrors, "mirrors", document.hash());
    world.log(NewMirrors { proposal, mirrors: document.mirrors })
}

/// All votes on a mirror, and what it would log then. All of it comes after the last checkpoint of the relay before.
fn voted(world: &mut World, n: u8) -> Succession {
    let from = world.log.len() as u64;
    let proposal = world.pass_votes(ProposalKind::Succession, &mirror(n).name, mirror(n).hash());
    Succession { proposal, mirror: key(n), from, root: hash(0x74) }
}

#[test]
fn a_mirror_takes_over_and_another_after_it() {
    // Nobody is in office; then people are; then they list mirrors.
    let mut world = World::new();
    world.state = State::new();
    world.log.clear();
    let nobody = Roles::nobody();
    world.log(Genesis { origin: ORIGIN.to_owned(), constitution: constitution(), roles: nobody });
    world.log(Founding { constitution: constitution(), roles: roles() });
    assert!(world.state.mirrors().is_empty());
    let listed = list(&mut world, mirrors());
    assert_eq!(world.state.mirrors(), mirrors().mirrors);
    assert_eq!(world.state.decisions()[&listed].kind, ProposalKind::Mirrors);
    world.log(EpochCommitted { incarnation: 1, commitment: commitment(&[7; 32]) });
    assert_eq!((world.state.signer(), world.state.successions().len()), (None, 0));

    // The relay dies. The mirror takes in what people sign, all of it after the last checkpoint, and takes over.
    let first = voted(&mut world, 61);
    let from = first.from;
    let index = world.log(first.clone());
    assert!(index > from);
    assert_eq!(world.state.signer(), Some(key(61)));
    let found = &world.state.successions()[0];
    assert_eq!((found.index, found.at_ms, found.from), (index, world.now, from));
    assert_eq!((found.root, &found.mirror, found.proposal), (hash(0x74), &mirror(61), first.proposal));
    assert_eq!(world.state.proposals()[&first.proposal].applied, Some(index));
    let decision = &world.state.decisions()[&index];
    assert_eq!((decision.kind, decision.subject.as_str()), (ProposalKind::Succession, "Mirror 61"));
    assert_eq!(decision.deciders.iter().collect::<Vec<_>>(), ["ada", "bo"]);

    // It goes on with epochs of its own. What was not opened stays so.
    let epoch = |incarnation| EpochCommitted { incarnation, commitment: hash(1) };
    assert!(matches!(world.refused(epoch(1)), Refused::Epoch { .. }));
    world.log(epoch(2));
    // The new signer cannot take over from itself, by the old vote or another.
    let again = Succession { from: world.log.len() as u64, ..first.clone() };
    assert!(matches!(world.refused(again), Refused::Unfit { .. }));
    let propose = world.proposal(ProposalKind::Succession, "Mirror 61", mirror(61).hash());
    assert!(matches!(world.say_refused(1, propose), Refused::Unfit { .. }));

    // The second mirror follows, voted in while the first still logs; then the first again, by a vote of its own.
    let second = voted(&mut world, 62);
    world.log(Job { job: JOB, name: String::new(), spec: hash(8), submitter: None });
    let second = Succession { from: world.log.len() as u64, ..second };
    assert_eq!(world.log(second.clone()), second.from);
    assert_eq!(world.state.signer(), Some(key(62)));
    let used = Succession { from: world.log.len() as u64, ..first };
    assert!(matches!(world.refused(used), Refused::Unjustified(Missing::Used { .. })));
    let third = voted(&mut world, 61);
    world.log(third);
    assert_eq!(world.state.signer(), Some(key(61)));
    let keys: Vec<_> = world.state.successions().iter().map(|found| found.mirror.key).collect();
    assert_eq!(keys, [key(61), key(62), key(61)]);
    // It signs on when the list is empty.
    list(&mut world, Mirrors::default());
    assert_eq!((world.state.mirrors().len(), world.state.signer()), (0, Some(key(61))));

    // An auditor reads it all, finds the same, and is told what to look at beside it.
    let mut checker = Checker::new();
    for entry in &world.log {
        checker.read(entry);
    }
    let report = checker.report();
    assert!(report.clean(), "{:?}", report.errors);
    assert_eq!((report.kinds["mirrors"], report.kinds["succession"]), (2, 3));
    assert!(report.unchecked.contains(&check::Unchecked::Successions { count: 3 }));
    assert!(report.unchecked.contains(&check::Unchecked::Epoch { incarnation: 1 }));
    assert_eq!(checker.state(), &world.state);
}

#[test]
fn only_statements_stand_between_the_last_checkpoint_and_a_succession() {
    let mut world = mirrored();
    let good = voted(&mut world, 61);
    // What people sign of other things does no harm.
    let pause = world.say(3, Pause { scope: Scope::All, reason: "The relay is gone.".to_owned() });
    let index = world.log.len() as u64;
    for from in [good.from, index - 1, index] {
        let mut world = world.clone();
        world.log(Succession { from, ..good.clone() });
    }
    let before = Succession { from: good.from - 1, ..good.clone() };
    let fact = good.from - 1;
    let refused = world.refused(before);
    assert_eq!(refused, Refused::NotOnlyStatements { from: fact, fact });
    let beyond = Succession { from: index + 1, ..good.clone() };
    assert_eq!(world.refused(beyond), Refused::BeyondLog { from: index + 1, index });
    assert!(matches!(world.refused(Succession { from: 0, ..good.clone() }), Refused::Form(_)));
    // Another fact, and only checkpoints after it will do.
    let fact = world.log(Job { job: JOB, name: String::new(), spec: hash(8), submitter: None });
    world.say(1, Resume { pause });
    for from in [good.from, fact] {
        let refused = world.refused(Succession { from, ..good.clone() });
        assert_eq!(refused, Refused::NotOnlyStatements { from, fact });
    }
    world.log(Succession { from: fact + 1, ..good });
}

#[test]
fn what_cannot_be_read_is_no_statement() {
    let mut world = mirrored();
    let good = voted(&mut world, 61);
    let read = |log: &[Vec<u8>], succession: &Succession| {
        let mut checker = Checker::new();
        for entry in log {
            checker.read(entry);
        }
        checker.read(b"noise");
        checker.read(&Entry::new(world.now, succession.clone()).encode().unwrap());
        (checker.report().error_count, checker.state().signer())
    };
    assert_eq!(read(&world.log, &good), (2, None));
    let after = Succession { from: world.log.len() as u64 + 1, ..good };
    assert_eq!(read(&world.log, &after), (1, Some(key(61))));
}

#[test]
fn only_a_listed_mirror_that_was_voted_for_takes_over() {
    let mut world = mirrored();
    // Proposals have to name a mirror as it is listed.
    let mut moved = mirror(61);
    moved.url = "https://elsewhere.example".to_owned();
    for (subject, body) in [
        ("Mirror 63", mirror(63).hash()),
        ("mirror 61", mirror(61).hash()),
        ("Mirror 61", mirror(62).hash()),
        ("Mirror 61", moved.hash()),
    ] {
        let propose = world.proposal(ProposalKind::Succession, subject, body);
        assert!(matches!(world.say_refused(1, propose), Refused::Unfit { .. }), "{subject}");
    }
    // No vote, a vote that goes on, one that failed, and one of another kind.
    let from = world.log.len() as u64;
    let succession = |proposal| Succession { proposal, mirror: key(61), from, root: hash(1) };
    assert!(matches!(
        world.refused(succession(hash(77))),
        Refused::Unjustified(Missing::Proposal { kind: ProposalKind::Succession })
    ));
    let proposal = world.propose(1, ProposalKind::Succession, "Mirror 61", mirror(61).hash());
    world.vote(1, proposal, Ballot::Yes);
    assert!(matches!(world.refused(succession(proposal)), Refused::Unjustified(Missing::Discussion { .. })));
    world.now += SECOND;
    assert!(matches!(world.refused(succession(proposal)), Refused::Unjustified(Missing::Votes(_))));
    let other = world.pass_votes(ProposalKind::Mirrors, "no mirrors", Mirrors::default().hash());
    assert!(matches!(world.refused(succession(other)), Refused::Unjustified(Missing::OtherProposal { .. })));
    // A vote on one mirror is none on another, and a stranger is not listed.
    let good = voted(&mut world, 61);
    let swapped = Succession { mirror: key(62), ..good.clone() };
    assert!(matches!(world.refused(swapped), Refused::Unjustified(Missing::OtherProposal { .. })));
    let stranger = Succession { mirror: key(63), ..good.clone() };
    assert!(matches!(world.refused(stranger), Refused::Unfit { .. }));
    // Listed with another url since the vote, or not any more.
    let mut changed = world.clone();
    let from = list(&mut changed, Mirrors { mirrors: vec![moved, mirror(62)] }) + 1;
    let late = Succession { from, ..good.clone() };
    assert!(matches!(changed.refused(late), Refused::Unjustified(Missing::OtherProposal { .. })));
    let mut dropped = world.clone();
    dropped.log(NewMirrors { proposal: other, mirrors: Vec::new() });
    let late = Succession { from: dropped.log.len() as u64, ..good.clone() };
    assert!(matches!(dropped.refused(late), Refused::Unfit { .. }));
    world.log(good);
}

#[test]
fn a_vote_on_who_follows_one_relay_is_none_on_the_next() {
    let mut world = mirrored();
    let unused = voted(&mut world, 61);
    let taken = voted(&mut world, 62);
    world.log(taken);
    let late = Succession { from: world.log.len() as u64, ..unused };
    assert!(matches!(world.refused(late), Refused::Unjustified(Missing::OtherRelay { .. })));
    let again = voted(&mut world, 61);
    world.log(again);
}

#[test]
fn lists_of_mirrors_need_their_own_proposal() {
    let mut world = World::new();
    let proposal = world.pass_votes(ProposalKind::Mirrors, "two mirrors", mirrors().hash());
    let new = |mirrors| NewMirrors { proposal, mirrors };
    let other = new(vec![mirror(61), mirror(63)]);
    assert!(matches!(world.refused(other), Refused::Unjustified(Missing::OtherProposal { .. })));
    for change in [
        |mirror: &mut Mirror| mirror.url.push('/'),
        |mirror: &mut Mirror| mirror.key = key(62),
        |mirror: &mut Mirror| mirror.name = "MIRROR 62".to_owned(),
    ] {
        let mut wrong = mirrors().mirrors;
        change(&mut wrong[0]);
        assert!(matches!(world.refused(new(wrong)), Refused::Form(FormError::Text { .. })));
    }
    let many = (0..=MAX_MIRRORS as u8).map(mirror).collect();
    assert!(matches!(world.refused(new(many)), Refused::Form(FormError::Number { .. })));
    world.log(new(mirrors().mirrors));
    assert!(matches!(world.refused(new(mirrors().mirrors)), Refused::Unjustified(Missing::Used { .. })));
    // The largest list fits an entry, and what a page needs of it a header.
    let long = |n: u8| Mirror {
        name: format!("{n:02}{}", "\"".repeat(MAX_NAME_BYTES - 2)),
        url: format!("https://{n:02}{}", "a".repeat(MAX_URL_BYTES - 10)),
        key: key(n),
    };
    let largest = NewMirrors { proposal: hash(1), mirrors: (0..MAX_MIRRORS as u8).map(long).collect() };
    let bytes = Entry::new(MAX_INTEGER, largest.clone()).encode().unwrap();
    assert!(bytes.len() < 17_900, "{}", bytes.len());
    assert_eq!(Entry::decode(&bytes).unwrap().body, largest.into());
}

#[test]
fn canonical_texts() {
    let entry = Entry::new(5, NewMirrors { proposal: hash(1), mirrors: mirrors().mirrors });
    let text = String::from_utf8(entry.encode().unwrap()).unwrap();
    assert_eq!(Entry::decode(text.as_bytes()), Ok(entry));
    let wrong = |text: &str| Entry::decode(text.as_bytes()).unwrap_err();
    assert!(matches!(
        wrong(&text.replace("\"mirrors\":[", "\"mirrors\": [")),
        FormError::NotCanonical { .. }
    ));
    assert!(matches!(wrong(&text.replace("\"url\"", "\"more\":1,\"url\"")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":8443", ":08443")), FormError::Text { field: "url", .. }));
    let entry = Entry::new(5, Succession { proposal: hash(1), mirror: key(61), from: 7, root: hash(2) });
    let text = String::from_utf8(entry.encode().unwrap()).unwrap();
    assert_eq!(Entry::decode(text.as_bytes()), Ok(entry));
    assert!(matches!(wrong(&text.replace(":7,", ":7.0,")), FormError::Json { .. }));
    assert!(matches!(wrong(&text.replace(":7,", ":9007199254740992,")), FormError::Json { .. }));
    let mut world = mirrored();
    for (kind, word) in [(ProposalKind::Mirrors, "mirrors"), (ProposalKind::Succession, "succession")] {
        let propose = world.proposal(kind, "x", hash(1));
        let signed = world.sign(1, propose.clone());
        assert!(signed.body.contains(&format!(r#""proposal":"{word}""#)));
        assert_eq!(Statement::parse(&signed.body).unwrap().said, propose.into());
        assert_eq!(kind.to_string(), word);
    }
    // A document's hash is that of its canonical text.
    let text = format!(r#"{{"name":"Mirror 61","url":"https://m61.example:8443","key":"{}"}}"#, key(61));
    assert_eq!(mirror(61).hash(), BlobHash::of(text.as_bytes()));
    let one = Mirrors { mirrors: vec![mirror(61)] };
    assert_eq!(one.hash(), BlobHash::of(format!(r#"{{"mirrors":[{text}]}}"#).as_bytes()));
}

#[test]
fn logs_from_before_there_were_mirrors_stay_as_they_are() {
    let usual = Constitution::default();
    assert_eq!(usual.hash().to_string(), OLD_CONSTITUTION);
    let rules =
        Rules { mirrors: usual.rules.mirrors, succession: usual.rules.succession, ..constitution().rules };
    let old = Constitution { rules, ..constitution() };
    let genesis = Genesis { origin: ORIGIN.to_owned(), constitution: old.clone(), roles: roles() };
    let text = Entry::new(1_000_000, genesis).encode().unwrap();
    assert_eq!(BlobHash::of(&text).to_string(), OLD_GENESIS);
    // The rules hold although they stand nowhere, and to write them out would be another text.
    let mut state = State::new();
    state.apply(0, &Entry::decode(&text).unwrap()).unwrap();
    assert_eq!(state.constitution(), &old);
    let written = String::from_utf8(text.clone()).unwrap();
    assert!(!written.contains("succession"));
    let rule = r#"{"discussion_ms":7200000,"yes":{"num":2,"den":3},"more":false,"of":"all","quorum":{"num":0,"den":1},"advice":false}"#;
    let spelled = written.replace(r#"},"seconds":"#, &format!(r#","succession":{rule}}},"seconds":"#));
    assert_ne!(spelled, written);
    let wrong = Entry::decode(spelled.as_bytes());
    assert!(matches!(wrong, Err(FormError::NotCanonical { .. })), "{wrong:?}");
    let spelled = spelled.replace("7200000", "7200001");
    let entry = Entry::decode(spelled.as_bytes()).unwrap();
    assert_eq!(entry.encode().unwrap(), spelled.as_bytes());
    // One that differs is written, and examined like the others.
    let mut strict = usual.clone();
    strict.rules.succession.yes = Share::new(1, 1);
    assert_ne!(strict.hash(), usual.hash());
    strict.rules.succession.yes = Share::new(0, 1);
    assert!(strict.validate().is_err());
}

#[test]
fn a_succession_passes_by_its_own_rule() {
    let mut constitution = constitution();
    constitution.rules.succession.yes = Share::new(1, 1);
    let mut world = World::with(constitution);
    list(&mut world, mirrors());
    let succession = voted(&mut world, 61);
    assert!(matches!(world.refused(succession), Refused::Unjustified(Missing::Votes(_))));
    let from = world.log.len() as u64;
    let proposal = world.propose(3, ProposalKind::Succession, "Mirror 61", mirror(61).hash());
    for n in 1..4 {
        world.vote(n, proposal, Ballot::Yes);
    }
    world.now += SECOND;
    assert!(matches!(world.state.outcome(&proposal, world.now), Some(Outcome::Passed(_))));
    world.log(Succession { proposal, mirror: key(61), from, root: hash(1) });
}
