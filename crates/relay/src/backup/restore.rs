//! The way back: from a backup into an empty data folder, checked before and after.

use super::folder::{Backup, LogState, create_private, each_file, sync_folder};
use super::{BackupError, POOL, file, hash_of};
use crate::db::wall_ms;
use crate::identity;
use crate::log;
use crate::log::copy::SignedNote;
use potluck_ledger::{LogFile, ReadFiles};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// In the data folder while it is filled: no relay starts there.
pub(crate) const RESTORING: &str = "restoring";
/// In the data folder of a relay that was restored: from what, and how far its log was then.
pub(crate) const RESTORED: &str = "restored.json";
/// Damaged files that are named.
const MAX_NAMED: usize = 1000;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup.
    pub stamp: String,
    /// How far its log is.
    pub log: LogState,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the backup lacks, for the relay's own disk had it damaged.
    pub damaged: Vec<String>,
}

impl Backup {
    /// Checks every file of the backup, and its log against its checkpoint.
    ///
    /// # Errors
    /// Files that are damaged or gone, or a log that does not hold together.
    pub async fn check(&self) -> Result<(), BackupError> {
        let (mut wrong, root) = (Vec::new(), self.root.clone());
        each_file(&self.folder(), |kept| {
            let found = hash_of(&root.join(&kept.path));
            let right = found.is_ok_and(|(hash, bytes)| hash.to_string() == kept.hash && bytes == kept.bytes);
            if !right && wrong.len() < MAX_NAMED {
                wrong.push(kept.path);
            }
            Ok(())
        })?;
        if !wrong.is_empty() {
            return Err(BackupError::Damaged { files: wrong });
        }
        let note = log::copy::checkpoint(&self.folder().join("log")).await.map_err(BackupError::Log)?;
        if let Some(head) = note.as_ref().map(SignedNote::head) {
            if head != self.log.published {
                return Err(BackupError::Log("its checkpoint is not the one that the manifest names".into()));
            }
            log::copy::check(&head, &mut self.log_files()).map_err(BackupError::Log)?;
        }
        Ok(())
    }

    /// The files of the backup's log.
    pub fn log_files(&self) -> impl ReadFiles + use<> {
        InBackup { folders: [self.folder().join("log"), self.root.join(POOL).join("log")] }
    }
}

/// Partial files lie with the backup, whole ones in the pool.
struct InBackup {
    folders: [PathBuf; 2],
}

impl ReadFiles for InBackup {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        let [own, pool] = &self.folders;
        match fs::read(own.join(file.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read(pool.join(file.to_string())),
            other => other,
        }
        .map(Cow::Owned)
    }
}

/// Where a file of a backup belongs in the data folder.
fn place<'a>(path: &'a str, stamp: &str) -> &'a str {
    let rest = |of: &str| path.strip_prefix(of).and_then(|rest| rest.strip_prefix('/'));
    let place = rest(POOL).or_else(|| rest(stamp)).unwrap_or(path);
    place.strip_prefix("keys/").unwrap_or(place)
}

/// Restores a backup into an empty folder. The relay's key comes from the backup, or from `key`.
///
/// # Errors
/// The folder is not empty, the backup is damaged, or the key is missing or another relay's. Nothing is left in the folder
/// that a relay would start on.
pub async fn restore(backup: &Backup, data: &Path, key: Option<&Path>) -> Result<Restored, BackupError> {
    create_private(data).map_err(file(data))?;
    if fs::read_dir(data).map_err(file(data))?.next().is_some() {
        return Err(BackupError::NotEmpty { path: data.to_owned() });
    }
    let own = backup.folder().join("keys").join(identity::FILE);
    let key = key.map_or(own, Path::to_owned);
    if !key.is_file() {
        return Err(BackupError::KeyNeeded);
    }
    check_key(&key, backup)?;
    backup.check().await?;
    let marker = data.join(RESTORING);
    fs::write(&marker, format!("from the backup {}\n", backup.stamp)).map_err(file(&marker))?;
    fs::File::open(&marker).and_then(|marker| marker.sync_all()).map_err(file(&marker))?;
    sync_folder(data);
    let (mut files, mut total) = (0, 0);
    let mut folders = BTreeSet::new();
    each_file(&backup.folder(), |kept| {
        let (from, to) = (backup.root.join(&kept.path), data.join(place(&kept.path, &backup.stamp)));
        copy(&from, &to).map_err(file(&to))?;
        let (hash, bytes) = hash_of(&to).map_err(file(&to))?;
        if hash.to_string() != kept.hash {
            return Err(BackupError::Damaged { files: vec![kept.path] });
        }
        (files, total) = (files + 1, total + bytes);
        folders.extend(to.ancestors().skip(1).take_while(|folder| *folder != data).map(Path::to_owned));
        Ok(())
    })?;
    let target = data.join(identity::FILE);
    copy(&key, &target).map_err(file(&target))?;
    let said = json!({
        "backup": backup.stamp, "restored_ms": wall_ms(), "log_published": backup.log.published.size,
        "log_entries": backup.log.entries,
    });
    let note = data.join(RESTORED);
    fs::write(&note, format!("{said}\n")).map_err(file(&note))?;
    // Names last too, before the folder counts as restored.
    for folder in &folders {
        sync_folder(folder);
    }
    sync_folder(data);
    fs::remove_file(&marker).map_err(file(&marker))?;
    sync_folder(data);
    let (stamp, log, damaged) = (backup.stamp.clone(), backup.log.clone(), backup.damaged.clone());
    Ok(Restored { stamp, log, files, bytes: total, damaged })
}

/// The key has to be that of the relay that signed the log.
fn check_key(path: &Path, backup: &Backup) -> Result<(), BackupError> {
    let identity = identity::read_file(path).map_err(file(path))?;
    let Ok(expected) = backup.log.key.parse::<potluck_ledger::VerifierKey>() else { return Ok(()) };
    if *expected.public_key() == identity.public() {
        return Ok(());
    }
    let expected = expected.public_key().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    Err(BackupError::OtherKey { found: identity.to_string(), expected })
}

/// A copy that lasts, readable by its owner alone.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let folder = to.parent().ok_or(io::ErrorKind::NotFound)?;
    create_private(folder)?;
    let mut copy = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.flush()?;
    copy.as_file().sync_all()?;
    copy.persist(to)?;
    Ok(())
}
