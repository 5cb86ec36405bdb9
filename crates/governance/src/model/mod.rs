//! What a model's page and a proposal's timeline show: plain data, derived from the state.
//!
//! Accountability: each version carries the names of those who decided, the card that they read, who disagreed and why,
//! who contributed what, and the version to which a rollback would lead.

mod timeline;

pub use timeline::{Event, Timeline, What, timeline};

use crate::entry::{Card, DataSet, Source};
use crate::gate::{Check, gate};
use crate::key::Key;
use crate::state::{Contributed, ModelChange, Pause, SignedOff, State};
use crate::statement::Ballot;
use potluck_types::{BlobHash, JobId};

/// A person's word, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voice {
    /// The person.
    pub name: String,
    /// Why, or what it adds.
    pub reason: Option<String>,
}

/// What a volunteer contributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contributor {
    /// Its first key.
    pub volunteer: Key,
    /// Its worker-rounds.
    pub sum: Contributed,
    /// Its share of all weight, in parts per million, rounded down.
    pub share_ppm: u64,
}

/// Where parameters come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Hash of the parameters.
    pub candidate: BlobHash,
    /// Hash of the checkpoint.
    pub checkpoint: BlobHash,
    /// The run.
    pub run: JobId,
    /// Its name.
    pub run_name: String,
    /// Hash of the parameters from which the run started.
    pub started_from: BlobHash,
    /// First and last round.
    pub rounds: Option<(u64, u64)>,
    /// Data sets of the run.
    pub data_sets: Vec<DataSet>,
    /// What it was rebuilt without.
    pub rebuilt_without: Vec<Source>,
    /// Who contributed, most weight first.
    pub contributors: Vec<Contributor>,
    /// The eval card.
    pub card: Option<Card>,
    /// The gate as it is now: attestations and quarantines may have changed since a promotion.
    pub checks: Vec<Check>,
    /// Who read and tried the card as it is now.
    pub signed_off: Vec<Voice>,
    /// Auditors who derived the same parameters.
    pub reproduced_by: Vec<String>,
    /// Auditors who derived others.
    pub differed_for: Vec<String>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPage {
    /// Where it comes from.
    pub lineage: Lineage,
    /// Index of its promotion.
    pub index: u64,
    /// Time of its promotion.
    pub promoted_ms: u64,
    /// The proposal.
    pub proposal: BlobHash,
    /// The card that was read before the vote.
    pub card_read: BlobHash,
    /// Who had read and tried that card.
    pub signed_off: Vec<Voice>,
    /// Stewards for it.
    pub approvals: Vec<Voice>,
    /// Stewards against it.
    pub dissent: Vec<Voice>,
    /// Stewards who abstained.
    pub abstained: Vec<Voice>,
    /// The version to which a rollback leads.
    pub rollback_target: Option<BlobHash>,
    /// Appeals against it.
    pub appeals: Vec<BlobHash>,
    /// Until when people may appeal.
    pub appeals_until_ms: u64,
    /// Whether people run it.
    pub in_use: bool,
}

/// A run that trains a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPage {
    /// The run.
    pub run: JobId,
    /// Its name.
    pub name: String,
    /// When it was logged.
    pub at_ms: u64,
    /// First and last closed round.
    pub rounds: Option<(u64, u64)>,
    /// The last loss, in micro-nats.
    pub loss: Option<i64>,
    /// What stops it.
    pub paused: Option<Pause>,
}

/// All about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPage {
    /// Its name.
    pub name: String,
    /// The version that people run.
    pub current: Option<BlobHash>,
    /// All versions, in the order of their promotions.
    pub versions: Vec<VersionPage>,
    /// Promotions and rollbacks, in order.
    pub changes: Vec<ModelChange>,
    /// Candidates that were never promoted, in the order of their entries.
    pub candidates: Vec<Lineage>,
    /// Its runs, in the order of their entries.
    pub runs: Vec<RunPage>,
    /// What stops its promotions.
    pub paused: Option<Pause>,
}

/// Collects a model's page; none if no run and no promotion names the model.
pub fn model_page(state: &State, name: &str, now_ms: u64) -> Option<ModelPage> {
    let model = state.models().get(name)?;
    let versions = model.versions.iter().enumerate().filter_map(|(i, version)| {
        let (approvals, dissent, abstained) = votes(state, &version.proposal);
        let appeals = state.proposals().values().filter(|p| p.decision == Some(version.index));
        Some(VersionPage {
            lineage: lineage(state, &version.candidate)?,
            index: version.index,
            promoted_ms: version.at_ms,
            proposal: version.proposal,
            card_read: version.card,
            signed_off: voices(state, version.signed_off.iter()),
            approvals,
            dissent,
            abstained,
            rollback_target: version.previous.and_then(|i| model.versions.get(i)).map(|v| v.candidate),
            appeals: appeals.map(|appeal| appeal.id).collect(),
            appeals_until_ms: version.at_ms.saturating_add(state.constitution().appeals_ms),
            in_use: model.current == Some(i),
        })
    });
    let versions: Vec<_> = versions.collect();
    let promoted =
        |candidate: &BlobHash| model.versions.iter().any(|version| version.candidate == *candidate);
    let mut candidates: Vec<_> = state
        .candidates()
        .values()
        .filter(|candidate| candidate.entry.model == name && !promoted(&candidate.entry.parameters))
        .collect();
    candidates.sort_by_key(|candidate| candidate.index);
    let candidates = candidates.iter().filter_map(|found| lineage(state, &found.entry.parameters)).collect();
    let mut runs: Vec<_> =
        state.runs().values().filter(|run| run.entry.model.as_deref() == Some(name)).collect();
    runs.sort_by_key(|run| run.index);
    let runs = runs.iter().map(|run| RunPage {
        run: run.entry.run,
        name: run.entry.name.clone(),
        at_ms: run.at_ms,
        rounds: range(run.rounds.first(), run.rounds.last()),
        loss: run.loss,
        paused: state.paused(run.entry.run, now_ms).cloned(),
    });
    Some(ModelPage {
        name: name.to_owned(),
        current: model.current().map(|version| version.candidate),
        versions,
        changes: model.changes.clone(),
        candidates,
        runs: runs.collect(),
        paused: state.model_paused(name, now_ms).cloned(),
    })
}

fn range(first: Option<&crate::state::Round>, last: Option<&crate::state::Round>) -> Option<(u64, u64)> {
    Some((u64::from(first?.round), u64::from(last?.round)))
}

/// Collects where a candidate comes from; none if the log has no such candidate.
pub fn lineage(state: &State, candidate: &BlobHash) -> Option<Lineage> {
    let found = state.candidates().get(candidate)?;
    let run = state.runs().get(&found.entry.run)?;
    let sums = state.contributions(&found.entry);
    let weight: u64 = sums.values().map(|sum| sum.weight_ppm).sum();
    let mut contributors: Vec<_> = sums
        .into_iter()
        .map(|(volunteer, sum)| {
            let share_ppm = u128::from(sum.weight_ppm) * 1_000_000 / u128::from(weight.max(1));
            Contributor { volunteer, sum, share_ppm: share_ppm as u64 }
        })
        .collect();
    contributors.sort_by_key(|contributor| std::cmp::Reverse(contributor.sum.weight_ppm));
    let (same, other) = state.attested(candidate);
    let names = |names: std::collections::BTreeSet<String>| {
        names.iter().map(|name| state.display_name(name)).collect::<Vec<_>>()
    };
    let card = found.card.as_ref().map(|card| card.card);
    let signed = found.sign_offs.iter().filter(|(_, signed)| Some(signed.card) == card);
    Some(Lineage {
        candidate: *candidate,
        checkpoint: found.entry.checkpoint,
        run: found.entry.run,
        run_name: run.entry.name.clone(),
        started_from: run.entry.parameters,
        rounds: range(run.rounds.first(), run.round(found.entry.round)),
        data_sets: run.entry.data_sets.iter().filter_map(|id| state.data_sets().get(id)).cloned().collect(),
        rebuilt_without: found.entry.rebuilt_without.clone(),
        contributors,
        card: found.card.clone(),
        checks: gate(state, candidate),
        signed_off: voices(state, signed),
        reproduced_by: names(same),
        differed_for: names(other),
    })
}

fn voices<'a>(state: &State, signed: impl Iterator<Item = (&'a String, &'a SignedOff)>) -> Vec<Voice> {
    let voice = |(name, signed): (&String, &SignedOff)| Voice {
        name: state.display_name(name),
        reason: signed.note.clone(),
    };
    signed.map(voice).collect()
}

fn votes(state: &State, proposal: &BlobHash) -> (Vec<Voice>, Vec<Voice>, Vec<Voice>) {
    let of = |vote| {
        let votes = state.proposals().get(proposal).into_iter().flat_map(|proposal| &proposal.votes);
        votes
            .filter(|(_, cast)| cast.vote == vote)
            .map(|(name, cast)| Voice { name: state.display_name(name), reason: cast.reason.clone() })
            .collect()
    };
    (of(Ballot::Yes), of(Ballot::No), of(Ballot::Abstain))
}
