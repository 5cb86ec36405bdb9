//! A model's page: where each version comes from, who approved it, who did not, and where a rollback leads.

use super::proposal::check;
use super::{pause, pseudonym, value};
use crate::reader::Verified;
use potluck_governance::model::{Lineage, RunPage, VersionPage, Voice, model_page};
use potluck_governance::state::State;
use potluck_types::BlobHash;
use serde_json::{Value, json};

fn voices(voices: &[Voice]) -> Value {
    voices.iter().map(|voice| json!({ "name": voice.name, "reason": voice.reason })).collect()
}

fn hashes(hashes: &[BlobHash]) -> Value {
    hashes.iter().map(ToString::to_string).collect()
}

fn lineage(lineage: &Lineage) -> Value {
    let contributors = lineage.contributors.iter().map(|one| {
        json!({
            "volunteer": pseudonym(&one.volunteer), "rounds": one.sum.rounds, "passed": one.sum.passed,
            "failed": one.sum.failed, "credible": one.sum.credible, "sharePpm": one.share_ppm,
        })
    });
    json!({
        "candidate": lineage.candidate.to_string(), "checkpoint": lineage.checkpoint.to_string(),
        "run": lineage.run.to_string(), "runName": lineage.run_name,
        "startedFrom": lineage.started_from.to_string(), "rounds": value(lineage.rounds),
        "dataSets": lineage.data_sets.iter().map(value).collect::<Vec<_>>(),
        "rebuiltWithout": value(&lineage.rebuilt_without), "contributors": contributors.collect::<Vec<_>>(),
        "card": value(&lineage.card), "checks": lineage.checks.iter().map(check).collect::<Vec<_>>(),
        "signedOff": voices(&lineage.signed_off), "reproducedBy": lineage.reproduced_by,
        "differedFor": lineage.differed_for,
    })
}

fn version(version: &VersionPage) -> Value {
    json!({
        "lineage": lineage(&version.lineage), "index": version.index, "promotedMs": version.promoted_ms,
        "proposal": version.proposal.to_string(), "cardRead": version.card_read.to_string(),
        "signedOff": voices(&version.signed_off), "approvals": voices(&version.approvals),
        "dissent": voices(&version.dissent), "abstained": voices(&version.abstained),
        "rollbackTarget": version.rollback_target.map(|hash| hash.to_string()),
        "appeals": hashes(&version.appeals), "appealsUntilMs": version.appeals_until_ms, "inUse": version.in_use,
    })
}

fn run(state: &State, run: &RunPage, now_ms: u64) -> Value {
    // What the run was asked for: it says how large the model is, and names its tokenizer.
    let request = state.runs().get(&run.run).map(|found| found.entry.request.to_string());
    json!({
        "run": run.run.to_string(), "request": request, "name": run.name, "atMs": run.at_ms, "rounds": value(run.rounds),
        "loss": run.loss, "paused": run.paused.as_ref().map(|found| pause(state, found, now_ms)),
    })
}

/// All about a model at this time; none if no run and no promotion names it.
pub fn model(log: Verified<'_>, name: &str, now_ms: u64) -> Option<Value> {
    let state = log.state();
    let page = model_page(state, name, now_ms)?;
    let changes = page.changes.iter().map(|change| {
        let to = page.versions.get(change.to).map(|version| version.lineage.candidate.to_string());
        json!({
            "to": to, "version": change.to + 1, "rollback": change.rollback,
            "proposal": change.proposal.to_string(), "index": change.index, "atMs": change.at_ms,
        })
    });
    Some(json!({
        "name": page.name, "current": page.current.map(|hash| hash.to_string()),
        "versions": page.versions.iter().map(version).collect::<Vec<_>>(), "changes": changes.collect::<Vec<_>>(),
        "candidates": page.candidates.iter().map(lineage).collect::<Vec<_>>(),
        "runs": page.runs.iter().map(|found| run(state, found, now_ms)).collect::<Vec<_>>(),
        "paused": page.paused.as_ref().map(|found| pause(state, found, now_ms)),
    }))
}
