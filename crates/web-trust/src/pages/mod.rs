//! What pages show of a log, as JSON: times in milliseconds since 1970, hashes and keys in hexadecimal.
//!
//! Nothing is decided here; each value is what `potluck-governance` says of the state.

mod model;
mod proposal;

pub use model::model;
pub use proposal::proposal;

use crate::reader::Verified;
use potluck_governance::roles::Person;
use potluck_governance::state::{Cause, Outcome, Pause, ProposalState, State, Tally};
use potluck_governance::{Constitution, Key, Mirror};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Digits of a key that stand for it where many are listed: enough to tell people apart, and no name of anybody.
const PSEUDONYM_DIGITS: usize = 8;

/// A value that serializes without fail: entries did so before.
fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn pseudonym(key: &Key) -> String {
    key.to_string().chars().take(PSEUDONYM_DIGITS).collect()
}

fn names(state: &State, folded: &BTreeSet<String>) -> Vec<String> {
    folded.iter().map(|name| state.display_name(name)).collect()
}

fn tally(tally: &Tally) -> Value {
    json!({
        "eligible": tally.eligible, "yes": tally.yes, "no": tally.no, "abstain": tally.abstain,
        "adviceYes": tally.advice_yes, "adviceNo": tally.advice_no, "shareMet": tally.share_met,
        "quorumMet": tally.quorum_met, "adviceMet": tally.advice_met,
    })
}

/// `state` is `not_open`, `unseconded`, `open`, `passed`, `failed` or `dropped`.
fn outcome(outcome: &Outcome) -> Value {
    let (name, counted) = match outcome {
        Outcome::NotOpen => ("not_open", None),
        Outcome::Unseconded => ("unseconded", None),
        Outcome::Open(tally) => ("open", Some(tally)),
        Outcome::Passed(tally) => ("passed", Some(tally)),
        Outcome::Failed(tally) => ("failed", Some(tally)),
        Outcome::Dropped => ("dropped", None),
        _ => ("unknown", None),
    };
    json!({ "state": name, "tally": counted.map(tally) })
}

fn summary(state: &State, proposal: &ProposalState, now_ms: u64) -> Value {
    json!({
        "id": proposal.id.to_string(), "kind": proposal.kind.name(), "subject": proposal.subject,
        "body": proposal.body.to_string(), "opens": proposal.opens, "closes": proposal.closes,
        "index": proposal.index, "atMs": proposal.at_ms, "decision": proposal.decision,
        "by": proposal.by_name.as_ref().map(|name| state.display_name(name)),
        "byKey": pseudonym(&proposal.by), "applied": proposal.applied,
        "seconds": proposal.seconds.len(), "secondsNeeded": proposal.seconds_needed,
        "outcome": state.outcome(&proposal.id, now_ms).as_ref().map(outcome),
    })
}

fn pause(state: &State, pause: &Pause, now_ms: u64) -> Value {
    let (by, reason) = match &pause.cause {
        Cause::Steward { name, reason } => (vec![state.display_name(name)], reason.clone()),
        Cause::Auditors { names: who, reason } => (names(state, who), reason.clone()),
        Cause::Automatic { trigger, detail } => (Vec::new(), format!("{}: {detail}", word(trigger))),
    };
    json!({
        "id": pause.id, "scope": pause.scope.to_string(), "by": by, "reason": reason, "sinceMs": pause.since_ms,
        "expiresMs": pause.expires_ms, "ratifiedMs": pause.ratified_ms, "endedMs": pause.ended_ms,
        "ratifying": names(state, &pause.ratifying), "resuming": names(state, &pause.resuming),
        "inForce": pause.in_force(now_ms),
    })
}

/// The name of a variant, as entries have it.
fn word(of: impl Serialize) -> String {
    value(of).as_str().unwrap_or_default().replace('_', " ")
}

/// Who decides, by which rules, what is open, what is stopped, and what reading the log found.
pub fn overview(log: Verified<'_>, now_ms: u64) -> Value {
    let state = log.state();
    let mut proposals: Vec<&ProposalState> = state.proposals().values().collect();
    proposals.sort_by_key(|proposal| std::cmp::Reverse(proposal.index));
    let models = state.models().iter().map(|(name, model)| {
        let candidates = state.candidates().values().filter(|found| found.entry.model == *name);
        json!({
            "name": name, "current": model.current().map(|version| version.candidate.to_string()),
            "versions": model.versions.len(), "candidates": candidates.count(),
            "paused": state.model_paused(name, now_ms).is_some(),
        })
    });
    let decisions = state.decisions().iter().rev().map(|(index, decision)| {
        json!({
            "index": index, "kind": decision.kind.name(), "subject": decision.subject, "atMs": decision.at_ms,
            "body": decision.body.to_string(), "deciders": names(state, &decision.deciders),
            "appealsUntilMs": decision.at_ms.saturating_add(state.constitution().appeals_ms),
        })
    });
    let quarantine = state.quarantine().iter().map(|(target, found)| {
        json!({
            "target": target.to_string(), "sinceMs": found.since_ms, "reason": found.reason,
            "asking": names(state, &found.asking), "lifting": names(state, &found.lifting),
        })
    });
    let incidents = state.incidents().iter().rev().map(|(index, at_ms, incident)| {
        json!({
            "index": index, "atMs": at_ms, "trigger": word(incident.trigger), "detail": incident.detail,
            "run": incident.run.map(|run| run.to_string()),
        })
    });
    let data_sets: Vec<Value> = state.data_sets().values().map(value).collect();
    let kernels: Vec<Value> = state.kernels().values().map(value).collect();
    json!({
        "origin": log.origin(), "size": log.head().size, "root": log.head().root.to_string(),
        "lastMs": state.now_ms(), "founded": !state.roles().is_nobody(), "roles": value(state.roles()),
        "constitution": constitution(state.constitution()),
        "mirrors": state.mirrors().iter().map(mirror).collect::<Vec<_>>(),
        "successions": state.successions().iter().map(|one| json!({
            "index": one.index, "atMs": one.at_ms, "from": one.from, "mirror": mirror(&one.mirror),
        })).collect::<Vec<_>>(),
        "proposals": proposals.into_iter().map(|found| summary(state, found, now_ms)).collect::<Vec<_>>(),
        "pauses": state.pauses().values().rev().map(|found| pause(state, found, now_ms)).collect::<Vec<_>>(),
        "models": models.collect::<Vec<_>>(), "decisions": decisions.collect::<Vec<_>>(),
        "quarantine": quarantine.collect::<Vec<_>>(), "incidents": incidents.collect::<Vec<_>>(),
        "dataSets": data_sets, "kernels": kernels, "volunteers": state.credits().len(),
        "runs": state.runs().len(), "jobs": state.jobs().len(), "report": report(log),
    })
}

/// The rules, those among them that its text leaves out because they are the usual ones.
fn constitution(rules: &Constitution) -> Value {
    let mut shown = value(rules);
    shown["rules"]["mirrors"] = value(rules.rules.mirrors);
    shown["rules"]["succession"] = value(rules.rules.succession);
    shown
}

/// A mirror, with the hash that a proposal for its succession names.
fn mirror(mirror: &Mirror) -> Value {
    json!({
        "name": mirror.name, "url": mirror.url, "key": mirror.key.to_string(), "hash": mirror.hash().to_string(),
    })
}

/// Errors, which there should be none of, and what the log alone cannot show.
fn report(log: Verified<'_>) -> Value {
    let report = log.checker().report();
    json!({
        "entries": report.entries, "signatures": report.signatures, "errorCount": report.error_count,
        "errors": report.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unchecked": report.unchecked.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What a key is here: the person's name and roles, and credit.
pub fn holder(log: Verified<'_>, key: &Key) -> Value {
    let (state, roles) = (log.state(), log.state().roles());
    let holds = |people: &[Person]| people.iter().find(|person| person.key == *key).map(|p| p.name.clone());
    let (steward, auditor, operator) =
        (holds(&roles.stewards), holds(&roles.auditors), holds(&roles.operators));
    let credit = state.credit(*key);
    json!({
        "name": steward.as_ref().or(auditor.as_ref()).or(operator.as_ref()), "steward": steward.is_some(),
        "auditor": auditor.is_some(), "operator": operator.is_some(),
        "credit": credit.is_some_and(|credit| credit.counts()),
        "results": credit.map_or(0, |credit| credit.results), "updates": credit.map_or(0, |credit| credit.updates),
    })
}

#[cfg(test)]
mod tests;
