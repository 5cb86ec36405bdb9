//! `potluck governance show`: who decides, what is proposed and what it lacks, and what is stopped.

use super::log::TheLog;
use super::{moment, span};
use crate::args::LogArgs;
use crate::client::Client;
use crate::error::CliError;
use potluck_governance::roles::Person;
use potluck_relay::api::{GovernanceInfo, PauseInfo, ProposalInfo};
use serde_json::json;

/// Characters of an id that is shown to people.
const SHORT_ID: usize = 12;

/// Shows it.
///
/// # Errors
/// The log cannot be read, or is wrong.
pub fn command(args: &LogArgs, client: &Client) -> Result<(), CliError> {
    let log = TheLog::open(args, client)?;
    let (state, now_ms) = (log.state(), log.now_ms());
    let mut proposals: Vec<_> = state.proposals().values().collect();
    proposals.sort_by_key(|proposal| proposal.index);
    let proposals: Vec<ProposalInfo> = proposals
        .into_iter()
        .map(|proposal| ProposalInfo::of(state, proposal, now_ms))
        .filter(|info| info.applied.is_none() && !matches!(info.outcome.as_str(), "failed" | "dropped"))
        .collect();
    let info = GovernanceInfo::of(state, now_ms);
    if args.json {
        println!("{}", json!({ "governance": info, "proposals": proposals }));
        return Ok(());
    }
    println!("{}: {} entries", info.origin, state.next_index());
    people(state.roles());
    rules(state.constitution());
    for mirror in state.mirrors() {
        println!("mirror    {} {} {}", mirror.key, mirror.name, mirror.url);
    }
    for proposal in &proposals {
        show(proposal, now_ms);
    }
    if proposals.is_empty() {
        println!("no proposal waits");
    }
    for pause in &info.pauses {
        pauses(pause, now_ms);
    }
    for target in &info.quarantine {
        println!("quarantine: {target}");
    }
    Ok(())
}

fn people(roles: &potluck_governance::Roles) {
    if roles.is_nobody() {
        println!("nobody decides here yet; `potluck governance found` names the people");
        return;
    }
    let list = |role: &str, people: &[Person]| {
        for person in people {
            println!("{role:<9} {} {}", person.key, person.name);
        }
    };
    list("steward", &roles.stewards);
    list("auditor", &roles.auditors);
    list("operator", &roles.operators);
}

fn rules(constitution: &potluck_governance::Constitution) {
    let rules = &constitution.rules;
    for (kind, rule) in [
        ("parameter", rules.parameter),
        ("run, data set, kernel", rules.run),
        ("promotion, rollback", rules.promote),
        ("roles, constitution", rules.roles),
        ("mirrors", rules.mirrors),
        ("succession", rules.succession),
    ] {
        let (more, of) = (
            if rule.more { "more than " } else { "" },
            match rule.of {
                potluck_governance::constitution::Base::All => "all",
                potluck_governance::constitution::Base::Cast => "the votes cast",
            },
        );
        println!(
            "rule      {kind}: {} of discussion, {more}{}/{} of {of}",
            span(rule.discussion_ms),
            rule.yes.num,
            rule.yes.den
        );
    }
}

fn show(proposal: &ProposalInfo, now_ms: u64) {
    let id: String = proposal.id.chars().take(SHORT_ID).collect();
    println!("proposal  {id} {}: {} ({})", proposal.kind, proposal.subject, proposal.outcome);
    println!("  {}", proposal.rationale);
    if let Some(tally) = &proposal.tally {
        println!(
            "  {} yes, {} no, {} abstained of {}; volunteers {} for, {} against; {}closes {}",
            tally.yes,
            tally.no,
            tally.abstain,
            tally.eligible,
            tally.advice_yes,
            tally.advice_no,
            if tally.passes { "would pass; " } else { "" },
            moment(proposal.closes_ms, now_ms)
        );
    }
    for step in &proposal.missing {
        println!("  missing: {step}");
    }
}

fn pauses(pause: &PauseInfo, now_ms: u64) {
    let until = match pause.expires_ms {
        Some(expires) => format!("ends {}", moment(expires, now_ms)),
        None => "ratified".to_owned(),
    };
    println!("pause     {} of {}: {} ({}); {until}", pause.id, pause.scope, pause.cause, pause.reason);
    if !pause.resuming.is_empty() {
        println!("  {} want it to end", pause.resuming.join(", "));
    }
}
