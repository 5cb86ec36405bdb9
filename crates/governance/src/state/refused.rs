//! Why an entry is refused: what is wrong, and what to do.

use crate::canonical::FormError;
use crate::gate::Missing;
use crate::key::Key;
use crate::roles::RolesError;
use crate::statement::{ProposalKind, Scope, Target};
use potluck_types::{BlobHash, JobId};

/// Why the state refuses an entry. It is then as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not the entry that comes next.
    #[error("entry {found} does not come next: apply entry {expected}")]
    Index {
        /// The one that comes next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// Time runs backward.
    #[error(
        "the entry's time {at_ms} lies before that of the last one, {last_ms}: log with a clock that does not fall"
    )]
    Backward {
        /// Time of the entry.
        at_ms: u64,
        /// Time of the last.
        last_ms: u64,
    },
    /// The log has no first entry.
    #[error("the log has no genesis: its first entry has to name origin, constitution and roles")]
    NoGenesis,
    /// The log has a first entry.
    #[error("only the first entry is a genesis: change roles and constitution by proposals")]
    SecondGenesis,
    /// People are in office.
    #[error("people are in office: change roles and constitution by proposals")]
    Founded,
    /// The entry or statement is out of form.
    #[error("form: {0}")]
    Form(#[from] FormError),
    /// A roles document is out of order.
    #[error("roles: {0}")]
    Roles(#[from] RolesError),
    /// The signature is not that of the key over the text.
    #[error("the signature is not that of {key} over this text: sign exactly the text that is sent")]
    Forged {
        /// The key that is named.
        key: Key,
    },
    /// Signed for another log.
    #[error("signed for the log {found}, and this is {expected}: sign for this one")]
    Origin {
        /// This log.
        expected: String,
        /// The log in the text.
        found: String,
    },
    /// The same statement stands in the log.
    #[error("this statement is in the log already: it counts once")]
    Duplicate {
        /// Its id.
        statement: BlobHash,
    },
    /// A statement older than one that counted.
    #[error("its number {found} is not above {last}, the last of this key: sign anew with a higher number")]
    Replayed {
        /// The last number.
        last: u64,
        /// Its number.
        found: u64,
    },
    /// The times of statement and entry are too far apart.
    #[error(
        "signed at {signed_ms}, logged at {logged_ms}: more than {skew_ms} ms apart; set the clock and sign anew"
    )]
    Skew {
        /// Time in the text.
        signed_ms: u64,
        /// Time of the entry.
        logged_ms: u64,
        /// Allowed.
        skew_ms: u64,
    },
    /// Nobody knows the key.
    #[error(
        "{key} has no role and no credit here: contribute verified work, or ask for a role by a proposal"
    )]
    UnknownKey {
        /// The key.
        key: Key,
    },
    /// The key was replaced or revoked.
    #[error("{key} is out of use: sign with the key that followed it, or ask for a new one by a proposal")]
    RetiredKey {
        /// The key.
        key: Key,
    },
    /// The signer's role does not allow it.
    #[error("{key} may not {act}: that takes {needed}")]
    WrongRole {
        /// The key.
        key: Key,
        /// What it wanted to do.
        act: &'static str,
        /// Who may.
        needed: &'static str,
    },
    /// An operator on its own incident.
    #[error("{name} runs the relay that this is about: others have to decide")]
    OwnIncident {
        /// The operator.
        name: String,
    },
    /// Somebody who decided, on the appeal against that.
    #[error(
        "{name} is not on this appeal's panel: only stewards and auditors without a part in the decision are"
    )]
    NotOnPanel {
        /// Who.
        name: String,
    },
    /// No such proposal.
    #[error("no proposal {proposal} is in the log: name the hash of its signed text")]
    UnknownProposal {
        /// The hash.
        proposal: BlobHash,
    },
    /// Votes do not count yet.
    #[error("votes count from {opens} on, and it is {now_ms}: send it again then")]
    NotOpen {
        /// When it opens.
        opens: u64,
        /// Time of the entry.
        now_ms: u64,
    },
    /// Votes do not count any more.
    #[error("the vote closed at {closes}, and this is logged at {now_ms}: propose again to decide anew")]
    Late {
        /// When it closed.
        closes: u64,
        /// Time of the entry.
        now_ms: u64,
    },
    /// The proposal lacks seconds.
    #[error("a volunteer's proposal needs {need} seconds before a vote, and has {have}")]
    Unseconded {
        /// Seconds it has.
        have: u32,
        /// Seconds it needs.
        need: u32,
    },
    /// It needs no second, or not this one.
    #[error("this second adds nothing: {why}")]
    IdleSecond {
        /// Why.
        why: &'static str,
    },
    /// Too little time to discuss.
    #[error(
        "a proposal of kind {kind} has to be discussed for {need_ms} ms, and {have_ms} are left: close later"
    )]
    ShortDiscussion {
        /// The kind.
        kind: ProposalKind,
        /// Time needed.
        need_ms: u64,
        /// Time between opening, or the entry if later, and close.
        have_ms: u64,
    },
    /// Too far ahead.
    #[error("it closes more than {limit_ms} ms from now: close earlier")]
    LongDiscussion {
        /// The limit.
        limit_ms: u64,
    },
    /// Too many are open.
    #[error("{open} proposals are open; the limit is {limit}: wait until one closes")]
    TooManyProposals {
        /// Open ones.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// What is proposed does not exist or does not fit.
    #[error("{what}: {problem}")]
    Unfit {
        /// What.
        what: String,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The proposal that an entry names does not allow it.
    #[error("the log does not justify this: {0}")]
    Unjustified(Missing),
    /// A promotion lacks steps.
    #[error("the log does not justify this promotion; missing: {}", list(.missing))]
    NotReady {
        /// What is missing.
        missing: Vec<Missing>,
    },
    /// A job or run stands in the log already.
    #[error("{job} is in the log already: ids are used once")]
    JobTwice {
        /// The id.
        job: JobId,
    },
    /// No such job or run.
    #[error("no job or run {job} is in the log: log it first")]
    UnknownJob {
        /// The id.
        job: JobId,
    },
    /// Something else stands in the log already.
    #[error("{what} is in the log already")]
    Twice {
        /// What.
        what: String,
    },
    /// Something named is not in the log.
    #[error("{what} is not in the log: log it first")]
    Unknown {
        /// What.
        what: String,
    },
    /// An epoch's number does not grow.
    #[error("epoch {found} does not follow {last}: numbers grow with each start")]
    Epoch {
        /// The last.
        last: u32,
        /// The one that came.
        found: u32,
    },
    /// A secret is not what was committed to.
    #[error(
        "the secret of epoch {incarnation} does not hash to its commitment: audits drawn from it are void"
    )]
    Secret {
        /// The epoch.
        incarnation: u32,
    },
    /// A round is not open.
    #[error("round {round} is not open: rounds {first} to {last} are")]
    Round {
        /// The round.
        round: u64,
        /// First open.
        first: u64,
        /// Last open.
        last: u64,
    },
    /// An attempt that was given up.
    #[error("attempt {found} of round {round} was given up for attempt {current}")]
    Attempt {
        /// The round.
        round: u64,
        /// The attempt that counts.
        current: u32,
        /// The one named.
        found: u32,
    },
    /// A worker's update counts once.
    #[error("worker {worker} of round {round} has an accepted update already")]
    WorkerTwice {
        /// The round.
        round: u64,
        /// The worker.
        worker: u32,
    },
    /// A worker-round that did not contribute.
    #[error(
        "round {round} has no contribution of worker {worker} by {volunteer}: name one that the log holds"
    )]
    UnknownWorker {
        /// The round.
        round: u64,
        /// The worker.
        worker: u32,
        /// The volunteer.
        volunteer: Key,
    },
    /// An aggregate begins elsewhere than the last one ended.
    #[error("the round starts from {found}, and the run stands at {expected}")]
    Chain {
        /// Where the run stands.
        expected: BlobHash,
        /// Where the aggregate starts.
        found: BlobHash,
    },
    /// Commits were not logged first.
    #[error("round {round} has {updates} updates and {commits} logged commits: log all commits before")]
    Commits {
        /// The round.
        round: u64,
        /// Updates.
        updates: usize,
        /// Commits.
        commits: u32,
    },
    /// An update that was not accepted is in an aggregate, or twice.
    #[error("update {update} of {volunteer} was not accepted in this round, or stands twice")]
    Update {
        /// The update.
        update: BlobHash,
        /// The volunteer.
        volunteer: Key,
    },
    /// It is paused.
    #[error("{scope} is paused by entry {pause}: resume it first")]
    Paused {
        /// What.
        scope: Scope,
        /// By which pause.
        pause: u64,
    },
    /// No such pause, or it is over.
    #[error("pause {pause} is not in force: {why}")]
    NoPause {
        /// The pause.
        pause: u64,
        /// Why not.
        why: &'static str,
    },
    /// Quarantine of what is in it, or release of what is not.
    #[error("{target} {problem}")]
    Quarantine {
        /// What.
        target: Target,
        /// What is wrong.
        problem: &'static str,
    },
    /// The time to appeal is over.
    #[error("the time to appeal ended at {until}, and it is {now_ms}")]
    AppealLate {
        /// When it ended.
        until: u64,
        /// Time of the entry.
        now_ms: u64,
    },
    /// A succession counts more entries than there are before it.
    #[error(
        "the succession counts from {from}, and is entry {index}: name a checkpoint of the log as it is before it"
    )]
    BeyondLog {
        /// How many entries it counts.
        from: u64,
        /// Its index.
        index: u64,
    },
    /// The relay that succeeds logged something that it had no right to.
    #[error(
        "entry {fact} is no statement, and the succession counts from {from}: between the last checkpoint of the \
         relay before and a succession only statements may stand, so begin again from that checkpoint"
    )]
    NotOnlyStatements {
        /// How many entries the last checkpoint of the relay before holds.
        from: u64,
        /// The last entry that is no statement.
        fact: u64,
    },
    /// The person has said this before.
    #[error("{name} has said so before: it counts once")]
    Said {
        /// Who.
        name: String,
    },
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
