//! The operator's figures, for whoever has the admin's token.

use super::api::{Bandwidth, NewSwitch, OperatorView, QueueCounts, RejectCount, SessionCounts, SwitchedOff};
use super::failures;
use crate::api::ApiError;
use crate::db::{Db, DbError, wall_ms};
use crate::http::{Answer, App, Shared, kernels};
use crate::metrics;
use crate::switches::{MAX_OFF, MAX_TEAMS_OFF, SwitchKind};
use crate::token;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use potluck_schedule::Input;
use sqlx::Row as _;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use super::store_size::StoreSize;
use super::store_size::{BLOBS, DATABASE};

/// Reasons of refused results that are told apart.
const MAX_REASONS: i64 = 100;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// What only the operator's routes need.
#[derive(Debug)]
pub(crate) struct Operator {
    /// Hash of the admin's token.
    pub(crate) token: blake3::Hash,
    /// When the relay started.
    pub(crate) started: Instant,
    pub(crate) store: Arc<StoreSize>,
    /// One switch is turned at a time: the machine hears of them in the order in which they hold.
    pub(crate) turning: tokio::sync::Mutex<()>,
}

/// Sessions, queue, refused results, bandwidth, store and errors, for the operator.
#[utoipa::path(get, path = "/api/v1/operator",
    responses((status = 200, body = OperatorView), (status = 401, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn get_operator(State(app): Shared, headers: HeaderMap) -> Answer<OperatorView> {
    authorize(&app, &headers)?;
    let totals = app.core.totals().await?;
    let mut queue = QueueCounts {
        jobs: 0,
        runs: app.db.open_runs().await?.len() as u64,
        evals: app.db.evals_under_way().await?,
        units_free: 0,
        units_in_flight: 0,
        leases: totals.leases,
        leases_given: totals.leases_given,
        leases_lost: totals.leases_lost,
        accepted: totals.accepted,
        rejected: totals.rejected,
        superseded: totals.superseded,
        result_bytes: totals.result_bytes,
    };
    for job in app.db.running().await? {
        queue.jobs += 1;
        if let Some(progress) = app.core.progress(job.id).await? {
            queue.units_free += u64::from(progress.free);
            queue.units_in_flight += u64::from(progress.in_flight);
        }
    }
    let (store, data) = (Arc::clone(&app.operator.store), app.config.data.clone());
    let mut store = tokio::task::spawn_blocking(move || store.of(&data)).await.map_err(ApiError::internal)?;
    if let Some(bytes) = app.db.bytes_on_server().await? {
        store.iter_mut().filter(|part| part.part == DATABASE).for_each(|part| part.bytes = bytes);
    }
    if app.config.blobs.is_some() {
        store.iter_mut().filter(|part| part.part == BLOBS).for_each(|part| part.partial = true);
    }
    Ok(Json(OperatorView {
        uptime_s: app.operator.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        memory_bytes: metrics::resident_bytes(),
        sessions: SessionCounts {
            open: totals.sessions,
            consenting: totals.consenting,
            in_mesh: totals.mesh.members,
            refused: totals.refused,
        },
        queue,
        rejects: app.db.rejects_by_reason(wall_ms().saturating_sub(DAY_MS)).await?,
        bandwidth: Bandwidth {
            inputs_sent: totals.inputs_served,
            saved_by_peers: totals.saved(),
            through_turn: app.turn.totals().bytes,
        },
        store,
        errors: failures::recent(),
        kernels: kernels(),
        off: app.db.switched_off().await?,
    }))
}

/// Switches a kernel, a project or a site off or on, at once and for good; all that is off then.
#[utoipa::path(post, path = "/api/v1/operator/switches", request_body = NewSwitch,
    responses((status = 200, body = Vec<SwitchedOff>), (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn switch(
    State(app): Shared,
    headers: HeaderMap,
    body: Result<Json<NewSwitch>, JsonRejection>,
) -> Answer<Vec<SwitchedOff>> {
    authorize(&app, &headers)?;
    let Json(NewSwitch { kind, name, off }) = body.map_err(|error| no_switch(error.body_text()))?;
    let known = SwitchKind::named(&kind).filter(|kind| kind.can_name(&name));
    let kind = known.ok_or_else(|| no_switch(format!("no {kind} has the name {name:?}")))?;
    let _turning = app.operator.turning.lock().await;
    if off && app.switches.is_full(kind) {
        let most = if kind == SwitchKind::Team { MAX_TEAMS_OFF } else { MAX_OFF };
        let message = format!("{most} things of this kind are off, which are the most");
        let hint = "switch something on that need not be off any more";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "too_many_switches", message, hint));
    }
    app.db.switch(kind, &name, off).await?;
    app.switches.set(kind, &name, off);
    tracing::warn!(?kind, name, off, "the operator switched something");
    app.core.input(Input::Switched(app.switches.switches())).await?;
    app.runs.look_again();
    Ok(Json(app.db.switched_off().await?))
}

fn no_switch(message: impl Into<String>) -> ApiError {
    let hint = format!(
        "send a kind and a name: kernel ({}), project (an id of 32 hexadecimal digits), site (an origin such as \
         https://school.example) or team (its name)",
        kernels().join(", ")
    );
    ApiError::new(StatusCode::BAD_REQUEST, "no_such_switch", message, &hint)
}

fn authorize(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let said = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token::matches(&app.operator.token, token::Of::Admin, said) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "admin_token_needed",
        "the admin's token is missing or wrong",
        "send `Authorization: Bearer TOKEN`; it is in the file admin-token in the relay's data folder",
    ))
}

impl Db {
    /// Refused results by reason, and how many of them since a time.
    ///
    /// # Errors
    /// What the database says.
    async fn rejects_by_reason(&self, since_ms: i64) -> Result<Vec<RejectCount>, DbError> {
        let rows = sqlx::query(
            "SELECT reason, COUNT(*), SUM(CASE WHEN rejected_ms >= $1 THEN 1 ELSE 0 END) FROM rejected GROUP BY reason ORDER BY 2 DESC, 1 LIMIT $2",
        )
        .bind(since_ms)
        .bind(MAX_REASONS)
        .fetch_all(&self.pool)
        .await?;
        let number = |row: &sqlx::any::AnyRow, at: usize| row.try_get::<i64, _>(at).map(i64::cast_unsigned);
        rows.iter()
            .map(|row| {
                Ok(RejectCount { reason: row.try_get(0)?, count: number(row, 1)?, last_day: number(row, 2)? })
            })
            .collect()
    }

    /// How many evals are under way.
    ///
    /// # Errors
    /// What the database says.
    async fn evals_under_way(&self) -> Result<u64, DbError> {
        let row = sqlx::query("SELECT COUNT(*) FROM candidates WHERE state = 'evaluating'")
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
    }
}
