//! `mesh`: what volunteers that exchange inputs spare the relay, how fast they do, and what it costs them.
//!
//! Inputs are the first checkpoints of training runs: every worker of a round needs the whole of it, where shards of a
//! matrix product are dealt so that volunteers need as little as possible that they lack, and so share little. Only
//! fetching is measured; each run is given up as soon as its workers begin to compute.

mod bare;
mod egress;
mod idle;
mod natives;
mod proxy;
mod runs;
mod tabs;
mod throughput;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::row::Report;

/// Options of the mesh's benchmark.
#[derive(Debug, Args)]
#[group(id = "mesh")]
pub(crate) struct Options {
    /// One part of `mesh` only.
    #[arg(long, value_enum, value_name = "NAME")]
    part: Option<Part>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Memory of a native volunteer's idle connections.
    Idle,
    /// What leaves the relay for eight tabs that need the same.
    Egress,
    /// Time until eight tabs have it, with a slow uplink of the relay.
    Uplink,
    /// A blob between two volunteers against a bare data channel; how long the page's thread is busy meanwhile.
    Throughput,
}

impl Part {
    fn run(self, report: &mut Report) -> Result<()> {
        match self {
            Self::Idle => idle::run(report),
            Self::Egress => egress::run(report),
            Self::Uplink => egress::uplink(report),
            Self::Throughput => throughput::run(report),
        }
    }
}

/// Measures the part that was asked for, or all.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    if let Some(part) = options.part {
        return part.run(report);
    }
    // Memory first, while nothing else has used any. A part that cannot run does not hide the figures of the others.
    let mut failed = Vec::new();
    for part in Part::value_variants() {
        if let Err(error) = part.run(report) {
            eprintln!("{part:?} did not finish: {error:#}");
            failed.push(part);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{failed:?} did not finish") }
}
