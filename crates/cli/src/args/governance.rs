//! Arguments of the commands by which people decide.

use super::{RelayAddress, TokenArgs};
use clap::{Args, Subcommand, ValueEnum};
use potluck_governance::statement::{Ballot, ProposalKind};
use std::path::PathBuf;
use std::time::Duration;

/// Where the log is read, and what is known of it.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// The log's key, NAME+HASH+BASE64; without it, the one that was seen first
    #[arg(long, value_name = "KEY")]
    pub log_key: Option<String>,
    /// Folder where logs are remembered
    #[arg(long, value_name = "FOLDER")]
    pub remember: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The relay.
    #[command(flatten)]
    pub relay: RelayAddress,
}

/// Who signs, and for which log.
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// File with your key: `potluck key new` makes one
    #[arg(long, value_name = "FILE", env = "POTLUCK_KEY_FILE")]
    pub key: PathBuf,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `potluck key`
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What can be done with keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Make a key; its file is for you alone
    #[command(after_help = "Examples:
  potluck key new --out ada.key
  potluck key new --out ada.key --name Ada    prints the line for a roles document")]
    New(NewKeyArgs),
    /// Print the public half of a key
    Show(ShowKeyArgs),
    /// Replace your key by a new one, with all that it stands for
    Rotate(RotateArgs),
    /// Take a key out of use: your own at once, another's together with other stewards
    Revoke(RevokeArgs),
}

/// `potluck key new`
#[derive(Debug, Clone, Args)]
pub struct NewKeyArgs {
    /// File to write; it must not exist
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Your name in the roles document
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `potluck key show`
#[derive(Debug, Clone, Args)]
pub struct ShowKeyArgs {
    /// The key's file
    pub file: PathBuf,
}

/// `potluck key rotate`
#[derive(Debug, Clone, Args)]
pub struct RotateArgs {
    /// File with the new key: `potluck key new` makes one
    #[arg(long, value_name = "FILE")]
    pub new: PathBuf,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck key revoke`
#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// The public key, 64 hexadecimal digits
    #[arg(value_name = "KEY", value_parser = hash)]
    pub revoked: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// Kinds of proposals on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// A parameter's value within its bounds
    Parameter,
    /// A new run, from its run file
    Run,
    /// A data set, or a part of one, that was uploaded
    DataSet,
    /// A kernel's or engine's hash
    Kernel,
    /// A candidate becomes a model's version
    Promote,
    /// A model goes back to the version before
    Rollback,
    /// A new roles document
    Roles,
    /// A new constitution
    Constitution,
    /// A new list of relays that mirror the log and may be appointed to go on with it
    Mirrors,
    /// A mirror of the list goes on with the log
    Succession,
}

impl From<KindArg> for ProposalKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Parameter => Self::Parameter,
            KindArg::Run => Self::Run,
            KindArg::DataSet => Self::DataSet,
            KindArg::Kernel => Self::Kernel,
            KindArg::Promote => Self::Promote,
            KindArg::Rollback => Self::RollBack,
            KindArg::Roles => Self::Roles,
            KindArg::Constitution => Self::Constitution,
            KindArg::Mirrors => Self::Mirrors,
            KindArg::Succession => Self::Succession,
        }
    }
}

/// `potluck propose`
#[derive(Debug, Clone, Args)]
pub struct ProposeArgs {
    /// What kind of thing
    #[arg(value_enum)]
    pub kind: KindArg,
    /// The model, data set, kernel, parameter or mirror by name [default: what file or log name]
    #[arg(value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// What exactly, by its hash: a candidate's parameters, a kernel
    #[arg(long, value_name = "HASH", value_parser = hash, conflicts_with_all = ["run", "file", "value"])]
    pub body: Option<String>,
    /// Run file whose request is proposed
    #[arg(long, value_name = "run.toml", conflicts_with_all = ["file", "value"])]
    pub run: Option<PathBuf>,
    /// What volunteers see as the run's name [default: the name of the corpus]
    #[arg(long, value_name = "TEXT", requires = "run")]
    pub name: Option<String>,
    /// The new roles document, constitution or list of mirrors, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// The parameter's new value
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub value: Option<i64>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub rationale: String,
    /// What changes, for people to read [default: the request or document, if it is short]
    #[arg(long, value_name = "TEXT")]
    pub diff: Option<String>,
    /// When the vote opens, from now: 30s, 10m, 72h, 3d
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub opens_in: Option<Duration>,
    /// When it closes, from now [default: as soon as the constitution allows]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub closes_in: Option<Duration>,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// A vote on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BallotArg {
    /// For it
    Yes,
    /// Against it
    No,
    /// Neither; counts for the quorum
    Abstain,
}

impl From<BallotArg> for Ballot {
    fn from(vote: BallotArg) -> Self {
        match vote {
            BallotArg::Yes => Self::Yes,
            BallotArg::No => Self::No,
            BallotArg::Abstain => Self::Abstain,
        }
    }
}

/// `potluck vote`
#[derive(Debug, Clone, Args)]
pub struct VoteArgs {
    /// The proposal or appeal: its id, or enough of its beginning
    #[arg(value_name = "PROPOSAL", value_parser = hash_prefix)]
    pub proposal: String,
    /// The vote
    #[arg(value_enum)]
    pub vote: BallotArg,
    /// Why; dissent stands beside the promotion
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck advise`
#[derive(Debug, Clone, Args)]
pub struct AdviseArgs {
    /// The proposal: its id, or enough of its beginning
    #[arg(value_name = "PROPOSAL", value_parser = hash_prefix)]
    pub proposal: String,
    /// The advice
    #[arg(value_enum)]
    pub vote: BallotArg,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck second`
#[derive(Debug, Clone, Args)]
pub struct SecondArgs {
    /// The proposal: its id, or enough of its beginning
    #[arg(value_name = "PROPOSAL", value_parser = hash_prefix)]
    pub proposal: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck attest`
#[derive(Debug, Clone, Args)]
pub struct AttestArgs {
    /// Hash of a candidate's parameters, of a run's request, of a manifest or a kernel
    #[arg(value_name = "HASH", value_parser = hash)]
    pub subject: String,
    /// Say that it came out otherwise
    #[arg(long)]
    pub differs: bool,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck sign-off`
#[derive(Debug, Clone, Args)]
pub struct SignOffArgs {
    /// The candidate: the hash of its parameters, or enough of its beginning
    #[arg(value_name = "CANDIDATE", value_parser = hash_prefix)]
    pub candidate: String,
    /// Hash of the eval card that you read
    #[arg(long, value_name = "HASH", value_parser = hash)]
    pub card: String,
    /// What you want to say about it
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck promote`
#[derive(Debug, Clone, Args)]
pub struct PromoteArgs {
    /// The candidate: the hash of its parameters, or enough of its beginning
    #[arg(value_name = "CANDIDATE", value_parser = hash_prefix)]
    pub candidate: String,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `potluck rollback`
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The version before, by the hash of its parameters
    #[arg(long, value_name = "HASH", value_parser = hash)]
    pub to: String,
    /// The proposal that passed, or the appeal that was upheld
    #[arg(long, value_name = "ID", value_parser = hash)]
    pub proposal: String,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `potluck enact`
#[derive(Debug, Clone, Args)]
pub struct EnactArgs {
    /// The proposal: its id, or enough of its beginning
    #[arg(value_name = "PROPOSAL", value_parser = hash_prefix)]
    pub proposal: String,
    /// The roles document or constitution that it names [default: what the proposal shows]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The parameter's value that it names [default: what the proposal shows]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub value: Option<i64>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `potluck pause` and `potluck resume`
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// A run's id, or enough of its beginning; with --key also all, run:ID or model:NAME, and to resume the pause's number
    #[arg(value_name = "WHAT")]
    pub what: String,
    /// File with your key: then it is signed, and stands in the log
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Why
    #[arg(long, value_name = "TEXT", requires = "key")]
    pub reason: Option<String>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// `potluck ratify`
#[derive(Debug, Clone, Args)]
pub struct RatifyArgs {
    /// The pause, by the number of the entry that began it
    #[arg(value_name = "PAUSE")]
    pub pause: u64,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck quarantine`
#[derive(Debug, Clone, Args)]
pub struct QuarantineArgs {
    /// volunteer:KEY or data_set:ID
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// End it
    #[arg(long)]
    pub lift: bool,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck appeal`
#[derive(Debug, Clone, Args)]
pub struct AppealArgs {
    /// The decision, by the number of the entry with which it took effect
    #[arg(value_name = "ENTRY")]
    pub decision: u64,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who signs.
    #[command(flatten)]
    pub sign: SignArgs,
}

/// `potluck governance`
#[derive(Debug, Clone, Args)]
pub struct GovernanceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GovernanceCommand,
}

/// What can be done with the rules.
#[derive(Debug, Clone, Subcommand)]
pub enum GovernanceCommand {
    /// Show who decides, by which rules, what is proposed and what it lacks, and what is paused
    Show(LogArgs),
    /// Name the people of a log in which nobody decides yet; once, with the submitter's token
    #[command(after_help = "Examples:
  potluck governance found --roles roles.json
  potluck governance found --roles roles.json --constitution constitution.json

roles.json has the lists stewards (3 to 7), auditors (2 or more) and operators, of lines that `potluck key new --name NAME` \
prints.")]
    Found(FoundArgs),
}

/// `potluck governance found`
#[derive(Debug, Clone, Args)]
pub struct FoundArgs {
    /// The roles document, as JSON
    #[arg(long, value_name = "FILE")]
    pub roles: PathBuf,
    /// The constitution, as JSON [default: the usual one]
    #[arg(long, value_name = "FILE")]
    pub constitution: Option<PathBuf>,
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

/// `potluck models`
#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    /// The model; all of them without
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

fn hash(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err("64 hexadecimal digits are needed".into())
}

fn hash_prefix(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text);
    }
    Err("an id has 64 hexadecimal digits; its beginning is enough".into())
}

/// A span of time: a whole number and its unit.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number and ms, s, m, h or d, such as 72h".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        assert_eq!(span("72h"), Ok(Duration::from_hours(72)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "5", "h", "-5h", "5 h", "5w", "99999999999999999999d", "18446744073709551615d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
