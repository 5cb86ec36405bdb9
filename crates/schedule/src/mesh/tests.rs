//! Rules of the mesh, as the relay keeps them.

use super::*;
use crate::io::Input;
use crate::relay::Config;
use crate::tests::{RELAY, greet};
use potluck_proto::{Consent, JoinMesh, LeaveMesh, Message, Preset, Withdraw};
use potluck_types::{ConsentToken, Duration, VolunteerKey};

struct World {
    relay: Relay,
    now: Instant,
    sent: Vec<(SessionId, Message)>,
    settings: usize,
    tokens: BTreeMap<SessionId, ConsentToken>,
}

const PUBLIC: &str = "203.0.113.7";

impl World {
    fn new(seed: u8) -> Self {
        Self {
            relay: Relay::new(Config::new([seed; 32], 1, RELAY)),
            now: Instant(0),
            sent: Vec::new(),
            settings: 0,
            tokens: BTreeMap::new(),
        }
    }

    fn input(&mut self, input: Input) {
        let out = self.relay.step(self.now, input);
        self.keep(out);
    }

    fn keep(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { session, message } => self.sent.push((session, message)),
                Output::MeshSettings { .. } => self.settings += 1,
                _ => {}
            }
        }
    }

    fn say(&mut self, session: u64, message: impl Into<Message>) {
        self.input(Input::Message { session: SessionId(session), message: message.into() });
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(next) = self.relay.next_wake().filter(|next| *next <= end) {
            self.now = next;
            self.input(Input::Tick);
        }
        self.now = end;
        self.input(Input::Tick);
    }

    /// What was sent to a session since this was last asked, in order.
    fn heard<T>(&mut self, session: u64, fits: impl Fn(&Message) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        self.sent.retain(|(to, message)| {
            let hit = if *to == SessionId(session) { fits(message) } else { None };
            let keep = hit.is_none();
            found.extend(hit);
            keep
        });
        found
    }

    fn neighbors(&mut self, session: u64) -> Vec<Neighbor> {
        self.heard(session, |m| if let Message::Neighbor(neighbor) = m { Some(*neighbor) } else { None })
    }

    fn unlinked(&mut self, session: u64) -> Vec<Unlink> {
        self.heard(session, |m| if let Message::Unlink(unlink) = m { Some(*unlink) } else { None })
    }

    fn signals(&mut self, session: u64) -> Vec<Signal> {
        self.heard(session, |m| if let Message::Signal(signal) = m { Some(signal.clone()) } else { None })
    }

    fn open(&mut self, session: u64, volunteer: u8, address: &str) {
        let id = SessionId(session);
        let out = greet(&mut self.relay, self.now, id, address.parse().ok(), volunteer);
        self.keep(out);
        let consent = Consent {
            text_version: 1,
            origin: "test".into(),
            preset: Preset::Full,
            valid_for: Duration::from_secs(36_000),
        };
        self.say(session, consent);
        let granted = self.heard(session, |m| {
            if let Message::ConsentGranted(granted) = m { Some(granted.token) } else { None }
        });
        self.tokens.insert(id, granted[0]);
    }

    fn join(&mut self, session: u64, links: Vec<Neighbor>) {
        let consent = self.tokens[&SessionId(session)];
        self.say(session, JoinMesh { consent, seed: false, links });
    }

    /// Sessions 1 to so many, each another volunteer at an address of its own.
    fn members(count: u64) -> Self {
        let mut world = Self::new(3);
        for session in 1..=count {
            world.open(session, session as u8, &format!("198.51.100.{session}"));
            world.join(session, Vec::new());
        }
        world
    }
}

fn candidate(address: &str) -> String {
    format!("candidate:1 1 udp 2122260223 {address} 50000 typ host")
}

fn signal(link: LinkId, kind: SignalKind, body: &str) -> Signal {
    Signal { link, attempt: 256, kind, body: body.into() }
}

#[test]
fn members_get_neighbors_and_one_end_of_each_link_offers() {
    let mut world = World::members(12);
    let mut ends: BTreeMap<LinkId, Vec<bool>> = BTreeMap::new();
    for session in 1..=12 {
        let neighbors = world.neighbors(session);
        assert!((1..=MAX_NEIGHBORS).contains(&neighbors.len()), "{session}: {}", neighbors.len());
        for one in neighbors {
            ends.entry(one.link).or_default().push(one.offers);
        }
    }
    assert!(ends.values().all(|offers| offers.len() == 2 && offers[0] != offers[1]));
    let pairs: BTreeSet<_> =
        world.relay.mesh.links.values().map(|link| link.ends.each_ref().map(|end| end.session)).collect();
    assert_eq!(pairs.len(), ends.len(), "nobody is linked twice");
    assert_eq!(world.settings, 12);
    assert_eq!(world.relay.mesh_counts().members, 12);
}

#[test]
fn few_are_all_linked_and_who_comes_late_to_many_gets_links_as_well() {
    let mut world = World::members(9);
    let links = |world: &World, id: u64| world.relay.mesh.members[&SessionId(id)].links.len();
    assert!((1..=9).all(|id| links(&world, id) == 8));
    let run = |world: &mut World, id: u64| {
        for link in world.relay.mesh.members[&SessionId(id)].links.clone() {
            let path = Some(potluck_proto::LinkPath::Direct);
            world.say(id, LinkReport { link, path, received: 0, sent: 0 });
        }
    };
    // Nobody has room: the links of others make it, once they run.
    world.open(10, 10, "198.51.100.10");
    world.join(10, Vec::new());
    assert_eq!(links(&world, 10), 0);
    for id in 10..=40 {
        (1..id).for_each(|id| run(&mut world, id));
        if id > 10 {
            world.open(id, id as u8, &format!("198.51.100.{id}"));
            world.join(id, Vec::new());
        }
        world.wait(Duration::from_secs(6));
        assert!(links(&world, id) >= 5, "{id}: {}", links(&world, id));
        assert!((1..=id).all(|id| (5..=8).contains(&links(&world, id))));
    }
    let pairs: BTreeSet<_> =
        world.relay.mesh.links.values().map(|link| link.ends.each_ref().map(|end| end.session)).collect();
    assert_eq!(pairs.len(), world.relay.mesh.links.len(), "nobody is linked twice");
    // Once all have enough, nothing is torn any more.
    let before: Vec<_> = world.relay.mesh.links.keys().copied().collect();
    world.wait(Duration::from_secs(20));
    assert_eq!(world.relay.mesh.links.keys().copied().collect::<Vec<_>>(), before);
}

#[test]
fn nobody_joins_without_consent_and_all_links_end_with_it() {
    let mut world = World::members(2);
    world.open(3, 3, PUBLIC);
    world.say(3, JoinMesh { consent: ConsentToken([0; 16]), seed: false, links: Vec::new() });
    assert_eq!(world.relay.mesh.members.len(), 2);
    world.say(3, Withdraw {});
    world.join(3, Vec::new());
    assert_eq!(world.relay.mesh.members.len(), 2, "the token ended");
    let link = world.neighbors(1)[0].link;
    world.say(2, Withdraw {});
    assert_eq!(world.unlinked(1), [Unlink { link, reason: UnlinkReason::Left }]);
    world.say(1, LeaveMesh {});
    assert!(world.relay.mesh.members.is_empty() && world.relay.mesh.links.is_empty());
}

#[test]
fn links_end_when_the_time_that_was_agreed_to_is_over() {
    let mut world = World::members(2);
    let link = world.neighbors(1)[0].link;
    // Both stay connected; the first agrees anew, the second does not.
    while world.now < Instant(36_000_000 - 40_000) {
        world.wait(Duration::from_secs(30));
        for session in [1, 2] {
            world.say(session, potluck_proto::Ping { nonce: 0 });
        }
    }
    let again = Consent {
        text_version: 1,
        origin: "test".into(),
        preset: Preset::Full,
        valid_for: Duration::from_secs(36_000),
    };
    world.say(1, again);
    assert!(world.unlinked(1).is_empty());
    world.wait(Duration::from_secs(50));
    assert_eq!(world.unlinked(1), [Unlink { link, reason: UnlinkReason::Left }]);
    assert_eq!(world.relay.mesh.members.keys().collect::<Vec<_>>(), [&SessionId(1)]);
}

#[test]
fn signals_pass_between_the_ends_of_a_link_and_nowhere_else() {
    let mut world = World::members(3);
    let link = world.neighbors(1).into_iter().find(|one| one.offers).unwrap().link;
    let ends = world.relay.mesh.links[&link].ends.each_ref().map(|end| end.session.unwrap().0);
    let [offers, answers] = ends;
    let outside = 6 - offers - answers;
    let offer = signal(link, SignalKind::Offer, "v=0\r\n");
    world.say(offers, offer.clone());
    assert_eq!(world.signals(answers), [offer]);
    let answer = signal(link, SignalKind::Answer, "v=0\r\n");
    world.say(answers, answer.clone());
    assert_eq!(world.signals(offers), [answer]);
    // Neither the wrong way round, nor from outside, nor on links that are none.
    world.say(answers, signal(link, SignalKind::Offer, "v=0\r\n"));
    world.say(offers, signal(link, SignalKind::Answer, "v=0\r\n"));
    world.say(outside, signal(link, SignalKind::Candidate, &candidate(PUBLIC)));
    world.say(offers, signal(LinkId([0; 16]), SignalKind::Candidate, &candidate(PUBLIC)));
    for session in 1..=3 {
        assert!(world.signals(session).is_empty());
    }
    assert_eq!(world.unlinked(outside), [Unlink { link, reason: UnlinkReason::Left }]);
}

#[test]
fn addresses_of_a_local_network_pass_only_within_it() {
    let mut world = World::new(1);
    let seen = [(1, "198.51.100.1"), (2, "198.51.100.1"), (3, "198.51.100.3")];
    for (session, address) in seen {
        world.open(session, session as u8, address);
        world.join(session, Vec::new());
    }
    let links: Vec<_> = world
        .relay
        .mesh
        .links
        .iter()
        .map(|(id, link)| (*id, link.ends.each_ref().map(|end| end.session.unwrap().0)))
        .collect();
    assert_eq!(links.len(), 3);
    for (link, [a, b]) in links {
        world.say(a, signal(link, SignalKind::Candidate, &candidate("192.168.1.1")));
        let near = a + b == 3;
        assert_eq!(world.signals(b).len(), usize::from(near), "{a} to {b}");
        world.say(a, signal(link, SignalKind::Candidate, &candidate(PUBLIC)));
        assert_eq!(world.signals(b).len(), 1);
    }
    assert_eq!(world.relay.mesh_counts().signals_refused, 2);
}

#[test]
fn a_flood_of_signals_ends_the_session() {
    let mut world = World::members(2);
    let link = world.neighbors(1)[0].link;
    let large = "x".repeat(8000);
    for _ in 0..17 {
        world.say(1, signal(link, SignalKind::Offer, &large));
    }
    let refused =
        world.heard(1, |m| if let Message::Refusal(refusal) = m { Some(refusal.code) } else { None });
    assert_eq!(refused, [RefusalCode::Limit]);
}

#[test]
fn a_link_outlives_its_session_for_a_while_and_its_end_comes_back() {
    let mut world = World::members(2);
    let [kept, other] = [1, 2].map(|session| world.neighbors(session)[0]);
    world.input(Input::Closed { session: SessionId(1) });
    assert!(world.unlinked(2).is_empty());
    world.say(2, signal(kept.link, SignalKind::Candidate, &candidate(PUBLIC)));
    world.open(3, 1, PUBLIC);
    // Another volunteer cannot take its place.
    world.open(4, 9, PUBLIC);
    world.join(4, vec![kept]);
    assert!(world.neighbors(4).iter().all(|one| one.link != kept.link));
    world.join(3, vec![kept]);
    assert!(world.neighbors(3).contains(&kept));
    assert_eq!(world.signals(3).len(), 1, "what waited for it");
    world.say(3, signal(kept.link, SignalKind::Candidate, &candidate(PUBLIC)));
    assert_eq!(world.signals(2).len(), 1);
    // Who does not come back is forgotten.
    world.input(Input::Closed { session: SessionId(3) });
    for _ in 0..4 {
        world.wait(Duration::from_secs(20));
        world.say(2, potluck_proto::Ping { nonce: 0 });
    }
    assert!(world.unlinked(2).contains(&Unlink { link: other.link, reason: UnlinkReason::Left }));
}

#[test]
fn a_relay_that_restarted_finds_links_that_both_ends_name() {
    let mut world = World::new(1);
    let link = LinkId([7; 16]);
    for (session, offers) in [(1, false), (2, true)] {
        world.open(session, session as u8, PUBLIC);
        world.join(session, vec![Neighbor { link, offers }]);
        assert!(world.neighbors(session).contains(&Neighbor { link, offers }));
    }
    let offer = signal(link, SignalKind::Offer, "v=0\r\n");
    world.say(2, offer.clone());
    assert_eq!(world.signals(1), [offer]);
    // Two who both say that they offer are no link.
    let alone = LinkId([8; 16]);
    for session in [3, 4] {
        world.open(session, session as u8, PUBLIC);
        world.join(session, vec![Neighbor { link: alone, offers: true }]);
    }
    assert!(world.neighbors(4).iter().all(|one| one.link != alone));
    world.wait(RESUME_GRACE);
    world.wait(MESH_INTERVAL);
    assert!(!world.relay.mesh.links.contains_key(&alone), "the other end never came");
}

#[test]
fn complaints_keep_two_apart_and_those_of_several_keep_the_accused_alone() {
    let mut world = World::members(5);
    for accuser in 1..=3 {
        let between = |link: &Link| {
            let ends = link.ends.each_ref().map(|end| end.session.unwrap().0);
            ends.contains(&5) && ends.contains(&accuser)
        };
        let link = world.relay.mesh.links.iter().find(|(_, link)| between(link)).map(|(id, _)| *id).unwrap();
        world.say(accuser, Unlink { link, reason: UnlinkReason::BadGroup });
        world.wait(Duration::from_secs(6));
        assert!(!world.relay.mesh.links.values().any(between), "they stay apart");
    }
    assert_eq!(world.relay.mesh_counts().bad_groups, 3);
    let volunteer = VolunteerKey([5; 32]).id();
    assert!(world.relay.is_banned(&volunteer));
    assert!(!world.relay.standings.is_refused(&volunteer, world.now), "its results count as before");
    world.open(6, 6, PUBLIC);
    world.join(6, Vec::new());
    let linked = |world: &World| {
        world.relay.mesh.links.values().any(|link| {
            link.ends.iter().all(|end| [Some(SessionId(5)), Some(SessionId(6))].contains(&end.session))
        })
    };
    assert!(!linked(&world), "nobody new is linked to it");
    world.wait(MESH_BAN);
    for session in 1..=6 {
        world.say(session, potluck_proto::Ping { nonce: 0 });
    }
    assert!(!world.relay.is_banned(&volunteer));
}

#[test]
fn what_peers_hold_is_known_where_the_link_runs() {
    let mut world = World::members(2);
    let link = world.neighbors(1)[0].link;
    let blob = BlobHash([5; 32]);
    world.relay.member_blobs(SessionId(2), [blob].into_iter());
    assert!(world.relay.peers_blobs(SessionId(1)).is_empty(), "it is not connected");
    for session in [1, 2] {
        world.say(session, LinkReport { link, path: Some(LinkPath::Direct), received: 10, sent: 0 });
    }
    assert_eq!(world.relay.peers_blobs(SessionId(1)), [blob].into());
    let counts = world.relay.mesh_counts();
    assert_eq!((counts.direct, counts.peer_bytes), (1, 20));
}

mod fetch {
    use super::*;
    use potluck_proto::{Backend, BlobRef, BlobRequest, Fetch, LeaseRequest, Refusal};

    const BLOB: BlobRef = BlobRef { hash: BlobHash([9; 32]), bytes: 300_000 };

    fn fetch(world: &mut World, session: u64, blob: BlobRef) -> Vec<Output> {
        let message = Fetch { consent: world.tokens[&SessionId(session)], blob }.into();
        let out = world.relay.step(world.now, Input::Message { session: SessionId(session), message });
        world.keep(out.clone());
        out
    }

    fn public(world: &mut World, session: u64, blob: BlobRef, public: bool) -> Vec<Output> {
        let out = world.relay.step(world.now, Input::Public { session: SessionId(session), blob, public });
        world.keep(out.clone());
        out
    }

    fn chunk(world: &mut World, session: u64) -> bool {
        let message = BlobRequest { hash: BLOB.hash, offset: 0, bytes: 1000 }.into();
        let out = world.relay.step(world.now, Input::Message { session: SessionId(session), message });
        world.keep(out.clone());
        out.iter().any(|output| matches!(output, Output::SendChunk { .. }))
    }

    fn missing(world: &mut World, session: u64) -> usize {
        world.heard(session, |m| matches!(m, Message::BlobMissing(_)).then_some(())).len()
    }

    #[test]
    fn a_public_blob_is_given_to_who_asked_for_it_and_consents() {
        let mut world = World::members(2);
        let session = SessionId(1);
        assert_eq!(fetch(&mut world, 1, BLOB), [Output::AskPublic { session, blob: BLOB }]);
        assert!(!chunk(&mut world, 1), "not before the store was asked");
        assert_eq!(public(&mut world, 1, BLOB, true), [Output::SendTree { session, hash: BLOB.hash }]);
        assert!(chunk(&mut world, 1));
        assert!(!chunk(&mut world, 2), "who did not ask gets nothing");
        // Asked again, after a new consent: its tree, without another look.
        assert_eq!(fetch(&mut world, 1, BLOB), [Output::SendTree { session, hash: BLOB.hash }]);
        world.say(1, Withdraw {});
        assert!(!chunk(&mut world, 1), "consent ended");
    }

    #[test]
    fn what_is_not_public_is_missing_and_so_is_all_without_consent() {
        let mut world = World::members(2);
        fetch(&mut world, 1, BLOB);
        public(&mut world, 1, BLOB, false);
        assert_eq!(missing(&mut world, 1), 1);
        assert!(!chunk(&mut world, 1));
        assert_eq!(missing(&mut world, 1), 1, "of the part");
        assert!(fetch(&mut world, 1, BLOB).iter().all(|output| matches!(output, Output::Send { .. })));
        assert_eq!(missing(&mut world, 1), 1, "each question is answered");
        let stolen = Fetch { consent: world.tokens[&SessionId(1)], blob: BLOB };
        world.say(2, stolen);
        assert_eq!(missing(&mut world, 2), 1);
        assert!(public(&mut world, 2, BLOB, true).is_empty(), "nobody asked");
        assert!(!chunk(&mut world, 2));
    }

    #[test]
    fn a_session_fetches_so_many_and_each_only_a_few_times_over() {
        let mut world = World::members(1);
        for number in 0..=crate::policy::MAX_FETCHES {
            fetch(&mut world, 1, BlobRef { hash: BlobHash([number as u8; 32]), bytes: 1 });
        }
        let refused =
            |m: &Message| if let Message::Refusal(Refusal { code, .. }) = m { Some(*code) } else { None };
        assert_eq!(world.heard(1, refused), [RefusalCode::Limit]);

        let mut world = World::members(1);
        fetch(&mut world, 1, BLOB);
        public(&mut world, 1, BLOB, true);
        let most = (BLOB.bytes + GROUP_BYTES as u64) * crate::policy::REFETCHES / 1000;
        let given = (0..2 * most).take_while(|_| chunk(&mut world, 1)).count() as u64;
        assert!(given <= most && given > 0, "{given} of {most}");
        assert_eq!(world.heard(1, refused), [RefusalCode::Limit]);
    }

    #[test]
    fn those_who_want_the_same_become_neighbors() {
        let mut world = World::members(40);
        world.open(50, 50, "198.51.100.50");
        world.open(51, 51, "198.51.100.51");
        fetch(&mut world, 50, BLOB);
        world.join(50, Vec::new());
        fetch(&mut world, 51, BLOB);
        world.join(51, Vec::new());
        let first = world.neighbors(50);
        assert!(world.neighbors(51).iter().any(|own| first.iter().any(|other| other.link == own.link)));
    }

    #[test]
    fn who_only_fetches_does_not_count_among_those_who_lend() {
        let mut world = World::members(2);
        assert_eq!(world.relay.totals().consenting, 2);
        fetch(&mut world, 1, BLOB);
        assert_eq!(world.relay.totals().consenting, 1);
        let consent = world.tokens[&SessionId(1)];
        let (backend, held, kept) = (Backend::WasmSimd, Vec::new(), Vec::new());
        world.say(1, LeaseRequest { consent, backend, mflops: 1, memory_bytes: 1, held, kept });
        assert_eq!(world.relay.totals().consenting, 2, "it asked for work");
    }

    #[test]
    fn an_answer_of_the_store_after_consent_ended_waits_for_the_next_consent() {
        let mut world = World::members(1);
        fetch(&mut world, 1, BLOB);
        world.say(1, Withdraw {});
        assert!(public(&mut world, 1, BLOB, true).is_empty());
        assert_eq!(missing(&mut world, 1), 0);
        let valid_for = Duration::from_secs(36_000);
        world.say(1, Consent { text_version: 1, origin: "test".into(), preset: Preset::Full, valid_for });
        let granted = world
            .heard(1, |m| if let Message::ConsentGranted(granted) = m { Some(granted.token) } else { None });
        world.tokens.insert(SessionId(1), granted[0]);
        let out = fetch(&mut world, 1, BLOB);
        assert_eq!(out, [Output::SendTree { session: SessionId(1), hash: BLOB.hash }]);
    }
}
