//! The HTTP API: thin handlers, every one of them in the OpenAPI document.

use crate::api::{
    ApiError, Contributor, Health, JobDetail, JobInfo, LinkInfo, MatrixInfo, NewJob, PeerInfo, Peers,
    Progress, RawFile, Rejection, WellKnown,
};
use crate::assemble::Assembly;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::core::{Core, Gone};
use crate::db::{Db, JobRow, JobState, wall_ms};
use crate::embed::Embed;
use crate::evals::Evals;
use crate::log::Log;
use crate::log::limits::Limits;
use crate::runs::{self, Runs};
use crate::switches::{SwitchKind, Switchboard};
use crate::turn::TurnServers;
use crate::{metrics, names, session, site, token, uploads, views};
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use potluck_schedule::Input;
use potluck_types::limits::{
    MAX_ACTIVE_JOBS, MAX_CONSENT, MAX_FRAME_BYTES, MAX_JOB_NAME_CHARS, MAX_MATRIX_BYTES,
};
use potluck_types::{BlobHash, DType, JobId, SessionId};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;

/// Uploads that may run at once: each holds one file handle and a small buffer.
const MAX_UPLOADS: usize = 8;
/// Jobs that may be cut at once: each holds up to three blocks of 32 MiB.
const MAX_INGESTS: usize = 1;
/// Parameters of past rounds that may be rebuilt at once: each holds two vectors of the model's size.
const MAX_REBUILDS: usize = 1;
/// Longest time that a request for a job's state may wait for a change.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Body of a request that creates a job.
const MAX_JSON_BYTES: usize = 64 << 10;
/// Longest idempotency key.
const MAX_KEY_CHARS: usize = 128;

/// A frame that exceeds the protocol's limit by up to this much is read, so that its sender can be told why it is
/// refused; a larger one ends the connection unread.
const OVERSIZE_BYTES: usize = 64 << 10;
/// What is read of a volunteer's socket at once, in bytes. Each session holds a buffer of this length, and each reading clears
/// it first; control messages are far shorter, and a chunk of a result takes 64 readings.
const SOCKET_READ_BYTES: usize = 4 << 10;

/// What volunteers may be asked to compute.
pub(crate) fn kernels() -> Vec<String> {
    potluck_schedule::Kernel::ALL.map(|kernel| kernel.name().to_owned()).into()
}

/// What handlers share.
pub(crate) struct App {
    pub(crate) core: Core,
    pub(crate) db: Db,
    pub(crate) log: Log,
    /// How it goes with following another relay, if it does.
    pub(crate) mirror: Option<crate::mirror::Status>,
    pub(crate) blobs: Blobs,
    pub(crate) runs: Runs,
    pub(crate) evals: Evals,
    pub(crate) turn: TurnServers,
    pub(crate) config: Config,
    pub(crate) token: blake3::Hash,
    pub(crate) operator: views::operator::Operator,
    pub(crate) incarnation: u32,
    pub(crate) next_session: AtomicU64,
    pub(crate) uploads: Semaphore,
    pub(crate) ingests: Semaphore,
    pub(crate) rebuilds: Semaphore,
    pub(crate) samples: runs::sample::Samples,
    pub(crate) limits: Limits,
    pub(crate) embed: Embed,
    pub(crate) board: crate::views::leaders::Board,
    pub(crate) switches: Switchboard,
}

impl App {
    pub(crate) const fn upload_slots() -> Semaphore {
        Semaphore::const_new(MAX_UPLOADS)
    }

    pub(crate) const fn ingest_slots() -> Semaphore {
        Semaphore::const_new(MAX_INGESTS)
    }

    pub(crate) const fn rebuild_slots() -> Semaphore {
        Semaphore::const_new(MAX_REBUILDS)
    }

    pub(crate) fn matrix_path(&self, hash: &BlobHash) -> PathBuf {
        matrix_path(&self.config.data, hash)
    }

    pub(crate) fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if token::matches(&self.token, token::Of::Submitter, header) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "token_needed",
            "the submitter's token is missing or wrong",
            "send `Authorization: Bearer TOKEN`; the relay printed the path of its token file when it started",
        ))
    }
}

/// Where an uploaded matrix lies in the data folder.
pub(crate) fn matrix_path(data: &std::path::Path, hash: &BlobHash) -> PathBuf {
    data.join("matrices").join(format!("{hash}.npy"))
}

impl From<Gone> for ApiError {
    fn from(_: Gone) -> Self {
        Self::shutting_down()
    }
}

pub(crate) type Shared = State<Arc<App>>;
pub(crate) type Id = Result<Path<String>, PathRejection>;
pub(crate) type Answer<T> = Result<Json<T>, ApiError>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Potluck relay",
        description = "Submit matrix products and training runs, watch them, fetch results."
    ),
    paths(
        upload_matrix,
        create_job,
        list_jobs,
        get_job,
        cancel_job,
        get_result,
        runs::http::upload_dataset,
        runs::http::get_blocks,
        runs::http::get_parts,
        runs::http::upload_parameters,
        runs::http::list_runs,
        runs::http::create_run,
        runs::http::hash_run,
        runs::http::get_request,
        runs::http::get_run,
        runs::http::cancel_run,
        runs::http::pause_run,
        runs::http::resume_run,
        runs::http::get_round,
        runs::http::get_parameters,
        runs::http::get_tokenizer,
        runs::http::get_start,
        runs::http::get_sample,
        runs::http::get_blob,
        crate::evals::http::create_candidate,
        crate::evals::http::list_candidates,
        crate::evals::http::get_candidate,
        crate::evals::http::sample_candidate,
        volunteer,
        health,
        get_metrics,
        get_peers,
        crate::log::http::get_file,
        crate::log::http::get_log,
        crate::log::http::get_consistency,
        crate::log::http::say,
        crate::log::http::found,
        crate::log::http::cosign,
        crate::log::receipts::get_receipt,
        crate::log::receipts::get_job_receipt,
        crate::log::receipts::get_candidate_receipts,
        crate::log::receipts::list_receipts,
        crate::log::effects::promote,
        crate::log::effects::roll_back,
        crate::log::effects::change_roles,
        crate::log::effects::amend,
        crate::log::effects::set_parameter,
        crate::log::effects::allow_kernel,
        crate::log::effects::approve_data_set,
        crate::log::effects::list_mirrors,
        crate::log::forks::report,
        crate::log::pages::get_governance,
        crate::log::pages::list_models,
        crate::log::pages::get_model,
        crate::log::pages::list_proposals,
        crate::log::pages::get_proposal,
        crate::mirror::http::get_mirrors,
        crate::embed::http::get_embedder,
        views::projects::list_projects,
        views::projects::get_project,
        views::leaders::get_leaders,
        views::results::get_map,
        views::results::get_contributors,
        views::operator::get_operator,
        views::operator::switch,
        openapi,
        well_known
    ),
    components(schemas(runs::manifest::NewManifest))
)]
struct Document;

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/v1/matrices", post(upload_matrix).layer(DefaultBodyLimit::disable()))
        .route("/api/v1/jobs", get(list_jobs).post(create_job).layer(DefaultBodyLimit::max(MAX_JSON_BYTES)))
        .route("/api/v1/jobs/{id}", get(get_job).delete(cancel_job))
        .route("/api/v1/jobs/{id}/result", get(get_result))
        .route("/api/v1/volunteer", any(volunteer))
        .route("/api/openapi.json", get(openapi))
        .route("/healthz", get(health))
        .route("/metrics", get(get_metrics))
        .route("/api/v1/peers", get(get_peers))
        .route("/.well-known/potluck.json", get(well_known).layer(map_response(site::shared)))
        .merge(runs::http::router())
        .merge(crate::evals::http::router())
        .merge(crate::log::http::router(&app))
        .merge(views::router(&app))
        .merge(crate::mirror::http::router())
        .merge(crate::embed::http::router(&app))
        .fallback(site::serve)
        .with_state(app)
}

/// Upload a matrix as `.npy`. The same file again is the same matrix.
#[utoipa::path(post, path = "/api/v1/matrices", request_body(content = RawFile, content_type = "application/octet-stream"),
    responses((status = 201, body = MatrixInfo), (status = 401, body = ApiError), (status = 413, body = ApiError),
        (status = 422, body = ApiError), (status = 503, body = ApiError)))]
async fn upload_matrix(State(app): Shared, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let _slot = app.uploads.try_acquire().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many uploads at once",
            "try again in a few seconds",
        )
    })?;
    let (hash, header, bytes) = uploads::receive(&app, body).await?;
    let info =
        MatrixInfo { id: hash.to_string(), shape: header.shape, dtype: header.element.to_string(), bytes };
    Ok((StatusCode::CREATED, Json(info)).into_response())
}

/// Create a job. With an `Idempotency-Key` header a repeated request returns the same job.
#[utoipa::path(post, path = "/api/v1/jobs", request_body = NewJob, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = JobInfo), (status = 200, body = JobInfo), (status = 400, body = ApiError),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 409, body = ApiError),
        (status = 422, body = ApiError), (status = 429, body = ApiError)))]
async fn create_job(
    State(app): Shared,
    headers: HeaderMap,
    body: Result<Json<NewJob>, JsonRejection>,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let Json(new) =
        body.map_err(|error| bad(error.body_text(), "see /api/openapi.json for the fields of a job"))?;
    let key = idempotency_key(&headers)?;
    if new.kind != "matmul" {
        return Err(bad(format!("jobs of kind {:?} do not exist", clip(&new.kind)), "use kind \"matmul\""));
    }
    let dtype: DType = new.dtype.as_deref().unwrap_or("f32").parse().map_err(
        |error: potluck_types::matrix::ParseDTypeError| bad(error.to_string(), "use \"f32\" or \"int8\""),
    )?;
    let name = new.name.as_deref().unwrap_or("matrix product").trim();
    if name.is_empty() || name.chars().count() > MAX_JOB_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(bad("the name is not 1 to 80 printable characters".into(), "choose a shorter name"));
    }
    let matrix = |id: &str| {
        id.parse::<BlobHash>().map_err(|error| {
            bad(format!("{:?} is no matrix id: {error}", clip(id)), "upload it with POST /api/v1/matrices")
        })
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(ApiError::internal)?;
    let draft = uploads::Draft {
        id: JobId(id),
        name: name.to_owned(),
        dtype,
        a: matrix(&new.a)?,
        b: matrix(&new.b)?,
        transpose_b: new.transpose_b,
        created_ms: wall_ms(),
    };
    if let Some(key) = key
        && let Some(known) = app.db.job_of_key(key).await?
    {
        return repeated(&app, &draft, &known).await;
    }
    for hash in [draft.a, draft.b] {
        if !app.blobs.fetch(&app.config.data, &app.matrix_path(&hash)).await.map_err(ApiError::internal)? {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "unknown_matrix",
                format!("matrix {hash} was not uploaded"),
                "upload it with POST /api/v1/matrices",
            ));
        }
    }
    if app.db.running().await?.len() >= MAX_ACTIVE_JOBS {
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_jobs",
            format!("{MAX_ACTIVE_JOBS} jobs are running"),
            "wait for one, or cancel one",
        ));
    }
    let (row, spec, held) = uploads::cut(&app, draft.clone()).await?;
    let id = app.db.add_job(&app.log, &row, &spec, key).await?;
    if id != row.id {
        // Another request with the key was first.
        return repeated(&app, &draft, &id).await;
    }
    tracing::info!(job = %id, m = row.shape.m, k = row.shape.k, n = row.shape.n, "job created");
    app.blobs.hold(id, held);
    app.core.input(Input::JobAdded { job: spec, accepted: Vec::new() }).await?;
    Ok((StatusCode::CREATED, Json(info(&app, &id).await?)).into_response())
}

/// The answer to a request whose key is known: the job, if it is the same job.
async fn repeated(app: &App, draft: &uploads::Draft, known: &JobId) -> Result<Response, ApiError> {
    let row = find(app, known).await?;
    let same =
        (row.a, row.b, row.transpose_b, row.dtype) == (draft.a, draft.b, draft.transpose_b, draft.dtype);
    if same && row.name == draft.name {
        return Ok(Json(info(app, known).await?).into_response());
    }
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "key_reused",
        "another job was created with this idempotency key",
        "use a new key for a new job",
    ))
}

/// The key under which a request may be repeated.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= MAX_KEY_CHARS);
    key.map(Some)
        .ok_or_else(|| bad("the idempotency key is not 1 to 128 characters".into(), "use a random UUID"))
}

pub(crate) fn bad(message: String, hint: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message, hint)
}

/// A text from outside, short enough to be repeated in an error.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

/// List jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", responses((status = 200, body = Vec<JobInfo>), (status = 401, body = ApiError)))]
async fn list_jobs(State(app): Shared, headers: HeaderMap) -> Answer<Vec<JobInfo>> {
    app.authorize(&headers)?;
    let mut jobs = Vec::new();
    for row in app.db.jobs().await? {
        let progress = if row.state == JobState::Running { app.core.progress(row.id).await? } else { None };
        jobs.push(job_info(&row, progress.map(progress_info)));
    }
    Ok(Json(jobs))
}

#[derive(Debug, Deserialize)]
struct Wait {
    wait_ms: Option<u64>,
    /// Units accepted that the client knows of: the answer waits for more.
    seen: Option<u32>,
}

/// One job, with its contributors. With `wait_ms` the answer waits for the job's end, or for more accepted
/// units than `seen`, at most 30 s.
#[utoipa::path(get, path = "/api/v1/jobs/{id}",
    params(("id" = String, Path), ("wait_ms" = Option<u64>, Query), ("seen" = Option<u32>, Query)),
    responses((status = 200, body = JobDetail), (status = 401, body = ApiError), (status = 404, body = ApiError)))]
async fn get_job(
    State(app): Shared,
    headers: HeaderMap,
    id: Id,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Answer<JobDetail> {
    app.authorize(&headers)?;
    let id = parse_id(id)?;
    let Query(wait) =
        wait.map_err(|error| bad(error.body_text(), "each of wait_ms and seen is a whole number"))?;
    let mut waiting = Waiting::new(&app, wait.wait_ms);
    loop {
        waiting.look();
        let job = info(&app, &id).await?;
        let news = match (wait.seen, job.progress) {
            (Some(seen), Some(progress)) => progress.accepted > seen,
            _ => false,
        };
        if job.state != JobState::Running.name() || news || !waiting.changed().await {
            return Ok(Json(detail(&app, &id, info(&app, &id).await?).await?));
        }
    }
}

/// A request that waits for something to change.
pub(crate) struct Waiting {
    changes: watch::Receiver<u64>,
    end: tokio::time::Instant,
}

impl Waiting {
    /// Waits for so long, at most [`MAX_WAIT`].
    pub(crate) fn new(app: &App, wait_ms: Option<u64>) -> Self {
        let patience = MAX_WAIT.min(Duration::from_millis(wait_ms.unwrap_or(0)));
        Self { changes: app.core.changes.clone(), end: tokio::time::Instant::now() + patience }
    }

    /// What changes from now on counts.
    pub(crate) fn look(&mut self) {
        self.changes.borrow_and_update();
    }

    /// Waits for a change; `false` if the time is over.
    pub(crate) async fn changed(&mut self) -> bool {
        // A change is told when it is stored; the machine hears of it a moment later, so look again soon.
        let changed = async {
            let _ = self.changes.changed().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        tokio::time::timeout_at(self.end, changed).await.is_ok()
    }
}

/// Cancel a job. Volunteers stop computing it; what was accepted is removed later.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = JobInfo), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError)))]
async fn cancel_job(State(app): Shared, headers: HeaderMap, id: Id) -> Answer<JobInfo> {
    app.authorize(&headers)?;
    let id = parse_id(id)?;
    let before = info(&app, &id).await?;
    if app.db.end_job(&id, JobState::Canceled).await? {
        app.core.input(Input::JobCanceled { job: id }).await?;
        app.blobs.release(&id);
    } else if before.state == JobState::Done.name() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "already_done",
            "the job is done",
            "fetch its result with GET /api/v1/jobs/{id}/result",
        ));
    }
    Ok(Json(info(&app, &id).await?))
}

/// The result, as `.npy`: f32 for f32, i32 for int8.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/result", params(("id" = String, Path)),
    responses((status = 200, body = RawFile, content_type = "application/octet-stream"), (status = 401, body = ApiError),
        (status = 404, body = ApiError), (status = 409, body = ApiError), (status = 500, body = ApiError)))]
async fn get_result(State(app): Shared, headers: HeaderMap, id: Id) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let row = find(&app, &parse_id(id)?).await?;
    if row.state != JobState::Done {
        let hint =
            if row.state == JobState::Running { "wait until its state is done" } else { "submit it again" };
        let message = format!("the job is {}", row.state.name());
        return Err(ApiError::new(StatusCode::CONFLICT, "not_finished", message, hint));
    }
    let tiles = app.db.accepted(&row.id).await?;
    let assembly = Assembly::new(row.shape, row.dtype, tiles, (app.blobs.clone(), app.db.clone()));
    if let Err(error) = assembly.check().await {
        return Err(damaged_result(&row.id, &error));
    }
    let length = assembly.bytes();
    let stream = futures_util::stream::try_unfold(assembly, async |mut assembly| {
        Ok::<_, std::io::Error>(assembly.next().await?.map(|bytes| (bytes, assembly)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}.npy\"", row.id)),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// A part of a result is damaged on disk, or gone. Nothing of it is handed out: nobody could tell the right rows.
fn damaged_result(job: &JobId, error: &std::io::Error) -> ApiError {
    use std::io::ErrorKind::{InvalidData, NotFound};
    if !matches!(error.kind(), InvalidData | NotFound) {
        return ApiError::internal(error);
    }
    tracing::error!(%error, %job, "a result is damaged");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "result_damaged",
        "a part of the result is damaged on the relay's disk",
        "ask again in a minute, when the relay may have taken it from a backup; else submit the job again. The relay's \
         operator sees more with `potluck relay doctor`",
    )
}

/// The volunteers' WebSocket; see PROTOCOL.md.
#[utoipa::path(get, path = "/api/v1/volunteer", responses((status = 101, description = "the socket is open")))]
async fn volunteer(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !app.log.leads() {
        let hint = "GET /api/v1/mirrors names the relay that leads";
        let what = "this relay mirrors another one, and has no work";
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "mirror", what, hint).into_response();
    }
    let address = seen_at(&app.config, peer, &headers);
    let session = SessionId(app.next_session.fetch_add(1, Ordering::Relaxed));
    upgrade
        .read_buffer_size(SOCKET_READ_BYTES)
        .max_message_size(MAX_FRAME_BYTES + OVERSIZE_BYTES)
        .max_frame_size(MAX_FRAME_BYTES + OVERSIZE_BYTES)
        .on_upgrade(move |socket| {
            session::serve(socket, session, address, app.core.clone(), app.blobs.clone())
        })
}

/// Where a volunteer comes from. Behind a proxy of the operator's that is what the proxy wrote last.
pub(crate) fn seen_at(config: &Config, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
    if !config.behind_proxy {
        return Some(peer.ip());
    }
    let said = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    said.rsplit(',').next()?.trim().parse().ok()
}

#[derive(Debug, Deserialize)]
struct OfJob {
    job: Option<String>,
}

/// Who links to whom in the mesh, and how much passes. With `job`, only volunteers that work on that job or run.
#[utoipa::path(get, path = "/api/v1/peers", params(("job" = Option<String>, Query)),
    responses((status = 200, body = Peers), (status = 401, body = ApiError)))]
async fn get_peers(
    State(app): Shared,
    headers: HeaderMap,
    of: Result<Query<OfJob>, QueryRejection>,
) -> Answer<Peers> {
    app.authorize(&headers)?;
    let Query(of) = of.map_err(|error| bad(error.body_text(), "job is the id of a job or run"))?;
    let job = of.job.map(|id| id.parse().map_err(|_| ApiError::not_found("job"))).transpose()?;
    let picture = app.core.mesh(job).await?;
    let members = picture.members.into_iter().map(|member| PeerInfo {
        volunteer: member.volunteer.to_string(),
        seed: member.seed,
        links: member.links as u64,
    });
    let links = picture.links.into_iter().map(|link| LinkInfo {
        ends: link.ends.into_iter().map(|end| end.map(|volunteer| volunteer.to_string())).collect(),
        path: link.path.map(|path| names::path(path).to_owned()),
        received: link.received.to_vec(),
        bytes_per_s: link.rates.to_vec(),
    });
    Ok(Json(Peers { members: members.collect(), links: links.collect() }))
}

/// Whether the relay is up.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health), (status = 503, body = ApiError)))]
async fn health(State(app): Shared) -> Answer<Health> {
    app.core.totals().await?;
    Ok(Json(Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: app.incarnation,
    }))
}

/// Counters for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn get_metrics(State(app): Shared) -> Result<Response, ApiError> {
    let around = metrics::Around {
        turn: app.turn.totals(),
        blobs: app.blobs.upkeep().counts(),
        log_entries: app.log.durable(),
        log_published: app.log.published().borrow().head.size,
        disk: crate::doctor::disk_bytes(&app.config.data),
    };
    let totals = app.core.totals().await?;
    // It asks the system, and counts thousands of open files.
    let text = tokio::task::spawn_blocking(move || metrics::text(&totals, &around));
    let text = text.await.map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200, body = String, content_type = "application/json")))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

/// Who runs the relay, and its limits.
#[utoipa::path(get, path = "/.well-known/potluck.json", responses((status = 200, body = WellKnown)))]
async fn well_known(State(app): Shared) -> Answer<WellKnown> {
    // A name that is shown nowhere is not shown here.
    let mut off = app.db.switched_off().await?;
    off.retain(|one| one.kind != SwitchKind::Team);
    Ok(Json(WellKnown {
        operator: app.config.operator.clone(),
        contact: app.config.contact.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: [potluck_proto::OLDEST_VERSION, potluck_proto::PROTOCOL_VERSION],
        kernels: kernels(),
        max_consent_s: MAX_CONSENT.0 / 1000,
        max_matrix_bytes: MAX_MATRIX_BYTES,
        projects: "/api/v1/projects".into(),
        abuse: app.embed.abuse.clone(),
        embed: app.embed.info(),
        off,
    }))
}

/// Whatever names no job, be it no id or no text at all, is not found.
fn parse_id(id: Id) -> Result<JobId, ApiError> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(|| ApiError::not_found("job"))
}

async fn find(app: &App, id: &JobId) -> Result<JobRow, ApiError> {
    app.db.job(id).await?.ok_or_else(|| ApiError::not_found("job"))
}

async fn info(app: &App, id: &JobId) -> Result<JobInfo, ApiError> {
    let progress = app.core.progress(*id).await?;
    let row = find(app, id).await?;
    Ok(job_info(&row, progress.map(progress_info)))
}

fn progress_info(progress: potluck_schedule::JobProgress) -> Progress {
    Progress {
        units: progress.units,
        free: progress.free,
        in_flight: progress.in_flight,
        accepted: progress.accepted,
        volunteers: progress.volunteers,
        rejected: progress.shards_rejected,
    }
}

fn job_info(row: &JobRow, progress: Option<Progress>) -> JobInfo {
    JobInfo {
        id: row.id.to_string(),
        name: row.name.clone(),
        state: row.state.name().into(),
        dtype: row.dtype.name().into(),
        m: row.shape.m,
        k: row.shape.k,
        n: row.shape.n,
        flops: row.shape.flops(),
        created_ms: row.created_ms,
        ended_ms: row.ended_ms,
        progress,
    }
}

async fn detail(app: &App, id: &JobId, job: JobInfo) -> Result<JobDetail, ApiError> {
    let (shards, check_us) = app.db.check_cost(id).await?;
    let contributors = app.db.contributors(id).await?;
    let rejections = app.db.rejections(id).await?;
    Ok(JobDetail {
        job,
        contributors: contributors
            .into_iter()
            .map(|row| Contributor {
                volunteer: row.volunteer.to_string(),
                backend: row.backend,
                shards: row.shards as u64,
                elements: row.elements as u64,
                compute_s: row.compute_ms as f64 / 1e3,
            })
            .collect(),
        rejections: rejections
            .into_iter()
            .map(|(volunteer, reason, count)| Rejection {
                volunteer: volunteer.to_string(),
                reason,
                count: count as u64,
            })
            .collect(),
        shards: shards as u64,
        check_s: check_us as f64 / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let source = concat!(
            include_str!("http.rs"),
            include_str!("runs/http.rs"),
            include_str!("log/http.rs"),
            include_str!("log/receipts.rs"),
            include_str!("log/effects.rs"),
            include_str!("log/forks.rs"),
            include_str!("log/pages.rs"),
            include_str!("views/mod.rs"),
        );
        let routes: Vec<_> =
            source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(routes.len() >= 40, "{routes:?}");
        for route in routes.into_iter().filter(|route| route.starts_with('/')) {
            // OpenAPI has no word for the rest of a path.
            let route = route.replace("{*", "{");
            assert!(document["paths"][&route].is_object(), "{route} is not in the document");
        }
        let errors = &document["paths"]["/api/v1/jobs"]["post"]["responses"];
        assert!(errors["422"].is_object() && errors["401"].is_object());
    }

    /// `openapi.json` is what clients are made from without a relay: `cargo xtask npm`. After a deliberate change of the API, write
    /// it anew with `POTLUCK_BLESS=1 cargo test --workspace --lib -- the_document` and read the difference.
    #[test]
    fn the_document_is_the_one_that_clients_are_made_from() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let document = Document::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("POTLUCK_BLESS").is_some() {
            std::fs::write(&path, &document).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept.replace("\r\n", "\n") == document,
            "the API changed: run this test with POTLUCK_BLESS=1"
        );
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        let states = |name: &str| document["components"]["schemas"][name]["enum"].clone();
        let jobs = [JobState::Running, JobState::Done, JobState::Canceled];
        assert_eq!(states("JobState"), serde_json::json!(jobs.map(JobState::name)));
        assert_eq!(
            states("RunState"),
            serde_json::json!(runs::store::RunState::ALL.map(runs::store::RunState::name))
        );
    }
}
