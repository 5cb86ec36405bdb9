//! The simulated world: clock, links, relay process, store, volunteers; one thread, one seed.
//!
//! `world.rs` holds the state and routes events; `host.rs` carries out what the relay's machine says;
//! `crowd.rs` carries out what clients say; `watch.rs` looks on.

use crate::act::{Failure, Library};
use crate::driver::{Driver, PersonEvent};
use crate::eval::{Exam, Exams};
use crate::evals::EvalEvent;
use crate::host::Host;
use crate::link::{ConnId, Item, Pipe, Side};
use crate::outcome::{Options, RunOutcome, Violation};
use crate::plan::{Nature, Plan};
use crate::product::Product;
use crate::queue::Queue;
use crate::rng::Rng;
use crate::rounds::Wish;
use crate::run::{Runs, Training};
use crate::store::{EvalRows, RunRows, Store};
use crate::trace::Trace;
use crate::watch::{Products, Watch};
use potluck_proto::{BlobRequest, Hello};
use potluck_schedule::{AcceptedUpdate, CheckVerdict, Input, RunInput, Ticket};
use potluck_types::{BlobHash, JobId, SessionId};
use std::sync::Arc;

/// After the faults stop, every job is complete within this simulated time, in milliseconds.
///
/// The longest honest wait: a half-open session of 60 s that holds a lease, then a liar's lease of up to 40 s
/// for the deepest unit, a few times in a row.
pub const LIVENESS_MS: u64 = 600_000;
/// Events of one run, before it counts as a storm.
pub const MAX_EVENTS: u64 = 2_000_000;
/// Ticks of the relay's timer in one simulated second: one for each session, lease and picture is plenty.
pub const MAX_TICKS_PER_SECOND: u32 = 500;

/// What can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The relay's timer.
    Tick { start: u32, at: u64 },
    /// Something may be due on a link.
    Due { conn: ConnId, side: Side },
    /// A connection request reaches the relay.
    Accept { conn: ConnId },
    /// A chunk was read from the blob store.
    ChunkRead { start: u32, session: SessionId, request: BlobRequest },
    /// A blob was read, for its tree.
    TreeRead { start: u32, session: SessionId, hash: BlobHash },
    /// A check is done.
    Checked { start: u32, ticket: Ticket, verdict: CheckVerdict },
    /// The group commit happens.
    GroupCommit { start: u32 },
    /// The relay hears of it.
    StoreAck { start: u32, ticket: Ticket, durable: bool },
    /// A completed job is written down.
    RecordCompleted { start: u32, job: JobId },
    /// A job is submitted.
    Submit { job: usize },
    /// A job is canceled.
    Cancel { job: usize },
    /// A run is submitted.
    SubmitRun { run: JobId },
    /// A submitter wants something.
    Wish { run: JobId, wish: Wish },
    /// The tasks of a round are made.
    Prepare { start: u32, run: JobId, round: u64, workers: u32 },
    /// A round's updates are weighed.
    Close { start: u32, run: JobId, round: u64, updates: Vec<AcceptedUpdate> },
    /// A part of a closed round is written.
    WriteRound { start: u32, run: JobId },
    /// The relay hears what became of a run's work.
    RunTold { start: u32, input: Box<RunInput> },
    /// A completed run is written down.
    RecordRun { start: u32, run: JobId },
    /// Something happens to an eval; with `start`, if that start of the relay still lives.
    Eval { start: Option<u32>, eval: JobId, what: EvalEvent },
    /// Kill -9, or a goodbye.
    Crash { down_ms: u64 },
    /// The relay starts.
    Restart,
    /// A link gets into trouble.
    Trouble,
    /// A client appears.
    Appear { client: usize },
    /// A client is killed.
    Kill { client: usize },
    /// A client wakes.
    Wake { client: usize, life: u32, tag: u64 },
    /// A client's kernel ends.
    Computed { client: usize, life: u32, run: u64, result: Result<Vec<u8>, Failure> },
    /// A person does something.
    Person { client: usize },
    /// Faults stop.
    Calm,
    /// Every job should be complete by now.
    TimeIsUp,
    /// A little after the last job.
    Finish,
}

pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    pub(crate) session: Option<SessionId>,
    pub(crate) start: u32,
    pub(crate) relay_open: bool,
}

pub(crate) struct Slot {
    pub(crate) driver: Driver,
    pub(crate) alive: bool,
    pub(crate) life: u32,
    pub(crate) conn: Option<ConnId>,
    pub(crate) second: u64,
    pub(crate) sent: u32,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) queue: Queue<Event>,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) job_ids: Vec<JobId>,
    pub(crate) products: Products,
    pub(crate) submitted: Vec<JobId>,
    pub(crate) runs: Runs,
    pub(crate) evals: Exams,
    pub(crate) store: Store,
    pub(crate) host: Option<Host>,
    pub(crate) start: u32,
    pub(crate) conns: Vec<Conn>,
    pub(crate) slots: Vec<Slot>,
    /// What a listener on the network has of an honest session.
    pub(crate) overheard: Option<Hello>,
    pub(crate) watch: Watch,
    pub(crate) trace: Trace,
    pub(crate) calm: bool,
    pub(crate) done_at: Option<u64>,
    pub(crate) crashes: u64,
    finished: bool,
}

/// Runs one seed to its end.
///
/// Determinism: the same seed gives the same [`RunOutcome`], trace hash included.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(seed: u64, options: Options) -> Result<RunOutcome, Violation> {
    let mut rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng);
    run_plan(seed, plan, rng, options)
}

pub(crate) fn run_plan(seed: u64, plan: Plan, rng: Rng, options: Options) -> Result<RunOutcome, Violation> {
    let mut at_ms = 0;
    World::new(plan, rng, options)
        .and_then(|mut world| {
            let done = world.play();
            at_ms = world.queue.now();
            done.map(|()| world.outcome(seed))
        })
        .map_err(|what| Violation { seed, at_ms, what })
}

impl World {
    fn new(plan: Plan, mut rng: Rng, options: Options) -> Result<Self, String> {
        let mut queue = Queue::default();
        let (mut products, mut job_ids) = (Products::new(), Vec::new());
        for (job, planned) in plan.jobs.iter().enumerate() {
            let id = JobId(rng.bytes());
            let product =
                Product::draw(&mut rng, id, planned.dtype, planned.shape).map_err(|e| e.to_string())?;
            products.insert(id, product);
            job_ids.push(id);
            queue.at(planned.submit_at, Event::Submit { job });
            if let Some(at) = planned.cancel_at {
                queue.at(at, Event::Cancel { job });
            }
        }
        let mut slots = Vec::new();
        for (client, planned) in plan.volunteers.iter().enumerate() {
            let driver = Driver::new(planned, rng.fork());
            slots.push(Slot { driver, alive: false, life: 0, conn: None, second: 0, sent: 0 });
            queue.at(planned.start_at, Event::Appear { client });
        }
        for &(at, down_ms) in &plan.faults.crashes {
            queue.at(at, Event::Crash { down_ms });
        }
        if plan.faults.trouble_every_ms > 0 {
            queue.at(plan.faults.trouble_every_ms, Event::Trouble);
        }
        let mut runs = Runs::new();
        for planned in &plan.runs {
            let run = JobId(rng.bytes());
            let training = Training::draw(&mut rng, run, planned).map_err(|error| error.to_string())?;
            runs.insert(run, Arc::new(training));
            queue.at(planned.submit_at, Event::SubmitRun { run });
            let pauses = planned.pauses.iter().flatten().map(|&(at, for_ms)| (at, Wish::Pause { for_ms }));
            for (at, wish) in pauses.chain(planned.cancel_at.map(|at| (at, Wish::Cancel))) {
                queue.at(at, Event::Wish { run, wish });
            }
        }
        let mut evals = Exams::new();
        for planned in &plan.evals {
            let eval = JobId(rng.bytes());
            let exam = Exam::draw(&mut rng, eval, planned).map_err(|error| error.to_string())?;
            evals.insert(eval, Arc::new(exam));
            queue.at(planned.submit_at, Event::Eval { start: None, eval, what: EvalEvent::Submit });
            if let Some(at) = planned.cancel_at {
                queue.at(at, Event::Eval { start: None, eval, what: EvalEvent::Cancel });
            }
        }
        queue.at(0, Event::Restart);
        queue.at(plan.safety_ms, Event::Calm);
        Ok(Self {
            options,
            queue,
            rng,
            plan,
            job_ids,
            products,
            submitted: Vec::new(),
            runs,
            evals,
            store: Store::default(),
            host: None,
            start: 0,
            conns: Vec::new(),
            slots,
            overheard: None,
            watch: Watch::default(),
            trace: Trace::new(options.sink),
            calm: false,
            done_at: None,
            crashes: 0,
            finished: false,
        })
    }

    fn outcome(&self, seed: u64) -> RunOutcome {
        RunOutcome {
            seed,
            events: self.trace.events(),
            leases: self.watch.leases,
            rounds: self.watch.referee.rounds,
            updates: self.watch.referee.updates,
            deceived: self.watch.referee.deceived,
            streaks: self.watch.referee.streaks,
            waited: self.watch.referee.waited,
            settled: self.watch.examiner.settled,
            refuted: self.watch.examiner.refuted,
            misled: self.watch.examiner.misled,
            rejected: self.watch.rejected,
            honest_undelivered: self.watch.honest_undelivered,
            late_commits: self.watch.late_commits,
            impostors: self.watch.impostors,
            crashes: self.crashes,
            simulated_ms: self.queue.now(),
            liveness_ms: self.done_at.map_or(0, |at| at.saturating_sub(self.plan.safety_ms)),
            trace: self.trace.hash(),
        }
    }

    fn play(&mut self) -> Result<(), String> {
        while !self.finished {
            let event = self.queue.pop().ok_or("nothing is left to happen, and the run is not over")?;
            if self.trace.events() > MAX_EVENTS {
                return Err(format!("event storm: more than {MAX_EVENTS} events"));
            }
            self.happen(event)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { start, at } => self.tick(start, at),
            Event::Due { conn, side: Side::Relay } => self.relay_receives(conn),
            Event::Due { conn, side: Side::Client } => self.client_receives(conn),
            Event::Accept { conn } => self.accept(conn),
            Event::ChunkRead { start, session, request } => self.chunk_read(start, session, &request),
            Event::TreeRead { start, session, hash } => self.tree_read(start, session, &hash),
            Event::Checked { start, ticket, verdict } if self.lives(start) => {
                self.step(Input::Checked { ticket, verdict })
            }
            Event::GroupCommit { start } if self.lives(start) => self.group_commit(),
            Event::StoreAck { start, ticket, durable } if self.lives(start) => {
                self.step(if durable { Input::Stored { ticket } } else { Input::StoreFailed { ticket } })
            }
            Event::RecordCompleted { start, job } if self.lives(start) => {
                self.record_completed(job);
                Ok(())
            }
            Event::Prepare { start, run, round, workers } if self.lives(start) => {
                self.prepare_round(run, round, workers)
            }
            Event::Close { start, run, round, updates } if self.lives(start) => {
                self.close_round(run, round, updates)
            }
            Event::WriteRound { start, run } if self.lives(start) => self.write_round(run),
            Event::RunTold { start, input } if self.lives(start) => self.step(Input::Run(*input)),
            Event::RecordRun { start, run } if self.lives(start) => {
                self.record_run(run);
                Ok(())
            }
            Event::Eval { start, eval, what } if start.is_none_or(|start| self.lives(start)) => {
                self.eval_happens(eval, what)
            }
            // The relay that these belonged to is dead.
            Event::Checked { .. }
            | Event::GroupCommit { .. }
            | Event::StoreAck { .. }
            | Event::RecordCompleted { .. }
            | Event::Prepare { .. }
            | Event::Close { .. }
            | Event::WriteRound { .. }
            | Event::Eval { .. }
            | Event::RunTold { .. }
            | Event::RecordRun { .. } => Ok(()),
            Event::SubmitRun { run } => self.submit_run(run),
            Event::Wish { run, wish } => self.wish(run, wish),
            Event::Submit { job } => self.submit(job),
            Event::Cancel { job } => self.cancel(job),
            Event::Crash { down_ms } => self.crash(down_ms),
            Event::Restart => self.restart(),
            Event::Trouble => {
                self.trouble();
                Ok(())
            }
            Event::Appear { client } => self.appear(client),
            Event::Kill { client } => {
                self.kill(client);
                Ok(())
            }
            Event::Wake { client, life, tag } => self.wake(client, life, tag),
            Event::Computed { client, life, run, result } => self.computed(client, life, run, result),
            Event::Person { client } => self.person(client, None),
            Event::Calm => self.become_calm(),
            Event::TimeIsUp => self.time_is_up(),
            Event::Finish => self.finish(),
        }
    }

    /// What an adversary may know.
    pub(crate) fn library(&self) -> Library<'_> {
        Library { products: &self.products, blobs: &self.store.blobs, overheard: self.overheard.as_ref() }
    }

    fn lives(&self, start: u32) -> bool {
        self.host.is_some() && self.start == start
    }

    /// Faults stop: links heal or are cut for good, people come back, the relay stays up.
    fn become_calm(&mut self) -> Result<(), String> {
        self.calm = true;
        self.trace.say(self.queue.now(), || "-- calm: faults stop, every job must now complete".into());
        self.queue.after(LIVENESS_MS, Event::TimeIsUp);
        if self.host.is_none() {
            self.restart()?;
        }
        for client in 0..self.slots.len() {
            if !self.slots[client].alive {
                self.appear(client)?;
            }
        }
        // Some stay, whatever their persons did before.
        for client in 0..self.slots.len() {
            if self.plan.volunteers[client].stays {
                self.person(client, Some(PersonEvent::Renew))?;
            }
        }
        self.look_whether_done();
        Ok(())
    }

    /// Whether everything that must complete has.
    pub(crate) fn look_whether_done(&mut self) {
        let open = |id: &JobId| self.store.jobs.get(id).is_none_or(|rows| !rows.completed && !rows.canceled);
        let open_run = |id: &JobId| self.store.runs.get(id).is_none_or(RunRows::is_open);
        let open_eval = |id: &JobId| self.store.evals.get(id).is_none_or(EvalRows::is_open);
        let done = !self.job_ids.iter().any(open)
            && !self.runs.keys().any(open_run)
            && !self.evals.keys().any(open_eval);
        if self.calm && self.done_at.is_none() && done {
            self.done_at = Some(self.queue.now());
            self.queue.after(3_000, Event::Finish);
        }
    }

    fn time_is_up(&mut self) -> Result<(), String> {
        if self.done_at.is_some() {
            return Ok(());
        }
        let progress = |id: &JobId| {
            let host = self.host.as_ref();
            let rows = self.store.jobs.get(id);
            format!(
                "{id:?} durable {:?} {:?}",
                rows.map(crate::store::JobRows::durable_units),
                host.and_then(|host| host.relay.progress(id))
            )
        };
        let open = |id: &&JobId| self.store.jobs.get(id).is_none_or(|rows| !rows.completed && !rows.canceled);
        let open: Vec<_> = self.job_ids.iter().filter(open).map(progress).collect();
        let run = |id: &JobId| {
            let rows = self.store.runs.get(id);
            let host = self.host.as_ref();
            format!(
                "run {id:?} durable {:?} {:?}",
                rows.map(|rows| rows.rounds.len()),
                host.and_then(|host| host.relay.run_progress(id))
            )
        };
        let open_run = |id: &&JobId| self.store.runs.get(id).is_none_or(RunRows::is_open);
        let eval = |id: &JobId| {
            let done = self.store.evals.get(id).map(EvalRows::done);
            let host = self.host.as_ref();
            format!("eval {id:?} durable {done:?} {:?}", host.and_then(|host| host.relay.eval_progress(id)))
        };
        let open_eval = |id: &&JobId| self.store.evals.get(id).is_none_or(EvalRows::is_open);
        let open: Vec<_> = open
            .into_iter()
            .chain(self.runs.keys().filter(open_run).map(run))
            .chain(self.evals.keys().filter(open_eval).map(eval))
            .collect();
        Err(format!(
            "no progress: {LIVENESS_MS} ms after the faults stopped these are not complete: {open:?}"
        ))
    }

    /// Everybody leaves; what the relay holds must go with them, and every product must be right.
    fn finish(&mut self) -> Result<(), String> {
        for (id, product) in &self.products {
            let Some(rows) = self.store.jobs.get(id).filter(|rows| !rows.canceled) else { continue };
            let tiles = rows.tiles.iter().map(|(tile, bytes)| (&tile.tile, bytes));
            product
                .check_assembled(tiles)
                .map_err(|wrong| format!("the product of {id:?} is wrong: {wrong}"))?;
        }
        self.drain()?;
        self.finished = true;
        Ok(())
    }

    /// Puts an item on a link and looks at the other end when it is due.
    pub(crate) fn put(&mut self, conn: ConnId, to: Side, item: Item) {
        let now = self.queue.now();
        let Some(link) = self.conns.get_mut(conn) else { return };
        let pipe = match to {
            Side::Relay => &mut link.up,
            Side::Client => &mut link.down,
        };
        if let Some(at) = pipe.send(now, item) {
            self.queue.at(at, Event::Due { conn, side: to });
        }
    }

    /// Whether a client keeps to the rules and its kernel is right.
    pub(crate) fn is_honest(&self, client: usize) -> bool {
        self.plan.volunteers.get(client).is_some_and(|volunteer| volunteer.nature == Nature::Honest)
    }
}
