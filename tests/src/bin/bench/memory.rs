//! `memory`: the relay's resident memory while a job with a large result runs.

use std::fs;

use anyhow::{Context, Result};
use potluck_kernels::MatmulShape;

use crate::matrix::Operands;
use crate::row::{Goal, Report, Row};
use crate::swarm::Swarm;

/// 16 MiB of each operand, 256 MiB of result.
const SHAPE: MatmulShape = MatmulShape { m: 8192, k: 512, n: 8192 };
const GOAL_MB: f64 = 300.0;

/// Runs the job once.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let operands = Operands::new(SHAPE, 0);
    let mut swarm = Swarm::start()?;
    operands.write(swarm.folder())?;
    let file = |name: &str| swarm.folder().join(name).display().to_string();
    let (a, b, c) = (file("A.npy"), file("B.npy"), file("C.npy"));
    let submitter = swarm.command(&["submit", "matmul", &a, &b, "--out", &c])?;
    let relay =
        swarm.relay_peak_bytes().context("this system does not tell a process's peak memory (VmHWM)")?;
    let volunteer = swarm.volunteer_peak_bytes().unwrap_or_default();
    operands.check(&fs::read(&c).context("reading the result")?)?;
    report.row(Row::new("memory.relay", megabytes(relay), "MB").goal(Goal::ValueBelow(GOAL_MB)));
    report.row(Row::new("memory.submitter", megabytes(submitter.peak_bytes), "MB"));
    report.row(Row::new("memory.volunteer", megabytes(volunteer), "MB"));
    report.row(Row::new("memory.job-time", submitter.wall.as_secs_f64(), "s"));
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
