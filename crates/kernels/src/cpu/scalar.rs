//! Micro-kernels without intrinsics: the fallback of every platform, in a form that compilers vectorize.

use super::packed::{MR, Micro};
use crate::limits::K_BLOCK;

/// f32, summed in blocks of 32.
#[derive(Default)]
#[cfg_attr(
    all(not(test), any(not(target_arch = "wasm32"), target_feature = "simd128")),
    expect(dead_code, reason = "the fallback of wasm without simd128; unit tests run it everywhere")
)]
pub(super) struct F32;

impl Micro for F32 {
    type Operand = f32;
    type Packed = f32;
    type Acc = f32;
    const PAIR: usize = 1;
    const NR: usize = 8;

    fn pack4(&self, rows: [&[f32]; 4], out: &mut [f32], stride: usize) {
        for (r, row) in rows.iter().enumerate() {
            for (p, x) in row.iter().enumerate() {
                out[p * stride + r] = *x;
            }
        }
    }

    fn multiply(&self, a: &[f32], b: &[f32], tile: &mut [f32]) {
        for (a, b) in a.chunks(K_BLOCK * MR).zip(b.chunks(K_BLOCK * Self::NR)) {
            let mut sums = [[0.0_f32; Self::NR]; MR];
            for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<{ Self::NR }>().0) {
                for r in 0..MR {
                    for c in 0..Self::NR {
                        sums[r][c] += a[r] * b[c];
                    }
                }
            }
            for (t, s) in tile.iter_mut().zip(sums.as_flattened()) {
                *t += s;
            }
        }
    }
}

/// int8, exact: pairs along K widened to 16 bits share one 32-bit element.
#[derive(Default)]
#[cfg_attr(
    all(not(test), target_arch = "wasm32", target_feature = "simd128"),
    expect(dead_code, reason = "only platforms without an int8 kernel of their own use it")
)]
pub(super) struct Int8;

impl Micro for Int8 {
    type Operand = i8;
    type Packed = i32;
    type Acc = i32;
    const PAIR: usize = 2;
    const NR: usize = 8;

    fn pack4(&self, rows: [&[i8]; 4], out: &mut [i32], stride: usize) {
        pack4_pairs(rows, out, stride);
    }

    fn multiply(&self, a: &[i32], b: &[i32], tile: &mut [i32]) {
        let mut sums = [[0_i32; Self::NR]; MR];
        for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<{ Self::NR }>().0) {
            for r in 0..MR {
                for c in 0..Self::NR {
                    // Low and high halves; 2 · 128 · 128 per element and K <= 131,071 keep every sum in range.
                    let low = (a[r] as i16 as i32) * (b[c] as i16 as i32);
                    let high = (a[r] >> 16) * (b[c] >> 16);
                    sums[r][c] = sums[r][c].wrapping_add(low.wrapping_add(high));
                }
            }
        }
        for (t, s) in tile.iter_mut().zip(sums.as_flattened()) {
            *t = t.wrapping_add(*s);
        }
    }
}

/// Packing of all int8 kernels: elements 2p and 2p + 1 of row r, as two i16, go to `out[p * stride + r]`.
pub(super) fn pack4_pairs(rows: [&[i8]; 4], out: &mut [i32], stride: usize) {
    for (r, row) in rows.iter().enumerate() {
        let (pairs, rest) = row.as_chunks::<2>();
        for (p, [low, high]) in pairs.iter().enumerate() {
            out[p * stride + r] = pair(*low, *high);
        }
        if let [last] = rest {
            out[pairs.len() * stride + r] = pair(*last, 0);
        }
    }
}

fn pair(low: i8, high: i8) -> i32 {
    (i32::from(low) & 0xffff) | (i32::from(high) << 16)
}

#[cfg(test)]
mod tests {
    use super::super::packed::Packed;
    use super::*;
    use crate::reference::{abs_matmul_nt_f64, gamma, matmul_nt_f64, matmul_nt_i64};
    use potluck_types::MatmulShape;
    use std::time::Duration;

    /// The fallback runs on few machines, so it is tested on all, through the same loop as the others.
    #[test]
    fn fallback_kernels_agree_with_the_reference() {
        for (m, k, n) in [(1, 1, 1), (3, 33, 9), (67, 515, 21), (130, 64, 8)] {
            let shape = MatmulShape { m, k, n };
            let wave =
                |count: u32, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
            let (a, bt) = (wave(m * k, 0.7), wave(n * k, 1.3));
            let mut job = Packed::<F32>::new(shape, &a, &bt, vec![f32::NAN; (m * n) as usize]);
            while job.step(Duration::ZERO) != super::super::Progress::Finished {}
            let (exact, scale) =
                (matmul_nt_f64(shape, &a, &bt).unwrap(), abs_matmul_nt_f64(shape, &a, &bt).unwrap());
            for ((got, want), scale) in job.into_output().iter().zip(&exact).zip(&scale) {
                assert!((*got as f64 - want).abs() <= gamma(k, 2.0_f64.powi(-24)) * scale, "{shape:?}");
            }
            let bytes = |count: u32, step: u32| {
                (0..count).map(|i| ((i * step) as u8).cast_signed()).collect::<Vec<_>>()
            };
            let (a, bt) = (bytes(m * k, 37), bytes(n * k, 101));
            let mut job = Packed::<Int8>::new(shape, &a, &bt, vec![i32::MIN; (m * n) as usize]);
            while job.step(Duration::ZERO) != super::super::Progress::Finished {}
            let exact = matmul_nt_i64(shape, &a, &bt).unwrap();
            assert!(job.into_output().iter().map(|x| i64::from(*x)).eq(exact), "{shape:?}");
        }
    }
}
