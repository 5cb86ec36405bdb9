//! The npm package on a site of somebody else's, in a real Chromium: it loads the relay's own widget, once, and checks a receipt.

use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_tests::host::{HostSite, Page};
use potluck_tests::{Api, TestRelay, alone, has_page, node};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A site that bundles nothing. Its policy lets scripts of the relay run only if they have the nonce.
fn page(relay: &str) -> Page {
    let imports = json!({ "imports": {
        "potluck-client": "/modules/potluck-client/client.js",
        "potluck-client/loader": "/modules/potluck-client/loader.js",
        "potluck-client/trust": "/modules/potluck-client/trust.js",
        "openapi-fetch": "/modules/openapi-fetch/dist/index.mjs",
    }});
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-n1' 'wasm-unsafe-eval'; connect-src 'self' {relay}; frame-src {relay}"
    );
    let body = format!(
        "<!doctype html><html lang=en><title>A school</title><script type=importmap nonce=n1>{imports}</script>\
         <body><main><h1>A school’s page</h1></main></body></html>"
    );
    Page { headers: vec![("content-security-policy", policy)], body }
}

async fn open(browser: &Browser, address: &str) -> Tab {
    let tab = browser.new_tab().await.unwrap();
    tab.goto(address).await.unwrap();
    tab
}

/// Runs the body of an async function, in which `relay`, `embed` and `code` are known.
async fn run(tab: &Tab, api: &Api, body: &str) -> Value {
    let embed = api.get("/.well-known/potluck.json").json()["embed"].clone();
    let script = format!(
        "(async () => {{ const relay = {:?}, embed = {embed};
           const code = (promise) => promise.then(() => 'nothing', (error) => error.code ?? String(error));
           {body} }})()",
        api.url
    );
    tab.evaluate(&script).await.unwrap_or_else(|error| panic!("{error}: {:?}", tab.console()))
}

#[test]
fn a_site_loads_the_relays_widget_once_and_checks_a_receipt() {
    let Some(folder) = node::installed() else { return };
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !has_page(&api) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(find_chromium().is_some(), "no Chromium: cargo xtask setup");
        let browser = Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await.unwrap();
        let host = HostSite::start().await;
        host.put("/", page(&api.url));
        host.put_folder("/modules", &folder.join("node_modules"));

        let tab = open(&browser, &host.origin).await;
        let loaded = run(&tab, &api, "
            const { loadPotluck } = await import('potluck-client/loader');
            const { versioned, integrity } = embed;
            const options = { relay, nonce: 'n1', pinned: { versioned, integrity } };
            const other = `sha384-${'A'.repeat(64)}`;
            const refused = [
              await code(loadPotluck({ relay })),
              await code(loadPotluck({ ...options, pinned: { versioned, integrity: other } })),
              await code(loadPotluck({ ...options, pinned: { versioned: '/embed.js', integrity } })),
              await code(loadPotluck({ ...options, relay: 'relay.example' })),
            ];
            await Promise.all([loadPotluck(options), loadPotluck(options)]);
            await loadPotluck(options);
            refused.push(await code(loadPotluck({ ...options, relay: location.origin })));
            const widget = document.createElement('potluck-widget');
            document.querySelector('main').append(widget);
            return {
              refused, state: widget.state, accepted: widget.accepted,
              scripts: [...document.scripts].filter(({ src }) => src).map(({ src }) => src),
              names: Object.getOwnPropertyNames(Object.getPrototypeOf(widget)).filter((name) => !/^constructor$|Callback$/.test(name)).sort(),
              shown: widget.shadowRoot.textContent.includes('Lend this tab'),
            };").await;
        assert_eq!(loaded["refused"], json!(["not_loaded", "not_loaded", "bad_version", "bad_relay", "other_relay"]));
        let versioned = api.get("/.well-known/potluck.json").json()["embed"]["versioned"].clone();
        assert_eq!(loaded["scripts"], json!([format!("{}{}", api.url, versioned.as_str().unwrap())]));
        assert_eq!((&loaded["state"], &loaded["accepted"], &loaded["shown"]), (&json!("idle"), &json!(0), &json!(true)));
        // What the package's types speak of, and nothing that they do not.
        assert_eq!(loaded["names"], json!(["accepted", "presetMax", "project", "relay", "state", "stop", "theme"]));

        let (receipt, key) = (api.get("/api/v1/log/receipts/0"), api.get("/api/v1/log").text("key"));
        let receipt = json!(String::from_utf8(receipt.body).unwrap());
        let checked = run(&tab, &api, &format!("
            const {{ verifyReceipt }} = await import('potluck-client/trust');
            const receipt = {receipt}, log = {key:?};
            const {{ kind, index, entry }} = await verifyReceipt(receipt, {{ log }});
            const {{ createPotluck }} = await import('potluck-client');
            return {{ kind, index, origin: entry.origin, refused: [
              await code(verifyReceipt(receipt.replace(/^extra ..../m, 'extra AAAA'), {{ log }})),
              // The API is for programs and the relay's own pages.
              await code(createPotluck({{ relay }}).log()),
            ] }};")).await;
        let origin = key.split('+').next().unwrap();
        assert_eq!(checked, json!({ "kind": "genesis", "index": 0, "origin": origin, "refused": ["not_proved", "unreachable"] }));

        // A lazy one is there, and defines the element only for a visitor who comes near.
        let tab = open(&browser, &host.origin).await;
        let lazy = run(&tab, &api, "
            const { loadPotluck } = await import('potluck-client/loader');
            document.querySelector('main').innerHTML = '<potluck-widget><button type=button>Lend this tab</button></potluck-widget>';
            await loadPotluck({ relay, nonce: 'n1', lazy: true });
            await loadPotluck({ relay, nonce: 'n1' });
            return [customElements.get('potluck-widget') === undefined, document.scripts.length];").await;
        assert_eq!(lazy, json!([true, 2]));
        tab.click("potluck-widget button").await.unwrap();
        tab.wait_for("customElements.get('potluck-widget')", LIMIT).await.unwrap();

        // One that stands in the page already is used.
        let script = format!("<script src='{}/embed.js' data-potluck=lazy nonce=n1 async></script></body>", api.url);
        let Page { headers, body } = page(&api.url);
        host.put("/own", Page { headers, body: body.replace("</body>", &script) });
        let tab = open(&browser, &format!("{}/own", host.origin)).await;
        let own = run(&tab, &api, "
            const { loadPotluck } = await import('potluck-client/loader');
            await loadPotluck({ relay, nonce: 'n1' });
            return [await code(loadPotluck({ relay: location.origin })), document.scripts.length];").await;
        assert_eq!(own, json!(["other_relay", 2]));
        browser.close().await;
    });
}
