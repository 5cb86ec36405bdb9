//! A million entries through a checker: mostly results, then nothing but rounds, then signatures. Run with
//! `cargo test --release -p potluck-governance --test million -- --ignored --nocapture --test-threads=1`; prints seconds
//! and memory. Time is that of reading alone.

mod common;
use common::*;
use potluck_governance::entry::*;
use potluck_governance::statement::*;
use potluck_governance::*;
use std::time::{Duration, Instant};

const ENTRIES: u64 = 1_000_000;
const VOLUNTEERS: u64 = 1000;

/// Resident memory of this process, in kB, where Linux tells it.
fn memory_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find(|line| line.starts_with("VmRSS"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Entry `i` of a long run: commits, four updates, aggregate, and so on.
fn training(i: u64, updates: &[UpdateAccepted], first: &Aggregate) -> Body {
    let round = i / 6;
    match i % 6 {
        0 => Commits { run: RUN, round, attempt: 0, count: 4, commits: hash(3) }.into(),
        5 => {
            let mut aggregate = Aggregate { round, next_parameters: parameters(round), ..first.clone() };
            if round > 0 {
                aggregate.parameters = parameters(round - 1);
            }
            aggregate.loss = Some(MicroNats(3_000_000));
            aggregate.into()
        }
        worker => UpdateAccepted { round, ..updates[worker as usize - 1].clone() }.into(),
    }
}

/// Reads the log so far, then `ENTRIES` entries; every `each`-th belongs to a run, the others are results.
fn measure(what: &str, each: u64) {
    let mut world = World::new();
    world.start_run();
    world.credit(0..0);
    let mut checker = Checker::new();
    world.log.iter().for_each(|entry| checker.read(entry));
    let updates: Vec<_> = (0..4).map(|worker| update(0, worker, worker)).collect();
    let (first, template) = (aggregate(0), result(0));
    let (mut reading, mut bytes) = (Duration::ZERO, 0);
    let before = memory_kb();
    for i in 0..ENTRIES {
        let body = if i.is_multiple_of(each) {
            training(i / each, &updates, &first)
        } else {
            let mut entry = template.clone();
            entry.volunteer.0[..8].copy_from_slice(&(i % VOLUNTEERS).to_le_bytes());
            entry.result.0[..8].copy_from_slice(&i.to_le_bytes());
            entry.into()
        };
        let entry = Entry::new(2_000_000 + i, body).encode().expect("an entry within bounds");
        bytes += entry.len();
        let start = Instant::now();
        checker.read(&entry);
        reading += start.elapsed();
    }
    let report = checker.report();
    assert!(report.clean(), "{:?}", report.errors);
    println!(
        "{what}: {} entries, {bytes} bytes, {} rounds: {:.2} s on one core; {before:?} kB before, {:?} kB after",
        report.entries,
        report.kinds["aggregate"],
        reading.as_secs_f64(),
        memory_kb(),
    );
}

#[test]
#[ignore = "a measurement, for release builds"]
fn a_million_entries() {
    measure("mostly results", 10);
    measure("rounds only", 1);
}

#[test]
#[ignore = "a measurement, for release builds"]
fn ten_thousand_signatures() {
    let mut world = World::new();
    let proposal = world.propose(1, ProposalKind::Kernel, "kernel", hash(9));
    let mut checker = Checker::new();
    world.log.iter().for_each(|entry| checker.read(entry));
    let mut reading = Duration::ZERO;
    for i in 0..10_000 {
        let vote = if i % 2 == 0 { Ballot::Yes } else { Ballot::No };
        let signed = world.sign(1, Vote { proposal, vote, reason: None });
        let entry = Entry::new(world.now, signed).encode().expect("an entry within bounds");
        let start = Instant::now();
        checker.read(&entry);
        reading += start.elapsed();
    }
    assert!(checker.report().clean());
    println!("10,000 signed votes: {:.2} s on one core", reading.as_secs_f64());
}
