//! What a check costs against recomputing, on one core: `cargo run --release -p potluck-verify --example cost`.
//!
//! Times are the best of several interleaved runs on warm data, so that a busy machine disturbs both alike.

use potluck_kernels::{CpuJob, Operands, Output};
use potluck_types::{BlobHash, DType, MatmulShape};
use potluck_verify::{Params, Product, Secret, check_bytes, probe_seed};
use std::time::Instant;

fn main() {
    println!("dtype     n  product ms  GOP/s  check ms  ratio");
    for dtype in [DType::F32, DType::Int8] {
        for n in [256usize, 512, 1024, 2048] {
            let (product, check) = measure(dtype, n);
            println!(
                "{dtype:<5} {n:>5} {:>11.3} {:>6.1} {:>9.3} {:>6.1}",
                product * 1e3,
                2.0 * (n as f64).powi(3) / product / 1e9,
                check * 1e3,
                product / check
            );
        }
    }
}

/// Seconds of the product and of its check.
fn measure(dtype: DType, n: usize) -> (f64, f64) {
    let seed = probe_seed(&Secret([1; 32]), &BlobHash([2; 32]));
    let shape = MatmulShape { m: n as u32, k: n as u32, n: n as u32 };
    let (fa, fbt) = (floats(n * n, 1), floats(n * n, 2));
    let (ia, ibt) = (integers(n * n, 3), integers(n * n, 4));
    let operands = match dtype {
        DType::F32 => Operands::F32 { a: &fa, bt: &fbt },
        DType::Int8 => Operands::Int8 { a: &ia, bt: &ibt },
    };
    let (a, bt): (&[u8], &[u8]) = match dtype {
        DType::F32 => (bytemuck::cast_slice(&fa), bytemuck::cast_slice(&fbt)),
        DType::Int8 => (bytemuck::cast_slice(&ia), bytemuck::cast_slice(&ibt)),
    };
    let claim = Product { dtype, shape, a: &[a], bt: &[bt] };
    let mut out = match dtype {
        DType::F32 => Output::F32(vec![0.0; n * n]),
        DType::Int8 => Output::I32(vec![0; n * n]),
    };
    let (mut product, mut check) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..(20_000 / n).clamp(9, 40) {
        let (seconds, result) = time(|| CpuJob::with_output(shape, operands, out).map(CpuJob::finish));
        product = product.min(seconds);
        out = match result {
            Ok(result) => result,
            Err(error) => panic!("the product failed: {error}"),
        };
        let c: &[u8] = match &out {
            Output::F32(c) => bytemuck::cast_slice(c),
            Output::I32(c) => bytemuck::cast_slice(c),
        };
        let (seconds, report) = time(|| check_bytes(&claim, c, &seed, &Params::default(), false));
        check = check.min(seconds);
        assert!(report.is_ok_and(|r| r.accepted()), "an honest product must pass");
    }
    (product, check)
}

/// Seconds that `f` takes, and what it gives.
fn time<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed().as_secs_f64(), value)
}

/// Deterministic numbers in [-1, 1).
fn floats(len: usize, seed: u64) -> Vec<f32> {
    words(len, seed).map(|w| ((w >> 40) as f32) / (1 << 23) as f32 - 1.0).collect()
}

fn integers(len: usize, seed: u64) -> Vec<i8> {
    words(len, seed).map(|w| (w >> 56) as i8).collect()
}

fn words(len: usize, seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    (0..len).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    })
}
