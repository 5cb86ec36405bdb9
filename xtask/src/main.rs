//! The project's own commands. `demo` and `test` set up whatever is missing and work on a fresh machine.

mod ahead;
mod data;
mod demo;
mod deny;
mod digits;
mod fuzz;
mod gallery;
mod npm;
mod run;
mod setup;
mod site;
mod sizes;
mod suites;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use run::{Step, cargo, root};
use std::process::ExitCode;

/// Benchmarks that need no browser.
const NATIVE_BENCHES: [&str; 2] = ["train", "attacks"];

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Potluck's own commands. Each sets up what it needs.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, start a relay, lend it tabs, compute the sample job
    Demo(demo::Options),
    /// Every test, real browsers included
    Test,
    /// Install what is missing: wasm target, wasm-bindgen, Trunk, Chromium, axe-core
    Setup,
    /// Build the page and its engine into dist/
    Site,
    /// Bring a corpus to train on: a public-domain novel, 1.2 MB
    Data,
    /// Build the npm package into target/npm: the widget's loader, a typed client of the API, receipts offline
    Npm {
        /// Install it in target/npm/check as well, and compile the examples against it there
        #[arg(long)]
        check: bool,
    },
    /// A picture of each screen into docs/gallery, from the tests that check them
    Gallery,
    /// Check the architecture's invariants
    Tidy,
    /// Check what the workspace depends on: licenses, sources, known flaws
    Deny,
    /// Search for bytes on which a decoder of what strangers send breaks its word
    Fuzz(fuzz::Options),
    /// The deterministic simulator: --seed N replays one seed, --seeds N runs many
    Sim(Rest),
    /// Sizes of what a browser loads
    Sizes {
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Benchmarks against named peers: browser, step, verify, overhead, memory, train, attacks, drift, mesh, ledger, page, stop, all
    Bench(Rest),
}

#[derive(Args)]
struct Rest {
    /// Passed on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; `false` where it worked but found something wrong.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test => Ok(test::run()),
        Command::Setup => {
            setup::everything()?;
            setup::npm::AXE.fetched()?;
            Ok(true)
        }
        Command::Site => {
            let step = Step::start("build the page");
            site::build()?;
            step.done();
            Ok(true)
        }
        Command::Data => data::run(),
        Command::Npm { check } => Ok(npm::run()? && (!check || npm::check()?)),
        Command::Gallery => gallery::run(),
        Command::Tidy => tidy::run(&root()),
        Command::Deny => deny::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Sim(rest) => {
            let status =
                cargo().args(["run", "--quiet", "-p", "potluck-sim", "--"]).args(rest.args).status()?;
            Ok(status.success())
        }
        Command::Sizes { json } => {
            site::build()?;
            sizes::run(json)
        }
        Command::Bench(rest) => {
            let mut bench = cargo();
            bench
                .args(["run", "--quiet", "--release", "-p", "potluck-tests", "--no-default-features"])
                .args(["--bin", "bench", "--"])
                .args(&rest.args)
                .env("POTLUCK_CACHE", setup::cache()?);
            // Training needs neither a page nor a compiler for wasm.
            if !rest.args.iter().any(|arg| NATIVE_BENCHES.contains(&arg.as_str())) {
                // Standard output is for the rows; what setting up says goes to standard error.
                site::page()?;
                let wasm = setup::wasm::toolchain()?;
                bench.env("POTLUCK_TOOLS", setup::tools::bin_folder()?);
                bench.env("POTLUCK_WASM_RUSTC", wasm.rustc());
            }
            Ok(bench.status()?.success())
        }
    }
}
