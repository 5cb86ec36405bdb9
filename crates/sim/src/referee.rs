//! The invariants of training rounds, and the second opinion on their numbers: every closed round is taken again from
//! its record, by a host of the referee's own.

use crate::plan::AUDIT_ALL;
use crate::rounds::submitted;
use crate::run::{Training, inputs, is_right, work};
use crate::store::{Blobs, RunRows, Store};
use potluck_proto::{BlobRef, TrainTask};
use potluck_rounds::{Host, named};
use potluck_schedule::{
    AcceptedUpdate, CheckUpdate, PauseReason, RunInput, RunOutput, Ticket, UpdateVerdict,
};
use potluck_types::{JobId, LeaseId, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who holds a worker's place, as the messages show it.
#[derive(Debug)]
struct Place {
    lease: LeaseId,
    volunteer: Option<VolunteerId>,
    committed: Option<BlobRef>,
}

/// An update under check.
#[derive(Debug)]
struct Checked {
    worker: u32,
    volunteer: VolunteerId,
    claim: BlobRef,
    audited: bool,
    verdict: Option<UpdateVerdict>,
}

#[derive(Debug)]
struct Seen {
    training: Arc<Training>,
    /// Takes every closed round again.
    host: Host,
    checkpoint: BlobRef,
    steps: Vec<BlobRef>,
    // Of this start of the relay:
    tasks: Vec<TrainTask>,
    places: BTreeMap<u32, Place>,
    checks: BTreeMap<Ticket, Checked>,
    closing: bool,
    completed: bool,
}

/// What was observed of runs.
#[derive(Debug, Default)]
pub struct Referee {
    runs: BTreeMap<JobId, Seen>,
    /// Rounds that were closed.
    pub rounds: u64,
    /// Updates that counted.
    pub updates: u64,
    /// Updates that were wrong, were not replayed, and counted.
    pub deceived: u64,
    /// Updates of codec S that went on with a streak.
    pub streaks: u64,
    /// Those in whose streak a round did not count.
    pub waited: u64,
}

impl Referee {
    /// A run was submitted.
    ///
    /// # Errors
    /// A run that cannot start.
    pub fn submitted(&mut self, run: JobId, training: &Arc<Training>) -> Result<(), String> {
        let (host, checkpoint) = training.start().map_err(|error| error.to_string())?;
        let seen = Seen {
            training: Arc::clone(training),
            host,
            checkpoint: named(&checkpoint),
            steps: Vec::new(),
            tasks: Vec::new(),
            places: BTreeMap::new(),
            checks: BTreeMap::new(),
            closing: false,
            completed: false,
        };
        self.runs.insert(run, seen);
        Ok(())
    }

    /// The relay died.
    pub fn relay_died(&mut self) {
        for seen in self.runs.values_mut() {
            seen.tasks.clear();
            seen.places.clear();
            seen.checks.clear();
            (seen.closing, seen.completed) = (false, false);
        }
    }

    /// The relay found a run again: what its host forgets at a restart, the referee's forgets too.
    ///
    /// # Errors
    /// A state that leads nowhere.
    pub fn found(&mut self, run: &JobId) -> Result<(), String> {
        let Some(seen) = self.runs.get_mut(run) else { return Err("a run that nobody submitted".into()) };
        let host = seen.training.resume(&seen.host.state(), seen.checkpoint, seen.steps.clone());
        seen.host = host.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// What goes into the relay.
    pub fn input(&mut self, input: &RunInput) {
        match input {
            RunInput::Ready { run, tasks, .. } => {
                if let Some(seen) = self.runs.get_mut(run) {
                    seen.tasks.clone_from(tasks);
                }
            }
            RunInput::Checked { ticket, verdict } => {
                let mut checks = self.runs.values_mut().filter_map(|seen| seen.checks.get_mut(ticket));
                if let Some(check) = checks.next() {
                    check.verdict = Some(*verdict);
                }
            }
            RunInput::Reviewed { run, confirmed, refuted, .. } => {
                if let Some(seen) = self.runs.get_mut(run) {
                    seen.closing = false;
                    seen.checks.retain(|_, check| !refuted.contains(&check.worker));
                    for check in seen.checks.values_mut() {
                        check.audited |= confirmed.contains(&check.worker);
                    }
                }
            }
            RunInput::Stored { run, .. } | RunInput::Failed { run, .. } | RunInput::Halted { run, .. } => {
                if let Some(seen) = self.runs.get_mut(run) {
                    seen.closing = false;
                }
            }
            _ => {}
        }
    }

    /// A worker's part is leased.
    ///
    /// # Errors
    /// A task that is not the round's; a volunteer that has a part already.
    pub fn leased(
        &mut self,
        run: &JobId,
        worker: u32,
        lease: LeaseId,
        volunteer: Option<VolunteerId>,
        task: &TrainTask,
    ) -> Result<(), String> {
        let seen = self.runs.get_mut(run).ok_or("a lease of an unknown run")?;
        let round = seen.host.round();
        let known = seen.tasks.get_mut(worker as usize).filter(|known| same_work(known, task));
        let (Some(known), false) = (known.filter(|_| task.round == round), seen.closing) else {
            return Err(format!("lease {lease} is not a task of round {round} of {run:?}, which is open"));
        };
        known.clone_from(task);
        // A new lease means that nothing of an attempt before is under check.
        seen.checks.clear();
        seen.places.insert(worker, Place { lease, volunteer, committed: None });
        Ok(())
    }

    /// A commit under a current lease and fence.
    pub fn committed(&mut self, run: &JobId, worker: u32, lease: LeaseId, claim: BlobRef) {
        let place = self.runs.get_mut(run).and_then(|seen| seen.places.get_mut(&worker));
        if let Some(place) = place.filter(|place| place.lease == lease) {
            place.committed = Some(claim);
        }
    }

    /// What comes out of the relay. `computing` is a lease of the run without a commit, if there is one.
    ///
    /// # Errors
    /// The invariant that is violated.
    pub fn output(
        &mut self,
        output: &RunOutput,
        computing: Option<LeaseId>,
        store: &Store,
    ) -> Result<(), String> {
        match output {
            RunOutput::PrepareRound { run, round, .. } => {
                let next = store.runs.get(run).map(|rows| rows.rounds.len() as u64);
                if next == Some(*round) {
                    Ok(())
                } else {
                    Err(format!("round {round} of {run:?} is prepared, next is {next:?}"))
                }
            }
            RunOutput::CheckUpdate(check) => self.checked(check, computing),
            RunOutput::CloseRound { run, round, updates } => self.closed(run, *round, updates),
            RunOutput::Completed { run } => {
                let seen = self.runs.get_mut(run).ok_or("an unknown run is complete")?;
                let rows = store.runs.get(run).ok_or("a run is complete that was not stored")?;
                let whole = rows.rounds.len() as u64 == seen.training.spec.rounds;
                if !whole || rows.canceled || std::mem::replace(&mut seen.completed, true) {
                    return Err(format!(
                        "run {run:?} is completed after {} rounds, a second time, or after it was canceled",
                        rows.rounds.len()
                    ));
                }
                Ok(())
            }
            RunOutput::Paused { run, reason: PauseReason::Asked } => {
                if store.runs.get(run).is_some_and(|rows| rows.asked_to_pause || rows.paused) {
                    Ok(())
                } else {
                    Err(format!("run {run:?} pauses because its submitter asked, who since let it go on"))
                }
            }
            RunOutput::TryTask { .. } | RunOutput::Paused { .. } | RunOutput::Refused { .. } => Ok(()),
        }
    }

    fn checked(&mut self, check: &CheckUpdate, computing: Option<LeaseId>) -> Result<(), String> {
        let CheckUpdate { run, round, ticket, volunteer, claim, .. } = check;
        let worker = check.task.worker;
        let seen = self.runs.get_mut(run).ok_or("an update of an unknown run is checked")?;
        if let Some(lease) = computing {
            return Err(format!(
                "an update of round {round} of {run:?} is checked before all commits are in: lease {lease} computes"
            ));
        }
        if seen.host.round() != *round || seen.tasks.get(worker as usize) != Some(&*check.task) {
            return Err(format!("an update of round {round} of {run:?} is checked, which is not open"));
        }
        let place = seen.places.get(&worker);
        if !place.is_some_and(|place| {
            place.volunteer == Some(*volunteer) && place.committed.as_ref() == Some(claim)
        }) {
            return Err(format!(
                "late fence: an update of worker {worker} in round {round} is checked, but {volunteer:?} made no \
                 such commit under a current lease and fence"
            ));
        }
        let twice = |other: &Checked| other.worker == worker || other.volunteer == *volunteer;
        if seen.checks.values().any(twice) || seen.checks.contains_key(ticket) {
            return Err(format!(
                "worker {worker} or {volunteer:?} has two updates in round {round} of {run:?}"
            ));
        }
        let (volunteer, claim) = (*volunteer, *claim);
        let update = Checked { worker, volunteer, claim, audited: check.audit, verdict: None };
        seen.checks.insert(*ticket, update);
        Ok(())
    }

    fn closed(&mut self, run: &JobId, round: u64, updates: &[AcceptedUpdate]) -> Result<(), String> {
        let seen = self.runs.get_mut(run).ok_or("a round of an unknown run is closed")?;
        if seen.host.round() != round || std::mem::replace(&mut seen.closing, true) {
            return Err(format!("round {round} of {run:?} is closed out of order, or twice"));
        }
        if updates.is_empty() {
            return Err(format!("round {round} of {run:?} is closed without an update"));
        }
        for update in updates {
            let check = seen.checks.get(&update.ticket);
            let same = |check: &&Checked| {
                (check.worker, check.volunteer, check.claim)
                    == (update.worker, update.volunteer, update.claim)
                    && check.audited == update.audited
            };
            let verdict = check.filter(same).and_then(|check| check.verdict);
            if verdict != Some(UpdateVerdict::Right) {
                return Err(format!(
                    "an unchecked update counts: worker {} in round {round} of {run:?}, verdict {verdict:?}",
                    update.worker
                ));
            }
        }
        let distinct = |count: usize| count == updates.len();
        let workers: BTreeSet<_> = updates.iter().map(|update| update.worker).collect();
        let volunteers: BTreeSet<_> = updates.iter().map(|update| update.volunteer).collect();
        if !distinct(workers.len()) || !distinct(volunteers.len()) {
            return Err(format!("somebody has two updates in round {round} of {run:?}"));
        }
        Ok(())
    }

    /// A round became durable: takes it again.
    ///
    /// # Errors
    /// A round out of order, a wrong update that was replayed, a record that leads elsewhere.
    pub fn recorded(&mut self, run: &JobId, rows: &RunRows, blobs: &Blobs) -> Result<(), String> {
        let seen = self.runs.get_mut(run).ok_or("a round of an unknown run is recorded")?;
        let row = rows.rounds.last().ok_or("a record that is none")?;
        let round = seen.host.round();
        let wrong = |what: String| Err(format!("round {} of {run:?}: {what}", row.round));
        if row.round != round || rows.rounds.len() as u64 != round + 1 {
            return wrong(format!("recorded out of order, next is {round}"));
        }
        let workers = row.updates.iter().map(|update| update.worker + 1).max().unwrap_or(0);
        let tasks = seen.host.tasks(workers).map_err(|error| error.to_string())?;
        for update in &row.updates {
            let task = &*update.task;
            if !same_work(&tasks[update.worker as usize], task) {
                return wrong(format!("worker {} had another task than the round's", update.worker));
            }
            for past in &task.streak {
                let own = |other: &&AcceptedUpdate| {
                    (other.worker, Some(other.claim.hash), other.volunteer)
                        == (past.worker, past.result, update.volunteer)
                };
                let Some(of_round) = rows.rounds.get(past.round as usize).map(|row| &row.updates) else {
                    return wrong(format!("a streak has round {}, which is not closed", past.round));
                };
                let is_own = match past.result {
                    Some(_) => of_round.iter().any(|other| own(&other)),
                    None => of_round.iter().all(|other| other.volunteer != update.volunteer),
                };
                if !is_own {
                    return wrong(format!(
                        "the streak of worker {} is not its volunteer's own",
                        update.worker
                    ));
                }
            }
            if blobs.get(&update.claim.hash) != Some(&update.result) {
                return wrong(format!("the update of worker {} is not stored", update.worker));
            }
            let Some(inputs) = inputs(task, |hash| blobs.get(hash).cloned()) else {
                return wrong("its inputs are not stored".into());
            };
            let right = work(task, inputs, None).map_err(|error| error.to_string())?;
            let is_right = is_right(task, &update.result, &right.result);
            if update.audited && !is_right {
                return wrong(format!("a wrong update was replayed and counts: worker {}", update.worker));
            }
            if seen.training.spec.audit == AUDIT_ALL && !update.audited {
                return wrong(format!("the update of worker {} was not replayed", update.worker));
            }
            self.updates += 1;
            self.deceived += u64::from(!is_right);
            self.streaks += u64::from(!task.streak.is_empty());
            self.waited += u64::from(task.streak.iter().any(|past| past.result.is_none()));
        }
        let submitted: Vec<_> = row.updates.iter().map(submitted).collect();
        let closed = seen.host.close(&submitted).map_err(|error| error.to_string())?;
        let found = (row.before, row.after, row.step, row.checkpoint);
        let expected =
            (closed.before, closed.after, named(&closed.step), closed.checkpoint.as_deref().map(named));
        if found != expected {
            return wrong(format!("the record says {found:?}, taken again it gives {expected:?}"));
        }
        if rows.states.get(&(round + 1)) != Some(&closed.state()) {
            return wrong("the state that follows is not stored".into());
        }
        seen.host.commit(closed);
        (seen.checkpoint, seen.steps) = rows.replica();
        self.rounds += 1;
        Ok(())
    }
}

/// Whether two tasks ask for the same work: how the update is encoded may differ.
fn same_work(one: &TrainTask, other: &TrainTask) -> bool {
    TrainTask { codec: one.codec, streak: one.streak.clone(), ..other.clone() } == *one
}
