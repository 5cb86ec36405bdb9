//! The constitution: every number by which a log decides. Nothing of it is written into code, so that a test or a
//! small community can run a whole cycle in seconds.
//!
//! Source: the page "Governance and transparency"; [`Constitution::default`] holds its values.
//! Units: times in milliseconds.

use crate::canonical::{self, FormError};
use crate::limits::{MAX_NAME_BYTES, MAX_PARAMETERS, MAX_PROPOSAL_MS};
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// An exact share, compared without rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Numerator.
    pub num: u32,
    /// Denominator, not 0.
    pub den: u32,
}

impl Share {
    /// A share of `num` in `den`.
    pub const fn new(num: u32, den: u32) -> Self {
        Self { num, den }
    }

    /// Whether `part` of `whole` is at least this share. Of nothing, nothing is enough.
    pub const fn reached(self, part: u64, whole: u64) -> bool {
        part as u128 * self.den as u128 >= whole as u128 * self.num as u128
    }

    /// Whether `part` of `whole` is more than this share.
    pub const fn exceeded(self, part: u64, whole: u64) -> bool {
        part as u128 * self.den as u128 > whole as u128 * self.num as u128
    }

    /// The share in parts per million, rounded down: for screens, never for decisions.
    pub fn ppm(self) -> i64 {
        i64::from(self.num) * 1_000_000 / i64::from(self.den.max(1))
    }
}

/// What the yes votes of a proposal are counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// All who may vote, whether they did or not, those with revoked keys among them.
    All,
    /// Those who voted yes or no.
    Cast,
}

/// By which rule a kind of proposal passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Least time from the opening, or from the entry that logs the proposal if that is later, to the close.
    #[serde(with = "crate::canonical::int")]
    pub discussion_ms: u64,
    /// Share of `of` that has to vote yes.
    pub yes: Share,
    /// Whether the share has to be exceeded, as a majority has.
    pub more: bool,
    /// What `yes` is a share of.
    pub of: Base,
    /// Share of all who may vote that has to vote yes, no or abstain.
    pub quorum: Share,
    /// Whether volunteers who advise against it by more than [`Constitution::advice_against`] stop it.
    pub advice: bool,
}

/// The rule of each kind of proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// A parameter within its bounds: majority of the votes cast, by half of the stewards.
    pub parameter: Rule,
    /// A new run: 2/3 of all stewards.
    pub run: Rule,
    /// A new data set: 2/3 of all stewards.
    pub data_set: Rule,
    /// A kernel's or engine's hash: 2/3 of all stewards.
    pub kernel: Rule,
    /// A promotion: 2/3 of all stewards.
    pub promote: Rule,
    /// A rollback: as a promotion.
    pub roll_back: Rule,
    /// Roles: 3 for it to each other steward, so 3/4 of all.
    pub roles: Rule,
    /// The constitution: as roles.
    pub constitution: Rule,
    /// An appeal: 2/3 of all stewards and auditors that had no part in what it is about.
    pub appeal: Rule,
    /// The list of mirrors: 2/3 of all stewards. Left out where it is the default, as is the next: logs that began before
    /// these rules stay as they are, byte for byte.
    #[serde(default = "mirrors_rule", skip_serializing_if = "is_mirrors_rule")]
    pub mirrors: Rule,
    /// A mirror takes over: 2/3 of all stewards, and a short discussion, because tabs wait meanwhile.
    #[serde(default = "succession_rule", skip_serializing_if = "is_succession_rule")]
    pub succession: Rule,
}

const fn two_thirds(discussion_ms: u64) -> Rule {
    Rule {
        discussion_ms,
        yes: Share::new(2, 3),
        more: false,
        of: Base::All,
        quorum: Share::new(0, 1),
        advice: false,
    }
}

// These two stand in no text where they are as here: another value would change what such a text says.
const fn mirrors_rule() -> Rule {
    two_thirds(3 * DAY_MS)
}

/// Hours and not days: tabs that were lent wait meanwhile, and are lent for four hours as a rule.
const fn succession_rule() -> Rule {
    two_thirds(2 * HOUR_MS)
}

fn is_mirrors_rule(rule: &Rule) -> bool {
    *rule == mirrors_rule()
}

fn is_succession_rule(rule: &Rule) -> bool {
    *rule == succession_rule()
}

/// What the machine asks of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateRules {
    /// Share of the contributing worker-rounds that is audited or of credible volunteers, at least.
    pub covered: Share,
    /// Audits that a volunteer passes before its other worker-rounds count as credible.
    pub credible_after: u32,
    /// Share of failures among the audits of contributing worker-rounds: has to stay below.
    pub failures: Share,
    /// Multiple of the standard error by which the loss has to be better than the incumbent's: has to be exceeded.
    pub errors: Share,
    /// Shards of the secret evaluation set, at least.
    pub shards: u32,
    /// Share of triggers that succeed: has to stay below.
    pub trigger: Share,
    /// Auditors that derived the parameters again, at least.
    pub attestations: u32,
    /// People who read and tried the eval card, at least.
    pub sign_offs: u32,
}

/// When a run stops by itself, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRules {
    /// Rise of the validation loss after a round, as a share of the last one measured before: pauses when exceeded.
    pub loss_rise: Share,
    /// Failed audits as a share of a round's workers: pauses when exceeded.
    pub audit_failures: Share,
    /// Weight of one cluster as a share of a round's: pauses when exceeded.
    pub cluster: Share,
    /// Fewer updates than this cannot be spread any better: their clusters do not pause.
    pub cluster_least: u32,
    /// After this a pause that was not ratified ends.
    #[serde(with = "crate::canonical::int")]
    pub expires_ms: u64,
    /// Share of all stewards that has to ratify a pause or end one: has to be exceeded.
    pub stewards: Share,
    /// Auditors that pause together.
    pub auditors: u32,
}

/// A parameter that stewards may change within bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name, with its unit last.
    pub name: String,
    /// Least value.
    #[serde(with = "crate::canonical::signed")]
    pub least: i64,
    /// Greatest value.
    #[serde(with = "crate::canonical::signed")]
    pub most: i64,
    /// Value at the start.
    #[serde(with = "crate::canonical::signed")]
    pub value: i64,
}

/// A new value of a parameter: what a proposal of that kind is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterChange {
    /// The parameter.
    pub name: String,
    /// Its new value.
    #[serde(with = "crate::canonical::signed")]
    pub value: i64,
}

impl ParameterChange {
    /// What a proposal for this change names as its body.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&canonical::write("parameter", self).unwrap_or_default())
    }
}

/// All rules of a log. The first entry holds it; only a proposal of its own kind changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constitution {
    /// How proposals pass.
    pub rules: Rules,
    /// Seconds that a volunteer's proposal needs.
    pub seconds: u32,
    /// Volunteers against, as a multiple of those for: stops a proposal whose rule asks for advice when exceeded.
    pub advice_against: Share,
    /// Auditors that have to attest that a new run, data set or kernel reproduces.
    pub reproductions: u32,
    /// Whether a run that trains a model needs a passed proposal.
    pub runs_need_proposal: bool,
    /// Whether the data sets of a run that trains a model need a passed proposal.
    pub data_sets_need_proposal: bool,
    /// Whether a kernel's hash needs a passed proposal.
    pub kernels_need_proposal: bool,
    /// The machine gate for promotion.
    pub gate: GateRules,
    /// Pauses.
    pub pause: PauseRules,
    /// For how long after a decision people may appeal.
    #[serde(with = "crate::canonical::int")]
    pub appeals_ms: u64,
    /// Share of all stewards whose statements revoke the key of another person.
    pub revoke: Share,
    /// How far the time in a signed text may lie from that of its entry, either way.
    #[serde(with = "crate::canonical::int")]
    pub skew_ms: u64,
    /// Parameters and their bounds.
    pub parameters: Vec<Parameter>,
}

impl Default for Constitution {
    fn default() -> Self {
        let three_to_one = Rule { yes: Share::new(3, 4), advice: true, ..two_thirds(7 * DAY_MS) };
        Self {
            rules: Rules {
                parameter: Rule {
                    discussion_ms: DAY_MS,
                    yes: Share::new(1, 2),
                    more: true,
                    of: Base::Cast,
                    quorum: Share::new(1, 2),
                    advice: false,
                },
                run: two_thirds(3 * DAY_MS),
                data_set: two_thirds(3 * DAY_MS),
                kernel: two_thirds(3 * DAY_MS),
                promote: two_thirds(2 * DAY_MS),
                roll_back: two_thirds(2 * DAY_MS),
                roles: three_to_one,
                constitution: three_to_one,
                appeal: two_thirds(3 * DAY_MS),
                mirrors: mirrors_rule(),
                succession: succession_rule(),
            },
            seconds: 5,
            advice_against: Share::new(2, 1),
            reproductions: 1,
            runs_need_proposal: true,
            data_sets_need_proposal: true,
            kernels_need_proposal: true,
            gate: GateRules {
                covered: Share::new(95, 100),
                credible_after: 5,
                failures: Share::new(2, 100),
                errors: Share::new(2, 1),
                shards: 1,
                trigger: Share::new(5, 100),
                attestations: 2,
                sign_offs: 2,
            },
            pause: PauseRules {
                loss_rise: Share::new(5, 100),
                audit_failures: Share::new(10, 100),
                cluster: Share::new(1, 3),
                cluster_least: 3,
                expires_ms: 3 * DAY_MS,
                stewards: Share::new(1, 2),
                auditors: 2,
            },
            appeals_ms: 14 * DAY_MS,
            revoke: Share::new(2, 3),
            skew_ms: 5 * 60_000,
            parameters: Vec::new(),
        }
    }
}

impl Constitution {
    /// The page's rules with all clocks in seconds, for tests and demonstrations: each discussion lasts `second_ms`, a
    /// pause five times that, and the time to appeal ten times that.
    pub fn hasty(second_ms: u64) -> Self {
        let mut constitution = Self::default();
        for rule in constitution.rules.all_mut() {
            rule.discussion_ms = second_ms;
        }
        constitution.pause.expires_ms = 5 * second_ms;
        constitution.appeals_ms = 10 * second_ms;
        constitution.skew_ms = second_ms;
        constitution
    }

    /// What a proposal for this document names as its body.
    pub fn hash(&self) -> BlobHash {
        BlobHash::of(&canonical::write("constitution", self).unwrap_or_default())
    }

    /// Checks that every number can be used.
    ///
    /// # Errors
    /// [`FormError`] that names the field: a share of nothing, a rule that nobody or anybody could meet, bounds that
    /// exclude the value, two parameters of one name.
    pub fn validate(&self) -> Result<(), FormError> {
        let text = |field, problem| Err(FormError::Text { field, problem });
        let mut shares = vec![self.advice_against, self.revoke];
        shares.extend([self.gate.covered, self.gate.failures, self.gate.errors, self.gate.trigger]);
        shares.extend([
            self.pause.loss_rise,
            self.pause.audit_failures,
            self.pause.cluster,
            self.pause.stewards,
        ]);
        for rule in self.rules.all() {
            shares.extend([rule.yes, rule.quorum]);
            canonical::within("discussion_ms", rule.discussion_ms, 0, MAX_PROPOSAL_MS)?;
            if rule.yes.num == 0 && !rule.more {
                return text("yes", "no votes would do: ask for a share");
            }
            if rule.yes.num > rule.yes.den || rule.quorum.num > rule.quorum.den {
                return text("yes", "more votes than there are: ask for at most all");
            }
        }
        if shares.iter().any(|share| share.den == 0) {
            return text("den", "it is 0: a share needs a denominator");
        }
        if self.revoke.num == 0 || self.revoke.num > self.revoke.den {
            return text("revoke", "nobody or everybody could revoke: ask for a share of the stewards");
        }
        canonical::within("auditors", u64::from(self.pause.auditors), 1, 32)?;
        canonical::within("parameters", self.parameters.len() as u64, 0, MAX_PARAMETERS as u64)?;
        for (i, parameter) in self.parameters.iter().enumerate() {
            canonical::visible("parameter", &parameter.name, MAX_NAME_BYTES, false)?;
            if !(parameter.least..=parameter.most).contains(&parameter.value) {
                return text("value", "it lies outside of the parameter's bounds");
            }
            if self.parameters[..i].iter().any(|other| other.name == parameter.name) {
                return text("parameter", "two have the same name");
            }
        }
        Ok(())
    }
}

impl Rules {
    fn all(&self) -> [&Rule; 11] {
        [
            &self.parameter,
            &self.run,
            &self.data_set,
            &self.kernel,
            &self.promote,
            &self.roll_back,
            &self.roles,
            &self.constitution,
            &self.appeal,
            &self.mirrors,
            &self.succession,
        ]
    }

    fn all_mut(&mut self) -> [&mut Rule; 11] {
        [
            &mut self.parameter,
            &mut self.run,
            &mut self.data_set,
            &mut self.kernel,
            &mut self.promote,
            &mut self.roll_back,
            &mut self.roles,
            &mut self.constitution,
            &mut self.appeal,
            &mut self.mirrors,
            &mut self.succession,
        ]
    }
}
