//! `overhead`: a job through relay and volunteer against the same kernel called directly.

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use potluck_cli::client::{Client, JobInfo, MatrixInfo};
use potluck_kernels::{MatmulShape, Operands as Borrowed, cpu};
use serde_json::json;
use ureq::http::Method;

use crate::matrix::Operands;
use crate::row::{Goal, Report, Row, median};
use crate::swarm::Swarm;

const SHAPE: MatmulShape = MatmulShape { m: 2048, k: 2048, n: 2048 };
const ROUNDS: usize = 9;
const GOAL: f64 = 1.35;
/// Pause between two looks at a job's state: a hundredth of what the product takes.
const LOOK: Duration = Duration::from_millis(3);

/// Times the kernel, a job through the API in its three parts, and the `potluck submit` command, in turns.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut swarm = Swarm::start()?;
    let path = |name: &str| swarm.folder().join(name).display().to_string();
    let (a, b, c) = (path("A.npy"), path("B.npy"), path("C.npy"));
    let command: [&str; 6] = ["submit", "matmul", &a, &b, "--out", &c];
    let client = swarm.client()?;
    // Every job has operands of its own: neither the relay nor the volunteer has seen any part of them before.
    let mut seed = 0;
    let mut fresh = || {
        seed += 1;
        Operands::new(SHAPE, seed)
    };
    // The first job waits for the volunteer to connect and to calibrate.
    let first = fresh();
    first.check(&job(&client, &first.npy()?, 0)?.1)?;

    let [mut direct, mut upload, mut compute, mut fetch, mut total, mut by_command, mut ratios]: [Vec<f64>;
        7] = Default::default();
    let (mut command_ratios, mut cpu_seconds) = (Vec::new(), [0.0; 2]);
    for round in 1..=ROUNDS {
        let operands = fresh();
        let files = operands.npy()?;
        let start = Instant::now();
        black_box(cpu::matmul(SHAPE, Borrowed::F32 { a: &operands.a, bt: &operands.bt })?);
        let alone = start.elapsed().as_secs_f64();
        direct.push(alone);

        let before = swarm.cpu();
        let (parts, result) = job(&client, &files, round)?;
        let parts = parts.map(|part| part.as_secs_f64());
        for ((sum, after), before) in cpu_seconds.iter_mut().zip(swarm.cpu()).zip(before) {
            *sum += after.saturating_sub(before).as_secs_f64();
        }
        operands.check(&result)?;
        for (all, part) in [&mut upload, &mut compute, &mut fetch].into_iter().zip(parts) {
            all.push(part);
        }
        let together: f64 = parts.iter().sum();
        total.push(together);
        ratios.push(together / alone);

        let operands = fresh();
        operands.write(swarm.folder())?;
        let commanded = swarm.command(&command)?.wall.as_secs_f64();
        operands.check(&fs::read(&c).context("reading the result")?)?;
        by_command.push(commanded);
        command_ratios.push(commanded / alone);
    }

    let alone = median(&direct);
    let peer = format!("kernel called directly, {alone:.3} s");
    report.row(
        Row::new("overhead.end-to-end", median(&total), "s")
            .against(peer.clone(), median(&ratios))
            .goal(Goal::RatioAtMost(GOAL)),
    );
    for (name, values) in [("upload", &upload), ("compute", &compute), ("fetch", &fetch)] {
        let value = median(values);
        report.row(Row::new(format!("overhead.{name}"), value, "s").against(peer.clone(), value / alone));
    }
    report.row(
        Row::new("overhead.potluck-submit", median(&by_command), "s")
            .against(peer.clone(), median(&command_ratios)),
    );
    for (name, sum) in ["relay", "volunteer"].into_iter().zip(cpu_seconds) {
        let each = sum / ROUNDS as f64;
        report.row(
            Row::new(format!("overhead.{name}-cpu"), each, "CPU-s/job").against(peer.clone(), each / alone),
        );
    }
    Ok(())
}

/// Upload (until the job exists), computing (until the relay calls it done), and fetching, each timed; and the result.
fn job(client: &Client, files: &[Vec<u8>; 2], round: usize) -> Result<([Duration; 3], Vec<u8>)> {
    let silent = |_| {};
    let start = Instant::now();
    let send = |file: &Vec<u8>| -> Result<MatrixInfo> {
        let open = || Ok(file.as_slice());
        Ok(client.upload(&Method::POST, "/api/v1/matrices", file.len() as u64, open, silent)?)
    };
    let (a, b) = (send(&files[0])?, send(&files[1])?);
    let body = json!({ "kind": "matmul", "name": "overhead", "dtype": "f32", "a": a.id, "b": b.id });
    let key = format!("{round:032x}");
    let headers = [("idempotency-key", key.as_str())];
    let created: JobInfo = client.send_json(&Method::POST, "/api/v1/jobs", &headers, Some(&body), silent)?;
    let uploaded = start.elapsed();

    loop {
        let now: JobInfo = client.get(&format!("/api/v1/jobs/{}", created.id), silent)?;
        match now.state.as_str() {
            "done" => break,
            "running" => sleep(LOOK),
            other => bail!("the job is {other}"),
        }
    }
    let computed = start.elapsed();

    let path = format!("/api/v1/jobs/{}/result", created.id);
    let response = client.download(&path, &[("accept", "application/octet-stream")], silent)?;
    let mut result = Vec::new();
    response.into_body().into_with_config().limit(u64::MAX).reader().read_to_end(&mut result)?;
    let fetched = start.elapsed();
    let parts = [uploaded, computed.saturating_sub(uploaded), fetched.saturating_sub(computed)];
    Ok((parts, result))
}
