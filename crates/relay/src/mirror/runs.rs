//! Training runs of the relay that is followed: their records and blobs, so that a mirror can show them, prove them, and go on
//! with them. Hashes are compared with the log; figures for people (losses in charts, seconds) are taken as they are told.

use super::source::Source;
use crate::blobs::Blobs;
use crate::db::{Db, DbError};
use crate::log::{Log, LogError, RoundEntry};
use crate::names;
use crate::runs::api::{
    ManifestInfo, NewManifest, NewPart, NewRun, RoundInfo, RoundRecord, RunInfo, UpdateRecord,
};
use crate::runs::intake::{dataset_path, parameters_path, tokens_of};
use crate::runs::manifest::Manifest;
use crate::runs::store::{ACCEPTED, DataSetRow, RoundRow, RunRow, RunState, UpdateRow};
use potluck_governance::entry;
use potluck_proto::BlobRef;
use potluck_train::data::MAX_TOKENS;
use potluck_train::gpt::MAX_PARAMETERS;
use potluck_types::limits::{MAX_BLOB_BYTES, MAX_CHECKPOINT_BYTES};
use potluck_types::{BlobHash, JobId};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// Longest answer about a run: a million rounds take two hundred bytes each.
const MAX_RUN_INFO_BYTES: u64 = 256 << 20;
/// Longest record of a round: 256 workers with a task each.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Longest request of a run: a tokenizer is no part of it.
const MAX_REQUEST_BYTES: u64 = 1 << 20;
/// Longest `tokenizer.json`.
const MAX_TOKENIZER_BYTES: u64 = 8 << 20;
/// Longest list of a data set's blocks, and of what is said about it.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// Why something could not be copied. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the database fails: {0}")]
    Database(#[from] DbError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{what}: {cause}")]
    Wrong { what: String, cause: String },
}

pub(super) fn wrong(what: &str, cause: impl std::fmt::Display) -> CopyError {
    CopyError::Wrong { what: what.to_owned(), cause: cause.to_string() }
}

/// What copies runs, and where to.
pub(super) struct Copier {
    /// What the log has of rounds that are not copied yet, and how far it was read.
    pub(super) rounds: HashMap<(JobId, u64), LoggedRound>,
    pub(super) read: u64,
    pub(super) source: Source,
    pub(super) db: Db,
    pub(super) log: Log,
    pub(super) blobs: Blobs,
    pub(super) data: PathBuf,
}

/// A round as the log has it.
#[derive(Default)]
pub(super) struct LoggedRound {
    updates: Vec<entry::UpdateAccepted>,
    closed: Option<entry::Aggregate>,
}

/// A run as the log has it.
struct Logged {
    entry: entry::Run,
    at_ms: u64,
    /// Closed rounds.
    rounds: Vec<u64>,
}

impl Copier {
    /// Copies what the log names and is not here: how many rounds that were. What cannot be copied keeps nothing else from it.
    ///
    /// # Errors
    /// The first that could not be copied.
    pub(super) async fn catch_up(&mut self) -> Result<u64, CopyError> {
        self.read_log().await?;
        let logged = self.log.state(|state| {
            let run = |run: &potluck_governance::state::RunState| Logged {
                entry: run.entry.clone(),
                at_ms: run.at_ms,
                rounds: run.rounds.iter().map(|round| round.round.into()).collect(),
            };
            state.runs().values().map(run).collect::<Vec<_>>()
        });
        let said: Vec<RunInfo> = self.json("/api/v1/runs", MAX_LIST_BYTES).await?;
        let (mut copied, mut failed) = (0, None);
        for logged in logged.await? {
            let id = logged.entry.run.to_string();
            match self.run(&logged, said.iter().find(|info| info.id == id)).await {
                Ok(rounds) => copied += rounds,
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        if let Err(error) = self.candidates().await {
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(copied), Err)
    }

    /// Reads what the log has of rounds beyond what was read.
    async fn read_log(&mut self) -> Result<(), CopyError> {
        let (entries, read) = self.log.rounds_from(self.read).await?;
        for entry in entries {
            match entry {
                RoundEntry::Update(update) => {
                    self.rounds.entry((update.run, update.round)).or_default().updates.push(update);
                }
                RoundEntry::Closed(closed) => {
                    let place = (closed.run, closed.round);
                    self.rounds.entry(place).or_default().closed = Some(closed);
                }
            }
        }
        self.read = read;
        Ok(())
    }

    pub(super) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        most: u64,
    ) -> Result<T, CopyError> {
        let bytes = self.source.get(path, most).await?;
        serde_json::from_slice(&bytes).map_err(|error| wrong(path, error))
    }

    /// A blob that is stored here when this returns.
    pub(super) async fn blob(&self, hash: &BlobHash, most: usize) -> Result<BlobRef, CopyError> {
        if let Some(bytes) = self.blobs.bytes_of(hash).await? {
            return Ok(BlobRef { hash: *hash, bytes });
        }
        let bytes = self.checked(&format!("/api/v1/blobs/{hash}"), hash, most as u64).await?;
        let length = bytes.len() as u64;
        self.blobs.put_durable(hash, bytes.into()).await?;
        Ok(BlobRef { hash: *hash, bytes: length })
    }

    /// Bytes that have a hash.
    async fn checked(&self, path: &str, hash: &BlobHash, most: u64) -> Result<Vec<u8>, CopyError> {
        let bytes = self.source.get(path, most).await?;
        let found = BlobHash::of(&bytes);
        if found == *hash { Ok(bytes) } else { Err(wrong(path, format!("hashes to {found}"))) }
    }

    async fn run(&mut self, logged: &Logged, said: Option<&RunInfo>) -> Result<u64, CopyError> {
        let id = logged.entry.run;
        let known = match self.db.run(&id).await? {
            Some(known) => known,
            None => self.begin(logged).await?,
        };
        // What was copied by an earlier start.
        self.rounds.retain(|(run, round), _| *run != id || *round >= known.round);
        let missing: Vec<u64> = logged.rounds.iter().copied().filter(|round| *round >= known.round).collect();
        let mut copied = 0;
        if !missing.is_empty() {
            let info: RunInfo = self.json(&format!("/api/v1/runs/{id}"), MAX_RUN_INFO_BYTES).await?;
            for round in missing {
                self.round(id, round, &info.history).await?;
                self.rounds.remove(&(id, round));
                copied += 1;
            }
        }
        if let Some(said) = said {
            self.state(&known, logged, said).await?;
        }
        Ok(copied)
    }

    /// Whether it goes on. The log does not say that a run was paused or canceled: its relay does, and that is no reason to let go
    /// of it. It waits here, for whoever may let it go on.
    async fn state(&self, known: &RunRow, logged: &Logged, said: &RunInfo) -> Result<(), CopyError> {
        let all = logged.rounds.last().is_some_and(|last| last + 1 >= known.request.rounds);
        let (state, reason) = match said.state.as_str() {
            "done" if all => (RunState::Done, None),
            "canceled" => (RunState::Paused, Some("the relay that was mirrored had canceled it".to_owned())),
            "paused" => (RunState::Paused, said.reason.clone().or_else(|| Some("it was paused".to_owned()))),
            _ => (RunState::Running, None),
        };
        if (state, &reason) != (known.state, &known.reason) {
            self.db.set_run_state(&known.id, state, reason.as_deref()).await?;
        }
        Ok(())
    }

    /// A run's request, data and beginning.
    async fn begin(&self, logged: &Logged) -> Result<RunRow, CopyError> {
        let entry = &logged.entry;
        let path = format!("/api/v1/runs/{}", entry.run);
        let request = self.checked(&format!("{path}/request"), &entry.request, MAX_REQUEST_BYTES).await?;
        let request: NewRun = serde_json::from_slice(&request).map_err(|error| wrong(&path, error))?;
        let hash = |text: &str| text.parse::<BlobHash>().map_err(|error| wrong(&path, error));
        let tokenizer = request.tokenizer.as_deref().map(hash).transpose()?;
        if let Some(hash) = tokenizer {
            let text = self.checked(&format!("{path}/tokenizer"), &hash, MAX_TOKENIZER_BYTES).await?;
            self.blobs.put_durable(&hash, text.into()).await?;
        }
        if let Some(init) = request.init.as_deref().map(hash).transpose()? {
            let bytes = self.checked(&format!("{path}/start"), &init, 4 * MAX_PARAMETERS as u64).await?;
            let path = parameters_path(&self.data, &init);
            write(path.clone(), bytes).await?;
            self.blobs.share(&self.data, &path).await?;
        }
        self.data_set(hash(&request.train)?).await?;
        self.data_set(hash(&request.validation)?).await?;
        let row = RunRow {
            id: entry.run,
            state: RunState::Running,
            reason: None,
            checkpoint: self.blob(&entry.checkpoint, MAX_CHECKPOINT_BYTES).await?,
            tokenizer,
            round: 0,
            request: NewRun {
                tokenizer: None,
                proposal: entry.proposal.map(|proposal| proposal.to_string()),
                ..request
            },
        };
        self.db.copy_run(&row, logged.at_ms.cast_signed()).await?;
        tracing::info!(run = %row.id, "run copied");
        Ok(row)
    }

    /// A data set, block by block, and what is said about it: the log has a hash of that.
    async fn data_set(&self, id: BlobHash) -> Result<(), CopyError> {
        if self.db.dataset(&id).await?.is_some() {
            return Ok(());
        }
        let path = format!("/api/v1/datasets/{id}");
        let said: ManifestInfo = self.json(&format!("{path}/parts"), MAX_LIST_BYTES).await?;
        let names: Vec<String> = self.json(&format!("{path}/blocks"), MAX_LIST_BYTES).await?;
        let names = names.iter().map(|name| name.parse::<BlobHash>()).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| wrong(&path, error))?;
        let mut tokens = Vec::new();
        for name in &names {
            let reference = self.blob(name, MAX_BLOB_BYTES).await?;
            if tokens.len() as u64 + reference.bytes > 4 * MAX_TOKENS {
                return Err(wrong(&path, "it has more tokens than a data set may have"));
            }
            tokens.extend_from_slice(&self.blobs.get(name).await?);
        }
        let vocabulary = said.vocabulary;
        let cut =
            tokio::task::spawn_blocking(move || tokens_of(&tokens, vocabulary).map(|set| (set, tokens)));
        let (set, tokens) =
            cut.await.map_err(io::Error::other)?.map_err(|error| wrong(&path, error.message))?;
        if BlobHash(set.spec().root()) != id {
            return Err(wrong(&path, "its blocks make another one"));
        }
        let row = DataSetRow { id, vocabulary, tokens: set.spec().tokens };
        if !self.log.state(|state| state.data_sets().contains_key(&id.to_string())).await? {
            return Err(wrong(&path, "the log does not name it"));
        }
        let stated = self.stated(&row, said).await?;
        let path = dataset_path(&self.data, &id);
        write(path.clone(), tokens).await?;
        self.blobs.share(&self.data, &path).await?;
        self.db.add_dataset(&self.log, &row, set.names(), stated).await?;
        Ok(())
    }

    /// What is said about a data set, if the log has it so.
    async fn stated(&self, row: &DataSetRow, said: ManifestInfo) -> Result<Option<Manifest>, CopyError> {
        let part = |part: crate::runs::api::PartInfo| NewPart {
            name: part.name,
            source: part.source,
            license: part.license,
            first: part.first,
            end: part.end,
        };
        let new = NewManifest {
            name: said.name,
            source: said.source,
            license: said.license,
            proposed_by: said.proposed_by,
            parts: said.parts.into_iter().map(part).collect(),
        };
        let Ok(manifest) = Manifest::new(row, new) else { return Ok(None) };
        let logged = self.log.state(|state| {
            manifest.entries().iter().all(|set| {
                state.data_sets().get(&set.id).is_some_and(|logged| logged.manifest == set.manifest)
            })
        });
        Ok(logged.await?.then_some(manifest))
    }

    /// A round's record, as far as the log has it so: everything is compared before a byte is stored.
    async fn round(&self, run: JobId, round: u64, history: &[RoundInfo]) -> Result<(), CopyError> {
        let path = format!("/api/v1/runs/{run}/rounds/{round}");
        let logged = self.rounds.get(&(run, round));
        let closed = logged.and_then(|logged| logged.closed.as_ref());
        let (Some(logged), Some(closed)) = (logged, closed) else {
            return Err(wrong(&path, "the log does not have it"));
        };
        let record: RoundRecord = self.json(&path, MAX_RECORD_BYTES).await?;
        let info = history.iter().find(|info| info.round == round);
        let info = info.ok_or_else(|| wrong(&path, "there are no figures of it yet"))?;
        // What was refused counts for nothing, and is not kept.
        let counted: Vec<UpdateRecord> =
            record.updates.into_iter().filter(|update| update.verdict == ACCEPTED).collect();
        let mut rows = Vec::new();
        for update in &closed.updates {
            let said = logged
                .updates
                .iter()
                .find(|one| one.update == update.update && one.volunteer == update.volunteer);
            let said = said.ok_or_else(|| wrong(&path, "the log does not have an update of it"))?;
            let record = counted.iter().find(|one| {
                one.result == said.update.to_string()
                    && one.worker == said.worker
                    && one.audited == said.audited
            });
            let record = record.ok_or_else(|| wrong(&path, "it lacks an update that the log has"))?;
            let backend = names::parse_backend(&record.backend);
            rows.push(UpdateRow {
                worker: said.worker,
                volunteer: potluck_types::VolunteerId(said.volunteer.0),
                backend: backend.ok_or_else(|| wrong(&path, format!("no backend {}", record.backend)))?,
                weight: update.weight_ppm,
                audited: said.audited,
                verdict: ACCEPTED.to_owned(),
                result: BlobRef { hash: said.update, bytes: 0 },
                task: record.task.to_string(),
            });
        }
        for row in &mut rows {
            row.result = self.blob(&row.result.hash, MAX_CHECKPOINT_BYTES).await?;
        }
        let checkpoint = match &closed.checkpoint {
            Some(hash) => Some(self.blob(hash, MAX_CHECKPOINT_BYTES).await?),
            None => None,
        };
        let row = RoundRow {
            round,
            parameters: closed.parameters,
            next_parameters: closed.next_parameters,
            step: self.blob(&closed.step, MAX_CHECKPOINT_BYTES).await?,
            checkpoint,
            info: info.clone(),
            combined: record.combined,
        };
        self.db.copy_round(&run, &row, &rows).await?;
        Ok(())
    }
}

/// Writes a file that is whole and on disk, or not there.
async fn write(path: PathBuf, bytes: Vec<u8>) -> io::Result<()> {
    let work = tokio::task::spawn_blocking(move || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, &bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(folder)?.sync_all()
    });
    work.await.map_err(io::Error::other)?
}
