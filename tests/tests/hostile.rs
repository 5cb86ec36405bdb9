//! Volunteers that mean harm, over raw sockets: each is refused or limited with a reason, while an honest
//! volunteer on the same relay completes job after job and the relay's memory stays within its limit.

use futures_util::{SinkExt as _, StreamExt as _};
use potluck_proto::{
    Backend, BlobChunk, BlobMissing, BlobRef, BlobRequest, Challenge, Commit, Consent, Hello, Lease,
    LeaseRequest, MatmulTask, Message, NoWorkReason, Outcome, PROTOCOL_VERSION, Ping, Pong, Preset, Refusal,
    RefusalCode, RejectReason, Task, Verdict, Withdraw, decode, encode,
};
use potluck_tests::npy::{LowRank, f32_file, header, raw};
use potluck_tests::{Api, TestRelay, Volunteer, memory, wait_until};
use potluck_types::limits::{
    HANDSHAKE_TIMEOUT, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_LEASES_PER_SESSION, MAX_QUEUED_FRAMES,
    MAX_RESULTS_IN_MEMORY_BYTES, MESSAGE_BURST,
};
use potluck_types::{BlobHash, ConsentToken, Fence, LeaseId, MatmulShape, VolunteerKey};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Time for the relay to answer, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Time until some job has work for an attacker.
const LEASE_LIMIT: Duration = Duration::from_secs(60);
/// Time for one job of the honest volunteer.
const JOB_LIMIT: Duration = Duration::from_secs(120);
/// What this process may grow by, attackers, honest volunteer and submitter included: results in memory, twice for
/// the volunteer's own copies, and 64 MiB for kernels, caches and allocators.
const MAX_GROWTH_BYTES: u64 = 3 * MAX_RESULTS_IN_MEMORY_BYTES as u64;
/// The product that the honest volunteer computes again and again: 64 units.
const SHAPE: MatmulShape = MatmulShape { m: 1024, k: 1024, n: 1024 };

/// A job that has work for everybody as long as the test runs: 4,096 units, 275 GFLOP. Without it attackers would be
/// leased the tails of small jobs, where an honest volunteer overtakes them.
const BACKLOG: [usize; 2] = [8192, 2048];

/// Inputs of a shard that a slow reader needs: three times as much does not fit into sockets and queue.
const SLOW_READER_BYTES: u64 = 16 << 20;

/// A socket that says whatever it wants.
struct Attacker {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What the relay wants signed.
    challenge: Challenge,
    token: ConsentToken,
}

impl Attacker {
    async fn connect(url: &str) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        let challenge = Challenge { nonce: [0; 32], relay: [0; 32] };
        let mut attacker = Self { socket, challenge, token: ConsentToken([0; 16]) };
        attacker.challenge = attacker
            .expect("a challenge", |message| match message {
                Message::Challenge(challenge) => Some(challenge),
                _ => None,
            })
            .await;
        attacker
    }

    /// The Hello with which a volunteer answers this session's challenge.
    fn answer(&self, name: u64) -> Hello {
        Hello::answer(&self.challenge, &key(name), "hostile".into())
    }

    /// Connects and says hello under a key of its own.
    async fn hello(url: &str) -> Self {
        static NAMES: AtomicU64 = AtomicU64::new(1000);
        Self::hello_as(url, NAMES.fetch_add(1, Ordering::Relaxed)).await
    }

    async fn hello_as(url: &str, name: u64) -> Self {
        let mut attacker = Self::connect(url).await;
        attacker.send(attacker.answer(name)).await;
        attacker.expect("a welcome", |message| matches!(message, Message::Welcome(_)).then_some(())).await;
        attacker
    }

    /// Connects, says hello and consents.
    async fn consented(url: &str) -> Self {
        Self::hello(url).await.with_consent().await
    }

    async fn with_consent(mut self) -> Self {
        self.send(consent(potluck_types::Duration::from_secs(600))).await;
        self.token = self
            .expect("a consent token", |message| match message {
                Message::ConsentGranted(granted) => Some(granted.token),
                _ => None,
            })
            .await;
        self
    }

    async fn send(&mut self, message: impl Into<Message>) {
        self.send_frame(Frame::binary(encode(&message.into()).unwrap())).await;
    }

    /// The relay may have closed the socket already: what it said before is still to be read.
    async fn send_frame(&mut self, frame: Frame) {
        drop(self.socket.send(frame).await);
    }

    /// The next message; `None` if the relay closed the connection.
    async fn next(&mut self) -> Option<Message> {
        loop {
            let frame =
                tokio::time::timeout(ANSWER_LIMIT, self.socket.next()).await.expect("an answer in time");
            match frame {
                Some(Ok(Frame::Binary(bytes))) => {
                    return Some(decode(&bytes).expect("the relay speaks the protocol"));
                }
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Reads until a message that fits; pictures and the like may come in between.
    async fn expect<T>(&mut self, what: &str, mut fits: impl FnMut(Message) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Some(Message::Refusal(refusal)) => match fits(refusal.clone().into()) {
                    Some(found) => return found,
                    None => panic!("{what} was expected: {refusal:?}"),
                },
                Some(message) => {
                    if let Some(found) = fits(message) {
                        return found;
                    }
                }
                None => panic!("{what} was expected: the relay closed the connection"),
            }
        }
    }

    /// The relay says why, and then closes the connection.
    async fn refused(&mut self, code: RefusalCode) -> Refusal {
        let refusal = self
            .expect("a refusal", |message| match message {
                Message::Refusal(refusal) => Some(refusal),
                _ => None,
            })
            .await;
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(!refusal.message.is_empty());
        assert_eq!(self.next().await, None, "the connection is closed after a refusal");
        refusal
    }

    async fn ask(&mut self, token: ConsentToken, mflops: u32, memory_bytes: u64) {
        let request = LeaseRequest {
            consent: token,
            backend: Backend::NativeCpu,
            mflops,
            memory_bytes,
            held: Vec::new(),
            kept: Vec::new(),
        };
        self.send(request).await;
    }

    async fn no_work(&mut self) -> NoWorkReason {
        self.expect("no work", |message| match message {
            Message::NoWork(no_work) => Some(no_work.reason),
            Message::Lease(lease) => panic!("a lease was given: {lease:?}"),
            _ => None,
        })
        .await
    }

    /// Asks until some job has work. Slow devices get one unit, fast ones many.
    async fn lease(&mut self, mflops: u32) -> Lease {
        let started = Instant::now();
        loop {
            self.ask(self.token, mflops, 1 << 30).await;
            let answer = self
                .expect("an answer to a request for a lease", |message| match message {
                    Message::Lease(lease) => Some(Ok(lease)),
                    Message::NoWork(no_work) => Some(Err(no_work.reason)),
                    _ => None,
                })
                .await;
            match answer {
                Ok(lease) => return lease,
                Err(reason) => assert_eq!(reason, NoWorkReason::Idle),
            }
            assert!(started.elapsed() < LEASE_LIMIT, "no work for an attacker");
            tokio::time::sleep(potluck_tests::POLL).await;
        }
    }

    /// Fetches a blob whole.
    async fn fetch(&mut self, blob: &BlobRef) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < blob.bytes {
            let offset = bytes.len() as u64;
            let count = (blob.bytes - offset).min(MAX_CHUNK_BYTES as u64) as u32;
            self.send(BlobRequest { hash: blob.hash, offset, bytes: count }).await;
            let chunk = self
                .expect("a chunk", |message| match message {
                    Message::BlobChunk(chunk) if chunk.hash == blob.hash => Some(chunk.data),
                    _ => None,
                })
                .await;
            bytes.extend(chunk);
        }
        assert_eq!(BlobHash::of(&bytes), blob.hash, "the relay's own blobs have their hashes");
        bytes
    }

    /// The right result of a lease.
    async fn compute(&mut self, lease: &Lease) -> Vec<u8> {
        let Task::Matmul(MatmulTask { rows, cols, depth, a, bt, .. }) = &lease.task else {
            unreachable!("no run was added")
        };
        let mut operands = Vec::new();
        for panels in [a, bt] {
            let mut bytes = Vec::new();
            for panel in panels {
                bytes.extend(self.fetch(panel).await);
            }
            operands.push(floats(&bytes));
        }
        let shape = MatmulShape { m: *rows, k: *depth, n: *cols };
        let c = potluck_kernels::reference::matmul_nt_f64(shape, &operands[0], &operands[1]).unwrap();
        c.into_iter().flat_map(|x| (x as f32).to_le_bytes()).collect()
    }

    async fn commit(&mut self, lease: &Lease, result: &[u8]) -> BlobRef {
        let result = BlobRef { hash: BlobHash::of(result), bytes: result.len() as u64 };
        self.send(commit(lease, result)).await;
        result
    }

    /// Answers the relay's requests for `bytes` until it judges the lease.
    async fn deliver(&mut self, lease: &Lease, bytes: &[u8]) -> Outcome {
        loop {
            let step = self
                .expect("a verdict", |message| match message {
                    Message::BlobRequest(request) => Some(Ok(request)),
                    Message::Verdict(Verdict { lease: of, outcome }) if of == lease.lease => {
                        Some(Err(outcome))
                    }
                    _ => None,
                })
                .await;
            match step {
                Ok(BlobRequest { hash, offset, bytes: count }) => {
                    let data = bytes[offset as usize..offset as usize + count as usize].to_vec();
                    self.send(BlobChunk { hash, offset, data }).await;
                }
                Err(outcome) => return outcome,
            }
        }
    }

    /// What becomes of a lease that somebody else may have finished meanwhile at the tail of a job.
    async fn verdict(&mut self, lease: LeaseId) -> Outcome {
        self.expect("a verdict", |message| match message {
            Message::Verdict(verdict) if verdict.lease == lease => Some(verdict.outcome),
            _ => None,
        })
        .await
    }

    /// Whether the relay still listens.
    async fn is_served(&mut self) {
        self.send(Ping { nonce: 7 }).await;
        self.expect("a pong", |message| (message == Pong { nonce: 7 }.into()).then_some(())).await;
    }
}

fn key(name: u64) -> VolunteerKey {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&name.to_le_bytes());
    VolunteerKey(seed)
}

fn consent(valid_for: potluck_types::Duration) -> Consent {
    Consent { text_version: 1, origin: "native".into(), preset: Preset::Full, valid_for }
}

fn commit(lease: &Lease, result: BlobRef) -> Commit {
    Commit { lease: lease.lease, fence: lease.fence, result, compute_ms: 1, backend: Backend::NativeCpu }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

fn result_bytes(lease: &Lease) -> usize {
    let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
    task.rows as usize * task.cols as usize * 4
}

/// Frames that are no messages.
async fn garbage(url: &str) {
    let long_list = {
        // A request for a lease whose list of held blobs claims 2^60 entries.
        let request = LeaseRequest {
            consent: ConsentToken([0; 16]),
            backend: Backend::NativeCpu,
            mflops: 1,
            memory_bytes: 1,
            held: Vec::new(),
            kept: Vec::new(),
        };
        let mut frame = encode(&request.into()).unwrap();
        frame.pop();
        frame.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
        frame
    };
    let ping = encode(&Ping { nonce: 300 }.into()).unwrap();
    for frame in [
        Frame::binary(vec![]),
        Frame::binary(vec![PROTOCOL_VERSION]),
        Frame::binary(vec![PROTOCOL_VERSION, 0x01]),
        Frame::binary([&[PROTOCOL_VERSION, 0x05][..], &[0xff; 300]].concat()),
        Frame::binary(ping[..ping.len() - 1].to_vec()),
        Frame::binary([&ping[..], &[0]].concat()),
        Frame::binary(long_list),
        Frame::text("{\"hello\": true}"),
    ] {
        let mut attacker = Attacker::hello(url).await;
        attacker.send_frame(frame).await;
        attacker.refused(RefusalCode::Garbage).await;
    }
    for (version, kind, code) in [
        (PROTOCOL_VERSION + 1, 0x01, RefusalCode::Version),
        (0, 0x01, RefusalCode::Version),
        (PROTOCOL_VERSION, 0x3f, RefusalCode::UnknownMessage),
    ] {
        let mut attacker = Attacker::connect(url).await;
        attacker.send_frame(Frame::binary(vec![version, kind, 0])).await;
        attacker.refused(code).await;
    }
    let mut attacker = Attacker::connect(url).await;
    attacker.send(Hello { oldest_version: 7, newest_version: 9, ..attacker.answer(99) }).await;
    let refusal = attacker.refused(RefusalCode::Version).await;
    assert!(refusal.message.contains("7 to 9") && refusal.message.contains("update"), "{}", refusal.message);
    assert_eq!(refusal.retry_after.0, 0, "coming back does not help");
}

/// Frames over the limit: told so where that is cheap, cut off unread where it is not.
async fn oversized(url: &str) {
    let mut attacker = Attacker::hello(url).await;
    let mut frame = vec![0; MAX_FRAME_BYTES + 1];
    frame[..2].copy_from_slice(&[PROTOCOL_VERSION, 0x82]);
    attacker.send_frame(Frame::binary(frame)).await;
    let refusal = attacker.refused(RefusalCode::Limit).await;
    assert!(refusal.message.contains("exceeds the limit"), "{}", refusal.message);
    let mut attacker = Attacker::hello(url).await;
    attacker.send_frame(Frame::binary(vec![0; 8 << 20])).await;
    assert_eq!(attacker.next().await, None, "a frame of 8 MiB ends the connection");
}

/// Messages at times when they may not come.
async fn out_of_order(url: &str) {
    let early: [Message; 5] = [
        Ping { nonce: 1 }.into(),
        consent(potluck_types::Duration::from_secs(60)).into(),
        Withdraw {}.into(),
        BlobMissing { hash: BlobHash([1; 32]) }.into(),
        BlobRequest { hash: BlobHash([1; 32]), offset: 0, bytes: 1 }.into(),
    ];
    for message in early {
        let mut attacker = Attacker::connect(url).await;
        attacker.send(message).await;
        attacker.refused(RefusalCode::OutOfOrder).await;
    }
    let mut attacker = Attacker::hello(url).await;
    attacker.send(attacker.answer(98)).await;
    attacker.refused(RefusalCode::OutOfOrder).await;
    let late: [Message; 3] = [
        attacker.challenge.into(),
        Pong { nonce: 1 }.into(),
        Verdict { lease: LeaseId(1), outcome: Outcome::Accepted }.into(),
    ];
    for message in late {
        let mut attacker = Attacker::hello(url).await;
        attacker.send(message).await;
        attacker.refused(RefusalCode::OutOfOrder).await;
    }
}

/// Names that are not proven, or proven with what was overheard.
async fn false_names(url: &str) {
    let (victim, own) = (97, 96);
    let mut honest = Attacker::hello_as(url, victim).await;
    let overheard = honest.answer(victim);
    let attacks: [&dyn Fn(&Attacker) -> Hello; 6] = [
        // Another's name, with a signature of one's own, and with none.
        &|attacker| Hello { volunteer: key(victim).id(), ..attacker.answer(own) },
        &|attacker| Hello { signature: [0; 64], ..attacker.answer(victim) },
        // What was said in another session, as it was and under one's own name.
        &|_| overheard.clone(),
        &|_| Hello { volunteer: key(own).id(), ..overheard.clone() },
        // What the victim would sign for another relay that passes this one's nonce on.
        &|attacker| {
            let passed_on = Challenge { relay: [7; 32], ..attacker.challenge };
            Hello::answer(&passed_on, &key(victim), "hostile".into())
        },
        // A key of small order: this signature fits any message unless it is checked strictly.
        &|attacker| {
            let mut hello = attacker.answer(own);
            (hello.volunteer.0, hello.signature) = ([0; 32], [0; 64]);
            (hello.volunteer.0[0], hello.signature[0]) = (1, 1);
            hello
        },
    ];
    for attack in attacks {
        let mut attacker = Attacker::connect(url).await;
        assert_ne!(attacker.challenge.nonce, honest.challenge.nonce);
        assert_eq!(attacker.challenge.relay, honest.challenge.relay);
        let hello = attack(&attacker);
        attacker.send(hello).await;
        let refusal = attacker.refused(RefusalCode::Identity).await;
        assert!(refusal.message.contains("signature"), "{}", refusal.message);
    }
    honest.is_served().await;
}

/// No work without consent: none given, made up, another's, withdrawn, or over at once.
async fn without_consent(url: &str) {
    let other = Attacker::consented(url).await;
    let mut attacker = Attacker::hello(url).await;
    for token in [ConsentToken([0; 16]), ConsentToken([7; 16]), other.token] {
        attacker.ask(token, 1000, 1 << 30).await;
        assert_eq!(attacker.no_work().await, NoWorkReason::NoConsent);
    }
    attacker.send(consent(potluck_types::Duration(0))).await;
    let token = attacker
        .expect("a token", |message| match message {
            Message::ConsentGranted(granted) => Some(granted.token),
            _ => None,
        })
        .await;
    attacker.ask(token, 1000, 1 << 30).await;
    assert_eq!(attacker.no_work().await, NoWorkReason::NoConsent);
    // A lease rests on consent: with it ends the right to deliver.
    let mut attacker = attacker.with_consent().await;
    let lease = attacker.lease(1).await;
    attacker.send(Withdraw {}).await;
    attacker.commit(&lease, &vec![0; result_bytes(&lease)]).await;
    assert_eq!(attacker.verdict(lease.lease).await, Outcome::Late);
    attacker.ask(attacker.token, 1000, 1 << 30).await;
    assert_eq!(attacker.no_work().await, NoWorkReason::NoConsent);
}

/// Results that are not what they should be; three of them, and the volunteer is not trusted any more.
async fn wrong_results(url: &str, api: &Api) {
    let name = 90;
    let mut first = Attacker::hello_as(url, name).await.with_consent().await;
    let mut second = Attacker::hello_as(url, name).await.with_consent().await;
    // All leases first: after a rejection there are none for a while.
    let leases = [first.lease(1).await, first.lease(1).await, second.lease(1).await, second.lease(1).await];
    assert_eq!(MAX_LEASES_PER_SESSION, 2);
    first.ask(first.token, 1, 1 << 30).await;
    assert_eq!(first.no_work().await, NoWorkReason::EnoughLeases);
    // The product is wrong in one element, by more than rounding explains.
    let mut bytes = first.compute(&leases[0]).await;
    let at = bytes.len() / 2 / 4 * 4;
    let flipped = f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) + 1e6;
    bytes[at..at + 4].copy_from_slice(&flipped.to_le_bytes());
    first.commit(&leases[0], &bytes).await;
    assert_eq!(first.deliver(&leases[0], &bytes).await, Outcome::Rejected(RejectReason::WrongProduct));
    // The bytes are not those that were committed to.
    let zeros = vec![0; result_bytes(&leases[1])];
    let mut other = zeros.clone();
    other[1] = 1;
    first.commit(&leases[1], &zeros).await;
    assert_eq!(first.deliver(&leases[1], &other).await, Outcome::Rejected(RejectReason::WrongHash));
    first.ask(first.token, 1, 1 << 30).await;
    assert_eq!(first.no_work().await, NoWorkReason::CoolingDown);
    // The length is not the tile's.
    second.commit(&leases[2], &[0; 12]).await;
    assert_eq!(second.verdict(leases[2].lease).await, Outcome::Rejected(RejectReason::WrongLength));
    // Three are enough: no work on any connection, old or new.
    second.ask(second.token, 1, 1 << 30).await;
    let refusal = second.refused(RefusalCode::NotTrusted).await;
    assert!(refusal.retry_after.0 > 0);
    let mut again = Attacker::connect(url).await;
    again.send(again.answer(name)).await;
    again.refused(RefusalCode::NotTrusted).await;
    let rejections = api.metric("results_rejected_total");
    assert_eq!(rejections, 3);
}

/// A result that is named and then does not come.
async fn not_delivered(url: &str) {
    let mut attacker = Attacker::consented(url).await;
    let lease = attacker.lease(1).await;
    let result = attacker.commit(&lease, &vec![0; result_bytes(&lease)]).await;
    attacker.send(BlobMissing { hash: result.hash }).await;
    assert_eq!(attacker.verdict(lease.lease).await, Outcome::Rejected(RejectReason::NotDelivered));
}

/// Commits that are repeated, stolen or stale.
async fn replays_and_thefts(url: &str) {
    let mut owner = Attacker::consented(url).await;
    let mut thief = Attacker::consented(url).await;
    let lease = owner.lease(1).await;
    let bytes = owner.compute(&lease).await;
    let result = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
    thief.send(commit(&lease, result)).await;
    assert_eq!(thief.verdict(lease.lease).await, Outcome::Late, "another's lease");
    // Releasing it for the owner does not work either, and neither do stale or invented fences.
    thief
        .send(potluck_proto::Release { lease: lease.lease, reason: potluck_proto::ReleaseReason::Withdrawn })
        .await;
    thief.is_served().await;
    for fence in [Fence(lease.fence.0 + 1), Fence(lease.fence.0 - (1 << 32)), Fence(0), Fence(u64::MAX)] {
        owner.send(Commit { fence, ..commit(&lease, result) }).await;
        assert_eq!(owner.verdict(lease.lease).await, Outcome::Late, "{fence:?}");
    }
    owner.send(Commit { lease: LeaseId(u64::MAX), ..commit(&lease, result) }).await;
    assert_eq!(owner.verdict(LeaseId(u64::MAX)).await, Outcome::Late);
    owner.commit(&lease, &bytes).await;
    assert_eq!(owner.deliver(&lease, &bytes).await, Outcome::Accepted);
    // The same commit again counts nothing.
    owner.commit(&lease, &bytes).await;
    assert_eq!(owner.verdict(lease.lease).await, Outcome::Late);
    // Twice before the bytes came: that is no mistake that an honest volunteer makes.
    let lease = owner.lease(1).await;
    let zeros = vec![0; result_bytes(&lease)];
    owner.commit(&lease, &zeros).await;
    owner.commit(&lease, &zeros).await;
    owner.refused(RefusalCode::OutOfOrder).await;
}

/// Bytes that nobody asked for, or not these.
async fn stray_chunks(url: &str) {
    let stray = |offset| BlobChunk { hash: BlobHash([3; 32]), offset, data: vec![0; 1000] };
    let mut attacker = Attacker::consented(url).await;
    attacker.send(stray(0)).await;
    attacker.is_served().await;
    for offset in 0..2 * u64::from(MESSAGE_BURST) {
        attacker.send(stray(offset)).await;
    }
    attacker.refused(RefusalCode::Limit).await;
    // Of the right blob, at the right place, but not the part that was asked for.
    for length in [0, 1, MAX_CHUNK_BYTES] {
        let mut attacker = Attacker::consented(url).await;
        let lease = attacker.lease(1).await;
        let result = attacker.commit(&lease, &vec![0; result_bytes(&lease)]).await;
        let part = BlobChunk { hash: result.hash, offset: 0, data: vec![0; length] };
        attacker.send(part).await;
        attacker.refused(RefusalCode::OutOfOrder).await;
    }
}

/// Too much of anything.
async fn floods(url: &str) {
    let mut attacker = Attacker::hello(url).await;
    for nonce in 0..2 * MESSAGE_BURST {
        attacker.send(Ping { nonce }).await;
    }
    attacker.refused(RefusalCode::Limit).await;
    let mut attacker = Attacker::consented(url).await;
    for offset in 0..2 * u64::from(MESSAGE_BURST) {
        attacker.send(BlobRequest { hash: BlobHash([9; 32]), offset, bytes: 1 }).await;
    }
    attacker.refused(RefusalCode::Limit).await;
    // Ranges that are none, of a blob that may be read.
    for (offset, bytes) in
        [(0, 0), (0, MAX_CHUNK_BYTES as u32 + 1), (u64::MAX, 1), (0, u32::MAX), (1 << 40, 9)]
    {
        let mut attacker = Attacker::consented(url).await;
        let lease = attacker.lease(1).await;
        let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
        attacker.send(BlobRequest { hash: task.a[0].hash, offset, bytes }).await;
        attacker.refused(RefusalCode::OutOfOrder).await;
    }
    // The same input again and again.
    let mut attacker = Attacker::consented(url).await;
    let lease = attacker.lease(1).await;
    let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
    let inputs = task.a.iter().chain(&task.bt).map(|blob| blob.bytes).sum::<u64>();
    let mut got = 0;
    let refusal = loop {
        let bytes = task.a[0].bytes.min(MAX_CHUNK_BYTES as u64) as u32;
        attacker.send(BlobRequest { hash: task.a[0].hash, offset: 0, bytes }).await;
        let step = attacker.expect("a chunk", |message| match message {
            Message::BlobChunk(chunk) => Some(Ok(chunk.data.len() as u64)),
            Message::Refusal(refusal) => Some(Err(refusal)),
            _ => None,
        });
        match step.await {
            Ok(bytes) => got += bytes,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, RefusalCode::Limit);
    assert!(got >= inputs && got <= 8 * inputs, "{got} bytes of inputs of {inputs} bytes");
}

/// A reader that does not read: it is cut off, and what waits for it is bounded.
async fn slow_reader(url: &str, api: &Api) {
    // Earlier attackers are leaving: only this one's end may count. The honest volunteer stays.
    sessions(api, 1, "earlier attackers are still there").await;
    // A device that claims to be fast gets a shard with many inputs, once the small jobs are done.
    let started = Instant::now();
    let (mut attacker, blobs) = loop {
        let mut attacker = Attacker::consented(url).await;
        let lease = attacker.lease(1_000_000).await;
        let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
        let blobs: Vec<_> = task.a.iter().chain(&task.bt).copied().collect();
        if blobs.iter().map(|blob| blob.bytes).sum::<u64>() >= SLOW_READER_BYTES {
            break (attacker, blobs);
        }
        assert!(started.elapsed() < LEASE_LIMIT, "no large shard for an attacker");
    };
    let all: u64 = blobs.iter().map(|blob| blob.bytes).sum();
    // More than the sockets' buffers and the queue hold, and less than the limit on fetching inputs again.
    let mut asked = 0;
    while asked < 3 * all {
        for &BlobRef { hash, bytes } in &blobs {
            let bytes = bytes.min(MAX_CHUNK_BYTES as u64);
            attacker.send(BlobRequest { hash, offset: 0, bytes: bytes as u32 }).await;
            asked += bytes;
        }
    }
    let chunks = asked / MAX_CHUNK_BYTES as u64;
    assert!(chunks > MAX_QUEUED_FRAMES as u64, "{chunks} chunks were asked for");
    sessions(api, 1, "the slow reader is still there").await;
}

/// Waits for a number of open sessions.
async fn sessions(api: &Api, count: u64, otherwise: &str) {
    let started = Instant::now();
    while api.metric("sessions") != count {
        assert!(started.elapsed() < 2 * ANSWER_LIMIT, "{otherwise}");
        tokio::time::sleep(potluck_tests::POLL).await;
    }
}

/// A connection that says nothing.
async fn silence(url: &str) {
    let mut attacker = Attacker::connect(url).await;
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT.0);
    tokio::time::sleep(limit.saturating_sub(ANSWER_LIMIT / 2)).await;
    attacker.refused(RefusalCode::TimedOut).await;
}

/// Submits the product again and again until it is told to stop, and checks each result.
fn honest_work(api: &Api, stop: &AtomicBool) -> u32 {
    let known = LowRank::new(SHAPE, 5);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let (a, b) = (f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b));
    let mut jobs = 0;
    while jobs == 0 || !stop.load(Ordering::Relaxed) {
        let id = api.submit(&a, &b, &json!({ "name": format!("honest {jobs}") }));
        let (_, c) = api.result(&id, JOB_LIMIT);
        assert!(c == known.c, "a job among attackers has a wrong result");
        jobs += 1;
    }
    jobs
}

/// Whatever happens, the submitter is told to stop: else nobody would hear of it.
struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn attackers_are_refused_and_honest_work_goes_on() {
    let relay = TestRelay::start();
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Quiet);
    wait_until("the honest volunteer waits", ANSWER_LIMIT, || relay.api.metric("consenting_sessions") == 1);
    let ones = raw(1, &header("|i1", false, &BACKLOG), &vec![1; BACKLOG[0] * BACKLOG[1]]);
    let submit_backlog =
        || relay.api.submit(&ones, &ones, &json!({ "transpose_b": true, "name": "backlog" }));
    let cancel = |id: &str| relay.api.send("DELETE", &format!("/api/v1/jobs/{id}"), &[], &[]).text("state");
    let first_backlog = submit_backlog();
    let stop = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (url, api) = (relay.socket(), relay.api.clone());
    let jobs = std::thread::scope(|scope| {
        let work = scope.spawn(|| honest_work(&relay.api, &stop));
        let told = Told(&stop);
        wait_until("the honest volunteer works", JOB_LIMIT, || {
            relay.api.metric("results_accepted_total") > 0 || work.is_finished()
        });
        let before = memory("VmRSS");
        runtime.block_on(async {
            let quiet = tokio::spawn({
                let url = url.clone();
                async move { silence(&url).await }
            });
            garbage(&url).await;
            oversized(&url).await;
            out_of_order(&url).await;
            false_names(&url).await;
            without_consent(&url).await;
            wrong_results(&url, &api).await;
            not_delivered(&url).await;
            replays_and_thefts(&url).await;
            stray_chunks(&url).await;
            floods(&url).await;
            quiet.await.unwrap();
        });
        drop(told);
        let jobs = work.join().unwrap();
        // The backlog alone is left, and the honest volunteer works on it.
        let canceled = cancel(&first_backlog);
        assert_eq!(canceled, "canceled", "the backlog is too small for this machine");
        let backlog = submit_backlog();
        let accepted = relay.api.metric("results_accepted_total");
        runtime.block_on(slow_reader(&url, &api));
        wait_until("the honest volunteer goes on", ANSWER_LIMIT, || {
            relay.api.metric("results_accepted_total") > accepted
        });
        assert_eq!(cancel(&backlog), "canceled");
        let after = memory("VmHWM");
        if let (Some(before), Some(after)) = (before, after) {
            let growth = after.saturating_sub(before);
            println!("memory: {} MiB before, at most {} MiB since", before >> 20, after >> 20);
            assert!(growth < MAX_GROWTH_BYTES, "{growth} bytes more than before the attacks");
        }
        jobs
    });
    println!("{jobs} honest jobs completed meanwhile");
    wait_until("the attackers are gone", ANSWER_LIMIT, || relay.api.metric("sessions") == 1);
    wait_until("no lease and no result in memory is left", ANSWER_LIMIT, || {
        relay.api.metric("leases") == 0 && relay.api.metric("result_bytes") == 0
    });
    let status = volunteer.end();
    assert!(status.accepted > 0 && status.rejected == 0, "{status:?}");
}
