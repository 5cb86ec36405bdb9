//! The way of a model to its promotion, in steps that suites share: a run that people allowed, a candidate, its card, and what
//! people sign.

use crate::council::{AUDITORS, Council, STEWARDS};
use crate::runs::SampleRun;
use crate::{Answer, Api};
use potluck_governance::Constitution;
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pause between two looks at an eval.
const PAUSE: Duration = Duration::from_millis(200);

/// Rules under which a promotion takes seconds, and a slow machine's clock is no reason to refuse.
pub fn rules(discussion_ms: u64) -> Constitution {
    let mut rules = Constitution::hasty(discussion_ms);
    rules.skew_ms = 60_000;
    rules.pause.expires_ms = 600_000;
    rules.gate.shards = 2;
    rules
}

/// Sends JSON.
pub fn post(api: &Api, path: &str, body: &Value) -> Answer {
    api.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// Creates a run of a model that people allowed: its id.
///
/// # Panics
/// They do not, or the relay refuses it.
pub fn allowed_run(council: &Council, sample: &SampleRun, model: &str) -> String {
    let mut request = council.request(sample, model);
    let hash = post(&council.api, "/api/v1/runs/hash", &request).text("hash");
    let proposal = council.propose(&["run", model, "--body", &hash]);
    council.sign(AUDITORS[1], &["attest", &hash]).expect("an attestation");
    council.passed(&proposal);
    request["proposal"] = proposal.into();
    let created = post(&council.api, "/api/v1/runs", &request);
    assert_eq!(created.status, 201, "{}", created.json());
    created.text("id")
}

/// Makes a candidate of a round: the hash of its parameters.
///
/// # Panics
/// The relay refuses it, or tells too early what is asked.
pub fn candidate(api: &Api, run: &str, round: u64) -> String {
    let path = format!("/api/v1/runs/{run}/candidates");
    let made = post(api, &path, &json!({ "round": round, "hasty": true }));
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!(made.json()["secret"], Value::Null, "nobody knows what is asked before the card is made");
    let hash = made.text("parameters");
    assert_eq!(post(api, &path, &json!({ "round": round })).status, 200);
    hash
}

/// Waits for a candidate's card, and looks at it: its hash and what it says. `story` is what is told if there is none.
///
/// # Panics
/// There is none within the limit, or it is not what its hash names.
pub fn card(api: &Api, candidate: &str, limit: Duration, story: impl Fn() -> String) -> (String, Value) {
    let path = format!("/api/v1/candidates/{candidate}");
    let started = Instant::now();
    while api.get(&path).json()["state"] == "evaluating" {
        assert!(started.elapsed() < limit, "no card: {}\n{}", api.get(&path).json(), story());
        std::thread::sleep(PAUSE);
    }
    let info = api.get(&path).json();
    assert_eq!(info["state"], "done", "{info}");
    assert!(info["secret"].as_str().is_some_and(|secret| secret.parse::<BlobHash>().is_ok()), "{info}");
    let hash = info["card"].as_str().expect("a card").to_owned();
    let bytes = api.get(&format!("/api/v1/blobs/{hash}")).body;
    assert_eq!(BlobHash::of(&bytes).to_string(), hash);
    (hash, serde_json::from_slice(&bytes).expect("a card is JSON"))
}

/// Promotes a candidate that has its card, as people do who looked at it before.
///
/// # Panics
/// The log does not take it.
pub fn promoted(council: &Council, model: &str, candidate: &str, card: &str) {
    for auditor in AUDITORS {
        council.sign(auditor, &["attest", candidate]).expect("an attestation");
    }
    for steward in &STEWARDS[..2] {
        council.sign(steward, &["sign-off", candidate, "--card", card, "--yes"]).expect("a sign-off");
    }
    let proposal = council.propose(&["promote", model, "--body", candidate]);
    council.passed(&proposal);
    council.ask(&["promote", candidate]).expect("a promotion");
}
