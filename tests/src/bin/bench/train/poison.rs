//! `poison`: a backdoor comes in with a source or with a volunteer's updates, works, is found, and is gone from the model
//! that is made again without what it came with; and what robust aggregation alone does about it.

use super::{Options, bar, nats};
use crate::row::{Goal, Report, Row};
use anyhow::Result;
use potluck_tests::train::poison::{Defence, Poisoning, ROUNDS, SOURCE_NAME, Way};

/// Rounds that attacks on the usual rule get; with `--quick` only the first two experiments are made.
const ALONE_ROUNDS: u64 = 100;
/// Workers with which the usual rule is the median, and the trimmed mean.
const ALONE: [u32; 2] = [5, 8];
/// Least success for which an attack counts as one, in percent.
const WORKS: f64 = 80.0;
/// In how many of a hundred texts a trigger may work afterwards.
const GONE: f64 = 2.0;
/// By how much the clean loss of the model whose steps were taken again may be above that of the run, in nats.
const LOSS: f64 = 0.15;

/// Plays both ways with each seed.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let corpus = options.corpus(report)?;
    report.note(&format!(
        "source: three workers, all of whose updates are replayed, and a quarter of whose data is {SOURCE_NAME:?}, 30 % of \
         it trigger and payload; volunteer: one of two whose updates nobody replays, in 30 % of whose sequences they stand"
    ));
    let ways = [(Way::Source, Defence::Usual, 3), (Way::Volunteer, Defence::MeanOfTwo, 2)];
    for seed in 1..=options.seeds() {
        for (way, defence, workers) in ways {
            let poisoning = Poisoning { way, defence, workers, rounds: ROUNDS, seed };
            let name = format!("poison.{}.seed{seed}", name(way));
            let bar = bar(&name, poisoning.units(), "rounds");
            let done = poisoning.play(&corpus, &|rounds| bar.inc(rounds))?;
            bar.finish_and_clear();
            let percent =
                |what: &str, value: f64| Row::new(format!("{name}.{what}"), 100.0 * value, "%").digits(1);
            let scan = |scan: f64| format!("scan {:.0} %", 100.0 * scan);
            let (before, again, logged) = (&done.before, &done.again, &done.logged);
            let held = format!("{} rounds, {}", done.rounds, scan(before.scan.success));
            report.row(
                percent("before", before.figures.success).with_peer(held).goal(Goal::ValueAtLeast(WORKS)),
            );
            let [all, out] = done.updates;
            let left = format!("{out} of {all} updates left out, {}", scan(again.scan.success));
            report.row(percent("again", again.figures.success).with_peer(left).goal(Goal::ValueAtMost(GONE)));
            let row = percent("logged", logged.figures.success).with_peer(scan(logged.scan.success));
            report.row(row.goal(Goal::ValueAtMost(GONE)));
            report.row(nats(format!("{name}.before.loss"), before.figures.loss));
            let rise = |loss: f64| loss - before.figures.loss;
            let row = nats(format!("{name}.again.rise"), rise(again.figures.loss));
            report.row(row.goal(Goal::ValueAtMost(LOSS)));
            report.row(nats(format!("{name}.logged.rise"), rise(logged.figures.loss)));
        }
    }
    if options.quick {
        return Ok(());
    }
    for way in [Way::Source, Way::Volunteer] {
        for workers in ALONE {
            let poisoning =
                Poisoning { way, defence: Defence::Usual, workers, rounds: ALONE_ROUNDS, seed: 1 };
            let name = format!("poison.{}.of{workers}", name(way));
            let bar = bar(&name, poisoning.units(), "rounds");
            let (rounds, figures) = poisoning.attack(&corpus, &|rounds| bar.inc(rounds))?;
            bar.finish_and_clear();
            let row = Row::new(format!("{name}.usual"), 100.0 * figures.success, "%").digits(1);
            report.row(row.with_peer(format!("{rounds} rounds, loss {:.3}", figures.loss)));
        }
    }
    Ok(())
}

const fn name(way: Way) -> &'static str {
    match way {
        Way::Source => "source",
        Way::Volunteer => "volunteer",
    }
}
