//! A log read and checked from its first entry to its checkpoint: what commands go by that say or show something about it.

use super::audit::{believed_key, origin_of, read_all, unreadable, wrong};
use super::known::{self, Known};
use super::source::{Reader, Source};
use crate::client::Client;
use crate::error::CliError;
use potluck_governance::State;
use potluck_ledger::{SignedCheckpoint, root_at};
use std::path::Path;

/// A log that was read.
pub(crate) struct ReadLog {
    checker: potluck_governance::Checker,
    /// Its name.
    pub(crate) origin: String,
}

impl ReadLog {
    /// What follows from it.
    pub(crate) fn state(&self) -> &State {
        self.checker.state()
    }
}

/// Reads a relay's log and checks signature, every hash, that it goes on from what was seen last, and that every entry
/// follows from those before.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub(crate) fn read(
    client: &Client,
    given_key: Option<&str>,
    remember: Option<&Path>,
) -> Result<ReadLog, CliError> {
    let source = Source::Relay(client);
    let root = remember.map_or_else(known::usual_root, Path::to_owned);
    let note = source.checkpoint()?;
    let origin = origin_of(&note)?;
    let known = Known::read(&root, &origin)?;
    let (key, _) = believed_key(given_key, &known, &source)?;
    let signed = SignedCheckpoint::open(&note, &origin, &key).map_err(|error| wrong("checkpoint", &error))?;
    let checker = read_all(&source, &signed)?;
    let report = checker.report();
    if let Some(first) = report.errors.first() {
        return Err(CliError::Record {
            what: format!("{} entries of the log do not follow", report.error_count),
            cause: first.to_string(),
        });
    }
    if checker.state().origin() != origin {
        return Err(CliError::Record {
            what: format!("the checkpoint is of {origin}"),
            cause: format!("the first entry begins a log called {:?}", checker.state().origin()),
        });
    }
    goes_on(&known, &origin, &signed, &key, &source)?;
    known.remember(&key, &signed)?;
    Ok(ReadLog { checker, origin })
}

/// The log has to go on from what was seen last: who signs by an older one may answer what was never asked.
fn goes_on(
    known: &Known,
    origin: &str,
    signed: &SignedCheckpoint,
    key: &potluck_ledger::VerifierKey,
    source: &Source<'_>,
) -> Result<(), CliError> {
    let Some(last) = &known.checkpoint else { return Ok(()) };
    let last =
        SignedCheckpoint::open(last, origin, key).map_err(|error| wrong("remembered checkpoint", &error))?;
    let (old, new) = (last.head(), signed.head());
    if new.size < old.size {
        return Err(CliError::Record {
            what: "the log was rolled back".into(),
            cause: format!("{} entries were seen before, and the relay shows {}", old.size, new.size),
        });
    }
    if old.size == 0 {
        return Ok(());
    }
    let mut reader = Reader { source, failed: None };
    let found = root_at(old.size, &new, &mut reader)
        .map_err(|error| unreadable(reader.failed.take(), "consistency", &error))?;
    if found.0 == old {
        return Ok(());
    }
    Err(CliError::Record {
        what: "the log was forked or rewritten".into(),
        cause: format!(
            "its first {} entries had the root {} when they were seen last, and have {} now; both are signed by {origin}",
            old.size, old.root, found.0.root
        ),
    })
}
