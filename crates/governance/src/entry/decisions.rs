//! Entries about what people decided: their signed statements, and what took effect because of them.

use super::facts::fields;
use crate::canonical::{FormError, name, within};
use crate::constitution::Constitution;
use crate::key::{Key, Signature};
use crate::kinds::Fields;
use crate::limits::{MAX_INTEGER, MAX_STATEMENT_BYTES};
use crate::mirrors::{self, Mirror};
use crate::roles::Roles;
use potluck_types::BlobHash;

fields! {
    /// The first entry of a log.
    Genesis {
        /// The log's origin, as in its checkpoints. Every signed text names it, so that none counts in another log.
        origin: String,
        /// The rules.
        constitution: Constitution,
        /// The people.
        roles: Roles,
    }
    /// The people and rules of a log that began with nobody in office.
    Founding {
        /// The rules.
        constitution: Constitution,
        /// The people.
        roles: Roles,
    }
    /// A statement: exactly the text that a person signed.
    Signed {
        /// The text: canonical JSON, see [`crate::statement`].
        body: String,
        /// Whose signature.
        #[serde(with = "crate::hex")]
        key: Key,
        /// Over the bytes of `body`.
        #[serde(with = "crate::hex")]
        signature: Signature,
    }
    /// A kernel or engine that volunteers may run.
    Kernel {
        /// What it is called.
        name: String,
        /// Its hash: what a proposal for it names as its body.
        #[serde(with = "crate::hex")]
        hash: BlobHash,
        /// The proposal that allowed it.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        proposal: Option<BlobHash>,
    }
    /// A candidate became the version of a model that people run.
    Promotion {
        /// The model.
        model: String,
        /// The candidate, by the hash of its parameters.
        #[serde(with = "crate::hex")]
        candidate: BlobHash,
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The version before, to which a rollback leads; none for the first.
        #[serde(with = "crate::hex", default, skip_serializing_if = "Option::is_none")]
        previous: Option<BlobHash>,
    }
    /// The version of a model gave way to the one that it had followed. Nothing is removed from the record.
    Rollback {
        /// The model.
        model: String,
        /// The version that people run from now on.
        #[serde(with = "crate::hex")]
        to: BlobHash,
        /// The proposal that passed, or the appeal that was upheld.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
    }
    /// The roles document was replaced.
    NewRoles {
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The new document, whose hash the proposal named.
        roles: Roles,
    }
    /// The constitution was replaced.
    Amendment {
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The new document, whose hash the proposal named.
        constitution: Constitution,
    }
    /// A parameter was set within its bounds.
    ParameterSet {
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The parameter.
        name: String,
        /// Its new value.
        #[serde(with = "crate::canonical::signed")]
        value: i64,
    }
    /// The list of mirrors was replaced.
    NewMirrors {
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The new list. The hash of it as a [`crate::mirrors::Mirrors`] is what the proposal named.
        mirrors: Vec<Mirror>,
    }
    /// A listed mirror took over: checkpoints of the log that hold this entry are signed with the mirror's key.
    ///
    /// The state knows no checkpoints, so it takes `from` and `root` as they are said. Auditors compare them with the tree:
    /// `root` has to be what its first `from` entries give.
    Succession {
        /// The proposal that passed.
        #[serde(with = "crate::hex")]
        proposal: BlobHash,
        /// The mirror, by its key.
        #[serde(with = "crate::hex")]
        mirror: Key,
        /// How many entries the log had under the last checkpoint of the relay before that this mirror holds. From there
        /// up to this entry, there are only statements.
        #[serde(with = "crate::canonical::int")]
        from: u64,
        /// Their Merkle root.
        #[serde(with = "crate::hex")]
        root: BlobHash,
    }
}

/// Checks an origin: it stands in every signed text, where nothing may be escaped.
fn origin(text: &str) -> Result<(), FormError> {
    name("origin", text)?;
    if crate::canonical::is_plain(text) {
        return Ok(());
    }
    Err(FormError::Text {
        field: "origin",
        problem: "use visible ASCII characters without quotes and backslashes",
    })
}

impl Fields for Genesis {
    fn validate(&self) -> Result<(), FormError> {
        origin(&self.origin)?;
        self.constitution.validate()
    }
}

impl Fields for Founding {
    fn validate(&self) -> Result<(), FormError> {
        self.constitution.validate()
    }
}

impl Fields for Signed {
    fn validate(&self) -> Result<(), FormError> {
        if self.body.len() > MAX_STATEMENT_BYTES {
            return Err(FormError::TooLong { bytes: self.body.len(), limit: MAX_STATEMENT_BYTES });
        }
        within("body", self.body.len() as u64, 1, MAX_STATEMENT_BYTES as u64)
    }
}

impl Fields for Kernel {
    fn validate(&self) -> Result<(), FormError> {
        name("name", &self.name)
    }
}

impl Fields for Promotion {
    fn validate(&self) -> Result<(), FormError> {
        name("model", &self.model)
    }
}

impl Fields for Rollback {
    fn validate(&self) -> Result<(), FormError> {
        name("model", &self.model)
    }
}

// The people in it are examined by the state, as are those of the genesis: with an error of its own.
impl Fields for NewRoles {
    fn validate(&self) -> Result<(), FormError> {
        Ok(())
    }
}

impl Fields for Amendment {
    fn validate(&self) -> Result<(), FormError> {
        self.constitution.validate()
    }
}

impl Fields for ParameterSet {
    fn validate(&self) -> Result<(), FormError> {
        name("name", &self.name)
    }
}

impl Fields for NewMirrors {
    fn validate(&self) -> Result<(), FormError> {
        mirrors::check(&self.mirrors)
    }
}

impl Fields for Succession {
    fn validate(&self) -> Result<(), FormError> {
        // A log under a checkpoint has its first entry at least.
        within("from", self.from, 1, MAX_INTEGER)
    }
}
