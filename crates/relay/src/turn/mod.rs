//! STUN and TURN: how volunteers find out under which address others reach them, and what carries their links
//! where no direct way leads.
//!
//! `settings.rs` is `[turn]` of `potluck.toml`; `credentials.rs` issues what volunteers show; `server.rs` is
//! the relay's own server; `relayed.rs` are its relayed sockets, `ledger.rs` what sessions use of them,
//! `peers.rs` where they do not lead.

mod credentials;
mod ledger;
mod peers;
mod relayed;
mod server;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::{SharedSecret, TurnConfig, TurnConfigError, TurnServerConfig};

pub(crate) use server::Server;

use crate::{StartError, random};
use credentials::{Credentials, VALIDITY};
use ledger::{Counters, Ledger};
use potluck_proto::IceServer;
use potluck_types::{Duration, SessionId};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of a label. Too many to meet another session's by chance, and it says nothing about the session.
const LABEL_BYTES: usize = 8;

/// A server that volunteers are told.
#[derive(Debug)]
struct Named {
    urls: Vec<String>,
    /// What its credentials come from; STUN needs none.
    credentials: Option<Credentials>,
}

/// The servers that volunteers are told, each session with its own credentials.
#[derive(Debug, Clone)]
pub(crate) struct TurnServers {
    named: Arc<[Named]>,
    label_key: [u8; 32],
    counters: Arc<Counters>,
}

/// What the relay's own server did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TurnTotals {
    /// Allocations now.
    pub(crate) allocations: u64,
    /// Bytes that were relayed.
    pub(crate) bytes: u64,
    /// Datagrams and requests that were refused.
    pub(crate) refused: u64,
}

impl TurnServers {
    /// The servers for a session, and for how long its credentials count.
    pub(crate) fn for_session(&self, session: SessionId, now_unix_s: u64) -> (Vec<IceServer>, Duration) {
        let until = now_unix_s.saturating_add(VALIDITY.0 / 1000);
        let label = self.label(session);
        let servers = self.named.iter().map(|named| {
            let issued = named.credentials.as_ref().map(|credentials| credentials.issue(&label, until));
            let (username, credential) = issued.unwrap_or_default();
            IceServer { urls: named.urls.clone(), username, credential }
        });
        (servers.collect(), VALIDITY)
    }

    /// A session's name among the users of its servers.
    fn label(&self, session: SessionId) -> String {
        let hash = blake3::keyed_hash(&self.label_key, &session.0.to_le_bytes());
        hash.as_bytes()[..LABEL_BYTES].iter().fold(String::new(), |mut label, byte| {
            // Writing to a string cannot fail.
            let _ = write!(label, "{byte:02x}");
            label
        })
    }

    pub(crate) fn totals(&self) -> TurnTotals {
        let Counters { allocations, bytes, refused } = &*self.counters;
        TurnTotals {
            allocations: allocations.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
        }
    }
}

/// Starts the own server, if there is to be one.
pub(crate) async fn start(config: Option<&TurnConfig>) -> Result<(TurnServers, Option<Server>), StartError> {
    let counters = Arc::new(Counters::default());
    let mut named = Vec::new();
    let mut own = None;
    if let Some(config) = config {
        config.check()?;
        if let Some(plan) = config.plan()? {
            let (listen, public_ip) = (plan.listen, plan.public_ip_set.then_some(plan.public_ip));
            let credentials = Credentials::new(&random::<32>()?);
            let ledger = Arc::new(Ledger::new(plan, Arc::clone(&counters)));
            let server = Server::start(ledger, credentials.clone())
                .await
                .map_err(|cause| StartError::Turn { address: listen, cause })?;
            // A volunteer fills in the host under which it knows the relay.
            let port = server.address.port();
            let host =
                public_ip.map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string());
            named.push(Named { urls: vec![format!("stun:{host}")], credentials: None });
            let turn = format!("turn:{host}?transport=udp");
            named.push(Named { urls: vec![turn], credentials: Some(credentials) });
            own = Some(server);
        }
        named.extend(config.servers.iter().map(|server| Named {
            urls: server.urls.clone(),
            credentials: server.secret.as_ref().map(|secret| Credentials::new(secret.0.as_bytes())),
        }));
    }
    Ok((TurnServers { named: named.into(), label_key: random()?, counters }, own))
}
