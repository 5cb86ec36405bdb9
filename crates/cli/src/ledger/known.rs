//! What this machine remembers of each log: its key, and the last checkpoint that it saw. A log that shows another history
//! later is found out.

use crate::error::CliError;
use potluck_ledger::{SignedCheckpoint, TreeHead, VerifierKey};
use std::path::{Path, PathBuf};

/// What is remembered of one log.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    folder: PathBuf,
    /// Its key, as it was when it was first seen.
    pub(crate) key: Option<String>,
    /// The last checkpoint that was checked.
    pub(crate) checkpoint: Option<Vec<u8>>,
}

impl Known {
    /// What is remembered in a folder of the log with this name.
    pub(crate) fn read(root: &Path, origin: &str) -> Result<Self, CliError> {
        let folder = root.join(potluck_types::BlobHash::of(origin.as_bytes()).to_string());
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(CliError::file(&path, "read", error)),
            }
        };
        let key = read("key")?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(Self { key, checkpoint: read("checkpoint")?, folder })
    }

    /// The tree of the last checkpoint that was checked, if there is one.
    ///
    /// # Errors
    /// What is remembered is damaged.
    pub(crate) fn head(&self, origin: &str) -> Result<Option<TreeHead>, CliError> {
        let (Some(key), Some(note)) = (&self.key, &self.checkpoint) else { return Ok(None) };
        let damaged = |cause: String| CliError::Record { what: "remembered checkpoint".into(), cause };
        let key: VerifierKey = key.parse().map_err(|error| damaged(format!("{error}")))?;
        let signed =
            SignedCheckpoint::open(note, origin, &key).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(signed.head()))
    }

    /// Keeps evidence that the log was forked. Where it lies.
    pub(crate) fn keep_evidence(&self, evidence: &str) -> Result<PathBuf, CliError> {
        let name = potluck_types::BlobHash::of(evidence.as_bytes()).to_string();
        let path = self.folder.join(format!("fork-{}.txt", &name[..16]));
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&path, evidence))
            .map_err(|error| CliError::file(&path, "written", error))?;
        Ok(path)
    }

    /// Remembers a checkpoint that was checked.
    pub(crate) fn remember(&self, key: &VerifierKey, checkpoint: &SignedCheckpoint) -> Result<(), CliError> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| CliError::file(&self.folder, "created", error))?;
        for (name, text) in [("key", format!("{key}\n")), ("checkpoint", checkpoint.note().to_string())] {
            let path = self.folder.join(name);
            let written = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut file| {
                std::io::Write::write_all(&mut file, text.as_bytes())?;
                file.persist(&path).map_err(Into::into)
            });
            written.map_err(|error| CliError::file(&path, "written", error))?;
        }
        Ok(())
    }
}

/// Where logs are remembered, unless the person says otherwise.
pub(crate) fn usual_root() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    state.unwrap_or_else(|| PathBuf::from(".")).join("potluck/logs")
}
