//! Signed notes: text with signatures below it.
//!
//! ```text
//! some lines of text
//!
//! — name base64(key id, signature)
//! ```
//!
//! A signature of a key that is not known is ignored: logs may rotate keys, and anybody may cosign. One of a known
//! key that does not hold makes the whole note invalid.
//!
//! Keys that this program does not hold (WebCrypto's, for example) sign the bytes of [`Note::message`] or
//! [`cosignature_message`], and [`Note::attach`] or [`Note::attach_cosignature`] adds what they made.
//!
//! Source: c2sp.org/signed-note; c2sp.org/tlog-cosignature, "Ed25519 signed message".

use crate::key::{KeyKind, SIGNATURE_BYTES, SignerKey, VerifierKey, is_name};
use crate::text;
use std::fmt;

/// Largest note, in bytes: a checkpoint with [`MAX_SIGNATURES`] cosignatures takes under 40 kB.
pub const MAX_NOTE_BYTES: usize = 64 * 1024;
/// Most signatures of a note; each costs a verifier up to 0.1 ms. The specification asks for 16 at least.
pub const MAX_SIGNATURES: usize = 100;
/// Latest time that a cosignature can state, in seconds since 1970.
pub const MAX_TIMESTAMP_S: u64 = i64::MAX as u64;

const MARK: &str = "\u{2014} ";
const ID_BYTES: usize = 4;
const TIMESTAMP_BYTES: usize = 8;

/// A text with signatures, of which nothing is known before [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One line below a note's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: u32,
    bytes: Vec<u8>,
}

/// A known key that signed a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// Position of the key in the list that was given.
    pub key: usize,
    /// Time that a cosignature states, in seconds since 1970; none for a plain signature.
    pub timestamp_s: Option<u64>,
}

/// Why a note was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// More bytes than a note may have.
    #[error("the note has {bytes} bytes; at most {MAX_NOTE_BYTES} are read")]
    TooLong {
        /// Its length, in bytes.
        bytes: usize,
    },
    /// More signatures than a note may have.
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// Text that is not UTF-8, has control characters, or does not end with a newline.
    #[error("a note's text is UTF-8 without control characters and ends with a newline")]
    Text,
    /// No blank line between text and signatures, or no signatures.
    #[error("the note has no signatures after a blank line")]
    Unsigned,
    /// A line below the text that is no signature.
    #[error("line {line} below the note's text is not a signature")]
    SignatureLine {
        /// Which line, from 1.
        line: usize,
    },
    /// A signature of a known key that does not hold.
    #[error("the signature of {name} does not hold")]
    BadSignature {
        /// Name of the key.
        name: String,
    },
    /// No known key signed.
    #[error("none of the keys that are known signed the note")]
    NoKnownSignature,
    /// A witness's key for a plain signature, or the other way round.
    #[error("the key {name} does not make signatures of this kind")]
    KeyKind {
        /// Name of the key.
        name: String,
    },
    /// A time beyond what a cosignature can state.
    #[error("a cosignature cannot state the time {timestamp_s} s")]
    Timestamp {
        /// The time, in seconds since 1970.
        timestamp_s: u64,
    },
}

impl Note {
    /// A note without signatures.
    ///
    /// # Errors
    /// [`NoteError::Text`] or [`NoteError::TooLong`].
    pub fn new(text: impl Into<String>) -> Result<Self, NoteError> {
        let text = text.into();
        check_text(&text)?;
        Ok(Self { text, signatures: Vec::new() })
    }

    /// A note of text that is known to be one.
    pub(crate) fn unsigned(text: String) -> Self {
        debug_assert!(check_text(&text).is_ok());
        Self { text, signatures: Vec::new() }
    }

    /// Reads a signed note. Its `Display` writes the same bytes again.
    ///
    /// # Errors
    /// [`NoteError`] says what is wrong with its form; signatures are not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong { bytes: bytes.len() });
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        let blank = bytes.windows(2).rposition(|pair| pair == b"\n\n").ok_or(NoteError::Unsigned)?;
        let (text, mut rest) = (&all[..=blank], &all[blank + 2..]);
        check_text(text)?;
        let mut signatures = Vec::new();
        while !rest.is_empty() {
            if signatures.len() == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let malformed = NoteError::SignatureLine { line: signatures.len() + 1 };
            let parsed =
                text::line(rest).and_then(|(line, after)| Some((NoteSignature::parse(line)?, after)));
            let Some((signature, after)) = parsed else {
                return Err(malformed);
            };
            signatures.push(signature);
            rest = after;
        }
        if signatures.is_empty() {
            return Err(NoteError::Unsigned);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The text, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes that a plain signature is made over.
    pub fn message(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The signatures, checked or not.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The note with its text and only those signatures that `keep` chooses.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&NoteSignature) -> bool) -> Self {
        let signatures = self.signatures.iter().filter(|signature| keep(signature)).cloned().collect();
        Self { text: self.text.clone(), signatures }
    }

    /// Signs with a log's key.
    ///
    /// # Errors
    /// [`NoteError::KeyKind`] for a witness's key; [`NoteError::TooManySignatures`].
    pub fn sign(&mut self, key: &SignerKey) -> Result<(), NoteError> {
        self.attach(key.verifier(), &key.sign(self.message()))
    }

    /// Adds a plain signature that somebody else made over [`Self::message`]; it is checked.
    ///
    /// # Errors
    /// As [`Self::sign`], and [`NoteError::BadSignature`].
    pub fn attach(&mut self, key: &VerifierKey, signature: &[u8; SIGNATURE_BYTES]) -> Result<(), NoteError> {
        expect_kind(key, KeyKind::Ed25519)?;
        self.push(key, signature.to_vec())
    }

    /// Signs with a witness's key.
    ///
    /// # Errors
    /// [`NoteError::KeyKind`] for a log's key; [`NoteError::Timestamp`]; [`NoteError::TooManySignatures`].
    pub fn cosign(&mut self, key: &SignerKey, timestamp_s: u64) -> Result<(), NoteError> {
        let signature = key.sign(&cosignature_message(&self.text, timestamp_s));
        self.attach_cosignature(key.verifier(), timestamp_s, &signature)
    }

    /// Adds a cosignature that somebody else made over [`cosignature_message`]; it is checked.
    ///
    /// # Errors
    /// As [`Self::cosign`], and [`NoteError::BadSignature`].
    pub fn attach_cosignature(
        &mut self,
        key: &VerifierKey,
        timestamp_s: u64,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), NoteError> {
        expect_kind(key, KeyKind::CosignatureV1)?;
        if timestamp_s > MAX_TIMESTAMP_S {
            return Err(NoteError::Timestamp { timestamp_s });
        }
        self.push(key, [timestamp_s.to_be_bytes().as_slice(), signature].concat())
    }

    /// Adds the signature lines of a witness's answer; they are not checked, and those that are there are not added
    /// again.
    ///
    /// # Errors
    /// [`NoteError::SignatureLine`] or [`NoteError::TooManySignatures`]; the note is then as before.
    pub fn attach_lines(&mut self, lines: &str) -> Result<(), NoteError> {
        let mut merged = self.signatures.clone();
        for (at, line) in lines.lines().enumerate() {
            let signature = NoteSignature::parse(line).ok_or(NoteError::SignatureLine { line: at + 1 })?;
            if merged.contains(&signature) {
                continue;
            }
            if merged.len() == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            merged.push(signature);
        }
        self.signatures = merged;
        Ok(())
    }

    /// Checks the signatures of the keys that are known, and says which of them signed. A key that signed twice is
    /// listed once, with its latest time.
    ///
    /// # Errors
    /// [`NoteError::BadSignature`] if the signature of a known key does not hold, [`NoteError::NoKnownSignature`] if
    /// there is none.
    pub fn verify(&self, keys: &[&VerifierKey]) -> Result<Vec<Signed>, NoteError> {
        let mut signed: Vec<Signed> = Vec::new();
        for signature in &self.signatures {
            for (at, key) in keys.iter().enumerate().filter(|(_, key)| signature.is_by(key)) {
                let timestamp_s = signature.check(key, &self.text)?;
                match signed.iter_mut().find(|signed| signed.key == at) {
                    Some(before) => before.timestamp_s = before.timestamp_s.max(timestamp_s),
                    None => signed.push(Signed { key: at, timestamp_s }),
                }
            }
        }
        if signed.is_empty() { Err(NoteError::NoKnownSignature) } else { Ok(signed) }
    }

    fn push(&mut self, key: &VerifierKey, bytes: Vec<u8>) -> Result<(), NoteError> {
        if self.signatures.len() == MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let signature = NoteSignature { name: key.name().to_owned(), id: key.id(), bytes };
        signature.check(key, &self.text)?;
        self.signatures.push(signature);
        Ok(())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(MARK)?.split_once(' ')?;
        let bytes = text::decode(encoded)?;
        let (id, rest) = bytes.split_first_chunk::<ID_BYTES>()?;
        if !is_name(name) || rest.is_empty() {
            return None;
        }
        Some(Self { name: name.to_owned(), id: u32::from_be_bytes(*id), bytes: rest.to_vec() })
    }

    /// Name of the key that is said to have signed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id of the key that is said to have signed.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it claims to be this key's.
    pub fn is_by(&self, key: &VerifierKey) -> bool {
        self.id == key.id() && self.name == key.name()
    }

    /// The time that the signature states, if it states one and holds.
    fn check(&self, key: &VerifierKey, text: &str) -> Result<Option<u64>, NoteError> {
        let wrong = || NoteError::BadSignature { name: key.name().to_owned() };
        let (timestamp_s, message, signature) = match key.kind() {
            KeyKind::Ed25519 => (None, text.as_bytes().to_vec(), self.bytes.as_slice()),
            KeyKind::CosignatureV1 => {
                let (timestamp, signature) =
                    self.bytes.split_first_chunk::<TIMESTAMP_BYTES>().ok_or_else(wrong)?;
                let timestamp_s = u64::from_be_bytes(*timestamp);
                if timestamp_s > MAX_TIMESTAMP_S {
                    return Err(wrong());
                }
                (Some(timestamp_s), cosignature_message(text, timestamp_s), signature)
            }
        };
        let signature = signature.try_into().map_err(|_| wrong())?;
        if key.verifies(&message, signature) { Ok(timestamp_s) } else { Err(wrong()) }
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.to_be_bytes().as_slice(), &self.bytes].concat();
        write!(f, "{MARK}{} {}", self.name, text::encode(&bytes))
    }
}

/// The bytes that a witness signs: a line that says what it is, the time in seconds since 1970, and the note's text.
pub fn cosignature_message(text: &str, timestamp_s: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {timestamp_s}\n{text}").into_bytes()
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong { bytes: text.len() });
    }
    if !text.ends_with('\n') || text.bytes().any(|b| b < b' ' && b != b'\n') {
        return Err(NoteError::Text);
    }
    Ok(())
}

fn expect_kind(key: &VerifierKey, kind: KeyKind) -> Result<(), NoteError> {
    if key.kind() == kind { Ok(()) } else { Err(NoteError::KeyKind { name: key.name().to_owned() }) }
}
