//! What people sign, but for proposals.

use super::card;
use super::sign::Signer;
use crate::args::{
    AdviseArgs, AppealArgs, AttestArgs, QuarantineArgs, RatifyArgs, SecondArgs, SignOffArgs, StopArgs,
    VoteArgs,
};
use crate::client::Client;
use crate::error::CliError;
use crate::runs::{control, find};
use potluck_governance::statement::{
    Advise, Appeal, Attest, Pause, Quarantine, RatifyPause, Resume, Scope, Second, SignOff, Vote,
};
use potluck_types::BlobHash;

/// A hash that the command line has checked.
pub(super) fn parsed(hash: &str) -> Result<BlobHash, CliError> {
    hash.parse().map_err(|error| CliError::Usage {
        message: format!("{hash}: {error}"),
        hint: "hashes have 64 hexadecimal digits".into(),
    })
}

/// Votes on a proposal or an appeal.
///
/// # Errors
/// Key or log cannot be read, there is no such proposal, or the log does not take the vote.
pub fn vote(args: &VoteArgs, client: &Client) -> Result<(), CliError> {
    let mut signer = Signer::open(&args.sign, client)?;
    let proposal = signer.log.proposal(&args.proposal)?;
    if let (false, Some(found)) = (args.sign.log.json, signer.log.state().proposals().get(&proposal)) {
        println!("proposal {proposal}, {}: {}\n{}", found.kind, found.subject, found.rationale);
    }
    signer.say(Vote { proposal, vote: args.vote.into(), reason: args.reason.clone() }).map(drop)
}

/// Advises on a proposal.
///
/// # Errors
/// As [`vote`].
pub fn advise(args: &AdviseArgs, client: &Client) -> Result<(), CliError> {
    let mut signer = Signer::open(&args.sign, client)?;
    let proposal = signer.log.proposal(&args.proposal)?;
    signer.say(Advise { proposal, vote: args.vote.into() }).map(drop)
}

/// Seconds a proposal.
///
/// # Errors
/// As [`vote`].
pub fn second(args: &SecondArgs, client: &Client) -> Result<(), CliError> {
    let mut signer = Signer::open(&args.sign, client)?;
    let proposal = signer.log.proposal(&args.proposal)?;
    signer.say(Second { proposal }).map(drop)
}

/// Attests that something reproduces, or does not.
///
/// # Errors
/// As [`vote`].
pub fn attest(args: &AttestArgs, client: &Client) -> Result<(), CliError> {
    let signer = Signer::open(&args.sign, client)?;
    signer.say(Attest { subject: parsed(&args.subject)?, reproduces: !args.differs }).map(drop)
}

/// Signs an eval card, after showing it.
///
/// # Errors
/// As [`vote`]; the person does not say yes, or cannot be asked.
pub fn sign_off(args: &SignOffArgs, client: &Client) -> Result<(), CliError> {
    let mut signer = Signer::open(&args.sign, client)?;
    let candidate = signer.log.candidate(&args.candidate)?;
    let read = parsed(&args.card)?;
    if !args.sign.log.json {
        card::show(&mut signer.log, &candidate, &read)?;
    }
    if !args.yes {
        card::ask()?;
    }
    signer.say(SignOff { candidate, card: read, note: args.note.clone() }).map(drop)
}

/// Pauses: a run by its submitter, or anything by a signed word.
///
/// # Errors
/// As [`vote`]; there is no such run.
pub fn pause(args: &StopArgs, client: &Client) -> Result<(), CliError> {
    let Some(key) = &args.key else { return control::pause(args, client) };
    let scope = match args.what.parse::<Scope>() {
        Ok(scope) => scope,
        Err(error) => {
            let hexadecimal = !args.what.is_empty() && args.what.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !hexadecimal {
                return Err(CliError::Usage {
                    message: error.to_string(),
                    hint: "see `potluck pause --help`".into(),
                });
            }
            let run = find(client, &args.what)?.id;
            let parsed = run.parse().map_err(|_| CliError::NoSuchRun(args.what.clone()))?;
            Scope::Run(parsed)
        }
    };
    let reason = args.reason.clone().ok_or_else(|| CliError::Usage {
        message: "a pause that is signed has a reason".into(),
        hint: "give it with --reason: others decide by it whether to end it".into(),
    })?;
    Signer::with_key(key, &args.log, client)?.say(Pause { scope, reason }).map(drop)
}

/// Lets go on: a run that its submitter paused, or wants a pause of the log to end.
///
/// # Errors
/// As [`vote`]; there is no such run or pause.
pub fn resume(args: &StopArgs, client: &Client) -> Result<(), CliError> {
    let Some(key) = &args.key else { return control::resume(args, client) };
    let pause = args.what.parse().map_err(|_| CliError::Usage {
        message: format!("{:?} is no pause", args.what),
        hint: "a pause is named by the number of its entry: `potluck governance show` lists them".into(),
    })?;
    Signer::with_key(key, &args.log, client)?.say(Resume { pause }).map(drop)
}

/// Wants a pause to last.
///
/// # Errors
/// As [`vote`].
pub fn ratify(args: &RatifyArgs, client: &Client) -> Result<(), CliError> {
    Signer::open(&args.sign, client)?.say(RatifyPause { pause: args.pause }).map(drop)
}

/// Quarantines a volunteer or a data set, or ends that.
///
/// # Errors
/// As [`vote`].
pub fn quarantine(args: &QuarantineArgs, client: &Client) -> Result<(), CliError> {
    let target = args.target.parse().map_err(|error: potluck_governance::statement::ParseWordError| {
        CliError::Usage {
            message: error.to_string(),
            hint: "data_set:ID/PART names one part of a data set".into(),
        }
    })?;
    let reason = args.reason.clone();
    Signer::open(&args.sign, client)?.say(Quarantine { target, lift: args.lift, reason }).map(drop)
}

/// Appeals against a decision.
///
/// # Errors
/// As [`vote`].
pub fn appeal(args: &AppealArgs, client: &Client) -> Result<(), CliError> {
    let reason = args.reason.clone();
    Signer::open(&args.sign, client)?.say(Appeal { decision: args.decision, reason }).map(drop)
}
