//! Links in browsers: connections on the page's thread, channels in the Worker.
//!
//! `RTCPeerConnection` exists only on the page's thread, and the engine lives in a Worker. [`WorkerLinks`] is what the
//! engine talks to: it asks [`PageLinks`] for connections, and gets each one's data channel *transferred*, so that frames
//! never cross the page's thread. Where the browser cannot transfer channels, the page pipes their messages through a
//! `MessagePort`. `messages.rs` is what the two say to each other, `page.rs` and `worker.rs` are the two halves, `pipe.rs`
//! is the page's end of a channel that could not be transferred.
//!
//! Architecture invariant: the page decides nothing; it knows connections by number, and not what they are for.

mod messages;
mod page;
mod pipe;
mod worker;

pub use page::PageLinks;
pub use worker::WorkerLinks;

use js_sys::Array;
use wasm_bindgen::JsValue;

/// Passes a message to the other half, with what is transferred along. Fails where something cannot be transferred.
type Post = Box<dyn Fn(&JsValue, &Array) -> Result<(), JsValue>>;
