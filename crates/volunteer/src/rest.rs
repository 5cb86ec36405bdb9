//! Rest that a device is due for what it does: work / (work + rest) is the share that people allow.

use std::time::Duration;

/// The least share that is reckoned with: a smaller one would make rests without end.
const MIN_SHARE: f64 = 0.01;

/// What the device does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nothing, or what nobody but [`Rest::owe`] hears of.
    Nothing,
    /// A kernel, whose time is told when it has passed.
    Computing,
}

/// Rest that is owed. Time in which no kernel computes is rest, but for the work that was told meanwhile. Times are since any
/// fixed moment.
#[derive(Debug)]
pub struct Rest {
    owed: Duration,
    doing: Doing,
    since: Duration,
}

impl Rest {
    /// Nothing is owed.
    pub const fn new(now: Duration) -> Self {
        Self { owed: Duration::ZERO, doing: Doing::Nothing, since: now }
    }

    /// From now on the device does this.
    pub fn turn(&mut self, doing: Doing, now: Duration) {
        let passed = now.saturating_sub(self.since);
        self.since = self.since.max(now);
        if std::mem::replace(&mut self.doing, doing) == Doing::Nothing {
            self.owed = self.owed.saturating_sub(passed);
        }
    }

    /// Adds the rest for so much work at a share of 0 to 1.
    pub fn owe(&mut self, busy: Duration, share: f64) {
        let whole = 1.0 / share.clamp(MIN_SHARE, 1.0);
        // Where no kernel computes, that time counts as rest in the end: it is owed once more.
        let counted = if self.doing == Doing::Nothing { whole } else { whole - 1.0 };
        self.owed = self.owed.saturating_add(busy.mul_f64(counted));
    }

    /// What is owed, as of the last turn.
    pub const fn owed(&self) -> Duration {
        self.owed
    }

    /// What the device does.
    pub const fn doing(&self) -> Doing {
        self.doing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_quarter_of_the_time_is_work() {
        let mut rest = Rest::new(ms(0));
        rest.turn(Doing::Computing, ms(0));
        rest.owe(ms(10), 0.25);
        rest.turn(Doing::Nothing, ms(10));
        assert_eq!(rest.owed(), ms(30));
        rest.turn(Doing::Nothing, ms(25));
        assert_eq!(rest.owed(), ms(15));
        // 5 ms of work in the rest: 15 of 60 ms are work in the end.
        rest.owe(ms(5), 0.25);
        rest.turn(Doing::Computing, ms(60));
        assert_eq!(rest.owed(), ms(0));
    }

    #[test]
    fn idle_time_is_rest_and_all_of_the_device_owes_none() {
        let mut rest = Rest::new(ms(0));
        rest.owe(ms(100), 0.25);
        rest.turn(Doing::Nothing, ms(10_000));
        assert_eq!(rest.owed(), ms(0));
        rest.owe(ms(100), 1.0);
        rest.turn(Doing::Computing, ms(10_100));
        rest.owe(ms(50), 1.0);
        assert_eq!(rest.owed(), ms(0));
        // A clock that runs backwards gives nothing away.
        rest.owe(ms(10), 0.5);
        rest.turn(Doing::Nothing, ms(9_000));
        rest.turn(Doing::Nothing, ms(10_100));
        assert_eq!(rest.owed(), ms(10));
    }
}
