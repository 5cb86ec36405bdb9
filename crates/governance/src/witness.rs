//! Volunteers as witnesses of the log: under which key and name they cosign, and how that key is tied to them.
//!
//! A volunteer's own key signs sessions and statements, and nothing else may be made to look like one of these: so it
//! cosigns with a key of its own, and signs once that this key is its.

use crate::key::Key;

/// Context of the derivation: the seed of no other key comes out of it.
const CONTEXT: &str = "potluck 2026 witness key v1";

/// The seed of the key with which a volunteer cosigns, from the seed of its own.
pub fn witness_seed(volunteer_seed: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(CONTEXT, volunteer_seed)
}

/// The name under which a volunteer cosigns.
pub fn witness_name(volunteer: &Key) -> String {
    format!("volunteer/{volunteer}")
}

/// What a volunteer signs to say that a key cosigns for it in one log. `witness_key` is written as C2SP signed-note writes
/// keys.
pub fn witness_text(origin: &str, witness_key: &str) -> String {
    format!("potluck witness key v1\n{origin}\n{witness_key}\n")
}
