//! How training rounds go on: prepare, gather, open, audit, close, and again.
//!
//! A round's commits are closed before it is drawn whose updates are replayed, and bytes are handed to the checks only
//! then: neither side can pick. An attempt that falls short of its quorum is repeated with fresh leases; the data
//! order knows nothing of attempts, so a repeated round trains on the same batches.

use crate::io::{Output, Ticket};
use crate::leasing::{Blamed, Claim, Lease, Stage};
use crate::policy::{MAX_RUNS, MAX_UPDATES_IN_MEMORY_BYTES, SPARSE_AUDIT_RATE};
use crate::relay::{PlantedBug, Relay};
use crate::round::{Phase, Run, Slot, SlotState, Update, UpdateCheck, failed};
use crate::run::{
    AcceptedUpdate, CheckUpdate, PauseReason, RunError, RunInput, RunOutput, RunSpec, UpdateVerdict,
};
use crate::session::Session;
use potluck_proto::{Outcome, RejectReason, RevokeReason, TrainTask, UpdateCodec};
use potluck_types::{JobId, LeaseId, VolunteerId};
use std::sync::Arc;

impl Relay {
    pub(crate) fn run_input(&mut self, input: RunInput) {
        match input {
            RunInput::Added { spec, next_round } => self.add_run(*spec, next_round),
            RunInput::Ready { run, round, tasks } => self.round_ready(&run, round, tasks),
            RunInput::Checked { ticket, verdict } => self.update_checked(ticket, verdict),
            RunInput::Reviewed { run, round, confirmed, refuted } => {
                self.round_reviewed(&run, round, &confirmed, &refuted);
            }
            RunInput::Stored { run, round } => self.round_stored(&run, round),
            RunInput::Failed { run, round, reason } => self.round_ended(&run, round, failed(reason)),
            RunInput::Halted { run, round } => self.round_ended(&run, round, PauseReason::Asked),
            RunInput::Paused { run } => self.pause_run(&run),
            RunInput::Resumed { run } => {
                let Some(held) = self.runs.get_mut(&run) else { return };
                match &mut held.phase {
                    Phase::Paused => {
                        held.forget_excuses();
                        self.prepare(&run);
                    }
                    // The pause that was to follow does not.
                    Phase::Closing { pause } => *pause = false,
                    _ => {}
                }
            }
            RunInput::Canceled { run } => {
                self.give_up_round(&run, RevokeReason::JobCanceled);
                if let Some(run) = self.runs.remove(&run) {
                    self.remember_run(&run);
                }
            }
        }
    }

    fn tell_run(&mut self, output: RunOutput) {
        self.out.push(Output::Run(output));
    }

    fn add_run(&mut self, spec: RunSpec, next_round: u64) {
        let id = spec.id;
        if let Err(error) = self.run_fits(&spec) {
            return self.tell_run(RunOutput::Refused { run: id, error });
        }
        let run = Run::new(spec, next_round, self.least_service());
        self.runs.insert(id, run);
        self.prepare(&id);
    }

    /// Whether a run can be held beside those that are.
    ///
    /// # Errors
    /// Why not.
    pub fn run_fits(&self, spec: &RunSpec) -> Result<(), RunError> {
        spec.check()?;
        if self.is_taken(&spec.id) {
            return Err(RunError::Taken);
        }
        if self.runs.len() >= MAX_RUNS {
            return Err(RunError::TooMany { runs: self.runs.len() });
        }
        let others = self.runs.values().map(|run| run.spec.reserved_bytes());
        let bytes = others.fold(spec.reserved_bytes(), u64::saturating_add);
        if bytes > MAX_UPDATES_IN_MEMORY_BYTES { Err(RunError::Memory { bytes }) } else { Ok(()) }
    }

    /// The next round begins, or the run is complete.
    fn prepare(&mut self, id: &JobId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.slots.clear();
        run.asking.clear();
        run.invited = 0;
        run.end_streaks();
        if run.round < run.spec.rounds {
            run.phase = Phase::Preparing;
            let (round, workers) = (run.round, run.spec.max_workers);
            // Who pauses and goes on meanwhile waits for the first answer: a second one would come into the middle of the round.
            if run.preparing.replace(round) == Some(round) {
                return;
            }
            return self.tell_run(RunOutput::PrepareRound { run: *id, round, workers });
        }
        run.phase = Phase::Paused;
        if let Some(run) = self.runs.remove(id) {
            self.last_run_picture(&run);
            self.remember_run(&run);
            self.tell_run(RunOutput::Completed { run: *id });
        }
    }

    fn round_ready(&mut self, id: &JobId, round: u64, tasks: Vec<TrainTask>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.preparing.take_if(|asked| *asked == round);
        if !matches!(run.phase, Phase::Preparing) || run.round != round {
            return;
        }
        if !run.spec.tasks_fit(round, &tasks) {
            return self.rest(id, PauseReason::WrongTasks);
        }
        let slot = |task| Slot { task: Arc::new(task), dealt: false, state: SlotState::Free };
        run.slots = tasks.into_iter().map(slot).collect();
        run.phase = Phase::Gathering { since: self.now };
        self.announce_work(id);
    }

    fn round_ended(&mut self, id: &JobId, round: u64, reason: PauseReason) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.preparing.take_if(|asked| *asked == round);
        if !matches!(run.phase, Phase::Paused) && run.round == round {
            self.give_up_round(id, RevokeReason::JobCanceled);
            self.rest(id, reason);
        }
    }

    /// A volunteer will not work on a run for a while.
    pub(crate) fn excuse(&mut self, id: &JobId, volunteer: VolunteerId) {
        let now = self.now;
        if let Some(run) = self.runs.get_mut(id) {
            run.excuse(volunteer, now);
        }
    }

    /// A volunteer says that it cannot do a worker's task. It is not believed, and not ignored: if the task cannot be
    /// done at all, the round would be dealt again and again.
    pub(crate) fn doubt(&mut self, id: &JobId, worker: u32, volunteer: VolunteerId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.excuse(volunteer, self.now);
        if matches!(run.phase, Phase::Open { .. }) && !run.doubted {
            run.doubted = true;
            let round = run.round;
            self.tell_run(RunOutput::TryTask { run: *id, round, worker });
        }
    }

    fn pause_run(&mut self, id: &JobId) {
        match self.runs.get_mut(id).map(|run| &mut run.phase) {
            None | Some(Phase::Paused) => {}
            Some(Phase::Closing { pause }) => *pause = true,
            Some(_) => {
                self.give_up_round(id, RevokeReason::JobCanceled);
                self.rest(id, PauseReason::Asked);
            }
        }
    }

    fn rest(&mut self, id: &JobId, reason: PauseReason) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.phase = Phase::Paused;
        run.slots.clear();
        run.asking.clear();
        self.tell_run(RunOutput::Paused { run: *id, reason });
    }

    /// Takes the leases of a round back and lets its updates go, without blame.
    fn give_up_round(&mut self, id: &JobId, reason: RevokeReason) {
        self.rest_run(id);
        let Some(run) = self.runs.get(id) else { return };
        let leases: Vec<_> = run.slots.iter().filter_map(Slot::lease).collect();
        for lease in leases {
            self.revoke(lease, reason);
        }
        self.release_updates(id, Outcome::Superseded);
    }

    /// Ends every update that the round still holds with one outcome.
    fn release_updates(&mut self, id: &JobId, outcome: Outcome) {
        let Some(run) = self.runs.get(id) else { return };
        let workers: Vec<_> = run.updates().map(|(worker, _)| worker).collect();
        for worker in workers {
            self.release_update(id, worker, outcome);
        }
    }

    fn release_update(&mut self, id: &JobId, worker: usize, outcome: Outcome) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let task = run.slots.get(worker).map(|slot| Arc::clone(&slot.task));
        if let Some(update) = run.take_update(worker) {
            if let (Some(task), false) = (task, outcome == Outcome::Accepted) {
                run.remember_lost(update.volunteer, worker as u32, &task);
            }
            self.let_go(update.claim.result.bytes);
            self.verdict(update.session, update.lease, outcome);
        }
    }

    /// All bytes of an update are here. Its check waits until the round's commits are closed.
    pub(crate) fn update_delivered(
        &mut self,
        ticket: Ticket,
        lease_id: LeaseId,
        lease: &Lease,
        claim: Claim,
        bytes: Arc<Vec<u8>>,
    ) {
        let worker = lease.shard as usize;
        let site = self.sessions.get(&lease.session).and_then(Session::site);
        let Some(run) = self.runs.get_mut(&lease.job) else {
            // Does not happen: a run takes its leases along when it ends.
            return self.let_go(claim.result.bytes);
        };
        if let Some(slot) = run.slots.get_mut(worker) {
            run.changed = true;
            slot.state = SlotState::Delivered(Update {
                ticket,
                lease: lease_id,
                session: lease.session,
                volunteer: lease.volunteer,
                claim,
                bytes,
                check: UpdateCheck::NotYet,
                site,
            });
            self.check_update(&lease.job, worker);
        }
    }

    /// Hands an update to the checks, if the round's commits are closed.
    fn check_update(&mut self, id: &JobId, worker: usize) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let Phase::Auditing { challenge } = run.phase else { return };
        let round = run.round;
        let policy = run.spec.audit;
        let Some(Slot { task, state: SlotState::Delivered(update), .. }) = run.slots.get_mut(worker) else {
            return;
        };
        let drawn = blake3::keyed_hash(&challenge, &(worker as u64).to_le_bytes());
        let mut low = [0; 4];
        low.copy_from_slice(&drawn.as_bytes()[..4]);
        let millionths = (u64::from(u32::from_le_bytes(low)) * 1_000_000) >> 32;
        let mut rate = policy.rate_after(self.standings.audits_passed(&update.volunteer));
        if task.codec == UpdateCodec::TopK {
            rate = rate.max(SPARSE_AUDIT_RATE);
        }
        let audit = millionths < u64::from(rate);
        update.check = UpdateCheck::Pending { audit };
        let check = CheckUpdate {
            ticket: update.ticket,
            run: *id,
            round,
            task: Arc::clone(task),
            volunteer: update.volunteer,
            backend: update.claim.backend,
            claim: update.claim.result,
            result: Arc::clone(&update.bytes),
            audit,
        };
        self.tell_run(RunOutput::CheckUpdate(check));
    }

    fn update_checked(&mut self, ticket: Ticket, verdict: UpdateVerdict) {
        let found = self.runs.iter_mut().find_map(|(id, run)| {
            let slots = run.slots.iter_mut().enumerate();
            slots.into_iter().find_map(|(worker, slot)| match &mut slot.state {
                SlotState::Delivered(update) if update.ticket == ticket => Some((*id, worker, update)),
                _ => None,
            })
        });
        let Some((id, worker, update)) = found else { return };
        let UpdateCheck::Pending { audit } = update.check else { return };
        let volunteer = update.volunteer;
        match verdict {
            UpdateVerdict::Right => {
                update.check = UpdateCheck::Right { audited: audit };
                if audit {
                    self.standings.audit_passed(volunteer);
                }
            }
            UpdateVerdict::Undecided => self.release_update(&id, worker, Outcome::Superseded),
            UpdateVerdict::Wrong(reason) => self.refute(&id, worker, reason),
        }
        if let Some(run) = self.runs.get_mut(&id) {
            run.changed = true;
        }
    }

    /// A wrong update ends, and its volunteer is blamed.
    fn refute(&mut self, id: &JobId, worker: usize, reason: RejectReason) {
        let Some(update) = self.runs.get_mut(id).and_then(|run| run.take_update(worker)) else { return };
        self.let_go(update.claim.result.bytes);
        let Update { lease, session, volunteer, claim, .. } = update;
        let (shard, backend) = (worker as u32, claim.backend);
        let claim = Some(claim.result);
        self.blame(&Blamed { job: *id, shard, volunteer, session, lease, backend, claim }, reason);
        if let Some(run) = self.runs.get_mut(id) {
            run.forget_streak(&volunteer);
        }
        self.distrust(&volunteer);
    }

    /// Updates were replayed that nobody had drawn. What is left is weighed again.
    fn round_reviewed(&mut self, id: &JobId, round: u64, confirmed: &[u32], refuted: &[u32]) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let Phase::Closing { pause } = run.phase else { return };
        if run.round != round {
            return;
        }
        run.writing = false;
        // Every check is done, so nothing is drawn any more.
        run.phase = Phase::Auditing { challenge: [0; 32] };
        run.changed = true;
        for worker in confirmed {
            if let Some(Slot { state: SlotState::Delivered(update), .. }) =
                run.slots.get_mut(*worker as usize)
            {
                update.check = UpdateCheck::Right { audited: true };
                self.standings.audit_passed(update.volunteer);
            }
        }
        for worker in refuted {
            self.refute(id, *worker as usize, RejectReason::WrongUpdate);
        }
        if pause {
            self.pause_run(id);
        }
    }

    /// Nothing else that a liar delivered to a round that is not closing yet counts, in whatever run.
    fn distrust(&mut self, volunteer: &VolunteerId) {
        let open = |run: &&Run| matches!(run.phase, Phase::Open { .. } | Phase::Auditing { .. });
        let theirs: Vec<_> = (self.runs.values().filter(open))
            .flat_map(|run| run.updates().map(|(worker, update)| (run.id(), worker, update.volunteer)))
            .filter(|(.., whose)| whose == volunteer)
            .collect();
        for (run, worker, _) in theirs {
            self.release_update(&run, worker, Outcome::Superseded);
        }
    }

    /// A run's timer: dealing or commits end.
    pub(crate) fn run_due(&mut self, id: &JobId) {
        if let Some(run) = self.runs.get_mut(id) {
            run.wake = None;
            run.changed = true;
        }
    }

    /// Ends the phases that are over, after whatever happened.
    pub(crate) fn advance_runs(&mut self) {
        let (unchecked, early) =
            (self.planted(PlantedBug::CountUnchecked), self.planted(PlantedBug::DrawEarly));
        while let Some(run) = self.runs.values_mut().find(|run| run.changed) {
            run.changed = false;
            let id = run.id();
            match run.phase {
                Phase::Open { dealing, deadline } => {
                    let (leased, delivered) = (run.leased(), run.delivered());
                    let dealt_out =
                        run.dealt() >= run.invited.min(run.slots.len() as u32) || self.now >= dealing;
                    let complete = (leased == 0 || early)
                        && dealt_out
                        && (delivered >= run.quorum() || self.now >= dealing);
                    if complete || self.now >= deadline {
                        self.close_commits(&id);
                    } else if run.wake.is_none() {
                        self.wake_run(&id, if self.now < dealing { dealing } else { deadline });
                    }
                }
                Phase::Auditing { .. }
                    if run.leased() == 0 && (unchecked || run.verified() == run.delivered()) =>
                {
                    self.close_round(&id);
                }
                _ => {}
            }
        }
    }

    /// No commit counts from here on. Draws who is replayed from all that were made.
    fn close_commits(&mut self, id: &JobId) {
        self.rest_run(id);
        let Some(run) = self.runs.get(id) else { return };
        let mut commits = Vec::new();
        let mut late = Vec::new();
        for (worker, slot) in run.slots.iter().enumerate() {
            match &slot.state {
                SlotState::Free => {}
                SlotState::Delivered(update) => commits.push((worker, update.volunteer, update.claim)),
                SlotState::Leased { lease, volunteer } => {
                    match self.leases.get(lease).map(|held| &held.stage) {
                        Some(Stage::Arriving { claim, .. }) => commits.push((worker, *volunteer, *claim)),
                        _ => late.push(*lease),
                    }
                }
            }
        }
        if (commits.len() as u32) < run.quorum() {
            return self.repeat(id);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.config.seed);
        hasher.update(b"potluck audit v1").update(&id.0);
        hasher.update(&run.round.to_le_bytes()).update(&run.attempt.to_le_bytes());
        for (worker, volunteer, claim) in &commits {
            hasher.update(&(*worker as u64).to_le_bytes()).update(&volunteer.0);
            hasher.update(&claim.result.hash.0).update(&claim.result.bytes.to_le_bytes());
        }
        let challenge = *hasher.finalize().as_bytes();
        if self.planted(PlantedBug::DrawEarly) {
            late.clear();
        }
        for lease in late {
            self.revoke(lease, RevokeReason::DeadlinePassed);
        }
        let Some(run) = self.runs.get_mut(id) else { return };
        run.phase = Phase::Auditing { challenge };
        run.changed = true;
        for (worker, ..) in commits {
            self.check_update(id, worker);
        }
    }

    /// Too few updates: the same round again, with fresh leases.
    fn repeat(&mut self, id: &JobId) {
        self.give_up_round(id, RevokeReason::DeadlinePassed);
        let Some(run) = self.runs.get_mut(id) else { return };
        for slot in &mut run.slots {
            slot.dealt = false;
        }
        run.attempt = run.attempt.saturating_add(1);
        run.repeated += 1;
        run.invited = 0;
        run.phase = Phase::Gathering { since: self.now };
        self.announce_work(id);
    }

    /// Every update is checked. What is left is aggregated, unless it is too little: then rejected updates do not
    /// raise what is needed, so that liars cannot hold a round up once there are enough others.
    fn close_round(&mut self, id: &JobId) {
        let unchecked = self.planted(PlantedBug::CountUnchecked);
        let Some(run) = self.runs.get_mut(id) else { return };
        let counted = if unchecked { run.delivered() } else { run.verified() };
        if counted < run.floor {
            return self.repeat(id);
        }
        let mut updates = Vec::new();
        for (worker, slot) in run.slots.iter().enumerate() {
            let Some(update) = slot.update() else { continue };
            updates.push(AcceptedUpdate {
                task: Arc::clone(&slot.task),
                ticket: update.ticket,
                volunteer: update.volunteer,
                worker: worker as u32,
                backend: update.claim.backend,
                claim: update.claim.result,
                result: Arc::clone(&update.bytes),
                weight: self.standings.weight(&update.volunteer),
                audited: update.check == UpdateCheck::Right { audited: true },
                site: update.site.clone(),
            });
        }
        run.phase = Phase::Closing { pause: false };
        run.writing = true;
        let round = run.round;
        self.tell_run(RunOutput::CloseRound { run: *id, round, updates });
    }

    /// The round is durable: only now its updates are accepted.
    fn round_stored(&mut self, id: &JobId, round: u64) {
        let Some(run) = self.runs.get_mut(id).filter(|run| run.round == round) else { return };
        if !std::mem::take(&mut run.writing) {
            return;
        }
        let Phase::Closing { pause } = run.phase else {
            // A failure was told of something older, and gave the round up while it was written. It is durable.
            let paused = matches!(run.phase, Phase::Paused);
            self.give_up_round(id, RevokeReason::JobCanceled);
            if let Some(run) = self.runs.get_mut(id) {
                run.round += 1;
                run.attempt = 0;
            }
            if !paused {
                self.prepare(id);
            }
            return;
        };
        run.last = run.slots.iter().map(|slot| slot.update().map(|update| update.volunteer)).collect();
        run.extend_streaks();
        run.round += 1;
        run.attempt = 0;
        let volunteers: Vec<_> = run.last.iter().flatten().copied().collect();
        run.accepted += volunteers.len() as u64;
        self.totals.accepted += volunteers.len() as u64;
        for volunteer in volunteers {
            self.standings.accepted(volunteer, 0);
        }
        self.release_updates(id, Outcome::Accepted);
        let over = self.runs.get(id).is_some_and(|run| run.round >= run.spec.rounds);
        if pause && !over {
            self.rest(id, PauseReason::Asked);
        } else {
            self.prepare(id);
        }
    }
}
