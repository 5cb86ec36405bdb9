//! Keys of signed notes: Ed25519, with a name and an id.
//!
//! A key belongs to a log (its notes' text is what it signs) or to a witness (which signs a time along with the text).
//! The keys' text forms are those of Go's golang.org/x/mod/sumdb/note.
//!
//! Source: c2sp.org/signed-note, "Verifier keys" and "Signature types"; c2sp.org/tlog-cosignature.

use crate::text;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Bytes of a public key, and of the seed of a secret one.
pub const KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Longest name of a key or origin of a log, in bytes: a URL without its scheme.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest text form of a key, in bytes: names and 33 bytes in base64, with room.
const MAX_KEY_TEXT_BYTES: usize = MAX_NAME_BYTES + 128;

const SECRET_PREFIX: &str = "PRIVATE+KEY+";

/// What a key's signatures mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// Type 0x01: signs the text.
    Ed25519,
    /// Type 0x04, cosignature/v1: a witness states when it found the checkpoint to be the log's latest.
    CosignatureV1,
}

impl KeyKind {
    fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::CosignatureV1 => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Ed25519),
            4 => Some(Self::CosignatureV1),
            _ => None,
        }
    }
}

/// Why a key was refused. The text of a key is never part of the error: it may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the text form of a key.
    #[error("not a key of the form name+id+base64")]
    Malformed,
    /// An empty or too long name, or one with spaces, control characters or a plus.
    #[error("a key's name has 1 to {MAX_NAME_BYTES} bytes, and no spaces, control characters or plus")]
    Name,
    /// A type of signature that is not known here.
    #[error("signatures of type {kind:#04x} are not known")]
    Kind {
        /// The type's byte.
        kind: u8,
    },
    /// The id is not that of the name and key.
    #[error("the key's id is {expected:08x}, not {found:08x}")]
    Id {
        /// Id in the text.
        found: u32,
        /// Id of name and key.
        expected: u32,
    },
    /// Bytes that are no point of the curve, a second encoding of one, or a point of small order, under which
    /// signatures prove nothing.
    #[error("not a sound Ed25519 public key")]
    Point,
}

/// A public key with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    id: u32,
    key: VerifyingKey,
}

impl VerifierKey {
    /// A key out of its 32 bytes, as RFC 8032 encodes them.
    ///
    /// # Errors
    /// [`KeyError::Name`] or [`KeyError::Point`].
    pub fn new(name: &str, kind: KeyKind, key: &[u8; KEY_BYTES]) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let parsed = VerifyingKey::from_bytes(key).map_err(|_| KeyError::Point)?;
        if parsed.is_weak() || parsed.to_edwards().compress().as_bytes() != key {
            return Err(KeyError::Point);
        }
        Ok(Self { name: name.to_owned(), kind, id: key_id(name, kind, key), key: parsed })
    }

    /// Name of whoever holds the key: a URL without its scheme, mostly.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kind of its signatures.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Id: the first bytes of a hash over name, kind and key. It tells keys apart and proves nothing.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The key's bytes.
    pub fn public_key(&self) -> &[u8; KEY_BYTES] {
        self.key.as_bytes()
    }

    /// Checks an Ed25519 signature over a message: strictly, so that nobody can turn one valid signature into another,
    /// and none holds for every message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.id, material(self.kind, self.public_key()))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, found, kind, bytes) = parse(text)?;
        let key = Self::new(name, kind, &bytes)?;
        check_id(found, key.id)?;
        Ok(key)
    }
}

/// A secret key with its name. Its memory is cleared when it is dropped; `Debug` shows the public half only.
#[derive(Clone)]
pub struct SignerKey {
    verifier: VerifierKey,
    secret: SigningKey,
}

impl SignerKey {
    /// A key out of a seed: 32 bytes that nobody can guess.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, kind: KeyKind, seed: &[u8; KEY_BYTES]) -> Result<Self, KeyError> {
        let secret = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, kind, secret.verifying_key().as_bytes())?;
        Ok(Self { verifier, secret })
    }

    /// Reads `PRIVATE+KEY+name+id+base64`.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, found, kind, seed) = parse(text.strip_prefix(SECRET_PREFIX).ok_or(KeyError::Malformed)?)?;
        let key = Self::from_seed(name, kind, &seed)?;
        check_id(found, key.verifier.id)?;
        Ok(key)
    }

    /// Writes the secret as `PRIVATE+KEY+name+id+base64`. Not a `Display`, so that no log shows it by accident.
    pub fn secret_text(&self) -> String {
        let VerifierKey { name, kind, id, .. } = &self.verifier;
        format!("{SECRET_PREFIX}{name}+{id:08x}+{}", material(*kind, self.secret.as_bytes()))
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerKey").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// Whether a key can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.chars().any(|c| c.is_whitespace() || c == '+' || c < ' ')
}

/// Kind and key in base64.
fn material(kind: KeyKind, key: &[u8; KEY_BYTES]) -> String {
    let mut bytes = [kind.byte(); 1 + KEY_BYTES];
    bytes[1..].copy_from_slice(key);
    text::encode(&bytes)
}

/// Name, id, kind and bytes. Base64 may contain a plus, names and ids may not.
fn parse(text: &str) -> Result<(&str, u32, KeyKind, [u8; KEY_BYTES]), KeyError> {
    if text.len() > MAX_KEY_TEXT_BYTES {
        return Err(KeyError::Malformed);
    }
    let (name, rest) = text.split_once('+').ok_or(KeyError::Malformed)?;
    let (id, material) = rest.split_once('+').ok_or(KeyError::Malformed)?;
    if id.len() != 8 || !id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(KeyError::Malformed);
    }
    let id = u32::from_str_radix(id, 16).map_err(|_| KeyError::Malformed)?;
    let bytes = text::decode(material).ok_or(KeyError::Malformed)?;
    let (&byte, key) = bytes.split_first().ok_or(KeyError::Malformed)?;
    let kind = KeyKind::from_byte(byte).ok_or(KeyError::Kind { kind: byte })?;
    Ok((name, id, kind, key.try_into().map_err(|_| KeyError::Malformed)?))
}

fn check_id(found: u32, expected: u32) -> Result<(), KeyError> {
    if found == expected { Ok(()) } else { Err(KeyError::Id { found, expected }) }
}

fn key_id(name: &str, kind: KeyKind, key: &[u8; KEY_BYTES]) -> u32 {
    let mut sha = Sha256::new();
    sha.update(name.as_bytes());
    sha.update([b'\n', kind.byte()]);
    sha.update(key);
    let hash: [u8; 32] = sha.finalize().into();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}
