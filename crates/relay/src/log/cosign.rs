//! Cosignatures of witnesses below the last checkpoints.
//!
//! The operator names witnesses and how many of them it takes; beside these, volunteers with credit cosign. A witness needs
//! a moment, so the checkpoints of the last minute can be cosigned; the last one that has enough cosignatures is kept, also
//! over a restart, and receipts stand under it.

use super::files::{COSIGNED, Files};
use super::{LogError, Published};
use potluck_governance::{Key, witness_name};
use potluck_ledger::{
    MAX_SIGNATURES, MAX_WITNESSES, Note, NoteError, Policy, SignedCheckpoint, TreeHead, VerifierKey,
};
use std::collections::VecDeque;
use std::io;

/// Checkpoints that can be cosigned: one is signed about each second, and witnesses look every ten.
const MAX_RECENT: usize = 64;
/// Cosignatures of volunteers below one checkpoint: each takes about 200 bytes of every receipt. Witnesses that the
/// operator names have their own room.
const MAX_VOLUNTEER_COSIGNATURES: usize = 16;
/// How far a cosignature's time may lie from the relay's, either way, in seconds.
const MAX_SKEW_S: u64 = 600;
const _: () = assert!(1 + MAX_WITNESSES + MAX_VOLUNTEER_COSIGNATURES <= MAX_SIGNATURES);

/// Why cosignatures were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum CosignError {
    /// No such checkpoint, or none any more.
    #[error("none of the last {MAX_RECENT} checkpoints has {size} entries; the last one has {latest}")]
    Unknown { size: u64, latest: u64 },
    /// Not signatures.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Somebody else's lines among them.
    #[error("a line is of another key than {name}")]
    Foreign { name: String },
    /// The time that it states.
    #[error("the cosignature's time {time_s} s is more than {MAX_SKEW_S} s from {now_s} s: set the clock")]
    Skew { time_s: u64, now_s: u64 },
    /// Enough volunteers did.
    #[error("{MAX_VOLUNTEER_COSIGNATURES} volunteers cosigned this checkpoint already: cosign a later one")]
    Full,
    /// A volunteer's key is named otherwise.
    #[error("a volunteer cosigns under the name {expected}")]
    Name { expected: String },
}

/// A checkpoint and who cosigned it.
#[derive(Debug, Clone)]
struct Cosigned {
    head: TreeHead,
    note: Note,
    /// Ids of the keys that did.
    witnesses: usize,
    volunteers: usize,
}

/// Who cosigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// A witness that the operator names.
    Named(VerifierKey),
    /// A volunteer with credit, whose signature over the key was checked.
    Volunteer(Key, VerifierKey),
}

/// The last checkpoints with their cosignatures.
#[derive(Debug)]
pub(super) struct Cosignatures {
    threshold: usize,
    recent: VecDeque<Cosigned>,
    /// The last that has enough.
    best: Option<Cosigned>,
}

/// What came of cosignatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) cosignatures: usize,
    pub(super) quorum_met: bool,
    /// Whether the best checkpoint is another one now, or has more.
    pub(super) best_changed: bool,
}

impl Cosignatures {
    /// What was kept.
    ///
    /// # Errors
    /// Files that cannot be read. What is not this log's, or beyond what it published, is left alone.
    pub(super) async fn restore(
        files: &Files,
        policy: &Policy,
        published: &Published,
    ) -> Result<Self, LogError> {
        let mut restored = Self { threshold: policy.threshold(), recent: VecDeque::new(), best: None };
        if !published.note.is_empty() {
            restored.published(published)?;
        }
        let kept = match files.get(COSIGNED).await {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(restored),
            Err(error) => return Err(error.into()),
        };
        let opened = SignedCheckpoint::open(&kept, policy.origin(), policy.log());
        let opened = opened.ok().filter(|signed| signed.head().size <= published.head.size);
        // Witnesses may have been named or dropped since.
        let signed = opened.and_then(|signed| Some((policy.verify_note(signed.note()).ok()?, signed)));
        if let Some((verified, signed)) = signed {
            let (head, note, witnesses) = (signed.head(), signed.note().clone(), verified.cosigners.len());
            let volunteers = note.signatures().len().saturating_sub(1 + witnesses);
            restored.best = Some(Cosigned { head, note, witnesses, volunteers });
        }
        Ok(restored)
    }

    /// A checkpoint was signed.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn published(&mut self, published: &Published) -> Result<(), LogError> {
        let note = Note::parse(published.note.as_bytes())
            .map_err(|error| LogError::Damaged(format!("its checkpoint: {error}")))?;
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Cosigned { head: published.head, note, witnesses: 0, volunteers: 0 });
        Ok(())
    }

    /// The last checkpoint with the cosignatures that it has so far.
    pub(super) fn latest(&self) -> Option<&Note> {
        self.recent.back().map(|last| &last.note)
    }

    /// The last checkpoint that has enough cosignatures: the quorum's, or without one any.
    pub(super) fn best(&self) -> Option<(TreeHead, &Note)> {
        self.best.as_ref().map(|best| (best.head, &best.note))
    }

    /// Takes the cosignatures of one key.
    ///
    /// # Errors
    /// [`CosignError`] says what is wrong; nothing was taken.
    pub(super) fn add(
        &mut self,
        size: u64,
        lines: &str,
        who: &Who,
        now_s: u64,
    ) -> Result<Taken, CosignError> {
        let latest = self.recent.back().map_or(0, |last| last.head.size);
        let found = self.recent.iter_mut().rev().find(|recent| recent.head.size == size);
        let found = found.ok_or(CosignError::Unknown { size, latest })?;
        let key = match who {
            Who::Named(key) => key,
            Who::Volunteer(volunteer, key) => {
                let expected = witness_name(volunteer);
                if key.name() != expected {
                    return Err(CosignError::Name { expected });
                }
                key
            }
        };
        let threshold = self.threshold;
        let enough = |cosigned: &Cosigned| {
            if threshold == 0 {
                cosigned.witnesses + cosigned.volunteers > 0
            } else {
                cosigned.witnesses >= threshold
            }
        };
        let state = |cosigned: &Cosigned, best_changed| Taken {
            cosignatures: cosigned.witnesses + cosigned.volunteers,
            quorum_met: cosigned.witnesses >= threshold,
            best_changed,
        };
        if found.note.signatures().iter().any(|signature| signature.is_by(key)) {
            return Ok(state(found, false));
        }
        if matches!(who, Who::Volunteer(..)) && found.volunteers >= MAX_VOLUNTEER_COSIGNATURES {
            return Err(CosignError::Full);
        }
        let mut alone = Note::new(found.note.text())?;
        alone.attach_lines(lines)?;
        if alone.signatures().iter().any(|signature| !signature.is_by(key)) {
            return Err(CosignError::Foreign { name: key.name().to_owned() });
        }
        for signed in alone.verify(&[key])? {
            let time_s = signed.timestamp_s.unwrap_or(0);
            if time_s.abs_diff(now_s) > MAX_SKEW_S {
                return Err(CosignError::Skew { time_s, now_s });
            }
        }
        // One of a key is enough: who sends several would take others' room.
        let first = alone.signatures().first().map(ToString::to_string).unwrap_or_default();
        found.note.attach_lines(&first)?;
        match who {
            Who::Named(_) => found.witnesses += 1,
            Who::Volunteer(..) => found.volunteers += 1,
        }
        let newer = self.best.as_ref().is_none_or(|best| best.head.size <= found.head.size);
        let best_changed = newer && enough(found);
        if best_changed {
            self.best = Some(found.clone());
        }
        Ok(state(found, best_changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_ledger::{Checkpoint, KeyKind, SignerKey, TreeHash};

    const NOW_S: u64 = 1_700_000_000;

    fn log() -> SignerKey {
        SignerKey::from_seed("example.org/log", KeyKind::Ed25519, &[1; 32]).unwrap()
    }

    fn witness(n: u8) -> SignerKey {
        SignerKey::from_seed(&format!("example.org/witness-{n}"), KeyKind::CosignatureV1, &[n; 32]).unwrap()
    }

    fn checkpoint(size: u64) -> Published {
        let head = TreeHead { size, root: TreeHash::leaf(&size.to_le_bytes()) };
        let mut note = Checkpoint::new("example.org/log", head).unwrap().to_note();
        note.sign(&log()).unwrap();
        Published { head, note: note.to_string().into() }
    }

    fn cosignature(of: &Published, key: &SignerKey, time_s: u64) -> String {
        let mut note = Note::new(Note::parse(of.note.as_bytes()).unwrap().text()).unwrap();
        note.cosign(key, time_s).unwrap();
        note.signatures()[0].to_string()
    }

    fn empty(threshold: usize) -> Cosignatures {
        Cosignatures { threshold, recent: VecDeque::new(), best: None }
    }

    #[test]
    fn a_checkpoint_counts_when_enough_witnesses_signed_it_and_a_later_one_replaces_it() {
        let mut all = empty(2);
        let (one, two) = (checkpoint(1), checkpoint(2));
        all.published(&one).unwrap();
        all.published(&two).unwrap();
        let mut add = |of: &Published, n: u8| {
            let key = witness(n);
            let who = Who::Named(key.verifier().clone());
            all.add(of.head.size, &cosignature(of, &key, NOW_S), &who, NOW_S).unwrap()
        };
        assert_eq!(add(&two, 2), Taken { cosignatures: 1, quorum_met: false, best_changed: false });
        assert_eq!(add(&one, 2), Taken { cosignatures: 1, quorum_met: false, best_changed: false });
        assert!(add(&one, 3).best_changed);
        assert!(!add(&one, 3).best_changed, "said again, it changes nothing");
        assert!(add(&two, 3).best_changed);
        assert!(!add(&one, 4).best_changed, "an older one is no better");
        let policy = Policy::new(
            "example.org/log",
            log().verifier().clone(),
            vec![witness(2).verifier().clone(), witness(3).verifier().clone()],
            2,
        );
        let (head, note) = all.best().unwrap();
        assert_eq!((head.size, policy.unwrap().verify_note(note).unwrap().cosigners.len()), (2, 2));
    }

    #[test]
    fn what_is_no_cosignature_of_this_key_and_time_is_refused() {
        let mut all = empty(0);
        let one = checkpoint(1);
        all.published(&one).unwrap();
        let (key, other) = (witness(2), witness(3));
        let who = Who::Named(key.verifier().clone());
        let good = cosignature(&one, &key, NOW_S);
        assert_eq!(all.add(9, &good, &who, NOW_S), Err(CosignError::Unknown { size: 9, latest: 1 }));
        assert!(matches!(all.add(1, "?", &who, NOW_S), Err(CosignError::Note(_))));
        assert!(matches!(all.add(1, "", &who, NOW_S), Err(CosignError::Note(NoteError::NoKnownSignature))));
        let foreign = cosignature(&one, &other, NOW_S);
        assert!(matches!(all.add(1, &foreign, &who, NOW_S), Err(CosignError::Foreign { .. })));
        let elsewhere = cosignature(&checkpoint(7), &key, NOW_S);
        assert!(matches!(
            all.add(1, &elsewhere, &who, NOW_S),
            Err(CosignError::Note(NoteError::BadSignature { .. }))
        ));
        let late = cosignature(&one, &key, NOW_S + MAX_SKEW_S + 1);
        assert!(matches!(all.add(1, &late, &who, NOW_S), Err(CosignError::Skew { .. })));
        assert_eq!(all.latest().unwrap().signatures().len(), 1);
        all.add(1, &good, &who, NOW_S).unwrap();
        assert_eq!(all.best().unwrap().1.signatures().len(), 2);
    }

    #[test]
    fn volunteers_sign_under_their_names_and_leave_room_for_witnesses() {
        let mut all = empty(1);
        let one = checkpoint(1);
        all.published(&one).unwrap();
        let mut volunteer = |n: u8, name: Option<&str>| {
            let whose = Key([n; 32]);
            let usual = witness_name(&whose);
            let key = SignerKey::from_seed(name.unwrap_or(&usual), KeyKind::CosignatureV1, &[n; 32]).unwrap();
            let line = cosignature(&one, &key, NOW_S);
            all.add(1, &line, &Who::Volunteer(whose, key.verifier().clone()), NOW_S)
        };
        assert!(matches!(volunteer(1, Some("somebody")), Err(CosignError::Name { .. })));
        for n in 1..=MAX_VOLUNTEER_COSIGNATURES as u8 {
            assert!(!volunteer(n, None).unwrap().quorum_met);
        }
        assert_eq!(volunteer(99, None), Err(CosignError::Full));
        let key = witness(200);
        let who = Who::Named(key.verifier().clone());
        assert!(all.add(1, &cosignature(&one, &key, NOW_S), &who, NOW_S).unwrap().best_changed);
    }
}
