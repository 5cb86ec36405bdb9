//! Which of a relay's nodes leads, as the store knows it. Who holds the lock (`fence.rs`) leads; the others look here where it is.
//!
//! How long a leader said nothing is measured by the server, by its own clock: no node's clock matters.

use super::fence::{LOCK, answered};
use super::{Db, DbError, StoreUrl, bytes, wall_ms};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, Row as _};
use std::str::FromStr as _;
use std::time::Duration;

/// The connections that hold the lock: one, or none.
const HOLDERS: &str = "FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
     WHERE locktype = 'advisory' AND granted AND objsubid = 1
     AND (CAST(classid AS BIGINT) << 32) + CAST(objid AS BIGINT) = $1
     AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// Milliseconds since that connection last asked for anything. Nothing, where the server does not count them.
const SILENT: &str =
    "CAST(COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - activity.state_change), 0) * 1000 AS BIGINT)";

/// A node that leads, or led last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Where others reach it.
    pub(crate) url: String,
    /// The relay's public key.
    pub(crate) key: [u8; 32],
    /// Tells whether it takes the same tokens as another one.
    pub(crate) tokens: [u8; 32],
}

/// What the store says about its relay's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Who led last; none before the first one.
    pub(crate) leader: Option<Leader>,
    /// For how long whoever holds the lock said nothing; none if nobody holds it.
    pub(crate) silent: Option<Duration>,
}

/// Looks at a store that others write to.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    pool: AnyPool,
    options: AnyConnectOptions,
}

impl Observer {
    /// Connects.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(crate) async fn connect(url: &StoreUrl) -> Result<Self, DbError> {
        super::engine::drivers();
        let options = AnyConnectOptions::from_str(url.text())?;
        let pool = AnyPoolOptions::new().max_connections(1).connect_with(options.clone());
        Ok(Self { pool: answered(pool).await?, options })
    }

    /// The same, by a connection that is made when it is needed.
    pub(crate) fn again(self) -> Self {
        let Self { options, .. } = self;
        Self { pool: AnyPoolOptions::new().max_connections(1).connect_lazy_with(options.clone()), options }
    }

    /// What there is now.
    ///
    /// # Errors
    /// What PostgreSQL says, or its silence.
    pub(crate) async fn look(&self) -> Result<Seen, DbError> {
        answered(self.ask()).await
    }

    async fn ask(&self) -> Result<Seen, DbError> {
        let query = sqlx::AssertSqlSafe(format!("SELECT {SILENT} {HOLDERS}"));
        let silent: Option<i64> = sqlx::query_scalar(query).bind(LOCK).fetch_optional(&self.pool).await?;
        let silent = silent.map(|ms| Duration::from_millis(ms.max(0).cast_unsigned()));
        // Before the first relay there are no tables.
        let is_there: bool =
            sqlx::query_scalar("SELECT to_regclass('leader') IS NOT NULL").fetch_one(&self.pool).await?;
        if !is_there {
            return Ok(Seen { leader: None, silent });
        }
        let row = sqlx::query("SELECT url, relay, tokens FROM leader").fetch_optional(&self.pool).await?;
        let leader = row.map(|row| {
            Ok::<_, DbError>(Leader { url: row.try_get(0)?, key: bytes(&row, 1)?, tokens: bytes(&row, 2)? })
        });
        Ok(Seen { leader: leader.transpose()?, silent })
    }

    /// Ends the connection that holds the lock, if it said nothing for so long.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(crate) async fn end_silent(&self, silent: Duration) -> Result<(), DbError> {
        let query = format!("SELECT pg_terminate_backend(pid) {HOLDERS} AND {SILENT} >= $2");
        let ended = sqlx::query(sqlx::AssertSqlSafe(query)).bind(LOCK).bind(silent.as_millis() as i64);
        answered(ended.fetch_all(&self.pool)).await.map(drop)
    }
}

impl Db {
    /// Says who leads from now on.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn note_leader(&self, leader: &Leader) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM leader").execute(&mut *tx).await?;
        sqlx::query("INSERT INTO leader (since_ms, url, relay, tokens) VALUES ($1, $2, $3, $4)")
            .bind(wall_ms())
            .bind(&leader.url)
            .bind(&leader.key[..])
            .bind(&leader.tokens[..])
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}
