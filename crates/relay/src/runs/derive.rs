//! The rounds of a run as they can be derived again, from this relay's records; and with them the state that it goes on from.

use super::api::NewRun;
use super::intake::{beginning, fetch_start};
use super::store::{ACCEPTED, RunRow};
use crate::api::ApiError;
use crate::blobs::Blobs;
use crate::db::Db;
use potluck_proto::TrainTask;
use potluck_rounds::derive::Place;
use potluck_rounds::{ClosedRound, Counted, Derivation};
use potluck_types::JobId;
use serde_json::Value;
use std::path::Path;

/// The closed rounds of a run before round `end`, with the updates that counted.
///
/// # Errors
/// Records that are damaged.
pub(crate) async fn closed_rounds(db: &Db, run: &JobId, end: u64) -> Result<Vec<ClosedRound>, ApiError> {
    let mut rounds = Vec::new();
    for row in db.rounds(run, 0).await?.into_iter().filter(|row| row.round < end) {
        let mut updates = Vec::new();
        for update in db.updates(run, row.round).await? {
            if update.verdict != ACCEPTED {
                continue;
            }
            let task: TrainTask = serde_json::from_str(&update.task).map_err(ApiError::internal)?;
            let places = task.streak.iter().map(|past| Place { round: past.round, worker: past.worker });
            updates.push(Counted {
                worker: update.worker,
                volunteer: update.volunteer,
                update: update.result.hash,
                weight_ppm: update.weight,
                audited: update.audited,
                streak: Some(places.collect()),
            });
        }
        updates.sort_by_key(|update| update.worker);
        rounds.push(ClosedRound {
            round: row.round,
            before: row.parameters,
            after: row.next_parameters,
            step: row.step.hash,
            checkpoint: row.checkpoint.map(|checkpoint| checkpoint.hash),
            restarted: row.combined.get("restarted").and_then(Value::as_bool).unwrap_or_default(),
            updates,
        });
    }
    Ok(rounds)
}

/// The state of a run after its last closed round, derived bit by bit from where it started and every update since: what
/// the relay that closed the rounds held, and nobody else has a copy of.
///
/// # Errors
/// A record or blob that is gone or damaged, or rounds that do not follow from their updates.
pub(crate) async fn state(db: &Db, blobs: &Blobs, data: &Path, run: &RunRow) -> Result<Vec<u8>, String> {
    let rounds = closed_rounds(db, &run.id, run.round).await.map_err(|error| error.message)?;
    fetch_start(blobs, data, &run.request).await.map_err(|error| error.message)?;
    let (request, data): (NewRun, _) = (run.request.clone(), data.to_owned());
    let (blobs, handle) = (blobs.clone(), tokio::runtime::Handle::current());
    let work = tokio::task::spawn_blocking(move || {
        let (start, parameters) = beginning(&request, &data).map_err(|error| error.message)?;
        let mut derivation = Derivation::start(start.terms, parameters).map_err(|error| error.to_string())?;
        for round in &rounds {
            let fetch = |counted: &Counted| handle.block_on(blobs.get(&counted.update));
            let results = round.updates.iter().map(fetch).collect::<Result<Vec<_>, _>>();
            let results = results.map_err(|error| format!("an update of round {}: {error}", round.round))?;
            derivation.follow(round, &results).map_err(|error| error.to_string())?;
        }
        Ok(derivation.state())
    });
    work.await.map_err(|error| error.to_string())?
}
