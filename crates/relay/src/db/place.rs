//! Where a relay's records are: in its data folder, or in a server of PostgreSQL that its settings name.
//!
//! A folder whose records are in a server says so in a file, without a password: a [`Marker`]. Started without that server, the
//! relay would find no records there, begin anew, and accept twice what it accepted before.

use super::{Db, DbError, StoreUrl, open_files};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// The records, in the data folder.
const FILE: &str = "potluck.db";
/// Says that they are in a server, and in which.
const MARKER: Marker = Marker { what: "records", file: "store" };
/// What becomes of the file when its records move.
const MOVED: &str = "potluck.db.moved";

/// Where the records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Records {
    /// In this file.
    File(PathBuf),
    /// In this server.
    Server(StoreUrl),
}

/// The settings name another place than the data folder does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhichStore {
    /// They are in a server.
    #[error("the {what} of {data} are in {store}")]
    Elsewhere {
        /// Records or blobs.
        what: &'static str,
        /// The data folder.
        data: PathBuf,
        /// The server, without a password.
        store: String,
    },
    /// They are in the folder.
    #[error("the {what} of {data} are in that folder, and not in the store that is named")]
    Here {
        /// Records or blobs.
        what: &'static str,
        /// The data folder.
        data: PathBuf,
    },
}

/// A file in a data folder that says in which store something of it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marker {
    pub(crate) what: &'static str,
    pub(crate) file: &'static str,
}

impl Marker {
    /// Whether the settings, which name a store or do not, agree with the folder, where things may lie `here`.
    pub(crate) fn agrees(
        self,
        data: &Path,
        named: bool,
        here: impl FnOnce() -> bool,
    ) -> Result<(), WhichStore> {
        let (what, data_folder) = (self.what, data.to_owned());
        match (named, std::fs::read_to_string(data.join(self.file)).ok()) {
            (false, Some(store)) => {
                let store = store.trim().to_owned();
                Err(WhichStore::Elsewhere { what, data: data_folder, store })
            }
            (true, None) if here() => Err(WhichStore::Here { what, data: data_folder }),
            _ => Ok(()),
        }
    }

    /// Says it. It is on disk when this returns.
    pub(crate) fn write(self, data: &Path, store: &impl Display) -> io::Result<()> {
        crate::token::write_private(&data.join(self.file), &store.to_string())
    }
}

impl WhichStore {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Elsewhere { what, .. } if *what == "blobs" => {
                "name it with --blobs, POTLUCK_BLOBS, or `blobs` in the settings file"
            }
            Self::Elsewhere { .. } => "name it with --store, POTLUCK_STORE, or `store` in the settings file",
            Self::Here { .. } => "move them there with `potluck relay migrate`, or do not name the store",
        }
    }
}

impl Records {
    /// Where they are, by the folder and by the settings.
    ///
    /// # Errors
    /// The two do not agree.
    pub(crate) fn of(data: &Path, store: Option<&StoreUrl>) -> Result<Self, WhichStore> {
        let file = data.join(FILE);
        MARKER.agrees(data, store.is_some(), || file.exists())?;
        Ok(store.map_or(Self::File(file), |store| Self::Server(store.clone())))
    }

    /// Whether there are any.
    pub(crate) fn exist(&self, data: &Path) -> bool {
        match self {
            Self::File(path) => path.is_file(),
            Self::Server(_) => data.join(MARKER.file).is_file(),
        }
    }

    /// Opens them to write. `None` if another relay does.
    ///
    /// # Errors
    /// What the database says, or a folder that cannot be written to.
    pub(crate) async fn open(&self, data: &Path) -> Result<Option<Db>, DbError> {
        match self {
            Self::File(path) => open_files(path).await.map(Some),
            Self::Server(url) => {
                let db = Db::open_server(url).await?;
                if db.is_some() {
                    mark(data, url)?;
                }
                Ok(db)
            }
        }
    }

    /// Opens them to look at them, whoever writes.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn look(&self) -> Result<Db, DbError> {
        match self {
            Self::File(path) => Db::open_existing(path, false).await,
            Self::Server(url) => Db::look_at_server(url).await,
        }
    }
}

/// Says in the folder where its records are. It is on disk when this returns.
pub(super) fn mark(data: &Path, url: &StoreUrl) -> io::Result<()> {
    MARKER.write(data, url)
}

/// The file's records are elsewhere from now on: it is kept under another name.
pub(super) fn put_aside(data: &Path) -> io::Result<()> {
    // Its own log was taken over when it was closed.
    std::fs::rename(data.join(FILE), data.join(MOVED))?;
    std::fs::File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_its_settings_have_to_agree() {
        let folder = tempfile::tempdir().unwrap();
        let (data, url) = (folder.path(), "postgres://potluck:hush@localhost/p".parse::<StoreUrl>().unwrap());
        let file = Records::File(data.join(FILE));
        assert_eq!(Records::of(data, None), Ok(file.clone()));
        assert_eq!(Records::of(data, Some(&url)), Ok(Records::Server(url.clone())));
        std::fs::write(data.join(FILE), "").unwrap();
        assert_eq!(Records::of(data, None), Ok(file));
        assert!(matches!(Records::of(data, Some(&url)), Err(WhichStore::Here { .. })));
        mark(data, &url).unwrap();
        // Cut short between the mark and the new name.
        assert_eq!(Records::of(data, Some(&url)), Ok(Records::Server(url.clone())));
        put_aside(data).unwrap();
        let error = Records::of(data, None).unwrap_err().to_string();
        assert!(error.contains("postgres://potluck@localhost/p") && !error.contains("hush"), "{error}");
    }
}
