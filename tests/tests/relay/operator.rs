//! What the suites about operating a relay share: the relay and the command as processes of their own.

use potluck_tests::process::{Process, SETTINGS};
use potluck_tests::{Api, wait_until};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest wait, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) errors: String,
}

/// Runs a command to its end.
pub(crate) fn potluck(line: &[&str]) -> Done {
    potluck_with(line, &[])
}

/// Runs a command to its end, in another environment.
pub(crate) fn potluck_with(line: &[&str], environment: &[(&str, String)]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_command"));
    for variable in SETTINGS {
        command.env_remove(variable);
    }
    let output = command.envs(environment.iter().cloned()).args(line).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let json = out.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Done { code: output.status.code().unwrap_or(-1), json, errors }
}

/// A relay as a program, on a port of its own that outlives it.
pub(crate) struct Relay {
    port: u16,
    data: PathBuf,
    process: Option<Process>,
    pub(crate) api: Api,
    /// What it said when it was ready.
    ready: Value,
    /// Of a mirror: the relay, and after which silence people may speak.
    of: Option<[String; 2]>,
    /// What starts it: the program itself, or another one that ends in it.
    launcher: Vec<String>,
    environment: Vec<(String, PathBuf)>,
}

impl Relay {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_by(data, &[], &[])
    }

    /// Starts it by another program, in another environment.
    pub(crate) fn start_by(data: &Path, launcher: &[&str], environment: &[(&str, &Path)]) -> Self {
        let mut relay = Self::new(data, launcher, environment);
        relay.again();
        relay
    }

    /// Starts one that mirrors another, and says after which silence people may speak there.
    pub(crate) fn mirror(data: &Path, of: &str, alone_after: &str) -> Self {
        let mut relay = Self::new(data, &[], &[]);
        relay.of = Some([of.to_owned(), alone_after.to_owned()]);
        relay.again();
        relay
    }

    /// Starts one of several nodes.
    pub(crate) fn node(data: &Path, environment: &[(&str, String)]) -> Self {
        let mut relay = Self::new(data, &[], &[]);
        let own = ("POTLUCK_NODE", format!("http://127.0.0.1:{}", relay.port));
        let words = [own].into_iter().chain(environment.iter().cloned());
        relay.launcher = ["env".to_owned()]
            .into_iter()
            .chain(words.map(|(name, value)| format!("{name}={value}")))
            .collect();
        relay.again();
        relay
    }

    /// From its next start on it is no mirror, but a relay.
    pub(crate) fn lead(&mut self) {
        self.of = None;
    }

    /// The key with which it signs.
    pub(crate) fn key(&self) -> &str {
        self.ready["key"].as_str().unwrap()
    }

    fn new(data: &Path, launcher: &[&str], environment: &[(&str, &Path)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let api = Api::new(&format!("http://127.0.0.1:{port}"), "");
        let launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        let environment =
            environment.iter().map(|&(name, path)| (name.to_owned(), path.to_owned())).collect();
        let data = data.to_owned();
        Self { port, data, process: None, api, ready: Value::Null, of: None, launcher, environment }
    }

    /// Starts it once more.
    pub(crate) fn again(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let program = env!("CARGO_BIN_EXE_command").to_owned();
        let words = [&self.launcher[..], &[program]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().cloned());
        command.arg("relay");
        if let Some([of, alone_after]) = &self.of {
            command.args(["mirror", of, "--every", "200ms", "--alone-after", alone_after]);
        }
        command.args(["--json", "--log-format", "json", "--listen", &listen, "--data"]).arg(&self.data);
        let process = Process::start("the relay", &mut command);
        let ready = process.wait_for(LIMIT, |line| serde_json::from_str::<Value>(line).ok());
        let token = std::fs::read_to_string(inside(&process, &self.data).join("token"));
        // A relay that was restored without its token knows it by its hash.
        if let Ok(token) = token {
            self.api = Api::new(ready["address"].as_str().unwrap(), &token);
        }
        self.ready = ready;
        self.process = Some(process);
    }

    /// Where it listens, whether it runs or not.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Whether it was started, and not killed since.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// Its data folder, as it sees it.
    pub(crate) fn own_data(&self) -> PathBuf {
        inside(self.process(), &self.data)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
        assert!(self.api.try_send("GET", "/healthz", &[], &[]).is_err(), "it is dead");
    }

    /// Waits until as many entries are published as are there.
    pub(crate) fn published(&self, least: u64) -> u64 {
        published(&self.api, least)
    }
}

/// Waits until a relay has published as many entries as are there.
pub(crate) fn published(api: &Api, least: u64) -> u64 {
    let entries = || api.get("/api/v1/log").json()["entries"].as_u64().unwrap();
    wait_until("the log is published", LIMIT, || entries() >= least);
    entries()
}

/// A path as a process sees it, which may have mounted something there.
fn inside(process: &Process, path: &Path) -> PathBuf {
    if cfg!(target_os = "linux") {
        Path::new("/proc").join(process.id().to_string()).join("root").join(path.strip_prefix("/").unwrap())
    } else {
        path.to_owned()
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut all: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

/// Flips a bit in the middle of a file.
pub(crate) fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
