//! The relay is killed in the middle of a job, ten times at random moments, and everybody goes on: no accepted
//! shard is lost, none counts twice, the submitter who waits gets the right product.
#![expect(
    clippy::unwrap_used,
    clippy::duration_suboptimal_units,
    clippy::float_cmp,
    reason = "in a test an unwrap is how it fails, limits in seconds compare at a glance, and small whole numbers are exact"
)]

use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often the relay is killed.
const KILLS: usize = 10;
/// The product: two slices of K, 134 GFLOP.
const M: usize = 5120;
const K: usize = 2560;
const N: usize = 5120;
/// Slices of K that the relay cuts: 2,048 deep at most.
const SLICES: u64 = 2;
/// Time for a relay to answer after it was started on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time for the volunteer to come back and have a shard accepted.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);
/// Time for the whole job after the last kill.
const END_LIMIT: Duration = Duration::from_secs(300);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(25);
/// Seed of the random moments, unless `POTLUCK_SEED` names another.
const SEED: u64 = 3;

/// A process that does not outlive the test.
struct Guarded(Child);

impl Guarded {
    fn start(args: &[&str], environment: &[(&str, &Path)], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_potluck"));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        for variable in ["POTLUCK_RELAY", "POTLUCK_TOKEN", "POTLUCK_LISTEN", "POTLUCK_DATA", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.envs(environment.iter().copied());
        Self(command.spawn().unwrap())
    }

    /// SIGKILL, and waits until the process is gone.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number from `-most` to `most`.
    fn small(&mut self, most: i64) -> i64 {
        (self.next() % (2 * most + 1).cast_unsigned()).cast_signed() - most
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.next() % below)
    }
}

/// A = p·q and B = r·s of rank one, plus the identity's pattern on A: small whole numbers, exact in f32 in any
/// order, whose product needs no kernel: C = (q·r) p·s + (rows of B, where A has its ones).
struct Known {
    p: Vec<i64>,
    q: Vec<i64>,
    r: Vec<i64>,
    s: Vec<i64>,
}

impl Known {
    fn new(random: &mut Random) -> Self {
        let mut draw = |count: usize| (0..count).map(|_| random.small(3)).collect();
        Self { p: draw(M), q: draw(K), r: draw(K), s: draw(N) }
    }

    fn a(&self, i: usize, k: usize) -> i64 {
        self.p[i] * self.q[k] + i64::from(i % K == k)
    }

    fn b(&self, k: usize, j: usize) -> i64 {
        self.r[k] * self.s[j]
    }

    fn first_wrong(&self, c: &[f32]) -> Option<(usize, usize, f32, i64)> {
        let inner: i64 = self.q.iter().zip(&self.r).map(|(q, r)| q * r).sum();
        let expected = |i: usize, j: usize| inner * self.p[i] * self.s[j] + self.b(i % K, j);
        let places = (0..M).flat_map(|i| (0..N).map(move |j| (i, j)));
        places
            .zip(c)
            .map(|((i, j), &found)| (i, j, found, expected(i, j)))
            .find(|&(_, _, found, expected)| f64::from(found) != expected as f64)
    }
}

fn write(path: &Path, rows: usize, cols: usize, element: impl Fn(usize, usize) -> i64) {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend(text.as_bytes());
    file.resize(127, b' ');
    file.push(b'\n');
    for row in 0..rows {
        (0..cols).for_each(|col| file.extend((element(row, col) as f32).to_le_bytes()));
    }
    std::fs::write(path, file).unwrap();
}

fn read(path: &Path) -> Vec<f32> {
    npyz::NpyFile::new(&std::fs::read(path).unwrap()[..]).unwrap().into_vec().unwrap()
}

/// The relay's process and what is asked of it over HTTP.
struct Relay {
    port: u16,
    folder: PathBuf,
    agent: ureq::Agent,
    process: Option<Guarded>,
}

impl Relay {
    fn start(&mut self) {
        let (listen, data) = (format!("127.0.0.1:{}", self.port), self.folder.join("data"));
        let args = ["relay", "--listen", &listen, "--data", data.to_str().unwrap()];
        self.process = Some(Guarded::start(&args, &[], &self.folder.join("relay.log")));
    }

    fn kill(&mut self) {
        self.process.take().expect("the relay runs").kill();
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the relay answers now, if it does.
    fn get(&self, path: &str) -> Option<Value> {
        let token = std::fs::read_to_string(self.folder.join("data/token")).ok()?;
        let request = self.agent.get(format!("{}{path}", self.url()));
        let mut response = request.header("authorization", format!("Bearer {}", token.trim())).call().ok()?;
        serde_json::from_slice(&response.body_mut().read_to_vec().ok()?).ok()
    }

    /// Waits for an answer that will do.
    fn wait<T>(&self, what: &str, limit: Duration, look: impl Fn(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if started.elapsed() > limit {
                let mut log = String::new();
                File::open(self.folder.join("relay.log")).unwrap().read_to_string(&mut log).unwrap();
                let tail: Vec<_> = log.lines().rev().take(30).collect();
                panic!("{what}: not within {} s; the relay's log, newest first: {tail:#?}", limit.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    fn job(&self, id: &str) -> Option<Value> {
        self.get(&format!("/api/v1/jobs/{id}")).filter(|job| job["state"].is_string())
    }
}

/// Units of the grid that are accepted, as the machine counts; the store's shards; elements over all contributors.
fn counts(job: &Value) -> [u64; 3] {
    let elements =
        job["contributors"].as_array().into_iter().flatten().map(|one| one["elements"].as_u64().unwrap());
    [job["progress"]["accepted"].as_u64().unwrap_or(0), job["shards"].as_u64().unwrap(), elements.sum()]
}

#[test]
fn ten_kills_lose_nothing_and_count_nothing_twice() {
    let seed = std::env::var("POTLUCK_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
    println!("seed {seed} (POTLUCK_SEED repeats it)");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let known = Known::new(&mut random);
    write(&path("a.npy"), M, K, |i, k| known.a(i, k));
    write(&path("b.npy"), K, N, |k, j| known.b(k, j));

    // The port is free now, and nobody but this test asks for it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let agent =
        ureq::Agent::config_builder().proxy(None).timeout_global(Some(START_LIMIT)).build().new_agent();
    let mut relay = Relay { port, folder: folder.path().to_owned(), agent, process: None };
    relay.start();
    relay.wait("the relay answers", START_LIMIT, |relay| relay.get("/healthz"));

    let (url, key) = (relay.url(), path("volunteer.key"));
    // Half of the time, so that the job lasts longer than ten kills.
    let lend = [
        "volunteer",
        "--backend",
        "cpu",
        "--preset",
        "balanced",
        "--relay",
        &url,
        "--key",
        key.to_str().unwrap(),
    ];
    let mut volunteer = Guarded::start(&lend, &[], &path("volunteer.log"));
    let token = path("data/token");
    let [a, b, c] = ["a.npy", "b.npy", "c.npy"].map(path);
    let [a, b, c, token] = [&a, &b, &c, &token].map(|path| path.to_str().unwrap());
    let submit = ["submit", "matmul", a, b, "--out", c, "--relay", &url, "--token-file", token, "--json"];
    let mut submitter = Guarded::start(&submit, &[], &path("submit.log"));
    let id = relay.wait("the job is there", START_LIMIT, |relay| {
        Some(relay.get("/api/v1/jobs")?[0]["id"].as_str()?.to_owned())
    });

    let (mut before, mut units) = ([0_u64; 3], u64::MAX);
    for kill in 1..=KILLS {
        // Three in ten hit a relay that just starts; the others one that works. Where the job is ahead of the kills,
        // they come early as well, so that a fast machine does not finish it before the last one.
        let ahead = before[0].saturating_mul(KILLS as u64 + 2) > units.saturating_mul(kill as u64);
        let early = kill > 1 && (random.next() % 10 < 3 || ahead);
        if !early {
            let now = relay.wait("a shard is accepted", PROGRESS_LIMIT, |relay| {
                let now = counts(&relay.job(&id)?);
                (0..3).for_each(|i| assert!(i == 0 || now[i] >= before[i], "{now:?} after {before:?}"));
                (now[1] > before[1]).then_some(now)
            });
            before = now;
        }
        let pause = if early { random.millis(250) } else { random.millis(900) };
        std::thread::sleep(pause);
        if !early {
            // What is answered now was accepted before the kill.
            let job = relay.job(&id).expect("the relay answers");
            assert_eq!(job["state"], "running", "the job ended before kill {kill}: it is too small");
            before = counts(&job);
            units = job["progress"]["units"].as_u64().unwrap();
        }
        relay.kill();
        println!(
            "kill {kill}: {} ms after {}, {before:?} units, shards, elements",
            pause.as_millis(),
            if early { "the start" } else { "progress" }
        );
        assert_eq!(submitter.ended(), None, "the submitter gave up");
        assert_eq!(volunteer.ended(), None, "the volunteer gave up");
        relay.start();
        if kill == KILLS {
            let job = relay.wait("the relay answers", START_LIMIT, |relay| relay.job(&id));
            let now = counts(&job);
            assert!((0..3).all(|i| now[i] >= before[i]), "{now:?} after {before:?}");
        }
    }

    let job =
        relay.wait("the job is done", END_LIMIT, |relay| relay.job(&id).filter(|job| job["state"] == "done"));
    let [_, shards, elements] = counts(&job);
    assert!(shards >= before[1]);
    assert_eq!(elements, (M * N) as u64 * SLICES, "every unit counts once: {job}");
    assert_eq!(job["rejections"].as_array().map(Vec::len), Some(0), "{job}");
    let health = relay.get("/healthz").unwrap();
    assert_eq!(health["incarnation"].as_u64(), Some(KILLS as u64 + 1));

    let started = Instant::now();
    let status = loop {
        if let Some(status) = submitter.ended() {
            break status;
        }
        assert!(started.elapsed() < END_LIMIT, "the submitter does not end");
        std::thread::sleep(POLL);
    };
    let log = std::fs::read_to_string(path("submit.log")).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert_eq!(known.first_wrong(&read(&path("c.npy"))), None, "row, column, found, expected");
}
