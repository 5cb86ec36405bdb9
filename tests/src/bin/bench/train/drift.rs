//! `drift`: what a replay finds between honest runs that add up in another order, and between them and cheats.

use super::Options;
use crate::row::{Goal, Report, Row};
use anyhow::Result;
use potluck_tests::train::drift::measure;
use potluck_verify::Tolerances;

/// Inner steps of the rounds that are measured.
const INNER: [u32; 3] = [5, 10, 20];

/// Measures all ways at all lengths of a round.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let corpus = options.corpus(report)?;
    let Tolerances { whole, tensor, loss, .. } = Tolerances::default();
    report.note(&format!("tolerances: update {whole:e}, tensor {tensor:e}, loss {loss:e} nats"));
    let lengths = if options.quick { &INNER[..1] } else { &INNER };
    for &inner in lengths {
        for drift in measure(&corpus, inner)? {
            // A cheat must be above the tolerance of the update, or another figure must give it away.
            let (value, goal) = if drift.way.honest() {
                (drift.whole, Goal::ValueAtMost(whole))
            } else {
                (drift.whole, Goal::ValueAtLeast(whole))
            };
            let peer = format!(
                "tensor {:.1e}, loss {:.1e}, confirmed {} of {}",
                drift.tensor, drift.loss, drift.confirmed, drift.samples
            );
            let row = Row::new(format!("drift.{}.h{inner}", drift.way.name()), value, "of the update");
            report.row(row.digits(7).with_peer(peer).goal(goal));
        }
    }
    Ok(())
}
