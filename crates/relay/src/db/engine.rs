//! Which database it is, how it is opened, and where the two differ.

use super::{Db, DbError, Fence};
use serde::Deserialize;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Executor as _, SqlSafeStr as _};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Once;

/// The write-ahead log is copied into the database at so many pages: 32 MB. Copying synchronizes both, and pages that were
/// written several times meanwhile are copied once.
const CHECKPOINT_PAGES: u32 = 8000;
/// Pages that a connection keeps in memory, in kB. What a commit of 512 results changes has to fit: else pages are written and read
/// again before it ends.
const CACHE_KB: u32 = 32_768;
/// How long SQLite waits for a lock, in ms.
const BUSY_MS: u32 = 10_000;
/// Connections at once.
const CONNECTIONS: u32 = 4;

/// The tables, as SQLite knows them.
pub(super) const SCHEMA: &str = include_str!("schema.sql");

/// A database's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A file in the data folder.
    Sqlite,
    /// A server of the operator's.
    Postgres,
}

impl Engine {
    /// Begins a transaction that writes.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Begins a transaction that reads.
    pub(super) const fn begin_reading(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// How an insert begins that gives its whole transaction up if it fails. SQLite need not be able to take such a statement
    /// back by itself, and copies no pages for that.
    pub(crate) const fn insert_or_give_up(self) -> &'static str {
        match self {
            Self::Sqlite => "INSERT OR FAIL",
            Self::Postgres => "INSERT",
        }
    }

    /// The statements that make the tables.
    pub(super) fn schema(self) -> String {
        match self {
            Self::Sqlite => SCHEMA.to_owned(),
            Self::Postgres => SCHEMA.replace(" BLOB", " BYTEA").replace(") WITHOUT ROWID;", ");"),
        }
    }
}

/// Address of a database of PostgreSQL: `postgres://USER@HOST/NAME`. Shown without its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl(String);

/// The text is no address of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address of a store begins with postgres://, as in postgres://potluck@localhost/potluck")]
pub struct StoreUrlError;

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let url = known.then(|| AnyConnectOptions::from_str(text));
        url.filter(Result::is_ok).map(|_| Self(text.to_owned())).ok_or(StoreUrlError)
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreUrlError;

    fn try_from(text: String) -> Result<Self, StoreUrlError> {
        text.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("postgres", &self.0));
        // Options may hold a password too.
        let rest = rest.split('?').next().unwrap_or(rest);
        let shown = rest.rsplit_once('@').map_or_else(
            || rest.to_owned(),
            |(who, host)| format!("{}@{host}", who.split(':').next().unwrap_or(who)),
        );
        write!(f, "{scheme}://{shown}")
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the drivers known, once.
fn drivers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sqlx::any::install_default_drivers);
}

/// The address of a file of SQLite.
fn file(path: &Path, mode: &str) -> Result<AnyConnectOptions, DbError> {
    let text = path
        .to_str()
        .ok_or_else(|| DbError::Configuration(format!("{} is no UTF-8", path.display()).into()))?;
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '%' | '?' | '#' | ' ' => drop(write!(escaped, "%{:02X}", char as u32)),
            other => escaped.push(other),
        }
    }
    AnyConnectOptions::from_str(&format!("sqlite:{escaped}?mode={mode}"))
}

fn pool(connections: u32, setting: String) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).after_connect(move |connection, _| {
        let setting = setting.clone();
        Box::pin(
            async move { connection.execute(sqlx::AssertSqlSafe(setting).into_sql_str()).await.map(drop) },
        )
    })
}

/// Opens or creates a file of SQLite.
///
/// # Errors
/// What SQLite says.
pub(crate) async fn open_files(path: &Path) -> Result<Db, DbError> {
    drivers();
    // A commit is on disk before it is reported: nothing acknowledged is lost to a power cut.
    let setting = format!(
        "PRAGMA busy_timeout = {BUSY_MS}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA cache_size = -{CACHE_KB}; PRAGMA temp_store = MEMORY"
    );
    let pool = pool(CONNECTIONS, setting).connect_with(file(path, "rwc")?).await?;
    pool.execute(SCHEMA).await?;
    Ok(Db::of(pool, Engine::Sqlite, None))
}

/// Creates a file of SQLite with the same tables and nothing in them, to be copied into.
///
/// # Errors
/// What SQLite says.
pub(crate) async fn create_file(path: &Path) -> Result<Db, DbError> {
    drivers();
    let pool = pool(1, "PRAGMA synchronous = FULL".to_owned()).connect_with(file(path, "rwc")?).await?;
    pool.execute(SCHEMA).await?;
    Ok(Db::of(pool, Engine::Sqlite, None))
}

impl Db {
    /// Opens a file of SQLite that is there, as it is.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) async fn open_existing(path: &Path, writable: bool) -> Result<Self, DbError> {
        drivers();
        let mode = if writable { "rw" } else { "ro" };
        let pool =
            pool(1, format!("PRAGMA busy_timeout = {BUSY_MS}")).connect_with(file(path, mode)?).await?;
        Ok(Self::of(pool, Engine::Sqlite, None))
    }

    /// Opens a database of PostgreSQL, makes the tables that it lacks, and takes the right to write. `None` if another relay
    /// has it.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(crate) async fn open_server(url: &StoreUrl) -> Result<Option<Self>, DbError> {
        drivers();
        let options = AnyConnectOptions::from_str(&url.0)?;
        let pool = AnyPoolOptions::new().max_connections(CONNECTIONS).connect_with(options.clone()).await?;
        let Some(fence) = Fence::take(&options, &pool).await? else { return Ok(None) };
        Ok(Some(Self::of(pool, Engine::Postgres, Some(fence))))
    }

    /// Opens a database of PostgreSQL to look at it: whatever writes to it goes on.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(crate) async fn look_at_server(url: &StoreUrl) -> Result<Self, DbError> {
        drivers();
        let pool = AnyPoolOptions::new().max_connections(1).connect(&url.0).await?;
        Ok(Self::of(pool, Engine::Postgres, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        drivers();
        for (text, shown) in [
            (
                "postgres://potluck:hush@db.example.org:5433/records",
                "postgres://potluck@db.example.org:5433/records",
            ),
            ("postgres://potluck:h@sh@localhost/p?sslmode=require", "postgres://potluck@localhost/p"),
            ("postgresql://localhost/p?password=hush", "postgresql://localhost/p"),
        ] {
            assert_eq!(format!("{:?}", text.parse::<StoreUrl>().unwrap()), shown);
        }
        for text in ["mysql://localhost/p", "potluck.db", ""] {
            assert_eq!(text.parse::<StoreUrl>(), Err(StoreUrlError));
        }
    }

    #[tokio::test]
    async fn a_folder_may_be_called_anything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("50 % of #1?");
        std::fs::create_dir(&path).unwrap();
        let db = open_files(&path.join("potluck.db")).await.unwrap();
        assert_eq!(db.next_incarnation(&[1; 32]).await.unwrap(), 1);
        assert!(path.join("potluck.db").is_file());
    }
}
