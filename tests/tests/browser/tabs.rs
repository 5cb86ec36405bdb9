//! Real tabs in a real Chromium, through the relay's real page: WebGPU and wasm compute right results, `auto` picks
//! the faster, a tab that lies is found out, Stop stops, and nothing of the engine comes before consent.
//!
//! One test: browsers run one at a time, and each part leaves what the next one needs.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::{Lending, lend, status};
use potluck_tests::npy::{self, LowRank, f32_file};
use potluck_tests::{Api, TestRelay, alone, has_page};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for a small job on tabs that run.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// Time for a tab to load its engine, calibrate itself and do what is asked.
const TAB_LIMIT: Duration = Duration::from_secs(90);
/// Time from the click on Stop until the page says that the work ended.
const STOP_LIMIT_MS: f64 = 250.0;
/// How often a lie is told before the honest tabs come: the third would end the liar's session.
const LIES: u64 = 2;
/// A job that lasts for a few seconds in a tab.
const LONG: MatmulShape = MatmulShape { m: 2048, k: 512, n: 2048 };

/// Remembers the last view that the engine sent to the page.
const LISTEN: &str = "{
  const post = self.postMessage.bind(self);
  const find = (value) => {
    if (!value || typeof value !== 'object' || ArrayBuffer.isView(value)) return null;
    if (Array.isArray(value.measured)) return value;
    return Object.values(value).map(find).find((found) => found) ?? null;
  };
  self.lastView = null;
  self.postMessage = (message, ...rest) => { self.lastView = find(message) ?? self.lastView; post(message, ...rest); };
}";

/// Once the tab is calibrated, one element of each result that comes back from the GPU is another. Needs [`LISTEN`].
/// The first: what comes back is padded to whole tiles, and a lie in the padding is none.
/// A worker that waits for its first line has no `GPUBuffer` yet: it is replaced when the engine first speaks.
const LIE: &str = "{
  const post = self.postMessage;
  self.lies = 0;
  let honest = null;
  const arm = () => {
    honest = GPUBuffer.prototype.getMappedRange;
    GPUBuffer.prototype.getMappedRange = function (...range) {
      const bytes = honest.apply(this, range);
      if (self.lastView?.backend && bytes.byteLength >= 1024) {
        const elements = new Float32Array(bytes);
        elements[0] = -elements[0] - 1;
        self.lies += 1;
      }
      return bytes;
    };
  };
  self.postMessage = (...message) => { if (!honest && self.GPUBuffer) arm(); post(...message); };
}";

/// Measures the time from the click on Stop until the page's state says that the work ended.
const STOPWATCH: &str = "addEventListener('DOMContentLoaded', () => {
  window.stopped = new Promise((resolve) => {
    let clicked = null;
    addEventListener('click', (event) => {
      if (event.target.closest?.('#stop')) clicked ??= performance.now();
    }, true);
    new MutationObserver(() => {
      if (clicked !== null && document.body.dataset.state === 'finished') resolve(performance.now() - clicked);
    }).observe(document.body, { attributes: true, attributeFilter: ['data-state'] });
  });
});";

/// Everything that the page fetched so far.
const RESOURCES: &str =
    "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)";

fn lending(api: &Api, backend: TabBackend) -> Lending {
    Lending { relay: api.url.clone(), backend, preset: PresetArg::Full }
}

/// A tab that lends itself, and listens to its engine.
async fn lent(browser: &Browser, api: &Api, backend: TabBackend) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.inject_into_workers(LISTEN).unwrap();
    tab.inject_into_pages(STOPWATCH).await.unwrap();
    lend(&tab, &lending(api, backend)).await.unwrap();
    calibrated(&tab).await;
    tab
}

/// Waits until the tab knows what computes.
async fn calibrated(tab: &Tab) {
    let waited = tab.wait_for("document.body.dataset.backend", TAB_LIMIT).await;
    assert!(waited.is_ok(), "{waited:?}: {:?}", tab.console());
}

/// The digits, and their Gram matrix: whole numbers up to 16, so every f32 sum is exact.
struct Digits {
    file: Vec<u8>,
    gram: Vec<f64>,
}

impl Digits {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/digits.npy");
        let file = std::fs::read(path).unwrap();
        let (shape, values) = npy::read(&file);
        let (rows, cols) = (shape[0] as u32, shape[1] as u32);
        let gram = npy::product(MatmulShape { m: rows, k: cols, n: rows }, &values, &values, true);
        Self { file, gram }
    }

    fn submit(&self, api: &Api, name: &str) -> String {
        api.submit(&self.file, &self.file, &json!({ "transpose_b": true, "name": name }))
    }

    /// Waits for a job of these, checks its result, and returns its state.
    fn finished(&self, api: &Api, id: &str) -> Value {
        let (_, c) = api.result(id, JOB_LIMIT);
        assert!(c == self.gram, "the Gram matrix of the digits is wrong");
        api.job(id)
    }
}

/// Accepted shards of each volunteer, and the backends that computed them.
fn contributors(job: &Value) -> BTreeMap<String, (String, u64)> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let list = job["contributors"].as_array().unwrap();
    list.iter()
        .map(|one| (text(one, "volunteer"), (text(one, "backend"), one["shards"].as_u64().unwrap())))
        .collect()
}

async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The page before consent: nothing of the engine is asked for, no socket is opened, and only a person's click counts.
async fn nothing_before_consent(browser: &Browser, api: &Api) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.inject_into_workers(LISTEN).unwrap();
    tab.inject_into_pages(STOPWATCH).await.unwrap();
    tab.goto(&lending(api, TabBackend::Webgpu).address()).await.unwrap();
    let engine = async || -> Vec<String> {
        let fetched: Vec<String> = tab.evaluate(RESOURCES).await.unwrap();
        assert!(fetched.iter().any(|path| path.ends_with(".js")), "the page itself was fetched: {fetched:?}");
        // `workers.js` names the Workers' scripts, and starts none before consent.
        let engine =
            |path: &String| path != "/workers.js" && (path.contains("wasm") || path.contains("worker"));
        fetched.into_iter().filter(engine).collect()
    };
    assert_eq!(status(&tab).await.unwrap().state, "idle");
    assert_eq!(engine().await, Vec::<String>::new());
    // What a script clicks is no consent.
    let _: Value = tab.evaluate("document.querySelector('#lend').click()").await.unwrap();
    tab.click("#lend").await.unwrap();
    tab.wait_for("document.body.dataset.state === 'consent'", TAB_LIMIT).await.unwrap();
    let _: Value = tab.evaluate("document.querySelector('#agree').click()").await.unwrap();
    assert_eq!(status(&tab).await.unwrap().state, "consent", "a script cannot consent");
    assert_eq!(engine().await, Vec::<String>::new());
    assert!(tab.workers().is_empty() && api.metric("sessions") == 0);
    tab.click("#agree").await.unwrap();
    calibrated(&tab).await;
    assert!(!tab.workers().is_empty() && api.metric("sessions") == 1);
    tab
}

/// Two tabs compute the digits job on one backend.
async fn both_compute(tabs: &[Tab], api: &Api, digits: &Digits, backend: &str) {
    for tab in tabs {
        assert_eq!(status(tab).await.unwrap().backend, backend, "{:?}", tab.console());
    }
    let job = digits.finished(api, &digits.submit(api, backend));
    let by = contributors(&job);
    assert_eq!(by.len(), tabs.len(), "each tab takes part: {job}");
    assert!(by.values().all(|(used, shards)| used == backend && *shards > 0), "{job}");
    assert_eq!(job["rejections"], json!([]));
}

/// Stop in the middle of a shard. Returns what the tab had contributed to the job by then.
async fn stop_ends_work(tab: &Tab, api: &Api, job: &str) -> BTreeMap<String, (String, u64)> {
    until("the tab computes", TAB_LIMIT, async || api.metric("leases") > 0 && api.job(job)["shards"] != 0)
        .await;
    tab.click("#stop").await.unwrap();
    let took: f64 = tab.evaluate("window.stopped").await.unwrap();
    println!("Stop took {took:.1} ms");
    assert!(took <= STOP_LIMIT_MS, "Stop took {took:.1} ms");
    until("the relay sees it", TAB_LIMIT, async || {
        api.metric("sessions") == 0 && api.metric("leases") == 0 && api.metric("result_bytes") == 0
    })
    .await;
    contributors(&api.job(job))
}

/// `auto` takes the backend that was measured to be faster.
async fn auto_is_the_faster(browser: &Browser, api: &Api) {
    let tab = lent(browser, api, TabBackend::Auto).await;
    let worker = tab.workers().pop().unwrap();
    let view: Value = tab.evaluate_in_worker(&worker, "({ ...self.lastView, picture: null })").await.unwrap();
    let of = |wasm: bool| {
        let kernels = view["measured"].as_array().unwrap().iter();
        let kind = |one: &&Value| {
            let name = one["kernel"].as_str().unwrap().to_lowercase();
            (name.contains("wasm") || name.contains("cpu")) == wasm
        };
        let right = kernels.filter(|one| one["rejected"].is_null()).filter(kind);
        right.map(|one| one["gflops"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    let (webgpu, wasm) = (of(false), of(true));
    println!("measured: WebGPU {webgpu:.1} GFLOP/s, wasm {wasm:.1} GFLOP/s, chosen {}", view["backend"]);
    assert!(wasm > 0.0, "wasm always works: {view}");
    assert_eq!(status(&tab).await.unwrap().backend, if webgpu > wasm { "webgpu" } else { "wasm" }, "{view}");
    tab.close().await.unwrap();
}

/// A WebGPU tab that lies: every result of it is rejected, and it says so.
async fn liar_is_found_out(browser: &Browser, api: &Api, job: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.inject_into_workers(LISTEN).unwrap();
    tab.inject_into_workers(LIE).unwrap();
    lend(&tab, &lending(api, TabBackend::Webgpu)).await.unwrap();
    calibrated(&tab).await;
    let rejections = || api.job(job)["rejections"].as_array().unwrap().clone();
    let count = |list: &[Value]| list.iter().map(|one| one["count"].as_u64().unwrap()).sum::<u64>();
    until("the lies are found out", TAB_LIMIT, async || count(&rejections()) >= LIES).await;
    assert!(rejections().iter().all(|one| one["reason"] == "wrong_product"), "{:?}", rejections());
    let worker = tab.workers().pop().unwrap();
    let lies: u64 = tab.evaluate_in_worker(&worker, "self.lies").await.unwrap();
    assert!(lies >= LIES, "the rejected results are the lies");
    let shown = status(&tab).await.unwrap();
    assert_eq!((shown.backend.as_str(), shown.accepted), ("webgpu", 0));
    assert_eq!(contributors(&api.job(job)).len(), 0, "no lie counts");
    tab
}

#[test]
fn tabs_compute_and_lies_are_found_out() {
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
    let digits = Digits::read();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let started = Instant::now();
    let part = |name: &str| println!("{:6.1} s  {name}", started.elapsed().as_secs_f64());
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Software, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let first = nothing_before_consent(&browser, &api).await;
        part("nothing came before consent");
        let mut tabs = vec![first, lent(&browser, &api, TabBackend::Webgpu).await];
        both_compute(&tabs, &api, &digits, "webgpu").await;
        part("two WebGPU tabs computed");

        tabs.pop().unwrap().close().await.unwrap();
        until("the closed tab is gone", TAB_LIMIT, async || api.metric("sessions") == 1).await;
        let known = LowRank::new(LONG, 3);
        let (m, k, n) = (LONG.m as usize, LONG.k as usize, LONG.n as usize);
        let long = api.submit(
            &f32_file(&[m, k], &known.a),
            &f32_file(&[k, n], &known.b),
            &json!({ "name": "long" }),
        );
        let before = stop_ends_work(&tabs[0], &api, &long).await;
        part("Stop ended the work");

        let tabs =
            [lent(&browser, &api, TabBackend::Wasm).await, lent(&browser, &api, TabBackend::Wasm).await];
        if std::env::var("POTLUCK_BLESS").is_ok_and(|value| value == "1") {
            tabs[0].wait_for("Number(document.body.dataset.accepted) > 0", TAB_LIMIT).await.unwrap();
            tabs[0].set_viewport(1100, 940, 1.0).await.unwrap();
            let _: Value = tabs[0].evaluate("scrollTo(0, 0)").await.unwrap();
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/page.png");
            std::fs::write(page, tabs[0].screenshot().await.unwrap()).unwrap();
        }
        assert!(api.result(&long, JOB_LIMIT).1 == known.c, "the long product is wrong");
        let after = contributors(&api.job(&long));
        for (volunteer, part) in &before {
            assert_eq!(after.get(volunteer), Some(part), "a stopped tab went on");
        }
        both_compute(&tabs, &api, &digits, "wasm").await;
        part("two wasm tabs computed");
        for tab in tabs {
            tab.close().await.unwrap();
        }
        auto_is_the_faster(&browser, &api).await;
        part("auto picked the faster");

        until("the closed tabs are gone", TAB_LIMIT, async || api.metric("sessions") == 0).await;
        let job = digits.submit(&api, "among liars");
        let liar = liar_is_found_out(&browser, &api, &job).await;
        let honest = lent(&browser, &api, TabBackend::Wasm).await;
        let done = digits.finished(&api, &job);
        assert!(contributors(&done).values().all(|(backend, _)| backend == "wasm"), "a lie counted: {done}");
        let list = done["rejections"].as_array().unwrap();
        assert!(
            list.iter().all(|one| one["volunteer"] == list[0]["volunteer"]),
            "only the liar is blamed: {done}"
        );
        part("a liar was found out");
        for tab in [liar, honest] {
            tab.close().await.unwrap();
        }
        browser.close().await;
    });
}
