//! What can go wrong, what to do about it, and the exit code that says it to scripts.

use crate::cdp::CdpError;
use crate::client::ApiError;
use crate::model::ModelError;
use crate::run_file::RunFileError;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit codes of the command. `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed: the job failed or was canceled, a file could not be written, the browser did not start.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The relay could not be reached.
    Unreachable = 3,
    /// The input was refused.
    RefusedInput = 4,
    /// The token is missing or wrong.
    NotAllowed = 5,
    /// There is no such job or run.
    NotFound = 6,
    /// The relay's log contradicts itself or what was seen of it: it was forked or rolled back.
    Forked = 7,
    /// Ctrl-C or SIGTERM ended a command before it was done.
    Interrupted = 130,
}

/// The text of `--help` about exit codes and environment.
pub const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    failed (the job failed or was canceled, a replay refuted an update, a file or the browser could not be used)
  2    the command line is wrong
  3    the relay could not be reached
  4    the input was refused
  5    the token is missing or wrong
  6    there is no such job or run
  7    the relay's log was forked or rolled back: it shows different people different things
  130  interrupted

Environment:
  POTLUCK_RELAY       address of the relay, in place of --relay
  POTLUCK_TOKEN       submitter's token, in place of --token
  POTLUCK_TOKEN_FILE  file that holds it, in place of --token-file
  POTLUCK_KEY_FILE    file with your key where you sign, in place of --key
  CHROME              Chromium or Chrome for `potluck tabs`
  RUST_LOG            what is logged to stderr, in place of --log (for example potluck_relay=debug)";

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The relay does not answer.
    #[error("the relay at {relay} could not be reached{}: {cause}", after(*.waited))]
    Unreachable {
        /// Its address.
        relay: String,
        /// How long it was tried.
        waited: Duration,
        /// What happened last.
        cause: String,
    },
    /// The relay answered with an error.
    #[error("{0}")]
    Api(ApiError),
    /// The relay's answer is not what this version understands.
    #[error("the relay's answer to {request} could not be read: {cause}")]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        cause: String,
    },
    /// An input was refused before it was sent.
    #[error("{message}")]
    Input {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Arguments do not fit together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A file could not be read or written.
    #[error("{} could not be {action}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        action: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
    /// No job has this id.
    #[error("no job's id begins with {0}")]
    NoSuchJob(String),
    /// Several jobs' ids begin like this.
    #[error("{count} jobs' ids begin with {prefix}")]
    AmbiguousJob {
        /// What was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The job ended without a result.
    #[error("job {job} {state}{}", because(.reason.as_deref()))]
    JobEnded {
        /// The job.
        job: String,
        /// `failed` or `was canceled`.
        state: &'static str,
        /// Why, if the relay says.
        reason: Option<String>,
    },
    /// No run has this id.
    #[error("no run's id begins with {0}")]
    NoSuchRun(String),
    /// Several runs' ids begin like this.
    #[error("{count} runs' ids begin with {prefix}")]
    AmbiguousRun {
        /// What was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The run ended before its last round.
    #[error("run {run} was canceled{}", because(.reason.as_deref()))]
    RunCanceled {
        /// The run.
        run: String,
        /// Why, if the relay says.
        reason: Option<String>,
    },
    /// Ctrl-C while a run was shown.
    #[error("interrupted; run {0} goes on without this command")]
    LeftRun(String),
    /// What the relay says of a round, or gives out for it, contradicts itself.
    #[error("{what}: {cause}")]
    Record {
        /// Of which round or worker.
        what: String,
        /// What does not fit.
        cause: String,
    },
    /// Updates that their replay does not confirm.
    #[error("{refuted} of {replayed} replayed update(s) of round {round} refuted")]
    Refuted {
        /// Not confirmed.
        refuted: usize,
        /// All that were replayed.
        replayed: usize,
        /// The round.
        round: u64,
    },
    /// The browser failed.
    #[error(transparent)]
    Browser(#[from] CdpError),
    /// The volunteer cannot go on.
    #[error("{message}")]
    Volunteer {
        /// Why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The relay's log contradicts what was seen of it.
    #[error("{message}")]
    Forked {
        /// What was seen.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The relay could not be started or stopped with an error.
    #[error("{message}")]
    Relay {
        /// Why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Ctrl-C.
    #[error("interrupted{}", job_goes_on(.job.as_deref()))]
    Interrupted {
        /// The job that goes on without us.
        job: Option<String>,
    },
    /// The system refused something else.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        cause: std::io::Error,
    },
}

fn after(waited: Duration) -> String {
    if waited < Duration::from_secs(1) { String::new() } else { format!(" for {} s", waited.as_secs()) }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn job_goes_on(job: Option<&str>) -> String {
    job.map(|job| format!("; job {job} goes on without this command")).unwrap_or_default()
}

impl CliError {
    /// A file that could not be read, written, ….
    pub(crate) fn file(path: &Path, action: &'static str, cause: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), action, cause }
    }

    /// The process's exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Input { .. } | Self::File { action: "read", .. } => Exit::RefusedInput,
            Self::Usage { .. } | Self::AmbiguousJob { .. } | Self::AmbiguousRun { .. } => Exit::Usage,
            Self::NoSuchJob(_) | Self::NoSuchRun(_) => Exit::NotFound,
            Self::Forked { .. } => Exit::Forked,
            Self::Interrupted { .. } | Self::LeftRun(_) => Exit::Interrupted,
            Self::Api(error) => match error.status {
                400 | 411 | 413 | 415 | 422 => Exit::RefusedInput,
                401 | 403 => Exit::NotAllowed,
                404 => Exit::NotFound,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }

    /// A stable name, for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "relay_unreachable",
            Self::Api(error) => &error.code,
            Self::Answer { .. } => "unexpected_answer",
            Self::Input { .. } => "input_refused",
            Self::Usage { .. } => "usage",
            Self::File { .. } => "file",
            Self::NoSuchJob(_) => "no_such_job",
            Self::AmbiguousJob { .. } => "ambiguous_job",
            Self::JobEnded { .. } => "job_ended",
            Self::NoSuchRun(_) => "no_such_run",
            Self::AmbiguousRun { .. } => "ambiguous_run",
            Self::RunCanceled { .. } => "run_canceled",
            Self::Record { .. } => "bad_record",
            Self::Refuted { .. } => "refuted",
            Self::Browser(_) => "browser",
            Self::Volunteer { .. } => "volunteer",
            Self::Forked { .. } => "log_forked",
            Self::Relay { .. } => "relay",
            Self::Interrupted { .. } | Self::LeftRun(_) => "interrupted",
            Self::System { .. } => "system",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => {
                "check that the relay runs (potluck relay) and that --relay or POTLUCK_RELAY names it"
                    .to_owned()
            }
            Self::Api(error) if error.status == 401 => {
                "give --token-file with the path that `potluck relay` printed, or set POTLUCK_TOKEN"
                    .to_owned()
            }
            Self::Api(error) => return error.hint.clone(),
            Self::Answer { .. } => {
                "the address may not be a relay's, or the relay may be of another version".to_owned()
            }
            Self::Input { hint, .. }
            | Self::Usage { hint, .. }
            | Self::Volunteer { hint, .. }
            | Self::Forked { hint, .. }
            | Self::Relay { hint, .. } => hint.clone(),
            Self::File { action: "read", .. } => "check that the path is right and may be read".to_owned(),
            Self::File { .. } => "check that the folder exists, may be written, and has space".to_owned(),
            Self::NoSuchJob(_) => "`potluck jobs` lists the jobs of the relay".to_owned(),
            Self::AmbiguousJob { .. } => "give more of the id; `potluck jobs` shows them".to_owned(),
            Self::JobEnded { .. } => "submit it again if its result is still needed".to_owned(),
            Self::NoSuchRun(_) => "`potluck runs` lists the runs of the relay".to_owned(),
            Self::AmbiguousRun { .. } => "give more of the id".to_owned(),
            Self::RunCanceled { .. } => {
                "`potluck model export` still gets what it learned; submit the run file again to start over"
                    .to_owned()
            }
            Self::LeftRun(run) => format!("potluck watch {run} shows it again"),
            Self::Record { .. } => {
                "try again; if it says the same, the relay's records are damaged or it does not tell the truth"
                    .to_owned()
            }
            Self::Refuted { .. } => {
                "replay it on another machine too; two independent refutations prove the update wrong"
                    .to_owned()
            }
            Self::Browser(error) => error.hint().to_owned(),
            Self::Interrupted { job: Some(job) } => {
                format!(
                    "potluck fetch {job} --out FILE waits for the result; potluck cancel {job} gives it up"
                )
            }
            Self::Interrupted { job: None } | Self::System { .. } => return None,
        })
    }

    /// The lines that people see: `error: …`, and `hint: …` where there is one.
    pub fn lines(&self) -> String {
        let mut lines = format!("error: {self}");
        if let Some(hint) = self.hint() {
            // Writing to a String does not fail.
            let _ = write!(lines, "\nhint: {hint}");
        }
        lines
    }

    /// The object that programs see.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "error": { "code": self.code(), "message": self.to_string(), "hint": self.hint() },
            "exit": self.exit() as u8,
        });
        if let Self::Api(ApiError { missing, .. }) = self
            && !missing.is_empty()
        {
            json["error"]["missing"] = serde_json::json!(missing);
        }
        json
    }
}

impl From<RunFileError> for CliError {
    fn from(error: RunFileError) -> Self {
        let message = error.to_string();
        let hint = match error {
            RunFileError::File { path, cause } => return Self::File { path, action: "read", cause },
            RunFileError::Line { hint, .. } => hint,
            RunFileError::TooLong { .. } => "name a run.toml; the corpus is named in it".to_owned(),
            RunFileError::NoText { .. } => {
                "name the files themselves, or a folder of .txt, .md or .text files".to_owned()
            }
            RunFileError::Files { .. } => "join them into fewer files".to_owned(),
            RunFileError::Text { .. } | RunFileError::Data(_) => {
                "the corpus may be any UTF-8 text of at least a few thousand characters".to_owned()
            }
        };
        Self::Input { message, hint }
    }
}

impl From<ModelError> for CliError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::File { path, action, cause } => Self::File { path, action, cause },
            error => Self::Input { message: error.to_string(), hint: error.hint().to_owned() },
        }
    }
}
