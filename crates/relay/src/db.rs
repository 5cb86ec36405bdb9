//! Records in SQLite. Only what is here survives; leases and sessions do not need to.

use crate::accepted::ACCEPTED_FILES;
use crate::log::{Log, LogError, records};
use crate::names;
use crate::runs::store::RUN_BLOBS;
use potluck_proto::{BlobRef, RejectReason};
use potluck_schedule::{AcceptedTile, Grid, JobSpec, Record};
use potluck_types::limits::MAX_LISTED_JOBS;
use potluck_types::{BlobHash, DType, JobId, MatmulShape, Tile, VolunteerId};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Executor as _, Row as _, Sqlite, SqliteConnection, Transaction};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, OwnedMutexGuard};
use utoipa::ToSchema;

/// The write-ahead log is copied into the database at so many pages: 32 MB. Copying synchronizes both, and pages that were
/// written several times meanwhile are copied once.
const CHECKPOINT_PAGES: u32 = 8000;
/// Pages that a connection keeps in memory, in kB. What a commit of 512 results changes has to fit: else pages are written and read
/// again before it ends.
const CACHE_KB: u32 = 32_768;

/// What the database says when it fails.
pub(crate) type DbError = sqlx::Error;

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

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pub(crate) pool: SqlitePool,
    turn: Arc<Mutex<()>>,
}

/// A transaction that writes, and its turn: SQLite lets one write at a time, and who finds it busy looks again after a pause that
/// grows. Dropped, it is as if it had not been.
#[derive(Debug)]
pub(crate) struct Writing {
    transaction: Transaction<'static, Sqlite>,
    _turn: OwnedMutexGuard<()>,
}

impl Writing {
    /// Returns when it is on disk.
    ///
    /// # Errors
    /// What SQLite says; nothing of it is kept then.
    pub(crate) async fn commit(self) -> Result<(), DbError> {
        self.transaction.commit().await
    }

    /// Gives it up.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn rollback(self) -> Result<(), DbError> {
        self.transaction.rollback().await
    }
}

impl Deref for Writing {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.transaction
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Db {
    /// Opens or creates the database.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn open(path: &Path) -> Result<Self, DbError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on disk before it is reported: nothing acknowledged is lost to a power cut.
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .pragma("cache_size", format!("-{CACHE_KB}"))
            .pragma("temp_store", "MEMORY")
            .busy_timeout(std::time::Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        pool.execute(include_str!("schema.sql")).await?;
        Ok(Self::of(pool))
    }

    /// A database that is open.
    pub(crate) fn of(pool: SqlitePool) -> Self {
        Self { pool, turn: Arc::default() }
    }

    /// Begins a transaction that writes. It takes SQLite's write lock at once: one that reads first and then writes would fail
    /// if another had been committed in between, and no waiting would help it.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn begin(&self) -> Result<Writing, DbError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        Ok(Writing { transaction: self.pool.begin_with("BEGIN IMMEDIATE").await?, _turn: turn })
    }

    /// Counts this start of the relay.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn next_incarnation(&self, commitment: &[u8; 32]) -> Result<u32, DbError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('incarnation', 1)
             ON CONFLICT (name) DO UPDATE SET value = meta.value + 1 RETURNING value",
        )
        .fetch_one(&mut *tx)
        .await?;
        let incarnation: i64 = row.try_get(0)?;
        sqlx::query("INSERT INTO epochs (incarnation, commitment, started_ms) VALUES (?, ?, ?)")
            .bind(incarnation)
            .bind(&commitment[..])
            .bind(wall_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(incarnation as u32)
    }

    /// Makes starts count from beyond a number: those of the relay that led the log before.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn raise_incarnation(&self, to: u32) -> Result<(), DbError> {
        sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('incarnation', ?)
             ON CONFLICT (name) DO UPDATE SET value = MAX(meta.value, excluded.value)",
        )
        .bind(i64::from(to))
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Records a job with its panels. With an idempotency key that is known already, nothing is written and
    /// the job of that key is returned.
    ///
    /// # Errors
    /// What SQLite says.
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
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING",
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
                sqlx::query("INSERT INTO panels (job, side, position, hash, bytes) VALUES (?, ?, ?, ?, ?)")
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
    /// What SQLite says.
    pub(crate) async fn job_of_key(&self, key: &str) -> Result<Option<JobId>, DbError> {
        let row = sqlx::query("SELECT id FROM jobs WHERE idempotency_key = ?")
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| bytes(&row, 0).map(JobId)).transpose()
    }

    /// One job.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn job(&self, id: &JobId) -> Result<Option<JobRow>, DbError> {
        let row = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs WHERE id = ?",
        )
        .bind(&id.0[..])
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| job_row(&row)).transpose()
    }

    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn jobs(&self) -> Result<Vec<JobRow>, DbError> {
        let rows = sqlx::query(
            "SELECT id, name, state, dtype, m, k, n, a, b, transpose_b, created_ms, ended_ms FROM jobs
             ORDER BY created_ms DESC, id LIMIT ?",
        )
        .bind(MAX_LISTED_JOBS.cast_signed() as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(job_row).collect()
    }

    /// All jobs, the oldest first.
    ///
    /// # Errors
    /// What SQLite says.
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
    /// What SQLite says.
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
    /// What SQLite says.
    pub(crate) async fn panels(&self, id: &JobId) -> Result<[Vec<BlobRef>; 2], DbError> {
        let rows = sqlx::query("SELECT side, hash, bytes FROM panels WHERE job = ? ORDER BY side, position")
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
    /// What SQLite or the log says.
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
            "INSERT INTO rejected (job, shard, volunteer, backend, reason, rejected_ms) VALUES (?, ?, ?, ?, ?, ?)",
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
    /// What SQLite says.
    pub(crate) async fn accepted(&self, id: &JobId) -> Result<Vec<AcceptedTile>, DbError> {
        let rows = sqlx::query(
            "SELECT shard, row_start, row_end, col_start, col_end, depth_start, depth_end, hash, bytes, volunteer,
             backend, compute_ms FROM accepted WHERE job = ? ORDER BY depth_start, row_start, col_start",
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
    /// What SQLite says.
    pub(crate) async fn end_job(&self, id: &JobId, state: JobState) -> Result<bool, DbError> {
        let done = sqlx::query("UPDATE jobs SET state = ?, ended_ms = ? WHERE id = ? AND state = 'running'")
            .bind(state.name())
            .bind(wall_ms())
            .bind(&id.0[..])
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Who contributed to a job, most first.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn contributors(&self, id: &JobId) -> Result<Vec<ContributorRow>, DbError> {
        let rows = sqlx::query(
            "SELECT volunteer, backend, COUNT(*), SUM((row_end - row_start) * (col_end - col_start)), SUM(compute_ms)
             FROM accepted WHERE job = ? GROUP BY volunteer, backend ORDER BY 3 DESC, 1 LIMIT 1000",
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
    /// What SQLite says.
    pub(crate) async fn rejections(&self, id: &JobId) -> Result<Vec<(VolunteerId, String, i64)>, DbError> {
        let rows = sqlx::query(
            "SELECT volunteer, reason, COUNT(*) FROM rejected WHERE job = ? GROUP BY volunteer, reason
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
    /// What SQLite says.
    pub(crate) async fn check_cost(&self, id: &JobId) -> Result<(i64, i64), DbError> {
        let row = sqlx::query("SELECT COUNT(*), COALESCE(SUM(check_us), 0) FROM accepted WHERE job = ?")
            .bind(&id.0[..])
            .fetch_one(&self.pool)
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Records of volunteers, those with rejections first.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn volunteers(&self, most: usize) -> Result<Vec<(VolunteerId, Record)>, DbError> {
        let rows = sqlx::query(
            "SELECT id, accepted, rejected FROM volunteers ORDER BY rejected DESC, accepted DESC LIMIT ?",
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
    /// What SQLite says.
    pub(crate) async fn needed_blobs(&self) -> Result<std::collections::HashSet<BlobHash>, DbError> {
        let query = format!(
            "SELECT hash FROM panels WHERE job IN (SELECT id FROM jobs WHERE state = 'running')
             UNION {ACCEPTED_FILES}
             UNION {RUN_BLOBS}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await?;
        rows.iter().map(|row| bytes(row, 0).map(BlobHash)).collect()
    }

    /// Closes the database after what is under way.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
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
        "INSERT INTO volunteers (id, accepted, rejected) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET
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

pub(crate) fn bytes<const N: usize>(row: &SqliteRow, at: usize) -> Result<[u8; N], DbError> {
    let raw: &[u8] = row.try_get(at)?;
    raw.try_into()
        .map_err(|_| sqlx::Error::Decode(format!("column {at} has {} bytes, not {N}", raw.len()).into()))
}

fn job_row(row: &SqliteRow) -> Result<JobRow, DbError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_reads_before_it_writes_is_not_refused_because_somebody_wrote_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("potluck.db")).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("SELECT value FROM meta").fetch_all(&mut *tx).await.unwrap();
        let other = db.clone();
        let other = tokio::spawn(async move { other.next_incarnation(&[1; 32]).await });
        // Time enough for the other one to be done, if it need not wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        sqlx::query("INSERT INTO meta (name, value) VALUES ('incarnation', 7)")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(other.await.unwrap().unwrap(), 8);
    }
}
