//! The epoch's secret, and the random stream of a check.
//!
//! The stream is BLAKE3's extendable output. It needs no second primitive beside the hash that names blobs,
//! and whoever re-checks a check in another language needs only a BLAKE3 library.

use potluck_types::BlobHash;
use std::fmt;

/// The secret of an epoch. Its [`commitment`] is logged when the epoch starts, the secret when it ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What the probes of one check are drawn from. As secret as the [`Secret`] until the epoch ends.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeSeed([u8; 32]);

impl fmt::Debug for ProbeSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeSeed(hidden)")
    }
}

/// The public hash of a secret.
pub fn commitment(secret: &Secret) -> [u8; 32] {
    blake3::derive_key("potluck 2026 epoch secret commitment v1", &secret.0)
}

/// The seed of the check of one result. It depends on the result's hash, so it is fixed only after the result
/// was committed: a result cannot be fitted to its probes.
pub fn probe_seed(secret: &Secret, result: &BlobHash) -> ProbeSeed {
    let key = blake3::derive_key("potluck 2026 probe key v1", &secret.0);
    ProbeSeed(*blake3::keyed_hash(&key, &result.0).as_bytes())
}

impl ProbeSeed {
    /// A stream of `len` uniform 64-bit words for one purpose; streams of different purposes are independent.
    pub(crate) fn words(&self, purpose: &str, len: usize) -> Vec<u64> {
        let mut bytes = vec![0; 8 * len];
        blake3::Hasher::new_keyed(&self.0).update(purpose.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_secret_result_and_purpose() {
        let (s, t) = (Secret([1; 32]), Secret([2; 32]));
        let (r, q) = (BlobHash([3; 32]), BlobHash([4; 32]));
        assert_ne!(commitment(&s), commitment(&t));
        assert_ne!(commitment(&s), s.0);
        assert_ne!(probe_seed(&s, &r), probe_seed(&t, &r));
        assert_ne!(probe_seed(&s, &r), probe_seed(&s, &q));
        let seed = probe_seed(&s, &r);
        assert_ne!(seed.words("a", 4), seed.words("b", 4));
        assert_eq!(seed.words("a", 4), seed.words("a", 9)[..4]);
        assert_eq!(format!("{s:?} {seed:?}"), "Secret(hidden) ProbeSeed(hidden)");
    }

    #[test]
    fn derivations_are_frozen() {
        // Logged commitments and published secrets must verify forever: these bytes may not change.
        let s = Secret([7; 32]);
        let hex = |bytes: [u8; 32]| BlobHash(bytes).to_string()[..16].to_owned();
        assert_eq!(hex(commitment(&s)), "4127b0f12772c7fc");
        assert_eq!(hex(probe_seed(&s, &BlobHash([9; 32])).0), "1726409be3821d59");
    }
}
