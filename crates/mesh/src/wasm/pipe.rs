//! The page's end of a channel that could not be transferred: its messages go through a `MessagePort`.
//!
//! Over the port come, from the page: `true` when the channel opens, a buffer for each message, `null` for one that is
//! text, `false` when the channel closes, and a number whenever bytes left: how many so far. From the Worker: buffers.

use js_sys::{Array, ArrayBuffer};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::Closure;
use wasm_bindgen::{JsCast as _, JsValue};
use web_sys::{MessageEvent, MessagePort, RtcDataChannel, RtcDataChannelState, RtcDataChannelType};

use crate::io::SEND_LOW_BYTES;

/// Posts a buffer, or whatever else it is.
pub(super) fn post(port: &MessagePort, data: &JsValue) {
    // Buffers can be transferred, and the rest is plain: this fails only for one that the browser keeps to itself.
    if data.is_instance_of::<ArrayBuffer>() {
        drop(port.post_message_with_transferable(data, &Array::of1(data)));
    } else {
        drop(port.post_message(data));
    }
}

/// Passes messages between a channel and a port. Dropping it closes both.
pub(super) struct Pipe {
    channel: RtcDataChannel,
    port: MessagePort,
    _opened: Closure<dyn Fn()>,
    _received: Closure<dyn Fn(MessageEvent)>,
    _left: Closure<dyn Fn()>,
    _closed: Closure<dyn Fn()>,
    _sent: Closure<dyn Fn(MessageEvent)>,
}

impl Pipe {
    pub(super) fn new(channel: RtcDataChannel, port: MessagePort) -> Self {
        channel.set_binary_type(RtcDataChannelType::Arraybuffer);
        channel.set_buffered_amount_low_threshold(SEND_LOW_BYTES as u32);
        let say = |port: &MessagePort, open: bool| {
            let port = port.clone();
            Closure::<dyn Fn()>::new(move || post(&port, &open.into()))
        };
        let (opened, closed) = (say(&port, true), say(&port, false));
        let to = port.clone();
        let received = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            let data = event.data();
            let frame = if data.is_instance_of::<ArrayBuffer>() { data } else { JsValue::NULL };
            post(&to, &frame);
        });
        let total = Rc::new(Cell::new(0_u64));
        let (from, to, bytes) = (channel.clone(), port.clone(), Rc::clone(&total));
        let tell = Rc::new(move || {
            let left = bytes.get().saturating_sub(from.buffered_amount().into());
            post(&to, &(left as f64).into());
        });
        let told = Rc::clone(&tell);
        let left = Closure::<dyn Fn()>::new(move || told());
        let into = channel.clone();
        let sent = Closure::<dyn Fn(MessageEvent)>::new(move |event: MessageEvent| {
            let Ok(buffer) = event.data().dyn_into::<ArrayBuffer>() else { return };
            total.set(total.get() + u64::from(buffer.byte_length()));
            // One that takes no more closes.
            if into.send_with_array_buffer(&buffer).is_err() {
                into.close();
            }
            tell();
        });
        channel.set_onopen(Some(opened.as_ref().unchecked_ref()));
        channel.set_onmessage(Some(received.as_ref().unchecked_ref()));
        channel.set_onbufferedamountlow(Some(left.as_ref().unchecked_ref()));
        channel.set_onclose(Some(closed.as_ref().unchecked_ref()));
        port.set_onmessage(Some(sent.as_ref().unchecked_ref()));
        if channel.ready_state() == RtcDataChannelState::Open {
            post(&port, &true.into());
        }
        Self {
            channel,
            port,
            _opened: opened,
            _received: received,
            _left: left,
            _closed: closed,
            _sent: sent,
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.channel.set_onopen(None);
        self.channel.set_onmessage(None);
        self.channel.set_onbufferedamountlow(None);
        self.channel.set_onclose(None);
        self.port.set_onmessage(None);
        self.channel.close();
        self.port.close();
    }
}
