//! The relay's part of training runs: carries out what the machine says of them, as the real adapter does, with
//! delays, failures, and deaths between any two writes.

use crate::host::Host as Process;
use crate::run::Training;
use crate::store::{RoundRow, RunRows};
use crate::world::{Event, World};
use potluck_proto::RejectReason;
use potluck_rounds::{AuditError, Auditor, Closed, Fault, Host, Submitted, named};
use potluck_schedule::{AcceptedUpdate, CheckUpdate, Input, PauseReason, RunInput, RunOutput, UpdateVerdict};
use potluck_types::{BlobHash, JobId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run that goes on.
pub(crate) struct Open {
    host: Host,
    /// For the round under way.
    auditor: Auditor,
    closing: Option<Closing>,
}

/// A round on its way to the disk.
struct Closing {
    closed: Closed,
    updates: Vec<AcceptedUpdate>,
    next: Write,
}

/// What is written, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Blobs,
    State,
    Record,
}

/// What became of the updates that a round was to be closed with.
enum Weighed {
    Reviewed { confirmed: Vec<u32>, refuted: Vec<u32> },
    Closed(Box<Closed>),
}

impl Open {
    fn new(host: Host) -> Self {
        let auditor = Auditor::new(&host);
        Self { host, auditor, closing: None }
    }

    fn weigh(&self, round: u64, updates: &[AcceptedUpdate]) -> Result<Weighed, String> {
        if self.host.round() != round {
            return Err(format!("round {round} is to be closed, and the run is at {}", self.host.round()));
        }
        let submitted: Vec<_> = updates.iter().map(submitted).collect();
        let suspects = self.host.suspects(&submitted).map_err(|error| error.to_string())?;
        if suspects.is_empty() {
            let closed = self.host.close(&submitted).map_err(|error| error.to_string())?;
            return Ok(Weighed::Closed(Box::new(closed)));
        }
        let (mut confirmed, mut refuted) = (Vec::new(), Vec::new());
        for at in suspects {
            let judgement = self.auditor.replay(submitted[at].task, submitted[at].result);
            match judgement.map_err(|error| error.to_string())?.fault() {
                None => confirmed.push(updates[at].worker),
                Some(_) => refuted.push(updates[at].worker),
            }
        }
        Ok(Weighed::Reviewed { confirmed, refuted })
    }
}

/// An update as the run's host takes it.
pub(crate) fn submitted(update: &AcceptedUpdate) -> Submitted<'_> {
    Submitted {
        task: &update.task,
        result: &update.result,
        weight: f64::from(update.weight.max(1)) / 1e6,
        audited: update.audited,
    }
}

/// Hash, then what is checked of every update, then the replay if it was drawn.
fn judge(check: &CheckUpdate, auditor: &Auditor) -> Result<UpdateVerdict, AuditError> {
    if BlobHash::of(&check.result) != check.claim.hash {
        return Ok(UpdateVerdict::Wrong(RejectReason::WrongHash));
    }
    let mut fault = auditor.check(&check.task, &check.result)?.err();
    if fault.is_none() && check.audit {
        fault = auditor.replay(&check.task, &check.result)?.fault();
    }
    Ok(match fault {
        None => UpdateVerdict::Right,
        Some(Fault::Length { .. }) => UpdateVerdict::Wrong(RejectReason::WrongLength),
        Some(_) => UpdateVerdict::Wrong(RejectReason::WrongUpdate),
    })
}

impl World {
    fn open_runs(&mut self) -> Option<&mut BTreeMap<JobId, Open>> {
        self.host.as_mut().map(|Process { runs, .. }| runs)
    }

    fn open_run(&mut self, run: &JobId) -> Option<&mut Open> {
        self.open_runs().and_then(|runs| runs.get_mut(run))
    }

    fn tell_run(&mut self, after_ms: u64, input: RunInput) {
        let start = self.start;
        self.queue.after(after_ms, Event::RunTold { start, input: Box::new(input) });
    }

    /// The longest check and the longest write, in milliseconds.
    pub(crate) fn slowest(&self) -> (u64, u64) {
        let faults = &self.plan.faults;
        if self.calm { (20, 10) } else { (faults.slow_check_ms.max(1), faults.slow_store_ms.max(1)) }
    }

    pub(crate) fn carry_out_run(&mut self, output: RunOutput) -> Result<(), String> {
        let (now, start) = (self.queue.now(), self.start);
        let (slow_check, slow_store) = self.slowest();
        match output {
            RunOutput::PrepareRound { run, round, workers } => {
                self.trace
                    .note(now, b'r', round, &run.0, || format!("relay: prepares round {round} of {run:?}"));
                let after = self.rng.within(1..=slow_store);
                self.queue.after(after, Event::Prepare { start, run, round, workers });
            }
            RunOutput::TryTask { run, round, worker } => {
                self.trace.note(now, b'R', u64::from(worker), &run.0, || {
                    format!("relay: tries the task of worker {worker} in round {round} of {run:?}")
                });
                let after = self.rng.within(1..=slow_check);
                let Some(open) = self.open_run(&run) else { return Ok(()) };
                let tasks = open.host.tasks(worker + 1).map_err(|error| error.to_string())?;
                if let Some(Err(error)) = tasks.last().map(|task| open.auditor.attempt(task)) {
                    let reason = format!("a task of round {round} cannot be done: {error}");
                    self.tell_run(after, RunInput::Failed { run, round, reason });
                }
            }
            RunOutput::CheckUpdate(check) => {
                let undecided = !self.calm && self.rng.permille(self.plan.faults.undecided);
                let open = self.open_run(&check.run).filter(|_| !undecided);
                let mut unstable = None;
                let verdict = match open.map(|open| judge(&check, &open.auditor)) {
                    None => UpdateVerdict::Undecided,
                    Some(Err(AuditError::Replay(cause))) => {
                        unstable = Some(cause.to_string());
                        UpdateVerdict::Undecided
                    }
                    Some(judged) => {
                        judged.map_err(|error| format!("an update cannot be checked: {error}"))?
                    }
                };
                let ticket = check.ticket;
                self.trace.note(now, b'u', ticket.0, &check.claim.hash.0, || {
                    format!("relay: checks ticket {}, replayed: {}: {verdict:?}", ticket.0, check.audit)
                });
                let after = self.rng.within(1..=slow_check);
                if let Some(reason) = unstable {
                    let CheckUpdate { run, round, .. } = check;
                    self.tell_run(after, RunInput::Failed { run, round, reason });
                }
                self.tell_run(after, RunInput::Checked { ticket, verdict });
            }
            RunOutput::CloseRound { run, round, updates } => {
                self.trace.note(now, b'U', round, &run.0, || {
                    format!("relay: closes round {round} of {run:?} with {} updates", updates.len())
                });
                let after = self.rng.within(1..=slow_check);
                self.queue.after(after, Event::Close { start, run, round, updates });
            }
            RunOutput::Paused { run, reason } => {
                self.trace.note(now, b'Z', 0, &run.0, || format!("relay: {run:?} pauses: {reason:?}"));
                if let Some(rows) = self.store.runs.get_mut(&run) {
                    rows.paused = true;
                }
                if reason != PauseReason::Asked {
                    // Its submitter looks now and then.
                    let after = self.rng.within(100..=8_000);
                    self.queue.after(after, Event::Wish { run, wish: Wish::Resume });
                }
            }
            RunOutput::Completed { run } => {
                self.trace.note(now, b'J', 1, &run.0, || format!("relay: run {run:?} is complete"));
                self.open_runs().and_then(|runs| runs.remove(&run));
                let after = self.rng.within(0..=200);
                self.queue.after(after, Event::RecordRun { start, run });
            }
            RunOutput::Refused { run, error } => return Err(format!("run {run:?} is refused: {error}")),
        }
        Ok(())
    }

    pub(crate) fn prepare_round(&mut self, run: JobId, round: u64, workers: u32) -> Result<(), String> {
        let fails = !self.calm && self.rng.permille(self.plan.faults.unreadable);
        let Some(open) = self.open_run(&run) else { return Ok(()) };
        if open.host.round() != round {
            return Err(format!("round {round} is to be prepared, and the run is at {}", open.host.round()));
        }
        open.auditor = Auditor::new(&open.host);
        let input = if fails {
            RunInput::Failed { run, round, reason: "its data cannot be read".to_owned() }
        } else {
            let tasks = open.host.tasks(workers).map_err(|error| error.to_string())?;
            RunInput::Ready { run, round, tasks }
        };
        self.step(Input::Run(input))
    }

    pub(crate) fn close_round(
        &mut self,
        run: JobId,
        round: u64,
        updates: Vec<AcceptedUpdate>,
    ) -> Result<(), String> {
        let Some(open) = self.open_run(&run) else { return Ok(()) };
        match open.weigh(round, &updates) {
            Ok(Weighed::Closed(closed)) => {
                open.closing = Some(Closing { closed: *closed, updates, next: Write::Blobs });
                let (_, slow_store) = self.slowest();
                let (start, after) = (self.start, self.rng.within(0..=slow_store));
                self.queue.after(after, Event::WriteRound { start, run });
                Ok(())
            }
            Ok(Weighed::Reviewed { confirmed, refuted }) => {
                self.step(Input::Run(RunInput::Reviewed { run, round, confirmed, refuted }))
            }
            Err(reason) => self.step(Input::Run(RunInput::Failed { run, round, reason })),
        }
    }

    /// The next write of a round that is being closed, or its failure.
    pub(crate) fn write_round(&mut self, run: JobId) -> Result<(), String> {
        let now = self.queue.now();
        let fails = !self.calm && self.rng.permille(self.plan.faults.store_fails);
        let Some(open) = self.open_run(&run) else { return Ok(()) };
        let Some(closing) = open.closing.take() else { return Ok(()) };
        let (round, next) = (closing.closed.round, closing.next);
        self.trace.note(now, b'g', round, &[u8::from(fails)], || {
            format!("store: {next:?} of round {round} of {run:?}, durable: {}", !fails)
        });
        if fails {
            let reason = "the round could not be stored".to_owned();
            return self.step(Input::Run(RunInput::Failed { run, round, reason }));
        }
        let (_, slow_store) = self.slowest();
        match self.keep(run, closing)? {
            Ok(closing) => {
                let (start, after) = (self.start, self.rng.within(0..=slow_store));
                if let Some(open) = self.open_run(&run) {
                    open.closing = Some(closing);
                }
                self.queue.after(after, Event::WriteRound { start, run });
                Ok(())
            }
            Err(closed) => {
                if let Some(open) = self.open_run(&run) {
                    open.host.commit(*closed);
                }
                if let Some(rows) = self.store.runs.get_mut(&run) {
                    rows.states.remove(&round);
                }
                self.step(Input::Run(RunInput::Stored { run, round }))
            }
        }
    }

    /// Makes the next part of a round durable. Gives back what is left to do, or the round once its record is there.
    fn keep(&mut self, run: JobId, mut closing: Closing) -> Result<Result<Closing, Box<Closed>>, String> {
        let Some(rows) = self.store.runs.get_mut(&run) else { return Err("a run that nobody knows".into()) };
        let closed = &closing.closed;
        closing.next = match closing.next {
            Write::Blobs => {
                for update in &closing.updates {
                    self.store.blobs.insert(update.claim.hash, Arc::clone(&update.result));
                }
                for blob in [Some(&closed.step), closed.checkpoint.as_ref()].into_iter().flatten() {
                    self.store.blobs.insert(named(blob).hash, Arc::new(blob.clone()));
                }
                Write::State
            }
            Write::State => {
                rows.states.insert(closed.round + 1, closed.state());
                Write::Record
            }
            Write::Record => {
                let row = RoundRow {
                    round: closed.round,
                    before: closed.before,
                    after: closed.after,
                    step: named(&closed.step),
                    checkpoint: closed.checkpoint.as_deref().map(named),
                    updates: closing.updates,
                };
                rows.rounds.push(row);
                self.watch.referee.recorded(&run, rows, &self.store.blobs)?;
                return Ok(Err(Box::new(closing.closed)));
            }
        };
        Ok(Ok(closing))
    }

    /// Kill -9: writes that were under way happened or not.
    pub(crate) fn lose_runs(&mut self) -> Result<(), String> {
        let runs = self.open_runs().map(std::mem::take).unwrap_or_default();
        for (run, open) in runs {
            let mut closing = open.closing;
            while let Some(left) = closing.take()
                && self.rng.permille(500)
            {
                closing = self.keep(run, left)?.ok();
            }
        }
        Ok(())
    }

    /// Goes on with the runs that were under way.
    pub(crate) fn find_runs(&mut self) -> Result<(), String> {
        for (run, training) in self.runs.clone() {
            let Some(rows) = self.store.runs.get(&run).filter(|rows| rows.is_open()) else { continue };
            let (round, paused) = (rows.rounds.len() as u64, rows.paused);
            let lost =
                |what: String| format!("after a restart run {run:?} cannot go on at round {round}: {what}");
            let state = rows.states.get(&round).ok_or_else(|| lost("its state is not there".into()))?;
            let (checkpoint, steps) = rows.replica();
            let host = training.resume(state, checkpoint, steps).map_err(|error| lost(error.to_string()))?;
            let found = host.tasks(1).map_err(|error| lost(error.to_string()))?[0].parameters;
            if host.round() != round || rows.rounds.last().is_some_and(|last| last.after != found) {
                return Err(lost(format!("its state leads to {found:?}")));
            }
            self.watch.referee.found(&run)?;
            self.add_run(run, &training, host, round)?;
            if paused {
                self.step(Input::Run(RunInput::Paused { run }))?;
            }
        }
        Ok(())
    }

    fn add_run(&mut self, run: JobId, training: &Training, host: Host, round: u64) -> Result<(), String> {
        if let Some(runs) = self.open_runs() {
            runs.insert(run, Open::new(host));
        }
        let spec = Box::new(training.spec.clone());
        self.step(Input::Run(RunInput::Added { spec, next_round: round }))
    }

    pub(crate) fn submit_run(&mut self, run: JobId) -> Result<(), String> {
        if self.host.is_none() {
            self.queue.after(700, Event::SubmitRun { run });
            return Ok(());
        }
        let training = Arc::clone(&self.runs[&run]);
        let (host, checkpoint) = training.start().map_err(|error| error.to_string())?;
        let blobs = training.blocks().map(<[u8]>::to_vec).chain([checkpoint.clone()]);
        self.store.blobs.extend(blobs.map(|blob| (named(&blob).hash, Arc::new(blob))));
        let rows = RunRows {
            canceled: false,
            completed: false,
            paused: false,
            asked_to_pause: false,
            checkpoint: named(&checkpoint),
            states: BTreeMap::from([(0, host.state())]),
            rounds: Vec::new(),
        };
        self.store.runs.insert(run, rows);
        self.watch.referee.submitted(run, &training)?;
        self.trace.note(self.queue.now(), b'+', 1000, &run.0, || {
            let spec = &training.spec;
            format!(
                "submitter: run {run:?} of {} rounds, {} workers, {:?}",
                spec.rounds, spec.max_workers, spec.codec
            )
        });
        self.add_run(run, &training, host, 0)
    }

    /// The submitter's wishes after the submission. Whoever finds the relay down tries again.
    pub(crate) fn wish(&mut self, run: JobId, wish: Wish) -> Result<(), String> {
        if self.host.is_none() {
            self.queue.after(400, Event::Wish { run, wish });
            return Ok(());
        }
        let Some(rows) = self.store.runs.get_mut(&run) else {
            // It is not submitted yet, as the relay was down.
            self.queue.after(700, Event::Wish { run, wish });
            return Ok(());
        };
        if !rows.is_open() {
            return Ok(());
        }
        let input = match wish {
            Wish::Cancel => {
                rows.canceled = true;
                RunInput::Canceled { run }
            }
            Wish::Pause { for_ms } => {
                (rows.paused, rows.asked_to_pause) = (true, true);
                self.queue.after(for_ms, Event::Wish { run, wish: Wish::Resume });
                RunInput::Paused { run }
            }
            Wish::Resume => {
                (rows.paused, rows.asked_to_pause) = (false, false);
                RunInput::Resumed { run }
            }
        };
        self.trace.note(self.queue.now(), b'-', 1000, &run.0, || format!("submitter: {input:?}"));
        self.step(Input::Run(input))?;
        if wish == Wish::Cancel {
            self.open_runs().and_then(|runs| runs.remove(&run));
            self.look_whether_done();
        }
        Ok(())
    }

    pub(crate) fn record_run(&mut self, run: JobId) {
        if let Some(rows) = self.store.runs.get_mut(&run) {
            rows.completed = !rows.canceled;
        }
        self.trace.note(self.queue.now(), b'D', 1, &run.0, || {
            format!("store: run {run:?} is recorded as complete")
        });
        self.look_whether_done();
    }
}

/// What a submitter wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End it.
    Cancel,
    /// Rest for so long, in milliseconds.
    Pause { for_ms: u64 },
    /// Go on.
    Resume,
}
