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
use crate::runs::{find, read_bytes, short};
use potluck_proto::{BlobRef, TokenBlock, TrainTask, UpdateCodec};
use potluck_rounds::replay::split;
use potluck_rounds::{
    Allowed, Judgement, Plan, Prepared, Reference, Repeated, TrainInputs, TrainRun, Way, settle, sizes,
};
use potluck_train::data::{Tree, leaf};
use potluck_train::streak::Streak;
use potluck_types::BlobHash;
use potluck_types::limits::MAX_CHECKPOINT_BYTES;
use potluck_verify::{ReplayError, ReplayVerdict, Tolerances};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    let mut round = Replayed { client, run: &run, record: &record, common: None, shared: BTreeMap::new() };
    let mut refuted = 0;
    for update in &updates {
        let outcome = round.update(update)?;
        // Where the relay refused an update and the replay does too, all is well.
        refuted += usize::from(!outcome.confirmed() && !update.refused());
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

/// Why an update could not be judged.
enum Unsettled {
    Command(CliError),
    Replay(ReplayError),
}

impl From<CliError> for Unsettled {
    fn from(error: CliError) -> Self {
        Self::Command(error)
    }
}

impl From<ReplayError> for Unsettled {
    fn from(cause: ReplayError) -> Self {
        Self::Replay(cause)
    }
}

/// What came of an update's replay.
struct Outcome {
    judgement: Judgement,
    names: Vec<String>,
    steps: u32,
}

impl Outcome {
    fn confirmed(&self) -> bool {
        self.judgement.confirmed()
    }

    fn reason(&self) -> Option<String> {
        match &self.judgement.report {
            Ok(report) => match report.verdict {
                ReplayVerdict::Confirmed => None,
                ReplayVerdict::Refuted(reason) => Some(reason.to_string()),
            },
            Err(cause) => Some(cause.clone()),
        }
    }

    /// Tensors with their deviations, the worst first.
    fn worst(&self) -> Vec<(&str, f64)> {
        let Ok(report) = &self.judgement.report else { return Vec::new() };
        let names = self.names.iter().map(String::as_str);
        let mut tensors: Vec<_> = names.zip(report.tensors.iter().copied()).collect();
        tensors.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        tensors.truncate(LISTED);
        tensors
    }

    fn greatest_loss(&self) -> Option<(usize, f64)> {
        let losses = self.judgement.report.as_ref().ok()?.losses.iter().copied();
        losses.enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
    }

    fn lines(&self, update: &UpdateRecord) -> String {
        let Tolerances { whole, tensor, loss, .. } = self.judgement.allowed.report;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let audited = if update.audited { ", audited by the relay" } else { "" };
        let backend = if update.backend.is_null() { "unknown".to_owned() } else { text(&update.backend) };
        let mut lines = vec![format!(
            "worker {}  volunteer {}  {backend}{audited}",
            update.worker,
            short(&update.volunteer)
        )];
        if let Ok(report) = &self.judgement.report {
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
        if let Some((equal, all)) = self.judgement.bytes {
            lines.push(format!("  encoding    {equal} of {all} bytes are equal when the replay is encoded"));
        }
        if update.refused() {
            lines.push(format!("  relay       refused it: {}", text(&update.verdict)));
        }
        lines.push(match self.reason() {
            None => "  verdict     confirmed".to_owned(),
            Some(reason) => format!("  verdict     REFUTED: {reason}"),
        });
        lines.join("\n") + "\n"
    }

    fn to_json(&self, update: &UpdateRecord) -> Value {
        let report = self.judgement.report.as_ref().ok();
        let named = self.names.iter().zip(report.map_or(&[][..], |report| &report.tensors));
        json!({
            "worker": update.worker,
            "volunteer": update.volunteer,
            "backend": update.backend,
            "confirmed": self.confirmed(),
            "reason": self.reason(),
            "refused_by_relay": update.refused(),
            "whole": report.map(|report| report.whole),
            "tensors": named.map(|(name, deviation)| json!({ "name": name, "deviation": deviation })).collect::<Vec<_>>(),
            "losses": report.map(|report| &report.losses),
            "bytes": self.judgement.bytes.map(|(_, all)| all),
            "equal_bytes": self.judgement.bytes.map(|(equal, _)| equal),
        })
    }
}

/// A round that is replayed.
struct Replayed<'a> {
    client: &'a Client,
    run: &'a RunInfo,
    record: &'a RoundRecord,
    /// The first task, without what differs between workers.
    common: Option<TrainTask>,
    /// What all workers start from: the checkpoint and the steps since.
    shared: BTreeMap<BlobHash, Arc<Vec<u8>>>,
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
        let plan = Plan::of(&task).map_err(|cause| self.contradiction(update, &cause))?;
        let judgement = match self.kept(update, &task)? {
            Ok(kept) => self.judge(update, &task, &plan, kept.as_ref())?.0,
            Err(cause) => {
                Judgement { report: Err(cause), allowed: Allowed::usual(plan.codec()), bytes: None }
            }
        };
        let names = plan.model().tensors().into_iter().map(|tensor| tensor.name).collect();
        Ok(Outcome { judgement, names, steps: task.steps })
    }

    /// Takes the worker's inner steps again and compares what they give with what it committed to; with codec S also what
    /// it kept, if that is right.
    fn judge(
        &mut self,
        update: &UpdateRecord,
        task: &TrainTask,
        plan: &Plan,
        kept: Option<&Arc<Streak>>,
    ) -> Result<(Judgement, Option<Arc<Streak>>), CliError> {
        let result = self.committed(update, plan.result_bytes())?;
        let take = |way| Ok(self.repeat(update, task, kept.cloned(), way)?);
        let settled = settle(plan, plan.part(), &result, take);
        let (judgement, repeated) = settled.map_err(|failed| match failed {
            Unsettled::Command(error) => error,
            Unsettled::Replay(cause) => self.contradiction(update, &cause),
        })?;
        let after = match (repeated, split(plan, &result)) {
            (Repeated::Sparse(taken), Some(parts)) if judgement.confirmed() => {
                let kept = Streak::sent(taken, parts.encoded);
                Some(Arc::new(kept.map_err(|cause| self.contradiction(update, &cause))?))
            }
            _ => None,
        };
        Ok((judgement, after))
    }

    /// What the worker had kept after the last round of its streak, found by replaying all of it. `Err` with the reason
    /// if what it sent in one of these rounds is wrong.
    fn kept(
        &mut self,
        update: &UpdateRecord,
        task: &TrainTask,
    ) -> Result<Result<Option<Arc<Streak>>, String>, CliError> {
        let mut kept = None;
        for (at, past) in task.streak.iter().enumerate() {
            let path = format!("/api/v1/runs/{}/rounds/{}", self.run.id, past.round);
            let record: RoundRecord = self.client.get(&path, |_| {})?;
            let Some(result) = past.result.map(|result| result.to_string()) else {
                kept = Some(self.waited(update, task, at, &record, kept.take())?);
                continue;
            };
            let own = |other: &&UpdateRecord| {
                other.worker == past.worker && other.result == result && other.volunteer == update.volunteer
            };
            let Some(earlier) = record.updates.iter().find(own) else {
                let cause = format!("its streak has an update of round {} that is not there", past.round);
                return Err(self.contradiction(update, &cause));
            };
            let shared = std::mem::take(&mut self.shared);
            let mut round = Replayed { record: &record, common: None, shared, ..*self };
            let before = earlier.task().map_err(|cause| round.contradiction(earlier, &cause))?;
            round.check(earlier, &before)?;
            if before.streak != task.streak[..at] {
                return Err(round.contradiction(earlier, "the streak does not lead to the later one"));
            }
            let plan = Plan::of(&before).map_err(|cause| round.contradiction(earlier, &cause))?;
            let (judgement, after) = round.judge(earlier, &before, &plan, kept.take().as_ref())?;
            self.shared = round.shared;
            let Some(after) = after else {
                let why = judgement
                    .fault()
                    .map_or_else(|| "it keeps nothing".to_owned(), |fault| fault.to_string());
                return Ok(Err(format!(
                    "what it sent in round {} of its streak is wrong: {why}",
                    past.round
                )));
            };
            kept = Some(after);
        }
        Ok(Ok(kept))
    }

    /// What the worker had kept after a round of its streak in which its update did not count. There is no record of
    /// that: its task follows from those of the others.
    fn waited(
        &mut self,
        update: &UpdateRecord,
        task: &TrainTask,
        at: usize,
        record: &RoundRecord,
        kept: Option<Arc<Streak>>,
    ) -> Result<Arc<Streak>, CliError> {
        let past = task.streak[at];
        let Some(other) = record.updates.iter().find(|other| !other.refused()) else {
            return Err(self.contradiction(update, "a round of its streak has no update"));
        };
        let shared = std::mem::take(&mut self.shared);
        let mut round = Replayed { record, common: None, shared, ..*self };
        let template = other.task().map_err(|cause| round.contradiction(other, &cause))?;
        round.check(other, &template)?;
        let failed = |cause: &dyn ToString| round.contradiction(update, &cause.to_string());
        let plan = Plan::of(&template).map_err(|cause| failed(&cause))?;
        let set = sizes::data(&template);
        let path = format!("/api/v1/datasets/{}/blocks", BlobHash(set.root()));
        let names: Vec<String> = round.client.get(&path, |_| {})?;
        let names: Vec<BlobHash> = names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()
            .map_err(|cause| failed(&cause))?;
        let tree = Tree::new(names.iter().map(leaf).collect()).filter(|tree| tree.root() == set.tree);
        let tree = tree.ok_or_else(|| failed(&"the names of the data set's blocks are not the run's"))?;
        let part = plan.part();
        let indices = part.order.blocks(past.round, past.worker, part.steps, part.sequences);
        let mut blocks = Vec::new();
        for index in indices.map_err(|cause| failed(&cause))? {
            let bytes = set.block_bytes(index).map_err(|cause| failed(&cause))? as u64;
            let (Some(hash), Some(proof)) = (names.get(index as usize), tree.proof(index)) else {
                return Err(failed(&"the data set has fewer blocks than the order deals"));
            };
            blocks.push(TokenBlock { index, blob: BlobRef { hash: *hash, bytes }, proof });
        }
        let streak = task.streak[..at].to_vec();
        let codec = UpdateCodec::TopK;
        let own = TrainTask { worker: past.worker, codec, streak, blocks, ..template };
        let repeated = round.repeat(update, &own, kept, Way::Plain)?;
        self.shared = round.shared;
        match repeated {
            Repeated::Sparse(taken) => {
                Streak::unsent(taken).map(Arc::new).map_err(|cause| self.contradiction(update, &cause))
            }
            Repeated::Dense(_) => Err(self.contradiction(update, "its streak has a round of another codec")),
        }
    }

    /// Whether a task is what this run and round ask of this worker.
    fn check(&mut self, update: &UpdateRecord, task: &TrainTask) -> Result<(), CliError> {
        let root = BlobHash(sizes::data(task).root()).to_string();
        let facts = [
            (task.model == self.run.model.into(), "the task is for another model than the run's"),
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
        // What may differ between workers: number, codec, streak, steps, blocks, and the checkpoint they started from.
        let common = TrainTask {
            worker: 0,
            steps: 0,
            codec: UpdateCodec::F32,
            streak: Vec::new(),
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
    fn repeat(
        &mut self,
        update: &UpdateRecord,
        task: &TrainTask,
        kept: Option<Arc<Streak>>,
        way: Way,
    ) -> Result<Repeated, CliError> {
        let shared = [&task.checkpoint].into_iter().chain(&task.outer_steps);
        let mut shared = shared.map(|blob| self.shared(update, blob)).collect::<Result<Vec<_>, _>>()?;
        let checkpoint = shared.remove(0);
        let blocks = task.blocks.iter().map(|block| Ok(Arc::new(self.blob(update, &block.blob)?)));
        let inputs = TrainInputs {
            checkpoint,
            outer_steps: shared,
            blocks: blocks.collect::<Result<_, CliError>>()?,
            kept,
        };
        let failed = |cause: &dyn ToString| self.contradiction(update, &cause.to_string());
        let prepared = Prepared::new(task, inputs).map_err(|cause| failed(&cause))?.in_way(way);
        let engine = Reference::new(prepared.model()).map_err(|cause| failed(&cause))?;
        let run = ready(TrainRun::start(&prepared, engine));
        let mut run = run.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))?;
        let progress = Progress::parts("replaying", u64::from(task.steps));
        while !run.progress().complete() {
            if self.client.stop().count() > 0 {
                return Err(CliError::Interrupted { job: None });
            }
            let step = ready(run.step());
            let step = step.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))?;
            progress.set(u64::from(step.done), &format!("round {}, worker {}", task.round, task.worker));
        }
        progress.finish(&format!("round {}, worker {}, {} steps", task.round, task.worker, task.steps));
        let repeated = ready(run.repeat());
        repeated.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))
    }

    /// A blob that all workers of the round need: fetched once.
    fn shared(&mut self, update: &UpdateRecord, blob: &BlobRef) -> Result<Arc<Vec<u8>>, CliError> {
        if let Some(bytes) = self.shared.get(&blob.hash) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.blob(update, blob)?);
        self.shared.insert(blob.hash, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// A blob of the length that the task says.
    fn blob(&self, update: &UpdateRecord, blob: &BlobRef) -> Result<Vec<u8>, CliError> {
        if blob.bytes > MAX_CHECKPOINT_BYTES as u64 {
            let cause =
                format!("a blob is said to have {} bytes; the limit is {MAX_CHECKPOINT_BYTES}", blob.bytes);
            return Err(self.contradiction(update, &cause));
        }
        let bytes = read_bytes(self.client, &format!("/api/v1/blobs/{}", blob.hash), blob.bytes)?;
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
