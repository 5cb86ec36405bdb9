//! A relay that mirrors another: it shows what that one showed when that one is gone; it goes on with the work if people appoint
//! it; and it does not follow a relay that takes back what it said.

use super::operator::{LIMIT, Relay, potluck};
use potluck_proto::Preset;
use potluck_tests::council::{Council, STEWARDS};
use potluck_tests::promotion::{allowed_run, candidate, card, post, promoted, rules};
use potluck_tests::runs::{SampleRun, done, record, rounds};
use potluck_tests::{Volunteer, wait_until};
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u32 = 2;
const ROUNDS: u64 = 6;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Time to discuss anything, in milliseconds.
const DISCUSSION_MS: u64 = 4_000;

fn stage(mirror: &Relay) -> Value {
    // It is away for a moment at each step.
    let answer = mirror.api.try_send("GET", "/api/v1/mirrors", &[], &[]);
    answer.map_or(Value::Null, |answer| answer.json())
}

fn wait_for_stage(mirror: &Relay, expected: &str) {
    let began = Instant::now();
    while stage(mirror)["stage"] != expected {
        let story = || format!("{}\n{}", stage(mirror), mirror.process().story());
        assert!(began.elapsed() < LIMIT, "the mirror is not {expected}: {}", story());
        std::thread::sleep(PAUSE);
    }
}

/// People agree that the relay is mirrored, under this name.
fn list(council: &Council, name: &str, mirror: &Relay) {
    let line = json!({ "name": name, "url": mirror.api.url, "key": mirror.key() });
    let file = council.document("mirrors.json", &json!({ "mirrors": [line] }));
    let proposal = council.propose(&["mirrors", "--file", &file]);
    council.passed(&proposal);
    council.ask(&["enact", &proposal]).expect("the list is in force");
}

fn audit(url: &str, remember: &Path) -> super::operator::Done {
    potluck(&["audit", url, "--remember", remember.to_str().unwrap(), "--json"])
}

#[test]
fn a_mirror_goes_on_with_a_run_when_its_relay_is_destroyed_and_people_appoint_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(&folder.path().join("first"));
    let mut council = Council::new(env!("CARGO_BIN_EXE_command"), &relay.api);
    council.found(&rules(DISCUSSION_MS));
    let mut mirror = Relay::mirror(&folder.path().join("second"), &relay.api.url, "2s");
    list(&council, "backup", &mirror);
    let sample = SampleRun::new(ROUNDS, [WORKERS; 2]);
    let (status, run) = sample.create(&relay.api, "one");
    assert_eq!(status, 201);
    let seen_by = |name: u8| folder.path().join(format!("volunteer-{name}"));
    let [stays, leaves] = [1, 2].map(|name| Volunteer::watching(&relay.api.url, name, &seen_by(name)));
    let mirrored = || mirror.api.get(&format!("/api/v1/runs/{run}")).status == 200;
    wait_until("two rounds are mirrored", LIMIT, || mirrored() && rounds(&mirror.api, &run) >= 2);
    // A round takes two: none is closed until another comes.
    drop(leaves);
    let remember = folder.path().join("remember");
    let before = audit(&relay.api.url, &remember);
    assert_eq!(before.code, 0, "{before:?}");
    let seen = before.json["entries"].as_u64().unwrap();
    wait_until("the mirror has what the auditor saw", LIMIT, || mirror.published(1) >= seen);

    // While the relay leads, a mirror deals nothing out and takes nothing in.
    let shown = stage(&mirror);
    assert_eq!((&shown["stage"], &shown["of"]), (&"following".into(), &relay.api.url.clone().into()));
    assert_eq!(shown["mirrors"][0]["name"], "backup");
    let socket = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    assert_eq!(mirror.api.send("GET", "/api/v1/volunteer", &socket, &[]).status, 421);
    assert_eq!(post(&mirror.api, "/api/v1/runs", &sample.request(&mirror.api)).status, 421);
    let blob = record(&mirror.api, &run, 0)["updates"][0]["result"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/blobs/{blob}");
    assert_eq!(mirror.api.get(&path).body, relay.api.get(&path).body);

    // Gone, for good.
    relay.kill();
    std::fs::remove_dir_all(folder.path().join("first")).unwrap();
    wait_for_stage(&mirror, "draft");
    let shown = audit(&mirror.api.url, &remember);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(mirror.api.get(&path).status, 200, "what runs need is here");

    // A second start changes nothing.
    mirror.kill();
    mirror.again();
    wait_for_stage(&mirror, "draft");
    council.api = mirror.api.clone();
    let proposal = council.propose(&["succession", "backup"]);
    council.passed(&proposal);
    wait_for_stage(&mirror, "leading");
    let closed = rounds(&mirror.api, &run);
    assert!(
        (2..ROUNDS).contains(&closed),
        "the run was done before anything happened to its relay: {closed}"
    );

    // Whoever lent to the first relay finds the way without help.
    let comes = Volunteer::start(&mirror.api.url, 2, Preset::Full);
    done(&mirror.api, &run, LIMIT);
    drop([stays, comes]);
    // To the last bit what one relay would have come to.
    let expected = sample.expected(|_| (0..WORKERS).map(|worker| (worker, 1.0)).collect());
    for round in 0..ROUNDS {
        let found = record(&mirror.api, &run, round);
        assert_eq!(found["next_parameters_hash"], *expected.hashes[round as usize], "round {round}");
    }
    let parameters = mirror.api.get(&format!("/api/v1/runs/{run}/rounds/{ROUNDS}/parameters")).body;
    assert_eq!(BlobHash::of(&parameters).to_string(), expected.hashes[ROUNDS as usize - 1]);
    // Whoever knew the first relay believes the second, because of the vote; whoever knew none too.
    mirror.published(seen + 1);
    for remember in [remember, folder.path().join("fresh")] {
        let after = audit(&mirror.api.url, &remember);
        assert_eq!(after.code, 0, "{after:?}");
        assert!(after.json["entries"].as_u64().unwrap() > seen);
        let checks = after.json["checks"].as_array().unwrap();
        assert!(checks.iter().any(|check| check["what"] == "succession"), "{after:?}");
    }
    // The model follows from the log, with nothing of the first relay there.
    let model = &expected.hashes[ROUNDS as usize - 1];
    let proven = potluck(&["audit", &mirror.api.url, "--model", model, "--json"]);
    assert_eq!(proven.code, 0, "{proven:?}");
    let info = stage(&mirror);
    assert_eq!(info["successions"][0]["mirror"]["name"], "backup");

    // It leads for itself from now on: as any relay.
    mirror.kill();
    mirror.lead();
    mirror.again();
    assert_eq!(stage(&mirror)["stage"], "leading");
    assert_eq!(rounds(&mirror.api, &run), ROUNDS);
    let other =
        council.sign(STEWARDS[0], &["pause", &format!("run:{run}"), "--reason", "to see who listens"]);
    other.expect("people speak into the log that goes on");
}

#[test]
fn a_mirror_keeps_what_a_relay_said_when_that_takes_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (data, copy) = (folder.path().join("first"), folder.path().join("copy"));
    let mut relay = Relay::start(&data);
    let mut council = Council::new(env!("CARGO_BIN_EXE_command"), &relay.api);
    let old = relay.published(2);
    relay.kill();
    let copied = std::process::Command::new("cp").arg("-r").arg(&data).arg(&copy).status().unwrap();
    assert!(copied.success());
    relay.again();
    council.api = relay.api.clone();
    council.found(&rules(DISCUSSION_MS));
    let mirror = Relay::mirror(&folder.path().join("second"), &relay.api.url, "1h");
    let seen = relay.published(old + 1);
    wait_until("all is mirrored", LIMIT, || mirror.published(1) >= seen);
    let root = mirror.api.get("/api/v1/log").json()["root"].clone();

    // The relay goes on from before, as if people had never been named.
    relay.kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    relay.again();
    let trouble = || stage(&mirror)["trouble"].as_str().unwrap_or_default().to_owned();
    wait_until("it is noticed", LIMIT, || trouble().contains("it shows an older log, or lost entries"));
    for _ in old..=seen {
        relay.kill();
        relay.again();
    }
    wait_until("it is noticed again", LIMIT, || trouble().contains("was forked"));
    let log = mirror.api.get("/api/v1/log").json();
    assert_eq!((&log["root"], &log["entries"]), (&root, &seen.into()), "what was followed stands");
    let remember = folder.path().join("remember");
    let audit = audit(&mirror.api.url, &remember);
    assert_eq!(audit.code, 0, "{audit:?}");
}

#[test]
fn a_promoted_model_outlives_its_relay() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(&folder.path().join("first"));
    let council = Council::new(env!("CARGO_BIN_EXE_command"), &relay.api);
    council.found(&rules(DISCUSSION_MS));
    let sample = SampleRun::new(2, [WORKERS; 2]);
    let run = allowed_run(&council, &sample, "whale");
    let volunteers: Vec<_> =
        (1..=3).map(|name| Volunteer::start(&relay.api.url, name, Preset::Full)).collect();
    done(&relay.api, &run, LIMIT);
    let promoted_one = candidate(&relay.api, &run, 1);
    let (card_hash, text) = card(&relay.api, &promoted_one, LIMIT, String::new);
    drop(volunteers);
    promoted(&council, "whale", &promoted_one, &card_hash);
    let entries = relay.published(1);
    let mirror = Relay::mirror(&folder.path().join("second"), &relay.api.url, "1h");
    let path = format!("/api/v1/candidates/{promoted_one}");
    wait_until("all is mirrored", LIMIT, || {
        mirror.published(1) >= entries && mirror.api.get(&path).json()["card"] == *card_hash
    });
    relay.kill();
    let blob = |hash: &str| mirror.api.get(&format!("/api/v1/blobs/{hash}")).body;
    assert_eq!(BlobHash::of(&blob(&promoted_one)).to_string(), promoted_one);
    assert_eq!(serde_json::from_slice::<Value>(&blob(&card_hash)).unwrap(), text);
    assert_eq!(mirror.api.get(&format!("/api/v1/runs/{run}/tokenizer")).body, sample.tokenizer().as_bytes());
    assert_eq!(mirror.api.get("/api/v1/models/whale").json()["current"], *promoted_one);
    let remember = folder.path().join("remember");
    let remember = remember.to_str().unwrap();
    let line = ["audit", &mirror.api.url, "--model", &promoted_one, "--remember", remember, "--json"];
    let proven = potluck(&line);
    assert_eq!(proven.code, 0, "{proven:?}");
}
