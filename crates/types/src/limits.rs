//! Every limit of the system, with its unit and its reason. A limit without a name here is a defect.

use crate::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Largest frame on a socket: one blob chunk and its envelope (hash, offset, lengths: under 64 bytes).
pub const MAX_FRAME_BYTES: usize = MAX_CHUNK_BYTES + 512;
/// Largest chunk of a blob. At 20 Mbit/s it takes 0.1 s, so that control messages never wait longer.
pub const MAX_CHUNK_BYTES: usize = 256 * KIB;
/// Chunks that one side may have asked for and not yet received: 2 MiB in flight fill 160 Mbit/s at 100 ms.
pub const MAX_CHUNKS_IN_FLIGHT: usize = 8;
/// Largest blob that travels to or from a volunteer: a phone's tab can hold three of them.
pub const MAX_BLOB_BYTES: usize = 16 * MIB;
/// Largest checkpoint or outer step of a training run that travels to a volunteer: f16 of 16.7 million parameters.
pub const MAX_CHECKPOINT_BYTES: usize = 32 * MIB;
/// Longest result of an eval shard: some thousand scores or tokens.
pub const MAX_EVAL_RESULT_BYTES: usize = 64 * KIB;
/// Panels of either operand in one shard's task.
pub const MAX_TASK_PANELS: usize = 64;
/// Blocks of the data set in one round's task: 64 x 16,384 tokens.
pub const MAX_TASK_BLOCKS: usize = 64;
/// Hashes of a block's proof of inclusion: data sets have fewer than 2^24 blocks.
pub const MAX_PROOF_HASHES: usize = 24;
/// Outer steps between a checkpoint and a round's parameters.
pub const MAX_TASK_STEPS: usize = 64;
/// Rounds of a streak of codec S, at most: so many a replay has to take again. A lease names them, in 5 kB.
pub const MAX_STREAK_ROUNDS: usize = 100;
/// Rounds that a volunteer may say to have kept something after: two of its own, and two for each result whose verdict
/// is due.
pub const MAX_KEPT: usize = 16;
/// Hashes of held blobs that a volunteer may name in one request for a lease.
pub const MAX_HELD_BLOBS: usize = 64;
/// Longest text that a peer may send about itself (agent, origin), in bytes.
pub const MAX_TEXT_BYTES: usize = 256;
/// Longest name of a team, in bytes.
pub const MAX_TEAM_BYTES: usize = 48;
/// Times that a session may say which team it is of: a person who tries names, and no more.
pub const MAX_MEMBERSHIPS_SAID: u32 = 32;
/// Backends that a volunteer may list.
pub const MAX_BACKENDS: usize = 8;

/// Bytes of a group: the unit in which peers exchange a blob, each checked by itself against the blob's BLAKE3 tree. A
/// power of two, so that a group is a subtree. Its frame fits into the 64 KiB that every browser takes as one message.
pub const GROUP_BYTES: usize = 32 * KIB;
/// Groups of one blob: the largest has 32 MiB. A tree of them takes 32 KiB, one frame.
pub const MAX_GROUPS: usize = MAX_CHECKPOINT_BYTES / GROUP_BYTES;
/// Largest frame between peers: a group or a tree, and its envelope.
pub const MAX_PEER_FRAME_BYTES: usize = GROUP_BYTES + 256;
/// Peers of one volunteer. Enough that a few bad ones do not matter; each costs a browser about 1 MB.
pub const MAX_NEIGHBORS: usize = 8;
/// Peers of a volunteer that stays as a seed: each idle connection of a native one takes about 0.3 MB.
pub const MAX_SEED_NEIGHBORS: usize = 64;
/// Longest offer or answer, in bytes. Those of a data channel have 1 to 3 kB.
pub const MAX_SIGNAL_BYTES: usize = 8 * KIB;
/// Candidates that one end of a link may name in one attempt. Browsers name about ten.
pub const MAX_CANDIDATES: usize = 32;
/// STUN and TURN servers that a relay names, and addresses of each.
pub const MAX_ICE_SERVERS: usize = 4;
/// Bytes of signals that a session may send in a burst: eight links at once, each with an offer and ten candidates.
pub const SIGNAL_BURST_BYTES: u32 = 128 * KIB as u32;
/// Bytes of signals per second that a session may send for long.
pub const SIGNAL_BYTES_PER_SECOND: u32 = 4 * KIB as u32;

/// Sessions that one relay serves at once: about 13 kB each while they are idle, 430 MB in all. Operators may set fewer, and
/// the system's limit on open files may allow fewer.
pub const MAX_SESSIONS: usize = 1 << 15;
/// Workers of one round. Their tasks take at most 55 kB each (64 blocks with proofs): 14 MB.
pub const MAX_RUN_WORKERS: u32 = 256;
/// Leases that one session may hold: one that computes, and one whose inputs arrive meanwhile.
pub const MAX_LEASES_PER_SESSION: usize = 2;
/// Control messages that one session may send in a burst. An honest volunteer sends about ten a shard.
pub const MESSAGE_BURST: u32 = 400;
/// Control messages per second that one session may send for long.
pub const MESSAGES_PER_SECOND: u32 = 100;
/// Bytes of results that are on their way in, or wait for verification, in the whole relay.
pub const MAX_RESULTS_IN_MEMORY_BYTES: usize = 64 * MIB;
/// Frames that may wait for a slow reader before it is disconnected.
pub const MAX_QUEUED_FRAMES: usize = 64;
/// A peer must have said hello by then.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that was silent for this long is closed; volunteers ping at a third of it.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for which one consent counts.
pub const MAX_CONSENT: Duration = Duration::from_secs(24 * 3600);

/// Jobs that are not finished, in one relay.
pub const MAX_ACTIVE_JOBS: usize = 256;
/// Jobs that the relay lists, finished ones included; the oldest finished ones leave the list first.
pub const MAX_LISTED_JOBS: usize = 4096;
/// Rows or columns of a matrix. Tile coordinates fit in 32 bits with room to spare.
pub const MAX_DIMENSION: u32 = 1 << 20;
/// Bytes of one uploaded matrix, on disk; memory holds one panel at a time.
pub const MAX_MATRIX_BYTES: u64 = 4 << 30;
/// Bytes of an `.npy` header that is read before anything is known about the file.
pub const MAX_NPY_HEADER_BYTES: usize = 64 * KIB;
/// Grid units of one job (output tiles x slices of K): one byte each in the scheduler's memory.
pub const MAX_UNITS: usize = 1 << 16;
/// Deepest slice of K in one shard. The rigorous bound on f32 errors grows with K, faster than what the first
/// tier of the check sees: deeper slices would hide coarse arithmetic. int8 would be exact up to 131,071.
pub const MAX_SLICE_DEPTH: u32 = 2048;
/// Cells on one side of the picture of a job that volunteers see: 2.3 kB a picture.
pub const PICTURE_SIDE: u16 = 48;
/// Characters of a job's name.
pub const MAX_JOB_NAME_CHARS: usize = 80;
