//! Answers to peers: what is here, and the groups themselves, in turn and within the cap.

use super::policy::{MAX_SEEKS, MAX_UPLOADS};
use super::{Out, Swarm};
use crate::bits::{Bits, runs};
use crate::io::SEND_BUFFER_BYTES;
use crate::tree::{group_count, group_range};
use potluck_proto::{BlobRef, Gained, Group, GroupRequest, Holds, PeerTree, Refused, Seek, UnlinkReason};
use potluck_types::limits::GROUP_BYTES;
use potluck_types::{BlobHash, LinkId};

impl Swarm {
    /// What is here of a blob; `None` if that is nothing at all.
    fn holding(&self, blob: &BlobRef) -> Option<Bits> {
        let groups = group_count(blob.bytes)?;
        if self.store.length(&blob.hash) == Some(blob.bytes) {
            return Some(Bits::all(groups));
        }
        let download = self.downloads.get(&blob.hash).filter(|download| download.blob == *blob)?;
        Some(download.verified()).filter(|bits| bits.count() > 0)
    }

    /// A peer seeks a blob.
    pub(super) fn sought(&mut self, link: LinkId, seek: Seek) -> Result<(), UnlinkReason> {
        let blob = seek.blob;
        let held = self.holding(&blob);
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        if group_count(blob.bytes).is_none() || peer.seeks.len() >= MAX_SEEKS {
            return peer.nonsense();
        }
        peer.seeks.insert(blob.hash, seek);
        let groups = held.map(|bits| bits.bytes().to_vec()).unwrap_or_default();
        self.out.push(Out::Peer(link, Holds { hash: blob.hash, groups }.into()));
        Ok(())
    }

    pub(super) fn tree_sought(&mut self, link: LinkId, hash: &BlobHash) {
        let ours = self.downloads.get(hash).and_then(|download| download.tree.as_ref());
        let list = ours.map(|tree| tree.groups().to_vec()).or_else(|| self.store.tree(hash));
        let answer = match list {
            Some(groups) => PeerTree { hash: *hash, groups }.into(),
            None => Refused { hash: *hash, first: 0, count: 0 }.into(),
        };
        self.out.push(Out::Peer(link, answer));
    }

    pub(super) fn requested(&mut self, link: LinkId, request: &GroupRequest) -> Result<(), UnlinkReason> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        let &GroupRequest { hash, first, count } = request;
        let known = peer.seeks.get(&hash).and_then(|seek| group_count(seek.blob.bytes));
        let fits = known.is_some_and(|groups| first.checked_add(count).is_some_and(|end| end <= groups));
        if !fits || count == 0 {
            return peer.nonsense();
        }
        if peer.uploads.len() + count as usize > MAX_UPLOADS {
            self.out.push(Out::Peer(link, Refused { hash, first, count }.into()));
            return peer.nonsense();
        }
        peer.uploads.extend((first..first + count).map(|index| (hash, index)));
        Ok(())
    }

    /// Blobs left the store: who seeks them hears of it before it asks.
    pub(super) fn left_store(&mut self, left: &[BlobHash]) {
        for hash in left {
            self.out.push(Out::Left(*hash));
            for (link, peer) in &self.peers {
                if peer.seeks.contains_key(hash) {
                    self.out.push(Out::Peer(*link, Holds { hash: *hash, groups: Vec::new() }.into()));
                }
            }
        }
    }

    /// Tells those who seek what was gained since.
    pub(super) fn tell_gained(&mut self) {
        self.tell_at = None;
        for (hash, download) in &mut self.downloads {
            if download.untold.is_empty() {
                continue;
            }
            let mut gained = std::mem::take(&mut download.untold);
            gained.sort_unstable();
            for (first, count) in runs(&gained) {
                for (link, peer) in &self.peers {
                    if peer.seeks.contains_key(hash) && !peer.interrupted {
                        self.out.push(Out::Peer(*link, Gained { hash: *hash, first, count }.into()));
                    }
                }
            }
        }
    }

    /// Sends groups to peers in turn, as far as their channels and the cap allow.
    pub(super) fn upload(&mut self) {
        self.upload_wake = None;
        let mut idle = 0;
        while idle < self.peers.len() {
            let Some(link) = self.next_served() else { return };
            self.served = Some(link);
            let Some(peer) = self.peers.get_mut(&link) else { return };
            let room = peer.buffered + GROUP_BYTES as u64 <= SEND_BUFFER_BYTES && !peer.interrupted;
            let Some(&(hash, index)) = peer.uploads.front().filter(|_| room) else {
                idle += 1;
                continue;
            };
            if let Some(bucket) = &mut self.upload
                && !bucket.take(self.now, GROUP_BYTES as u64)
            {
                self.upload_wake = Some(self.now + bucket.wait(GROUP_BYTES as u64));
                return;
            }
            idle = 0;
            peer.uploads.pop_front();
            let data = match self.downloads.get(&hash) {
                Some(download) => download.group(index).map(<[u8]>::to_vec),
                None => self.store.get(&hash).and_then(|blob| {
                    let (start, length) = group_range(blob.len() as u64, index);
                    blob.get(start as usize..start as usize + length).map(<[u8]>::to_vec)
                }),
            };
            let Some(data) = data else {
                self.out.push(Out::Peer(link, Refused { hash, first: index, count: 1 }.into()));
                continue;
            };
            if let Some(peer) = self.peers.get_mut(&link) {
                peer.buffered += data.len() as u64;
                peer.sent.add(self.now, data.len() as u64);
            }
            self.out.push(Out::Peer(link, Group { hash, index, data }.into()));
        }
    }

    /// Whose turn it is.
    fn next_served(&self) -> Option<LinkId> {
        let after = self.served.and_then(|last| {
            use std::ops::Bound::{Excluded, Unbounded};
            self.peers.range((Excluded(last), Unbounded)).next()
        });
        after.or_else(|| self.peers.iter().next()).map(|(link, _)| *link)
    }
}
