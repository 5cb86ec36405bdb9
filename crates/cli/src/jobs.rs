//! `potluck jobs`, `status`, `cancel` and `fetch`.

use crate::args::{FetchArgs, JobsArgs, StatusArgs};
use crate::client::{Client, JobDetail, JobInfo};
use crate::error::CliError;
use crate::job::{accepted_share, download, find, rejected, wait};
use crate::runs::control;
use serde_json::json;
use ureq::http::Method;

/// Digits of an id in a table: enough to tell 256 active jobs apart, and each can be typed.
const SHORT_ID: usize = 8;
/// Characters of a name in a table.
const SHOWN_NAME_CHARS: usize = 40;

/// Lists the jobs.
///
/// # Errors
/// The relay does not answer or refuses.
pub fn list(args: &JobsArgs, client: &Client) -> Result<(), CliError> {
    let jobs: Vec<JobInfo> = client.get("/api/v1/jobs", |_| {})?;
    if args.json {
        for job in &jobs {
            println!("{}", json!(job));
        }
        return Ok(());
    }
    if jobs.is_empty() {
        println!("no jobs; `potluck submit matmul A.npy B.npy --out C.npy` makes one");
        return Ok(());
    }
    println!(
        "{:<SHORT_ID$}  {:<9}  {:>5}  {:<5}  {:<22}  NAME",
        "JOB", "STATE", "DONE", "DTYPE", "M x K x N"
    );
    for job in &jobs {
        let shape = format!("{} x {} x {}", job.m, job.k, job.n);
        let id: String = job.id.chars().take(SHORT_ID).collect();
        let name: String = job.name.chars().filter(|c| !c.is_control()).take(SHOWN_NAME_CHARS).collect();
        let (state, dtype, done) = (&job.state, &job.dtype, percent(job));
        println!("{id:<SHORT_ID$}  {state:<9}  {done:>4}%  {dtype:<5}  {shape:<22}  {name}");
    }
    Ok(())
}

fn percent(job: &JobInfo) -> u64 {
    (accepted_share(job) * 100.0) as u64
}

/// Shows one job.
///
/// # Errors
/// There is no such job; the relay does not answer or refuses.
pub fn status(args: &StatusArgs, client: &Client) -> Result<(), CliError> {
    show(&find(client, &args.job)?, args.json);
    Ok(())
}

fn show(detail: &JobDetail, json: bool) {
    if json {
        println!("{}", json!(detail));
        return;
    }
    let job = &detail.job;
    let name: String = job.name.chars().filter(|c| !c.is_control()).collect();
    println!("job         {}", job.id);
    println!("name        {name}");
    println!("state       {}", job.state);
    println!("product     {} x {} x {}, {}", job.m, job.k, job.n, job.dtype);
    match job.progress {
        Some(progress) => {
            println!("accepted    {} of {} units ({} %)", progress.accepted, progress.units, percent(job));
            println!("volunteers  {} at work", progress.volunteers);
        }
        None => println!("accepted    {} %", percent(job)),
    }
    println!("shards      {} accepted, {} rejected", detail.shards, rejected(detail));
    println!("checking    {:.3} s of the relay's processor", detail.check_s);
    for part in &detail.contributors {
        let who: String = part.volunteer.chars().take(SHORT_ID).collect();
        println!("            {who}  {:<6}  {} shard(s), {:.1} s", part.backend, part.shards, part.compute_s);
    }
}

/// Gives a job up, or a run.
///
/// # Errors
/// There is neither, or it has ended; the relay does not answer or refuses.
pub fn cancel(args: &StatusArgs, client: &Client) -> Result<(), CliError> {
    let id = match find(client, &args.job) {
        Ok(detail) => detail.job.id,
        Err(CliError::NoSuchJob(prefix)) => {
            return match control::cancel(&prefix, args.json, client) {
                Err(CliError::NoSuchRun(prefix)) => Err(CliError::NoSuchJob(prefix)),
                other => other,
            };
        }
        Err(other) => return Err(other),
    };
    let job: JobInfo = client.send_json(&Method::DELETE, &format!("/api/v1/jobs/{id}"), &[], None, |_| {})?;
    if args.json {
        println!("{}", json!(job));
    } else {
        println!("job {} is {}", job.id, job.state);
    }
    Ok(())
}

/// Waits for a job and writes its result.
///
/// # Errors
/// There is no such job, it failed; the relay does not answer; the file cannot be written.
pub fn fetch(args: &FetchArgs, client: &Client) -> Result<(), CliError> {
    let id = find(client, &args.job)?.job.id;
    let detail = wait(client, &id)?;
    let bytes = download(client, &id, &args.out)?;
    if args.json {
        let mut object = json!(detail);
        object["out"] = json!(args.out);
        object["bytes"] = json!(bytes);
        println!("{object}");
    } else {
        println!("{}", args.out.display());
    }
    Ok(())
}
