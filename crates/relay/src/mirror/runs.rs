//! Training runs of the relay that is followed: their records and blobs, so that a mirror can show them, prove them, and go on
//! with them. Hashes are compared with the log; figures for people (losses in charts, seconds) are taken as they are told.

use super::source::Source;
use crate::blobs::Blobs;
use crate::db::{Db, DbError};
use crate::log::{Log, LogError};
use crate::names;
use crate::runs::api::{ManifestInfo, NewManifest, NewPart, NewRun, RoundRecord, RunInfo, UpdateRecord};
use crate::runs::intake::{dataset_path, parameters_path, tokens_of};
use crate::runs::manifest::Manifest;
use crate::runs::store::{DataSetRow, RoundRow, RunRow, RunState, UpdateRow};
use potluck_governance::entry;
use potluck_proto::BlobRef;
use potluck_train::data::MAX_TOKENS;
use potluck_train::gpt::MAX_PARAMETERS;
use potluck_types::limits::{MAX_BLOB_BYTES, MAX_CHECKPOINT_BYTES};
use potluck_types::{BlobHash, JobId};
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

fn wrong(what: &str, cause: impl std::fmt::Display) -> CopyError {
    CopyError::Wrong { what: what.to_owned(), cause: cause.to_string() }
}

/// What copies runs, and where to.
#[derive(Debug, Clone)]
pub(super) struct Copier {
    pub(super) source: Source,
    pub(super) db: Db,
    pub(super) log: Log,
    pub(super) blobs: Blobs,
    pub(super) data: PathBuf,
}

/// A run as the log has it.
struct Logged {
    entry: entry::Run,
    at_ms: u64,
    /// Closed rounds: number and hash of the parameters afterwards.
    rounds: Vec<(u64, BlobHash)>,
}

impl Copier {
    /// Copies what the log names and is not here: how many rounds that were.
    pub(super) async fn catch_up(&self) -> Result<u64, CopyError> {
        let logged = self.log.state(|state| {
            let run = |run: &potluck_governance::state::RunState| Logged {
                entry: run.entry.clone(),
                at_ms: run.at_ms,
                rounds: run.rounds.iter().map(|round| (round.round.into(), round.next_parameters)).collect(),
            };
            state.runs().values().map(run).collect::<Vec<_>>()
        });
        let mut copied = 0;
        for logged in logged.await? {
            copied += self.run(&logged).await?;
        }
        Ok(copied)
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, path: &str, most: u64) -> Result<T, CopyError> {
        let bytes = self.source.get(path, most).await?;
        serde_json::from_slice(&bytes).map_err(|error| wrong(path, error))
    }

    /// A blob that is stored here when this returns.
    async fn blob(&self, hash: &BlobHash, most: usize) -> Result<BlobRef, CopyError> {
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

    async fn run(&self, logged: &Logged) -> Result<u64, CopyError> {
        let id = logged.entry.run;
        let known = match self.db.run(&id).await? {
            Some(known) => known,
            None => self.begin(logged).await?,
        };
        if matches!(known.state, RunState::Done | RunState::Canceled) {
            return Ok(0);
        }
        let missing = logged.rounds.iter().filter(|(round, _)| *round >= known.round);
        let (mut copied, mut info) = (0, None::<RunInfo>);
        for (round, after) in missing {
            if info.is_none() {
                info = Some(self.json(&format!("/api/v1/runs/{id}"), MAX_RUN_INFO_BYTES).await?);
            }
            let history = info.as_ref().map(|info| &info.history[..]).unwrap_or_default();
            self.round(id, *round, after, history).await?;
            copied += 1;
        }
        self.end(&known, logged).await?;
        Ok(copied)
    }

    /// The log does not say that a run was canceled: its relay does. Where it does not answer, the run is one that goes on.
    async fn end(&self, known: &RunRow, logged: &Logged) -> Result<(), CopyError> {
        let id = known.id;
        let all = logged.rounds.last().is_some_and(|(last, _)| last + 1 >= known.request.rounds);
        let info: RunInfo = self.json(&format!("/api/v1/runs/{id}"), MAX_RUN_INFO_BYTES).await?;
        let state = match info.state.as_str() {
            "canceled" => RunState::Canceled,
            "done" if all => RunState::Done,
            _ => return Ok(()),
        };
        self.db.set_run_state(&id, state, info.reason.as_deref()).await?;
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
            write(parameters_path(&self.data, &init), bytes).await?;
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
        let stated = self.stated(&row, said).await?;
        write(dataset_path(&self.data, &id), tokens).await?;
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

    async fn round(
        &self,
        run: JobId,
        round: u64,
        after: &BlobHash,
        history: &[crate::runs::api::RoundInfo],
    ) -> Result<(), CopyError> {
        let path = format!("/api/v1/runs/{run}/rounds/{round}");
        let record: RoundRecord = self.json(&path, MAX_RECORD_BYTES).await?;
        let hash = |text: &str| text.parse::<BlobHash>().map_err(|error| wrong(&path, error));
        if record.round != round || hash(&record.next_parameters_hash)? != *after {
            return Err(wrong(&path, "it leads elsewhere than the log says"));
        }
        let info = history.iter().find(|info| info.round == round);
        let info = info.ok_or_else(|| wrong(&path, "there are no figures of it yet"))?;
        let checkpoint = record.checkpoint.as_deref().map(hash).transpose()?;
        let row = RoundRow {
            round,
            parameters: hash(&record.parameters_hash)?,
            next_parameters: *after,
            step: self.blob(&hash(&record.step)?, MAX_CHECKPOINT_BYTES).await?,
            checkpoint: match checkpoint {
                Some(hash) => Some(self.blob(&hash, MAX_CHECKPOINT_BYTES).await?),
                None => None,
            },
            info: info.clone(),
            combined: record.combined,
        };
        let mut updates = Vec::new();
        for update in record.updates {
            updates.push(self.update(&path, update).await?);
        }
        self.db.copy_round(&run, &row, &updates).await?;
        Ok(())
    }

    async fn update(&self, path: &str, record: UpdateRecord) -> Result<UpdateRow, CopyError> {
        let result = record.result.parse::<BlobHash>().map_err(|error| wrong(path, error))?;
        let backend = names::parse_backend(&record.backend);
        Ok(UpdateRow {
            worker: record.worker,
            volunteer: record.volunteer.parse().map_err(|error| wrong(path, error))?,
            backend: backend.ok_or_else(|| wrong(path, format!("no backend {}", record.backend)))?,
            weight: (record.weight * 1e6).round() as u32,
            audited: record.audited,
            verdict: record.verdict,
            result: self.blob(&result, MAX_CHECKPOINT_BYTES).await?,
            task: record.task.to_string(),
        })
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
