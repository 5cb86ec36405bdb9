//! A slow uplink: a proxy that passes on what clients send, and paces what the relay answers to all of them together.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Bytes that are paced at once: 7 ms at 20 Mbit/s, so that connections take turns.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of the relay's answers that wait in the system for each connection: what the relay has sent and nobody has got.
const WAITING_BYTES: u32 = 64 << 10;

/// A running proxy; it stops when dropped, its connections when an end closes them.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on a free port of loopback, in front of `relay`.
pub(crate) async fn start(relay: SocketAddr, bytes_per_s: f64) -> Result<Proxy> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port on loopback")?;
    let address = listener.local_addr()?;
    let bucket = Arc::new(Bucket::new(bytes_per_s));
    let task = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let bucket = Arc::clone(&bucket);
            tokio::spawn(async move {
                // An end that goes away is no failure of the proxy: its peer notices.
                drop(pass(client, relay, &bucket).await);
            });
        }
    });
    Ok(Proxy { address, task })
}

async fn pass(mut client: TcpStream, relay: SocketAddr, bucket: &Bucket) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WAITING_BYTES)?;
    let mut relay = socket.connect(relay).await?;
    client.set_nodelay(true)?;
    relay.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_relay, mut to_relay) = relay.split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_relay).await?;
        to_relay.shutdown().await
    };
    let down = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from_relay.read(&mut piece).await?;
            if length == 0 {
                return to_client.shutdown().await;
            }
            let at = bucket.reserve(Instant::now(), length);
            tokio::time::sleep_until(at.into()).await;
            to_client.write_all(&piece[..length]).await?;
        }
    };
    tokio::try_join!(up, down).map(drop)
}

/// A line that sends one piece after the other.
struct Bucket {
    bytes_per_s: f64,
    /// When all that was reserved has been sent; none before the first.
    free: Mutex<Option<Instant>>,
}

impl Bucket {
    fn new(bytes_per_s: f64) -> Self {
        Self { bytes_per_s, free: Mutex::new(None) }
    }

    /// When these bytes have been sent, after all that were reserved before.
    fn reserve(&self, now: Instant, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = free.map_or(now, |free| free.max(now));
        let ends = begins + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        *free = Some(ends);
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_silence_saves_nothing_up() {
        let bucket = Bucket::new(1000.0);
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(bucket.reserve(start, 500), after(0.5));
        assert_eq!(bucket.reserve(start, 1000), after(1.5));
        assert_eq!(bucket.reserve(after(10.0), 100), after(10.1));
    }

    #[tokio::test]
    async fn connections_share_the_line() {
        const BYTES: usize = 100_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut asked = [0; 3];
                    client.read_exact(&mut asked).await.unwrap();
                    assert_eq!(&asked, b"ask");
                    client.write_all(&vec![7; BYTES]).await.unwrap();
                });
            }
        });
        let proxy = start(relay, 1e6).await.unwrap();
        let ask = async || {
            let mut relay = TcpStream::connect(proxy.address).await.unwrap();
            relay.write_all(b"ask").await.unwrap();
            let mut answer = Vec::new();
            relay.read_to_end(&mut answer).await.unwrap();
            assert!(answer.len() == BYTES && answer.iter().all(|byte| *byte == 7));
        };
        let started = Instant::now();
        tokio::join!(ask(), ask());
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    }
}
