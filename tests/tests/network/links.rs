//! Tabs that exchange inputs with each other, in a real Chromium, through the relay's real page: over channels that were
//! transferred to their Workers, and over piped ones; and a tab that hides its address, which makes no connection at all.
//!
//! One test: browsers run one at a time.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::{Lending, status, stop};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Api, TestRelay, alone, has_page};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::time::Duration;

/// Time for a tab to load its engine, calibrate itself and do what is asked.
const TAB_LIMIT: Duration = Duration::from_secs(90);
/// Time for the job.
const JOB_LIMIT: Duration = Duration::from_secs(120);
/// Many tiles that share inputs of 1 MiB each.
const SHAPE: MatmulShape = MatmulShape { m: 2048, k: 1024, n: 2048 };

/// Counts the page's connections, and notes what keeps its thread busy and what it hears from the Worker.
const COUNT: &str = "{
  const Plain = self.RTCPeerConnection;
  self.connections = new Set();
  self.RTCPeerConnection = class extends Plain {
    constructor(...how) {
      super(...how);
      self.connections.add(this);
    }
  };
  self.transferred = 0;
  self.longest = 0;
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, transfer) {
    const posted = post.call(this, message, transfer);
    self.transferred += (transfer ?? []).filter((one) => one instanceof RTCDataChannel).length;
    return posted;
  };
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) self.longest = Math.max(self.longest, duration);
  }).observe({ type: 'longtask' });
}";

/// As in a browser that cannot transfer channels.
const NO_TRANSFER: &str = "{
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, transfer) {
    if (transfer?.some((one) => one instanceof RTCDataChannel)) throw new DOMException('no', 'DataCloneError');
    return post.call(this, message, transfer);
  };
}";

const OPEN: &str = "[...connections].filter(({ signalingState }) => signalingState !== 'closed').length";

/// A tab that lends itself. `more` is added to the page's address.
async fn lent(browser: &Browser, api: &Api, script: &str, more: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.inject_into_pages(COUNT).await.unwrap();
    tab.inject_into_pages(script).await.unwrap();
    let lending = Lending { relay: api.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Full };
    tab.goto(&format!("{}{more}", lending.address())).await.unwrap();
    tab.click("#lend").await.unwrap();
    if let Some(folder) = std::env::var_os("POTLUCK_SHOTS") {
        shots(&tab, &folder, "consent").await;
    }
    tab.click("#agree").await.unwrap();
    wait(&tab, "document.body.dataset.backend").await;
    tab
}

async fn wait(tab: &Tab, expression: &str) {
    let waited = tab.wait_for(expression, TAB_LIMIT).await;
    assert!(waited.is_ok(), "{waited:?}: {:?}", tab.console());
}

async fn has_peers(tab: &Tab, peers: usize) {
    wait(tab, &format!("document.body.dataset.peers === '{peers}'")).await;
}

async fn number(tab: &Tab, expression: &str) -> u64 {
    tab.evaluate::<f64>(&format!("Number({expression})")).await.unwrap() as u64
}

async fn text(tab: &Tab, selector: &str) -> String {
    tab.evaluate(&format!("document.querySelector('{selector}').innerText")).await.unwrap()
}

/// Presses a key on the switch of the running view: whether it is on then.
async fn press_switch(tab: &Tab, key: &str) -> bool {
    let _: Value = tab.evaluate("document.querySelector('#relay-only-now').focus()").await.unwrap();
    tab.press(key).await.unwrap();
    let both = "['relay-only', 'relay-only-now'].map((id) => document.getElementById(id).ariaChecked)";
    let both: [String; 2] = tab.evaluate(both).await.unwrap();
    assert_eq!(both[0], both[1], "one choice, at both places");
    both[0] == "true"
}

async fn shots(tab: &Tab, folder: &std::ffi::OsStr, name: &str) {
    for (width, height) in [(1100, 1300), (360, 2200)] {
        tab.set_viewport(width, height, 1.0).await.unwrap();
        let file = std::path::Path::new(folder).join(format!("{name}-{width}.png"));
        std::fs::write(file, tab.screenshot().await.unwrap()).unwrap();
    }
}

/// A job that all tabs compute: its result is right.
async fn compute(api: &Api, name: &str) {
    let known = LowRank::new(SHAPE, 3);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let [a, b] = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    let (api, name) = (api.clone(), name.to_owned());
    let result = tokio::task::spawn_blocking(move || {
        let id = api.submit(&a, &b, &json!({ "name": name }));
        api.result(&id, JOB_LIMIT).1
    });
    assert!(result.await.unwrap() == known.c, "the product is wrong");
}

#[test]
fn tabs_exchange_inputs_and_a_hidden_one_makes_no_connection() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !has_page(&api) {
        return;
    }
    assert!(
        find_chromium().is_some(),
        "no Chromium: install it, set CHROME, or let `cargo xtask test` do it"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let mut tabs = vec![
            lent(&browser, &api, "", "").await,
            lent(&browser, &api, "", "").await,
            lent(&browser, &api, NO_TRANSFER, "").await,
        ];
        let hidden = lent(&browser, &api, "", "&peers=off").await;
        for tab in &tabs {
            has_peers(tab, 2).await;
        }
        for tab in &tabs {
            let _: Value = tab.evaluate("self.longest = 0").await.unwrap();
        }
        compute(&api, "among peers").await;
        let mut sums = [0; 3];
        for (i, tab) in tabs.iter().enumerate() {
            // The page hears of the last bytes a moment later.
            wait(tab, "document.body.dataset.state === 'waiting'").await;
            let mut figures = [0; 3];
            for (figure, name) in figures.iter_mut().zip(["fromPeers", "toPeers", "fromRelay"]) {
                *figure = number(tab, &format!("document.body.dataset.{name}")).await;
            }
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
            let longest = number(tab, "longest").await;
            let transferred = number(tab, "transferred").await;
            println!("{figures:?} bytes from peers, to peers, from the relay; longest task {longest} ms");
            // A channel on which something came before the Worker took it cannot go there: the page passes its messages on.
            let expected = if i == 2 { 0..=0 } else { 1..=2 };
            assert!(expected.contains(&transferred), "{transferred} channels were transferred");
            assert!(figures[0] > 0 && figures[1] > 0, "{figures:?}: {:?}", tab.console());
            // On a machine with more to do than this, a link may break; then it comes again.
            has_peers(tab, 2).await;
            wait(tab, &format!("{OPEN} === 2")).await;
            wait(tab, "document.querySelector('#peers').innerText === '2 connected'").await;
            wait(tab, "document.querySelectorAll('[data-path=direct]').length === 2").await;
        }
        if let Some(folder) = std::env::var_os("POTLUCK_SHOTS") {
            shots(&tabs[0], &folder, "peers").await;
        }
        assert!(status(&hidden).await.unwrap().accepted > 0, "it computes as well");
        let of_hidden = async |expression: &str| number(&hidden, expression).await;
        assert_eq!(of_hidden("connections.size").await, 0, "who hides makes no connection");
        assert_eq!(of_hidden("document.body.dataset.fromPeers").await, 0);
        assert!(of_hidden("document.body.dataset.fromRelay").await > 0);
        assert_eq!(text(&hidden, "#peers").await, "Relay only");

        // Shown from now on, and hidden again.
        assert!(!press_switch(&hidden, " ").await);
        has_peers(&hidden, 3).await;
        has_peers(&tabs[0], 3).await;
        assert!(press_switch(&hidden, "Enter").await);
        has_peers(&hidden, 0).await;
        wait(&hidden, &format!("{OPEN} === 0")).await;
        for tab in &tabs {
            has_peers(tab, 2).await;
        }

        // Who stops leaves nothing open, and the others hear of it.
        let gone = tabs.remove(0);
        stop(&gone).await.unwrap();
        assert_eq!(number(&gone, OPEN).await, 0);
        for tab in &tabs {
            has_peers(tab, 1).await;
        }
        for tab in tabs.into_iter().chain([gone, hidden]) {
            tab.close().await.unwrap();
        }
        browser.close().await;
    });
}
