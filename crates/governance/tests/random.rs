//! Random logs: nothing panics, what is refused changes nothing, and replicas that read the same log agree.

mod common;
use common::*;
use potluck_governance::entry::*;
use potluck_governance::gate::{gate, promotion_ready};
use potluck_governance::model::{model_page, timeline};
use potluck_governance::statement::*;
use potluck_governance::*;
use potluck_types::BlobHash;
use proptest::prelude::*;

/// A step of a random log: what to log, with small numbers that pick who and what.
#[derive(Debug, Clone)]
struct Step {
    what: u8,
    who: u8,
    a: u8,
    b: u8,
    wait_ms: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        (0_u8..37, 0_u8..12, 0_u8..6, 0_u8..4, prop_oneof![3 => Just(0), 2 => 1_u16..300, 1 => Just(1000)])
            .prop_map(|(what, who, a, b, wait_ms)| Step { what, who, a, b, wait_ms });
    proptest::collection::vec(step, 0..160)
}

/// Stewards, auditors, an operator, volunteers with and without credit, strangers, and a key that follows another.
const WHO: [u8; 12] = [1, 2, 3, 11, 12, 21, 31, 32, 40, 99, 50, 4];

fn body(world: &mut World, proposals: &[BlobHash], step: &Step) -> Body {
    let who = WHO[usize::from(step.who)];
    let (a, b) = (step.a, step.b);
    let latest = proposals.len().checked_sub(1 + usize::from(a / 2));
    let proposal = latest.map_or(hash(0x70), |place| proposals[place]);
    let ballot = [Ballot::Yes, Ballot::Yes, Ballot::No, Ballot::Abstain][usize::from(b)];
    let (round, worker) = (2 + u64::from(a / 2), u32::from(b));
    let candidate_hash = parameters(round);
    let small = || "small".to_owned();
    let reason = || "because".to_owned();
    let pause = world.log.len().saturating_sub(usize::from(a) + 1) as u64;
    match step.what {
        0 => result(who).into(),
        1 => Commits { run: RUN, round, attempt: u32::from(b / 3), count: 4, commits: hash(3) }.into(),
        2 | 3 => UpdateAccepted { audited: step.what == 2, ..update(round, worker, worker) }.into(),
        4 => UpdateRejected {
            run: RUN,
            round,
            attempt: 0,
            worker,
            volunteer: key(31 + b),
            update: hash(1),
            audited: a.is_multiple_of(2),
            reason: reason(),
        }
        .into(),
        5 => {
            let verdict = if who < 3 { AuditVerdict::Failed } else { AuditVerdict::Passed };
            Audit { run: RUN, round, worker, volunteer: key(31 + b), verdict }.into()
        }
        6 | 7 => {
            let mut entry = aggregate(round);
            entry.updates.truncate(usize::from(b) + 1);
            entry.loss = (who > 3).then(|| MicroNats(i64::from(who) * 100_000));
            entry.finite = who != 99;
            entry.into()
        }
        8 => candidate(round).into(),
        9 => card(candidate_hash, (b == 0).then(|| parameters(0))).into(),
        10 => {
            let body = world.state.proposals().get(&proposal).map_or(candidate_hash, |found| found.body);
            Promotion { previous: None, ..world.promotion(body, proposal) }.into()
        }
        11 => Rollback { model: small(), to: candidate_hash, proposal }.into(),
        12 => NewRoles { proposal, roles: roles() }.into(),
        13 => Amendment { proposal, constitution: constitution() }.into(),
        14 => Incident {
            trigger: if b == 0 && a == 0 { Trigger::Fork } else { Trigger::Other },
            run: None,
            operator: Some(key(21)),
            detail: reason(),
        }
        .into(),
        15 => EpochOpened { incarnation: u32::from(a), secret: hash(b) }.into(),
        16 => EpochCommitted { incarnation: u32::from(a), commitment: commitment(&[b; 32]) }.into(),
        what => {
            let said: Said = match what {
                17 => {
                    let (kind, body) = match b {
                        0 => (ProposalKind::Promote, candidate_hash),
                        1 => (ProposalKind::Roles, roles().hash()),
                        2 => (ProposalKind::Constitution, constitution().hash()),
                        _ => (ProposalKind::RollBack, candidate_hash),
                    };
                    world.proposal(kind, "small", body).into()
                }
                18 | 19 => Vote { proposal, vote: ballot, reason: None }.into(),
                20 => Attest { subject: candidate_hash, reproduces: b > 0 }.into(),
                21 => {
                    SignOff { candidate: candidate_hash, card: BlobHash::of(&candidate_hash.0), note: None }
                        .into()
                }
                22 => Advise { proposal, vote: ballot }.into(),
                23 => Second { proposal }.into(),
                24 if a < 3 => Second { proposal }.into(),
                24 => Pause { scope: if b == 0 { Scope::All } else { Scope::Run(RUN) }, reason: reason() }
                    .into(),
                25 if b < 2 => RatifyPause { pause }.into(),
                25 => Resume { pause }.into(),
                26 if b == 0 => {
                    let text = rotation_text(ORIGIN, &key(who), &key(50));
                    Rotate { new_key: key(50), proof: Signature::sign(&secret(50), text.as_bytes()) }.into()
                }
                26 if b == 1 => Revoke { revoked: key(WHO[usize::from(a)]), reason: reason() }.into(),
                26 => {
                    Quarantine { target: Target::Volunteer(key(31)), lift: b == 3, reason: reason() }.into()
                }
                _ => Appeal { decision: pause, reason: reason() }.into(),
            };
            world.sign(who, said).into()
        }
    }
}

/// What a step logs: one thing that somebody tries, or what several people do who agree.
fn bodies(world: &mut World, proposals: &[BlobHash], step: &Step) -> Vec<Body> {
    let latest = proposals.last().copied().unwrap_or(hash(0x70));
    let round = world.state.runs()[&RUN].rounds.len() as u64;
    let about = world.state.proposals().get(&latest).map_or(parameters(2), |found| found.body);
    match step.what {
        28 | 29 => {
            let mut all: Vec<Body> =
                vec![Commits { run: RUN, round, attempt: 1, count: 4, commits: hash(3) }.into()];
            all.extend(
                (0..4).map(|worker| UpdateAccepted { attempt: 1, ..update(round, worker, worker) }.into()),
            );
            all.push(Aggregate { loss: Some(MicroNats(3_000_000)), ..aggregate(round) }.into());
            all
        }
        30 => {
            let propose =
                world.proposal(ProposalKind::Promote, "small", parameters(2 + u64::from(step.a / 2)));
            vec![world.sign(1, propose).into()]
        }
        31 | 32 => [1, 2, 3]
            .map(|n| world.sign(n, Vote { proposal: latest, vote: Ballot::Yes, reason: None }).into())
            .into(),
        33 => {
            let sign = SignOff { candidate: about, card: BlobHash::of(&about.0), note: None };
            let attest = Attest { subject: about, reproduces: true };
            let mut all = vec![card(about, None).into()];
            all.extend([11, 12].map(|n| world.sign(n, attest.clone()).into()));
            all.extend([2, 11].map(|n| world.sign(n, sign.clone()).into()));
            all
        }
        34 => vec![world.promotion(about, latest).into()],
        // A mirror is proposed, or the list; then whatever the last proposal is about takes effect.
        35 => {
            let to = mirror(61 + step.a % 2);
            let propose = match step.b {
                0..3 => world.proposal(ProposalKind::Succession, &to.name, to.hash()),
                _ => world.proposal(ProposalKind::Mirrors, "two mirrors", mirrors().hash()),
            };
            vec![world.sign(1, propose).into()]
        }
        36 => {
            let from = (world.log.len() as u64 + 1).saturating_sub(u64::from(step.b));
            let mirror = key(61 + step.a % 2);
            vec![
                NewMirrors { proposal: latest, mirrors: mirrors().mirrors }.into(),
                Succession { proposal: latest, mirror, from, root: hash(1) }.into(),
            ]
        }
        _ => vec![body(world, proposals, step)],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn refused_entries_change_nothing_and_replicas_agree(steps in steps()) {
        let mut world = start();
        let mut proposals = Vec::new();
        for step in &steps {
            world.now += u64::from(step.wait_ms);
            for body in bodies(&mut world, &proposals, step) {
            let entry = Entry::new(world.now, body);
            let before = world.state.clone();
            let index = world.log.len() as u64;
            let checked = world.state.check(&entry);
            let applied = world.state.apply(index, &entry);
            prop_assert_eq!(&checked, &applied);
            if applied.is_err() {
                prop_assert_eq!(&world.state, &before);
                continue;
            }
            world.log.push(entry.encode().unwrap());
            if let Body::Signed(signed) = &entry.body
                && world.state.proposals().contains_key(&signed.id())
            {
                proposals.push(signed.id());
            }
            for candidate in world.state.candidates().keys() {
                let _ = (gate(&world.state, candidate), promotion_ready(&world.state, candidate, world.now));
            }
            for proposal in &proposals {
                prop_assert!(timeline(&world.state, proposal, world.now).is_some());
            }
            }
            prop_assert!(model_page(&world.state, "small", world.now).is_some());
        }
        let mut checker = Checker::new();
        for bytes in &world.log {
            checker.read(bytes);
        }
        prop_assert!(checker.report().clean(), "{:?}", checker.report().errors);
        prop_assert_eq!(checker.state(), &world.state);
    }

    #[test]
    fn bytes_from_strangers_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..400, with in any::<u8>()) {
        let _ = Entry::decode(&bytes);
        let _ = Statement::parse(&String::from_utf8_lossy(&bytes));
        // A changed byte of a good entry is another good entry or none, and never the same one.
        let good = Entry::new(1_700_000_000_000, result(1));
        let mut text = good.encode().unwrap();
        let at = at % text.len();
        if text[at] != with {
            text[at] = with;
            prop_assert_ne!(Entry::decode(&text).ok(), Some(good));
        }
    }
}

/// Two mirrors, and a run under way with a first candidate.
fn start() -> World {
    let mut world = World::new();
    world.credit(31..33);
    let proposal = world.pass_votes(ProposalKind::Mirrors, "two mirrors", mirrors().hash());
    world.log(NewMirrors { proposal, mirrors: mirrors().mirrors });
    world.candidate();
    world
}

/// The log of a model that was promoted twice, paused and rolled back, and of a mirror that took over.
fn long() -> World {
    let mut world = start();
    for round in [2, 5] {
        let proposal = world.all_but("nothing", parameters(round)).expect("a proposal");
        let promotion = world.promotion(parameters(round), proposal);
        world.log(promotion);
        if round == 2 {
            for round in 3..6 {
                world.round(round, 2_400_000);
            }
            world.log(candidate(5));
        }
    }
    let pause = world.say(3, Pause { scope: Scope::All, reason: "Wait.".to_owned() });
    world.say(1, Resume { pause });
    world.say(2, Resume { pause });
    let proposal = world.pass(ProposalKind::RollBack, "small", parameters(2));
    world.log(Rollback { model: "small".to_owned(), to: parameters(2), proposal });
    let from = world.log.len() as u64;
    let proposal = world.pass_votes(ProposalKind::Succession, "Mirror 61", mirror(61).hash());
    world.log(Succession { proposal, mirror: key(61), from, root: hash(1) });
    world
}

/// What somebody does to a log: leaves an entry out, doubles it, swaps it with the next, or changes a byte.
fn tampered(log: &[Vec<u8>], acts: &[(u8, prop::sample::Index, prop::sample::Index, u8)]) -> Vec<Vec<u8>> {
    let mut log = log.to_vec();
    for (act, at, byte, with) in acts {
        let at = at.index(log.len());
        match act {
            0 => drop(log.remove(at)),
            1 => log.insert(at, log[at].clone()),
            2 if at + 1 < log.len() => log.swap(at, at + 1),
            _ => {
                let byte = byte.index(log[at].len());
                log[at][byte] = *with;
            }
        }
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tampered_logs_are_read_alike_by_all(
        acts in proptest::collection::vec(
            (0_u8..4, any::<prop::sample::Index>(), any::<prop::sample::Index>(), b' '..b'~'), 1..4)
    ) {
        let log = tampered(&long().log, &acts);
        let mut state = State::new();
        let (mut one, mut two) = (Checker::new(), Checker::new());
        let mut index = 0;
        for bytes in &log {
            one.read(bytes);
            two.read(bytes);
            // A relay that skips what is refused stays as it was each time.
            if let Ok(entry) = Entry::decode(bytes) {
                let before = state.clone();
                if state.apply(index, &entry).is_ok() {
                    index += 1;
                } else {
                    prop_assert_eq!(&state, &before);
                }
                let _ = model_page(&state, "small", state.now_ms());
            }
        }
        prop_assert_eq!(one.state(), two.state());
        prop_assert_eq!(one.report(), two.report());
    }
}
