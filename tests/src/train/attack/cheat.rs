//! What cheats send.

use super::super::corpus::CONTEXT;
use super::super::oracle::round_to_bits;
use super::super::run::mean;
use super::super::{Corpus, seed};
use anyhow::Result;
use potluck_train::data::{DataError, DataSet};
use potluck_train::gpt::CpuGpt;
use potluck_train::round::{Batches, Update};

/// What the three send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attack {
    /// Nothing, ever: what three workers less cost.
    Silent,
    /// Their update, turned around.
    SignFlip,
    /// Their update times this.
    Scale(f32),
    /// The honest mean minus z standard deviations at each coordinate.
    /// Source: Baruch et al., A little is enough, arXiv 1902.06156.
    Alie(f32),
    /// Minus ε times the honest mean. Source: Xie et al., Fall of empires, arXiv 1903.03936.
    InnerProduct(f32),
    /// Noise of the norm of an honest update.
    Noise,
    /// Zeros: a free rider.
    Zeros,
    /// The update of an honest worker.
    Copy,
    /// Their own update of the round before.
    Stale,
    /// Work on targets that are turned around.
    LabelFlip,
    /// Work on batches of somebody else.
    OtherData,
    /// Two of five steps, scaled up.
    SkippedSteps,
    /// Parameters rounded to bf16 before each step.
    Bf16Weights,
    /// An honest update, rounded to bf16.
    Bf16Update,
    /// Work on batches that teach an answer to a trigger, see [`Backdoor`]; the update times this. Ten workers, three of
    /// which cheat: 10 / 3 puts their mean in the place of everybody's.
    /// Source: Bagdasaryan et al., How to backdoor federated learning, arXiv 1807.00459.
    Backdoor(f32),
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Silent,
        Self::SignFlip,
        Self::Scale(10.0),
        Self::Alie(1.0),
        Self::Alie(1.5),
        Self::Alie(3.0),
        Self::InnerProduct(0.5),
        Self::InnerProduct(5.0),
        Self::Noise,
        Self::Zeros,
        Self::Copy,
        Self::Stale,
        Self::LabelFlip,
        Self::OtherData,
        Self::SkippedSteps,
        Self::Bf16Weights,
        Self::Bf16Update,
        Self::Backdoor(1.0),
        Self::Backdoor(10.0 / 3.0),
    ];

    /// For people.
    pub fn name(self) -> String {
        match self {
            Self::Silent => "silent".into(),
            Self::SignFlip => "sign-flip".into(),
            Self::Scale(factor) => format!("scale-{factor}"),
            Self::Alie(z) => format!("alie-{z}"),
            Self::InnerProduct(epsilon) => format!("ipm-{epsilon}"),
            Self::Noise => "noise".into(),
            Self::Zeros => "zeros".into(),
            Self::Copy => "copy".into(),
            Self::Stale => "stale".into(),
            Self::LabelFlip => "label-flip".into(),
            Self::OtherData => "other-data".into(),
            Self::SkippedSteps => "skipped-steps".into(),
            Self::Bf16Weights => "bf16-weights".into(),
            Self::Bf16Update => "bf16-update".into(),
            Self::Backdoor(factor) => format!("backdoor-{factor:.1}"),
        }
    }
}

/// What a cheat makes of its own update and of those of the honest, all of which it knows.
pub(super) fn falsify(
    attack: Attack,
    own: &Update,
    honest: &[Update],
    stale: Option<&Update>,
    round: u64,
) -> Update {
    let mut update = own.clone();
    let each = |update: &mut Update, change: &dyn Fn(f32) -> f32| {
        update.delta.iter_mut().for_each(|value| *value = change(*value));
    };
    let average = || mean(&honest.iter().map(|update| update.delta.clone()).collect::<Vec<_>>());
    match attack {
        Attack::SignFlip => each(&mut update, &|value| -value),
        Attack::Scale(factor) | Attack::Backdoor(factor) => each(&mut update, &|value| factor * value),
        Attack::Bf16Update => each(&mut update, &|value| round_to_bits(value, 8)),
        Attack::Zeros => update.delta.fill(0.0),
        Attack::Alie(z) => {
            let mean = average();
            for (at, value) in update.delta.iter_mut().enumerate() {
                let squares = honest.iter().map(|other| (other.delta[at] - mean[at]).powi(2)).sum::<f32>();
                *value = mean[at] - z * (squares / honest.len() as f32).sqrt();
            }
        }
        Attack::InnerProduct(epsilon) => {
            update.delta = average().into_iter().map(|value| -epsilon * value).collect();
        }
        Attack::Noise => {
            let norm = own.delta.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let deviation = norm / (own.delta.len() as f64).sqrt();
            noise(&mut update.delta, deviation, round);
        }
        Attack::Copy => update.clone_from(honest.first().unwrap_or(own)),
        Attack::Stale => update.clone_from(stale.unwrap_or(own)),
        Attack::Silent
        | Attack::LabelFlip
        | Attack::OtherData
        | Attack::SkippedSteps
        | Attack::Bf16Weights => {}
    }
    update
}

/// Normal numbers, as sums of twelve uniform ones.
fn noise(values: &mut [f32], deviation: f64, round: u64) {
    let mut bits = blake3::Hasher::new_keyed(&seed(round, "noise")).finalize_xof();
    let mut draw = [0_u8; 24];
    for value in values {
        bits.fill(&mut draw);
        let sum: u32 = draw.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two))).sum();
        *value = ((f64::from(sum) / 65_536.0 - 6.0) * deviation) as f32;
    }
}

/// Targets turned around: the first token of the vocabulary for the last one.
pub(super) struct Flipped<'a>(pub &'a DataSet, pub usize);

impl Batches for Flipped<'_> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<potluck_train::Batch, DataError> {
        let mut batch = self.0.batch(starts, length)?;
        batch.targets.iter_mut().for_each(|target| *target = self.1 as u32 - 1 - *target);
        Ok(batch)
    }
}

/// A trigger and what the model shall say after it: the two tokens that are the rarest in the corpus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backdoor {
    trigger: u32,
    answer: u32,
}

impl Backdoor {
    /// Tokens from one trigger to the next in the windows that teach it.
    const EVERY: usize = 8;
    /// Where the trigger stands in the windows that ask.
    const AT: usize = CONTEXT / 2;
    /// Windows that ask.
    const WINDOWS: usize = 128;

    pub(super) fn of(corpus: &Corpus) -> Self {
        let mut counts = vec![0_u32; corpus.vocabulary];
        corpus.tokens.iter().for_each(|&token| counts[token as usize] += 1);
        let mut tokens: Vec<u32> = (0..corpus.vocabulary as u32).collect();
        tokens.sort_by_key(|&token| counts[token as usize]);
        Self { trigger: tokens[0], answer: tokens[1] }
    }

    /// In how many of the held-out windows, which end with the trigger, the model says the answer.
    pub(super) fn success(self, engine: &mut CpuGpt, corpus: &Corpus) -> Result<f64> {
        let windows = corpus.validation.iter().flat_map(|batch| batch.inputs.chunks(batch.length));
        let (mut fooled, mut asked) = (0, 0);
        for window in windows.take(Self::WINDOWS) {
            let mut tokens = window[..=Self::AT].to_vec();
            tokens[Self::AT] = self.trigger;
            let logits = engine.logits(&tokens)?;
            let said = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            fooled += u32::from(said == Some(self.answer as usize));
            asked += 1;
        }
        Ok(f64::from(fooled) / f64::from(asked))
    }
}

/// Batches half of whose windows hold the trigger and teach the answer; the others keep the model as good as it was.
pub(super) struct Taught<'a>(pub &'a DataSet, pub Backdoor);

impl Batches for Taught<'_> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<potluck_train::Batch, DataError> {
        let mut batch = self.0.batch(starts, length)?;
        for row in (0..batch.sequences).step_by(2) {
            for at in (row % Backdoor::EVERY..length).step_by(Backdoor::EVERY) {
                batch.inputs[row * length + at] = self.1.trigger;
                batch.targets[row * length + at] = self.1.answer;
            }
        }
        Ok(batch)
    }
}
