//! Every message of protocol version 1.
//!
//! Order of a session: the relay sends a [`Challenge`], the volunteer signs it in its [`Hello`], the relay answers
//! [`Welcome`]; after a person agreed the volunteer sends [`Consent`] and gets a [`ConsentGranted`]; it asks with [`LeaseRequest`] and gets a
//! [`Lease`] or [`NoWork`]; it pulls the inputs that it lacks with [`BlobRequest`]; it computes, names its
//! result in a [`Commit`], serves the relay's [`BlobRequest`]s for it, and gets a [`Verdict`].

use crate::bytes_as;
use potluck_types::limits::MAX_TEAM_BYTES;
use potluck_types::{BlobHash, ConsentToken, DType, Duration, Fence, JobId, LeaseId, SessionId, VolunteerId};
use serde::{Deserialize, Serialize};

/// Names a blob and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 hash of the blob's bytes.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// Length in bytes.
    pub bytes: u64,
}

/// What computes in a volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Backend {
    /// WebGPU in a tab.
    WebGpu,
    /// wasm with simd128 in a tab.
    WasmSimd,
    /// wgpu in a native volunteer.
    NativeGpu,
    /// SIMD kernels in a native volunteer.
    NativeCpu,
}

/// How much of the device a person lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Preset {
    /// A quarter of the time.
    #[default]
    Quiet,
    /// Half of the time.
    Balanced,
    /// All of the time.
    Full,
}

/// First message of a session: what a volunteer has to sign. Relay to volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Drawn for this session, and good for one [`Hello`].
    pub nonce: [u8; 32],
    /// The relay's own Ed25519 public key, which signs its log. A signature made for one relay counts at no other.
    pub relay: [u8; 32],
}

/// Who the volunteer is, and the proof of it. Answers [`Challenge`]. Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest protocol version that the volunteer speaks.
    pub oldest_version: u8,
    /// Newest protocol version that the volunteer speaks.
    pub newest_version: u8,
    /// The volunteer's name: its public key.
    #[serde(with = "bytes_as::volunteer")]
    pub volunteer: VolunteerId,
    /// Signature of [`Challenge::text`] under that key.
    #[serde(with = "bytes_as::signature")]
    pub signature: [u8; 64],
    /// Software name and version, for the operator's statistics.
    #[serde(with = "bytes_as::text")]
    pub agent: String,
}

/// Answer to [`Hello`]. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u8,
    /// This connection.
    #[serde(with = "bytes_as::session_id")]
    pub session: SessionId,
    /// A silent session is closed after this time; ping at a third of it.
    #[serde(with = "bytes_as::duration")]
    pub session_timeout: Duration,
    /// Largest chunk of a blob, in bytes.
    pub max_chunk_bytes: u32,
    /// Chunks that may be asked for and not yet received.
    pub max_chunks_in_flight: u8,
}

/// A person agreed, by a trusted click or by starting the native command. Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// The version of the text that was agreed to.
    pub text_version: u16,
    /// Where it was agreed: the page's origin, `native`, or `embed:` and the origin of the site that shows the relay's frame.
    #[serde(with = "bytes_as::text")]
    pub origin: String,
    /// How much was lent.
    pub preset: Preset,
    /// For how long. The relay shortens it to its own limit.
    #[serde(with = "bytes_as::duration")]
    pub valid_for: Duration,
}

/// Answer to [`Consent`]. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentGranted {
    /// Accompanies every request for a lease.
    #[serde(with = "bytes_as::consent")]
    pub token: ConsentToken,
    /// For how long it counts.
    #[serde(with = "bytes_as::duration")]
    pub valid_for: Duration,
}

/// The person paused or stopped: consent ends, leases are given back. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {}

/// Asks for one shard. Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Proof of consent.
    #[serde(with = "bytes_as::consent")]
    pub consent: ConsentToken,
    /// What will compute the shard.
    pub backend: Backend,
    /// Measured speed in millions of floating-point operations per second, throttle included.
    pub mflops: u32,
    /// Memory that inputs and result of one shard may take, in bytes.
    pub memory_bytes: u64,
    /// Blobs that the volunteer holds, the most recent first.
    #[serde(with = "bytes_as::hashes")]
    pub held: Vec<BlobHash>,
    /// Rounds of codec S after which the volunteer can go on. For one whose verdict may be on the way it says both.
    #[serde(with = "bytes_as::kept")]
    pub kept: Vec<Kept>,
}

/// A tile of a matrix product: `result[i][j] = sum over the slice of a[i] * bt[j]`.
///
/// Shapes: `a` panels stacked are rows x depth, `bt` panels stacked are cols x depth (rows of B
/// transposed), all row-major and little-endian; the result is rows x cols, row-major, f32 or i32.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatmulTask {
    /// Element type of the operands.
    #[serde(with = "bytes_as::dtype")]
    pub dtype: DType,
    /// Rows of the tile.
    pub rows: u32,
    /// Columns of the tile.
    pub cols: u32,
    /// Length of the slice of K.
    pub depth: u32,
    /// Panels of A, in the order of rows.
    #[serde(with = "bytes_as::panels")]
    pub a: Vec<BlobRef>,
    /// Panels of B transposed, in the order of columns.
    #[serde(with = "bytes_as::panels")]
    pub bt: Vec<BlobRef>,
}

/// Sizes of a GPT; `potluck-train` says what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSizes {
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Positions of context.
    pub context: u32,
    /// Blocks.
    pub layers: u32,
    /// Heads of attention.
    pub heads: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Whether there are biases.
    pub bias: bool,
}

/// The model of a run; `potluck-train` says what each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelSpec {
    /// A GPT of these sizes.
    Gpt(ModelSizes),
    /// The classifier of handwritten digits, which burn trains.
    Digits,
}

impl From<ModelSizes> for ModelSpec {
    fn from(sizes: ModelSizes) -> Self {
        Self::Gpt(sizes)
    }
}

/// How a worker's update is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UpdateCodec {
    /// f32.
    F32,
    /// f16.
    F16,
    /// int8 in blocks of 256.
    Int8,
    /// int4 in blocks of 256: codec R.
    Int4,
    /// The 64 largest of each 4096 in two bits, with error feedback: codec S.
    TopK,
}

/// An earlier update of a worker's streak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastUpdate {
    /// The round.
    pub round: u64,
    /// The worker's number in that round.
    pub worker: u32,
    /// What it sent; `None` if that did not count, so that all of it still waits to be sent.
    #[serde(with = "bytes_as::maybe_hash")]
    pub result: Option<BlobHash>,
}

/// A round of codec S after which a volunteer still has what it kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The run.
    #[serde(with = "bytes_as::job_id")]
    pub run: JobId,
    /// The round.
    pub round: u64,
    /// The worker that the volunteer was in it.
    pub worker: u32,
    /// Whether it goes on as one whose update counted, or as one whose update did not.
    pub counted: bool,
}

/// The learning rate over the inner steps of a run: linear warm-up, then a cosine; after AdamW began anew, a warm-up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearningRate {
    /// Greatest, in billionths.
    pub peak_nano: u32,
    /// Least, in billionths.
    pub least_nano: u32,
    /// Inner steps of warm-up.
    pub warmup: u32,
    /// Inner steps of the whole run.
    pub steps: u32,
    /// Steps of warm-up after AdamW's moments were zero, half of a round at most. None in records that do not say it.
    #[serde(default)]
    pub fresh_warmup: u32,
}

/// A data set, as everybody knows it: the root that names it follows from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSetSpec {
    /// Tokens in all.
    pub tokens: u64,
    /// Root of the Merkle tree over its blocks.
    pub tree: [u8; 32],
}

/// A block of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBlock {
    /// Its number in the data set.
    pub index: u32,
    /// Its bytes.
    pub blob: BlobRef,
    /// That it is part of the data set.
    #[serde(with = "bytes_as::proof")]
    pub proof: Vec<[u8; 32]>,
}

/// One worker's part of a training round: inner steps on the batches that seed, round and worker assign.
///
/// The result is `steps` losses (f32, little-endian, nats per token), with codec S a sketch of the update (32 f32,
/// little-endian), and the encoded update, parameters before minus parameters after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainTask {
    /// The model.
    pub model: ModelSpec,
    /// The round.
    pub round: u64,
    /// This worker's number in the round.
    pub worker: u32,
    /// Inner steps to take.
    pub steps: u32,
    /// Inner steps that each worker took in earlier rounds.
    pub steps_before: u64,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub length: u32,
    /// Learning rate.
    pub rate: LearningRate,
    /// Seed of the run's data order.
    pub seed: [u8; 32],
    /// Blocks that the order deals to a worker for a round; 0 for uniform draws.
    pub blocks_dealt: u32,
    /// How the update is encoded.
    pub codec: UpdateCodec,
    /// With codec S, the rounds that the worker's streak already has, in order: it goes on with what it kept after the
    /// last of them, or begins with nothing if there is none. Empty with any other codec.
    #[serde(with = "bytes_as::streak")]
    pub streak: Vec<PastUpdate>,
    /// The data set; its vocabulary is the model's.
    pub data: DataSetSpec,
    /// The blocks that the batches touch.
    #[serde(with = "bytes_as::blocks")]
    pub blocks: Vec<TokenBlock>,
    /// The round of the checkpoint.
    pub checkpoint_round: u64,
    /// Rounds from one checkpoint to the next.
    pub checkpoint_every: u32,
    /// The checkpoint: parameters as f16.
    pub checkpoint: BlobRef,
    /// The outer steps since, as int8, in order.
    #[serde(with = "bytes_as::steps")]
    pub outer_steps: Vec<BlobRef>,
    /// Hash of the parameters that result: where the round starts.
    #[serde(with = "bytes_as::hash")]
    pub parameters: BlobHash,
}

/// A shard of an eval: questions whose answers follow from a model's parameters.
///
/// The result is the answers in the order of the questions: for a text its negative log-likelihood (i64, little-endian,
/// millionths of a nat), for a prompt the tokens that follow (u32, little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalTask {
    /// The model.
    pub model: ModelSpec,
    /// Its parameters, f32, little-endian: their hash is what the public log calls the candidate.
    pub parameters: BlobRef,
    /// The questions, as `potluck-eval` encodes them.
    pub items: BlobRef,
    /// Length of the result.
    pub result_bytes: u32,
    /// Memory that it takes, inputs among it, in bytes.
    pub memory_bytes: u64,
    /// Floating-point operations: an estimate, for deadlines.
    pub flops: u64,
}

/// The work of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// A tile of a matrix product.
    Matmul(MatmulTask),
    /// One worker's inner steps of a training round. Boxed: it is ten times as large.
    Train(Box<TrainTask>),
    /// Questions to a model.
    Eval(EvalTask),
}

/// Hands out a shard. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The lease.
    #[serde(with = "bytes_as::lease_id")]
    pub lease: LeaseId,
    /// Goes back with the commit; an older one is refused.
    #[serde(with = "bytes_as::fence")]
    pub fence: Fence,
    /// The job.
    #[serde(with = "bytes_as::job_id")]
    pub job: JobId,
    /// The shard's number within its job.
    pub shard: u32,
    /// Time for inputs, computing and commit; then the shard goes to somebody else.
    #[serde(with = "bytes_as::duration")]
    pub deadline: Duration,
    /// What to compute.
    pub task: Task,
}

/// Why there is no lease now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NoWorkReason {
    /// No job needs this volunteer at the moment.
    Idle,
    /// The session has as many leases as it may have.
    EnoughLeases,
    /// Earlier results were rejected; the volunteer has to wait.
    CoolingDown,
    /// Every shard needs more memory than was offered.
    TooLittleMemory,
    /// The token is unknown, withdrawn or expired: ask the person again.
    NoConsent,
}

/// Answer to [`LeaseRequest`] without a lease. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoWork {
    /// Why.
    pub reason: NoWorkReason,
    /// Ask again after this time, or when a [`Picture`] shows new work.
    #[serde(with = "bytes_as::duration")]
    pub retry_after: Duration,
}

/// Asks the other side for a part of a blob. Both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRequest {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u32,
}

/// A part of a blob. Both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobChunk {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// First byte.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// The other side does not have that blob (any more). Both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobMissing {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
}

/// Names a result before a byte of it is sent, so that the probe that checks it can depend on it.
/// Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The lease.
    #[serde(with = "bytes_as::lease_id")]
    pub lease: LeaseId,
    /// The fencing token of the lease.
    #[serde(with = "bytes_as::fence")]
    pub fence: Fence,
    /// The result.
    pub result: BlobRef,
    /// Time that the kernel took, in milliseconds.
    pub compute_ms: u32,
    /// What computed it.
    pub backend: Backend,
}

/// Why a lease ends without a result. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReleaseReason {
    /// The person paused, stopped or hid the tab.
    Withdrawn,
    /// The device was lost or ran out of memory.
    DeviceFailed,
    /// An input could not be fetched.
    InputMissing,
    /// The kernel cannot do this task.
    Unsupported,
    /// No proof came that what the task belongs to stands in the public log.
    Unproven,
}

/// Gives a lease back. Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The lease.
    #[serde(with = "bytes_as::lease_id")]
    pub lease: LeaseId,
    /// Why.
    pub reason: ReleaseReason,
}

/// Why a result was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RejectReason {
    /// Not the number of bytes that the task's shape has.
    WrongLength,
    /// The bytes do not have the committed hash.
    WrongHash,
    /// The product is wrong, or holds a value that is not finite.
    WrongProduct,
    /// The bytes did not arrive in time.
    NotDelivered,
    /// The update is not what the round's steps give, or holds a value that it may not hold.
    WrongUpdate,
    /// The answers of an eval shard are not what the model gives.
    WrongAnswer,
}

impl RejectReason {
    /// Its name in JSON, in logs and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongLength => "wrong_length",
            Self::WrongHash => "wrong_hash",
            Self::WrongProduct => "wrong_product",
            Self::NotDelivered => "not_delivered",
            Self::WrongUpdate => "wrong_update",
            Self::WrongAnswer => "wrong_answer",
        }
    }
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// Verified and durable.
    Accepted,
    /// Rejected, for this reason.
    Rejected(RejectReason),
    /// Somebody else's result for the shard was accepted first. No blame.
    Superseded,
    /// The lease had ended before the commit came. No blame.
    Late,
}

/// Ends a lease. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The lease.
    #[serde(with = "bytes_as::lease_id")]
    pub lease: LeaseId,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a lease is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RevokeReason {
    /// The submitter canceled the job.
    JobCanceled,
    /// Somebody else's result was accepted.
    Superseded,
    /// The deadline passed.
    DeadlinePassed,
}

/// Takes a lease back: stop computing it. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// The lease.
    #[serde(with = "bytes_as::lease_id")]
    pub lease: LeaseId,
    /// Why.
    pub reason: RevokeReason,
}

/// Cells of a [`Picture`].
pub mod cell {
    /// Nobody works on it.
    pub const FREE: u8 = 0;
    /// Somebody works on it.
    pub const LEASED: u8 = 1;
    /// Accepted.
    pub const ACCEPTED: u8 = 2;
    /// You work on it.
    pub const YOURS_LEASED: u8 = 3;
    /// Your result was accepted.
    pub const YOURS_ACCEPTED: u8 = 4;
}

/// A small picture of a job, with one's own tiles lit. Relay to volunteer, at most one a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// The job.
    #[serde(with = "bytes_as::job_id")]
    pub job: JobId,
    /// Its name, as the submitter gave it.
    #[serde(with = "bytes_as::text")]
    pub name: String,
    /// Columns of the picture; rows follow from the length of `cells`.
    pub columns: u16,
    /// One [`cell`] a byte, row by row.
    #[serde(with = "serde_bytes")]
    pub cells: Vec<u8>,
    /// Accepted part of the job, in thousandths.
    pub accepted_permille: u16,
    /// Volunteers who hold a lease of the job.
    pub volunteers: u32,
}

/// Why the relay closes a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefusalCode {
    /// No protocol version in common: reload the page or update the program.
    Version,
    /// The frame's kind is not known in this version.
    UnknownMessage,
    /// The frame could not be read.
    Garbage,
    /// The message may not come now.
    OutOfOrder,
    /// A named limit was exceeded.
    Limit,
    /// The relay is full: come back later.
    Full,
    /// Too many results were rejected, or the site on which the person agreed may not show the relay's widget.
    NotTrusted,
    /// The session was silent for too long, or did not say hello.
    TimedOut,
    /// The relay is shutting down: reconnect soon.
    ShuttingDown,
    /// The signature of a [`Hello`] does not fit its key and this session's [`Challenge`].
    Identity,
}

/// Last message of a session that the relay closes. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why, for programs.
    pub code: RefusalCode,
    /// Why and what to do, for people.
    #[serde(with = "bytes_as::text")]
    pub message: String,
    /// Reconnecting makes sense after this time; 0 means never.
    #[serde(with = "bytes_as::duration")]
    pub retry_after: Duration,
}

/// Keeps the session alive. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the [`Pong`].
    pub nonce: u32,
}

/// Code points that are not seen, or turn what follows around: Unicode's `Default_Ignorable_Code_Point`, and none but these.
const IGNORABLE: [std::ops::RangeInclusive<u32>; 17] = [
    0x00ad..=0x00ad,
    0x034f..=0x034f,
    0x061c..=0x061c,
    0x115f..=0x1160,
    0x17b4..=0x17b5,
    0x180b..=0x180f,
    0x200b..=0x200f,
    0x202a..=0x202e,
    0x2060..=0x206f,
    0x3164..=0x3164,
    0xfe00..=0xfe0f,
    0xfeff..=0xfeff,
    0xffa0..=0xffa0,
    0xfff0..=0xfff8,
    0x1_bca0..=0x1_bca3,
    0x1_d173..=0x1_d17a,
    0xe_0000..=0xe_0fff,
];

/// What others may see of a volunteer beside its results. Until it is said, nothing. Volunteer to relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The name of its team, at most [`MAX_TEAM_BYTES`]; empty for none.
    #[serde(with = "bytes_as::team")]
    pub team: String,
    /// Whether its own name may stand on the list of those who gave most.
    pub listed: bool,
}

impl Membership {
    /// Whether nothing may be seen.
    pub const fn is_hidden(&self) -> bool {
        self.team.is_empty() && !self.listed
    }

    /// Why the name is none that a team can have; `None` if it is.
    pub fn mistake(&self) -> Option<&'static str> {
        let team = &self.team;
        if team.len() > MAX_TEAM_BYTES {
            return Some("the team's name is too long: 48 letters at most, fewer with accents");
        }
        let unseen = |letter: char| IGNORABLE.iter().any(|range| range.contains(&u32::from(letter)));
        let visible = |letter: char| {
            letter == ' ' || !(letter.is_control() || letter.is_whitespace() || unseen(letter))
        };
        let plain = team == team.trim() && !team.contains("  ") && team.chars().all(visible);
        (!plain).then_some("the team's name may have what can be seen, with single spaces between")
    }
}

/// Answer to [`Ping`]. Relay to volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The ping's nonce.
    pub nonce: u32,
}
