//! Reading with a limit, and writing whole files or none.

use super::ModelError;
use serde_json::Value;
use std::fs::File;
use std::io::{Error, Read as _, Write as _};
use std::path::Path;

/// Most bytes of `model.safetensors` that are read: the largest model as f32, with the masks that old versions stored.
pub const MAX_MODEL_BYTES: u64 = 1 << 30;
/// Most bytes of a JSON file that are read: published tokenizers have up to 17 MB.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

fn failed(path: &Path, action: &'static str, cause: Error) -> ModelError {
    ModelError::File { path: path.to_owned(), action, cause }
}

pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    let read = |file: File| file.take(most + 1).read_to_end(&mut bytes);
    File::open(path).and_then(read).map_err(|cause| failed(path, "read", cause))?;
    if bytes.len() as u64 > most {
        return Err(ModelError::TooLarge { path: path.to_owned(), most });
    }
    Ok(bytes)
}

pub(super) fn json(bytes: &[u8], path: &Path) -> Result<Value, ModelError> {
    serde_json::from_slice(bytes)
        .map_err(|cause| ModelError::Json { path: path.to_owned(), cause: cause.to_string() })
}

pub(super) fn create_folder(folder: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|cause| failed(folder, "written", cause))
}

/// Writes beside the file and renames: who reads meanwhile sees the old file or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let attempt = || -> Result<(), Error> {
        let mut file = tempfile::Builder::new();
        #[cfg(unix)]
        file.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let mut file = file.tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    attempt().map_err(|cause| failed(path, "written", cause))
}
