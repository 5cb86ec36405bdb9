//! What an operator of a relay gives on the command line.

use clap::{Args, Subcommand};
use potluck_relay::{BlobsUrl, NodeUrl, StoreUrl};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `potluck relay`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RelayArgs {
    /// How it is served.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// What to do with a relay's data instead.
    #[command(subcommand)]
    pub command: Option<RelayCommand>,
}

/// How a relay or mirror is served.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8787]
    #[arg(long, env = "POTLUCK_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// One of several nodes of a relay: where the others reach it, http://HOST:PORT in a network of the operator's. They have
    /// --store, --blobs and the relay's key in common
    #[arg(long, env = "POTLUCK_NODE", value_name = "URL")]
    pub node: Option<NodeUrl>,
    /// Where the data lies.
    #[command(flatten)]
    pub data: DataArgs,
    /// How the log on stderr is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Print one line of JSON with `address`, `key` and `token_path` instead of text
    #[arg(long)]
    pub json: bool,
}

/// How a relay's log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// An object of JSON a line
    Json,
}

/// A relay's data: named, or by its settings.
#[derive(Debug, Clone, Default, Args)]
pub struct DataArgs {
    /// Folder for jobs, blobs and tokens; made if it does not exist [default: potluck-data]
    #[arg(long, env = "POTLUCK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// PostgreSQL database for the records, postgres://USER@HOST/NAME, instead of a file in the folder; a password is better
    /// given by the environment variable, or by a `.pgpass` file
    #[arg(long, env = "POTLUCK_STORE", value_name = "URL", hide_env_values = true)]
    pub store: Option<StoreUrl>,
    /// Place in an S3 bucket for the blobs, s3://BUCKET/FOLDER, instead of a folder; AWS_ENDPOINT_URL, AWS_REGION and
    /// AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY say where it is and how to get in
    #[arg(long, env = "POTLUCK_BLOBS", value_name = "URL")]
    pub blobs: Option<BlobsUrl>,
    /// Settings file [default: potluck.toml, if the current folder has one]
    #[arg(long, env = "POTLUCK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What else there is to do with a relay's data.
#[derive(Debug, Clone, Subcommand)]
pub enum RelayCommand {
    /// Copy a relay's data, while it runs or not, so that it can go on from there
    #[command(after_help = "Examples:
  potluck relay backup --data /var/lib/potluck --to /mnt/backups/potluck --with-keys
  potluck relay backup --to /mnt/backups/potluck --quick --keep 30

What earlier backups have is not copied again. Every file is read back and compared by its hash, and the log against its \
checkpoint. A backup that is cut short is none. Ends with exit code 1 if the relay's own disk holds something damaged: the \
backup is made, and says what it lacks.

Without --with-keys the relay's key and its tokens are not in it: keep a copy of relay.key elsewhere, for without it \
nobody can go on with the log. All files are readable by their owner alone.")]
    Backup(BackupArgs),
    /// Fill an empty data folder from a backup
    #[command(after_help = "Examples:
  potluck relay restore --from /mnt/backups/potluck --data /var/lib/potluck
  potluck relay restore --from /mnt/backups/potluck --data new --newer-log https://mirror.example.org
  potluck relay restore --from /mnt/backups/potluck --data new --key relay.key

A relay that goes on from a backup has forgotten what it accepted since. If its log had more entries by then, whoever saw \
them finds that the log was forked, and trusts it no more. --newer-log compares with a copy of the log, such as a mirror's, an \
auditor's or the old disk's, and refuses if entries would be forgotten (exit code 7).")]
    Restore(RestoreArgs),
    /// Check a deployment, and say what to fix
    #[command(after_help = "Examples:
  potluck relay doctor
  potluck relay doctor --data /var/lib/potluck --deep --backups /mnt/backups/potluck
  potluck relay doctor --relay https://relay.example.org
  potluck relay doctor --json

Ends with exit code 1 if something must be fixed.")]
    Doctor(DoctorArgs),
    /// Move a relay's records to PostgreSQL, or its blobs to a bucket
    #[command(after_help = "Examples:
  createdb potluck
  potluck relay migrate --data /var/lib/potluck --store postgres://potluck@localhost/potluck
  potluck relay --data /var/lib/potluck --store postgres://potluck@localhost/potluck
  potluck relay migrate --data /var/lib/potluck --blobs s3://potluck/blobs

The relay has to be stopped, the database empty, and the place in the bucket no other relay's. Every row and every blob is read \
back before the move counts; what fails stays where it was. What moved is kept as potluck.db.moved and blobs.moved. Matrices, \
data sets, states of runs and the log's files are in the bucket too from the relay's next start on; its key stays in the folder. A backup is restored into a folder, and \
can be moved again.")]
    Migrate(MigrateArgs),
    /// Mirror another relay: its log, its runs, its page; and go on with the work if people appoint this one
    #[command(after_help = "Examples:
  potluck relay mirror https://relay.example.org --data mirror --listen 0.0.0.0:8787
  potluck relay mirror https://relay.example.org --key relay.example.org/log+1a2b3c4d+AX...
  potluck relay mirror https://relay.example.org --data mirror --alone

Every entry is checked before it is shown, and every blob by its hash. Volunteers find no work here, as long as the other \
relay leads. People list a mirror with `potluck propose mirrors`; the line for that list is printed at a start.

When the other relay was not heard for --alone-after, or with --alone at once, the mirror takes what people sign: a proposal \
of kind succession, and votes on it. If it passes, this relay signs the log from there on and goes on with the runs from their \
last closed rounds. If the other relay comes back before that, the draft is dropped and it is followed again.")]
    Mirror(MirrorArgs),
}

/// `potluck relay migrate`
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The relay's data, and where its records go.
    #[command(flatten)]
    pub data: DataArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `potluck relay mirror`
#[derive(Debug, Clone, Args)]
pub struct MirrorArgs {
    /// Address of the relay
    #[arg(value_name = "URL")]
    pub of: String,
    /// Its log's key, NAME+HASH+BASE64; without it, the one that is seen first
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Time between two looks at it
    #[arg(long, value_name = "TIME", value_parser = super::governance::span, default_value = "1s")]
    pub every: Duration,
    /// For how long it may not be heard before people can say here who goes on
    #[arg(long, value_name = "TIME", value_parser = super::governance::span, default_value = "10m")]
    pub alone_after: Duration,
    /// Do not listen to it any more: it lies, or was voted out
    #[arg(long)]
    pub alone: bool,
    /// How it is served.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `potluck relay backup`
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The relay's data.
    #[command(flatten)]
    pub data: DataArgs,
    /// Folder of backups; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Copy the relay's key and its tokens too
    #[arg(long)]
    pub with_keys: bool,
    /// Do not read again what earlier backups copied and checked
    #[arg(long)]
    pub quick: bool,
    /// Backups to keep, this one included; older ones are removed
    #[arg(long, value_name = "N", default_value_t = potluck_relay::backup::KEEP)]
    pub keep: usize,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `potluck relay restore`
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// Folder of backups
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Which of them, by its name [default: the newest]
    #[arg(long, value_name = "NAME")]
    pub backup: Option<String>,
    /// The relay's data: an empty folder, or none.
    #[command(flatten)]
    pub data: DataArgs,
    /// The relay's key, if the backup was made without
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A copy of the log, to see whether it went on after the backup: the address of a relay or mirror, or a folder
    #[arg(long, value_name = "URL|DIR")]
    pub newer_log: Option<String>,
    /// Go on although entries that others saw would be forgotten
    #[arg(long, requires = "newer_log")]
    pub fork: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `potluck relay doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The relay's data.
    #[command(flatten)]
    pub data: DataArgs,
    /// Address at which others reach the relay, to check it from outside too
    #[arg(long, value_name = "URL")]
    pub relay: Option<String>,
    /// Folder of its backups, to see how old the last one is
    #[arg(long, value_name = "DIR")]
    pub backups: Option<PathBuf>,
    /// Read every blob and every file of the log, not a sample
    #[arg(long)]
    pub deep: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
