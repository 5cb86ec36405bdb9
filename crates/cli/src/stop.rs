//! Ctrl-C and SIGTERM, counted, for commands that block and commands that do not.

use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a blocking wait looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Counts requests to stop. Clones see the same count.
#[derive(Debug, Clone)]
pub struct Stop {
    count: watch::Sender<u32>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { count: watch::Sender::new(0) }
    }
}

impl Stop {
    /// Counts signals from now on. Must be called within a tokio runtime.
    ///
    /// The signal numbered `last` ends the process at once with exit code 130: whatever hangs, a person must be able
    /// to leave.
    ///
    /// # Errors
    /// The system does not let us listen to signals.
    pub fn watch_signals(&self, last: u32) -> std::io::Result<()> {
        let stop = self.clone();
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            while signals.next().await {
                if stop.request() >= last {
                    std::process::exit(130);
                }
            }
        });
        Ok(())
    }

    /// Asks to stop, as a signal does. Returns how often that was asked by now.
    pub fn request(&self) -> u32 {
        self.count.send_modify(|count| *count += 1);
        self.count()
    }

    /// How often it was asked to stop.
    pub fn count(&self) -> u32 {
        *self.count.borrow()
    }

    /// Waits until it was asked at least `times` times.
    pub async fn requested(&self, times: u32) {
        // The channel cannot close: `self` holds its sender.
        let _ = self.count.subscribe().wait_for(|&count| count >= times).await;
    }

    /// Blocks for `span`, or until it was asked to stop: then `false`.
    pub fn sleep(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        while self.count() == 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(LOOK));
        }
        false
    }
}

/// The streams live as long as the command, so that no signal falls between two waits.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> bool {
        let came = tokio::select! {
            came = self.interrupt.recv() => came,
            came = self.terminate.recv() => came,
        };
        came.is_some()
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same form as on unix, where it can fail")]
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_when_asked() {
        let stop = Stop::default();
        assert!(stop.sleep(Duration::from_millis(1)));
        let other = stop.clone();
        let asked = std::thread::spawn(move || other.request());
        assert!(!stop.sleep(Duration::from_mins(1)));
        assert_eq!(asked.join().unwrap(), 1);
    }
}
