//! The benchmarks: `cargo xtask bench NAME [--json]`.
//!
//! Every figure is a ratio to a named peer, or a value with a limit, measured in the same run; times on a shared
//! machine mean little alone. Contenders take turns in rounds, and ratios are medians over the rounds.
//!
//! Losses are no times: where a run repeats its seeds it repeats its losses, bit by bit, and several seeds show the noise.
//!
//! `cargo xtask bench` prepares what [`artifacts`] builds with: a compiler for wasm and wasm-bindgen.

mod artifacts;
mod browser;
mod clock;
mod contest;
mod ledger;
mod ledger_rate;
mod matrix;
mod memory;
mod mesh;
mod overhead;
mod page;
mod peers;
mod relay;
mod row;
mod server;
mod step;
mod swarm;
mod train;
mod verify;
mod volunteers;
mod writing;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use row::Report;
use train::Options;

/// Measures this build against its peers and prints the ratios.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// What to measure.
    #[arg(value_enum)]
    name: Name,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    training: Options,
    #[command(flatten)]
    mesh: mesh::Options,
    #[command(flatten)]
    relay: relay::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Our kernels and their peers in one browser session.
    Browser,
    /// Training steps: ours against burn, TF.js and PyTorch.
    Step,
    /// Checking a result against computing it again.
    Verify,
    /// A job through relay and volunteer against the kernel alone.
    Overhead,
    /// The relay's memory while a large job runs.
    Memory,
    /// Training together against training in step, and bytes.
    Train,
    /// Three cheats among ten workers: damage, and rounds until they are caught.
    Attacks,
    /// A backdoor that comes in, is found, and is gone from the model that is made again without it.
    Poison,
    /// What replay finds between honest runs, and between them and cheats.
    Drift,
    /// What exchanging inputs spares the relay, how fast it is, and what it costs volunteers.
    Mesh,
    /// The audit of a long public log, a receipt, and what the log costs a relay.
    Ledger,
    /// What the widget takes of a site's page, and the Quiet preset of a device.
    Page,
    /// How soon Stop ends all work.
    Stop,
    /// What one relay holds: idle sessions, results a second, how soon it answers, and a crowd that comes at once.
    Relay,
    /// How fast a model writes, natively and in a tab.
    Writing,
    /// Everything.
    All,
}

impl Name {
    const EACH: [Self; 15] = [
        // First: one of its figures is this process's memory.
        Self::Mesh,
        Self::Ledger,
        Self::Verify,
        Self::Overhead,
        Self::Memory,
        Self::Browser,
        Self::Page,
        Self::Stop,
        Self::Relay,
        Self::Writing,
        Self::Step,
        Self::Drift,
        Self::Attacks,
        Self::Poison,
        Self::Train,
    ];

    fn run(self, report: &mut Report, args: &Args) -> Result<()> {
        let training = &args.training;
        match self {
            Self::Browser => runtime()?.block_on(browser::run(report)),
            Self::Step => runtime()?.block_on(step::run(report)),
            Self::Verify => verify::run(report),
            Self::Overhead => overhead::run(report),
            Self::Memory => memory::run(report),
            Self::Train => train::run(report, training),
            Self::Attacks => train::attacks::run(report, training),
            Self::Poison => train::poison::run(report, training),
            Self::Drift => train::drift::run(report, training),
            Self::Mesh => mesh::run(report, &args.mesh),
            Self::Ledger => ledger::run(report),
            Self::Page => runtime()?.block_on(page::run(report)),
            Self::Stop => runtime()?.block_on(page::stop(report)),
            Self::Relay => relay::run(report, &args.relay),
            Self::Writing => runtime()?.block_on(writing::run(report)),
            Self::All => Ok(()),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::new(args.json);
    report.note(&format!("machine: {}", clock::machine()));
    if args.name != Name::All {
        let outcome = args.name.run(&mut report, &args);
        report.table();
        return outcome.context("the benchmark did not finish");
    }
    // One that cannot run here (no browser, no npm) does not hide the figures of the others.
    let mut failed = 0;
    for name in Name::EACH {
        if let Err(error) = name.run(&mut report, &args) {
            eprintln!("{name:?} did not finish: {error:#}");
            failed += 1;
        }
        report.table();
    }
    if failed > 0 {
        bail!("{failed} of {} benchmarks did not finish", Name::EACH.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
