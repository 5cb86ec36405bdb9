//! Models that burn trains: a module of their own, which the Worker fetches when the first such round is leased.
//!
//! `worker.js` has the two functions below; `crates/web-burn` is the module, and says what its engine can do.

use js_sys::{Float32Array, Uint32Array};
use potluck_train::{Batch, Engine, Model, TrainError};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

#[wasm_bindgen]
extern "C" {
    /// The engine for a model, made when it is first asked for.
    #[wasm_bindgen(js_name = burnEngine, catch)]
    async fn burn_engine(model: &str) -> Result<JsValue, JsValue>;

    /// Forgets the engine: its device failed.
    #[wasm_bindgen(js_name = forgetBurnEngine, catch)]
    fn forget_burn_engine(model: &str) -> Result<(), JsValue>;

    #[derive(Clone)]
    type JsEngine;

    #[wasm_bindgen(method)]
    fn parameters(this: &JsEngine) -> usize;

    #[wasm_bindgen(method, catch)]
    async fn load(this: &JsEngine, parameters: &Float32Array) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn store(this: &JsEngine) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn step(
        this: &JsEngine,
        inputs: &Uint32Array,
        targets: &Uint32Array,
        sequences: usize,
        length: usize,
        rate: f32,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    async fn loss(
        this: &JsEngine,
        inputs: &Uint32Array,
        targets: &Uint32Array,
        sequences: usize,
        length: usize,
    ) -> Result<JsValue, JsValue>;
}

/// The name under which the module knows a model; `None` for those that need no burn.
const fn name(model: Model) -> Option<&'static str> {
    match model {
        Model::Gpt(_) => None,
        Model::Digits => Some("digits"),
    }
}

/// An engine in the other module, on a WebGPU device of its own.
pub(crate) struct BurnEngine {
    name: &'static str,
    engine: JsEngine,
}

impl BurnEngine {
    /// The engine for a model.
    ///
    /// # Errors
    /// [`TrainError::Missing`] for a model that needs no burn, where the module cannot be fetched, and where there is no
    /// WebGPU.
    pub(crate) async fn new(model: Model) -> Result<Self, TrainError> {
        let Some(name) = name(model) else { return Err(TrainError::Missing("this model with burn")) };
        match burn_engine(name).await {
            Ok(engine) => Ok(Self { name, engine: engine.unchecked_into() }),
            Err(cause) => {
                web_sys::console::warn_1(&cause);
                Err(TrainError::Missing("this model: it needs WebGPU, and the module of burn"))
            }
        }
    }

    /// What the engine said, unless it failed. A device that failed once is not used again.
    fn said(&self, outcome: Result<JsValue, JsValue>) -> Result<JsValue, TrainError> {
        outcome.map_err(|cause| {
            let message =
                js_sys::Reflect::get(&cause, &"message".into()).ok().and_then(|text| text.as_string());
            let name = js_sys::Reflect::get(&cause, &"name".into()).ok().and_then(|text| text.as_string());
            if name.as_deref() == Some("NotFinite") {
                return TrainError::NotFinite { step: 0 };
            }
            // Nothing is left to forget if that fails.
            drop(forget_burn_engine(self.name));
            TrainError::Device(message.unwrap_or_else(|| format!("{cause:?}")))
        })
    }

    fn number(&self, outcome: Result<JsValue, JsValue>) -> Result<f32, TrainError> {
        let value = self.said(outcome)?.as_f64().unwrap_or(f64::NAN) as f32;
        if value.is_finite() { Ok(value) } else { Err(TrainError::NotFinite { step: 0 }) }
    }
}

fn tokens(batch: &Batch) -> [Uint32Array; 2] {
    [&batch.inputs, &batch.targets].map(|tokens| Uint32Array::from(tokens.as_slice()))
}

impl Engine for BurnEngine {
    fn parameters(&self) -> usize {
        self.engine.parameters()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        let (found, expected) = (parameters.len(), self.parameters());
        if found != expected {
            return Err(TrainError::Length { found, expected });
        }
        self.said(self.engine.load(&Float32Array::from(parameters)).await).map(drop)
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        let values = self.said(self.engine.store().await)?;
        Ok(values.dyn_into::<Float32Array>().map(|values| values.to_vec()).unwrap_or_default())
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        let [inputs, targets] = tokens(batch);
        let Batch { sequences, length, .. } = *batch;
        self.number(self.engine.step(&inputs, &targets, sequences, length, learning_rate).await)
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        let [inputs, targets] = tokens(batch);
        let Batch { sequences, length, .. } = *batch;
        self.number(self.engine.loss(&inputs, &targets, sequences, length).await)
    }
}
