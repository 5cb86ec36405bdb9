//! Links between two Workers in Chromium: connections on the page's thread, channels in the Workers, transferred or piped.
//! The page stands in for the relay: it passes signals on, and holds them back or damages them where a test is about that.

#![cfg(target_arch = "wasm32")]

use gloo_timers::future::TimeoutFuture;
use js_sys::{Array, Object, Reflect};
use potluck_mesh::io::{SEND_BUFFER_BYTES, SEND_LOW_BYTES};
use potluck_mesh::wasm::{PageLinks, WorkerLinks};
use potluck_mesh::{LinkAction, LinkEvent, Links as _};
use potluck_proto::{IceServer, LinkPath, SignalKind};
use potluck_types::LinkId;
use potluck_types::limits::MAX_PEER_FRAME_BYTES;
use potluck_web::TabLinks;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::{Closure, JsValue, wasm_bindgen};
use wasm_bindgen::{JsCast as _, UnwrapThrowExt as _};
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};
use web_sys::{MessageEvent, Worker};
use web_time::Instant;

wasm_bindgen_test_configure!(run_in_browser);

const LINK: LinkId = LinkId([7; 16]);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// Time in which what must not come would have come.
const SILENCE_MS: u32 = 700;
/// Frames as large as the mesh has them.
const FRAME_BYTES: usize = MAX_PEER_FRAME_BYTES;

/// What each end sends when the link opens.
const HELLO_BYTES: usize = 19;

/// What the page tells a Worker to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Do {
    Open {
        attempt: u32,
        offers: bool,
        server: Option<String>,
    },
    Signal(Signal),
    Restart {
        attempt: u32,
    },
    Send {
        length: u32,
    },
    /// Send so many frames, as a volunteer does: what fits, and more whenever there is room.
    Stream {
        frames: u32,
    },
    /// Expect them.
    Expect {
        frames: u32,
    },
    Close,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Signal {
    attempt: u32,
    what: SignalKind,
    body: String,
}

/// What a Worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Heard {
    Ready,
    Opened,
    Path {
        turn: bool,
    },
    Interrupted,
    Restored,
    Frame {
        length: u32,
    },
    Drained {
        buffered: u32,
    },
    Failed,
    /// All that was expected came, each once and whole.
    Streamed {
        ms: f64,
    },
    /// All that was to be sent is in the channel.
    Sent {
        drains: u32,
        most_left: u32,
    },
    Wrong {
        what: String,
    },
}

/// Exported to the Worker's script.
#[wasm_bindgen]
pub struct LinkEnd(Rc<End>);

struct End {
    post: js_sys::Function,
    links: RefCell<Option<WorkerLinks>>,
    sending: RefCell<Option<Sending>>,
    expecting: RefCell<Option<Expecting>>,
    /// Whether the link was closed at this end: nothing is to be heard.
    closed: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Sending {
    next: u32,
    frames: u32,
    buffered: u64,
    drains: u32,
    /// Most bytes that were left at a drain.
    most_left: u64,
}

struct Expecting {
    came: Vec<bool>,
    missing: u32,
    first: Option<Instant>,
}

/// A frame that says which it is, and whose every byte can be checked.
fn numbered(index: u32) -> Vec<u8> {
    let mut frame = vec![index as u8; FRAME_BYTES];
    frame[..4].copy_from_slice(&index.to_le_bytes());
    frame
}

#[wasm_bindgen]
impl LinkEnd {
    /// An end without a link yet. `post` passes a message to the page, with what is transferred.
    #[wasm_bindgen(constructor)]
    pub fn new(post: js_sys::Function) -> LinkEnd {
        let to_page = post.clone();
        let end = Rc::new(End {
            post,
            links: RefCell::default(),
            sending: RefCell::default(),
            expecting: RefCell::default(),
            closed: Cell::default(),
        });
        let hearing = Rc::downgrade(&end);
        let links = WorkerLinks::new(
            move |message, transfer| {
                let wrapped = Object::new();
                Reflect::set(&wrapped, &"link".into(), message)?;
                to_page.call2(&JsValue::NULL, &wrapped, transfer).map(drop)
            },
            move |event| {
                if let Some(end) = hearing.upgrade() {
                    end.hear(event);
                }
            },
        );
        *end.links.borrow_mut() = Some(links);
        Self(end)
    }

    /// From the page's half.
    pub fn link(&self, message: &JsValue) {
        let links = self.0.links.borrow().clone();
        links.unwrap_throw().take(message);
    }

    /// From the test.
    pub fn carry_out(&self, what: JsValue) {
        let what: Do = serde_wasm_bindgen::from_value(what).unwrap_throw();
        match what {
            Do::Open { attempt, offers, server } => {
                self.0.closed.set(false);
                let servers = server.map(|url| IceServer {
                    urls: vec![url],
                    username: String::new(),
                    credential: String::new(),
                });
                let servers = servers.into_iter().collect();
                self.0.act(LinkAction::Open { link: LINK, attempt, offers, servers });
            }
            Do::Signal(Signal { attempt, what, body }) => {
                self.0.act(LinkAction::Signal { link: LINK, attempt, kind: what, body });
            }
            Do::Restart { attempt } => {
                self.0.act(LinkAction::Restart { link: LINK, attempt, servers: [].into() });
            }
            Do::Send { length } => {
                self.0.act(LinkAction::Send { link: LINK, frame: vec![1; length as usize] });
            }
            Do::Stream { frames } => {
                *self.0.sending.borrow_mut() =
                    Some(Sending { next: 0, frames, buffered: 0, drains: 0, most_left: 0 });
                self.0.stream();
            }
            Do::Expect { frames } => {
                let came = vec![false; frames as usize];
                *self.0.expecting.borrow_mut() = Some(Expecting { came, missing: frames, first: None });
            }
            Do::Close => {
                self.0.act(LinkAction::Close { link: LINK });
                self.0.closed.set(true);
            }
        }
    }
}

impl End {
    fn act(&self, action: LinkAction) {
        let links = self.links.borrow().clone();
        links.unwrap_throw().carry_out(action);
    }

    fn say(&self, heard: &Heard) {
        let heard = serde_wasm_bindgen::to_value(heard).unwrap_throw();
        self.post.call2(&JsValue::NULL, &heard, &Array::new()).unwrap_throw();
    }

    fn stream(&self) {
        loop {
            let Some(mut sending) = *self.sending.borrow() else { return };
            if sending.buffered >= SEND_BUFFER_BYTES {
                return;
            }
            if sending.next == sending.frames {
                *self.sending.borrow_mut() = None;
                return self
                    .say(&Heard::Sent { drains: sending.drains, most_left: sending.most_left as u32 });
            }
            let frame = numbered(sending.next);
            sending.next += 1;
            sending.buffered += frame.len() as u64;
            *self.sending.borrow_mut() = Some(sending);
            self.act(LinkAction::Send { link: LINK, frame });
        }
    }

    fn hear(&self, event: LinkEvent) {
        assert_eq!(event.link(), LINK);
        if self.closed.get() {
            self.say(&Heard::Wrong { what: format!("{event:?} after the close") });
        }
        match event {
            LinkEvent::Signal { attempt, kind, body, .. } => {
                let signal = Signal { attempt, what: kind, body };
                let wrapped = Object::new();
                let signal = serde_wasm_bindgen::to_value(&signal).unwrap_throw();
                Reflect::set(&wrapped, &"signal".into(), &signal).unwrap_throw();
                self.post.call2(&JsValue::NULL, &wrapped, &Array::new()).unwrap_throw();
            }
            LinkEvent::Opened { .. } => {
                self.say(&Heard::Opened);
                // As a volunteer does.
                self.act(LinkAction::Send { link: LINK, frame: vec![1; HELLO_BYTES] });
            }
            LinkEvent::Path { path, .. } => self.say(&Heard::Path { turn: path == LinkPath::Turn }),
            LinkEvent::Interrupted { .. } => self.say(&Heard::Interrupted),
            LinkEvent::Restored { .. } => self.say(&Heard::Restored),
            LinkEvent::Frame { frame, .. } => self.received(&frame),
            LinkEvent::Drained { buffered, .. } => {
                if buffered > SEND_LOW_BYTES {
                    self.say(&Heard::Wrong { what: format!("drained at {buffered}") });
                }
                if let Some(sending) = &mut *self.sending.borrow_mut() {
                    sending.buffered = buffered;
                    sending.drains += 1;
                    sending.most_left = sending.most_left.max(buffered);
                } else {
                    self.say(&Heard::Drained { buffered: buffered as u32 });
                }
                self.stream();
            }
            LinkEvent::Failed { .. } => self.say(&Heard::Failed),
        }
    }

    fn received(&self, frame: &[u8]) {
        let mut expecting = self.expecting.borrow_mut();
        let Some(expected) = &mut *expecting else {
            return self.say(&Heard::Frame { length: frame.len() as u32 });
        };
        let index = frame.first_chunk().map_or(u32::MAX, |index| u32::from_le_bytes(*index));
        let first = *expected.first.get_or_insert_with(Instant::now);
        let Some(came) = expected.came.get_mut(index as usize) else {
            return self.say(&Heard::Wrong { what: format!("frame {index}") });
        };
        if std::mem::replace(came, true) || frame != numbered(index) {
            self.say(&Heard::Wrong { what: format!("frame {index} again, or damaged") });
        }
        expected.missing -= 1;
        if expected.missing == 0 {
            *expecting = None;
            self.say(&Heard::Streamed { ms: first.elapsed().as_secs_f64() * 1e3 });
        }
    }
}

/// The page's half, as the site has it or bare.
enum Half {
    Tab(TabLinks),
    Bare(PageLinks),
}

impl Half {
    fn take(&self, message: &JsValue) {
        match self {
            Self::Tab(links) => links.take(message),
            Self::Bare(links) => links.take(message),
        }
    }
}

/// How the page's half is made.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// By the site's own class.
    Tab,
    /// As in a browser that can transfer channels.
    Transferring,
    /// As in one that cannot.
    Piping,
}

struct Tab {
    worker: Worker,
    half: Rc<RefCell<Option<Half>>>,
    heard: Rc<RefCell<Vec<Heard>>>,
    signals: Rc<RefCell<VecDeque<Signal>>>,
    /// Messages that crossed the page's thread, whatever for.
    crossed: Rc<Cell<usize>>,
    _listener: Closure<dyn Fn(MessageEvent)>,
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.worker.terminate();
    }
}

impl Tab {
    async fn new(how: How) -> Self {
        let origin = js_sys::eval("location.origin").unwrap_throw().as_string().unwrap_throw();
        let script = format!(
            "import init, {{ LinkEnd }} from '{origin}/wasm-bindgen-test.js';
            await init({{ module_or_path: '{origin}/wasm-bindgen-test_bg.wasm' }});
            const end = new LinkEnd((message, transfer) => self.postMessage(message, transfer));
            self.addEventListener('message', ({{ data }}) => {{
              if (data.link) end.link(data.link);
              else end.carry_out(data);
            }});
            self.postMessage({{ kind: 'Ready' }});"
        );
        let make = js_sys::Function::new_with_args(
            "script",
            "return new Worker(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })), { type: 'module' })",
        );
        let worker: Worker = make.call1(&JsValue::NULL, &script.into()).unwrap_throw().unchecked_into();
        let half = Rc::new(RefCell::new(Some(match how {
            How::Tab => Half::Tab(TabLinks::new(worker.clone())),
            How::Transferring | How::Piping => {
                let to = worker.clone();
                Half::Bare(PageLinks::new(move |message, transfer| {
                    if how == How::Piping && transfer.get(0).is_instance_of::<web_sys::RtcDataChannel>() {
                        return Err("DataCloneError".into());
                    }
                    let wrapped = Object::new();
                    Reflect::set(&wrapped, &"link".into(), message)?;
                    to.post_message_with_transfer(&wrapped, transfer)
                }))
            }
        })));
        let (heard, signals) = (Rc::<RefCell<Vec<Heard>>>::default(), Rc::<RefCell<VecDeque<_>>>::default());
        let crossed = Rc::new(Cell::new(0));
        let (links, events, told, count) =
            (Rc::clone(&half), Rc::clone(&heard), Rc::clone(&signals), Rc::clone(&crossed));
        let listener = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            count.set(count.get() + 1);
            let data = event.data();
            let part = |name: &str| Reflect::get(&data, &JsValue::from_str(name)).unwrap_throw();
            if part("link").is_truthy() {
                if let Some(links) = &*links.borrow() {
                    links.take(&part("link"));
                }
            } else if part("signal").is_truthy() {
                told.borrow_mut().push_back(serde_wasm_bindgen::from_value(part("signal")).unwrap_throw());
            } else if part("kind").is_truthy() {
                events.borrow_mut().push(serde_wasm_bindgen::from_value(data).unwrap_throw());
            }
        });
        worker.set_onmessage(Some(listener.as_ref().unchecked_ref()));
        let tab = Self { worker, half, heard, signals, crossed, _listener: listener };
        until("the Worker is there", || tab.has(&Heard::Ready)).await;
        tab.heard.borrow_mut().clear();
        tab
    }

    fn act(&self, what: &Do) {
        let what = serde_wasm_bindgen::to_value(what).unwrap_throw();
        self.worker.post_message(&what).unwrap_throw();
    }

    fn open(&self, attempt: u32, offers: bool) {
        self.act(&Do::Open { attempt, offers, server: None });
    }

    fn signal(&self, attempt: u32, what: SignalKind, body: &str) {
        self.act(&Do::Signal(Signal { attempt, what, body: body.to_owned() }));
    }

    fn has(&self, heard: &Heard) -> bool {
        self.heard.borrow().contains(heard)
    }

    fn count(&self, matching: impl Fn(&Heard) -> bool) -> usize {
        self.heard.borrow().iter().filter(|heard| matching(heard)).count()
    }

    fn connections(&self) -> usize {
        match &*self.half.borrow() {
            Some(Half::Bare(links)) => links.len(),
            _ => unreachable!("only asked of the bare half"),
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        TimeoutFuture::new(5).await;
    }
}

/// Two tabs; the first offers.
struct Pair {
    tabs: [Tab; 2],
}

impl Pair {
    async fn new(how: How) -> Self {
        Self::of([how, how]).await
    }

    async fn of([first, second]: [How; 2]) -> Self {
        count_connections();
        Self { tabs: [Tab::new(first).await, Tab::new(second).await] }
    }

    /// Passes signals on, as the relay does.
    fn pass(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            for signal in self.tabs[from].signals.borrow_mut().drain(..) {
                self.tabs[to].act(&Do::Signal(signal));
            }
        }
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&[Tab; 2]) -> bool) {
        let started = Instant::now();
        loop {
            self.pass();
            if holds(&self.tabs) {
                return;
            }
            let heard = || self.tabs.each_ref().map(|tab| tab.heard.borrow().clone());
            assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}: {:?}", heard());
            TimeoutFuture::new(5).await;
        }
    }

    async fn opened(how: How) -> Self {
        Self::opened_of([how, how]).await
    }

    async fn opened_of(hows: [How; 2]) -> Self {
        let pair = Self::of(hows).await;
        pair.tabs[1].open(1, false);
        pair.tabs[0].open(1, true);
        let greeted = Heard::Frame { length: HELLO_BYTES as u32 };
        pair.until("both are greeted", |tabs| tabs.iter().all(|tab| tab.has(&greeted))).await;
        pair
    }

    /// One small frame each way.
    async fn talk(&self, length: u32) {
        for tab in &self.tabs {
            tab.act(&Do::Send { length });
        }
        let came = |tabs: &[Tab; 2]| tabs.iter().all(|tab| tab.has(&Heard::Frame { length }));
        self.until("frames both ways", came).await;
    }

    /// Streams to the second tab: MB/s, and the messages that crossed the page's thread meanwhile.
    async fn stream(&self, bytes: usize) -> (f64, usize) {
        let frames = bytes.div_ceil(FRAME_BYTES) as u32;
        let crossed = || self.tabs.iter().map(|tab| tab.crossed.get()).sum::<usize>();
        let before = crossed();
        self.tabs[1].act(&Do::Expect { frames });
        self.tabs[0].act(&Do::Stream { frames });
        let is_end = |heard: &Heard| matches!(heard, Heard::Streamed { .. });
        self.until("everything came", |tabs| tabs[1].count(is_end) > 0).await;
        self.until("everything left", |tabs| tabs[0].count(|heard| matches!(heard, Heard::Sent { .. })) > 0)
            .await;
        for tab in &self.tabs {
            assert_eq!(tab.count(|heard| matches!(heard, Heard::Wrong { .. })), 0, "{:?}", tab.heard);
        }
        let told = self.tabs[0].heard.borrow().iter().find_map(|heard| match heard {
            Heard::Sent { drains, most_left } => Some((*drains, *most_left)),
            _ => None,
        });
        let (drains, most_left) = told.unwrap_throw();
        // Between two drains at most what fits is sent. More is sent before all has left.
        let least = (bytes as u64 / SEND_BUFFER_BYTES).saturating_sub(1) as u32;
        assert!(drains >= least && most_left > 0, "{drains} drains of {least}, {most_left} left");
        let took = self.tabs[1].heard.borrow().iter().find_map(|heard| match heard {
            Heard::Streamed { ms } => Some(*ms),
            _ => None,
        });
        (bytes as f64 / 1e3 / took.unwrap_throw(), crossed() - before)
    }
}

/// Makes the browser remember each connection of the page.
fn count_connections() {
    js_sys::eval(include_str!("links/count.js")).unwrap_throw();
}

/// Connections of the page that are not closed.
fn open_connections() -> f64 {
    let open = "[...peers].filter(({ signalingState }) => signalingState !== 'closed').length";
    js_sys::eval(open).unwrap_throw().as_f64().unwrap_throw()
}

/// Begins to note the longest task of the page's thread.
async fn watch_tasks() {
    js_sys::eval(include_str!("links/tasks.js")).unwrap_throw();
    // It sees that one: it would see others.
    until("a long task is seen", || longest_task() >= 100.0).await;
    js_sys::eval("self.longest = 0").unwrap_throw();
}

fn longest_task() -> f64 {
    js_sys::eval("self.longest").unwrap_throw().as_f64().unwrap_throw()
}

#[wasm_bindgen_test]
async fn a_transferred_channel_carries_frames_past_the_page() {
    let pair = Pair::opened(How::Tab).await;
    pair.talk(3).await;
    pair.until("both know how the link runs", |tabs| {
        tabs.iter().all(|tab| tab.has(&Heard::Path { turn: false }))
    })
    .await;
    watch_tasks().await;
    let (rate, crossed) = pair.stream(64 << 20).await;
    console_log!(
        "transferred: {rate:.1} MB/s, {crossed} messages and a longest task of {:.0} ms on the page's thread",
        longest_task()
    );
    // Two ends of a stream, and whatever ICE still had to say.
    assert!(crossed < 50, "{crossed} messages crossed the page's thread");
    for tab in &pair.tabs {
        assert_eq!(tab.count(|heard| *heard == Heard::Opened), 1);
        assert_eq!(tab.count(|heard| *heard == Heard::Path { turn: false }), 1);
    }
    // Freed as the page frees it: the other end hears of it.
    pair.tabs[0].half.take();
    pair.until("the other end hears it", |tabs| tabs[1].has(&Heard::Failed)).await;
}

#[wasm_bindgen_test]
async fn a_channel_that_cannot_be_transferred_is_piped() {
    let pair = Pair::opened(How::Piping).await;
    pair.talk(3).await;
    watch_tasks().await;
    let (rate, _) = pair.stream(16 << 20).await;
    console_log!("piped: {rate:.1} MB/s, a longest task of {:.0} ms on the page's thread", longest_task());
    closing(&pair).await;
}

#[wasm_bindgen_test]
async fn a_close_ends_everything_and_is_heard_once() {
    closing(&Pair::opened(How::Transferring).await).await;
}

/// Closes a link: the other end hears of it once, this end nothing, and a new connection of the same link works.
async fn closing(pair: &Pair) {
    pair.until("paths are known", |tabs| tabs.iter().all(|tab| tab.has(&Heard::Path { turn: false }))).await;
    for length in 2000..2100 {
        pair.tabs[1].act(&Do::Send { length });
    }
    pair.tabs[0].act(&Do::Close);
    pair.tabs[0].act(&Do::Send { length: 5 });
    pair.until("the other end hears it", |tabs| tabs[1].has(&Heard::Failed)).await;
    TimeoutFuture::new(SILENCE_MS).await;
    assert_eq!(pair.tabs[0].count(|heard| matches!(heard, Heard::Wrong { .. } | Heard::Failed)), 0);
    assert_eq!(pair.tabs[1].count(|heard| *heard == Heard::Failed), 1);
    assert_eq!(pair.tabs.each_ref().map(Tab::connections), [0, 0]);
    assert!(open_connections() == 0.0, "{} connections are open", open_connections());

    for (tab, offers) in pair.tabs.iter().zip([false, true]) {
        tab.heard.borrow_mut().clear();
        tab.signals.borrow_mut().clear();
        tab.open(9, offers);
        // A connection that the link had is closed without a word.
        tab.open(10, offers);
    }
    pair.until("they are open again", |tabs| tabs.iter().all(|tab| tab.has(&Heard::Opened))).await;
    pair.talk(4).await;
    for tab in &pair.tabs {
        assert_eq!((tab.connections(), tab.count(|heard| *heard == Heard::Failed)), (1, 0));
    }
    assert!(open_connections() == 2.0, "{} connections are open", open_connections());
}

#[wasm_bindgen_test]
async fn candidates_wait_for_their_description_and_signals_of_other_attempts_are_ignored() {
    let pair = Pair::new(How::Transferring).await;
    let [first, second] = &pair.tabs;
    second.open(5, false);
    first.open(5, true);
    until("the first named its last candidate", || {
        let last = |signal: &Signal| signal.what == SignalKind::Candidate && signal.body.is_empty();
        first.signals.borrow().iter().any(last)
    })
    .await;
    let signals: Vec<Signal> = first.signals.borrow_mut().drain(..).collect();
    assert_eq!(signals[0].what, SignalKind::Offer, "candidates come after the offer");
    assert!(signals.iter().all(|signal| signal.attempt == 5));
    assert!(signals[1..].iter().all(|signal| signal.what == SignalKind::Candidate));
    assert!(signals[1].body.starts_with("candidate:"), "{}", signals[1].body);
    assert_eq!(signals.iter().filter(|signal| signal.body.is_empty()).count(), 1);
    // Of another attempt, or not for this end, or nonsense that does not matter.
    second.signal(4, SignalKind::Offer, &signals[0].body);
    second.signal(5, SignalKind::Answer, &signals[0].body);
    second.signal(5, SignalKind::Candidate, "candidate:nonsense");
    first.signal(6, SignalKind::Answer, "nonsense");
    first.signal(5, SignalKind::Offer, &signals[0].body);
    TimeoutFuture::new(SILENCE_MS).await;
    assert!(second.signals.borrow().is_empty() && second.heard.borrow().is_empty());
    for signal in signals.iter().rev() {
        second.act(&Do::Signal(signal.clone()));
    }
    second.signal(5, SignalKind::Offer, "an offer that comes twice is not read again");
    // What the first one's candidates are good for shows where it has none of the second's.
    until("both are open", || {
        for signal in second.signals.borrow_mut().drain(..) {
            if signal.what == SignalKind::Answer {
                first.act(&Do::Signal(signal));
            }
        }
        pair.tabs.iter().all(|tab| tab.has(&Heard::Opened))
    })
    .await;
    pair.talk(3).await;
}

#[wasm_bindgen_test]
async fn a_restart_is_an_offer_on_the_same_connection() {
    let hows = [
        [How::Transferring, How::Transferring],
        [How::Transferring, How::Piping],
        [How::Piping, How::Transferring],
    ];
    for hows in hows {
        let pair = Pair::opened_of(hows).await;
        let mut fragments = BTreeSet::new();
        for attempt in 2..5 {
            // Only the end that offers can.
            pair.tabs[1].act(&Do::Restart { attempt: 100 });
            pair.tabs[0].act(&Do::Restart { attempt });
            if attempt == 3 {
                // One that nobody hears of is made up for by the next.
                let [first, _] = &pair.tabs;
                until("an offer", || !first.signals.borrow().is_empty()).await;
                first.signals.borrow_mut().clear();
                continue;
            }
            let started = Instant::now();
            let [mut offered, mut answered] = [None, None];
            while answered.is_none() {
                assert!(started.elapsed() < LIMIT, "no answer");
                for (tab, found, kind) in [
                    (&pair.tabs[0], &mut offered, SignalKind::Offer),
                    (&pair.tabs[1], &mut answered, SignalKind::Answer),
                ] {
                    let signals = tab.signals.borrow();
                    let signal =
                        signals.iter().find(|signal| signal.what == kind && signal.attempt == attempt);
                    *found = found.take().or_else(|| signal.cloned());
                }
                pair.pass();
                TimeoutFuture::new(1).await;
            }
            for Signal { body, .. } in [offered, answered].into_iter().flatten() {
                let fragment = body.lines().find(|line| line.starts_with("a=ice-ufrag:")).map(str::to_owned);
                assert!(fragments.insert(fragment.unwrap_throw()), "fresh ICE credentials");
            }
            pair.talk(attempt).await;
        }
        assert_eq!(fragments.len(), 4, "of both ends, twice");
        TimeoutFuture::new(SILENCE_MS).await;
        pair.talk(50).await;
        for tab in &pair.tabs {
            assert_eq!(tab.count(|heard| *heard == Heard::Opened), 1, "the channel stays");
            assert_eq!(tab.count(|heard| matches!(heard, Heard::Failed | Heard::Interrupted)), 0);
            assert_eq!(tab.connections(), 1);
        }
    }
}

#[wasm_bindgen_test]
async fn what_cannot_be_connected_fails_once() {
    let tab = Tab::new(How::Transferring).await;
    let fails = async |what: &str| {
        until(what, || tab.has(&Heard::Failed)).await;
        TimeoutFuture::new(SILENCE_MS).await;
        assert_eq!(*tab.heard.borrow(), [Heard::Failed], "{what}");
        assert_eq!(tab.connections(), 0, "{what}");
        tab.heard.borrow_mut().clear();
    };
    tab.act(&Do::Open { attempt: 1, offers: true, server: Some("no such thing".into()) });
    fails("a server that is none").await;
    tab.open(1, false);
    tab.signal(1, SignalKind::Offer, "nonsense");
    fails("an offer that is none").await;
    let asks_for_sound = js_sys::eval(
        "(async () => {
          const peer = new RTCPeerConnection();
          peer.createDataChannel('potluck');
          peer.addTransceiver('audio');
          const { sdp } = await peer.createOffer();
          peer.close();
          return sdp;
        })()",
    );
    let sdp = JsFuture::from(js_sys::Promise::from(asks_for_sound.unwrap_throw())).await.unwrap_throw();
    tab.open(1, false);
    tab.signal(1, SignalKind::Offer, &sdp.as_string().unwrap_throw());
    fails("an offer of sound").await;
}

/// A peer that speaks to a tab by itself: it opens channels that nobody wants, and sends what is no frame.
const STRANGER: &str = include_str!("links/stranger.js");

#[wasm_bindgen_test]
async fn a_stranger_gets_one_channel_and_what_is_no_frame_is_an_empty_one() {
    for how in [How::Transferring, How::Piping] {
        let script = STRANGER.replace("LONGEST", &MAX_PEER_FRAME_BYTES.to_string());
        let offer = js_sys::Promise::from(js_sys::eval(&script).unwrap_throw());
        let offer = JsFuture::from(offer).await.unwrap_throw().as_string().unwrap_throw();
        let tab = Tab::new(how).await;
        tab.open(1, false);
        tab.signal(1, SignalKind::Offer, &offer);
        let refused =
            || js_sys::eval("self.stranger.refused").unwrap_throw().as_f64().unwrap_throw() as usize;
        let add = js_sys::Function::new_with_args(
            "what, body",
            "return what === 'Answer'
              ? self.stranger.peer.setRemoteDescription({ type: 'answer', sdp: body })
              : self.stranger.peer.addIceCandidate({ candidate: body, sdpMid: '0', sdpMLineIndex: 0 })",
        );
        let frames = || tab.count(|heard| matches!(heard, Heard::Frame { .. }));
        let started = Instant::now();
        while frames() < 5 || refused() < 2 {
            assert!(started.elapsed() < LIMIT, "{} frames, {} refused: {:?}", frames(), refused(), tab.heard);
            let next = tab.signals.borrow_mut().pop_front();
            if let Some(Signal { what, body, .. }) = next {
                let what = format!("{what:?}");
                let added = add.call2(&JsValue::NULL, &what.into(), &body.into()).unwrap_throw();
                JsFuture::from(js_sys::Promise::from(added)).await.unwrap_throw();
            } else {
                TimeoutFuture::new(5).await;
            }
        }
        let frame = |wanted| tab.count(|heard| *heard == Heard::Frame { length: wanted });
        assert_eq!([frame(0), frame(3), frame(MAX_PEER_FRAME_BYTES as u32)], [3, 1, 1]);
        js_sys::eval("self.stranger.channel.close()").unwrap_throw();
        until("the end is heard", || tab.has(&Heard::Failed)).await;
        until("nothing is left", || tab.connections() == 0).await;
        js_sys::eval("self.stranger.peer.close()").unwrap_throw();
        TimeoutFuture::new(SILENCE_MS).await;
        assert_eq!(tab.count(|heard| *heard == Heard::Failed), 1);
        assert_eq!(frames(), 5);
    }
}
