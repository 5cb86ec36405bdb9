//! A copy of a log's files as of one checkpoint, from a folder where they may change meanwhile; every hash is checked on the
//! way, so that what is copied is a whole log.

use super::files::{CHECKPOINT, COSIGNED, Files, KEY, PREDECESSOR};
use potluck_ledger::{
    Checkpoint, LogFile, Note, ReadFiles, SignedCheckpoint, TILE_WIDTH, TreeHash, TreeHead, VerifierKey,
};
use std::borrow::Cow;
use std::io;
use std::path::Path;
use tokio::runtime::Handle;

/// How often a file is looked for again that gave way to a larger one.
const MAX_LOOKS: usize = 5;

/// Takes a file: its path in the log's folder, whether it never changes, and its bytes.
type Keep<'a> = dyn FnMut(&str, bool, &[u8]) -> io::Result<()> + 'a;

/// A log's checkpoint, with the key that its folder names.
#[derive(Debug, Clone)]
pub(crate) struct SignedNote {
    note: Vec<u8>,
    key: VerifierKey,
    origin: String,
    head: TreeHead,
}

impl SignedNote {
    /// Entries below it.
    pub(crate) fn size(&self) -> u64 {
        self.head.size
    }

    /// The key that signed it.
    pub(crate) fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The tree below it.
    pub(crate) fn head(&self) -> TreeHead {
        self.head
    }
}

/// What was copied.
#[derive(Debug, Clone)]
pub(crate) struct Copied {
    pub(crate) origin: String,
    pub(crate) key: String,
    pub(crate) head: TreeHead,
}

/// The checkpoint in a folder, if there is one.
///
/// # Errors
/// It cannot be read, or is not signed by the key beside it.
pub(crate) async fn checkpoint(folder: &Path) -> Result<Option<SignedNote>, String> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let files = Files::open(folder).map_err(|error| error.to_string())?;
    let note = match files.get(CHECKPOINT).await {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{CHECKPOINT}: {error}")),
    };
    let key = files.get(KEY).await.map_err(|error| format!("{KEY}: {error}"))?;
    let key = String::from_utf8_lossy(&key).trim().parse::<VerifierKey>();
    let key = key.map_err(|error| format!("{KEY}: {error}"))?;
    let wrong = |error: &dyn std::error::Error| format!("{CHECKPOINT}: {error}");
    let text = Note::parse(&note).map_err(|error| wrong(&error))?;
    let said: Checkpoint = text.text().parse().map_err(|error| wrong(&error))?;
    let signed = SignedCheckpoint::open(&note, said.origin(), &key).map_err(|error| wrong(&error))?;
    Ok(Some(SignedNote { head: signed.head(), origin: said.origin().to_owned(), note, key }))
}

/// Hands over every file of the log below a checkpoint: its path, whether it never changes again, its bytes. Blocks.
///
/// # Errors
/// A file that cannot be read, or is not what the checkpoint says.
pub(crate) fn copy(
    folder: &Path,
    note: Option<SignedNote>,
    runtime: &Handle,
    keep: &mut Keep<'_>,
) -> Result<Copied, String> {
    let Some(SignedNote { note, key, origin, head }) = note else {
        let head = TreeHead { size: 0, root: TreeHash::EMPTY };
        return Ok(Copied { origin: String::new(), key: String::new(), head });
    };
    let files = Files::open(folder).map_err(|error| error.to_string())?;
    let mut copying = Copying { files, runtime, size: head.size, keep, folder };
    check(&head, &mut copying)?;
    let Copying { files, keep, .. } = copying;
    let key_text = key.to_string();
    let said = |name: &str, error: io::Error| format!("{name}: {error}");
    keep(KEY, false, format!("{key_text}\n").as_bytes()).map_err(|error| said(KEY, error))?;
    keep(CHECKPOINT, false, &note).map_err(|error| said(CHECKPOINT, error))?;
    // Where it was taken over from another relay.
    if let Ok(predecessor) = runtime.block_on(files.get(PREDECESSOR)) {
        keep(PREDECESSOR, false, &predecessor).map_err(|error| said(PREDECESSOR, error))?;
    }
    // One that is newer than the checkpoint is of no use there.
    if let Ok(cosigned) = runtime.block_on(files.get(COSIGNED))
        && SignedCheckpoint::open(&cosigned, &origin, &key)
            .is_ok_and(|signed| signed.head().size <= head.size)
    {
        keep(COSIGNED, false, &cosigned).map_err(|error| said(COSIGNED, error))?;
    }
    Ok(Copied { origin, key: key_text, head })
}

/// Checks all files of a tree against its root.
///
/// # Errors
/// The first that is gone or wrong.
pub(crate) fn check(head: &TreeHead, files: &mut dyn ReadFiles) -> Result<(), String> {
    match potluck_ledger::audit(head, files, &mut |_, _| {}) {
        Ok(_) => Ok(()),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            Err(format!("{error}{cause}"))
        }
    }
}

/// Reads the files of a log of so many entries. Blocks.
///
/// # Errors
/// The folder cannot be used.
pub(crate) fn reader(folder: &Path, size: u64, runtime: &Handle) -> io::Result<impl ReadFiles + use<>> {
    let _within = runtime.enter();
    Ok(Files::open(folder)?.blocking(size))
}

/// Whether a file never changes again, and none larger takes its place.
fn is_full(file: &LogFile) -> bool {
    match file {
        LogFile::Tile(tile) => tile.is_full(),
        LogFile::Bundle(bundle) => u64::from(bundle.width()) == TILE_WIDTH,
    }
}

/// Reads a log, and hands over what it reads.
struct Copying<'a> {
    files: Files,
    runtime: &'a Handle,
    /// Entries of the tree whose files are there now.
    size: u64,
    keep: &'a mut Keep<'a>,
    folder: &'a Path,
}

impl ReadFiles for Copying<'_> {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        let mut looks = 0;
        let bytes = loop {
            match self.runtime.block_on(self.files.read_of(file, self.size)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && looks < MAX_LOOKS => {
                    // The log went on, and a larger file took its place.
                    looks += 1;
                    let now = self.runtime.block_on(checkpoint(self.folder)).map_err(io::Error::other)?;
                    self.size = now.map_or(self.size, |now| now.head.size);
                }
                other => break other?,
            }
        };
        (self.keep)(&file.to_string(), is_full(&file), &bytes)?;
        Ok(Cow::Owned(bytes))
    }
}
