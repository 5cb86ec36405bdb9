//! A run, closed again without some of its updates.
//!
//! Each round is closed twice: as it was, which must lead to the parameters that the log names, and from what is left. The
//! rule of aggregation sees only what is left: where that is fewer votes than a robust rule needs, only audited updates
//! count, as they would have from the start. A round of which nothing is left takes no step.
//!
//! There are two ways to use what is left.
//!
//! *As logged*: the updates are applied as they are. Needs nothing but the log and the updates, and gives the same bits
//! everywhere. What the gate did to a round is done again, for its windows are secret. But the updates were computed where
//! the run stood then: each also corrects what the ones before it had done, those among it that are now left out. These
//! corrections stay without what they corrected, and the model drifts, the more so the larger the share that is left out,
//! the more rounds follow, and the larger outer rate and momentum are: its loss rises, and some rounds of training bring it
//! back (`cargo xtask bench poison` measures it).
//!
//! *Again* ([`Rebuild::follow_again`]): the inner steps of the updates that are left are taken again, from the rebuilt
//! parameters, so that the model is what the run would have come to. Takes the training data, and as much work as the
//! rounds took; and as every replay it gives the same bits on one kind of CPU only.

use super::without::Filter;
use super::{ClosedRound, Closing, Counted, Derivation, DeriveError, Vote, Without, fetched};
use crate::combine::{Decoded, Kind};
use crate::error::HostError;
use crate::host::Terms;
use crate::reference::{Reference, now};
use crate::sizes;
use crate::work::TaskError;
use potluck_train::codec::Codec;
use potluck_train::round::{Batches, Part, Round};
use potluck_types::BlobHash;
use potluck_verify::Sender;

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
        self.close(round, results, None)
    }

    /// As [`Rebuild::follow`], but from the first round on of which something is left out, the steps of what is left are
    /// taken again from the rebuilt parameters: each then counts as audited, and the gate is not asked.
    ///
    /// # Errors
    /// As [`Rebuild::follow`]; what engine and data say; [`DeriveError::Sparse`] for a run with codec S, whose workers keep
    /// what only they know.
    pub fn follow_again(
        &mut self,
        round: &ClosedRound,
        results: &[impl AsRef<[u8]>],
        data: &dyn Batches,
    ) -> Result<RebuiltRound, DeriveError> {
        self.close(round, results, Some(data))
    }

    fn close(
        &mut self,
        round: &ClosedRound,
        results: &[impl AsRef<[u8]>],
        data: Option<&dyn Batches>,
    ) -> Result<RebuiltRound, DeriveError> {
        let votes = self.original.read(round, results)?;
        let (mut kept, mut places) = (Vec::with_capacity(votes.len()), Vec::with_capacity(votes.len()));
        for (vote, counted) in votes.iter().zip(&round.updates) {
            let sparse = vote.decoded.kind == Kind::Sparse;
            if !self.filter.leaves_out(round.round, counted, sparse)? {
                kept.push(vote);
                places.push(counted.worker);
            }
        }
        let left_out = votes.len() - kept.len();
        if left_out > 0 && self.rebuilt.is_none() {
            self.rebuilt = Some(self.original.clone());
        }
        let closing = self.original.follow_votes(round, &votes)?;
        let stepped = match (&mut self.rebuilt, data) {
            (None, _) => closing != Closing::StoodStill,
            (Some(rebuilt), None) => rebuilt.advance(round.restarted, &kept, closing)?,
            (Some(rebuilt), Some(data)) => {
                let again = places.iter().zip(&kept).map(|(worker, vote)| {
                    let decoded = self.filter.again(rebuilt, round.round, *worker, data)?;
                    Ok(Vote { sender: Sender { audited: true, ..vote.sender }, decoded })
                });
                let again = again.collect::<Result<Vec<Vote>, DeriveError>>()?;
                rebuilt.advance(round.restarted, &again.iter().collect::<Vec<_>>(), Closing::Kept)?
            }
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

impl Filter {
    /// What a worker of a round would have sent from where a derivation stands, decoded.
    fn again(
        &self,
        from: &Derivation,
        round: u64,
        worker: u32,
        data: &dyn Batches,
    ) -> Result<Decoded, DeriveError> {
        let terms = &from.terms;
        let codec = sizes::codec(terms.codec);
        if terms.streak > 0 || codec == Codec::TopK {
            return Err(DeriveError::Sparse);
        }
        let model = sizes::model(&terms.model);
        let part = Part {
            order: self.order,
            round,
            worker,
            steps: terms.steps,
            steps_before: round.saturating_mul(terms.steps.into()),
            sequences: terms.sequences as usize,
            schedule: sizes::schedule(&terms.rate),
        };
        let mut engine = Reference::new(model).map_err(HostError::from)?;
        let parameters = from.parameters();
        let taken = now(async {
            Round::start(part, parameters, &mut engine).await?.finish(&mut engine, &data).await
        });
        let update = taken.map_err(TaskError::from).map_err(HostError::from)?;
        let encoded = codec.encode(&update.delta).map_err(HostError::from)?;
        Ok(Decoded::read(codec, parameters.len(), update.losses, &encoded).map_err(HostError::from)?)
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
    /// Rounds until the first of which something was left out: the run's own parameters after so many have nothing of it.
    pub untouched: u64,
}

/// Closes the rounds that are given without some of their updates, fetching one round's at a time; `tokens` are those of
/// the training data. With the data themselves, by [`Rebuild::follow_again`]. `told` hears of each.
///
/// # Errors
/// The first round that does not follow as it was, and what `rounds` or `fetch` say.
pub fn rebuild<E: From<DeriveError>>(
    (terms, parameters): (Terms, Vec<f32>),
    tokens: u64,
    (without, again): (Without, Option<&dyn Batches>),
    rounds: impl IntoIterator<Item = Result<ClosedRound, E>>,
    mut fetch: impl FnMut(u64, &Counted) -> Result<Vec<u8>, E>,
    mut told: impl FnMut(&RebuiltRound),
) -> Result<Rebuilt, E> {
    let mut rebuild = Rebuild::start(terms, parameters, tokens, without)?;
    let (mut updates, mut left_out, mut emptied, mut untouched) = (0, 0, 0, 0);
    for round in rounds {
        let round = round?;
        rebuild.original.fits(&round)?;
        let results = fetched(&round, &mut fetch)?;
        let done = rebuild.close(&round, &results, again)?;
        updates += done.updates as u64;
        left_out += done.left_out as u64;
        untouched += u64::from(left_out == 0);
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
        untouched,
    })
}
