//! `potluck audit`: everything that a log claims, derived again from its files.

use super::known::{self, Known};
use super::model;
use super::signer::{self, Continuity, Judged, Opened, Standing};
use super::source::{Reader, Source};
use crate::args::AuditArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::progress::Progress;
use crate::runs::derive::Blobs;
use potluck_governance::Checker;
use potluck_ledger::{Checkpoint, Note, SignedCheckpoint};
use serde_json::{Value, json};

/// Entries between two looks at the progress.
const LOOK_EVERY: u64 = 4096;

/// Checks a whole log, and says what it checked and what it could not.
///
/// # Errors
/// The log cannot be read, or something in it is wrong; the message names it.
pub fn command(args: &AuditArgs, open: impl Fn(&str) -> Result<Client, CliError>) -> Result<(), CliError> {
    let folder = std::path::Path::new(&args.source);
    let client = if folder.is_dir() { None } else { Some(open(&args.source)?) };
    let source = match &client {
        Some(client) => Source::Relay(client),
        None => Source::Folder(folder.to_owned()),
    };
    let named = args.relay.as_deref().map(&open).transpose()?;
    let relay = named.as_ref().or(client.as_ref());
    let blobs = Blobs { folder: args.blobs.clone(), relay };
    let root = args.remember.clone().unwrap_or_else(known::usual_root);
    let mut report = Report { json: args.json, lines: Vec::new() };

    let note = source.checkpoint()?;
    let remembered = |origin: &str| Known::read(&root, origin);
    let (opened, known) = signer::open(&note, args.key.as_deref(), remembered, &source)?;
    let Opened { origin, key, signed, trust, .. } = &opened;
    let head = signed.head();
    report.checked("signature", &format!("of {origin} over {} entries, by {trust}", head.size));

    let checker = read_all(&source, signed)?;
    let found = checker.report();
    report.checked("tree", &format!("all {} entries and every hash above them lead to the root", head.size));
    let named = checker.state().origin();
    if named != *origin {
        return Err(CliError::Record {
            what: format!("the checkpoint is of {origin}"),
            cause: format!("the first entry begins a log called {named:?}"),
        });
    }
    let kinds: Vec<String> = found.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if !found.clean() {
        for finding in &found.errors {
            report.wrong("entries", &finding.to_string());
        }
        let first = found.errors.first().map(ToString::to_string).unwrap_or_default();
        report.end(false, origin, head.size);
        return Err(CliError::Record {
            what: format!("{} entries do not follow", found.error_count),
            cause: first,
        });
    }
    report.checked("entries", &format!("each follows from those before: {}", kinds.join(", ")));
    report.checked("signatures", &format!("{} of people, with their votes counted again", found.signatures));
    let Judged { standing, continuity, successions } = opened.judge(&known, checker.state(), &source)?;
    let goes_on = against_last(continuity, &mut report);
    if successions > 0 {
        report.checked("succession", &format!("{successions}, each from the tree that it names"));
    }
    if let Standing::Draft(name) = &standing {
        report.open("draft", &format!("signed by the mirror {name}: it counts once people appoint it"));
    }
    for unchecked in &found.unchecked {
        report.open("not checked", &unchecked.to_string());
    }
    // An older copy does not make this machine forget what it saw: a fork could hide behind it.
    if goes_on && standing == Standing::Leads {
        known.remember(key, signed)?;
    }
    if let Some(hash) = &args.model {
        let stopped = || relay.is_some_and(|relay| relay.stop().count() > 0);
        let checked = model::check(hash, (&source, &head), checker.state(), &blobs, &stopped, &mut report);
        if let Err(error) = checked {
            report.wrong("model", &error.to_string());
            report.end(false, origin, head.size);
            return Err(error);
        }
    }
    report.end(true, origin, head.size);
    Ok(())
}

/// The name that a checkpoint claims; nothing of it is believed yet.
pub(super) fn origin_of(note: &[u8]) -> Result<String, CliError> {
    let note = Note::parse(note).map_err(|error| wrong("checkpoint", &error))?;
    let checkpoint: Checkpoint = note.text().parse().map_err(|error| wrong("checkpoint", &error))?;
    Ok(checkpoint.origin().to_owned())
}

/// Whether the log goes on from what was seen last, or is an older copy.
fn against_last(continuity: Continuity, report: &mut Report) -> bool {
    match continuity {
        Continuity::First => {}
        Continuity::Shorter { seen, shown } => {
            // An older copy of the same log is fine, and says so.
            report.open("rolled back", &format!("{seen} entries were seen before, and here are {shown}"));
            return false;
        }
        Continuity::Whole(seen) => {
            report.checked("consistency", &format!("it goes on from the {seen} entries that were seen last"));
        }
        Continuity::Lost { kept, lost } => {
            report.open("lost", &format!("{lost} entries after the first {kept}, with the relay before"));
        }
    }
    true
}

pub(super) fn read_all(source: &Source<'_>, signed: &SignedCheckpoint) -> Result<Checker, CliError> {
    let head = signed.head();
    let progress = Progress::parts("audit", head.size);
    let mut checker = Checker::new();
    let mut reader = Reader { source, failed: None };
    let audited = potluck_ledger::audit(&head, &mut reader, &mut |index, entry| {
        checker.read(entry);
        if index.is_multiple_of(LOOK_EVERY) {
            progress.set(index, &format!("{index} of {} entries", head.size));
        }
    });
    audited.map_err(|error| unreadable(reader.failed.take(), "files", &error))?;
    progress.finish(&format!("{} entries", head.size));
    Ok(checker)
}

pub(super) fn wrong(what: &str, error: &dyn std::error::Error) -> CliError {
    CliError::Record { what: what.to_owned(), cause: error.to_string() }
}

/// A file that cannot be read is one thing, one that is wrong another.
pub(super) fn unreadable(failed: Option<CliError>, what: &str, error: &dyn std::error::Error) -> CliError {
    failed.unwrap_or_else(|| wrong(what, error))
}

/// What is told, as lines or at the end as one object.
pub(super) struct Report {
    json: bool,
    lines: Vec<Value>,
}

impl Report {
    fn say(&mut self, sign: &str, state: &str, what: &str, text: &str) {
        if self.json {
            self.lines.push(json!({ "what": what, "state": state, "text": text }));
        } else {
            println!("{sign} {what}: {text}");
        }
    }

    pub(super) fn checked(&mut self, what: &str, text: &str) {
        self.say("ok   ", "checked", what, text);
    }

    pub(super) fn open(&mut self, what: &str, text: &str) {
        self.say("open ", "open", what, text);
    }

    fn wrong(&mut self, what: &str, text: &str) {
        self.say("WRONG", "wrong", what, text);
    }

    fn end(self, good: bool, origin: &str, entries: u64) {
        if self.json {
            println!(
                "{}",
                json!({ "origin": origin, "entries": entries, "good": good, "checks": self.lines })
            );
        }
    }
}
