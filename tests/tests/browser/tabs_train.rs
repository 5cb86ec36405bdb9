//! Real tabs in a real Chromium train through the relay's real page: as one thread would, on WebGPU and on wasm, beside
//! native volunteers; tabs come and go; tabs that cheat are found out.
//!
//! One test: browsers run one at a time.

use potluck_cli::args::{PresetArg, RelayAddress, ReplayArgs, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::client::Client;
use potluck_cli::runs::replay;
use potluck_cli::stop::Stop;
use potluck_cli::tabs::{Lending, lend};
use potluck_proto::Preset;
use potluck_tests::runs::{SampleRun, info, record, rounds, updates, votes};
use potluck_tests::{Api, TestRelay, Volunteer, alone, has_page};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Time for some rounds of tabs whose WebGPU is software, on two cores.
const LIMIT: Duration = Duration::from_secs(240);
/// What rounding may do to the loss of a run of a few rounds, in nats. Losses fall by more than one.
const SAME: f64 = 0.02;

/// What a tab does with its update once it is told to, in JavaScript: `before` and `after` are the parameters.
const CHEATS: [(&str, &str); 5] = [
    ("scaled", "after.forEach((value, i) => { after[i] = before[i] + 3 * (value - before[i]); });"),
    // To powers of two: where rounding alone makes replays differ, the relay allows more, and at most a twentieth. What bf16
    // leaves out is less than that.
    (
        "rounded",
        "const coarse = new Float32Array(1), bits = new Uint32Array(coarse.buffer);
      after.forEach((value, i) => {
        coarse[0] = value - before[i];
        bits[0] &= 0xff800000;
        after[i] = before[i] + coarse[0];
      });",
    ),
    ("stale", "after.forEach((value, i) => { after[i] = before[i] + last[i]; });"),
    ("skipped", ""),
    ("other-data", ""),
];

/// The script of a cheat: wraps what the engine says to its GPU. From `self.armed` on it cheats, which the suite sets
/// when a round has counted: an attempt at a round that failed for lack of time is repeated by honest tabs.
fn cheat(name: &str, action: &str, parameters: u64) -> String {
    format!(
        "{{
  const bytes = {}, name = {name:?};
  const post = self.postMessage.bind(self);
  let before = null, last = null, steps = 0, hooked = false;
  self.cheats = 0;
  self.armed = false;
  const hook = () => {{
    hooked = true;
    const write = GPUQueue.prototype.writeBuffer;
    GPUQueue.prototype.writeBuffer = function (buffer, offset, data, ...rest) {{
      if (data.byteLength === bytes) {{
        before = new Float32Array(data.slice().buffer);
        steps = 0;
      }} else if (self.armed && name === 'other-data' && data.byteLength >= 3 * 1024 && data.byteLength < bytes) {{
        // A batch: its 256 inputs, then what should follow each of them.
        self.cheats += 1;
        const words = new Uint32Array(data.slice().buffer);
        words.subarray(256, 512).reverse();
        data = new Uint8Array(words.buffer);
      }}
      return write.call(this, buffer, offset, data, ...rest);
    }};
    const submit = GPUQueue.prototype.submit;
    GPUQueue.prototype.submit = function (commands) {{
      const list = [...commands];
      if (self.armed && name === 'skipped' && list.length > 1 && (steps += 1) > 2) {{
        self.cheats += 1;
        list.splice(0, list.length - 1);
      }}
      return submit.call(this, list);
    }};
    const range = GPUBuffer.prototype.getMappedRange;
    GPUBuffer.prototype.getMappedRange = function (...at) {{
      const mapped = range.apply(this, at);
      if (mapped.byteLength === bytes && before) {{
        const after = new Float32Array(mapped);
        const honest = after.map((value, i) => value - before[i]);
        if (self.armed && last) {{
          self.cheats += 1;
          {action}
        }}
        last = honest;
      }}
      return mapped;
    }};
  }};
  self.postMessage = (...message) => {{ if (!hooked && self.GPUQueue) hook(); post(...message); }};
}}",
        4 * parameters
    )
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn lent(browser: &Browser, api: &Api, backend: TabBackend, script: Option<&str>) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    if let Some(script) = script {
        tab.inject_into_workers(script).unwrap();
    }
    let lending = Lending { relay: api.url.clone(), backend, preset: PresetArg::Full };
    lend(&tab, &lending).await.unwrap();
    tab
}

/// Validation losses of the rounds, and the votes that counted in each.
fn told(api: &Api, id: &str) -> (Vec<f64>, Vec<Vec<(u32, f64)>>) {
    let info = info(api, id);
    let history = info["history"].as_array().unwrap();
    let losses = history.iter().map(|round| round["validation_loss"].as_f64().unwrap()).collect();
    let counted = (0..history.len() as u64).map(|round| votes(&record(api, id, round)));
    (losses, counted.collect())
}

/// The run is what one thread makes of the same workers' parts.
fn as_one_thread(sample: &SampleRun, api: &Api, id: &str) {
    let (losses, counted) = told(api, id);
    for round in 0..sample.rounds {
        assert_eq!(record(api, id, round)["combined"]["gate"], "kept", "round {round}");
    }
    let expected = sample.expected(|round| counted[round as usize].clone());
    println!("  validation loss {:.4} to {:.4}", losses[0], losses[losses.len() - 1]);
    for (round, (loss, expected)) in losses.iter().zip(&expected.losses).enumerate() {
        assert!((loss - expected).abs() <= SAME, "round {round}: {loss}, in one thread {expected}");
    }
    assert!(losses[losses.len() - 1] < losses[0] - 0.5, "{losses:?}");
}

/// Four tabs on WebGPU train; two are killed, one joins.
async fn tabs_come_and_go(browser: &Browser, api: &Api) -> String {
    let sample = SampleRun::new(12, [2, 6]);
    let (_, id) = sample.create(api, "four tabs");
    let mut tabs = Vec::new();
    for _ in 0..4 {
        tabs.push(lent(browser, api, TabBackend::Webgpu, None).await);
    }
    until("three rounds", || rounds(api, &id) >= 3).await;
    for tab in tabs.drain(2..) {
        tab.close().await.unwrap();
    }
    until("two more rounds", || rounds(api, &id) >= 5).await;
    tabs.push(lent(browser, api, TabBackend::Webgpu, None).await);
    until("the run is done", || info(api, &id)["state"] == "done").await;
    as_one_thread(&sample, api, &id);
    let records: Vec<Value> = (0..sample.rounds).map(|round| record(api, &id, round)).collect();
    for record in &records {
        assert!(updates(record, false).is_empty(), "nobody is refused: {record}");
        assert!(updates(record, true).iter().all(|(_, backend, _)| backend == "webgpu"), "{record}");
    }
    let counts: Vec<usize> = records.iter().map(|record| updates(record, true).len()).collect();
    assert!(counts.contains(&4), "four took part: {counts:?}");
    assert_eq!(counts.last(), Some(&3), "who joined takes part: {counts:?}");
    for tab in tabs {
        tab.close().await.unwrap();
    }
    id
}

/// The page draws the losses that the API tells, before anybody agrees to anything, and on a narrow screen as well.
async fn the_page_shows_the_run(browser: &Browser, api: &Api, id: &str) {
    let (losses, _) = told(api, id);
    let tab = browser.new_tab().await.unwrap();
    tab.goto(&format!("{}/", api.url)).await.unwrap();
    let rounds = losses.len();
    tab.wait_for(&format!("document.body.dataset.trainingRound === '{rounds}'"), LIMIT).await.unwrap();
    let drawn: String = tab
        .evaluate("document.querySelector('#training-chart polyline.validation').dataset.values")
        .await
        .unwrap();
    let drawn: Vec<f64> = drawn.split(' ').map(|value| value.parse().unwrap()).collect();
    assert_eq!(drawn, losses);
    let words: String =
        tab.evaluate("document.querySelector('#training-chart').getAttribute('aria-label')").await.unwrap();
    assert!(words.contains(&format!("over {rounds} rounds")), "{words}");
    let shown: String = tab.evaluate("document.querySelector('#training-round').textContent").await.unwrap();
    assert_eq!(shown, format!("{rounds} of {rounds}"));
    for (width, height) in [(1100, 1300), (360, 1500)] {
        tab.set_viewport(width, height, 1.0).await.unwrap();
        let drawn: f64 = tab
            .evaluate("document.querySelector('#training-chart .validation').getBoundingClientRect().width")
            .await
            .unwrap();
        assert!(drawn > f64::from(width) / 2.0 - 20.0, "the curve is {drawn} pixels wide");
        let fits: bool = tab
            .evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            .await
            .unwrap();
        assert!(fits, "nothing is cut off at {width} pixels");
        if let Some(folder) = std::env::var_os("POTLUCK_SHOTS") {
            let file = std::path::Path::new(&folder).join(format!("training-{width}.png"));
            std::fs::write(file, tab.screenshot().await.unwrap()).unwrap();
        }
    }
    assert!(tab.workers().is_empty(), "nothing runs before consent");
    tab.close().await.unwrap();
}

/// A tab on WebGPU, one on wasm and a native volunteer train in one run, and everybody can check them.
///
/// With codec S their streaks go on: what a tab keeps of a round on its GPU is where its next one starts.
async fn all_backends_pass_replay(browser: &Browser, api: &Api, codec: &'static str) {
    let mut sample = SampleRun::new(4, [3, 3]);
    (sample.audit, sample.codec) = ("all", codec);
    let (_, id) = sample.create(api, &format!("three backends, {codec}"));
    let native = Volunteer::start(&api.url, 1, Preset::Full);
    let tabs = [
        lent(browser, api, TabBackend::Webgpu, None).await,
        lent(browser, api, TabBackend::Wasm, None).await,
    ];
    until("the run is done", || info(api, &id)["state"] == "done").await;
    for round in 0..sample.rounds {
        let record = record(api, &id, round);
        let backends: BTreeSet<String> =
            updates(&record, true).into_iter().map(|(_, backend, _)| backend).collect();
        assert_eq!(backends, ["cpu", "wasm", "webgpu"].map(str::to_owned).into(), "{record}");
        for update in record["updates"].as_array().unwrap() {
            assert_eq!(update["audited"], true);
            let streak = update["task"]["streak"].as_array().unwrap().len() as u64;
            assert_eq!(streak, if codec == "topk" { round } else { 0 }, "{update}");
        }
    }
    let url = api.url.clone();
    let replayed = tokio::task::spawn_blocking(move || {
        let client = Client::new(&url, None, Stop::default()).unwrap();
        let args =
            ReplayArgs { run: id, round: 3, volunteer: None, json: true, relay: RelayAddress { relay: url } };
        replay::command(&args, &client)
    });
    replayed.await.unwrap().unwrap();
    drop(native);
    for tab in tabs {
        tab.close().await.unwrap();
    }
}

/// Tabs that cheat after a first honest round, beside honest volunteers.
async fn cheats_are_found_out(browser: &Browser, api: &Api) {
    // A round opens with all of the tabs: none is left behind.
    let mut sample = SampleRun::new(12, [CHEATS.len() as u32, 12]);
    // A tab that was honest for as many rounds as a newcomer's are replayed may go unreplayed once it cheats: on a slow machine
    // that many pass until the last of the tabs has had one.
    sample.audit = "all";
    let (_, id) = sample.create(api, "cheats");
    let parameters = info(api, &id)["parameters"].as_u64().unwrap();
    let mut tabs = Vec::new();
    for (name, action) in CHEATS {
        let script = cheat(name, action, parameters);
        tabs.push((name, lent(browser, api, TabBackend::Webgpu, Some(&script)).await));
    }
    // The cheats are enough for a first round; from then on there are honest ones as well.
    until("a first round", || rounds(api, &id) >= 1).await;
    for (name, tab) in &tabs {
        let started = Instant::now();
        while potluck_cli::tabs::status(tab).await.unwrap().accepted == 0 {
            assert!(started.elapsed() < LIMIT, "{name}: no honest round");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let worker = tab.workers().pop().unwrap();
        let armed: bool = tab.evaluate_in_worker(&worker, "self.armed = true").await.unwrap();
        assert!(armed);
    }
    // Updates of the round that is open now may have been made before.
    let armed = rounds(api, &id) + 1;
    let honest: Vec<_> = (1..=5).map(|name| Volunteer::start(&api.url, name, Preset::Full)).collect();
    until("the run is done", || info(api, &id)["state"] == "done").await;
    let (mut refused, mut counted) = (Vec::new(), 0);
    for round in 0..sample.rounds {
        let record = record(api, &id, round);
        refused.extend(updates(&record, false));
        let of_tabs: Vec<_> =
            updates(&record, true).into_iter().filter(|(_, backend, _)| backend == "webgpu").collect();
        assert!(of_tabs.is_empty() || round < armed, "a cheat counts in round {round}: {of_tabs:?}");
        counted += of_tabs.len() as u64;
    }
    assert!(counted > 0, "the tabs were honest at first");
    let mut accepted = 0;
    for (name, tab) in tabs {
        let worker = tab.workers().pop().unwrap();
        let cheats: u64 = tab.evaluate_in_worker(&worker, "self.cheats").await.unwrap();
        let shown = potluck_cli::tabs::status(&tab).await.unwrap();
        println!("  {name}: cheated {cheats} times, {shown:?}");
        assert!(cheats > 0 && shown.rejected > 0, "{name}: {shown:?}");
        accepted += shown.accepted;
        tab.close().await.unwrap();
    }
    assert_eq!(accepted, counted, "tabs know what counted");
    for (_, backend, verdict) in &refused {
        println!("  refused, {backend}: {verdict}");
    }
    assert!(refused.iter().all(|(_, backend, _)| backend == "webgpu"), "{refused:?}");
    assert!(refused.len() >= CHEATS.len(), "{refused:?}");
    as_one_thread(&sample, api, &id);
    drop(honest);
}

#[test]
fn tabs_train_and_cheats_are_found_out() {
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
    let started = Instant::now();
    let part = |name: &str| println!("{:6.1} s  {name}", started.elapsed().as_secs_f64());
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Software, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let id = tabs_come_and_go(&browser, &api).await;
        part("tabs trained, two left, one came");
        the_page_shows_the_run(&browser, &api, &id).await;
        part("the page shows it");
        all_backends_pass_replay(&browser, &api, "int4").await;
        all_backends_pass_replay(&browser, &api, "topk").await;
        part("WebGPU, wasm and native trained together");
        cheats_are_found_out(&browser, &api).await;
        part("cheats were found out");
        browser.close().await;
    });
}
