//! Checking a whole log, file by file, against a checkpoint's root.
//!
//! The root vouches for the partial tiles at the right edge of each level, these for the full tiles below them, and so
//! on down to the entries. Because each file is checked against what is known to be right already, the first that is
//! wrong can be named exactly. Every file is read once; at most one tile of each level and one bundle are in memory.
//!
//! Source: c2sp.org/tlog-tiles.

use crate::hash::{TreeHash, TreeHead, edge_root, perfect_root};
use crate::proof::{ProofError, check_size};
use crate::tile::{Bundle, LogFile, ReadFiles, TILE_WIDTH, Tile, TileError};
use std::io;

/// What an audit went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audited {
    /// Entries, all of the log.
    pub entries: u64,
    /// Bytes of all entries.
    pub entry_bytes: u64,
    /// Tiles read.
    pub tiles: u64,
    /// Bundles read.
    pub bundles: u64,
}

/// The first thing that is wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A size that no log has.
    #[error(transparent)]
    Size(ProofError),
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
    /// A tile does not have the hash that the tiles above it, or the root, vouch for.
    #[error("{tile} is not the tile that the checkpoint's root vouches for")]
    Tile {
        /// The tile.
        tile: Tile,
    },
    /// An entry does not have the hash that its tile, which the root vouches for, states.
    #[error("entry {index}, in {bundle}, is not the entry that the checkpoint's root vouches for")]
    Entry {
        /// The bundle that holds it.
        bundle: Bundle,
        /// Index in the log.
        index: u64,
    },
    /// The partial tiles do not have the checkpoint's root, and no single one of them is to blame: they belong to
    /// another tree, or several are wrong.
    #[error("the partial tiles have the root {found}; the checkpoint states {expected}")]
    Root {
        /// Root of the tiles.
        found: TreeHash,
        /// Root stated.
        expected: TreeHash,
    },
}

impl AuditError {
    /// The file that is wrong, if it is one.
    pub fn file(&self) -> Option<LogFile> {
        match self {
            Self::Read { file, .. } | Self::File { file, .. } => Some(*file),
            Self::Tile { tile } => Some((*tile).into()),
            Self::Entry { bundle, .. } => Some((*bundle).into()),
            Self::Size(_) | Self::Root { .. } => None,
        }
    }
}

/// Checks every file of the log against `head`, and shows each entry with its index to `visit`, in order. An entry is
/// shown only once the root vouches for it.
///
/// # Errors
/// [`AuditError`] names the first file or entry that is wrong.
pub fn audit(
    head: &TreeHead,
    files: &mut dyn ReadFiles,
    visit: &mut dyn FnMut(u64, &[u8]),
) -> Result<Audited, AuditError> {
    check_size(head.size).map_err(AuditError::Size)?;
    let mut auditor = Auditor { files, visit, done: Audited::default(), scratch: Vec::new() };
    let mut edge = Vec::new();
    for tile in Tile::right_edge(head.size) {
        edge.push((tile, auditor.hashes(tile)?));
    }
    let found = root_of(&edge);
    if found != head.root {
        return Err(auditor.wrong_edge(&mut edge, head.root, found));
    }
    // The highest level's tile is over the oldest entries.
    for (tile, hashes) in edge.iter().rev() {
        auditor.below(*tile, hashes)?;
    }
    Ok(auditor.done)
}

type Edge = Vec<(Tile, Vec<TreeHash>)>;

struct Auditor<'a> {
    files: &'a mut dyn ReadFiles,
    visit: &'a mut dyn FnMut(u64, &[u8]),
    done: Audited,
    scratch: Vec<TreeHash>,
}

impl Auditor<'_> {
    fn hashes(&mut self, tile: Tile) -> Result<Vec<TreeHash>, AuditError> {
        let file = tile.into();
        self.done.tiles += 1;
        let bytes = self.files.read(file).map_err(|source| AuditError::Read { file, source })?;
        tile.hashes(&bytes).map_err(|source| AuditError::File { file, source })
    }

    /// Checks what is below a tile whose hashes are known to be right.
    fn below(&mut self, tile: Tile, hashes: &[TreeHash]) -> Result<(), AuditError> {
        let Some(level) = tile.level().checked_sub(1) else {
            return self.entries(Bundle::under(tile), hashes);
        };
        for (index, hash) in (tile.index() * TILE_WIDTH..).zip(hashes) {
            let child = Tile::known(level, index, TILE_WIDTH);
            let hashes = self.hashes(child)?;
            if perfect_root(&hashes, &mut self.scratch) != *hash {
                return Err(AuditError::Tile { tile: child });
            }
            self.below(child, &hashes)?;
        }
        Ok(())
    }

    /// Checks a bundle against hashes that are known to be right.
    fn entries(&mut self, bundle: Bundle, hashes: &[TreeHash]) -> Result<(), AuditError> {
        let file = bundle.into();
        self.done.bundles += 1;
        let bytes = self.files.read(file).map_err(|source| AuditError::Read { file, source })?;
        let entries = bundle.entries(&bytes).map_err(|source| AuditError::File { file, source })?;
        for (index, (entry, hash)) in (bundle.first_entry()..).zip(entries.into_iter().zip(hashes)) {
            if TreeHash::leaf(entry) != *hash {
                return Err(AuditError::Entry { bundle, index });
            }
            self.done.entries += 1;
            self.done.entry_bytes += entry.len() as u64;
            (self.visit)(index, entry);
        }
        Ok(())
    }

    /// Finds which partial tile is wrong: the one that, made anew from what is below it, gives the root.
    fn wrong_edge(&mut self, edge: &mut Edge, expected: TreeHash, found: TreeHash) -> AuditError {
        for at in 0..edge.len() {
            let tile = edge[at].0;
            // What is below may be wrong or missing as well; then another tile has to explain the root.
            let Ok(anew) = self.anew(tile) else { continue };
            let stated = std::mem::replace(&mut edge[at].1, anew);
            if root_of(edge) == expected {
                return AuditError::Tile { tile };
            }
            edge[at].1 = stated;
        }
        AuditError::Root { found, expected }
    }

    /// A tile's hashes out of the level below it.
    fn anew(&mut self, tile: Tile) -> Result<Vec<TreeHash>, AuditError> {
        let Some(level) = tile.level().checked_sub(1) else {
            let bundle = Bundle::under(tile);
            let file = bundle.into();
            let bytes = self.files.read(file).map_err(|source| AuditError::Read { file, source })?;
            let entries = bundle.entries(&bytes).map_err(|source| AuditError::File { file, source })?;
            return Ok(entries.into_iter().map(TreeHash::leaf).collect());
        };
        let first = tile.index() * TILE_WIDTH;
        (first..first + u64::from(tile.width()))
            .map(|index| {
                let hashes = self.hashes(Tile::known(level, index, TILE_WIDTH))?;
                Ok(perfect_root(&hashes, &mut self.scratch))
            })
            .collect()
    }
}

fn root_of(edge: &Edge) -> TreeHash {
    edge_root(edge.iter().map(|(_, hashes)| hashes.as_slice())).unwrap_or(TreeHash::EMPTY)
}
