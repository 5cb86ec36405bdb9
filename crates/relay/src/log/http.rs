//! The log for everybody: files, checkpoint, receipts; and what people say into it.

use super::cosign::{CosignError, Who};
use super::{LogError, Published, effects, forks, limits, pages, receipts};
use crate::api::{
    ApiError, Cosigned, LogInfo, Logged, NewCosignatures, NewStatement, RawFile, VolunteerWitness,
};
use crate::http::{App, Shared, bad};
use crate::site;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use potluck_governance::state::Credit;
use potluck_governance::{Constitution, Key, Refused, Roles, entry, witness_text};
use potluck_ledger::{AddCheckpoint, KeyKind, LogFile, Note, VerifierKey, root_at};
use serde::Deserialize;
use std::io;
use std::sync::Arc;

/// Body of a statement or a roles document: four times a signed text.
const MAX_STATEMENT_BODY_BYTES: usize = 64 << 10;
/// What never changes may be kept for a year.
const FOREVER: &str = "public, max-age=31536000, immutable";

pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let limit = || DefaultBodyLimit::max(MAX_STATEMENT_BODY_BYTES);
    let reads = Router::new()
        .route("/api/v1/log/since/{size}", get(get_consistency))
        .merge(receipts::router())
        // What a tab asks that came from another relay of the log.
        .route_layer(map_response(site::shared))
        .merge(pages::router())
        .route_layer(from_fn_with_state(Arc::clone(app), limits::reads));
    let writes = Router::new()
        .route("/api/v1/log/statements", post(say).layer(limit()))
        .route("/api/v1/log/founding", post(found).layer(limit()))
        .route("/api/v1/log/cosignatures", post(cosign).layer(limit()))
        .merge(effects::router().layer(limit()))
        .merge(forks::router())
        .route_layer(from_fn_with_state(Arc::clone(app), limits::writes));
    Router::new()
        .route("/log/{*path}", get(get_file))
        .route_layer(map_response(site::shared))
        .route("/api/v1/log", get(get_log))
        .merge(reads)
        .merge(writes)
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let (code, hint, missing) = match &error {
            LogError::Form(_) => {
                ("no_entry", "see PROTOCOL.md for the form of entries and statements", Vec::new())
            }
            LogError::Refused(Refused::NotReady { missing }) => {
                ("not_justified", "do what is missing, then ask again", missing.clone())
            }
            LogError::Refused(Refused::Unjustified(missing)) => {
                ("not_justified", "do what is missing, then ask again", vec![missing.clone()])
            }
            LogError::Refused(_) => {
                ("refused_by_log", "the message says what is missing or wrong", Vec::new())
            }
            LogError::Mirror { since } => {
                let code = StatusCode::MISDIRECTED_REQUEST;
                return Self::new(code, "mirror", "this relay mirrors the log of another one", since);
            }
            _ => return Self::internal(error),
        };
        let missing = missing.iter().map(ToString::to_string).collect();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string(), hint).missing(missing)
    }
}

pub(super) fn missing(what: String) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_in_log",
        what,
        "GET /api/v1/log says how many entries are published",
    )
}

pub(super) fn file_error(error: io::Error, what: &str) -> ApiError {
    if error.kind() == io::ErrorKind::NotFound {
        missing(format!("the log has no {what}"))
    } else {
        ApiError::internal(error)
    }
}

pub(super) fn published(app: &App) -> Published {
    app.log.published().borrow().clone()
}

pub(super) fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], body)
        .into_response()
}

/// A file of the log in the layout of C2SP tlog-tiles: `checkpoint`, `tile/LEVEL/INDEX`, `tile/entries/INDEX`; and `key`,
/// and `cosigned`: the last checkpoint that enough witnesses cosigned. Where a relay took the log over, `predecessor` has the
/// key of the one before, an empty line, and its last checkpoint.
#[utoipa::path(get, path = "/log/{path}", params(("path" = String, Path)),
    responses((status = 200, body = RawFile, content_type = "application/octet-stream"), (status = 404, body = ApiError)))]
pub(crate) async fn get_file(State(app): Shared, Path(path): Path<String>) -> Result<Response, ApiError> {
    let now = published(&app);
    if path == super::files::CHECKPOINT {
        return Ok(text(app.log.latest_note(&now).await?));
    }
    if path == super::files::COSIGNED {
        let best = app.log.best_note().await;
        return best
            .map(|(_, note)| text(note))
            .ok_or_else(|| missing("no checkpoint is cosigned yet".into()));
    }
    if path == super::files::PREDECESSOR {
        let found = app.log.0.files.get(&path).await.map_err(|error| file_error(error, &path))?;
        return Ok(text(String::from_utf8_lossy(&found).into_owned()));
    }
    if path == super::files::KEY {
        return Ok(text(format!("{}\n", app.log.verifier())));
    }
    let file: LogFile = path.parse().map_err(|_| missing(format!("{path:?} is no file of a log")))?;
    let mut size = now.head.size;
    let bytes = loop {
        match app.log.0.files.read_of(file, size).await {
            Ok(bytes) => break bytes,
            Err(error) => {
                // It may have given way to a larger one between the look at the log's size and this.
                let grown = published(&app).head.size;
                if grown == size {
                    return Err(file_error(error, &path));
                }
                size = grown;
            }
        }
    };
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, FOREVER)];
    Ok((headers, bytes).into_response())
}

/// The log: its name, key, size and last checkpoint.
#[utoipa::path(get, path = "/api/v1/log", responses((status = 200, body = LogInfo)))]
pub(crate) async fn get_log(State(app): Shared) -> Json<LogInfo> {
    let now = published(&app);
    let (key, policy) = (app.log.verifier(), &app.log.0.policy);
    Json(LogInfo {
        origin: key.name().to_owned(),
        key: key.to_string(),
        entries: now.head.size,
        root: now.head.root.to_string(),
        checkpoint: app.log.latest_note(&now).await.unwrap_or_default(),
        cosigned: app.log.best_note().await.map(|(_, note)| note),
        witnesses: policy.witnesses().iter().map(ToString::to_string).collect(),
        quorum: policy.threshold() as u32,
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

/// Who decides, and by which rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct People {
    #[serde(default)]
    constitution: Constitution,
    roles: Roles,
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

/// Take cosignatures of one of the last checkpoints: of a witness that the operator names, or of a volunteer with credit.
#[utoipa::path(post, path = "/api/v1/log/cosignatures", request_body = NewCosignatures,
    responses((status = 201, body = Cosigned), (status = 400, body = ApiError), (status = 409, body = ApiError),
        (status = 422, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn cosign(
    State(app): Shared,
    body: Result<Json<NewCosignatures>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(new) =
        body.map_err(|error| bad(error.body_text(), "send size, lines and, of a volunteer, volunteer"))?;
    let who = match &new.volunteer {
        Some(volunteer) => of_volunteer(&app, volunteer).await?,
        None => of_witness(&app, &new.lines)?,
    };
    let cosigned = app.log.cosign(new.size, &new.lines, &who).await?;
    Ok((StatusCode::CREATED, Json(cosigned)).into_response())
}

fn no_witness(message: String) -> ApiError {
    let hint =
        "a witness is one that GET /api/v1/log names, or a volunteer with accepted work that signs its key";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "no_witness", message, hint)
}

/// The witness that the operator names whose lines these are.
fn of_witness(app: &App, lines: &str) -> Result<Who, ApiError> {
    let named = app.log.0.policy.witnesses();
    let mut names = lines.lines().filter_map(|line| line.split(' ').nth(1));
    let found = names.find_map(|name| named.iter().find(|witness| witness.name() == name));
    found
        .cloned()
        .map(Who::Named)
        .ok_or_else(|| no_witness("the operator names no witness that these are of".into()))
}

/// The volunteer, if it says so itself and its work was accepted.
async fn of_volunteer(app: &App, volunteer: &VolunteerWitness) -> Result<Who, ApiError> {
    let VolunteerWitness { key, volunteer, signature } = volunteer;
    let witness: VerifierKey =
        key.parse().map_err(|error| bad(format!("the key: {error}"), "a key is written NAME+HASH+BASE64"))?;
    let hex =
        |what: &str| bad(format!("the {what} is not hexadecimal of the right length"), "see PROTOCOL.md");
    let whose: Key = volunteer.parse().map_err(|_| hex("volunteer"))?;
    let signature = signature.parse().map_err(|_| hex("signature"))?;
    let text = witness_text(app.log.verifier().name(), key);
    if witness.kind() != KeyKind::CosignatureV1 || !whose.signed(text.as_bytes(), &signature) {
        return Err(no_witness(format!("{whose} did not sign that this key cosigns for it in this log")));
    }
    if !app.log.state(|state| state.credit(whose).is_some_and(Credit::counts)).await? {
        return Err(no_witness(format!("no work of {whose} was accepted here yet")));
    }
    Ok(Who::Volunteer(whose, witness))
}

impl From<CosignError> for ApiError {
    fn from(error: CosignError) -> Self {
        let (status, code) = match &error {
            CosignError::Unknown { .. } => (StatusCode::CONFLICT, "unknown_checkpoint"),
            CosignError::Full => (StatusCode::CONFLICT, "enough_cosignatures"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "bad_cosignature"),
        };
        Self::new(status, code, error.to_string(), "cosign the checkpoint of GET /api/v1/log/since/{size}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_governance::{Entry, State as LogState, gate};
    use potluck_types::{BlobHash, JobId};

    #[test]
    fn a_refused_promotion_names_every_step_that_is_missing() {
        let mut state = LogState::new();
        let mut log = |body: potluck_governance::Body| {
            let index = state.next_index();
            state.apply(index, &Entry::new(1_700_000_000_000, body)).unwrap();
        };
        let (run, hash) = (JobId([1; 16]), |n: u8| BlobHash([n; 32]));
        let mut constitution = Constitution::default();
        (constitution.runs_need_proposal, constitution.data_sets_need_proposal) = (false, false);
        let origin = "relay.example/log".to_owned();
        log(entry::Genesis { origin, constitution, roles: Roles::nobody() }.into());
        log(entry::Run {
            run,
            name: "whale".to_owned(),
            request: hash(2),
            checkpoint: hash(3),
            parameters: hash(4),
            data_sets: Vec::new(),
            model: Some("whale".to_owned()),
            proposal: None,
        }
        .into());
        log(entry::Aggregate {
            run,
            round: 0,
            parameters: hash(4),
            next_parameters: hash(5),
            step: hash(6),
            checkpoint: None,
            loss: None,
            finite: true,
            updates: Vec::new(),
        }
        .into());
        log(entry::Candidate {
            model: "whale".to_owned(),
            run,
            round: 0,
            parameters: hash(5),
            checkpoint: hash(7),
            rebuilt_without: Vec::new(),
        }
        .into());
        let missing = gate::promotion(&state, &hash(5), state.now_ms()).unwrap_err();
        let error = ApiError::from(LogError::Refused(Refused::NotReady { missing }));
        assert_eq!((error.code.as_str(), error.missing.len()), ("not_justified", 9), "{error:?}");
        for step in [
            "no eval card",
            "worker-rounds audited",
            "audit failures",
            "loss better",
            "shards evaluated",
            "triggers that succeed",
            "auditors who derived",
            "0 of 2 people signed",
            "no proposal of kind promote",
        ] {
            assert!(error.missing.iter().any(|text| text.contains(step)), "{step}: {:?}", error.missing);
            assert!(error.message.contains(step), "{step}: {}", error.message);
        }
    }
}
