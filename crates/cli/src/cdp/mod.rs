//! A small client of the Chrome DevTools Protocol: one browser process, tabs in contexts of their own, trusted
//! clicks, workers that are caught before their first line runs.
//!
//! Why not a crate: see `docs/decisions`, "A small DevTools client of our own". What is here is what `potluck tabs`
//! and the end-to-end tests need, and nothing else.
//!
//! Order of things: [`Browser::launch`] starts Chromium with a fresh profile, [`Browser::new_tab`] opens a tab in a
//! new browser context (own storage, so each tab is its own volunteer), [`Tab`] drives it. Dropping the [`Browser`]
//! ends the process and removes the profile.
//!
//! Source: <https://chromedevtools.github.io/devtools-protocol/> (domains Target, Page, Runtime, Input, Emulation).

mod browser;
mod connection;
mod launch;
mod tab;

pub use browser::Browser;
pub use connection::{ConsoleLine, Worker};
pub use launch::{Gpu, LaunchOptions, find_chromium};
pub use tab::{LOCATE, Tab};

use std::path::PathBuf;
use std::time::Duration;

/// Time from starting Chromium to its DevTools port. A cold start on a busy two-core machine took 6 s.
pub const LAUNCH_TIMEOUT: Duration = Duration::from_mins(1);
/// Time for one DevTools command. Evaluations may wait for a promise, shader compilation may hold the page for seconds.
pub const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);
/// Time for a page to load.
pub const LOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Time for an element to appear, come to rest and be clickable.
pub const CLICK_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for Chromium to end by itself before it is killed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at a condition inside a page.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Largest DevTools message, in bytes: a screenshot of a 4K page is about 20 MB in base64.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Commands that may wait for the socket.
pub const MAX_QUEUED_COMMANDS: usize = 256;
/// Console lines kept for each tab; the oldest leave first.
pub const MAX_CONSOLE_LINES: usize = 2000;
/// Characters kept of one console line.
pub const MAX_CONSOLE_CHARS: usize = 4000;
/// Workers remembered for each tab; the oldest leave first.
pub const MAX_WORKERS: usize = 64;

/// Why the browser did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdpError {
    /// No Chromium was found.
    #[error("no Chromium or Chrome was found")]
    NoBrowser,
    /// Chromium could not be started.
    #[error("{} could not be started: {cause}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A temporary profile could not be made.
    #[error("a temporary browser profile could not be made: {0}")]
    Profile(std::io::Error),
    /// Chromium ended before it could be reached.
    #[error("Chromium ended while it started ({status}): {stderr}")]
    Exited {
        /// Its exit status.
        status: String,
        /// The last lines that it printed.
        stderr: String,
    },
    /// The DevTools socket failed or closed.
    #[error("the connection to Chromium is gone: {0}")]
    Connection(String),
    /// Something took longer than its limit.
    #[error("{what} did not happen within {} s{}", limit.as_secs(), detail(last))]
    Timeout {
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
        /// What was seen last.
        last: String,
    },
    /// Chromium refused a command.
    #[error("Chromium refused {method}: {message}")]
    Refused {
        /// The DevTools method.
        method: String,
        /// What it says.
        message: String,
    },
    /// A script threw.
    #[error("a script failed in the page: {0}")]
    Script(String),
    /// A page could not be loaded.
    #[error("{url} could not be loaded: {reason}")]
    Load {
        /// The address.
        url: String,
        /// What Chromium says.
        reason: String,
    },
    /// An answer has another form than expected.
    #[error("Chromium's answer to {method} could not be read: {cause}")]
    Answer {
        /// The DevTools method.
        method: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The page itself says that it cannot go on.
    #[error("the page says: {0}")]
    Page(String),
    /// The page's process is gone.
    #[error("the tab crashed")]
    Crashed,
}

fn detail(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(" (last seen: {last})") }
}

impl CdpError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoBrowser => {
                "install Chromium (Debian, Ubuntu: apt-get install chromium) or set CHROME to its path"
            }
            Self::Spawn { .. } => "set CHROME to the path of a Chromium or Chrome that runs here",
            Self::Profile(_) => "free some space in the temporary folder, or set TMPDIR to one with space",
            Self::Exited { .. } => "run the browser by hand with --headless=new to see what it lacks",
            Self::Connection(_) | Self::Crashed => "the browser may have run out of memory: lend fewer tabs",
            Self::Timeout { .. } => "the machine may be overloaded: lend fewer tabs, or try again",
            Self::Page(_) => {
                "choose another --backend, or look at the relay's page in a window with --headed"
            }
            Self::Load { .. } => "check that the relay runs and that its address is right",
            Self::Refused { .. } | Self::Script(_) | Self::Answer { .. } => {
                "the browser may be too old (Chromium 130 or newer is known to work)"
            }
        }
    }
}
