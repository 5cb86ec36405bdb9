//! The round that a run is in: worker slots, who holds them, and what arrived.

use crate::io::Ticket;
use crate::leasing::Claim;
use crate::policy::{ASKED_RECENTLY, EXCUSED, MAX_REASON_BYTES, QUORUM_FLOOR, QUORUM_PERCENT};
use crate::run::{PauseReason, RunPhase, RunProgress, RunSpec};
use potluck_proto::{Kept, PastUpdate, TrainTask, UpdateCodec};
use potluck_types::limits::MAX_SESSIONS;
use potluck_types::{Duration, Instant, JobId, LeaseId, SessionId, VolunteerId};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) enum Phase {
    Preparing,
    Gathering {
        since: Instant,
    },
    Open {
        /// Until then slots are dealt.
        dealing: Instant,
        /// Until then commits count.
        deadline: Instant,
    },
    Auditing {
        /// From it follows who is replayed: drawn when the commits were closed.
        challenge: [u8; 32],
    },
    Closing {
        /// The submitter asked for a pause meanwhile.
        pause: bool,
    },
    Paused,
}

/// One worker's place in a round.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) task: Arc<TrainTask>,
    /// It was leased in this attempt, to whomever.
    pub(crate) dealt: bool,
    pub(crate) state: SlotState,
}

#[derive(Debug)]
pub(crate) enum SlotState {
    Free,
    Leased { lease: LeaseId, volunteer: VolunteerId },
    Delivered(Update),
}

impl Slot {
    pub(crate) fn volunteer(&self) -> Option<VolunteerId> {
        match &self.state {
            SlotState::Free => None,
            SlotState::Leased { volunteer, .. } => Some(*volunteer),
            SlotState::Delivered(update) => Some(update.volunteer),
        }
    }

    pub(crate) const fn lease(&self) -> Option<LeaseId> {
        if let SlotState::Leased { lease, .. } = self.state { Some(lease) } else { None }
    }

    pub(crate) const fn update(&self) -> Option<&Update> {
        if let SlotState::Delivered(update) = &self.state { Some(update) } else { None }
    }
}

/// An update whose bytes are here: it no longer depends on its session.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) ticket: Ticket,
    pub(crate) lease: LeaseId,
    pub(crate) session: SessionId,
    pub(crate) volunteer: VolunteerId,
    pub(crate) claim: Claim,
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) check: UpdateCheck,
    /// On which site its person agreed.
    pub(crate) site: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpdateCheck {
    /// The round's commits are not closed.
    NotYet,
    Pending {
        audit: bool,
    },
    Right {
        audited: bool,
    },
}

/// A volunteer that could work in the round that gathers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    pub(crate) session: SessionId,
    pub(crate) at: Instant,
    /// How long it would take.
    pub(crate) expected: Duration,
}

/// A run and the round that it is in.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) spec: RunSpec,
    pub(crate) round: u64,
    pub(crate) attempt: u32,
    /// The round whose tasks were asked for and have not come.
    pub(crate) preparing: Option<u64>,
    pub(crate) phase: Phase,
    pub(crate) slots: Vec<Slot>,
    pub(crate) asking: BTreeMap<VolunteerId, Asking>,
    /// Volunteers that said that they cannot do a task of this run, and when. `MAX_SESSIONS` of them at most.
    unable: BTreeMap<VolunteerId, Instant>,
    /// Volunteers that asked when the round opened.
    pub(crate) invited: u32,
    /// Updates without which this round does not close.
    pub(crate) floor: u32,
    /// Whether a task of this attempt is being tried, because a volunteer could not do it.
    pub(crate) doubted: bool,
    /// Who had an update in the last durable round, by worker.
    pub(crate) last: Vec<Option<VolunteerId>>,
    /// The streaks of codec S that may go on. Not durable: after a restart they begin anew.
    streaks: BTreeMap<VolunteerId, Vec<Vec<PastUpdate>>>,
    /// Leases of codec S of this round that ended without an update, by volunteer.
    lost: BTreeMap<VolunteerId, (u32, Arc<TrainTask>)>,
    /// Flops handed out: the fair queue, shared with jobs.
    pub(crate) service: u64,
    /// The round was handed out to be closed, and may become durable.
    pub(crate) writing: bool,
    /// Something changed that may end the phase.
    pub(crate) changed: bool,
    pub(crate) wake: Option<Instant>,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) leases_lost: u64,
    pub(crate) repeated: u64,
}

impl Run {
    pub(crate) fn new(spec: RunSpec, round: u64, service: u64) -> Self {
        Self {
            spec,
            round,
            attempt: 0,
            preparing: None,
            phase: Phase::Preparing,
            slots: Vec::new(),
            asking: BTreeMap::new(),
            unable: BTreeMap::new(),
            invited: 0,
            floor: 0,
            doubted: false,
            last: Vec::new(),
            streaks: BTreeMap::new(),
            lost: BTreeMap::new(),
            service,
            writing: false,
            changed: false,
            wake: None,
            accepted: 0,
            rejected: 0,
            leases_lost: 0,
            repeated: 0,
        }
    }

    pub(crate) fn id(&self) -> JobId {
        self.spec.id
    }

    fn count(&self, fits: impl Fn(&Slot) -> bool) -> u32 {
        self.slots.iter().filter(|slot| fits(slot)).count() as u32
    }

    pub(crate) fn leased(&self) -> u32 {
        self.count(|slot| slot.lease().is_some())
    }

    pub(crate) fn delivered(&self) -> u32 {
        self.count(|slot| slot.update().is_some())
    }

    pub(crate) fn verified(&self) -> u32 {
        self.count(|slot| matches!(slot.update(), Some(Update { check: UpdateCheck::Right { .. }, .. })))
    }

    pub(crate) fn dealt(&self) -> u32 {
        self.count(|slot| slot.dealt)
    }

    /// Workers that the round expects: those that asked when it opened, or more if more came.
    pub(crate) fn expected(&self) -> u32 {
        self.invited.max(self.dealt())
    }

    /// Commits without which the round is repeated. Half as many with each repetition: who takes part in every attempt
    /// and commits in none cannot hold the run up.
    pub(crate) fn quorum(&self) -> u32 {
        let percent = QUORUM_PERCENT.checked_shr(self.attempt).unwrap_or(0);
        (self.expected() * percent).div_ceil(100).max(self.floor)
    }

    /// Updates without which a round of so many workers does not close.
    pub(crate) fn floor_of(&self, expected: u32) -> u32 {
        QUORUM_FLOOR.min(self.spec.min_workers).min(expected).max(1)
    }

    /// Memory that the run's results take or are sure to get.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        let used = self.leased() + self.delivered();
        self.spec.result_bytes().saturating_mul(used.max(self.spec.min_workers).into())
    }

    /// A slot for a volunteer that has none.
    pub(crate) fn free_slot(&self, volunteer: &VolunteerId) -> Option<usize> {
        if self.slots.iter().any(|slot| slot.volunteer() == Some(*volunteer)) {
            return None;
        }
        self.slots.iter().position(|slot| matches!(slot.state, SlotState::Free))
    }

    /// Remembers that a volunteer asks. `MAX_SESSIONS` of them at most.
    pub(crate) fn note(&mut self, volunteer: VolunteerId, asking: Asking) {
        let now = asking.at;
        if self.asking.len() >= MAX_SESSIONS && !self.asking.contains_key(&volunteer) {
            self.asking.retain(|_, other| now.since(other.at) < ASKED_RECENTLY);
            if self.asking.len() >= MAX_SESSIONS {
                return;
            }
        }
        self.asking.insert(volunteer, asking);
    }

    /// Remembers that a volunteer cannot do this run's tasks.
    pub(crate) fn excuse(&mut self, volunteer: VolunteerId, now: Instant) {
        if self.unable.len() >= MAX_SESSIONS {
            self.unable.retain(|_, since| now.since(*since) < EXCUSED);
        }
        if self.unable.len() < MAX_SESSIONS {
            self.unable.insert(volunteer, now);
        }
    }

    /// Whether a volunteer could not do this run's tasks lately. Leased one again at once, it would give it back at
    /// once, and ask again.
    pub(crate) fn excuses(&self, volunteer: &VolunteerId, now: Instant) -> bool {
        self.unable.get(volunteer).is_some_and(|since| now.since(*since) < EXCUSED)
    }

    /// Everybody may try again.
    pub(crate) fn forget_excuses(&mut self) {
        self.unable.clear();
    }

    /// The longest streak with which a volunteer goes on that kept this.
    pub(crate) fn streak(&self, volunteer: &VolunteerId, kept: &[Kept]) -> Vec<PastUpdate> {
        let goes_on = |streak: &&Vec<PastUpdate>| {
            streak.last().is_some_and(|last| {
                let (round, worker, counted) = (last.round, last.worker, last.result.is_some());
                kept.contains(&Kept { run: self.id(), round, worker, counted })
            })
        };
        let streaks = self.streaks.get(volunteer).into_iter().flatten();
        streaks.filter(goes_on).max_by_key(|streak| streak.len()).cloned().unwrap_or_default()
    }

    /// A lease of codec S ended without an update that counts. If the round closes without its volunteer, all of what it
    /// found waits.
    pub(crate) fn remember_lost(&mut self, volunteer: VolunteerId, worker: u32, task: &Arc<TrainTask>) {
        if task.codec == UpdateCodec::TopK && task.round == self.round {
            self.lost.insert(volunteer, (worker, Arc::clone(task)));
        }
    }

    /// A round is durable, and another one comes: streaks grow by the updates that counted, and by those that did not.
    pub(crate) fn extend_streaks(&mut self) {
        let round = self.round;
        for (volunteer, (worker, task)) in std::mem::take(&mut self.lost) {
            let mut streak = task.streak.clone();
            streak.push(PastUpdate { round, worker, result: None });
            self.streaks.entry(volunteer).or_default().insert(0, streak);
        }
        for (worker, slot) in self.slots.iter().enumerate() {
            let SlotState::Delivered(update) = &slot.state else { continue };
            if slot.task.codec == UpdateCodec::TopK {
                let mut streak = slot.task.streak.clone();
                let result = Some(update.claim.result.hash);
                streak.push(PastUpdate { round, worker: worker as u32, result });
                self.streaks.insert(update.volunteer, vec![streak]);
            }
        }
        for streaks in self.streaks.values_mut() {
            // The one that waits since this round, and the one before: whichever the volunteer has.
            streaks.truncate(2);
        }
    }

    /// Where the number of the round is a multiple, streaks end.
    pub(crate) fn end_streaks(&mut self) {
        if self.spec.streak == 0 || self.round.is_multiple_of(self.spec.streak) {
            self.streaks.clear();
        }
        self.lost.clear();
    }

    /// A liar's streak is worth nothing.
    pub(crate) fn forget_streak(&mut self, volunteer: &VolunteerId) {
        self.streaks.remove(volunteer);
        self.lost.remove(volunteer);
    }

    /// Frees a slot whose lease ended.
    pub(crate) fn unlease(&mut self, worker: u32, lease: LeaseId) {
        if let Some(slot) = self.slots.get_mut(worker as usize)
            && slot.lease() == Some(lease)
        {
            slot.state = SlotState::Free;
            self.changed = true;
        }
    }

    /// Takes an update out; its bytes and its volunteer are the caller's to look after.
    pub(crate) fn take_update(&mut self, worker: usize) -> Option<Update> {
        let slot = self.slots.get_mut(worker)?;
        slot.update()?;
        self.changed = true;
        match std::mem::replace(&mut slot.state, SlotState::Free) {
            SlotState::Delivered(update) => Some(update),
            _ => None,
        }
    }

    /// The updates that arrived, with their workers.
    pub(crate) fn updates(&self) -> impl Iterator<Item = (usize, &Update)> {
        self.slots.iter().enumerate().filter_map(|(worker, slot)| Some((worker, slot.update()?)))
    }

    pub(crate) fn progress(&self) -> RunProgress {
        RunProgress {
            rounds: self.spec.rounds,
            round: self.round,
            attempt: self.attempt,
            phase: match self.phase {
                Phase::Preparing => RunPhase::Preparing,
                Phase::Gathering { .. } => RunPhase::Gathering,
                Phase::Open { .. } => RunPhase::Open,
                Phase::Auditing { .. } => RunPhase::Auditing,
                Phase::Closing { .. } => RunPhase::Closing,
                Phase::Paused => RunPhase::Paused,
            },
            asking: self.asking.len() as u32,
            expected: self.expected(),
            leased: self.leased(),
            delivered: self.delivered(),
            verified: self.verified(),
            accepted: self.accepted,
            rejected: self.rejected,
            leases_lost: self.leases_lost,
            repeated: self.repeated,
        }
    }
}

/// A reason from outside, cut to its limit.
pub(crate) fn failed(mut reason: String) -> PauseReason {
    let end = (0..=reason.len().min(MAX_REASON_BYTES)).rev().find(|&end| reason.is_char_boundary(end));
    reason.truncate(end.unwrap_or(0));
    PauseReason::Failed(reason)
}
