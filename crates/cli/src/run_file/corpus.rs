//! The text of a corpus: files and folders, in the order of their names.

use super::RunFileError;
use potluck_train::data::{DataError, MAX_CORPUS_BYTES, text};
use std::fs::{self, File};
use std::io::{Error, Read as _};
use std::path::{Path, PathBuf};

/// Most files of a corpus.
pub const MAX_FILES: usize = 10_000;
/// Files that count as text within a folder.
pub const CORPUS_ENDINGS: [&str; 3] = ["txt", "md", "text"];
/// Deepest folder within a folder.
const MAX_DEPTH: usize = 16;

/// A corpus that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Their text, one after the other, each ended by a line break.
    pub text: String,
}

impl Corpus {
    /// Reads files, and the text files of folders and what lies within them, sorted by path; hidden ones are passed
    /// over.
    ///
    /// # Errors
    /// A file that cannot be read, is no UTF-8, or makes the corpus too large; a folder without text; a corpus without
    /// text.
    pub fn read(paths: &[PathBuf]) -> Result<Self, RunFileError> {
        let mut files = Vec::new();
        for path in paths {
            let metadata = fs::metadata(path).map_err(|cause| failed(path, cause))?;
            if metadata.is_dir() {
                let before = files.len();
                collect(path, MAX_DEPTH, &mut files)?;
                if files.len() == before {
                    return Err(RunFileError::NoText { path: path.clone() });
                }
                files[before..].sort();
            } else if metadata.is_file() {
                files.push(path.clone());
            } else {
                // A pipe or a device may never end.
                return Err(failed(path, Error::other("it is neither a file nor a folder")));
            }
        }
        let mut whole = String::new();
        for path in &files {
            let left = (MAX_CORPUS_BYTES - whole.len()) as u64;
            let mut bytes = Vec::new();
            let read = |file: File| file.take(left + 1).read_to_end(&mut bytes);
            File::open(path).and_then(read).map_err(|cause| failed(path, cause))?;
            let refused = |cause| RunFileError::Text { path: path.clone(), cause };
            if bytes.len() as u64 > left {
                return Err(refused(DataError::Corpus { bytes: whole.len() + bytes.len() }));
            }
            // Short files are fine where there are others.
            whole += &match text(bytes) {
                Err(DataError::Corpus { bytes }) if bytes < 2 && files.len() > 1 => String::new(),
                other => other.map_err(refused)?,
            };
            if files.len() > 1
                && !whole.is_empty()
                && !whole.ends_with('\n')
                && whole.len() < MAX_CORPUS_BYTES
            {
                whole.push('\n');
            }
        }
        // Checked again as a whole: many empty files are none.
        Ok(Self { files, text: text(whole.into_bytes())? })
    }
}

fn failed(path: &Path, cause: Error) -> RunFileError {
    RunFileError::File { path: path.to_owned(), cause }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), RunFileError> {
    for entry in fs::read_dir(folder).map_err(|cause| failed(folder, cause))? {
        let entry = entry.map_err(|cause| failed(folder, cause))?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        let kind = entry.file_type().map_err(|cause| failed(&path, cause))?;
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if kind.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if ending.is_some_and(|ending| CORPUS_ENDINGS.contains(&ending.as_str())) && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(RunFileError::Files { most: MAX_FILES });
        }
    }
    Ok(())
}
