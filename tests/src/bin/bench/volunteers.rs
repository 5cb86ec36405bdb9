//! Volunteers that know every product beforehand, so that nothing but the relay, and the frames to and from it, takes time; a
//! result of several units they put together and hash.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use potluck_proto::{
    Backend, BlobChunk, BlobRef, BlobRequest, Commit, Consent, Hello, Lease, LeaseRequest, Message, Outcome,
    Preset, Task, decode, encode,
};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_types::limits::MAX_LEASES_PER_SESSION;
use potluck_types::{BlobHash, ConsentToken, MatmulShape, VolunteerKey};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Units of a job either way.
const UNITS: usize = 8;
/// Results of one session that wait for a verdict: all sessions together fill several commits of the relay.
const WINDOW: usize = 8;
/// What is read of a socket at once, in bytes.
const READ_BYTES: usize = 4096;
/// Longest silence of a relay.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What the volunteers deliver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Begins the names of its figures.
    pub(crate) name: &'static str,
    /// Side of a unit. A job's product has eight of them either way.
    pub(crate) unit: usize,
    /// K of a job.
    pub(crate) depth: usize,
    /// Units of a lease at most: as many rows as columns of them.
    pub(crate) units: usize,
    /// Sessions.
    pub(crate) sessions: usize,
    /// Results of one turn.
    pub(crate) turn: u64,
    /// What volunteers say of their speed.
    pub(crate) mflops: u32,
}

/// The least that a relay cuts, and next to no work for the check.
pub(crate) const LEAST: Load =
    Load { name: "least", unit: 32, depth: 32, units: 1, sessions: 64, turn: 4096, mflops: 1 };

impl Load {
    const fn side(&self) -> usize {
        UNITS * self.unit
    }

    /// Memory that a square of so many units takes, and no more of them: its panels and its result.
    const fn lease_bytes(&self) -> usize {
        let side = self.units.isqrt() * self.unit;
        4 * (2 * side * self.depth + side * side)
    }

    /// Jobs of one turn. There is work for everybody until its end.
    const fn jobs(&self) -> usize {
        let leases = self.turn as usize + self.sessions * (WINDOW + MAX_LEASES_PER_SESSION);
        (leases * self.units).div_ceil(UNITS * UNITS)
    }
}

/// Jobs, and what is known of them.
pub(crate) struct Products {
    pub(crate) load: Load,
    /// A and B.
    pub(crate) files: Vec<[Vec<u8>; 2]>,
    /// Result of one panel of A and one of B transposed.
    units: HashMap<[BlobHash; 2], Vec<u8>>,
}

impl Products {
    /// The jobs of a round: the relay has seen none of their results before.
    pub(crate) fn new(load: Load, round: u64) -> Self {
        let (side, unit, depth, jobs) = (load.side(), load.unit, load.depth, load.jobs() as u64);
        let shape = MatmulShape { m: side as u32, k: depth as u32, n: side as u32 };
        let mut products = Self { load, files: Vec::new(), units: HashMap::new() };
        for job in 0..jobs {
            let known = LowRank::new(shape, round * jobs + job);
            let bt: Vec<f32> = (0..side * depth).map(|at| known.b[at % depth * side + at / depth]).collect();
            let panels =
                |lines: &[f32]| lines.chunks(unit * depth).map(|lines| BlobHash::of(&bytes(lines))).collect();
            let [a, bt]: [Vec<BlobHash>; 2] = [panels(&known.a), panels(&bt)];
            for (row, a) in a.iter().enumerate() {
                for (col, bt) in bt.iter().enumerate() {
                    let lines = known.c.chunks(side).skip(row * unit).take(unit);
                    let tile: Vec<f32> =
                        lines.flat_map(|line| &line[col * unit..][..unit]).map(|x| *x as f32).collect();
                    products.units.insert([*a, *bt], bytes(&tile));
                }
            }
            products.files.push([f32_file(&[side, depth], &known.a), f32_file(&[depth, side], &known.b)]);
        }
        products
    }

    /// The result of a lease: its units', line by line.
    pub(crate) fn result(&self, lease: &Lease) -> Result<Vec<u8>> {
        let Task::Matmul(task) = &lease.task else { bail!("a lease of something else than a product") };
        let line = 4 * self.load.unit;
        let mut result = Vec::with_capacity(task.rows as usize * task.cols as usize * 4);
        for a in &task.a {
            let units = task.bt.iter().map(|bt| self.units.get(&[a.hash, bt.hash]));
            let units: Vec<_> = units.collect::<Option<_>>().context("a lease of unknown panels")?;
            for at in (0..self.load.unit).map(|row| row * line) {
                units.iter().for_each(|unit| result.extend_from_slice(&unit[at..][..line]));
            }
        }
        Ok(result)
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// What the volunteers of a turn share.
pub(crate) struct Turn {
    products: Arc<Products>,
    accepted: AtomicU64,
    /// When the last result of the turn was accepted.
    ended: watch::Sender<Option<Instant>>,
}

impl Turn {
    pub(crate) fn new(products: &Arc<Products>) -> Self {
        let (products, ended) = (Arc::clone(products), watch::Sender::new(None));
        Self { products, accepted: AtomicU64::new(0), ended }
    }

    /// When the last result was accepted.
    pub(crate) fn ended(&self) -> Option<Instant> {
        *self.ended.borrow()
    }
}

/// A volunteer that has its results before it is asked for them.
pub(crate) struct Volunteer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    consent: ConsentToken,
}

impl Volunteer {
    /// Says who it is, and consents.
    pub(crate) async fn join(url: &str, name: u64) -> Result<Self> {
        // As short as the relay's: reading clears the whole of it.
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES);
        let (socket, _) = connect_async_with_config(url, Some(config), true).await?;
        let mut volunteer = Self { socket, consent: ConsentToken([0; 16]) };
        loop {
            match volunteer.next().await? {
                Message::Challenge(challenge) => {
                    let mut secret = [1; 32];
                    secret[..8].copy_from_slice(&name.to_le_bytes());
                    let key = VolunteerKey(secret);
                    volunteer.send(Hello::answer(&challenge, &key, "bench".to_owned())).await?;
                }
                Message::Welcome(_) => {
                    let valid_for = potluck_types::Duration::from_secs(3600);
                    let consent = Consent {
                        text_version: 1,
                        origin: "native".to_owned(),
                        preset: Preset::Full,
                        valid_for,
                    };
                    volunteer.send(consent).await?;
                }
                Message::ConsentGranted(granted) => {
                    volunteer.consent = granted.token;
                    return Ok(volunteer);
                }
                Message::Refusal(refusal) => bail!("the relay refuses: {}", refusal.message),
                _ => {}
            }
        }
    }

    /// Computes nothing, and delivers one unit after the other until the turn ends.
    pub(crate) async fn work(mut self, turn: Arc<Turn>) -> Result<()> {
        let mut ended = turn.ended.subscribe();
        // Leases that are held or asked for, and results that are judged now.
        let (mut leases, mut judged) = (0, 0);
        let mut results = HashMap::new();
        loop {
            while leases < MAX_LEASES_PER_SESSION && leases + judged < WINDOW {
                self.ask(turn.products.load).await?;
                leases += 1;
            }
            let message = tokio::select! {
                message = self.next() => message?,
                _ = ended.changed() => return Ok(()),
            };
            match message {
                Message::Lease(lease) => {
                    let bytes = turn.products.result(&lease)?;
                    let result = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
                    results.insert(result.hash, bytes);
                    let Lease { lease, fence, .. } = lease;
                    let backend = Backend::NativeCpu;
                    self.send(Commit { lease, fence, result, compute_ms: 1, backend }).await?;
                }
                Message::BlobRequest(BlobRequest { hash, offset, bytes }) => {
                    let result = results.get(&hash).context("a request for an unknown result")?;
                    let data = result[offset as usize..][..bytes as usize].to_vec();
                    // Chunks are asked for in order.
                    if offset + u64::from(bytes) == result.len() as u64 {
                        results.remove(&hash);
                        leases -= 1;
                        judged += 1;
                    }
                    self.send(BlobChunk { hash, offset, data }).await?;
                }
                Message::Verdict(verdict) => {
                    ensure!(verdict.outcome == Outcome::Accepted, "a right result is {:?}", verdict.outcome);
                    judged -= 1;
                    if turn.accepted.fetch_add(1, Ordering::Relaxed) + 1 == turn.products.load.turn {
                        turn.ended.send_replace(Some(Instant::now()));
                    }
                }
                Message::NoWork(no_work) => bail!("a relay with work has none: {:?}", no_work.reason),
                Message::Refusal(refusal) => bail!("the relay refuses: {}", refusal.message),
                _ => {}
            }
        }
    }

    pub(crate) async fn ask(&mut self, load: Load) -> Result<()> {
        let request = LeaseRequest {
            consent: self.consent,
            backend: Backend::NativeCpu,
            mflops: load.mflops,
            memory_bytes: load.lease_bytes() as u64,
            held: Vec::new(),
            kept: Vec::new(),
        };
        self.send(request).await
    }

    pub(crate) async fn send(&mut self, message: impl Into<Message>) -> Result<()> {
        Ok(self.socket.send(Frame::binary(encode(&message.into())?)).await?)
    }

    pub(crate) async fn next(&mut self) -> Result<Message> {
        loop {
            let frame =
                tokio::time::timeout(PATIENCE, self.socket.next()).await.context("the relay is silent")?;
            match frame.context("the relay closed a session")?? {
                Frame::Binary(frame) => return Ok(decode(&frame)?),
                Frame::Close(_) => bail!("the relay closed a session"),
                _ => {}
            }
        }
    }
}
