//! The relay that a mirror follows, over HTTP. Nothing that it says is believed: whoever asks compares hashes.

use crate::log::Fetch;
use potluck_ledger::{LogFile, MAX_ENTRY_BYTES, TILE_WIDTH};
use std::io::{self, Read as _};
use std::time::Duration;

/// Longest file of a log: a full bundle of the longest entries.
const MAX_FILE_BYTES: u64 = TILE_WIDTH * (MAX_ENTRY_BYTES as u64 + 2);
/// Until an answer has begun.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Until an answer is whole: the largest blob over a slow link.
const WHOLE_LIMIT: Duration = Duration::from_mins(10);

/// A relay's public API.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    url: String,
    agent: ureq::Agent,
}

impl Source {
    /// The relay at an address, such as `https://relay.example.org`.
    pub(crate) fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(ANSWER_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .timeout_global(Some(WHOLE_LIMIT))
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("potluck-mirror/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { url: url.trim_end_matches('/').to_owned(), agent: config.into() }
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The bytes under a path, at most so many.
    ///
    /// # Errors
    /// No connection, no bytes there ([`io::ErrorKind::NotFound`]), or more of them.
    pub(crate) async fn get(&self, path: &str, most: u64) -> io::Result<Vec<u8>> {
        let address = format!("{}{path}", self.url);
        let agent = self.agent.clone();
        let work = tokio::task::spawn_blocking(move || {
            let failed = |cause: &dyn std::fmt::Display| io::Error::other(format!("GET {address}: {cause}"));
            let answer = agent.get(&address).call().map_err(|error| failed(&error))?;
            let status = answer.status();
            if status.as_u16() == 404 {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("GET {address}: not found")));
            }
            if !status.is_success() {
                return Err(failed(&format!("status {status}")));
            }
            let mut bytes = Vec::new();
            let mut body = answer.into_body().into_reader().take(most.saturating_add(1));
            body.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
            if bytes.len() as u64 > most {
                return Err(failed(&format!("more than {most} bytes")));
            }
            Ok(bytes)
        });
        work.await.map_err(io::Error::other)?
    }
}

impl Fetch for Source {
    async fn fetch(&self, file: LogFile) -> io::Result<Vec<u8>> {
        self.get(&format!("/log/{file}"), MAX_FILE_BYTES).await
    }
}
