//! The machine driven by hand: one test per rule, and a model that does anything in any order.

use crate::grid::Grid;
use crate::io::{AcceptedTile, CheckVerdict, Input, JobSpec, Output, Record, Ticket};
use crate::relay::{Config, Relay};
use potluck_proto::{
    Backend, BlobChunk, BlobRef, BlobRequest, Challenge, Commit, Consent, DecodeError, Hello, Lease,
    LeaseRequest, Message, NoWorkReason, Outcome, Ping, Preset, RefusalCode, RejectReason, Release,
    ReleaseReason, RevokeReason, Task, Withdraw, cell,
};
use potluck_types::limits::{MAX_LEASES_PER_SESSION, MAX_SLICE_DEPTH, MESSAGE_BURST, SESSION_TIMEOUT};
use potluck_types::{
    BlobHash, ConsentToken, DType, Duration, Fence, Instant, JobId, MatmulShape, SessionId, VolunteerKey,
};
use proptest::prelude::*;
use std::net::IpAddr;

mod admission;
mod halt;
mod identity;
mod pictures;
mod switches;
mod teams;

/// A relay, the time, and everything that came out of it so far and was not taken yet.
struct World {
    relay: Relay,
    now: Instant,
    out: Vec<Output>,
}

const S1: SessionId = SessionId(1);
const S2: SessionId = SessionId(2);
/// The public key of the tests' relays.
pub(crate) const RELAY: [u8; 32] = [6; 32];

/// Opens a session and says the Hello of a volunteer that holds its key.
pub(crate) fn greet(
    relay: &mut Relay,
    now: Instant,
    session: SessionId,
    address: Option<IpAddr>,
    key: u8,
) -> Vec<Output> {
    let mut out = relay.step(now, Input::Opened { session, address });
    // A relay that is full or shuts down asks for nothing.
    if let Some(challenge) = challenge_in(&out, session) {
        let hello = Hello::answer(&challenge, &VolunteerKey([key; 32]), String::new());
        out.extend(relay.step(now, Input::Message { session, message: hello.into() }));
    }
    out
}

fn challenge_in(out: &[Output], to: SessionId) -> Option<Challenge> {
    out.iter().rev().find_map(|output| match output {
        Output::Send { session, message: Message::Challenge(challenge) } if *session == to => {
            Some(*challenge)
        }
        _ => None,
    })
}

fn blob(tag: u32, bytes: u64) -> BlobRef {
    BlobRef { hash: BlobHash::of(&tag.to_le_bytes()), bytes }
}

fn job(id: u8, m: u32, k: u32, n: u32) -> JobSpec {
    let grid = Grid::new(MatmulShape { m, k, n }, DType::F32).unwrap();
    let panel = |tag: u32, (rows, depth): (std::ops::Range<u32>, std::ops::Range<u32>)| {
        blob(tag, rows.len() as u64 * depth.len() as u64 * 4)
    };
    let a = grid.a_panels().enumerate().map(|(i, p)| panel(u32::from(id) << 24 | i as u32, p)).collect();
    let bt = grid
        .bt_panels()
        .enumerate()
        .map(|(i, p)| panel(u32::from(id) << 24 | 1 << 20 | i as u32, p))
        .collect();
    JobSpec { id: JobId([id; 16]), name: format!("job {id}"), dtype: DType::F32, grid, a, bt }
}

impl World {
    fn new() -> Self {
        Self { relay: Relay::new(Config::new([7; 32], 1, RELAY)), now: Instant(0), out: Vec::new() }
    }

    fn input(&mut self, input: Input) {
        self.out.extend(self.relay.step(self.now, input));
    }

    fn say(&mut self, session: SessionId, message: impl Into<Message>) {
        self.input(Input::Message { session, message: message.into() });
    }

    /// Takes the first output that fits.
    fn take<T>(&mut self, mut fits: impl FnMut(&Output) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.out.iter().enumerate().find_map(|(at, output)| fits(output).map(|t| (at, t)))?;
        self.out.remove(at);
        Some(found)
    }

    fn heard<T>(&mut self, to: SessionId, mut fits: impl FnMut(&Message) -> Option<T>) -> Option<T> {
        self.take(|output| match output {
            Output::Send { session, message } if *session == to => fits(message),
            _ => None,
        })
    }

    /// A session that said hello and agreed.
    fn join(&mut self, session: SessionId, key: u8) -> ConsentToken {
        self.out.extend(greet(&mut self.relay, self.now, session, None, key));
        self.agree(session, Duration::from_secs(3600))
    }

    fn agree(&mut self, session: SessionId, valid_for: Duration) -> ConsentToken {
        self.say(
            session,
            Consent { text_version: 1, origin: "test".into(), preset: Preset::Full, valid_for },
        );
        self.heard(session, |m| match m {
            Message::ConsentGranted(granted) => Some(granted.token),
            _ => None,
        })
        .expect("consent is granted")
    }

    fn request(
        &mut self,
        session: SessionId,
        consent: ConsentToken,
        mflops: u32,
    ) -> Result<Lease, NoWorkReason> {
        let request = LeaseRequest {
            consent,
            backend: Backend::NativeCpu,
            mflops,
            memory_bytes: 1 << 30,
            held: Vec::new(),
            kept: Vec::new(),
        };
        self.say(session, request);
        self.heard(session, |m| match m {
            Message::Lease(lease) => Some(Ok(lease.clone())),
            Message::NoWork(none) => Some(Err(none.reason)),
            _ => None,
        })
        .expect("a request is answered")
    }

    fn result_of(lease: &Lease) -> Vec<u8> {
        let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
        vec![lease.lease.0 as u8; (task.rows * task.cols * 4) as usize]
    }

    fn commit(&mut self, session: SessionId, lease: &Lease, fence: Fence) {
        let bytes = Self::result_of(lease);
        let result = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
        self.say(
            session,
            Commit { lease: lease.lease, fence, result, compute_ms: 1, backend: Backend::NativeCpu },
        );
    }

    /// Commits and delivers; the ticket of the check that follows.
    fn deliver(&mut self, session: SessionId, lease: &Lease) -> Ticket {
        self.commit(session, lease, lease.fence);
        let bytes = Self::result_of(lease);
        while let Some(request) = self.heard(session, |m| match m {
            Message::BlobRequest(request) => Some(request.clone()),
            _ => None,
        }) {
            let data = bytes[request.offset as usize..][..request.bytes as usize].to_vec();
            self.say(session, BlobChunk { hash: request.hash, offset: request.offset, data });
        }
        self.take(|output| match output {
            Output::Check(check) => Some(check.ticket),
            _ => None,
        })
        .expect("a delivered result is checked")
    }

    fn accept(&mut self, session: SessionId, lease: &Lease) -> AcceptedTile {
        let ticket = self.deliver(session, lease);
        self.input(Input::Checked { ticket, verdict: CheckVerdict::Right { cleared_rows: 0 } });
        let tile = self.stored_tile().expect("a right result is stored");
        self.input(Input::Stored { ticket });
        assert_eq!(self.verdict(session), Some(Outcome::Accepted));
        tile
    }

    fn stored_tile(&mut self) -> Option<AcceptedTile> {
        self.take(|output| match output {
            Output::Store { tile, .. } => Some(tile.clone()),
            _ => None,
        })
    }

    fn verdict(&mut self, session: SessionId) -> Option<Outcome> {
        self.heard(session, |m| match m {
            Message::Verdict(verdict) => Some(verdict.outcome),
            _ => None,
        })
    }

    fn refusal(&mut self, session: SessionId) -> Option<RefusalCode> {
        self.heard(session, |m| match m {
            Message::Refusal(refusal) => Some(refusal.code),
            _ => None,
        })
    }

    fn completed(&mut self) -> Option<JobId> {
        self.take(|output| match output {
            Output::JobCompleted { job } => Some(*job),
            _ => None,
        })
    }

    fn wait(&mut self, span: Duration) {
        self.now += span;
        self.input(Input::Tick);
    }

    fn add(&mut self, job: JobSpec) {
        self.input(Input::JobAdded { job, accepted: Vec::new() });
    }
}

#[test]
fn a_job_is_computed_by_two_volunteers() {
    let mut world = World::new();
    world.add(job(1, 200, 70, 130));
    let tokens = [world.join(S1, 1), world.join(S2, 2)];
    let mut shards = 0;
    'job: loop {
        for (session, token) in [S1, S2].into_iter().zip(tokens) {
            let Ok(lease) = world.request(session, token, 1000) else { break 'job };
            world.accept(session, &lease);
            shards += 1;
        }
    }
    assert_eq!(world.completed(), Some(JobId([1; 16])));
    let progress = world.relay.progress(&JobId([1; 16])).unwrap();
    assert_eq!((progress.accepted, progress.free, progress.in_flight), (progress.units, 0, 0));
    assert_eq!(progress.shards_accepted, shards);
    assert!(shards > 2, "both had work: {shards} shards");
    assert_eq!(world.relay.totals().result_bytes, 0);
}

#[test]
fn no_lease_without_a_valid_consent() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let token = world.join(S1, 1);
    let none = Err(NoWorkReason::NoConsent);
    assert_eq!(world.request(S1, ConsentToken([0; 16]), 1000), none);
    world.say(S1, Withdraw {});
    assert_eq!(world.request(S1, token, 1000), none);
    let token = world.agree(S1, Duration::from_secs(5));
    world.now += Duration::from_secs(5);
    assert_eq!(world.request(S1, token, 1000), none);
    let other = world.join(S2, 2);
    assert_eq!(world.request(S1, other, 1000), none, "a token belongs to its session");
}

#[test]
fn withdrawal_gives_leases_back_and_their_results_count_no_more() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let token = world.join(S1, 1);
    let lease = world.request(S1, token, 1000).unwrap();
    world.say(S1, Withdraw {});
    world.commit(S1, &lease, lease.fence);
    assert_eq!(world.verdict(S1), Some(Outcome::Late));
    assert_eq!(world.relay.progress(&JobId([1; 16])).unwrap().in_flight, 0);
}

#[test]
fn an_old_fence_and_somebody_elses_lease_are_late() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let (one, two) = (world.join(S1, 1), world.join(S2, 2));
    let lease = world.request(S1, one, 1000).unwrap();
    world.commit(S1, &lease, Fence(lease.fence.0 - 1));
    assert_eq!(world.verdict(S1), Some(Outcome::Late));
    world.commit(S2, &lease, lease.fence);
    assert_eq!(world.verdict(S2), Some(Outcome::Late));
    // The deadline passes: the shard goes to another, and the first comes too late.
    world.wait(Duration::from_secs(11));
    let revoked = world.heard(S1, |m| match m {
        Message::Revoke(revoke) => Some(revoke.reason),
        _ => None,
    });
    assert_eq!(revoked, Some(RevokeReason::DeadlinePassed));
    world.request(S2, two, 1000).unwrap();
    world.commit(S1, &lease, lease.fence);
    assert_eq!(world.verdict(S1), Some(Outcome::Late));
}

#[test]
fn a_wrong_result_is_leased_again_and_the_liar_waits() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let token = world.join(S1, 1);
    for round in 0..3_u64 {
        let lease = world.request(S1, token, 1000).unwrap();
        let ticket = world.deliver(S1, &lease);
        let verdict = CheckVerdict::Wrong(RejectReason::WrongProduct);
        world.input(Input::Checked { ticket, verdict });
        assert_eq!(world.verdict(S1), Some(Outcome::Rejected(RejectReason::WrongProduct)));
        assert_eq!(world.relay.progress(&JobId([1; 16])).unwrap().in_flight, 0);
        if round < 2 {
            assert_eq!(world.request(S1, token, 1000), Err(NoWorkReason::CoolingDown));
        }
        world.now += Duration::from_secs(if round < 2 { 5 << round } else { 0 });
    }
    world.say(
        S1,
        LeaseRequest {
            consent: token,
            backend: Backend::WebGpu,
            mflops: 1,
            memory_bytes: 0,
            held: vec![],
            kept: Vec::new(),
        },
    );
    assert_eq!(world.refusal(S1), Some(RefusalCode::NotTrusted));
    // It comes back under the same key, and has to wait still.
    world.out.extend(greet(&mut world.relay, world.now, S2, None, 1));
    assert_eq!(world.refusal(S2), Some(RefusalCode::NotTrusted));
}

#[test]
fn a_result_of_the_wrong_length_is_rejected_before_its_bytes() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let token = world.join(S1, 1);
    let lease = world.request(S1, token, 1000).unwrap();
    let result = blob(0, 3);
    let commit =
        Commit { lease: lease.lease, fence: lease.fence, result, compute_ms: 0, backend: Backend::WebGpu };
    world.say(S1, commit);
    assert_eq!(world.verdict(S1), Some(Outcome::Rejected(RejectReason::WrongLength)));
}

#[test]
fn a_failed_store_is_leased_again_without_blame() {
    let mut world = World::new();
    world.add(job(1, 32, 32, 32));
    let token = world.join(S1, 1);
    let lease = world.request(S1, token, 1000).unwrap();
    let ticket = world.deliver(S1, &lease);
    world.input(Input::Checked { ticket, verdict: CheckVerdict::Right { cleared_rows: 0 } });
    world.input(Input::StoreFailed { ticket });
    assert_eq!(world.verdict(S1), Some(Outcome::Superseded));
    let lease = world.request(S1, token, 1000).unwrap();
    world.accept(S1, &lease);
    assert!(world.completed().is_some());
}

#[test]
fn at_the_tail_a_slow_shard_is_copied_and_the_first_result_wins() {
    let mut world = World::new();
    world.add(job(1, 32, 2048, 32));
    let (slow, fast) = (world.join(S1, 1), world.join(S2, 2));
    let first = world.request(S1, slow, 1).unwrap();
    let copy = world.request(S2, fast, 100_000).unwrap();
    assert_eq!((first.job, first.shard), (copy.job, copy.shard));
    assert!(copy.fence > first.fence);
    let third = world.join(SessionId(3), 3);
    assert_eq!(world.request(SessionId(3), third, 100_000), Err(NoWorkReason::Idle), "one copy is enough");
    world.accept(S2, &copy);
    let revoked = world.heard(S1, |m| match m {
        Message::Revoke(revoke) => Some(revoke.reason),
        _ => None,
    });
    assert_eq!(revoked, Some(RevokeReason::Superseded));
    assert!(world.completed().is_some());
    world.commit(S1, &first, first.fence);
    assert_eq!(world.verdict(S1), Some(Outcome::Late));
}

#[test]
fn a_restart_takes_up_what_was_accepted_and_old_fences_are_dead() {
    let mut world = World::new();
    world.add(job(1, 128, 64, 128));
    let token = world.join(S1, 1);
    let lease = world.request(S1, token, 1000).unwrap();
    let tile = world.accept(S1, &lease);
    let old = world.request(S1, token, 1000).unwrap();

    let mut world =
        World { relay: Relay::new(Config::new([8; 32], 2, RELAY)), now: Instant(0), out: Vec::new() };
    world.input(Input::JobAdded { job: job(1, 128, 64, 128), accepted: vec![tile.clone(), tile.clone()] });
    let progress = world.relay.progress(&JobId([1; 16])).unwrap();
    assert!(progress.accepted > 0 && progress.accepted + progress.free == progress.units);
    let token = world.join(S1, 1);
    world.commit(S1, &old, old.fence);
    assert_eq!(world.verdict(S1), Some(Outcome::Late));
    let mut tiles = vec![tile];
    while let Ok(lease) = world.request(S1, token, 1000) {
        assert!(lease.fence.0 >> 32 == 2 && lease.shard > tiles[0].shard);
        tiles.push(world.accept(S1, &lease));
    }
    assert!(world.completed().is_some());
    let area: u64 = tiles.iter().map(|t| u64::from(t.tile.shape().m) * u64::from(t.tile.shape().n)).sum();
    assert_eq!(area, 128 * 128, "the tiles cover the product once");
}

#[test]
fn jobs_share_volunteers_fairly() {
    let mut world = World::new();
    world.add(job(1, 1024, 64, 1024));
    world.add(job(2, 1024, 64, 1024));
    let token = world.join(S1, 1);
    let mut flops = [0_u64; 2];
    for _ in 0..20 {
        let lease = world.request(S1, token, 2).unwrap();
        let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
        flops[usize::from(lease.job.0[0]) - 1] += u64::from(task.rows * task.cols);
        // As long as such a device takes: the speed that it claims is the speed that is measured.
        world.now += Duration::from_secs(4);
        world.accept(S1, &lease);
    }
    assert!(flops[0].abs_diff(flops[1]) * 4 <= flops[0] + flops[1], "{flops:?}");
}

#[test]
fn shards_prefer_inputs_that_the_volunteer_holds() {
    let mut world = World::new();
    let spec = job(1, 512, 64, 512);
    world.add(spec.clone());
    let token = world.join(S1, 1);
    let (row, col) = (&spec.a[5], &spec.bt[6]);
    let held = vec![row.hash, col.hash];
    world.say(
        S1,
        LeaseRequest {
            consent: token,
            backend: Backend::WebGpu,
            mflops: 1,
            memory_bytes: 1 << 20,
            held,
            kept: Vec::new(),
        },
    );
    let lease = world
        .heard(S1, |m| match m {
            Message::Lease(lease) => Some(lease.clone()),
            _ => None,
        })
        .unwrap();
    let Task::Matmul(task) = lease.task else { unreachable!("no run was added") };
    assert!(task.a.contains(row) && task.bt.contains(col));
}

#[test]
fn slow_volunteers_and_newcomers_get_smaller_shards() {
    let mut world = World::new();
    world.add(job(1, 4096, 512, 4096));
    let area = |lease: &Lease| {
        let Task::Matmul(task) = &lease.task else { unreachable!("no run was added") };
        u64::from(task.rows) * u64::from(task.cols)
    };
    let (one, two) = (world.join(S1, 1), world.join(S2, 2));
    let slow = world.request(S1, one, 100).unwrap();
    let fast = world.request(S2, two, 2_000).unwrap();
    assert!(area(&slow) < area(&fast), "{} {}", area(&slow), area(&fast));
    world.accept(S2, &fast);
    world.input(Input::VolunteerKnown {
        volunteer: VolunteerKey([3; 32]).id(),
        record: Record { accepted: 9, rejected: 0 },
    });
    let three = world.join(SessionId(3), 3);
    let known = world.request(SessionId(3), three, 2_000).unwrap();
    assert!(area(&known) > area(&fast), "{} {}", area(&known), area(&fast));
}

#[test]
fn hostile_sessions_are_refused_with_a_reason() {
    let check = |expected: RefusalCode, attack: &dyn Fn(&mut World)| {
        let mut world = World::new();
        world.add(job(1, 64, 64, 64));
        world.join(S1, 1);
        let honest = world.join(S2, 2);
        attack(&mut world);
        assert_eq!(world.refusal(S1), Some(expected));
        assert!(world.out.contains(&Output::Close { session: S1 }));
        assert!(world.request(S2, honest, 1000).is_ok(), "the others go on");
    };
    check(RefusalCode::Limit, &|world| {
        for nonce in 0..=MESSAGE_BURST {
            world.say(S1, Ping { nonce });
        }
    });
    check(RefusalCode::Limit, &|world| {
        for _ in 0..=MESSAGE_BURST {
            world.say(S1, BlobChunk { hash: BlobHash([0; 32]), offset: 0, data: vec![0; 9] });
        }
    });
    check(RefusalCode::Version, &|world| {
        world
            .input(Input::Undecodable { session: S1, error: DecodeError::UnsupportedVersion { version: 9 } });
    });
    check(RefusalCode::UnknownMessage, &|world| {
        world.input(Input::Undecodable {
            session: S1,
            error: DecodeError::UnknownKind { kind: 9, version: 1 },
        });
    });
    check(RefusalCode::OutOfOrder, &|world| {
        let challenge = challenge_in(&world.out, S1).unwrap();
        world.say(S1, Hello::answer(&challenge, &VolunteerKey([1; 32]), String::new()));
    });
    check(RefusalCode::TimedOut, &|world| {
        world.now += Duration(SESSION_TIMEOUT.0 - 1000);
        world.say(S2, Ping { nonce: 0 });
        world.wait(Duration(1000));
        world.wait(Duration(1000));
    });
}

#[test]
fn inputs_go_only_to_those_who_lease_them() {
    let mut world = World::new();
    let spec = job(1, 64, 64, 64);
    world.add(spec.clone());
    let (one, _) = (world.join(S1, 1), world.join(S2, 2));
    let lease = world.request(S1, one, 1000).unwrap();
    let Task::Matmul(task) = lease.task else { unreachable!("no run was added") };
    let panel = task.a[0];
    let request = BlobRequest { hash: panel.hash, offset: 0, bytes: panel.bytes as u32 };
    world.say(S1, request.clone());
    assert!(world.out.contains(&Output::SendChunk { session: S1, request: request.clone() }));
    world.say(S2, request);
    assert!(world.heard(S2, |m| matches!(m, Message::BlobMissing(_)).then_some(())).is_some());
    world.say(S1, BlobRequest { hash: panel.hash, offset: panel.bytes, bytes: 1 });
    assert_eq!(world.refusal(S1), Some(RefusalCode::OutOfOrder));
}

#[test]
fn a_session_holds_few_leases_and_a_released_one_is_free_again() {
    let mut world = World::new();
    world.add(job(1, 512, 64, 512));
    let token = world.join(S1, 1);
    let leases: Vec<_> = (0..MAX_LEASES_PER_SESSION).map(|_| world.request(S1, token, 10).unwrap()).collect();
    assert_eq!(world.request(S1, token, 10), Err(NoWorkReason::EnoughLeases));
    world.say(S1, Release { lease: leases[0].lease, reason: ReleaseReason::DeviceFailed });
    assert!(world.request(S1, token, 10).is_ok());
}

#[test]
fn cancellation_takes_leases_back_and_results_in_flight_are_dropped() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let (one, two) = (world.join(S1, 1), world.join(S2, 2));
    let first = world.request(S1, one, 1000).unwrap();
    world.request(S2, two, 1000).unwrap();
    let ticket = world.deliver(S1, &first);
    world.input(Input::JobCanceled { job: JobId([1; 16]) });
    let revoked = world.heard(S2, |m| match m {
        Message::Revoke(revoke) => Some(revoke.reason),
        _ => None,
    });
    assert_eq!(revoked, Some(RevokeReason::JobCanceled));
    world.input(Input::Checked { ticket, verdict: CheckVerdict::Right { cleared_rows: 0 } });
    assert_eq!(world.stored_tile(), None);
    assert_eq!(world.relay.totals().result_bytes, 0);
    assert_eq!(world.request(S1, one, 1000), Err(NoWorkReason::Idle));
}

fn last_picture(world: &mut World, session: SessionId) -> Vec<u8> {
    let mut cells = Vec::new();
    while let Some(picture) = world.heard(session, |m| match m {
        Message::Picture(picture) => Some(picture.cells.clone()),
        _ => None,
    }) {
        cells = picture;
    }
    cells
}

#[test]
fn pictures_light_ones_own_tiles() {
    let mut world = World::new();
    world.add(job(1, 64, 64, 64));
    let (one, _) = (world.join(S1, 1), world.join(S2, 2));
    let lease = world.request(S1, one, 1000).unwrap();
    world.accept(S1, &lease);
    world.wait(Duration(1000));
    assert!(last_picture(&mut world, S1).contains(&cell::YOURS_ACCEPTED));
    let other = last_picture(&mut world, S2);
    assert!(other.contains(&cell::ACCEPTED) && !other.contains(&cell::YOURS_ACCEPTED));
}

#[test]
fn pictures_show_a_tile_with_one_of_its_slices_as_begun() {
    let mut world = World::new();
    world.add(job(1, 64, 2 * MAX_SLICE_DEPTH, 64));
    let (one, _) = (world.join(S1, 1), world.join(S2, 2));
    let lease = world.request(S1, one, 1000).unwrap();
    world.accept(S1, &lease);
    world.wait(Duration(1000));
    let mine = last_picture(&mut world, S1);
    assert!(mine.contains(&cell::YOURS_LEASED) && !mine.contains(&cell::YOURS_ACCEPTED), "{mine:?}");
    let other = last_picture(&mut world, S2);
    assert!(other.contains(&cell::LEASED) && !other.contains(&cell::ACCEPTED), "{other:?}");
}

#[test]
fn grids_cover_any_product() {
    for (m, k, n) in [(1, 1, 1), (1009, 517, 263), (1797, 64, 1797), (1, 20_000, 1), (8192, 512, 8192)] {
        let grid = Grid::new(MatmulShape { m, k, n }, DType::F32).unwrap();
        let rows: u64 = grid.a_panels().map(|(r, d)| r.len() as u64 * d.len() as u64).sum();
        let cols: u64 = grid.bt_panels().map(|(c, d)| c.len() as u64 * d.len() as u64).sum();
        assert_eq!((rows, cols), (u64::from(m) * u64::from(k), u64::from(n) * u64::from(k)));
    }
    let shape = |m, k, n| Grid::new(MatmulShape { m, k, n }, DType::Int8);
    assert!(shape(0, 1, 1).is_err() && shape(u32::MAX, 1, 1).is_err());
    assert!(shape(1 << 20, 1 << 20, 1 << 20).is_err());
    assert!(shape(65_536, 64, 65_536).is_ok());
}

/// What the model may do in one step.
#[derive(Debug, Clone)]
enum Op {
    Open(u8),
    Close(u8),
    Request(u8, u32),
    Commit(u8, bool),
    Answer(u8),
    Check(bool),
    Store(bool),
    Withdraw(u8),
    Agree(u8),
    Cancel,
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..4u8).prop_map(Op::Open),
        (0..4u8).prop_map(Op::Close),
        (0..4u8, 1..100_000u32).prop_map(|(s, f)| Op::Request(s, f)),
        (0..4u8, 1..100_000u32).prop_map(|(s, f)| Op::Request(s, f)),
        (0..4u8, any::<bool>()).prop_map(|(s, f)| Op::Commit(s, f)),
        (0..4u8).prop_map(Op::Answer),
        (0..4u8).prop_map(Op::Answer),
        any::<bool>().prop_map(Op::Check),
        prop::bool::weighted(0.8).prop_map(Op::Store),
        (0..4u8).prop_map(Op::Withdraw),
        (0..4u8).prop_map(Op::Agree),
        Just(Op::Cancel),
        (0..20_000u16).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever happens in whatever order: stored tiles never overlap, units are always accounted for, result
    /// memory returns to zero, and the number of leases stays within its limit.
    #[test]
    fn units_are_always_accounted_for(ops in prop::collection::vec(op(), 1..300)) {
        let mut world = World::new();
        world.add(job(1, 100, 40, 100));
        world.add(job(2, 300, 40, 64));
        let mut open: std::collections::BTreeMap<u8, (SessionId, ConsentToken, Vec<Lease>)> = std::collections::BTreeMap::default();
        let mut next = 10;
        let (mut checks, mut stores) = (Vec::new(), Vec::new());
        let mut durable: Vec<AcceptedTile> = Vec::new();
        for op in ops {
            match op {
                Op::Open(s) if !open.contains_key(&s) => {
                    next += 1;
                    let id = SessionId(next);
                    let token = world.join(id, s);
                    open.insert(s, (id, token, Vec::new()));
                }
                Op::Close(s) => {
                    if let Some((id, ..)) = open.remove(&s) {
                        world.input(Input::Closed { session: id });
                    }
                }
                Op::Request(s, mflops) => {
                    if let Some((id, token, leases)) = open.get_mut(&s) {
                        let (id, token) = (*id, *token);
                        let request =
                            LeaseRequest { consent: token, backend: Backend::WasmSimd, mflops, memory_bytes: 1 << 24, held: vec![], kept: Vec::new() };
                        world.say(id, request);
                        leases.extend(world.heard(id, |m| match m {
                            Message::Lease(lease) => Some(lease.clone()),
                            _ => None,
                        }));
                    }
                }
                Op::Commit(s, honest) => {
                    if let Some((id, _, leases)) = open.get_mut(&s) && !leases.is_empty() {
                        let (id, lease) = (*id, leases.remove(0));
                        world.commit(id, &lease, if honest { lease.fence } else { Fence(lease.fence.0 ^ 1) });
                    }
                }
                Op::Answer(s) => {
                    if let Some(&(id, ..)) = open.get(&s)
                        && let Some(request) = world.heard(id, |m| match m {
                            Message::BlobRequest(request) => Some(request.clone()),
                            _ => None,
                        })
                    {
                        world.say(id, BlobChunk { hash: request.hash, offset: request.offset, data: vec![0; request.bytes as usize] });
                    }
                }
                Op::Check(right) => {
                    checks.extend(world.take(|o| match o { Output::Check(check) => Some(check.ticket), _ => None }));
                    if let Some(ticket) = checks.pop() {
                        let verdict = if right { CheckVerdict::Right { cleared_rows: 9 } } else { CheckVerdict::Wrong(RejectReason::WrongHash) };
                        world.input(Input::Checked { ticket, verdict });
                    }
                }
                Op::Store(works) => {
                    stores.extend(world.take(|o| match o { Output::Store { ticket, tile, .. } => Some((*ticket, tile.clone())), _ => None }));
                    if let Some((ticket, tile)) = stores.pop() {
                        if works {
                            for other in durable.iter().filter(|other| other.job == tile.job) {
                                let apart = |x: &std::ops::Range<u32>, y: &std::ops::Range<u32>| x.end <= y.start || y.end <= x.start;
                                prop_assert!(
                                    apart(&other.tile.rows, &tile.tile.rows) || apart(&other.tile.cols, &tile.tile.cols),
                                    "{other:?} and {tile:?} overlap"
                                );
                            }
                            durable.push(tile);
                            world.input(Input::Stored { ticket });
                        } else {
                            world.input(Input::StoreFailed { ticket });
                        }
                    }
                }
                Op::Withdraw(s) => {
                    if let Some((id, ..)) = open.get(&s) {
                        world.say(*id, Withdraw {});
                    }
                }
                Op::Agree(s) => {
                    if let Some((id, token, _)) = open.get_mut(&s)
                        && world.relay.sessions.contains_key(id)
                    {
                        let id = *id;
                        *token = world.agree(id, Duration(10_000));
                    }
                }
                Op::Cancel => world.input(Input::JobCanceled { job: JobId([2; 16]) }),
                Op::Wait(ms) => world.wait(Duration(u64::from(ms))),
                Op::Open(_) => {}
            }
            open.retain(|_, (id, ..)| world.relay.sessions.contains_key(id));
            for session in world.relay.sessions.values() {
                prop_assert!(session.leases.len() <= MAX_LEASES_PER_SESSION);
            }
            for id in [JobId([1; 16]), JobId([2; 16])] {
                if let Some(p) = world.relay.progress(&id) {
                    prop_assert_eq!(p.free + p.in_flight + p.accepted, p.units);
                }
            }
        }
        // Everybody leaves and whatever is under way ends: nothing stays in flight.
        for (_, (id, ..)) in open {
            world.input(Input::Closed { session: id });
        }
        checks.extend(std::iter::from_fn(|| world.take(|o| match o { Output::Check(check) => Some(check.ticket), _ => None })));
        for ticket in checks {
            world.input(Input::Checked { ticket, verdict: CheckVerdict::Undecided });
        }
        stores.extend(std::iter::from_fn(|| world.take(|o| match o { Output::Store { ticket, tile, .. } => Some((*ticket, tile.clone())), _ => None })));
        for (ticket, _) in stores {
            world.input(Input::StoreFailed { ticket });
        }
        prop_assert_eq!(world.relay.totals().result_bytes, 0);
        prop_assert!(world.relay.leases.is_empty() && world.relay.delivered.is_empty() && world.relay.sessions.is_empty());
        for id in [JobId([1; 16]), JobId([2; 16])] {
            if let Some(job) = world.relay.jobs.get(&id) {
                prop_assert_eq!(job.progress().in_flight, 0);
                prop_assert!(job.shards.is_empty() && job.holders.is_empty());
            }
        }
    }
}
