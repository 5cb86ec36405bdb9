//! What `submit` and `fetch` have in common: find a job, wait for it, write its result.

use crate::client::{Client, JobDetail, JobInfo, interrupted};
use crate::error::CliError;
use crate::progress::{Counted, Progress};
use indicatif::{HumanBytes, HumanDuration};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time that the relay may hold back an answer until there is news. The bar moves at least this often.
const NEWS_WAIT_MS: u64 = 1000;
/// Shortest pause between two looks at a job whose units are accepted faster than a person can watch.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
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
pub fn find(client: &Client, prefix: &str) -> Result<JobDetail, CliError> {
    let silent = |_| {};
    let id = if prefix.len() == ID_DIGITS {
        prefix.to_owned()
    } else {
        let jobs: Vec<JobInfo> = client.get("/api/v1/jobs", silent)?;
        let mut matching: Vec<_> = jobs.into_iter().filter(|job| job.id.starts_with(prefix)).collect();
        match (matching.pop(), matching.len()) {
            (Some(job), 0) => job.id,
            (None, _) => return Err(CliError::NoSuchJob(prefix.to_owned())),
            (Some(_), others) => {
                return Err(CliError::AmbiguousJob { prefix: prefix.to_owned(), count: others + 1 });
            }
        }
    };
    client.get(&format!("/api/v1/jobs/{id}"), silent).map_err(|error| match error {
        CliError::Api(api) if api.status == 404 => CliError::NoSuchJob(prefix.to_owned()),
        other => other,
    })
}

/// Waits until a job is done, through restarts of the relay.
///
/// # Errors
/// The job was canceled; the relay stays away longer than the client's patience; Ctrl-C.
pub fn wait(client: &Client, id: &str) -> Result<JobDetail, CliError> {
    let progress = Progress::parts("computing", BAR_PARTS);
    let mut speed = Speed::default();
    let mut seen = None;
    loop {
        // The first answer comes at once; later ones when there is news.
        let path = match seen {
            None => format!("/api/v1/jobs/{id}"),
            Some(seen) => format!("/api/v1/jobs/{id}?wait_ms={NEWS_WAIT_MS}&seen={seen}"),
        };
        let detail: JobDetail =
            client.get(&path, |trouble| progress.trouble(&trouble)).map_err(|error| of_job(error, id))?;
        match detail.job.state.as_str() {
            "done" => {
                progress.finish(&format!(
                    "done by {} volunteer(s): {} shard(s) accepted, {} result(s) rejected",
                    detail.contributors.len(),
                    detail.shards,
                    rejected(&detail)
                ));
                return Ok(detail);
            }
            "canceled" => {
                return Err(CliError::JobEnded { job: detail.job.id, state: "was canceled", reason: None });
            }
            _ => {}
        }
        let text = speed.describe(&detail, Instant::now());
        progress.set((accepted_share(&detail.job) * BAR_PARTS as f64) as u64, &text);
        seen = Some(detail.job.progress.map_or(0, |progress| progress.accepted));
        if !client.stop().sleep(LOOK_PAUSE) {
            return Err(CliError::Interrupted { job: Some(id.to_owned()) });
        }
    }
}

/// Part of the job's units that was accepted, 0 to 1.
pub fn accepted_share(job: &JobInfo) -> f64 {
    match job.progress {
        _ if job.state == "done" => 1.0,
        Some(progress) if progress.units > 0 => f64::from(progress.accepted) / f64::from(progress.units),
        _ => 0.0,
    }
}

/// Results of the job that were rejected, over all volunteers.
pub fn rejected(detail: &JobDetail) -> u64 {
    detail.rejections.iter().map(|rejection| rejection.count).sum()
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
    fn describe(&mut self, detail: &JobDetail, now: Instant) -> String {
        let share = accepted_share(&detail.job);
        self.seen.push_back((now, share));
        while self.seen.len() > 2
            && self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > SPEED_WINDOW)
        {
            self.seen.pop_front();
        }
        let volunteers = detail.job.progress.map_or(0, |progress| progress.volunteers);
        let text = format!("{volunteers} volunteer(s), {} rejected", rejected(detail));
        let Some((first, before)) = self.seen.front() else { return text };
        let (elapsed, gained) = (now.duration_since(*first).as_secs_f64(), share - before);
        if elapsed > 0.3 && gained > 0.0 {
            let gflops = gained * detail.job.flops as f64 / elapsed / 1e9;
            let left = Duration::from_secs_f64(((1.0 - share) * elapsed / gained).min(1e9));
            format!("{gflops:.1} GFLOP/s, {} left, {text}", HumanDuration(left))
        } else if volunteers == 0 {
            "waiting for volunteers: open the relay's page in a browser and lend the tab".to_owned()
        } else {
            text
        }
    }
}

/// Fetches a done job's result into `out`: through a temporary file beside it, so that `out` is whole or not there.
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
                .download(&path, &[("accept", "application/octet-stream")], |trouble| {
                    progress.trouble(&trouble);
                })
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
                progress.finish(&format!("{} written to {}", HumanBytes(bytes), out.display()));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(accepted: u32) -> JobDetail {
        serde_json::from_value(serde_json::json!({
            "id": "00", "name": "n", "state": "running", "dtype": "f32", "m": 1000, "k": 1000, "n": 1000,
            "flops": 2_000_000_000_u64, "created_ms": 0, "ended_ms": null, "shards": 0, "check_s": 0.0,
            "progress": { "units": 100, "free": 0, "in_flight": 0, "accepted": accepted, "volunteers": 2, "rejected": 1 },
            "contributors": [], "rejections": [{ "volunteer": "v", "reason": "wrong_product", "count": 3 }],
        }))
        .unwrap()
    }

    #[test]
    fn speed_and_time_left_follow_the_last_seconds() {
        let mut speed = Speed::default();
        let start = Instant::now();
        assert_eq!(speed.describe(&detail(0), start), "2 volunteer(s), 3 rejected");
        let text = speed.describe(&detail(50), start + Duration::from_secs(5));
        assert_eq!(text, "0.2 GFLOP/s, 5 seconds left, 2 volunteer(s), 3 rejected");
        // A minute later only the last seconds count.
        for second in 6..70 {
            speed.describe(&detail(50), start + Duration::from_secs(second));
        }
        let text = speed.describe(&detail(60), start + Duration::from_secs(70));
        assert!(text.starts_with("0.0 GFLOP/s, 40 seconds left"), "{text}");
    }
}
