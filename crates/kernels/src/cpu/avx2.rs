//! int8 on AVX2: `vpmaddwd` multiplies pairs along K and adds them, exactly.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::packed::{MR, Micro};
use super::scalar::pack4_pairs;

/// Proof that the CPU has AVX2, and the kernel.
pub(super) struct Int8(());

impl Int8 {
    /// `None` where the CPU lacks AVX2.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Micro for Int8 {
    type Operand = i8;
    type Packed = i32;
    type Acc = i32;
    const PAIR: usize = 2;
    const NR: usize = 16;

    fn pack4(&self, rows: [&[i8]; 4], out: &mut [i32], stride: usize) {
        pack4_pairs(rows, out, stride);
    }

    fn multiply(&self, a: &[i32], b: &[i32], tile: &mut [i32]) {
        let Some(tile) = tile.first_chunk_mut::<{ MR * Self::NR }>() else { return };
        let (a, b) = (a.as_chunks::<MR>().0, b.as_chunks::<{ Self::NR }>().0);
        // SAFETY: a value of this type exists only where `detect` saw AVX2.
        unsafe { multiply(a, b, tile) }
    }
}

#[target_feature(enable = "avx2")]
#[expect(clippy::cast_ptr_alignment, reason = "the unaligned store asks for no alignment")]
fn multiply(a: &[[i32; MR]], b: &[[i32; Int8::NR]], tile: &mut [i32; MR * Int8::NR]) {
    let mut sums = [[_mm256_setzero_si256(); 2]; MR];
    for (a, b) in a.iter().zip(b) {
        let [b0, b1] = b.as_chunks::<8>().0 else { return };
        let (b0, b1) = (load(b0), load(b1));
        for r in 0..MR {
            let x = _mm256_set1_epi32(a[r]);
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(x, b0));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(x, b1));
        }
    }
    for (t, s) in tile.as_chunks_mut::<8>().0.iter_mut().zip(sums.as_flattened()) {
        let sum = _mm256_add_epi32(load(t), *s);
        // SAFETY: `t` has eight i32, the 32 bytes that are stored; no alignment is needed.
        unsafe { _mm256_storeu_si256(std::ptr::from_mut(t).cast::<__m256i>(), sum) }
    }
}

#[target_feature(enable = "avx2")]
#[expect(clippy::cast_ptr_alignment, reason = "the unaligned load asks for no alignment")]
fn load(from: &[i32; 8]) -> __m256i {
    // SAFETY: the array has eight i32, the 32 bytes that are read; no alignment is needed.
    unsafe { _mm256_loadu_si256(std::ptr::from_ref(from).cast::<__m256i>()) }
}
