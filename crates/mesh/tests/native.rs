//! Links over webrtc-rs with real sockets on loopback: two ends back to back, and ends that do not keep to the rules.
#![cfg(feature = "native")]
#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

use bytes::BytesMut;
use potluck_mesh::io::{CHANNEL_LABEL, SEND_BUFFER_BYTES, SEND_LOW_BYTES};
use potluck_mesh::native::{EVENT_QUEUE, NativeLinks, NativeOptions};
use potluck_mesh::{LinkAction, LinkEvent, Links};
use potluck_proto::{IceServer, LinkPath, SignalKind};
use potluck_types::LinkId;
use potluck_types::limits::{GROUP_BYTES, MAX_CANDIDATES, MAX_PEER_FRAME_BYTES};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceGatheringState,
    RTCSessionDescription,
};

/// Longest wait for anything that should happen at once; the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_mins(1);
const LINK: LinkId = LinkId([7; 16]);

/// One end of links, with what it says.
struct Side {
    links: NativeLinks,
    events: mpsc::Receiver<LinkEvent>,
}

impl Side {
    fn new() -> Self {
        Self::bound_to("127.0.0.1:0")
    }

    fn bound_to(address: &str) -> Self {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        Self {
            links: NativeLinks::new(NativeOptions { bind: vec![address.to_owned()] }, events),
            events: queue,
        }
    }

    fn open(&mut self, link: LinkId, attempt: u32, offers: bool) {
        self.links.carry_out(LinkAction::Open { link, attempt, offers, servers: Arc::default() });
    }

    fn send(&mut self, link: LinkId, frame: Vec<u8>) {
        self.links.carry_out(LinkAction::Send { link, frame });
    }

    fn signal(&mut self, link: LinkId, attempt: u32, kind: SignalKind, body: &str) {
        self.links.carry_out(LinkAction::Signal { link, attempt, kind, body: body.to_owned() });
    }

    async fn next(&mut self) -> LinkEvent {
        tokio::time::timeout(LIMIT, self.events.recv()).await.expect("nothing happened").unwrap()
    }

    /// Waits until no link's task runs any more: each holds a sender of its own.
    async fn rest(&mut self) {
        let began = Instant::now();
        while self.events.sender_strong_count() > 1 {
            assert!(began.elapsed() < LIMIT, "{} tasks are left", self.events.sender_strong_count() - 1);
            while self.events.try_recv().is_ok() {}
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whether the signal is A's, its attempt, and what it says.
type Passed = (bool, u32, SignalKind, String);

/// Two ends whose signals reach each other.
struct Pair {
    a: Side,
    b: Side,
    signals: Vec<Passed>,
}

impl Pair {
    fn new() -> Self {
        Self { a: Side::new(), b: Side::new(), signals: Vec::new() }
    }

    async fn opened() -> Self {
        let mut pair = Self::new();
        pair.open(LINK).await;
        pair
    }

    async fn open(&mut self, link: LinkId) {
        self.a.open(link, 1, true);
        self.b.open(link, 1, false);
        let (mut a, mut b) = (false, false);
        while !(a && b) {
            match self.next().await {
                (true, LinkEvent::Opened { .. }) => a = true,
                (false, LinkEvent::Opened { .. }) => b = true,
                (_, LinkEvent::Path { path, .. }) => assert_eq!(path, LinkPath::Direct),
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    /// What happens next besides signals, and whether at A.
    async fn next(&mut self) -> (bool, LinkEvent) {
        let limit = tokio::time::Instant::now() + LIMIT;
        loop {
            let (at_a, event) = tokio::select! {
                event = self.a.events.recv() => (true, event.unwrap()),
                event = self.b.events.recv() => (false, event.unwrap()),
                () = tokio::time::sleep_until(limit) => panic!("nothing happened"),
            };
            match event {
                LinkEvent::Signal { link, attempt, kind, body } => {
                    let other = if at_a { &mut self.b } else { &mut self.a };
                    other.signal(link, attempt, kind, &body);
                    self.signals.push((at_a, attempt, kind, body));
                }
                event => return (at_a, event),
            }
        }
    }

    /// Goes on until something happens.
    async fn until(&mut self, wanted: impl Fn(bool, &LinkEvent) -> bool) {
        loop {
            let (at_a, event) = self.next().await;
            if wanted(at_a, &event) {
                return;
            }
            assert!(!matches!(event, LinkEvent::Failed { .. }), "{at_a} {event:?}");
        }
    }

    /// Whether each end has named all its candidates.
    fn named_all(&self) -> bool {
        [true, false].iter().all(|end| {
            let last = |(at_a, _, kind, body): &Passed| {
                at_a == end && *kind == SignalKind::Candidate && body.is_empty()
            };
            self.signals.iter().any(last)
        })
    }
}

fn frame(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 17 + (i >> 8)) as u8).collect()
}

#[tokio::test]
async fn the_largest_frame_goes_each_way() {
    let mut pair = Pair::opened().await;
    let (there, back) = (frame(1, MAX_PEER_FRAME_BYTES), frame(2, MAX_PEER_FRAME_BYTES));
    pair.a.send(LINK, there.clone());
    pair.b.send(LINK, back.clone());
    let (mut got_there, mut got_back) = (false, false);
    while !(got_there && got_back && pair.named_all()) {
        // Signals do not come back from `next`: look again now and then.
        match tokio::time::timeout(Duration::from_millis(50), pair.next()).await {
            Ok((false, LinkEvent::Frame { frame, .. })) => {
                assert!(frame == there && !got_there);
                got_there = true;
            }
            Ok((true, LinkEvent::Frame { frame, .. })) => {
                assert!(frame == back && !got_back);
                got_back = true;
            }
            Err(_) | Ok((_, LinkEvent::Path { .. })) => {}
            Ok((_, other)) => panic!("{other:?}"),
        }
    }
    // Candidates follow their description, and each end says when it has named all.
    for at_a in [true, false] {
        let own: Vec<_> = pair.signals.iter().filter(|signal| signal.0 == at_a).collect();
        assert_eq!(own[0].2, if at_a { SignalKind::Offer } else { SignalKind::Answer });
        let last = own[own.len() - 1];
        assert!(last.2 == SignalKind::Candidate && last.3.is_empty(), "{own:?}");
        assert!(own[1..own.len() - 1].iter().all(|signal| signal.3.starts_with("candidate:")), "{own:?}");
        assert!(own.len() > 2 && own.iter().all(|signal| signal.1 == 1), "{own:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_a_small_buffer() {
    const BYTES: usize = 64 << 20;
    const FRAMES: usize = BYTES / GROUP_BYTES;
    let mut pair = Pair::opened().await;
    let began = Instant::now();
    let (mut sent, mut buffered, mut drained) = (0, 0, 0);
    let mut received = vec![false; FRAMES];
    let mut left = FRAMES;
    while left > 0 {
        while sent < FRAMES && buffered + GROUP_BYTES as u64 <= SEND_BUFFER_BYTES {
            let mut frame = frame(sent, GROUP_BYTES);
            frame[..8].copy_from_slice(&(sent as u64).to_le_bytes());
            pair.a.send(LINK, frame);
            sent += 1;
            buffered += GROUP_BYTES as u64;
        }
        match pair.next().await {
            (true, LinkEvent::Drained { buffered: held, .. }) => {
                // Less than was believed before, unless it was told while this end was still sending.
                assert!(held <= SEND_LOW_BYTES);
                buffered = held;
                drained += 1;
            }
            (false, LinkEvent::Frame { frame: got, .. }) => {
                let index = u64::from_le_bytes(got[..8].try_into().unwrap()) as usize;
                assert_eq!(got[8..], frame(index, GROUP_BYTES)[8..]);
                assert!(!std::mem::replace(&mut received[index], true), "{index} came twice");
                left -= 1;
            }
            (_, LinkEvent::Path { .. }) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    let rate = BYTES as f64 / 1e6 / began.elapsed().as_secs_f64();
    println!("64 MiB one way: {rate:.1} MB/s, drained {drained} times");
    // Each time frees a whole buffer at most.
    assert!(drained >= BYTES as u64 / SEND_BUFFER_BYTES - 1);
}

#[tokio::test]
async fn a_restart_keeps_the_channel() {
    let mut pair = Pair::opened().await;
    for attempt in 2..5 {
        let (there, back) = (frame(attempt as usize, 1000), frame(attempt as usize + 10, 1000));
        pair.signals.clear();
        pair.a.links.carry_out(LinkAction::Restart { link: LINK, attempt, servers: Arc::default() });
        // The end that does not offer cannot restart.
        pair.b.links.carry_out(LinkAction::Restart { link: LINK, attempt: 99, servers: Arc::default() });
        // What is sent meanwhile is not lost.
        pair.a.send(LINK, there.clone());
        pair.b.send(LINK, back.clone());
        let mut frames = 0;
        let began = Instant::now();
        while frames < 2 || !pair.named_all() {
            assert!(began.elapsed() < LIMIT, "{frames} {:?}", pair.signals);
            match tokio::time::timeout(Duration::from_millis(50), pair.next()).await {
                Ok((at_a, LinkEvent::Frame { frame, .. })) => {
                    assert_eq!(frame, if at_a { &*back } else { &*there });
                    frames += 1;
                }
                // Both ends bind new sockets: a pause may be noticed.
                Err(_)
                | Ok((
                    _,
                    LinkEvent::Path { .. } | LinkEvent::Interrupted { .. } | LinkEvent::Restored { .. },
                )) => {}
                Ok((_, other)) => panic!("{other:?}"),
            }
        }
        println!("restart {attempt} took {:?}", began.elapsed());
        assert!(pair.signals.iter().all(|signal| signal.1 == attempt), "{:?}", pair.signals);
        let first = |at_a| pair.signals.iter().find(|signal| signal.0 == at_a).unwrap().2;
        assert_eq!((first(true), first(false)), (SignalKind::Offer, SignalKind::Answer));
    }
}

#[tokio::test]
async fn closing_is_noticed_by_the_other_end_alone() {
    let mut pair = Pair::opened().await;
    let began = Instant::now();
    pair.a.links.carry_out(LinkAction::Close { link: LINK });
    pair.until(|at_a, event| !at_a && *event == LinkEvent::Failed { link: LINK }).await;
    println!("closing took {:?} to be noticed", began.elapsed());
    // Long before silence would have told.
    assert!(began.elapsed() < Duration::from_secs(10));
    pair.a.rest().await;
    pair.b.rest().await;
    assert_eq!((pair.a.links.count(), pair.b.links.count()), (0, 0));
    // What is said to them now is for nobody.
    pair.b.send(LINK, vec![1]);
    pair.a.signal(LINK, 1, SignalKind::Candidate, "");
    // The link can be made again, and says only that.
    pair.open(LINK).await;
}

#[tokio::test]
async fn dropping_closes_all() {
    let Pair { a, mut b, .. } = Pair::opened().await;
    drop(a);
    while b.next().await != (LinkEvent::Failed { link: LINK }) {}
}

#[tokio::test]
async fn opening_again_replaces_the_connection() {
    let mut pair = Pair::opened().await;
    pair.open(LINK).await;
    pair.a.send(LINK, vec![5; 10]);
    pair.until(|at_a, event| !at_a && *event == LinkEvent::Frame { link: LINK, frame: vec![5; 10] }).await;
    assert_eq!((pair.a.links.count(), pair.b.links.count()), (1, 1));
}

#[tokio::test]
async fn without_an_address_a_link_fails() {
    // An address of nobody's, so not of this machine either.
    let mut side = Side::bound_to("192.0.2.1:0");
    side.open(LINK, 1, true);
    assert_eq!(side.next().await, LinkEvent::Failed { link: LINK });
}

#[tokio::test]
async fn who_sends_without_measure_loses_the_link() {
    let mut pair = Pair::opened().await;
    // Far more than the link's queue: nothing of this runs before the next `await`.
    for _ in 0..10_000 {
        pair.a.send(LINK, vec![0; 100]);
    }
    pair.until(|at_a, event| at_a && *event == LinkEvent::Failed { link: LINK }).await;
    assert_eq!(pair.a.links.count(), 0);
}

#[tokio::test]
async fn servers_that_cannot_be_used_are_left_out() {
    let mut pair = Pair::new();
    // A TURN server without a password, no address, and a STUN server where nobody answers.
    let server = |url: &str| IceServer {
        urls: vec![url.to_owned()],
        username: String::new(),
        credential: String::new(),
    };
    let servers: Arc<[_]> =
        ["turn:127.0.0.1:1?transport=udp", "what?", "stun:127.0.0.1:1"].map(server).into();
    for (side, offers) in [(&mut pair.a, true), (&mut pair.b, false)] {
        let servers = servers.clone();
        side.links.carry_out(LinkAction::Open { link: LINK, attempt: 1, offers, servers });
    }
    pair.until(|at_a, event| at_a && matches!(event, LinkEvent::Opened { .. })).await;
    pair.a.links.carry_out(LinkAction::Restart { link: LINK, attempt: 2, servers });
    pair.b.send(LINK, vec![1]);
    pair.until(|at_a, event| at_a && matches!(event, LinkEvent::Frame { .. })).await;
}

#[tokio::test]
async fn candidates_that_come_early_wait() {
    let (mut a, mut b) = (Side::new(), Side::new());
    a.open(LINK, 3, true);
    b.open(LINK, 1, false);
    let mut signals = Vec::new();
    while !matches!(signals.last(), Some((SignalKind::Candidate, body)) if String::is_empty(body)) {
        let LinkEvent::Signal { kind, body, attempt: 3, .. } = a.next().await else { panic!() };
        signals.push((kind, body));
    }
    // The offer comes last, and later than what belongs to an attempt before it. An answer is for nobody here.
    b.signal(LINK, 2, SignalKind::Candidate, "candidate:1 1 udp 1 127.0.0.1 9 typ host");
    b.signal(LINK, 3, SignalKind::Answer, &signals[0].1);
    for (kind, body) in signals.iter().rev() {
        b.signal(LINK, 3, *kind, body);
    }
    // Late and repeated ones change nothing.
    b.signal(LINK, 2, SignalKind::Offer, "v=0");
    b.signal(LINK, 3, SignalKind::Offer, "v=0");
    for _ in 0..2 * MAX_CANDIDATES {
        b.signal(LINK, 2, SignalKind::Candidate, "candidate:1 1 udp 1 127.0.0.1 9 typ host");
        tokio::task::yield_now().await;
    }
    loop {
        let event = tokio::select! { event = a.next() => event, event = b.next() => event };
        match event {
            // Only B says any more.
            LinkEvent::Signal { attempt, kind, body, .. } => {
                assert_eq!(attempt, 3);
                a.signal(LINK, attempt, kind, &body);
            }
            LinkEvent::Opened { .. } => return,
            LinkEvent::Path { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// An offer as a real end makes it, for spoiling.
async fn an_offer() -> String {
    let mut side = Side::new();
    side.open(LINK, 1, true);
    let LinkEvent::Signal { kind: SignalKind::Offer, body, .. } = side.next().await else { panic!() };
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_neither_panics_nor_leaks() {
    const CANDIDATES: [&str; 7] = [
        "",
        "candidate:",
        "candidate:1 1 udp 1 x.local 9 typ host",
        "candidate:1 1 udp 99999999999999999999 127.0.0.1 70000 typ host",
        "candidate:1 1 tcp 1 127.0.0.1 9 typ host tcptype passive",
        "candidate:1 1 udp 1 [::1 9 typ relay raddr",
        "\0\u{1F600}",
    ];
    let panics = Arc::new(std::sync::Mutex::new(Vec::new()));
    let before = std::panic::take_hook();
    let seen = panics.clone();
    std::panic::set_hook(Box::new(move |info| {
        seen.lock().unwrap().push(info.to_string());
        before(info);
    }));
    let offer = an_offer().await;
    let mut side = Side::new();
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut failures = 0;
    for round in 0..1000 {
        let link = LinkId([(round % 4) as u8; 16]);
        // Ends that wait for an offer, and ends that wait for an answer.
        if round < 4 || round % 5 == 0 {
            side.open(link, 1, random(2) == 1);
        }
        let mut body = offer.clone().into_bytes();
        for _ in 0..random(6) {
            let at = random(body.len().max(1));
            match if body.is_empty() { 3 } else { random(4) } {
                0 => body[at] = b"\r\n:=/ 9az\xff"[random(10)],
                1 => body.truncate(at + 1),
                2 => drop(body.drain(at..(at + random(40)).min(body.len()))),
                _ => drop(body.splice(at..at, *b"\r\na=candidate:1 1 udp 1 ::1 1 typ host\r\n")),
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let (kind, body) = match random(3) {
            0 => (SignalKind::Offer, body),
            1 => (SignalKind::Answer, body.replace("actpass", "active")),
            _ => (SignalKind::Candidate, CANDIDATES[random(CANDIDATES.len())].to_owned()),
        };
        side.signal(link, 1 + random(3) as u32, kind, &body);
        // A moment for the tasks, which say what nobody reads.
        if round % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        while let Ok(event) = side.events.try_recv() {
            failures += u32::from(matches!(event, LinkEvent::Failed { .. }));
        }
    }
    println!("{failures} links failed");
    assert!(failures > 10, "the garbage did not get anywhere");
    for link in 0..4 {
        side.links.carry_out(LinkAction::Close { link: LinkId([link; 16]) });
    }
    assert_eq!(side.links.count(), 0);
    side.rest().await;
    let panics = panics.lock().unwrap();
    assert!(panics.iter().all(|panic| !panic.contains("webrtc") && !panic.contains("rtc-")), "{panics:?}");
}

/// An end that is not ours: webrtc-rs without [`NativeLinks`].
struct Stranger {
    connection: Arc<dyn PeerConnection>,
    gathered: mpsc::Receiver<()>,
}

struct Gathered(mpsc::Sender<()>);

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Gathered {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.send(()).await.unwrap();
        }
    }
}

impl Stranger {
    async fn new() -> Self {
        let (complete, gathered) = mpsc::channel(4);
        let builder = PeerConnectionBuilder::new()
            .with_handler(Arc::new(Gathered(complete)))
            .with_udp_addrs(vec!["127.0.0.1:0".to_owned()]);
        Self { connection: Arc::new(Box::pin(builder.build()).await.unwrap()), gathered }
    }

    /// Offers to an end of ours, all candidates at once.
    async fn call(&mut self, side: &mut Side) {
        side.open(LINK, 1, false);
        let offer = self.connection.create_offer(None).await.unwrap();
        self.connection.set_local_description(offer).await.unwrap();
        self.gathered.recv().await.unwrap();
        let offer = self.connection.local_description().await.unwrap();
        side.signal(LINK, 1, SignalKind::Offer, &offer.sdp);
        let LinkEvent::Signal { kind: SignalKind::Answer, body, .. } = side.next().await else { panic!() };
        let answer = RTCSessionDescription::answer(body).unwrap();
        self.connection.set_remote_description(answer).await.unwrap();
        while let LinkEvent::Signal { body, .. } = side.next().await {
            if body.is_empty() {
                break;
            }
            let candidate =
                webrtc::peer_connection::RTCIceCandidateInit { candidate: body, ..Default::default() };
            self.connection.add_ice_candidate(candidate).await.unwrap();
        }
    }

    async fn channel(&self, label: &str) -> Arc<dyn DataChannel> {
        self.connection.create_data_channel(label, None).await.unwrap()
    }
}

async fn open(channel: &Arc<dyn DataChannel>) {
    let opened = async { while !matches!(channel.poll().await, Some(DataChannelEvent::OnOpen)) {} };
    tokio::time::timeout(LIMIT, opened).await.unwrap();
}

#[tokio::test]
async fn what_strangers_send_arrives_as_agreed() {
    let mut side = Side::new();
    let mut stranger = Stranger::new().await;
    let other = stranger.channel("something else").await;
    let channel = stranger.channel(CHANNEL_LABEL).await;
    stranger.call(&mut side).await;
    open(&other).await;
    open(&channel).await;
    let large = frame(3, 60_000);
    // Refused by now, or thrown away at the other end.
    let _ = other.send(BytesMut::from(&b"ignored"[..])).await;
    channel.send_text("text").await.unwrap();
    channel.send(BytesMut::new()).await.unwrap();
    channel.send(BytesMut::from(&large[..])).await.unwrap();
    let mut opened = 0;
    let mut frames = Vec::new();
    while frames.len() < 3 {
        match side.next().await {
            LinkEvent::Opened { .. } => opened += 1,
            LinkEvent::Frame { frame, .. } => frames.push(frame),
            LinkEvent::Path { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(opened, 1);
    frames.sort_by_key(Vec::len);
    assert!(frames == [Vec::new(), Vec::new(), large]);
    // A second channel of that name is not the link's, and with channel after channel a peer is no honest one.
    let mut more = Vec::new();
    for _ in 0..8 {
        more.push(stranger.channel(CHANNEL_LABEL).await);
    }
    loop {
        match side.next().await {
            LinkEvent::Failed { .. } => break,
            LinkEvent::Path { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    stranger.connection.close().await.unwrap();
}

/// An end that answers, in a thread of its own, so that it can stand still.
struct Apart {
    still: std::sync::mpsc::Sender<Option<Duration>>,
    thread: std::thread::JoinHandle<()>,
}

/// Takes signals from one queue, gives its own to the other. Stands still for as long as it is told, or for good.
fn apart(mut from: mpsc::Receiver<LinkEvent>, to: mpsc::Sender<LinkEvent>) -> Apart {
    let (still, orders) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut side = Side::new();
            side.open(LINK, 1, false);
            loop {
                match orders.try_recv() {
                    Ok(Some(time)) => std::thread::sleep(time),
                    Ok(None) => break,
                    Err(_) => {}
                }
                tokio::select! {
                    Some(LinkEvent::Signal { link, attempt, kind, body }) = from.recv() => {
                        side.signal(link, attempt, kind, &body);
                    }
                    Some(event) = side.events.recv() => to.send(event).await.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
            // Nothing of it is closed: it is as if its machine had been switched off.
            std::mem::forget(side);
        });
        runtime.shutdown_background();
    });
    Apart { still, thread }
}

#[tokio::test]
async fn who_stands_still_interrupts_and_who_is_gone_fails() {
    let mut a = Side::new();
    let (to_b, from_a) = mpsc::channel(64);
    let (to_a, mut from_b) = mpsc::channel(64);
    let b = apart(from_a, to_a);
    a.open(LINK, 1, true);
    let mut seen = Vec::new();
    let mut since = Instant::now();
    loop {
        tokio::select! {
            event = a.next() => match event {
                LinkEvent::Signal { .. } => to_b.send(event).await.unwrap(),
                LinkEvent::Path { .. } => {}
                LinkEvent::Opened { .. } => {
                    b.still.send(Some(Duration::from_secs(6))).unwrap();
                    since = Instant::now();
                }
                LinkEvent::Interrupted { .. } => seen.push(("interrupted", since.elapsed())),
                LinkEvent::Restored { .. } => {
                    seen.push(("restored", since.elapsed()));
                    b.still.send(None).unwrap();
                    since = Instant::now();
                }
                LinkEvent::Failed { .. } => break,
                other => panic!("{other:?}"),
            },
            Some(event) = from_b.recv() => if let LinkEvent::Signal { link, attempt, kind, body } = event {
                a.signal(link, attempt, kind, &body);
            },
        }
    }
    println!("{seen:?}, failed after {:?}", since.elapsed());
    let names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["interrupted", "restored", "interrupted"]);
    assert!(since.elapsed() > Duration::from_secs(10));
    b.thread.join().unwrap();
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Prints what a link costs while nothing happens.
#[tokio::test]
#[ignore = "a measurement: run it alone, with --nocapture"]
async fn memory_of_idle_links() {
    const LINKS: u8 = 50;
    let mut pair = Pair::opened().await;
    let before = resident();
    for i in 0..LINKS {
        pair.open(LinkId([100 + i; 16])).await;
    }
    let after = resident();
    let ends = 2 * u64::from(LINKS);
    println!("{ends} idle ends: {} kB each", (after - before) / 1000 / ends);
    assert_eq!((pair.a.links.count(), pair.b.links.count()), (51, 51));
}
