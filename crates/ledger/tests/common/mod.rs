//! Logs in memory, and the definition of RFC 6962 to hold them against.

#![allow(dead_code, reason = "each test program uses a part of it")]

use potluck_ledger::{
    Appender, Checkpoint, KeyKind, LogFile, Note, Policy, SignedCheckpoint, SignerKey, TreeHash, TreeHead,
};
use std::collections::BTreeMap;

pub(crate) const ORIGIN: &str = "example.com/log";

/// A log with all the files that it ever wrote.
#[derive(Default, Clone)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) files: BTreeMap<LogFile, Vec<u8>>,
    pub(crate) appender: Appender,
    pub(crate) head: Option<TreeHead>,
}

impl Log {
    pub(crate) fn of(entries: Vec<Vec<u8>>) -> Self {
        let mut log = Self::default();
        log.append(entries);
        log
    }

    pub(crate) fn sized(size: usize) -> Self {
        Self::of((0..size).map(entry).collect())
    }

    pub(crate) fn append(&mut self, entries: Vec<Vec<u8>>) -> TreeHead {
        let appended = self.appender.append(&entries).unwrap();
        for (file, bytes) in appended.files {
            assert!(self.files.insert(file, bytes).is_none(), "{file} was written twice");
        }
        self.entries.extend(entries);
        self.head = Some(appended.head);
        appended.head
    }

    pub(crate) fn head(&self) -> TreeHead {
        self.appender.head()
    }

    pub(crate) fn note(&self) -> Note {
        signed(self.head())
    }
}

/// Entries of different lengths, the empty one among them.
pub(crate) fn entry(index: usize) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.resize(index * 7 % 40, index as u8);
    bytes
}

pub(crate) fn log_key() -> SignerKey {
    SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[1; 32]).unwrap()
}

pub(crate) fn witness_key(number: u8) -> SignerKey {
    SignerKey::from_seed(&format!("example.com/w{number}"), KeyKind::CosignatureV1, &[10 + number; 32])
        .unwrap()
}

pub(crate) fn policy(witnesses: u8, threshold: usize) -> Policy {
    let keys = (0..witnesses).map(|n| witness_key(n).verifier().clone()).collect();
    Policy::new(ORIGIN, log_key().verifier().clone(), keys, threshold).unwrap()
}

pub(crate) fn signed(head: TreeHead) -> Note {
    let mut note = Checkpoint::new(ORIGIN, head).unwrap().to_note();
    note.sign(&log_key()).unwrap();
    note
}

pub(crate) fn open(note: &Note) -> SignedCheckpoint {
    SignedCheckpoint::open(note.to_string().as_bytes(), ORIGIN, log_key().verifier()).unwrap()
}

/// The root by its definition: slow, and with nothing in common with the crate's code but the hashes of nodes.
pub(crate) fn naive_root(entries: &[Vec<u8>]) -> TreeHash {
    match entries {
        [] => TreeHash::EMPTY,
        [entry] => TreeHash::leaf(entry),
        _ => {
            let (left, right) = entries.split_at(entries.len().next_power_of_two() / 2);
            TreeHash::node(&naive_root(left), &naive_root(right))
        }
    }
}
