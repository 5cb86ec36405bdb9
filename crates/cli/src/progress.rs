//! Progress for people: bars where stderr is a terminal, a plain line now and then where it is not.

use crate::client::Trouble;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::{IsTerminal as _, Read};
use std::time::{Duration, Instant};

/// Pause between two plain lines: enough for a log to show that something goes on, and not a flood.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Redraws per second of a bar.
const REDRAW_HZ: u8 = 8;

const BYTES_STYLE: &str = "{prefix:<10} {bar:30} {bytes:>11} / {total_bytes:11} {bytes_per_sec:>13}  {msg}";
const SHARES_STYLE: &str = "{prefix:<10} {bar:30} {percent:>3} %  {msg}";

/// One piece of work whose end is known.
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
    total: u64,
    bytes: bool,
    started: Instant,
    last_line: Cell<Instant>,
    in_trouble: Cell<bool>,
}

impl Progress {
    /// Progress in bytes, with rate and time left.
    pub fn bytes(label: &str, total: u64) -> Self {
        Self::new(label, total, true)
    }

    /// Progress in parts of a whole, with a text of the caller's.
    pub fn parts(label: &str, total: u64) -> Self {
        Self::new(label, total, false)
    }

    fn new(label: &str, total: u64, bytes: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAW_HZ);
            let bar = ProgressBar::with_draw_target(Some(total), target).with_prefix(label.to_owned());
            let template = if bytes { BYTES_STYLE } else { SHARES_STYLE };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let now = Instant::now();
        let (last_line, in_trouble) = (Cell::new(now), Cell::new(false));
        Self { bar, label: label.to_owned(), total, bytes, started: now, last_line, in_trouble }
    }

    /// Says how far it is and what else there is to say.
    pub fn set(&self, done: u64, text: &str) {
        let back = self.in_trouble.replace(false);
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total));
            bar.set_message(text.to_owned());
        } else if back || self.line_is_due() {
            let answers = if back { "the relay answers again, " } else { "" };
            eprintln!("{}", self.line(done, &format!("{answers}{text}")));
        }
    }

    fn line_is_due(&self) -> bool {
        let due = self.last_line.get().elapsed() >= LINE_INTERVAL;
        if due {
            self.last_line.set(Instant::now());
        }
        due
    }

    /// Says how many bytes are done, with the time left.
    pub fn set_bytes(&self, done: u64) {
        let left = time_left(done, self.total, self.started.elapsed());
        self.set(done, &left.map(|left| format!("{} left", HumanDuration(left))).unwrap_or_default());
    }

    /// Says that the relay is away. On a log this line does not wait for its turn when the trouble is new.
    pub fn trouble(&self, trouble: &Trouble) {
        let new = !self.in_trouble.replace(true);
        let text = trouble_text(trouble);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if self.line_is_due() || new {
            eprintln!("{}: {text}", self.label);
        }
    }

    /// Ends with a line that stays.
    pub fn finish(self, text: &str) {
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{:<10} {text}", self.label);
            }
            None => eprintln!("{}: {text}", self.label),
        }
    }

    fn line(&self, done: u64, text: &str) -> String {
        let share = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let amount = if self.bytes {
            format!("{} of {} ({share} %)", HumanBytes(done), HumanBytes(self.total))
        } else {
            format!("{share} %")
        };
        let comma = if text.is_empty() { "" } else { ", " };
        format!("{}: {amount}{comma}{text}", self.label)
    }
}

fn trouble_text(trouble: &Trouble) -> String {
    format!(
        "the relay does not answer, trying again for {} s of {} s ({})",
        trouble.since.as_secs(),
        trouble.limit.as_secs(),
        trouble.cause
    )
}

/// The time that the rest takes at the mean speed so far; `None` while that says nothing.
pub fn time_left(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    if done == 0 || done >= total || elapsed < Duration::from_millis(500) {
        return None;
    }
    let seconds = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A reader that shows how much was read, and stops with an error when `keep_going` says no.
pub struct Counted<'a, R> {
    inner: R,
    done: u64,
    progress: &'a Progress,
    keep_going: &'a dyn Fn() -> std::io::Result<()>,
}

impl<'a, R: Read> Counted<'a, R> {
    /// Counts from 0.
    pub fn new(inner: R, progress: &'a Progress, keep_going: &'a dyn Fn() -> std::io::Result<()>) -> Self {
        Self { inner, done: 0, progress, keep_going }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (self.keep_going)()?;
        let length = self.inner.read(buffer)?;
        self.done += length as u64;
        self.progress.set_bytes(self.done);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_mean_speed() {
        let left = time_left(25, 100, Duration::from_secs(10));
        assert_eq!(left, Some(Duration::from_secs(30)));
        assert_eq!(time_left(0, 100, Duration::from_secs(10)), None);
        assert_eq!(time_left(100, 100, Duration::from_secs(10)), None);
        assert_eq!(time_left(1, u64::MAX, Duration::from_secs(u64::MAX)), None);
    }

    #[test]
    fn lines_say_amount_and_share() {
        let progress = Progress::bytes("A.npy", 2 << 20);
        assert_eq!(
            progress.line(1 << 20, "1 second left"),
            "A.npy: 1.00 MiB of 2.00 MiB (50 %), 1 second left"
        );
        assert_eq!(Progress::parts("job", 0).line(0, ""), "job: 100 %");
    }
}
