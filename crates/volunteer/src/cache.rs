//! Inputs by hash, the least recently used leaving first, within a limit of bytes.

use potluck_types::BlobHash;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Cache {
    limit: u64,
    bytes: u64,
    clock: u64,
    blobs: BTreeMap<BlobHash, (u64, Arc<Vec<u8>>)>,
    by_age: BTreeMap<u64, BlobHash>,
}

impl Cache {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, clock: 0, blobs: BTreeMap::new(), by_age: BTreeMap::new() }
    }

    /// A blob, which becomes the most recent.
    pub(crate) fn get(&mut self, hash: &BlobHash) -> Option<Arc<Vec<u8>>> {
        let (age, blob) = self.blobs.get_mut(hash)?;
        self.by_age.remove(age);
        self.clock += 1;
        *age = self.clock;
        self.by_age.insert(*age, *hash);
        Some(Arc::clone(blob))
    }

    /// Keeps a blob; older ones leave. One that exceeds the whole limit is not kept.
    pub(crate) fn insert(&mut self, hash: BlobHash, blob: &Arc<Vec<u8>>) {
        if blob.len() as u64 > self.limit || self.get(&hash).is_some() {
            return;
        }
        self.bytes += blob.len() as u64;
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some((_, gone)) = self.blobs.remove(&oldest) {
                self.bytes -= gone.len() as u64;
            }
        }
        self.clock += 1;
        self.by_age.insert(self.clock, hash);
        self.blobs.insert(hash, (self.clock, Arc::clone(blob)));
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
        let mut cache = Cache::new(30);
        let name = |i: u8| BlobHash([i; 32]);
        let blob = Arc::new(vec![0; 10]);
        for i in 0..3 {
            cache.insert(name(i), &blob);
        }
        assert!(cache.get(&name(0)).is_some());
        cache.insert(name(3), &blob);
        assert!(cache.get(&name(1)).is_none() && cache.get(&name(0)).is_some());
        assert_eq!(cache.bytes(), 30);
        cache.insert(name(4), &Arc::new(vec![0; 31]));
        assert!(cache.get(&name(4)).is_none());
        assert_eq!(cache.recent().next(), Some(name(0)));
        cache.insert(name(0), &blob);
        assert_eq!(cache.bytes(), 30);
    }
}
