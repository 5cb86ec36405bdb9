//! What to ask for, and whom.

use super::download::Source;
use super::policy::{
    END_GAME_AFTER, END_GAME_GROUPS, HELP_AFTER, MAX_STALLS, REST, SHARED_WINDOW, SLOW_AFTER,
    SLOW_BYTES_PER_S, SPAN, STALL, TREE_TIMEOUT,
};
use super::{Out, Swarm, mix};
use crate::bits::runs;
use potluck_proto::{BlobRequest, Fetching, GroupRequest, PeerTreeRequest, TreeRequest, UnlinkReason};
use potluck_types::limits::{GROUP_BYTES, MAX_NEIGHBORS};
use potluck_types::{BlobHash, Instant, LinkId};

impl Swarm {
    /// Peers that stall rest, and are dropped when they do so again; the relay helps where peers are slow.
    pub(super) fn watch_peers(&mut self) {
        let now = self.now;
        let mut stalled = Vec::new();
        for (link, peer) in &mut self.peers {
            if !peer.owes.is_empty() && !peer.interrupted && now.since(peer.heard) >= STALL {
                peer.owes.clear();
                peer.stalls += 1;
                peer.rests_until = now + REST;
                stalled.push((*link, peer.stalls));
            }
        }
        for (link, stalls) in stalled {
            self.downloads.values_mut().for_each(|download| download.forget(Source::Peer(link)));
            if stalls >= MAX_STALLS {
                self.drop_peer(link, UnlinkReason::Stalled);
            }
        }
        let rate: u64 = self.peers.values().map(|peer| peer.received.rate(now)).sum();
        for download in self.downloads.values_mut() {
            let late = |(of, since): &(Source, Instant)| {
                matches!(of, Source::Peer(_)) && now.since(*since) >= SLOW_AFTER
            };
            download.slow = rate < SLOW_BYTES_PER_S && download.pending.values().flatten().any(late);
        }
    }

    /// Peers that seek or hold a blob.
    fn sharers(&self, hash: &BlobHash) -> usize {
        let shares = |peer: &&super::Peer| {
            let holds = matches!(peer.holds.get(hash), Some(Some(bits)) if bits.count() > 0);
            !peer.interrupted && (holds || peer.seeks.contains_key(hash))
        };
        self.peers.values().filter(shares).count()
    }

    /// Whoever takes groups from peers, or passes them on, needs the tree.
    pub(super) fn ask_for_trees(&mut self) {
        let now = self.now;
        for hash in self.order.clone() {
            if self.sharers(&hash) == 0 {
                continue;
            }
            let Some(download) = self.downloads.get(&hash) else { continue };
            let waits = download.tree_asked.is_some_and(|(_, since)| now.since(since) < TREE_TIMEOUT);
            if download.tree.is_some() || waits {
                continue;
            }
            let late = download.tree_asked.map(|(of, _)| of);
            // One who has a verified group has the tree.
            let holder = self.peers.iter().find(|(link, peer)| {
                let holds = matches!(peer.holds.get(&hash), Some(Some(bits)) if bits.count() > 0);
                holds && peer.is_usable(now) && late != Some(Source::Peer(**link))
            });
            let from = match holder {
                Some((link, _)) => Source::Peer(*link),
                None if self.relay.is_some() && !download.held => Source::Relay,
                None => continue,
            };
            self.out.push(match from {
                Source::Peer(link) => Out::Peer(link, PeerTreeRequest { hash }.into()),
                Source::Relay => Out::Relay(TreeRequest { hash }.into()),
            });
            if let Some(download) = self.downloads.get_mut(&hash) {
                download.tree_asked = Some((from, now));
            }
        }
    }

    /// Asks each peer for as much as it may owe: the rarest groups first.
    pub(super) fn ask_peers(&mut self) {
        let now = self.now;
        let links: Vec<LinkId> = self.peers.keys().copied().collect();
        for link in links {
            let source = Source::Peer(link);
            let Some(peer) = self.peers.get(&link).filter(|peer| peer.is_usable(now)) else { continue };
            let pipeline = peer.pipeline();
            let owed = peer.owes.len() as u32;
            // In larger portions: choosing costs more than a group.
            if owed > pipeline / 2 {
                continue;
            }
            let mut room = pipeline.saturating_sub(owed) as usize;
            for hash in self.order.clone() {
                if room == 0 {
                    break;
                }
                let from = self.roll(u32::MAX);
                let chosen = self.choose(link, &hash, room, from);
                let Some(download) = self.downloads.get_mut(&hash) else { continue };
                room -= chosen.len();
                for index in &chosen {
                    download.pending.entry(*index).or_default().push((source, now));
                }
                for (first, count) in runs(&chosen) {
                    self.out.push(Out::Peer(link, GroupRequest { hash, first, count }.into()));
                }
                if let Some(peer) = self.peers.get_mut(&link) {
                    if peer.owes.is_empty() {
                        peer.heard = now;
                    }
                    peer.owes.extend(chosen.into_iter().map(|index| (hash, index)));
                }
            }
        }
    }

    /// Groups to ask a peer for, in order of their number.
    fn choose(&self, link: LinkId, hash: &BlobHash, room: usize, from: u32) -> Vec<u32> {
        let (Some(peer), Some(download)) = (self.peers.get(&link), self.downloads.get(hash)) else {
            return Vec::new();
        };
        if download.tree.is_none() || !matches!(peer.holds.get(hash), Some(Some(bits)) if bits.count() > 0) {
            return Vec::new();
        }
        let groups = download.groups;
        let holders = |index: u32| {
            self.peers.values().filter(|peer| peer.holds(hash, index)).count().min(MAX_NEIGHBORS)
        };
        let mut by_rarity: [Vec<u32>; MAX_NEIGHBORS + 1] = Default::default();
        for step in 0..groups {
            let index = (from % groups + step) % groups;
            if download.wants(index) && peer.holds(hash, index) {
                by_rarity[holders(index)].push(index);
            }
        }
        let mut chosen: Vec<u32> = by_rarity.into_iter().flatten().take(room).collect();
        let missing = (groups - download.have.count()) as usize;
        if chosen.is_empty() && missing <= END_GAME_GROUPS {
            // The end: what others owe for long is asked for here as well, once.
            let late = |(_, since): &(Source, Instant)| self.now.since(*since) >= END_GAME_AFTER;
            let others = download.pending.iter().filter(|(index, asked)| {
                asked.len() == 1 && asked.iter().all(late) && peer.holds(hash, **index)
            });
            let own = |asked: &[(Source, Instant)]| asked.iter().any(|(of, _)| *of == Source::Peer(link));
            chosen = others.filter(|(_, asked)| !own(asked)).map(|(index, _)| *index).take(room).collect();
        }
        chosen.sort_unstable();
        chosen
    }

    /// Asks the relay for what nobody else is expected to deliver.
    pub(super) fn ask_relay(&mut self) {
        let Some(line) = self.relay else { return };
        let now = self.now;
        let span = (line.chunk / GROUP_BYTES as u32).clamp(1, SPAN);
        let mut asked: usize = self.downloads.values().map(|download| download.at_relay.len()).sum();
        for hash in self.order.clone() {
            let shared = self.sharers(&hash) > 0;
            let window = if shared { SHARED_WINDOW.min(line.window) } else { line.window };
            while asked < window {
                let from = if shared { self.roll(u32::MAX) } else { 0 };
                let Some(download) = self.downloads.get(&hash) else { break };
                if download.relay_from > now || download.held {
                    break;
                }
                let usable: Vec<_> = self.peers.values().filter(|peer| peer.is_usable(now)).collect();
                let held = |index: u32| !download.slow && usable.iter().any(|peer| peer.holds(&hash, index));
                let draws: Vec<u32> =
                    usable.iter().filter_map(|peer| peer.seeks.get(&hash)).map(|seek| seek.draw).collect();
                let ours = |start: u32| {
                    let own = weight(self.draw, start);
                    download.slow || draws.iter().all(|draw| weight(*draw, start) <= own)
                };
                let from = from % download.groups;
                let found = download.span(held, ours, from, now).or_else(|| self.overdue(&hash));
                // While something comes, what others are to fetch can wait.
                let busy = found.is_some() || !download.pending.is_empty();
                let left = if busy { None } else { download.span(held, |_| true, from, now) };
                let since = left.map(|_| download.waits_since.unwrap_or(now));
                let help = left.filter(|_| since.is_some_and(|since| now.since(since) >= HELP_AFTER));
                let Some(download) = self.downloads.get_mut(&hash) else { break };
                download.waits_since = since;
                let Some((first, count)) = found.or(help) else { break };
                let count = count.min(span);
                let (offset, bytes) = download.bytes_of(first, count);
                for index in first..first + count {
                    download.pending.entry(index).or_default().push((Source::Relay, now));
                }
                download.at_relay.insert(offset, bytes);
                asked += 1;
                self.out.push(Out::Relay(BlobRequest { hash, offset, bytes }.into()));
                for (link, peer) in &self.peers {
                    if peer.seeks.contains_key(&hash) && !peer.interrupted {
                        self.out.push(Out::Peer(*link, Fetching { hash, first, count }.into()));
                    }
                }
            }
        }
    }

    /// Groups that slow peers owe for long, to ask the relay for as well.
    fn overdue(&self, hash: &BlobHash) -> Option<(u32, u32)> {
        let download = self.downloads.get(hash).filter(|download| download.slow)?;
        let late = |asked: &[(Source, Instant)]| {
            asked.iter().all(|(of, since)| *of != Source::Relay && self.now.since(*since) >= END_GAME_AFTER)
        };
        let late: Vec<u32> =
            download.pending.iter().filter(|(_, asked)| late(asked)).map(|(index, _)| *index).collect();
        let (first, count) = runs(&late).into_iter().next()?;
        (!download.at_relay.contains_key(&download.bytes_of(first, 1).0)).then_some((first, count))
    }

    /// When something is due, if nothing else happens.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let now = self.now;
        let mut wake: Option<Instant> = None;
        let mut consider = |at: Instant| {
            if at > now {
                wake = Some(wake.map_or(at, |known| known.min(at)));
            }
        };
        self.tell_at.into_iter().for_each(&mut consider);
        self.upload_wake.into_iter().for_each(&mut consider);
        for peer in self.peers.values() {
            consider(peer.rests_until);
            if !peer.owes.is_empty() && !peer.interrupted {
                consider(peer.heard + STALL);
            }
        }
        for download in self.downloads.values() {
            consider(download.relay_from);
            download.waits_since.into_iter().for_each(|since| consider(since + HELP_AFTER));
            download.ends.into_iter().for_each(&mut consider);
            if self.peers.is_empty() {
                continue;
            }
            download.claims_end(now).into_iter().for_each(&mut consider);
            if let Some((_, since)) = download.tree_asked {
                consider(since + TREE_TIMEOUT);
            }
            for asked in download.pending.values() {
                if let Some((Source::Peer(_), since)) = asked.first() {
                    consider(*since + END_GAME_AFTER);
                    consider(*since + SLOW_AFTER);
                }
            }
        }
        wake
    }
}

/// What a draw is worth for a span: who knows the same draws finds the same one largest.
const fn weight(draw: u32, span: u32) -> u64 {
    mix((draw as u64) << 32 | span as u64)
}
