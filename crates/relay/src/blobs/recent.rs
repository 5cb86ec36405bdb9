//! Blobs that were read of a bucket lately. Many volunteers fetch the same ones, in parts; each is fetched once.

use super::lock;
use potluck_types::BlobHash;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// Bytes that are kept: the blocks and the checkpoint of a run of tens of millions of parameters.
const MOST_BYTES: usize = 256 << 20;

/// The blobs; the one that was asked for longest ago leaves first.
#[derive(Debug)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
    most: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_hash: HashMap<BlobHash, (u64, bytes::Bytes)>,
    /// By when they were asked for.
    order: BTreeMap<u64, BlobHash>,
    bytes: usize,
    next: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { kept: Mutex::default(), most: MOST_BYTES }
    }
}

impl Kept {
    /// Somebody asks for a blob.
    fn touch(&mut self, hash: &BlobHash) -> Option<&bytes::Bytes> {
        let (when, bytes) = self.by_hash.get_mut(hash)?;
        self.order.remove(when);
        (*when, self.next) = (self.next, self.next + 1);
        self.order.insert(*when, *hash);
        Some(bytes)
    }
}

impl Recent {
    /// A blob, if it is here.
    pub(super) fn get(&self, hash: &BlobHash) -> Option<bytes::Bytes> {
        lock(&self.kept).touch(hash).cloned()
    }

    /// Keeps a blob, and lets the oldest go. One that would leave room for no other is not kept.
    pub(super) fn keep(&self, hash: &BlobHash, bytes: &bytes::Bytes) {
        let mut kept = lock(&self.kept);
        if bytes.len() > self.most / 2 || kept.touch(hash).is_some() {
            return;
        }
        let when = kept.next;
        kept.next += 1;
        kept.bytes += bytes.len();
        kept.by_hash.insert(*hash, (when, bytes.clone()));
        kept.order.insert(when, *hash);
        while kept.bytes > self.most
            && let Some((_, oldest)) = kept.order.pop_first()
        {
            kept.bytes -= kept.by_hash.remove(&oldest).map_or(0, |(_, bytes)| bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_longest_goes_and_what_is_too_large_is_not_kept() {
        let recent = Recent { kept: Mutex::default(), most: 100 };
        let blobs = [40, 40, 60, 40].map(|length| bytes::Bytes::from(vec![length as u8; length]));
        let hashes: Vec<_> = (0..4).map(|name| BlobHash([name; 32])).collect();
        for (hash, bytes) in hashes.iter().zip(&blobs) {
            recent.keep(hash, bytes);
            recent.keep(hash, bytes);
            recent.get(&hashes[0]);
        }
        let there: Vec<_> = hashes.iter().map(|hash| recent.get(hash).is_some()).collect();
        assert_eq!(there, [true, false, false, true]);
        assert_eq!(lock(&recent.kept).bytes, 80);
    }
}
