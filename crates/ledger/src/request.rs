//! What a log sends to a witness: the size that the witness knows, the proof from there, and the new checkpoint.
//!
//! Source: c2sp.org/tlog-witness, "add-checkpoint".

use crate::hash::{MAX_TREE_SIZE, TreeHash};
use crate::note::{MAX_NOTE_BYTES, Note, NoteError};
use crate::text;
use std::fmt;

/// Most hashes of a proof in a request: the specification's limit.
pub const MAX_REQUEST_HASHES: usize = 63;
/// Largest request, in bytes: a note, and a proof of 45 bytes a hash.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + 45 * MAX_REQUEST_HASHES + 64;

/// The body of an `add-checkpoint` request, which is its `Display`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Entries of the latest checkpoint that the witness knows; 0 if none.
    pub old_size: u64,
    /// Hashes that lead from there to the new checkpoint.
    pub proof: Vec<TreeHash>,
    /// The new checkpoint.
    pub note: Note,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not the form of a request, or too long.
    #[error("not an add-checkpoint request, or more than {MAX_REQUEST_BYTES} bytes")]
    Malformed,
    /// The note is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
}

impl AddCheckpoint {
    /// Reads a request's body. Nothing of it is checked: hand note and proof to [`crate::Witness::offer`]. If the size
    /// is not that of [`crate::Witness::head`], the proof starts elsewhere; the specification answers that with status
    /// 409 and the witness's size.
    ///
    /// # Errors
    /// [`RequestError`] says what is wrong with its form.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::Malformed);
        }
        let parsed = std::str::from_utf8(bytes).ok().and_then(|text| {
            let (size, rest) = text::line(text.strip_prefix("old ")?)?;
            let old_size = text::decimal(size).filter(|size| *size <= MAX_TREE_SIZE)?;
            let (proof, note) = text::hash_lines(rest, MAX_REQUEST_HASHES)?;
            Some((old_size, proof, note))
        });
        let Some((old_size, proof, note)) = parsed else {
            return Err(RequestError::Malformed);
        };
        Ok(Self { old_size, proof, note: Note::parse(note.as_bytes())? })
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}
