//! The wire between a volunteer and a relay: messages, their codec, their versions.
//!
//! A frame is one binary WebSocket message: `[version: u8][kind: u8][body: postcard]`. The two bytes in
//! front are ours rather than postcard's enum index, so that an unknown version or kind is told apart from
//! garbage and gets a clear refusal. PROTOCOL.md at the repository's root describes every message; the hash
//! of their source stands in it, so that the wire cannot change without its page. Golden frames lie in
//! `vectors/v1/`.

pub mod bytes_as;
pub mod codec;
pub mod identity;
pub mod message;
pub mod peer;
pub mod signal;

pub use codec::{DecodeError, EncodeError, Message, PeerMessage, decode, decode_peer, encode, encode_peer};
pub use message::*;
pub use peer::*;
pub use signal::*;

/// The version of the frames that this crate writes.
pub const PROTOCOL_VERSION: u8 = 1;
/// The oldest version that this crate still reads.
pub const OLDEST_VERSION: u8 = 1;
