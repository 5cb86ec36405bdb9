//! The benchmarks: `cargo xtask bench NAME [--json]`.
//!
//! Every figure is a ratio to a named peer, or a value with a limit, measured in the same run; times on a shared
//! machine mean little alone. Contenders take turns in rounds, and ratios are medians over the rounds.

mod clock;
mod row;
mod verify;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use row::Report;

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Checking a result against computing it again.
    Verify,
    /// Everything.
    All,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::new(args.json);
    report.note(&format!("machine: {}", clock::machine()));
    let wants = |name| args.name == name || args.name == Name::All;
    if wants(Name::Verify) {
        verify::run(&mut report)?;
        report.table();
    }
    Ok(())
}
