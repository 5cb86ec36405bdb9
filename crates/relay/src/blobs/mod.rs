//! Blobs by hash, through `object_store`: a folder here, a bucket elsewhere (`place.rs`), and then other files of the relay too
//! (`shared.rs`).
//!
//! Results are synchronized to disk before they are acknowledged. Panels are not: they can be cut again from
//! the uploaded matrix. While there is room they stay in memory, for as long as their job runs: on disk they would
//! be a second copy of the matrix, which each synchronized write after them had to wait for.
//!
//! What comes from disk is checked by its hash, parts of it group by group: a disk that gives other bytes back is noticed
//! here and not by those who asked. Such a blob is put aside, and `upkeep` looks for a right one.
//!
//! Architecture invariant: no byte leaves here that is not the blob's.

mod place;
mod recent;
mod shared;

pub(crate) use place::{BlobPlace, Claim, mark, put_aside};
pub use place::{BlobsUrl, BlobsUrlError};

use crate::db::Db;
use crate::upkeep::{Damaged, Upkeep};
use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _};
use potluck_mesh::tree::{Tree, tree_of};
use potluck_proto::BlobRef;
use potluck_types::limits::GROUP_BYTES;
use potluck_types::{BlobHash, JobId};
use recent::Recent;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// Bytes of panels in memory, all jobs together: both operands of a product of side 2,896.
const MEMORY_BYTES: u64 = 64 << 20;
/// Bytes of trees in memory: those of 4,096 of the largest parameters, a hash for each group. A part of a blob whose tree is not here
/// costs reading the whole blob.
const MAX_TREE_BYTES: usize = 64 << 20;
/// Trees that are made at once, and whole blobs that are fetched for a part of them: each holds a whole blob in memory, of 32 MiB at most.
const MAX_MAKING: usize = 4;
/// Blobs of a bucket that are younger stay, needed or not.
const LATELY: Duration = Duration::from_mins(15);
/// Where blobs lie whose bytes are not theirs any more, for whoever wants to know what became of them.
pub(crate) const ASIDE: &str = "damaged";

/// The blob store.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    durable: Arc<dyn ObjectStore>,
    quick: Arc<dyn ObjectStore>,
    memory: Arc<Memory>,
    watched: Arc<Mutex<HashMap<JobId, Watched>>>,
    trees: Arc<Mutex<Trees>>,
    making: Arc<Semaphore>,
    /// Taken by whoever puts a blob aside.
    aside: Arc<tokio::sync::Mutex<()>>,
    upkeep: Arc<Upkeep>,
    /// What was read of a bucket lately; none where it is as near as this.
    recent: Option<Arc<Recent>>,
}

/// Trees of blobs that were asked for lately, the oldest first.
#[derive(Debug, Default)]
struct Trees {
    by_hash: HashMap<BlobHash, (u64, Arc<Tree>)>,
    order: VecDeque<BlobHash>,
    bytes: usize,
}

impl Trees {
    fn insert(&mut self, hash: BlobHash, bytes: u64, tree: Arc<Tree>) {
        self.remove(&hash);
        self.bytes += tree_bytes(&tree);
        self.by_hash.insert(hash, (bytes, tree));
        self.order.push_back(hash);
        while self.bytes > MAX_TREE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some((_, tree)) = self.by_hash.remove(&oldest) {
                self.bytes -= tree_bytes(&tree);
            }
        }
    }

    fn remove(&mut self, hash: &BlobHash) {
        if let Some((_, tree)) = self.by_hash.remove(hash) {
            self.bytes -= tree_bytes(&tree);
            self.order.retain(|kept| kept != hash);
        }
    }
}

/// What a tree takes in memory: its groups, about as much above them, and its places in the tables.
fn tree_bytes(tree: &Tree) -> usize {
    2 * size_of_val(tree.groups()) + 256
}

/// Blobs of a run, and how many bytes of them were read in parts since they were last counted.
#[derive(Debug, Default)]
struct Watched {
    blobs: HashSet<BlobHash>,
    bytes: u64,
}

/// Panels in memory, and the jobs that hold them there.
#[derive(Debug)]
struct Memory {
    panels: Mutex<HashMap<BlobHash, Weak<Panel>>>,
    jobs: Mutex<HashMap<JobId, Vec<Arc<Panel>>>>,
    used: AtomicU64,
    most: u64,
}

/// A panel in memory. It is there for as long as somebody holds it.
#[derive(Debug)]
pub(crate) struct Panel {
    hash: BlobHash,
    bytes: bytes::Bytes,
    memory: Weak<Memory>,
}

impl Drop for Panel {
    fn drop(&mut self) {
        let Some(memory) = self.memory.upgrade() else { return };
        memory.used.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        let mut panels = lock(&memory.panels);
        // Another one may have taken its place since the last holder let go.
        if panels.get(&self.hash).is_some_and(|panel| panel.strong_count() == 0) {
            panels.remove(&self.hash);
        }
    }
}

/// The maps are whole between any two statements: a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn get(&self, hash: &BlobHash) -> Option<Arc<Panel>> {
        lock(&self.panels).get(hash)?.upgrade()
    }

    /// Keeps a panel, if there is room; else gives it back.
    fn keep(self: &Arc<Self>, hash: &BlobHash, bytes: bytes::Bytes) -> Result<Arc<Panel>, bytes::Bytes> {
        let size = bytes.len() as u64;
        let room = |used: u64| used.checked_add(size).filter(|used| *used <= self.most);
        if self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Err(bytes);
        }
        let panel = Arc::new(Panel { hash: *hash, bytes, memory: Arc::downgrade(self) });
        lock(&self.panels).insert(*hash, Arc::downgrade(&panel));
        Ok(panel)
    }
}

/// Whether these are a blob's bytes. A few milliseconds for large ones: not on a thread that serves others.
async fn is_blob(hash: &BlobHash, bytes: &bytes::Bytes) -> io::Result<bool> {
    if bytes.len() <= GROUP_BYTES {
        return Ok(BlobHash::of(bytes) == *hash);
    }
    let (hash, bytes) = (*hash, bytes.clone());
    let checked = tokio::task::spawn_blocking(move || BlobHash::of(&bytes) == hash);
    checked.await.map_err(io::Error::other)
}

fn path(hash: &BlobHash) -> StorePath {
    let name = hash.to_string();
    // 256 folders keep directories small.
    StorePath::from(format!("{}/{}", &name[..2], &name[2..]))
}

pub(crate) fn io_error(error: object_store::Error) -> io::Error {
    let kind = match error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Whether a bucket's service failed, and no folder.
pub(crate) fn is_of_bucket(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(object_store::Error::Generic { store: "S3", .. }))
}

impl Blobs {
    /// Opens where a relay's blobs are. A folder must exist; a place in a bucket is the relay's from now on.
    ///
    /// # Errors
    /// What the file system or the service says; a place that is not this relay's.
    pub(crate) async fn open(place: &BlobPlace, claim: &Claim) -> io::Result<Self> {
        let blobs = Self::look(place)?;
        if let BlobPlace::Bucket(url) = place {
            place::take(&place::bucket(url)?, claim).await?;
        }
        Ok(blobs)
    }

    /// Opens where blobs are, to look at them: [`Self::peek`] and [`Self::all`] change nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn look(place: &BlobPlace) -> io::Result<Self> {
        match place {
            BlobPlace::Folder(folder) => Self::with_memory(folder, MEMORY_BYTES),
            BlobPlace::Bucket(url) => {
                let bucket: Arc<dyn ObjectStore> = Arc::new(place::bucket(url)?);
                // What is acknowledged is durable there.
                Ok(Self {
                    recent: Some(Arc::default()),
                    ..Self::of(Arc::clone(&bucket), bucket, MEMORY_BYTES)
                })
            }
        }
    }

    fn with_memory(folder: &Path, most: u64) -> io::Result<Self> {
        let store = || LocalFileSystem::new_with_prefix(folder).map_err(io_error);
        Ok(Self::of(Arc::new(store()?.with_fsync(true)), Arc::new(store()?), most))
    }

    fn of(durable: Arc<dyn ObjectStore>, quick: Arc<dyn ObjectStore>, most: u64) -> Self {
        let memory =
            Memory { panels: Mutex::default(), jobs: Mutex::default(), used: AtomicU64::new(0), most };
        Self {
            durable,
            quick,
            memory: Arc::new(memory),
            watched: Arc::default(),
            trees: Arc::default(),
            making: Arc::new(Semaphore::new(MAX_MAKING)),
            aside: Arc::default(),
            upkeep: Arc::default(),
            recent: None,
        }
    }

    /// Keeps a blob that can be made again: in memory while the answer is held, or on disk if there is no room.
    /// One that is there already is not kept twice.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn put_panel(
        &self,
        hash: &BlobHash,
        bytes: bytes::Bytes,
    ) -> io::Result<Option<Arc<Panel>>> {
        if let Some(panel) = self.memory.get(hash) {
            return Ok(Some(panel));
        }
        if self.has(hash).await? {
            return Ok(None);
        }
        match self.memory.keep(hash, bytes) {
            Ok(panel) => Ok(Some(panel)),
            Err(bytes) => {
                self.put_quick(hash, bytes).await?;
                Ok(None)
            }
        }
    }

    /// A job holds panels in memory until it ends.
    pub(crate) fn hold(&self, job: JobId, panels: Vec<Arc<Panel>>) {
        lock(&self.memory.jobs).insert(job, panels);
    }

    /// A job ended: what only it held may go.
    pub(crate) fn release(&self, job: &JobId) {
        let held = lock(&self.memory.jobs).remove(job);
        // Panels take the lock of the other map when they go: not while this one is locked.
        drop(held);
    }

    /// A panel, if it is in memory.
    pub(crate) fn in_memory(&self, hash: &BlobHash) -> Option<bytes::Bytes> {
        self.memory.get(hash).map(|panel| panel.bytes.clone())
    }

    /// Stores a blob that can be made again, on disk but without waiting for it.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn put_quick(&self, hash: &BlobHash, bytes: bytes::Bytes) -> io::Result<()> {
        self.quick.put(&path(hash), bytes.into()).await.map(drop).map_err(io_error)
    }

    /// Stores a blob and returns when it is on disk.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn put_durable(&self, hash: &BlobHash, bytes: bytes::Bytes) -> io::Result<()> {
        self.durable.put(&path(hash), bytes.into()).await.map(drop).map_err(io_error)
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn has(&self, hash: &BlobHash) -> io::Result<bool> {
        Ok(self.bytes_of(hash).await?.is_some())
    }

    /// How many bytes a blob has; `None` if it is not here.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn bytes_of(&self, hash: &BlobHash) -> io::Result<Option<u64>> {
        if let Some(bytes) = self.in_memory(hash) {
            return Ok(Some(bytes.len() as u64));
        }
        match self.quick.head(&path(hash)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }

    /// What was found damaged, and what became of it.
    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// A whole blob.
    ///
    /// # Errors
    /// `NotFound`, `InvalidData` if the disk gives other bytes back, or what the store says.
    pub(crate) async fn get(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        if let Some(bytes) = self.in_memory(hash) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.recent.as_ref().and_then(|recent| recent.get(hash)) {
            return Ok(bytes);
        }
        let bytes = self.stored(hash).await?;
        if let Some(recent) = &self.recent {
            recent.keep(hash, &bytes);
        }
        Ok(bytes)
    }

    /// A whole blob as it is stored, whatever was read of it before.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn stored(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        let bytes = self.read(hash).await?;
        if is_blob(hash, &bytes).await? { Ok(bytes) } else { self.read_again(hash).await }
    }

    /// As [`Self::stored`], and a damaged blob stays where it is: for those who look at a relay's data from outside.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn peek(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        let bytes = self.read(hash).await?;
        if is_blob(hash, &bytes).await? {
            Ok(bytes)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, Damaged { blob: *hash }))
        }
    }

    async fn read(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        let found = self.quick.get(&path(hash)).await.map_err(io_error)?;
        found.bytes().await.map_err(io_error)
    }

    /// Bytes that were read were not the blob's. If it is so again, the blob is put aside.
    async fn read_again(&self, hash: &BlobHash) -> io::Result<bytes::Bytes> {
        // One at a time: else one of two readers puts aside what was healed after the other did.
        let _turn = self.aside.lock().await;
        let bytes = self.read(hash).await?;
        if is_blob(hash, &bytes).await? {
            tracing::warn!(blob = %hash, "a blob was read wrong once, and right when it was read again");
            return Ok(bytes);
        }
        lock(&self.trees).remove(hash);
        let aside = StorePath::from(format!("{ASIDE}/{hash}"));
        if let Err(error) = self.quick.rename(&path(hash), &aside).await {
            tracing::error!(%error, blob = %hash, "a damaged blob could not be put aside");
        }
        self.upkeep.found(*hash);
        Err(io::Error::new(io::ErrorKind::InvalidData, Damaged { blob: *hash }))
    }

    /// The tree of a blob.
    ///
    /// # Errors
    /// `NotFound`, `InvalidData` if the disk gives other bytes back, or what the store says.
    pub(crate) async fn tree(&self, hash: &BlobHash) -> io::Result<Arc<[[u8; 32]]>> {
        match self.whole_tree(hash).await? {
            Ok((_, tree)) => Ok(tree.groups().into()),
            Err(_) => Err(io::Error::other("it is too large to travel")),
        }
    }

    /// The length of a blob and its tree, of bytes that are its own; the bytes if it is too large to have a tree.
    async fn whole_tree(&self, hash: &BlobHash) -> io::Result<Result<(u64, Arc<Tree>), bytes::Bytes>> {
        let known = || lock(&self.trees).by_hash.get(hash).map(|(bytes, tree)| (*bytes, Arc::clone(tree)));
        if let Some(known) = known() {
            return Ok(Ok(known));
        }
        let _making = self.making.acquire().await.map_err(io::Error::other)?;
        // Whoever had the turn before may have made it.
        if let Some(known) = known() {
            return Ok(Ok(known));
        }
        let bytes = self.get(hash).await?;
        let blob = BlobRef { hash: *hash, bytes: bytes.len() as u64 };
        let of = bytes.clone();
        // A few milliseconds: not on a thread that serves others.
        let made = tokio::task::spawn_blocking(move || Tree::verified(blob, tree_of(&of))).await;
        let Some(tree) = made.map_err(io::Error::other)? else { return Ok(Err(bytes)) };
        let tree = Arc::new(tree);
        lock(&self.trees).insert(*hash, blob.bytes, Arc::clone(&tree));
        Ok(Ok((blob.bytes, tree)))
    }

    /// Reads a blob, if that was not done lately, and says whether it is whole.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn check(&self, hash: &BlobHash) -> io::Result<()> {
        self.whole_tree(hash).await.map(drop)
    }

    /// Counts from now on what is read, in parts, of these blobs: what volunteers fetch for a run.
    pub(crate) fn watch(&self, run: JobId, blobs: HashSet<BlobHash>) {
        lock(&self.watched).entry(run).or_default().blobs = blobs;
    }

    /// Bytes that were read of a run's blobs since this was last asked.
    pub(crate) fn take_served(&self, run: &JobId) -> u64 {
        lock(&self.watched).get_mut(run).map_or(0, |watched| std::mem::take(&mut watched.bytes))
    }

    /// A run ended.
    pub(crate) fn unwatch(&self, run: &JobId) {
        lock(&self.watched).remove(run);
    }

    /// A part of a blob.
    ///
    /// # Errors
    /// `NotFound`, or what the store says, a range outside the blob among it.
    pub(crate) async fn get_part(&self, hash: &BlobHash, range: Range<u64>) -> io::Result<bytes::Bytes> {
        for watched in lock(&self.watched).values_mut() {
            if watched.blobs.contains(hash) {
                watched.bytes += range.end.saturating_sub(range.start);
            }
        }
        if let Some(bytes) = self.in_memory(hash) {
            // The machine lets through only requests that lie within their blob.
            let within = range.start <= range.end && range.end <= bytes.len() as u64;
            return if within {
                Ok(bytes.slice(range.start as usize..range.end as usize))
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let (bytes, tree) = match self.whole_tree(hash).await? {
            Ok(known) => known,
            Err(whole) => return part_of(&whole, range, 0),
        };
        if range.start > range.end || range.end > bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Whoever asks for a part asks for the next one too, and a bucket takes as long for either as for all of it. The part is
        // copied: what waits to be sent must not keep the whole blob in memory.
        if let Some(recent) = &self.recent {
            let whole = if let Some(whole) = recent.get(hash) {
                whole
            } else {
                let _making = self.making.acquire().await.map_err(io::Error::other)?;
                self.get(hash).await?
            };
            return part_of(&whole, range, 0).map(|part| bytes::Bytes::copy_from_slice(&part));
        }
        // Whole groups, for each is checked by itself.
        let group = GROUP_BYTES as u64;
        let first = range.start / group;
        let groups = first * group..range.end.next_multiple_of(group).min(bytes);
        let read = if groups.is_empty() {
            bytes::Bytes::new()
        } else {
            match self.quick.get_range(&path(hash), groups.clone()).await {
                Ok(read) => read,
                Err(error @ object_store::Error::NotFound { .. }) => return Err(io_error(error)),
                // The file may have become shorter than the blob: below it is read whole, or that fails too.
                Err(_) => bytes::Bytes::new(),
            }
        };
        let right =
            (first as u32..).zip(read.chunks(GROUP_BYTES)).all(|(index, group)| tree.is_group(index, group));
        if right && read.len() as u64 == groups.end.saturating_sub(groups.start) {
            return part_of(&read, range, groups.start);
        }
        part_of(&self.read_again(hash).await?, range, 0)
    }

    /// Hashes of all blobs that are stored.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn all(&self) -> io::Result<Vec<BlobHash>> {
        let mut all = Vec::new();
        let mut listing = self.quick.list(None);
        while let Some(object) = listing.try_next().await.map_err(io_error)? {
            all.extend(hash_at(&object.location));
        }
        Ok(all)
    }

    /// Removes every blob that is not needed; in a folder also what writes left behind that a crash cut short. In a bucket nothing
    /// else is touched: it may hold what is not ours. What came lately stays there, and so does all of it once another relay has the
    /// records `db`: that one may have accepted what was not needed when these were looked at.
    ///
    /// # Errors
    /// What the store says; another relay took over.
    pub(crate) async fn keep_only(&self, needed: &HashSet<BlobHash>, db: &Db) -> io::Result<u64> {
        let mut removed = 0;
        let lately = SystemTime::now() - LATELY;
        let mut listing = self.quick.list(None);
        while let Some(object) = listing.try_next().await.map_err(io_error)? {
            let aside = object.location.parts().next().is_some_and(|part| part.as_ref() == ASIDE);
            let goes = match hash_at(&object.location) {
                Some(hash) => !needed.contains(&hash),
                None => !aside && self.recent.is_none(),
            };
            if goes && self.bucket().is_some() {
                if SystemTime::from(object.last_modified) > lately {
                    continue;
                }
                if !db.holds().await.map_err(io::Error::other)? {
                    return Err(io::Error::other("another relay took the store over"));
                }
            }
            if goes {
                self.quick.delete(&object.location).await.map_err(io_error)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The blob that lies at a path, if one does: where [`path`] puts it, and nowhere else.
fn hash_at(at: &StorePath) -> Option<BlobHash> {
    let hash = at.as_ref().replacen('/', "", 1).parse().ok()?;
    (path(&hash) == *at).then_some(hash)
}

/// A part of what was read from an offset on.
fn part_of(read: &bytes::Bytes, range: Range<u64>, offset: u64) -> io::Result<bytes::Bytes> {
    let at = |position: u64| position.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
    match (at(range.start), at(range.end)) {
        (Some(start), Some(end)) if start <= end && end <= read.len() => Ok(read.slice(start..end)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: [JobId; 2] = [JobId([1; 16]), JobId([2; 16])];

    #[tokio::test]
    async fn panels_stay_in_memory_while_a_job_holds_them_and_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::with_memory(folder.path(), 100).unwrap();
        let bytes = [vec![1; 60], vec![2; 40], vec![3; 1]];
        let hashes = bytes.each_ref().map(|bytes| BlobHash::of(bytes));
        let mut held = Vec::new();
        for (hash, bytes) in hashes.iter().zip(&bytes) {
            held.push(blobs.put_panel(hash, bytes.clone().into()).await.unwrap());
        }
        // There is room for two; the third is on disk.
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        blobs.hold(JOBS[0], held.into_iter().flatten().collect());
        let again = blobs.put_panel(&hashes[0], bytes[0].clone().into()).await.unwrap();
        blobs.hold(JOBS[1], again.into_iter().collect());
        for (hash, bytes) in hashes.iter().zip(&bytes) {
            assert_eq!(blobs.get(hash).await.unwrap(), bytes);
            assert_eq!(blobs.get_part(hash, 0..1).await.unwrap(), bytes[..1]);
        }
        blobs.release(&JOBS[0]);
        assert!(blobs.in_memory(&hashes[0]).is_some(), "another job holds it");
        assert!(!blobs.has(&hashes[1]).await.unwrap());
        blobs.release(&JOBS[1]);
        assert!(!blobs.has(&hashes[0]).await.unwrap());
        assert_eq!(blobs.memory.used.load(Ordering::Relaxed), 0);
        assert!(lock(&blobs.memory.panels).is_empty());
        assert!(blobs.has(&hashes[2]).await.unwrap());
    }

    fn on_disk(folder: &Path, hash: &BlobHash) -> std::path::PathBuf {
        let name = hash.to_string();
        folder.join(&name[..2]).join(&name[2..])
    }

    #[tokio::test]
    async fn a_flipped_bit_is_noticed_however_the_blob_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::with_memory(folder.path(), 0).unwrap();
        let good: Vec<u8> = (0..5 * GROUP_BYTES as u32 + 7).map(|at| (at % 251) as u8).collect();
        let hash = BlobHash::of(&good);
        let end = good.len() as u64;
        let mut found = 0;
        for at in [0, 3 * GROUP_BYTES + 1, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            for (way, tree_known) in [(0, false), (1, false), (2, false), (1, true)] {
                blobs.put_durable(&hash, good.clone().into()).await.unwrap();
                if tree_known {
                    blobs.check(&hash).await.unwrap();
                }
                std::fs::write(on_disk(folder.path(), &hash), &bad).unwrap();
                let error = match way {
                    0 => blobs.get(&hash).await.unwrap_err(),
                    1 => blobs.get_part(&hash, at as u64..at as u64 + 1).await.unwrap_err(),
                    _ => blobs.tree(&hash).await.unwrap_err(),
                };
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                found += 1;
                assert_eq!(blobs.upkeep().counts().found, found);
                // It is there no more, but for whoever wants to know.
                assert_eq!(blobs.get(&hash).await.unwrap_err().kind(), io::ErrorKind::NotFound);
                assert_eq!(std::fs::read(folder.path().join(ASIDE).join(hash.to_string())).unwrap(), bad);
            }
        }
        // A shorter file too.
        blobs.put_durable(&hash, good.clone().into()).await.unwrap();
        blobs.check(&hash).await.unwrap();
        std::fs::write(on_disk(folder.path(), &hash), &good[..good.len() - 1]).unwrap();
        blobs.get_part(&hash, end - 10..end).await.unwrap_err();
        blobs.put_durable(&hash, good.clone().into()).await.unwrap();
        for range in [0..end, 0..0, 1..2, end - 1..end, GROUP_BYTES as u64..3 * GROUP_BYTES as u64 + 5] {
            let part = blobs.get_part(&hash, range.clone()).await.unwrap();
            assert_eq!(part, good[range.start as usize..range.end as usize]);
        }
        blobs.get_part(&hash, 0..end + 1).await.unwrap_err();
        let elsewhere = tempfile::tempdir().unwrap();
        let db = crate::db::open_files(&elsewhere.path().join("potluck.db")).await.unwrap();
        assert_eq!(blobs.keep_only(&HashSet::from([hash]), &db).await.unwrap(), 0, "what lies aside stays");
    }
}
