//! A token bucket: a burst, then a steady rate.

use potluck_types::Instant;

#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// Thousandths of a message, so that the refill needs no floats.
    millis: u64,
    filled: Instant,
    burst: u32,
    per_second: u32,
}

impl Bucket {
    pub(crate) fn new(now: Instant, burst: u32, per_second: u32) -> Self {
        Self { millis: u64::from(burst) * 1000, filled: now, burst, per_second }
    }

    /// Takes one message; `false` if there is none left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let gained = now.since(self.filled).0.saturating_mul(u64::from(self.per_second));
        self.millis = self.millis.saturating_add(gained).min(u64::from(self.burst) * 1000);
        self.filled = self.filled.max(now);
        let enough = self.millis >= 1000;
        if enough {
            self.millis -= 1000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut bucket = Bucket::new(Instant(0), 3, 2);
        assert!((0..3).all(|_| bucket.take(Instant(0))));
        assert!(!bucket.take(Instant(499)));
        assert!(bucket.take(Instant(500)));
        assert!(!bucket.take(Instant(400)), "time that runs backwards gives nothing");
        assert_eq!((0..9).filter(|_| bucket.take(Instant(60_000))).count(), 3, "the burst is the most");
    }
}
