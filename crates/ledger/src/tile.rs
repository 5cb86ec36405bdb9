//! Files of the log: tiles of hashes, and bundles of entries.
//!
//! A tile of level 0 holds the hashes of up to 256 consecutive entries, a tile of level L + 1 the roots of up to 256
//! full tiles of level L. A bundle holds the entries under one tile of level 0. A full file never changes; a partial
//! one carries its width in its name, so that it never changes either.
//!
//! Source: c2sp.org/tlog-tiles.

use crate::hash::{HASH_BYTES, MAX_TREE_SIZE, TreeHash};
use crate::text;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;

/// Hashes of a full tile; entries of a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that one tile spans.
pub const TILE_HEIGHT: u32 = 8;
/// Highest level of a tile: 256^8 entries are more than [`MAX_TREE_SIZE`].
pub const MAX_LEVEL: u8 = 7;
/// Largest entry, in bytes: bundles give it a length of two bytes.
pub const MAX_ENTRY_BYTES: usize = 65_535;
/// Longest path of a file: `tile/entries/`, seven groups `x000/`, and `.p/255`, with room.
pub const MAX_PATH_BYTES: usize = 64;

/// A tile of hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

/// A bundle of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bundle {
    index: u64,
    width: u16,
}

/// A file of the log, whose path is its `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogFile {
    /// Hashes.
    Tile(Tile),
    /// Entries.
    Bundle(Bundle),
}

/// What is wrong with a file of the log or with its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// No file of a log has this path.
    #[error("not the path of a tile or bundle")]
    Path,
    /// A coordinate that no log has.
    #[error("no tile has level {level}, index {index}, width {width}")]
    Coordinates {
        /// Level asked for.
        level: u8,
        /// Index asked for.
        index: u64,
        /// Width asked for.
        width: u64,
    },
    /// A tile whose length does not fit its width.
    #[error("the tile has {bytes} bytes; {expected} were expected")]
    Length {
        /// Length found, in bytes.
        bytes: usize,
        /// Length expected, in bytes.
        expected: usize,
    },
    /// A bundle that ends within an entry, or after too few.
    #[error("the bundle ends in or before entry {position} of {width}")]
    Truncated {
        /// Position of the entry within the bundle.
        position: usize,
        /// Entries expected.
        width: u16,
    },
    /// A bundle with bytes after its last entry.
    #[error("the bundle has {bytes} bytes after its last entry")]
    Trailing {
        /// Bytes too many.
        bytes: usize,
    },
}

impl Tile {
    /// The tile at `level` and `index`, `width` hashes wide.
    ///
    /// # Errors
    /// [`TileError::Coordinates`] if no tree of up to [`MAX_TREE_SIZE`] entries has it.
    pub fn new(level: u8, index: u64, width: u64) -> Result<Self, TileError> {
        let wrong = TileError::Coordinates { level, index, width };
        if level > MAX_LEVEL || width == 0 || width > TILE_WIDTH {
            return Err(wrong);
        }
        let hashes = MAX_TREE_SIZE >> (TILE_HEIGHT * u32::from(level));
        match index.checked_mul(TILE_WIDTH).and_then(|first| first.checked_add(width)) {
            Some(end) if end <= hashes => Ok(Self { level, index, width: width as u16 }),
            _ => Err(wrong),
        }
    }

    /// The tile of a tree of `size` entries that holds hash `position` of `level`; none if the tree has no such hash.
    pub fn containing(level: u8, position: u64, size: u64) -> Option<Self> {
        if level > MAX_LEVEL || size > MAX_TREE_SIZE {
            return None;
        }
        let hashes = size >> (TILE_HEIGHT * u32::from(level));
        let index = position / TILE_WIDTH;
        (position < hashes).then(|| Self {
            level,
            index,
            width: (hashes - index * TILE_WIDTH).min(TILE_WIDTH) as u16,
        })
    }

    /// A tile that is known to be one of an existing tree.
    pub(crate) fn known(level: u8, index: u64, width: u64) -> Self {
        debug_assert!(Self::new(level, index, width).is_ok());
        Self { level, index, width: width as u16 }
    }

    /// The partial tiles of a tree of `size` entries, lowest level first: its right edge. With them alone a log can
    /// go on, and its root can be computed.
    pub fn right_edge(size: u64) -> Vec<Self> {
        let size = size.min(MAX_TREE_SIZE);
        (0..=MAX_LEVEL)
            .filter_map(|level| {
                let hashes = size >> (TILE_HEIGHT * u32::from(level));
                let width = hashes % TILE_WIDTH;
                (width > 0).then_some(Self { level, index: hashes / TILE_WIDTH, width: width as u16 })
            })
            .collect()
    }

    /// Level: 0 for hashes of entries.
    pub fn level(self) -> u8 {
        self.level
    }

    /// Index within its level.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Hashes it holds: 1 to 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether it holds 256 hashes and thus never grows.
    pub fn is_full(self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The tile's hashes out of the file's bytes.
    ///
    /// # Errors
    /// [`TileError::Length`] if the bytes are not as many as the width says.
    pub fn hashes(self, bytes: &[u8]) -> Result<Vec<TreeHash>, TileError> {
        let expected = usize::from(self.width) * HASH_BYTES;
        if bytes.len() != expected {
            return Err(TileError::Length { bytes: bytes.len(), expected });
        }
        let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
        Ok(hashes.iter().map(|hash| TreeHash(*hash)).collect())
    }

    /// Like [`Self::hashes`], but of a file that may be wider, since a log may have replaced it by the full tile.
    pub(crate) fn first_hashes(self, bytes: &[u8]) -> Result<Vec<TreeHash>, TileError> {
        let expected = usize::from(self.width) * HASH_BYTES;
        let wider = bytes.len() <= TILE_WIDTH as usize * HASH_BYTES && bytes.len().is_multiple_of(HASH_BYTES);
        if wider && bytes.len() > expected {
            return self.hashes(&bytes[..expected]);
        }
        self.hashes(bytes)
    }
}

impl Bundle {
    /// The bundle at `index` with `width` entries.
    ///
    /// # Errors
    /// [`TileError::Coordinates`] if no tree of up to [`MAX_TREE_SIZE`] entries has it.
    pub fn new(index: u64, width: u64) -> Result<Self, TileError> {
        Tile::new(0, index, width).map(Self::under)
    }

    /// The bundle whose entries a tile of level 0 hashes.
    pub(crate) fn under(tile: Tile) -> Self {
        debug_assert!(tile.level == 0);
        Self { index: tile.index, width: tile.width }
    }

    /// The bundle of a tree of `size` entries that holds entry `index`; none if the tree has no such entry.
    pub fn containing(index: u64, size: u64) -> Option<Self> {
        Tile::containing(0, index, size).map(Self::under)
    }

    /// Index among the bundles.
    pub fn index(self) -> u64 {
        self.index
    }

    /// Entries it holds: 1 to 256.
    pub fn width(self) -> u16 {
        self.width
    }

    /// Index of its first entry in the log.
    pub fn first_entry(self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// The bundle's entries out of the file's bytes; they borrow from these.
    ///
    /// # Errors
    /// [`TileError::Truncated`] or [`TileError::Trailing`] if the bytes are not exactly as many entries as the width
    /// says.
    pub fn entries(self, bytes: &[u8]) -> Result<Vec<&[u8]>, TileError> {
        let mut rest = bytes;
        let mut entries = Vec::with_capacity(usize::from(self.width));
        for position in 0..usize::from(self.width) {
            let entry = rest
                .split_first_chunk::<2>()
                .and_then(|(length, after)| after.split_at_checked(usize::from(u16::from_be_bytes(*length))));
            let Some((entry, after)) = entry else {
                return Err(TileError::Truncated { position, width: self.width });
            };
            entries.push(entry);
            rest = after;
        }
        if rest.is_empty() { Ok(entries) } else { Err(TileError::Trailing { bytes: rest.len() }) }
    }
}

impl From<Tile> for LogFile {
    fn from(tile: Tile) -> Self {
        Self::Tile(tile)
    }
}

impl From<Bundle> for LogFile {
    fn from(bundle: Bundle) -> Self {
        Self::Bundle(bundle)
    }
}

impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match self {
            Self::Tile(tile) => {
                write!(f, "tile/{}/", tile.level)?;
                (tile.index, tile.width)
            }
            Self::Bundle(bundle) => {
                f.write_str("tile/entries/")?;
                (bundle.index, bundle.width)
            }
        };
        // Groups of three digits, so that no folder holds more than a thousand of each.
        let mut unit = 1;
        while index / unit >= 1000 {
            unit *= 1000;
        }
        while unit > 1 {
            write!(f, "x{:03}/", index / unit % 1000)?;
            unit /= 1000;
        }
        write!(f, "{:03}", index % 1000)?;
        if u64::from(width) < TILE_WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LogFile::from(*self).fmt(f)
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LogFile::from(*self).fmt(f)
    }
}

impl FromStr for LogFile {
    type Err = TileError;

    /// Reads a path that came from outside. What it accepts is exactly what `Display` writes: no `..`, no empty
    /// element, no second spelling of the same file.
    fn from_str(path: &str) -> Result<Self, TileError> {
        let file = parse_path(path).ok_or(TileError::Path)?;
        if file.to_string() == path { Ok(file) } else { Err(TileError::Path) }
    }
}

fn parse_path(path: &str) -> Option<LogFile> {
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match rest.split_once('.') {
        Some((index, width)) => (index, text::decimal(width.strip_prefix("p/")?)?),
        None => (rest, TILE_WIDTH),
    };
    let mut number = 0_u64;
    for group in index.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    if level == "entries" {
        return Bundle::new(number, width).ok().map(LogFile::Bundle);
    }
    let level = u8::try_from(text::decimal(level)?).ok()?;
    Tile::new(level, number, width).ok().map(LogFile::Tile)
}

/// Reads files of the log: from a folder, a map, or whatever was fetched before.
///
/// What is read needs no trust: everything that reads through this checks it against a root. For a partial file that
/// is gone, a reader of proofs may give the full one.
///
/// Closures `FnMut(LogFile) -> io::Result<Vec<u8>>` are readers, and so is a map of files fetched beforehand.
pub trait ReadFiles {
    /// The bytes of a file.
    ///
    /// # Errors
    /// Whatever stopped the reading; it is handed on with the file's name.
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>>;
}

impl<F: FnMut(LogFile) -> io::Result<Vec<u8>>> ReadFiles for F {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        self(file).map(Cow::Owned)
    }
}

impl ReadFiles for BTreeMap<LogFile, Vec<u8>> {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        self.get(&file).map(|bytes| Cow::Borrowed(bytes.as_slice())).ok_or(io::ErrorKind::NotFound.into())
    }
}
