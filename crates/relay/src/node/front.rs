//! What a node answers: by itself while it leads, else by the node that does, whose answers pass through. While nobody leads
//! requests wait, so that most of those who ask notice nothing of a change.

use crate::api::ApiError;
use crate::db::Db;
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tower::ServiceExt as _;

/// Says that a node hands a request on, and proves that it is one.
const NODE: HeaderName = HeaderName::from_static("x-potluck-node");
/// Where the request came from.
const CLIENT: HeaderName = HeaderName::from_static("x-potluck-client");
/// Asks whether requests are answered: this one does not wait long.
const HEALTH: &str = "/healthz";
/// A request waits for a leader for so long.
const HOLD: Duration = Duration::from_secs(20);
/// Requests that wait at once; what they send waits with those who sent it.
const MAX_HELD: usize = 4096;
/// Until a leader that cannot be reached is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Until a connection to the leader stands.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection to the leader that nothing needs is kept for so long.
const IDLE: Duration = Duration::from_secs(30);
/// A leader whose lock was not confirmed for so long answers nothing by itself: before another one can take it (`role.rs`).
const CONFIRMED: Duration = Duration::from_secs(10);
/// One end of a socket may say so long what it has to say after the other closed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time between two looks at whether all is answered.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// Bytes of a socket that are on their way, in each direction.
const SOCKET_BYTES: usize = 4 << 10;

/// What a node is at the moment.
#[derive(Debug, Clone)]
enum Role {
    Waiting,
    Following(Arc<str>),
    Leading(Router, Db),
}

impl Role {
    fn follows(&self, leader: &str) -> bool {
        matches!(self, Self::Following(url) if **url == *leader)
    }
}

/// A node's face.
#[derive(Debug)]
pub(crate) struct Front {
    role: watch::Sender<Role>,
    held: Semaphore,
    client: Client<HttpConnector, Body>,
    /// By which nodes of the relay know each other.
    token: blake3::Hash,
    /// Where others reach this node.
    pub(super) url: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    passed: AtomicU64,
    sockets: AtomicU64,
    /// Requests that are answered by itself at the moment.
    inside: AtomicU64,
}

/// A request that was not answered.
enum Unanswered {
    /// It can be made again: the leader was not reached, or it changes nothing.
    Whole(Box<Request>),
    /// The leader was not reached, and what was to be sent there is used up.
    Unsent,
    /// Nobody knows what became of it.
    Lost,
}

impl Front {
    pub(super) fn new(token: blake3::Hash, url: String, address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self {
            role: watch::Sender::new(Role::Waiting),
            held: Semaphore::new(MAX_HELD),
            client,
            token,
            url,
            address,
            passed: AtomicU64::new(0),
            sockets: AtomicU64::new(0),
            inside: AtomicU64::new(0),
        }
    }

    /// Answers by itself from now on, for as long as the right to write to these records is confirmed.
    pub(crate) fn lead(&self, router: Router, db: Db) {
        self.role.send_replace(Role::Leading(router, db));
    }

    /// Whether it answers by itself, if it may.
    pub(super) fn leads(&self) -> bool {
        matches!(*self.role.borrow(), Role::Leading(..))
    }

    /// Waits until nothing is answered by itself any more.
    pub(crate) async fn answered(&self) {
        while self.inside.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Leads no more.
    pub(crate) fn leave(&self) {
        self.role.send_replace(Role::Waiting);
    }

    /// Another node leads, or none. Nothing changes while this one does.
    pub(super) fn follow(&self, leader: Option<&str>) {
        self.role.send_if_modified(|role| {
            let same = match (&*role, leader) {
                (Role::Leading(..), _) | (Role::Waiting, None) => true,
                (role, Some(leader)) => role.follows(leader),
                (Role::Following(_), None) => false,
            };
            if !same {
                *role = leader.map_or(Role::Waiting, |leader| Role::Following(leader.into()));
            }
            !same
        });
    }

    /// All that a node answers.
    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new().route("/node", get(about)).fallback(answer).with_state(self)
    }

    /// Takes what a node said about a request: who asked, if it was one.
    fn handed_on(&self, headers: &mut HeaderMap) -> Option<IpAddr> {
        let (node, client) = (headers.remove(NODE), headers.remove(CLIENT));
        let said = blake3::Hash::from_hex(node?.as_bytes()).ok()?;
        // Compared in constant time.
        (said == self.token).then(|| client?.to_str().ok()?.parse().ok())?
    }

    /// Hands a request to the leader.
    async fn pass(
        self: &Arc<Self>,
        leader: &str,
        mut request: Request,
        peer: IpAddr,
    ) -> Result<Response, Unanswered> {
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let ours = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let again = body.is_end_stream().then(|| {
            let mut again = Request::from_parts(parts.clone(), Body::empty());
            if let Some(ours) = &ours {
                again.extensions_mut().insert(ours.clone());
            }
            Box::new(again)
        });
        let harmless = parts.method.is_safe();
        let failed = move |sent: bool| match again {
            Some(again) if harmless || !sent => Unanswered::Whole(again),
            None if !sent => Unanswered::Unsent,
            _ => Unanswered::Lost,
        };
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let Ok(uri) = format!("{leader}{path}").parse::<Uri>() else { return Err(failed(false)) };
        (parts.uri, parts.version) = (uri, Version::HTTP_11);
        if !upgrade {
            parts.headers.remove(header::CONNECTION);
        }
        // Hexadecimal digits and addresses are values of headers.
        if let (Ok(token), Ok(peer)) =
            (HeaderValue::from_str(&self.token.to_hex()), HeaderValue::from_str(&peer.to_string()))
        {
            parts.headers.insert(NODE, token);
            parts.headers.insert(CLIENT, peer);
        }
        let mut role = self.role.subscribe();
        let asked = self.client.request(Request::from_parts(parts, body));
        let answered = tokio::select! {
            answered = asked => answered,
            _ = role.wait_for(|role| !role.follows(leader)) => return Err(failed(true)),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, leader, "the leader did not answer");
                return Err(failed(!error.is_connect()));
            }
        };
        self.passed.fetch_add(1, Ordering::Relaxed);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(ours) = ours
        {
            let theirs = hyper::upgrade::on(&mut response);
            let (front, leader) = (Arc::clone(self), leader.to_owned());
            tokio::spawn(async move {
                front.sockets.fetch_add(1, Ordering::Relaxed);
                // Another leader knows nothing of what is said here.
                tokio::select! {
                    () = join(ours, theirs) => {}
                    _ = role.wait_for(|role| !role.follows(&leader)) => {}
                }
                front.sockets.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            response.headers_mut().remove(header::CONNECTION);
        }
        Ok(response.map(Body::new).into_response())
    }
}

/// Lets two ends talk until one of them is done, and a moment longer, for what was said last.
async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    let (ours, theirs) = match tokio::try_join!(ours, theirs) {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "a socket was not opened"),
    };
    talk(tokio::io::split(TokioIo::new(ours)), tokio::io::split(TokioIo::new(theirs))).await;
}

/// Passes on what each of two says.
async fn talk(
    (from_us, to_us): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (from_them, to_them): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) {
    let (there, back) = (copy(from_us, to_them), copy(from_them, to_us));
    tokio::pin!(there, back);
    // Whoever does not close its own end must not keep the socket.
    tokio::select! {
        () = &mut there => drop(tokio::time::timeout(LAST_WORDS, back).await),
        () = &mut back => drop(tokio::time::timeout(LAST_WORDS, there).await),
    }
}

/// Passes bytes on, one way. However it ends, the other end is told.
async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(SOCKET_BYTES, from);
    let _ = tokio::io::copy_buf(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

fn unavailable() -> Response {
    let what = "no node of this relay leads at the moment";
    let hint = "try again in a second; if it stays so, the operator sees why in the nodes' logs";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", what, hint).retry_after(1).into_response()
}

fn lost() -> Response {
    let what = "the node that led did not answer: nobody knows whether it did what was asked";
    let hint = "look whether it was done before you ask again; with an idempotency key asking again is safe";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_answered", what, hint).retry_after(1).into_response()
}

/// What the node is, for balancers and operators.
async fn about(State(front): State<Arc<Front>>) -> Response {
    let role = front.role.borrow().clone();
    let (role, leader) = match &role {
        Role::Waiting => ("waiting", None),
        Role::Following(leader) => ("following", Some(&**leader)),
        Role::Leading(_, db) if !db.is_confirmed(CONFIRMED) => ("waiting", None),
        Role::Leading(..) => ("leading", Some(&*front.url)),
    };
    let said = serde_json::json!({
        "node": front.url, "role": role, "leader": leader,
        "passed": front.passed.load(Ordering::Relaxed), "sockets": front.sockets.load(Ordering::Relaxed),
    });
    axum::Json(said).into_response()
}

/// Counts one less when it is dropped, also of whoever left before the answer.
struct Inside<'a>(&'a AtomicU64);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    State(front): State<Arc<Front>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    let handed_on = front.handed_on(request.headers_mut());
    if let Some(client) = handed_on {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(client, 0)));
    }
    let patience = if request.uri().path() == HEALTH { CONNECT } else { HOLD };
    let until = Instant::now() + patience;
    let mut role = front.role.subscribe();
    let mut held = None;
    loop {
        let now = role.borrow_and_update().clone();
        let pause = match now {
            Role::Leading(router, db) if db.is_confirmed(CONFIRMED) => {
                front.inside.fetch_add(1, Ordering::Relaxed);
                let _inside = Inside(&front.inside);
                return router.oneshot(request).await.into_response();
            }
            // Another node may lead by now.
            Role::Leading(..) => AGAIN,
            // Two nodes that take each other for the leader hand nothing to and fro.
            Role::Following(leader) if handed_on.is_none() => {
                let passed = front.pass(&leader, request, peer.ip());
                // Transfers take as long as they take; who asks whether all is well wants to know now.
                let passed = if patience < HOLD {
                    tokio::time::timeout(patience, passed).await.unwrap_or(Err(Unanswered::Unsent))
                } else {
                    passed.await
                };
                match passed {
                    Ok(response) => return response,
                    Err(Unanswered::Lost) => return lost(),
                    Err(Unanswered::Unsent) => return unavailable(),
                    Err(Unanswered::Whole(again)) => request = *again,
                }
                AGAIN
            }
            Role::Following(_) | Role::Waiting => HOLD,
        };
        if held.is_none() {
            let Ok(slot) = front.held.try_acquire() else { return unavailable() };
            held = Some(slot);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return unavailable();
        }
        // The sender is the front's own.
        let _ = tokio::time::timeout(pause.min(left), role.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front() -> Front {
        Front::new(blake3::hash(b"token"), "http://127.0.0.1:1".to_owned(), ([127, 0, 0, 1], 1).into())
    }

    fn headers(node: &str, client: &str) -> HeaderMap {
        let values = [(NODE, node), (CLIENT, client)];
        values.into_iter().map(|(name, value)| (name, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn only_a_node_says_who_asked_and_nobody_passes_it_on() {
        let token = blake3::hash(b"token").to_hex();
        let other = blake3::hash(b"guessed").to_hex();
        for (node, client, expected) in [
            (token.as_str(), "192.0.2.7", Some("192.0.2.7")),
            (token.as_str(), "2001:db8::1", Some("2001:db8::1")),
            (token.as_str(), "a host", None),
            (other.as_str(), "192.0.2.7", None),
            ("", "192.0.2.7", None),
        ] {
            let mut headers = headers(node, client);
            assert_eq!(front().handed_on(&mut headers), expected.map(|text| text.parse().unwrap()), "{node}");
            assert!(headers.is_empty(), "neither goes further");
        }
    }

    #[test]
    fn a_node_follows_whoever_leads_and_nobody_while_it_leads_itself() {
        let front = front();
        front.follow(Some("http://one:1"));
        assert!(front.role.borrow().follows("http://one:1"));
        front.follow(Some("http://two:1"));
        assert!(front.role.borrow().follows("http://two:1") && !front.role.borrow().follows("http://one:1"));
        front.follow(None);
        assert!(matches!(*front.role.borrow(), Role::Waiting));
    }

    /// Both ends of a pipe in memory, one of which is a socket of the other side.
    #[tokio::test]
    async fn an_end_that_is_never_closed_is_given_up_when_the_other_one_is() {
        let (near, mut client) = tokio::io::duplex(64);
        let (far, mut leader) = tokio::io::duplex(64);
        let (from_us, to_us) = tokio::io::split(near);
        let (from_them, to_them) = tokio::io::split(far);
        let begun = Instant::now();
        let ended = talk((from_us, to_us), (from_them, to_them));
        let says = async {
            leader.write_all(b"the end").await.unwrap();
            leader.shutdown().await.unwrap();
            let mut heard = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut client, &mut heard).await.unwrap();
            assert_eq!(heard, b"the end");
            // The client says nothing, and does not close its own end.
            client
        };
        let (client, ()) = tokio::join!(says, ended);
        assert!(begun.elapsed() >= LAST_WORDS);
        drop(client);
    }
}
