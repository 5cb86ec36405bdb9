//! Growing the log: entries in, files and the new root out.
//!
//! Source: c2sp.org/tlog-tiles.

use crate::hash::{HASH_BYTES, MAX_TREE_SIZE, TreeHash, TreeHead, edge_root, perfect_root};
use crate::tile::{Bundle, LogFile, MAX_ENTRY_BYTES, ReadFiles, TILE_HEIGHT, TILE_WIDTH, Tile, TileError};
use std::io;

const WIDTH: usize = TILE_WIDTH as usize;

/// The growing end of a log.
///
/// It keeps the partial tile of each level (under 256 hashes for each of at most 8 levels) and the partial bundle
/// (under 256 entries): O(log n) for a log of n entries.
///
/// Write a batch's files before its checkpoint is published, and never write a file that another batch wrote with
/// other bytes. If writing fails, go on from an appender that is restored from what is published.
#[derive(Debug, Clone, Default)]
pub struct Appender {
    size: u64,
    edge: Vec<Vec<TreeHash>>,
    bundle: Vec<u8>,
    scratch: Vec<TreeHash>,
}

/// What a batch of entries made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Files to write, each with its bytes: those that the batch filled, and the partial ones at its end.
    pub files: Vec<(LogFile, Vec<u8>)>,
    /// The tree after the batch, which the next checkpoint states.
    pub head: TreeHead,
}

/// Why a batch was refused. The appender is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// An entry does not fit into a bundle.
    #[error("entry {position} of the batch has {bytes} bytes; the largest entry has {MAX_ENTRY_BYTES}")]
    TooLong {
        /// Position in the batch.
        position: usize,
        /// Its length, in bytes.
        bytes: usize,
    },
    /// The log is full.
    #[error("{size} entries and {more} more are more than {MAX_TREE_SIZE}")]
    Full {
        /// Entries in the log.
        size: u64,
        /// Entries in the batch.
        more: usize,
    },
}

/// Why an appender could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A size that no log has.
    #[error("{size} entries are more than {MAX_TREE_SIZE}")]
    Size {
        /// Entries stated.
        size: u64,
    },
    /// A file could not be read.
    #[error("{file} could not be read")]
    Read {
        /// The file.
        file: LogFile,
        /// Why.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{file} is broken")]
    File {
        /// The file.
        file: LogFile,
        /// How.
        source: TileError,
    },
    /// The last bundle's entries do not have the hashes of the last tile.
    #[error("entry {index} does not have the hash that its tile states")]
    Entry {
        /// Index in the log.
        index: u64,
    },
    /// The tiles do not have the root that the checkpoint states.
    #[error("the tiles have the root {found}; the checkpoint states {expected}")]
    Root {
        /// Root of the tiles.
        found: TreeHash,
        /// Root stated.
        expected: TreeHash,
    },
}

impl Appender {
    /// The end of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of an existing log, read from the partial tiles of `head` and its partial bundle; everything is checked
    /// against its root.
    ///
    /// # Errors
    /// [`RestoreError`] names the file or entry that is wrong, or both roots.
    pub fn restore(head: &TreeHead, files: &mut dyn ReadFiles) -> Result<Self, RestoreError> {
        if head.size > MAX_TREE_SIZE {
            return Err(RestoreError::Size { size: head.size });
        }
        let mut appender = Self { size: head.size, ..Self::default() };
        for tile in Tile::right_edge(head.size) {
            let file = tile.into();
            let bytes = files.read(file).map_err(|source| RestoreError::Read { file, source })?;
            let hashes = tile.hashes(&bytes).map_err(|source| RestoreError::File { file, source })?;
            appender.edge.resize(usize::from(tile.level()), Vec::new());
            appender.edge.push(hashes);
        }
        let found = appender.root();
        if found != head.root {
            return Err(RestoreError::Root { found, expected: head.root });
        }
        if !head.size.is_multiple_of(TILE_WIDTH) {
            let bundle = appender.last_bundle();
            let file = bundle.into();
            let bytes = files.read(file).map_err(|source| RestoreError::Read { file, source })?;
            let entries = bundle.entries(&bytes).map_err(|source| RestoreError::File { file, source })?;
            for (index, (entry, hash)) in (bundle.first_entry()..).zip(entries.iter().zip(&appender.edge[0]))
            {
                if TreeHash::leaf(entry) != *hash {
                    return Err(RestoreError::Entry { index });
                }
            }
            appender.bundle = bytes.into_owned();
        }
        Ok(appender)
    }

    /// The tree so far.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root() }
    }

    /// Adds entries. A batch without entries yields no files.
    ///
    /// # Errors
    /// [`AppendError::TooLong`] for an entry over [`MAX_ENTRY_BYTES`], [`AppendError::Full`] beyond [`MAX_TREE_SIZE`].
    pub fn append<E: AsRef<[u8]>>(&mut self, entries: &[E]) -> Result<Appended, AppendError> {
        let before = self.size;
        if entries.len() as u64 > MAX_TREE_SIZE - before {
            return Err(AppendError::Full { size: before, more: entries.len() });
        }
        let lengths = entries.iter().map(|entry| entry.as_ref().len());
        if let Some((position, bytes)) = lengths.enumerate().find(|(_, bytes)| *bytes > MAX_ENTRY_BYTES) {
            return Err(AppendError::TooLong { position, bytes });
        }
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.as_ref();
            self.bundle.extend_from_slice(&(entry.len() as u16).to_be_bytes());
            self.bundle.extend_from_slice(entry);
            let hash = TreeHash::leaf(entry);
            self.size += 1;
            if self.size.is_multiple_of(TILE_WIDTH) {
                files.push((self.last_bundle().into(), std::mem::take(&mut self.bundle)));
            }
            self.push(hash, &mut files);
        }
        if !entries.is_empty() {
            self.partial_files(before, &mut files);
        }
        Ok(Appended { files, head: self.head() })
    }

    /// Adds the hash of entry `size - 1`, and the roots of the tiles that it fills.
    fn push(&mut self, hash: TreeHash, files: &mut Vec<(LogFile, Vec<u8>)>) {
        let mut hash = hash;
        for level in 0.. {
            if self.edge.len() == level {
                self.edge.push(Vec::with_capacity(WIDTH));
            }
            let hashes = &mut self.edge[level];
            hashes.push(hash);
            if hashes.len() < WIDTH {
                return;
            }
            hash = perfect_root(hashes, &mut self.scratch);
            let bytes = concat(hashes);
            hashes.clear();
            let last = (self.size >> (TILE_HEIGHT * level as u32)) - 1;
            files.extend(Tile::containing(level as u8, last, self.size).map(|tile| (tile.into(), bytes)));
        }
    }

    /// The partial files that entries after the first `before` changed.
    fn partial_files(&self, before: u64, files: &mut Vec<(LogFile, Vec<u8>)>) {
        if !self.bundle.is_empty() {
            files.push((self.last_bundle().into(), self.bundle.clone()));
        }
        for tile in Tile::right_edge(self.size) {
            let level = TILE_HEIGHT * u32::from(tile.level());
            if before >> level != self.size >> level {
                files.push((tile.into(), concat(&self.edge[usize::from(tile.level())])));
            }
        }
    }

    /// The bundle of the last entry. There must be one.
    fn last_bundle(&self) -> Bundle {
        let index = (self.size - 1) / TILE_WIDTH;
        Bundle::under(Tile::known(0, index, self.size - index * TILE_WIDTH))
    }

    fn root(&self) -> TreeHash {
        edge_root(self.edge.iter().map(Vec::as_slice)).unwrap_or(TreeHash::EMPTY)
    }
}

fn concat(hashes: &[TreeHash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len() * HASH_BYTES);
    for hash in hashes {
        bytes.extend_from_slice(&hash.0);
    }
    bytes
}
