//! The widget on sites of others, in a real Chromium: two clicks lend, one stops, the site hears states and counts; and on
//! hostile sites no click counts that was not a person's who saw what it says.
//!
//! Browsers run one at a time.

use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_relay::EmbedConfig;
use potluck_tests::frame::{Frame, click_at, point_at};
use potluck_tests::host::{HostSite, Page};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::screen::{check_widget, keep};
use potluck_tests::{Api, TestRelay, alone};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
/// Time in which a click that counts would have been followed by a session.
const NOTHING: Duration = Duration::from_millis(1500);
/// Time from a click that may count until the browser asks: two looks of the guard.
const QUESTION: Duration = Duration::from_millis(1500);
/// Time after which Chromium passes clicks on to a frame that was moved.
const MOVED: Duration = Duration::from_millis(600);
/// A product that takes a tab some seconds.
const SHAPE: MatmulShape = MatmulShape { m: 2048, k: 512, n: 2048 };

/// Remembers what the host page hears.
const HEAR: &str = "window.heard = [];
  for (const name of ['potluck-state', 'potluck-result']) {
    addEventListener(name, ({ type, detail }) => heard.push([type, detail]));
  }
  window.violations = [];
  addEventListener('securitypolicyviolation', ({ effectiveDirective, blockedURI }) => violations.push(effectiveDirective + ' ' + blockedURI));";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn browser() -> Browser {
    assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
    Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await.unwrap()
}

/// A page that shows the widget as anybody would.
fn plain(relay: &str) -> Page {
    with(relay, "<potluck-widget></potluck-widget>")
}

fn with(relay: &str, widget: &str) -> Page {
    let body = format!(
        "<!doctype html><html lang=en><title>A school</title><body style='margin:24px;font:16px system-ui'>\
         <main><h1>A school’s page</h1><p>Our class trains a model together with others.</p>\
         <div style='max-width:560px'>{widget}</div></main><script src='{relay}/embed.js' async></script></body></html>"
    );
    Page { body, ..Page::default() }
}

async fn open(browser: &Browser, address: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.set_viewport(900, 1100, 1.0).await.unwrap();
    tab.inject_into_pages(HEAR).await.unwrap();
    tab.goto(address).await.unwrap();
    tab
}

fn submit(api: &Api, seed: u64) -> String {
    let known = LowRank::new(SHAPE, seed);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({ "name": "a product" }))
}

/// The first click: what people agree to is shown.
async fn ask(frame: &Frame<'_>) {
    frame.press(LIMIT).await;
    frame.until("['consent', 'refused'].includes(document.body.dataset.state)", LIMIT).await;
}

/// The second click, as often as the frame asks for it once more (people who read take longer than a test), and the answer to
/// the browser's own question.
async fn agree(frame: &Frame<'_>) {
    let started = Instant::now();
    while frame.state().await == "consent" {
        assert!(started.elapsed() < LIMIT, "the click never counts: {}", frame.refused().await);
        let (x, y) = frame.place("#agree").await;
        click_and_answer(frame.tab, x, y, true).await;
    }
}

/// Clicks, and answers the browser's question if there comes one; whether there did. A page that asks stands still.
async fn click_and_answer(tab: &Tab, x: f64, y: f64, accept: bool) -> bool {
    let answer = async {
        let started = Instant::now();
        while started.elapsed() < QUESTION {
            // People take longer as well.
            tokio::time::sleep(Duration::from_millis(200)).await;
            if tab.call("Page.handleJavaScriptDialog", json!({ "accept": accept })).await.is_ok() {
                return true;
            }
        }
        false
    };
    futures_util::future::join(click_at(tab, x, y), answer).await.1
}

/// Keeps a picture; axe-core finds nothing in what it shows.
async fn look(frame: &Frame<'_>, name: &str) {
    keep(frame.tab, name).await;
    let found = check_widget(frame).await;
    assert!(found.is_empty(), "{name}: {found:#?}");
}

/// Waits until the relay has so many sessions.
async fn sessions(api: &Api, wanted: u64) {
    let started = Instant::now();
    while api.metric("sessions") != wanted {
        assert!(started.elapsed() < LIMIT, "{} sessions, not {wanted}", api.metric("sessions"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing came of the clicks: no session, and no engine beyond those of earlier lendings.
async fn nothing(api: &Api, tab: &Tab, engines: usize) {
    tokio::time::sleep(NOTHING).await;
    assert_eq!(api.metric("sessions"), 0);
    assert_eq!(tab.workers().len(), engines, "{:?}", tab.workers());
}

/// Clicks Stop. Chromium drops clicks on frames that changed their place or size less than half a second ago.
async fn stop(frame: &Frame<'_>) {
    let started = Instant::now();
    while !["finished", "failed"].contains(&frame.state().await.as_str()) {
        assert!(started.elapsed() < LIMIT, "Stop does not stop");
        frame.click("#stop").await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(frame.state().await, "finished");
}

#[test]
fn two_clicks_lend_one_stops_and_the_site_hears_counts() {
    let _alone = alone();
    let mut relay = TestRelay::start();
    let api = relay.api.clone();
    let (counted, site) = runtime().block_on(async {
        let browser = browser().await;
        let host = HostSite::start().await;
        host.put("/", plain(&api.url));
        let tab = open(&browser, &host.near).await;
        let frame = Frame::widget(&tab);
        tab.wait_for("document.querySelector('potluck-widget').shadowRoot?.querySelector('button')", LIMIT).await.unwrap();
        look(&frame, "widget-idle").await;

        // A script that clicks the card opens nothing.
        let fetched = "performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname).sort()";
        let by_page = async || -> Vec<String> {
            let page: Vec<String> = tab.evaluate(fetched).await.unwrap();
            page.into_iter().filter(|path| path != "/favicon.ico").collect()
        };
        let _: Value = tab.evaluate("document.querySelector('potluck-widget').shadowRoot.querySelector('button').click(); null").await.unwrap();
        // Who has asked for nothing has the loader, and no frame.
        assert_eq!(by_page().await, ["/embed.js"]);
        ask(&frame).await;
        assert_eq!(frame.state().await, "consent");
        // Before consent: the frame's own files, nothing else, and nothing is kept.
        assert_eq!(by_page().await, ["/embed.js", "/widget.html"]);
        let shell = ["/widget-guard.js", "/widget.css", "/widget.js"];
        assert_eq!(frame.evaluate::<Vec<String>>(fetched).await.unwrap(), shell);
        let kept = "(async () => [localStorage.length, sessionStorage.length, (await caches.keys()).length, document.cookie.length])()";
        assert_eq!(frame.evaluate::<[u64; 4]>(kept).await.unwrap(), [0; 4]);
        assert!(tab.workers().is_empty());
        assert_eq!(api.metric("sessions"), 0);
        // The keyboard is in the frame, where the words begin.
        assert_eq!(tab.evaluate::<String>("document.querySelector('potluck-widget').shadowRoot.activeElement?.localName").await.unwrap(), "iframe");
        assert_eq!(frame.evaluate::<String>("document.activeElement.id").await.unwrap(), "consent-title");
        let text: String = frame.evaluate("document.body.innerText").await.unwrap();
        assert!(text.contains("the tests") && text.contains(&host.near) && text.contains("matmul/int8"), "{text}");
        assert!(!text.contains("{{"), "{text}");
        look(&frame, "widget-consent").await;

        let job = submit(&api, 1);
        agree(&frame).await;
        sessions(&api, 1).await;
        frame.until("Number(document.body.dataset.accepted) > 0", LIMIT).await;
        look(&frame, "widget-running").await;
        // The site sees none of it.
        let inside: Value =
            tab.evaluate("document.querySelector('potluck-widget').shadowRoot.querySelector('iframe').contentDocument").await.unwrap();
        assert_eq!(inside, Value::Null);
        frame.click("#pause").await;
        frame.until("document.body.dataset.state === 'paused'", LIMIT).await;
        look(&frame, "widget-paused").await;
        frame.click("#pause").await;
        frame.until("document.body.dataset.state !== 'paused'", LIMIT).await;

        stop(&frame).await;
        sessions(&api, 0).await;
        look(&frame, "widget-thanks").await;
        let heard: Vec<(String, Value)> = tab.evaluate("window.heard").await.unwrap();
        let states: Vec<_> =
            heard.iter().filter_map(|(_, detail)| detail["state"].as_str()).collect();
        assert_eq!(states, ["asking", "lending", "paused", "lending", "ended"]);
        let counts: Vec<_> = heard.iter().filter(|(name, _)| name == "potluck-result").collect();
        let fields = |detail: &Value| detail.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert!(!counts.is_empty() && counts.iter().all(|(_, detail)| fields(detail) == ["accepted"]), "{heard:?}");
        assert!(heard.iter().all(|(_, detail)| fields(detail).len() == 1), "{heard:?}");

        // What was accepted counts for the site, also after the relay began anew.
        let count = |api: &Api| {
            let site = host.near.replace(':', "%3A").replace('/', "%2F");
            api.get(&format!("/api/v1/embedders/{site}")).json()["accepted"].as_u64().unwrap()
        };
        let accepted: u64 = frame.evaluate("Number(document.body.dataset.accepted)").await.unwrap();
        assert!(accepted > 0 && count(&api) >= accepted, "{} of {accepted}", count(&api));
        assert_eq!(api.get("/api/v1/embedders/school.example").status, 400);
        let answer = api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]);
        assert!([200, 409].contains(&answer.status));
        let counted = count(&api);
        browser.close().await;
        (counted, host.near.clone())
    });
    let site = site.replace(':', "%3A").replace('/', "%2F");
    relay.restart();
    let again = api.get(&format!("/api/v1/embedders/{site}")).json()["accepted"].as_u64().unwrap();
    assert!(again >= counted, "{again} of {counted}");
}

/// A site whose own scripts and styles are not in its pages, under the strictest policies: what is in the way of the widget
/// there, somebody has to allow.
#[test]
fn strict_sites_need_no_more_than_two_lines() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    runtime().block_on(async {
        let browser = browser().await;
        let host = HostSite::start().await;
        let embed = api.get("/.well-known/potluck.json").json()["embed"].clone();
        let [versioned, integrity] = ["versioned", "integrity"].map(|key| embed[key].as_str().unwrap().to_owned());
        let page = |script: &str| {
            format!("<!doctype html><html lang=en><title>Strict</title><link rel=icon href='data:,'>{script}<potluck-widget></potluck-widget></html>")
        };
        let url = &api.url;
        let csp = format!(
            "default-src 'none'; script-src {url}; frame-src {url}; img-src data:; require-trusted-types-for 'script'; trusted-types 'none'"
        );
        let own = |name, value: &str| (name, value.to_owned());
        host.put("/csp", Page { headers: vec![("content-security-policy", csp)], body: page(&format!("<script src='{url}/embed.js'></script>")) });
        let isolated = vec![
            own("cross-origin-embedder-policy", "require-corp"),
            own("cross-origin-opener-policy", "same-origin"),
        ];
        let pinned = |integrity: &str| {
            page(&format!("<script src='{url}{versioned}' integrity='{integrity}' crossorigin=anonymous></script>"))
        };
        host.put("/coep", Page { headers: isolated, body: pinned(&integrity) });
        host.put("/other", Page { body: pinned(&integrity.replace("sha384-", "sha384-AA")), ..Page::default() });

        for path in ["/csp", "/coep"] {
            let tab = open(&browser, &format!("{}{path}", host.near)).await;
            let frame = Frame::widget(&tab);
            ask(&frame).await;
            agree(&frame).await;
            sessions(&api, 1).await;
            let violations: Vec<String> = tab.evaluate("window.violations").await.unwrap();
            assert_eq!(violations, Vec::<String>::new());
            assert_eq!(tab.evaluate::<bool>("window.crossOriginIsolated").await.unwrap(), path == "/coep");
            stop(&frame).await;
            sessions(&api, 0).await;
            tab.close().await.unwrap();
        }
        let tab = open(&browser, &format!("{}/other", host.near)).await;
        assert!(tab.evaluate::<bool>("customElements.get('potluck-widget') === undefined").await.unwrap());
        let answer = api.get("/embed/0123456789abcdef/embed.js");
        assert_eq!(answer.status, 404);
        browser.close().await;
    });
}

/// What pages do with elements: two scripts, taken out, put in again, moved, stopped by the page.
#[test]
fn twice_included_taken_out_and_put_in_again() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    runtime().block_on(async {
        let browser = browser().await;
        let host = HostSite::start().await;
        let page = with(&api.url, &format!("<script src='{0}/embed.js'></script><script src='{0}/embed.js'></script>\
            <potluck-widget preset-max='quiet' theme='dark' style='--potluck-accent:#ffd400;--potluck-radius:0px'>\
            <button>Lend this tab</button></potluck-widget>", api.url));
        host.put("/", page);
        let tab = open(&browser, &host.near).await;
        let frame = Frame::widget(&tab);
        ask(&frame).await;
        let choices = "[...document.querySelectorAll('label')].filter((one) => one.offsetWidth).length";
        assert_eq!(frame.evaluate::<u32>(choices).await.unwrap(), 1, "a site lowers what may be chosen");
        let seen: [String; 3] = frame.evaluate("[document.documentElement.dataset.theme, \
            getComputedStyle(document.querySelector('#agree')).backgroundColor, getComputedStyle(document.querySelector('#agree')).color]").await.unwrap();
        assert_eq!(seen, ["dark", "rgb(255, 212, 0)", "rgb(0, 0, 0)"]);
        look(&frame, "widget-themed").await;
        agree(&frame).await;
        sessions(&api, 1).await;
        let _: Value = tab.evaluate("window.widget = document.querySelector('potluck-widget'); widget.remove(); null").await.unwrap();
        sessions(&api, 0).await;
        assert_eq!(tab.evaluate::<String>("widget.state").await.unwrap(), "idle");

        let _: Value = tab.evaluate("document.body.append(widget); null").await.unwrap();
        assert_eq!(tab.evaluate::<usize>("widget.shadowRoot.querySelectorAll('iframe').length").await.unwrap(), 0);
        ask(&frame).await;
        assert_eq!(tab.evaluate::<usize>("widget.shadowRoot.querySelectorAll('iframe').length").await.unwrap(), 1);
        agree(&frame).await;
        sessions(&api, 1).await;
        // The page may end it, and may not begin it.
        let _: Value = tab.evaluate("widget.stop(); null").await.unwrap();
        frame.until("document.body.dataset.state === 'finished'", LIMIT).await;
        sessions(&api, 0).await;
        let begin = "for (const type of ['start', 'agree', 'lend', 'consent']) \
            widget.shadowRoot.querySelector('iframe').contentWindow.postMessage({ potluck: 1, type }, '*'); null";
        let _: Value = tab.evaluate(begin).await.unwrap();
        nothing(&api, &tab, 2).await;
        assert_eq!(frame.state().await, "finished");
        let faults: Vec<_> = tab.console().into_iter().filter(|line| line.level == "exception").collect();
        assert!(faults.is_empty(), "{faults:?}");
        browser.close().await;
    });
}

/// What a hostile page does once consent is asked for, and what the frame says to a click then.
const TRICKS: [(&str, &str, &str); 7] = [
    (
        "covered",
        "const cover = document.createElement('div'); \
        cover.style.cssText = 'position:fixed;inset:0;background:#fff;pointer-events:none;z-index:9'; document.body.append(cover)",
        "covered",
    ),
    (
        "covered-in-part",
        "const cover = document.createElement('div'); const box = widget.getBoundingClientRect(); \
        cover.style.cssText = `position:fixed;left:${box.left}px;top:${box.top}px;width:${box.width}px;height:200px;background:#fff;pointer-events:none;z-index:9`; \
        document.body.append(cover)",
        "covered",
    ),
    ("transparent", "widget.style.opacity = '0'", "covered"),
    ("filtered", "widget.style.filter = 'blur(9px)'", "covered"),
    ("clipped", "widget.style.clipPath = 'inset(calc(100% - 80px) 0 0 0)'", "covered"),
    (
        "window",
        "widget.parentElement.style.cssText = 'height:90px;overflow:hidden;display:flex;align-items:end'",
        "covered",
    ),
    (
        "small",
        "widget.shadowRoot.querySelector('iframe').style.setProperty('max-height', '200px', 'important')",
        "small",
    ),
];

/// What Chromium does not tell of: there the browser's own question shows what a page hides.
const HIDDEN: [&str; 2] = [
    "widget.style.maskImage = 'linear-gradient(transparent 85%, black 90%)'",
    "widget.style.clipPath = 'polygon(0 0, 1px 0, 1px 88%, 100% 88%, 100% 100%, 0 100%)'",
];

#[test]
fn no_click_is_taken_from_anybody() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    runtime().block_on(async {
        let browser = browser().await;
        let host = HostSite::start().await;
        host.put("/", plain(&api.url));
        let tab = open(&browser, &host.near).await;
        tab.set_viewport(1400, 1100, 1.0).await.unwrap();
        let frame = Frame::widget(&tab);
        for (name, trick, answer) in TRICKS {
            tab.goto(&host.near).await.unwrap();
            ask(&frame).await;
            let _: Value = tab.evaluate(&format!("window.widget = document.querySelector('potluck-widget'); {trick}; null")).await.unwrap();
            let started = Instant::now();
            while frame.state().await == "consent" && started.elapsed() < LIMIT {
                let (x, y) = frame.place("#agree").await;
                assert!(!click_and_answer(&tab, x, y, true).await, "{name}: nobody is asked");
            }
            assert_eq!((frame.state().await.as_str(), frame.refused().await.as_str()), ("refused", answer), "{name}");
            let own: String = frame.evaluate("document.querySelector('#own-page').href").await.unwrap();
            assert!(own.starts_with(&api.url), "{own}");
        }
        nothing(&api, &tab, 0).await;
        look(&frame, "widget-refused").await;
        for trick in HIDDEN {
            tab.goto(&host.near).await.unwrap();
            ask(&frame).await;
            let _: Value = tab.evaluate(&format!("window.widget = document.querySelector('potluck-widget'); {trick}; null")).await.unwrap();
            let started = Instant::now();
            loop {
                assert!(started.elapsed() < LIMIT, "{trick}: nobody was asked");
                let (x, y) = frame.place("#agree").await;
                if click_and_answer(&tab, x, y, false).await {
                    break;
                }
            }
            assert_eq!(frame.state().await, "consent", "{trick}");
            nothing(&api, &tab, 0).await;
        }
        tab.goto(&host.near).await.unwrap();
        ask(&frame).await;

        // Clicks of scripts, with and without a person's activation of the page.
        for script in [
            "document.querySelector('#agree').click()",
            "document.querySelector('#agree').dispatchEvent(new MouseEvent('click', { bubbles: true, composed: true, detail: 1 }))",
            "document.querySelector('#agree').dispatchEvent(new PointerEvent('click', { bubbles: true, pointerType: 'touch' }))",
        ] {
            let _: Value = frame.evaluate(&format!("{script}; null")).await.unwrap();
        }
        nothing(&api, &tab, 0).await;
        assert_eq!((frame.state().await.as_str(), frame.refused().await.as_str()), ("consent", ""));

        // The frame comes under a pointer that rests: whoever clicks then meant something else.
        let (x, y) = frame.place("#agree").await;
        let x = x + 600.0;
        point_at(&tab, x, y).await;
        tokio::time::sleep(NOTHING).await;
        let _: Value = tab.evaluate("Object.assign(document.querySelector('potluck-widget').style, { position: 'relative', left: '600px' }); null").await.unwrap();
        // Chromium itself drops clicks on frames that moved less than half a second ago.
        tokio::time::sleep(MOVED).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1, "pointerType": "mouse" });
            tab.call("Input.dispatchMouseEvent", event).await.unwrap();
        }
        nothing(&api, &tab, 0).await;
        assert_eq!((frame.state().await.as_str(), frame.refused().await.as_str()), ("consent", "once-more"));
        keep(&tab, "widget-once-more").await;
        // Whoever reads it may agree.
        agree(&frame).await;
        sessions(&api, 1).await;
        // Where Stop is covered, nothing goes on.
        let _: Value = tab.evaluate("const cover = document.createElement('div'); cover.id = 'cover'; \
            cover.style.cssText = 'position:fixed;inset:0;background:#fff;z-index:9'; document.body.append(cover); null").await.unwrap();
        frame.until("document.body.dataset.state === 'waiting' && document.querySelector('#reason').textContent.includes('Stop')", LIMIT).await;
        let _: Value = tab.evaluate("document.querySelector('#cover').remove(); null").await.unwrap();
        frame.until("!document.querySelector('#reason').textContent.includes('Stop')", LIMIT).await;
        stop(&frame).await;
        sessions(&api, 0).await;

        // One pixel: there is nothing to click.
        tab.goto(&host.near).await.unwrap();
        ask(&frame).await;
        let tiny = "Object.assign(document.querySelector('potluck-widget').shadowRoot.querySelector('iframe').style, { width: '1px', height: '1px' })";
        let _: Value = tab.evaluate(&format!("{tiny}; null")).await.unwrap();
        let corner: [f64; 2] = tab.evaluate("(() => { const { left, top } = document.querySelector('potluck-widget').getBoundingClientRect(); return [left, top]; })()").await.unwrap();
        for _ in 0..5 {
            click_at(&tab, corner[0] + 0.5, corner[1] + 0.5).await;
        }
        nothing(&api, &tab, 1).await;
        assert_ne!(frame.state().await, "running");
        browser.close().await;
    });
}

/// Pages without an origin, in sandboxes, and of sites that the operator does not want.
#[test]
fn where_nothing_may_start_the_frame_says_why() {
    let _alone = alone();
    let host = runtime();
    let site = host.block_on(HostSite::start());
    let denied = EmbedConfig { deny: vec![site.near.clone()], ..EmbedConfig::default() };
    let strict = TestRelay::start_configured(|config| config.embeds = denied);
    let relay = TestRelay::start();
    let (api, strict) = (relay.api.clone(), strict.api.clone());
    host.block_on(async {
        // A sandboxed frame in a process of its own cannot be looked into from its page.
        let options = LaunchOptions {
            gpu: Gpu::Off,
            extra_args: vec!["--disable-features=IsolateSandboxedIframes".to_owned()],
            ..LaunchOptions::default()
        };
        let browser = Browser::launch(&options).await.unwrap();
        site.put("/inner", plain(&api.url));
        let outer = |frame: &str| Page {
            body: format!("<!doctype html><html lang=en><title>Outer</title><style>iframe{{width:700px;height:700px}}</style>{frame}</html>"),
            ..Page::default()
        };
        site.put("/sandboxed", outer("<iframe sandbox='allow-scripts' src='/inner'></iframe>"));
        site.put("/data", outer(&format!(
            "<iframe src=\"data:text/html,<script src='{0}/embed.js'></script><potluck-widget></potluck-widget>\"></iframe>", api.url)));
        for (path, around, answer) in [("/sandboxed", "/inner", "sandbox"), ("/data", "data:text", "nameless")] {
            let tab = open(&browser, &format!("{}{path}", site.near)).await;
            let frame = Frame::nested(&tab, around);
            ask(&frame).await;
            assert_eq!((frame.state().await.as_str(), frame.refused().await.as_str()), ("refused", answer));
            keep(&tab, &format!("widget-{answer}")).await;
            nothing(&api, &tab, 0).await;
            tab.close().await.unwrap();
        }

        // A site that is denied gets no frame; one that hides who it is gets a consent that the relay refuses.
        site.put("/denied", plain(&strict.url));
        let tab = open(&browser, &format!("{}/denied", site.near)).await;
        Frame::widget(&tab).press(LIMIT).await;
        Frame::widget(&tab).until("document.body.innerText.includes('does not let this site')", LIMIT).await;
        tab.close().await.unwrap();
        site.put("/hides", outer(&format!("<iframe referrerpolicy=no-referrer src='{}/widget.html'></iframe>", strict.url)));
        let tab = open(&browser, &format!("{}/hides", site.near)).await;
        let frame = Frame::widget(&tab);
        ask(&frame).await;
        agree(&frame).await;
        frame.until("document.body.dataset.state === 'failed'", LIMIT).await;
        let text: String = frame.evaluate("document.querySelector('#over-text').textContent").await.unwrap();
        assert!(text.contains("does not let") && text.contains(&site.near), "{text}");
        keep(&tab, "widget-denied").await;
        sessions(&strict, 0).await;
        browser.close().await;
    });
}

/// Another site altogether: the frame is in a process of its own, and what lies over it in another.
#[test]
fn a_frame_of_another_site_sees_what_lies_over_it() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    runtime().block_on(async {
        let browser = browser().await;
        let host = HostSite::start().await;
        host.put("/", plain(&api.url));
        let tab = open(&browser, &host.origin).await;
        let corner = "(() => { const box = document.querySelector('potluck-widget').getBoundingClientRect(); return [box.left + 60, box.bottom - 36]; })()";
        // Both buttons stand in the same corner, in frames of different heights.
        let click = async || {
            let at: [f64; 2] = tab.evaluate(corner).await.unwrap();
            click_and_answer(&tab, at[0], at[1], true).await;
        };
        let state = async || -> String { tab.evaluate("document.querySelector('potluck-widget').state").await.unwrap() };
        let until = async |wanted: &str| {
            let started = Instant::now();
            while state().await != wanted {
                assert!(started.elapsed() < LIMIT, "{} instead of {wanted}", state().await);
                click().await;
            }
        };
        until("asking").await;
        let _: Value = tab.evaluate("const cover = document.createElement('div'); cover.id = 'cover'; \
            cover.style.cssText = 'position:fixed;inset:0;background:#fff;pointer-events:none;z-index:9'; document.body.append(cover); null").await.unwrap();
        until("refused").await;
        nothing(&api, &tab, 0).await;

        tab.goto(&host.origin).await.unwrap();
        until("lending").await;
        sessions(&api, 1).await;
        let _: Value = tab.evaluate("document.querySelector('potluck-widget').stop(); null").await.unwrap();
        sessions(&api, 0).await;
        browser.close().await;
    });
}

/// The page for those who run a site: what it writes works, and what it says of headers is right.
#[test]
fn the_generator_writes_what_sites_need() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    let job = submit(&api, 2);
    runtime().block_on(async {
        let browser = browser().await;
        let tab = open(&browser, &format!("{}/embed.html", api.url)).await;
        tab.wait_for("document.querySelector('#pinned').textContent.includes('integrity=') && document.querySelector('#project').options.length === 2", LIMIT).await.unwrap();
        let choose = format!(
            "for (const [id, value] of [['project', '{job}'], ['max', 'quiet'], ['theme', 'dark'], ['accent', '#ffd400']]) {{ \
               const field = document.getElementById(id); field.value = value; field.dispatchEvent(new Event('change')); }} null"
        );
        let _: Value = tab.evaluate(&choose).await.unwrap();
        let snippet: String = tab.evaluate("document.querySelector('#pinned').textContent").await.unwrap();
        for part in ["preset-max=\"quiet\"", "theme=\"dark\"", "--potluck-accent: #ffd400", &job, "crossorigin=\"anonymous\""] {
            assert!(snippet.contains(part), "{part}: {snippet}");
        }
        let frame = Frame::widget(&tab);
        ask(&frame).await;
        assert_eq!(frame.evaluate::<String>("document.documentElement.dataset.theme").await.unwrap(), "dark");
        let own: String = frame.evaluate("document.querySelector('#own-page').href").await.unwrap();
        assert_eq!(own, format!("{}/join/{job}?preset=quiet", api.url));

        // What it wrote is what a site puts in.
        let host = HostSite::start().await;
        host.put("/", Page { body: format!("<!doctype html><html lang=en><title>Pasted</title>{snippet}</html>"), ..Page::default() });
        let other = open(&browser, &host.near).await;
        let pasted = Frame::widget(&other);
        let defined = async || -> bool { other.evaluate("Boolean(customElements.get('potluck-widget'))").await.unwrap() };
        assert!(!defined().await, "the page pays for nothing until somebody comes near");
        ask(&pasted).await;
        assert_eq!(pasted.state().await, "consent");
        assert_eq!(other.evaluate::<String>("document.querySelector('potluck-widget').presetMax").await.unwrap(), "quiet");
        // By keyboard as well.
        other.goto(&host.near).await.unwrap();
        let _: Value = other.evaluate("document.querySelector('potluck-widget button').focus(); null").await.unwrap();
        assert!(defined().await);
        other.close().await.unwrap();

        let url = &api.url;
        for (headers, wrong) in [
            ("default-src 'self'".to_owned(), 2),
            (format!("default-src 'self'; script-src {url}; frame-src {url}"), 0),
            (format!("script-src {url}/embed.js; child-src *; sandbox allow-scripts"), 1),
            ("script-src 'nonce-abc'; frame-src http:".to_owned(), 0),
        ] {
            let text = json!(format!("HTTP/2 200\ncontent-type: text/html\nContent-Security-Policy: {headers}"));
            let _: Value = tab.evaluate(&format!("document.querySelector('#headers').value = {text}; null")).await.unwrap();
            tab.click("#check").await.unwrap();
            let found: usize = tab.evaluate("document.querySelectorAll('#checked .no').length").await.unwrap();
            assert_eq!(found, wrong, "{headers}");
        }
        let refused: Vec<String> = tab.evaluate("window.violations").await.unwrap();
        assert_eq!(refused, Vec::<String>::new());
        tab.set_viewport(1100, 2900, 1.0).await.unwrap();
        let _: Value = tab.evaluate("scrollTo(0, 0)").await.unwrap();
        keep(&tab, "widget-generator").await;
        let answer = api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]);
        assert_eq!(answer.status, 200);
        browser.close().await;
    });
}
