//! Three nodes of a relay, PostgreSQL and an S3 service, each on a host of its own, and tabs of a real browser elsewhere: while nodes
//! are killed at random, products and a training run come out right, and the audit passes.

use super::mesh_netns::potluck;
use potluck_cli::cdp::find_chromium;
use potluck_tests::balancer::Balancer;
use potluck_tests::bucket::Bucket;
use potluck_tests::netns::{Host, Lab, Net, REQUIRED};
use potluck_tests::npy::{self, LowRank, f32_file};
use potluck_tests::postgres::{Postgres, is_installed};
use potluck_tests::process::Process;
use potluck_tests::runs::{SampleRun, info, rounds};
use potluck_tests::{Api, alone, copy_node, has_page, wait_until};
use potluck_types::MatmulShape;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For how many seconds nodes are killed, if it is to be another time than usual.
const TIME: &str = "POTLUCK_CHAOS_S";
/// Usually: two or three of them die.
const USUAL_S: u64 = 20;
/// A node that was killed is away for so long, and the next one dies so long after, in milliseconds: from, and up to.
const AWAY_MS: [u64; 2] = [1000, 4000];
const QUIET_MS: [u64; 2] = [2000, 5000];
/// A round takes tabs less than so long, busy as they are with products.
const ROUND_S: u64 = 3;
const LIMIT: Duration = Duration::from_secs(240);
/// 16 units, which tabs of one machine compute within seconds.
const SHAPE: MatmulShape = MatmulShape { m: 1024, k: 512, n: 1024 };
const PORT: u16 = 8787;

struct Node {
    host: Host,
    data: PathBuf,
    process: Option<Process>,
}

impl Node {
    fn url(&self) -> String {
        format!("http://{}:{PORT}", self.host.address())
    }

    fn start(&mut self, environment: &[(&str, String)]) {
        let url = self.url();
        let listen = url.trim_start_matches("http://");
        let data = self.data.to_str().unwrap();
        let line = ["relay", "--json", "--listen", listen, "--data", data, "--node", &url];
        let mut command = potluck(&self.host, &line);
        // The process forgets what the settings say, and these are the test's own.
        let words = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let program: Vec<_> =
            [command.get_program()].into_iter().chain(command.get_args()).map(ToOwned::to_owned).collect();
        command = std::process::Command::new("env");
        command.args(words).args(program);
        let process = Process::start("a node", &mut command);
        process.wait_for(LIMIT, |line| serde_json::from_str::<Value>(line).ok());
        self.process = Some(process);
    }

    fn leads(&self) -> bool {
        let url = self.url();
        self.process.is_some()
            && self.host.within(|| {
                let answer = Api::new(&url, "").try_send("GET", "/node", &[], &[]);
                answer.is_ok_and(|answer| answer.json()["role"] == "leading")
            })
    }
}

/// Numbers that are the same each time (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn between(&mut self, [from, to]: [u64; 2]) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Kills nodes until the time is over: how many, and how many of them led.
fn chaos(nodes: &mut [Node], environment: &[(&str, String)], time: Duration) -> [u32; 2] {
    let (mut chance, begun, mut killed) = (Chance(2026), Instant::now(), [0; 2]);
    while begun.elapsed() < time {
        // Every other time the one that leads.
        let leads = nodes.iter().position(Node::leads).filter(|_| chance.below(2) == 0);
        let at = leads.unwrap_or_else(|| chance.below(nodes.len() as u64) as usize);
        killed[0] += 1;
        killed[1] += u32::from(nodes[at].leads());
        // Dropped, it is killed with SIGKILL.
        nodes[at].process = None;
        std::thread::sleep(chance.between(AWAY_MS));
        nodes[at].start(environment);
        std::thread::sleep(chance.between(QUIET_MS));
    }
    killed
}

/// Submits products, one after the other, until it is told to end: how many came out right.
fn products(host: &Host, url: &str, folder: &Path, go_on: &std::sync::atomic::AtomicBool) -> u32 {
    let [a, b, out, token] = ["a.npy", "b.npy", "c.npy", "token"].map(|name| folder.join(name));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut done = 0;
    while go_on.load(std::sync::atomic::Ordering::Relaxed) || done == 0 {
        let known = LowRank::new(SHAPE, u64::from(done) + 1);
        let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
        fs::write(&a, f32_file(&[m, k], &known.a)).unwrap();
        fs::write(&b, f32_file(&[k, n], &known.b)).unwrap();
        let files = [path(&a), path(&b), path(&out), path(&token)];
        let line = [
            "submit",
            "matmul",
            &files[0],
            &files[1],
            "--out",
            &files[2],
            "--relay",
            url,
            "--token-file",
            &files[3],
            "--json",
        ];
        Process::start("a submitter", &mut potluck(host, &line)).succeeds(LIMIT);
        assert!(npy::read(&fs::read(&out).unwrap()).1 == known.c, "a product is wrong");
        fs::remove_file(&out).unwrap();
        done += 1;
    }
    done
}

/// Says that there is nothing to test with, where that may be.
fn skipped(why: &str) {
    assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and {why}");
    eprintln!("skipped: {why}");
}

#[test]
fn nodes_are_killed_at_random_and_tabs_finish_what_they_were_given() {
    let Some(mut lab) = Lab::new() else { return };
    if !is_installed() || find_chromium().is_none() {
        return skipped("PostgreSQL or Chromium is not installed");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let store = lab.host("store", Net::Public);
    let server = Postgres::start_on(&store);
    drop(server.database());
    let bucket = store.within(|| Bucket::start_at(store.address()));
    let shared = [("POTLUCK_STORE", server.last_url()), ("POTLUCK_BLOBS", Bucket::place("nodes"))];
    let environment: Vec<_> = shared.into_iter().chain(bucket.environment()).collect();
    let names = ["one", "two", "three"];
    let mut nodes: Vec<Node> = names
        .iter()
        .map(|name| Node { host: lab.host(name, Net::Public), data: folder.path().join(name), process: None })
        .collect();
    for at in 0..nodes.len() {
        if at > 0 {
            copy_node(&nodes[0].data, &nodes[at].data);
        }
        nodes[at].start(&environment);
        wait_until("a node leads", LIMIT, || nodes.iter().any(Node::leads));
    }
    let token = fs::read_to_string(nodes[0].data.join("token")).unwrap();
    fs::write(folder.path().join("token"), &token).unwrap();

    // Beside the tabs, for browsers compute only for what comes from their own machine, or by TLS.
    let home = lab.host("home", Net::Nat);
    let addresses: Vec<_> = nodes.iter().map(|node| (node.host.address(), PORT).into()).collect();
    let url = home.within(|| Balancer::start(([127, 0, 0, 1], 0).into(), addresses)).url();
    let api = Api::new(&url, &token);
    if !home.within(|| has_page(&api)) {
        return skipped("the page is not built");
    }
    let time = std::env::var(TIME).ok().map_or(USUAL_S, |text| text.parse().expect("seconds"));
    let sample = SampleRun::new((time / ROUND_S).max(4), [1, 2]);
    let (_, run) = home.within(|| sample.create(&api, "while nodes die"));
    let tabs = ["tabs", "--count", "2", "--backend", "wasm", "--json", "--relay", &url];
    let tabs = Process::start("the tabs", &mut potluck(&home, &tabs));
    wait_until("a round is closed", LIMIT, || home.within(|| rounds(&api, &run)) >= 1);

    let go_on = std::sync::atomic::AtomicBool::new(true);
    let (killed, products) = std::thread::scope(|scope| {
        let products = scope.spawn(|| products(&home, &url, folder.path(), &go_on));
        let killed = chaos(&mut nodes, &environment, Duration::from_secs(time));
        go_on.store(false, std::sync::atomic::Ordering::Relaxed);
        (killed, products.join().unwrap())
    });
    let closed = home.within(|| rounds(&api, &run));
    let state = || home.within(|| info(&api, &run));
    let begun = Instant::now();
    while state()["state"] != "done" {
        assert!(state()["state"] == "running" && begun.elapsed() < LIMIT, "{}\n{}", state(), tabs.story());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(home.within(|| rounds(&api, &run)), sample.rounds);
    assert!(killed[1] > 0, "none of {} that were killed led", killed[0]);
    let remember = folder.path().join("seen");
    let audit = ["audit", &url, "--json", "--remember", remember.to_str().unwrap()];
    Process::start("the audit", &mut potluck(&home, &audit)).succeeds(LIMIT);
    println!(
        "{time} s: {} nodes killed, {} of them while they led; {products} products right; {closed} of {} rounds closed meanwhile",
        killed[0], killed[1], sample.rounds
    );
}
