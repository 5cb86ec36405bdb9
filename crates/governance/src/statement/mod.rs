//! Statements: the texts that people sign.
//!
//! A statement is canonical JSON: `{"v":1,"origin":…,"kind":…,"seq":…,"at_ms":…,…}`. What is signed is that text, byte
//! for byte, and its id is the BLAKE3 hash of it: a person sees exactly what it signs. It counts in the log that it
//! names, once: each key's `seq` grows from statement to statement.

mod kinds;
mod words;

pub use kinds::{
    Advise, Appeal, Attest, Pause, Propose, Quarantine, RatifyPause, Resume, Revoke, Rotate, Second, SignOff,
    Vote,
};
pub use words::{Ballot, ParseWordError, ProposalKind, Scope, Target};

use crate::canonical::{self, Beginning, FormError};
use crate::entry::Signed;
use crate::key::{Key, Signature};
use crate::kinds::kinds;
use crate::limits::{MAX_INTEGER, MAX_STATEMENT_BYTES};
use ed25519_dalek::SigningKey;
use potluck_types::BlobHash;

kinds! {
    /// What a statement says.
    Said {
        /// Proposes something.
        Propose = "propose",
        /// Votes on a proposal or an appeal.
        Vote = "vote",
        /// An auditor says whether something reproduces.
        Attest = "attest",
        /// A person read and tried an eval card.
        SignOff = "sign_off",
        /// A volunteer's advice on a proposal.
        Advise = "advise",
        /// A volunteer wants a proposal to be voted on.
        Second = "second",
        /// Stops something.
        Pause = "pause",
        /// A steward wants a pause to last.
        RatifyPause = "ratify_pause",
        /// A steward wants a pause to end.
        Resume = "resume",
        /// Replaces the signer's key.
        Rotate = "rotate",
        /// Takes a key out of use.
        Revoke = "revoke",
        /// Keeps a source out of promoted models, or lets it in again.
        Quarantine = "quarantine",
        /// Asks others to look at a decision again.
        Appeal = "appeal",
    }
}

/// A statement, unsigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The log in which it counts.
    pub origin: String,
    /// Grows with each statement of a key. The time in milliseconds will do.
    pub seq: u64,
    /// When it was signed, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it says.
    pub said: Said,
}

impl Statement {
    /// Writes the text to sign.
    ///
    /// # Errors
    /// [`FormError`] if a field is out of its bounds, or the text over [`MAX_STATEMENT_BYTES`].
    pub fn text(&self) -> Result<String, FormError> {
        if !canonical::is_plain(&self.origin) {
            return Err(FormError::Text {
                field: "origin",
                problem: "use the origin of the log's first entry",
            });
        }
        canonical::within("seq", self.seq, 0, MAX_INTEGER)?;
        canonical::within("at_ms", self.at_ms, 0, MAX_INTEGER)?;
        self.said.validate()?;
        let fields = self.said.json()?;
        let fields = String::from_utf8_lossy(&fields[1..]);
        let Self { origin, seq, at_ms, said } = self;
        let kind = said.kind();
        let text =
            format!(r#"{{"v":1,"origin":"{origin}","kind":"{kind}","seq":{seq},"at_ms":{at_ms},{fields}"#);
        if text.len() > MAX_STATEMENT_BYTES {
            return Err(FormError::TooLong { bytes: text.len(), limit: MAX_STATEMENT_BYTES });
        }
        Ok(text)
    }

    /// Reads a signed text.
    ///
    /// # Errors
    /// [`FormError`] as [`crate::Entry::decode`].
    pub fn parse(text: &str) -> Result<Self, FormError> {
        if text.len() > MAX_STATEMENT_BYTES {
            return Err(FormError::TooLong { bytes: text.len(), limit: MAX_STATEMENT_BYTES });
        }
        let mut beginning = Beginning::new(text.as_bytes());
        beginning.literal(r#"{"v":1,"origin":""#)?;
        let origin = beginning.plain()?.to_owned();
        beginning.literal(r#"","kind":""#)?;
        let kind = beginning.plain()?;
        beginning.literal(r#"","seq":"#)?;
        let seq = beginning.number()?;
        beginning.literal(r#","at_ms":"#)?;
        let at_ms = beginning.number()?;
        beginning.literal(",")?;
        let mut fields = vec![b'{'];
        fields.extend_from_slice(&text.as_bytes()[beginning.position..]);
        let statement = Self { origin, seq, at_ms, said: Said::read(kind, &fields)? };
        canonical::same(statement.text()?.as_bytes(), text.as_bytes())?;
        Ok(statement)
    }

    /// Signs the statement, ready for an entry.
    ///
    /// # Errors
    /// As [`Statement::text`].
    pub fn sign(&self, secret: &SigningKey) -> Result<Signed, FormError> {
        let body = self.text()?;
        let signature = Signature::sign(secret, body.as_bytes());
        Ok(Signed { key: Key::of(secret), body, signature })
    }
}

impl Signed {
    /// The statement's id: the BLAKE3 hash of its exact text.
    pub fn id(&self) -> BlobHash {
        BlobHash::of(self.body.as_bytes())
    }
}

/// What a new key signs to show that its holder wants to follow an old one: no key can be claimed by others.
pub fn rotation_text(origin: &str, old: &Key, new: &Key) -> String {
    format!(r#"{{"v":1,"origin":"{origin}","kind":"rotation","old":"{old}","new":"{new}"}}"#)
}
