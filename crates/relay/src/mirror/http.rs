//! Who mirrors the log, and who leads it.

use crate::http::{Answer, App, Shared};
use crate::log::Stage;
use crate::site;
use axum::extract::State;
use axum::middleware::map_response;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/api/v1/mirrors", get(get_mirrors)).route_layer(map_response(site::shared))
}

/// Who mirrors the log, and what this relay is to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MirrorsInfo {
    /// Name of the log.
    pub origin: String,
    /// `leading`: this relay signs the log; `following`: it mirrors another; `draft`: it mirrored another, which is not heard
    /// any more, and takes what people say about who goes on.
    pub stage: String,
    /// Address of the relay that it follows, or followed.
    pub of: Option<String>,
    /// Seconds since that was last heard.
    pub heard_s_ago: Option<u64>,
    /// What is wrong with following, if something is.
    pub trouble: Option<String>,
    /// Mirrors that people agreed on, in their order: volunteers go to them when the relay is gone.
    pub mirrors: Vec<MirrorInfo>,
    /// Relays that took the log over, in order.
    pub successions: Vec<SuccessionInfo>,
}

/// A mirror that the log lists.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MirrorInfo {
    /// What people call it.
    pub name: String,
    /// Its address.
    pub url: String,
    /// The Ed25519 key with which it would sign the log.
    pub key: String,
}

/// A relay that took the log over.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SuccessionInfo {
    /// Index of the entry.
    pub index: u64,
    /// The relay.
    pub mirror: MirrorInfo,
    /// Entries of the log below the last checkpoint of the relay before.
    pub from: u64,
    /// The proposal that people agreed on.
    pub proposal: String,
}

fn shown(mirror: &potluck_governance::Mirror) -> MirrorInfo {
    MirrorInfo { name: mirror.name.clone(), url: mirror.url.clone(), key: mirror.key.to_string() }
}

/// Mirrors of the log, and which relay leads it.
#[utoipa::path(get, path = "/api/v1/mirrors", responses((status = 200, body = MirrorsInfo)))]
pub(crate) async fn get_mirrors(State(app): Shared) -> Answer<MirrorsInfo> {
    let followed = app.mirror.as_ref().map(super::Status::now);
    let stage = match app.log.stage() {
        Stage::Leading(_) => "leading",
        Stage::Following(_) => "following",
        Stage::Draft(_) => "draft",
    };
    let (origin, mirrors, successions) = app
        .log
        .state(|state| {
            let succession = |one: &potluck_governance::state::SuccessionState| SuccessionInfo {
                index: one.index,
                mirror: shown(&one.mirror),
                from: one.from,
                proposal: one.proposal.to_string(),
            };
            (
                state.origin().to_owned(),
                state.mirrors().iter().map(shown).collect(),
                state.successions().iter().map(succession).collect(),
            )
        })
        .await?;
    Ok(Json(MirrorsInfo {
        origin,
        stage: stage.to_owned(),
        of: followed.as_ref().map(|followed| followed.of.clone()),
        heard_s_ago: followed.as_ref().and_then(|followed| Some(followed.heard?.elapsed().as_secs())),
        trouble: followed.and_then(|followed| followed.trouble),
        mirrors,
        successions,
    }))
}
