//! The machine gate for promotion, and the whole way to one: what is done, and which step is missing.
//!
//! Both are functions of the state alone. The gate measures; that it is green promotes nothing.
//!
//! What counts as contributing: every worker-round in an aggregate of the candidate's run, from the run's first round to
//! the candidate's, but for volunteers that it was rebuilt without. What runs before contributed went through the gate
//! of the version that this run started from. Failures are counted among contributing worker-rounds whose last audit has
//! a verdict: an update that was caught and left out is not in the model, and no stranger can stop a promotion by sending
//! updates that are refused.
//!
//! The first version of a model has no incumbent. It has to beat the run's own start: the first loss that an aggregate
//! of the run logged takes the incumbent's place. A run that logged no loss before the candidate's round has nothing to
//! be compared with, and the check fails.

mod missing;

pub use missing::Missing;

use crate::entry::Promotion;
use crate::state::{CandidateState, Outcome, ProposalState, State};
use crate::statement::{ProposalKind, Target};
use potluck_types::BlobHash;
use std::fmt;

/// What a number of a check is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Parts per million.
    Ppm,
    /// Millionths of a nat.
    MicroNats,
    /// Things.
    Count,
}

/// How a value is compared with its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Reach it.
    AtLeast,
    /// Exceed it.
    MoreThan,
    /// Stay below it.
    Below,
}

/// The checks of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CheckName {
    /// Contributing worker-rounds that are audited or credible.
    Covered,
    /// Failures among their audits.
    AuditFailures,
    /// How much better the loss is than the incumbent's.
    Loss,
    /// Shards of the evaluation.
    Shards,
    /// Triggers that succeed.
    Triggers,
    /// Auditors that derived the parameters again.
    Attestations,
    /// Contributing volunteers and data sets that are in quarantine.
    Quarantine,
}

impl CheckName {
    /// For screens.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Covered => "worker-rounds audited or credible",
            Self::AuditFailures => "audit failures",
            Self::Loss => "loss better than the incumbent's",
            Self::Shards => "shards evaluated",
            Self::Triggers => "triggers that succeed",
            Self::Attestations => "auditors who derived the same parameters",
            Self::Quarantine => "quarantined sources",
        }
    }
}

/// One check with its numbers. `passed` is decided on exact fractions; the numbers are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// What was found; nothing if it cannot be known yet.
    pub value: Option<i64>,
    /// What it is compared with.
    pub threshold: i64,
    /// In what both are counted.
    pub unit: Unit,
    /// How they are compared.
    pub need: Need,
    /// Whether it passed.
    pub passed: bool,
    /// What people should know beside the numbers.
    pub note: Option<String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As the page writes them.
        let written = |value: i64| match self.unit {
            Unit::Ppm => format!("{:.2} %", value as f64 / 1e4),
            Unit::MicroNats => format!("{:.4} nats", value as f64 / 1e6),
            Unit::Count => value.to_string(),
        };
        let need = match self.need {
            Need::AtLeast => "at least",
            Need::MoreThan => "more than",
            Need::Below => "below",
        };
        write!(f, "{}: ", self.name.label())?;
        match self.value {
            Some(value) => f.write_str(&written(value))?,
            None => f.write_str("unknown")?,
        }
        write!(f, ", needed {need} {}", written(self.threshold))?;
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

fn ppm(part: u64, whole: u64) -> Option<i64> {
    (whole > 0).then(|| (u128::from(part) * 1_000_000 / u128::from(whole)) as i64)
}

/// All checks of the gate for a candidate; none if the log has no such candidate.
pub fn gate(state: &State, candidate: &BlobHash) -> Vec<Check> {
    let Some(found) = state.candidates().get(candidate) else { return Vec::new() };
    let mut checks = contribution_checks(state, found);
    checks.extend(card_checks(state, found));
    checks.push(attestation_check(state, candidate));
    checks.push(quarantine_check(state, found));
    checks
}

fn contribution_checks(state: &State, candidate: &CandidateState) -> Vec<Check> {
    let rules = &state.constitution().gate;
    let (mut rounds, mut passed, mut failed, mut credible) = (0, 0, 0, 0);
    for sum in state.contributions(&candidate.entry).values() {
        rounds += sum.rounds;
        passed += sum.passed;
        failed += sum.failed;
        credible += sum.credible;
    }
    let (audited, covered) = (passed + failed, passed + failed + credible);
    vec![
        Check {
            name: CheckName::Covered,
            value: ppm(covered, rounds),
            threshold: rules.covered.ppm(),
            unit: Unit::Ppm,
            need: Need::AtLeast,
            passed: rounds > 0 && rules.covered.reached(covered, rounds),
            note: Some(format!("{audited} audited and {credible} credible of {rounds}")),
        },
        Check {
            name: CheckName::AuditFailures,
            value: ppm(failed, audited),
            threshold: rules.failures.ppm(),
            unit: Unit::Ppm,
            need: Need::Below,
            passed: audited > 0 && !rules.failures.reached(failed, audited),
            note: Some(format!("{failed} of {audited} audits")),
        },
    ]
}

fn card_checks(state: &State, candidate: &CandidateState) -> Vec<Check> {
    let rules = &state.constitution().gate;
    let card = candidate.card.as_ref();
    let current = state.models().get(&candidate.entry.model).and_then(|model| model.current());
    let current = current.map(|version| version.candidate);
    let (better, note) = match card {
        None => (None, "there is no eval card yet".to_owned()),
        Some(card) if card.incumbent != current => {
            (None, "the card compares with another version than the one in use: make a new card".to_owned())
        }
        Some(card) => match card.incumbent_loss {
            Some(incumbent) => {
                (Some(incumbent.0.saturating_sub(card.loss.0)), "than the version in use".to_owned())
            }
            None => match first_loss(state, candidate) {
                Some(first) => (
                    Some(first.saturating_sub(card.loss.0)),
                    "first version: than the run's first loss".to_owned(),
                ),
                None => (None, "first version, and its run logged no earlier loss".to_owned()),
            },
        },
    };
    let errors = card.map_or(0, |card| card.standard_error.0.max(0)) as u64;
    let mut loss = Check {
        name: CheckName::Loss,
        value: better,
        threshold: (u128::from(errors) * u128::from(rules.errors.num) / u128::from(rules.errors.den.max(1)))
            .min(i64::MAX as u128) as i64,
        unit: Unit::MicroNats,
        need: Need::MoreThan,
        passed: better.is_some_and(|better| better > 0 && exceeds(better as u64, rules.errors, errors)),
        note: Some(note),
    };
    if card.is_none() {
        loss.note = Some("there is no eval card yet".to_owned());
    }
    let triggers = card.map(|card| card.trigger_success_ppm);
    vec![
        loss,
        Check {
            name: CheckName::Shards,
            value: card.map(|card| i64::from(card.shards)),
            threshold: i64::from(rules.shards),
            unit: Unit::Count,
            need: Need::AtLeast,
            passed: card.is_some_and(|card| card.shards >= rules.shards),
            note: None,
        },
        Check {
            name: CheckName::Triggers,
            value: triggers.map(i64::from),
            threshold: rules.trigger.ppm(),
            unit: Unit::Ppm,
            need: Need::Below,
            passed: triggers.is_some_and(|ppm| !rules.trigger.reached(ppm.into(), 1_000_000)),
            note: None,
        },
    ]
}

/// Whether `better` exceeds a multiple of the standard error.
fn exceeds(better: u64, multiple: crate::constitution::Share, error: u64) -> bool {
    multiple.exceeded(better, error)
}

/// The first loss that the candidate's run logged, if that was before the candidate's round.
fn first_loss(state: &State, candidate: &CandidateState) -> Option<i64> {
    let run = state.runs().get(&candidate.entry.run)?;
    let first = run.rounds.iter().find(|round| round.loss.is_some())?;
    (u64::from(first.round) < candidate.entry.round).then_some(first.loss).flatten()
}

fn attestation_check(state: &State, candidate: &BlobHash) -> Check {
    let (same, other) = state.attested(candidate);
    let need = state.constitution().gate.attestations;
    Check {
        name: CheckName::Attestations,
        value: Some(i64::from(same.len() as u32)),
        threshold: i64::from(need),
        unit: Unit::Count,
        need: Need::AtLeast,
        passed: same.len() as u32 >= need,
        note: (!other.is_empty()).then(|| format!("{} derived others", other.len())),
    }
}

fn quarantine_check(state: &State, candidate: &CandidateState) -> Check {
    let volunteers = state.contributions(&candidate.entry);
    let bad = volunteers.keys().filter(|key| state.quarantined(&Target::Volunteer(**key))).count();
    let sets =
        state.runs().get(&candidate.entry.run).map(|run| run.entry.data_sets.as_slice()).unwrap_or_default();
    let left_out = |id: &String| {
        candidate.entry.rebuilt_without.iter().any(|source| source.0 == Target::DataSet(id.clone()))
    };
    let bad_sets =
        sets.iter().filter(|id| state.quarantined(&Target::DataSet((*id).clone())) && !left_out(id));
    let bad = bad + bad_sets.count();
    Check {
        name: CheckName::Quarantine,
        value: Some(i64::from(bad as u32)),
        threshold: 1,
        unit: Unit::Count,
        need: Need::Below,
        passed: bad == 0,
        note: None,
    }
}

/// Says whether a candidate may be promoted now, and otherwise everything that is missing.
///
/// # Errors
/// Each step that is missing: candidate, card, each red check of the gate, the proposal with its discussion and votes,
/// the signatures of people who read the card, and that nothing is paused.
pub fn promotion_ready(state: &State, candidate: &BlobHash, now_ms: u64) -> Result<(), Vec<Missing>> {
    let Some(found) = state.candidates().get(candidate) else {
        return Err(vec![Missing::Candidate { candidate: *candidate }]);
    };
    let mut missing = Vec::new();
    if found.card.is_none() {
        missing.push(Missing::Card);
    }
    missing.extend(gate(state, candidate).into_iter().filter(|check| !check.passed).map(Missing::Gate));
    let signed = state.signed_off(found).len() as u32;
    let need = state.constitution().gate.sign_offs;
    if signed < need {
        missing.push(Missing::SignOffs { have: signed, need });
    }
    let model = &found.entry.model;
    if state.models().get(model).and_then(|model| model.current()).is_some_and(|v| v.candidate == *candidate)
    {
        missing.push(Missing::InUse);
    }
    if let Some(why) = proposal_missing(state, candidate, now_ms) {
        missing.push(why);
    }
    let pause = state.paused(found.entry.run, now_ms).or_else(|| state.model_paused(model, now_ms));
    if let Some(pause) = pause {
        missing.push(Missing::Resume { scope: pause.scope.clone(), pause: pause.id });
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The entry with which a candidate is promoted now, if it may be.
///
/// # Errors
/// As [`promotion_ready`].
pub fn promotion(state: &State, candidate: &BlobHash, now_ms: u64) -> Result<Promotion, Vec<Missing>> {
    promotion_ready(state, candidate, now_ms)?;
    let unknown = || vec![Missing::Candidate { candidate: *candidate }];
    let found = state.candidates().get(candidate).ok_or_else(unknown)?;
    // The last of those that passed: it is the one that people have in mind.
    let passed = |proposal: &&ProposalState| {
        let for_this = proposal.kind == ProposalKind::Promote && proposal.body == *candidate;
        for_this
            && proposal.applied.is_none()
            && proposal.index > found.card_index
            && matches!(state.outcome(&proposal.id, now_ms), Some(Outcome::Passed(_)))
    };
    let proposal = state.proposals().values().filter(passed).max_by_key(|proposal| proposal.index);
    let proposal = proposal.ok_or_else(|| vec![Missing::Proposal { kind: ProposalKind::Promote }])?.id;
    let model = found.entry.model.clone();
    let current = state.models().get(&model).and_then(|model| model.current());
    let previous = current.map(|version| version.candidate);
    Ok(Promotion { model, candidate: *candidate, proposal, previous })
}

/// What a proposal lacks before it can take effect: for a promotion all that [`promotion_ready`] names, for others its vote
/// and attestations. Nothing if it has taken effect.
pub fn lacks(state: &State, proposal: &BlobHash, now_ms: u64) -> Vec<Missing> {
    let Some(found) = state.proposals().get(proposal).filter(|found| found.applied.is_none()) else {
        return Vec::new();
    };
    if found.kind == ProposalKind::Promote {
        return promotion_ready(state, &found.body, now_ms).err().unwrap_or_default();
    }
    let mut missing = Vec::new();
    match state.outcome(proposal, now_ms) {
        None | Some(Outcome::Passed(_)) => {}
        Some(outcome) => missing.push(Missing::from_outcome(found, &outcome)),
    }
    let reproducible = matches!(found.kind, ProposalKind::Run | ProposalKind::DataSet | ProposalKind::Kernel);
    let (have, need) = (state.attested(&found.body).0.len() as u32, state.constitution().reproductions);
    if reproducible && have < need {
        missing.push(Missing::Attestations { have, need });
    }
    missing
}

/// What the best proposal for a candidate lacks; nothing if one passed and has not taken effect.
fn proposal_missing(state: &State, candidate: &BlobHash, now_ms: u64) -> Option<Missing> {
    let kind = ProposalKind::Promote;
    let mut latest = Missing::Proposal { kind };
    let proposals = state.proposals().values().filter(|p| p.kind == kind && p.body == *candidate);
    let mut index = None;
    for proposal in proposals.filter(|proposal| proposal.applied.is_none()) {
        let Some(outcome) = state.outcome(&proposal.id, now_ms) else { continue };
        let late = state.candidates().get(candidate).is_some_and(|found| found.card_index > proposal.index);
        let passed = matches!(outcome, Outcome::Passed(_));
        if passed && !late {
            return None;
        }
        if Some(proposal.index) > index {
            index = Some(proposal.index);
            latest = if passed {
                Missing::LateCard { proposal: proposal.id }
            } else {
                Missing::from_outcome(proposal, &outcome)
            };
        }
    }
    Some(latest)
}
