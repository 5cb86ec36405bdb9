//! Entries: what one leaf of the log says.
//!
//! An entry is canonical JSON: `{"v":1,"at_ms":…,"kind":"…",…}`. The relay writes them and vouches for them with its
//! checkpoint; where a person decides, the entry holds the text that the person signed.
//! `facts.rs`: what happened; `decisions.rs`: what people signed, and what took effect.

mod decisions;
mod facts;

pub use decisions::{
    Amendment, Founding, Genesis, Kernel, NewMirrors, NewRoles, ParameterSet, Promotion, Rollback, Signed,
    Succession,
};
pub use facts::{
    Aggregate, AggregatedUpdate, Audit, AuditVerdict, Candidate, Card, Commits, DataSet, EpochCommitted,
    EpochOpened, Incident, Job, MicroNats, ResultAccepted, ResultRejected, Run, Source, Trigger,
    UpdateAccepted, UpdateRejected,
};

use crate::canonical::{self, Beginning, FormError};
use crate::kinds::kinds;
use crate::limits::{MAX_ENTRY_BYTES, MAX_INTEGER};

kinds! {
    /// What an entry says.
    Body {
        /// The first entry: origin, rules and people.
        Genesis = "genesis",
        /// The people and rules of a log that began with nobody in office.
        Founding = "founding",
        /// The hash of a secret, before anything is drawn from it.
        EpochCommitted = "epoch_committed",
        /// The secret, when nothing is drawn from it any more.
        EpochOpened = "epoch_opened",
        /// A job came in.
        Job = "job",
        /// A run came in.
        Run = "run",
        /// A data set came in.
        DataSet = "dataset",
        /// A kernel or engine came in.
        Kernel = "kernel",
        /// All commits of a round are in.
        Commits = "commits",
        /// A result was verified and is durable.
        ResultAccepted = "result_accepted",
        /// A result was refused.
        ResultRejected = "result_rejected",
        /// An update was taken.
        UpdateAccepted = "update_accepted",
        /// An update was refused.
        UpdateRejected = "update_rejected",
        /// A worker's round was replayed.
        Audit = "audit",
        /// A round was closed.
        Aggregate = "aggregate",
        /// Parameters that may become a version of a model.
        Candidate = "candidate",
        /// An eval card and the numbers in it.
        Card = "card",
        /// What a person signed.
        Signed = "statement",
        /// A candidate became a version.
        Promotion = "promotion",
        /// A version gave way to the one before.
        Rollback = "rollback",
        /// Roles changed.
        NewRoles = "roles",
        /// The constitution changed.
        Amendment = "amendment",
        /// A parameter changed.
        ParameterSet = "parameter",
        /// Something went wrong.
        Incident = "incident",
        /// The list of mirrors changed.
        NewMirrors = "mirrors",
        /// A mirror took over.
        Succession = "succession",
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When the relay logged it, in milliseconds since 1970. Never falls from entry to entry.
    pub at_ms: u64,
    /// What it says.
    pub body: Body,
}

impl Entry {
    /// An entry of this time.
    pub fn new(at_ms: u64, body: impl Into<Body>) -> Self {
        Self { at_ms, body: body.into() }
    }

    /// Writes the entry's text: the bytes of its leaf.
    ///
    /// # Errors
    /// [`FormError`] if a field is out of its bounds, or the text over [`MAX_ENTRY_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, FormError> {
        canonical::within("at_ms", self.at_ms, 0, MAX_INTEGER)?;
        self.body.validate()?;
        let fields = self.body.json()?;
        let mut out = Vec::with_capacity(fields.len() + 64);
        out.extend_from_slice(br#"{"v":1,"at_ms":"#);
        out.extend_from_slice(self.at_ms.to_string().as_bytes());
        out.extend_from_slice(br#","kind":""#);
        out.extend_from_slice(self.body.kind().as_bytes());
        out.extend_from_slice(br#"","#);
        out.extend_from_slice(&fields[1..]);
        if out.len() > MAX_ENTRY_BYTES {
            return Err(FormError::TooLong { bytes: out.len(), limit: MAX_ENTRY_BYTES });
        }
        Ok(out)
    }

    /// Reads an entry's text.
    ///
    /// # Errors
    /// [`FormError`] if it is too long, no JSON of its kind, out of bounds, or not canonical; that names the first byte
    /// that differs.
    pub fn decode(text: &[u8]) -> Result<Self, FormError> {
        if text.len() > MAX_ENTRY_BYTES {
            return Err(FormError::TooLong { bytes: text.len(), limit: MAX_ENTRY_BYTES });
        }
        let mut beginning = Beginning::new(text);
        beginning.literal(r#"{"v":1,"at_ms":"#)?;
        let at_ms = beginning.number()?;
        beginning.literal(r#","kind":""#)?;
        let kind = beginning.plain()?;
        beginning.literal(r#"","#)?;
        let rest = &text[beginning.position..];
        let mut fields = Vec::with_capacity(rest.len() + 1);
        fields.push(b'{');
        fields.extend_from_slice(rest);
        let entry = Self { at_ms, body: Body::read(kind, &fields)? };
        canonical::same(&entry.encode()?, text)?;
        Ok(entry)
    }
}
