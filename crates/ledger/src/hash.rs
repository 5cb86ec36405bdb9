//! Hashes of the tree: RFC 6962 over SHA-256.
//!
//! A leaf's hash starts with the byte 0, a node's with 1, so that no node can pass for an entry.
//!
//! Source: RFC 6962, section 2.1; c2sp.org/tlog-tiles.

use crate::text;
use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// Entries of the largest tree: sizes fit into the signed 64-bit integers of other implementations.
pub const MAX_TREE_SIZE: u64 = i64::MAX as u64;

/// The SHA-256 hash of an entry or of a subtree. `Display` writes base64, as in checkpoints; `{:x}` writes hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeHash(pub [u8; HASH_BYTES]);

impl TreeHash {
    /// Root of the tree without entries: SHA-256 of nothing.
    pub const EMPTY: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
        0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// Hash of an entry.
    #[inline(never)] // A tab's engine has it once, then.
    pub fn leaf(entry: &[u8]) -> Self {
        let mut sha = Sha256::new();
        sha.update([0]);
        sha.update(entry);
        Self(sha.finalize().into())
    }

    /// Hash of the node over two subtrees.
    #[inline(never)] // As above.
    pub fn node(left: &Self, right: &Self) -> Self {
        let mut input = [1; 1 + 2 * HASH_BYTES];
        input[1..=HASH_BYTES].copy_from_slice(&left.0);
        input[1 + HASH_BYTES..].copy_from_slice(&right.0);
        Self(Sha256::digest(input).into())
    }

    /// Reads a hash from base64 with padding; nothing if the text is anything but the one encoding of 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        // 32 bytes take 44 characters: longer text is not even decoded.
        if text.len() != 44 {
            return None;
        }
        text::decode(text)?.try_into().ok().map(Self)
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode(&self.0))
    }
}

impl fmt::LowerHex for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tree's size and root: what a checkpoint states, without its signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Entries.
    pub size: u64,
    /// Hash over all of them.
    pub root: TreeHash,
}

impl TreeHead {
    /// The tree without entries.
    pub const EMPTY: Self = Self { size: 0, root: TreeHash::EMPTY };
}

/// Root of the perfect subtree over `hashes`, whose count is a power of two.
///
/// `scratch` holds the levels on the way, so that nothing is allocated for each tile.
pub(crate) fn perfect_root(hashes: &[TreeHash], scratch: &mut Vec<TreeHash>) -> TreeHash {
    debug_assert!(hashes.len().is_power_of_two());
    scratch.clear();
    scratch.extend_from_slice(hashes);
    let mut width = scratch.len();
    while width > 1 {
        width /= 2;
        for i in 0..width {
            scratch[i] = TreeHash::node(&scratch[2 * i], &scratch[2 * i + 1]);
        }
    }
    scratch[0]
}

/// Root over the partial tiles of a tree's right edge, lowest level first; none if all are empty.
///
/// The subtrees of a tree are perfect, and grow to the left: folded from the right, they give the root.
pub(crate) fn edge_root<'a>(levels: impl Iterator<Item = &'a [TreeHash]>) -> Option<TreeHash> {
    let mut root: Option<TreeHash> = None;
    let mut scratch = Vec::new();
    for mut hashes in levels {
        while !hashes.is_empty() {
            let width = 1 << hashes.len().trailing_zeros();
            let (rest, last) = hashes.split_at(hashes.len() - width);
            let left = perfect_root(last, &mut scratch);
            root = Some(root.map_or(left, |right| TreeHash::node(&left, &right)));
            hashes = rest;
        }
    }
    root
}
