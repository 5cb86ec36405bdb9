//! What a person sees: one state, with one reason.

use crate::engine::{Engine, Person};
use crate::link::Link;
use crate::work::{Device, Stage};
use potluck_mesh::Peer;
use potluck_proto::{Backend, NoWorkReason, Outcome, Picture, RefusalCode, RejectReason, Task};
use std::fmt;

/// Why nothing is being computed at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitReason {
    /// The device is being measured.
    Calibrating,
    /// The connection is being made.
    Connecting,
    /// The connection was lost; it is tried again.
    Reconnecting,
    /// The relay is full or restarts; it is tried again.
    RelayBusy,
    /// Inputs arrive.
    FetchingInputs,
    /// What was fetched is here, and passed on to peers.
    PassingOn,
    /// A shard was asked for.
    AskingForWork,
    /// There is nothing to do at the moment.
    NoWork,
    /// The results are being verified.
    AwaitingVerdict,
    /// Results were rejected; the relay makes this volunteer wait.
    CoolingDown,
    /// Every shard needs more memory than this device offers.
    TooLittleMemory,
    /// What the relay offers does not stand in its public log.
    Unproven,
    /// The device failed; it is tried again.
    DeviceFailed,
    /// The tab is hidden.
    Hidden,
    /// The device runs on battery.
    OnBattery,
    /// The network is metered.
    MobileData,
    /// Another tab of this browser lends the device.
    AnotherTab,
    /// The browser froze the page.
    Frozen,
}

impl WaitReason {
    /// A sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Calibrating => "Measuring this device.",
            Self::Connecting => "Connecting to the relay.",
            Self::Reconnecting => "The connection was lost. Trying again.",
            Self::RelayBusy => "The relay is busy. Trying again soon.",
            Self::FetchingInputs => "Fetching inputs.",
            Self::PassingOn => "Passing on what is here.",
            Self::AskingForWork => "Asking for work.",
            Self::NoWork => "There is no work at the moment.",
            Self::AwaitingVerdict => "Results are being verified.",
            Self::CoolingDown => "Results of this device were rejected. The relay asks to wait.",
            Self::Unproven => "The relay did not prove that this work stands in its public log.",
            Self::TooLittleMemory => "Every shard needs more memory than this device offers.",
            Self::DeviceFailed => "The device failed. Trying again.",
            Self::Hidden => "Waiting until this tab is visible.",
            Self::OnBattery => "Waiting for mains power.",
            Self::MobileData => "Waiting for a network that is not metered.",
            Self::AnotherTab => {
                "Another tab of this browser lends this device. This one goes on when that ends."
            }
            Self::Frozen => "The browser froze this page. It goes on when the page does.",
        }
    }
}

/// What the volunteer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody agreed yet.
    Idle,
    /// A kernel runs.
    Computing,
    /// Not now, for this reason.
    Waiting(WaitReason),
    /// The person paused.
    Paused,
    /// The last shard is being completed.
    Finishing,
    /// The person stopped, or the last shard is done.
    Stopped,
    /// The agreed time is over: ask the person again.
    ConsentExpired,
    /// No device works.
    NoDevice,
    /// The relay refuses this volunteer for good.
    Refused(RefusalCode),
}

/// How far a part of a training round is. Shown as `training round 3, step 7 of 20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Training {
    /// The round.
    pub round: u64,
    /// The inner step that is being taken, from 1.
    pub step: u32,
    /// Inner steps of the round.
    pub steps: u32,
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "training round {}, step {} of {}", self.round, self.step, self.steps)
    }
}

/// Everything there is to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// What computes, once it is known.
    pub backend: Option<Backend>,
    /// Its measured speed at full share, in millions of floating-point operations per second.
    pub mflops: u32,
    /// Results accepted.
    pub accepted: u64,
    /// Results rejected.
    pub rejected: u64,
    /// Results that came second or late: nobody's fault.
    pub superseded: u64,
    /// Why the last rejected result was rejected.
    pub last_rejection: Option<RejectReason>,
    /// The public key that the relay of the present connection says is its own: it signs the relay's log.
    pub relay: Option<[u8; 32]>,
    /// Why a run or parameters were not proven to stand in the public log.
    pub unproven: Option<String>,
    /// Text of the relay's last refusal.
    pub refusal: Option<String>,
    /// Rows, columns and depth of the tile that is being computed.
    pub tile: Option<(u32, u32, u32)>,
    /// The part of a training round that is being computed.
    pub training: Option<Training>,
    /// Whether questions to a model are being answered.
    pub evaluating: bool,
    /// Seconds that the device was busy.
    pub busy_s: f64,
    /// Part of the time since the start that the device was busy.
    pub measured_share: f64,
    /// Part of the time that the preset allows.
    pub allowed_share: f64,
    /// Floating-point operations in accepted results.
    pub accepted_flops: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Whether inputs are exchanged with peers.
    pub peers_wanted: bool,
    /// The peers.
    pub peers: Vec<Peer>,
    /// Bytes of inputs that came from the relay.
    pub from_relay: u64,
    /// Bytes of inputs that came from peers, present and past.
    pub from_peers: u64,
    /// Bytes of inputs that peers got.
    pub to_peers: u64,
    /// Bytes of inputs kept.
    pub cache_bytes: u64,
    /// The job, as the relay drew it last.
    pub picture: Option<Picture>,
}

/// Counters behind [`Status`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) superseded: u64,
    pub(crate) last_rejection: Option<RejectReason>,
    pub(crate) refusal: Option<(RefusalCode, String)>,
    pub(crate) unproven: Option<String>,
    pub(crate) busy_ms: u64,
    pub(crate) lending_ms: u64,
    pub(crate) accepted_flops: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) picture: Option<Picture>,
}

impl Counters {
    pub(crate) fn outcome(&mut self, outcome: Outcome, flops: u64) {
        match outcome {
            Outcome::Accepted => {
                self.accepted += 1;
                self.accepted_flops = self.accepted_flops.saturating_add(flops);
            }
            Outcome::Rejected(reason) => {
                self.rejected += 1;
                self.last_rejection = Some(reason);
            }
            Outcome::Superseded | Outcome::Late => self.superseded += 1,
        }
    }
}

impl Engine {
    /// Part of the device that the chosen preset lends, of 1.
    pub const fn allowed_share(&self) -> f64 {
        crate::limits::share(self.preset)
    }

    /// What to show now.
    pub fn status(&self) -> Status {
        let counters = &self.counters;
        let (backend, mflops) = match self.device {
            Device::Ready { backend, mflops } => (Some(backend), mflops),
            _ => (None, 0),
        };
        let [from_relay, from_peers, to_peers] = self.mesh.totals();
        let (mut tile, mut training, mut evaluating) = (None, None, false);
        for work in &self.work {
            if let Stage::Running { steps: done, .. } = work.stage {
                match &work.task {
                    Task::Matmul(task) => tile = Some((task.rows, task.cols, task.depth)),
                    Task::Train(task) => {
                        let step = done.saturating_add(1).min(task.steps);
                        training = Some(Training { round: task.round, step, steps: task.steps });
                    }
                    Task::Eval(_) => evaluating = true,
                }
            }
        }
        Status {
            state: self.state(),
            backend,
            mflops,
            accepted: counters.accepted,
            rejected: counters.rejected,
            superseded: counters.superseded,
            last_rejection: counters.last_rejection,
            relay: match &self.link {
                Link::Up(session) => session.relay,
                _ => None,
            },
            refusal: counters.refusal.as_ref().map(|(_, message)| message.clone()),
            tile,
            training,
            evaluating,
            unproven: counters.unproven.clone(),
            busy_s: counters.busy_ms as f64 / 1e3,
            measured_share: counters.busy_ms as f64 / counters.lending_ms.max(1) as f64,
            allowed_share: self.allowed_share(),
            accepted_flops: counters.accepted_flops,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            peers_wanted: self.mesh.wants_peers(),
            peers: self.mesh.peers(),
            from_relay,
            from_peers,
            to_peers,
            cache_bytes: self.mesh.stored_bytes(),
            picture: counters.picture.clone(),
        }
    }

    /// The state: the person's will first, then what stands in its way, then the work.
    pub fn state(&self) -> State {
        match self.person {
            Person::Idle => return State::Idle,
            Person::Paused => return State::Paused,
            Person::Stopped => return State::Stopped,
            Person::Expired => return State::ConsentExpired,
            Person::Finishing => return State::Finishing,
            Person::Lending => {}
        }
        if let Link::Refused(code) = self.link {
            return State::Refused(code);
        }
        if matches!(self.device, Device::None) && self.fetch.is_none() {
            return State::NoDevice;
        }
        self.wait_reason().map_or(State::Computing, State::Waiting)
    }

    fn wait_reason(&self) -> Option<WaitReason> {
        let blocking = self.conditions.except(self.ignored);
        if let Some(reason) = blocking.reason() {
            return Some(reason);
        }
        if self.work.iter().any(|work| matches!(work.stage, Stage::Running { .. })) {
            return None;
        }
        match self.device {
            _ if self.fetch.is_some() => {}
            Device::Unknown | Device::Measuring(_) => return Some(WaitReason::Calibrating),
            Device::Failed { .. } => return Some(WaitReason::DeviceFailed),
            Device::Ready { .. } | Device::None => {}
        }
        Some(match &self.link {
            Link::Down { failures: 0, .. } | Link::Opening { .. } if self.counters.refusal.is_none() => {
                WaitReason::Connecting
            }
            Link::Down { .. } | Link::Opening { .. } if self.counters.refusal.is_some() => {
                WaitReason::RelayBusy
            }
            Link::Down { .. } | Link::Opening { .. } => WaitReason::Reconnecting,
            Link::Refused(_) => WaitReason::RelayBusy,
            Link::Up(_) if self.fetch.is_some_and(|fetch| fetch.here) => WaitReason::PassingOn,
            Link::Up(_) if self.fetch.is_some() => WaitReason::FetchingInputs,
            Link::Up(_) if self.work.iter().any(|work| matches!(work.stage, Stage::Fetching)) => {
                WaitReason::FetchingInputs
            }
            Link::Up(_) => match self.no_work {
                Some(NoWorkReason::CoolingDown) => WaitReason::CoolingDown,
                Some(NoWorkReason::TooLittleMemory) => WaitReason::TooLittleMemory,
                _ if !self.work.is_empty() => WaitReason::AwaitingVerdict,
                _ if self.counters.unproven.is_some() => WaitReason::Unproven,
                Some(NoWorkReason::Idle) => WaitReason::NoWork,
                _ => WaitReason::AskingForWork,
            },
        })
    }
}
