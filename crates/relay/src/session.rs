//! One WebSocket of one volunteer: frames in, frames out.

use crate::blobs::Blobs;
use crate::core::{Command, Core, Outgoing, SessionHandle};
use axum::extract::ws::{Message as Frame, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use potluck_proto::{BlobChunk, BlobMissing, DecodeError, Message, decode, encode};
use potluck_schedule::Input;
use potluck_types::SessionId;
use potluck_types::limits::MAX_QUEUED_FRAMES;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// A frame must leave within this time: 256 KiB at 100 kbit/s.
const WRITE_TIMEOUT: Duration = Duration::from_secs(25);

/// Serves a volunteer until either side ends.
pub(crate) async fn serve(socket: WebSocket, session: SessionId, core: Core, blobs: Blobs) {
    let (sink, stream) = socket.split();
    let (outgoing, queue) = mpsc::channel(MAX_QUEUED_FRAMES);
    let cut = Arc::new(Notify::new());
    let handle = SessionHandle { outgoing, cut: Arc::clone(&cut) };
    if core.tell(Command::Open { session, handle }).await.is_err() {
        return;
    }
    let mut writer = tokio::spawn(write(sink, queue, blobs));
    tokio::select! {
        () = read(stream, session, &core) => {}
        () = cut.notified() => {}
        // The machine closed the session, or the peer does not read.
        _ = &mut writer => {}
    }
    writer.abort();
    let _ = core.input(Input::Closed { session }).await;
}

async fn read(mut stream: SplitStream<WebSocket>, session: SessionId, core: &Core) {
    while let Some(Ok(frame)) = stream.next().await {
        let input = match frame {
            Frame::Binary(bytes) => match decode(&bytes) {
                Ok(message) => Input::Message { session, message },
                Err(error) => Input::Undecodable { session, error },
            },
            Frame::Text(_) => Input::Undecodable { session, error: DecodeError::TooShort { bytes: 0 } },
            Frame::Close(_) => return,
            Frame::Ping(_) | Frame::Pong(_) => continue,
        };
        if core.input(input).await.is_err() {
            return;
        }
    }
}

async fn write(mut sink: SplitSink<WebSocket, Frame>, mut queue: mpsc::Receiver<Outgoing>, blobs: Blobs) {
    while let Some(outgoing) = queue.recv().await {
        let message = match outgoing {
            Outgoing::Message(message) => message,
            Outgoing::Chunk(request) => {
                let end = request.offset.saturating_add(u64::from(request.bytes));
                match blobs.get_part(&request.hash, request.offset..end).await {
                    Ok(data) => {
                        BlobChunk { hash: request.hash, offset: request.offset, data: data.into() }.into()
                    }
                    Err(error) => {
                        tracing::error!(%error, "an input cannot be read");
                        Message::from(BlobMissing { hash: request.hash })
                    }
                }
            }
        };
        let frame = match encode(&message) {
            Ok(frame) => Frame::Binary(frame.into()),
            Err(error) => {
                tracing::error!(%error, "a message cannot be sent");
                return;
            }
        };
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = tokio::time::timeout(WRITE_TIMEOUT, sink.close()).await;
}
