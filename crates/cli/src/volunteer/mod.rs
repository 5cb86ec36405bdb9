//! `potluck volunteer`: the native adapter of [`potluck_volunteer::Engine`]. Sockets, a kernel thread and signals; every
//! decision is the engine's.

#[cfg(feature = "burn")]
mod burn;
#[cfg(not(feature = "burn"))]
#[path = "no_burn.rs"]
mod burn;
mod eval;
mod kernel;
mod key;
mod link;
mod moving;
mod report;
mod train;
mod witness;

pub use key::{create_key, default_path, load_key, load_or_create};
pub use report::{reason_name, state_name};

use crate::args::{NativeBackend, VolunteerArgs};
use crate::client::{base_address, host_and_port};
use crate::error::CliError;
use crate::ledger::known::usual_root;
use crate::ledger::prove::{Witnesses, prove};
use crate::stop::Stop;
use kernel::KernelThread;
use link::{Link, socket_address};
use moving::Moving;
use potluck_mesh::native::{EVENT_QUEUE, NativeLinks, NativeOptions, bind_addresses};
use potluck_mesh::{LinkEvent, Links as _};
use potluck_proto::{Backend, Membership, Preset};
use potluck_types::{Instant as At, VolunteerKey, limits::MAX_CONSENT};
use potluck_volunteer::{Action, Choice, Engine, Event, Options, State, Status, Subject};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use witness::Watching;

/// The version of the text that starting the command agrees to: the one in `potluck volunteer --help`.
const CONSENT_TEXT_VERSION: u16 = 3;
/// Memory for one shard or one part of a round: a step of `small` with two sequences fits.
const MEMORY_BYTES: u64 = 1 << 30;
/// Memory for inputs that may be needed again.
const CACHE_BYTES: u64 = 512 << 20;
/// The same where the machine stays for others' sake: both matrices of a product of 16,384 x 16,384.
const SEED_CACHE_BYTES: u64 = 2 << 30;
/// How often the status is looked at when nothing happens.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// Proofs on their way: a session holds two leases.
const MAX_PROOFS_AT_ONCE: usize = 4;
/// Time for the last frames (a withdrawn lease, the end of links) to leave when the command ends.
const GOODBYE: Duration = Duration::from_millis(200);

/// What a native volunteer lends, and to whom.
#[derive(Debug, Clone)]
pub struct Lending {
    /// The relay's address.
    pub relay: String,
    /// What computes.
    pub choice: Choice,
    /// How much is lent.
    pub preset: Preset,
    /// The volunteer's key.
    pub key: VolunteerKey,
    /// Finish after so many accepted results.
    pub count: Option<u64>,
    /// What is exchanged with other volunteers.
    pub exchange: Exchange,
    /// Whose word is needed, besides the relay's, that something stands in its log.
    pub witnesses: Witnesses,
    /// Folder where logs are remembered. Without one the relay's log is not watched.
    pub remember: Option<PathBuf>,
    /// What others may see of it; `None` leaves it as the relay remembers it.
    pub membership: Option<Membership>,
}

/// What a native volunteer exchanges with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Whether inputs are exchanged at all. Peers see this machine's network address.
    pub peers: bool,
    /// Whether it stays for others' sake.
    pub seed: bool,
    /// Bytes of memory for inputs that may be needed again.
    pub cache_bytes: u64,
    /// Bytes per second that peers may get in all.
    pub upload_bytes_per_s: Option<u64>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self { peers: true, seed: false, cache_bytes: CACHE_BYTES, upload_bytes_per_s: None }
    }
}

/// Lends this machine until it is stopped: the first request to stop finishes the shard at hand, the second stops at
/// once. `on_status` sees every change.
///
/// Must run within a tokio runtime with time and network.
///
/// # Errors
/// The relay refuses this volunteer for good, or no device works.
pub async fn lend(
    lending: &Lending,
    stop: &Stop,
    mut on_status: impl FnMut(&Status),
) -> Result<Status, CliError> {
    let mut adapter = Adapter::start(lending, stop).await?;
    let mut watching = match &lending.remember {
        Some(root) => Some(Watching::start(&lending.relay, root.clone(), &lending.key)?),
        None => None,
    };
    let mut moving = moves(lending, &lending.relay)?;
    adapter.step(Event::Peers(lending.exchange.peers));
    if let Some(membership) = &lending.membership {
        adapter.step(Event::Membership(membership.clone()));
    }
    adapter.begin(lending);
    let mut seen = 0;
    let mut finishing = false;
    loop {
        let status = adapter.engine.status();
        on_status(&status);
        match ended(&status, lending) {
            Some(outcome) => {
                adapter.hang_up().await;
                return outcome.map(|()| status);
            }
            None if status.state == State::ConsentExpired => {
                // Starting the command is the consent, and the command still runs: ask for another day.
                adapter.begin(lending);
                continue;
            }
            None => {}
        }
        if !finishing && lending.count.is_some_and(|count| status.accepted >= count) {
            finishing = true;
            adapter.step(Event::Finish);
            continue;
        }
        let wait = adapter.until_wake();
        tokio::select! {
            biased;
            () = stop.requested(seen + 1) => {
                seen += 1;
                adapter.step(if seen == 1 { Event::Finish } else { Event::Stop });
            }
            error = verdict_of(&mut watching) => {
                adapter.step(Event::Stop);
                adapter.hang_up().await;
                return Err(error);
            }
            url = found_by(&mut moving) => {
                tracing::warn!(url, "another relay leads the log now: going there");
                adapter.go_to(&url)?;
                moving = moves(lending, &url)?;
                if let Some(root) = &lending.remember {
                    watching = Some(Watching::start(&url, root.clone(), &lending.key)?);
                }
            }
            event = adapter.answers.recv() => match event {
                Some(event) => adapter.step(event),
                None => return Err(CliError::Volunteer {
                    message: "the kernel thread ended unexpectedly".into(),
                    hint: "start the command again; with --backend cpu if it happens again".into(),
                }),
            },
            event = next_of(&mut adapter.link) => adapter.step(event),
            Some(event) = adapter.link_events.recv() => adapter.step(Event::Link(event)),
            Some(event) = adapter.proofs.1.recv() => adapter.step(event),
            () = tokio::time::sleep(wait.min(STATUS_INTERVAL)) => adapter.step(Event::Tick),
        }
    }
}

/// Looks for where to go when the relay is gone: only who remembers a log can tell another relay of it from somebody else's.
fn moves(lending: &Lending, relay: &str) -> Result<Option<Moving>, CliError> {
    lending.remember.clone().map(|root| Moving::start(relay, root)).transpose()
}

/// The relay that leads now; never, while that is the one at hand, or nobody looks.
async fn found_by(moving: &mut Option<Moving>) -> String {
    match moving {
        Some(moving) => moving.found().await,
        None => std::future::pending().await,
    }
}

/// Why the relay has to be left; never, while there is no reason or nobody looks.
async fn verdict_of(watching: &mut Option<Watching>) -> CliError {
    match watching {
        Some(watching) => watching.verdict().await,
        None => std::future::pending().await,
    }
}

/// Whether the engine has come to an end, and which.
fn ended(status: &Status, lending: &Lending) -> Option<Result<(), CliError>> {
    let failure =
        |message: String, hint: &str| Some(Err(CliError::Volunteer { message, hint: hint.to_owned() }));
    match status.state {
        State::Stopped => Some(Ok(())),
        State::NoDevice => {
            failure("no device of this machine computes right results".into(), "try --backend cpu")
        }
        State::Refused(code) => failure(
            format!(
                "the relay refuses this volunteer ({code:?}): {}",
                status.refusal.as_deref().unwrap_or("it does not say why")
            ),
            "update potluck if the version is too old; otherwise ask the relay's operator",
        ),
        _ if lending.choice == Choice::Gpu && status.backend == Some(Backend::NativeCpu) => {
            failure("there is no usable GPU".into(), "use --backend auto or --backend cpu")
        }
        _ => None,
    }
}

/// The next event of the connection; never, while there is none.
async fn next_of(link: &mut Option<Link>) -> Event {
    match link {
        Some(link) => link.incoming.recv().await.unwrap_or(Event::Disconnected),
        None => std::future::pending().await,
    }
}

struct Adapter {
    engine: Engine,
    origin: Instant,
    address: String,
    link: Option<Link>,
    links: NativeLinks,
    link_events: mpsc::Receiver<LinkEvent>,
    kernel: KernelThread,
    answers: mpsc::Receiver<Event>,
    /// What came of proofs that were demanded.
    proofs: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    relay: String,
    witnesses: Witnesses,
    stop: Stop,
}

impl Adapter {
    async fn start(lending: &Lending, stop: &Stop) -> Result<Self, CliError> {
        let address = socket_address(&lending.relay)?;
        let relay = host_and_port(&base_address(&lending.relay)?);
        let bind = match &relay {
            Some((host, port)) if lending.exchange.peers => bind_addresses(host, *port).await,
            _ => Vec::new(),
        };
        let relay_host = relay.map(|(host, _)| host).unwrap_or_default();
        let (events, link_events) = mpsc::channel(EVENT_QUEUE);
        let links = NativeLinks::new(NativeOptions { bind }, events);
        let mut jitter = [0; 8];
        // Without chance, the process id still differs between volunteers of one machine.
        if getrandom::fill(&mut jitter).is_err() {
            jitter = u64::from(std::process::id()).to_le_bytes();
        }
        let engine = Engine::new(Options {
            key: lending.key.clone(),
            agent: concat!("potluck/", env!("CARGO_PKG_VERSION"), " native").to_owned(),
            origin: "native".to_owned(),
            text_version: CONSENT_TEXT_VERSION,
            memory_bytes: MEMORY_BYTES,
            cache_bytes: lending.exchange.cache_bytes,
            jitter: u64::from_le_bytes(jitter),
            relay_host,
            upload_bytes_per_s: lending.exchange.upload_bytes_per_s,
            demand_proof: true,
            seed: lending.exchange.seed,
        });
        let (kernel, answers) = KernelThread::start()
            .map_err(|cause| CliError::System { what: "the kernel thread could not be started", cause })?;
        let origin = Instant::now();
        Ok(Self {
            engine,
            origin,
            address,
            link: None,
            links,
            link_events,
            kernel,
            answers,
            proofs: mpsc::channel(MAX_PROOFS_AT_ONCE),
            relay: lending.relay.clone(),
            witnesses: lending.witnesses.clone(),
            stop: stop.clone(),
        })
    }

    /// Talks to another relay from now on. What was under way at the one before is given up.
    fn go_to(&mut self, relay: &str) -> Result<(), CliError> {
        self.address = socket_address(relay)?;
        relay.clone_into(&mut self.relay);
        let host = host_and_port(&base_address(relay)?).map(|(host, _)| host);
        self.step(Event::Moved { relay_host: host.unwrap_or_default() });
        Ok(())
    }

    fn now(&self) -> At {
        At(self.origin.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn begin(&mut self, lending: &Lending) {
        let Lending { choice, preset, .. } = *lending;
        self.step(Event::Start { preset, choice, valid_for: MAX_CONSENT });
    }

    /// Feeds an event to the engine and carries out what it says.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if matches!(event, Event::Disconnected) {
                self.link = None;
            }
            for action in self.engine.step(self.now(), event) {
                match action {
                    Action::Connect => self.link = Some(Link::open(self.address.clone())),
                    Action::Disconnect => self.disconnect(),
                    Action::Send(frame) => {
                        if self.link.as_ref().is_some_and(|link| !link.send(frame)) {
                            tracing::info!("the relay does not read what is sent to it: reconnecting");
                            self.link = None;
                            events.push_back(Event::Disconnected);
                        }
                    }
                    Action::Calibrate(choice) => self.kernel.calibrate(choice),
                    Action::Run(run) => self.kernel.run(run),
                    Action::Link(action) => self.links.carry_out(action),
                    // Memory is enough for a command that stays.
                    Action::Store(..) | Action::Unstore(_) | Action::Fetched(..) => {}
                    Action::Cancel(run) => self.kernel.cancel(run),
                    Action::Prove { subject, relay } => self.prove(subject, relay),
                }
            }
        }
    }

    /// Fetches and checks a proof, on a thread of its own: it may take seconds.
    fn prove(&self, subject: Subject, key: [u8; 32]) {
        let (relay, witnesses, stop) = (self.relay.clone(), self.witnesses.clone(), self.stop.clone());
        let answers = self.proofs.0.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = prove(&relay, &key, subject, &witnesses, &stop);
            // Nobody listens when the command has ended.
            let _ = answers.blocking_send(Event::Proven { subject, outcome });
        });
    }

    /// Closes the connection without waiting for it; frames that are queued still leave.
    fn disconnect(&mut self) {
        if let Some(link) = self.link.take() {
            tokio::spawn(link.close(GOODBYE));
        }
    }

    /// Closes the connection and the links, and waits for that as long as it is worth it.
    async fn hang_up(self) {
        let Self { link, links, mut link_events, .. } = self;
        drop(links);
        let links_gone = tokio::time::timeout(GOODBYE, async { while link_events.recv().await.is_some() {} });
        let link_gone = async {
            if let Some(link) = link {
                link.close(GOODBYE).await;
            }
        };
        // A peer that is not told in time finds out by itself.
        let (_, ()) = tokio::join!(links_gone, link_gone);
    }

    fn until_wake(&self) -> Duration {
        let wake = self.engine.next_wake().map_or(u64::MAX, |at| at.since(self.now()).0);
        Duration::from_millis(wake)
    }
}

/// Runs the command until it is stopped.
///
/// # Errors
/// As [`lend`]; the key cannot be read.
pub async fn run(args: &VolunteerArgs, stop: &Stop) -> Result<(), CliError> {
    let path = match &args.key {
        Some(path) => path.clone(),
        None => default_path()?,
    };
    let choice = match args.backend {
        NativeBackend::Auto => Choice::Auto,
        NativeBackend::Gpu => Choice::Gpu,
        NativeBackend::Cpu => Choice::Cpu,
    };
    let lending = Lending {
        relay: args.relay.relay.clone(),
        choice,
        preset: args.preset.into(),
        key: load_or_create(&path)?,
        count: args.count,
        exchange: Exchange {
            peers: !args.relay_only,
            seed: args.seed,
            cache_bytes: args.cache.unwrap_or(if args.seed { SEED_CACHE_BYTES } else { CACHE_BYTES }),
            upload_bytes_per_s: args.upload,
        },
        witnesses: Witnesses {
            keys: args.witness.clone(),
            quorum: args.witness_quorum.unwrap_or(args.witness.len()),
        },
        remember: Some(args.remember.clone().unwrap_or_else(usual_root)),
        membership: (args.team.is_some() || args.listed || args.unlisted)
            .then(|| Membership { team: args.team.clone().unwrap_or_default(), listed: args.listed }),
    };
    let mut report = report::Report::new(args.json);
    report.consent(&lending, args.preset);
    let outcome = lend(&lending, stop, |status| report.status(status)).await;
    report.end();
    outcome.map(drop)
}
