//! Leases on their way: inputs, kernel, commit, verdict.

use crate::engine::Engine;
use crate::io::{Action, Choice, Run, RunId};
use crate::keep::{self, Entry};
use crate::limits::{RESULT_TTL, share};
use crate::proof::Subject;
use crate::task::{Needs, workload};
use potluck_proto::{
    Backend, BlobChunk, BlobRef, Commit, Kept, Lease, Outcome, Release, ReleaseReason, Task, Verdict,
};
use potluck_train::streak::Streak;
use potluck_types::limits::MAX_LEASES_PER_SESSION;
use potluck_types::{BlobHash, Duration, Fence, Instant, JobId, LeaseId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The device.
#[derive(Debug)]
pub(crate) enum Device {
    /// Not measured yet.
    Unknown,
    /// Being measured, for this choice.
    Measuring(Choice),
    /// Measured.
    Ready { backend: Backend, mflops: u32 },
    /// Failed; measured again later.
    Failed { retry_at: Instant },
    /// No device works.
    None,
}

/// How far a lease is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Inputs arrive.
    Fetching,
    /// All inputs are here.
    Ready,
    /// The kernel runs, on this backend whatever is chosen meanwhile, unless the adapter says another; so many inner
    /// steps are done.
    Running { run: RunId, backend: Backend, steps: u32 },
    /// The result is named, and served until its verdict.
    Committed {
        hash: BlobHash,
        result: Arc<Vec<u8>>,
        /// Bytes that the relay may still ask for: a hostile one cannot have it sent without end.
        credit: u64,
        /// With codec S, where the next round goes on. Boxed: it is rare.
        kept: Option<Box<Entry>>,
    },
}

/// One lease.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) lease: LeaseId,
    run: JobId,
    fence: Fence,
    pub(crate) task: Task,
    needs: Needs,
    /// What has to stand in the public log before it runs.
    pub(crate) subject: Option<Subject>,
    /// The lease's deadline, later the time until which the result is kept.
    pub(crate) until: Instant,
    /// What was kept after the last round of the task's streak.
    kept: Option<Arc<Streak>>,
    inputs: BTreeMap<BlobHash, Arc<Vec<u8>>>,
    pub(crate) stage: Stage,
}

/// Times over that the relay may fetch a result.
const REFETCHES: u64 = 4;

impl Engine {
    pub(crate) fn take_lease(&mut self, offer: Lease, asked: bool) {
        let Lease { lease, job: run, fence, deadline, task, .. } = offer;
        let open = self.work.iter().filter(|work| !matches!(work.stage, Stage::Committed { .. })).count();
        let known = self.work.iter().any(|work| work.lease == lease);
        if !asked || known || open >= MAX_LEASES_PER_SESSION || !self.may_work() {
            return self.send(Release { lease, reason: ReleaseReason::Withdrawn });
        }
        let needs = Needs::of(&task, self.options.memory_bytes);
        let (Some(needs), Some(kept)) = (needs, self.kept_for(run, &task)) else {
            return self.send(Release { lease, reason: ReleaseReason::Unsupported });
        };
        let subject = Subject::of(run, &task).filter(|_| self.options.demand_proof);
        if subject.is_some_and(|subject| !self.demand_proof(subject)) {
            return self.send(Release { lease, reason: ReleaseReason::Unproven });
        }
        let work = Work {
            lease,
            run,
            fence,
            task,
            needs,
            subject,
            until: self.now + deadline,
            kept,
            inputs: BTreeMap::new(),
            stage: Stage::Fetching,
        };
        for blob in &work.needs.inputs {
            self.mesh.want(*blob);
        }
        self.work.push(work);
        self.inputs_arrived();
    }

    /// Results whose verdicts are due, and what is kept.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let committed = self.work.iter().filter_map(|work| match &work.stage {
            Stage::Committed { kept, .. } => kept.as_deref(),
            _ => None,
        });
        committed.chain(self.keep.entries())
    }

    /// Rounds after which this volunteer can go on.
    pub(crate) fn said_kept(&self) -> Vec<Kept> {
        keep::said(self.entries())
    }

    /// What was kept after the last round of a task's streak, if it has one. `None` if that is not here.
    #[expect(clippy::option_option, reason = "nothing to go on from, and nothing that is needed")]
    fn kept_for(&self, run: JobId, task: &Task) -> Option<Option<Arc<Streak>>> {
        let Task::Train(task) = task else { return Some(None) };
        let Some(last) = task.streak.last() else { return Some(None) };
        self.entries().find_map(|entry| entry.at(run, last)).map(Some)
    }

    /// Leases whose inputs are all here become ready.
    fn inputs_arrived(&mut self) {
        for work in &mut self.work {
            if matches!(work.stage, Stage::Fetching)
                && work.needs.inputs.iter().all(|blob| work.inputs.contains_key(&blob.hash))
            {
                work.stage = Stage::Ready;
            }
        }
    }

    /// An input is here, whole and right.
    pub(crate) fn input_arrived(&mut self, hash: &BlobHash, bytes: &Arc<Vec<u8>>) {
        for work in &mut self.work {
            let needs =
                work.needs.inputs.iter().any(|blob| blob.hash == *hash && blob.bytes == bytes.len() as u64);
            if matches!(work.stage, Stage::Fetching) && needs {
                work.inputs.insert(*hash, Arc::clone(bytes));
            }
        }
        self.inputs_arrived();
    }

    /// An input is not to be had: its leases go back.
    pub(crate) fn input_missing(&mut self, hash: &BlobHash) {
        let lost = self.leases(|work| {
            matches!(work.stage, Stage::Fetching) && work.needs.inputs.iter().any(|input| input.hash == *hash)
        });
        for lease in lost {
            self.drop_work(lease);
            self.send(Release { lease, reason: ReleaseReason::InputMissing });
        }
    }

    /// Starts the oldest lease that is ready, if the device is free.
    pub(crate) fn run_next(&mut self) {
        let Device::Ready { backend, .. } = self.device else { return };
        if self.work.iter().any(|work| matches!(work.stage, Stage::Running { .. })) {
            return;
        }
        let ready = |work: &Work| matches!(work.stage, Stage::Ready) && self.is_proven(work);
        let Some(at) = self.work.iter().position(ready) else { return };
        let work = &mut self.work[at];
        let id = RunId(self.next_run);
        self.next_run += 1;
        let (inputs, kept) = (std::mem::take(&mut work.inputs), work.kept.take());
        work.stage = Stage::Running { run: id, backend, steps: 0 };
        let work = workload(&work.task, &inputs, kept);
        self.out.push(Action::Run(Run { id, backend, share: share(self.preset), work }));
    }

    /// The lease that a run belongs to and what computes it, if it still counts.
    pub(crate) fn running(&self, run: RunId) -> Option<(LeaseId, Backend)> {
        self.work.iter().find_map(|work| match work.stage {
            Stage::Running { run: current, backend, .. } if current == run => Some((work.lease, backend)),
            _ => None,
        })
    }

    /// A run got further.
    pub(crate) fn progressed(&mut self, run: RunId, done: u32) {
        for work in &mut self.work {
            if let Stage::Running { run: current, steps, .. } = &mut work.stage
                && *current == run
            {
                *steps = done;
            }
        }
    }

    /// A run is computed with another backend than it was started with.
    pub(crate) fn runs_on(&mut self, run: RunId, on: Backend) {
        for work in &mut self.work {
            if let Stage::Running { run: current, backend, .. } = &mut work.stage
                && *current == run
            {
                *backend = on;
            }
        }
    }

    /// A result: its hash goes out before a byte of it.
    pub(crate) fn kernel_done(
        &mut self,
        run: RunId,
        result: Vec<u8>,
        busy: Duration,
        kept: Option<Arc<Streak>>,
    ) {
        let Some((lease, backend)) = self.running(run) else { return };
        self.counters.busy_ms += busy.0;
        let now = self.now;
        let Some(work) = self.work.iter_mut().find(|work| work.lease == lease) else { return };
        let expected = work.needs.result_bytes;
        if result.len() as u64 != expected {
            self.drop_work_quietly(lease);
            self.send(Release { lease, reason: ReleaseReason::DeviceFailed });
            return self.run_failed(false);
        }
        let hash = BlobHash::of(&result);
        let commit = Commit {
            lease,
            fence: work.fence,
            result: BlobRef { hash, bytes: expected },
            compute_ms: busy.0.min(u64::from(u32::MAX)) as u32,
            backend,
        };
        work.until = now + RESULT_TTL;
        let (result, credit) = (Arc::new(result), expected.saturating_mul(REFETCHES));
        let kept = kept.and_then(|kept| Entry::of(work.run, &work.task, kept, Arc::clone(&result)));
        let kept = kept.map(Box::new);
        work.stage = Stage::Committed { hash, result, credit, kept };
        self.device_works();
        self.send(commit);
    }

    /// A part of a committed result.
    pub(crate) fn read_result(&mut self, hash: &BlobHash, offset: u64, bytes: u32) -> Option<BlobChunk> {
        let (mut found, mut last) = (None, false);
        for work in &mut self.work {
            if let Stage::Committed { hash: own, result, credit, .. } = &mut work.stage
                && own == hash
                && *credit >= u64::from(bytes)
            {
                let end = offset
                    .checked_add(u64::from(bytes))
                    .filter(|end| bytes > 0 && *end <= result.len() as u64)?;
                *credit -= u64::from(bytes);
                last = end == result.len() as u64;
                let data = result[offset as usize..end as usize].to_vec();
                found = Some(BlobChunk { hash: *hash, offset, data });
                break;
            }
        }
        if last {
            self.ask_soon();
        }
        found
    }

    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        let Some(work) = self.take_work(verdict.lease) else { return };
        self.counters.outcome(verdict.outcome, work.needs.flops);
        self.keep_of(work, Some(verdict.outcome));
        self.ask_soon();
    }

    pub(crate) fn revoked(&mut self, lease: LeaseId) {
        if self.drop_work(lease) {
            self.counters.superseded += 1;
            self.ask_soon();
        }
    }

    /// Drops leases whose time is over; the relay has given them to others.
    pub(crate) fn expire_work(&mut self) {
        let now = self.now;
        for lease in self.leases(|work| work.until <= now) {
            self.drop_work(lease);
        }
    }

    fn leases(&self, fits: impl Fn(&Work) -> bool) -> Vec<LeaseId> {
        self.work.iter().filter(|work| fits(work)).map(|work| work.lease).collect()
    }

    /// Keeps what a result was to lead to.
    fn keep_of(&mut self, work: Work, outcome: Option<Outcome>) {
        if let Stage::Committed { kept: Some(entry), .. } = work.stage {
            self.keep.push(*entry, outcome);
        }
    }

    /// Ends a lease whose outcome nobody told. `false` if there is none.
    pub(crate) fn drop_work(&mut self, lease: LeaseId) -> bool {
        let Some(work) = self.take_work(lease) else { return false };
        self.keep_of(work, None);
        true
    }

    /// Takes a lease out, cancels its kernel, and forgets fetches that only it needed.
    fn take_work(&mut self, lease: LeaseId) -> Option<Work> {
        let at = self.work.iter().position(|work| work.lease == lease)?;
        if let Stage::Running { run, .. } = self.work[at].stage {
            self.out.push(Action::Cancel(run));
        }
        let work = self.work.remove(at);
        if matches!(work.stage, Stage::Fetching) {
            for blob in &work.needs.inputs {
                let needs = |other: &Work| {
                    matches!(other.stage, Stage::Fetching) && other.needs.inputs.contains(blob)
                };
                if !self.work.iter().any(needs) {
                    self.mesh.unwant(&blob.hash);
                }
            }
        }
        Some(work)
    }

    /// As [`Engine::drop_work`] for a run that has ended by itself.
    pub(crate) fn drop_work_quietly(&mut self, lease: LeaseId) {
        self.work.retain(|work| work.lease != lease);
    }

    pub(crate) fn drop_all_work(&mut self) {
        for lease in self.leases(|_| true) {
            self.drop_work(lease);
        }
    }
}
