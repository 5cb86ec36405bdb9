//! Ed25519 keys and signatures as bytes, with the one way in which they are checked.

use crate::hex;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::str::FromStr;

/// An Ed25519 public key: a person's or a volunteer's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature(pub [u8; 64]);

impl Key {
    /// The public key that belongs to a secret one.
    pub fn of(secret: &SigningKey) -> Self {
        Self(secret.verifying_key().to_bytes())
    }

    /// Whether `signature` is this key's over `text`.
    ///
    /// Strict: keys of small order and signatures that could be written in two ways are refused, so that two
    /// implementations never disagree.
    pub fn signed(&self, text: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(text, &signature).is_ok())
    }
}

impl Signature {
    /// Signs a text.
    pub fn sign(secret: &SigningKey, text: &[u8]) -> Self {
        Self(secret.sign(text).to_bytes())
    }
}

/// Why a text is not a key or signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} lower-case hexadecimal digits")]
pub struct ParseKeyError {
    /// Digits that are needed.
    pub digits: usize,
}

macro_rules! as_text {
    ($($name:ident, $bytes:literal);*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::text(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}…", hex::text(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;
            fn from_str(text: &str) -> Result<Self, ParseKeyError> {
                hex::bytes(text).map(Self).ok_or(ParseKeyError { digits: 2 * $bytes })
            }
        }
    )*};
}
as_text!(Key, 32; Signature, 64);
