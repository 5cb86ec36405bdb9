//! Messages of protocol version 1 about the mesh, between a volunteer and the relay: who links to whom, the signals that
//! set a link up, and the trees by which parts of a blob are checked.
//!
//! A volunteer whose person agreed says [`JoinMesh`] and gets [`MeshSettings`] and now and then a [`Neighbor`]; both ends
//! of a link exchange [`Signal`]s through the relay until they are connected; either ends the link with [`Unlink`].

use crate::bytes_as;
use crate::message::BlobRef;
use potluck_types::{BlobHash, ConsentToken, Duration, LinkId};
use serde::{Deserialize, Serialize};

/// Wants neighbors, now and until [`LeaveMesh`]. Volunteer to relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinMesh {
    /// Proof of consent.
    #[serde(with = "bytes_as::consent")]
    pub consent: ConsentToken,
    /// Stays for others' sake, without computing: links to more than its own inputs need.
    pub seed: bool,
    /// Links that it still has from an earlier session, as they were assigned.
    #[serde(with = "bytes_as::links")]
    pub links: Vec<Neighbor>,
}

/// Wants a blob that is no input of a lease: a model, say, to try it. The relay answers with [`BlobTree`](crate::BlobTree), and
/// from then on gives it out as it does inputs, if the blob is public and has as many bytes; else with
/// [`BlobMissing`](crate::BlobMissing). Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Proof of consent.
    #[serde(with = "bytes_as::consent")]
    pub consent: ConsentToken,
    /// What.
    pub blob: BlobRef,
}

/// Ends every link of the session. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveMesh {}

/// A STUN or TURN server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// Addresses, as `stun:` and `turn:` URLs. Without a host (`turn::3478?transport=udp`) the relay's own host is meant.
    #[serde(with = "bytes_as::urls")]
    pub urls: Vec<String>,
    /// Name for TURN; empty for STUN.
    #[serde(with = "bytes_as::text")]
    pub username: String,
    /// Password for TURN; empty for STUN.
    #[serde(with = "bytes_as::text")]
    pub credential: String,
}

/// How to reach peers. Answer to [`JoinMesh`], and again before credentials expire. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshSettings {
    /// Servers to use.
    #[serde(with = "bytes_as::ice_servers")]
    pub servers: Vec<IceServer>,
    /// For how long their credentials count.
    #[serde(with = "bytes_as::duration")]
    pub valid_for: Duration,
}

/// Assigns a link to another volunteer. Relay to volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// The link.
    #[serde(with = "bytes_as::link_id")]
    pub link: LinkId,
    /// Whether this end makes the offers. The relay chooses one of the two, so offers never cross.
    pub offers: bool,
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SignalKind {
    /// An offer, as SDP.
    Offer,
    /// The answer, as SDP.
    Answer,
    /// A candidate: the value of the attribute, `candidate:...`. Empty after the last one.
    Candidate,
}

/// Passed on to the other end of the link. Both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The link.
    #[serde(with = "bytes_as::link_id")]
    pub link: LinkId,
    /// The offer that this belongs to, counted from 1: signals of an older one are late.
    pub attempt: u32,
    /// What it says.
    pub kind: SignalKind,
    /// SDP or candidate.
    #[serde(with = "bytes_as::signal")]
    pub body: String,
}

/// Why a link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnlinkReason {
    /// This end, or the other one, leaves. Nobody's fault.
    Left,
    /// It could not be connected, or connected again.
    Unreachable,
    /// The other end sent a group that is not part of its blob.
    BadGroup,
    /// The other end did not deliver what it said to have.
    Stalled,
    /// The other end has not what it said to have.
    Lied,
    /// The other end sent what nobody asked for, or too much.
    Flooded,
}

/// Ends a link. Both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink {
    /// The link.
    #[serde(with = "bytes_as::link_id")]
    pub link: LinkId,
    /// Why.
    pub reason: UnlinkReason,
}

/// How a link runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkPath {
    /// From one end to the other.
    Direct,
    /// Through a TURN server.
    Turn,
}

/// How a link does, now and then. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The link.
    #[serde(with = "bytes_as::link_id")]
    pub link: LinkId,
    /// How it runs; `None` while it is not connected.
    pub path: Option<LinkPath>,
    /// Bytes of verified groups that came since the last report.
    pub received: u64,
    /// Bytes of groups that were sent since then.
    pub sent: u64,
}

/// Asks for the tree of an input. Volunteer to relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRequest {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
}

/// The tree of a blob: what its groups hash to. The blob's own hash follows from these. Relay to volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobTree {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// BLAKE3 chaining value of each group, in order.
    #[serde(with = "bytes_as::tree")]
    pub groups: Vec<[u8; 32]>,
}
