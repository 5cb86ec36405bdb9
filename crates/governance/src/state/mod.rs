//! The state that a log gives: derived from its entries alone, in their order, and from nothing else.
//!
//! [`State::check`] says whether an entry may follow; [`State::apply`] takes it in. A refused entry changes nothing. Two
//! replicas that read the same entries are equal. `facts.rs` examines and records what happened, `said.rs` and
//! `heard.rs` what people signed, `effects.rs` what took effect, `relays.rs` who signs the log and who may follow;
//! `people.rs`, `proposals.rs`, `pauses.rs` and `runs.rs` hold the parts.
//!
//! Results and jobs are kept as counts: their memory does not grow with the log, but with the keys and jobs in it.

mod effects;
mod facts;
mod heard;
mod pauses;
mod people;
mod proposals;
mod refused;
mod relays;
mod runs;
mod said;

pub use facts::Contributed;
pub use pauses::{Cause, Pause};
pub use people::Credit;
pub use proposals::{CastVote, Electorate, Outcome, ProposalState, Tally};
pub use refused::Refused;
pub use relays::SuccessionState;
pub use runs::{Contribution, Cover, Round, RunState};

use crate::constitution::Constitution;
use crate::entry::{Body, Candidate, Card, DataSet, Entry, Incident, Kernel};
use crate::key::Key;
use crate::mirrors::Mirror;
use crate::roles::Roles;
use crate::statement::{ProposalKind, Scope, Statement, Target};
use pauses::Pauses;
use people::People;
use potluck_types::{BlobHash, JobId};
use std::collections::{BTreeMap, BTreeSet};

/// Counts of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobCounts {
    /// Index of its entry.
    pub index: u64,
    /// Results that were accepted.
    pub accepted: u64,
    /// Results that were refused.
    pub rejected: u64,
    /// Bytes of accepted results.
    pub bytes: u64,
}

/// A person's signature under an eval card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOff {
    /// The card that was read.
    pub card: BlobHash,
    /// What the person says about it.
    pub note: Option<String>,
    /// Time of its entry.
    pub at_ms: u64,
}

/// What an auditor attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attested {
    /// Whether it derived the same bits.
    pub reproduces: bool,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
}

/// A candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateState {
    /// Its entry.
    pub entry: Candidate,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
    /// Its eval card: the last one.
    pub card: Option<Card>,
    /// Index of that card's entry; 0 without one.
    pub card_index: u64,
    /// Who signed which card, by folded name.
    pub sign_offs: BTreeMap<String, SignedOff>,
}

/// A candidate that was promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The candidate, by the hash of its parameters.
    pub candidate: BlobHash,
    /// Its place among the versions that came before: where a rollback leads.
    pub previous: Option<usize>,
    /// The proposal.
    pub proposal: BlobHash,
    /// The eval card that was read.
    pub card: BlobHash,
    /// Who had signed that card then, by folded name.
    pub signed_off: BTreeMap<String, SignedOff>,
    /// Index of its promotion.
    pub index: u64,
    /// Time of its promotion.
    pub at_ms: u64,
}

/// A change of the version that people run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelChange {
    /// The version from then on, as a place in [`ModelState::versions`].
    pub to: usize,
    /// Whether it is a rollback.
    pub rollback: bool,
    /// The proposal, or the appeal.
    pub proposal: BlobHash,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelState {
    /// All that were ever promoted, in order.
    pub versions: Vec<Version>,
    /// The one that people run.
    pub current: Option<usize>,
    /// Promotions and rollbacks, in order.
    pub changes: Vec<ModelChange>,
}

impl ModelState {
    /// The version that people run.
    pub fn current(&self) -> Option<&Version> {
        self.versions.get(self.current?)
    }

    /// The version to which a rollback would lead.
    pub fn rollback_target(&self) -> Option<&Version> {
        self.versions.get(self.current()?.previous?)
    }
}

/// Something in quarantine, now or once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuarantineState {
    /// Since when, while it is.
    pub since_ms: Option<u64>,
    /// Why, in the words of the last who said so.
    pub reason: String,
    /// Auditors who asked for it.
    pub asking: BTreeSet<String>,
    /// Stewards who want it to end.
    pub lifting: BTreeSet<String>,
}

/// A decision against which people may appeal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What took effect.
    pub kind: ProposalKind,
    /// What it was about, by name.
    pub subject: String,
    /// Its body.
    pub body: BlobHash,
    /// When.
    pub at_ms: u64,
    /// Folded names of those who had a part in it: they have none in an appeal.
    pub deciders: BTreeSet<String>,
}

/// Everything that follows from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    next: u64,
    now_ms: u64,
    origin: String,
    constitution: Constitution,
    people: People,
    epoch: Option<u32>,
    commitments: BTreeMap<u32, BlobHash>,
    jobs: BTreeMap<JobId, JobCounts>,
    runs: BTreeMap<JobId, RunState>,
    data_sets: BTreeMap<String, DataSet>,
    kernels: BTreeMap<BlobHash, Kernel>,
    candidates: BTreeMap<BlobHash, CandidateState>,
    attestations: BTreeMap<BlobHash, BTreeMap<String, Attested>>,
    models: BTreeMap<String, ModelState>,
    proposals: BTreeMap<BlobHash, ProposalState>,
    /// Proposals whose vote may not have closed: so that a long history costs nothing.
    live: BTreeSet<BlobHash>,
    decisions: BTreeMap<u64, Decision>,
    pauses: Pauses,
    quarantine: BTreeMap<Target, QuarantineState>,
    incidents: Vec<(u64, u64, Incident)>,
    mirrors: Vec<Mirror>,
    successions: Vec<SuccessionState>,
    /// Index after the last entry that is no statement.
    facts_end: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state of a log without entries.
    pub fn new() -> Self {
        Self {
            next: 0,
            now_ms: 0,
            origin: String::new(),
            constitution: Constitution::default(),
            people: People::new(),
            epoch: None,
            commitments: BTreeMap::new(),
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            data_sets: BTreeMap::new(),
            kernels: BTreeMap::new(),
            candidates: BTreeMap::new(),
            attestations: BTreeMap::new(),
            models: BTreeMap::new(),
            proposals: BTreeMap::new(),
            live: BTreeSet::new(),
            decisions: BTreeMap::new(),
            pauses: Pauses::default(),
            quarantine: BTreeMap::new(),
            incidents: Vec::new(),
            mirrors: Vec::new(),
            successions: Vec::new(),
            facts_end: 0,
        }
    }

    /// Says whether the log may go on with this entry. What the relay asks before it appends.
    ///
    /// # Errors
    /// [`Refused`], which says what is wrong and what to do.
    pub fn check(&self, entry: &Entry) -> Result<(), Refused> {
        entry.encode()?;
        self.examine(entry).map(drop)
    }

    /// Takes in the entry at `index`, as read by [`Entry::decode`] or checked by [`State::check`].
    ///
    /// # Errors
    /// [`Refused`]; the state is then as it was.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<(), Refused> {
        if index != self.next {
            return Err(Refused::Index { expected: self.next, found: index });
        }
        let statement = self.examine(entry)?;
        self.now_ms = entry.at_ms;
        self.next = index + 1;
        self.record(index, entry, statement);
        Ok(())
    }

    /// Passes over entries that are not taken in, so that those after them keep their indices. A log without its first
    /// entry has none that could follow. What was passed over is not known to be a statement.
    pub(crate) fn skip_to(&mut self, index: u64) -> &mut Self {
        if index > self.next {
            self.next = index;
            self.facts_end = index;
        }
        self
    }

    /// Everything that can be wrong with an entry. Returns the statement in it, if it holds one.
    fn examine(&self, entry: &Entry) -> Result<Option<Statement>, Refused> {
        let Entry { at_ms, body } = entry;
        let now_ms = *at_ms;
        if now_ms < self.now_ms {
            return Err(Refused::Backward { at_ms: now_ms, last_ms: self.now_ms });
        }
        body.validate()?;
        match body {
            Body::Genesis(genesis) => {
                if self.next != 0 {
                    return Err(Refused::SecondGenesis);
                }
                if !genesis.roles.is_nobody() {
                    genesis.roles.validate()?;
                }
                return Ok(None);
            }
            _ if self.origin.is_empty() => return Err(Refused::NoGenesis),
            Body::Founding(founding) => {
                founding.roles.validate()?;
                if !self.people.roles.is_nobody() {
                    return Err(Refused::Founded);
                }
            }
            Body::Signed(signed) => return self.examine_signed(signed, now_ms).map(Some),
            Body::Kernel(kernel) => self.examine_kernel(kernel, now_ms)?,
            Body::Promotion(promotion) => self.examine_promotion(promotion, now_ms)?,
            Body::Rollback(rollback) => self.examine_rollback(rollback, now_ms)?,
            Body::NewRoles(roles) => self.examine_roles(roles, now_ms)?,
            Body::Amendment(amendment) => self.examine_amendment(amendment, now_ms)?,
            Body::ParameterSet(parameter) => self.examine_parameter(parameter, now_ms)?,
            Body::NewMirrors(mirrors) => self.examine_mirrors(mirrors, now_ms)?,
            Body::Succession(succession) => self.examine_succession(succession, now_ms)?,
            fact => self.examine_fact(fact, now_ms)?,
        }
        Ok(None)
    }

    fn record(&mut self, index: u64, entry: &Entry, statement: Option<Statement>) {
        let now_ms = entry.at_ms;
        if !matches!(entry.body, Body::Signed(_)) {
            self.facts_end = index + 1;
        }
        match &entry.body {
            Body::Genesis(genesis) => {
                self.origin.clone_from(&genesis.origin);
                self.constitution = genesis.constitution.clone();
                self.people.roles = genesis.roles.clone();
            }
            Body::Founding(founding) => {
                self.constitution = founding.constitution.clone();
                self.people.roles = founding.roles.clone();
            }
            Body::Signed(signed) => {
                if let Some(statement) = statement {
                    self.record_said(index, now_ms, signed, statement);
                }
            }
            Body::Kernel(kernel) => {
                self.kernels.insert(kernel.hash, kernel.clone());
                self.decide(index, now_ms, kernel.proposal);
            }
            Body::Promotion(promotion) => self.record_promotion(index, now_ms, promotion),
            Body::Rollback(rollback) => self.record_rollback(index, now_ms, rollback),
            Body::NewRoles(roles) => self.record_roles(index, now_ms, roles),
            Body::Amendment(amendment) => self.record_amendment(index, now_ms, amendment),
            Body::ParameterSet(parameter) => self.record_parameter(index, now_ms, parameter),
            Body::NewMirrors(mirrors) => self.record_mirrors(index, now_ms, mirrors),
            Body::Succession(succession) => self.record_succession(index, now_ms, succession),
            fact => self.record_fact(index, now_ms, fact),
        }
    }

    /// Index of the entry that comes next: how many there are.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Time of the last entry.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The log's origin; empty before its first entry.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The rules as they are.
    pub fn constitution(&self) -> &Constitution {
        &self.constitution
    }

    /// The roles document, with keys as they are now.
    pub fn roles(&self) -> &Roles {
        &self.people.roles
    }

    /// A volunteer's credit, under any of its keys.
    pub fn credit(&self, key: Key) -> Option<&Credit> {
        self.people.credit.get(&self.people.root(key))
    }

    /// The first key of a volunteer or person, under which credit and contributions are kept.
    pub fn first_key(&self, key: Key) -> Key {
        self.people.root(key)
    }

    /// Credit of all volunteers, by first key.
    pub fn credits(&self) -> &BTreeMap<Key, Credit> {
        &self.people.credit
    }

    /// Counts of all jobs.
    pub fn jobs(&self) -> &BTreeMap<JobId, JobCounts> {
        &self.jobs
    }

    /// All runs.
    pub fn runs(&self) -> &BTreeMap<JobId, RunState> {
        &self.runs
    }

    /// All data sets by id.
    pub fn data_sets(&self) -> &BTreeMap<String, DataSet> {
        &self.data_sets
    }

    /// All kernels by hash.
    pub fn kernels(&self) -> &BTreeMap<BlobHash, Kernel> {
        &self.kernels
    }

    /// All candidates by the hash of their parameters.
    pub fn candidates(&self) -> &BTreeMap<BlobHash, CandidateState> {
        &self.candidates
    }

    /// All models by name.
    pub fn models(&self) -> &BTreeMap<String, ModelState> {
        &self.models
    }

    /// All proposals and appeals by id.
    pub fn proposals(&self) -> &BTreeMap<BlobHash, ProposalState> {
        &self.proposals
    }

    /// All pauses by the index of the entry that began them, those that are over among them.
    pub fn pauses(&self) -> &BTreeMap<u64, Pause> {
        &self.pauses.all
    }

    /// Decisions against which people may appeal, by the index of the entry with which they took effect.
    pub fn decisions(&self) -> &BTreeMap<u64, Decision> {
        &self.decisions
    }

    /// What is, or was, in quarantine.
    pub fn quarantine(&self) -> &BTreeMap<Target, QuarantineState> {
        &self.quarantine
    }

    /// Incidents as logged, each with its index and time.
    pub fn incidents(&self) -> &[(u64, u64, Incident)] {
        &self.incidents
    }

    /// Epochs that were committed to and not opened, with the commitments.
    pub fn unopened_epochs(&self) -> impl Iterator<Item = (u32, BlobHash)> {
        self.commitments.iter().map(|(incarnation, commitment)| (*incarnation, *commitment))
    }

    /// What came of a proposal by this time, at or after that of the last entry.
    pub fn outcome(&self, proposal: &BlobHash, now_ms: u64) -> Option<Outcome> {
        let found = self.proposals.get(proposal)?;
        Some(found.outcome(&self.people, self.constitution.advice_against, now_ms))
    }

    /// Which pause stops a run, if one does.
    pub fn paused(&self, run: JobId, now_ms: u64) -> Option<&Pause> {
        let model = self.runs.get(&run).and_then(|run| run.entry.model.as_ref());
        self.pauses.find(now_ms, |scope| match scope {
            Scope::All => true,
            Scope::Run(paused) => *paused == run,
            Scope::Model(paused) => Some(paused) == model,
        })
    }

    /// Which pause stops a model's promotions, if one does.
    pub fn model_paused(&self, model: &str, now_ms: u64) -> Option<&Pause> {
        self.pauses.find(now_ms, |scope| match scope {
            Scope::All => true,
            Scope::Run(_) => false,
            Scope::Model(paused) => paused == model,
        })
    }

    /// Auditors in office who said that something reproduces, and those who said that it does not, by folded name.
    pub fn attested(&self, subject: &BlobHash) -> (BTreeSet<String>, BTreeSet<String>) {
        let auditors = self.people.auditors();
        let said = self.attestations.get(subject).into_iter().flatten();
        let (mut yes, mut no) = (BTreeSet::new(), BTreeSet::new());
        for (name, attested) in said.filter(|(name, _)| auditors.contains(*name)) {
            if attested.reproduces { &mut yes } else { &mut no }.insert(name.clone());
        }
        (yes, no)
    }

    /// All that was ever attested about something, by folded name.
    pub fn attestations(&self, subject: &BlobHash) -> impl Iterator<Item = (&String, &Attested)> {
        self.attestations.get(subject).into_iter().flatten()
    }

    /// A person's name as the roles document writes it; as it is, if that does not name the person any more.
    pub fn display_name(&self, folded_name: &str) -> String {
        let roles = &self.people.roles;
        let people = || roles.stewards.iter().chain(&roles.auditors).chain(&roles.operators);
        let found = people().find(|person| crate::roles::folded(&person.name) == folded_name);
        found.map_or_else(|| folded_name.to_owned(), |person| person.name.clone())
    }

    /// People in office who signed this very card of a candidate, by folded name.
    pub fn signed_off(&self, candidate: &CandidateState) -> BTreeSet<String> {
        let Some(card) = &candidate.card else { return BTreeSet::new() };
        let people = self.people.all();
        let signed = candidate.sign_offs.iter().filter(|(_, signed)| signed.card == card.card);
        signed.map(|(name, _)| name.clone()).filter(|name| people.contains(name)).collect()
    }

    /// Whether something is in quarantine, under any of a volunteer's keys.
    pub fn quarantined(&self, target: &Target) -> bool {
        self.quarantine.get(&self.target(target)).is_some_and(|state| state.since_ms.is_some())
    }

    /// The form under which a target is kept.
    fn target(&self, target: &Target) -> Target {
        match target {
            Target::Volunteer(key) => Target::Volunteer(self.people.root(*key)),
            Target::DataSet(id) => Target::DataSet(id.clone()),
        }
    }

    /// Keeps the outcomes of closed votes, before those who could vote, or the rules, change.
    fn settle(&mut self, now_ms: u64) {
        let Self { proposals, people, constitution, live, .. } = self;
        live.retain(|id| {
            let Some(proposal) = proposals.get_mut(id) else { return false };
            proposal.settle(people, constitution.advice_against, now_ms);
            now_ms < proposal.closes
        });
    }
}
