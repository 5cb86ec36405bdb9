//! Runs as the log has them: rounds, contributions and what is known about each.
//!
//! A worker-round costs 12 bytes for good, a closed round 56, so that the log of a long run fits into memory.

use super::refused::Refused;
use crate::entry::{Aggregate, AuditVerdict, Run};
use crate::key::Key;
use potluck_types::BlobHash;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds that may be open at once: one that closes, one that is computed, and two for what comes early.
const OPEN_ROUNDS: u64 = 4;
/// Verdicts that an open round may hold: two for each of 256 workers, and as many again for leases that were lost.
const MAX_VERDICTS: usize = 1024;

/// What is known about a worker-round that an aggregate contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// Replayed, and passed.
    Passed,
    /// Replayed, and failed.
    Failed,
    /// Not replayed; its volunteer had passed enough audits when the round closed, and failed none since.
    Credible,
    /// Neither.
    Bare,
}

/// One worker-round in an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contribution {
    /// The round.
    pub round: u32,
    /// Its weight in the aggregate, in parts per million.
    pub weight_ppm: u32,
    /// The worker.
    pub worker: u16,
    /// What is known about it.
    pub cover: Cover,
}

/// A closed round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Its number.
    pub round: u32,
    /// Workers that the log names for it.
    pub workers: u16,
    /// Of these, those whose last audit failed.
    pub failed: u16,
    /// Updates in its aggregate.
    pub updates: u16,
    /// Validation loss afterwards, in micro-nats.
    pub loss: Option<i64>,
    /// Hash of the parameters afterwards.
    pub next_parameters: BlobHash,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunState {
    /// Its entry.
    pub entry: Run,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
    /// Hash of its parameters as they stand.
    pub parameters: BlobHash,
    /// Closed rounds, in order.
    pub rounds: Vec<Round>,
    /// What each volunteer contributed, in order of rounds, by its first key.
    pub contributions: BTreeMap<Key, Vec<Contribution>>,
    /// The last loss that was measured, in micro-nats.
    pub loss: Option<i64>,
    /// The round that closes next; none before anything is known.
    next: Option<u64>,
    open: BTreeMap<u64, OpenRound>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct OpenRound {
    attempt: u32,
    commits: Option<u32>,
    workers: BTreeMap<u16, Accepted>,
    verdicts: BTreeMap<(u16, Key), AuditVerdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    volunteer: Key,
    update: BlobHash,
    cluster: u32,
}

/// What closing a round found.
pub(super) struct Closed {
    pub(super) before: Option<i64>,
    pub(super) failed: u64,
    pub(super) workers: u64,
    /// Weight of the heaviest cluster, of all, and the number of updates.
    pub(super) heaviest: u64,
    pub(super) weight: u64,
    pub(super) updates: u32,
}

impl RunState {
    pub(super) fn new(entry: &Run, index: u64, at_ms: u64) -> Self {
        Self {
            entry: entry.clone(),
            index,
            at_ms,
            parameters: entry.parameters,
            rounds: Vec::new(),
            contributions: BTreeMap::new(),
            loss: None,
            next: None,
            open: BTreeMap::new(),
        }
    }

    /// A closed round by its number.
    pub fn round(&self, round: u64) -> Option<&Round> {
        self.rounds
            .binary_search_by_key(&round, |closed| u64::from(closed.round))
            .ok()
            .map(|i| &self.rounds[i])
    }

    /// Checks that a round and attempt may still change.
    pub(super) fn check_open(&self, round: u64, attempt: u32) -> Result<(), Refused> {
        let first = self.next.unwrap_or(round);
        let last = first + OPEN_ROUNDS - 1;
        if !(first..=last).contains(&round) {
            return Err(Refused::Round { round, first, last });
        }
        match self.open.get(&round) {
            Some(open) if attempt < open.attempt => {
                Err(Refused::Attempt { round, current: open.attempt, found: attempt })
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, round: u64, attempt: u32) -> &mut OpenRound {
        self.next.get_or_insert(round);
        let open = self.open.entry(round).or_default();
        if attempt > open.attempt {
            *open = OpenRound { attempt, ..OpenRound::default() };
        }
        open
    }

    pub(super) fn check_commits(&self, round: u64, attempt: u32) -> Result<(), Refused> {
        self.check_open(round, attempt)?;
        let open = self.open.get(&round);
        if open.is_some_and(|open| open.attempt == attempt && open.commits.is_some()) {
            return Err(Refused::Twice { what: format!("commits of attempt {attempt} of round {round}") });
        }
        Ok(())
    }

    pub(super) fn commits(&mut self, round: u64, attempt: u32, count: u32) {
        self.open(round, attempt).commits = Some(count);
    }

    pub(super) fn check_update(&self, round: u64, attempt: u32, worker: u32) -> Result<(), Refused> {
        self.check_open(round, attempt)?;
        let open = self.open.get(&round).filter(|open| open.attempt == attempt);
        if open.is_some_and(|open| open.workers.contains_key(&(worker as u16))) {
            return Err(Refused::WorkerTwice { round, worker });
        }
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        (round, attempt, worker): (u64, u32, u32),
        (volunteer, update, cluster): (Key, BlobHash, u32),
    ) {
        let accepted = Accepted { volunteer, update, cluster };
        self.open(round, attempt).workers.insert(worker as u16, accepted);
    }

    pub(super) fn touch(&mut self, round: u64, attempt: u32) {
        self.open(round, attempt);
    }

    /// Checks that a worker-round can be audited: one of an open round, or one that contributed to a closed one.
    pub(super) fn check_audit(&self, round: u64, worker: u32, volunteer: Key) -> Result<(), Refused> {
        let unknown = Refused::UnknownWorker { round, worker, volunteer };
        if self.next.is_some_and(|next| round < next) {
            return if self.contribution(round, worker, volunteer).is_some() { Ok(()) } else { Err(unknown) };
        }
        self.check_open(round, u32::MAX)?;
        let Some(open) = self.open.get(&round) else { return Ok(()) };
        let held = open.workers.get(&(worker as u16));
        if held.is_some_and(|held| held.volunteer != volunteer) || open.verdicts.len() >= MAX_VERDICTS {
            return Err(unknown);
        }
        Ok(())
    }

    fn contribution(&self, round: u64, worker: u32, volunteer: Key) -> Option<usize> {
        let place = (round as u32, worker as u16);
        self.contributions.get(&volunteer)?.binary_search_by_key(&place, |c| (c.round, c.worker)).ok()
    }

    /// Notes a verdict. Returns the one before, and for a closed round its failures and workers.
    pub(super) fn audit(
        &mut self,
        (round, worker, volunteer): (u64, u32, Key),
        verdict: AuditVerdict,
    ) -> (Option<AuditVerdict>, Option<(u64, u64)>) {
        let Some(i) = self.contribution(round, worker, volunteer) else {
            self.next.get_or_insert(round);
            let open = self.open.entry(round).or_default();
            return (open.verdicts.insert((worker as u16, volunteer), verdict), None);
        };
        let Some(contribution) = self.contributions.get_mut(&volunteer).and_then(|all| all.get_mut(i)) else {
            return (None, None);
        };
        let before = match contribution.cover {
            Cover::Passed => Some(AuditVerdict::Passed),
            Cover::Failed => Some(AuditVerdict::Failed),
            Cover::Credible | Cover::Bare => None,
        };
        contribution.cover = cover(verdict);
        let Ok(place) = self.rounds.binary_search_by_key(&round, |closed| u64::from(closed.round)) else {
            return (before, None);
        };
        let closed = &mut self.rounds[place];
        let failed = |verdict| u16::from(verdict == Some(AuditVerdict::Failed));
        closed.failed = closed.failed.saturating_add(failed(Some(verdict))).saturating_sub(failed(before));
        (before, Some((u64::from(closed.failed), u64::from(closed.workers))))
    }

    /// A volunteer lost its credibility: what was counted on it is bare.
    pub(super) fn uncover(&mut self, volunteer: Key) {
        for contribution in self.contributions.get_mut(&volunteer).into_iter().flatten() {
            if contribution.cover == Cover::Credible {
                contribution.cover = Cover::Bare;
            }
        }
    }

    pub(super) fn check_aggregate(
        &self,
        aggregate: &Aggregate,
        root: impl Fn(Key) -> Key,
    ) -> Result<(), Refused> {
        let round = aggregate.round;
        let next = self.next.unwrap_or(round);
        if round != next {
            return Err(Refused::Round { round, first: next, last: next });
        }
        if aggregate.parameters != self.parameters {
            return Err(Refused::Chain { expected: self.parameters, found: aggregate.parameters });
        }
        let updates = aggregate.updates.len();
        let open = self.open.get(&round);
        let commits = open.and_then(|open| open.commits).unwrap_or(0);
        if updates > commits as usize {
            return Err(Refused::Commits { round, updates, commits });
        }
        let accepted: BTreeSet<_> = open
            .into_iter()
            .flat_map(|open| open.workers.values())
            .map(|a| (a.volunteer, a.update))
            .collect();
        let mut seen = BTreeSet::new();
        for update in &aggregate.updates {
            let claim = (root(update.volunteer), update.update);
            if !accepted.contains(&claim) || !seen.insert(claim) {
                return Err(Refused::Update { update: update.update, volunteer: update.volunteer });
            }
        }
        Ok(())
    }

    pub(super) fn close(
        &mut self,
        aggregate: &Aggregate,
        root: impl Fn(Key) -> Key,
        credible: impl Fn(Key) -> bool,
    ) -> Closed {
        let round = aggregate.round;
        let open = self.open.remove(&round).unwrap_or_default();
        let failed: BTreeSet<u16> =
            open.verdicts.iter().filter(|(_, v)| **v == AuditVerdict::Failed).map(|((w, _), _)| *w).collect();
        let named: BTreeSet<u16> =
            open.workers.keys().copied().chain(open.verdicts.keys().map(|(worker, _)| *worker)).collect();
        let mut clusters: BTreeMap<u32, u64> = BTreeMap::new();
        let weights: BTreeMap<_, _> =
            aggregate.updates.iter().map(|u| ((root(u.volunteer), u.update), u.weight_ppm)).collect();
        let mut taken = BTreeSet::new();
        for (&worker, accepted) in &open.workers {
            let claim = (accepted.volunteer, accepted.update);
            let Some(&weight_ppm) = weights.get(&claim) else { continue };
            if !taken.insert(claim) {
                continue;
            }
            *clusters.entry(accepted.cluster).or_default() += u64::from(weight_ppm);
            let cover = match open.verdicts.get(&(worker, accepted.volunteer)) {
                Some(&verdict) => cover(verdict),
                None if credible(accepted.volunteer) => Cover::Credible,
                None => Cover::Bare,
            };
            let contribution = Contribution { round: round as u32, weight_ppm, worker, cover };
            self.contributions.entry(accepted.volunteer).or_default().push(contribution);
        }
        let before = self.loss;
        let loss = aggregate.loss.map(|loss| loss.0);
        self.rounds.push(Round {
            round: round as u32,
            workers: named.len() as u16,
            failed: failed.len() as u16,
            updates: aggregate.updates.len() as u16,
            loss,
            next_parameters: aggregate.next_parameters,
        });
        self.loss = loss.or(before);
        self.parameters = aggregate.next_parameters;
        self.next = Some(round + 1);
        Closed {
            before,
            failed: failed.len() as u64,
            workers: named.len() as u64,
            heaviest: clusters.values().copied().max().unwrap_or(0),
            weight: clusters.values().sum(),
            updates: aggregate.updates.len() as u32,
        }
    }
}

fn cover(verdict: AuditVerdict) -> Cover {
    match verdict {
        AuditVerdict::Passed => Cover::Passed,
        AuditVerdict::Failed => Cover::Failed,
    }
}
