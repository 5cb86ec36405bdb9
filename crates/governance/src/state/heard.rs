//! What people signed, recorded: examined before, so that nothing can go wrong any more.

use super::people::Signer;
use super::proposals::{CastVote, Electorate, NewProposal, ProposalState, rule};
use super::{Attested, Cause, Pause, SignedOff, State};
use crate::entry::Signed;
use crate::key::Key;
use crate::statement::{Appeal, ProposalKind, Propose, Quarantine, Said, Scope, Statement};
use potluck_types::BlobHash;
use std::collections::BTreeSet;

impl State {
    pub(super) fn record_said(&mut self, index: u64, now_ms: u64, signed: &Signed, statement: Statement) {
        let id = signed.id();
        let Ok(signer) = self.people.signer(signed.key) else { return };
        self.people.heard(signed.key, statement.seq, id);
        let name = signer.name().cloned();
        match statement.said {
            Said::Propose(propose) => self.record_propose(index, now_ms, id, &signer, propose),
            Said::Vote(vote) => {
                let cast = CastVote { vote: vote.vote, reason: vote.reason, index, at_ms: now_ms };
                if let (Some(proposal), Some(name)) = (self.proposals.get_mut(&vote.proposal), name) {
                    proposal.votes.insert(name, cast);
                }
            }
            Said::Advise(advise) => {
                if let Some(proposal) = self.proposals.get_mut(&advise.proposal) {
                    proposal.advice.insert(signer.root, advise.vote);
                }
            }
            Said::Second(second) => {
                if let Some(proposal) = self.proposals.get_mut(&second.proposal) {
                    proposal.seconds.insert(signer.root);
                }
            }
            Said::Attest(attest) => {
                if let Some(name) = signer.auditor {
                    let said = Attested { reproduces: attest.reproduces, index, at_ms: now_ms };
                    self.attestations.entry(attest.subject).or_default().insert(name, said);
                }
            }
            Said::SignOff(sign_off) => {
                if let (Some(candidate), Some(name)) = (self.candidates.get_mut(&sign_off.candidate), name) {
                    let signed = SignedOff { card: sign_off.card, note: sign_off.note, at_ms: now_ms };
                    candidate.sign_offs.insert(name, signed);
                }
            }
            Said::Pause(pause) => self.record_pause(index, now_ms, &signer, pause.scope, pause.reason),
            Said::RatifyPause(ratify) => {
                let enough = self.enough(ratify.pause, &signer, |pause| &mut pause.ratifying);
                if let Some(pause) = self.pauses.all.get_mut(&ratify.pause).filter(|_| enough) {
                    pause.ratified_ms = Some(now_ms);
                }
            }
            Said::Resume(resume) => {
                if self.enough(resume.pause, &signer, |pause| &mut pause.resuming) {
                    self.pauses.end(resume.pause, now_ms);
                }
            }
            Said::Rotate(rotate) => self.people.rotate(signer.key, rotate.new_key),
            Said::Revoke(revoke) => self.record_revoke(now_ms, &signer, revoke.revoked),
            Said::Quarantine(quarantine) => self.record_quarantine(now_ms, signer, quarantine),
            Said::Appeal(appeal) => self.record_appeal(index, now_ms, id, &signer, appeal),
        }
    }

    fn record_propose(&mut self, index: u64, now_ms: u64, id: BlobHash, signer: &Signer, propose: Propose) {
        self.settle(now_ms);
        let Propose { proposal: kind, subject, body, diff, rationale, opens, closes } = propose;
        let proposal = ProposalState::new(NewProposal {
            id,
            kind,
            subject,
            body,
            diff,
            rationale,
            opens: opens.max(now_ms),
            closes,
            by: signer.root,
            by_name: signer.name().cloned(),
            index,
            at_ms: now_ms,
            rule: rule(&self.constitution, kind),
            electorate: Electorate::Stewards,
            decision: None,
            seconds_needed: if signer.steward.is_some() { 0 } else { self.constitution.seconds },
        });
        self.proposals.insert(id, proposal);
        self.live.insert(id);
    }

    fn record_pause(&mut self, index: u64, now_ms: u64, signer: &Signer, scope: Scope, reason: String) {
        let lasts_ms = self.constitution.pause.expires_ms;
        let cause = match (&signer.steward, &signer.auditor) {
            (Some(name), _) => Cause::Steward { name: name.clone(), reason },
            (None, Some(name)) => {
                let mut names = self.pauses.askers(&scope, now_ms, lasts_ms);
                names.insert(name.clone());
                if (names.len() as u32) < self.constitution.pause.auditors {
                    self.pauses.asking.entry(scope).or_default().insert(name.clone(), now_ms);
                    return;
                }
                Cause::Auditors { names, reason }
            }
            (None, None) => return,
        };
        self.pauses.begin(Pause {
            id: index,
            scope,
            cause,
            since_ms: now_ms,
            expires_ms: now_ms.saturating_add(lasts_ms),
            ratifying: BTreeSet::new(),
            ratified_ms: None,
            resuming: BTreeSet::new(),
            ended_ms: None,
            barred: BTreeSet::new(),
        });
    }

    /// Adds a steward to those who want something of a pause; says whether they are enough.
    fn enough(&mut self, id: u64, signer: &Signer, names: fn(&mut Pause) -> &mut BTreeSet<String>) -> bool {
        let (stewards, all) = (self.people.stewards(), self.people.roles.stewards.len() as u64);
        let (Some(pause), Some(name)) = (self.pauses.all.get_mut(&id), &signer.steward) else { return false };
        let names = names(pause);
        names.insert(name.clone());
        self.constitution.pause.stewards.exceeded(names.intersection(&stewards).count() as u64, all)
    }

    fn record_revoke(&mut self, now_ms: u64, signer: &Signer, revoked: Key) {
        if signer.key != revoked {
            let stewards = self.people.stewards();
            let Some(name) = signer.steward.clone() else { return };
            let names = self.people.revoking.entry(revoked).or_default();
            names.insert(name);
            let count = names.intersection(&stewards).count() as u64;
            if !self.constitution.revoke.reached(count, self.people.roles.stewards.len() as u64) {
                return;
            }
        }
        self.settle(now_ms);
        self.people.revoking.remove(&revoked);
        self.people.retired.insert(revoked);
    }

    fn record_quarantine(&mut self, now_ms: u64, signer: Signer, quarantine: Quarantine) {
        let target = self.target(&quarantine.target);
        let (stewards, all) = (self.people.stewards(), self.people.roles.stewards.len() as u64);
        let state = self.quarantine.entry(target).or_default();
        let enough = if quarantine.lift {
            state.lifting.extend(signer.steward);
            let enough = self.constitution.pause.stewards;
            if !enough.exceeded(state.lifting.intersection(&stewards).count() as u64, all) {
                return;
            }
            state.since_ms = None;
            false
        } else {
            let alone = signer.steward.is_some();
            state.asking.extend(signer.auditor);
            alone || state.asking.len() as u32 >= self.constitution.pause.auditors
        };
        state.reason = quarantine.reason;
        if enough {
            state.since_ms = Some(now_ms);
        }
        if enough || quarantine.lift {
            state.asking.clear();
            state.lifting.clear();
        }
    }

    fn record_appeal(&mut self, index: u64, now_ms: u64, id: BlobHash, signer: &Signer, appeal: Appeal) {
        self.settle(now_ms);
        let Some(decision) = self.decisions.get(&appeal.decision) else { return };
        let rule = self.constitution.rules.appeal;
        let proposal = ProposalState::new(NewProposal {
            id,
            kind: ProposalKind::Appeal,
            subject: decision.subject.clone(),
            body: id,
            diff: None,
            rationale: appeal.reason,
            opens: now_ms,
            closes: now_ms.saturating_add(rule.discussion_ms.max(1)),
            by: signer.root,
            by_name: signer.name().cloned(),
            index,
            at_ms: now_ms,
            rule,
            electorate: Electorate::Panel(self.panel(&decision.deciders, signer)),
            decision: Some(appeal.decision),
            seconds_needed: 0,
        });
        self.proposals.insert(id, proposal);
        self.live.insert(id);
    }
}
