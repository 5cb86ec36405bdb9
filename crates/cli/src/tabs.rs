//! `potluck tabs`: headless Chromium tabs that lend themselves through the relay's real page, with real clicks.
//!
//! The page's contract, which the end-to-end tests rely on too: `#lend` opens the consent sheet, `#agree` consents,
//! `#stop` stops; `document.body.dataset` has `state`, `backend`, `accepted`, `rejected`, and of peers `peers` (how many
//! are connected), `fromPeers`, `fromRelay` and `toPeers` (bytes); `?backend=`, `&preset=`, `&hidden=run`, `&peers=off` and
//! `&cache=` (MB) preselect what the consent sheet offers.

pub use crate::cdp::{Browser, CdpError, Gpu, LaunchOptions, Tab};

use crate::args::{PresetArg, TabBackend, TabsArgs};
use crate::client::base_address;
use crate::error::CliError;
use crate::stop::Stop;
use futures_util::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::time::Duration;

/// Time from consent until a tab says that it runs: the engine loads and calibrates itself.
pub const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Time that a tab has to give its leases back after Stop was clicked.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the tabs are asked how they are.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Tabs that load at the same time: more only make each other slow.
const LOADING_AT_ONCE: usize = 4;

/// What a tab is asked to lend.
#[derive(Debug, Clone)]
pub struct Lending {
    /// The relay's address.
    pub relay: String,
    /// What computes.
    pub backend: TabBackend,
    /// How much is lent.
    pub preset: PresetArg,
}

impl Lending {
    /// The page's address with the choices preselected.
    pub fn address(&self) -> String {
        let relay = self.relay.trim_end_matches('/');
        format!("{relay}/?backend={}&preset={}&hidden=run", self.backend.name(), self.preset.name())
    }
}

/// What a tab says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabStatus {
    /// The page's state: `idle`, `consent`, `starting`, `waiting`, `running`, `paused`, `finishing`, `finished`, `failed`.
    pub state: String,
    /// What computes: `webgpu` or `wasm`; empty before that is known.
    pub backend: String,
    /// Results that were accepted.
    pub accepted: u64,
    /// Results that were rejected.
    pub rejected: u64,
}

const STATUS: &str = "(() => { const d = document.body.dataset; return { state: d.state ?? '', \
    backend: d.backend ?? '', accepted: Number(d.accepted ?? 0), rejected: Number(d.rejected ?? 0) }; })()";

/// The states of a tab that lends.
const LENDING: [&str; 4] = ["waiting", "running", "paused", "finishing"];
/// The states of a tab whose lending is over, and may begin again.
const OVER: [&str; 2] = ["finished", "failed"];
/// Times that a tab which ended by itself is made to lend again without a result in between. The page's consent ends
/// after some hours by itself; a page that fails each time is given up.
const MAX_FRUITLESS_STARTS: u32 = 3;

/// Whether the page's state is one of these, in JavaScript.
fn is_in(states: &[&str]) -> String {
    format!("{}.includes(document.body.dataset.state)", serde_json::json!(states))
}

/// Opens the relay's page in a tab and clicks through the consent. Returns when the page says that it lends.
///
/// # Errors
/// The page does not load, has no button to click, says that it failed, or does not begin to lend within
/// [`START_TIMEOUT`].
pub async fn lend(tab: &Tab, lending: &Lending) -> Result<(), CdpError> {
    tab.goto(&lending.address()).await?;
    tab.click("#lend").await?;
    tab.click("#agree").await?;
    tab.wait_for(&is_in(&[LENDING.as_slice(), OVER.as_slice()].concat()), START_TIMEOUT).await?;
    let status = status(tab).await?;
    if OVER.contains(&status.state.as_str()) {
        return Err(said(tab).await);
    }
    Ok(())
}

/// What the page says about its end.
async fn said(tab: &Tab) -> CdpError {
    let text = "document.getElementById('notice-text')?.textContent ?? document.body.dataset.state";
    tab.evaluate(text).await.map_or_else(|error| error, CdpError::Page)
}

/// Asks a tab how it is.
///
/// # Errors
/// The tab crashed or was closed.
pub async fn status(tab: &Tab) -> Result<TabStatus, CdpError> {
    tab.evaluate(STATUS).await
}

/// Clicks Stop and waits until the page says so.
///
/// # Errors
/// There is no button, or the page does not stop within [`STOP_TIMEOUT`].
pub async fn stop(tab: &Tab) -> Result<(), CdpError> {
    tab.click("#stop").await?;
    tab.wait_for(&format!("!{}", is_in(&LENDING)), STOP_TIMEOUT).await
}

/// How the browser is started for this lending.
pub fn launch_options(lending: &Lending, headed: bool) -> LaunchOptions {
    let gpu = if lending.backend == TabBackend::Wasm { Gpu::Off } else { Gpu::Auto };
    let mut extra_args = Vec::new();
    if lending.relay.starts_with("http://") {
        // WebGPU exists only in secure contexts. On the loopback that needs nothing; elsewhere the person who named a
        // plain http relay means it (a lab's own network).
        extra_args.push(format!("--unsafely-treat-insecure-origin-as-secure={}", lending.relay));
    }
    LaunchOptions { gpu, headed, extra_args, ..LaunchOptions::default() }
}

/// Runs the command until it is asked to stop.
///
/// # Errors
/// The browser does not start, a tab cannot lend, or no tab is left.
pub async fn run(args: &TabsArgs, stop_request: &Stop) -> Result<(), CliError> {
    let relay = base_address(&args.relay.relay)?;
    let lending = Lending { relay, backend: args.backend, preset: args.preset };
    let browser = Browser::launch(&launch_options(&lending, args.headed)).await?;
    let outcome = tokio::select! {
        outcome = lend_until_asked(&browser, &lending, args, stop_request) => outcome,
        // The second Ctrl-C does not wait for anything.
        () = stop_request.requested(2) => Ok(()),
    };
    browser.close().await;
    outcome
}

async fn lend_until_asked(
    browser: &Browser,
    lending: &Lending,
    args: &TabsArgs,
    stop_request: &Stop,
) -> Result<(), CliError> {
    let mut report = Report { json: args.json, last: vec![None; args.count as usize], over: (0, 0) };
    report.opening(args.count, &lending.relay);
    let mut tabs = Vec::new();
    for group in (0..args.count).collect::<Vec<_>>().chunks(LOADING_AT_ONCE) {
        let opening = try_join_all(group.iter().map(|_| async {
            let tab = browser.new_tab().await?;
            lend(&tab, lending).await.map_err(|error| explain(error, &tab))?;
            Ok::<_, CdpError>(tab)
        }));
        tokio::select! {
            opened = opening => tabs.extend(opened?.into_iter().map(Some)),
            () = stop_request.requested(1) => return Ok(()),
        }
    }
    report.lending(args.count);
    let mut starts = vec![Starts::default(); args.count as usize];
    loop {
        for (index, slot) in tabs.iter_mut().enumerate() {
            let Some(tab) = slot else { continue };
            match status(tab).await {
                Ok(status) => {
                    report.status(index, &status);
                    if !OVER.contains(&status.state.as_str()) {
                        continue;
                    }
                    match starts[index].again(tab, lending, status.accepted).await {
                        Ok(()) => report.begins_again(index),
                        Err(error) => {
                            report.lost(index, &error);
                            *slot = None;
                        }
                    }
                }
                Err(error) => {
                    report.lost(index, &error);
                    *slot = None;
                }
            }
        }
        if tabs.iter().all(Option::is_none) {
            return Err(CdpError::Crashed.into());
        }
        tokio::select! {
            () = tokio::time::sleep(STATUS_INTERVAL) => {}
            () = stop_request.requested(1) => break,
        }
    }
    let ends = join_all(tabs.iter().flatten().map(stop)).await;
    for error in ends.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a tab did not stop by its button; it ends with the browser");
    }
    for (index, tab) in tabs.iter().enumerate() {
        if let Some(tab) = tab
            && let Ok(status) = status(tab).await
        {
            report.status(index, &status);
        }
    }
    report.stopped();
    Ok(())
}

/// How often a tab was started again.
#[derive(Debug, Clone, Default)]
struct Starts {
    fruitless: u32,
}

impl Starts {
    /// Lends the tab again; starting `potluck tabs` is the consent, and the command still runs.
    async fn again(&mut self, tab: &Tab, lending: &Lending, accepted: u64) -> Result<(), CdpError> {
        self.fruitless = if accepted > 0 { 0 } else { self.fruitless + 1 };
        if self.fruitless >= MAX_FRUITLESS_STARTS {
            return Err(said(tab).await);
        }
        tracing::info!("a tab's lending was over; it begins again");
        lend(tab, lending).await
    }
}

/// Adds what the page's console says to an error that is hard to understand without it.
fn explain(error: CdpError, tab: &Tab) -> CdpError {
    let CdpError::Timeout { what, limit, mut last } = error else { return error };
    let worst =
        tab.console().into_iter().rev().find(|line| matches!(line.level.as_str(), "error" | "exception"));
    if let Some(line) = worst {
        last = format!("{last}; the page's console says: {}", line.text);
    }
    CdpError::Timeout { what, limit, last }
}

/// Tells people or programs what the tabs do; says nothing twice.
struct Report {
    json: bool,
    last: Vec<Option<TabStatus>>,
    /// Accepted and rejected results of lendings that are over: a page that starts again counts from zero.
    over: (u64, u64),
}

impl Report {
    fn opening(&self, count: u32, relay: &str) {
        if !self.json {
            eprintln!("opening {count} tab(s) of {relay}");
        }
    }

    fn lending(&self, count: u32) {
        if self.json {
            line(&serde_json::json!({ "event": "lending", "tabs": count }));
        } else {
            eprintln!("{count} tab(s) lend themselves; Ctrl-C stops them");
        }
    }

    fn status(&mut self, index: usize, status: &TabStatus) {
        if self.last[index].as_ref() == Some(status) {
            return;
        }
        let tab = index + 1;
        let TabStatus { state, backend, accepted, rejected } = status;
        if self.json {
            line(&serde_json::json!({
                "event": "tab", "tab": tab, "state": state, "backend": backend,
                "accepted": accepted, "rejected": rejected,
            }));
        } else {
            eprintln!("tab {tab}: {state}, {backend}, {accepted} accepted, {rejected} rejected");
        }
        self.last[index] = Some(status.clone());
    }

    fn lost(&self, index: usize, error: &CdpError) {
        let tab = index + 1;
        if self.json {
            line(&serde_json::json!({ "event": "lost", "tab": tab, "message": error.to_string() }));
        } else {
            eprintln!("tab {tab} is gone: {error}");
        }
    }

    fn begins_again(&mut self, index: usize) {
        if let Some(status) = self.last[index].take() {
            self.over.0 += status.accepted;
            self.over.1 += status.rejected;
        }
    }

    fn stopped(&self) {
        let sum = |part: fn(&TabStatus) -> u64| self.last.iter().flatten().map(part).sum::<u64>();
        let accepted = self.over.0 + sum(|status| status.accepted);
        let rejected = self.over.1 + sum(|status| status.rejected);
        if self.json {
            line(&serde_json::json!({ "event": "stopped", "accepted": accepted, "rejected": rejected }));
        } else {
            eprintln!("stopped: {accepted} result(s) accepted, {rejected} rejected");
        }
    }
}

/// One object a line; a reader that went away is no reason to stop lending.
fn line(object: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell about a closed pipe.
    let _ = writeln!(out, "{object}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_carries_the_choices() {
        let lending = Lending {
            relay: "http://127.0.0.1:1/".into(),
            backend: TabBackend::Wasm,
            preset: PresetArg::Balanced,
        };
        assert_eq!(lending.address(), "http://127.0.0.1:1/?backend=wasm&preset=balanced&hidden=run");
        assert_eq!(launch_options(&lending, false).gpu, Gpu::Off);
    }
}
