//! The widget on other sites: its loader, the frame that the loader shows, and who may show it.
//!
//! Browsers keep the frame away from sites that may not by its headers; consent that names such a site is refused by the
//! machine (`potluck_schedule::Embeds`). Every loader that this relay ever served stays at its own address, so that sites may
//! name one by its hash.

mod config;
pub(crate) mod http;
pub(crate) mod store;

pub use config::{EmbedConfig, EmbedMistake, MaxPreset};

use crate::api::EmbedInfo;
use crate::config::Config;
use crate::site;
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use potluck_schedule::{Embeds, Kernel};
use ring::digest::{SHA256, SHA384, digest};
use std::io;
use std::path::{Path, PathBuf};

/// Digits of a loader's version: 64 bits of a hash.
const VERSION_DIGITS: usize = 16;

/// The loader's file in the site.
const LOADER: &str = "embed.js";
/// The frame's page in the site.
const FRAME: &str = "widget.html";

/// A loader as sites name it.
#[derive(Debug, Clone)]
struct Loader {
    /// Of its content.
    version: String,
    /// For the attribute `integrity`.
    integrity: String,
}

/// What is served to other sites. Without a built site there is nothing.
#[derive(Debug)]
pub(crate) struct Embed {
    pub(crate) rules: Embeds,
    /// Where to complain about a site.
    pub(crate) abuse: String,
    max_preset: MaxPreset,
    loader: Option<Loader>,
    /// The frame's page, with who runs the relay in it.
    frame: Option<Vec<u8>>,
    frame_etag: HeaderValue,
    frame_policy: HeaderValue,
    /// Loaders of this relay, now and before.
    kept: PathBuf,
}

impl Embed {
    /// Keeps the loader under its version, and prepares the frame.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn prepare(config: &Config) -> io::Result<Self> {
        let kept = config.data.join("embeds");
        let loader = match site::find(LOADER) {
            Some(file) => Some(keep(&kept, file.plain)?),
            None => None,
        };
        let frame = site::find(FRAME).map(|file| fill(file.plain, config));
        let etag = format!("\"{}\"", version(frame.as_deref().unwrap_or_default()));
        let rules = config.embeds.rules();
        Ok(Self {
            abuse: config.embeds.abuse.clone().unwrap_or_else(|| config.contact.clone()),
            loader,
            frame,
            frame_etag: HeaderValue::try_from(etag).map_err(io::Error::other)?,
            frame_policy: HeaderValue::try_from(policy(&rules)).map_err(io::Error::other)?,
            max_preset: config.embeds.max_preset,
            rules,
            kept,
        })
    }

    /// Where the loader lies that the relay serves now, if it has one.
    pub(crate) fn kept_loader(&self) -> Option<PathBuf> {
        self.loader.as_ref().map(|loader| self.path_of(&loader.version))
    }

    /// Where a loader of this version lies, if the relay ever served it.
    pub(crate) fn path_of(&self, version: &str) -> PathBuf {
        self.kept.join(format!("{version}.js"))
    }

    /// What it is, for `/.well-known/potluck.json`.
    pub(crate) fn info(&self) -> EmbedInfo {
        let loader = self.loader.as_ref();
        EmbedInfo {
            enabled: self.rules.enabled,
            allow: self.rules.allow.iter().cloned().collect(),
            max_preset: self.max_preset.name().to_owned(),
            script: loader.map(|_| format!("/{LOADER}")),
            versioned: loader.map(|loader| format!("/embed/{}/{LOADER}", loader.version)),
            integrity: loader.map(|loader| loader.integrity.clone()),
        }
    }
}

/// The name of a content.
fn version(content: &[u8]) -> String {
    let hash = digest(&SHA256, content);
    let mut name = hash.as_ref().iter().fold(String::new(), |name, byte| name + &format!("{byte:02x}"));
    name.truncate(VERSION_DIGITS);
    name
}

/// Whether a text can be a loader's version: no other name of a file is looked for.
fn is_version(text: &str) -> bool {
    text.len() == VERSION_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Keeps a loader for as long as the relay's data are there.
fn keep(folder: &Path, content: &[u8]) -> io::Result<Loader> {
    let version = version(content);
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{version}.js"));
    if std::fs::read(&path).ok().as_deref() != Some(content) {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, content)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
    }
    let integrity = format!("sha384-{}", STANDARD.encode(digest(&SHA384, content)));
    Ok(Loader { version, integrity })
}

/// The frame's page, with what the relay says about itself: consent in the frame needs no request for that.
fn fill(page: &[u8], config: &Config) -> Vec<u8> {
    let contact = match config.contact.as_str() {
        "" => String::new(),
        contact => format!(" (contact: {contact})"),
    };
    let preset = config.embeds.max_preset.name();
    let mut page = String::from_utf8_lossy(page).into_owned();
    for (name, value) in [
        ("{{operator}}", config.operator.as_str()),
        ("{{contact}}", &contact),
        ("{{kernels}}", &list(&Kernel::ALL.map(Kernel::name))),
        ("{{max_preset}}", preset),
    ] {
        page = page.replace(name, &escape(value));
    }
    page.into_bytes()
}

/// "a, b and c"
fn list(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        few => few.concat(),
    }
}

/// A text that is no markup. Braces too: what an operator is called names no other place of the page.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '{' => out.push_str("&#123;"),
            other => out.push(other),
        }
    }
    out
}

/// The frame's policy: as of every page, but for who may frame it. Where all may, nothing is said: pages without an origin of
/// their own then show the frame, which says why nothing starts there.
fn policy(rules: &Embeds) -> String {
    let ancestors = if !rules.enabled {
        Some("'none'".to_owned())
    } else if rules.allow.is_empty() {
        None
    } else {
        let sites: Vec<_> = rules.allow.difference(&rules.deny).map(String::as_str).collect();
        Some(format!("'self' {}", sites.join(" ")))
    };
    site::policy(&[("frame-ancestors", ancestors.as_deref())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loader_stays_at_its_own_address() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (keep(folder.path(), b"one").unwrap(), keep(folder.path(), b"two").unwrap());
        assert!(is_version(&old.version) && old.version != new.version);
        assert_eq!(keep(folder.path(), b"one").unwrap().version, old.version);
        for (loader, content) in [(&old, b"one"), (&new, b"two")] {
            let path = folder.path().join(format!("{}.js", loader.version));
            assert_eq!(std::fs::read(path).unwrap(), content);
        }
        // As `openssl dgst -sha384 -binary | base64` says.
        let known = "sha384-Xby+2wDRMaKeBZP5dvK0N5QpOSORmtQnZt6Bf+yCSmJieZ/sjQTLmxfEjo6ukSZY";
        assert_eq!(old.integrity, known);
        for other in ["../token", "0123456789ABCDEF", "0123456789abcde", "", "0123456789abcdef0"] {
            assert!(!is_version(other), "{other}");
        }
    }

    #[test]
    fn what_an_operator_is_called_is_no_markup() {
        let config = Config {
            operator: "<script>{{contact}}".to_owned(),
            contact: "a\"b'c&d".to_owned(),
            ..Config::default()
        };
        let page = fill(b"{{operator}}|{{contact}}|{{max_preset}}", &config);
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page, "&lt;script&gt;&#123;&#123;contact}}| (contact: a&quot;b&#39;c&amp;d)|full");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&["a"]), "a");
    }

    #[test]
    fn only_allowed_sites_may_frame() {
        let open = policy(&Embeds::default());
        assert!(!open.contains("frame-ancestors") && open.contains("default-src 'none'"), "{open}");
        let off = policy(&Embeds { enabled: false, ..Embeds::default() });
        assert!(off.contains("frame-ancestors 'none'"), "{off}");
        let some = Embeds {
            allow: ["https://a.example".to_owned(), "https://b.example".to_owned()].into(),
            deny: ["https://b.example".to_owned()].into(),
            ..Embeds::default()
        };
        let some = policy(&some);
        assert!(some.contains("frame-ancestors 'self' https://a.example"), "{some}");
        assert!(!some.contains("b.example"), "{some}");
    }
}
