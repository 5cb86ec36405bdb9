//! Reports that the log was forked. The relay that signed two histories says so itself, into its own log: whoever runs it may
//! not know, if the key was copied or an old backup put back.

use crate::api::{ApiError, Logged};
use crate::http::{App, Shared};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use potluck_governance::entry::{Incident, Trigger};
use potluck_governance::state::Cause;
use potluck_ledger::{Checkpoint, ForkError, ForkEvidence, MAX_EVIDENCE_BYTES};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/api/v1/log/forks", post(report).layer(DefaultBodyLimit::max(MAX_EVIDENCE_BYTES)))
}

impl From<ForkError> for ApiError {
    fn from(error: ForkError) -> Self {
        let message = format!("that proves no fork of this log: {error}");
        let hint =
            "evidence is two of its signed checkpoints that contradict each other, as witnesses keep it";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_fork", message, hint)
    }
}

/// Report that the log was forked: two checkpoints that it signed and that contradict each other. Everything pauses until
/// people have looked at it.
#[utoipa::path(post, path = "/api/v1/log/forks", request_body = String,
    responses((status = 201, body = Logged), (status = 200, body = Logged), (status = 413, body = ApiError),
        (status = 422, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn report(State(app): Shared, body: Bytes) -> Result<Response, ApiError> {
    let key = app.log.verifier();
    let (older, newer) = ForkEvidence::parse(&body)?.verify(key.name(), key)?;
    let detail = detail(&older, &newer);
    let mut batch = app.log.begin().await?;
    let now_ms = super::now_ms(batch.state());
    // One fork gives many pairs of checkpoints, and each of them could be sent for ever: one incident while it pauses, and
    // one for each pair.
    let known = batch
        .state()
        .incidents()
        .iter()
        .rev()
        .find(|(_, _, incident)| incident.trigger == Trigger::Fork && incident.detail == detail);
    let pauses = batch.state().pauses().values().rev().find(|pause| {
        let fork = matches!(pause.cause, Cause::Automatic { trigger: Trigger::Fork, .. });
        fork && pause.in_force(now_ms)
    });
    if let Some(index) = known.map(|(index, ..)| *index).or_else(|| pauses.map(|pause| pause.id)) {
        return Ok((StatusCode::OK, Json(Logged { index })).into_response());
    }
    let index = batch.add(Incident { trigger: Trigger::Fork, run: None, operator: None, detail })?;
    batch.commit().await?;
    tracing::error!(index, "the log was forked: this relay's key signed two histories; everything pauses");
    Ok((StatusCode::CREATED, Json(Logged { index })).into_response())
}

/// What the evidence shows, in numbers that anybody can compare.
fn detail(older: &Checkpoint, newer: &Checkpoint) -> String {
    let (older, newer) = (older.head(), newer.head());
    format!(
        "two histories are signed: {} entries with the root {}, and {} entries with the root {}",
        older.size, older.root, newer.size, newer.root
    )
}
