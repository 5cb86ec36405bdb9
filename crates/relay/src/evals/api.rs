//! What the API says of candidates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A candidate to be made of a run's parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCandidate {
    /// The last round that is in it; the last that is closed, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// The model that it may become a version of: that of the run, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What to make it again without: `volunteer:KEY` or `data_set:ID`, as quarantines name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Whether to take the steps of what is left again: without, what is left was computed with the others in the
    /// model, and the loss may be much higher.
    #[serde(default)]
    pub again: bool,
    /// A short eval, for tests and for communities that try things out.
    #[serde(default)]
    pub hasty: bool,
}

/// A candidate, and how far its eval is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CandidateInfo {
    /// BLAKE3 hash of its parameters, f32, little-endian: its name in log, votes and cards.
    pub parameters: String,
    /// The model that it may become a version of.
    pub model: String,
    /// The run that it is from.
    pub run: String,
    /// The last round that is in it.
    pub round: u64,
    /// What it was made again without.
    pub without: Vec<String>,
    /// The version that it is compared with, if the model has one.
    pub incumbent: Option<String>,
    /// Name of its eval: volunteers' results stand under it in the log.
    pub eval: String,
    /// `evaluating`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// 32 bytes in hexadecimal that windows and spot checks were drawn from, once the card is made: with them anybody
    /// can draw the same.
    pub secret: Option<String>,
    /// BLAKE3 hash of the eval card: `GET /api/v1/blobs/HASH`.
    pub card: Option<String>,
    /// How far volunteers are.
    pub progress: Option<EvalInfo>,
}

/// How far an eval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvalInfo {
    /// Shards in all.
    pub shards: u32,
    /// Shards whose answers are settled.
    pub done: u32,
    /// Answers that wait for others' to be compared with.
    pub waiting: u32,
    /// Volunteers at work.
    pub leased: u32,
    /// Answers that were wrong.
    pub rejected: u32,
}

/// Text to be continued.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSample {
    /// What is continued.
    pub prompt: String,
    /// Tokens to write.
    pub tokens: u32,
    /// Decides all draws, with the prompt.
    #[serde(default)]
    pub seed: u64,
    /// Logits are divided by it; 0 takes the likeliest token always.
    #[serde(default = "one")]
    pub temperature: f32,
}

const fn one() -> f32 {
    1.0
}

/// What a model wrote.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// The continuation, without the prompt.
    pub text: String,
}
