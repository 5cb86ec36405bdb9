//! What peers tell each other through the relay to make a link, and datagrams for the relay's STUN and TURN server.

// The relay's state machine takes whole sessions; this is the file that reads what strangers write in a signal.
#[allow(dead_code, reason = "the relay uses all of it")]
#[path = "../../crates/schedule/src/mesh/candidate.rs"]
mod candidate;

use potluck_proto::{Signal, SignalKind};
use potluck_types::LinkId;
use potluck_types::limits::MAX_SIGNAL_BYTES;
use rtc_sdp::SessionDescription;
use std::io::Cursor;
use std::net::IpAddr;

const KINDS: [SignalKind; 3] = [SignalKind::Offer, SignalKind::Answer, SignalKind::Candidate];

/// The first byte says whether the two ends are on one network, and what the signal is. What passes passes again, and names
/// no address that may not be dialed, as those understand it who get it.
pub(crate) fn signal(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    let Ok(body) = str::from_utf8(bytes) else { return false };
    if body.len() > MAX_SIGNAL_BYTES {
        return false;
    }
    let (near, kind) = (first & 1 == 1, KINDS[usize::from(first >> 1) % KINDS.len()]);
    let signal = Signal { link: LinkId([0; 16]), attempt: 1, kind, body: body.to_owned() };
    let Some(passed) = candidate::pass(signal, near) else { return false };
    assert_eq!(candidate::pass(passed.clone(), near).as_ref(), Some(&passed));
    if kind == SignalKind::Candidate {
        check(passed.body.strip_prefix("candidate:").unwrap_or_default(), near);
        return true;
    }
    let Ok(read) = SessionDescription::unmarshal(&mut Cursor::new(passed.body.as_bytes())) else {
        return false;
    };
    let media = read.media_descriptions.iter().flat_map(|media| &media.attributes);
    for attribute in read.attributes.iter().chain(media).filter(|attribute| attribute.is_ice_candidate()) {
        check(attribute.value.as_deref().unwrap_or_default(), near);
    }
    true
}

/// Reads a candidate as webrtc does.
fn check(candidate: &str, near: bool) {
    let mut words = candidate.split_whitespace().skip(4);
    let (Some(address), Some(port)) = (words.next(), words.next()) else { return };
    if let Ok(address) = address.parse::<IpAddr>() {
        assert!(near || !candidate::is_private(address), "{candidate:?}");
    }
    if let Ok(port) = port.parse::<u16>() {
        assert!(port >= 1024, "{candidate:?}");
    }
}
