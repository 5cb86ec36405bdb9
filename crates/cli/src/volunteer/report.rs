//! What the volunteer does, for people (a line that is kept current) and for programs (one object a change).

use super::Lending;
use crate::args::PresetArg;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use potluck_proto::{Backend, LinkPath, RejectReason};
use potluck_volunteer::{State, Status, WaitReason};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Pause between two plain lines when only counters changed.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The state's name in JSON.
pub const fn state_name(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Computing => "computing",
        State::Waiting(_) => "waiting",
        State::Paused => "paused",
        State::Finishing => "finishing",
        State::Stopped => "stopped",
        State::ConsentExpired => "consent_expired",
        State::NoDevice => "no_device",
        State::Refused(_) => "refused",
    }
}

/// The reason's name in JSON.
pub const fn reason_name(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Calibrating => "calibrating",
        WaitReason::Connecting => "connecting",
        WaitReason::Reconnecting => "reconnecting",
        WaitReason::RelayBusy => "relay_busy",
        WaitReason::FetchingInputs => "fetching_inputs",
        WaitReason::PassingOn => "passing_on",
        WaitReason::AskingForWork => "asking_for_work",
        WaitReason::NoWork => "no_work",
        WaitReason::AwaitingVerdict => "awaiting_verdict",
        WaitReason::CoolingDown => "cooling_down",
        WaitReason::TooLittleMemory => "too_little_memory",
        WaitReason::Unproven => "unproven",
        WaitReason::DeviceFailed => "device_failed",
        WaitReason::Hidden => "hidden",
        WaitReason::OnBattery => "on_battery",
        WaitReason::MobileData => "mobile_data",
        WaitReason::AnotherTab => "another_tab",
        WaitReason::Frozen => "frozen",
    }
}

const fn backend_name(backend: Option<Backend>) -> &'static str {
    match backend {
        None => "",
        Some(Backend::WebGpu) => "webgpu",
        Some(Backend::WasmSimd) => "wasm",
        Some(Backend::NativeGpu) => "gpu",
        Some(Backend::NativeCpu) => "cpu",
    }
}

const fn path_name(path: LinkPath) -> &'static str {
    match path {
        LinkPath::Direct => "direct",
        LinkPath::Turn => "turn",
    }
}

/// What a change is told by: everything else only moves along.
type Seen = (State, Option<Backend>, u64, u64, usize);

pub(super) struct Report {
    json: bool,
    spinner: Option<ProgressBar>,
    seen: Option<Seen>,
    last_line: Instant,
    last_accepted: u64,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let spinner = (!json && std::io::stderr().is_terminal()).then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner
        });
        Self { json, spinner, seen: None, last_line: Instant::now(), last_accepted: 0 }
    }

    /// Says once what starting the command means.
    pub(super) fn consent(&mut self, lending: &Lending, preset: PresetArg) {
        let Lending { relay, exchange, .. } = lending;
        let part = match preset {
            PresetArg::Quiet => "a quarter of the time",
            PresetArg::Balanced => "half of the time",
            PresetArg::Full => "all of the time",
        };
        if self.json {
            let event = serde_json::json!({
                "event": "consent", "relay": relay, "preset": preset.name(), "peers": exchange.peers,
            });
            line(&event);
        } else {
            let peers = if exchange.peers {
                "Inputs are exchanged with other volunteers, who see this machine's network address; --relay-only does \
                 without them."
            } else {
                "Nothing is exchanged with other volunteers."
            };
            eprintln!(
                "By starting this command you lend this machine to the jobs of {relay}, {part}, until the command ends.\n\
                 The relay's operator sees this machine's address and speed, and nothing else of it.\n\
                 {peers}\n\
                 Ctrl-C finishes the shard at hand; a second Ctrl-C stops at once."
            );
        }
    }

    pub(super) fn status(&mut self, status: &Status) {
        let seen = (status.state, status.backend, status.accepted, status.rejected, connected(status));
        let changed = self.seen != Some(seen);
        if self.json {
            if changed {
                line(&object(status));
            }
        } else if let Some(spinner) = &self.spinner {
            spinner.set_message(sentence(status));
            spinner.tick();
        } else {
            // On a log, computing and waiting alternate too fast to be worth a line each.
            let news = self.seen.is_none_or(|(_, backend, _, rejected, _)| {
                (backend, rejected) != (status.backend, status.rejected)
            });
            let due = self.last_line.elapsed() >= LINE_INTERVAL && changed;
            if news || due || status.accepted > 0 && self.last_accepted == 0 {
                self.last_line = Instant::now();
                self.last_accepted = status.accepted;
                eprintln!("{}", sentence(status));
            } else {
                // Keep what was last told, so that a later difference to it is news.
                return;
            }
        }
        self.seen = Some(seen);
        if let (Some(spinner), State::Stopped) = (&self.spinner, status.state) {
            spinner.println(sentence(status));
        }
    }

    pub(super) fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

fn line(object: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell about a closed pipe.
    let _ = writeln!(out, "{object}").and_then(|()| out.flush());
}

fn object(status: &Status) -> serde_json::Value {
    let reason = match status.state {
        State::Waiting(reason) => Some(reason_name(reason)),
        _ => None,
    };
    let peers: Vec<_> = status
        .peers
        .iter()
        .map(|peer| {
            serde_json::json!({
                "link": peer.link.to_string(),
                "path": peer.path.map(path_name),
                "received": peer.received,
                "sent": peer.sent,
            })
        })
        .collect();
    serde_json::json!({
        "event": "status",
        "state": state_name(status.state),
        "reason": reason,
        "backend": backend_name(status.backend),
        "mflops": status.mflops,
        "training": status.training.map(|training| {
            serde_json::json!({ "round": training.round, "step": training.step, "steps": training.steps })
        }),
        "unproven": status.unproven,
        "accepted": status.accepted,
        "rejected": status.rejected,
        "last_rejection": status.last_rejection.map(RejectReason::name),
        "superseded": status.superseded,
        "busy_s": status.busy_s,
        "share": status.measured_share,
        "accepted_flops": status.accepted_flops,
        "bytes_in": status.bytes_in,
        "bytes_out": status.bytes_out,
        "peers": peers,
        "from_relay": status.from_relay,
        "from_peers": status.from_peers,
        "to_peers": status.to_peers,
    })
}

/// Peers that links reach at the moment.
fn connected(status: &Status) -> usize {
    status.peers.iter().filter(|peer| peer.path.is_some()).count()
}

/// What comes from peers and goes to them; nothing where that is not wanted and has not been.
fn exchanged(status: &Status) -> String {
    if !status.peers_wanted && status.from_peers + status.to_peers == 0 {
        return String::new();
    }
    let peers = match connected(status) {
        1 => "1 peer".to_owned(),
        many => format!("{many} peers"),
    };
    format!(
        "; {peers}, {} from peers, {} to peers",
        HumanBytes(status.from_peers),
        HumanBytes(status.to_peers)
    )
}

fn sentence(status: &Status) -> String {
    let what = match status.state {
        State::Idle => "Starting.".to_owned(),
        State::Computing => match (&status.tile, &status.picture) {
            (Some((rows, cols, depth)), Some(picture)) => {
                format!("Computing {rows} x {cols} x {depth} of \"{}\".", picture.name)
            }
            (Some((rows, cols, depth)), None) => format!("Computing {rows} x {cols} x {depth}."),
            _ => status
                .training
                .map_or_else(|| "Computing.".to_owned(), |training| format!("Computing: {training}.")),
        },
        State::Waiting(reason) => reason.sentence().to_owned(),
        State::Paused => "Paused.".to_owned(),
        State::Finishing => "Finishing the shard at hand; Ctrl-C again stops at once.".to_owned(),
        State::Stopped => "Stopped.".to_owned(),
        State::ConsentExpired => "The agreed time is over.".to_owned(),
        State::NoDevice => "No device works.".to_owned(),
        State::Refused(_) => "The relay refuses this volunteer.".to_owned(),
    };
    let device = match status.backend {
        Some(backend) => format!(
            " {} at {:.1} GFLOP/s, {:.0} % of the time;",
            backend_name(Some(backend)).to_uppercase(),
            f64::from(status.mflops) / 1e3,
            status.measured_share * 100.0
        ),
        None => String::new(),
    };
    format!(
        "{what}{device} {} accepted, {} rejected, {} in, {} out{}",
        status.accepted,
        status.rejected,
        HumanBytes(status.bytes_in),
        HumanBytes(status.bytes_out),
        exchanged(status)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_types::LinkId;
    use potluck_volunteer::{Engine, Options, Peer, Training};

    #[test]
    fn a_status_is_told_in_both_forms() {
        let engine = Engine::new(Options {
            key: potluck_types::VolunteerKey([1; 32]),
            agent: String::new(),
            origin: "native".into(),
            text_version: 1,
            memory_bytes: 1,
            cache_bytes: 1,
            jitter: 0,
            relay_host: String::new(),
            upload_bytes_per_s: None,
            demand_proof: false,
            seed: false,
        });
        let mut status = engine.status();
        status.state = State::Waiting(WaitReason::NoWork);
        status.backend = Some(Backend::NativeCpu);
        status.mflops = 1500;
        status.accepted = 3;
        let object = object(&status);
        assert_eq!(object["reason"], "no_work");
        assert_eq!(object["accepted"], 3);
        assert!(object["training"].is_null());
        let text = sentence(&status);
        assert!(text.contains("no work at the moment") && text.contains("CPU at 1.5 GFLOP/s"), "{text}");
        status.state = State::Computing;
        status.training = Some(Training { round: 3, step: 7, steps: 20 });
        let object = super::object(&status);
        assert_eq!(object["training"], serde_json::json!({ "round": 3, "step": 7, "steps": 20 }));
        let text = sentence(&status);
        assert!(text.starts_with("Computing: training round 3, step 7 of 20. CPU"), "{text}");
        assert!(!text.contains("peer"), "{text}");
        status.peers_wanted = true;
        let peer = Peer {
            link: LinkId([1; 16]),
            path: Some(LinkPath::Turn),
            received: 5,
            sent: 6,
            receiving: 0,
            sending: 0,
        };
        status.peers = vec![peer, Peer { link: LinkId([2; 16]), path: None, ..peer }];
        (status.from_relay, status.from_peers, status.to_peers) = (1, 2 << 20, 3 << 10);
        let object = super::object(&status);
        assert_eq!(object["peers"][0]["path"], "turn");
        assert_eq!(object["peers"][0]["received"], 5);
        assert!(object["peers"][1]["path"].is_null());
        assert_eq!((&object["from_relay"], &object["from_peers"]), (&1.into(), &(2 << 20).into()));
        let text = sentence(&status);
        assert!(text.ends_with("; 1 peer, 2.00 MiB from peers, 3.00 KiB to peers"), "{text}");
    }
}
