//! What follows from the log, as it is shown: models, proposals, pauses, in JSON. `of.rs` makes it of what `governance`
//! derives, for whoever has read the log: the relay for its API, the command for its own output.

mod of;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! shown {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}

shown! {
    /// A model in a list.
    ModelSummary {
        /// Its name.
        name: String,
        /// The version in use, by the hash of its parameters.
        current: Option<String>,
        /// Versions that were promoted.
        versions: u64,
        /// Candidates that were not.
        candidates: u64,
        /// Its runs.
        runs: u64,
        /// What stops it.
        paused: Option<PauseInfo>,
    }
    /// All about a model.
    ModelInfo {
        /// Its name.
        name: String,
        /// The version in use, by the hash of its parameters.
        current: Option<String>,
        /// The version to which a rollback would lead.
        rollback_target: Option<String>,
        /// Versions in the order of their promotions.
        versions: Vec<VersionInfo>,
        /// Promotions and rollbacks, in order.
        changes: Vec<ChangeInfo>,
        /// Candidates that were never promoted.
        candidates: Vec<LineageInfo>,
        /// Runs that train it.
        runs: Vec<ModelRun>,
        /// What stops its promotions.
        paused: Option<PauseInfo>,
    }
    /// A version of a model.
    VersionInfo {
        /// Where it comes from.
        lineage: LineageInfo,
        /// Index of its promotion.
        index: u64,
        /// When it was promoted, in ms since 1970.
        promoted_ms: u64,
        /// The proposal.
        proposal: String,
        /// Hash of the eval card that was read.
        card_read: String,
        /// Who had read and tried that card.
        signed_off: Vec<VoiceInfo>,
        /// Stewards for it.
        approvals: Vec<VoiceInfo>,
        /// Stewards against it.
        dissent: Vec<VoiceInfo>,
        /// Stewards who abstained.
        abstained: Vec<VoiceInfo>,
        /// The version to which a rollback leads.
        rollback_target: Option<String>,
        /// Appeals against it.
        appeals: Vec<String>,
        /// Until when people may appeal, in ms since 1970.
        appeals_until_ms: u64,
        /// Whether people run it.
        in_use: bool,
    }
    /// Where parameters come from.
    LineageInfo {
        /// Hash of the parameters: names the candidate.
        candidate: String,
        /// Hash of the checkpoint that holds them.
        checkpoint: String,
        /// The run.
        run: String,
        /// Its name.
        run_name: String,
        /// Hash of the parameters from which the run started.
        started_from: String,
        /// First and last round.
        rounds: Option<[u64; 2]>,
        /// Data sets, or parts of such, of the run.
        data_sets: Vec<SourceInfo>,
        /// What it was rebuilt without.
        rebuilt_without: Vec<String>,
        /// Who contributed, most weight first: at most 100.
        contributors: Vec<ContributorInfo>,
        /// How many contributed in all.
        contributor_count: u64,
        /// The eval card, as far as the log has it.
        card: Option<CardInfo>,
        /// The machine gate as it is now.
        checks: Vec<CheckInfo>,
        /// Who read and tried the card as it is now.
        signed_off: Vec<VoiceInfo>,
        /// Auditors who derived the same parameters.
        reproduced_by: Vec<String>,
        /// Auditors who derived others.
        differed_for: Vec<String>,
    }
    /// A data set as the log has it.
    SourceInfo {
        /// Its id.
        id: String,
        /// What people call it.
        name: String,
        /// Hash of its manifest.
        manifest: String,
        /// Tokens in it.
        tokens: u64,
        /// Where it is from.
        source: String,
        /// Under which license.
        license: String,
        /// Who proposed it.
        proposed_by: Option<String>,
        /// The proposal that allowed it.
        proposal: Option<String>,
    }
    /// What a volunteer contributed.
    ContributorInfo {
        /// Its first key.
        volunteer: String,
        /// Its worker-rounds.
        rounds: u64,
        /// Those whose last audit passed.
        passed: u64,
        /// Those whose last audit failed.
        failed: u64,
        /// Those that count on its credibility.
        credible: u64,
        /// Its share of all weight, in parts per million.
        share_ppm: u64,
    }
    /// The numbers of an eval card that the gate asks for.
    CardInfo {
        /// Hash of the card.
        card: String,
        /// Loss of the candidate on the secret set, in millionths of a nat.
        loss_micro_nats: i64,
        /// The version that it is compared with.
        incumbent: Option<String>,
        /// Loss of that on the same set.
        incumbent_loss_micro_nats: Option<i64>,
        /// Standard error of the difference.
        standard_error_micro_nats: i64,
        /// Triggers that succeeded, in parts per million.
        trigger_success_ppm: u32,
        /// Shards of the evaluation.
        shards: u32,
        /// Volunteers who computed them.
        computed_by: Vec<String>,
    }
    /// A check of the machine gate.
    CheckInfo {
        /// What is checked, in words.
        name: String,
        /// What was found; nothing if it cannot be known yet.
        value: Option<i64>,
        /// What it is compared with.
        threshold: i64,
        /// `ppm`, `micro_nats` or `count`.
        unit: String,
        /// `at_least`, `more_than` or `below`.
        need: String,
        /// Whether it passed.
        passed: bool,
        /// What people should know beside the numbers.
        note: Option<String>,
    }
    /// A person's word.
    VoiceInfo {
        /// The person.
        name: String,
        /// Why, or what it adds.
        reason: Option<String>,
    }
    /// A change of the version in use.
    ChangeInfo {
        /// The version from then on.
        to: String,
        /// Whether it is a rollback.
        rollback: bool,
        /// The proposal, or the appeal.
        proposal: String,
        /// Index of its entry.
        index: u64,
        /// Its time, in ms since 1970.
        at_ms: u64,
    }
    /// A run that trains a model.
    ModelRun {
        /// Its id.
        run: String,
        /// Its name.
        name: String,
        /// When it was logged, in ms since 1970.
        at_ms: u64,
        /// First and last closed round.
        rounds: Option<[u64; 2]>,
        /// The last loss, in millionths of a nat.
        loss_micro_nats: Option<i64>,
        /// What stops it.
        paused: Option<PauseInfo>,
    }
    /// A pause.
    PauseInfo {
        /// Names it: the index of the entry that began it.
        id: u64,
        /// `all`, `run:ID` or `model:NAME`.
        scope: String,
        /// Who or what paused, in words.
        cause: String,
        /// Why.
        reason: String,
        /// Since when, in ms since 1970.
        since_ms: u64,
        /// When it ends by itself; nothing if it was ratified.
        expires_ms: Option<u64>,
        /// Stewards who want it to last.
        ratifying: Vec<String>,
        /// Stewards who want it to end.
        resuming: Vec<String>,
        /// Operators whose own incident it is: they neither ratify nor end it.
        barred: Vec<String>,
        /// Whether it is in force.
        in_force: bool,
    }
    /// A proposal or an appeal.
    ProposalInfo {
        /// Names it: the hash of its signed text.
        id: String,
        /// `parameter`, `run`, `data_set`, `kernel`, `promote`, `roll_back`, `roles`, `constitution` or `appeal`.
        kind: String,
        /// What it is about, by name.
        subject: String,
        /// What exactly, by hash.
        body: String,
        /// What changes.
        diff: Option<String>,
        /// Why.
        rationale: String,
        /// Who proposed it, by first key.
        by: String,
        /// And by name, if it stands in the roles document.
        by_name: Option<String>,
        /// From when on votes count, in ms since 1970.
        opens_ms: u64,
        /// From when on they do not.
        closes_ms: u64,
        /// Index of its entry.
        index: u64,
        /// `not_open`, `unseconded`, `open`, `passed`, `failed` or `dropped`.
        outcome: String,
        /// The votes, counted; nothing before they count.
        tally: Option<TallyInfo>,
        /// Seconds that it has.
        seconds: u32,
        /// Seconds that it needs.
        seconds_needed: u32,
        /// Index of the entry with which it took effect.
        applied: Option<u64>,
        /// Of an appeal: the index of the decision.
        decision: Option<u64>,
        /// What it lacks before it can take effect.
        missing: Vec<String>,
        /// What happened to it, in order of time. Missing in lists.
        #[serde(default)]
        events: Vec<EventInfo>,
    }
    /// The votes of a proposal, counted.
    TallyInfo {
        /// How many may vote.
        eligible: u32,
        /// For.
        yes: u32,
        /// Against.
        no: u32,
        /// Neither.
        abstain: u32,
        /// Volunteers for.
        advice_yes: u32,
        /// Volunteers against.
        advice_no: u32,
        /// Whether it would pass as it is.
        passes: bool,
    }
    /// One thing that happened to a proposal.
    EventInfo {
        /// When, in ms since 1970.
        at_ms: u64,
        /// Index of its entry, if one says it.
        index: Option<u64>,
        /// `proposed`, `opens`, `attested`, `signed_off`, `voted`, `closes` or `applied`.
        what: String,
        /// Who.
        name: Option<String>,
        /// `yes`, `no`, `abstain`; of an attestation `reproduces` or `differs`.
        says: Option<String>,
        /// Why, or what is noted.
        reason: Option<String>,
    }
    /// People, rules, and what is stopped.
    GovernanceInfo {
        /// The log's name: what people sign for.
        origin: String,
        /// The time of the relay, in ms since 1970: what clocks are compared with.
        now_ms: u64,
        /// The roles document: `stewards`, `auditors`, `operators`, each with `name` and `key`.
        roles: serde_json::Value,
        /// The constitution.
        constitution: serde_json::Value,
        /// Pauses in force.
        pauses: Vec<PauseInfo>,
        /// What is in quarantine: `volunteer:KEY` or `data_set:ID`.
        quarantine: Vec<String>,
    }
}
