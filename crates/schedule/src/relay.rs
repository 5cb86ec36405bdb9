//! The state of the relay, and the routing of inputs to the modules that handle them.

use crate::admission::Admission;
use crate::credibility::Standings;
use crate::embeds::Embeds;
use crate::eval::Eval;
use crate::io::{AcceptedTile, Input, JobProgress, JobSpec, Output, Ticket, Totals};
use crate::job::Job;
use crate::leasing::Lease;
use crate::mesh;
use crate::policy::MAX_ENDED;
use crate::results::Delivered;
use crate::round::Run;
use crate::run::RunProgress;
use crate::session::Session;
use crate::switches::Switches;
use potluck_proto::{Challenge, RevokeReason};
use potluck_types::limits::MAX_SESSIONS;
use potluck_types::{ConsentToken, Instant, JobId, LeaseId, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What differs between relays.
#[derive(Debug, Clone)]
pub struct Config {
    /// Secret from which consent tokens and challenges are derived; drawn anew at every start.
    pub seed: [u8; 32],
    /// The relay's own public key: part of what volunteers sign. The same at every start.
    pub identity: [u8; 32],
    /// Grows by one at every start of the relay: the upper half of every fencing token.
    pub incarnation: u32,
    /// On which other sites tabs may be lent.
    pub embeds: Embeds,
    /// Sessions at once; [`MAX_SESSIONS`] at most.
    pub max_sessions: usize,
    /// A bug to plant, for the simulator's own tests.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<PlantedBug>,
}

impl Config {
    /// A relay's configuration.
    pub fn new(seed: [u8; 32], incarnation: u32, identity: [u8; 32]) -> Self {
        Self {
            seed,
            identity,
            incarnation,
            embeds: Embeds::default(),
            max_sessions: MAX_SESSIONS,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

/// Bugs that the simulator's tests plant (feature `planted-bugs`) to prove that its invariants catch them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// A lease whose deadline passed still counts: its fencing token is accepted late.
    AcceptLateFence,
    /// Expired and withdrawn consents still lead to leases.
    IgnoreConsentExpiry,
    /// The leases of a session that disconnects are forgotten instead of leased again.
    ForgetRelease,
    /// A second result for a shard is stored although the first was.
    AcceptTwice,
    /// A round is closed as soon as its commits are in: updates count before their checks are done.
    CountUnchecked,
    /// Who is replayed is drawn once a quorum has committed, while others still compute and may commit.
    DrawEarly,
    /// The signature of a Hello is not checked: whoever names a volunteer is it.
    BelieveNames,
    /// A shard of an eval is settled from the first answer, however many it wants.
    SettleAlone,
    /// Whoever answered a shard of an eval is asked for the other answers too.
    AskTwice,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The deadline of a lease: commit, then delivery.
    Lease(LeaseId),
    /// Hello is due, or the session was silent for too long.
    Session(SessionId),
    /// Pictures are due.
    Pictures,
    /// A run's round ends its dealing, or its commits. After the leases of the same instant.
    Run(JobId),
    /// The mesh is to be tended.
    Mesh,
}

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) admission: Admission,
    /// Sessions that lend, by when their consent ends.
    pub(crate) lenders: BTreeSet<(Instant, SessionId)>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) runs: BTreeMap<JobId, Run>,
    pub(crate) evals: BTreeMap<JobId, Eval>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// Leases of tiles that are being computed, by when they are expected to end.
    pub(crate) computing: BTreeSet<(Instant, LeaseId)>,
    pub(crate) delivered: BTreeMap<Ticket, Delivered>,
    /// Committed leases whose results wait for memory, first come, first served.
    pub(crate) waiting: VecDeque<LeaseId>,
    pub(crate) standings: Standings,
    pub(crate) mesh: mesh::State,
    pub(crate) result_bytes: u64,
    pub(crate) totals: Totals,
    pub(crate) shutting_down: bool,
    /// Nothing is leased.
    pub(crate) halted: bool,
    pub(crate) switches: Switches,
    pub(crate) pictures_armed: bool,
    timers: BTreeSet<(Instant, Timer)>,
    ended: VecDeque<(JobId, JobProgress)>,
    ended_runs: VecDeque<(JobId, RunProgress)>,
    next_lease: u64,
    next_ticket: u64,
    tokens_issued: u64,
    challenges_issued: u64,
    pub(crate) out: Vec<Output>,
}

impl Relay {
    /// An empty relay.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            now: Instant(0),
            sessions: BTreeMap::new(),
            admission: Admission::default(),
            lenders: BTreeSet::new(),
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            evals: BTreeMap::new(),
            leases: BTreeMap::new(),
            computing: BTreeSet::new(),
            delivered: BTreeMap::new(),
            waiting: VecDeque::new(),
            standings: Standings::default(),
            mesh: mesh::State::default(),
            result_bytes: 0,
            totals: Totals::default(),
            shutting_down: false,
            halted: false,
            switches: Switches::default(),
            pictures_armed: false,
            timers: BTreeSet::new(),
            ended: VecDeque::new(),
            ended_runs: VecDeque::new(),
            next_lease: 1,
            next_ticket: 1,
            tokens_issued: 0,
            challenges_issued: 0,
            out: Vec::new(),
        }
    }

    /// Takes in what happened and says what is to be done, in order. Time that runs backwards stands still.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        self.expire_consents();
        match input {
            Input::Opened { session, address } => self.opened(session, address),
            Input::Message { session, message } => self.message(session, message),
            Input::Undecodable { session, error } => self.undecodable(session, &error),
            Input::Closed { session } => self.closed(session),
            Input::JobAdded { job, accepted } => self.add_job(job, &accepted),
            Input::JobCanceled { job } => self.cancel_job(&job),
            Input::Run(input) => self.run_input(input),
            Input::Eval(input) => self.eval_input(input),
            Input::VolunteerKnown { volunteer, record } => self.standings.know(volunteer, record),
            Input::Checked { ticket, verdict } => self.checked(ticket, verdict),
            Input::Stored { ticket } => self.stored(ticket),
            Input::StoreFailed { ticket } => self.store_failed(ticket),
            Input::ShuttingDown => self.shut_down(),
            Input::Halted { halted } => self.halt(halted),
            Input::Switched(switches) => self.switch(switches),
            Input::Public { session, blob, public } => self.public(session, blob, public),
            Input::Tick => {}
        }
        self.fire_timers();
        self.advance_runs();
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How far a job is; `None` if it neither runs nor ended recently.
    pub fn progress(&self, job: &JobId) -> Option<JobProgress> {
        let running = self.jobs.get(job).map(Job::progress);
        running.or_else(|| self.ended.iter().rev().find(|(id, _)| id == job).map(|(_, progress)| *progress))
    }

    /// How far a run is; `None` if it neither runs nor ended recently.
    pub fn run_progress(&self, run: &JobId) -> Option<RunProgress> {
        let running = self.runs.get(run).map(Run::progress);
        let ended = self.ended_runs.iter().rev().find(|(id, _)| id == run);
        running.or_else(|| ended.map(|(_, progress)| *progress))
    }

    /// Counters of the whole relay.
    pub fn totals(&self) -> Totals {
        Totals {
            sessions: self.sessions.len() as u64,
            consenting: self.consenting() as u64,
            leases: self.leases.len() as u64,
            result_bytes: self.result_bytes,
            mesh: self.mesh_counts(),
            ..self.totals
        }
    }

    fn add_job(&mut self, spec: JobSpec, accepted: &[AcceptedTile]) {
        let id = spec.id;
        if self.is_taken(&id) || !spec.panels_fit() {
            return;
        }
        // A new job starts level with the least served one: it neither starves nor is starved.
        let level = self.least_service();
        let mut job = Job::new(spec, level);
        for tile in accepted {
            job.restore(tile);
        }
        self.jobs.insert(id, job);
        self.finish_if_complete(&id);
        self.announce_work(&id);
    }

    /// Whether a job, run or eval of this name is under way.
    pub(crate) fn is_taken(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.runs.contains_key(id) || self.evals.contains_key(id)
    }

    /// The service of whatever was served least: where new jobs and runs start.
    pub(crate) fn least_service(&self) -> u64 {
        let jobs = self.jobs.values().map(|job| job.service);
        jobs.chain(self.runs.values().map(|run| run.service)).min().unwrap_or(0)
    }

    fn cancel_job(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let leases: Vec<_> = job.shards.values().flat_map(|shard| shard.leases.clone()).collect();
        for lease in leases {
            self.revoke(lease, RevokeReason::JobCanceled);
        }
        if let Some(job) = self.jobs.remove(id) {
            self.remember(*id, job.progress());
        }
    }

    /// Takes the leases of all jobs and evals back, without blame, or lets volunteers ask again. Runs are paused one by one:
    /// an open round is given up.
    fn halt(&mut self, halted: bool) {
        if std::mem::replace(&mut self.halted, halted) == halted {
            return;
        }
        if halted {
            self.take_back();
        } else {
            let waiting: Vec<_> = self.jobs.keys().chain(self.evals.keys()).copied().collect();
            for work in waiting {
                self.announce_work(&work);
            }
        }
    }

    /// Ends a job whose every unit is durable.
    pub(crate) fn finish_if_complete(&mut self, id: &JobId) {
        if self.jobs.get(id).is_some_and(Job::is_complete)
            && let Some(job) = self.jobs.remove(id)
        {
            self.last_picture(&job);
            self.remember(*id, job.progress());
            self.out.push(Output::JobCompleted { job: *id });
        }
    }

    fn remember(&mut self, id: JobId, progress: JobProgress) {
        if self.ended.len() == MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((id, progress));
    }

    pub(crate) fn remember_run(&mut self, run: &Run) {
        if self.ended_runs.len() == MAX_ENDED {
            self.ended_runs.pop_front();
        }
        self.ended_runs.push_back((run.id(), run.progress()));
    }

    pub(crate) fn arm(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(crate) fn disarm(&mut self, at: Instant, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    fn fire_timers(&mut self) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= self.now
        {
            self.timers.pop_first();
            match timer {
                Timer::Lease(lease) => self.lease_expired(lease),
                Timer::Session(session) => self.session_quiet(session),
                Timer::Pictures => {
                    self.pictures_armed = false;
                    self.send_pictures();
                }
                Timer::Run(run) => self.run_due(&run),
                Timer::Mesh => self.tend_mesh(),
            }
        }
    }

    pub(crate) fn new_lease_id(&mut self) -> LeaseId {
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        id
    }

    pub(crate) fn new_ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    pub(crate) fn new_token(&mut self) -> ConsentToken {
        self.tokens_issued += 1;
        let hash = blake3::keyed_hash(&self.config.seed, &self.tokens_issued.to_le_bytes());
        let mut token = [0; 16];
        token.copy_from_slice(&hash.as_bytes()[..16]);
        ConsentToken(token)
    }

    pub(crate) fn new_challenge(&mut self) -> Challenge {
        self.challenges_issued += 1;
        let mut hasher = blake3::Hasher::new_keyed(&self.config.seed);
        hasher.update(b"challenge").update(&self.challenges_issued.to_le_bytes());
        Challenge { nonce: *hasher.finalize().as_bytes(), relay: self.config.identity }
    }

    /// Whether a bug is planted. Always `false` without the feature, so the compiler removes the branch.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn planted(&self, bug: PlantedBug) -> bool {
        self.config.planted == Some(bug)
    }

    /// Whether a bug is planted. Always `false` without the feature, so the compiler removes the branch.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "same signature as with the feature")]
    pub(crate) fn planted(&self, _bug: PlantedBug) -> bool {
        false
    }
}
