//! The kernels as the benchmark page calls them: operands stay resident, each call gives one product to JavaScript.
//!
//! This is what a tab's Worker runs for a shard, without the volunteer engine around it; `training` has the same of
//! training steps. It is built for wasm32 only, by `cargo xtask bench browser` and `step`; elsewhere the crate is empty.

#![cfg(target_arch = "wasm32")]

mod training;

pub use training::Gpt;

use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use js_sys::Float32Array;
use potluck_kernels::{
    Backend, BackendChoice, Gpu, GpuOptions, KernelError, MatmulShape, Operands, Output, Variant, calibrate,
    cpu, gpu::GpuProduct,
};
use wasm_bindgen::prelude::*;

/// The device, and what calibration chose on it.
#[wasm_bindgen]
pub struct Engine {
    gpu: Option<Rc<Gpu>>,
    best_gpu: Option<Variant>,
    auto: Backend,
    auto_ms: f64,
}

#[wasm_bindgen]
impl Engine {
    /// Requests a device and calibrates as a volunteer does.
    ///
    /// # Errors
    /// The CPU kernel fails.
    pub async fn open() -> Result<Engine, JsError> {
        // As the tab's engine does.
        #[cfg(target_feature = "simd128")]
        potluck_kernels::cpu::tune();
        let gpu = Gpu::request(GpuOptions::default()).await.ok().map(Rc::new);
        let auto = calibrate(gpu.as_deref(), BackendChoice::Auto).await.map_err(text)?;
        let best_gpu = match calibrate(gpu.as_deref(), BackendChoice::Gpu).await {
            Ok(calibration) => match calibration.backend {
                Backend::Gpu(variant) => Some(variant),
                Backend::Cpu => None,
            },
            Err(_) => None,
        };
        Ok(Self { gpu, best_gpu, auto: auto.backend, auto_ms: auto.elapsed.as_secs_f64() * 1e3 })
    }

    /// What `auto` chose: `cpu` or the name of a WGSL kernel.
    #[wasm_bindgen(getter, js_name = autoChoice)]
    pub fn auto_choice(&self) -> String {
        self.auto.name().to_owned()
    }

    /// What calibrating took, in milliseconds.
    #[wasm_bindgen(getter, js_name = autoMs)]
    pub fn auto_ms(&self) -> f64 {
        self.auto_ms
    }

    /// The fastest WGSL kernel here, if any works.
    #[wasm_bindgen(getter, js_name = gpuChoice)]
    pub fn gpu_choice(&self) -> Option<String> {
        self.best_gpu.map(|variant| variant.name().to_owned())
    }

    /// Makes the operands of an n x n product resident. `backend`: `wasm`, `webgpu`, or `auto`.
    ///
    /// `bt` is B transposed, as operands travel in this project.
    ///
    /// # Errors
    /// As `Gpu::upload`, or there is no such backend here.
    pub async fn prepare(
        &self,
        backend: String,
        n: u32,
        a: Vec<f32>,
        bt: Vec<f32>,
    ) -> Result<Product, JsError> {
        let variant = match (backend.as_str(), self.auto) {
            ("wasm", _) | ("auto", Backend::Cpu) => None,
            ("auto", Backend::Gpu(variant)) => Some(variant),
            ("webgpu", _) => Some(self.best_gpu.ok_or_else(|| JsError::new("no WGSL kernel works here"))?),
            _ => return Err(JsError::new("unknown backend: use wasm, webgpu or auto")),
        };
        let shape = MatmulShape { m: n, k: n, n };
        let work = match variant {
            None => Work::Cpu { a, bt, out: Some(Output::F32(vec![0.0; n as usize * n as usize])) },
            Some(variant) => {
                let gpu = self.gpu.clone().ok_or_else(|| JsError::new("no device"))?;
                let operands = Operands::F32 { a: &a, bt: &bt };
                let product = gpu.upload(shape, operands, variant).await.map_err(text)?;
                Work::Gpu { gpu, product: Box::new(product) }
            }
        };
        Ok(Product { shape, work })
    }
}

/// Two resident operands.
#[wasm_bindgen]
pub struct Product {
    shape: MatmulShape,
    work: Work,
}

enum Work {
    Cpu { a: Vec<f32>, bt: Vec<f32>, out: Option<Output> },
    Gpu { gpu: Rc<Gpu>, product: Box<GpuProduct> },
}

#[wasm_bindgen]
impl Product {
    /// Computes the product on this thread and copies it out. Only for operands prepared for the CPU.
    ///
    /// # Errors
    /// The operands are on a GPU.
    #[wasm_bindgen(js_name = computeHere)]
    pub fn compute_here(&mut self) -> Result<Float32Array, JsError> {
        let Work::Cpu { a, bt, out } = &mut self.work else {
            return Err(JsError::new("the operands are on a GPU: await compute()"));
        };
        let buffer = out.take().ok_or_else(|| JsError::new("an earlier product failed"))?;
        let job = cpu::CpuJob::with_output(self.shape, Operands::F32 { a, bt }, buffer).map_err(text)?;
        let result = job.finish();
        let array = array(&result);
        *out = Some(result);
        array
    }

    /// Computes the product on the GPU and reads it back.
    ///
    /// # Errors
    /// As `Gpu::run_and_read`, or the operands are not on a GPU.
    pub async fn compute(&self) -> Result<Float32Array, JsError> {
        let Work::Gpu { gpu, product } = &self.work else {
            return Err(JsError::new("the operands are on the CPU: computeHere()"));
        };
        array(&gpu.run_and_read(product, &AtomicBool::new(false)).await.map_err(text)?)
    }

    /// Whether [`Product::compute`] is the one to call.
    #[wasm_bindgen(getter, js_name = onGpu)]
    pub fn on_gpu(&self) -> bool {
        matches!(self.work, Work::Gpu { .. })
    }
}

fn array(output: &Output) -> Result<Float32Array, JsError> {
    match output {
        Output::F32(values) => Ok(Float32Array::from(values.as_slice())),
        Output::I32(_) => Err(JsError::new("an int8 product where f32 was asked for")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: KernelError) -> JsError {
    JsError::new(&format!("{error}. hint: {}", error.hint()))
}
