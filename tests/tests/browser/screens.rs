//! Each screen in a real Chromium with a real relay: axe-core finds nothing, nothing is wider than a phone, the page's policy
//! refuses nothing that it needs, and a picture is kept, of which `cargo xtask gallery` makes a page.
//!
//! Each test has its own relay; browsers run one at a time.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_cli::tabs::Lending;
use potluck_governance::Constitution;
use potluck_proto::Preset;
use potluck_tests::council::Council;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::runs::{SampleRun, done};
use potluck_tests::screen::{Extent, Looker};
use potluck_tests::{Api, TestRelay, Volunteer, alone, wait_until};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_command");
const LIMIT: Duration = Duration::from_secs(120);
/// A job for two native volunteers.
const SMALL: MatmulShape = MatmulShape { m: 1024, k: 256, n: 1024 };
/// A job that a quiet tab does not end while it is looked at.
const LONG: MatmulShape = MatmulShape { m: 6144, k: 1024, n: 6144 };
/// The pages, and what each is called in the navigation.
const PAGES: [(&str, &str); 7] = [
    ("/", "Lend"),
    ("/projects.html", "Projects"),
    ("/results.html", "Results"),
    ("/models.html", "Models"),
    ("/model.html", "Try the model"),
    ("/governance.html", "Governance"),
    ("/receipts.html", "Receipts"),
];

/// As a browser whose owner forbids WebAssembly.
const NO_ENGINE: &str = "WebAssembly.instantiate = WebAssembly.instantiateStreaming = async () => {
  throw new Error('WebAssembly is turned off');
};";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn browser() -> Browser {
    assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await.unwrap()
}

async fn tab(browser: &Browser) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    Looker::prepare(&tab).await;
    tab
}

async fn until(tab: &Tab, condition: &str) {
    let waited = tab.wait_for(condition, LIMIT).await;
    if waited.is_err() {
        let page: String = tab.evaluate("document.querySelector('main').innerText").await.unwrap_or_default();
        panic!("{waited:?} for {condition}\n{page}\n{:?}", tab.console());
    }
}

fn submit(api: &Api, shape: MatmulShape, name: &str) -> String {
    let known = LowRank::new(shape, 3);
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({ "name": name }))
}

/// A relay with people, a run and a job that are done.
fn with_a_past() -> (TestRelay, String, String) {
    let relay = TestRelay::start();
    let api = &relay.api;
    let council = Council::new(PROGRAM, api);
    let mut rules = Constitution::hasty(600_000);
    rules.skew_ms = 60_000;
    rules.parameters = vec![potluck_governance::constitution::Parameter {
        name: "max_workers".to_owned(),
        least: 1,
        most: 9,
        value: 3,
    }];
    council.found(&rules);
    council.propose(&["parameter", "max_workers", "--value", "6"]);
    let (_, run) = SampleRun::new(8, [2, 2]).create(api, "whale");
    let job = submit(api, SMALL, "distances between documents");
    let volunteers = [7, 8].map(|name| Volunteer::start(&api.url, name, Preset::Full));
    done(api, &run, LIMIT);
    api.result(&job, LIMIT);
    drop(volunteers);
    (relay, run, job)
}

/// Types into a field and sends its form, as a person does.
async fn give(tab: &Tab, token: &str) {
    tab.click("#token").await.unwrap();
    tab.call("Input.insertText", json!({ "text": token })).await.unwrap();
    tab.press("Enter").await.unwrap();
}

fn read(relay: &TestRelay, name: &str) -> String {
    std::fs::read_to_string(relay.data().join(name)).unwrap().trim().to_owned()
}

/// The donate page in its states.
async fn lending(looker: &mut Looker, browser: &Browser, api: &Api) {
    let tab = tab(browser).await;
    let mut lending = Lending { relay: api.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Quiet };
    tab.goto(&lending.address()).await.unwrap();
    until(&tab, "document.body.dataset.trainingRound").await;
    until(&tab, "document.querySelector('#training-sample-text').textContent.length > 40").await;
    looker.look(&tab, "idle", Extent::Page).await;
    let job = submit(api, LONG, "similarity of 6,144 photographs");
    tab.goto(&format!("{}/join/{job}", api.url)).await.unwrap();
    until(&tab, "document.body.dataset.invitation === 'shown'").await;
    looker.look(&tab, "invitation", Extent::Page).await;
    tab.goto(&lending.address()).await.unwrap();
    tab.click("#lend").await.unwrap();
    until(&tab, "document.querySelector('#operator').textContent.includes('the tests')").await;
    looker.look(&tab, "consent", Extent::Window).await;
    // What is typed becomes what the relay takes.
    tab.click("#team").await.unwrap();
    tab.call("Input.insertText", json!({ "text": "  Whale   Watchers\u{200b} " })).await.unwrap();
    tab.click("#listed").await.unwrap();
    assert_eq!(
        tab.evaluate::<String>("document.querySelector('#team').value").await.unwrap(),
        "Whale Watchers"
    );
    looker.look(&tab, "consent-advanced", Extent::Window).await;
    tab.click("#agree").await.unwrap();
    until(&tab, "document.body.dataset.state === 'running' && Number(document.body.dataset.accepted) > 1")
        .await;
    looker.look(&tab, "running", Extent::Page).await;
    tab.click("#pause").await.unwrap();
    until(&tab, "document.body.dataset.state === 'paused'").await;
    looker.look(&tab, "paused", Extent::Window).await;
    assert_eq!(api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]).status, 200);
    tab.click("#pause").await.unwrap();
    until(&tab, "document.body.dataset.state === 'waiting'").await;
    looker.look(&tab, "waiting", Extent::Window).await;
    tab.click("#stop").await.unwrap();
    until(&tab, "document.body.dataset.state === 'finished'").await;
    looker.look(&tab, "thanks", Extent::Page).await;
    // Whoever forgets the name says the next one nothing of it, and hears what the relay still shows.
    tab.click("#forget").await.unwrap();
    until(&tab, "document.querySelector('#notice-text').textContent.includes('30 days')").await;
    looker.look(&tab, "forgotten", Extent::Window).await;
    let left = "[document.querySelector('#team').value, document.querySelector('#listed').ariaChecked, localStorage['potluck.membership'] ?? null]";
    assert_eq!(tab.evaluate::<Value>(left).await.unwrap(), json!(["", "false", null]));
    let told: Vec<_> =
        tab.console().into_iter().filter(|line| line.text.contains("Security Policy")).collect();
    assert!(told.is_empty(), "{told:?}");
    tab.close().await.unwrap();

    // An engine that cannot be loaded.
    let tab = self::tab(browser).await;
    tab.inject_into_workers(NO_ENGINE).unwrap();
    lending.preset = PresetArg::Full;
    tab.goto(&lending.address()).await.unwrap();
    tab.click("#lend").await.unwrap();
    tab.click("#agree").await.unwrap();
    until(&tab, "document.body.dataset.state === 'failed'").await;
    looker.look(&tab, "failed", Extent::Page).await;
    tab.close().await.unwrap();
}

/// The donate page in German: every text that comes onto it has a translation.
async fn german(looker: &mut Looker, browser: &Browser, api: &Api) {
    let tab = tab(browser).await;
    let job = submit(api, LONG, "Abstände zwischen Dokumenten");
    let address = format!("{}/join/{job}?lang=de&backend=wasm&cache=0", api.url);
    tab.goto(&address).await.unwrap();
    until(&tab, "document.body.dataset.invitation === 'shown' && document.body.dataset.trainingRound").await;
    until(&tab, "document.querySelector('#lend').textContent === 'Diesen Tab leihen'").await;
    until(
        &tab,
        "document.querySelector('#training-sample-round').textContent === 'Was es nach 8 Runden schreibt'",
    )
    .await;
    looker.look(&tab, "idle-german", Extent::Page).await;
    tab.click("#lend").await.unwrap();
    until(&tab, "document.querySelector('#operator').textContent.includes('the tests')").await;
    looker.look(&tab, "consent-german", Extent::Window).await;
    tab.click("#agree").await.unwrap();
    until(&tab, "document.body.dataset.state === 'running' && Number(document.body.dataset.accepted) > 1")
        .await;
    looker.look(&tab, "running-german", Extent::Page).await;
    tab.click("#pause").await.unwrap();
    until(&tab, "document.body.dataset.state === 'paused'").await;
    assert_eq!(api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]).status, 200);
    tab.click("#pause").await.unwrap();
    until(&tab, "document.querySelector('#reason').textContent === 'Gerade gibt es nichts zu tun.'").await;
    tab.click("#stop").await.unwrap();
    until(&tab, "document.querySelector('#notice-text').textContent.includes('Jetzt läuft nichts mehr.')")
        .await;
    let missing = "import('/language.js').then(({ missing }) => [...missing])";
    assert_eq!(tab.evaluate::<Vec<String>>(missing).await.unwrap(), Vec::<String>::new());
    assert_eq!(tab.evaluate::<String>("document.documentElement.lang").await.unwrap(), "de");
    // Each language is offered by its own name, and the choice is kept.
    tab.click("#language").await.unwrap();
    until(&tab, "document.querySelector('#language')?.textContent === 'Deutsch'").await;
    assert_eq!(tab.evaluate::<String>("localStorage['potluck.language']").await.unwrap(), "en");
    tab.close().await.unwrap();
}

/// Projects and results.
async fn results(looker: &mut Looker, browser: &Browser, relay: &TestRelay, run: &str, job: &str) {
    let api = &relay.api;
    let tab = tab(browser).await;
    tab.goto(&format!("{}/projects.html", api.url)).await.unwrap();
    until(&tab, "document.body.dataset.projects === '0'").await;
    looker.look(&tab, "projects-empty", Extent::Page).await;
    let open = submit(api, LONG, "similarity of 6,144 photographs");
    SampleRun::new(40, [2, 4]).create(api, "more whale");
    until(&tab, "document.body.dataset.projects === '2'").await;
    let leaders = "document.querySelector('#leaders-list').innerText";
    until(&tab, &format!("{leaders}.includes('Whale Watchers')")).await;
    assert_eq!(
        tab.evaluate::<usize>("document.querySelectorAll('#leaders-list tbody tr').length").await.unwrap(),
        2
    );
    looker.look(&tab, "projects", Extent::Page).await;
    // The card leads to the page that lends.
    tab.click(&format!("[data-id='{open}'] .button")).await.unwrap();
    until(&tab, "document.body?.dataset.invitation === 'shown'").await;
    let shown: String = tab.evaluate("document.querySelector('#invitation').innerText").await.unwrap();
    assert!(shown.contains("6,144 photographs") && shown.contains("You cannot pick a project"), "{shown}");

    tab.goto(&format!("{}/results.html", api.url)).await.unwrap();
    until(&tab, "document.querySelectorAll('#runs tbody tr').length === 2").await;
    looker.look(&tab, "results", Extent::Page).await;
    give(&tab, &"0".repeat(64)).await;
    until(&tab, "document.querySelector('#token-note').textContent.includes('does not know')").await;
    give(&tab, &read(relay, "token")).await;
    until(&tab, "document.querySelectorAll('#jobs tbody tr').length === 4").await;
    looker.look(&tab, "results-token", Extent::Page).await;
    tab.click(&format!("a[href='#job={job}']")).await.unwrap();
    until(&tab, &format!("document.body.dataset.shown === '{job}'")).await;
    tab.click("[data-volunteer]").await.unwrap();
    let lit: String = tab.evaluate("document.querySelector('#map-note').textContent").await.unwrap();
    assert!(lit.starts_with("Marked: the "), "{lit}");
    looker.look(&tab, "job", Extent::Page).await;
    tab.click("#facts button").await.unwrap();
    until(&tab, &format!("document.body.dataset.fetched === '{job}'")).await;
    // Another fragment of the same page would be no load.
    tab.goto("about:blank").await.unwrap();
    tab.goto(&format!("{}/results.html#run={run}", api.url)).await.unwrap();
    until(
        &tab,
        &format!(
            "document.body.dataset.shown === '{run}' && document.querySelectorAll('svg.chart').length === 3"
        ),
    )
    .await;
    let losses: String =
        tab.evaluate("document.querySelector('.chart .validation').dataset.values").await.unwrap();
    let history = api.get(&format!("/api/v1/runs/{run}")).json()["history"].as_array().unwrap().clone();
    let told: Vec<_> = history.iter().map(|round| round["validation_loss"].as_f64().unwrap()).collect();
    let drawn: Vec<f64> = losses.split(' ').map(|loss| loss.parse().unwrap()).collect();
    assert_eq!(drawn, told);
    looker.look(&tab, "run", Extent::Page).await;
    tab.close().await.unwrap();
}

/// The operator's page.
async fn operator(looker: &mut Looker, browser: &Browser, relay: &TestRelay) {
    let tab = tab(browser).await;
    tab.goto(&format!("{}/operator.html", relay.api.url)).await.unwrap();
    until(&tab, "document.body.dataset.operator === 'locked'").await;
    looker.look(&tab, "operator-locked", Extent::Page).await;
    // The submitter's token is not the admin's.
    give(&tab, &read(relay, "token")).await;
    until(&tab, "document.querySelector('#token-note').textContent.includes('does not know')").await;
    give(&tab, &read(relay, "admin-token")).await;
    until(&tab, "document.body.dataset.operator === 'shown'").await;
    tab.click("[data-name='matmul/int8']").await.unwrap();
    until(&tab, "document.querySelector(\"[data-name='matmul/int8']\").ariaChecked === 'false'").await;
    let _: Value = tab.evaluate("document.querySelector('#off-kind').value = 'site'; null").await.unwrap();
    tab.click("#off-name").await.unwrap();
    tab.call("Input.insertText", json!({ "text": "https://school.example" })).await.unwrap();
    tab.press("Enter").await.unwrap();
    until(&tab, "document.querySelector(\"[data-name='https://school.example']\")").await;
    looker.look(&tab, "operator", Extent::Page).await;
    for name in ["matmul/int8", "https://school.example"] {
        tab.click(&format!("[data-name='{name}']")).await.unwrap();
    }
    until(&tab, "!document.querySelector('#switches [aria-checked=false]')").await;
    let kept: Value = tab.evaluate("[Object.keys(sessionStorage), Object.keys(localStorage)]").await.unwrap();
    assert_eq!(kept, json!([["potluck.admin"], []]));
    tab.click("#forget").await.unwrap();
    assert!(tab.evaluate::<bool>("sessionStorage.length === 0").await.unwrap());
    tab.close().await.unwrap();
}

/// Pages about the log.
async fn log(looker: &mut Looker, browser: &Browser, api: &Api) {
    let tab = tab(browser).await;
    for name in ["models", "governance"] {
        tab.goto(&format!("{}/{name}.html", api.url)).await.unwrap();
        until(&tab, "document.body.dataset.log === 'verified'").await;
        looker.look(&tab, name, Extent::Page).await;
    }
    tab.click("#open [data-proposal] a").await.unwrap();
    until(&tab, "!document.querySelector('#proposal').hidden").await;
    looker.look(&tab, "proposal", Extent::Page).await;
    tab.goto(&format!("{}/receipts.html", api.url)).await.unwrap();
    until(&tab, "document.querySelector('#log-key').value").await;
    looker.look(&tab, "receipts", Extent::Page).await;
    tab.goto(&format!("{}/embed.html", api.url)).await.unwrap();
    until(&tab, "document.querySelector('#pinned').textContent.includes('integrity=')").await;
    looker.look(&tab, "embed", Extent::Page).await;
    tab.close().await.unwrap();
}

#[test]
fn every_screen_can_be_used_by_everybody() {
    let _alone = alone();
    let mut looker = Looker::new();
    let (relay, run, job) = with_a_past();
    runtime().block_on(async {
        let browser = browser().await;
        lending(&mut looker, &browser, &relay.api).await;
        german(&mut looker, &browser, &relay.api).await;
        results(&mut looker, &browser, &relay, &run, &job).await;
        operator(&mut looker, &browser, &relay).await;
        log(&mut looker, &browser, &relay.api).await;
        browser.close().await;
    });
    println!("{} screens were looked at", looker.seen.len());
    assert!(looker.findings.is_empty(), "{}", looker.findings.join("\n"));
}

#[test]
fn pages_lead_to_each_other_and_nothing_becomes_a_script() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = &relay.api;
    runtime().block_on(async {
        let browser = browser().await;
        let tab = tab(&browser).await;
        let pages: Vec<_> = PAGES.iter().map(|(path, name)| json!([path, name])).collect();
        for path in PAGES.iter().map(|(path, _)| *path).chain(["/operator.html"]) {
            tab.goto(&format!("{}{path}", api.url)).await.unwrap();
            let links = "[...document.querySelectorAll('header nav a')].map((a) => [a.getAttribute('href'), a.textContent])";
            assert_eq!(tab.evaluate::<Value>(links).await.unwrap(), json!(pages), "{path}");
            let current = "[...document.querySelectorAll('nav [aria-current=page]')].map((a) => a.getAttribute('href'))";
            let here: Vec<String> = tab.evaluate(current).await.unwrap();
            assert_eq!(here, if path == "/operator.html" { vec![] } else { vec![path.to_owned()] });
            // By keyboard alone: first past the navigation, then through it.
            let _: Value = tab.evaluate("document.activeElement.blur()").await.unwrap();
            tab.press("Tab").await.unwrap();
            assert_eq!(tab.evaluate::<String>("document.activeElement.className").await.unwrap(), "skip", "{path}");
            tab.press("Tab").await.unwrap();
            let on: String = tab.evaluate("document.activeElement.textContent").await.unwrap();
            assert_eq!(on, "Lend", "{path}");

            let header = format!("fetch({path:?}).then((answer) => answer.headers.get('content-security-policy'))");
            let policy: String = tab.evaluate(&header).await.unwrap();
            assert!(policy.contains("require-trusted-types-for 'script'; trusted-types potluck-worker"), "{policy}");
            let refused: Vec<String> = tab.evaluate("window.refused").await.unwrap();
            assert_eq!(refused, Vec::<String>::new(), "{path}");
            for attempt in [
                "document.body.insertAdjacentHTML('beforeend', '<b></b>')",
                "document.createElement('script').text = '0'",
                "new Worker('/worker.js')",
                "trustedTypes.createPolicy('another', {})",
                "trustedTypes.createPolicy('potluck-worker', {}) && trustedTypes.createPolicy('potluck-worker', {})",
            ] {
                let tried = format!("(() => {{ try {{ {attempt}; return 'done'; }} catch (error) {{ return error.name; }} }})()");
                assert_eq!(tab.evaluate::<String>(&tried).await.unwrap(), "TypeError", "{path}: {attempt}");
            }
        }
        // An address that names no project is no page.
        assert_eq!(api.get("/join/nothing").status, 404);
        tab.goto(&format!("{}/join/{}", api.url, "0".repeat(32))).await.unwrap();
        until(&tab, "document.body.dataset.invitation === 'failed'").await;
        let said: String = tab.evaluate("document.querySelector('#invitation').innerText").await.unwrap();
        assert!(said.contains("no such project"), "{said}");
        browser.close().await;
    });
    wait_until("nobody lends", LIMIT, || api.metric("sessions") == 0);
}
