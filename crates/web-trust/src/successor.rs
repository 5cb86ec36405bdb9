//! Whether a relay goes on with a log that this browser knows: people appointed it in there, and it kept what was seen.
//!
//! The whole log was read, so everything is looked up in one tree: the decision, the root that was seen last, and the root that
//! the relay before had signed.

use crate::Problem;
use crate::reader::Verified;
use potluck_governance::Key;
use potluck_ledger::{SignedCheckpoint, TreeHead, VerifierKey};
use potluck_types::BlobHash;
use serde::Serialize;

/// How a log went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// What people call the relay that goes on with it.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Entries that this browser saw, and that were lost with the relay before.
    pub lost: u64,
}

/// What is remembered of a log: the key that signed it, and its last checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Remembered<'a> {
    /// The key, as `/log/key` had it.
    pub key: &'a str,
    /// The checkpoint.
    pub note: &'a str,
}

/// The two lines of `/log/predecessor`: key and last checkpoint of the relay before.
fn note_of(predecessor: &str) -> &str {
    predecessor.split_once("\n\n").map_or("", |(_, note)| note)
}

/// Entries of a tree that `/log/predecessor`, or a checkpoint, states; 0 if it states none. What to mark before a log is read.
pub fn size_of(text: &str) -> u64 {
    let note = if note_of(text).contains("\n\n") { note_of(text) } else { text };
    note.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// Checks that the relay whose log was read took over the one that is remembered. `predecessor` is its `/log/predecessor`; the sizes of
/// that and of what is remembered were marked.
///
/// # Errors
/// What does not hold.
pub fn taken(log: Verified<'_>, remembered: Remembered<'_>, predecessor: &str) -> Result<Taken, Problem> {
    let before: VerifierKey =
        remembered.key.trim().parse().map_err(|error| format!("the log's key cannot be used: {error}"))?;
    let open = |note: &str, what: &str| -> Result<TreeHead, Problem> {
        let signed = SignedCheckpoint::open(note.as_bytes(), log.origin(), &before);
        signed.map(|signed| signed.head()).map_err(|error| format!("{what}: {error}"))
    };
    let old = open(remembered.note, "what this browser remembers is not of this log")?;
    if log.checker().report().error_count > 0 {
        return Err("entries of the log do not follow from those before them".to_owned());
    }
    let state = log.state();
    let last = state.successions().last().ok_or("no decision in the log lets another relay go on with it")?;
    if last.mirror.key.0 != *log.key().public_key() {
        return Err("people appointed another relay than the one that signs here".to_owned());
    }
    let passed_on = state.succession_after(Key(*before.public_key()));
    let passed_on = passed_on.ok_or("the relay that this browser knows leads the log still")?;
    let holds = |head: &TreeHead| log.root_at(head.size) == Some(head.root);
    // What a relay before that had signed is told no more: it has to be what was seen.
    let lost = if passed_on.index == last.index {
        let signed = open(note_of(predecessor), "the last checkpoint of the relay before")?;
        if signed.size != passed_on.from || BlobHash(signed.root.0) != passed_on.root || !holds(&signed) {
            return Err("it does not go on from what the relay before had signed".to_owned());
        }
        old.size.saturating_sub(passed_on.from)
    } else {
        0
    };
    if lost == 0 && (old.size > passed_on.from || !holds(&old)) {
        return Err("it does not go on from what this browser saw".to_owned());
    }
    Ok(Taken { name: last.mirror.name.clone(), url: last.mirror.url.clone(), lost })
}
