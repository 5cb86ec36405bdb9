//! What stands in files: headers, lengths, hashes, links, words.

use super::Findings;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file. Most have 100 to 400 lines.
const MAX_LINES: usize = 800;
/// Sections of a decision record.
const SECTIONS: &[&str] =
    &["## Context", "## Options", "## Choice", "## Consequence", "## How we would know it is wrong"];

/// Words that mark something unfinished, put together here so that this file does not contain them.
fn unfinished() -> Vec<String> {
    let words =
        [["to", "do!("], ["unimple", "mented!("], ["FIX", "ME"], ["place", "holder"], ["for ", "now"]];
    words.iter().map(|parts| parts.concat().to_lowercase()).collect()
}

/// What speaks of one machine or of a registry rather than of the project.
fn foreign() -> Vec<String> {
    let words = [
        ["/ro", "ot/"],
        ["/wo", "rk/"],
        ["/ho", "me/"],
        ["crates", ".io"],
        ["registry.npm", "js"],
        ["pypi", ".org"],
    ];
    words.iter().map(|parts| parts.concat()).collect()
}

pub(super) fn check(root: &Path) -> Result<Findings> {
    let mut findings = Vec::new();
    for path in tracked(root)? {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        let name = path.to_string_lossy().replace('\\', "/");
        let end = path.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
        if end == "lock" || name.ends_with("package-lock.json") || name.starts_with("LICENSE") {
            continue;
        }
        findings.extend(words(&name, &text));
        if end == "rs" {
            findings.extend(source(&name, &text));
        }
        if end == "md" {
            findings.extend(links(root, &path, &text));
        }
        if name.starts_with("docs/decisions/0") {
            let missing = SECTIONS.iter().filter(|section| !text.lines().any(|line| line == **section));
            findings.extend(missing.map(|section| format!("{name}: the section “{section}” is missing")));
        }
    }
    findings.extend(limits(&fs::read_to_string(root.join("crates/types/src/limits.rs"))?));
    let mut source = String::new();
    for file in ["message.rs", "signal.rs", "peer.rs", "identity.rs"] {
        source += &fs::read_to_string(root.join("crates/proto/src").join(file))?;
    }
    findings.extend(protocol(&source, &fs::read_to_string(root.join("PROTOCOL.md"))?));
    Ok(findings)
}

/// Files that git knows; without git, none.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").arg("ls-files").current_dir(root).output().context("cannot run git")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect())
}

fn words(name: &str, text: &str) -> Findings {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        // HTML's attribute of that name is no unfinished work.
        let attribute = lower.contains(&format!("{}=", unfinished()[3]))
            || Path::new(name).extension().is_some_and(|end| end == "css");
        for word in unfinished() {
            if lower.contains(&word) && !(attribute && word == unfinished()[3]) {
                findings.push(format!("{name}:{}: “{word}”: finish it", number + 1));
            }
        }
        for word in foreign() {
            if line.contains(&word) {
                findings.push(format!("{name}:{}: “{word}” does not belong into the repository", number + 1));
            }
        }
    }
    findings
}

fn source(name: &str, text: &str) -> Findings {
    let mut findings = Vec::new();
    let first =
        text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#![")).unwrap_or_default();
    if !first.starts_with("//!") {
        findings.push(format!("{name}: it does not begin with //! and what it is for"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("{name}: {lines} lines; more than {MAX_LINES} hide where to look"));
    }
    findings
}

/// Relative links of a page.
fn links(root: &Path, page: &Path, text: &str) -> Findings {
    let folder = root.join(page.parent().unwrap_or(Path::new("")));
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let relative = targets.filter(|target| {
        !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
    });
    relative
        .filter(|target| !folder.join(target.split('#').next().unwrap_or_default()).exists())
        .map(|target| format!("{}: the link to {target} leads nowhere", page.display()))
        .collect()
}

/// Every limit has a comment right above it.
fn limits(text: &str) -> Findings {
    let lines: Vec<_> = text.lines().collect();
    let bare = |(at, line): (usize, &&str)| {
        (line.starts_with("pub const") && !lines[at.saturating_sub(1)].starts_with("///"))
            .then(|| format!("limits.rs:{}: a limit without its unit and reason", at + 1))
    };
    lines.iter().enumerate().filter_map(bare).collect()
}

/// The page names the hash of the message source.
fn protocol(source: &str, page: &str) -> Findings {
    let hash = blake3::hash(source.replace("\r\n", "\n").as_bytes()).to_hex();
    if page.contains(&format!("Message source hash: `{hash}`")) {
        return Vec::new();
    }
    vec![format!(
        "PROTOCOL.md does not name the hash of message.rs, signal.rs, peer.rs and identity.rs in crates/proto/src: update the page, then write `{hash}`"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        assert_eq!(words("a.rs", &format!("x\n{}", unfinished()[2])).len(), 1);
        assert_eq!(words("a.md", &foreign()[0]).len(), 1);
        assert!(words("a.rs", "a fine line").is_empty());
        assert_eq!(source("a.rs", "fn f() {}").len(), 1);
        assert_eq!(source("a.rs", &"//! x\n".repeat(MAX_LINES + 1)).len(), 1);
        assert!(source("a.rs", "#![no_std]\n//! What it is for.\n").is_empty());
        assert_eq!(limits("/// Why.\npub const A: u8 = 1;\npub const B: u8 = 1;").len(), 1);
        let page = format!("Message source hash: `{}`", blake3::hash(b"a\nb").to_hex());
        assert!(protocol("a\r\nb", &page).is_empty());
        assert_eq!(protocol("c", &page).len(), 1);
        let root = crate::run::root();
        assert!(
            links(&root, Path::new("README.md"), "[a](Cargo.toml) [b](https://x.y/z) [c](#d)").is_empty()
        );
        assert_eq!(links(&root, Path::new("README.md"), "[a](no/such/file)").len(), 1);
    }
}
