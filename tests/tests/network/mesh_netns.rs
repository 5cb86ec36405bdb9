//! Two volunteers and a relay on hosts of their own: whatever lies between them, the job gets done and its result is
//! right, and they pass inputs on to each other wherever there is a way.
//!
//! The relay's link is slow, so that inputs are on their way for a while.

use potluck_tests::netns::{Host, Lab, Net};
use potluck_tests::npy::{self, LowRank, f32_file};
use potluck_tests::process::Process;
use potluck_tests::{Api, alone, wait_until};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Time for a program to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time for the job: a megabyte a second, with room.
const JOB_LIMIT: Duration = Duration::from_secs(240);
/// Time until a volunteer whose cable is in again receives as it did before: TCP and the volunteer wait longer after each
/// failure, up to a minute.
const RESUME_LIMIT: Duration = Duration::from_secs(120);
/// Inputs of 32 MiB each; both volunteers need parts of both.
const SHAPE: MatmulShape = MatmulShape { m: 2048, k: 4096, n: 2048 };
/// The relay's uplink: the inputs take 13 s for each volunteer, if nobody else helps.
const MBIT: u32 = 40;
/// The same where a cable is pulled.
const SLOW_MBIT: u32 = 16;
/// Where the relay listens.
const PORT: u16 = 8787;

/// A cable that is pulled for a while.
#[derive(Clone, Copy)]
struct Cut {
    /// When the first volunteer has received so many bytes of the inputs.
    after: u64,
    time: Duration,
}

struct Case {
    volunteers: [Net; 2],
    /// Whether they exchange inputs.
    peers: bool,
    /// Whether the relay serves STUN and TURN.
    turn: bool,
    mbit: u32,
    /// Pulls the first volunteer's cable, and then the second's until the first goes on.
    cut: Option<Cut>,
}

/// What is known at the end.
struct Outcome {
    /// The last line of each volunteer.
    volunteers: [Value; 2],
    job: Value,
    /// Bytes that left the relay's host while the job ran.
    sent: u64,
    /// The relay's figures.
    metrics: Metrics,
    /// Whether cables were pulled.
    cut: bool,
}

struct Metrics {
    saved: u64,
    turned: u64,
}

pub(super) fn potluck(host: &Host, args: &[&str]) -> std::process::Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_command"));
    command.args(args);
    command
}

pub(super) struct Relay {
    host: Host,
    api: Api,
    process: Process,
    _data: TempDir,
}

impl Relay {
    pub(super) fn start(host: Host, turn: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [config, data] = ["potluck.toml", "data"].map(|name| folder.path().join(name));
        let listen = format!("{}:{PORT}", host.address());
        let data = data.to_str().unwrap();
        let settings =
            if turn { format!("[turn]\nlisten = \"{}:3478\"\n", host.address()) } else { String::new() };
        std::fs::write(&config, format!("listen = \"{listen}\"\ndata = {data:?}\n{settings}")).unwrap();
        let process = Process::start(
            "the relay",
            &mut potluck(&host, &["relay", "--json", "--config", config.to_str().unwrap()]),
        );
        let ready = process.wait_for(START_LIMIT, |line| serde_json::from_str::<Value>(line).ok());
        let token = std::fs::read_to_string(ready["token_path"].as_str().unwrap()).unwrap();
        let api = Api::new(&format!("http://{listen}"), &token);
        Self { host, api, process, _data: folder }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn url(&self) -> &str {
        &self.api.url
    }

    /// Asks the relay something from its own host.
    pub(super) fn ask<T: Send>(&self, ask: impl FnOnce(&Api) -> T + Send) -> T {
        self.host.within(|| ask(&self.api))
    }
}

/// A volunteer that waits for work.
pub(super) fn volunteer(host: &Host, relay: &str, folder: &Path, name: &str, peers: bool) -> Process {
    let process = lending(host, relay, folder, name, peers);
    process.wait_for(START_LIMIT, |line| {
        (serde_json::from_str::<Value>(line).ok()?["reason"] == "no_work").then_some(())
    });
    process
}

/// A volunteer, whatever it does.
pub(super) fn lending(host: &Host, relay: &str, folder: &Path, name: &str, peers: bool) -> Process {
    let key = folder.join(name);
    let args = ["volunteer", "--json", "--backend", "cpu", "--relay", relay, "--key"];
    let mut command = potluck(host, &args);
    command.arg(key);
    if !peers {
        command.arg("--relay-only");
    }
    Process::start(name, &mut command)
}

/// Whether a volunteer says that its link works.
fn is_linked(volunteer: &Process) -> bool {
    volunteer.last_json().is_some_and(|status| status["peers"][0]["path"].is_string())
}

/// Runs the case to its end; the result is right. `None` where there is no lab.
fn run(case: &Case) -> Option<Outcome> {
    let mut lab = Lab::new()?;
    let keys = tempfile::tempdir().unwrap();
    let relay = Relay::start(lab.host("relay", Net::Public), case.turn);
    let hosts = [0, 1].map(|one| lab.host(["first", "second"][one], case.volunteers[one]));
    let names = ["first", "second"];
    let volunteers =
        [0, 1].map(|one| volunteer(&hosts[one], relay.url(), keys.path(), names[one], case.peers));
    let udp = !case.volunteers.contains(&Net::UdpBlocked);
    let direct = !case.volunteers.contains(&Net::SymmetricNat);
    if case.peers && udp && (direct || case.turn) {
        wait_until("they are linked", START_LIMIT, || volunteers.iter().all(is_linked));
    }
    relay.host.shape_mbit(case.mbit);

    let known = LowRank::new(SHAPE, 11);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    let before = relay.host.traffic().sent;
    let started = Instant::now();
    let id = relay.ask(|api| api.submit(&files[0], &files[1], &json!({ "name": "between hosts" })));
    if let Some(cut) = case.cut {
        let at = hosts[0].traffic().received;
        wait_until("inputs are on their way", JOB_LIMIT, || hosts[0].traffic().received > at + cut.after);
        hosts[0].cut();
        // This is what is tried, not a wait for something.
        std::thread::sleep(cut.time);
        let silent = hosts[0].traffic().received;
        assert_ne!(relay.ask(|api| api.job(&id))["state"], "done", "the job needs what is cut off");
        // Now the first one alone can go on.
        hosts[1].cut();
        assert!(!volunteers.iter().any(is_linked), "the link is cut as well");
        hosts[0].join();
        let joined = Instant::now();
        wait_until("transfers go on", RESUME_LIMIT, || hosts[0].traffic().received > silent + cut.after);
        println!("{} bytes came within {:.1} s of the cable", cut.after, joined.elapsed().as_secs_f64());
        hosts[1].join();
    }
    while relay.ask(|api| api.job(&id))["state"] != "done" {
        let stories = || volunteers.iter().chain([&relay.process]).map(Process::story).collect::<Vec<_>>();
        assert!(
            started.elapsed() < JOB_LIMIT,
            "not done: {}\n{}",
            relay.ask(|api| api.job(&id)),
            stories().join("\n")
        );
        std::thread::sleep(Duration::from_millis(250));
    }
    let seconds = started.elapsed().as_secs_f64();
    let sent = relay.host.traffic().sent - before;
    let result = relay.ask(|api| api.get(&format!("/api/v1/jobs/{id}/result")));
    assert_eq!(result.status, 200);
    let (shape, values) = npy::read(&result.body);
    assert_eq!(shape, [SHAPE.m, SHAPE.n].map(u64::from));
    assert!(values == known.c, "the product is wrong");
    let job = relay.ask(|api| api.job(&id));
    let metrics = relay.ask(|api| Metrics {
        saved: api.metric("relay_saved_bytes_total"),
        turned: api.metric("turn_bytes_total"),
    });
    // The last verdict may still be on its way.
    let accepted = |volunteers: &[Process; 2]| {
        let statuses = volunteers.iter().filter_map(Process::last_json);
        statuses.filter_map(|status| status["accepted"].as_u64()).sum::<u64>()
    };
    wait_until("the volunteers know", START_LIMIT, || {
        accepted(&volunteers) == job["shards"].as_u64().unwrap()
    });
    if case.cut.is_some() && case.peers {
        let back = Instant::now();
        wait_until("the link works again", RESUME_LIMIT, || volunteers.iter().all(is_linked));
        println!("the link works again, {:.1} s after the job", back.elapsed().as_secs_f64());
    }
    let volunteers = volunteers.map(|volunteer| volunteer.last_json().unwrap());
    let nets = case.volunteers;
    println!("{nets:?}: {seconds:.1} s, {:.1} MB left the relay", sent as f64 / 1e6);
    volunteers.iter().for_each(|status| println!("  {status}"));
    let taken_part = job["contributors"].as_array().unwrap().len();
    assert_eq!(taken_part, 2, "both take part: {job}");
    Some(Outcome { volunteers, job, sent, metrics, cut: case.cut.is_some() })
}

/// Bytes of the inputs.
fn inputs() -> u64 {
    u64::from(SHAPE.m + SHAPE.n) * u64::from(SHAPE.k) * 4
}

impl Outcome {
    fn passed(&self) -> [u64; 2] {
        self.volunteers.each_ref().map(|status| status["from_peers"].as_u64().unwrap())
    }

    fn paths(&self) -> [&Value; 2] {
        self.volunteers.each_ref().map(|status| &status["peers"][0]["path"])
    }
}

/// What holds whatever lies between the hosts.
fn check(outcome: &Outcome) {
    assert_eq!(outcome.job["rejections"], json!([]), "nobody is blamed");
    assert!(outcome.sent >= inputs(), "every input leaves the relay once at least");
    for status in &outcome.volunteers {
        // A cable may be pulled while a result is on its way.
        let undelivered = outcome.cut && status["last_rejection"] == "not_delivered";
        assert!(status["rejected"] == 0 || undelivered, "{status}");
    }
}

#[test]
fn public_hosts() {
    let _alone = alone();
    let case = Case { volunteers: [Net::Public; 2], peers: true, turn: false, mbit: MBIT, cut: None };
    let Some(outcome) = run(&case) else { return };
    check(&outcome);
    assert_eq!(outcome.paths(), ["direct"; 2]);
    assert!(outcome.passed().iter().all(|bytes| *bytes > 0), "both give");
    assert!(outcome.sent < inputs() * 3 / 2, "{} bytes left the relay", outcome.sent);
    let [a, b] = outcome.passed();
    assert!(outcome.metrics.saved > u64::midpoint(a, b), "{} bytes saved", outcome.metrics.saved);
}

#[test]
fn public_hosts_without_peers() {
    let _alone = alone();
    let case = Case { volunteers: [Net::Public; 2], peers: false, turn: false, mbit: MBIT, cut: None };
    let Some(outcome) = run(&case) else { return };
    check(&outcome);
    assert_eq!(outcome.passed(), [0, 0]);
    assert!(outcome.volunteers.iter().all(|status| status["peers"] == json!([])));
    assert!(outcome.sent > inputs() * 3 / 2, "both need most of the inputs: {} bytes", outcome.sent);
}

#[test]
fn behind_symmetric_routers_only_turn_leads_anywhere() {
    let _alone = alone();
    let case = Case { volunteers: [Net::SymmetricNat; 2], peers: true, turn: true, mbit: MBIT, cut: None };
    let Some(outcome) = run(&case) else { return };
    check(&outcome);
    assert_eq!(outcome.paths(), ["turn"; 2]);
    assert!(outcome.passed().iter().all(|bytes| *bytes > 0));
    assert!(outcome.metrics.turned > outcome.passed().iter().sum(), "{} bytes", outcome.metrics.turned);
}

#[test]
fn behind_symmetric_routers_without_turn_there_is_the_relay() {
    let _alone = alone();
    let case = Case { volunteers: [Net::SymmetricNat; 2], peers: true, turn: false, mbit: MBIT, cut: None };
    let Some(outcome) = run(&case) else { return };
    check(&outcome);
    assert_eq!(outcome.passed(), [0, 0]);
}

#[test]
fn where_udp_is_blocked_there_is_the_relay() {
    let _alone = alone();
    let case =
        Case { volunteers: [Net::UdpBlocked, Net::Nat], peers: true, turn: true, mbit: MBIT, cut: None };
    let Some(outcome) = run(&case) else { return };
    check(&outcome);
    assert_eq!(outcome.passed(), [0, 0]);
}

#[test]
fn a_cable_is_pulled_for_a_while() {
    let _alone = alone();
    // The other volunteer alone gets no more than 40 MB in this time.
    let cut = Cut { after: 8 << 20, time: Duration::from_secs(20) };
    let volunteers = [Net::Nat, Net::Public];
    let case = Case { volunteers, peers: true, turn: true, mbit: SLOW_MBIT, cut: Some(cut) };
    let Some(outcome) = run(&case) else { return };
    // That the link works again was waited for. Whether the job has anything left to pass on by then is a matter of time.
    check(&outcome);
}
