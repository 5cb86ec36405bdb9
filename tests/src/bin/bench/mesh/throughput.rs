//! A blob from one volunteer to another against a bare data channel between the same kinds of ends, in turns; and how long
//! the transfer keeps a page's thread busy.
//!
//! One volunteer gets the checkpoint from the relay first, through a run of its own. Then comes the one that lacks it, with
//! another run of the same checkpoint: a tab that has it is not asked to compute that one, as it offers less memory than
//! larger batches need. A native volunteer offers more than any tab, so it computes in the same round, at a quarter of the
//! time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use potluck_cli::cdp::{Browser, Tab};
use potluck_tests::{Api, TestRelay};
use potluck_volunteer::{State, WaitReason};
use serde_json::Value;
use tokio::task::block_in_place;

use super::bare::{self, Sample, Way};
use super::natives::Native;
use super::runs::{self, Data, Wanted};
use super::tabs;
use crate::row::{Goal, Report, Row, median};
use crate::runtime;

/// Turns of blob and bare channel.
const ROUNDS: u8 = 5;
/// Sequences of a batch that every volunteer has room for, and of one that only those have that seek.
pub(crate) const SMALL: u32 = 1;
pub(crate) const LARGE: u32 = 16;
/// What a tab that holds the blob says that its device has, and one that seeks it.
pub(crate) const HOLDER_GIB: f64 = 7.0;
pub(crate) const SEEKER_GIB: f64 = 8.0;
/// Time for a round to open and a blob to arrive.
const LIMIT: Duration = Duration::from_secs(120);
/// Pause between two looks at what a tab received: each takes the browser a few milliseconds, which bare channels do not pay.
const SAMPLE: Duration = Duration::from_millis(100);
/// Part of the blob that has to come from the peer: more from the relay would mean that the link was not measured.
const LEAST_FROM_PEERS: f64 = 0.8;

const THROUGHPUT_GOAL: f64 = 0.8;
/// A task that lasts longer is one that people notice.
const LONGEST_TASK_MS: f64 = 50.0;

/// Bytes that a page's connections received, and when that was counted, in seconds.
const RECEIVED: &str = "(async () => {
  let bytes = 0, at = 0;
  for (const connection of connections) {
    if (connection.signalingState === 'closed') continue;
    for (const { type, timestamp, bytesReceived } of (await connection.getStats()).values()) {
      if (type !== 'transport') continue;
      bytes += bytesReceived;
      at = Math.max(at, timestamp);
    }
  }
  return [at / 1e3, bytes];
})()";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    Tabs,
    TabToNative,
    NativeToTab,
}

impl Pair {
    const EACH: [Self; 3] = [Self::Tabs, Self::TabToNative, Self::NativeToTab];

    const fn name(self) -> &'static str {
        match self {
            Self::Tabs => "tab-tab",
            Self::TabToNative => "tab-native",
            Self::NativeToTab => "native-tab",
        }
    }
}

/// One transfer of the blob.
struct Passed {
    megabytes_per_s: f64,
    /// The longest task of a page's thread meanwhile, in milliseconds.
    longest: f64,
}

/// Measures all pairs.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    for (at, pair) in (0..).zip(Pair::EACH) {
        // A fresh relay for each pair: nobody keeps what another pair has left.
        let relay = TestRelay::start();
        tabs::ensure_page(&relay.api)?;
        let data = Data::upload(&relay.api)?;
        let measured = runtime()?.block_on(async {
            let browser = tabs::browser().await?;
            let measured = rounds(&relay.api, &data, &browser, pair, at).await;
            browser.close().await;
            measured
        });
        let (blob, bare, longest) = measured.with_context(|| pair.name())?;
        report.note(&format!("{}: blob {blob:.1?} MB/s, bare channel {bare:.1?} MB/s", pair.name()));
        let (blob, bare) = (median(&blob), median(&bare));
        report.row(
            Row::new(format!("mesh.blob.{}", pair.name()), blob, "MB/s")
                .against(format!("bare channel {bare:.1}"), blob / bare)
                .goal(Goal::RatioAtLeast(THROUGHPUT_GOAL)),
        );
        let row = Row::new(format!("mesh.longest-task.{}", pair.name()), longest, "ms");
        report.row(row.goal(Goal::ValueAtMost(LONGEST_TASK_MS)));
    }
    Ok(())
}

/// Rates of the blob and of bare channels, and the longest task.
async fn rounds(
    api: &Api,
    data: &Data,
    browser: &Browser,
    pair: Pair,
    at: u8,
) -> Result<(Vec<f64>, Vec<f64>, f64)> {
    let (mut blob, mut bare, mut longest) = (Vec::new(), Vec::new(), 0.0_f64);
    for round in 0..ROUNDS {
        bare.push(match pair {
            Pair::Tabs => bare::between_tabs(browser, &api.url).await?,
            Pair::TabToNative => bare::with_native(browser, &api.url, Way::ToNative).await?,
            Pair::NativeToTab => bare::with_native(browser, &api.url, Way::ToTab).await?,
        });
        // Keys of native volunteers and seeds of runs that nobody had before.
        let number = 1 + at * ROUNDS + round;
        let lab = Lab { api, data, browser, seed: number };
        let passed = match pair {
            Pair::Tabs => lab.between_tabs().await,
            Pair::TabToNative => lab.to_native().await,
            Pair::NativeToTab => lab.to_tab().await,
        };
        let passed = passed.with_context(|| format!("round {round}"))?;
        blob.push(passed.megabytes_per_s);
        longest = longest.max(passed.longest);
    }
    Ok((blob, bare, longest))
}

/// Where one blob passes from one volunteer to another.
struct Lab<'a> {
    api: &'a Api,
    data: &'a Data,
    browser: &'a Browser,
    seed: u8,
}

impl Lab<'_> {
    fn begin(&self, sequences: u32, workers: [u32; 2]) -> Result<String> {
        let wanted = Wanted { seed: self.seed, sequences, workers };
        block_in_place(|| self.data.begin(self.api, &wanted))
    }

    fn cancel(&self, run: &str) -> Result<()> {
        block_in_place(|| runs::cancel(self.api, run))
    }

    async fn tab(&self, gib: f64) -> Result<Tab> {
        tabs::lent(self.browser, &self.api.url, gib, true).await
    }

    /// A tab that has the blob and nothing to do.
    async fn holder(&self) -> Result<Tab> {
        let tab = self.tab(HOLDER_GIB).await?;
        let run = self.begin(SMALL, [1, 1])?;
        let bytes = runs::checkpoint_bytes();
        tabs::wait(&tab, "the blob from the relay", LIMIT, |now| {
            now.relay >= bytes && now.state == "running"
        })
        .await?;
        self.cancel(&run)?;
        tabs::rest(&tab).await?;
        Ok(tab)
    }

    async fn between_tabs(&self) -> Result<Passed> {
        let from = self.holder().await?;
        let to = self.tab(SEEKER_GIB).await?;
        for tab in [&from, &to] {
            tabs::linked(tab, 1).await?;
            forget_tasks(tab).await?;
        }
        let run = self.begin(LARGE, [1, 1])?;
        let megabytes_per_s = received(&to).await?;
        let longest = longest_task(&from).await?.max(longest_task(&to).await?);
        self.cancel(&run)?;
        from.close().await?;
        to.close().await?;
        Ok(Passed { megabytes_per_s, longest })
    }

    async fn to_native(&self) -> Result<Passed> {
        let from = self.holder().await?;
        let to = Native::start(&self.api.url, self.seed);
        tabs::linked(&from, 1).await?;
        forget_tasks(&from).await?;
        let run = self.begin(LARGE, [1, 1])?;
        let bytes = runs::checkpoint_bytes();
        let status =
            to.wait("the blob from a tab", LIMIT, |now| now.from_peers + now.from_relay >= bytes).await?;
        ensure_from_peers(status.from_peers)?;
        let megabytes_per_s = bare::rate(&to.peers_samples())?;
        let longest = longest_task(&from).await?;
        self.cancel(&run)?;
        from.close().await?;
        Ok(Passed { megabytes_per_s, longest })
    }

    async fn to_tab(&self) -> Result<Passed> {
        let from = Native::start(&self.api.url, self.seed);
        let idle = State::Waiting(WaitReason::NoWork);
        from.wait("an idle native volunteer", LIMIT, |now| now.state == idle).await?;
        let run = self.begin(SMALL, [1, 1])?;
        from.wait("the blob from the relay", LIMIT, |now| {
            now.from_relay >= runs::checkpoint_bytes() && now.state == State::Computing
        })
        .await?;
        self.cancel(&run)?;
        from.wait("the end of a canceled run", LIMIT, |now| now.state == idle).await?;
        let to = self.tab(SEEKER_GIB).await?;
        tabs::linked(&to, 1).await?;
        forget_tasks(&to).await?;
        let run = self.begin(SMALL, [2, 2])?;
        let megabytes_per_s = received(&to).await?;
        let longest = longest_task(&to).await?;
        self.cancel(&run)?;
        to.close().await?;
        Ok(Passed { megabytes_per_s, longest })
    }
}

/// The rate at which a tab gets the blob from its peer, which is about to begin.
async fn received(tab: &Tab) -> Result<f64> {
    let before = tabs::fetched(tab).await?;
    let started = Instant::now();
    let mut samples: Vec<Sample> = Vec::new();
    let wanted = before.bytes() + runs::checkpoint_bytes();
    let after = loop {
        samples.push(tab.evaluate(RECEIVED).await?);
        let now = tabs::fetched(tab).await?;
        if now.bytes() >= wanted {
            samples.push(tab.evaluate(RECEIVED).await?);
            break now;
        }
        ensure!(started.elapsed() < LIMIT, "the blob from a peer: not within {} s: {now:?}", LIMIT.as_secs());
        tokio::time::sleep(SAMPLE).await;
    };
    let payload = after.peers - before.peers;
    ensure_from_peers(payload)?;
    // The connection counts what carries the blob as well.
    let carried = samples.last().map_or(0.0, |last| last.1) - samples[0].1;
    Ok(bare::rate(&samples)? * payload as f64 / carried)
}

fn ensure_from_peers(bytes: u64) -> Result<()> {
    let share = bytes as f64 / runs::checkpoint_bytes() as f64;
    ensure!(share >= LEAST_FROM_PEERS, "only {:.0} % of the blob came from the peer", 100.0 * share);
    Ok(())
}

async fn forget_tasks(tab: &Tab) -> Result<()> {
    let _: Value = tab.evaluate("longest = 0").await?;
    Ok(())
}

async fn longest_task(tab: &Tab) -> Result<f64> {
    Ok(tab.evaluate("longest").await?)
}
