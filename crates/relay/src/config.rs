//! `potluck.toml`: what an operator may set. Flags and environment variables come on top (crate `cli`).

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// An operator's settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Folder for database, blobs and token. Created if it is missing.
    pub data: PathBuf,
    /// Who runs the relay, as volunteers see it.
    pub operator: String,
    /// How to reach the operator.
    pub contact: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            data: PathBuf::from("potluck-data"),
            operator: "somebody on this machine".to_owned(),
            contact: String::new(),
        }
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
}

impl Config {
    /// Reads a settings file.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or has a key that does not exist.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
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
    }
}
