//! Translations: each is of a text whose words are still there, once, and fills the same gaps. That no text lacks one is seen by
//! the tests of the screens.

use super::Findings;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The files, and what has the texts that they translate. Pages put texts together, so words are looked for.
const FILES: &[&str] = &["www/de.po"];
const SOURCES: &[&str] = &[
    "www/index.html",
    "www/main.js",
    "www/view.js",
    "www/format.js",
    "www/picture.js",
    "www/preflight.js",
    "www/session.js",
    "www/training.js",
    "www/join.js",
    "www/project.js",
    "crates/volunteer/src/status.rs",
    "crates/web/src/messages.rs",
];

pub(super) fn check(root: &Path) -> Result<Findings> {
    let read =
        |name: &str| fs::read_to_string(root.join(name)).with_context(|| format!("{name} cannot be read"));
    let sources = SOURCES.iter().map(|name| read(name)).collect::<Result<Vec<_>>>()?.join("\n");
    let known: BTreeSet<_> = words(&sources).collect();
    let mut findings = Findings::new();
    for name in FILES {
        findings.extend(file(name, &read(name)?, &known));
    }
    Ok(findings)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn file(name: &str, text: &str, words_there: &BTreeSet<&str>) -> Findings {
    let mut findings = Findings::new();
    let mut known = BTreeSet::new();
    let entries = text.split("\nmsgid ").skip(1).filter_map(|entry| entry.split_once("\nmsgstr "));
    for (id, translation) in entries {
        let [id, translation] = [id, translation].map(quoted);
        if id.is_empty() {
            continue;
        }
        if !known.insert(id.clone()) {
            findings.push(format!("{name}: “{id}” is there twice"));
        }
        if translation.is_empty() {
            findings.push(format!("{name}: “{id}” has no translation"));
            continue;
        }
        let [(parts, gaps), (_, filled)] = [&id, &translation].map(|text| apart(text));
        if gaps != filled {
            findings.push(format!("{name}: “{translation}” fills other gaps than “{id}”"));
        }
        if let Some(gone) = parts.iter().flat_map(|part| words(part)).find(|word| !words_there.contains(word))
        {
            findings.push(format!("{name}: “{id}” is no longer a text of the page: “{gone}” is gone"));
        }
    }
    if known.is_empty() {
        findings.push(format!("{name}: it has no entries"));
    }
    findings
}

/// The words of an entry's line or lines, without quotes.
fn quoted(lines: &str) -> String {
    let lines = lines.lines().map_while(|line| line.trim().strip_prefix('"')?.strip_suffix('"'));
    lines.collect::<String>().replace("\\\"", "\"")
}

/// What stands between the gaps, and the gaps' names.
fn apart(text: &str) -> (Vec<&str>, BTreeSet<&str>) {
    let (mut parts, mut gaps) = (Vec::new(), BTreeSet::new());
    for piece in text.split('{') {
        let (gap, part) = piece.split_once('}').unwrap_or(("", piece));
        parts.push(part);
        if !gap.is_empty() {
            gaps.insert(gap);
        }
    }
    (parts, gaps)
}

#[cfg(test)]
mod tests {
    use super::{file, words};

    #[test]
    fn what_is_wrong_with_a_translation_is_found() {
        let sources = words("at(\"a\").textContent = `${count} of ${all} parts`;").collect();
        let entry = |id: &str, text: &str| {
            format!("# head\nmsgid \"\"\nmsgstr \"\"\n\nmsgid \"{id}\"\nmsgstr \"{text}\"\n")
        };
        assert!(file("de.po", &entry("{count} parts", "{count} Teile"), &sources).is_empty());
        for (id, text, why) in [
            ("parts", "", "no translation"),
            ("pieces", "Teile", "no longer"),
            ("{count} parts", "Teile", "other gaps"),
        ] {
            let found = file("de.po", &entry(id, text), &sources);
            assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        }
        let twice = entry("parts", "Teile") + "\nmsgid \"parts\"\nmsgstr \"Stücke\"\n";
        assert_eq!(file("de.po", &twice, &sources).len(), 1);
    }
}
