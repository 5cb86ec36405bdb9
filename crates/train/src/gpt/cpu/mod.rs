//! The GPT engine on the CPU: forward, backward and AdamW in f32 on one thread, in the manner of Karpathy's llm.c.
//!
//! # Determinism
//! Bitwise: all sums have a fixed order, and elementary functions are our own. All machines with fused multiply-add
//! (x86-64 with AVX2, ARM64) give the same bits; machines without (wasm, older x86-64) all give the same other bits,
//! and the two differ by rounding.

mod adamw;
mod attention;
mod decode;
mod gemm;
mod head;
mod lanes;
pub(super) mod math;
mod memory;
mod norm;
mod pass;
mod pointwise;
#[cfg(test)]
mod tests;

pub use adamw::Optimizer;
pub use decode::{CHUNK, Decoder};
pub use memory::MAX_STEP_BYTES;

use super::{GptConfig, Layout};
use crate::engine::{AdamW, Batch, Engine, Moments, TrainError};
use gemm::{Matrix, Target, product};
use head::Gradients;
use memory::Memory;
use pass::Pass;

/// A GPT with its optimizer.
///
/// Memory: [`GptConfig::step_bytes`] of the greatest batch so far; steps allocate nothing once one of that size was
/// taken.
///
/// Determinism: see the module.
pub struct CpuGpt {
    config: GptConfig,
    layout: Layout,
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    optimizer: Optimizer,
    memory: Option<Memory>,
}

impl CpuGpt {
    /// A model of these sizes, trained with the default constants; all parameters are 0 until [`Engine::load`].
    ///
    /// # Errors
    /// As [`GptConfig::check`].
    pub fn new(config: GptConfig) -> Result<Self, TrainError> {
        Self::with_constants(config, AdamW::default())
    }

    /// As [`CpuGpt::new`], with other constants of the optimizer.
    ///
    /// # Errors
    /// As [`GptConfig::check`].
    pub fn with_constants(config: GptConfig, constants: AdamW) -> Result<Self, TrainError> {
        config.check()?;
        let layout = Layout::new(&config);
        let count = layout.parameters();
        let (parameters, gradient) = (vec![0.0; count], vec![0.0; count]);
        let optimizer = Optimizer::new(constants, count);
        Ok(Self { config, layout, parameters, gradient, optimizer, memory: None })
    }

    /// The model's sizes.
    pub const fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Logits of the token that follows `tokens`.
    ///
    /// Shapes: at least one token and at most the context; the result has the size of the vocabulary.
    ///
    /// # Errors
    /// [`TrainError::Batch`], [`TrainError::Token`], and [`TrainError::NotFinite`] where a logit is not finite.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let (length, width) = (tokens.len(), self.config.width);
        self.check_sizes(1, length)?;
        self.check_tokens(tokens)?;
        let Self { config, layout, parameters, memory, .. } = self;
        let memory = reserve(memory, config, 1, length);
        Pass { config, layout, parameters, sequences: 1, length }.forward(tokens, memory);
        let mut logits = vec![0.0; config.vocabulary];
        product(
            [1, config.vocabulary, width],
            Matrix::rows(&memory.norm[(length - 1) * width..][..width], width),
            Matrix::transposed(&parameters[layout.tokens..][..config.vocabulary * width], width),
            Target { data: &mut logits, stride: config.vocabulary, add: false },
            &mut memory.packs,
        );
        if logits.iter().all(|logit| logit.is_finite()) {
            Ok(logits)
        } else {
            Err(TrainError::NotFinite { step: self.optimizer.steps() })
        }
    }

    /// What the model says against each of `tokens[from..]`, in nats, given all tokens before it: one forward pass.
    ///
    /// Shapes: at most one token more than the context, 1 <= `from` < `tokens.len()`; the result has a number for each
    /// token from `from` on. Their mean over a whole sequence is what [`Engine::loss`] gives.
    ///
    /// # Errors
    /// [`TrainError::Batch`], [`TrainError::Token`], and [`TrainError::NotFinite`] where a loss is not finite.
    pub fn losses(&mut self, tokens: &[u32], from: usize) -> Result<Vec<f64>, TrainError> {
        let length = tokens.len().saturating_sub(1);
        if from == 0 || from > length {
            let why = "it needs a token to begin with and one that follows";
            return Err(TrainError::Batch { sequences: 1, length, why });
        }
        self.check_tokens(&tokens[from..])?;
        let mut losses = vec![0.0; tokens.len() - from];
        let targets = &tokens[from..];
        let vocabulary = self.config.vocabulary;
        self.chunks(&tokens[..length], from - 1, |first, logits| {
            let chunk = first..first + logits.len() / vocabulary;
            head::losses(logits, &targets[chunk.clone()], &mut losses[chunk]);
            Ok::<(), TrainError>(())
        })?;
        if losses.iter().all(|loss| loss.is_finite()) {
            Ok(losses)
        } else {
            Err(TrainError::NotFinite { step: self.optimizer.steps() })
        }
    }

    /// Hands the logits of what follows each of `tokens[from..]`, given all tokens before, to `visit`, with the place of
    /// the token: one forward pass.
    ///
    /// Shapes: at most as many tokens as the context, `from < tokens.len()`; logits have the size of the vocabulary.
    ///
    /// # Errors
    /// [`TrainError::Batch`], [`TrainError::Token`], [`TrainError::NotFinite`] where a logit is not finite, and the
    /// first error of `visit`, after which it is not called any more.
    pub fn each_logits<E: From<TrainError>>(
        &mut self,
        tokens: &[u32],
        from: usize,
        mut visit: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        if from >= tokens.len() {
            let why = "it has no tokens";
            return Err(TrainError::Batch { sequences: 1, length: tokens.len(), why }.into());
        }
        let (vocabulary, step) = (self.config.vocabulary, self.optimizer.steps());
        self.chunks(tokens, from, |first, logits| {
            for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
                if logits.iter().any(|logit| !logit.is_finite()) {
                    return Err(TrainError::NotFinite { step }.into());
                }
                visit(from + first + row, logits)?;
            }
            Ok(())
        })
    }

    /// Logits that follow `tokens[from..]`, a chunk of rows at a time, each with the number of its first row.
    fn chunks<E: From<TrainError>>(
        &mut self,
        tokens: &[u32],
        from: usize,
        visit: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (length, width) = (tokens.len(), self.config.width);
        self.check_sizes(1, length)?;
        self.check_tokens(tokens)?;
        let Self { config, layout, parameters, memory, .. } = self;
        let memory = reserve(memory, config, 1, length);
        Pass { config, layout, parameters, sequences: 1, length }.forward(tokens, memory);
        head::each_chunk(
            &memory.norm[from * width..length * width],
            &parameters[layout.tokens..][..config.vocabulary * width],
            width,
            &mut memory.logits,
            &mut memory.packs,
            visit,
        )
    }

    /// Takes other parameters and forgets what the optimizer remembers, as [`Engine::load`], for callers that do not
    /// wait.
    ///
    /// # Errors
    /// [`TrainError::Length`].
    pub fn take(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        self.replace(parameters)?;
        self.optimizer.clear();
        Ok(())
    }

    /// Takes other parameters; the optimizer stays as it is.
    fn replace(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        if parameters.len() != self.parameters.len() {
            return Err(TrainError::Length { found: parameters.len(), expected: self.parameters.len() });
        }
        self.parameters.copy_from_slice(parameters);
        Ok(())
    }

    /// The gradient of the last step's batch, before the clip, in the order of [`Layout`].
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    fn check_sizes(&self, sequences: usize, length: usize) -> Result<(), TrainError> {
        let wrong = |why| Err(TrainError::Batch { sequences, length, why });
        if sequences == 0 || length == 0 {
            return wrong("it has no tokens");
        }
        if length > self.config.context {
            return wrong("its rows are longer than the model's context");
        }
        if self.config.step_bytes(sequences, length) > MAX_STEP_BYTES {
            return wrong("a step would take more memory than MAX_STEP_BYTES; take fewer sequences");
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), TrainError> {
        let vocabulary = self.config.vocabulary;
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(TrainError::Token { token: *token, vocabulary }),
            None => Ok(()),
        }
    }

    fn check(&self, batch: &Batch) -> Result<(), TrainError> {
        let Batch { sequences, length, .. } = *batch;
        self.check_sizes(sequences, length)?;
        let why = match (batch.inputs.len(), batch.targets.len()) {
            (inputs, _) if inputs != sequences * length => "it needs as many inputs as rows x positions",
            (_, targets) if targets != sequences * length => "it needs as many targets as rows x positions",
            _ => {
                self.check_tokens(&batch.inputs)?;
                return self.check_tokens(&batch.targets);
            }
        };
        Err(TrainError::Batch { sequences, length, why })
    }

    /// The batch's loss and, if wanted, its gradient.
    fn run(&mut self, batch: &Batch, backward: bool) -> Result<f64, TrainError> {
        self.check(batch)?;
        let Self { config, layout, parameters, gradient, memory, .. } = self;
        let Batch { sequences, length, .. } = *batch;
        let memory = reserve(memory, config, sequences, length);
        let pass = Pass { config, layout, parameters, sequences, length };
        pass.forward(&batch.inputs, memory);
        let embedding = layout.tokens..layout.tokens + config.vocabulary * config.width;
        let loss = head::cross_entropy(
            &memory.norm,
            &batch.targets,
            &parameters[embedding.clone()],
            config.width,
            backward.then(|| Gradients { x: &mut memory.grad_narrow, embedding: &mut gradient[embedding] }),
            &mut memory.logits,
            &mut memory.packs,
        );
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { step: self.optimizer.steps() });
        }
        if backward {
            pass.backward(&batch.inputs, memory, gradient);
        }
        Ok(loss)
    }
}

/// Memory for a batch: what is there if it suffices.
fn reserve<'a>(
    memory: &'a mut Option<Memory>,
    config: &GptConfig,
    sequences: usize,
    length: usize,
) -> &'a mut Memory {
    let tokens = sequences * length;
    if memory.as_ref().is_some_and(|memory| memory.tokens < tokens || memory.length < length) {
        *memory = None;
    }
    memory.get_or_insert_with(|| Memory::new(config, tokens, length))
}

impl Engine for CpuGpt {
    fn parameters(&self) -> usize {
        self.parameters.len()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        self.take(parameters)
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        Ok(self.parameters.clone())
    }

    async fn resume(&mut self, parameters: &[f32], moments: &Moments) -> Result<(), TrainError> {
        moments.check(self.parameters.len())?;
        self.replace(parameters)?;
        self.optimizer.resume(moments);
        Ok(())
    }

    async fn moments(&mut self) -> Result<Moments, TrainError> {
        Ok(self.optimizer.moments())
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        let loss = self.run(batch, true)?;
        let Self { layout, gradient, parameters, optimizer, .. } = self;
        optimizer.step(&layout.tensors, learning_rate, gradient, parameters)?;
        Ok(loss as f32)
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        Ok(self.run(batch, false)? as f32)
    }
}
