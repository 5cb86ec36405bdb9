//! Counts bytes, and how many come in a second lately.

use potluck_types::Instant;

/// Length of a window, in milliseconds.
const WINDOW_MS: u64 = 500;

#[derive(Debug, Clone)]
pub(crate) struct Meter {
    total: u64,
    since: Instant,
    window: u64,
    per_second: u64,
}

impl Meter {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { total: 0, since: now, window: 0, per_second: 0 }
    }

    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        self.turn(now);
        self.total = self.total.saturating_add(bytes);
        self.window += bytes;
    }

    /// Closes windows that are over: half of the old rate and half of the new.
    fn turn(&mut self, now: Instant) {
        let elapsed = now.since(self.since).0;
        if elapsed >= WINDOW_MS {
            let observed = self.window * 1000 / elapsed;
            let long_ago = elapsed >= 4 * WINDOW_MS;
            self.per_second =
                if self.per_second == 0 || long_ago { observed } else { self.per_second.midpoint(observed) };
            self.window = 0;
            self.since = now;
        }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes per second in the last windows that were counted.
    pub(crate) const fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Bytes per second now: nothing came since long ago means nothing.
    pub(crate) fn rate(&self, now: Instant) -> u64 {
        let mut meter = self.clone();
        meter.turn(now);
        meter.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_what_comes_and_fade() {
        let mut meter = Meter::new(Instant(0));
        for at in 0..50 {
            meter.add(Instant(at * 100), 1000);
        }
        assert_eq!(meter.total(), 50_000);
        assert!((8_000..=11_000).contains(&meter.per_second()), "{}", meter.per_second());
        assert!(meter.rate(Instant(60_000)) < 100);
    }
}
