//! Where a relay's records are: in its data folder, or in a server of PostgreSQL that its settings name.
//!
//! A folder whose records are in a server says so in a file, without a password: a [`Marker`]. Started without that server, the
//! relay would find no records there, begin anew, and accept twice what it accepted before.

use super::{Db, DbError, StoreUrl, open_files};
use crate::StartError;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// They are in another server.
    #[error("the {what} of {data} are in {store}, and not in {named}")]
    Other {
        /// Records or blobs.
        what: &'static str,
        /// The data folder.
        data: PathBuf,
        /// The server that the folder names, without a password.
        store: String,
        /// The one that the settings name.
        named: String,
        /// The file that names it.
        marker: PathBuf,
    },
    /// Where they are cannot be read.
    #[error("{path} cannot be read, which says where things are: {cause}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
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
    /// Whether the settings, which name a store or none, agree with the folder, where things may lie `here`.
    pub(crate) fn agrees(
        self,
        data: &Path,
        named: Option<&impl Display>,
        here: impl FnOnce() -> bool,
    ) -> Result<(), WhichStore> {
        let (what, folder, path) = (self.what, data.to_owned(), data.join(self.file));
        let marked = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(WhichStore::Unreadable { path, cause: error.to_string() }),
        };
        match (named.map(ToString::to_string), marked) {
            (None, Some(store)) => Err(WhichStore::Elsewhere { what, data: folder, store }),
            (Some(named), Some(store)) if named != store => {
                Err(WhichStore::Other { what, data: folder, store, named, marker: path })
            }
            (Some(_), None) if here() => Err(WhichStore::Here { what, data: folder }),
            _ => Ok(()),
        }
    }

    /// Says it. It is on disk when this returns.
    pub(crate) fn write(self, data: &Path, store: &impl Display) -> io::Result<()> {
        crate::token::write_private(&data.join(self.file), &store.to_string())?;
        std::fs::File::open(data)?.sync_all()
    }
}

impl WhichStore {
    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::Elsewhere { what, .. } if *what == "blobs" => {
                "name it with --blobs, POTLUCK_BLOBS, or `blobs` in the settings file".to_owned()
            }
            Self::Elsewhere { .. } => {
                "name it with --store, POTLUCK_STORE, or `store` in the settings file".to_owned()
            }
            Self::Other { marker, .. } => format!(
                "name that one; if all of it is under the new address now, write that address, without a password, into {}",
                marker.display()
            ),
            Self::Unreadable { .. } => "give the relay's user the right to read its data folder".to_owned(),
            Self::Here { .. } => {
                "move them there with `potluck relay migrate`, or do not name the store".to_owned()
            }
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
        MARKER.agrees(data, store, || file.exists())?;
        Ok(store.map_or(Self::File(file), |store| Self::Server(store.clone())))
    }

    /// Whether there are any.
    pub(crate) fn exist(&self, data: &Path) -> bool {
        match self {
            Self::File(path) => path.is_file(),
            Self::Server(_) => data.join(MARKER.file).is_file(),
        }
    }

    /// Opens them to write. Another relay that writes to them is waited for, but not longer than that.
    ///
    /// # Errors
    /// What the database says, another relay that writes to it, or a folder that cannot be written to.
    pub(crate) async fn open(&self, data: &Path, room: Duration) -> Result<Db, StartError> {
        match self {
            Self::File(path) => Ok(open_files(path).await?),
            Self::Server(url) => {
                url.check()?;
                let in_use = || StartError::StoreInUse { store: url.clone() };
                let db = Db::open_server(url, room).await?.ok_or_else(in_use)?;
                let failed = |cause| StartError::Data { path: data.to_owned(), cause };
                self.mark(data).map_err(failed)?;
                Ok(db)
            }
        }
    }

    /// Says in the folder where they are, if they are not in it. It is on disk when this returns.
    pub(crate) fn mark(&self, data: &Path) -> io::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Server(url) => mark(data, url),
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
        let other: StoreUrl = "postgres://potluck:hush@localhost/q".parse().unwrap();
        assert!(matches!(Records::of(data, Some(&other)), Err(WhichStore::Other { .. })));
        let again: StoreUrl = "postgres://potluck:changed@localhost/p?sslmode=disable".parse().unwrap();
        assert!(Records::of(data, Some(&again)).is_ok(), "a password may change");
        let error = Records::of(data, None).unwrap_err().to_string();
        assert!(error.contains("postgres://potluck@localhost/p") && !error.contains("hush"), "{error}");
    }
}
