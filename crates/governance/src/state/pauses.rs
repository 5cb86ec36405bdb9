//! Pauses: what stops, since when, who stopped it, and when it ends.

use crate::entry::Trigger;
use crate::statement::Scope;
use std::collections::{BTreeMap, BTreeSet};

/// Who or what paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A steward.
    Steward {
        /// Folded name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Auditors together.
    Auditors {
        /// Folded names.
        names: BTreeSet<String>,
        /// Why, in the words of the last.
        reason: String,
    },
    /// A trigger.
    Automatic {
        /// Which.
        trigger: Trigger,
        /// The numbers.
        detail: String,
    },
}

/// A pause, in force or over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Index of the entry that began it.
    pub id: u64,
    /// What it stops.
    pub scope: Scope,
    /// Who or what paused.
    pub cause: Cause,
    /// Since when.
    pub since_ms: u64,
    /// When it ends by itself, unless it was ratified.
    pub expires_ms: u64,
    /// Stewards who want it to last.
    pub ratifying: BTreeSet<String>,
    /// When enough did: it lasts until it is ended.
    pub ratified_ms: Option<u64>,
    /// Stewards who want it to end.
    pub resuming: BTreeSet<String>,
    /// When enough did, or an appeal was upheld.
    pub ended_ms: Option<u64>,
    /// Operators whose own incident it is: they neither ratify nor end it.
    pub barred: BTreeSet<String>,
}

impl Pause {
    /// Whether it stops something at this time.
    pub fn in_force(&self, now_ms: u64) -> bool {
        now_ms >= self.since_ms
            && self.ended_ms.is_none_or(|ended| now_ms < ended)
            && (self.ratified_ms.is_some() || now_ms < self.expires_ms)
    }
}

/// All pauses, and auditors who wait for a second one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pauses {
    /// By the index of the entry that began them.
    pub(super) all: BTreeMap<u64, Pause>,
    /// Those that were neither ended nor found expired: so that a long history costs nothing.
    live: BTreeSet<u64>,
    pub(super) asking: BTreeMap<Scope, BTreeMap<String, u64>>,
}

impl Pauses {
    pub(super) fn begin(&mut self, pause: Pause) {
        self.live.retain(|id| self.all.get(id).is_some_and(|old| old.in_force(pause.since_ms)));
        self.asking.remove(&pause.scope);
        self.live.insert(pause.id);
        self.all.insert(pause.id, pause);
    }

    /// The first pause in force for which this holds.
    pub(super) fn find(&self, now_ms: u64, applies: impl Fn(&Scope) -> bool) -> Option<&Pause> {
        self.in_force(now_ms).find(|pause| applies(&pause.scope))
    }

    /// All pauses in force.
    pub(super) fn in_force(&self, now_ms: u64) -> impl Iterator<Item = &Pause> {
        self.live.iter().filter_map(|id| self.all.get(id)).filter(move |pause| pause.in_force(now_ms))
    }

    /// Auditors who asked for this and whose asking has not expired.
    pub(super) fn askers(&self, scope: &Scope, now_ms: u64, lasts_ms: u64) -> BTreeSet<String> {
        let asked = self.asking.get(scope).into_iter().flatten();
        asked
            .filter(|(_, at_ms)| now_ms < at_ms.saturating_add(lasts_ms))
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(super) fn end(&mut self, id: u64, now_ms: u64) {
        if let Some(pause) = self.all.get_mut(&id) {
            pause.ended_ms = Some(now_ms);
        }
        self.live.remove(&id);
    }
}
