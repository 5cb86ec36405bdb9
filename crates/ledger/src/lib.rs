//! The public append-only log: pure functions and state machines over bytes.
//!
//! An *entry* is any sequence of up to 65,535 bytes; another crate gives it a meaning. The log numbers entries from 0
//! and never changes or removes one. Its *root* is one hash over all entries ([`TreeHash`]), built as a tree, so that
//! - an *inclusion proof* of a few dozen hashes shows that an entry is in the tree with that root
//!   ([`verify_inclusion`]), and
//! - a *consistency proof* shows that a tree begins with an older one ([`verify_consistency`]): nothing was rewritten.
//!
//! A *checkpoint* is the log's name, size and root, signed by the log ([`Checkpoint`], [`Note`]). Nobody has to trust
//! the log: a *witness* remembers the last checkpoint and cosigns the next only if a proof leads there ([`Witness`]).
//! Whoever asks for the cosignatures of enough witnesses ([`Policy`]) sees the log that all others see. If a log signs
//! two histories, the notes are evidence against it ([`ForkEvidence`]).
//!
//! A *receipt* is a file with entry, proof and checkpoint, which anybody can check offline ([`Receipt`]).
//!
//! The log is stored as files that never change ([`LogFile`]): *bundles* of 256 entries, and *tiles* of 256 hashes of
//! each eighth level of the tree. [`Appender`] writes them; [`prove_inclusion`] and [`prove_consistency`] make proofs
//! out of them; [`audit()`] checks every one. Any web server can serve them, and whoever reads them needs no trust:
//! everything is checked against a root.
//!
//! ```
//! use potluck_ledger::{Appender, Checkpoint, KeyKind, LogFile, Policy, Receipt, SignerKey};
//! use std::collections::BTreeMap;
//!
//! let log = SignerKey::from_seed("example.com/log", KeyKind::Ed25519, &[1; 32])?;
//! let witness = SignerKey::from_seed("example.com/witness", KeyKind::CosignatureV1, &[2; 32])?;
//!
//! // The log takes entries, writes files and signs a checkpoint; a witness cosigns.
//! let mut appender = Appender::new();
//! let appended = appender.append(&["first entry", "second entry"])?;
//! let mut files: BTreeMap<LogFile, Vec<u8>> = appended.files.into_iter().collect();
//! let mut note = Checkpoint::new("example.com/log", appended.head)?.to_note();
//! note.sign(&log)?;
//! note.cosign(&witness, 1_700_000_000)?;
//!
//! // A receipt, checked by somebody who knows the keys and nothing else.
//! let receipt = Receipt::issue(b"second entry".to_vec(), 1, note, &mut files)?.to_string();
//! let policy = Policy::new("example.com/log", log.verifier().clone(), vec![witness.verifier().clone()], 1)?;
//! let verified = Receipt::parse(receipt.as_bytes())?.verify(&policy)?;
//! assert_eq!(verified.checkpoint.head().size, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here reads a clock, draws a random number or does I/O: times and key seeds are arguments, and files come
//! through [`ReadFiles`]. Nothing that comes from outside can panic or allocate without a limit.
//!
//! | file | implements |
//! |---|---|
//! | `hash` | RFC 6962, section 2.1 |
//! | `tile`, `append`, `audit` | [tlog-tiles](https://c2sp.org/tlog-tiles) |
//! | `proof` | RFC 9162, sections 2.1.3.2 and 2.1.4.2 |
//! | `prove` | RFC 6962, sections 2.1.1 and 2.1.2 |
//! | `key`, `note` | [signed-note](https://c2sp.org/signed-note), and [tlog-cosignature](https://c2sp.org/tlog-cosignature) with Ed25519 |
//! | `checkpoint` | [tlog-checkpoint](https://c2sp.org/tlog-checkpoint) |
//! | `witness`, `request` | [tlog-witness](https://c2sp.org/tlog-witness) |
//! | `fork` | a format of its own |
//! | `receipt` | [tlog-proof](https://c2sp.org/tlog-proof) |

mod append;
mod audit;
mod checkpoint;
mod fork;
mod hash;
mod key;
mod note;
mod proof;
mod prove;
mod receipt;
mod request;
mod text;
mod tile;
mod witness;

pub use append::{AppendError, Appended, Appender, RestoreError};
pub use audit::{AuditError, Audited, audit};
pub use checkpoint::{
    Checkpoint, CheckpointError, Cosigner, MAX_WITNESSES, Policy, PolicyError, SignedCheckpoint, Verified,
};
pub use fork::{ForkError, ForkEvidence, MAX_EVIDENCE_BYTES, Suspicion};
pub use hash::{HASH_BYTES, MAX_TREE_SIZE, TreeHash, TreeHead};
pub use key::{KEY_BYTES, KeyError, KeyKind, MAX_NAME_BYTES, SIGNATURE_BYTES, SignerKey, VerifierKey};
pub use note::{
    MAX_NOTE_BYTES, MAX_SIGNATURES, MAX_TIMESTAMP_S, Note, NoteError, NoteSignature, Signed,
    cosignature_message,
};
pub use proof::{MAX_PROOF_HASHES, ProofError, verify_consistency, verify_inclusion};
pub use prove::{
    Inclusion, ProveError, consistency_tiles, inclusion_tiles, prove_consistency, prove_inclusion, root_at,
    root_tiles,
};
pub use receipt::{IssueError, MAX_RECEIPT_BYTES, Receipt, ReceiptError};
pub use request::{AddCheckpoint, MAX_REQUEST_BYTES, MAX_REQUEST_HASHES, RequestError};
pub use tile::{
    Bundle, LogFile, MAX_ENTRY_BYTES, MAX_LEVEL, MAX_PATH_BYTES, ReadFiles, TILE_HEIGHT, TILE_WIDTH, Tile,
    TileError,
};
pub use witness::{Accepted, Witness, WitnessError};
