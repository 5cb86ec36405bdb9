//! Who decides what a model becomes: entries of a public log, the texts that people sign, and what follows from both.
//!
//! Automation proposes and measures; people decide; everything stands on an append-only log that anyone can check
//! offline. This crate is the part that decides nothing by itself: it reads entries and says what they amount to.
//! Everybody who reads the same entries gets the same [`State`]: the relay before it appends, a tab before it runs a
//! model, an auditor years later.
//!
//! # The way of a model
//!
//! 1. The first entry, [`entry::Genesis`], names the log's origin, its [`Constitution`] (every threshold and clock) and
//!    its [`roles::Roles`]: stewards decide, auditors check, operators run relays; one person, one key.
//! 2. A steward proposes a run ([`statement::Propose`]). Stewards vote, an auditor attests that it reproduces, and the
//!    relay logs the run ([`entry::Run`]).
//! 3. Rounds: commits, accepted and refused updates, audits, an [`entry::Aggregate`] for each. Results and updates give
//!    volunteers credit: the right to be heard, nothing more. What looks wrong pauses the run by itself.
//! 4. The relay names a candidate and logs its eval card. The machine gate ([`gate::gate`]) measures; two auditors derive
//!    the parameters again, bit by bit, and two people sign that they read and tried the card.
//! 5. Stewards vote. [`gate::promotion_ready`] lists what is missing; when nothing is, the relay may log the
//!    [`entry::Promotion`]. One that the log does not justify is refused, with the step that is missing.
//! 6. Any steward, or two auditors, may pause at any time. A rollback leads to the version before, by the same votes.
//!    Decisions can be appealed, and are then judged by those who had no part in them.
//!
//! # When a relay is lost
//!
//! Others run mirrors: relays that follow the log and serve it. Stewards list them ([`entry::NewMirrors`]). When the relay
//! that signs the log dies, lies or is voted out, stewards vote on a listed mirror, and the mirror logs its
//! [`entry::Succession`]: from that entry on its key signs. After the last checkpoint of the relay before it may take in
//! what people sign, and nothing else: it has no right to log facts before it is appointed.
//!
//! # Where to look
//!
//! [`entry`]: what one leaf of the log says, as canonical JSON. [`statement`]: the signed texts. [`state`]: what follows.
//! [`gate`]: what is asked of a candidate. [`model`]: what a model's page shows. [`mirrors`]: who may follow a relay.
//! [`check`]: reads a whole log and reports.
//!
//! # What the votes are counted against
//!
//! "2/3 of the stewards" is 2/3 of all in the roles document, whether they voted or not, those whose keys were revoked
//! among them: silence never helps a proposal. Only the kind `parameter` counts votes cast, with a quorum of half of all.
//! "3:1" is three stewards for it to each other one, so 3/4 of all. Votes belong to persons, not to keys. Each number
//! stands in the [`Constitution`], each fraction is exact.
//!
//! # What it does not show
//!
//! That two names are two people, that a hash stands for what somebody says it does, that an eval card's numbers are
//! right: [`check::Unchecked`] lists what to look at beside the log. Volunteers' keys cost nothing but verified work, so
//! their votes advise.
//!
//! Architecture invariant: no clock, no randomness, no I/O. Time comes from entries or as an argument.
//! Architecture invariant: a refused entry leaves the state as it was.
//! Architecture invariant: no float, in entries or in decisions.

mod canonical;
pub mod check;
pub mod constitution;
pub mod entry;
pub mod gate;
mod hex;
mod key;
mod kinds;
pub mod limits;
pub mod mirrors;
pub mod model;
pub mod roles;
pub mod state;
pub mod statement;
mod witness;

pub use canonical::{FormError, readable};
pub use check::Checker;
pub use constitution::Constitution;
pub use ed25519_dalek::SigningKey;
pub use entry::{Body, Entry};
pub use key::{Key, ParseKeyError, Signature};
pub use mirrors::{Mirror, Mirrors};
pub use roles::Roles;
pub use state::{Refused, State};
pub use statement::Statement;
pub use witness::{witness_name, witness_seed, witness_text};

/// The public hash of an epoch's secret: the same as `potluck_verify::commitment`, by which checks commit to theirs.
pub fn commitment(secret: &[u8; 32]) -> potluck_types::BlobHash {
    potluck_types::BlobHash(blake3::derive_key("potluck 2026 epoch secret commitment v1", secret))
}
