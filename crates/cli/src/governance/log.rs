//! The log as a command goes by it.

use crate::args::LogArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::ledger::read::{ReadLog, read};
use potluck_governance::State;
use potluck_types::BlobHash;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long something that was just said is waited for: the relay publishes about once a second.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Waits until an entry is published, so that the next command goes by it. Not for ever: it is durable already.
pub(super) fn published(client: &Client, index: u64) -> Result<(), CliError> {
    let started = Instant::now();
    while started.elapsed() < PUBLISHED_WITHIN {
        let log: potluck_relay::api::LogInfo = client.get("/api/v1/log", |_| {})?;
        if log.entries > index {
            break;
        }
        if !client.stop().sleep(LOOK) {
            return Err(CliError::Interrupted { job: None });
        }
    }
    Ok(())
}

/// A relay's log, read and checked.
pub(super) struct TheLog<'a> {
    pub(super) client: &'a Client,
    args: &'a LogArgs,
    read: ReadLog,
}

impl<'a> TheLog<'a> {
    /// Reads it.
    pub(super) fn open(args: &'a LogArgs, client: &'a Client) -> Result<Self, CliError> {
        let read = read(client, args.log_key.as_deref(), args.remember.as_deref())?;
        Ok(Self { client, args, read })
    }

    pub(super) fn origin(&self) -> &str {
        &self.read.origin
    }

    pub(super) fn state(&self) -> &State {
        self.read.state()
    }

    /// The time by which outcomes are told: never before the last entry's.
    pub(super) fn now_ms(&self) -> u64 {
        wall_ms().max(self.state().now_ms())
    }

    /// Looks for something that may have been said a moment ago.
    pub(super) fn find<T>(&mut self, look: impl Fn(&State) -> Option<T>) -> Result<Option<T>, CliError> {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self.state()) {
                return Ok(Some(found));
            }
            if started.elapsed() > PUBLISHED_WITHIN {
                return Ok(None);
            }
            if !self.client.stop().sleep(LOOK) {
                return Err(CliError::Interrupted { job: None });
            }
            self.read = read(self.client, self.args.log_key.as_deref(), self.args.remember.as_deref())?;
        }
    }

    /// The one of these hashes that begins so.
    fn hash(
        &mut self,
        what: &'static str,
        prefix: &str,
        all: impl Fn(&State) -> Vec<BlobHash>,
    ) -> Result<BlobHash, CliError> {
        let begin = |state: &State| -> Vec<BlobHash> {
            let mut found = all(state);
            found.retain(|hash| hash.to_string().starts_with(prefix));
            found
        };
        let found = self.find(|state| Some(begin(state)).filter(|found| !found.is_empty()))?;
        match found.as_deref() {
            Some([one]) => Ok(*one),
            Some(several) => Err(CliError::Usage {
                message: format!("{} {what}s begin with {prefix}", several.len()),
                hint: "give more of it".into(),
            }),
            None => Err(CliError::Input {
                message: format!("no {what} in the log begins with {prefix}"),
                hint: "`potluck governance show` and `potluck models` list what there is".into(),
            }),
        }
    }

    /// The proposal or appeal whose id begins so.
    pub(super) fn proposal(&mut self, prefix: &str) -> Result<BlobHash, CliError> {
        self.hash("proposal", prefix, |state| state.proposals().keys().copied().collect())
    }

    /// The candidate that begins so.
    pub(super) fn candidate(&mut self, prefix: &str) -> Result<BlobHash, CliError> {
        self.hash("candidate", prefix, |state| state.candidates().keys().copied().collect())
    }

    /// The data set, or part of one, whose id begins so.
    pub(super) fn data_set(&mut self, prefix: &str) -> Result<String, CliError> {
        let begin = |state: &State| -> Vec<String> {
            if state.data_sets().contains_key(prefix) {
                return vec![prefix.to_owned()];
            }
            state.data_sets().keys().filter(|id| id.starts_with(prefix)).cloned().collect()
        };
        match self.find(|state| Some(begin(state)).filter(|found| !found.is_empty()))?.as_deref() {
            Some([one]) => Ok(one.clone()),
            Some(several) => Err(CliError::Usage {
                message: format!("{} data sets begin with {prefix}", several.len()),
                hint: format!("name one whole: {}", several.join(", ")),
            }),
            None => Err(CliError::Input {
                message: format!("no data set in the log begins with {prefix}"),
                hint: "upload it first: `potluck submit train` does, and says what is missing".into(),
            }),
        }
    }
}
