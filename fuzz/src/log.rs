//! The public log: notes, checkpoints, receipts, evidence of forks, what witnesses are asked, files, and entries.

use potluck_governance::{Entry, Statement};
use potluck_ledger::{AddCheckpoint, Bundle, Checkpoint, ForkEvidence, LogFile, Note, Receipt, Tile};

/// Texts that have one form: what is read is written the same way.
macro_rules! canonical {
    ($read:expr, $bytes:expr) => {{
        let Ok(read) = $read else { return false };
        assert_eq!(read.to_string().as_bytes(), $bytes);
        true
    }};
}

pub(crate) fn note(bytes: &[u8]) -> bool {
    canonical!(Note::parse(bytes), bytes)
}

pub(crate) fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(checkpoint) = text.parse::<Checkpoint>() else { return false };
    assert_eq!(checkpoint.to_note().text(), text);
    true
}

pub(crate) fn receipt(bytes: &[u8]) -> bool {
    canonical!(Receipt::parse(bytes), bytes)
}

pub(crate) fn fork(bytes: &[u8]) -> bool {
    canonical!(ForkEvidence::parse(bytes), bytes)
}

pub(crate) fn witness_request(bytes: &[u8]) -> bool {
    canonical!(AddCheckpoint::parse(bytes), bytes)
}

/// The first byte is the tile's width less one.
pub(crate) fn tile(bytes: &[u8]) -> bool {
    let Some((width, bytes)) = bytes.split_first() else { return false };
    let tile = Tile::new(0, 0, u64::from(*width) + 1).expect("a width from 1 to 256");
    let Ok(hashes) = tile.hashes(bytes) else { return false };
    assert_eq!(hashes.len(), usize::from(tile.width()));
    true
}

/// The first byte is the bundle's width less one.
pub(crate) fn bundle(bytes: &[u8]) -> bool {
    let Some((width, bytes)) = bytes.split_first() else { return false };
    let bundle = Bundle::new(0, u64::from(*width) + 1).expect("a width from 1 to 256");
    let Ok(entries) = bundle.entries(bytes) else { return false };
    assert_eq!(entries.len(), usize::from(bundle.width()));
    assert_eq!(entries.iter().map(|entry| entry.len() + 2).sum::<usize>(), bytes.len());
    true
}

/// A path below `/log`.
pub(crate) fn path(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    canonical!(text.parse::<LogFile>(), bytes)
}

pub(crate) fn entry(bytes: &[u8]) -> bool {
    let Ok(entry) = Entry::decode(bytes) else { return false };
    assert_eq!(entry.encode().expect("what was read can be written"), bytes);
    true
}

pub(crate) fn statement(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(statement) = Statement::parse(text) else { return false };
    assert_eq!(statement.text().expect("what was read can be written"), text);
    true
}
