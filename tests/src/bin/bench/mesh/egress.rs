//! Eight tabs that need the same inputs: what leaves the relay, and how long it takes where its uplink is slow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use potluck_cli::cdp::{Browser, Tab};
use potluck_tests::{Api, TestRelay};
use tokio::task::block_in_place;

use super::runs::{self, Data, Wanted};
use super::{proxy, tabs};
use crate::row::{Goal, Report, Row};
use crate::runtime;

const TABS: u32 = 8;
/// Runs one after the other, each with a checkpoint of its own: 63 MB together. A tab that has one of them keeps it for
/// others while it fetches the next.
const RUNS: u8 = 4;
/// Tabs that load at the same time: more only make each other slow.
const LOADING_AT_ONCE: usize = 4;
/// What a tab says that its device has: room for the model's training.
pub(crate) const MEMORY_GIB: f64 = 8.0;
/// Links of each tab before anything is fetched. The relay gives each of them up to six; not all of them have to open.
const LINKS: usize = 2;
/// 20 Mbit/s.
const UPLINK_BYTES_PER_S: f64 = 2.5e6;
/// Longest time for one run: all tabs get its checkpoint over the slow uplink in 51 s.
const RUN_LIMIT: Duration = Duration::from_mins(5);

/// Copies of the inputs that leave the relay.
const EGRESS_GOAL: f64 = 1.6;
const SOONER_GOAL: f64 = 3.0;

/// What it took.
struct Distributed {
    seconds: f64,
    /// Bytes of inputs that the relay sent.
    served: u64,
    /// Bytes of the checkpoints, once.
    inputs: u64,
    from_peers: u64,
}

impl Distributed {
    fn copies(&self) -> f64 {
        self.served as f64 / self.inputs as f64
    }
}

/// As fast as the machine passes bytes on.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mesh = distribute(report, true, None)?;
    let alone = distribute(report, false, None)?;
    egress(report, "egress", &mesh, &alone, true);
    Ok(())
}

/// With a slow uplink of the relay.
pub(crate) fn uplink(report: &mut Report) -> Result<()> {
    let mesh = distribute(report, true, Some(UPLINK_BYTES_PER_S))?;
    let alone = distribute(report, false, Some(UPLINK_BYTES_PER_S))?;
    let name = format!("mesh.uplink.{TABS}-tabs");
    let peer = format!("relay only {:.1} s", alone.seconds);
    report.row(
        Row::new(name, mesh.seconds, "s")
            .against(peer, alone.seconds / mesh.seconds)
            .goal(Goal::RatioAtLeast(SOONER_GOAL)),
    );
    egress(report, "uplink-egress", &mesh, &alone, false);
    Ok(())
}

fn egress(report: &mut Report, name: &str, mesh: &Distributed, alone: &Distributed, judged: bool) {
    let peer = format!("{:.1} MB of inputs", mesh.inputs as f64 / 1e6);
    let row = Row::new(format!("mesh.{name}.{TABS}-tabs"), mesh.served as f64 / 1e6, "MB");
    let row = row.against(peer.clone(), mesh.copies());
    report.row(if judged { row.goal(Goal::RatioAtMost(EGRESS_GOAL)) } else { row });
    report.row(
        Row::new(format!("mesh.{name}.relay-only"), alone.served as f64 / 1e6, "MB")
            .against(peer, alone.copies()),
    );
}

/// A fresh relay and browser; the relay's runtime must not be dropped within another.
fn distribute(report: &Report, peers: bool, uplink: Option<f64>) -> Result<Distributed> {
    let relay = TestRelay::start();
    tabs::ensure_page(&relay.api)?;
    let data = Data::upload(&relay.api)?;
    let how = if peers { "mesh" } else { "relay only" };
    let done = runtime()?.block_on(async {
        let proxy = match uplink {
            Some(bytes_per_s) => Some(proxy::start(address(&relay.api)?, bytes_per_s).await?),
            None => None,
        };
        let page =
            proxy.as_ref().map_or_else(|| relay.api.url.clone(), |proxy| format!("http://{}", proxy.address));
        let browser = tabs::browser().await?;
        let done = to_all(&relay.api, &page, &browser, &data, peers).await;
        browser.close().await;
        done
    });
    let done = done.with_context(|| how.to_owned())?;
    report.note(&format!(
        "{how}{}: {:.1} s, {:.1} MB from the relay, {:.1} MB from peers",
        if uplink.is_some() { " over a slow uplink" } else { "" },
        done.seconds,
        done.served as f64 / 1e6,
        done.from_peers as f64 / 1e6
    ));
    Ok(done)
}

fn address(api: &Api) -> Result<SocketAddr> {
    api.url.trim_start_matches("http://").parse().with_context(|| format!("the relay's address {}", api.url))
}

async fn to_all(api: &Api, page: &str, browser: &Browser, data: &Data, peers: bool) -> Result<Distributed> {
    let mut all: Vec<Tab> = Vec::new();
    while all.len() < TABS as usize {
        let group = (TABS as usize - all.len()).min(LOADING_AT_ONCE);
        let opening = (0..group).map(|_| tabs::lent(browser, page, MEMORY_GIB, peers));
        all.extend(try_join_all(opening).await?);
    }
    if peers {
        try_join_all(all.iter().map(|tab| tabs::linked(tab, LINKS))).await?;
    }
    let metric = |name: &str| block_in_place(|| api.metric(name));
    let before = metric("input_bytes_total");
    let mut done = Distributed { seconds: 0.0, served: 0, inputs: 0, from_peers: 0 };
    for seed in 0..RUNS {
        let wanted = Wanted { seed: seed + 1, sequences: 1, workers: [TABS; 2] };
        let bytes = runs::checkpoint_bytes();
        let had = try_join_all(all.iter().map(tabs::fetched)).await?;
        let run = block_in_place(|| data.begin(api, &wanted))?;
        // The relay has made the parameters; a round opens as soon as all tabs have asked for work.
        let started = Instant::now();
        let arrivals = all.iter().zip(&had).map(|(tab, had)| async {
            let what = format!("the checkpoint of run {}", seed + 1);
            // It computes once all is there.
            let has = |now: &tabs::Fetched| now.bytes() >= had.bytes() + bytes && now.state == "running";
            let now = tabs::wait(tab, &what, RUN_LIMIT, has).await?;
            Ok::<_, anyhow::Error>((started.elapsed(), now))
        });
        let arrived = try_join_all(arrivals).await?;
        let last = arrived.iter().map(|(after, _)| *after).max().unwrap_or_default();
        done.seconds += last.as_secs_f64();
        done.inputs += bytes;
        if seed + 1 == RUNS {
            done.from_peers = arrived.iter().map(|(_, tab)| tab.peers).sum();
        }
        block_in_place(|| runs::cancel(api, &run))?;
        try_join_all(all.iter().map(tabs::rest)).await?;
    }
    done.served = metric("input_bytes_total") - before;
    ensure!(
        done.served >= done.inputs,
        "the relay sent {} bytes of {}: it was not fetched at all",
        done.served,
        done.inputs
    );
    Ok(done)
}
