//! Runs that cannot be, and runs that go wrong: each is refused or pauses with a reason that says what to do.

use potluck_proto::Preset;
use potluck_tests::{Answer, Api, TestRelay, Volunteer, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Uploads tokens of two bytes each.
fn upload(api: &Api, tokens: &[u16], vocabulary: u32) -> Answer {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    api.send("POST", &format!("/api/v1/datasets?vocabulary={vocabulary}"), &[], &bytes)
}

fn request(api: &Api) -> Value {
    let tokens: Vec<u16> = (0..40_000_u32).map(|at| (at * at % 23) as u16).collect();
    let uploaded = upload(api, &tokens, 23);
    assert!(uploaded.status < 300, "{}", uploaded.json());
    let id = uploaded.text("id");
    json!({
        "name": "noise", "train": id, "validation": id,
        "model": { "vocabulary": 23, "context": 16, "layers": 1, "heads": 2, "width": 16, "bias": false },
        "seed": "07".repeat(32), "rounds": 3, "inner_steps": 4, "sequences": 2, "length": 16,
        "rate": { "peak": 0.002, "least": 0.0001, "warmup": 0 }, "codec": "int4", "blocks": 2,
        "min_workers": 1, "max_workers": 2, "audit": "default",
    })
}

fn create(api: &Api, request: &Value) -> Answer {
    api.send("POST", "/api/v1/runs", &[("content-type", "application/json")], request.to_string().as_bytes())
}

fn with(request: &Value, change: &Value) -> Value {
    let mut request = request.clone();
    for (field, value) in change.as_object().expect("fields") {
        match value.as_object() {
            Some(inner) if request[field].is_object() => {
                inner.iter().for_each(|(name, value)| request[field][name] = value.clone());
            }
            _ => request[field] = value.clone(),
        }
    }
    request
}

#[test]
fn runs_that_cannot_be_are_refused_with_a_reason_and_a_hint() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let good = request(api);
    let refused = |answer: Answer, status: u16, words: &[&str]| {
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        let message = answer.text("message");
        assert!(words.iter().all(|word| message.contains(word)), "{message:?} lacks one of {words:?}");
        assert!(!answer.text("hint").is_empty() && !answer.text("code").is_empty(), "{message}");
    };
    refused(upload(api, &[], 23), 422, &["0 tokens"]);
    refused(upload(api, &[1], 23), 422, &["1 token"]);
    refused(upload(api, &[1, 2, 23], 23), 422, &["token 23", "23"]);
    refused(upload(api, &[1, 2, 3], 0), 422, &["vocabulary"]);
    refused(api.send("POST", "/api/v1/datasets?vocabulary=23", &[], b"abc"), 422, &["half a token"]);
    refused(api.send("POST", "/api/v1/datasets?vocabulary=70000", &[], b"abcdef"), 422, &["part of a token"]);
    refused(api.send("POST", "/api/v1/datasets", &[], b"ab"), 400, &["vocabulary"]);
    refused(api.send("POST", "/api/v1/parameters", &[], b"abc"), 422, &["3 bytes"]);

    let unknown = "00".repeat(32);
    let rates = |start: f64| json!({ "audit": { "first": 5, "start": start, "decay": 0.8, "least": 0.05 } });
    for (change, status, words) in [
        (json!({ "train": unknown }), 404, vec![unknown.as_str(), "not uploaded"]),
        (json!({ "train": "x" }), 422, vec!["training data"]),
        (json!({ "init": unknown }), 404, vec!["parameters", "not uploaded"]),
        (json!({ "name": " " }), 422, vec!["name"]),
        (json!({ "seed": "12" }), 422, vec!["seed"]),
        (json!({ "codec": "zip" }), 422, vec!["codec"]),
        (json!({ "audit": "maybe" }), 422, vec!["policy"]),
        (rates(1.5), 422, vec!["policy", "start", "1.5"]),
        (json!({ "outer": { "rate": 0.0, "momentum": 0.9 } }), 422, vec!["outer rate"]),
        (json!({ "outer": { "rate": 0.7, "momentum": 1.0 } }), 422, vec!["momentum"]),
        (json!({ "aggregation": { "trim": 0.5, "trim_from": 6, "median_from": 4 } }), 422, vec!["trims 0.5"]),
        (json!({ "aggregation": { "trim": 0.2, "trim_from": 2, "median_from": 2 } }), 422, vec!["from 2"]),
        (
            json!({ "aggregation": { "trim": 0.2, "trim_from": 6, "median_from": 7 } }),
            422,
            vec!["median from 7"],
        ),
        (json!({ "outer": { "rate": 0.7, "momentum": 0.9, "more": 1 } }), 400, vec!["more"]),
        (json!({ "rounds": 0 }), 422, vec!["0 rounds"]),
        (json!({ "rounds": 1_000_000, "inner_steps": 1_000_000 }), 422, vec!["steps in all"]),
        (json!({ "rate": { "peak": -1.0 } }), 422, vec!["learning rates"]),
        (json!({ "rate": { "least": 1.0 } }), 422, vec!["learning rates"]),
        (json!({ "model": { "vocabulary": 24 } }), 422, vec!["23", "24", "tokenizer"]),
        (json!({ "model": { "heads": 3 } }), 422, vec!["heads"]),
        (json!({ "model": { "width": 0 } }), 422, vec!["width"]),
        (json!({ "model": { "width": 4096, "layers": 64, "heads": 64 } }), 422, vec!["parameters"]),
        (json!({ "length": 17 }), 422, vec!["length", "17"]),
        (json!({ "inner_steps": 0 }), 422, vec!["steps"]),
        (json!({ "sequences": 0 }), 422, vec!["sequences"]),
        (json!({ "min_workers": 0 }), 422, vec!["workers"]),
        (json!({ "min_workers": 3 }), 422, vec!["3 to 2 workers"]),
        (json!({ "max_workers": 100_000 }), 422, vec!["workers"]),
        (json!({ "surprise": 1 }), 400, vec!["surprise"]),
    ] {
        refused(create(api, &with(&good, &change)), status, &words);
    }
    let anybody = api.with_authorization(None);
    assert_eq!(create(&anybody, &good).status, 401);
    assert_eq!(upload(&anybody, &[1, 2, 3], 23).status, 401);
    for path in ["/api/v1/runs/12", "/api/v1/runs/x/rounds/0", "/api/v1/blobs/x"] {
        assert_eq!(anybody.get(path).status, 404, "{path}");
    }
    assert_eq!(anybody.get(&format!("/api/v1/blobs/{unknown}")).status, 404);
    assert_eq!(anybody.get("/api/v1/runs").json(), json!([]));
}

#[test]
fn matrices_are_not_public_and_data_of_a_run_are() {
    let relay = TestRelay::start();
    let good = request(&relay.api);
    let id = create(&relay.api, &good).text("id");
    let anybody = relay.api.with_authorization(None);
    let matrix = relay.api.upload(&potluck_tests::npy::f32_file(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(anybody.get(&format!("/api/v1/blobs/{}", matrix.text("id"))).status, 404);
    let info = anybody.get(&format!("/api/v1/runs/{id}")).json();
    assert_eq!((&info["state"], &info["round"]), (&json!("running"), &json!(0)));
    assert_eq!(anybody.get(&format!("/api/v1/runs/{id}/rounds/0/parameters")).status, 200);
    for action in ["pause", "resume"] {
        assert_eq!(anybody.send("POST", &format!("/api/v1/runs/{id}/{action}"), &[], &[]).status, 401);
    }
    assert_eq!(anybody.send("DELETE", &format!("/api/v1/runs/{id}"), &[], &[]).status, 401);
    assert_eq!(relay.api.send("DELETE", &format!("/api/v1/runs/{id}"), &[], &[]).text("state"), "canceled");
}

/// Waits until a run of one volunteer pauses, and gives the reason. It is the same after a restart.
fn pauses(request: impl FnOnce(&Api) -> Value) -> (String, Value) {
    let mut relay = TestRelay::start();
    let created = create(&relay.api, &request(&relay.api));
    assert_eq!(created.status, 201, "{}", created.json());
    let path = format!("/api/v1/runs/{}", created.text("id"));
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    wait_until("the run pauses or ends", LIMIT, || relay.api.get(&path).json()["state"] != "running");
    drop(volunteer);
    let info = relay.api.get(&path).json();
    assert_eq!(info["state"], "paused", "{info}");
    relay.restart();
    let again = relay.api.get(&path).json();
    assert_eq!((&again["state"], &again["reason"]), (&info["state"], &info["reason"]));
    (info["reason"].as_str().unwrap_or_default().to_owned(), info)
}

#[test]
fn a_run_whose_loss_only_rises_pauses_with_the_reason() {
    let hot = json!({ "rate": { "peak": 4.0, "least": 4.0 }, "inner_steps": 200 });
    let (reason, info) = pauses(|api| with(&request(api), &hot));
    assert!(reason.contains("3 rounds in a row") && reason.contains("learning rate"), "{reason}");
    assert_eq!(info["round"], 2);
}

#[test]
fn a_paused_run_waits_and_goes_on() {
    let relay = TestRelay::start();
    let id = create(&relay.api, &request(&relay.api)).text("id");
    let path = format!("/api/v1/runs/{id}");
    let info = relay.api.send("POST", &format!("{path}/pause"), &[], &[]).json();
    assert_eq!(info["state"], "paused");
    let _volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(relay.api.get(&path).json()["round"], 0);
    assert_eq!(relay.api.send("POST", &format!("{path}/resume"), &[], &[]).json()["state"], "running");
    wait_until("the run is done", LIMIT, || relay.api.get(&path).json()["state"] == "done");
    for action in ["pause", "resume"] {
        assert_eq!(relay.api.send("POST", &format!("{path}/{action}"), &[], &[]).status, 409);
    }
}
