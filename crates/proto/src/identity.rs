//! How a volunteer proves who it is: what it signs, and how the relay checks that.
//!
//! The text names what it is for, the nonce of one session, and the relay. So a signature counts once, at one relay, and
//! for nothing else that the key may ever sign.

use crate::message::{Challenge, Hello};
use crate::{OLDEST_VERSION, PROTOCOL_VERSION};
use potluck_types::{VolunteerKey, WrongSignature};

/// What a signed text begins with. Nothing else that a volunteer's key signs begins so.
pub const SESSION_DOMAIN: &[u8; 19] = b"potluck session v1\0";
/// Bytes of the text that is signed: domain, nonce, relay.
pub const SESSION_TEXT_BYTES: usize = SESSION_DOMAIN.len() + 32 + 32;

impl Challenge {
    /// What the volunteer signs.
    pub fn text(&self) -> [u8; SESSION_TEXT_BYTES] {
        let parts = SESSION_DOMAIN.iter().chain(&self.nonce).chain(&self.relay);
        let mut text = [0; SESSION_TEXT_BYTES];
        for (to, from) in text.iter_mut().zip(parts) {
            *to = *from;
        }
        text
    }
}

impl Hello {
    /// The answer of whoever holds `key` to a challenge, in the versions that this crate speaks.
    pub fn answer(challenge: &Challenge, key: &VolunteerKey, agent: String) -> Self {
        Self {
            oldest_version: OLDEST_VERSION,
            newest_version: PROTOCOL_VERSION,
            volunteer: key.id(),
            signature: key.sign(&challenge.text()),
            agent,
        }
    }

    /// Whether this answers a challenge, from whoever holds the key.
    ///
    /// # Errors
    /// A signature of another key, of another challenge, or under a key that proves nothing.
    pub fn verify(&self, challenge: &Challenge) -> Result<(), WrongSignature> {
        self.volunteer.verify(&challenge.text(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_domain_nonce_and_relay() {
        let text = Challenge { nonce: [1; 32], relay: [2; 32] }.text();
        assert_eq!(text.to_vec(), [&b"potluck session v1\0"[..], &[1; 32], &[2; 32]].concat());
    }

    #[test]
    fn an_answer_fits_its_challenge_and_no_other() {
        let (challenge, key) = (Challenge { nonce: [1; 32], relay: [2; 32] }, VolunteerKey([3; 32]));
        let hello = Hello::answer(&challenge, &key, String::new());
        assert_eq!(hello.volunteer, key.id());
        assert_eq!(hello.verify(&challenge), Ok(()));
        for other in [Challenge { nonce: [9; 32], ..challenge }, Challenge { relay: [9; 32], ..challenge }] {
            assert_eq!(hello.verify(&other), Err(WrongSignature));
        }
        let stolen = Hello { volunteer: VolunteerKey([4; 32]).id(), ..hello };
        assert_eq!(stolen.verify(&challenge), Err(WrongSignature));
    }
}
