//! A site of somebody else's: pages with headers of their own, at an origin that is not the relay's.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A page: headers beside its type, and its text.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Name and value of each header.
    pub headers: Vec<(&'static str, String)>,
    /// The text, HTML unless a header says otherwise.
    pub body: String,
}

/// What lies at a path.
#[derive(Debug, Clone)]
enum Served {
    Page(Page),
    /// Its type, and its bytes.
    File(&'static str, Vec<u8>),
}

type Pages = Arc<Mutex<HashMap<String, Served>>>;

/// A site that serves until it is dropped.
pub struct HostSite {
    /// Its origin, with a name that is another site's than the relay's.
    pub origin: String,
    /// The same site by its address: another origin, of the relay's site.
    pub near: String,
    pages: Pages,
    server: JoinHandle<()>,
}

impl HostSite {
    /// Starts a site without pages on a free port of this machine. Needs a runtime.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let pages = Pages::default();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&pages));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let [origin, near] = ["localhost", "127.0.0.1"].map(|host| format!("http://{host}:{port}"));
        Self { origin, near, pages, server }
    }

    /// Puts a page at a path.
    pub fn put(&self, path: &str, page: Page) {
        self.serve(path, Served::Page(page));
    }

    /// Puts a folder's files below a path, as they are now.
    ///
    /// # Panics
    /// They cannot be read.
    pub fn put_folder(&self, path: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (file, below) = (entry.path(), format!("{path}/{}", entry.file_name().to_string_lossy()));
            if file.is_dir() {
                self.put_folder(&below, &file);
                continue;
            }
            let kind = match file.extension().and_then(|end| end.to_str()) {
                Some("js" | "mjs") => "text/javascript; charset=utf-8",
                Some("wasm") => "application/wasm",
                _ => "application/octet-stream",
            };
            self.serve(&below, Served::File(kind, std::fs::read(&file).expect("a file")));
        }
    }

    fn serve(&self, path: &str, what: Served) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), what);
    }
}

impl Drop for HostSite {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(State(pages): State<Pages>, uri: Uri) -> Response {
    let found = pages.lock().unwrap_or_else(PoisonError::into_inner).get(uri.path()).cloned();
    let page = match found {
        Some(Served::Page(page)) => page,
        Some(Served::File(kind, bytes)) => return ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        None => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "text/html; charset=utf-8".parse().expect("a type"));
    for (name, value) in page.headers {
        headers.insert(name, value.parse().expect("a header"));
    }
    (headers, Body::from(page.body)).into_response()
}
