//! A log read and checked from its first entry to its checkpoint: what commands go by that say or show something about it.

use super::audit::read_all;
use super::known::{self, Known};
use super::signer::{self, Continuity, Judged, Opened, Standing};
use super::source::Source;
use crate::client::Client;
use crate::error::CliError;
use potluck_governance::State;
use std::path::Path;

/// A log that was read.
pub(crate) struct ReadLog {
    checker: potluck_governance::Checker,
    /// Its name.
    pub(crate) origin: String,
    /// Whether who signed it leads it; else it is a mirror's draft.
    pub(crate) leads: bool,
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
    let (opened, known) = signer::open(&note, given_key, |origin| Known::read(&root, origin), &source)?;
    let Opened { origin, key, signed, .. } = &opened;
    let checker = read_all(&source, signed)?;
    let report = checker.report();
    if let Some(first) = report.errors.first() {
        return Err(CliError::Record {
            what: format!("{} entries of the log do not follow", report.error_count),
            cause: first.to_string(),
        });
    }
    if checker.state().origin() != *origin {
        return Err(CliError::Record {
            what: format!("the checkpoint is of {origin}"),
            cause: format!("the first entry begins a log called {:?}", checker.state().origin()),
        });
    }
    let Judged { standing, continuity, .. } = opened.judge(&known, checker.state(), &source)?;
    // Who signs by an older log may answer what was never asked.
    match continuity {
        Continuity::First | Continuity::Whole(_) => {}
        Continuity::Shorter { seen, shown } => {
            return Err(CliError::Record {
                what: "the log was rolled back".into(),
                cause: format!("{seen} entries were seen before, and the relay shows {shown}"),
            });
        }
        Continuity::Lost { kept, lost } => {
            tracing::warn!(kept, lost, "entries were lost with the relay before");
        }
    }
    let leads = standing == Standing::Leads;
    match standing {
        Standing::Leads => known.remember(key, signed)?,
        Standing::Draft(name) => {
            tracing::warn!(
                mirror = name,
                "this is a mirror's draft: it counts once people appoint that mirror"
            );
        }
    }
    Ok(ReadLog { checker, origin: origin.clone(), leads })
}
