//! Where the log's files lie, in the layout that any web server or bucket can serve.

use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use potluck_ledger::{Bundle, LogFile, ReadFiles, Tile};
use std::borrow::Cow;
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

/// The files of a log.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<dyn ObjectStore>);

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // A file is on disk before the checkpoint that needs it.
        let store = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self(Arc::new(store)))
    }

    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.0.put(&StorePath::from(path), bytes.into()).await.map(drop).map_err(crate::blobs::io_error)
    }

    pub(super) async fn get(&self, path: &str) -> io::Result<Vec<u8>> {
        let found = self.0.get(&StorePath::from(path)).await.map_err(crate::blobs::io_error)?;
        Ok(found.bytes().await.map_err(crate::blobs::io_error)?.to_vec())
    }

    pub(super) async fn read(&self, file: &LogFile) -> io::Result<Vec<u8>> {
        self.get(&file.to_string()).await
    }

    pub(super) async fn remove(&self, file: &LogFile) -> io::Result<()> {
        match self.0.delete(&StorePath::from(file.to_string())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(crate::blobs::io_error(error)),
        }
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
