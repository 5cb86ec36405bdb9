//! Carries the engine's actions out in the browser, and tells the page how things stand.

use crate::compute::{self, Device};
use crate::effort::{self, Effort, Rest};
use crate::messages::{Command, Measured, Settings, View};
use crate::socket::Socket;
use gloo_timers::callback::Timeout;
use potluck_mesh::Links as _;
use potluck_mesh::wasm::WorkerLinks;
use potluck_types::{BlobHash, Duration, Instant, VolunteerKey};
use potluck_volunteer::{
    Action, DEFAULT_CACHE_BYTES, DEFAULT_MEMORY_BYTES, Engine, Event, Options, RunId, Subject,
};
use serde::Serialize as _;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};
use wasm_bindgen_futures::spawn_local;

/// The page hears of changes at most this often, but of a new state at once.
const VIEW_INTERVAL_MS: u32 = 250;

/// What can stand in the public log, as the page's script names it.
const RUN: &str = "run";
const CANDIDATE: &str = "candidate";

/// The engine, as its callbacks hold it.
#[derive(Clone)]
pub(crate) struct Handle(Rc<RefCell<Inner>>);

struct Inner {
    engine: Engine,
    started: web_time::Instant,
    url: String,
    socket: Option<Socket>,
    timer: Option<Timeout>,
    device: Option<Device>,
    measured: Vec<Measured>,
    run: Option<(RunId, Rc<AtomicBool>)>,
    /// Rest that the device is still due.
    rest: Rc<Rest>,
    effort: Effort,
    /// Events that came while another was carried out.
    queue: VecDeque<Event>,
    busy: bool,
    /// Made when the engine first asks for a link.
    links: Option<WorkerLinks>,
    on_view: js_sys::Function,
    /// Passes a message about links to the page.
    to_page: js_sys::Function,
    /// Writes an input down under its hash; without bytes, removes it.
    storage: js_sys::Function,
    /// Has it proven that something stands in the public log.
    demand: js_sys::Function,
    /// Takes what was fetched instead of work.
    fetched: js_sys::Function,
    view_timer: Option<Timeout>,
    last_state: Option<potluck_volunteer::State>,
}

impl Handle {
    /// Takes an event in and carries out what follows. Events that come meanwhile wait their turn.
    pub(crate) fn feed(&self, event: Event) {
        let began = web_time::Instant::now();
        {
            let mut inner = self.0.borrow_mut();
            inner.queue.push_back(event);
            if std::mem::replace(&mut inner.busy, true) {
                return;
            }
            let spent = inner.effort.tell();
            inner.queue.extend(spent);
        }
        let mut bytes = 0;
        loop {
            let actions = {
                let mut inner = self.0.borrow_mut();
                let Some(event) = inner.queue.pop_front() else {
                    inner.busy = false;
                    break;
                };
                let now = inner.now();
                bytes += effort::received(&event);
                inner.engine.step(now, event)
            };
            bytes += effort::sent(&actions);
            for action in actions {
                self.carry_out(action);
            }
        }
        self.arm();
        self.show();
        let mut inner = self.0.borrow_mut();
        // Whoever computes counts that time already.
        let busy = if inner.rest.is_computing() { std::time::Duration::ZERO } else { began.elapsed() };
        let took = inner.effort.add(busy, bytes);
        inner.rest.owe(took, inner.engine.allowed_share());
    }

    fn carry_out(&self, action: Action) {
        let mut inner = self.0.borrow_mut();
        match action {
            Action::Connect => {
                inner.socket = Socket::open(&inner.url, self);
                if inner.socket.is_none() {
                    inner.queue.push_back(Event::Disconnected);
                }
            }
            Action::Disconnect => inner.socket = None,
            Action::Send(frame) => {
                if inner.socket.as_ref().is_some_and(|socket| !socket.send(&frame)) {
                    inner.socket = None;
                    inner.queue.push_back(Event::Disconnected);
                }
            }
            Action::Calibrate(choice) => {
                inner.device = None;
                let this = self.clone();
                spawn_local(async move {
                    let event = match compute::measure(choice).await {
                        Some(found) => {
                            let mut inner = this.0.borrow_mut();
                            inner.device = Some(found.device);
                            inner.measured = found.measured;
                            Event::Calibrated { backend: found.backend, mflops: found.mflops }
                        }
                        None => Event::CalibrationFailed,
                    };
                    this.feed(event);
                });
            }
            Action::Run(run) => {
                let cancel = Rc::new(AtomicBool::new(false));
                inner.run = Some((run.id, Rc::clone(&cancel)));
                let Some(device) = inner.device.clone() else {
                    let failure = potluck_volunteer::Failure::DeviceLost;
                    inner.queue.push_back(Event::KernelFailed { run: run.id, failure });
                    return;
                };
                let (this, id, backend, rest) = (self.clone(), run.id, run.backend, Rc::clone(&inner.rest));
                spawn_local(async move {
                    let look = this.clone();
                    let tell = move |steps| look.feed(Event::KernelProgress { run: id, steps });
                    match compute::run(device, run, cancel, rest, tell).await {
                        Ok(Some(done)) => {
                            let compute::Computed { result, kept, busy, .. } = done;
                            let busy = Duration(busy.as_millis() as u64);
                            if done.backend != backend {
                                this.feed(Event::RunsOn { run: id, backend: done.backend });
                            }
                            this.feed(Event::KernelDone { run: id, result, busy, kept });
                        }
                        Ok(None) => {}
                        Err(failure) => this.feed(Event::KernelFailed { run: id, failure }),
                    }
                });
            }
            Action::Link(action) => {
                let to_page = inner.to_page.clone();
                let mut links = inner.links.get_or_insert_with(|| self.links(to_page)).clone();
                // What it says at once waits its turn, which needs the engine.
                drop(inner);
                links.carry_out(action);
            }
            Action::Store(hash, bytes) => {
                // The page's script has it written down, or not, as the person allows.
                let bytes = js_sys::Uint8Array::from(bytes.as_slice());
                let _ = inner.storage.call2(&JsValue::NULL, &hash.to_string().into(), &bytes);
            }
            Action::Fetched(hash, bytes) => {
                let bytes = bytes.map(|bytes| js_sys::Uint8Array::from(bytes.as_slice()));
                let _ = inner.fetched.call2(&JsValue::NULL, &hash.to_string().into(), &bytes.into());
            }
            Action::Prove { subject, relay } => {
                let (kind, id) = match subject {
                    Subject::Run(run) => (RUN, run.to_string()),
                    Subject::Parameters(hash) => (CANDIDATE, hash.to_string()),
                };
                let relay = BlobHash(relay).to_string();
                let asked = inner.demand.call3(&JsValue::NULL, &kind.into(), &id.into(), &relay.into());
                if asked.is_err() {
                    let outcome = Err("the page's script cannot check it".to_owned());
                    inner.queue.push_back(Event::Proven { subject, outcome });
                }
            }
            Action::Unstore(hash) => {
                let _ = inner.storage.call1(&JsValue::NULL, &hash.to_string().into());
            }
            Action::Cancel(run) => {
                if let Some((_, cancel)) = inner.run.take_if(|(current, _)| *current == run) {
                    cancel.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn links(&self, to_page: js_sys::Function) -> WorkerLinks {
        let inner = Rc::downgrade(&self.0);
        WorkerLinks::new(
            move |message, transfer| to_page.call2(&JsValue::NULL, message, transfer).map(drop),
            move |event| {
                if let Some(inner) = inner.upgrade() {
                    Self(inner).feed(Event::Link(event));
                }
            },
        )
    }

    /// Sets the timer to when the engine has something to do.
    fn arm(&self) {
        let this = self.clone();
        let mut inner = self.0.borrow_mut();
        let now = inner.now();
        inner.timer = inner.engine.next_wake().map(|at| {
            let wait = at.since(now).0.clamp(1, i32::MAX as u64) as u32;
            Timeout::new(wait, move || this.feed(Event::Tick))
        });
    }

    /// Tells the page: at once if the state is another, else soon.
    fn show(&self) {
        let this = self.clone();
        let mut inner = self.0.borrow_mut();
        let state = inner.engine.state();
        if inner.last_state.replace(state) != Some(state) {
            inner.view_timer = None;
            let (view, on_view) = (inner.view(), inner.on_view.clone());
            drop(inner);
            let _ = on_view.call1(&JsValue::NULL, &view);
        } else if inner.view_timer.is_none() {
            inner.view_timer = Some(Timeout::new(VIEW_INTERVAL_MS, move || {
                let (view, on_view) = {
                    let mut inner = this.0.borrow_mut();
                    inner.view_timer = None;
                    (inner.view(), inner.on_view.clone())
                };
                let _ = on_view.call1(&JsValue::NULL, &view);
            }));
        }
    }
}

impl Inner {
    fn now(&self) -> Instant {
        Instant(self.started.elapsed().as_millis() as u64)
    }

    fn view(&self) -> JsValue {
        let view = View::of(self.engine.status(), self.measured.clone());
        let serializer = serde_wasm_bindgen::Serializer::new().serialize_missing_as_null(true);
        view.serialize(&serializer).unwrap_or(JsValue::NULL)
    }
}

/// The tab's engine, as the Worker's script holds it.
#[wasm_bindgen]
pub struct TabEngine {
    handle: Handle,
}

/// A part of the device's memory may be used: one in this many.
const MEMORY_SHARE: f64 = 16.0;
/// Most memory of a task, whatever the device has: wasm can address eight times as much.
const MAX_MEMORY_BYTES: u64 = 512 << 20;

/// The host of a relay's address.
fn host_of(url: &str) -> String {
    web_sys::Url::new(url).map(|url| url.hostname()).unwrap_or_default()
}

/// Memory for one task: a share of what the browser says that the device has. Some say nothing, and none more than 8 GiB.
fn memory_budget() -> u64 {
    let navigator = js_sys::Reflect::get(&js_sys::global(), &"navigator".into());
    let says = navigator.and_then(|navigator| js_sys::Reflect::get(&navigator, &"deviceMemory".into()));
    let gib = says.ok().and_then(|gib| gib.as_f64()).unwrap_or(0.0);
    let share = (gib * f64::from(1 << 30) / MEMORY_SHARE) as u64;
    share.clamp(DEFAULT_MEMORY_BYTES, MAX_MEMORY_BYTES)
}

#[wasm_bindgen]
impl TabEngine {
    /// An engine that nobody has started. `on_view` is called with what the page should show; `to_page` with a message
    /// for [`TabLinks`](crate::TabLinks) and what is transferred along; `storage` with the hash of an input and its bytes, to be
    /// written down, or with the hash alone, to be removed; `demand` with a kind (`run` or `candidate`), a name and the relay's
    /// public key, and answers with [`TabEngine::proven`]; `fetched` with the hash of a blob that a person asked for and its bytes, or
    /// with the hash alone, if it is not to be had.
    ///
    /// # Errors
    /// Settings that are not what `www/worker.js` sends.
    #[wasm_bindgen(constructor)]
    pub fn new(
        settings: JsValue,
        on_view: js_sys::Function,
        to_page: js_sys::Function,
        storage: js_sys::Function,
        demand: js_sys::Function,
        fetched: js_sys::Function,
    ) -> Result<TabEngine, JsError> {
        let settings: Settings = serde_wasm_bindgen::from_value(settings)?;
        // Before anything is measured: products from here on use the faster micro-kernel.
        #[cfg(target_feature = "simd128")]
        potluck_kernels::cpu::tune();
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(|error| JsError::new(&error.to_string()))?;
        let mut fresh = [0; 32];
        fresh.copy_from_slice(&random[..32]);
        let mut jitter = [0; 8];
        jitter.copy_from_slice(&random[32..]);
        let key = settings.key.as_deref().and_then(|key| key.parse().ok()).unwrap_or(VolunteerKey(fresh));
        let cache_bytes = settings.cache_mb.map_or(DEFAULT_CACHE_BYTES, |mb| u64::from(mb) << 20);
        let options = Options {
            key,
            agent: concat!("potluck-web/", env!("CARGO_PKG_VERSION")).to_owned(),
            origin: settings.origin,
            text_version: settings.text_version,
            memory_bytes: memory_budget(),
            cache_bytes: cache_bytes.min(DEFAULT_CACHE_BYTES),
            jitter: u64::from_le_bytes(jitter),
            relay_host: host_of(&settings.url),
            upload_bytes_per_s: None,
            demand_proof: true,
            seed: false,
        };
        let inner = Inner {
            engine: Engine::new(options),
            started: web_time::Instant::now(),
            url: settings.url,
            socket: None,
            timer: None,
            device: None,
            measured: Vec::new(),
            run: None,
            rest: Rc::new(Rest::new()),
            effort: Effort::default(),
            queue: VecDeque::new(),
            busy: false,
            links: None,
            on_view,
            to_page,
            storage,
            demand,
            fetched,
            view_timer: None,
            last_state: None,
        };
        Ok(Self { handle: Handle(Rc::new(RefCell::new(inner))) })
    }

    /// Takes in what a person did, or what changed around the tab.
    ///
    /// # Errors
    /// A command that does not exist, or names no blob.
    pub fn command(&self, command: JsValue) -> Result<(), JsError> {
        let command: Command = serde_wasm_bindgen::from_value(command)?;
        self.handle.feed(command.try_into().map_err(JsError::new)?);
        Ok(())
    }

    /// Talks to another relay from now on, with what the person agreed to. What was under way at the one before is given up.
    #[wasm_bindgen(js_name = moveTo)]
    pub fn move_to(&self, url: String) {
        let relay_host = host_of(&url);
        self.handle.0.borrow_mut().url = url;
        self.handle.feed(Event::Moved { relay_host });
    }

    /// The engine's code, compiled: the page makes its [`TabLinks`](crate::TabLinks) of it.
    pub fn module() -> JsValue {
        wasm_bindgen::module()
    }

    /// Takes in whether something stands in the public log; with the reason if it does not.
    pub fn proven(&self, kind: &str, id: &str, problem: Option<String>) {
        let subject = match kind {
            RUN => id.parse().ok().map(Subject::Run),
            _ => id.parse().ok().map(Subject::Parameters),
        };
        if let Some(subject) = subject {
            let outcome = problem.map_or(Ok(()), Err);
            self.handle.feed(Event::Proven { subject, outcome });
        }
    }

    /// Takes in an input that was written down.
    pub fn stored(&self, bytes: Vec<u8>) {
        self.handle.feed(Event::Stored(bytes));
    }

    /// Takes in what the page's [`TabLinks`](crate::TabLinks) says.
    pub fn link(&self, message: &JsValue) {
        let links = self.handle.0.borrow().links.clone();
        if let Some(links) = links {
            links.take(message);
        }
    }
}
