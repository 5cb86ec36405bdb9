//! Making proofs out of tiles.
//!
//! A proof's hashes are roots of ranges of the tree; each range consists of perfect subtrees, and each of these lies
//! within one tile. Tiles that come from outside need no trust: a proof is checked before it is handed out.
//!
//! Source: RFC 6962, sections 2.1.1 and 2.1.2; c2sp.org/tlog-tiles.

use crate::hash::{TreeHash, TreeHead, perfect_root};
use crate::proof::{ProofError, check_size, verify_consistency, verify_inclusion};
use crate::tile::{ReadFiles, TILE_HEIGHT, TILE_WIDTH, Tile, TileError};
use std::io;
use std::ops::Range;

/// Why no proof could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// A tile could not be read.
    #[error("{tile} could not be read")]
    Read {
        /// The tile.
        tile: Tile,
        /// Why.
        source: io::Error,
    },
    /// A tile is not what its name says.
    #[error("{tile} is broken")]
    Tile {
        /// The tile.
        tile: Tile,
        /// How.
        source: TileError,
    },
    /// There is no such proof, or the tiles do not belong to this tree.
    #[error("the tiles do not prove it")]
    Proof(#[from] ProofError),
}

/// An entry's hash, and the proof that it is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// Hash of the entry.
    pub leaf: TreeHash,
    /// Hashes from the entry's sibling up to the root's child.
    pub proof: Vec<TreeHash>,
}

/// The tiles that [`prove_inclusion`] reads, for callers that fetch them beforehand.
///
/// # Errors
/// [`ProofError`] if the tree has no such entry.
pub fn inclusion_tiles(index: u64, size: u64) -> Result<Vec<Tile>, ProofError> {
    Ok(tiles(&inclusion_ranges(index, size)?, size))
}

/// The tiles that [`prove_consistency`] reads, for callers that fetch them beforehand. All are tiles of the newer
/// tree.
///
/// # Errors
/// [`ProofError`] if `old` is larger than `new`.
pub fn consistency_tiles(old: u64, new: u64) -> Result<Vec<Tile>, ProofError> {
    Ok(tiles(&consistency_ranges(old, new)?, new))
}

/// The tiles that [`root_at`] reads, for callers that fetch them beforehand.
///
/// # Errors
/// [`ProofError`] if `old` is larger than `new`.
pub fn root_tiles(old: u64, new: u64) -> Result<Vec<Tile>, ProofError> {
    let mut ranges = consistency_ranges(old, new)?;
    ranges.insert(0, 0..old);
    Ok(tiles(&ranges, new))
}

/// Proves that an entry is in the tree.
///
/// # Errors
/// [`ProveError`] names the tile that could not be used, or says that all together do not have the tree's root.
pub fn prove_inclusion(
    index: u64,
    head: &TreeHead,
    files: &mut dyn ReadFiles,
) -> Result<Inclusion, ProveError> {
    let ranges = inclusion_ranges(index, head.size)?;
    let mut proof = roots(&ranges, head.size, files)?;
    let leaf = proof.remove(0);
    verify_inclusion(index, &leaf, head, &proof)?;
    Ok(Inclusion { leaf, proof })
}

/// Proves that the tree `new` begins with the tree `old`.
///
/// # Errors
/// As [`prove_inclusion`]; also [`ProofError::OldRoot`], if the tiles belong to `new` but it does not begin with
/// `old`: see [`crate::ForkEvidence::from_tiles`].
pub fn prove_consistency(
    old: &TreeHead,
    new: &TreeHead,
    files: &mut dyn ReadFiles,
) -> Result<Vec<TreeHash>, ProveError> {
    let proof = roots(&consistency_ranges(old.size, new.size)?, new.size, files)?;
    verify_consistency(old, new, &proof)?;
    Ok(proof)
}

/// The root that the first `size` entries of a tree have, and the proof that the tree begins with them.
///
/// # Errors
/// As [`prove_consistency`].
pub fn root_at(
    size: u64,
    head: &TreeHead,
    files: &mut dyn ReadFiles,
) -> Result<(TreeHead, Vec<TreeHash>), ProveError> {
    let mut ranges = consistency_ranges(size, head.size)?;
    ranges.insert(0, 0..size);
    let mut proof = roots(&ranges, head.size, files)?;
    let old = TreeHead { size, root: proof.remove(0) };
    verify_consistency(&old, head, &proof)?;
    Ok((old, proof))
}

/// The entry itself, then what its proof consists of, from the leaf up.
fn inclusion_ranges(index: u64, size: u64) -> Result<Vec<Range<u64>>, ProofError> {
    check_size(size)?;
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let (mut low, mut high) = (0, size);
    let mut ranges = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    ranges.push(index..index + 1);
    ranges.reverse();
    Ok(ranges)
}

fn consistency_ranges(old: u64, new: u64) -> Result<Vec<Range<u64>>, ProofError> {
    check_size(new)?;
    if old > new {
        return Err(ProofError::Order { old, new });
    }
    let (mut low, mut high) = (0, new);
    let mut ranges = Vec::new();
    if old == 0 || old == new {
        return Ok(ranges);
    }
    while high != old {
        let middle = low + split(high - low);
        if old <= middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    // The older tree's last subtree, unless it is the whole of it: then the verifier knows its root.
    if low > 0 {
        ranges.push(low..high);
    }
    ranges.reverse();
    Ok(ranges)
}

/// Entries of a tree's left child: the largest power of two below its size. There must be two entries or more.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// A perfect subtree: hashes of one tile.
struct Subtree {
    tile: Tile,
    hashes: Range<usize>,
}

/// The perfect subtrees of a range, left to right.
fn subtrees(range: &Range<u64>, size: u64) -> Vec<Subtree> {
    let mut found = Vec::new();
    let mut low = range.start;
    while low < range.end {
        // Bounded by where it starts and by what is left.
        let height = low.trailing_zeros().min((range.end - low).ilog2());
        let level = height / TILE_HEIGHT;
        let first = low >> (TILE_HEIGHT * level);
        if let Some(tile) = Tile::containing(level as u8, first, size) {
            let start = (first % TILE_WIDTH) as usize;
            found.push(Subtree { tile, hashes: start..start + (1 << (height % TILE_HEIGHT)) });
        }
        low += 1 << height;
    }
    found
}

fn tiles(ranges: &[Range<u64>], size: u64) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for Subtree { tile, .. } in ranges.iter().flat_map(|range| subtrees(range, size)) {
        // A few dozen at most; a sort would be a third of this file's code.
        if let Err(at) = tiles.binary_search(&tile) {
            tiles.insert(at, tile);
        }
    }
    tiles
}

/// The root of each range, out of tiles that are each read once.
fn roots(ranges: &[Range<u64>], size: u64, files: &mut dyn ReadFiles) -> Result<Vec<TreeHash>, ProveError> {
    let mut read = Vec::new();
    for tile in tiles(ranges, size) {
        let bytes = files.read(tile.into()).map_err(|source| ProveError::Read { tile, source })?;
        let hashes = tile.first_hashes(&bytes).map_err(|source| ProveError::Tile { tile, source })?;
        read.push((tile, hashes));
    }
    let mut scratch = Vec::new();
    let mut root_of = |range: &Range<u64>| {
        let mut root: Option<TreeHash> = None;
        for Subtree { tile, hashes } in subtrees(range, size).into_iter().rev() {
            if let Ok(at) = read.binary_search_by_key(&tile, |(tile, _)| *tile) {
                let left = perfect_root(&read[at].1[hashes], &mut scratch);
                root = Some(root.map_or(left, |right| TreeHash::node(&left, &right)));
            }
        }
        root.unwrap_or(TreeHash::EMPTY)
    };
    Ok(ranges.iter().map(&mut root_of).collect())
}
