//! What follows from the log, for everybody: models, proposals, people and rules. Anybody who reads the log derives the same.

use super::now_ms;
use crate::api::{ApiError, GovernanceInfo, ModelInfo, ModelSummary, ProposalInfo};
use crate::http::{Answer, App, Id, Shared, bad};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use potluck_types::BlobHash;
use serde::Deserialize;
use std::sync::Arc;

/// Proposals of one answer.
const MAX_PROPOSALS: usize = 100;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/governance", get(get_governance))
        .route("/api/v1/models", get(list_models))
        .route("/api/v1/models/{name}", get(get_model))
        .route("/api/v1/proposals", get(list_proposals))
        .route("/api/v1/proposals/{id}", get(get_proposal))
}

fn not_found(what: &str, hint: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"), hint)
}

/// Who decides, by which rules, and what is stopped.
#[utoipa::path(get, path = "/api/v1/governance", responses((status = 200, body = GovernanceInfo)))]
pub(crate) async fn get_governance(State(app): Shared) -> Answer<GovernanceInfo> {
    Ok(Json(app.log.state(|state| GovernanceInfo::of(state, now_ms(state))).await?))
}

/// All models that a run or a promotion names.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = Vec<ModelSummary>)))]
pub(crate) async fn list_models(State(app): Shared) -> Answer<Vec<ModelSummary>> {
    Ok(Json(app.log.state(|state| ModelSummary::all(state, now_ms(state))).await?))
}

/// A model's page: versions with lineage, eval card, who approved, who did not, and where a rollback leads.
#[utoipa::path(get, path = "/api/v1/models/{name}", params(("name" = String, Path)),
    responses((status = 200, body = ModelInfo), (status = 404, body = ApiError)))]
pub(crate) async fn get_model(State(app): Shared, name: Id) -> Answer<ModelInfo> {
    let unknown = || not_found("model", "list them with GET /api/v1/models");
    let Path(name) = name.map_err(|_| unknown())?;
    let page = app.log.state(|state| ModelInfo::of(state, &name, now_ms(state))).await?;
    page.map(Json).ok_or_else(unknown)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Which {
    /// Only those that have not taken effect and can still do so.
    #[serde(default)]
    open: bool,
    /// Only those before this index.
    before: Option<u64>,
}

/// Proposals and appeals, newest first, 100 at a time. With `open`, only those whose vote goes on or that passed and wait to
/// take effect; with `before`, those that were logged before this index.
#[utoipa::path(get, path = "/api/v1/proposals",
    params(("open" = Option<bool>, Query), ("before" = Option<u64>, Query)),
    responses((status = 200, body = Vec<ProposalInfo>), (status = 400, body = ApiError)))]
pub(crate) async fn list_proposals(
    State(app): Shared,
    query: Result<Query<Which>, QueryRejection>,
) -> Answer<Vec<ProposalInfo>> {
    let Query(Which { open, before }) =
        query.map_err(|error| bad(error.body_text(), "open is true or false, before a whole number"))?;
    let list = app.log.state(|state| {
        let now_ms = now_ms(state);
        let mut found: Vec<_> = state.proposals().values().collect();
        found.retain(|proposal| before.is_none_or(|before| proposal.index < before));
        found.sort_by_key(|proposal| std::cmp::Reverse(proposal.index));
        let infos = found.into_iter().map(|proposal| ProposalInfo::of(state, proposal, now_ms));
        let goes_on = |info: &ProposalInfo| {
            info.applied.is_none() && !matches!(info.outcome.as_str(), "failed" | "dropped")
        };
        infos.filter(|info| !open || goes_on(info)).take(MAX_PROPOSALS).collect()
    });
    Ok(Json(list.await?))
}

/// A proposal or appeal with its votes and all that happened to it.
#[utoipa::path(get, path = "/api/v1/proposals/{id}", params(("id" = String, Path)),
    responses((status = 200, body = ProposalInfo), (status = 404, body = ApiError)))]
pub(crate) async fn get_proposal(State(app): Shared, id: Id) -> Answer<ProposalInfo> {
    let unknown = || not_found("proposal", "list them with GET /api/v1/proposals");
    let id: BlobHash = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)?;
    let found = app.log.state(|state| ProposalInfo::whole(state, &id, now_ms(state))).await?;
    found.map(Json).ok_or_else(unknown)
}
