//! Blobs by hash, through `object_store`: a folder here, a bucket elsewhere.
//!
//! Results are synchronized to disk before they are acknowledged. Panels are not: they can be cut again from
//! the uploaded matrix.

use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use potluck_types::BlobHash;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The blob store.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    durable: Arc<dyn ObjectStore>,
    quick: Arc<dyn ObjectStore>,
}

fn path(hash: &BlobHash) -> StorePath {
    let name = hash.to_string();
    // 256 folders keep directories small.
    StorePath::from(format!("{}/{}", &name[..2], &name[2..]))
}

fn io_error(error: object_store::Error) -> io::Error {
    let kind = match error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Blobs {
    /// Opens a folder, which must exist.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let store = || LocalFileSystem::new_with_prefix(folder).map_err(io_error);
        Ok(Self { durable: Arc::new(store()?.with_fsync(true)), quick: Arc::new(store()?) })
    }

    /// Stores a blob that can be made again. One that is there already is not written.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn put_quick(&self, hash: &BlobHash, bytes: Vec<u8>) -> io::Result<()> {
        if self.has(hash).await? {
            return Ok(());
        }
        self.quick.put(&path(hash), bytes.into()).await.map(drop).map_err(io_error)
    }

    /// Stores a blob and returns when it is on disk.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn put_durable(&self, hash: &BlobHash, bytes: bytes::Bytes) -> io::Result<()> {
        self.durable.put(&path(hash), bytes.into()).await.map(drop).map_err(io_error)
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn has(&self, hash: &BlobHash) -> io::Result<bool> {
        match self.quick.head(&path(hash)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    /// A whole blob.
    ///
    /// # Errors
    /// `NotFound`, or what the store says.
    pub(crate) async fn get(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        let found = self.quick.get(&path(hash)).await.map_err(io_error)?;
        found.bytes().await.map_err(io_error)
    }

    /// A part of a blob.
    ///
    /// # Errors
    /// `NotFound`, or what the store says, a range outside the blob among it.
    pub(crate) async fn get_part(&self, hash: &BlobHash, range: Range<u64>) -> io::Result<bytes::Bytes> {
        self.quick.get_range(&path(hash), range).await.map_err(io_error)
    }

    /// Removes every blob that is not needed, and what writes left behind that a crash cut short.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn keep_only(&self, needed: &HashSet<BlobHash>) -> io::Result<u64> {
        let mut removed = 0;
        let mut listing = self.quick.list(None);
        while let Some(object) = listing.try_next().await.map_err(io_error)? {
            let name: String = object.location.parts().map(|part| part.as_ref().to_owned()).collect();
            let keep = name.parse().is_ok_and(|hash| needed.contains(&hash));
            if !keep {
                self.quick.delete(&object.location).await.map_err(io_error)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
