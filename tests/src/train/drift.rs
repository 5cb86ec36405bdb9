//! How far two honest runs of the same part differ, and how far cheats do: what the tolerance of replay stands between.
//!
//! This engine gives the same bits on machines alike, so an honest other device is made by renaming: sequences of
//! a batch in reverse, and all dimensions (residual stream, heads, hidden units) in another order. The model is the
//! same function, but every sum of forward and backward is added up in another order. The benchmark adds real other
//! devices: a browser's, and the GPU.

use super::oracle::{Coarse, round_to_bits};
use super::run::{fresh, order, train};
use super::{Corpus, now};
use anyhow::{Result, ensure};
use potluck_train::data::{DataError, DataSet};
use potluck_train::gpt::{CpuGpt, FRESH_WARMUP, GptConfig, Layout, Schedule, Tensor};
use potluck_train::round::{Batches, Part, Update};
use potluck_train::{Batch, Engine as _};
use potluck_verify::{ReplayReport, Tolerances, compare};
use std::ops::Range;

/// Steps before the round that is measured.
const TRAINED: u32 = 200;
/// Rounds that are measured, each by another worker.
const SAMPLES: u32 = 3;

/// A way to come to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every sum in another order.
    OtherOrder,
    /// Another program, all in f32.
    OtherProgram,
    /// Parameters rounded to 11 bits before each step, as tf32 inputs are.
    Tf32,
    /// Parameters rounded to 8 bits before each step.
    Bf16,
    /// The finished update rounded to 8 bits.
    Bf16Update,
    /// The last step left out, the update scaled up.
    SkippedStep,
    /// Batches of another worker.
    OtherData,
}

impl Way {
    /// All of them, the honest ones first.
    pub const ALL: [Self; 7] = [
        Self::OtherOrder,
        Self::OtherProgram,
        Self::Tf32,
        Self::Bf16,
        Self::Bf16Update,
        Self::SkippedStep,
        Self::OtherData,
    ];

    /// Whether it is honest work.
    pub const fn honest(self) -> bool {
        matches!(self, Self::OtherOrder | Self::OtherProgram)
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherOrder => "honest-other-order",
            Self::OtherProgram => "honest-other-program",
            Self::Tf32 => "cheat-tf32-weights",
            Self::Bf16 => "cheat-bf16-weights",
            Self::Bf16Update => "cheat-bf16-update",
            Self::SkippedStep => "cheat-skipped-step",
            Self::OtherData => "cheat-other-data",
        }
    }
}

/// What replay says of one way to come to an update: the figures nearest to the tolerances of all samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// Which way.
    pub name: String,
    /// Whether it is honest work.
    pub honest: bool,
    /// Relative deviation of the update: of honest work the greatest, of a cheat the least.
    pub whole: f64,
    /// Greatest relative deviation of a tensor, likewise.
    pub tensor: f64,
    /// Greatest difference of a loss, likewise.
    pub loss: f64,
    /// Samples that the default tolerances confirm.
    pub confirmed: u32,
    /// Samples.
    pub samples: u32,
}

impl Drift {
    /// No samples yet.
    pub fn new(name: String, honest: bool) -> Self {
        let nothing = if honest { 0.0 } else { f64::INFINITY };
        Self { name, honest, whole: nothing, tensor: nothing, loss: nothing, confirmed: 0, samples: 0 }
    }

    /// Takes a sample in.
    fn add(&mut self, report: &ReplayReport) {
        let nearest = |old: f64, new: f64| if self.honest { old.max(new) } else { old.min(new) };
        self.whole = nearest(self.whole, report.whole);
        self.tensor = nearest(self.tensor, report.worst_tensor().map_or(0.0, |worst| worst.1));
        self.loss = nearest(self.loss, report.losses.iter().copied().fold(0.0, f64::max));
        self.confirmed += u32::from(report.confirmed());
        self.samples += 1;
    }
}

/// Rounds to be measured: `tiny` after 200 steps, and the replay of this machine's CPU engine.
pub struct Stage<'a> {
    data: &'a DataSet,
    config: GptConfig,
    start: Vec<f32>,
    part: Part,
    tensors: Vec<Range<usize>>,
    engine: CpuGpt,
}

impl<'a> Stage<'a> {
    /// Trains the 200 steps.
    ///
    /// # Errors
    /// What the engine says.
    pub fn new(corpus: &'a Corpus) -> Result<Self> {
        let config = GptConfig::tiny(corpus.vocabulary);
        let part = Part {
            order: order(1, &corpus.train)?,
            round: 0,
            worker: 0,
            steps: TRAINED,
            steps_before: 0,
            sequences: 8,
            schedule: Schedule {
                peak: 2e-3,
                least: 1e-4,
                warmup: 100,
                steps: 2000,
                fresh_warmup: FRESH_WARMUP.into(),
            },
        };
        let mut engine = CpuGpt::new(config)?;
        let start = fresh(&config, 1);
        let trained = train(part, &start, &mut engine, &corpus.train)?;
        let start = start.iter().zip(trained.delta).map(|(before, delta)| before - delta).collect();
        let tensors = Layout::new(&config).tensors.iter().map(Tensor::range).collect();
        Ok(Self { data: &corpus.train, config, start, part, tensors, engine })
    }

    /// Sizes of the model.
    pub fn config(&self) -> GptConfig {
        self.config
    }

    /// Its parameters before the round.
    pub fn start(&self) -> &[f32] {
        &self.start
    }

    /// What its workers train on.
    pub fn data(&self) -> &'a DataSet {
        self.data
    }

    /// The parts that are measured, one a worker.
    pub fn parts(&self, inner: u32) -> Vec<Part> {
        let part =
            |worker| Part { round: 1, worker, steps: inner, steps_before: u64::from(TRAINED), ..self.part };
        (0..SAMPLES).map(part).collect()
    }

    /// Replays a part and compares.
    ///
    /// # Errors
    /// What the engine or the comparison says.
    pub fn judge(&mut self, drift: &mut Drift, part: Part, claimed: &Update) -> Result<()> {
        let replayed = train(part, &self.start, &mut self.engine, self.data)?;
        let report = compare(
            &claimed.delta,
            &replayed.delta,
            &self.tensors,
            &claimed.losses,
            &replayed.losses,
            &Tolerances::default(),
        )?;
        drift.add(&report);
        Ok(())
    }
}

/// Measures all ways, in rounds of `inner` steps.
///
/// # Errors
/// What the engine or the comparison says.
pub fn measure(stage: &mut Stage<'_>, inner: u32) -> Result<Vec<Drift>> {
    let mut drifts = Vec::new();
    for way in Way::ALL {
        let mut drift = Drift::new(way.name().to_owned(), way.honest());
        for part in stage.parts(inner) {
            let claimed = claim(way, stage.config, part, &stage.start, stage.data)?;
            stage.judge(&mut drift, part, &claimed)?;
        }
        drifts.push(drift);
    }
    Ok(drifts)
}

fn claim(way: Way, config: GptConfig, part: Part, start: &[f32], data: &DataSet) -> Result<Update> {
    let mut engine = CpuGpt::new(config)?;
    match way {
        Way::OtherOrder => {
            let names = Renaming::new(&config)?;
            let mut update = train(part, &names.apply(start), &mut engine, &Reversed(data))?;
            update.delta = names.undo(&update.delta);
            Ok(update)
        }
        Way::OtherProgram => train(part, start, &mut Coarse::new(config, 24)?, data),
        Way::Tf32 => train(part, start, &mut Coarse::new(config, 11)?, data),
        Way::Bf16 => train(part, start, &mut Coarse::new(config, 8)?, data),
        Way::Bf16Update => {
            let mut update = train(part, start, &mut engine, data)?;
            update.delta.iter_mut().for_each(|value| *value = round_to_bits(*value, 8));
            Ok(update)
        }
        Way::SkippedStep => skip(part, part.steps - 1, start, &mut engine, data),
        Way::OtherData => train(Part { worker: part.worker + 1000, ..part }, start, &mut engine, data),
    }
}

/// Fewer steps, scaled up to the norm of all, with losses that look right.
pub(super) fn skip(
    part: Part,
    steps: u32,
    start: &[f32],
    engine: &mut CpuGpt,
    data: &DataSet,
) -> Result<Update> {
    ensure!(0 < steps && steps < part.steps, "{steps} of {} steps leave nothing out", part.steps);
    let mut update = train(Part { steps, ..part }, start, engine, data)?;
    let scale = part.steps as f32 / steps as f32;
    update.delta.iter_mut().for_each(|value| *value *= scale);
    // The losses of the other batches cost a forward pass each, far less than steps.
    for step in steps..part.steps {
        let starts = part.order.batch(part.round, part.worker, step, part.sequences)?;
        let batch = data.batch(&starts, part.order.length())?;
        update.losses.push(now(engine.loss(&batch))?);
    }
    Ok(update)
}

/// Sequences of each batch in reverse.
pub(super) struct Reversed<'a>(pub(super) &'a DataSet);

impl Batches for Reversed<'_> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        let starts: Vec<u64> = starts.iter().rev().copied().collect();
        self.0.batch(&starts, length)
    }
}

/// For each parameter of the renamed model the one that it was.
pub(super) struct Renaming(Vec<usize>);

impl Renaming {
    pub(super) fn new(config: &GptConfig) -> Result<Self> {
        ensure!(!config.bias, "a model with biases is not renamed here");
        let (width, size) = (config.width, config.width / config.heads);
        let stream = shuffled(width, "stream");
        let hidden = shuffled(4 * width, "hidden");
        let within = shuffled(size, "head");
        // Queries, keys and values of a head in the same order.
        let heads: Vec<usize> = (0..3 * width).map(|at| at / size * size + within[at % size]).collect();
        let layout = Layout::new(config);
        let mut from = vec![0; layout.parameters()];
        for tensor in &layout.tensors {
            let same: Vec<usize> = (0..tensor.rows).collect();
            let (rows, cols) = match tensor.name.as_str() {
                name if name.ends_with("attn.c_attn.weight") => (&heads, &stream),
                name if name.ends_with("attn.c_proj.weight") => (&stream, &heads),
                name if name.ends_with("mlp.c_fc.weight") => (&hidden, &stream),
                name if name.ends_with("mlp.c_proj.weight") => (&stream, &hidden),
                _ => (&same, &stream),
            };
            for (row, &old_row) in rows.iter().take(tensor.rows).enumerate() {
                for (col, &old_col) in cols.iter().take(tensor.cols).enumerate() {
                    from[tensor.start + row * tensor.cols + col] =
                        tensor.start + old_row * tensor.cols + old_col;
                }
            }
        }
        Ok(Self(from))
    }

    pub(super) fn apply(&self, values: &[f32]) -> Vec<f32> {
        self.0.iter().map(|&from| values[from]).collect()
    }

    pub(super) fn undo(&self, values: &[f32]) -> Vec<f32> {
        let mut old = vec![0.0; values.len()];
        for (value, &from) in values.iter().zip(&self.0) {
            old[from] = *value;
        }
        old
    }
}

/// The numbers below `count` in an order that a hash decides.
fn shuffled(count: usize, purpose: &str) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    numbers.sort_by_key(|&number| super::seed(number as u64, purpose));
    numbers
}
