//! `potluck submit`: send the inputs, create the job, wait, write the result.

use crate::args::MatmulArgs;
use crate::client::{Client, JobInfo, MatrixInfo, NewJob, interrupted};
use crate::error::CliError;
use crate::job::{download, rejected, wait};
use crate::npy::{NpyFile, check_product};
use crate::progress::{Counted, Progress};
use potluck_types::DType;
use potluck_types::limits::MAX_JOB_NAME_CHARS;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::time::Instant;
use ureq::http::Method;

/// Submits a matrix product and, unless detached, waits for it.
///
/// # Errors
/// An input is refused, the relay does not answer, the job fails, the result cannot be written.
pub fn matmul(args: &MatmulArgs, client: &Client) -> Result<(), CliError> {
    let started = Instant::now();
    let (a, b) = (NpyFile::open(&args.a)?, NpyFile::open(&args.b)?);
    check_product(&a, &b, args.transpose_b)?;
    let dtype = DType::from(args.dtype);
    let name: String = args
        .name
        .clone()
        .unwrap_or_else(|| format!("{} x {}", a.label(), b.label()))
        .chars()
        .take(MAX_JOB_NAME_CHARS)
        .collect();
    let a_matrix = upload(client, &a)?;
    let b_matrix = if args.a == args.b { a_matrix.clone() } else { upload(client, &b)? };
    let job = create(
        client,
        &NewJob {
            kind: "matmul".into(),
            a: a_matrix.id,
            b: b_matrix.id,
            dtype: Some(dtype.name().into()),
            transpose_b: args.transpose_b,
            name: Some(name),
        },
    )?;
    let Some(out) = &args.out else {
        tell_created(args, &job);
        return Ok(());
    };
    eprintln!("job {} ({} x {} x {}, {}): \"{}\"", job.id, job.m, job.k, job.n, job.dtype, job.name);
    let computing = Instant::now();
    let detail = wait(client, &job.id)?;
    let compute_s = computing.elapsed().as_secs_f64();
    let bytes = download(client, &job.id, out)?;
    let total_s = started.elapsed().as_secs_f64();
    let gflops = job.flops as f64 / compute_s / 1e9;
    if args.json {
        let mut outcome = json!(detail);
        outcome["out"] = json!(out);
        outcome["bytes"] = json!(bytes);
        outcome["compute_s"] = json!(compute_s);
        outcome["total_s"] = json!(total_s);
        outcome["gflops"] = json!(gflops);
        println!("{outcome}");
    } else {
        println!(
            "{}: {total_s:.1} s in all, {compute_s:.1} s computing, {gflops:.1} GFLOP/s, {} rejected",
            out.display(),
            rejected(&detail)
        );
    }
    Ok(())
}

fn tell_created(args: &MatmulArgs, job: &JobInfo) {
    if args.json {
        println!("{}", json!(job));
    } else {
        println!("{}", job.id);
        eprintln!("`potluck fetch {} --out FILE` waits for the result", job.id);
    }
}

/// Sends one matrix as a stream; memory holds a buffer of it.
///
/// # Errors
/// The file cannot be read, the relay refuses it or does not answer.
pub fn upload(client: &Client, file: &NpyFile) -> Result<MatrixInfo, CliError> {
    let progress = Progress::bytes(&file.label(), file.bytes);
    let stop = client.stop().clone();
    let keep_going = || if stop.count() == 0 { Ok(()) } else { Err(interrupted()) };
    let open = || {
        let opened = File::open(&file.path).map_err(|cause| CliError::file(&file.path, "read", cause))?;
        // What was announced is sent, even if the file grows meanwhile.
        Ok(Counted::new(opened.take(file.bytes), &progress, &keep_going))
    };
    let matrix: MatrixInfo =
        client.upload(&Method::POST, "/api/v1/matrices", file.bytes, open, |trouble| {
            progress.trouble(&trouble);
        })?;
    progress.finish(&format!("{:?} of {} sent", matrix.shape, matrix.dtype));
    Ok(matrix)
}

/// Creates a job. The key makes a repeated request harmless: the relay answers with the job that it made before.
fn create(client: &Client, job: &NewJob) -> Result<JobInfo, CliError> {
    let key = idempotency_key()?;
    let headers = [("idempotency-key", key.as_str())];
    client.send_json(&Method::POST, "/api/v1/jobs", &headers, Some(&json!(job)), |trouble| {
        tracing::info!(cause = %trouble.cause, "the relay does not answer; trying again");
    })
}

/// A random key for a creation that may have to be sent twice.
pub(crate) fn idempotency_key() -> Result<String, CliError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|cause| CliError::System {
        what: "the system gives no random numbers",
        cause: std::io::Error::other(cause),
    })?;
    Ok(potluck_types::JobId(key).to_string())
}
