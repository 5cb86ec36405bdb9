//! One worker's part of a round: what a volunteer does, and an auditor repeats.

use crate::data::{DataError, DataSet, Held, Order};
use crate::gpt::Schedule;
use crate::{Batch, Engine, TrainError};

/// Most inner steps of a round: ten minutes of a tab at sixteen steps a second.
pub const MAX_STEPS: u32 = 10_000;

/// Where batches come from: a whole data set, or the blocks of it that are here.
pub trait Batches {
    /// Cuts the sequences that begin at `starts`.
    ///
    /// # Errors
    /// A start beyond the data set, or a block that is not here.
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError>;
}

impl<B: Batches + ?Sized> Batches for &B {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        (**self).batch(starts, length)
    }
}

impl Batches for DataSet {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        self.batch(starts, length)
    }
}

impl Batches for Held {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        self.batch(starts, length)
    }
}

/// What a worker has to do in a round. With the parameters and the data set it settles the result, up to the rounding
/// of f32 sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Which sequences make which batch.
    pub order: Order,
    /// The round.
    pub round: u64,
    /// The worker's number in the round.
    pub worker: u32,
    /// Inner steps to take: 1 to [`MAX_STEPS`].
    pub steps: u32,
    /// Inner steps that each worker took in earlier rounds: where the learning rate stands.
    pub steps_before: u64,
    /// Sequences of a batch.
    pub sequences: usize,
    /// Learning rate.
    pub schedule: Schedule,
}

impl Part {
    /// The learning rate of a step of the round, `taken` steps after AdamW's moments were zero. Its warm-up after that takes
    /// half of a round at most, or a short round would never have the whole rate.
    pub fn rate(&self, step: u32, taken: u64) -> f32 {
        let fresh_warmup = self.schedule.fresh_warmup.min(u64::from(self.steps / 2));
        Schedule { fresh_warmup, ..self.schedule }.at(self.steps_before.saturating_add(step.into()), taken)
    }
}

/// What came out of a worker's part.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Parameters before minus parameters after: the pseudo-gradient.
    pub delta: Vec<f32>,
    /// Loss of each batch before its step, in nats per token.
    pub losses: Vec<f32>,
}

/// Why a worker's part cannot be completed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundError {
    /// The engine failed, or the run diverged.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The data are not as the part says.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A number of steps that no round has.
    #[error("{steps} inner steps; a round has 1 to {MAX_STEPS}")]
    Steps {
        /// What was asked for.
        steps: u32,
    },
}

/// A worker's part under way: one inner step at a time, so that whoever runs it can rest, and stop.
#[derive(Debug)]
pub struct Round<'a> {
    part: Part,
    before: &'a [f32],
    /// Steps that the optimizer took before this round, since its moments were zero.
    taken: u64,
    losses: Vec<f32>,
}

impl<'a> Round<'a> {
    /// Gives the engine the round's parameters, its optimizer starting anew.
    ///
    /// # Errors
    /// [`RoundError::Steps`], or parameters that the engine refuses.
    pub async fn start<E: Engine>(
        part: Part,
        parameters: &'a [f32],
        engine: &mut E,
    ) -> Result<Self, RoundError> {
        let round = Self::resume(part, parameters, 0)?;
        engine.load(parameters).await?;
        Ok(round)
    }

    /// For an engine that was given `parameters`, and whose optimizer goes on from the round before: it took so many steps
    /// since its moments were zero.
    ///
    /// # Errors
    /// [`RoundError::Steps`].
    pub fn resume(part: Part, parameters: &'a [f32], taken: u64) -> Result<Self, RoundError> {
        if !(1..=MAX_STEPS).contains(&part.steps) {
            return Err(RoundError::Steps { steps: part.steps });
        }
        Ok(Self { part, before: parameters, taken, losses: Vec::with_capacity(part.steps as usize) })
    }

    /// Steps that are done.
    pub fn done(&self) -> u32 {
        self.losses.len() as u32
    }

    /// Whether all steps are done.
    pub fn complete(&self) -> bool {
        self.done() >= self.part.steps
    }

    /// Takes the next inner step, if there is one left.
    ///
    /// # Errors
    /// A block that is not here, a loss that is not finite, or what the device says.
    pub async fn step<E: Engine>(&mut self, engine: &mut E, data: &impl Batches) -> Result<(), RoundError> {
        if self.complete() {
            return Ok(());
        }
        let Part { order, round, worker, sequences, .. } = self.part;
        let step = self.done();
        let starts = order.batch(round, worker, step, sequences)?;
        let batch = data.batch(&starts, order.length())?;
        let rate = self.part.rate(step, self.taken.saturating_add(step.into()));
        self.losses.push(engine.step(&batch, rate).await?);
        Ok(())
    }

    /// The update, when all steps are done; takes those that are left.
    ///
    /// # Errors
    /// As [`Round::step`].
    pub async fn finish<E: Engine>(
        mut self,
        engine: &mut E,
        data: &impl Batches,
    ) -> Result<Update, RoundError> {
        while !self.complete() {
            self.step(engine, data).await?;
        }
        let after = engine.store().await?;
        let delta = self.before.iter().zip(&after).map(|(before, after)| before - after).collect();
        Ok(Update { delta, losses: self.losses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moments;
    use crate::gpt::{self, CpuGpt, GptConfig};
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// The CPU engine never waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => unreachable!("a CPU engine waits for nothing"),
        }
    }

    fn data() -> DataSet {
        let tokens: Vec<u32> = (0..40_000_u32).map(|i| i * i % 65).collect();
        DataSet::new(&tokens, 65).unwrap()
    }

    fn part(data: &DataSet, worker: u32) -> Part {
        let order = Order::new([9; 32], data.spec(), 16, 2).unwrap();
        let schedule = Schedule { peak: 2e-3, least: 1e-4, warmup: 10, steps: 100, fresh_warmup: 3 };
        Part { order, round: 3, worker, steps: 4, steps_before: 12, sequences: 2, schedule }
    }

    fn run(part: Part, parameters: &[f32], batches: &impl Batches) -> Result<Update, RoundError> {
        let mut engine = CpuGpt::new(GptConfig::tiny(65)).unwrap();
        now(async {
            let round = Round::start(part, parameters, &mut engine).await?;
            round.finish(&mut engine, batches).await
        })
    }

    #[test]
    fn who_holds_only_the_blocks_of_the_round_gets_the_same_bits() {
        let data = data();
        let parameters = gpt::init(&GptConfig::tiny(65), &[1; 32]);
        let part = part(&data, 1);
        let whole = run(part, &parameters, &data).unwrap();
        assert_eq!(whole.losses.len(), 4);
        assert!(whole.losses.iter().all(|loss| (3.0..6.0).contains(loss)), "{:?}", whole.losses);
        assert!(whole.delta.iter().any(|delta| *delta != 0.0));
        let mut held = Held::new(*data.spec()).unwrap();
        for index in part.order.blocks(3, 1, 4, 2).unwrap() {
            let block = data.block(index).unwrap().to_vec();
            held.insert(index, block, &data.proof(index).unwrap()).unwrap();
        }
        assert_eq!(run(part, &parameters, &held).unwrap(), whole);
        assert_ne!(run(Part { worker: 2, ..part }, &parameters, &data).unwrap().delta, whole.delta);
        let nothing = Held::new(*data.spec()).unwrap();
        assert!(matches!(run(part, &parameters, &nothing), Err(RoundError::Data(DataError::Missing { .. }))));
    }

    #[test]
    fn a_round_that_is_resumed_keeps_the_moments() {
        let data = data();
        let parameters = gpt::init(&GptConfig::tiny(65), &[1; 32]);
        let whole = part(&data, 0);
        let half = Part { steps: 2, ..whole };
        let mut moments = Moments { first: vec![0.0; parameters.len()], ..Moments::default() };
        moments.second.clone_from(&moments.first);
        let mut before = parameters;
        for _ in 0..2 {
            // Another engine each time, as another device would be.
            let mut engine = CpuGpt::new(GptConfig::tiny(65)).unwrap();
            now(engine.resume(&before, &moments)).unwrap();
            now(Round::resume(half, &before, moments.steps).unwrap().finish(&mut engine, &data)).unwrap();
            (before, moments) = (now(engine.store()).unwrap(), now(engine.moments()).unwrap());
        }
        assert_eq!(moments.steps, 4);
        let resumed = before;

        let mut engine = CpuGpt::new(GptConfig::tiny(65)).unwrap();
        now(engine.load(&gpt::init(&GptConfig::tiny(65), &[1; 32]))).unwrap();
        for (taken, step) in [0, 1, 0, 1].into_iter().enumerate() {
            let starts = whole.order.batch(3, 0, step, whole.sequences).unwrap();
            let rate = half.rate(step, taken as u64);
            now(engine.step(&data.batch(&starts, whole.order.length()).unwrap(), rate)).unwrap();
        }
        assert_eq!(resumed, now(engine.store()).unwrap(), "one training without a break");

        // A round that starts anew forgets them.
        let fresh =
            now(async { Round::start(half, &resumed, &mut engine).await?.finish(&mut engine, &data).await });
        assert_eq!(fresh, run(half, &resumed, &data));
        assert!(now(engine.resume(&resumed[1..], &moments)).is_err());
        moments.second.pop();
        assert!(now(engine.resume(&resumed, &moments)).is_err());
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let data = data();
        let parameters = gpt::init(&GptConfig::tiny(65), &[1; 32]);
        let part = part(&data, 0);
        for steps in [0, MAX_STEPS + 1] {
            let refused = run(Part { steps, ..part }, &parameters, &data);
            assert_eq!(refused, Err(RoundError::Steps { steps }));
        }
        let short = run(part, &parameters[1..], &data);
        assert!(matches!(short, Err(RoundError::Train(TrainError::Length { .. }))));
        let mut bad = parameters;
        bad[5] = f32::NAN;
        assert!(matches!(run(part, &bad, &data), Err(RoundError::Train(TrainError::NotFinite { .. }))));
    }
}
