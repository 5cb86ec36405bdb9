//! Training steps for the page of `cargo xtask bench step`.

use crate::constructors;
use crate::gpt::Gpt;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use potluck_burn::Backend;
use potluck_train::engine::AdamW;
use potluck_train::gpt::{GptConfig, Layout};
use wasm_bindgen::prelude::*;

/// A GPT and burn's AdamW on a WebGPU device; only the loss comes back.
#[wasm_bindgen]
pub struct BurnGpt {
    device: Device,
    model: Option<Gpt>,
    optimizer: ModuleOptimizer,
    clip: f32,
}

#[wasm_bindgen]
impl BurnGpt {
    /// The preset `tiny` with these parameters.
    ///
    /// # Errors
    /// Without WebGPU.
    pub async fn create(vocabulary: usize, parameters: Vec<f32>) -> Result<BurnGpt, JsError> {
        console_error_panic_hook::set_once();
        constructors::run();
        let config = GptConfig::tiny(vocabulary);
        let device = Backend::gpu().await?.device().clone().autodiff();
        let model = Gpt::new(&config, &device).load(&parameters, &Layout::new(&config), &device);
        let ours = AdamW::default();
        let optimizer = AdamWConfig::new()
            .with_beta_1(ours.beta1)
            .with_beta_2(ours.beta2)
            .with_epsilon(ours.epsilon)
            .with_weight_decay(ours.weight_decay)
            .init();
        Ok(Self { device, model: Some(model), optimizer, clip: ours.clip })
    }

    /// A step; the loss before it.
    ///
    /// # Errors
    /// A step is under way, or the device fails.
    pub async fn step(
        &mut self,
        inputs: Vec<i32>,
        targets: Vec<i32>,
        sequences: usize,
        length: usize,
        rate: f64,
    ) -> Result<f32, JsError> {
        let model = self.model.take().ok_or_else(|| JsError::new("an earlier step failed"))?;
        let inputs = Tensor::<2, Int>::from_data(TensorData::new(inputs, [sequences, length]), &self.device);
        let targets =
            Tensor::<1, Int>::from_data(TensorData::new(targets, [sequences * length]), &self.device);
        let loss = model.loss(inputs, targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let gradients = clipped(gradients, &model, self.clip);
        self.model = Some(self.optimizer.step(rate, model, gradients));
        let data = loss.inner().into_data_async().await.map_err(|e| JsError::new(&e.to_string()))?;
        let values = data.try_into_vec::<f32>().map_err(|e| JsError::new(&format!("{e:?}")))?;
        values.first().copied().ok_or_else(|| JsError::new("no loss came back"))
    }
}

/// Burn clips each tensor by itself; this clips the norm of all, on the device.
fn clipped(gradients: GradientsParams, model: &Gpt, clip: f32) -> GradientsParams {
    let mut squares = Squares { gradients, sum: None };
    model.visit(&mut squares);
    let Squares { gradients, sum: Some(sum) } = squares else { return GradientsParams::new() };
    let scale = (sum.sqrt() + 1e-6).recip().mul_scalar(clip).clamp_max(1.0);
    let mut scaled = Scaled { gradients, scale };
    model.visit(&mut scaled);
    scaled.gradients
}

struct Squares {
    gradients: GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scaled {
    gradients: GradientsParams,
    scale: Tensor<1>,
}

impl ModuleVisitor for Scaled {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.scale.clone().unsqueeze::<D>());
        }
    }
}
