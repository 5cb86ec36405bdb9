//! What page and Worker say to each other about links, as plain JavaScript objects: small and rare. Frames go over
//! channels.

use super::Post;
use js_sys::{Array, Object, Reflect};
use potluck_proto::{IceServer, SignalKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;

/// A server, as `RTCPeerConnection` takes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Server {
    urls: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    credential: String,
}

impl From<&IceServer> for Server {
    fn from(server: &IceServer) -> Self {
        let IceServer { urls, username, credential } = server.clone();
        Self { urls, username, credential }
    }
}

/// A signal, either way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Signal {
    pub(super) attempt: u32,
    pub(super) what: SignalKind,
    pub(super) body: String,
}

/// What the Worker asks for. A connection is named by a number that is never used again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum ToPage {
    Open { connection: u32, attempt: u32, offers: bool, servers: Vec<Server> },
    Signal { connection: u32, signal: Signal },
    Restart { connection: u32, attempt: u32, servers: Vec<Server> },
    Close { connection: u32 },
}

/// What the page says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum ToWorker {
    Signal {
        connection: u32,
        signal: Signal,
    },
    /// Carries the channel, or the port through which its messages come.
    Channel {
        connection: u32,
    },
    Path {
        connection: u32,
        turn: bool,
    },
    Interrupted {
        connection: u32,
    },
    Restored {
        connection: u32,
    },
    Failed {
        connection: u32,
    },
}

/// Posts a message.
pub(super) fn say(post: &Post, message: &impl Serialize) {
    // Plain data can always be posted: an error means that the other half is gone.
    drop(wrap(message, None).and_then(|message| post(&message, &Array::new())));
}

/// Posts a message with something that is transferred.
///
/// # Errors
/// It cannot be transferred.
pub(super) fn carry(post: &Post, message: &impl Serialize, carried: &JsValue) -> Result<(), JsValue> {
    post(&wrap(message, Some(carried))?, &Array::of1(carried))
}

fn wrap(message: &impl Serialize, carried: Option<&JsValue>) -> Result<JsValue, JsValue> {
    let wrapped = Object::new();
    Reflect::set(&wrapped, &"says".into(), &serde_wasm_bindgen::to_value(message)?)?;
    if let Some(carried) = carried {
        Reflect::set(&wrapped, &"carried".into(), carried)?;
    }
    Ok(wrapped.into())
}

/// A message, and what it carried. `None` for what is no message.
pub(super) fn read<T: DeserializeOwned>(message: &JsValue) -> Option<(T, JsValue)> {
    let says = Reflect::get(message, &"says".into()).ok()?;
    let carried = Reflect::get(message, &"carried".into()).ok()?;
    Some((serde_wasm_bindgen::from_value(says).ok()?, carried))
}
