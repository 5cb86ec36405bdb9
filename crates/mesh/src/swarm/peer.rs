//! What is known of a peer, and what it may still do.

use super::policy::{
    MAX_NONSENSE, MAX_UNASKED_BYTES, PEER_MESSAGE_BURST, PEER_MESSAGES_PER_SECOND, PIPELINE, PIPELINE_TIME,
};
use crate::bits::Bits;
use crate::meter::Meter;
use potluck_proto::{Seek, UnlinkReason};
use potluck_types::limits::GROUP_BYTES;
use potluck_types::{BlobHash, Bucket, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub(crate) struct Peer {
    /// Nothing comes through at the moment.
    pub(crate) interrupted: bool,
    /// What it needs.
    pub(crate) seeks: BTreeMap<BlobHash, Seek>,
    /// What it said to hold of what we need. A hash without bits: it was asked, and has not said.
    pub(crate) holds: BTreeMap<BlobHash, Option<Bits>>,
    /// Groups that it was asked for and has not answered, also those that came from elsewhere meanwhile.
    pub(crate) owes: BTreeSet<(BlobHash, u32)>,
    /// When it last answered, or was first asked after it owed nothing.
    pub(crate) heard: Instant,
    pub(crate) stalls: u32,
    pub(crate) rests_until: Instant,
    pub(crate) lies: u32,
    nonsense: u32,
    unasked: u64,
    bucket: Bucket,
    /// Groups to be sent to it.
    pub(crate) uploads: VecDeque<(BlobHash, u32)>,
    /// Bytes that its channel holds.
    pub(crate) buffered: u64,
    pub(crate) received: Meter,
    pub(crate) sent: Meter,
}

impl Peer {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            interrupted: false,
            seeks: BTreeMap::new(),
            holds: BTreeMap::new(),
            owes: BTreeSet::new(),
            heard: now,
            stalls: 0,
            rests_until: now,
            lies: 0,
            nonsense: 0,
            unasked: 0,
            bucket: Bucket::new(now, PEER_MESSAGE_BURST, PEER_MESSAGES_PER_SECOND),
            uploads: VecDeque::new(),
            buffered: 0,
            received: Meter::new(now),
            sent: Meter::new(now),
        }
    }

    /// Whether it may be asked for something now.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        !self.interrupted && self.rests_until <= now
    }

    /// Groups that it may owe at once.
    pub(crate) fn pipeline(&self) -> u32 {
        let group = GROUP_BYTES as u64;
        let groups = match self.received.per_second() {
            // Until its rate is known: one more for each that came, which doubles them in every round trip.
            0 => u64::from(*PIPELINE.start()) + self.received.total() / group,
            rate => rate * PIPELINE_TIME.0 / 1000 / group,
        };
        (groups as u32).clamp(*PIPELINE.start(), *PIPELINE.end())
    }

    pub(crate) fn holds(&self, hash: &BlobHash, index: u32) -> bool {
        matches!(self.holds.get(hash), Some(Some(bits)) if bits.has(index))
    }

    /// Pays for a message that is no group.
    pub(crate) fn message(&mut self, now: Instant) -> Result<(), UnlinkReason> {
        if self.bucket.take(now, 1) { Ok(()) } else { Err(UnlinkReason::Flooded) }
    }

    /// Something that makes no sense; a few of them can be crossed messages.
    pub(crate) const fn nonsense(&mut self) -> Result<(), UnlinkReason> {
        self.nonsense += 1;
        if self.nonsense > MAX_NONSENSE { Err(UnlinkReason::Flooded) } else { Ok(()) }
    }

    /// A group that nobody waits for: some come late.
    pub(crate) const fn unasked(&mut self, bytes: u64) -> Result<(), UnlinkReason> {
        self.unasked += bytes;
        if self.unasked > MAX_UNASKED_BYTES { Err(UnlinkReason::Flooded) } else { Ok(()) }
    }
}
