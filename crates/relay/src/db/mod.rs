//! Records, in SQLite or in PostgreSQL: the same tables and the same queries. Only what is here survives; leases and sessions do
//! not need to.
//!
//! `engine.rs` opens either, and knows where they differ; `fence.rs` lets one relay at a time write to a database of PostgreSQL;
//! `nodes.rs` says which of several leads; `jobs.rs` is what jobs of matrix products record; `place.rs` says where a relay's records are; `tables.rs` copies all of them
//! from one database to another, and `migrate.rs` moves a relay with it. Other records
//! are beside what makes them, in files called `store.rs`.
//!
//! Values are bound as `$1`, `$2`, which both know. Sums are cast to BIGINT, for PostgreSQL's have another type; conditions that are
//! counted or returned become numbers by CASE.

mod engine;
mod fence;
mod jobs;
mod migrate;
mod nodes;
mod place;
mod tables;

pub(crate) use engine::{Engine, create_file, open_files};
pub use engine::{StoreUrl, StoreUrlError};
use fence::answered;
pub(crate) use fence::{Fence, ROOM};
pub(crate) use jobs::{JobRow, JobState, count_result, job_digest};
pub use migrate::{MigrateError, migrate_blobs, migrate_records};
pub(crate) use nodes::{Leader, Observer, Seen};
pub use place::WhichStore;
pub(crate) use place::{Marker, Records};
pub(crate) use tables::{CopyError, copy_all};

use potluck_types::BlobHash;
use sqlx::any::AnyRow;
use sqlx::{Any, AnyConnection, AnyPool, Row as _, Transaction};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// What the database says when it fails.
pub(crate) type DbError = sqlx::Error;

/// What is under way may take so long when the database is closed.
const CLOSE: Duration = Duration::from_secs(5);
/// Between two looks at what became of a commit whose answer was lost.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pub(crate) pool: AnyPool,
    pub(crate) engine: Engine,
    /// Of a database that other relays could reach too: ours is the right to write.
    fence: Option<Arc<Fence>>,
    turn: Arc<Mutex<()>>,
}

/// A transaction that writes, and its turn: SQLite lets one write at a time, and who finds it busy looks again after a pause that
/// grows. Dropped, it is as if it had not been.
#[derive(Debug)]
pub(crate) struct Writing {
    transaction: Transaction<'static, Any>,
    /// The transaction's number, by which it can be found out later what became of it, and whom to ask.
    number: Option<(i64, Arc<Fence>, AnyPool)>,
    pub(crate) engine: Engine,
    _turn: OwnedMutexGuard<()>,
}

impl Writing {
    /// Returns when it is on disk.
    ///
    /// A connection may break after PostgreSQL took the commit and before it says so: then it is asked what became of the
    /// transaction, for as long as that takes. To take it for lost would be as wrong as to take it for done.
    ///
    /// # Errors
    /// What the database says; nothing of it is kept then.
    pub(crate) async fn commit(self) -> Result<(), DbError> {
        let Some((number, fence, pool)) = self.number else { return self.transaction.commit().await };
        let Err(error) = answered(self.transaction.commit()).await else { return Ok(()) };
        tracing::warn!(%error, "a commit was not answered: asking what became of it");
        loop {
            match answered(fence.is_committed(number, &pool)).await {
                Ok(true) => return Ok(()),
                // Closed: the relay ends, and the next start reads what there is.
                Ok(false) | Err(DbError::PoolClosed | DbError::Configuration(_)) => return Err(error),
                Err(error) => tracing::warn!(%error, "the store cannot be reached"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Gives it up.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn rollback(self) -> Result<(), DbError> {
        self.transaction.rollback().await
    }
}

impl Deref for Writing {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A column that is not what it should be.
pub(crate) fn decode_error(error: impl std::error::Error + Send + Sync + 'static) -> DbError {
    sqlx::Error::Decode(Box::new(error))
}

/// A hash in a column, if there is one.
pub(crate) fn maybe_hash(row: &AnyRow, at: usize) -> Result<Option<BlobHash>, DbError> {
    let raw: Option<&[u8]> = row.try_get(at)?;
    raw.map(|_| bytes(row, at).map(BlobHash)).transpose()
}

/// Raw bytes of a column.
pub(crate) fn bytes<const N: usize>(row: &AnyRow, at: usize) -> Result<[u8; N], DbError> {
    let raw: &[u8] = row.try_get(at)?;
    raw.try_into()
        .map_err(|_| sqlx::Error::Decode(format!("column {at} has {} bytes, not {N}", raw.len()).into()))
}

/// Where the values of so many rows go: `($1, $2), ($3, $4)`.
pub(crate) fn places(rows: usize, columns: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 1..=columns {
            let _ = write!(text, "{}${}", if column == 1 { "" } else { ", " }, row * columns + column);
        }
        text.push(')');
    }
    text
}

impl Db {
    /// A database that is open.
    pub(crate) fn of(pool: AnyPool, engine: Engine, fence: Option<Fence>) -> Self {
        Self { pool, engine, fence: fence.map(Arc::new), turn: Arc::default() }
    }

    /// Begins a transaction that writes. It takes SQLite's write lock at once: one that reads first and then writes would fail
    /// if another had been committed in between, and no waiting would help it. With PostgreSQL it fails if another relay took
    /// the database over.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn begin(&self) -> Result<Writing, DbError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let Some(fence) = &self.fence else {
            let transaction = self.pool.begin_with(self.engine.begin()).await?;
            return Ok(Writing { transaction, number: None, engine: self.engine, _turn: turn });
        };
        let mut transaction = self.pool.begin_with(self.engine.begin()).await?;
        let number = answered(fence.pass(&mut transaction)).await?;
        let number = Some((number, Arc::clone(fence), self.pool.clone()));
        Ok(Writing { transaction, number, engine: self.engine, _turn: turn })
    }

    /// Begins a transaction that reads: all of it is of one moment.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Any>, DbError> {
        self.pool.begin_with(self.engine.begin_reading()).await
    }

    /// Waits until another relay took the database over: for ever, if none can.
    pub(crate) async fn taken_over(&self) {
        match &self.fence {
            Some(fence) => fence.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Whether no other relay took the database over, as that knows it now.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn holds(&self) -> Result<bool, DbError> {
        match &self.fence {
            Some(fence) => answered(fence.holds(&self.pool)).await,
            None => Ok(true),
        }
    }

    /// Whether the right to write was confirmed within so long.
    pub(crate) fn is_confirmed(&self, within: Duration) -> bool {
        self.fence.as_ref().is_none_or(|fence| fence.is_confirmed(within))
    }

    /// Counts this start of the relay.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn next_incarnation(&self, commitment: &[u8; 32]) -> Result<u32, DbError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('incarnation', 1)
             ON CONFLICT (name) DO UPDATE SET value = meta.value + 1 RETURNING value",
        )
        .fetch_one(&mut *tx)
        .await?;
        let incarnation: i64 = row.try_get(0)?;
        sqlx::query("INSERT INTO epochs (incarnation, commitment, started_ms) VALUES ($1, $2, $3)")
            .bind(incarnation)
            .bind(&commitment[..])
            .bind(wall_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(incarnation as u32)
    }

    /// How often a relay started on these records.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn incarnation(&self) -> Result<u32, DbError> {
        let value: Option<i64> = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'incarnation'")
            .fetch_optional(&self.pool)
            .await?;
        Ok(value.unwrap_or(0) as u32)
    }

    /// Makes starts count from beyond a number: those of the relay that led the log before.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn raise_incarnation(&self, to: u32) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('incarnation', $1) ON CONFLICT (name) DO UPDATE SET value =
             CASE WHEN meta.value < excluded.value THEN excluded.value ELSE meta.value END",
        )
        .bind(i64::from(to))
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// How large it is, if it is no file of ours.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn bytes_on_server(&self) -> Result<Option<u64>, DbError> {
        if self.engine == Engine::Sqlite {
            return Ok(None);
        }
        let bytes: i64 =
            sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&self.pool).await?;
        Ok(Some(bytes.cast_unsigned()))
    }

    /// Closes the database after what is under way.
    pub(crate) async fn close(&self) {
        // A connection that the server left without an answer must not keep the lock from others.
        drop(tokio::time::timeout(CLOSE, self.pool.close()).await);
        if let Some(fence) = &self.fence {
            fence.release().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_reads_before_it_writes_is_not_refused_because_somebody_wrote_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let db = open_files(&folder.path().join("potluck.db")).await.unwrap();
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

    #[test]
    fn rows_have_their_own_places() {
        assert_eq!(places(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
