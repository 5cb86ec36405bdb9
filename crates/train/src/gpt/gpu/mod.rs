//! The GPT engine on a GPU: forward, backward, clip and AdamW in WGSL kernels through wgpu, natively and in a browser.
//!
//! A step is one submission (several for large batches, so that no watchdog bites) and reads back 16 bytes: the loss
//! and the gradient's norm. Parameters, gradient and moments stay on the device, each as one buffer in the order of
//! [`Layout`].
//!
//! Determinism: every sum has a fixed order and no atomics are used, so that a device repeats its own bits. Devices
//! round, fuse and order differently among each other, which is what the tolerance of audits is for.
//!
//! Natively the futures block the thread that polls them while the GPU works; in a browser they never block.
//! Source of the structure: llm.c (Karpathy).

mod device;
mod pipelines;
mod plan;
mod products;

use std::collections::BTreeMap;

use super::{GptConfig, Layout};
use crate::engine::{AdamW, Batch, Engine, Moments, TrainError};
use device::{ALL_ERRORS, Device, SUBMIT_ERRORS};
pub use pipelines::Pipelines;
use plan::{Dispatch, Extent, Name, Plan, WORDS};
use products::Way;

/// Most rows of a batch: what bounds its memory together with the device's own limits.
pub const MAX_SEQUENCES: usize = 4096;
/// Threads that sum squares, at most: 256 workgroups.
const MAX_SQUARE_THREADS: usize = 256 * pipelines::THREADS as usize;
/// Bytes between the uniforms of two dispatches: the largest alignment that WebGPU allows devices to ask for.
const SLOT: u64 = 256;
/// Work of one submission on a software adapter, in FLOP: about two seconds.
const SOFTWARE_SUBMISSION_FLOPS: f64 = 8e9;
/// Work of one submission on a GPU, in FLOP: a tenth of a second where it does 1 TFLOP/s.
const SUBMISSION_FLOPS: f64 = 1e11;

/// How products are computed: what is fastest depends on the device, so calibration chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelShape {
    /// 4 x 4 elements a thread, no workgroup memory: small GPUs.
    Direct4x4,
    /// 8 x 8 elements a thread, no workgroup memory, one thread a row elsewhere: software adapters.
    Direct8x8,
    /// 16 x 8 elements a thread, no workgroup memory, one thread a row elsewhere: software adapters.
    Direct16x8,
    /// 16 x 16 elements a thread, no workgroup memory, one thread a row elsewhere: the fewest loads, and the longest to
    /// compile.
    Direct16x16,
    /// Tiles of 32 x 32 or 64 x 64 in workgroup memory: GPUs.
    Tiled,
}

impl KernelShape {
    /// All shapes.
    pub const ALL: [Self; 5] =
        [Self::Direct4x4, Self::Direct8x8, Self::Direct16x8, Self::Direct16x16, Self::Tiled];

    /// A short stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct4x4 => "direct-4x4",
            Self::Direct8x8 => "direct-8x8",
            Self::Direct16x8 => "direct-16x8",
            Self::Direct16x16 => "direct-16x16",
            Self::Tiled => "tiled",
        }
    }

    /// Threads that share a row of a norm or a softmax.
    const fn lanes(self) -> u32 {
        match self {
            Self::Direct8x8 | Self::Direct16x8 | Self::Direct16x16 => 1,
            Self::Direct4x4 | Self::Tiled => 16,
        }
    }

    /// How a product of `m` x `n` is computed.
    const fn way(self, m: usize, n: usize) -> Way {
        match self {
            Self::Direct4x4 => Way::Direct(4, 4),
            Self::Direct8x8 => Way::Direct(8, 8),
            Self::Direct16x8 => Way::Direct(16, 8),
            Self::Direct16x16 => Way::Direct(16, 16),
            // Large tiles only where they still make enough workgroups for a GPU.
            Self::Tiled if m.div_ceil(64) * n.div_ceil(64) >= 64 => Way::Tiled(16),
            Self::Tiled => Way::Tiled(8),
        }
    }

    /// How attention's products are computed.
    const fn attention(self) -> Way {
        match self {
            Self::Direct4x4 | Self::Tiled => Way::Direct(4, 4),
            Self::Direct8x8 | Self::Direct16x8 | Self::Direct16x16 => Way::Direct(8, 8),
        }
    }

    /// FLOP of one submission that suit the devices this shape is for.
    pub const fn submission_flops(self) -> f64 {
        match self {
            Self::Direct8x8 | Self::Direct16x8 | Self::Direct16x16 => SOFTWARE_SUBMISSION_FLOPS,
            Self::Direct4x4 | Self::Tiled => SUBMISSION_FLOPS,
        }
    }
}

/// What an engine on a GPU is made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuGptOptions {
    /// Most rows of a batch.
    pub sequences: usize,
    /// Most positions per row; the model's context at most.
    pub length: usize,
    /// Shape of the kernels.
    pub shape: KernelShape,
    /// Constants of the optimizer.
    pub optimizer: AdamW,
    /// A submission ends after the dispatch that reaches this many FLOP.
    pub submission_flops: f64,
}

impl GpuGptOptions {
    /// The usual optimizer and submissions for batches of at most `sequences` x `length`.
    pub fn new(sequences: usize, length: usize, shape: KernelShape) -> Self {
        let submission_flops = shape.submission_flops();
        Self { sequences, length, shape, optimizer: AdamW::default(), submission_flops }
    }
}

/// A GPT and its optimizer on a GPU. Its parameters are zero until they are loaded.
pub struct GpuGpt {
    device: Device,
    config: GptConfig,
    layout: Layout,
    options: GpuGptOptions,
    buffers: BTreeMap<Name, wgpu::Buffer>,
    uniforms: wgpu::Buffer,
    /// Pipeline and buffers of each dispatch of the plan.
    bound: Vec<(wgpu::ComputePipeline, wgpu::BindGroup)>,
    /// For the shape of the last batch, which the uniforms hold.
    plan: Option<(Extent, Plan)>,
    /// Kept between steps; gone while one is under way, and after one that failed.
    staging: Option<wgpu::Buffer>,
    steps: u64,
}

impl GpuGpt {
    /// Allocates and compiles on a device that the caller made, with WebGPU's default limits or better.
    ///
    /// # Errors
    /// What [`GptConfig::check`] says; [`TrainError::Size`] for batch sizes out of range; [`TrainError::Device`] for a
    /// model that this engine or the device cannot hold, and for what the device says.
    pub async fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        config: GptConfig,
        options: GpuGptOptions,
    ) -> Result<Self, TrainError> {
        Self::with_pipelines(device, queue, config, options, &mut Pipelines::default()).await
    }

    /// As [`GpuGpt::new`], with the kernels that were compiled on this device before.
    ///
    /// # Errors
    /// As [`GpuGpt::new`]. Where the device said something, `pipelines` is empty afterwards.
    pub async fn with_pipelines(
        device: wgpu::Device,
        queue: wgpu::Queue,
        config: GptConfig,
        options: GpuGptOptions,
        pipelines: &mut Pipelines,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let sizes =
            [("sequences", options.sequences, MAX_SEQUENCES), ("length", options.length, config.context)];
        for (field, value, most) in sizes {
            if !(1..=most).contains(&value) {
                let (value, most) = (value as u64, most as u64);
                return Err(TrainError::Size { field, value, least: 1, most });
            }
        }
        let head = config.width / config.heads;
        if !head.is_multiple_of(4) {
            return Err(TrainError::Device(format!(
                "heads of {head} elements: the GPU engine needs a multiple of 4; train this model on the CPU"
            )));
        }
        let layout = Layout::new(&config);
        let most = Extent { sequences: options.sequences, length: options.length };
        let wanted = plan::buffers(&config, layout.parameters(), most);
        let device = Device::new(device, queue);
        for (name, elements) in &wanted {
            device.check_size(&format!("{name:?}"), elements * 4)?;
        }
        let plan = Plan::new(&config, &layout, options.shape, most, most);
        let scopes = device.open_scopes(ALL_ERRORS);
        let buffers: BTreeMap<_, _> =
            wanted.into_iter().map(|(name, elements)| (name, device.storage(elements * 4))).collect();
        let uniforms = device.uniforms(plan.dispatches.len() as u64 * SLOT);
        pipelines.compile(&device.device, options.shape, plan.dispatches.iter().map(|d| d.kernel));
        let bound = bind(&device, &plan.dispatches, options.shape, pipelines, &buffers, &uniforms);
        // From here on an early return frees what was allocated.
        let mut engine = Self {
            device,
            config,
            layout,
            options,
            buffers,
            uniforms,
            bound: Vec::new(),
            plan: None,
            staging: None,
            steps: 0,
        };
        let verdict = scopes.close();
        if let Err(error) = verdict.await {
            *pipelines = Pipelines::default();
            return Err(error);
        }
        engine.bound =
            bound.ok_or_else(|| TrainError::Device("a plan names a buffer it does not have".into()))?;
        let decays = engine.decays();
        engine.write(Name::Decays, &decays)?;
        Ok(engine)
    }

    /// Sizes of the model.
    pub const fn config(&self) -> &GptConfig {
        &self.config
    }

    /// The gradient of the last step's batch, before the clip, in the order of [`Layout`].
    ///
    /// # Errors
    /// What the device says.
    pub async fn gradient(&mut self) -> Result<Vec<f32>, TrainError> {
        self.read(Name::Gradient).await
    }

    /// Fills all that a step computes (everything but parameters and moments) with a bit pattern: a test sees what a
    /// kernel reads before it was written, or never writes.
    ///
    /// # Errors
    /// What the device says.
    pub fn fill_scratch(&mut self, bits: u32) -> Result<(), TrainError> {
        let kept = [Name::Parameters, Name::First, Name::Second, Name::Decays];
        for name in self.buffers.keys().filter(|name| !kept.contains(name)) {
            let buffer = self.buffer(*name)?;
            self.device.write(buffer, 0, &vec![bits; (buffer.size() / 4) as usize]);
        }
        Ok(())
    }

    /// A bit for each vec4 of parameters. Tensors are whole vec4, for heads are.
    fn decays(&self) -> Vec<u32> {
        let mut bits = vec![0; (self.layout.parameters() / 4).div_ceil(32)];
        for tensor in self.layout.tensors.iter().filter(|tensor| tensor.decays()) {
            for vec4 in tensor.range().start / 4..tensor.range().end / 4 {
                bits[vec4 / 32] |= 1 << (vec4 % 32);
            }
        }
        bits
    }

    fn buffer(&self, name: Name) -> Result<&wgpu::Buffer, TrainError> {
        self.buffers.get(&name).ok_or_else(|| TrainError::Device(format!("{name:?} has no buffer")))
    }

    fn write(&self, name: Name, words: &[u32]) -> Result<(), TrainError> {
        self.device.write(self.buffer(name)?, 0, words);
        Ok(())
    }

    async fn read(&self, name: Name) -> Result<Vec<f32>, TrainError> {
        let buffer = self.buffer(name)?;
        let bytes = self.layout.parameters() as u64 * 4;
        let scopes = self.device.open_scopes(ALL_ERRORS);
        let staging = self.device.staging(bytes);
        let reading = self.device.copy_and_map(Vec::new(), buffer, &staging, bytes);
        let verdict = scopes.close();
        let waited = reading.wait(&self.device).await;
        verdict.await?;
        waited?;
        let mut values = vec![0.0; self.layout.parameters()];
        device::copy_mapped(&staging, bytes, bytemuck::cast_slice_mut(&mut values))?;
        staging.destroy();
        Ok(values)
    }

    fn check(&self, batch: &Batch) -> Result<Extent, TrainError> {
        let Batch { sequences, length, .. } = *batch;
        let refuse = |why| Err(TrainError::Batch { sequences, length, why });
        if sequences == 0 || length == 0 {
            return refuse("it is empty");
        }
        if length > self.config.context {
            return refuse("rows are longer than the model's context");
        }
        if sequences > self.options.sequences || length > self.options.length {
            return refuse("it is larger than what the engine was made for");
        }
        let rows = sequences * length;
        if batch.inputs.len() != rows || batch.targets.len() != rows {
            return refuse("inputs or targets have another number of tokens");
        }
        let vocabulary = self.config.vocabulary;
        match batch.inputs.iter().chain(&batch.targets).find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(TrainError::Token { token: *token, vocabulary }),
            None => Ok(Extent { sequences, length }),
        }
    }

    /// Runs a batch through the model: the whole step at a learning rate, or the forward part alone.
    async fn run(&mut self, batch: &Batch, learning_rate: Option<f32>) -> Result<f32, TrainError> {
        let extent = self.check(batch)?;
        let plan = match self.plan.take() {
            Some((of, plan)) if of == extent => plan,
            _ => {
                let most = Extent { sequences: self.options.sequences, length: self.options.length };
                let plan = Plan::new(&self.config, &self.layout, self.options.shape, most, extent);
                self.device.write(&self.uniforms, 0, &uniform_words(&plan));
                plan
            }
        };
        self.write(Name::Batch, &batch_words(batch))?;
        let count = match learning_rate {
            None => plan.forward,
            Some(rate) => {
                let words = self.optimizer_words(rate);
                let slot = (plan.dispatches.len() - 1) as u64 * SLOT;
                self.device.write(&self.uniforms, slot, &words);
                plan.dispatches.len()
            }
        };
        let kept = self.staging.take();
        let answers = self.buffer(Name::Answers)?;
        let scopes = self.device.open_scopes(SUBMIT_ERRORS);
        let staging = kept.unwrap_or_else(|| self.device.staging(16));
        let commands = self.record(&plan.dispatches[..count]);
        let reading = self.device.copy_and_map(commands, answers, &staging, 16);
        let verdict = scopes.close();
        let waited = reading.wait(&self.device).await;
        verdict.await?;
        waited?;
        let mut words = [0.0_f32; 4];
        device::copy_mapped(&staging, 16, bytemuck::cast_slice_mut(&mut words))?;
        self.staging = Some(staging);
        self.plan = Some((extent, plan));
        let [loss, norm, ..] = words;
        if !loss.is_finite() || (learning_rate.is_some() && !norm.is_finite()) {
            return Err(TrainError::NotFinite { step: self.steps });
        }
        self.steps += u64::from(learning_rate.is_some());
        Ok(loss)
    }

    /// Commands for dispatches, cut where a submission has enough work.
    fn record(&self, dispatches: &[Dispatch]) -> Vec<wgpu::CommandBuffer> {
        let mut commands = Vec::new();
        let mut at = 0;
        while at < dispatches.len() {
            let mut encoder = self.device.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                let mut flops = 0.0;
                while at < dispatches.len() && (flops == 0.0 || flops < self.options.submission_flops) {
                    let dispatch = &dispatches[at];
                    let (pipeline, group) = &self.bound[at];
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(dispatch.groups[0], dispatch.groups[1], 1);
                    flops += dispatch.flops;
                    at += 1;
                }
            }
            commands.push(encoder.finish());
        }
        commands
    }

    /// Uniforms of AdamW for the step that comes.
    fn optimizer_words(&self, rate: f32) -> [u32; 9] {
        let AdamW { beta1, beta2, epsilon, weight_decay, clip } = self.options.optimizer;
        let step = i32::try_from(self.steps + 1).unwrap_or(i32::MAX);
        let unbias = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(step))) as f32;
        let floats =
            [rate, 1.0 - rate * weight_decay, beta1, beta2, epsilon, unbias(beta1), unbias(beta2), clip];
        let mut words = [(self.layout.parameters() / 4) as u32; 9];
        for (word, float) in words[1..].iter_mut().zip(floats) {
            *word = float.to_bits();
        }
        words
    }
}

/// Frees the device's memory at once: a browser would do so only when it collects garbage.
impl Drop for GpuGpt {
    fn drop(&mut self) {
        let kept = self.buffers.values().chain([&self.uniforms]).chain(&self.staging);
        kept.for_each(wgpu::Buffer::destroy);
    }
}

impl Engine for GpuGpt {
    fn parameters(&self) -> usize {
        self.layout.parameters()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        let expected = self.layout.parameters();
        if parameters.len() != expected {
            return Err(TrainError::Length { found: parameters.len(), expected });
        }
        let scopes = self.device.open_scopes(ALL_ERRORS);
        // Nobody may go on from half of this.
        self.steps = 0;
        let cleared = [Name::First, Name::Second].map(|name| self.buffers.get(&name));
        let mut encoder = self.device.encoder();
        for buffer in cleared.into_iter().flatten() {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.device.submit(encoder.finish());
        let written = self.write(Name::Parameters, bytemuck::cast_slice(parameters));
        let verdict = scopes.close();
        verdict.await?;
        written
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        self.read(Name::Parameters).await
    }

    async fn resume(&mut self, parameters: &[f32], moments: &Moments) -> Result<(), TrainError> {
        moments.check(self.layout.parameters())?;
        self.load(parameters).await?;
        let scopes = self.device.open_scopes(ALL_ERRORS);
        let written = [(Name::First, &moments.first), (Name::Second, &moments.second)]
            .into_iter()
            .try_for_each(|(name, values)| self.write(name, bytemuck::cast_slice(values)));
        let verdict = scopes.close();
        verdict.await?;
        written?;
        self.steps = moments.steps;
        Ok(())
    }

    async fn moments(&mut self) -> Result<Moments, TrainError> {
        let first = self.read(Name::First).await?;
        let second = self.read(Name::Second).await?;
        Ok(Moments { first, second, steps: self.steps })
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        self.run(batch, Some(learning_rate)).await
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        self.run(batch, None).await
    }
}

/// Pipeline and bind group of each dispatch; `None` if something is missing, which a test of the plan would see.
fn bind(
    device: &Device,
    dispatches: &[Dispatch],
    shape: KernelShape,
    pipelines: &Pipelines,
    buffers: &BTreeMap<Name, wgpu::Buffer>,
    uniforms: &wgpu::Buffer,
) -> Option<Vec<(wgpu::ComputePipeline, wgpu::BindGroup)>> {
    let bound = dispatches.iter().enumerate().map(|(i, dispatch)| {
        let pipeline = pipelines.get(shape, dispatch.kernel)?;
        let storage = dispatch.buffers.iter().map(|name| buffers.get(name)).collect::<Option<Vec<_>>>()?;
        let slot = (uniforms, i as u64 * SLOT, 4 * WORDS as u64);
        Some((pipeline.clone(), device.bind(pipeline, slot, &storage)))
    });
    bound.collect()
}

/// The uniforms of all dispatches, each in its slot.
fn uniform_words(plan: &Plan) -> Vec<u32> {
    let slot = (SLOT / 4) as usize;
    let mut words = vec![0; plan.dispatches.len() * slot];
    for (to, dispatch) in words.chunks_exact_mut(slot).zip(&plan.dispatches) {
        to[..dispatch.words.len()].copy_from_slice(&dispatch.words);
    }
    words
}

/// Inputs, targets, rows sorted by input token (equal ones in their order), and for each token that occurs an entry of
/// three words; unused entries are zero.
fn batch_words(batch: &Batch) -> Vec<u32> {
    let rows = batch.inputs.len();
    let mut sorted: Vec<u32> = (0..rows as u32).collect();
    sorted.sort_by_key(|row| batch.inputs[*row as usize]);
    let mut words = Vec::with_capacity(6 * rows);
    words.extend(&batch.inputs);
    words.extend(&batch.targets);
    words.extend(&sorted);
    let mut first = 0;
    for run in sorted.chunk_by(|a, b| batch.inputs[*a as usize] == batch.inputs[*b as usize]) {
        words.extend([batch.inputs[run[0] as usize], first, run.len() as u32]);
        first += run.len() as u32;
    }
    words.resize(6 * rows, 0);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_token_and_each_is_in_one_entry() {
        let inputs = vec![3, 1, 3, 0, 1, 3];
        let batch = Batch { sequences: 2, length: 3, targets: vec![9; 6], inputs };
        let words = batch_words(&batch);
        assert_eq!(words[..6], [3, 1, 3, 0, 1, 3]);
        assert_eq!(words[6..12], [9; 6]);
        assert_eq!(words[12..18], [3, 1, 4, 0, 2, 5]);
        assert_eq!(words[18..], [0, 0, 1, 1, 1, 2, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
