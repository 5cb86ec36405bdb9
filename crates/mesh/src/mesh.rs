//! The machine: links to peers, and the blobs that go over them and from the relay.
//!
//! An engine owns it, passes it what the relay says about blobs and links and what happens on links, and carries out what
//! it says. Without peers it fetches everything from the relay.

use crate::io::{LinkAction, LinkEvent};
use crate::link::{Due, GREET_TIMEOUT, HELLO_AGAIN, Link, RESTART_AFTER, Stage};
use crate::swarm::{Out, Swarm};
use potluck_proto::{
    BlobChunk, BlobRef, BlobTree, IceServer, JoinMesh, LeaveMesh, LinkPath, LinkReport, MeshSettings,
    Message, Neighbor, PeerHello, PeerMessage, Signal, SignalKind, Unlink, UnlinkReason, decode_peer,
    encode_peer,
};
use potluck_types::limits::{MAX_NEIGHBORS, MAX_SEED_NEIGHBORS};
use potluck_types::{BlobHash, ConsentToken, Duration, Instant, LinkId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Links are reported to the relay this often at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// What a volunteer gives to the mesh.
#[derive(Debug, Clone)]
pub struct MeshOptions {
    /// Spreads choices; any number that differs between volunteers.
    pub dice: u64,
    /// Memory for blobs that may be needed again, in bytes.
    pub store_bytes: u64,
    /// Bytes per second that peers may get in all.
    pub upload_bytes_per_s: Option<u64>,
    /// Stays for others' sake.
    pub seed: bool,
    /// The relay's host, for servers that are named without one.
    pub relay_host: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say it to the relay.
    Relay(Message),
    /// Do something with a link.
    Link(LinkAction),
    /// A blob that was wanted is here.
    Done(BlobHash, Arc<Vec<u8>>),
    /// A blob that was wanted is not to be had.
    Failed(BlobHash),
    /// A blob came and is kept: it may be written down, for [`Mesh::stored`] of a later mesh.
    Stored(BlobHash, Arc<Vec<u8>>),
    /// A blob is kept no more.
    Left(BlobHash),
}

/// A peer, as this volunteer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The link to it.
    pub link: LinkId,
    /// How the link runs; `None` while it is not connected.
    pub path: Option<LinkPath>,
    /// Bytes of groups that came from it.
    pub received: u64,
    /// Bytes of groups that it got.
    pub sent: u64,
    /// Bytes per second that came from it lately.
    pub receiving: u64,
    /// Bytes per second that it got lately.
    pub sending: u64,
}

/// Links and blobs of one volunteer.
#[derive(Debug)]
pub struct Mesh {
    now: Instant,
    options: MeshOptions,
    swarm: Swarm,
    links: BTreeMap<LinkId, Link>,
    servers: Arc<[IceServer]>,
    /// The person wants peers.
    wanted: bool,
    /// Consent, while a relay is there that knows of it.
    consent: Option<ConsentToken>,
    report_at: Instant,
    out: Vec<Output>,
}

impl Mesh {
    /// A mesh without peers, until they are wanted.
    pub fn new(options: MeshOptions) -> Self {
        let swarm = Swarm::new(options.dice, options.store_bytes, options.upload_bytes_per_s);
        Self {
            now: Instant(0),
            options,
            swarm,
            links: BTreeMap::new(),
            servers: Arc::new([]),
            wanted: false,
            consent: None,
            report_at: Instant(0),
            out: Vec::new(),
        }
    }

    /// Time goes on.
    pub fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.swarm.set_now(now);
    }

    /// Whether the person wants peers. Without, every link ends, and none is made.
    pub fn want_peers(&mut self, wanted: bool) {
        if std::mem::replace(&mut self.wanted, wanted) == wanted {
            return;
        }
        if wanted {
            self.join();
        } else {
            if self.consent.is_some() {
                self.out.push(Output::Relay(LeaveMesh {}.into()));
            }
            self.close_all();
        }
    }

    /// Whether the person wants peers.
    pub const fn wants_peers(&self) -> bool {
        self.wanted
    }

    /// A relay can be asked for chunks of so many bytes, so many at a time.
    pub fn relay_up(&mut self, chunk_bytes: u64, window: u64) {
        self.swarm.relay_up(chunk_bytes, window);
    }

    /// The relay is away. Links stay, and so do transfers over them.
    pub fn relay_down(&mut self) {
        self.consent = None;
        self.swarm.relay_down();
    }

    /// The relay knows of the consent: from now on it may assign peers.
    pub fn consented(&mut self, token: ConsentToken) {
        self.consent = Some(token);
        if self.wanted {
            self.links.values_mut().for_each(|link| link.relay_is_back(self.now));
            self.join();
        }
    }

    fn join(&mut self) {
        if let Some(consent) = self.consent {
            let kept = self.links.iter().map(|(id, link)| Neighbor { link: *id, offers: link.offers });
            let links = kept.collect();
            self.out.push(Output::Relay(JoinMesh { consent, seed: self.options.seed, links }.into()));
        }
    }

    /// Consent ended, by whatever the relay was told: so does every link.
    pub fn withdrawn(&mut self) {
        self.consent = None;
        self.close_all();
    }

    fn close_all(&mut self) {
        for link in std::mem::take(&mut self.links).into_keys() {
            self.swarm.peer_down(link);
            self.out.push(Output::Link(LinkAction::Close { link }));
        }
    }

    /// Wants a blob; [`Output::Done`] or [`Output::Failed`] follows.
    pub fn want(&mut self, blob: BlobRef) {
        self.swarm.want(blob, false);
    }

    /// The same, of a blob that can wait until links are made however small it is.
    pub fn want_from_peers(&mut self, blob: BlobRef) {
        self.swarm.want(blob, true);
    }

    /// The relay would not give a blob now: it is asked for nothing of it until it is wanted anew. Peers go on.
    pub fn hold(&mut self, hash: &BlobHash) {
        self.swarm.hold(hash);
    }

    /// Needs a blob no more.
    pub fn unwant(&mut self, hash: &BlobHash) {
        self.swarm.unwant(hash);
    }

    /// A blob that an earlier mesh kept. Its name follows from its bytes.
    pub fn stored(&mut self, bytes: Vec<u8>) {
        self.swarm.stored(bytes);
    }

    /// A part of a blob from the relay.
    pub fn chunk(&mut self, chunk: &BlobChunk) {
        self.swarm.relay_chunk(chunk);
    }

    /// A tree from the relay.
    pub fn tree(&mut self, tree: BlobTree) {
        self.swarm.relay_tree(tree);
    }

    /// The relay does not have a blob.
    pub fn missing(&mut self, hash: &BlobHash) {
        self.swarm.relay_missing(hash);
    }

    /// The relay is another one, on this host.
    pub fn moved(&mut self, relay_host: String) {
        self.options.relay_host = relay_host;
    }

    /// The relay's servers.
    pub fn settings(&mut self, settings: MeshSettings) {
        let host = &self.options.relay_host;
        let whole = |mut server: IceServer| {
            for url in &mut server.urls {
                // `turn::3478` names a port of the relay's own host.
                if let Some((scheme, rest)) = url.split_once(':')
                    && rest.starts_with(':')
                {
                    *url = format!("{scheme}:{host}{rest}");
                }
            }
            server
        };
        self.servers = settings.servers.into_iter().map(whole).collect();
    }

    /// The relay assigns a peer, or confirms one that was there before.
    pub fn neighbor(&mut self, neighbor: Neighbor) {
        let Neighbor { link, offers } = neighbor;
        let most = if self.options.seed { MAX_SEED_NEIGHBORS } else { MAX_NEIGHBORS };
        if self.links.contains_key(&link) {
            return;
        }
        if !self.wanted || self.links.len() >= most {
            return self.say_unlink(link, UnlinkReason::Left);
        }
        self.links.insert(link, Link::new(offers, self.now));
    }

    fn say_unlink(&mut self, link: LinkId, reason: UnlinkReason) {
        if self.consent.is_some() {
            self.out.push(Output::Relay(Unlink { link, reason }.into()));
        }
    }

    /// The relay or the other end ends a link.
    pub fn unlinked(&mut self, unlink: Unlink) {
        if self.links.remove(&unlink.link).is_some() {
            self.swarm.peer_down(unlink.link);
            self.out.push(Output::Link(LinkAction::Close { link: unlink.link }));
        }
    }

    /// A signal of the other end.
    pub fn signal(&mut self, signal: Signal) {
        let Signal { link: id, attempt, kind, body } = signal;
        let (now, servers) = (self.now, Arc::clone(&self.servers));
        let Some(link) = self.links.get_mut(&id) else { return };
        if kind == SignalKind::Offer {
            match link.offered(attempt, now) {
                None if link.is_flooded() => return self.end(id, UnlinkReason::Flooded),
                None => return,
                Some(false) => {}
                Some(true) => {
                    self.swarm.peer_down(id);
                    let open = LinkAction::Open { link: id, attempt, offers: false, servers };
                    self.out.push(Output::Link(open));
                }
            }
        } else if attempt != link.attempt
            || (kind == SignalKind::Answer) != link.offers && kind == SignalKind::Answer
        {
            return;
        }
        self.out.push(Output::Link(LinkAction::Signal { link: id, attempt, kind, body }));
    }

    /// Something happened on a link.
    pub fn event(&mut self, event: LinkEvent) {
        let now = self.now;
        let id = event.link();
        let Some(link) = self.links.get_mut(&id) else { return };
        match event {
            LinkEvent::Signal { attempt, kind, body, .. } => {
                if attempt == link.attempt && self.consent.is_some() {
                    self.out.push(Output::Relay(Signal { link: id, attempt, kind, body }.into()));
                }
            }
            LinkEvent::Opened { .. } => {
                if let Stage::Opening(_) = link.stage {
                    link.stage = Stage::Greeting { until: now + GREET_TIMEOUT, hello: now + HELLO_AGAIN };
                    self.transmit(id, &PeerHello { link: id }.into());
                }
            }
            LinkEvent::Path { path, .. } => link.path = Some(path),
            LinkEvent::Interrupted { .. } => {
                if link.is_up() {
                    link.stage = Stage::Interrupted { since: now, restart: now + RESTART_AFTER };
                    self.swarm.peer_interrupted(id, true);
                }
            }
            LinkEvent::Restored { .. } => {
                if let Stage::Interrupted { .. } = link.stage {
                    link.stage = Stage::Up { since: now };
                    self.swarm.peer_interrupted(id, false);
                }
            }
            LinkEvent::Frame { frame, .. } => self.frame(id, &frame),
            LinkEvent::Drained { buffered, .. } => self.swarm.drained(id, buffered),
            // One that was given up already may say so again.
            LinkEvent::Failed { .. } if matches!(link.stage, Stage::Waiting(_)) => {}
            LinkEvent::Failed { .. } => self.fail(id),
        }
    }

    fn frame(&mut self, id: LinkId, frame: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Ok(message) = decode_peer(frame) else { return self.end(id, UnlinkReason::Flooded) };
        if let PeerMessage::PeerHello(hello) = &message
            && hello.link != id
        {
            return self.end(id, UnlinkReason::Flooded);
        }
        match link.stage {
            Stage::Greeting { .. } => {
                // Whatever it is: the channel works. The other end may have missed what was said before it listened.
                link.stage = Stage::Up { since: self.now };
                self.transmit(id, &PeerHello { link: id }.into());
                self.swarm.peer_up(id);
            }
            Stage::Up { .. } | Stage::Interrupted { .. } => {}
            Stage::Waiting(_) | Stage::Opening(_) => return,
        }
        if let PeerMessage::PeerHello(_) = message {
            return;
        }
        self.swarm.frame(id, message);
    }

    fn transmit(&mut self, link: LinkId, message: &PeerMessage) {
        // Everything that the swarm says is bounded; what does not fit a frame is not sent.
        if let Ok(frame) = encode_peer(message) {
            self.out.push(Output::Link(LinkAction::Send { link, frame }));
        }
    }

    /// A connection is over; the link may get another.
    fn fail(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.failed(self.now);
        self.swarm.peer_down(id);
        self.out.push(Output::Link(LinkAction::Close { link: id }));
    }

    /// A link is over.
    fn end(&mut self, id: LinkId, reason: UnlinkReason) {
        if self.links.remove(&id).is_some() {
            self.swarm.peer_down(id);
            self.out.push(Output::Link(LinkAction::Close { link: id }));
            self.say_unlink(id, reason);
        }
    }

    /// Does whatever is due, and says what is to be done, in order.
    pub fn advance(&mut self) -> Vec<Output> {
        let (now, relay) = (self.now, self.consent.is_some());
        let due: Vec<_> = self.links.iter().map(|(id, link)| (*id, link.due(now, relay))).collect();
        for (id, due) in due {
            let servers = Arc::clone(&self.servers);
            let Some(link) = self.links.get_mut(&id) else { continue };
            match due {
                Due::Nothing => {}
                Due::Open => {
                    let attempt = link.open(now);
                    self.out.push(Output::Link(LinkAction::Open {
                        link: id,
                        attempt,
                        offers: true,
                        servers,
                    }));
                }
                Due::Restart => match link.restart(now) {
                    Some(attempt) => {
                        self.out.push(Output::Link(LinkAction::Restart { link: id, attempt, servers }));
                    }
                    None => self.fail(id),
                },
                Due::Hello => {
                    if let Stage::Greeting { hello, .. } = &mut link.stage {
                        *hello = now + HELLO_AGAIN;
                    }
                    self.transmit(id, &PeerHello { link: id }.into());
                }
                Due::Fail => self.fail(id),
                Due::GiveUp => self.end(id, UnlinkReason::Unreachable),
            }
        }
        let being_made = self.links.values().filter(|link| link.is_new());
        let newest = being_made.map(|link| link.assigned).max();
        self.swarm.connecting(newest);
        // Whoever wanted what failed may want the rest no more: nothing is asked for before it knows.
        if !self.swarm.out.iter().any(|out| matches!(out, Out::Failed(_))) {
            self.swarm.advance();
        }
        for out in std::mem::take(&mut self.swarm.out) {
            match out {
                Out::Peer(link, message) => self.transmit(link, &message),
                Out::Relay(message) => self.out.push(Output::Relay(message)),
                Out::Done(hash, bytes) => self.out.push(Output::Done(hash, bytes)),
                Out::Failed(hash) => self.out.push(Output::Failed(hash)),
                Out::Stored(hash, bytes) => self.out.push(Output::Stored(hash, bytes)),
                Out::Left(hash) => self.out.push(Output::Left(hash)),
                Out::Drop(link, reason) => self.end(link, reason),
            }
        }
        if self.report_at <= now {
            self.report();
        }
        std::mem::take(&mut self.out)
    }

    /// Tells the relay how links do, where that changed.
    fn report(&mut self) {
        self.report_at = self.now + REPORT_INTERVAL;
        if self.consent.is_none() {
            return;
        }
        for (id, link) in &mut self.links {
            let path = if link.is_connected() { link.path } else { None };
            let traffic =
                self.swarm.traffic(*id).map_or(link.reported.0, |[received, sent, ..]| [received, sent]);
            let (before, _) = link.reported;
            if link.reported != (traffic, path) {
                // A new connection counts from nothing.
                let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
                let [received, sent] = [since(traffic[0], before[0]), since(traffic[1], before[1])];
                link.reported = (traffic, path);
                self.out.push(Output::Relay(LinkReport { link: *id, path, received, sent }.into()));
            }
        }
    }

    /// When [`Mesh::advance`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let relay = self.consent.is_some();
        let links = self.links.values().filter_map(|link| link.wake(relay));
        let report = (relay && !self.links.is_empty()).then_some(self.report_at);
        links.chain(report).chain(self.swarm.next_wake()).min()
    }

    /// The peers.
    pub fn peers(&self) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (id, link) in &self.links {
            let [received, sent, receiving, sending] = self.swarm.traffic(*id).unwrap_or_default();
            let path = if link.is_up() { Some(link.path.unwrap_or(LinkPath::Direct)) } else { None };
            peers.push(Peer { link: *id, path, received, sent, receiving, sending });
        }
        peers
    }

    /// Bytes of inputs: from the relay, from peers, to peers.
    pub fn totals(&self) -> [u64; 3] {
        let [received, sent] = self.swarm.totals();
        [self.swarm.from_relay.total(), received, sent]
    }

    /// Hashes of blobs that are here, the most recent first.
    pub fn held(&self) -> impl Iterator<Item = BlobHash> + '_ {
        self.swarm.store.recent()
    }

    /// Bytes of blobs that are here.
    pub const fn stored_bytes(&self) -> u64 {
        self.swarm.store.bytes()
    }
}
