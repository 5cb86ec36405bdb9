//! The public log of a relay at work: it holds what was accepted, refused and trained, its audit passes with the relay gone
//! and fails at any changed byte, receipts are checked offline, and a relay that goes on from an old backup is found out.

use clap::Parser as _;
use potluck_cli::args::Cli;
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::runs::{SampleRun, info};
use potluck_tests::{Api, TestRelay, Volunteer, copy, wait_until};
use potluck_types::MatmulShape;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SHAPE: MatmulShape = MatmulShape { m: 512, k: 128, n: 512 };

fn compute(api: &Api, seed: u64) {
    let known = LowRank::new(SHAPE, seed);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let name = format!("product {seed}");
    let id = api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({ "name": name }));
    assert!(api.result(&id, LIMIT).1 == known.c, "the product is wrong");
}

/// Waits until all that is accepted is published; how many entries that are.
fn published(api: &Api, least: u64) -> u64 {
    let entries = || api.get("/api/v1/log").json()["entries"].as_u64().unwrap();
    wait_until("the log is published", LIMIT, || entries() >= least);
    entries()
}

fn potluck(line: &[&str]) -> Result<(), String> {
    let cli = Cli::try_parse_from(std::iter::once("potluck").chain(line.iter().copied())).unwrap();
    potluck_cli::run(&cli).map_err(|error| error.to_string())
}

fn audit(source: &str, remember: &Path) -> Result<(), String> {
    potluck(&["audit", source, "--remember", remember.to_str().unwrap(), "--json"])
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut all: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

#[test]
fn a_log_holds_what_was_done_and_its_audit_fails_at_any_changed_byte() {
    let relay = TestRelay::start();
    let api = relay.api.clone();
    let volunteers: Vec<_> = (1..=3).map(|name| Volunteer::start(&api.url, name, Preset::Full)).collect();
    compute(&api, 1);
    let (_, run) = SampleRun::new(2, [3, 3]).create(&api, "logged");
    wait_until("the run is done", LIMIT, || info(&api, &run)["state"] == "done");
    drop(volunteers);
    // Genesis, epoch, job, a result at least, two data sets, run, and for each round commits, 3 updates and the aggregate.
    let entries = published(&api, 7 + 2 * 5);
    let remember = tempfile::tempdir().unwrap();
    audit(&api.url, remember.path()).unwrap();
    // Goes on from there.
    compute_with_one(&api, 2);
    published(&api, entries + 2);
    audit(&api.url, remember.path()).unwrap();

    // A receipt holds without anybody's help, and for nothing else.
    let receipt = remember.path().join("receipt");
    let receipt_path = receipt.to_str().unwrap();
    let verify =
        || potluck(&["receipt", "verify", receipt_path, "--remember", remember.path().to_str().unwrap()]);
    potluck(&["receipt", "fetch", "3", "--out", receipt_path, "--relay", &api.url]).unwrap();
    verify().unwrap();
    let good = std::fs::read(&receipt).unwrap();
    for at in [30, good.len() / 2, good.len() - 30] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&receipt, bad).unwrap();
        verify().unwrap_err();
    }

    // With the relay gone, from a plain copy.
    let folder = remember.path().join("copy");
    copy(&relay.data().join("log"), &folder);
    drop(relay);
    let source = folder.to_str().unwrap();
    audit(source, remember.path()).unwrap();
    let all: Vec<_> = files(&folder).into_iter().filter(|path| !path.ends_with("key")).collect();
    assert!(all.len() >= 3, "{all:?}");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner
        .run(&(0..all.len(), any::<prop::sample::Index>(), 0..8_u8), |(which, at, bit)| {
            let path = &all[which];
            let good = std::fs::read(path).unwrap();
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1 << bit;
            std::fs::write(path, &bad).unwrap();
            let found = audit(source, remember.path());
            std::fs::write(path, &good).unwrap();
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
            let error = found.expect_err(name);
            // A bundle and the tile that hashes it contradict each other: either is named.
            let named =
                error.contains(name) || name == "checkpoint" || error.contains(&name.replace("entries", "0"));
            prop_assert!(named, "{}: {}", name, error);
            Ok(())
        })
        .unwrap();
    audit(source, remember.path()).unwrap();
}

fn compute_with_one(api: &Api, seed: u64) {
    let volunteer = Volunteer::start(&api.url, 9, Preset::Full);
    compute(api, seed);
    drop(volunteer);
}

#[test]
fn a_relay_that_goes_on_from_an_old_backup_is_found_out() {
    // Its records are replaced by older ones.
    let mut relay = TestRelay::start_in_files();
    let api = relay.api.clone();
    let remember = tempfile::tempdir().unwrap();
    let backup = remember.path().join("backup");
    compute_with_one(&api, 1);
    published(&api, 4);
    relay.restart_after(|data| copy(data, &backup));
    // The epoch that is over was opened.
    let opened = |api: &Api| {
        let bundle = api.get("/log/tile/entries/000.p/4").body;
        assert!(!bundle.is_empty());
        let size = api.get("/api/v1/log").json()["entries"].as_u64().unwrap();
        let all = api.get(&format!("/log/tile/entries/000.p/{size}")).body;
        String::from_utf8_lossy(&all).contains("epoch_opened")
    };
    wait_until("the epoch is opened in the published log", LIMIT, || opened(&api));
    compute_with_one(&api, 2);
    compute_with_one(&api, 3);
    published(&api, 9);
    audit(&api.url, remember.path()).unwrap();
    // Read after the audit: it saw no more than these.
    let seen = published(&api, 9);
    relay.restart_after(|data| {
        std::fs::remove_dir_all(data.join("log")).unwrap();
        std::fs::remove_file(data.join("potluck.db")).unwrap();
        for name in ["potluck.db-wal", "potluck.db-shm"] {
            drop(std::fs::remove_file(data.join(name)));
        }
        copy(&backup, data);
    });
    // An older copy may be audited; what was seen is not forgotten over it.
    audit(backup.join("log").to_str().unwrap(), remember.path()).unwrap();
    let mut seed = 4;
    while api.get("/api/v1/log").json()["entries"].as_u64().unwrap() <= seen {
        compute_with_one(&api, seed);
        seed += 1;
    }
    let error = audit(&api.url, remember.path()).unwrap_err();
    assert!(error.contains("forked"), "{error}");
    // Whoever has not seen the other history cannot know.
    audit(&api.url, &remember.path().join("somebody else")).unwrap();
}

#[test]
fn people_are_named_once_and_what_they_say_is_checked() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let secret = |n: u8| potluck_governance::SigningKey::from_bytes(&[n; 32]);
    let key = |n: u8| potluck_governance::Key::of(&secret(n)).to_string();
    let person = |name: &str, n: u8| json!({ "name": name, "key": key(n) });
    let roles = json!({
        "stewards": [person("Ada", 1), person("Bo", 2), person("Cy", 3)],
        "auditors": [person("Mia", 11), person("Ned", 12)],
        "operators": [person("Olu", 21)],
    });
    let found = |body: &Value| {
        api.send(
            "POST",
            "/api/v1/log/founding",
            &[("content-type", "text/plain")],
            body.to_string().as_bytes(),
        )
    };
    let mut twice = roles.clone();
    twice["stewards"][1]["key"] = key(1).into();
    let answer = found(&json!({ "roles": twice }));
    assert_eq!(answer.status, 422, "{:?}", answer.json());
    assert_eq!(api.with_authorization(None).send("POST", "/api/v1/log/founding", &[], b"{}").status, 401);
    assert_eq!(found(&json!({ "roles": roles })).status, 201);
    assert_eq!(found(&json!({ "roles": roles })).status, 422);

    let origin = api.get("/api/v1/log").text("origin");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let pause = potluck_governance::statement::Pause {
        scope: potluck_governance::statement::Scope::All,
        reason: "something is wrong".to_owned(),
    };
    let said = potluck_governance::Statement { origin, seq: 1, at_ms: now, said: pause.into() };
    let say = |signed: &potluck_governance::entry::Signed| {
        let body = json!({
            "body": signed.body, "key": signed.key.to_string(), "signature": signed.signature.to_string(),
        });
        let headers = [("content-type", "application/json")];
        api.with_authorization(None).send(
            "POST",
            "/api/v1/log/statements",
            &headers,
            body.to_string().as_bytes(),
        )
    };
    let stranger = say(&said.sign(&secret(99)).unwrap());
    assert_eq!(
        (stranger.status, stranger.text("code").as_str()),
        (422, "refused_by_log"),
        "{:?}",
        stranger.json()
    );
    let mut forged = said.sign(&secret(99)).unwrap();
    forged.key = potluck_governance::Key::of(&secret(1));
    assert_eq!(say(&forged).status, 422);
    let signed = said.sign(&secret(1)).unwrap();
    assert_eq!(say(&signed).status, 201);
    assert_eq!(say(&signed).status, 422, "said again, it counts nothing");
    published(api, 4);
    let remember = tempfile::tempdir().unwrap();
    audit(&api.url, remember.path()).unwrap();
}
