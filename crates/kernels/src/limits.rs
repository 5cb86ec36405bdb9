//! Named limits and tunables of the kernels, each with its unit and its reason.

use std::time::Duration;

/// Elements that are summed before they are added to the accumulator (along K).
///
/// Error grows with the longest chain of additions: blocks of 32 make the rigorous bound for K = 1024 about
/// 16 times smaller than one running sum and cost one addition in 33.
pub const K_BLOCK: usize = 32;

/// Deepest int8 product whose sums always fit in i32: 131,071 · 128 · 128 < 2^31.
pub const MAX_INT8_DEPTH: u32 = 131_071;

/// Elements of one operand or of the result: 2^28, 1 GiB of f32. A tab's memory ends at 4 GiB.
pub const MAX_ELEMENTS: u64 = 1 << 28;

/// What one step of a [`crate::cpu::CpuJob`] should take, so that its caller can yield, draw and notice Stop.
pub const STEP_TARGET: Duration = Duration::from_millis(10);

/// What one GPU dispatch should take, so that a desktop that draws on the same GPU does not stutter.
pub const DISPATCH_TARGET: Duration = Duration::from_millis(10);

/// The same on a software adapter: it draws nothing that could stutter, and shorter dispatches leave its cores idle at
/// their ends. What is queued when a person clicks on Stop runs to its end, [`MAX_BANDS_IN_FLIGHT`] of these, and all
/// has to rest after 250 ms.
pub const SOFTWARE_DISPATCH_TARGET: Duration = Duration::from_millis(40);

/// Rate that is assumed of a kernel nobody has timed yet, in FLOP/s. The first band is then 10 ms even on a
/// software adapter at its slowest, and on a fast GPU the second band is already of the right size.
pub const ASSUMED_FLOPS: f64 = 2.0e9;

/// A band grows at most this much from one to the next, so that one lucky timing cannot make a long dispatch.
pub const MAX_BAND_GROWTH: f64 = 8.0;

/// Dispatches that are queued at once: the next waits behind the one that runs, so no round trip is idle.
pub const MAX_BANDS_IN_FLIGHT: usize = 2;

/// Compiled pipelines that are kept. A job has one depth, and another where K ends, times the kernels and dtypes in use.
pub const MAX_PIPELINES: usize = 16;

/// Bytes of idle GPU buffers that are kept for the next product.
pub const MAX_POOLED_BYTES: u64 = 128 << 20;

/// Idle GPU buffers that are kept for the next product.
pub const MAX_POOLED_BUFFERS: usize = 24;

/// A submission that takes this long is given up (native only; a browser loses the device by itself).
pub const SUBMISSION_TIMEOUT: Duration = Duration::from_secs(20);

/// All of calibration, shader compilation included. No candidate starts after it; one that runs is finished.
pub const CALIBRATION_BUDGET: Duration = Duration::from_millis(700);

/// Side of the square product that calibration times: 33.6 MFLOP, 1 ms of wasm SIMD, 5 ms of a software adapter.
pub const CALIBRATION_SIDE: u32 = 256;

/// The large tiles are compiled only where the direct kernel reaches this fraction of the CPU's rate: on a software
/// adapter (a seventh to a tenth of it) compiling them takes seconds.
pub const LARGE_TILE_MIN_RATIO: f64 = 0.5;

/// Further direct kernels are tried only where the first reaches this fraction of the CPU's rate, unless the user
/// wants the GPU: they differ by a factor of two at most.
pub const OTHER_DIRECT_MIN_RATIO: f64 = 0.3;
