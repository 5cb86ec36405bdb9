//! CPU kernels: one thread, advanced in steps so that a Worker can yield and notice Stop.
//!
//! Natively f32 goes to the crate `gemm`. Everything else runs in `packed`, one blocked loop over packed panels with
//! a micro-kernel for each instruction set: wasm simd128, AVX2 (int8), and plain arithmetic elsewhere. Nothing here
//! uses threads: a volunteer that wants two cores runs two products.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(not(target_arch = "wasm32"))]
mod gemm_f32;
mod packed;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod tuned;

use std::time::Duration;

use potluck_types::{DType, MatmulShape};

use crate::error::KernelError;
use crate::operands::{Operands, Output, check_len};
use packed::Packed;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub use tuned::{Tuned, multiply as tile_f32, tune, tune_plain};

#[cfg(not(target_arch = "wasm32"))]
type F32Job<'a> = gemm_f32::GemmJob<'a>;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
type F32Job<'a> = Packed<'a, simd128::F32>;
#[cfg(all(target_arch = "wasm32", not(target_feature = "simd128")))]
type F32Job<'a> = Packed<'a, scalar::F32>;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
type Int8Job<'a> = Packed<'a, simd128::Int8>;
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
type Int8Job<'a> = Packed<'a, scalar::Int8>;

/// Whether a job has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call [`CpuJob::step`] again.
    Running {
        /// Multiply-adds that are done, in 1/1000 of the product.
        permille: u16,
    },
    /// [`CpuJob::finish`] gives the result.
    Finished,
}

/// A product that is computed in steps on the calling thread.
///
/// Determinism: bitwise on one build and instruction set, whatever the steps. In wasm each f32 element is a sum of
/// blocks of 32 along K, without fused multiply-add, so all wasm engines agree bitwise, until `cpu::tune` found an
/// engine with relaxed SIMD.
pub struct CpuJob<'a> {
    work: Work<'a>,
}

enum Work<'a> {
    F32(F32Job<'a>),
    Int8(Int8Job<'a>),
    #[cfg(target_arch = "x86_64")]
    Int8Avx2(Packed<'a, avx2::Int8>),
}

impl<'a> CpuJob<'a> {
    /// Prepares C = A·B.
    ///
    /// # Errors
    /// As [`Operands::check`].
    pub fn new(shape: MatmulShape, operands: Operands<'a>) -> Result<Self, KernelError> {
        operands.check(shape)?;
        let len = shape.m as usize * shape.n as usize;
        let out = match operands.dtype() {
            DType::F32 => Output::F32(vec![0.0; len]),
            DType::Int8 => Output::I32(vec![0; len]),
        };
        Self::with_output(shape, operands, out)
    }

    /// Prepares C = A·B into a buffer of an earlier result; what it holds is overwritten, not read.
    ///
    /// # Errors
    /// As [`Operands::check`], and [`KernelError::ShapeMismatch`] if `out` has another dtype or length.
    pub fn with_output(shape: MatmulShape, operands: Operands<'a>, out: Output) -> Result<Self, KernelError> {
        operands.check(shape)?;
        check_len("out", shape.m, shape.n, out.len())?;
        let work = match (operands, out) {
            (Operands::F32 { a, bt }, Output::F32(out)) => Work::F32(F32Job::new(shape, a, bt, out)),
            (Operands::Int8 { a, bt }, Output::I32(out)) => int8_work(shape, a, bt, out),
            _ => return Err(KernelError::Unsupported { what: "an output buffer of another dtype" }),
        };
        Ok(Self { work })
    }

    /// Computes for about `target` ([`crate::limits::STEP_TARGET`] is a good one), and at least a little.
    pub fn step(&mut self, target: Duration) -> Progress {
        match &mut self.work {
            Work::F32(job) => job.step(target),
            Work::Int8(job) => job.step(target),
            #[cfg(target_arch = "x86_64")]
            Work::Int8Avx2(job) => job.step(target),
        }
    }

    /// The result, after [`Progress::Finished`]; computes what is left if called before.
    pub fn finish(mut self) -> Output {
        while self.step(Duration::MAX) != Progress::Finished {}
        match self.work {
            Work::F32(job) => Output::F32(job.into_output()),
            Work::Int8(job) => Output::I32(job.into_output()),
            #[cfg(target_arch = "x86_64")]
            Work::Int8Avx2(job) => Output::I32(job.into_output()),
        }
    }
}

fn int8_work<'a>(shape: MatmulShape, a: &'a [i8], bt: &'a [i8], out: Vec<i32>) -> Work<'a> {
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx2::Int8::detect() {
        return Work::Int8Avx2(Packed::with_kernel(kernel, shape, a, bt, out));
    }
    Work::Int8(Int8Job::new(shape, a, bt, out))
}

/// C = A·B in one blocking call.
///
/// Shapes, Determinism: as [`Operands`] and [`CpuJob`].
///
/// # Errors
/// As [`Operands::check`].
pub fn matmul(shape: MatmulShape, operands: Operands<'_>) -> Result<Output, KernelError> {
    Ok(CpuJob::new(shape, operands)?.finish())
}

/// The instruction set that a product of `dtype` uses here, for reports.
pub fn description(dtype: DType) -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if dtype == DType::Int8 && avx2::Int8::detect().is_some() {
        return "AVX2";
    }
    if cfg!(all(target_arch = "wasm32", target_feature = "simd128")) {
        "wasm simd128"
    } else if dtype == DType::F32 && cfg!(not(target_arch = "wasm32")) {
        "gemm"
    } else {
        "scalar"
    }
}
