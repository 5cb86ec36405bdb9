//! Words that strangers write: ids, keys, and what is read of them in addresses and files.

use potluck_governance::{Key, Signature};
use potluck_ledger::{SignerKey, VerifierKey};
use potluck_types::{BlobHash, JobId, LinkId, VolunteerId};
use std::fmt::Display;
use std::str::FromStr;

/// Reads a word as each of them. What is read is written the same way, but for the case of its digits.
pub(crate) fn words(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let mut taken = same::<JobId>(text) | same::<LinkId>(text) | same::<VolunteerId>(text);
    taken |= same::<BlobHash>(text) | same::<Key>(text) | same::<Signature>(text);
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string().parse().as_ref(), Ok(&key));
        taken = true;
    }
    if let Ok(key) = SignerKey::parse(text) {
        let again = SignerKey::parse(&key.secret_text()).expect("what was read can be written");
        assert_eq!(again.verifier(), key.verifier());
        taken = true;
    }
    taken
}

fn same<T: FromStr + Display>(text: &str) -> bool {
    let Ok(read) = text.parse::<T>() else { return false };
    assert!(read.to_string().eq_ignore_ascii_case(text), "{text:?}");
    true
}
