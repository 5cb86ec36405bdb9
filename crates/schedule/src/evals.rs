//! How evals go on: shards are leased to several volunteers each, their answers compared, wrong ones asked anew.

use crate::eval::{
    Answered, Eval, EvalAnswer, EvalError, EvalInput, EvalOutput, EvalProgress, EvalSpec, MAX_EVALS,
};
use crate::io::{Output, Ticket};
use crate::leasing::{Blamed, Claim, Lease, Stage, Work, missing_bytes};
use crate::policy::{
    DEADLINE_FACTOR, LINK_BYTES_PER_SECOND, MAX_DEADLINE, MIN_DEADLINE, SPEED, TRAIN_EFFICIENCY,
};
use crate::relay::{PlantedBug, Relay};
use crate::session::Session;
use potluck_proto::{LeaseRequest, Outcome, RejectReason, RevokeReason};
use potluck_types::{BlobHash, Duration, JobId, LeaseId, SessionId, VolunteerId};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Relay {
    pub(crate) fn eval_input(&mut self, input: EvalInput) {
        match input {
            EvalInput::Added { spec, done } => self.add_eval(*spec, &done),
            EvalInput::Settled { eval, shard, refuted } => self.settled(&eval, shard, &refuted),
            EvalInput::Failed { eval, shard } => self.settle_failed(&eval, shard),
            EvalInput::Canceled { eval } => self.cancel_eval(&eval),
        }
    }

    fn tell_eval(&mut self, output: EvalOutput) {
        self.out.push(Output::Eval(output));
    }

    /// Whether an eval can be held beside those that are.
    ///
    /// # Errors
    /// Why not.
    pub fn eval_fits(&self, spec: &EvalSpec) -> Result<(), EvalError> {
        spec.check()?;
        if self.is_taken(&spec.id) {
            return Err(EvalError::Taken);
        }
        if self.evals.len() >= MAX_EVALS { Err(EvalError::TooMany) } else { Ok(()) }
    }

    /// How far an eval is; `None` if none of this name is under way.
    pub fn eval_progress(&self, eval: &JobId) -> Option<EvalProgress> {
        self.evals.get(eval).map(Eval::progress)
    }

    fn add_eval(&mut self, spec: EvalSpec, done: &[u32]) {
        let id = spec.id;
        if let Err(error) = self.eval_fits(&spec) {
            return self.tell_eval(EvalOutput::Refused { eval: id, error });
        }
        self.evals.insert(id, Eval::new(spec, done));
        if !self.complete_eval(&id) {
            self.announce_work(&id);
        }
    }

    /// Ends an eval whose every shard is durable.
    fn complete_eval(&mut self, id: &JobId) -> bool {
        if !self.evals.get(id).is_some_and(Eval::is_complete) {
            return false;
        }
        if let Some(eval) = self.evals.remove(id) {
            self.last_eval_picture(&eval);
        }
        self.tell_eval(EvalOutput::Completed { eval: *id });
        true
    }

    fn cancel_eval(&mut self, id: &JobId) {
        let Some(eval) = self.evals.get(id) else { return };
        let leases: Vec<_> = eval.shards.iter().flat_map(|shard| shard.leases.keys().copied()).collect();
        for lease in leases {
            self.revoke(lease, RevokeReason::JobCanceled);
        }
        let Some(eval) = self.evals.remove(id) else { return };
        for answer in eval.shards.into_iter().flat_map(|shard| shard.answers) {
            self.let_go(answer.claim.result.bytes);
            self.verdict(answer.session, answer.lease, Outcome::Superseded);
        }
    }

    /// A shard that this volunteer may answer.
    pub(crate) fn find_eval(&self, volunteer: &VolunteerId, memory_bytes: u64) -> Option<(JobId, u32)> {
        let (now, twice) = (self.now, self.planted(PlantedBug::AskTwice));
        let shard = |eval: &Eval| eval.shard_for(volunteer, memory_bytes, now, twice);
        self.evals.iter().filter(|(id, _)| !self.is_off(id)).find_map(|(id, eval)| Some((*id, shard(eval)?)))
    }

    pub(crate) fn grant_eval(
        &mut self,
        session: SessionId,
        volunteer: VolunteerId,
        (eval, shard): (JobId, u32),
        request: &LeaseRequest,
        held: &BTreeSet<BlobHash>,
    ) {
        let (lease, fence) = self.new_lease();
        let Some(found) = self.evals.get_mut(&eval) else { return };
        let (Some(task), Some(state)) =
            (found.spec.shards.get(shard as usize).copied(), found.shards.get_mut(shard as usize))
        else {
            return;
        };
        state.leases.insert(lease, volunteer);
        let measured = self.sessions.get(&session).and_then(|session| session.training_speed);
        let speed = measured.unwrap_or(f64::from(request.mflops) * 1e6 * TRAIN_EFFICIENCY);
        let speed = speed.clamp(SPEED.start, SPEED.end);
        let work = Work::Eval { task };
        let missing = missing_bytes(&work, held);
        let bytes = missing + u64::from(task.result_bytes);
        let seconds = task.flops as f64 / speed + bytes as f64 / LINK_BYTES_PER_SECOND;
        let expected = Duration((seconds * 1e3) as u64);
        let deadline = Duration((expected.0 as f64 * DEADLINE_FACTOR) as u64).max(MIN_DEADLINE);
        let deadline = Duration(deadline.0.saturating_add(self.queued(session).0).min(MAX_DEADLINE.0));
        let granted = Lease {
            fence,
            session,
            volunteer,
            job: eval,
            shard,
            missing,
            work,
            flops: task.flops,
            granted: self.now,
            expected,
            deadline: self.now + deadline,
            backend: request.backend,
            stage: Stage::Computing,
        };
        self.enter(lease, granted);
    }

    /// A volunteer cannot answer a shard: others are asked.
    pub(crate) fn pass_over(&mut self, eval: &JobId, shard: u32, volunteer: VolunteerId) {
        let shard = self.evals.get_mut(eval).and_then(|eval| eval.shards.get_mut(shard as usize));
        if let Some(shard) = shard {
            shard.passed_over.insert(volunteer);
        }
    }

    /// All bytes of a volunteer's answers are here. They wait for the others'.
    pub(crate) fn eval_delivered(
        &mut self,
        ticket: Ticket,
        lease_id: LeaseId,
        lease: &Lease,
        claim: Claim,
        bytes: Arc<Vec<u8>>,
    ) {
        let site = self.sessions.get(&lease.session).and_then(Session::site);
        let found = self.evals.get_mut(&lease.job);
        let Some(shard) = found.and_then(|eval| eval.shards.get_mut(lease.shard as usize)) else {
            // Does not happen: an eval takes its leases along when it ends.
            return self.let_go(claim.result.bytes);
        };
        shard.leases.remove(&lease_id);
        let (session, volunteer) = (lease.session, lease.volunteer);
        shard.answers.push(Answered { ticket, lease: lease_id, session, volunteer, claim, bytes, site });
        self.settle(&lease.job, lease.shard);
    }

    /// Hands the answers to a shard out to be compared, if all are here.
    fn settle(&mut self, eval: &JobId, shard: u32) {
        let alone = self.planted(PlantedBug::SettleAlone);
        let Some(found) = self.evals.get_mut(eval) else { return };
        let copies = if alone { 1 } else { found.spec.copies as usize };
        let (Some(task), Some(state)) =
            (found.spec.shards.get(shard as usize).copied(), found.shards.get_mut(shard as usize))
        else {
            return;
        };
        if state.done || state.settling || state.answers.len() < copies {
            return;
        }
        state.settling = true;
        let answers = state.answers.iter().map(|answer| EvalAnswer {
            ticket: answer.ticket,
            volunteer: answer.volunteer,
            backend: answer.claim.backend,
            claim: answer.claim.result,
            result: Arc::clone(&answer.bytes),
            site: answer.site.clone(),
        });
        let answers = answers.collect();
        self.tell_eval(EvalOutput::Settle { eval: *eval, shard, task, answers });
    }

    fn settled(&mut self, id: &JobId, index: u32, refuted: &[VolunteerId]) {
        let Some(eval) = self.evals.get_mut(id) else { return };
        let Some(shard) = eval.shards.get_mut(index as usize).filter(|shard| shard.settling) else { return };
        shard.settling = false;
        let all = std::mem::take(&mut shard.answers);
        let (wrong, right): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|answer| refuted.contains(&answer.volunteer));
        if wrong.is_empty() {
            shard.finish();
            for answer in right {
                self.let_go(answer.claim.result.bytes);
                self.totals.accepted += 1;
                self.standings.accepted(answer.volunteer, 0);
                self.verdict(answer.session, answer.lease, Outcome::Accepted);
            }
            self.complete_eval(id);
            return;
        }
        eval.rejected += wrong.len() as u32;
        shard.passed_over.extend(wrong.iter().map(|answer| answer.volunteer));
        shard.answers = right;
        for answer in wrong {
            self.let_go(answer.claim.result.bytes);
            let Answered { lease, session, volunteer, claim, .. } = answer;
            let (backend, claim) = (claim.backend, Some(claim.result));
            let blamed = Blamed { job: *id, shard: index, volunteer, session, lease, backend, claim };
            self.blame(&blamed, RejectReason::WrongAnswer);
        }
        self.announce_work(id);
    }

    fn settle_failed(&mut self, id: &JobId, index: u32) {
        let Some(eval) = self.evals.get_mut(id) else { return };
        let Some(shard) = eval.shards.get_mut(index as usize).filter(|shard| shard.settling) else { return };
        shard.settling = false;
        for answer in std::mem::take(&mut shard.answers) {
            self.let_go(answer.claim.result.bytes);
            self.verdict(answer.session, answer.lease, Outcome::Superseded);
        }
        self.announce_work(id);
    }
}
