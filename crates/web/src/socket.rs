//! The connection to the relay.

use crate::engine::Handle;
use potluck_types::limits::MAX_FRAME_BYTES;
use potluck_volunteer::Event;
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::Closure;
use web_sys::{BinaryType, MessageEvent, WebSocket};

/// Bytes that may wait to be sent: the relay asks for at most 8 chunks at a time, so more means that nothing
/// leaves any more.
const MAX_BUFFERED_BYTES: u32 = 16 * MAX_FRAME_BYTES as u32;

/// An open (or opening) connection. Dropping it closes the socket, and nothing of it is heard any more.
pub(crate) struct Socket {
    socket: WebSocket,
    /// Kept alive as long as the socket may call them.
    _opened: Closure<dyn FnMut()>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _closed: Closure<dyn FnMut()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        let _ = self.socket.close();
    }
}

impl Socket {
    /// Opens a socket; [`Event::Connected`], frames and [`Event::Disconnected`] follow. `None` for an address
    /// that is none.
    pub(crate) fn open(url: &str, engine: &Handle) -> Option<Self> {
        let socket = WebSocket::new(url).ok()?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let handle = engine.clone();
        let opened = Closure::<dyn FnMut()>::new(move || handle.feed(Event::Connected));
        let handle = engine.clone();
        let message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            // A frame that is no bytes reads as an empty one, which the engine refuses.
            let bytes = event.data().dyn_into::<js_sys::ArrayBuffer>();
            let frame = bytes.map(|buffer| js_sys::Uint8Array::new(&buffer).to_vec()).unwrap_or_default();
            handle.feed(Event::Frame(frame));
        });
        let handle = engine.clone();
        // An error is always followed by a close.
        let closed = Closure::<dyn FnMut()>::new(move || handle.feed(Event::Disconnected));
        socket.set_onopen(Some(opened.as_ref().unchecked_ref()));
        socket.set_onmessage(Some(message.as_ref().unchecked_ref()));
        socket.set_onclose(Some(closed.as_ref().unchecked_ref()));
        Some(Self { socket, _opened: opened, _message: message, _closed: closed })
    }

    /// Sends a frame. `false` if the socket cannot keep up or is closed.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        self.socket.buffered_amount() <= MAX_BUFFERED_BYTES && self.socket.send_with_u8_array(frame).is_ok()
    }
}
