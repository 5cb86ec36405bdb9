//! Swarms, a relay and the network between them, in one thread: time and chance are made here.

use super::*;
use crate::io::SEND_LOW_BYTES;
use crate::tree::tree_of;
use potluck_proto::{GroupRequest, PeerTreeRequest, TreeRequest, encode_peer};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// How a node does what its swarm says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Flips a bit in every tenth group.
    Corrupts,
    /// Sends no groups.
    Stalls,
    /// Says that it holds everything, and refuses it.
    Lies,
}

struct Node {
    swarm: Swarm,
    manner: Manner,
    groups_sent: u64,
    /// Until when its line is busy sending.
    line_free: u64,
    bytes_per_ms: u64,
    done: BTreeSet<BlobHash>,
    failed: BTreeSet<BlobHash>,
    stored: BTreeMap<BlobHash, Arc<Vec<u8>>>,
    /// Whom it dropped, and why.
    dropped: Vec<(usize, UnlinkReason)>,
}

enum What {
    Peer { from: usize, message: PeerMessage },
    Drained { link: LinkId },
    Relay(Message),
    Tick,
}

struct Lab {
    now: u64,
    nodes: Vec<Node>,
    blobs: Vec<Arc<Vec<u8>>>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: BTreeMap<u64, What>,
    next: u64,
    relay_line_free: u64,
    relay_bytes_per_ms: u64,
    relay_is_up: bool,
    egress: u64,
    /// One way, in milliseconds.
    latency: u64,
}

fn link(a: usize, b: usize) -> LinkId {
    let (low, high) = (a.min(b) as u8, a.max(b) as u8);
    LinkId([low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn other(link: LinkId, node: usize) -> usize {
    let [low, high, ..] = link.0;
    usize::from(if usize::from(low) == node { high } else { low })
}

impl Lab {
    fn new(manners: &[Manner], blobs: usize, bytes: usize) -> Self {
        let blob = |n: usize| Arc::new((0..bytes).map(|i| ((i * 31 + n * 7) ^ (i >> 9)) as u8).collect());
        let node = |(n, manner): (usize, &Manner)| Node {
            swarm: Swarm::new(n as u64, 1 << 30, None),
            manner: *manner,
            groups_sent: 0,
            line_free: 0,
            bytes_per_ms: 10_000,
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            stored: BTreeMap::new(),
            dropped: Vec::new(),
        };
        Self {
            now: 0,
            nodes: manners.iter().enumerate().map(node).collect(),
            blobs: (0..blobs).map(blob).collect(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            relay_line_free: 0,
            relay_bytes_per_ms: 2_500,
            relay_is_up: true,
            egress: 0,
            latency: 20,
        }
    }

    fn refs(&self) -> Vec<BlobRef> {
        let name = |blob: &Arc<Vec<u8>>| BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 };
        self.blobs.iter().map(name).collect()
    }

    fn at(&mut self, when: u64, node: usize, what: What) {
        self.next += 1;
        self.events.insert(self.next, what);
        self.queue.push(Reverse((when, self.next, node)));
    }

    fn connect(&mut self, a: usize, b: usize) {
        for node in [a, b] {
            let swarm = &mut self.nodes[node].swarm;
            swarm.set_now(Instant(self.now));
            swarm.peer_up(link(a, b));
            self.settle(node);
        }
    }

    fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.connect(b, a);
            }
        }
    }

    fn relay_up(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].swarm.relay_up(MAX_CHUNK_BYTES as u64, 8);
        }
    }

    fn want_all(&mut self, node: usize) {
        for blob in self.refs() {
            self.nodes[node].swarm.set_now(Instant(self.now));
            self.nodes[node].swarm.want(blob, false);
        }
        self.settle(node);
    }

    /// The node has everything from the start.
    fn give_all(&mut self, node: usize) {
        for blob in self.blobs.clone() {
            self.nodes[node].swarm.store.insert(BlobHash::of(&blob), &blob, None);
        }
    }

    /// Does what a swarm says, and advances it.
    fn settle(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].swarm.set_now(Instant(now));
        self.nodes[node].swarm.advance();
        for out in std::mem::take(&mut self.nodes[node].swarm.out) {
            match out {
                Out::Peer(link, message) => self.send(node, link, message),
                Out::Relay(message) if self.relay_is_up => self.serve(node, message),
                Out::Relay(_) => {}
                Out::Done(hash, bytes) => {
                    assert_eq!(BlobHash::of(&bytes), hash);
                    self.nodes[node].done.insert(hash);
                }
                Out::Failed(hash) => drop(self.nodes[node].failed.insert(hash)),
                Out::Stored(hash, bytes) => drop(self.nodes[node].stored.insert(hash, bytes)),
                Out::Left(hash) => drop(self.nodes[node].stored.remove(&hash)),
                Out::Drop(link, reason) => {
                    let other = other(link, node);
                    self.nodes[node].dropped.push((other, reason));
                    self.nodes[other].swarm.peer_down(link);
                }
            }
        }
        if let Some(wake) = self.nodes[node].swarm.next_wake() {
            assert!(wake.0 > now, "it would spin");
            self.at(wake.0, node, What::Tick);
        }
    }

    fn send(&mut self, node: usize, link: LinkId, mut message: PeerMessage) {
        let sender = &mut self.nodes[node];
        match (&mut message, sender.manner) {
            (PeerMessage::Group(_), Manner::Stalls) => return,
            (PeerMessage::Group(group), Manner::Corrupts) => {
                sender.groups_sent += 1;
                if sender.groups_sent.is_multiple_of(10) {
                    group.data[5] ^= 4;
                }
            }
            (PeerMessage::Group(group), Manner::Lies) => {
                let Group { hash, index, .. } = *group;
                message = Refused { hash, first: index, count: 1 }.into();
            }
            _ => {}
        }
        let bytes = encode_peer(&message).unwrap().len() as u64;
        sender.line_free = sender.line_free.max(self.now) + bytes / sender.bytes_per_ms;
        let left = sender.line_free;
        if matches!(message, PeerMessage::Group(_)) {
            self.at(left, node, What::Drained { link });
        }
        let to = other(link, node);
        self.at(left + self.latency, to, What::Peer { from: node, message });
    }

    fn serve(&mut self, node: usize, message: Message) {
        let find = |hash: &BlobHash| self.blobs.iter().find(|blob| BlobHash::of(blob) == *hash).cloned();
        let answer: Message = match message {
            Message::BlobRequest(request) => {
                let blob = find(&request.hash).unwrap();
                let start = request.offset as usize;
                let data = blob[start..start + request.bytes as usize].to_vec();
                self.egress += data.len() as u64;
                BlobChunk { hash: request.hash, offset: request.offset, data }.into()
            }
            Message::TreeRequest(TreeRequest { hash }) => {
                BlobTree { hash, groups: tree_of(&find(&hash).unwrap()) }.into()
            }
            other => panic!("{other:?}"),
        };
        let bytes = potluck_proto::encode(&answer).unwrap().len() as u64;
        let line_free = self.relay_line_free.max(self.now + self.latency) + bytes / self.relay_bytes_per_ms;
        self.relay_line_free = line_free;
        self.at(line_free + self.latency, node, What::Relay(answer));
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((when, key, node))) = self.queue.pop() {
            if when > until {
                self.queue.push(Reverse((when, key, node)));
                break;
            }
            self.now = when;
            let what = self.events.remove(&key).unwrap();
            let swarm = &mut self.nodes[node].swarm;
            swarm.set_now(Instant(when));
            match what {
                What::Peer { from, message } => swarm.frame(link(from, node), message),
                What::Drained { link } => {
                    if let Some(peer) = swarm.peers.get(&link) {
                        let left = peer.buffered.saturating_sub(GROUP_BYTES as u64);
                        swarm.drained(link, left.min(SEND_LOW_BYTES));
                    }
                }
                What::Relay(_) if !self.relay_is_up => {}
                What::Relay(Message::BlobChunk(chunk)) => swarm.relay_chunk(&chunk),
                What::Relay(Message::BlobTree(tree)) => swarm.relay_tree(tree),
                What::Relay(other) => panic!("{other:?}"),
                What::Tick => {}
            }
            self.settle(node);
        }
        self.now = until;
    }

    /// Runs until a node has everything; when that was.
    fn until_done(&mut self, node: usize, most: u64) -> u64 {
        let all = self.blobs.len();
        while self.nodes[node].done.len() < all {
            assert!(self.now < most, "node {node} has {} of {all}", self.nodes[node].done.len());
            let next = self.queue.peek().expect("something is due").0.0;
            self.run(next);
        }
        self.now
    }

    fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.len() as u64).sum()
    }
}

const HONEST: Manner = Manner::Honest;
const MINUTES: u64 = 60_000;

#[test]
fn a_swarm_takes_each_group_from_the_relay_about_once() {
    let mut lab = Lab::new(&[HONEST; 8], 4, 4 << 20);
    lab.relay_up();
    lab.connect_all();
    (0..8).for_each(|node| lab.want_all(node));
    let took = (0..8).map(|node| lab.until_done(node, 5 * MINUTES)).max().unwrap();
    let ratio = lab.egress as f64 / lab.bytes() as f64;
    assert!(ratio <= 1.3, "{ratio} times the blobs left the relay");

    let mut alone = Lab::new(&[HONEST; 8], 4, 4 << 20);
    alone.relay_up();
    (0..8).for_each(|node| alone.want_all(node));
    let without = (0..8).map(|node| alone.until_done(node, 5 * MINUTES)).max().unwrap();
    assert_eq!(alone.egress, 8 * alone.bytes());
    println!("egress {ratio:.2} x; {took} ms with peers, {without} ms without");
    assert!(took * 3 < without, "{took} ms with peers, {without} ms without");
}

/// Copies of a blob that leave the relay for eight nodes in a ring, each linked with so many to either side.
fn copies(reach: usize, relay_bytes_per_ms: u64, node_bytes_per_ms: u64) -> f64 {
    let mut lab = Lab::new(&[HONEST; 8], 1, 4 << 20);
    lab.relay_bytes_per_ms = relay_bytes_per_ms;
    lab.nodes.iter_mut().for_each(|node| node.bytes_per_ms = node_bytes_per_ms);
    lab.relay_up();
    for a in 0..8_usize {
        (0..a).filter(|b| (a - b).min(8 + b - a) <= reach).for_each(|b| lab.connect(b, a));
    }
    (0..8).for_each(|node| lab.want_all(node));
    for node in 0..8 {
        lab.until_done(node, 5 * MINUTES);
    }
    lab.egress as f64 / lab.bytes() as f64
}

#[test]
fn a_relay_that_is_faster_than_all_peers_is_spared_all_the_same() {
    // 800 Mbit/s against 24 and 8 each.
    for node_bytes_per_ms in [3000, 1000] {
        let all = copies(4, 100_000, node_bytes_per_ms);
        assert!(all <= 1.25, "all linked, {node_bytes_per_ms} B/ms: {all}");
        // Who is not linked does not hear what others fetch.
        let ring = copies(2, 100_000, node_bytes_per_ms);
        assert!(ring <= 2.0, "four links each, {node_bytes_per_ms} B/ms: {ring}");
    }
    // Peers with less than what counts as slow leave most to the relay.
    let slow = copies(4, 100_000, 25);
    assert!(slow >= 3.0, "{slow}");
}

#[test]
fn who_comes_later_takes_everything_from_peers() {
    let mut lab = Lab::new(&[HONEST; 3], 2, 3 << 20);
    lab.relay_up();
    lab.connect_all();
    lab.give_all(0);
    lab.want_all(1);
    lab.until_done(1, MINUTES);
    lab.want_all(2);
    lab.until_done(2, MINUTES);
    assert_eq!(lab.egress, 0);
    let [_, sent] = lab.nodes[0].swarm.totals();
    let [_, passed] = lab.nodes[1].swarm.totals();
    assert!(passed > 0 && sent < 2 * lab.bytes(), "both serve: {sent}, {passed}");
}

/// A node with that manner says that it holds everything; two others need it.
fn beside(manner: Manner) -> Lab {
    let mut lab = Lab::new(&[manner, HONEST, HONEST], 2, 3 << 20);
    lab.relay_up();
    lab.connect_all();
    lab.give_all(0);
    lab.want_all(1);
    lab.want_all(2);
    lab.until_done(1, MINUTES);
    lab.until_done(2, MINUTES);
    lab
}

#[test]
fn a_peer_that_corrupts_groups_is_dropped_at_the_group() {
    let lab = beside(Manner::Corrupts);
    for node in [1, 2] {
        assert!(lab.nodes[node].dropped.contains(&(0, UnlinkReason::BadGroup)));
        assert!(lab.nodes[node].dropped.iter().all(|(who, _)| *who == 0), "only the one to blame");
    }
    assert!(lab.egress <= 2 * lab.bytes());
}

#[test]
fn a_peer_that_stalls_is_dropped_and_others_asked_meanwhile() {
    let mut lab = beside(Manner::Stalls);
    assert!(lab.now < 20_000, "{} ms", lab.now);
    // It is dropped when it stalls again.
    lab.blobs = (0..12).map(|n| Arc::new(vec![n; 1 << 20])).collect();
    lab.give_all(0);
    lab.nodes[1].done.clear();
    lab.run(lab.now + 15_000);
    lab.want_all(1);
    lab.until_done(1, 2 * MINUTES);
    lab.run(lab.now + MINUTES);
    assert_eq!(lab.nodes[1].dropped, [(0, UnlinkReason::Stalled)]);
}

#[test]
fn a_peer_that_lies_about_what_it_holds_is_dropped() {
    let lab = beside(Manner::Lies);
    for node in [1, 2] {
        assert_eq!(lab.nodes[node].dropped, [(0, UnlinkReason::Lied)]);
    }
}

#[test]
fn the_relay_helps_where_peers_are_slow() {
    let mut lab = Lab::new(&[HONEST; 2], 1, 6 << 20);
    lab.relay_up();
    lab.connect_all();
    lab.give_all(0);
    // 40 kB/s: 150 s for all of it.
    lab.nodes[0].bytes_per_ms = 40;
    lab.want_all(1);
    let took = lab.until_done(1, 5 * MINUTES);
    assert!(took < 30_000, "{took} ms");
    assert!(lab.nodes[1].dropped.is_empty(), "slow is no fault");
}

#[test]
fn transfers_between_peers_outlive_the_relay() {
    let mut lab = Lab::new(&[HONEST; 2], 2, 6 << 20);
    lab.relay_up();
    lab.connect_all();
    lab.give_all(0);
    lab.nodes[0].bytes_per_ms = 2_000;
    lab.want_all(1);
    lab.run(1_500);
    let [before, _] = lab.nodes[1].swarm.totals();
    assert!(before > 0 && lab.nodes[1].done.is_empty(), "{before} bytes");
    lab.relay_is_up = false;
    lab.nodes[1].swarm.relay_down();
    for blob in lab.refs() {
        lab.nodes[1].swarm.unwant(&blob.hash);
    }
    lab.run(20_000);
    assert_eq!(lab.nodes[1].swarm.store.bytes(), lab.bytes(), "it went on");
    // The lease comes back: everything is here.
    lab.relay_is_up = true;
    lab.relay_up();
    lab.want_all(1);
    assert_eq!((lab.nodes[1].done.len(), lab.egress), (2, 0));
}

#[test]
fn a_transfer_that_nobody_can_end_is_let_go() {
    let mut lab = Lab::new(&[HONEST; 2], 1, 1 << 20);
    lab.connect_all();
    lab.want_all(1);
    let hash = lab.refs()[0].hash;
    lab.nodes[1].swarm.unwant(&hash);
    lab.settle(1);
    assert_eq!(lab.nodes[1].swarm.downloads.len(), 1);
    lab.run(policy::LINGER.0 + 1000);
    assert!(lab.nodes[1].swarm.downloads.is_empty());
    assert!(lab.nodes[0].swarm.peers[&link(0, 1)].seeks.is_empty(), "the other one was told");
}

#[test]
fn a_link_that_is_cut_and_comes_back_goes_on() {
    let mut lab = Lab::new(&[HONEST; 2], 2, 6 << 20);
    lab.connect_all();
    lab.give_all(0);
    lab.nodes[0].bytes_per_ms = 2_000;
    lab.want_all(1);
    lab.run(1_500);
    for node in [0, 1] {
        lab.nodes[node].swarm.peer_interrupted(link(0, 1), true);
        lab.settle(node);
    }
    lab.run(21_500);
    for node in [0, 1] {
        lab.nodes[node].swarm.peer_interrupted(link(0, 1), false);
        lab.settle(node);
    }
    let took = lab.until_done(1, MINUTES);
    assert!(took < 40_000, "{took} ms");
    assert!(lab.nodes.iter().all(|node| node.dropped.is_empty()));
}

#[test]
fn uploads_keep_to_their_cap_and_are_shared() {
    let mut lab = Lab::new(&[HONEST; 3], 1, 4 << 20);
    lab.nodes[0].swarm = Swarm::new(0, 1 << 30, Some(500_000));
    lab.connect(0, 1);
    lab.connect(0, 2);
    lab.give_all(0);
    lab.want_all(1);
    lab.want_all(2);
    lab.run(4_000);
    let [_, sent] = lab.nodes[0].swarm.totals();
    assert!((1_500_000..=2_600_000).contains(&sent), "{sent} bytes in 4 s at 500 kB/s");
    let got: Vec<_> = [1, 2].map(|node| lab.nodes[node].swarm.totals()[0]).into();
    assert!(got[0].abs_diff(got[1]) <= 2 * GROUP_BYTES as u64, "{got:?}");
}

#[test]
fn what_leaves_the_store_is_said_before_it_is_asked_for() {
    let mut lab = Lab::new(&[HONEST; 2], 2, 1 << 20);
    lab.nodes[0].swarm = Swarm::new(0, 1 << 20, None);
    lab.connect_all();
    let (first, second) = (lab.blobs[0].clone(), lab.blobs[1].clone());
    let insert = |lab: &mut Lab, blob: &Arc<Vec<u8>>| {
        let left = lab.nodes[0].swarm.store.insert(BlobHash::of(blob), blob, None);
        lab.nodes[0].swarm.left_store(&left.unwrap_or_default());
        lab.settle(0);
    };
    insert(&mut lab, &first);
    lab.want_all(1);
    lab.run(30);
    insert(&mut lab, &second);
    lab.run(MINUTES);
    assert!(lab.nodes[1].dropped.is_empty(), "no lie: {:?}", lab.nodes[1].dropped);
}

#[test]
fn floods_end_the_link() {
    let mut lab = Lab::new(&[HONEST; 2], 1, 1 << 20);
    let hash = lab.refs()[0].hash;
    let mut flood = |message: PeerMessage, most: usize| {
        lab.nodes[0].swarm.peer_up(link(0, 1));
        for _ in 0..most {
            lab.nodes[0].swarm.frame(link(0, 1), message.clone());
            if !lab.nodes[0].swarm.peers.contains_key(&link(0, 1)) {
                let out = lab.nodes[0].swarm.out.pop();
                assert_eq!(out, Some(Out::Drop(link(0, 1), UnlinkReason::Flooded)));
                return;
            }
        }
        panic!("{} bytes go on", encode_peer(&message).unwrap().len());
    };
    flood(Group { hash, index: 0, data: vec![0; GROUP_BYTES] }.into(), 130);
    flood(GroupRequest { hash, first: 0, count: 1 }.into(), 9);
    flood(PeerTreeRequest { hash }.into(), 1001);
    flood(Unseek { hash }.into(), 1001);
    assert!(lab.nodes[0].swarm.out.len() <= 1100, "answers are bounded: {}", lab.nodes[0].swarm.out.len());
}

fn message(hashes: [BlobHash; 2]) -> impl Strategy<Value = PeerMessage> {
    let number = prop_oneof![0..40_u32, Just(u32::MAX), any::<u32>()];
    (0..11, 0..2_usize, number.clone(), number, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        move |(kind, which, first, count, data)| {
            let hash = hashes[which];
            match kind {
                0 => Seek { blob: BlobRef { hash, bytes: first.into() }, draw: count }.into(),
                1 => Unseek { hash }.into(),
                2 => Holds { hash, groups: data }.into(),
                3 => Holds { hash, groups: vec![0xff; 4] }.into(),
                4 => Gained { hash, first, count }.into(),
                5 => Fetching { hash, first, count }.into(),
                6 => PeerTreeRequest { hash }.into(),
                7 => PeerTree { hash, groups: vec![[0; 32]; (first % 64) as usize] }.into(),
                8 => GroupRequest { hash, first, count }.into(),
                9 => Group { hash, index: first, data }.into(),
                _ => Refused { hash, first, count }.into(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_peer_says_others_get_their_blobs(
        said in proptest::collection::vec((message([BlobHash::of(&blob(0)), BlobHash::of(&blob(1))]), 0..200_u64), 1..120),
    ) {
        let mut lab = Lab::new(&[HONEST; 3], 2, 1 << 20);
        lab.blobs = (0..2).map(|n| Arc::new(blob(n))).collect();
        lab.relay_up();
        lab.connect_all();
        lab.give_all(2);
        lab.want_all(1);
        for (message, after) in said {
            lab.nodes[1].swarm.set_now(Instant(lab.now));
            lab.nodes[1].swarm.frame(link(0, 1), message);
            lab.settle(1);
            lab.run(lab.now + after);
        }
        lab.until_done(1, lab.now + MINUTES);
        prop_assert!(lab.nodes[1].failed.is_empty());
        prop_assert!(lab.nodes[1].dropped.iter().all(|(who, _)| *who == 0));
    }
}

/// Of 32 groups.
fn blob(n: u8) -> Vec<u8> {
    (0..1 << 20).map(|i: usize| (i >> 3) as u8 ^ (i >> 13) as u8 ^ n).collect()
}

#[test]
fn what_was_stored_is_not_fetched_again_even_if_it_is_read_late() {
    let mut lab = Lab::new(&[HONEST; 2], 3, 1 << 20);
    lab.nodes[0].swarm = Swarm::new(0, 2 << 20, None);
    lab.relay_up();
    lab.want_all(0);
    lab.until_done(0, MINUTES);
    let stored = std::mem::take(&mut lab.nodes[0].stored);
    assert_eq!(stored.len(), 2, "the oldest left");
    let egress = lab.egress;
    // It comes back, and another one with it. The first blob is read before it is wanted, the second one afterwards.
    let mut stored = stored.into_values().map(Arc::unwrap_or_clone);
    let again = &mut lab.nodes[1].swarm;
    again.stored(stored.next().unwrap());
    lab.relay_is_up = false;
    lab.want_all(1);
    assert_eq!(lab.nodes[1].done.len(), 1);
    lab.nodes[1].swarm.stored(stored.next().unwrap());
    // Whoever changed what was written down changed its name.
    lab.nodes[1].swarm.stored(vec![0; 1 << 20]);
    lab.settle(1);
    assert_eq!(lab.nodes[1].done.len(), 2);
    assert!(lab.nodes[1].stored.is_empty(), "it is written down already");
    assert_eq!(lab.egress, egress);
}

#[test]
fn a_wrong_relay_is_given_up() {
    let mut lab = Lab::new(&[HONEST], 1, 1 << 20);
    lab.relay_up();
    lab.want_all(0);
    let blob = lab.refs()[0];
    for chunk in 0..4 {
        let data = vec![9; MAX_CHUNK_BYTES];
        let offset = chunk * MAX_CHUNK_BYTES as u64;
        lab.nodes[0].swarm.relay_chunk(&BlobChunk { hash: blob.hash, offset, data });
    }
    lab.settle(0);
    assert!(lab.nodes[0].failed.contains(&blob.hash) && lab.nodes[0].swarm.downloads.is_empty());
}
