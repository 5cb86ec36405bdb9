//! `potluck relay`: runs the relay in this process until it is asked to stop; `backup.rs` and `doctor.rs` are for its data.

pub mod backup;
pub mod doctor;
pub mod json_log;
pub mod migrate;

use crate::args::{DataArgs, MirrorArgs, RelayArgs, ServeArgs};
use crate::error::CliError;
use crate::stop::Stop;
use potluck_relay::{Config, MirrorConfig, Running, StartError};
use std::path::{Path, PathBuf};

/// The settings file that is used where none is named and the current folder has it.
const USUAL_CONFIG: &str = "potluck.toml";

/// The relay's settings: flags and environment before the file before defaults.
///
/// # Errors
/// The file cannot be read or has mistakes.
pub fn settings(args: &ServeArgs, folder: &Path) -> Result<Config, CliError> {
    let mut config = settings_of(&args.data, folder)?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    Ok(config)
}

/// As [`settings`], of a relay that may not be this process.
///
/// # Errors
/// The file cannot be read or has mistakes.
pub fn settings_of(args: &DataArgs, folder: &Path) -> Result<Config, CliError> {
    let usual = folder.join(USUAL_CONFIG);
    let file = args.config.clone().or_else(|| usual.is_file().then_some(usual));
    let mut config = match &file {
        Some(path) => Config::read(path).map_err(|error| CliError::Usage {
            message: error.to_string(),
            hint: "the README has all keys, under \"Settings of a relay\"".into(),
        })?,
        None => Config::default(),
    };
    if let Some(path) = &file {
        tracing::info!(path = %path.display(), "settings read");
    }
    if let Some(data) = &args.data {
        config.data.clone_from(data);
    }
    if let Some(store) = &args.store {
        store.check().map_err(|error| CliError::Usage {
            message: error.to_string(),
            hint: "--store or POTLUCK_STORE: postgres://USER@HOST/NAME".to_owned(),
        })?;
        config.store = Some(store.clone());
    }
    if args.blobs.is_some() {
        config.blobs.clone_from(&args.blobs);
    }
    Ok(config)
}

/// Runs the command until it is asked to stop.
///
/// # Errors
/// The relay cannot start: address in use, data folder not usable.
pub async fn run(args: &RelayArgs, stop: &Stop) -> Result<(), CliError> {
    serve(settings(&args.serve, Path::new("."))?, args.serve.json, stop).await
}

/// Mirrors another relay until it is asked to stop, and leads the log if people appoint this one.
///
/// # Errors
/// As [`run`]; the other relay does not answer the first time, or its log is not what it was.
pub async fn mirror(args: &MirrorArgs, stop: &Stop) -> Result<(), CliError> {
    let mut config = settings(&args.serve, Path::new("."))?;
    config.mirror = Some(MirrorConfig {
        key: args.key.clone(),
        every: args.every,
        alone_after: args.alone_after,
        alone: args.alone,
        ..MirrorConfig::of(&args.of)
    });
    serve(config, args.serve.json, stop).await
}

async fn serve(mut config: Config, json: bool, stop: &Stop) -> Result<(), CliError> {
    let mut said = false;
    loop {
        let mut running = potluck_relay::start(config.clone())
            .await
            .map_err(|error| not_started(&error, config.store.is_some()))?;
        if !said {
            say(&running, &config, json);
            said = true;
        }
        // What it becomes next has to be found where it is now.
        config.listen = running.address;
        // Nothing more can be written: sessions are better off without a farewell than with waiting for one.
        let taken_over = running.taken_over();
        let asked = tokio::select! {
            () = stop.requested(1) => true,
            () = running.step_made() => false,
            () = taken_over => return Err(taken_over_by_another()),
        };
        tracing::info!("shutting down");
        tokio::select! {
            () = running.shut_down() => {}
            // What is accepted is durable already: a second signal costs some recomputing at most.
            () = stop.requested(2) => return Err(CliError::Interrupted { job: None }),
        }
        if asked {
            return Ok(());
        }
        tracing::info!("starting again, for what it is from now on");
    }
}

/// Where the relay is, and what to do with it.
fn say(running: &Running, config: &Config, json: bool) {
    // Tools that read the path may run in another folder.
    let whole = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let (token_path, admin_token_path) = (whole(&running.token_path), whole(&running.admin_token_path));
    let key = potluck_governance::Key(running.identity);
    if json {
        let said = serde_json::json!({
            "address": running.url(), "key": key.to_string(), "token_path": token_path,
            "admin_token_path": admin_token_path,
        });
        println!("{said}");
        return;
    }
    println!("relay  {}", running.url());
    if let (Some(mirror), false) = (&config.mirror, running.leads()) {
        println!("mirror of {}", mirror.of);
        println!("key    {key}");
        eprintln!(
            "for the list of mirrors, which people agree on with `potluck propose mirrors --file FILE`:"
        );
        eprintln!(
            "  {}",
            serde_json::json!({ "name": "NAME", "url": "https://ADDRESS", "key": key.to_string() })
        );
        return;
    }
    println!("token  {}", token_path.display());
    println!("admin  {}, for {}/operator.html", admin_token_path.display(), running.url());
    eprintln!("open the address in a browser to lend the tab; submit with");
    eprintln!(
        "  potluck submit matmul A.npy B.npy --out C.npy --relay {} --token-file {}",
        running.url(),
        token_path.display()
    );
    eprintln!("Ctrl-C stops the relay; jobs go on when it is started again");
}

fn taken_over_by_another() -> CliError {
    CliError::Relay {
        message: "another relay took the store over".to_owned(),
        hint: "leave this one off: its folder has older log files and blobs than the store. Go on with the one that took over"
            .to_owned(),
    }
}

fn not_started(error: &StartError, store: bool) -> CliError {
    let hint = match error {
        StartError::Data { .. } => "name a folder that may be written with --data",
        StartError::HalfRestored { .. } => "empty the folder and restore again with `potluck relay restore`",
        StartError::InUse { .. } => "stop the other relay, or name another folder with --data",
        StartError::Identity { .. } => "its file is relay.key in the data folder: 64 hexadecimal digits",
        StartError::Listen { .. } => "choose another address with --listen; port 0 takes a free one",
        StartError::Turn { .. } => "choose another `listen` under [turn] of the settings file, or remove it",
        StartError::TurnSettings(_) => "change [turn] of the settings file",
        StartError::WhichStore(which) => &which.hint(),
        StartError::StoreUrl(_) => "as in postgres://potluck@localhost/potluck",
        StartError::StoreInUse { .. } => "stop the other relay, or name another database with --store",
        StartError::Blobs { .. } => {
            "check AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and that the bucket exists"
        }
        StartError::IsMirror { .. } => {
            "go on with `potluck relay mirror URL`, or name another folder with --data"
        }
        StartError::Mirror { .. } => "name the address of a relay that runs: https://relay.example.org",
        StartError::Database(_) if store => {
            "start PostgreSQL, and check the user, the password and the name of the database in --store"
        }
        StartError::Database(_) => "check the disk's space; the data folder may be from a newer version",
        _ => "look at the log: --log debug",
    };
    CliError::Relay { message: error.to_string(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: Option<&str>, config: Option<PathBuf>) -> ServeArgs {
        let listen = listen.map(|listen| listen.parse().unwrap());
        let data = DataArgs { config, ..DataArgs::default() };
        ServeArgs { listen, data, log_format: crate::args::LogFormat::Text, json: false }
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let default = Config::default();
        assert_eq!(settings(&args(None, None), folder.path()).unwrap(), default);
        let usual = folder.path().join(USUAL_CONFIG);
        std::fs::write(&usual, "listen = \"127.0.0.1:81\"\ndata = \"from-file\"").unwrap();
        let from_file = settings(&args(None, None), folder.path()).unwrap();
        assert_eq!((from_file.listen.port(), from_file.data.as_path()), (81, Path::new("from-file")));
        let from_flag = settings(&args(Some("127.0.0.1:82"), None), folder.path()).unwrap();
        assert_eq!((from_flag.listen.port(), from_flag.data.as_path()), (82, Path::new("from-file")));
        let other = folder.path().join("other.toml");
        std::fs::write(&other, "listen = \"127.0.0.1:83\"").unwrap();
        let named = settings(&args(None, Some(other)), folder.path()).unwrap();
        assert_eq!((named.listen.port(), named.data), (83, default.data));
        std::fs::write(&usual, "lisen = 1").unwrap();
        let mistake = settings(&args(None, None), folder.path()).unwrap_err();
        assert!(mistake.to_string().contains("lisen"), "{mistake}");
        assert_eq!(mistake.exit(), crate::error::Exit::Usage);
    }
}
