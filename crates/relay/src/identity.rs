//! The relay's own key: made at the first start, kept in the data folder, readable by nobody else.
//!
//! Volunteers sign its public half when they say who they are, so that their signatures count at this relay alone; and
//! it is the key of the relay's log. A relay that loses it is another one to everybody.

use crate::{StartError, random, token};
use potluck_types::VolunteerKey;
use potluck_types::key::{SEED_BYTES, public_key};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use zeroize::Zeroizing;

/// The key's file in the data folder: 64 hexadecimal digits, as a volunteer's.
pub const FILE: &str = "relay.key";
/// Bytes that are read of it: the digits and a line end, with room for a careless editor.
const MAX_FILE_BYTES: u64 = 256;

/// An Ed25519 key by which others know a relay.
#[derive(Clone)]
pub struct Identity {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    public: [u8; 32],
}

impl Identity {
    fn new(seed: Zeroizing<[u8; SEED_BYTES]>) -> Self {
        let public = public_key(&seed);
        Self { seed, public }
    }

    /// The secret half, to sign with.
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }
}

/// The public half, as hexadecimal digits.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.public.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// Reads the key, or makes one if there is none. Whoever calls holds the data folder's lock.
///
/// # Errors
/// The file cannot be read or written, or holds something else; the system gives no random numbers.
pub(crate) fn prepare(path: &Path) -> Result<Identity, StartError> {
    let failed = |cause| StartError::Identity { path: path.to_owned(), cause };
    match File::open(path) {
        Ok(file) => read(file).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = VolunteerKey(random()?);
            token::write_private(path, &key.to_hex()).map_err(failed)?;
            Ok(Identity::new(Zeroizing::new(key.0)))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Reads a key that has to be there.
pub(crate) fn read_file(path: &Path) -> io::Result<Identity> {
    read(File::open(path)?)
}

fn read(file: File) -> io::Result<Identity> {
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    // The error names a position, never the content.
    let key: VolunteerKey =
        text.trim().parse().map_err(|cause| io::Error::new(ErrorKind::InvalidData, cause))?;
    Ok(Identity::new(Zeroizing::new(key.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let identity = prepare(&path).unwrap();
        let again = prepare(&path).unwrap();
        assert_eq!((again.seed(), again.public()), (identity.seed(), identity.public()));
        assert_eq!(identity.public(), VolunteerKey(*identity.seed()).id().0);
        assert_ne!(prepare(&folder.path().join("other")).unwrap().public(), identity.public());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let secret = fs::read_to_string(&path).unwrap();
        assert!(
            !format!("{identity} {identity:?}").contains(secret.trim()),
            "the secret half is not printed"
        );
    }

    #[test]
    fn a_file_that_holds_something_else_is_left_alone_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let digits = "0f".repeat(SEED_BYTES);
        for wrong in ["", "not a key", &digits[1..], &format!("{digits}0"), &digits.replace('f', "g")] {
            fs::write(&path, wrong).unwrap();
            let error = prepare(&path).unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, StartError::Identity { .. }) && said.contains(FILE), "{said}");
            assert!(said.contains("move the file away"), "{said}");
            assert!(wrong.is_empty() || !said.contains(wrong), "a key file's content is not printed");
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong);
        }
        fs::write(&path, format!("{digits}\n\n")).unwrap();
        assert_eq!(*prepare(&path).unwrap().seed(), [0x0f; SEED_BYTES]);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(prepare(&path), Err(StartError::Identity { .. })));
    }
}
