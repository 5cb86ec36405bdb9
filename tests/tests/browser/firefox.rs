//! Firefox as a volunteer, through the relay's real page; and what peers in tabs rely on: a data channel between Firefox
//! and Chromium, and one that moves to a Worker.

use potluck_cli::cdp::{Browser, CdpError, Gpu, LaunchOptions, Tab, find_chromium};
use potluck_tests::firefox::{Firefox, Page, find_firefox};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{TestRelay, alone, has_page};
use potluck_types::MatmulShape;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

/// Time for a page to load its engine, calibrate itself and do what is asked.
const LIMIT: Duration = Duration::from_secs(90);
const SHAPE: MatmulShape = MatmulShape { m: 512, k: 256, n: 512 };

/// Whether a browser is there; what is not there is said.
fn have_firefox() -> bool {
    let found = find_firefox().is_some();
    if !found {
        eprintln!("skipped: no Firefox; install firefox-esr, set FIREFOX, or let `cargo xtask test` do it");
    }
    found
}

/// A page of whichever browser.
trait Evaluates {
    async fn eval<T: DeserializeOwned>(&self, expression: &str) -> T;
}

impl Evaluates for Page {
    async fn eval<T: DeserializeOwned>(&self, expression: &str) -> T {
        self.evaluate(expression)
            .await
            .unwrap_or_else(|error| panic!("Firefox: {error:#}: {:?}", self.console()))
    }
}

impl Evaluates for Tab {
    async fn eval<T: DeserializeOwned>(&self, expression: &str) -> T {
        let value: Result<T, CdpError> = self.evaluate(expression).await;
        value.unwrap_or_else(|error| panic!("Chromium: {error}: {:?}", self.console()))
    }
}

#[test]
fn firefox_lends_itself_through_the_page() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !has_page(&api) {
        return;
    }
    if !have_firefox() {
        return;
    }
    let known = LowRank::new(SHAPE, 5);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let firefox = Firefox::launch(&[]).await.unwrap();
        println!("{}", firefox.version);
        let page = firefox.new_page().await.unwrap();
        let must = async |expression: &str| {
            let waited = page.wait_for(expression, LIMIT).await;
            waited.unwrap_or_else(|error| panic!("{error:#}: {:?}", page.console()));
        };
        page.goto(&format!("{}/", api.url)).await.unwrap();
        // What a script clicks is no consent.
        let _: Value = page.eval("document.querySelector('#lend').click()").await;
        assert_eq!(page.eval::<String>("document.body.dataset.state").await, "idle");
        page.click("#lend").await.unwrap();
        must("document.body.dataset.state === 'consent'").await;
        assert_eq!(api.metric("sessions"), 0, "nothing connects before consent");
        page.click("#agree").await.unwrap();
        must("document.body.dataset.backend === 'wasm'").await;

        let id = api.submit(&files[0], &files[1], &json!({ "name": "by Firefox" }));
        let (_, c) = api.result(&id, LIMIT);
        assert!(c == known.c, "the product is wrong");
        let job = api.job(&id);
        println!("{} shards; console: {:?}", job["shards"], page.console());
        let contributors = job["contributors"].as_array().unwrap();
        assert_eq!((contributors.len(), &contributors[0]["backend"]), (1, &json!("wasm")), "{job}");
        assert_eq!(job["rejections"], json!([]));
        must("Number(document.body.dataset.accepted) > 0").await;

        page.click("#stop").await.unwrap();
        must("document.body.dataset.state === 'finished'").await;
        page.close().await.unwrap();
        firefox.close().await;
    });
    potluck_tests::wait_until("the session is over", LIMIT, || api.metric("sessions") == 0);
}

/// Firefox and Chromium link through the relay's signaling, and pass inputs on to each other.
#[test]
fn firefox_and_chromium_pass_inputs_on_to_each_other() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !has_page(&api) {
        return;
    }
    if !have_firefox() || find_chromium().is_none() {
        return;
    }
    let shape = MatmulShape { m: 2048, k: 1024, n: 2048 };
    let known = LowRank::new(shape, 5);
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let firefox = Firefox::launch(&[]).await.unwrap();
        let page = firefox.new_page().await.unwrap();
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let chromium = Browser::launch(&options).await.unwrap();
        let tab = chromium.new_tab().await.unwrap();
        let address = format!("{}/?backend=wasm&preset=full&hidden=run", api.url);
        page.goto(&address).await.unwrap();
        page.click("#lend").await.unwrap();
        page.click("#agree").await.unwrap();
        tab.goto(&address).await.unwrap();
        tab.click("#lend").await.unwrap();
        tab.click("#agree").await.unwrap();
        let linked = "document.body.dataset.peers === '1'";
        let waited = tab.wait_for(linked, LIMIT).await;
        assert!(waited.is_ok(), "Chromium: {waited:?}: {:?}, Firefox: {:?}", tab.console(), page.console());
        let waited = page.wait_for(linked, LIMIT).await;
        assert!(waited.is_ok(), "Firefox: {waited:?}: {:?}", page.console());
        let api_of = api.clone();
        let result = tokio::task::spawn_blocking(move || {
            let id = api_of.submit(&files[0], &files[1], &json!({ "name": "two browsers" }));
            api_of.result(&id, LIMIT).1
        });
        assert!(result.await.unwrap() == known.c, "the product is wrong");
        let passed = "Number(document.body.dataset.fromPeers)";
        let both = format!("{passed} > 0");
        let waited = (tab.wait_for(&both, LIMIT).await.is_ok(), page.wait_for(&both, LIMIT).await.is_ok());
        let bytes = (tab.eval::<f64>(passed).await, page.eval::<f64>(passed).await);
        println!("{} bytes to Chromium, {} to Firefox, each group verified", bytes.0, bytes.1);
        assert_eq!(waited, (true, true), "{bytes:?}: {:?}", page.console());
        assert_eq!(api.metric("mesh_bad_groups_total"), 0);
        tab.close().await.unwrap();
        page.close().await.unwrap();
        chromium.close().await;
        firefox.close().await;
    });
}

/// A server of an empty page: browsers give pages of 127.0.0.1 all that they give secure ones.
fn empty_page() -> String {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\
        connection: close\r\n\r\n<!doctype html>";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // A browser that hangs up early gets no page, and the test says so.
            drop(stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(ANSWER)));
        }
    });
    format!("http://{address}/")
}

/// One end: `offer()`, `answer(offer)` and `accept(answer)` give descriptions with all candidates in them; `send()` sends a
/// megabyte that `received()` of the other end checks.
const PEER: &str = r"(() => {
  const BYTES = 1 << 20, CHUNK = 16384, LOW = 65536;
  const byteAt = (at) => (at * 31 + (at >> 8)) & 255;
  const peer = new RTCPeerConnection();
  let opened, done;
  const open = new Promise((resolve) => { opened = resolve; });
  const all = new Promise((resolve) => { done = resolve; });
  let got = 0, wrong = 0;
  const use = (channel) => {
    channel.binaryType = 'arraybuffer';
    channel.bufferedAmountLowThreshold = LOW;
    channel.onmessage = ({ data }) => {
      for (const byte of new Uint8Array(data)) wrong += byte !== byteAt(got++);
      if (got === BYTES) done();
    };
    if (channel.readyState === 'open') opened(channel);
    else channel.onopen = () => opened(channel);
  };
  peer.ondatachannel = ({ channel }) => use(channel);
  const gathered = () => new Promise((resolve) => {
    const look = () => { if (peer.iceGatheringState === 'complete') resolve(peer.localDescription.toJSON()); };
    peer.onicegatheringstatechange = look;
    look();
  });
  window.end = {
    async offer() {
      use(peer.createDataChannel('bytes'));
      await peer.setLocalDescription();
      return gathered();
    },
    async answer(offer) {
      await peer.setRemoteDescription(offer);
      await peer.setLocalDescription();
      return gathered();
    },
    accept: (answer) => peer.setRemoteDescription(answer),
    async send() {
      const channel = await open;
      for (let at = 0; at < BYTES; at += CHUNK) {
        channel.send(Uint8Array.from({ length: CHUNK }, (_, i) => byteAt(at + i)));
        if (channel.bufferedAmount > LOW) await new Promise((low) => { channel.onbufferedamountlow = low; });
      }
    },
    async received() {
      await all;
      return { got, wrong };
    },
    async pair() {
      const stats = [...(await peer.getStats()).values()];
      const chosen = stats.find((one) => one.type === 'candidate-pair' && one.nominated && one.state === 'succeeded');
      const of = (id) => stats.find((one) => one.id === id)?.candidateType;
      return chosen ? of(chosen.localCandidateId) + ' - ' + of(chosen.remoteCandidateId) : 'unknown';
    },
  };
})()";

/// The addresses that a description names.
fn candidates(description: &Value) -> Vec<String> {
    let lines = description["sdp"].as_str().unwrap().lines();
    let candidates = lines.filter_map(|line| line.strip_prefix("a=candidate:"));
    candidates.map(|line| line.split(' ').skip(2).take(6).collect::<Vec<_>>().join(" ")).collect()
}

async fn connects(names: [&str; 2], first: &impl Evaluates, second: &impl Evaluates) {
    let _: Value = first.eval(PEER).await;
    let _: Value = second.eval(PEER).await;
    let offer: Value = first.eval("end.offer()").await;
    let answer: Value = second.eval(&format!("end.answer({offer})")).await;
    println!("{}: {:#?}", names[0], candidates(&offer));
    println!("{}: {:#?}", names[1], candidates(&answer));
    let _: Value = first.eval(&format!("end.accept({answer})")).await;
    let _: Value = first.eval("end.send()").await;
    let _: Value = second.eval("end.send()").await;
    let all = json!({ "got": 1 << 20, "wrong": 0 });
    assert_eq!(second.eval::<Value>("end.received()").await, all, "{} to {}", names[0], names[1]);
    assert_eq!(first.eval::<Value>("end.received()").await, all, "{} to {}", names[1], names[0]);
    println!("{} offers: {}", names[0], first.eval::<String>("end.pair()").await);
}

/// Moves channels to Workers at different times; says of each how it went, and what came back through it first. Browsers
/// refuse to move a channel later than in the task that made it.
const MOVES: &str = r"(async () => {
  const code = `self.onmessage = ({ data: { channel } }) => {
    channel.binaryType = 'arraybuffer';
    channel.onmessage = ({ data }) => channel.send(data);
    self.channel = channel;
    self.postMessage('has it');
  };`;
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  window.kept = [];
  const attempt = async (moment) => {
    const worker = new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
    const ends = [new RTCPeerConnection(), new RTCPeerConnection()];
    const [mine, other] = ends;
    window.kept.push(worker, ...ends);
    mine.onicecandidate = ({ candidate }) => other.addIceCandidate(candidate);
    other.onicecandidate = ({ candidate }) => mine.addIceCandidate(candidate);
    const has = new Promise((resolve) => { worker.onmessage = resolve; });
    let result = 'never moved', back;
    const echo = new Promise((resolve) => { back = resolve; });
    const give = (channel) => {
      try {
        worker.postMessage({ channel }, [channel]);
        result = 'moved';
      } catch (error) {
        result = error.name;
        back([0, 0]);
      }
    };
    const talk = (channel) => {
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) => back([data.byteLength, new Uint8Array(data)[0]]);
      // Each says which one it is. Channels that are moved may lose what comes on the way.
      const go = async () => {
        for (let one = 0; one < 50; one += 1, await sleep(100)) channel.send(new Uint8Array(60000).fill(one));
      };
      if (channel.readyState === 'open') go();
      else channel.onopen = go;
    };
    if (moment === 'in ondatachannel') {
      other.ondatachannel = ({ channel }) => give(channel);
      talk(mine.createDataChannel('x'));
    } else if (moment === 'negotiated, when made') {
      const [moved, kept] = [other, mine].map((end) => end.createDataChannel('x', { negotiated: true, id: 0 }));
      give(moved);
      talk(kept);
    } else {
      other.ondatachannel = ({ channel }) => talk(channel);
      const channel = mine.createDataChannel('x');
      if (moment === 'when made') give(channel);
      else if (moment === 'a task later') setTimeout(() => give(channel), 0);
      else channel.onopen = () => give(channel);
    }
    // Chromium loses what arrives while the channel is on its way to the Worker.
    if (result === 'moved') await has;
    await mine.setLocalDescription();
    await other.setRemoteDescription(mine.localDescription);
    await other.setLocalDescription();
    await mine.setRemoteDescription(other.localDescription);
    const echoed = await Promise.race([echo, sleep(10000)]);
    return [moment, result, echoed ?? [-1, -1]];
  };
  const moments = ['when made', 'negotiated, when made', 'in ondatachannel', 'a task later', 'when open'];
  return Promise.all(moments.map(attempt));
})()";

async fn moves_to_workers(name: &str, page: &impl Evaluates) {
    let outcomes: Vec<(String, String, [i64; 2])> = page.eval(MOVES).await;
    for (moment, result, [bytes, first]) in &outcomes {
        println!(
            "{name}: a channel given to a Worker {moment}: {result}, {bytes} bytes came back, first {first}"
        );
    }
    for (moment, result, [bytes, first]) in &outcomes {
        match moment.as_str() {
            "a task later" | "when open" => {}
            // Nothing can be waited for here, and the first messages may be lost.
            "in ondatachannel" => {
                assert_eq!((result.as_str(), *bytes), ("moved", 60_000), "{name}, {moment}");
            }
            _ => assert_eq!((result.as_str(), *bytes, *first), ("moved", 60_000, 0), "{name}, {moment}"),
        }
    }
}

#[test]
fn data_channels_reach_from_firefox_to_chromium_and_move_to_workers() {
    let _alone = alone();
    if !have_firefox() {
        return;
    }
    assert!(
        find_chromium().is_some(),
        "no Chromium: install it, set CHROME, or let `cargo xtask test` do it"
    );
    let address = empty_page();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let firefox = Firefox::launch(&[]).await.unwrap();
        let options = LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() };
        let chromium = Browser::launch(&options).await.unwrap();
        println!("{}, {}", firefox.version, chromium.version().await.unwrap());
        for firefox_offers in [true, false] {
            let page = firefox.new_page().await.unwrap();
            page.goto(&address).await.unwrap();
            let tab = chromium.new_tab().await.unwrap();
            tab.goto(&address).await.unwrap();
            if firefox_offers {
                connects(["Firefox", "Chromium"], &page, &tab).await;
            } else {
                connects(["Chromium", "Firefox"], &tab, &page).await;
            }
            moves_to_workers("Firefox", &page).await;
            moves_to_workers("Chromium", &tab).await;
            page.close().await.unwrap();
            tab.close().await.unwrap();
        }
        firefox.close().await;
        chromium.close().await;
    });
}
