//! The candidates' part of the HTTP API: thin handlers. Candidates are made with the submitter's token; everything about
//! them is public, and anybody may try them.

use super::api::{CandidateInfo, EvalInfo, NewCandidate, NewSample, Sample};
use super::intake;
use super::store::{CandidateRow, EvalState};
use crate::api::ApiError;
use crate::http::{Answer, App, Id, Shared, bad};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use potluck_schedule::EvalProgress;
use potluck_types::{BlobHash, JobId};
use std::sync::Arc;

/// Body of a request about a candidate: the names of what it is made without, or a prompt.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The candidates' routes.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/api/v1/runs/{id}/candidates",
            post(create_candidate).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
        )
        .route("/api/v1/candidates", get(list_candidates))
        .route("/api/v1/candidates/{id}", get(get_candidate))
        .route(
            "/api/v1/candidates/{id}/samples",
            post(sample_candidate).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)),
        )
}

fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is no such candidate",
        "list them with GET /api/v1/candidates",
    )
}

async fn info(app: &App, row: &CandidateRow) -> Result<CandidateInfo, ApiError> {
    let progress = app.core.eval_progress(row.eval).await?;
    let text = |hash: &BlobHash| hash.to_string();
    Ok(CandidateInfo {
        parameters: row.parameters.hash.to_string(),
        model: row.model.clone(),
        run: row.run.to_string(),
        round: row.round,
        without: row.without.clone(),
        incumbent: row.incumbent.as_ref().map(text),
        eval: row.eval.to_string(),
        state: row.state.name().to_owned(),
        reason: row.reason.clone(),
        secret: (row.state == EvalState::Done).then(|| BlobHash(row.terms.secret).to_string()),
        card: row.card.as_ref().map(text),
        progress: progress.map(|EvalProgress { shards, done, waiting, leased, rejected }| EvalInfo {
            shards,
            done,
            waiting,
            leased,
            rejected,
        }),
    })
}

async fn find(app: &App, id: Id) -> Result<CandidateRow, ApiError> {
    let hash: Option<BlobHash> = id.ok().and_then(|Path(id)| id.parse().ok());
    let hash = hash.ok_or_else(not_found)?;
    app.db.candidate(&hash).await?.ok_or_else(not_found)
}

/// Make a candidate of a run's parameters, and have it evaluated by volunteers. The same parameters again are the same
/// candidate: its eval is held again (201) if it failed or if another version of the model is in use by now, else found (200).
#[utoipa::path(post, path = "/api/v1/runs/{id}/candidates", params(("id" = String, Path)), request_body = NewCandidate,
    responses((status = 201, body = CandidateInfo), (status = 200, body = CandidateInfo), (status = 400, body = ApiError),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn create_candidate(
    State(app): Shared,
    headers: HeaderMap,
    id: Id,
    body: Result<Json<NewCandidate>, JsonRejection>,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let Json(new) = body.map_err(|error| bad(error.body_text(), "see /api/openapi.json for the fields"))?;
    let run: Option<JobId> = id.ok().and_then(|Path(id)| id.parse().ok());
    let run = run.ok_or_else(|| ApiError::not_found("run"))?;
    let (row, fresh) = intake::create(&app, &run, &new).await?;
    let status = if fresh { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(info(&app, &row).await?)).into_response())
}

/// Candidates, newest first.
#[utoipa::path(get, path = "/api/v1/candidates", responses((status = 200, body = Vec<CandidateInfo>)))]
pub(crate) async fn list_candidates(State(app): Shared) -> Answer<Vec<CandidateInfo>> {
    let mut list = Vec::new();
    for row in app.db.candidates().await? {
        list.push(info(&app, &row).await?);
    }
    Ok(Json(list))
}

/// One candidate, by the hash of its parameters.
#[utoipa::path(get, path = "/api/v1/candidates/{id}", params(("id" = String, Path)),
    responses((status = 200, body = CandidateInfo), (status = 404, body = ApiError)))]
pub(crate) async fn get_candidate(State(app): Shared, id: Id) -> Answer<CandidateInfo> {
    let row = find(&app, id).await?;
    Ok(Json(info(&app, &row).await?))
}

/// Try a candidate: what it writes after a prompt. The same request gives the same text.
#[utoipa::path(post, path = "/api/v1/candidates/{id}/samples", params(("id" = String, Path)), request_body = NewSample,
    responses((status = 200, body = Sample), (status = 400, body = ApiError), (status = 404, body = ApiError),
        (status = 422, body = ApiError)))]
pub(crate) async fn sample_candidate(
    State(app): Shared,
    id: Id,
    body: Result<Json<NewSample>, JsonRejection>,
) -> Answer<Sample> {
    let Json(new) =
        body.map_err(|error| bad(error.body_text(), "send prompt, tokens, seed and temperature"))?;
    let row = find(&app, id).await?;
    // Anybody may ask for this: it must not keep submitters waiting.
    let _slot = app.rebuilds.acquire().await.map_err(ApiError::internal)?;
    let run = app.db.run(&row.run).await?.ok_or_else(|| ApiError::not_found("run"))?;
    let bytes = app.blobs.get(&row.parameters.hash).await.map_err(ApiError::internal)?;
    Ok(Json(Sample { text: intake::write(&app, &run, bytes, new).await? }))
}
