//! The key of a volunteer, what it signs, and how others check that.
//!
//! Ed25519 as RFC 8032 has it, checked strictly: each signature has one form, and no key of small order counts, under
//! which a signature fits any message.

use crate::id::{ParseIdError, VolunteerId, decode_hex};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;
use zeroize::{Zeroize as _, Zeroizing};

/// Bytes of a key's seed.
pub const SEED_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The secret by which a volunteer proves who it is: the seed of an Ed25519 key. It never leaves the volunteer, is not
/// printed, and is erased from memory when it is dropped. Any 32 bytes are one.
#[derive(Clone)]
pub struct VolunteerKey(pub [u8; SEED_BYTES]);

/// A signature that does not fit key and message, or a key under which signatures prove nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the key")]
pub struct WrongSignature;

/// The public key that belongs to a seed.
pub fn public_key(seed: &[u8; SEED_BYTES]) -> [u8; 32] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

impl VolunteerKey {
    /// The public name that belongs to this key.
    pub fn id(&self) -> VolunteerId {
        VolunteerId(public_key(&self.0))
    }

    /// Signs a message. The same message has the same signature each time.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        SigningKey::from_bytes(&self.0).sign(message).to_bytes()
    }

    /// The 64 hexadecimal digits under which the key is kept. There is no `Display`, so that a secret is not printed
    /// by accident.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * SEED_BYTES));
        for byte in &self.0 {
            // Writing to a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl Drop for VolunteerKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for VolunteerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolunteerKey(secret)")
    }
}

impl FromStr for VolunteerKey {
    type Err = ParseIdError;
    fn from_str(s: &str) -> Result<Self, ParseIdError> {
        decode_hex(s).map(Self)
    }
}

impl VolunteerId {
    /// Whether a message was signed by whoever holds this volunteer's key.
    ///
    /// # Errors
    /// A signature of another key or message, one in a second form, a name that is no key, or one of small order.
    pub fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Result<(), WrongSignature> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| WrongSignature)?;
        key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| WrongSignature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        decode_hex(hex).unwrap()
    }

    /// RFC 8032, section 7.1, tests 1 and 2.
    #[test]
    fn signatures_are_those_of_the_standard() {
        for (seed, id, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
                 5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                &[0x72][..],
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                 085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ] {
            let key: VolunteerKey = seed.parse().unwrap();
            assert_eq!(*key.to_hex(), seed);
            assert_eq!(key.id(), VolunteerId(bytes(id)));
            assert_eq!(key.sign(message), bytes(signature));
            assert_eq!(key.id().verify(message, &bytes(signature)), Ok(()));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let (key, other) = (VolunteerKey([1; 32]), VolunteerKey([2; 32]));
        let signature = key.sign(b"text");
        assert_eq!(key.id().verify(b"text", &signature), Ok(()));
        assert_eq!(key.id().verify(b"tex", &signature), Err(WrongSignature));
        assert_eq!(other.id().verify(b"text", &signature), Err(WrongSignature));
        assert_eq!(key.id().verify(b"text", &[0; 64]), Err(WrongSignature));
        for bit in 0..8 * SIGNATURE_BYTES {
            let mut damaged = signature;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.id().verify(b"text", &damaged), Err(WrongSignature), "bit {bit}");
        }
    }

    #[test]
    fn a_second_form_of_a_signature_is_refused() {
        // The same s plus the order of the group, 2^252 + 27742317777372353535851937790883648493, little-endian.
        let order: [u8; 32] = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let key = VolunteerKey([3; 32]);
        let mut signature = key.sign(b"text");
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(key.id().verify(b"text", &signature), Err(WrongSignature));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        // The neutral element, a point of order 4 and one of order 8. Under the first, a signature of R = the neutral
        // element and s = 0 fits every message where it is not checked strictly.
        let mut neutral = [0; 64];
        neutral[0] = 1;
        for id in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        ] {
            let id = VolunteerId(bytes(id));
            assert_eq!(id.verify(b"text", &neutral), Err(WrongSignature));
            assert_eq!(id.verify(b"text", &[0; 64]), Err(WrongSignature));
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", VolunteerKey([7; 32])), "VolunteerKey(secret)");
    }
}
