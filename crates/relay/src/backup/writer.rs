//! Copies of files, each read back and checked before the backup counts on it.

use super::folder::{POOL, create_private, sync_folder};
use super::{BackupError, file, hash_of};
use potluck_types::BlobHash;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Damaged files that are named; the others are counted into the last one.
const MAX_NAMED: usize = 1000;
/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) copied_files: u64,
    pub(super) copied_bytes: u64,
    pub(super) damaged: Vec<String>,
}

/// Writes the files of one backup.
#[derive(Debug)]
pub(super) struct Writer {
    root: PathBuf,
    list: BufWriter<File>,
    list_path: PathBuf,
    quick: bool,
    /// The name of the backup's folder until it is whole.
    partial: String,
    counts: Counts,
    folders: BTreeSet<PathBuf>,
}

impl Writer {
    pub(super) fn create(
        root: &Path,
        list: &Path,
        quick: bool,
        partial: String,
    ) -> Result<Self, BackupError> {
        let opened = File::create(list).map_err(file(list))?;
        Ok(Self {
            root: root.to_owned(),
            list: BufWriter::new(opened),
            list_path: list.to_owned(),
            quick,
            partial,
            counts: Counts::default(),
            folders: BTreeSet::new(),
        })
    }

    fn stamp(&self) -> &str {
        self.partial.strip_suffix(".partial").unwrap_or(&self.partial)
    }

    /// The place of a file of the pool beside those of this backup alone: what lies in the pool under its name is another one, and
    /// earlier backups count on it.
    fn beside(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(POOL)?.strip_prefix('/')?;
        Some(format!("{}/{rest}", self.stamp()))
    }

    /// Where a file lies until the backup is whole.
    fn target(&self, path: &str) -> PathBuf {
        match path.strip_prefix(self.stamp()).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) => self.root.join(&self.partial).join(rest),
            None => self.root.join(path),
        }
    }

    /// Keeps a copy of a file whose hash is known, or is whatever it is now. One that is gone or damaged is noted, unless an
    /// earlier backup has it.
    pub(super) fn keep(
        &mut self,
        from: &Path,
        path: &str,
        expected: Option<BlobHash>,
    ) -> Result<(), BackupError> {
        let mut target = self.target(path);
        let named = expected.is_some();
        let expected = match expected {
            Some(expected) => expected,
            None => match hash_of(from) {
                Ok((hash, _)) => hash,
                Err(error) => return self.damaged(path, &error.to_string(), from, error),
            },
        };
        if let Ok(there) = fs::metadata(&target) {
            let same_length = fs::metadata(from).is_ok_and(|source| source.len() == there.len());
            if (self.quick && named && same_length)
                || hash_of(&target).is_ok_and(|(hash, _)| hash == expected)
            {
                return self.list(&expected, there.len(), path);
            }
            // Which of the two is right cannot be told from a name that says nothing of the bytes: both stay.
            if let Some(beside) = self.beside(path).filter(|_| !named) {
                self.note(path, "its bytes are not those of earlier backups");
                target = self.target(&beside);
                let source = File::open(from).map_err(file(from))?;
                let copied = self.copy(source, &target).map_err(file(&target))?;
                return self.copied(&target, &beside, copied);
            }
        }
        let source = match File::open(from) {
            Ok(source) => source,
            Err(error) => return self.damaged(path, &error.to_string(), from, error),
        };
        let copied = self.copy(source, &target).map_err(file(&target))?;
        if copied.0 != expected {
            fs::remove_file(&target).map_err(file(&target))?;
            let what = format!("its bytes have the hash {}", copied.0);
            return self.damaged(path, &what, from, io::ErrorKind::InvalidData.into());
        }
        self.copied(&target, path, copied)
    }

    /// Keeps a copy of a blob that is fetched from elsewhere, if no earlier backup has it. One that is gone or damaged is noted.
    pub(super) fn keep_blob(
        &mut self,
        hash: &BlobHash,
        path: &str,
        fetch: impl FnOnce() -> io::Result<bytes::Bytes>,
    ) -> Result<(), BackupError> {
        let target = self.target(path);
        if let Ok(there) = fs::metadata(&target)
            && (self.quick || hash_of(&target).is_ok_and(|(found, _)| found == *hash))
        {
            return self.list(hash, there.len(), path);
        }
        match fetch() {
            Ok(bytes) => {
                let copied = self.copy(&bytes[..], &target).map_err(file(&target))?;
                self.copied(&target, path, copied)
            }
            Err(error) => self.damaged(path, &error.to_string(), Path::new(path), error),
        }
    }

    /// As [`Self::keep`]; a file that is not there is not needed.
    pub(super) fn keep_if_there(&mut self, from: &Path, path: &str) -> Result<(), BackupError> {
        if from.is_file() { self.keep(from, path, None) } else { Ok(()) }
    }

    /// Keeps bytes that were read and checked.
    pub(super) fn keep_bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let (target, expected) = (self.target(path), BlobHash::of(bytes));
        if hash_of(&target).is_ok_and(|(hash, _)| hash == expected) {
            return self.list(&expected, bytes.len() as u64, path);
        }
        // Another history of the log has this name in the pool.
        let beside = if target.exists() { self.beside(path) } else { None };
        let path = beside.as_deref().unwrap_or(path);
        let target = self.target(path);
        let copied = self.copy(bytes, &target).map_err(file(&target))?;
        self.copied(&target, path, copied)
    }

    /// Lists files that lie in the backup's folder already.
    pub(super) fn list_copied(
        &mut self,
        work: &Path,
        stamp: &str,
        names: &[&str],
    ) -> Result<(), BackupError> {
        for name in names {
            let path = work.join(name);
            let copied = hash_of(&path).map_err(file(&path))?;
            self.copied(&path, &format!("{stamp}/{name}"), copied)?;
        }
        Ok(())
    }

    /// A copy that lasts is under its name when this returns.
    fn copy(&mut self, mut from: impl Read, target: &Path) -> io::Result<(BlobHash, u64)> {
        let folder = target.parent().ok_or(io::ErrorKind::NotFound)?;
        create_private(folder)?;
        self.folders.insert(folder.to_owned());
        // Temporary files are readable by their owner alone.
        let mut copy = tempfile::NamedTempFile::new_in(folder)?;
        let (mut hasher, mut buffer, mut bytes) = (blake3::Hasher::new(), vec![0; READ_BYTES], 0);
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            copy.write_all(&buffer[..count])?;
            bytes += count as u64;
        }
        copy.as_file().sync_all()?;
        copy.persist(target)?;
        Ok((BlobHash(*hasher.finalize().as_bytes()), bytes))
    }

    /// Reads a copy back.
    fn copied(
        &mut self,
        target: &Path,
        path: &str,
        (hash, bytes): (BlobHash, u64),
    ) -> Result<(), BackupError> {
        let (found, _) = hash_of(target).map_err(file(target))?;
        if found != hash {
            let cause =
                io::Error::new(io::ErrorKind::InvalidData, "what is read back is not what was written");
            return Err(file(target)(cause));
        }
        self.counts.copied_files += 1;
        self.counts.copied_bytes += bytes;
        self.list(&hash, bytes, path)
    }

    fn list(&mut self, hash: &BlobHash, bytes: u64, path: &str) -> Result<(), BackupError> {
        self.counts.files += 1;
        self.counts.bytes += bytes;
        writeln!(self.list, "{hash} {bytes} {path}").map_err(file(&self.list_path))
    }

    /// A file of the relay's that cannot be copied is no reason to have no backup of the others; a disk that fails is.
    fn damaged(&mut self, path: &str, what: &str, from: &Path, error: io::Error) -> Result<(), BackupError> {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) {
            return Err(file(from)(error));
        }
        self.note(path, what);
        Ok(())
    }

    fn note(&mut self, path: &str, what: &str) {
        let path = path.split_once('/').map_or(path, |(_, path)| path);
        let damaged = &mut self.counts.damaged;
        if damaged.len() < MAX_NAMED {
            damaged.push(format!("{path}: {what}"));
        } else if damaged.len() == MAX_NAMED {
            damaged.push("and more".to_owned());
        }
    }

    /// Notes what is gone.
    pub(super) fn gone(&mut self, what: Vec<String>) {
        self.counts.damaged.extend(what);
    }

    pub(super) fn finish(mut self) -> Result<Counts, BackupError> {
        let flushed = self.list.flush().and_then(|()| self.list.get_ref().sync_all());
        flushed.map_err(file(&self.list_path))?;
        for folder in &self.folders {
            sync_folder(folder);
            // Its own name too.
            folder.parent().into_iter().for_each(sync_folder);
        }
        Ok(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_backups_count_on_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (root, set) = (folder.path().join("backups"), folder.path().join("set.tokens"));
        let make = |stamp: &str, bytes: &[u8]| {
            let partial = format!("{stamp}.partial");
            let work = root.join(&partial);
            create_private(&work).unwrap();
            fs::write(&set, bytes).unwrap();
            let mut writer = Writer::create(&root, &work.join("files"), false, partial).unwrap();
            writer.keep_bytes("pool/log/tile/0/000", bytes).unwrap();
            writer.keep(&set, "pool/datasets/set.tokens", None).unwrap();
            let counts = writer.finish().unwrap();
            fs::rename(&work, root.join(stamp)).unwrap();
            counts.damaged
        };
        assert!(make("a", b"one").is_empty());
        assert!(make("b", b"one").is_empty());
        // Another history of the log, and a data set that is not what it was: which is right, names do not say.
        let damaged = make("c", b"two");
        assert!(damaged.len() == 1 && damaged[0].starts_with("datasets/set.tokens"), "{damaged:?}");
        for name in ["log/tile/0/000", "datasets/set.tokens"] {
            assert_eq!(fs::read(root.join("pool").join(name)).unwrap(), b"one");
            assert_eq!(fs::read(root.join("c").join(name)).unwrap(), b"two");
        }
        let list = fs::read_to_string(root.join("c/files")).unwrap();
        assert!(list.contains(" c/log/tile/0/000\n") && list.contains(" c/datasets/set.tokens\n"), "{list}");
        let list = fs::read_to_string(root.join("b/files")).unwrap();
        assert!(list.contains(" pool/log/tile/0/000\n"), "{list}");
    }
}
