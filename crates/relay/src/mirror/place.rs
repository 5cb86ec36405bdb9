//! What a mirror remembers of the relay that it follows, and in which of its folders the log lies that counts.

use super::source::Source;
use crate::api::LogInfo;
use crate::log::{CHECKPOINT_FILE, KEY_FILE, PREDECESSOR_FILE, Stage};
use potluck_ledger::VerifierKey;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// In the data folder of whoever is, or was, a mirror.
pub(crate) const FILE: &str = "mirror.json";
/// Longest answer about a log: a note with its cosignatures, twice.
const MAX_INFO_BYTES: u64 = 1 << 20;

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// It follows the other relay.
    Following,
    /// The other relay is not heard any more: people may say here who goes on.
    Draft,
    /// It was appointed, and leads.
    Leading,
}

/// What `mirror.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// Address of the relay that is followed.
    pub(crate) of: String,
    /// Name of its log.
    pub(crate) origin: String,
    /// Key that signs its log, as C2SP signed-note writes keys: what it was when it was first seen.
    pub(crate) key: String,
    /// How far the mirror is.
    pub(crate) step: Step,
    /// It did not keep its log as it should: it is not followed again by itself.
    #[serde(default)]
    pub(crate) breach: bool,
}

impl Place {
    /// What is remembered in a data folder.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub(crate) fn read(data: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks a relay for its log, the first time.
    ///
    /// # Errors
    /// It does not answer, or with something else; `data` holds a relay's own log.
    pub(crate) async fn begin(data: &Path, source: &Source, key: Option<&str>) -> io::Result<Self> {
        if data.join("log").join(KEY_FILE).exists() {
            let what = "there is a log of another relay in it: name an empty folder for a mirror";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        let bytes = source.get("/api/v1/log", MAX_INFO_BYTES).await?;
        let info: LogInfo = serde_json::from_slice(&bytes)?;
        let key = key.unwrap_or(&info.key).trim().to_owned();
        let place = Self {
            of: source.url().to_owned(),
            origin: info.origin,
            key,
            step: Step::Following,
            breach: false,
        };
        if place.signer()?.name() != place.origin {
            let what = format!("its log is called {}, and the key is of another one", place.origin);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        place.write(data)?;
        Ok(place)
    }

    /// Remembers it. It is on disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, data: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(self)?)?;
        file.as_file().sync_all()?;
        file.persist(data.join(FILE))?;
        std::fs::File::open(data)?.sync_all()
    }

    /// The key of the relay that is followed.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn signer(&self) -> io::Result<VerifierKey> {
        self.key.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// What the log's stage is.
    ///
    /// # Errors
    /// As [`Self::signer`].
    pub(crate) fn stage(&self) -> io::Result<Stage> {
        let key = self.signer()?;
        Ok(match self.step {
            Step::Following => Stage::Following(key),
            Step::Draft => Stage::Draft(key),
            Step::Leading => Stage::Leading(Some(key)),
        })
    }

    /// The folder of the log. What a step left half done is done: a draft that leads becomes the log, any other is of no use
    /// once the relay is followed again.
    ///
    /// # Errors
    /// Folders that cannot be moved.
    pub(crate) fn folder(&self, data: &Path) -> io::Result<PathBuf> {
        let (log, draft) = (data.join("log"), data.join("draft"));
        match self.step {
            Step::Draft => return Ok(draft),
            Step::Following if draft.exists() => std::fs::remove_dir_all(&draft)?,
            Step::Leading if draft.exists() => {
                let followed = data.join("log-followed");
                if !followed.exists() {
                    std::fs::rename(&log, &followed)?;
                }
                std::fs::rename(&draft, &log)?;
            }
            Step::Following | Step::Leading => {}
        }
        Ok(log)
    }

    /// Makes the draft's folder: a copy of the log that was followed, with its last checkpoint and the key below it apart, so
    /// that others can see where the draft begins.
    ///
    /// # Errors
    /// A file that cannot be copied.
    pub(crate) fn copy_log(&self, data: &Path) -> io::Result<()> {
        let (log, draft) = (data.join("log"), data.join("draft"));
        if draft.exists() {
            std::fs::remove_dir_all(&draft)?;
        }
        copy_folder(&log, &draft)?;
        let note = std::fs::read_to_string(log.join(CHECKPOINT_FILE))?;
        let predecessor = draft.join(PREDECESSOR_FILE);
        if predecessor.exists() {
            std::fs::remove_file(&predecessor)?;
        }
        std::fs::write(&predecessor, format!("{}\n\n{note}", self.key))?;
        std::fs::File::open(&predecessor)?.sync_all()
    }
}

/// Links files where that goes: those of a log are replaced and never written into.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to)?;
            std::fs::File::open(&to)?.sync_all()?;
        }
    }
    std::fs::File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_was_cut_short_is_finished_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let place =
            |step| Place { of: String::new(), origin: "o".into(), key: "k".into(), step, breach: false };
        assert_eq!(Place::read(data).unwrap(), None);
        std::fs::create_dir_all(data.join("log/tile")).unwrap();
        std::fs::write(data.join("log/tile/0"), "followed").unwrap();
        std::fs::write(data.join("log/checkpoint"), "o\n7\n").unwrap();
        place(Step::Following).copy_log(data).unwrap();
        assert_eq!(std::fs::read(data.join("draft/predecessor")).unwrap(), b"k\n\no\n7\n");
        // A file of a log is replaced, so that its copy stays.
        std::fs::write(data.join("draft/new"), "draft").unwrap();
        std::fs::rename(data.join("draft/new"), data.join("draft/tile/0")).unwrap();
        assert_eq!(std::fs::read(data.join("log/tile/0")).unwrap(), b"followed");
        assert_eq!(place(Step::Draft).folder(data).unwrap(), data.join("draft"));
        let leading = place(Step::Leading);
        leading.write(data).unwrap();
        assert_eq!(Place::read(data).unwrap(), Some(leading.clone()));
        for _ in 0..2 {
            assert_eq!(leading.folder(data).unwrap(), data.join("log"));
            assert_eq!(std::fs::read(data.join("log/tile/0")).unwrap(), b"draft");
            assert_eq!(std::fs::read(data.join("log-followed/tile/0")).unwrap(), b"followed");
        }
        leading.copy_log(data).unwrap();
        assert_eq!(place(Step::Following).folder(data).unwrap(), data.join("log"));
        assert!(!data.join("draft").exists());
    }
}
