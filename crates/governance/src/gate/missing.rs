//! The steps that a decision can lack, each with what to do about it.

use super::Check;
use crate::state::{Outcome, ProposalState, Tally};
use crate::statement::{ProposalKind, Scope};
use potluck_types::BlobHash;

/// A step that is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// The candidate.
    #[error("candidate {candidate} is not in the log: log it first")]
    Candidate {
        /// The hash of its parameters.
        candidate: BlobHash,
    },
    /// The eval card.
    #[error("the candidate has no eval card: evaluate it and log the card")]
    Card,
    /// A check of the machine gate.
    #[error("gate: {0}")]
    Gate(Check),
    /// People who read the card.
    #[error("{have} of {need} people signed that they read and tried this eval card")]
    SignOffs {
        /// How many did.
        have: u32,
        /// How many have to.
        need: u32,
    },
    /// Auditors for whom it reproduces.
    #[error("{have} of {need} auditors attested that it reproduces")]
    Attestations {
        /// How many did.
        have: u32,
        /// How many have to.
        need: u32,
    },
    /// A proposal.
    #[error("no proposal of kind {kind} for this: propose it")]
    Proposal {
        /// The kind.
        kind: ProposalKind,
    },
    /// The named proposal is about something else.
    #[error("proposal {proposal}, of kind {kind}, is about something else: name the one for exactly this")]
    OtherProposal {
        /// The proposal.
        proposal: BlobHash,
        /// Its kind.
        kind: ProposalKind,
    },
    /// The named proposal took effect before.
    #[error("proposal {proposal} has taken effect already: propose again")]
    Used {
        /// The proposal.
        proposal: BlobHash,
    },
    /// A proposal younger than the card.
    #[error(
        "the eval card was logged after proposal {proposal}: people vote on what they can read, so propose again"
    )]
    LateCard {
        /// The proposal.
        proposal: BlobHash,
    },
    /// A proposal older than the last succession.
    #[error(
        "proposal {proposal} was logged before the last succession: people voted on who follows another relay, so \
         propose again"
    )]
    OtherRelay {
        /// The proposal.
        proposal: BlobHash,
    },
    /// A vote on a relay that closed long ago.
    #[error("the vote of proposal {proposal} closed more than a week ago: propose again")]
    OldVote {
        /// The proposal.
        proposal: BlobHash,
    },
    /// Seconds.
    #[error("the proposal has {have} of {need} seconds")]
    Seconds {
        /// How many it has.
        have: u32,
        /// How many it needs.
        need: u32,
    },
    /// The end of the discussion.
    #[error("the discussion goes on until {closes_ms}")]
    Discussion {
        /// When the vote closes.
        closes_ms: u64,
    },
    /// Votes.
    #[error(
        "the vote failed: {} yes, {} no, {} abstained of {} who may vote; volunteers {} for, {} against: propose again",
        .0.yes, .0.no, .0.abstain, .0.eligible, .0.advice_yes, .0.advice_no
    )]
    Votes(Tally),
    /// The end of a pause.
    #[error("{scope} is paused by entry {pause}: resume it first")]
    Resume {
        /// What is paused.
        scope: Scope,
        /// By which pause.
        pause: u64,
    },
    /// It is in use already.
    #[error("this version is in use already")]
    InUse,
    /// Another model.
    #[error("this belongs to the model {model}: name that one")]
    Model {
        /// The model.
        model: String,
    },
    /// The right predecessor.
    #[error("the entry has to name the version in use as the one before: {}", show(*.current))]
    Previous {
        /// The version in use.
        current: Option<BlobHash>,
    },
    /// The right target of a rollback.
    #[error("a rollback leads one version back: {}", show(*.target))]
    Target {
        /// Where it leads.
        target: Option<BlobHash>,
    },
}

fn show(hash: Option<BlobHash>) -> String {
    hash.map_or_else(|| "there is none".to_owned(), |hash| hash.to_string())
}

impl Missing {
    /// What a proposal lacks that has not passed.
    pub(crate) fn from_outcome(proposal: &ProposalState, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Passed(tally) | Outcome::Failed(tally) => Self::Votes(*tally),
            Outcome::Unseconded | Outcome::Dropped => {
                Self::Seconds { have: proposal.seconds.len() as u32, need: proposal.seconds_needed }
            }
            Outcome::NotOpen | Outcome::Open(_) => Self::Discussion { closes_ms: proposal.closes },
        }
    }
}
