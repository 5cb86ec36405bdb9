//! The JSON of the relay's API, as far as the commands read it. Fields that this version does not know are ignored.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Longest pause that a relay may ask for with `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Characters of an answer that is no error object, shown in its place.
const MAX_SHOWN_CHARS: usize = 200;

/// What the relay says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// A stable name.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    hint: Option<String>,
}

impl ApiError {
    pub(super) fn from_body(status: u16, body: &str, retry_after_s: Option<u64>) -> Self {
        let retry_after = retry_after_s.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        match serde_json::from_str::<ErrorBody>(body) {
            Ok(ErrorBody { code, message, hint }) => {
                let hint = hint.filter(|hint| !hint.is_empty());
                Self { status, code, message, hint, retry_after }
            }
            Err(_) => {
                let shown: String = body.trim().chars().take(MAX_SHOWN_CHARS).collect();
                let message = if shown.is_empty() {
                    format!("the relay answered with status {status}")
                } else {
                    format!("the relay answered with status {status}: {shown}")
                };
                let hint = Some("check that the address is a relay's, and no proxy answers in its place".to_owned());
                Self { status, code: format!("http_{status}"), message, hint, retry_after }
            }
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An uploaded matrix.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Matrix {
    /// Names it in a job.
    pub id: String,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
}

/// The states of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Volunteers work on it, or will.
    Running,
    /// Its result can be fetched.
    Completed,
    /// Its submitter gave it up.
    Canceled,
    /// It cannot be completed.
    Failed,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

impl JobState {
    /// The state in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: JobState,
    /// Element type of the operands.
    pub dtype: String,
    /// Rows of A and C.
    pub m: u64,
    /// Columns of A, rows of B.
    pub k: u64,
    /// Columns of B and C.
    pub n: u64,
    /// Units in all.
    pub units: u64,
    /// Units accepted.
    pub units_accepted: u64,
    /// Shards accepted.
    #[serde(default)]
    pub shards_accepted: u64,
    /// Results rejected.
    #[serde(default)]
    pub shards_rejected: u64,
    /// Volunteers who hold a lease.
    #[serde(default)]
    pub volunteers: u64,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Job {
    /// Floating-point operations of the whole product.
    pub fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.k as f64 * self.n as f64
    }

    /// Part of the units that was accepted, 0 to 1.
    pub fn accepted_share(&self) -> f64 {
        if self.units == 0 { 0.0 } else { self.units_accepted as f64 / self.units as f64 }
    }
}

/// The answer to a list of jobs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JobList {
    /// The jobs, the newest first.
    pub jobs: Vec<Job>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_are_read_and_others_are_shown() {
        let body = r#"{"code":"nan_input","message":"A[3,4] is NaN","hint":"remove it","more":1}"#;
        let error = ApiError::from_body(422, body, None);
        assert_eq!((error.code.as_str(), error.hint.as_deref()), ("nan_input", Some("remove it")));
        let proxy = ApiError::from_body(502, "<html>Bad gateway</html>", Some(100_000));
        assert_eq!(proxy.code, "http_502");
        assert!(proxy.message.contains("Bad gateway"));
        assert_eq!(proxy.retry_after, Some(MAX_RETRY_AFTER));
    }
}
