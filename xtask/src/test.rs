//! Every test there is, in stages. Later stages run even if an earlier one failed. What later stages compile is compiled while
//! the native tests run.

use crate::ahead::Ahead;
use crate::run::{cargo, root, succeeds, target};
use crate::setup::{self, Ready, browser, go, network, postgres, wasm};
use crate::{npm, site, suites, tidy};
use anyhow::Result;
use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

/// Crates that must build for wasm32 as well.
const FOR_WASM: &[&str] = &[
    "potluck-types",
    "potluck-proto",
    "potluck-ledger",
    "potluck-governance",
    "potluck-kernels",
    "potluck-train",
    "potluck-eval",
    "potluck-mesh",
    "potluck-volunteer",
    "potluck-web",
    "potluck-web-trust",
    "potluck-model",
    "potluck-web-model",
    "potluck-bench-engine",
];
/// Their tests that a browser runs.
const IN_BROWSER: &[&[&str]] = &[
    &["-p", "potluck-kernels", "--tests"],
    &["-p", "potluck-train", "--test", "gpu"],
    &["-p", "potluck-train", "--test", "decode"],
    &["-p", "potluck-web", "--lib"],
    &["-p", "potluck-web", "--test", "links"],
];
/// Seeds of the simulator.
const SEEDS: &str = "2000";

/// Property tests draw the same cases each time, so that a change is judged by what it changed; search with other
/// values of this variable.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

struct Stages {
    results: Vec<(String, f64, bool)>,
}

impl Stages {
    fn run(&mut self, name: &str, stage: impl FnOnce() -> Result<bool>) {
        println!("\n=== {name}");
        let start = Instant::now();
        let passed = stage().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            false
        });
        let seconds = start.elapsed().as_secs_f64();
        println!("=== {name}: {} in {seconds:.0} s", if passed { "passed" } else { "FAILED" });
        self.results.push((name.to_owned(), seconds, passed));
    }
}

/// Runs all stages; `false` if one failed.
pub(crate) fn run() -> bool {
    let mut stages = Stages { results: Vec::new() };
    let mut ready = None;
    let (mut has_go, mut has_postgres) = (false, false);
    stages.run("set-up", || {
        let (set_up, go) = setup::everything_and(|| {
            browser::firefox();
            let go = go::ready();
            network::namespaces();
            has_postgres = postgres::server();
            crate::data::corpus()?;
            setup::npm::AXE.fetched()?;
            Ok(go)
        })?;
        (ready, has_go) = (Some(set_up), go);
        Ok(true)
    });
    let Some(ready) = ready else { return finish(&stages) };
    stages.run("page and engine", || site::build().map(|()| true));
    stages.run("npm package", npm::check);
    stages.run("format", || succeeds(cargo().args(["fmt", "--all", "--check"])));
    stages.run("tidy", || tidy::run(&root()));
    let mut suites = Vec::new();
    stages.run("build of the native tests", || {
        suites = suites::built(native_tests())?;
        Ok(true)
    });
    let [clippy, examples, dependencies, wasm_lints, wasm_tests] = Ahead::start([
        vec![clippy()],
        vec![examples()],
        vec![own("deny")],
        vec![lints(&ready)],
        IN_BROWSER.iter().map(|tests| kernel_tests(&ready, tests, &["--no-run"])).collect(),
    ]);
    stages.run("native tests", || suites::run(&suites, &environment(&ready, has_go), has_postgres));
    stages.run("simulator, 2000 seeds", || {
        // As the tests built it.
        let simulator = target().join("debug").join(format!("potluck-sim{}", std::env::consts::EXE_SUFFIX));
        succeeds(Command::new(simulator).args(["--seeds", SEEDS]).current_dir(root()))
    });
    stages.run("clippy", || clippy.end());
    stages.run("examples in documents", || examples.end());
    stages.run("dependencies", || dependencies.end());
    stages.run("lints for wasm32", || {
        if matches!(ready.wasm, wasm::Toolchain::Shim(_)) {
            println!("the rustc that builds for wasm32 here has no clippy: its warnings are errors instead");
        }
        wasm_lints.end()
    });
    stages.run("kernels in Chromium", || Ok(wasm_tests.end()? && kernels_in_browser(&ready)?));
    stages.run("sizes", || crate::sizes::run(false));
    finish(&stages)
}

/// A command of ours, to be run by itself.
fn own(name: &str) -> Command {
    let mut command = std::env::current_exe().map_or_else(|_| Command::new("cargo-xtask"), Command::new);
    command.arg(name).current_dir(root());
    command
}

fn clippy() -> Command {
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]);
    clippy
}

fn native_tests() -> Command {
    let mut test = cargo();
    test.args(["test", "--workspace"]);
    test
}

/// The examples in the documents of libraries.
fn examples() -> Command {
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "--doc"]);
    test
}

/// What the native tests find in their environment.
fn environment(ready: &Ready, has_go: bool) -> Vec<(&'static str, OsString)> {
    let mut all = vec![("CHROME", ready.chromium.clone().into()), ("POTLUCK_REQUIRE_NPM", "1".into())];
    if has_go {
        all.push(("POTLUCK_REQUIRE_GO", "1".into()));
    }
    if std::env::var_os(PROPERTY_SEED).is_none() {
        all.push((PROPERTY_SEED, "1".into()));
    }
    all
}

fn lints(ready: &Ready) -> Command {
    let mut check = cargo();
    check.arg(match &ready.wasm {
        wasm::Toolchain::Native(_) => "clippy",
        wasm::Toolchain::Shim(_) => "check",
    });
    check.args(["--quiet", "--target", wasm::TARGET]);
    for package in FOR_WASM {
        check.args(["-p", package]);
    }
    if matches!(ready.wasm, wasm::Toolchain::Native(_)) {
        check.args(["--", "-Dwarnings"]);
    }
    ready.wasm.apply(&mut check);
    if matches!(ready.wasm, wasm::Toolchain::Shim(_)) {
        // Other flags, other target folder: the builds of the other stages stay valid.
        check.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128 -Dwarnings");
        check.env("CARGO_TARGET_DIR", root().join("target/wasm-check"));
    }
    check
}

fn kernel_tests(ready: &Ready, tests: &[&str], more: &[&str]) -> Command {
    let mut test = cargo();
    test.args(["test", "--target", wasm::TARGET]).args(tests).args(more);
    ready.wasm.apply(&mut test);
    test
}

/// The GPU and wasm SIMD kernels, and rounds on them, in a real browser.
fn kernels_in_browser(ready: &Ready) -> Result<bool> {
    let driver = browser::chromedriver()?;
    let mut passed = true;
    for tests in IN_BROWSER {
        let mut test = kernel_tests(ready, tests, &[]);
        test.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", ready.tools.join("wasm-bindgen-test-runner"))
            .env("CHROMEDRIVER", &driver)
            .env("WASM_BINDGEN_TEST_TIMEOUT", "300");
        passed &= succeeds(&mut test)?;
    }
    Ok(passed)
}

/// The table, and the line that machines read.
fn finish(stages: &Stages) -> bool {
    println!("\n{:<28} {:>7}", "stage", "seconds");
    for (name, seconds, passed) in &stages.results {
        println!("{name:<28} {seconds:>7.0}  {}", if *passed { "passed" } else { "FAILED" });
    }
    let passed = stages.results.iter().filter(|(.., passed)| *passed).count();
    let failed = stages.results.len() - passed;
    println!("\n{passed} passed, {failed} failed");
    failed == 0
}
