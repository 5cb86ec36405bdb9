//! A training run on a real relay: native volunteers train, every round can be repeated, the model is exported, and a
//! relay that is stopped in the middle goes on from the last closed round.

use potluck_cli::args::{RelayAddress, ReplayArgs};
use potluck_cli::client::Client;
use potluck_cli::runs::replay;
use potluck_proto::{LearningRate, ModelSizes, Preset, UpdateCodec};
use potluck_rounds::{Data, Host, Submitted, Terms, repeat, sizes};
use potluck_tests::train::Corpus;
use potluck_tests::{Api, TestRelay, Volunteer, wait_until};
use potluck_train::data::{DataSet, VALIDATION_SHARE, split};
use potluck_train::gpt::init;
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: u32 = 4;
const ROUNDS: u64 = 6;
const STEPS: u32 = 5;
const SEQUENCES: u32 = 4;
const SEED: [u8; 32] = [1; 32];
/// Time for a round of four volunteers on two cores that have other things to do.
const LIMIT: Duration = Duration::from_secs(180);

fn data() -> Data {
    let corpus = Corpus::fetched().unwrap();
    let tokens = &corpus.tokens[..200_000];
    let (train, validation) = split(tokens, VALIDATION_SHARE, 64).unwrap();
    let set = |tokens: &[u32]| Arc::new(DataSet::new(tokens, corpus.vocabulary).unwrap());
    Data { train: set(train), validation: set(validation) }
}

fn terms(data: &Data) -> Terms {
    let vocabulary = data.train.spec().vocabulary;
    let steps = ROUNDS as u32 * STEPS;
    Terms {
        model: ModelSizes { vocabulary, context: 64, layers: 3, heads: 4, width: 64, bias: false },
        steps: STEPS,
        sequences: SEQUENCES,
        length: 64,
        rate: LearningRate { peak_nano: 2_000_000, least_nano: 100_000, warmup: 5, steps },
        seed: SEED,
        blocks_dealt: 8,
        codec: UpdateCodec::Int4,
    }
}

fn upload(api: &Api, set: &DataSet) -> String {
    let spec = set.spec();
    let bytes: Vec<u8> = (0..spec.blocks()).flat_map(|index| set.block(index).unwrap().to_vec()).collect();
    let path = format!("/api/v1/datasets?vocabulary={}", spec.vocabulary);
    let answer = api.send("POST", &path, &[], &bytes);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.text("id"), BlobHash(spec.root()).to_string());
    answer.text("id")
}

fn request(api: &Api, data: &Data) -> Value {
    let model = terms(data).model;
    json!({
        "name": "whale", "model": model, "train": upload(api, &data.train),
        "validation": upload(api, &data.validation), "tokenizer": "{}",
        "seed": BlobHash(SEED).to_string(), "rounds": ROUNDS, "inner_steps": STEPS, "sequences": SEQUENCES,
        "length": 64, "rate": { "peak": 0.002, "least": 0.0001, "warmup": 5 }, "codec": "int4", "blocks": 8,
        "min_workers": WORKERS, "max_workers": WORKERS, "audit": "default",
    })
}

fn create(api: &Api, request: &Value, key: &str) -> (u16, String) {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let answer = api.send("POST", "/api/v1/runs", &headers, request.to_string().as_bytes());
    assert!(answer.status < 300, "{answer:?}");
    (answer.status, answer.text("id"))
}

fn run(api: &Api, id: &str) -> Value {
    api.get(&format!("/api/v1/runs/{id}")).json()
}

/// The same run in this thread.
fn expected(data: &Data) -> (Vec<String>, Vec<f64>) {
    let terms = terms(data);
    let parameters = init(&sizes::config(&terms.model), &terms.seed);
    let (mut host, _) = Host::start(terms, parameters, data.clone(), [0; 32]).unwrap();
    let (mut hashes, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let tasks = host.tasks(WORKERS).unwrap();
        let results: Vec<Vec<u8>> = tasks
            .iter()
            .map(|task| {
                let plan = potluck_rounds::Plan::of(task).unwrap();
                let update = repeat(&plan, host.parameters(), &*data.train).unwrap();
                let losses = update.losses.iter().flat_map(|loss| loss.to_le_bytes());
                losses.chain(plan.codec().encode(&update.delta).unwrap()).collect()
            })
            .collect();
        let updates: Vec<_> = tasks
            .iter()
            .zip(&results)
            .map(|(task, result)| Submitted { task, result, weight: 1.0, audited: true })
            .collect();
        let closed = host.close(&updates).unwrap();
        hashes.push(closed.after.to_string());
        losses.push(closed.validation_loss);
        host.commit(closed);
    }
    (hashes, losses)
}

#[test]
fn volunteers_train_as_one_thread_would_and_each_round_can_be_repeated() {
    let data = data();
    let mut relay = TestRelay::start();
    let request = request(&relay.api, &data);
    let (status, id) = create(&relay.api, &request, "one");
    assert_eq!(status, 201);
    assert_eq!(create(&relay.api, &request, "one"), (200, id.clone()), "a key names one run");
    let volunteers: Vec<_> =
        (1..=4).map(|name| Volunteer::start(&relay.api.url, name, Preset::Full)).collect();
    wait_until("two rounds", LIMIT, || run(&relay.api, &id)["round"].as_u64().unwrap() >= 2);

    // The relay is stopped, whatever the round does, and comes back on the same data.
    relay.restart();
    wait_until("the run goes on", LIMIT, || run(&relay.api, &id)["state"] == "done");
    drop(volunteers);

    let info = run(&relay.api, &id);
    let history = info["history"].as_array().unwrap();
    assert_eq!(history.len() as u64, ROUNDS);
    let (hashes, losses) = expected(&data);
    for (round, info) in history.iter().enumerate() {
        let record = relay.api.get(&format!("/api/v1/runs/{id}/rounds/{round}")).json();
        assert_eq!(info["workers"], WORKERS, "{info}");
        assert_eq!(info["rejected"], 0, "{info}");
        assert_eq!(record["next_parameters_hash"], *hashes[round], "round {round}");
        // JSON may cost the last bit.
        let loss = info["validation_loss"].as_f64().unwrap();
        assert!((loss - losses[round]).abs() < 1e-12, "round {round}: {loss}, {}", losses[round]);
        assert!(info["upload_bytes"].as_u64().unwrap() > 0);
        assert_eq!(info["tokens"], u64::from(WORKERS * STEPS * SEQUENCES * 64));
    }
    assert!(losses[ROUNDS as usize - 1] < losses[0] - 0.2, "{losses:?}");

    let parameters = relay.api.get(&format!("/api/v1/runs/{id}/rounds/{ROUNDS}/parameters")).body;
    assert_eq!(BlobHash::of(&parameters).to_string(), hashes[ROUNDS as usize - 1]);
    assert_eq!(relay.api.get(&format!("/api/v1/runs/{id}/rounds/{ROUNDS}")).status, 404);
    assert_eq!(relay.api.get(&format!("/api/v1/runs/{id}/tokenizer")).body, b"{}");

    // Without the token: what a round was made of is for everybody.
    let client = Client::new(&relay.api.url, None, potluck_cli::stop::Stop::default()).unwrap();
    for round in [0, ROUNDS - 1] {
        let address = RelayAddress { relay: relay.api.url.clone() };
        let args = ReplayArgs { run: id.clone(), round, volunteer: None, json: true, relay: address };
        replay::command(&args, &client).unwrap();
    }
}
