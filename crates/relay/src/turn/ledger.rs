//! What sessions use of the server, and when it is enough.

use super::settings::Plan;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Sessions whose use is remembered, four times as many as a relay serves at once; about 200 bytes each.
const MAX_METERS: usize = 16_384;
/// Requests that a session may make in a burst: 16 for each of 8 allocations. Browsers need about 10.
const REQUEST_BURST: f64 = 128.0;
/// Requests per second that a session may make for long. Each can leave a permission of 5 min or a channel of
/// 10 min, so a session has at most 128 + 600 · 0.5 = 428 of these, of under 1 kB: 110 MB if each
/// of 256 allocations belongs to a session that tries.
const REQUESTS_PER_S: f64 = 0.5;
/// A bucket holds at least this, so that every datagram fits into it.
const MIN_BYTE_BURST: f64 = 2048.0;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `/metrics` shows of the server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) allocations: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Counters {
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A token bucket: what is taken comes back with time.
#[derive(Debug)]
struct Bucket {
    level: f64,
    most: f64,
    per_s: f64,
    at: Instant,
}

impl Bucket {
    fn full(most: f64, per_s: f64, now: Instant) -> Self {
        Self { level: most, most, per_s, at: now }
    }

    fn take(&mut self, amount: f64, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_s;
        self.level = (self.level + gained).min(self.most);
        self.at = self.at.max(now);
        let enough = self.level >= amount;
        if enough {
            self.level -= amount;
        }
        enough
    }
}

/// The use of one session.
#[derive(Debug)]
struct Use {
    allocations: usize,
    requests: Bucket,
    rate: Bucket,
    /// Bytes that it may still have relayed.
    left: u64,
    /// When its last credentials end, in seconds of Unix time.
    until: u64,
}

/// The meter of one session. Its allocations share it.
#[derive(Debug)]
pub(super) struct Meter(Mutex<Use>);

impl Meter {
    /// Whether the session may make one more request.
    pub(super) fn request(&self, now: Instant) -> bool {
        lock(&self.0).requests.take(1.0, now)
    }

    /// Whether so many bytes more may be relayed.
    fn spend(&self, bytes: usize, now: Instant) -> bool {
        let mut used = lock(&self.0);
        let Some(left) = used.left.checked_sub(bytes as u64) else {
            used.left = 0;
            return false;
        };
        let passes = used.rate.take(bytes as f64, now);
        if passes {
            used.left = left;
        }
        passes
    }

    /// Whether nothing more will be relayed.
    pub(super) fn is_spent(&self) -> bool {
        lock(&self.0).left == 0
    }
}

/// All meters, and the ports that are relayed.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) plan: Plan,
    pub(super) counters: Arc<Counters>,
    meters: Mutex<HashMap<String, Arc<Meter>>>,
    ports: Mutex<HashSet<u16>>,
}

impl Ledger {
    pub(super) fn new(plan: Plan, counters: Arc<Counters>) -> Self {
        Self { plan, counters, meters: Mutex::default(), ports: Mutex::default() }
    }

    /// The meter of a session that shows credentials which count until then; a new one if it has none. `None`
    /// if too many sessions have one.
    pub(super) fn open(&self, label: &str, until: u64, now_unix_s: u64) -> Option<Arc<Meter>> {
        let mut meters = lock(&self.meters);
        if let Some(meter) = meters.get(label) {
            let mut used = lock(&meter.0);
            used.until = used.until.max(until);
            return Some(Arc::clone(meter));
        }
        if meters.len() >= MAX_METERS {
            meters.retain(|_, meter| {
                let used = lock(&meter.0);
                used.allocations > 0 || used.until >= now_unix_s
            });
        }
        if meters.len() >= MAX_METERS {
            return None;
        }
        let now = Instant::now();
        let per_s = self.plan.bytes_per_s_per_session as f64;
        let meter = Arc::new(Meter(Mutex::new(Use {
            allocations: 0,
            requests: Bucket::full(REQUEST_BURST, REQUESTS_PER_S, now),
            rate: Bucket::full(per_s.max(MIN_BYTE_BURST), per_s, now),
            left: self.plan.bytes_per_session,
            until,
        })));
        meters.insert(label.to_owned(), Arc::clone(&meter));
        Some(meter)
    }

    /// The meter of a session that has one.
    pub(super) fn find(&self, label: &str) -> Option<Arc<Meter>> {
        lock(&self.meters).get(label).map(Arc::clone)
    }

    /// Room for one more allocation, if there is any.
    pub(super) fn slot(self: &Arc<Self>, meter: &Arc<Meter>) -> Option<Slot> {
        let mut used = lock(&meter.0);
        let all = &self.counters.allocations;
        if used.allocations >= self.plan.max_allocations_per_session
            || all.load(Ordering::Relaxed) >= self.plan.max_allocations as u64
        {
            return None;
        }
        used.allocations += 1;
        all.fetch_add(1, Ordering::Relaxed);
        drop(used);
        Some(Slot { ledger: Arc::clone(self), meter: Arc::clone(meter), port: None })
    }

    /// Whether a port belongs to an allocation.
    pub(super) fn is_relayed(&self, port: u16) -> bool {
        lock(&self.ports).contains(&port)
    }
}

/// The place of one allocation. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) ledger: Arc<Ledger>,
    meter: Arc<Meter>,
    port: Option<u16>,
}

impl Slot {
    /// The port that it is relayed from.
    pub(super) fn relays(&mut self, port: u16) {
        lock(&self.ledger.ports).insert(port);
        self.port = Some(port);
    }

    /// Whether a datagram of so many bytes may pass.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        let passes = self.meter.spend(bytes, Instant::now());
        if passes {
            self.ledger.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        passes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(port) = self.port {
            lock(&self.ledger.ports).remove(&port);
        }
        lock(&self.meter.0).allocations -= 1;
        self.ledger.counters.allocations.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::TurnConfig;
    use super::*;
    use std::time::Duration;

    fn ledger(edit: impl FnOnce(&mut TurnConfig)) -> Arc<Ledger> {
        let mut config = TurnConfig { listen: Some(([127, 0, 0, 1], 0).into()), ..TurnConfig::default() };
        edit(&mut config);
        Arc::new(Ledger::new(config.plan().unwrap().unwrap(), Arc::default()))
    }

    #[test]
    fn a_bucket_refills_with_time_and_not_beyond_its_brim() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10.0, 2.0, start);
        assert!(bucket.take(10.0, start) && !bucket.take(1.0, start));
        assert!(!bucket.take(1.0, start + Duration::from_millis(400)));
        assert!(bucket.take(1.0, start + Duration::from_millis(500)));
        // An older time takes nothing away.
        assert!(!bucket.take(1.0, start));
        assert!(!bucket.take(10.5, start + Duration::from_mins(1)));
        assert!(bucket.take(10.0, start + Duration::from_mins(1)));
    }

    #[test]
    fn rate_and_quota_bound_what_a_session_has_relayed() {
        let ledger = ledger(|config| {
            config.bytes_per_s_per_session = 10_000;
            config.bytes_per_session = 15_000;
        });
        let meter = ledger.open("a", 10, 0).unwrap();
        let now = Instant::now();
        assert!(meter.spend(10_000, now) && !meter.spend(1000, now));
        let later = now + Duration::from_secs(9);
        assert!(meter.spend(4000, later) && !meter.is_spent());
        assert!(!meter.spend(1001, later) && meter.is_spent() && !meter.spend(1, later));
        // The quota is the session's: fresh credentials do not renew it, another session has its own.
        assert!(ledger.open("a", 20, 0).unwrap().is_spent());
        assert!(ledger.open("b", 10, 0).unwrap().spend(10_000, now));
    }

    #[test]
    fn allocations_are_counted_by_session_and_in_all() {
        let ledger = ledger(|config| {
            config.max_allocations = 3;
            config.max_allocations_per_session = 2;
        });
        let (a, b) = (ledger.open("a", 10, 0).unwrap(), ledger.open("b", 10, 0).unwrap());
        let first = ledger.slot(&a).unwrap();
        let mut second = ledger.slot(&a).unwrap();
        second.relays(7);
        assert!(ledger.slot(&a).is_none());
        let third = ledger.slot(&b).unwrap();
        assert!(ledger.slot(&b).is_none() && ledger.is_relayed(7));
        drop(second);
        assert!(!ledger.is_relayed(7));
        let fourth = ledger.slot(&b).unwrap();
        assert_eq!(ledger.counters.allocations.load(Ordering::Relaxed), 3);
        drop((first, third, fourth));
        assert_eq!(ledger.counters.allocations.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sessions_are_forgotten_when_nothing_of_theirs_counts() {
        let ledger = ledger(|_| {});
        let held = ledger.open("held", 10, 0).unwrap();
        let _slot = ledger.slot(&held).unwrap();
        ledger.open("over", 10, 0).unwrap();
        ledger.open("renewed", 10, 0).unwrap();
        ledger.open("renewed", 20, 0).unwrap();
        for number in 3..MAX_METERS {
            assert!(ledger.open(&number.to_string(), 20, 0).is_some());
        }
        assert!(ledger.open("one too many", 20, 10).is_none());
        assert!(ledger.open("late", 20, 11).is_some() && ledger.find("over").is_none());
        assert!(ledger.open("one too many", 20, 11).is_none());
        assert!(ledger.open("one too many", 30, 21).is_some());
        assert!(ledger.find("held").is_some() && ledger.find("renewed").is_none());
    }

    #[test]
    fn requests_are_bounded() {
        let ledger = ledger(|_| {});
        let meter = ledger.open("a", 10, 0).unwrap();
        let now = Instant::now();
        assert!((0..128).all(|_| meter.request(now)) && !meter.request(now));
        assert!(meter.request(now + Duration::from_secs(2)));
    }
}
