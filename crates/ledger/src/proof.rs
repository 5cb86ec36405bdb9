//! Checking proofs: that an entry is in a tree, and that a tree begins with another one.
//!
//! Source: RFC 9162, sections 2.1.3.2 and 2.1.4.2; the same trees and proofs as RFC 6962.

use crate::hash::{MAX_TREE_SIZE, TreeHash, TreeHead};

/// Most hashes of a proof: one for each level of the largest tree, and one to start from.
pub const MAX_PROOF_HASHES: usize = 64;

/// Why a proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A size that no log has.
    #[error("{size} entries are more than {MAX_TREE_SIZE}")]
    Size {
        /// Entries stated.
        size: u64,
    },
    /// An entry beyond the tree's end.
    #[error("a tree of {size} entries has no entry {index}")]
    Index {
        /// Index asked for.
        index: u64,
        /// Entries of the tree.
        size: u64,
    },
    /// A tree does not begin with a larger one.
    #[error("a tree of {new} entries cannot begin with one of {old}")]
    Order {
        /// Entries of the tree said to be older.
        old: u64,
        /// Entries of the tree said to be newer.
        new: u64,
    },
    /// Too few or too many hashes for these sizes.
    #[error("a proof of {hashes} hashes does not fit these sizes")]
    Length {
        /// Hashes given.
        hashes: usize,
    },
    /// The proof leads to another root than that of the tree.
    #[error("the proof leads to the root {found}, not to {expected}")]
    Root {
        /// Root that the proof leads to.
        found: TreeHash,
        /// Root of the tree.
        expected: TreeHash,
    },
    /// The proof leads to another root than that of the older tree.
    #[error("the proof leads to the older root {found}, not to {expected}")]
    OldRoot {
        /// Root that the proof leads to.
        found: TreeHash,
        /// Root of the older tree.
        expected: TreeHash,
    },
}

/// Checks that the entry whose hash is `leaf` has `index` in the tree.
///
/// # Errors
/// [`ProofError`] says why not.
pub fn verify_inclusion(
    index: u64,
    leaf: &TreeHash,
    head: &TreeHead,
    proof: &[TreeHash],
) -> Result<(), ProofError> {
    check_size(head.size)?;
    if index >= head.size {
        return Err(ProofError::Index { index, size: head.size });
    }
    let length = ProofError::Length { hashes: proof.len() };
    // Position of the subtree that is proven so far, and of the last subtree, both at the same level.
    let (mut position, mut last) = (index, head.size - 1);
    let mut root = *leaf;
    for hash in proof {
        if last == 0 {
            return Err(length);
        }
        if position & 1 == 1 || position == last {
            root = TreeHash::node(hash, &root);
            (position, last) = skip_to_right_child(position, last);
        } else {
            root = TreeHash::node(&root, hash);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(length);
    }
    same_root(root, head.root)
}

/// Checks that the tree `new` begins with the tree `old`.
///
/// Every tree begins with the empty one, and with itself; both need an empty proof.
///
/// # Errors
/// [`ProofError`] says why not. It does not say whose fault that is: a wrong proof can be given for consistent trees.
pub fn verify_consistency(old: &TreeHead, new: &TreeHead, proof: &[TreeHash]) -> Result<(), ProofError> {
    check_size(new.size)?;
    if old.size > new.size {
        return Err(ProofError::Order { old: old.size, new: new.size });
    }
    let length = ProofError::Length { hashes: proof.len() };
    if old.size == 0 || old.size == new.size {
        if !proof.is_empty() {
            return Err(length);
        }
        let expected = if old.size == 0 { TreeHash::EMPTY } else { new.root };
        return same_old_root(expected, old.root);
    }
    // The first hash is that of the older tree's last subtree; if that is the whole tree, its root, which is known.
    let (first, rest) =
        if old.size.is_power_of_two() { (&old.root, proof) } else { proof.split_first().ok_or(length)? };
    let (mut position, mut last) = (old.size - 1, new.size - 1);
    (position, last) = (position >> position.trailing_ones(), last >> position.trailing_ones());
    let (mut old_root, mut new_root) = (*first, *first);
    for hash in rest {
        if last == 0 {
            return Err(length);
        }
        if position & 1 == 1 || position == last {
            old_root = TreeHash::node(hash, &old_root);
            new_root = TreeHash::node(hash, &new_root);
            (position, last) = skip_to_right_child(position, last);
        } else {
            new_root = TreeHash::node(&new_root, hash);
        }
        position >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(length);
    }
    same_root(new_root, new.root)?;
    same_old_root(old_root, old.root)
}

/// A last subtree without a right neighbor moves up unchanged until it is a right child.
fn skip_to_right_child(position: u64, last: u64) -> (u64, u64) {
    if position == 0 {
        return (0, last);
    }
    let levels = position.trailing_zeros();
    (position >> levels, last >> levels)
}

pub(crate) fn check_size(size: u64) -> Result<(), ProofError> {
    if size > MAX_TREE_SIZE { Err(ProofError::Size { size }) } else { Ok(()) }
}

fn same_root(found: TreeHash, expected: TreeHash) -> Result<(), ProofError> {
    if found == expected { Ok(()) } else { Err(ProofError::Root { found, expected }) }
}

fn same_old_root(found: TreeHash, expected: TreeHash) -> Result<(), ProofError> {
    if found == expected { Ok(()) } else { Err(ProofError::OldRoot { found, expected }) }
}
