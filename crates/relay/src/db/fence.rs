//! The right to write to a database that other relays can reach too. One relay at a time has it.
//!
//! Two things together: an advisory lock of PostgreSQL, which ends with the connection that took it, so that whoever dies makes
//! room; and the number of this lock's holder, its *term*, which each transaction that writes holds against the one in the
//! database. A relay that was stopped, or cut off, for so long that another one took over finds a higher number there, and
//! nothing of it is written.
//!
//! Each such transaction also raises a second number, *writes*: whoever was not answered reads there what became of its commit.

use super::engine::SESSION;
use super::{DbError, Engine};
use sqlx::any::AnyConnectOptions;
use sqlx::{
    Any, AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Executor as _, Row as _,
    SqlSafeStr as _, Transaction,
};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// The lock, among others in the same database: "potluck" in ASCII.
pub(super) const LOCK: i64 = 0x0070_6f74_6c75_636b;
/// Time between two looks at whether the connection with the lock lives.
const LOOK: Duration = Duration::from_secs(1);

/// An answer takes this long at most, or the connection is taken for broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// A server notices within this that a relay that was killed is gone.
pub(crate) const ROOM: Duration = Duration::from_secs(5);
/// Between two attempts to take the lock.
const ATTEMPTS: Duration = Duration::from_millis(250);

/// A right to write.
#[derive(Debug)]
pub(crate) struct Fence {
    term: i64,
    lost: watch::Receiver<bool>,
    /// When the server last said that this relay has the lock.
    confirmed: watch::Receiver<Instant>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    connection: Arc<Mutex<Option<AnyConnection>>>,
}

/// Another relay writes to the database now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another relay took the store over")]
pub(crate) struct TakenOver;

/// Waits for a server that may never answer.
pub(super) async fn answered<T>(asked: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
    let late = || DbError::Io(io::Error::new(io::ErrorKind::TimedOut, "the store does not answer"));
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
}

/// Takes the lock; `false` if another one has it.
async fn lock(connection: &mut AnyConnection) -> Result<bool, DbError> {
    let taken: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await?;
    Ok(taken)
}

impl Fence {
    /// Takes the right to write, and makes the tables that the database lacks. `None` if another relay has it, and makes no room
    /// for so long.
    pub(super) async fn take(
        options: &AnyConnectOptions,
        pool: &AnyPool,
        room: Duration,
    ) -> Result<Option<Self>, DbError> {
        let mut connection = connect(options).await?;
        let begun = Instant::now();
        while !lock(&mut connection).await? {
            if begun.elapsed() >= room {
                return Ok(None);
            }
            tokio::time::sleep(ATTEMPTS).await;
        }
        pool.execute(sqlx::AssertSqlSafe(Engine::Postgres.schema()).into_sql_str()).await?;
        let term: i64 = sqlx::query_scalar(
            "INSERT INTO meta (name, value) VALUES ('term', 1)
             ON CONFLICT (name) DO UPDATE SET value = meta.value + 1 RETURNING value",
        )
        .fetch_one(&mut connection)
        .await?;
        sqlx::query("INSERT INTO meta (name, value) VALUES ('writes', 0) ON CONFLICT DO NOTHING")
            .execute(&mut connection)
            .await?;
        let connection = Arc::new(Mutex::new(Some(connection)));
        let (say, lost) = watch::channel(false);
        let (confirm, confirmed) = watch::channel(Instant::now());
        let keeper = keep(options.clone(), Arc::clone(&connection), term, (say, confirm));
        Ok(Some(Self { term, lost, confirmed, keeper: Mutex::new(Some(tokio::spawn(keeper))), connection }))
    }

    /// Lets a transaction write, and returns its number: fails if another relay took over. Until it ends, none can.
    pub(super) async fn pass(&self, transaction: &mut Transaction<'static, Any>) -> Result<i64, DbError> {
        let row = sqlx::query(
            "WITH holder AS (SELECT value FROM meta WHERE name = 'term' FOR SHARE)
             UPDATE meta SET value = meta.value + 1 FROM holder WHERE meta.name = 'writes'
             RETURNING holder.value, meta.value",
        )
        .fetch_one(&mut **transaction)
        .await?;
        if row.try_get::<i64, _>(0)? != self.term {
            return Err(DbError::Configuration(Box::new(TakenOver)));
        }
        row.try_get(1)
    }

    /// Whether no other relay took over, as the database knows it now.
    pub(super) async fn holds(&self, pool: &AnyPool) -> Result<bool, DbError> {
        let term: i64 =
            sqlx::query_scalar("SELECT value FROM meta WHERE name = 'term'").fetch_one(pool).await?;
        Ok(term == self.term)
    }

    /// Whether the lock was confirmed within so long.
    pub(super) fn is_confirmed(&self, within: Duration) -> bool {
        !*self.lost.borrow() && self.confirmed.borrow().elapsed() < within
    }

    /// Whether the transaction with this number was committed, once it has ended. No other one of ours can have begun since.
    pub(super) async fn is_committed(&self, number: i64, pool: &AnyPool) -> Result<bool, DbError> {
        // Both rows are locked by the transaction, if it is under way still: this waits for its end.
        let rows =
            sqlx::query("SELECT value FROM meta WHERE name IN ('term', 'writes') ORDER BY name FOR SHARE")
                .fetch_all(pool)
                .await?;
        let numbers = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
        match numbers[..] {
            [term, writes] if term == self.term => Ok(writes >= number),
            // Whose the writes are cannot be told, and this relay ends.
            _ => Err(DbError::Configuration(Box::new(TakenOver))),
        }
    }

    /// Waits until another relay took over.
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // A keeper that is gone was released.
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes room for another relay.
    pub(super) async fn release(&self) {
        if let Some(keeper) = self.keeper.lock().await.take() {
            keeper.abort();
        }
        if let Some(mut connection) = self.connection.lock().await.take() {
            // Answered, which the end of a connection is not: whoever starts next finds it free.
            let unlock = sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK);
            if answered(unlock.execute(&mut connection)).await.is_ok() {
                let _ = answered(connection.close()).await;
            }
        }
    }
}

/// Keeps the lock: the server may restart, and connections break.
async fn keep(
    options: AnyConnectOptions,
    held: Arc<Mutex<Option<AnyConnection>>>,
    term: i64,
    (say, confirm): (watch::Sender<bool>, watch::Sender<Instant>),
) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut held = held.lock().await;
        let asked = Instant::now();
        if let Some(connection) = held.as_mut() {
            // A statement, so that the server knows when this relay was last there (`nodes.rs`).
            if answered(connection.execute("SELECT 1")).await.is_ok() {
                confirm.send_replace(asked);
                continue;
            }
            tracing::warn!("the connection to the store broke");
            *held = None;
        }
        match answered(again(&options, term)).await {
            Ok(Some(connection)) => {
                tracing::info!("the store is there again, and nobody took it over");
                *held = Some(connection);
                confirm.send_replace(asked);
            }
            Ok(None) => {
                tracing::error!("another relay took the store over: this one ends");
                let _ = say.send(true);
                return;
            }
            Err(error) => tracing::warn!(%error, "the store cannot be reached"),
        }
    }
}

/// A connection of which the server knows that it may break.
async fn connect(options: &AnyConnectOptions) -> Result<AnyConnection, DbError> {
    let mut connection = options.connect().await?;
    connection.execute(SESSION).await?;
    Ok(connection)
}

/// Takes the lock once more; `None` if another relay had it meanwhile.
async fn again(options: &AnyConnectOptions, term: i64) -> Result<Option<AnyConnection>, DbError> {
    let mut connection = connect(options).await?;
    let locked = lock(&mut connection).await?;
    let found: i64 =
        sqlx::query_scalar("SELECT value FROM meta WHERE name = 'term'").fetch_one(&mut connection).await?;
    match (found == term, locked) {
        (true, true) => Ok(Some(connection)),
        // Our own connection, which the server does not know to be broken yet, or a relay that is about to raise the number.
        (true, false) => Err(DbError::Configuration("somebody else holds the lock".into())),
        (false, _) => Ok(None),
    }
}
