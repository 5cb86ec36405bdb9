//! What a node answers: by itself while it leads, else by the node that does, whose answers pass through. While nobody leads
//! requests wait, so that most of those who ask notice nothing of a change.

use crate::api::ApiError;
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
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tower::ServiceExt as _;

/// Says that a node hands a request on, and proves that it is one.
const NODE: HeaderName = HeaderName::from_static("x-potluck-node");
/// Where the request came from.
const CLIENT: HeaderName = HeaderName::from_static("x-potluck-client");
/// Asks whether requests are answered: this one does not wait.
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
/// Bytes of a socket that are on their way, in each direction.
const SOCKET_BYTES: usize = 4 << 10;

/// What a node is at the moment.
#[derive(Debug, Clone)]
enum Role {
    Waiting,
    Following(Arc<str>),
    Leading(Router),
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
}

/// A request that was not answered.
enum Unanswered {
    /// Nothing of it was taken in: it can be made again.
    Whole(Box<Request>),
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
        }
    }

    /// Answers by itself from now on.
    pub(crate) fn lead(&self, router: Router) {
        self.role.send_replace(Role::Leading(router));
    }

    /// Leads no more.
    pub(crate) fn leave(&self) {
        self.role.send_replace(Role::Waiting);
    }

    /// Another node leads, or none. Nothing changes while this one does.
    pub(super) fn follow(&self, leader: Option<&str>) {
        self.role.send_if_modified(|role| {
            let same = match (&*role, leader) {
                (Role::Leading(_), _) | (Role::Waiting, None) => true,
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
        let failed = move || again.map_or(Unanswered::Lost, Unanswered::Whole);
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let Ok(uri) = format!("{leader}{path}").parse::<Uri>() else { return Err(failed()) };
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
            _ = role.wait_for(|role| !role.follows(leader)) => return Err(failed()),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, leader, "the leader did not answer");
                return Err(failed());
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

/// Lets two ends talk until one of them is done.
async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    let (ours, theirs) = match tokio::try_join!(ours, theirs) {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "a socket was not opened"),
    };
    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
    let (most, each) = (SOCKET_BYTES, SOCKET_BYTES);
    // Either end may break off; the other one notices when it is closed.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, most, each).await;
}

fn unavailable() -> Response {
    let what = "no node of this relay leads at the moment";
    let hint = "try again in a second; if it stays so, the operator sees why in the nodes' logs";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", what, hint).retry_after(1).into_response()
}

/// What the node is, for balancers and operators.
async fn about(State(front): State<Arc<Front>>) -> Response {
    let role = front.role.borrow().clone();
    let (role, leader) = match &role {
        Role::Waiting => ("waiting", None),
        Role::Following(leader) => ("following", Some(&**leader)),
        Role::Leading(_) => ("leading", Some(&*front.url)),
    };
    let said = serde_json::json!({
        "node": front.url, "role": role, "leader": leader,
        "passed": front.passed.load(Ordering::Relaxed), "sockets": front.sockets.load(Ordering::Relaxed),
    });
    axum::Json(said).into_response()
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
    let until = Instant::now() + if request.uri().path() == HEALTH { Duration::ZERO } else { HOLD };
    let mut role = front.role.subscribe();
    let mut held = None;
    loop {
        let now = role.borrow_and_update().clone();
        let pause = match now {
            Role::Leading(router) => return router.oneshot(request).await.into_response(),
            // Two nodes that take each other for the leader hand nothing to and fro.
            Role::Following(leader) if handed_on.is_none() => {
                match front.pass(&leader, request, peer.ip()).await {
                    Ok(response) => return response,
                    Err(Unanswered::Lost) => return unavailable(),
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
