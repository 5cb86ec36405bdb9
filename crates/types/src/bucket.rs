//! A token bucket: a burst, then a steady rate.

use crate::time::{Duration, Instant};

/// Lets through so much at once, and so much per second for long: messages, or bytes.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Thousandths, so that the refill needs no floats.
    millis: u64,
    filled: Instant,
    burst: u64,
    per_second: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Instant, burst: u64, per_second: u64) -> Self {
        Self { millis: burst.saturating_mul(1000), filled: now, burst, per_second }
    }

    /// Takes so much; `false`, and nothing is taken, if there is not so much.
    pub fn take(&mut self, now: Instant, amount: u64) -> bool {
        let gained = now.since(self.filled).0.saturating_mul(self.per_second);
        self.millis = self.millis.saturating_add(gained).min(self.burst.saturating_mul(1000));
        self.filled = self.filled.max(now);
        let Some(left) = self.millis.checked_sub(amount.saturating_mul(1000)) else { return false };
        self.millis = left;
        true
    }

    /// How long until there is so much. More than the burst never is: then the longest time.
    pub fn wait(&self, amount: u64) -> Duration {
        if amount > self.burst || self.per_second == 0 {
            return Duration(u64::MAX);
        }
        Duration(amount.saturating_mul(1000).saturating_sub(self.millis).div_ceil(self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut bucket = Bucket::new(Instant(0), 3, 2);
        assert!((0..3).all(|_| bucket.take(Instant(0), 1)));
        assert!(!bucket.take(Instant(499), 1));
        assert_eq!(bucket.wait(1), Duration(1));
        assert!(bucket.take(Instant(500), 1));
        assert!(!bucket.take(Instant(400), 1), "time that runs backwards gives nothing");
        assert_eq!((0..9).filter(|_| bucket.take(Instant(60_000), 1)).count(), 3, "the burst is the most");
        assert!(!bucket.take(Instant(120_000), 4));
        assert_eq!(bucket.wait(4), Duration(u64::MAX));
        assert!(bucket.take(Instant(120_000), 3));
    }
}
