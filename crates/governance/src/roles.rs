//! The roles document: which person holds which key in which role.

use crate::canonical::{self, FormError};
use crate::key::Key;
use crate::limits::{MAX_ROLE, MIN_AUDITORS, STEWARDS};
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A person and the key that speaks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// By which others know it. Unique in the document, upper and lower case alike.
    pub name: String,
    /// Its key. Unique in the document.
    #[serde(with = "crate::hex")]
    pub key: Key,
}

/// Who holds which role. Stewards decide, auditors check, operators run relays; nobody both decides and checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Propose, vote, promote, pause: 3 to 7 of them.
    pub stewards: Vec<Person>,
    /// Run audits again and may pause; may not promote: at least 2.
    pub auditors: Vec<Person>,
    /// Run relays. A steward among them has no vote on its own incidents.
    pub operators: Vec<Person>,
}

/// Why a document does not say one person, one key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RolesError {
    /// Too few or many hold a role.
    #[error("{found} {role}; there have to be {least} to {most}")]
    Count {
        /// The role.
        role: &'static str,
        /// How many hold it.
        found: usize,
        /// Least allowed.
        least: usize,
        /// Most allowed.
        most: usize,
    },
    /// A person stands twice.
    #[error(
        "{name} stands twice in the roles document: one person, one key, and not both steward and auditor"
    )]
    PersonTwice {
        /// The person.
        name: String,
    },
    /// A key stands twice.
    #[error("the key of {name} is also that of {other}: one person, one key")]
    KeyTwice {
        /// The one.
        name: String,
        /// The other.
        other: String,
    },
    /// A name cannot be read.
    #[error(transparent)]
    Form(#[from] FormError),
}

/// The form in which names are compared.
pub(crate) fn folded(name: &str) -> String {
    name.to_lowercase()
}

impl Roles {
    /// Nobody is in office: how a log may begin. Work goes on, nothing is decided, and an [`entry::Founding`] names the
    /// people, once.
    ///
    /// [`entry::Founding`]: crate::entry::Founding
    pub const fn nobody() -> Self {
        Self { stewards: Vec::new(), auditors: Vec::new(), operators: Vec::new() }
    }

    /// Whether nobody is in office.
    pub fn is_nobody(&self) -> bool {
        *self == Self::nobody()
    }

    /// Checks the document by itself.
    ///
    /// # Errors
    /// See [`RolesError`]. A person may be operator and something else, with the same key; nothing else is double.
    pub fn validate(&self) -> Result<(), RolesError> {
        for (role, people, least, most) in [
            ("stewards", &self.stewards, *STEWARDS.start(), *STEWARDS.end()),
            ("auditors", &self.auditors, MIN_AUDITORS, MAX_ROLE),
            ("operators", &self.operators, 0, MAX_ROLE),
        ] {
            if !(least..=most).contains(&people.len()) {
                return Err(RolesError::Count { role, found: people.len(), least, most });
            }
        }
        let mut keys: BTreeMap<Key, &str> = BTreeMap::new();
        let mut names: BTreeMap<String, Key> = BTreeMap::new();
        for person in self.stewards.iter().chain(&self.auditors) {
            canonical::name("name", &person.name)?;
            if names.insert(folded(&person.name), person.key).is_some() {
                return Err(RolesError::PersonTwice { name: person.name.clone() });
            }
            if let Some(other) = keys.insert(person.key, &person.name) {
                return Err(RolesError::KeyTwice { name: person.name.clone(), other: other.to_owned() });
            }
        }
        let mut operators = Vec::new();
        for person in &self.operators {
            canonical::name("name", &person.name)?;
            let name = folded(&person.name);
            if operators.contains(&name) || names.get(&name).is_some_and(|key| *key != person.key) {
                return Err(RolesError::PersonTwice { name: person.name.clone() });
            }
            if let Some(other) = keys.insert(person.key, &person.name)
                && folded(other) != name
            {
                return Err(RolesError::KeyTwice { name: person.name.clone(), other: other.to_owned() });
            }
            names.insert(name.clone(), person.key);
            operators.push(name);
        }
        Ok(())
    }

    /// What a proposal for this document names as its body.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&canonical::write("roles", self).unwrap_or_default())
    }

    /// All entries of the document.
    pub(crate) fn people_mut(&mut self) -> impl Iterator<Item = &mut Person> {
        self.stewards.iter_mut().chain(&mut self.auditors).chain(&mut self.operators)
    }
}
