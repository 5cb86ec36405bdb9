//! The browser's process: started with a fresh profile, ended when its handle goes.

use super::connection::Connection;
use super::launch::{LaunchOptions, arguments, find_chromium, runs_as_root};
use super::{CLOSE_TIMEOUT, CdpError, LAUNCH_TIMEOUT, POLL_INTERVAL, Tab};
use serde_json::json;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Bytes of Chromium's own output that an error shows.
const STDERR_TAIL_BYTES: u64 = 2000;
/// Time that dropping a browser may take until its process is gone: a killed process is reaped within milliseconds.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts to remove the profile: helper processes may still write to it right after the kill.
const REMOVE_ATTEMPTS: u32 = 100;

/// A running Chromium. Dropping it kills the process and removes its profile.
pub struct Browser {
    connection: Connection,
    child: Child,
    profile: Option<TempDir>,
}

impl Browser {
    /// Starts Chromium with a fresh profile and connects to it.
    ///
    /// # Errors
    /// No browser found, it does not start, or it does not open its DevTools port within [`LAUNCH_TIMEOUT`].
    pub async fn launch(options: &LaunchOptions) -> Result<Self, CdpError> {
        let program = options.program.clone().or_else(find_chromium).ok_or(CdpError::NoBrowser)?;
        let profile =
            tempfile::Builder::new().prefix("potluck-tabs-").tempdir().map_err(CdpError::Profile)?;
        let log_path = profile.path().join("chromium.log");
        let log = File::create(&log_path).map_err(CdpError::Profile)?;
        let mut command = Command::new(&program);
        command
            .args(arguments(options, profile.path(), runs_as_root(profile.path())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        // Ctrl-C reaches everything in the terminal's group: we end the browser ourselves, after its tabs stopped.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|cause| CdpError::Spawn { path: program, cause })?;
        // From here on dropping `starting` cleans up.
        let mut starting = Starting { child: Some(child), profile: Some(profile) };
        let address = starting.devtools_address(&log_path).await?;
        let connection = Connection::open(&address).await?;
        let (Some(child), profile) = (starting.child.take(), starting.profile.take()) else {
            return Err(CdpError::Connection("the browser is gone".into()));
        };
        Ok(Self { connection, child, profile })
    }

    /// Opens an empty tab in a browser context of its own: no storage is shared with other tabs.
    ///
    /// # Errors
    /// Chromium refuses, or is gone.
    pub async fn new_tab(&self) -> Result<Tab, CdpError> {
        Tab::open(self.connection.clone()).await
    }

    /// Chromium's name and version.
    ///
    /// # Errors
    /// Chromium is gone.
    pub async fn version(&self) -> Result<String, CdpError> {
        let answer = self.connection.call(None, "Browser.getVersion", json!({})).await?;
        Ok(answer["product"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the browser's process ends.
    pub async fn ended(&mut self) {
        // An error here means that there is no process to wait for.
        drop(self.child.wait().await);
    }

    /// The process id, as long as the process runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The folder of its temporary profile.
    pub fn profile_path(&self) -> Option<&Path> {
        self.profile.as_ref().map(TempDir::path)
    }

    /// Ends the browser in an orderly way; kills it after [`CLOSE_TIMEOUT`].
    pub async fn close(mut self) {
        let asked = self.connection.call_within(None, "Browser.close", json!({}), CLOSE_TIMEOUT).await;
        if asked.is_ok() {
            // Whatever is left after the limit is killed by `drop`.
            drop(tokio::time::timeout(CLOSE_TIMEOUT, self.child.wait()).await);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        end(&mut self.child, self.profile.take());
    }
}

struct Starting {
    child: Option<Child>,
    profile: Option<TempDir>,
}

impl Starting {
    /// Waits for the file in which Chromium writes its port and path.
    async fn devtools_address(&mut self, log: &Path) -> Result<String, CdpError> {
        let started = Instant::now();
        loop {
            if let Some(profile) = &self.profile
                && let Ok(text) = std::fs::read_to_string(profile.path().join("DevToolsActivePort"))
                && let Some((port, path)) = text.split_once('\n')
                && let Ok(port) = port.trim().parse::<u16>()
                && path.starts_with('/')
            {
                return Ok(format!("ws://127.0.0.1:{port}{}", path.trim_end()));
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(CdpError::Exited { status: status.to_string(), stderr: tail(log) });
            }
            if started.elapsed() > LAUNCH_TIMEOUT {
                let what = "the start of Chromium".to_owned();
                return Err(CdpError::Timeout { what, limit: LAUNCH_TIMEOUT, last: tail(log) });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child, self.profile.take());
        }
    }
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STDERR_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(STDERR_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}

/// Kills the process if it still runs, waits for its end, and removes the profile.
fn end(child: &mut Child, profile: Option<TempDir>) {
    // Fails only if the process has ended already.
    drop(child.start_kill());
    let killed = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < KILL_TIMEOUT {
        std::thread::sleep(Duration::from_millis(5));
    }
    let Some(profile) = profile else { return };
    let path = profile.keep();
    for _ in 0..REMOVE_ATTEMPTS {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(POLL_INTERVAL);
            }
            _ => return,
        }
    }
    tracing::warn!(path = %path.display(), "a temporary browser profile could not be removed");
}
