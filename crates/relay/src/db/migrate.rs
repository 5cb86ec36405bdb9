//! `potluck relay migrate`: a relay's records move from its data folder to PostgreSQL, or its blobs to a bucket; each of the two
//! whole or not at all.

use super::place::{Records, WhichStore, mark, put_aside};
use super::tables::{CopyError, copy_all};
use super::{Db, StoreUrl};
use crate::blobs::{self, BlobPlace, Blobs, BlobsUrl};
use crate::{StartError, identity, lock_folder};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::io;
use std::path::{Path, PathBuf};

/// Blobs on their way at once.
const AT_ONCE: usize = 16;

/// Why something did not move.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The data folder is in use, or is none.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nothing is there to move.
    #[error("{data} holds no records: there is no potluck.db in it")]
    Nothing {
        /// The data folder.
        data: PathBuf,
    },
    /// They moved before.
    #[error("{0}: they moved before")]
    Moved(WhichStore),
    /// A relay writes to the store.
    #[error("a relay uses {0}")]
    StoreInUse(StoreUrl),
    /// Another relay's records are there.
    #[error("{0} holds records already")]
    NotEmpty(StoreUrl),
    /// A database fails.
    #[error("the database fails: {0}")]
    Database(#[from] sqlx::Error),
    /// The copy is not what was copied.
    #[error("the copy is not right: {0}. Nothing was kept of it")]
    Copy(String),
    /// Blobs cannot be copied.
    #[error("blobs cannot be copied to {place}: {cause}")]
    Blobs {
        /// Where to.
        place: BlobsUrl,
        /// Why.
        cause: io::Error,
    },
}

/// How much moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Migrated {
    /// Rows of records.
    pub rows: Option<u64>,
    /// Blobs.
    pub blobs: Option<u64>,
}

/// Moves a stopped relay's records, its blobs, or both. `told` hears what moves, how many of them are copied, and of how many.
/// Each row and each blob is read back before the move counts; what was copied is kept as `potluck.db.moved` and `blobs.moved`.
///
/// # Errors
/// [`MigrateError`] says what; what did not move is where it was.
pub async fn migrate(
    data: &Path,
    store: Option<&StoreUrl>,
    bucket: Option<&BlobsUrl>,
    mut told: impl FnMut(&'static str, u64, u64),
) -> Result<Migrated, MigrateError> {
    let _lock = lock_folder(data)?;
    let mut migrated = Migrated::default();
    if let Some(bucket) = bucket {
        migrated.blobs = Some(move_blobs(data, bucket, |done, total| told("blobs", done, total)).await?);
    }
    if let Some(store) = store {
        migrated.rows = Some(move_records(data, store, |done, total| told("records", done, total)).await?);
    }
    Ok(migrated)
}

async fn move_records(
    data: &Path,
    store: &StoreUrl,
    told: impl FnMut(u64, u64),
) -> Result<u64, MigrateError> {
    let file = match Records::of(data, None).map_err(MigrateError::Moved)? {
        Records::File(path) if path.is_file() => path,
        _ => return Err(MigrateError::Nothing { data: data.to_owned() }),
    };
    let from = super::open_files(&file).await?;
    let to = Db::open_server(store).await?.ok_or_else(|| MigrateError::StoreInUse(store.clone()))?;
    let copied = copy_all(&from, &to, told).await;
    from.close().await;
    to.close().await;
    let rows = copied.map_err(|error| match error {
        CopyError::Database(error) => MigrateError::Database(error),
        CopyError::NotEmpty => MigrateError::NotEmpty(store.clone()),
        differs @ CopyError::Differs(_) => MigrateError::Copy(differs.to_string()),
    })?;
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    mark(data, store).map_err(failed)?;
    put_aside(data).map_err(failed)?;
    Ok(rows)
}

async fn move_blobs(data: &Path, to: &BlobsUrl, mut told: impl FnMut(u64, u64)) -> Result<u64, MigrateError> {
    let from = BlobPlace::of(data, None).map_err(MigrateError::Moved)?;
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    let relay = identity::read_file(&data.join(identity::FILE)).map_err(failed)?.to_string();
    let source = Blobs::look(&from).map_err(failed)?;
    let all = source.all().await.map_err(failed)?;
    let refused = |cause| MigrateError::Blobs { place: to.clone(), cause };
    let target = Blobs::open(&BlobPlace::Bucket(to.clone()), &relay).await.map_err(refused)?;
    let total = all.len() as u64;
    let mut copies = stream::iter(all)
        .map(|hash| {
            let (source, target) = (&source, &target);
            async move {
                target.put_durable(&hash, source.get(&hash).await?).await?;
                // Checked by its hash.
                target.get(&hash).await.map(drop)
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut done = 0;
    while copies.try_next().await.map_err(refused)?.is_some() {
        done += 1;
        told(done, total);
    }
    blobs::mark(data, to).map_err(failed)?;
    blobs::put_aside(data).map_err(failed)?;
    Ok(done)
}
