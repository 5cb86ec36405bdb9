//! Witnesses of a relay's log: cosignatures appear below checkpoints and in receipts, and a relay whose key signed two
//! histories is found out, says so in its own log, and gets no more work done.

use potluck_cli::error::{CliError, Exit};
use potluck_ledger::{
    AddCheckpoint, Checkpoint, ForkEvidence, KeyKind, Note, SignedCheckpoint, SignerKey, TreeHash, TreeHead,
    VerifierKey, Witness,
};
use potluck_proto::Preset;
use potluck_relay::LogConfig;
use potluck_tests::council::Council;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Answer, Api, TestRelay, Volunteer, copy, wait_until};
use potluck_types::{MatmulShape, VolunteerKey};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_command");
const LIMIT: Duration = Duration::from_secs(120);
const SHAPE: MatmulShape = MatmulShape { m: 256, k: 64, n: 256 };

fn submit(api: &Api, seed: u64) -> (String, LowRank) {
    let known = LowRank::new(SHAPE, seed);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let job = api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({}));
    (job, known)
}

fn compute(api: &Api, seed: u64) {
    let (job, known) = submit(api, seed);
    assert!(api.result(&job, LIMIT).1 == known.c, "the product is wrong");
}

fn compute_with_one(api: &Api, seed: u64) {
    let volunteer = Volunteer::start(&api.url, 9, Preset::Full);
    compute(api, seed);
    drop(volunteer);
}

fn log(api: &Api) -> Value {
    api.get("/api/v1/log").json()
}

fn size(api: &Api) -> u64 {
    log(api)["entries"].as_u64().unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn post(api: &Api, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    api.with_authorization(None).send("POST", path, &headers, body.to_string().as_bytes())
}

fn report(api: &Api, evidence: &str) -> Answer {
    api.with_authorization(None).send("POST", "/api/v1/log/forks", &[], evidence.as_bytes())
}

/// The key with which a relay signs its log.
fn signer(relay: &TestRelay) -> SignerKey {
    let text = std::fs::read_to_string(relay.data().join("relay.key")).unwrap();
    let seed: VolunteerKey = text.trim().parse().unwrap();
    SignerKey::from_seed(log(&relay.api)["origin"].as_str().unwrap(), KeyKind::Ed25519, &seed.0).unwrap()
}

/// Two checkpoints that contradict each other, signed by a key.
fn forked(key: &SignerKey, size: u64) -> String {
    let origin = key.verifier().name();
    let [one, other] = [b"one", b"two"].map(|entry| {
        let head = TreeHead { size, root: TreeHash::leaf(entry) };
        let mut note = Checkpoint::new(origin, head).unwrap().to_note();
        note.sign(key).unwrap();
        SignedCheckpoint::from_note(note, origin, key.verifier()).unwrap()
    });
    ForkEvidence::same_size(&one, &other).unwrap().to_string()
}

#[test]
fn a_fork_is_logged_once_and_everything_pauses_until_people_looked_at_it() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let council = Council::new(PROGRAM, api);
    let mut rules = potluck_governance::Constitution::hasty(2_000);
    (rules.skew_ms, rules.pause.expires_ms) = (60_000, 600_000);
    council.found(&rules);
    let key = signer(&relay);
    let other = SignerKey::from_seed(key.verifier().name(), KeyKind::Ed25519, &[8; 32]).unwrap();
    for (evidence, says) in [("garbage".to_owned(), "not evidence"), (forked(&other, 5), "did not sign")] {
        let answer = report(api, &evidence);
        assert_eq!((answer.status, answer.text("code").as_str()), (422, "no_fork"), "{}", answer.json());
        assert!(answer.text("message").contains(says), "{}", answer.json());
    }
    let long = "x".repeat(potluck_ledger::MAX_EVIDENCE_BYTES + 1);
    assert_eq!(report(api, &long).status, 413);

    let first = report(api, &forked(&key, 5));
    assert_eq!(first.status, 201, "{}", first.json());
    let index = first.json()["index"].clone();
    for size in [5, 6] {
        let again = report(api, &forked(&key, size));
        assert_eq!((again.status, &again.json()["index"]), (200, &index), "it pauses already");
    }
    let volunteer = Volunteer::start(&api.url, 1, Preset::Full);
    let (job, known) = submit(api, 1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((api.job(&job)["progress"]["accepted"].as_u64(), api.metric("leases")), (Some(0), 0));
    let pause = api.get("/api/v1/governance").json()["pauses"][0].clone();
    assert_eq!((&pause["id"], &pause["scope"]), (&index, &json!("all")), "{pause}");
    assert_eq!(pause["barred"], json!(["Olu"]), "who runs the relay does not end it");
    for name in ["Ada", "Bo"] {
        council.sign(name, &["resume", &index.to_string()]).unwrap();
    }
    assert!(api.result(&job, LIMIT).1 == known.c);
    // People looked at this one; another one is another.
    assert_eq!(report(api, &forked(&key, 5)).status, 200);
    assert_eq!(api.get("/api/v1/governance").json()["pauses"], json!([]));
    assert_eq!(report(api, &forked(&key, 6)).status, 201);
    drop(volunteer);
}

/// The checkpoints that a folder remembers: how many entries the largest has.
fn remembered(folder: &Path) -> u64 {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let notes = folders.filter_map(|entry| std::fs::read_to_string(entry.path().join("checkpoint")).ok());
    notes.filter_map(|note| note.lines().nth(1)?.parse().ok()).max().unwrap_or(0)
}

fn evidence_in(folder: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files = folders.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
    files.find(|file| file.file_name().to_string_lossy().starts_with("fork-")).map(|file| file.path())
}

#[test]
fn a_volunteer_leaves_a_relay_that_shows_another_history() {
    // Its records are replaced by older ones.
    let mut relay = TestRelay::start_in_files();
    let api = relay.api.clone();
    let scratch = tempfile::tempdir().unwrap();
    let (backup, remember) = (scratch.path().join("backup"), scratch.path().join("logs"));
    compute_with_one(&api, 1);
    relay.restart_after(|data| copy(data, &backup));
    let before = size(&api);
    let volunteer = Volunteer::watching(&api.url, 1, &remember);
    compute(&api, 2);
    compute(&api, 3);
    // Published a moment after they are computed: two jobs with a result each, more than a start of the relay logs.
    wait_until("the jobs are in the log", LIMIT, || size(&api) >= before + 4);
    wait_until("the volunteer has seen the log", LIMIT, || remembered(&remember) >= size(&api));
    volunteer.end();
    let seen = remembered(&remember);
    assert_eq!(evidence_in(&remember), None, "an honest log is no fork");
    relay.restart_after(|data| {
        std::fs::remove_dir_all(data.join("log")).unwrap();
        for name in ["potluck.db", "potluck.db-wal", "potluck.db-shm"] {
            drop(std::fs::remove_file(data.join(name)));
        }
        copy(&backup, data);
    });
    // A log that is shorter than it was: no proof, and no reason to work for it.
    assert!(size(&api) < seen);
    let error = Volunteer::watching(&api.url, 1, &remember).wait(LIMIT).unwrap_err();
    assert!(
        matches!(error, CliError::Forked { .. })
            && error.to_string().contains(&format!("had {seen} entries")),
        "{error}"
    );
    assert_eq!((error.exit(), evidence_in(&remember)), (Exit::Forked, None));
    // Another history that is longer: two signatures that contradict each other.
    let mut seed = 10;
    while size(&api) <= seen {
        compute_with_one(&api, seed);
        seed += 1;
    }
    let error = Volunteer::watching(&api.url, 1, &remember).wait(LIMIT).unwrap_err();
    assert!(matches!(error, CliError::Forked { .. }) && error.to_string().contains("was forked"), "{error}");
    assert_eq!(error.exit(), Exit::Forked);
    let kept = std::fs::read(evidence_in(&remember).expect("evidence")).unwrap();
    let key: VerifierKey = log(&api)["key"].as_str().unwrap().parse().unwrap();
    let (older, newer) = ForkEvidence::parse(&kept).unwrap().verify(key.name(), &key).unwrap();
    assert!(older.head().size == seen && newer.head().size > seen);
    // The relay heard of it: nobody else works on either.
    let pauses = api.get("/api/v1/governance").json()["pauses"].clone();
    assert_eq!(pauses[0]["scope"], "all", "{pauses}");
}

#[test]
fn cosignatures_stand_below_checkpoints_and_in_receipts() {
    let witness = SignerKey::from_seed("example.org/witness", KeyKind::CosignatureV1, &[3; 32]).unwrap();
    let stranger = SignerKey::from_seed("example.org/stranger", KeyKind::CosignatureV1, &[4; 32]).unwrap();
    let named = witness.verifier().to_string();
    let mut relay = TestRelay::start_with(LogConfig {
        witnesses: vec![named.clone()],
        quorum: 1,
        ..LogConfig::default()
    });
    let api = relay.api.clone();
    wait_until("the log is published", LIMIT, || size(&api) >= 2);
    let told = log(&api);
    assert_eq!(
        (&told["witnesses"], &told["quorum"], &told["cosigned"]),
        (&json!([named]), &json!(1), &Value::Null)
    );
    let key: VerifierKey = told["key"].as_str().unwrap().parse().unwrap();

    let scratch = tempfile::tempdir().unwrap();
    let receipt = scratch.path().join("receipt").to_string_lossy().into_owned();
    let council = Council::new(PROGRAM, &api);
    let verify = |witnesses: &[&SignerKey]| {
        council.run(&["receipt", "fetch", "0", "--out", &receipt, "--relay", &api.url]).unwrap();
        let log_key = key.to_string();
        let mut line = vec!["receipt", "verify", &receipt, "--key", &log_key, "--json"];
        let keys: Vec<String> = witnesses.iter().map(|witness| witness.verifier().to_string()).collect();
        line.extend(keys.iter().flat_map(|key| ["--witness", key]));
        council.run(&line)
    };
    assert!(verify(&[&witness]).unwrap_err().contains("0 of the witnesses signed; 1 are needed"));

    // As a witness does: from what it knows to what the log says, and its signature under that.
    let offered = AddCheckpoint::parse(&api.get("/api/v1/log/since/0").body).unwrap();
    let mut knows = Witness::new(key.name(), key.clone());
    let accepted = knows.offer(offered.note.to_string().as_bytes(), &offered.proof, now_s()).unwrap();
    let lines = |by: &SignerKey| {
        let mut note = Note::new(accepted.checkpoint.note().text()).unwrap();
        note.cosign(by, accepted.timestamp_s).unwrap();
        format!("{}\n", note.signatures()[0])
    };
    let at = accepted.checkpoint.head().size;
    let send = |size: u64, lines: String| {
        post(&api, "/api/v1/log/cosignatures", &json!({ "size": size, "lines": lines }))
    };
    let refused = send(at, lines(&stranger));
    assert_eq!((refused.status, refused.text("code").as_str()), (422, "no_witness"), "{}", refused.json());
    assert_eq!(send(at + 1000, lines(&witness)).text("code"), "unknown_checkpoint");
    let taken = send(at, lines(&witness));
    assert_eq!((taken.status, &taken.json()["quorum_met"]), (201, &json!(true)), "{}", taken.json());
    let cosigned = log(&api)["cosigned"].as_str().unwrap().to_owned();
    assert!(cosigned.contains("example.org/witness"));
    assert_eq!(String::from_utf8(api.get("/log/cosigned").body).unwrap(), cosigned);
    let verified: Value = serde_json::from_str(&verify(&[&witness]).unwrap()).unwrap();
    assert_eq!(verified["cosigned"], json!(["example.org/witness"]));
    assert!(verify(&[&stranger]).is_err());
    // It goes on, and the last checkpoint that was cosigned still stands under receipts of what it holds.
    compute_with_one(&api, 1);
    wait_until("the log is published", LIMIT, || size(&api) > at + 1);
    verify(&[&witness]).unwrap();
    relay.restart();
    assert_eq!(log(&api)["cosigned"], cosigned.as_str());
    verify(&[&witness]).unwrap();
}

#[test]
fn volunteers_with_accepted_work_cosign() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let scratch = tempfile::tempdir().unwrap();
    // Somebody without work here is no witness, whatever it signs.
    let seed = VolunteerKey([7; 32]);
    let whose = potluck_governance::Key(seed.id().0);
    let name = potluck_governance::witness_name(&whose);
    let own = potluck_governance::witness_seed(&seed.0);
    let key = SignerKey::from_seed(&name, KeyKind::CosignatureV1, &own).unwrap();
    wait_until("the log is published", LIMIT, || size(api) >= 2);
    let origin = log(api)["origin"].as_str().unwrap().to_owned();
    let text = potluck_governance::witness_text(&origin, &key.verifier().to_string());
    let send = |signature: [u8; 64]| {
        let offered = AddCheckpoint::parse(&api.get("/api/v1/log/since/0").body).unwrap();
        let mut note = Note::new(offered.note.text()).unwrap();
        note.cosign(&key, now_s()).unwrap();
        let size: u64 = offered.note.text().lines().nth(1).unwrap().parse().unwrap();
        let signature = potluck_governance::Signature(signature).to_string();
        let volunteer = json!({ "key": key.verifier().to_string(), "volunteer": whose.to_string(), "signature": signature });
        let lines = format!("{}\n", note.signatures()[0]);
        post(
            api,
            "/api/v1/log/cosignatures",
            &json!({ "size": size, "lines": lines, "volunteer": volunteer }),
        )
    };
    assert!(send(seed.sign(text.as_bytes())).text("message").contains("no work of"));
    assert!(send(seed.sign(b"something else")).text("message").contains("did not sign"));

    let volunteer = Volunteer::watching(&api.url, 7, scratch.path());
    compute(api, 1);
    let cosigned = || log(api)["cosigned"].as_str().map(str::to_owned);
    wait_until("the volunteer cosigns", LIMIT, || cosigned().is_some_and(|note| note.contains(&name)));
    assert!(remembered(scratch.path()) > 0);
    volunteer.end();
}
