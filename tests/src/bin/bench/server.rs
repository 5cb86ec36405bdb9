//! A file server on loopback for the benchmark page, the peers' packages and our engine.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Which folder answers for which prefix of a path.
#[derive(Debug)]
pub(crate) struct Folders {
    /// `/`: the page, `tests/bench`.
    pub(crate) page: PathBuf,
    /// `/npm/`: `node_modules`.
    pub(crate) npm: PathBuf,
    /// `/engine/`: our kernels as wasm, with the glue of wasm-bindgen.
    pub(crate) engine: PathBuf,
    /// `/burn/`: the same of the model written with burn, where a page wants it.
    pub(crate) burn: Option<PathBuf>,
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves on a free port of loopback.
///
/// Without the headers of cross-origin isolation, so that no contender can use threads.
pub(crate) async fn start(folders: Folders) -> Result<Server> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port on loopback")?;
    let address = listener.local_addr()?;
    let app = Router::new().fallback(file).with_state(Arc::new(folders));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            eprintln!("the page's server stopped: {error}");
        }
    });
    Ok(Server { address, task })
}

async fn file(State(folders): State<Arc<Folders>>, uri: Uri) -> Response {
    let Some(path) = locate(&folders, uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match tokio::fs::read(&path).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, media_type(&path))], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn locate(folders: &Folders, path: &str) -> Option<PathBuf> {
    let (folder, rest) = if let Some(rest) = path.strip_prefix("/npm/") {
        (&folders.npm, rest)
    } else if let Some(rest) = path.strip_prefix("/engine/") {
        (&folders.engine, rest)
    } else if let Some(rest) = path.strip_prefix("/burn/") {
        (folders.burn.as_ref()?, rest)
    } else {
        (&folders.page, path.strip_prefix('/')?)
    };
    let rest = Path::new(if rest.is_empty() { "index.html" } else { rest });
    // Nothing outside the folders.
    rest.components().all(|part| matches!(part, Component::Normal(_))).then(|| folder.join(rest))
}

fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript",
        Some("wasm") => "application/wasm",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_folders_are_served() {
        let folders = Folders { page: "p".into(), npm: "n".into(), engine: "e".into(), burn: None };
        let at = |path| locate(&folders, path);
        assert_eq!(at("/"), Some("p/index.html".into()));
        assert_eq!(at("/npm/x/y.js"), Some("n/x/y.js".into()));
        assert_eq!(at("/engine/e.wasm"), Some("e/e.wasm".into()));
        assert_eq!(at("/burn/b.wasm"), None);
        assert_eq!(at("/../secret"), None);
        assert_eq!(at("/npm//etc/passwd"), None);
    }
}
