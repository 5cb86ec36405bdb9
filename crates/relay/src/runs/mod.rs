//! Training runs: what the machine asks for is carried out here, off the async threads.
//!
//! `intake.rs` takes data sets, parameters and runs in, and finds runs again after a restart; `http.rs` is their part of
//! the API, in the types of `api.rs`; `allowed.rs` asks the log whether it takes a run; `sample.rs` shows what a model writes; `store.rs` has the records, `manifest.rs` what is said about data sets, `derive.rs` what its rounds derive from. `governor.rs`
//! carries the log's pauses to the machine. What a round's tasks are, which updates are wrong and
//! how the others are combined is decided in `potluck-rounds`, when rounds begin and end in `potluck-schedule`.
//!
//! Architecture invariant: the machine hears that a round is stored when its blobs, the state that follows and its
//! record are on disk, in this order: a relay that is killed finds the last closed round whole.

mod allowed;
pub mod api;
pub(crate) mod derive;
pub(crate) mod governor;
pub(crate) mod http;
pub(crate) mod intake;
pub(crate) mod manifest;
pub(crate) mod parameters;
pub(crate) mod rebuild;
pub(crate) mod sample;
pub(crate) mod store;

use crate::blobs::Blobs;
use crate::core::{Command, Surroundings};
use crate::db::Db;
use crate::embed::store::by_site;
use crate::log::{Log, LogError};
use crate::switches::Switchboard;
use api::RoundInfo;
pub use intake::{RunStart, run_start};
use potluck_governance::Refused;
pub use potluck_model::tokenizer;
use potluck_proto::{BlobRef, RejectReason};
use potluck_rounds::{AuditError, Auditor, Closed, Fault, Host, Submitted, named};
use potluck_schedule::{AcceptedUpdate, CheckUpdate, Input, PauseReason, RunInput, RunOutput, UpdateVerdict};
use potluck_types::{BlobHash, JobId};
use potluck_verify::ReplayError;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use store::{ACCEPTED, RoundRow, RunState, UpdateRow};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

/// The runs of a relay. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Runs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    log: Log,
    blobs: Blobs,
    /// The relay's data folder, where the states of runs are.
    data: PathBuf,
    /// What windows of the gate are drawn from.
    secret: [u8; 32],
    commands: mpsc::WeakSender<Command>,
    changed: watch::Sender<u64>,
    /// Checks at once.
    cores: Semaphore,
    open: Mutex<HashMap<JobId, Arc<Mutex<Open>>>>,
    /// Runs that a pause of the log stopped, or the operator.
    stopped: Mutex<BTreeSet<JobId>>,
    /// What the operator switched off.
    switches: Switchboard,
    /// A run may be paused without the machine's knowing.
    look_again: Notify,
}

/// A run that goes on.
#[derive(Debug)]
struct Open {
    host: Host,
    /// For the round under way.
    auditor: Auditor,
    /// When the round was prepared.
    begun: Instant,
    /// Updates of the round that were refused.
    refused: Vec<UpdateRow>,
    /// Tokens that one worker trains on in a round.
    worker_tokens: u64,
}

impl Open {
    fn new(host: Host, worker_tokens: u64) -> Self {
        let auditor = Auditor::new(&host);
        Self { host, auditor, begun: Instant::now(), refused: Vec::new(), worker_tokens }
    }
}

/// The maps are whole between any two statements, and a host changes only in `commit`, which does not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of the updates that a round was to be closed with.
enum Weighed {
    /// Some had to be replayed first: the machine decides again.
    Reviewed { confirmed: Vec<u32>, refuted: Vec<(AcceptedUpdate, Fault)> },
    /// The round can be closed.
    Closed(Box<Closed>),
}

/// Why a round is not durable.
enum Unstored {
    /// The log pauses the run.
    Paused,
    /// Something fails.
    Failed(Failure),
}

/// Why a round could not be prepared or closed, for people.
type Failure = String;

impl Runs {
    pub(crate) fn new(
        around: &Surroundings,
        secret: [u8; 32],
        commands: mpsc::WeakSender<Command>,
        changed: watch::Sender<u64>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = Semaphore::new(cores);
        Self(Arc::new(Inner {
            db: around.db.clone(),
            log: around.log.clone(),
            blobs: around.blobs.clone(),
            data: around.data.clone(),
            secret,
            commands,
            changed,
            cores,
            open: Mutex::default(),
            stopped: Mutex::default(),
            switches: around.switches.clone(),
            look_again: Notify::new(),
        }))
    }

    /// Starts what the machine asks for. How much of it waits is bounded by the machine's limits on runs and on
    /// updates in memory.
    pub(crate) fn carry_out(&self, output: RunOutput) {
        let this = self.clone();
        match output {
            RunOutput::PrepareRound { run, round, workers } => {
                tokio::spawn(async move { this.prepare(run, round, workers).await });
            }
            RunOutput::TryTask { run, round, worker } => {
                tokio::spawn(async move { this.try_task(run, round, worker).await });
            }
            RunOutput::CheckUpdate(check) => {
                tokio::spawn(async move {
                    let ticket = check.ticket;
                    let verdict = this.check(check).await;
                    this.tell(RunInput::Checked { ticket, verdict }).await;
                });
            }
            RunOutput::CloseRound { run, round, updates } => {
                tokio::spawn(async move { this.close(run, round, updates).await });
            }
            RunOutput::Paused { run, reason } => {
                let text = match reason {
                    // Recorded by whoever asked: the submitter in the run's record, people in the log.
                    PauseReason::Asked => return self.changed(),
                    PauseReason::Failed(reason) => reason,
                    PauseReason::WrongTasks => "the tasks of a round were not the run's".to_owned(),
                    other => format!("{other:?}"),
                };
                tracing::warn!(%run, reason = text, "run pauses");
                let this = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = this.0.db.pause_run(&run, &text).await {
                        tracing::error!(%error, %run, "the pause of a run could not be recorded");
                    }
                    this.changed();
                });
            }
            RunOutput::Completed { run } => {
                tracing::info!(%run, "run done");
                self.forget(&run);
                self.end(run, RunState::Done, None);
            }
            // Whether it can be held was asked before it was added.
            RunOutput::Refused { run, error } => {
                self.forget(&run);
                self.end(run, RunState::Canceled, Some(error.to_string()));
            }
        }
    }

    fn end(&self, run: JobId, state: RunState, reason: Option<String>) {
        let this = self.clone();
        tokio::spawn(async move {
            // If this fails at the end of a run, it ends again after the next start: its rounds are durable.
            if let Err(error) = this.0.db.set_run_state(&run, state, reason.as_deref()).await {
                tracing::error!(%error, %run, "the state of a run could not be recorded");
            }
            this.changed();
        });
    }

    fn changed(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Runs that are held.
    fn open_ids(&self) -> Vec<JobId> {
        lock(&self.0.open).keys().copied().collect()
    }

    /// A pause of the log stopped a run.
    fn stop(&self, run: JobId) {
        lock(&self.0.stopped).insert(run);
    }

    fn stopped(&self) -> Vec<JobId> {
        lock(&self.0.stopped).iter().copied().collect()
    }

    fn release(&self, run: &JobId) {
        lock(&self.0.stopped).remove(run);
    }

    /// Looks again whether the log pauses a run that just began, or goes on.
    pub(crate) fn look_again(&self) {
        self.0.look_again.notify_one();
    }

    fn open(&self, run: &JobId) -> Option<Arc<Mutex<Open>>> {
        lock(&self.0.open).get(run).cloned()
    }

    /// A run ended: its memory is let go. Its records and blobs stay.
    pub(crate) fn forget(&self, run: &JobId) {
        lock(&self.0.open).remove(run);
        self.release(run);
        self.0.blobs.unwatch(run);
    }

    async fn tell(&self, input: RunInput) {
        // While the relay shuts down nobody listens; what is durable is found again at the next start.
        if let Some(commands) = self.0.commands.upgrade() {
            let _ = commands.send(Command::Input(Input::Run(input))).await;
        }
    }

    async fn prepare(&self, run: JobId, round: u64, workers: u32) {
        let Some(open) = self.open(&run) else { return };
        let tasks = blocking(move || {
            let mut open = lock(&open);
            if open.host.round() != round {
                return Err(format!("round {round} was asked for, and the run is at {}", open.host.round()));
            }
            open.auditor = Auditor::new(&open.host);
            open.begun = Instant::now();
            open.refused.clear();
            open.host.tasks(workers).map_err(|error| error.to_string())
        });
        let input = match tasks.await {
            Ok(tasks) => {
                let inputs = tasks.iter().flat_map(|task| {
                    let blocks = task.blocks.iter().map(|block| &block.blob);
                    [&task.checkpoint].into_iter().chain(&task.outer_steps).chain(blocks)
                });
                self.0.blobs.watch(run, inputs.map(|blob| blob.hash).collect());
                RunInput::Ready { run, round, tasks }
            }
            Err(reason) => RunInput::Failed { run, round, reason },
        };
        self.tell(input).await;
    }

    /// Takes a worker's steps, to see whether anybody could.
    async fn try_task(&self, run: JobId, round: u64, worker: u32) {
        let (Some(open), Ok(_core)) = (self.open(&run), self.0.cores.acquire().await) else { return };
        let tried = blocking(move || {
            let (auditor, tasks) = {
                let open = lock(&open);
                if open.host.round() != round {
                    return Ok(());
                }
                (open.auditor.clone(), open.host.tasks(worker + 1).map_err(|error| error.to_string())?)
            };
            tasks.last().map_or(Ok(()), |task| auditor.attempt(task).map_err(|error| error.to_string()))
        });
        if let Err(error) = tried.await {
            let reason = format!("a task of round {round} cannot be done: {error}");
            self.tell(RunInput::Failed { run, round, reason }).await;
        }
    }

    /// Checks an update, replays it if that was drawn, and keeps what is wrong with it.
    async fn check(&self, check: CheckUpdate) -> UpdateVerdict {
        let (Some(open), Ok(_core)) = (self.open(&check.run), self.0.cores.acquire().await) else {
            return UpdateVerdict::Undecided;
        };
        let auditor = lock(&open).auditor.clone();
        let check = Arc::new(check);
        let judged = blocking({
            let check = Arc::clone(&check);
            move || Ok(judge(&check, &auditor))
        });
        match judged.await.unwrap_or_else(|error| Err(Unchecked::Check(error))) {
            Ok(None) => UpdateVerdict::Right,
            Ok(Some((reason, fault))) => {
                tracing::info!(run = %check.run, round = check.round, volunteer = ?check.volunteer, fault, "update refused");
                let row = UpdateRow {
                    worker: check.task.worker,
                    volunteer: check.volunteer,
                    backend: check.backend,
                    weight: 0,
                    audited: check.audit,
                    verdict: fault,
                    result: check.claim,
                    task: serde_json::to_string(&*check.task).unwrap_or_default(),
                };
                // Bytes that do not have their hash are not what was committed: there is nothing to keep.
                if reason != RejectReason::WrongHash {
                    self.keep(&open, row, &check.result).await;
                }
                UpdateVerdict::Wrong(reason)
            }
            Err(Unchecked::Run(cause)) => {
                // It would be the same for whoever takes these steps again.
                let reason = format!("an update of round {} cannot be judged: {cause}", check.round);
                self.tell(RunInput::Failed { run: check.run, round: check.round, reason }).await;
                UpdateVerdict::Undecided
            }
            Err(Unchecked::Check(error)) => {
                tracing::error!(error, run = %check.run, "an update could not be checked");
                UpdateVerdict::Undecided
            }
        }
    }

    /// Keeps a refused update for the round's record, so that anybody can check the refusal.
    async fn keep(&self, open: &Mutex<Open>, row: UpdateRow, result: &Arc<Vec<u8>>) {
        let bytes = bytes::Bytes::copy_from_slice(result);
        match self.0.blobs.put_durable(&row.result.hash, bytes).await {
            Ok(()) => lock(open).refused.push(row),
            Err(error) => tracing::warn!(%error, "a refused update could not be kept"),
        }
    }

    async fn close(&self, run: JobId, round: u64, updates: Vec<AcceptedUpdate>) {
        let Some(open) = self.open(&run) else { return };
        let input = match self.weigh(&open, round, &updates).await {
            Ok(Weighed::Reviewed { confirmed, refuted }) => {
                let workers = refuted.iter().map(|(update, _)| update.worker).collect();
                for (update, fault) in refuted {
                    self.keep(&open, row(&update, fault.to_string()), &update.result).await;
                }
                RunInput::Reviewed { run, round, confirmed, refuted: workers }
            }
            Ok(Weighed::Closed(closed)) => match self.store(run, &open, &updates, &closed).await {
                Ok(()) => {
                    lock(&open).host.commit(*closed);
                    self.forget_state(run, round).await;
                    RunInput::Stored { run, round }
                }
                Err(Unstored::Paused) => {
                    self.tell(RunInput::Halted { run, round }).await;
                    // After the machine heard of it: the pause may have ended meanwhile.
                    self.stop(run);
                    self.look_again();
                    return self.changed();
                }
                Err(Unstored::Failed(reason)) => RunInput::Failed { run, round, reason },
            },
            Err(reason) => RunInput::Failed { run, round, reason },
        };
        self.tell(input).await;
        self.changed();
    }

    async fn weigh(
        &self,
        open: &Arc<Mutex<Open>>,
        round: u64,
        updates: &[AcceptedUpdate],
    ) -> Result<Weighed, Failure> {
        let (open, updates) = (Arc::clone(open), updates.to_vec());
        blocking(move || {
            let open = lock(&open);
            if open.host.round() != round {
                return Err(format!(
                    "round {round} was to be closed, and the run is at {}",
                    open.host.round()
                ));
            }
            let submitted = |update| {
                let AcceptedUpdate { task, result, weight, audited, .. }: &AcceptedUpdate = update;
                Submitted { task, result, weight: f64::from((*weight).max(1)) / 1e6, audited: *audited }
            };
            let submitted: Vec<Submitted<'_>> = updates.iter().map(submitted).collect();
            let suspects = open.host.suspects(&submitted).map_err(|error| error.to_string())?;
            if suspects.is_empty() {
                let closed = open.host.close(&submitted).map_err(|error| error.to_string())?;
                return Ok(Weighed::Closed(Box::new(closed)));
            }
            let (mut confirmed, mut refuted) = (Vec::new(), Vec::new());
            for at in suspects {
                let judgement = open.auditor.replay(submitted[at].task, submitted[at].result);
                match judgement.map_err(|error| error.to_string())?.fault() {
                    None => confirmed.push(updates[at].worker),
                    Some(fault) => refuted.push((updates[at].clone(), fault)),
                }
            }
            Ok(Weighed::Reviewed { confirmed, refuted })
        })
        .await
    }

    /// Makes a round durable: blobs, the state that follows, the record.
    async fn store(
        &self,
        run: JobId,
        open: &Arc<Mutex<Open>>,
        updates: &[AcceptedUpdate],
        closed: &Closed,
    ) -> Result<(), Unstored> {
        let failed = |cause: io::Error| Unstored::Failed(format!("the round could not be stored: {cause}"));
        let mut rows: Vec<UpdateRow> = Vec::with_capacity(updates.len());
        for update in updates {
            rows.push(row(update, ACCEPTED.to_owned()));
            let bytes = bytes::Bytes::copy_from_slice(&update.result);
            self.0.blobs.put_durable(&update.claim.hash, bytes).await.map_err(failed)?;
        }
        let step = self.put(&closed.step).await.map_err(failed)?;
        let checkpoint = match &closed.checkpoint {
            Some(checkpoint) => Some(self.put(checkpoint).await.map_err(failed)?),
            None => None,
        };
        self.write_state(run, closed.round + 1, closed.state()).await.map_err(failed)?;
        let (begun, worker_tokens, refused) = {
            let open = lock(open);
            (open.begun, open.worker_tokens, open.refused.clone())
        };
        let info = RoundInfo {
            round: closed.round,
            workers: rows.len() as u32,
            rejected: refused.len() as u32,
            train_loss: closed.train_loss,
            validation_loss: closed.validation_loss,
            upload_bytes: rows.iter().chain(&refused).map(|row| row.result.bytes).sum(),
            download_bytes: self.0.blobs.take_served(&run),
            tokens: rows.len() as u64 * worker_tokens,
            seconds: begun.elapsed().as_secs_f64(),
            rule: closed.rule(),
        };
        let parts: Vec<_> = closed
            .parts
            .iter()
            .map(|part| json!({ "worker": part.worker, "norm": part.norm, "clip": part.clip, "suspicion": part.suspicion }))
            .collect();
        let groups: Vec<_> = closed
            .groups
            .iter()
            .map(|group| {
                json!({
                    "codec": if group.sparse { "sparse" } else { "dense" }, "rule": group.rule,
                    "votes": group.votes, "norm": group.norm, "cap": group.cap,
                })
            })
            .collect();
        let combined =
            json!({ "groups": groups, "gate": closed.gate, "parts": parts, "restarted": closed.fresh });
        rows.extend(refused);
        let record = RoundRow {
            round: closed.round,
            parameters: closed.before,
            next_parameters: closed.after,
            step,
            checkpoint,
            info,
            combined,
        };
        let sites = by_site(updates.iter().map(|update| &update.site));
        let stored = self.0.db.close_round(&self.0.log, &run, &record, &rows, &sites).await;
        stored.map_err(|cause| match cause {
            LogError::Refused(Refused::Paused { .. }) => Unstored::Paused,
            cause => Unstored::Failed(format!("the round could not be recorded: {cause}")),
        })
    }

    /// Stores a blob of a run.
    async fn put(&self, blob: &[u8]) -> io::Result<BlobRef> {
        let name = named(blob);
        self.0.blobs.put_durable(&name.hash, bytes::Bytes::copy_from_slice(blob)).await?;
        Ok(name)
    }

    fn state_path(&self, run: JobId, round: u64) -> PathBuf {
        state_path(&self.0.data, run, round)
    }

    /// It is on disk, and in the bucket if there is one, when this returns.
    async fn write_state(&self, run: JobId, round: u64, state: Vec<u8>) -> io::Result<()> {
        let path = self.state_path(run, round);
        write_state(path.clone(), state).await?;
        self.0.blobs.share(&self.0.data, &path).await
    }

    async fn read_state(&self, run: JobId, round: u64) -> io::Result<Vec<u8>> {
        let path = self.state_path(run, round);
        self.0.blobs.fetch(&self.0.data, &path).await?;
        tokio::fs::read(path).await
    }

    /// The state before a round that is closed is not needed any more.
    async fn forget_state(&self, run: JobId, round: u64) {
        if let Err(error) = self.0.blobs.forget(&self.0.data, &self.state_path(run, round)).await {
            tracing::debug!(%error, %run, "an old state stays");
        }
    }

    /// Whoever closed rounds before may have been killed before it removed what was not needed any more.
    async fn forget_other_states(&self, run: JobId, round: u64) {
        if let Err(error) = self.0.blobs.forget_others(&self.0.data, &self.state_path(run, round)).await {
            tracing::debug!(%error, %run, "old states stay");
        }
    }
}

/// Where the state before a round lies in a data folder.
pub(crate) fn state_path(data: &Path, run: JobId, round: u64) -> PathBuf {
    data.join("runs").join(run.to_string()).join(format!("{round}.state"))
}

/// Writes the state before a round. It is on disk, under its name, when this returns.
pub(crate) async fn write_state(path: PathBuf, state: Vec<u8>) -> io::Result<()> {
    let written = tokio::task::spawn_blocking(move || {
        let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, &state)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        // The name is durable when the folder is. Not every system can synchronize one.
        if let Ok(folder) = std::fs::File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok::<_, io::Error>(())
    });
    written.await.map_err(io::Error::other)?
}

/// Why nobody knows whether an update is right.
enum Unchecked {
    /// The run's own steps cannot be replayed, or not so that anybody could be judged.
    Run(ReplayError),
    /// This check.
    Check(Failure),
}

impl From<AuditError> for Unchecked {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Replay(cause) => Self::Run(cause),
            error => Self::Check(error.to_string()),
        }
    }
}

/// An update as it is recorded.
fn row(update: &AcceptedUpdate, verdict: String) -> UpdateRow {
    let accepted = verdict == ACCEPTED;
    UpdateRow {
        worker: update.worker,
        volunteer: update.volunteer,
        backend: update.backend,
        weight: if accepted { update.weight } else { 0 },
        audited: update.audited || !accepted,
        verdict,
        result: update.claim,
        task: serde_json::to_string(&*update.task).unwrap_or_default(),
    }
}

/// Hash, then what is checked of every update, then the replay if it was drawn. `None` if nothing is wrong.
fn judge(check: &CheckUpdate, auditor: &Auditor) -> Result<Option<(RejectReason, String)>, Unchecked> {
    if BlobHash::of(&check.result) != check.claim.hash {
        return Ok(Some((RejectReason::WrongHash, "the bytes do not have the committed hash".to_owned())));
    }
    let reason = |fault: &Fault| match fault {
        Fault::Length { .. } => RejectReason::WrongLength,
        _ => RejectReason::WrongUpdate,
    };
    let mut fault = auditor.check(&check.task, &check.result)?.err();
    if fault.is_none() && check.audit {
        fault = auditor.replay(&check.task, &check.result)?.fault();
    }
    Ok(fault.map(|fault| (reason(&fault), fault.to_string())))
}

/// Runs something long off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(format!("the work was cut short: {error}")),
    }
}
