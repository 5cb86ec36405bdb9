//! A short calibration on the device: which kernel is fastest here, and does it give right results?
//!
//! An adapter may be a software emulation that is ten times slower than SIMD on the CPU, and a kernel shape that wins
//! on one GPU reaches a third of its speed on another. So the candidates are timed, cheapest to compile first, within
//! [`CALIBRATION_BUDGET`]; each result is compared with the CPU's before its speed counts.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use potluck_types::MatmulShape;
use web_time::Instant;

use crate::backend::{Backend, BackendChoice};
use crate::cpu;
use crate::error::KernelError;
use crate::gpu::Gpu;
use crate::limits::{CALIBRATION_BUDGET, CALIBRATION_SIDE, LARGE_TILE_MIN_RATIO, OTHER_DIRECT_MIN_RATIO};
use crate::operands::{Operands, Output};
use crate::reference::gamma;
use crate::wgsl::Variant;

/// Rows that a GPU candidate is timed with at most: 1.07 GFLOP, enough to fill a large GPU for a millisecond.
const MAX_TIMED_ROWS: u32 = 32 * CALIBRATION_SIDE;
/// A timed run should take this long at least; shorter ones mostly measure the round trip.
const MIN_TIMED_RUN: Duration = Duration::from_millis(3);
/// Timed runs of a GPU candidate, of which the fastest counts.
const RUNS: usize = 3;
/// The CPU is timed for this long, and the fastest run counts: browsers start with quick, slow code (a tenth of the
/// speed) and replace it in the background.
const CPU_TIME: Duration = Duration::from_millis(40);

/// What one candidate did.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The kernel.
    pub backend: Backend,
    /// f32 rate, 10^9 FLOP/s; 0 if it failed.
    pub gflops: f64,
    /// From the start of compilation to the last timed run.
    pub elapsed: Duration,
    /// Why it does not count.
    pub rejected: Option<String>,
}

/// The outcome of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The fastest whose results were right, as far as the user's choice allows.
    pub backend: Backend,
    /// All that were tried, in order.
    pub candidates: Vec<Candidate>,
    /// Whether at least one GPU kernel ran and agreed with the CPU.
    pub gpu_checked: bool,
    /// All of it.
    pub elapsed: Duration,
}

impl Calibration {
    /// The rate of the chosen backend, 10^9 FLOP/s.
    pub fn gflops(&self) -> f64 {
        self.candidates.iter().find(|c| c.backend == self.backend).map_or(0.0, |c| c.gflops)
    }
}

/// Times the CPU kernel and, if there is a device, the GPU kernels, and picks one.
///
/// [`BackendChoice::Cpu`] skips the GPU. [`BackendChoice::Gpu`] picks the best GPU kernel even if the CPU is faster.
///
/// # Errors
/// [`KernelError::NoAdapter`] if the GPU was chosen, and there is none or none of its kernels gave right results.
pub async fn calibrate(gpu: Option<&Gpu>, choice: BackendChoice) -> Result<Calibration, KernelError> {
    let start = Instant::now();
    let problem = Problem::new();
    let (cpu_candidate, expected) = problem.time_cpu()?;
    let cpu_gflops = cpu_candidate.gflops;
    let mut candidates = vec![cpu_candidate];
    if let Some(gpu) = gpu.filter(|_| choice != BackendChoice::Cpu) {
        let mut best_direct = 0.0;
        for variant in Variant::ALL {
            if gpu.is_lost() || start.elapsed() >= CALIBRATION_BUDGET {
                break;
            }
            // `ALL` starts with the cheapest direct kernel, so from then on it is known how the adapter compares with
            // the CPU, and whether another kernel could make up for it.
            let ratio = if candidates.len() == 1 { f64::INFINITY } else { best_direct / cpu_gflops };
            let needed = match (variant.is_tiled(), choice) {
                (true, _) => LARGE_TILE_MIN_RATIO,
                (false, BackendChoice::Gpu) => 0.0,
                (false, _) => OTHER_DIRECT_MIN_RATIO,
            };
            if ratio < needed || !gpu.supports(variant) {
                continue;
            }
            let candidate = problem.time_gpu(gpu, variant, &expected).await;
            best_direct = f64::max(best_direct, candidate.gflops);
            candidates.push(candidate);
        }
        // Meanwhile a browser has certainly replaced its first code.
        let (again, _) = problem.run_cpu(CPU_TIME / 4)?;
        candidates[0].gflops = cpu_gflops.max(gflops(problem.shape, again));
    }
    let allowed = |c: &&Candidate| {
        c.rejected.is_none() && (choice != BackendChoice::Gpu || matches!(c.backend, Backend::Gpu(_)))
    };
    let best = candidates.iter().filter(allowed).max_by(|x, y| x.gflops.total_cmp(&y.gflops));
    let Some(best) = best else {
        let reason = candidates.iter().rev().find_map(|c| c.rejected.clone());
        return Err(KernelError::NoAdapter {
            reason: reason.unwrap_or_else(|| "there is no device".to_owned()),
        });
    };
    Ok(Calibration {
        backend: best.backend,
        gpu_checked: candidates.iter().any(|c| c.rejected.is_none() && matches!(c.backend, Backend::Gpu(_))),
        candidates,
        elapsed: start.elapsed(),
    })
}

/// The product that is timed: numbers in [-1, 1) without a pattern that a broken kernel could hit by luck.
struct Problem {
    shape: MatmulShape,
    a: Vec<f32>,
    bt: Vec<f32>,
}

/// What a right result is.
struct Expected {
    product: Vec<f32>,
    tolerance: Vec<f32>,
}

impl Problem {
    fn new() -> Self {
        let side = CALIBRATION_SIDE;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut numbers = |count: u32| -> Vec<f32> {
            (0..count)
                .map(|_| {
                    // SplitMix64 without its output mixing would do; xorshift is enough here.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 40) as f32 / 8_388_608.0 - 1.0
                })
                .collect()
        };
        Self {
            shape: MatmulShape { m: side, k: side, n: side },
            a: numbers(side * side),
            bt: numbers(side * side),
        }
    }

    fn time_cpu(&self) -> Result<(Candidate, Expected), KernelError> {
        let start = Instant::now();
        let absolute = |v: &[f32]| v.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (a, bt) = (absolute(&self.a), absolute(&self.bt));
        // Warms up code and caches, and is the scale of the rounding error.
        let scale = floats(cpu::matmul(self.shape, Operands::F32 { a: &a, bt: &bt })?);
        let (best, product) = self.run_cpu(CPU_TIME)?;
        // Both sides may be off by gamma_K; u = 2^-23 allows for devices that truncate.
        let factor = 2.0 * gamma(self.shape.k, f64::from(f32::EPSILON)) as f32;
        let tolerance = scale.iter().map(|s| s * factor).collect();
        let candidate = Candidate {
            backend: Backend::Cpu,
            gflops: gflops(self.shape, best),
            elapsed: start.elapsed(),
            rejected: None,
        };
        Ok((candidate, Expected { product, tolerance }))
    }

    /// Runs on the CPU for about `time`, once at least: the fastest run, and the product.
    fn run_cpu(&self, time: Duration) -> Result<(Duration, Vec<f32>), KernelError> {
        let start = Instant::now();
        let mut best = Duration::MAX;
        loop {
            let run = Instant::now();
            let product = cpu::matmul(self.shape, Operands::F32 { a: &self.a, bt: &self.bt })?;
            best = best.min(run.elapsed());
            if start.elapsed() >= time {
                return Ok((best, floats(product)));
            }
        }
    }

    async fn time_gpu(&self, gpu: &Gpu, variant: Variant, expected: &Expected) -> Candidate {
        let start = Instant::now();
        let (gflops, rejected) = match self.try_gpu(gpu, variant, expected).await {
            Ok(gflops) => (gflops, None),
            Err(reason) => (0.0, Some(reason)),
        };
        Candidate { backend: Backend::Gpu(variant), gflops, elapsed: start.elapsed(), rejected }
    }

    async fn try_gpu(&self, gpu: &Gpu, variant: Variant, expected: &Expected) -> Result<f64, String> {
        let never = AtomicBool::new(false);
        let operands = Operands::F32 { a: &self.a, bt: &self.bt };
        let product = gpu.upload(self.shape, operands, variant).await.map_err(|e| e.to_string())?;
        // What the kernel leaves out shows as NaN.
        gpu.fill_output(&product, f32::NAN.to_bits());
        let result = floats(gpu.run_and_read(&product, &never).await.map_err(|e| e.to_string())?);
        let wrong =
            result.iter().zip(&expected.product).zip(&expected.tolerance).position(|((x, y), tolerance)| {
                let error = (x - y).abs();
                error.is_nan() || error > *tolerance
            });
        if let Some(at) = wrong {
            return Err(format!("element {at} is {}, expected {}", result[at], expected.product[at]));
        }
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            let run = Instant::now();
            gpu.run_and_read(&product, &never).await.map_err(|e| e.to_string())?;
            best = best.min(run.elapsed());
        }
        if best >= MIN_TIMED_RUN {
            return Ok(gflops(self.shape, best));
        }
        self.time_tall(gpu, variant).await.map_err(|e| e.to_string())
    }

    /// A fast GPU: the same kernel (rows are not part of its text) on many more rows, without the copy back.
    async fn time_tall(&self, gpu: &Gpu, variant: Variant) -> Result<f64, KernelError> {
        let never = AtomicBool::new(false);
        let shape = MatmulShape { m: MAX_TIMED_ROWS, ..self.shape };
        let a = self.a.repeat((MAX_TIMED_ROWS / self.shape.m) as usize);
        let product = gpu.upload(shape, Operands::F32 { a: &a, bt: &self.bt }, variant).await?;
        gpu.run(&product, &never).await?;
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            let run = Instant::now();
            gpu.run(&product, &never).await?;
            best = best.min(run.elapsed());
        }
        Ok(gflops(shape, best))
    }
}

fn floats(output: Output) -> Vec<f32> {
    match output {
        Output::F32(v) => v,
        Output::I32(_) => Vec::new(),
    }
}

fn gflops(shape: MatmulShape, time: Duration) -> f64 {
    shape.flops() as f64 / time.as_secs_f64().max(1e-9) / 1e9
}
