//! A run's parameters, made again without some of its updates: `potluck_rounds::rebuild`, on the relay's own records.

use super::derive::closed_rounds;
use super::intake::{beginning, data_of, fetch_start};
use super::store::RunRow;
use crate::api::ApiError;
use crate::http::App;
use axum::http::StatusCode;
use potluck_governance::statement::Target;
use potluck_rounds::{Counted, DeriveError, Without, rebuild};
use potluck_train::round::Batches;
use potluck_types::{BlobHash, VolunteerId};

/// Why parameters cannot be made again.
#[derive(Debug, thiserror::Error)]
enum RebuildError {
    #[error(transparent)]
    Derive(#[from] DeriveError),
    #[error("a record or blob cannot be read: {0}")]
    Read(String),
}

fn refused(message: String, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_without", message, hint)
}

/// The parameters after so many rounds without the updates of these volunteers, and without those that touched these data sets
/// or parts of them; with `again` the steps of what is left are taken again, from the first round on that changes.
///
/// # Errors
/// Something that the run does not have; nothing that is left out, or nothing that remains; records that are damaged.
pub(crate) async fn rebuilt(
    app: &App,
    run: &RunRow,
    after: u64,
    targets: &[Target],
    again: bool,
) -> Result<Vec<f32>, ApiError> {
    let data = if again { Some(data_of(app, &run.request).await?.train) } else { None };
    fetch_start(&app.blobs, &app.config.data, &run.request).await?;
    let (start, parameters) = beginning(&run.request, &app.config.data)?;
    let tokens = app.db.dataset(&start.train).await?.map_or(0, |row| row.tokens);
    let without = resolve(app, &start.train, tokens, targets).await?;
    let rounds = closed_rounds(&app.db, &run.id, after).await?;
    let (blobs, handle) = (app.blobs.clone(), tokio::runtime::Handle::current());
    let built = tokio::task::spawn_blocking(move || {
        let fetch = |_, counted: &Counted| {
            let bytes = handle.block_on(blobs.get(&counted.update));
            bytes.map(|bytes| bytes.to_vec()).map_err(|error| RebuildError::Read(error.to_string()))
        };
        let data = data.as_deref().map(|data| data as &dyn Batches);
        rebuild((start.terms, parameters), tokens, (without, data), rounds.into_iter().map(Ok), fetch, |_| {})
    });
    let built = built.await.map_err(ApiError::internal)?.map_err(|error| match error {
        RebuildError::Derive(error @ (DeriveError::TooMany { .. } | DeriveError::Range { .. })) => {
            refused(error.to_string(), "leave out less")
        }
        error => ApiError::internal(error),
    })?;
    if built.left_out == 0 {
        let what = format!("none of the {} updates is left out: the model would be the same", built.updates);
        return Err(refused(what, "GET /api/v1/runs/ID/rounds/ROUND lists who took part"));
    }
    if built.left_out == built.updates {
        let what = format!("all {} updates would be left out: nothing of the run remains", built.updates);
        return Err(refused(what, "leave out less, or start a run on other data"));
    }
    Ok(built.parameters)
}

/// What is left out, as the rounds know it.
async fn resolve(app: &App, train: &BlobHash, tokens: u64, targets: &[Target]) -> Result<Without, ApiError> {
    let mut without = Without::default();
    let parts = app.db.manifest(train).await?.map(|manifest| manifest.ranges()).unwrap_or_default();
    for target in targets {
        match target {
            Target::Volunteer(key) => {
                without.volunteers.insert(VolunteerId(key.0));
            }
            Target::DataSet(id) if *id == train.to_string() => without.tokens.push(0..tokens),
            Target::DataSet(id) => {
                let part = parts.iter().find(|(name, _)| name == id);
                let (_, range) = part.ok_or_else(|| {
                    let known = parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                    let hint = format!("its training data is {train}, with the parts: {known}");
                    refused(format!("the run does not train on {id}"), &hint)
                })?;
                without.tokens.push(range.clone());
            }
        }
    }
    Ok(without)
}
