//! The relay: HTTP API, sockets, store and site around the pure state machine of `potluck-schedule`.
//!
//! Where to look: `core.rs` owns the machine and carries its outputs out; `session.rs` is one volunteer's
//! socket; `identity.rs` keeps the relay's own key; `checks.rs` and `commit.rs` verify and store off the async threads; `http.rs` is the API;
//! `ingest.rs` turns `.npy` files into panels and `assemble.rs` turns tiles into a `.npy`; `runs` holds training runs;
//! `backup` copies and restores a data folder; `upkeep` looks after blobs on disk; `doctor` checks a deployment;
//! `node` makes one relay of several, of which one leads;
//! `mirror` follows another relay, and takes over from it; `embed` is the widget on other sites; `turn` is what volunteers reach each other with; `views` is what the pages about
//! projects, results and the relay show.
//!
//! Architecture invariant: no decision is made here. What to lease, to whom, and what counts is the machine's.
//! Architecture invariant: what the machine hears as stored is on disk.

mod accepted;
pub mod api;
mod assemble;
pub mod backup;
mod blobs;
mod checks;
mod commit;
mod config;
mod core;
mod db;
pub mod doctor;
pub mod embed;
mod epochs;
pub mod evals;
mod files;
mod http;
pub mod identity;
mod ingest;
mod log;
mod metrics;
pub mod mirror;
mod names;
mod node;
pub mod npy;
pub mod runs;
mod session;
mod site;
mod switches;
mod token;
mod turn;
mod upkeep;
mod uploads;
pub mod views;

pub use config::{Config, ConfigError, LogConfig, MirrorConfig};
pub use embed::EmbedConfig;
pub use identity::Identity;
pub use node::{Node, NodeError, NodeUrl, NodeUrlError, Stranger};
pub use turn::{SharedSecret, TurnConfig, TurnConfigError, TurnServerConfig};
pub use upkeep::UpkeepConfig;

use crate::core::{Core, Surroundings};
use blobs::{BlobPlace, Claim};
pub use blobs::{BlobsUrl, BlobsUrlError};
use db::{Db, Records};
pub use db::{MigrateError, StoreUrl, StoreUrlError, WhichStore, migrate_blobs, migrate_records};
use epochs::{Epochs, Salt};
use ingest::Pair;
use potluck_schedule::{Input, Relay as Machine};
use potluck_types::limits::MAX_SESSIONS;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Records of volunteers that are taken over at start: as many as the machine keeps.
const MAX_KNOWN_VOLUNTEERS: usize = 16 * MAX_SESSIONS;
/// A store may take this long to answer at shutdown, each time that it has to.
const STORE_GRACE: std::time::Duration = std::time::Duration::from_secs(15);
/// Open requests may take this long to end at shutdown.
const SHUTDOWN_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("the data folder {path} cannot be used: {cause}")]
    Data {
        /// Which folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The relay's own key cannot be read or made, or its file holds something else.
    #[error(
        "the relay's key in {path} cannot be used: {cause}. Put its copy back, or move the file away: a new key is made \
         then, and to others this is a new relay"
    )]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another relay uses the data folder.
    #[error("another relay uses the data folder {path}")]
    InUse {
        /// Which folder.
        path: PathBuf,
    },
    /// A backup was being restored there, and not all of it is.
    #[error("a backup was being restored into {path}, and that was cut short")]
    HalfRestored {
        /// Which folder.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// The STUN and TURN server cannot listen.
    #[error("cannot serve STUN and TURN on {address}, UDP: {cause}")]
    Turn {
        /// Which address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// The settings of STUN and TURN contradict each other.
    #[error(transparent)]
    TurnSettings(#[from] TurnConfigError),
    /// The database fails.
    #[error("the database fails: {0}")]
    Database(#[from] sqlx::Error),
    /// The place for the blobs cannot be used.
    #[error("the place for blobs {place} cannot be used: {cause}")]
    Blobs {
        /// Which one.
        place: BlobsUrl,
        /// Why.
        cause: io::Error,
    },
    /// The settings name another place for records or blobs than the data folder does.
    #[error(transparent)]
    WhichStore(#[from] WhichStore),
    /// The settings name something as a store that is none.
    #[error(transparent)]
    StoreUrl(#[from] StoreUrlError),
    /// Another relay writes to the store.
    #[error("another relay uses the store {store}")]
    StoreInUse {
        /// Which one.
        store: StoreUrl,
    },
    /// The data folder is a mirror's, and nobody said so.
    #[error("the data folder {path} is that of a mirror of {of}")]
    IsMirror {
        /// Which folder.
        path: PathBuf,
        /// Address of the relay that it mirrors.
        of: String,
    },
    /// Another relay's log cannot be mirrored.
    #[error("the log of {of} cannot be mirrored: {cause}")]
    Mirror {
        /// Its address.
        of: String,
        /// Why.
        cause: io::Error,
    },
    /// This is no node of a relay.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The public log cannot be used.
    #[error("the public log cannot be used: {0}")]
    Log(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// A relay that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the submitter's token lies.
    pub token_path: PathBuf,
    /// Where the admin's token lies.
    pub admin_token_path: PathBuf,
    /// The relay's public key.
    pub identity: [u8; 32],
    core: Core,
    db: Db,
    log: log::Log,
    publisher: Option<log::Publisher>,
    governor: JoinHandle<()>,
    healer: JoinHandle<()>,
    follower: Option<JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<io::Result<()>>,
    /// What answers, of a relay with several nodes.
    front: Option<Arc<node::Front>>,
    turn: Option<turn::Server>,
    /// Held while the relay runs: no second one may use the data.
    _lock: std::fs::File,
}

impl Running {
    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the STUN and TURN server listens, if there is one.
    pub fn turn_address(&self) -> Option<SocketAddr> {
        self.turn.as_ref().map(|turn| turn.address)
    }

    /// Whether the relay leads its log, rather than mirrors another's.
    pub fn leads(&self) -> bool {
        self.log.leads()
    }

    /// Waits until a mirror has written down a step that the next start makes: then shut it down, and start it again with
    /// the same settings. For ever, if it is none.
    pub async fn step_made(&mut self) {
        match &mut self.follower {
            Some(follower) => drop(follower.await),
            None => std::future::pending().await,
        }
    }

    /// Waits until another relay took the store over: this one can write no more. For ever, if its records are in its folder.
    pub fn taken_over(&self) -> impl Future<Output = ()> + use<> {
        let db = self.db.clone();
        async move { db.taken_over().await }
    }

    /// Refuses volunteers politely, stores what is verified, ends.
    pub async fn shut_down(mut self) {
        // Whoever asks from now on is for the next node that leads.
        if let Some(front) = &self.front {
            front.leave();
        }
        self.governor.abort();
        self.healer.abort();
        if let Some(follower) = &self.follower {
            follower.abort();
        }
        // Whatever a store or a bucket that is away keeps waiting is leased, or published, at the next start.
        if tokio::time::timeout(STORE_GRACE, self.core.shut_down()).await.is_err() {
            tracing::warn!("the store is away: what was not durable yet is computed again");
        }
        if let Some(publisher) = self.publisher.take() {
            drop(tokio::time::timeout(STORE_GRACE, publisher.finish()).await);
        }
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        if let Some(turn) = self.turn.take() {
            turn.stop().await;
        }
        drop(tokio::time::timeout(STORE_GRACE, self.db.close()).await);
    }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| StartError::Random)?;
    Ok(bytes)
}

/// Keeps other relays off a data folder, for as long as the file is open.
fn lock_folder(data: &Path) -> Result<std::fs::File, StartError> {
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    if data.join(backup::RESTORING).exists() {
        return Err(StartError::HalfRestored { path: data.to_owned() });
    }
    let lock = std::fs::File::create(data.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse { path: data.to_owned() }),
        Err(std::fs::TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Creates the folders and takes the lock.
fn prepare_folders(data: &Path) -> Result<std::fs::File, StartError> {
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    for folder in ["matrices", "blobs", "datasets", "runs"] {
        std::fs::create_dir_all(data.join(folder)).map_err(failed)?;
    }
    let lock = lock_folder(data)?;
    // Uploads that a crash cut short.
    for folder in ["matrices", "datasets"] {
        for entry in std::fs::read_dir(data.join(folder)).map_err(failed)?.flatten() {
            let path = entry.path();
            let whole = ["npy", "tokens", "f32"];
            if !path.extension().is_some_and(|end| whole.iter().any(|known| end == *known)) {
                std::fs::remove_file(path).map_err(failed)?;
            }
        }
    }
    Ok(lock)
}

/// Starts a relay on a folder of data, and goes on with the jobs that it finds there.
///
/// # Errors
/// A folder, database or address that cannot be used.
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_behind(config, None).await
}

/// As [`start`], of a relay that may have several nodes: of this one the front answers.
///
/// # Errors
/// As [`start`]; what was opened is closed again.
pub(crate) async fn start_behind(
    config: Config,
    node: Option<(&Arc<node::Front>, &db::Leader)>,
) -> Result<Running, StartError> {
    let lock = prepare_folders(&config.data)?;
    // What is where is asked once nobody else can change it.
    let records = Records::of(&config.data, config.store.as_ref())?;
    let room = if node.is_some() { std::time::Duration::ZERO } else { db::ROOM };
    let db = records.open(&config.data, room).await?;
    let started = start_on(config, db.clone(), lock, node).await;
    if started.is_err() {
        // Another node, or another attempt, needs the right to write.
        drop(tokio::time::timeout(STORE_GRACE, db.close()).await);
    }
    started
}

async fn start_on(
    config: Config,
    db: Db,
    lock: std::fs::File,
    node: Option<(&Arc<node::Front>, &db::Leader)>,
) -> Result<Running, StartError> {
    let data = config.data.clone();
    let failed = |cause| StartError::Data { path: data.clone(), cause };
    let blob_place = BlobPlace::of(&data, config.blobs.as_ref())?;
    let token = token::Of::Submitter.prepare(&data).map_err(failed)?;
    let admin_token = token::Of::Admin.prepare(&data).map_err(failed)?;
    let identity = identity::prepare(&data.join(identity::FILE))?;
    let salt = Salt(random()?);
    let secret = salt.secret(&identity);
    let place = place(&config).await?;
    let incarnation = db.next_incarnation(&potluck_verify::commitment(&secret)).await?;
    let claim = Claim { relay: identity.to_string(), start: incarnation, moving: false };
    let blobs = open_blobs(&data, blob_place, &claim).await?;
    tracing::info!(incarnation, identity = %identity, "relay starts");

    let (turn, turn_server) = turn::start(config.turn.as_ref()).await?;
    let own_origin = || config.log.origin.clone().unwrap_or_else(|| log::origin(&identity));
    // What may pass is told apart from what is wrong with the log.
    let log_failed = |error| match error {
        log::LogError::Database(cause) => StartError::Database(cause),
        log::LogError::Files(cause) => unusable(&config, cause),
        error => StartError::Log(error.to_string()),
    };
    let (origin, folder, stage) = match &place {
        Some(place) => {
            (place.origin.clone(), place.folder(&data).map_err(failed)?, place.stage().map_err(failed)?)
        }
        None => (own_origin(), data.join("log"), log::Stage::Leading(None)),
    };
    let places = log::Places { db: db.clone(), folder, bucket: blobs.bucket().cloned() };
    let log = log::Log::open(places, &identity, &origin, &config.log, stage).await.map_err(log_failed)?;
    // Not before bucket and log are known to be this relay's.
    if let Some((_, leader)) = node {
        db.note_leader(leader).await?;
    }
    // Of a mirror nothing is drawn, and its numbers are not the log's.
    if log.leads() {
        db.keep_salt(incarnation, salt).await?;
        let epochs = Epochs { db: db.clone(), identity: identity.clone(), folder: data.join("epochs") };
        log.catch_up(incarnation, &potluck_verify::commitment(&secret), &epochs).await.map_err(log_failed)?;
    }
    // Not before the log has found that these records are its own: of others nothing would be needed. At a first start there is
    // nothing that could be removed.
    if incarnation > 1 {
        let removed = blobs
            .keep_only(&db.needed_blobs().await?, &db)
            .await
            .map_err(|cause| unusable(&config, cause))?
            + db.forget_small_results().await?;
        tracing::info!(removed_blobs = removed, "what nobody needs is removed");
    }
    let publisher = log.publish();
    let embed = embed::Embed::prepare(&config).map_err(failed)?;
    if let Some(path) = embed.kept_loader() {
        blobs.share(&data, &path).await.map_err(|cause| unusable(&config, cause))?;
    }
    let rules = potluck_schedule::Config::new(random()?, incarnation, identity.public());
    let max_sessions = files::room_for_sessions(config.max_sessions.min(MAX_SESSIONS));
    let machine =
        Machine::new(potluck_schedule::Config { embeds: config.embeds.rules(), max_sessions, ..rules });
    let switches = switches::Switchboard::load(&db).await?;
    let board = views::leaders::Board::default();
    let surroundings = Surroundings {
        db: db.clone(),
        log: log.clone(),
        blobs: blobs.clone(),
        secret,
        data: data.clone(),
        turn: turn.clone(),
        switches: switches.clone(),
        board: board.clone(),
    };
    let (core, runs, evals) = core::start(machine, surroundings);
    let _ = core.input(Input::Switched(switches.switches())).await;
    let healer = upkeep::Healer {
        db: db.clone(),
        blobs: blobs.clone(),
        data: data.clone(),
        config: config.upkeep.clone(),
    };
    // A mirror shows what there is, and deals nothing out.
    if log.leads() {
        resume(&core, &db, &blobs, &config.data).await?;
        runs.resume(&core, &config.data).await?;
    }
    let for_governor = (runs.clone(), core.clone());
    let (door, address) = Door::open(node.map(|(front, _)| front), config.listen).await?;
    let (token_path, admin_token_path) = (token::Of::Submitter.path(&data), token::Of::Admin.path(&data));
    let config_data = config.data.clone();
    let follower = place.zip(config.mirror.clone()).filter(|_| !log.leads()).map(|(place, config)| {
        let (own, data) = (potluck_governance::Key(identity.public()), config_data.clone());
        let around = mirror::Around { own, data, db: db.clone(), log: log.clone(), blobs: blobs.clone() };
        mirror::Follower::new(place, config, around)
    });
    let app = http::App {
        core: core.clone(),
        db: db.clone(),
        log: log.clone(),
        mirror: follower.as_ref().map(mirror::Follower::status),
        blobs,
        runs,
        evals,
        turn,
        config,
        token,
        operator: views::operator::Operator {
            token: admin_token,
            started: std::time::Instant::now(),
            store: Arc::default(),
            turning: tokio::sync::Mutex::default(),
        },
        incarnation,
        next_session: AtomicU64::new(1),
        uploads: http::App::upload_slots(),
        ingests: http::App::ingest_slots(),
        rebuilds: http::App::rebuild_slots(),
        samples: runs::sample::Samples::default(),
        limits: log::limits::Limits::new(),
        embed,
        board,
        switches,
    };
    let app = Arc::new(app);
    if log.leads() {
        app.evals.resume(&app).await?;
    }
    // Nothing fails from here on: what goes on by itself begins now.
    let governor = runs::governor::start(for_governor.0, for_governor.1).await;
    let healer = tokio::spawn(healer.run());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = door.serve(http::router(app), &db, stopped);
    Ok(Running {
        address,
        token_path,
        admin_token_path,
        identity: identity.public(),
        core,
        db,
        log,
        publisher: Some(publisher),
        governor,
        healer,
        follower: follower.map(|follower| tokio::spawn(follower.run())),
        stop: Some(stop),
        server,
        front: node.map(|(front, _)| Arc::clone(front)),
        turn: turn_server,
        _lock: lock,
    })
}

/// Which of the two failed that files may be in, the data folder or the bucket.
fn unusable(config: &Config, cause: io::Error) -> StartError {
    match &config.blobs {
        Some(place) if blobs::is_of_bucket(&cause) => StartError::Blobs { place: place.clone(), cause },
        _ => StartError::Data { path: config.data.clone(), cause },
    }
}

/// What a relay is asked through.
enum Door {
    /// A socket of its own.
    Own(TcpListener),
    /// That of its node.
    Front(Arc<node::Front>),
}

impl Door {
    async fn open(
        front: Option<&Arc<node::Front>>,
        listen: SocketAddr,
    ) -> Result<(Self, SocketAddr), StartError> {
        if let Some(front) = front {
            return Ok((Self::Front(Arc::clone(front)), front.address));
        }
        let failed = |cause| StartError::Listen { address: listen, cause };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((Self::Own(listener), address))
    }

    /// Answers until it is told to end.
    fn serve(
        self,
        router: axum::Router,
        db: &Db,
        stopped: oneshot::Receiver<()>,
    ) -> JoinHandle<io::Result<()>> {
        let stopped = async {
            let _ = stopped.await;
        };
        match self {
            Self::Own(listener) => {
                let service = router.into_make_service_with_connect_info::<SocketAddr>();
                let server = axum::serve(listener, service).with_graceful_shutdown(stopped);
                tokio::spawn(server.into_future())
            }
            Self::Front(front) => {
                front.lead(router, db.clone());
                tokio::spawn(async move {
                    stopped.await;
                    front.answered().await;
                    Ok(())
                })
            }
        }
    }
}

/// Opens where the blobs are, and says in the data folder that they are there.
async fn open_blobs(data: &Path, place: BlobPlace, claim: &Claim) -> Result<blobs::Blobs, StartError> {
    let failed = |cause| StartError::Data { path: data.to_owned(), cause };
    let opened = blobs::Blobs::open(&place, claim).await;
    match place {
        BlobPlace::Folder(_) => opened.map_err(failed),
        BlobPlace::Bucket(url) => {
            let opened = opened.map_err(|cause| StartError::Blobs { place: url.clone(), cause })?;
            blobs::mark(data, &url).map_err(failed)?;
            Ok(opened)
        }
    }
}

/// What the relay mirrors, or mirrored until it was appointed.
async fn place(config: &Config) -> Result<Option<mirror::Place>, StartError> {
    let failed = |cause| StartError::Data { path: config.data.clone(), cause };
    let found = mirror::Place::read(&config.data).map_err(failed)?;
    let Some(mirror) = &config.mirror else {
        return match found {
            // It follows nobody, unless it is told whom.
            Some(place) if place.step != mirror::Step::Leading => {
                Err(StartError::IsMirror { path: config.data.clone(), of: place.of })
            }
            found => Ok(found),
        };
    };
    let cannot = |cause| StartError::Mirror { of: mirror.of.clone(), cause };
    let Some(place) = found else {
        let source = mirror::Source::new(&mirror.of);
        let begun = mirror::Place::begin(&config.data, &source, mirror.key.as_deref()).await;
        return begun.map(Some).map_err(cannot);
    };
    if mirror.key.as_ref().is_some_and(|key| *key != place.key) {
        let what = "its log was seen first with another key than the one that is given";
        return Err(cannot(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(Some(place))
}

/// Hands the machine what was there before: volunteers' records, then the jobs that ran.
async fn resume(core: &Core, db: &Db, blobs: &blobs::Blobs, data: &Path) -> Result<(), StartError> {
    for (volunteer, record) in db.volunteers(MAX_KNOWN_VOLUNTEERS).await? {
        // The core was started just now; it is there.
        let _ = core.input(Input::VolunteerKnown { volunteer, record }).await;
    }
    for row in db.running().await? {
        let Ok(grid) = potluck_schedule::Grid::new(row.shape, row.dtype) else { continue };
        let panels = db.panels(&row.id).await?;
        let [a, b] = [row.a, row.b].map(|hash| http::matrix_path(data, &hash));
        for path in [&a, &b] {
            if let Err(error) = blobs.fetch(data, path).await {
                tracing::error!(%error, path = %path.display(), "a matrix cannot be fetched");
            }
        }
        let mut whole = true;
        for panel in panels.iter().flatten() {
            whole &= blobs.has(&panel.hash).await.unwrap_or(false);
        }
        if !whole {
            // Panels are in memory or not synchronized to disk; the matrices are. Equal cuts give equal panels.
            let (into, handle) = (blobs.clone(), tokio::runtime::Handle::current());
            let (transpose_b, dtype) = (row.transpose_b, row.dtype);
            let again = tokio::task::spawn_blocking(move || {
                Pair::open(&a, &b, transpose_b, dtype).and_then(|pair| pair.cut(&into, &handle, transpose_b))
            });
            match again.await {
                Ok(Ok(again)) if again.panels == panels => blobs.hold(row.id, again.held),
                other => {
                    tracing::error!(job = %row.id, ?other, "the inputs of a job are gone; it waits");
                    continue;
                }
            }
        }
        let accepted = db.accepted(&row.id).await?;
        tracing::info!(job = %row.id, accepted_tiles = accepted.len(), "job goes on");
        let _ = core.input(Input::JobAdded { job: row.spec(grid, panels), accepted }).await;
    }
    Ok(())
}
