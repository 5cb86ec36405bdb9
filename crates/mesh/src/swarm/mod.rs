//! Which group of which blob from whom: the exchange with peers, and with the relay where they do not hold it.
//!
//! Where to look: `fetch.rs` chooses what to ask for; `serve.rs` answers peers; `download.rs` is one blob on its way in;
//! `peer.rs` what is known of a peer; `policy.rs` the numbers.
//!
//! Rules: a group is checked by itself before it counts or is passed on. From peers first, the rarest group first; from the
//! relay what nobody holds and no neighbor fetches already, or more where peers are slow. A peer that sends a wrong group is
//! dropped at once; one that stalls, lies about what it holds or floods is dropped after a few times.

mod download;
mod fetch;
mod peer;
mod policy;
mod serve;
#[cfg(test)]
mod tests;

use crate::bits::Bits;
use crate::meter::Meter;
use crate::store::Store;
use download::{Download, Source, Took};
use peer::Peer;
use policy::{CONNECT_WAIT, LARGE_BYTES, LINGER, MAX_LIES, MIN_UPLOAD_BYTES_PER_S, PEERS_FIRST_WAIT};
use potluck_proto::{
    BlobChunk, BlobRef, BlobTree, Fetching, Gained, Group, Holds, Message, PeerMessage, PeerTree, Refused,
    Seek, UnlinkReason, Unseek,
};
use potluck_types::limits::{GROUP_BYTES, MAX_CHUNK_BYTES};
use potluck_types::{BlobHash, Bucket, Duration, Instant, LinkId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the swarm says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Out {
    /// To a peer.
    Peer(LinkId, PeerMessage),
    /// To the relay.
    Relay(Message),
    /// A blob that was wanted is here.
    Done(BlobHash, Arc<Vec<u8>>),
    /// A blob that was wanted is not to be had.
    Failed(BlobHash),
    /// A blob came and is kept.
    Stored(BlobHash, Arc<Vec<u8>>),
    /// A blob is kept no more.
    Left(BlobHash),
    /// A peer is not to be borne any longer.
    Drop(LinkId, UnlinkReason),
}

#[derive(Debug, Clone, Copy)]
struct Line {
    /// Largest chunk that the relay sends.
    chunk: u32,
    /// Requests that may be under way.
    window: usize,
}

#[derive(Debug)]
pub(crate) struct Swarm {
    now: Instant,
    /// Where the next choice begins, so that volunteers choose different ones.
    dice: u64,
    /// What decides who of those who seek a blob fetches which part of it from the relay.
    draw: u32,
    pub(crate) store: Store,
    peers: BTreeMap<LinkId, Peer>,
    downloads: BTreeMap<BlobHash, Download>,
    /// In the order in which they were wanted.
    order: Vec<BlobHash>,
    relay: Option<Line>,
    /// When the newest of the links was assigned that are being made, if any is.
    connecting_since: Option<Instant>,
    upload: Option<Bucket>,
    upload_wake: Option<Instant>,
    /// The peer that was served last.
    served: Option<LinkId>,
    tell_at: Option<Instant>,
    pub(crate) from_relay: Meter,
    /// Of peers that are gone.
    past: [u64; 2],
    pub(crate) out: Vec<Out>,
}

/// Before the relay is asked, peers that are there have so long to say what they hold.
const fn answer_wait(peers_first: bool) -> Duration {
    if peers_first { policy::PEERS_FIRST_ANSWER_WAIT } else { policy::ANSWER_WAIT }
}

impl Swarm {
    pub(crate) fn new(seed: u64, store_bytes: u64, upload_bytes_per_s: Option<u64>) -> Self {
        // The burst holds a group, whatever the rate: else none could ever leave.
        let bucket = |rate: u64| {
            let rate = rate.max(MIN_UPLOAD_BYTES_PER_S);
            Bucket::new(Instant(0), rate.max(2 * GROUP_BYTES as u64), rate)
        };
        let mut swarm = Self {
            now: Instant(0),
            dice: seed,
            draw: 0,
            store: Store::new(store_bytes),
            peers: BTreeMap::new(),
            downloads: BTreeMap::new(),
            order: Vec::new(),
            relay: None,
            connecting_since: None,
            upload: upload_bytes_per_s.map(bucket),
            upload_wake: None,
            served: None,
            tell_at: None,
            from_relay: Meter::new(Instant(0)),
            past: [0; 2],
            out: Vec::new(),
        };
        swarm.draw = swarm.roll(u32::MAX);
        swarm
    }

    /// Time goes on; it never runs backwards.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn roll(&mut self, below: u32) -> u32 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.dice) >> 32) as u32 % below.max(1)
    }

    /// Wants a blob. It comes back as [`Out::Done`] or [`Out::Failed`]; at once if it is here.
    /// `peers_first`: a small one waits for links, too.
    pub(crate) fn want(&mut self, blob: BlobRef, peers_first: bool) {
        if let Some(bytes) = self.store.get(&blob.hash).filter(|bytes| bytes.len() as u64 == blob.bytes) {
            return self.out.push(Out::Done(blob.hash, bytes));
        }
        if let Some(known) = self.downloads.get_mut(&blob.hash) {
            if known.blob == blob {
                (known.ends, known.held) = (None, false);
            } else {
                self.out.push(Out::Failed(blob.hash));
            }
            return;
        }
        let Some(mut download) = Download::new(blob, self.now) else {
            return self.out.push(Out::Failed(blob.hash));
        };
        if !self.peers.is_empty() {
            download.relay_from = self.now + answer_wait(peers_first);
        }
        download.peers_first = peers_first;
        if blob.bytes >= LARGE_BYTES || peers_first {
            download.relay_from = download.relay_from.max(self.connecting_until(peers_first));
        }
        self.downloads.insert(blob.hash, download);
        self.order.push(blob.hash);
        for (link, peer) in &mut self.peers {
            peer.holds.insert(blob.hash, None);
            self.out.push(Out::Peer(*link, Seek { blob, draw: self.draw }.into()));
        }
    }

    /// The relay is asked for nothing of a blob until it is wanted anew; peers go on.
    pub(crate) fn hold(&mut self, hash: &BlobHash) {
        if let Some(download) = self.downloads.get_mut(hash) {
            download.held = true;
            // What is under way may come or not: then it is asked for again.
            download.forget(Source::Relay);
        }
    }

    /// No lease needs a blob any more.
    pub(crate) fn unwant(&mut self, hash: &BlobHash) {
        if self.relay.is_some() || self.peers.is_empty() {
            self.end(hash);
        } else if let Some(download) = self.downloads.get_mut(hash) {
            download.ends.get_or_insert(self.now + LINGER);
        }
    }

    fn end(&mut self, hash: &BlobHash) -> Option<Download> {
        let download = self.downloads.remove(hash)?;
        self.order.retain(|other| other != hash);
        for (link, peer) in &mut self.peers {
            if peer.holds.remove(hash).is_some() {
                self.out.push(Out::Peer(*link, Unseek { hash: *hash }.into()));
            }
        }
        Some(download)
    }

    /// The relay can be asked.
    pub(crate) fn relay_up(&mut self, chunk_bytes: u64, window: u64) {
        let chunk = (chunk_bytes as usize).clamp(GROUP_BYTES, MAX_CHUNK_BYTES) as u32;
        self.relay = Some(Line { chunk, window: window.max(1) as usize });
    }

    /// The relay is away.
    pub(crate) fn relay_down(&mut self) {
        self.relay = None;
        self.downloads.values_mut().for_each(|download| download.forget(Source::Relay));
    }

    /// Links are being made, the newest since then: large blobs wait for them a little.
    pub(crate) fn connecting(&mut self, since: Option<Instant>) {
        self.connecting_since = since;
        // Where none is any more, there is nothing to wait for but the answers of those that are there.
        let now = self.now;
        let over = [false, true].map(|peers_first| self.connecting_until(peers_first) <= self.now);
        for download in self.downloads.values_mut().filter(|download| over[usize::from(download.peers_first)])
        {
            download.relay_from = download.relay_from.min(now + answer_wait(download.peers_first));
        }
    }

    /// Until when a blob waits for links that are being made.
    fn connecting_until(&self, peers_first: bool) -> Instant {
        let patience = if peers_first { PEERS_FIRST_WAIT } else { CONNECT_WAIT };
        self.connecting_since.map_or(self.now, |since| since + patience)
    }

    /// A peer can be spoken to.
    pub(crate) fn peer_up(&mut self, link: LinkId) {
        let mut peer = Peer::new(self.now);
        for hash in &self.order {
            if let Some(download) = self.downloads.get(hash) {
                peer.holds.insert(*hash, None);
                self.out.push(Out::Peer(link, Seek { blob: download.blob, draw: self.draw }.into()));
            }
        }
        self.peers.insert(link, peer);
    }

    /// Nothing comes through from a peer at the moment, or again.
    pub(crate) fn peer_interrupted(&mut self, link: LinkId, interrupted: bool) {
        let Some(peer) = self.peers.get_mut(&link) else { return };
        peer.interrupted = interrupted;
        peer.heard = self.now;
        peer.owes.clear();
        if interrupted {
            // What it owes may still come; others are asked meanwhile.
            self.downloads.values_mut().for_each(|download| download.forget(Source::Peer(link)));
        }
    }

    /// A peer is gone.
    pub(crate) fn peer_down(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.remove(&link) {
            self.past[0] += peer.received.total();
            self.past[1] += peer.sent.total();
            self.downloads.values_mut().for_each(|download| download.forget(Source::Peer(link)));
        }
    }

    /// A channel holds so many bytes.
    pub(crate) fn drained(&mut self, link: LinkId, buffered: u64) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.buffered = buffered;
        }
    }

    /// Bytes of groups that a peer gave and got, and the rates.
    pub(crate) fn traffic(&self, link: LinkId) -> Option<[u64; 4]> {
        let now = self.now;
        let peer = self.peers.get(&link)?;
        let rates = [peer.received.rate(now), peer.sent.rate(now)];
        Some([peer.received.total(), peer.sent.total(), rates[0], rates[1]])
    }

    /// Bytes of groups that all peers gave and got.
    pub(crate) fn totals(&self) -> [u64; 2] {
        self.peers.values().fold(self.past, |[received, sent], peer| {
            [received + peer.received.total(), sent + peer.sent.total()]
        })
    }

    /// A chunk of the relay's.
    pub(crate) fn relay_chunk(&mut self, chunk: &BlobChunk) {
        let Some(download) = self.downloads.get_mut(&chunk.hash) else { return };
        // Exactly what was asked for; anything else is ignored.
        if download.at_relay.get(&chunk.offset).is_none_or(|bytes| *bytes as usize != chunk.data.len()) {
            return;
        }
        download.at_relay.remove(&chunk.offset);
        self.from_relay.add(self.now, chunk.data.len() as u64);
        let first = (chunk.offset / GROUP_BYTES as u64) as u32;
        let mut wrong = false;
        for (index, data) in (first..).zip(chunk.data.chunks(GROUP_BYTES)) {
            if let Some(asked) = download.pending.get_mut(&index) {
                asked.retain(|(of, _)| *of != Source::Relay);
                if asked.is_empty() {
                    download.pending.remove(&index);
                }
            }
            wrong |= download.take(index, data) == Took::Wrong;
        }
        // The last resort failed.
        if wrong {
            self.fail(&chunk.hash);
        } else {
            self.complete(&chunk.hash);
        }
    }

    /// The relay's tree of a blob.
    pub(crate) fn relay_tree(&mut self, tree: BlobTree) {
        if self.tree(&tree.hash, tree.groups) == Some(false) {
            // It has to have the right one: whoever named the blob has made it.
            self.fail(&tree.hash);
        }
    }

    /// A blob that was kept earlier, and outlived the tab.
    pub(crate) fn stored(&mut self, bytes: Vec<u8>) {
        let hash = BlobHash::of(&bytes);
        let bytes = Arc::new(bytes);
        if let Some(left) = self.store.insert(hash, &bytes, None) {
            self.left_store(&left);
        }
        let length = bytes.len() as u64;
        if self.downloads.get(&hash).is_some_and(|download| download.blob.bytes == length)
            && self.end(&hash).is_some_and(|download| download.ends.is_none())
        {
            self.out.push(Out::Done(hash, bytes));
        }
    }

    /// The relay does not have a blob, or does not give it.
    pub(crate) fn relay_missing(&mut self, hash: &BlobHash) {
        self.fail(hash);
    }

    fn fail(&mut self, hash: &BlobHash) {
        if let Some(download) = self.end(hash)
            && download.ends.is_none()
        {
            self.out.push(Out::Failed(*hash));
        }
    }

    /// Takes a tree in: whether it is the blob's; `None` if nobody needs it.
    fn tree(&mut self, hash: &BlobHash, groups: Vec<[u8; 32]>) -> Option<bool> {
        let download = self.downloads.get_mut(hash)?;
        if download.tree.is_some() {
            return None;
        }
        download.tree_asked = None;
        let right = download.take_tree(groups);
        match right {
            Some(true) => self.complete(hash),
            // What came from the relay before the tree is wrong.
            Some(false) => self.fail(hash),
            None => {}
        }
        Some(right.is_some())
    }

    /// A message of a peer's.
    pub(crate) fn frame(&mut self, link: LinkId, message: PeerMessage) {
        if let Err(reason) = self.hear(link, message) {
            self.drop_peer(link, reason);
        }
    }

    pub(crate) fn drop_peer(&mut self, link: LinkId, reason: UnlinkReason) {
        self.peer_down(link);
        self.out.push(Out::Drop(link, reason));
    }

    fn hear(&mut self, link: LinkId, message: PeerMessage) -> Result<(), UnlinkReason> {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        if !matches!(message, PeerMessage::Group(_)) {
            peer.message(now)?;
        }
        match message {
            // Said again because the answer was lost.
            PeerMessage::PeerHello(_) => Ok(()),
            PeerMessage::Seek(seek) => self.sought(link, seek),
            PeerMessage::Unseek(Unseek { hash }) => {
                peer.seeks.remove(&hash);
                peer.uploads.retain(|(of, _)| *of != hash);
                Ok(())
            }
            PeerMessage::Holds(Holds { hash, groups }) => {
                // What is needed no more crosses with the word that it is not.
                let Some(download) = self.downloads.get(&hash) else { return Ok(()) };
                let Some(bits) = Bits::read(&groups, download.groups) else { return peer.nonsense() };
                peer.holds.insert(hash, Some(bits));
                Ok(())
            }
            PeerMessage::Gained(Gained { hash, first, count }) => {
                let Some(download) = self.downloads.get_mut(&hash) else { return Ok(()) };
                let groups = download.groups;
                if first.checked_add(count).is_none_or(|end| end > groups) {
                    return peer.nonsense();
                }
                let bits = peer.holds.entry(hash).or_default().get_or_insert_with(|| Bits::none(groups));
                (first..first + count).for_each(|index| {
                    bits.set(index);
                });
                Ok(())
            }
            PeerMessage::Fetching(Fetching { hash, first, count }) => {
                if let Some(download) = self.downloads.get_mut(&hash) {
                    download.claim(link, first, count, now);
                }
                Ok(())
            }
            PeerMessage::PeerTreeRequest(request) => {
                self.tree_sought(link, &request.hash);
                Ok(())
            }
            PeerMessage::PeerTree(PeerTree { hash, groups }) => {
                let asked = Some(Source::Peer(link));
                let waits = self.downloads.get(&hash).map(|download| download.tree_asked.map(|(of, _)| of));
                if waits == Some(asked) && self.tree(&hash, groups) == Some(false) {
                    return Err(UnlinkReason::BadGroup);
                }
                Ok(())
            }
            PeerMessage::GroupRequest(request) => self.requested(link, &request),
            PeerMessage::Group(group) => self.group(link, &group),
            PeerMessage::Refused(refused) => self.refused(link, &refused),
        }
    }

    fn group(&mut self, link: LinkId, group: &Group) -> Result<(), UnlinkReason> {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        let bytes = group.data.len() as u64;
        let asked = peer.owes.remove(&(group.hash, group.index));
        if asked {
            peer.heard = now;
            peer.stalls = 0;
            peer.received.add(now, bytes);
        } else {
            peer.unasked(bytes)?;
        }
        // Without a tree nobody was asked: it cannot be checked.
        let download = self.downloads.get_mut(&group.hash).filter(|download| download.tree.is_some());
        let Some(download) = download else { return Ok(()) };
        match download.take(group.index, &group.data) {
            Took::Wrong => Err(UnlinkReason::BadGroup),
            // Somebody else was sooner.
            Took::Again => Ok(()),
            Took::Right => {
                self.complete(&group.hash);
                Ok(())
            }
        }
    }

    fn refused(&mut self, link: LinkId, refused: &Refused) -> Result<(), UnlinkReason> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        let Some(download) = self.downloads.get_mut(&refused.hash) else { return Ok(()) };
        let from = Source::Peer(link);
        if refused.count == 0 {
            if download.tree_asked.is_some_and(|(of, _)| of == from) {
                download.tree_asked = None;
                peer.holds.insert(refused.hash, Some(Bits::none(download.groups)));
            }
            return Ok(());
        }
        let end = refused.first.saturating_add(refused.count).min(download.groups);
        let mut lied = false;
        for index in refused.first..end {
            if peer.owes.remove(&(refused.hash, index)) {
                peer.heard = self.now;
            }
            if let Some(asked) = download.pending.get_mut(&index) {
                asked.retain(|(of, _)| *of != from);
                if asked.is_empty() {
                    download.pending.remove(&index);
                }
            }
            // Who loses a blob says first that it no longer holds it.
            lied |= peer.holds(&refused.hash, index);
            if let Some(Some(bits)) = peer.holds.get_mut(&refused.hash) {
                bits.clear(index);
            }
        }
        peer.lies += u32::from(lied);
        if peer.lies > MAX_LIES { Err(UnlinkReason::Lied) } else { Ok(()) }
    }

    /// If all of a blob is here, it is done.
    fn complete(&mut self, hash: &BlobHash) {
        if self.downloads.get(hash).is_none_or(|download| !download.have.is_full()) {
            return;
        }
        self.tell_gained();
        let Some(download) = self.end(hash) else { return };
        let wanted = download.ends.is_none();
        let Some((bytes, tree)) = download.finish() else {
            if wanted {
                self.out.push(Out::Failed(*hash));
            }
            return;
        };
        let bytes = Arc::new(bytes);
        let tree = tree.map(|tree| tree.groups().to_vec());
        if let Some(left) = self.store.insert(*hash, &bytes, tree) {
            self.left_store(&left);
            self.out.push(Out::Stored(*hash, Arc::clone(&bytes)));
        }
        if wanted {
            self.out.push(Out::Done(*hash, bytes));
        }
    }

    /// Does whatever is due: ask, serve, tell.
    pub(crate) fn advance(&mut self) {
        let now = self.now;
        let over: Vec<_> = self
            .downloads
            .iter()
            .filter(|(_, download)| download.ends.is_some_and(|ends| ends <= now))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in over {
            self.end(&hash);
        }
        self.watch_peers();
        self.ask_for_trees();
        self.ask_peers();
        self.ask_relay();
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_gained();
        } else if self.tell_at.is_none()
            && self.downloads.values().any(|download| !download.untold.is_empty())
        {
            self.tell_at = Some(now + policy::TELL_INTERVAL);
        }
        self.upload();
    }
}

/// The output of SplitMix64: each bit depends on all of them.
const fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
