//! What the routes of this folder say, as types.

pub use crate::switches::{SwitchKind, SwitchedOff};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that volunteers of this relay work on, or worked on: a product of matrices, a training run or an eval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Id of the job, run or eval, hexadecimal: `/join/ID` leads to it.
    pub id: String,
    /// `product`, `training` or `eval`.
    pub kind: String,
    /// What its submitter called it.
    pub name: String,
    /// `running`, `paused`, `done`, `failed` or `canceled`.
    pub state: String,
    /// Why it is paused or failed.
    pub reason: Option<String>,
    /// What it is for, where people decided on it: the rationale of the proposal that allowed it.
    pub why: Option<String>,
    /// What `done` and `total` count: `units`, `rounds` or `shards`.
    pub unit: String,
    /// So much is done.
    pub done: u64,
    /// Of so much.
    pub total: u64,
    /// Volunteers at work on it now.
    pub volunteers: u32,
    /// Of a product: rows, inner length and columns.
    pub shape: Option<[u32; 3]>,
    /// Of a product: `f32` or `int8`.
    pub dtype: Option<String>,
    /// Of a run: parameters of the model.
    pub parameters: Option<u64>,
    /// The model that it trains or evaluates, if it has a name.
    pub model: Option<String>,
    /// Of an eval: the candidate, by the hash of its parameters.
    pub candidate: Option<String>,
    /// Of a run: the data sets' names, each with its license.
    pub data: Vec<String>,
    /// Of a run with closed rounds: loss on the validation data after the first and after the last, in nats a token.
    pub losses: Option<[f64; 2]>,
}

/// Which parts of a job's product are done, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobMap {
    /// Cells in a row of the map.
    pub columns: u32,
    /// A cell for each place of the product, or for several where it is large, row by row: -2 where nothing is accepted,
    /// -1 where some is, and else who computed it (most of it), as a place in `volunteers`.
    pub cells: Vec<i32>,
    /// Public names of the volunteers, those with most cells first.
    pub volunteers: Vec<String>,
}

/// Who contributed to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunContributors {
    /// Most accepted updates first; at most 1000.
    pub contributors: Vec<RunContributor>,
    /// Refused updates, by what is wrong with them, the most first; at most 1000.
    pub refusals: Vec<Refusal>,
    /// Updates of closed rounds that the relay replayed.
    pub audited: u64,
    /// Updates of closed rounds in all.
    pub updates: u64,
}

/// One volunteer's part of a run, on one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunContributor {
    /// Public name of the volunteer, hexadecimal.
    pub volunteer: String,
    /// `webgpu`, `wasm`, `gpu` or `cpu`.
    pub backend: String,
    /// Updates that counted.
    pub accepted: u64,
    /// Updates that were refused.
    pub refused: u64,
    /// Updates that the relay replayed.
    pub audited: u64,
    /// Bytes of its updates.
    pub bytes: u64,
    /// What its votes were worth in all, each 0 to 1.
    pub weight: f64,
}

/// Updates that were refused for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// What is wrong with them.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// The relay as its operator sees it. Counters begin when the relay starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorView {
    /// Seconds since the relay started.
    pub uptime_s: u64,
    /// Version of the software.
    pub version: String,
    /// Memory that the process occupies, where the system tells.
    pub memory_bytes: Option<u64>,
    /// Who is connected.
    pub sessions: SessionCounts,
    /// What waits and what is under way.
    pub queue: QueueCounts,
    /// Refused results by reason, the most first, since the database was made.
    pub rejects: Vec<RejectCount>,
    /// What went over the network.
    pub bandwidth: Bandwidth,
    /// What lies on disk, as it was measured lately.
    pub store: Vec<StorePart>,
    /// Answers that failed for a reason of the relay's own, the newest first, and how many there were.
    pub errors: Errors,
    /// What volunteers may be asked to compute: each can be switched off.
    pub kernels: Vec<String>,
    /// What is switched off.
    pub off: Vec<SwitchedOff>,
}

/// A team of volunteers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Team {
    /// Its name, as its members write it. Anybody can join any.
    pub name: String,
    /// Volunteers in it with an accepted result.
    pub members: u64,
    /// Their accepted results.
    pub accepted: u64,
}

/// A volunteer who wants to be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leader {
    /// Its name: the public key, hexadecimal.
    pub volunteer: String,
    /// Its team.
    pub team: Option<String>,
    /// Its accepted results.
    pub accepted: u64,
}

/// Who gave most. Only those are in it who said so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leaders {
    /// Teams by accepted results, at most 100.
    pub teams: Vec<Team>,
    /// Volunteers by accepted results, at most 100.
    pub volunteers: Vec<Leader>,
}

/// A switch, as the operator wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSwitch {
    /// `kernel`, `project`, `site` or `team`.
    pub kind: String,
    /// Which one: the kernel's name, the project's id, the site's origin, or the team's name.
    pub name: String,
    /// Whether nobody works on it, or lends there; a team's name is not shown.
    pub off: bool,
}

/// Sessions of volunteers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionCounts {
    /// Open ones.
    pub open: u64,
    /// With a valid consent.
    pub consenting: u64,
    /// In the mesh.
    pub in_mesh: u64,
    /// Refused.
    pub refused: u64,
}

/// Leases and what waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueCounts {
    /// Jobs that run.
    pub jobs: u64,
    /// Runs that run or pause.
    pub runs: u64,
    /// Evals under way.
    pub evals: u64,
    /// Units of jobs that nobody works on.
    pub units_free: u64,
    /// Units that are leased, checked or stored.
    pub units_in_flight: u64,
    /// Leases that are out.
    pub leases: u64,
    /// Leases ever given.
    pub leases_given: u64,
    /// Leases that ended without a result.
    pub leases_lost: u64,
    /// Results accepted.
    pub accepted: u64,
    /// Results refused.
    pub rejected: u64,
    /// Results that came late or second.
    pub superseded: u64,
    /// Bytes of results that wait for their check.
    pub result_bytes: u64,
}

/// Refused results for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RejectCount {
    /// `wrong_length`, `wrong_hash`, `wrong_product`, `not_delivered`, `wrong_update` or `wrong_answer`.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// How many of them in the last 24 hours.
    pub last_day: u64,
}

/// Bytes, each counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bandwidth {
    /// Inputs that the relay sent.
    pub inputs_sent: u64,
    /// Inputs that came from peers instead.
    pub saved_by_peers: u64,
    /// What the TURN server passed on.
    pub through_turn: u64,
}

/// A part of the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorePart {
    /// `database`, or the folder: `blobs`, `matrices`, `datasets`, `runs`, `log`.
    pub part: String,
    /// Its length.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Not all of it was counted: it has more files than are looked at.
    pub partial: bool,
}

/// What went wrong in the relay itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Errors {
    /// How many since the relay started.
    pub total: u64,
    /// The newest, the newest first.
    pub recent: Vec<ErrorInfo>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorInfo {
    /// When, in ms since 1970.
    pub at_ms: i64,
    /// What.
    pub message: String,
}
