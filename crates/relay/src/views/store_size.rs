//! How large the data folder is: measured off the async threads, seldom, and never without end.

use super::api::StorePart;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A measurement is used again for so long: a folder of a million blobs takes seconds to look at.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Files of a part that are looked at.
const MAX_FILES: u64 = 1_000_000;
/// Folders below a part: blobs and the log lie up to five deep.
const MAX_DEPTH: usize = 8;
/// The folders, and what they are called.
const FOLDERS: [&str; 5] = [BLOBS, "matrices", "datasets", "runs", "log"];
/// What the blobs are called, of which a bucket may have more.
pub(super) const BLOBS: &str = "blobs";
/// What the database is called.
pub(super) const DATABASE: &str = "database";
/// Files of the database.
const DATABASE_FILES: [&str; 3] = ["potluck.db", "potluck.db-wal", "potluck.db-shm"];

/// What was measured last.
#[derive(Debug, Default)]
pub(crate) struct StoreSize(Mutex<Option<(Instant, Vec<StorePart>)>>);

impl StoreSize {
    /// The sizes, measured now or lately. Waits for a disk: not for async threads.
    pub(super) fn of(&self, data: &Path) -> Vec<StorePart> {
        // Held while it measures: who asks meanwhile gets the same answer.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, parts)) = last.as_ref().filter(|(at, _)| at.elapsed() < MAX_AGE) {
            return parts.clone();
        }
        let parts = measure(data);
        *last = Some((Instant::now(), parts.clone()));
        parts
    }
}

fn measure(data: &Path) -> Vec<StorePart> {
    let mut database = StorePart { part: DATABASE.to_owned(), bytes: 0, files: 0, partial: false };
    for name in DATABASE_FILES {
        if let Ok(meta) = data.join(name).metadata() {
            database.bytes += meta.len();
            database.files += 1;
        }
    }
    let folders = FOLDERS.iter().map(|name| {
        let mut part = StorePart { part: (*name).to_owned(), bytes: 0, files: 0, partial: false };
        add(&data.join(name), 0, &mut part);
        part
    });
    std::iter::once(database).chain(folders).collect()
}

/// Adds what is in a folder. Links are not followed; what is gone meanwhile does not count.
fn add(folder: &Path, depth: usize, part: &mut StorePart) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if part.files >= MAX_FILES {
            part.partial = true;
            return;
        }
        match entry.metadata() {
            Ok(meta) if meta.is_dir() && depth < MAX_DEPTH => add(&entry.path(), depth + 1, part),
            Ok(meta) if meta.is_dir() => part.partial = true,
            Ok(meta) => {
                part.bytes += meta.len();
                part.files += 1;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_where_they_lie_and_a_measurement_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("blobs/ab/cd");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("one"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("blobs/two"), [0; 5]).unwrap();
        std::fs::write(folder.path().join("potluck.db"), [0; 7]).unwrap();
        let size = StoreSize::default();
        let parts = size.of(folder.path());
        let of =
            |name: &str| parts.iter().find(|part| part.part == name).map(|part| (part.bytes, part.files));
        assert_eq!((of("blobs"), of("database"), of("log")), (Some((15, 2)), Some((7, 1)), Some((0, 0))));
        std::fs::write(folder.path().join("blobs/three"), [0; 5]).unwrap();
        assert_eq!(size.of(folder.path()), parts, "it is not measured again at once");
    }

    #[test]
    fn folders_that_are_too_deep_are_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let deep = (0..=MAX_DEPTH).fold(folder.path().join("runs"), |path, _| path.join("x"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("one"), [0; 10]).unwrap();
        let runs = measure(folder.path()).into_iter().find(|part| part.part == "runs").unwrap();
        assert_eq!((runs.bytes, runs.partial), (0, true));
    }
}
