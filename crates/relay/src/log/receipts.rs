//! Receipts: entries with the proof that they are in the log.

use super::Published;
use super::http::{file_error, missing, published, text};
use crate::api::{ApiError, CandidateReceipts, EntryInfo, Receipts};
use crate::http::{Answer, App, Id, Shared, bad};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use potluck_ledger::{Bundle, Note, Receipt};
use potluck_types::{BlobHash, JobId, VolunteerId};
use serde::Deserialize;
use std::sync::Arc;

/// Receipts of one answer.
const MAX_RECEIPTS: u32 = 100;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/log/receipts/{index}", get(get_receipt))
        .route("/api/v1/log/jobs/{id}", get(get_job_receipt))
        .route("/api/v1/log/candidates/{hash}", get(get_candidate_receipts))
        .route("/api/v1/volunteers/{id}/receipts", get(list_receipts))
}

/// The receipt of an entry: the entry, and the proof that it is in the log, as C2SP tlog-proof.
#[utoipa::path(get, path = "/api/v1/log/receipts/{index}", params(("index" = u64, Path)),
    responses((status = 200, body = String), (status = 404, body = ApiError)))]
pub(crate) async fn get_receipt(
    State(app): Shared,
    index: Result<Path<u64>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(index) = index.map_err(|error| bad(error.body_text(), "index is a whole number"))?;
    Ok(text(receipt(&app, index).await?))
}

/// The receipt of an entry: under the last checkpoint that enough witnesses cosigned, if the entry is in that one already.
async fn receipt(app: &App, index: u64) -> Result<String, ApiError> {
    let now = published(app);
    let entry = read_entry(app, &now, index).await?;
    let cosigned = app.log.best_note().await.filter(|(head, _)| head.size > index);
    let note = match cosigned {
        Some((_, note)) => note,
        None => app.log.latest_note(&now).await?,
    };
    let note = Note::parse(note.as_bytes()).map_err(ApiError::internal)?;
    let mut files = app.log.0.files.blocking(published(app).head.size);
    let made = tokio::task::spawn_blocking(move || Receipt::issue(entry, index, note, &mut files)).await;
    let receipt = made.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    Ok(receipt.to_string())
}

/// The receipt of a job's or run's own entry: what a volunteer asks for before it works.
#[utoipa::path(get, path = "/api/v1/log/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = String), (status = 404, body = ApiError)))]
pub(crate) async fn get_job_receipt(State(app): Shared, id: Id) -> Result<Response, ApiError> {
    let unknown = || missing("no job or run of this id is in the log".into());
    let id: JobId = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)?;
    let find = |state: &potluck_governance::State| {
        let job = state.jobs().get(&id).map(|job| job.index);
        job.or_else(|| state.runs().get(&id).map(|run| run.index))
    };
    let index = app.log.state(find).await?.ok_or_else(unknown)?;
    Ok(text(receipt(&app, index).await?))
}

/// The receipts of a candidate: of its entry, and of the promotion that made it a version, if one did.
#[utoipa::path(get, path = "/api/v1/log/candidates/{hash}", params(("hash" = String, Path)),
    responses((status = 200, body = CandidateReceipts), (status = 404, body = ApiError)))]
pub(crate) async fn get_candidate_receipts(State(app): Shared, hash: Id) -> Answer<CandidateReceipts> {
    let unknown = || missing("no candidate of this hash is in the log".into());
    let hash: BlobHash = hash.ok().and_then(|Path(hash)| hash.parse().ok()).ok_or_else(unknown)?;
    let find = |state: &potluck_governance::State| {
        let found = state.candidates().get(&hash)?;
        let model = state.models().get(&found.entry.model);
        let mut versions = model.iter().flat_map(|model| &model.versions).rev();
        let promoted = versions.find(|version| version.candidate == hash).map(|version| version.index);
        let current = model.and_then(|model| model.current());
        let in_use = current.is_some_and(|version| version.candidate == hash);
        Some((found.entry.model.clone(), found.index, promoted, in_use))
    };
    let (model, index, promoted, in_use) = app.log.state(find).await?.ok_or_else(unknown)?;
    let promotion = match promoted {
        Some(index) => Some(receipt(&app, index).await?),
        None => None,
    };
    Ok(Json(CandidateReceipts { model, candidate: receipt(&app, index).await?, promotion, in_use }))
}

async fn read_entry(app: &App, now: &Published, index: u64) -> Result<Vec<u8>, ApiError> {
    let unpublished = || missing(format!("entry {index} is not published: {} are", now.head.size));
    let bundle = Bundle::containing(index, now.head.size).ok_or_else(unpublished)?;
    let bytes = app.log.0.files.read_of(bundle.into(), now.head.size).await;
    let bytes = bytes.map_err(|error| file_error(error, "such entry"))?;
    let entries = bundle.entries(&bytes).map_err(ApiError::internal)?;
    entries.get((index - bundle.first_entry()) as usize).map(|entry| entry.to_vec()).ok_or_else(unpublished)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Begin {
    from: Option<u64>,
}

/// Entries about a volunteer's work, accepted and refused, in order: 100 at a time, from an index on.
#[utoipa::path(get, path = "/api/v1/volunteers/{id}/receipts", params(("id" = String, Path), ("from" = Option<u64>, Query)),
    responses((status = 200, body = Receipts), (status = 400, body = ApiError)))]
pub(crate) async fn list_receipts(
    State(app): Shared,
    Path(id): Path<String>,
    query: Result<Query<Begin>, QueryRejection>,
) -> Answer<Receipts> {
    let Query(Begin { from }) = query.map_err(|error| bad(error.body_text(), "from is a whole number"))?;
    let volunteer: VolunteerId = id
        .parse()
        .map_err(|_| bad("that is no volunteer".into(), "a volunteer is named by 64 hexadecimal digits"))?;
    let now = published(&app);
    let indices = app.db.receipts_of(&volunteer, from.unwrap_or(0), MAX_RECEIPTS).await?;
    let mut entries = Vec::new();
    for index in indices.iter().copied().filter(|index| *index < now.head.size) {
        let text = read_entry(&app, &now, index).await?;
        let entry = serde_json::from_slice(&text).map_err(ApiError::internal)?;
        entries.push(EntryInfo { index, entry });
    }
    // What is not published yet comes with the next question.
    let whole = entries.len() == indices.len();
    let more = whole && indices.len() == MAX_RECEIPTS as usize;
    let next = entries.last().map_or(from.unwrap_or(0), |last| last.index + 1);
    Ok(Json(Receipts { entries, next, more }))
}
