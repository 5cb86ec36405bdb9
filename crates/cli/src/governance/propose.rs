//! `potluck propose`: what exactly is proposed, and until when people vote on it.

use super::document;
use super::log::wall_ms;
use super::sign::Signer;
use super::words::parsed;
use crate::args::ProposeArgs;
use crate::args::governance::KindArg;
use crate::client::Client;
use crate::client::runs::NewRun;
use crate::error::CliError;
use crate::runs::submit::Prepared;
use potluck_governance::constitution::{ParameterChange, Rules};
use potluck_governance::limits::MAX_RATIONALE_BYTES;
use potluck_governance::statement::Propose;
use potluck_governance::{Constitution, Mirrors, Roles};
use potluck_relay::runs::api::RunHash;
use potluck_types::BlobHash;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use ureq::http::Method;

/// What a discussion lasts beyond what the constitution asks for: it counts from the entry, which is later than the
/// signature. A tenth of it, within these bounds.
const LEAST_MARGIN: Duration = Duration::from_millis(500);
const MOST_MARGIN: Duration = Duration::from_mins(1);

/// What is proposed.
struct Proposed {
    subject: String,
    body: BlobHash,
    diff: Option<String>,
}

/// Proposes something.
///
/// # Errors
/// Files, key or log cannot be read, something is missing that names it, or the log does not take it.
pub fn command(args: &ProposeArgs, client: &Client) -> Result<(), CliError> {
    let mut signer = Signer::open(&args.sign, client)?;
    let Proposed { subject, body, diff } = proposed(args, &mut signer, client)?;
    let now_ms = wall_ms();
    let after = |span: Duration| now_ms.saturating_add(span.as_millis() as u64);
    let opens = args.opens_in.map_or(now_ms, after);
    let discussion_ms = discussion(&signer.log.state().constitution().rules, args.kind);
    let margin = Duration::from_millis(discussion_ms / 10).clamp(LEAST_MARGIN, MOST_MARGIN);
    let usual = || opens.saturating_add(discussion_ms).saturating_add(margin.as_millis() as u64);
    let closes = args.closes_in.map_or_else(usual, after);
    let diff = args.diff.clone().or(diff.filter(|diff| diff.len() <= MAX_RATIONALE_BYTES));
    let (id, _) = signer.say(Propose {
        proposal: args.kind.into(),
        subject,
        body,
        diff,
        rationale: args.rationale.clone(),
        opens,
        closes,
    })?;
    if !args.sign.log.json {
        println!("proposal {id}, open until {}", super::moment(closes, now_ms));
    }
    Ok(())
}

const fn discussion(rules: &Rules, kind: KindArg) -> u64 {
    match kind {
        KindArg::Parameter => rules.parameter,
        KindArg::Run => rules.run,
        KindArg::DataSet => rules.data_set,
        KindArg::Kernel => rules.kernel,
        KindArg::Promote => rules.promote,
        KindArg::Rollback => rules.roll_back,
        KindArg::Roles => rules.roles,
        KindArg::Constitution => rules.constitution,
        KindArg::Mirrors => rules.mirrors,
        KindArg::Succession => rules.succession,
    }
    .discussion_ms
}

fn missing(what: &str, hint: &str) -> CliError {
    CliError::Usage { message: format!("{what} is missing"), hint: hint.to_owned() }
}

fn proposed(args: &ProposeArgs, signer: &mut Signer<'_>, client: &Client) -> Result<Proposed, CliError> {
    let named = || args.subject.clone().ok_or_else(|| missing("SUBJECT", "name what it is about"));
    let body = || {
        let text = args.body.as_ref().ok_or_else(|| missing("--body", "give the hash of what is proposed"));
        text.and_then(|text| parsed(text))
    };
    match args.kind {
        KindArg::Run => match &args.run {
            Some(path) => run(args, path, client),
            None => Ok(Proposed { subject: named()?, body: body()?, diff: None }),
        },
        KindArg::DataSet => {
            let id = signer.log.data_set(&named()?)?;
            let Some(set) = signer.log.state().data_sets().get(&id) else {
                return Err(missing("the data set", "upload it first"));
            };
            let diff = format!("{}: {} tokens from {} ({})", set.name, set.tokens, set.source, set.license);
            Ok(Proposed { subject: id, body: set.manifest, diff: Some(diff) })
        }
        KindArg::Rollback => {
            let model = named()?;
            let target = signer.log.state().models().get(&model).and_then(|model| model.rollback_target());
            let target = target.map(|version| version.candidate);
            let body = match (&args.body, target) {
                (Some(text), _) => parsed(text)?,
                (None, Some(target)) => target,
                (None, None) => return Err(missing("a version before", "a rollback leads one version back")),
            };
            Ok(Proposed { subject: model, body, diff: None })
        }
        KindArg::Promote | KindArg::Kernel => Ok(Proposed { subject: named()?, body: body()?, diff: None }),
        KindArg::Parameter => {
            let (name, value) =
                (named()?, args.value.ok_or_else(|| missing("--value", "give the new value"))?);
            let diff = Some(format!("{name} = {value}"));
            let body = ParameterChange { name: name.clone(), value }.hash();
            Ok(Proposed { subject: name, body, diff })
        }
        KindArg::Roles => {
            let roles: Roles = document(file(args)?, "roles document")?;
            roles.validate().map_err(|error| refused(&error))?;
            Ok(of_document(args, "roles", &roles, roles.hash()))
        }
        KindArg::Constitution => {
            let new: Constitution = document(file(args)?, "constitution")?;
            new.validate().map_err(|error| refused(&error))?;
            Ok(of_document(args, "constitution", &new, new.hash()))
        }
        KindArg::Mirrors => {
            let new: Mirrors = document(file(args)?, "list of mirrors")?;
            new.validate().map_err(|error| refused(&error))?;
            Ok(of_document(args, "mirrors", &new, new.hash()))
        }
        KindArg::Succession => {
            let (name, mirrors) = (named()?, signer.log.state().mirrors());
            let Some(mirror) = mirrors.iter().find(|mirror| mirror.name == name) else {
                let names: Vec<&str> = mirrors.iter().map(|mirror| mirror.name.as_str()).collect();
                return Err(CliError::Input {
                    message: format!("the log lists no mirror called {name}"),
                    hint: format!(
                        "it lists: {}",
                        if names.is_empty() { "none".into() } else { names.join(", ") }
                    ),
                });
            };
            let diff = Some(format!(
                "{} at {} goes on with the log, signing with {}",
                mirror.name, mirror.url, mirror.key
            ));
            Ok(Proposed { subject: name, body: mirror.hash(), diff })
        }
    }
}

fn refused(error: &dyn std::error::Error) -> CliError {
    CliError::Input { message: error.to_string(), hint: "change the document".into() }
}

fn file(args: &ProposeArgs) -> Result<&Path, CliError> {
    args.file.as_deref().ok_or_else(|| missing("--file", "give the new document"))
}

fn of_document(args: &ProposeArgs, usual: &str, document: &impl Serialize, body: BlobHash) -> Proposed {
    let subject = args.subject.clone().unwrap_or_else(|| usual.to_owned());
    Proposed { subject, body, diff: serde_json::to_string(document).ok() }
}

/// A run by its file: the relay says which text the request is, and that it is this request is checked here.
fn run(args: &ProposeArgs, path: &Path, client: &Client) -> Result<Proposed, CliError> {
    let prepared = Prepared::read(path, None, args.name.as_deref())?;
    let request = NewRun { proposal: None, ..prepared.request() };
    let model = args.subject.clone().or_else(|| request.model_name.clone());
    let model = model.ok_or_else(|| {
        missing(
            "the model's name",
            "write model-name = \"NAME\" into the run file: only such runs need a proposal",
        )
    })?;
    let route = "/api/v1/runs/hash";
    let RunHash { hash, request: text } =
        client.send_json(&Method::POST, route, &[], Some(&json!(request)), |_| {})?;
    let body = BlobHash::of(text.as_bytes());
    let mut expected = json!(request);
    if let Some(tokenizer) = &request.tokenizer {
        expected["tokenizer"] = BlobHash::of(tokenizer.as_bytes()).to_string().into();
    }
    let same = serde_json::from_str::<Value>(&text).is_ok_and(|text| text == expected);
    if hash != body.to_string() || !same {
        let cause = "it names another request than the one that was sent".to_owned();
        return Err(CliError::Answer { request: format!("POST {route}"), cause });
    }
    Ok(Proposed { subject: model, body, diff: Some(text) })
}
