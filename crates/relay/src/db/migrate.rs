//! `potluck relay migrate`: a relay's records move from its data folder to PostgreSQL, or its blobs to a bucket; each of the two
//! whole or not at all.

use super::place::{Records, WhichStore, mark, put_aside};
use super::tables::{CopyError, copy_all};
use super::{Db, StoreUrl};
use crate::blobs::{self, BlobPlace, Blobs, BlobsUrl, Claim};
use crate::{StartError, identity, lock_folder};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use potluck_types::BlobHash;
use std::io;
use std::path::{Path, PathBuf};

/// Blobs on their way at once: of 32 MiB each, they leave within the limit of an answer at 9 Mbit/s.
const AT_ONCE: usize = 4;

/// Why they did not move.
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
    /// A blob in the data folder is damaged, or cannot be read.
    #[error("the blob {blob} cannot be copied: {cause}")]
    Blob {
        /// Which one.
        blob: BlobHash,
        /// Why.
        cause: io::Error,
    },
    /// Blobs cannot be copied.
    #[error("blobs cannot be copied to {place}: {cause}")]
    Blobs {
        /// Where to.
        place: BlobsUrl,
        /// Why.
        cause: io::Error,
    },
}

/// Moves a stopped relay's records. `told` hears how many rows are copied, and of how many. Each is read back before the move
/// counts; the file is kept as `potluck.db.moved`. Returns how many there were, or `None` if they are there already.
///
/// # Errors
/// [`MigrateError`] says what; the records are where they were then.
pub async fn migrate_records(
    data: &Path,
    store: &StoreUrl,
    told: impl FnMut(u64, u64),
) -> Result<Option<u64>, MigrateError> {
    store.check().map_err(StartError::from)?;
    let _lock = lock_folder(data)?;
    let file = match Records::of(data, None) {
        Ok(Records::File(path)) if path.is_file() => path,
        Err(error) => {
            return Records::of(data, Some(store)).map(|_| None).map_err(|_| MigrateError::Moved(error));
        }
        Ok(_) => return Err(MigrateError::Nothing { data: data.to_owned() }),
    };
    let from = super::open_files(&file).await?;
    let to =
        Db::open_server(store, super::ROOM).await?.ok_or_else(|| MigrateError::StoreInUse(store.clone()))?;
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
    Ok(Some(rows))
}

/// Moves a stopped relay's blobs. `told` hears how many are copied, and of how many. Each is read back before the move counts; the
/// folder is kept as `blobs.moved`. Returns how many there were, or `None` if they are there already. `store` is where the records
/// are, if not in the folder.
///
/// # Errors
/// [`MigrateError`] says what; the blobs are where they were then.
pub async fn migrate_blobs(
    data: &Path,
    to: &BlobsUrl,
    store: Option<&StoreUrl>,
    mut told: impl FnMut(u64, u64),
) -> Result<Option<u64>, MigrateError> {
    let _lock = lock_folder(data)?;
    let from = match BlobPlace::of(data, None) {
        Ok(from) => from,
        Err(error) => {
            return BlobPlace::of(data, Some(to)).map(|_| None).map_err(|_| MigrateError::Moved(error));
        }
    };
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    // The records may be on their way to that store by the same command.
    let records = Records::of(data, None).or_else(|_| Records::of(data, store)).map_err(StartError::from)?;
    if !records.exist(data) {
        return Err(MigrateError::Nothing { data: data.to_owned() });
    }
    let db = records.look().await?;
    let start = db.incarnation().await?;
    db.close().await;
    let relay = identity::read_file(&data.join(identity::FILE)).map_err(failed)?.to_string();
    let source = Blobs::look(&from).map_err(failed)?;
    let all = source.all().await.map_err(failed)?;
    let refused = |cause| MigrateError::Blobs { place: to.clone(), cause };
    let place = BlobPlace::Bucket(to.clone());
    let target = Blobs::open(&place, &Claim { relay, start, moving: true }).await.map_err(refused)?;
    let total = all.len() as u64;
    let mut copies = stream::iter(all)
        .map(|blob| {
            let (source, target) = (&source, &target);
            async move {
                let bytes = source.peek(&blob).await.map_err(|cause| MigrateError::Blob { blob, cause })?;
                target.put_durable(&blob, bytes).await.map_err(refused)?;
                // Checked by its hash.
                target.peek(&blob).await.map(drop).map_err(refused)
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut done = 0;
    while copies.try_next().await?.is_some() {
        done += 1;
        told(done, total);
    }
    drop(copies);
    blobs::mark(data, to).map_err(failed)?;
    blobs::put_aside(data).map_err(failed)?;
    Ok(Some(done))
}
