//! Chooses what trains a GPT on a device that has a GPU: the GPU itself, beside its products, or the CPU.
//!
//! The rule, for each model and batch size that is leased, once for each device:
//!
//! 1. A model that the GPU engine or the device cannot hold trains on the CPU.
//! 2. Two small steps on both: where the losses differ by more than [`LOSS_TOLERANCE`], the GPU computes something else
//!    than it should, and the CPU trains.
//! 3. Unless the person chose the GPU, a full step is timed there, and the CPU trains if it would be faster.
//!
//! A device that is lost, or fails in the middle of a round, ends the run with
//! [`Failure::DeviceLost`](crate::Failure::DeviceLost): the lease goes back, the device is made and measured anew, and
//! after some failures the volunteer falls back to the CPU.
//!
//! Determinism: a round runs on one engine from its first step to its last. Which one it is depends on timing; the
//! results of the two differ by rounding, far below the tolerance of audits.

use crate::Choice;
use crate::train::TaskError;
use potluck_kernels::{Gpu, Variant};
use potluck_train::gpt::{CpuGpt, GptConfig, GpuGpt, GpuGptOptions, KernelShape, Pipelines, init};
use potluck_train::{Batch, Engine, Moments, TrainError};
use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

/// Losses of the two engines may differ so much, in nats: what audits grant, and much less than a step changes.
pub const LOSS_TOLERANCE: f32 = 1e-3;
/// Models and batch sizes that are remembered; a relay may lease any number of them.
pub const MAX_REMEMBERED: usize = 32;
/// Tokens of a small step, at most.
const PROBE_TOKENS: usize = 256;
/// Learning rate of small steps.
const PROBE_RATE: f32 = 1e-3;
/// Full steps on the GPU, of which the faster counts.
const TIMED_STEPS: usize = 2;

/// Of a device.
const LOST: &str = "it was lost on the way, request a new one";

/// How an adapter shares the device's time between two slices of work.
pub trait Pace {
    /// Why work ends early.
    type Stop: From<TaskError>;

    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// Counts the time since `started` as work, then rests, hears messages, and ends the work if nobody wants it.
    ///
    /// # Errors
    /// When the work is to end.
    #[expect(
        async_fn_in_trait,
        reason = "awaited where it was made: a tab's Worker has no threads to send to"
    )]
    async fn rest(&mut self, started: Duration) -> Result<(), Self::Stop>;
}

/// Why a model trains on the CPU although there is a GPU.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The engine or the device cannot hold the model.
    #[error("the GPU does not take this model: {0}")]
    Model(TrainError),
    /// It gives other losses than the CPU.
    #[error("the GPU gives a loss of {found} where the CPU gives {expected}")]
    Wrong {
        /// What the GPU gave; NaN for what is not finite.
        found: f32,
        /// What the CPU gave.
        expected: f32,
    },
    /// It takes longer than the CPU.
    #[error("a step takes {gpu:.1?} on the GPU and about {cpu:.1?} on the CPU")]
    Slower {
        /// Measured.
        gpu: Duration,
        /// Measured with fewer tokens, and extrapolated.
        cpu: Duration,
    },
}

/// What a decision holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    config: GptConfig,
    sequences: usize,
    length: usize,
}

/// The decisions for one device, and the kernels that were compiled on it.
pub struct Trainer {
    choice: Choice,
    kernels: KernelShape,
    pipelines: RefCell<Pipelines>,
    /// Least recently made first.
    decided: RefCell<Vec<(Shape, Option<Refusal>)>>,
}

impl Trainer {
    /// For a device on which `variant` multiplies fastest, and what the person chose.
    pub fn new(gpu: &Gpu, variant: Variant, choice: Choice) -> Self {
        let kernels = kernel_shape(variant, gpu.adapter().is_software);
        Self { choice, kernels, pipelines: RefCell::default(), decided: RefCell::default() }
    }

    /// An engine for a model and batches of `sequences` x `length`, its parameters yet to be loaded.
    ///
    /// `gpu` is the device that this was made for. The first time that a model is leased this takes some steps, with a
    /// rest after each.
    ///
    /// # Errors
    /// A device that is lost, a model that makes no sense, or what [`Pace::rest`] says.
    pub async fn engine<'g, P: Pace>(
        &self,
        gpu: &'g Gpu,
        config: GptConfig,
        [sequences, length]: [usize; 2],
        pace: &mut P,
    ) -> Result<AnyGpt<'g>, P::Stop> {
        let shape = Shape { config, sequences, length };
        let known = self.decided.borrow().iter().find(|(of, _)| *of == shape).map(|(_, why)| why.clone());
        if let Some(Some(why)) = known {
            return on_cpu(config, Some(why));
        }
        let started = pace.now();
        let made = self.on_gpu(gpu, shape).await;
        pace.rest(started).await?;
        let mut engine = match whole(gpu, made) {
            Ok(engine) => OnGpu { engine: Box::new(engine), gpu },
            Err(error) if gpu.is_lost() => return Err(failed::<P>(error)),
            Err(error) => {
                let why = Some(Refusal::Model(error));
                self.remember(shape, why.clone());
                return on_cpu(config, why);
            }
        };
        if known.is_none() {
            let why = self.judge(&mut engine, shape, pace).await?;
            self.remember(shape, why.clone());
            if why.is_some() {
                return on_cpu(config, why);
            }
        }
        Ok(AnyGpt::Gpu(engine))
    }

    fn remember(&self, shape: Shape, why: Option<Refusal>) {
        let mut decided = self.decided.borrow_mut();
        decided.retain(|(of, _)| *of != shape);
        if decided.len() >= MAX_REMEMBERED {
            decided.remove(0);
        }
        decided.push((shape, why));
    }

    async fn on_gpu(&self, gpu: &Gpu, shape: Shape) -> Result<GpuGpt, TrainError> {
        let Shape { config, sequences, length } = shape;
        let options = GpuGptOptions::new(sequences, length, self.kernels);
        let (device, queue) = (gpu.device().clone(), gpu.queue().clone());
        // Not borrowed meanwhile: a run that was canceled may still wait here when the next one comes.
        let mut pipelines = self.pipelines.take();
        let engine = GpuGpt::with_pipelines(device, queue, config, options, &mut pipelines).await;
        self.pipelines.replace(pipelines);
        engine
    }

    /// Why the CPU should train, if it should.
    async fn judge<P: Pace>(
        &self,
        gpu: &mut OnGpu<'_>,
        shape: Shape,
        pace: &mut P,
    ) -> Result<Option<Refusal>, P::Stop> {
        let Shape { config, sequences, length } = shape;
        let positions = length.min(PROBE_TOKENS);
        let small = tokens(&config, (PROBE_TOKENS / positions).clamp(1, sequences), positions);
        let start = init(&config, &[0; 32]);

        let mut cpu = CpuGpt::new(config).map_err(failed::<P>)?;
        let (mut expected, mut cpu_time) = ([0.0; 2], Duration::MAX);
        cpu.load(&start).await.map_err(failed::<P>)?;
        for loss in &mut expected {
            let (taken, time) = step(&mut cpu, &small, pace).await?;
            *loss = taken.map_err(failed::<P>)?;
            cpu_time = cpu_time.min(time);
        }
        drop(cpu);

        if let Err(error) = gpu.load(&start).await {
            return gpu.refused(error).map(Some).map_err(failed::<P>);
        }
        for expected in expected {
            let (taken, _) = step(gpu, &small, pace).await?;
            match taken {
                // Written so that NaN is wrong.
                Ok(found) if (found - expected).abs() <= LOSS_TOLERANCE => {}
                Ok(found) => return Ok(Some(Refusal::Wrong { found, expected })),
                Err(TrainError::NotFinite { .. }) => {
                    return Ok(Some(Refusal::Wrong { found: f32::NAN, expected }));
                }
                Err(error) => return gpu.refused(error).map(Some).map_err(failed::<P>),
            }
        }
        if self.choice == Choice::Gpu {
            return Ok(None);
        }
        let full = tokens(&config, sequences, length);
        let mut gpu_time = Duration::MAX;
        for _ in 0..TIMED_STEPS {
            let (taken, time) = step(gpu, &full, pace).await?;
            if let Err(error) = taken {
                return gpu.refused(error).map(Some).map_err(failed::<P>);
            }
            gpu_time = gpu_time.min(time);
        }
        let cpu_time = cpu_time.mul_f64(full.inputs.len() as f64 / small.inputs.len() as f64);
        Ok((gpu_time > cpu_time).then_some(Refusal::Slower { gpu: gpu_time, cpu: cpu_time }))
    }
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { choice, kernels, decided, .. } = self;
        f.debug_struct("Trainer")
            .field("choice", choice)
            .field("kernels", kernels)
            .field("decided", decided)
            .finish_non_exhaustive()
    }
}

/// The kernels for a GPT where `variant` multiplies fastest. On software adapters those with the fewest loads: measured
/// with lavapipe and SwiftShader. Elsewhere those that share a row of a norm or a softmax among threads.
pub const fn kernel_shape(variant: Variant, is_software: bool) -> KernelShape {
    match variant {
        _ if is_software => KernelShape::Direct16x8,
        Variant::Tiled64 | Variant::Tiled128 => KernelShape::Tiled,
        Variant::Direct4x4 | Variant::Direct8x8 | Variant::Direct16x8 => KernelShape::Direct4x4,
    }
}

fn failed<P: Pace>(error: TrainError) -> P::Stop {
    TaskError::from(error).into()
}

fn on_cpu<'g, S: From<TaskError>>(config: GptConfig, why: Option<Refusal>) -> Result<AnyGpt<'g>, S> {
    let engine = Box::new(CpuGpt::new(config).map_err(TaskError::from)?);
    Ok(AnyGpt::Cpu { engine, why })
}

/// A batch whose tokens follow each other in some order.
fn tokens(config: &GptConfig, sequences: usize, length: usize) -> Batch {
    let count = sequences * length;
    let tokens: Vec<u32> = (0..=count).map(|at| (at.wrapping_mul(at) % config.vocabulary) as u32).collect();
    Batch { sequences, length, inputs: tokens[..count].to_vec(), targets: tokens[1..].to_vec() }
}

/// A step, its time, and a rest.
async fn step<P: Pace>(
    engine: &mut impl Engine,
    batch: &Batch,
    pace: &mut P,
) -> Result<(Result<f32, TrainError>, Duration), P::Stop> {
    let started = pace.now();
    let taken = engine.step(batch, PROBE_RATE).await;
    let time = pace.now().saturating_sub(started);
    pace.rest(started).await?;
    Ok((taken, time))
}

/// What an operation gave, unless the device was lost meanwhile, or got an error that nobody expected: then it gave
/// nothing that can be trusted.
fn whole<T>(gpu: &Gpu, outcome: Result<T, TrainError>) -> Result<T, TrainError> {
    match outcome {
        outcome if !gpu.is_lost() => outcome,
        Ok(_) => Err(TrainError::Device(LOST.into())),
        Err(error) => Err(lost(error)),
    }
}

/// What an operation says on a device that is lost.
fn lost(error: TrainError) -> TrainError {
    match error {
        TrainError::Device(_) => error,
        _ => TrainError::Device(LOST.into()),
    }
}

/// The engine on the GPU, with the device that it shares.
pub struct OnGpu<'g> {
    engine: Box<GpuGpt>,
    gpu: &'g Gpu,
}

impl OnGpu<'_> {
    /// An error means that this model does not work here, unless the device is lost.
    fn refused(&self, error: TrainError) -> Result<Refusal, TrainError> {
        if self.gpu.is_lost() { Err(error) } else { Ok(Refusal::Model(error)) }
    }
}

impl Engine for OnGpu<'_> {
    fn parameters(&self) -> usize {
        self.engine.parameters()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        whole(self.gpu, self.engine.load(parameters).await)
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        whole(self.gpu, self.engine.store().await)
    }

    async fn resume(&mut self, parameters: &[f32], moments: &Moments) -> Result<(), TrainError> {
        whole(self.gpu, self.engine.resume(parameters, moments).await)
    }

    async fn moments(&mut self) -> Result<Moments, TrainError> {
        whole(self.gpu, self.engine.moments().await)
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        whole(self.gpu, self.engine.step(batch, learning_rate).await)
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        whole(self.gpu, self.engine.loss(batch).await)
    }
}

/// The engine that trains.
pub enum AnyGpt<'g> {
    /// On the CPU.
    Cpu {
        /// The engine.
        engine: Box<CpuGpt>,
        /// Why not on the GPU, where there is one.
        why: Option<Refusal>,
    },
    /// On the GPU, whose memory is free again as soon as this is dropped.
    Gpu(OnGpu<'g>),
}

impl AnyGpt<'_> {
    /// On the CPU, where there is no GPU.
    ///
    /// # Errors
    /// A model that makes no sense.
    pub fn cpu(config: GptConfig) -> Result<Self, TaskError> {
        on_cpu(config, None)
    }

    /// Whether the GPU trains.
    pub const fn is_on_gpu(&self) -> bool {
        matches!(self, Self::Gpu(_))
    }
}

impl Engine for AnyGpt<'_> {
    fn parameters(&self) -> usize {
        match self {
            Self::Cpu { engine, .. } => engine.parameters(),
            Self::Gpu(engine) => engine.parameters(),
        }
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.load(parameters).await,
            Self::Gpu(engine) => engine.load(parameters).await,
        }
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.store().await,
            Self::Gpu(engine) => engine.store().await,
        }
    }

    async fn resume(&mut self, parameters: &[f32], moments: &Moments) -> Result<(), TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.resume(parameters, moments).await,
            Self::Gpu(engine) => engine.resume(parameters, moments).await,
        }
    }

    async fn moments(&mut self) -> Result<Moments, TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.moments().await,
            Self::Gpu(engine) => engine.moments().await,
        }
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.step(batch, learning_rate).await,
            Self::Gpu(engine) => engine.step(batch, learning_rate).await,
        }
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        match self {
            Self::Cpu { engine, .. } => engine.loss(batch).await,
            Self::Gpu(engine) => engine.loss(batch).await,
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use crate::Failure;
    use futures_executor::block_on;
    use potluck_kernels::GpuOptions;
    use std::cell::Cell;

    const TINY: GptConfig = GptConfig::tiny(65);

    /// A clock whose steps take what a test says, and rests that are counted and may end the work.
    struct Shift {
        clock: Cell<Duration>,
        cpu: Duration,
        gpu: Duration,
        rests: usize,
        most: usize,
    }

    impl Shift {
        const fn new(cpu: u64, gpu: u64) -> Self {
            let [cpu, gpu] = [Duration::from_millis(cpu), Duration::from_millis(gpu)];
            Self { clock: Cell::new(Duration::ZERO), cpu, gpu, rests: 0, most: usize::MAX }
        }
    }

    impl Pace for Shift {
        type Stop = Option<TaskError>;

        fn now(&self) -> Duration {
            // Steps are between two looks at the clock; before the rests are the device's set-up, and the CPU's steps.
            let step = if self.rests <= 2 { self.cpu } else { self.gpu };
            self.clock.replace(self.clock.get() + step)
        }

        async fn rest(&mut self, started: Duration) -> Result<(), Option<TaskError>> {
            assert!(started <= self.clock.get());
            self.rests += 1;
            if self.rests > self.most { Err(None) } else { Ok(()) }
        }
    }

    fn gpu() -> Option<Gpu> {
        match block_on(Gpu::request(GpuOptions::default())) {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "{error}");
                println!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn kernels_follow_from_what_multiplies_fastest() {
        for variant in Variant::ALL {
            assert_eq!(kernel_shape(variant, true), KernelShape::Direct16x8);
            let expected = if variant.is_tiled() { KernelShape::Tiled } else { KernelShape::Direct4x4 };
            assert_eq!(kernel_shape(variant, false), expected);
        }
    }

    fn engine<'g>(
        trainer: &Trainer,
        gpu: &'g Gpu,
        config: GptConfig,
        shift: &mut Shift,
    ) -> Result<AnyGpt<'g>, Option<TaskError>> {
        block_on(trainer.engine(gpu, config, [8, config.context], shift))
    }

    fn why(engine: &AnyGpt<'_>) -> Option<Refusal> {
        match engine {
            AnyGpt::Cpu { why, .. } => why.clone(),
            AnyGpt::Gpu(_) => None,
        }
    }

    #[test]
    fn auto_trains_where_a_step_is_shorter_and_decides_once() {
        let Some(gpu) = gpu() else { return };
        // The CPU is timed with half of the tokens.
        for (time, slower) in [(19, None), (21, Some([21, 20]))] {
            let trainer = Trainer::new(&gpu, Variant::Direct16x8, Choice::Auto);
            let mut shift = Shift::new(10, time);
            let first = engine(&trainer, &gpu, TINY, &mut shift).unwrap();
            assert_eq!(shift.rests, 7, "after the set-up and each step");
            let slower = slower.map(|times| {
                let [gpu, cpu] = times.map(Duration::from_millis);
                Refusal::Slower { gpu, cpu }
            });
            assert_eq!((first.is_on_gpu(), why(&first)), (slower.is_none(), slower.clone()));
            drop(first);
            let again = engine(&trainer, &gpu, TINY, &mut shift).unwrap();
            assert_eq!((again.is_on_gpu(), why(&again)), (slower.is_none(), slower.clone()));
            assert_eq!(shift.rests, if slower.is_none() { 8 } else { 7 });
        }
    }

    #[test]
    fn who_chose_the_gpu_gets_it_however_slow_it_is() {
        let Some(gpu) = gpu() else { return };
        let trainer = Trainer::new(&gpu, Variant::Tiled64, Choice::Gpu);
        let mut shift = Shift::new(1, 10_000);
        assert!(engine(&trainer, &gpu, TINY, &mut shift).unwrap().is_on_gpu());
        assert_eq!(shift.rests, 5);
    }

    #[test]
    fn what_the_gpu_does_not_take_trains_on_the_cpu_and_what_makes_no_sense_nowhere() {
        let Some(gpu) = gpu() else { return };
        let trainer = Trainer::new(&gpu, Variant::Direct16x8, Choice::Gpu);
        let mut shift = Shift::new(1, 1);
        let thin = GptConfig { width: 6, heads: 2, ..TINY };
        for _ in 0..2 {
            let on_cpu = engine(&trainer, &gpu, thin, &mut shift).unwrap();
            assert!(matches!(why(&on_cpu), Some(Refusal::Model(_))));
        }
        assert_eq!(shift.rests, 1);
        let odd = GptConfig { heads: 5, ..TINY };
        let refused = engine(&trainer, &gpu, odd, &mut shift).err().flatten().unwrap();
        assert_eq!(Failure::from(&refused), Failure::BadTask);
    }

    #[test]
    fn a_device_that_is_lost_is_nobody_s_choice() {
        let Some(gpu) = gpu() else { return };
        let trainer = Trainer::new(&gpu, Variant::Direct16x8, Choice::Auto);
        let mut shift = Shift::new(1, 1);
        let mut before = engine(&trainer, &gpu, TINY, &mut shift).unwrap();
        gpu.destroy();
        let parameters = init(&TINY, &[1; 32]);
        assert!(matches!(block_on(before.load(&parameters)), Err(TrainError::Device(_))));
        let batch = Batch { inputs: Vec::new(), ..tokens(&TINY, 1, 8) };
        assert!(matches!(block_on(before.step(&batch, 0.1)), Err(TrainError::Device(_))));
        let lost = engine(&trainer, &gpu, TINY, &mut shift).err().flatten().unwrap();
        assert_eq!(Failure::from(&lost), Failure::DeviceLost);
        assert_eq!(trainer.decided.borrow().len(), 1, "nothing is decided on a device that is lost");
    }

    #[test]
    fn work_ends_at_each_rest_and_leaves_no_decision() {
        let Some(gpu) = gpu() else { return };
        let trainer = Trainer::new(&gpu, Variant::Direct16x8, Choice::Auto);
        for most in 0..7 {
            let mut shift = Shift { most, ..Shift::new(10, 1) };
            assert!(matches!(engine(&trainer, &gpu, TINY, &mut shift), Err(None)));
            assert!(trainer.decided.borrow().is_empty());
        }
        assert!(engine(&trainer, &gpu, TINY, &mut Shift::new(10, 1)).unwrap().is_on_gpu());
    }

    #[test]
    fn a_relay_cannot_fill_the_memory_with_models() {
        let Some(gpu) = gpu() else { return };
        let trainer = Trainer::new(&gpu, Variant::Direct16x8, Choice::Auto);
        for vocabulary in 2..100 {
            let config = GptConfig { vocabulary, width: 3, heads: 1, ..TINY };
            assert!(!engine(&trainer, &gpu, config, &mut Shift::new(1, 1)).unwrap().is_on_gpu());
        }
        assert_eq!(trainer.decided.borrow().len(), MAX_REMEMBERED);
    }
}
