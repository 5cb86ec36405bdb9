//! How long to wait for a relay that does not answer.

use std::time::Duration;

/// Longest time for which a command that waits for a job keeps trying to reach the relay. A relay that is restarted
/// after an upgrade or a crash is back within seconds; ten minutes also cover a machine that reboots.
pub const PATIENCE: Duration = Duration::from_mins(10);
/// Longest time for which the first request of a command keeps trying: a wrong address should be said soon.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// Pause after the first failed attempt; it doubles with each further one.
pub const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two attempts.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The pause after `failures` failed attempts in a row (1 after the first).
///
/// `jitter` in 0..=255 spreads it over half to all of its length, so that a thousand commands that wait for the same
/// relay do not come back in the same instant.
pub fn pause(failures: u32, jitter: u8) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let longest = doubled.min(MAX_PAUSE);
    longest / 2 + (longest / 2).mul_f64(f64::from(jitter) / 255.0)
}

/// A random byte; 128 where the system gives none, since a jitter without chance is still a pause.
pub(super) fn random_jitter() -> u8 {
    let mut byte = [128];
    // On an error the byte keeps its value.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_never_beyond() {
        assert_eq!(pause(1, 255), FIRST_PAUSE);
        assert_eq!(pause(1, 0), FIRST_PAUSE / 2);
        assert_eq!(pause(2, 255), FIRST_PAUSE * 2);
        for failures in 0..100 {
            let longest = pause(failures, 255);
            assert!(longest <= MAX_PAUSE && longest >= FIRST_PAUSE, "{failures}: {longest:?}");
            assert!(pause(failures, 0) <= longest);
        }
        assert_eq!(pause(u32::MAX, 255), MAX_PAUSE);
    }
}
