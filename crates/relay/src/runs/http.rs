//! The runs' part of the HTTP API: thin handlers. What a round was made of is public; only runs are created, paused and
//! ended with the submitter's token.

use super::api::{
    DataSetInfo, NewRun, ParametersInfo, RoundRecord, RunHash, RunInfo, RunSample, UpdateRecord,
};
use super::intake::{self, le_bytes};
use super::manifest::ManifestInfo;
use super::parameters::parameters_after;
use super::sample::sample;
use super::store::{RunRow, RunState};
use crate::api::{ApiError, RawFile};
use crate::http::{Answer, App, Id, Shared, Waiting, bad, idempotency_key};
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use potluck_model::MAX_TOKENIZER_BYTES;
use potluck_rounds::sizes;
use potluck_schedule::{Input, RunInput, RunPhase};
use potluck_types::{BlobHash, JobId};
use serde::Deserialize;
use std::sync::Arc;

/// Body of a request that creates a run: a tokenizer, written as a JSON text, and little else.
const MAX_RUN_BYTES: usize = 2 * MAX_TOKENIZER_BYTES;

/// The runs' routes.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/datasets", post(upload_dataset).layer(DefaultBodyLimit::disable()))
        .route("/api/v1/datasets/{id}/blocks", get(get_blocks))
        .route("/api/v1/datasets/{id}/parts", get(get_parts))
        .route("/api/v1/parameters", post(upload_parameters).layer(DefaultBodyLimit::disable()))
        .route("/api/v1/runs", get(list_runs).post(create_run).layer(DefaultBodyLimit::max(MAX_RUN_BYTES)))
        .route("/api/v1/runs/hash", post(hash_run).layer(DefaultBodyLimit::max(MAX_RUN_BYTES)))
        .route("/api/v1/runs/{id}", get(get_run).delete(cancel_run))
        .route("/api/v1/runs/{id}/request", get(get_request))
        .route("/api/v1/runs/{id}/pause", post(pause_run))
        .route("/api/v1/runs/{id}/resume", post(resume_run))
        .route("/api/v1/runs/{id}/rounds/{round}", get(get_round))
        .route("/api/v1/runs/{id}/rounds/{round}/parameters", get(get_parameters))
        .route("/api/v1/runs/{id}/tokenizer", get(get_tokenizer))
        .route("/api/v1/runs/{id}/start", get(get_start))
        .route("/api/v1/runs/{id}/sample", get(get_sample))
        .route("/api/v1/blobs/{hash}", get(get_blob))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Vocabulary {
    vocabulary: u32,
    /// The body begins with a line of JSON about the data set.
    #[serde(default)]
    manifest: bool,
}

fn busy() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "too many uploads at once",
        "try again in a few seconds",
    )
}

fn not_found(what: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no such {what}"),
        "list the runs with GET /api/v1/runs",
    )
}

/// Upload a data set: tokens, little-endian, two bytes each, or four if the vocabulary has more than 65,536. With
/// `manifest=true` a line of JSON comes first, which says what the data set is: see `NewManifest`.
#[utoipa::path(post, path = "/api/v1/datasets",
    params(("vocabulary" = u32, Query), ("manifest" = Option<bool>, Query)),
    request_body(content = RawFile, content_type = "application/octet-stream"),
    responses((status = 201, body = DataSetInfo), (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 413, body = ApiError), (status = 422, body = ApiError), (status = 503, body = ApiError)))]
pub(crate) async fn upload_dataset(
    State(app): Shared,
    headers: HeaderMap,
    query: Result<Query<Vocabulary>, QueryRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let Query(Vocabulary { vocabulary, manifest }) =
        query.map_err(|error| bad(error.body_text(), "give the size of the vocabulary: ?vocabulary=65"))?;
    let _slot = app.uploads.try_acquire().map_err(|_| busy())?;
    let info = intake::receive_dataset(&app, vocabulary, manifest, body).await?;
    Ok((StatusCode::CREATED, Json(info)).into_response())
}

/// Upload parameters to start a run from: f32, little-endian, in the order of the model's layout.
#[utoipa::path(post, path = "/api/v1/parameters",
    request_body(content = RawFile, content_type = "application/octet-stream"),
    responses((status = 201, body = ParametersInfo), (status = 401, body = ApiError), (status = 413, body = ApiError),
        (status = 422, body = ApiError), (status = 503, body = ApiError)))]
pub(crate) async fn upload_parameters(
    State(app): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let _slot = app.uploads.try_acquire().map_err(|_| busy())?;
    let info = intake::receive_parameters(&app, body).await?;
    Ok((StatusCode::CREATED, Json(info)).into_response())
}

/// Create a run. With an `Idempotency-Key` header a repeated request returns the same run.
#[utoipa::path(post, path = "/api/v1/runs", request_body = NewRun, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = RunInfo), (status = 200, body = RunInfo), (status = 400, body = ApiError),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 409, body = ApiError),
        (status = 422, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn create_run(
    State(app): Shared,
    headers: HeaderMap,
    body: Result<Json<NewRun>, JsonRejection>,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let Json(new) =
        body.map_err(|error| bad(error.body_text(), "see /api/openapi.json for the fields of a run"))?;
    let key = idempotency_key(&headers)?;
    if new.tokenizer.as_ref().is_some_and(|text| text.len() > MAX_TOKENIZER_BYTES) {
        let what = format!("a tokenizer may have {MAX_TOKENIZER_BYTES} bytes");
        return Err(bad(what, "use one with a smaller vocabulary"));
    }
    let known = match key {
        Some(key) => app.db.run_of_key(key).await?,
        None => None,
    };
    let (status, id) = match known {
        Some(id) => {
            let asked = NewRun { tokenizer: None, ..new };
            if find(&app, &id).await?.request != asked {
                return Err(ApiError::new(
                    StatusCode::CONFLICT,
                    "key_reused",
                    "another run was created with this idempotency key",
                    "use a new key for a new run",
                ));
            }
            (StatusCode::OK, id)
        }
        None => (StatusCode::CREATED, intake::create(&app, new, key).await?),
    };
    let info = info(&app, &find(&app, &id).await?, true).await?;
    Ok((status, Json(info)).into_response())
}

/// The hash under which a proposal names a run, before there is one: send what would create it, without the proposal.
#[utoipa::path(post, path = "/api/v1/runs/hash", request_body = NewRun,
    responses((status = 200, body = RunHash), (status = 400, body = ApiError), (status = 422, body = ApiError)))]
pub(crate) async fn hash_run(body: Result<Json<NewRun>, JsonRejection>) -> Answer<RunHash> {
    let Json(new) =
        body.map_err(|error| bad(error.body_text(), "see /api/openapi.json for the fields of a run"))?;
    intake::check(&new)?;
    let request = new.request_text(new.tokenizer_hash());
    Ok(Json(RunHash { hash: BlobHash::of(request.as_bytes()).to_string(), request }))
}

/// What a run was asked for: the text whose BLAKE3 hash its entry in the log names.
#[utoipa::path(get, path = "/api/v1/runs/{id}/request", params(("id" = String, Path)),
    responses((status = 200, body = String, content_type = "application/json"), (status = 404, body = ApiError)))]
pub(crate) async fn get_request(State(app): Shared, id: Id) -> Result<Response, ApiError> {
    let run = find(&app, &parse_id(id)?).await?;
    let text = run.request.request_text(run.tokenizer);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// List runs, newest first, without their rounds.
#[utoipa::path(get, path = "/api/v1/runs", responses((status = 200, body = Vec<RunInfo>)))]
pub(crate) async fn list_runs(State(app): Shared) -> Answer<Vec<RunInfo>> {
    let mut runs = Vec::new();
    for row in app.db.runs().await? {
        runs.push(info(&app, &row, false).await?);
    }
    Ok(Json(runs))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    wait_ms: Option<u64>,
    /// Rounds that the client knows of: the answer waits for more.
    seen_round: Option<u64>,
}

/// One run with its rounds. With `wait_ms` the answer waits for the run's end, or for more rounds than `seen_round`, at
/// most 30 s.
#[utoipa::path(get, path = "/api/v1/runs/{id}",
    params(("id" = String, Path), ("wait_ms" = Option<u64>, Query), ("seen_round" = Option<u64>, Query)),
    responses((status = 200, body = RunInfo), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub(crate) async fn get_run(
    State(app): Shared,
    id: Id,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Answer<RunInfo> {
    let id = parse_id(id)?;
    let Query(wait) =
        wait.map_err(|error| bad(error.body_text(), "each of wait_ms and seen_round is a whole number"))?;
    let mut waiting = Waiting::new(&app, wait.wait_ms);
    loop {
        waiting.look();
        let row = find(&app, &id).await?;
        let ended = matches!(row.state, RunState::Done | RunState::Canceled);
        let news = wait.seen_round.is_some_and(|seen| row.round > seen);
        if ended || news || !waiting.changed().await {
            return Ok(Json(info(&app, &find(&app, &id).await?, true).await?));
        }
    }
}

/// Cancel a run. Volunteers stop; the rounds that are closed stay.
#[utoipa::path(delete, path = "/api/v1/runs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = RunInfo), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError)))]
pub(crate) async fn cancel_run(State(app): Shared, headers: HeaderMap, id: Id) -> Answer<RunInfo> {
    app.authorize(&headers)?;
    let row = find(&app, &parse_id(id)?).await?;
    if app.db.set_run_state(&row.id, RunState::Canceled, None).await? {
        app.core.input(Input::Run(RunInput::Canceled { run: row.id })).await?;
        app.runs.forget(&row.id);
    } else if row.state == RunState::Done {
        return Err(conflict("already_done", "the run is done", "export its model"));
    }
    Ok(Json(info(&app, &find(&app, &row.id).await?, true).await?))
}

/// Pause a run. A round that is being closed is closed first; any other is given up.
#[utoipa::path(post, path = "/api/v1/runs/{id}/pause", params(("id" = String, Path)),
    responses((status = 200, body = RunInfo), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError)))]
pub(crate) async fn pause_run(State(app): Shared, headers: HeaderMap, id: Id) -> Answer<RunInfo> {
    app.authorize(&headers)?;
    let row = find(&app, &parse_id(id)?).await?;
    if !app.db.set_run_state(&row.id, RunState::Paused, Some("its submitter paused it")).await? {
        return Err(conflict("ended", "the run has ended", "submit another one"));
    }
    app.core.input(Input::Run(RunInput::Paused { run: row.id })).await?;
    Ok(Json(info(&app, &find(&app, &row.id).await?, true).await?))
}

/// Let a paused run go on.
#[utoipa::path(post, path = "/api/v1/runs/{id}/resume", params(("id" = String, Path)),
    responses((status = 200, body = RunInfo), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError)))]
pub(crate) async fn resume_run(State(app): Shared, headers: HeaderMap, id: Id) -> Answer<RunInfo> {
    app.authorize(&headers)?;
    let row = find(&app, &parse_id(id)?).await?;
    if let Some(reason) = paused_by_log(&app, row.id).await? {
        let hint = "stewards end it: `potluck resume PAUSE --key FILE`; otherwise it expires";
        return Err(conflict("paused_by_log", &reason, hint));
    }
    if app.core.run_progress(row.id).await?.is_none() {
        // It could not go on when the relay started.
        let row = RunRow { state: RunState::Running, ..row.clone() };
        app.runs.resume_one(&app.core, &app.config.data, &row).await?;
    }
    if !app.db.set_run_state(&row.id, RunState::Running, None).await? {
        return Err(conflict("ended", "the run has ended", "submit another one"));
    }
    app.core.input(Input::Run(RunInput::Resumed { run: row.id })).await?;
    app.runs.look_again();
    Ok(Json(info(&app, &find(&app, &row.id).await?, true).await?))
}

/// Why the log pauses a run, if it does.
async fn paused_by_log(app: &App, run: JobId) -> Result<Option<String>, ApiError> {
    let reason = |state: &potluck_governance::State| {
        let pause = state.paused(run, crate::log::now_ms(state))?;
        Some(super::governor::reason(state, pause))
    };
    Ok(app.log.state(reason).await?)
}

fn conflict(code: &str, message: &str, hint: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, code, message, hint)
}

type Round = Result<Path<(String, String)>, PathRejection>;

/// A run's id and a number of rounds. Whatever names neither is not found.
fn parse_round(path: Round) -> Result<(JobId, u64), ApiError> {
    let parsed = path.ok().and_then(|Path((id, round))| Some((id.parse().ok()?, round.parse().ok()?)));
    parsed.ok_or_else(|| not_found("round"))
}

/// Names of a data set's blocks, in order: what anybody needs who repeats a round of whose update there is no record. The
/// data set's id follows from them.
#[utoipa::path(get, path = "/api/v1/datasets/{id}/blocks", params(("id" = String, Path)),
    responses((status = 200, body = Vec<String>), (status = 404, body = ApiError)))]
pub(crate) async fn get_blocks(
    State(app): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Answer<Vec<String>> {
    let id = path.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| not_found("data set"))?;
    let names = app.db.block_names(&id).await?;
    if names.is_empty() {
        return Err(not_found("data set"));
    }
    Ok(Json(names.iter().map(ToString::to_string).collect()))
}

/// What is said about a data set: name, source, license, and its parts with the tokens of each.
#[utoipa::path(get, path = "/api/v1/datasets/{id}/parts", params(("id" = String, Path)),
    responses((status = 200, body = ManifestInfo), (status = 404, body = ApiError)))]
pub(crate) async fn get_parts(
    State(app): Shared,
    path: Result<Path<String>, PathRejection>,
) -> Answer<ManifestInfo> {
    let id = path.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| not_found("data set"))?;
    let row = app.db.dataset(&id).await?.ok_or_else(|| not_found("data set"))?;
    Ok(Json(app.db.manifest(&id).await?.map_or_else(|| ManifestInfo::unstated(&row), |found| found.info())))
}

/// The record of a closed round: enough to repeat it.
#[utoipa::path(get, path = "/api/v1/runs/{id}/rounds/{round}", params(("id" = String, Path), ("round" = u64, Path)),
    responses((status = 200, body = RoundRecord), (status = 404, body = ApiError)))]
pub(crate) async fn get_round(State(app): Shared, path: Round) -> Answer<RoundRecord> {
    let (id, number) = parse_round(path)?;
    let mut rounds = app.db.rounds(&id, number).await?;
    let Some(round) = (!rounds.is_empty()).then(|| rounds.swap_remove(0)).filter(|row| row.round == number)
    else {
        return Err(not_found("round"));
    };
    let mut updates = Vec::new();
    for row in app.db.updates(&id, number).await? {
        updates.push(UpdateRecord {
            worker: row.worker,
            volunteer: row.volunteer.to_string(),
            backend: crate::names::backend(row.backend).to_owned(),
            weight: f64::from(row.weight) / 1e6,
            audited: row.audited,
            result: row.result.hash.to_string(),
            task: serde_json::from_str(&row.task).map_err(ApiError::internal)?,
            verdict: row.verdict,
        });
    }
    Ok(Json(RoundRecord {
        round: round.round,
        parameters_hash: round.parameters.to_string(),
        next_parameters_hash: round.next_parameters.to_string(),
        step: round.step.hash.to_string(),
        checkpoint: round.checkpoint.map(|checkpoint| checkpoint.hash.to_string()),
        updates,
        combined: round.combined,
    }))
}

/// The parameters after so many rounds: f32, little-endian. Rebuilt from the last checkpoint and the steps since, as
/// volunteers do.
#[utoipa::path(get, path = "/api/v1/runs/{id}/rounds/{round}/parameters",
    params(("id" = String, Path), ("round" = u64, Path)),
    responses((status = 200, body = RawFile, content_type = "application/octet-stream"), (status = 404, body = ApiError)))]
pub(crate) async fn get_parameters(State(app): Shared, path: Round) -> Result<Response, ApiError> {
    let (id, after) = parse_round(path)?;
    let run = find(&app, &id).await?;
    if after > run.round {
        return Err(not_found("round"));
    }
    // Anybody may ask for this: it must not keep submitters waiting.
    let _slot = app.rebuilds.acquire().await.map_err(ApiError::internal)?;
    let bytes = le_bytes(&parameters_after(&app.db, &app.blobs, &run, after).await?);
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// The run's `tokenizer.json`.
#[utoipa::path(get, path = "/api/v1/runs/{id}/tokenizer", params(("id" = String, Path)),
    responses((status = 200, body = String, content_type = "application/json"), (status = 404, body = ApiError)))]
pub(crate) async fn get_tokenizer(State(app): Shared, id: Id) -> Result<Response, ApiError> {
    let run = find(&app, &parse_id(id)?).await?;
    let Some(hash) = run.tokenizer else { return Err(not_found("tokenizer")) };
    let bytes = app.blobs.get(&hash).await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

/// The uploaded parameters that the run started from, before they were rounded: f32, little-endian. A run that started
/// from fresh ones has none: they follow from its seed.
#[utoipa::path(get, path = "/api/v1/runs/{id}/start", params(("id" = String, Path)),
    responses((status = 200, body = RawFile, content_type = "application/octet-stream"), (status = 404, body = ApiError)))]
pub(crate) async fn get_start(State(app): Shared, id: Id) -> Result<Response, ApiError> {
    let run = find(&app, &parse_id(id)?).await?;
    let init = run.request.init.as_deref().and_then(|init| init.parse().ok());
    let init = init.ok_or_else(|| not_found("upload: the run started from fresh parameters"))?;
    // Anybody may ask for this: it must not keep submitters waiting.
    let _slot = app.rebuilds.acquire().await.map_err(ApiError::internal)?;
    let bytes = intake::uploaded(&app.blobs, &app.config.data, &init).await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// What the run's model writes after a fixed prompt, with the parameters of its last round, or of one that was closed some
/// seconds ago.
#[utoipa::path(get, path = "/api/v1/runs/{id}/sample", params(("id" = String, Path)),
    responses((status = 200, body = RunSample), (status = 404, body = ApiError), (status = 422, body = ApiError),
        (status = 503, body = ApiError)))]
pub(crate) async fn get_sample(State(app): Shared, id: Id) -> Answer<RunSample> {
    let run = find(&app, &parse_id(id)?).await?;
    Ok(Json(sample(&app, run).await?))
}

/// A blob of a run: tokens, checkpoint, step, or what a worker sent.
#[utoipa::path(get, path = "/api/v1/blobs/{hash}", params(("hash" = String, Path)),
    responses((status = 200, body = RawFile, content_type = "application/octet-stream"), (status = 404, body = ApiError)))]
pub(crate) async fn get_blob(State(app): Shared, hash: Id) -> Result<Response, ApiError> {
    let hash: Option<BlobHash> = hash.ok().and_then(|Path(hash)| hash.parse().ok());
    let hash = hash.ok_or_else(|| not_found("blob"))?;
    if !app.db.is_public(&hash).await? {
        return Err(not_found("blob"));
    }
    let bytes = app.blobs.get(&hash).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found("blob"),
        _ => ApiError::internal(error),
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, bytes).into_response())
}

fn parse_id(id: Id) -> Result<JobId, ApiError> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| not_found("run"))
}

async fn find(app: &App, id: &JobId) -> Result<RunRow, ApiError> {
    app.db.run(id).await?.ok_or_else(|| not_found("run"))
}

pub(crate) async fn info(app: &App, row: &RunRow, history: bool) -> Result<RunInfo, ApiError> {
    let progress = match row.state {
        RunState::Running | RunState::Paused => app.core.run_progress(row.id).await?,
        RunState::Done | RunState::Canceled => None,
    };
    let workers = progress.map_or(0, |progress| match progress.phase {
        RunPhase::Gathering => progress.asking,
        _ => progress.leased + progress.delivered,
    });
    let request = &row.request;
    let by_log = match row.state {
        RunState::Running => paused_by_log(app, row.id).await?,
        _ => None,
    };
    let state = if by_log.is_some() { RunState::Paused } else { row.state };
    Ok(RunInfo {
        id: row.id.to_string(),
        name: request.name.clone(),
        state: state.name().to_owned(),
        reason: by_log.or_else(|| row.reason.clone()),
        model_name: request.model_name.clone(),
        proposal: request.proposal.clone(),
        model: request.model,
        round: row.round,
        rounds: request.rounds,
        phase: progress.map(|progress| phase(progress.phase).to_owned()),
        workers,
        min_workers: request.min_workers,
        parameters: sizes::model(&request.model.into()).parameters() as u64,
        train: request.train.clone(),
        history: if history { app.db.history(&row.id).await? } else { Vec::new() },
    })
}

const fn phase(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Preparing => "preparing",
        RunPhase::Gathering => "gathering",
        RunPhase::Open => "open",
        RunPhase::Auditing => "auditing",
        RunPhase::Closing => "closing",
        RunPhase::Paused => "paused",
    }
}
