//! Who gets a worker slot of a training round, and when a round opens.
//!
//! Jobs and runs share volunteers by one fair queue of operations handed out, and it is asked when a round opens, not
//! slot by slot: a round that is open goes first, since one that is half dealt is repeated and all of its work lost.
//! While a run waits for its turn or for volunteers, those that ask work on jobs.

use crate::leasing::{Lease, Stage, Work, missing_bytes};
use crate::policy::{
    ASKED_RECENTLY, GATHER, GRACE, LINK_BYTES_PER_SECOND, MAX_ROUND, MAX_UPDATES_IN_MEMORY_BYTES, MIN_ROUND,
    ROUND_FACTOR, ROUND_FOR, SPEED, TRAIN_EFFICIENCY,
};
use crate::relay::{Relay, Timer};
use crate::round::{Asking, Phase, Run, SlotState};
use crate::session::Session;
use potluck_proto::{LeaseRequest, UpdateCodec};
use potluck_types::{BlobHash, Duration, Instant, JobId, SessionId, VolunteerId};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Relay {
    /// A slot of a round for this volunteer. May open a round.
    pub(crate) fn find_slot(
        &mut self,
        id: SessionId,
        volunteer: VolunteerId,
        request: &LeaseRequest,
        held: &BTreeSet<BlobHash>,
    ) -> Option<(JobId, usize)> {
        let mut by_turn = Vec::new();
        for run in self.runs.values().filter(|run| !self.is_off(&run.id())) {
            let open = match run.phase {
                Phase::Open { .. } => true,
                Phase::Gathering { .. } => false,
                _ => continue,
            };
            if run.spec.memory_bytes <= request.memory_bytes && !run.excuses(&volunteer, self.now) {
                by_turn.push((!open, run.service, run.id()));
            }
        }
        by_turn.sort_unstable();
        for (gathers, _, run) in by_turn {
            let expected = self.round_time(id, &run, request, held);
            if gathers && !self.try_open(&run, volunteer, Asking { session: id, at: self.now, expected }) {
                continue;
            }
            if let Some(slot) = self.slot_in(&run, volunteer, expected) {
                return Some((run, slot));
            }
        }
        None
    }

    /// Whether some round needs more memory than this.
    pub(crate) fn lacks_memory(&self, bytes: u64) -> bool {
        let waits = |run: &&Run| matches!(run.phase, Phase::Open { .. } | Phase::Gathering { .. });
        self.runs.values().filter(waits).any(|run| run.spec.memory_bytes > bytes)
    }

    /// How long a session would take for one worker's part: what it holds already, inputs, steps, result.
    fn round_time(
        &self,
        id: SessionId,
        run: &JobId,
        request: &LeaseRequest,
        held: &BTreeSet<BlobHash>,
    ) -> Duration {
        let (Some(run), Some(session)) = (self.runs.get(run), self.sessions.get(&id)) else {
            return MAX_ROUND;
        };
        let claimed = f64::from(request.mflops) * 1e6 * TRAIN_EFFICIENCY;
        let speed = session.training_speed.unwrap_or(claimed).clamp(SPEED.start, SPEED.end);
        let result_bytes = run.spec.result_bytes();
        let missing = run.slots.first().map_or(0, |slot| {
            missing_bytes(&Work::Round { task: Arc::clone(&slot.task), result_bytes }, held)
        });
        let bytes = missing.saturating_add(result_bytes);
        let seconds = run.spec.flops as f64 / speed + bytes as f64 / LINK_BYTES_PER_SECOND;
        // Saturates: a float beyond u64 becomes its greatest value.
        Duration(((seconds * 1e3) as u64).saturating_add(self.queued(id).0))
    }

    /// How a volunteer's update is to be encoded: see [`SparsePolicy`](crate::SparsePolicy).
    fn codec_for(&self, run: &Run, volunteer: &VolunteerId, session: SessionId) -> UpdateCodec {
        let Some(sparse) = run.spec.sparse else { return run.spec.codec };
        let uplink = self.sessions.get(&session).and_then(|session| session.uplink);
        let slow = uplink.is_some_and(|speed| speed < sparse.slow_link as f64);
        let worth_it = slow || run.spec.update_bytes > sparse.large_update;
        let credible = self.standings.audits_passed(volunteer) >= run.spec.audit.first;
        if credible && worth_it { UpdateCodec::TopK } else { run.spec.codec }
    }

    /// A free slot in an open round that this volunteer can still complete.
    fn slot_in(&self, id: &JobId, volunteer: VolunteerId, expected: Duration) -> Option<usize> {
        let run = self.runs.get(id)?;
        let Phase::Open { dealing, deadline } = run.phase else { return None };
        if self.now >= dealing || expected > deadline.since(self.now) {
            return None;
        }
        let used = run.leased() + run.delivered();
        let all: u64 = self.runs.values().map(Run::reserved_bytes).fold(0, u64::saturating_add);
        let room = used < run.spec.min_workers
            || all.saturating_add(run.spec.result_bytes()) <= MAX_UPDATES_IN_MEMORY_BYTES;
        room.then(|| run.free_slot(&volunteer)).flatten()
    }

    /// Opens a round that gathers, if it is its turn and enough volunteers ask that can complete it in time.
    fn try_open(&mut self, id: &JobId, volunteer: VolunteerId, asking: Asking) -> bool {
        let others = self.jobs.values().filter(|job| job.free > 0).map(|job| job.service).min();
        let Some(run) = self.runs.get_mut(id) else { return false };
        let Phase::Gathering { since } = run.phase else { return false };
        run.note(volunteer, asking);
        let (now, sessions) = (self.now, &self.sessions);
        run.asking.retain(|_, other| {
            now.since(other.at) < ASKED_RECENTLY
                && sessions.get(&other.session).is_some_and(|session| session.consents(now))
        });
        let grace_over = run.spec.short_rounds && now.since(since) >= GRACE;
        let need = if grace_over { 1 } else { run.spec.min_workers as usize };
        let mut times: Vec<_> = run.asking.values().map(|asking| asking.expected).collect();
        times.sort_unstable();
        let missing = |session: &Session| {
            session.lends(now)
                && session.volunteer.is_some_and(|volunteer| {
                    !run.asking.contains_key(&volunteer) && !run.excuses(&volunteer, now)
                })
        };
        let all = times.len() >= run.spec.max_workers as usize || !sessions.values().any(missing);
        if !all && now.since(since) < GATHER {
            return false;
        }
        let counted = need.max((times.len() as f64 * ROUND_FOR).ceil() as usize);
        let Some(slowest) = counted.checked_sub(1).and_then(|last| times.get(last)) else { return false };
        let time = Duration((slowest.0 as f64 * ROUND_FACTOR) as u64).clamp(MIN_ROUND, MAX_ROUND);
        let able = times.iter().filter(|expected| **expected <= time).count();
        if able < need {
            return false;
        }
        let flops = run.spec.flops;
        if let Some(others) = others {
            if run.service > others {
                return false;
            }
            // Time spent waiting for volunteers is no claim to all of them later.
            run.service = run.service.max(others.saturating_sub(flops.saturating_mul(able as u64)));
        }
        run.invited = able.min(run.slots.len()) as u32;
        run.floor = run.floor_of(run.invited);
        run.asking.clear();
        run.doubted = false;
        run.phase = Phase::Open { dealing: now + Duration(time.0 / 2), deadline: now + time };
        self.wake_run(id, now + Duration(time.0 / 2));
        true
    }

    /// Arms a run's one timer.
    pub(crate) fn wake_run(&mut self, id: &JobId, at: Instant) {
        self.rest_run(id);
        if let Some(run) = self.runs.get_mut(id) {
            run.wake = Some(at);
            self.arm(at, Timer::Run(*id));
        }
    }

    /// Disarms it.
    pub(crate) fn rest_run(&mut self, id: &JobId) {
        if let Some(at) = self.runs.get_mut(id).and_then(|run| run.wake.take()) {
            self.disarm(at, Timer::Run(*id));
        }
    }

    pub(crate) fn grant_slot(
        &mut self,
        session: SessionId,
        volunteer: VolunteerId,
        id: &JobId,
        worker: usize,
        request: &LeaseRequest,
        held: &BTreeSet<BlobHash>,
    ) {
        let expected = self.round_time(session, id, request, held);
        let (lease, fence) = self.new_lease();
        let Some(run) = self.runs.get(id) else { return };
        let codec = self.codec_for(run, &volunteer, session);
        let streak = match codec {
            UpdateCodec::TopK => run.streak(&volunteer, &request.kept),
            _ => Vec::new(),
        };
        let Some(run) = self.runs.get_mut(id) else { return };
        let Phase::Open { deadline, .. } = run.phase else { return };
        let (result_bytes, flops) = (run.spec.result_bytes_of(codec), run.spec.flops);
        let Some(slot) = run.slots.get_mut(worker) else { return };
        let first = !slot.dealt;
        slot.dealt = true;
        slot.state = SlotState::Leased { lease, volunteer };
        let task = Arc::make_mut(&mut slot.task);
        (task.codec, task.streak) = (codec, streak);
        let work = Work::Round { task: Arc::clone(&slot.task), result_bytes };
        run.service = run.service.saturating_add(flops);
        let opened = first && run.dealt() == 1;
        let granted = Lease {
            fence,
            session,
            volunteer,
            job: *id,
            shard: worker as u32,
            missing: missing_bytes(&work, held),
            work,
            flops,
            granted: self.now,
            expected,
            deadline,
            backend: request.backend,
            stage: Stage::Computing,
        };
        self.enter(lease, granted);
        if opened {
            // The others that are idle need not wait until they would ask again.
            self.announce_work(id);
        }
    }
}
