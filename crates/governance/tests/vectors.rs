//! Golden texts: every kind of entry and statement, byte for byte. A change breaks every log that was ever signed.
//!
//! After a deliberate change, write the files anew with `POTLUCK_BLESS=1 cargo test -p potluck-governance` and read the
//! difference.

mod common;
use common::*;
use potluck_governance::constitution::Rules;
use potluck_governance::entry::*;
use potluck_governance::statement::*;
use potluck_governance::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// As it was before there were mirrors: their two rules are the default, and stand in no text.
fn older() -> Constitution {
    let (usual, hasty) = (Constitution::default().rules, constitution());
    let rules = Rules { mirrors: usual.mirrors, succession: usual.succession, ..hasty.rules };
    Constitution { rules, ..hasty }
}

fn said() -> Vec<Said> {
    let (proposal, reason) = (hash(0x70), || "It says \"why\".\nTwice.".to_owned());
    let proof = Signature::sign(&secret(50), rotation_text(ORIGIN, &key(1), &key(50)).as_bytes());
    vec![
        Propose {
            proposal: ProposalKind::Promote,
            subject: "small".to_owned(),
            body: hash(0x71),
            diff: Some("- old\n+ new".to_owned()),
            rationale: "Best so far, says the café.".to_owned(),
            opens: 1_700_000_000_000,
            closes: 1_700_172_800_000,
        }
        .into(),
        Vote { proposal, vote: Ballot::No, reason: Some(reason()) }.into(),
        Attest { subject: hash(0x71), reproduces: true }.into(),
        SignOff { candidate: hash(0x71), card: hash(0x72), note: None }.into(),
        Advise { proposal, vote: Ballot::Abstain }.into(),
        Second { proposal }.into(),
        Pause { scope: Scope::Run(RUN), reason: reason() }.into(),
        RatifyPause { pause: 17 }.into(),
        Resume { pause: 17 }.into(),
        Rotate { new_key: key(50), proof }.into(),
        Revoke { revoked: key(2), reason: reason() }.into(),
        Quarantine { target: Target::Volunteer(key(31)), lift: false, reason: reason() }.into(),
        Appeal { decision: 12, reason: reason() }.into(),
    ]
}

fn entries() -> Vec<Body> {
    let proposal = Some(hash(0x70));
    let vote =
        Statement { origin: ORIGIN.to_owned(), seq: 7, at_ms: 1_700_000_000_000, said: said()[1].clone() };
    vec![
        Genesis { origin: ORIGIN.to_owned(), constitution: older(), roles: roles() }.into(),
        Founding { constitution: older(), roles: roles() }.into(),
        EpochCommitted { incarnation: 3, commitment: commitment(&[7; 32]) }.into(),
        EpochOpened { incarnation: 3, secret: hash(7) }.into(),
        Job { job: JOB, name: "product".to_owned(), spec: hash(8), submitter: Some(key(40)) }.into(),
        run(proposal).into(),
        DataSet {
            id: "plays".to_owned(),
            name: "38 plays".to_owned(),
            manifest: hash(1),
            tokens: 5_400_000,
            source: "a library".to_owned(),
            license: "public domain".to_owned(),
            proposed_by: None,
            proposal,
        }
        .into(),
        Kernel { name: "matmul".to_owned(), hash: hash(9), proposal }.into(),
        Commits { run: RUN, round: 1, attempt: 0, count: 4, commits: hash(3) }.into(),
        result(31).into(),
        ResultRejected {
            volunteer: key(31),
            job: JOB,
            shard: "0-64x0-64".to_owned(),
            result: hash(31),
            bytes: 16_384,
            check: "freivalds".to_owned(),
            reason: "row 7 is wrong".to_owned(),
        }
        .into(),
        update(1, 2, 5).into(),
        UpdateRejected {
            run: RUN,
            round: 1,
            attempt: 0,
            worker: 2,
            volunteer: key(33),
            update: hash(0x42),
            audited: true,
            reason: "the replay differs".to_owned(),
        }
        .into(),
        Audit { run: RUN, round: 1, worker: 2, volunteer: key(33), verdict: AuditVerdict::Passed }.into(),
        Aggregate { loss: Some(MicroNats(-5)), checkpoint: Some(hash(7)), ..aggregate(1) }.into(),
        Candidate { rebuilt_without: vec![Source(Target::DataSet("plays".to_owned()))], ..candidate(1) }
            .into(),
        card(hash(0x71), Some(hash(0x73))).into(),
        vote.sign(&secret(1)).expect("a good statement").into(),
        Promotion { model: "small".to_owned(), candidate: hash(0x71), proposal: hash(0x70), previous: None }
            .into(),
        Rollback { model: "small".to_owned(), to: hash(0x71), proposal: hash(0x70) }.into(),
        NewRoles { proposal: hash(0x70), roles: roles() }.into(),
        Amendment { proposal: hash(0x70), constitution: Constitution::default() }.into(),
        ParameterSet { proposal: hash(0x70), name: "audit_rate_ppm".to_owned(), value: -1 }.into(),
        Incident {
            trigger: Trigger::Fork,
            run: None,
            operator: Some(key(21)),
            detail: "two checkpoints".to_owned(),
        }
        .into(),
        NewMirrors { proposal: hash(0x70), mirrors: mirrors().mirrors }.into(),
        Succession { proposal: hash(0x70), mirror: key(61), from: 12, root: hash(0x74) }.into(),
    ]
}

fn golden(name: &str, text: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/v1").join(format!("{name}.json"));
    if std::env::var_os("POTLUCK_BLESS").is_some() {
        std::fs::write(&path, [text, b"\n"].concat()).expect("a folder for the golden texts");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(String::from_utf8_lossy(text), golden.trim_end_matches('\n'), "{name}");
}

#[test]
fn every_kind_has_its_golden_text() {
    let mut kinds = BTreeSet::new();
    for body in entries() {
        let entry = Entry::new(1_700_000_000_000, body);
        let text = entry.encode().unwrap();
        golden(&format!("entry-{}", entry.body.kind()), &text);
        assert_eq!(Entry::decode(&text), Ok(entry.clone()));
        kinds.insert(entry.body.kind());
    }
    assert_eq!(kinds, Body::KINDS.iter().copied().collect());
    let mut kinds = BTreeSet::new();
    for said in said() {
        let statement = Statement { origin: ORIGIN.to_owned(), seq: 7, at_ms: 1_700_000_000_000, said };
        let text = statement.text().unwrap();
        golden(&format!("statement-{}", statement.said.kind()), text.as_bytes());
        assert_eq!(Statement::parse(&text), Ok(statement.clone()));
        kinds.insert(statement.said.kind());
    }
    assert_eq!(kinds, Said::KINDS.iter().copied().collect());
    let rules = Amendment { proposal: hash(0x70), constitution: constitution() };
    golden("entry-amendment-mirrors", &Entry::new(1_700_000_000_000, rules).encode().unwrap());
    golden("rotation", rotation_text(ORIGIN, &key(1), &key(50)).as_bytes());
}
