//! What goes into the engine and what comes out.

use crate::proof::Subject;
use crate::status::WaitReason;
use potluck_mesh::{LinkAction, LinkEvent};
use potluck_proto::{Backend, BlobRef, EvalTask, MatmulTask, Membership, Preset, TrainTask};
pub use potluck_rounds::TrainInputs;
use potluck_train::streak::Streak;
use potluck_types::{BlobHash, Duration, VolunteerKey};
use std::sync::Arc;

/// What a volunteer is, fixed for its life.
#[derive(Debug, Clone)]
pub struct Options {
    /// The volunteer's secret: it signs, and is not sent.
    pub key: VolunteerKey,
    /// Software name and version, shown to the relay.
    pub agent: String,
    /// Where the person agrees: the page's origin, or `native`.
    pub origin: String,
    /// The version of the text that the person agrees to.
    pub text_version: u16,
    /// Memory for inputs and result of one shard, in bytes.
    pub memory_bytes: u64,
    /// Memory for inputs that may be needed again, in bytes.
    pub cache_bytes: u64,
    /// Spreads reconnections and choices of peers; any number that differs between volunteers.
    pub jitter: u64,
    /// The relay's host name or address: its own STUN and TURN servers are named without one.
    pub relay_host: String,
    /// Bytes per second that peers may get in all; `None` for no limit of its own.
    pub upload_bytes_per_s: Option<u64>,
    /// Whether a run, and parameters that are evaluated, must stand in the relay's public log: [`Action::Prove`].
    pub demand_proof: bool,
    /// Stays for others' sake: links to more peers than its own inputs need, and keeps what passes.
    pub seed: bool,
}

/// What the person chose to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Whatever calibration finds faster.
    #[default]
    Auto,
    /// The GPU.
    Gpu,
    /// The CPU (wasm SIMD in a tab).
    Cpu,
}

/// Conditions under which a volunteer waits, unless the person said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each of them holds or not, whatever the others do")]
pub struct Conditions {
    /// The tab is not visible.
    pub hidden: bool,
    /// The device runs on battery.
    pub on_battery: bool,
    /// The network is metered.
    pub mobile_data: bool,
    /// Another tab of the same browser lends this device.
    pub another_tab: bool,
    /// The browser is about to stop this page's clock, until it resumes it. Nobody can excuse that.
    pub frozen: bool,
}

impl Conditions {
    /// Conditions of `self` that `ignored` does not excuse.
    pub(crate) const fn except(self, ignored: Self) -> Self {
        Self {
            hidden: self.hidden && !ignored.hidden,
            on_battery: self.on_battery && !ignored.on_battery,
            mobile_data: self.mobile_data && !ignored.mobile_data,
            another_tab: self.another_tab && !ignored.another_tab,
            frozen: self.frozen,
        }
    }

    /// Why the volunteer waits: the one that a person would name first.
    pub(crate) const fn reason(self) -> Option<WaitReason> {
        let Self { hidden, on_battery, mobile_data, another_tab, frozen } = self;
        match (frozen, another_tab, hidden, on_battery, mobile_data) {
            (true, ..) => Some(WaitReason::Frozen),
            (_, true, ..) => Some(WaitReason::AnotherTab),
            (_, _, true, ..) => Some(WaitReason::Hidden),
            (_, _, _, true, _) => Some(WaitReason::OnBattery),
            (.., true) => Some(WaitReason::MobileData),
            _ => None,
        }
    }
}

/// One run of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// A kernel run to start. One runs at a time.
#[derive(Debug, Clone)]
pub struct Run {
    /// Comes back in [`Event::KernelDone`] or [`Event::KernelFailed`].
    pub id: RunId,
    /// With what. A part of a round may also run on the CPU where that is faster or the GPU cannot hold the model; then
    /// [`Event::RunsOn`] comes before the result.
    pub backend: Backend,
    /// The part of the time that may be used: after each slice of about 10 ms, or each inner step, rest, so that this
    /// holds.
    pub share: f64,
    /// What to compute.
    pub work: Workload,
}

/// A task with its inputs, all of the hashes that it names.
#[derive(Debug, Clone)]
pub enum Workload {
    /// A tile of a product: see [`compute`](crate::compute).
    Matmul {
        /// The task.
        task: MatmulTask,
        /// Panels of A, in order.
        a: Vec<Arc<Vec<u8>>>,
        /// Panels of B transposed, in order.
        bt: Vec<Arc<Vec<u8>>>,
    },
    /// A part of a training round: see [`train`](crate::train).
    Train {
        /// The task.
        task: Box<TrainTask>,
        /// Its inputs.
        inputs: TrainInputs,
    },
    /// A shard of an eval: see [`eval`](crate::eval).
    Eval {
        /// The task.
        task: EvalTask,
        /// The parameters, f32.
        parameters: Arc<Vec<u8>>,
        /// The questions.
        items: Arc<Vec<u8>>,
    },
}

/// How a kernel run fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The device is gone or poisoned.
    DeviceLost,
    /// Out of memory.
    OutOfMemory,
    /// The kernel cannot do such a task.
    Unsupported,
    /// The task contradicts itself or its inputs, or its loss is not finite. The device is not to blame.
    BadTask,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Another relay goes on with the log: the adapter connects there from now on. What was under way at the one before is given
    /// up; what the person agreed to stands.
    Moved {
        /// The relay's host: what `turn::PORT` in its mesh settings stands for.
        relay_host: String,
    },
    /// The person agreed, by a trusted click or by starting the command.
    Start {
        /// How much of the device.
        preset: Preset,
        /// With what.
        choice: Choice,
        /// For how long.
        valid_for: Duration,
    },
    /// The person agreed to get a public blob, from peers where they have it, and to pass it on for so long: nothing is
    /// computed, and the device is not measured. [`Action::Fetched`] follows.
    Fetch {
        /// What.
        blob: BlobRef,
        /// For how long.
        valid_for: Duration,
    },
    /// The person paused.
    Pause,
    /// The person goes on.
    Resume,
    /// The person wants to stop after the shard that is being computed.
    Finish,
    /// The person stops. Ends everything at once.
    Stop,
    /// The person lends more or less.
    SetPreset(Preset),
    /// The conditions changed.
    Conditions(Conditions),
    /// Conditions that the person says to ignore.
    Ignore(Conditions),
    /// Whether to exchange inputs with peers, who then see this machine's network address. Until this is said, no.
    Peers(bool),
    /// What others may see of this volunteer. Until this is said, nothing; a name that no team can have is not said.
    Membership(Membership),
    /// Something happened on a link to a peer.
    Link(LinkEvent),
    /// An input that an earlier engine had stored. It is named by its bytes, so whoever kept it cannot change it.
    Stored(Vec<u8>),
    /// The device was measured.
    Calibrated {
        /// What to compute with.
        backend: Backend,
        /// Its speed at full share, in millions of floating-point operations per second.
        mflops: u32,
    },
    /// No device can be used.
    CalibrationFailed,
    /// The socket is open.
    Connected,
    /// A frame arrived.
    Frame(Vec<u8>),
    /// The socket closed or could not be opened.
    Disconnected,
    /// A run got further. For who looks on; need not come after every step.
    KernelProgress {
        /// Which.
        run: RunId,
        /// Inner steps that are done.
        steps: u32,
    },
    /// A run is computed with another backend than [`Run::backend`]: that is what its commit will say.
    RunsOn {
        /// Which.
        run: RunId,
        /// With what.
        backend: Backend,
    },
    /// A run is done.
    KernelDone {
        /// Which.
        run: RunId,
        /// The result's bytes.
        result: Vec<u8>,
        /// Time that the device was busy, rests not counted.
        busy: Duration,
        /// With codec S, what the streak's next round goes on from.
        kept: Option<Arc<Streak>>,
    },
    /// Time at work beside kernels: frames, hashes, and what moving bytes takes of the device elsewhere.
    Spent(Duration),
    /// A run failed.
    KernelFailed {
        /// Which.
        run: RunId,
        /// How.
        failure: Failure,
    },
    /// What came of [`Action::Prove`].
    Proven {
        /// Of what.
        subject: Subject,
        /// Why there is no proof, for people.
        outcome: Result<(), String>,
    },
    /// Nothing but time. Due at [`Engine::next_wake`](crate::Engine::next_wake) at the latest.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Open a socket to the relay.
    Connect,
    /// Close the socket. [`Event::Disconnected`] need not follow.
    Disconnect,
    /// Send a frame.
    Send(Vec<u8>),
    /// Measure the device.
    Calibrate(Choice),
    /// Start a kernel.
    Run(Run),
    /// Fetch the receipt of this from the relay's public log, check it, and say [`Event::Proven`]. What was logged a moment
    /// ago is published within seconds: ask more than once.
    Prove {
        /// What has to stand there.
        subject: Subject,
        /// The public key that the relay says is its own: it signs the log, too.
        relay: [u8; 32],
    },
    /// Stop a kernel; its events are ignored from now on.
    Cancel(RunId),
    /// Do something with a link to a peer.
    Link(LinkAction),
    /// What [`Event::Fetch`] asked for is here, whole and right; `None` if the relay does not give it out.
    Fetched(BlobHash, Option<Arc<Vec<u8>>>),
    /// An input came and is kept: write it down, if the person allows that, for [`Event::Stored`] of a later engine.
    Store(BlobHash, Arc<Vec<u8>>),
    /// An input is kept no more: what was written down can go.
    Unstore(BlobHash),
}
