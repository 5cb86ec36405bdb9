//! What there is to copy: the database as of one moment, and the files that it names.

use super::folder::create_private;
use super::{BackupError, Span, file};
use crate::accepted::{ACCEPTED, ACCEPTED_FILES};
use crate::db::{Db, DbError, Engine, Records, bytes, copy_all, create_file};
use crate::runs::store::RUN_BLOBS;
use potluck_types::{BlobHash, JobId};
use sqlx::Row as _;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Folders below one another that are looked into.
const MAX_DEPTH: usize = 16;

/// What a copy of the database names.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) log: Span,
    pub(super) blobs: Vec<BlobHash>,
    /// Matrices, and whether a job that runs needs them.
    pub(super) matrices: Vec<(BlobHash, bool)>,
    pub(super) datasets: Vec<BlobHash>,
    /// Parameters that were uploaded for runs to start from.
    pub(super) parameters: Vec<BlobHash>,
    /// Runs that go on, and how many rounds of them are closed.
    pub(super) runs: Vec<(JobId, u64)>,
}

/// Copies a database that may be written to meanwhile: what is committed when this begins is in the copy.
pub(super) async fn copy_database(from: &Records, to: &Path) -> Result<(), BackupError> {
    match from {
        Records::File(path) => {
            let db = Db::open_existing(path, true).await?;
            let copied = sqlx::query("VACUUM INTO $1").bind(to.display().to_string()).execute(&db.pool).await;
            db.close().await;
            copied?;
        }
        Records::Server(url) => {
            let (db, copy) = (Db::look_at_server(url).await?, create_file(to).await?);
            let copied = copy_all(&db, &copy, |_, _| {}).await;
            db.close().await;
            copy.close().await;
            copied?;
        }
    }
    let private = || {
        let copy = std::fs::File::open(to)?;
        #[cfg(unix)]
        copy.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        copy.sync_all()
    };
    private().map_err(file(to))
}

/// What the database finds wrong with itself: nothing, or the first lines. PostgreSQL looks after its own.
pub(crate) async fn quick_check(db: &Db) -> Result<Option<String>, DbError> {
    if db.engine == Engine::Postgres {
        return Ok(None);
    }
    let rows = sqlx::query("PRAGMA quick_check(3)").fetch_all(&db.pool).await?;
    let lines = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
    Ok((lines != ["ok"]).then(|| lines.join("; ")))
}

/// Hashes of blobs that a database names and that cannot be cut again from a matrix.
pub(crate) async fn named_blobs(db: &Db) -> Result<Vec<BlobHash>, DbError> {
    // A database that an older relay wrote last has no rows for results.
    let rows = match db.engine {
        Engine::Sqlite => sqlx::query("SELECT 1 FROM sqlite_master WHERE name = 'small_results'")
            .fetch_optional(&db.pool)
            .await?
            .is_some(),
        Engine::Postgres => true,
    };
    let accepted = if rows { ACCEPTED_FILES } else { ACCEPTED };
    let query = format!("{accepted} UNION {RUN_BLOBS}");
    let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&db.pool).await?;
    // A set: UNION ALL keeps doubles.
    let all = rows.iter().map(|row| bytes(row, 0).map(BlobHash)).collect::<Result<HashSet<_>, _>>()?;
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable();
    Ok(all)
}

/// The entries that a database knows of. It always has those that were published last.
pub(crate) async fn log_span(db: &Db) -> Result<(u64, u64), DbError> {
    let rows = sqlx::query(
        "SELECT position, entry FROM log_entries WHERE position IN
         ((SELECT MIN(position) FROM log_entries), (SELECT MAX(position) FROM log_entries)) ORDER BY position",
    )
    .fetch_all(&db.pool)
    .await?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok((0, 0)) };
    let lines = last.try_get::<&[u8], _>(1)?.split(|byte| *byte == b'\n').count() as u64;
    let position = |row: &sqlx::any::AnyRow| row.try_get::<i64, _>(0).map(i64::cast_unsigned);
    Ok((position(first)?, position(last)? + lines))
}

/// Opens a copy of the database, checks it and reads what it names.
pub(super) async fn open(copy: &Path) -> Result<Snapshot, BackupError> {
    let db = Db::open_existing(copy, false).await?;
    if let Some(message) = quick_check(&db).await? {
        return Err(BackupError::DamagedDatabase { path: copy.to_owned(), message });
    }
    let (first, entries) = log_span(&db).await?;
    let hashes = async |query: &'static str| {
        let rows = sqlx::query(query).fetch_all(&db.pool).await?;
        rows.iter().map(|row| bytes(row, 0).map(BlobHash)).collect::<Result<Vec<_>, DbError>>()
    };
    let running =
        hashes("SELECT a FROM jobs WHERE state = 'running' UNION SELECT b FROM jobs WHERE state = 'running'")
            .await?;
    let done =
        hashes("SELECT a FROM jobs WHERE state = 'done' UNION SELECT b FROM jobs WHERE state = 'done'");
    let done = done.await?.into_iter().filter(|hash| !running.contains(hash)).map(|hash| (hash, false));
    let matrices = running.iter().map(|hash| (*hash, true)).chain(done).collect();
    let datasets = hashes("SELECT id FROM datasets").await?;
    let requests = sqlx::query("SELECT request FROM runs").fetch_all(&db.pool).await?;
    let mut parameters = HashSet::new();
    for row in requests {
        let request: serde_json::Value =
            serde_json::from_str(row.try_get(0)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        parameters.extend(request["init"].as_str().and_then(|id| id.parse::<BlobHash>().ok()));
    }
    let runs = db.open_runs().await?.into_iter().map(|row| (row.id, row.round)).collect();
    let blobs = named_blobs(&db).await?;
    db.close().await;
    Ok(Snapshot {
        log: Span { first, entries },
        blobs,
        matrices,
        datasets,
        parameters: parameters.into_iter().collect(),
        runs,
    })
}

/// All files below a folder; none if it does not exist. Links are not followed.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(file(&folder)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(file(&folder))?;
            let kind = entry.file_type().map_err(file(&folder))?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies the states of runs that are there now; one that goes away meanwhile is not.
pub(super) fn copy_states(from: &Path, to: &Path) -> Result<HashSet<PathBuf>, BackupError> {
    let mut copied = HashSet::new();
    for path in files_below(from)? {
        let Ok(below) = path.strip_prefix(from) else { continue };
        if path.extension().is_some_and(|end| end == "state") && copy_state(&path, &to.join(below))? {
            copied.insert(below.to_owned());
        }
    }
    Ok(copied)
}

fn copy_state(from: &Path, to: &Path) -> Result<bool, BackupError> {
    to.parent().map_or(Ok(()), create_private).map_err(file(to))?;
    match std::fs::copy(from, to).and_then(|_| std::fs::File::open(to)?.sync_all()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file(from)(error)),
    }
}

/// Keeps the states that the database's copy needs, and no others; those that are not there any more.
pub(super) fn settle_states(
    from: &Path,
    to: &Path,
    snapshot: &Snapshot,
    mut copied: HashSet<PathBuf>,
) -> Result<Vec<String>, BackupError> {
    let mut gone = Vec::new();
    for (run, round) in &snapshot.runs {
        let name = Path::new(&run.to_string()).join(format!("{round}.state"));
        if !copied.remove(&name) && !copy_state(&from.join(&name), &to.join(&name))? {
            gone.push(format!("runs/{}: it is gone", name.display()));
        }
    }
    for name in copied {
        let path = to.join(name);
        std::fs::remove_file(&path).map_err(file(&path))?;
    }
    Ok(gone)
}
