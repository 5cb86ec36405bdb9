//! The DevTools socket: commands out, answers and events in, one task that owns the socket.
//!
//! Sessions are "flattened": every tab and worker shares the socket and is told apart by its `sessionId`.

use super::{
    COMMAND_TIMEOUT, CdpError, MAX_CONSOLE_CHARS, MAX_CONSOLE_LINES, MAX_MESSAGE_BYTES, MAX_QUEUED_COMMANDS,
    MAX_WORKERS,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// One line of a page's or worker's console, or an uncaught error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    /// `log`, `warning`, `error`, …; `exception` for an uncaught error.
    pub level: String,
    /// The text.
    pub text: String,
}

/// A worker that a tab started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub(super) session: String,
    /// The address of its script.
    pub url: String,
}

/// What is known about a tab; events of its workers are counted to the tab.
#[derive(Debug, Default)]
pub(super) struct TabState {
    pub(super) loads: u64,
    pub(super) crashed: bool,
    pub(super) console: VecDeque<ConsoleLine>,
    pub(super) workers: VecDeque<Worker>,
    /// Scripts that run in each new worker before its own first line.
    pub(super) worker_scripts: Vec<String>,
}

type Answer = oneshot::Sender<Result<Value, String>>;

struct Shared {
    outgoing: mpsc::Sender<Message>,
    next_id: AtomicU64,
    /// `None` after the socket closed: no answer will come any more.
    pending: Mutex<Option<HashMap<u64, Answer>>>,
    tabs: Mutex<HashMap<String, TabState>>,
    /// Session of a worker to session of its tab.
    owners: Mutex<HashMap<String, String>>,
    /// Changes whenever an event changed a tab's state.
    changes: watch::Sender<u64>,
}

/// A clonable handle on the socket.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

// The data behind these locks stays whole whatever panics, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Connects to a `ws://127.0.0.1:PORT/devtools/browser/…` address.
    pub(super) async fn open(address: &str) -> Result<Self, CdpError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let (socket, _) = tokio_tungstenite::connect_async_with_config(address, Some(config), true)
            .await
            .map_err(|cause| CdpError::Connection(cause.to_string()))?;
        let (mut sink, mut stream) = socket.split();
        let (outgoing, mut queue) = mpsc::channel::<Message>(MAX_QUEUED_COMMANDS);
        let shared = Arc::new(Shared {
            outgoing,
            next_id: AtomicU64::new(1),
            pending: Mutex::new(Some(HashMap::new())),
            tabs: Mutex::default(),
            owners: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        let reader = Self { shared };
        let handle = reader.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Text(text) = message
                    && let Ok(value) = serde_json::from_str::<Value>(&text)
                {
                    reader.receive(&value).await;
                }
            }
            lock(&reader.shared.pending).take();
            reader.changed();
        });
        Ok(handle)
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<Value, CdpError> {
        self.call_within(session, method, params, COMMAND_TIMEOUT).await
    }

    pub(super) async fn call_within(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, CdpError> {
        let gone = || CdpError::Connection("Chromium closed the DevTools socket".into());
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.pending).as_mut().ok_or_else(gone)?.insert(id, answer);
        let exchange = async {
            self.send(id, session, method, params).await?;
            answered.await.map_err(|_| gone())
        };
        let outcome = tokio::time::timeout(limit, exchange).await;
        if let Some(pending) = lock(&self.shared.pending).as_mut() {
            pending.remove(&id);
        }
        match outcome {
            Err(_) => {
                Err(CdpError::Timeout { what: format!("DevTools {method}"), limit, last: String::new() })
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(Err(message))) => Err(CdpError::Refused { method: method.to_owned(), message }),
            Ok(Ok(Ok(value))) => Ok(value),
        }
    }

    async fn send(
        &self,
        id: u64,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> Result<(), CdpError> {
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.shared
            .outgoing
            .send(Message::text(command.to_string()))
            .await
            .map_err(|_| CdpError::Connection("Chromium closed the DevTools socket".into()))
    }

    /// Sends a command whose answer nobody needs.
    async fn tell(&self, session: &str, method: &str, params: Value) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        // A closed socket shows in the next command that somebody waits for.
        drop(self.send(id, Some(session), method, params).await);
    }

    /// Starts to keep the state of a tab.
    pub(super) fn track(&self, session: &str) {
        lock(&self.shared.tabs).insert(session.to_owned(), TabState::default());
    }

    /// Forgets a tab and its workers.
    pub(super) fn forget(&self, session: &str) {
        lock(&self.shared.tabs).remove(session);
        lock(&self.shared.owners).retain(|_, owner| owner != session);
    }

    /// Looks at (or changes) a tab's state.
    pub(super) fn tab<R>(&self, session: &str, look: impl FnOnce(&mut TabState) -> R) -> Result<R, CdpError> {
        lock(&self.shared.tabs)
            .get_mut(session)
            .map(look)
            .ok_or_else(|| CdpError::Connection("the tab was closed".into()))
    }

    /// Waits until a tab's state satisfies `ready`, or the socket closes.
    pub(super) async fn tab_until(
        &self,
        session: &str,
        what: &str,
        limit: Duration,
        ready: impl Fn(&TabState) -> bool,
    ) -> Result<(), CdpError> {
        let mut changes = self.shared.changes.subscribe();
        let wait = async {
            loop {
                let (done, crashed) = self.tab(session, |tab| (ready(tab), tab.crashed))?;
                if done {
                    return Ok(());
                }
                if crashed {
                    return Err(CdpError::Crashed);
                }
                if lock(&self.shared.pending).is_none() {
                    return Err(CdpError::Connection("Chromium closed the DevTools socket".into()));
                }
                if changes.changed().await.is_err() {
                    return Err(CdpError::Connection("the DevTools client ended".into()));
                }
            }
        };
        tokio::time::timeout(limit, wait)
            .await
            .unwrap_or_else(|_| Err(CdpError::Timeout { what: what.to_owned(), limit, last: String::new() }))
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn receive(&self, value: &Value) {
        if let Some(id) = value["id"].as_u64() {
            let waiting = lock(&self.shared.pending).as_mut().and_then(|pending| pending.remove(&id));
            if let Some(waiting) = waiting {
                let answer = match value["error"]["message"].as_str() {
                    Some(message) => Err(message.to_owned()),
                    None => Ok(value["result"].clone()),
                };
                // The caller may have timed out meanwhile.
                drop(waiting.send(answer));
            }
            return;
        }
        let (session, params) = (value["sessionId"].as_str().unwrap_or_default(), &value["params"]);
        match value["method"].as_str().unwrap_or_default() {
            "Target.attachedToTarget" => self.attached(session, params).await,
            "Page.loadEventFired" => self.update(session, |tab| tab.loads += 1),
            "Inspector.targetCrashed" => self.update(session, |tab| tab.crashed = true),
            "Runtime.consoleAPICalled" => self.update(session, |tab| keep(tab, console_line(params))),
            "Runtime.exceptionThrown" => {
                let text = exception_text(&params["exceptionDetails"]);
                self.update(session, |tab| keep(tab, ConsoleLine { level: "exception".into(), text }));
            }
            "Log.entryAdded" => self.update(session, |tab| {
                let text = |key: &str| params["entry"][key].as_str().unwrap_or_default().to_owned();
                keep(tab, ConsoleLine { level: text("level"), text: text("text") });
            }),
            _ => {}
        }
    }

    fn update(&self, session: &str, change: impl FnOnce(&mut TabState)) {
        let owner = lock(&self.shared.owners).get(session).cloned();
        if let Some(tab) = lock(&self.shared.tabs).get_mut(owner.as_deref().unwrap_or(session)) {
            change(tab);
        }
        self.changed();
    }

    /// A worker (or frame) of a tab is attached and waits: run the scripts meant for it, then let it go.
    async fn attached(&self, parent: &str, params: &Value) {
        let Some(session) = params["sessionId"].as_str() else { return };
        let kind = params["targetInfo"]["type"].as_str().unwrap_or_default();
        let owner = lock(&self.shared.owners).get(parent).cloned().unwrap_or_else(|| parent.to_owned());
        let mut scripts = Vec::new();
        if let Some(tab) = lock(&self.shared.tabs).get_mut(&owner)
            && kind.ends_with("worker")
        {
            scripts.clone_from(&tab.worker_scripts);
            let url = params["targetInfo"]["url"].as_str().unwrap_or_default().to_owned();
            if tab.workers.len() == MAX_WORKERS {
                tab.workers.pop_front();
            }
            tab.workers.push_back(Worker { session: session.to_owned(), url });
        } else if parent.is_empty() {
            // The answer to our own Target.attachToTarget; nothing waits there.
            return;
        }
        lock(&self.shared.owners).insert(session.to_owned(), owner);
        let auto_attach = json!({ "autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true });
        self.tell(session, "Target.setAutoAttach", auto_attach).await;
        self.tell(session, "Runtime.enable", json!({})).await;
        for script in scripts {
            self.tell(session, "Runtime.evaluate", json!({ "expression": script })).await;
        }
        self.tell(session, "Runtime.runIfWaitingForDebugger", json!({})).await;
        self.changed();
    }
}

fn keep(tab: &mut TabState, line: ConsoleLine) {
    if tab.console.len() == MAX_CONSOLE_LINES {
        tab.console.pop_front();
    }
    tab.console.push_back(line);
}

fn console_line(params: &Value) -> ConsoleLine {
    let words = params["args"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|arg| {
        arg["value"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| arg["description"].as_str().map(str::to_owned))
            .unwrap_or_else(|| arg["value"].to_string())
    });
    let text = words.collect::<Vec<_>>().join(" ").chars().take(MAX_CONSOLE_CHARS).collect();
    ConsoleLine { level: params["type"].as_str().unwrap_or("log").to_owned(), text }
}

/// The text of an error that a script threw.
pub(super) fn exception_text(details: &Value) -> String {
    details["exception"]["description"]
        .as_str()
        .or_else(|| details["exception"]["value"].as_str())
        .or_else(|| details["text"].as_str())
        .unwrap_or("unknown error")
        .chars()
        .take(MAX_CONSOLE_CHARS)
        .collect()
}
