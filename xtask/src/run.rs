//! Running other programs, with errors that say what was run and what to do.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `cargo` in the repository, as it was called.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo says of this program to this program: some build scripts look at it, and what they make would be made again each
    // time that cargo is called in another way.
    let of_this = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_this) {
            command.env_remove(name);
        }
    }
    command
}

/// A step that takes time: says what it does, and then how long it took.
pub(crate) struct Step {
    name: String,
    start: Instant,
}

impl Step {
    pub(crate) fn start(name: &str) -> Self {
        eprintln!("» {name} …");
        Self { name: name.to_owned(), start: Instant::now() }
    }

    /// Ends the step; the seconds it took.
    pub(crate) fn done(self) -> f64 {
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!("✓ {} ({seconds:.1} s)", self.name);
        seconds
    }
}

/// Runs a program with its output shown; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot run {}", show(command)))?;
    Ok(status.success())
}

/// Runs a program with its output shown; fails unless it succeeds.
pub(crate) fn must(command: &mut Command, hint: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}\nhint: {hint}", show(command)))?;
    if !status.success() {
        bail!("{} failed ({status})\nhint: {hint}", show(command));
    }
    Ok(())
}

/// Runs a program quietly; where it fails, its output is in the error.
pub(crate) fn must_quietly(command: &mut Command, hint: &str) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}\nhint: {hint}", show(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})\n{}\nhint: {hint}", show(command), output.status, tail(&output));
    }
    Ok(())
}

/// What a program prints, if it succeeds.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(output: &Output) -> String {
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Finds a program on the PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file())
}

/// The PATH with a folder in front.
pub(crate) fn path_with(folder: &Path) -> std::ffi::OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&old));
    std::env::join_paths(folders).unwrap_or(old)
}
