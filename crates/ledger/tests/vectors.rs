//! Known answers of others, and golden files of the formats that people keep.

#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod common;

use common::{Log, log_key, open, policy, signed, witness_key};
use potluck_ledger::{
    AddCheckpoint, Checkpoint, ForkEvidence, KeyError, KeyKind, Note, NoteError, Receipt, SignerKey,
    TreeHash, TreeHead, VerifierKey, prove_consistency, prove_inclusion, verify_consistency,
    verify_inclusion,
};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::PathBuf;

const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn golden(name: &str, made: &str) {
    if std::env::var_os("POTLUCK_BLESS").is_some() {
        std::fs::write(path(name), made).unwrap();
    }
    assert_eq!(made, read(name), "{name} changed");
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = if text == "-" { "" } else { text };
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn hash(text: &str) -> TreeHash {
    TreeHash(unhex(text).try_into().unwrap())
}

#[test]
fn roots_and_proofs_are_those_of_certificate_transparency() {
    let text = read("rfc6962.txt");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line[0] == kind).collect::<Vec<_>>();
    let leaves: Vec<Vec<u8>> = of("leaf").iter().map(|line| unhex(line[1])).collect();
    let roots: Vec<TreeHash> = of("root").iter().map(|line| hash(line[2])).collect();
    for (size, root) in roots.iter().enumerate() {
        let log = Log::of(leaves[..size].to_vec());
        assert_eq!(log.head().root, *root, "size {size}");
        assert_eq!(format!("{root:x}"), of("root")[size][2]);
    }
    let head = |size: u64| TreeHead { size, root: roots[size as usize] };
    for line in of("inclusion") {
        let (index, size): (u64, u64) = (line[1].parse().unwrap(), line[2].parse().unwrap());
        let proof: Vec<TreeHash> = line[3..].iter().map(|text| hash(text)).collect();
        let leaf = TreeHash::leaf(&leaves[index as usize]);
        verify_inclusion(index, &leaf, &head(size), &proof).unwrap();
        let mut log = Log::of(leaves[..size as usize].to_vec());
        assert_eq!(prove_inclusion(index, &head(size), &mut log.files).unwrap().proof, proof);
    }
    for line in of("consistency") {
        let (old, new): (u64, u64) = (line[1].parse().unwrap(), line[2].parse().unwrap());
        let proof: Vec<TreeHash> = line[3..].iter().map(|text| hash(text)).collect();
        verify_consistency(&head(old), &head(new), &proof).unwrap();
        let mut log = Log::of(leaves[..new as usize].to_vec());
        assert_eq!(prove_consistency(&head(old), &head(new), &mut log.files).unwrap(), proof);
    }
    assert_eq!(of("inclusion").len() + of("consistency").len(), 5);
}

#[test]
fn notes_of_go_verify_and_our_signature_is_the_same() {
    let text = read("go.note");
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.to_string(), text);
    let (peter, enoch): (VerifierKey, VerifierKey) = (PETER.parse().unwrap(), ENOCH.parse().unwrap());
    let both = note.verify(&[&peter, &enoch]).unwrap();
    assert_eq!(both.iter().map(|signed| signed.key).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(note.verify(&[&enoch]).unwrap().len(), 1, "a signature of an unknown key is ignored");

    let secret = SignerKey::parse(PETER_SECRET).unwrap();
    assert_eq!(secret.secret_text(), PETER_SECRET);
    assert_eq!(secret.verifier().to_string(), PETER);
    let mut again = Note::new(note.text()).unwrap();
    again.sign(&secret).unwrap();
    again.attach_lines(&note.signatures()[1].to_string()).unwrap();
    assert_eq!(again.to_string(), text);
    assert!(!format!("{secret:?}").contains("AYEKF"), "a secret must not show");
}

#[test]
fn the_note_of_the_specification_verifies() {
    let text = read("c2sp.note");
    let key: VerifierKey =
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k".parse().unwrap();
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.verify(&[&key]).unwrap().len(), 1);
    let other = Note::parse(text.replace("example message", "exemple message").as_bytes()).unwrap();
    assert!(matches!(other.verify(&[&key]), Err(NoteError::BadSignature { .. })));
}

#[test]
fn a_checkpoint_cosigned_by_public_witnesses_verifies() {
    let text = read("cosigned.checkpoint");
    let log: VerifierKey =
        "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
            .parse()
            .unwrap();
    let witnesses: Vec<VerifierKey> = [
        "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
        "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
        "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ]
    .map(|key| key.parse().unwrap())
    .to_vec();
    let policy = potluck_ledger::Policy::new(log.name(), log.clone(), witnesses, 4).unwrap();
    let verified = policy.verify(text.as_bytes()).unwrap();
    assert_eq!(verified.checkpoint.head().size, 1_432_088_532);
    assert_eq!(verified.cosigners.len(), 4);
    assert!(verified.cosigners.iter().all(|cosigner| cosigner.timestamp_s == 0x6a12_2120));
    policy.verify(text.replace("1432088532", "1432088533").as_bytes()).unwrap_err();
}

#[test]
fn every_mangled_key_is_refused() {
    for at in 0..PETER.len() {
        let mut bytes = PETER.as_bytes().to_vec();
        bytes[at] = bytes[at].wrapping_add(1);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        text.parse::<VerifierKey>().unwrap_err();
        PETER[..at].parse::<VerifierKey>().unwrap_err();
    }
    for at in 0..PETER_SECRET.len() {
        let mut bytes = PETER_SECRET.as_bytes().to_vec();
        bytes[at] = bytes[at].wrapping_add(1);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        SignerKey::parse(&text).unwrap_err();
        SignerKey::parse(&PETER_SECRET[..at]).unwrap_err();
    }
    // The neutral element and the point of order two; and second encodings, as y + p, of points that have one.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut order_2 = [0xff; 32];
    (order_2[0], order_2[31]) = (0xec, 0x7f);
    for key in [neutral, order_2] {
        assert_eq!(VerifierKey::new("name", KeyKind::Ed25519, &key), Err(KeyError::Point));
    }
    let mut second_encodings = 0;
    for y in 2..19 {
        let (mut once, mut twice) = ([0; 32], [0xff; 32]);
        once[0] = y;
        (twice[0], twice[31]) = (0xed + y, 0x7f);
        if VerifierKey::new("name", KeyKind::Ed25519, &once).is_ok() {
            second_encodings += 1;
            assert_eq!(VerifierKey::new("name", KeyKind::Ed25519, &twice), Err(KeyError::Point));
        }
    }
    assert!(second_encodings > 0);
    for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb"] {
        assert_eq!(SignerKey::from_seed(name, KeyKind::Ed25519, &[1; 32]).map(|_| ()), Err(KeyError::Name));
    }
}

#[test]
fn the_files_of_a_log_are_golden() {
    let log = Log::sized(70_000);
    let mut text = format!("root {:x}\n", log.head().root);
    for (file, bytes) in &log.files {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        writeln!(text, "{file} {:x}", TreeHash(digest)).unwrap();
    }
    // What the specification says a tree of this size consists of.
    for (start, count) in
        [("tile/0/", 274), ("tile/1/", 2), ("tile/2/", 1), ("tile/3/", 0), ("tile/entries/", 274)]
    {
        assert_eq!(text.lines().filter(|line| line.starts_with(start)).count(), count, "{start}");
    }
    for partial in ["tile/0/273.p/112 ", "tile/1/001.p/17 ", "tile/2/000.p/1 ", "tile/entries/273.p/112 "] {
        assert!(text.contains(partial), "{partial}");
    }
    golden("files.txt", &text);
}

#[test]
fn the_text_formats_are_golden() {
    let mut log = Log::sized(300);
    let old = log.head();
    let mut other = Log::sized(300);
    log.append(vec![b"one".to_vec(), b"two".to_vec()]);
    let mut note = log.note();
    note.cosign(&witness_key(0), 1_700_000_000).unwrap();
    note.cosign(&witness_key(1), 1_700_000_001).unwrap();
    let receipt = Receipt::issue(b"one".to_vec(), 300, note.clone(), &mut log.files).unwrap();
    golden("receipt.tlog-proof", &receipt.to_string());
    let read_again = Receipt::parse(read("receipt.tlog-proof").as_bytes()).unwrap();
    assert_eq!(read_again, receipt);
    assert_eq!(read_again.verify(&policy(2, 2)).unwrap().cosigners.len(), 2);

    let proof = prove_consistency(&old, &log.head(), &mut log.files).unwrap();
    let request = AddCheckpoint { old_size: old.size, proof, note };
    golden("add-checkpoint.txt", &request.to_string());
    assert_eq!(AddCheckpoint::parse(read("add-checkpoint.txt").as_bytes()).unwrap(), request);

    other.append(vec![b"one".to_vec(), b"TWO".to_vec()]);
    let same = ForkEvidence::same_size(&open(&log.note()), &open(&other.note())).unwrap();
    golden("fork-same-size.txt", &same.to_string());
    other.append(vec![b"three".to_vec()]);
    let prefix = ForkEvidence::from_tiles(&open(&log.note()), &open(&other.note()), &mut other.files)
        .unwrap()
        .unwrap();
    golden("fork-prefix.txt", &prefix.to_string());
    for (name, evidence) in [("fork-same-size.txt", same), ("fork-prefix.txt", prefix)] {
        let parsed = ForkEvidence::parse(read(name).as_bytes()).unwrap();
        assert_eq!(parsed, evidence);
        parsed.verify(common::ORIGIN, log_key().verifier()).unwrap();
    }
}

#[test]
fn checkpoints_with_extensions_keep_them() {
    let note = signed(TreeHead::EMPTY);
    let text = format!("{}extension one\nanother\n", note.text());
    let checkpoint: Checkpoint = text.parse().unwrap();
    assert_eq!(checkpoint.extensions(), ["extension one", "another"]);
    let refused = format!("{text}a\0b\n").parse::<Checkpoint>();
    assert_eq!(refused, Err(potluck_ledger::CheckpointError::Line { line: 6 }), "no note could carry it");
    assert_eq!(checkpoint.to_string(), text);
    for wrong in [
        note.text().replace("\n0\n", "\n00\n"),
        note.text().replace("\n0\n", "\n+0\n"),
        note.text().replace("\n0\n", "\n1\n").replace('=', ""),
        note.text().replace("47DEQ", "57DEQ"),
        note.text().replace("\n0\n", "\n9223372036854775808\n"),
        note.text().replace(common::ORIGIN, ""),
        format!("{text}\n"),
        format!("{text}x"),
    ] {
        wrong.parse::<Checkpoint>().unwrap_err();
    }
}
