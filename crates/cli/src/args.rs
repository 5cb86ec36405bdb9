//! The command line.

pub mod governance;
mod operator;
mod size;
mod train;

pub use governance::{
    AdviseArgs, AppealArgs, AttestArgs, EnactArgs, GovernanceArgs, GovernanceCommand, KeyArgs, KeyCommand,
    LogArgs, ModelsArgs, PromoteArgs, ProposeArgs, QuarantineArgs, RatifyArgs, RollbackArgs, SecondArgs,
    SignArgs, SignOffArgs, StopArgs, VoteArgs,
};
pub use operator::{
    BackupArgs, DataArgs, DoctorArgs, LogFormat, MigrateArgs, MirrorArgs, RelayArgs, RelayCommand,
    RestoreArgs, ServeArgs,
};
pub use train::{
    ExportArgs, GenerateArgs, ImportArgs, LogitsArgs, ModelArgs, ModelCommand, RebuildArgs, ReplayArgs,
    RunsArgs, TrainArgs, WatchArgs,
};

use crate::error::AFTER_HELP;
use clap::{Args, Parser, Subcommand, ValueEnum};
use potluck_types::BlobHash;
use std::path::PathBuf;

/// The relay that is used where none is named: the one that `potluck relay` starts on this machine.
pub const DEFAULT_RELAY: &str = "http://127.0.0.1:8787";

/// People lend browser tabs; together they compute what a job asks for, and every result is verified.
#[derive(Debug, Parser)]
#[command(name = "potluck", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", hide_env = true)]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a relay: it takes jobs, hands out shards, verifies results and serves the donate page
    #[command(after_help = "Examples:
  potluck relay
  potluck relay --listen 0.0.0.0:8080 --data /var/lib/potluck
  potluck relay --config potluck.toml --json --log-format json
  potluck relay backup --to /mnt/backups/potluck --with-keys
  potluck relay doctor")]
    Relay(RelayArgs),
    /// Submit a job and wait for its result
    Submit(SubmitArgs),
    /// List the relay's jobs
    Jobs(JobsArgs),
    /// Show how far a job is
    #[command(after_help = "Examples:
  potluck status 3f2a
  potluck status 3f2a --json")]
    Status(StatusArgs),
    /// Give a job or a run up; volunteers stop working on it
    Cancel(StatusArgs),
    /// Wait for a job and write its result
    #[command(after_help = "Examples:
  potluck fetch 3f2a --out C.npy")]
    Fetch(FetchArgs),
    /// Show who exchanges inputs with whom, over which ways, and how fast
    #[command(after_help = "Examples:
  potluck peers
  potluck peers 3f2a --watch
  potluck peers --json")]
    Peers(PeersArgs),
    /// List the relay's training runs
    Runs(RunsArgs),
    /// Let a training run wait; with --key, stop a run, a model or everything by a signed word in the log
    #[command(after_help = "Examples:
  potluck pause 3f2a
  potluck pause run:3f2a… --reason \"its loss rises\" --key ada.key
  potluck pause all --reason \"the log was forked\" --key ada.key")]
    Pause(StopArgs),
    /// Let a paused training run go on; with --key, want a pause of the log to end
    #[command(after_help = "Examples:
  potluck resume 3f2a
  potluck resume 117 --key ada.key        117 is the pause: `potluck governance show` lists them")]
    Resume(StopArgs),
    /// Show how a training run goes: loss, speed, volunteers, bytes, and what the model writes
    #[command(after_help = "Examples:
  potluck watch 3f2a
  potluck watch 3f2a --json

On a terminal the view redraws; otherwise each round is a line. Leaving does not end the run.")]
    Watch(WatchArgs),
    /// Repeat what volunteers did in a round of a training run, and judge it
    #[command(after_help = "Examples:
  potluck replay 3f2a --round 12
  potluck replay 3f2a --round 12 --volunteer 9bc1 --json

Everything it needs is public; each piece is checked by its hash. Ends with exit code 1 if an update is refuted.")]
    Replay(ReplayArgs),
    /// Check a relay's public log: signature, every hash, and that each decision follows from what people signed
    #[command(after_help = "Examples:
  potluck audit https://relay.example.org
  potluck audit copy-of-the-log
  potluck audit copy-of-the-log --key example.org/log+…
  potluck audit https://relay.example.org --model 9bc1…
  potluck audit https://relay.example.org --model 9bc1… --blobs copy-of-the-blobs
  potluck audit copy-of-the-log --model 9bc1… --blobs copy-of-the-blobs

The relay is asked for the log's files and for nothing else: a copy of them in a folder does as well, with the relay gone. \
With --model also for what the run asked for and for each update, and the model is derived from them bit by bit. \
What was checked is remembered, so that a log that shows another history later is found out. Ends with exit code 1 if \
something is wrong.")]
    Audit(AuditArgs),
    /// One entry of the public log, with the proof that it stands there
    Receipt(ReceiptArgs),
    /// Make and show keys, and change the one that speaks for you
    Key(KeyArgs),
    /// Propose something to the people of the log: a run, a candidate, a rule
    #[command(after_help = "Examples:
  potluck propose run --run run.toml --rationale \"the first model\" --key ada.key
  potluck propose data-set 9f…/books --rationale \"in the public domain\" --key ada.key
  potluck propose promote whale --body 3c… --rationale \"better by two errors\" --key ada.key
  potluck propose rollback whale --rationale \"it repeats names\" --key ada.key
  potluck propose roles --file roles.json --rationale \"Dee follows Cy\" --key ada.key

Prints the exact text that is signed, the proposal's id, and the entry's number.")]
    Propose(ProposeArgs),
    /// Want another volunteer's proposal to be voted on
    Second(SecondArgs),
    /// Vote on a proposal or an appeal; the last vote before the close counts
    #[command(after_help = "Examples:
  potluck vote 3c81 yes --key ada.key
  potluck vote 3c81 no --reason \"the card's set is too small\" --key bo.key")]
    Vote(VoteArgs),
    /// Advise on a proposal, as a volunteer with accepted work
    Advise(AdviseArgs),
    /// Say, as an auditor, that something comes out the same bit by bit when it is derived again
    Attest(AttestArgs),
    /// Say that you read and tried a candidate's eval card
    SignOff(SignOffArgs),
    /// Make a candidate the version that people run, if the log justifies it
    Promote(PromoteArgs),
    /// Let a model go back to the version before, if the log justifies it
    Rollback(RollbackArgs),
    /// Let a proposal that passed take effect
    Enact(EnactArgs),
    /// Want a pause to last beyond its expiry
    Ratify(RatifyArgs),
    /// Keep a volunteer's updates or a data set out of models that are promoted
    Quarantine(QuarantineArgs),
    /// Ask those who had no part in a decision to look at it again
    Appeal(AppealArgs),
    /// Show or found the rules by which a log decides
    Governance(GovernanceArgs),
    /// Show models: versions, where they come from, who approved, who did not, and where a rollback leads
    #[command(after_help = "Examples:
  potluck models
  potluck models whale
  potluck models whale --json")]
    Models(ModelsArgs),
    /// Use models as folders in Hugging Face's GPT-2 layout
    Model(ModelArgs),
    /// Lend this machine without a browser
    #[command(
        after_help = "Starting the command is the consent: it lends this machine's GPU or CPU to the relay's jobs until it \
ends.
Inputs are exchanged with other volunteers where that works, which spares the relay; they see this machine's network \
address. With --relay-only they do not, and everything comes from the relay.
Each result, and whether it was accepted, stays public in the relay's log, under this machine's key. The machine watches \
that log: it remembers what it saw, cosigns what goes on from there, and ends with exit code 7 if the relay shows two histories.
The first Ctrl-C finishes the shard at hand, the second stops at once.

Examples:
  potluck volunteer --relay https://relay.example.org
  potluck volunteer --backend cpu --preset quiet
  potluck volunteer --relay-only
  potluck volunteer --seed --cache 8GiB --upload 2MiB/s"
    )]
    Volunteer(VolunteerArgs),
    /// Lend headless Chromium tabs through the relay's own page
    #[command(
        after_help = "Each tab is a volunteer of its own: it opens the relay's page, clicks through the consent, and \
lends until the command ends.

Examples:
  potluck tabs --count 2
  potluck tabs --count 4 --backend wasm --relay https://relay.example.org"
    )]
    Tabs(TabsArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  potluck completions bash > ~/.local/share/bash-completion/completions/potluck
  potluck completions zsh > ~/.zfunc/_potluck")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where the relay is and who asks.
#[derive(Debug, Clone, Args)]
pub struct RelayAddress {
    /// Address of the relay
    #[arg(long, env = "POTLUCK_RELAY", default_value = DEFAULT_RELAY, value_name = "URL")]
    pub relay: String,
}

/// A submitter's token. The environment is not read here: [`crate::config::token`] ranks flags before it.
#[derive(Debug, Clone, Default, Args)]
pub struct TokenArgs {
    /// The submitter's token (better in POTLUCK_TOKEN or a file: other users can see command lines)
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the token; `potluck relay` prints its path
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `potluck submit`
#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    /// The kind of job.
    #[command(subcommand)]
    pub job: SubmitJob,
}

/// Kinds of jobs.
#[derive(Debug, Clone, Subcommand)]
pub enum SubmitJob {
    /// A matrix product C = A·B of two .npy files
    #[command(after_help = "Examples:
  potluck submit matmul A.npy B.npy --out C.npy
  potluck submit matmul A.npy B.npy --out C.npy --dtype int8
  potluck submit matmul X.npy X.npy --transpose-b --out gram.npy --name gram
  potluck submit matmul A.npy B.npy --detach --json

Closing the command does not end the job: `potluck fetch JOB --out C.npy` picks it up again.")]
    Matmul(MatmulArgs),
    /// A training run: volunteers train a language model on a corpus
    #[command(after_help = "Examples:
  potluck submit train run.toml --watch
  potluck submit train run.toml --json

A run file needs one line, corpus = \"some.txt\" (any UTF-8 text, or a folder of it). Other keys and their defaults:
  tokenizer = \"characters\"   or \"bytes\", or the path of a byte-level BPE's tokenizer.json
  model = \"tiny\"             or \"mini\", \"small\", a table of sizes, or [model] with from = \"FOLDER\"
  steps = 10  rounds = 60  volunteers = 4  batch = 8  blocks = 8  seed = 1  codec = \"int4\"
  [learning-rate]  peak = 0.002  least = 0.0001  warmup = 100  fresh-warmup = 2
  codec                      also \"topk\" (sparse), \"auto\" (int4, and topk where links are slow), \"int8\", \"f16\", \"f32\"
  [audit]          first-rounds = 5  start = 0.5  decay = 0.8  least = 0.05
  [outer]          rate = 0.7  momentum = 0.9
  [aggregation]    trim = 0.2  trim-from = 6  median-from = 4")]
    Train(TrainArgs),
}

/// `potluck submit matmul`
#[derive(Debug, Clone, Args)]
pub struct MatmulArgs {
    /// Left operand, M x K
    #[arg(value_name = "A.npy")]
    pub a: PathBuf,
    /// Right operand, K x N
    #[arg(value_name = "B.npy")]
    pub b: PathBuf,
    /// Where the product is written
    #[arg(long, short, value_name = "C.npy", required_unless_present = "detach")]
    pub out: Option<PathBuf>,
    /// Element type of the computation: f32, or int8 with exact 32-bit sums
    #[arg(long, value_enum, default_value_t = DTypeArg::F32)]
    pub dtype: DTypeArg,
    /// Multiply by B transposed: C = A·Bᵀ with B of N x K
    #[arg(long)]
    pub transpose_b: bool,
    /// What volunteers see as the job's name [default: "A.npy x B.npy"]
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Submit, print the job's id, and do not wait
    #[arg(long, conflicts_with = "out")]
    pub detach: bool,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// Element types on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    /// IEEE binary32
    F32,
    /// Signed 8-bit integers
    Int8,
}

impl From<DTypeArg> for potluck_types::DType {
    fn from(dtype: DTypeArg) -> Self {
        match dtype {
            DTypeArg::F32 => Self::F32,
            DTypeArg::Int8 => Self::Int8,
        }
    }
}

/// `potluck jobs`
#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// Print one JSON object a job
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck status` and `potluck cancel`
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The job's id, or enough of its beginning
    #[arg(value_name = "JOB", value_parser = job_prefix)]
    pub job: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck fetch`
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// The job's id, or enough of its beginning
    #[arg(value_name = "JOB", value_parser = job_prefix)]
    pub job: String,
    /// Where the result is written
    #[arg(long, short, value_name = "C.npy")]
    pub out: PathBuf,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck peers`
#[derive(Debug, Clone, Args)]
pub struct PeersArgs {
    /// Only volunteers that work on this run or job: its id, or enough of its beginning
    #[arg(value_name = "RUN", value_parser = job_prefix)]
    pub of: Option<String>,
    /// Show it again each second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Print one JSON object, or one a second
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// A relay's address, or a folder with a copy of the log's files
    #[arg(value_name = "RELAY_OR_FOLDER")]
    pub source: String,
    /// The log's key, NAME+HASH+BASE64; without it, the one that was seen first
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Folder where logs are remembered
    #[arg(long, value_name = "FOLDER")]
    pub remember: Option<PathBuf>,
    /// Derive these parameters again from the updates in the log: a candidate's, a version's, or a round's
    #[arg(long, value_name = "HASH", value_parser = blob_hash)]
    pub model: Option<BlobHash>,
    /// The relay that has the updates, if the log is read from a folder
    #[arg(long, value_name = "URL", requires = "model")]
    pub relay: Option<String>,
    /// Folder with the updates, named by their hashes; what it lacks is fetched and kept there, if a relay is named
    #[arg(long, value_name = "FOLDER", requires = "model")]
    pub blobs: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `potluck receipt`.
#[derive(Debug, Clone, Args)]
pub struct ReceiptArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ReceiptCommand,
}

/// What to do with a receipt.
#[derive(Debug, Clone, Subcommand)]
pub enum ReceiptCommand {
    /// Check a receipt without asking anybody
    Verify(ReceiptVerifyArgs),
    /// Fetch the receipt of an entry
    Fetch(ReceiptFetchArgs),
}

/// `potluck receipt verify`.
#[derive(Debug, Clone, Args)]
pub struct ReceiptVerifyArgs {
    /// The receipt
    pub file: PathBuf,
    /// The log's key, NAME+HASH+BASE64; without it, the one that `potluck audit` saw first
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Key of a witness whose cosignature counts; may be given several times
    #[arg(long, value_name = "KEY")]
    pub witness: Vec<String>,
    /// How many of the witnesses it takes [default: all]
    #[arg(long, value_name = "N", requires = "witness")]
    pub quorum: Option<usize>,
    /// Folder where logs are remembered
    #[arg(long, value_name = "FOLDER")]
    pub remember: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `potluck receipt fetch`.
#[derive(Debug, Clone, Args)]
pub struct ReceiptFetchArgs {
    /// The entry's index
    pub index: u64,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// How much of the machine is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// A quarter of the time
    Quiet,
    /// Half of the time
    Balanced,
    /// All of the time
    Full,
}

impl PresetArg {
    /// The name in addresses and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Balanced => "balanced",
            Self::Full => "full",
        }
    }
}

impl From<PresetArg> for potluck_proto::Preset {
    fn from(preset: PresetArg) -> Self {
        match preset {
            PresetArg::Quiet => Self::Quiet,
            PresetArg::Balanced => Self::Balanced,
            PresetArg::Full => Self::Full,
        }
    }
}

/// What computes in `potluck volunteer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NativeBackend {
    /// The faster of the two, found by a short calibration
    Auto,
    /// The GPU, through wgpu
    Gpu,
    /// The CPU's SIMD units, one thread each
    Cpu,
}

/// `potluck volunteer`
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct VolunteerArgs {
    /// What computes
    #[arg(long, value_enum, default_value_t = NativeBackend::Auto)]
    pub backend: NativeBackend,
    /// How much is lent
    #[arg(long, value_enum, default_value_t = PresetArg::Full)]
    pub preset: PresetArg,
    /// File that keeps this volunteer's key [default: the user's data folder]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Folder where the relay's log is remembered, which this volunteer watches and cosigns
    #[arg(long, value_name = "FOLDER")]
    pub remember: Option<PathBuf>,
    /// Stop after this many results were accepted
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Exchange nothing with other volunteers, who then do not see this machine's network address
    #[arg(long)]
    pub relay_only: bool,
    /// Team that what is computed counts for, like "Chess Club"; anybody can join any
    #[arg(long, value_name = "NAME", value_parser = team)]
    pub team: Option<String>,
    /// Let the relay list this volunteer's name among those who gave most, with its team and all results that it gave
    #[arg(long)]
    pub listed: bool,
    /// Take team and listing back. Without any of the three they stay as they were said last, for 30 days
    #[arg(long, conflicts_with_all = ["team", "listed"])]
    pub unlisted: bool,
    /// Stay for others' sake: link to more volunteers than own work needs, and keep more inputs for them
    #[arg(long, conflicts_with = "relay_only")]
    pub seed: bool,
    /// Memory for inputs that may be needed again, like 500MB or 2GiB [default: 512MiB; with --seed, 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = size::size)]
    pub cache: Option<u64>,
    /// Most that other volunteers get of this machine's network, like 500kB/s or 2MiB/s [default: no limit of its own]
    #[arg(long, value_name = "RATE", value_parser = size::rate, conflicts_with = "relay_only")]
    pub upload: Option<u64>,
    /// Key of a witness that has to have signed the relay's log as well before a run is worked on; may be repeated
    #[arg(long, value_name = "KEY")]
    pub witness: Vec<potluck_ledger::VerifierKey>,
    /// How many of the witnesses have to have signed [default: all]
    #[arg(long, value_name = "N", requires = "witness")]
    pub witness_quorum: Option<usize>,
    /// Print one JSON object an event
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// What computes in `potluck tabs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TabBackend {
    /// The faster of the two, found by a short calibration
    Auto,
    /// WebGPU
    Webgpu,
    /// wasm with SIMD
    Wasm,
}

impl TabBackend {
    /// The name in the page's address.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Webgpu => "webgpu",
            Self::Wasm => "wasm",
        }
    }
}

/// `potluck tabs`
#[derive(Debug, Clone, Args)]
pub struct TabsArgs {
    /// How many tabs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_TABS))]
    pub count: u32,
    /// What computes
    #[arg(long, value_enum, default_value_t = TabBackend::Auto)]
    pub backend: TabBackend,
    /// How much each tab lends
    #[arg(long, value_enum, default_value_t = PresetArg::Full)]
    pub preset: PresetArg,
    /// Show the browser's windows
    #[arg(long)]
    pub headed: bool,
    /// Print one JSON object an event
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// Tabs of one browser. Each takes 100 to 300 MB.
const MAX_TABS: i64 = 64;

fn team(name: &str) -> Result<String, String> {
    let membership = potluck_proto::Membership { team: name.to_owned(), listed: false };
    membership.mistake().map_or_else(|| Ok(membership.team.clone()), |mistake| Err(mistake.to_owned()))
}

fn job_prefix(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() || text.len() > 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("a job's id has 32 hexadecimal digits; its beginning is enough".into());
    }
    Ok(text)
}

fn blob_hash(text: &str) -> Result<BlobHash, String> {
    text.trim().parse().map_err(|_| "a hash has 64 hexadecimal digits".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn good_lines() {
        let hash = "ab".repeat(32);
        for line in [
            "potluck relay",
            "potluck relay --listen 127.0.0.1:0 --data d --config p.toml --json --log debug",
            "potluck relay --log-format json",
            "potluck relay backup --data d --to b --with-keys --quick --keep 3 --json",
            "potluck relay restore --from b --backup 2026-11-30T14-05-00.007Z --data d --newer-log http://x:1 --fork",
            "potluck relay doctor --data d --deep --relay http://x:1 --backups b --json",
            "potluck submit matmul a.npy b.npy --out c.npy",
            "potluck submit matmul a.npy b.npy --dtype int8 --detach --json --relay http://x:1 --token t",
            "potluck jobs --json",
            "potluck status ABC123",
            "potluck cancel abc --token-file f",
            "potluck fetch abc --out c.npy",
            "potluck volunteer --backend cpu --preset quiet --count 3",
            "potluck volunteer --relay-only --cache 0",
            "potluck volunteer --seed --cache 8GiB --upload 2MiB/s",
            "potluck tabs --count 2 --backend wasm",
            "potluck completions zsh",
            "potluck submit train run.toml --watch --name n --json",
            "potluck watch 3F2a --json --relay http://x:1",
            "potluck peers",
            "potluck audit http://x:1 --key k --remember d --json",
            "potluck receipt verify r.txt --key k",
            "potluck receipt fetch 7 --out r.txt --relay http://x:1",
            "potluck peers 3F2a --watch --json --token t",
            "potluck key new --out a.key --name Ada",
            "potluck key rotate --new b.key --key a.key",
            "potluck propose run --run run.toml --rationale r --key a.key --closes-in 72h",
            "potluck propose parameter lease_ttl_ms --value -5 --rationale r --key a.key",
            "potluck vote 3c yes --reason r --key a.key --relay http://x:1",
            "potluck pause all --reason r --key a.key",
            "potluck resume 117 --key a.key --json",
            "potluck quarantine data_set:x --lift --reason r --key a.key",
            "potluck governance show --json",
            "potluck governance found --roles r.json --token t",
            "potluck models whale --log-key k",
            "potluck runs --json",
            "potluck pause 3f2a --token t",
            "potluck resume 3f2a --json",
            "potluck replay 3f2a --round 0 --volunteer 9b",
            "potluck model generate dir --prompt x --tokens 9 --temperature 0 --top-k 3 --seed 4",
            "potluck model generate dir --prompt -x",
            "potluck model logits dir --tokens 1,2,3 --json",
            "potluck model logits dir --text ab --all",
            "potluck model export 3f2a --round 3 --out d",
            "potluck model export 3f2a --out d",
            "potluck model import dir run.toml --watch",
            &format!("potluck audit copy --model {hash} --blobs b --json"),
            &format!(
                "potluck model rebuild 3f2a --without volunteer:{hash} --without dataset:{hash}#1..9 --out f"
            ),
            &format!("potluck model rebuild 3f2a --without volunteer:{hash} --out f --again"),
            &format!(
                "potluck model rebuild 3f2a --round 3 --without dataset:{hash}/a --out f --again --offer gpt --token t"
            ),
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn bad_lines() {
        use clap::error::ErrorKind as Kind;
        for (line, kind) in [
            ("potluck", Kind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("potluck brew", Kind::InvalidSubcommand),
            ("potluck relay --listen nowhere", Kind::ValueValidation),
            ("potluck submit matmul a.npy b.npy", Kind::MissingRequiredArgument),
            ("potluck submit matmul a.npy b.npy --out c --detach", Kind::ArgumentConflict),
            ("potluck submit matmul a.npy b.npy --out c --dtype f64", Kind::InvalidValue),
            ("potluck jobs --token a --token-file b", Kind::ArgumentConflict),
            ("potluck status xyz", Kind::ValueValidation),
            ("potluck peers xyz", Kind::ValueValidation),
            ("potluck audit", Kind::MissingRequiredArgument),
            ("potluck receipt", Kind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("potluck receipt fetch x --out r", Kind::ValueValidation),
            ("potluck vote 3c maybe --key a.key", Kind::InvalidValue),
            ("potluck vote xyz yes --key a.key", Kind::ValueValidation),
            ("potluck propose run --rationale r --run a --file b --key k", Kind::ArgumentConflict),
            ("potluck propose run --rationale r --run a --closes-in 3w --key k", Kind::ValueValidation),
            ("potluck attest 3c --key a.key", Kind::ValueValidation),
            ("potluck pause all --reason r", Kind::MissingRequiredArgument),
            ("potluck governance", Kind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("potluck tabs --count 0", Kind::ValueValidation),
            ("potluck submit train", Kind::MissingRequiredArgument),
            ("potluck watch xyz", Kind::ValueValidation),
            ("potluck replay 3f2a", Kind::MissingRequiredArgument),
            ("potluck replay 3f2a --round 1 --volunteer xyz", Kind::ValueValidation),
            ("potluck model", Kind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("potluck model generate dir", Kind::MissingRequiredArgument),
            ("potluck model generate dir --prompt x --temperature -1", Kind::ValueValidation),
            ("potluck model generate dir --prompt x --temperature nan", Kind::ValueValidation),
            ("potluck model logits dir", Kind::MissingRequiredArgument),
            ("potluck model logits dir --tokens 1,x", Kind::ValueValidation),
            ("potluck model logits dir --tokens 1 --text a", Kind::ArgumentConflict),
            ("potluck model export 3f2a", Kind::MissingRequiredArgument),
            ("potluck model import dir", Kind::MissingRequiredArgument),
            ("potluck audit copy --model 12", Kind::ValueValidation),
            ("potluck audit copy --blobs b", Kind::MissingRequiredArgument),
            ("potluck model rebuild 3f2a --without volunteer:x --out f", Kind::ValueValidation),
            ("potluck model rebuild 3f2a --out f", Kind::MissingRequiredArgument),
            ("potluck model rebuild 3f2a --without everything --out f", Kind::ValueValidation),
            ("potluck tabs --count 65", Kind::ValueValidation),
            ("potluck volunteer --seed --relay-only", Kind::ArgumentConflict),
            ("potluck volunteer --relay-only --upload 1MB/s", Kind::ArgumentConflict),
            ("potluck volunteer --cache much", Kind::ValueValidation),
            ("potluck volunteer --upload 0", Kind::ValueValidation),
        ] {
            assert_eq!(parse(line).err(), Some(kind), "{line}");
        }
    }

    #[test]
    fn job_ids_are_folded_to_lower_case() {
        let Ok(Cli { command: Command::Status(args), .. }) = parse("potluck status ABC123") else {
            panic!("not parsed");
        };
        assert_eq!(args.job, "abc123");
    }
}
