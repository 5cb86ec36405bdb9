//! Checkpoints: what a log signs, and when to believe one.
//!
//! A checkpoint is a note whose text is the log's origin, its size and its root:
//!
//! ```text
//! example.com/log
//! 20852163
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//! ```
//!
//! Source: c2sp.org/tlog-checkpoint.

use crate::hash::{MAX_TREE_SIZE, TreeHash, TreeHead};
use crate::key::{KeyKind, MAX_NAME_BYTES, VerifierKey};
use crate::note::{Note, NoteError};
use crate::text;
use std::fmt;
use std::str::FromStr;

/// Most witnesses of a policy: all of them can sign one note, next to the log.
pub const MAX_WITNESSES: usize = 64;

/// What a log states about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: TreeHead,
    extensions: Vec<String>,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note is malformed, or a signature of a known key does not hold.
    #[error(transparent)]
    Note(NoteError),
    /// A line of the text is not what it must be; from 1.
    #[error("line {line} of the checkpoint is wrong")]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// The checkpoint is another log's.
    #[error("the checkpoint's origin is {found}, not {expected}")]
    Origin {
        /// Origin found.
        found: String,
        /// Origin expected.
        expected: String,
    },
    /// The log's key did not sign.
    #[error("the log did not sign the checkpoint")]
    NotByLog,
    /// Too few of the policy's witnesses signed.
    #[error("{found} of the witnesses signed; {needed} are needed")]
    TooFewWitnesses {
        /// Witnesses that signed.
        found: usize,
        /// Witnesses needed.
        needed: usize,
    },
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    ///
    /// # Errors
    /// [`CheckpointError::Line`] for an origin that is empty, has a line break or is longer than [`MAX_NAME_BYTES`],
    /// for a size over [`MAX_TREE_SIZE`], and for an empty tree with another root than [`TreeHash::EMPTY`].
    pub fn new(origin: &str, head: TreeHead) -> Result<Self, CheckpointError> {
        Self::with_extensions(origin, head, Vec::new())
    }

    fn with_extensions(
        origin: &str,
        head: TreeHead,
        extensions: Vec<String>,
    ) -> Result<Self, CheckpointError> {
        // A note has none of these, so nobody could sign it.
        let has_control = |line: &str| line.bytes().any(|byte| byte < b' ');
        if !(1..=MAX_NAME_BYTES).contains(&origin.len()) || has_control(origin) {
            return Err(CheckpointError::Line { line: 1 });
        }
        if let Some(at) = extensions.iter().position(|line| has_control(line)) {
            return Err(CheckpointError::Line { line: 4 + at });
        }
        if head.size > MAX_TREE_SIZE {
            return Err(CheckpointError::Line { line: 2 });
        }
        if head.size == 0 && head.root != TreeHash::EMPTY {
            return Err(CheckpointError::Line { line: 3 });
        }
        Ok(Self { origin: origin.to_owned(), head, extensions })
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The log's size and root.
    pub fn head(&self) -> TreeHead {
        self.head
    }

    /// Further lines, whose meaning is the log's own.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// The checkpoint as a note that nobody has signed yet.
    pub fn to_note(&self) -> Note {
        Note::unsigned(self.to_string())
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.head.size, self.head.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let wrong = |line| CheckpointError::Line { line };
        let (origin, rest) = text::line(text).ok_or(wrong(1))?;
        let (size, rest) = text::line(rest).ok_or(wrong(2))?;
        let (root, mut rest) = text::line(rest).ok_or(wrong(3))?;
        let size = text::decimal(size).ok_or(wrong(2))?;
        let root = TreeHash::from_base64(root).ok_or(wrong(3))?;
        let mut extensions = Vec::new();
        while !rest.is_empty() {
            let malformed = wrong(4 + extensions.len());
            let Some((line, after)) = text::line(rest).filter(|(line, _)| !line.is_empty()) else {
                return Err(malformed);
            };
            extensions.push(line.to_owned());
            rest = after;
        }
        Self::with_extensions(origin, TreeHead { size, root }, extensions)
    }
}

/// A checkpoint whose signature by the log has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

impl SignedCheckpoint {
    /// Reads a note and checks that it is a checkpoint of this origin, signed by this key. Cosignatures are not
    /// looked at.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is wrong.
    pub fn open(note: &[u8], origin: &str, log: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = Note::parse(note).map_err(CheckpointError::Note)?;
        Self::from_note(note, origin, log)
    }

    /// As [`Self::open`], of a note that was read before.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is wrong.
    pub fn from_note(note: Note, origin: &str, log: &VerifierKey) -> Result<Self, CheckpointError> {
        note.verify(&[log]).map_err(|error| match error {
            NoteError::NoKnownSignature => CheckpointError::NotByLog,
            other => CheckpointError::Note(other),
        })?;
        Ok(Self { checkpoint: of_origin(&note, origin)?, note })
    }

    /// What the log states.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The log's size and root.
    pub fn head(&self) -> TreeHead {
        self.checkpoint.head
    }

    /// The note as it was read.
    pub fn note(&self) -> &Note {
        &self.note
    }
}

/// When to believe a checkpoint: the log signed it, and so did enough witnesses.
///
/// Believers of the same policy see the same log as long as fewer witnesses lie than would have to sign both sides of
/// a fork: with k of n, two sides need 2k signatures, so that 2k - n or more witnesses would have to sign both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    origin: String,
    log: VerifierKey,
    witnesses: Vec<VerifierKey>,
    threshold: usize,
}

/// Why a policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// An empty or too long origin, or one with line breaks.
    #[error("not the origin of a log")]
    Origin,
    /// A key that makes the wrong kind of signatures for its part.
    #[error("the key {name} makes the wrong kind of signatures")]
    KeyKind {
        /// Name of the key.
        name: String,
    },
    /// The same key twice: whoever holds it would count twice.
    #[error("the key {name} is there twice, under this name or another")]
    Duplicate {
        /// Name of the key's second appearance.
        name: String,
    },
    /// More witnesses than [`MAX_WITNESSES`], or fewer than the threshold.
    #[error("{threshold} of {witnesses} witnesses cannot be asked for")]
    Threshold {
        /// Witnesses that have to sign.
        threshold: usize,
        /// Witnesses there are.
        witnesses: usize,
    },
}

/// A checkpoint that a policy believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the log states.
    pub checkpoint: Checkpoint,
    /// The policy's witnesses that signed it.
    pub cosigners: Vec<Cosigner>,
}

/// A witness that signed a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigner {
    /// Position among the policy's witnesses.
    pub witness: usize,
    /// Name of its key.
    pub name: String,
    /// When it found the checkpoint to be the latest, by its own clock, in seconds since 1970.
    pub timestamp_s: u64,
}

impl Policy {
    /// Believes what `log` signs as `origin`, once `threshold` of `witnesses` signed too.
    ///
    /// # Errors
    /// [`PolicyError`] says what makes no sense.
    pub fn new(
        origin: &str,
        log: VerifierKey,
        witnesses: Vec<VerifierKey>,
        threshold: usize,
    ) -> Result<Self, PolicyError> {
        Checkpoint::new(origin, TreeHead::EMPTY).map_err(|_| PolicyError::Origin)?;
        if witnesses.len() > MAX_WITNESSES || threshold > witnesses.len() {
            return Err(PolicyError::Threshold { threshold, witnesses: witnesses.len() });
        }
        if log.kind() != KeyKind::Ed25519 {
            return Err(PolicyError::KeyKind { name: log.name().to_owned() });
        }
        for (at, witness) in witnesses.iter().enumerate() {
            if witness.kind() != KeyKind::CosignatureV1 {
                return Err(PolicyError::KeyKind { name: witness.name().to_owned() });
            }
            let mut others = witnesses[..at].iter().chain([&log]);
            if others.any(|other| other.public_key() == witness.public_key()) {
                return Err(PolicyError::Duplicate { name: witness.name().to_owned() });
            }
        }
        Ok(Self { origin: origin.to_owned(), log, witnesses, threshold })
    }

    /// Which log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The log's key.
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// The witnesses.
    pub fn witnesses(&self) -> &[VerifierKey] {
        &self.witnesses
    }

    /// Witnesses that have to sign.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Reads a signed checkpoint and decides whether to believe it. How old cosignatures may be is the caller's to
    /// decide: it has the clock.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is wrong. A witness's signature that does not hold spoils the note, as the
    /// specification asks for: the log can leave it out.
    pub fn verify(&self, note: &[u8]) -> Result<Verified, CheckpointError> {
        self.verify_note(&Note::parse(note).map_err(CheckpointError::Note)?)
    }

    /// As [`Self::verify`], of a note that was read before.
    ///
    /// # Errors
    /// [`CheckpointError`] says what is wrong.
    pub fn verify_note(&self, note: &Note) -> Result<Verified, CheckpointError> {
        let keys: Vec<&VerifierKey> = [&self.log].into_iter().chain(&self.witnesses).collect();
        let signed = match note.verify(&keys) {
            Err(NoteError::NoKnownSignature) => return Err(CheckpointError::NotByLog),
            other => other.map_err(CheckpointError::Note)?,
        };
        if signed.iter().all(|signed| signed.key != 0) {
            return Err(CheckpointError::NotByLog);
        }
        let checkpoint = of_origin(note, &self.origin)?;
        let cosigned = |(witness, key): (usize, &VerifierKey)| {
            let timestamp_s = signed.iter().find(|signed| signed.key == witness + 1)?.timestamp_s?;
            Some(Cosigner { witness, name: key.name().to_owned(), timestamp_s })
        };
        let cosigners: Vec<Cosigner> = self.witnesses.iter().enumerate().filter_map(cosigned).collect();
        if cosigners.len() < self.threshold {
            return Err(CheckpointError::TooFewWitnesses { found: cosigners.len(), needed: self.threshold });
        }
        Ok(Verified { checkpoint, cosigners })
    }
}

fn of_origin(note: &Note, origin: &str) -> Result<Checkpoint, CheckpointError> {
    let checkpoint: Checkpoint = note.text().parse()?;
    if checkpoint.origin != origin {
        return Err(CheckpointError::Origin { found: checkpoint.origin, expected: origin.to_owned() });
    }
    Ok(checkpoint)
}
