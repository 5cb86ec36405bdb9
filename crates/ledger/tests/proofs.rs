//! Every proof verifies; no other one does.

#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod common;

use common::{Log, naive_root};
use potluck_ledger::{
    LogFile, MAX_TREE_SIZE, ProofError, ProveError, TreeHash, TreeHead, consistency_tiles, inclusion_tiles,
    prove_consistency, prove_inclusion, root_at, root_tiles, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;
use proptest::sample::Index;
use std::cell::RefCell;
use std::collections::BTreeMap;

const MOST: usize = 600;

/// One log that grew by single entries, so that it has the files of every size; and its heads.
fn grown() -> (Log, Vec<TreeHead>) {
    let mut log = Log::default();
    let mut heads = vec![TreeHead::EMPTY];
    for index in 0..MOST {
        heads.push(log.append(vec![common::entry(index)]));
    }
    (log, heads)
}

fn flipped(hashes: &[TreeHash], at: usize, bit: u8) -> Vec<TreeHash> {
    let mut hashes = hashes.to_vec();
    hashes[at / 32].0[at % 32] ^= 1 << bit;
    hashes
}

#[test]
fn every_root_is_the_one_of_the_definition() {
    let (log, heads) = grown();
    for (size, head) in heads.iter().enumerate() {
        assert_eq!(head.root, naive_root(&log.entries[..size]), "size {size}");
    }
}

#[test]
fn every_inclusion_proof_verifies_and_fits_no_other_index() {
    let (mut log, heads) = grown();
    for head in &heads {
        for index in 0..head.size {
            let made = prove_inclusion(index, head, &mut log.files).unwrap();
            assert_eq!(made.leaf, TreeHash::leaf(&log.entries[index as usize]));
            verify_inclusion(index, &made.leaf, head, &made.proof).unwrap();
            for other in [index ^ 1, index + 1, 0, head.size - 1, head.size] {
                if other != index {
                    verify_inclusion(other, &made.leaf, head, &made.proof).unwrap_err();
                }
            }
        }
        prove_inclusion(head.size, head, &mut log.files).unwrap_err();
    }
}

#[test]
fn every_consistency_proof_verifies_and_fits_no_other_size() {
    let (mut log, heads) = grown();
    for new in &heads {
        for old in &heads[..=new.size as usize] {
            let proof = prove_consistency(old, new, &mut log.files).unwrap();
            verify_consistency(old, new, &proof).unwrap();
            let mut longer = proof.clone();
            longer.push(new.root);
            verify_consistency(old, new, &longer).unwrap_err();
            if !proof.is_empty() {
                verify_consistency(old, new, &proof[1..]).unwrap_err();
                verify_consistency(old, new, &proof[..proof.len() - 1]).unwrap_err();
                let other = TreeHead { size: old.size - 1, root: old.root };
                verify_consistency(&other, new, &proof).unwrap_err();
            }
        }
    }
}

#[test]
fn sizes_that_no_log_has_are_refused() {
    let root = TreeHash::leaf(b"");
    let huge = TreeHead { size: MAX_TREE_SIZE + 1, root };
    let wrong = ProofError::Size { size: huge.size };
    assert_eq!(verify_inclusion(0, &root, &huge, &[]), Err(wrong));
    assert_eq!(verify_consistency(&TreeHead::EMPTY, &huge, &[]), Err(wrong));
    assert_eq!(inclusion_tiles(0, u64::MAX), Err(ProofError::Size { size: u64::MAX }));
    let most = TreeHead { size: MAX_TREE_SIZE, root };
    verify_consistency(&TreeHead { size: MAX_TREE_SIZE - 1, root }, &most, &[root; 64]).unwrap_err();
    verify_inclusion(MAX_TREE_SIZE - 1, &root, &most, &[root; 63]).unwrap_err();
    assert!(inclusion_tiles(MAX_TREE_SIZE - 1, MAX_TREE_SIZE).unwrap().len() <= 16);
    assert!(consistency_tiles(MAX_TREE_SIZE - 1, MAX_TREE_SIZE).unwrap().len() <= 16);
    assert_eq!(
        verify_consistency(&most, &TreeHead { size: 1, root }, &[]),
        Err(ProofError::Order { old: MAX_TREE_SIZE, new: 1 })
    );
    verify_consistency(&TreeHead { size: 0, root }, &most, &[]).unwrap_err();
}

#[test]
fn the_tiles_listed_are_the_tiles_read_and_suffice() {
    let (log, heads) = grown();
    let pairs = [(1, 600), (255, 257), (256, 512), (300, 600), (511, 600), (599, 600), (0, 600), (600, 600)];
    for (old, new) in pairs {
        let read = RefCell::new(Vec::new());
        let mut reader = |file: LogFile| {
            read.borrow_mut().push(file);
            Ok(log.files[&file].clone())
        };
        let listed =
            |tiles: Vec<potluck_ledger::Tile>| tiles.into_iter().map(LogFile::from).collect::<Vec<_>>();
        prove_consistency(&heads[old], &heads[new], &mut reader).unwrap();
        assert_eq!(read.take(), listed(consistency_tiles(old as u64, new as u64).unwrap()));
        assert_eq!(root_at(old as u64, &heads[new], &mut reader).unwrap().0, heads[old]);
        assert_eq!(read.take(), listed(root_tiles(old as u64, new as u64).unwrap()));
        if old < new {
            prove_inclusion(old as u64, &heads[new], &mut reader).unwrap();
            assert_eq!(read.take(), listed(inclusion_tiles(old as u64, new as u64).unwrap()));
        }
    }
}

#[test]
fn a_full_tile_stands_in_for_a_partial_one() {
    let (log, heads) = grown();
    let mut full: BTreeMap<LogFile, Vec<u8>> = BTreeMap::new();
    for (file, bytes) in &log.files {
        let path = file.to_string();
        full.insert(path.split(".p/").next().unwrap().parse().unwrap(), bytes.clone());
    }
    let mut reader = |file: LogFile| {
        let path = file.to_string();
        Ok(full[&path.split(".p/").next().unwrap().parse().unwrap()].clone())
    };
    prove_inclusion(17, &heads[200], &mut reader).unwrap();
    prove_consistency(&heads[100], &heads[300], &mut reader).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_changed_inclusion_proof_verifies(size in 1..MOST, index: Index, at: Index, bit in 0..8_u8) {
        let mut log = Log::sized(size);
        let head = log.head();
        let index = index.index(size) as u64;
        let made = prove_inclusion(index, &head, &mut log.files).unwrap();
        if !made.proof.is_empty() {
            let proof = flipped(&made.proof, at.index(made.proof.len() * 32), bit);
            prop_assert!(verify_inclusion(index, &made.leaf, &head, &proof).is_err(), "a changed proof");
        }
        let leaf = flipped(&[made.leaf], at.index(32), bit)[0];
        prop_assert!(verify_inclusion(index, &leaf, &head, &made.proof).is_err(), "a changed entry");
        let root = flipped(&[head.root], at.index(32), bit)[0];
        let changed = TreeHead { root, ..head };
        prop_assert!(verify_inclusion(index, &made.leaf, &changed, &made.proof).is_err(), "a changed root");
    }

    #[test]
    fn no_changed_consistency_proof_verifies(new in 2..MOST, old: Index, at: Index, bit in 0..8_u8) {
        let mut log = Log::sized(new);
        let head = log.head();
        let (old, proof) = root_at(1 + old.index(new - 1) as u64, &head, &mut log.files).unwrap();
        prop_assert!(!proof.is_empty());
        let changed = flipped(&proof, at.index(proof.len() * 32), bit);
        prop_assert!(verify_consistency(&old, &head, &changed).is_err(), "a changed proof");
        let root = flipped(&[head.root], at.index(32), bit)[0];
        prop_assert!(verify_consistency(&old, &TreeHead { root, ..head }, &proof).is_err(), "a changed root");
        let root = flipped(&[old.root], at.index(32), bit)[0];
        prop_assert!(verify_consistency(&TreeHead { root, ..old }, &head, &proof).is_err(), "a changed old root");
    }

    #[test]
    fn a_changed_tile_makes_no_proof(size in 2..MOST, index: Index, which: Index, at: Index, bit in 0..8_u8) {
        let mut log = Log::sized(size);
        let head = log.head();
        let index = index.index(size) as u64;
        let tiles = inclusion_tiles(index, head.size).unwrap();
        let tile = tiles[which.index(tiles.len())];
        let bytes = log.files.get_mut(&tile.into()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // Where the changed hash is not part of the proof, the proof is right all the same.
        match prove_inclusion(index, &head, &mut log.files) {
            Ok(made) => prop_assert_eq!(made.leaf, TreeHash::leaf(&log.entries[index as usize])),
            Err(error) => prop_assert!(matches!(error, ProveError::Proof(ProofError::Root { .. })), "{error}"),
        }
    }

    #[test]
    fn arbitrary_proofs_do_not_panic(
        index: u64, old: u64, new: u64, hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        let proof: Vec<TreeHash> = hashes.into_iter().map(TreeHash).collect();
        let head = |size| TreeHead { size, root: TreeHash::EMPTY };
        let inclusion = verify_inclusion(index, &TreeHash::EMPTY, &head(new), &proof);
        prop_assert!(inclusion.is_err());
        let consistency = verify_consistency(&head(old), &head(new), &proof);
        prop_assert!(consistency.is_err() || old == 0 || old == new);
    }
}
