//! Who signed a checkpoint, and why that is believed: the relay that was seen first, a relay that took the log over by a decision
//! in it, or a mirror that may be about to.

use super::audit::{origin_of, unreadable, wrong};
use super::known::Known;
use super::source::{Reader, Source};
use crate::error::CliError;
use potluck_governance::State;
use potluck_ledger::{SignedCheckpoint, VerifierKey, root_at};
use potluck_types::BlobHash;

/// A checkpoint whose signature was checked; what its key is to the log, the log has to say.
pub(super) struct Opened {
    pub(super) origin: String,
    pub(super) key: VerifierKey,
    pub(super) signed: SignedCheckpoint,
    pub(super) trust: &'static str,
    /// It is not the key that was to be expected.
    other: bool,
}

/// What the signer is to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It leads the log.
    Leads,
    /// It is a mirror of this name, which has begun a draft: whatever people say there counts once they appoint it.
    Draft(String),
}

/// Opens a checkpoint with the key that is believed in, or with the one that its holder names.
///
/// # Errors
/// It is none, or signed by neither.
pub(super) fn open(
    note: &[u8],
    given: Option<&str>,
    known: impl FnOnce(&str) -> Result<Known, CliError>,
    source: &Source<'_>,
) -> Result<(Opened, Known), CliError> {
    let origin = origin_of(note)?;
    let known = known(&origin)?;
    let (key, trust) = believed_key(given, &known, source)?;
    let error = match SignedCheckpoint::open(note, &origin, &key) {
        Ok(signed) => return Ok((Opened { origin, key, signed, trust, other: false }, known)),
        Err(error) => error,
    };
    let named = source.key().ok().and_then(|text| text.parse::<VerifierKey>().ok());
    let signed = named.and_then(|key| Some((SignedCheckpoint::open(note, &origin, &key).ok()?, key)));
    let Some((signed, key)) = signed else { return Err(wrong("checkpoint", &error)) };
    let trust = "a key that the log itself has to appoint";
    Ok((Opened { origin, key, signed, trust, other: true }, known))
}

impl Opened {
    /// Asks the log, once it is read, what its signer is.
    ///
    /// # Errors
    /// Nobody: neither did it begin the log, nor does a decision name it.
    pub(super) fn standing(&self, state: &State) -> Result<Standing, CliError> {
        let is = |key: potluck_governance::Key| key.0 == *self.key.public_key();
        let refused = |cause: &str| {
            Err(CliError::Record {
                what: format!("the checkpoint of {} is signed by {}", self.origin, self.key),
                cause: cause.to_owned(),
            })
        };
        match state.signer() {
            Some(signer) if is(signer) => return Ok(Standing::Leads),
            None if !self.other => return Ok(Standing::Leads),
            _ => {}
        }
        if let Some(mirror) = state.mirrors().iter().find(|mirror| is(mirror.key)) {
            return Ok(Standing::Draft(mirror.name.clone()));
        }
        if self.other {
            return refused("this is not the key that was seen first, and no decision in the log names it");
        }
        refused("people decided in the log that another relay goes on with it")
    }
}

/// How a log goes on from what was seen of it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    /// Nothing was seen before.
    First,
    /// It has fewer entries than were seen: an older copy, or entries are gone.
    Shorter {
        /// Entries that were seen.
        seen: u64,
        /// Entries that there are.
        shown: u64,
    },
    /// It begins with these entries, which were seen.
    Whole(u64),
    /// The relay before had signed more than its successor ever saw: so many entries are lost, and people knew that they could be.
    Lost {
        /// Entries that both know.
        kept: u64,
        /// Entries that were seen, and are others now.
        lost: u64,
    },
}

impl Opened {
    /// Compares with what was seen last.
    ///
    /// # Errors
    /// The log shows another history, or its files cannot be read.
    pub(super) fn continuity(
        &self,
        known: &Known,
        state: &State,
        source: &Source<'_>,
    ) -> Result<Continuity, CliError> {
        let Some(old) = known.head(&self.origin)?.filter(|old| old.size > 0) else {
            return Ok(Continuity::First);
        };
        let new = self.signed.head();
        if let Some(kept) = self.lost_after(known, state, old.size, source)? {
            return Ok(Continuity::Lost { kept, lost: old.size - kept });
        }
        if new.size < old.size {
            return Ok(Continuity::Shorter { seen: old.size, shown: new.size });
        }
        let mut reader = Reader { source, failed: None };
        let found = root_at(old.size, &new, &mut reader)
            .map_err(|error| unreadable(reader.failed.take(), "consistency", &error))?;
        if found.0 == old {
            return Ok(Continuity::Whole(old.size));
        }
        Err(CliError::Record {
            what: "the log was forked or rewritten".into(),
            cause: format!(
                "its first {} entries had the root {} when they were seen last, and have {} now; both are signed by {}",
                old.size, old.root, found.0.root, self.origin
            ),
        })
    }

    /// Where another relay took the log over before all that was seen had reached it: how many entries it had. The key that
    /// was believed then has to have signed those too.
    fn lost_after(
        &self,
        known: &Known,
        state: &State,
        seen: u64,
        source: &Source<'_>,
    ) -> Result<Option<u64>, CliError> {
        let before = known.key.as_ref().and_then(|key| key.parse::<VerifierKey>().ok());
        let Some(before) = before.filter(|before| *before != self.key) else { return Ok(None) };
        let passed_on = state.succession_after(potluck_governance::Key(*before.public_key()));
        // Only the last succession's predecessor is still told.
        let last = state.successions().last().map(|last| last.index);
        let passed_on = passed_on.filter(|one| Some(one.index) == last && one.from < seen);
        let Some(succession) = passed_on else { return Ok(None) };
        let text = source.predecessor()?;
        let note = text.split_once("\n\n").map_or("", |(_, note)| note);
        let signed = SignedCheckpoint::open(note.as_bytes(), &self.origin, &before)
            .map_err(|error| wrong("last checkpoint of the relay before", &error))?;
        let head = signed.head();
        if head.size != succession.from || BlobHash(head.root.0) != succession.root {
            return Err(CliError::Record {
                what: format!(
                    "entry {}, by which {} took the log over",
                    succession.index, succession.mirror.name
                ),
                cause: "the last checkpoint of the relay before is of another tree".into(),
            });
        }
        Ok(Some(succession.from))
    }
}

/// The key that the person gave, or that was seen first, or that the log's holder names.
fn believed_key(
    given: Option<&str>,
    known: &Known,
    source: &Source<'_>,
) -> Result<(VerifierKey, &'static str), CliError> {
    let (text, trust) = match (given, &known.key) {
        (Some(given), _) => (given.to_owned(), "the key that you gave"),
        (None, Some(seen)) => (seen.clone(), "the key that was seen first"),
        (None, None) => (source.key()?, "the key that comes with it, seen for the first time"),
    };
    let key = text.parse::<VerifierKey>().map_err(|error| CliError::Usage {
        message: format!("{text:?} is not a log's key: {error}"),
        hint: "a key is written NAME+HASH+BASE64; GET /api/v1/log of the relay has it".into(),
    })?;
    Ok((key, trust))
}

/// Compares what successions say that the relay before had signed with the tree: how many there were.
///
/// # Errors
/// One says something else, or files cannot be read.
pub(super) fn successions(
    state: &State,
    signed: &SignedCheckpoint,
    source: &Source<'_>,
) -> Result<usize, CliError> {
    for one in state.successions() {
        let mut reader = Reader { source, failed: None };
        let (found, _) = root_at(one.from, &signed.head(), &mut reader)
            .map_err(|error| unreadable(reader.failed.take(), "succession", &error))?;
        if BlobHash(found.root.0) != one.root {
            return Err(CliError::Record {
                what: format!("entry {}, by which {} took the log over", one.index, one.mirror.name),
                cause: format!("the first {} entries have another root than it says", one.from),
            });
        }
    }
    Ok(state.successions().len())
}
