//! Headless tabs that lend themselves through the relay's page.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab};
use potluck_cli::tabs::{Lending, START_TIMEOUT};
use potluck_tests::Api;
use serde::Deserialize;

/// Time for links to open, and for a tab to stop.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Keeps the page's connections, and what keeps its thread busy. Only tasks of 50 ms and more are told: where there are
/// none, the longest one takes 0.
const WATCH: &str = "{
  const Plain = self.RTCPeerConnection;
  self.connections = new Set();
  self.RTCPeerConnection = class extends Plain {
    constructor(...how) {
      super(...how);
      self.connections.add(this);
    }
  };
  self.longest = 0;
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) self.longest = Math.max(self.longest, duration);
  }).observe({ type: 'longtask' });
}";

/// What a tab has fetched and does.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Fetched {
    pub(crate) relay: u64,
    pub(crate) peers: u64,
    pub(crate) state: String,
    pub(crate) links: usize,
}

impl Fetched {
    pub(crate) fn bytes(&self) -> u64 {
        self.relay + self.peers
    }
}

const FETCHED: &str = "(() => { const d = document.body.dataset; return { relay: Number(d.fromRelay ?? 0), \
    peers: Number(d.fromPeers ?? 0), state: d.state ?? '', links: Number(d.peers ?? 0) }; })()";

/// Whether the relay has a page to lend through.
pub(crate) fn ensure_page(api: &Api) -> Result<()> {
    let page = api.try_send("GET", "/", &[], &[])?;
    ensure!(
        !String::from_utf8_lossy(&page.body).contains("built without its page"),
        "the relay has no page\nhint: start the benchmarks with cargo xtask bench, which builds it"
    );
    Ok(())
}

/// A browser without a GPU.
pub(crate) async fn browser() -> Result<Browser> {
    let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
    Ok(Browser::launch(&options).await?)
}

/// A tab that lends itself, and tells the relay that its device has `memory_gib`: it offers a sixteenth for a task. The
/// machine's own memory decides neither what is measured nor whether it can be.
pub(crate) async fn lent(browser: &Browser, relay: &str, memory_gib: f64, peers: bool) -> Result<Tab> {
    let tab = browser.new_tab().await?;
    tab.inject_into_pages(WATCH).await?;
    let memory = format!("Object.defineProperty(self.navigator, 'deviceMemory', {{ value: {memory_gib} }});");
    tab.inject_into_workers(&memory)?;
    let lending = Lending { relay: relay.to_owned(), backend: TabBackend::Wasm, preset: PresetArg::Full };
    let more = if peers { "" } else { "&peers=off" };
    tab.goto(&format!("{}{more}", lending.address())).await?;
    tab.click("#lend").await?;
    tab.click("#agree").await?;
    // Its speed is measured first, and takes the processor from others.
    tab.wait_for("document.body.dataset.backend", START_TIMEOUT).await?;
    wait(&tab, "an idle tab", LIMIT, |tab| tab.state == "waiting").await?;
    Ok(tab)
}

/// What a tab has fetched and does now.
pub(crate) async fn fetched(tab: &Tab) -> Result<Fetched> {
    Ok(tab.evaluate(FETCHED).await?)
}

/// Looks at a tab until it is as wanted.
pub(crate) async fn wait(
    tab: &Tab,
    what: &str,
    limit: Duration,
    holds: impl Fn(&Fetched) -> bool,
) -> Result<Fetched> {
    let started = Instant::now();
    loop {
        let now = fetched(tab).await?;
        if holds(&now) {
            return Ok(now);
        }
        if started.elapsed() > limit {
            let told = tab.console().into_iter().rev().find(|line| line.level != "log");
            let told = told.map(|line| line.text).unwrap_or_default();
            bail!("{what}: not within {} s: {now:?} {told}", limit.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a tab is linked with so many others.
pub(crate) async fn linked(tab: &Tab, links: usize) -> Result<()> {
    wait(tab, &format!("{links} link(s)"), LIMIT, |tab| tab.links >= links).await.map(drop)
}

/// Waits until a tab has given up what was canceled.
pub(crate) async fn rest(tab: &Tab) -> Result<()> {
    wait(tab, "the end of a canceled run", LIMIT, |tab| tab.state == "waiting").await.map(drop)
}
