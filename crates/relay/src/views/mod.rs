//! What the pages about work show: projects that can be joined, the map of a job, who contributed to a run, and the
//! operator's figures.
//!
//! Where to look: `projects.rs` and `leaders.rs` are for everybody, `results.rs` for those who submit and for those who look at runs,
//! `operator.rs` for whoever has the admin's token; `api.rs` has what they say, `failures.rs` what went wrong lately.

pub mod api;
pub(crate) mod failures;
pub(crate) mod leaders;
pub(crate) mod operator;
pub(crate) mod projects;
pub(crate) mod results;
mod store_size;

use crate::http::App;
use crate::log::limits;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use std::sync::Arc;

/// The routes. An address may ask for as much of them as for proofs of the log.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/projects", get(projects::list_projects))
        .route("/api/v1/projects/{id}", get(projects::get_project))
        .route("/api/v1/leaders", get(leaders::get_leaders))
        .route("/api/v1/jobs/{id}/map", get(results::get_map))
        .route("/api/v1/runs/{id}/contributors", get(results::get_contributors))
        .route("/api/v1/operator", get(operator::get_operator))
        .route("/api/v1/operator/switches", post(operator::switch))
        .route_layer(from_fn_with_state(Arc::clone(app), limits::reads))
}
