//! A tab as witness of one relay's log: what it remembers, what the relay answers, and what follows.

use crate::Problem;
use potluck_governance::{Key, Signature, witness_name, witness_seed, witness_text};
use potluck_ledger::{
    Accepted, AddCheckpoint, CheckpointError, ForkEvidence, KeyKind, LogFile, SignerKey, Suspicion, TreeHash,
    VerifierKey, Witness, WitnessError, root_tiles,
};
use potluck_types::VolunteerKey;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of one file that proves a fork, at most: 256 hashes of 32 bytes.
const MAX_TILE_BYTES: usize = 256 * 32;

/// A cosignature, and whose it is: the body of `POST /api/v1/log/cosignatures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// Entries of the checkpoint.
    pub size: u64,
    /// The cosignature, as a line of the checkpoint's note.
    pub lines: String,
    /// Whose it is.
    pub volunteer: Cosigner,
}

/// A volunteer's key for cosignatures, tied to the volunteer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigner {
    /// The key that cosigns, as signed-note writes keys.
    pub key: String,
    /// The volunteer's public key, in hexadecimal.
    pub volunteer: String,
    /// The volunteer's signature over [`witness_text`], in hexadecimal.
    pub signature: String,
}

/// What a witness makes of what the relay said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// The checkpoint follows from the last one. Keep it before the cosignature leaves.
    Accepted {
        /// Entries.
        size: u64,
        /// Entries that are new to this witness.
        new_entries: u64,
        /// The root, in base64.
        root: String,
        /// The checkpoint, as the log signed it.
        checkpoint: String,
        /// What to tell the relay; nothing without a key, or when nothing is new.
        cosigned: Option<Cosigned>,
    },
    /// The log signed two histories.
    Fork {
        /// What happened.
        message: String,
        /// [`ForkEvidence`], which anybody can check with the log's key.
        evidence: String,
    },
    /// The log is shorter than it was, and its checkpoint is signed: entries are gone.
    RolledBack {
        /// What happened.
        message: String,
        /// Both checkpoints. They prove nothing to others: notes may arrive late.
        notes: String,
    },
    /// The relay's proof does not lead here. These files tell whether the log forked: fetch them and [`TabWitness::prove`].
    Unproven {
        /// What is wrong with the proof.
        message: String,
        /// Paths below `/log/`.
        files: Vec<String>,
    },
    /// The answer says nothing about the log: malformed, of another log, or not signed by it.
    Invalid {
        /// What is wrong with it.
        message: String,
        /// Whether the signature is what is missing: the log's key may be another one now.
        unsigned: bool,
    },
}

/// The memory of a tab, for one log.
#[derive(Debug)]
pub struct TabWitness {
    witness: Witness,
    cosigner: Option<(SignerKey, Cosigner)>,
    suspicion: Option<Suspicion>,
}

impl TabWitness {
    /// Goes on from the checkpoint that was remembered, if any. From a volunteer's key follows the one
    /// under which it cosigns; without it nothing is cosigned.
    ///
    /// # Errors
    /// The key or the checkpoint cannot be read, or the key did not sign the checkpoint.
    pub fn new(
        key: &str,
        remembered: Option<&str>,
        volunteer: Option<&VolunteerKey>,
    ) -> Result<Self, Problem> {
        let key: VerifierKey =
            key.trim().parse().map_err(|error| format!("the log's key cannot be used: {error}"))?;
        let origin = key.name().to_owned();
        let witness = match remembered {
            None => Witness::new(&origin, key),
            Some(note) => Witness::restore(&origin, key, note.as_bytes())
                .map_err(|error| format!("the remembered checkpoint cannot be used: {error}"))?,
        };
        let cosigner = volunteer.map(|volunteer| cosigner(&origin, volunteer)).transpose()?;
        Ok(Self { witness, cosigner, suspicion: None })
    }

    /// Entries of the last checkpoint: where the relay's proof has to start. 0 if none is known.
    pub fn size(&self) -> u64 {
        self.witness.head().size
    }

    /// The last checkpoint, as the log signed it.
    pub fn checkpoint(&self) -> Option<String> {
        self.witness.latest().map(|latest| latest.note().to_string())
    }

    /// Takes what `/api/v1/log/since/SIZE` answered, at `now_s` seconds since 1970.
    pub fn offer(&mut self, answer: &str, now_s: u64) -> Verdict {
        let request = match AddCheckpoint::parse(answer.as_bytes()) {
            Ok(request) => request,
            Err(error) => return invalid(error.to_string()),
        };
        if request.old_size != self.size() {
            let message =
                format!("the proof starts at {} entries; {} were asked for", request.old_size, self.size());
            return invalid(message);
        }
        self.judge(&request.note.to_string(), &request.proof, now_s)
    }

    /// Takes a checkpoint alone: what a relay shows that says it has fewer entries.
    pub fn offer_checkpoint(&mut self, note: &str, now_s: u64) -> Verdict {
        self.judge(note, &[], now_s)
    }

    /// Takes files that were asked for with [`Verdict::Unproven`], by their paths.
    pub fn prove(&mut self, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Verdict {
        let Some(Suspicion { older, newer }) = &self.suspicion else {
            return invalid("nothing is suspected: offer a checkpoint first".to_owned());
        };
        let mut read: BTreeMap<LogFile, Vec<u8>> = BTreeMap::new();
        for (path, bytes) in files {
            match path.parse() {
                Ok(file) if bytes.len() <= MAX_TILE_BYTES => drop(read.insert(file, bytes)),
                _ => return invalid(format!("{path:?} is no tile of a log")),
            }
        }
        match ForkEvidence::from_tiles(older, newer, &mut read) {
            Ok(Some(evidence)) => fork(older.head().size, &evidence),
            Ok(None) => {
                invalid("the relay's proof is wrong, though its log did not fork: ask again".to_owned())
            }
            Err(error) => invalid(format!("whether the log forked cannot be told from its files: {error}")),
        }
    }

    fn judge(&mut self, note: &str, proof: &[TreeHash], now_s: u64) -> Verdict {
        let first = self.witness.latest().is_none();
        let error = match self.witness.offer(note.as_bytes(), proof, now_s) {
            Ok(accepted) => return self.accepted(&accepted, first),
            Err(error) => error,
        };
        let message = error.to_string();
        match error {
            WitnessError::Fork { size, evidence } => fork(size, &evidence),
            WitnessError::Stale { latest, offered, notes, .. } => {
                let message = format!(
                    "the relay's log had {latest} entries and signed them; now it shows {offered}: entries are gone"
                );
                Verdict::RolledBack {
                    message,
                    notes: format!("{}\n{}", notes.older.note(), notes.newer.note()),
                }
            }
            WitnessError::BadProof { notes: Some(notes), .. } => {
                let tiles = root_tiles(notes.older.head().size, notes.newer.head().size).unwrap_or_default();
                self.suspicion = Some(*notes);
                Verdict::Unproven { message, files: tiles.iter().map(ToString::to_string).collect() }
            }
            WitnessError::Checkpoint(CheckpointError::NotByLog | CheckpointError::Origin { .. }) => {
                Verdict::Invalid { message, unsigned: true }
            }
            _ => invalid(message),
        }
    }

    fn accepted(&self, accepted: &Accepted, first: bool) -> Verdict {
        let (head, note) = (accepted.checkpoint.head(), accepted.checkpoint.note());
        let cosigner = self.cosigner.as_ref().filter(|_| first || accepted.new_entries > 0);
        let cosigned = cosigner.and_then(|(key, volunteer)| {
            let mut alone = note.filtered(|_| false);
            // It fails only for times that the witness has refused before.
            alone.cosign(key, accepted.timestamp_s).ok()?;
            let lines = alone.signatures().first()?.to_string();
            Some(Cosigned { size: head.size, lines, volunteer: volunteer.clone() })
        });
        Verdict::Accepted {
            size: head.size,
            new_entries: accepted.new_entries,
            root: head.root.to_string(),
            checkpoint: note.to_string(),
            cosigned,
        }
    }
}

/// The key under which a volunteer cosigns in a log, and the volunteer's word that it is its.
fn cosigner(origin: &str, volunteer: &VolunteerKey) -> Result<(SignerKey, Cosigner), Problem> {
    let whose = Key(volunteer.id().0);
    let seed = witness_seed(&volunteer.0);
    let signer = SignerKey::from_seed(&witness_name(&whose), KeyKind::CosignatureV1, &seed);
    let signer = signer.map_err(|error| format!("no key for cosignatures can be made: {error}"))?;
    let key = signer.verifier().to_string();
    let signature = Signature(volunteer.sign(witness_text(origin, &key).as_bytes())).to_string();
    Ok((signer, Cosigner { key, volunteer: whose.to_string(), signature }))
}

fn fork(size: u64, evidence: &ForkEvidence) -> Verdict {
    let message =
        format!("the relay's log forked: it signed {size} entries, and now shows others in their place");
    Verdict::Fork { message, evidence: evidence.to_string() }
}

fn invalid(message: String) -> Verdict {
    Verdict::Invalid { message, unsigned: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_ledger::{Appender, Checkpoint, TreeHead, root_at};

    const ORIGIN: &str = "relay.example/log";

    /// A log with its files.
    struct Log {
        appender: Appender,
        files: BTreeMap<LogFile, Vec<u8>>,
        key: SignerKey,
    }

    impl Log {
        fn new() -> Self {
            let key = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[7; 32]).unwrap();
            Self { appender: Appender::new(), files: BTreeMap::new(), key }
        }

        fn append(&mut self, from: u64, to: u64, what: &str) {
            let entries: Vec<_> = (from..to).map(|n| format!("{what} {n}")).collect();
            self.files.extend(self.appender.append(&entries).unwrap().files);
        }

        fn note(&self) -> String {
            let mut note = Checkpoint::new(ORIGIN, self.appender.head()).unwrap().to_note();
            note.sign(&self.key).unwrap();
            note.to_string()
        }

        fn since(&mut self, size: u64) -> String {
            let head: TreeHead = self.appender.head();
            let proof = if size == 0 { Vec::new() } else { root_at(size, &head, &mut self.files).unwrap().1 };
            let note = potluck_ledger::Note::parse(self.note().as_bytes()).unwrap();
            AddCheckpoint { old_size: size, proof, note }.to_string()
        }

        fn witness(&self, remembered: Option<&str>) -> TabWitness {
            TabWitness::new(&self.key.verifier().to_string(), remembered, Some(&VolunteerKey([9; 32])))
                .unwrap()
        }
    }

    fn accepted(verdict: &Verdict) -> (u64, u64, bool) {
        match verdict {
            Verdict::Accepted { size, new_entries, cosigned, .. } => {
                (*size, *new_entries, cosigned.is_some())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_log_that_goes_on_is_accepted_and_cosigned() {
        let mut log = Log::new();
        log.append(0, 3, "entry");
        let mut tab = log.witness(None);
        assert_eq!(accepted(&tab.offer(&log.since(0), 5)), (3, 3, true));
        assert_eq!(accepted(&tab.offer(&log.since(3), 6)), (3, 0, false), "nothing new, nothing to sign");
        log.append(3, 300, "entry");
        let mut again = log.witness(tab.checkpoint().as_deref());
        let Verdict::Accepted { checkpoint, cosigned: Some(cosigned), .. } = again.offer(&log.since(3), 7)
        else {
            panic!("it goes on")
        };
        let mut note = potluck_ledger::Note::parse(checkpoint.as_bytes()).unwrap();
        note.attach_lines(&cosigned.lines).unwrap();
        let Cosigner { key, volunteer, signature } = cosigned.volunteer;
        let witness: VerifierKey = key.parse().unwrap();
        assert_eq!(note.verify(&[&witness]).unwrap()[0].timestamp_s, Some(7));
        assert_eq!((cosigned.size, witness.name()), (300, format!("volunteer/{volunteer}").as_str()));
        // Only the volunteer can say whose key it is.
        let (volunteer, signature) = (volunteer.parse::<Key>().unwrap(), signature.parse().unwrap());
        assert!(volunteer.signed(witness_text(ORIGIN, &key).as_bytes(), &signature));
        assert!(!volunteer.signed(witness_text("other.example/log", &key).as_bytes(), &signature));
    }

    #[test]
    fn a_fork_is_proved_out_of_the_files_at_any_size() {
        for (seen, common) in [(1, 0), (4, 2), (5, 3), (256, 255), (260, 7), (300, 299)] {
            let (mut first, mut second) = (Log::new(), Log::new());
            first.append(0, seen, "entry");
            second.append(0, common, "entry");
            second.append(common, seen + 40, "other");
            let mut tab = first.witness(None);
            accepted(&tab.offer(&first.since(0), 1));
            let Verdict::Unproven { files, .. } = tab.offer(&second.since(seen), 2) else { panic!("{seen}") };
            let read = files.iter().map(|path| (path.clone(), second.files[&path.parse().unwrap()].clone()));
            let Verdict::Fork { evidence, .. } = tab.prove(read.collect::<Vec<_>>()) else {
                panic!("{seen}")
            };
            let evidence = ForkEvidence::parse(evidence.as_bytes()).unwrap();
            evidence.verify(ORIGIN, first.key.verifier()).unwrap();
            assert_eq!(tab.size(), seen, "the memory is as it was");
        }
    }

    #[test]
    fn a_fork_of_the_same_size_needs_no_files() {
        let (mut first, mut second) = (Log::new(), Log::new());
        first.append(0, 9, "entry");
        second.append(0, 9, "other");
        let mut tab = first.witness(None);
        accepted(&tab.offer(&first.since(0), 1));
        assert!(matches!(tab.offer(&second.since(9), 2), Verdict::Fork { .. }));
    }

    #[test]
    fn a_shorter_log_is_a_rollback_and_no_proof() {
        let mut log = Log::new();
        log.append(0, 4, "entry");
        let short = log.note();
        log.append(4, 9, "entry");
        let mut tab = log.witness(None);
        accepted(&tab.offer(&log.since(0), 1));
        assert!(matches!(tab.offer_checkpoint(&short, 2), Verdict::RolledBack { .. }));
    }

    #[test]
    fn a_wrong_proof_is_no_fork_and_another_key_is_told_apart() {
        let mut log = Log::new();
        log.append(0, 5, "entry");
        let mut tab = log.witness(None);
        accepted(&tab.offer(&log.since(0), 1));
        log.append(5, 9, "entry");
        let honest = log.since(5);
        let mut lines: Vec<_> = honest.lines().map(str::to_owned).collect();
        lines.swap(1, 2);
        let Verdict::Unproven { files, .. } = tab.offer(&format!("{}\n", lines.join("\n")), 2) else {
            panic!("the proof is wrong")
        };
        let read = files.iter().map(|path| (path.clone(), log.files[&path.parse().unwrap()].clone()));
        assert!(matches!(tab.prove(read.collect::<Vec<_>>()), Verdict::Invalid { unsigned: false, .. }));
        assert!(matches!(tab.offer(&honest.replace("old 5", "old 4"), 2), Verdict::Invalid { .. }));
        let mut other = Log::new();
        other.key = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[8; 32]).unwrap();
        other.append(0, 20, "entry");
        assert!(matches!(tab.offer(&other.since(5), 3), Verdict::Invalid { unsigned: true, .. }));
        assert_eq!(accepted(&tab.offer(&honest, 4)), (9, 4, true));
    }

    #[test]
    fn files_that_nobody_asked_for_are_refused() {
        let mut log = Log::new();
        log.append(0, 2, "entry");
        let mut tab = log.witness(None);
        assert!(matches!(tab.prove(Vec::new()), Verdict::Invalid { .. }));
        assert!(TabWitness::new("nonsense", None, None).is_err());
        assert!(TabWitness::new(&log.key.verifier().to_string(), Some("nonsense"), None).is_err());
    }
}
