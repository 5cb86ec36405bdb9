//! One relay of several nodes, behind any balancer: they share the store and the bucket, and have one key. One of them leads: it
//! deals work out and writes. The others hand it what is asked of them, and one of them leads as soon as it is gone.
//!
//! `role.rs` decides what a node does; `front.rs` answers; here what the store says is looked at, and nodes come and go.

mod front;
mod role;

pub(crate) use front::Front;
pub use role::Stranger;

use crate::blobs::BlobPlace;
use crate::db::{Leader, Observer, Records, Seen};
use crate::{Config, Running, StartError, identity, start_behind, token};
use role::{Duty, SILENT_LIMIT, belongs, duty};
use serde::Deserialize;
use std::fmt;
use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Time between two looks at the store.
const LOOK: Duration = Duration::from_millis(500);
/// Until leading is tried again after it failed.
const AGAIN: Duration = Duration::from_secs(3);
/// Open requests may take this long to end.
const GRACE: Duration = Duration::from_secs(5);

/// Where other nodes reach one: `http://HOST:PORT`, in a network of the operator's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeUrl(String);

/// The text is no address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address of a node is http://HOST:PORT, as its other nodes reach it")]
pub struct NodeUrlError;

impl FromStr for NodeUrl {
    type Err = NodeUrlError;

    fn from_str(text: &str) -> Result<Self, NodeUrlError> {
        let uri: axum::http::Uri = text.trim_end_matches('/').parse().map_err(|_| NodeUrlError)?;
        let is_plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().filter(|authority| is_plain && authority.port().is_some());
        authority.map(|authority| Self(format!("http://{authority}"))).ok_or(NodeUrlError)
    }
}

impl TryFrom<String> for NodeUrl {
    type Error = NodeUrlError;

    fn try_from(text: String) -> Result<Self, NodeUrlError> {
        text.parse()
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why this is no node of a relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Nodes share what they have.
    #[error("nodes share their records and blobs, and the settings name no {0}")]
    NotShared(&'static str),
    /// A mirror follows by itself.
    #[error("a mirror is no node of the relay that it follows")]
    Mirror,
    /// It lacks what the others have.
    #[error("{0} has nodes already, and {1} is not in the data folder")]
    Lacks(String, &'static str),
    /// It has other keys.
    #[error(transparent)]
    Stranger(#[from] Stranger),
}

/// Files that each node has a copy of.
const COPIED: [&str; 3] = [identity::FILE, "token.hash", "admin-token.hash"];

/// A node that answers, whether it leads or not.
#[derive(Debug)]
pub struct Node {
    config: Config,
    own: Leader,
    front: Arc<Front>,
    seen: watch::Receiver<Seen>,
    watcher: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

impl Node {
    /// Listens, and hands what is asked to whoever leads.
    ///
    /// # Errors
    /// Settings that no node can have; a store, folder or address that cannot be used.
    pub async fn start(config: Config, url: &NodeUrl) -> Result<Self, StartError> {
        if config.mirror.is_some() || config.data.join(crate::mirror::FILE).exists() {
            return Err(NodeError::Mirror.into());
        }
        let store = config.store.as_ref().ok_or(NodeError::NotShared("store"))?;
        let blobs = config.blobs.as_ref().ok_or(NodeError::NotShared("blobs"))?;
        store.check()?;
        let failed = |cause| StartError::Data { path: config.data.clone(), cause };
        std::fs::create_dir_all(&config.data).map_err(failed)?;
        let records = Records::of(&config.data, Some(store))?;
        BlobPlace::of(&config.data, Some(blobs))?;
        let observer = Observer::connect(store).await?;
        let seen = observer.look().await?;
        if seen.leader.is_some()
            && let Some(lacked) = COPIED.into_iter().find(|name| !config.data.join(name).is_file())
        {
            return Err(NodeError::Lacks(store.to_string(), lacked).into());
        }
        let identity = identity::prepare(&config.data.join(identity::FILE))?;
        let tokens = token::both(&config.data).map_err(failed)?;
        let own = Leader { url: url.to_string(), key: identity.public(), tokens };
        belongs(&own, &seen).map_err(NodeError::Stranger)?;
        // Whether it ever leads or not: other commands find there what they work on.
        records.mark(&config.data).map_err(failed)?;
        crate::blobs::mark(&config.data, blobs).map_err(failed)?;

        let listen_failed = |cause| StartError::Listen { address: config.listen, cause };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;
        let secret = blake3::derive_key("potluck 2026 token of a relay's nodes v1", identity.seed());
        let front = Arc::new(Front::new(blake3::Hash::from_bytes(secret), url.to_string(), address));
        // Of each socket that passes through a node has both ends.
        crate::files::room_for_sessions(config.max_sessions);
        let (say, seen) = watch::channel(seen);
        let watcher = tokio::spawn(watch(observer, Arc::clone(&front), say));
        let (stop, stopped) = oneshot::channel::<()>();
        let service = Arc::clone(&front).router().into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, service).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let server = tokio::spawn(server.into_future());
        Ok(Self { config, own, front, seen, watcher, stop, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.front.address
    }

    /// The relay's public key.
    pub fn identity(&self) -> [u8; 32] {
        self.own.key
    }

    /// Where the submitter's token lies, and the admin's.
    pub fn token_paths(&self) -> [PathBuf; 2] {
        [token::Of::Submitter, token::Of::Admin].map(|of| of.path(&self.config.data))
    }

    /// Waits until this node leads.
    ///
    /// # Errors
    /// It is no node of this relay, or what it needs to lead cannot be used and will not be by waiting.
    pub async fn lead(&mut self) -> Result<Running, StartError> {
        loop {
            let seen = self.seen.borrow_and_update().clone();
            belongs(&self.own, &seen).map_err(NodeError::Stranger)?;
            if duty(&self.own.url, &seen) == Duty::Lead {
                match start_behind(self.config.clone(), Some((&self.front, &self.own))).await {
                    Ok(running) => {
                        tracing::info!(node = self.own.url, "this node leads");
                        return Ok(running);
                    }
                    Err(StartError::StoreInUse { .. }) => {
                        tracing::info!("another node was faster");
                    }
                    // Store and bucket may be away for a while, and another node may have more luck.
                    Err(error) if may_pass(&error) => {
                        tracing::warn!(%error, "this node could not lead");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            // The watcher ends with this node.
            let _ = self.seen.changed().await;
        }
    }

    /// Ends it.
    pub async fn close(mut self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        self.watcher.abort();
    }
}

/// Whether a node that could not lead for this reason may later.
fn may_pass(error: &StartError) -> bool {
    match error {
        // The place in the bucket is another relay's.
        StartError::Blobs { cause, .. } => cause.kind() != io::ErrorKind::AlreadyExists,
        StartError::Database(_) | StartError::Data { .. } => true,
        _ => false,
    }
}

/// Looks at the store until the node ends.
async fn watch(mut observer: Observer, front: Arc<Front>, say: watch::Sender<Seen>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let seen = match observer.look().await {
            Ok(seen) => seen,
            Err(error) => {
                // Whoever leads answers until its lock was not confirmed for too long (`front.rs`).
                tracing::warn!(%error, "the store cannot be looked at");
                // Of a connection that is not answered any more nothing is to be expected.
                observer = observer.again();
                continue;
            }
        };
        match duty(&front.url, &seen) {
            Duty::Follow(leader) => front.follow(Some(leader)),
            Duty::Lead | Duty::Wait => front.follow(None),
            // Itself, and awake again.
            Duty::Depose(_) if front.leads() => {}
            Duty::Depose(leader) => {
                front.follow(leader);
                tracing::warn!(leader, "the leader says nothing any more: its lock is taken from it");
                if let Err(error) = observer.end_silent(SILENT_LIMIT).await {
                    tracing::warn!(%error, "its lock cannot be taken from it");
                }
            }
        }
        say.send_replace(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_host_and_a_port() {
        for (text, shown) in [
            ("http://10.0.0.1:8787", "http://10.0.0.1:8787"),
            ("http://[fd00::1]:80/", "http://[fd00::1]:80"),
            ("http://one.local:8787", "http://one.local:8787"),
        ] {
            assert_eq!(text.parse::<NodeUrl>().unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.1:8787", "http://one", "https://one:1", "http://one:1/x", "http://one:1?x"] {
            assert_eq!(text.parse::<NodeUrl>(), Err(NodeUrlError), "{text}");
        }
    }

    #[tokio::test]
    async fn a_node_shares_what_it_has() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let error = Node::start(Config::default(), &url).await.unwrap_err();
        assert!(matches!(error, StartError::Node(NodeError::NotShared("store"))), "{error}");
    }
}
