//! The groups of a blob, and what tells a right one from a wrong one.
//!
//! A blob's name is its BLAKE3 hash: the root of a binary tree over its bytes. A *group* of [`GROUP_BYTES`] is a subtree of
//! it, so the list of all groups' chaining values (the blob's *tree* here) is checked against the name once, and each
//! group against its value alone. The list takes a thousandth of the blob and fits one frame; proofs for each group would
//! save that, and cost more than it for every group.
//!
//! Source: BLAKE3 specification, section 2.1 (chunks and the shape of the tree); `blake3::hazmat`.

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use potluck_proto::BlobRef;
use potluck_types::BlobHash;
use potluck_types::limits::{GROUP_BYTES, MAX_GROUPS};

const GROUP: u64 = GROUP_BYTES as u64;

/// Groups of a blob of so many bytes; the last may be shorter. `None` for a blob that is empty or too large to travel.
pub fn group_count(bytes: u64) -> Option<u32> {
    let count = bytes.div_ceil(GROUP);
    (1..=MAX_GROUPS as u64).contains(&count).then_some(count as u32)
}

/// First byte and length of a group, of a blob that has it.
pub const fn group_range(bytes: u64, index: u32) -> (u64, usize) {
    let start = index as u64 * GROUP;
    let left = bytes.saturating_sub(start);
    (start, if left < GROUP { left as usize } else { GROUP_BYTES })
}

/// The chaining values of a blob's groups. Of a blob of one group: its hash.
pub fn tree_of(blob: &[u8]) -> Vec<[u8; 32]> {
    if blob.len() <= GROUP_BYTES {
        return vec![BlobHash::of(blob).0];
    }
    blob.chunks(GROUP_BYTES).enumerate().map(|(index, group)| chaining_value(index as u32, group)).collect()
}

fn chaining_value(index: u32, group: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(u64::from(index) * GROUP);
    hasher.update(group);
    hasher.finalize_non_root()
}

/// A blob's tree that leads to its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    blob: BlobRef,
    groups: Vec<[u8; 32]>,
}

impl Tree {
    /// A list of chaining values, if it is that of the blob.
    pub fn verified(blob: BlobRef, groups: Vec<[u8; 32]>) -> Option<Self> {
        if group_count(blob.bytes)? as usize != groups.len() {
            return None;
        }
        let root = match &*groups {
            [only] => *only,
            several => {
                let (left, right) = several.split_at(left_of(several.len()));
                *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
            }
        };
        (root == blob.hash.0).then_some(Self { blob, groups })
    }

    /// Whether these are the bytes of a group.
    pub fn is_group(&self, index: u32, data: &[u8]) -> bool {
        let Some(expected) = self.groups.get(index as usize) else { return false };
        // The length first: only such a subtree has a chaining value.
        if data.len() != group_range(self.blob.bytes, index).1 {
            return false;
        }
        let found = if self.groups.len() == 1 { BlobHash::of(data).0 } else { chaining_value(index, data) };
        found == *expected
    }

    /// The chaining values.
    pub fn groups(&self) -> &[[u8; 32]] {
        &self.groups
    }
}

/// Groups of the left subtree, of two or more: the largest power of two that leaves something for the right one.
const fn left_of(groups: usize) -> usize {
    1 << (groups - 1).ilog2()
}

fn subtree(groups: &[[u8; 32]]) -> [u8; 32] {
    match groups {
        [only] => *only,
        several => {
            let (left, right) = several.split_at(left_of(several.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * i % 251) as u8).collect()
    }

    #[test]
    fn trees_of_all_shapes_lead_to_their_blobs() {
        for groups in [1, 2, 3, 4, 5, 7, 8, 9, 31, 33] {
            for bytes in [groups * GROUP_BYTES, (groups - 1) * GROUP_BYTES + 1, groups * GROUP_BYTES - 1025] {
                let blob = blob(bytes);
                let name = BlobRef { hash: BlobHash::of(&blob), bytes: bytes as u64 };
                let list = tree_of(&blob);
                assert_eq!(Some(list.len() as u32), group_count(name.bytes));
                let tree = Tree::verified(name, list.clone()).unwrap();
                for (index, group) in blob.chunks(GROUP_BYTES).enumerate() {
                    let (start, length) = group_range(name.bytes, index as u32);
                    assert_eq!((start as usize, length), (index * GROUP_BYTES, group.len()));
                    assert!(tree.is_group(index as u32, group));
                    assert!(!tree.is_group(index as u32 + 1, group), "in another place");
                    let mut wrong = group.to_vec();
                    wrong[group.len() / 2] ^= 1;
                    assert!(!tree.is_group(index as u32, &wrong));
                    assert!(!tree.is_group(index as u32, &group[1..]));
                }
                for wrong in 0..list.len() {
                    let mut list = list.clone();
                    list[wrong][7] ^= 1;
                    assert_eq!(Tree::verified(name, list), None);
                }
                let longer = BlobRef { bytes: name.bytes + GROUP, ..name };
                assert_eq!(Tree::verified(longer, list.clone()), None);
            }
        }
    }

    #[test]
    fn blobs_that_do_not_travel_have_no_groups() {
        assert_eq!(group_count(0), None);
        assert_eq!(group_count(MAX_GROUPS as u64 * GROUP), Some(MAX_GROUPS as u32));
        assert_eq!(group_count(MAX_GROUPS as u64 * GROUP + 1), None);
        assert_eq!(group_count(u64::MAX), None);
        assert_eq!(Tree::verified(BlobRef { hash: BlobHash([0; 32]), bytes: 0 }, Vec::new()), None);
    }
}
