//! What the relay and its clients say about training runs, as JSON.

use potluck_proto::{ModelSizes, ModelSpec, TrainTask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A data set that the relay took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSetInfo {
    /// Its root, in hexadecimal digits.
    pub id: String,
    /// Tokens.
    pub tokens: u64,
    /// Size of the vocabulary.
    pub vocabulary: u64,
    /// Blocks.
    pub blocks: u64,
}

/// Parameters that the relay took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersInfo {
    /// Hash of the f32, little-endian.
    pub id: String,
    /// How many.
    pub parameters: u64,
}

/// The learning rate of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// After the warm-up.
    pub peak: f64,
    /// At the end.
    pub least: f64,
    /// Steps of warm-up.
    pub warmup: u32,
    /// Steps of warm-up whenever AdamW begins anew; the relay's default if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_warmup: Option<u32>,
}

/// A model: sizes of a GPT-2, or the name of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Model {
    /// A GPT-2.
    Gpt(ModelSizes),
    /// Another.
    Named(NamedModel),
}

/// Models that are no GPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedModel {
    /// The classifier of handwritten digits.
    Digits,
}

impl From<Model> for ModelSpec {
    fn from(model: Model) -> Self {
        match model {
            Model::Gpt(sizes) => Self::Gpt(sizes),
            Model::Named(NamedModel::Digits) => Self::Digits,
        }
    }
}

/// A run that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewRun {
    /// What volunteers see.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Data set to train on.
    pub train: String,
    /// Data set to validate with.
    pub validation: String,
    /// `tokenizer.json` as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Seed of parameters and data order, 64 hexadecimal digits.
    pub seed: String,
    /// Rounds.
    pub rounds: u64,
    /// Inner steps of a round.
    pub inner_steps: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub length: u32,
    /// Learning rate.
    pub rate: Rate,
    /// Codec of updates.
    pub codec: String,
    /// Blocks dealt to a worker for a round; 0 for the whole data set.
    pub blocks: u32,
    /// Fewest workers of a round.
    pub min_workers: u32,
    /// Most workers of a round.
    pub max_workers: u32,
    /// `default`, `all`, `none`, or rates.
    pub audit: Value,
    /// How the combined update moves the parameters, if not by the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Value>,
    /// How updates are combined, if not by the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Value>,
    /// Hash of parameters to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The model that it trains, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The proposal that allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Its id.
    pub id: String,
    /// What volunteers see.
    pub name: String,
    /// `running`, `paused`, `done` or `canceled`.
    pub state: String,
    /// Why it is paused or canceled.
    #[serde(default)]
    pub reason: Option<String>,
    /// The model.
    pub model: Model,
    /// The next round: as many are done.
    pub round: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// What the round does now.
    #[serde(default)]
    pub phase: Value,
    /// Volunteers at work now.
    #[serde(default)]
    pub workers: u32,
    /// Parameters of the model.
    pub parameters: u64,
    /// Data set that is trained on, if the relay says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
    /// Rounds that are done.
    #[serde(default)]
    pub history: Vec<RoundInfo>,
}

/// A round that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundInfo {
    /// Its number, from 0.
    pub round: u64,
    /// Updates that counted.
    #[serde(default)]
    pub workers: u32,
    /// Updates that did not.
    #[serde(default)]
    pub rejected: u32,
    /// Mean loss of the workers' batches, in nats per token.
    #[serde(default)]
    pub train_loss: Option<f64>,
    /// Loss on the validation part afterward.
    #[serde(default)]
    pub validation_loss: Option<f64>,
    /// Bytes from volunteers.
    #[serde(default)]
    pub upload_bytes: u64,
    /// Bytes to volunteers.
    #[serde(default)]
    pub download_bytes: u64,
    /// Tokens that were trained on.
    #[serde(default)]
    pub tokens: u64,
    /// Duration.
    #[serde(default)]
    pub seconds: f64,
    /// How updates were combined.
    #[serde(default)]
    pub rule: Value,
}

/// The record of a round that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// The round.
    pub round: u64,
    /// Hash of the parameters where it starts.
    pub parameters_hash: String,
    /// Hash of the parameters that it leads to.
    #[serde(default)]
    pub next_parameters_hash: Option<String>,
    /// Hash of the outer step.
    #[serde(default)]
    pub step: Option<String>,
    /// Hash of the checkpoint, if it ends with one.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// How its updates were combined.
    #[serde(default)]
    pub combined: Value,
    /// What workers sent.
    pub updates: Vec<UpdateRecord>,
}

/// A worker's update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// The worker's number in the round.
    pub worker: u32,
    /// The volunteer's key.
    pub volunteer: String,
    /// What computed.
    #[serde(default)]
    pub backend: Value,
    /// What its vote was worth, 0 to 1.
    #[serde(default)]
    pub weight: f64,
    /// Whether the relay replayed it.
    #[serde(default)]
    pub audited: bool,
    /// Hash of the result: losses and encoded update.
    pub result: String,
    /// What the worker had to do.
    pub task: Value,
    /// What the relay found.
    #[serde(default)]
    pub verdict: Value,
}

impl UpdateRecord {
    /// Whether the relay refused it, so that it did not count.
    pub fn refused(&self) -> bool {
        self.verdict.as_str().is_some_and(|verdict| verdict != "accepted")
    }

    /// The task. Hashes may be hexadecimal digits or bytes.
    ///
    /// # Errors
    /// What the JSON is instead.
    pub fn task(&self) -> Result<TrainTask, serde_json::Error> {
        serde_json::from_value(bytes_for_digits(self.task.clone()))
    }
}

/// Each text of 64 hexadecimal digits becomes its 32 bytes.
fn bytes_for_digits(value: Value) -> Value {
    match value {
        Value::String(text) => match text.parse::<potluck_types::BlobHash>() {
            Ok(hash) => hash.0.to_vec().into(),
            Err(_) => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(bytes_for_digits).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, bytes_for_digits(value))).collect()
        }
        other => other,
    }
}
