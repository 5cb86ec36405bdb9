//! How a round's updates become one step: those of dense codecs and those of codec S each among their own kind, then
//! both together.
//!
//! Dense updates are clipped, trimmed and averaged, and move the parameters by Nesterov's step; sparse ones are averaged at
//! each index and applied as they are, for the senders' error feedback is a momentum already. Where a round has both, each
//! step counts by its kind's share of the votes (decision 0013).

use crate::error::HostError;
use crate::host::Submitted;
use crate::replay::{Parts, split};
use crate::work::Plan;
use potluck_train::codec::{Codec, CodecError, decode_sparse};
use potluck_train::outer::{Outer, OuterRule};
use potluck_verify::{
    Aggregate, AggregateParams, Rule, Scope, ScreenParams, ScreenVerdict, Sender, SparseUpdate, Update,
    aggregate, aggregate_sparse, screen,
};
use std::borrow::Borrow;
use std::collections::VecDeque;

/// Rounds whose norms say how large a step may be.
const NORM_WINDOW: usize = 20;
/// Rounds that have to be known before they say anything.
const NORMS_NEEDED: usize = 5;
/// The norm of what is combined may be so many times the median of the last rounds'.
const NORM_FACTOR: f64 = 3.0;

/// Kinds of updates: those of different kinds cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A codec that keeps nothing, among them codec R.
    Dense,
    /// Codec S.
    Sparse,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Dense, Self::Sparse];
}

/// An update as it is combined.
pub(crate) struct Decoded {
    pub(crate) kind: Kind,
    pub(crate) losses: Vec<f32>,
    delta: Vec<f32>,
    /// What codec S sent: the values of `delta` that are not zero.
    entries: Vec<(u32, f32)>,
}

impl Decoded {
    /// # Errors
    /// An update that was not checked.
    pub(crate) fn of(update: &Submitted<'_>) -> Result<Self, HostError> {
        let plan = Plan::of(update.task)?;
        let worker = update.task.worker;
        let Parts { losses, encoded, .. } =
            split(&plan, update.result).ok_or(HostError::Unchecked { worker })?;
        Ok(Self::read(plan.codec(), plan.parameters(), losses, encoded)?)
    }

    /// # Errors
    /// Bytes that no encoder writes.
    pub(crate) fn read(
        codec: Codec,
        parameters: usize,
        losses: Vec<f32>,
        encoded: &[u8],
    ) -> Result<Self, CodecError> {
        let delta = codec.decode(encoded, parameters)?;
        let (kind, entries) = match codec {
            Codec::TopK => (Kind::Sparse, decode_sparse(encoded, parameters)?),
            _ => (Kind::Dense, Vec::new()),
        };
        Ok(Self { kind, losses, delta, entries })
    }
}

/// What the last rounds had of a kind.
#[derive(Debug, Clone, Default)]
struct Past {
    combined: Option<Vec<f32>>,
    norms: VecDeque<f64>,
}

/// What the last rounds had of each kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    dense: Past,
    sparse: Past,
}

impl Memory {
    const fn of(&self, kind: Kind) -> &Past {
        match kind {
            Kind::Dense => &self.dense,
            Kind::Sparse => &self.sparse,
        }
    }

    /// A step was taken.
    pub(crate) fn remember(&mut self, combined: Combined) {
        for (kind, group) in combined.groups {
            let past = match kind {
                Kind::Dense => &mut self.dense,
                Kind::Sparse => &mut self.sparse,
            };
            past.norms.push_back(group.norm * group.cap);
            if past.norms.len() > NORM_WINDOW {
                past.norms.pop_front();
            }
            past.combined = Some(group.values);
        }
    }

    /// For each update what looks wrong with it, among those of its kind.
    pub(crate) fn suspicions(&self, updates: &[Decoded]) -> Result<Vec<Option<String>>, HostError> {
        let mut reasons = vec![None; updates.len()];
        for kind in Kind::ALL {
            let (places, deltas): (Vec<usize>, Vec<&[f32]>) =
                of_kind(updates, kind).map(|(at, update)| (at, update.delta.as_slice())).unzip();
            let reports = screen(&deltas, self.of(kind).combined.as_deref(), &ScreenParams::default())?;
            for (at, report) in places.into_iter().zip(reports) {
                if let ScreenVerdict::Failed(reason) = report.verdict {
                    reasons[at] = Some(reason.to_string());
                }
            }
        }
        Ok(reasons)
    }

    /// Combines updates, of each of which the sender is given in the same order. `None` if those that the scope leaves are
    /// none.
    ///
    /// # Errors
    /// Updates that cannot be combined.
    pub(crate) fn combine(
        &self,
        senders: &[Sender],
        decoded: &[impl Borrow<Decoded>],
        scope: Scope,
        params: &AggregateParams,
    ) -> Result<Option<Combined>, HostError> {
        let mut combined = Combined { groups: Vec::new(), shares: vec![[0.0; 2]; senders.len()] };
        for kind in Kind::ALL {
            let (places, members): (Vec<usize>, Vec<&Decoded>) = of_kind(decoded, kind).unzip();
            if places.is_empty() {
                continue;
            }
            let senders = places.iter().map(|at| senders[*at]);
            let params = self.of(kind).capped(params);
            let done = match kind {
                Kind::Dense => {
                    let votes = members.iter().zip(senders);
                    let votes: Vec<_> =
                        votes.map(|(update, sender)| Update { values: &update.delta, sender }).collect();
                    aggregate(&votes, scope, &params)
                }
                Kind::Sparse => {
                    let parameters = members.first().map_or(0, |update| update.delta.len());
                    let votes = members.iter().zip(senders);
                    let votes: Vec<_> = votes
                        .map(|(update, sender)| SparseUpdate { entries: &update.entries, sender })
                        .collect();
                    aggregate_sparse(&votes, parameters, scope, &params)
                }
            };
            match done {
                Ok(group) => {
                    for (at, share) in places.into_iter().zip(&group.shares) {
                        combined.shares[at] = [share.norm, share.clip];
                    }
                    combined.groups.push((kind, group));
                }
                // The audited ones alone may be none.
                Err(_) if scope == Scope::Audited => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((!combined.groups.is_empty()).then_some(combined))
    }
}

impl Past {
    /// With the cap that the last rounds' norms give.
    fn capped(&self, params: &AggregateParams) -> AggregateParams {
        let mut params = *params;
        if self.norms.len() >= NORMS_NEEDED {
            let mut norms: Vec<f64> = self.norms.iter().copied().collect();
            norms.sort_by(f64::total_cmp);
            params.norm_cap = NORM_FACTOR * norms[norms.len() / 2];
        }
        params
    }
}

fn of_kind<D: Borrow<Decoded>>(updates: &[D], kind: Kind) -> impl Iterator<Item = (usize, &Decoded)> {
    updates.iter().map(Borrow::borrow).enumerate().filter(move |(_, update)| update.kind == kind)
}

/// Who sent an update: each worker of a round is a cluster of its own.
pub(crate) fn sender(update: &Submitted<'_>) -> Sender {
    Sender { weight: update.weight, audited: update.audited, cluster: update.task.worker.into() }
}

/// What a round's updates became.
#[derive(Debug)]
pub(crate) struct Combined {
    groups: Vec<(Kind, Aggregate)>,
    /// Norm of each update, and by what it was multiplied; zeros for one that took no part.
    pub(crate) shares: Vec<[f64; 2]>,
}

/// How the updates of one kind were combined, for the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Whether they are of codec S.
    pub sparse: bool,
    /// How they were combined.
    pub rule: String,
    /// How many counted.
    pub votes: usize,
    /// Norm of what was combined, before the cap.
    pub norm: f64,
    /// By what the cap multiplied it.
    pub cap: f64,
}

impl Combined {
    /// Takes the outer step.
    ///
    /// # Errors
    /// What [`Outer::step`] says.
    pub(crate) fn step(&self, outer: &mut Outer) -> Result<Vec<u8>, HostError> {
        Ok(match self.groups.as_slice() {
            [(Kind::Dense, dense), (Kind::Sparse, sparse)] => {
                let share = dense.votes as f32 / (dense.votes + sparse.votes) as f32;
                outer.step_of_both(&dense.values, &sparse.values, share)?
            }
            [(Kind::Sparse, sparse), ..] => outer.step(&sparse.values, OuterRule::Plain)?,
            [(Kind::Dense, dense), ..] => outer.step(&dense.values, OuterRule::Nesterov)?,
            [] => outer.step(&vec![0.0; outer.replica().parameters().len()], OuterRule::Plain)?,
        })
    }

    /// For the record.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let group = |(kind, group): &(Kind, Aggregate)| Group {
            sparse: *kind == Kind::Sparse,
            rule: rule(group.rule),
            votes: group.votes,
            norm: group.norm,
            cap: group.cap,
        };
        self.groups.iter().map(group).collect()
    }
}

fn rule(rule: Rule) -> String {
    match rule {
        Rule::AuditedMean => "mean of the audited".to_owned(),
        Rule::Median => "median".to_owned(),
        Rule::TrimmedMean { trimmed } => format!("mean, {trimmed} trimmed at either end"),
        Rule::MeanPerIndex => "mean of each index".to_owned(),
    }
}
