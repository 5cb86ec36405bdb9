//! npm packages: `wasm-pack.toml`, which xtask reads, and the crates' Cargo.toml, which wasm-pack reads, say the same.

use super::Findings;
use crate::npm::settings::{FILE, Package, Settings};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// What wasm-pack makes.
const TARGETS: &[&str] = &["bundler", "web", "nodejs", "no-modules", "deno"];
/// Profiles that wasm-pack has words of its own for; it calls any other `custom`.
const ITS_OWN: &[&str] = &["dev", "release", "profiling"];
/// Keys of a manifest.
const WASM_PACK: [&str; 3] = ["package", "metadata", "wasm-pack"];

pub(super) fn check(root: &Path) -> Result<Findings> {
    let settings = Settings::read(root)?;
    let workspace = manifest(root)?.context("the workspace has no Cargo.toml")?;
    let mut findings = Findings::new();
    for (name, package) in &settings.packages {
        if !root.join(&package.source).join("package.json").is_file() {
            findings.push(format!("{FILE}: {name}: {} has no package.json", package.source));
        }
        findings.extend(agree(name, package, manifest(&root.join(&package.folder))?.as_ref(), &workspace));
    }
    let members = at(&workspace, &["workspace", "members"]).and_then(Value::as_array);
    for member in members.into_iter().flatten().filter_map(Value::as_str) {
        let told = manifest(&root.join(member))?.is_some_and(|manifest| at(&manifest, &WASM_PACK).is_some());
        if told && !settings.packages.values().any(|package| package.folder == member) {
            findings.push(format!(
                "{member}/Cargo.toml speaks to wasm-pack, and {FILE} makes no package of that crate"
            ));
        }
    }
    Ok(findings)
}

/// The Cargo.toml of a folder, if there is one.
fn manifest(folder: &Path) -> Result<Option<Table>> {
    let path = folder.join("Cargo.toml");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    Ok(Some(toml::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))?))
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, tables) = path.split_last()?;
    tables.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?.get(*last)
}

/// Whether a package's entry and its crate's manifest, if there is one, say the same.
fn agree(name: &str, package: &Package, krate: Option<&Table>, workspace: &Table) -> Findings {
    let mut findings = Findings::new();
    let mut find = |what: String| findings.push(format!("{FILE}: {name}: {what}"));
    let Package { folder, target, profile, wasm_opt, .. } = package;
    if !TARGETS.contains(&target.as_str()) {
        find(format!("wasm-pack knows no target {target:?}: {}", TARGETS.join(", ")));
    }
    if !ITS_OWN.contains(&profile.as_str()) && at(workspace, &["profile", profile]).is_none() {
        find(format!("Cargo.toml has no [profile.{profile}]"));
    }
    let Some(krate) = krate else {
        find(format!("there is no crate in {folder}"));
        return findings;
    };
    let kinds = at(krate, &["lib", "crate-type"]).and_then(Value::as_array);
    if !kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind.as_str() == Some("cdylib"))) {
        find(format!("{folder} is no cdylib, so wasm-pack makes nothing of it"));
    }
    let section = if ITS_OWN.contains(&profile.as_str()) { profile } else { "custom" };
    let path = [&WASM_PACK[..], &["profile", section, "wasm-opt"]].concat();
    let told = at(krate, &path).and_then(Value::as_bool);
    if told != Some(*wasm_opt) {
        find(format!(
            "wasm-opt is {wasm_opt} here, and {} in {folder}/Cargo.toml: set [{}]",
            told.map_or("missing".to_owned(), |told| told.to_string()),
            path[..path.len() - 1].join(".")
        ));
    }
    let others = at(krate, &[&WASM_PACK[..], &["profile"]].concat()).and_then(Value::as_table);
    for other in others.into_iter().flat_map(Table::keys).filter(|other| *other != section) {
        find(format!(
            "{folder}/Cargo.toml speaks of wasm-pack's profile {other:?}, which nothing is built with"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "[package.a]\nsource = \"npm\"\ncrate = \"crates/a\"\nmodule = \"a\"\ntarget = \"web\"\nprofile = \"wasm\"\nwasm-opt = false\npublish = false\n";
    const CRATE: &str =
        "[lib]\ncrate-type = [\"cdylib\"]\n[package.metadata.wasm-pack.profile.custom]\nwasm-opt = false\n";

    fn found(entry: &str, krate: Option<&str>) -> Findings {
        let settings = Settings::parse(entry).unwrap();
        let krate = krate.map(|text| toml::from_str(text).unwrap());
        let workspace = toml::from_str("[profile.wasm]\n").unwrap();
        agree("a", &settings.packages["a"], krate.as_ref(), &workspace)
    }

    #[test]
    fn what_does_not_agree_is_found() {
        assert!(found(ENTRY, Some(CRATE)).is_empty());
        let release = CRATE.replace("custom", "release");
        assert!(found(&ENTRY.replace("\"wasm\"", "\"release\""), Some(&release)).is_empty());
        for (entry, krate, why, count) in [
            (ENTRY.to_owned(), None, "no crate in crates/a", 1),
            (ENTRY.to_owned(), Some(CRATE.replace("cdylib", "rlib")), "no cdylib", 1),
            (ENTRY.to_owned(), Some(CRATE.replace("false", "true")), "wasm-opt is false here, and true", 1),
            (ENTRY.to_owned(), Some(release), "wasm-opt is false here, and missing", 2),
            (ENTRY.replace("\"wasm\"", "\"fast\""), Some(CRATE.to_owned()), "no [profile.fast]", 1),
            (ENTRY.replace("\"web\"", "\"page\""), Some(CRATE.to_owned()), "no target \"page\"", 1),
        ] {
            let findings = found(&entry, krate.as_deref());
            assert!(findings.len() == count && findings[0].contains(why), "{findings:?}");
        }
    }

    #[test]
    fn keys_that_mean_nothing_are_refused() {
        assert!(Settings::parse(&ENTRY.replace("publish", "public")).is_err());
        assert!(Settings::parse("").is_err());
    }
}
