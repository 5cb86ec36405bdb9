//! What stands in the way of a tab that lends, in real Chromium: battery, a hidden page, a second tab, a frozen page, a relay
//! that is down, a network that swallows everything, a lost device. Each is shown with its reason, and each passes.

use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::screen::keep;
use potluck_tests::{Api, TestRelay, alone};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Time for anything that a person would wait for, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const SHAPE: MatmulShape = MatmulShape { m: 256, k: 64, n: 256 };

/// Remembers every reason that the page shows.
const REASONS: &str = "addEventListener('DOMContentLoaded', () => {
  window.reasons = [];
  const reason = document.getElementById('reason');
  const look = () => { if (window.reasons.at(-1) !== reason.textContent) window.reasons.push(reason.textContent); };
  new MutationObserver(look).observe(reason, { childList: true, characterData: true, subtree: true });
});";

/// A battery that the test charges: no other part of the page is replaced.
const BATTERY: &str = "const battery = Object.assign(new EventTarget(), { charging: true });
  navigator.getBattery = async () => battery;
  window.charge = (charging) => { battery.charging = charging; battery.dispatchEvent(new Event('chargingchange')); };";

/// Remembers the devices that the engine uses. A worker that waits for its first line has no `GPUDevice` yet: it is watched
/// when the engine first speaks.
const DEVICES: &str = "{
  const post = self.postMessage;
  self.devices = new Set();
  let create = null;
  const arm = () => {
    create = GPUDevice.prototype.createBuffer;
    GPUDevice.prototype.createBuffer = function (...options) {
      self.devices.add(this);
      return create.apply(this, options);
    };
  };
  self.postMessage = (...message) => { if (!create && self.GPUDevice) arm(); post(...message); };
}";

/// What stands between a tab and its relay, and can swallow all that is sent, as a network does that is gone.
struct Network {
    address: SocketAddr,
    gone: watch::Sender<bool>,
}

impl Network {
    async fn before(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, gone) = (listener.local_addr().unwrap(), watch::Sender::new(false));
        let state = gone.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, relay, state.clone()));
            }
        });
        Self { address, gone }
    }
}

/// Carries one connection until the network is gone; then it stays open, and silent, for as long as that lasts.
async fn carry(mut near: TcpStream, relay: SocketAddr, mut gone: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(relay).await else { return };
    tokio::select! {
        _ = gone.wait_for(|gone| *gone) => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
    }
    drop(gone.wait_for(|gone| !*gone).await);
}

/// The relay brings a runtime of its own: it begins before the test's, and ends after it.
fn browser_test(test: impl AsyncFnOnce(&mut TestRelay)) {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut relay = TestRelay::start();
    runtime.block_on(test(&mut relay));
}

async fn browser(gpu: Gpu) -> Browser {
    assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    Browser::launch(&LaunchOptions { gpu, ..LaunchOptions::default() }).await.unwrap()
}

/// Two clicks, and nothing that a person would not have chosen: the tab waits where it waits by default.
async fn lends(tab: &Tab, url: &str, backend: &str) {
    tab.inject_into_pages(REASONS).await.unwrap();
    tab.inject_into_pages(BATTERY).await.unwrap();
    tab.inject_into_workers(DEVICES).unwrap();
    tab.goto(&format!("{url}/?preset=full&backend={backend}")).await.unwrap();
    tab.click("#lend").await.unwrap();
    tab.click("#agree").await.unwrap();
}

async fn until(tab: &Tab, condition: &str) {
    let waited = tab.wait_for(condition, LIMIT).await;
    if waited.is_err() {
        let page: String = tab.evaluate("document.querySelector('main').innerText").await.unwrap_or_default();
        let reasons: Value = tab.evaluate("window.reasons").await.unwrap_or_default();
        panic!("{waited:?} for {condition}\n{page}\n{reasons}\n{:?}", tab.console());
    }
}

/// Waits until the page shows why it waits.
async fn waits(tab: &Tab, why: &str) {
    let shows = format!("document.getElementById('reason').textContent.includes({})", Value::from(why));
    until(tab, &format!("document.body.dataset.state === 'waiting' && {shows}")).await;
}

/// Waits until the page has shown a reason, however shortly.
async fn has_said(tab: &Tab, why: &str) {
    until(tab, &format!("window.reasons.some((reason) => reason.includes({}))", Value::from(why))).await;
}

/// Waits until nothing stands in the way.
async fn goes_on(tab: &Tab) {
    waits(tab, "no work at the moment").await;
}

/// A product that only this tab can compute.
fn computes(api: &Api, seed: u64) {
    let known = LowRank::new(SHAPE, seed);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let (a, b) = (f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b));
    let job = json!({ "name": format!("product {seed}") });
    let result = tokio::task::block_in_place(|| api.result(&api.submit(&a, &b, &job), LIMIT));
    assert!(result.1 == known.c, "the product is wrong");
}

#[test]
fn batteries_are_named_and_pass() {
    browser_test(async |relay| {
        let browser = browser(Gpu::Off).await;
        let tab = browser.new_tab().await.unwrap();
        lends(&tab, &relay.api.url, "wasm").await;
        goes_on(&tab).await;
        computes(&relay.api, 1);

        let offer = "document.querySelector('#override:not([hidden])')?.textContent ?? ''";
        let _: Value = tab.evaluate("window.charge(false)").await.unwrap();
        waits(&tab, "Waiting for mains power").await;
        keep(&tab, "state-battery").await;
        let _: Value = tab.evaluate("window.charge(true)").await.unwrap();
        goes_on(&tab).await;
        let _: Value = tab.evaluate("window.charge(false)").await.unwrap();
        waits(&tab, "Waiting for mains power").await;
        assert_eq!(tab.evaluate::<String>(offer).await.unwrap(), "Lend anyway");
        tab.click("#override").await.unwrap();
        goes_on(&tab).await;
        computes(&relay.api, 3);
        browser.close().await;
    });
}

#[test]
fn a_hidden_tab_and_a_second_one_are_named_and_pass() {
    browser_test(async |relay| {
        let browser = browser(Gpu::Off).await;
        let tab = browser.new_tab().await.unwrap();
        lends(&tab, &relay.api.url, "wasm").await;
        goes_on(&tab).await;

        // Before this one in the same window, as a person opens it.
        let other = tab.beside().await.unwrap();
        waits(&tab, "Waiting until this tab is visible").await;
        keep(&tab, "state-hidden").await;
        lends(&other, &relay.api.url, "wasm").await;
        waits(&other, "Another tab of this browser lends").await;
        keep(&other, "state-second-tab").await;
        let offer = "document.querySelector('#override:not([hidden])')?.textContent ?? ''";
        assert_eq!(other.evaluate::<String>(offer).await.unwrap(), "Lend here instead");
        other.click("#override").await.unwrap();
        goes_on(&other).await;
        computes(&relay.api, 1);

        to_front(&tab).await;
        waits(&tab, "Another tab of this browser lends").await;
        to_front(&other).await;
        other.click("#stop").await.unwrap();
        until(&other, "document.body.dataset.state === 'finished'").await;
        to_front(&tab).await;
        goes_on(&tab).await;
        computes(&relay.api, 2);
        browser.close().await;
    });
}

#[test]
fn a_frozen_page_is_named_and_goes_on() {
    browser_test(async |relay| {
        let browser = browser(Gpu::Off).await;
        let tab = browser.new_tab().await.unwrap();
        lends(&tab, &relay.api.url, "wasm").await;
        goes_on(&tab).await;
        let other = tab.beside().await.unwrap();
        waits(&tab, "Waiting until this tab is visible").await;
        for state in ["frozen", "active"] {
            tab.call("Page.setWebLifecycleState", json!({ "state": state })).await.unwrap();
        }
        has_said(&tab, "The browser froze this page").await;
        waits(&tab, "Waiting until this tab is visible").await;
        to_front(&other).await;
        to_front(&tab).await;
        goes_on(&tab).await;
        computes(&relay.api, 1);
        browser.close().await;
    });
}

/// What a click on a tab of the window does.
async fn to_front(tab: &Tab) {
    tab.call("Page.bringToFront", json!({})).await.unwrap();
}

#[test]
fn a_relay_that_is_down_and_a_network_that_is_gone_are_named_and_pass() {
    browser_test(async |relay| {
        let address = relay.api.url.trim_start_matches("http://").parse().unwrap();
        let network = Network::before(address).await;
        let browser = browser(Gpu::Off).await;
        let tab = browser.new_tab().await.unwrap();
        lends(&tab, &format!("http://{}", network.address), "wasm").await;
        goes_on(&tab).await;

        // Nothing is closed, and nothing comes any more.
        network.gone.send_replace(true);
        waits(&tab, "The connection was lost").await;
        keep(&tab, "state-network-lost").await;
        network.gone.send_replace(false);
        goes_on(&tab).await;
        computes(&relay.api, 1);

        tokio::task::block_in_place(|| {
            relay.restart_after(|_| {
                let runtime = tokio::runtime::Handle::current();
                runtime.block_on(has_said_again(&tab));
            });
        });
        goes_on(&tab).await;
        computes(&relay.api, 2);
        browser.close().await;
    });
}

/// The relay is gone: the page says so while it is.
async fn has_said_again(tab: &Tab) {
    let lost = "['The connection was lost', 'The relay is busy'].some((why) => \
        document.getElementById('reason').textContent.includes(why))";
    until(tab, &format!("document.body.dataset.state === 'waiting' && {lost}")).await;
    keep(tab, "state-relay-down").await;
}

#[test]
fn a_lost_device_is_named_and_replaced() {
    browser_test(async |relay| {
        let browser = browser(Gpu::Auto).await;
        let tab = browser.new_tab().await.unwrap();
        lends(&tab, &relay.api.url, "webgpu").await;
        goes_on(&tab).await;
        computes(&relay.api, 1);
        let worker = tab.workers().pop().unwrap();
        let lose = "(() => { const lost = [...self.devices]; self.devices.clear(); \
            lost.forEach((device) => device.destroy()); return lost.length; })()";
        assert!(tab.evaluate_in_worker::<u64>(&worker, lose).await.unwrap() > 0, "the engine has a device");
        // Found when it is used next, and replaced: the work is done all the same.
        computes(&relay.api, 2);
        has_said(&tab, "The device failed").await;
        goes_on(&tab).await;
        let opened: u64 = tab.evaluate_in_worker(&worker, "self.devices.size").await.unwrap();
        assert!(opened > 0, "a new device was asked for");
        computes(&relay.api, 3);
        browser.close().await;
    });
}
