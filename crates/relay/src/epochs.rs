//! Secrets of epochs. What checks and audits are drawn from is committed to in the log at a start, and told there when
//! nothing is drawn from it any more: at the next start.

use potluck_types::BlobHash;
use potluck_verify::Secret;
use std::io;
use std::path::{Path, PathBuf};

fn path(folder: &Path, incarnation: u32) -> PathBuf {
    folder.join(incarnation.to_string())
}

/// Keeps a secret until its epoch is over. It is on disk when this returns.
pub(crate) fn keep(folder: &Path, incarnation: u32, secret: &Secret) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    crate::token::write_private(&path(folder, incarnation), &BlobHash(secret.0).to_string())
}

/// The secret of an epoch; none if it was lost.
pub(crate) fn secret(folder: &Path, incarnation: u32) -> io::Result<Option<Secret>> {
    match std::fs::read_to_string(path(folder, incarnation)) {
        Ok(text) => Ok(text.trim().parse::<BlobHash>().ok().map(|secret| Secret(secret.0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The secret is public.
pub(crate) fn forget(folder: &Path, incarnation: u32) -> io::Result<()> {
    match std::fs::remove_file(path(folder, incarnation)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
