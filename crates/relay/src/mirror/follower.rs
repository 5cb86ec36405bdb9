//! Follows a relay until it is not heard any more, then waits for people to say who goes on.

use super::runs::Copier;
use super::source::Source;
use super::{Place, Status, Step};
use crate::blobs::Blobs;
use crate::config::MirrorConfig;
use crate::db::Db;
use crate::log::{FollowError, Log, LogError, copy, now_ms};
use crate::runs::{derive, state_path, write_state};
use potluck_governance::state::Outcome;
use potluck_governance::statement::ProposalKind;
use potluck_governance::{Key, State, entry};
use potluck_ledger::{
    AddCheckpoint, MAX_NOTE_BYTES, MAX_REQUEST_BYTES, SignedCheckpoint, TreeHead, verify_consistency,
};
use potluck_types::BlobHash;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Longest look: the whole of a long log over a slow link.
const LOOK_LIMIT: Duration = Duration::from_mins(30);
/// Proofs of forks that are kept.
const MAX_EVIDENCE: usize = 3;

/// Follows a relay.
#[derive(Debug)]
pub(crate) struct Follower {
    place: Place,
    config: MirrorConfig,
    /// The key that would sign the log.
    own: Key,
    data: PathBuf,
    db: Db,
    log: Log,
    blobs: Blobs,
    source: Source,
    status: Status,
}

/// What a follower works with.
pub(crate) struct Around {
    pub(crate) own: Key,
    pub(crate) data: PathBuf,
    pub(crate) db: Db,
    pub(crate) log: Log,
    pub(crate) blobs: Blobs,
}

/// Why a mirror cannot go on by itself.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the database fails: {0}")]
    Database(#[from] crate::db::DbError),
    #[error("{0}")]
    Copy(String),
}

impl Follower {
    pub(crate) fn new(place: Place, config: MirrorConfig, around: Around) -> Self {
        let Around { own, data, db, log, blobs } = around;
        let (source, status) = (Source::new(&config.of), Status::new(&config.of));
        Self { place, config, own, data, db, log, blobs, source, status }
    }

    /// How it goes, for whoever asks.
    pub(crate) fn status(&self) -> Status {
        self.status.clone()
    }

    /// Follows until a step is written down that the next start makes.
    pub(crate) async fn run(mut self) {
        let mut last_heard = Instant::now();
        // Ends with this.
        let mut copying = JoinSet::new();
        if self.place.step == Step::Following && !self.config.alone {
            copying.spawn(copy_on(self.copier(), self.status.clone(), self.config.every));
        }
        loop {
            let stepped = match self.place.step {
                Step::Following => self.follow(&mut last_heard).await,
                Step::Draft => self.wait_for_people().await,
                Step::Leading => return,
            };
            match stepped {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the mirror's own data cannot be used; it is tried again");
                    self.status.trouble(&error.to_string());
                }
            }
            tokio::time::sleep(self.config.every).await;
        }
    }

    /// One look at the relay. Whether a step was written down.
    async fn follow(&mut self, last_heard: &mut Instant) -> Result<bool, Stuck> {
        let looked = if self.config.alone {
            Err(FollowError::Source(io::Error::other("not listened to any more")))
        } else {
            let late = || {
                FollowError::Source(io::Error::new(io::ErrorKind::TimedOut, "it takes too long to answer"))
            };
            tokio::time::timeout(LOOK_LIMIT, self.look()).await.unwrap_or_else(|_| Err(late()))
        };
        match looked {
            Ok(entries) => {
                *last_heard = Instant::now();
                self.status.heard();
                if entries > 0 {
                    tracing::debug!(entries, "log followed");
                }
                return Ok(false);
            }
            Err(FollowError::Own(error)) => return Err(error.into()),
            Err(error) => {
                if let FollowError::Forked(evidence) = &error {
                    self.keep_evidence(&evidence.to_string())?;
                }
                if error.is_breach() {
                    self.place.breach = true;
                    tracing::error!(%error, of = self.config.of, "the relay does not keep its log as it should");
                } else {
                    tracing::warn!(%error, of = self.config.of, "the relay is not heard");
                }
                self.status.trouble(&error.to_string());
            }
        }
        if !self.config.alone && last_heard.elapsed() < self.config.alone_after {
            return Ok(false);
        }
        if self.log.durable() == 0 {
            return Err(Stuck::Copy(
                "nothing of the log was followed yet: there is nothing to go on with".into(),
            ));
        }
        tracing::warn!(of = self.config.of, "people may say here who goes on with the log");
        let (place, data) = (self.place.clone(), self.data.clone());
        tokio::task::spawn_blocking(move || place.copy_log(&data)).await.map_err(io::Error::other)??;
        self.step(Step::Draft)?;
        Ok(true)
    }

    fn copier(&self) -> Copier {
        Copier {
            rounds: HashMap::new(),
            read: 0,
            source: self.source.clone(),
            db: self.db.clone(),
            log: self.log.clone(),
            blobs: self.blobs.clone(),
            data: self.data.clone(),
        }
    }

    async fn look(&self) -> Result<u64, FollowError> {
        let note = self.source.get("/log/checkpoint", MAX_NOTE_BYTES as u64).await;
        let note = note.map_err(FollowError::Source)?;
        let signer = self.place.signer().map_err(FollowError::Source)?;
        self.log.follow(&signer, &note, &self.source).await
    }

    /// A draft: the relay may come back, or this one may be appointed. Whether a step was written down.
    async fn wait_for_people(&mut self) -> Result<bool, Stuck> {
        let from = self.followed().await?;
        let appointed = self.log.state(|state| state.signer() == Some(self.own)).await?;
        if !appointed {
            if !self.config.alone && !self.place.breach && self.is_back(from).await? {
                tracing::warn!(of = self.config.of, "the relay is back: it is followed again");
                self.step(Step::Following)?;
                return Ok(true);
            }
            if !self.log_succession(from).await? {
                return Ok(false);
            }
        }
        self.take_over().await?;
        self.step(Step::Leading)?;
        Ok(true)
    }

    /// The tree of the relay's last checkpoint that is known here.
    async fn followed(&self) -> Result<TreeHead, Stuck> {
        let found = copy::checkpoint(&self.data.join("log")).await.map_err(Stuck::Copy)?;
        let found = found.ok_or_else(|| Stuck::Copy("the log that was followed is gone".into()))?;
        Ok(found.head())
    }

    /// Whether the relay answers again, and proves that its log goes on from what was followed.
    async fn is_back(&self, from: TreeHead) -> Result<bool, Stuck> {
        let path = format!("/api/v1/log/since/{}", from.size);
        let Ok(answer) = self.source.get(&path, MAX_REQUEST_BYTES as u64).await else { return Ok(false) };
        let Ok(AddCheckpoint { old_size, proof, note }) = AddCheckpoint::parse(&answer) else {
            return Ok(false);
        };
        let signer = self.place.signer()?;
        let signed = SignedCheckpoint::from_note(note, signer.name(), &signer);
        Ok(old_size == from.size
            && signed.is_ok_and(|signed| verify_consistency(&from, &signed.head(), &proof).is_ok()))
    }

    /// Logs that this relay goes on, if people decided it. Whether they did.
    async fn log_succession(&self, from: TreeHead) -> Result<bool, Stuck> {
        let mut batch = self.log.begin().await?;
        let Some(proposal) = decided(batch.state(), self.own) else { return Ok(false) };
        let root = BlobHash(from.root.0);
        batch.add(entry::Succession { proposal, mirror: self.own, from: from.size, root })?;
        batch.commit().await?;
        tracing::warn!(%proposal, "people appointed this relay: it goes on with the log");
        Ok(true)
    }

    /// What leading needs: numbers of starts beyond those of the relay before, and the state of each open run.
    async fn take_over(&self) -> Result<(), Stuck> {
        let last = self.log.state(|state| state.unopened_epochs().map(|(epoch, _)| epoch).max()).await?;
        self.db.raise_incarnation(last.unwrap_or(0)).await?;
        for run in self.db.open_runs().await? {
            let path = state_path(&self.data, run.id, run.round);
            if path.exists() {
                continue;
            }
            match derive::state(&self.db, &self.blobs, &self.data, &run).await {
                Ok(state) => write_state(path, state).await?,
                // It pauses at the next start, with what is missing.
                Err(error) => tracing::error!(run = %run.id, error, "the state of a run cannot be derived"),
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        let place = Place { step, ..self.place.clone() };
        place.write(&self.data)?;
        self.place = place;
        Ok(())
    }

    /// Keeps evidence of a fork, as much as a person would look at.
    fn keep_evidence(&self, evidence: &str) -> io::Result<()> {
        for number in 1..=MAX_EVIDENCE {
            let path = self.data.join(format!("fork-{number}.txt"));
            match std::fs::read(&path) {
                Ok(kept) if kept == evidence.as_bytes() => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {
                    let mut file = tempfile::NamedTempFile::new_in(&self.data)?;
                    io::Write::write_all(&mut file, evidence.as_bytes())?;
                    file.persist(&path)?;
                    tracing::error!(path = %path.display(), "evidence of the fork is kept: POST it to /api/v1/log/forks of any relay");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Copies what the log names, beside following it: what is large must not keep the mirror from looking.
async fn copy_on(mut copier: Copier, status: Status, every: Duration) {
    loop {
        match copier.catch_up().await {
            Ok(0) => {}
            Ok(rounds) => tracing::info!(rounds, "rounds copied"),
            Err(error) => {
                tracing::warn!(%error, "what the log names could not be copied; it is tried again");
                status.trouble(&error.to_string());
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// The proposal by which people decided that the mirror with this key goes on, if they did.
fn decided(state: &State, own: Key) -> Option<BlobHash> {
    let listed = state.mirrors().iter().find(|mirror| mirror.key == own)?.hash();
    let now = now_ms(state);
    let passed = state.proposals().values().find(|proposal| {
        proposal.kind == ProposalKind::Succession
            && proposal.body == listed
            && proposal.applied.is_none()
            && matches!(state.outcome(&proposal.id, now), Some(Outcome::Passed(_)))
    });
    passed.map(|proposal| proposal.id)
}
