//! Who may say what: roles with their keys as they are now, credit, and each key's last number.

use super::refused::Refused;
use crate::key::Key;
use crate::limits::MAX_INTEGER;
use crate::roles::{Roles, folded};
use potluck_types::BlobHash;
use std::collections::{BTreeMap, BTreeSet};

/// What a volunteer did, as the log has it. Buys the right to be heard, nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Results that were accepted.
    pub results: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Results that were refused.
    pub rejected: u64,
    /// Updates that were accepted.
    pub updates: u64,
    /// Updates that were refused.
    pub updates_rejected: u64,
    /// Worker-rounds whose last audit passed.
    pub audits_passed: u32,
    /// Worker-rounds whose last audit failed.
    pub audits_failed: u32,
    /// Audits passed since the last failure.
    pub streak: u32,
}

impl Credit {
    /// Whether any of its work was accepted.
    pub fn counts(&self) -> bool {
        self.results > 0 || self.updates > 0
    }
}

/// Keys, roles and credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct People {
    /// The roles document, with keys as they are now.
    pub(super) roles: Roles,
    /// Keys out of use: replaced or revoked.
    pub(super) retired: BTreeSet<Key>,
    /// The first key of each key that followed another.
    roots: BTreeMap<Key, Key>,
    /// Credit by first key.
    pub(super) credit: BTreeMap<Key, Credit>,
    /// Number and id of each key's last statement.
    last: BTreeMap<Key, (u64, BlobHash)>,
    /// Stewards who want a key out of use.
    pub(super) revoking: BTreeMap<Key, BTreeSet<String>>,
}

/// Who signed, in all its roles. Names are folded: one person, however it is written.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    pub(super) key: Key,
    pub(super) root: Key,
    pub(super) steward: Option<String>,
    pub(super) auditor: Option<String>,
    pub(super) operator: Option<String>,
    pub(super) credit: bool,
}

impl Signer {
    /// The name under which it stands in the roles document, if it does.
    pub(super) fn name(&self) -> Option<&String> {
        self.steward.as_ref().or(self.auditor.as_ref()).or(self.operator.as_ref())
    }

    pub(super) fn as_steward(&self, act: &'static str) -> Result<&String, Refused> {
        self.steward.as_ref().ok_or(Refused::WrongRole { key: self.key, act, needed: "a steward" })
    }

    pub(super) fn as_auditor(&self, act: &'static str) -> Result<&String, Refused> {
        self.auditor.as_ref().ok_or(Refused::WrongRole { key: self.key, act, needed: "an auditor" })
    }
}

impl People {
    pub(super) fn new() -> Self {
        Self {
            roles: Roles::nobody(),
            retired: BTreeSet::new(),
            roots: BTreeMap::new(),
            credit: BTreeMap::new(),
            last: BTreeMap::new(),
            revoking: BTreeMap::new(),
        }
    }

    /// The key under which credit and advice are kept, however often it was replaced.
    pub(super) fn root(&self, key: Key) -> Key {
        self.roots.get(&key).copied().unwrap_or(key)
    }

    pub(super) fn credit_mut(&mut self, key: Key) -> &mut Credit {
        self.credit.entry(self.root(key)).or_default()
    }

    /// Finds out who signed.
    pub(super) fn signer(&self, key: Key) -> Result<Signer, Refused> {
        if self.retired.contains(&key) {
            return Err(Refused::RetiredKey { key });
        }
        let find = |people: &[crate::roles::Person]| {
            people.iter().find(|person| person.key == key).map(|person| folded(&person.name))
        };
        let root = self.root(key);
        let signer = Signer {
            key,
            root,
            steward: find(&self.roles.stewards),
            auditor: find(&self.roles.auditors),
            operator: find(&self.roles.operators),
            credit: self.credit.get(&root).is_some_and(Credit::counts),
        };
        if signer.name().is_none() && !signer.credit {
            return Err(Refused::UnknownKey { key });
        }
        Ok(signer)
    }

    /// Checks that a statement's number grows.
    pub(super) fn fresh(&self, key: Key, seq: u64, id: BlobHash) -> Result<(), Refused> {
        match self.last.get(&key) {
            Some(&(_, last)) if last == id => Err(Refused::Duplicate { statement: id }),
            Some(&(last, _)) if seq <= last => Err(Refused::Replayed { last, found: seq }),
            _ if seq > MAX_INTEGER => Err(Refused::Replayed { last: MAX_INTEGER, found: seq }),
            _ => Ok(()),
        }
    }

    pub(super) fn heard(&mut self, key: Key, seq: u64, id: BlobHash) {
        self.last.insert(key, (seq, id));
    }

    /// Whether anybody ever used the key here.
    pub(super) fn known(&self, key: Key) -> bool {
        self.retired.contains(&key)
            || self.roots.contains_key(&key)
            || self.credit.contains_key(&key)
            || self.last.contains_key(&key)
            || self.holders().any(|(_, held)| held == key)
    }

    fn holders(&self) -> impl Iterator<Item = (&str, Key)> {
        let roles = &self.roles;
        roles
            .stewards
            .iter()
            .chain(&roles.auditors)
            .chain(&roles.operators)
            .map(|person| (person.name.as_str(), person.key))
    }

    /// Replaces a key wherever it stands.
    pub(super) fn rotate(&mut self, old: Key, new: Key) {
        let root = self.root(old);
        self.roots.insert(new, root);
        self.retired.insert(old);
        // Who flees from a revocation with a stolen key does not get away from those who wanted it.
        if let Some(names) = self.revoking.remove(&old) {
            self.revoking.insert(new, names);
        }
        for person in self.roles.people_mut() {
            if person.key == old {
                person.key = new;
            }
        }
    }

    /// Stewards whose keys are in use, folded.
    pub(super) fn stewards(&self) -> BTreeSet<String> {
        self.in_use(&self.roles.stewards)
    }

    /// Auditors whose keys are in use, folded.
    pub(super) fn auditors(&self) -> BTreeSet<String> {
        self.in_use(&self.roles.auditors)
    }

    /// Everybody of the roles document whose key is in use, folded.
    pub(super) fn all(&self) -> BTreeSet<String> {
        let mut all = self.stewards();
        all.extend(self.auditors());
        all.extend(self.in_use(&self.roles.operators));
        all
    }

    fn in_use(&self, people: &[crate::roles::Person]) -> BTreeSet<String> {
        people
            .iter()
            .filter(|person| !self.retired.contains(&person.key))
            .map(|person| folded(&person.name))
            .collect()
    }

    /// Folded names of all operators.
    pub(super) fn operators(&self) -> BTreeSet<String> {
        self.roles.operators.iter().map(|person| folded(&person.name)).collect()
    }
}
