//! Files of the log: paths, appending, going on, and audits that name what is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod common;

use common::{Log, entry};
use potluck_ledger::{
    AppendError, Appender, AuditError, Bundle, LogFile, MAX_ENTRY_BYTES, MAX_TREE_SIZE, RestoreError, Tile,
    TileError, TreeHash, TreeHead, audit,
};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::io;

#[test]
fn paths_are_those_of_the_specification() {
    for (file, path) in [
        (Tile::new(0, 0, 256).unwrap().into(), "tile/0/000"),
        (Tile::new(0, 1067, 5).unwrap().into(), "tile/0/x001/067.p/5"),
        (Tile::new(3, 1_234_067, 256).unwrap().into(), "tile/3/x001/x234/067"),
        (Bundle::new(1067, 256).unwrap().into(), "tile/entries/x001/067"),
        (Bundle::new(1_000_000, 255).unwrap().into(), "tile/entries/x001/x000/000.p/255"),
        (Tile::new(0, MAX_TREE_SIZE / 256, 255).unwrap().into(), "tile/0/x036/x028/x797/x018/x963/967.p/255"),
    ] {
        let file: LogFile = file;
        assert_eq!(file.to_string(), path);
        assert_eq!(path.parse(), Ok(file));
    }
    for path in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/+0/000",
        "tile/8/000",
        "tile/63/000",
        "tile/256/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/../000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/-1",
        "tile/0/000.p/5/6",
        "tile/0/000.p",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0//000",
        "tile/entries/00a",
        "tile/entry/000",
        "tile/0/x036/x028/x797/x018/x963/967",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "tile/0/x036/x028/x797/x018/x963/968.p/1",
        "tile/7/001",
        "tile/0/\u{660}00",
    ] {
        assert_eq!(path.parse::<LogFile>(), Err(TileError::Path), "{path}");
    }
    Tile::new(0, 0, 0).unwrap_err();
    Tile::new(0, u64::MAX, 256).unwrap_err();
}

#[test]
fn entries_of_65_535_bytes_fit_and_longer_ones_do_not() {
    let mut appender = Appender::new();
    let most = vec![7; MAX_ENTRY_BYTES];
    let appended = appender.append(&[most.clone(), vec![]]).unwrap();
    let files: BTreeMap<_, _> = appended.files.into_iter().collect();
    let bundle = Bundle::new(0, 2).unwrap();
    assert_eq!(bundle.entries(&files[&bundle.into()]).unwrap(), [most.as_slice(), &[]]);
    let head = appender.head();
    let error = appender.append(&[vec![], vec![7; MAX_ENTRY_BYTES + 1]]).unwrap_err();
    assert_eq!(error, AppendError::TooLong { position: 1, bytes: 65_536 });
    assert_eq!(error.to_string(), "entry 1 of the batch has 65536 bytes; the largest entry has 65535");
    assert_eq!(appender.head(), head, "nothing of a refused batch is kept");
    assert!(appender.append::<&[u8]>(&[]).unwrap().files.is_empty());
}

#[test]
fn bundles_of_the_wrong_length_are_refused() {
    let bundle = Bundle::new(0, 2).unwrap();
    assert_eq!(bundle.entries(&[0, 1, 9, 0, 0]).unwrap(), [&[9_u8][..], &[]]);
    for (bytes, position) in [(&[][..], 0), (&[0, 1], 0), (&[0, 0, 0], 1), (&[0, 0, 0, 1], 1)] {
        assert_eq!(bundle.entries(bytes), Err(TileError::Truncated { position, width: 2 }));
    }
    assert_eq!(bundle.entries(&[0; 6]), Err(TileError::Trailing { bytes: 2 }));
    let tile = Tile::new(0, 0, 2).unwrap();
    assert_eq!(tile.hashes(&[0; 63]), Err(TileError::Length { bytes: 63, expected: 64 }));
}

#[test]
fn an_appender_goes_on_from_files_at_every_size() {
    let whole = Log::sized(800);
    let mut log = Log::default();
    for size in 0..800 {
        let mut restored = Appender::restore(&log.head(), &mut log.files).unwrap();
        assert_eq!(restored.head(), log.head());
        let appended = restored.append(&[entry(size)]).unwrap();
        log.append(vec![entry(size)]);
        assert_eq!(appended.head, log.head());
        for (file, bytes) in appended.files {
            assert_eq!(log.files[&file], bytes, "{file}");
        }
    }
    assert_eq!(log.head(), whole.head());
    for (file, bytes) in &whole.files {
        assert_eq!(&log.files[file], bytes, "{file} does not depend on the batches");
    }
}

#[test]
fn an_appender_does_not_go_on_from_broken_files() {
    let log = Log::sized(300);
    for file in ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"] {
        let file: LogFile = file.parse().unwrap();
        for at in 0..log.files[&file].len() {
            let mut files = log.files.clone();
            files.get_mut(&file).unwrap()[at] ^= 0x10;
            Appender::restore(&log.head(), &mut files).unwrap_err();
        }
        let mut files = log.files.clone();
        files.remove(&file);
        let error = Appender::restore(&log.head(), &mut files).unwrap_err();
        assert!(matches!(error, RestoreError::Read { file: named, .. } if named == file));
    }
    let huge = TreeHead { size: u64::MAX, ..log.head() };
    assert!(matches!(
        Appender::restore(&huge, &mut log.files.clone()),
        Err(RestoreError::Size { size: u64::MAX })
    ));
}

#[test]
fn an_audit_shows_every_entry_once_and_in_order() {
    for size in [0, 1, 2, 255, 256, 257, 511, 512, 700, 65_536, 66_000] {
        let mut log = Log::sized(size);
        let mut seen = 0;
        let audited = audit(&log.head(), &mut log.files, &mut |index, bytes| {
            assert_eq!((index, bytes), (seen, entry(seen as usize).as_slice()));
            seen += 1;
        })
        .unwrap();
        assert_eq!((seen, audited.entries), (size as u64, size as u64));
        assert_eq!(audited.tiles + audited.bundles, log.files.len() as u64, "each file is read once");
        assert_eq!(audited.entry_bytes, log.entries.iter().map(|entry| entry.len() as u64).sum::<u64>());
    }
}

/// Every byte of every file of a log with three levels' worth of structure, but few entries.
#[test]
fn an_audit_names_the_file_of_any_changed_byte() {
    let log = Log::sized(600);
    let mut files = log.files.clone();
    for (file, bytes) in &log.files {
        for (at, byte) in bytes.iter().enumerate() {
            files.get_mut(file).unwrap()[at] ^= 1 << (at % 8);
            let error = audit(&log.head(), &mut files, &mut |_, _| ()).unwrap_err();
            assert_eq!(error.file(), Some(*file), "byte {at} of {file}: {error}");
            files.get_mut(file).unwrap()[at] = *byte;
        }
        files.remove(file);
        let error = audit(&log.head(), &mut files, &mut |_, _| ()).unwrap_err();
        assert_eq!(error.file(), Some(*file), "without {file}: {error}");
        files.insert(*file, bytes.clone());
    }
}

#[test]
fn an_audit_names_the_entry() {
    let mut log = Log::sized(600);
    let file: LogFile = "tile/entries/001".parse().unwrap();
    let mut entries: Vec<Vec<u8>> = log.entries[256..512].to_vec();
    entries[100] = b"another".to_vec();
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| [(entry.len() as u16).to_be_bytes().as_slice(), entry].concat())
        .collect();
    log.files.insert(file, bytes);
    let mut seen = 0;
    let error = audit(&log.head(), &mut log.files, &mut |_, _| seen += 1).unwrap_err();
    assert!(matches!(error, AuditError::Entry { index: 356, .. }), "{error}");
    assert_eq!(seen, 356, "the entry itself is not shown");
    let other = TreeHead { root: TreeHash::leaf(b""), ..log.head() };
    assert!(matches!(audit(&other, &mut log.files, &mut |_, _| ()), Err(AuditError::Root { .. })));
    let mut failing = |_: LogFile| Err::<Vec<u8>, _>(io::Error::other("no disk"));
    assert!(matches!(audit(&log.head(), &mut failing, &mut |_, _| ()), Err(AuditError::Read { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn files_do_not_depend_on_batches(
        entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..600),
        cuts in proptest::collection::vec(any::<Index>(), 0..5),
    ) {
        let whole = Log::of(entries.clone());
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(entries.len())).collect();
        at.extend([0, entries.len()]);
        at.sort_unstable();
        let mut log = Log::default();
        for pair in at.windows(2) {
            log.append(entries[pair[0]..pair[1]].to_vec());
            audit(&log.head(), &mut log.files, &mut |_, _| ()).unwrap();
        }
        prop_assert_eq!(log.head(), whole.head());
        for (file, bytes) in &whole.files {
            prop_assert_eq!(&log.files[file], bytes);
        }
    }

    #[test]
    fn a_changed_byte_of_a_larger_log_is_found(which: Index, at: Index, bit in 0..8_u8) {
        let log = Log::sized(66_000);
        let mut files = log.files.clone();
        let file = *log.files.keys().nth(which.index(log.files.len())).unwrap();
        let bytes = files.get_mut(&file).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let error = audit(&log.head(), &mut files, &mut |_, _| ()).unwrap_err();
        prop_assert_eq!(error.file(), Some(file));
    }

    #[test]
    fn paths_read_back(level in 0..8_u8, index: u64, width in 1..=256_u64, entries: bool) {
        let index = index.checked_shr(8 * u32::from(level) + 10).unwrap_or(0);
        let file: LogFile = if entries {
            Bundle::new(index, width).unwrap().into()
        } else {
            match Tile::new(level, index, width) {
                Ok(tile) => tile.into(),
                Err(_) => return Ok(()),
            }
        };
        prop_assert_eq!(file.to_string().parse::<LogFile>(), Ok(file));
    }

    #[test]
    fn arbitrary_paths_do_not_panic(path in "[tile/entris0-9x.p]{0,70}|\\PC{0,40}") {
        if let Ok(file) = path.parse::<LogFile>() {
            prop_assert_eq!(file.to_string(), path);
        }
    }

    #[test]
    fn arbitrary_bundles_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), width in 1..=256_u64) {
        if let Ok(entries) = Bundle::new(0, width).unwrap().entries(&bytes) {
            prop_assert_eq!(entries.len() as u64, width);
            prop_assert_eq!(entries.iter().map(|entry| entry.len() + 2).sum::<usize>(), bytes.len());
        }
    }
}
