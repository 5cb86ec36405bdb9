//! Every file of the corpora, and what comes of it when bytes of it are changed, lost and doubled: a short search without the
//! fuzzer's engine, the same each time. Regressions are files of the corpora.
//!
//! `POTLUCK_BLESS=1` writes the files that come from golden vectors anew.

mod golden;

use potluck_fuzz::ALL;
use std::fs;
use std::path::{Path, PathBuf};

/// Changed copies of each file.
const COPIES: u64 = 2000;
/// Golden files that are refused, as they should be.
const REFUSED: [(&str, &str); 10] = [
    ("block", "second"),
    ("eval_card", "none.json"),
    ("log_path", "checkpoint"),
    ("peers", "asks"),
    ("peers", "lies"),
    ("run_request", "named.json"),
    ("signal", "candidate-tabs"),
    ("turn", "binding"),
    ("turn", "stranger"),
    ("words", "none"),
];
/// Changes of a copy at most.
const MAX_CHANGES: u64 = 4;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// Numbers that look random, from a seed: splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() as u64 + 1) as usize;
        let byte = self.below(256) as u8;
        match (self.below(5), bytes.get_mut(at)) {
            (0, Some(found)) => *found = byte,
            (1, Some(found)) => *found ^= 1 << (byte % 8),
            (2, _) => bytes.truncate(at),
            (3, _) => bytes.insert(at, byte),
            _ => {
                let end = at + (self.below(16) as usize).min(bytes.len() - at);
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

#[test]
fn decoders_keep_their_word_on_corpora_and_near_them() {
    let mut read = 0;
    for decoder in ALL {
        let mut files: Vec<_> = fs::read_dir(corpus(decoder.name))
            .unwrap_or_else(|error| panic!("{}: {error}", decoder.name))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no corpus", decoder.name);
        let mut dice = Dice(0);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            (decoder.read)(&bytes);
            for _ in 0..COPIES {
                let mut changed = bytes.clone();
                for _ in 0..=dice.below(MAX_CHANGES) {
                    dice.change(&mut changed);
                }
                (decoder.read)(&changed);
                read += 1;
            }
        }
    }
    println!("{read} changed files were read");
}

#[test]
fn golden_files_are_taken() {
    let mut other = Vec::new();
    for (name, file, bytes) in golden::all() {
        let decoder = ALL.iter().find(|decoder| decoder.name == name).unwrap();
        if (decoder.read)(&bytes) == REFUSED.contains(&(name, &file)) {
            other.push(format!("{name}: {file}"));
        }
    }
    assert!(other.is_empty(), "taken or refused, other than expected: {other:?}");
}

#[test]
fn each_decoder_has_a_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/fuzz_targets");
    let mut programs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    let mut names: Vec<_> = ALL.iter().map(|decoder| decoder.name.to_owned()).collect();
    names.sort();
    assert_eq!(programs, names);
}

#[test]
fn golden_vectors_are_in_the_corpora() {
    let bless = std::env::var_os("POTLUCK_BLESS").is_some();
    for (name, file, bytes) in golden::all() {
        let path = corpus(name).join(format!("golden-{file}"));
        if bless {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(
            fs::read(&path).is_ok_and(|found| found == bytes),
            "{}: POTLUCK_BLESS=1 writes it anew",
            path.display()
        );
    }
}
