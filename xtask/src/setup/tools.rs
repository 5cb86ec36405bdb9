//! wasm-bindgen of the locked version, and Trunk: built once into the cache, with a cheap profile, since what
//! they do takes milliseconds either way.

use super::cache;
use crate::run::{Step, cargo, must_quietly, output_of, root, which};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// Later versions need a newer rustc than ours.
const TRUNK: &str = "0.21.14";

/// Folder of the tools' programs.
pub(crate) fn bin_folder() -> Result<PathBuf> {
    Ok(cache()?.join("tools").join("bin"))
}

/// Later ones may need a newer rustc than ours.
const CARGO_DENY: &str = "0.20.2";

const CARGO_FUZZ: &str = "0.13.2";

/// cargo-fuzz, installed if it is missing; its folder.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    install("cargo-fuzz", "cargo-fuzz", CARGO_FUZZ, &["--locked"])?;
    bin_folder()
}

/// cargo-deny, installed if it is missing.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    install("cargo-deny", "cargo-deny", CARGO_DENY, &["--locked", "--no-default-features"])?;
    Ok(bin_folder()?.join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX)))
}

/// Later ones may write other files.
const WASM_PACK: &str = "0.15.1";
/// What it remembers of newer versions: that there is none, for long. It would ask at every call otherwise.
const NOTHING_NEWER: &str = "created 2100-01-01T00:00:00+00:00\nversion 0.15.1";

/// wasm-pack and wasm-bindgen, installed if they are missing; their folder.
pub(crate) fn wasm_pack() -> Result<PathBuf> {
    wasm_bindgen()?;
    let folder = bin_folder()?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("wasm-pack.stamp"), NOTHING_NEWER).context("cannot write into the cache")?;
    install("wasm-pack", "wasm-pack", WASM_PACK, &["--locked", "--no-default-features"])?;
    Ok(folder)
}

fn wasm_bindgen() -> Result<()> {
    let version = locked_version("wasm-bindgen")?;
    // Not --locked: the lock file inside this package names versions that registries may lag behind.
    install("wasm-bindgen-cli", "wasm-bindgen", &version, &[])
}

/// Installs what is missing; the folder to put in front of the PATH.
pub(crate) fn all() -> Result<PathBuf> {
    wasm_bindgen()?;
    install("trunk", "trunk", TRUNK, &["--locked", "--no-default-features"])?;
    bin_folder()
}

fn install(package: &str, program: &str, version: &str, flags: &[&str]) -> Result<()> {
    let folder = bin_folder()?;
    let target = folder.join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
    if has_version(&target, version) {
        return Ok(());
    }
    // One that is there anyhow will do, if it is of this very version.
    if let Some(found) = which(program).filter(|found| has_version(found, version)) {
        std::fs::create_dir_all(&folder)?;
        let _ = std::fs::remove_file(&target);
        let runner = found.with_file_name("wasm-bindgen-test-runner");
        if program != "wasm-bindgen" || runner.is_file() {
            link(&found, &target)?;
            if program == "wasm-bindgen" {
                link(&runner, &folder.join("wasm-bindgen-test-runner"))?;
            }
            return Ok(());
        }
    }
    let step = Step::start(&format!("build {program} {version} (once; a few minutes on two cores)"));
    let mut command = cargo();
    command
        .args(["install", package, "--version", version, "--debug", "--force", "--root"])
        .arg(cache()?.join("tools"));
    command.args(flags);
    command
        .env("CARGO_TARGET_DIR", cache()?.join("build"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
        .env_remove("RUSTFLAGS");
    must_quietly(
        &mut command,
        &format!("cargo install {package} --version {version}, and look at what it says"),
    )?;
    step.done();
    Ok(())
}

#[cfg(unix)]
fn link(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let _ = std::fs::remove_file(to);
    std::os::unix::fs::symlink(from, to).context("cannot link a tool into the cache")
}

#[cfg(not(unix))]
fn link(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).context("cannot copy a tool into the cache")
}

fn has_version(program: &std::path::Path, version: &str) -> bool {
    program.is_file()
        && output_of(Command::new(program).arg("--version"))
            .is_some_and(|text| text.split_whitespace().any(|word| word == version))
}

/// The version of a package in Cargo.lock.
pub(crate) fn locked_version(package: &str) -> Result<String> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let entry = format!("name = \"{package}\"\nversion = \"");
    let version = lock.split(&entry).nth(1).and_then(|rest| rest.split('"').next());
    version.map(str::to_owned).with_context(|| format!("{package} is not in Cargo.lock"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lock_names_wasm_bindgen_once() {
        let version = super::locked_version("wasm-bindgen").unwrap();
        assert_eq!(version.split('.').count(), 3, "{version}");
        assert!(super::locked_version("no-such-package").is_err());
    }
}
