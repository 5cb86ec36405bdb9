//! The npm packages: scripts in TypeScript, types from the relay's OpenAPI document, and a wasm module by wasm-pack, put together
//! in `target/npm`. Nothing here needs a relay, running or built.

mod check;
mod names;
pub(crate) mod settings;

pub(crate) use check::check;

use crate::run::{Step, must_quietly, path_with, root};
use crate::setup::npm::{self, Tools};
use crate::setup::{cache, tools, wasm};
use crate::site::{is_stale, mark};
use crate::sizes::brotli_bytes;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use settings::{Package, Settings};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The relay's OpenAPI document, as its crate keeps it: a test there says whether it is the one that relays serve.
const DOCUMENT: &str = "crates/relay/openapi.json";
/// What packages are made from, besides what `wasm-pack.toml` names.
const SOURCES: &[&str] = &[
    settings::FILE,
    DOCUMENT,
    "crates/ledger",
    "crates/governance",
    "crates/types",
    "xtask/src/npm",
    "Cargo.toml",
    "Cargo.lock",
];
const LICENSES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

/// `target/npm`.
fn place() -> PathBuf {
    root().join("target/npm")
}

/// Makes all packages and their archives, and prints the sizes of what is in them.
pub(crate) fn run() -> Result<bool> {
    for (name, package) in Settings::read(&root())?.packages {
        let archive = build(&name, &package)?;
        let folder = place().join(&name);
        println!("{}", folder.display());
        let mut files = files(&folder, Path::new(""))?;
        files.sort();
        for file in files {
            let path = folder.join(&file);
            let (plain, packed) = (path.metadata()?.len(), brotli_bytes(&path)?);
            println!(
                "  {:<36} {:>8.1} kB {:>8.1} kB (brotli)",
                file.display(),
                plain as f64 / 1e3,
                packed as f64 / 1e3
            );
        }
        println!("{}  {:.1} kB", archive.display(), archive.metadata()?.len() as f64 / 1e3);
    }
    Ok(true)
}

/// Makes a package, unless it is newer than its sources; its archive.
fn build(name: &str, package: &Package) -> Result<PathBuf> {
    let (root, place) = (root(), place());
    let folder = place.join(name);
    let (stamp, version) = (place.join(format!(".built-{name}")), env!("CARGO_PKG_VERSION"));
    let archive = place.join(format!("{name}-{version}.tgz"));
    let sources = [SOURCES, &[package.source.as_str(), package.folder.as_str()]].concat();
    if archive.is_file() && !is_stale(&stamp, &sources) {
        return Ok(archive);
    }
    let started = SystemTime::now();
    let source = root.join(&package.source);
    let node = Tools::of(&source)?;
    let step = Step::start(&format!("build the npm package {name}"));
    // What an earlier build left there may no longer belong to it.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    pack_wasm(&root.join(&package.folder), &folder.join(&package.module), package)?;
    let hint = "look at what openapi-typescript says above";
    must_quietly(
        node.run("openapi-typescript/bin/cli.js")
            .arg(root.join(DOCUMENT))
            .arg("--output")
            .arg(folder.join("api.d.ts")),
        hint,
    )?;
    let manifest = fs::read_to_string(source.join("package.json"))?;
    // Before they are compiled: it says which kind of modules lies here.
    fs::write(folder.join("package.json"), finished(&manifest, name, package.publish)?)?;
    compile(&node, &source, &folder)?;
    fs::copy(source.join("README.md"), folder.join("README.md"))?;
    for license in LICENSES {
        fs::copy(root.join(license), folder.join(license))?;
    }
    npm::pack(&folder, &place)?;
    step.done();
    mark(&stamp, started)?;
    Ok(archive)
}

/// Makes the wasm module of a crate, with the compiler, flags and target folder of the site's modules, so that what is compiled for
/// them is used again.
fn pack_wasm(krate: &Path, out: &Path, package: &Package) -> Result<()> {
    let toolchain = wasm::toolchain()?;
    let tools = tools::wasm_pack()?;
    let mut pack = Command::new(tools.join("wasm-pack"));
    pack.args(["build", "--mode", "no-install", "--no-pack", "--no-gitignore"])
        .args(["--target", &package.target, "--profile", &package.profile])
        .args(["--out-name", &format!("potluck_{}", package.module), "--out-dir"])
        .arg(out)
        .arg(krate)
        .current_dir(root())
        // It would look there for tools that it downloaded.
        .env("WASM_PACK_CACHE", cache()?.join("wasm-pack"));
    toolchain.apply(&mut pack);
    // It asks the rustc on the PATH whether it builds for wasm, and calls the cargo beside it.
    let compiler = toolchain.rustc().parent().unwrap_or(Path::new(""));
    let path = std::env::join_paths(
        [tools.as_path(), compiler]
            .into_iter()
            .map(Path::to_owned)
            .chain(std::env::split_paths(&path_with(&tools))),
    )?;
    pack.env("PATH", path);
    must_quietly(&mut pack, "look at what wasm-pack says above")?;
    let module = out.join(format!("potluck_{}_bg.wasm", package.module));
    Ok(fs::write(&module, names::without_names(&fs::read(&module)?)?)?)
}

/// Compiles the scripts into a package, which has the generated types and the module already. They are compiled in a folder
/// without what they import: this tells the compiler where that is.
fn compile(node: &Tools, source: &Path, folder: &Path) -> Result<()> {
    let scripts = source.join("src");
    let settings = json!({
        "extends": source.join("tsconfig.json"),
        "compilerOptions": {
            "rootDir": scripts,
            // As if both were one folder.
            "rootDirs": [&scripts, folder],
            "outDir": folder,
            "paths": { "openapi-fetch": [node.module("openapi-fetch/dist/index.d.mts")] },
        },
        "include": [scripts],
    });
    let path = place().join("tsconfig.json");
    fs::write(&path, settings.to_string())?;
    must_quietly(
        node.run("typescript/bin/tsc").arg("--project").arg(path),
        "look at what the compiler of TypeScript says above",
    )
}

/// The package's manifest: what is written by hand, with what the workspace says.
fn finished(manifest: &str, name: &str, publish: bool) -> Result<String> {
    let mut manifest: Map<String, Value> =
        serde_json::from_str(manifest).context("the package.json of the package cannot be read")?;
    manifest.remove("devDependencies");
    manifest.insert("name".into(), name.into());
    manifest.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    manifest.insert("license".into(), format!("({})", env!("CARGO_PKG_LICENSE")).into());
    if !publish {
        manifest.insert("private".into(), true.into());
    }
    Ok(serde_json::to_string_pretty(&manifest)? + "\n")
}

/// Files below a folder, by their paths in it.
fn files(folder: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(below))? {
        let path = below.join(entry?.file_name());
        if folder.join(&path).is_dir() {
            found.extend(files(folder, &path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::finished;
    use serde_json::Value;

    #[test]
    fn a_manifest_has_what_the_workspace_says_and_is_private_unless_it_may_be_published() {
        let by_hand = r#"{"type":"module","devDependencies":{"typescript":"1.0.0"}}"#;
        let manifest: Value = serde_json::from_str(&finished(by_hand, "a-package", false).unwrap()).unwrap();
        assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(manifest["license"], "(Apache-2.0 OR MIT)");
        assert_eq!((&manifest["private"], &manifest["type"]), (&Value::Bool(true), &Value::from("module")));
        assert!(manifest["devDependencies"].is_null());
        let public: Value = serde_json::from_str(&finished(by_hand, "a-package", true).unwrap()).unwrap();
        assert!(public["private"].is_null());
        assert!(finished("", "a-package", false).is_err());
    }
}
