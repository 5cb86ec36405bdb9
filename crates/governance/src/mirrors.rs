//! The mirrors of a log: relays run by others that follow it, serve it, and can be appointed to take over.
//!
//! Pages put the urls of mirrors into a Content-Security-Policy header, where a space or a semicolon would begin a rule of
//! its own: [`check_url`] lets through what is a scheme, a host and a port, and nothing else.

use crate::canonical::{self, FormError};
use crate::key::Key;
use crate::limits::{MAX_MIRRORS, MAX_URL_BYTES};
use crate::roles::folded;
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// A mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// By which others know it. Unique in the list, upper and lower case alike.
    pub name: String,
    /// Where it serves the log: see [`check_url`]. Unique in the list.
    pub url: String,
    /// The key with which it would sign the log after it took over. Unique in the list.
    #[serde(with = "crate::hex")]
    pub key: Key,
}

/// The document that lists all mirrors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirrors {
    /// All of them, at most [`MAX_MIRRORS`]; none if all are dropped.
    pub mirrors: Vec<Mirror>,
}

impl Mirror {
    /// Checks the mirror by itself.
    ///
    /// # Errors
    /// [`FormError`] if the name or the url cannot be used.
    pub fn validate(&self) -> Result<(), FormError> {
        canonical::name("name", &self.name)?;
        check_url(&self.url)
    }

    /// What a proposal for its succession names as its body.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&canonical::write("mirror", self).unwrap_or_default())
    }
}

impl Mirrors {
    /// Checks the document by itself.
    ///
    /// # Errors
    /// [`FormError`] if there are too many, one cannot be used, or two share a name, url or key.
    pub fn validate(&self) -> Result<(), FormError> {
        check(&self.mirrors)
    }

    /// What a proposal for this document names as its body.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&canonical::write("mirrors", self).unwrap_or_default())
    }
}

/// As [`Mirrors::validate`], for a list that stands in an entry.
pub(crate) fn check(mirrors: &[Mirror]) -> Result<(), FormError> {
    let twice = |field, problem| Err(FormError::Text { field, problem });
    canonical::within("mirrors", mirrors.len() as u64, 0, MAX_MIRRORS as u64)?;
    let (mut names, mut places, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for mirror in mirrors {
        mirror.validate()?;
        if !names.insert(folded(&mirror.name)) {
            return twice("name", "two mirrors have the same name: choose another");
        }
        if !places.insert(place(&mirror.url)) {
            return twice("url", "two mirrors have the same url: name each once");
        }
        if !keys.insert(mirror.key) {
            return twice("key", "two mirrors have the same key: each relay has its own");
        }
    }
    Ok(())
}

/// Checks the url of a mirror: `https://host[:port]` or `http://host[:port]`, without anything after it.
///
/// A host is a name of letters, digits, `.` and `-`, an IPv4 address, or an IPv6 address in brackets.
///
/// # Errors
/// [`FormError::Text`] that says what to write.
pub fn check_url(url: &str) -> Result<(), FormError> {
    let wrong = |problem| Err(FormError::Text { field: "url", problem });
    if url.len() > MAX_URL_BYTES {
        return wrong("it is too long: write at most 128 characters");
    }
    let Some((_, rest)) = scheme(url) else {
        return wrong("it does not begin with https:// or http://: write the scheme in small letters");
    };
    let (host, port) = parts(rest);
    if !is_host(host) {
        return wrong(
            "write https://host or https://host:port and nothing after that; a host has letters, digits, . and -, or \
             is an IPv6 address in brackets",
        );
    }
    if port.is_some_and(|port| !is_port(port)) {
        return wrong(
            "its port is no number from 1 to 65535: write it without leading zeros, or leave it out",
        );
    }
    Ok(())
}

/// The scheme's own port, and what follows the scheme.
fn scheme(url: &str) -> Option<(&'static str, &str)> {
    let https = url.strip_prefix("https://").map(|rest| ("443", rest));
    https.or_else(|| url.strip_prefix("http://").map(|rest| ("80", rest)))
}

/// Host and port. The colons of an IPv6 address stand within its brackets.
fn parts(rest: &str) -> (&str, Option<&str>) {
    let start = rest.find(']').unwrap_or(0);
    match rest[start..].find(':') {
        Some(colon) => (&rest[..start + colon], Some(&rest[start + colon + 1..])),
        None => (rest, None),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // The parser also takes an IPv4 address at the end: one form is enough.
        return address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
            && address.parse::<Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label)
}

fn is_port(port: &str) -> bool {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    digits && port.parse::<u16>().is_ok()
}

/// The form in which urls are compared: those that lead to the same place are the same.
fn place(url: &str) -> (String, String) {
    let Some((own, rest)) = scheme(url) else { return (folded(url), String::new()) };
    let (host, port) = parts(rest);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = address.and_then(|address| address.parse::<Ipv6Addr>().ok());
    let host = address.map_or_else(|| folded(host), |address| address.to_string());
    (host, port.unwrap_or(own).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let long = format!("https://{}.example", "a".repeat(MAX_URL_BYTES));
        let table: &[(&str, bool)] = &[
            ("https://relay.example", true),
            ("http://relay.example:8080", true),
            ("https://Relay-2.example:1", true),
            ("http://localhost:65535", true),
            ("http://127.0.0.1:8080", true),
            ("https://[::1]", true),
            ("https://[2001:db8::7]:8443", true),
            ("", false),
            ("relay.example", false),
            ("//relay.example", false),
            ("HTTPS://relay.example", false),
            ("ftp://relay.example", false),
            ("wss://relay.example", false),
            ("https:relay.example", false),
            ("https://", false),
            ("https://:443", false),
            ("https://relay.example/", false),
            ("https://relay.example/log", false),
            ("https://relay.example?a", false),
            ("https://relay.example#a", false),
            ("https://user@relay.example", false),
            ("https://user:secret@relay.example", false),
            ("https://relay.example:", false),
            ("https://relay.example:0", false),
            ("https://relay.example:080", false),
            ("https://relay.example:+80", false),
            ("https://relay.example:65536", false),
            ("https://relay.example:80:80", false),
            ("https://relay.example:80/", false),
            ("https://relay..example", false),
            ("https://.relay.example", false),
            ("https://relay.example.", false),
            ("https://*.example", false),
            ("https://relay_1.example", false),
            ("https://relay.example; script-src *", false),
            ("https://relay.example;script-src", false),
            ("https://relay.example,https://b", false),
            ("https://relay.example 'unsafe-inline'", false),
            (" https://relay.example", false),
            ("https://relay.example\n", false),
            ("https://relay\t.example", false),
            ("https://relay.example\u{0}", false),
            ("https://rélay.example", false),
            ("https://relay.example%20", false),
            ("https://relay\\example", false),
            ("https://[::1", false),
            ("https://::1", false),
            ("https://::1]", false),
            ("https://[]", false),
            ("https://[:::]", false),
            ("https://[::ffff:1.2.3.4]", false),
            ("https://[fe80::1%25eth0]", false),
            ("https://[::1]x", false),
            ("https://[::1]x:80", false),
            ("https://x[::1]", false),
            ("https://[[::1]]", false),
            ("https://é]:80", false),
            (&long, false),
        ];
        for (url, good) in table {
            assert_eq!(check_url(url).is_ok(), *good, "{url:?}: {:?}", check_url(url));
        }
        let most = format!("https://{}", "a".repeat(MAX_URL_BYTES - 8));
        assert_eq!(check_url(&most), Ok(()));
        assert!(check_url(&format!("{most}a")).is_err());
    }

    #[test]
    fn urls_that_lead_to_one_place_are_one() {
        assert_eq!(place("https://A.example"), place("https://a.example:443"));
        assert_eq!(place("https://[::1]"), place("https://[0:0::1]:443"));
        assert_ne!(place("https://a.example"), place("https://a.example:80"));
        assert_ne!(place("https://a.example"), place("https://b.example"));
    }

    #[test]
    fn lists() {
        type Change = (&'static str, fn(&mut Mirror));
        let mirror = |n: u8| Mirror {
            name: format!("mirror {n}"),
            url: format!("https://m{n}.example"),
            key: Key([n; 32]),
        };
        let list = |n| Mirrors { mirrors: (0..n).map(mirror).collect() };
        assert_eq!(Mirrors::default().validate(), Ok(()));
        assert_eq!(list(MAX_MIRRORS as u8).validate(), Ok(()));
        assert!(matches!(list(MAX_MIRRORS as u8 + 1).validate(), Err(FormError::Number { .. })));
        let changes: [Change; 4] = [
            ("name", |mirror| mirror.name = "MIRROR 0".to_owned()),
            ("name", |mirror| mirror.name = "a\u{202e}b".to_owned()),
            ("url", |mirror| mirror.url = "https://M0.example:443".to_owned()),
            ("key", |mirror| mirror.key = Key([0; 32])),
        ];
        for (wrong, change) in changes {
            let mut list = list(3);
            change(&mut list.mirrors[2]);
            let found = list.validate();
            assert!(matches!(found, Err(FormError::Text { field, .. }) if field == wrong), "{found:?}");
        }
        // The order counts: it is the one in which pages show them.
        let mut turned = list(2);
        turned.mirrors.reverse();
        assert_ne!(turned.hash(), list(2).hash());
        assert_ne!(mirror(0).hash(), mirror(1).hash());
    }
}
