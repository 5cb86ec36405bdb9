//! What a volunteer demands before it works on a run, or answers questions to a model: the receipt that shows that it stands
//! in the relay's public log, under the key that the relay's sessions are signed for.

use crate::client::Client;
use crate::error::CliError;
use crate::stop::Stop;
use potluck_governance::{Body, Entry};
use potluck_ledger::{Checkpoint, KeyKind, MAX_RECEIPT_BYTES, Policy, Receipt, VerifierKey};
use potluck_volunteer::Subject;
use serde::Deserialize;
use std::io::Read as _;
use std::time::{Duration, Instant};

/// Whose word is needed, besides the relay's own, before a checkpoint of its log is believed.
#[derive(Debug, Clone, Default)]
pub struct Witnesses {
    /// Their keys.
    pub keys: Vec<VerifierKey>,
    /// How many of them have to have signed.
    pub quorum: usize,
}

/// What is logged is published about a second later: so long is waited for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// Fetches the receipt of a run or a candidate and checks it.
///
/// # Errors
/// Why it is not proven, for people.
pub fn prove(
    relay: &str,
    key: &[u8; 32],
    subject: Subject,
    witnesses: &Witnesses,
    stop: &Stop,
) -> Result<(), String> {
    let client = Client::new(relay, None, stop.clone())
        .map(|client| client.with_patience(PATIENCE, PATIENCE))
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    loop {
        let outcome = fetch(&client, subject)
            .map_err(|error| error.to_string())
            .and_then(|receipt| check(&receipt, key, subject, witnesses));
        // A receipt that proves something else, or nothing yet: both may be a moment too early.
        if outcome.is_ok() || began.elapsed() >= PATIENCE {
            return outcome;
        }
        std::thread::sleep(AGAIN);
    }
}

/// What the relay says of a candidate; its promotion is nothing that a volunteer needs.
#[derive(Debug, Deserialize)]
struct CandidateReceipts {
    candidate: String,
}

fn fetch(client: &Client, subject: Subject) -> Result<Vec<u8>, CliError> {
    let run = match subject {
        Subject::Run(run) => run,
        Subject::Parameters(hash) => {
            let path = format!("/api/v1/log/candidates/{hash}");
            return Ok(client.get::<CandidateReceipts>(&path, |_| {})?.candidate.into_bytes());
        }
    };
    let path = format!("/api/v1/log/jobs/{run}");
    let response = client.download(&path, &[], |_| {})?;
    let mut bytes = Vec::new();
    let most = MAX_RECEIPT_BYTES as u64 + 1;
    let read = response.into_body().into_reader().take(most).read_to_end(&mut bytes);
    read.map_err(|cause| CliError::Answer { request: format!("GET {path}"), cause: cause.to_string() })?;
    Ok(bytes)
}

/// Whether a receipt shows that a subject stands in the log that `key` signs.
fn check(receipt: &[u8], key: &[u8; 32], subject: Subject, witnesses: &Witnesses) -> Result<(), String> {
    let receipt = Receipt::parse(receipt).map_err(|error| error.to_string())?;
    let claimed: Checkpoint = receipt.checkpoint.text().parse().map_err(|error| format!("{error}"))?;
    let log = VerifierKey::new(claimed.origin(), KeyKind::Ed25519, key).map_err(|error| error.to_string())?;
    let policy = Policy::new(claimed.origin(), log, witnesses.keys.clone(), witnesses.quorum)
        .map_err(|error| error.to_string())?;
    receipt.verify(&policy).map_err(|error| error.to_string())?;
    let entry = Entry::decode(&receipt.entry).map_err(|error| error.to_string())?;
    let stands = match (&entry.body, subject) {
        (Body::Run(run), Subject::Run(id)) => run.run == id,
        (Body::Candidate(candidate), Subject::Parameters(hash)) => candidate.parameters == hash,
        _ => false,
    };
    if stands { Ok(()) } else { Err(format!("the receipt is of another entry, a {}", entry.body.kind())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_governance::entry::Candidate;
    use potluck_ledger::{Note, SignerKey, TreeHash, TreeHead};
    use potluck_types::{BlobHash, JobId};

    fn receipt(signer: &SignerKey, parameters: BlobHash) -> Vec<u8> {
        let candidate = Candidate {
            model: "bard".into(),
            run: JobId([1; 16]),
            round: 3,
            parameters,
            checkpoint: BlobHash([2; 32]),
            rebuilt_without: Vec::new(),
        };
        let entry = Entry::new(1_700_000_000_000, candidate).encode().unwrap();
        let head = TreeHead { size: 1, root: TreeHash::leaf(&entry) };
        let checkpoint = Checkpoint::new("relay.example/log", head).unwrap();
        let mut note = Note::new(checkpoint.to_string()).unwrap();
        note.sign(signer).unwrap();
        Receipt { entry, index: 0, proof: Vec::new(), checkpoint: note }.to_string().into_bytes()
    }

    #[test]
    fn only_the_right_entry_under_the_right_key_is_proof() {
        let signer = SignerKey::from_seed("relay.example/log", KeyKind::Ed25519, &[7; 32]).unwrap();
        let key = *signer.verifier().public_key();
        let hash = BlobHash([5; 32]);
        let (good, nobody) = (receipt(&signer, hash), Witnesses::default());
        let subject = Subject::Parameters(hash);
        assert_eq!(check(&good, &key, subject, &nobody), Ok(()));
        let refused = |receipt: &[u8], key, subject, witnesses: &Witnesses| {
            check(receipt, key, subject, witnesses).unwrap_err()
        };
        assert!(
            refused(&good, &key, Subject::Parameters(BlobHash([6; 32])), &nobody).contains("another entry")
        );
        assert!(refused(&good, &key, Subject::Run(JobId([1; 16])), &nobody).contains("a candidate"));
        let other = SignerKey::from_seed("relay.example/log", KeyKind::Ed25519, &[8; 32]).unwrap();
        refused(&good, other.verifier().public_key(), subject, &nobody);
        let witness = SignerKey::from_seed("witness", KeyKind::CosignatureV1, &[9; 32]).unwrap();
        let one = Witnesses { keys: vec![witness.verifier().clone()], quorum: 1 };
        refused(&good, &key, subject, &one);
        let mut changed = good.clone();
        let at = changed.iter().position(|byte| *byte == b'M').unwrap();
        changed[at] = b'N';
        refused(&changed, &key, subject, &nobody);
        refused(b"", &key, subject, &nobody);
    }
}
