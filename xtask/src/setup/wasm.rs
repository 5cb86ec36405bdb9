//! A rustc that builds for wasm32-unknown-unknown: the one that is here, with a target from rustup, or with a
//! standard library built from the distribution's sources.

use super::{apt, cache};
use crate::run::{Step, must_quietly, output_of, which};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// A rustc that builds for wasm32.
pub(crate) enum Toolchain {
    /// The one that builds everything else; clippy is there too.
    Native(PathBuf),
    /// One of the distribution's, only for wasm.
    Shim(PathBuf),
}

impl Toolchain {
    /// The program.
    pub(crate) fn rustc(&self) -> &Path {
        match self {
            Self::Native(rustc) | Self::Shim(rustc) => rustc,
        }
    }

    /// Sets a command up to build for wasm, in a target folder of its own: its flags differ.
    pub(crate) fn apply(&self, command: &mut Command) {
        command
            .env("RUSTC", self.rustc())
            .env("CARGO_TARGET_DIR", crate::run::root().join("target/wasm"))
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128")
            .env_remove("RUSTFLAGS");
    }
}

fn has_target(rustc: &Path) -> bool {
    let folder = output_of(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    folder.is_some_and(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    })
}

/// Finds or makes the toolchain.
pub(crate) fn toolchain() -> Result<Toolchain> {
    let sysroot =
        output_of(Command::new("rustc").args(["--print", "sysroot"]).current_dir(crate::run::root()))
            .context("rustc does not run\nhint: install Rust with rustup")?;
    let native = Path::new(&sysroot).join("bin").join(format!("rustc{}", std::env::consts::EXE_SUFFIX));
    if has_target(&native) {
        return Ok(Toolchain::Native(native));
    }
    let version = output_of(Command::new("/usr/bin/rustc").arg("--version")).unwrap_or_default();
    let folder = cache()?.join("wasm-toolchain");
    let shim = folder.join("bin/rustc");
    let stamp = fs::read_to_string(folder.join("made-with")).unwrap_or_default();
    if !stamp.is_empty() && stamp == version && has_target(&shim) {
        return Ok(Toolchain::Shim(shim));
    }
    if which("rustup").is_some() {
        let step = Step::start("rustup target add wasm32-unknown-unknown");
        let added =
            output_of(Command::new("rustup").args(["target", "add", TARGET]).current_dir(crate::run::root()));
        if added.is_some() && has_target(&native) {
            step.done();
            return Ok(Toolchain::Native(native));
        }
        eprintln!("  rustup cannot add it here; trying the distribution's sources");
    }
    let step =
        Step::start("build a wasm standard library from the distribution's sources (once; about a minute)");
    make_shim(&folder, Path::new(&sysroot)).context(
        "there is no standard library for wasm32-unknown-unknown\nhint: rustup target add wasm32-unknown-unknown; on Debian: \
         apt install rustc-web rust-web-src libstd-rust-web-dev",
    )?;
    step.done();
    if !has_target(&shim) {
        bail!(
            "the wasm toolchain in {} is incomplete\nhint: delete that folder and try again",
            folder.display()
        );
    }
    Ok(Toolchain::Shim(shim))
}

/// Builds std for wasm with Debian's current rustc, and puts a toolchain together from it and rustup's linker.
fn make_shim(folder: &Path, rustup_sysroot: &Path) -> Result<()> {
    const HOST: &str = "x86_64-unknown-linux-gnu";
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("this way is only for Linux on x86-64");
    }
    let distribution = Path::new("/usr/bin/rustc");
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/std/Cargo.toml");
    if !distribution.is_file() || !sources.is_file() {
        apt::install(&["rustc-web", "rust-web-src", "libstd-rust-web-dev"])?;
    }
    let linker = [rustup_sysroot, Path::new("/usr")]
        .iter()
        .map(|base| base.join("lib/rustlib").join(HOST).join("bin/rust-lld"))
        .find(|path| path.is_file())
        .or_else(|| which("rust-lld"))
        .context("rust-lld was not found")?;

    // Everything is made beside the final folder and moved there at the end: a run that is cut short leaves
    // nothing that looks whole.
    let work = tempfile::Builder::new().prefix("wasm-").tempdir_in(cache()?)?;
    let empty = work.path().join("empty");
    fs::create_dir_all(empty.join("src"))?;
    fs::write(
        empty.join("Cargo.toml"),
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\n[workspace]\n",
    )?;
    fs::write(empty.join("src/lib.rs"), "")?;
    let cargo = rustup_sysroot.join("bin/cargo");
    let mut build = Command::new(&cargo);
    build
        .args(["build", "-Zbuild-std=std,panic_abort,test", "--release", "--target", TARGET])
        .current_dir(&empty)
        .env("RUSTC", distribution)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", empty.join("target"))
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &linker)
        // With bitcode, so that the engine can be optimized as a whole with the standard library.
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Cembed-bitcode=yes")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env_remove("RUSTFLAGS");
    must_quietly(&mut build, "look at what cargo says above")?;

    let made = work.path().join("toolchain");
    let (host, wasm) =
        (made.join("lib/rustlib").join(HOST), made.join("lib/rustlib").join(TARGET).join("lib"));
    for path in [&made.join("bin"), &host.join("bin"), &wasm] {
        fs::create_dir_all(path)?;
    }
    for entry in fs::read_dir(empty.join("target").join(TARGET).join("release/deps"))?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "rlib") && !name.starts_with("libempty") {
            fs::copy(&path, wasm.join(&name))?;
        }
    }
    // The linker of a toolchain is looked up in its own folder.
    link(&Path::new("/usr/lib/rustlib").join(HOST).join("lib"), &host.join("lib"))?;
    link(&linker, &host.join("bin/rust-lld"))?;
    link(&cargo, &made.join("bin/cargo"))?;
    let script =
        format!("#!/bin/sh\nexec {} --sysroot {} \"$@\"\n", distribution.display(), folder.display());
    let shim = made.join("bin/rustc");
    fs::write(&shim, script)?;
    executable(&shim)?;
    let version = output_of(Command::new(distribution).arg("--version"))
        .context("the distribution's rustc does not run")?;
    fs::write(made.join("made-with"), version)?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(&made, folder)?;
    Ok(())
}

#[cfg(unix)]
fn link(from: &Path, to: &PathBuf) -> Result<()> {
    std::os::unix::fs::symlink(from, to).with_context(|| format!("cannot link {}", to.display()))
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn link(_from: &Path, _to: &PathBuf) -> Result<()> {
    bail!("this way is only for Linux")
}

#[cfg(not(unix))]
fn executable(_path: &Path) -> Result<()> {
    bail!("this way is only for Linux")
}
