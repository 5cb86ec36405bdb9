//! A small client of WebDriver BiDi that drives Firefox: pages with storage of their own, trusted clicks, scripts.
//!
//! The counterpart of `potluck_cli::cdp`, for tests alone: nobody lends Firefox tabs by a command.
//!
//! Source: <https://w3c.github.io/webdriver-bidi/> (modules session, browser, browsingContext, script, input, log).

use crate::process::Process;
use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use potluck_cli::cdp::{
    CLICK_TIMEOUT, CLOSE_TIMEOUT, COMMAND_TIMEOUT, LAUNCH_TIMEOUT, LOCATE, MAX_CONSOLE_LINES,
    MAX_MESSAGE_BYTES, MAX_QUEUED_COMMANDS, POLL_INTERVAL,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Names under which Firefox is found.
const NAMES: [&str; 2] = ["firefox-esr", "firefox"];
/// What Firefox logs before the address of its socket.
const LISTENS: &str = "WebDriver BiDi listening on ";
/// Times that the profile is tried to be removed: Firefox's other processes may write to it right after its end.
const REMOVE_ATTEMPTS: u32 = 20;

/// The Firefox to use: `$FIREFOX` if it is set, else the first known name on the `PATH`.
pub fn find_firefox() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("FIREFOX").filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    let on_path = |name| std::env::split_paths(&path).map(move |folder| folder.join(name));
    NAMES.into_iter().flat_map(on_path).find(|file| file.is_file())
}

/// Settings of every profile: it talks to nobody but the pages that it is sent to, and peers on this machine find each
/// other. Firefox sets more of this kind itself when it is driven.
fn settings() -> Vec<(&'static str, Value)> {
    let mut settings: Vec<(&str, Value)> = [
        "app.normandy.enabled",
        "app.shield.optoutstudies.enabled",
        "browser.newtabpage.enabled",
        "browser.safebrowsing.downloads.enabled",
        "browser.safebrowsing.malware.enabled",
        "browser.safebrowsing.phishing.enabled",
        "browser.shell.checkDefaultBrowser",
        "datareporting.healthreport.uploadEnabled",
        "datareporting.policy.dataSubmissionEnabled",
        // The software adapter of machines without a GPU is Chromium's; here wasm computes.
        "dom.webgpu.enabled",
        "extensions.getAddons.cache.enabled",
        "extensions.update.enabled",
        "media.gmp-manager.updateEnabled",
        // Names instead of addresses need multicast, which test machines often lack.
        "media.peerconnection.ice.obfuscate_host_addresses",
        "network.captive-portal-service.enabled",
        "network.connectivity-service.enabled",
        "toolkit.telemetry.enabled",
    ]
    .map(|name| (name, false.into()))
    .into();
    settings.extend([
        ("app.update.disabledForTesting", true.into()),
        ("media.peerconnection.ice.loopback", true.into()),
        ("browser.startup.page", 0.into()),
        ("network.proxy.type", 0.into()),
        ("services.settings.server", "data:,#remote-settings-dummy/v1".into()),
        ("toolkit.telemetry.server", "".into()),
    ]);
    settings
}

/// A running Firefox. Dropping it kills the process and removes its profile.
pub struct Firefox {
    connection: Arc<Connection>,
    process: Option<Process>,
    profile: Option<TempDir>,
    /// Its name and version.
    pub version: String,
}

impl Firefox {
    /// Starts Firefox with a fresh profile, and these settings over the usual ones.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn launch(more: &[(&str, Value)]) -> Result<Self> {
        let program = find_firefox().context("no Firefox: install it, or set FIREFOX to its path")?;
        let profile = tempfile::Builder::new().prefix("potluck-firefox-").tempdir()?;
        let mut text = String::new();
        for (name, value) in settings()
            .iter()
            .map(|(name, value)| (*name, value))
            .chain(more.iter().map(|(name, value)| (*name, value)))
        {
            writeln!(text, "user_pref({}, {value});", Value::from(name))?;
        }
        std::fs::write(profile.path().join("user.js"), text)?;
        let mut command = Command::new(program);
        command
            .args(["--headless", "--no-remote", "--remote-debugging-port=0", "--profile"])
            .arg(profile.path())
            // Firefox does not run as root in another user's home, and leaves caches there.
            .env("HOME", profile.path())
            .env("MOZ_CRASHREPORTER_DISABLE", "1");
        let process = Process::start("Firefox", &mut command);
        let started = Instant::now();
        let address = loop {
            if let Some(address) = process.logged(|line| line.strip_prefix(LISTENS).map(str::to_owned)) {
                break address;
            }
            if process.ended().is_some() || started.elapsed() > LAUNCH_TIMEOUT {
                bail!("{}", process.story());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let connection = Connection::open(&format!("{}/session", address.trim())).await?;
        let session = connection.call("session.new", json!({ "capabilities": {} })).await?;
        let version =
            format!("Firefox {}", session["capabilities"]["browserVersion"].as_str().unwrap_or("?"));
        connection.call("session.subscribe", json!({ "events": ["log.entryAdded"] })).await?;
        Ok(Self { connection, process: Some(process), profile: Some(profile), version })
    }

    /// Opens an empty page in a window and a context of its own: no storage is shared with other pages.
    ///
    /// # Errors
    /// Firefox refuses, or is gone.
    pub async fn new_page(&self) -> Result<Page> {
        let user = self.connection.call("browser.createUserContext", json!({})).await?["userContext"].take();
        let params = json!({ "type": "window", "userContext": user });
        let context = self.connection.call("browsingContext.create", params).await?["context"].take();
        let context = context.as_str().context("a page has a name")?.to_owned();
        Ok(Page { connection: Arc::clone(&self.connection), context, user })
    }

    /// Ends Firefox in an orderly way; what is left after [`CLOSE_TIMEOUT`] is killed.
    pub async fn close(self) {
        let asked = self.connection.call("browser.close", json!({})).await.is_ok();
        let started = Instant::now();
        while asked
            && started.elapsed() < CLOSE_TIMEOUT
            && self.process.as_ref().is_some_and(|process| process.ended().is_none())
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        self.process.take();
        let Some(profile) = self.profile.take().map(TempDir::keep) else { return };
        for _ in 0..REMOVE_ATTEMPTS {
            if std::fs::remove_dir_all(&profile).is_ok() || !profile.exists() {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// One page.
pub struct Page {
    connection: Arc<Connection>,
    context: String,
    user: Value,
}

impl Page {
    async fn call(&self, method: &str, mut params: Value) -> Result<Value> {
        params["context"] = self.context.as_str().into();
        self.connection.call(method, params).await
    }

    /// Loads an address and waits for the load event.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.call("browsingContext.navigate", json!({ "url": url, "wait": "complete" })).await.map(drop)
    }

    /// Evaluates an expression; a promise is awaited. The value must be JSON.
    ///
    /// # Errors
    /// The script throws, or its value is not a `T`.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> Result<T> {
        let params = json!({
            "expression": format!("(async () => JSON.stringify(await ({expression})) ?? 'null')()"),
            "target": { "context": self.context },
            "awaitPromise": true,
        });
        let answer = self.connection.call("script.evaluate", params).await?;
        if answer["type"] != "success" {
            bail!("a script failed in the page: {}", answer["exceptionDetails"]["text"]);
        }
        let text = answer["result"]["value"].as_str().context("a text")?;
        serde_json::from_str(text).with_context(|| format!("the value of {expression} is {text}"))
    }

    /// Waits until an expression is truthy, and looks every [`POLL_INTERVAL`].
    ///
    /// # Errors
    /// It is not within `limit`, or it throws.
    pub async fn wait_for(&self, expression: &str, limit: Duration) -> Result<()> {
        let started = Instant::now();
        let wrapped =
            format!("(async () => {{ const v = await ({expression}); return [!!v, String(v)]; }})()");
        loop {
            let (ready, seen): (bool, String) = self.evaluate(&wrapped).await?;
            if ready {
                return Ok(());
            }
            if started.elapsed() > limit {
                bail!("not within {} s: {expression} (last: {seen})", limit.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Clicks the center of an element as a mouse does: the event is trusted. Waits until the element exists, is enabled,
    /// lies at rest and is not covered.
    ///
    /// # Errors
    /// That does not happen within [`CLICK_TIMEOUT`]; the error says what was in the way.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let locate = format!("({LOCATE})({})", Value::from(selector));
        let started = Instant::now();
        let mut previous = None;
        let (x, y) = loop {
            let place: Value = self.evaluate(&locate).await?;
            let found = place["x"].as_f64().zip(place["y"].as_f64());
            // A moving element is clicked only after it was seen twice at the same place.
            match found {
                Some(point) if previous == Some(point) => break point,
                _ => previous = found,
            }
            if started.elapsed() > CLICK_TIMEOUT {
                bail!("{selector} cannot be clicked: {}", place["why"].as_str().unwrap_or("it keeps moving"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let actions = json!([
            { "type": "pointerMove", "x": x.round() as i64, "y": y.round() as i64 },
            { "type": "pointerDown", "button": 0 },
            { "type": "pointerUp", "button": 0 },
        ]);
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": actions });
        self.call("input.performActions", json!({ "actions": [mouse] })).await.map(drop)
    }

    /// What this page wrote to the console so far, uncaught errors included, and what came from no page: its workers.
    pub fn console(&self) -> Vec<String> {
        let of_this =
            |context: &Option<String>| context.as_ref().is_none_or(|context| *context == self.context);
        let console = lock(&self.connection.console);
        console.iter().filter(|(context, _)| of_this(context)).map(|(_, line)| line.clone()).collect()
    }

    /// Closes the page and its context.
    ///
    /// # Errors
    /// Firefox refuses, or is gone.
    pub async fn close(self) -> Result<()> {
        self.call("browsingContext.close", json!({})).await?;
        let user = json!({ "userContext": self.user });
        self.connection.call("browser.removeUserContext", user).await.map(drop)
    }
}

type Answer = oneshot::Sender<Result<Value, String>>;

/// The socket: commands out, answers and console lines in.
struct Connection {
    outgoing: mpsc::Sender<Message>,
    next_id: AtomicU64,
    /// `None` after the socket closed: no answer will come any more.
    pending: Mutex<Option<HashMap<u64, Answer>>>,
    /// Page and line; the oldest leave first.
    console: Mutex<VecDeque<(Option<String>, String)>>,
}

// The data behind these locks stays whole whatever panics, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    async fn open(address: &str) -> Result<Arc<Self>> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let (socket, _) = tokio_tungstenite::connect_async_with_config(address, Some(config), true).await?;
        let (mut sink, mut stream) = socket.split();
        let (outgoing, mut queue) = mpsc::channel::<Message>(MAX_QUEUED_COMMANDS);
        let connection = Arc::new(Self {
            outgoing,
            next_id: AtomicU64::new(1),
            pending: Mutex::new(Some(HashMap::new())),
            console: Mutex::default(),
        });
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        let reader = Arc::clone(&connection);
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Text(text) = message
                    && let Ok(value) = serde_json::from_str::<Value>(&text)
                {
                    reader.receive(value);
                }
            }
            lock(&reader.pending).take();
        });
        Ok(connection)
    }

    fn receive(&self, mut value: Value) {
        if let Some(id) = value["id"].as_u64() {
            let Some(waiting) = lock(&self.pending).as_mut().and_then(|pending| pending.remove(&id)) else {
                return;
            };
            let answer = if value["type"] == "success" {
                Ok(value["result"].take())
            } else {
                Err(format!("{}: {}", value["error"], value["message"]))
            };
            // The caller may have timed out meanwhile.
            drop(waiting.send(answer));
        } else if value["method"] == "log.entryAdded" {
            let entry = &value["params"];
            let context = entry["source"]["context"].as_str().map(str::to_owned);
            let line = format!("{}: {}", entry["level"].as_str().unwrap_or("log"), entry["text"]);
            let mut console = lock(&self.console);
            if console.len() == MAX_CONSOLE_LINES {
                console.pop_front();
            }
            console.push_back((context, line));
        }
    }

    /// Sends a command and waits for its answer.
    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let gone = || anyhow!("Firefox closed the socket");
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).as_mut().ok_or_else(gone)?.insert(id, answer);
        let command = json!({ "id": id, "method": method, "params": params });
        let exchange = async {
            self.outgoing.send(Message::text(command.to_string())).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())
        };
        let outcome = tokio::time::timeout(COMMAND_TIMEOUT, exchange).await;
        if let Some(pending) = lock(&self.pending).as_mut() {
            pending.remove(&id);
        }
        outcome
            .with_context(|| format!("{method}: not within {} s", COMMAND_TIMEOUT.as_secs()))??
            .map_err(|message| anyhow!("Firefox refused {method}: {message}"))
    }
}
