//! What takes effect: promotions, rollbacks, roles, rules. Each only with what justifies it, and each with the names of
//! those who decided, so that others decide on an appeal.

use super::{Decision, ModelChange, Refused, State, Version};
use crate::constitution::ParameterChange;
use crate::entry::{Amendment, Kernel, NewRoles, ParameterSet, Promotion, Rollback};
use crate::gate::{self, Missing};
use crate::statement::ProposalKind;
use potluck_types::BlobHash;
use std::collections::BTreeSet;

impl State {
    pub(super) fn examine_kernel(&self, kernel: &Kernel, now_ms: u64) -> Result<(), Refused> {
        if self.kernels.contains_key(&kernel.hash) {
            return Err(Refused::Twice { what: format!("kernel {}", kernel.hash) });
        }
        let needed = self.constitution.kernels_need_proposal;
        self.allowed((needed, kernel.proposal), ProposalKind::Kernel, kernel.hash, now_ms)
    }

    pub(super) fn examine_promotion(&self, promotion: &Promotion, now_ms: u64) -> Result<(), Refused> {
        let Promotion { model, candidate, proposal, previous } = promotion;
        let Some(found) = self.candidates.get(candidate) else {
            return Err(Refused::NotReady { missing: vec![Missing::Candidate { candidate: *candidate }] });
        };
        let mut missing = gate::promotion_ready(self, candidate, now_ms).err().unwrap_or_default();
        if let Err(why) = self.justified(*proposal, ProposalKind::Promote, *candidate, now_ms)
            && !missing.contains(&why)
        {
            missing.push(why);
        }
        // Another proposal may have passed with this card; the one that is named has to be one of those.
        let older = self.proposals.get(proposal).is_some_and(|named| named.index < found.card_index);
        let late = Missing::LateCard { proposal: *proposal };
        if older && !missing.contains(&late) {
            missing.push(late);
        }
        if found.entry.model != *model {
            missing.push(Missing::Model { model: found.entry.model.clone() });
        }
        let current =
            self.models.get(model).and_then(|model| model.current()).map(|version| version.candidate);
        if current != *previous {
            missing.push(Missing::Previous { current });
        }
        if missing.is_empty() { Ok(()) } else { Err(Refused::NotReady { missing }) }
    }

    pub(super) fn record_promotion(&mut self, index: u64, now_ms: u64, promotion: &Promotion) {
        let Some(candidate) = self.candidates.get(&promotion.candidate) else { return };
        let Some(card) = candidate.card.as_ref().map(|card| card.card) else { return };
        let signed = candidate.sign_offs.iter().filter(|(_, signed)| signed.card == card);
        let signed_off = signed.map(|(name, signed)| (name.clone(), signed.clone())).collect();
        let model = self.models.entry(promotion.model.clone()).or_default();
        model.versions.push(Version {
            candidate: promotion.candidate,
            previous: model.current,
            proposal: promotion.proposal,
            card,
            signed_off,
            index,
            at_ms: now_ms,
        });
        let to = model.versions.len() - 1;
        model.current = Some(to);
        let proposal = promotion.proposal;
        model.changes.push(ModelChange { to, rollback: false, proposal, index, at_ms: now_ms });
        self.decide(index, now_ms, Some(proposal));
    }

    pub(super) fn examine_rollback(&self, rollback: &Rollback, now_ms: u64) -> Result<(), Refused> {
        let target = self.models.get(&rollback.model).and_then(|model| model.rollback_target());
        let Some(target) = target.filter(|target| target.candidate == rollback.to) else {
            return Err(Refused::Unjustified(Missing::Target {
                target: target.map(|target| target.candidate),
            }));
        };
        let found = self.proposals.get(&rollback.proposal);
        if let Some(appeal) = found.filter(|found| found.kind == ProposalKind::Appeal) {
            // An upheld appeal against the promotion of the version in use takes it back without a second vote.
            let current = self.models.get(&rollback.model).and_then(|model| model.current());
            if appeal.decision != current.map(|version| version.index) {
                let kind = ProposalKind::Appeal;
                return Err(Refused::Unjustified(Missing::OtherProposal { proposal: appeal.id, kind }));
            }
            let justified = self.justified(appeal.id, ProposalKind::Appeal, appeal.body, now_ms);
            return justified.map_err(Refused::Unjustified);
        }
        if found.is_some_and(|found| found.subject != rollback.model) {
            return Err(Refused::Unjustified(Missing::Model { model: rollback.model.clone() }));
        }
        self.justified(rollback.proposal, ProposalKind::RollBack, target.candidate, now_ms)
            .map_err(Refused::Unjustified)
    }

    pub(super) fn record_rollback(&mut self, index: u64, now_ms: u64, rollback: &Rollback) {
        let Some(model) = self.models.get_mut(&rollback.model) else { return };
        let Some(to) = model.current().and_then(|version| version.previous) else { return };
        model.current = Some(to);
        let proposal = rollback.proposal;
        model.changes.push(ModelChange { to, rollback: true, proposal, index, at_ms: now_ms });
        self.decide(index, now_ms, Some(proposal));
    }

    pub(super) fn examine_roles(&self, new: &NewRoles, now_ms: u64) -> Result<(), Refused> {
        new.roles.validate()?;
        let retired = |key| self.people.retired.contains(key);
        let roles = &new.roles;
        let people = roles.stewards.iter().chain(&roles.auditors).chain(&roles.operators);
        for person in people {
            if retired(&person.key) {
                return Err(Refused::RetiredKey { key: person.key });
            }
        }
        self.justified(new.proposal, ProposalKind::Roles, roles.hash(), now_ms).map_err(Refused::Unjustified)
    }

    pub(super) fn record_roles(&mut self, index: u64, now_ms: u64, new: &NewRoles) {
        self.settle(now_ms);
        self.decide(index, now_ms, Some(new.proposal));
        self.people.roles = new.roles.clone();
        self.people.revoking.clear();
    }

    pub(super) fn examine_amendment(&self, new: &Amendment, now_ms: u64) -> Result<(), Refused> {
        self.justified(new.proposal, ProposalKind::Constitution, new.constitution.hash(), now_ms)
            .map_err(Refused::Unjustified)
    }

    pub(super) fn record_amendment(&mut self, index: u64, now_ms: u64, new: &Amendment) {
        self.settle(now_ms);
        self.constitution = new.constitution.clone();
        self.decide(index, now_ms, Some(new.proposal));
    }

    pub(super) fn examine_parameter(&self, set: &ParameterSet, now_ms: u64) -> Result<(), Refused> {
        let problem = match self.constitution.parameters.iter().find(|parameter| parameter.name == set.name) {
            None => Some("the constitution has no such parameter: amend it first"),
            Some(found) if !(found.least..=found.most).contains(&set.value) => {
                Some("the value lies outside of its bounds: amend them first, or choose another")
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            return Err(Refused::Unfit { what: format!("parameter {}", set.name), problem });
        }
        let body = ParameterChange { name: set.name.clone(), value: set.value }.hash();
        self.justified(set.proposal, ProposalKind::Parameter, body, now_ms).map_err(Refused::Unjustified)
    }

    pub(super) fn record_parameter(&mut self, index: u64, now_ms: u64, set: &ParameterSet) {
        let parameters = &mut self.constitution.parameters;
        if let Some(found) = parameters.iter_mut().find(|parameter| parameter.name == set.name) {
            found.value = set.value;
        }
        self.decide(index, now_ms, Some(set.proposal));
    }

    /// Notes that a proposal took effect, and who had a part in it: proposed, voted, attested or signed the card.
    pub(super) fn decide(&mut self, index: u64, at_ms: u64, proposal: Option<BlobHash>) {
        let Some(id) = proposal else { return };
        let Some(found) = self.proposals.get_mut(&id) else { return };
        found.applied = Some(index);
        let mut deciders: BTreeSet<String> = found.votes.keys().cloned().collect();
        deciders.extend(found.by_name.clone());
        deciders
            .extend(self.attestations.get(&found.body).into_iter().flatten().map(|(name, _)| name.clone()));
        deciders
            .extend(self.candidates.get(&found.body).into_iter().flat_map(|c| c.sign_offs.keys().cloned()));
        let decision =
            Decision { kind: found.kind, subject: found.subject.clone(), body: found.body, at_ms, deciders };
        self.decisions.insert(index, decision);
    }
}
