//! Blobs that were read of a bucket lately. Many volunteers fetch the same ones, in parts; each is fetched once.

use super::lock;
use potluck_types::BlobHash;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

/// Bytes that are kept: the blocks and the checkpoint of a run of tens of millions of parameters.
const MOST_BYTES: usize = 256 << 20;

/// The blobs; the one that came first leaves first.
#[derive(Debug)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
    most: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_hash: HashMap<BlobHash, bytes::Bytes>,
    order: VecDeque<BlobHash>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { kept: Mutex::default(), most: MOST_BYTES }
    }
}

impl Recent {
    /// A blob, if it is here.
    pub(super) fn get(&self, hash: &BlobHash) -> Option<bytes::Bytes> {
        lock(&self.kept).by_hash.get(hash).cloned()
    }

    /// Keeps a blob, and lets the oldest go. One that would leave room for no other is not kept.
    pub(super) fn keep(&self, hash: &BlobHash, bytes: &bytes::Bytes) {
        if bytes.len() > self.most / 2 {
            return;
        }
        let mut kept = lock(&self.kept);
        if kept.by_hash.insert(*hash, bytes.clone()).is_some() {
            return;
        }
        kept.bytes += bytes.len();
        kept.order.push_back(*hash);
        while kept.bytes > self.most
            && let Some(oldest) = kept.order.pop_front()
        {
            let gone = kept.by_hash.remove(&oldest).map_or(0, |bytes| bytes.len());
            kept.bytes -= gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_what_is_too_large_is_not_kept() {
        let recent = Recent { kept: Mutex::default(), most: 100 };
        let blobs = [40, 40, 40, 60].map(|length| bytes::Bytes::from(vec![length as u8; length]));
        let hashes: Vec<_> = (0..4).map(|name| BlobHash([name; 32])).collect();
        for (hash, bytes) in hashes.iter().zip(&blobs) {
            recent.keep(hash, bytes);
            recent.keep(hash, bytes);
        }
        let there: Vec<_> = hashes.iter().map(|hash| recent.get(hash).is_some()).collect();
        assert_eq!(there, [false, true, true, false]);
        assert_eq!(lock(&recent.kept).bytes, 80);
    }
}
