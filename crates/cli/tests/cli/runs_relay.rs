//! A run that was really trained, and a server that gives it out as a relay does.

use potluck_proto::{
    BlobRef, DataSetSpec, LearningRate, ModelSizes, PastUpdate, TokenBlock, TrainTask, UpdateCodec,
};
use potluck_rounds::{Plan, Repeated, Way, again};
use potluck_train::codec::Codec;
use potluck_train::data::{Characters, DataSet, Order, Tokenizer, split};
use potluck_train::gpt::{CpuGpt, GptConfig, Schedule, init};
use potluck_train::outer::{Replica, STEP_CODEC};
use potluck_train::round::{Part, Round};
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

pub(crate) const RUN: &str = "3f2a0000000000000000000000000000";
const WORKERS: u32 = 4;
const STEPS: u32 = 3;
const ROUNDS: u64 = 2;
const SEQUENCES: u32 = 2;
const CODEC: Codec = Codec::Int4;

/// What worker n of round 0 does wrong, for the nth of them; [`Cheat::Zero`] is the first worker of round 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cheat {
    /// Twice the update.
    Scaled,
    /// Another worker's batches.
    OtherData,
    /// A loss that was not.
    Losses,
    /// Bytes are missing.
    Short,
    /// Nothing was done.
    Zero,
    /// The relay gives out another blob than the update.
    Blob,
    /// The relay gives out another block.
    Block,
    /// The second worker has another learning rate than the first.
    OtherRate,
    /// The relay gives out other parameters.
    Parameters,
    /// No cheat: in round 1 there is one more worker, of codec S, whose update of round 0 was late.
    Late,
    /// The same, but it forgot what it found in round 0.
    Forgot,
    /// The same, and the relay gives out other names of blocks.
    Names,
}

/// The volunteer of the worker that was late.
pub(crate) const LATE: &str = "04";

/// Words in an order that repeats late.
pub(crate) fn corpus() -> String {
    let words = ["the ", "whale ", "swims ", "and ", "Ishmael ", "writes.\n", "of ", "sea "];
    (0..60_000_u64).map(|at| words[(at * at / 7 + at / 3) as usize % words.len()]).collect()
}

/// The CPU engine never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a CPU engine waits for nothing"),
    }
}

pub(crate) struct Trained {
    pub(crate) config: GptConfig,
    pub(crate) data: DataSet,
    tokenizer: Tokenizer,
    replica: Replica,
    files: HashMap<String, Vec<u8>>,
}

impl Trained {
    fn new(cheats: &[Cheat]) -> Self {
        let text = corpus();
        let tokenizer = Tokenizer::Characters(Characters::of(&text).unwrap());
        let tokens = tokenizer.encode(&text).unwrap();
        let vocabulary = tokenizer.vocabulary();
        let config = GptConfig { vocabulary, context: 64, layers: 1, heads: 2, width: 16, bias: false };
        let (training, _) = split(&tokens, 10, config.context).unwrap();
        let data = DataSet::new(training, vocabulary).unwrap();
        let replica = Replica::start(init(&config, &[1; 32]), NonZeroU64::new(20).unwrap()).unwrap();
        let mut trained = Self { config, data, tokenizer, replica, files: HashMap::new() };
        trained.train(cheats);
        trained
    }

    pub(crate) fn newest_hash(&self) -> String {
        self.replica.hash().to_string()
    }

    fn keep(&mut self, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
        self.files.insert(format!("/api/v1/blobs/{}", blob.hash), bytes);
        blob
    }

    fn give(&mut self, path: &str, value: &Value) {
        self.files.insert(format!("/api/v1/runs{path}"), value.to_string().into_bytes());
    }

    fn train(&mut self, cheats: &[Cheat]) {
        let checkpoint = self.replica.checkpoint().unwrap();
        let checkpoint = self.keep(checkpoint);
        let (mut outer_steps, mut history) = (Vec::new(), Vec::new());
        let has = |cheat| cheats.contains(&cheat);
        let mut waits = None;
        for round in 0..ROUNDS {
            let parameters = self.parameters(round, has(Cheat::Parameters));
            let start = BlobHash::of(&parameters).to_string();
            let (mut updates, mut sum) = (Vec::new(), vec![0.0_f32; self.replica.parameters().len()]);
            for worker in 0..WORKERS {
                let mut task = self.task(round, worker, checkpoint, &outer_steps);
                let cheat = match round {
                    0 => cheats.get(worker as usize).copied(),
                    _ => cheats.first().copied().filter(|cheat| worker == 0 && *cheat == Cheat::Zero),
                };
                let (result, delta) = self.work(&task, cheat);
                let result = self.keep(result);
                for (sum, delta) in sum.iter_mut().zip(delta) {
                    *sum += delta / WORKERS as f32;
                }
                let path = |blob: &BlobRef| format!("/api/v1/blobs/{}", blob.hash);
                if cheat == Some(Cheat::Blob) {
                    self.files.get_mut(&path(&result)).unwrap()[20] ^= 1;
                }
                if cheat == Some(Cheat::Block) {
                    self.files.get_mut(&path(&task.blocks[0].blob)).unwrap()[0] ^= 1;
                }
                if worker == 1 && has(Cheat::OtherRate) {
                    task.rate.peak_nano += 1;
                }
                updates.push(json!({
                    "worker": worker, "volunteer": format!("{worker:02x}").repeat(32), "backend": "native-cpu",
                    "weight": 1.0, "audited": worker == 0, "result": result.hash.to_string(),
                    "task": serde_json::to_value(&task).unwrap(), "verdict": "accepted",
                }));
            }
            if has(Cheat::Late) || has(Cheat::Forgot) || has(Cheat::Names) {
                let mut task = self.task(round, WORKERS, checkpoint, &outer_steps);
                task.codec = UpdateCodec::TopK;
                let plan = Plan::of(&task).unwrap();
                let anew = || Streak::new(self.replica.parameters().len()).unwrap();
                let kept = waits.take().filter(|_| !has(Cheat::Forgot)).unwrap_or_else(anew);
                let taken =
                    again(&plan, plan.part(), &kept, self.replica.parameters(), &self.data, Way::Plain)
                        .unwrap();
                if round == 0 {
                    waits = Some(Streak::unsent(taken).unwrap());
                } else {
                    task.streak = vec![PastUpdate { round: 0, worker: WORKERS, result: None }];
                    let result = plan.result(Repeated::Sparse(taken)).unwrap().result;
                    let result = self.keep(result);
                    updates.push(json!({
                        "worker": WORKERS, "volunteer": LATE.repeat(32), "backend": "native-cpu", "weight": 1.0,
                        "audited": false, "result": result.hash.to_string(),
                        "task": serde_json::to_value(&task).unwrap(), "verdict": "accepted",
                    }));
                }
            }
            let step = STEP_CODEC.encode(&sum).unwrap();
            self.replica.follow(round + 1, &step).unwrap();
            outer_steps.push(self.keep(step));
            history.push(json!({
                "round": round, "workers": WORKERS, "rejected": 0, "train_loss": 3.0, "validation_loss": 2.9,
                "upload_bytes": 1000, "download_bytes": 2000, "tokens": 1536, "seconds": 1.5, "rule": "mean",
            }));
            let next = self.replica.hash().to_string();
            let record = json!({
                "round": round, "parameters_hash": start, "next_parameters_hash": next, "updates": updates,
                "aggregate": { "rule": "mean" },
            });
            self.give(&format!("/{RUN}/rounds/{round}"), &record);
        }
        self.parameters(ROUNDS, has(Cheat::Parameters));
        let mut names: Vec<String> = self.data.names().iter().map(ToString::to_string).collect();
        if has(Cheat::Names) {
            names.swap(0, 1);
        }
        let path = format!("/api/v1/datasets/{}/blocks", BlobHash(self.data.spec().root()));
        self.files.insert(path, json!(names).to_string().into_bytes());
        let tokenizer = potluck_cli::model::write_tokenizer(&self.tokenizer);
        self.files.insert(format!("/api/v1/runs/{RUN}/tokenizer"), tokenizer);
        let run = json!({
            "id": RUN, "name": "whale", "state": "done", "reason": null, "model": self.sizes(), "round": ROUNDS,
            "rounds": ROUNDS, "phase": "done", "workers": 0, "parameters": self.replica.parameters().len(),
            "history": history,
        });
        self.give(&format!("/{RUN}"), &run);
        self.give("", &json!([run]));
    }

    /// The parameters where a round starts, also given out.
    fn parameters(&mut self, round: u64, wrong: bool) -> Vec<u8> {
        let bytes: Vec<u8> = self.replica.parameters().iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut given = bytes.clone();
        given[0] ^= u8::from(wrong);
        self.files.insert(format!("/api/v1/runs/{RUN}/rounds/{round}/parameters"), given);
        bytes
    }

    fn sizes(&self) -> ModelSizes {
        potluck_rounds::sizes::of_config(&self.config)
    }

    fn task(&mut self, round: u64, worker: u32, checkpoint: BlobRef, outer_steps: &[BlobRef]) -> TrainTask {
        let spec = *self.data.spec();
        let length = self.config.context;
        let order = Order::new([9; 32], &spec, length, 2).unwrap();
        let needed = order.blocks(round, worker, STEPS, SEQUENCES as usize).unwrap();
        let blocks = needed.into_iter().map(|index| {
            let bytes = self.data.block(index).unwrap().to_vec();
            TokenBlock { index, blob: self.keep(bytes), proof: self.data.proof(index).unwrap() }
        });
        let blocks = blocks.collect();
        TrainTask {
            model: self.sizes().into(),
            round,
            worker,
            steps: STEPS,
            steps_before: round * u64::from(STEPS),
            sequences: SEQUENCES,
            length: length as u32,
            rate: LearningRate {
                peak_nano: 2_000_000,
                least_nano: 100_000,
                warmup: 2,
                steps: 6,
                fresh_warmup: 1,
            },
            seed: [9; 32],
            blocks_dealt: 2,
            codec: UpdateCodec::Int4,
            streak: Vec::new(),
            data: DataSetSpec { tokens: spec.tokens, tree: spec.tree },
            blocks,
            checkpoint_round: 0,
            checkpoint_every: 20,
            checkpoint,
            outer_steps: outer_steps.to_vec(),
            parameters: self.replica.hash(),
        }
    }

    /// A worker's result, and the update.
    fn work(&self, task: &TrainTask, cheat: Option<Cheat>) -> (Vec<u8>, Vec<f32>) {
        let worker = if cheat == Some(Cheat::OtherData) { task.worker + 100 } else { task.worker };
        let part = Part {
            order: Order::new(task.seed, self.data.spec(), task.length as usize, task.blocks_dealt).unwrap(),
            round: task.round,
            worker,
            steps: task.steps,
            steps_before: task.steps_before,
            sequences: task.sequences as usize,
            schedule: Schedule { peak: 2e-3, least: 1e-4, warmup: 2, steps: 6, fresh_warmup: 1 },
        };
        let mut engine = CpuGpt::new(self.config).unwrap();
        let mut update = now(async {
            let round = Round::start(part, self.replica.parameters(), &mut engine).await.unwrap();
            round.finish(&mut engine, &self.data).await.unwrap()
        });
        let delta = update.delta.clone();
        match cheat {
            Some(Cheat::Scaled) => update.delta.iter_mut().for_each(|value| *value *= 2.0),
            Some(Cheat::Zero) => update.delta.fill(0.0),
            Some(Cheat::Losses) => update.losses[1] += 0.01,
            _ => {}
        }
        let mut result: Vec<u8> = update.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        result.extend(CODEC.encode(&update.delta).unwrap());
        if cheat == Some(Cheat::Short) {
            result.pop();
        }
        (result, delta)
    }
}

/// A server with a run; it ends with the process.
pub(crate) struct Relay {
    pub(crate) address: String,
    pub(crate) run: Arc<Trained>,
    created: Arc<Mutex<Option<Value>>>,
}

impl Relay {
    pub(crate) fn start(cheats: &[Cheat]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (run, created) = (Arc::new(Trained::new(cheats)), Arc::new(Mutex::new(None)));
        let (own_run, own_created) = (Arc::clone(&run), Arc::clone(&created));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&mut stream.unwrap(), &own_run, &own_created);
            }
        });
        Self { address, run, created }
    }

    /// The last run that was asked for.
    pub(crate) fn created(&self) -> Value {
        self.created.lock().unwrap().clone().unwrap()
    }
}

fn answer(stream: &mut TcpStream, run: &Trained, created: &Mutex<Option<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some(first) = head.first() else { return };
    let header = |name: &str| {
        let lower: Vec<String> = head.iter().map(|line| line.to_ascii_lowercase()).collect();
        lower.iter().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
    };
    if header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let allowed = header("authorization").as_deref() == Some("bearer secret");
    let found = match (method, path) {
        ("GET", path) => run.files.get(path).cloned(),
        _ if !allowed => None,
        ("POST", "/api/v1/datasets") => {
            let vocabulary = query.strip_prefix("vocabulary=").unwrap().parse().unwrap();
            let tokens = body.as_chunks().0.iter().map(|&two| u32::from(u16::from_le_bytes(two)));
            let data = DataSet::new(&tokens.collect::<Vec<_>>(), vocabulary).unwrap();
            let spec = data.spec();
            let info = json!({
                "id": BlobHash(spec.root()).to_string(), "tokens": spec.tokens, "vocabulary": vocabulary,
                "blocks": spec.blocks(),
            });
            Some(info.to_string().into_bytes())
        }
        ("POST", "/api/v1/parameters") => {
            let info = json!({ "id": BlobHash::of(&body).to_string(), "parameters": body.len() / 4 });
            Some(info.to_string().into_bytes())
        }
        ("POST", "/api/v1/runs") if header("idempotency-key").is_some() => {
            *created.lock().unwrap() = Some(serde_json::from_slice(&body).unwrap());
            run.files.get(&format!("/api/v1/runs/{RUN}")).cloned()
        }
        _ => None,
    };
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", br#"{"code":"not_found","message":"there is nothing","hint":""}"#.to_vec()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
}
