//! Trust in the browser, with a real relay and real Chromium: tabs watch the relay's log and leave a relay whose log forks;
//! receipts are checked in the page; people read, propose and vote on the governance page.
//!
//! Each test has its own relay; browsers run one at a time.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::{Lending, lend, stop};
use potluck_ledger::{ForkEvidence, VerifierKey};
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Api, TestRelay, Volunteer, wait_until};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
const SHAPE: MatmulShape = MatmulShape { m: 256, k: 64, n: 256 };

/// Browsers on two cores starve each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn browser() -> Browser {
    assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await.unwrap()
}

fn lending(api: &Api) -> Lending {
    Lending { relay: api.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Full }
}

fn submit(api: &Api, seed: u64) -> String {
    let known = LowRank::new(SHAPE, seed);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let name = format!("product {seed}");
    api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({ "name": name }))
}

/// A product, computed by whoever lends.
fn computed(api: &Api, seed: u64) {
    api.result(&submit(api, seed), LIMIT);
}

/// A product, computed by a native volunteer.
fn computed_natively(api: &Api, seed: u64) {
    let volunteer = Volunteer::start(&api.url, 9, Preset::Full);
    computed(api, seed);
    drop(volunteer);
}

fn entries(api: &Api) -> u64 {
    api.get("/api/v1/log").json()["entries"].as_u64().unwrap()
}

fn log_key(api: &Api) -> VerifierKey {
    api.get("/api/v1/log").text("key").parse().unwrap()
}

/// What the page says about something.
async fn data(tab: &Tab, name: &str) -> String {
    tab.evaluate(&format!("document.body.dataset[{name:?}] ?? ''")).await.unwrap()
}

async fn until(tab: &Tab, condition: &str) {
    let waited = tab.wait_for(condition, LIMIT).await;
    if waited.is_err() {
        let page: String = tab.evaluate("document.querySelector('main').innerText").await.unwrap_or_default();
        panic!("{waited:?} for {condition}\n{page}\n{:?}", tab.console());
    }
}

async fn remembered(tab: &Tab, size: u64) {
    until(tab, &format!("Number(document.body.dataset.logSize ?? 0) >= {size}")).await;
    assert_eq!(data(tab, "log").await, "consistent");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Puts an older copy of a relay's data in their place.
fn replace(data: &Path, backup: &Path) {
    std::fs::remove_dir_all(data.join("log")).unwrap();
    for name in ["potluck.db", "potluck.db-wal", "potluck.db-shm"] {
        drop(std::fs::remove_file(data.join(name)));
    }
    copy(backup, data);
}

/// As [`TestRelay::restart_after`], which brings a runtime of its own.
fn restart(relay: &mut TestRelay, meanwhile: impl FnOnce(&Path)) {
    tokio::task::block_in_place(|| relay.restart_after(meanwhile));
}

/// Clicks through the consent, whatever comes of it.
async fn agree(tab: &Tab) {
    tab.click("#lend").await.unwrap();
    tab.click("#agree").await.unwrap();
}

/// The evidence that the page keeps, checked as anybody can.
async fn assert_proved(tab: &Tab, key: &VerifierKey) {
    let kept = "JSON.parse(localStorage.getItem('potluck.log.alarm'))";
    let alarm: Value = tab.evaluate(kept).await.unwrap();
    let evidence = ForkEvidence::parse(alarm["evidence"].as_str().unwrap().as_bytes()).unwrap();
    let (older, newer) = evidence.verify(key.name(), key).unwrap();
    assert!(older.head().size <= newer.head().size);
    // It was sent to the relay, which may or may not want to know.
    let sent =
        "performance.getEntriesByType('resource').some((one) => one.name.endsWith('/api/v1/log/forks'))";
    until(tab, sent).await;
}

/// Nothing is computed, and the page says why.
async fn assert_stopped(tab: &Tab, api: &Api) {
    assert_eq!(data(tab, "state").await, "failed");
    assert!(tab.evaluate::<bool>("document.querySelector('#lend').disabled").await.unwrap());
    assert!(tab.evaluate::<bool>("!document.querySelector('#alarm').hidden").await.unwrap());
    wait_until("the tab is gone", LIMIT, || api.metric("sessions") == 0);
    wait_until("it gave its leases back", LIMIT, || api.metric("leases") == 0);
}

#[test]
fn tabs_leave_a_relay_whose_log_forks() {
    let _alone = alone();
    let mut relay = TestRelay::start();
    let api = relay.api.clone();
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    computed_natively(&api, 1);
    wait_until("the log is published", LIMIT, || entries(&api) >= 4);
    relay.restart_after(|data| copy(data, &backup));
    let key = log_key(&api);

    runtime().block_on(async {
        let browser = browser().await;
        let tab = browser.new_tab().await.unwrap();
        lend(&tab, &lending(&api)).await.unwrap();
        remembered(&tab, 4).await;
        // The log goes on, and so does the tab.
        let before = entries(&api);
        computed(&api, 2);
        remembered(&tab, before + 2).await;
        let seen = entries(&api);
        remembered(&tab, seen).await;
        stop(&tab).await.unwrap();
        assert_eq!(data(&tab, "alarm").await, "");

        // It goes on from an older copy, until it is longer than what the tab saw.
        restart(&mut relay, |data| replace(data, &backup));
        let mut seed = 10;
        while entries(&api) <= seen {
            computed_natively(&api, seed);
            seed += 1;
        }
        tab.goto(&lending(&api).address()).await.unwrap();
        assert_eq!(data(&tab, "alarm").await, "", "nothing is asked for before consent");
        let workers = tab.workers().len();
        agree(&tab).await;
        until(&tab, "document.body.dataset.alarm === 'fork'").await;
        assert_eq!(tab.workers().len(), workers, "no engine was started");
        assert_stopped(&tab, &api).await;
        assert_proved(&tab, &key).await;

        // It lasts, until the person says so.
        tab.goto(&lending(&api).address()).await.unwrap();
        assert_eq!(data(&tab, "alarm").await, "fork");
        assert_stopped(&tab, &api).await;
        let _: Value = tab.evaluate("document.querySelector('#start-anew').click()").await.unwrap();
        assert_eq!(data(&tab, "alarm").await, "fork", "a script cannot say so");
        tab.click("#start-anew").await.unwrap();
        assert_eq!(data(&tab, "alarm").await, "");
        agree(&tab).await;
        remembered(&tab, seen + 1).await;

        // While it lends: first entries are gone, which proves nothing to others; then others are in their place.
        computed(&api, 3);
        let seen = entries(&api);
        remembered(&tab, seen).await;
        restart(&mut relay, |data| replace(data, &backup));
        until(&tab, "document.body.dataset.alarm === 'rollback'").await;
        assert_stopped(&tab, &api).await;
        while entries(&api) <= seen {
            computed_natively(&api, seed);
            seed += 1;
        }
        until(&tab, "document.body.dataset.alarm === 'fork'").await;
        assert_proved(&tab, &key).await;
        assert_stopped(&tab, &api).await;

        // Another browser has seen nothing else, and lends.
        let stranger = browser.new_tab().await.unwrap();
        lend(&stranger, &lending(&api)).await.unwrap();
        remembered(&stranger, seen + 1).await;
        browser.close().await;
    });
}
