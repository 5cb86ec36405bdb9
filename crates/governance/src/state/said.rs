//! What people signed, examined: the text by itself, who signed it, and whether that person may say so now.

use super::people::Signer;
use super::proposals::{Electorate, ProposalState, rule};
use super::{Refused, State};
use crate::entry::Signed;
use crate::limits::{MAX_OPEN_PROPOSALS, MAX_PROPOSAL_MS};
use crate::roles::folded;
use crate::statement::{
    Appeal, ProposalKind, Propose, Quarantine, Revoke, Rotate, Said, Scope, Statement, Target, rotation_text,
};
use potluck_types::BlobHash;
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// Checks a signed text by itself, then what it says.
    pub(super) fn examine_signed(&self, signed: &Signed, now_ms: u64) -> Result<Statement, Refused> {
        let statement = Statement::parse(&signed.body)?;
        if statement.origin != self.origin {
            return Err(Refused::Origin { expected: self.origin.clone(), found: statement.origin });
        }
        let skew_ms = self.constitution.skew_ms;
        if statement.at_ms.abs_diff(now_ms) > skew_ms {
            return Err(Refused::Skew { signed_ms: statement.at_ms, logged_ms: now_ms, skew_ms });
        }
        // Who signed comes before the signature: checking one costs a hundred times more than looking up a key.
        let signer = self.people.signer(signed.key)?;
        self.people.fresh(signed.key, statement.seq, signed.id())?;
        if !signed.key.signed(signed.body.as_bytes(), &signed.signature) {
            return Err(Refused::Forged { key: signed.key });
        }
        self.examine_said(&signer, signed, &statement.said, now_ms)?;
        Ok(statement)
    }

    fn examine_said(
        &self,
        signer: &Signer,
        signed: &Signed,
        said: &Said,
        now_ms: u64,
    ) -> Result<(), Refused> {
        match said {
            Said::Propose(propose) => self.examine_propose(signer, signed.id(), propose, now_ms),
            Said::Vote(vote) => {
                let proposal = self.votable(&vote.proposal, now_ms)?;
                match &proposal.electorate {
                    Electorate::Stewards => signer.as_steward("vote on this").map(drop),
                    Electorate::Panel(panel) => {
                        let needed = "a steward or auditor";
                        let wrong = Refused::WrongRole { key: signer.key, act: "vote on an appeal", needed };
                        let name = signer.name().ok_or(wrong)?;
                        if panel.contains(name) {
                            return Ok(());
                        }
                        Err(Refused::NotOnPanel { name: name.clone() })
                    }
                }
            }
            Said::Advise(advise) => {
                self.votable(&advise.proposal, now_ms)?;
                Self::needs_credit(signer, "advise")
            }
            Said::Second(second) => {
                let proposal = self.proposal(&second.proposal)?;
                if now_ms >= proposal.closes {
                    return Err(Refused::Late { closes: proposal.closes, now_ms });
                }
                let why = if proposal.seconded() {
                    "the proposal has all that it needs"
                } else if proposal.by == signer.root {
                    "nobody seconds its own proposal"
                } else if proposal.seconds.contains(&signer.root) {
                    "this volunteer seconded it before"
                } else {
                    return Self::needs_credit(signer, "second");
                };
                Err(Refused::IdleSecond { why })
            }
            Said::Attest(attest) => {
                signer.as_auditor("attest")?;
                let proposed = self.proposals.values().any(|proposal| proposal.body == attest.subject);
                if !proposed && !self.candidates.contains_key(&attest.subject) {
                    let what = format!("a candidate or proposal with the hash {}", attest.subject);
                    return Err(Refused::Unknown { what });
                }
                Ok(())
            }
            Said::SignOff(sign_off) => {
                let needed = "a person of the roles document";
                if signer.name().is_none() {
                    return Err(Refused::WrongRole { key: signer.key, act: "sign a card", needed });
                }
                let Some(candidate) = self.candidates.get(&sign_off.candidate) else {
                    return Err(Refused::Unknown { what: format!("candidate {}", sign_off.candidate) });
                };
                if candidate.card.as_ref().is_none_or(|card| card.card != sign_off.card) {
                    let what = format!("card {}", sign_off.card);
                    let problem =
                        "this is not the candidate's card in the log: read that one and sign its hash";
                    return Err(Refused::Unfit { what, problem });
                }
                Ok(())
            }
            Said::Pause(pause) => self.examine_pause(signer, &pause.scope, now_ms),
            Said::RatifyPause(ratify) => {
                let name = self.may_judge(signer, "ratify a pause", ratify.pause, now_ms)?;
                let pause = &self.pauses.all[&ratify.pause];
                if pause.ratified_ms.is_some() || pause.ratifying.contains(&name) {
                    return Err(Refused::Said { name });
                }
                Ok(())
            }
            Said::Resume(resume) => {
                let name = self.may_judge(signer, "end a pause", resume.pause, now_ms)?;
                if self.pauses.all[&resume.pause].resuming.contains(&name) {
                    return Err(Refused::Said { name });
                }
                Ok(())
            }
            Said::Rotate(rotate) => self.examine_rotate(signer, rotate),
            Said::Revoke(revoke) => self.examine_revoke(signer, revoke),
            Said::Quarantine(quarantine) => self.examine_quarantine(signer, quarantine),
            Said::Appeal(appeal) => self.examine_appeal(signer, appeal, now_ms),
        }
    }

    fn proposal(&self, id: &BlobHash) -> Result<&ProposalState, Refused> {
        self.proposals.get(id).ok_or(Refused::UnknownProposal { proposal: *id })
    }

    fn votable(&self, id: &BlobHash, now_ms: u64) -> Result<&ProposalState, Refused> {
        let proposal = self.proposal(id)?;
        let ProposalState { opens, closes, .. } = *proposal;
        if now_ms >= closes {
            return Err(Refused::Late { closes, now_ms });
        }
        if !proposal.seconded() {
            let (have, need) = (proposal.seconds.len() as u32, proposal.seconds_needed);
            return Err(Refused::Unseconded { have, need });
        }
        if now_ms < opens {
            return Err(Refused::NotOpen { opens, now_ms });
        }
        Ok(proposal)
    }

    fn needs_credit(signer: &Signer, act: &'static str) -> Result<(), Refused> {
        if signer.credit {
            return Ok(());
        }
        Err(Refused::WrongRole { key: signer.key, act, needed: "a volunteer with accepted work in this log" })
    }

    fn examine_propose(
        &self,
        signer: &Signer,
        id: BlobHash,
        propose: &Propose,
        now_ms: u64,
    ) -> Result<(), Refused> {
        if self.proposals.contains_key(&id) {
            return Err(Refused::Duplicate { statement: id });
        }
        let kind = propose.proposal;
        if signer.steward.is_none() && !signer.credit {
            let needed = "a steward, or a volunteer with credit";
            return Err(Refused::WrongRole { key: signer.key, act: "propose", needed });
        }
        // Who dates a proposal back gains nothing: the discussion begins when others can read it.
        let have_ms = propose.closes.saturating_sub(propose.opens.max(now_ms));
        let need_ms = rule(&self.constitution, kind).discussion_ms;
        if have_ms < need_ms || have_ms == 0 {
            return Err(Refused::ShortDiscussion { kind, need_ms, have_ms });
        }
        if propose.closes.saturating_sub(now_ms) > MAX_PROPOSAL_MS {
            return Err(Refused::LongDiscussion { limit_ms: MAX_PROPOSAL_MS });
        }
        let open = || self.live.iter().filter_map(|id| self.proposals.get(id)).filter(|p| now_ms < p.closes);
        let count = open().count();
        if count >= MAX_OPEN_PROPOSALS {
            return Err(Refused::TooManyProposals { open: count, limit: MAX_OPEN_PROPOSALS });
        }
        if signer.steward.is_none() {
            let waiting = open().filter(|proposal| !proposal.seconded()).count();
            if waiting >= MAX_OPEN_PROPOSALS / 2 {
                return Err(Refused::TooManyProposals { open: waiting, limit: MAX_OPEN_PROPOSALS / 2 });
            }
            if open().any(|proposal| proposal.by == signer.root && !proposal.seconded()) {
                return Err(Refused::TooManyProposals { open: 1, limit: 1 });
            }
        }
        self.fits(propose)
    }

    /// Whether what is proposed exists where it has to.
    fn fits(&self, propose: &Propose) -> Result<(), Refused> {
        let problem = match propose.proposal {
            ProposalKind::Promote => match self.candidates.get(&propose.body) {
                None => Some("the log has no such candidate: log it first"),
                Some(found) if found.entry.model != propose.subject => {
                    Some("the candidate is one of another model: name that as the subject")
                }
                Some(_) => None,
            },
            ProposalKind::RollBack => {
                let target = self.models.get(&propose.subject).and_then(|model| model.rollback_target());
                let fits = target.is_some_and(|target| target.candidate == propose.body);
                (!fits)
                    .then_some("a rollback leads to the version before the one in use: name that one's hash")
            }
            ProposalKind::Parameter => {
                let known = self.constitution.parameters.iter().any(|known| known.name == propose.subject);
                (!known).then_some("the constitution has no such parameter: amend it first")
            }
            ProposalKind::Succession => self.cannot_succeed(&propose.subject, propose.body),
            _ => None,
        };
        match problem {
            Some(problem) => Err(Refused::Unfit { what: propose.subject.clone(), problem }),
            None => Ok(()),
        }
    }

    fn examine_pause(&self, signer: &Signer, scope: &Scope, now_ms: u64) -> Result<(), Refused> {
        let Some(name) = signer.steward.as_ref().or(signer.auditor.as_ref()) else {
            let needed = "a steward, or two auditors";
            return Err(Refused::WrongRole { key: signer.key, act: "pause", needed });
        };
        match scope {
            Scope::Run(run) => self.run(*run).map(drop)?,
            Scope::Model(model) if !self.models.contains_key(model) => {
                return Err(Refused::Unknown { what: format!("model {model}") });
            }
            Scope::Model(_) | Scope::All => {}
        }
        if let Some(pause) = self.pauses.find(now_ms, |paused| paused == scope) {
            return Err(Refused::Paused { scope: scope.clone(), pause: pause.id });
        }
        let lasts_ms = self.constitution.pause.expires_ms;
        if signer.steward.is_none() && self.pauses.askers(scope, now_ms, lasts_ms).contains(name) {
            return Err(Refused::Said { name: name.clone() });
        }
        Ok(())
    }

    fn may_judge(&self, signer: &Signer, act: &'static str, id: u64, now_ms: u64) -> Result<String, Refused> {
        let name = signer.as_steward(act)?;
        let Some(pause) = self.pauses.all.get(&id) else {
            return Err(Refused::NoPause { pause: id, why: "no entry of that index began one" });
        };
        if !pause.in_force(now_ms) {
            return Err(Refused::NoPause { pause: id, why: "it has ended; pause again if that is needed" });
        }
        if pause.barred.contains(name) {
            return Err(Refused::OwnIncident { name: name.clone() });
        }
        Ok(name.clone())
    }

    fn examine_rotate(&self, signer: &Signer, rotate: &Rotate) -> Result<(), Refused> {
        let Rotate { new_key, proof } = rotate;
        if self.people.known(*new_key) {
            let problem = "the new key is or was somebody's: make one that nobody has used";
            return Err(Refused::Unfit { what: new_key.to_string(), problem });
        }
        let text = rotation_text(&self.origin, &signer.key, new_key);
        if !new_key.signed(text.as_bytes(), proof) {
            return Err(Refused::Forged { key: *new_key });
        }
        Ok(())
    }

    fn examine_revoke(&self, signer: &Signer, revoke: &Revoke) -> Result<(), Refused> {
        let Revoke { revoked, .. } = revoke;
        if self.people.retired.contains(revoked) {
            return Err(Refused::RetiredKey { key: *revoked });
        }
        if signer.key == *revoked {
            return Ok(());
        }
        let name = signer.as_steward("revoke another's key")?;
        if !self.people.known(*revoked) {
            return Err(Refused::UnknownKey { key: *revoked });
        }
        if self.people.revoking.get(revoked).is_some_and(|names| names.contains(name)) {
            return Err(Refused::Said { name: name.clone() });
        }
        Ok(())
    }

    fn examine_quarantine(&self, signer: &Signer, quarantine: &Quarantine) -> Result<(), Refused> {
        let target = self.target(&quarantine.target);
        let state = self.quarantine.get(&target);
        let inside = state.is_some_and(|state| state.since_ms.is_some());
        if quarantine.lift {
            let name = signer.as_steward("end a quarantine")?;
            if !inside {
                return Err(Refused::Quarantine { target, problem: "is not in quarantine" });
            }
            if state.is_some_and(|state| state.lifting.contains(name)) {
                return Err(Refused::Said { name: name.clone() });
            }
            return Ok(());
        }
        if inside {
            return Err(Refused::Quarantine { target, problem: "is in quarantine already" });
        }
        match &target {
            Target::DataSet(id) if !self.data_sets.contains_key(id) => {
                return Err(Refused::Unknown { what: format!("data set {id}") });
            }
            Target::Volunteer(key) if !self.people.credit.contains_key(key) => {
                return Err(Refused::Unknown { what: format!("work of volunteer {key}") });
            }
            _ => {}
        }
        if signer.steward.is_some() {
            return Ok(());
        }
        let needed = "a steward, or two auditors";
        let wrong = Refused::WrongRole { key: signer.key, act: "quarantine", needed };
        let name = signer.auditor.as_ref().ok_or(wrong)?;
        if state.is_some_and(|state| state.asking.contains(name)) {
            return Err(Refused::Said { name: name.clone() });
        }
        Ok(())
    }

    fn examine_appeal(&self, signer: &Signer, appeal: &Appeal, now_ms: u64) -> Result<(), Refused> {
        let unfit = |problem| Refused::Unfit { what: format!("decision {}", appeal.decision), problem };
        let decision = self.decisions.get(&appeal.decision);
        let decision = decision.ok_or(unfit("no decision took effect with the entry of that index"))?;
        let until = decision.at_ms.saturating_add(self.constitution.appeals_ms);
        if now_ms >= until {
            return Err(Refused::AppealLate { until, now_ms });
        }
        let again = |p: &ProposalState| p.decision == Some(appeal.decision) && p.by == signer.root;
        if self.proposals.values().any(again) {
            return Err(unfit("the same volunteer appealed against it before"));
        }
        let open = self.live.iter().filter_map(|id| self.proposals.get(id));
        let count = open.filter(|p| p.kind == ProposalKind::Appeal && now_ms < p.closes).count();
        if count >= MAX_OPEN_PROPOSALS {
            return Err(Refused::TooManyProposals { open: count, limit: MAX_OPEN_PROPOSALS });
        }
        if self.panel(&decision.deciders, signer).is_empty() {
            return Err(unfit("every steward and auditor had a part in it: elect others first"));
        }
        Ok(())
    }

    /// Stewards and auditors without a part in a decision, and without whoever appeals: nobody judges its own cause.
    pub(super) fn panel(&self, deciders: &BTreeSet<String>, appellant: &Signer) -> BTreeSet<String> {
        let mut panel = self.people.stewards();
        panel.extend(self.people.auditors());
        panel.retain(|name| !deciders.contains(name) && Some(name) != appellant.name());
        panel
    }

    /// Whether somebody of this name holds a role whose key is in use.
    pub fn in_office(&self, name: &str) -> bool {
        self.people.all().contains(&folded(name))
    }

    /// Auditors who asked for a pause that waits for another, by scope and folded name, with the time of each.
    pub fn asking(&self) -> &BTreeMap<Scope, BTreeMap<String, u64>> {
        &self.pauses.asking
    }
}
