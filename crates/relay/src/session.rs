//! One WebSocket of one volunteer: frames in, frames out.

use crate::blobs::Blobs;
use crate::core::{Command, Core, Outgoing, SessionHandle};
use axum::extract::ws::{Message as Frame, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use potluck_proto::{
    BlobChunk, BlobMissing, BlobTree, DecodeError, Message, Refusal, RefusalCode, decode, encode,
};
use potluck_schedule::Input;
use potluck_types::SessionId;
use potluck_types::limits::MAX_QUEUED_FRAMES;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// A frame must leave within this time: 256 KiB at 100 kbit/s.
const WRITE_TIMEOUT: Duration = Duration::from_secs(25);

/// Frames that leave in one write, if so many wait.
const WRITTEN_TOGETHER: usize = 8;

/// A refused peer that goes on sending is read, and ignored, for so long: a socket that is closed with bytes unread
/// is reset, and the reason for the refusal would be lost on its way.
const LINGER: Duration = Duration::from_secs(2);

/// A peer that is cut off has this long to take the reason and a farewell.
const GOODBYE: Duration = Duration::from_secs(2);
/// A peer that was too slow may come back after this time.
const SLOW_RETRY: potluck_types::Duration = potluck_types::Duration::from_secs(5);

/// Serves a volunteer until either side ends.
pub(crate) async fn serve(
    socket: WebSocket,
    session: SessionId,
    address: Option<IpAddr>,
    core: Core,
    blobs: Blobs,
) {
    let (sink, mut stream) = socket.split();
    let (outgoing, queue) = mpsc::channel(MAX_QUEUED_FRAMES);
    let cut = Arc::new(Notify::new());
    let handle = SessionHandle { outgoing, cut: Arc::clone(&cut) };
    if core.tell(Command::Open { session, address, handle }).await.is_err() {
        return;
    }
    let mut writer = tokio::spawn(write(sink, queue, blobs, cut));
    let written = tokio::select! {
        () = read(&mut stream, session, &core) => false,
        // The machine closed the session, or the peer does not read.
        _ = &mut writer => true,
    };
    writer.abort();
    let _ = core.input(Input::Closed { session }).await;
    if written {
        let ignore = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = tokio::time::timeout(LINGER, ignore).await;
    }
}

async fn read(stream: &mut SplitStream<WebSocket>, session: SessionId, core: &Core) {
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

/// Sends what is queued until the machine closes the session or cuts it off.
async fn write(
    mut sink: SplitSink<WebSocket, Frame>,
    mut queue: mpsc::Receiver<Outgoing>,
    blobs: Blobs,
    cut: Arc<Notify>,
) {
    let cut_off = tokio::select! {
        biased;
        () = cut.notified() => true,
        sent = forward(&mut sink, &mut queue, &blobs) => {
            if !sent {
                return;
            }
            // A queue that is cut off ends like one of a session that was closed: all that it held may have left in
            // one go, and the reason is still to be told.
            cut.notified().now_or_never().is_some()
        }
    };
    let patience = if cut_off {
        let refusal = Refusal {
            code: RefusalCode::Limit,
            message: "too much waits for you: read faster, or ask for less".into(),
            retry_after: SLOW_RETRY,
        };
        if let Ok(frame) = encode(&refusal.into()) {
            let _ = tokio::time::timeout(GOODBYE, sink.send(Frame::Binary(frame.into()))).await;
        }
        GOODBYE
    } else {
        WRITE_TIMEOUT
    };
    let _ = tokio::time::timeout(patience, sink.close()).await;
}

/// Sends until the queue is closed; `false` if the peer is gone or does not read.
async fn forward(
    sink: &mut SplitSink<WebSocket, Frame>,
    queue: &mut mpsc::Receiver<Outgoing>,
    blobs: &Blobs,
) -> bool {
    while let Some(first) = queue.recv().await {
        // What waits leaves together: one write for a verdict, a request for bytes and a lease.
        let mut waiting = vec![first];
        while waiting.len() < WRITTEN_TOGETHER
            && let Ok(next) = queue.try_recv()
        {
            waiting.push(next);
        }
        for outgoing in waiting {
            // What is ready does not wait for a disk.
            if !matches!(outgoing, Outgoing::Message(_)) && !flush(sink).await {
                return false;
            }
            let frame = match encode(&message_of(outgoing, blobs).await) {
                Ok(frame) => Frame::Binary(frame.into()),
                Err(error) => {
                    tracing::error!(%error, "a message cannot be sent");
                    return false;
                }
            };
            if !matches!(tokio::time::timeout(WRITE_TIMEOUT, sink.feed(frame)).await, Ok(Ok(()))) {
                return false;
            }
        }
        if !flush(sink).await {
            return false;
        }
    }
    true
}

/// Sends what was written; `false` if the peer is gone or does not read.
async fn flush(sink: &mut SplitSink<WebSocket, Frame>) -> bool {
    matches!(tokio::time::timeout(WRITE_TIMEOUT, sink.flush()).await, Ok(Ok(())))
}

/// What is to be sent, with the blob that it is about.
async fn message_of(outgoing: Outgoing, blobs: &Blobs) -> Message {
    match outgoing {
        Outgoing::Message(message) => *message,
        Outgoing::Chunk(request) => {
            let end = request.offset.saturating_add(u64::from(request.bytes));
            match blobs.get_part(&request.hash, request.offset..end).await {
                Ok(data) => {
                    BlobChunk { hash: request.hash, offset: request.offset, data: data.into() }.into()
                }
                Err(error) => {
                    tracing::error!(%error, "an input cannot be read");
                    BlobMissing { hash: request.hash }.into()
                }
            }
        }
        Outgoing::Tree(hash) => match blobs.tree(&hash).await {
            Ok(groups) => BlobTree { hash, groups: groups.to_vec() }.into(),
            Err(error) => {
                tracing::error!(%error, "an input cannot be read");
                BlobMissing { hash }.into()
            }
        },
    }
}
