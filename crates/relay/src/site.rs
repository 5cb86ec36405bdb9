//! The site, embedded in the binary by `build.rs`, with what browsers need to be safe.

use crate::http::Shared;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// A file of the site.
pub(crate) struct File {
    path: &'static str,
    mime: &'static str,
    etag: &'static str,
    pub(crate) plain: &'static [u8],
    /// Compressed by brotli, where that is smaller.
    brotli: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/site.rs"));

/// Scripts come from here only; wasm may be compiled; sockets go to this relay only. No frame may hold the
/// page: clicks on consent cannot be stolen. No text becomes a script or markup: the one policy of Trusted Types lets
/// `workers.js` name the scripts of Workers, and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
     worker-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types potluck-worker";

/// Serves a file of the site. Its pages may also ask the mirrors that people agreed on: a tab goes there when this relay is gone.
pub(crate) async fn serve(State(app): Shared, uri: Uri, headers: HeaderMap) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path if is_invitation(path) => "index.html",
        path => path,
    };
    let mut out = secure(HeaderMap::new());
    let mirrors = app.log.mirror_addresses();
    if !mirrors.is_empty() {
        let policy = policy(&[("connect-src", Some(&format!("'self' {mirrors}")))]);
        // Addresses in the log are a scheme, a host and a port.
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            out.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
    }
    answer(path, out, &headers)
}

/// What is public and the same for everybody: pages of other relays may read it, when theirs is gone.
pub(crate) async fn shared(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let name = header::HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(name, HeaderValue::from_static("cross-origin"));
    answer
}

/// A file by its path.
pub(crate) fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// Answers a request with a file and such headers. What they do not say of caches is that files are asked for each time.
pub(crate) fn answer(path: &str, mut out: HeaderMap, headers: &HeaderMap) -> Response {
    let Some(file) = find(path) else {
        let hint = "pages: /  API: /api/openapi.json\n";
        return (StatusCode::NOT_FOUND, out, format!("there is no {path}\n{hint}")).into_response();
    };
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.mime));
    out.insert(header::ETAG, HeaderValue::from_static(file.etag));
    out.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let header_of =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or("");
    if header_of(header::IF_NONE_MATCH) == file.etag {
        return (StatusCode::NOT_MODIFIED, out).into_response();
    }
    let accepts = header_of(header::ACCEPT_ENCODING).split(',').any(|coding| coding.trim() == "br");
    match file.brotli.filter(|_| accepts) {
        Some(bytes) => {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
            (out, bytes).into_response()
        }
        None => (out, file.plain).into_response(),
    }
}

/// `join/ID`: the donate page, which shows that project first.
fn is_invitation(path: &str) -> bool {
    path.strip_prefix("join/").is_some_and(|id| id.parse::<potluck_types::JobId>().is_ok())
}

/// The policy of every page, with some directives in place of its own, or without them.
pub(crate) fn policy(other: &[(&str, Option<&str>)]) -> String {
    let own = CONTENT_SECURITY_POLICY.split(';').map(str::trim).map(str::to_owned);
    let kept = own.filter(|own| !other.iter().any(|(name, _)| own.split(' ').next() == Some(*name)));
    let new = other.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")));
    kept.chain(new).collect::<Vec<_>>().join("; ")
}

pub(crate) fn secure(mut headers: HeaderMap) -> HeaderMap {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}
