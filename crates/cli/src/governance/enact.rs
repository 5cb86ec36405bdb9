//! What takes effect: the relay is asked, and the log decides.

use super::document;
use super::log::{TheLog, published};
use crate::args::{EnactArgs, LogArgs, PromoteArgs, RollbackArgs};
use crate::client::Client;
use crate::error::CliError;
use potluck_governance::constitution::ParameterChange;
use potluck_governance::state::ProposalState;
use potluck_governance::statement::ProposalKind;
use potluck_governance::{Constitution, Mirrors, Roles};
use potluck_relay::api::Logged;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use ureq::http::Method;

fn ask(client: &Client, log: &LogArgs, path: &str, body: &Value, done: &str) -> Result<(), CliError> {
    let logged: Logged = client.send_json(&Method::POST, path, &[], Some(body), |_| {})?;
    published(client, logged.index)?;
    if log.json {
        println!("{}", json!(logged));
    } else {
        println!("entry {}: {done}", logged.index);
    }
    Ok(())
}

/// Promotes a candidate.
///
/// # Errors
/// The log cannot be read, or does not justify it; the error names each step that is missing.
pub fn promote(args: &PromoteArgs, client: &Client) -> Result<(), CliError> {
    let candidate = TheLog::open(&args.log, client)?.candidate(&args.candidate)?.to_string();
    let done = format!("people run {candidate} from now on");
    ask(client, &args.log, "/api/v1/log/promotions", &json!({ "candidate": candidate }), &done)
}

/// Lets a model go back to the version before.
///
/// # Errors
/// As [`promote`].
pub fn roll_back(args: &RollbackArgs, client: &Client) -> Result<(), CliError> {
    let RollbackArgs { model, to, proposal, log } = args;
    let body = json!({ "model": model, "to": to, "proposal": proposal });
    ask(client, log, "/api/v1/log/rollbacks", &body, &format!("{model} is back at {to}"))
}

/// Lets a proposal that passed take effect, whatever it is about.
///
/// # Errors
/// As [`promote`]; the document or value that it names is not at hand.
pub fn command(args: &EnactArgs, client: &Client) -> Result<(), CliError> {
    let mut log = TheLog::open(&args.log, client)?;
    let id = log.proposal(&args.proposal)?;
    let Some(found) = log.state().proposals().get(&id).cloned() else {
        return Err(CliError::Input { message: format!("no proposal {id}"), hint: String::new() });
    };
    let proposal = id.to_string();
    let (path, body, done) = match found.kind {
        ProposalKind::Promote => ("promotions", json!({ "candidate": found.body.to_string() }), "promoted"),
        ProposalKind::RollBack => {
            let body = json!({ "model": found.subject, "to": found.body.to_string(), "proposal": proposal });
            ("rollbacks", body, "rolled back")
        }
        ProposalKind::Appeal => {
            let current = rollback_of(&log, &found);
            let (model, to) = current.ok_or_else(|| CliError::Input {
                message: "an appeal takes effect by itself, unless it is against the version in use".into(),
                hint: "people act on it: pause, quarantine, or propose a rollback".into(),
            })?;
            ("rollbacks", json!({ "model": model, "to": to, "proposal": proposal }), "rolled back")
        }
        ProposalKind::Roles => {
            let roles: Roles = named(args.file.as_deref(), &found, "roles document", Roles::hash)?;
            ("roles", json!({ "proposal": proposal, "roles": roles }), "these people are in office")
        }
        ProposalKind::Constitution => {
            let new: Constitution = named(args.file.as_deref(), &found, "constitution", Constitution::hash)?;
            ("amendments", json!({ "proposal": proposal, "constitution": new }), "these rules hold")
        }
        ProposalKind::Mirrors => {
            let new: Mirrors = named(args.file.as_deref(), &found, "list of mirrors", Mirrors::hash)?;
            (
                "mirrors",
                json!({ "proposal": proposal, "mirrors": new.mirrors }),
                "these relays mirror the log",
            )
        }
        ProposalKind::Succession => {
            return Err(CliError::Input {
                message: "a mirror goes on with the log by itself, as soon as the vote on it is over".into(),
                hint: "GET /api/v1/mirrors of the mirror says whether it leads".into(),
            });
        }
        ProposalKind::Parameter => {
            let value = value(args.value, &found)?;
            let body = json!({ "name": found.subject, "value": value, "proposal": proposal });
            ("parameters", body, "the parameter is set")
        }
        ProposalKind::Kernel => {
            let body = json!({ "name": found.subject, "hash": found.body.to_string(), "proposal": proposal });
            ("kernels", body, "volunteers may run it")
        }
        ProposalKind::DataSet => {
            ("datasets", json!({ "id": found.subject, "proposal": proposal }), "the data set is approved")
        }
        _ => {
            return Err(CliError::Input {
                message: "a run takes effect when it is submitted".into(),
                hint: format!("potluck submit train FILE --proposal {proposal}"),
            });
        }
    };
    ask(client, &args.log, &format!("/api/v1/log/{path}"), &body, done)
}

/// The model and version to which an upheld appeal against its last promotion leads.
fn rollback_of(log: &TheLog<'_>, appeal: &ProposalState) -> Option<(String, String)> {
    let (name, model) =
        log.state().models().iter().find(|(_, model)| {
            model.current().is_some_and(|version| Some(version.index) == appeal.decision)
        })?;
    Some((name.clone(), model.rollback_target()?.candidate.to_string()))
}

/// The document that a proposal names by its hash: from a file, or as the proposal shows it.
fn named<T: DeserializeOwned + Serialize>(
    file: Option<&Path>,
    proposal: &ProposalState,
    what: &str,
    hash: impl Fn(&T) -> potluck_types::BlobHash,
) -> Result<T, CliError> {
    let shown = proposal.diff.as_ref().and_then(|diff| serde_json::from_str(diff).ok());
    let found: T = match (file, shown) {
        (Some(path), _) => document(path, what)?,
        (None, Some(shown)) => shown,
        (None, None) => {
            return Err(CliError::Usage {
                message: format!("the proposal does not show the {what}"),
                hint: "give it with --file".into(),
            });
        }
    };
    if hash(&found) == proposal.body {
        return Ok(found);
    }
    Err(CliError::Input {
        message: format!("this {what} is not the one that was voted on: its hash is {}", hash(&found)),
        hint: format!("give the one whose hash is {}", proposal.body),
    })
}

/// The value that a proposal names by its hash.
fn value(given: Option<i64>, proposal: &ProposalState) -> Result<i64, CliError> {
    let shown = || proposal.diff.as_ref()?.rsplit_once("= ")?.1.trim().parse().ok();
    let value = given.or_else(shown).ok_or_else(|| CliError::Usage {
        message: "the proposal does not show the value".into(),
        hint: "give it with --value".into(),
    })?;
    let change = ParameterChange { name: proposal.subject.clone(), value };
    if change.hash() == proposal.body {
        return Ok(value);
    }
    Err(CliError::Input {
        message: format!("{} = {value} is not what was voted on", proposal.subject),
        hint: "ask who proposed it for the value".into(),
    })
}
