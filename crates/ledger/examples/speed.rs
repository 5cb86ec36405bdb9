//! What the log costs: appending, proving, verifying, and auditing a log on disk. One thread.
//!
//! `cargo run --release -p potluck-ledger --example speed`

use potluck_ledger::{
    Appended, Appender, Checkpoint, KeyKind, LogFile, Policy, Receipt, SignerKey, TreeHead, audit,
    prove_consistency, prove_inclusion, root_at,
};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const ENTRIES: usize = 1_000_000;
const BATCH: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    append_in_memory()?;
    let folder = tempfile::tempdir()?;
    let head = append_to_disk(folder.path())?;
    let mut reader = |file: LogFile| fs::read(folder.path().join(file.to_string()));

    let start = Instant::now();
    let mut largest = 0;
    let audited = audit(&head, &mut reader, &mut |_, entry| largest = largest.max(entry.len()))?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "audit from disk (cached): {} entries of {largest} bytes, {} files, {seconds:.2} s",
        audited.entries,
        audited.tiles + audited.bundles
    );

    let start = Instant::now();
    for index in 0..1000 {
        black_box(prove_inclusion(index * 997, &head, &mut reader)?);
    }
    println!("inclusion proof from disk: {:.1} us", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    for index in 0..1000 {
        let (old, _) = root_at(1 + index * 997, &head, &mut reader)?;
        black_box(prove_consistency(&old, &head, &mut reader)?);
    }
    println!("root and consistency proof from disk: {:.1} us", start.elapsed().as_secs_f64() * 1e3);
    receipts(&head, &mut reader)
}

fn append_in_memory() -> Result<(), Box<dyn std::error::Error>> {
    let batch: Vec<[u8; 200]> = (0..BATCH).map(|i| [i as u8; 200]).collect();
    let mut appender = Appender::new();
    let start = Instant::now();
    for _ in 0..ENTRIES / BATCH {
        black_box(appender.append(&batch)?);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("append: {:.0} entries of 200 bytes a second, in batches of {BATCH}", ENTRIES as f64 / seconds);
    Ok(())
}

fn append_to_disk(folder: &Path) -> Result<TreeHead, Box<dyn std::error::Error>> {
    let mut appender = Appender::new();
    let start = Instant::now();
    for batch in 0..ENTRIES / BATCH {
        let entries: Vec<[u8; 350]> = (0..BATCH).map(|i| [(batch ^ i) as u8; 350]).collect();
        let Appended { files, .. } = appender.append(&entries)?;
        for (file, bytes) in files {
            let path = folder.join(file.to_string());
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(path, bytes)?;
        }
    }
    println!("append to disk: {ENTRIES} entries of 350 bytes, {:.2} s", start.elapsed().as_secs_f64());
    Ok(appender.head())
}

fn receipts(
    head: &TreeHead,
    reader: &mut impl FnMut(LogFile) -> std::io::Result<Vec<u8>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let log = SignerKey::from_seed("example.com/log", KeyKind::Ed25519, &[1; 32])?;
    let witness = SignerKey::from_seed("example.com/witness", KeyKind::CosignatureV1, &[2; 32])?;
    let start = Instant::now();
    for _ in 0..1000 {
        let mut note = Checkpoint::new("example.com/log", *head)?.to_note();
        note.sign(&log)?;
        black_box(note);
    }
    println!("sign a checkpoint, and check it: {:.1} us", start.elapsed().as_secs_f64() * 1e3);

    let mut note = Checkpoint::new("example.com/log", *head)?.to_note();
    note.sign(&log)?;
    note.cosign(&witness, 1_700_000_000)?;
    let receipt = Receipt::issue(vec![0; 350], 0, note, reader)?.to_string();
    let policy = Policy::new("example.com/log", log.verifier().clone(), vec![witness.verifier().clone()], 1)?;
    let start = Instant::now();
    for _ in 0..1000 {
        black_box(Receipt::parse(receipt.as_bytes())?.verify(&policy)?);
    }
    println!(
        "verify a receipt of {} bytes with two signatures: {:.1} us",
        receipt.len(),
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
