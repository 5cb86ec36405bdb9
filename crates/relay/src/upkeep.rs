//! Blobs whose bytes are not theirs any more: counted, made again where that can be, and searched for in the background.
//!
//! A panel is cut again from its matrix and a block from its data set; what cannot be made again is taken from the operator's
//! backups, if the settings name them. What is neither stays lost: whoever asks for it is told so.

use crate::backup;
use crate::blobs::Blobs;
use crate::db::{Db, DbError, JobRow};
use crate::ingest::Pair;
use crate::runs::intake;
use potluck_types::BlobHash;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// From one search through all blobs to the next: each is read once a day at most.
const SEARCH_EVERY: Duration = Duration::from_hours(24);
/// Damaged blobs that wait to be made again, or are lost; further ones are counted only.
const MAX_KNOWN: usize = 10_000;
/// Bytes a second that the search reads unless the settings say otherwise: 345 GB a day, a hundredth of a disk's.
const SEARCH_BYTES_PER_S: u64 = 4_000_000;
/// Shortest pause between two blobs of the search, so that it never keeps others from the disk.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// `[upkeep]`: how the relay looks after what it stores.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpkeepConfig {
    /// Bytes a second that the search for damaged blobs reads; 0 for no search.
    pub search_bytes_per_s: u64,
    /// Where `potluck relay backup` writes to: damaged blobs are taken from there, and `doctor` looks how old the last one is.
    pub backups: Option<PathBuf>,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self { search_bytes_per_s: SEARCH_BYTES_PER_S, backups: None }
    }
}

/// The disk gave other bytes back than were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("blob {blob} is damaged on disk")]
pub(crate) struct Damaged {
    pub(crate) blob: BlobHash,
}

/// How many blobs were damaged, and what became of them, since the relay started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) found: u64,
    pub(crate) healed: u64,
    /// Those that are damaged now.
    pub(crate) lost: u64,
    /// Bytes that the search has read.
    pub(crate) searched_bytes: u64,
}

/// What is known of damaged blobs.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    found: AtomicU64,
    healed: AtomicU64,
    searched_bytes: AtomicU64,
    known: Mutex<Known>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Known {
    waiting: BTreeSet<BlobHash>,
    lost: BTreeSet<BlobHash>,
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upkeep {
    /// A blob is damaged.
    pub(crate) fn found(&self, blob: BlobHash) {
        self.found.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%blob, "a blob is damaged on disk: it is put aside, and made again if it can be");
        crate::views::failures::record(&Damaged { blob }.to_string());
        let mut known = lock(&self.known);
        if known.waiting.len() < MAX_KNOWN {
            known.waiting.insert(blob);
        }
        drop(known);
        self.news.notify_one();
    }

    /// How many there were.
    pub(crate) fn counts(&self) -> Counts {
        let known = lock(&self.known);
        Counts {
            found: self.found.load(Ordering::Relaxed),
            healed: self.healed.load(Ordering::Relaxed),
            lost: (known.waiting.len() + known.lost.len()) as u64,
            searched_bytes: self.searched_bytes.load(Ordering::Relaxed),
        }
    }

    fn next(&self) -> Option<BlobHash> {
        lock(&self.known).waiting.first().copied()
    }

    fn settle(&self, blob: BlobHash, healed: bool) {
        let mut known = lock(&self.known);
        known.waiting.remove(&blob);
        if healed {
            known.lost.remove(&blob);
            self.healed.fetch_add(1, Ordering::Relaxed);
        } else if known.lost.len() < MAX_KNOWN {
            known.lost.insert(blob);
        }
    }
}

/// Makes damaged blobs again.
#[derive(Debug, Clone)]
pub(crate) struct Healer {
    pub(crate) db: Db,
    pub(crate) blobs: Blobs,
    /// The data folder.
    pub(crate) data: PathBuf,
    pub(crate) config: UpkeepConfig,
}

impl Healer {
    /// Makes again what is found damaged, and searches for more, until the task is ended.
    pub(crate) async fn run(self) {
        let search = self.clone();
        tokio::join!(self.heal_all(), search.search());
    }

    async fn heal_all(&self) {
        loop {
            while let Some(blob) = self.blobs.upkeep().next() {
                let healed = self.heal(blob).await;
                match &healed {
                    Ok(Some(from)) => tracing::warn!(%blob, from, "a damaged blob was made again"),
                    Ok(None) => {
                        tracing::error!(%blob, "a damaged blob cannot be made again; restore it from a backup");
                    }
                    Err(error) => tracing::error!(%error, %blob, "a damaged blob could not be made again"),
                }
                self.blobs.upkeep().settle(blob, matches!(healed, Ok(Some(_))));
            }
            self.blobs.upkeep().news.notified().await;
        }
    }

    /// Makes a blob again; where from, or nothing if that cannot be.
    async fn heal(&self, blob: BlobHash) -> io::Result<Option<&'static str>> {
        if self.blobs.get(&blob).await.is_ok() {
            return Ok(Some("what another one was made from"));
        }
        if let Some(bytes) = self.copy_in_backup(blob).await {
            self.blobs.put_durable(&blob, bytes).await?;
            return Ok(Some("a backup"));
        }
        for job in self.db.jobs_of_panel(&blob).await.map_err(io::Error::other)? {
            if self.cut_again(&job).await? && self.blobs.has(&blob).await? {
                return Ok(Some("its matrix"));
            }
        }
        for set in self.db.datasets_of_block(&blob).await.map_err(io::Error::other)? {
            let loaded = intake::load(&self.db, &self.blobs, &self.data, &set).await;
            if loaded.is_ok() && self.blobs.has(&blob).await? {
                return Ok(Some("its data set"));
            }
        }
        Ok(None)
    }

    async fn copy_in_backup(&self, blob: BlobHash) -> Option<bytes::Bytes> {
        let folder = self.config.backups.clone()?;
        let read = tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(backup::blob_in_pool(&folder, &blob)).ok()?;
            (BlobHash::of(&bytes) == blob).then_some(bytes::Bytes::from(bytes))
        });
        read.await.ok().flatten()
    }

    /// Cuts the panels of a job again, those that are not there; whether they are what they were.
    async fn cut_again(&self, job: &JobRow) -> io::Result<bool> {
        let [a, b] = [job.a, job.b].map(|hash| crate::http::matrix_path(&self.data, &hash));
        for path in [&a, &b] {
            self.blobs.fetch(&self.data, path).await?;
        }
        let (into, handle) = (self.blobs.clone(), tokio::runtime::Handle::current());
        let (transpose_b, dtype) = (job.transpose_b, job.dtype);
        let again = tokio::task::spawn_blocking(move || {
            Pair::open(&a, &b, transpose_b, dtype).and_then(|pair| pair.cut(&into, &handle, transpose_b))
        });
        let again = again.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let panels = self.db.panels(&job.id).await.map_err(io::Error::other)?;
        let same = again.panels == panels;
        if same {
            self.blobs.hold(job.id, again.held);
            // It may have ended meanwhile.
            let running = self.db.running().await.map_err(io::Error::other)?;
            if !running.iter().any(|running| running.id == job.id) {
                self.blobs.release(&job.id);
            }
        }
        Ok(same)
    }

    /// Reads all blobs slowly, again and again.
    async fn search(&self) {
        let rate = self.config.search_bytes_per_s;
        if rate == 0 {
            return;
        }
        loop {
            let begun = tokio::time::Instant::now();
            let all = self.blobs.all().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the blobs cannot be listed");
                Vec::new()
            });
            for blob in all {
                // One that is damaged says so itself; one that is gone was not needed any more.
                let bytes = self.blobs.stored(&blob).await.map_or(0, |bytes| bytes.len() as u64);
                self.blobs.upkeep().searched_bytes.fetch_add(bytes, Ordering::Relaxed);
                let pause = Duration::from_secs_f64(bytes as f64 / rate as f64);
                tokio::time::sleep(pause.max(LEAST_PAUSE)).await;
            }
            tokio::time::sleep_until(begun + SEARCH_EVERY).await;
        }
    }
}

impl Db {
    /// Running jobs of which a blob is a panel.
    ///
    /// # Errors
    /// What the database says.
    async fn jobs_of_panel(&self, blob: &BlobHash) -> Result<Vec<JobRow>, DbError> {
        let rows = sqlx::query("SELECT DISTINCT job FROM panels WHERE hash = $1")
            .bind(&blob.0[..])
            .fetch_all(&self.pool)
            .await?;
        let ids =
            rows.iter().map(|row| crate::db::bytes(row, 0)).collect::<Result<BTreeSet<[u8; 16]>, _>>()?;
        let mut running = self.running().await?;
        running.retain(|job| ids.contains(&job.id.0));
        Ok(running)
    }

    /// Data sets of which a blob is a block.
    ///
    /// # Errors
    /// What the database says.
    async fn datasets_of_block(&self, blob: &BlobHash) -> Result<Vec<BlobHash>, DbError> {
        let rows = sqlx::query("SELECT DISTINCT dataset FROM blocks WHERE hash = $1")
            .bind(&blob.0[..])
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| crate::db::bytes(row, 0).map(BlobHash)).collect()
    }
}
