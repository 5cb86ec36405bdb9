//! The `potluck` command as processes that tests start and kill.

use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time for a relay to answer after it was started on a busy machine.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(25);
/// Seed of the random moments, unless `POTLUCK_SEED` names another.
const SEED: u64 = 3;

/// A process that does not outlive the test.
pub(crate) struct Guarded(Child);

impl Guarded {
    pub(crate) fn start(args: &[&str], environment: &[(&str, &Path)], log: &Path) -> Self {
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
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
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
pub(crate) struct Random(u64);

impl Random {
    /// From the seed, which is printed.
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("POTLUCK_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
        println!("seed {seed} (POTLUCK_SEED repeats it)");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.next() % below)
    }
}

/// The relay's process and what is asked of it over HTTP.
pub(crate) struct Relay {
    port: u16,
    folder: PathBuf,
    agent: ureq::Agent,
    process: Option<Guarded>,
}

impl Relay {
    /// A relay on a port that is free now, and that nobody but this test asks for, with everything in a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let agent =
            ureq::Agent::config_builder().proxy(None).timeout_global(Some(START_LIMIT)).build().new_agent();
        Self { port, folder: folder.to_owned(), agent, process: None }
    }

    pub(crate) fn start(&mut self) {
        let (listen, data) = (format!("127.0.0.1:{}", self.port), self.folder.join("data"));
        let args = ["relay", "--listen", &listen, "--data", data.to_str().unwrap()];
        self.process = Some(Guarded::start(&args, &[], &self.folder.join("relay.log")));
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the relay runs").kill();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the relay answers now, if it does.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        let token = std::fs::read_to_string(self.folder.join("data/token")).ok()?;
        let request = self.agent.get(format!("{}{path}", self.url()));
        let mut response = request.header("authorization", format!("Bearer {}", token.trim())).call().ok()?;
        serde_json::from_slice(&response.body_mut().read_to_vec().ok()?).ok()
    }

    /// Waits for an answer that will do.
    pub(crate) fn wait<T>(&self, what: &str, limit: Duration, look: impl Fn(&Self) -> Option<T>) -> T {
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
}
