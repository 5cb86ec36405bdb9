//! `potluck relay`: runs the relay in this process until it is asked to stop; `backup.rs` and `doctor.rs` are for its data.

pub mod backup;
pub mod doctor;
pub mod json_log;
pub mod migrate;

use crate::args::{DataArgs, MirrorArgs, RelayArgs, ServeArgs};
use crate::error::CliError;
use crate::stop::Stop;
use potluck_relay::{Config, MirrorConfig, Node, NodeError, NodeUrl, Running, StartError};
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
    if args.node.is_some() {
        config.node.clone_from(&args.node);
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
    if let Some(node) = config.node.clone() {
        return Box::pin(serve_node(config, &node, json, stop)).await;
    }
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
        shut_down(running, stop).await?;
        if asked {
            return Ok(());
        }
        tracing::info!("starting again, for what it is from now on");
    }
}

/// Ends a relay, or leaves it when it is asked a second time.
async fn shut_down(running: Running, stop: &Stop) -> Result<(), CliError> {
    tracing::info!("shutting down");
    tokio::select! {
        () = running.shut_down() => Ok(()),
        // What is accepted is durable already: a second signal costs some recomputing at most.
        () = stop.requested(2) => Err(CliError::Interrupted { job: None }),
    }
}

/// Runs one of several nodes of a relay: it leads whenever no other one does.
async fn serve_node(config: Config, url: &NodeUrl, json: bool, stop: &Stop) -> Result<(), CliError> {
    let failed = |error: StartError| not_started(&error, true);
    let mut node = Box::pin(Node::start(config, url)).await.map_err(failed)?;
    let [token, admin] = node.token_paths();
    let said = Said { url: format!("http://{}", node.address()), key: node.identity(), token, admin };
    if json {
        said.as_json();
    } else {
        said.as_text();
        eprintln!("this is {url}, one of the relay's nodes: GET /node says which one leads");
    }
    let ended = loop {
        let leading = tokio::select! {
            leading = Box::pin(node.lead()) => leading,
            () = stop.requested(1) => break Ok(()),
        };
        let running = match leading {
            Ok(running) => running,
            Err(error) => break Err(failed(error)),
        };
        let taken_over = running.taken_over();
        let asked = tokio::select! {
            () = stop.requested(1) => true,
            () = taken_over => false,
        };
        let ended = shut_down(running, stop).await;
        if asked || ended.is_err() {
            break ended;
        }
        tracing::warn!("another node took over: this one follows it");
    };
    node.close().await;
    ended
}

/// Where a relay is, and what lets people in.
struct Said {
    url: String,
    key: [u8; 32],
    token: PathBuf,
    admin: PathBuf,
}

impl Said {
    /// Tools that read a path may run in another folder.
    fn whole(path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    fn as_json(&self) {
        let said = serde_json::json!({
            "address": self.url, "key": potluck_governance::Key(self.key).to_string(),
            "token_path": Self::whole(&self.token), "admin_token_path": Self::whole(&self.admin),
        });
        println!("{said}");
    }

    fn as_text(&self) {
        let token = Self::whole(&self.token);
        println!("relay  {}", self.url);
        println!("token  {}", token.display());
        println!("admin  {}, for {}/operator.html", Self::whole(&self.admin).display(), self.url);
        eprintln!("open the address in a browser to lend the tab; submit with");
        eprintln!(
            "  potluck submit matmul A.npy B.npy --out C.npy --relay {} --token-file {}",
            self.url,
            token.display()
        );
        eprintln!("Ctrl-C stops the relay; jobs go on when it is started again");
    }
}

/// Where the relay is, and what to do with it.
fn say(running: &Running, config: &Config, json: bool) {
    let said = Said {
        url: running.url(),
        key: running.identity,
        token: running.token_path.clone(),
        admin: running.admin_token_path.clone(),
    };
    if json {
        return said.as_json();
    }
    let (Some(mirror), false) = (&config.mirror, running.leads()) else { return said.as_text() };
    let key = potluck_governance::Key(running.identity);
    println!("relay  {}", running.url());
    println!("mirror of {}", mirror.of);
    println!("key    {key}");
    eprintln!("for the list of mirrors, which people agree on with `potluck propose mirrors --file FILE`:");
    eprintln!(
        "  {}",
        serde_json::json!({ "name": "NAME", "url": "https://ADDRESS", "key": key.to_string() })
    );
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
        StartError::Node(NodeError::NotShared("store")) => {
            "name a database with --store, POTLUCK_STORE or `store`"
        }
        StartError::Node(NodeError::NotShared(_)) => "name a place with --blobs, POTLUCK_BLOBS or `blobs`",
        StartError::Node(NodeError::Mirror) => "leave out --node, POTLUCK_NODE and `node`",
        StartError::Node(_) => {
            "copy relay.key, token.hash and admin-token.hash from the folder of a node that leads"
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
        ServeArgs { listen, node: None, data, log_format: crate::args::LogFormat::Text, json: false }
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
