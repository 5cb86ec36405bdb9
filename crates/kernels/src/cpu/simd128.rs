//! wasm simd128 micro-kernels: 4 x 8 tiles, plain (not relaxed) instructions, so that every engine gives the same bits.

use std::arch::wasm32::{
    f32x4_add, f32x4_mul, f32x4_splat, i32x4_add, i32x4_dot_i16x8, i32x4_shuffle, i32x4_splat, v128,
    v128_load, v128_load32_splat, v128_store,
};

use super::packed::{MR, Micro};
use super::scalar::pack4_pairs;
use super::tuned;
use crate::limits::K_BLOCK;

/// Columns of both tiles: two vectors.
const NR: usize = 8;

/// f32, summed in blocks of 32 without fused multiply-add.
#[derive(Default)]
pub(super) struct F32;

impl Micro for F32 {
    type Operand = f32;
    type Packed = f32;
    type Acc = f32;
    const PAIR: usize = 1;
    const NR: usize = NR;

    #[expect(clippy::cast_ptr_alignment, reason = "wasm vector accesses need no alignment")]
    fn pack4(&self, rows: [&[f32]; 4], out: &mut [f32], stride: usize) {
        let len = rows[0].len();
        let whole = len / 4 * 4;
        assert!(rows.iter().all(|r| r.len() == len) && (len == 0 || out.len() >= (len - 1) * stride + 4));
        let base = out.as_mut_ptr();
        for p in (0..whole).step_by(4) {
            // SAFETY: p + 4 <= len of every row, and the last store ends at (p + 3) * stride + 4 <= out.len(), both
            // asserted above.
            unsafe {
                let [r0, r1, r2, r3] = rows.map(|r| v128_load(r.as_ptr().add(p).cast::<v128>()));
                let (t0, t1) = (i32x4_shuffle::<0, 4, 1, 5>(r0, r1), i32x4_shuffle::<2, 6, 3, 7>(r0, r1));
                let (t2, t3) = (i32x4_shuffle::<0, 4, 1, 5>(r2, r3), i32x4_shuffle::<2, 6, 3, 7>(r2, r3));
                let to = |q: usize| base.add((p + q) * stride).cast::<v128>();
                v128_store(to(0), i32x4_shuffle::<0, 1, 4, 5>(t0, t2));
                v128_store(to(1), i32x4_shuffle::<2, 3, 6, 7>(t0, t2));
                v128_store(to(2), i32x4_shuffle::<0, 1, 4, 5>(t1, t3));
                v128_store(to(3), i32x4_shuffle::<2, 3, 6, 7>(t1, t3));
            }
        }
        for p in whole..len {
            for r in 0..4 {
                out[p * stride + r] = rows[r][p];
            }
        }
    }

    fn multiply(&self, a: &[f32], b: &[f32], tile: &mut [f32]) {
        tuned::multiply(a, b, tile);
    }
}

/// The same in the compiler's words.
pub(super) fn multiply_f32(a: &[f32], b: &[f32], tile: &mut [f32]) {
    let Some(tile) = tile.first_chunk_mut::<{ MR * NR }>() else { return };
    let (a, b) = (a.as_chunks::<MR>().0, b.as_chunks::<NR>().0);
    for (a, b) in a.chunks(K_BLOCK).zip(b.chunks(K_BLOCK)) {
        let mut sums = [[f32x4_splat(0.0); 2]; MR];
        for (a, b) in a.iter().zip(b) {
            let (b0, b1) = load2(b);
            for r in 0..MR {
                let x = splat(&a[r]);
                sums[r][0] = f32x4_add(sums[r][0], f32x4_mul(x, b0));
                sums[r][1] = f32x4_add(sums[r][1], f32x4_mul(x, b1));
            }
        }
        for (t, [s0, s1]) in tile.as_chunks_mut::<NR>().0.iter_mut().zip(sums) {
            let (t0, t1) = load2(t);
            store2(t, f32x4_add(t0, s0), f32x4_add(t1, s1));
        }
    }
}

/// int8, exact: `i32x4.dot_i16x8_s` multiplies pairs along K and adds them.
#[derive(Default)]
pub(super) struct Int8;

impl Micro for Int8 {
    type Operand = i8;
    type Packed = i32;
    type Acc = i32;
    const PAIR: usize = 2;
    const NR: usize = NR;

    fn pack4(&self, rows: [&[i8]; 4], out: &mut [i32], stride: usize) {
        pack4_pairs(rows, out, stride);
    }

    fn multiply(&self, a: &[i32], b: &[i32], tile: &mut [i32]) {
        let Some(tile) = tile.first_chunk_mut::<{ MR * NR }>() else { return };
        let mut sums = [[i32x4_splat(0); 2]; MR];
        for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<NR>().0) {
            let (b0, b1) = load2(b);
            for r in 0..MR {
                let x = splat(&a[r]);
                sums[r][0] = i32x4_add(sums[r][0], i32x4_dot_i16x8(x, b0));
                sums[r][1] = i32x4_add(sums[r][1], i32x4_dot_i16x8(x, b1));
            }
        }
        for (t, [s0, s1]) in tile.as_chunks_mut::<NR>().0.iter_mut().zip(sums) {
            let (t0, t1) = load2(t);
            store2(t, i32x4_add(t0, s0), i32x4_add(t1, s1));
        }
    }
}

/// A 32-bit lane, so that the helpers below cannot be given elements of another width.
trait Lane: Copy {}
impl Lane for f32 {}
impl Lane for i32 {}

fn load2<T: Lane>(from: &[T; NR]) -> (v128, v128) {
    let p = from.as_ptr().cast::<v128>();
    // SAFETY: eight 32-bit elements are two vectors; wasm vector loads need no alignment.
    unsafe { (v128_load(p), v128_load(p.add(1))) }
}

fn store2<T: Lane>(to: &mut [T; NR], low: v128, high: v128) {
    let p = to.as_mut_ptr().cast::<v128>();
    // SAFETY: as in `load2`, and the array is exclusively borrowed.
    unsafe {
        v128_store(p, low);
        v128_store(p.add(1), high);
    }
}

fn splat<T: Lane>(from: &T) -> v128 {
    // SAFETY: a 32-bit element is read; no alignment is needed.
    unsafe { v128_load32_splat(std::ptr::from_ref(from).cast::<u32>()) }
}
