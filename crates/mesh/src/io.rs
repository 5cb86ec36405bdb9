//! What the machine says to the links, and what it hears from them: the same for webrtc-rs and for browsers.

use potluck_proto::{IceServer, LinkPath, SignalKind};
use potluck_types::LinkId;
use std::sync::Arc;

/// Bytes that a link's channel may hold that have not left yet: 0.1 s at 320 Mbit/s, which a busy browser takes to say that
/// there is room. Slow links hold less, as their other ends ask for less. The machine sends no more groups until it hears
/// [`LinkEvent::Drained`].
pub const SEND_BUFFER_BYTES: u64 = 4 << 20;
/// A link says [`LinkEvent::Drained`] when its channel holds no more than this, after it held more.
pub const SEND_LOW_BYTES: u64 = SEND_BUFFER_BYTES / 2;
/// Label of the data channel.
pub const CHANNEL_LABEL: &str = "potluck";

/// What a link is to do. Actions for links that are not there are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAction {
    /// Make a connection. The end that offers creates the data channel (reliable, ordered, [`CHANNEL_LABEL`]) and an
    /// offer; the other one waits for it. A connection that the link had is closed without a word.
    Open {
        /// The link.
        link: LinkId,
        /// Comes back in every [`LinkEvent::Signal`] of this connection, until [`LinkAction::Restart`].
        attempt: u32,
        /// Whether this end makes the offer.
        offers: bool,
        /// Servers to use.
        servers: Arc<[IceServer]>,
    },
    /// A signal of the other end. An offer on a link that does not offer is answered; candidates that come before their
    /// description wait for it.
    Signal {
        /// The link.
        link: LinkId,
        /// The offer that it belongs to.
        attempt: u32,
        /// What it says.
        kind: SignalKind,
        /// SDP or candidate.
        body: String,
    },
    /// Offer anew with fresh ICE credentials, on the same connection. Only to the end that offers.
    Restart {
        /// The link.
        link: LinkId,
        /// Comes back in signals from now on.
        attempt: u32,
        /// Servers to use from now on.
        servers: Arc<[IceServer]>,
    },
    /// Send a frame as one binary message.
    Send {
        /// The link.
        link: LinkId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Close the connection. Nothing of it is heard any more.
    Close {
        /// The link.
        link: LinkId,
    },
}

/// What happens on a link. Links that were closed say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Pass a signal to the other end.
    Signal {
        /// The link.
        link: LinkId,
        /// The attempt that it belongs to.
        attempt: u32,
        /// What it says.
        kind: SignalKind,
        /// SDP or candidate.
        body: String,
    },
    /// The data channel is open. Once a connection.
    Opened {
        /// The link.
        link: LinkId,
    },
    /// How the link runs; again when it changes.
    Path {
        /// The link.
        link: LinkId,
        /// How.
        path: LinkPath,
    },
    /// Nothing comes through at the moment (ICE is disconnected).
    Interrupted {
        /// The link.
        link: LinkId,
    },
    /// It comes through again.
    Restored {
        /// The link.
        link: LinkId,
    },
    /// A message arrived. Text and empty messages come as an empty frame.
    Frame {
        /// The link.
        link: LinkId,
        /// Its bytes.
        frame: Vec<u8>,
    },
    /// The channel holds so many bytes that have not left: at most [`SEND_LOW_BYTES`].
    Drained {
        /// The link.
        link: LinkId,
        /// Bytes.
        buffered: u64,
    },
    /// The connection failed, or the other end closed it. Nothing more is heard of it.
    Failed {
        /// The link.
        link: LinkId,
    },
}

impl LinkEvent {
    /// The link that it is about.
    pub const fn link(&self) -> LinkId {
        match self {
            Self::Signal { link, .. }
            | Self::Opened { link }
            | Self::Path { link, .. }
            | Self::Interrupted { link }
            | Self::Restored { link }
            | Self::Frame { link, .. }
            | Self::Drained { link, .. }
            | Self::Failed { link } => *link,
        }
    }
}

/// Links, however they are made. Events come back through whatever the implementation was given.
pub trait Links {
    /// Carries an action out, or begins to. Never blocks.
    fn carry_out(&mut self, action: LinkAction);
}
