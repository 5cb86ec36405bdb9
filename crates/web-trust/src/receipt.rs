//! Receipts: whether a file proves its entry, and what the entry says.

use crate::Problem;
use potluck_ledger::{Policy, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose signatures a checkpoint needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    /// The log's key, as signed-note writes keys.
    pub log: String,
    /// Keys of witnesses.
    #[serde(default)]
    pub witnesses: Vec<String>,
    /// Witnesses that have to have signed.
    #[serde(default)]
    pub threshold: usize,
}

impl Trusted {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is none, and a policy that makes no sense.
    pub fn policy(&self) -> Result<Policy, Problem> {
        let key = |text: &String| text.trim().parse::<potluck_ledger::VerifierKey>();
        let log = key(&self.log).map_err(|error| format!("the log's key cannot be used: {error}"))?;
        let witnesses: Result<Vec<_>, _> = self.witnesses.iter().map(key).collect();
        let witnesses = witnesses.map_err(|error| format!("a witness's key cannot be used: {error}"))?;
        let origin = log.name().to_owned();
        Policy::new(&origin, log, witnesses, self.threshold).map_err(|error| error.to_string())
    }
}

/// A witness that signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cosigned {
    /// Name of its key.
    pub name: String,
    /// When, in seconds since 1970.
    pub timestamp_s: u64,
}

/// What a receipt proves.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proved {
    /// The log.
    pub origin: String,
    /// Index of the entry.
    pub index: u64,
    /// Entries of the tree that it is in.
    pub size: u64,
    /// The witnesses of the policy that signed that tree.
    pub cosigners: Vec<Cosigned>,
    /// Kind of the entry.
    pub kind: String,
    /// When it was logged, in milliseconds since 1970.
    pub at_ms: u64,
    /// All its fields.
    pub entry: Value,
}

/// Checks a receipt, without anything but the keys.
///
/// # Errors
/// What does not hold; also for an entry that is in the log and names no kind and time.
pub fn verify(receipt: &[u8], policy: &Policy) -> Result<Proved, Problem> {
    let receipt = Receipt::parse(receipt).map_err(|error| error.to_string())?;
    let verified = receipt.verify(policy).map_err(|error| error.to_string())?;
    let entry: Value = serde_json::from_slice(&receipt.entry).unwrap_or_default();
    let (Some(kind), Some(at_ms)) = (entry["kind"].as_str(), entry["at_ms"].as_u64()) else {
        return Err("the log has this entry, and it is of no known form".to_owned());
    };
    let cosigners = verified.cosigners.into_iter();
    Ok(Proved {
        origin: verified.checkpoint.origin().to_owned(),
        index: receipt.index,
        size: verified.checkpoint.head().size,
        cosigners: cosigners.map(|by| Cosigned { name: by.name, timestamp_s: by.timestamp_s }).collect(),
        kind: kind.to_owned(),
        at_ms,
        entry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_ledger::{Appender, Checkpoint, KeyKind, LogFile, SignerKey};
    use std::collections::BTreeMap;

    #[test]
    fn a_receipt_holds_and_no_changed_byte_does() {
        let origin = "relay.example/log";
        let key = SignerKey::from_seed(origin, KeyKind::Ed25519, &[7; 32]).unwrap();
        let text = br#"{"v":1,"at_ms":5,"kind":"genesis","origin":"relay.example/log"}"#.to_vec();
        let mut appender = Appender::new();
        let appended = appender.append(&[text.as_slice(), b"second", b"third"]).unwrap();
        let mut files: BTreeMap<LogFile, Vec<u8>> = appended.files.into_iter().collect();
        let mut note = Checkpoint::new(origin, appended.head).unwrap().to_note();
        note.sign(&key).unwrap();
        let trusted = Trusted { log: key.verifier().to_string(), witnesses: Vec::new(), threshold: 0 };
        let policy = trusted.policy().unwrap();
        let receipt = Receipt::issue(text, 0, note.clone(), &mut files).unwrap().to_string().into_bytes();
        let proved = verify(&receipt, &policy).unwrap();
        assert_eq!((proved.kind.as_str(), proved.index, proved.size, proved.at_ms), ("genesis", 0, 3, 5));
        assert_eq!(proved.entry["origin"], origin);
        for at in 0..receipt.len() {
            let mut bad = receipt.clone();
            bad[at] ^= 1;
            assert!(verify(&bad, &policy).is_err(), "byte {at}");
        }
        // An entry that is there and means nothing is no receipt of anything.
        let other = Receipt::issue(b"second".to_vec(), 1, note, &mut files).unwrap().to_string();
        assert!(verify(other.as_bytes(), &policy).unwrap_err().contains("no known form"));
        assert!(Trusted { threshold: 1, ..trusted }.policy().is_err());
    }
}
