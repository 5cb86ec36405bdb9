//! What happened to a proposal, in order, and what is still to come.

use crate::key::Key;
use crate::state::{Outcome, State};
use crate::statement::{Ballot, ProposalKind};
use potluck_types::BlobHash;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It was proposed, or appealed.
    Proposed {
        /// By whom, if it stands in the roles document.
        name: Option<String>,
        /// By which first key.
        key: Key,
    },
    /// Votes count from here on.
    Opens,
    /// An auditor attested.
    Attested {
        /// Who.
        name: String,
        /// Whether it derived the same bits.
        reproduces: bool,
    },
    /// A person signed the eval card.
    SignedOff {
        /// Who.
        name: String,
        /// What the person says about it.
        note: Option<String>,
        /// Whether it is the candidate's card as it is now.
        this_card: bool,
    },
    /// A person voted; only its last vote is shown.
    Voted {
        /// Who.
        name: String,
        /// How.
        vote: Ballot,
        /// Why.
        reason: Option<String>,
    },
    /// Votes do not count from here on.
    Closes,
    /// It took effect.
    Applied,
}

/// One thing that happened, or that the clock will bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at_ms: u64,
    /// Index of its entry, if one says it.
    pub index: Option<u64>,
    /// What.
    pub what: What,
}

/// A proposal with all that happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The proposal.
    pub proposal: BlobHash,
    /// Its kind.
    pub kind: ProposalKind,
    /// What it is about, by name.
    pub subject: String,
    /// What exactly, by hash.
    pub body: BlobHash,
    /// What changes.
    pub diff: Option<String>,
    /// Why.
    pub rationale: String,
    /// Seconds that it has, and that it needs.
    pub seconds: (u32, u32),
    /// What came of it by now.
    pub outcome: Outcome,
    /// In order of time.
    pub events: Vec<Event>,
}

/// Collects a proposal's timeline; none if the log has no such proposal.
pub fn timeline(state: &State, proposal: &BlobHash, now_ms: u64) -> Option<Timeline> {
    let found = state.proposals().get(proposal)?;
    let name = |folded: &String| state.display_name(folded);
    let mut events = vec![
        Event {
            at_ms: found.at_ms,
            index: Some(found.index),
            what: What::Proposed { name: found.by_name.as_ref().map(name), key: found.by },
        },
        Event { at_ms: found.opens, index: None, what: What::Opens },
        Event { at_ms: found.closes, index: None, what: What::Closes },
    ];
    events.extend(found.votes.iter().map(|(who, cast)| Event {
        at_ms: cast.at_ms,
        index: Some(cast.index),
        what: What::Voted { name: name(who), vote: cast.vote, reason: cast.reason.clone() },
    }));
    events.extend(state.attestations(&found.body).map(|(who, attested)| Event {
        at_ms: attested.at_ms,
        index: Some(attested.index),
        what: What::Attested { name: name(who), reproduces: attested.reproduces },
    }));
    if let Some(candidate) = state.candidates().get(&found.body) {
        let card = candidate.card.as_ref().map(|card| card.card);
        events.extend(candidate.sign_offs.iter().map(|(who, signed)| Event {
            at_ms: signed.at_ms,
            index: None,
            what: What::SignedOff {
                name: name(who),
                note: signed.note.clone(),
                this_card: Some(signed.card) == card,
            },
        }));
    }
    if let Some(index) = found.applied {
        let at_ms = state.decisions().get(&index).map_or(found.closes, |decision| decision.at_ms);
        events.push(Event { at_ms, index: Some(index), what: What::Applied });
    }
    events.sort_by_key(|event| (event.at_ms, event.index.unwrap_or(u64::MAX)));
    Some(Timeline {
        proposal: *proposal,
        kind: found.kind,
        subject: found.subject.clone(),
        body: found.body,
        diff: found.diff.clone(),
        rationale: found.rationale.clone(),
        seconds: (found.seconds.len() as u32, found.seconds_needed),
        outcome: state.outcome(proposal, now_ms)?,
        events,
    })
}
