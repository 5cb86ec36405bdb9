//! The fields of each kind of statement.

use super::words::{Ballot, ProposalKind, Scope, Target};
use crate::canonical::{FormError, name, visible, within};
use crate::key::{Key, Signature};
use crate::kinds::Fields;
use crate::limits::{MAX_INTEGER, MAX_RATIONALE_BYTES, MAX_REASON_BYTES};
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}

statements! {
    /// Proposes something: a steward, or a volunteer with credit and the seconds of others.
    Propose {
        /// What kind of thing.
        proposal: ProposalKind,
        /// The model, run, data set, kernel, parameter or succeeding mirror by name; for roles, constitution and mirrors,
        /// what changes.
        subject: String,
        /// What exactly: the hash of a candidate's parameters (promote, also the version to go back to), of a run's
        /// request, a data set's manifest, a kernel, a document (roles, constitution, parameter, mirrors), or a mirror as
        /// it is listed (succession).
        #[serde(with = "crate::hex")]
        body: BlobHash,
        /// What changes, for people to read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        diff: Option<String>,
        /// Why.
        rationale: String,
        /// From when on votes count.
        #[serde(with = "crate::canonical::int")]
        opens: u64,
        /// From when on they do not.
        #[serde(with = "crate::canonical::int")]
        closes: u64,
    }
    /// Votes on a proposal or an appeal. May be changed until the close: the highest `seq` counts.
    Vote {
        /// The id of the proposal or appeal.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The vote.
        vote: Ballot,
        /// Why; dissent stands beside the promotion.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
    /// An auditor derived something again from the log and public data, and says whether it is the same bit by bit.
    Attest {
        /// Hash of a candidate's parameters, of a run's request, of a manifest or a kernel.
        #[serde(with = "crate::hex")]
        subject: BlobHash,
        /// Whether it is the same. The last word of an auditor counts.
        reproduces: bool,
    }
    /// A person of the roles document read and tried an eval card.
    SignOff {
        /// The candidate.
        #[serde(with = "crate::hex")]
        candidate: BlobHash,
        /// Hash of the card that was read.
        #[serde(with = "crate::hex")]
        card: BlobHash,
        /// What the person wants to say about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }
    /// A volunteer's advice on a proposal. May be changed until the close.
    Advise {
        /// The id of the proposal.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The advice.
        vote: Ballot,
    }
    /// A volunteer wants another volunteer's proposal to be voted on.
    Second {
        /// The id of the proposal.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
    }
    /// Stops something at once: a steward alone, or two auditors who name the same scope.
    Pause {
        /// What.
        #[serde(with = "crate::canonical::display")]
        scope: Scope,
        /// Why.
        reason: String,
    }
    /// A steward wants a pause to last beyond its expiry.
    RatifyPause {
        /// The pause, by the index of the entry that began it.
        #[serde(with = "crate::canonical::int")]
        pause: u64,
    }
    /// A steward wants a pause to end.
    Resume {
        /// The pause, by the index of the entry that began it.
        #[serde(with = "crate::canonical::int")]
        pause: u64,
    }
    /// Replaces the signer's key, with all that it stands for.
    Rotate {
        /// The new key.
        #[serde(with = "crate::hex")]
        new_key: Key,
        /// The new key's signature over [`super::rotation_text`].
        #[serde(with = "crate::hex")]
        proof: Signature,
    }
    /// Takes a key out of use: its holder alone, or enough stewards together.
    Revoke {
        /// The key.
        #[serde(with = "crate::hex")]
        revoked: Key,
        /// Why.
        reason: String,
    }
    /// Keeps a volunteer's updates or a data set out of models that are promoted from now on.
    Quarantine {
        /// What.
        #[serde(with = "crate::canonical::display")]
        target: Target,
        /// Whether to end the quarantine instead: takes as many stewards as ending a pause.
        lift: bool,
        /// Why.
        reason: String,
    }
    /// Asks those who had no part in a decision to look at it again. Opens a vote among them.
    Appeal {
        /// The decision: the index of the entry with which it took effect.
        #[serde(with = "crate::canonical::int")]
        decision: u64,
        /// Why.
        reason: String,
    }
}

fn reason(text: &str) -> Result<(), FormError> {
    visible("reason", text, MAX_REASON_BYTES, true)
}

impl Fields for Propose {
    fn validate(&self) -> Result<(), FormError> {
        name("subject", &self.subject)?;
        self.diff.iter().try_for_each(|diff| visible("diff", diff, MAX_RATIONALE_BYTES, true))?;
        visible("rationale", &self.rationale, MAX_RATIONALE_BYTES, true)?;
        within("closes", self.closes, self.opens, MAX_INTEGER)?;
        if self.proposal == ProposalKind::Appeal {
            let problem = "an appeal is not proposed: sign a statement of kind appeal";
            return Err(FormError::Text { field: "proposal", problem });
        }
        Ok(())
    }
}

impl Fields for Vote {
    fn validate(&self) -> Result<(), FormError> {
        self.reason.iter().try_for_each(|text| reason(text))
    }
}

impl Fields for SignOff {
    fn validate(&self) -> Result<(), FormError> {
        self.note.iter().try_for_each(|text| reason(text))
    }
}

macro_rules! nothing_more {
    ($($name:ident),*) => {$(
        impl Fields for $name {
            fn validate(&self) -> Result<(), FormError> {
                Ok(())
            }
        }
    )*};
}
nothing_more!(Attest, Advise, Second, RatifyPause, Resume, Rotate);

macro_rules! with_reason {
    ($($name:ident),*) => {$(
        impl Fields for $name {
            fn validate(&self) -> Result<(), FormError> {
                reason(&self.reason)
            }
        }
    )*};
}
with_reason!(Pause, Revoke, Quarantine, Appeal);
