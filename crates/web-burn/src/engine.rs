//! What JavaScript sees.

use crate::constructors;
use js_sys::Error;
use potluck_burn::{Backend, Digits};
use potluck_train::TrainError;
use potluck_train::engine::{Batch, Engine};
use std::cell::Cell;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

type Model = potluck_burn::BurnEngine<Digits>;

/// A model with its optimizer on a WebGPU device of its own.
///
/// Calls are promises, one after the other; they are rejected with an `Error` whose message says what is wrong;
/// its name is `NotFinite` where the loss or a gradient is not.
#[wasm_bindgen]
pub struct BurnEngine {
    parameters: usize,
    /// Not there while a call is under way.
    model: Cell<Option<Box<Model>>>,
}

#[wasm_bindgen]
impl BurnEngine {
    /// A model by its name, all parameters 0. There is one: `digits`.
    ///
    /// # Errors
    /// Without WebGPU, and for a name that is not known.
    pub async fn create(model: String) -> Result<BurnEngine, JsError> {
        constructors::run();
        if model != "digits" {
            return Err(JsError::new(&format!("there is no model {model:?} here; there is \"digits\"")));
        }
        let model = Model::new(Backend::gpu().await?)?;
        Ok(Self { parameters: model.parameters(), model: Cell::new(Some(Box::new(model))) })
    }

    /// How many parameters there are.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Takes other parameters, and forgets the optimizer's moments.
    ///
    /// # Errors
    /// As all calls.
    pub async fn load(&self, parameters: Vec<f32>) -> Result<(), Error> {
        self.alone(async |model| model.load(&parameters).await).await
    }

    /// The parameters as they are now.
    ///
    /// # Errors
    /// As all calls.
    pub async fn store(&self) -> Result<Vec<f32>, Error> {
        self.alone(async |model| model.store().await).await
    }

    /// One step at a learning rate: the loss of the batch before it, in nats. `inputs` and `targets` are `sequences`
    /// rows of `length` tokens.
    ///
    /// # Errors
    /// As all calls.
    pub async fn step(
        &self,
        inputs: Vec<u32>,
        targets: Vec<u32>,
        sequences: usize,
        length: usize,
        rate: f32,
    ) -> Result<f32, Error> {
        let batch = Batch { sequences, length, inputs, targets };
        self.alone(async |model| model.step(&batch, rate).await).await
    }

    /// The loss of a batch, in nats; nothing changes.
    ///
    /// # Errors
    /// As all calls.
    pub async fn loss(
        &self,
        inputs: Vec<u32>,
        targets: Vec<u32>,
        sequences: usize,
        length: usize,
    ) -> Result<f32, Error> {
        let batch = Batch { sequences, length, inputs, targets };
        self.alone(async |model| model.loss(&batch).await).await
    }

    async fn alone<T>(
        &self,
        work: impl AsyncFnOnce(&mut Model) -> Result<T, TrainError>,
    ) -> Result<T, Error> {
        let busy = || Error::new("another call is under way: await it first");
        let mut model = self.model.take().ok_or_else(busy)?;
        let result = work(&mut model).await;
        self.model.set(Some(model));
        result.map_err(|error| rejected(&error))
    }
}

fn rejected(error: &TrainError) -> Error {
    let thrown = Error::new(&error.to_string());
    // By its name the caller tells work that diverged from a device that failed.
    if matches!(error, TrainError::NotFinite { .. }) {
        thrown.set_name("NotFinite");
    }
    thrown
}
