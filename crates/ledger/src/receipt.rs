//! Receipts: a file that shows offline that an entry is in the log.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <the entry, in base64>
//! index 73894
//! <hashes, from the entry's sibling up to the root's child>
//!
//! <the signed checkpoint>
//! ```
//!
//! It is a C2SP transparency log proof whose extra data is the entry itself; an empty entry has no such line. Other
//! verifiers of that format check it with the entry given separately.
//!
//! Source: c2sp.org/tlog-proof.

use crate::checkpoint::{CheckpointError, Policy, Verified};
use crate::hash::{MAX_TREE_SIZE, TreeHash, TreeHead};
use crate::note::{MAX_NOTE_BYTES, Note, NoteError};
use crate::proof::{MAX_PROOF_HASHES, ProofError, verify_inclusion};
use crate::prove::{ProveError, prove_inclusion};
use crate::text;
use crate::tile::{MAX_ENTRY_BYTES, ReadFiles};
use std::fmt;

/// Largest receipt, in bytes: an entry in base64, a proof of 45 bytes a hash, and a note.
pub const MAX_RECEIPT_BYTES: usize = MAX_ENTRY_BYTES / 3 * 4 + 45 * MAX_PROOF_HASHES + MAX_NOTE_BYTES + 128;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1\n";

/// An entry and the proof that it is in the log. `Display` writes the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The entry.
    pub entry: Vec<u8>,
    /// Its index in the log.
    pub index: u64,
    /// Hashes from the entry's sibling up to the root's child.
    pub proof: Vec<TreeHash>,
    /// The signed checkpoint of the tree that the proof is about.
    pub checkpoint: Note,
}

/// Why a receipt was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not the form of a receipt, or too long.
    #[error("not a receipt, or more than {MAX_RECEIPT_BYTES} bytes")]
    Malformed,
    /// The note is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The policy does not believe the checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not in the tree, or not at this index.
    #[error("the receipt does not prove that the log has this entry")]
    Proof(#[from] ProofError),
}

/// Why no receipt could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tiles do not prove that any entry has this index.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The log has another entry at this index.
    #[error("entry {index} of the log is another one")]
    Entry {
        /// Index in the log.
        index: u64,
    },
}

impl Receipt {
    /// Makes a receipt out of the tiles of the tree that `checkpoint` states. The note's signatures are not checked.
    ///
    /// # Errors
    /// [`IssueError`] says what is wrong.
    pub fn issue(
        entry: Vec<u8>,
        index: u64,
        checkpoint: Note,
        files: &mut dyn ReadFiles,
    ) -> Result<Self, IssueError> {
        let head: TreeHead = checkpoint.text().parse::<crate::Checkpoint>()?.head();
        let inclusion = prove_inclusion(index, &head, files)?;
        if inclusion.leaf != TreeHash::leaf(&entry) {
            return Err(IssueError::Entry { index });
        }
        Ok(Self { entry, index, proof: inclusion.proof, checkpoint })
    }

    /// Reads a receipt. Nothing of it is checked before [`Self::verify`].
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`] or [`ReceiptError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::Malformed);
        }
        let Some((entry, index, proof, note)) = std::str::from_utf8(bytes).ok().and_then(parse) else {
            return Err(ReceiptError::Malformed);
        };
        Ok(Self { entry, index, proof, checkpoint: Note::parse(note.as_bytes())? })
    }

    /// Checks offline that the log has the entry at the index, under a checkpoint that the policy believes.
    ///
    /// # Errors
    /// [`ReceiptError`] says what does not hold.
    pub fn verify(&self, policy: &Policy) -> Result<Verified, ReceiptError> {
        let verified = policy.verify_note(&self.checkpoint)?;
        let leaf = TreeHash::leaf(&self.entry);
        verify_inclusion(self.index, &leaf, &verified.checkpoint.head(), &self.proof)?;
        Ok(verified)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FIRST_LINE)?;
        if !self.entry.is_empty() {
            writeln!(f, "extra {}", text::encode(&self.entry))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

fn parse(text: &str) -> Option<(Vec<u8>, u64, Vec<TreeHash>, &str)> {
    let mut rest = text.strip_prefix(FIRST_LINE)?;
    let mut entry = Vec::new();
    if let Some(after) = rest.strip_prefix("extra ") {
        let (encoded, after) = text::line(after)?;
        // Empty extra data is left out: each receipt has one form only.
        entry = text::decode(encoded).filter(|entry| (1..=MAX_ENTRY_BYTES).contains(&entry.len()))?;
        rest = after;
    }
    let (index, rest) = text::line(rest.strip_prefix("index ")?)?;
    let index = text::decimal(index).filter(|index| *index < MAX_TREE_SIZE)?;
    let (proof, note) = text::hash_lines(rest, MAX_PROOF_HASHES)?;
    Some((entry, index, proof, note))
}
