//! A run's parameters, derived again from where it started and the updates that counted in each round.
//!
//! [`Derivation`] closes rounds as [`Host`](crate::Host) closed them, bit by bit: the same weights, clipping, trimming,
//! cap, momentum and codec. [`Rebuild`] closes them without some of their updates. Neither needs anything secret. What the
//! gate did with a round was decided on secret windows; but it has three ways only (the step of all updates, that of the
//! audited ones, none), and the hash of the parameters afterwards says which it was.
//!
//! What closing a round depends on, and where it is public:
//!
//! | what | where |
//! |---|---|
//! | terms: model, codec, outer step, rule of aggregation | the run's request, whose hash is in the log |
//! | parameters before they were rounded to f16 | made of the request's seed, or uploaded and named in the request by hash |
//! | updates, their workers, weights and audits, in the order of the workers | hashes and figures in the log; bytes by hash |
//! | norms of earlier rounds, which cap the step | derived; forgotten whenever the relay starts, which is in the log |
//!
//! Memory: parameters, momentum and error of the run (twice to rebuild), and the updates of one round, decoded.
//!
//! Determinism: f32 and f64 on the CPU in fixed orders; the same bits everywhere.

mod error;
mod rebuild;
mod without;

pub use error::DeriveError;
pub use rebuild::{Rebuild, Rebuilt, RebuiltRound, rebuild};
pub use without::{MAX_LEFT_OUT, Without};

use crate::combine::{Combined, Decoded, Memory};
use crate::error::HostError;
use crate::host::{Terms, encode_state};
use crate::sizes;
use potluck_train::codec::Codec;
use potluck_train::outer::{Outer, OuterRule};
use potluck_train::streak::SKETCH_BYTES;
use potluck_types::{BlobHash, VolunteerId};
use potluck_verify::{AggregateError, Scope, Sender};
use std::borrow::Borrow;

/// Bytes that the updates of one round may take when they are decoded: what 256 workers with four million parameters have.
/// They are held at once, for they are combined coordinate by coordinate.
pub const MAX_ROUND_BYTES: u64 = 4 << 30;

/// A worker's place in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The round.
    pub round: u64,
    /// The worker's number in it.
    pub worker: u32,
}

/// An update that counted in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The worker.
    pub worker: u32,
    /// Whose it is.
    pub volunteer: VolunteerId,
    /// Hash of the result: losses and encoded update.
    pub update: BlobHash,
    /// What its vote was worth, in parts per million; 0 counts as 1.
    pub weight_ppm: u32,
    /// Whether a replay had confirmed it.
    pub audited: bool,
    /// Codec S: the earlier rounds of its streak, what was left unsent in which may be in it. `None` where that is not known;
    /// only leaving out ranges of tokens needs it.
    pub streak: Option<Vec<Place>>,
}

/// A round that was closed, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedRound {
    /// Its number.
    pub round: u64,
    /// Hash of the parameters before.
    pub before: BlobHash,
    /// Hash of those after.
    pub after: BlobHash,
    /// Hash of the outer step.
    pub step: BlobHash,
    /// Hash of the checkpoint, if the round ended with one.
    pub checkpoint: Option<BlobHash>,
    /// Whether the relay had started anew since the round before: the norms of earlier rounds were forgotten.
    pub restarted: bool,
    /// What counted, in the order of the workers.
    pub updates: Vec<Counted>,
}

/// How a round was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// By the step of all updates.
    Kept,
    /// By the step of the audited updates, after the gate had raised an alarm.
    AuditedOnly,
    /// Without a step: the gate took it back, or there was nothing to combine.
    StoodStill,
}

/// A run at a round, as the relay holds it.
#[derive(Debug, Clone)]
pub struct Derivation {
    terms: Terms,
    outer: Outer,
    memory: Memory,
}

impl Derivation {
    /// Begins where a run does, from its parameters before they are rounded to f16.
    ///
    /// # Errors
    /// Sizes that make no model, another number of parameters, values that no checkpoint holds.
    pub fn start(terms: Terms, parameters: Vec<f32>) -> Result<Self, DeriveError> {
        let model = sizes::model(&terms.model);
        model.check().map_err(HostError::from)?;
        let (found, expected) = (parameters.len(), model.parameters());
        if found != expected {
            return Err(DeriveError::Parameters { found, expected });
        }
        let outer = Outer::start(parameters, terms.outer).map_err(HostError::from)?;
        Ok(Self { terms, outer, memory: Memory::default() })
    }

    /// The round that is next.
    pub fn round(&self) -> u64 {
        self.outer.replica().round()
    }

    /// The parameters where it starts.
    pub fn parameters(&self) -> &[f32] {
        self.outer.replica().parameters()
    }

    /// Their hash, as rounds and candidates name it.
    pub fn hash(&self) -> BlobHash {
        self.outer.replica().hash()
    }

    /// The state that a relay resumes from at this round: see [`Host::state`](crate::Host::state).
    pub fn state(&self) -> Vec<u8> {
        encode_state(&self.outer)
    }

    /// Longest result that a worker of the run sends, in bytes.
    pub fn most_bytes(&self) -> u64 {
        self.forms().map(|(_, bytes)| bytes).max().unwrap_or(0)
    }

    /// Closes a round again, with the results of its updates in the same order, and checks that it leads to the same step,
    /// checkpoint and parameters. After an error nothing has changed.
    ///
    /// # Errors
    /// [`DeriveError`] says what does not fit.
    pub fn follow(
        &mut self,
        round: &ClosedRound,
        results: &[impl AsRef<[u8]>],
    ) -> Result<Closing, DeriveError> {
        let votes = self.read(round, results)?;
        self.follow_votes(round, &votes)
    }

    fn follow_votes(&mut self, round: &ClosedRound, votes: &[Vote]) -> Result<Closing, DeriveError> {
        let number = round.round;
        let found = self.hash();
        if number != self.round() || round.before != found {
            return Err(DeriveError::Chain { round: number, next: self.round(), named: round.before, found });
        }
        let mut first = None;
        for closing in [Closing::Kept, Closing::AuditedOnly, Closing::StoodStill] {
            // What cannot be combined was closed in another way, if at all.
            let Ok(next) = self.closed(round.restarted, votes, closing) else { continue };
            let after = next.outer.replica().hash();
            if after != round.after {
                first.get_or_insert(after);
                continue;
            }
            let step = BlobHash::of(&next.step);
            let checkpoint = next.outer.replica().checkpoint().ok().map(|bytes| BlobHash::of(&bytes));
            if step != round.step || checkpoint != round.checkpoint {
                return Err(DeriveError::Blobs { round: number });
            }
            let stood = next.combined.is_none();
            self.take(next);
            return Ok(if stood { Closing::StoodStill } else { closing });
        }
        let found = first.ok_or(DeriveError::NoStep { round: number })?;
        Err(DeriveError::After { round: number, named: round.after, found })
    }

    /// Closes a round in a given way, with whatever votes there are: where they are none, or too few to trust and none
    /// audited, without a step.
    fn advance(&mut self, restarted: bool, votes: &[&Vote], closing: Closing) -> Result<bool, DeriveError> {
        let next = match self.closed(restarted, votes, closing) {
            Err(HostError::Aggregate(AggregateError::NoneAudited { .. })) => {
                self.closed(restarted, votes, Closing::StoodStill)
            }
            other => other,
        }?;
        let stepped = next.combined.is_some();
        self.take(next);
        Ok(stepped)
    }

    fn closed<V: Borrow<Vote>>(
        &self,
        restarted: bool,
        votes: &[V],
        closing: Closing,
    ) -> Result<Next, HostError> {
        let memory = if restarted { Memory::default() } else { self.memory.clone() };
        let scope = match closing {
            Closing::Kept => Some(Scope::All),
            Closing::AuditedOnly => Some(Scope::Audited),
            Closing::StoodStill => None,
        };
        let senders: Vec<Sender> = votes.iter().map(|vote| vote.borrow().sender).collect();
        let decoded: Vec<&Decoded> = votes.iter().map(|vote| &vote.borrow().decoded).collect();
        let combined = match scope {
            Some(scope) => memory.combine(&senders, &decoded, scope, &self.terms.aggregate)?,
            None => None,
        };
        let mut outer = self.outer.clone();
        let step = match &combined {
            Some(combined) => combined.step(&mut outer)?,
            // What the downlink owes is sent all the same.
            None => outer.step(&vec![0.0; self.parameters().len()], OuterRule::Plain)?,
        };
        Ok(Next { outer, memory, combined, step })
    }

    fn take(&mut self, next: Next) {
        let Next { outer, mut memory, combined, .. } = next;
        if let Some(combined) = combined {
            memory.remember(combined);
        }
        (self.outer, self.memory) = (outer, memory);
    }

    /// Codecs of the run's updates, with the lengths of their results.
    fn forms(&self) -> impl Iterator<Item = (Codec, u64)> {
        let parameters = self.parameters().len();
        let (losses, streak) = (4 * u64::from(self.terms.steps), self.terms.streak);
        let own = sizes::codec(self.terms.codec);
        let sparse = (streak > 0 && own != Codec::TopK).then_some(Codec::TopK);
        std::iter::once(own).chain(sparse).map(move |codec| {
            let sketch = if codec == Codec::TopK { SKETCH_BYTES } else { 0 };
            (codec, losses + (sketch + codec.encoded_len(parameters)) as u64)
        })
    }

    /// Checks and decodes what counted in a round. Which codec a result has, its length says.
    fn read(&self, round: &ClosedRound, results: &[impl AsRef<[u8]>]) -> Result<Vec<Vote>, DeriveError> {
        let number = round.round;
        let (found, expected) = (results.len(), round.updates.len());
        if found != expected {
            return Err(DeriveError::Count { round: number, found, expected });
        }
        self.fits(round)?;
        let parameters = self.parameters().len();
        let mut votes = Vec::with_capacity(found);
        for (counted, result) in round.updates.iter().zip(results) {
            let (worker, result) = (counted.worker, result.as_ref());
            let bad = |problem: String| DeriveError::Update { round: number, worker, problem };
            let hash = BlobHash::of(result);
            if hash != counted.update {
                let named = counted.update;
                return Err(bad(format!("its bytes hash to {hash}, the log names {named}")));
            }
            let length = result.len() as u64;
            let Some((codec, _)) = self.forms().find(|(_, bytes)| *bytes == length) else {
                return Err(bad(format!("it has {length} bytes, which no result of this run has")));
            };
            let encoded = &result[result.len() - codec.encoded_len(parameters)..];
            let decoded = Decoded::read(codec, parameters, Vec::new(), encoded)
                .map_err(|error| bad(error.to_string()))?;
            let weight = f64::from(counted.weight_ppm.max(1)) / 1e6;
            let sender = Sender { weight, audited: counted.audited, cluster: worker.into() };
            votes.push(Vote { sender, decoded });
        }
        Ok(votes)
    }

    /// Whether the updates of a round may be held at once.
    ///
    /// # Errors
    /// [`DeriveError::Memory`].
    pub fn fits(&self, round: &ClosedRound) -> Result<(), DeriveError> {
        let bytes = 4 * self.parameters().len() as u64 * round.updates.len() as u64;
        if bytes > MAX_ROUND_BYTES {
            return Err(DeriveError::Memory { round: round.round, bytes });
        }
        Ok(())
    }
}

/// A checked update.
struct Vote {
    sender: Sender,
    decoded: Decoded,
}

/// What a way of closing leads to.
struct Next {
    outer: Outer,
    memory: Memory,
    combined: Option<Combined>,
    step: Vec<u8>,
}

/// Derives the parameters of a run through the rounds that are given, fetching one round's updates at a time. `told` hears
/// of each round that was confirmed.
///
/// # Errors
/// The first round that does not follow, and what `rounds` or `fetch` say.
pub fn rederive<E: From<DeriveError>>(
    terms: Terms,
    parameters: Vec<f32>,
    rounds: impl IntoIterator<Item = Result<ClosedRound, E>>,
    mut fetch: impl FnMut(u64, &Counted) -> Result<Vec<u8>, E>,
    mut told: impl FnMut(&ClosedRound, Closing),
) -> Result<Derivation, E> {
    let mut derivation = Derivation::start(terms, parameters)?;
    for round in rounds {
        let round = round?;
        derivation.fits(&round)?;
        let results = fetched(&round, &mut fetch)?;
        let closing = derivation.follow(&round, &results)?;
        told(&round, closing);
    }
    Ok(derivation)
}

fn fetched<E>(
    round: &ClosedRound,
    fetch: &mut impl FnMut(u64, &Counted) -> Result<Vec<u8>, E>,
) -> Result<Vec<Vec<u8>>, E> {
    round.updates.iter().map(|counted| fetch(round.round, counted)).collect()
}
