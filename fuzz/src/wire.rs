//! Frames: between volunteers and relay, and between peers. Postcard has one way to write a value but for numbers, which may be
//! padded: so what is read is compared, not its bytes.

use potluck_proto::{decode, decode_peer, encode, encode_peer};

pub(crate) fn frame(bytes: &[u8]) -> bool {
    let Ok(message) = decode(bytes) else { return false };
    let again = encode(&message).expect("a message that came in a frame fits one");
    assert!(again.len() <= bytes.len(), "{message:?}");
    assert_eq!(decode(&again).as_ref(), Ok(&message));
    true
}

pub(crate) fn peer_frame(bytes: &[u8]) -> bool {
    let Ok(message) = decode_peer(bytes) else { return false };
    let again = encode_peer(&message).expect("a message that came in a frame fits one");
    assert!(again.len() <= bytes.len(), "{message:?}");
    assert_eq!(decode_peer(&again).as_ref(), Ok(&message));
    true
}
