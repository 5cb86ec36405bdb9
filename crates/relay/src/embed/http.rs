//! What other sites load: the loader, and the frame with what it is made of. Everything else of the site stays on its own
//! pages.

use super::{FRAME, LOADER, is_version};
use crate::api::{ApiError, Embedded};
use crate::http::{App, Shared, bad};
use crate::log::limits;
use crate::site;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use potluck_schedule::is_origin;
use std::sync::Arc;

/// The loader at its evergreen address: who runs the relay can correct it within minutes.
const MINUTES: &str = "public, max-age=300";
/// What never changes may be kept for a year.
const FOREVER: &str = "public, max-age=31536000, immutable";

pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/embedders/{origin}", get(get_embedder))
        .route_layer(from_fn_with_state(Arc::clone(app), limits::reads))
        .route("/embed.js", get(loader))
        .route("/embed/{version}/embed.js", get(kept_loader))
        .route("/widget.html", get(frame))
        // A frame in a sandbox has no origin of its own: it gets these too, to say why nothing starts there.
        .route("/widget.css", get(part))
        .route("/widget.js", get(part))
        .route("/widget-guard.js", get(part))
        .route("/embed.html", get(generator))
}

/// Headers of what any site may load.
fn open(mut headers: HeaderMap) -> HeaderMap {
    for (name, value) in [
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

async fn loader(headers: HeaderMap) -> Response {
    let mut out = open(site::secure(HeaderMap::new()));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(MINUTES));
    site::answer(LOADER, out, &headers)
}

/// A loader at the address of its version, whichever the relay serves now.
async fn kept_loader(State(app): Shared, Path(version): Path<String>, headers: HeaderMap) -> Response {
    let mut out = open(site::secure(HeaderMap::new()));
    if app.embed.loader.as_ref().is_some_and(|loader| loader.version == version) {
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
        return site::answer(LOADER, out, &headers);
    }
    let kept = if is_version(&version) {
        let path = app.embed.path_of(&version);
        match tokio::fs::read(&path).await {
            // Without it there, or a bucket that is away, there is none to read.
            Err(_) if app.blobs.fetch(&app.config.data, &path).await.is_ok_and(|found| found) => {
                tokio::fs::read(path).await.ok()
            }
            read => read.ok(),
        }
    } else {
        None
    };
    let Some(content) = kept else {
        let message = "this relay never served that version of embed.js: /.well-known/potluck.json names the one of now\n";
        return (StatusCode::NOT_FOUND, out, message).into_response();
    };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    (out, content).into_response()
}

/// The frame. A site that may not show it gets none, where the browser says which site it is; where it does not, the
/// relay refuses the consent.
async fn frame(State(app): Shared, headers: HeaderMap) -> Response {
    let embed = &app.embed;
    let mut out = open(site::secure(HeaderMap::new()));
    // A page that reads what it loads gets nothing: the frame is for frames.
    out.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    out.insert(header::CONTENT_SECURITY_POLICY, embed.frame_policy.clone());
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("referer"));
    let Some(page) = &embed.frame else { return site::answer(FRAME, out, &headers) };
    let denied = referring_site(&headers).is_some_and(|site| embed.rules.deny.contains(&site));
    if denied || !embed.rules.enabled {
        let message = "The operator of this relay does not let this site show the widget.\n";
        return (StatusCode::FORBIDDEN, out, message).into_response();
    }
    out.insert(header::ETAG, embed.frame_etag.clone());
    if headers.get(header::IF_NONE_MATCH) == Some(&embed.frame_etag) {
        return (StatusCode::NOT_MODIFIED, out).into_response();
    }
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    (out, page.clone()).into_response()
}

/// The site that asks, where the browser says it.
fn referring_site(headers: &HeaderMap) -> Option<String> {
    let referrer: Uri = headers.get(header::REFERER)?.to_str().ok()?.parse().ok()?;
    Some(format!("{}://{}", referrer.scheme_str()?, referrer.authority()?))
}

/// How many verified results tabs gave that were lent on a site. Scripts of all sites may read it.
#[utoipa::path(get, path = "/api/v1/embedders/{origin}", params(("origin" = String, Path)),
    responses((status = 200, body = Embedded), (status = 400, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn get_embedder(
    State(app): Shared,
    Path(origin): Path<String>,
) -> Result<Response, ApiError> {
    if !is_origin(&origin) {
        let hint =
            "write it as browsers do, such as https://school.example, and encode it as one part of a path";
        return Err(bad("that is no origin of a site".into(), hint));
    }
    let accepted = app.db.embedded(&origin).await?;
    Ok((open(HeaderMap::new()), Json(Embedded { origin, accepted })).into_response())
}

async fn part(uri: Uri, headers: HeaderMap) -> Response {
    site::answer(uri.path().trim_start_matches('/'), open(site::secure(HeaderMap::new())), &headers)
}

/// The page that makes snippets shows the frame itself.
async fn generator(uri: Uri, headers: HeaderMap) -> Response {
    let mut out = site::secure(HeaderMap::new());
    let policy = site::policy(&[("frame-src", Some("'self'"))]);
    if let Ok(policy) = HeaderValue::try_from(policy) {
        out.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    site::answer(uri.path().trim_start_matches('/'), out, &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referring_site_is_an_origin() {
        let site = |referrer: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::REFERER, HeaderValue::try_from(referrer).unwrap());
            referring_site(&headers)
        };
        assert_eq!(site("https://a.example/"), Some("https://a.example".to_owned()));
        assert_eq!(site("http://a.example:8000/page?q"), Some("http://a.example:8000".to_owned()));
        assert_eq!(site("/page"), None);
        assert_eq!(site("about:blank"), None);
        assert_eq!(referring_site(&HeaderMap::new()), None);
    }
}
