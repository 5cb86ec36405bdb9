//! Files of a relay that are no blobs: uploads, states of runs, widgets. They are used where they lie, in the data folder; of a
//! relay whose blobs are in a bucket the bucket has each of them too, and a folder that lacks one fetches it from there. So what
//! is lost with such a folder can be had again, and every node of a relay has what another one took in.

use super::{Blobs, io_error};
use futures_util::TryStreamExt as _;
use object_store::buffered::BufWriter;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use potluck_types::BlobHash;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;

/// Where they are in the bucket.
const FOLDER: &str = "files";
/// Files that are called by the hash of their bytes.
const NAMED_BY_HASH: [&str; 2] = ["npy", "f32"];
/// Bytes of a file that are sent at once; one part waits while another is on its way.
const PART_BYTES: usize = 8 << 20;
const MAX_PARTS: usize = 2;

/// Where a file of a data folder is in the bucket.
fn place(data: &Path, path: &Path) -> io::Result<StorePath> {
    let below = path.strip_prefix(data).map_err(io::Error::other)?;
    let parts = below.iter().filter_map(|part| part.to_str());
    Ok([FOLDER].into_iter().chain(parts).collect())
}

/// The hash that a file's bytes have to have, if its name says so.
fn hash_of(path: &Path) -> Option<BlobHash> {
    let end = path.extension()?.to_str()?;
    NAMED_BY_HASH.contains(&end).then(|| path.file_stem()?.to_str()?.parse().ok())?
}

impl Blobs {
    /// The bucket, if blobs are in one.
    pub(crate) fn bucket(&self) -> Option<&Arc<dyn ObjectStore>> {
        self.recent.as_ref().map(|_| &self.durable)
    }

    /// A file that was just written below the data folder is durable in the bucket too when this returns.
    ///
    /// # Errors
    /// What the file system or the service says.
    pub(crate) async fn share(&self, data: &Path, path: &Path) -> io::Result<()> {
        let Some(bucket) = self.bucket() else { return Ok(()) };
        let mut from = tokio::fs::File::open(path).await?;
        let to = BufWriter::with_capacity(Arc::clone(bucket), place(data, path)?, PART_BYTES);
        let mut to = to.with_max_concurrency(MAX_PARTS);
        let sent = async {
            tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(PART_BYTES, &mut from), &mut to)
                .await?;
            to.shutdown().await
        };
        if let Err(error) = sent.await {
            // Parts of what never became whole cost space there.
            let _ = to.abort().await;
            return Err(error);
        }
        Ok(())
    }

    /// Makes sure that a file is below the data folder and in the bucket, if it is in one of them: whether it is.
    ///
    /// # Errors
    /// What the file system or the service says; a file that is not what its name says.
    pub(crate) async fn fetch(&self, data: &Path, path: &Path) -> io::Result<bool> {
        if tokio::fs::try_exists(path).await? {
            // It was there before the bucket was, or whoever sent it did not wait.
            if let Some(bucket) = self.bucket()
                && let Err(error) = bucket.head(&place(data, path)?).await.map_err(io_error)
            {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                self.share(data, path).await?;
            }
            return Ok(true);
        }
        let Some(bucket) = self.bucket() else { return Ok(false) };
        let found = match bucket.get(&place(data, path)?).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            other => other.map_err(io_error)?,
        };
        let folder = path.parent().unwrap_or(data);
        tokio::fs::create_dir_all(folder).await?;
        let (file, temporary) = tempfile::NamedTempFile::new_in(folder)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut hasher = blake3::Hasher::new();
        let mut stream = found.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(io_error)? {
            hasher.update(&bytes);
            file.write_all(&bytes).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        if hash_of(path).is_some_and(|hash| hash.0 != *hasher.finalize().as_bytes()) {
            let what = format!("{} is another file in the bucket", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        temporary.persist(path)?;
        tracing::debug!(path = %path.display(), "fetched from the bucket");
        Ok(true)
    }

    /// A file is not needed any more: it is removed here and there.
    ///
    /// # Errors
    /// What the file system or the service says.
    pub(crate) async fn forget(&self, data: &Path, path: &Path) -> io::Result<()> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        tokio::fs::remove_file(path).await.or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })?;
        let Some(bucket) = self.bucket() else { return Ok(()) };
        match bucket.delete(&place(data, path)?).await.map_err(io_error) {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Of the files in a folder below the data folder this one alone is needed still: the others are removed, here and there.
    ///
    /// # Errors
    /// What the file system or the service says.
    pub(crate) async fn forget_others(&self, data: &Path, needed: &Path) -> io::Result<()> {
        let folder = needed.parent().unwrap_or(data);
        let mut others = HashSet::new();
        let mut here = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = here.next_entry().await? {
            others.insert(entry.path());
        }
        if let Some(bucket) = self.bucket() {
            let mut there = bucket.list(Some(&place(data, folder)?));
            while let Some(found) = there.try_next().await.map_err(io_error)? {
                others.extend(found.location.filename().map(|name| folder.join(name)));
            }
        }
        others.remove(needed);
        for other in others {
            self.forget(data, &other).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn in_bucket(bucket: &Arc<dyn ObjectStore>) -> Blobs {
        Blobs { recent: Some(Arc::default()), ..Blobs::of(Arc::clone(bucket), Arc::clone(bucket), 0) }
    }

    #[tokio::test]
    async fn a_file_that_one_node_took_in_is_had_by_another_and_only_if_it_is_that_file() {
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // Longer than a part.
        let bytes: Vec<u8> = (0..2 * PART_BYTES + 5).map(|at| at as u8).collect();
        let name = format!("matrices/{}.npy", BlobHash::of(&bytes));
        let [here, there] = [&one, &other].map(|folder| folder.path().join(&name));
        std::fs::create_dir(one.path().join("matrices")).unwrap();
        std::fs::write(&here, &bytes).unwrap();
        let blobs = in_bucket(&bucket);
        assert!(!blobs.fetch(other.path(), &there).await.unwrap());
        assert!(blobs.fetch(one.path(), &here).await.unwrap(), "it was there before the bucket was");
        assert!(blobs.fetch(other.path(), &there).await.unwrap());
        assert_eq!(std::fs::read(&there).unwrap(), bytes);
        std::fs::remove_file(&there).unwrap();
        let place = place(other.path(), &there).unwrap();
        assert_eq!(place.as_ref(), format!("files/{name}"));
        bucket.put(&place, "another".into()).await.unwrap();
        let error = blobs.fetch(other.path(), &there).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!there.exists(), "nothing is left of it");
        blobs.forget(one.path(), &here).await.unwrap();
        assert!(!here.exists() && bucket.get(&place).await.is_err());
        blobs.forget(one.path(), &here).await.unwrap();
        // What another node left in the bucket, and this one in its folder.
        let state = |folder: &tempfile::TempDir, number| folder.path().join(format!("runs/r/{number}.state"));
        for (folder, number) in [(&other, 1), (&one, 2), (&one, 3)] {
            let path = state(folder, number);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "state").unwrap();
            blobs.share(folder.path(), &path).await.unwrap();
        }
        blobs.forget_others(one.path(), &state(&one, 3)).await.unwrap();
        let left: Vec<_> =
            bucket.list(None).map_ok(|found| found.location.to_string()).try_collect().await.unwrap();
        assert_eq!(left, ["files/runs/r/3.state"]);
        assert!(state(&one, 3).exists() && !state(&one, 2).exists());
    }
}
