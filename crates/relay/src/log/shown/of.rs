//! What is shown, made of what follows from the log.

use super::{
    CardInfo, ChangeInfo, CheckInfo, ContributorInfo, EventInfo, GovernanceInfo, LineageInfo, ModelInfo,
    ModelRun, ModelSummary, PauseInfo, ProposalInfo, SourceInfo, TallyInfo, VersionInfo, VoiceInfo,
};
use potluck_governance::State;
use potluck_governance::entry::Card;
use potluck_governance::gate::{self, Check, Need, Unit};
use potluck_governance::model::{Event, Lineage, ModelPage, RunPage, VersionPage, Voice, What, timeline};
use potluck_governance::state::{Cause, Outcome, Pause, ProposalState, Tally};
use potluck_governance::statement::Ballot;
use potluck_types::BlobHash;

/// Contributors that are listed of a candidate, the weightiest: a page that people can read.
const MAX_CONTRIBUTORS: usize = 100;

fn texts<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().map(|one| one.to_string()).collect()
}

fn pair(range: Option<(u64, u64)>) -> Option<[u64; 2]> {
    range.map(|(first, last)| [first, last])
}

impl From<&Voice> for VoiceInfo {
    fn from(voice: &Voice) -> Self {
        Self { name: voice.name.clone(), reason: voice.reason.clone() }
    }
}

fn voices(all: &[Voice]) -> Vec<VoiceInfo> {
    all.iter().map(VoiceInfo::from).collect()
}

impl From<&Check> for CheckInfo {
    fn from(check: &Check) -> Self {
        let unit = match check.unit {
            Unit::Ppm => "ppm",
            Unit::MicroNats => "micro_nats",
            _ => "count",
        };
        let need = match check.need {
            Need::AtLeast => "at_least",
            Need::MoreThan => "more_than",
            _ => "below",
        };
        Self {
            name: check.name.label().to_owned(),
            value: check.value,
            threshold: check.threshold,
            unit: unit.to_owned(),
            need: need.to_owned(),
            passed: check.passed,
            note: check.note.clone(),
        }
    }
}

impl From<&Card> for CardInfo {
    fn from(card: &Card) -> Self {
        Self {
            card: card.card.to_string(),
            loss_micro_nats: card.loss.0,
            incumbent: card.incumbent.map(|hash| hash.to_string()),
            incumbent_loss_micro_nats: card.incumbent_loss.map(|loss| loss.0),
            standard_error_micro_nats: card.standard_error.0,
            trigger_success_ppm: card.trigger_success_ppm,
            shards: card.shards,
            computed_by: texts(&card.computed_by),
        }
    }
}

impl From<&potluck_governance::entry::DataSet> for SourceInfo {
    fn from(set: &potluck_governance::entry::DataSet) -> Self {
        Self {
            id: set.id.clone(),
            name: set.name.clone(),
            manifest: set.manifest.to_string(),
            tokens: set.tokens,
            source: set.source.clone(),
            license: set.license.clone(),
            proposed_by: set.proposed_by.map(|key| key.to_string()),
            proposal: set.proposal.map(|proposal| proposal.to_string()),
        }
    }
}

impl From<&Lineage> for LineageInfo {
    fn from(lineage: &Lineage) -> Self {
        let contributors = lineage.contributors.iter().take(MAX_CONTRIBUTORS).map(|one| ContributorInfo {
            volunteer: one.volunteer.to_string(),
            rounds: one.sum.rounds,
            passed: one.sum.passed,
            failed: one.sum.failed,
            credible: one.sum.credible,
            share_ppm: one.share_ppm,
        });
        Self {
            candidate: lineage.candidate.to_string(),
            checkpoint: lineage.checkpoint.to_string(),
            run: lineage.run.to_string(),
            run_name: lineage.run_name.clone(),
            started_from: lineage.started_from.to_string(),
            rounds: pair(lineage.rounds),
            data_sets: lineage.data_sets.iter().map(SourceInfo::from).collect(),
            rebuilt_without: texts(lineage.rebuilt_without.iter().map(|source| &source.0)),
            contributors: contributors.collect(),
            contributor_count: lineage.contributors.len() as u64,
            card: lineage.card.as_ref().map(CardInfo::from),
            checks: lineage.checks.iter().map(CheckInfo::from).collect(),
            signed_off: voices(&lineage.signed_off),
            reproduced_by: lineage.reproduced_by.clone(),
            differed_for: lineage.differed_for.clone(),
        }
    }
}

impl From<&VersionPage> for VersionInfo {
    fn from(version: &VersionPage) -> Self {
        Self {
            lineage: (&version.lineage).into(),
            index: version.index,
            promoted_ms: version.promoted_ms,
            proposal: version.proposal.to_string(),
            card_read: version.card_read.to_string(),
            signed_off: voices(&version.signed_off),
            approvals: voices(&version.approvals),
            dissent: voices(&version.dissent),
            abstained: voices(&version.abstained),
            rollback_target: version.rollback_target.map(|hash| hash.to_string()),
            appeals: texts(&version.appeals),
            appeals_until_ms: version.appeals_until_ms,
            in_use: version.in_use,
        }
    }
}

impl PauseInfo {
    /// A pause as it is at a time.
    pub fn of(state: &State, pause: &Pause, now_ms: u64) -> Self {
        let names = |names: &std::collections::BTreeSet<String>| -> Vec<String> {
            names.iter().map(|name| state.display_name(name)).collect()
        };
        let (cause, reason) = match &pause.cause {
            Cause::Steward { name, reason } => (state.display_name(name), reason.clone()),
            Cause::Auditors { names: who, reason } => (names(who).join(" and "), reason.clone()),
            Cause::Automatic { trigger, detail } => (format!("{trigger:?}, by itself"), detail.clone()),
        };
        Self {
            id: pause.id,
            scope: pause.scope.to_string(),
            cause,
            reason,
            since_ms: pause.since_ms,
            expires_ms: pause.ratified_ms.is_none().then_some(pause.expires_ms),
            ratifying: names(&pause.ratifying),
            resuming: names(&pause.resuming),
            barred: names(&pause.barred),
            in_force: pause.in_force(now_ms),
        }
    }

    /// All pauses that are in force.
    pub fn in_force(state: &State, now_ms: u64) -> Vec<Self> {
        let pauses = state.pauses().values().filter(|pause| pause.in_force(now_ms));
        pauses.map(|pause| Self::of(state, pause, now_ms)).collect()
    }
}

impl ModelInfo {
    /// A model's page; none if no run and no promotion names the model.
    pub fn of(state: &State, name: &str, now_ms: u64) -> Option<Self> {
        let page: ModelPage = potluck_governance::model::model_page(state, name, now_ms)?;
        let paused = |pause: &Option<Pause>| pause.as_ref().map(|pause| PauseInfo::of(state, pause, now_ms));
        let run = |run: &RunPage| ModelRun {
            run: run.run.to_string(),
            name: run.name.clone(),
            at_ms: run.at_ms,
            rounds: pair(run.rounds),
            loss_micro_nats: run.loss,
            paused: paused(&run.paused),
        };
        let change = |change: &potluck_governance::state::ModelChange| ChangeInfo {
            to: page.versions.get(change.to).map(|to| to.lineage.candidate.to_string()).unwrap_or_default(),
            rollback: change.rollback,
            proposal: change.proposal.to_string(),
            index: change.index,
            at_ms: change.at_ms,
        };
        let versions: Vec<VersionInfo> = page.versions.iter().map(VersionInfo::from).collect();
        let target = versions.iter().find(|version| version.in_use);
        Some(Self {
            name: page.name.clone(),
            current: page.current.map(|hash| hash.to_string()),
            rollback_target: target.and_then(|version| version.rollback_target.clone()),
            changes: page.changes.iter().map(change).collect(),
            candidates: page.candidates.iter().map(LineageInfo::from).collect(),
            runs: page.runs.iter().map(run).collect(),
            paused: paused(&page.paused),
            versions,
        })
    }
}

impl ModelSummary {
    /// All models, by name.
    pub fn all(state: &State, now_ms: u64) -> Vec<Self> {
        let summary = |(name, model): (&String, &potluck_governance::state::ModelState)| {
            let of_model = state.candidates().values().filter(|found| found.entry.model == *name);
            let promoted = |hash: &BlobHash| model.versions.iter().any(|version| version.candidate == *hash);
            let paused = state.model_paused(name, now_ms);
            Self {
                name: name.clone(),
                current: model.current().map(|version| version.candidate.to_string()),
                versions: model.versions.len() as u64,
                candidates: of_model.filter(|found| !promoted(&found.entry.parameters)).count() as u64,
                runs: state.runs().values().filter(|run| run.entry.model.as_ref() == Some(name)).count()
                    as u64,
                paused: paused.map(|pause| PauseInfo::of(state, pause, now_ms)),
            }
        };
        state.models().iter().map(summary).collect()
    }
}

impl From<Tally> for TallyInfo {
    fn from(tally: Tally) -> Self {
        let Tally { eligible, yes, no, abstain, advice_yes, advice_no, .. } = tally;
        Self { eligible, yes, no, abstain, advice_yes, advice_no, passes: tally.passes() }
    }
}

const fn ballot(vote: Ballot) -> &'static str {
    match vote {
        Ballot::Yes => "yes",
        Ballot::No => "no",
        Ballot::Abstain => "abstain",
    }
}

impl From<&Event> for EventInfo {
    fn from(event: &Event) -> Self {
        let (what, name, says, reason) = match &event.what {
            What::Proposed { name, key } => {
                ("proposed", Some(name.clone().unwrap_or_else(|| key.to_string())), None, None)
            }
            What::Opens => ("opens", None, None, None),
            What::Attested { name, reproduces } => (
                "attested",
                Some(name.clone()),
                Some(if *reproduces { "reproduces" } else { "differs" }),
                None,
            ),
            What::SignedOff { name, note, this_card } => {
                let of = (!this_card).then_some("another card");
                ("signed_off", Some(name.clone()), of, note.clone())
            }
            What::Voted { name, vote, reason } => {
                ("voted", Some(name.clone()), Some(ballot(*vote)), reason.clone())
            }
            What::Closes => ("closes", None, None, None),
            _ => ("applied", None, None, None),
        };
        Self {
            at_ms: event.at_ms,
            index: event.index,
            what: what.to_owned(),
            name,
            says: says.map(str::to_owned),
            reason,
        }
    }
}

impl ProposalInfo {
    /// A proposal without its events.
    pub fn of(state: &State, proposal: &ProposalState, now_ms: u64) -> Self {
        let outcome = state.outcome(&proposal.id, now_ms);
        let (name, tally) = match outcome {
            Some(Outcome::NotOpen) => ("not_open", None),
            Some(Outcome::Unseconded) => ("unseconded", None),
            Some(Outcome::Open(tally)) => ("open", Some(tally)),
            Some(Outcome::Passed(tally)) => ("passed", Some(tally)),
            Some(Outcome::Failed(tally)) => ("failed", Some(tally)),
            _ => ("dropped", None),
        };
        Self {
            id: proposal.id.to_string(),
            kind: proposal.kind.to_string(),
            subject: proposal.subject.clone(),
            body: proposal.body.to_string(),
            diff: proposal.diff.clone(),
            rationale: proposal.rationale.clone(),
            by: proposal.by.to_string(),
            by_name: proposal.by_name.as_ref().map(|name| state.display_name(name)),
            opens_ms: proposal.opens,
            closes_ms: proposal.closes,
            index: proposal.index,
            outcome: name.to_owned(),
            tally: tally.map(TallyInfo::from),
            seconds: proposal.seconds.len() as u32,
            seconds_needed: proposal.seconds_needed,
            applied: proposal.applied,
            decision: proposal.decision,
            missing: texts(gate::lacks(state, &proposal.id, now_ms)),
            events: Vec::new(),
        }
    }

    /// A proposal with all that happened to it; none if the log has no such proposal.
    pub fn whole(state: &State, id: &BlobHash, now_ms: u64) -> Option<Self> {
        let found = state.proposals().get(id)?;
        let events = timeline(state, id, now_ms)?.events.iter().map(EventInfo::from).collect();
        Some(Self { events, ..Self::of(state, found, now_ms) })
    }
}

impl GovernanceInfo {
    /// People, rules, and what is stopped.
    pub fn of(state: &State, now_ms: u64) -> Self {
        let quarantined = state.quarantine().iter().filter(|(_, found)| found.since_ms.is_some());
        Self {
            origin: state.origin().to_owned(),
            now_ms,
            roles: serde_json::to_value(state.roles()).unwrap_or_default(),
            constitution: serde_json::to_value(state.constitution()).unwrap_or_default(),
            pauses: PauseInfo::in_force(state, now_ms),
            quarantine: texts(quarantined.map(|(target, _)| target)),
        }
    }
}
