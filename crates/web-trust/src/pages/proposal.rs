//! A proposal's page: votes, timeline, what is missing, and for a promotion the eval card.

use super::{names, outcome, pause, pseudonym, summary, value};
use crate::reader::Verified;
use potluck_governance::gate::{Check, Need, Unit, gate, promotion_ready};
use potluck_governance::model::{What, timeline};
use potluck_governance::state::{Electorate, State};
use potluck_governance::statement::ProposalKind;
use potluck_types::BlobHash;
use serde_json::{Value, json};

/// `unit` is `ppm`, `micro_nats` or `count`; `need` is `at_least`, `more_than` or `below`.
pub(super) fn check(check: &Check) -> Value {
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
    json!({
        "name": check.name.label(), "value": check.value, "threshold": check.threshold, "unit": unit, "need": need,
        "passed": check.passed, "note": check.note,
    })
}

fn what(what: &What) -> Value {
    match what {
        What::Proposed { name, key } => json!({ "what": "proposed", "name": name, "key": pseudonym(key) }),
        What::Opens => json!({ "what": "opens" }),
        What::Attested { name, reproduces } => {
            json!({ "what": "attested", "name": name, "reproduces": reproduces })
        }
        What::SignedOff { name, note, this_card } => {
            json!({ "what": "signed_off", "name": name, "note": note, "thisCard": this_card })
        }
        What::Voted { name, vote, reason } => {
            json!({ "what": "voted", "name": name, "vote": value(vote), "reason": reason })
        }
        What::Closes => json!({ "what": "closes" }),
        What::Applied => json!({ "what": "applied" }),
        _ => json!({ "what": "other" }),
    }
}

/// All about a proposal at this time; none if the log has no such proposal.
pub fn proposal(log: Verified<'_>, id: &BlobHash, now_ms: u64) -> Option<Value> {
    let state = log.state();
    let (found, line) = (state.proposals().get(id)?, timeline(state, id, now_ms)?);
    let events = line.events.iter().map(|event| {
        let mut shown = what(&event.what);
        shown["atMs"] = event.at_ms.into();
        shown["index"] = value(event.index);
        shown
    });
    let voters = match &found.electorate {
        Electorate::Stewards => state.roles().stewards.iter().map(|person| person.name.clone()).collect(),
        Electorate::Panel(panel) => names(state, panel),
    };
    let votes = found.votes.iter().map(|(name, cast)| {
        json!({
            "name": state.display_name(name), "vote": value(cast.vote), "reason": cast.reason,
            "atMs": cast.at_ms, "index": cast.index,
        })
    });
    let (same, other) = state.attested(&found.body);
    let mut page = summary(state, found, now_ms);
    page["diff"] = value(&line.diff);
    page["rationale"] = line.rationale.clone().into();
    page["rule"] = value(found.rule);
    page["outcome"] = outcome(&line.outcome);
    page["events"] = events.collect();
    page["voters"] = value(voters);
    page["votes"] = votes.collect();
    page["reproducedBy"] = value(names(state, &same));
    page["differedFor"] = value(names(state, &other));
    if found.kind == ProposalKind::Promote {
        page["promotion"] = promotion(state, &found.body, now_ms);
    }
    Some(page)
}

/// The candidate of a promotion: its card, the gate, and the steps that are missing.
fn promotion(state: &State, candidate: &BlobHash, now_ms: u64) -> Value {
    let missing = promotion_ready(state, candidate, now_ms).err().unwrap_or_default();
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let Some(found) = state.candidates().get(candidate) else { return json!({ "missing": missing }) };
    let model = &found.entry.model;
    let incumbent = state.models().get(model).and_then(|model| model.current());
    let incumbent = incumbent.and_then(|version| state.candidates().get(&version.candidate));
    let signed = state.signed_off(found);
    json!({
        "candidate": value(&found.entry), "incumbent": incumbent.map(|found| value(&found.entry)),
        "card": value(&found.card), "cardIndex": found.card.as_ref().map(|_| found.card_index),
        "checks": gate(state, candidate).iter().map(check).collect::<Vec<_>>(), "missing": missing,
        "signedOff": names(state, &signed), "signOffsNeeded": state.constitution().gate.sign_offs,
        "paused": state.model_paused(model, now_ms).map(|found| pause(state, found, now_ms)),
    })
}
