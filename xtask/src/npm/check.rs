//! A package as somebody has it who installed its archive: what is missing in the archive is missing there.

use super::settings::Settings;
use super::{build, place};
use crate::run::{Step, must_quietly, root};
use crate::setup::npm::{Tools, untar};
use crate::site::{is_stale, mark};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// What packages need at run time.
const DEPENDENCIES: [&str; 2] = ["openapi-fetch", "openapi-typescript-helpers"];

/// Makes all packages, installs their archives in `target/npm/check`, and compiles the examples against them there. Tests run
/// what comes out.
pub(crate) fn check() -> Result<bool> {
    for (name, package) in Settings::read(&root())?.packages {
        let archive = build(&name, &package)?;
        let source = root().join(&package.source);
        let stamp = place().join(format!(".checked-{name}"));
        let examples = format!("{}/examples", package.source);
        let folder = place().join("check");
        if folder.is_dir() && !is_stale(&stamp, &[&examples, &archive.to_string_lossy()]) {
            continue;
        }
        let started = SystemTime::now();
        let node = Tools::of(&source)?;
        let step = Step::start(&format!("compile the examples of {name} against its archive"));
        let _ = fs::remove_dir_all(&folder);
        let modules = folder.join("node_modules");
        fs::create_dir_all(&modules).with_context(|| format!("cannot create {}", modules.display()))?;
        // Every archive of npm's has one folder of that name.
        fs::rename(untar(&archive, &folder)?, modules.join(&name))?;
        for dependency in DEPENDENCIES {
            copy(&node.module(dependency), &modules.join(dependency))?;
        }
        for entry in fs::read_dir(source.join("examples"))? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
        fs::write(folder.join("package.json"), r#"{"type":"module"}"#)?;
        let settings = json!({
            "extends": source.join("tsconfig.json"),
            "compilerOptions": { "noEmitOnError": true, "declaration": false },
            "include": ["*.ts"],
        });
        fs::write(folder.join("tsconfig.json"), settings.to_string())?;
        must_quietly(
            node.run("typescript/bin/tsc").arg("--project").arg(&folder),
            "an example no longer fits the package's types: change one of them",
        )?;
        step.done();
        mark(&stamp, started)?;
    }
    Ok(true)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
