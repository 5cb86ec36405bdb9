//! Robust aggregation: many updates, some of them hostile, become one.
//!
//! In this order, for dense updates ([`aggregate`]):
//!
//! 1. Norm of each update, in f64.
//! 2. Votes: updates of one cluster (same address block and device class) are one vote. Votes are ordered by cluster,
//!    so the order in which updates arrive does not matter between clusters; within one, it is the caller's.
//! 3. The median norm: of the votes' norms, where a cluster counts with the median of its members'. Medians of an even
//!    number are the lower of the two in the middle, so that half of the votes cannot raise them.
//! 4. Each update is scaled down to the median norm if it is above.
//! 5. A vote's value at a coordinate is the mean of its members' by weight; its weight is the greatest of theirs.
//! 6. With n votes: n ≥ 6, trimmed mean with b = max(1, floor(0.2 n)); n = 4 or 5, coordinate median; n < 4, mean of
//!    the audited updates only, for among so few no rule can tell who lies.
//! 7. The result is scaled down to the norm cap, if it is above.
//!
//! **Weighted trimmed mean.** At each coordinate the votes are sorted by value (of equal ones the lower cluster first),
//! the b lowest and the b highest are left out *by count*, whatever their weights, and the rest is averaged by weight.
//! With at most b hostile votes each value that stays lies between two honest ones, and so does the mean, whatever
//! weights were claimed. The median is the same with b = floor((n-1)/2): of four votes the two in the middle are averaged by
//! weight.
//!
//! Sparse updates ([`aggregate_sparse`]) have about one sender a coordinate, so there is nothing to trim: after the same
//! steps 1 to 4, the mean by weight over the votes that sent an index. They need credible senders, and audits.
//!
//! Determinism: sums are f64 in the fixed orders above, and each product is rounded on its own; square roots are IEEE's.
//! Source: Yin et al., Byzantine-robust distributed learning, arXiv 1803.01498.

use std::collections::BTreeMap;

/// Most updates of one round: as many as a relay has sessions.
pub const MAX_UPDATES: usize = 4096;

/// Parameters of the rule, logged with each run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AggregateParams {
    /// Share of the votes that is trimmed at either end. Default 0.2.
    pub trim: f64,
    /// Votes from which on the mean is trimmed. Default 6.
    pub trim_from: usize,
    /// Votes from which on the median is taken. Default 4.
    pub median_from: usize,
    /// Greatest norm of the result. Default none: a run sets it from its own past.
    pub norm_cap: f64,
}

impl Default for AggregateParams {
    fn default() -> Self {
        Self { trim: 0.2, trim_from: 6, median_from: 4, norm_cap: f64::INFINITY }
    }
}

/// Who sent an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sender {
    /// What its vote is worth among those that are not trimmed: tokens x credibility, for example. Above 0.
    pub weight: f64,
    /// Whether a replay has confirmed the update.
    pub audited: bool,
    /// Senders that share an address block and a device class have the same number, and one vote.
    pub cluster: u64,
}

/// A dense update, decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update<'a> {
    /// One value a parameter.
    pub values: &'a [f32],
    /// Who sent it.
    pub sender: Sender,
}

/// A sparse update, decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseUpdate<'a> {
    /// Indices, ascending, and values.
    pub entries: &'a [(u32, f32)],
    /// Who sent it.
    pub sender: Sender,
}

/// Which updates take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that are given. Where there are too few votes, only the audited ones.
    All,
    /// Only those that a replay has confirmed: after the gate has raised an alarm.
    Audited,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Mean by weight of the audited updates.
    AuditedMean,
    /// Median at each coordinate.
    Median,
    /// Trimmed mean at each coordinate.
    TrimmedMean {
        /// Votes left out at either end.
        trimmed: usize,
    },
    /// Mean by weight over those who sent an index.
    MeanPerIndex,
}

/// One update's part in the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Norm as it came.
    pub norm: f64,
    /// By what it was multiplied: 1, or less if it was above the median; 0 if the update took no part.
    pub clip: f64,
}

/// The combined update, and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// One value a parameter.
    pub values: Vec<f32>,
    /// The rule that was used.
    pub rule: Rule,
    /// Votes that took part.
    pub votes: usize,
    /// To which the updates were clipped.
    pub median_norm: f64,
    /// Norm of the result before the cap.
    pub norm: f64,
    /// By what the cap multiplied the result: 1 if it did not act.
    pub cap: f64,
    /// One entry an update, in the order given.
    pub shares: Vec<Share>,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// Nothing to combine.
    #[error("no update came: close the round without a step")]
    NoUpdates,
    /// More updates than a round can have.
    #[error("{found} updates; a round takes at most {MAX_UPDATES}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Too few votes for a robust rule, and none was audited.
    #[error("{votes} votes are too few for a robust rule, and none is audited: audit them first")]
    NoneAudited {
        /// How many votes there are.
        votes: usize,
    },
    /// An update of another length.
    #[error("update {update} has {found} values, the first one {expected}")]
    Length {
        /// Which update.
        update: usize,
        /// Its values.
        found: usize,
        /// Values of the first one.
        expected: usize,
    },
    /// A NaN or an infinity.
    #[error("value {index} of update {update} is not finite: refuse such updates when they are decoded")]
    NotFinite {
        /// Which update.
        update: usize,
        /// Which of its values.
        index: usize,
    },
    /// A weight that is not finite or not above 0.
    #[error("update {update} has no weight: leave out whoever has no credibility")]
    Weight {
        /// Which update.
        update: usize,
    },
    /// Indices that are not ascending, or beyond the parameters.
    #[error("entry {entry} of update {update} is out of order, or beyond the parameters")]
    Index {
        /// Which update.
        update: usize,
        /// Which of its entries.
        entry: usize,
    },
    /// A trimmed share that leaves nothing.
    #[error("a rule that trims {trimmed} of {votes} votes at either end leaves none")]
    Params {
        /// Votes left out at either end.
        trimmed: usize,
        /// Votes.
        votes: usize,
    },
}

/// Combines dense updates.
///
/// # Errors
/// [`AggregateError`]; never because of what a value is, as long as it is finite.
pub fn aggregate(
    updates: &[Update<'_>],
    scope: Scope,
    params: &AggregateParams,
) -> Result<Aggregate, AggregateError> {
    let expected = updates.first().map_or(0, |update| update.values.len());
    for (number, update) in updates.iter().enumerate() {
        if update.values.len() != expected {
            return Err(AggregateError::Length { update: number, found: update.values.len(), expected });
        }
        if let Some(index) = update.values.iter().position(|value| !value.is_finite()) {
            return Err(AggregateError::NotFinite { update: number, index });
        }
    }
    let senders: Vec<Sender> = updates.iter().map(|update| update.sender).collect();
    let norms: Vec<f64> = updates.iter().map(|update| norm(update.values.iter().copied())).collect();
    let ballot = Ballot::new(&senders, norms, scope, params)?;
    let (rule, trimmed) = ballot.rule(params)?;

    let mut values = Vec::with_capacity(expected);
    let mut column: Vec<(f64, f64)> = Vec::with_capacity(ballot.votes.len());
    for at in 0..expected {
        column.clear();
        for vote in &ballot.votes {
            let value = vote.mean(|member| f64::from(updates[member].values[at]));
            column.push((value, vote.weight));
        }
        // A stable sort: of equal values the lower cluster comes first.
        if trimmed > 0 {
            column.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        values.push(weighted_mean(&column[trimmed..column.len() - trimmed]) as f32);
    }
    Ok(ballot.finish(values, rule, params))
}

/// Combines sparse updates of a model with that many parameters.
///
/// # Errors
/// [`AggregateError`]; never because of what a value is, as long as it is finite.
pub fn aggregate_sparse(
    updates: &[SparseUpdate<'_>],
    parameters: usize,
    scope: Scope,
    params: &AggregateParams,
) -> Result<Aggregate, AggregateError> {
    for (number, update) in updates.iter().enumerate() {
        let mut least = 0;
        for (entry, &(index, value)) in update.entries.iter().enumerate() {
            if (index as usize) < least || index as usize >= parameters {
                return Err(AggregateError::Index { update: number, entry });
            }
            least = index as usize + 1;
            if !value.is_finite() {
                return Err(AggregateError::NotFinite { update: number, index: index as usize });
            }
        }
    }
    let senders: Vec<Sender> = updates.iter().map(|update| update.sender).collect();
    let norms = updates.iter().map(|update| norm(update.entries.iter().map(|entry| entry.1))).collect();
    let ballot = Ballot::new(&senders, norms, scope, params)?;

    // Sorted by index, then vote, then member: groups with one vote's values at one index.
    let mut entries: Vec<(u32, u16, u16, f32)> = Vec::new();
    for (number, vote) in ballot.votes.iter().enumerate() {
        for (place, member) in vote.members.iter().enumerate() {
            let sent = updates[member.update].entries.iter();
            entries.extend(sent.map(|&(index, value)| (index, number as u16, place as u16, value)));
        }
    }
    entries.sort_unstable_by_key(|&(index, vote, member, _)| (index, vote, member));
    let mut values = vec![0.0; parameters];
    let mut column = Vec::new();
    for senders in entries.chunk_by(|a, b| a.0 == b.0) {
        column.clear();
        for members in senders.chunk_by(|a, b| a.1 == b.1) {
            let vote = &ballot.votes[usize::from(members[0].1)];
            let parts = members.iter().map(|&(_, _, member, value)| {
                let member = &vote.members[usize::from(member)];
                (f64::from(value) * member.clip, member.weight)
            });
            let parts: Vec<_> = parts.collect();
            column.push((weighted_mean(&parts), vote.weight));
        }
        values[senders[0].0 as usize] = weighted_mean(&column) as f32;
    }
    let rule = if ballot.few { Rule::AuditedMean } else { Rule::MeanPerIndex };
    Ok(ballot.finish(values, rule, params))
}

/// A member of a cluster.
struct Member {
    update: usize,
    weight: f64,
    clip: f64,
}

/// What a cluster has to say.
struct Vote {
    members: Vec<Member>,
    weight: f64,
}

impl Vote {
    fn mean(&self, value: impl Fn(usize) -> f64) -> f64 {
        if let [only] = self.members.as_slice() {
            return value(only.update) * only.clip;
        }
        let (mut sum, mut weights) = (0.0, 0.0);
        for member in &self.members {
            sum += value(member.update) * member.clip * member.weight;
            weights += member.weight;
        }
        sum / weights
    }
}

/// Votes, norms and clips of a round.
struct Ballot {
    votes: Vec<Vote>,
    norms: Vec<f64>,
    median_norm: f64,
    /// Fewer votes than a robust rule needs.
    few: bool,
}

impl Ballot {
    fn new(
        senders: &[Sender],
        norms: Vec<f64>,
        scope: Scope,
        params: &AggregateParams,
    ) -> Result<Self, AggregateError> {
        if senders.is_empty() {
            return Err(AggregateError::NoUpdates);
        }
        if senders.len() > MAX_UPDATES {
            return Err(AggregateError::TooMany { found: senders.len() });
        }
        let weighs = |sender: &Sender| sender.weight.is_finite() && sender.weight > 0.0;
        if let Some(update) = senders.iter().position(|sender| !weighs(sender)) {
            return Err(AggregateError::Weight { update });
        }
        let mut clusters = by_cluster(senders, scope == Scope::Audited);
        let few = clusters.len() < params.median_from;
        if few {
            let votes = by_cluster(senders, false).len();
            clusters = by_cluster(senders, true);
            if clusters.is_empty() {
                return Err(AggregateError::NoneAudited { votes });
            }
        }
        let of_clusters: Vec<f64> = clusters
            .values()
            .map(|members| lower_median(members.iter().map(|&update| norms[update]).collect()))
            .collect();
        let median_norm = lower_median(of_clusters);
        let member = |update: usize| {
            let norm: f64 = norms[update];
            let clip = if norm > median_norm { median_norm / norm } else { 1.0 };
            Member { update, weight: senders[update].weight, clip }
        };
        let votes = clusters
            .into_values()
            .map(|members| {
                let weight = members.iter().map(|&update| senders[update].weight).fold(0.0, f64::max);
                Vote { members: members.into_iter().map(member).collect(), weight }
            })
            .collect();
        Ok(Self { votes, norms, median_norm, few })
    }

    /// The rule for dense updates, and how many votes it leaves out at either end.
    fn rule(&self, params: &AggregateParams) -> Result<(Rule, usize), AggregateError> {
        let votes = self.votes.len();
        let (rule, trimmed) = if self.few {
            (Rule::AuditedMean, 0)
        } else if votes < params.trim_from {
            (Rule::Median, (votes - 1) / 2)
        } else {
            let trimmed = ((params.trim * votes as f64) as usize).max(1);
            (Rule::TrimmedMean { trimmed }, trimmed)
        };
        if 2 * trimmed >= votes {
            return Err(AggregateError::Params { trimmed, votes });
        }
        Ok((rule, trimmed))
    }

    /// Applies the cap.
    fn finish(self, mut values: Vec<f32>, rule: Rule, params: &AggregateParams) -> Aggregate {
        let norm = norm(values.iter().copied());
        let cap = if norm > params.norm_cap { params.norm_cap / norm } else { 1.0 };
        if cap < 1.0 {
            for value in &mut values {
                *value = (f64::from(*value) * cap) as f32;
            }
        }
        let mut shares: Vec<Share> = self.norms.iter().map(|&norm| Share { norm, clip: 0.0 }).collect();
        for member in self.votes.iter().flat_map(|vote| &vote.members) {
            shares[member.update].clip = member.clip;
        }
        let (votes, median_norm) = (self.votes.len(), self.median_norm);
        Aggregate { values, rule, votes, median_norm, norm, cap, shares }
    }
}

fn by_cluster(senders: &[Sender], audited_only: bool) -> BTreeMap<u64, Vec<usize>> {
    let mut clusters: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (update, sender) in senders.iter().enumerate() {
        if sender.audited || !audited_only {
            clusters.entry(sender.cluster).or_default().push(update);
        }
    }
    clusters
}

/// Values and weights, of which there is at least one.
fn weighted_mean(column: &[(f64, f64)]) -> f64 {
    if let [(value, _)] = column {
        return *value;
    }
    let (mut sum, mut weights) = (0.0, 0.0);
    for (value, weight) in column {
        sum += value * weight;
        weights += weight;
    }
    sum / weights
}

/// Euclidean norm, added up in order in f64.
pub(crate) fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// The value in the middle, the lower one of two; 0 of nothing.
pub(crate) fn lower_median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
