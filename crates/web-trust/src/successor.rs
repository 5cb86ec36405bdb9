//! Whether a relay goes on with a log that this browser knows: people appointed it in there, and it kept what was seen.

use crate::Problem;
use crate::reader::Verified;
use potluck_ledger::{AddCheckpoint, SignedCheckpoint, VerifierKey, verify_consistency};
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

/// Checks that the relay whose log was read with `key` took over the one that is remembered. `since`: its answer for
/// `/api/v1/log/since/SIZE`, for the remembered size; `predecessor`: its `/log/predecessor`, which is needed if entries were lost.
///
/// # Errors
/// What does not hold.
pub fn taken(
    log: Verified<'_>,
    key: &str,
    remembered: Remembered<'_>,
    since: &str,
    predecessor: &str,
) -> Result<Taken, Problem> {
    let (key, before) = (parse(key)?, parse(remembered.key)?);
    let old = open(remembered.note, &before, "what this browser remembers")?.head();
    if old.size > 0 && before.name() != log.origin() {
        return Err("this is another log".to_owned());
    }
    let state = log.state();
    let last = state.successions().last().ok_or("no decision in the log lets another relay go on with it")?;
    if last.mirror.key.0 != *key.public_key() {
        return Err("people appointed another relay than the one that signs here".to_owned());
    }
    let (name, url) = (last.mirror.name.clone(), last.mirror.url.clone());
    let passed_on = state.succession_after(potluck_governance::Key(*before.public_key()));
    let Some(passed_on) = passed_on.filter(|one| one.from < old.size) else {
        let request =
            AddCheckpoint::parse(since.as_bytes()).map_err(|error| format!("its proof: {error}"))?;
        let new = SignedCheckpoint::from_note(request.note, log.origin(), &key)
            .map_err(|error| format!("its checkpoint: {error}"))?;
        if request.old_size != old.size {
            return Err("its proof is for another size".to_owned());
        }
        verify_consistency(&old, &new.head(), &request.proof)
            .map_err(|error| format!("it does not go on from what this browser saw: {error}"))?;
        return Ok(Taken { name, url, lost: 0 });
    };
    let note = predecessor.split_once("\n\n").map_or("", |(_, note)| note);
    let signed = open(note, &before, "the last checkpoint of the relay before")?.head();
    if passed_on.index != last.index
        || signed.size != passed_on.from
        || BlobHash(signed.root.0) != passed_on.root
    {
        return Err("it does not show what the relay before had signed".to_owned());
    }
    Ok(Taken { name, url, lost: old.size - passed_on.from })
}

fn parse(key: &str) -> Result<VerifierKey, Problem> {
    key.trim().parse().map_err(|error| format!("the log's key cannot be used: {error}"))
}

fn open(note: &str, key: &VerifierKey, what: &str) -> Result<SignedCheckpoint, Problem> {
    SignedCheckpoint::open(note.as_bytes(), key.name(), key).map_err(|error| format!("{what}: {error}"))
}
