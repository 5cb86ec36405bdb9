//! `attacks`: ten workers, three of which cheat together, with small models that are really trained.

use super::{Options, bar, nats};
use crate::row::{Goal, Report, Row};
use anyhow::Result;
use potluck_tests::train::attack::{Attack, CHEATS, INNER, WORKERS, play, units};

/// Rounds of a run.
const ROUNDS: u32 = 12;
/// The same with `--quick`.
const QUICK_ROUNDS: u32 = 6;
/// By how much an attack may raise the loss, in nats.
const GOAL: f64 = 0.02;
/// In how many of a hundred windows a backdoor may work.
const BACKDOOR_GOAL: f64 = 3.0;

/// Plays all attacks with the first seed.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let corpus = options.corpus(report)?;
    let rounds = if options.quick { QUICK_ROUNDS } else { ROUNDS };
    report.note(&format!(
        "{rounds} rounds of {INNER} inner steps, {WORKERS} workers, {CHEATS} of them cheat from the first round on; \
         their keys have a record of five rounds, so that half of their updates are audited"
    ));
    let bar = bar("attacks", units(Attack::ALL.len(), rounds), "rounds");
    let (clean, damages) = play(&corpus, &Attack::ALL, rounds, 1, &|rounds| bar.inc(rounds))?;
    bar.finish_and_clear();
    report.row(nats("attacks.clean.loss".into(), clean));
    for damage in damages {
        let name = damage.attack.name();
        let [relay, aggregation, mean] = damage.harm;
        let others = |without: f64, plain: f64, digits: usize| {
            format!("aggregation alone {without:+.digits$}, plain mean {plain:+.digits$}")
        };
        let row = nats(format!("attacks.{name}.damage"), relay.loss);
        let row = row.with_peer(others(aggregation.loss, mean.loss, 4));
        report.row(row.goal(Goal::ValueAtMost(GOAL)));
        if let Attack::Backdoor(_) = damage.attack {
            let row = Row::new(format!("attacks.{name}.success"), 100.0 * relay.backdoor, "%").digits(1);
            let row = row.with_peer(others(100.0 * aggregation.backdoor, 100.0 * mean.backdoor, 1));
            report.row(row.goal(Goal::ValueAtMost(BACKDOOR_GOAL)));
        }
        let found = format!("{} of {CHEATS} found, screen stopped {} updates", damage.found, damage.screened);
        if let Some(caught) = damage.caught {
            let row = Row::new(format!("attacks.{name}.caught"), f64::from(caught), "rounds");
            report.row(row.digits(0).with_peer(found));
        } else if damage.attack != Attack::Silent {
            let row = Row::new(format!("attacks.{name}.caught"), f64::INFINITY, "rounds");
            report.row(row.with_peer(found));
        }
    }
    Ok(())
}
