//! The `potluck` command as a library, so that xtask and the end-to-end tests drive the same code.
//!
//! Where to look: `args` is the command line, `error` the exit codes; `relay` runs a relay; `submit`, `jobs`, `job`, `peers` are for submitters and
//! speak HTTP through `client`, and so does `runs`, for training, with `run_file` and `model`; `volunteer` and `tabs` lend; `cdp` drives Chromium;
//! `ledger` reads and checks logs, `governance` is where people decide.
//!
//! Architecture invariant: nothing here decides. The relay judges inputs, the engine judges what a volunteer does.

pub mod args;
pub mod canvas;
pub mod cdp;
pub mod client;
pub mod config;
pub mod error;
pub mod generate;
pub mod governance;
pub mod job;
pub mod jobs;
pub mod ledger;
pub mod model;
pub mod npy;
pub mod peers;
pub mod progress;
pub mod relay;
pub mod run_file;
pub mod runs;
pub mod stop;
pub mod submit;
pub mod tabs;
pub mod volunteer;

use args::{
    Cli, Command, GovernanceCommand, KeyCommand, LogFormat, ModelCommand, ReceiptCommand, RelayCommand,
    SubmitJob, TokenArgs,
};
use clap::CommandFactory as _;
use client::Client;
use error::CliError;
use std::io::IsTerminal as _;
use std::path::Path;
use stop::Stop;
use tracing_subscriber::EnvFilter;

/// What is logged unless the person says otherwise.
const DEFAULT_LOG: &str = "warn";
/// What a relay logs unless the person says otherwise: an operator wants to see who comes and goes.
const RELAY_LOG: &str = "info";
/// Ctrl-C of this number ends the process whatever it does.
const LAST_SIGNAL: u32 = 3;

/// Runs a command to its end.
///
/// # Errors
/// Whatever kept it from doing what was asked; [`CliError::exit`] is the process's exit code.
pub fn run(cli: &Cli) -> Result<(), CliError> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "potluck", &mut std::io::stdout());
        return Ok(());
    }
    start_log(cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| CliError::System { what: "the asynchronous runtime could not be started", cause })?;
    let stop = Stop::default();
    let signals = {
        let _within = runtime.enter();
        stop.watch_signals(LAST_SIGNAL)
    };
    signals.map_err(|cause| CliError::System { what: "signals could not be listened to", cause })?;
    let client = |relay: &str, token: &TokenArgs| {
        let token = match config::token(token, |name| std::env::var(name).ok())? {
            None => config::own_token(relay, Path::new("."))?,
            given => given,
        };
        Client::new(relay, token, stop.clone())
    };
    // Anybody may read what a run did.
    let public = |relay: &str| Client::new(relay, None, stop.clone());
    let outcome = match &cli.command {
        Command::Submit(submit) => match &submit.job {
            SubmitJob::Matmul(args) => {
                client(&args.relay.relay, &args.token).and_then(|client| submit::matmul(args, &client))
            }
            SubmitJob::Train(args) => client(&args.relay.relay, &args.token)
                .and_then(|client| runs::submit::train(args, None, &client)),
        },
        Command::Jobs(args) => {
            client(&args.relay.relay, &args.token).and_then(|client| jobs::list(args, &client))
        }
        Command::Status(args) => {
            client(&args.relay.relay, &args.token).and_then(|client| jobs::status(args, &client))
        }
        Command::Cancel(args) => {
            client(&args.relay.relay, &args.token).and_then(|client| jobs::cancel(args, &client))
        }
        Command::Fetch(args) => {
            client(&args.relay.relay, &args.token).and_then(|client| jobs::fetch(args, &client))
        }
        Command::Peers(args) => {
            client(&args.relay.relay, &args.token).and_then(|client| peers::command(args, &client))
        }
        Command::Runs(args) => {
            public(&args.relay.relay).and_then(|client| runs::control::list(args, &client))
        }
        Command::Pause(args) => client(&args.log.relay.relay, &args.token)
            .and_then(|client| governance::words::pause(args, &client)),
        Command::Resume(args) => client(&args.log.relay.relay, &args.token)
            .and_then(|client| governance::words::resume(args, &client)),
        Command::Key(_)
        | Command::Propose(_)
        | Command::Second(_)
        | Command::Vote(_)
        | Command::Advise(_)
        | Command::Attest(_)
        | Command::SignOff(_)
        | Command::Promote(_)
        | Command::Rollback(_)
        | Command::Enact(_)
        | Command::Ratify(_)
        | Command::Quarantine(_)
        | Command::Appeal(_)
        | Command::Models(_) => people(&cli.command, public),
        Command::Governance(args) => match &args.command {
            GovernanceCommand::Show(args) => {
                public(&args.relay.relay).and_then(|client| governance::show::command(args, &client))
            }
            GovernanceCommand::Found(args) => client(&args.relay.relay, &args.token)
                .and_then(|client| governance::found::command(args, &client)),
        },
        Command::Watch(args) => {
            public(&args.relay.relay).and_then(|client| runs::watch::command(args, &client))
        }
        Command::Replay(args) => {
            public(&args.relay.relay).and_then(|client| runs::replay::command(args, &client))
        }
        Command::Audit(args) => ledger::audit::command(args, public),
        Command::Receipt(receipt) => match &receipt.command {
            ReceiptCommand::Verify(args) => ledger::receipt::verify(args),
            ReceiptCommand::Fetch(args) => {
                public(&args.relay.relay).and_then(|client| ledger::receipt::fetch(args, &client))
            }
        },
        Command::Model(model) => match &model.command {
            ModelCommand::Generate(args) => generate::generate(args, &stop),
            ModelCommand::Logits(args) => generate::logits(args, &stop),
            ModelCommand::Export(args) => {
                public(&args.relay.relay).and_then(|client| runs::export::command(args, &client))
            }
            ModelCommand::Rebuild(args) => client(&args.relay.relay, &args.token)
                .and_then(|client| runs::rebuild::command(args, &client)),
            ModelCommand::Import(args) => client(&args.train.relay.relay, &args.train.token)
                .and_then(|client| runs::submit::train(&args.train, Some(&args.folder), &client)),
        },
        Command::Volunteer(args) => runtime.block_on(volunteer::run(args, &stop)),
        Command::Tabs(args) => runtime.block_on(tabs::run(args, &stop)),
        Command::Relay(args) => match &args.command {
            None => runtime.block_on(relay::run(args, &stop)),
            Some(RelayCommand::Mirror(args)) => runtime.block_on(relay::mirror(args, &stop)),
            Some(RelayCommand::Migrate(args)) => runtime.block_on(relay::migrate::command(args)),
            Some(RelayCommand::Backup(args)) => runtime.block_on(relay::backup::make(args)),
            Some(RelayCommand::Restore(args)) => relay::backup::compare(args, public)
                .and_then(|()| runtime.block_on(relay::backup::bring_back(args))),
            Some(RelayCommand::Doctor(args)) => relay::doctor::command(args, &runtime, public),
        },
        Command::Completions { .. } => Ok(()),
    };
    // A kernel or a blocking read may still be at work: it ends with the process.
    runtime.shutdown_background();
    outcome
}

/// The commands by which people decide. None needs the submitter's token: what counts is who signed.
fn people(command: &Command, open: impl Fn(&str) -> Result<Client, CliError>) -> Result<(), CliError> {
    use governance::{enact, keys, models, propose, words};
    let signing = |args: &args::SignArgs| open(&args.log.relay.relay);
    let reading = |args: &args::LogArgs| open(&args.relay.relay);
    match command {
        Command::Key(key) => match &key.command {
            KeyCommand::New(args) => keys::new(args),
            KeyCommand::Show(args) => keys::show(args),
            KeyCommand::Rotate(args) => keys::rotate(args, &signing(&args.sign)?),
            KeyCommand::Revoke(args) => keys::revoke(args, &signing(&args.sign)?),
        },
        Command::Propose(args) => propose::command(args, &signing(&args.sign)?),
        Command::Second(args) => words::second(args, &signing(&args.sign)?),
        Command::Vote(args) => words::vote(args, &signing(&args.sign)?),
        Command::Advise(args) => words::advise(args, &signing(&args.sign)?),
        Command::Attest(args) => words::attest(args, &signing(&args.sign)?),
        Command::SignOff(args) => words::sign_off(args, &signing(&args.sign)?),
        Command::Ratify(args) => words::ratify(args, &signing(&args.sign)?),
        Command::Quarantine(args) => words::quarantine(args, &signing(&args.sign)?),
        Command::Appeal(args) => words::appeal(args, &signing(&args.sign)?),
        Command::Promote(args) => enact::promote(args, &reading(&args.log)?),
        Command::Rollback(args) => enact::roll_back(args, &reading(&args.log)?),
        Command::Enact(args) => enact::command(args, &reading(&args.log)?),
        Command::Models(args) => models::command(args, &reading(&args.log)?),
        // The others are not about deciding.
        _ => Ok(()),
    }
}

/// Whether the caller is a program that reads JSON from stdout; it gets errors there too.
pub fn wants_json(cli: &Cli) -> bool {
    match &cli.command {
        Command::Relay(args) => match &args.command {
            None => args.serve.json,
            Some(RelayCommand::Mirror(args)) => args.serve.json,
            Some(RelayCommand::Migrate(args)) => args.json,
            Some(RelayCommand::Backup(args)) => args.json,
            Some(RelayCommand::Restore(args)) => args.json,
            // Its findings are the answer, also where it fails.
            Some(RelayCommand::Doctor(_)) => false,
        },
        Command::Submit(submit) => match &submit.job {
            SubmitJob::Matmul(args) => args.json,
            SubmitJob::Train(args) => args.json,
        },
        Command::Runs(args) => args.json,
        Command::Pause(args) | Command::Resume(args) => args.log.json,
        Command::Key(key) => match &key.command {
            KeyCommand::New(_) | KeyCommand::Show(_) => false,
            KeyCommand::Rotate(args) => args.sign.log.json,
            KeyCommand::Revoke(args) => args.sign.log.json,
        },
        Command::Propose(args) => args.sign.log.json,
        Command::Second(args) => args.sign.log.json,
        Command::Vote(args) => args.sign.log.json,
        Command::Advise(args) => args.sign.log.json,
        Command::Attest(args) => args.sign.log.json,
        Command::SignOff(args) => args.sign.log.json,
        Command::Ratify(args) => args.sign.log.json,
        Command::Quarantine(args) => args.sign.log.json,
        Command::Appeal(args) => args.sign.log.json,
        Command::Promote(args) => args.log.json,
        Command::Rollback(args) => args.log.json,
        Command::Enact(args) => args.log.json,
        Command::Models(args) => args.log.json,
        Command::Governance(args) => match &args.command {
            GovernanceCommand::Show(args) => args.json,
            GovernanceCommand::Found(args) => args.json,
        },
        Command::Watch(args) => args.json,
        Command::Replay(args) => args.json,
        Command::Audit(args) => args.json,
        Command::Receipt(receipt) => match &receipt.command {
            ReceiptCommand::Verify(args) => args.json,
            ReceiptCommand::Fetch(_) => false,
        },
        Command::Model(model) => match &model.command {
            ModelCommand::Generate(args) => args.json,
            ModelCommand::Logits(args) => args.json,
            ModelCommand::Export(args) => args.json,
            ModelCommand::Rebuild(args) => args.json,
            ModelCommand::Import(args) => args.train.json,
        },
        Command::Jobs(args) => args.json,
        Command::Status(args) | Command::Cancel(args) => args.json,
        Command::Fetch(args) => args.json,
        Command::Peers(args) => args.json,
        Command::Volunteer(args) => args.json,
        Command::Tabs(args) => args.json,
        Command::Completions { .. } => false,
    }
}

/// Logs to stderr, so that stdout holds nothing but what was asked for.
fn start_log(cli: &Cli) -> Result<(), CliError> {
    let format = match &cli.command {
        Command::Relay(args) => match &args.command {
            None => Some(args.serve.log_format),
            Some(RelayCommand::Mirror(args)) => Some(args.serve.log_format),
            _ => None,
        },
        _ => None,
    };
    let fallback = if format.is_some() { RELAY_LOG } else { DEFAULT_LOG };
    let filter = cli.log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(fallback);
    let filter = EnvFilter::try_new(filter).map_err(|cause| CliError::Usage {
        message: format!("{filter:?} is no log filter: {cause}"),
        hint: "use error, warn, info, debug, trace, or pairs such as potluck_relay=debug,info".into(),
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A test that runs several commands in one process keeps the first one's log.
    let _ = if format == Some(LogFormat::Json) {
        log.event_format(relay::json_log::JsonLines).try_init()
    } else {
        log.try_init()
    };
    Ok(())
}
