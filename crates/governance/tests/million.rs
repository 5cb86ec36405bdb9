//! A million entries, mostly results, through a checker. Run with
//! `cargo test --release -p potluck-governance --test million -- --ignored --nocapture`; prints seconds and memory.

mod common;
use common::*;
use potluck_governance::*;
use std::time::Instant;

const ENTRIES: u64 = 1_000_000;

const VOLUNTEERS: u64 = 1000;

/// Resident memory of this process, in kB, where Linux tells it.
fn memory_kb(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|line| line.starts_with(field))?.split_whitespace().nth(1)?.parse().ok()
}

#[test]
#[ignore = "a measurement, for release builds"]
fn a_million_entries() {
    let mut world = World::new();
    world.start_run();
    world.credit(0..0);
    let (mut checker, mut reading, mut bytes) = (Checker::new(), std::time::Duration::ZERO, 0);
    for entry in world.log.clone() {
        checker.read(&entry);
    }
    let mut round = 0;
    let mut next = |i: u64| -> Entry {
        // Every tenth entry belongs to a round of four updates: commits, updates, aggregate.
        if !i.is_multiple_of(10) {
            let mut entry = result(0);
            entry.volunteer.0[..8].copy_from_slice(&(i % VOLUNTEERS).to_le_bytes());
            entry.result.0[..8].copy_from_slice(&i.to_le_bytes());
            return Entry::new(2_000_000 + i, entry);
        }
        let place = (i / 10) % 6;
        let body: Body = match place {
            0 => entry::Commits { run: RUN, round, attempt: 0, count: 4, commits: hash(3) }.into(),
            5 => {
                round += 1;
                entry::Aggregate { loss: Some(entry::MicroNats(3_000_000)), ..aggregate(round - 1) }.into()
            }
            worker => update(round, worker as u32 - 1, worker as u32).into(),
        };
        Entry::new(2_000_000 + i, body)
    };
    let before = memory_kb("VmRSS");
    for i in 0..ENTRIES {
        let entry = next(i).encode().unwrap();
        bytes += entry.len();
        let start = Instant::now();
        checker.read(&entry);
        reading += start.elapsed();
    }
    let report = checker.report();
    assert!(report.clean(), "{:?}", report.errors);
    println!(
        "{} entries, {bytes} bytes, {} rounds: {:.2} s on one core, {:?} kB before, {:?} kB after, {:?} kB at most",
        report.entries,
        report.kinds["aggregate"],
        reading.as_secs_f64(),
        before,
        memory_kb("VmRSS"),
        memory_kb("VmHWM"),
    );
}
