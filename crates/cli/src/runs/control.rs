//! `potluck runs`, `pause`, `resume`, and `cancel` for runs.

use crate::args::{RunsArgs, StopArgs};
use crate::client::Client;
use crate::client::runs::RunInfo;
use crate::error::CliError;
use crate::runs::{SHORT_ID, find};
use serde_json::json;
use ureq::http::Method;

/// Characters of a name in a table.
const SHOWN_NAME_CHARS: usize = 40;

/// Lists the runs.
///
/// # Errors
/// The relay does not answer.
pub fn list(args: &RunsArgs, client: &Client) -> Result<(), CliError> {
    let runs: Vec<RunInfo> = client.get("/api/v1/runs", |_| {})?;
    if args.json {
        for run in &runs {
            println!("{}", json!(run));
        }
        return Ok(());
    }
    if runs.is_empty() {
        println!("no runs; `potluck submit train run.toml` makes one");
        return Ok(());
    }
    println!("{:<SHORT_ID$}  {:<8}  {:>11}  {:>10}  NAME", "RUN", "STATE", "ROUNDS", "PARAMETERS");
    for run in &runs {
        let id: String = run.id.chars().take(SHORT_ID).collect();
        let name: String = run.name.chars().filter(|c| !c.is_control()).take(SHOWN_NAME_CHARS).collect();
        let (state, rounds) = (&run.state, format!("{} of {}", run.round, run.rounds));
        println!("{id:<SHORT_ID$}  {state:<8}  {rounds:>11}  {:>10}  {name}", run.parameters);
    }
    Ok(())
}

/// Pauses a run.
///
/// # Errors
/// There is no such run, or it has ended; the relay does not answer or refuses.
pub fn pause(args: &StopArgs, client: &Client) -> Result<(), CliError> {
    change(args, client, &Method::POST, "/pause")
}

/// Lets a run go on.
///
/// # Errors
/// As [`pause`].
pub fn resume(args: &StopArgs, client: &Client) -> Result<(), CliError> {
    change(args, client, &Method::POST, "/resume")
}

fn change(args: &StopArgs, client: &Client, method: &Method, action: &str) -> Result<(), CliError> {
    let prefix = args.what.trim().to_ascii_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CliError::Usage {
            message: format!("{:?} is no run's id", args.what),
            hint: "a submitter names a run by hexadecimal digits; who signs with --key may also write all, run:ID or \
                   model:NAME"
                .into(),
        });
    }
    let id = find(client, &prefix)?.id;
    send(client, method, &format!("/api/v1/runs/{id}{action}"), args.log.json)
}

/// Gives a run up.
///
/// # Errors
/// As [`pause`].
pub fn cancel(prefix: &str, json: bool, client: &Client) -> Result<(), CliError> {
    let id = find(client, prefix)?.id;
    send(client, &Method::DELETE, &format!("/api/v1/runs/{id}"), json)
}

fn send(client: &Client, method: &Method, path: &str, json: bool) -> Result<(), CliError> {
    let run: RunInfo = client.send_json(method, path, &[], None, |_| {})?;
    if json {
        println!("{}", json!(run));
    } else {
        println!("run {} is {} after {} of {} rounds", run.id, run.state, run.round, run.rounds);
    }
    Ok(())
}
