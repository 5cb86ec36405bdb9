//! What a model is made again without.

use super::{Counted, DeriveError, Place};
use crate::host::Terms;
use crate::sizes;
use potluck_train::data::{Order, Spec};
use potluck_types::VolunteerId;
use std::collections::BTreeSet;
use std::ops::Range;

/// Volunteers and ranges that may be left out at once: as many as a candidate's entry in the log names.
pub const MAX_LEFT_OUT: usize = 256;

/// Whose updates, and which tokens of the training data, are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Without {
    /// All updates of these.
    pub volunteers: BTreeSet<VolunteerId>,
    /// All updates whose batches touched one of these ranges of tokens.
    pub tokens: Vec<Range<u64>>,
}

impl Without {
    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.volunteers.is_empty() && self.tokens.is_empty()
    }

    /// # Errors
    /// [`DeriveError::TooMany`], [`DeriveError::Range`].
    pub(super) fn check(&self, tokens: u64) -> Result<(), DeriveError> {
        let found = self.volunteers.len() + self.tokens.len();
        if found > MAX_LEFT_OUT {
            return Err(DeriveError::TooMany { found, most: MAX_LEFT_OUT });
        }
        match self.tokens.iter().find(|range| range.is_empty() || range.end > tokens) {
            Some(Range { start, end }) => Err(DeriveError::Range { from: *start, to: *end, tokens }),
            None => Ok(()),
        }
    }
}

/// Says which updates are left out.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    without: Without,
    pub(super) order: Order,
    steps: u32,
    sequences: usize,
}

impl Filter {
    pub(super) fn new(terms: &Terms, tokens: u64, without: Without) -> Result<Self, DeriveError> {
        without.check(tokens)?;
        let model = sizes::model(&terms.model);
        let record = model.record();
        // The order depends on how many tokens there are, not on which.
        let data = Spec { vocabulary: model.vocabulary() as u32, tokens, tree: [0; 32] };
        let order = Order::of_records(terms.seed, &data, terms.length as usize, terms.blocks_dealt, record)?;
        Ok(Self { without, order, steps: terms.steps, sequences: terms.sequences as usize })
    }

    /// Whether an update is left out. One of codec S also carries what the earlier rounds of its streak did not send.
    pub(super) fn leaves_out(
        &self,
        round: u64,
        counted: &Counted,
        sparse: bool,
    ) -> Result<bool, DeriveError> {
        if self.without.volunteers.contains(&counted.volunteer) {
            return Ok(true);
        }
        if self.without.tokens.is_empty() {
            return Ok(false);
        }
        let worker = counted.worker;
        let earlier = match (&counted.streak, sparse) {
            (_, false) => &[][..],
            (Some(streak), true) => streak,
            (None, true) => return Err(DeriveError::Streak { round, worker }),
        };
        for place in std::iter::once(&Place { round, worker }).chain(earlier) {
            if self.touches(*place)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether any sequence of a worker's round, with the token that follows it, has a token of a range.
    fn touches(&self, Place { round, worker }: Place) -> Result<bool, DeriveError> {
        let length = self.order.length() as u64;
        for step in 0..self.steps {
            let starts = self.order.batch(round, worker, step, self.sequences)?;
            let touched = |range: &Range<u64>| {
                starts.iter().any(|start| *start < range.end && range.start <= start + length)
            };
            if self.without.tokens.iter().any(touched) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
