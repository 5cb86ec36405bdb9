//! `potluck governance found`: the first people of a log.

use super::document;
use super::log::published;
use crate::args::governance::FoundArgs;
use crate::client::Client;
use crate::error::CliError;
use potluck_governance::{Constitution, Roles};
use potluck_relay::api::Logged;
use serde_json::json;
use ureq::http::Method;

/// Names the people, and the rules if others than the usual ones are to hold.
///
/// # Errors
/// A document cannot be read, says nothing that holds, or the log has people already.
pub fn command(args: &FoundArgs, client: &Client) -> Result<(), CliError> {
    let roles: Roles = document(&args.roles, "roles document")?;
    let refused = |what: &std::path::Path, error: &dyn std::error::Error| CliError::Input {
        message: format!("{}: {error}", what.display()),
        hint: "change the document".into(),
    };
    roles.validate().map_err(|error| refused(&args.roles, &error))?;
    let mut body = json!({ "roles": roles });
    if let Some(path) = &args.constitution {
        let constitution: Constitution = document(path, "constitution")?;
        constitution.validate().map_err(|error| refused(path, &error))?;
        body["constitution"] = json!(constitution);
    }
    let logged: Logged = client.send_json(&Method::POST, "/api/v1/log/founding", &[], Some(&body), |_| {})?;
    published(client, logged.index)?;
    if args.json {
        println!("{}", json!(logged));
    } else {
        println!("entry {}: {} stewards decide from now on", logged.index, roles.stewards.len());
    }
    Ok(())
}
