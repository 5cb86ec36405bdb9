//! Arguments of the commands about training.

use super::{RelayAddress, TokenArgs};
use crate::runs::without::LeftOut;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Most tokens that are generated at once: hours of a small model's work.
const MAX_GENERATED: u64 = 1_000_000;

/// `potluck submit train`
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The run file
    #[arg(value_name = "run.toml")]
    pub run: PathBuf,
    /// What volunteers see as the run's name [default: the name of the corpus]
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// The proposal that allowed the run, in place of the run file's
    #[arg(long, value_name = "ID")]
    pub proposal: Option<String>,
    /// Show how the run goes until it ends
    #[arg(long)]
    pub watch: bool,
    /// Print the run, and with --watch each round, as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck watch`
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// The run's id, or enough of its beginning
    #[arg(value_name = "RUN", value_parser = run_prefix)]
    pub run: String,
    /// Print one JSON object a round, and one for the run when it ends
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// `potluck runs`
#[derive(Debug, Clone, Args)]
pub struct RunsArgs {
    /// Print one JSON object a run
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// `potluck replay`
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The run's id, or enough of its beginning
    #[arg(value_name = "RUN", value_parser = run_prefix)]
    pub run: String,
    /// The round, counted from 0
    #[arg(long, value_name = "R")]
    pub round: u64,
    /// Only the updates of volunteers whose key begins so
    #[arg(long, value_name = "V", value_parser = volunteer_prefix)]
    pub volunteer: Option<String>,
    /// Print one JSON object an update
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// `potluck model`
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ModelCommand,
}

/// What can be done with models.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelCommand {
    /// Write a text with a model, on this machine's CPU
    #[command(after_help = "Examples:
  potluck model generate gpt --prompt \"It was\"
  potluck model generate gpt --prompt \"It was\" --tokens 500 --temperature 0.8 --top-k 50 --seed 7

The same seed gives the same text.")]
    Generate(GenerateArgs),
    /// Print a model's logits, to compare them with other programs'
    #[command(after_help = "Examples:
  potluck model logits gpt --tokens 1,2,3
  potluck model logits gpt --text \"It was\" --all --json > logits.json
  python examples/check_transformers.py gpt logits.json")]
    Logits(LogitsArgs),
    /// Write what a run has learned as a folder that `transformers` loads
    #[command(after_help = "Examples:
  potluck model export 3f2a --out gpt
  potluck model export 3f2a --round 12 --out gpt-12")]
    Export(ExportArgs),
    /// Make a run's parameters again without a volunteer's updates, or without those that saw some of the data
    #[command(after_help = "Examples:
  potluck model rebuild 3f2a --without volunteer:9bc1… --out clean.f32
  potluck model rebuild 3f2a --without dataset:77a0…/poems.txt --round 12 --out clean.f32
  potluck model rebuild 3f2a --without dataset:77a0…#4096..8192 --out clean.f32
  potluck model rebuild 3f2a --without dataset:77a0…/poems.txt --again --out clean.f32 --offer gpt

Derived on this machine from what the run made public: every round is closed as it was, which has to lead to the run's own \
parameters, and once more from what is left. A round of which nothing is left takes no step. The updates that are left also \
correct what is now gone: the more is left out, and the more rounds follow, the higher the loss gets. With --again their steps \
are taken again, which costs as much as the training did, and gives what the run would have come to. The file holds f32, \
little-endian; the parameters' hash is printed.")]
    Rebuild(RebuildArgs),
    /// Start a run from a folder
    #[command(after_help = "Examples:
  potluck model import gpt run.toml --watch

The run file says on what and how; sizes, parameters and tokenizer are the folder's. The same as
[model] with from = \"gpt\" in the run file and `potluck submit train`.")]
    Import(ImportArgs),
}

/// `potluck model generate`
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Folder of the model
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// What the text begins with
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(..=MAX_GENERATED))]
    pub tokens: u64,
    /// Divides the logits: 1 as learned, less for the likely, 0 for the likeliest only
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature, allow_hyphen_values = true)]
    pub temperature: f32,
    /// Draw from the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Print prompt, text and speed as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `potluck model logits`
#[derive(Debug, Clone, Args)]
pub struct LogitsArgs {
    /// Folder of the model
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Tokens that the model sees, separated by commas
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required_unless_present = "text")]
    pub tokens: Vec<u32>,
    /// Text that it sees in place of tokens
    #[arg(long, value_name = "TEXT", conflicts_with = "tokens", allow_hyphen_values = true)]
    pub text: Option<String>,
    /// The logits after each token, not only after the last
    #[arg(long)]
    pub all: bool,
    /// Print tokens and logits as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `potluck model export`
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The run's id, or enough of its beginning
    #[arg(value_name = "RUN", value_parser = run_prefix)]
    pub run: String,
    /// After how many rounds [default: the newest]
    #[arg(long, value_name = "R")]
    pub round: Option<u64>,
    /// Folder that is written; made if it does not exist
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the outcome as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// `potluck model rebuild`
#[derive(Debug, Clone, Args)]
pub struct RebuildArgs {
    /// The run's id, or enough of its beginning
    #[arg(value_name = "RUN", value_parser = run_prefix)]
    pub run: String,
    /// What to leave out: volunteer:KEY, dataset:ID, dataset:ID/PART or dataset:ID#FROM..TO (tokens)
    #[arg(long, value_name = "WHAT", required = true)]
    pub without: Vec<LeftOut>,
    /// After how many rounds [default: the newest]
    #[arg(long, value_name = "R")]
    pub round: Option<u64>,
    /// File that is written
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Take the steps of what is left again, on this machine's CPU, from the first round on that changes
    #[arg(long)]
    pub again: bool,
    /// Also offer them as a candidate of this model: the relay makes them again by itself, as long as that takes
    #[arg(long, value_name = "MODEL")]
    pub offer: Option<String>,
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

/// `potluck model import`
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Folder of the model
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The run.
    #[command(flatten)]
    pub train: TrainArgs,
}

fn hex_prefix(text: &str, digits: usize) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then_some(text)
}

fn run_prefix(text: &str) -> Result<String, String> {
    hex_prefix(text, 32).ok_or_else(|| "a run's id has 32 hexadecimal digits; its beginning is enough".into())
}

fn volunteer_prefix(text: &str) -> Result<String, String> {
    hex_prefix(text, 64)
        .ok_or_else(|| "a volunteer's key has 64 hexadecimal digits; its beginning is enough".into())
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("a temperature is a number from 0 to 100".into()),
    }
}
