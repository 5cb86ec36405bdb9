//! `potluck.toml`: what an operator may set. Flags and environment variables come on top (crate `cli`).

use crate::blobs::BlobsUrl;
use crate::db::{StoreUrl, StoreUrlError};
use crate::embed::{EmbedConfig, EmbedMistake};
use crate::node::NodeUrl;
use crate::turn::{TurnConfig, TurnConfigError};
use crate::upkeep::UpkeepConfig;
use potluck_ledger::{Policy, PolicyError, VerifierKey};
use potluck_types::limits::MAX_SESSIONS;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An operator's settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder for database, blobs, token and the relay's key. Created if it is missing.
    pub data: PathBuf,
    /// A database of PostgreSQL for the records, `postgres://USER@HOST/NAME`, instead of a file in `data`.
    pub store: Option<StoreUrl>,
    /// A place in a bucket for the blobs, `s3://BUCKET/FOLDER`, instead of a folder in `data`.
    pub blobs: Option<BlobsUrl>,
    /// This is one of several nodes of a relay, and the others reach it here: `http://HOST:PORT`. They have `store` and `blobs` in
    /// common.
    pub node: Option<NodeUrl>,
    /// Who runs the relay, as volunteers see it.
    pub operator: String,
    /// How to reach the operator.
    pub contact: String,
    /// A proxy of the operator's stands before the relay and names each volunteer's address, the last one in
    /// `X-Forwarded-For`. Which addresses volunteers may name to each other depends on it.
    pub behind_proxy: bool,
    /// Sessions of volunteers at once; further ones are told to come back later. Fewer where the system allows fewer open
    /// files.
    pub max_sessions: usize,
    /// The public log.
    pub log: LogConfig,
    /// STUN and TURN servers of volunteers' links.
    pub turn: Option<TurnConfig>,
    /// The widget on other sites.
    pub embeds: EmbedConfig,
    /// How the relay looks after what it stores.
    pub upkeep: UpkeepConfig,
    /// Another relay whose log this one mirrors: `potluck relay mirror` says so, no settings file can.
    #[serde(skip)]
    pub mirror: Option<MirrorConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            data: PathBuf::from("potluck-data"),
            store: None,
            blobs: None,
            node: None,
            operator: "somebody on this machine".to_owned(),
            contact: String::new(),
            behind_proxy: false,
            max_sessions: MAX_SESSIONS,
            log: LogConfig::default(),
            turn: None,
            embeds: EmbedConfig::default(),
            upkeep: UpkeepConfig::default(),
            mirror: None,
        }
    }
}

/// What a mirror follows, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Address of the relay.
    pub of: String,
    /// The key of its log, if it is known already: NAME+HASH+BASE64.
    pub key: Option<String>,
    /// Time between two looks.
    pub every: Duration,
    /// When the relay was not heard for so long, people may say here who goes on.
    pub alone_after: Duration,
    /// Not to listen to the relay any more: it lies, or was voted out.
    pub alone: bool,
}

impl MirrorConfig {
    /// How a mirror usually follows a relay.
    pub fn of(url: &str) -> Self {
        Self {
            of: url.trim_end_matches('/').to_owned(),
            key: None,
            every: Duration::from_secs(1),
            alone_after: Duration::from_mins(10),
            alone: false,
        }
    }
}

/// `[log]`: the relay's public log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Its name, such as `relay.example.org/log`: an address of the operator's without a scheme. It stands in every
    /// checkpoint and cannot be changed later. Without one the log is named by its key.
    pub origin: Option<String>,
    /// Keys of the witnesses whose cosignatures count, as C2SP signed-note writes keys.
    pub witnesses: Vec<String>,
    /// How many of them have to cosign a checkpoint before clients believe it.
    pub quorum: usize,
    /// Accepted results are not logged: for the benchmark that says what the log costs. No settings file can say so.
    #[serde(skip)]
    pub unlogged_results: bool,
}

impl LogConfig {
    /// When a checkpoint of this log counts.
    ///
    /// # Errors
    /// A witness's key cannot be read, is there twice or makes no cosignatures; the quorum is larger than all of them.
    pub fn policy(&self, origin: &str, log: &VerifierKey) -> Result<Policy, PolicyError> {
        // A key that cannot be read is named by its text: the settings file is where to look.
        let key = |text: &String| {
            text.parse::<VerifierKey>().map_err(|_| PolicyError::KeyKind { name: text.clone() })
        };
        let witnesses = self.witnesses.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        Policy::new(origin, log.clone(), witnesses, self.quorum)
    }
}

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not what it should be; the message names line and key.
    #[error("{path} is not a valid settings file: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// `[turn]` contradicts itself.
    #[error("{path}: {mistake}")]
    Turn {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        mistake: TurnConfigError,
    },
    /// `store` is no address.
    #[error("{path}: {mistake}")]
    Store {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        mistake: StoreUrlError,
    },
    /// `[embeds]` cannot be used.
    #[error("{path}: {mistake}")]
    Embeds {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        mistake: EmbedMistake,
    },
}

impl Config {
    /// Reads a settings file.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, has a key that does not exist, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })?;
        let checked = config.turn.as_ref().map_or(Ok(()), TurnConfig::check);
        checked.map_err(|mistake| ConfigError::Turn { path: path.to_owned(), mistake })?;
        let checked = config.store.as_ref().map_or(Ok(()), StoreUrl::check);
        checked.map_err(|mistake| ConfigError::Store { path: path.to_owned(), mistake })?;
        let checked = config.embeds.check();
        checked.map_err(|mistake| ConfigError::Embeds { path: path.to_owned(), mistake })?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_read_and_mistakes_are_named() {
        assert_eq!(parse(""), Ok(Config::default()));
        let config = parse("listen = \"0.0.0.0:80\"\noperator = \"the lab\"").unwrap();
        assert_eq!((config.listen.port(), config.operator.as_str()), (80, "the lab"));
        let error = parse("lisen = \"0.0.0.0:80\"").unwrap_err();
        assert!(error.contains("lisen") && error.contains("line 1"), "{error}");
        assert!(parse("listen = 80").unwrap_err().contains("line 1"));
        let error = parse("store = \"postgress://potluck:hush@localhost/p\"").unwrap_err();
        assert!(error.contains("postgres://") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn turn_is_off_unless_it_is_set_and_its_mistakes_are_named() {
        assert_eq!(parse("listen = \"0.0.0.0:80\"").unwrap().turn, None);
        let text = "[turn]\nlisten = \"0.0.0.0:3478\"\npublic_ip = \"203.0.113.7\"\nports = [50000, 50100]\n\
            [[turn.servers]]\nurls = [\"turn:turn.example.org:3478?transport=udp\"]\nsecret = \"hush\"";
        let turn = parse(text).unwrap().turn.unwrap();
        assert_eq!((turn.ports, turn.servers.len()), ([50000, 50100], 1));
        assert_eq!(turn.max_allocations, TurnConfig::default().max_allocations);
        let error = parse("[turn]\nlisten = \"127.0.0.1:3478\"\nport = 1").unwrap_err();
        assert!(error.contains("`port`") && error.contains("line 3"), "{error}");
        let error = parse("[turn]\nlisten = \"0.0.0.0:3478\"").unwrap_err();
        assert!(error.contains("public_ip"), "{error}");
    }

    #[test]
    fn the_settings_in_the_readme_can_be_used() {
        let readme = include_str!("../../../README.md");
        let section = readme.split("## Settings of a relay").nth(1).unwrap().split("\n## ").next().unwrap();
        let blocks: Vec<_> =
            section.split("```toml").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        let config = parse(&blocks.concat()).unwrap();
        let turn = config.turn.clone().unwrap();
        assert_eq!((blocks.len(), config.listen, turn.servers.len()), (3, Config::default().listen, 1));
        let embeds = config.embeds;
        assert_eq!((embeds.enabled, embeds.max_preset), (true, EmbedConfig::default().max_preset));
        let usual = TurnConfig { listen: turn.listen, public_ip: turn.public_ip, ..TurnConfig::default() };
        assert_eq!(TurnConfig { servers: Vec::new(), ..turn }, usual);
    }
}
