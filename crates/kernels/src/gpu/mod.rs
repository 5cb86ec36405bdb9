//! WGSL kernels on a GPU through wgpu: Vulkan, Metal or DX12 natively, WebGPU in a browser.
//!
//! A product is uploaded (padded with zeros to whole tiles), computed in bands of about 10 ms each, and read back.
//! WGSL errors are silent by themselves: every command runs inside error scopes, lost devices and uncaught errors mark
//! the device as unusable, and [`crate::calibrate()`] compares each kernel with the CPU before it is trusted.
//!
//! Natively the futures block the thread that polls them while the GPU works: run them on a thread of their own. In a
//! browser they never block.

mod band;
mod device;
mod pool;
mod product;
mod throughput;

use std::sync::atomic::AtomicBool;

use potluck_types::MatmulShape;

use crate::error::KernelError;
use crate::operands::{Operands, Output};
use crate::wgsl::Variant;

pub use device::{AdapterDescription, Gpu, GpuOptions};
pub use product::GpuProduct;

impl Gpu {
    /// C = A·B: upload, run, read back.
    ///
    /// Shapes: as [`Operands`]. Determinism: int8 exact; f32 within `gamma_K` of the reference, see [`crate::wgsl`].
    /// A product much smaller than the tile of `variant` runs on a smaller one, see [`Variant::for_shape`].
    /// `cancel` is looked at between bands, so within about 20 ms; use `&AtomicBool::new(false)` to run to the end.
    ///
    /// # Errors
    /// As [`Operands::check`]; [`KernelError::TooLarge`] beyond the device's buffers; [`KernelError::Cancelled`];
    /// [`KernelError::DeviceLost`], [`KernelError::OutOfMemory`], [`KernelError::Validation`] as the device reports.
    pub async fn matmul(
        &self,
        shape: MatmulShape,
        operands: Operands<'_>,
        variant: Variant,
        cancel: &AtomicBool,
    ) -> Result<Output, KernelError> {
        let product = self.upload(shape, operands, variant.for_shape(shape.m, shape.n)).await?;
        self.run_and_read(&product, cancel).await
    }
}
