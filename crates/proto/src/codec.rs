//! Frames to messages and back. Never panics, never allocates beyond a frame's limit.

use crate::message::{
    BlobChunk, BlobMissing, BlobRequest, Challenge, Commit, Consent, ConsentGranted, Hello, Lease,
    LeaseRequest, Membership, NoWork, Picture, Ping, Pong, Refusal, Release, Revoke, Verdict, Welcome,
    Withdraw,
};
use crate::peer::{
    Fetching, Gained, Group, GroupRequest, Holds, PeerHello, PeerTree, PeerTreeRequest, Refused, Seek, Unseek,
};
use crate::signal::{
    BlobTree, Fetch, JoinMesh, LeaveMesh, LinkReport, MeshSettings, Neighbor, Signal, TreeRequest, Unlink,
};
use crate::{OLDEST_VERSION, PROTOCOL_VERSION};
use potluck_types::limits::{MAX_FRAME_BYTES, MAX_PEER_FRAME_BYTES};

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame is larger than any message.
    #[error("a frame of {bytes} bytes exceeds the limit of {most}")]
    TooLarge {
        /// Length of the frame.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The frame ends before its body begins.
    #[error("a frame of {bytes} bytes has no version and kind")]
    TooShort {
        /// Length of the frame.
        bytes: usize,
    },
    /// The version is not one that this crate reads.
    #[error(
        "protocol version {version} is not supported (supported: {OLDEST_VERSION} to {PROTOCOL_VERSION})"
    )]
    UnsupportedVersion {
        /// The frame's version.
        version: u8,
    },
    /// The kind is not known in this version.
    #[error("message kind {kind:#04x} is not known in version {version}")]
    UnknownKind {
        /// The frame's kind.
        kind: u8,
        /// The frame's version.
        version: u8,
    },
    /// The body is not what the kind says.
    #[error("the body of a {kind} message could not be read: {cause}")]
    Body {
        /// The message's name.
        kind: &'static str,
        /// What postcard says.
        cause: postcard::Error,
    },
    /// The body goes on after its message.
    #[error("{extra} bytes follow a {kind} message")]
    TrailingBytes {
        /// The message's name.
        kind: &'static str,
        /// How many bytes.
        extra: usize,
    },
}

/// Why a message is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame would be too large.
    #[error("a {kind} message of {bytes} bytes exceeds the limit of {most}")]
    TooLarge {
        /// The message's name.
        kind: &'static str,
        /// Length of the frame.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The body cannot be written.
    #[error("a {kind} message could not be written: {cause}")]
    Body {
        /// The message's name.
        kind: &'static str,
        /// What postcard says.
        cause: postcard::Error,
    },
}

macro_rules! messages {
    ($(#[$doc:meta])* $Message:ident, $encode:ident, $decode:ident, $most:ident, { $($kind:literal $name:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant holds the message of its name, documented there")]
        pub enum $Message { $($name($name)),* }

        impl $Message {
            /// The message's name, for logs and errors.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name)),* }
            }

            /// The byte that stands for the message in a frame.
            pub const fn kind(&self) -> u8 {
                match self { $(Self::$name(_) => $kind),* }
            }
        }

        $(impl From<$name> for $Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*

        /// Writes a message as a frame.
        ///
        /// # Errors
        /// A message over the limit of a frame.
        pub fn $encode(message: &$Message) -> Result<Vec<u8>, EncodeError> {
            let kind = message.name();
            let mut frame = Vec::with_capacity(message.size_hint());
            frame.extend([PROTOCOL_VERSION, message.kind()]);
            let written = match message {
                $($Message::$name(body) => postcard::to_extend(body, frame)),*
            };
            let frame = written.map_err(|cause| EncodeError::Body { kind, cause })?;
            if frame.len() > $most {
                return Err(EncodeError::TooLarge { kind, bytes: frame.len(), most: $most });
            }
            Ok(frame)
        }

        /// Reads a frame.
        ///
        /// # Errors
        /// Whatever is not exactly one message of a supported version.
        pub fn $decode(frame: &[u8]) -> Result<$Message, DecodeError> {
            if frame.len() > $most {
                return Err(DecodeError::TooLarge { bytes: frame.len(), most: $most });
            }
            let &[version, kind, ref body @ ..] = frame else {
                return Err(DecodeError::TooShort { bytes: frame.len() });
            };
            if !(OLDEST_VERSION..=PROTOCOL_VERSION).contains(&version) {
                return Err(DecodeError::UnsupportedVersion { version });
            }
            match kind {
                $($kind => read::<$name>(stringify!($name), body).map($Message::$name),)*
                _ => Err(DecodeError::UnknownKind { kind, version }),
            }
        }
    };
}

/// Room for a message without bulk data.
const SMALL: usize = 128;

impl Message {
    const fn size_hint(&self) -> usize {
        match self {
            Self::BlobChunk(chunk) => chunk.data.len() + SMALL,
            _ => SMALL,
        }
    }
}

impl PeerMessage {
    const fn size_hint(&self) -> usize {
        match self {
            Self::Group(group) => group.data.len() + SMALL,
            _ => SMALL,
        }
    }
}

fn read<'a, T: serde::Deserialize<'a>>(kind: &'static str, body: &'a [u8]) -> Result<T, DecodeError> {
    let (message, rest) =
        postcard::take_from_bytes(body).map_err(|cause| DecodeError::Body { kind, cause })?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes { kind, extra: rest.len() });
    }
    Ok(message)
}

// 0x01..: volunteer to relay. 0x41..: relay to volunteer. 0x81..: both ways.
messages! {
    /// Any message between a volunteer and a relay.
    Message, encode, decode, MAX_FRAME_BYTES, {
    0x01 Hello,
    0x02 Consent,
    0x03 Withdraw,
    0x04 LeaseRequest,
    0x05 Commit,
    0x06 Release,
    0x07 Ping,
    0x08 JoinMesh,
    0x09 LeaveMesh,
    0x0a LinkReport,
    0x0b TreeRequest,
    0x0c Membership,
    0x0d Fetch,
    0x41 Welcome,
    0x42 ConsentGranted,
    0x43 Lease,
    0x44 NoWork,
    0x45 Verdict,
    0x46 Revoke,
    0x47 Picture,
    0x48 Refusal,
    0x49 Pong,
    0x4a MeshSettings,
    0x4b Neighbor,
    0x4c BlobTree,
    0x4d Challenge,
    0x81 BlobRequest,
    0x82 BlobChunk,
    0x83 BlobMissing,
    0x84 Signal,
    0x85 Unlink,
} }

// Between peers: kinds of their own, so that a frame that strays from one wire to the other is not understood.
messages! {
    /// Any message between two peers.
    PeerMessage, encode_peer, decode_peer, MAX_PEER_FRAME_BYTES, {
    0xc1 PeerHello,
    0xc2 Seek,
    0xc3 Unseek,
    0xc4 Holds,
    0xc5 Gained,
    0xc6 Fetching,
    0xc7 PeerTreeRequest,
    0xc8 PeerTree,
    0xc9 GroupRequest,
    0xca Group,
    0xcb Refused,
} }
