//! Every file of the corpora, and what comes of it when bytes of it are changed, lost and doubled: a short search without the
//! fuzzer's engine, the same each time. Regressions are files of the corpora.
//!
//! `POTLUCK_BLESS=1` writes the files that come from golden vectors anew.

use potluck_eval::items::{Item, Items};
use potluck_fuzz::ALL;
use potluck_model::tokenizer::to_json;
use potluck_train::data::{Characters, Tokenizer};
use potluck_train::gpt::{GptConfig, Sampling};
use std::fs;
use std::path::{Path, PathBuf};

/// Changed copies of each file.
const COPIES: u64 = 400;
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
fn each_decoder_has_a_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut programs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort();
    let mut names: Vec<_> = ALL.iter().map(|decoder| decoder.name.to_owned()).collect();
    names.sort();
    assert_eq!(programs, names);
}

/// Golden vectors of other crates, as files of the corpora: decoder, file's name, bytes.
fn golden() -> Vec<(&'static str, String, Vec<u8>)> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut seeds = Vec::new();
    let files = |folder: &str| -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(crates.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
    };
    for (name, hex) in files("proto/vectors/v1") {
        let of = if name.starts_with('c') { "peer_frame" } else { "frame" };
        seeds.push((of, name, bytes(&hex)));
    }
    for (name, text) in files("governance/vectors/v1") {
        let text = text.strip_suffix(b"\n").map_or(text.clone(), <[u8]>::to_vec);
        if name.starts_with("entry-") {
            let mut bundled = vec![0];
            bundled.extend((text.len() as u16).to_be_bytes());
            bundled.extend(&text);
            seeds.push(("bundle", name.clone(), bundled));
            seeds.push(("entry", name, text));
        } else if name.starts_with("statement-") {
            seeds.push(("statement", name, text));
        }
    }
    for (name, bytes) in files("ledger/vectors") {
        let of: &[_] = match name.as_str() {
            "add-checkpoint.txt" => &["witness_request"],
            "c2sp.note" | "go.note" | "cosigned.checkpoint" => &["note"],
            "fork-prefix.txt" | "fork-same-size.txt" => &["fork"],
            "receipt.tlog-proof" => &["receipt"],
            _ => &[],
        };
        seeds.extend(of.iter().map(|of| (*of, name.clone(), bytes.clone())));
        if name == "cosigned.checkpoint" {
            let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap() + 1;
            seeds.push(("checkpoint", name, bytes[..end].to_vec()));
        }
    }
    seeds.push(("tile", "two".to_owned(), [&[1][..], &[7; 64]].concat()));
    for path in ["checkpoint", "tile/0/000", "tile/1/x001/067.p/3", "tile/entries/x001/067.p/200"] {
        seeds.push(("log_path", path.replace('/', "-"), path.as_bytes().to_vec()));
    }
    for (codec, (name, parameters)) in
        [("f32-encoded", 4), ("f16-encoded", 2), ("int8-encoded", 1), ("int4-encoded", 1), ("topk-encoded", 1)]
            .into_iter()
            .enumerate()
    {
        let encoded = bytes(&fs::read(crates.join(format!("train/vectors/v1/{name}.hex"))).unwrap());
        // As many parameters as the bytes are of, where one can tell; the fuzzer finds the others.
        let count = (encoded.len() / parameters) as u16;
        let mut seed = vec![codec as u8];
        seed.extend(count.to_le_bytes());
        seed.extend(encoded);
        seeds.push(("update", name.to_owned(), seed));
    }
    let config = GptConfig::tiny(65);
    let sampling = Sampling { temperature: 0.8, top_k: 5, seed: [3; 32] };
    let items = vec![
        Item::Score { tokens: vec![1, 2, 3, 4], from: 1 },
        Item::greedy(vec![5, 6], 4),
        Item::Generate { prompt: vec![7], count: 2, sampling },
    ];
    seeds.push(("eval_items", "three".to_owned(), Items::new(items, &config).unwrap().encode()));
    let characters = Characters::of("The quick brown fox\n").unwrap();
    seeds.push(("tokenizer", "characters.json".to_owned(), to_json(&Tokenizer::Characters(characters))));
    seeds.push(("tokenizer", "bytes.json".to_owned(), to_json(&Tokenizer::Bytes)));
    let request = format!(
        r#"{{"name":"whale","model":{{"vocabulary":65,"context":64,"layers":3,"heads":4,"width":64,"bias":true}},"tokenizer":"{}"}}"#,
        "ab".repeat(32)
    );
    seeds.push(("run_request", "gpt.json".to_owned(), request.into_bytes()));
    seeds.push(("run_request", "named.json".to_owned(), br#"{"model":"digits"}"#.to_vec()));
    // A beginning only.
    seeds.push(("eval_card", "none.json".to_owned(), br#"{"version":1}"#.to_vec()));
    seeds
}

/// The first line of hexadecimal digits.
fn bytes(hex: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = hex.iter().filter_map(|digit| (*digit as char).to_digit(16).map(|digit| digit as u8)).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn golden_vectors_are_in_the_corpora() {
    let bless = std::env::var_os("POTLUCK_BLESS").is_some();
    for (name, file, bytes) in golden() {
        let path = corpus(name).join(format!("golden-{file}"));
        if bless {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).is_ok_and(|found| found == bytes), "{}: POTLUCK_BLESS=1 writes it anew", path.display());
    }
}
