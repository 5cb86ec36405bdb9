//! A relay and one native CPU volunteer on loopback: processes of the `potluck` command, as people run it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use potluck_cli::client::Client;
use potluck_cli::stop::Stop;
use serde_json::Value;
use tempfile::TempDir;

use crate::artifacts;
use crate::clock::memory_bytes;

/// Time for a relay to open its store and listen; it takes a fraction of a second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause between two looks at a running command's memory.
const LOOK: Duration = Duration::from_millis(20);

/// A relay. Dropping it ends it and removes its data.
pub(crate) struct Relay {
    program: PathBuf,
    process: Process,
    /// `http://127.0.0.1:PORT`.
    pub(crate) address: String,
    token_file: String,
    folder: TempDir,
}

/// A relay with one volunteer. Dropping it ends both and removes their data.
pub(crate) struct Swarm {
    pub(crate) relay: Relay,
    volunteer: Process,
}

/// What a finished `potluck` command did.
pub(crate) struct Finished {
    pub(crate) wall: Duration,
    /// The most that was seen resident, in bytes.
    pub(crate) peak_bytes: u64,
}

impl Relay {
    /// Starts it.
    ///
    /// # Errors
    /// The `potluck` command is not built, or the relay does not start.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with("127.0.0.1:0", &[], None)
    }

    /// Starts it at an address, in an environment, and with the key and tokens of another one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_with(
        listen: &str,
        environment: &[(&str, String)],
        like: Option<&Self>,
    ) -> Result<Self> {
        let program = artifacts::potluck()?;
        let folder = tempfile::Builder::new().prefix("potluck-bench-").tempdir()?;
        let data = folder.path().join("data");
        if let Some(like) = like {
            potluck_tests::copy_node(&like.folder.path().join("data"), &data);
        }
        let mut command = potluck(&program);
        command.envs(environment.iter().cloned());
        let mut process = Process::spawn(
            command.args(["relay", "--listen", listen, "--json", "--data"]).arg(&data),
            "the relay",
        )?;
        let line = process.first_line()?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("the relay's first line is no JSON: {line}"))?;
        let text = |name: &str| {
            ready[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no `{name}` in the relay's {line}"))
        };
        let (address, token_file) = (text("address")?, text("token_path")?);
        let address = if address.contains("://") { address } else { format!("http://{address}") };
        Ok(Self { program, process, address, token_file, folder })
    }

    /// The submitter's token.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn token(&self) -> Result<String> {
        let token = std::fs::read_to_string(&self.token_file).context("reading the relay's token file")?;
        Ok(token.trim().to_owned())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

impl Swarm {
    /// Starts both.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub(crate) fn start() -> Result<Self> {
        let relay = Relay::start()?;
        let volunteer = Process::spawn(
            potluck(&relay.program)
                .args([
                    "volunteer",
                    "--backend",
                    "cpu",
                    "--preset",
                    "full",
                    "--json",
                    "--relay",
                    &relay.address,
                    "--key",
                ])
                .arg(relay.folder.path().join("volunteer.key")),
            "the volunteer",
        )?;
        Ok(Self { relay, volunteer })
    }

    /// A client of the relay with the submitter's token.
    ///
    /// # Errors
    /// The token cannot be read.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.relay.address, Some(self.relay.token()?), Stop::default())?)
    }

    /// A folder for operands and results.
    pub(crate) fn folder(&self) -> &Path {
        self.relay.folder.path()
    }

    /// The relay's most resident memory so far, in bytes. None where the system does not tell.
    pub(crate) fn relay_peak_bytes(&self) -> Option<u64> {
        memory_bytes(self.relay.pid(), "VmHWM")
    }

    /// The volunteer's most resident memory so far, in bytes.
    pub(crate) fn volunteer_peak_bytes(&self) -> Option<u64> {
        memory_bytes(self.volunteer.child.id(), "VmHWM")
    }

    /// Time on processors of the relay and of the volunteer so far.
    pub(crate) fn cpu(&self) -> [Duration; 2] {
        [self.relay.pid(), self.volunteer.child.id()].map(crate::clock::processes_cpu)
    }

    /// Runs a submitter's command to its end: `args` of `potluck`, the relay and the token are added.
    ///
    /// # Errors
    /// It fails, or the relay or the volunteer has ended.
    pub(crate) fn command(&mut self, args: &[&str]) -> Result<Finished> {
        let started = Instant::now();
        let mut child = potluck(&self.relay.program)
            .args(args)
            .args(["--relay", &self.relay.address, "--token-file", &self.relay.token_file])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting the potluck command")?;
        let stderr = drain(child.stderr.take());
        // Another thread looks at memory, so that the wait below ends with the process and not a pause later.
        let pid = child.id();
        let (done, ended) = mpsc::channel::<()>();
        let looking = thread::spawn(move || {
            let mut peak = 0;
            while matches!(ended.recv_timeout(LOOK), Err(mpsc::RecvTimeoutError::Timeout)) {
                peak = memory_bytes(pid, "VmHWM").unwrap_or(0).max(peak);
            }
            peak
        });
        let status = child.wait()?;
        let wall = started.elapsed();
        drop(done);
        let peak_bytes = looking.join().unwrap_or(0);
        if !status.success() {
            self.relay.process.check()?;
            self.volunteer.check()?;
            bail!("`potluck {}` failed: {}", args.join(" "), stderr.join().unwrap_or_default().trim());
        }
        Ok(Finished { wall, peak_bytes })
    }
}

fn potluck(program: &Path) -> Command {
    let mut command = Command::new(program);
    // What the caller's environment says about relays must not change what is measured.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POTLUCK_")) {
        command.env_remove(name);
    }
    command
}

fn drain<R: Read + Send + 'static>(from: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What came before an error is still worth showing.
            drop(from.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A child that runs until it is dropped.
struct Process {
    child: Child,
    name: &'static str,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn spawn(command: &mut Command, name: &'static str) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .env("RUST_LOG", "warn")
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take().context("no pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver goes with the process; the pipe is drained to the end all the same.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, name, lines })
    }

    fn first_line(&mut self) -> Result<String> {
        if let Ok(line) = self.lines.recv_timeout(START_TIMEOUT) {
            return Ok(line);
        }
        self.check()?;
        bail!("{} printed nothing within {} s", self.name, START_TIMEOUT.as_secs())
    }

    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({})", self.name, describe(status)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn describe(status: ExitStatus) -> String {
    status.code().map_or_else(|| "by a signal".to_owned(), |code| format!("exit code {code}"))
}
