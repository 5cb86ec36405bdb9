//! What a check costs against recomputing, on one core: `cargo run --release -p potluck-verify --example cost`.
//!
//! Times are the best of several interleaved runs on warm data, so that a busy machine disturbs both alike.

use potluck_types::{BlobHash, MatmulShape};
use potluck_verify::{Params, Report, Secret, check_f32, check_int8, probe_seed};
use std::time::Instant;

fn main() {
    let seed = probe_seed(&Secret([1; 32]), &BlobHash([2; 32]));
    let params = Params::default();
    println!("   n   gemm ms  GFLOP/s   f32 check ms  ratio   int8 check ms  ratio to gemm");
    for n in [256usize, 512, 1024, 2048] {
        let shape = MatmulShape { m: n as u32, k: n as u32, n: n as u32 };
        let a = numbers(n * n, 1);
        let bt = numbers(n * n, 2);
        let mut c = vec![0.0f32; n * n];
        let (ia, ibt) = (small(n * n, 3), small(n * n, 4));
        let ic = int_product(n, &ia, &ibt);
        let [mut product, mut float, mut int] = [f64::INFINITY; 3];
        for _ in 0..(20_000 / n).clamp(7, 40) {
            product = product.min(time(|| multiply(n, &a, &bt, &mut c)));
            let check = || check_f32(shape, &a, &bt, &c, &seed, &params, false);
            float = float.min(time(|| assert!(check().is_ok_and(|r: Report| r.accepted()))));
            let check = || check_int8(shape, &ia, &ibt, &ic, &seed, &params);
            int = int.min(time(|| assert!(check().is_ok_and(|r: Report| r.accepted()))));
        }
        println!(
            "{n:>4} {:>9.3} {:>8.1} {:>14.3} {:>6.1} {:>15.3} {:>6.1}",
            product * 1e3,
            shape.flops() as f64 / product / 1e9,
            float * 1e3,
            product / float,
            int * 1e3,
            product / int
        );
    }
}

/// Seconds that `f` takes.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Deterministic numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    words(len, seed).map(|w| ((w >> 40) as f32) / (1 << 23) as f32 - 1.0).collect()
}

fn small(len: usize, seed: u64) -> Vec<i8> {
    words(len, seed).map(|w| (w >> 56) as i8).collect()
}

fn words(len: usize, seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    (0..len).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    })
}

fn int_product(n: usize, a: &[i8], bt: &[i8]) -> Vec<i32> {
    let row = |a: &[i8], b: &[i8]| a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
    a.chunks_exact(n).flat_map(|a| bt.chunks_exact(n).map(move |b| row(a, b))).collect()
}

/// C = A·B on one core with crate `gemm`, the fastest kernel natively.
#[expect(unsafe_code, reason = "gemm's interface takes raw pointers")]
fn multiply(n: usize, a: &[f32], bt: &[f32], c: &mut [f32]) {
    let s = n as isize;
    assert!(a.len() == n * n && bt.len() == n * n && c.len() == n * n);
    // SAFETY: all three are n x n, with the strides given, and C does not overlap the others.
    unsafe {
        gemm::gemm(
            n,
            n,
            n,
            c.as_mut_ptr(),
            1,
            s,
            false,
            a.as_ptr(),
            1,
            s,
            bt.as_ptr(),
            s,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
