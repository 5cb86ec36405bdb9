//! Shared parts of the end-to-end suites: a relay in this process, plain HTTP to it, native volunteers, `.npy`
//! files of every kind, and reference products that share no code with what they check; whole training runs.

pub mod balancer;
pub mod bucket;
pub mod council;
pub mod firefox;
pub mod frame;
pub mod host;
pub mod netns;
pub mod node;
pub mod npy;
#[cfg(target_os = "linux")]
pub mod postgres;
pub mod process;
pub mod promotion;
pub mod runs;
pub mod screen;
pub mod train;

use potluck_cli::error::CliError;
use potluck_cli::ledger::prove::Witnesses;
use potluck_cli::stop::Stop;
use potluck_cli::volunteer::{Exchange, Lending, lend};
use potluck_proto::{Membership, Preset};
use potluck_relay::{Config, LogConfig, Running, StoreUrl};
use potluck_types::VolunteerKey;
use potluck_volunteer::{Choice, Status};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use ureq::http::Request;

/// Pause between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(20);
/// Longest silence of the relay in these tests; cutting large matrices takes a few seconds on a busy machine.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Waits for the other tests of this program that want the machine to themselves: browsers on two cores starve each other,
/// and what measures wants quiet. Held until it is dropped; a test that failed does not keep it.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a relay was built with its page; says so where it was not. `cargo xtask test` always builds it before.
pub fn has_page(api: &Api) -> bool {
    let built = !String::from_utf8_lossy(&api.get("/").body).contains("built without its page");
    if !built {
        eprintln!("skipped: the relay has no page; `cargo xtask site` builds it");
    }
    built
}

/// Gives the new folder of a relay's node what each has a copy of, from the folder of another one.
///
/// # Panics
/// The file system refuses.
pub fn copy_node(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new folder");
    for name in ["relay.key", "token", "token.hash", "admin-token", "admin-token.hash"] {
        std::fs::copy(from.join(name), to.join(name)).expect("a file of the first node");
    }
}

/// Copies a folder with all that is in it.
///
/// # Panics
/// Something of it cannot be read or written.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder to copy");
    for entry in std::fs::read_dir(from).expect("a folder to copy").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a folder to copy");
        }
    }
}

/// Looks at a condition until it holds.
///
/// # Panics
/// It does not hold within `limit`: the message says what was waited for.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(POLL);
    }
}

/// A figure of `/proc/self/status`, in bytes: `VmRSS` (now) or `VmHWM` (the most so far). `None` where the system
/// has no such file.
pub fn memory(figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What the relay answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A text field of the body.
    pub fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_default().to_owned()
    }
}

/// Plain HTTP to a relay, with or without its token.
#[derive(Debug, Clone)]
pub struct Api {
    agent: ureq::Agent,
    /// The relay's address.
    pub url: String,
    /// What is sent as `Authorization`, if anything.
    pub authorization: Option<String>,
}

impl Api {
    /// Talks to the relay at `url` with its token.
    pub fn new(url: &str, token: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(ANSWER_LIMIT))
            .build()
            .new_agent();
        Self { agent, url: url.to_owned(), authorization: Some(format!("Bearer {}", token.trim())) }
    }

    /// The same with another `Authorization` header, or none.
    #[must_use]
    pub fn with_authorization(&self, authorization: Option<&str>) -> Self {
        Self { authorization: authorization.map(str::to_owned), ..self.clone() }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The relay cannot be reached, or does not answer within [`ANSWER_LIMIT`].
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() && method != "POST" {
            self.agent.run(request.body(()).map_err(ureq::Error::Http)?)?
        } else {
            self.agent.run(request.body(body).map_err(ureq::Error::Http)?)?
        };
        let status = response.status().as_u16();
        let body = response.into_body().into_with_config().limit(u64::MAX).read_to_vec()?;
        Ok(Answer { status, body })
    }

    /// Sends a request to a relay that is there.
    ///
    /// # Panics
    /// As [`Api::try_send`] fails.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// GET without a body.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }

    /// Uploads a file.
    pub fn upload(&self, file: &[u8]) -> Answer {
        self.send("POST", "/api/v1/matrices", &[("content-type", "application/octet-stream")], file)
    }

    /// Asks for a job.
    pub fn create(&self, job: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.send("POST", "/api/v1/jobs", &headers, job.to_string().as_bytes())
    }

    /// Uploads two files, creates a job from them and returns its id. `more` overrides fields of the job.
    ///
    /// # Panics
    /// The relay refuses any of that.
    pub fn submit(&self, a: &[u8], b: &[u8], more: &Value) -> String {
        let ids = [a, b].map(|file| {
            let answer = self.upload(file);
            assert_eq!(answer.status, 201, "{}", answer.json());
            answer.text("id")
        });
        let mut job = json!({ "kind": "matmul", "a": ids[0], "b": ids[1] });
        for (key, value) in more.as_object().into_iter().flatten() {
            job[key] = value.clone();
        }
        let answer = self.create(&job);
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.text("id")
    }

    /// A job's state now.
    ///
    /// # Panics
    /// There is no such job.
    pub fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/api/v1/jobs/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()
    }

    /// Waits for a job's end and returns its result, row-major, as f64.
    ///
    /// # Panics
    /// It does not end within `limit`, or its result cannot be read by an independent `.npy` reader.
    pub fn result(&self, id: &str, limit: Duration) -> (Vec<u64>, Vec<f64>) {
        let started = Instant::now();
        loop {
            let job = self.get(&format!("/api/v1/jobs/{id}?wait_ms=2000")).json();
            if job["state"] == "done" {
                break;
            }
            assert!(started.elapsed() < limit, "not done within {} s: {job}", limit.as_secs());
        }
        let answer = self.get(&format!("/api/v1/jobs/{id}/result"));
        assert_eq!(answer.status, 200, "{}", answer.json());
        npy::read(&answer.body)
    }

    /// A figure of `/metrics`, without its prefix.
    ///
    /// # Panics
    /// There is no such figure.
    pub fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").body).expect("metrics are text");
        let prefix = format!("potluck_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }
}

/// A relay in this process, on a data folder and a port of its own.
pub struct TestRelay {
    running: Option<Running>,
    runtime: Runtime,
    /// HTTP with the relay's token.
    pub api: Api,
    /// Its data folder.
    pub data: TempDir,
    /// Where its records are, if not there.
    store: Option<StoreUrl>,
}

impl TestRelay {
    /// Starts a relay.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Self {
        Self::start_with(LogConfig::default())
    }

    /// Starts a relay whose records are in its data folder, whichever store others of this process have.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_in_files() -> Self {
        Self::start_configured(|config| config.store = None)
    }

    /// Starts a relay with settings of its log. They hold until it is restarted.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(log: LogConfig) -> Self {
        Self::start_configured(|config| config.log = log)
    }

    /// Starts a relay with any settings but its address and its data. They hold until it is restarted.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_configured(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let mut config = config(([127, 0, 0, 1], 0).into(), &data);
        config.store = store();
        change(&mut config);
        let store = config.store.clone();
        let running = runtime.block_on(potluck_relay::start(config)).expect("the relay starts");
        let token = std::fs::read_to_string(&running.token_path).expect("a token file");
        let api = Api::new(&running.url(), &token);
        Self { running: Some(running), runtime, api, data, store }
    }

    /// Stops the relay, and starts another one on its data and its address.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.restart_after(|_| {});
    }

    /// Where the relay keeps everything.
    pub fn data(&self) -> &std::path::Path {
        self.data.path()
    }

    /// What the operator shows.
    ///
    /// # Panics
    /// There is none.
    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.data().join("admin-token")).expect("a token").trim().to_owned()
    }

    /// Stops the relay, does something to its data, and starts another one on them.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart_after(&mut self, meanwhile: impl FnOnce(&std::path::Path)) {
        let Some(running) = self.running.take() else { return };
        let config = Config { store: self.store.clone(), ..config(running.address, &self.data) };
        self.runtime.block_on(running.shut_down());
        meanwhile(self.data.path());
        let running = self.runtime.block_on(potluck_relay::start(config)).expect("the relay starts again");
        self.running = Some(running);
    }

    /// The volunteers' socket.
    pub fn socket(&self) -> String {
        format!("{}/api/v1/volunteer", self.api.url.replacen("http", "ws", 1))
    }
}

fn config(listen: std::net::SocketAddr, data: &TempDir) -> Config {
    let data = data.path().to_owned();
    Config { listen, data, operator: "the tests".to_owned(), ..Config::default() }
}

/// Where the records of a test's relay are.
fn store() -> Option<StoreUrl> {
    #[cfg(target_os = "linux")]
    return postgres::wanted();
    #[cfg(not(target_os = "linux"))]
    None
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.shut_down());
        }
    }
}

/// A native volunteer in a thread of this process. Stops when it is dropped.
pub struct Volunteer {
    stop: Stop,
    thread: Option<std::thread::JoinHandle<Result<Status, CliError>>>,
    seen: Arc<Mutex<Option<Status>>>,
}

/// Lends the whole CPU, under a key made of `name`.
fn usual(url: &str, name: u8) -> Lending {
    Lending {
        relay: url.to_owned(),
        choice: Choice::Cpu,
        preset: Preset::Full,
        key: VolunteerKey([name; 32]),
        count: None,
        exchange: Exchange::default(),
        remember: None,
        membership: None,
        witnesses: Witnesses::default(),
    }
}

impl Volunteer {
    /// Starts to lend the CPU to the relay at `url`, under a key made of `name`.
    pub fn start(url: &str, name: u8, preset: Preset) -> Self {
        Self::choosing(url, name, preset, Choice::Cpu)
    }

    /// As [`Volunteer::start`], with another choice of what computes.
    pub fn choosing(url: &str, name: u8, preset: Preset, choice: Choice) -> Self {
        Self::lending(Lending { choice, preset, ..usual(url, name) })
    }

    /// Lends the whole CPU, and exchanges so much with others.
    pub fn exchanging(url: &str, name: u8, exchange: Exchange) -> Self {
        Self::lending(Lending { exchange, ..usual(url, name) })
    }

    /// Lends the whole CPU and watches the relay's log, which it remembers in a folder.
    pub fn watching(url: &str, name: u8, remember: &std::path::Path) -> Self {
        Self::lending(Lending { remember: Some(remember.to_owned()), ..usual(url, name) })
    }

    /// Lends the whole CPU, and lets others see so much of it.
    pub fn known_as(url: &str, name: u8, membership: Option<Membership>) -> Self {
        Self::lending(Lending { membership, ..usual(url, name) })
    }

    fn lending(lending: Lending) -> Self {
        let (stop, seen) = (Stop::default(), Arc::<Mutex<Option<Status>>>::default());
        let (heeded, shown) = (stop.clone(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let show = |status: &Status| {
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
            };
            runtime.block_on(lend(&lending, &heeded, show))
        });
        Self { stop, thread: Some(thread), seen }
    }

    /// How it is; `None` until it has begun.
    pub fn status(&self) -> Option<Status> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops at once and says how it went.
    ///
    /// # Panics
    /// The relay refused the volunteer, or it failed.
    pub fn end(mut self) -> Status {
        self.ask();
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("the volunteer does not panic").expect("the volunteer is not refused")
    }

    /// Waits for its end and says how it went.
    ///
    /// # Panics
    /// It does not end within `limit`.
    pub fn wait(mut self, limit: Duration) -> Result<Status, CliError> {
        let ended = || self.thread.as_ref().is_some_and(std::thread::JoinHandle::is_finished);
        wait_until("the volunteer ends", limit, ended);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("the volunteer does not panic")
    }

    fn ask(&self) {
        self.stop.request();
        self.stop.request();
    }
}

impl Drop for Volunteer {
    fn drop(&mut self) {
        self.ask();
        if let Some(thread) = self.thread.take() {
            // A failure shows in the test that waits for this volunteer's work.
            drop(thread.join());
        }
    }
}
