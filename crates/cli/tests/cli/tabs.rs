//! `potluck tabs` against a page with the donate page's contract, in real Chromium. The end-to-end suites use the real one.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{CdpError, find_chromium};
use potluck_cli::tabs::{Browser, Lending, launch_options, lend, status, stop};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Buttons as on the donate page. Only trusted clicks count, and the choices come from the address.
const PAGE: &str = "<!doctype html><body data-state=idle>
<button id=lend>lend</button><button id=agree hidden>agree</button><button id=stop hidden>stop</button>
<p id=notice-text></p><script>
const $ = id => document.getElementById(id), d = document.body.dataset, query = new URLSearchParams(location.search);
$('lend').onclick = () => { d.state = 'consent'; setTimeout(() => { $('agree').hidden = false }, 200); };
$('agree').onclick = event => {
  if (!event.isTrusted || query.get('preset') !== 'quiet' || query.get('hidden') !== 'run') return;
  d.state = 'starting';
  setTimeout(() => {
    if (query.get('backend') === 'webgpu') { d.state = 'failed'; $('notice-text').textContent = 'no adapter here'; return; }
    d.state = 'running'; d.backend = 'wasm'; d.accepted = 3; d.rejected = 1; $('stop').hidden = false;
  }, 200);
};
$('stop').onclick = event => { if (event.isTrusted) d.state = 'finished'; };
</script>";

/// Serves the page as long as the process lives.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{PAGE}", PAGE.len());
                // The browser may have gone already.
                drop(stream.write_all(answer.as_bytes()));
            }
        }
    });
    address
}

#[test]
fn tabs_lend_tell_and_stop_by_clicks() {
    if find_chromium().is_none() {
        eprintln!("skipped: no Chromium found (install it, or set CHROME)");
        return;
    }
    let mut lending = Lending { relay: serve(), backend: TabBackend::Wasm, preset: PresetArg::Quiet };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let browser = Browser::launch(&launch_options(&lending, false)).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        lend(&tab, &lending).await.unwrap();
        let seen = status(&tab).await.unwrap();
        assert_eq!((seen.state.as_str(), seen.backend.as_str()), ("running", "wasm"));
        assert_eq!((seen.accepted, seen.rejected), (3, 1));
        stop(&tab).await.unwrap();
        assert_eq!(status(&tab).await.unwrap().state, "finished");
        // A page that fails says why, and nobody waits for it.
        lending.backend = TabBackend::Webgpu;
        let failed = lend(&tab, &lending).await.unwrap_err();
        assert!(matches!(&failed, CdpError::Page(text) if text == "no adapter here"), "{failed}");
        browser.close().await;
    });
}
