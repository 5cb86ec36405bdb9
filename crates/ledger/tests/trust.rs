//! Notes, policies, witnesses, forks and receipts: what is believed, and what is not.

#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod common;

use base64::Engine as _;
use common::{Log, ORIGIN, log_key, open, policy, signed, witness_key};
use potluck_ledger::{
    AddCheckpoint, Checkpoint, CheckpointError, ForkError, ForkEvidence, IssueError, KeyKind, MAX_NOTE_BYTES,
    MAX_SIGNATURES, MAX_TIMESTAMP_S, Note, NoteError, Policy, PolicyError, ProofError, Receipt, ReceiptError,
    SignedCheckpoint, SignerKey, TreeHash, TreeHead, Witness, WitnessError, cosignature_message,
    prove_consistency, root_at,
};
use proptest::prelude::*;
use proptest::sample::Index;

fn bytes(note: &Note) -> Vec<u8> {
    note.to_string().into_bytes()
}

/// A log of 300 entries, and one that differs in entry 100 and goes on for 50 more.
fn forked() -> (Log, Log) {
    let log = Log::sized(300);
    let mut entries = log.entries.clone();
    entries[100] = b"rewritten".to_vec();
    let mut other = Log::of(entries);
    other.append((0..50).map(common::entry).collect());
    (log, other)
}

#[test]
fn malformed_notes_are_refused() {
    let good = signed(TreeHead::EMPTY).to_string();
    Note::parse(good.as_bytes()).unwrap();
    let line = good.lines().last().unwrap().to_owned() + "\n";
    for (text, error) in [
        (String::new(), NoteError::Unsigned),
        ("text\n".to_owned(), NoteError::Unsigned),
        (good.replace(&line, ""), NoteError::Unsigned),
        (good.replace("\n\n", "\n"), NoteError::Unsigned),
        (good.replace(ORIGIN, "a\tb"), NoteError::Text),
        (good.replace(ORIGIN, "a\rb"), NoteError::Text),
        (good.trim_end().to_owned(), NoteError::SignatureLine { line: 1 }),
        (good.replace('\u{2014}', "-"), NoteError::SignatureLine { line: 1 }),
        (format!("{good}x\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}\u{2014} name AAAA\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}\u{2014} name AAAAAB==\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}\u{2014} name AAAAAAA\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}\u{2014} na+me AAAAAAA=\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}\u{2014}  AAAAAAA=\n"), NoteError::SignatureLine { line: 2 }),
        (format!("{good}{}", line.repeat(MAX_SIGNATURES)), NoteError::TooManySignatures),
    ] {
        assert_eq!(Note::parse(text.as_bytes()), Err(error), "{text}");
    }
    Note::parse(format!("{good}{}", line.repeat(MAX_SIGNATURES - 1)).as_bytes()).unwrap();
    assert_eq!(Note::parse(b"\xff\n\n"), Err(NoteError::Text));
    let long = "a".repeat(MAX_NOTE_BYTES) + "\n";
    assert_eq!(Note::new(long.clone()), Err(NoteError::TooLong { bytes: long.len() }));
    assert_eq!(Note::new("no newline"), Err(NoteError::Text));
    let note = Note::parse(format!("a\n\nb\n\n{line}").as_bytes()).unwrap();
    assert_eq!(note.text(), "a\n\nb\n", "text may have empty lines");
}

#[test]
fn signatures_made_elsewhere_are_attached_and_checked() {
    let (log, witness) = (log_key(), witness_key(0));
    let signed_here = {
        let mut note = signed(TreeHead::EMPTY);
        note.cosign(&witness, 1234).unwrap();
        note
    };
    // Signatures out of the note stand for those that WebCrypto would make: Ed25519 is deterministic.
    let raw = |at: usize| {
        let text = signed_here.signatures()[at].to_string();
        let encoded = text.rsplit(' ').next().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        <[u8; 64]>::try_from(&bytes[bytes.len() - 64..]).unwrap()
    };
    let mut note = Note::new(signed_here.text()).unwrap();
    note.attach(log.verifier(), &raw(0)).unwrap();
    note.attach_cosignature(witness.verifier(), 1234, &raw(1)).unwrap();
    assert_eq!(note, signed_here);
    assert_eq!(
        cosignature_message(note.text(), 1234),
        format!("cosignature/v1\ntime 1234\n{}", note.text()).into_bytes()
    );

    let bad = |name: &str| Err(NoteError::BadSignature { name: name.to_owned() });
    assert_eq!(note.attach(log.verifier(), &raw(1)), bad(ORIGIN));
    assert_eq!(note.attach_cosignature(witness.verifier(), 1235, &raw(1)), bad("example.com/w0"));
    let kind = |name: &str| Err(NoteError::KeyKind { name: name.to_owned() });
    assert_eq!(note.attach(witness.verifier(), &raw(1)), kind("example.com/w0"));
    assert_eq!(note.attach_cosignature(log.verifier(), 0, &raw(0)), kind(ORIGIN));
    assert_eq!(note.sign(&witness), kind("example.com/w0"));
    assert_eq!(note.cosign(&log, 0), kind(ORIGIN));
    assert_eq!(
        note.cosign(&witness, u64::MAX),
        Err(NoteError::Timestamp { timestamp_s: MAX_TIMESTAMP_S * 2 + 1 })
    );
    assert_eq!(note, signed_here, "what was refused left nothing behind");
}

/// The order of Ed25519's group, little-endian: adding it to a signature's second half gives another signature that
/// lax verifiers accept.
#[test]
fn malleated_signatures_are_refused() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let base64 = base64::engine::general_purpose::STANDARD;
    let text = signed(TreeHead::EMPTY).to_string();
    let encoded = text.trim_end().rsplit(' ').next().unwrap();
    let mut signature = base64.decode(encoded).unwrap();
    let mut carry = 0;
    for (byte, add) in signature[36..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    let malleated = text.replace(encoded, &base64.encode(signature));
    assert!(matches!(
        Note::parse(malleated.as_bytes()).unwrap().verify(&[log_key().verifier()]),
        Err(NoteError::BadSignature { .. })
    ));
}

#[test]
fn a_cosignature_of_a_time_beyond_all_is_refused_although_it_holds() {
    use ed25519_dalek::{Signer as _, SigningKey};
    let note = signed(TreeHead::EMPTY);
    let key = witness_key(0);
    for (timestamp_s, holds) in [(MAX_TIMESTAMP_S, true), (MAX_TIMESTAMP_S + 1, false)] {
        let signature =
            SigningKey::from_bytes(&[10; 32]).sign(&cosignature_message(note.text(), timestamp_s));
        let id = key.verifier().id().to_be_bytes();
        let bytes = [id.as_slice(), &timestamp_s.to_be_bytes(), &signature.to_bytes()].concat();
        let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
        let text = format!("{note}\u{2014} {} {encoded}\n", key.verifier().name());
        assert_eq!(policy(1, 1).verify(text.as_bytes()).is_ok(), holds);
    }
}

#[test]
fn a_policy_counts_each_witness_once() {
    let mut note = signed(Log::sized(5).head());
    let policy = policy(3, 2);
    let too_few = |found| Err(CheckpointError::TooFewWitnesses { found, needed: 2 });
    assert_eq!(policy.verify(&bytes(&note)), too_few(0));
    note.cosign(&witness_key(1), 100).unwrap();
    note.cosign(&witness_key(1), 90).unwrap();
    note.cosign(&witness_key(7), 100).unwrap();
    assert_eq!(policy.verify(&bytes(&note)), too_few(1), "twice the same, and an unknown one");
    note.cosign(&witness_key(0), 50).unwrap();
    let verified = policy.verify(&bytes(&note)).unwrap();
    assert_eq!(verified.checkpoint.head(), Log::sized(5).head());
    let found: Vec<_> = verified.cosigners.iter().map(|found| (found.witness, found.timestamp_s)).collect();
    assert_eq!(found, [(0, 50), (1, 100)], "in the policy's order, with the latest time");

    let without_log = note.filtered(|signature| !signature.is_by(log_key().verifier()));
    assert_eq!(policy.verify(&bytes(&without_log)), Err(CheckpointError::NotByLog));
    let nobody = note.filtered(|signature| signature.is_by(witness_key(7).verifier()));
    assert_eq!(policy.verify(&bytes(&nobody)), Err(CheckpointError::NotByLog));
    let elsewhere = Policy::new("example.com/other", log_key().verifier().clone(), vec![], 0).unwrap();
    assert!(matches!(elsewhere.verify(&bytes(&note)), Err(CheckpointError::Origin { .. })));
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    let log = log_key().verifier().clone();
    let witness = |n| witness_key(n).verifier().clone();
    let renamed = SignerKey::from_seed("another.name", KeyKind::CosignatureV1, &[10; 32]).unwrap();
    let of_log = SignerKey::from_seed("another.name", KeyKind::CosignatureV1, &[1; 32]).unwrap();
    for (witnesses, threshold, error) in [
        (vec![witness(0)], 2, PolicyError::Threshold { threshold: 2, witnesses: 1 }),
        (vec![witness(0); 65], 1, PolicyError::Threshold { threshold: 1, witnesses: 65 }),
        (vec![witness(0), witness(0)], 1, PolicyError::Duplicate { name: "example.com/w0".to_owned() }),
        (
            vec![witness(0), renamed.verifier().clone()],
            1,
            PolicyError::Duplicate { name: "another.name".to_owned() },
        ),
        (vec![of_log.verifier().clone()], 1, PolicyError::Duplicate { name: "another.name".to_owned() }),
        (vec![log.clone()], 1, PolicyError::KeyKind { name: ORIGIN.to_owned() }),
    ] {
        assert_eq!(Policy::new(ORIGIN, log.clone(), witnesses, threshold), Err(error));
    }
    assert_eq!(Policy::new("a\nb", log, vec![], 0), Err(PolicyError::Origin));
    assert!(matches!(Policy::new(ORIGIN, witness(0), vec![], 0), Err(PolicyError::KeyKind { .. })));
}

#[test]
fn a_witness_follows_a_log_that_grows() {
    let mut log = Log::default();
    let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
    let key = witness_key(0);
    for batch in 0..20 {
        let before = witness.head();
        log.append((0..batch * 13).map(common::entry).collect());
        let proof = prove_consistency(&before, &log.head(), &mut log.files).unwrap();
        let request = AddCheckpoint { old_size: before.size, proof, note: log.note() }.to_string();
        let request = AddCheckpoint::parse(request.as_bytes()).unwrap();
        let accepted = witness.offer(&bytes(&request.note), &request.proof, 1000 + batch as u64).unwrap();
        assert_eq!(accepted.new_entries, log.head().size - before.size);
        assert_eq!(accepted.message, cosignature_message(log.note().text(), accepted.timestamp_s));
        let mut note = log.note();
        note.cosign(&key, accepted.timestamp_s).unwrap();
        policy(1, 1).verify(&bytes(&note)).unwrap();
        // A witness that restarts goes on from what it stored.
        let stored = bytes(accepted.checkpoint.note());
        witness = Witness::restore(ORIGIN, log_key().verifier().clone(), &stored).unwrap();
        assert_eq!(witness.head(), log.head());
    }
    witness.offer(&bytes(&log.note()), &[], 5).unwrap();
    assert_eq!(
        witness.offer(&bytes(&log.note()), &[], u64::MAX),
        Err(WitnessError::Timestamp { timestamp_s: u64::MAX })
    );
    Witness::restore("example.com/other", log_key().verifier().clone(), &bytes(&log.note())).unwrap_err();
}

#[test]
fn a_witness_refuses_what_the_log_did_not_sign() {
    let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
    let head = Log::sized(3).head();
    let mut note = Checkpoint::new(ORIGIN, head).unwrap().to_note();
    let other = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[3; 32]).unwrap();
    note.sign(&other).unwrap();
    assert_eq!(witness.offer(&bytes(&note), &[], 0), Err(CheckpointError::NotByLog.into()));
    assert!(witness.latest().is_none());
    // The first checkpoint is taken on trust, but not with a proof from nowhere.
    let error = witness.offer(&bytes(&signed(head)), &[head.root], 0).unwrap_err();
    assert!(matches!(error, WitnessError::BadProof { latest: 0, notes: None, .. }));
    witness.offer(&bytes(&signed(head)), &[], 0).unwrap();
}

#[test]
fn a_witness_proves_a_fork_at_the_same_size() {
    let (log, mut other) = forked();
    let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
    witness.offer(&bytes(&log.note()), &[], 0).unwrap();
    let (same_size, _) = root_at(300, &other.head(), &mut other.files).unwrap();
    let Err(WitnessError::Fork { size: 300, evidence }) = witness.offer(&bytes(&signed(same_size)), &[], 0)
    else {
        panic!("no fork found");
    };
    let evidence = ForkEvidence::parse(evidence.to_string().as_bytes()).unwrap();
    let (one, two) = evidence.verify(ORIGIN, log_key().verifier()).unwrap();
    assert_eq!((one.head(), two.head()), (log.head(), same_size));
    assert_eq!(witness.head(), log.head(), "a fork moves nothing");
    evidence
        .verify(ORIGIN, SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[3; 32]).unwrap().verifier())
        .unwrap_err();
}

#[test]
fn a_fork_at_another_size_is_proven_by_the_tiles_and_not_without() {
    let (log, mut other) = forked();
    let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
    witness.offer(&bytes(&log.note()), &[], 0).unwrap();
    // What the forked log would send: a proof that is right for its own history.
    let (begins, proof) = root_at(300, &other.head(), &mut other.files).unwrap();
    assert_ne!(begins, log.head());
    let Err(WitnessError::BadProof { latest: 300, offered: 350, source, notes: Some(notes) }) =
        witness.offer(&bytes(&other.note()), &proof, 0)
    else {
        panic!("a wrong proof was accepted");
    };
    assert!(matches!(source, ProofError::OldRoot { .. }));
    assert_eq!(
        ForkEvidence::same_size(&notes.older, &notes.newer),
        Err(ForkError::NoProof),
        "two notes of different sizes prove nothing"
    );
    let evidence = ForkEvidence::from_tiles(&notes.newer, &notes.older, &mut other.files).unwrap().unwrap();
    let evidence = ForkEvidence::parse(evidence.to_string().as_bytes()).unwrap();
    evidence.verify(ORIGIN, log_key().verifier()).unwrap();

    // Nobody can accuse an honest log: its tiles lead to the root that it stated.
    let mut honest = log.clone();
    honest.append((0..50).map(common::entry).collect());
    let (old, new) = (open(&log.note()), open(&honest.note()));
    assert_eq!(ForkEvidence::from_tiles(&old, &new, &mut honest.files).unwrap(), None);
    let (begins, proof) = root_at(300, &honest.head(), &mut honest.files).unwrap();
    assert_eq!(ForkEvidence::with_prefix(&old, &new, begins.root, proof.clone()), Err(ForkError::Consistent));
    let wrong = TreeHash::leaf(b"made up");
    assert!(matches!(ForkEvidence::with_prefix(&old, &new, wrong, proof), Err(ForkError::Proof(_))));
    assert!(matches!(ForkEvidence::with_prefix(&old, &new, wrong, vec![wrong; 9]), Err(ForkError::Proof(_))));
    assert!(matches!(ForkEvidence::with_prefix(&old, &old, wrong, vec![]), Err(ForkError::Proof(_))));
    assert_eq!(ForkEvidence::same_size(&old, &old), Err(ForkError::Consistent));
    ForkEvidence::from_tiles(&old, &new, &mut other.files).unwrap_err();
}

#[test]
fn a_smaller_checkpoint_is_stale_and_no_fork() {
    let mut log = Log::sized(200);
    let old = log.note();
    let old_head = log.head();
    log.append((0..100).map(common::entry).collect());
    let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
    witness.offer(&bytes(&log.note()), &[], 0).unwrap();
    let proof = prove_consistency(&old_head, &log.head(), &mut log.files).unwrap();
    for (proof, shown) in [(proof.as_slice(), true), (&[], false)] {
        let error = witness.offer(&bytes(&old), proof, 0).unwrap_err();
        let WitnessError::Stale { latest: 300, offered: 200, consistent, notes } = error else {
            panic!("{error}");
        };
        assert_eq!(consistent, shown);
        assert_eq!((notes.older.head(), notes.newer.head()), (old_head, log.head()));
    }
    assert_eq!(witness.head(), log.head());
}

#[test]
fn receipts_are_issued_for_what_the_log_has() {
    let mut log = Log::sized(600);
    let mut note = log.note();
    note.cosign(&witness_key(0), 77).unwrap();
    for index in [0, 1, 255, 256, 511, 599] {
        let entry = log.entries[index as usize].clone();
        let receipt = Receipt::issue(entry, index, note.clone(), &mut log.files).unwrap();
        let text = receipt.to_string();
        let verified = Receipt::parse(text.as_bytes()).unwrap().verify(&policy(1, 1)).unwrap();
        assert_eq!(verified.cosigners[0].timestamp_s, 77);
        assert!(matches!(
            receipt.verify(&policy(2, 2)),
            Err(ReceiptError::Checkpoint(CheckpointError::TooFewWitnesses { found: 1, needed: 2 }))
        ));
    }
    let error = Receipt::issue(b"not in it".to_vec(), 5, note.clone(), &mut log.files).unwrap_err();
    assert!(matches!(error, IssueError::Entry { index: 5 }));
    let error = Receipt::issue(vec![], 600, note.clone(), &mut log.files).unwrap_err();
    assert!(matches!(error, IssueError::Prove(_)));
    let largest = vec![9; potluck_ledger::MAX_ENTRY_BYTES];
    log.append(vec![largest.clone()]);
    let receipt = Receipt::issue(largest, 600, log.note(), &mut log.files).unwrap();
    assert_eq!(Receipt::parse(receipt.to_string().as_bytes()).unwrap(), receipt);
    let empty = Receipt { entry: vec![], ..receipt };
    assert_eq!(Receipt::parse(empty.to_string().as_bytes()).unwrap(), empty);
}

/// Flips bits of a text format; whatever still reads must be what it was, or not verify.
fn no_change_verifies(text: &str, verifies: impl Fn(&[u8]) -> bool) {
    assert!(verifies(text.as_bytes()));
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            assert!(!verifies(&bytes), "bit {bit} of byte {at}: {}", String::from_utf8_lossy(&bytes));
        }
    }
    for end in 0..text.len() {
        assert!(!verifies(&text.as_bytes()[..end]), "the first {end} bytes");
    }
}

#[test]
fn no_changed_receipt_checkpoint_or_evidence_verifies() {
    let (mut log, mut other) = forked();
    let mut note = log.note();
    note.cosign(&witness_key(0), 77).unwrap();
    let policy = policy(1, 1);
    no_change_verifies(&note.to_string(), |bytes| policy.verify(bytes).is_ok());

    let receipt = Receipt::issue(log.entries[9].clone(), 9, note, &mut log.files).unwrap();
    no_change_verifies(&receipt.to_string(), |bytes| {
        Receipt::parse(bytes).is_ok_and(|receipt| receipt.verify(&policy).is_ok())
    });

    let (old, new) = (open(&log.note()), open(&other.note()));
    let evidence = ForkEvidence::from_tiles(&old, &new, &mut other.files).unwrap().unwrap();
    no_change_verifies(&evidence.to_string(), |bytes| {
        ForkEvidence::parse(bytes).is_ok_and(|found| found.verify(ORIGIN, log_key().verifier()).is_ok())
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_texts_do_not_panic(text in "(\\PC|\n){0,200}") {
        let _ = Note::parse(text.as_bytes());
        let _ = text.parse::<Checkpoint>();
        let _ = Receipt::parse(text.as_bytes());
        let _ = ForkEvidence::parse(text.as_bytes());
        let _ = AddCheckpoint::parse(text.as_bytes());
        let _ = text.parse::<potluck_ledger::VerifierKey>();
        let _ = SignerKey::parse(&text);
    }

    #[test]
    fn spliced_texts_do_not_panic(from: Index, to: Index, at: Index, which in 0..4_usize) {
        let text = [
            include_str!("../vectors/receipt.tlog-proof"),
            include_str!("../vectors/fork-prefix.txt"),
            include_str!("../vectors/add-checkpoint.txt"),
            include_str!("../vectors/cosigned.checkpoint"),
        ][which].as_bytes();
        let (from, to) = (from.index(text.len()), to.index(text.len()));
        let mut bytes = text.to_vec();
        let cut = text[from.min(to)..from.max(to)].to_vec();
        let at = at.index(text.len());
        bytes.splice(at..at, cut);
        let _ = Note::parse(&bytes);
        let _ = Receipt::parse(&bytes);
        let _ = ForkEvidence::parse(&bytes);
        let _ = AddCheckpoint::parse(&bytes);
        let _ = SignedCheckpoint::open(&bytes, ORIGIN, log_key().verifier());
    }

    /// Two histories that share a beginning, checkpoints of both in any order, with right and wrong proofs: what a
    /// witness accepted always is one history.
    #[test]
    fn a_witness_never_accepts_two_histories(
        shared in 0..40_usize,
        offers in proptest::collection::vec((any::<bool>(), 0..20_usize, 0..3_u8), 1..30),
    ) {
        let mut histories = [(vec![TreeHead::EMPTY], Log::default()), (vec![TreeHead::EMPTY], Log::default())];
        for (side, (heads, log)) in histories.iter_mut().enumerate() {
            for index in 0..shared + 20 {
                let mark = if index < shared { 0 } else { side as u8 };
                heads.push(log.append(vec![vec![mark, index as u8]]));
            }
        }
        let mut witness = Witness::new(ORIGIN, log_key().verifier().clone());
        let mut accepted = vec![TreeHead::EMPTY];
        for (side, ahead, kind) in offers {
            let before = witness.head();
            let size = (before.size as usize + ahead).saturating_sub(3).min(shared + 20);
            let (heads, log) = &mut histories[usize::from(side)];
            let head = heads[size];
            let proof = match kind {
                0 => root_at(before.size.min(head.size), &head, &mut log.files).unwrap().1,
                1 => prove_consistency(&before, &head, &mut log.files).unwrap_or_default(),
                _ => vec![],
            };
            match witness.offer(&bytes(&signed(head)), &proof, 1) {
                Ok(new) => accepted.push(new.checkpoint.head()),
                Err(WitnessError::Fork { evidence, .. }) => {
                    evidence.verify(ORIGIN, log_key().verifier()).unwrap();
                }
                Err(_) => prop_assert_eq!(witness.head(), before),
            }
        }
        let one_history = histories.iter().any(|(heads, _)| {
            accepted.iter().all(|accepted| heads[accepted.size as usize] == *accepted)
        });
        prop_assert!(one_history);
        prop_assert!(accepted.is_sorted_by_key(|head| head.size));
    }
}
