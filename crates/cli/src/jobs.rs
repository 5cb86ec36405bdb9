//! `potluck jobs`, `status`, `cancel` and `fetch`.

use crate::args::{FetchArgs, JobsArgs, StatusArgs};
use crate::client::{Client, Job, JobList, JobState};
use crate::error::CliError;
use crate::job::{download, find, wait};
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
    let list: JobList = client.get("/api/v1/jobs", |_| {})?;
    if args.json {
        for job in &list.jobs {
            println!("{}", object(job));
        }
        return Ok(());
    }
    if list.jobs.is_empty() {
        println!("no jobs; `potluck submit matmul A.npy B.npy --out C.npy` makes one");
        return Ok(());
    }
    println!("{:<SHORT_ID$}  {:<9}  {:>5}  {:<5}  {:<22}  NAME", "JOB", "STATE", "DONE", "DTYPE", "M x K x N");
    for job in &list.jobs {
        let shape = format!("{} x {} x {}", job.m, job.k, job.n);
        let id: String = job.id.chars().take(SHORT_ID).collect();
        let name: String = job.name.chars().filter(|c| !c.is_control()).take(SHOWN_NAME_CHARS).collect();
        let (state, dtype, done) = (job.state.name(), &job.dtype, percent(job));
        println!("{id:<SHORT_ID$}  {state:<9}  {done:>4}%  {dtype:<5}  {shape:<22}  {name}");
    }
    Ok(())
}

fn percent(job: &Job) -> u64 {
    (job.accepted_share() * 100.0) as u64
}

fn object(job: &Job) -> serde_json::Value {
    json!({
        "job": job.id, "name": job.name, "state": job.state.name(), "dtype": job.dtype,
        "m": job.m, "k": job.k, "n": job.n, "units": job.units, "units_accepted": job.units_accepted,
        "shards_accepted": job.shards_accepted, "shards_rejected": job.shards_rejected,
        "volunteers": job.volunteers, "reason": job.reason,
    })
}

/// Shows one job.
///
/// # Errors
/// There is no such job; the relay does not answer or refuses.
pub fn status(args: &StatusArgs, client: &Client) -> Result<(), CliError> {
    show(&find(client, &args.job)?, args.json);
    Ok(())
}

fn show(job: &Job, json: bool) {
    if json {
        println!("{}", object(job));
        return;
    }
    let name: String = job.name.chars().filter(|c| !c.is_control()).collect();
    println!("job         {}", job.id);
    println!("name        {name}");
    println!("state       {}", job.state.name());
    if let Some(reason) = &job.reason {
        println!("reason      {reason}");
    }
    println!("product     {} x {} x {}, {}", job.m, job.k, job.n, job.dtype);
    println!("accepted    {} of {} units ({} %)", job.units_accepted, job.units, percent(job));
    println!("shards      {} accepted, {} rejected", job.shards_accepted, job.shards_rejected);
    println!("volunteers  {}", job.volunteers);
}

/// Gives a job up.
///
/// # Errors
/// There is no such job, or it has ended; the relay does not answer or refuses.
pub fn cancel(args: &StatusArgs, client: &Client) -> Result<(), CliError> {
    let id = find(client, &args.job)?.id;
    let job: Job = client.send_json(&Method::DELETE, &format!("/api/v1/jobs/{id}"), &[], None, |_| {})?;
    if job.state != JobState::Canceled {
        return Err(CliError::Input {
            message: format!("job {id} is {} and cannot be canceled any more", job.state.name()),
            hint: format!("`potluck status {id}` shows it"),
        });
    }
    show(&job, args.json);
    Ok(())
}

/// Waits for a job and writes its result.
///
/// # Errors
/// There is no such job, it failed; the relay does not answer; the file cannot be written.
pub fn fetch(args: &FetchArgs, client: &Client) -> Result<(), CliError> {
    let id = find(client, &args.job)?.id;
    let job = wait(client, &id)?;
    let bytes = download(client, &id, &args.out)?;
    if args.json {
        let mut object = object(&job);
        object["out"] = json!(args.out);
        object["bytes"] = json!(bytes);
        println!("{object}");
    } else {
        println!("{}", args.out.display());
    }
    Ok(())
}
