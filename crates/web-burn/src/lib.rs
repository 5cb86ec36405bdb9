//! Models written with burn, as a module of their own for the tab's Worker: it is large, so that only runs that need it
//! load it.

#![cfg(target_arch = "wasm32")]

mod constructors;
mod engine;

pub use engine::BurnEngine;

use wasm_bindgen::prelude::wasm_bindgen;

/// Runs once, when the Worker loads the module.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
    constructors::run();
}
