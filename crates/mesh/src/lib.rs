//! Peers: tabs and native volunteers that pass blobs to each other over WebRTC, so that the relay need not.
//!
//! Where to look: `tree.rs` checks a part of a blob by itself; `mesh.rs` is the machine that a volunteer's engine owns, made
//! of `link.rs` (how links come, break and come back) and `swarm.rs` (which group from whom); `io.rs` is what it says to
//! links and hears from them; `native.rs` makes links with webrtc-rs, `wasm.rs` in browsers.
//!
//! Architecture invariant: the machine has no clock, no chance and no sockets.
//! Architecture invariant: a volunteer links only to whom the relay assigned.

mod bits;
pub mod io;
mod link;
mod mesh;
mod meter;
#[cfg(all(feature = "native", not(target_arch = "wasm32")))]
pub mod native;
mod store;
mod swarm;
pub mod tree;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use io::{LinkAction, LinkEvent, Links};
pub use mesh::{Mesh, MeshOptions, Output, Peer};
