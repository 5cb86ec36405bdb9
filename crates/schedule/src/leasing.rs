//! Who gets which shard, for how long, and how leases end without a result.

use crate::grid::Block;
use crate::io::Output;
use crate::job::{Budget, Job};
use crate::policy::{
    BUSY_RETRY, DEADLINE_FACTOR, FASTER_AT_TAIL, FIRST_SHARD_SECONDS, IDLE_REQUESTS_PER_SECOND, IDLE_RETRY,
    LINK_BYTES_PER_SECOND, MAX_COPIES, MAX_DEADLINE, MAX_LOOKS_AT_TAIL, MIN_DEADLINE, MIN_SHARD_SECONDS,
    MIN_SHARDS_EACH, PEER_COST, REFETCHES, SHARD_SECONDS, SHARE_OF_FREE, SPEED,
};
use crate::relay::{PlantedBug, Relay, Timer};
use crate::switches::Kernel;
use potluck_proto::{
    Backend, BlobRef, EvalTask, LeaseRequest, MatmulTask, NoWork, NoWorkReason, Outcome, RejectReason,
    Revoke, RevokeReason, Task, TrainTask, Verdict,
};
use potluck_types::limits::MAX_LEASES_PER_SESSION;
use potluck_types::{BlobHash, Duration, Fence, Instant, JobId, LeaseId, SessionId, VolunteerId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How far a lease is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Inputs are fetched, the kernel runs.
    Computing,
    /// The result is named; its bytes have to wait for memory.
    Waiting(Claim),
    /// The bytes arrive.
    Arriving {
        claim: Claim,
        bytes: Vec<u8>,
        /// Bytes that were asked for.
        requested: u64,
        /// When the first of them was.
        since: Instant,
    },
}

/// What a volunteer committed to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) result: BlobRef,
    pub(crate) compute_ms: u32,
    pub(crate) backend: Backend,
}

/// What a lease is for.
#[derive(Debug)]
pub(crate) enum Work {
    /// A tile of a job.
    Tile { block: Block, task: MatmulTask },
    /// A worker slot of a run's round.
    Round { task: Arc<TrainTask>, result_bytes: u64 },
    /// A shard of an eval.
    Eval { task: EvalTask },
}

impl Work {
    /// The blobs that the work needs.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = BlobRef> + '_ {
        let (tile, round, eval) = match self {
            Self::Tile { task, .. } => (Some(task), None, None),
            Self::Round { task, .. } => (None, Some(task), None),
            Self::Eval { task } => (None, None, Some(task)),
        };
        let tile = tile.into_iter().flat_map(|task| task.a.iter().chain(&task.bt).copied());
        let round = round.into_iter().flat_map(|task| {
            let blocks = task.blocks.iter().map(|block| block.blob);
            blocks.chain(task.outer_steps.iter().copied()).chain([task.checkpoint])
        });
        let eval = eval.into_iter().flat_map(|task| [task.parameters, task.items]);
        tile.chain(round).chain(eval)
    }

    /// Length of a right result.
    pub(crate) fn result_bytes(&self) -> u64 {
        match self {
            Self::Tile { task, .. } => {
                u64::from(task.rows) * u64::from(task.cols) * task.dtype.result_bytes() as u64
            }
            Self::Round { result_bytes, .. } => *result_bytes,
            Self::Eval { task } => task.result_bytes.into(),
        }
    }

    /// Whether it goes at the speed of training: passes through a model, not bare products.
    pub(crate) const fn is_training(&self) -> bool {
        matches!(self, Self::Round { .. } | Self::Eval { .. })
    }

    fn to_task(&self) -> Task {
        match self {
            Self::Tile { task, .. } => Task::Matmul(task.clone()),
            Self::Round { task, .. } => Task::Train(Box::new(TrainTask::clone(task))),
            Self::Eval { task } => Task::Eval(*task),
        }
    }
}

/// Shard x volunteer x deadline.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) fence: Fence,
    pub(crate) session: SessionId,
    pub(crate) volunteer: VolunteerId,
    pub(crate) job: JobId,
    pub(crate) shard: u32,
    pub(crate) work: Work,
    pub(crate) flops: u64,
    /// Bytes of inputs that the volunteer said not to hold.
    pub(crate) missing: u64,
    pub(crate) granted: Instant,
    pub(crate) expected: Duration,
    pub(crate) deadline: Instant,
    pub(crate) backend: Backend,
    pub(crate) stage: Stage,
}

/// Whose result was rejected, and which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blamed {
    pub(crate) job: JobId,
    pub(crate) shard: u32,
    pub(crate) volunteer: VolunteerId,
    pub(crate) session: SessionId,
    pub(crate) lease: LeaseId,
    pub(crate) backend: Backend,
    /// What was claimed, if it came so far.
    pub(crate) claim: Option<BlobRef>,
}

/// Where inputs are.
#[derive(Debug, Default)]
pub(crate) struct Near {
    /// The volunteer holds them.
    pub(crate) held: BTreeSet<BlobHash>,
    /// A peer of its holds them, or is about to.
    pub(crate) peers: BTreeSet<BlobHash>,
}

impl Near {
    /// What it costs to get a blob there, in bytes from the relay.
    pub(crate) fn cost(&self, blob: BlobRef) -> u64 {
        if self.held.contains(&blob.hash) {
            0
        } else if self.peers.contains(&blob.hash) {
            blob.bytes / PEER_COST
        } else {
            blob.bytes
        }
    }
}

/// Bytes of inputs that a volunteer does not hold.
pub(crate) fn missing_bytes(work: &Work, held: &BTreeSet<BlobHash>) -> u64 {
    work.inputs().filter(|blob| !held.contains(&blob.hash)).map(|blob| blob.bytes).sum()
}

impl Relay {
    pub(crate) fn lease_request(&mut self, id: SessionId, request: &LeaseRequest) {
        let Some((volunteer, held_leases)) =
            self.sessions.get(&id).and_then(|s| s.volunteer.map(|volunteer| (volunteer, s.leases.len())))
        else {
            return;
        };
        if !self.consents(id, &request.consent) {
            return self.no_work(id, NoWorkReason::NoConsent, IDLE_RETRY);
        }
        if let Some(session) = self.sessions.get_mut(&id)
            && !std::mem::replace(&mut session.asked, true)
        {
            self.recount(id);
        }
        if self.standings.is_refused(&volunteer, self.now) {
            return self.refuse_untrusted(id, volunteer);
        }
        let cooling = self.standings.cooling(&volunteer, self.now);
        if cooling > Duration(0) {
            return self.no_work(id, NoWorkReason::CoolingDown, cooling);
        }
        if held_leases >= MAX_LEASES_PER_SESSION {
            return self.no_work(id, NoWorkReason::EnoughLeases, BUSY_RETRY);
        }
        if self.halted {
            return self.no_work(id, NoWorkReason::Idle, self.idle_retry());
        }
        let claimed = f64::from(request.mflops) * 1e6;
        let measured = self.sessions.get(&id).and_then(|session| session.speed);
        let speed = measured.unwrap_or(claimed).clamp(SPEED.start, SPEED.end);
        self.member_blobs(id, request.held.iter().copied());
        let near = Near { held: request.held.iter().copied().collect(), peers: self.peers_blobs(id) };
        let held = &near.held;
        if let Some((run, worker)) = self.find_slot(id, volunteer, request, held) {
            return self.grant_slot(id, volunteer, &run, worker, request, held);
        }
        // A few seconds each, and people wait for the card.
        if let Some(shard) = self.find_eval(&volunteer, request.memory_bytes) {
            return self.grant_eval(id, volunteer, shard, request, held);
        }
        let found = self
            .carve_somewhere(&volunteer, speed, request.memory_bytes, &near)
            .or_else(|| self.copy_at_tail(id, &volunteer, speed, request.memory_bytes));
        if let Some((job, shard)) = found {
            return self.grant(id, volunteer, job, shard, speed, request.backend, held);
        }
        let too_small = self.has_free_units() || self.lacks_memory(request.memory_bytes);
        let reason = if too_small { NoWorkReason::TooLittleMemory } else { NoWorkReason::Idle };
        self.no_work(id, reason, self.idle_retry());
    }

    /// When somebody without work is to ask again.
    fn idle_retry(&self) -> Duration {
        let together = Duration(self.consenting() as u64 * 1000 / IDLE_REQUESTS_PER_SECOND);
        IDLE_RETRY.max(together)
    }

    /// Whether a job that volunteers may work on has units that nobody works on.
    fn has_free_units(&self) -> bool {
        self.jobs.iter().any(|(id, job)| job.free > 0 && !self.is_off(id))
    }

    fn no_work(&mut self, session: SessionId, reason: NoWorkReason, retry_after: Duration) {
        self.send(session, NoWork { reason, retry_after });
    }

    /// A fresh shard of the least served job that has one for this volunteer.
    fn carve_somewhere(
        &mut self,
        volunteer: &VolunteerId,
        speed: f64,
        memory_bytes: u64,
        near: &Near,
    ) -> Option<(JobId, u32)> {
        let seconds = if self.standings.is_new(volunteer) { FIRST_SHARD_SECONDS } else { SHARD_SECONDS };
        let sessions = self.consenting().max(1);
        // What is halted does not come so far.
        let off = |id: &JobId, job: &Job| self.switches.stop(Kernel::of(job.spec.dtype), id);
        let mut by_service: Vec<_> = self
            .jobs
            .iter()
            .filter(|(id, job)| job.free > 0 && !off(id, job))
            .map(|(id, job)| (job.service, *id))
            .collect();
        // The least served one nearly always has something: the others are put in order only if it has not.
        let least = by_service.iter().enumerate().min_by_key(|(_, served)| **served);
        let first = by_service.swap_remove(least?.0);
        if let Some(shard) = self.carve(first.1, speed, seconds, sessions, memory_bytes, near) {
            return Some((first.1, shard));
        }
        by_service.sort_unstable();
        by_service.into_iter().find_map(|(_, id)| {
            self.carve(id, speed, seconds, sessions, memory_bytes, near).map(|shard| (id, shard))
        })
    }

    /// A fresh shard of a job, as large as a volunteer of this speed computes in so many seconds, and no larger than its part of
    /// what so many sessions share.
    fn carve(
        &mut self,
        id: JobId,
        speed: f64,
        seconds: f64,
        sessions: usize,
        memory_bytes: u64,
        near: &Near,
    ) -> Option<u32> {
        let job = self.jobs.get_mut(&id)?;
        let affordable = (speed * seconds / job.unit_flops() as f64) as usize;
        let worthwhile = (speed * MIN_SHARD_SECONDS / job.unit_flops() as f64) as usize;
        let least = worthwhile.min(job.unit_count() / (sessions * MIN_SHARDS_EACH));
        let units = affordable.min(job.free.div_ceil(sessions * SHARE_OF_FREE).max(least)).max(1);
        job.carve(Budget { units, memory_bytes }, near)
    }

    /// Nothing is free: a copy of the shard that would otherwise be waited for longest, if this volunteer will
    /// likely be first. Work is duplicated nowhere else.
    fn copy_at_tail(
        &mut self,
        session: SessionId,
        volunteer: &VolunteerId,
        speed: f64,
        memory_bytes: u64,
    ) -> Option<(JobId, u32)> {
        if self.has_free_units() {
            return None;
        }
        let worth = |lease: &Lease| {
            let Work::Tile { task, .. } = &lease.work else { return None };
            let shard = self.jobs.get(&lease.job)?.shards.get(&lease.shard)?;
            let own = Duration((lease.flops as f64 / speed * 1e3) as u64);
            let overdue = self.now.since(lease.granted) >= lease.expected;
            let faster = (own.0 as f64) * FASTER_AT_TAIL < lease.expected.0 as f64
                && self.now + own < lease.granted + lease.expected;
            let free = !shard.storing && shard.leases.len() < MAX_COPIES;
            let other = lease.session != session && lease.volunteer != *volunteer;
            let computing = matches!(lease.stage, Stage::Computing);
            let bytes = lease.work.inputs().map(|blob| blob.bytes).sum::<u64>();
            let fits = bytes + u64::from(task.rows) * u64::from(task.cols) * 4 <= memory_bytes;
            (free && other && computing && fits && (overdue || faster)).then_some((lease.job, lease.shard))
        };
        let due = self.computing.iter().take(MAX_LOOKS_AT_TAIL);
        due.filter_map(|(_, id)| self.leases.get(id)).find_map(worth)
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one request, used once")]
    fn grant(
        &mut self,
        id: SessionId,
        volunteer: VolunteerId,
        job_id: JobId,
        shard: u32,
        speed: f64,
        backend: Backend,
        held: &BTreeSet<BlobHash>,
    ) {
        let (lease_id, fence) = self.new_lease();
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let Some(block) = job.shards.get(&shard).map(|shard| shard.block.clone()) else { return };
        let task = job.task(&block);
        job.lease(shard, lease_id, volunteer);
        *job.holders.entry(id).or_default() += 1;
        let flops = 2 * u64::from(task.rows) * u64::from(task.cols) * u64::from(task.depth);
        job.service = job.service.saturating_add(flops);

        let work = Work::Tile { block, task };
        let (missing, result) = (missing_bytes(&work, held), work.result_bytes());
        let seconds = flops as f64 / speed + (missing + result) as f64 / LINK_BYTES_PER_SECOND;
        let expected = Duration((seconds * 1e3) as u64);
        let deadline = Duration((expected.0 as f64 * DEADLINE_FACTOR) as u64).max(MIN_DEADLINE);
        let deadline = Duration((deadline.0 + self.queued(id).0).min(MAX_DEADLINE.0));
        let lease = Lease {
            fence,
            session: id,
            volunteer,
            job: job_id,
            shard,
            work,
            flops,
            missing,
            granted: self.now,
            expected,
            deadline: self.now + deadline,
            backend,
            stage: Stage::Computing,
        };
        self.enter(lease_id, lease);
    }

    pub(crate) fn new_lease(&mut self) -> (LeaseId, Fence) {
        let id = self.new_lease_id();
        (id, Fence((u64::from(self.config.incarnation) << 32) | (id.0 & 0xffff_ffff)))
    }

    /// How long the leases that a session holds will keep it: one that is fetched ahead begins when the one
    /// before it ends.
    pub(crate) fn queued(&self, id: SessionId) -> Duration {
        let leases = self.sessions.get(&id).into_iter().flat_map(|session| &session.leases);
        let leases = leases.filter_map(|lease| self.leases.get(lease));
        Duration(leases.map(|lease| (lease.granted + lease.expected).since(self.now).0).sum())
    }

    /// Enters a lease into every table and hands it out.
    pub(crate) fn enter(&mut self, id: LeaseId, lease: Lease) {
        let Some(session) = self.sessions.get_mut(&lease.session) else { return };
        let all: u64 = lease.work.inputs().map(|blob| blob.bytes.max(crate::policy::MIN_CHUNK_CHARGE)).sum();
        if session.leases.is_empty() {
            session.busy_since = self.now;
        }
        session.leases.push(id);
        session.viewing = Some(lease.job);
        session.input_credit = session.input_credit.saturating_add(all.saturating_mul(REFETCHES));
        self.totals.leases_given += 1;
        self.arm(lease.deadline, Timer::Lease(id));
        self.arm_pictures();
        let offer = potluck_proto::Lease {
            lease: id,
            fence: lease.fence,
            job: lease.job,
            shard: lease.shard,
            deadline: lease.deadline.since(self.now),
            task: lease.work.to_task(),
        };
        let session = lease.session;
        self.member_blobs(session, lease.work.inputs().map(|blob| blob.hash));
        if matches!(lease.work, Work::Tile { .. }) {
            self.computing.insert((lease.granted + lease.expected, id));
        }
        self.leases.insert(id, lease);
        self.send(session, offer);
    }

    /// Takes a lease out of every table and gives its shard back, unless others hold it or it is being stored.
    /// Bytes of a result that was arriving are let go.
    pub(crate) fn end_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.computing.remove(&(lease.granted + lease.expected, id));
        self.disarm(lease.deadline, Timer::Lease(id));
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.leases.retain(|other| *other != id);
        }
        if let Some(job) = self.jobs.get_mut(&lease.job) {
            if let Some(count) = job.holders.get_mut(&lease.session) {
                *count -= 1;
                if *count == 0 {
                    job.holders.remove(&lease.session);
                }
            }
            job.unlease(lease.shard, id);
        }
        if let Some(run) = self.runs.get_mut(&lease.job) {
            run.unlease(lease.shard, id);
            if let Work::Round { task, .. } = &lease.work {
                run.remember_lost(lease.volunteer, lease.shard, task);
            }
        }
        if let Some(eval) = self.evals.get_mut(&lease.job) {
            eval.unlease(lease.shard, id);
        }
        if let Stage::Arriving { claim, .. } = &lease.stage {
            self.let_go(claim.result.bytes);
        }
        Some(lease)
    }

    /// A lease ends without a result and without blame.
    pub(crate) fn lose(&mut self, id: LeaseId) {
        if let Some(lease) = self.end_lease(id) {
            self.totals.leases_lost += 1;
            if let Some(job) = self.jobs.get_mut(&lease.job) {
                job.leases_lost += 1;
                job.service = job.service.saturating_sub(lease.flops);
            }
            if let Some(run) = self.runs.get_mut(&lease.job) {
                run.leases_lost += 1;
                run.service = run.service.saturating_sub(lease.flops);
            }
            // What is switched off is nobody's lapse.
            if !self.is_off(&lease.job)
                && let Some(eval) = self.evals.get_mut(&lease.job)
            {
                eval.lapsed(lease.shard, lease.volunteer, self.now);
            }
        }
    }

    /// Takes a lease back and says so.
    pub(crate) fn revoke(&mut self, id: LeaseId, reason: RevokeReason) {
        if let Some(session) = self.leases.get(&id).map(|lease| lease.session) {
            self.lose(id);
            self.send(session, Revoke { lease: id, reason });
        }
    }

    pub(crate) fn lease_expired(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        match lease.stage {
            Stage::Computing if self.planted(PlantedBug::AcceptLateFence) => {
                // The bug: the units go to somebody else, and the old lease stays valid.
                let (job, shard) = (lease.job, lease.shard);
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.dissolve(shard);
                }
            }
            // A result that waits for memory waits for the relay: no blame either.
            Stage::Computing => {
                self.overdue(id);
                self.revoke(id, RevokeReason::DeadlinePassed);
            }
            Stage::Waiting(_) => self.revoke(id, RevokeReason::DeadlinePassed),
            Stage::Arriving { .. } => self.not_delivered(id),
        }
    }

    /// The bytes of a result did not arrive in time.
    fn not_delivered(&mut self, id: LeaseId) {
        let Some((session, volunteer)) = self.leases.get(&id).map(|lease| (lease.session, lease.volunteer))
        else {
            return;
        };
        self.lose(id);
        self.standings.cool_down(volunteer, self.now);
        let outcome = Outcome::Rejected(RejectReason::NotDelivered);
        self.send(session, Verdict { lease: id, outcome });
    }

    /// Rejects what a lease committed to, with blame.
    pub(crate) fn reject(&mut self, id: LeaseId, reason: RejectReason) {
        let claimed = self.leases.get(&id).map(|lease| match &lease.stage {
            Stage::Arriving { claim, .. } | Stage::Waiting(claim) => (claim.backend, Some(claim.result)),
            Stage::Computing => (lease.backend, None),
        });
        if let (Some(lease), Some((backend, claim))) = (self.end_lease(id), claimed) {
            if let Some(job) = self.jobs.get_mut(&lease.job) {
                job.service = job.service.saturating_sub(lease.flops);
            }
            if let Some(run) = self.runs.get_mut(&lease.job) {
                run.service = run.service.saturating_sub(lease.flops);
            }
            let Lease { job, shard, volunteer, session, .. } = lease;
            self.blame(&Blamed { job, shard, volunteer, session, lease: id, backend, claim }, reason);
        }
    }

    /// Writes a rejection down everywhere and tells the volunteer.
    pub(crate) fn blame(&mut self, blamed: &Blamed, reason: RejectReason) {
        let &Blamed { job, shard, volunteer, session, lease, backend, claim } = blamed;
        self.totals.rejected += 1;
        self.standings.rejected(volunteer, self.now);
        let of_shard = !self.runs.contains_key(&job);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.shards_rejected += 1;
        }
        if let Some(run) = self.runs.get_mut(&job) {
            run.rejected += 1;
        }
        let claim = claim.filter(|_| of_shard);
        self.out.push(Output::Rejected { job, shard, claim, volunteer, backend, reason });
        self.verdict(session, lease, Outcome::Rejected(reason));
    }

    /// Tells a volunteer what became of its result, if it is still there.
    pub(crate) fn verdict(&mut self, session: SessionId, lease: LeaseId, outcome: Outcome) {
        if self.sessions.contains_key(&session) {
            self.send(session, Verdict { lease, outcome });
            if outcome == Outcome::Accepted {
                self.count_for_team(session);
            }
        }
    }

    /// A deadline that passed is a measurement too: the session is slower than this. Without it, a device that
    /// is far slower than it says would be handed shards forever that it cannot complete in time.
    fn overdue(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let elapsed_s = self.now.since(lease.granted).0.max(1) as f64 / 1e3;
        let bound = lease.flops as f64 / elapsed_s * crate::policy::OVERDUE_SPEED;
        let training = lease.work.is_training();
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            let speed = session.speed_at(training);
            let bounded = speed.map_or(bound, |speed| speed.min(bound));
            *speed = Some(bounded.clamp(SPEED.start, SPEED.end));
        }
    }

    /// Updates what is known of a session's link from a result that took so long to arrive.
    pub(crate) fn measure_uplink(&mut self, id: SessionId, bytes: u64, since: Instant) {
        if bytes < crate::policy::LINK_SAMPLE_BYTES {
            return;
        }
        let elapsed_s = self.now.since(since).0.max(1) as f64 / 1e3;
        let observed = bytes as f64 / elapsed_s;
        if let Some(session) = self.sessions.get_mut(&id) {
            let before = session.uplink.unwrap_or(observed);
            session.uplink = Some(before + crate::policy::SPEED_WEIGHT * (observed - before));
        }
    }

    /// Updates a session's speed from a commit.
    pub(crate) fn measure(&mut self, id: SessionId, flops: u64, training: bool) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let elapsed_s = now.since(session.busy_since).0.max(1) as f64 / 1e3;
        session.busy_since = now;
        let observed = (flops as f64 / elapsed_s).clamp(SPEED.start, SPEED.end);
        let speed = session.speed_at(training);
        let before = speed.unwrap_or(observed);
        *speed = Some(before + crate::policy::SPEED_WEIGHT * (observed - before));
    }
}
