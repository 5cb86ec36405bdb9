//! The tab's engine: a Worker that adapts the volunteer's state machine to the browser.
//!
//! The page starts it only after a person agreed. `engine.rs` carries the machine's actions out; `socket.rs` is
//! the connection, `links.rs` what the page's thread does for links to peers, `compute.rs` the kernels in slices, `train.rs` rounds in steps, `burn.rs` the models that another
//! module trains, `messages.rs` what page and Worker say to each other.
//!
//! Architecture invariant: no decision is made here; what to do is [`potluck_volunteer::Engine`]'s.

#![cfg(target_arch = "wasm32")]

mod burn;
mod compute;
mod effort;
mod engine;
mod eval;
mod links;
mod messages;
mod socket;
mod train;

pub use engine::TabEngine;
pub use links::TabLinks;

use wasm_bindgen::prelude::wasm_bindgen;

/// Runs once, when the Worker loads the module, and when the page does.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}
