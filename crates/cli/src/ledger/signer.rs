//! Who signed a checkpoint, and why that is believed: the relay that was seen first, a relay that took the log over by a decision
//! in it, or a mirror that may be about to.
//!
//! A log says by itself who signs it, so a log that somebody made up says so too. Another key than the one that is believed in
//! counts only if that one signed where the other began, and if that is in the tree.

use super::audit::{origin_of, unreadable, wrong};
use super::known::Known;
use super::source::{Reader, Source};
use crate::error::CliError;
use potluck_governance::{Key, State};
use potluck_ledger::{SignedCheckpoint, TreeHead, VerifierKey, root_at};
use potluck_types::BlobHash;

/// A checkpoint whose signature was checked; what its key is to the log, the log has to say.
pub(super) struct Opened {
    pub(super) origin: String,
    pub(super) key: VerifierKey,
    pub(super) signed: SignedCheckpoint,
    pub(super) trust: &'static str,
    /// The key that was given, or seen first.
    believed: VerifierKey,
}

/// What the signer is to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It leads the log.
    Leads,
    /// It is a mirror of this name, which has begun a draft: whatever people say there counts once they appoint it.
    Draft(String),
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
    let (believed, trust) = believed_key(given, &known, source)?;
    let opened = |key: VerifierKey, signed, trust| {
        let believed = believed.clone();
        (Opened { origin: origin.clone(), key, signed, trust, believed }, known.clone())
    };
    let error = match SignedCheckpoint::open(note, &origin, &believed) {
        Ok(signed) => return Ok(opened(believed.clone(), signed, trust)),
        Err(error) => error,
    };
    let named = source.key().ok().and_then(|text| text.parse::<VerifierKey>().ok());
    let signed = named.and_then(|key| Some((SignedCheckpoint::open(note, &origin, &key).ok()?, key)));
    let Some((signed, key)) = signed else { return Err(wrong("checkpoint", &error)) };
    Ok(opened(key, signed, "a key that the log itself has to appoint"))
}

/// What a log that was read comes to: what its signer is to it, and how it goes on from what was seen.
pub(super) struct Judged {
    pub(super) standing: Standing,
    pub(super) continuity: Continuity,
    /// Times that another relay took the log over, each compared with the tree.
    pub(super) successions: usize,
}

impl Opened {
    /// Judges the log, once it is read.
    ///
    /// # Errors
    /// Its signer is nobody to it, it shows another history than before, or files cannot be read.
    pub(super) fn judge(
        &self,
        known: &Known,
        state: &State,
        source: &Source<'_>,
    ) -> Result<Judged, CliError> {
        let successions = self.successions(state, source)?;
        let (standing, begins) = self.standing(state, source)?;
        let continuity = self.continuity(known, begins, source)?;
        Ok(Judged { standing, continuity, successions })
    }

    /// What the signer is, and from which tree of the believed key on it signs, if it is another.
    fn standing(&self, state: &State, source: &Source<'_>) -> Result<(Standing, Option<TreeHead>), CliError> {
        let own = Key(*self.key.public_key());
        let listed = state.mirrors().iter().find(|mirror| mirror.key == own);
        let leads = state.signer() == Some(own);
        if self.key == self.believed {
            let standing = match (state.signer(), listed) {
                _ if leads => Standing::Leads,
                (_, Some(mirror)) => Standing::Draft(mirror.name.clone()),
                (None, None) => Standing::Leads,
                (Some(_), None) => {
                    return Err(self.refused("people decided in the log that another relay goes on with it"));
                }
            };
            return Ok((standing, None));
        }
        let believed = Key(*self.believed.public_key());
        let standing = match listed {
            _ if leads => Standing::Leads,
            Some(mirror) => Standing::Draft(mirror.name.clone()),
            None => {
                return Err(self.refused(
                    "this is not the key that was seen first, and no decision in the log names it",
                ));
            }
        };
        let passed_on = state.succession_after(believed);
        let is_last = |index: u64| state.successions().last().is_some_and(|last| last.index == index);
        let begins = match (&standing, passed_on) {
            (Standing::Leads, Some(one)) if is_last(one.index) => {
                let begins = self.predecessor(source)?;
                if begins.size != one.from || BlobHash(begins.root.0) != one.root {
                    return Err(self.refused("it began elsewhere than where the relay before had signed"));
                }
                begins
            }
            (Standing::Draft(_), None) => self.predecessor(source)?,
            // What the relay before that had signed is told no more.
            _ => {
                return Err(self
                    .refused("the log passed on more than once since: give --key of the relay that leads"));
            }
        };
        let found = self.root_at(begins.size, source)?;
        if found != begins {
            return Err(self.refused("it does not go on from what the relay before had signed"));
        }
        Ok((standing, Some(begins)))
    }

    fn refused(&self, cause: &str) -> CliError {
        CliError::Record {
            what: format!("the checkpoint of {} is signed by {}", self.origin, self.key),
            cause: cause.to_owned(),
        }
    }

    /// The tree under the last checkpoint of the relay before, by the key that is believed in.
    fn predecessor(&self, source: &Source<'_>) -> Result<TreeHead, CliError> {
        let text = source.predecessor()?;
        let note = text.split_once("\n\n").map_or("", |(_, note)| note);
        let signed = SignedCheckpoint::open(note.as_bytes(), &self.origin, &self.believed);
        signed
            .map(|signed| signed.head())
            .map_err(|error| wrong("last checkpoint of the relay before", &error))
    }

    /// The tree of the first entries.
    fn root_at(&self, size: u64, source: &Source<'_>) -> Result<TreeHead, CliError> {
        let head = self.signed.head();
        if size > head.size {
            return Err(self.refused("it has fewer entries than the relay before had signed"));
        }
        let mut reader = Reader { source, failed: None };
        root_at(size, &head, &mut reader)
            .map(|(found, _)| found)
            .map_err(|error| unreadable(reader.failed.take(), "consistency", &error))
    }

    /// Compares with what was seen last. `begins`: from where on another key signs than the one that was believed.
    fn continuity(
        &self,
        known: &Known,
        begins: Option<TreeHead>,
        source: &Source<'_>,
    ) -> Result<Continuity, CliError> {
        let Some(old) = known.head(&self.origin)?.filter(|old| old.size > 0) else {
            return Ok(Continuity::First);
        };
        let new = self.signed.head();
        if let Some(begins) = begins.filter(|begins| begins.size < old.size) {
            return Ok(Continuity::Lost { kept: begins.size, lost: old.size - begins.size });
        }
        if new.size < old.size {
            return Ok(Continuity::Shorter { seen: old.size, shown: new.size });
        }
        let found = self.root_at(old.size, source)?;
        if found == old {
            return Ok(Continuity::Whole(old.size));
        }
        Err(CliError::Record {
            what: "the log was forked or rewritten".into(),
            cause: format!(
                "its first {} entries had the root {} when they were seen last, and have {} now; both are signed by {}",
                old.size, old.root, found.root, self.origin
            ),
        })
    }

    /// Compares what successions say that the relay before had signed with the tree: how many there were.
    fn successions(&self, state: &State, source: &Source<'_>) -> Result<usize, CliError> {
        for one in state.successions() {
            if BlobHash(self.root_at(one.from, source)?.root.0) != one.root {
                return Err(CliError::Record {
                    what: format!("entry {}, by which {} took the log over", one.index, one.mirror.name),
                    cause: format!("the first {} entries have another root than it says", one.from),
                });
            }
        }
        Ok(state.successions().len())
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
