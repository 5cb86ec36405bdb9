//! What went wrong in this process lately, for its operator: clients are told no more than that something did.

use super::api::{ErrorInfo, Errors};
use crate::db::wall_ms;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Errors that are kept; the oldest leave first. The log of the process has all of them.
const MAX_KEPT: usize = 50;
/// Bytes of a message that are kept.
const MAX_MESSAGE_BYTES: usize = 400;

/// One of them, and how many came before.
#[derive(Debug)]
struct Failures {
    total: u64,
    recent: VecDeque<ErrorInfo>,
}

/// Of the whole process: an error is made where no relay is at hand.
static FAILURES: Mutex<Failures> = Mutex::new(Failures { total: 0, recent: VecDeque::new() });

/// Keeps an error.
pub(crate) fn record(message: &str) {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner).add(message, wall_ms());
}

/// The newest errors, the newest first.
pub(super) fn recent() -> Errors {
    let failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    Errors { total: failures.total, recent: failures.recent.iter().rev().cloned().collect() }
}

impl Failures {
    fn add(&mut self, message: &str, at_ms: i64) {
        self.total += 1;
        let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
        self.recent.push_back(ErrorInfo { at_ms, message: message[..end].to_owned() });
        if self.recent.len() > MAX_KEPT {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_long_ones_are_cut() {
        let mut failures = Failures { total: 0, recent: VecDeque::new() };
        for at in (0_i64..).take(MAX_KEPT + 3) {
            failures.add(&"ä".repeat(MAX_MESSAGE_BYTES), at);
        }
        assert_eq!((failures.total, failures.recent.len()), (MAX_KEPT as u64 + 3, MAX_KEPT));
        assert_eq!(failures.recent.front().map(|kept| kept.at_ms), Some(3));
        assert!(failures.recent.iter().all(|kept| kept.message.len() <= MAX_MESSAGE_BYTES));
    }
}
