//! What a refusal of the relay looks like to its client. The types of everything else are the relay's own.

use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// Longest pause that a relay may ask for with `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
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
    /// Of something that the log does not justify: each step that is missing.
    pub missing: Vec<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    hint: Option<String>,
    #[serde(default)]
    missing: Vec<String>,
}

impl ApiError {
    pub(super) fn from_body(status: u16, body: &str, retry_after_s: Option<u64>) -> Self {
        let retry_after = retry_after_s.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        if let Ok(ErrorBody { code, message, hint, missing }) = serde_json::from_str::<ErrorBody>(body) {
            let hint = hint.filter(|hint| !hint.is_empty());
            return Self { status, code, message, hint, missing, retry_after };
        }
        let shown: String = body.trim().chars().take(MAX_SHOWN_CHARS).collect();
        let message = if shown.is_empty() {
            format!("the relay answered with status {status}")
        } else {
            format!("the relay answered with status {status}: {shown}")
        };
        let hint = Some("check that the address is a relay's, and no proxy answers in its place".to_owned());
        Self { status, code: format!("http_{status}"), message, hint, missing: Vec::new(), retry_after }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
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
