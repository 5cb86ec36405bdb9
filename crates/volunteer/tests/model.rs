//! The engine beside a model of what it promised: any order of persons' clicks, conditions, connections, leases,
//! kernels and time. After each step: no lease without consent, no work while paused or hidden, the commit before
//! the bytes, nothing after Stop, bounded memory. At the end of each history an honest relay gets a result.
#![cfg(not(target_arch = "wasm32"))]

use potluck_proto::{
    Backend, BlobChunk, BlobMissing, BlobRef, BlobRequest, Challenge, Commit, ConsentGranted, Lease,
    MatmulTask, Message, NoWork, NoWorkReason, Outcome, Preset, Revoke, RevokeReason, Task, TrainTask,
    Verdict, Welcome, decode, encode,
};
use potluck_train::gpt::GptConfig;
use potluck_types::{
    BlobHash, ConsentToken, DType, Duration, Fence, Instant, JobId, LeaseId, SessionId, VolunteerKey,
};
use potluck_volunteer::train::{Prepared, Reference, TaskError, TrainRun};
use potluck_volunteer::{
    Action, Choice, Conditions, Engine, Event, Failure, Options, Run, RunId, State, Workload, compute,
};
use proptest::prelude::*;
use rounds::{Example, example, now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock};

mod rounds;

const CACHE_BYTES: u64 = 12_000;
const CHUNK_BYTES: u32 = potluck_types::limits::GROUP_BYTES as u32;
const WINDOW: u8 = 3;
const CONSENT: Duration = Duration(600_000);
const CHALLENGE: Challenge = Challenge { nonce: [4; 32], relay: [5; 32] };
const LEASE: Duration = Duration(30_000);
/// A result is let go if its verdict takes so long.
const RESULT: Duration = Duration(600_000);
const HIDDEN: Conditions =
    Conditions { hidden: true, on_battery: false, mobile_data: false, another_tab: false, frozen: false };

#[derive(Debug, Clone, Copy)]
enum Op {
    Start(Preset, Choice),
    Pause,
    Resume,
    Finish,
    Stop,
    Preset(Preset),
    Hide(bool),
    Ignore(bool),
    Measure(Backend),
    MeasureFails,
    Open,
    Drop,
    Challenge,
    Welcome,
    Grant(u8),
    Lease(usize),
    NoWork(NoWorkReason, u16),
    Serve,
    Missing,
    Done,
    Fail(Failure),
    Late,
    /// The kernel that runs, or the one that ended last, tells how far it is.
    Progress(u32),
    /// The kernel that runs is computed on the CPU after all.
    Move,
    Pull(u16, u16),
    Verdict(Outcome),
    Revoke,
    Wait(u32),
    /// An honest relay and a device go on as far as they can without a kernel's end.
    Go(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let preset = prop_oneof![Just(Preset::Quiet), Just(Preset::Balanced), Just(Preset::Full)];
    let choice = prop_oneof![Just(Choice::Auto), Just(Choice::Gpu), Just(Choice::Cpu)];
    let backend = prop_oneof![Just(Backend::WebGpu), Just(Backend::WasmSimd)];
    let failure = prop_oneof![
        Just(Failure::DeviceLost),
        Just(Failure::OutOfMemory),
        Just(Failure::Unsupported),
        Just(Failure::BadTask)
    ];
    let reason = prop_oneof![
        Just(NoWorkReason::Idle),
        Just(NoWorkReason::EnoughLeases),
        Just(NoWorkReason::NoConsent)
    ];
    let outcome = prop_oneof![Just(Outcome::Accepted), Just(Outcome::Superseded), Just(Outcome::Late)];
    prop_oneof![
        2 => (preset.clone(), choice).prop_map(|(preset, choice)| Op::Start(preset, choice)),
        1 => Just(Op::Pause),
        3 => Just(Op::Resume),
        1 => Just(Op::Finish),
        1 => Just(Op::Stop),
        1 => preset.prop_map(Op::Preset),
        1 => any::<bool>().prop_map(Op::Hide),
        2 => any::<bool>().prop_map(Op::Ignore),
        60 => (0..TASKS).prop_map(Op::Go),
        6 => backend.prop_map(Op::Measure),
        1 => Just(Op::MeasureFails),
        6 => Just(Op::Open),
        1 => Just(Op::Drop),
        6 => Just(Op::Challenge),
        6 => Just(Op::Welcome),
        6 => any::<u8>().prop_map(Op::Grant),
        9 => (0..TASKS).prop_map(Op::Lease),
        2 => (reason, any::<u16>()).prop_map(|(reason, after)| Op::NoWork(reason, after)),
        30 => Just(Op::Serve),
        1 => Just(Op::Missing),
        20 => Just(Op::Done),
        2 => failure.prop_map(Op::Fail),
        1 => Just(Op::Late),
        4 => (0..4_u32).prop_map(Op::Progress),
        3 => Just(Op::Move),
        4 => (any::<u16>(), any::<u16>()).prop_map(|(offset, bytes)| Op::Pull(offset, bytes)),
        5 => outcome.prop_map(Op::Verdict),
        1 => Just(Op::Revoke),
        4 => (0..20_000_u32).prop_map(Op::Wait),
        1 => (0..1_000_000_u32).prop_map(Op::Wait),
    ]
}

/// Tiles, then parts of rounds.
const TILES: usize = 4;
const ROUNDS: usize = 3;
const TASKS: usize = TILES + ROUNDS;
const DEPTH: usize = 300;

/// Panels that tasks share; the widest takes three chunks.
fn panel(index: usize) -> Vec<u8> {
    let rows = 1 + index % 3;
    (0..rows * DEPTH).flat_map(|at| ((at * (index + 3)) as f32 % 17.0).to_le_bytes()).collect()
}

fn named(blob: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 }
}

fn tile(index: usize) -> MatmulTask {
    let rows = |panels: &[usize]| panels.iter().map(|at| 1 + at % 3).sum::<usize>() as u32;
    let (a, bt) = (vec![index, index + 1], vec![5 - index % 2, 0]);
    MatmulTask {
        dtype: DType::F32,
        rows: rows(&a),
        cols: rows(&bt),
        depth: DEPTH as u32,
        a: a.iter().map(|at| named(&panel(*at))).collect(),
        bt: bt.iter().map(|at| named(&panel(*at))).collect(),
    }
}

/// Parts of rounds that share a checkpoint, outer steps and a block, with their results.
fn rounds() -> &'static [(Example, Vec<u8>); ROUNDS] {
    static EXAMPLES: LazyLock<[(Example, Vec<u8>); ROUNDS]> = LazyLock::new(|| {
        std::array::from_fn(|at| {
            let config = GptConfig { vocabulary: 17, context: 8, layers: 1, heads: 1, width: 8, bias: true };
            let example = example(config, 600, at as u64, at as u32 % 2);
            let result = example.result();
            (example, result)
        })
    });
    &EXAMPLES
}

fn task(index: usize) -> Task {
    match index.checked_sub(TILES) {
        None => Task::Matmul(tile(index)),
        Some(at) => Task::Train(Box::new(rounds()[at].0.task.clone())),
    }
}

fn inputs(task: &Task) -> Vec<BlobRef> {
    match task {
        Task::Matmul(task) => task.a.iter().chain(&task.bt).copied().collect(),
        Task::Train(task) => std::iter::once(&task.checkpoint)
            .chain(&task.outer_steps)
            .chain(task.blocks.iter().map(|block| &block.blob))
            .copied()
            .collect(),
        Task::Eval(task) => vec![task.parameters, task.items],
    }
}

fn known(task: &TrainTask) -> &'static (Example, Vec<u8>) {
    rounds().iter().find(|(example, _)| example.task == *task).expect("a round of these")
}

/// What an honest relay expects: computed from its own blobs, by the libraries alone.
fn expected(task: &Task) -> Vec<u8> {
    match task {
        Task::Matmul(task) => {
            let blobs = |panels: &[BlobRef]| -> Vec<_> {
                panels.iter().map(|panel| Arc::new(blob(&panel.hash))).collect()
            };
            compute::on_cpu(task, &blobs(&task.a), &blobs(&task.bt)).expect("operands that fit")
        }
        Task::Train(task) => known(task).1.clone(),
        Task::Eval(_) => unreachable!("this relay asks no model"),
    }
}

/// What a device gives for a run.
fn computed(run: &Run) -> Vec<u8> {
    match run.work.clone() {
        Workload::Matmul { task, a, bt } => compute::on_cpu(&task, &a, &bt).expect("operands that fit"),
        Workload::Train { task, inputs } => {
            assert_eq!(inputs, known(&task).0.inputs(), "all inputs, in the order of the task");
            let prepared = Prepared::new(&task, inputs).expect("inputs that fit");
            let result: Result<_, TaskError> = now(async {
                let engine = Reference::new(prepared.model())?;
                let mut run = TrainRun::start(&prepared, engine).await?;
                while !run.step().await?.complete() {}
                Ok(run.finish().await?.result)
            });
            result.expect("a finite loss")
        }
        Workload::Eval { .. } => unreachable!("this relay asks no model"),
    }
}

/// A lease as the relay remembers it.
#[derive(Debug, Clone)]
struct Held {
    fence: Fence,
    task: Task,
    until: Instant,
    result: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a step of the protocol that came or not")]
struct Connection {
    open: bool,
    challenged: bool,
    hello: bool,
    welcomed: bool,
    agreeing: bool,
    token: Option<ConsentToken>,
    asked: bool,
    leases: BTreeMap<LeaseId, Held>,
    requests: VecDeque<BlobRequest>,
    /// Bytes that the relay may still get of each result.
    credit: BTreeMap<BlobHash, usize>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is an independent wish or condition")]
struct Model {
    engine: Engine,
    now: Instant,
    agreed: bool,
    paused: bool,
    finishing: bool,
    agreed_until: Instant,
    hidden: bool,
    ignored: bool,
    measuring: VecDeque<Choice>,
    connection: Option<Connection>,
    running: Option<Run>,
    /// What computed the result that comes.
    done_with: Option<Backend>,
    ended: Vec<RunId>,
    next: u64,
    computed: BTreeSet<LeaseId>,
    choice: Choice,
    /// A result whose verdict came.
    judged: Option<BlobHash>,
}

impl Model {
    fn new() -> Self {
        let engine = Engine::new(Options {
            key: VolunteerKey([1; 32]),
            agent: "model".into(),
            origin: "model".into(),
            text_version: 1,
            memory_bytes: 1 << 20,
            cache_bytes: CACHE_BYTES,
            jitter: 5,
            relay_host: String::new(),
            upload_bytes_per_s: None,
            demand_proof: false,
            seed: false,
        });
        Self {
            engine,
            now: Instant(0),
            agreed: false,
            paused: false,
            finishing: false,
            agreed_until: Instant(0),
            hidden: false,
            ignored: false,
            measuring: VecDeque::new(),
            connection: None,
            running: None,
            done_with: None,
            ended: Vec::new(),
            next: 1,
            computed: BTreeSet::new(),
            choice: Choice::Auto,
            judged: None,
        }
    }

    /// What the person, the conditions and the device allow.
    fn may_work(&self) -> bool {
        self.agreed
            && !self.paused
            && (!self.hidden || self.ignored)
            && self.now < self.agreed_until
            && self.engine.state() != State::NoDevice
    }

    fn event(&mut self, event: Event) {
        if self.now >= self.agreed_until {
            (self.agreed, self.paused, self.finishing) = (false, false, false);
        }
        if let Some(connection) = &mut self.connection {
            let now = self.now;
            connection.leases.retain(|_, held| now < held.until);
        }
        for action in self.engine.step(self.now, event) {
            self.act(action);
        }
        match self.engine.state() {
            State::Stopped | State::ConsentExpired => {
                assert!(!self.agreed || self.finishing, "only a person or the time ends the lending");
                (self.agreed, self.finishing) = (false, false);
                assert_eq!(self.engine.next_wake(), None, "nothing wakes a stopped engine");
                assert!(self.connection.is_none(), "a stopped engine is not connected");
            }
            State::Paused => assert!(self.paused),
            State::Computing => assert!(self.running.is_some()),
            _ => {}
        }
        if !self.may_work() {
            assert!(self.running.is_none(), "a kernel runs though the person or the conditions forbid it");
            let token = self.connection.as_ref().and_then(|connection| connection.token);
            assert_eq!(token, None, "the relay still holds a consent");
        }
        assert!(self.engine.next_wake().is_none_or(|wake| wake > self.now));
        assert!(self.engine.status().cache_bytes <= CACHE_BYTES);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect => {
                assert!(self.may_work() && self.connection.is_none());
                self.connection = Some(Connection::default());
            }
            Action::Disconnect => assert!(self.connection.take().is_some()),
            Action::Calibrate(choice) => {
                assert!(self.may_work());
                self.measuring.push_back(choice);
            }
            Action::Run(run) => {
                assert!(self.may_work() && self.running.is_none());
                assert!(
                    self.choice != Choice::Cpu || run.backend == Backend::WasmSimd,
                    "not what was chosen"
                );
                self.running = Some(run);
            }
            Action::Link(_) | Action::Store(..) | Action::Unstore(_) | Action::Fetched(..) => {}
            Action::Prove { subject, .. } => unreachable!("nothing was demanded, and {subject:?} is"),
            Action::Cancel(run) => {
                assert_eq!(self.running.take().map(|running| running.id), Some(run));
                self.ended.push(run);
            }
            Action::Send(frame) => {
                self.said(decode(&frame).expect("the engine's own frames are well-formed"));
            }
        }
    }

    fn said(&mut self, message: Message) {
        let may_work = self.may_work();
        let connection = self.connection.as_mut().expect("frames need a connection");
        assert!(connection.open);
        match message {
            Message::Hello(hello) => {
                assert!(connection.challenged && !std::mem::replace(&mut connection.hello, true));
                assert_eq!(hello.verify(&CHALLENGE), Ok(()));
            }
            Message::Ping(_) => assert!(connection.welcomed),
            Message::Consent(consent) => {
                assert!(connection.welcomed && may_work && connection.token.is_none());
                assert!(consent.valid_for <= self.agreed_until.since(self.now));
                connection.agreeing = true;
            }
            Message::Withdraw(_) => {
                // The last device failed under the last shard: first consent ends, then the lending.
                let ends = self.finishing && self.engine.state() == State::Stopped;
                assert!(!may_work || ends);
                (connection.token, connection.agreeing, connection.asked) = (None, false, false);
                connection.leases.clear();
                connection.requests.clear();
            }
            Message::LeaseRequest(request) => {
                assert!(may_work && !self.finishing && Some(request.consent) == connection.token);
                let open = connection.leases.values().filter(|held| held.result.is_none()).count();
                assert!(open < 2 && request.held.len() as u64 * 4 * DEPTH as u64 <= CACHE_BYTES);
                connection.asked = true;
            }
            Message::BlobRequest(request) => {
                assert!(may_work && request.bytes <= CHUNK_BYTES);
                let needed = |held: &Held| {
                    held.result.is_none()
                        && inputs(&held.task).iter().any(|input| {
                            input.hash == request.hash
                                && request.offset + u64::from(request.bytes) <= input.bytes
                        })
                };
                assert!(connection.leases.values().any(needed), "an input that no lease needs");
                connection.requests.push_back(request);
            }
            Message::Commit(commit) => {
                let until = self.now + RESULT;
                assert_eq!(Some(commit.backend), self.done_with.take(), "what computed it");
                Self::committed(&mut self.computed, connection, &commit, until);
            }
            Message::BlobChunk(chunk) => {
                let served = connection.leases.values().find_map(|held| {
                    held.result.as_ref().filter(|result| BlobHash::of(result) == chunk.hash)
                });
                let result = served.expect("bytes of a result go out between its commit and its verdict");
                assert_eq!(chunk.data, result[chunk.offset as usize..][..chunk.data.len()]);
                let credit = connection.credit.entry(chunk.hash).or_default();
                let left = credit.checked_sub(chunk.data.len());
                *credit = left.expect("a result is not sent without end");
            }
            Message::Release(release) => assert!(connection.leases.remove(&release.lease).is_some()),
            Message::BlobMissing(_) => {}
            other => panic!("not a volunteer's message: {other:?}"),
        }
    }

    fn committed(
        computed: &mut BTreeSet<LeaseId>,
        connection: &mut Connection,
        commit: &Commit,
        until: Instant,
    ) {
        let held = connection.leases.get_mut(&commit.lease).expect("a commit to a lease that is held");
        assert_eq!(held.fence, commit.fence);
        assert!(held.result.is_none(), "one commit for a lease");
        let result = expected(&held.task);
        assert_eq!(commit.result, named(&result));
        *connection.credit.entry(commit.result.hash).or_default() += 4 * result.len();
        (held.result, held.until) = (Some(result), until);
        computed.insert(commit.lease);
    }

    fn hear(&mut self, message: impl Into<Message>) {
        if self.connection.as_ref().is_some_and(|connection| connection.open) {
            self.event(Event::Frame(encode(&message.into()).expect("a frame")));
        }
    }

    fn step(&mut self, op: Op) {
        let ids = |model: &Self, fits: fn(&Held) -> bool| -> Option<LeaseId> {
            let leases = &model.connection.as_ref()?.leases;
            leases.iter().find(|(_, held)| fits(held)).map(|(id, _)| *id)
        };
        match op {
            Op::Start(preset, choice) => {
                (self.agreed, self.paused, self.finishing) = (true, false, false);
                self.agreed_until = self.now + CONSENT;
                self.choice = choice;
                self.event(Event::Start { preset, choice, valid_for: CONSENT });
            }
            Op::Pause => {
                self.paused |= self.agreed && !self.finishing;
                self.event(Event::Pause);
            }
            Op::Resume => {
                self.paused = false;
                self.event(Event::Resume);
            }
            Op::Finish => {
                if self.paused {
                    (self.agreed, self.paused) = (false, false);
                }
                self.finishing = self.agreed;
                self.event(Event::Finish);
            }
            Op::Stop => {
                (self.agreed, self.paused, self.finishing) = (false, false, false);
                self.event(Event::Stop);
            }
            Op::Preset(preset) => self.event(Event::SetPreset(preset)),
            Op::Hide(hidden) => {
                self.hidden = hidden;
                self.event(Event::Conditions(if hidden { HIDDEN } else { Conditions::default() }));
            }
            Op::Ignore(ignored) => {
                self.ignored = ignored;
                self.event(Event::Ignore(if ignored { HIDDEN } else { Conditions::default() }));
            }
            Op::Measure(backend) => {
                if let Some(choice) = self.measuring.pop_front() {
                    let backend = match choice {
                        Choice::Auto => backend,
                        Choice::Gpu => Backend::WebGpu,
                        Choice::Cpu => Backend::WasmSimd,
                    };
                    self.event(Event::Calibrated { backend, mflops: 1000 });
                }
            }
            Op::MeasureFails => {
                if self.measuring.pop_front().is_some() {
                    self.event(Event::CalibrationFailed);
                }
            }
            Op::Open => {
                if let Some(connection) = self.connection.as_mut().filter(|connection| !connection.open) {
                    connection.open = true;
                    self.event(Event::Connected);
                }
            }
            Op::Drop => {
                if self.connection.take().is_some() {
                    let kept = self.running.clone();
                    self.event(Event::Disconnected);
                    assert!(kept.is_none() || self.running.is_none(), "leases end with the connection");
                }
            }
            Op::Challenge => self.challenge(),
            Op::Welcome => self.welcome(),
            Op::Grant(number) => self.grant(number),
            Op::Lease(index) => self.lease(index),
            Op::NoWork(reason, after) => {
                if let Some(connection) = self.connection.as_mut().filter(|connection| connection.asked) {
                    connection.asked = false;
                    if reason == NoWorkReason::NoConsent {
                        connection.token = None;
                    }
                    self.hear(NoWork { reason, retry_after: Duration(after.into()) });
                }
            }
            Op::Serve => self.serve(),
            Op::Missing => {
                let request = self.connection.as_mut().and_then(|connection| connection.requests.pop_front());
                if let Some(BlobRequest { hash, .. }) = request {
                    self.hear(BlobMissing { hash });
                }
            }
            Op::Done => {
                if let Some(run) = self.running.take() {
                    let result = computed(&run);
                    self.done_with = Some(run.backend);
                    self.ended.push(run.id);
                    let before = self.computed.len();
                    self.event(Event::KernelDone { run: run.id, result, busy: Duration(3), kept: None });
                    assert_eq!(
                        self.computed.len(),
                        before + 1,
                        "a result of a lease that counts is committed"
                    );
                }
            }
            Op::Fail(failure) => {
                if let Some(run) = self.running.take() {
                    self.ended.push(run.id);
                    self.event(Event::KernelFailed { run: run.id, failure });
                }
            }
            Op::Late => {
                if let Some(run) = self.ended.last().copied() {
                    let before = self.computed.len();
                    self.event(Event::KernelDone { run, result: vec![0; 4], busy: Duration(3), kept: None });
                    assert_eq!(self.computed.len(), before, "a run that ended does not commit");
                }
            }
            Op::Progress(steps) => {
                let current = self.running.as_ref().map(|run| run.id);
                if let Some(run) = current.or_else(|| self.ended.last().copied()) {
                    let before = self.engine.status().training;
                    self.event(Event::KernelProgress { run, steps });
                    let after = self.engine.status().training;
                    assert_eq!(after.is_some(), before.is_some());
                    assert!(after.is_none_or(|now| (1..=now.steps).contains(&now.step)));
                }
            }
            Op::Move => {
                // A run that ended is not moved: what it was committed with stays.
                let ended = self.ended.last().copied();
                if let Some(run) =
                    self.running.as_mut().map(|run| (run.backend = Backend::WasmSimd, run.id).1).or(ended)
                {
                    self.event(Event::RunsOn { run, backend: Backend::WasmSimd });
                }
            }
            Op::Pull(offset, bytes) => self.pull(offset, bytes),
            Op::Verdict(outcome) => {
                if let Some(lease) = ids(self, |held| held.result.is_some()) {
                    self.judged =
                        self.forget(lease).and_then(|held| held.result).map(|one| BlobHash::of(&one));
                    self.hear(Verdict { lease, outcome });
                }
            }
            Op::Revoke => {
                if let Some(lease) = ids(self, |held| held.result.is_none()) {
                    self.forget(lease);
                    self.hear(Revoke { lease, reason: RevokeReason::JobCanceled });
                }
            }
            Op::Wait(ms) => self.wait(ms),
            Op::Go(index) => self.go(index),
        }
    }

    fn go(&mut self, index: usize) {
        let steps = [
            Op::Measure(Backend::WasmSimd),
            Op::Open,
            Op::Challenge,
            Op::Welcome,
            Op::Grant(1),
            Op::Lease(index),
        ];
        for op in steps {
            self.step(op);
        }
        (0..WINDOW).for_each(|_| self.step(Op::Serve));
    }

    fn forget(&mut self, lease: LeaseId) -> Option<Held> {
        self.connection.as_mut()?.leases.remove(&lease)
    }

    fn challenge(&mut self) {
        let fresh = |one: &&mut Connection| one.open && !one.challenged;
        let Some(connection) = self.connection.as_mut().filter(fresh) else { return };
        connection.challenged = true;
        self.hear(CHALLENGE);
    }

    fn welcome(&mut self) {
        let Some(connection) = self.connection.as_mut().filter(|one| one.hello && !one.welcomed) else {
            return;
        };
        connection.welcomed = true;
        self.hear(Welcome {
            version: 1,
            session: SessionId(1),
            session_timeout: Duration(60_000),
            max_chunk_bytes: CHUNK_BYTES,
            max_chunks_in_flight: WINDOW,
        });
    }

    fn grant(&mut self, number: u8) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.agreeing) else {
            return;
        };
        connection.agreeing = false;
        let token = ConsentToken([number; 16]);
        connection.token = Some(token);
        self.hear(ConsentGranted { token, valid_for: CONSENT });
    }

    fn lease(&mut self, index: usize) {
        let (now, next) = (self.now, self.next);
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.asked) else {
            return;
        };
        connection.asked = false;
        self.next += 1;
        let (lease, fence) = (LeaseId(next), Fence(next));
        let held = Held { fence, task: task(index), until: now + LEASE, result: None };
        connection.leases.insert(lease, held);
        let task = task(index);
        self.hear(Lease { lease, fence, job: JobId([0; 16]), shard: next as u32, deadline: LEASE, task });
    }

    fn serve(&mut self) {
        let request = self.connection.as_mut().and_then(|connection| connection.requests.pop_front());
        if let Some(BlobRequest { hash, offset, bytes }) = request {
            let data = blob(&hash)[offset as usize..][..bytes as usize].to_vec();
            self.hear(BlobChunk { hash, offset, data });
        }
    }

    fn pull(&mut self, offset: u16, bytes: u16) {
        let committed = self
            .connection
            .as_ref()
            .and_then(|connection| connection.leases.values().find_map(|held| held.result.as_ref()));
        if let Some((hash, whole)) = committed.map(|result| (BlobHash::of(result), result.len() as u32)) {
            self.hear(BlobRequest { hash, offset: u64::from(offset % 64), bytes: u32::from(bytes % 64) });
            // Again and again: there is an end to what is sent.
            (0..bytes % 16).for_each(|_| self.hear(BlobRequest { hash, offset: 0, bytes: whole }));
        }
        if let Some(hash) = self.judged {
            self.hear(BlobRequest { hash, offset: 0, bytes: 4 });
        }
    }

    /// Time passes; ticks come when they are due.
    fn wait(&mut self, ms: u32) {
        let end = self.now + Duration(u64::from(ms));
        for _ in 0..2000 {
            match self.engine.next_wake().filter(|wake| *wake <= end) {
                Some(wake) => self.now = wake,
                None => break,
            }
            self.event(Event::Tick);
        }
        self.now = self.now.max(end);
        self.event(Event::Tick);
    }

    /// A relay, a person and a device that do their part get a result accepted.
    fn completes(&mut self) {
        self.step(Op::Hide(false));
        self.step(Op::Stop);
        self.step(Op::Start(Preset::Full, Choice::Cpu));
        let before = self.engine.status().accepted;
        for round in 0..200 {
            self.go(round % TASKS);
            for op in [Op::Done, Op::Verdict(Outcome::Accepted), Op::Wait(300)] {
                self.step(op);
            }
            if self.engine.status().accepted > before + TASKS as u64 {
                return;
            }
        }
        panic!("nothing was completed: {:?}", self.engine.status());
    }
}

fn blob(hash: &BlobHash) -> Vec<u8> {
    let of_rounds = rounds().iter().flat_map(|(example, _)| example.blobs.iter().cloned());
    let found = (0..8).map(panel).chain(of_rounds).find(|blob| BlobHash::of(blob) == *hash);
    found.expect("an input of a task")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_keeps_its_promises(ops in prop::collection::vec(op(), 1..250)) {
        let mut model = Model::new();
        model.step(Op::Start(Preset::Full, Choice::Auto));
        for op in ops {
            model.step(op);
        }
        model.completes();
    }
}
