//! What can be trained: parameters as one flat vector, a step, a loss.

/// Token ids of one inner step: `sequences` rows of `length` inputs, and for each position the token that follows.
///
/// # Shapes
/// `inputs` and `targets`: sequences x length, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub sequences: usize,
    /// Positions per row.
    pub length: usize,
    /// Tokens the model sees.
    pub inputs: Vec<u32>,
    /// Tokens it should have predicted.
    pub targets: Vec<u32>,
}

/// Why an engine cannot go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Sizes that make no model.
    #[error("{field} = {value} is outside {least}..={most}")]
    Size {
        /// Name of the size in the run file.
        field: &'static str,
        /// What was asked for.
        value: u64,
        /// Least that works.
        least: u64,
        /// Most that works.
        most: u64,
    },
    /// Heads must share the width evenly.
    #[error("width {width} cannot be shared by {heads} heads")]
    Heads {
        /// Width of the model.
        width: usize,
        /// Heads.
        heads: usize,
    },
    /// A vector of another length than the model has parameters.
    #[error("{found} parameters for a model of {expected}")]
    Length {
        /// Values given.
        found: usize,
        /// Parameters of the model.
        expected: usize,
    },
    /// A batch whose parts do not fit each other or the model's context.
    #[error("a batch of {sequences} x {length} does not fit: {why}")]
    Batch {
        /// Rows.
        sequences: usize,
        /// Positions per row.
        length: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is beyond the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The loss or a gradient is NaN or infinite: the run diverged, or the parameters are bad.
    #[error("the loss is not finite at inner step {step}")]
    NotFinite {
        /// Steps since the parameters were loaded.
        step: u64,
    },
    /// An engine that does not give its optimizer's moments away, so that no round can go on from them.
    #[error("this engine cannot keep the optimizer's moments from round to round: take codec int4")]
    Moments,
    /// A model that this program was built without.
    #[error("this program cannot train {0}")]
    Missing(&'static str),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
}

/// What AdamW remembers: what a round needs that goes on where another one ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// First moment of each parameter.
    pub first: Vec<f32>,
    /// Second moment of each parameter.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl Moments {
    /// # Errors
    /// [`TrainError::Length`].
    pub(crate) fn check(&self, expected: usize) -> Result<(), TrainError> {
        match [self.first.len(), self.second.len()].into_iter().find(|found| *found != expected) {
            Some(found) => Err(TrainError::Length { found, expected }),
            None => Ok(()),
        }
    }
}

/// A model with an optimizer: what a volunteer trains.
///
/// The parameters are one flat f32 vector, in the order that the model's documentation fixes, so that codecs,
/// aggregation and replay know nothing of models.
///
/// Futures are ready at once on a CPU; on a GPU they wait for the device. No `Send` bound: in a browser there are no
/// threads to send to.
#[expect(async_fn_in_trait, reason = "callers are generic over the engine and run it where it was made")]
pub trait Engine {
    /// How many parameters there are.
    fn parameters(&self) -> usize;

    /// Takes other parameters, and forgets the optimizer's moments and the count of steps.
    ///
    /// # Errors
    /// [`TrainError::Length`], or what the device says.
    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError>;

    /// The parameters as they are now.
    ///
    /// # Errors
    /// What the device says.
    async fn store(&mut self) -> Result<Vec<f32>, TrainError>;

    /// Takes other parameters, and the optimizer's moments and count of steps as they were stored.
    ///
    /// # Errors
    /// [`TrainError::Length`]; [`TrainError::Moments`] from an engine that does not do this; or what the device says.
    async fn resume(&mut self, _parameters: &[f32], _moments: &Moments) -> Result<(), TrainError> {
        Err(TrainError::Moments)
    }

    /// The optimizer's moments and count of steps as they are now.
    ///
    /// # Errors
    /// As [`Engine::resume`].
    async fn moments(&mut self) -> Result<Moments, TrainError> {
        Err(TrainError::Moments)
    }

    /// One inner step: mean cross-entropy of the batch (nats per token) before the step, gradient, clip, AdamW at
    /// `learning_rate`.
    ///
    /// # Errors
    /// A batch that does not fit the model, a loss that is not finite (the parameters are then undefined until
    /// [`Engine::load`]), or what the device says.
    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError>;

    /// Mean cross-entropy of a batch, in nats per token; nothing changes.
    ///
    /// # Errors
    /// As [`Engine::step`].
    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError>;
}

/// Constants of the inner optimizer: AdamW, after the global norm of the gradient was clipped.
///
/// Decay applies to matrices (embeddings among them), not to norms and biases.
/// Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled decay, multiplied by the learning rate.
    pub weight_decay: f32,
    /// Greatest global norm of a gradient.
    pub clip: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}
