//! Datagrams for the relay's STUN and TURN server: the server itself answers them, on loopback.

// The relay is too large to be fuzzed: the server's files are read here as they are.
#[allow(dead_code, reason = "the relay uses all of it")]
#[path = "../../crates/relay/src/turn/credentials.rs"]
mod credentials;
#[allow(dead_code, reason = "the relay uses all of it")]
#[path = "../../crates/relay/src/turn/ledger.rs"]
mod ledger;
#[path = "../../crates/relay/src/turn/peers.rs"]
mod peers;
#[path = "../../crates/relay/src/turn/relayed.rs"]
mod relayed;
#[allow(dead_code, reason = "the relay uses all of it")]
#[path = "../../crates/relay/src/turn/server.rs"]
mod server;
#[allow(dead_code, unreachable_pub, reason = "the relay uses all of it")]
#[path = "../../crates/relay/src/turn/settings.rs"]
mod settings;

use credentials::Credentials;
use ledger::Ledger;
use server::Gate;
use settings::TurnConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use stun::integrity::MessageIntegrity;
use stun::message::{Message, Setter};
use stun::textattrs::TextAttribute;
use tokio::runtime::{Builder, Runtime};
use turn::auth::generate_auth_key;

/// Datagrams of one input.
const MAX_DATAGRAMS: usize = 16;
/// Longest datagram: the server cuts off longer ones.
const MAX_DATAGRAM_BYTES: usize = 1500;
/// Allocations of all sessions.
const MAX_ALLOCATIONS: usize = 3;
/// Ports of relayed addresses: above those that systems give out by themselves.
const PORTS: [u16; 2] = [61_000, 65_535];
/// A nonce that the server gave out.
const NONCE: &str = "nonce";
/// A time that does not come.
const UNTIL_UNIX_S: u64 = 1 << 40;

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Datagrams in turn: one byte that says from whom it comes and whether it is signed, its length (u16, little-endian), and
/// what it says. Whether somebody was given an address.
pub(crate) fn turn(bytes: &[u8]) -> bool {
    RUNTIME.with(|runtime| runtime.block_on(serve(bytes)))
}

async fn serve(mut bytes: &[u8]) -> bool {
    let config = TurnConfig {
        listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
        ports: PORTS,
        max_allocations: MAX_ALLOCATIONS,
        max_allocations_per_session: MAX_ALLOCATIONS - 1,
        ..TurnConfig::default()
    };
    let plan = config.plan().ok().flatten().expect("a plan");
    let ledger = Arc::new(Ledger::new(plan, Arc::default()));
    let credentials = Credentials::new(b"secret");
    let gate = Gate::open(Arc::clone(&ledger), credentials.clone()).await.expect("a socket on loopback");
    gate.nonces.lock().await.insert(NONCE.to_owned(), tokio::time::Instant::now());
    let mut allocated = false;
    for _ in 0..MAX_DATAGRAMS {
        let Some(([flags, low, high], rest)) = bytes.split_first_chunk::<3>() else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()).min(MAX_DATAGRAM_BYTES);
        let (datagram, rest) = rest.split_at(length);
        bytes = rest;
        let from = SocketAddr::from((Ipv4Addr::new(127, 77, 0, 1), 2000 + u16::from(flags >> 1 & 3)));
        let session = if flags & 8 == 0 { "a" } else { "b" };
        let signed = if flags & 1 == 1 { sign(datagram, session, &credentials) } else { None };
        gate.handle(signed.as_deref().unwrap_or(datagram), from).await;
        let allocations = ledger.counters.allocations.load(std::sync::atomic::Ordering::Relaxed);
        assert!(allocations <= MAX_ALLOCATIONS as u64);
        allocated |= allocations > 0;
    }
    gate.close().await;
    allocated
}

/// A message as who has credentials signs it; `None` if it is none.
fn sign(datagram: &[u8], session: &str, credentials: &Credentials) -> Option<Vec<u8>> {
    let mut message = Message { raw: datagram.to_vec(), ..Message::default() };
    message.decode().ok()?;
    let (username, password) = credentials.issue(session, UNTIL_UNIX_S);
    let key = generate_auth_key(&username, server::REALM, &password);
    for (attribute, text) in
        [(ATTR_USERNAME, username.as_str()), (ATTR_REALM, server::REALM), (ATTR_NONCE, NONCE)]
    {
        TextAttribute::new(attribute, text.to_owned()).add_to(&mut message).ok()?;
    }
    MessageIntegrity(key).add_to(&mut message).ok()?;
    Some(message.raw)
}
