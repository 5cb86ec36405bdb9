//! The relay's key: it signs the log, and made at the first start.

use std::io;
use std::path::Path;

/// Reads the seed of the key, or makes one.
pub(crate) fn prepare(path: &Path) -> io::Result<[u8; 32]> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<potluck_types::BlobHash>().map(|seed| seed.0).map_err(|_| {
            let message = format!("{} is damaged: restore it from a copy", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
            crate::token::write_private(path, &potluck_types::BlobHash(seed).to_string())?;
            Ok(seed)
        }
        Err(error) => Err(error),
    }
}

/// The name of a log that its operator has not named.
pub(crate) fn origin(seed: &[u8; 32]) -> String {
    let key = potluck_governance::Key::of(&potluck_governance::SigningKey::from_bytes(seed)).to_string();
    format!("potluck/{}", &key[..16])
}
