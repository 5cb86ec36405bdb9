//! What the page and its Worker say to each other, as plain JavaScript objects.

use potluck_proto::{Backend, BlobRef, LinkPath, Membership, Preset, RejectReason};
use potluck_volunteer::{Choice, Conditions, Event, Peer, State, Status, WaitReason};
use serde::{Deserialize, Serialize};

/// What the page sets once.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Settings {
    /// WebSocket of the relay.
    pub(crate) url: String,
    /// Where the person agreed.
    pub(crate) origin: String,
    /// The version of the text that was agreed to.
    pub(crate) text_version: u16,
    /// The volunteer's secret, 64 hexadecimal digits; missing for one that is forgotten.
    pub(crate) key: Option<String>,
    /// Memory for inputs that may be needed again, in MB; missing for the usual. A person can only allow less.
    pub(crate) cache_mb: Option<u32>,
}

/// What a person does, or what changes around the tab.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Command {
    Start {
        preset: PagePreset,
        backend: PageBackend,
        hours: f64,
    },
    /// A public blob, instead of work: its hash and length.
    Fetch {
        hash: String,
        bytes: u64,
        hours: f64,
    },
    Pause,
    Resume,
    Finish,
    Stop,
    Preset {
        preset: PagePreset,
    },
    Conditions(Around),
    Ignore(Around),
    Peers {
        on: bool,
    },
    Membership {
        team: String,
        listed: bool,
    },
}

/// What goes on around the tab, or which of it to ignore. What a page does not say is not so.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "each of them holds or not, whatever the others do")]
pub(crate) struct Around {
    hidden: bool,
    on_battery: bool,
    mobile_data: bool,
    another_tab: bool,
    frozen: bool,
}

impl From<Around> for Conditions {
    fn from(around: Around) -> Self {
        let Around { hidden, on_battery, mobile_data, another_tab, frozen } = around;
        Self { hidden, on_battery, mobile_data, another_tab, frozen }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PagePreset {
    Quiet,
    Balanced,
    Full,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PageBackend {
    Auto,
    Webgpu,
    Wasm,
}

impl From<PagePreset> for Preset {
    fn from(preset: PagePreset) -> Self {
        match preset {
            PagePreset::Quiet => Self::Quiet,
            PagePreset::Balanced => Self::Balanced,
            PagePreset::Full => Self::Full,
        }
    }
}

impl From<PageBackend> for Choice {
    fn from(backend: PageBackend) -> Self {
        match backend {
            PageBackend::Auto => Self::Auto,
            PageBackend::Webgpu => Self::Gpu,
            PageBackend::Wasm => Self::Cpu,
        }
    }
}

/// What a person agreed to, at most a day.
fn hours(hours: f64) -> potluck_types::Duration {
    potluck_types::Duration((hours.clamp(0.0, 24.0) * 3_600_000.0) as u64)
}

impl TryFrom<Command> for Event {
    type Error = &'static str;

    fn try_from(command: Command) -> Result<Self, Self::Error> {
        Ok(match command {
            Command::Start { preset, backend, hours: agreed } => {
                Self::Start { preset: preset.into(), choice: backend.into(), valid_for: hours(agreed) }
            }
            Command::Fetch { hash, bytes, hours: agreed } => Self::Fetch {
                blob: BlobRef { hash: hash.parse().map_err(|_| "a hash has 64 hexadecimal digits")?, bytes },
                valid_for: hours(agreed),
            },
            Command::Pause => Self::Pause,
            Command::Resume => Self::Resume,
            Command::Finish => Self::Finish,
            Command::Stop => Self::Stop,
            Command::Preset { preset } => Self::SetPreset(preset.into()),
            Command::Conditions(around) => Self::Conditions(around.into()),
            Command::Ignore(around) => Self::Ignore(around.into()),
            Command::Peers { on } => Self::Peers(on),
            Command::Membership { team, listed } => Self::Membership(Membership { team, listed }),
        })
    }
}

/// One measured kernel, for the advanced panel.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measured {
    pub(crate) kernel: String,
    pub(crate) gflops: f64,
    pub(crate) rejected: Option<String>,
}

/// What the page shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// `running`, `waiting`, `paused`, `finishing`, `finished`, `failed`, `consent`.
    state: &'static str,
    /// Why, as a sentence.
    reason: String,
    backend: Option<&'static str>,
    gflops: f64,
    accepted: f64,
    rejected: f64,
    superseded: f64,
    last_rejection: Option<&'static str>,
    refusal: Option<String>,
    tile: Option<[u32; 3]>,
    busy_s: f64,
    measured_share: f64,
    allowed_share: f64,
    accepted_gflop: f64,
    bytes_in: f64,
    bytes_out: f64,
    /// `None` where inputs come from the relay only.
    peers: Option<Vec<PeerView>>,
    from_relay: f64,
    from_peers: f64,
    to_peers: f64,
    measured: Vec<Measured>,
    picture: Option<PictureView>,
}

/// A link to a peer. Rates are in bytes per second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerView {
    /// `direct`, `turn`, `connecting`.
    path: &'static str,
    received: f64,
    sent: f64,
    receiving: f64,
    sending: f64,
}

impl From<&Peer> for PeerView {
    fn from(peer: &Peer) -> Self {
        Self {
            path: match peer.path {
                Some(LinkPath::Direct) => "direct",
                Some(LinkPath::Turn) => "turn",
                None => "connecting",
            },
            received: peer.received as f64,
            sent: peer.sent as f64,
            receiving: peer.receiving as f64,
            sending: peer.sending as f64,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PictureView {
    name: String,
    columns: u16,
    #[serde(with = "bytes")]
    cells: Vec<u8>,
    accepted: f64,
    volunteers: u32,
}

/// A `Uint8Array` rather than a list of numbers.
mod bytes {
    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }
}

fn state(status: &Status) -> (&'static str, String) {
    match status.state {
        State::Idle => ("idle", String::new()),
        State::Computing => {
            let what = status.training.map(|training| format!("Computing: {training}."));
            let other = if status.evaluating { "Asking a model questions." } else { "Computing." };
            ("running", what.unwrap_or_else(|| other.into()))
        }
        State::Waiting(reason @ (WaitReason::Calibrating | WaitReason::Connecting)) => {
            ("starting", reason.sentence().into())
        }
        State::Waiting(reason) => {
            let detail = status.unproven.as_deref().filter(|_| reason == WaitReason::Unproven);
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            ("waiting", format!("{}{detail}", reason.sentence()))
        }
        State::Paused => ("paused", "You paused.".into()),
        State::Finishing => ("finishing", "Completing the last shard.".into()),
        State::Stopped => ("finished", "You stopped.".into()),
        State::ConsentExpired => ("consent", "The time you agreed to is over.".into()),
        State::NoDevice => ("failed", "Neither WebGPU nor wasm works on this device.".into()),
        State::Refused(_) => ("failed", "The relay refuses this tab.".into()),
    }
}

/// A sentence for a rejected result.
const fn rejection(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::WrongLength => "it had the wrong size",
        RejectReason::WrongHash => "its bytes were damaged",
        RejectReason::WrongProduct => "its numbers were wrong",
        RejectReason::NotDelivered => "it did not arrive in time",
        RejectReason::WrongAnswer => "its answers were not the model's",
        RejectReason::WrongUpdate => "its training steps gave something else when they were repeated",
    }
}

impl View {
    pub(crate) fn of(status: Status, measured: Vec<Measured>) -> Self {
        let (state, reason) = state(&status);
        Self {
            state,
            reason,
            backend: status.backend.map(|backend| match backend {
                Backend::WebGpu | Backend::NativeGpu => "webgpu",
                Backend::WasmSimd | Backend::NativeCpu => "wasm",
            }),
            gflops: f64::from(status.mflops) / 1e3,
            accepted: status.accepted as f64,
            rejected: status.rejected as f64,
            superseded: status.superseded as f64,
            last_rejection: status.last_rejection.map(rejection),
            refusal: status.refusal,
            tile: status.tile.map(|(rows, cols, depth)| [rows, cols, depth]),
            busy_s: status.busy_s,
            measured_share: status.measured_share,
            allowed_share: status.allowed_share,
            accepted_gflop: status.accepted_flops as f64 / 1e9,
            bytes_in: status.bytes_in as f64,
            bytes_out: status.bytes_out as f64,
            peers: status.peers_wanted.then(|| status.peers.iter().map(PeerView::from).collect()),
            from_relay: status.from_relay as f64,
            from_peers: status.from_peers as f64,
            to_peers: status.to_peers as f64,
            measured,
            picture: status.picture.map(|picture| PictureView {
                name: picture.name,
                columns: picture.columns,
                cells: picture.cells,
                accepted: f64::from(picture.accepted_permille) / 1e3,
                volunteers: picture.volunteers,
            }),
        }
    }
}
