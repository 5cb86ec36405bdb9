//! Where the log's files lie, in the layout that any web server or bucket can serve: in the data folder, and of a relay whose blobs
//! are in a bucket there too, but for the checkpoint. That is with the records, where no relay that was taken over can put back
//! an older one.

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _};
use potluck_ledger::{Bundle, LogFile, ReadFiles, Tile};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The latest checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// The key that signs it, for whoever has a copy and nothing else.
pub(crate) const KEY: &str = "key";
/// The last checkpoint that enough witnesses cosigned, with their signatures.
pub(super) const COSIGNED: &str = "cosigned";
/// Where another relay began the log: its key, an empty line, and its last checkpoint that is known here.
pub(crate) const PREDECESSOR: &str = "predecessor";

/// Where they are in a bucket.
const FOLDER: &str = "log";
/// Files of a bucket that are read or written at once.
const AT_ONCE: usize = 8;

/// The files of a log.
#[derive(Debug, Clone)]
pub(super) struct Files {
    here: Arc<dyn ObjectStore>,
    bucket: Option<Arc<dyn ObjectStore>>,
}

async fn read(store: &dyn ObjectStore, path: &StorePath) -> io::Result<bytes::Bytes> {
    let found = store.get(path).await.map_err(crate::blobs::io_error)?;
    found.bytes().await.map_err(crate::blobs::io_error)
}

async fn write(store: &dyn ObjectStore, path: &StorePath, bytes: bytes::Bytes) -> io::Result<()> {
    store.put(path, bytes.into()).await.map(drop).map_err(crate::blobs::io_error)
}

/// Entries below a checkpoint, by its second line; none of what is no checkpoint.
fn size_of(note: &[u8]) -> Option<u64> {
    str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

/// The names of all files there.
async fn names(store: &dyn ObjectStore) -> io::Result<HashSet<StorePath>> {
    let found = store.list(None).map_ok(|found| found.location).try_collect().await;
    found.map_err(crate::blobs::io_error)
}

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // A file is on disk before the checkpoint that needs it.
        let store = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self { here: Arc::new(store), bucket: None })
    }

    /// The same files, which are in a bucket too from now on.
    pub(super) fn shared(self, bucket: Arc<dyn ObjectStore>) -> Self {
        Self { bucket: Some(Arc::new(PrefixStore::new(bucket, FOLDER))), ..self }
    }

    pub(super) fn are_shared(&self) -> bool {
        self.bucket.is_some()
    }

    /// Copies what the folder lacks from the bucket, and the other way: of a log with so many entries.
    pub(super) async fn level(&self, size: u64) -> io::Result<()> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let edge: HashSet<StorePath> =
            super::publish::edge(size).iter().map(|file| StorePath::from(file.to_string())).collect();
        let is_needed = |path: &StorePath| {
            let partial = path.as_ref().contains(".p/");
            *path != StorePath::from(CHECKPOINT) && (!partial || edge.contains(path))
        };
        let (here, there) = (names(&*self.here).await?, names(&**bucket).await?);
        let copy = async |path: &StorePath, from: &Arc<dyn ObjectStore>, to: &Arc<dyn ObjectStore>| {
            write(&**to, path, read(&**from, path).await?).await
        };
        let lacked = there.difference(&here).filter(|path| is_needed(path));
        let fetched = futures_util::stream::iter(lacked).map(|path| copy(path, bucket, &self.here));
        fetched.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let more = here.difference(&there).filter(|path| is_needed(path));
        let sent = futures_util::stream::iter(more).map(|path| copy(path, &self.here, bucket));
        sent.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // The only one that changes: the newer one counts.
        let cosigned = StorePath::from(COSIGNED);
        if here.contains(&cosigned) && there.contains(&cosigned) {
            let ours = size_of(&read(&*self.here, &cosigned).await?);
            let theirs = size_of(&read(&**bucket, &cosigned).await?);
            match ours.cmp(&theirs) {
                Ordering::Less => copy(&cosigned, bucket, &self.here).await?,
                Ordering::Greater => copy(&cosigned, &self.here, bucket).await?,
                Ordering::Equal => {}
            }
        }
        Ok(())
    }

    /// Writes a file that stands in the folder alone.
    pub(super) async fn put_here(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        write(&*self.here, &StorePath::from(path), bytes.into()).await
    }

    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.put_all(vec![(path.to_owned(), bytes)]).await
    }

    /// Writes files, in whatever order. All of them are durable when this returns.
    pub(super) async fn put_all(&self, files: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let files: Vec<_> = files
            .into_iter()
            .map(|(path, bytes)| (StorePath::from(path), bytes::Bytes::from(bytes)))
            .collect();
        for (path, bytes) in &files {
            write(&*self.here, path, bytes.clone()).await?;
        }
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let sent =
            futures_util::stream::iter(files).map(async |(path, bytes)| write(&**bucket, &path, bytes).await);
        sent.buffer_unordered(AT_ONCE).try_collect().await
    }

    pub(super) async fn get(&self, path: &str) -> io::Result<Vec<u8>> {
        read(&*self.here, &StorePath::from(path)).await.map(|bytes| bytes.to_vec())
    }

    pub(super) async fn read(&self, file: &LogFile) -> io::Result<Vec<u8>> {
        self.get(&file.to_string()).await
    }

    pub(super) async fn remove(&self, file: &LogFile) -> io::Result<()> {
        let path = StorePath::from(file.to_string());
        for store in [Some(&self.here), self.bucket.as_ref()].into_iter().flatten() {
            match store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(crate::blobs::io_error(error)),
            }
        }
        Ok(())
    }

    /// A file of a tree of `size` entries, or of one that it began with: partial files give way to larger ones, which begin
    /// with the same bytes.
    pub(super) async fn read_of(&self, file: LogFile, size: u64) -> io::Result<Vec<u8>> {
        match self.read(&file).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        match file {
            LogFile::Tile(tile) => {
                let first = tile.index() * potluck_ledger::TILE_WIDTH;
                let now =
                    Tile::containing(tile.level(), first, size).filter(|now| now.width() > tile.width());
                let mut bytes = self.read(&now.ok_or_else(gone)?.into()).await?;
                bytes.truncate(potluck_ledger::HASH_BYTES * usize::from(tile.width()));
                Ok(bytes)
            }
            LogFile::Bundle(bundle) => {
                let now =
                    Bundle::containing(bundle.first_entry(), size).filter(|now| now.width() > bundle.width());
                let now = now.ok_or_else(gone)?;
                let bytes = self.read(&now.into()).await?;
                let entries = now.entries(&bytes).map_err(io::Error::other)?;
                let kept = entries.iter().take(usize::from(bundle.width()));
                let length = kept.map(|entry| 2 + entry.len()).sum();
                Ok(bytes[..length].to_vec())
            }
        }
    }

    /// For what reads in one go, on a thread that may block.
    pub(super) fn blocking(&self, size: u64) -> impl ReadFiles + use<> {
        Blocking { files: self.clone(), size, runtime: Handle::current() }
    }
}

struct Blocking {
    files: Files,
    size: u64,
    runtime: Handle,
}

impl ReadFiles for Blocking {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        self.runtime.block_on(self.files.read_of(file, self.size)).map(Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_ledger::Appender;

    #[tokio::test]
    async fn a_folder_and_a_bucket_have_the_same_files_once_they_are_levelled() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let bucket: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let alone = Files::open(folders[0].path()).unwrap();
        let mut appender = Appender::new();
        let entries: Vec<String> = (0..600).map(|index| format!("entry {index}")).collect();
        // A partial file that a larger one replaced, and was not removed yet.
        for part in [&entries[..300], &entries[300..]] {
            for (file, bytes) in appender.append(part).unwrap().files {
                alone.put(&file.to_string(), bytes).await.unwrap();
            }
        }
        alone.put(CHECKPOINT, b"600".to_vec()).await.unwrap();
        alone.put(COSIGNED, b"log\n300\n".to_vec()).await.unwrap();
        let first = alone.shared(Arc::clone(&bucket));
        first.level(600).await.unwrap();
        assert!(names(&*bucket).await.unwrap().iter().all(|path| path.as_ref().starts_with("log/")));
        let second = Files::open(folders[1].path()).unwrap().shared(bucket);
        second.level(600).await.unwrap();
        let (head, mut files) = (appender.head(), second.blocking(600));
        let restored = tokio::task::spawn_blocking(move || Appender::restore(&head, &mut files)).await;
        assert_eq!(restored.unwrap().unwrap().head(), head);
        assert!(second.get(CHECKPOINT).await.is_err(), "the checkpoint is with the records");
        let old = Bundle::containing(299, 300).unwrap();
        assert!(second.read(&old.into()).await.is_err() && first.read(&old.into()).await.is_ok());
        second.put(COSIGNED, b"log\n600\n".to_vec()).await.unwrap();
        first.level(600).await.unwrap();
        assert_eq!(first.get(COSIGNED).await.unwrap(), b"log\n600\n");
        let there = second.bucket.clone().unwrap();
        write(&*there, &StorePath::from(COSIGNED), "log\n300\n".into()).await.unwrap();
        second.level(600).await.unwrap();
        assert_eq!(second.get(COSIGNED).await.unwrap(), b"log\n600\n", "an older one does not come back");
        assert_eq!(read(&*there, &StorePath::from(COSIGNED)).await.unwrap(), &b"log\n600\n"[..]);
    }

    #[tokio::test]
    async fn partial_files_that_are_gone_are_read_from_larger_ones() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let mut appender = Appender::new();
        let entries: Vec<String> = (0..1000).map(|index| format!("entry {index}")).collect();
        let mut old = Vec::new();
        // Within the first tile, the second and the third; then the last one is what there is.
        for end in [100, 300, 520, 1000] {
            let from = appender.head().size as usize;
            let made = appender.append(&entries[from..end]).unwrap().files;
            for (file, bytes) in &made {
                files.put(&file.to_string(), bytes.clone()).await.unwrap();
            }
            old.push(made);
        }
        let size = appender.head().size;
        let last = old.pop().unwrap();
        for (file, bytes) in
            old.iter().flatten().filter(|(file, _)| !last.iter().any(|(kept, _)| kept == file))
        {
            if file.to_string().contains(".p/") {
                files.remove(file).await.unwrap();
                assert!(files.read(file).await.is_err());
            }
            assert_eq!(files.read_of(*file, size).await.unwrap(), *bytes, "{file}");
        }
        let beyond = Bundle::new(9, 3).unwrap();
        assert_eq!(files.read_of(beyond.into(), size).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
