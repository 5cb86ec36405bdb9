//! What the HTTP API says of the public log, and of what follows from it, as types.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The public log, as `GET /api/v1/log` tells it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogInfo {
    /// Its name, as in its checkpoints.
    pub origin: String,
    /// The key that signs its checkpoints, as C2SP signed-note writes it.
    pub key: String,
    /// Entries that are published.
    pub entries: u64,
    /// Root of the tree of these, in base64.
    pub root: String,
    /// The signed checkpoint that says so, with the cosignatures that it has so far.
    pub checkpoint: String,
    /// The last checkpoint that has the quorum's cosignatures; without a quorum, the last that was cosigned by anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosigned: Option<String>,
    /// Keys of the witnesses that the operator names, as C2SP signed-note writes keys.
    #[serde(default)]
    pub witnesses: Vec<String>,
    /// How many of these have to cosign a checkpoint before it counts.
    #[serde(default)]
    pub quorum: u32,
}

/// An entry of the public log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EntryInfo {
    /// Its index.
    pub index: u64,
    /// What it says.
    pub entry: serde_json::Value,
}

/// Entries about a volunteer's work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Receipts {
    /// In order.
    pub entries: Vec<EntryInfo>,
    /// From where to ask next.
    pub next: u64,
    /// Whether more are there already.
    pub more: bool,
}

/// A text that a person signed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStatement {
    /// The text.
    pub body: String,
    /// The Ed25519 key, 64 hexadecimal digits.
    pub key: String,
    /// The signature over the text's bytes, 128 hexadecimal digits.
    pub signature: String,
}

/// Something stands in the log.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Logged {
    /// Its index. Its receipt can be had when the next checkpoint is signed.
    pub index: u64,
}

/// Cosignatures of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCosignatures {
    /// Entries of the checkpoint.
    pub size: u64,
    /// The cosignatures, one a line, as C2SP signed-note writes signatures.
    pub lines: String,
    /// Whose they are, if not a witness's that the operator names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volunteer: Option<VolunteerWitness>,
}

/// A volunteer as a witness.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolunteerWitness {
    /// The key that cosigns, as C2SP signed-note writes keys.
    pub key: String,
    /// The volunteer's public key, 64 hexadecimal digits.
    pub volunteer: String,
    /// The volunteer's signature over the lines `potluck witness key v1`, the log's origin, and `key`, each with a line
    /// break at its end: 128 hexadecimal digits.
    pub signature: String,
}

/// Cosignatures were taken.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Cosigned {
    /// Cosignatures that the checkpoint has now.
    pub cosignatures: u32,
    /// Whether these are the quorum's.
    pub quorum_met: bool,
}

/// A candidate to be promoted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPromotion {
    /// The hash of its parameters.
    pub candidate: String,
}

/// A version to go back to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRollback {
    /// The model.
    pub model: String,
    /// The version before the one in use, by the hash of its parameters.
    pub to: String,
    /// The proposal that passed, or the appeal that was upheld.
    pub proposal: String,
}

/// A parameter of the constitution to be set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewParameter {
    /// Its name.
    pub name: String,
    /// Its new value.
    pub value: i64,
    /// The proposal that passed.
    pub proposal: String,
}

/// A kernel or engine that volunteers may run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKernel {
    /// What it is called.
    pub name: String,
    /// Its hash.
    pub hash: String,
    /// The proposal that passed.
    pub proposal: String,
}

/// A data set, or a part of one, that was approved.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovedDataSet {
    /// Its id in the log.
    pub id: String,
    /// The proposal that passed.
    pub proposal: String,
}

/// Receipts of a candidate.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CandidateReceipts {
    /// The model.
    pub model: String,
    /// The receipt of the candidate's entry.
    pub candidate: String,
    /// The receipt of its last promotion's, if it was promoted.
    pub promotion: Option<String>,
    /// Whether it is the version in use.
    pub in_use: bool,
}
