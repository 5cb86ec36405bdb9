//! Every message between two peers, in protocol version 1: one a message of their data channel, reliable and in order.
//!
//! Both ends say [`PeerHello`] first. Who needs a blob says [`Seek`], is told what the other [`Holds`] and, from then on,
//! what it [`Gained`]; asks for groups with [`GroupRequest`] and gets [`Group`]s or [`Refused`]. Who fetches from the relay
//! what nobody holds says so with [`Fetching`], so that others fetch something else.

use crate::bytes_as;
use crate::message::BlobRef;
use potluck_types::{BlobHash, LinkId};
use serde::{Deserialize, Serialize};

/// First message of each end: the channel works, and belongs to this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The link.
    #[serde(with = "bytes_as::link_id")]
    pub link: LinkId,
}

/// Needs a blob: tell what you have of it, until [`Unseek`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seek {
    /// The blob.
    pub blob: BlobRef,
    /// A number that the seeker drew for itself. Of those who seek a blob and know of each other, the one with the largest
    /// weight for a chunk fetches it from the relay.
    pub draw: u32,
}

/// Needs a blob no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseek {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
}

/// What this end has of a blob that the other seeks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// One bit a group, the first in the lowest bit of the first byte.
    #[serde(with = "serde_bytes")]
    pub groups: Vec<u8>,
}

/// Groups that this end has since it last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gained {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Groups that this end is about to get from the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Asks for a blob's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTreeRequest {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
}

/// A blob's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTree {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// BLAKE3 chaining value of each group, in order.
    #[serde(with = "bytes_as::tree")]
    pub groups: Vec<[u8; 32]>,
}

/// Asks for groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRequest {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// Its number.
    pub index: u32,
    /// Its bytes: all groups but the last have the same length.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// Groups, or a tree (a count of 0), that this end does not give, now or at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The blob.
    #[serde(with = "bytes_as::hash")]
    pub hash: BlobHash,
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}
