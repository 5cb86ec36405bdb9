//! The one task that owns the state machine: inputs come in through a bounded queue, outputs are carried out
//! in order. It never waits for a socket, a disk or a check.

use crate::blobs::Blobs;
use crate::checks::Checker;
use crate::commit::{Committer, ToCommit};
use crate::db::{Db, DbError, JobState, wall_ms};
use crate::evals::Evals;
use crate::log::Log;
use crate::names;
use crate::runs::Runs;
use crate::switches::Switchboard;
use crate::turn::TurnServers;
use crate::views::leaders;
use potluck_proto::{BlobRef, BlobRequest, Membership, MeshSettings, Message};
use potluck_schedule::{
    CheckVerdict, EvalError, EvalInput, EvalProgress, EvalSpec, Input, JobProgress, MeshPicture, Output,
    Relay, RunError, RunInput, RunProgress, RunSpec, Ticket, Totals,
};
use potluck_types::limits::MAX_QUEUED_FRAMES;
use potluck_types::{BlobHash, Instant, JobId, SessionId, VolunteerId};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Inputs that may wait for the machine: senders wait beyond that.
const MAX_QUEUED_INPUTS: usize = 1024;

/// Between two attempts to record that a job ended.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// Commands that are taken from the queue at once.
const TAKEN_TOGETHER: usize = 64;

/// What a session's writer has to do.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Send a message. Boxed: queues have room for many, and most are empty.
    Message(Box<Message>),
    /// Read a part of a blob and send it.
    Chunk(BlobRequest),
    /// Read a blob and send its tree.
    Tree(BlobHash),
}

/// A session's way out.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    /// Told when the session has to end without delay.
    pub(crate) cut: Arc<Notify>,
}

/// What the core is told.
#[derive(Debug)]
pub(crate) enum Command {
    Input(Input),
    Open {
        session: SessionId,
        address: Option<IpAddr>,
        handle: SessionHandle,
    },
    Checked {
        ticket: Ticket,
        verdict: CheckVerdict,
        check_us: u64,
    },
    Progress {
        job: JobId,
        reply: oneshot::Sender<Option<JobProgress>>,
    },
    Totals {
        reply: oneshot::Sender<Totals>,
    },
    Mesh {
        job: Option<JobId>,
        reply: oneshot::Sender<MeshPicture>,
    },
    /// A run begins or goes on, if it can be held.
    AddRun {
        spec: Box<RunSpec>,
        next_round: u64,
        reply: oneshot::Sender<Result<(), RunError>>,
    },
    RunProgress {
        run: JobId,
        reply: oneshot::Sender<Option<RunProgress>>,
    },
    /// An eval begins or goes on, if it can be held.
    AddEval {
        spec: Box<EvalSpec>,
        done: Vec<u32>,
        reply: oneshot::Sender<Result<(), EvalError>>,
    },
    EvalProgress {
        eval: JobId,
        reply: oneshot::Sender<Option<EvalProgress>>,
    },
    ShutDown {
        done: oneshot::Sender<()>,
    },
}

/// The core is gone: the relay is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay is shutting down")]
pub(crate) struct Gone;

/// A way to the core.
#[derive(Debug, Clone)]
pub(crate) struct Core {
    commands: mpsc::Sender<Command>,
    /// Counts changes of jobs, for those who wait for one.
    pub(crate) changes: watch::Receiver<u64>,
}

impl Core {
    pub(crate) async fn tell(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).await.map_err(|_| Gone)
    }

    pub(crate) async fn input(&self, input: Input) -> Result<(), Gone> {
        self.tell(Command::Input(input)).await
    }

    pub(crate) async fn progress(&self, job: JobId) -> Result<Option<JobProgress>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Progress { job, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    pub(crate) async fn totals(&self) -> Result<Totals, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Totals { reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    /// The mesh, or what of it works on one job or run.
    pub(crate) async fn mesh(&self, job: Option<JobId>) -> Result<MeshPicture, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Mesh { job, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Adds a run, or says why it cannot be held.
    pub(crate) async fn add_run(&self, spec: RunSpec, next_round: u64) -> Result<Result<(), RunError>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::AddRun { spec: Box::new(spec), next_round, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    pub(crate) async fn run_progress(&self, run: JobId) -> Result<Option<RunProgress>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::RunProgress { run, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Adds an eval, of which these shards are durable, or says why it cannot be held.
    pub(crate) async fn add_eval(
        &self,
        spec: EvalSpec,
        done: Vec<u32>,
    ) -> Result<Result<(), EvalError>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::AddEval { spec: Box::new(spec), done, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    pub(crate) async fn eval_progress(&self, eval: JobId) -> Result<Option<EvalProgress>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::EvalProgress { eval, reply }).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Refuses all sessions politely and ends the core.
    pub(crate) async fn shut_down(&self) {
        let (done, ended) = oneshot::channel();
        if self.tell(Command::ShutDown { done }).await.is_ok() {
            let _ = ended.await;
        }
    }
}

/// What the core needs to carry outputs out.
pub(crate) struct Surroundings {
    pub(crate) db: Db,
    pub(crate) log: Log,
    pub(crate) blobs: Blobs,
    pub(crate) secret: potluck_verify::Secret,
    /// The data folder, where runs keep their state.
    pub(crate) data: PathBuf,
    /// What volunteers reach each other with.
    pub(crate) turn: TurnServers,
    /// What the operator switched off.
    pub(crate) switches: Switchboard,
    /// Who gave most.
    pub(crate) board: leaders::Board,
}

/// Starts the core.
pub(crate) fn start(machine: Relay, surroundings: Surroundings) -> (Core, Runs, Evals) {
    let (commands, queue) = mpsc::channel(MAX_QUEUED_INPUTS);
    let (changed, changes) = watch::channel(0);
    let core = Core { commands: commands.clone(), changes };
    let gate = blake3::derive_key("potluck 2026 gate of an epoch v1", &surroundings.secret.0);
    let runs = Runs::new(&surroundings, gate, commands.downgrade(), changed.clone());
    let Surroundings { db, log, blobs, secret, turn, board, .. } = surroundings;
    let evals = Evals::new(db.clone(), log.clone(), blobs.clone(), commands.downgrade(), changed.clone());
    let checker = Checker::new(blobs.clone(), secret, commands.clone());
    let committer = Committer::start(db.clone(), log.clone(), blobs.clone(), &commands);
    let said = leaders::record(db.clone(), board);
    let task = Task {
        machine,
        origin: tokio::time::Instant::now(),
        sessions: HashMap::new(),
        check_us: HashMap::new(),
        checker,
        committer,
        said,
        db,
        log,
        blobs,
        runs: runs.clone(),
        evals: evals.clone(),
        turn,
        changed,
        core: commands.downgrade(),
    };
    tokio::spawn(task.run(queue));
    (core, runs, evals)
}

struct Task {
    machine: Relay,
    origin: tokio::time::Instant,
    sessions: HashMap<SessionId, SessionHandle>,
    /// What checking cost, until the result is stored.
    check_us: HashMap<Ticket, u64>,
    checker: Checker,
    committer: Committer,
    /// What volunteers let others see of them.
    said: mpsc::UnboundedSender<(VolunteerId, Membership)>,
    db: Db,
    log: Log,
    blobs: Blobs,
    runs: Runs,
    evals: Evals,
    turn: TurnServers,
    changed: watch::Sender<u64>,
    /// Its own queue, for answers that take time.
    core: mpsc::WeakSender<Command>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut taken = Vec::with_capacity(TAKEN_TOGETHER);
        loop {
            let wake =
                self.machine.next_wake().map(|at| self.origin + std::time::Duration::from_millis(at.0));
            // A crowd keeps the queue full: time has its turn after so many of it.
            let commands = tokio::select! {
                commands = queue.recv_many(&mut taken, TAKEN_TOGETHER) => commands,
                () = until(wake) => {
                    self.step(Input::Tick);
                    continue;
                }
            };
            if commands == 0 {
                return;
            }
            for command in taken.drain(..) {
                let Some(done) = self.obey(command) else { continue };
                self.step(Input::ShuttingDown);
                // Nobody is heard any more, so nobody waits for the queue to have room.
                queue.close();
                self.committer.finish().await;
                let _ = done.send(());
                return;
            }
        }
    }

    /// Does what is said. The answer is whom to tell when all is done, if the relay is to end.
    fn obey(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        match command {
            Command::Input(input) => self.step(input),
            Command::Open { session, address, handle } => {
                self.sessions.insert(session, handle);
                self.step(Input::Opened { session, address });
            }
            Command::Checked { ticket, verdict, check_us } => {
                self.check_us.insert(ticket, check_us);
                self.step(Input::Checked { ticket, verdict });
                self.check_us.remove(&ticket);
            }
            Command::Progress { job, reply } => {
                let _ = reply.send(self.machine.progress(&job));
            }
            Command::Totals { reply } => {
                let _ = reply.send(self.machine.totals());
            }
            Command::Mesh { job, reply } => {
                let _ = reply.send(self.machine.mesh_picture(job.as_ref()));
            }
            Command::AddRun { spec, next_round, reply } => {
                let fits = self.machine.run_fits(&spec);
                if fits.is_ok() {
                    self.step(Input::Run(RunInput::Added { spec, next_round }));
                }
                let _ = reply.send(fits);
            }
            Command::RunProgress { run, reply } => {
                let _ = reply.send(self.machine.run_progress(&run));
            }
            Command::AddEval { spec, done, reply } => {
                let fits = self.machine.eval_fits(&spec);
                if fits.is_ok() {
                    self.step(Input::Eval(EvalInput::Added { spec, done }));
                }
                let _ = reply.send(fits);
            }
            Command::EvalProgress { eval, reply } => {
                let _ = reply.send(self.machine.eval_progress(&eval));
            }
            Command::ShutDown { done } => return Some(done),
        }
        None
    }

    fn step(&mut self, input: Input) {
        let now = Instant(self.origin.elapsed().as_millis() as u64);
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.machine.step(now, input) {
                if let Some(consequence) = self.carry_out(output) {
                    inputs.push_back(consequence);
                }
            }
        }
    }

    /// Carries an output out. What fails at once comes back as an input.
    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { session, message } => {
                return self.queue(session, Outgoing::Message(Box::new(message)));
            }
            Output::SendChunk { session, request } => return self.queue(session, Outgoing::Chunk(request)),
            Output::SendTree { session, hash } => return self.queue(session, Outgoing::Tree(hash)),
            Output::AskPublic { session, blob } => self.ask_public(session, blob),
            Output::MeshSettings { session } => {
                let (servers, valid_for) = self.turn.for_session(session, wall_ms().max(0) as u64 / 1000);
                let settings = MeshSettings { servers, valid_for };
                return self.queue(session, Outgoing::Message(Box::new(settings.into())));
            }
            // The writer ends after what is queued when its sender is gone.
            Output::Close { session } => drop(self.sessions.remove(&session)),
            Output::Check(check) => self.checker.check(check),
            Output::Store { ticket, tile, result, site } => {
                let check_us = self.check_us.get(&ticket).copied().unwrap_or(0);
                self.committer.commit(ToCommit { ticket, tile, result, check_us, site });
                self.changed.send_modify(|count| *count += 1);
            }
            Output::Rejected { job, shard, claim, volunteer, backend, reason } => {
                tracing::info!(%job, shard, ?volunteer, reason = reason.name(), "result rejected");
                let (db, log) = (self.db.clone(), self.log.clone());
                tokio::spawn(async move {
                    let what = (&job, shard, claim.as_ref());
                    if let Err(error) =
                        db.reject(&log, what, &volunteer, names::backend(backend), reason).await
                    {
                        tracing::warn!(%error, "a rejection could not be recorded");
                    }
                });
                self.changed.send_modify(|count| *count += 1);
            }
            // Its task ends with this one.
            Output::Membership { volunteer, membership } => drop(self.said.send((volunteer, membership))),
            Output::Run(output) => self.runs.carry_out(output),
            Output::Eval(output) => self.evals.carry_out(output),
            Output::JobCompleted { job } => {
                self.blobs.release(&job);
                let (db, changed) = (self.db.clone(), self.changed.clone());
                tokio::spawn(async move {
                    // All tiles are durable, and the job seems to run until this is. The store may be away for a while; if
                    // the relay ends before, the job is complete again after the next start.
                    loop {
                        match db.end_job(&job, JobState::Done).await {
                            Ok(_) => tracing::info!(%job, "job done"),
                            Err(DbError::PoolClosed) => {}
                            Err(error) => {
                                tracing::error!(%error, %job, "the end of a job could not be recorded: it is tried again");
                                tokio::time::sleep(RECORD_AGAIN).await;
                                continue;
                            }
                        }
                        break;
                    }
                    changed.send_modify(|count| *count += 1);
                });
            }
        }
        None
    }

    /// Looks whether everybody may have a blob. The answer comes as an input of its own.
    fn ask_public(&self, session: SessionId, blob: BlobRef) {
        let (db, blobs, core) = (self.db.clone(), self.blobs.clone(), self.core.clone());
        tokio::spawn(async move {
            let known = async {
                let public = db.is_public(&blob.hash).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(public && blobs.bytes_of(&blob.hash).await? == Some(blob.bytes))
            };
            let public = known.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "whether a blob is public could not be read");
                false
            });
            if let Some(core) = core.upgrade() {
                let _ = core.send(Command::Input(Input::Public { session, blob, public })).await;
            }
        });
    }

    /// Queues something for a session. A reader that is so slow that its queue is full is cut off: it must
    /// not cost the others memory or time.
    fn queue(&mut self, session: SessionId, outgoing: Outgoing) -> Option<Input> {
        let handle = self.sessions.get(&session)?;
        if handle.outgoing.try_send(outgoing).is_ok() {
            return None;
        }
        tracing::info!(%session, queued = MAX_QUEUED_FRAMES, "session is too slow or gone");
        handle.cut.notify_one();
        self.sessions.remove(&session);
        Some(Input::Closed { session })
    }
}

async fn until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
