//! Which sites may lend their visitors' tabs through the relay's frame. Browsers keep the frame away from the others;
//! here is what counts, whatever a browser does: a consent that names a site which may not is refused.

use potluck_proto::Preset;
use std::collections::BTreeSet;

/// How the origin of a consent begins that was given in the relay's frame on another site; that site's origin follows.
pub const EMBED_PREFIX: &str = "embed:";

/// Longest host of a site, in bytes: DNS names have no more.
const MAX_HOST_BYTES: usize = 253;

/// Who may embed the relay, and how much may be lent there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embeds {
    /// Whether anybody may.
    pub enabled: bool,
    /// Origins that may; if there is none, all may that are not denied.
    pub allow: BTreeSet<String>,
    /// Origins that may not, whatever else is said.
    pub deny: BTreeSet<String>,
    /// The most that may be lent there.
    pub max_preset: Preset,
}

impl Default for Embeds {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: BTreeSet::new(),
            deny: BTreeSet::new(),
            // Whoever lends chooses, and begins at the quietest.
            max_preset: Preset::Full,
        }
    }
}

/// The site on which a consent was given, if it was in the relay's frame.
pub fn embedder(origin: &str) -> Option<&str> {
    origin.strip_prefix(EMBED_PREFIX)
}

/// Whether a text is the origin of a site as browsers write it: scheme, host in lower case, and a port that is not the
/// scheme's own.
pub fn is_origin(text: &str) -> bool {
    let (rest, own_port) = match text.split_once("://") {
        Some(("https", rest)) => (rest, "443"),
        Some(("http", rest)) => (rest, "80"),
        _ => return false,
    };
    let (host, port) = match rest.rfind(':').filter(|colon| !rest[*colon..].contains(']')) {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest, None),
    };
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_address = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b':';
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(is_address),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    let port_fits = port.is_none_or(|port| {
        port != own_port && !port.starts_with('0') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    host.len() <= MAX_HOST_BYTES && host_fits && port_fits
}

impl Embeds {
    /// Whether a site may embed the relay.
    pub fn allows(&self, site: &str) -> bool {
        self.enabled && !self.deny.contains(site) && (self.allow.is_empty() || self.allow.contains(site))
    }

    /// Why a consent that was given on a site does not count; `None` if it does.
    pub fn refusal(&self, site: &str, preset: Preset) -> Option<String> {
        if !is_origin(site) {
            return Some("the site that shows the widget has no origin that can be named".to_owned());
        }
        if !self.allows(site) {
            return Some(format!("the operator does not let {site} lend its visitors' tabs"));
        }
        (preset > self.max_preset).then(|| "the operator allows less than that on other sites".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Config, Relay};
    use crate::tests::{RELAY, greet};
    use crate::{Input, Output};
    use potluck_proto::{Consent, Message, RefusalCode};
    use potluck_types::{Duration, Instant, SessionId};

    fn set(origins: &[&str]) -> BTreeSet<String> {
        origins.iter().map(|&origin| origin.to_owned()).collect()
    }

    #[test]
    fn origins_are_what_browsers_write() {
        for good in [
            "https://school.example",
            "http://127.0.0.1:8000",
            "https://xn--bcher-kva.example",
            "http://[::1]:81",
            "https://[2001:db8::1]",
            "https://a.b-c_d.example:8443",
        ] {
            assert!(is_origin(good), "{good}");
        }
        let long = format!("https://{}", "a".repeat(254));
        for bad in [
            "null",
            "",
            "school.example",
            "https://",
            "https://School.example",
            "https://school.example/",
            "https://school.example:443",
            "http://school.example:80",
            "https://school.example:0",
            "https://school.example:099",
            "https://school.example:70000",
            "https://school.example; script-src *",
            "https://[]",
            "ftp://school.example",
            long.as_str(),
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_denied_is_refused_and_an_allowed_list_is_all_that_is_allowed() {
        let (a, b) = ("https://a.example", "https://b.example");
        let refusal = |embeds: &Embeds, site| embeds.refusal(site, Preset::Quiet);
        let open = Embeds::default();
        assert_eq!(refusal(&open, a), None);
        assert!(refusal(&open, "null").is_some());
        let denied = Embeds { deny: set(&[a]), ..Embeds::default() };
        assert!(refusal(&denied, a).is_some_and(|why| why.contains(a)));
        assert_eq!(refusal(&denied, b), None);
        let allowed = Embeds { allow: set(&[a]), ..Embeds::default() };
        assert_eq!(refusal(&allowed, a), None);
        assert!(refusal(&allowed, b).is_some());
        let both = Embeds { allow: set(&[a]), deny: set(&[a]), ..Embeds::default() };
        assert!(refusal(&both, a).is_some());
        let off = Embeds { enabled: false, ..Embeds::default() };
        assert!(refusal(&off, a).is_some());
    }

    #[test]
    fn more_than_the_operator_allows_is_refused() {
        let site = "https://a.example";
        let refused =
            |max_preset, preset| Embeds { max_preset, ..Embeds::default() }.refusal(site, preset).is_some();
        assert!(!refused(Preset::Balanced, Preset::Balanced) && refused(Preset::Balanced, Preset::Full));
        assert!(!refused(Preset::Full, Preset::Full) && refused(Preset::Quiet, Preset::Balanced));
    }

    #[test]
    fn a_site_that_may_not_show_the_widget_lends_nothing() {
        let mut relay = Relay::new(Config::new([1; 32], 1, RELAY));
        relay.config.embeds.deny.insert("https://bad.example".to_owned());
        let mut agree = |session, origin: &str| {
            let now = Instant(0);
            let mut said = Vec::new();
            drop(greet(&mut relay, now, session, None, session.0 as u8));
            let consent = Consent {
                text_version: 1,
                origin: origin.to_owned(),
                preset: Preset::Quiet,
                valid_for: Duration::from_secs(60),
            };
            for output in relay.step(now, Input::Message { session, message: consent.into() }) {
                if let Output::Send { message, .. } = output {
                    said.push(message);
                }
            }
            let granted = said.iter().any(|message| matches!(message, Message::ConsentGranted(_)));
            let refused = said.iter().any(
                |message| matches!(message, Message::Refusal(refusal) if refusal.code == RefusalCode::NotTrusted),
            );
            assert_ne!(granted, refused, "{origin}: {said:?}");
            granted
        };
        assert!(agree(SessionId(11), "embed:https://good.example"));
        for (session, origin) in [(12, "embed:https://bad.example"), (13, "embed:null"), (14, "embed:")] {
            assert!(!agree(SessionId(session), origin), "{origin}");
        }
        assert!(agree(SessionId(15), "https://bad.example"), "that is a relay's own page");
    }

    #[test]
    fn only_the_frame_names_a_site() {
        assert_eq!(embedder("embed:https://a.example"), Some("https://a.example"));
        assert_eq!(embedder("https://relay.example"), None);
        assert_eq!(embedder("native"), None);
    }
}
