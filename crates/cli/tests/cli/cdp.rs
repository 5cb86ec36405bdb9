//! The DevTools client against a real Chromium.

use potluck_cli::cdp::{Browser, CdpError, Gpu, LaunchOptions, find_chromium};
use std::path::Path;
use std::time::Duration;

const PAGE: &str = "data:text/html,<title>t</title><button id=b style='margin:50px'>b</button><script>
document.getElementById('b').onclick=e=>{document.title='trusted '+e.isTrusted+' active '+navigator.userActivation.isActive};
console.log('hello', 42);
</script>";

/// Runs a test in a fresh browser, or says why it is skipped.
fn with_browser(gpu: Gpu, test: impl AsyncFnOnce(&Browser)) {
    if find_chromium().is_none() {
        eprintln!("skipped: no Chromium found (install it, or set CHROME)");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { gpu, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        test(&browser).await;
        browser.close().await;
    });
}

#[test]
fn clicks_are_trusted_and_tabs_are_strangers_to_each_other() {
    with_browser(Gpu::Off, async |browser| {
        assert!(browser.version().await.unwrap().contains("Chrom"));
        let (tab, other) = (browser.new_tab().await.unwrap(), browser.new_tab().await.unwrap());
        tab.goto(PAGE).await.unwrap();
        tab.click("#b").await.unwrap();
        tab.wait_for("document.title === 'trusted true active true'", Duration::from_secs(5)).await.unwrap();
        other.goto(PAGE).await.unwrap();
        assert_eq!(other.evaluate::<String>("document.title").await.unwrap(), "t");
        // Tabs that nobody looks at must not be told that they are hidden.
        for tab in [&tab, &other] {
            assert_eq!(tab.evaluate::<String>("document.visibilityState").await.unwrap(), "visible");
        }
        assert!(tab.console().iter().any(|line| line.level == "log" && line.text == "hello 42"));
        assert_eq!(tab.evaluate::<u32>("Promise.resolve(6 * 7)").await.unwrap(), 42);
        let thrown = tab.evaluate::<u32>("nothing.here").await.unwrap_err();
        assert!(matches!(&thrown, CdpError::Script(text) if text.contains("ReferenceError")), "{thrown}");
        other.close().await.unwrap();
    });
}

#[test]
fn keys_media_viewport_and_pictures() {
    with_browser(Gpu::Off, async |browser| {
        let tab = browser.new_tab().await.unwrap();
        tab.inject_into_pages("window.injected = 7").await.unwrap();
        tab.goto(PAGE).await.unwrap();
        assert_eq!(tab.evaluate::<u32>("window.injected").await.unwrap(), 7);
        tab.press("Tab").await.unwrap();
        assert_eq!(tab.evaluate::<String>("document.activeElement.id").await.unwrap(), "b");
        tab.press("Enter").await.unwrap();
        tab.wait_for("document.title.startsWith('trusted true')", Duration::from_secs(5)).await.unwrap();
        let dark = "matchMedia('(prefers-color-scheme: dark)').matches";
        assert!(!tab.evaluate::<bool>(dark).await.unwrap());
        tab.emulate_media(&[("prefers-color-scheme", "dark")]).await.unwrap();
        assert!(tab.evaluate::<bool>(dark).await.unwrap());
        tab.set_viewport(333, 222, 2.0).await.unwrap();
        assert_eq!(tab.evaluate::<(u32, u32)>("[innerWidth, innerHeight]").await.unwrap(), (333, 222));
        let png = tab.screenshot().await.unwrap();
        assert_eq!(&png[1..4], b"PNG");
        // Width and height stand in the header: 666 x 444 device pixels.
        assert_eq!(&png[16..24], &[0, 0, 2, 154, 0, 0, 1, 188]);
    });
}

#[test]
fn workers_are_patched_before_their_first_line() {
    with_browser(Gpu::Off, async |browser| {
        let tab = browser.new_tab().await.unwrap();
        tab.inject_into_workers("self.planted = 'early'; Math.sqrt = () => -1;").unwrap();
        tab.goto("data:text/html,<p>worker").await.unwrap();
        let start = "new Promise((resolve, reject) => {
            const code = 'const seen = [self.planted, Math.sqrt(4)]; console.warn(\"from worker\"); postMessage(seen); \
                onmessage = () => {}';
            const worker = new Worker(URL.createObjectURL(new Blob([code])));
            window.kept = worker;
            worker.onmessage = event => resolve(event.data);
            worker.onerror = event => reject(event.message);
        })";
        let seen: (String, i32) = tab.evaluate(start).await.unwrap();
        assert_eq!(seen, ("early".to_owned(), -1));
        let worker = tab.wait_for_worker().await.unwrap();
        assert!(worker.url.starts_with("blob:"), "{}", worker.url);
        assert_eq!(tab.evaluate_in_worker::<String>(&worker, "self.planted").await.unwrap(), "early");
        assert!(tab.console().iter().any(|line| line.text == "from worker"), "{:?}", tab.console());
    });
}

#[test]
fn what_cannot_be_clicked_or_loaded_is_said() {
    with_browser(Gpu::Off, async |browser| {
        let tab = browser.new_tab().await.unwrap();
        let page = "data:text/html,<button id=b style='position:fixed;top:9px;left:9px'>b</button>\
                    <div id=lid style='position:fixed;inset:0'></div>";
        tab.goto(page).await.unwrap();
        // The lid goes away after a while: the click waits for that.
        let remove = "setTimeout(() => document.getElementById('lid').remove(), 400); 1";
        assert_eq!(tab.evaluate::<u32>(remove).await.unwrap(), 1);
        tab.evaluate::<u32>("document.getElementById('b').onclick = () => document.title = 'hit'; 1")
            .await
            .unwrap();
        tab.click("#b").await.unwrap();
        tab.wait_for("document.title === 'hit'", Duration::from_secs(5)).await.unwrap();
        let waited = tab.wait_for("document.title === 'x'", Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(waited, CdpError::Timeout { .. }), "{waited}");
        let refused = tab.goto("http://127.0.0.1:1/").await.unwrap_err();
        assert!(matches!(refused, CdpError::Load { .. } | CdpError::Refused { .. }), "{refused}");
    });
}

#[test]
fn the_software_adapter_is_there() {
    with_browser(Gpu::Software, async |browser| {
        let tab = browser.new_tab().await.unwrap();
        // WebGPU needs a secure context: a page of the loopback, which an empty answer is.
        let address = one_page_server();
        tab.goto(&address).await.unwrap();
        let adapter =
            "navigator.gpu.requestAdapter().then(adapter => adapter ? adapter.info.vendor : 'none')";
        assert_eq!(tab.evaluate::<String>(adapter).await.unwrap(), "google");
    });
}

/// Serves an empty page on the loopback as long as the process lives.
fn one_page_server() -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\n<p>x";
                // The browser may have gone already.
                drop(stream.write_all(page.as_bytes()));
            }
        }
    });
    address
}

#[test]
fn dropping_the_browser_ends_it_and_removes_its_profile() {
    let Some(program) = find_chromium() else {
        eprintln!("skipped: no Chromium found (install it, or set CHROME)");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = LaunchOptions { program: Some(program), gpu: Gpu::Off, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let profile = browser.profile_path().unwrap().to_owned();
        let process = browser.process_id().unwrap();
        assert!(profile.join("DevToolsActivePort").is_file());
        drop(browser);
        assert!(!profile.exists());
        if Path::new("/proc/self").exists() {
            assert!(!Path::new(&format!("/proc/{process}")).exists());
        }
    });
}

#[test]
fn a_browser_that_does_not_start_says_what_it_printed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let missing = LaunchOptions { program: Some("/nowhere/chromium".into()), ..LaunchOptions::default() };
        assert!(matches!(Browser::launch(&missing).await, Err(CdpError::Spawn { .. })));
        if cfg!(unix) {
            let failing = LaunchOptions { program: Some("/bin/false".into()), ..LaunchOptions::default() };
            assert!(matches!(Browser::launch(&failing).await, Err(CdpError::Exited { .. })));
        }
    });
}
