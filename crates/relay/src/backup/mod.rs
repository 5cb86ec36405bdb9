//! Backups of a relay's data folder, made while it runs, and the way back.
//!
//! `mod.rs` makes one, in an order that makes it consistent; `writer.rs` copies files and checks that the copies are right;
//! `folder.rs` is how a backup lies on disk; `source.rs` reads what the database names; `restore.rs` is the way back.
//!
//! The database is copied as of one moment. Blobs and matrices that it names are on disk by then, for nothing is recorded
//! before it is durable, and stay there, for only a start of the relay removes any. The log is taken at a checkpoint that
//! was signed before that moment: all that follows it is in the database's copy, and nothing in the log's copy lacks its
//! record. A run's state is the one file that goes away: if rounds end faster than it is copied, the copy begins anew.

mod folder;
mod restore;
pub(crate) mod source;
mod writer;

pub use folder::{Backup, LogState, Made};
pub(crate) use restore::{RESTORED, RESTORING};
pub use restore::{Restored, restore};

use crate::blobs::{BlobPlace, Blobs, BlobsUrl};
use crate::db::{CopyError, Records, StoreUrl, WhichStore};
use crate::log;
use crate::mirror;
use folder::{FILES, Folder, MANIFEST, Manifest, POOL};
use potluck_types::BlobHash;
use source::Snapshot;
use std::io;
use std::path::{Path, PathBuf};
use writer::Writer;

/// How often the copy begins anew because the relay was faster.
const MAX_ATTEMPTS: usize = 5;
/// Backups that are kept unless the operator says otherwise: with one a day, a week.
pub const KEEP: usize = 7;
/// Files beside the database that a relay needs and nobody else may use: its key, and tokens.
const SECRETS: [&str; 3] = ["relay.key", "token", "admin-token"];
/// Files that tell right tokens from wrong ones, and nothing else.
const TOKEN_HASHES: [&str; 2] = ["token.hash", "admin-token.hash"];

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The relay's data folder.
    pub data: PathBuf,
    /// Where its records are, if not in the folder.
    pub store: Option<StoreUrl>,
    /// Where its blobs are, if not in the folder.
    pub blobs: Option<BlobsUrl>,
    /// The folder of backups.
    pub to: PathBuf,
    /// Copies the relay's key and its tokens too.
    pub with_keys: bool,
    /// What earlier backups copied and checked is not read again.
    pub quick: bool,
    /// Backups that are kept, this one included.
    pub keep: usize,
}

/// Why there is no backup, or no way back from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{path} cannot be used: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The folder is no relay's.
    #[error("{path} holds no relay's data: there is no potluck.db in it")]
    NoData {
        /// Which folder.
        path: PathBuf,
    },
    /// The relay's records are elsewhere than was said.
    #[error(transparent)]
    Store(#[from] WhichStore),
    /// The records cannot be copied.
    #[error("the records cannot be copied: {0}")]
    Records(String),
    /// One folder lies in the other.
    #[error("the backup {to} and the data {data} lie in each other")]
    Nested {
        /// The data folder.
        data: PathBuf,
        /// The folder of backups.
        to: PathBuf,
    },
    /// The folder holds something else.
    #[error("{path} is not empty and holds no backups")]
    NotBackups {
        /// Which folder.
        path: PathBuf,
    },
    /// Somebody else writes a backup there.
    #[error("another backup is being written to {path}")]
    InUse {
        /// Which folder.
        path: PathBuf,
    },
    /// Nothing whole is there.
    #[error("{path} holds no whole backup{}", named(.which.as_deref()))]
    NoBackup {
        /// Which folder.
        path: PathBuf,
        /// The backup that was asked for.
        which: Option<String>,
    },
    /// Written by a version that this one does not know.
    #[error("{path} cannot be read: {message}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The database fails.
    #[error("the database fails: {0}")]
    Database(#[from] sqlx::Error),
    /// The database is damaged.
    #[error("the database in {path} is damaged: {message}")]
    DamagedDatabase {
        /// Which one.
        path: PathBuf,
        /// What SQLite found.
        message: String,
    },
    /// The relay was faster than the copy.
    #[error("rounds or checkpoints came faster than they could be copied, {MAX_ATTEMPTS} times")]
    Moving,
    /// The log does not hold together.
    #[error("the log cannot be copied: {0}")]
    Log(String),
    /// What the folder of backups holds is not what was put there.
    #[error("{} files of the backup are damaged or gone, {} among them", .files.len(), .files.first().map_or("", String::as_str))]
    Damaged {
        /// Which files.
        files: Vec<String>,
    },
    /// The data folder is in use.
    #[error("{path} is not empty")]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// The backup was made without the relay's key.
    #[error(
        "the backup holds no relay key, and without it this is another relay, which cannot go on with the log"
    )]
    KeyNeeded,
    /// Another relay's key.
    #[error("the key is of the relay {found}, and the backup of {expected}")]
    OtherKey {
        /// Public half of the key.
        found: String,
        /// Public half of the backup's relay.
        expected: String,
    },
}

impl From<CopyError> for BackupError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Database(error) => Self::Database(error),
            other => Self::Records(other.to_string()),
        }
    }
}

fn named(which: Option<&str>) -> String {
    which.map_or_else(String::new, |which| format!(" called {which}"))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |cause| BackupError::File { path, cause }
}

/// What of the log a copy of the database goes with.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// The first entry that the database may have instead of the log's files.
    first: u64,
    /// Entries in all.
    entries: u64,
}

/// Makes a backup. The relay may run meanwhile.
///
/// # Errors
/// [`BackupError`] says what; what was whole before is still whole.
pub async fn backup(options: &BackupOptions) -> Result<Made, BackupError> {
    let data = options.data.clone();
    let records = Records::of(&data, options.store.as_ref())?;
    let place = BlobPlace::of(&data, options.blobs.as_ref())?;
    if !records.exist(&data) {
        return Err(BackupError::NoData { path: data });
    }
    let folder = Folder::prepare(&options.to, &data)?;
    for attempt in 1..=MAX_ATTEMPTS {
        let work = folder.begin()?;
        let states = source::copy_states(&data.join("runs"), &work.join("runs"))?;
        let note = log::copy::checkpoint(&data.join("log")).await.map_err(BackupError::Log)?;
        let copy = work.join("potluck.db");
        source::copy_database(&records, &copy).await?;
        let snapshot = source::open(&copy).await?;
        let size = note.as_ref().map_or(0, log::copy::SignedNote::size);
        if !(snapshot.log.first..=snapshot.log.entries).contains(&size) {
            continue;
        }
        let gone = source::settle_states(&data.join("runs"), &work.join("runs"), &snapshot, states)?;
        // One that never comes is gone: that run cannot go on, and all others can be restored.
        if !gone.is_empty() && attempt < MAX_ATTEMPTS {
            continue;
        }
        let (options, place) = (options.clone(), place.clone());
        let runtime = tokio::runtime::Handle::current();
        let written = tokio::task::spawn_blocking(move || {
            write(&options, &place, &folder, &work, &snapshot, (note, gone), &runtime)
        });
        return written.await.map_err(|error| file(&data)(io::Error::other(error)))?;
    }
    Err(BackupError::Moving)
}

/// Everything but the database, then the name by which the backup is known to be whole.
fn write(
    options: &BackupOptions,
    place: &BlobPlace,
    folder: &Folder,
    work: &Path,
    snapshot: &Snapshot,
    (note, gone): (Option<log::copy::SignedNote>, Vec<String>),
    runtime: &tokio::runtime::Handle,
) -> Result<Made, BackupError> {
    let data = &options.data;
    let stamp = folder.stamp_of(work);
    let mut writer =
        Writer::create(folder.root(), &work.join(FILES), options.quick, folder.partial_of(work))?;
    let bucket = Blobs::look(place).map_err(file(data))?;
    for hash in &snapshot.blobs {
        let name = hash.to_string();
        let path = format!("{}/{}", &name[..2], &name[2..]);
        let target = format!("{POOL}/blobs/{path}");
        match place {
            BlobPlace::Folder(folder) => writer.keep(&folder.join(&path), &target, Some(*hash))?,
            BlobPlace::Bucket(_) => {
                writer.keep_blob(hash, &target, || runtime.block_on(bucket.peek(hash)))?;
            }
        }
    }
    writer.gone(gone);
    // What another node took in may be in the bucket alone.
    let here = |path: &str| runtime.block_on(bucket.fetch(data, &data.join(path))).map_err(file(data));
    for (hash, needed) in &snapshot.matrices {
        let path = format!("matrices/{hash}.npy");
        let from = data.join(&path);
        here(&path)?;
        // The operator may have removed those of jobs that are done.
        if *needed || from.is_file() {
            writer.keep(&from, &format!("{POOL}/{path}"), Some(*hash))?;
        }
    }
    for hash in &snapshot.parameters {
        let path = format!("datasets/{hash}.f32");
        here(&path)?;
        writer.keep(&data.join(&path), &format!("{POOL}/{path}"), Some(*hash))?;
    }
    for id in &snapshot.datasets {
        // Its name is the root of its blocks and not the hash of the file; the relay checks it when it loads the set.
        let path = format!("datasets/{id}.tokens");
        here(&path)?;
        writer.keep(&data.join(&path), &format!("{POOL}/{path}"), None)?;
    }
    // Beside the log's own hashes, which `copy` checks.
    let log = log::copy::copy(&data.join("log"), note, runtime, &mut |path, whole, bytes| {
        let place = if whole { POOL } else { stamp.as_str() };
        writer.keep_bytes(&format!("{place}/log/{path}"), bytes).map_err(io::Error::other)
    })
    .map_err(BackupError::Log)?;
    for path in source::files_below(&data.join("embeds"))? {
        if let Ok(below) = path.strip_prefix(data) {
            writer.keep(&path, &format!("{stamp}/{}", below.display()), None)?;
        }
    }
    writer.keep_if_there(&data.join(mirror::FILE), &format!("{stamp}/{}", mirror::FILE))?;
    for name in TOKEN_HASHES {
        writer.keep_if_there(&data.join(name), &format!("{stamp}/{name}"))?;
    }
    if options.with_keys {
        for name in SECRETS {
            writer.keep_if_there(&data.join(name), &format!("{stamp}/keys/{name}"))?;
        }
        // Of a relay that was not started since older versions kept secrets of epochs there.
        for path in source::files_below(&data.join("epochs"))? {
            if let Some(name) = path.file_name() {
                writer.keep(&path, &format!("{stamp}/keys/epochs/{}", name.display()), None)?;
            }
        }
    }
    // What was copied before: the database and the states of runs.
    writer.list_copied(work, &stamp, &["potluck.db"])?;
    for path in source::files_below(&work.join("runs"))? {
        if let Ok(below) = path.strip_prefix(work) {
            writer.list_copied(work, &stamp, &[&below.display().to_string()])?;
        }
    }
    let counts = writer.finish()?;
    let made = Made {
        stamp: stamp.clone(),
        log: LogState {
            origin: log.origin,
            key: log.key,
            published: log.head,
            entries: snapshot.log.entries,
        },
        with_keys: options.with_keys,
        files: counts.files,
        bytes: counts.bytes,
        copied_files: counts.copied_files,
        copied_bytes: counts.copied_bytes,
        damaged: counts.damaged,
        removed: Vec::new(),
    };
    Manifest::of(&made).write(&work.join(MANIFEST))?;
    folder.complete(work)?;
    let removed = folder.prune(options.keep.max(1))?;
    Ok(Made { removed, ..made })
}

/// Where a blob lies in a folder of backups, if one of them has it.
pub(crate) fn blob_in_pool(folder: &Path, blob: &BlobHash) -> PathBuf {
    let name = blob.to_string();
    folder.join(POOL).join("blobs").join(&name[..2]).join(&name[2..])
}

/// Hash of a file, read a part at a time; and its length.
fn hash_of(path: &Path) -> io::Result<(BlobHash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path)?;
    let bytes = io::copy(&mut file, &mut hasher)?;
    Ok((BlobHash(*hasher.finalize().as_bytes()), bytes))
}
