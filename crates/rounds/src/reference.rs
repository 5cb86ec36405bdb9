//! The CPU engine that replays a model's steps and measures its losses: what everybody's results are compared with.

use potluck_train::gpt::CpuGpt;
use potluck_train::{Batch, Engine, Model, Moments, TrainError};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// An engine for any model.
///
/// Determinism: on one kind of CPU the same steps give the same bits.
pub enum Reference {
    /// Our own.
    Gpt(Box<CpuGpt>),
    /// burn's.
    #[cfg(feature = "burn")]
    Burn(Box<potluck_burn::BurnEngine<potluck_burn::Digits>>),
}

impl Reference {
    /// For a model, its parameters yet to be loaded.
    ///
    /// # Errors
    /// Sizes that make no model, or a model that this program was built without.
    pub fn new(model: Model) -> Result<Self, TrainError> {
        match model {
            Model::Gpt(config) => Ok(Self::Gpt(Box::new(CpuGpt::new(config)?))),
            #[cfg(feature = "burn")]
            Model::Digits => {
                let engine = potluck_burn::BurnEngine::new(potluck_burn::Backend::cpu());
                let refused = |error: potluck_burn::SetupError| TrainError::Device(error.to_string());
                Ok(Self::Burn(Box::new(engine.map_err(refused)?)))
            }
            #[cfg(not(feature = "burn"))]
            Model::Digits => Err(TrainError::Missing("the digits classifier: it was built without burn")),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({} parameters)", self.parameters())
    }
}

impl Engine for Reference {
    fn parameters(&self) -> usize {
        match self {
            Self::Gpt(engine) => engine.parameters(),
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.parameters(),
        }
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        match self {
            Self::Gpt(engine) => engine.load(parameters).await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.load(parameters).await,
        }
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        match self {
            Self::Gpt(engine) => engine.store().await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.store().await,
        }
    }

    async fn resume(&mut self, parameters: &[f32], moments: &Moments) -> Result<(), TrainError> {
        match self {
            Self::Gpt(engine) => engine.resume(parameters, moments).await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.resume(parameters, moments).await,
        }
    }

    async fn moments(&mut self) -> Result<Moments, TrainError> {
        match self {
            Self::Gpt(engine) => engine.moments().await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.moments().await,
        }
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        match self {
            Self::Gpt(engine) => engine.step(batch, learning_rate).await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.step(batch, learning_rate).await,
        }
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        match self {
            Self::Gpt(engine) => engine.loss(batch).await,
            #[cfg(feature = "burn")]
            Self::Burn(engine) => engine.loss(batch).await,
        }
    }
}

/// The value of a future that never waits, as those of engines on the CPU.
///
/// # Panics
/// If it waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("an engine on the CPU waits for nothing"),
    }
}
