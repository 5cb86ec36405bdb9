//! Links to peers, as far as they need the page's thread.

use potluck_mesh::wasm::PageLinks;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_sys::Worker;

/// The connections of a tab, on the page's thread. The page loads this module for it when the engine in its Worker first
/// asks for a connection, and frees it when the lending ends: that closes every connection.
#[wasm_bindgen]
pub struct TabLinks {
    links: PageLinks,
}

#[wasm_bindgen]
impl TabLinks {
    /// No connections yet. What happens on them is posted to the Worker as `{ link: message }`.
    #[wasm_bindgen(constructor)]
    pub fn new(worker: Worker) -> TabLinks {
        let post = move |message: &JsValue, transfer: &js_sys::Array| {
            let wrapped = js_sys::Object::new();
            js_sys::Reflect::set(&wrapped, &"link".into(), message)?;
            worker.post_message_with_transfer(&wrapped, transfer)
        };
        Self { links: PageLinks::new(post) }
    }

    /// Takes in what the Worker posted as `{ link: message }`.
    pub fn take(&self, message: &JsValue) {
        self.links.take(message);
    }
}
