//! Names of the protocol's enums in the database and in the API: stable, whatever the code calls them.

use potluck_proto::{Backend, LinkPath};

/// The name of a backend.
pub(crate) const fn backend(backend: Backend) -> &'static str {
    match backend {
        Backend::WebGpu => "webgpu",
        Backend::WasmSimd => "wasm",
        Backend::NativeGpu => "gpu",
        Backend::NativeCpu => "cpu",
    }
}

/// The backend of that name.
pub(crate) fn parse_backend(name: &str) -> Option<Backend> {
    let all = [Backend::WebGpu, Backend::WasmSimd, Backend::NativeGpu, Backend::NativeCpu];
    all.into_iter().find(|candidate| backend(*candidate) == name)
}

/// The name of a path.
pub(crate) const fn path(path: LinkPath) -> &'static str {
    match path {
        LinkPath::Direct => "direct",
        LinkPath::Turn => "turn",
    }
}
