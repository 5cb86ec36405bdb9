//! Why a run file cannot be used: where, what, and what to do.

use potluck_train::data::DataError;
use std::borrow::Borrow as _;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Why a run file, or the corpus that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFileError {
    /// A file or folder could not be read.
    #[error("{} could not be read: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// More bytes than a run file may have.
    #[error("{} has more than {most} bytes: it is no run file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Most bytes.
        most: u64,
    },
    /// A line that is wrong.
    #[error("{}:{line}:{column}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Character, from 1.
        column: usize,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A folder without text files.
    #[error("{} holds no text files", path.display())]
    NoText {
        /// The folder.
        path: PathBuf,
    },
    /// More files than a corpus may have.
    #[error("the corpus has more than {most} files")]
    Files {
        /// Most files.
        most: usize,
    },
    /// Text that cannot be used.
    #[error("{}: {cause}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: DataError,
    },
    /// The whole corpus cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A place in a text, from 1.
pub(super) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// The place of a byte.
    pub(super) fn at(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.split('\n').count(), column: line.chars().count() + 1 }
    }

    /// The place of a key's value, or of the nearest table around it, or the beginning.
    pub(super) fn of(text: &str, keys: &[&str]) -> Self {
        let Ok(document) = DeTable::parse(text) else { return Self::at(text, 0) };
        let (mut table, mut start) = (document.get_ref(), 0);
        for key in keys {
            let found = table.iter().find(|(name, _)| {
                let name: &str = name.get_ref().borrow();
                name == *key
            });
            let Some((_, value)) = found else { break };
            start = value.span().start;
            let DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        Self::at(text, start)
    }

    pub(super) fn refuse(self, path: &Path, what: &str, hint: &str) -> RunFileError {
        let (what, hint) = (what.trim().to_owned(), hint.to_owned());
        RunFileError::Line { path: path.to_owned(), line: self.line, column: self.column, what, hint }
    }
}
