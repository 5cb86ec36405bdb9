//! Evidence that a log forked: that it signed two histories. Anybody can check it offline, with the log's key alone.
//!
//! What is provable and what is not stands at [`ForkEvidence`].
//!
//! Source: RFC 6962, section 5.4 (gossip), and RFC 9162, section 2.1.4, for what the proof shows.

use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::hash::{TreeHash, TreeHead};
use crate::key::VerifierKey;
use crate::note::{MAX_NOTE_BYTES, Note, NoteError};
use crate::proof::{MAX_PROOF_HASHES, ProofError, verify_consistency};
use crate::prove::{ProveError, root_at};
use crate::text;
use crate::tile::ReadFiles;
use std::fmt;

/// Largest evidence, in bytes: two notes, and a proof of 45 bytes a hash.
pub const MAX_EVIDENCE_BYTES: usize = 2 * MAX_NOTE_BYTES + 45 * MAX_PROOF_HASHES + 256;

const FIRST_LINE: &str = "potluck-ledger/fork@v1";

/// Two notes of one log that cannot both be true.
///
/// # What is provable
///
/// - Two notes of the same size with different roots: the log signed both, and one tree has one root.
/// - Two notes of different sizes, *and* a consistency proof from another root, of the older size, to the newer note's
///   root. By that proof, the newer tree begins with other entries than the older note states; a proof for the older
///   note's root too would be a collision of SHA-256. Whoever has the newer tree's tiles can make it
///   ([`ForkEvidence::from_tiles`]).
///
/// # What is not
///
/// - Two notes of different sizes and a proof that fails ([`Suspicion`]). Anybody can give a wrong proof for two notes
///   of an honest log. It is a reason to ask the log for the tiles, and to shout if it has none.
/// - A smaller checkpoint that follows a larger one. Notes arrive late; only the larger one has to begin with it.
/// - That a log withheld something, or showed it to some only: unless both sides' notes meet somewhere. This is what
///   witnesses are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkEvidence {
    older: Note,
    newer: Note,
    prefix: Option<Prefix>,
}

/// What the newer tree begins with in truth.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prefix {
    root: TreeHash,
    proof: Vec<TreeHash>,
}

/// Two notes of one log and a proof between them that failed. This alone proves nothing: see [`ForkEvidence`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// The smaller checkpoint.
    pub older: SignedCheckpoint,
    /// The larger checkpoint.
    pub newer: SignedCheckpoint,
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForkError {
    /// Not the text form of evidence, or too long.
    #[error("not evidence of a fork, or more than {MAX_EVIDENCE_BYTES} bytes")]
    Malformed,
    /// A note within it is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A checkpoint within it is malformed, or not signed by the log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Both notes state the same root, or the proof leads to the root that the older one states.
    #[error("the two checkpoints are consistent")]
    Consistent,
    /// The sizes differ, and no proof shows that the newer tree begins otherwise.
    #[error("checkpoints of different sizes prove nothing without what the newer tree begins with")]
    NoProof,
    /// The proof does not hold.
    #[error("the proof of what the newer tree begins with does not hold")]
    Proof(#[source] ProofError),
}

impl ForkEvidence {
    /// Evidence out of two checkpoints of the same size.
    ///
    /// # Errors
    /// [`ForkError::NoProof`] if the sizes differ, [`ForkError::Consistent`] if the roots are the same.
    pub fn same_size(one: &SignedCheckpoint, other: &SignedCheckpoint) -> Result<Self, ForkError> {
        let evidence = Self { older: one.note().clone(), newer: other.note().clone(), prefix: None };
        evidence.contradicts(&one.head(), &other.head())?;
        Ok(evidence)
    }

    /// Evidence out of two checkpoints of different sizes: `root` is what the newer tree's first entries have, as many
    /// as the older tree states, and `proof` shows it.
    ///
    /// # Errors
    /// [`ForkError`] says why this proves nothing.
    pub fn with_prefix(
        older: &SignedCheckpoint,
        newer: &SignedCheckpoint,
        root: TreeHash,
        proof: Vec<TreeHash>,
    ) -> Result<Self, ForkError> {
        let prefix = Some(Prefix { root, proof });
        let evidence = Self { older: older.note().clone(), newer: newer.note().clone(), prefix };
        evidence.contradicts(&older.head(), &newer.head())?;
        Ok(evidence)
    }

    /// Looks for a fork between two checkpoints, of any sizes and in any order, in the tiles of the larger tree; none
    /// if it begins with the smaller one.
    ///
    /// # Errors
    /// [`ProveError`] if the tiles cannot be read or do not belong to the larger tree. That proves nothing.
    pub fn from_tiles(
        one: &SignedCheckpoint,
        other: &SignedCheckpoint,
        files: &mut dyn ReadFiles,
    ) -> Result<Option<Self>, ProveError> {
        let (older, newer) = if one.head().size <= other.head().size { (one, other) } else { (other, one) };
        if older.head().size == newer.head().size {
            return Ok(Self::same_size(older, newer).ok());
        }
        let (begins_with, proof) = root_at(older.head().size, &newer.head(), files)?;
        Ok(Self::with_prefix(older, newer, begins_with.root, proof).ok())
    }

    /// Checks that the log signed both notes and that they cannot both be true; gives both.
    ///
    /// # Errors
    /// [`ForkError`] says why this proves nothing.
    pub fn verify(&self, origin: &str, log: &VerifierKey) -> Result<(Checkpoint, Checkpoint), ForkError> {
        let older = SignedCheckpoint::from_note(self.older.clone(), origin, log)?;
        let newer = SignedCheckpoint::from_note(self.newer.clone(), origin, log)?;
        self.contradicts(&older.head(), &newer.head())?;
        Ok((older.checkpoint().clone(), newer.checkpoint().clone()))
    }

    /// The note of the smaller checkpoint.
    pub fn older(&self) -> &Note {
        &self.older
    }

    /// The note of the larger checkpoint.
    pub fn newer(&self) -> &Note {
        &self.newer
    }

    /// Reads the text form: see `Display`.
    ///
    /// # Errors
    /// [`ForkError::Malformed`] or [`ForkError::Note`]; whether it proves anything, [`Self::verify`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, ForkError> {
        let malformed = ForkError::Malformed;
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(malformed);
        }
        let Some((prefix, notes)) = std::str::from_utf8(bytes).ok().and_then(parse_head) else {
            return Err(malformed);
        };
        let Some((older, newer)) = parse_notes(notes) else {
            return Err(malformed);
        };
        Ok(Self { older: Note::parse(older.as_bytes())?, newer: Note::parse(newer.as_bytes())?, prefix })
    }

    fn contradicts(&self, older: &TreeHead, newer: &TreeHead) -> Result<(), ForkError> {
        let Some(Prefix { root, proof }) = &self.prefix else {
            return match (older.size == newer.size, older.root == newer.root) {
                (false, _) => Err(ForkError::NoProof),
                (true, true) => Err(ForkError::Consistent),
                (true, false) => Ok(()),
            };
        };
        verify_consistency(&TreeHead { size: older.size, root: *root }, newer, proof)
            .map_err(ForkError::Proof)?;
        // A tree of the same size would need no prefix, and every tree begins with the empty one.
        if *root == older.root { Err(ForkError::Consistent) } else { Ok(()) }
    }
}

/// A first line that names the format; if sizes differ, what the newer tree begins with and the hashes that prove it;
/// an empty line; then both notes, each after a line with its length in bytes.
impl fmt::Display for ForkEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(Prefix { root, proof }) = &self.prefix {
            writeln!(f, "begins {root}")?;
            proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        }
        writeln!(f)?;
        for note in [&self.older, &self.newer] {
            let note = note.to_string();
            write!(f, "note {}\n{note}", note.len())?;
        }
        Ok(())
    }
}

fn parse_head(text: &str) -> Option<(Option<Prefix>, &str)> {
    let rest = text.strip_prefix(FIRST_LINE)?.strip_prefix('\n')?;
    let Some(rest) = rest.strip_prefix("begins ") else {
        return Some((None, rest.strip_prefix('\n')?));
    };
    let (root, rest) = text::line(rest)?;
    let root = TreeHash::from_base64(root)?;
    let (proof, notes) = text::hash_lines(rest, MAX_PROOF_HASHES)?;
    Some((Some(Prefix { root, proof }), notes))
}

fn parse_notes(text: &str) -> Option<(&str, &str)> {
    let (older, rest) = parse_note(text)?;
    let (newer, rest) = parse_note(rest)?;
    rest.is_empty().then_some((older, newer))
}

fn parse_note(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text::line(text.strip_prefix("note ")?)?;
    rest.split_at_checked(usize::try_from(text::decimal(length)?).ok()?)
}
