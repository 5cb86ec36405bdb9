//! `potluck model export`: what a run has learned, as a folder.

use crate::args::ExportArgs;
use crate::client::Client;
use crate::client::runs::{RoundRecord, RunInfo};
use crate::error::CliError;
use crate::model::{self, MAX_JSON_BYTES};
use crate::runs::{config_of, find, floats, read_bytes};
use potluck_rounds::sizes;
use potluck_train::data::Tokenizer;
use potluck_types::BlobHash;
use serde_json::json;
use std::path::Path;

/// Writes the folder.
///
/// # Errors
/// There is no such run or round; what the relay gives out does not fit its records; the folder cannot be written.
pub fn command(args: &ExportArgs, client: &Client) -> Result<(), CliError> {
    let run = find(client, &args.run)?;
    let round = args.round.unwrap_or(run.round);
    let parameters = parameters(client, &run, round)?;
    if let Some(expected) = recorded_hash(client, &run, round)? {
        let found = BlobHash::of(&parameters).to_string();
        if found != expected {
            return Err(CliError::Record {
                what: format!("the parameters after {round} rounds"),
                cause: format!("they hash to {found}, the record names {expected}"),
            });
        }
    }
    match config_of(&run.model) {
        Some(config) => {
            let tokenizer = tokenizer(client, &run)?;
            model::export(&args.out, &config, &floats(&parameters), &tokenizer)?;
        }
        None => model::export_plain(&args.out, &sizes::model(&run.model.into()), &floats(&parameters))?,
    }
    if args.json {
        let outcome = json!({
            "run": run.id, "round": round, "parameters": run.parameters, "out": args.out,
        });
        println!("{outcome}");
    } else {
        println!("{}", args.out.display());
        eprintln!("{} parameters after {round} of {} rounds", run.parameters, run.rounds);
    }
    Ok(())
}

/// The parameters after so many rounds: f32, little-endian.
///
/// # Errors
/// A round that is not done yet, another number of bytes than the model has, and as [`read_bytes`].
pub fn parameters(client: &Client, run: &RunInfo, round: u64) -> Result<Vec<u8>, CliError> {
    if round > run.round {
        return Err(CliError::Usage {
            message: format!("the run has done {} rounds, not {round}", run.round),
            hint: "give a lower --round, or leave it out for the newest".into(),
        });
    }
    let model = sizes::model(&run.model.into());
    let path = format!("/api/v1/runs/{}/rounds/{round}/parameters", run.id);
    let answer = |cause: String| CliError::Answer { request: format!("GET {path}"), cause };
    model.check().map_err(|cause| answer(cause.to_string()))?;
    let expected = 4 * model.parameters() as u64;
    let bytes = read_bytes(client, &path, expected)?;
    if bytes.len() as u64 != expected {
        return Err(answer(format!("{} bytes for a model of {expected}", bytes.len())));
    }
    Ok(bytes)
}

/// The hash that the rounds before and after agree on; `None` before the first round is done.
fn recorded_hash(client: &Client, run: &RunInfo, round: u64) -> Result<Option<String>, CliError> {
    let record = |round: u64| -> Result<RoundRecord, CliError> {
        client.get(&format!("/api/v1/runs/{}/rounds/{round}", run.id), |_| {})
    };
    if round < run.round {
        return Ok(Some(record(round)?.parameters_hash));
    }
    match round.checked_sub(1) {
        Some(last) => Ok(record(last)?.next_parameters_hash),
        None => Ok(None),
    }
}

/// The run's tokenizer.
///
/// # Errors
/// The run has none, or one that is not implemented, and as [`read_bytes`].
pub fn tokenizer(client: &Client, run: &RunInfo) -> Result<Tokenizer, CliError> {
    let path = format!("/api/v1/runs/{}/tokenizer", run.id);
    let text = read_bytes(client, &path, MAX_JSON_BYTES)?;
    Ok(model::parse_tokenizer(&text, Path::new("the run's tokenizer.json"))?)
}
