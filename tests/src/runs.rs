//! A small training run for the suites: its data, its request, and what it must come to.

use crate::train::Corpus;
use crate::{Api, wait_until};
use potluck_proto::{LearningRate, ModelSizes, ModelSpec, UpdateCodec};
use potluck_relay::runs::tokenizer::to_json;
use potluck_rounds::{Data, Host, Plan, Submitted, Terms, Way, repeat, sizes};
use potluck_train::data::{DataSet, VALIDATION_SHARE, split};
use potluck_train::gpt::FRESH_WARMUP;
use potluck_train::outer::OuterParams;
use potluck_types::BlobHash;
use potluck_verify::AggregateParams;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Characters of the corpus that are trained on.
const TOKENS: usize = 200_000;
const CONTEXT: u32 = 64;
const SEED: [u8; 32] = [1; 32];
/// Blocks of a worker's round.
const BLOCKS: u32 = 8;
/// Greatest and least learning rate, in billionths. With twice the greatest, the momentum of the second step overshoots so
/// far that the relay's secret windows decide whether the gate takes it back.
const RATES: [u32; 2] = [1_000_000, 100_000];
const WARMUP: u32 = 5;

/// A run of `tiny`.
#[derive(Debug, Clone)]
pub struct SampleRun {
    /// Rounds.
    pub rounds: u64,
    /// Inner steps of a round.
    pub steps: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Fewest and most workers.
    pub workers: [u32; 2],
    /// Whose updates are replayed.
    pub audit: &'static str,
    /// How updates are encoded.
    pub codec: &'static str,
    /// Id of uploaded parameters to start from.
    pub init: Option<String>,
    data: Data,
    tokenizer: String,
}

/// What a run came to, round by round.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Hash of the parameters after each round.
    pub hashes: Vec<String>,
    /// Validation loss after each round.
    pub losses: Vec<f64>,
}

impl SampleRun {
    /// A run on the corpus of `cargo xtask data`.
    ///
    /// # Panics
    /// The corpus is not there.
    pub fn new(rounds: u64, workers: [u32; 2]) -> Self {
        let corpus = Corpus::fetched().expect("the corpus");
        let parts = split(&corpus.tokens[..TOKENS], VALIDATION_SHARE, CONTEXT as usize);
        let (train, validation) = parts.expect("a corpus of some length");
        let set = |tokens| Arc::new(DataSet::new(tokens, corpus.vocabulary).expect("tokens"));
        let data = Data { train: set(train), validation: set(validation) };
        let tokenizer = String::from_utf8(to_json(&corpus.tokenizer)).expect("JSON");
        Self {
            rounds,
            steps: 5,
            sequences: 4,
            workers,
            audit: "default",
            codec: "int4",
            init: None,
            data,
            tokenizer,
        }
    }

    /// Its `tokenizer.json`.
    pub fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// Tokens that one worker trains on in a round.
    pub fn worker_tokens(&self) -> u64 {
        u64::from(self.steps * self.sequences * CONTEXT)
    }

    /// Tokens that there are.
    pub fn vocabulary(&self) -> usize {
        self.data.train.spec().vocabulary as usize
    }

    /// Seed of parameters and data order.
    pub const fn seed(&self) -> [u8; 32] {
        SEED
    }

    /// Id of the data set that is trained on.
    pub fn train(&self) -> String {
        BlobHash(self.data.train.spec().root()).to_string()
    }

    fn terms(&self) -> Terms {
        let vocabulary = self.data.train.spec().vocabulary;
        let [peak_nano, least_nano] = RATES;
        let steps = self.rounds as u32 * self.steps;
        Terms {
            model: ModelSizes { vocabulary, context: CONTEXT, layers: 3, heads: 4, width: 64, bias: false }
                .into(),
            steps: self.steps,
            sequences: self.sequences,
            length: CONTEXT,
            rate: LearningRate { peak_nano, least_nano, warmup: WARMUP, steps, fresh_warmup: FRESH_WARMUP },
            seed: SEED,
            blocks_dealt: BLOCKS,
            codec: UpdateCodec::Int4,
            streak: 0,
            outer: OuterParams::default(),
            aggregate: AggregateParams::default(),
        }
    }

    /// Uploads the data and creates the run.
    ///
    /// # Panics
    /// The relay refuses it.
    pub fn create(&self, api: &Api, key: &str) -> (u16, String) {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let answer = api.send("POST", "/api/v1/runs", &headers, self.request(api).to_string().as_bytes());
        assert!(answer.status < 300, "{}", String::from_utf8_lossy(&answer.body));
        (answer.status, answer.text("id"))
    }

    /// Uploads the data, and gives what would create the run.
    ///
    /// # Panics
    /// The relay refuses the data.
    pub fn request(&self, api: &Api) -> Value {
        let upload = |set: &DataSet| {
            let spec = set.spec();
            let path = format!("/api/v1/datasets?vocabulary={}", spec.vocabulary);
            let answer = api.send("POST", &path, &[], &tokens(set));
            assert_eq!((answer.status, answer.text("id")), (201, BlobHash(spec.root()).to_string()));
            answer.text("id")
        };
        let [peak, least] = RATES.map(|nano| f64::from(nano) / 1e9);
        let [min_workers, max_workers] = self.workers;
        let model = match self.terms().model {
            ModelSpec::Gpt(sizes) => json!(sizes),
            ModelSpec::Digits => json!("digits"),
        };
        let mut request = json!({
            "name": "whale", "model": model, "train": upload(&self.data.train),
            "validation": upload(&self.data.validation), "tokenizer": self.tokenizer, "seed": BlobHash(SEED).to_string(),
            "rounds": self.rounds, "inner_steps": self.steps, "sequences": self.sequences, "length": CONTEXT,
            "rate": { "peak": peak, "least": least, "warmup": WARMUP }, "codec": self.codec, "blocks": BLOCKS,
            "min_workers": min_workers, "max_workers": max_workers, "audit": self.audit,
        });
        if let Some(init) = &self.init {
            request["init"] = json!(init);
        }
        request
    }

    /// The tokens that are trained on, as they are uploaded, and how many kinds of them there are.
    pub fn training_tokens(&self) -> (Vec<u8>, u32) {
        (tokens(&self.data.train), self.data.train.spec().vocabulary)
    }

    /// The same run in this thread, with these workers in each round, and what their votes are worth.
    ///
    /// # Panics
    /// The run fails.
    pub fn expected(&self, workers: impl Fn(u64) -> Vec<(u32, f64)>) -> Expected {
        let terms = self.terms();
        let parameters = sizes::model(&terms.model).init(&terms.seed);
        let (mut host, _) = Host::start(terms, parameters, self.data.clone(), [0; 32]).expect("a run");
        let mut expected = Expected { hashes: Vec::new(), losses: Vec::new() };
        for round in 0..self.rounds {
            let workers = workers(round);
            let most = workers.iter().map(|(worker, _)| worker + 1).max().unwrap_or(0);
            let all = host.tasks(most).expect("tasks");
            let tasks: Vec<_> = workers.iter().map(|(worker, _)| &all[*worker as usize]).collect();
            let results: Vec<Vec<u8>> = tasks
                .iter()
                .map(|task| {
                    let plan = Plan::of(task).expect("a task");
                    let update = repeat(&plan, host.parameters(), &*self.data.train, Way::Plain)
                        .expect("a finite loss");
                    let losses = update.losses.iter().flat_map(|loss| loss.to_le_bytes());
                    losses.chain(plan.codec().encode(&update.delta).expect("a finite update")).collect()
                })
                .collect();
            let updates: Vec<_> = tasks
                .iter()
                .zip(&results)
                .zip(&workers)
                .map(|((task, result), (_, weight))| Submitted {
                    task,
                    result,
                    weight: *weight,
                    audited: true,
                })
                .collect();
            let closed = host.close(&updates).expect("a round");
            expected.hashes.push(closed.after.to_string());
            expected.losses.push(closed.validation_loss);
            host.commit(closed);
        }
        expected
    }
}

/// The bytes of a data set.
fn tokens(set: &DataSet) -> Vec<u8> {
    let block = |index| set.block(index).expect("a block").to_vec();
    (0..set.spec().blocks()).flat_map(block).collect()
}

/// What the relay says of a run.
pub fn info(api: &Api, id: &str) -> Value {
    api.get(&format!("/api/v1/runs/{id}")).json()
}

/// Rounds of a run that are closed.
///
/// # Panics
/// There is no such run.
pub fn rounds(api: &Api, id: &str) -> u64 {
    info(api, id)["round"].as_u64().expect("a number of rounds")
}

/// The record of a closed round.
pub fn record(api: &Api, id: &str, round: u64) -> Value {
    api.get(&format!("/api/v1/runs/{id}/rounds/{round}")).json()
}

/// The workers that counted in a round, and what their votes were worth.
///
/// # Panics
/// There is no such round.
pub fn votes(record: &Value) -> Vec<(u32, f64)> {
    let updates = record["updates"].as_array().expect("a record").iter();
    let counted = updates.filter(|update| update["verdict"] == "accepted");
    counted
        .map(|update| {
            let worker = update["worker"].as_u64().expect("a number") as u32;
            (worker, update["weight"].as_f64().expect("a weight"))
        })
        .collect()
}

/// The updates of a round that counted, or that did not: worker, backend, verdict.
///
/// # Panics
/// There is no such round.
pub fn updates(record: &Value, accepted: bool) -> Vec<(u32, String, String)> {
    let text = |update: &Value, field: &str| update[field].as_str().expect("a text").to_owned();
    let updates = record["updates"].as_array().expect("a record").iter();
    updates
        .filter(|update| (update["verdict"] == "accepted") == accepted)
        .map(|update| {
            let worker = update["worker"].as_u64().expect("a number") as u32;
            (worker, text(update, "backend"), text(update, "verdict"))
        })
        .collect()
}

/// Waits until a run is done, and gives what the relay says of it.
///
/// # Panics
/// It is not done within the limit.
pub fn done(api: &Api, id: &str, limit: Duration) -> Value {
    wait_until("the run is done", limit, || info(api, id)["state"] == "done");
    info(api, id)
}
