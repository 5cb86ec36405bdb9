//! What one relay holds, as a process of its own on the machine that makes the load: how the two share its processors is said
//! with each figure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use futures_util::future::{join_all, try_join_all};
use potluck_proto::{Backend, BlobChunk, BlobRef, BlobRequest, Commit, Message, NoWorkReason, Outcome, Ping};
use potluck_tests::bucket::Bucket;
use potluck_tests::postgres::{Postgres, is_installed};
use potluck_tests::{Api, wait_until};
use potluck_types::BlobHash;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::clock::{cpu_of, memory_bytes, process_cpu};
use crate::row::{Goal, Report, Row};
use crate::swarm::Relay;
use crate::volunteers::{LEAST, Load, PATIENCE, Products, Turn, Volunteer};

/// Sessions that do nothing but stay.
const IDLE: [usize; 4] = [100, 1_000, 10_000, 20_000];
/// They are opened so many at a time.
const OPENED_AT_ONCE: usize = 64;
/// A session that has nothing to do says so this often, as volunteers do.
const PING: Duration = Duration::from_secs(20);
/// Idle sessions are watched for so long: each pings once.
const WATCHED: Duration = PING;
const SESSION_BYTES: f64 = 16e3;
const MOST_IDLE: f64 = 20_000.0;
/// Results of one measurement.
const RESULTS: u64 = 10_240;
/// A relay takes 256 jobs at once: so many results are in what is submitted before a measurement, at most.
const MOST_RESULTS: u64 = 11_000;
const RESULTS_PER_SECOND: f64 = 10_000.0;
/// Sessions that deliver one result after the other. Fewer would wait for commits most of the time, and real ones deliver one in two
/// seconds.
const BUSY_SESSIONS: usize = 512;
/// Turns of a store, of which the best counts.
const TURNS: u64 = 3;
/// Half of what it can: so long, so soon.
const PACED: Duration = Duration::from_secs(10);
/// So many that none asks again before its last result is durable: a disk's flush and a half, and that of the log beside it.
const PACED_SESSIONS: usize = 512;
const DISPATCH_MS: f64 = 20.0;
/// A crowd comes within a second, and is served within five.
const CROWD: usize = 1_000;
const CROWD_SECONDS: f64 = 5.0;
/// Idle sessions beside the work: what a result costs should not depend on them.
const BESIDE: [usize; 4] = [0, 100, 1_000, 10_000];

/// What of a relay is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Idle sessions.
    Idle,
    /// Many that join at once.
    Crowd,
    /// Results a second, and how soon leases come at half of that.
    Results,
    /// Results a second with records in a file, in PostgreSQL, and of two nodes that share them.
    Stores,
}

/// Options of the benchmark of a relay.
#[derive(Debug, Args)]
#[group(id = "relay")]
pub(crate) struct Options {
    /// One part of the measurements of a relay only.
    #[arg(long, value_enum, value_name = "NAME")]
    relay_part: Option<Part>,
}

pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let wanted = |part| options.relay_part.is_none_or(|only| only == part);
    let runtime = crate::runtime()?;
    runtime.block_on(async {
        if wanted(Part::Idle) {
            idle(report).await?;
        }
        if wanted(Part::Crowd) {
            crowd(report).await?;
        }
        if wanted(Part::Results) {
            let rate = rates(report).await?;
            latency(report, rate / 2.0).await?;
        }
        if wanted(Part::Stores) {
            stores(report).await?;
        }
        Ok(())
    })
}

/// A relay, and how to talk to it.
struct Target {
    relay: Relay,
    api: Api,
    socket: String,
}

/// Processor time of relay and load, in seconds.
#[derive(Debug, Clone, Copy)]
struct Spent {
    relay: f64,
    load: f64,
}

impl Target {
    fn start() -> Result<Self> {
        Self::of(tokio::task::block_in_place(Relay::start)?)
    }

    fn of(relay: Relay) -> Result<Self> {
        let api = Api::new(&relay.address, &relay.token()?);
        let socket = format!("{}/api/v1/volunteer", relay.address.replacen("http", "ws", 1));
        Ok(Self { relay, api, socket })
    }

    fn resident(&self) -> Result<f64> {
        let bytes = memory_bytes(self.relay.pid(), "VmRSS").context("this system does not tell memory")?;
        Ok(bytes as f64)
    }

    fn spent(&self) -> Result<Spent> {
        let relay = cpu_of(&self.relay.pid().to_string())?.as_secs_f64();
        Ok(Spent { relay, load: process_cpu()?.as_secs_f64() })
    }

    fn since(&self, before: Spent) -> Result<Spent> {
        let now = self.spent()?;
        Ok(Spent { relay: now.relay - before.relay, load: now.load - before.load })
    }

    /// Work for a measurement.
    fn submit(&self, products: &Products) -> Vec<String> {
        let submit = |[a, b]: &[Vec<u8>; 2]| self.api.submit(a, b, &json!({ "name": "load" }));
        tokio::task::block_in_place(|| products.files.iter().map(submit).collect())
    }

    /// Takes back what is left of it.
    fn cancel(&self, jobs: Vec<String>) {
        tokio::task::block_in_place(|| {
            for job in jobs {
                self.api.send("DELETE", &format!("/api/v1/jobs/{job}"), &[], &[]);
            }
        });
    }

    /// As many results as one measurement has, by volunteers that come in at these addresses in turn.
    async fn turn(&self, sockets: &[&str], seed: u64) -> Result<Measured> {
        let load = Load { sessions: BUSY_SESSIONS, turn: RESULTS, ..LEAST };
        let products = Arc::new(Products::new(load, seed));
        let jobs = self.submit(&products);
        let joined =
            (0..load.sessions).map(|name| Volunteer::join(sockets[name % sockets.len()], name as u64));
        let volunteers = try_join_all(joined).await?;
        let turn = Arc::new(Turn::new(&products));
        let (spent, started) = (self.spent()?, Instant::now());
        let at_work: Vec<_> =
            volunteers.into_iter().map(|one| tokio::spawn(one.work(Arc::clone(&turn)))).collect();
        for one in at_work {
            one.await??;
        }
        let ended = turn.ended().context("the turn did not end")?;
        let (seconds, spent) = (ended.duration_since(started).as_secs_f64(), self.since(spent)?);
        tokio::task::block_in_place(|| {
            wait_until("nothing is under way", PATIENCE, || {
                ["leases", "result_bytes"].iter().all(|figure| self.api.metric(figure) == 0)
            });
        });
        self.cancel(jobs);
        Ok(Measured { rate: RESULTS as f64 / seconds, seconds, spent })
    }

    /// Sessions that only stay, numbered from `first`; as many as the relay takes.
    async fn stay(&self, first: usize, count: usize) -> Vec<JoinHandle<()>> {
        let mut held = Vec::with_capacity(count);
        while held.len() < count {
            let at_once = OPENED_AT_ONCE.min(count - held.len());
            let names = first + held.len()..first + held.len() + at_once;
            let joined = join_all(names.map(|name| Volunteer::join(&self.socket, name as u64))).await;
            let all = joined.iter().all(Result::is_ok);
            held.extend(joined.into_iter().flatten().map(|volunteer| tokio::spawn(stay(volunteer))));
            if !all {
                break;
            }
        }
        held
    }
}

/// Pings until the relay hangs up.
async fn stay(mut volunteer: Volunteer) {
    let mut due = interval(PING);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    due.tick().await;
    loop {
        let went_on = tokio::select! {
            _ = due.tick() => volunteer.send(Ping { nonce: 1 }).await.is_ok(),
            message = volunteer.next() => message.is_ok(),
        };
        if !went_on {
            return;
        }
    }
}

/// What came of a measurement.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Results a second.
    rate: f64,
    seconds: f64,
    spent: Spent,
}

fn split(spent: Spent, of: f64) -> String {
    format!("processors: relay {:.0} %, load {:.0} %", 100.0 * spent.relay / of, 100.0 * spent.load / of)
}

/// What idle sessions cost.
async fn idle(report: &mut Report) -> Result<()> {
    let target = Target::start()?;
    let empty = target.resident()?;
    let (mut held, mut known) = (Vec::new(), 0);
    for wanted in IDLE {
        let before = (held.len(), target.resident()?);
        held.extend(target.stay(known, wanted - held.len()).await);
        known = wanted;
        // What opening took is given back.
        sleep(Duration::from_secs(2)).await;
        let count = held.len();
        let (started, spent) = (Instant::now(), target.spent()?);
        sleep(WATCHED).await;
        let spent = target.since(spent)?;
        let each = (target.resident()? - before.1) / (count - before.0).max(1) as f64;
        let name = format!("relay.idle-{wanted}");
        let of = started.elapsed().as_secs_f64();
        report.note(&format!(
            "{count} idle sessions: {:.0} MB resident, {:.0} MB without any; {}",
            target.resident()? / 1e6,
            empty / 1e6,
            split(spent, of)
        ));
        if count < wanted {
            report.note(&format!(
                "the relay or this system takes {count} sessions, not {wanted}: see the limit on open files"
            ));
        }
        report.row(Row::new(format!("{name}.bytes"), each, "bytes").goal(Goal::ValueAtMost(SESSION_BYTES)));
        report.row(Row::new(format!("{name}.cpu"), 1e6 * spent.relay / of / count as f64, "CPU-us/s"));
    }
    let alive = held.iter().filter(|session| !session.is_finished()).count();
    report.row(Row::new("relay.idle-sessions", alive as f64, "sessions").goal(Goal::ValueAtLeast(MOST_IDLE)));
    held.iter().for_each(JoinHandle::abort);
    Ok(())
}

/// Many join within a second; each is served when it has a lease, or the answer that there is none.
async fn crowd(report: &mut Report) -> Result<()> {
    let target = Target::start()?;
    let load = Load { sessions: CROWD, turn: CROWD as u64, ..LEAST };
    target.submit(&Products::new(load, 0));
    let begins = Instant::now();
    let served = join_all((0..CROWD).map(|name| {
        let socket = target.socket.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(1) * name as u32 / CROWD as u32).await;
            let mut volunteer = Volunteer::join(&socket, name as u64).await?;
            volunteer.ask(load).await?;
            loop {
                match volunteer.next().await? {
                    Message::Lease(_) => return Ok(()),
                    Message::NoWork(none) if none.reason == NoWorkReason::Idle => return Ok(()),
                    Message::NoWork(none) => bail!("no work: {:?}", none.reason),
                    Message::Refusal(refusal) => bail!("refused: {}", refusal.message),
                    _ => {}
                }
            }
        })
    }))
    .await;
    let seconds = begins.elapsed().as_secs_f64();
    let mut dropped = 0;
    for one in served {
        if let Err(error) = one? {
            report.note(&format!("somebody of the crowd was not served: {error:#}"));
            dropped += 1;
        }
    }
    report.row(Row::new("relay.crowd.served", seconds, "s").goal(Goal::ValueAtMost(CROWD_SECONDS)));
    report.row(Row::new("relay.crowd.dropped", f64::from(dropped), "tabs").goal(Goal::ValueAtMost(0.0)));
    Ok(())
}

/// Results a second, beside more and more idle sessions. The first is the figure.
async fn rates(report: &mut Report) -> Result<f64> {
    let target = Target::start()?;
    let (mut held, mut first, mut costs) = (Vec::new(), 0.0, Vec::new());
    for (round, beside) in BESIDE.into_iter().enumerate() {
        let joined = target.stay(1_000_000 + held.len(), beside - held.len()).await;
        held.extend(joined);
        ensure!(held.len() == beside, "the relay holds {} idle sessions, not {beside}", held.len());
        let turn = target.turn(&[&target.socket], round as u64).await?;
        let (rate, cost) = (turn.rate, 1e6 * turn.spent.relay / RESULTS as f64);
        report.note(&format!(
            "{rate:.0} results/s beside {beside} idle sessions; {}",
            split(turn.spent, turn.seconds)
        ));
        if round == 0 {
            first = rate;
            report.row(
                Row::new("relay.results", rate, "results/s").goal(Goal::ValueAtLeast(RESULTS_PER_SECOND)),
            );
        }
        report.row(Row::new(format!("relay.result-cpu.beside-{beside}"), cost, "CPU-us"));
        costs.push(cost);
    }
    if let (Some(alone), Some(beside)) = (costs.first(), costs.last()) {
        report.row(
            Row::new("relay.result-cpu", *beside, "CPU-us")
                .against(format!("without idle sessions {alone:.0}"), beside / alone),
        );
    }
    held.iter().for_each(JoinHandle::abort);
    Ok(first)
}

/// Results a second with other stores, each against the one before.
async fn stores(report: &mut Report) -> Result<()> {
    if !is_installed() {
        report.note("PostgreSQL is not installed: stores are not measured");
        return Ok(());
    }
    let file = best(&Target::start()?, &[]).await?;
    said(report, "a file", file);
    let (server, bucket) = tokio::task::block_in_place(|| (Postgres::start(), Bucket::start()));
    let store = || {
        drop(server.database());
        ("POTLUCK_STORE", server.last_url())
    };
    let alone = Relay::start_with("127.0.0.1:0", &[store()], None);
    let alone = best(&Target::of(alone?)?, &[]).await?;
    said(report, "PostgreSQL", alone);
    let of_file = format!("in a file {:.0}", file.rate);
    report.row(
        Row::new("relay.results.postgresql", alone.rate, "results/s")
            .against(of_file, alone.rate / file.rate),
    );
    let shared: Vec<_> = [store(), ("POTLUCK_BLOBS", Bucket::place("bench"))]
        .into_iter()
        .chain(bucket.environment())
        .collect();
    let node = |like: Option<&Relay>| {
        let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let own = ("POTLUCK_NODE", format!("http://{listen}"));
        Relay::start_with(&listen, &[&shared[..], &[own]].concat(), like)
    };
    let leader = Target::of(node(None)?)?;
    let one = best(&leader, &[]).await?;
    said(report, "one node", one);
    let follower = Target::of(node(Some(&leader.relay))?)?;
    let before = cpu_of(&follower.relay.pid().to_string())?;
    let two = best(&leader, &[&follower.socket]).await?;
    let passing = cpu_of(&follower.relay.pid().to_string())?.saturating_sub(before).as_secs_f64();
    said(report, "two nodes, half of the sessions at each", two);
    report.note(&format!(
        "the node that follows took {:.0} CPU-us for each result that passed through it",
        1e6 * passing / (RESULTS as f64 * TURNS as f64 / 2.0)
    ));
    let of_one = format!("one node {:.0}", one.rate);
    report
        .row(Row::new("relay.results.two-nodes", two.rate, "results/s").against(of_one, two.rate / one.rate));
    Ok(())
}

/// The best of a few turns: whatever else the machine did, it did least then.
async fn best(target: &Target, more: &[&str]) -> Result<Measured> {
    let sockets: Vec<&str> = [target.socket.as_str()].into_iter().chain(more.iter().copied()).collect();
    let mut best: Option<Measured> = None;
    for turn in 0..TURNS {
        let measured = target.turn(&sockets, turn).await?;
        if best.is_none_or(|best| measured.rate > best.rate) {
            best = Some(measured);
        }
    }
    best.context("no turn was measured")
}

fn said(report: &mut Report, what: &str, measured: Measured) {
    let cost = 1e6 * measured.spent.relay / RESULTS as f64;
    let split = split(measured.spent, measured.seconds);
    report
        .note(&format!("{what}: {:.0} results/s at {cost:.0} us of the relay each; {split}", measured.rate));
}

/// From a request for work until the lease is here, at a given number of results a second.
async fn latency(report: &mut Report, rate: f64) -> Result<()> {
    let target = Target::start()?;
    let results = ((rate * PACED.as_secs_f64()) as u64).min(MOST_RESULTS);
    let time = Duration::from_secs_f64(results as f64 / rate);
    let load = Load { sessions: PACED_SESSIONS, turn: results, ..LEAST };
    let products = Arc::new(Products::new(load, 0));
    target.submit(&products);
    let period = Duration::from_secs_f64(load.sessions as f64 / rate);
    let joined = (0..load.sessions).map(|name| Volunteer::join(&target.socket, name as u64));
    let volunteers = try_join_all(joined).await?;
    let (spent, started) = (target.spent()?, tokio::time::Instant::now());
    let at_work: Vec<_> = volunteers
        .into_iter()
        .enumerate()
        .map(|(at, one)| {
            let begins = started + period * at as u32 / load.sessions as u32;
            tokio::spawn(paced(one, Arc::clone(&products), begins, [period, time]))
        })
        .collect();
    let mut waits = Vec::new();
    for one in at_work {
        waits.extend(one.await??);
    }
    let (seconds, spent) = (started.elapsed().as_secs_f64(), target.since(spent)?);
    waits.sort_by(f64::total_cmp);
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    report.note(&format!(
        "{:.0} results/s were taken at half load: half of the leases within {:.1} ms, the slowest in {:.1}; {}",
        waits.len() as f64 / seconds,
        at(0.5),
        at(1.0),
        split(spent, seconds)
    ));
    report.row(Row::new("relay.dispatch.p99", at(0.99), "ms").goal(Goal::ValueAtMost(DISPATCH_MS)));
    Ok(())
}

/// Asks for a lease each period and delivers it. What it waited for each, in milliseconds, from when it was to ask.
async fn paced(
    mut volunteer: Volunteer,
    products: Arc<Products>,
    begins: tokio::time::Instant,
    [period, time]: [Duration; 2],
) -> Result<Vec<f64>> {
    let mut waits = Vec::new();
    let mut due = begins;
    while due < begins + time {
        sleep_until(due).await;
        volunteer.ask(products.load).await?;
        let mut result = Vec::new();
        loop {
            match timeout(PATIENCE, volunteer.next()).await.context("the relay is silent")?? {
                Message::Lease(lease) => {
                    waits.push(due.elapsed().as_secs_f64() * 1e3);
                    result = products.result(&lease)?;
                    let claim = BlobRef { hash: BlobHash::of(&result), bytes: result.len() as u64 };
                    let (backend, compute_ms) = (Backend::NativeCpu, 1);
                    let (lease, fence) = (lease.lease, lease.fence);
                    volunteer.send(Commit { lease, fence, result: claim, compute_ms, backend }).await?;
                }
                Message::BlobRequest(BlobRequest { hash, offset, bytes }) => {
                    let data = result[offset as usize..][..bytes as usize].to_vec();
                    volunteer.send(BlobChunk { hash, offset, data }).await?;
                }
                Message::Verdict(verdict) => {
                    ensure!(verdict.outcome == Outcome::Accepted, "a right result is {:?}", verdict.outcome);
                    break;
                }
                Message::NoWork(none) => bail!("a relay with work has none: {:?}", none.reason),
                Message::Refusal(refusal) => bail!("the relay refuses: {}", refusal.message),
                _ => {}
            }
        }
        // Who is late asks at once: waiting counts from when it was to ask.
        due += period;
    }
    Ok(waits)
}
