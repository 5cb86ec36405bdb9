//! From entries that are durable to files and a signed checkpoint, about once a second.

use super::files::{CHECKPOINT, Files};
use super::{Inner, LogError};
use crate::db::{Db, Engine};
use potluck_ledger::{
    Appender, Bundle, Checkpoint, LogFile, SignedCheckpoint, SignerKey, Tile, TreeHash, TreeHead, VerifierKey,
};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Time between two checkpoints. Receipts wait for the next one.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time until publishing is tried again after it failed.
const RETRY: Duration = Duration::from_secs(5);

/// What everybody can read.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// The tree.
    pub(crate) head: TreeHead,
    /// The checkpoint, as it is signed; empty before the first one.
    pub(crate) note: Arc<str>,
}

/// Publishes until it is told to end.
#[derive(Debug)]
pub(crate) struct Publisher {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Publishes what is durable, then ends.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

impl Published {
    /// An empty tree, of which there is no checkpoint.
    fn nothing() -> Self {
        Self { head: TreeHead { size: 0, root: TreeHash::EMPTY }, note: "".into() }
    }
}

/// The last checkpoint by one of these keys, in the folder or, of a log that other nodes reach, among the records; that of an
/// empty tree if there is none. Then all files below it are in the folder.
pub(super) async fn last(
    db: &Db,
    files: &Files,
    origin: &str,
    keys: &[&VerifierKey],
) -> Result<Published, LogError> {
    let here = match files.get(CHECKPOINT).await {
        Ok(note) => opened(&note, origin, keys)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Published::nothing(),
        Err(error) => return Err(error.into()),
    };
    if !files.are_shared() {
        return Ok(here);
    }
    if !is_kept(db, files) {
        files.level(here.head.size).await?;
        return Ok(here);
    }
    let kept = match db.checkpoint().await? {
        Some(note) => opened(&note, origin, keys)?,
        None => Published::nothing(),
    };
    // One that is here alone was signed just before the relay ended, or before the log was in the bucket: the folder has all of it.
    let last = if here.head.size > kept.head.size { here } else { kept };
    files.level(last.head.size).await?;
    if !last.note.is_empty() {
        files.put_here(CHECKPOINT, last.note.as_bytes().to_vec()).await?;
        db.keep_checkpoint(&last).await?;
    }
    Ok(last)
}

/// Whether the checkpoint is kept with the records: others reach them, and the log's files. Records in a file are in the folder
/// that the checkpoint is in, and older copies of either are.
fn is_kept(db: &Db, files: &Files) -> bool {
    files.are_shared() && db.engine == Engine::Postgres
}

fn opened(note: &[u8], origin: &str, keys: &[&VerifierKey]) -> Result<Published, LogError> {
    let mut failed = None;
    for key in keys {
        match SignedCheckpoint::open(note, origin, key) {
            Ok(signed) => {
                return Ok(Published { head: signed.head(), note: signed.note().to_string().into() });
            }
            Err(error) => failed = Some(error),
        }
    }
    let cause = failed.map_or_else(|| "no key".to_owned(), |error| error.to_string());
    Err(LogError::Damaged(format!("its checkpoint: {cause}")))
}

pub(super) fn start(log: Arc<Inner>) -> Publisher {
    let (stop, mut stopped) = oneshot::channel();
    // What was durable when the relay was killed.
    log.written.notify_one();
    let task = tokio::spawn(async move {
        let mut appender = None;
        loop {
            let ends = tokio::select! {
                () = log.written.notified() => false,
                _ = &mut stopped => true,
            };
            let published = catch_up(&log, &mut appender).await;
            if let Err(error) = &published {
                tracing::error!(%error, "the log could not be published; nothing is lost, it is tried again");
                appender = None;
                log.written.notify_one();
            }
            if ends {
                return;
            }
            let pause = if published.is_ok() { INTERVAL } else { RETRY };
            if tokio::time::timeout(pause, &mut stopped).await.is_ok() {
                if let Err(error) = catch_up(&log, &mut appender).await {
                    tracing::error!(%error, "the log could not be published; it is at the next start");
                }
                return;
            }
        }
    });
    Publisher { stop, task }
}

/// Publishes all that is durable.
async fn catch_up(log: &Inner, appender: &mut Option<Appender>) -> Result<(), LogError> {
    let mut current = match appender.take() {
        Some(current) => current,
        None => restore(log).await?,
    };
    loop {
        let before = current.head().size;
        let rows = log.db.log_rows(before).await?;
        if rows.is_empty() {
            *appender = Some(current);
            return Ok(());
        }
        if let Some((row, _)) = rows.iter().zip(before..).find(|(row, index)| row.index != *index) {
            return Err(LogError::Damaged(format!("entry {} comes after {before} entries", row.index)));
        }
        log.db.index_receipts(&rows, before).await?;
        let texts: Vec<_> = rows.into_iter().map(|row| row.text).collect();
        let appended = current
            .append(&texts)
            .map_err(|error| LogError::Damaged(format!("from entry {before} on: {error}")))?;
        let files = appended.files.into_iter().map(|(file, bytes)| (file.to_string(), bytes));
        log.files.put_all(files.collect()).await?;
        let note = sign(&log.key, appended.head)?;
        log.files.put_here(CHECKPOINT, note.clone().into_bytes()).await?;
        let published = Published { head: appended.head, note: note.into() };
        if is_kept(&log.db, &log.files) {
            // Whoever saw it must not be shown an older one by the next relay.
            log.db.keep_checkpoint(&published).await?;
        }
        log.cosignatures.lock().await.published(&published)?;
        log.published.send_replace(published);
        for file in edge(before).difference(&edge(appended.head.size)) {
            // Who reads it at this moment is given the larger one.
            log.files.remove(file).await?;
        }
    }
}

pub(super) async fn restore(log: &Inner) -> Result<Appender, LogError> {
    let head = log.published.borrow().head;
    let mut files = log.files.blocking(head.size);
    let restored = tokio::task::spawn_blocking(move || Appender::restore(&head, &mut files)).await;
    let restored = restored.map_err(io::Error::other)?;
    restored.map_err(|error| LogError::Damaged(error.to_string()))
}

fn sign(key: &SignerKey, head: TreeHead) -> Result<String, LogError> {
    let damaged = |error: &dyn std::error::Error| LogError::Damaged(format!("its checkpoint: {error}"));
    let checkpoint = Checkpoint::new(key.verifier().name(), head).map_err(|error| damaged(&error))?;
    let mut note = checkpoint.to_note();
    note.sign(key).map_err(|error| damaged(&error))?;
    Ok(note.to_string())
}

/// The partial files of a tree.
pub(super) fn edge(size: u64) -> BTreeSet<LogFile> {
    let tiles = Tile::right_edge(size).into_iter().map(LogFile::from);
    let bundle = size.checked_sub(1).and_then(|last| Bundle::containing(last, size)).map(LogFile::from);
    let is_partial = |file: &LogFile| match file {
        LogFile::Tile(tile) => !tile.is_full(),
        LogFile::Bundle(bundle) => u64::from(bundle.width()) < potluck_ledger::TILE_WIDTH,
    };
    tiles.chain(bundle).filter(is_partial).collect()
}
