//! Credentials that end by themselves, derived from a secret: the scheme of coturn's `use-auth-secret`.
//!
//! The name says until when it counts and for which session; the password is a MAC of the name. Whoever holds
//! the secret can check both, so nothing has to be stored or exchanged.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use potluck_types::Duration;
use ring::hmac;

/// For how long credentials count. A volunteer gets fresh ones before; what it allocated stays its own.
pub(crate) const VALIDITY: Duration = Duration::from_secs(3600);

/// Issues and checks credentials of one server.
#[derive(Debug, Clone)]
pub(super) struct Credentials(hmac::Key);

impl Credentials {
    pub(super) fn new(secret: &[u8]) -> Self {
        // SHA-1 is what coturn takes. Nobody has found a way to forge its HMAC.
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret))
    }

    /// Name and password for a session, until then.
    pub(super) fn issue(&self, label: &str, until_unix_s: u64) -> (String, String) {
        let username = format!("{until_unix_s}:{label}");
        let password = self.password(&username);
        (username, password)
    }

    /// The password that belongs to a name.
    pub(super) fn password(&self, username: &str) -> String {
        BASE64_STANDARD.encode(hmac::sign(&self.0, username.as_bytes()))
    }
}

/// What a name says: until when it counts, and for which session.
pub(super) fn parse(username: &str) -> Option<(u64, &str)> {
    let (until, label) = username.split_once(':')?;
    Some((until.parse().ok()?, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_those_of_coturn() {
        // printf 1700003600:00c0ffee00c0ffee | openssl dgst -sha1 -hmac north -binary | base64
        let (username, password) = Credentials::new(b"north").issue("00c0ffee00c0ffee", 1_700_003_600);
        assert_eq!(username, "1700003600:00c0ffee00c0ffee");
        assert_eq!(password, "tpajr1SfvIsAHgAI9J3B2ZVspWg=");
        // printf '1700003600:00c0ffee00c0ffee:potluck:tpajr1SfvIsAHgAI9J3B2ZVspWg=' | md5sum
        let key = turn::auth::generate_auth_key(&username, super::super::server::REALM, &password);
        assert_eq!(key, 0x8674_8bf0_cd5f_4302_d5ba_8a48_5de5_eda0_u128.to_be_bytes());
        assert_ne!(Credentials::new(b"south").password(&username), password);
    }

    #[test]
    fn names_are_read_or_refused() {
        assert_eq!(parse("1700003600:abc"), Some((1_700_003_600, "abc")));
        for odd in ["", "abc", "1700003600", ":abc", "x:abc", "-1:abc", "99999999999999999999999:abc"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
