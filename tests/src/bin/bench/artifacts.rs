//! What the benchmarks need built: the `potluck` command, and the kernels as wasm for the page.

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

/// The folder of our kernels as wasm with their JavaScript glue.
///
/// `cargo xtask bench` names the compiler (`POTLUCK_WASM_RUSTC`) and the folder of wasm-bindgen (`POTLUCK_TOOLS`);
/// `POTLUCK_BENCH_ENGINE` names a folder that is built already.
///
/// # Errors
/// It does not build.
pub(crate) fn engine() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("POTLUCK_BENCH_ENGINE") {
        return Ok(folder.into());
    }
    let target = root().join("target").join("wasm");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "-p", "potluck-bench-engine", "--profile", "wasm", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128")
        .env_remove("RUSTFLAGS");
    if let Some(rustc) = env::var_os("POTLUCK_WASM_RUSTC") {
        cargo.env("RUSTC", rustc);
    }
    run(&mut cargo, "cargo xtask bench browser, which prepares a compiler for wasm")?;
    let folder = root().join("target").join("bench-engine");
    let tools = env::var_os("POTLUCK_TOOLS").map(PathBuf::from);
    let bindgen = tools.map_or_else(|| PathBuf::from("wasm-bindgen"), |tools| tools.join("wasm-bindgen"));
    let mut command = Command::new(bindgen);
    command
        .args(["--target", "web", "--no-typescript", "--out-dir"])
        .arg(&folder)
        .arg(target.join(TARGET).join("wasm").join("potluck_bench_engine.wasm"));
    run(&mut command, "cargo xtask bench browser, which installs wasm-bindgen")?;
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
