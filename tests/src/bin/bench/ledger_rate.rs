//! What the public log costs a relay that accepts as many results a second as it can: small ones, and the least that it cuts.
//!
//! Two relays of this process take turns: one logs the results that it accepts, the other one does not. Their volunteers
//! know every product beforehand, so that nothing but the relay, and the frames to and from it, takes time; a result of several
//! units they put together and hash.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use potluck_relay::LogConfig;
use potluck_tests::{TestRelay, wait_until};
use serde_json::json;

use crate::clock::process_cpu;
use crate::row::{Goal, Report, Row, median};
use crate::volunteers::{LEAST, Load, PATIENCE, Products, Turn, Volunteer};

/// Half a GFLOP, a third of the least that a relay aims at for one core of a laptop of 30 GFLOP/s (`MIN_SHARD_SECONDS`): results of
/// up to 1 MB, fewer where a job ends.
const USUAL: Load =
    Load { name: "ledger.accept", unit: 256, depth: 1024, units: 4, sessions: 4, turn: 160, mflops: 30_000 };
/// Units that take one core of a laptop about a millisecond: far less than a volunteer is leased.
const SMALL: Load = Load {
    name: "ledger.accept-small",
    unit: 256,
    depth: 256,
    units: 1,
    sessions: 16,
    turn: 1536,
    mflops: 1,
};
const ROUNDS: u64 = 15;
/// After a turn, until what it logged is published: checkpoints come once a second.
const SETTLE: Duration = Duration::from_millis(1500);
const GOAL: f64 = 0.99;

/// What one turn took.
struct Sample {
    /// Results that were accepted per second.
    rate: f64,
    /// Processor time of this process for each of them, its volunteers' part included, in microseconds.
    cpu_us: f64,
}

/// Lets both relays accept results, in turns.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    for load in [USUAL, SMALL, Load { name: "ledger.accept-least", ..LEAST }] {
        compare(report, load)?;
    }
    Ok(())
}

fn compare(report: &mut Report, load: Load) -> Result<()> {
    let runtime = crate::runtime()?;
    let start =
        |unlogged_results| TestRelay::start_with(LogConfig { unlogged_results, ..LogConfig::default() });
    let mut relays = [(start(false), true), (start(true), false)];
    // How their logs begin is published.
    sleep(SETTLE);
    let [mut logged, mut unlogged]: [Vec<Sample>; 2] = Default::default();
    for round in 0..=ROUNDS {
        let products = Arc::new(Products::new(load, round));
        for (relay, logs) in &relays {
            let sample = runtime.block_on(turn(relay, &products, *logs))?;
            // The first round warms both up.
            if round > 0 {
                (if *logs { &mut logged } else { &mut unlogged }).push(sample);
            }
        }
        relays.reverse();
    }

    let each =
        |samples: &[Sample], value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let [on, off] = [&logged, &unlogged].map(|samples| each(samples, |sample| sample.rate));
    let mut ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on / off).collect();
    report.row(
        Row::new(format!("{}.rate", load.name), median(&on), "results/s")
            .against(format!("unlogged {:.0}", median(&off)), median(&ratios))
            .goal(Goal::RatioAtLeast(GOAL)),
    );
    ratios.sort_by(f64::total_cmp);
    let (quarter, half) = (ratios.len() / 4, median(&ratios));
    report.note(&format!(
        "accepted results of up to {} kB: {half:.3} of the rate without the log, half of the rounds from {:.3} to {:.3}; {:.1} us more for each",
        load.units * load.unit * load.unit * 4 / 1024,
        ratios[quarter],
        ratios[ratios.len() - 1 - quarter],
        1e6 / median(&off) * (1.0 / half - 1.0),
    ));

    let [on, off] = [&logged, &unlogged].map(|samples| each(samples, |sample| sample.cpu_us));
    let ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on / off).collect();
    report.row(
        Row::new(format!("{}.cpu", load.name), median(&on), "CPU-us")
            .against(format!("unlogged {:.0}", median(&off)), median(&ratios)),
    );
    let more: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on - off).collect();
    report.row(Row::new(format!("{}.entry-cpu", load.name), median(&more), "CPU-us"));
    Ok(())
}

/// A turn of one relay: jobs come in, volunteers join, and from then on results are counted.
async fn turn(relay: &TestRelay, products: &Arc<Products>, logs: bool) -> Result<Sample> {
    let load = products.load;
    let api = &relay.api;
    let entries = || api.get("/api/v1/log").json()["entries"].as_u64().unwrap_or_default();
    let accepted = || api.metric("results_accepted_total");
    let before = (entries(), accepted());
    let jobs: Vec<String> =
        products.files.iter().map(|[a, b]| api.submit(a, b, &json!({ "name": "small" }))).collect();
    let published = |entries_more: u64| entries() == before.0 + entries_more;
    wait_until("the jobs are in the log", PATIENCE, || published(jobs.len() as u64));
    let url = relay.socket();
    let volunteers = try_join_all((0..load.sessions).map(|n| Volunteer::join(&url, n as u64))).await?;

    let turn = Arc::new(Turn::new(products));
    let (cpu, started) = (process_cpu()?, Instant::now());
    let at_work: Vec<_> =
        volunteers.into_iter().map(|volunteer| tokio::spawn(volunteer.work(Arc::clone(&turn)))).collect();
    for volunteer in at_work {
        volunteer.await??;
    }
    let ended = turn.ended().context("the turn did not end")?;

    // What came after the last result is stored, and logged, all the same.
    sleep(SETTLE);
    let cpu = process_cpu()?.saturating_sub(cpu);
    wait_until("nothing is under way", PATIENCE, || {
        ["sessions", "leases", "result_bytes"].iter().all(|figure| api.metric(figure) == 0)
    });
    let count = accepted() - before.1;
    let logged = if logs { count } else { 0 };
    wait_until("the results are in the log", PATIENCE, || published(jobs.len() as u64 + logged));
    for job in jobs {
        api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]);
    }
    ensure!(count >= load.turn, "{count} results were accepted");
    ensure!(api.metric("results_rejected_total") == 0, "a result was rejected");
    let seconds = ended.duration_since(started).as_secs_f64();
    Ok(Sample { rate: load.turn as f64 / seconds, cpu_us: cpu.as_secs_f64() * 1e6 / count as f64 })
}
