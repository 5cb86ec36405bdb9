//! Matrix products for volunteers: an f64 reference, SIMD CPU kernels, and WGSL kernels through wgpu.
//!
//! One source serves native programs and browsers. Every product is "NT": C = A·B with A and B-transposed row-major,
//! so that K is contiguous in both operands, which is how operands travel as panels.
//!
//! - [`cpu`]: one thread, in steps; always there.
//! - [`gpu`] (feature `gpu`): WGSL, in bands of about 10 ms, for real GPUs and software adapters.
//! - [`calibrate()`] (feature `gpu`): times the candidates on this device, checks their results, picks the fastest.
//! - [`reference`](mod@reference): the truth in tests and checks.
//! - [`wgsl`]: the generated shader text, without wgpu.

mod backend;
#[cfg(feature = "gpu")]
pub mod calibrate;
pub mod cpu;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod limits;
mod operands;
pub mod reference;
pub mod wgsl;

pub use backend::{Backend, BackendChoice, ParseBackendError};
#[cfg(feature = "gpu")]
pub use calibrate::{Calibration, calibrate};
pub use cpu::{CpuJob, Progress};
pub use error::KernelError;
#[cfg(feature = "gpu")]
pub use gpu::{Gpu, GpuOptions};
pub use operands::{Operand, Operands, Output, check_shape, operand_from_le_bytes};
pub use potluck_types::{DType, MatmulShape};
pub use wgsl::Variant;
