//! The relay's HTTP API, as the commands for submitters use it: blocking, retried where a retry is safe, each answer
//! bounded.

pub mod retry;
pub mod runs;
mod types;

pub use potluck_relay::api::{JobDetail, JobInfo, LinkInfo, MatrixInfo, NewJob, PeerInfo, Peers};
pub use types::ApiError;

use crate::error::CliError;
use crate::stop::Stop;
use retry::{FIRST_PATIENCE, PATIENCE, pause, random_jitter};
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::io::Read;
use std::time::{Duration, Instant};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body, SendBody};

/// Time to resolve the relay's name and connect to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a relay that has nothing to do but answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence of a relay that has work to do first: it checks and cuts two matrices of up to 4 GiB, one job after
/// the other.
const WORK_TIMEOUT: Duration = Duration::from_mins(15);
/// Bytes that are sent or received at once: a matrix takes few system calls.
const BUFFER_BYTES: usize = 1 << 20;
/// Largest JSON answer, in bytes: a list of 4,096 jobs at about 1 kB each.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// A request that failed and will be tried again.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What happened.
    pub cause: String,
    /// For how long it has been failing.
    pub since: Duration,
    /// For how long it will be tried in all.
    pub limit: Duration,
}

/// Talks to one relay.
pub struct Client {
    agent: Agent,
    relay: String,
    token: Option<String>,
    /// Patience once the relay has answered; before that, a wrong address is likelier than a restart.
    patience: Duration,
    first_patience: Duration,
    answered: Cell<bool>,
    stop: Stop,
}

impl Client {
    /// A client for the relay at `relay` (`http://` or `https://`).
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(relay: &str, token: Option<String>, stop: Stop) -> Result<Self, CliError> {
        let relay = base_address(relay)?;
        // A proxy is for the way out of this machine, not for a relay on it.
        let config = Agent::config_builder();
        let config = if is_loopback(&relay) { config.proxy(None) } else { config };
        let config = config
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_per_write(Some(SILENCE_TIMEOUT))
            .output_buffer_size(BUFFER_BYTES)
            .input_buffer_size(BUFFER_BYTES)
            .user_agent(concat!("potluck/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            relay,
            token,
            patience: PATIENCE,
            first_patience: FIRST_PATIENCE,
            answered: Cell::new(false),
            stop,
        })
    }

    /// Sets how long a relay that does not answer is tried: before its first answer, and after it.
    #[must_use]
    pub fn with_patience(mut self, first: Duration, later: Duration) -> Self {
        (self.first_patience, self.patience) = (first, later);
        self
    }

    /// The relay's address, without a slash at its end.
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// The requests to stop that this client heeds.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// GET with a JSON answer, retried.
    ///
    /// # Errors
    /// [`CliError::Unreachable`] after its patience, [`CliError::Api`], [`CliError::Answer`].
    pub fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        on_trouble: impl FnMut(Trouble),
    ) -> Result<T, CliError> {
        let response = self.retried(on_trouble, || self.send(Method::GET, path, &[], SendBody::none()))?;
        read_json(response, &format!("GET {path}"))
    }

    /// A request with a JSON body (or none) and a JSON answer. Retried, so it must be safe to repeat: deletions are,
    /// and creations that carry an idempotency key.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn send_json<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&serde_json::Value>,
        on_trouble: impl FnMut(Trouble),
    ) -> Result<T, CliError> {
        let body = body.map(ToString::to_string);
        let mut headers = headers.to_vec();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let response = self.retried(on_trouble, || {
            let mut bytes = body.as_deref().unwrap_or_default().as_bytes();
            let length = bytes.len().to_string();
            let mut headers = headers.clone();
            headers.push(("content-length", &length));
            self.send(method.clone(), path, &headers, SendBody::from_reader(&mut bytes))
        })?;
        read_json(response, &format!("{method} {path}"))
    }

    /// Sends a body that is opened anew for each attempt, and reads a JSON answer. For uploads.
    ///
    /// # Errors
    /// As [`Client::get`], and what `open` says.
    pub fn upload<T: DeserializeOwned, R: Read>(
        &self,
        method: &Method,
        path: &str,
        length: u64,
        mut open: impl FnMut() -> Result<R, CliError>,
        on_trouble: impl FnMut(Trouble),
    ) -> Result<T, CliError> {
        let length = length.to_string();
        // The relay says whether it takes the file before a byte of it is sent: a refusal that comes while one still
        // sends is lost with the connection.
        let headers = [
            ("content-type", "application/octet-stream"),
            ("content-length", length.as_str()),
            ("expect", "100-continue"),
        ];
        let response = self.retried(on_trouble, || {
            let mut body = open()?;
            self.send(method.clone(), path, &headers, SendBody::from_reader(&mut body))
        })?;
        read_json(response, &format!("{method} {path}"))
    }

    /// GET with a body of any kind: its length, if the relay says, and a reader. Retried until the body begins.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn download(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        on_trouble: impl FnMut(Trouble),
    ) -> Result<Response<Body>, CliError> {
        self.retried(on_trouble, || self.send(Method::GET, path, headers, SendBody::none()))
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
    ) -> Result<Response<Body>, CliError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.relay));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let silence = if *request.method_ref().unwrap_or(&Method::GET) == Method::POST {
            WORK_TIMEOUT
        } else {
            SILENCE_TIMEOUT
        };
        let request = request.body(body).map_err(|cause| CliError::Usage {
            message: format!("the relay's address or the token cannot be sent: {cause}"),
            hint: "check --relay and --token for blanks and other stray characters".into(),
        })?;
        let request = self.agent.configure_request(request).timeout_per_read(Some(silence)).build();
        let response = self.agent.run(request).map_err(|cause| self.transport_error(&cause))?;
        self.answered.set(true);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response.into_body().into_with_config().limit(MAX_JSON_BYTES).read_to_string();
        Err(CliError::Api(ApiError::from_body(status.as_u16(), &text.unwrap_or_default(), retry_after)))
    }

    fn transport_error(&self, cause: &ureq::Error) -> CliError {
        let cause = match cause {
            ureq::Error::Io(error) if is_interruption(error) => return CliError::Interrupted { job: None },
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        CliError::Unreachable { relay: self.relay.clone(), waited: Duration::ZERO, cause }
    }

    /// Repeats `attempt` while the relay is away or overloaded, with pauses that grow, up to the patience.
    fn retried<T>(
        &self,
        mut on_trouble: impl FnMut(Trouble),
        mut attempt: impl FnMut() -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let started = Instant::now();
        for failures in 1.. {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (cause, asked) = match &error {
                CliError::Unreachable { cause, .. } => (cause.clone(), None),
                CliError::Api(api) if is_passing(api.status) => (api.to_string(), api.retry_after),
                _ => return Err(error),
            };
            let limit = if self.answered.get() { self.patience } else { self.first_patience };
            let since = started.elapsed();
            let wait = pause(failures, random_jitter()).max(asked.unwrap_or_default());
            if since + wait > limit {
                return Err(match error {
                    CliError::Unreachable { relay, cause, .. } => {
                        CliError::Unreachable { relay, waited: since, cause }
                    }
                    other => other,
                });
            }
            on_trouble(Trouble { cause, since, limit });
            if !self.stop.sleep(wait) {
                break;
            }
        }
        Err(CliError::Interrupted { job: None })
    }
}

/// Whether a status says "not now" rather than "no".
fn is_passing(status: u16) -> bool {
    matches!(
        StatusCode::from_u16(status),
        Ok(StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
    )
}

fn read_json<T: DeserializeOwned>(response: Response<Body>, request: &str) -> Result<T, CliError> {
    let answer = |cause: String| CliError::Answer { request: request.to_owned(), cause };
    let text = response
        .into_body()
        .into_with_config()
        .limit(MAX_JSON_BYTES)
        .read_to_string()
        .map_err(|cause| answer(cause.to_string()))?;
    serde_json::from_str(&text).map_err(|cause| answer(cause.to_string()))
}

/// Checks an address and takes the slash off its end. `host:port` alone means `http://host:port`.
pub(crate) fn base_address(relay: &str) -> Result<String, CliError> {
    let trimmed = relay.trim();
    let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let usable = full.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    });
    if usable {
        Ok(full.trim_end_matches('/').to_owned())
    } else {
        Err(CliError::Usage {
            message: format!("{relay:?} is not the address of a relay"),
            hint: "write it like http://127.0.0.1:8787 or https://relay.example.org".into(),
        })
    }
}

/// Whether an address that [`base_address`] let through is this machine's own.
pub(crate) fn is_loopback(relay: &str) -> bool {
    relay.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        uri.host().is_some_and(|host| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        })
    })
}

/// Host and port of an address that [`base_address`] let through. An address of IPv6 keeps its brackets.
pub(crate) fn host_and_port(relay: &str) -> Option<(String, u16)> {
    let uri = relay.parse::<ureq::http::Uri>().ok()?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(usual)))
}

/// The error that a body's reader returns after Ctrl-C.
pub(crate) fn interrupted() -> std::io::Error {
    std::io::Error::other(Interruption)
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interruption;

fn is_interruption(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Interruption>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_known() {
        for own in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8787", "https://127.1.2.3"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["http://192.168.0.1", "http://localhost.example.org", "http://[::2]"] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (relay, host, port) in [
            ("http://127.0.0.1:8787", "127.0.0.1", 8787),
            ("http://a.example/below", "a.example", 80),
            ("https://[2001:db8::1]", "[2001:db8::1]", 443),
        ] {
            assert_eq!(host_and_port(relay), Some((host.to_owned(), port)));
        }
    }

    #[test]
    fn addresses_are_checked() {
        let ok = |text: &str| base_address(text).unwrap();
        assert_eq!(ok("http://a:1/"), "http://a:1");
        assert_eq!(ok("localhost:8787"), "http://localhost:8787");
        assert_eq!(ok("https://a.example/potluck/"), "https://a.example/potluck");
        for bad in ["", "ftp://a", "http://", "http://a?b", "http://a b"] {
            assert!(base_address(bad).is_err(), "{bad}");
        }
    }
}
