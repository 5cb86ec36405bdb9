//! A Merkle tree over the names of blocks: RFC 6962's shape, BLAKE3 with prefixes that keep leaves and nodes apart.

use potluck_types::BlobHash;

/// Prefix of a leaf.
const LEAF: &[u8] = b"potluck data leaf v1";
/// Prefix of an inner node.
const NODE: &[u8] = b"potluck data node v1";
/// Most hashes of an inclusion proof: indices have 32 bits.
pub const MAX_PROOF: usize = 32;

/// A hash of the tree.
type Hash = [u8; 32];

/// The leaf of a block: the hash of a prefix and the name of the block's bytes, so that a list of names can be
/// checked before anything is fetched.
pub fn leaf(block: &BlobHash) -> Hash {
    *blake3::Hasher::new().update(LEAF).update(&block.0).finalize().as_bytes()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    *blake3::Hasher::new().update(NODE).update(left).update(right).finalize().as_bytes()
}

/// All hashes of a tree, for who serves proofs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Leaves first, root last. A node without a sibling moves up unchanged.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// The tree over leaves, in order; `None` without leaves.
    pub fn new(leaves: Vec<Hash>) -> Option<Self> {
        let mut levels = vec![leaves];
        while let Some(last) = levels.last().filter(|level| level.len() > 1) {
            let (pairs, odd) = last.as_chunks::<2>();
            let parents = pairs.iter().map(|[left, right]| node(left, right)).chain(odd.iter().copied());
            levels.push(parents.collect());
        }
        levels.last().is_some_and(|level| level.len() == 1).then_some(Self { levels })
    }

    /// The root.
    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default()
    }

    /// The hashes that lead from a leaf to the root, lowest first; `None` for a leaf that there is not.
    pub fn proof(&self, index: u32) -> Option<Vec<Hash>> {
        let mut at = index as usize;
        self.levels.first()?.get(at)?;
        let mut proof = Vec::new();
        for level in &self.levels {
            proof.extend(level.get(at ^ 1));
            at >>= 1;
        }
        Some(proof)
    }
}

/// Whether `leaf` is number `index` of the `leaves` leaves below `root`.
pub fn check_inclusion(root: &Hash, leaves: u32, index: u32, leaf: &Hash, proof: &[Hash]) -> bool {
    if index >= leaves {
        return false;
    }
    let (mut at, mut width, mut hash) = (index, leaves, *leaf);
    let mut rest = proof.iter();
    while width > 1 {
        if at ^ 1 < width {
            let Some(sibling) = rest.next() else { return false };
            hash = if at & 1 == 0 { node(&hash, sibling) } else { node(sibling, &hash) };
        }
        at >>= 1;
        width = width.div_ceil(2);
    }
    rest.next().is_none() && hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|number| leaf(&BlobHash::of(&[number]))).collect()
    }

    /// RFC 6962, section 2.1: split at the greatest power of two below the number of leaves.
    fn by_the_book(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => unreachable!("no tree is empty"),
            [one] => *one,
            _ => {
                let middle = leaves.len().next_power_of_two() / 2;
                let (left, right) = leaves.split_at(middle);
                node(&by_the_book(left), &by_the_book(right))
            }
        }
    }

    #[test]
    fn the_shape_is_that_of_rfc_6962_and_every_leaf_is_proved() {
        assert!(Tree::new(Vec::new()).is_none());
        for count in 1..=40_u8 {
            let leaves = leaves(count);
            let tree = Tree::new(leaves.clone()).unwrap();
            let root = tree.root();
            assert_eq!(root, by_the_book(&leaves), "{count}");
            let count = u32::from(count);
            assert!(tree.proof(count).is_none());
            for (index, leaf) in (0..).zip(&leaves) {
                let mut proof = tree.proof(index).unwrap();
                assert!(check_inclusion(&root, count, index, leaf, &proof));
                for other in (0..count + 2).filter(|other| *other != index) {
                    assert!(!check_inclusion(&root, count, other, leaf, &proof), "{count} {index} {other}");
                }
                proof.push([0; 32]);
                assert!(!check_inclusion(&root, count, index, leaf, &proof));
                proof.pop();
                if let Some(first) = proof.first_mut() {
                    first[0] ^= 1;
                    assert!(!check_inclusion(&root, count, index, leaf, &proof));
                    assert!(!check_inclusion(&root, count, index, leaf, &proof[1..]));
                }
            }
        }
    }

    #[test]
    fn an_inner_node_is_no_leaf() {
        let tree = Tree::new(leaves(4)).unwrap();
        let inner = tree.levels[1][0];
        assert!(!check_inclusion(&tree.root(), 4, 0, &inner, &tree.levels[1][1..]));
        // In a tree of two leaves the same hashes would fit: the number of leaves belongs to what is signed.
        assert!(check_inclusion(&tree.root(), 2, 0, &inner, &tree.levels[1][1..]));
    }
}
