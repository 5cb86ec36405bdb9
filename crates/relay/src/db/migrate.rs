//! `potluck relay migrate`: a relay's records move from its data folder to PostgreSQL, all or none.

use super::place::{Records, WhichStore, mark, put_aside};
use super::tables::{CopyError, copy_all};
use super::{Db, StoreUrl};
use crate::{StartError, lock_folder};
use std::path::{Path, PathBuf};

/// Why nothing moved.
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
}

/// Moves a stopped relay's records. `told` hears how many rows are copied, and of how many. Every row is read back before
/// the move counts; the file is kept as `potluck.db.moved`. Returns how many rows there are.
///
/// # Errors
/// [`MigrateError`] says what; the records are where they were then.
pub async fn migrate(data: &Path, store: &StoreUrl, told: impl FnMut(u64, u64)) -> Result<u64, MigrateError> {
    let file = match Records::of(data, None).map_err(MigrateError::Moved)? {
        Records::File(path) if path.is_file() => path,
        _ => return Err(MigrateError::Nothing { data: data.to_owned() }),
    };
    let _lock = lock_folder(data)?;
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
