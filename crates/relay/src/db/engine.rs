//! Which database it is, how it is opened, and where the two differ.

use super::{Db, DbError, Fence};
use serde::Deserialize;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqlSafeStr as _};
use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

/// The write-ahead log is copied into the database at so many pages: 32 MB. Copying synchronizes both, and pages that were
/// written several times meanwhile are copied once.
const CHECKPOINT_PAGES: u32 = 8000;
/// Pages that a connection keeps in memory, in kB. What a commit of 512 results changes has to fit: else pages are written and read
/// again before it ends.
const CACHE_KB: u32 = 32_768;
/// How long SQLite waits for a lock, in ms.
const BUSY_MS: u32 = 10_000;
/// What a server of PostgreSQL is told on each connection: to end those whose other end is gone, within half a minute, and
/// transactions in which nothing happens. Else a relay that vanished would keep what it locked. And not to say of each table that it is
/// there already.
pub(super) const SESSION: &str =
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 30000; SET idle_in_transaction_session_timeout = 60000; SET client_min_messages = warning";
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
///
/// Any text is taken at first, and [`StoreUrl::check`] says what is wrong with it: those who read settings show a text that they
/// refuse, password and all.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

/// The text is no address of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// It is something else.
    #[error("the address of a store begins with postgres://, as in postgres://potluck@localhost/potluck")]
    NoStore,
    /// It has an option that does not exist. Whatever it is for, it would not be done.
    #[error("the address of a store has an unknown option, {0}")]
    UnknownOption(String),
}

/// Options that an address may have after `?`.
const OPTIONS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

impl FromStr for StoreUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl StoreUrl {
    /// Whether it is an address.
    ///
    /// # Errors
    /// It is none, or asks for what does not exist.
    pub fn check(&self) -> Result<(), StoreUrlError> {
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| self.0.starts_with(scheme));
        if !known || AnyConnectOptions::from_str(&self.0).is_err() {
            return Err(StoreUrlError::NoStore);
        }
        let options = self.0.split_once('?').map_or("", |(_, options)| options);
        let names = options.split('&').filter_map(|option| option.split('=').next());
        let unknown = names.filter(|name| !name.is_empty() && !name.starts_with("options["));
        match unknown.into_iter().find(|name| !OPTIONS.contains(name)) {
            Some(name) => Err(StoreUrlError::UnknownOption(name.to_owned())),
            None => Ok(()),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("an address") };
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
pub(super) fn drivers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sqlx::any::install_default_drivers);
}

/// The address of a file of SQLite, whose folder has to be there.
fn file(path: &Path, mode: &str) -> Result<AnyConnectOptions, DbError> {
    // An address is read by other rules than a path: `//` and `..` mean something else there.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = folder.canonicalize()?.join(path.file_name().unwrap_or_default());
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
    // By itself at first: a pool takes whatever goes wrong here for a server that is busy, and tries again for long.
    let options = file(path, "rwc")?;
    let mut first = options.connect().await?;
    first.execute(sqlx::AssertSqlSafe(setting.clone()).into_sql_str()).await?;
    let pool = pool(CONNECTIONS, setting).connect_with(options).await?;
    first.close().await?;
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

impl StoreUrl {
    /// The whole of it, for those who connect.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
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
    /// has it, and makes no room for so long.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(crate) async fn open_server(url: &StoreUrl, room: Duration) -> Result<Option<Self>, DbError> {
        drivers();
        let options = AnyConnectOptions::from_str(&url.0)?;
        // What is wrong with the address or the password is said at once.
        options.connect().await?.close().await?;
        let pool = pool(CONNECTIONS, SESSION.to_owned()).connect_with(options.clone()).await?;
        let Some(fence) = Fence::take(&options, &pool, room).await? else { return Ok(None) };
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
            ("postgress:// u:hush@localhost/p", "postgress:// u@localhost/p"),
            ("u:hush", "an address"),
            (
                "postgres://potluck:hush@db.example.org:5433/records",
                "postgres://potluck@db.example.org:5433/records",
            ),
            ("postgres://potluck:h@sh@localhost/p?sslmode=require", "postgres://potluck@localhost/p"),
            ("postgresql://localhost/p?password=hush", "postgresql://localhost/p"),
        ] {
            let Ok(url) = text.parse::<StoreUrl>();
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn an_address_is_checked() {
        drivers();
        let check = |text: &str| {
            let Ok(url) = text.parse::<StoreUrl>();
            url.check()
        };
        assert_eq!(check("postgres://potluck@localhost/p?sslmode=disable&options[search_path]=a"), Ok(()));
        for text in ["mysql://localhost/p", "potluck.db", ""] {
            assert_eq!(check(text), Err(StoreUrlError::NoStore));
        }
        let unknown = check("postgres://localhost/p?passwd=hush").unwrap_err().to_string();
        assert!(unknown.contains("passwd") && !unknown.contains("hush"), "{unknown}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("potluck.db");
        std::fs::write(&path, [0x55; 8192]).unwrap();
        let error = open_files(&path).await.unwrap_err().to_string();
        assert!(error.contains("not a database"), "{error}");
        // Read as an address, this would be a path within the current folder.
        std::fs::remove_file(&path).unwrap();
        let twice = std::path::PathBuf::from(format!("/{}", path.display()));
        open_files(&twice).await.unwrap();
        assert!(path.is_file());
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
