//! What the HTTP API says, as types; `/api/openapi.json` is made from these.

pub use crate::log::api::*;
pub use crate::log::shown::*;
pub use crate::switches::{SwitchKind, SwitchedOff};

use crate::ingest::IngestError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Why a request was refused.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// Stable code, for programs.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Of something that the log does not justify: each step that is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    #[serde(skip, default = "internal_status")]
    #[schema(ignore)]
    status: StatusCode,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after_s: u64,
}

/// When to try again, in seconds, unless something else is said.
const RETRY_AFTER_S: u64 = 2;

fn internal_status() -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>, hint: &str) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: hint.to_owned(),
            missing: Vec::new(),
            status,
            retry_after_s: RETRY_AFTER_S,
        }
    }

    /// The same, with the steps that are missing.
    #[must_use]
    pub fn missing(self, missing: Vec<String>) -> Self {
        Self { missing, ..self }
    }

    /// The same, to be tried again after so many seconds.
    #[must_use]
    pub fn retry_after(self, retry_after_s: u64) -> Self {
        Self { retry_after_s, ..self }
    }

    /// Something broke that the client did not cause. The cause goes to the log, not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        crate::views::failures::record(&cause.to_string());
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the relay failed to answer",
            "try again; if it stays so, the relay's log says why",
        )
    }

    /// As it is said of an upload, which is neither A nor B yet.
    pub(crate) fn without_side(mut self) -> Self {
        if let Some(rest) = self.message.strip_prefix("matrix A: ") {
            self.message = rest.to_owned();
        }
        self
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no such {what}"),
            "list them with GET /api/v1/jobs",
        )
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the relay is restarting",
            "try again in a few seconds",
        )
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match &error {
            IngestError::Io(cause) => Self::internal(cause),
            refused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                refused.code(),
                refused.to_string(),
                refused.hint(),
            ),
        }
    }
}

impl From<crate::db::DbError> for ApiError {
    fn from(error: crate::db::DbError) -> Self {
        Self::internal(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, HeaderValue::from(self.retry_after_s));
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}

/// The body of a request or an answer that is a file: in the document only.
pub(crate) struct RawFile;

impl PartialSchema for RawFile {
    fn schema() -> RefOr<Schema> {
        let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        any.description(Some("Bytes as they are, no JSON."))
            .content_media_type("application/octet-stream")
            .into()
    }
}

impl ToSchema for RawFile {}

/// An uploaded matrix.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MatrixInfo {
    /// BLAKE3 hash of the file, hexadecimal: names it in jobs.
    pub id: String,
    /// Shape; one number for a vector.
    pub shape: Vec<u32>,
    /// Element type, as numpy names it.
    pub dtype: String,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// A job to be created.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// What to compute: `matmul`.
    pub kind: String,
    /// Id of matrix A, M x K. A vector counts as one row.
    pub a: String,
    /// Id of matrix B, K x N. A vector counts as one column.
    pub b: String,
    /// `f32` (default) or `int8`.
    #[serde(default)]
    pub dtype: Option<String>,
    /// The second matrix is B transposed, N x K.
    #[serde(default)]
    pub transpose_b: bool,
    /// A name that volunteers see; at most 80 characters.
    #[serde(default)]
    pub name: Option<String>,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobInfo {
    /// Id, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `running`, `done` or `canceled`.
    #[schema(value_type = crate::db::JobState)]
    pub state: String,
    /// `f32` or `int8`.
    pub dtype: String,
    /// Rows of A and C.
    pub m: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Multiplications plus additions.
    pub flops: u64,
    /// When it was created, in ms since 1970.
    pub created_ms: i64,
    /// When it ended, in ms since 1970.
    pub ended_ms: Option<i64>,
    /// How far it is; missing for jobs that ended some time ago.
    pub progress: Option<Progress>,
}

/// How far a job is, in units of its grid.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Units in all.
    pub units: u32,
    /// Units nobody works on.
    pub free: u32,
    /// Units that are leased, checked or stored.
    pub in_flight: u32,
    /// Units accepted.
    pub accepted: u32,
    /// Sessions that hold a lease.
    pub volunteers: u32,
    /// Results rejected since the relay started.
    pub rejected: u32,
}

/// A job with its contributors.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: JobInfo,
    /// Who computed what, most shards first.
    pub contributors: Vec<Contributor>,
    /// Rejected results.
    pub rejections: Vec<Rejection>,
    /// Shards accepted.
    pub shards: u64,
    /// Time that the relay took to check accepted results, in seconds of one core.
    pub check_s: f64,
}

/// One volunteer's part of a job, on one backend.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Contributor {
    /// Public name of the volunteer, hexadecimal.
    pub volunteer: String,
    /// `webgpu`, `wasm`, `gpu` or `cpu`.
    pub backend: String,
    /// Shards accepted.
    pub shards: u64,
    /// Elements of C in them, counted once a slice of K.
    pub elements: u64,
    /// Time that kernels took, in seconds, as the volunteer says.
    pub compute_s: f64,
}

/// Rejected results of one volunteer, for one reason.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    /// Public name of the volunteer, hexadecimal.
    pub volunteer: String,
    /// `wrong_length`, `wrong_hash`, `wrong_product` or `not_delivered`.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// The mesh, as `GET /api/v1/peers` tells it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Peers {
    /// Volunteers that exchange inputs.
    pub members: Vec<PeerInfo>,
    /// The links between them.
    pub links: Vec<LinkInfo>,
}

/// A volunteer in the mesh.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PeerInfo {
    /// Its public name.
    pub volunteer: String,
    /// It stays for others' sake.
    pub seed: bool,
    /// Links that it has.
    pub links: u64,
}

/// A link between two volunteers. Paths and bytes are what they say.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkInfo {
    /// The volunteers at its two ends; `null` for one that did not come back yet.
    pub ends: Vec<Option<String>>,
    /// `direct`, `turn`, or `null` while it is not connected.
    pub path: Option<String>,
    /// Bytes of inputs that each end got.
    pub received: Vec<u64>,
    /// Bytes per second that each end gets lately.
    pub bytes_per_s: Vec<u64>,
}

/// What `/healthz` says.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the software.
    pub version: String,
    /// How many times the relay was started on its data.
    pub incarnation: u32,
}

/// Who runs the relay, for `/.well-known/potluck.json`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WellKnown {
    /// The operator.
    pub operator: String,
    /// How to reach the operator.
    pub contact: String,
    /// Version of the software.
    pub version: String,
    /// Protocol versions, oldest and newest.
    pub protocol: [u8; 2],
    /// What volunteers may be asked to compute.
    pub kernels: Vec<String>,
    /// Longest consent, in seconds.
    pub max_consent_s: u64,
    /// Largest matrix, in bytes.
    pub max_matrix_bytes: u64,
    /// Where the projects are that can be joined.
    pub projects: String,
    /// Where to complain about a site that abuses the widget.
    pub abuse: String,
    /// The widget on other sites.
    pub embed: EmbedInfo,
    /// What the operator switched off.
    pub off: Vec<SwitchedOff>,
}

/// What came of the widget on a site.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Embedded {
    /// The site.
    pub origin: String,
    /// Results of its visitors that were verified.
    pub accepted: u64,
}

/// The widget on other sites: its loader, and what the operator allows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbedInfo {
    /// Whether other sites may show it.
    pub enabled: bool,
    /// Origins of the sites that may; empty: all that are not denied.
    pub allow: Vec<String>,
    /// The most that visitors may lend there.
    pub max_preset: String,
    /// The loader at its evergreen address.
    pub script: Option<String>,
    /// The same at an address that never changes, and never is another script.
    pub versioned: Option<String>,
    /// For the attribute `integrity` of a script element with that address.
    pub integrity: Option<String>,
}
