//! The submitter's token and the admin's: created at the first start, kept by these people, known to the relay by their
//! hashes.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Who submits jobs and runs.
    Submitter,
    /// Who runs the relay, and may see how it does.
    Admin,
}

impl Of {
    /// Domain of the hash, so that one cannot be mistaken for another.
    const fn domain(self) -> &'static str {
        match self {
            Self::Submitter => "potluck 2026 submitter token v1",
            Self::Admin => "potluck 2026 admin token v1",
        }
    }

    /// Where the token lies in a data folder, while its owner leaves it there.
    pub(crate) fn path(self, data: &Path) -> PathBuf {
        data.join(match self {
            Self::Submitter => "token",
            Self::Admin => "admin-token",
        })
    }

    /// Makes sure that the token exists in a data folder, and reads its hash.
    ///
    /// # Errors
    /// As [`prepare`].
    pub(crate) fn prepare(self, data: &Path) -> io::Result<blake3::Hash> {
        let path = self.path(data);
        prepare(self, &path, &path.with_extension("hash"))
    }

    /// The hash under which a token is known.
    fn hash(self, token: &str) -> blake3::Hash {
        blake3::Hash::from_bytes(blake3::derive_key(self.domain(), token.as_bytes()))
    }
}

/// Makes sure that the token file and its hash in `hash_path` exist, and reads the hash.
///
/// The file itself may be moved away by the operator; the hash suffices to check tokens. A file without its
/// hash (a crash in between) is hashed again.
///
/// # Errors
/// What the file system says, or a hash file that was tampered with.
fn prepare(of: Of, token_path: &Path, hash_path: &Path) -> io::Result<blake3::Hash> {
    if let Ok(text) = fs::read_to_string(hash_path) {
        return blake3::Hash::from_hex(text.trim()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged: delete it and the token file for a new token", hash_path.display()),
            )
        });
    }
    let token = match fs::read_to_string(token_path) {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => {
            let mut bytes = [0_u8; 32];
            getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
            let token = blake3::Hash::from_bytes(bytes).to_hex().to_string();
            write_private(token_path, &token)?;
            token
        }
    };
    let hash = of.hash(&token);
    write_private(hash_path, &hash.to_hex())?;
    Ok(hash)
}

/// Makes sure that both tokens exist in a data folder, and names them by one hash.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn both(data: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    for of in [Of::Submitter, Of::Admin] {
        hasher.update(of.prepare(data)?.as_bytes());
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Writes a file that only its owner can read, at once or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Temporary files are created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Whether an `Authorization` header carries the token. Compares hashes, in constant time.
pub(crate) fn matches(expected: &blake3::Hash, of: Of, header: Option<&str>) -> bool {
    let token = header.and_then(|header| header.strip_prefix("Bearer ")).map(str::trim);
    token.is_some_and(|token| of.hash(token) == *expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let (token_path, hash_path) = (folder.path().join("token"), folder.path().join("token.hash"));
        let expected = prepare(Of::Submitter, &token_path, &hash_path).unwrap();
        let token = fs::read_to_string(&token_path).unwrap();
        assert_eq!(prepare(Of::Submitter, &token_path, &hash_path).unwrap(), expected);
        assert!(matches(&expected, Of::Submitter, Some(&format!("Bearer {}", token.trim()))));
        assert!(
            !matches(&expected, Of::Submitter, Some(token.trim()))
                && !matches(&expected, Of::Submitter, None)
        );
        assert!(!matches(&expected, Of::Submitter, Some("Bearer 00")));
        let same = format!("Bearer {}", token.trim());
        assert!(!matches(&expected, Of::Admin, Some(&same)), "one is not the other's");
        assert!(!fs::read_to_string(&hash_path).unwrap().contains(token.trim()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&token_path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_file(&token_path).unwrap();
        assert_eq!(prepare(Of::Submitter, &token_path, &hash_path).unwrap(), expected, "the hash suffices");
        fs::write(&hash_path, "nonsense").unwrap();
        assert!(prepare(Of::Submitter, &token_path, &hash_path).is_err());
    }
}
