//! A blob on its way in, from several sides at once.

use super::policy::{CLAIM_TTL, SPAN};
use crate::bits::Bits;
use crate::tree::{Tree, group_count, group_range};
use potluck_proto::BlobRef;
use potluck_types::limits::GROUP_BYTES;
use potluck_types::{Instant, LinkId};
use std::collections::BTreeMap;

/// Where something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Relay,
    Peer(LinkId),
}

/// What became of bytes that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    /// They are part of the blob, as far as can be told.
    Right,
    /// They were there before.
    Again,
    /// They are not part of the blob.
    Wrong,
}

#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) blob: BlobRef,
    pub(crate) groups: u32,
    buffer: Vec<u8>,
    /// Groups that are here.
    pub(crate) have: Bits,
    /// Of these, the ones that came from the relay before the tree was known.
    unverified: Bits,
    pub(crate) tree: Option<Tree>,
    pub(crate) tree_asked: Option<(Source, Instant)>,
    /// Who was asked for a group that is missing.
    pub(crate) pending: BTreeMap<u32, Vec<(Source, Instant)>>,
    /// Groups that neighbors fetch from the relay.
    claims: BTreeMap<u32, (LinkId, Instant)>,
    /// Ranges that the relay was asked for: first byte, and how many.
    pub(crate) at_relay: BTreeMap<u64, u32>,
    /// The relay is not asked before.
    pub(crate) relay_from: Instant,
    /// Waits for links that are being made however small it is, and longer.
    pub(crate) peers_first: bool,
    /// The relay is not asked until it is wanted anew: it would not give it.
    pub(crate) held: bool,
    /// A lease needs it. Else it ends at that time.
    pub(crate) ends: Option<Instant>,
    /// Groups to tell peers about.
    pub(crate) untold: Vec<u32>,
    /// Peers are too slow for this one; the relay helps.
    pub(crate) slow: bool,
    /// Since when nothing is under way, and everything that is to be had from the relay is for others to fetch.
    pub(crate) waits_since: Option<Instant>,
}

impl Download {
    /// `None` for a blob that cannot travel.
    pub(crate) fn new(blob: BlobRef, now: Instant) -> Option<Self> {
        let groups = group_count(blob.bytes)?;
        // A blob of one group is its own tree.
        let tree = if groups == 1 { Tree::verified(blob, vec![blob.hash.0]) } else { None };
        Some(Self {
            blob,
            groups,
            buffer: Vec::new(),
            have: Bits::none(groups),
            unverified: Bits::none(groups),
            tree,
            tree_asked: None,
            pending: BTreeMap::new(),
            claims: BTreeMap::new(),
            at_relay: BTreeMap::new(),
            relay_from: now,
            peers_first: false,
            held: false,
            ends: None,
            untold: Vec::new(),
            slow: false,
            waits_since: None,
        })
    }

    /// Groups that can be passed on.
    pub(crate) fn verified(&self) -> Bits {
        let mut bits = self.have.clone();
        (0..self.groups).filter(|index| self.unverified.has(*index)).for_each(|index| bits.clear(index));
        bits
    }

    /// The bytes of a group that can be passed on.
    pub(crate) fn group(&self, index: u32) -> Option<&[u8]> {
        if !self.have.has(index) || self.unverified.has(index) {
            return None;
        }
        let (start, length) = group_range(self.blob.bytes, index);
        self.buffer.get(start as usize..start as usize + length)
    }

    /// Takes a group in. Without a tree it is believed until that comes.
    pub(crate) fn take(&mut self, index: u32, data: &[u8]) -> Took {
        if self.have.has(index) {
            return Took::Again;
        }
        let (start, length) = group_range(self.blob.bytes, index);
        let right = match &self.tree {
            Some(tree) => tree.is_group(index, data),
            None => index < self.groups && data.len() == length,
        };
        if !right {
            return Took::Wrong;
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.blob.bytes as usize];
        }
        self.buffer[start as usize..start as usize + length].copy_from_slice(data);
        self.have.set(index);
        if self.tree.is_none() {
            self.unverified.set(index);
        } else {
            self.untold.push(index);
        }
        self.pending.remove(&index);
        self.claims.remove(&index);
        Took::Right
    }

    /// Takes the tree in: `None` if it is not the blob's, else whether all that came before it is right.
    pub(crate) fn take_tree(&mut self, list: Vec<[u8; 32]>) -> Option<bool> {
        let tree = Tree::verified(self.blob, list)?;
        let mut right = true;
        for index in 0..self.groups {
            if self.unverified.has(index) {
                self.unverified.clear(index);
                let (start, length) = group_range(self.blob.bytes, index);
                right &= tree.is_group(index, &self.buffer[start as usize..start as usize + length]);
                self.untold.push(index);
            }
        }
        self.tree = Some(tree);
        Some(right)
    }

    /// The whole blob, if all of it is here and each part was checked, or the whole is right.
    pub(crate) fn finish(self) -> Option<(Vec<u8>, Option<Tree>)> {
        let whole = self.have.is_full() && self.buffer.len() as u64 == self.blob.bytes;
        let checked =
            self.unverified.count() == 0 || potluck_types::BlobHash::of(&self.buffer) == self.blob.hash;
        (whole && checked).then_some((self.buffer, self.tree))
    }

    /// A neighbor fetches these from the relay.
    pub(crate) fn claim(&mut self, link: LinkId, first: u32, count: u32, now: Instant) {
        for index in first..first.saturating_add(count).min(self.groups) {
            if !self.have.has(index) {
                self.claims.entry(index).or_insert((link, now));
            }
        }
    }

    fn claimed(&self, index: u32, now: Instant) -> bool {
        self.claims.get(&index).is_some_and(|(_, since)| now.since(*since) < CLAIM_TTL)
    }

    /// When the oldest claim that still holds ends.
    pub(crate) fn claims_end(&self, now: Instant) -> Option<Instant> {
        let ends = self.claims.values().map(|(_, since)| *since + CLAIM_TTL);
        ends.filter(|end| *end > now).min()
    }

    /// Nothing is expected from there any more.
    pub(crate) fn forget(&mut self, source: Source) {
        self.pending.retain(|_, asked| {
            asked.retain(|(of, _)| *of != source);
            !asked.is_empty()
        });
        match source {
            Source::Relay => self.at_relay.clear(),
            Source::Peer(link) => self.claims.retain(|_, (of, _)| *of != link),
        }
        if self.tree_asked.is_some_and(|(of, _)| of == source) {
            self.tree_asked = None;
        }
    }

    /// Whether a group is missing, and nobody was asked for it.
    pub(crate) fn wants(&self, index: u32) -> bool {
        !self.have.has(index) && !self.pending.contains_key(&index)
    }

    /// What to ask the relay for next: groups that nobody else is expected to deliver. `held` says what peers hold, `ours`
    /// whether this end fetches the span that begins with a group, `from` where to begin to look.
    pub(crate) fn span(
        &self,
        held: impl Fn(u32) -> bool,
        ours: impl Fn(u32) -> bool,
        from: u32,
        now: Instant,
    ) -> Option<(u32, u32)> {
        let free = |index: u32| self.wants(index) && !held(index) && !self.claimed(index, now);
        let spans = self.groups.div_ceil(SPAN);
        let mut at = (0..spans).map(|step| (from / SPAN + step) % spans * SPAN);
        at.find_map(|start| {
            let end = (start + SPAN).min(self.groups);
            let first = (start..end).find(|index| free(*index)).filter(|_| ours(start))?;
            let count = (first..end).take_while(|index| free(*index)).count() as u32;
            Some((first, count))
        })
    }

    /// The bytes of so many groups.
    pub(crate) fn bytes_of(&self, first: u32, count: u32) -> (u64, u32) {
        let start = u64::from(first) * GROUP_BYTES as u64;
        let end = (u64::from(first + count) * GROUP_BYTES as u64).min(self.blob.bytes);
        (start, end.saturating_sub(start) as u32)
    }
}
