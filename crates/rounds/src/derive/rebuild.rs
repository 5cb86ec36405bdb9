//! A run, closed again without some of its updates.
//!
//! Each round is closed twice: as it was, which must lead to the parameters that the log names, and from what is left. The
//! rule of aggregation sees only what is left: where that is fewer votes than a robust rule needs, only audited updates
//! count, as they would have from the start. A round of which nothing is left takes no step. The gate is not asked again,
//! for its windows are secret: what it did to a round is done again. The updates that are left were computed where the
//! run stood then, with what is now left out in its parameters: they are applied as they are.

use super::without::Filter;
use super::{ClosedRound, Closing, Counted, Derivation, DeriveError, Vote, Without, fetched};
use crate::combine::Kind;
use crate::host::Terms;
use potluck_types::BlobHash;

/// What became of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuiltRound {
    /// The round.
    pub round: u64,
    /// How it was closed when it was.
    pub closing: Closing,
    /// Updates that counted then.
    pub updates: usize,
    /// Of these, left out.
    pub left_out: usize,
    /// Whether what is left led to a step.
    pub stepped: bool,
}

/// Closes the rounds of a run without some of their updates.
#[derive(Debug, Clone)]
pub struct Rebuild {
    filter: Filter,
    original: Derivation,
    /// From the first round on of which something was left out; until then it is the original.
    rebuilt: Option<Derivation>,
}

impl Rebuild {
    /// Begins where the run did, from its parameters before they are rounded to f16, on training data of so many tokens.
    ///
    /// # Errors
    /// As [`Derivation::start`]; too much to leave out, or ranges beyond the data.
    pub fn start(
        terms: Terms,
        parameters: Vec<f32>,
        tokens: u64,
        without: Without,
    ) -> Result<Self, DeriveError> {
        let filter = Filter::new(&terms, tokens, without)?;
        Ok(Self { filter, original: Derivation::start(terms, parameters)?, rebuilt: None })
    }

    /// Closes a round again, with the results of all its updates in the same order. After an error it must not be used
    /// any more.
    ///
    /// # Errors
    /// As [`Derivation::follow`]; [`DeriveError::Streak`].
    pub fn follow(
        &mut self,
        round: &ClosedRound,
        results: &[impl AsRef<[u8]>],
    ) -> Result<RebuiltRound, DeriveError> {
        let votes = self.original.read(round, results)?;
        let mut kept: Vec<&Vote> = Vec::with_capacity(votes.len());
        for (vote, counted) in votes.iter().zip(&round.updates) {
            let sparse = vote.decoded.kind == Kind::Sparse;
            if !self.filter.leaves_out(round.round, counted, sparse)? {
                kept.push(vote);
            }
        }
        let left_out = votes.len() - kept.len();
        if left_out > 0 && self.rebuilt.is_none() {
            self.rebuilt = Some(self.original.clone());
        }
        let closing = self.original.follow_votes(round, &votes)?;
        let stepped = match &mut self.rebuilt {
            Some(rebuilt) => rebuilt.advance(round.restarted, &kept, closing)?,
            None => closing != Closing::StoodStill,
        };
        Ok(RebuiltRound { round: round.round, closing, updates: votes.len(), left_out, stepped })
    }

    /// The run as it was.
    pub const fn original(&self) -> &Derivation {
        &self.original
    }

    /// The run without what is left out.
    pub fn rebuilt(&self) -> &Derivation {
        self.rebuilt.as_ref().unwrap_or(&self.original)
    }
}

/// What came of a whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuilt {
    /// The parameters without what was left out.
    pub parameters: Vec<f32>,
    /// Their hash.
    pub hash: BlobHash,
    /// Hash of the parameters as they were.
    pub original: BlobHash,
    /// Rounds.
    pub rounds: u64,
    /// Updates that had counted.
    pub updates: u64,
    /// Of these, left out.
    pub left_out: u64,
    /// Rounds that took a step, and of which nothing is left that could lead to one.
    pub emptied: u64,
}

/// Closes the rounds that are given without some of their updates, fetching one round's at a time; `tokens` are those of
/// the training data. `told` hears of each.
///
/// # Errors
/// The first round that does not follow as it was, and what `rounds` or `fetch` say.
pub fn rebuild<E: From<DeriveError>>(
    (terms, parameters): (Terms, Vec<f32>),
    tokens: u64,
    without: Without,
    rounds: impl IntoIterator<Item = Result<ClosedRound, E>>,
    mut fetch: impl FnMut(u64, &Counted) -> Result<Vec<u8>, E>,
    mut told: impl FnMut(&RebuiltRound),
) -> Result<Rebuilt, E> {
    let mut rebuild = Rebuild::start(terms, parameters, tokens, without)?;
    let (mut updates, mut left_out, mut emptied) = (0, 0, 0);
    for round in rounds {
        let round = round?;
        rebuild.original.fits(&round)?;
        let results = fetched(&round, &mut fetch)?;
        let done = rebuild.follow(&round, &results)?;
        updates += done.updates as u64;
        left_out += done.left_out as u64;
        emptied += u64::from(!done.stepped && done.closing != Closing::StoodStill);
        told(&done);
    }
    let rebuilt = rebuild.rebuilt();
    Ok(Rebuilt {
        parameters: rebuilt.parameters().to_vec(),
        hash: rebuilt.hash(),
        original: rebuild.original().hash(),
        rounds: rebuilt.round(),
        updates,
        left_out,
        emptied,
    })
}
