//! What takes effect because people decided it. Anybody may ask: the log takes only what it justifies itself.

use super::Batch;
use crate::api::{ApiError, ApprovedDataSet, Logged, NewKernel, NewParameter, NewPromotion, NewRollback};
use crate::http::{App, Shared, bad};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use potluck_governance::{Body, Constitution, Mirror, Refused, Roles, entry, gate};
use potluck_types::BlobHash;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/log/promotions", post(promote))
        .route("/api/v1/log/rollbacks", post(roll_back))
        .route("/api/v1/log/roles", post(change_roles))
        .route("/api/v1/log/amendments", post(amend))
        .route("/api/v1/log/parameters", post(set_parameter))
        .route("/api/v1/log/kernels", post(allow_kernel))
        .route("/api/v1/log/datasets", post(approve_data_set))
        .route("/api/v1/log/mirrors", post(list_mirrors))
}

type Said<T> = Result<Json<T>, JsonRejection>;

fn said<T>(body: Said<T>) -> Result<T, ApiError> {
    let Json(new) = body.map_err(|error| bad(error.body_text(), "see /api/openapi.json for the fields"))?;
    Ok(new)
}

fn hash(field: &str, text: &str) -> Result<BlobHash, ApiError> {
    text.parse().map_err(|error| {
        let short: String = text.chars().take(80).collect();
        bad(format!("{field} {short:?}: {error}"), "hashes are 64 lower-case hexadecimal digits")
    })
}

/// Appends what is made of the state as it is, before anything else is.
async fn append<B: Into<Body>>(
    app: &App,
    make: impl FnOnce(&Batch<'_>) -> Result<B, ApiError>,
) -> Result<Response, ApiError> {
    let mut batch = app.log.begin().await?;
    let body = make(&batch)?;
    let index = batch.add(body)?;
    batch.commit().await?;
    Ok((StatusCode::CREATED, Json(Logged { index })).into_response())
}

/// Promote a candidate. Refused, with each step that is missing, unless the log justifies it.
#[utoipa::path(post, path = "/api/v1/log/promotions", request_body = NewPromotion,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn promote(State(app): Shared, body: Said<NewPromotion>) -> Result<Response, ApiError> {
    let candidate = hash("candidate", &said(body)?.candidate)?;
    append(&app, |batch| {
        let now_ms = super::now_ms(batch.state());
        let promotion = gate::promotion(batch.state(), &candidate, now_ms);
        promotion.map_err(|missing| super::LogError::Refused(Refused::NotReady { missing }).into())
    })
    .await
}

/// Let a model go back to the version before.
#[utoipa::path(post, path = "/api/v1/log/rollbacks", request_body = NewRollback,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn roll_back(State(app): Shared, body: Said<NewRollback>) -> Result<Response, ApiError> {
    let NewRollback { model, to, proposal } = said(body)?;
    let (to, proposal) = (hash("to", &to)?, hash("proposal", &proposal)?);
    append(&app, |_| Ok(entry::Rollback { model, to, proposal })).await
}

/// A document that a proposal named by its hash.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enacted<T> {
    proposal: String,
    #[serde(alias = "roles", alias = "constitution")]
    document: T,
}

/// Put a new roles document in force: `proposal`, and the document as `roles`.
#[utoipa::path(post, path = "/api/v1/log/roles", request_body = String,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn change_roles(
    State(app): Shared,
    body: Said<Enacted<Roles>>,
) -> Result<Response, ApiError> {
    let Enacted { proposal, document: roles } = said(body)?;
    let proposal = hash("proposal", &proposal)?;
    append(&app, |_| Ok(entry::NewRoles { proposal, roles })).await
}

/// Put a new constitution in force: `proposal`, and the document as `constitution`.
#[utoipa::path(post, path = "/api/v1/log/amendments", request_body = String,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn amend(
    State(app): Shared,
    body: Said<Enacted<Constitution>>,
) -> Result<Response, ApiError> {
    let Enacted { proposal, document: constitution } = said(body)?;
    let proposal = hash("proposal", &proposal)?;
    append(&app, |_| Ok(entry::Amendment { proposal, constitution })).await
}

/// A list of mirrors that a proposal named by its hash.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMirrorList {
    proposal: String,
    mirrors: Vec<Mirror>,
}

/// Put a new list of mirrors in force: `proposal`, and `mirrors`, each with `name`, `url` and `key`.
#[utoipa::path(post, path = "/api/v1/log/mirrors", request_body = String,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn list_mirrors(
    State(app): Shared,
    body: Said<NewMirrorList>,
) -> Result<Response, ApiError> {
    let NewMirrorList { proposal, mirrors } = said(body)?;
    let proposal = hash("proposal", &proposal)?;
    append(&app, |_| Ok(entry::NewMirrors { proposal, mirrors })).await
}

/// Set a parameter of the constitution within its bounds.
#[utoipa::path(post, path = "/api/v1/log/parameters", request_body = NewParameter,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn set_parameter(
    State(app): Shared,
    body: Said<NewParameter>,
) -> Result<Response, ApiError> {
    let NewParameter { name, value, proposal } = said(body)?;
    let proposal = hash("proposal", &proposal)?;
    append(&app, |_| Ok(entry::ParameterSet { proposal, name, value })).await
}

/// Let volunteers run a kernel or engine.
#[utoipa::path(post, path = "/api/v1/log/kernels", request_body = NewKernel,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn allow_kernel(State(app): Shared, body: Said<NewKernel>) -> Result<Response, ApiError> {
    let new = said(body)?;
    let (kernel, proposal) = (hash("hash", &new.hash)?, hash("proposal", &new.proposal)?);
    append(&app, |_| Ok(entry::Kernel { name: new.name, hash: kernel, proposal: Some(proposal) })).await
}

/// Note that a data set, or a part of one, was approved.
#[utoipa::path(post, path = "/api/v1/log/datasets", request_body = ApprovedDataSet,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn approve_data_set(
    State(app): Shared,
    body: Said<ApprovedDataSet>,
) -> Result<Response, ApiError> {
    let ApprovedDataSet { id, proposal } = said(body)?;
    let proposal = hash("proposal", &proposal)?;
    append(&app, |batch| {
        let known = batch.state().data_sets().get(&id).cloned();
        let known = known.ok_or_else(|| {
            let short: String = id.chars().take(160).collect();
            super::LogError::Refused(Refused::Unknown { what: format!("data set {short}") })
        })?;
        Ok(entry::DataSet { proposal: Some(proposal), ..known })
    })
    .await
}
