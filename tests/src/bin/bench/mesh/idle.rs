//! Memory of a native volunteer's links while nothing happens on them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use potluck_mesh::native::{EVENT_QUEUE, NativeLinks, NativeOptions};
use potluck_mesh::{LinkAction, LinkEvent, Links as _};
use potluck_tests::memory;
use potluck_types::LinkId;
use tokio::sync::mpsc;

use crate::row::{Goal, Report, Row};
use crate::runtime;

/// Links that are measured; each has both of its ends in this process.
const LINKS: u8 = 50;
/// Links before: what the first ones set up for all that follow is no part of what one more costs.
const WARM_UP: u8 = 2;
/// Time for one link to open.
const LIMIT: Duration = Duration::from_secs(60);
const GOAL_MB: f64 = 0.5;

/// Opens links between two ends in this process.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    runtime()?.block_on(async {
        let mut ends = [end(), end()];
        for link in 0..WARM_UP {
            open(&mut ends, link).await?;
        }
        let resident = || memory("VmRSS").context("this system does not tell a process's memory (VmRSS)");
        let before = resident()?;
        for link in WARM_UP..WARM_UP + LINKS {
            open(&mut ends, link).await?;
        }
        let grown = resident()?.saturating_sub(before);
        ensure!(
            ends.iter().all(|end| end.links.count() == usize::from(WARM_UP + LINKS)),
            "links ended while others were opened"
        );
        let each = grown as f64 / 1e6 / f64::from(2 * LINKS);
        report.row(Row::new("mesh.idle-link.native", each, "MB").goal(Goal::ValueAtMost(GOAL_MB)));
        Ok(())
    })
}

struct End {
    links: NativeLinks,
    events: mpsc::Receiver<LinkEvent>,
}

fn end() -> End {
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let options = NativeOptions { bind: vec!["127.0.0.1:0".to_owned()] };
    End { links: NativeLinks::new(options, sender), events }
}

/// Opens a link, and passes on what its ends have to say to each other.
async fn open(ends: &mut [End; 2], number: u8) -> Result<()> {
    let link = LinkId([number; 16]);
    for (end, offers) in ends.iter_mut().zip([true, false]) {
        end.links.carry_out(LinkAction::Open { link, attempt: 1, offers, servers: Arc::default() });
    }
    let opening = async {
        let mut open = [false; 2];
        while open != [true; 2] {
            let [a, b] = &mut *ends;
            let (at, event) = tokio::select! {
                event = a.events.recv() => (0, event),
                event = b.events.recv() => (1, event),
            };
            match event.context("the links ended")? {
                LinkEvent::Signal { link, attempt, kind, body } => {
                    ends[1 - at].links.carry_out(LinkAction::Signal { link, attempt, kind, body });
                }
                LinkEvent::Opened { .. } => open[at] = true,
                event @ (LinkEvent::Failed { .. } | LinkEvent::Interrupted { .. }) => {
                    bail!("a link on loopback: {event:?}")
                }
                _ => {}
            }
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, opening).await.context("a link on loopback does not open")?
}
