//! What `submit` and `fetch` have in common: find a job, wait for it, write its result.

use crate::client::{Client, Job, JobList, JobState, interrupted};
use crate::error::CliError;
use crate::progress::{Counted, Progress};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause between two looks at a job: quick at first for small jobs, then easy on the relay.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest such pause.
const MAX_LOOK: Duration = Duration::from_secs(1);
/// Parts of the progress bar of a job.
const BAR_PARTS: u64 = 1000;
/// Attempts to fetch a result that breaks off on its way.
const MAX_DOWNLOADS: u32 = 10;
/// Buffer between the network and the file.
const WRITE_BUFFER_BYTES: usize = 1 << 20;
/// Digits of a complete job id.
const ID_DIGITS: usize = 32;
/// Time over which the shown speed is averaged: a few shards of a slow volunteer.
const SPEED_WINDOW: Duration = Duration::from_secs(10);

/// The job whose id begins with `prefix`.
///
/// # Errors
/// None or several do; the relay does not answer.
pub fn find(client: &Client, prefix: &str) -> Result<Job, CliError> {
    let silent = |_| {};
    if prefix.len() == ID_DIGITS {
        return client.get(&format!("/api/v1/jobs/{prefix}"), silent).map_err(|error| match error {
            CliError::Api(api) if api.status == 404 => CliError::NoSuchJob(prefix.to_owned()),
            other => other,
        });
    }
    let list: JobList = client.get("/api/v1/jobs", silent)?;
    let mut matching: Vec<_> = list.jobs.into_iter().filter(|job| job.id.starts_with(prefix)).collect();
    match (matching.pop(), matching.len()) {
        (Some(job), 0) => Ok(job),
        (None, _) => Err(CliError::NoSuchJob(prefix.to_owned())),
        (Some(_), others) => {
            Err(CliError::AmbiguousJob { prefix: prefix.to_owned(), count: others + 1 })
        }
    }
}

/// Waits until a job is completed, through restarts of the relay.
///
/// # Errors
/// The job fails or is canceled; the relay stays away longer than the client's patience; Ctrl-C.
pub fn wait(client: &Client, id: &str) -> Result<Job, CliError> {
    let path = format!("/api/v1/jobs/{id}");
    let progress = Progress::parts("computing", BAR_PARTS);
    let mut speed = Speed::default();
    let mut look = FIRST_LOOK;
    loop {
        let job: Job = client.get(&path, |trouble| progress.trouble(&trouble)).map_err(|error| of_job(error, id))?;
        match job.state {
            JobState::Completed => {
                progress.finish(&format!(
                    "{} shard(s) accepted, {} rejected",
                    job.shards_accepted, job.shards_rejected
                ));
                return Ok(job);
            }
            JobState::Failed | JobState::Canceled => {
                let state = if job.state == JobState::Failed { "failed" } else { "was canceled" };
                return Err(CliError::JobEnded { job: job.id, state, reason: job.reason });
            }
            JobState::Running | JobState::Unknown => {}
        }
        let text = speed.describe(&job, Instant::now());
        progress.set((job.accepted_share() * BAR_PARTS as f64) as u64, &text);
        if !client.stop().sleep(look) {
            return Err(CliError::Interrupted { job: Some(id.to_owned()) });
        }
        look = (look * 2).min(MAX_LOOK);
    }
}

/// Adds the job's id to an error that came while waiting for it.
fn of_job(error: CliError, id: &str) -> CliError {
    match error {
        CliError::Interrupted { job: None } => CliError::Interrupted { job: Some(id.to_owned()) },
        other => other,
    }
}

/// The job's speed over the last seconds.
#[derive(Default)]
struct Speed {
    seen: std::collections::VecDeque<(Instant, f64)>,
}

impl Speed {
    fn describe(&mut self, job: &Job, now: Instant) -> String {
        let share = job.accepted_share();
        self.seen.push_back((now, share));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > SPEED_WINDOW) {
            self.seen.pop_front();
        }
        let volunteers = job.volunteers;
        let plural = if volunteers == 1 { "" } else { "s" };
        let mut text = format!("{volunteers} volunteer{plural}, {} rejected", job.shards_rejected);
        let Some((first, before)) = self.seen.front() else { return text };
        let (elapsed, gained) = (now.duration_since(*first).as_secs_f64(), share - before);
        if elapsed > 0.3 && gained > 0.0 {
            let gflops = gained * job.flops() / elapsed / 1e9;
            let shards = gained * job.units as f64 / elapsed;
            let left = (1.0 - share) * elapsed / gained;
            text = format!("{gflops:.1} GFLOP/s, {shards:.1} units/s, {left:.0} s left, {text}");
        } else if volunteers == 0 {
            text = "waiting for volunteers: open the relay's page in a browser and lend the tab".to_owned();
        }
        text
    }
}

/// Fetches a completed job's result into `out`: through a temporary file beside it, so that `out` is whole or not there.
///
/// # Errors
/// The file cannot be written; the relay does not answer; Ctrl-C.
pub fn download(client: &Client, id: &str, out: &Path) -> Result<u64, CliError> {
    let written = |cause| CliError::file(out, "written", cause);
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let path = format!("/api/v1/jobs/{id}/result");
    let mut breaks = 0;
    loop {
        let mut temporary = tempfile::Builder::new()
            .prefix(".potluck-")
            .suffix(".npy.part")
            .tempfile_in(&folder)
            .map_err(written)?;
        let response = {
            let progress = Progress::parts("result", 1);
            client
                .download(&path, &[("accept", "application/octet-stream")], |trouble| progress.trouble(&trouble))
                .map_err(|error| of_job(error, id))?
        };
        let length = response.body().content_length();
        let progress = Progress::bytes("result", length.unwrap_or(0));
        let stop = client.stop().clone();
        let keep_going = || if stop.count() == 0 { Ok(()) } else { Err(interrupted()) };
        let copied = {
            let body = response.into_body().into_with_config().limit(u64::MAX).reader();
            let mut reader = Counted::new(body, &progress, &keep_going);
            copy(&mut reader, temporary.as_file_mut())
        };
        match copied {
            Ok(bytes) if length.is_none_or(|length| length == bytes) => {
                temporary.as_file().sync_all().map_err(written)?;
                set_usual_permissions(temporary.as_file()).map_err(written)?;
                temporary.persist(out).map_err(|error| written(error.error))?;
                progress.finish(&format!("{} written to {}", indicatif::HumanBytes(bytes), out.display()));
                return Ok(bytes);
            }
            _ if stop.count() > 0 => return Err(CliError::Interrupted { job: Some(id.to_owned()) }),
            Err(Copy::Write(cause)) => return Err(written(cause)),
            broken => {
                breaks += 1;
                let cause = match broken {
                    Err(Copy::Read(cause)) => cause.to_string(),
                    _ => "the result ended early".to_owned(),
                };
                tracing::info!(%cause, breaks, "the result broke off; fetching it again");
                if breaks >= MAX_DOWNLOADS {
                    return Err(CliError::Unreachable {
                        relay: client.relay().to_owned(),
                        waited: Duration::ZERO,
                        cause: format!("the result broke off {breaks} times, last: {cause}"),
                    });
                }
            }
        }
    }
}

enum Copy {
    Read(io::Error),
    Write(io::Error),
}

/// Like `io::copy`, but says which side failed.
fn copy(from: &mut impl io::Read, to: &mut std::fs::File) -> Result<u64, Copy> {
    let mut to = BufWriter::with_capacity(WRITE_BUFFER_BYTES, to);
    let mut buffer = vec![0; WRITE_BUFFER_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                to.write_all(&buffer[..length]).map_err(Copy::Write)?;
                total += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Copy::Read(error)),
        }
    }
    to.flush().map_err(Copy::Write)?;
    Ok(total)
}

/// Temporary files are made for their owner only; a result is a file like others.
fn set_usual_permissions(file: &std::fs::File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(())
    }
}
