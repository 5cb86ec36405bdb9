//! Records of data sets, runs and rounds.

use super::api::{NewRun, RoundInfo};
use super::manifest::{Manifest, unstated};
use crate::db::{Db, DbError, Writing, bytes, count_result, decode_error, maybe_hash, wall_ms};
use crate::embed::store::{Counts, count as count_sites};
use crate::log::{Log, LogError, records};
use crate::names;
use potluck_proto::{Backend, BlobRef};
use potluck_types::limits::MAX_LISTED_JOBS;
use potluck_types::{BlobHash, JobId, VolunteerId};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

/// Whether a run goes on or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum RunState {
    /// Rounds are held.
    Running,
    /// It waits until its submitter lets it go on.
    Paused,
    /// Every round is durable.
    Done,
    /// The submitter canceled it.
    Canceled,
}

impl RunState {
    pub(crate) const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Done, Self::Canceled];

    /// Its name in database and API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Canceled => "canceled",
        }
    }
}

/// A data set as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataSetRow {
    pub(crate) id: BlobHash,
    pub(crate) vocabulary: u32,
    pub(crate) tokens: u64,
}

/// A run as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) id: JobId,
    pub(crate) state: RunState,
    pub(crate) reason: Option<String>,
    /// What was asked for, without the tokenizer.
    pub(crate) request: NewRun,
    pub(crate) checkpoint: BlobRef,
    pub(crate) tokenizer: Option<BlobHash>,
    /// Rounds that are durable.
    pub(crate) round: u64,
}

/// A round as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct RoundRow {
    pub(crate) round: u64,
    pub(crate) parameters: BlobHash,
    pub(crate) next_parameters: BlobHash,
    pub(crate) step: BlobRef,
    pub(crate) checkpoint: Option<BlobRef>,
    pub(crate) info: RoundInfo,
    pub(crate) combined: serde_json::Value,
}

/// An update as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct UpdateRow {
    pub(crate) worker: u32,
    pub(crate) volunteer: VolunteerId,
    pub(crate) backend: Backend,
    /// Millionths; 0 if it did not count.
    pub(crate) weight: u32,
    pub(crate) audited: bool,
    pub(crate) verdict: String,
    pub(crate) result: BlobRef,
    /// As JSON.
    pub(crate) task: String,
}

/// The verdict of an update that counted.
pub(crate) const ACCEPTED: &str = "accepted";

const RUN_COLUMNS: &str = "id, state, reason, request, checkpoint, checkpoint_bytes, tokenizer,
     (SELECT COUNT(*) FROM rounds WHERE rounds.run = runs.id)";

fn blob(row: &AnyRow, hash: usize, length: usize) -> Result<BlobRef, DbError> {
    Ok(BlobRef { hash: BlobHash(bytes(row, hash)?), bytes: row.try_get::<i64, _>(length)? as u64 })
}

fn run_row(row: &AnyRow) -> Result<RunRow, DbError> {
    let state: &str = row.try_get(1)?;
    Ok(RunRow {
        id: JobId(bytes(row, 0)?),
        state: RunState::ALL
            .into_iter()
            .find(|known| known.name() == state)
            .ok_or(sqlx::Error::RowNotFound)?,
        reason: row.try_get(2)?,
        request: serde_json::from_str(row.try_get(3)?).map_err(decode_error)?,
        checkpoint: blob(row, 4, 5)?,
        tokenizer: maybe_hash(row, 6)?,
        round: row.try_get::<i64, _>(7)? as u64,
    })
}

fn round_row(row: &AnyRow) -> Result<RoundRow, DbError> {
    let checkpoint = maybe_hash(row, 5)?.is_some().then(|| blob(row, 5, 6)).transpose()?;
    Ok(RoundRow {
        round: row.try_get::<i64, _>(0)? as u64,
        parameters: BlobHash(bytes(row, 1)?),
        next_parameters: BlobHash(bytes(row, 2)?),
        step: blob(row, 3, 4)?,
        checkpoint,
        info: serde_json::from_str(row.try_get(7)?).map_err(decode_error)?,
        combined: serde_json::from_str(row.try_get(8)?).map_err(decode_error)?,
    })
}

/// Writes a run's row. `false` if there is one with its idempotency key.
async fn insert_run(
    tx: &mut Writing,
    run: &RunRow,
    key: Option<&str>,
    created_ms: i64,
) -> Result<bool, DbError> {
    let request = serde_json::to_string(&run.request).map_err(decode_error)?;
    let inserted = sqlx::query(
        "INSERT INTO runs (id, name, state, reason, request, checkpoint, checkpoint_bytes, tokenizer,
         idempotency_key, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (idempotency_key) DO NOTHING",
    )
    .bind(&run.id.0[..])
    .bind(&run.request.name)
    .bind(run.state.name())
    .bind(run.reason.as_deref())
    .bind(request)
    .bind(&run.checkpoint.hash.0[..])
    .bind(run.checkpoint.bytes.cast_signed())
    .bind(run.tokenizer.as_ref().map(|hash| &hash.0[..]))
    .bind(key)
    .bind(created_ms)
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Writes a closed round's rows.
async fn insert_round(
    tx: &mut Writing,
    run: &JobId,
    round: &RoundRow,
    updates: &[UpdateRow],
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO rounds (run, round, parameters, next_parameters, step, step_bytes, checkpoint,
         checkpoint_bytes, info, combined, closed_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&run.0[..])
    .bind(round.round.cast_signed())
    .bind(&round.parameters.0[..])
    .bind(&round.next_parameters.0[..])
    .bind(&round.step.hash.0[..])
    .bind(round.step.bytes.cast_signed())
    .bind(round.checkpoint.as_ref().map(|blob| &blob.hash.0[..]))
    .bind(round.checkpoint.map(|blob| blob.bytes.cast_signed()))
    .bind(serde_json::to_string(&round.info).map_err(decode_error)?)
    .bind(round.combined.to_string())
    .bind(wall_ms())
    .execute(&mut **tx)
    .await?;
    for (position, update) in updates.iter().enumerate() {
        sqlx::query(
            "INSERT INTO updates (run, round, position, worker, volunteer, backend, weight, audited, verdict,
             hash, bytes, task) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&run.0[..])
        .bind(round.round.cast_signed())
        .bind(position.cast_signed() as i64)
        .bind(i64::from(update.worker))
        .bind(&update.volunteer.0[..])
        .bind(names::backend(update.backend))
        .bind(i64::from(update.weight))
        .bind(i64::from(update.audited))
        .bind(&update.verdict)
        .bind(&update.result.hash.0[..])
        .bind(update.result.bytes.cast_signed())
        .bind(&update.task)
        .execute(&mut **tx)
        .await?;
        if update.verdict == ACCEPTED {
            count_result(tx, &update.volunteer, 1, 0).await?;
        }
    }
    Ok(())
}

impl Db {
    /// Records a data set with the names of its blocks, and what is said about it. What is known already stays as it is: of
    /// a data set that was logged with nothing said about it, the parts are logged now. `None` if something else was said
    /// about it before, else what is.
    ///
    /// # Errors
    /// What the database or the log says.
    pub(crate) async fn add_dataset(
        &self,
        log: &Log,
        row: &DataSetRow,
        blocks: &[BlobHash],
        stated: Option<Manifest>,
    ) -> Result<Option<Vec<String>>, LogError> {
        let mut batch = log.begin().await?;
        let logged = batch.state().data_sets().contains_key(&row.id.to_string());
        let mut tx = self.begin().await?;
        let before = sqlx::query("SELECT text FROM manifests WHERE dataset = $1")
            .bind(&row.id.0[..])
            .fetch_optional(&mut *tx)
            .await?;
        let before = before.map(|row| Manifest::parse(row.try_get(0)?).map_err(decode_error)).transpose()?;
        let manifest = match (before, stated) {
            (Some(before), Some(new)) if new != before && new.clone().into_parts() != before => {
                return Ok(None);
            }
            (Some(before), _) => Some(before),
            (None, Some(new)) if logged => Some(new.into_parts()),
            (None, new) => new,
        };
        let entries = manifest.as_ref().map_or_else(|| vec![unstated(row)], Manifest::entries);
        for set in entries {
            if !batch.state().data_sets().contains_key(&set.id) {
                batch.add(set)?;
            }
        }
        if let Some(manifest) = &manifest {
            sqlx::query("INSERT INTO manifests (dataset, text) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(&row.id.0[..])
                .bind(manifest.text())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("INSERT INTO datasets (id, vocabulary, tokens, created_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
            .bind(&row.id.0[..])
            .bind(i64::from(row.vocabulary))
            .bind(row.tokens.cast_signed())
            .bind(wall_ms())
            .execute(&mut *tx)
            .await?;
        for (position, hash) in blocks.iter().enumerate() {
            sqlx::query(
                "INSERT INTO blocks (dataset, position, hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(&row.id.0[..])
            .bind(position.cast_signed() as i64)
            .bind(&hash.0[..])
            .execute(&mut *tx)
            .await?;
        }
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(Some(manifest.map_or_else(|| vec![row.id.to_string()], |manifest| manifest.sources())))
    }

    /// What is said about a data set, if anything is.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn manifest(&self, dataset: &BlobHash) -> Result<Option<Manifest>, DbError> {
        let row = sqlx::query("SELECT text FROM manifests WHERE dataset = $1")
            .bind(&dataset.0[..])
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Manifest::parse(row.try_get(0)?).map_err(decode_error)).transpose()
    }

    /// Under which ids the data sets of a run stand in the log: their parts, or themselves. Each once.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn sources(&self, request: &NewRun) -> Result<Vec<String>, DbError> {
        let mut ids = vec![&request.train, &request.validation];
        ids.dedup();
        let mut sources = Vec::new();
        for id in ids {
            let manifest = match id.parse() {
                Ok(id) => self.manifest(&id).await?,
                Err(_) => None,
            };
            sources.extend(manifest.map_or_else(|| vec![id.clone()], |manifest| manifest.sources()));
        }
        Ok(sources)
    }

    /// All data sets, with what is said about them.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn all_datasets(&self) -> Result<Vec<(DataSetRow, Option<Manifest>)>, DbError> {
        let rows = sqlx::query(
            "SELECT id, vocabulary, tokens, text FROM datasets LEFT JOIN manifests ON manifests.dataset = datasets.id
             ORDER BY created_ms, id",
        )
        .fetch_all(&self.pool)
        .await?;
        let number = |row: &AnyRow, at: usize| row.try_get::<i64, _>(at);
        rows.iter()
            .map(|row| {
                let (vocabulary, tokens) = (number(row, 1)? as u32, number(row, 2)? as u64);
                let manifest: Option<&str> = row.try_get(3)?;
                let manifest = manifest.map(Manifest::parse).transpose().map_err(decode_error)?;
                Ok((DataSetRow { id: BlobHash(bytes(row, 0)?), vocabulary, tokens }, manifest))
            })
            .collect()
    }

    /// One data set.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn dataset(&self, id: &BlobHash) -> Result<Option<DataSetRow>, DbError> {
        let row = sqlx::query("SELECT vocabulary, tokens FROM datasets WHERE id = $1")
            .bind(&id.0[..])
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| {
            let number = |at: usize| row.try_get::<i64, _>(at);
            Ok(DataSetRow { id: *id, vocabulary: number(0)? as u32, tokens: number(1)? as u64 })
        })
        .transpose()
    }

    /// Names of a data set's blocks, in order; none of a data set that is not there.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn block_names(&self, dataset: &BlobHash) -> Result<Vec<BlobHash>, DbError> {
        let rows = sqlx::query("SELECT hash FROM blocks WHERE dataset = $1 ORDER BY position")
            .bind(&dataset.0[..])
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| bytes(row, 0).map(BlobHash)).collect()
    }

    /// Records a run. With an idempotency key that is known already, nothing is written and the run of that key is
    /// returned.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn add_run(
        &self,
        log: &Log,
        run: &RunRow,
        parameters: BlobHash,
        key: Option<&str>,
    ) -> Result<JobId, LogError> {
        let data_sets = self.sources(&run.request).await?;
        let mut batch = log.begin().await?;
        let mut tx = self.begin().await?;
        let inserted = insert_run(&mut tx, run, key, wall_ms()).await?;
        if let (false, Some(key)) = (inserted, key) {
            tx.rollback().await?;
            return self.run_of_key(key).await?.ok_or(sqlx::Error::RowNotFound.into());
        }
        batch.add(records::run(run, parameters, data_sets))?;
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(run.id)
    }

    /// The run that was created under a key.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn run_of_key(&self, key: &str) -> Result<Option<JobId>, DbError> {
        let row = sqlx::query("SELECT id FROM runs WHERE idempotency_key = $1")
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| bytes(&row, 0).map(JobId)).transpose()
    }

    /// One run.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn run(&self, id: &JobId) -> Result<Option<RunRow>, DbError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {RUN_COLUMNS} FROM runs WHERE id = $1")))
            .bind(&id.0[..])
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| run_row(&row)).transpose()
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn runs(&self) -> Result<Vec<RunRow>, DbError> {
        let query = format!("SELECT {RUN_COLUMNS} FROM runs ORDER BY created_ms DESC, id LIMIT $1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(MAX_LISTED_JOBS.cast_signed() as i64)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(run_row).collect()
    }

    /// Runs that go on, or could.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn open_runs(&self) -> Result<Vec<RunRow>, DbError> {
        let query = format!(
            "SELECT {RUN_COLUMNS} FROM runs WHERE state IN ('running', 'paused') ORDER BY created_ms, id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await?;
        rows.iter().map(run_row).collect()
    }

    /// Records that a run pauses, goes on or ended. `false` if it had ended before.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn set_run_state(
        &self,
        id: &JobId,
        state: RunState,
        reason: Option<&str>,
    ) -> Result<bool, DbError> {
        let ended = matches!(state, RunState::Done | RunState::Canceled).then(wall_ms);
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE runs SET state = $1, reason = $2, ended_ms = $3 WHERE id = $4 AND state IN ('running', 'paused')",
        )
        .bind(state.name())
        .bind(reason)
        .bind(ended)
        .bind(&id.0[..])
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Records that a run pauses. The reason of one that pauses already stays.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn pause_run(&self, id: &JobId, reason: &str) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE runs SET state = 'paused', reason = $1 WHERE id = $2 AND state = 'running'")
            .bind(reason)
            .bind(&id.0[..])
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// Makes a closed round durable, with its updates, all or nothing.
    ///
    /// # Errors
    /// What the database says; a round that was closed before among it.
    pub(crate) async fn close_round(
        &self,
        log: &Log,
        run: &JobId,
        round: &RoundRow,
        updates: &[UpdateRow],
        sites: &Counts,
    ) -> Result<(), LogError> {
        let mut batch = log.begin().await?;
        let mut tx = self.begin().await?;
        insert_round(&mut tx, run, round, updates).await?;
        count_sites(&mut tx, sites).await?;
        for body in records::round(*run, round, updates) {
            batch.add(body)?;
        }
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// Records a run of the relay that is followed: it stands in the log.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn copy_run(&self, run: &RunRow, created_ms: i64) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        insert_run(&mut tx, run, None, created_ms).await?;
        tx.commit().await
    }

    /// Records a closed round of the relay that is followed: it stands in the log.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn copy_round(
        &self,
        run: &JobId,
        round: &RoundRow,
        updates: &[UpdateRow],
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        insert_round(&mut tx, run, round, updates).await?;
        tx.commit().await
    }

    /// Closed rounds of a run from a number on, in order.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn rounds(&self, run: &JobId, from: u64) -> Result<Vec<RoundRow>, DbError> {
        let rows = sqlx::query(
            "SELECT round, parameters, next_parameters, step, step_bytes, checkpoint, checkpoint_bytes, info, combined
             FROM rounds WHERE run = $1 AND round >= $2 ORDER BY round",
        )
        .bind(&run.0[..])
        .bind(from.cast_signed())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(round_row).collect()
    }

    /// The figures of a run's closed rounds, in order.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn history(&self, run: &JobId) -> Result<Vec<RoundInfo>, DbError> {
        let rows = sqlx::query("SELECT info FROM rounds WHERE run = $1 ORDER BY round")
            .bind(&run.0[..])
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| serde_json::from_str(row.try_get(0)?).map_err(decode_error)).collect()
    }

    /// The updates of a closed round.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn updates(&self, run: &JobId, round: u64) -> Result<Vec<UpdateRow>, DbError> {
        let rows = sqlx::query(
            "SELECT worker, volunteer, backend, weight, audited, verdict, hash, bytes, task FROM updates
             WHERE run = $1 AND round = $2 ORDER BY position",
        )
        .bind(&run.0[..])
        .bind(round.cast_signed())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(UpdateRow {
                    worker: row.try_get::<i64, _>(0)? as u32,
                    volunteer: VolunteerId(bytes(row, 1)?),
                    backend: names::parse_backend(row.try_get(2)?).ok_or(sqlx::Error::RowNotFound)?,
                    weight: row.try_get::<i64, _>(3)? as u32,
                    audited: row.try_get::<i64, _>(4)? != 0,
                    verdict: row.try_get(5)?,
                    result: blob(row, 6, 7)?,
                    task: row.try_get(8)?,
                })
            })
            .collect()
    }

    /// Whether a blob belongs to a run: those are for everybody.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn is_public(&self, hash: &BlobHash) -> Result<bool, DbError> {
        let query = format!(
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM ({RUN_BLOBS}) AS every WHERE hash = $1) THEN 1 ELSE 0 END"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(&hash.0[..]).fetch_one(&self.pool).await?;
        Ok(row.try_get::<i64, _>(0)? != 0)
    }
}

/// Every blob that runs and evals need.
pub(crate) const RUN_BLOBS: &str = "SELECT hash FROM blocks
     UNION ALL SELECT hash FROM updates
     UNION ALL SELECT parameters AS hash FROM candidates
     UNION ALL SELECT card AS hash FROM candidates WHERE card IS NOT NULL
     UNION ALL SELECT items AS hash FROM eval_shards
     UNION ALL SELECT step AS hash FROM rounds
     UNION ALL SELECT checkpoint AS hash FROM rounds WHERE checkpoint IS NOT NULL
     UNION ALL SELECT checkpoint AS hash FROM runs
     UNION ALL SELECT tokenizer AS hash FROM runs WHERE tokenizer IS NOT NULL";
