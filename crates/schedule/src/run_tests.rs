//! Training rounds driven by hand: one test per rule, and a model that does anything in any order.

use crate::grid::Grid;
use crate::io::{Input, JobSpec, Output, Ticket};
use crate::policy::{EXCUSED, GATHER, GRACE, MAX_UPDATES_IN_MEMORY_BYTES};
use crate::relay::{Config, Relay};
use crate::run::{
    AcceptedUpdate, AuditPolicy, CheckUpdate, PauseReason, RunError, RunInput, RunOutput, RunPhase,
    RunProgress, RunSpec, SparsePolicy, UpdateVerdict,
};
use crate::tests::{RELAY, greet};
use potluck_proto::{
    Backend, BlobChunk, BlobRef, BlobRequest, Commit, Consent, DataSetSpec, Kept, LearningRate, Lease,
    LeaseRequest, Message, ModelSizes, NoWorkReason, Outcome, Ping, Preset, RejectReason, Release,
    ReleaseReason, RevokeReason, Task, TokenBlock, TrainTask, UpdateCodec, Withdraw, cell,
};
use potluck_types::limits::{MAX_LEASES_PER_SESSION, MAX_RESULTS_IN_MEMORY_BYTES};
use potluck_types::{
    BlobHash, ConsentToken, DType, Duration, Fence, Instant, JobId, MatmulShape, SessionId, VolunteerKey,
};
use std::collections::{BTreeMap, BTreeSet};

mod evals;
mod model;
mod rules;
mod streaks;

const RUN: JobId = JobId([9; 16]);
const STEPS: u32 = 4;
const UPDATE: u64 = 600_000;
const SPARSE: u64 = 40_000;
const STREAK: u64 = 10;

fn blob(tag: &str, bytes: u64) -> BlobRef {
    BlobRef { hash: BlobHash::of(tag.as_bytes()), bytes }
}

fn spec(rounds: u64) -> RunSpec {
    RunSpec {
        id: RUN,
        name: "bard".into(),
        model: ModelSizes { vocabulary: 65, context: 64, layers: 3, heads: 4, width: 64, bias: false }.into(),
        rounds,
        steps: STEPS,
        sequences: 8,
        length: 64,
        rate: LearningRate {
            peak_nano: 2_000_000,
            least_nano: 100_000,
            warmup: 10,
            steps: 600,
            fresh_warmup: 4,
        },
        seed: [3; 32],
        blocks_dealt: 0,
        codec: UpdateCodec::Int4,
        update_bytes: UPDATE,
        streak: STREAK,
        sparse: None,
        memory_bytes: 30 << 20,
        flops: 1_097_472 * 512 * u64::from(STEPS),
        data: DataSetSpec { tokens: 1_000_000, tree: [4; 32] },
        min_workers: 3,
        max_workers: 5,
        short_rounds: false,
        audit: AuditPolicy::default(),
    }
}

fn task(spec: &RunSpec, round: u64, worker: u32) -> TrainTask {
    let block =
        TokenBlock { index: worker, blob: blob(&format!("block {worker}"), 32_768), proof: vec![[1; 32]] };
    TrainTask {
        model: spec.model,
        round,
        worker,
        steps: spec.steps,
        steps_before: round * u64::from(spec.steps),
        sequences: spec.sequences,
        length: spec.length,
        rate: spec.rate,
        seed: spec.seed,
        blocks_dealt: spec.blocks_dealt,
        codec: spec.codec,
        streak: Vec::new(),
        data: spec.data,
        blocks: vec![block],
        checkpoint_round: 0,
        checkpoint_every: 20,
        checkpoint: blob("checkpoint", 300_000),
        outer_steps: (0..round).map(|round| blob(&format!("step {round}"), 150_000)).collect(),
        parameters: BlobHash([5; 32]),
    }
}

fn matrix_job(id: u8) -> JobSpec {
    let grid = Grid::new(MatmulShape { m: 1024, k: 64, n: 1024 }, DType::F32).unwrap();
    let panel = |(rows, depth): (std::ops::Range<u32>, std::ops::Range<u32>)| {
        blob("panel", rows.len() as u64 * depth.len() as u64 * 4)
    };
    let (a, bt) = (grid.a_panels().map(panel).collect(), grid.bt_panels().map(panel).collect());
    JobSpec { id: JobId([id; 16]), name: String::new(), dtype: DType::F32, grid, a, bt }
}

/// A relay, the time, volunteers by number (session and key), and what came out and was not taken yet.
struct World {
    relay: Relay,
    now: Instant,
    out: Vec<Output>,
    tokens: BTreeMap<u64, ConsentToken>,
    /// After which rounds a session says that it can go on.
    kept: BTreeMap<u64, Vec<Kept>>,
    /// The last update of a session that counted.
    results: BTreeMap<u64, BlobHash>,
}

fn result_of(lease: &Lease, salt: u8) -> Vec<u8> {
    let len = match &lease.task {
        Task::Matmul(task) => u64::from(task.rows) * u64::from(task.cols) * 4,
        Task::Train(task) if task.codec == UpdateCodec::TopK => u64::from(task.steps) * 4 + SPARSE,
        Task::Train(task) => u64::from(task.steps) * 4 + UPDATE,
        Task::Eval(task) => task.result_bytes.into(),
    };
    vec![lease.lease.0 as u8 ^ salt; len as usize]
}

fn claim_of(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(bytes), bytes: bytes.len() as u64 }
}

impl World {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(incarnation: u32) -> Self {
        let relay = Relay::new(Config::new([7; 32], incarnation, RELAY));
        Self {
            relay,
            now: Instant(0),
            out: Vec::new(),
            tokens: BTreeMap::new(),
            kept: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    /// A run that prepared its first round, and volunteers 1 to `volunteers`.
    fn with(spec: &RunSpec, volunteers: u64) -> Self {
        let mut world = Self::new();
        world.add(spec, 0);
        for volunteer in 1..=volunteers {
            world.join(volunteer, volunteer as u8);
        }
        world
    }

    fn input(&mut self, input: Input) {
        self.out.extend(self.relay.step(self.now, input));
    }

    fn run(&mut self, input: RunInput) {
        self.input(Input::Run(input));
    }

    fn add(&mut self, spec: &RunSpec, next_round: u64) {
        self.run(RunInput::Added { spec: Box::new(spec.clone()), next_round });
        self.prepare(spec);
    }

    /// Answers `PrepareRound`, if it came.
    fn prepare(&mut self, spec: &RunSpec) -> Option<u64> {
        let id = spec.id;
        let (round, workers) = self.take(|output| match output {
            Output::Run(RunOutput::PrepareRound { run, round, workers }) if *run == id => {
                Some((*round, *workers))
            }
            _ => None,
        })?;
        let tasks = (0..workers).map(|worker| task(spec, round, worker)).collect();
        self.run(RunInput::Ready { run: id, round, tasks });
        Some(round)
    }

    fn take<T>(&mut self, mut fits: impl FnMut(&Output) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.out.iter().enumerate().find_map(|(at, output)| fits(output).map(|t| (at, t)))?;
        self.out.remove(at);
        Some(found)
    }

    fn heard<T>(&mut self, to: u64, mut fits: impl FnMut(&Message) -> Option<T>) -> Option<T> {
        self.take(|output| match output {
            Output::Send { session, message } if session.0 == to => fits(message),
            _ => None,
        })
    }

    fn say(&mut self, from: u64, message: impl Into<Message>) {
        self.input(Input::Message { session: SessionId(from), message: message.into() });
    }

    fn join(&mut self, session: u64, key: u8) {
        self.greet(session, key);
        self.agree(session);
    }

    fn greet(&mut self, session: u64, key: u8) {
        self.out.extend(greet(&mut self.relay, self.now, SessionId(session), None, key));
    }

    fn agree(&mut self, session: u64) {
        self.agree_on(session, "test");
    }

    fn agree_on(&mut self, session: u64, origin: &str) {
        let valid_for = Duration::from_secs(36_000);
        self.say(
            session,
            Consent { text_version: 1, origin: origin.into(), preset: Preset::Full, valid_for },
        );
        let token = self.heard(session, |m| match m {
            Message::ConsentGranted(granted) => Some(granted.token),
            _ => None,
        });
        self.tokens.insert(session, token.expect("consent is granted"));
    }

    fn lease_request(&self, session: u64, mflops: u32, memory_bytes: u64) -> LeaseRequest {
        LeaseRequest {
            consent: self.tokens[&session],
            backend: Backend::WebGpu,
            mflops,
            memory_bytes,
            held: Vec::new(),
            kept: self.kept.get(&session).cloned().unwrap_or_default(),
        }
    }

    fn request_with(&mut self, session: u64, mflops: u32, memory_bytes: u64) -> Result<Lease, NoWorkReason> {
        self.say(session, self.lease_request(session, mflops, memory_bytes));
        self.answer(session).expect("a request is answered")
    }

    fn answer(&mut self, session: u64) -> Option<Result<Lease, NoWorkReason>> {
        self.heard(session, |m| match m {
            Message::Lease(lease) => Some(Ok(lease.clone())),
            Message::NoWork(none) => Some(Err(none.reason)),
            _ => None,
        })
    }

    fn request(&mut self, session: u64) -> Result<Lease, NoWorkReason> {
        self.request_with(session, 10_000, 1 << 30)
    }

    /// Everybody asks until nobody gets a slot any more; who got which.
    fn deal(&mut self, sessions: &[u64]) -> BTreeMap<u64, Lease> {
        let mut leases = BTreeMap::new();
        for _ in 0..2 {
            for &session in sessions {
                if !leases.contains_key(&session)
                    && let Ok(lease) = self.request(session)
                {
                    assert!(matches!(lease.task, Task::Train(_)));
                    leases.insert(session, lease);
                }
            }
        }
        leases
    }

    fn commit(&mut self, session: u64, lease: &Lease, result: BlobRef) {
        let (lease, fence) = (lease.lease, lease.fence);
        self.say(session, Commit { lease, fence, result, compute_ms: 1, backend: Backend::WebGpu });
    }

    fn send_bytes(&mut self, session: u64, bytes: &[u8]) {
        while let Some(request) = self.heard(session, |m| match m {
            Message::BlobRequest(request) => Some(request.clone()),
            _ => None,
        }) {
            let data = bytes[request.offset as usize..][..request.bytes as usize].to_vec();
            self.say(session, BlobChunk { hash: request.hash, offset: request.offset, data });
        }
    }

    fn deliver(&mut self, session: u64, lease: &Lease) {
        let bytes = result_of(lease, 0);
        self.commit(session, lease, claim_of(&bytes));
        self.send_bytes(session, &bytes);
    }

    fn check(&mut self) -> Option<CheckUpdate> {
        self.take(|output| match output {
            Output::Run(RunOutput::CheckUpdate(check)) => Some(check.clone()),
            _ => None,
        })
    }

    fn checks(&mut self) -> Vec<CheckUpdate> {
        std::iter::from_fn(|| self.check()).collect()
    }

    fn checked(&mut self, ticket: Ticket, verdict: UpdateVerdict) {
        self.run(RunInput::Checked { ticket, verdict });
    }

    fn all_right(&mut self) -> Vec<CheckUpdate> {
        let checks = self.checks();
        for check in &checks {
            self.checked(check.ticket, UpdateVerdict::Right);
        }
        checks
    }

    fn closing(&mut self) -> Option<(u64, Vec<AcceptedUpdate>)> {
        self.take(|output| match output {
            Output::Run(RunOutput::CloseRound { round, updates, .. }) => Some((*round, updates.clone())),
            _ => None,
        })
    }

    fn verdict(&mut self, session: u64) -> Option<Outcome> {
        self.heard(session, |m| match m {
            Message::Verdict(verdict) => Some(verdict.outcome),
            _ => None,
        })
    }

    fn revoked(&mut self, session: u64) -> Option<RevokeReason> {
        self.heard(session, |m| match m {
            Message::Revoke(revoke) => Some(revoke.reason),
            _ => None,
        })
    }

    fn paused(&mut self) -> Option<PauseReason> {
        self.take(|output| match output {
            Output::Run(RunOutput::Paused { reason, .. }) => Some(reason.clone()),
            _ => None,
        })
    }

    fn progress(&self) -> RunProgress {
        self.relay.run_progress(&RUN).unwrap()
    }

    fn wait(&mut self, span: Duration) {
        self.now += span;
        self.input(Input::Tick);
    }

    /// The same, with sessions that are not silent meanwhile.
    fn wait_awake(&mut self, span: Duration, sessions: &[u64]) {
        for _ in 0..2 {
            self.wait(Duration(span.0 / 2));
            for session in sessions {
                self.say(*session, Ping { nonce: 0 });
            }
        }
    }

    /// A whole round of honest volunteers.
    fn round(&mut self, spec: &RunSpec, sessions: &[u64]) -> Vec<AcceptedUpdate> {
        for (session, lease) in self.deal(sessions) {
            self.deliver(session, &lease);
        }
        self.all_right();
        let (round, updates) = self.closing().expect("the round closes");
        self.run(RunInput::Stored { run: spec.id, round });
        for session in sessions {
            self.verdict(*session);
        }
        self.prepare(spec);
        updates
    }
}

#[test]
fn three_workers_train_for_three_rounds() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    for round in 0..3 {
        assert_eq!((world.progress().round, world.progress().phase), (round, RunPhase::Gathering));
        let leases = world.deal(&[1, 2, 3]);
        let workers: Vec<_> = leases.values().map(|lease| lease.shard).collect();
        assert_eq!(leases.len(), 3);
        assert_eq!(workers.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&0, &1, &2]));
        for (session, lease) in &leases {
            let Task::Train(task) = &lease.task else { unreachable!("only the run is there") };
            assert_eq!((task.round, task.worker), (round, lease.shard));
            let request = BlobRequest { hash: task.checkpoint.hash, offset: 0, bytes: 1000 };
            world.say(*session, request.clone());
            assert!(world.out.contains(&Output::SendChunk { session: SessionId(*session), request }));
            assert!(world.closing().is_none());
            world.deliver(*session, lease);
        }
        let checks = world.all_right();
        assert_eq!(checks.len(), 3);
        for check in &checks {
            assert!(check.audit, "the first five of a key are replayed");
            let bytes =
                leases.values().find(|lease| lease.shard == check.task.worker).map(|l| result_of(l, 0));
            assert_eq!(Some(check.result.as_ref()), bytes.as_ref());
        }
        let (closed, updates) = world.closing().unwrap();
        assert_eq!((closed, updates.len()), (round, 3));
        assert!(updates.iter().all(|update| update.audited && update.weight >= 500_000));
        assert_eq!(world.verdict(1), None, "nothing is accepted before it is durable");
        world.run(RunInput::Stored { run: RUN, round });
        for session in 1..=3 {
            assert_eq!(world.verdict(session), Some(Outcome::Accepted));
        }
        assert_eq!(world.relay.totals().result_bytes, 0);
        world.prepare(&spec);
    }
    assert!(world.out.contains(&Output::Run(RunOutput::Completed { run: RUN })));
    assert_eq!((world.progress().round, world.progress().accepted), (3, 9));
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
}

#[test]
fn a_round_waits_for_its_least_number_of_workers() {
    let spec = spec(1);
    let mut world = World::with(&spec, 2);
    assert!(world.deal(&[1, 2]).is_empty());
    assert_eq!(world.progress().asking, 2);
    // A second tab of the same key is no third worker.
    world.join(3, 2);
    world.wait(GATHER);
    assert!(world.deal(&[1, 2, 3]).is_empty());
    world.wait_awake(GRACE, &[1, 2, 3]);
    assert!(world.deal(&[1, 2, 3]).is_empty(), "the run does not allow short rounds");
    world.join(4, 4);
    assert_eq!(world.deal(&[1, 2, 3, 4]).into_keys().collect::<Vec<_>>(), [1, 2, 4]);
}

#[test]
fn after_a_time_of_grace_a_round_opens_short_if_it_may() {
    let spec = RunSpec { short_rounds: true, ..spec(1) };
    let mut world = World::with(&spec, 2);
    assert!(world.deal(&[1, 2]).is_empty());
    world.wait_awake(GRACE, &[1, 2]);
    let leases = world.deal(&[1, 2]);
    assert_eq!(leases.len(), 2);
    for (session, lease) in &leases {
        world.deliver(*session, lease);
    }
    world.all_right();
    assert_eq!(world.closing().map(|(_, updates)| updates.len()), Some(2));
}

#[test]
fn a_single_worker_may_train_alone() {
    let spec = RunSpec { min_workers: 1, ..spec(2) };
    let mut world = World::with(&spec, 1);
    assert_eq!(world.round(&spec, &[1]).len(), 1);
    assert_eq!(world.round(&spec, &[1]).len(), 1);
    assert!(world.out.contains(&Output::Run(RunOutput::Completed { run: RUN })));
}

#[test]
fn a_worker_dropped_mid_round_costs_only_its_share() {
    let spec = spec(2);
    let mut world = World::with(&spec, 4);
    let leases = world.deal(&[1, 2, 3, 4]);
    assert_eq!(leases.len(), 4);
    world.input(Input::Closed { session: SessionId(4) });
    for session in 1..=3 {
        world.deliver(session, &leases[&session]);
    }
    world.all_right();
    assert_eq!(world.closing().unwrap().1.len(), 3);
    assert_eq!(world.progress().leases_lost, 1);
}

#[test]
fn a_withdrawn_worker_frees_its_slot_for_whoever_joins() {
    let spec = spec(1);
    let mut world = World::with(&spec, 3);
    let leases = world.deal(&[1, 2, 3]);
    world.say(3, Withdraw {});
    assert_eq!(world.request(3), Err(NoWorkReason::NoConsent));
    world.join(4, 4);
    let joined = world.request(4).unwrap();
    assert_eq!(joined.shard, leases[&3].shard);
    assert!(joined.fence > leases[&3].fence);
    world.commit(3, &leases[&3], claim_of(&[]));
    assert_eq!(world.verdict(3), Some(Outcome::Late));
    world.deliver(4, &joined);
    world.deliver(1, &leases[&1]);
    world.deliver(2, &leases[&2]);
    let by: BTreeSet<_> = world.all_right().iter().map(|check| check.volunteer).collect();
    assert_eq!(by, [1, 2, 4].map(|key| VolunteerKey([key; 32]).id()).into());
    assert!(world.closing().is_some());
}

#[test]
fn slots_are_dealt_for_half_of_the_time_and_late_commits_are_late() {
    let spec = spec(1);
    let mut world = World::with(&spec, 4);
    let leases = world.deal(&[1, 2, 3, 4]);
    let deadline = leases[&1].deadline;
    for session in 1..=3 {
        world.deliver(session, &leases[&session]);
    }
    world.wait(Duration(deadline.0 / 2));
    world.join(5, 5);
    assert_eq!(world.request(5), Err(NoWorkReason::Idle));
    assert_eq!(world.progress().phase, RunPhase::Open, "the fourth may still commit");
    assert!(world.check().is_none());
    world.wait(Duration(deadline.0 - deadline.0 / 2));
    assert_eq!(world.revoked(4), Some(RevokeReason::DeadlinePassed));
    assert_eq!(world.progress().phase, RunPhase::Auditing);
    world.deliver(4, &leases[&4]);
    assert_eq!(world.verdict(4), Some(Outcome::Late));
    assert_eq!(world.relay.totals().rejected, 0);
    world.all_right();
    assert_eq!(world.closing().unwrap().1.len(), 3);
    world.run(RunInput::Stored { run: RUN, round: 0 });
    assert!(world.out.contains(&Output::Run(RunOutput::Completed { run: RUN })));
}

#[test]
fn who_joins_mid_run_works_in_the_next_round() {
    let spec = spec(2);
    let mut world = World::with(&spec, 3);
    let leases = world.deal(&[1, 2, 3]);
    for (session, lease) in &leases {
        world.deliver(*session, lease);
    }
    world.join(4, 4);
    assert_eq!(world.request(4), Err(NoWorkReason::Idle), "the commits are closed");
    world.all_right();
    world.run(RunInput::Stored { run: RUN, round: 0 });
    world.prepare(&spec);
    assert_eq!(world.deal(&[1, 2, 3, 4]).len(), 4);
}

#[test]
fn one_volunteer_holds_one_slot() {
    let mut world = World::with(&spec(1), 3);
    world.join(4, 1);
    let leases = world.deal(&[1, 2, 3]);
    assert_eq!(leases.len(), 3);
    assert_eq!(world.request(1), Err(NoWorkReason::Idle));
    assert_eq!(world.request(4), Err(NoWorkReason::Idle), "nor in another tab");
    world.deliver(1, &leases[&1]);
    assert_eq!(world.request(1), Err(NoWorkReason::Idle), "nor once it delivered");
}

#[test]
fn audits_are_drawn_after_the_commits_and_from_all_of_them() {
    // Keys that passed five replays: from then on some updates go unreplayed.
    let drawn = |last: u8| {
        let spec =
            RunSpec { min_workers: 1, audit: AuditPolicy { first: 1, ..AuditPolicy::default() }, ..spec(99) };
        let sessions: Vec<_> = (1..=5).collect();
        let mut world = World::with(&spec, 5);
        assert!(world.round(&spec, &sessions).iter().all(|update| update.audited));
        let mut pattern = Vec::new();
        for _ in 0..8 {
            let leases = world.deal(&sessions);
            for (session, lease) in &leases {
                assert!(world.check().is_none(), "no bytes are handed on before the last commit");
                let bytes = result_of(lease, if *session == 5 { last } else { 0 });
                world.commit(*session, lease, claim_of(&bytes));
                world.send_bytes(*session, &bytes);
            }
            // A commit cannot be changed any more, neither before nor after the draw.
            let other = claim_of(&result_of(&leases[&1], 77));
            world.commit(1, &leases[&1], other);
            assert_eq!(world.verdict(1), Some(Outcome::Late));
            let checks = world.all_right();
            let first = checks.iter().find(|check| check.task.worker == leases[&1].shard).unwrap();
            assert_eq!(first.claim, claim_of(&result_of(&leases[&1], 0)));
            pattern.extend(checks.iter().map(|check| check.audit));
            let (round, _) = world.closing().unwrap();
            world.run(RunInput::Stored { run: RUN, round });
            assert!(sessions.iter().all(|session| world.verdict(*session) == Some(Outcome::Accepted)));
            world.prepare(&spec);
        }
        pattern
    };
    let (one, same, other) = (drawn(0), drawn(0), drawn(1));
    assert_eq!(one, same, "the draw is a function of seed and commits");
    assert_ne!(one, other, "every commit counts in it");
    let audits = one.iter().filter(|audit| **audit).count();
    assert!((1..30).contains(&audits), "{audits} of 40");
}

#[test]
fn audit_rates_fall_with_replays_passed() {
    let policy = AuditPolicy::default();
    let rates: Vec<_> = [0, 4, 5, 6, 7, 15, 16, u32::MAX].map(|passed| policy.rate_after(passed)).into();
    assert_eq!(rates[..5], [1_000_000, 1_000_000, 500_000, 400_000, 320_000]);
    assert!(rates[5] > 50_000);
    assert_eq!(rates[6..], [50_000, 50_000]);
}

#[test]
fn a_failed_audit_is_rejected_and_the_liar_cools_down() {
    let spec = spec(2);
    let mut world = World::with(&spec, 4);
    let leases = world.deal(&[1, 2, 3, 4]);
    for (session, lease) in &leases {
        world.deliver(*session, lease);
    }
    for check in world.checks() {
        let lie = check.volunteer == VolunteerKey([4; 32]).id();
        let verdict =
            if lie { UpdateVerdict::Wrong(RejectReason::WrongUpdate) } else { UpdateVerdict::Right };
        world.checked(check.ticket, verdict);
        world.checked(check.ticket, UpdateVerdict::Right);
    }
    assert_eq!(world.verdict(4), Some(Outcome::Rejected(RejectReason::WrongUpdate)));
    let (_, updates) = world.closing().unwrap();
    assert_eq!(updates.len(), 3);
    assert!(updates.iter().all(|update| update.volunteer != VolunteerKey([4; 32]).id()));
    let rejected = world.take(|output| match output {
        Output::Rejected { job, shard, reason, .. } => Some((*job, *shard, *reason)),
        _ => None,
    });
    assert_eq!(rejected, Some((RUN, leases[&4].shard, RejectReason::WrongUpdate)));
    assert_eq!(world.request(4), Err(NoWorkReason::CoolingDown));
    assert_eq!((world.progress().rejected, world.relay.totals().rejected), (1, 1));
    world.run(RunInput::Stored { run: RUN, round: 0 });
    assert_eq!(world.relay.totals().result_bytes, 0);
}

#[test]
fn a_round_below_its_quorum_is_repeated_with_fresh_leases() {
    let spec = spec(1);
    let mut world = World::with(&spec, 3);
    let leases = world.deal(&[1, 2, 3]);
    world.deliver(1, &leases[&1]);
    world.deliver(2, &leases[&2]);
    world.wait(leases[&1].deadline);
    assert_eq!(world.revoked(3), Some(RevokeReason::DeadlinePassed));
    assert_eq!([world.verdict(1), world.verdict(2)], [Some(Outcome::Superseded); 2]);
    assert_eq!((world.progress().round, world.progress().attempt), (0, 1));
    assert_eq!(world.relay.totals().result_bytes, 0);
    let again = world.deal(&[1, 2, 3]);
    assert_eq!(again.len(), 3);
    assert!(again.values().all(|lease| leases.values().all(|old| lease.fence > old.fence)));
    let tasks = |leases: &BTreeMap<u64, Lease>| -> BTreeSet<String> {
        leases.values().map(|lease| format!("{:?}", lease.task)).collect()
    };
    assert_eq!(tasks(&again), tasks(&leases), "the data order knows nothing of attempts");
}

#[test]
fn too_few_right_updates_repeat_the_round() {
    let spec = spec(1);
    let mut world = World::with(&spec, 3);
    for (session, lease) in world.deal(&[1, 2, 3]) {
        world.deliver(session, &lease);
    }
    let mut checks = world.checks();
    let last = checks.pop().unwrap();
    for check in checks {
        world.checked(check.ticket, UpdateVerdict::Right);
    }
    world.checked(last.ticket, UpdateVerdict::Undecided);
    assert!(world.closing().is_none());
    assert_eq!((world.progress().repeated, world.relay.totals().rejected), (1, 0));
}

#[test]
fn a_restart_repeats_the_round_and_refuses_old_fences() {
    let spec = spec(3);
    let mut world = World::with(&spec, 3);
    world.round(&spec, &[1, 2, 3]);
    let old = world.deal(&[1, 2, 3]);
    assert_eq!(old.len(), 3);

    let mut world = World::of(2);
    world.run(RunInput::Added { spec: Box::new(spec.clone()), next_round: 1 });
    assert_eq!(world.prepare(&spec), Some(1));
    for session in 1..=3 {
        world.join(session, session as u8);
        world.deliver(session, &old[&session]);
        assert_eq!(world.verdict(session), Some(Outcome::Late));
    }
    let leases = world.deal(&[1, 2, 3]);
    for (session, lease) in &leases {
        let Task::Train(task) = &lease.task else { unreachable!("only the run is there") };
        assert_eq!(task.round, 1);
        world.deliver(*session, &old[session]);
        assert_eq!(world.verdict(*session), Some(Outcome::Late), "an old fence does not fit a new lease");
        world.deliver(*session, lease);
    }
    world.all_right();
    assert_eq!(world.closing().map(|(round, updates)| (round, updates.len())), Some((1, 3)));
    // A run whose rounds were all durable is complete at once.
    let mut world = World::of(3);
    world.run(RunInput::Added { spec: Box::new(spec), next_round: 3 });
    assert!(world.out.contains(&Output::Run(RunOutput::Completed { run: RUN })));
}

#[test]
fn a_job_and_a_run_share_volunteers() {
    let spec = spec(50);
    let mut world = World::with(&spec, 3);
    world.input(Input::JobAdded { job: matrix_job(1), accepted: Vec::new() });
    let (mut rounds, mut tiles) = (0_u64, 0_u64);
    for _ in 0..400 {
        for session in 1..=3 {
            let Ok(lease) = world.request_with(session, 100, 1 << 30) else { continue };
            world.now += Duration(50);
            world.deliver(session, &lease);
            match &lease.task {
                Task::Train(_) => rounds += 1,
                Task::Eval(_) => unreachable!("there is no eval"),
                Task::Matmul(task) => {
                    tiles += u64::from(task.rows * task.cols);
                    let ticket = world
                        .take(|output| match output {
                            Output::Check(check) => Some(check.ticket),
                            _ => None,
                        })
                        .unwrap();
                    let verdict = crate::io::CheckVerdict::Right { cleared_rows: 0 };
                    world.input(Input::Checked { ticket, verdict });
                    world.input(Input::Stored { ticket });
                }
            }
        }
        world.all_right();
        if let Some((round, _)) = world.closing() {
            world.run(RunInput::Stored { run: RUN, round });
            world.prepare(&spec);
        }
        world.out.clear();
        if tiles == 1024 * 1024 {
            break;
        }
    }
    assert_eq!(tiles, 1024 * 1024, "the job ends although a run goes on");
    assert!(rounds >= 3, "{rounds} updates meanwhile");
}

#[test]
fn no_slot_without_consent_memory_or_time() {
    let spec = RunSpec { min_workers: 1, ..spec(1) };
    let mut world = World::with(&spec, 2);
    world.say(1, Withdraw {});
    assert_eq!(world.request(1), Err(NoWorkReason::NoConsent));
    assert_eq!(world.progress().asking, 0);
    let foreign = world.tokens[&2];
    world.tokens.insert(1, foreign);
    assert_eq!(world.request(1), Err(NoWorkReason::NoConsent), "a token belongs to its session");
    assert_eq!(world.request_with(2, 10_000, 1 << 10), Err(NoWorkReason::TooLittleMemory));
    assert_eq!(world.request_with(2, 1, 1 << 30), Err(NoWorkReason::Idle), "hours for one round");
    assert!(world.request(2).is_ok());
}
