//! Clients that speak raw frames and keep to no rule. Each has one trick, and is honest in between.

use crate::act::{Act, Library};
use crate::eval::falsified;
use crate::product::Order;
use crate::rng::Rng;
use crate::run;
use potluck_proto::{
    Backend, BlobChunk, BlobMissing, BlobRef, BlobRequest, Challenge, Commit, Consent, Hello, Lease,
    LeaseRequest, Message, Outcome, PROTOCOL_VERSION, Ping, Preset, Release, ReleaseReason, Task, TrainTask,
    Welcome, Withdraw, decode, encode,
};
use potluck_types::limits::{MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT, MAX_FRAME_BYTES};
use potluck_types::{
    BlobHash, ConsentToken, DType, Duration, Fence, LeaseId, SessionId, VolunteerId, VolunteerKey,
};
use std::collections::BTreeMap;

/// What a liar does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// None: an honest client of another make.
    Nothing,
    /// One element is off; of an update, the length.
    FlipElement,
    /// Everything is zero.
    Zeros,
    /// Not a number, or infinite.
    NotFinite,
    /// Too few bytes, or too many.
    WrongLength,
    /// Other bytes than those committed.
    WrongHash,
    /// The right result of another shard, or of another worker or round.
    OtherShard,
    /// The same commit again, before and after its verdict.
    ReplayCommit,
    /// Commits for leases of others.
    OthersLease,
    /// Commits after the deadline, with right bytes.
    LateFence,
    /// Commits with a fence that is one too old, or from the relay's start before.
    OldFence,
    /// Commits, and never delivers.
    NeverDeliver,
    /// Asks without consent, or with an invented token.
    NoConsent,
    /// Goes on asking after its consent has expired.
    StaleConsent,
    /// Withdraws, and delivers nevertheless; asks with the withdrawn token.
    AfterStop,
    /// Takes leases and gives them back, or just sits on them.
    Hoard,
    /// Thousands of messages.
    Flood,
    /// Frames that are no messages.
    Garbage,
    /// Messages that only the relay may send, or at the wrong time.
    OutOfOrder,
    /// Asks for blobs and ranges that it may not have.
    Fishing,
    /// Connects and says nothing.
    Mute,
    /// Says to be somebody else, or proves it with what proves nothing.
    FalseName,
}

/// Every trick.
pub const TRICKS: [Trick; 22] = [
    Trick::Nothing,
    Trick::FlipElement,
    Trick::Zeros,
    Trick::NotFinite,
    Trick::WrongLength,
    Trick::WrongHash,
    Trick::OtherShard,
    Trick::ReplayCommit,
    Trick::OthersLease,
    Trick::LateFence,
    Trick::OldFence,
    Trick::NeverDeliver,
    Trick::NoConsent,
    Trick::StaleConsent,
    Trick::AfterStop,
    Trick::Hoard,
    Trick::Flood,
    Trick::Garbage,
    Trick::OutOfOrder,
    Trick::Fishing,
    Trick::Mute,
    Trick::FalseName,
];

#[derive(Debug)]
struct Held {
    lease: Lease,
    taken_at: u64,
}

/// A liar.
#[derive(Debug)]
pub struct Liar {
    trick: Trick,
    /// In a thousand.
    lies: u64,
    /// Comes back under a new name after each connection.
    sybil: bool,
    rng: Rng,
    key: VolunteerKey,
    /// What the relay of this connection wants signed.
    challenge: Option<Challenge>,
    /// What it said last, in this session or in one before.
    last_hello: Option<Hello>,
    token: Option<ConsentToken>,
    open: bool,
    epoch: u64,
    steps: BTreeMap<u64, Step>,
    next_step: u64,
    held: BTreeMap<LeaseId, Held>,
    serves: BTreeMap<BlobHash, Vec<u8>>,
    last_truth: Vec<u8>,
    last_commit: Option<Commit>,
    highest_lease: u64,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    Ask,
    Finish(LeaseId),
    Ping,
    Pretend,
}

impl Liar {
    /// A liar with a trick.
    pub fn new(trick: Trick, mut rng: Rng) -> Self {
        let lies = rng.pick(&[300, 700, 1000]).unwrap_or(1000);
        let (sybil, key) = (rng.permille(400), VolunteerKey(rng.bytes()));
        Self {
            trick,
            lies,
            sybil,
            rng,
            key,
            challenge: None,
            last_hello: None,
            token: None,
            open: false,
            epoch: 0,
            steps: BTreeMap::new(),
            next_step: 0,
            held: BTreeMap::new(),
            serves: BTreeMap::new(),
            last_truth: Vec::new(),
            last_commit: None,
            highest_lease: 0,
        }
    }

    /// Its present name.
    pub fn id(&self) -> VolunteerId {
        self.key.id()
    }

    /// It appears.
    pub fn start(&mut self) -> Vec<Act> {
        vec![Act::Connect]
    }

    /// Its connection is open.
    pub fn opened(&mut self) -> Vec<Act> {
        self.open = true;
        self.epoch += 1;
        let mut acts = Vec::new();
        match self.trick {
            Trick::OutOfOrder if self.rng.permille(300) => {
                send(&mut acts, Withdraw {});
            }
            // Does not wait for the challenge, and signs one of its own making.
            Trick::FalseName if self.rng.permille(200) => {
                let challenge = Challenge { nonce: self.rng.bytes(), relay: self.rng.bytes() };
                send(&mut acts, Hello::answer(&challenge, &self.key, "liar".into()));
            }
            _ => {}
        }
        acts.push(self.later(20_000, Step::Ping));
        acts
    }

    /// Its connection ended.
    pub fn closed(&mut self) -> Vec<Act> {
        self.open = false;
        self.challenge = None;
        self.token = None;
        self.held.clear();
        self.steps.clear();
        if self.sybil {
            self.key = VolunteerKey(self.rng.bytes());
        }
        let wait = self.rng.within(500..=40_000);
        vec![self.later(wait, Step::Connect)]
    }

    /// A frame came.
    pub fn frame(&mut self, now: u64, frame: &[u8]) -> Vec<Act> {
        let mut acts = Vec::new();
        match decode(frame) {
            Ok(Message::Challenge(challenge)) => {
                self.challenge = Some(challenge);
                let lies = self.trick == Trick::FalseName && self.lies();
                match self.trick {
                    Trick::Mute => {}
                    _ if lies => acts.push(self.later(1, Step::Pretend)),
                    _ => {
                        let hello = Hello::answer(&challenge, &self.key, "liar".into());
                        self.last_hello = Some(hello.clone());
                        send(&mut acts, Hello { newest_version: 9, ..hello });
                    }
                }
            }
            Ok(Message::Welcome(_)) => {
                let valid_for = match self.trick {
                    Trick::StaleConsent => Duration(self.rng.within(1..=4_000)),
                    _ => Duration::from_secs(self.rng.within(1..=100_000_000)),
                };
                if self.trick == Trick::NoConsent && self.rng.permille(500) {
                    self.token = Some(ConsentToken(self.rng.bytes()));
                    acts.push(self.later(10, Step::Ask));
                } else {
                    let origin = "https://example.org".into();
                    send(&mut acts, Consent { text_version: 1, origin, preset: Preset::Full, valid_for });
                }
                self.misbehave(&mut acts);
            }
            Ok(Message::ConsentGranted(granted)) => {
                // With a consent of its own, but another's token, it must fare no better.
                let invented = self.trick == Trick::NoConsent && self.lies();
                self.token = Some(if invented { ConsentToken(self.rng.bytes()) } else { granted.token });
                acts.push(self.later(1, Step::Ask));
            }
            Ok(Message::Lease(lease)) => self.take(now, lease, &mut acts),
            Ok(Message::NoWork(no)) => {
                let wait = no.retry_after.0.clamp(50, 30_000);
                acts.push(self.later(wait, Step::Ask));
            }
            Ok(Message::BlobRequest(request)) => self.serve(&request, &mut acts),
            Ok(Message::Verdict(verdict)) => {
                self.held.remove(&verdict.lease);
                if self.trick == Trick::ReplayCommit
                    && let Some(commit) = self.last_commit.clone()
                    && verdict.outcome == Outcome::Accepted
                {
                    send(&mut acts, commit);
                }
                let wait = self.rng.within(10..=2_000);
                acts.push(self.later(wait, Step::Ask));
            }
            Ok(Message::Revoke(revoke)) => {
                if !matches!(self.trick, Trick::LateFence | Trick::AfterStop) {
                    self.held.remove(&revoke.lease);
                }
                acts.push(self.later(100, Step::Ask));
            }
            _ => {}
        }
        acts
    }

    /// A time came that it asked for.
    pub fn woken(&mut self, now: u64, tag: u64, library: Library<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        match self.steps.remove(&tag) {
            Some(Step::Connect) if !self.open => acts.push(Act::Connect),
            Some(Step::Ping) if self.open => {
                if self.trick != Trick::Mute {
                    send(&mut acts, Ping { nonce: 7 });
                }
                self.misbehave(&mut acts);
                acts.push(self.later(20_000, Step::Ping));
            }
            Some(Step::Pretend) if self.open => self.pretend(library, &mut acts),
            Some(Step::Ask) if self.open => {
                if let Some(consent) = self.token {
                    let held = self.serves.keys().copied().take(64).collect();
                    let mflops = self.rng.pick(&[0, 1, 100, u32::MAX]).unwrap_or(1);
                    let request = LeaseRequest {
                        consent,
                        backend: Backend::WasmSimd,
                        mflops,
                        memory_bytes: 1 << 30,
                        held,
                        kept: Vec::new(),
                    };
                    send(&mut acts, request);
                }
            }
            Some(Step::Finish(lease)) if self.open => self.finish(now, lease, library, &mut acts),
            _ => {}
        }
        acts
    }

    fn lies(&mut self) -> bool {
        let lies = self.lies;
        self.rng.permille(lies)
    }

    fn later(&mut self, after_ms: u64, step: Step) -> Act {
        self.next_step += 1;
        self.steps.insert(self.next_step, step);
        Act::Wake { after_ms, tag: self.next_step }
    }

    fn take(&mut self, now: u64, lease: Lease, acts: &mut Vec<Act>) {
        let id = lease.lease;
        self.highest_lease = self.highest_lease.max(id.0);
        let deadline = lease.deadline.0;
        let lie = self.lies();
        let work = match self.trick {
            Trick::LateFence if lie => deadline + self.rng.within(1..=3_000),
            Trick::Hoard if lie => deadline * 2,
            Trick::StaleConsent => self.rng.within(500..=4_000),
            _ => self.rng.within(5..=1_500),
        };
        if self.rng.permille(500) {
            for blob in run::refs(&lease.task).iter().take(MAX_CHUNKS_IN_FLIGHT) {
                let bytes = blob.bytes.min(MAX_CHUNK_BYTES as u64) as u32;
                send(acts, BlobRequest { hash: blob.hash, offset: 0, bytes });
            }
        }
        self.held.insert(id, Held { lease, taken_at: now });
        acts.push(self.later(work, Step::Finish(id)));
        if matches!(self.trick, Trick::StaleConsent | Trick::Hoard | Trick::LateFence) {
            acts.push(self.later(work / 2, Step::Ask));
        }
    }

    fn finish(&mut self, now: u64, id: LeaseId, library: Library<'_>, acts: &mut Vec<Act>) {
        let Some(held) = self.held.get(&id) else { return };
        let (lease, compute_ms) = (held.lease.clone(), (now - held.taken_at) as u32);
        if self.trick == Trick::Hoard && self.rng.permille(500) {
            self.held.remove(&id);
            send(acts, Release { lease: id, reason: ReleaseReason::Unsupported });
            acts.push(self.later(50, Step::Ask));
            return;
        }
        let truth = library.truth(&lease.task, Order::Forward);
        let lie = self.lies();
        let (claimed, delivered) = match &lease.task {
            Task::Matmul(task) => self.falsify(lie, truth.clone(), task.dtype),
            Task::Train(task) => match self.other_update(lie, &truth, task, library) {
                Some(other) => (other.clone(), other),
                None => self.falsify(lie, truth.clone(), DType::Int8),
            },
            Task::Eval(task) => {
                let items =
                    library.blob(&task.items.hash).filter(|_| lie && self.trick == Trick::FlipElement);
                match items.and_then(|items| falsified(task, items, &truth, &mut self.rng)) {
                    Some(other) => (other.clone(), other),
                    None => self.falsify(lie, truth.clone(), DType::Int8),
                }
            }
        };
        self.last_truth = truth;
        let result = BlobRef { hash: BlobHash::of(&claimed), bytes: claimed.len() as u64 };
        self.serves.clear();
        self.serves.insert(result.hash, delivered);
        let mut commit =
            Commit { lease: id, fence: lease.fence, result, compute_ms, backend: Backend::WasmSimd };
        if lie && self.trick == Trick::OldFence {
            let old = self.rng.pick(&[1, 1 << 32, 2 << 32, u64::MAX]).unwrap_or(1);
            commit.fence = Fence(lease.fence.0.wrapping_sub(old));
            if self.rng.permille(500) {
                // Right afterwards, the right fence: the first must not have done harm.
                send(acts, commit.clone());
                commit.fence = lease.fence;
            }
        }
        if lie && self.trick == Trick::OthersLease {
            for back in 1..=3 {
                let lease = LeaseId(self.highest_lease.wrapping_sub(back));
                let fence = Fence((commit.fence.0 >> 32 << 32) | lease.0);
                send(acts, Commit { lease, fence, ..commit.clone() });
            }
        }
        if lie && self.trick == Trick::AfterStop {
            send(acts, Withdraw {});
            acts.push(self.later(30, Step::Ask));
        }
        send(acts, commit.clone());
        if lie && self.trick == Trick::AfterStop {
            self.deliver_unasked(&result, acts);
        }
        if lie && self.trick == Trick::ReplayCommit {
            send(acts, commit.clone());
        }
        self.last_commit = Some(commit);
    }

    /// What is committed, and what is delivered.
    fn falsify(&mut self, lie: bool, mut truth: Vec<u8>, dtype: DType) -> (Vec<u8>, Vec<u8>) {
        if !lie || truth.len() < 4 {
            return (truth.clone(), truth);
        }
        let at = self.rng.below(truth.len() / 4) * 4;
        let word = [truth[at], truth[at + 1], truth[at + 2], truth[at + 3]];
        match self.trick {
            Trick::FlipElement => {
                let off = match dtype {
                    // The simulator's elements lie in [-1, 1), so this is far above every tolerance.
                    DType::F32 => (f32::from_le_bytes(word) + 1e3 + self.rng.signed_unit()).to_le_bytes(),
                    DType::Int8 => (i32::from_le_bytes(word) ^ (1 << self.rng.below(31))).to_le_bytes(),
                };
                truth[at..at + 4].copy_from_slice(&off);
            }
            Trick::NotFinite => {
                let off = self.rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).unwrap_or(f32::NAN);
                truth[at..at + 4].copy_from_slice(&off.to_le_bytes());
            }
            Trick::Zeros => truth.fill(0),
            Trick::WrongLength => {
                let length = self.rng.pick(&[0, 4, truth.len() - 4, truth.len() + 4, truth.len() - 1]);
                truth.resize(length.unwrap_or(0), 0);
            }
            Trick::WrongHash => {
                let claimed = truth.clone();
                truth[at] ^= 1 << self.rng.below(8);
                return (claimed, truth);
            }
            Trick::OtherShard if self.last_truth.len() == truth.len() => truth.clone_from(&self.last_truth),
            Trick::OtherShard => truth.rotate_left(4),
            _ => {}
        }
        (truth.clone(), truth)
    }

    /// Lies about an update that are not also lies about a tile.
    fn other_update(
        &mut self,
        lie: bool,
        truth: &[u8],
        task: &TrainTask,
        library: Library<'_>,
    ) -> Option<Vec<u8>> {
        if !lie {
            return None;
        }
        match self.trick {
            Trick::FlipElement => {
                let factor = self.rng.pick(&[-1.0, 0.5, 2.0, 100.0]).unwrap_or(-1.0);
                run::scaled(task, truth, factor)
            }
            Trick::Zeros if self.rng.permille(500) => run::scaled(task, truth, 0.0),
            Trick::OtherShard if self.last_truth.len() != truth.len() || self.rng.permille(500) => {
                let worker = task.worker ^ 1;
                Some(library.update(&TrainTask { worker, ..task.clone() }))
            }
            _ => None,
        }
    }

    fn serve(&mut self, request: &BlobRequest, acts: &mut Vec<Act>) {
        if self.trick == Trick::NeverDeliver && self.lies() {
            match self.rng.below(3) {
                0 => send(acts, BlobMissing { hash: request.hash }),
                1 => acts.push(Act::Close),
                _ => {}
            }
            return;
        }
        let Some(bytes) = self.serves.get(&request.hash) else { return };
        let start = (request.offset as usize).min(bytes.len());
        let end = (start + request.bytes as usize).min(bytes.len());
        let data = bytes[start..end].to_vec();
        send(acts, BlobChunk { hash: request.hash, offset: request.offset, data });
    }

    fn deliver_unasked(&mut self, result: &BlobRef, acts: &mut Vec<Act>) {
        if let Some(bytes) = self.serves.get(&result.hash) {
            send(acts, BlobChunk { hash: result.hash, offset: 0, data: bytes.clone() });
        }
    }

    /// Says to be who it is not, or proves who it is with what it must not count.
    fn pretend(&mut self, library: Library<'_>, acts: &mut Vec<Act>) {
        let Some(challenge) = self.challenge else { return };
        let own = Hello::answer(&challenge, &self.key, "liar".into());
        let other = library.overheard.cloned();
        let hello = match self.rng.below(5) {
            // Another's proof, of another session.
            0 => other,
            // Another's name, with a signature of its own.
            1 => other.map(|other| Hello { volunteer: other.volunteer, ..own }),
            // Its own proof of an earlier session.
            2 => self.last_hello.take(),
            // Its own proof, made for another relay.
            3 => {
                let relay = self.rng.bytes();
                Some(Hello::answer(&Challenge { relay, ..challenge }, &self.key, "liar".into()))
            }
            // The neutral element as key and signature: they fit any message unless they are checked strictly.
            _ => {
                let (mut neutral, mut signature) = ([0; 32], [0; 64]);
                (neutral[0], signature[0]) = (1, 1);
                Some(Hello { volunteer: VolunteerId(neutral), signature, ..own })
            }
        };
        match hello {
            Some(hello) => send(acts, hello),
            None => acts.push(Act::Close),
        }
    }

    /// Tricks that need no lease.
    fn misbehave(&mut self, acts: &mut Vec<Act>) {
        if !self.lies() {
            return;
        }
        match self.trick {
            Trick::Flood => {
                for nonce in 0..self.rng.within(300..=1500) as u32 {
                    send(acts, Ping { nonce });
                }
            }
            Trick::Garbage => {
                let frame = match self.rng.below(6) {
                    0 => Vec::new(),
                    1 => vec![PROTOCOL_VERSION],
                    2 => vec![PROTOCOL_VERSION, 0x7f, 1, 2, 3],
                    3 => vec![PROTOCOL_VERSION + 1, 0x07, 1],
                    4 => vec![0; MAX_FRAME_BYTES + 1],
                    _ => {
                        // A valid head, then a length that claims more than there is.
                        let mut frame = vec![PROTOCOL_VERSION, 0x82];
                        frame.extend(self.rng.bytes::<40>());
                        frame
                    }
                };
                acts.push(Act::Send(frame));
            }
            Trick::OutOfOrder => {
                let session = SessionId(self.rng.within(1..=9));
                match self.rng.below(3) {
                    0 => send(acts, Withdraw {}),
                    1 => send(
                        acts,
                        Welcome {
                            version: 1,
                            session,
                            session_timeout: Duration(1),
                            max_chunk_bytes: 1,
                            max_chunks_in_flight: 1,
                        },
                    ),
                    _ => {
                        if let Some(challenge) = self.challenge {
                            send(acts, Hello::answer(&challenge, &self.key, "again".into()));
                        }
                    }
                }
            }
            Trick::Fishing => {
                let held = self.held.values().next().map(|held| {
                    let refs = run::refs(&held.lease.task);
                    refs.first().map_or(BlobHash([0; 32]), |blob| blob.hash)
                });
                let hash = held.unwrap_or(BlobHash(self.rng.bytes()));
                let offset = self.rng.pick(&[0, 1, u64::MAX, u64::MAX - 5]).unwrap_or(0);
                let bytes = self.rng.pick(&[0, 1, u32::MAX, 1 << 18]).unwrap_or(1);
                for _ in 0..self.rng.within(1..=500) {
                    send(acts, BlobRequest { hash, offset, bytes });
                }
            }
            Trick::ReplayCommit | Trick::NeverDeliver => {
                if let Some(commit) = self.last_commit.clone() {
                    send(acts, commit);
                }
            }
            _ => {}
        }
    }
}

fn send(acts: &mut Vec<Act>, message: impl Into<Message>) {
    // A liar that cannot even write a frame says nothing.
    if let Ok(frame) = encode(&message.into()) {
        acts.push(Act::Send(frame));
    }
}
