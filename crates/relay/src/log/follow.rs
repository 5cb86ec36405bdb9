//! A log that another relay signs, taken over entry by entry: nothing of it counts before the whole of it has the root that is
//! signed, begins with what was followed before, and follows from it.

use super::files::CHECKPOINT;
use super::publish::{edge, restore};
use super::{Batch, Log, LogError, Published, Row};
use potluck_governance::{Body, Entry, entry};
use potluck_ledger::{
    AppendError, Bundle, CheckpointError, ForkEvidence, LogFile, SignedCheckpoint, TreeHead, VerifierKey,
};
use std::io;

/// Bytes of entries that are taken over at once, and then written: a bundle more at most.
const PIECE_BYTES: usize = 8 << 20;
/// Bytes of entries that are taken over before the whole is compared with what is signed: twelve million entries of 350 bytes.
const MAX_LOOK_BYTES: u64 = 4 << 30;

/// Why a log could not be followed further. What was followed before stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FollowError {
    /// It cannot be reached, or has not what it should have.
    #[error("{0}")]
    Source(io::Error),
    /// The checkpoint is not one of this log.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// It is smaller than it was.
    #[error(
        "its checkpoint has {found} entries, and it had {before}: it shows an older log, or lost entries"
    )]
    Older { before: u64, found: u64 },
    /// It shows another history than before.
    #[error("it was forked: entries that it had signed are others now")]
    Forked(Box<ForkEvidence>),
    /// Entries do not have the root that is signed.
    #[error("its entries do not have the root that it signed: it is damaged, or was forked")]
    Root,
    /// Entries that are none.
    #[error("its files are damaged: {0}")]
    Damaged(String),
    /// An entry that may not stand there.
    #[error("entry {index} does not follow from those before it: {cause}")]
    Entry { index: u64, cause: String },
    /// Our own files or database.
    #[error(transparent)]
    Own(#[from] LogError),
}

impl FollowError {
    /// Whether it shows that the other relay does not keep its log as it should, and not only that it is away.
    pub(crate) fn is_breach(&self) -> bool {
        matches!(self, Self::Older { .. } | Self::Forked(_) | Self::Root | Self::Entry { .. })
    }
}

impl From<AppendError> for FollowError {
    fn from(error: AppendError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What closed rounds consist of.
pub(crate) enum RoundEntry {
    /// An update that counted.
    Update(entry::UpdateAccepted),
    /// The round was closed.
    Closed(entry::Aggregate),
}

/// Gives the bytes of a log's files.
pub(crate) trait Fetch {
    /// A file in the layout of C2SP tlog-tiles.
    async fn fetch(&self, file: LogFile) -> io::Result<Vec<u8>>;
}

impl Log {
    /// Takes over what a signed checkpoint has beyond what is here: how many entries.
    ///
    /// # Errors
    /// [`FollowError`]; the log is as it was.
    pub(crate) async fn follow(
        &self,
        signer: &VerifierKey,
        note: &[u8],
        source: &impl Fetch,
    ) -> Result<u64, FollowError> {
        let before = self.0.published.borrow().clone();
        let signed = SignedCheckpoint::open(note, signer.name(), signer)?;
        let head = signed.head();
        if head.size < before.head.size {
            return Err(FollowError::Older { before: before.head.size, found: head.size });
        }
        if head.size == before.head.size {
            if head.root == before.head.root {
                return Ok(0);
            }
            let known = SignedCheckpoint::open(before.note.as_bytes(), signer.name(), signer)?;
            let evidence = ForkEvidence::same_size(&known, &signed);
            return Err(
                evidence.map_or(FollowError::Root, |evidence| FollowError::Forked(Box::new(evidence)))
            );
        }
        self.take_files(before.head, head, source).await?;
        let mut batch = self.take_entries(before.head, head).await?;
        let published = Published { head, note: signed.note().to_string().into() };
        let own = |error: io::Error| FollowError::Own(error.into());
        self.0.files.put_here(CHECKPOINT, published.note.as_bytes().to_vec()).await.map_err(own)?;
        // From here on the state is that of what is published.
        batch.sequencer.stale = false;
        self.0.note_mirrors(&batch.sequencer.state);
        drop(batch);
        self.0.cosignatures.lock().await.published(&published)?;
        self.0.published.send_replace(published);
        self.0.durable.store(head.size, std::sync::atomic::Ordering::Relaxed);
        self.0.appended.send_modify(|count| *count += 1);
        for file in edge(before.head.size).difference(&edge(head.size)) {
            self.0.files.remove(file).await.map_err(own)?;
        }
        Ok(head.size - before.head.size)
    }

    /// Fetches entries, and writes the files that they make. They lie beyond what is published: if they turn out wrong, the
    /// next attempt writes over them.
    async fn take_files(
        &self,
        before: TreeHead,
        head: TreeHead,
        source: &impl Fetch,
    ) -> Result<(), FollowError> {
        let mut appender = restore(&self.0).await?;
        let (mut index, mut total) = (before.size, 0);
        while index < head.size {
            let (mut texts, mut piece) = (Vec::new(), 0);
            while piece < PIECE_BYTES {
                let Some(bundle) = Bundle::containing(index, head.size) else { break };
                let bytes = source.fetch(bundle.into()).await.map_err(FollowError::Source)?;
                let entries = bundle
                    .entries(&bytes)
                    .map_err(|error| FollowError::Damaged(format!("{bundle}: {error}")))?;
                piece += bytes.len();
                let known = (index - bundle.first_entry()) as usize;
                texts.extend(entries.iter().skip(known).map(|text| text.to_vec()));
                index = bundle.first_entry() + u64::from(bundle.width());
            }
            total += piece as u64;
            if total > MAX_LOOK_BYTES {
                let what = format!("it has more than {MAX_LOOK_BYTES} bytes of new entries");
                return Err(FollowError::Damaged(what));
            }
            for (file, bytes) in appender.append(&texts)?.files {
                self.0
                    .files
                    .put(&file.to_string(), bytes)
                    .await
                    .map_err(|error| FollowError::Own(error.into()))?;
            }
        }
        // The appender began with the root that was followed before: one history has both.
        if appender.head() == head { Ok(()) } else { Err(FollowError::Root) }
    }

    /// Derives what follows from the entries that the files have now. The state is not that of what is published until that
    /// is said.
    async fn take_entries(&self, before: TreeHead, head: TreeHead) -> Result<Batch<'_>, FollowError> {
        let mut batch = self.begin().await?;
        // Until all are taken in: an entry that does not follow leaves the state somewhere between.
        batch.sequencer.stale = true;
        let mut index = before.size;
        while index < head.size {
            let Some(bundle) = Bundle::containing(index, head.size) else { break };
            let own = |error: io::Error| FollowError::Own(error.into());
            let bytes = self.0.files.read(&bundle.into()).await.map_err(own)?;
            let entries =
                bundle.entries(&bytes).map_err(|error| FollowError::Damaged(format!("{bundle}: {error}")))?;
            let mut rows = Vec::new();
            for text in entries.iter().skip((index - bundle.first_entry()) as usize) {
                let wrong = |cause: String| FollowError::Entry { index, cause };
                let entry = Entry::decode(text).map_err(|error| wrong(error.to_string()))?;
                batch.sequencer.state.apply(index, &entry).map_err(|error| wrong(error.to_string()))?;
                rows.push(Row { index, text: text.to_vec() });
                index += 1;
            }
            let indexed = self.0.db.index_receipts(&rows, before.size).await;
            indexed.map_err(|error| FollowError::Own(error.into()))?;
        }
        Ok(batch)
    }

    /// What closed rounds consist of, in entries from an index on that are published; and the index after them.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub(crate) async fn rounds_from(&self, mut index: u64) -> Result<(Vec<RoundEntry>, u64), LogError> {
        let head = self.0.published.borrow().head;
        let mut found = Vec::new();
        while index < head.size {
            let Some(bundle) = Bundle::containing(index, head.size) else { break };
            let bytes = self.0.files.read_of(bundle.into(), head.size).await?;
            let damaged = |error: &dyn std::fmt::Display| LogError::Damaged(format!("{bundle}: {error}"));
            let entries = bundle.entries(&bytes).map_err(|error| damaged(&error))?;
            for text in entries.iter().skip((index - bundle.first_entry()) as usize) {
                match Entry::decode(text).map_err(|error| damaged(&error))?.body {
                    Body::UpdateAccepted(update) => found.push(RoundEntry::Update(update)),
                    Body::Aggregate(aggregate) => found.push(RoundEntry::Closed(aggregate)),
                    _ => {}
                }
                index += 1;
            }
        }
        Ok((found, index))
    }
}
