//! What the public log costs a relay that accepts as many results a second as it can: small ones, and the least that it cuts.
//!
//! Two relays of this process take turns: one logs the results that it accepts, the other one does not. Their volunteers
//! know every product beforehand, so that nothing but the relay, and the frames to and from it, takes time; a result of several
//! units they put together and hash.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use potluck_proto::{
    Backend, BlobChunk, BlobRef, BlobRequest, Commit, Consent, Hello, Lease, LeaseRequest, Message, Outcome,
    Preset, Task, decode, encode,
};
use potluck_relay::LogConfig;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{TestRelay, wait_until};
use potluck_types::limits::MAX_LEASES_PER_SESSION;
use potluck_types::{BlobHash, ConsentToken, MatmulShape, VolunteerKey};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::clock::process_cpu;
use crate::row::{Goal, Report, Row, median};

/// What the volunteers deliver.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Begins the names of its figures.
    name: &'static str,
    /// Side of a unit. A job's product has eight of them either way.
    unit: usize,
    /// K of a job.
    depth: usize,
    /// Units of a lease at most: as many rows as columns of them.
    units: usize,
    sessions: usize,
    /// Results of one turn.
    turn: u64,
    /// What volunteers say of their speed.
    mflops: u32,
}

/// Half a GFLOP, a third of the least that a relay aims at for one core of a laptop of 30 GFLOP/s (`MIN_SHARD_SECONDS`): results of
/// up to 1 MB, fewer where a job ends.
const USUAL: Load =
    Load { name: "ledger.accept", unit: 256, depth: 1024, units: 4, sessions: 4, turn: 160, mflops: 30_000 };
/// Units that take one core of a laptop about a millisecond: far less than a volunteer is leased.
const SMALL: Load = Load {
    name: "ledger.accept-small",
    unit: 256,
    depth: 256,
    units: 1,
    sessions: 16,
    turn: 1536,
    mflops: 1,
};
/// The least that a relay cuts, and next to no work for the check: the log at its worst.
const LEAST: Load =
    Load { name: "ledger.accept-least", unit: 32, depth: 32, units: 1, sessions: 64, turn: 4096, mflops: 1 };
/// Units of a job either way.
const UNITS: usize = 8;
/// Results of one session that wait for a verdict: all sessions together fill several commits of the relay.
const WINDOW: usize = 8;
const ROUNDS: u64 = 15;
/// After a turn, until what it logged is published: checkpoints come once a second.
const SETTLE: Duration = Duration::from_millis(1500);
/// Longest silence of a relay.
const PATIENCE: Duration = Duration::from_mins(1);
const GOAL: f64 = 0.99;

/// What one turn took.
struct Sample {
    /// Results that were accepted per second.
    rate: f64,
    /// Processor time of this process for each of them, its volunteers' part included, in microseconds.
    cpu_us: f64,
}

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

/// Lets both relays accept results, in turns.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    for load in [USUAL, SMALL, LEAST] {
        compare(report, load)?;
    }
    Ok(())
}

fn compare(report: &mut Report, load: Load) -> Result<()> {
    let runtime = crate::runtime()?;
    let start =
        |unlogged_results| TestRelay::start_with(LogConfig { unlogged_results, ..LogConfig::default() });
    let mut relays = [(start(false), true), (start(true), false)];
    // How their logs begin is published.
    sleep(SETTLE);
    let [mut logged, mut unlogged]: [Vec<Sample>; 2] = Default::default();
    for round in 0..=ROUNDS {
        let products = Arc::new(Products::new(load, round));
        for (relay, logs) in &relays {
            let sample = runtime.block_on(turn(relay, &products, *logs))?;
            // The first round warms both up.
            if round > 0 {
                (if *logs { &mut logged } else { &mut unlogged }).push(sample);
            }
        }
        relays.reverse();
    }

    let each =
        |samples: &[Sample], value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let [on, off] = [&logged, &unlogged].map(|samples| each(samples, |sample| sample.rate));
    let mut ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on / off).collect();
    report.row(
        Row::new(format!("{}.rate", load.name), median(&on), "results/s")
            .against(format!("unlogged {:.0}", median(&off)), median(&ratios))
            .goal(Goal::RatioAtLeast(GOAL)),
    );
    ratios.sort_by(f64::total_cmp);
    let (quarter, half) = (ratios.len() / 4, median(&ratios));
    report.note(&format!(
        "accepted results of up to {} kB: {half:.3} of the rate without the log, half of the rounds from {:.3} to {:.3}; {:.1} us more for each",
        load.units * load.unit * load.unit * 4 / 1024,
        ratios[quarter],
        ratios[ratios.len() - 1 - quarter],
        1e6 / median(&off) * (1.0 / half - 1.0),
    ));

    let [on, off] = [&logged, &unlogged].map(|samples| each(samples, |sample| sample.cpu_us));
    let ratios: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on / off).collect();
    report.row(
        Row::new(format!("{}.cpu", load.name), median(&on), "CPU-us")
            .against(format!("unlogged {:.0}", median(&off)), median(&ratios)),
    );
    let more: Vec<f64> = on.iter().zip(&off).map(|(on, off)| on - off).collect();
    report.row(Row::new(format!("{}.entry-cpu", load.name), median(&more), "CPU-us"));
    Ok(())
}

/// Jobs, and what is known of them.
struct Products {
    load: Load,
    /// A and B.
    files: Vec<[Vec<u8>; 2]>,
    /// Result of one panel of A and one of B transposed.
    units: HashMap<[BlobHash; 2], Vec<u8>>,
}

impl Products {
    /// The jobs of a round: the relay has seen none of their results before.
    fn new(load: Load, round: u64) -> Self {
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
    fn result(&self, lease: &Lease) -> Result<Vec<u8>> {
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
struct Turn {
    products: Arc<Products>,
    accepted: AtomicU64,
    /// When the last result of the turn was accepted.
    ended: watch::Sender<Option<Instant>>,
}

/// A turn of one relay: jobs come in, volunteers join, and from then on results are counted.
async fn turn(relay: &TestRelay, products: &Arc<Products>, logs: bool) -> Result<Sample> {
    let load = products.load;
    let api = &relay.api;
    let entries = || api.get("/api/v1/log").json()["entries"].as_u64().unwrap_or_default();
    let accepted = || api.metric("results_accepted_total");
    let before = (entries(), accepted());
    let jobs: Vec<String> =
        products.files.iter().map(|[a, b]| api.submit(a, b, &json!({ "name": "small" }))).collect();
    let published = |entries_more: u64| entries() == before.0 + entries_more;
    wait_until("the jobs are in the log", PATIENCE, || published(jobs.len() as u64));
    let url = relay.socket();
    let volunteers = try_join_all((0..load.sessions).map(|n| Volunteer::join(&url, n as u8))).await?;

    let (products, ended) = (Arc::clone(products), watch::Sender::new(None));
    let turn = Arc::new(Turn { products, accepted: AtomicU64::new(0), ended });
    let (cpu, started) = (process_cpu()?, Instant::now());
    let at_work: Vec<_> =
        volunteers.into_iter().map(|volunteer| tokio::spawn(volunteer.work(Arc::clone(&turn)))).collect();
    for volunteer in at_work {
        volunteer.await??;
    }
    let ended = (*turn.ended.borrow()).context("the turn did not end")?;

    // What came after the last result is stored, and logged, all the same.
    sleep(SETTLE);
    let cpu = process_cpu()?.saturating_sub(cpu);
    wait_until("nothing is under way", PATIENCE, || {
        ["sessions", "leases", "result_bytes"].iter().all(|figure| api.metric(figure) == 0)
    });
    let count = accepted() - before.1;
    let logged = if logs { count } else { 0 };
    wait_until("the results are in the log", PATIENCE, || published(jobs.len() as u64 + logged));
    for job in jobs {
        api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]);
    }
    ensure!(count >= load.turn, "{count} results were accepted");
    ensure!(api.metric("results_rejected_total") == 0, "a result was rejected");
    let seconds = ended.duration_since(started).as_secs_f64();
    Ok(Sample { rate: load.turn as f64 / seconds, cpu_us: cpu.as_secs_f64() * 1e6 / count as f64 })
}

/// A volunteer that has its results before it is asked for them.
struct Volunteer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    consent: ConsentToken,
}

impl Volunteer {
    /// Says who it is, and consents.
    async fn join(url: &str, name: u8) -> Result<Self> {
        let (socket, _) = connect_async_with_config(url, None, true).await?;
        let mut volunteer = Self { socket, consent: ConsentToken([0; 16]) };
        loop {
            match volunteer.next().await? {
                Message::Challenge(challenge) => {
                    let key = VolunteerKey([name; 32]);
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
    async fn work(mut self, turn: Arc<Turn>) -> Result<()> {
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

    async fn ask(&mut self, load: Load) -> Result<()> {
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

    async fn send(&mut self, message: impl Into<Message>) -> Result<()> {
        Ok(self.socket.send(Frame::binary(encode(&message.into())?)).await?)
    }

    async fn next(&mut self) -> Result<Message> {
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
