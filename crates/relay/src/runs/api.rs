//! What the HTTP API says of training runs, as types.

pub use super::manifest::{ManifestInfo, NewManifest, NewPart, PartInfo};

use potluck_proto::{ModelSizes, ModelSpec};
use potluck_train::gpt::FRESH_WARMUP;
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A data set that was uploaded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DataSetInfo {
    /// Root of the data set, hexadecimal: names it in runs.
    pub id: String,
    /// Tokens.
    pub tokens: u64,
    /// Size of the vocabulary.
    pub vocabulary: u32,
    /// Blocks of tokens that volunteers fetch.
    pub blocks: u32,
    /// Under which ids it stands in the log: its parts, or itself.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// What a run's model writes after so many rounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunSample {
    /// Rounds closed before.
    pub round: u64,
    /// What was continued.
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// Parameters that were uploaded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ParametersInfo {
    /// BLAKE3 hash of the bytes, hexadecimal: names them in runs.
    pub id: String,
    /// How many there are.
    pub parameters: u64,
}

/// A model: sizes of a GPT-2, or the name of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a model is the sizes of a GPT (vocabulary, context, layers, heads, width, bias), or \"digits\""
)]
pub enum Model {
    /// A GPT-2.
    Gpt(Gpt),
    /// Another.
    Named(NamedModel),
}

/// Models that are no GPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NamedModel {
    /// The classifier of handwritten digits: its data sets are records of 64 pixels (0 to 16) and the digit.
    Digits,
}

/// Sizes of a GPT-2 model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpt {
    /// Tokens that there are.
    pub vocabulary: u32,
    /// Most tokens of a sequence.
    pub context: u32,
    /// Blocks of attention and MLP.
    pub layers: u32,
    /// Heads of attention.
    pub heads: u32,
    /// Channels.
    pub width: u32,
    /// Whether matrices and norms have biases.
    pub bias: bool,
}

impl From<Model> for ModelSpec {
    fn from(model: Model) -> Self {
        match model {
            Model::Gpt(Gpt { vocabulary, context, layers, heads, width, bias }) => {
                Self::Gpt(ModelSizes { vocabulary, context, layers, heads, width, bias })
            }
            Model::Named(NamedModel::Digits) => Self::Digits,
        }
    }
}

/// Learning rate of the inner steps: linear warm-up, then a cosine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// After the warm-up.
    pub peak: f64,
    /// At the end.
    pub least: f64,
    /// Steps of warm-up.
    pub warmup: u32,
    /// Steps of warm-up whenever AdamW begins anew, half of a round at most; 2 if missing.
    #[serde(default = "fresh_warmup", skip_serializing_if = "is_usual")]
    pub fresh_warmup: u32,
}

fn fresh_warmup() -> u32 {
    FRESH_WARMUP
}

/// What is usual is not written, so that a request's text, and so its hash, stays what it was.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_usual(fresh_warmup: &u32) -> bool {
    *fresh_warmup == FRESH_WARMUP
}

/// Whose updates are replayed: `default`, `all` or `none`, or rates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "audit is \"default\", \"all\", \"none\", or { first, start, decay, least }")]
pub enum Audit {
    /// A policy by its name.
    Named(String),
    /// Rates.
    Rates(AuditRates),
}

/// How often updates are replayed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditRates {
    /// Replays that a key has to pass before one of its updates may go unreplayed.
    pub first: u32,
    /// Share after these, 0 to 1.
    pub start: f64,
    /// Factor for each further replay passed, 0 to 1.
    pub decay: f64,
    /// Least share, 0 to 1.
    pub least: f64,
}

/// Nesterov's momentum over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OuterRules {
    /// Learning rate: 0.001 to 10.
    pub rate: f64,
    /// Decay of the momentum: 0 to 0.999.
    pub momentum: f64,
}

/// How dense updates are combined. Norms are clipped to their median whatever these say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AggregationRules {
    /// Share left out at either end of each coordinate: 0 to 0.49.
    pub trim: f64,
    /// Updates from which on that is done: at least 3.
    pub trim_from: u32,
    /// Updates from which on the median is taken; fewer all have to be replayed. At most `trim_from`.
    pub median_from: u32,
}

/// A run to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// A name that volunteers see; at most 80 characters.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Id of the data set to train on.
    pub train: String,
    /// Id of the data set to validate with.
    pub validation: String,
    /// `tokenizer.json` as text, for those who export the model; at most 8 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Seed of parameters and data order: 64 hexadecimal digits.
    pub seed: String,
    /// Rounds in all.
    pub rounds: u64,
    /// Inner steps of a round.
    pub inner_steps: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub length: u32,
    /// Learning rate.
    pub rate: Rate,
    /// How updates are encoded: `f32`, `f16`, `int8`, `int4`, `topk`, or `auto` for int4 and, from credible volunteers
    /// with slow links, topk.
    pub codec: String,
    /// Blocks dealt to a worker for a round; 0 for the whole data set.
    pub blocks: u32,
    /// Workers without which no round opens.
    pub min_workers: u32,
    /// Most workers of a round.
    pub max_workers: u32,
    /// Whose updates are replayed.
    pub audit: Audit,
    /// How the combined update moves the parameters; DiLoCo's constants if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<OuterRules>,
    /// How updates are combined; the usual rule if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<AggregationRules>,
    /// Id of parameters to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The model that it trains: what it comes to may become a version of it. 1 to 80 letters, digits, dots, dashes and
    /// underscores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The proposal that allowed it, by the hash of its signed text. A run that trains a model takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
}

impl NewRun {
    /// What a proposal names by its BLAKE3 hash, and the run's entry in the log too: this request as compact JSON, with the
    /// tokenizer's hash in its place, and without the proposal, which names this.
    pub(crate) fn request_text(&self, tokenizer: Option<BlobHash>) -> String {
        let tokenizer = tokenizer.map(|hash| hash.to_string());
        serde_json::to_string(&Self { tokenizer, proposal: None, ..self.clone() }).unwrap_or_default()
    }

    /// The hash of the tokenizer's text.
    pub(crate) fn tokenizer_hash(&self) -> Option<BlobHash> {
        self.tokenizer.as_ref().map(|text| BlobHash::of(text.as_bytes()))
    }
}

/// The hash of a run's request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RunHash {
    /// The hash: what a proposal for the run names as its body.
    pub hash: String,
    /// The text that has it.
    pub request: String,
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RunInfo {
    /// Id, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `running`, `paused`, `done` or `canceled`.
    #[schema(value_type = super::store::RunState)]
    pub state: String,
    /// Why it is paused.
    pub reason: Option<String>,
    /// The name of the model that it trains, if it trains one.
    #[serde(default)]
    pub model_name: Option<String>,
    /// The proposal that allowed it.
    #[serde(default)]
    pub proposal: Option<String>,
    /// The model.
    pub model: Model,
    /// The next round: as many are done.
    pub round: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// What the round does now: `preparing`, `gathering`, `open`, `auditing`, `closing` or `paused`.
    pub phase: Option<String>,
    /// Volunteers at work in the round, or asking for it.
    pub workers: u32,
    /// Workers without which no round opens.
    pub min_workers: u32,
    /// Parameters of the model.
    pub parameters: u64,
    /// Id of the data set that is trained on.
    pub train: String,
    /// Rounds that are done. Missing in lists.
    #[serde(default)]
    pub history: Vec<RoundInfo>,
}

/// A round that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoundInfo {
    /// Its number, from 0.
    pub round: u64,
    /// Updates that counted.
    pub workers: u32,
    /// Updates that were refused.
    pub rejected: u32,
    /// Mean loss of the workers' batches, in nats a token.
    pub train_loss: f64,
    /// Loss on the validation data afterward, in nats a token.
    pub validation_loss: f64,
    /// Bytes of updates that came from volunteers.
    pub upload_bytes: u64,
    /// Bytes of inputs that went to volunteers.
    pub download_bytes: u64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// From the round's preparation until it was durable.
    pub seconds: f64,
    /// How updates were combined.
    pub rule: String,
}

/// The record of a round that is done: enough to repeat it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RoundRecord {
    /// The round.
    pub round: u64,
    /// Hash of the parameters where it starts.
    pub parameters_hash: String,
    /// Hash of those that it leads to.
    pub next_parameters_hash: String,
    /// Blob of the outer step.
    pub step: String,
    /// Blob of the checkpoint that it ends with, if it ends with one.
    pub checkpoint: Option<String>,
    /// What workers sent, the refused updates among it.
    pub updates: Vec<UpdateRecord>,
    /// How they were combined.
    pub combined: serde_json::Value,
}

/// A worker's update.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpdateRecord {
    /// The worker's number in the round.
    pub worker: u32,
    /// Public name of the volunteer, hexadecimal.
    pub volunteer: String,
    /// `webgpu`, `wasm`, `gpu` or `cpu`.
    pub backend: String,
    /// What its vote was worth, 0 to 1.
    pub weight: f64,
    /// Whether the relay replayed it.
    pub audited: bool,
    /// Blob of losses and encoded update.
    pub result: String,
    /// What the worker had to do.
    pub task: serde_json::Value,
    /// `accepted`, or what is wrong with it.
    pub verdict: String,
}
