//! Programs that tests start: they do not outlive the test, and what they say is kept.

use serde_json::Value;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::POLL;

/// Lines of each stream that are kept; the oldest leave first.
const MAX_LINES: usize = 1000;

/// Variables by which a person sets what the command does.
pub const SETTINGS: [&str; 8] = [
    "POTLUCK_RELAY",
    "POTLUCK_TOKEN",
    "POTLUCK_LISTEN",
    "POTLUCK_DATA",
    "POTLUCK_CONFIG",
    "POTLUCK_STORE",
    "POTLUCK_BLOBS",
    "POTLUCK_NODE",
];

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A running program. Dropping it kills it.
pub struct Process {
    child: Mutex<Child>,
    name: String,
    out: Lines,
    log: Lines,
}

impl Process {
    /// Starts a program; `name` is what failures call it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        // Settings of the person who runs the tests are not theirs.
        for variable in SETTINGS {
            command.env_remove(variable);
        }
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let out = keep(child.stdout.take().expect("piped"));
        let log = keep(child.stderr.take().expect("piped"));
        Self { child: Mutex::new(child), name: name.to_owned(), out, log }
    }

    /// The first line of its standard output for which there is something.
    pub fn printed<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        lock(&self.out).iter().find_map(|line| find(line))
    }

    /// The first line of its standard error for which there is something.
    pub fn logged<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        lock(&self.log).iter().find_map(|line| find(line))
    }

    /// Waits for a line of its standard output.
    ///
    /// # Panics
    /// There is none within `limit`, or the program ends before: with what it said.
    pub fn wait_for<T>(&self, limit: Duration, find: impl Fn(&str) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            // Before the lines, so that those of a program that ends right now are not missed.
            let ended = self.ended();
            if let Some(found) = self.printed(&find) {
                return found;
            }
            assert!(ended.is_none() && started.elapsed() < limit, "{}", self.story());
            std::thread::sleep(POLL);
        }
    }

    /// The newest line of its standard output that is JSON.
    pub fn last_json(&self) -> Option<Value> {
        lock(&self.out).iter().rev().find_map(|line| serde_json::from_str(line).ok())
    }

    /// Its number, by which the system knows it.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// The system does not say.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().expect("the system knows its processes")
    }

    /// Waits until it has succeeded.
    ///
    /// # Panics
    /// It fails, or does not end within `limit`: with what it said.
    pub fn succeeds(&self, limit: Duration) {
        let started = Instant::now();
        loop {
            match self.ended() {
                Some(status) if status.success() => return,
                None if started.elapsed() < limit => std::thread::sleep(POLL),
                _ => panic!("{}", self.story()),
            }
        }
    }

    /// How it went so far, for failures.
    pub fn story(&self) -> String {
        let state = self.ended().map_or_else(|| "still runs".to_owned(), |status| format!("ended: {status}"));
        let last = |lines: &Lines| {
            let lines = lock(lines);
            let first = lines.len().saturating_sub(40);
            lines.iter().skip(first).cloned().collect::<Vec<_>>().join("\n")
        };
        format!("{} {state}\nit printed:\n{}\nit logged:\n{}", self.name, last(&self.out), last(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let mut child = lock(&self.child);
        drop(child.kill());
        drop(child.wait());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads lines until the stream ends.
fn keep(stream: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut lines = lock(&kept);
            if lines.len() == MAX_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
    lines
}
