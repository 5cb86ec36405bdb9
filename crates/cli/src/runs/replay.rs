//! `potluck replay`: what volunteers did in a round, done again from public data, and compared.
//!
//! Nothing is believed that can be checked: blobs by their hashes, blocks by the data set's root, the parameters by the
//! hash that the round names, each task against the run and against the other tasks of the round.

use crate::args::ReplayArgs;
use crate::client::Client;
use crate::client::runs::{RoundRecord, RunInfo, UpdateRecord};
use crate::error::CliError;
use crate::generate::ready;
use crate::progress::Progress;
use crate::runs::opening::nearest;
use crate::runs::{config_of, find, floats, read_bytes, short};
use potluck_proto::{BlobRef, TrainTask, UpdateCodec};
use potluck_train::codec::Codec;
use potluck_train::data::{Held, Order, Spec};
use potluck_train::gpt::{CpuGpt, Layout, Schedule};
use potluck_train::outer::{CHECKPOINT_CODEC, Replica, STEP_CODEC};
use potluck_train::round::{Part, Round, Update};
use potluck_types::BlobHash;
use potluck_verify::{ReplayReport, ReplayVerdict, Tolerances, compare};
use serde_json::{Value, json};
use std::num::NonZeroU64;

/// Bytes that a wrong result may be longer than a right one and still be shown as refuted.
const SPARE_BYTES: u64 = 1 << 16;
/// Worst tensors that are listed.
const LISTED: usize = 3;

/// Replays a round's updates.
///
/// # Errors
/// There is no such run, round or update; records that contradict themselves; [`CliError::Refuted`].
pub fn command(args: &ReplayArgs, client: &Client) -> Result<(), CliError> {
    let run = find(client, &args.run)?;
    if args.round >= run.round {
        return Err(CliError::Usage {
            message: format!("the run has done {} rounds; round {} is not among them", run.round, args.round),
            hint: "rounds count from 0".into(),
        });
    }
    let record: RoundRecord =
        client.get(&format!("/api/v1/runs/{}/rounds/{}", run.id, args.round), |_| {})?;
    let wanted = |update: &&UpdateRecord| {
        args.volunteer
            .as_deref()
            .is_none_or(|prefix| update.volunteer.to_ascii_lowercase().starts_with(prefix))
    };
    let updates: Vec<&UpdateRecord> = record.updates.iter().filter(wanted).collect();
    if updates.is_empty() {
        let known: Vec<String> = record.updates.iter().map(|update| short(&update.volunteer)).collect();
        return Err(CliError::Usage {
            message: format!("round {} has no such update", args.round),
            hint: match known.as_slice() {
                [] => "it has none at all; try another round".to_owned(),
                known => format!("the volunteers of the round are {}", known.join(", ")),
            },
        });
    }
    let mut round = Replayed { client, run: &run, record: &record, common: None, start: None };
    let mut refuted = 0;
    for update in &updates {
        let outcome = round.update(update)?;
        refuted += usize::from(!outcome.confirmed());
        if args.json {
            println!("{}", outcome.to_json(update));
        } else {
            print!("{}", outcome.lines(update));
        }
    }
    if refuted > 0 {
        return Err(CliError::Refuted { refuted, replayed: updates.len(), round: args.round });
    }
    Ok(())
}

/// What came of an update's replay.
struct Outcome {
    /// Its figures, or why the committed bytes are no update at all.
    report: Result<ReplayReport, String>,
    names: Vec<String>,
    steps: u32,
    /// Bytes of the encoded update, and how many of them encoding the replay gives too.
    bytes: Option<(usize, usize)>,
}

impl Outcome {
    fn confirmed(&self) -> bool {
        self.report.as_ref().is_ok_and(ReplayReport::confirmed)
    }

    fn reason(&self) -> Option<String> {
        match &self.report {
            Ok(report) => match report.verdict {
                ReplayVerdict::Confirmed => None,
                ReplayVerdict::Refuted(reason) => Some(reason.to_string()),
            },
            Err(cause) => Some(cause.clone()),
        }
    }

    /// Tensors with their deviations, the worst first.
    fn worst(&self) -> Vec<(&str, f64)> {
        let Ok(report) = &self.report else { return Vec::new() };
        let names = self.names.iter().map(String::as_str);
        let mut tensors: Vec<_> = names.zip(report.tensors.iter().copied()).collect();
        tensors.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        tensors.truncate(LISTED);
        tensors
    }

    fn greatest_loss(&self) -> Option<(usize, f64)> {
        let losses = self.report.as_ref().ok()?.losses.iter().copied();
        losses.enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
    }

    fn lines(&self, update: &UpdateRecord) -> String {
        let Tolerances { whole, tensor, loss, .. } = Tolerances::default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let audited = if update.audited { ", audited by the relay" } else { "" };
        let backend = if update.backend.is_null() { "unknown".to_owned() } else { text(&update.backend) };
        let mut lines = vec![format!(
            "worker {}  volunteer {}  {backend}{audited}",
            update.worker,
            short(&update.volunteer)
        )];
        if let Ok(report) = &self.report {
            lines.push(format!(
                "  update      deviates by {:.2e} of its norm (tolerance {whole:.0e})",
                report.whole
            ));
            for (name, deviation) in self.worst() {
                lines.push(format!("  tensor      {deviation:.2e} (tolerance {tensor:.0e})  {name}"));
            }
        }
        if let Some((step, difference)) = self.greatest_loss() {
            lines.push(format!(
                "  losses      {} steps, greatest difference {difference:.2e} nats at step {step} (tolerance {loss:.0e})",
                self.steps
            ));
        }
        if let Some((equal, all)) = self.bytes {
            lines.push(format!("  encoding    {equal} of {all} bytes are equal when the replay is encoded"));
        }
        lines.push(match self.reason() {
            None => "  verdict     confirmed".to_owned(),
            Some(reason) => format!("  verdict     REFUTED: {reason}"),
        });
        lines.join("\n") + "\n"
    }

    fn to_json(&self, update: &UpdateRecord) -> Value {
        let report = self.report.as_ref().ok();
        let named = self.names.iter().zip(report.map_or(&[][..], |report| &report.tensors));
        json!({
            "worker": update.worker,
            "volunteer": update.volunteer,
            "confirmed": self.confirmed(),
            "reason": self.reason(),
            "whole": report.map(|report| report.whole),
            "tensors": named.map(|(name, deviation)| json!({ "name": name, "deviation": deviation })).collect::<Vec<_>>(),
            "losses": report.map(|report| &report.losses),
            "bytes": self.bytes.map(|(_, all)| all),
            "equal_bytes": self.bytes.map(|(equal, _)| equal),
        })
    }
}

/// The parameters of a round, and what they were made from.
struct Start {
    checkpoint: BlobRef,
    steps: Vec<BlobRef>,
    parameters: Vec<f32>,
}

/// A round that is replayed.
struct Replayed<'a> {
    client: &'a Client,
    run: &'a RunInfo,
    record: &'a RoundRecord,
    /// The first task, without what differs between workers.
    common: Option<TrainTask>,
    start: Option<Start>,
}

impl Replayed<'_> {
    fn contradiction(&self, update: &UpdateRecord, cause: &(impl ToString + ?Sized)) -> CliError {
        CliError::Record {
            what: format!("round {}, worker {}", self.record.round, update.worker),
            cause: cause.to_string(),
        }
    }

    fn update(&mut self, update: &UpdateRecord) -> Result<Outcome, CliError> {
        let task = update.task().map_err(|cause| self.contradiction(update, &cause))?;
        self.check(update, &task)?;
        let config = config_of(&task.model);
        let layout = Layout::new(&config);
        let replayed = self.repeat(update, &task)?;
        let names = layout.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let outcome = |report, bytes| Outcome { report, names, steps: task.steps, bytes };

        let codec = codec_of(task.codec);
        let losses_bytes = 4 * task.steps as usize;
        let expected = losses_bytes + codec.encoded_len(layout.parameters());
        let result = self.committed(update, expected as u64)?;
        if result.len() != expected {
            let cause = format!("the committed result has {} bytes instead of {expected}", result.len());
            return Ok(outcome(Err(cause), None));
        }
        let (losses, encoded) = result.split_at(losses_bytes);
        let same = codec.encode(&replayed.delta).map(|bytes| {
            let equal = bytes.iter().zip(encoded).filter(|(ours, theirs)| ours == theirs).count();
            (equal, bytes.len())
        });
        let claimed = match nearest(codec, encoded, &replayed.delta) {
            Ok(claimed) => claimed,
            Err(cause) => {
                return Ok(outcome(Err(format!("the committed update is none: {cause}")), same.ok()));
            }
        };
        let tensors: Vec<_> = layout.tensors.iter().map(potluck_train::gpt::Tensor::range).collect();
        let tolerances = Tolerances::default();
        let (ours, theirs) = (&replayed.losses, floats(losses));
        let report = compare(&claimed, &replayed.delta, &tensors, &theirs, ours, &tolerances)
            .map_err(|cause| self.contradiction(update, &cause))?;
        Ok(outcome(Ok(report), same.ok()))
    }

    /// Whether a task is what this run and round ask of this worker.
    fn check(&mut self, update: &UpdateRecord, task: &TrainTask) -> Result<(), CliError> {
        let spec = spec_of(task);
        let root = BlobHash(spec.root()).to_string();
        let facts = [
            (task.model == self.run.model, "the task is for another model than the run's"),
            (
                task.round == self.record.round && task.round < self.run.rounds,
                "the task is for another round",
            ),
            (task.worker == update.worker, "the task is another worker's"),
            (
                task.parameters.to_string() == self.record.parameters_hash,
                "the task starts elsewhere than the round",
            ),
            (
                self.run.train.as_ref().is_none_or(|train| *train == root),
                "the task's data set is not the run's",
            ),
        ];
        if let Some((_, cause)) = facts.iter().find(|(holds, _)| !holds) {
            return Err(self.contradiction(update, &cause));
        }
        // What may differ between workers: number, codec, steps, blocks, and the checkpoint they started from.
        let common = TrainTask {
            worker: 0,
            steps: 0,
            codec: UpdateCodec::F32,
            blocks: Vec::new(),
            checkpoint_round: 0,
            checkpoint: BlobRef { hash: BlobHash([0; 32]), bytes: 0 },
            outer_steps: Vec::new(),
            ..task.clone()
        };
        match &self.common {
            Some(first) if *first != common => {
                Err(self.contradiction(update, "the task differs from the other workers'"))
            }
            Some(_) => Ok(()),
            None => {
                self.common = Some(common);
                Ok(())
            }
        }
    }

    /// Takes the worker's inner steps again.
    fn repeat(&mut self, update: &UpdateRecord, task: &TrainTask) -> Result<Update, CliError> {
        let config = config_of(&task.model);
        config.check().map_err(|cause| self.contradiction(update, &cause))?;
        let spec = spec_of(task);
        let (length, sequences) = (task.length as usize, task.sequences as usize);
        let order = Order::new(task.seed, &spec, length, task.blocks_dealt)
            .map_err(|cause| self.contradiction(update, &cause))?;
        let rate = |nano: u32| (f64::from(nano) * 1e-9) as f32;
        let schedule = Schedule {
            peak: rate(task.rate.peak_nano),
            least: rate(task.rate.least_nano),
            warmup: u64::from(task.rate.warmup),
            steps: u64::from(task.rate.steps),
        };
        let part = Part {
            order,
            round: task.round,
            worker: task.worker,
            steps: task.steps,
            steps_before: task.steps_before,
            sequences,
            schedule,
        };
        let data = self.blocks(update, task, &order)?;
        self.parameters(update, task)?;
        let Some(start) = &self.start else {
            return Err(self.contradiction(update, "the round has no parameters"));
        };
        let failed = |cause: &dyn ToString| self.contradiction(update, &cause.to_string());
        let mut engine = CpuGpt::new(config).map_err(|cause| failed(&cause))?;
        let begun = ready(Round::start(part, &start.parameters, &mut engine));
        let mut round = begun.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))?;
        let progress = Progress::parts("replaying", u64::from(task.steps));
        while !round.complete() {
            if self.client.stop().count() > 0 {
                return Err(CliError::Interrupted { job: None });
            }
            let step = ready(round.step(&mut engine, &data));
            step.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))?;
            progress.set(u64::from(round.done()), &format!("worker {}", task.worker));
        }
        progress.finish(&format!("worker {}, {} steps", task.worker, task.steps));
        let update = ready(round.finish(&mut engine, &data));
        update.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))
    }

    /// The blocks that the batches touch, each checked against the data set.
    fn blocks(&self, update: &UpdateRecord, task: &TrainTask, order: &Order) -> Result<Held, CliError> {
        let failed = |cause: &dyn ToString| self.contradiction(update, &cause.to_string());
        let mut held = Held::new(spec_of(task)).map_err(|cause| failed(&cause))?;
        let needed = order
            .blocks(task.round, task.worker, task.steps, task.sequences as usize)
            .map_err(|cause| failed(&cause))?;
        for index in needed {
            let Some(block) = task.blocks.iter().find(|block| block.index == index) else {
                return Err(failed(&format!("block {index} is needed, and the task does not name it")));
            };
            let length = held.spec().block_bytes(index).map_err(|cause| failed(&cause))?;
            let bytes = self.blob(update, &block.blob, length as u64)?;
            held.insert(index, bytes, &block.proof).map_err(|cause| failed(&cause))?;
        }
        Ok(held)
    }

    /// Rebuilds the parameters where the round starts, once for all workers that start from the same checkpoint.
    fn parameters(&mut self, update: &UpdateRecord, task: &TrainTask) -> Result<(), CliError> {
        let made = |start: &Start| start.checkpoint == task.checkpoint && start.steps == task.outer_steps;
        if self.start.as_ref().is_some_and(made) {
            return Ok(());
        }
        let failed = |cause: &dyn ToString| self.contradiction(update, &cause.to_string());
        let count = Layout::new(&config_of(&task.model)).parameters();
        let every = NonZeroU64::new(u64::from(task.checkpoint_every))
            .ok_or_else(|| failed(&"there are no rounds between checkpoints"))?;
        let bytes = self.blob(update, &task.checkpoint, CHECKPOINT_CODEC.encoded_len(count) as u64)?;
        let mut replica = Replica::from_checkpoint(task.checkpoint_round, &bytes, count, every)
            .map_err(|cause| failed(&cause))?;
        for step in &task.outer_steps {
            let bytes = self.blob(update, step, STEP_CODEC.encoded_len(count) as u64)?;
            replica.follow(replica.round() + 1, &bytes).map_err(|cause| failed(&cause))?;
        }
        if replica.round() != task.round || replica.hash() != task.parameters {
            return Err(failed(&"checkpoint and steps do not lead to the parameters that the round names"));
        }
        let parameters = replica.parameters().to_vec();
        self.start = Some(Start { checkpoint: task.checkpoint, steps: task.outer_steps.clone(), parameters });
        Ok(())
    }

    /// A blob that must have so many bytes.
    fn blob(&self, update: &UpdateRecord, blob: &BlobRef, expected: u64) -> Result<Vec<u8>, CliError> {
        if blob.bytes != expected {
            let cause = format!("a blob is said to have {} bytes instead of {expected}", blob.bytes);
            return Err(self.contradiction(update, &cause));
        }
        let bytes = read_bytes(self.client, &format!("/api/v1/blobs/{}", blob.hash), expected)?;
        self.hashed(update, bytes, &blob.hash.to_string())
    }

    /// What the volunteer committed to.
    fn committed(&self, update: &UpdateRecord, expected: u64) -> Result<Vec<u8>, CliError> {
        let name: BlobHash =
            update.result.parse().map_err(|_| self.contradiction(update, "the result's hash is none"))?;
        let bytes =
            read_bytes(self.client, &format!("/api/v1/blobs/{name}"), expected.saturating_add(SPARE_BYTES))?;
        self.hashed(update, bytes, &name.to_string())
    }

    fn hashed(&self, update: &UpdateRecord, bytes: Vec<u8>, name: &str) -> Result<Vec<u8>, CliError> {
        let found = BlobHash::of(&bytes).to_string();
        if found == name {
            return Ok(bytes);
        }
        Err(self.contradiction(update, &format!("the relay gives out {found} in place of the blob {name}")))
    }
}

fn spec_of(task: &TrainTask) -> Spec {
    Spec { vocabulary: task.model.vocabulary, tokens: task.data.tokens, tree: task.data.tree }
}

fn codec_of(codec: UpdateCodec) -> Codec {
    match codec {
        UpdateCodec::F32 => Codec::F32,
        UpdateCodec::F16 => Codec::F16,
        UpdateCodec::Int8 => Codec::Int8,
        UpdateCodec::Int4 => Codec::Int4,
    }
}
