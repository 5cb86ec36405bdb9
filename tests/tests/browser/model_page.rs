//! The model page, with a real relay and real Chromium: a model that people promoted is proven, fetched and checked, and writes
//! in the tab with the network cut and the relay gone, the same text as native code; a page that was given anything else says
//! so and runs nothing.

use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_model::{Promised, TextWriter, seed_bytes};
use potluck_proto::Preset;
use potluck_tests::council::Council;
use potluck_tests::promotion::{allowed_run, candidate, card, post, promoted, rules};
use potluck_tests::runs::{SampleRun, done};
use potluck_tests::screen::{Extent, Looker};
use potluck_tests::{Api, TestRelay, Volunteer, alone, wait_until};
use potluck_train::gpt::Sampling;
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_command");
const LIMIT: Duration = Duration::from_secs(120);
/// From the click on Stop until nothing is written any more.
const STOP_LIMIT: Duration = Duration::from_millis(250);
const ROUNDS: u64 = 10;
const DISCUSSION_MS: u64 = 4_000;
const PROMPT: &str = "Call me Ishmael.";
const TOKENS: u32 = 150;

/// Changes a byte of the answer from an address, as somebody on the way could.
fn spoiled(address: &str, at: usize) -> String {
    format!(
        "(() => {{ const send = window.fetch; window.fetch = async (address, options) => {{
            const answer = await send(address, options);
            if (!String(address).includes({address:?})) return answer;
            const bytes = new Uint8Array(await answer.arrayBuffer());
            bytes[{at}] ^= 1;
            return new Response(bytes, {{ status: answer.status }});
        }}; }})()"
    )
}

/// Presses Stop once something was written, and measures how long it takes to end.
const STOP_SOON: &str = "new MutationObserver(() => {
    const { state, written } = document.body.dataset;
    if (state === 'writing' && Number(written) > 20 && !window.clicked) {
        window.clicked = performance.now();
        document.querySelector('#stop').click();
    }
    if (window.clicked && state === 'ready') window.ended ??= performance.now();
}).observe(document.body, { attributes: true }); delete document.body.dataset.written; null";

/// A machine that is busy with other tests may take longer to make a link than a model waits for one.
const TRIES: u32 = 3;
/// What a page received is shown within this.
const COUNTED: Duration = Duration::from_secs(5);

/// A slow device: a Worker that rests for long after each slice of its work.
const SLOW: &str = "(() => {
    const post = MessagePort.prototype.postMessage;
    MessagePort.prototype.postMessage = function (...all) { setTimeout(() => post.apply(this, all), 1000); };
})()";

/// A network that costs: nothing is fetched unasked.
const SCARCE: &str =
    "Object.defineProperty(navigator, 'connection', { value: { saveData: true, addEventListener() {} } })";

/// The engine that fetches from peers does not start.
const NO_ENGINE: &str = "(() => {
    const Real = Worker;
    window.Worker = function (script, options) {
        if (options.name === 'potluck') throw new Error('no engine today');
        return new Real(script, options);
    };
})()";

async fn data(tab: &Tab, name: &str) -> String {
    tab.evaluate(&format!("document.body.dataset[{name:?}] ?? ''")).await.unwrap()
}

async fn text(tab: &Tab, selector: &str) -> String {
    tab.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? ''")).await.unwrap()
}

async fn until(tab: &Tab, condition: &str) {
    let waited = tab.wait_for(condition, LIMIT).await;
    if waited.is_err() {
        let page: String = tab.evaluate("document.querySelector('main').innerText").await.unwrap_or_default();
        panic!("{waited:?} for {condition}\n{page}\n{:?}", tab.console());
    }
}

async fn in_state(tab: &Tab, state: &str) {
    until(tab, &format!("['{state}', 'refused', 'problem'].includes(document.body?.dataset.state)")).await;
    let (found, why) = (data(tab, "state").await, text(tab, "#problem").await);
    assert_eq!(found, state, "{why}\n{:?}", tab.console());
}

/// Sets a field as somebody would who typed into it.
async fn fill(tab: &Tab, id: &str, value: &str) {
    let script = format!(
        "(() => {{ const e = document.getElementById({id:?}); e.value = {}; \
         e.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()",
        Value::from(value)
    );
    let _: Value = tab.evaluate(&script).await.unwrap();
}

/// Lets the page write, to the end: the continuation.
async fn written(tab: &Tab, prompt: &str, temperature: &str, seed: &str) -> String {
    fill(tab, "prompt", prompt).await;
    fill(tab, "temperature", temperature).await;
    fill(tab, "tokens", &TOKENS.to_string()).await;
    fill(tab, "seed", seed).await;
    let _: Value = tab.evaluate("delete document.body.dataset.ended").await.unwrap();
    tab.click("#write").await.unwrap();
    until(tab, "document.body.dataset.state === 'ready' && document.body.dataset.ended === 'whole'").await;
    assert_eq!(data(tab, "written").await, TOKENS.to_string());
    let whole = text(tab, "#text").await;
    whole.strip_prefix(prompt).expect("it begins with the prompt").to_owned()
}

/// What native code writes with the files of the relay.
struct Native {
    request: Vec<u8>,
    tokenizer: Vec<u8>,
    parameters: Vec<u8>,
}

impl Native {
    fn of(api: &Api, run: &str, candidate: &str) -> Self {
        let get = |path: &str| {
            let answer = api.get(path);
            assert_eq!(answer.status, 200, "{path}");
            answer.body
        };
        Self {
            request: get(&format!("/api/v1/runs/{run}/request")),
            tokenizer: get(&format!("/api/v1/runs/{run}/tokenizer")),
            parameters: get(&format!("/api/v1/blobs/{candidate}")),
        }
    }

    fn text(&self, prompt: &str, temperature: f32, seed: u64) -> String {
        let promised = Promised::read(&self.request, &BlobHash::of(&self.request)).unwrap();
        let hash = BlobHash::of(&self.parameters);
        let (decoder, tokenizer) = promised.open(&self.tokenizer, &self.parameters, &hash).unwrap();
        let sampling = Sampling { temperature, top_k: 0, seed: seed_bytes(seed) };
        let mut writer = TextWriter::new(decoder, tokenizer, prompt, sampling).unwrap();
        let text: String = (0..TOKENS).map(|_| writer.write().unwrap()).collect();
        text + &writer.finish()
    }
}

/// A model that was promoted, and a candidate that was not.
struct World {
    relay: TestRelay,
    run: String,
    version: String,
    candidate: String,
}

fn trained(relay: TestRelay, council: &Council) -> World {
    let api = relay.api.clone();
    let mut sample = SampleRun::new(ROUNDS, [2, 2]);
    sample.audit = "all";
    let run = allowed_run(council, &sample, "whale");
    let volunteers: Vec<_> = (1..=2).map(|name| Volunteer::start(&api.url, name, Preset::Full)).collect();
    done(&api, &run, LIMIT);
    let candidates = [ROUNDS - 1, 2].map(|round| candidate(&api, &run, round));
    let cards = candidates.each_ref().map(|one| card(&api, one, LIMIT, String::new).0);
    drop(volunteers);
    promoted(council, "whale", &candidates[0], &cards[0]);
    let [version, candidate] = candidates;
    // What is logged is published about a second later.
    wait_until("the promotion is published", LIMIT, || {
        let receipts = api.get(&format!("/api/v1/log/candidates/{version}"));
        receipts.status == 200 && receipts.json()["in_use"] == true
    });
    World { relay, run, version, candidate }
}

/// Has every file of models forgotten that this browser keeps.
async fn forget(tab: &Tab) {
    let _: Value = tab.evaluate("caches.delete('potluck.models').then(() => 1)").await.unwrap();
}

/// A tab in which the model waits for a click.
async fn offered(browser: &Browser, address: &str, script: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    Looker::prepare(&tab).await;
    tab.inject_into_pages(SCARCE).await.unwrap();
    tab.inject_into_pages(script).await.unwrap();
    tab.goto(&format!("{address}?model=whale")).await.unwrap();
    in_state(&tab, "offered").await;
    tab
}

/// Tabs whose people agree to it pass the model on to each other.
async fn from_other_tabs(browser: &Browser, address: &str, fetched: &str, bytes: usize, looker: &mut Looker) {
    let one = offered(browser, address, "").await;
    looker.look(&one, "model-offered", Extent::Page).await;
    let _: Value = one.evaluate("document.querySelector('#load-peers').click()").await.unwrap();
    assert_eq!(data(&one, "state").await, "offered", "a script cannot agree");
    one.click("#load-peers").await.unwrap();
    in_state(&one, "ready").await;
    until(&one, &format!("document.body.dataset.fromRelay === '{bytes}'")).await;
    forget(&one).await;

    let most = format!("Number(document.body.dataset.fromPeers) > {bytes} / 2");
    let mut tries = TRIES;
    let other = loop {
        let other = offered(browser, address, "").await;
        other.click("#load-peers").await.unwrap();
        in_state(&other, "ready").await;
        tries -= 1;
        if other.wait_for(&most, COUNTED).await.is_ok() || tries == 0 {
            break other;
        }
        forget(&other).await;
        other.close().await.unwrap();
    };
    until(&other, &most).await;
    for tab in [&one, &other] {
        assert!(!tab.evaluate::<bool>(fetched).await.unwrap(), "all came over the session and its links");
    }
    until(&one, "Number(document.body.dataset.toPeers) > 0").await;
    until(&one, "document.querySelector('#passing-words').textContent.includes('1 tab is')").await;
    looker.look(&one, "model-passing", Extent::Page).await;
    one.click("#stop-passing").await.unwrap();
    until(&one, "document.body.dataset.passing === 'ended' && document.querySelector('#passing').hidden")
        .await;
    until(&other, "document.querySelector('#passing-words').textContent.includes('no tabs are')").await;
    assert_eq!(data(&one, "state").await, "ready", "the model stays");
    for tab in [one, other] {
        forget(&tab).await;
        tab.close().await.unwrap();
    }

    let without = offered(browser, address, NO_ENGINE).await;
    without.click("#load-peers").await.unwrap();
    in_state(&without, "ready").await;
    assert!(without.evaluate::<bool>(fetched).await.unwrap(), "the relay gives what no tab can");
    assert!(without.evaluate::<bool>("document.querySelector('#passing').hidden").await.unwrap());
    without.close().await.unwrap();
}

async fn refused(browser: &Browser, address: &str, script: &str, why: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    Looker::prepare(&tab).await;
    tab.inject_into_pages(script).await.unwrap();
    tab.goto(address).await.unwrap();
    until(&tab, "['refused', 'problem', 'ready', 'none'].includes(document.body?.dataset.state)").await;
    let (state, words) = (data(&tab, "state").await, text(&tab, "#problem").await);
    assert!(["refused", "problem"].contains(&state.as_str()), "{state}: {why}");
    assert!(words.contains(why), "{why}: {words}");
    assert!(tab.evaluate::<bool>("document.querySelector('#writer').hidden").await.unwrap());
    tab
}

#[test]
fn a_promoted_model_writes_in_the_tab_and_nothing_else_does() {
    let _alone = alone();
    let relay = TestRelay::start();
    let council = Council::new(PROGRAM, &relay.api);
    let address = format!("{}/model.html", relay.api.url);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut looker = Looker::new();

    // Before anything is promoted.
    let browser = runtime.block_on(async {
        assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
        let browser =
            Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        Looker::prepare(&tab).await;
        tab.goto(&address).await.unwrap();
        in_state(&tab, "none").await;
        assert!(text(&tab, "#missing").await.contains("The operator names the people"));
        looker.look(&tab, "model-none", Extent::Page).await;
        tab.close().await.unwrap();
        browser
    });
    council.found(&rules(DISCUSSION_MS));
    let World { relay, run, version, candidate } = trained(relay, &council);
    let api = relay.api.clone();
    // It ends in the middle, or, where a test fails, after the runtime.
    let mut relay = Some(relay);
    let native = Native::of(&api, &run, &version);

    runtime.block_on(async {
        // Anything else than the version that was promoted.
        let place = format!("/api/v1/blobs/{version}");
        let changed = "This is not the model that people promoted, so it is not run.";
        let tab = refused(&browser, &address, &spoiled(&place, 4000), changed).await;
        assert!(text(&tab, "#problem").await.contains(&format!("the log names {version}")));
        looker.look(&tab, "model-refused", Extent::Page).await;
        tab.close().await.unwrap();
        let believed = "The log cannot be believed";
        for (place, why) in [
            ("/request", "The run’s request: the log names"),
            ("/log/tile/entries/", believed),
            ("/log/checkpoint", believed),
        ] {
            refused(&browser, &address, &spoiled(place, 40), why).await.close().await.unwrap();
        }
        let asked = format!("{address}#version={candidate}");
        let tab = refused(&browser, &asked, "", "a candidate that people have not promoted").await;
        looker.look(&tab, "model-unproven", Extent::Page).await;
        tab.close().await.unwrap();
        let asked = format!("{address}#version={}", BlobHash([7; 32]));
        refused(&browser, &asked, "", "no promotion of these parameters").await.close().await.unwrap();
        let asked = format!("{address}?model=shark");
        refused(&browser, &asked, "", "The log knows no model shark").await.close().await.unwrap();

        // A slow network: how far it is and how long it takes.
        let tab = browser.new_tab().await.unwrap();
        Looker::prepare(&tab).await;
        tab.call("Network.enable", json!({})).await.unwrap();
        tab.goto(&address).await.unwrap();
        in_state(&tab, "ready").await;
        tab.click("#about details[data-name=card] summary").await.unwrap();
        until(&tab, "document.querySelector('#card h3') !== null").await;
        assert!(text(&tab, "#card").await.contains("Memorization"), "{}", text(&tab, "#card").await);
        let _: Value = tab.evaluate("document.querySelector('[data-name=card]').open = false").await.unwrap();
        looker.look(&tab, "model-ready", Extent::Page).await;
        tab.click("#drop").await.unwrap();
        let slow = json!({ "offline": false, "latency": 20, "downloadThroughput": 60_000, "uploadThroughput": -1 });
        tab.call("Network.emulateNetworkConditions", slow).await.unwrap();
        tab.goto(&format!("{address}?again")).await.unwrap();
        until(&tab, "/, .*\\/s, .* left/.test(document.querySelector('#download-words')?.textContent ?? '')").await;
        assert_eq!(data(&tab, "state").await, "loading");
        looker.look(&tab, "model-loading", Extent::Page).await;
        in_state(&tab, "ready").await;
        assert_eq!(data(&tab, "downloaded").await, native.parameters.len().to_string());

        // It is kept: the next visit fetches it no more.
        let any = json!({ "offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        tab.call("Network.emulateNetworkConditions", any).await.unwrap();
        tab.goto(&address).await.unwrap();
        in_state(&tab, "ready").await;
        let fetched = format!("performance.getEntriesByType('resource').some((one) => one.name.endsWith({place:?}))");
        assert!(!tab.evaluate::<bool>(&fetched).await.unwrap(), "it was kept");
        // What is kept goes bad: it is fetched again.
        let spoil = format!(
            "caches.open('potluck.models').then((cache) => cache.put('/models/{version}', new Response(new Uint8Array(9)))).then(() => 1)"
        );
        let _: Value = tab.evaluate(&spoil).await.unwrap();
        tab.goto(&format!("{address}?model=whale")).await.unwrap();
        in_state(&tab, "ready").await;
        assert!(tab.evaluate::<bool>(&fetched).await.unwrap(), "it went bad");

        forget(&tab).await;
        from_other_tabs(&browser, &address, &fetched, native.parameters.len(), &mut looker).await;

        // While it writes, on a slow device; the keyboard stops it too.
        let slow = browser.new_tab().await.unwrap();
        Looker::prepare(&slow).await;
        slow.inject_into_workers(SLOW).unwrap();
        slow.goto(&address).await.unwrap();
        in_state(&slow, "ready").await;
        fill(&slow, "prompt", PROMPT).await;
        fill(&slow, "tokens", "5000").await;
        slow.click("#write").await.unwrap();
        until(&slow, "Number(document.body.dataset.written ?? 0) > 0").await;
        looker.look(&slow, "model-writing", Extent::Page).await;
        assert_eq!(data(&slow, "state").await, "writing");
        slow.press("Escape").await.unwrap();
        until(&slow, "document.body.dataset.ended === 'stopped'").await;
        slow.close().await.unwrap();

        // The relay writes the same as native code and this tab.
        let sample = json!({ "prompt": PROMPT, "tokens": TOKENS, "seed": 7, "temperature": 0.8 });
        let theirs = post(&api.with_authorization(None), &format!("/api/v1/candidates/{version}/samples"), &sample);
        assert_eq!(theirs.text("text"), native.text(PROMPT, 0.8, 7), "{}", theirs.json());

        // No network, and no relay.
        let offline = json!({ "offline": true, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        tab.call("Network.emulateNetworkConditions", offline).await.unwrap();
        tokio::task::block_in_place(|| drop(relay.take()));
        assert!(tab.evaluate::<bool>("fetch('/log/key').then(() => false, () => true)").await.unwrap());
        until(&tab, "document.body.dataset.network === 'offline'").await;
        assert!(tab.evaluate::<bool>("!document.querySelector('#offline').hidden").await.unwrap());
        let before: u32 = tab.evaluate("performance.getEntriesByType('resource').length").await.unwrap();
        let one = written(&tab, PROMPT, "0.8", "7").await;
        assert_eq!(one, native.text(PROMPT, 0.8, 7), "the same as native code");
        looker.look(&tab, "model-written", Extent::Page).await;
        let other = written(&tab, PROMPT, "0.8", "8").await;
        assert_ne!(other, one);
        assert_eq!(written(&tab, PROMPT, "0.8", "7").await, one, "the same seed");
        // Without a beginning, always the likeliest, more than the context.
        assert_eq!(written(&tab, "", "0", "1").await, native.text("", 0.0, 1));
        let long = "It was the best of times. ".repeat(9);
        assert_eq!(written(&tab, &long, "1.3", "123456789").await, native.text(&long, 1.3, 123_456_789));

        // A prompt that it cannot read is said to be one, and the next one works.
        fill(&tab, "prompt", "深").await;
        tab.click("#write").await.unwrap();
        until(&tab, "document.body.dataset.ended === 'failed'").await;
        assert!(text(&tab, "#pace").await.contains("use characters that it was trained on"));
        assert_eq!(written(&tab, PROMPT, "0.8", "7").await, one);

        // A link brings it all back, in the part of an address that is not sent.
        tab.click("#share").await.unwrap();
        until(&tab, "!document.querySelector('#share-link').hidden").await;
        let link: String = tab.evaluate("document.querySelector('#link').value").await.unwrap();
        let (sent, kept) = link.split_once('#').unwrap();
        assert_eq!(sent, format!("{address}?model=whale"));
        assert!(kept.contains("seed=7&temperature=0.8&") && kept.contains(&version), "{kept}");
        assert!(kept.contains("prompt=Call+me+Ishmael."), "{kept}");
        looker.look(&tab, "model-shared", Extent::Page).await;

        // Stop, in the middle.
        fill(&tab, "tokens", "5000").await;
        let _: Value = tab.evaluate(STOP_SOON).await.unwrap();
        tab.click("#write").await.unwrap();
        until(&tab, "window.ended !== undefined").await;
        assert_eq!(data(&tab, "ended").await, "stopped");
        let took: f64 = tab.evaluate("window.ended - window.clicked").await.unwrap();
        assert!(took < STOP_LIMIT.as_secs_f64() * 1e3, "{took} ms");
        let count: usize = data(&tab, "written").await.parse().unwrap();
        assert!((21..5000).contains(&count), "{count}");
        assert!(text(&tab, "#pace").await.starts_with("Stopped after"));
        let shown = text(&tab, "#text").await;
        assert_eq!(shown.chars().count() - PROMPT.chars().count(), count, "a token is a character here");

        let after: u32 = tab.evaluate("performance.getEntriesByType('resource').length").await.unwrap();
        assert_eq!(after, before, "nothing was asked of anybody while it wrote");
        browser.close().await;
    });
    assert!(looker.findings.is_empty(), "{}", looker.findings.join("\n"));
}
