//! Whole blobs by hash, the least recently used leaving first, within a limit of bytes.

use crate::tree::tree_of;
use potluck_types::BlobHash;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Store {
    limit: u64,
    bytes: u64,
    clock: u64,
    blobs: BTreeMap<BlobHash, Kept>,
    by_age: BTreeMap<u64, BlobHash>,
}

#[derive(Debug)]
struct Kept {
    age: u64,
    blob: Arc<Vec<u8>>,
    /// Made when a peer first asks for it.
    tree: Option<Vec<[u8; 32]>>,
}

impl Store {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, clock: 0, blobs: BTreeMap::new(), by_age: BTreeMap::new() }
    }

    /// A blob, which becomes the most recent.
    pub(crate) fn get(&mut self, hash: &BlobHash) -> Option<Arc<Vec<u8>>> {
        let kept = self.blobs.get_mut(hash)?;
        self.by_age.remove(&kept.age);
        self.clock += 1;
        kept.age = self.clock;
        self.by_age.insert(kept.age, *hash);
        Some(Arc::clone(&kept.blob))
    }

    /// Length of a blob that is here.
    pub(crate) fn length(&self, hash: &BlobHash) -> Option<u64> {
        self.blobs.get(hash).map(|kept| kept.blob.len() as u64)
    }

    /// The tree of a blob that is here.
    pub(crate) fn tree(&mut self, hash: &BlobHash) -> Option<Vec<[u8; 32]>> {
        let kept = self.blobs.get_mut(hash)?;
        Some(kept.tree.get_or_insert_with(|| tree_of(&kept.blob)).clone())
    }

    /// Keeps a blob; older ones leave, and are named. `None`: it is kept already, or exceeds the whole limit.
    pub(crate) fn insert(
        &mut self,
        hash: BlobHash,
        blob: &Arc<Vec<u8>>,
        tree: Option<Vec<[u8; 32]>>,
    ) -> Option<Vec<BlobHash>> {
        if blob.len() as u64 > self.limit || self.get(&hash).is_some() {
            return None;
        }
        let mut left = Vec::new();
        self.bytes += blob.len() as u64;
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(gone) = self.blobs.remove(&oldest) {
                self.bytes -= gone.blob.len() as u64;
                left.push(oldest);
            }
        }
        self.clock += 1;
        self.by_age.insert(self.clock, hash);
        self.blobs.insert(hash, Kept { age: self.clock, blob: Arc::clone(blob), tree });
        Some(left)
    }

    /// Hashes, the most recent first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = BlobHash> + '_ {
        self.by_age.values().rev().copied()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut store = Store::new(30);
        let name = |i: u8| BlobHash([i; 32]);
        let blob = Arc::new(vec![0; 10]);
        for i in 0..3 {
            assert_eq!(store.insert(name(i), &blob, None), Some(Vec::new()));
        }
        assert!(store.get(&name(0)).is_some());
        assert_eq!(store.insert(name(3), &blob, None), Some(vec![name(1)]));
        assert!(store.get(&name(1)).is_none() && store.get(&name(0)).is_some());
        assert_eq!(store.bytes(), 30);
        assert_eq!(store.insert(name(4), &Arc::new(vec![0; 31]), None), None);
        assert!(store.get(&name(4)).is_none());
        assert_eq!(store.recent().next(), Some(name(0)));
        assert_eq!(store.insert(name(0), &blob, None), None);
        assert_eq!(store.bytes(), 30);
        assert_eq!(store.tree(&name(0)), Some(tree_of(&blob)));
        assert_eq!((store.tree(&name(1)), store.length(&name(0))), (None, Some(10)));
    }
}
