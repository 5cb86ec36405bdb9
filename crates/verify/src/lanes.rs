//! Vector arithmetic of the f32 check, written so that the compiler vectorizes it for whatever instruction set
//! it is dispatched to.
//!
//! Determinism: each sum runs over [`LANES`] interleaved partial sums that are added in a fixed order, so the
//! vector width does not matter. A fused multiply-add gives the same bits as a product and a sum where the
//! product is exact in f64, and here it always is: 24 bits times at most 29.
#![expect(clippy::inline_always, reason = "see `Job`")]

use crate::params::PROBES;

/// Partial sums of each sum. Two AVX2 registers of f64, or one AVX-512 register.
pub(crate) const LANES: usize = 8;

/// One f32, little-endian, at any address.
pub(crate) type F32 = [u8; 4];
pub(crate) type Sums = [f64; LANES];

/// Work for vector units. Its body, and all that it calls in loops, must be `#[inline(always)]`: only what is
/// inlined into the dispatched function is compiled for that function's instruction set. A closure handed to
/// `map` and its like counts as a call, unless it is small.
pub(crate) trait Job {
    type Output;
    /// `FUSED`: fused multiply-add is one instruction (where it is not, it would be a slow call).
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// Runs a job with the best instruction set of this machine.
pub(crate) fn dispatch<J: Job>(job: J) -> J::Output {
    let arch = pulp::Arch::new();
    if has_fma(arch) { arch.dispatch(On::<J, true>(job)) } else { arch.dispatch(On::<J, false>(job)) }
}

struct On<J, const FUSED: bool>(J);

impl<J: Job, const FUSED: bool> pulp::WithSimd for On<J, FUSED> {
    type Output = J::Output;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> J::Output {
        self.0.run::<FUSED>()
    }
}

fn has_fma(arch: pulp::Arch) -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) && !matches!(arch, pulp::Arch::Scalar)
}

/// The elements of a row of bytes. Rows have whole elements: `operand::rows` cuts them so.
#[inline(always)]
pub(crate) fn elements(row: &[u8]) -> &[F32] {
    row.as_chunks().0
}

#[inline(always)]
pub(crate) fn value(bytes: F32) -> f64 {
    f64::from(f32::from_le_bytes(bytes))
}

/// x·y + z where x·y is exact in f64.
#[inline(always)]
fn exact_mul_add<const FUSED: bool>(x: f64, y: f64, z: f64) -> f64 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

#[inline(always)]
fn total(sums: &Sums) -> f64 {
    let [a, b, c, d, e, f, g, h] = *sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The row cut into blocks of [`LANES`], and the rest padded with zeros.
#[inline(always)]
fn blocks(row: &[F32]) -> (&[[F32; LANES]], [F32; LANES]) {
    let (body, rest) = row.as_chunks();
    let mut tail = [[0; 4]; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    (body, tail)
}

/// The sum of squares of a row, over four sets of partial sums, so that no addition waits for the one before.
#[inline(always)]
pub(crate) fn squares<const FUSED: bool>(row: &[F32]) -> f64 {
    let mut sums = [[0.0; LANES]; 4];
    let (body, tail) = blocks(row);
    let (groups, rest) = body.as_chunks::<4>();
    for [a, b, c, d] in groups {
        square_block::<FUSED>(a, &mut sums[0]);
        square_block::<FUSED>(b, &mut sums[1]);
        square_block::<FUSED>(c, &mut sums[2]);
        square_block::<FUSED>(d, &mut sums[3]);
    }
    for block in rest {
        square_block::<FUSED>(block, &mut sums[0]);
    }
    square_block::<FUSED>(&tail, &mut sums[1]);
    // Else the compiler arranges the loop for the last few additions below, and transposes every block.
    let sums = std::hint::black_box(sums);
    (total(&sums[0]) + total(&sums[1])) + (total(&sums[2]) + total(&sums[3]))
}

#[inline(always)]
fn square_block<const FUSED: bool>(block: &[F32; LANES], sums: &mut Sums) {
    for l in 0..LANES {
        let v = value(block[l]);
        sums[l] = exact_mul_add::<FUSED>(v, v, sums[l]);
    }
}

/// Adds x[r] times row r to y for each probe. Exact products: each x has at most
/// 29 significant bits.
///
/// Shapes: y has as many blocks as a row has, the last one padded.
#[inline(always)]
pub(crate) fn add_scaled<const FUSED: bool, const R: usize>(
    rows: [&[F32]; R],
    x: [[f64; R]; PROBES],
    y: &mut [Vec<Sums>; PROBES],
) {
    let parts = rows.map(blocks);
    let count = parts[0].0.len();
    let bodies = parts.map(|(body, _)| &body[..count]);
    let [y0, y1] = y;
    let (y0, rest0) = y0.split_at_mut(count);
    let (y1, rest1) = y1.split_at_mut(count);
    for (i, (y0, y1)) in y0.iter_mut().zip(y1).enumerate() {
        let (mut s0, mut s1) = (*y0, *y1);
        for r in 0..R {
            add_block::<FUSED>(&bodies[r][i], [x[0][r], x[1][r]], &mut s0, &mut s1);
        }
        (*y0, *y1) = (s0, s1);
    }
    if let ([y0, ..], [y1, ..]) = (rest0, rest1) {
        for r in 0..R {
            add_block::<FUSED>(&parts[r].1, [x[0][r], x[1][r]], y0, y1);
        }
    }
}

#[inline(always)]
fn add_block<const FUSED: bool>(block: &[F32; LANES], x: [f64; PROBES], s0: &mut Sums, s1: &mut Sums) {
    for l in 0..LANES {
        let v = value(block[l]);
        s0[l] = exact_mul_add::<FUSED>(x[0], v, s0[l]);
        s1[l] = exact_mul_add::<FUSED>(x[1], v, s1[l]);
    }
}

/// Rounds to 29 significant bits, so that the product with an f32 is exact.
#[inline(always)]
pub(crate) fn round_to_29_bits(v: f64) -> f64 {
    const DROPPED: u64 = 1 << 24;
    f64::from_bits((v.to_bits() + DROPPED / 2) & !(DROPPED - 1))
}

/// For `R` rows: the products with each probe's vector and, if asked for, the sum of squares (else 0).
///
/// Exact products: the vectors' elements have at most 29 significant bits.
#[inline(always)]
pub(crate) fn products<const FUSED: bool, const SQUARES: bool, const R: usize>(
    rows: [&[F32]; R],
    y: &[Vec<Sums>; PROBES],
) -> [([f64; PROBES], f64); R] {
    let mut sums = [[[0.0; LANES]; 3]; R];
    let parts = rows.map(blocks);
    let count = parts[0].0.len();
    let bodies = parts.map(|(body, _)| &body[..count]);
    let (y0, rest0) = y[0].split_at(count);
    let (y1, rest1) = y[1].split_at(count);
    for (i, (y0, y1)) in y0.iter().zip(y1).enumerate() {
        for r in 0..R {
            product_block::<FUSED, SQUARES>(&bodies[r][i], y0, y1, &mut sums[r]);
        }
    }
    if let ([y0, ..], [y1, ..]) = (rest0, rest1) {
        for r in 0..R {
            product_block::<FUSED, SQUARES>(&parts[r].1, y0, y1, &mut sums[r]);
        }
    }
    sums.map(|[p0, p1, q]| ([total(&p0), total(&p1)], total(&q)))
}

#[inline(always)]
fn product_block<const FUSED: bool, const SQUARES: bool>(
    block: &[F32; LANES],
    y0: &Sums,
    y1: &Sums,
    sums: &mut [Sums; 3],
) {
    for l in 0..LANES {
        let v = value(block[l]);
        sums[0][l] = exact_mul_add::<FUSED>(v, y0[l], sums[0][l]);
        sums[1][l] = exact_mul_add::<FUSED>(v, y1[l], sums[1][l]);
        if SQUARES {
            sums[2][l] = exact_mul_add::<FUSED>(v, v, sums[2][l]);
        }
    }
}

/// The products of `R` rows with one row. Exact products.
#[inline(always)]
pub(crate) fn dots<const FUSED: bool, const R: usize>(rows: [&[F32]; R], b: &[F32]) -> [f64; R] {
    let mut sums = [[0.0; LANES]; R];
    let (b_body, b_tail) = blocks(b);
    let parts = rows.map(blocks);
    let bodies = parts.map(|(body, _)| &body[..b_body.len()]);
    for (i, b) in b_body.iter().enumerate() {
        for r in 0..R {
            dot_block::<FUSED>(&bodies[r][i], b, &mut sums[r]);
        }
    }
    for r in 0..R {
        dot_block::<FUSED>(&parts[r].1, &b_tail, &mut sums[r]);
    }
    sums.map(|s| total(&s))
}

#[inline(always)]
fn dot_block<const FUSED: bool>(a: &[F32; LANES], b: &[F32; LANES], sums: &mut Sums) {
    for l in 0..LANES {
        sums[l] = exact_mul_add::<FUSED>(value(a[l]), value(b[l]), sums[l]);
    }
}
