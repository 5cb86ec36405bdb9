//! The volunteer's secret, the seed of its Ed25519 key: made once, kept in the user's data folder, readable by nobody else.

use crate::error::CliError;
use potluck_types::VolunteerKey;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Bytes that are read of a key file: 64 digits and a line end, with room for a careless editor.
const MAX_KEY_FILE_BYTES: u64 = 256;

/// Where the key lies unless the person says otherwise.
///
/// # Errors
/// The system names no home.
pub fn default_path() -> Result<PathBuf, CliError> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = if cfg!(target_os = "windows") {
        variable("APPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")))
    };
    folder.map(|folder| folder.join("potluck").join("volunteer.key")).ok_or_else(|| CliError::Volunteer {
        message: "there is no home folder to keep the volunteer's key in".into(),
        hint: "name a file with --key".into(),
    })
}

/// Reads the key, or makes one if there is none.
///
/// # Errors
/// The file cannot be read or written, or holds something else.
pub fn load_or_create(path: &Path) -> Result<VolunteerKey, CliError> {
    match File::open(path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => create(path),
        Err(error) => Err(CliError::file(path, "read", error)),
    }
}

/// Reads a key that has to be there.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn load_key(path: &Path) -> Result<VolunteerKey, CliError> {
    read(path, File::open(path).map_err(|cause| CliError::file(path, "read", cause))?)
}

/// Makes a key in a file that is not there yet.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create_key(path: &Path) -> Result<VolunteerKey, CliError> {
    if path.exists() {
        return Err(CliError::Usage {
            message: format!("{} exists: a key is never written over another", path.display()),
            hint: "name another file, or move that one away".into(),
        });
    }
    create(path)
}

fn read(path: &Path, file: File) -> Result<VolunteerKey, CliError> {
    let mut text = String::new();
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|cause| CliError::file(path, "read", cause))?;
    text.trim().parse().map_err(|cause| CliError::Volunteer {
        message: format!("{} holds no key: {cause}", path.display()),
        hint:
            "a key's file has 64 hexadecimal digits; a volunteer that moves its file away is given a new key"
                .into(),
    })
}

fn create(path: &Path) -> Result<VolunteerKey, CliError> {
    let written = |cause| CliError::file(path, "written", cause);
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|cause| CliError::System {
        what: "the system gives no random numbers",
        cause: std::io::Error::other(cause),
    })?;
    let key = VolunteerKey(bytes);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(written)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(mut file) => {
            let lines = [key.to_hex().as_bytes(), b"\n"].concat();
            file.write_all(&lines).and_then(|()| file.sync_all()).map_err(written)?;
            Ok(key)
        }
        // Another volunteer was quicker: use its key.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            read(path, File::open(path).map_err(|cause| CliError::file(path, "read", cause))?)
        }
        Err(error) => Err(written(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/volunteer.key");
        let key = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().0, key.0);
        assert_ne!(load_or_create(&folder.path().join("other")).unwrap().0, key.0);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "not a key").unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(!error.to_string().contains("not a key"), "a key file's content is not printed");
    }
}
