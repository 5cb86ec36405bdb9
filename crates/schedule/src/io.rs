//! What goes into the relay's state machine and what comes out. The adapter (sockets, store, threads, or the
//! simulator) feeds each [`Input`] with the time and carries out each [`Output`] in order.

use crate::eval::{EvalInput, EvalOutput};
use crate::grid::Grid;
use crate::mesh::MeshCounts;
use crate::run::{RunInput, RunOutput};
use crate::switches::Switches;
use potluck_proto::{
    Backend, BlobRef, BlobRequest, DecodeError, MatmulTask, Membership, Message, RejectReason,
};
use potluck_types::{BlobHash, DType, JobId, SessionId, Tile, VolunteerId};
use std::net::IpAddr;
use std::sync::Arc;

/// A job as the relay took it in: checked, cut, its panels stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// The job.
    pub id: JobId,
    /// What its submitter called it.
    pub name: String,
    /// Element type of the operands.
    pub dtype: DType,
    /// The cut.
    pub grid: Grid,
    /// Panels of A: row unit by row unit, in each the slices of K.
    pub a: Vec<BlobRef>,
    /// Panels of B transposed: column unit by column unit, in each the slices of K.
    pub bt: Vec<BlobRef>,
}

impl JobSpec {
    /// Whether the lists name exactly the panels that the cut has. Other jobs are ignored.
    pub fn panels_fit(&self) -> bool {
        let slices = u64::from(self.grid.slices());
        self.a.len() as u64 == u64::from(self.grid.row_units()) * slices
            && self.bt.len() as u64 == u64::from(self.grid.col_units()) * slices
    }
}

/// A verified result. The adapter makes it durable before it reports [`Input::Stored`], and gives all of
/// a job's back in [`Input::JobAdded`] after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedTile {
    /// The job.
    pub job: JobId,
    /// The shard's number.
    pub shard: u32,
    /// What it covers. Tiles of one job never overlap within a slice of K.
    pub tile: Tile,
    /// The result's bytes.
    pub result: BlobRef,
    /// Who computed it.
    pub volunteer: VolunteerId,
    /// With what.
    pub backend: Backend,
    /// How long the kernel took, as the volunteer says, in milliseconds.
    pub compute_ms: u32,
}

/// What a volunteer's key has earned. Durable, best effort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Results accepted.
    pub accepted: u64,
    /// Results rejected.
    pub rejected: u64,
}

/// Names one result on its way through verification and store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A result to be checked against its inputs, off the thread that steps the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Comes back in [`Input::Checked`].
    pub ticket: Ticket,
    /// The job, for logs and statistics.
    pub job: JobId,
    /// What was to be computed; names the input panels.
    pub task: MatmulTask,
    /// What was committed. Length and hash are part of the check.
    pub claim: BlobRef,
    /// The bytes that arrived.
    pub result: Arc<Vec<u8>>,
    /// What computed it: some kernels sum in blocks and are held to a tighter tolerance.
    pub backend: Backend,
    /// How many times wider than the protocol's the first tier's tolerance is for this volunteer, as a power
    /// of two (a device whose flags keep clearing tier 3 earns a wider one; tier 3 never changes).
    pub widened: u8,
}

/// What a [`Check`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckVerdict {
    /// The result is right. Rows that tier 1 flagged and tier 3 cleared are counted.
    Right {
        /// Rows that were flagged and cleared.
        cleared_rows: u32,
    },
    /// The result is wrong.
    Wrong(RejectReason),
    /// The relay could not check (an input blob is unreadable): nobody's fault, the shard is leased again.
    Undecided,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A peer connected. `SessionId`s are never reused while the relay runs.
    Opened {
        /// The connection.
        session: SessionId,
        /// Where it comes from, if that is known.
        address: Option<IpAddr>,
    },
    /// A frame arrived and was decoded.
    Message {
        /// The connection.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// A frame arrived that is not a message.
    Undecodable {
        /// The connection.
        session: SessionId,
        /// Why.
        error: DecodeError,
    },
    /// A connection ended, for whatever reason.
    Closed {
        /// The connection.
        session: SessionId,
    },
    /// A job is ready to be leased; after a restart, with what was accepted before.
    JobAdded {
        /// The job.
        job: JobSpec,
        /// Tiles that are durable already.
        accepted: Vec<AcceptedTile>,
    },
    /// The submitter canceled a job.
    JobCanceled {
        /// The job.
        job: JobId,
    },
    /// Something happened to a run.
    Run(RunInput),
    /// Something happened to an eval.
    Eval(EvalInput),
    /// What is durably known of a volunteer's key (once at start, before its sessions).
    VolunteerKnown {
        /// Whose.
        volunteer: VolunteerId,
        /// Its record.
        record: Record,
    },
    /// A [`Check`] is done.
    Checked {
        /// Which.
        ticket: Ticket,
        /// What it found.
        verdict: CheckVerdict,
    },
    /// An [`Output::Store`] is durable.
    Stored {
        /// Which.
        ticket: Ticket,
    },
    /// An [`Output::Store`] failed; the shard is leased again.
    StoreFailed {
        /// Which.
        ticket: Ticket,
    },
    /// What came of [`Output::AskPublic`].
    Public {
        /// Who.
        session: SessionId,
        /// What.
        blob: BlobRef,
        /// Whether everybody may have it, and it has as many bytes.
        public: bool,
    },
    /// The relay is about to stop: refuse everybody politely.
    ShuttingDown,
    /// Everything stops: leases of jobs are taken back and none is given out, until it says otherwise. Runs are paused one
    /// by one, with [`RunInput::Paused`].
    Halted {
        /// Whether it stops; otherwise it goes on.
        halted: bool,
    },
    /// What the operator switched off, all of it: what is not named is on. Runs are paused one by one, with
    /// [`RunInput::Paused`].
    Switched(Switches),
    /// Nothing but time. Due at [`Relay::next_wake`](crate::Relay::next_wake) at the latest.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message.
    Send {
        /// To whom.
        session: SessionId,
        /// What.
        message: Message,
    },
    /// Read part of a blob from the store and send it as a `BlobChunk`, or `BlobMissing`. The session asked
    /// for it and may have it.
    SendChunk {
        /// To whom.
        session: SessionId,
        /// Which part.
        request: BlobRequest,
    },
    /// A session wants a blob that is no input of its leases: [`Input::Public`] says whether it may have it.
    AskPublic {
        /// Who.
        session: SessionId,
        /// What, as the session names it.
        blob: BlobRef,
    },
    /// Read a blob from the store and send its tree as a `BlobTree`, or `BlobMissing`. The session may have it.
    SendTree {
        /// To whom.
        session: SessionId,
        /// Of which blob.
        hash: BlobHash,
    },
    /// Send a `MeshSettings` with servers and fresh credentials for this session.
    MeshSettings {
        /// To whom.
        session: SessionId,
    },
    /// Close a connection, after what was sent to it before. [`Input::Closed`] need not follow.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Check a result.
    Check(Check),
    /// Make a result durable: blob and record in one group commit.
    Store {
        /// Comes back in [`Input::Stored`] or [`Input::StoreFailed`].
        ticket: Ticket,
        /// The record.
        tile: AcceptedTile,
        /// The blob.
        result: Arc<Vec<u8>>,
        /// The site on which the volunteer agreed, if that was in the relay's frame: results are counted for it.
        site: Option<Arc<str>>,
    },
    /// A result was rejected. Best effort: the volunteer's record and the reason.
    Rejected {
        /// The job, run or eval.
        job: JobId,
        /// The shard, or the worker of the run's round.
        shard: u32,
        /// What was claimed of a job's or an eval's shard, if it came so far. What is claimed in a run is told when its round
        /// is closed.
        claim: Option<BlobRef>,
        /// Whose result.
        volunteer: VolunteerId,
        /// With what it was computed.
        backend: Backend,
        /// Why.
        reason: RejectReason,
    },
    /// What others may see of a volunteer. Best effort: it says so again when it comes back.
    Membership {
        /// Of whom.
        volunteer: VolunteerId,
        /// Its team, and whether it is listed.
        membership: Membership,
    },
    /// Something is to be done for a run.
    Run(RunOutput),
    /// Something is to be done for an eval.
    Eval(EvalOutput),
    /// Every tile of the job is durable. Emitted once; after a restart again if it was not recorded.
    JobCompleted {
        /// The job.
        job: JobId,
    },
}

/// A job's state, for API, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobProgress {
    /// Units in all.
    pub units: u32,
    /// Units nobody works on.
    pub free: u32,
    /// Units under lease, check or store.
    pub in_flight: u32,
    /// Units accepted.
    pub accepted: u32,
    /// Shards accepted since this relay started.
    pub shards_accepted: u32,
    /// Results rejected since this relay started.
    pub shards_rejected: u32,
    /// Leases that ended without a result since this relay started.
    pub leases_lost: u32,
    /// Sessions that hold a lease of the job.
    pub volunteers: u32,
}

/// Counters of the whole relay, for `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Open sessions.
    pub sessions: u64,
    /// Sessions with a valid consent.
    pub consenting: u64,
    /// Leases that are out.
    pub leases: u64,
    /// Leases ever given.
    pub leases_given: u64,
    /// Results accepted.
    pub accepted: u64,
    /// Results rejected.
    pub rejected: u64,
    /// Leases that timed out, were released or lost with their session.
    pub leases_lost: u64,
    /// Results that came too late or second.
    pub superseded: u64,
    /// Sessions refused.
    pub refused: u64,
    /// Bytes of results in memory.
    pub result_bytes: u64,
    /// Bytes of inputs that volunteers lacked for results that they committed.
    pub inputs_needed: u64,
    /// Bytes of inputs that the relay sent.
    pub inputs_served: u64,
    /// The mesh.
    pub mesh: MeshCounts,
}

impl Totals {
    /// Bytes of inputs that came from peers: what volunteers say, and no more than they lacked and did not get from the
    /// relay.
    pub fn saved(&self) -> u64 {
        self.inputs_needed.saturating_sub(self.inputs_served).min(self.mesh.peer_bytes)
    }
}
