//! Proposals and appeals: who may vote, what was said, and what comes of it.

use super::people::People;
use crate::constitution::{Base, Constitution, Rule, Share};
use crate::key::Key;
use crate::statement::{Ballot, ProposalKind};
use potluck_types::BlobHash;
use std::collections::{BTreeMap, BTreeSet};

/// Who votes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Electorate {
    /// The stewards, as they are when the vote closes.
    Stewards,
    /// These people, by folded name: stewards and auditors without a part in the decision.
    Panel(BTreeSet<String>),
}

/// A vote as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CastVote {
    /// The vote.
    pub vote: Ballot,
    /// Why.
    pub reason: Option<String>,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
}

/// A proposal or an appeal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalState {
    /// Hash of its signed text.
    pub id: BlobHash,
    /// What kind of thing.
    pub kind: ProposalKind,
    /// What it is about, by name.
    pub subject: String,
    /// What exactly, by hash. Of an appeal, its own id.
    pub body: BlobHash,
    /// What changes.
    pub diff: Option<String>,
    /// Why.
    pub rationale: String,
    /// From when on votes count.
    pub opens: u64,
    /// From when on they do not.
    pub closes: u64,
    /// Who proposed it, by first key.
    pub by: Key,
    /// And by folded name, if it stands in the roles document.
    pub by_name: Option<String>,
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
    /// The rule as it was then.
    pub rule: Rule,
    /// Who votes.
    pub electorate: Electorate,
    /// Of an appeal: the index of the decision.
    pub decision: Option<u64>,
    /// Votes by folded name: a person has one, however often its key changes.
    pub votes: BTreeMap<String, CastVote>,
    /// Advice by first key.
    pub advice: BTreeMap<Key, Ballot>,
    /// Seconds by first key.
    pub seconds: BTreeSet<Key>,
    /// Seconds that it needs.
    pub seconds_needed: u32,
    /// Index of the entry with which it took effect.
    pub applied: Option<u64>,
    /// What came of it, once those who could vote changed after its close.
    settled: Option<Outcome>,
}

/// The votes of a proposal, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How many may vote. Holders of revoked keys count, and cannot vote.
    pub eligible: u32,
    /// For.
    pub yes: u32,
    /// Against.
    pub no: u32,
    /// Neither.
    pub abstain: u32,
    /// Volunteers for.
    pub advice_yes: u32,
    /// Volunteers against.
    pub advice_no: u32,
    /// Whether the votes for it are enough.
    pub share_met: bool,
    /// Whether enough voted.
    pub quorum_met: bool,
    /// Whether the volunteers do not stop it.
    pub advice_met: bool,
}

impl Tally {
    /// Whether it passes.
    pub fn passes(&self) -> bool {
        self.share_met && self.quorum_met && self.advice_met
    }
}

/// What came of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Votes do not count yet.
    NotOpen,
    /// It lacks seconds.
    Unseconded,
    /// The vote goes on.
    Open(Tally),
    /// It passed.
    Passed(Tally),
    /// It did not pass.
    Failed(Tally),
    /// The seconds did not come in time.
    Dropped,
}

/// What a new proposal starts from.
pub(super) struct NewProposal {
    pub(super) id: BlobHash,
    pub(super) kind: ProposalKind,
    pub(super) subject: String,
    pub(super) body: BlobHash,
    pub(super) diff: Option<String>,
    pub(super) rationale: String,
    pub(super) opens: u64,
    pub(super) closes: u64,
    pub(super) by: Key,
    pub(super) by_name: Option<String>,
    pub(super) index: u64,
    pub(super) at_ms: u64,
    pub(super) rule: Rule,
    pub(super) electorate: Electorate,
    pub(super) decision: Option<u64>,
    pub(super) seconds_needed: u32,
}

/// The rule of a kind.
pub(super) fn rule(constitution: &Constitution, kind: ProposalKind) -> Rule {
    let rules = &constitution.rules;
    match kind {
        ProposalKind::Parameter => rules.parameter,
        ProposalKind::Run => rules.run,
        ProposalKind::DataSet => rules.data_set,
        ProposalKind::Kernel => rules.kernel,
        ProposalKind::Promote => rules.promote,
        ProposalKind::RollBack => rules.roll_back,
        ProposalKind::Roles => rules.roles,
        ProposalKind::Constitution => rules.constitution,
        ProposalKind::Appeal => rules.appeal,
        ProposalKind::Mirrors => rules.mirrors,
        ProposalKind::Succession => rules.succession,
    }
}

impl ProposalState {
    pub(super) fn new(new: NewProposal) -> Self {
        let NewProposal { id, kind, subject, body, diff, rationale, opens, closes, by, by_name, .. } = new;
        Self {
            id,
            kind,
            subject,
            body,
            diff,
            rationale,
            opens,
            closes,
            by,
            by_name,
            index: new.index,
            at_ms: new.at_ms,
            rule: new.rule,
            electorate: new.electorate,
            decision: new.decision,
            votes: BTreeMap::new(),
            advice: BTreeMap::new(),
            seconds: BTreeSet::new(),
            seconds_needed: new.seconds_needed,
            applied: None,
            settled: None,
        }
    }

    /// Whether it has the seconds that it needs.
    pub fn seconded(&self) -> bool {
        self.seconds.len() >= self.seconds_needed as usize
    }

    pub(super) fn tally(&self, people: &People, against: Share) -> Tally {
        let (eligible, voters) = match &self.electorate {
            Electorate::Stewards => (people.roles.stewards.len(), people.stewards()),
            Electorate::Panel(panel) => (panel.len(), panel.intersection(&people.all()).cloned().collect()),
        };
        let count = |vote| {
            self.votes.iter().filter(|(name, cast)| cast.vote == vote && voters.contains(*name)).count()
                as u32
        };
        let advice = |vote| self.advice.values().filter(|advice| **advice == vote).count() as u32;
        let (yes, no, abstain) = (count(Ballot::Yes), count(Ballot::No), count(Ballot::Abstain));
        let (advice_yes, advice_no) = (advice(Ballot::Yes), advice(Ballot::No));
        let Rule { yes: share, more, of, quorum, advice: asks, .. } = self.rule;
        let base = match of {
            Base::All => eligible as u64,
            Base::Cast => u64::from(yes + no),
        };
        let enough = if more { share.exceeded(yes.into(), base) } else { share.reached(yes.into(), base) };
        Tally {
            eligible: eligible as u32,
            yes,
            no,
            abstain,
            advice_yes,
            advice_no,
            // Nobody's vote is nobody's will: an empty electorate passes nothing.
            share_met: yes > 0 && enough,
            quorum_met: quorum.reached(u64::from(yes + no + abstain), eligible as u64),
            advice_met: !asks || !against.exceeded(advice_no.into(), advice_yes.into()),
        }
    }

    pub(super) fn outcome(&self, people: &People, against: Share, now_ms: u64) -> Outcome {
        if let Some(settled) = self.settled {
            return settled;
        }
        let closed = now_ms >= self.closes;
        match (self.seconded(), closed) {
            (false, true) => Outcome::Dropped,
            (false, false) => Outcome::Unseconded,
            (true, false) if now_ms < self.opens => Outcome::NotOpen,
            (true, false) => Outcome::Open(self.tally(people, against)),
            (true, true) => {
                let tally = self.tally(people, against);
                if tally.passes() { Outcome::Passed(tally) } else { Outcome::Failed(tally) }
            }
        }
    }

    /// Keeps the outcome of a vote that has closed, before those who could vote, or the rules, change.
    pub(super) fn settle(&mut self, people: &People, against: Share, now_ms: u64) {
        if now_ms >= self.closes && self.settled.is_none() {
            self.settled = Some(self.outcome(people, against, now_ms));
        }
    }
}
