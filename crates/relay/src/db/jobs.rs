//! Jobs of matrix products: what was asked for, accepted and refused; and the records of volunteers.

use super::{Db, DbError, Writing, bytes, wall_ms};
use crate::accepted::ACCEPTED_FILES;
use crate::log::{Log, LogError, records};
use crate::names;
use crate::runs::store::RUN_BLOBS;
use potluck_proto::{BlobRef, RejectReason};
use potluck_schedule::{AcceptedTile, Grid, JobSpec, Record};
use potluck_types::limits::MAX_LISTED_JOBS;
use potluck_types::{BlobHash, DType, JobId, MatmulShape, Tile, VolunteerId};
use sqlx::Row as _;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

/// A job as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobRow {
    /// The job.
    pub(crate) id: JobId,
    /// What its submitter called it.
    pub(crate) name: String,
    /// Whether it runs or how it ended.
    pub(crate) state: JobState,
    /// Element type.
    pub(crate) dtype: DType,
    /// Shape of the product.
    pub(crate) shape: MatmulShape,
    /// Matrix A, as uploaded.
    pub(crate) a: BlobHash,
    /// Matrix B, as uploaded.
    pub(crate) b: BlobHash,
    /// Whether B was uploaded transposed.
    pub(crate) transpose_b: bool,
    /// When it was created, in ms since 1970.
    pub(crate) created_ms: i64,
    /// When it ended, in ms since 1970.
    pub(crate) ended_ms: Option<i64>,
}

/// Whether a job runs or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum JobState {
    /// Shards are handed out.
    Running,
    /// Every tile is durable.
    Done,
    /// The submitter canceled it.
    Canceled,
}

impl JobState {
    /// Its name in database and API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Canceled => "canceled",
        }
    }
}

/// Who contributed to a job, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContributorRow {
    /// Public name of the volunteer.
    pub(crate) volunteer: VolunteerId,
    /// What computed.
    pub(crate) backend: String,
    /// Shards accepted.
    pub(crate) shards: i64,
    /// Elements of C in them, counted once a slice of K.
    pub(crate) elements: i64,
    /// Time that kernels took, in ms, as the volunteer says.
    pub(crate) compute_ms: i64,
}

impl Db {
    /// Records a job with its panels. With an idempotency key that is known already, nothing is written and
    /// the job of that key is returned.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn add_job(
        &self,
        log: &Log,
        job: &JobRow,
        spec: &JobSpec,
        key: Option<&str>,
    ) -> Result<JobId, LogError> {
        let mut batch = log.begin().await?;
        let mut tx = self.begin().await?;
        let inserted = sqlx::query(
            "INSERT INTO jobs (id, name, state, dtype, m, k, n, a, b, transpose_b, idempotency_key, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (idempotency_key) DO NOTHING",
        )
        .bind(&job.id.0[..])
        .bind(&job.name)
        .bind(job.state.name())
        .bind(job.dtype.name())
        .bind(i64::from(job.shape.m))
        .bind(i64::from(job.shape.k))
        .bind(i64::from(job.shape.n))
        .bind(&job.a.0[..])
        .bind(&job.b.0[..])
        .bind(i64::from(job.transpose_b))
        .bind(key)
        .bind(job.created_ms)
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            tx.rollback().await?;
            let known = match key {
                Some(key) => self.job_of_key(key).await?,
                None => None,
            };
            return known.ok_or(sqlx::Error::RowNotFound.into());
        }
        batch.add(records::job(job))?;
        for (side, panels) in [(0_i64, &spec.a), (1, &spec.bt)] {
            for (position, panel) in panels.iter().enumerate() {
                sqlx::query(
                    "INSERT INTO panels (job, side, position, hash, bytes) VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(&job.id.0[..])
                .bind(side)
                .bind(position.cast_signed() as i64)
                .bind(&panel.hash.0[..])
                .bind(panel.bytes.cast_signed())
                .execute(&mut *tx)
                .await?;
            }
        }
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(job.id)
    }

    /// The job that was created under a key.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn job_of_key(&self, key: &str) -> Result<Option<JobId>, DbError> {
        let row = sqlx::query("SELECT id FROM jobs WHERE idempotency_key = $1")
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| bytes(&row, 0).map(JobId)).transpose()
    }

    /// One job.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn job(&self, id: &JobId) -> Result<Option<JobRow>, DbError> {
        let row = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs WHERE id = $1",
        )
        .bind(&id.0[..])
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| job_row(&row)).transpose()
    }

    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn jobs(&self) -> Result<Vec<JobRow>, DbError> {
        let rows = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs
             ORDER BY created_ms DESC, id LIMIT $1",
        )
        .bind(MAX_LISTED_JOBS.cast_signed() as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job_row).collect()
    }

    /// All jobs, the oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn all_jobs(&self) -> Result<Vec<JobRow>, DbError> {
        let rows = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs
             ORDER BY created_ms, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job_row).collect()
    }

    /// Jobs that run.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn running(&self) -> Result<Vec<JobRow>, DbError> {
        let rows = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs
             WHERE state = 'running' ORDER BY created_ms, id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job_row).collect()
    }

    /// A job's panels: of A, of B transposed.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn panels(&self, id: &JobId) -> Result<[Vec<BlobRef>; 2], DbError> {
        let rows = sqlx::query("SELECT side, hash, bytes FROM panels WHERE job = $1 ORDER BY side, position")
            .bind(&id.0[..])
            .fetch_all(&self.pool)
            .await?;
        let mut panels = [Vec::new(), Vec::new()];
        for row in rows {
            let side = usize::from(row.try_get::<i64, _>(0)? != 0);
            panels[side]
                .push(BlobRef { hash: BlobHash(bytes(&row, 1)?), bytes: row.try_get::<i64, _>(2)? as u64 });
        }
        Ok(panels)
    }

    /// Records a rejected result: with what was claimed if it is a matrix job's. Those of runs are logged when their round is
    /// closed.
    ///
    /// # Errors
    /// What the database or the log says.
    pub(crate) async fn reject(
        &self,
        log: &Log,
        (job, shard, claim): (&JobId, u32, Option<&BlobRef>),
        volunteer: &VolunteerId,
        backend: &str,
        reason: RejectReason,
    ) -> Result<(), LogError> {
        let mut batch = log.begin().await?;
        if let Some(claim) = claim {
            batch.add(records::rejected(*job, shard, volunteer, claim, reason))?;
        }
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO rejected (job, shard, volunteer, backend, reason, rejected_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&job.0[..])
        .bind(i64::from(shard))
        .bind(&volunteer.0[..])
        .bind(backend)
        .bind(reason.name())
        .bind(wall_ms())
        .execute(&mut *tx)
        .await?;
        count_result(&mut tx, volunteer, 0, 1).await?;
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// A job's accepted tiles.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn accepted(&self, id: &JobId) -> Result<Vec<AcceptedTile>, DbError> {
        let rows = sqlx::query(
            "SELECT shard, row_start, row_end, col_start, col_end, depth_start, depth_end, hash, bytes, volunteer,
             backend, compute_ms FROM accepted WHERE job = $1 ORDER BY depth_start, row_start, col_start",
        )
        .bind(&id.0[..])
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let number = |at: usize| row.try_get::<i64, _>(at).map(|n| n as u32);
                let backend = names::parse_backend(row.try_get(10)?).ok_or(sqlx::Error::RowNotFound)?;
                Ok(AcceptedTile {
                    job: *id,
                    shard: number(0)?,
                    tile: Tile {
                        rows: number(1)?..number(2)?,
                        cols: number(3)?..number(4)?,
                        depth: number(5)?..number(6)?,
                    },
                    result: BlobRef {
                        hash: BlobHash(bytes(row, 7)?),
                        bytes: row.try_get::<i64, _>(8)? as u64,
                    },
                    volunteer: VolunteerId(bytes(row, 9)?),
                    backend,
                    compute_ms: number(11)?,
                })
            })
            .collect()
    }

    /// Records that a job ended. `false` if it did not run any more.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn end_job(&self, id: &JobId, state: JobState) -> Result<bool, DbError> {
        let mut tx = self.begin().await?;
        let done =
            sqlx::query("UPDATE jobs SET state = $1, ended_ms = $2 WHERE id = $3 AND state = 'running'")
                .bind(state.name())
                .bind(wall_ms())
                .bind(&id.0[..])
                .execute(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Who contributed to a job, most first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn contributors(&self, id: &JobId) -> Result<Vec<ContributorRow>, DbError> {
        let rows = sqlx::query(
            "SELECT volunteer, backend, COUNT(*), CAST(SUM((row_end - row_start) * (col_end - col_start)) AS BIGINT),
             CAST(SUM(compute_ms) AS BIGINT)
             FROM accepted WHERE job = $1 GROUP BY volunteer, backend ORDER BY 3 DESC, 1 LIMIT 1000",
        )
        .bind(&id.0[..])
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ContributorRow {
                    volunteer: VolunteerId(bytes(row, 0)?),
                    backend: row.try_get(1)?,
                    shards: row.try_get(2)?,
                    elements: row.try_get(3)?,
                    compute_ms: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Rejected results of a job: volunteer, reason, how many.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn rejections(&self, id: &JobId) -> Result<Vec<(VolunteerId, String, i64)>, DbError> {
        let rows = sqlx::query(
            "SELECT volunteer, reason, COUNT(*) FROM rejected WHERE job = $1 GROUP BY volunteer, reason
             ORDER BY 3 DESC, 1 LIMIT 1000",
        )
        .bind(&id.0[..])
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((VolunteerId(bytes(row, 0)?), row.try_get(1)?, row.try_get(2)?))).collect()
    }

    /// Accepted shards of a job, and the time that checking them took, in microseconds.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn check_cost(&self, id: &JobId) -> Result<(i64, i64), DbError> {
        let row = sqlx::query(
            "SELECT COUNT(*), CAST(COALESCE(SUM(check_us), 0) AS BIGINT) FROM accepted WHERE job = $1",
        )
        .bind(&id.0[..])
        .fetch_one(&self.pool)
        .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Records of volunteers, those with rejections first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn volunteers(&self, most: usize) -> Result<Vec<(VolunteerId, Record)>, DbError> {
        let rows = sqlx::query(
            "SELECT id, accepted, rejected FROM volunteers ORDER BY rejected DESC, accepted DESC LIMIT $1",
        )
        .bind(most.cast_signed() as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let count = |at: usize| row.try_get::<i64, _>(at).map(|n| n as u64);
                Ok((VolunteerId(bytes(row, 0)?), Record { accepted: count(1)?, rejected: count(2)? }))
            })
            .collect()
    }

    /// Hashes of blobs that running or finished jobs need, or runs; all others may go.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn needed_blobs(&self) -> Result<std::collections::HashSet<BlobHash>, DbError> {
        let query = format!(
            "SELECT hash FROM panels WHERE job IN (SELECT id FROM jobs WHERE state = 'running')
             UNION {ACCEPTED_FILES}
             UNION {RUN_BLOBS}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| bytes(row, 0).map(BlobHash)).collect()
    }
}

/// Adds to a volunteer's record.
pub(crate) async fn count_result(
    tx: &mut Writing,
    volunteer: &VolunteerId,
    accepted: i64,
    rejected: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO volunteers (id, accepted, rejected) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET
         accepted = volunteers.accepted + excluded.accepted, rejected = volunteers.rejected + excluded.rejected",
    )
    .bind(&volunteer.0[..])
    .bind(accepted)
    .bind(rejected)
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Hash of what a job asks for: shape and type of the product, and the matrices.
pub(crate) fn job_digest(job: &JobRow) -> BlobHash {
    let shape = job.shape;
    let text = format!(
        "matmul {} {}x{}x{} {} {} {}",
        job.dtype.name(),
        shape.m,
        shape.k,
        shape.n,
        job.a,
        job.b,
        if job.transpose_b { "transposed" } else { "plain" }
    );
    BlobHash::of(text.as_bytes())
}

fn job_row(row: &AnyRow) -> Result<JobRow, DbError> {
    let number = |at: usize| row.try_get::<i64, _>(at).map(|n| n as u32);
    let state = match row.try_get(2)? {
        "running" => JobState::Running,
        "done" => JobState::Done,
        _ => JobState::Canceled,
    };
    let dtype: &str = row.try_get(3)?;
    Ok(JobRow {
        id: JobId(bytes(row, 0)?),
        name: row.try_get(1)?,
        state,
        dtype: dtype.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        shape: MatmulShape { m: number(4)?, k: number(5)?, n: number(6)? },
        a: BlobHash(bytes(row, 7)?),
        b: BlobHash(bytes(row, 8)?),
        transpose_b: row.try_get::<i64, _>(9)? != 0,
        created_ms: row.try_get(10)?,
        ended_ms: row.try_get(11)?,
    })
}

impl JobRow {
    /// The job as the state machine knows it.
    pub(crate) fn spec(&self, grid: Grid, [a, bt]: [Vec<BlobRef>; 2]) -> JobSpec {
        JobSpec { id: self.id, name: self.name.clone(), dtype: self.dtype, grid, a, bt }
    }
}
