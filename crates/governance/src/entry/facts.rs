//! Entries about what happened: work, rounds, candidates, incidents.
//!
//! Units: weights, rates and shares in parts per million, losses in micro-nats, lengths in bytes.

use crate::canonical::{FormError, name, visible, within};
use crate::key::Key;
use crate::kinds::Fields;
use crate::limits::{
    MAX_EVALUATORS, MAX_EXCLUDED, MAX_NAME_BYTES, MAX_REASON_BYTES, MAX_ROUNDS, MAX_RUN_DATA_SETS,
    MAX_UPDATES, MAX_WORKER,
};
use crate::statement::Target;
use potluck_types::{BlobHash, JobId};
use serde::{Deserialize, Serialize};

/// A loss or a difference of losses, in millionths of a nat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroNats(#[serde(with = "crate::canonical::signed")] pub i64);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}
pub(super) use fields;

fields! {
    /// The hash of the secret that checks and audits are drawn from, before anything is.
    EpochCommitted {
        /// The relay's start.
        incarnation: u32,
        /// BLAKE3 of the secret, with the context of [`crate::commitment`].
        #[serde(with = "crate::hex")]
        commitment: BlobHash,
    }
    /// The secret, when nothing is drawn from it any more.
    EpochOpened {
        /// The relay's start.
        incarnation: u32,
        /// The secret, in 32 bytes.
        #[serde(with = "crate::hex")]
        secret: BlobHash,
    }
    /// A job: products of matrices.
    Job {
        /// The job.
        #[serde(with = "crate::hex")]
        job: JobId,
        /// What its submitter called it.
        name: String,
        /// Hash of what was asked for.
        #[serde(with = "crate::hex")]
        spec: BlobHash,
        /// Who sent it, if it said so.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        submitter: Option<Key>,
    }
    /// A training run.
    Run {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// What its submitter called it.
        name: String,
        /// Hash of what was asked for: what a proposal for the run names as its body.
        #[serde(with = "crate::hex")]
        request: BlobHash,
        /// Hash of the checkpoint that it starts from.
        #[serde(with = "crate::hex")]
        checkpoint: BlobHash,
        /// Hash of the parameters that it starts from.
        #[serde(with = "crate::hex")]
        parameters: BlobHash,
        /// Data sets, each logged before.
        data_sets: Vec<String>,
        /// The model that it trains. Without one, nothing of it can be promoted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// The proposal that allowed it.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        proposal: Option<BlobHash>,
    }
    /// A data set.
    DataSet {
        /// Its id.
        id: String,
        /// What people call it.
        name: String,
        /// Hash of its manifest: what a proposal for it names as its body.
        #[serde(with = "crate::hex")]
        manifest: BlobHash,
        /// Tokens in it.
        #[serde(with = "crate::canonical::int")]
        tokens: u64,
        /// Where it is from.
        source: String,
        /// Under which license.
        license: String,
        /// Who proposed it, if it said so.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        proposed_by: Option<Key>,
        /// The proposal that allowed it.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        proposal: Option<BlobHash>,
    }
    /// All commits of a round are in: from here on its audits may be drawn.
    Commits {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// How often the round was begun, from 0.
        attempt: u32,
        /// Commits.
        count: u32,
        /// BLAKE3 of the commits in the order of their workers.
        #[serde(with = "crate::hex")]
        commits: BlobHash,
    }
    /// A result was verified and is durable.
    ResultAccepted {
        /// Whose it is.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// The job.
        #[serde(with = "crate::hex")]
        job: JobId,
        /// The shard, as the job numbers them.
        shard: String,
        /// Hash of the result.
        #[serde(with = "crate::hex")]
        result: BlobHash,
        /// Its length.
        #[serde(with = "crate::canonical::int")]
        bytes: u64,
        /// How it was checked.
        check: String,
    }
    /// A result was refused.
    ResultRejected {
        /// Whose it is.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// The job.
        #[serde(with = "crate::hex")]
        job: JobId,
        /// The shard, as the job numbers them.
        shard: String,
        /// Hash that was claimed.
        #[serde(with = "crate::hex")]
        result: BlobHash,
        /// Length that was claimed.
        #[serde(with = "crate::canonical::int")]
        bytes: u64,
        /// How it was checked.
        check: String,
        /// Why it was refused.
        reason: String,
    }
    /// An update was taken; an aggregate may contain it.
    UpdateAccepted {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// How often the round was begun, from 0.
        attempt: u32,
        /// The worker.
        worker: u32,
        /// Who held it.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// Hash of the update.
        #[serde(with = "crate::hex")]
        update: BlobHash,
        /// Its weight.
        weight_ppm: u32,
        /// Whether it was replayed and passed.
        audited: bool,
        /// A number for the cluster of its volunteer. It says which share one cluster has, and not who is in it.
        cluster: u32,
    }
    /// An update was refused.
    UpdateRejected {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// How often the round was begun, from 0.
        attempt: u32,
        /// The worker.
        worker: u32,
        /// Who held it.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// Hash that was claimed.
        #[serde(with = "crate::hex")]
        update: BlobHash,
        /// Whether it was replayed and failed.
        audited: bool,
        /// Why it was refused.
        reason: String,
    }
    /// A worker's round was replayed. The last verdict on it counts.
    Audit {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// The worker.
        worker: u32,
        /// Who held it.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// What the replay said.
        verdict: AuditVerdict,
    }
    /// One update in an aggregate.
    AggregatedUpdate {
        /// Whose it is.
        #[serde(with = "crate::hex")]
        volunteer: Key,
        /// Its hash.
        #[serde(with = "crate::hex")]
        update: BlobHash,
        /// Its weight.
        weight_ppm: u32,
    }
    /// A round was closed: from these parameters, with these updates, to those parameters.
    Aggregate {
        /// The run.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// Hash of the parameters before.
        #[serde(with = "crate::hex")]
        parameters: BlobHash,
        /// Hash of the parameters after.
        #[serde(with = "crate::hex")]
        next_parameters: BlobHash,
        /// Hash of the outer step as it is sent.
        #[serde(with = "crate::hex")]
        step: BlobHash,
        /// Hash of the checkpoint, where there is one.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<BlobHash>,
        /// Validation loss afterwards, where it was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<MicroNats>,
        /// Whether all parameters and losses are finite numbers.
        finite: bool,
        /// What was combined: at most [`crate::limits::MAX_UPDATES`].
        updates: Vec<AggregatedUpdate>,
    }
    /// Parameters that may become a version of a model. Known by the hash of its parameters.
    Candidate {
        /// The model.
        model: String,
        /// The run that they are from.
        #[serde(with = "crate::hex")]
        run: JobId,
        /// The round after which they stood.
        #[serde(with = "crate::canonical::int")]
        round: u64,
        /// Hash of the parameters.
        #[serde(with = "crate::hex")]
        parameters: BlobHash,
        /// Hash of the checkpoint that holds them.
        #[serde(with = "crate::hex")]
        checkpoint: BlobHash,
        /// Whose updates, and which data sets, were left out when it was made again from logged updates.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rebuilt_without: Vec<Source>,
    }
    /// An eval card, and the numbers in it that the gate asks for. A later card replaces it.
    Card {
        /// The candidate.
        #[serde(with = "crate::hex")]
        candidate: BlobHash,
        /// Hash of the card.
        #[serde(with = "crate::hex")]
        card: BlobHash,
        /// Loss of the candidate on the secret set.
        loss: MicroNats,
        /// The version that it is compared with, if the model has one.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        incumbent: Option<BlobHash>,
        /// Loss of that on the same set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incumbent_loss: Option<MicroNats>,
        /// Standard error of the difference, not below 0.
        standard_error: MicroNats,
        /// Triggers that succeeded.
        trigger_success_ppm: u32,
        /// Shards of the secret set.
        shards: u32,
        /// Volunteers who computed them.
        #[serde(with = "crate::hex")]
        computed_by: Vec<Key>,
    }
    /// Something went wrong. All but [`Trigger::Other`] pause.
    Incident {
        /// What.
        trigger: Trigger,
        /// In which run, if in one.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        run: Option<JobId>,
        /// Whose relay, if that is known: that operator has no vote on it.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        operator: Option<Key>,
        /// What is known about it.
        detail: String,
    }
}

/// What a replay said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditVerdict {
    /// The update is what its worker's data give.
    Passed,
    /// It is not.
    Failed,
}

/// What a model can be made without: see [`Target`] for its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Source(#[serde(with = "crate::canonical::display")] pub Target);

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trigger {
    /// The validation loss rose too far in a round.
    LossRise,
    /// A parameter or loss is no finite number.
    NonFinite,
    /// Too many audits of a round failed.
    AuditFailures,
    /// One cluster has too much of a round's weight.
    ClusterShare,
    /// Two checkpoints of the log contradict each other. Concerns every operator.
    Fork,
    /// Something else: recorded, and left to people.
    Other,
}

fn place(round: u64, worker: u32) -> Result<(), FormError> {
    within("round", round, 0, MAX_ROUNDS)?;
    within("worker", u64::from(worker), 0, u64::from(MAX_WORKER))
}

fn ppm(field: &'static str, value: u32) -> Result<(), FormError> {
    within(field, u64::from(value), 0, 1_000_000)
}

fn result(shard: &str, check: &str) -> Result<(), FormError> {
    name("shard", shard)?;
    name("check", check)
}

impl Fields for EpochCommitted {
    fn validate(&self) -> Result<(), FormError> {
        Ok(())
    }
}

impl Fields for EpochOpened {
    fn validate(&self) -> Result<(), FormError> {
        Ok(())
    }
}

impl Fields for Job {
    fn validate(&self) -> Result<(), FormError> {
        // Jobs may be called anything that their submitter sent, also nothing.
        if self.name.is_empty() { Ok(()) } else { name("name", &self.name) }
    }
}

impl Fields for Run {
    fn validate(&self) -> Result<(), FormError> {
        if !self.name.is_empty() {
            name("name", &self.name)?;
        }
        within("data_sets", self.data_sets.len() as u64, 0, MAX_RUN_DATA_SETS as u64)?;
        self.data_sets.iter().try_for_each(|id| name("data_sets", id))?;
        self.model.iter().try_for_each(|model| name("model", model))
    }
}

impl Fields for DataSet {
    fn validate(&self) -> Result<(), FormError> {
        name("id", &self.id)?;
        name("name", &self.name)?;
        visible("source", &self.source, MAX_REASON_BYTES, false)?;
        visible("license", &self.license, MAX_REASON_BYTES, false)
    }
}

impl Fields for Commits {
    fn validate(&self) -> Result<(), FormError> {
        place(self.round, 0)
    }
}

impl Fields for ResultAccepted {
    fn validate(&self) -> Result<(), FormError> {
        result(&self.shard, &self.check)
    }
}

impl Fields for ResultRejected {
    fn validate(&self) -> Result<(), FormError> {
        result(&self.shard, &self.check)?;
        visible("reason", &self.reason, MAX_REASON_BYTES, false)
    }
}

impl Fields for UpdateAccepted {
    fn validate(&self) -> Result<(), FormError> {
        ppm("weight_ppm", self.weight_ppm)?;
        place(self.round, self.worker)
    }
}

impl Fields for UpdateRejected {
    fn validate(&self) -> Result<(), FormError> {
        visible("reason", &self.reason, MAX_REASON_BYTES, false)?;
        place(self.round, self.worker)
    }
}

impl Fields for Audit {
    fn validate(&self) -> Result<(), FormError> {
        place(self.round, self.worker)
    }
}

impl Fields for Aggregate {
    fn validate(&self) -> Result<(), FormError> {
        place(self.round, 0)?;
        within("updates", self.updates.len() as u64, 0, MAX_UPDATES as u64)?;
        self.updates.iter().try_for_each(|update| ppm("weight_ppm", update.weight_ppm))
    }
}

impl Fields for Candidate {
    fn validate(&self) -> Result<(), FormError> {
        name("model", &self.model)?;
        place(self.round, 0)?;
        within("rebuilt_without", self.rebuilt_without.len() as u64, 0, MAX_EXCLUDED as u64)
    }
}

impl Fields for Card {
    fn validate(&self) -> Result<(), FormError> {
        ppm("trigger_success_ppm", self.trigger_success_ppm)?;
        within("computed_by", self.computed_by.len() as u64, 1, MAX_EVALUATORS as u64)?;
        let problem = if self.standard_error.0 < 0 {
            "it is negative: give the standard error of the difference"
        } else if self.incumbent.is_some() != self.incumbent_loss.is_some() {
            "the incumbent and its loss belong together: give both or neither"
        } else {
            return Ok(());
        };
        Err(FormError::Text { field: "card", problem })
    }
}

impl Fields for Incident {
    fn validate(&self) -> Result<(), FormError> {
        visible("detail", &self.detail, MAX_REASON_BYTES, true)?;
        within("detail", self.detail.len() as u64, 1, (MAX_REASON_BYTES.max(MAX_NAME_BYTES)) as u64)
    }
}
