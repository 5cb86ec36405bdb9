//! What the benchmarks need built: the `potluck` command, and wasm for the pages.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const TARGET: &str = "wasm32-unknown-unknown";

/// The `potluck` command, built with the profile of this program, in the same target folder.
///
/// # Errors
/// It does not build.
pub(crate) fn potluck() -> Result<PathBuf> {
    let mut cargo = cargo();
    // Both packages, so that dependencies have the features that they have in this program, and none is built again.
    cargo.args(["build", "--quiet", "-p", "potluck-cli", "-p", "potluck-tests", "--bin", "potluck"]);
    cargo.arg("--no-default-features");
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    run(&mut cargo, "cargo build -p potluck-cli")?;
    let program = env::current_exe()?.with_file_name(format!("potluck{}", env::consts::EXE_SUFFIX));
    ensure!(
        program.is_file(),
        "{} is missing. hint: start the benchmarks with cargo xtask bench",
        program.display()
    );
    Ok(program)
}

/// The folder of our kernels and training steps as wasm, with their JavaScript glue.
///
/// # Errors
/// It does not build.
pub(crate) fn engine() -> Result<PathBuf> {
    module("potluck-bench-engine", "wasm", "POTLUCK_BENCH_ENGINE")
}

/// The same of the GPT written with burn.
///
/// # Errors
/// It does not build.
pub(crate) fn burn() -> Result<PathBuf> {
    module("potluck-bench-burn", "wasm-burn", "POTLUCK_BENCH_BURN")
}

/// Builds a package for the page.
///
/// `cargo xtask bench` names the compiler (`POTLUCK_WASM_RUSTC`) and the folder of wasm-bindgen (`POTLUCK_TOOLS`);
/// the variable `built` names a folder that is built already.
fn module(package: &str, profile: &str, built: &str) -> Result<PathBuf> {
    const HINT: &str = "cargo xtask bench, which prepares a compiler for wasm and wasm-bindgen";
    if let Some(folder) = env::var_os(built) {
        return Ok(folder.into());
    }
    let target = root().join("target").join("wasm");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "-p", package, "--profile", profile, "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128")
        .env_remove("RUSTFLAGS");
    if let Some(rustc) = env::var_os("POTLUCK_WASM_RUSTC") {
        cargo.env("RUSTC", rustc);
    }
    run(&mut cargo, HINT)?;
    let folder = root().join("target").join(package.trim_start_matches("potluck-"));
    let tools = env::var_os("POTLUCK_TOOLS").map(PathBuf::from);
    let bindgen = tools.map_or_else(|| PathBuf::from("wasm-bindgen"), |tools| tools.join("wasm-bindgen"));
    let mut command = Command::new(bindgen);
    command
        .args(["--target", "web", "--no-typescript", "--out-dir"])
        .arg(&folder)
        .arg(target.join(TARGET).join(profile).join(format!("{}.wasm", package.replace('-', "_"))));
    run(&mut command, HINT)?;
    Ok(folder)
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Its own output would mix with the figures: what it prints goes to standard error.
fn run(command: &mut Command, hint: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("{name} could not be started. hint: {hint}"))?;
    ensure!(status.success(), "{name} failed ({status}). hint: {hint}");
    Ok(())
}
