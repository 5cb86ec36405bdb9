//! Training steps of the GPT, as a tab's Worker takes them.

use js_sys::Float32Array;
use potluck_kernels::{Gpu, GpuOptions, Variant};
use potluck_train::gpt::{CpuGpt, GptConfig, GpuGpt, GpuGptOptions, init};
use potluck_train::{Batch, Engine, TrainError};
use potluck_volunteer::trainer::kernel_shape;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// The preset `tiny` with its optimizer.
#[wasm_bindgen]
pub struct Gpt {
    sizes: [usize; 2],
    engine: On,
}

enum On {
    Cpu(Box<CpuGpt>),
    /// The device is kept: what is dropped is destroyed.
    Gpu {
        engine: Box<GpuGpt>,
        _gpu: Rc<Gpu>,
    },
}

#[wasm_bindgen]
impl Gpt {
    /// Fresh parameters.
    pub fn parameters(vocabulary: usize) -> Float32Array {
        Float32Array::from(init(&GptConfig::tiny(vocabulary), &[1; 32]).as_slice())
    }

    /// `backend`: `wasm` or `webgpu`.
    ///
    /// # Errors
    /// What the engine or the device says.
    pub async fn create(
        backend: String,
        vocabulary: usize,
        parameters: Vec<f32>,
        sequences: usize,
        length: usize,
    ) -> Result<Gpt, JsError> {
        let config = GptConfig::tiny(vocabulary);
        let mut engine = if backend == "webgpu" {
            let gpu = Rc::new(
                Gpu::request(GpuOptions::default())
                    .await
                    .map_err(|error| JsError::new(&error.to_string()))?,
            );
            // What a tab does on a software adapter whatever its products chose; on others the usual kernels.
            let shape = kernel_shape(Variant::Tiled64, gpu.adapter().is_software);
            let options = GpuGptOptions::new(sequences, length, shape);
            let engine = GpuGpt::new(gpu.device().clone(), gpu.queue().clone(), config, options)
                .await
                .map_err(text)?;
            On::Gpu { engine: Box::new(engine), _gpu: gpu }
        } else {
            // As the tab's engine does.
            #[cfg(target_feature = "simd128")]
            potluck_kernels::cpu::tune();
            On::Cpu(Box::new(CpuGpt::new(config).map_err(text)?))
        };
        match &mut engine {
            On::Cpu(engine) => engine.load(&parameters).await,
            On::Gpu { engine, .. } => engine.load(&parameters).await,
        }
        .map_err(text)?;
        Ok(Self { sizes: [sequences, length], engine })
    }

    /// Parameters as they are now.
    ///
    /// # Errors
    /// What the device says.
    pub async fn store(&mut self) -> Result<Float32Array, JsError> {
        let parameters = match &mut self.engine {
            On::Cpu(engine) => engine.store().await,
            On::Gpu { engine, .. } => engine.store().await,
        };
        Ok(Float32Array::from(parameters.map_err(text)?.as_slice()))
    }

    /// A step; the loss before it.
    ///
    /// # Errors
    /// What the engine or the device says.
    pub async fn step(&mut self, inputs: Vec<u32>, targets: Vec<u32>, rate: f32) -> Result<f32, JsError> {
        let [sequences, length] = self.sizes;
        let batch = Batch { sequences, length, inputs, targets };
        match &mut self.engine {
            On::Cpu(engine) => engine.step(&batch, rate).await,
            On::Gpu { engine, .. } => engine.step(&batch, rate).await,
        }
        .map_err(text)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` calls it")]
fn text(error: TrainError) -> JsError {
    JsError::new(&error.to_string())
}
