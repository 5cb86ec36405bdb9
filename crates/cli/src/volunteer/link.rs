//! The socket to the relay: frames in and out, each within the protocol's limits.

use crate::error::CliError;
use futures_util::{SinkExt as _, StreamExt as _};
use potluck_types::limits::{MAX_FRAME_BYTES, MAX_QUEUED_FRAMES};
use potluck_volunteer::Event;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Where a volunteer's socket is, below the relay's address.
const SOCKET_PATH: &str = "/api/v1/volunteer";

/// The socket's address for a relay's `http://` or `https://` address.
///
/// # Errors
/// The address is not one.
pub(super) fn socket_address(relay: &str) -> Result<String, CliError> {
    let base = crate::client::base_address(relay)?;
    // `base_address` lets only http and https through; the scheme's tail (s or nothing) stays.
    Ok(format!("ws{}{SOCKET_PATH}", base.trim_start_matches("http")))
}

/// One connection. Dropping it closes the socket.
pub(super) struct Link {
    outgoing: mpsc::Sender<Vec<u8>>,
    pub(super) incoming: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens a connection; the first event is `Connected` or `Disconnected`.
    pub(super) fn open(address: String) -> Self {
        let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(MAX_QUEUED_FRAMES);
        let (events, incoming) = mpsc::channel(MAX_QUEUED_FRAMES);
        let task = tokio::spawn(async move {
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_FRAME_BYTES))
                .max_frame_size(Some(MAX_FRAME_BYTES));
            let connected = tokio_tungstenite::connect_async_with_config(address, Some(config), true).await;
            let (mut sink, mut stream) = match connected {
                Ok((socket, _)) => socket.split(),
                Err(error) => {
                    tracing::info!(%error, "the relay's socket could not be opened");
                    // Nobody listens only if the link was dropped meanwhile.
                    let _ = events.send(Event::Disconnected).await;
                    return;
                }
            };
            let _ = events.send(Event::Connected).await;
            let write = async {
                while let Some(frame) = queue.recv().await {
                    if sink.send(Message::binary(frame)).await.is_err() {
                        return;
                    }
                }
                // The link was dropped: what was queued is out, say goodbye.
                let _ = sink.close().await;
            };
            let read = async {
                while let Some(message) = stream.next().await {
                    let event = match message {
                        Ok(Message::Binary(frame)) => Event::Frame(frame.into()),
                        Ok(Message::Close(_)) => return,
                        Ok(_) => continue,
                        Err(error) => {
                            tracing::info!(%error, "the relay's socket failed");
                            return;
                        }
                    };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = write => {}
                () = read => {}
            }
            let _ = events.send(Event::Disconnected).await;
        });
        Self { outgoing, incoming, task }
    }

    /// Queues a frame. `false` if the relay does not read: the queue is full, or the socket closed.
    pub(super) fn send(&self, frame: Vec<u8>) -> bool {
        self.outgoing.try_send(frame).is_ok()
    }

    /// Sends what is queued, says goodbye, and waits for that up to `limit`.
    pub(super) async fn close(self, limit: std::time::Duration) {
        let Self { outgoing, incoming, task } = self;
        drop((outgoing, incoming));
        let abort = task.abort_handle();
        if tokio::time::timeout(limit, task).await.is_err() {
            abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_follows_the_relay() {
        let address = |relay| socket_address(relay).unwrap();
        assert_eq!(address("http://127.0.0.1:8787/"), "ws://127.0.0.1:8787/api/v1/volunteer");
        assert_eq!(address("https://a.example"), "wss://a.example/api/v1/volunteer");
        assert_eq!(address("a.example:80"), "ws://a.example:80/api/v1/volunteer");
    }
}
