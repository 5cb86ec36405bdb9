//! Every limit of this crate, with its unit and its reason.

/// Longest entry, in bytes: what a leaf of the log holds.
///
/// Source: C2SP tlog-tiles, "Log entries": lengths are written as 16 bits.
pub const MAX_ENTRY_BYTES: usize = 65_535;
/// Longest signed text, in bytes: each byte may take six as a JSON string within its entry, and mostly takes one.
pub const MAX_STATEMENT_BYTES: usize = 16 * 1024;
/// Largest integer of an entry: what a double holds exactly, so that JavaScript and `jq` read the same number.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;
/// Longest name of a person, model, run, job or data set, in bytes: 80 characters, which is what jobs may have, of 4.
pub const MAX_NAME_BYTES: usize = 4 * potluck_types::limits::MAX_JOB_NAME_CHARS;
/// Longest reason, detail, source or license, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;
/// Longest rationale or diff of a proposal, in bytes: two pages that people will read.
pub const MAX_RATIONALE_BYTES: usize = 4096;
/// Updates of one aggregate: each takes at most 177 bytes of JSON, 56,640 in all, and the rest of the entry under 1,000.
/// A round has at most 256 workers.
pub const MAX_UPDATES: usize = 320;
/// Data sets of one run.
pub const MAX_RUN_DATA_SETS: usize = 32;
/// Volunteers and data sets that a candidate was rebuilt without: 77 bytes each.
pub const MAX_EXCLUDED: usize = 256;
/// Volunteers that computed one evaluation: 67 bytes each.
pub const MAX_EVALUATORS: usize = 256;
/// Stewards, at least and at most: fewer are no council, more are never all awake.
pub const STEWARDS: std::ops::RangeInclusive<usize> = 3..=7;
/// Auditors at least: a promotion needs the attestations of two.
pub const MIN_AUDITORS: usize = 2;
/// Auditors, and operators, at most.
pub const MAX_ROLE: usize = 32;
/// Mirrors that a log lists: each url stands twice in a page's Content-Security-Policy header, once for sockets: 4,096 bytes in
/// all, within what proxies take as a header.
pub const MAX_MIRRORS: usize = 16;
/// Longest url of a mirror, in bytes.
pub const MAX_URL_BYTES: usize = 128;
/// For how long after its vote closed a mirror may take over, in milliseconds: a week. A vote from an outage that ended must not
/// depose a relay that is well a year later.
pub const MAX_SUCCESSION_DELAY_MS: u64 = 7 * 86_400_000;
/// Parameters with bounds in a constitution.
pub const MAX_PARAMETERS: usize = 64;
/// Proposals that are open at a time: more than people can read. Of those without the seconds they need, each volunteer
/// may have one, and all together half of these.
pub const MAX_OPEN_PROPOSALS: usize = 64;
/// Longest time between opening and close of a proposal: 90 days, so that none is forgotten and then found passed.
pub const MAX_PROPOSAL_MS: u64 = 90 * 24 * 3_600_000;
/// Rounds of a run: they are kept as 32 bits.
pub const MAX_ROUNDS: u64 = u32::MAX as u64;
/// Workers of a round, as a number: they are kept as 16 bits.
pub const MAX_WORKER: u32 = u16::MAX as u32;
