//! The public log: what the relay accepts and what people decide, appended in the same transaction as the record itself.
//!
//! `mod.rs` gives each entry its index and asks `governance` whether it may follow; `store.rs` keeps entries until they are
//! published; `publish.rs` writes them into the tree's files and signs checkpoints; `files.rs` is where those lie;
//! `cosign.rs` keeps what witnesses sign below them. `http.rs` serves all of it in the types of `api.rs`, `receipts.rs` with
//! proofs; `effects.rs` appends what the log justifies, `forks.rs` that it was forked; `pages.rs` shows what follows from it;
//! `limits.rs` bounds what one address may ask; `copy.rs` copies a log while it goes on; `follow.rs` takes over a log that another
//! relay signs.
//!
//! Architecture invariant: an entry that stands for a record is durable exactly when the record is.

pub(crate) mod api;
pub(crate) mod copy;
mod cosign;
pub(crate) mod effects;
mod files;
mod follow;
pub(crate) mod forks;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod pages;
mod publish;
pub(crate) mod receipts;
pub(crate) mod records;
pub(crate) mod shown;
mod store;

pub(crate) use files::{CHECKPOINT as CHECKPOINT_FILE, KEY as KEY_FILE, PREDECESSOR as PREDECESSOR_FILE};
pub(crate) use follow::{Fetch, FollowError, RoundEntry};
pub(crate) use publish::{Published, Publisher};

use crate::config::LogConfig;

use crate::api::{ApiError, Cosigned};
use crate::db::{Db, DbError, Writing, wall_ms};
use crate::epochs::{EpochError, Epochs};
use crate::identity::Identity;
use crate::runs::manifest::{Manifest, unstated};
use cosign::{Cosignatures, Who};
use files::Files;
use object_store::ObjectStore;
use potluck_governance::{Body, Constitution, Entry, FormError, Key, Mirror, Refused, Roles, State, entry};
use potluck_ledger::{KeyError, KeyKind, Policy, PolicyError, SignerKey, TreeHead, VerifierKey};
use potluck_types::BlobHash;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use tokio::sync::{Mutex, MutexGuard, Notify, watch};

/// Why something could not be logged. Nothing of its batch was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LogError {
    /// It is not what an entry may be.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The log does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database fails.
    #[error("the database fails: {0}")]
    Database(#[from] DbError),
    /// Files of the log cannot be read or written.
    #[error("the log's files cannot be used: {0}")]
    Files(#[from] io::Error),
    /// What is on disk is not a log that this relay signed.
    #[error(
        "the log in the data folder is damaged: {0}; restore it from a copy, or audit it with `potluck audit`"
    )]
    Damaged(String),
    /// Its name or key cannot be used.
    #[error("the log's name cannot be used: {0}")]
    Key(#[from] KeyError),
    /// People appointed another relay.
    #[error(
        "people decided in the log that {name} at {url} goes on with it: leave this relay off, volunteers are there"
    )]
    Replaced {
        /// What they call it.
        name: String,
        /// Where it is.
        url: String,
    },
    /// This relay does not lead the log.
    #[error("this relay mirrors the log and adds nothing to it; {since}")]
    Mirror {
        /// What may be said, and where.
        since: &'static str,
    },
    /// Its witnesses cannot be used.
    #[error("the log's witnesses cannot be used: {0}")]
    Witnesses(#[from] PolicyError),
}

impl From<EpochError> for LogError {
    fn from(error: EpochError) -> Self {
        match error {
            EpochError::Database(cause) => Self::Database(cause),
            EpochError::File(cause) => Self::Files(cause),
        }
    }
}

/// What a relay may add to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Everything: it signs the log, which a relay with this key began if it was another.
    Leading(Option<VerifierKey>),
    /// Nothing: it follows the relay with this key.
    Following(VerifierKey),
    /// What people sign, after the last checkpoint of the relay with this key: they decide who goes on.
    Draft(VerifierKey),
}

/// The name of a log that its operator has not named.
pub(crate) fn origin(identity: &Identity) -> String {
    format!("potluck/{}", &identity.to_string()[..16])
}

/// The last entry that is durable. The database always has those that were published last.
///
/// # Errors
/// What the database says.
pub(crate) async fn last_entry(db: &Db) -> Result<Option<Vec<u8>>, DbError> {
    store::last(db).await
}

/// Entries below the last checkpoint that is kept with the records; none of a log that is in its folder alone.
///
/// # Errors
/// What the database says.
pub(crate) async fn shared_size(db: &Db) -> Result<Option<u64>, DbError> {
    store::shared_size(db).await
}

/// The log of a relay.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sequencer: Mutex<Sequencer>,
    db: Db,
    files: Files,
    key: SignerKey,
    /// Entries wait to be published.
    written: Notify,
    published: watch::Sender<Published>,
    /// Entries that are durable, for those who wait for one.
    appended: watch::Sender<u64>,
    /// Entries that are durable, for those who must not wait.
    durable: AtomicU64,
    /// The log, its witnesses, and how many of these it takes.
    policy: Policy,
    cosignatures: Mutex<Cosignatures>,
    writing_cosigned: Mutex<()>,
    unlogged_results: bool,
    stage: Stage,
    /// Where the mirrors are that people agreed on, as a policy of pages names places to connect to.
    mirror_addresses: std::sync::RwLock<Arc<str>>,
}

/// Gives entries their order.
#[derive(Debug, Default)]
struct Sequencer {
    state: State,
    /// A batch was given up after the state had taken it in: it is derived again before it is used.
    stale: bool,
}

/// Entries that become durable together, with whatever they stand for. Others wait meanwhile.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    log: &'a Inner,
    sequencer: MutexGuard<'a, Sequencer>,
    rows: Vec<Row>,
    /// A new list of mirrors is among them.
    mirrors: bool,
    settled: bool,
}

/// An entry that waits to be published.
#[derive(Debug, Clone)]
struct Row {
    index: u64,
    text: Vec<u8>,
}

/// Where a log is.
#[derive(Debug)]
pub(crate) struct Places {
    /// Entries that are not published yet.
    pub(crate) db: Db,
    /// Its files.
    pub(crate) folder: PathBuf,
    /// Where other nodes of the relay find them.
    pub(crate) bucket: Option<Arc<dyn ObjectStore>>,
}

impl Log {
    /// Opens the log in a folder, or begins one of this name.
    ///
    /// # Errors
    /// Files that cannot be used, or that are not this relay's.
    pub(crate) async fn open(
        places: Places,
        identity: &Identity,
        origin: &str,
        config: &LogConfig,
        stage: Stage,
    ) -> Result<Self, LogError> {
        let key = SignerKey::from_seed(origin, KeyKind::Ed25519, identity.seed())?;
        let signer = signer(&stage, &key).clone();
        let policy = config.policy(origin, &signer)?;
        let Places { db, folder, bucket } = places;
        let mut files = Files::open(&folder)?;
        // What another relay signs, and a draft, are in the folder alone.
        if let (Stage::Leading(_), Some(bucket)) = (&stage, bucket) {
            files = files.shared(bucket);
        }
        let keys = match &stage {
            Stage::Following(_) | Stage::Leading(None) => vec![&signer],
            // Until its own first checkpoint, the last one is that of the relay before.
            Stage::Draft(before) | Stage::Leading(Some(before)) => vec![&signer, before],
        };
        let published = publish::last(&db, &files, origin, &keys).await?;
        if matches!(stage, Stage::Following(_)) {
            db.forget_beyond(published.head.size).await?;
        }
        let cosignatures = Cosignatures::restore(&files, &policy, &published).await?;
        files.put(files::KEY, format!("{signer}\n").into_bytes()).await?;
        let log = Self(Arc::new(Inner {
            sequencer: Mutex::default(),
            db,
            files,
            key,
            written: Notify::new(),
            published: watch::Sender::new(published),
            appended: watch::Sender::new(0),
            durable: AtomicU64::new(0),
            policy,
            unlogged_results: config.unlogged_results,
            stage,
            mirror_addresses: std::sync::RwLock::new("".into()),
            cosignatures: Mutex::new(cosignatures),
            writing_cosigned: Mutex::default(),
        }));
        let state = log.0.derive().await?;
        let another = state.successions().last().filter(|last| last.mirror.key != Key(identity.public()));
        let replaced = another.map(|last| (last.mirror.name.clone(), last.mirror.url.clone()));
        log.0.durable.store(state.next_index(), Ordering::Relaxed);
        log.0.note_mirrors(&state);
        log.0.sequencer.lock().await.state = state;
        if log.leads() {
            if let Some((name, url)) = replaced {
                return Err(LogError::Replaced { name, url });
            }
            log.begin_if_new(origin).await?;
        }
        Ok(log)
    }

    /// Whether this relay signs the log, and may add to it.
    pub(crate) fn leads(&self) -> bool {
        matches!(self.0.stage, Stage::Leading(_))
    }

    /// Where the mirrors are, as a policy of pages names places to connect to; empty if there is none.
    pub(crate) fn mirror_addresses(&self) -> Arc<str> {
        Arc::clone(&self.0.mirror_addresses.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it may add.
    pub(crate) fn stage(&self) -> &Stage {
        &self.0.stage
    }

    /// The first entry: nobody is in office before an operator names the people.
    async fn begin_if_new(&self, origin: &str) -> Result<(), LogError> {
        let mut batch = self.begin().await?;
        if batch.sequencer.state.next_index() > 0 {
            let known = batch.sequencer.state.origin();
            return if known == origin {
                Ok(())
            } else {
                Err(LogError::Damaged(format!("it is called {known}, and this relay's log {origin}")))
            };
        }
        let constitution = Constitution::default();
        batch.add(entry::Genesis { origin: origin.to_owned(), constitution, roles: Roles::nobody() })?;
        batch.commit().await
    }

    /// Logs what a start of the relay means: secrets of epochs that are over, the commitment to that of this one, and jobs and data sets that were there
    /// before there was a log. Runs follow when they go on.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) async fn catch_up(
        &self,
        incarnation: u32,
        commitment: &[u8; 32],
        epochs: &Epochs,
    ) -> Result<(), LogError> {
        let jobs = self.0.db.all_jobs().await?;
        let sets = self.0.db.all_datasets().await?;
        let mut batch = self.begin().await?;
        let over: Vec<_> = batch.state().unopened_epochs().collect();
        for (incarnation, committed) in over {
            if let Some(secret) = epochs.secret(incarnation, &committed).await? {
                batch.add(entry::EpochOpened { incarnation, secret: BlobHash(secret.0) })?;
            }
        }
        batch.add(entry::EpochCommitted { incarnation, commitment: BlobHash(*commitment) })?;
        for job in &jobs {
            if !batch.state().jobs().contains_key(&job.id) {
                batch.add(records::job(job))?;
            }
        }
        for (row, manifest) in &sets {
            let entries = manifest.as_ref().map_or_else(|| vec![unstated(row)], Manifest::entries);
            for set in entries {
                if !batch.state().data_sets().contains_key(&set.id) {
                    batch.add(set)?;
                }
            }
        }
        batch.commit().await?;
        epochs.forget_files()?;
        Ok(())
    }

    /// Publishes what is logged, until the relay ends.
    pub(crate) fn publish(&self) -> Publisher {
        publish::start(Arc::clone(&self.0))
    }

    /// Begins a batch. It waits for the one before.
    ///
    /// # Errors
    /// The state could not be derived again after a batch was given up.
    pub(crate) async fn begin(&self) -> Result<Batch<'_>, LogError> {
        let mut sequencer = self.0.sequencer.lock().await;
        if sequencer.stale {
            *sequencer = Sequencer { state: self.0.derive().await?, stale: false };
        }
        Ok(Batch { log: &self.0, sequencer, rows: Vec::new(), mirrors: false, settled: false })
    }

    /// Logs one entry for itself.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) async fn append(&self, body: impl Into<Body>) -> Result<u64, LogError> {
        let mut batch = self.begin().await?;
        let index = batch.add(body)?;
        batch.commit().await?;
        Ok(index)
    }

    /// What is published.
    pub(crate) fn published(&self) -> watch::Receiver<Published> {
        self.0.published.subscribe()
    }

    /// Entries that are durable. Does not wait for those that become so.
    pub(crate) fn durable(&self) -> u64 {
        self.0.durable.load(Ordering::Relaxed)
    }

    /// Counts what becomes durable, for those who look at what follows from it.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.0.appended.subscribe()
    }

    /// The last checkpoint with the cosignatures that it has so far.
    ///
    /// # Errors
    /// There is none yet.
    pub(crate) async fn latest_note(&self, now: &Published) -> Result<String, ApiError> {
        let cosignatures = self.0.cosignatures.lock().await;
        // The publisher hands it over before it says that it is published.
        let note = cosignatures.latest().map_or_else(|| now.note.to_string(), ToString::to_string);
        if note.is_empty() { Err(http::missing("the log has no checkpoint yet".into())) } else { Ok(note) }
    }

    /// The last checkpoint that enough witnesses cosigned.
    pub(crate) async fn best_note(&self) -> Option<(TreeHead, String)> {
        self.0.cosignatures.lock().await.best().map(|(head, note)| (head, note.to_string()))
    }

    /// Takes the cosignatures of one witness. The checkpoint is kept if it has enough of them now.
    async fn cosign(&self, size: u64, lines: &str, who: &Who) -> Result<Cosigned, ApiError> {
        let now_s = (wall_ms().max(0) as u64) / 1000;
        let taken = self.0.cosignatures.lock().await.add(size, lines, who, now_s)?;
        if taken.best_changed {
            // Those who read do not wait for a bucket. Whoever writes last writes the best there is by then.
            let _turn = self.0.writing_cosigned.lock().await;
            if let Some((_, note)) = self.best_note().await {
                let written = self.0.files.put(files::COSIGNED, note.into_bytes()).await;
                written.map_err(ApiError::internal)?;
            }
        }
        Ok(Cosigned { cosignatures: taken.cosignatures as u32, quorum_met: taken.quorum_met })
    }

    /// The key that signs checkpoints.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        signer(&self.0.stage, &self.0.key)
    }

    /// Looks at what follows from the log.
    ///
    /// # Errors
    /// See [`Self::begin`].
    pub(crate) async fn state<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, LogError> {
        Ok(look(&self.begin().await?.sequencer.state))
    }
}

impl Inner {
    /// Notes where mirrors are, so that nobody who is shown a page waits for the log.
    fn note_mirrors(&self, state: &State) {
        let address = |mirror: &Mirror| {
            // Sockets have a scheme of their own: http becomes ws, https wss.
            let socket = mirror.url.replacen("http", "ws", 1);
            format!("{} {socket}", mirror.url)
        };
        let all = state.mirrors().iter().map(address).collect::<Vec<_>>().join(" ");
        *self.mirror_addresses.write().unwrap_or_else(PoisonError::into_inner) = all.into();
    }

    /// The state after all that is durable.
    async fn derive(&self) -> Result<State, LogError> {
        let mut state = State::new();
        let head = self.published.borrow().head;
        let mut take = |index: u64, text: &[u8]| {
            let entry = Entry::decode(text).map_err(|error| format!("entry {index}: {error}"))?;
            state.apply(index, &entry).map_err(|error| format!("entry {index}: {error}"))
        };
        let mut index = 0;
        while index < head.size {
            let bundle = potluck_ledger::Bundle::containing(index, head.size);
            let Some(bundle) = bundle else { break };
            let bytes = self.files.read(&bundle.into()).await?;
            let entries =
                bundle.entries(&bytes).map_err(|error| LogError::Damaged(format!("{bundle}: {error}")))?;
            for text in entries {
                take(index, text).map_err(LogError::Damaged)?;
                index += 1;
            }
        }
        loop {
            let rows = self.db.log_rows(index).await?;
            if rows.is_empty() {
                return Ok(state);
            }
            for row in rows {
                take(row.index, &row.text).map_err(LogError::Damaged)?;
                index = row.index + 1;
            }
        }
    }
}

impl Batch<'_> {
    /// Adds an entry, as of now. Its index in the log.
    ///
    /// # Errors
    /// What is no entry, or what the log does not allow. The batch is as it was.
    pub(crate) fn add(&mut self, body: impl Into<Body>) -> Result<u64, LogError> {
        let body = body.into();
        let since = match (&self.log.stage, &body) {
            (Stage::Leading(_), _) | (Stage::Draft(_), Body::Signed(_) | Body::Succession(_)) => None,
            (Stage::Following(_), _) => Some("say it to the relay that leads: GET /api/v1/mirrors names it"),
            (Stage::Draft(_), _) => Some("until a relay is appointed, only signed statements are taken"),
        };
        if let Some(since) = since {
            return Err(LogError::Mirror { since });
        }
        if self.log.unlogged_results && matches!(body, Body::ResultAccepted(_)) {
            return Ok(self.sequencer.state.next_index());
        }
        let state = &mut self.sequencer.state;
        let at_ms = now_ms(state);
        self.mirrors |= matches!(body, Body::NewMirrors(_));
        let entry = Entry::new(at_ms, body);
        let (index, text) = (state.next_index(), entry.encode()?);
        state.apply(index, &entry)?;
        self.rows.push(Row { index, text });
        Ok(index)
    }

    /// Writes the entries into a transaction. When that is committed, say [`Self::settle`].
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn write(&self, tx: &mut Writing) -> Result<(), DbError> {
        store::insert(tx, &self.rows).await
    }

    /// The transaction is committed.
    pub(crate) fn settle(mut self) {
        self.settled = true;
        if self.mirrors {
            self.log.note_mirrors(&self.sequencer.state);
        }
        self.log.durable.store(self.sequencer.state.next_index(), Ordering::Relaxed);
        if !self.rows.is_empty() {
            self.log.written.notify_one();
            self.log.appended.send_modify(|count| *count += 1);
        }
    }

    /// Makes the entries durable by themselves.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn commit(self) -> Result<(), LogError> {
        let mut tx = self.log.db.begin().await?;
        self.write(&mut tx).await?;
        tx.commit().await?;
        self.settle();
        Ok(())
    }

    /// What follows from the log and this batch.
    pub(crate) fn state(&self) -> &State {
        &self.sequencer.state
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.settled && !self.rows.is_empty() {
            self.sequencer.stale = true;
        }
    }
}

/// Whose key is below the checkpoints of this stage.
fn signer<'a>(stage: &'a Stage, own: &'a SignerKey) -> &'a VerifierKey {
    match stage {
        Stage::Following(key) => key,
        Stage::Draft(_) | Stage::Leading(_) => own.verifier(),
    }
}

/// The time of the next entry. The clock may have been set back; the log's time never is.
pub(crate) fn now_ms(state: &State) -> u64 {
    (wall_ms().max(0) as u64).max(state.now_ms())
}
