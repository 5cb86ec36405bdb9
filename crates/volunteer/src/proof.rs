//! What a volunteer demands before it computes: the proof that a run, or parameters that it is asked about, stands in the
//! relay's public log. What is hidden there is not worked on.
//!
//! The adapter fetches the proof and checks it (`potluck-ledger`); here is decided what is asked for, and what follows.

use crate::engine::Engine;
use crate::io::Action;
use crate::limits::{MAX_PROOFS, PROOF_RETRY};
use crate::link::Link;
use crate::work::{Stage, Work};
use potluck_proto::{Release, ReleaseReason, Task};
use potluck_types::{BlobHash, Instant, JobId};

/// What has to stand in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A training run, by its name.
    Run(JobId),
    /// A candidate, by the hash of its parameters.
    Parameters(BlobHash),
}

impl Subject {
    /// What a task needs proof of. Products of matrices need none: their jobs are logged, but nothing is made of them.
    pub(crate) const fn of(run: JobId, task: &Task) -> Option<Self> {
        match task {
            Task::Matmul(_) => None,
            Task::Train(_) => Some(Self::Run(run)),
            Task::Eval(task) => Some(Self::Parameters(task.parameters.hash)),
        }
    }
}

/// How far a proof is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    Asked,
    Shown,
    Failed { until: Instant },
}

impl Engine {
    /// Whether work on this may begin; asks for the proof if it was not. `false` if it failed lately.
    pub(crate) fn demand_proof(&mut self, subject: Subject) -> bool {
        if let Some(Proof::Failed { until }) = self.proofs.get(&subject)
            && self.now < *until
        {
            return false;
        }
        if matches!(self.proofs.get(&subject), None | Some(Proof::Failed { .. })) {
            if self.proofs.len() >= MAX_PROOFS {
                self.proofs.retain(|_, proof| *proof == Proof::Asked);
            }
            self.proofs.insert(subject, Proof::Asked);
            let relay = match &self.link {
                Link::Up(session) => session.relay.unwrap_or_default(),
                _ => [0; 32],
            };
            self.out.push(Action::Prove { subject, relay });
        }
        true
    }

    /// Whether nothing is asked for, or it was shown.
    pub(crate) fn is_proven(&self, work: &Work) -> bool {
        work.subject.is_none_or(|subject| self.proofs.get(&subject) == Some(&Proof::Shown))
    }

    /// The adapter checked a proof, or found none.
    pub(crate) fn proven(&mut self, subject: Subject, outcome: Result<(), String>) {
        let Some(proof @ Proof::Asked) = self.proofs.get_mut(&subject) else { return };
        let Err(reason) = outcome else {
            *proof = Proof::Shown;
            self.counters.unproven = None;
            return;
        };
        *proof = Proof::Failed { until: self.now + PROOF_RETRY };
        self.counters.unproven = Some(reason);
        let open = |work: &&Work| !matches!(work.stage, Stage::Committed { .. });
        let theirs = self.work.iter().filter(open).filter(|work| work.subject == Some(subject));
        for lease in theirs.map(|work| work.lease).collect::<Vec<_>>() {
            self.drop_work(lease);
            self.send(Release { lease, reason: ReleaseReason::Unproven });
        }
    }
}
