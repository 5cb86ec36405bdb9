//! The commands by which people decide: what they sign, what takes effect, and what follows from the log.
//!
//! `log.rs` has the log as a command goes by it: read and checked, never taken from the relay's word. `sign.rs` signs and
//! sends; `propose.rs` finds out what exactly is proposed, `words.rs` is everything else that people sign, `card.rs` shows an
//! eval card before it is signed; `enact.rs` asks the relay to let take effect what the log justifies; `show.rs` and
//! `models.rs` show; `keys.rs` makes keys and changes them; `found.rs` names the first people.

mod card;
pub mod enact;
pub mod found;
pub mod keys;
mod log;
pub mod models;
pub mod propose;
pub mod show;
mod sign;
pub mod words;

use crate::error::CliError;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest document that is read, in bytes: what an entry holds.
const MAX_DOCUMENT_BYTES: u64 = potluck_governance::limits::MAX_ENTRY_BYTES as u64;

/// Reads a JSON document.
fn document<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T, CliError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_string(&mut text))
        .map_err(|cause| CliError::file(path, "read", cause))?;
    serde_json::from_str(&text).map_err(|error| CliError::Input {
        message: format!("{} is no {what}: {error}", path.display()),
        hint: "see `potluck governance show --json` for the form".into(),
    })
}

/// A span of milliseconds, for people.
fn span(ms: u64) -> String {
    let (s, m, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match (h, m, s) {
        (72.., ..) => format!("{} days", h / 24),
        (1.., ..) => format!("{h} h {} min", m % 60),
        (0, 1.., _) => format!("{m} min {} s", s % 60),
        _ => format!("{}.{} s", s, ms % 1000 / 100),
    }
}

/// A time, as seen from another, for people.
fn moment(at_ms: u64, now_ms: u64) -> String {
    if at_ms > now_ms {
        format!("in {}", span(at_ms - now_ms))
    } else {
        format!("{} ago", span(now_ms - at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        assert_eq!(moment(5_500, 1_000), "in 4.5 s");
        assert_eq!(moment(0, 62_000), "1 min 2 s ago");
        assert_eq!(moment(7 * 3_600_000 + 60_000, 0), "in 7 h 1 min");
        assert_eq!(moment(0, 96 * 3_600_000), "4 days ago");
    }
}
