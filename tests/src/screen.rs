//! Screens of the pages: each is looked at in two sizes and two color schemes, checked by axe-core, and photographed.

use crate::frame::Frame;
use base64::Engine as _;
use potluck_cli::cdp::Tab;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Name of axe-core in the cache; `cargo xtask test` brings it.
const AXE: &str = "npm/axe-4.11.0.min.js";
/// Sizes of a window, in CSS pixels.
const SIZES: [(&str, u32, u32); 2] = [("desktop", 1280, 800), ("phone", 390, 844)];
const SCHEMES: [&str; 2] = ["light", "dark"];
/// Of the gallery: less is hard to read, more is heavy.
const WEBP_QUALITY: u32 = 45;
/// Longest picture of a whole page, in CSS pixels.
const MAX_HEIGHT: f64 = 2400.0;

/// Counts what the page's policy refused, from the start.
const LISTEN: &str = "window.refused = []; addEventListener('securitypolicyviolation', (event) =>
    window.refused.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`));";

/// Rules of axe-core, all of them that are not experimental; what each finds, a line each.
const CHECK: &str = "(async () => {
    const found = await axe.run(document, { resultTypes: ['violations'] });
    return found.violations.flatMap(({ id, help, nodes }) => nodes.map((node) => `${id} (${help}): ${node.target.join(' ')} ${
        node.any.concat(node.all, node.none).map((one) => one.message).join('; ').slice(0, 200)}`));
})()";

/// How much of the page a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What the window shows.
    Window,
    /// All of it, up to some length.
    Page,
}

/// Looks at screens, and keeps what is wrong.
pub struct Looker {
    axe: String,
    /// What is wrong, a line each.
    pub findings: Vec<String>,
    /// The screens that were looked at.
    pub seen: Vec<String>,
}

/// axe-core's script.
fn axe() -> String {
    let path = crate::train::corpus::cache().expect("a cache").join(AXE);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask setup` brings it", path.display()))
}

/// What axe-core finds in a site's page with the widget in it, and in the widget's frame if there is one.
///
/// # Panics
/// Chromium is gone, or axe-core is not there.
pub async fn check_widget(frame: &Frame<'_>) -> Vec<String> {
    // Through the debugger: policies stay as they are.
    let check = format!("{}; {CHECK}", axe());
    let mut found: Vec<String> = frame.tab.evaluate(&check).await.expect("axe-core runs");
    if frame.evaluate::<bool>("true").await.is_ok() {
        found.extend(frame.evaluate::<Vec<String>>(&check).await.expect("axe-core runs in the frame"));
    }
    found
}

/// `target/screens`, for people to look at.
fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screens");
    std::fs::create_dir_all(&folder).expect("a folder for pictures");
    folder
}

/// The gallery's folder, if one is made.
fn gallery() -> Option<PathBuf> {
    std::env::var_os("POTLUCK_GALLERY").map(PathBuf::from)
}

async fn capture(tab: &Tab, mut asked: Value, format: Value) -> Vec<u8> {
    for (key, value) in format.as_object().into_iter().flatten() {
        asked[key] = value.clone();
    }
    let answer = tab.call("Page.captureScreenshot", asked).await.expect("a picture");
    let data = answer["data"].as_str().expect("its bytes");
    base64::engine::general_purpose::STANDARD.decode(data).expect("base64")
}

fn png() -> Value {
    json!({ "format": "png" })
}

fn webp() -> Value {
    json!({ "format": "webp", "quality": WEBP_QUALITY })
}

/// Keeps a picture of what a tab's window shows now, into `target/screens` and into the gallery if one is made.
///
/// # Panics
/// Chromium is gone, or the picture cannot be written.
pub async fn keep(tab: &Tab, name: &str) {
    std::fs::write(pictures().join(format!("{name}.png")), capture(tab, json!({}), png()).await)
        .expect("a file");
    if let Some(gallery) = gallery() {
        std::fs::write(gallery.join(format!("{name}.webp")), capture(tab, json!({}), webp()).await)
            .expect("a file");
    }
}

impl Looker {
    /// Reads axe-core. Pictures go to `target/screens`, and to the folder that `POTLUCK_GALLERY` names, if it does.
    ///
    /// # Panics
    /// axe-core is not there, or a folder cannot be made.
    pub fn new() -> Self {
        Self { axe: axe(), findings: Vec::new(), seen: Vec::new() }
    }

    /// What a tab needs before its first page.
    ///
    /// # Panics
    /// Chromium is gone.
    pub async fn prepare(tab: &Tab) {
        tab.inject_into_pages(LISTEN).await.expect("a tab");
    }

    /// Looks at what a tab shows now, in each size and scheme.
    ///
    /// # Panics
    /// Chromium is gone.
    pub async fn look(&mut self, tab: &Tab, name: &str, extent: Extent) {
        self.seen.push(name.to_owned());
        let there: bool = tab.evaluate("typeof axe === 'object'").await.expect("a page");
        if !there {
            // Through the debugger: the page's policy stays as it is.
            let _: Value = tab.evaluate(&format!("{}; null", self.axe)).await.expect("axe-core");
        }
        for (size, width, height) in SIZES {
            tab.set_viewport(width, height, 1.0).await.expect("a size");
            for scheme in SCHEMES {
                let media = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")];
                tab.emulate_media(&media).await.expect("a scheme");
                // Two frames: what hears of the change has drawn.
                let settled = "scrollTo(0, 0); new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))";
                let _: Value = tab.evaluate(settled).await.expect("a frame");
                let found: Vec<String> = tab.evaluate(CHECK).await.expect("axe-core runs");
                self.findings.extend(found.into_iter().map(|one| format!("{name}, {size}, {scheme}: {one}")));
                let wide: u32 = tab.evaluate("document.documentElement.scrollWidth").await.expect("a width");
                if wide > width {
                    self.findings.push(format!("{name}, {size}: {wide} px wide in a window of {width}"));
                }
                Self::photograph(tab, name, (size, scheme), (width, height), extent).await;
            }
        }
        let refused: Vec<String> = tab.evaluate("window.refused").await.expect("a list");
        self.findings.extend(refused.into_iter().map(|one| format!("{name}: refused by the policy: {one}")));
        let [(_, width, height), _] = SIZES;
        tab.set_viewport(width, height, 1.0).await.expect("a size");
    }

    async fn photograph(
        tab: &Tab,
        name: &str,
        (size, scheme): (&str, &str),
        (width, height): (u32, u32),
        extent: Extent,
    ) {
        let whole: f64 = tab.evaluate("document.documentElement.scrollHeight").await.expect("a height");
        let tall = match extent {
            Extent::Window => f64::from(height),
            Extent::Page => whole.clamp(f64::from(height), MAX_HEIGHT),
        };
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": tall, "scale": 1 });
        let asked = json!({ "clip": clip, "captureBeyondViewport": tall > f64::from(height) });
        let path = pictures().join(format!("{name}-{size}-{scheme}.png"));
        std::fs::write(path, capture(tab, asked.clone(), png()).await).expect("a file");
        // The gallery has one scheme of each size.
        let shown = SIZES.iter().zip(SCHEMES).any(|((known, ..), with)| (*known, with) == (size, scheme));
        if let Some(gallery) = gallery().filter(|_| shown) {
            std::fs::write(gallery.join(format!("{name}-{size}.webp")), capture(tab, asked, webp()).await)
                .expect("a file");
        }
    }
}

impl Default for Looker {
    fn default() -> Self {
        Self::new()
    }
}
