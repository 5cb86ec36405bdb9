//! A log's files: from a relay, or from any copy of them in a folder.

use crate::client::Client;
use crate::error::CliError;
use potluck_ledger::{LogFile, MAX_ENTRY_BYTES, MAX_NOTE_BYTES, ReadFiles, TILE_WIDTH};
use std::borrow::Cow;
use std::io::{self, Read as _};
use std::path::PathBuf;

/// Largest file of a log: a full bundle of the longest entries.
const MAX_FILE_BYTES: u64 = TILE_WIDTH * (MAX_ENTRY_BYTES as u64 + 2);

/// Where a log is read.
pub(crate) enum Source<'a> {
    Relay(&'a Client),
    Folder(PathBuf),
}

impl Source<'_> {
    fn bytes(&self, path: &str, most: u64) -> Result<Vec<u8>, CliError> {
        let too_long = |found: u64| CliError::Record {
            what: format!("{path} of the log"),
            cause: format!("{found} bytes or more: at most {most} are expected"),
        };
        let mut bytes = Vec::new();
        match self {
            Self::Relay(client) => {
                let address = format!("/log/{path}");
                let trouble = |cause: &str| tracing::warn!(%cause, "the relay does not answer, trying again");
                let response = client.download(&address, &[], |now| trouble(&now.cause))?;
                let answer = |cause: io::Error| CliError::Answer {
                    request: format!("GET {address}"),
                    cause: cause.to_string(),
                };
                response.into_body().into_reader().take(most + 1).read_to_end(&mut bytes).map_err(answer)?;
            }
            Self::Folder(folder) => {
                let whole = folder.join(path);
                let failed = |cause| CliError::file(&whole, "read", cause);
                let file = std::fs::File::open(&whole).map_err(failed)?;
                file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
            }
        }
        if bytes.len() as u64 > most { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
    }

    /// The signed checkpoint.
    pub(crate) fn checkpoint(&self) -> Result<Vec<u8>, CliError> {
        self.bytes("checkpoint", MAX_NOTE_BYTES as u64)
    }

    /// The key that its holder says it is signed with, as C2SP signed-note writes keys.
    pub(crate) fn key(&self) -> Result<String, CliError> {
        Ok(String::from_utf8_lossy(&self.bytes("key", MAX_NOTE_BYTES as u64)?).trim().to_owned())
    }
}

impl Source<'_> {
    /// Key and last checkpoint of the relay from which the log was taken over.
    pub(super) fn predecessor(&self) -> Result<String, CliError> {
        let bytes = self.bytes("predecessor", 2 * MAX_NOTE_BYTES as u64)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Reads files, and remembers why one could not be read.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source<'a>,
    pub(crate) failed: Option<CliError>,
}

impl ReadFiles for Reader<'_> {
    fn read(&mut self, file: LogFile) -> io::Result<Cow<'_, [u8]>> {
        self.source.bytes(&file.to_string(), MAX_FILE_BYTES).map(Cow::Owned).map_err(|error| {
            let text = error.to_string();
            self.failed.get_or_insert(error);
            io::Error::other(text)
        })
    }
}
