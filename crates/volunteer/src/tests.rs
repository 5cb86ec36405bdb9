//! The engine against a relay that is played by hand, honest or not.

use crate::io::{Action, Choice, Conditions, Event, Failure, Options, Run, Workload};
use crate::{Engine, LinkAction, State, Subject, WaitReason, compute};
use potluck_proto::*;
use potluck_types::limits::{MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT};
use potluck_types::{
    BlobHash, ConsentToken, DType, Duration, Fence, Instant, JobId, LeaseId, SessionId, VolunteerKey,
};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;

mod fetch;
mod proof;
mod train;

/// An engine, the time, and what it did.
struct World {
    engine: Engine,
    now: Instant,
    sent: VecDeque<Message>,
    runs: VecDeque<Run>,
    others: Vec<&'static str>,
    links: Vec<LinkAction>,
    demanded: Vec<Subject>,
    fetched: Vec<(BlobHash, Option<Arc<Vec<u8>>>)>,
}

const TOKEN: ConsentToken = ConsentToken([9; 16]);
const CHALLENGE: Challenge = Challenge { nonce: [4; 32], relay: [5; 32] };

impl World {
    fn new() -> Self {
        Self::with(false)
    }

    /// One that demands proofs, or does not.
    fn with(demand_proof: bool) -> Self {
        let options = Options {
            key: VolunteerKey([1; 32]),
            agent: "test".into(),
            origin: "test".into(),
            text_version: 1,
            memory_bytes: 32 << 20,
            cache_bytes: 1 << 20,
            jitter: 7,
            relay_host: String::new(),
            upload_bytes_per_s: None,
            demand_proof,
            seed: false,
        };
        let (sent, runs) = (VecDeque::new(), VecDeque::new());
        Self {
            engine: Engine::new(options),
            now: Instant(0),
            sent,
            runs,
            others: Vec::new(),
            links: Vec::new(),
            demanded: Vec::new(),
            fetched: Vec::new(),
        }
    }

    fn event(&mut self, event: Event) {
        for action in self.engine.step(self.now, event) {
            match action {
                Action::Send(frame) => self.sent.push_back(decode(&frame).unwrap()),
                Action::Run(run) => self.runs.push_back(run),
                Action::Connect => self.others.push("connect"),
                Action::Disconnect => self.others.push("disconnect"),
                Action::Calibrate(_) => self.others.push("calibrate"),
                Action::Cancel(_) => self.others.push("cancel"),
                Action::Link(action) => self.links.push(action),
                Action::Store(..) => self.others.push("store"),
                Action::Unstore(_) => self.others.push("unstore"),
                Action::Fetched(hash, bytes) => self.fetched.push((hash, bytes)),
                Action::Prove { subject, relay } => {
                    assert_eq!(relay, CHALLENGE.relay, "the log is signed by whom the session is signed for");
                    self.demanded.push(subject);
                }
            }
        }
    }

    fn hear(&mut self, message: impl Into<Message>) {
        self.event(Event::Frame(encode(&message.into()).unwrap()));
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration(ms);
        self.event(Event::Tick);
    }

    /// The first message of a kind that was sent and not looked at.
    fn said<T>(&mut self, fits: impl Fn(&Message) -> Option<T>) -> Option<T> {
        let at = self.sent.iter().position(|message| fits(message).is_some())?;
        self.sent.remove(at).and_then(|message| fits(&message))
    }

    fn start(&mut self, preset: Preset) {
        self.event(Event::Start { preset, choice: Choice::Auto, valid_for: Duration(3_600_000) });
    }

    fn connected(&mut self) {
        self.event(Event::Connected);
        self.hear(CHALLENGE);
        self.welcome();
    }

    fn welcome(&mut self) {
        self.hear(Welcome {
            version: 1,
            session: SessionId(1),
            session_timeout: Duration(60_000),
            max_chunk_bytes: MAX_CHUNK_BYTES as u32,
            max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT as u8,
        });
    }

    /// Started, measured, connected, agreed, and asking for work.
    fn lending() -> Self {
        Self::lending_with(false)
    }

    fn lending_with(demand_proof: bool) -> Self {
        let mut world = Self::with(demand_proof);
        world.start(Preset::Full);
        world.event(Event::Calibrated { backend: Backend::WasmSimd, mflops: 1000 });
        world.connected();
        world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
        world
    }

    fn lease(&mut self, id: u64, task: impl Into<Offer>) {
        self.hear(Lease {
            lease: LeaseId(id),
            fence: Fence(id),
            job: JobId([0; 16]),
            shard: 0,
            deadline: Duration(60_000),
            task: task.into().0,
        });
    }

    /// Answers requests for inputs.
    fn serve(&mut self, blobs: &[Vec<u8>]) {
        while let Some(request) = self.said(|m| match m {
            Message::BlobRequest(request) => Some(request.clone()),
            _ => None,
        }) {
            let blob =
                blobs.iter().find(|blob| BlobHash::of(blob) == request.hash).expect("an input was asked for");
            let data = blob[request.offset as usize..][..request.bytes as usize].to_vec();
            self.hear(BlobChunk { hash: request.hash, offset: request.offset, data });
        }
    }

    fn released(&mut self) -> Option<ReleaseReason> {
        self.said(|m| match m {
            Message::Release(release) => Some(release.reason),
            _ => None,
        })
    }

    fn committed(&mut self) -> Option<Commit> {
        self.said(|m| match m {
            Message::Commit(commit) => Some(commit.clone()),
            _ => None,
        })
    }

    fn asked(&mut self) -> Option<LeaseRequest> {
        self.said(|m| match m {
            Message::LeaseRequest(request) => Some(request.clone()),
            _ => None,
        })
    }
}

/// A task that a lease offers.
struct Offer(Task);

impl From<MatmulTask> for Offer {
    fn from(task: MatmulTask) -> Self {
        Self(Task::Matmul(task))
    }
}

impl From<EvalTask> for Offer {
    fn from(task: EvalTask) -> Self {
        Self(Task::Eval(task))
    }
}

impl From<TrainTask> for Offer {
    fn from(task: TrainTask) -> Self {
        Self(Task::Train(Box::new(task)))
    }
}

/// What a run of either kind gives.
fn computed(run: &Run) -> Vec<u8> {
    match run.work.clone() {
        Workload::Matmul { task, a, bt } => compute::on_cpu(&task, &a, &bt).unwrap(),
        Workload::Train { task, inputs } => train::trained(&task, inputs).unwrap(),
        Workload::Eval { task, .. } => vec![7; task.result_bytes as usize],
    }
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn named(blob: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 }
}

/// A task of 2 x 3, its inputs, and its result.
fn task() -> (MatmulTask, Vec<Vec<u8>>, Vec<u8>) {
    let a = floats([1.0, 2.0, 3.0, 4.0]);
    let (b0, b1) = (floats([1.0, 0.0, 0.0, 1.0]), floats([1.0, 1.0]));
    let task = MatmulTask {
        dtype: DType::F32,
        rows: 2,
        cols: 3,
        depth: 2,
        a: vec![named(&a)],
        bt: vec![named(&b0), named(&b1)],
    };
    (task, vec![a, b0, b1], floats([1.0, 2.0, 3.0, 3.0, 4.0, 7.0]))
}

#[test]
fn nothing_happens_before_a_person_agrees() {
    let mut world = World::new();
    for event in [
        Event::Tick,
        Event::Connected,
        Event::Resume,
        Event::Finish,
        Event::Conditions(Conditions::default()),
    ] {
        world.event(event);
    }
    world.wait(100_000);
    assert!(world.sent.is_empty() && world.others.is_empty());
    assert_eq!(world.engine.state(), State::Idle);
    assert_eq!(world.engine.next_wake(), None);
}

#[test]
fn hello_waits_for_the_challenge_and_proves_the_key_to_this_relay() {
    let mut world = World::new();
    world.start(Preset::Full);
    world.event(Event::Calibrated { backend: Backend::WasmSimd, mflops: 1000 });
    world.event(Event::Connected);
    world.wait(5_000);
    assert!(world.sent.is_empty(), "the relay speaks first");
    assert_eq!(world.engine.status().relay, None);
    world.hear(CHALLENGE);
    let Some(Message::Hello(hello)) = world.sent.pop_front() else { panic!("a Hello was expected") };
    assert_eq!(hello.volunteer, VolunteerKey([1; 32]).id());
    assert_eq!(hello.verify(&CHALLENGE), Ok(()));
    assert!(hello.verify(&Challenge { relay: [6; 32], ..CHALLENGE }).is_err());
    assert!(world.sent.is_empty());
    assert_eq!(world.engine.status().relay, Some(CHALLENGE.relay));
    world.welcome();
    assert!(world.said(|m| matches!(m, Message::Consent(_)).then_some(())).is_some());
    // Nobody has a second text signed in a session.
    world.others.clear();
    world.hear(Challenge { nonce: [6; 32], ..CHALLENGE });
    assert!(world.sent.is_empty());
    assert_eq!(world.others, ["disconnect"]);
    assert_eq!(world.engine.status().relay, None);
}

#[test]
fn a_relay_that_does_not_challenge_is_given_up() {
    let speaks = [
        Welcome {
            version: 1,
            session: SessionId(1),
            session_timeout: Duration(60_000),
            max_chunk_bytes: MAX_CHUNK_BYTES as u32,
            max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT as u8,
        }
        .into(),
        Message::from(Pong { nonce: 1 }),
    ];
    for first in [None].into_iter().chain(speaks.map(Some)) {
        let mut world = World::new();
        world.start(Preset::Full);
        world.event(Event::Connected);
        world.others.clear();
        match first {
            None => world.wait(15_000),
            Some(message) => world.hear(message),
        }
        assert_eq!(world.others, ["disconnect"]);
        assert!(world.sent.is_empty());
    }
}

#[test]
fn work_beside_kernels_counts_for_the_share() {
    let mut world = World::lending();
    let before = world.engine.status().busy_s;
    world.event(Event::Spent(Duration(500)));
    assert!((world.engine.status().busy_s - before - 0.5).abs() < 1e-9);
}

#[test]
fn a_lease_goes_from_inputs_to_an_accepted_result() {
    let mut world = World::lending();
    assert!(world.asked().is_some());
    let (task, blobs, result) = task();
    world.lease(1, task);
    assert_eq!(world.engine.state(), State::Waiting(WaitReason::FetchingInputs));
    world.serve(&blobs);
    assert_eq!(world.engine.state(), State::Computing);
    assert!(world.asked().is_some(), "the next lease is fetched while this one computes");
    let run = world.runs.pop_front().unwrap();
    let computed = computed(&run);
    assert_eq!(computed, result);
    world.event(Event::KernelDone { run: run.id, result: computed, busy: Duration(5), kept: None });
    let commit = world.committed().unwrap();
    assert_eq!(commit.result, named(&result));
    assert!(!world.sent.iter().any(|m| matches!(m, Message::BlobChunk(_))), "the hash goes first");
    world.hear(BlobRequest { hash: commit.result.hash, offset: 4, bytes: 8 });
    let chunk = world.said(|m| match m {
        Message::BlobChunk(chunk) => Some(chunk.data.clone()),
        _ => None,
    });
    assert_eq!(chunk.as_deref(), Some(&result[4..12]));
    world.hear(Verdict { lease: LeaseId(1), outcome: Outcome::Accepted });
    assert_eq!(world.engine.status().accepted, 1);
    world.hear(BlobRequest { hash: commit.result.hash, offset: 0, bytes: 4 });
    assert!(
        world.said(|m| matches!(m, Message::BlobMissing(_)).then_some(())).is_some(),
        "nothing is kept for ever"
    );
}

#[test]
fn stop_ends_everything_in_one_step() {
    let mut world = World::lending();
    let (task, blobs, result) = task();
    world.lease(1, task);
    world.serve(&blobs);
    let run = world.runs.pop_front().unwrap();
    world.sent.clear();
    world.event(Event::Stop);
    assert!(world.others.ends_with(&["cancel", "disconnect"]), "{:?}", world.others);
    world.event(Event::KernelDone { run: run.id, result, busy: Duration(1), kept: None });
    world.hear(BlobRequest { hash: BlobHash([0; 32]), offset: 0, bytes: 1 });
    world.event(Event::Disconnected);
    world.event(Event::Resume);
    world.wait(10_000_000);
    assert!(world.sent.is_empty() && world.others.last() == Some(&"disconnect"));
    assert_eq!((world.engine.state(), world.engine.next_wake()), (State::Stopped, None));
}

#[test]
fn finish_completes_the_shard_at_hand_and_no_other() {
    let mut world = World::lending();
    let (task, blobs, result) = task();
    world.lease(1, task.clone());
    world.serve(&blobs);
    let mut other = task;
    other.a[0].hash = BlobHash([7; 32]);
    world.asked();
    world.lease(2, other);
    world.event(Event::Finish);
    assert_eq!(world.released(), Some(ReleaseReason::Withdrawn));
    world.sent.clear();
    let run = world.runs.pop_front().unwrap();
    world.event(Event::KernelDone { run: run.id, result, busy: Duration(1), kept: None });
    assert!(world.committed().is_some() && world.asked().is_none());
    assert_eq!(world.engine.state(), State::Finishing);
    world.hear(Verdict { lease: LeaseId(1), outcome: Outcome::Accepted });
    assert_eq!(world.engine.state(), State::Stopped);
}

#[test]
fn pause_and_hidden_tabs_withdraw_and_come_back() {
    for hidden in [false, true] {
        let mut world = World::lending();
        let (task, blobs, _) = task();
        world.lease(1, task);
        world.serve(&blobs);
        let conditions = Conditions { hidden: true, ..Conditions::default() };
        world.event(if hidden { Event::Conditions(conditions) } else { Event::Pause });
        assert_eq!(world.others.last(), Some(&"cancel"));
        assert!(world.said(|m| matches!(m, Message::Withdraw(_)).then_some(())).is_some());
        let expected = if hidden { State::Waiting(WaitReason::Hidden) } else { State::Paused };
        assert_eq!(world.engine.state(), expected);
        world.sent.clear();
        world.event(if hidden { Event::Ignore(conditions) } else { Event::Resume });
        assert!(world.said(|m| matches!(m, Message::Consent(_)).then_some(())).is_some());
    }
}

#[test]
fn what_others_may_see_is_said_once_a_session_whatever_happens_in_it() {
    let member = |team: &str| Membership { team: team.to_owned(), listed: true };
    let said = |world: &mut World| {
        world.said(|m| match m {
            Message::Membership(membership) => Some(membership.clone()),
            _ => None,
        })
    };
    let mut world = World::new();
    world.event(Event::Membership(member("Chess Club")));
    world.start(Preset::Full);
    world.event(Event::Calibrated { backend: Backend::WasmSimd, mflops: 1000 });
    world.connected();
    world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
    assert_eq!(said(&mut world), Some(member("Chess Club")));
    for _ in 0..3 {
        world.event(Event::Pause);
        world.event(Event::Resume);
        world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
    }
    assert_eq!(said(&mut world), None);
    // A name that no team can have changes nothing.
    world.event(Event::Membership(member("two  spaces")));
    assert_eq!(said(&mut world), None);
    // What is taken back is said at once, also in a pause.
    world.event(Event::Pause);
    world.event(Event::Membership(Membership::default()));
    assert_eq!(said(&mut world), Some(Membership::default()));
    // Another session hears it anew.
    world.event(Event::Resume);
    world.event(Event::Disconnected);
    world.wait(120_000);
    world.connected();
    assert_eq!(said(&mut world), Some(Membership::default()));
}

#[test]
fn every_condition_has_its_reason_and_only_a_frozen_page_cannot_be_excused() {
    let none = Conditions::default();
    for (conditions, reason) in [
        (Conditions { hidden: true, ..none }, WaitReason::Hidden),
        (Conditions { on_battery: true, ..none }, WaitReason::OnBattery),
        (Conditions { mobile_data: true, ..none }, WaitReason::MobileData),
        (Conditions { another_tab: true, hidden: true, ..none }, WaitReason::AnotherTab),
        (Conditions { frozen: true, another_tab: true, hidden: true, ..none }, WaitReason::Frozen),
    ] {
        let mut world = World::lending();
        world.event(Event::Conditions(conditions));
        assert_eq!(world.engine.state(), State::Waiting(reason));
        world.event(Event::Ignore(conditions));
        assert_eq!(world.engine.state() == State::Waiting(reason), conditions.frozen, "{conditions:?}");
        world.event(Event::Conditions(none));
        assert_ne!(world.engine.state(), State::Waiting(reason));
    }
}

#[test]
fn agreement_ends_by_itself() {
    let mut world = World::lending();
    world.wait(3_600_000);
    assert_eq!(world.engine.state(), State::ConsentExpired);
    assert_eq!(world.others.last(), Some(&"disconnect"));
}

#[test]
fn throttle_and_speed_go_together() {
    let mut world = World::lending();
    assert_eq!(world.asked().unwrap().mflops, 1000);
    world.event(Event::SetPreset(Preset::Quiet));
    let (task, blobs, _) = task();
    world.lease(1, task);
    world.serve(&blobs);
    assert!((world.runs[0].share - 0.25).abs() < 1e-9);
    assert_eq!(world.asked().unwrap().mflops, 250);
}

#[test]
fn tasks_that_make_no_sense_or_do_not_fit_are_given_back() {
    let (good, ..) = task();
    let check = |change: &dyn Fn(&mut MatmulTask)| {
        let mut world = World::lending();
        let mut task = good.clone();
        change(&mut task);
        world.lease(1, task);
        assert_eq!(world.released(), Some(ReleaseReason::Unsupported));
        assert!(world.said(|m| matches!(m, Message::BlobRequest(_)).then_some(())).is_none());
    };
    check(&|task| task.rows = 3);
    check(&|task| task.depth = 0);
    check(&|task| (task.rows, task.cols, task.depth) = (u32::MAX, u32::MAX, u32::MAX));
    check(&|task| task.a[0].bytes = u64::MAX);
    check(&|task| task.a.clear());
    check(&|task| {
        (task.rows, task.depth) = (1 << 12, 1 << 11);
        task.a = vec![BlobRef { hash: BlobHash([1; 32]), bytes: 16 << 20 }; 2];
        task.bt = vec![BlobRef { hash: BlobHash([1; 32]), bytes: 3 << 13 }];
    });
}

#[test]
fn inputs_with_the_wrong_hash_and_missing_ones_are_given_back() {
    for missing in [false, true] {
        let mut world = World::lending();
        let (task, ..) = task();
        let hash = task.a[0].hash;
        world.lease(1, task);
        if missing {
            world.hear(BlobMissing { hash });
        } else {
            world.hear(BlobChunk { hash, offset: 0, data: vec![0; 16] });
        }
        assert_eq!(world.released(), Some(ReleaseReason::InputMissing));
        assert!(world.runs.is_empty());
    }
}

#[test]
fn a_device_that_fails_backs_off_and_then_falls_back_to_the_cpu() {
    let mut world = World::lending();
    world.event(Event::Disconnected);
    let mut world = World::new();
    world.start(Preset::Full);
    for failure in 1..=3 {
        world.event(Event::CalibrationFailed);
        assert_eq!(
            world.others.iter().filter(|o| **o == "calibrate").count(),
            if failure == 3 { 4 } else { failure }
        );
        if failure < 3 {
            assert_eq!(world.engine.state(), State::Waiting(WaitReason::DeviceFailed));
            world.wait(60_000);
        }
    }
    world.event(Event::Calibrated { backend: Backend::WasmSimd, mflops: 1 });
    world.connected();
    world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
    for id in 1..=3 {
        let (task, blobs, _) = task();
        world.lease(id, task);
        world.serve(&blobs);
        let run = world.runs.pop_front().unwrap().id;
        world.event(Event::KernelFailed { run, failure: Failure::OutOfMemory });
        assert_eq!(world.released(), Some(ReleaseReason::DeviceFailed));
        if id < 3 {
            world.wait(10_000);
            world.event(Event::Calibrated { backend: Backend::WasmSimd, mflops: 1 });
        }
    }
    assert_eq!(world.engine.state(), State::NoDevice, "a CPU that fails is given up, not looped on");
}

#[test]
fn lost_connections_are_reopened_ever_more_slowly() {
    let mut world = World::new();
    world.start(Preset::Full);
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.event(Event::Disconnected);
        let wake = world.engine.next_wake().unwrap();
        waits.push(wake.since(world.now).0);
        world.now = wake;
        world.event(Event::Tick);
    }
    assert!(waits[0] <= 1000 && waits[7] >= 30_000 && waits.iter().all(|wait| *wait <= 60_000), "{waits:?}");
    assert_eq!(world.others.iter().filter(|o| **o == "connect").count(), 9);
}

#[test]
fn at_another_relay_nothing_of_the_one_before_counts_but_what_the_person_agreed_to() {
    let mut world = World::lending();
    for _ in 0..8 {
        world.event(Event::Disconnected);
        world.now = world.engine.next_wake().unwrap();
        world.event(Event::Tick);
    }
    world.event(Event::Disconnected);
    assert!(world.engine.next_wake().unwrap().since(world.now).0 > 1_000, "it waits long by now");
    world.others.clear();
    world.event(Event::Moved { relay_host: "m.example".into() });
    world.event(Event::Tick);
    assert_eq!(world.others, ["connect"], "at once, and with no new consent");
    // One that was refused for good is none that the other refuses.
    let mut world = World::lending();
    let message = "no".to_owned();
    world.hear(Refusal { code: RefusalCode::Full, message, retry_after: Duration(0) });
    world.others.clear();
    world.event(Event::Moved { relay_host: "m.example".into() });
    world.event(Event::Tick);
    assert_eq!(world.others, ["connect"]);
}

#[test]
fn refusals_are_obeyed() {
    let mut world = World::lending();
    let refusal =
        |retry| Refusal { code: RefusalCode::Full, message: "full".into(), retry_after: Duration(retry) };
    world.hear(refusal(30_000));
    assert_eq!(world.engine.state(), State::Waiting(WaitReason::RelayBusy));
    assert!(world.engine.next_wake().unwrap().since(world.now).0 >= 30_000);
    let mut world = World::lending();
    world.hear(refusal(0));
    assert_eq!(world.engine.state(), State::Refused(RefusalCode::Full));
    assert_eq!(world.engine.status().refusal.as_deref(), Some("full"));
}

#[test]
fn a_silent_relay_is_left() {
    let mut world = World::lending();
    world.others.clear();
    for _ in 0..60 {
        world.wait(1000);
    }
    assert!(world.said(|m| matches!(m, Message::Ping(_)).then_some(())).is_some());
    assert_eq!(world.others, ["disconnect"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]
    /// A relay that says anything at any time: no panic, bounded memory, and silence after Stop.
    #[test]
    fn a_hostile_relay_does_no_harm(
        steps in prop::collection::vec((0u8..13, any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)), 1..80)
    ) {
        let mut world = World::lending();
        let (good, blobs, _) = task();
        for (what, number, bytes) in steps {
            match what {
                0 => world.event(Event::Frame(bytes)),
                1 => world.lease(number % 4, good.clone()),
                2 => world.hear(BlobChunk { hash: good.a[0].hash, offset: number % 20, data: bytes }),
                3 => world.serve(&blobs),
                4 => world.hear(Verdict { lease: LeaseId(number % 4), outcome: Outcome::Late }),
                5 => world.hear(Revoke { lease: LeaseId(number % 4), reason: RevokeReason::JobCanceled }),
                6 => world.hear(NoWork { reason: NoWorkReason::NoConsent, retry_after: Duration(number) }),
                7 => world.hear(BlobRequest { hash: good.a[0].hash, offset: number, bytes: number as u32 }),
                8 => if let Some(run) = world.runs.pop_front() {
                    world.event(Event::KernelDone { run: run.id, result: bytes, busy: Duration(number % 100), kept: None });
                },
                9 => world.hear(Picture {
                    job: JobId([0; 16]),
                    name: String::new(),
                    columns: number as u16,
                    cells: bytes,
                    accepted_permille: number as u16,
                    volunteers: 0,
                }),
                10 => world.wait(number % 30_000),
                11 => world.hear(CHALLENGE),
                _ => {
                    world.connected();
                    world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(number) });
                }
            }
            prop_assert!(world.engine.work.len() <= 8);
            prop_assert!(world.engine.next_wake().is_none_or(|wake| wake > world.now));
        }
        world.event(Event::Stop);
        world.sent.clear();
        world.event(Event::Frame(encode(&Pong { nonce: 1 }.into()).unwrap()));
        world.wait(1_000_000);
        prop_assert!(world.sent.is_empty());
    }
}
