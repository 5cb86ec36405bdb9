//! How much one address may ask of the log, and of the pages about work: a token bucket for what costs a look at the log's files, another for what
//! takes a signature's check or writes.

use crate::api::ApiError;
use crate::http::{App, seen_at};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use potluck_types::{Bucket, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// Receipts, consistency proofs and pages that an address gets at once. A tab that opens its list of receipts asks for a
/// page of them.
const READ_BURST: u64 = 300;
/// And for long, each second: a proof takes a few milliseconds of one core.
const READS_PER_S: u64 = 30;
/// Statements, effects and cosignatures that an address may send at once: a council behind one address votes on a dozen
/// proposals.
const WRITE_BURST: u64 = 200;
/// And for long, each second: checking a signature takes 0.1 ms, and writing an entry a few.
const WRITES_PER_S: u64 = 10;
/// Addresses that are remembered: 100 bytes each. Beyond, those that asked for nothing lately are forgotten.
const MAX_ADDRESSES: usize = 16_384;
/// Bytes of an IPv6 address that name a network: whoever has one has all addresses in it.
const V6_NETWORK_BYTES: usize = 8;

/// What an address may still ask.
#[derive(Debug)]
struct Allowed {
    reads: Bucket,
    writes: Bucket,
}

/// The buckets of all addresses.
#[derive(Debug)]
pub(crate) struct Limits {
    origin: std::time::Instant,
    addresses: Mutex<HashMap<IpAddr, Allowed>>,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self { origin: std::time::Instant::now(), addresses: Mutex::default() }
    }

    /// Takes one request of an address out of its bucket.
    ///
    /// # Errors
    /// For how many seconds to wait.
    fn take(&self, address: IpAddr, kind: Kind) -> Result<(), u64> {
        let now = Instant(self.origin.elapsed().as_millis() as u64);
        self.take_at(network(address), kind, now)
    }

    fn take_at(&self, address: IpAddr, kind: Kind, now: Instant) -> Result<(), u64> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&address) {
            // A bucket that is full again says nothing.
            let full = |bucket: &Bucket, burst| bucket.clone().take(now, burst);
            addresses.retain(|_, allowed| {
                !(full(&allowed.reads, READ_BURST) && full(&allowed.writes, WRITE_BURST))
            });
            if addresses.len() >= MAX_ADDRESSES {
                return Err(1);
            }
        }
        let allowed = addresses.entry(address).or_insert_with(|| Allowed {
            reads: Bucket::new(now, READ_BURST, READS_PER_S),
            writes: Bucket::new(now, WRITE_BURST, WRITES_PER_S),
        });
        let bucket = match kind {
            Kind::Read => &mut allowed.reads,
            Kind::Write => &mut allowed.writes,
        };
        if bucket.take(now, 1) { Ok(()) } else { Err(bucket.wait(1).0.div_ceil(1000).max(1)) }
    }
}

/// What counts as one: an IPv4 address, or a network of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[V6_NETWORK_BYTES..].fill(0);
            Ipv6Addr::from(octets).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

async fn limit(app: &App, kind: Kind, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let address = peer.and_then(|peer| seen_at(&app.config, peer, request.headers()));
    // Whom a proxy does not name shares one bucket.
    match app.limits.take(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), kind) {
        Ok(()) => next.run(request).await,
        Err(seconds) => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "this address asks for more than it may",
            "wait for as long as Retry-After says; the log's files under /log are not limited",
        )
        .retry_after(seconds)
        .into_response(),
    }
}

/// For routes that read.
pub(crate) async fn reads(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    limit(&app, Kind::Read, request, next).await
}

/// For routes that check signatures or write.
pub(super) async fn writes(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    limit(&app, Kind::Write, request, next).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_then_a_rate_and_others_have_theirs() {
        let limits = Limits::new();
        let (one, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..WRITE_BURST {
            assert_eq!(limits.take_at(one, Kind::Write, Instant(0)), Ok(()));
        }
        assert_eq!(limits.take_at(one, Kind::Write, Instant(0)), Err(1));
        assert_eq!(limits.take_at(one, Kind::Read, Instant(0)), Ok(()));
        assert_eq!(limits.take_at(other, Kind::Write, Instant(0)), Ok(()));
        assert_eq!(limits.take_at(one, Kind::Write, Instant(1000 / WRITES_PER_S)), Ok(()));
        assert_eq!(limits.take_at(one, Kind::Write, Instant(1000 / WRITES_PER_S)), Err(1));
    }

    #[test]
    fn addresses_are_forgotten_when_they_ask_for_nothing_and_never_too_many() {
        let limits = Limits::new();
        for address in 0..MAX_ADDRESSES as u32 {
            assert_eq!(limits.take_at(IpAddr::V4(address.into()), Kind::Read, Instant(0)), Ok(()));
        }
        let next = IpAddr::V4((MAX_ADDRESSES as u32).into());
        assert_eq!(limits.take_at(next, Kind::Read, Instant(0)), Err(1));
        assert_eq!(limits.take_at(next, Kind::Read, Instant(1000)), Ok(()));
        assert_eq!(limits.addresses.lock().unwrap().len(), 1);
        let v6 = |text: &str| network(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
    }
}
