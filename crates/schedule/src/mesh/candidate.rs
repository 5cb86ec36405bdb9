//! Which addresses one volunteer may make another one dial.
//!
//! A candidate makes the other end's browser send packets to whatever address it names. Without a filter a volunteer could
//! have others probe their own routers and printers, or whole networks of strangers. Passed on are: names that browsers
//! make up for addresses they hide (`.local`); public addresses; and private ones only between two volunteers that the
//! relay sees at the same address, or both at private ones, so that they are on one network anyway.
//!
//! Whoever reads a description reads it in its own way: some skip a carriage return before a line, some cut spaces off
//! its value, some take a tab for a space. So what passes is plain: visible characters and single spaces, and nothing
//! that mentions candidates but what was understood here.

use potluck_proto::{Signal, SignalKind};
use std::fmt::Write as _;
use std::net::IpAddr;

/// Lowest port that may be dialed: below are the well-known services, and no peer listens there.
const LOWEST_PORT: u16 = 1024;
/// Longest candidate, in bytes; browsers' have about 150.
const MAX_CANDIDATE_BYTES: usize = 512;
/// Words of a candidate that every reader needs: up to its type.
const CANDIDATE_WORDS: usize = 8;
/// What says in a description that there are no more candidates.
const END_OF_CANDIDATES: &str = "a=end-of-candidates";

/// Whether an address is of no use outside of its own network.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || shared
                || a == 0
                || a >= 240
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let unique_local = first & 0xfe00 == 0xfc00;
            let link_local = first & 0xffc0 == 0xfe80;
            v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || unique_local || link_local
        }
    }
}

/// Whether two volunteers, seen at these addresses, are on one network.
pub(crate) fn are_near(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    a == b || is_private(a) && is_private(b)
}

/// Whether a line means the same to all who read it: visible ASCII characters and spaces.
fn is_plain(line: &str) -> bool {
    line.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Whether a line of a description may be passed on.
fn line_passes(line: &str, near: bool) -> bool {
    if !is_plain(line) {
        return false;
    }
    let candidate = line.strip_prefix("a=").filter(|attribute| attribute.starts_with("candidate:"));
    match candidate {
        Some(candidate) => is_allowed(candidate, near),
        None => line == END_OF_CANDIDATES || !line.to_ascii_lowercase().contains("candidate"),
    }
}

/// Whether a candidate may be passed on.
fn is_allowed(candidate: &str, near: bool) -> bool {
    if candidate.len() > MAX_CANDIDATE_BYTES
        || !is_plain(candidate)
        || candidate.split(' ').take(CANDIDATE_WORDS).any(str::is_empty)
    {
        return false;
    }
    // candidate:<foundation> <component> <transport> <priority> <address> <port> typ <type> ...
    let mut words = candidate.strip_prefix("candidate:").unwrap_or_default().split(' ').skip(2);
    let (Some(transport), Some(_), Some(address), Some(port), Some("typ")) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let port = port.parse().is_ok_and(|port: u16| port >= LOWEST_PORT);
    let hidden = address.strip_suffix(".local").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    let reachable = address.parse().is_ok_and(|address| near || !is_private(address));
    transport.eq_ignore_ascii_case("udp") && port && (hidden || reachable)
}

/// What of a signal may be passed on: its body, or nothing.
pub(crate) fn pass(signal: Signal, near: bool) -> Option<Signal> {
    if signal.kind == SignalKind::Candidate {
        return (signal.body.is_empty() || is_allowed(&signal.body, near)).then_some(signal);
    }
    let mut body = String::with_capacity(signal.body.len());
    for line in signal.body.lines() {
        if line_passes(line, near) {
            // Writing to a string cannot fail.
            let _ = write!(body, "{line}\r\n");
        }
    }
    Some(Signal { body, ..signal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_types::LinkId;

    fn candidate(address: &str, port: u32) -> String {
        format!("candidate:842163049 1 udp 2122260223 {address} {port} typ host generation 0 ufrag x")
    }

    #[test]
    fn public_addresses_pass_and_private_ones_only_on_one_network() {
        for public in ["203.0.113.7", "2001:db8::1", "5c2f1a9e-aa.local"] {
            assert!(is_allowed(&candidate(public, 50_000), false), "{public}");
        }
        let private = [
            "192.168.1.1",
            "10.0.0.8",
            "172.16.3.4",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.251",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::fb",
            "::ffff:192.168.1.1",
        ];
        for private in private {
            assert!(!is_allowed(&candidate(private, 50_000), false), "{private}");
            assert!(is_allowed(&candidate(private, 50_000), true), "{private}");
        }
    }

    #[test]
    fn what_is_no_candidate_for_a_peer_does_not_pass() {
        for wrong in [
            candidate("203.0.113.7", 53),
            candidate("203.0.113.7", 70_000),
            candidate("router", 50_000),
            candidate("evil.example", 50_000),
            candidate(".local", 50_000),
            candidate("a b.local", 50_000),
            candidate("203.0.113.7", 50_000).replace("udp", "tcp"),
            candidate("203.0.113.7", 50_000).replace("candidate:", ""),
            candidate("203.0.113.7", 50_000) + &"x".repeat(512),
            candidate("203.0.113.7", 50_000) + "\r\na=candidate:1",
            candidate("203.0.113.7", 50_000).replacen(' ', "  ", 1),
            // To who takes tabs for spaces it is another address.
            candidate("192.168.1.1", 50_000).replace(' ', "\t") + " 1 udp 1 203.0.113.7 50000 typ host",
            String::from("candidate:"),
        ] {
            assert!(!is_allowed(&wrong, true), "{wrong}");
        }
    }

    #[test]
    fn descriptions_lose_the_candidates_that_may_not_pass() {
        let (good, bad) = (candidate("203.0.113.7", 50_000), candidate("192.168.1.1", 50_000));
        let body = format!("v=0\r\na={good}\r\na={bad}\r\na=end-of-candidates\r\n");
        let signal = Signal { link: LinkId([0; 16]), attempt: 1, kind: SignalKind::Offer, body };
        let passed = pass(signal.clone(), false).unwrap();
        assert_eq!(passed.body, format!("v=0\r\na={good}\r\na=end-of-candidates\r\n"));
        assert_eq!(pass(signal.clone(), true), Some(signal.clone()));
        let candidate = Signal { kind: SignalKind::Candidate, body: bad, ..signal };
        assert_eq!(pass(candidate.clone(), false), None);
        let last = Signal { body: String::new(), ..candidate };
        assert_eq!(pass(last.clone(), false), Some(last));
    }

    #[test]
    fn candidates_do_not_pass_in_disguise() {
        let bad = candidate("192.168.1.1", 50_000);
        for line in [
            format!("\ra={bad}"),
            format!("s=-\ra={bad}"),
            format!("a= {bad}"),
            format!(" a={bad}"),
            format!("a\u{a0}={bad}"),
            format!("A={bad}"),
            format!("a={}", bad.replace("candidate", "Candidate")),
            format!("a={}", bad.replace("candidate:", "candidate :")),
            format!("a={}", bad.replace(' ', "\t") + " 1 udp 1 203.0.113.7 50000 typ host"),
        ] {
            let body = format!("v=0\r\n{line}\r\n{END_OF_CANDIDATES}\r\n");
            let signal = Signal { link: LinkId([0; 16]), attempt: 1, kind: SignalKind::Answer, body };
            assert_eq!(pass(signal, true).unwrap().body, "v=0\r\na=end-of-candidates\r\n", "{line:?}");
        }
    }

    #[test]
    fn volunteers_are_near_at_one_address_or_both_at_private_ones() {
        let [a, b, c] = ["198.51.100.1", "198.51.100.2", "10.0.0.1"].map(|ip| ip.parse().ok());
        assert!(are_near(a, a) && are_near(c, c) && !are_near(a, b) && !are_near(a, c));
        assert!(are_near(c, "192.168.0.3".parse().ok()) && !are_near(None, None));
    }
}
