//! Who may depend on whom, from `cargo metadata`.

use super::Findings;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;

/// Crates that are pure: nothing below them may touch a clock, a socket, a GPU or a source of randomness.
const PURE: &[&str] =
    &["potluck-types", "potluck-ledger", "potluck-schedule", "potluck-verify", "potluck-governance"];
/// What that means.
const IMPURE: &[&str] = &[
    "tokio",
    "web-sys",
    "js-sys",
    "wgpu",
    "rand",
    "getrandom",
    "web-time",
    "instant",
    "chrono",
    "time",
    "mio",
];
/// Who may import whom within the workspace. Not listed here: programs that may use anything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("potluck-types", &[]),
    ("potluck-proto", &["potluck-types"]),
    ("potluck-kernels", &["potluck-types"]),
    ("potluck-ledger", &[]),
    ("potluck-verify", &["potluck-types"]),
    ("potluck-governance", &["potluck-types"]),
    ("potluck-train", &["potluck-types", "potluck-kernels"]),
    ("potluck-eval", &["potluck-types", "potluck-train"]),
    ("potluck-model", &["potluck-types", "potluck-train"]),
    ("potluck-web-model", &["potluck-types", "potluck-train", "potluck-model"]),
    ("potluck-burn", &["potluck-train"]),
    ("potluck-web-burn", &["potluck-burn", "potluck-train"]),
    (
        "potluck-rounds",
        &["potluck-types", "potluck-proto", "potluck-burn", "potluck-train", "potluck-verify"],
    ),
    ("potluck-schedule", &["potluck-types", "potluck-proto"]),
    ("potluck-mesh", &["potluck-types", "potluck-proto"]),
    (
        "potluck-volunteer",
        &[
            "potluck-types",
            "potluck-proto",
            "potluck-kernels",
            "potluck-eval",
            "potluck-mesh",
            "potluck-rounds",
            "potluck-train",
        ],
    ),
    (
        "potluck-relay",
        &[
            "potluck-types",
            "potluck-proto",
            "potluck-schedule",
            "potluck-verify",
            "potluck-ledger",
            "potluck-governance",
            "potluck-eval",
            "potluck-mesh",
            "potluck-model",
            "potluck-rounds",
            "potluck-train",
        ],
    ),
    (
        "potluck-web",
        &[
            "potluck-types",
            "potluck-proto",
            "potluck-kernels",
            "potluck-eval",
            "potluck-mesh",
            "potluck-train",
            "potluck-volunteer",
        ],
    ),
    ("potluck-web-trust", &["potluck-types", "potluck-ledger", "potluck-governance"]),
    (
        "potluck-sim",
        &[
            "potluck-types",
            "potluck-proto",
            "potluck-schedule",
            "potluck-verify",
            "potluck-volunteer",
            "potluck-eval",
            "potluck-mesh",
            "potluck-rounds",
            "potluck-train",
            "potluck-kernels",
        ],
    ),
];
/// Crates that stand at a boundary and may serialize.
const SERIALIZING: &[&str] = &[
    "potluck-proto",
    "potluck-eval",
    "potluck-governance",
    "potluck-relay",
    "potluck-cli",
    "potluck-mesh",
    "potluck-model",
    "potluck-web",
    "potluck-web-trust",
    "potluck-fuzz",
    "potluck-tests",
    "xtask",
];

/// The normal dependencies of every package: direct names, and the graph of ids.
struct Graph {
    direct: BTreeMap<String, BTreeSet<String>>,
    members: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
    names: BTreeMap<String, String>,
}

pub(super) fn check(root: &Path) -> Result<Findings> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let graph = read(&serde_json::from_slice(&output.stdout)?);
    let mut findings = layout(root, &graph);
    findings.extend(imports(&graph));
    findings.extend(purity(&graph));
    Ok(findings)
}

fn read(metadata: &Value) -> Graph {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut graph = Graph {
        direct: BTreeMap::new(),
        members: BTreeMap::new(),
        edges: BTreeMap::new(),
        names: BTreeMap::new(),
    };
    let members: BTreeSet<_> = list(&metadata["workspace_members"]).iter().map(text).collect();
    for package in list(&metadata["packages"]) {
        let (id, name) = (text(&package["id"]), text(&package["name"]));
        if members.contains(&id) {
            let normal =
                list(&package["dependencies"]).into_iter().filter(|dependency| dependency["kind"].is_null());
            graph.direct.insert(name.clone(), normal.map(|dependency| text(&dependency["name"])).collect());
            graph.members.insert(name.clone(), text(&package["manifest_path"]));
        }
        graph.names.insert(id, name);
    }
    for node in list(&metadata["resolve"]["nodes"]) {
        let normal = list(&node["deps"])
            .into_iter()
            .filter(|dependency| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
        graph.edges.insert(text(&node["id"]), normal.map(|dependency| text(&dependency["pkg"])).collect());
    }
    graph
}

/// Folder name = crate name without the prefix.
fn layout(root: &Path, graph: &Graph) -> Findings {
    let misplaced = graph.members.iter().filter_map(|(name, manifest)| {
        let folder = Path::new(manifest).parent()?;
        let crates = folder.parent()? == root.join("crates");
        let expected = format!("potluck-{}", folder.file_name()?.to_string_lossy());
        (crates && *name != expected)
            .then(|| format!("{manifest}: the crate in this folder must be called {expected}"))
    });
    misplaced.collect()
}

fn imports(graph: &Graph) -> Findings {
    let mut findings = Vec::new();
    for (name, allowed) in MAY_IMPORT {
        for import in graph.direct.get(*name).into_iter().flatten() {
            if import.starts_with("potluck-") && !allowed.contains(&import.as_str()) {
                findings.push(format!("{name} imports {import}: ARCHITECTURE.md does not allow that"));
            }
        }
    }
    for (name, imports) in &graph.direct {
        if !SERIALIZING.contains(&name.as_str()) && imports.iter().any(|import| import.starts_with("serde")) {
            findings.push(format!("{name} serializes: only what stands at a boundary may"));
        }
        if !MAY_IMPORT.iter().any(|(known, _)| known == name)
            && !SERIALIZING.contains(&name.as_str())
            && !is_tool(name)
        {
            findings.push(format!("{name} is not in the import rules of xtask/src/tidy/graph.rs"));
        }
    }
    findings
}

fn is_tool(name: &str) -> bool {
    name.starts_with("potluck-bench")
}

fn purity(graph: &Graph) -> Findings {
    let mut findings = Vec::new();
    for pure in PURE {
        let Some((start, _)) = graph.names.iter().find(|(_, name)| name == pure) else { continue };
        let mut seen = BTreeSet::from([start.clone()]);
        let mut queue = VecDeque::from([start.clone()]);
        while let Some(id) = queue.pop_front() {
            for next in graph.edges.get(&id).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    queue.push_back(next.clone());
                }
            }
        }
        for id in seen {
            let name = graph.names.get(&id).map(String::as_str).unwrap_or_default();
            if IMPURE.contains(&name) {
                findings.push(format!("{pure} depends on {name}, perhaps through others: time and randomness are arguments there"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(name: &str, dependencies: &[&str]) -> Graph {
        let packages: Vec<_> = std::iter::once(json!({
            "id": name, "name": name, "manifest_path": format!("/r/crates/{}/Cargo.toml", name.trim_start_matches("potluck-")),
            "dependencies": dependencies.iter().map(|d| json!({"name": d, "kind": null})).collect::<Vec<_>>(),
        }))
        .chain(dependencies.iter().map(|d| json!({"id": d, "name": d, "dependencies": []})))
        .collect();
        let deps: Vec<_> =
            dependencies.iter().map(|d| json!({"pkg": d, "dep_kinds": [{"kind": null}]})).collect();
        read(
            &json!({"workspace_members": [name], "packages": packages, "resolve": {"nodes": [{"id": name, "deps": deps}]}}),
        )
    }

    #[test]
    fn what_must_not_be_imported_is_found() {
        assert!(imports(&graph("potluck-verify", &["potluck-types", "blake3"])).is_empty());
        assert_eq!(imports(&graph("potluck-sim", &["potluck-relay"])).len(), 1);
        assert_eq!(imports(&graph("potluck-schedule", &["serde"])).len(), 1);
        assert_eq!(imports(&graph("potluck-new", &[])).len(), 1);
        assert_eq!(purity(&graph("potluck-schedule", &["tokio"])).len(), 1);
        assert!(purity(&graph("potluck-relay", &["tokio"])).is_empty());
        assert!(layout(Path::new("/r"), &graph("potluck-sim", &[])).is_empty());
    }
}
