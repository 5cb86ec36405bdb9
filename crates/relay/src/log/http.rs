//! The log for everybody: files, checkpoint, receipts; and what people say into it.

use super::{LogError, Published};
use crate::api::{ApiError, EntryInfo, LogInfo, Logged, NewStatement, Receipts};
use crate::http::{Answer, App, Shared, bad};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use potluck_governance::{Constitution, Roles, entry};
use potluck_ledger::{AddCheckpoint, Bundle, LogFile, Note, Receipt, root_at};
use potluck_types::VolunteerId;
use serde::Deserialize;
use std::io;
use std::sync::Arc;

/// Receipts of one answer.
const MAX_RECEIPTS: u32 = 100;
/// Body of a statement or a roles document: four times a signed text.
const MAX_STATEMENT_BODY_BYTES: usize = 64 << 10;
/// What never changes may be kept for a year.
const FOREVER: &str = "public, max-age=31536000, immutable";

pub(crate) fn router() -> Router<Arc<App>> {
    let limit = || DefaultBodyLimit::max(MAX_STATEMENT_BODY_BYTES);
    Router::new()
        .route("/log/{*path}", get(get_file))
        .route("/api/v1/log", get(get_log))
        .route("/api/v1/log/since/{size}", get(get_consistency))
        .route("/api/v1/log/receipts/{index}", get(get_receipt))
        .route("/api/v1/log/statements", post(say).layer(limit()))
        .route("/api/v1/log/founding", post(found).layer(limit()))
        .route("/api/v1/volunteers/{id}/receipts", get(list_receipts))
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let (code, hint) = match &error {
            LogError::Form(_) => ("no_entry", "see PROTOCOL.md for the form of entries and statements"),
            LogError::Refused(_) => ("refused_by_log", "the message says what is missing or wrong"),
            _ => return Self::internal(error),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string(), hint)
    }
}

fn missing(what: String) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_in_log",
        what,
        "GET /api/v1/log says how many entries are published",
    )
}

fn file_error(error: io::Error, what: &str) -> ApiError {
    if error.kind() == io::ErrorKind::NotFound {
        missing(format!("the log has no {what}"))
    } else {
        ApiError::internal(error)
    }
}

fn published(app: &App) -> Published {
    app.log.published().borrow().clone()
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], body)
        .into_response()
}

/// A file of the log in the layout of C2SP tlog-tiles: `checkpoint`, `tile/LEVEL/INDEX`, `tile/entries/INDEX`; and
/// `key`.
#[utoipa::path(get, path = "/log/{path}", params(("path" = String, Path)),
    responses((status = 200, body = Vec<u8>), (status = 404, body = ApiError)))]
pub(crate) async fn get_file(State(app): Shared, Path(path): Path<String>) -> Result<Response, ApiError> {
    let now = published(&app);
    if path == super::files::CHECKPOINT {
        return if now.note.is_empty() {
            Err(missing("the log has no checkpoint yet".into()))
        } else {
            Ok(text(now.note.to_string()))
        };
    }
    if path == super::files::KEY {
        return Ok(text(format!("{}\n", app.log.verifier())));
    }
    let file: LogFile = path.parse().map_err(|_| missing(format!("{path:?} is no file of a log")))?;
    let bytes =
        app.log.0.files.read_of(file, now.head.size).await.map_err(|error| file_error(error, &path))?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, FOREVER)];
    Ok((headers, bytes).into_response())
}

/// The log: its name, key, size and last checkpoint.
#[utoipa::path(get, path = "/api/v1/log", responses((status = 200, body = LogInfo)))]
pub(crate) async fn get_log(State(app): Shared) -> Json<LogInfo> {
    let now = published(&app);
    let key = app.log.verifier();
    Json(LogInfo {
        origin: key.name().to_owned(),
        key: key.to_string(),
        entries: now.head.size,
        root: now.head.root.to_string(),
        checkpoint: now.note.to_string(),
    })
}

/// The last checkpoint, and the proof that it goes on from the tree of `size` entries: a C2SP tlog-witness request.
#[utoipa::path(get, path = "/api/v1/log/since/{size}", params(("size" = u64, Path)),
    responses((status = 200, body = String), (status = 404, body = ApiError)))]
pub(crate) async fn get_consistency(
    State(app): Shared,
    size: Result<Path<u64>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    let Path(old_size) = size.map_err(|error| bad(error.body_text(), "size is a whole number"))?;
    let now = published(&app);
    let note =
        Note::parse(now.note.as_bytes()).map_err(|_| missing("the log has no checkpoint yet".into()))?;
    if old_size > now.head.size {
        return Err(missing(format!("{} entries are published, not {old_size}", now.head.size)));
    }
    let proof = if old_size == 0 {
        Vec::new()
    } else {
        let mut files = app.log.0.files.blocking(now.head.size);
        let made = tokio::task::spawn_blocking(move || root_at(old_size, &now.head, &mut files)).await;
        made.map_err(ApiError::internal)?.map_err(ApiError::internal)?.1
    };
    Ok(text(AddCheckpoint { old_size, proof, note }.to_string()))
}

/// The receipt of an entry: the entry, and the proof that it is in the log, as C2SP tlog-proof.
#[utoipa::path(get, path = "/api/v1/log/receipts/{index}", params(("index" = u64, Path)),
    responses((status = 200, body = String), (status = 404, body = ApiError)))]
pub(crate) async fn get_receipt(
    State(app): Shared,
    index: Result<Path<u64>, axum::extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    let Path(index) = index.map_err(|error| bad(error.body_text(), "index is a whole number"))?;
    let now = published(&app);
    let entry = read_entry(&app, &now, index).await?;
    let note = Note::parse(now.note.as_bytes()).map_err(ApiError::internal)?;
    let mut files = app.log.0.files.blocking(now.head.size);
    let made = tokio::task::spawn_blocking(move || Receipt::issue(entry, index, note, &mut files)).await;
    let receipt = made.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    Ok(text(receipt.to_string()))
}

async fn read_entry(app: &App, now: &Published, index: u64) -> Result<Vec<u8>, ApiError> {
    let unpublished = || missing(format!("entry {index} is not published: {} are", now.head.size));
    let bundle = Bundle::containing(index, now.head.size).ok_or_else(unpublished)?;
    let bytes = app.log.0.files.read_of(bundle.into(), now.head.size).await;
    let bytes = bytes.map_err(|error| file_error(error, "such entry"))?;
    let entries = bundle.entries(&bytes).map_err(ApiError::internal)?;
    entries.get((index - bundle.first_entry()) as usize).map(|entry| entry.to_vec()).ok_or_else(unpublished)
}

/// Who decides, and by which rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct People {
    #[serde(default)]
    constitution: Constitution,
    roles: Roles,
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

/// Say something into the log: a text that a person signed. It counts, or is refused with what is wrong.
#[utoipa::path(post, path = "/api/v1/log/statements", request_body = NewStatement,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 422, body = ApiError)))]
pub(crate) async fn say(
    State(app): Shared,
    body: Result<Json<NewStatement>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(new) = body.map_err(|error| bad(error.body_text(), "send body, key and signature"))?;
    let hex = |what: &str| {
        bad(format!("the {what} is not lower-case hexadecimal of the right length"), "see PROTOCOL.md")
    };
    let signed = entry::Signed {
        body: new.body,
        key: new.key.parse().map_err(|_| hex("key"))?,
        signature: new.signature.parse().map_err(|_| hex("signature"))?,
    };
    let index = app.log.append(signed).await?;
    Ok((StatusCode::CREATED, Json(Logged { index })).into_response())
}

/// Name the people of a log that nobody decides in yet. With the submitter's token, once.
#[utoipa::path(post, path = "/api/v1/log/founding", request_body = String,
    responses((status = 201, body = Logged), (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 422, body = ApiError)))]
pub(crate) async fn found(
    State(app): Shared,
    headers: HeaderMap,
    body: String,
) -> Result<Response, ApiError> {
    app.authorize(&headers)?;
    let people: People = serde_json::from_str(&body).map_err(|error| {
        bad(
            format!("that names no people: {error}"),
            "send roles and, unless the usual rules are to hold, constitution",
        )
    })?;
    let founding = entry::Founding { constitution: people.constitution, roles: people.roles };
    let index = app.log.append(founding).await?;
    Ok((StatusCode::CREATED, Json(Logged { index })).into_response())
}
