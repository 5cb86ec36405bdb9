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
use potluck_tests::screen::keep;
use potluck_tests::{Api, TestRelay, Volunteer, alone, copy, wait_until};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
const SHAPE: MatmulShape = MatmulShape { m: 256, k: 64, n: 256 };

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
        keep(&tab, "alarm").await;
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
        // The relay logged the evidence, and everything pauses there: it goes on from before that.
        restart(&mut relay, |data| replace(data, &backup));
        agree(&tab).await;
        remembered(&tab, 4).await;

        // While it lends: first entries are gone, which proves nothing to others; then others are in their place.
        let before = entries(&api);
        (3..6).for_each(|product| computed(&api, product));
        wait_until("more is published than a restart logs", LIMIT, || entries(&api) >= before + 6);
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

/// Sets a field as somebody would who typed into it.
async fn fill(tab: &Tab, id: &str, value: &str) {
    let script = format!(
        "(() => {{ const e = document.getElementById({id:?}); e.value = {}; \
         for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{ bubbles: true }})); }})()",
        Value::from(value)
    );
    let _: Value = tab.evaluate(&script).await.unwrap();
}

async fn text(tab: &Tab, selector: &str) -> String {
    tab.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? ''")).await.unwrap()
}

/// Signs what the dialog shows; what came of it, in the page's words.
async fn sign(tab: &Tab) -> (String, String) {
    until(tab, "document.querySelector('#sign').open && !document.querySelector('#sign-now').disabled").await;
    tab.click("#sign-now").await.unwrap();
    until(tab, "['logged', 'refused'].includes(document.body.dataset.signed)").await;
    let said = (data(tab, "signed").await, text(tab, "#sign-result").await);
    tab.click("#sign-close").await.unwrap();
    until(tab, "!document.querySelector('#sign').open").await;
    said
}

/// Gives a file to a field.
async fn choose(tab: &Tab, selector: &str, path: &Path) {
    let document = tab.call("DOM.getDocument", json!({})).await.unwrap();
    let asked = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
    let node = tab.call("DOM.querySelector", asked).await.unwrap();
    let files = json!({ "nodeId": node["nodeId"], "files": [path.to_str().unwrap()] });
    tab.call("DOM.setFileInputFiles", files).await.unwrap();
}

/// Keeps what the page sends, and can spoil a signature.
const EAVESDROP: &str = "(() => {
  const send = window.fetch;
  window.fetch = (address, options) => {
    if (String(address).endsWith('/log/statements')) window.sent = options.body;
    return send(address, options);
  };
  const sign = SubtleCrypto.prototype.sign;
  SubtleCrypto.prototype.sign = async function (...all) {
    const signature = await sign.apply(this, all);
    if (window.spoil) new Uint8Array(signature)[7] ^= 1;
    return signature;
  };
})()";

/// Sends a statement that is not the page's own, and returns what the relay says.
async fn post(tab: &Tab, body: &str) -> String {
    let script = format!(
        "fetch('/api/v1/log/statements', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, \
         body: {body} }}).then(async (answer) => `${{answer.status}} ${{(await answer.json()).message}}`)"
    );
    tab.evaluate(&script).await.unwrap()
}

#[test]
fn people_propose_and_vote_on_the_governance_page() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    let folder = tempfile::tempdir().unwrap();
    let secret = |n: u8| potluck_governance::SigningKey::from_bytes(&[n; 32]);
    let key = |n: u8| potluck_governance::Key::of(&secret(n)).to_string();
    let seed = folder.path().join("bo.key");
    std::fs::write(&seed, format!("{}\n", "02".repeat(32))).unwrap();

    runtime().block_on(async {
        let browser = browser().await;
        let tab = browser.new_tab().await.unwrap();
        tab.inject_into_pages(EAVESDROP).await.unwrap();
        tab.goto(&format!("{}/governance.html", api.url)).await.unwrap();
        until(&tab, "document.body.dataset.log === 'verified'").await;
        assert!(text(&tab, "#open").await.contains("Nobody is in office"));

        // A key that cannot be taken out of the browser.
        tab.click("#key-create").await.unwrap();
        until(&tab, "document.body.dataset.key?.length === 64").await;
        let ada = data(&tab, "key").await;
        let kept = "new Promise((resolve) => { const opening = indexedDB.open('potluck.keys'); opening.onsuccess = () => {
            const asked = opening.result.transaction('keys').objectStore('keys').get('mine');
            asked.onsuccess = () => resolve([asked.result.key.extractable, asked.result.publicKey]); }; })";
        assert_eq!(tab.evaluate::<Value>(kept).await.unwrap(), json!([false, ada]));

        // A community whose clocks run in seconds.
        let person = |name: &str, key: &str| json!({ "name": name, "key": key });
        let people = json!({
            "constitution": potluck_governance::Constitution::hasty(10_000),
            "roles": {
                "stewards": [person("Ada", &ada), person("Bo", &key(2)), person("Cy", &key(3))],
                "auditors": [person("Mia", &key(11)), person("Ned", &key(12))], "operators": [person("Olu", &key(21))],
            },
        });
        let headers = [("content-type", "text/plain")];
        let founded = api.send("POST", "/api/v1/log/founding", &headers, people.to_string().as_bytes());
        assert_eq!(founded.status, 201, "{:?}", founded.json());
        until(&tab, "document.querySelectorAll('#people tbody tr').length === 6").await;
        until(&tab, "document.querySelector('#key-facts').textContent.includes('you are Ada, a steward')").await;

        // The form says what is wrong; then the text is shown before it is signed.
        fill(&tab, "p-kind", "data_set").await;
        fill(&tab, "p-subject", "novels").await;
        fill(&tab, "p-body", &"ab".repeat(32)).await;
        fill(&tab, "p-rationale", "They are in the public domain.").await;
        fill(&tab, "p-closes", "1").await;
        fill(&tab, "p-unit", "1000").await;
        tab.click("#propose-form [type=submit]").await.unwrap();
        let (state, words) = sign(&tab).await;
        assert!(state == "refused" && words.contains("close later"), "{words}");
        fill(&tab, "p-closes", "30").await;
        tab.click("#propose-form [type=submit]").await.unwrap();
        until(&tab, "document.querySelector('#sign').open").await;
        let shown = text(&tab, "#sign-text").await;
        let (state, words) = sign(&tab).await;
        assert_eq!(state, "logged", "{words}");
        let sent: String = tab.evaluate("JSON.parse(window.sent).body").await.unwrap();
        assert_eq!(sent, shown, "what is signed is what is shown");

        until(&tab, "document.querySelectorAll('#open [data-proposal]').length === 1").await;
        tab.click("#open [data-proposal] a").await.unwrap();
        until(&tab, "!document.querySelector('#proposal').hidden").await;
        fill(&tab, "act-reason", "Good books.").await;
        tab.click("[data-vote=yes]").await.unwrap();
        assert_eq!(sign(&tab).await.0, "logged");
        until(&tab, "document.querySelector('#tally')?.textContent.startsWith('1 yes, 0 no')").await;
        assert!(text(&tab, "#proposal-facts").await.contains("Good books."));

        // Said again, said by another, said over another text.
        let again = post(&tab, "window.sent").await;
        assert!(again.starts_with("422") && again.contains("in the log already"), "{again}");
        let other = format!("JSON.stringify({{ ...JSON.parse(window.sent), key: '{}' }})", key(2));
        let other = post(&tab, &other).await;
        assert!(other.starts_with("422") && other.contains("the signature is not that of"), "{other}");
        let _: Value = tab.evaluate("window.spoil = true").await.unwrap();
        tab.click("[data-vote=no]").await.unwrap();
        let (state, words) = sign(&tab).await;
        assert!(state == "refused" && words.contains("not that of this key"), "{words}");
        let _: Value = tab.evaluate("window.spoil = false").await.unwrap();

        // Somebody else, with a key from a file; it does not replace the one that is kept.
        choose(&tab, "#key-file", &seed).await;
        until(&tab, &format!("document.body.dataset.key === '{}'", key(2))).await;
        tab.click("[data-vote=yes]").await.unwrap();
        let (state, words) = sign(&tab).await;
        assert_eq!(state, "logged", "{words}");
        until(&tab, "document.querySelector('#tally')?.textContent.startsWith('2 yes, 0 no')").await;
        until(&tab, "document.body.dataset.outcome === 'passed'").await;
        tab.click("[data-vote=no]").await.unwrap();
        let (state, words) = sign(&tab).await;
        assert!(state == "refused" && words.contains("the vote closed at"), "{words}");

        // The key that is kept is there again, and the log is read anew to the same end.
        let place: String = tab.evaluate("location.href").await.unwrap();
        tab.goto(&format!("{}/models.html", api.url)).await.unwrap();
        until(&tab, "document.body.dataset.log === 'verified'").await;
        tab.goto(&place).await.unwrap();
        until(&tab, &format!("document.body.dataset.key === '{ada}'")).await;
        until(&tab, "document.body.dataset.outcome === 'passed'").await;
        browser.close().await;
    });
}

#[test]
fn receipts_are_checked_in_the_page_without_a_network() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    runtime().block_on(async {
        let browser = browser().await;
        let tab = browser.new_tab().await.unwrap();
        lend(&tab, &lending(&api)).await.unwrap();
        computed(&api, 1);
        until(&tab, "Number(document.body.dataset.accepted) > 0").await;
        stop(&tab).await.unwrap();
        assert!(tab.evaluate::<bool>("!document.querySelector('#notice-receipts').hidden").await.unwrap());
        wait_until("the log is published", LIMIT, || entries(&api) >= 4);
        tab.click("#notice-receipts a").await.unwrap();
        until(&tab, "Number(document.body?.dataset.receipts ?? 0) > 0").await;
        let row = "document.querySelector('#yours [data-kind=result_accepted]')";
        let index: u64 = tab.evaluate(&format!("Number({row}.dataset.index)")).await.unwrap();
        tab.click("#yours [data-kind=result_accepted] button").await.unwrap();
        until(&tab, &format!("{row}.textContent.includes('It holds')")).await;

        let receipt = api.get(&format!("/api/v1/log/receipts/{index}"));
        let receipt = String::from_utf8(receipt.body).unwrap();
        let offline =
            json!({ "offline": true, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        tab.call("Network.enable", json!({})).await.unwrap();
        tab.call("Network.emulateNetworkConditions", offline).await.unwrap();
        let check = async |text: &str| -> String {
            let _: Value = tab.evaluate("delete document.body.dataset.receipt").await.unwrap();
            fill(&tab, "pasted", text).await;
            tab.click("#check").await.unwrap();
            until(&tab, "document.body.dataset.receipt !== undefined").await;
            data(&tab, "receipt").await
        };
        assert!(
            tab.evaluate::<String>("fetch('/log/key').catch(() => 'offline')").await.unwrap() == "offline"
        );
        assert_eq!(check(&receipt).await, "holds");
        assert!(text(&tab, "#checked").await.contains("result accepted"));
        // A character of each part: another one that the same place could hold.
        for at in [30, receipt.len() / 2, receipt.len() - 30] {
            let mut bad = receipt.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(check(&String::from_utf8_lossy(&bad)).await, "fails", "byte {at}");
        }
        // Another log's key proves nothing, nor do too few witnesses.
        let other = potluck_ledger::SignerKey::from_seed(
            log_key(&api).name(),
            potluck_ledger::KeyKind::Ed25519,
            &[5; 32],
        );
        let known: String = tab.evaluate("document.querySelector('#log-key').value").await.unwrap();
        fill(&tab, "log-key", &other.unwrap().verifier().to_string()).await;
        assert_eq!(check(&receipt).await, "fails");
        fill(&tab, "log-key", &known).await;
        let witness = potluck_ledger::SignerKey::from_seed(
            "witness.example",
            potluck_ledger::KeyKind::CosignatureV1,
            &[6; 32],
        );
        fill(&tab, "witnesses", &witness.unwrap().verifier().to_string()).await;
        fill(&tab, "threshold", "1").await;
        assert_eq!(check(&receipt).await, "fails");
        assert!(text(&tab, "#checked").await.contains("0 of the witnesses signed"));
        fill(&tab, "threshold", "0").await;
        assert_eq!(check(&receipt).await, "holds");
        browser.close().await;
    });
}
