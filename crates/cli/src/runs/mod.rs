//! Training runs, for those who start them, watch them, take the model, or check what volunteers did.
//!
//! `request` turns a run file into what the relay is asked for, `submit` sends it, `digits` reads images for it; `watch` shows a run with `draw` and
//! `sample`; `control` lists, pauses and ends runs; `export` writes a model folder; `replay` repeats updates;
//! `rebuild` makes a model again without what `without` names, from what `derive` reads.

pub mod control;
pub(crate) mod derive;
pub mod digits;
pub mod draw;
pub mod export;
pub mod rebuild;
pub mod replay;
pub mod request;
pub mod sample;
pub mod submit;
pub mod watch;
pub mod without;

use crate::client::Client;
use crate::client::runs::Model;
use crate::client::runs::RunInfo;
use crate::error::CliError;
use potluck_train::gpt::GptConfig;
use std::io::Read as _;
use std::time::Duration;

/// Digits of a complete run id.
const ID_DIGITS: usize = 32;
/// Digits of an id that is shown to people.
const SHORT_ID: usize = 8;
/// Attempts to read a body that breaks off.
const MAX_READS: u32 = 5;
/// Pause between them.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The run whose id begins with `prefix`.
///
/// # Errors
/// None or several do; the relay does not answer.
pub fn find(client: &Client, prefix: &str) -> Result<RunInfo, CliError> {
    let id = if prefix.len() == ID_DIGITS {
        prefix.to_owned()
    } else {
        let runs: Vec<RunInfo> = client.get("/api/v1/runs", |_| {})?;
        let mut matching: Vec<_> = runs.into_iter().filter(|run| run.id.starts_with(prefix)).collect();
        match (matching.pop(), matching.len()) {
            (Some(run), 0) => run.id,
            (None, _) => return Err(CliError::NoSuchRun(prefix.to_owned())),
            (Some(_), others) => {
                return Err(CliError::AmbiguousRun { prefix: prefix.to_owned(), count: others + 1 });
            }
        }
    };
    client.get(&format!("/api/v1/runs/{id}"), |_| {}).map_err(|error| match error {
        CliError::Api(api) if api.status == 404 => CliError::NoSuchRun(prefix.to_owned()),
        other => other,
    })
}

/// A body of at most `most` bytes.
///
/// # Errors
/// A longer one, one that breaks off again and again, and as [`Client::download`].
pub fn read_bytes(client: &Client, path: &str, most: u64) -> Result<Vec<u8>, CliError> {
    let answer = |cause: String| CliError::Answer { request: format!("GET {path}"), cause };
    let mut reads = 0;
    loop {
        let response = client.download(path, &[("accept", "application/octet-stream")], |_| {})?;
        let length = response.body().content_length();
        let mut bytes = Vec::new();
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let read = body.take(most + 1).read_to_end(&mut bytes);
        if length.is_some_and(|length| length > most) || bytes.len() as u64 > most {
            return Err(answer(format!("more than {most} bytes")));
        }
        let cause = match read {
            Ok(_) if length.is_none_or(|length| length == bytes.len() as u64) => return Ok(bytes),
            Ok(_) => "it ended early".to_owned(),
            Err(cause) => cause.to_string(),
        };
        reads += 1;
        if reads >= MAX_READS {
            return Err(answer(cause));
        }
        if !client.stop().sleep(READ_PAUSE) {
            return Err(CliError::Interrupted { job: None });
        }
    }
}

/// Values from f32, little-endian.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

/// The sizes of a language model, as the engine wants them; `None` for other models.
pub fn config_of(model: &Model) -> Option<GptConfig> {
    match model {
        Model::Gpt(sizes) => Some(potluck_rounds::sizes::config(sizes)),
        Model::Named(_) => None,
    }
}

/// The beginning of an id, for people.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}
