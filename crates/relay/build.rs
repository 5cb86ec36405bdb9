//! Embeds the built site (`dist/` at the repository's root) into the relay, compressed.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What is served where the site was not built. Plain, and it says what to do.
const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Potluck</title>\
<h1>Potluck relay</h1><p>This relay was built without its page. Run <code>cargo xtask site</code> and build again.</p></html>\n";

/// Brotli at its best takes seconds for the wasm; 9 is within a few percent and fast enough for every build.
const QUALITY: i32 = 9;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let dist = root.join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut files = Vec::new();
    if dist.is_dir() {
        walk(&dist, &dist, &mut files);
    }
    files.sort();
    if !files.iter().any(|(name, _)| name == "index.html") {
        let page = out.join("not-built.html");
        fs::write(&page, NOT_BUILT).expect("OUT_DIR is writable");
        files = vec![("index.html".to_owned(), page)];
    }
    let mut source = String::from("/// All files of the site.\nstatic FILES: &[File] = &[\n");
    for (index, (name, path)) in files.iter().enumerate() {
        let plain = fs::read(path).expect("a file of the site is readable");
        // A copy: the next build of the site may take the file away while this one is compiled.
        let copy = out.join(format!("{index}.bin"));
        fs::write(&copy, &plain).expect("OUT_DIR is writable");
        let copy = copy.display().to_string();
        let compressed = compress(&plain);
        let brotli = if compressed.len() < plain.len() {
            let target = out.join(format!("{index}.br"));
            fs::write(&target, compressed).expect("OUT_DIR is writable");
            format!("Some(include_bytes!({:?}))", target.display().to_string())
        } else {
            "None".to_owned()
        };
        let (mime, etag) = (mime(name), etag(&plain));
        let _ = writeln!(
            source,
            "    File {{ path: {name:?}, mime: {mime:?}, etag: {etag:?}, plain: include_bytes!({copy:?}), brotli: {brotli} }},"
        );
    }
    source.push_str("];\n");
    fs::write(out.join("site.rs"), source).expect("OUT_DIR is writable");
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).expect("dist is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, files);
        } else if let Ok(name) = path.strip_prefix(root) {
            let name = name.to_string_lossy().replace('\\', "/");
            files.push((name, path.canonicalize().expect("it exists")));
        }
    }
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { quality: QUALITY, lgwin: 22, ..Default::default() };
    brotli::BrotliCompress(&mut &bytes[..], &mut out, &parameters)
        .expect("memory does not fail to be written");
    out
}

/// FNV-1a: tells versions of a file apart, no more.
fn etag(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
}

fn mime(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json" | "map") => "application/json",
        Some("txt" | "po") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
