//! Projects: what volunteers of this relay can work on, for people who look for something to join. Which of them a
//! volunteer gets work of is the state machine's decision.

use super::api::Project;
use crate::api::ApiError;
use crate::db::{JobRow, JobState};
use crate::evals::store::{CandidateRow, EvalState};
use crate::http::{Answer, App, Id, Shared};
use crate::runs::api::RunInfo;
use crate::runs::http::info as run_info;
use crate::runs::store::{RunRow, RunState};
use axum::Json;
use axum::extract::{Path, State};
use potluck_schedule::Kernel;
use potluck_types::{BlobHash, JobId};

/// What people call an eval, before the model's name.
const EVAL_NAME: &str = "Evaluation of a candidate for";

/// What can be joined: jobs, runs and evals under way, paused runs among them.
#[utoipa::path(get, path = "/api/v1/projects",
    responses((status = 200, body = Vec<Project>), (status = 429, body = ApiError)))]
pub(crate) async fn list_projects(State(app): Shared) -> Answer<Vec<Project>> {
    let mut projects = Vec::new();
    for row in app.db.open_runs().await? {
        projects.push(of_run(&app, &row).await?);
    }
    for row in app.db.candidates().await?.iter().filter(|row| row.state == EvalState::Evaluating) {
        projects.push(of_eval(&app, row).await?);
    }
    for row in app.db.running().await? {
        projects.push(of_job(&app, &row).await?);
    }
    Ok(Json(projects))
}

/// One project, whether it can still be joined or not.
#[utoipa::path(get, path = "/api/v1/projects/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Project), (status = 404, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn get_project(State(app): Shared, id: Id) -> Answer<Project> {
    let unknown = || {
        let message = "this relay has no such project";
        let hint = "list them with GET /api/v1/projects";
        ApiError::new(axum::http::StatusCode::NOT_FOUND, "not_found", message, hint)
    };
    let id: JobId = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)?;
    if let Some(row) = app.db.run(&id).await? {
        return Ok(Json(of_run(&app, &row).await?));
    }
    if let Some(row) = app.db.job(&id).await? {
        return Ok(Json(of_job(&app, &row).await?));
    }
    let candidates = app.db.candidates().await?;
    let row = candidates.iter().find(|row| row.eval == id).ok_or_else(unknown)?;
    Ok(Json(of_eval(&app, row).await?))
}

fn blank(id: JobId, kind: &str, unit: &str) -> Project {
    Project {
        id: id.to_string(),
        kind: kind.to_owned(),
        name: String::new(),
        state: String::new(),
        reason: None,
        why: None,
        unit: unit.to_owned(),
        done: 0,
        total: 0,
        volunteers: 0,
        shape: None,
        dtype: None,
        parameters: None,
        model: None,
        candidate: None,
        data: Vec::new(),
        losses: None,
    }
}

/// The project, paused if the operator switched it off.
fn switched(app: &App, kernel: Kernel, id: JobId, project: Project) -> Project {
    if project.state != "running" || !app.switches.switches().stop(kernel, &id) {
        return project;
    }
    let reason = Some("the operator switched it off".to_owned());
    Project { state: "paused".to_owned(), reason, ..project }
}

async fn of_job(app: &App, row: &JobRow) -> Result<Project, ApiError> {
    let units = potluck_schedule::Grid::new(row.shape, row.dtype).map_or(0, |grid| grid.unit_count());
    let progress = match row.state {
        JobState::Running => app.core.progress(row.id).await?,
        JobState::Done | JobState::Canceled => None,
    };
    let done = if row.state == JobState::Done { units } else { 0 };
    let project = Project {
        name: row.name.clone(),
        state: row.state.name().to_owned(),
        done: progress.map_or(done, |progress| u64::from(progress.accepted)),
        total: units,
        volunteers: progress.map_or(0, |progress| progress.volunteers),
        shape: Some([row.shape.m, row.shape.k, row.shape.n]),
        dtype: Some(row.dtype.name().to_owned()),
        ..blank(row.id, "product", "units")
    };
    Ok(switched(app, Kernel::of(row.dtype), row.id, project))
}

async fn of_run(app: &App, row: &RunRow) -> Result<Project, ApiError> {
    let info: RunInfo = run_info(app, row, false).await?;
    let [first, last] = [0, row.round.saturating_sub(1)];
    let losses = match row.round {
        0 => None,
        _ => app.db.validation_loss(&row.id, first).await?.zip(app.db.validation_loss(&row.id, last).await?),
    };
    let mut data: Vec<String> = Vec::new();
    if let Ok(id) = row.request.train.parse::<BlobHash>()
        && let Some(manifest) = app.db.manifest(&id).await?
    {
        let manifest = manifest.info();
        data.push(format!("{} ({})", manifest.name, manifest.license));
    }
    let project = Project {
        name: info.name,
        state: info.state,
        reason: info.reason,
        why: rationale(app, row.request.proposal.as_deref()).await?,
        done: row.round,
        total: info.rounds,
        volunteers: if row.state == RunState::Running { info.workers } else { 0 },
        parameters: Some(info.parameters),
        model: info.model_name,
        data,
        losses: losses.map(|(first, last)| [first, last]),
        ..blank(row.id, "training", "rounds")
    };
    Ok(switched(app, Kernel::Train, row.id, project))
}

/// Why people allowed something, in the words of who proposed it.
async fn rationale(app: &App, proposal: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(id) = proposal.and_then(|id| id.parse::<BlobHash>().ok()) else { return Ok(None) };
    let words = |state: &potluck_governance::State| {
        state.proposals().get(&id).map(|proposal| proposal.rationale.clone())
    };
    Ok(app.log.state(words).await?)
}

async fn of_eval(app: &App, row: &CandidateRow) -> Result<Project, ApiError> {
    let progress = app.core.eval_progress(row.eval).await?;
    let shards = app.db.eval_shard_counts(&row.eval).await?;
    let project = Project {
        name: format!("{EVAL_NAME} {}", row.model),
        state: if row.state == EvalState::Evaluating { "running" } else { row.state.name() }.to_owned(),
        reason: row.reason.clone(),
        done: progress.map_or(shards[0], |progress| u64::from(progress.done)),
        total: progress.map_or(shards[1], |progress| u64::from(progress.shards)),
        volunteers: progress.map_or(0, |progress| progress.leased),
        model: Some(row.model.clone()),
        candidate: Some(row.parameters.hash.to_string()),
        ..blank(row.eval, "eval", "shards")
    };
    Ok(switched(app, Kernel::Train, row.eval, project))
}

impl crate::db::Db {
    /// Loss on the validation data after a closed round.
    ///
    /// # Errors
    /// What the database says.
    async fn validation_loss(&self, run: &JobId, round: u64) -> Result<Option<f64>, crate::db::DbError> {
        use sqlx::Row as _;
        let row = sqlx::query("SELECT info FROM rounds WHERE run = $1 AND round = $2")
            .bind(&run.0[..])
            .bind(round.cast_signed())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let info: crate::runs::api::RoundInfo =
            serde_json::from_str(row.try_get(0)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Some(info.validation_loss))
    }

    /// Shards of an eval that are settled, and all of them.
    ///
    /// # Errors
    /// What the database says.
    async fn eval_shard_counts(&self, eval: &JobId) -> Result<[u64; 2], crate::db::DbError> {
        use sqlx::Row as _;
        let row = sqlx::query("SELECT COUNT(answers), COUNT(*) FROM eval_shards WHERE eval = $1")
            .bind(&eval.0[..])
            .fetch_one(&self.pool)
            .await?;
        Ok([row.try_get::<i64, _>(0)?.cast_unsigned(), row.try_get::<i64, _>(1)?.cast_unsigned()])
    }
}
