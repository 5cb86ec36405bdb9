//! The public log: notes, checkpoints, receipts, evidence of forks, what witnesses are asked, files, and entries.

use potluck_governance::{Entry, Statement};
use potluck_ledger::{AddCheckpoint, Bundle, Checkpoint, ForkEvidence, LogFile, Note, Receipt, Tile};

/// Texts that have one form: what is read is written the same way.
macro_rules! canonical {
    ($read:expr, $bytes:expr) => {
        if let Ok(read) = $read {
            assert_eq!(read.to_string().as_bytes(), $bytes);
        }
    };
}

pub(crate) fn note(bytes: &[u8]) {
    canonical!(Note::parse(bytes), bytes);
}

pub(crate) fn checkpoint(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(checkpoint) = text.parse::<Checkpoint>() {
        assert_eq!(checkpoint.to_note().text(), text);
    }
}

pub(crate) fn receipt(bytes: &[u8]) {
    canonical!(Receipt::parse(bytes), bytes);
}

pub(crate) fn fork(bytes: &[u8]) {
    canonical!(ForkEvidence::parse(bytes), bytes);
}

pub(crate) fn witness_request(bytes: &[u8]) {
    canonical!(AddCheckpoint::parse(bytes), bytes);
}

/// The first byte is the tile's width less one.
pub(crate) fn tile(bytes: &[u8]) {
    let Some((width, bytes)) = bytes.split_first() else { return };
    let tile = Tile::new(0, 0, u64::from(*width) + 1).expect("a width from 1 to 256");
    if let Ok(hashes) = tile.hashes(bytes) {
        assert_eq!(hashes.len(), usize::from(tile.width()));
    }
}

/// The first byte is the bundle's width less one.
pub(crate) fn bundle(bytes: &[u8]) {
    let Some((width, bytes)) = bytes.split_first() else { return };
    let bundle = Bundle::new(0, u64::from(*width) + 1).expect("a width from 1 to 256");
    if let Ok(entries) = bundle.entries(bytes) {
        assert_eq!(entries.len(), usize::from(bundle.width()));
        assert_eq!(entries.iter().map(|entry| entry.len() + 2).sum::<usize>(), bytes.len());
    }
}

/// A path below `/log`.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    canonical!(text.parse::<LogFile>(), bytes);
}

pub(crate) fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode().expect("what was read can be written"), bytes);
    }
}

pub(crate) fn statement(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(statement) = Statement::parse(text) {
        assert_eq!(statement.text().expect("what was read can be written"), text);
    }
}
