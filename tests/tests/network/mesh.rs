//! Tabs and native volunteers that pass inputs on to each other: products and training runs come out as without, and
//! those who cheat at passing on are dropped while the work goes on.
//!
//! One browser at a time; what needs no browser is in tests of its own.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::Lending;
use potluck_cli::volunteer::Exchange;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::process::Process;
use potluck_tests::runs::{SampleRun, info, record, votes};
use potluck_tests::{Api, TestRelay, Volunteer, alone, has_page, wait_until};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Duration;

/// Time for a small job or run, or for a program to start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);
/// Inputs of 8 MiB each, in panels of which every volunteer needs many.
const SHAPE: MatmulShape = MatmulShape { m: 2048, k: 1024, n: 2048 };
/// What rounding may do to the loss of a run of a few rounds, in nats.
const SAME: f64 = 0.02;

/// What a tab does with what it sends to peers, as a function body of `frame` (a `Uint8Array`): what is sent instead, or
/// nothing. The second byte of a frame is its kind: 0xca is a group.
const CHEATS: [(&str, &str); 3] = [
    (
        "corrupts",
        "if (frame[1] !== 0xca || (self.groups = (self.groups ?? 0) + 1) % 10) return frame;
      const wrong = frame.slice();
      wrong[wrong.length - 9] ^= 1;
      return wrong;",
    ),
    ("stalls", "return frame[1] === 0xca ? null : frame;"),
    (
        "lies",
        // Hash and number of the group stay; it says that it does not give it, after it said that it holds it.
        "if (frame[1] !== 0xca) return frame;
      let end = 34;
      while (frame[end] & 0x80) end += 1;
      const refused = new Uint8Array(end + 2);
      refused.set(frame.subarray(0, end + 1));
      refused[1] = 0xcb;
      refused[end + 1] = 1;
      return refused;",
    ),
];

fn cheat(action: &str) -> String {
    format!(
        "{{
  self.cheats = 0;
  const send = RTCDataChannel.prototype.send;
  RTCDataChannel.prototype.send = function (data) {{
    const frame = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const instead = ((frame) => {{ {action} }})(frame);
    if (instead !== frame) self.cheats += 1;
    if (instead) send.call(this, instead);
  }};
}}"
    )
}

fn can_browse(api: &Api) -> bool {
    let built = has_page(api);
    let found = find_chromium().is_some();
    assert!(!built || found, "no Chromium: install it, set CHROME, or let `cargo xtask test` do it");
    built
}

async fn lent(browser: &Browser, api: &Api, script: Option<&str>, more: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    if let Some(script) = script {
        tab.inject_into_workers(script).unwrap();
    }
    lend(&tab, api, more).await;
    tab
}

/// A person opens the page, agrees, and lends the tab.
async fn lend(tab: &Tab, api: &Api, more: &str) {
    let lending = Lending { relay: api.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Full };
    tab.goto(&format!("{}{more}", lending.address())).await.unwrap();
    tab.click("#lend").await.unwrap();
    tab.click("#agree").await.unwrap();
    let ready = tab.wait_for("document.body.dataset.backend", LIMIT).await;
    assert!(ready.is_ok(), "{ready:?}: {:?}", tab.console());
}

async fn figure(tab: &Tab, name: &str) -> u64 {
    tab.evaluate::<f64>(&format!("Number(document.body.dataset.{name} ?? 0)")).await.unwrap() as u64
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A product, computed by whoever is there.
async fn compute(api: &Api, known: &LowRank, name: &str) {
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    let (api, name) = (api.clone(), name.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let id = api.submit(&files[0], &files[1], &json!({ "name": name }));
        api.result(&id, LIMIT).1
    });
    assert!(found.await.unwrap() == known.c, "the product is wrong");
}

/// A training run of three workers: it is what one thread makes of the same workers' parts.
async fn train(api: &Api, key: &str) {
    let sample = SampleRun::new(4, [3, 3]);
    let (_, id) = sample.create(api, key);
    until("the run is done", async || info(api, &id)["state"] == "done").await;
    let told = info(api, &id);
    let losses =
        told["history"].as_array().unwrap().iter().map(|round| round["validation_loss"].as_f64().unwrap());
    let expected = sample.expected(|round| votes(&record(api, &id, round)));
    for (round, (loss, expected)) in losses.zip(&expected.losses).enumerate() {
        assert!((loss - expected).abs() <= SAME, "round {round}: {loss}, in one thread {expected}");
    }
}

/// Two tabs and a native volunteer compute and train; what they pass on to each other, in bytes.
async fn together(browser: &Browser, peers: bool) -> [u64; 3] {
    let relay = tokio::task::spawn_blocking(TestRelay::start).await.unwrap();
    let api = relay.api.clone();
    let native = Volunteer::exchanging(&api.url, 1, Exchange { peers, ..Exchange::default() });
    let more = if peers { "" } else { "&peers=off" };
    let tabs = [lent(browser, &api, None, more).await, lent(browser, &api, None, more).await];
    if peers {
        for tab in &tabs {
            until("a tab has two peers", async || figure(tab, "peers").await == 2).await;
        }
    }
    compute(&api, &LowRank::new(SHAPE, 3), "together").await;
    train(&api, if peers { "among peers" } else { "alone" }).await;
    let status = native.status().unwrap();
    let passed =
        [figure(&tabs[0], "fromPeers").await, figure(&tabs[1], "fromPeers").await, status.from_peers];
    println!(
        "peers {peers}: {passed:?} bytes came from peers, {} were saved",
        api.metric("relay_saved_bytes_total")
    );
    if peers {
        let mesh = api.get("/api/v1/peers").json();
        assert_eq!(mesh["members"].as_array().unwrap().len(), 3, "{mesh}");
        assert_eq!(mesh["links"].as_array().unwrap().len(), 3, "{mesh}");
    }
    for tab in tabs {
        tab.close().await.unwrap();
    }
    drop(native);
    tokio::task::spawn_blocking(move || drop(relay)).await.unwrap();
    passed
}

#[test]
fn two_tabs_and_a_native_volunteer_work_with_peers_and_without() {
    let _alone = alone();
    if !can_browse(&TestRelay::start().api) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let passed = together(&browser, true).await;
        assert!(passed.iter().all(|bytes| *bytes > 0), "{passed:?}");
        assert_eq!(together(&browser, false).await, [0; 3]);
        browser.close().await;
    });
}

#[test]
fn peers_that_corrupt_stall_and_lie_are_dropped_and_the_work_is_done() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !can_browse(&api) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let mut tabs = Vec::new();
        for (name, action) in CHEATS {
            tabs.push((name, lent(&browser, &api, Some(&cheat(action)), "").await));
        }
        let known = LowRank::new(SHAPE, 3);
        // Alone, they get the inputs; what they compute is right.
        compute(&api, &known, "cheats").await;
        // With no room to keep inputs, honest volunteers need them again and again.
        let honest = [1, 2].map(|name| {
            Volunteer::exchanging(&api.url, name, Exchange { cache_bytes: 1 << 20, ..Exchange::default() })
        });
        until("links", async || {
            honest.iter().all(|one| one.status().is_some_and(|status| status.peers.len() >= 3))
        })
        .await;
        let dropped =
            || ["bad_groups", "stalled", "lied"].map(|why| api.metric(&format!("mesh_{why}_total")));
        let started = std::time::Instant::now();
        let mut jobs = 0;
        while dropped().contains(&0) {
            assert!(started.elapsed() < LIMIT, "after {jobs} jobs: {:?}", dropped());
            jobs += 1;
            compute(&api, &known, &format!("job {jobs}")).await;
        }
        println!("{jobs} jobs in {:.1} s; dropped {:?}", started.elapsed().as_secs_f64(), dropped());
        for (name, tab) in &tabs {
            let worker = tab.workers().pop().unwrap();
            let cheats: u64 = tab.evaluate_in_worker(&worker, "self.cheats").await.unwrap();
            println!("  {name}: {cheats} times");
            assert!(cheats > 0, "{name}");
            assert_eq!(figure(tab, "rejected").await, 0, "{name}: what it computed counts as before");
        }
        assert_eq!(api.metric("results_rejected_total"), 0);
        drop(honest);
        for (_, tab) in tabs {
            tab.close().await.unwrap();
        }
        browser.close().await;
    });
}

/// A relay as a program, on a port and a folder that outlive it.
fn relay_on(port: u16, data: &str) -> (Process, Api) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_command"));
    let listen = format!("127.0.0.1:{port}");
    let process =
        Process::start("the relay", command.args(["relay", "--json", "--listen", &listen, "--data", data]));
    let ready = process.wait_for(LIMIT, |line| serde_json::from_str::<Value>(line).ok());
    let token = std::fs::read_to_string(ready["token_path"].as_str().unwrap()).unwrap();
    (process, Api::new(&format!("http://{listen}"), &token))
}

#[test]
fn transfers_between_peers_go_on_while_the_relay_is_dead_and_everybody_comes_back() {
    let _alone = alone();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (relay, api) = relay_on(port, data.to_str().unwrap());
    let known = LowRank::new(SHAPE, 7);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    // The first one gets all inputs, and passes them on slowly.
    let slow = Exchange { upload_bytes_per_s: Some(400_000), ..Exchange::default() };
    let first = Volunteer::exchanging(&api.url, 1, slow);
    let id = api.submit(&files[0], &files[1], &json!({ "name": "first" }));
    assert!(api.result(&id, LIMIT).1 == known.c);
    let second = Volunteer::exchanging(&api.url, 2, Exchange::default());
    let status = |of: &Volunteer| of.status().unwrap();
    wait_until("they are linked", LIMIT, || {
        second.status().is_some_and(|status| status.peers.iter().any(|peer| peer.path.is_some()))
    });
    let link = status(&second).peers[0].link;
    let id = api.submit(&files[0], &files[1], &json!({ "name": "second" }));
    let got = || status(&second).from_peers;
    wait_until("inputs are on their way", LIMIT, || got() > 200_000);
    drop(relay);
    assert!(api.try_send("GET", "/healthz", &[], &[]).is_err(), "it is dead");
    let before = got();
    wait_until("transfers go on", LIMIT, || got() > before + 400_000);
    println!("{before} bytes before the relay died, {} since", got() - before);

    let (_relay, api) = relay_on(port, data.to_str().unwrap());
    let result = api.result(&id, LIMIT);
    assert_eq!(result.0, [SHAPE.m, SHAPE.n].map(u64::from));
    assert!(result.1 == known.c, "the product is wrong");
    wait_until("the link is known again", LIMIT, || {
        let mesh = api.get("/api/v1/peers").json();
        let ends = mesh["links"][0]["ends"].as_array().cloned().unwrap_or_default();
        ends.len() == 2 && ends.iter().all(Value::is_string)
    });
    assert_eq!(
        status(&second).peers.iter().map(|peer| peer.link).collect::<Vec<_>>(),
        [link],
        "it is the same"
    );
    assert_eq!(status(&first).rejected + status(&second).rejected, 0);
}

/// The bytes that a tab fetches from the relay for a product, once it has come back to the page.
async fn fetched_for(tab: &Tab, api: &Api, known: &LowRank, name: &str) -> u64 {
    lend(tab, api, "").await;
    compute(api, known, name).await;
    figure(tab, "fromRelay").await
}

#[test]
fn a_tab_that_returns_finds_its_inputs_until_the_person_forgets_them() {
    let _alone = alone();
    let relay = TestRelay::start();
    if !can_browse(&relay.api) {
        return;
    }
    let api = &relay.api;
    let known = LowRank::new(SHAPE, 5);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        let first = fetched_for(&tab, api, &known, "first").await;
        assert!(first > 8 << 20, "{first} bytes");
        let second = fetched_for(&tab, api, &known, "second").await;
        assert!(second * 4 < first, "{first} bytes, then {second}");
        tab.click("#forget").await.unwrap();
        until("nothing is kept", async || !tab.evaluate::<bool>(HAS_INPUTS).await.unwrap()).await;
        let third = fetched_for(&tab, api, &known, "third").await;
        assert!(third * 2 > first, "{first} bytes, forgotten, then {third}");
        browser.close().await;

        // Who asks not to be remembered leaves nothing behind.
        let browser = Browser::launch(&options).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        tab.inject_into_pages("Object.defineProperty(navigator, 'globalPrivacyControl', { value: true });")
            .await
            .unwrap();
        lend(&tab, api, "").await;
        compute(api, &known, "unremembered").await;
        assert!(figure(&tab, "fromRelay").await > 8 << 20);
        assert!(!tab.evaluate::<bool>(HAS_INPUTS).await.unwrap());
        browser.close().await;
    });
}

/// Whether inputs are kept in this browser.
const HAS_INPUTS: &str = "caches.has('potluck.inputs')";
