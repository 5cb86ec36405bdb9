//! What the operator switched off: kernels, projects, sites. Work on them is taken back without blame and none is given out
//! until they are switched on again; nothing that was accepted is lost.

use crate::relay::Relay;
use potluck_proto::RevokeReason;
use potluck_types::{DType, JobId, SessionId};
use std::collections::BTreeSet;

/// What volunteers may be asked to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// Products of f32 matrices.
    MatmulF32,
    /// Products of int8 matrices.
    MatmulInt8,
    /// Training steps of language models, and what asks them questions.
    Train,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MatmulF32, Self::MatmulInt8, Self::Train];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MatmulF32 => "matmul/f32",
            Self::MatmulInt8 => "matmul/int8",
            Self::Train => "train/gpt2",
        }
    }

    /// The kernel of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }

    /// The kernel of products of a type.
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::MatmulF32,
            DType::Int8 => Self::MatmulInt8,
        }
    }
}

/// What is off. By default nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    /// Kernels that nobody is asked to run.
    pub kernels: BTreeSet<Kernel>,
    /// Jobs, runs and evals that nobody works on.
    pub projects: BTreeSet<JobId>,
    /// Origins of sites whose visitors lend nothing.
    pub sites: BTreeSet<String>,
}

impl Switches {
    /// Whether nothing is off.
    pub fn is_empty(&self) -> bool {
        self.kernels.is_empty() && self.projects.is_empty() && self.sites.is_empty()
    }

    /// Whether a project is off, by its kernel or by itself.
    pub fn stop(&self, kernel: Kernel, project: &JobId) -> bool {
        // Asked of every job at each request for work, and most relays switch nothing off.
        !self.is_empty() && (self.kernels.contains(&kernel) || self.projects.contains(project))
    }

    /// Why a consent that was given on a site does not count; `None` if it may.
    pub(crate) fn refusal(&self, site: &str) -> Option<String> {
        self.sites.contains(site).then(|| format!("the operator switched {site} off"))
    }
}

impl Relay {
    /// Whether nobody may work on a job, run or eval, be it that it is off or that everything is halted. Runs are halted one by
    /// one.
    pub(crate) fn is_off(&self, id: &JobId) -> bool {
        if self.runs.contains_key(id) {
            return self.switches.stop(Kernel::Train, id);
        }
        let kernel = self.jobs.get(id).map_or(Kernel::Train, |job| Kernel::of(job.spec.dtype));
        self.halted || self.switches.stop(kernel, id)
    }

    /// Takes the leases of jobs and evals that are off back, without blame, refuses sites, and says where there is work again.
    /// An open round of a run is given up with [`RunInput::Paused`](crate::RunInput::Paused).
    pub(crate) fn switch(&mut self, switches: Switches) {
        let waiting: Vec<_> = self.jobs.keys().chain(self.evals.keys()).copied().collect();
        let were_off: Vec<_> = waiting.into_iter().filter(|id| self.is_off(id)).collect();
        self.switches = switches;
        self.take_back();
        for work in were_off {
            if !self.is_off(&work) {
                self.announce_work(&work);
            }
        }
        let refused: Vec<(SessionId, String)> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, self.switches.refusal(&session.site()?)?)))
            .collect();
        for (id, why) in refused {
            self.refuse_site(id, &why);
        }
    }

    /// Takes back what nobody may work on any more. Rounds are given up by their runs.
    pub(crate) fn take_back(&mut self) {
        let off =
            |lease: &crate::leasing::Lease| !self.runs.contains_key(&lease.job) && self.is_off(&lease.job);
        let leases: Vec<_> = self.leases.iter().filter_map(|(id, lease)| off(lease).then_some(*id)).collect();
        for lease in leases {
            self.revoke(lease, RevokeReason::JobCanceled);
        }
    }
}
