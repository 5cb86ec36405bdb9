//! What the page takes of a device that lends: how soon Stop ends all work, and whether the Quiet preset takes what it shows;
//! and what the widget takes of a site that shows it, before anybody agreed.
//!
//! Time on processors is that of the whole browser, the GPU's process among it: what it does when nobody lends is measured
//! first, and taken off.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::{Lending, lend};
use potluck_tests::TestRelay;
use potluck_tests::frame::Frame;
use potluck_tests::host::{HostSite, Page};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_types::MatmulShape;
use serde_json::json;
use tokio::time::sleep;

use crate::clock::{chromium_cpu, processes_cpu};
use crate::row::{Goal, Report, Row, median};

/// A job that no tab finishes within this benchmark.
const LONG: MatmulShape = MatmulShape { m: 8192, k: 2048, n: 8192 };
/// Time over which a share is measured.
const SHARE_TIME: Duration = Duration::from_secs(20);
/// Largest difference between the share of one core that is used and the one that is shown.
const SHARE_POINTS: f64 = 5.0;
const STOPS: usize = 5;
/// Longest time from the click on Stop until nothing works.
const STOP_MS: f64 = 250.0;
/// Time between two looks at the processors.
const LOOK: Duration = Duration::from_millis(10);
/// Time after the click that is looked at.
const WATCHED: Duration = Duration::from_millis(1500);
/// Share of a core beyond that of an idle page, over [`CALM`], that counts as no work.
const IDLE_SHARE: f64 = 0.15;
const CALM: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(120);
/// Loads of a site's page, with the widget and without.
const LOADS: usize = 11;
/// Main-thread time that the widget may add to the page around it.
const HOST_MS: f64 = 5.0;
/// Time for a page of a site to come to rest.
const SETTLE: Duration = Duration::from_millis(1500);
/// What the widget may ask for before anybody agreed: the loader, and the frame's shell.
const BEFORE_CONSENT: [&str; 5] =
    ["/embed.js", "/widget.html", "/widget.css", "/widget.js", "/widget-guard.js"];

/// The widget before anybody agreed, and the Quiet preset.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    with_relay(async |relay| {
        host(report, relay).await?;
        quiet(report, relay).await
    })
    .await
}

/// From the click on Stop until nothing works.
pub(crate) async fn stop(report: &mut Report) -> Result<()> {
    with_relay(async |relay| {
        for backend in [TabBackend::Wasm, TabBackend::Webgpu] {
            stops(report, relay, backend).await?;
        }
        Ok(())
    })
    .await
}

/// A relay with a job that does not end meanwhile.
async fn with_relay(measure: impl AsyncFnOnce(&TestRelay) -> Result<()>) -> Result<()> {
    ensure!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    let relay = tokio::task::block_in_place(|| {
        let relay = TestRelay::start();
        let known = LowRank::new(LONG, 1);
        let (m, k, n) = (LONG.m as usize, LONG.k as usize, LONG.n as usize);
        let name = json!({ "name": "long" });
        relay.api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &name);
        relay
    });
    let measured = measure(&relay).await;
    // It goes with its runtime.
    tokio::task::block_in_place(|| drop(relay));
    measured
}

async fn browser(backend: TabBackend) -> Result<Browser> {
    let gpu = if backend == TabBackend::Wasm { Gpu::Off } else { Gpu::Auto };
    Ok(Browser::launch(&LaunchOptions { gpu, ..LaunchOptions::default() }).await?)
}

async fn lent(browser: &Browser, relay: &TestRelay, preset: PresetArg, backend: TabBackend) -> Result<Tab> {
    let tab = browser.new_tab().await?;
    lend(&tab, &Lending { relay: relay.api.url.clone(), backend, preset }).await?;
    tab.wait_for("document.body.dataset.state === 'running'", LIMIT).await?;
    Ok(tab)
}

/// Part of one core that a browser takes.
async fn share(browser: &Browser, time: Duration) -> f64 {
    let used = || browser.process_id().map_or(Duration::ZERO, processes_cpu);
    let (before, started) = (used(), Instant::now());
    sleep(time).await;
    used().saturating_sub(before).as_secs_f64() / started.elapsed().as_secs_f64()
}

/// A site's page with the widget in it, against the same page without.
async fn host(report: &mut Report, relay: &TestRelay) -> Result<()> {
    let site = HostSite::start().await;
    let page = |widget: &str| Page {
        headers: Vec::new(),
        body: format!("<!doctype html><title>A site</title><h1>A site</h1><p>With some text.</p>{widget}"),
    };
    let script =
        |more: &str| format!("<script src=\"{}/embed.js\" async crossorigin{more}></script>", relay.api.url);
    let card = format!("{}<potluck-widget></potluck-widget>", script(""));
    // As the generator writes it.
    let own = "<potluck-widget><button type=button>Lend this tab</button></potluck-widget>";
    let widget = format!("{}{own}", script(" data-potluck=lazy"));
    let at_once = format!("{}{own}", script(""));
    // What a script that comes later takes whatever it shows: a page that is drawn once more.
    let line = "<script src=\"data:text/javascript,document.querySelector('potluck-widget').textContent='Lend this tab'\" async></script>\
        <potluck-widget></potluck-widget>";
    // And a frame as such, of the same page that the widget shows.
    let frame = format!("<iframe src=\"{}/widget.html\"></iframe>", relay.api.url);
    site.put("/plain", page(""));
    site.put("/widget", page(&widget));
    site.put("/at-once", page(&at_once));
    site.put("/card", page(&card));
    site.put("/line", page(line));
    site.put("/frame", page(&frame));
    let browser = browser(TabBackend::Wasm).await?;
    let [mut plain, mut with, mut at_once, mut card, mut line, mut frame]: [Vec<f64>; 6] = Default::default();
    for load in 0..=LOADS {
        for (path, times) in [
            ("plain", &mut plain),
            ("widget", &mut with),
            ("at-once", &mut at_once),
            ("card", &mut card),
            ("line", &mut line),
            ("frame", &mut frame),
        ] {
            // Each in a tab of its own: the count begins anew with some loads and not with others.
            let tab = browser.new_tab().await?;
            // What this program hears of a tab takes time of its main thread.
            for domain in ["Page", "Runtime", "Log", "Inspector"] {
                tab.call(&format!("{domain}.disable"), json!({})).await?;
            }
            tab.call("Performance.enable", json!({ "timeDomain": "threadTicks" })).await?;
            tab.call("Page.navigate", json!({ "url": format!("{}/{path}", site.origin) })).await?;
            sleep(SETTLE).await;
            let used = main_thread_ms(&tab).await?;
            tab.close().await?;
            // The first one fills the caches.
            if load > 0 {
                times.push(used);
            }
        }
    }
    let tab = browser.new_tab().await?;
    // A frame of the same site, whose requests its page's tab can tell; before, it was another site's, as in the world.
    tab.goto(&format!("{}/widget", site.near)).await?;
    Frame::widget(&tab).press(LIMIT).await;
    sleep(SETTLE).await;
    // What the site asks itself for is its own.
    let fetched = format!(
        "performance.getEntriesByType('resource').map((entry) => new URL(entry.name))
            .filter(({{ origin }}) => origin !== {:?}).map(({{ pathname }}) => pathname)",
        site.near
    );
    let mut requests: Vec<String> = tab.evaluate(&fetched).await?;
    requests.extend(Frame::widget(&tab).evaluate::<Vec<String>>(&fetched).await?);
    browser.close().await;
    requests.sort();
    requests.dedup();
    let others: Vec<&String> =
        requests.iter().filter(|path| !BEFORE_CONSENT.contains(&path.as_str())).collect();
    report.note(&format!("before consent the widget asked for {}", requests.join(" ")));
    report.row(
        Row::new("page.widget.other-requests", others.len() as f64, "requests").goal(Goal::ValueAtMost(0.0)),
    );
    let added =
        |with: &[f64]| median(&with.iter().zip(&plain).map(|(with, plain)| with - plain).collect::<Vec<_>>());
    report.row(
        Row::new("page.widget.host-time", added(&with), "ms")
            .with_peer(format!("an iframe {:.1} ms, the page alone {:.1} ms", added(&frame), median(&plain)))
            .goal(Goal::ValueAtMost(HOST_MS)),
    );
    report.row(Row::new("page.widget.at-once-time", added(&at_once), "ms"));
    report.row(
        Row::new("page.widget.card-time", added(&card), "ms")
            .with_peer(format!("a line of text from a script {:.1} ms", added(&line))),
    );
    Ok(())
}

/// Time that the page's main thread was busy, scripts, layout and painting included, in milliseconds.
async fn main_thread_ms(tab: &Tab) -> Result<f64> {
    let answer = tab.call("Performance.getMetrics", json!({})).await?;
    let metrics = answer["metrics"].as_array().into_iter().flatten();
    let task = metrics.filter(|one| one["name"] == "TaskDuration").find_map(|one| one["value"].as_f64());
    Ok(1e3 * task.context("Chromium tells no TaskDuration")?)
}

async fn quiet(report: &mut Report, relay: &TestRelay) -> Result<()> {
    let browser = browser(TabBackend::Wasm).await?;
    let idle = browser.new_tab().await?;
    idle.goto(&relay.api.url).await?;
    sleep(Duration::from_secs(3)).await;
    let without = share(&browser, Duration::from_secs(5)).await;
    idle.close().await?;
    let tab = lent(&browser, relay, PresetArg::Quiet, TabBackend::Wasm).await?;
    sleep(Duration::from_secs(3)).await;
    let parts = || browser.process_id().map(chromium_cpu).unwrap_or_default();
    let before = parts();
    let used = share(&browser, SHARE_TIME).await;
    let by_part = since(parts(), &before);
    let shown: f64 = tab.evaluate("document.getElementById('share-meter').value").await?;
    let moved: String = tab
        .evaluate("['bytes-in', 'bytes-out'].map((id) => document.getElementById(id).textContent).join(' ')")
        .await?;
    browser.close().await;
    let points = 100.0 * (used - without - shown).abs();
    report.row(Row::new("page.quiet.used", 100.0 * used, "% of a core"));
    report.row(Row::new("page.quiet.shown", 100.0 * shown, "%"));
    report.row(Row::new("page.quiet.difference", points, "points").goal(Goal::ValueAtMost(SHARE_POINTS)));
    report.note(&format!("Quiet, by part: {}; {moved} since the start", most(by_part, SHARE_TIME)));
    report.note(&format!(
        "Quiet: {:.1} % of a core over {} s, of which an idle page takes {:.1}; the page shows {:.1} %",
        100.0 * used,
        SHARE_TIME.as_secs(),
        100.0 * without,
        100.0 * shown
    ));
    Ok(())
}

async fn stops(report: &mut Report, relay: &TestRelay, backend: TabBackend) -> Result<()> {
    let browser = browser(backend).await?;
    let [mut times, mut drawing]: [Vec<f64>; 2] = Default::default();
    let mut slow = Vec::new();
    for stop in 0..2 * STOPS {
        // Every other time nothing computes any more: then what is left is the page that says thanks.
        let paused = stop % 2 == 1;
        let tab = lent(&browser, relay, PresetArg::Full, backend).await?;
        sleep(Duration::from_secs(2)).await;
        // Inputs come first.
        let lent_at = Instant::now();
        while share(&browser, Duration::from_millis(500)).await < 2.0 * IDLE_SHARE {
            ensure!(lent_at.elapsed() < LIMIT, "the tab computes nothing");
        }
        if paused {
            tab.click("#pause").await?;
            tab.wait_for("document.body.dataset.state === 'paused'", LIMIT).await?;
            sleep(WATCHED).await;
        }
        let clicked = "window.clicked = new Promise((resolve) => addEventListener('click', (event) => { \
            if (event.target.id === 'stop') resolve(performance.timeOrigin + performance.now()); }, true)); 0";
        let _: u8 = tab.evaluate(clicked).await?;
        let (pid, begins) = (browser.process_id().unwrap_or_default(), Instant::now());
        let offset = wall_ms() - begins.elapsed().as_secs_f64() * 1e3;
        let watching = tokio::task::spawn_blocking(move || watch(pid, begins));
        tab.click("#stop").await?;
        let at: f64 = tab.evaluate("window.clicked").await?;
        let (samples, by_part) = watching.await?;
        let calm = calm_after(&samples, (at - offset) / 1e3);
        if calm.is_none_or(|calm| 1e3 * calm > STOP_MS) {
            slow.push(format!(
                "{} {}",
                if paused { "after a pause:" } else { "while it computed:" },
                most(by_part, WATCHED)
            ));
        }
        if paused { &mut drawing } else { &mut times }.push(1e3 * calm.unwrap_or(f64::INFINITY));
        tab.close().await?;
    }
    browser.close().await;
    for told in slow {
        report.note(&format!("slow to stop, by part of a core over {} s, {told}", WATCHED.as_secs_f64()));
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let name = format!("page.stop.{}", backend.name());
    report.row(
        Row::new(format!("{name}.median"), median(&times), "ms")
            .with_peer(format!("with nothing to stop {:.0} ms", median(&drawing))),
    );
    report.row(Row::new(format!("{name}.worst"), worst, "ms").goal(Goal::ValueAtMost(STOP_MS)));
    Ok(())
}

fn wall_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

/// Seconds since `begins`, and seconds on processors until then. Threads that end take theirs along. And what took them.
fn watch(pid: u32, begins: Instant) -> (Vec<(f64, f64)>, Parts) {
    let parts = chromium_cpu(pid);
    let (mut samples, mut before, mut sum) = (Vec::new(), processes_cpu(pid), 0.0);
    // The click comes after the tab found its button at rest.
    while begins.elapsed() < WATCHED + Duration::from_millis(500) {
        std::thread::sleep(LOOK);
        let now = processes_cpu(pid);
        sum += now.saturating_sub(before).as_secs_f64();
        before = now;
        samples.push((begins.elapsed().as_secs_f64(), sum));
    }
    (samples, since(chromium_cpu(pid), &parts))
}

/// Processor time by part of Chromium.
type Parts = std::collections::BTreeMap<String, Duration>;

fn since(mut now: Parts, before: &Parts) -> Parts {
    for (name, time) in &mut now {
        *time = time.saturating_sub(before.get(name).copied().unwrap_or_default());
    }
    now
}

/// The parts that took most, as shares of a core over `whole`.
fn most(by_part: Parts, whole: Duration) -> String {
    let mut by_part: Vec<(String, Duration)> = by_part.into_iter().collect();
    by_part.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let share = |time: Duration| 100.0 * time.as_secs_f64() / whole.as_secs_f64();
    let told = by_part.iter().take(8).map(|(name, time)| format!("{name} {:.1} %", share(*time)));
    told.collect::<Vec<_>>().join(", ")
}

/// Seconds from `click` until the processors were left alone.
fn calm_after(samples: &[(f64, f64)], click: f64) -> Option<f64> {
    let calm = CALM.as_secs_f64();
    let after = samples.iter().filter(|(at, _)| *at >= click);
    after.copied().find_map(|(at, used)| {
        let (end, then) = samples.iter().copied().find(|(later, _)| *later >= at + calm)?;
        ((then - used) / (end - at) <= IDLE_SHARE).then_some(at - click)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_begins_where_the_work_ends() {
        // A core busy until 0.5 s, and nothing afterwards.
        let samples: Vec<(f64, f64)> =
            (0..200).map(|i| f64::from(i) * 0.01).map(|at| (at, at.min(0.5))).collect();
        let calm = calm_after(&samples, 0.3).unwrap();
        assert!((0.15..=0.21).contains(&calm), "{calm}");
        let busy: Vec<(f64, f64)> = samples.iter().map(|(at, _)| (*at, *at)).collect();
        assert_eq!(calm_after(&busy, 0.3), None);
    }
}
