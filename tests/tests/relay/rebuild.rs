//! A run on a real relay, derived again from its public log: bit by bit, also with the relay gone; a changed byte is named;
//! and made again without a volunteer it is what an aggregation of the others by hand gives.

use clap::Parser as _;
use potluck_cli::args::Cli;
use potluck_proto::Preset;
use potluck_tests::runs::{SampleRun, done, record, rounds};
use potluck_tests::{Api, TestRelay, Volunteer, copy, wait_until};
use potluck_train::codec::Codec;
use potluck_train::gpt::{GptConfig, init};
use potluck_train::outer::{Outer, OuterParams, OuterRule};
use potluck_types::BlobHash;
use potluck_verify::{AggregateParams, Scope, Sender, Update, aggregate};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const ROUNDS: u64 = 5;
const LIMIT: Duration = Duration::from_secs(180);

fn potluck(line: &[&str]) -> Result<(), String> {
    let cli = Cli::try_parse_from(std::iter::once("potluck").chain(line.iter().copied())).unwrap();
    potluck_cli::run(&cli).map_err(|error| error.to_string())
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{field} of {record}"))
}

fn accepted(record: &Value) -> Vec<&Value> {
    let updates = record["updates"].as_array().unwrap().iter();
    let mut counted: Vec<_> = updates.filter(|update| update["verdict"] == "accepted").collect();
    counted.sort_by_key(|update| update["worker"].as_u64());
    counted
}

/// All entries are published that records of so many rounds stand for.
fn published(api: &Api, rounds: u64) {
    // Genesis, epoch, two data sets, run, and for each round commits, four updates and the aggregate.
    let least = 5 + rounds * 6;
    wait_until("the log is published", LIMIT, || {
        api.get("/api/v1/log").json()["entries"].as_u64() >= Some(least)
    });
}

/// The run's parameters from the updates of all volunteers but one, by the parts of the aggregation alone.
fn by_hand(api: &Api, id: &str, sample: &SampleRun, without: &str) -> Vec<f32> {
    let config = GptConfig { bias: false, ..GptConfig::tiny(sample.vocabulary()) };
    let parameters = init(&config, &sample.seed());
    let mut outer = Outer::start(parameters, OuterParams::default()).unwrap();
    for round in 0..ROUNDS {
        let record = record(api, id, round);
        let counted: Vec<_> =
            accepted(&record).into_iter().filter(|update| text(update, "volunteer") != without).collect();
        assert_eq!(counted.len(), 3);
        let deltas: Vec<Vec<f32>> = counted
            .iter()
            .map(|update| {
                let result = api.get(&format!("/api/v1/blobs/{}", text(update, "result"))).body;
                Codec::Int4.decode(&result[4 * sample.steps as usize..], outer.momentum().len()).unwrap()
            })
            .collect();
        let updates: Vec<_> = counted
            .iter()
            .zip(&deltas)
            .map(|(update, values)| Update {
                values,
                sender: Sender {
                    weight: update["weight"].as_f64().unwrap().max(1e-6),
                    audited: update["audited"] == true,
                    cluster: update["worker"].as_u64().unwrap(),
                },
            })
            .collect();
        let combined = aggregate(&updates, Scope::All, &AggregateParams::default()).unwrap();
        outer.step(&combined.values, OuterRule::Nesterov).unwrap();
    }
    outer.replica().parameters().to_vec()
}

#[test]
fn a_model_follows_from_its_log_and_is_made_again_without_a_volunteer() {
    let mut sample = SampleRun::new(ROUNDS, [4; 2]);
    // So that three votes are enough to count: each of them was replayed.
    sample.audit = "all";
    let mut relay = TestRelay::start();
    let id = sample.create(&relay.api, "one").1;
    let volunteers: Vec<_> =
        (1..=4).map(|name| Volunteer::start(&relay.api.url, name, Preset::Full)).collect();
    wait_until("two rounds", LIMIT, || rounds(&relay.api, &id) >= 2);
    relay.restart();
    done(&relay.api, &id, LIMIT);
    published(&relay.api, ROUNDS);
    let api = relay.api.clone();
    let url = api.url.as_str();
    let last = record(&api, &id, ROUNDS - 1);
    let model = text(&last, "next_parameters_hash").to_owned();

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (remember, blobs, log) = (path("remember"), path("blobs"), path("log"));
    let audit = |source: &str, model: &str, more: &[&str]| {
        let line = [&["audit", source, "--model", model, "--remember", &remember], more].concat();
        potluck(&line)
    };
    std::fs::create_dir(&blobs).unwrap();
    audit(url, &model, &[]).unwrap();
    audit(url, text(&record(&api, &id, 0), "next_parameters_hash"), &["--json"]).unwrap();
    audit(url, &model, &["--blobs", &blobs]).unwrap();
    let error = audit(url, &"ab".repeat(32), &[]).unwrap_err();
    assert!(error.contains("the log has no parameters abab"), "{error}");

    // Without each volunteer, the same as by hand.
    let volunteer_of = |worker: usize| text(accepted(&record(&api, &id, 0))[worker], "volunteer").to_owned();
    let out = path("clean.f32");
    for worker in [0, 2] {
        let gone = volunteer_of(worker);
        let without = format!("volunteer:{gone}");
        potluck(&["model", "rebuild", &id, "--without", &without, "--out", &out, "--relay", url]).unwrap();
        let built = std::fs::read(&out).unwrap();
        let expected: Vec<u8> =
            by_hand(&api, &id, &sample, &gone).iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(built == expected, "without worker {worker}");
        assert_ne!(BlobHash::of(&built).to_string(), model);
    }
    // With the steps of the others taken again it is the run that they would have had.
    let gone = volunteer_of(1);
    let without = format!("volunteer:{gone}");
    let line = ["model", "rebuild", &id, "--without", &without, "--out", &out, "--relay", url, "--again"];
    potluck(&line).unwrap();
    let expected = sample.expected(|round| {
        let record = record(&api, &id, round);
        let others = accepted(&record).into_iter().filter(|update| text(update, "volunteer") != gone);
        let vote = |update: &Value| {
            (update["worker"].as_u64().unwrap() as u32, update["weight"].as_f64().unwrap().max(1e-6))
        };
        others.map(vote).collect()
    });
    let built = BlobHash::of(&std::fs::read(&out).unwrap()).to_string();
    assert_eq!(Some(&built), expected.hashes.last());

    let rebuild = |without: &str| {
        potluck(&["model", "rebuild", &id, "--without", without, "--out", &out, "--relay", url])
    };
    let error = rebuild(&format!("volunteer:{}", "00".repeat(32))).unwrap_err();
    assert!(error.contains("none of the 20 updates is left out"), "{error}");
    let train = sample.train();
    let error = rebuild(&format!("dataset:{train}")).unwrap_err();
    assert!(error.contains("all 20 updates would be left out"), "{error}");
    let error = rebuild(&format!("dataset:{train}/poems")).unwrap_err();
    assert!(error.contains("has no part \"poems\""), "{error}");
    let range = format!("dataset:{train}#0..64");
    let line =
        ["model", "rebuild", &id, "--without", &range, "--out", &out, "--relay", url, "--offer", "gpt"];
    let error = potluck(&line).unwrap_err();
    assert!(error.contains("no name that the log could hold"), "{error}");
    let error = rebuild(&format!("dataset:{}", "11".repeat(32))).unwrap_err();
    assert!(error.contains("does not train on data set 1111"), "{error}");

    // What was written can be trained on, and that run follows from its log too: it starts from uploaded parameters.
    let uploaded = api.send("POST", "/api/v1/parameters", &[], &std::fs::read(&out).unwrap());
    let mut next = SampleRun::new(2, [4; 2]);
    next.init = Some(uploaded.text("id"));
    let second = next.create(&api, "two").1;
    done(&api, &second, LIMIT);
    published(&api, ROUNDS + 2);
    drop(volunteers);
    let second_model = text(&record(&api, &second, 1), "next_parameters_hash").to_owned();
    audit(url, &second_model, &["--blobs", &blobs]).unwrap();

    // With the relay gone.
    copy(&relay.data().join("log"), Path::new(&log));
    let victim = text(accepted(&record(&api, &id, 3))[1], "result").to_owned();
    let names: BTreeSet<String> = (0..ROUNDS)
        .flat_map(|round| {
            let record = record(&api, &id, round);
            accepted(&record).into_iter().map(|update| text(update, "result").to_owned()).collect::<Vec<_>>()
        })
        .collect();
    drop(relay);
    for model in [&model, &second_model] {
        audit(&log, model, &["--blobs", &blobs]).unwrap();
    }
    let error = audit(&log, &model, &[]).unwrap_err();
    assert!(error.contains("has not their bytes"), "{error}");

    // Any changed byte of any update, one that is gone, and what the run asked for.
    let file = |name: &str| Path::new(&blobs).join(name);
    let good = std::fs::read(file(&victim)).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(file(&victim), bad).unwrap();
        let error = audit(&log, &model, &["--blobs", &blobs]).unwrap_err();
        assert!(error.contains("round 3, worker 1: the update cannot be used: its bytes hash to"), "{error}");
        assert!(error.contains(&victim), "{error}");
    }
    std::fs::remove_file(file(&victim)).unwrap();
    let error = audit(&log, &model, &["--blobs", &blobs]).unwrap_err();
    assert!(error.contains(&victim) && error.contains("could not be read"), "{error}");
    std::fs::write(file(&victim), &good).unwrap();
    audit(&log, &model, &["--blobs", &blobs]).unwrap();
    // Beside updates the folder holds both requests, the uploaded parameters, and the second run's updates.
    let others = std::fs::read_dir(&blobs).unwrap().flatten().map(|entry| entry.path());
    let requests: Vec<_> = others
        .filter(|path| !names.contains(path.file_name().unwrap().to_str().unwrap()))
        .filter(|path| std::fs::read(path).unwrap().starts_with(b"{"))
        .collect();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        let mut bad = std::fs::read(request).unwrap();
        let digit = bad.iter().position(u8::is_ascii_digit).unwrap();
        bad[digit] = if bad[digit] == b'1' { b'2' } else { b'1' };
        std::fs::write(request, bad).unwrap();
    }
    let error = audit(&log, &model, &["--blobs", &blobs]).unwrap_err();
    assert!(error.contains("what it asks for hashes to"), "{error}");
}
