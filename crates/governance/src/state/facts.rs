//! What happened: examined and recorded, with the automatic pauses that follow from it.

use super::{CandidateState, Cause, Cover, Outcome, Pause, Refused, RunState, State};
use crate::commitment;
use crate::entry::{Aggregate, Audit, AuditVerdict, Body, Candidate, Card, DataSet, Incident, Run, Trigger};
use crate::gate::Missing;
use crate::key::Key;
use crate::statement::{ProposalKind, Scope};
use potluck_types::{BlobHash, JobId};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    pub(super) fn examine_fact(&self, fact: &Body, now_ms: u64) -> Result<(), Refused> {
        match fact {
            Body::ResultAccepted(result) => self.job(result.job),
            Body::ResultRejected(result) => self.job(result.job),
            Body::UpdateAccepted(update) => {
                self.run(update.run)?.check_update(update.round, update.attempt, update.worker)
            }
            Body::UpdateRejected(update) => {
                self.run(update.run)?.check_open(update.round, update.attempt)?;
                if update.audited {
                    let volunteer = self.people.root(update.volunteer);
                    self.run(update.run)?.check_audit(update.round, update.worker, volunteer)?;
                }
                Ok(())
            }
            Body::Audit(audit) => {
                let volunteer = self.people.root(audit.volunteer);
                self.run(audit.run)?.check_audit(audit.round, audit.worker, volunteer)
            }
            Body::Commits(commits) => self.run(commits.run)?.check_commits(commits.round, commits.attempt),
            Body::Aggregate(aggregate) => {
                if let Some(pause) = self.paused(aggregate.run, now_ms) {
                    return Err(Refused::Paused { scope: pause.scope.clone(), pause: pause.id });
                }
                self.run(aggregate.run)?.check_aggregate(aggregate, |key| self.people.root(key))
            }
            Body::EpochCommitted(epoch) => match self.epoch {
                Some(last) if epoch.incarnation <= last => {
                    Err(Refused::Epoch { last, found: epoch.incarnation })
                }
                _ => Ok(()),
            },
            Body::EpochOpened(epoch) => match self.commitments.get(&epoch.incarnation) {
                None => Err(Refused::Unknown { what: format!("an unopened epoch {}", epoch.incarnation) }),
                Some(committed) if *committed != commitment(&epoch.secret.0) => {
                    Err(Refused::Secret { incarnation: epoch.incarnation })
                }
                Some(_) => Ok(()),
            },
            Body::Job(job) => self.unused(job.job),
            Body::Run(run) => self.examine_run(run, now_ms),
            Body::DataSet(set) => self.examine_data_set(set, now_ms),
            Body::Candidate(candidate) => self.examine_candidate(candidate),
            Body::Card(card) => self.examine_card(card),
            Body::Incident(incident) => incident.run.map_or(Ok(()), |run| self.run(run).map(drop)),
            _ => Ok(()),
        }
    }

    pub(super) fn run(&self, run: JobId) -> Result<&RunState, Refused> {
        self.runs.get(&run).ok_or(Refused::UnknownJob { job: run })
    }

    fn job(&self, job: JobId) -> Result<(), Refused> {
        if self.jobs.contains_key(&job) { Ok(()) } else { Err(Refused::UnknownJob { job }) }
    }

    fn unused(&self, job: JobId) -> Result<(), Refused> {
        if self.jobs.contains_key(&job) || self.runs.contains_key(&job) {
            return Err(Refused::JobTwice { job });
        }
        Ok(())
    }

    /// Checks that a proposal passed, for exactly this, and has not taken effect before.
    pub(super) fn justified(
        &self,
        proposal: BlobHash,
        kind: ProposalKind,
        body: BlobHash,
        now_ms: u64,
    ) -> Result<(), Missing> {
        let Some(found) = self.proposals.get(&proposal) else {
            return Err(Missing::Proposal { kind });
        };
        if found.kind != kind || found.body != body {
            return Err(Missing::OtherProposal { proposal, kind: found.kind });
        }
        if found.applied.is_some() {
            return Err(Missing::Used { proposal });
        }
        match found.outcome(&self.people, self.constitution.advice_against, now_ms) {
            Outcome::Passed(_) => {}
            outcome => return Err(Missing::from_outcome(found, &outcome)),
        }
        let reproducible = matches!(kind, ProposalKind::Run | ProposalKind::DataSet | ProposalKind::Kernel);
        let (have, need) = (self.attested(&body).0.len() as u32, self.constitution.reproductions);
        if reproducible && have < need {
            return Err(Missing::Attestations { have, need });
        }
        Ok(())
    }

    pub(super) fn allowed(
        &self,
        (needed, proposal): (bool, Option<BlobHash>),
        kind: ProposalKind,
        body: BlobHash,
        now_ms: u64,
    ) -> Result<(), Refused> {
        match proposal {
            Some(proposal) => self.justified(proposal, kind, body, now_ms).map_err(Refused::Unjustified),
            None if needed => Err(Refused::Unjustified(Missing::Proposal { kind })),
            None => Ok(()),
        }
    }

    fn examine_run(&self, run: &Run, now_ms: u64) -> Result<(), Refused> {
        self.unused(run.run)?;
        let approved = self.constitution.data_sets_need_proposal && run.model.is_some();
        for id in &run.data_sets {
            match self.data_sets.get(id) {
                None => return Err(Refused::Unknown { what: format!("data set {id}") }),
                Some(set) if approved && set.proposal.is_none() => {
                    return Err(Refused::Unjustified(Missing::Proposal { kind: ProposalKind::DataSet }));
                }
                Some(_) => {}
            }
        }
        let pause = match &run.model {
            Some(model) => self.model_paused(model, now_ms),
            None => self.pauses.find(now_ms, |scope| *scope == Scope::All),
        };
        if let Some(pause) = pause {
            return Err(Refused::Paused { scope: pause.scope.clone(), pause: pause.id });
        }
        let needed = self.constitution.runs_need_proposal && run.model.is_some();
        self.allowed((needed, run.proposal), ProposalKind::Run, run.request, now_ms)
    }

    fn examine_data_set(&self, set: &DataSet, now_ms: u64) -> Result<(), Refused> {
        // One that was not approved may be logged again when it is.
        let approves = |known: &DataSet| {
            let approved = DataSet { proposal: set.proposal, ..known.clone() };
            known.proposal.is_none() && set.proposal.is_some() && approved == *set
        };
        if self.data_sets.get(&set.id).is_some_and(|known| !approves(known)) {
            return Err(Refused::Twice { what: format!("data set {}", set.id) });
        }
        self.allowed((false, set.proposal), ProposalKind::DataSet, set.manifest, now_ms)
    }

    fn examine_candidate(&self, candidate: &Candidate) -> Result<(), Refused> {
        let unfit = |problem| Err(Refused::Unfit { what: "candidate".to_owned(), problem });
        let run = self.run(candidate.run)?;
        if run.entry.model.as_ref() != Some(&candidate.model) {
            return unfit("its run does not train this model: name the model in the run's entry");
        }
        if self.candidates.contains_key(&candidate.parameters) {
            return Err(Refused::Twice { what: format!("candidate {}", candidate.parameters) });
        }
        let Some(round) = run.round(candidate.round) else {
            return unfit("its round is not closed: log the aggregate first");
        };
        if candidate.rebuilt_without.is_empty() && round.next_parameters != candidate.parameters {
            return unfit("its parameters are not those after its round: name what it was rebuilt without");
        }
        Ok(())
    }

    fn examine_card(&self, card: &Card) -> Result<(), Refused> {
        let Some(candidate) = self.candidates.get(&card.candidate) else {
            return Err(Refused::Unknown { what: format!("candidate {}", card.candidate) });
        };
        if candidate.card.as_ref().is_some_and(|old| old.card == card.card) {
            return Err(Refused::Twice { what: format!("card {}", card.card) });
        }
        Ok(())
    }

    pub(super) fn record_fact(&mut self, index: u64, now_ms: u64, fact: &Body) {
        match fact {
            Body::ResultAccepted(result) => {
                let credit = self.people.credit_mut(result.volunteer);
                credit.results += 1;
                credit.bytes = credit.bytes.saturating_add(result.bytes);
                let job = self.jobs.entry(result.job).or_default();
                job.accepted += 1;
                job.bytes = job.bytes.saturating_add(result.bytes);
            }
            Body::ResultRejected(result) => {
                self.people.credit_mut(result.volunteer).rejected += 1;
                self.jobs.entry(result.job).or_default().rejected += 1;
            }
            Body::UpdateAccepted(update) => {
                let volunteer = self.people.root(update.volunteer);
                self.people.credit_mut(volunteer).updates += 1;
                if let Some(run) = self.runs.get_mut(&update.run) {
                    let place = (update.round, update.attempt, update.worker);
                    run.accept(place, (volunteer, update.update, update.cluster));
                }
                if update.audited {
                    let place = (update.round, update.worker, volunteer);
                    self.verdict(index, now_ms, update.run, place, AuditVerdict::Passed);
                }
            }
            Body::UpdateRejected(update) => {
                let volunteer = self.people.root(update.volunteer);
                self.people.credit_mut(volunteer).updates_rejected += 1;
                if let Some(run) = self.runs.get_mut(&update.run) {
                    run.touch(update.round, update.attempt);
                }
                if update.audited {
                    let place = (update.round, update.worker, volunteer);
                    self.verdict(index, now_ms, update.run, place, AuditVerdict::Failed);
                }
            }
            Body::Audit(Audit { run, round, worker, volunteer, verdict }) => {
                let place = (*round, *worker, self.people.root(*volunteer));
                self.verdict(index, now_ms, *run, place, *verdict);
            }
            Body::Commits(commits) => {
                if let Some(run) = self.runs.get_mut(&commits.run) {
                    run.commits(commits.round, commits.attempt, commits.count);
                }
            }
            Body::Aggregate(aggregate) => self.close_round(index, now_ms, aggregate),
            Body::EpochCommitted(epoch) => {
                self.epoch = Some(epoch.incarnation);
                self.commitments.insert(epoch.incarnation, epoch.commitment);
            }
            Body::EpochOpened(epoch) => {
                self.commitments.remove(&epoch.incarnation);
            }
            Body::Job(job) => {
                self.jobs.insert(job.job, super::JobCounts { index, ..super::JobCounts::default() });
            }
            Body::Run(run) => {
                self.runs.insert(run.run, RunState::new(run, index, now_ms));
                if let Some(model) = &run.model {
                    self.models.entry(model.clone()).or_default();
                }
                self.decide(index, now_ms, run.proposal);
            }
            Body::DataSet(set) => {
                self.data_sets.insert(set.id.clone(), set.clone());
                self.decide(index, now_ms, set.proposal);
            }
            Body::Candidate(entry) => {
                let candidate = CandidateState {
                    entry: entry.clone(),
                    index,
                    at_ms: now_ms,
                    card: None,
                    card_index: 0,
                    sign_offs: BTreeMap::new(),
                };
                self.candidates.insert(entry.parameters, candidate);
            }
            Body::Card(card) => {
                if let Some(candidate) = self.candidates.get_mut(&card.candidate) {
                    candidate.card = Some(card.clone());
                    candidate.card_index = index;
                }
            }
            Body::Incident(incident) => self.record_incident(index, now_ms, incident),
            _ => {}
        }
    }

    /// Notes an audit's verdict, with what it does to the volunteer's credibility and to the run.
    fn verdict(
        &mut self,
        index: u64,
        now_ms: u64,
        run: JobId,
        (round, worker, volunteer): (u64, u32, Key),
        verdict: AuditVerdict,
    ) {
        let Some(state) = self.runs.get_mut(&run) else { return };
        let (before, closed) = state.audit((round, worker, volunteer), verdict);
        if before == Some(verdict) {
            return;
        }
        let credit = self.people.credit_mut(volunteer);
        match before {
            Some(AuditVerdict::Passed) => credit.audits_passed = credit.audits_passed.saturating_sub(1),
            Some(AuditVerdict::Failed) => credit.audits_failed = credit.audits_failed.saturating_sub(1),
            None => {}
        }
        match verdict {
            AuditVerdict::Passed => {
                credit.audits_passed += 1;
                credit.streak += 1;
            }
            AuditVerdict::Failed => {
                credit.audits_failed += 1;
                credit.streak = 0;
                for state in self.runs.values_mut() {
                    state.uncover(volunteer);
                }
            }
        }
        if verdict == AuditVerdict::Failed
            && let Some((failed, workers)) = closed
        {
            self.watch_audits(index, now_ms, run, round, failed, workers);
        }
    }

    fn watch_audits(&mut self, index: u64, now_ms: u64, run: JobId, round: u64, failed: u64, workers: u64) {
        if failed > 0 && self.constitution.pause.audit_failures.exceeded(failed, workers) {
            let detail = format!("round {round}: {failed} audits of {workers} workers failed");
            self.pause_run(index, now_ms, run, Trigger::AuditFailures, detail);
        }
    }

    fn close_round(&mut self, index: u64, now_ms: u64, aggregate: &Aggregate) {
        let Self { runs, people, constitution, .. } = self;
        let Some(state) = runs.get_mut(&aggregate.run) else { return };
        let after = constitution.gate.credible_after;
        let credible = |key| people.credit.get(&key).is_some_and(|credit| credit.streak >= after);
        let closed = state.close(aggregate, |key| people.root(key), credible);
        let pause = constitution.pause.clone();
        let (run, round) = (aggregate.run, aggregate.round);
        if !aggregate.finite {
            let detail = format!("round {round}: parameters or losses are no finite numbers");
            self.pause_run(index, now_ms, run, Trigger::NonFinite, detail);
        }
        if let (Some(before), Some(loss)) = (closed.before, aggregate.loss.map(|loss| loss.0))
            && before > 0
            && loss > before
            && pause.loss_rise.exceeded(loss.abs_diff(before), before.unsigned_abs())
        {
            let detail = format!("round {round}: validation loss rose from {before} to {loss} micro-nats");
            self.pause_run(index, now_ms, run, Trigger::LossRise, detail);
        }
        self.watch_audits(index, now_ms, run, round, closed.failed, closed.workers);
        if closed.updates >= pause.cluster_least && pause.cluster.exceeded(closed.heaviest, closed.weight) {
            let detail =
                format!("round {round}: one cluster has {} of the weight {}", closed.heaviest, closed.weight);
            self.pause_run(index, now_ms, run, Trigger::ClusterShare, detail);
        }
    }

    /// Pauses a run that trains a model, unless this entry or this trigger has done so: one pause for one cause. Other runs
    /// are their submitters' affair.
    fn pause_run(&mut self, index: u64, now_ms: u64, run: JobId, trigger: Trigger, detail: String) {
        if self.runs.get(&run).is_none_or(|state| state.entry.model.is_none()) {
            return;
        }
        let scope = Scope::Run(run);
        let same = |pause: &Pause| {
            let cause = matches!(pause.cause, Cause::Automatic { trigger: before, .. } if before == trigger);
            pause.id == index || (cause && pause.scope == scope)
        };
        if !self.pauses.in_force(now_ms).any(same) {
            self.pause_automatically(index, now_ms, scope, trigger, detail, BTreeSet::new());
        }
    }

    fn pause_automatically(
        &mut self,
        id: u64,
        since_ms: u64,
        scope: Scope,
        trigger: Trigger,
        detail: String,
        barred: BTreeSet<String>,
    ) {
        self.pauses.begin(Pause {
            id,
            scope,
            cause: Cause::Automatic { trigger, detail },
            since_ms,
            expires_ms: since_ms.saturating_add(self.constitution.pause.expires_ms),
            ratifying: BTreeSet::new(),
            ratified_ms: None,
            resuming: BTreeSet::new(),
            ended_ms: None,
            barred,
        });
    }

    fn record_incident(&mut self, index: u64, now_ms: u64, incident: &Incident) {
        self.incidents.push((index, now_ms, incident.clone()));
        if incident.trigger == Trigger::Other {
            return;
        }
        let mut barred: BTreeSet<String> = BTreeSet::new();
        if incident.trigger == Trigger::Fork {
            barred = self.people.operators();
        } else if let Some(operator) = incident.operator {
            let operators = self.people.roles.operators.iter();
            let named = operators.filter(|person| self.people.root(person.key) == self.people.root(operator));
            barred.extend(named.map(|person| crate::roles::folded(&person.name)));
        }
        let scope = match incident.run {
            Some(run) if incident.trigger != Trigger::Fork => Scope::Run(run),
            _ => Scope::All,
        };
        // Who is barred from one pause is not from another: each incident has its own.
        self.pause_automatically(index, now_ms, scope, incident.trigger, incident.detail.clone(), barred);
    }

    /// What contributes to a candidate: all worker-rounds of its run up to its round, but for what it leaves out.
    pub fn contributions(&self, candidate: &Candidate) -> BTreeMap<Key, Contributed> {
        let Some(run) = self.runs.get(&candidate.run) else { return BTreeMap::new() };
        let without: BTreeSet<_> =
            candidate.rebuilt_without.iter().map(|source| self.target(&source.0)).collect();
        let mut all = BTreeMap::new();
        for (&volunteer, contributions) in &run.contributions {
            if without.contains(&crate::statement::Target::Volunteer(volunteer)) {
                continue;
            }
            let mut sum = Contributed::default();
            for one in contributions.iter().take_while(|one| u64::from(one.round) <= candidate.round) {
                sum.rounds += 1;
                sum.weight_ppm += u64::from(one.weight_ppm);
                match one.cover {
                    Cover::Passed => sum.passed += 1,
                    Cover::Failed => sum.failed += 1,
                    Cover::Credible => sum.credible += 1,
                    Cover::Bare => {}
                }
            }
            if sum.rounds > 0 {
                all.insert(volunteer, sum);
            }
        }
        all
    }
}

/// What one volunteer contributed to a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contributed {
    /// Worker-rounds.
    pub rounds: u64,
    /// Sum of their weights, in parts per million.
    pub weight_ppm: u64,
    /// Worker-rounds whose last audit passed.
    pub passed: u64,
    /// Worker-rounds whose last audit failed.
    pub failed: u64,
    /// Worker-rounds that count on the volunteer's credibility.
    pub credible: u64,
}
