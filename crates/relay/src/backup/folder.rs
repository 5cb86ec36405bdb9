//! How backups lie in a folder: files that never change lie in `pool`, once however many backups have them; each backup has
//! a folder named by its time with all the rest. One that was cut short ends in `.partial`, and is none.

use super::{BackupError, file};
use potluck_ledger::{TreeHash, TreeHead};
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What never changes, under its name in the data folder.
pub(super) const POOL: &str = "pool";
/// What a backup is, in its folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// The files of a backup, in its folder: hash, length and path of each.
pub(super) const FILES: &str = "files";
/// Says that a folder holds backups.
const MARKER: &str = "potluck-backups";
/// End of the name of a backup that is not whole.
const PARTIAL: &str = ".partial";
/// The version of all this.
const FORMAT: u32 = 1;
/// Bytes of a manifest that are read: a damaged file takes 100 of them.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// How far the log was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The log's name.
    pub origin: String,
    /// The key that signs it, as C2SP signed-note writes keys; empty if nothing was published.
    pub key: String,
    /// The checkpoint in the backup.
    pub published: TreeHead,
    /// Entries that the backup has; the relay publishes those that follow the checkpoint when it starts.
    pub entries: u64,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its name: when it was made, UTC.
    pub stamp: String,
    /// How far the log was.
    pub log: LogState,
    /// Whether it has the relay's key.
    pub with_keys: bool,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that no earlier backup had.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// What the relay's own disk holds damaged or not at all, and no earlier backup either.
    pub damaged: Vec<String>,
    /// Older backups that were removed.
    pub removed: Vec<String>,
}

/// A backup that is there and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its name: when it was made, UTC.
    pub stamp: String,
    /// How far the log was.
    pub log: LogState,
    /// Whether it has the relay's key.
    pub with_keys: bool,
    /// What it lacks, for the relay's own disk had it damaged.
    pub damaged: Vec<String>,
    pub(super) root: PathBuf,
}

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    version: String,
    origin: String,
    key: String,
    published_entries: u64,
    published_root: String,
    entries: u64,
    with_keys: bool,
    files: u64,
    bytes: u64,
    damaged: Vec<String>,
}

impl Manifest {
    pub(super) fn of(made: &Made) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: made.log.origin.clone(),
            key: made.log.key.clone(),
            published_entries: made.log.published.size,
            published_root: BlobHash(made.log.published.root.0).to_string(),
            entries: made.log.entries,
            with_keys: made.with_keys,
            files: made.files,
            bytes: made.bytes,
            damaged: made.damaged.clone(),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), BackupError> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other).map_err(file(path))?;
        let write = || {
            let mut out = File::create(path)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()
        };
        write().map_err(file(path))
    }

    fn read(path: &Path) -> Result<Self, BackupError> {
        let wrong = |message: String| BackupError::Manifest { path: path.to_owned(), message };
        let text = io::Read::take(File::open(path).map_err(file(path))?, MAX_MANIFEST_BYTES);
        let text = io::read_to_string(text).map_err(file(path))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(wrong(format!("format {} is of another version than {FORMAT}", manifest.format)));
        }
        Ok(manifest)
    }
}

/// A folder of backups that this process writes to.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Held while it is written to.
    _lock: File,
}

/// Makes a folder that others cannot read.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the names in a folder durable. Not every system can.
pub(super) fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

/// Whether one lies in the other, links followed as far as they exist.
fn nested(data: &Path, to: &Path) -> bool {
    let whole = |path: &Path| {
        let start = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let known = start.ancestors().find_map(|known| Some((known, known.canonicalize().ok()?)));
        match known {
            Some((known, real)) => start.strip_prefix(known).map_or(real.clone(), |rest| real.join(rest)),
            None => start,
        }
    };
    let (data, to) = (whole(data), whole(to));
    data.starts_with(&to) || to.starts_with(&data)
}

impl Folder {
    /// Takes a folder of backups, or makes one.
    pub(super) fn prepare(root: &Path, data: &Path) -> Result<Self, BackupError> {
        if nested(data, root) {
            return Err(BackupError::Nested { data: data.to_owned(), to: root.to_owned() });
        }
        create_private(root).map_err(file(root))?;
        let marker = root.join(MARKER);
        let empty = fs::read_dir(root).map_err(file(root))?.next().is_none();
        if !empty && !marker.is_file() {
            return Err(BackupError::NotBackups { path: root.to_owned() });
        }
        // Not truncated: another one may hold it.
        let lock = File::options().create(true).append(true).open(&marker).map_err(file(&marker))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BackupError::InUse { path: root.to_owned() }),
            Err(fs::TryLockError::Error(cause)) => return Err(file(&marker)(cause)),
        }
        create_private(&root.join(POOL)).map_err(file(root))?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A new folder for a backup. What was cut short before is removed.
    pub(super) fn begin(&self) -> Result<PathBuf, BackupError> {
        for name in names(&self.root)?.into_iter().filter(|name| name.ends_with(PARTIAL)) {
            let path = self.root.join(name);
            fs::remove_dir_all(&path).map_err(file(&path))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        // The newest sorts last, also if the clock was set back.
        let last = whole(&self.root)?.pop();
        let stamp = match last {
            Some(last) if stamp(now) <= last => format!("{last}+"),
            _ => stamp(now),
        };
        let work = self.root.join(format!("{stamp}{PARTIAL}"));
        create_private(&work).map_err(file(&work))?;
        Ok(work)
    }

    /// The name of a backup when it is whole.
    pub(super) fn stamp_of(&self, work: &Path) -> String {
        let name = self.partial_of(work);
        name.strip_suffix(PARTIAL).unwrap_or(&name).to_owned()
    }

    /// The name of its folder until then.
    pub(super) fn partial_of(&self, work: &Path) -> String {
        work.strip_prefix(&self.root).unwrap_or(work).display().to_string()
    }

    /// The backup is whole.
    pub(super) fn complete(&self, work: &Path) -> Result<(), BackupError> {
        sync_folder(work);
        fs::rename(work, self.root.join(self.stamp_of(work))).map_err(file(work))?;
        sync_folder(&self.root);
        Ok(())
    }

    /// Removes older backups, and what only they had.
    pub(super) fn prune(&self, keep: usize) -> Result<Vec<String>, BackupError> {
        let mut all = whole(&self.root)?;
        let kept = all.split_off(all.len().saturating_sub(keep));
        if all.is_empty() {
            return Ok(all);
        }
        for name in &all {
            let (path, gone) = (self.root.join(name), self.root.join(format!("{name}{PARTIAL}")));
            // It is none any more before a part of it goes.
            fs::rename(&path, &gone).and_then(|()| fs::remove_dir_all(&gone)).map_err(file(&path))?;
        }
        let mut needed = HashSet::new();
        for name in &kept {
            each_file(&self.root.join(name), |kept| {
                if kept.path.starts_with(POOL) {
                    needed.insert(kept.path);
                }
                Ok(())
            })?;
        }
        for path in super::source::files_below(&self.root.join(POOL))? {
            let name = path.strip_prefix(&self.root).unwrap_or(&path).display().to_string();
            if !needed.contains(&name) {
                fs::remove_file(&path).map_err(file(&path))?;
            }
        }
        Ok(all)
    }
}

fn names(root: &Path) -> Result<Vec<String>, BackupError> {
    let entries = fs::read_dir(root).map_err(file(root))?.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Whole backups, the oldest first.
fn whole(root: &Path) -> Result<Vec<String>, BackupError> {
    let mut names = names(root)?;
    names.retain(|name| !name.ends_with(PARTIAL) && root.join(name).join(MANIFEST).is_file());
    Ok(names)
}

/// A file of a backup.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) hash: String,
    pub(super) bytes: u64,
    /// Below the folder of backups.
    pub(super) path: String,
}

/// Goes through the files of a backup.
pub(super) fn each_file(
    backup: &Path,
    mut visit: impl FnMut(Kept) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let list = backup.join(FILES);
    let lines = BufReader::new(File::open(&list).map_err(file(&list))?).lines();
    for line in lines {
        let line = line.map_err(file(&list))?;
        let wrong = || BackupError::Manifest { path: list.clone(), message: format!("no file: {line:?}") };
        let mut words = line.splitn(3, ' ');
        let (Some(hash), Some(bytes), Some(path)) = (words.next(), words.next(), words.next()) else {
            return Err(wrong());
        };
        let inside = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let bytes = bytes.parse().ok().filter(|_| inside).ok_or_else(wrong)?;
        visit(Kept { hash: hash.to_owned(), bytes, path: path.to_owned() })?;
    }
    Ok(())
}

impl Backup {
    /// Finds a backup in a folder: the newest, or the one of this name.
    ///
    /// # Errors
    /// None is there, or it cannot be read.
    pub fn find(root: &Path, which: Option<&str>) -> Result<Self, BackupError> {
        let none = || BackupError::NoBackup { path: root.to_owned(), which: which.map(str::to_owned) };
        let all = whole(root)?;
        let stamp = match which {
            Some(which) => all.into_iter().find(|name| name == which),
            None => all.into_iter().next_back(),
        };
        let stamp = stamp.ok_or_else(none)?;
        let path = root.join(&stamp).join(MANIFEST);
        let manifest = Manifest::read(&path)?;
        let tree_root = manifest.published_root.parse::<BlobHash>();
        let tree_root =
            tree_root.map_err(|error| BackupError::Manifest { path, message: error.to_string() })?;
        Ok(Self {
            stamp,
            log: LogState {
                origin: manifest.origin,
                key: manifest.key,
                published: TreeHead { size: manifest.published_entries, root: TreeHash(tree_root.0) },
                entries: manifest.entries,
            },
            with_keys: manifest.with_keys,
            damaged: manifest.damaged,
            root: root.to_owned(),
        })
    }

    /// Names of all whole backups in a folder, the oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(root: &Path) -> Result<Vec<String>, BackupError> {
        whole(root)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(&self.stamp)
    }
}

/// A time in milliseconds since 1970 as a name that sorts: `2026-11-30T13-45-00.123Z`.
fn stamp(ms: u64) -> String {
    let (seconds, milli) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days of the proleptic Gregorian calendar, from March on, in eras of 400 years (Hinnant, "chrono-compatible low-level
    // date algorithms", civil_from_days).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}-{minute:02}-{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_named_as_people_read_them() {
        assert_eq!(stamp(0), "1970-01-01T00-00-00.000Z");
        assert_eq!(stamp(951_782_399_999), "2000-02-28T23-59-59.999Z");
        assert_eq!(stamp(951_782_400_000), "2000-02-29T00-00-00.000Z");
        assert_eq!(stamp(1_796_047_500_007), "2026-11-30T14-05-00.007Z");
    }

    #[test]
    fn a_backup_never_lies_in_the_data_or_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("data/backups/daily"));
        fs::create_dir(&data).unwrap();
        for (data, to) in [(&data, &to), (&to, &data), (&data, &data)] {
            let refused = Folder::prepare(to, data).unwrap_err();
            assert!(matches!(refused, BackupError::Nested { .. }), "{refused}");
        }
        assert!(!to.exists());
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone_and_one_writes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("to"));
        fs::create_dir(&to).unwrap();
        fs::write(to.join("letters"), "dear").unwrap();
        assert!(matches!(Folder::prepare(&to, &data), Err(BackupError::NotBackups { .. })));
        fs::remove_file(to.join("letters")).unwrap();
        let first = Folder::prepare(&to, &data).unwrap();
        assert!(matches!(Folder::prepare(&to, &data), Err(BackupError::InUse { .. })));
        drop(first);
        Folder::prepare(&to, &data).unwrap();
    }

    #[test]
    fn no_line_of_a_list_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/../../b", "a//b", ""] {
            fs::write(folder.path().join(FILES), format!("00 1 {path}\n")).unwrap();
            let read = each_file(folder.path(), |_| Ok(()));
            assert!(matches!(read, Err(BackupError::Manifest { .. })), "{path}");
        }
        fs::write(folder.path().join(FILES), "00 1 pool/a b\n").unwrap();
        each_file(folder.path(), |kept| {
            assert_eq!((kept.path.as_str(), kept.bytes), ("pool/a b", 1));
            Ok(())
        })
        .unwrap();
    }
}
