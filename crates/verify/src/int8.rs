//! The exact check of int8 x int8 -> int32 products: no tolerance, no modulus but the machine's.
//!
//! x_j is uniform in u64, y = Bx, z = Ay - Cx in wrapping u64; the result stands iff z = 0 in every row for
//! both probes. Soundness: let d = c_ij - c'_ij be the error of a wrong element, |d| < 2^32 and d ≠ 0, so 2^32
//! does not divide d. Given all other probe entries, z_i = 0 needs d · x_j = t (mod 2^64) for one fixed t,
//! which at most 2^v of the 2^64 values of x_j solve, where 2^v is the largest power of two that divides d:
//! v <= 31, a chance of 2^-33 a probe at most, and 2^-66 for both. K <= 131,071 keeps the true sum in i32.
//!
//! Vector units have no 64 x 64-bit product worth using, so numbers are split as v = high · 2^32 + low with low
//! a *signed* 32-bit number and high modulo 2^32: then low needs the widening 32 x 32 -> 64 product, high only
//! the 32-bit one, and sums of both are exact modulo 2^64 and 2^32. Drawing low and high independently and
//! uniformly draws v uniformly.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

use crate::Product;
use crate::error::CheckError;
use crate::lanes::{Job, dispatch};
use crate::operand::{dimensions, rows};
use crate::params::{PROBES, Params};
use crate::report::{RejectReason, Report, Verdict};
use crate::secret::ProbeSeed;
use potluck_types::{DType, MatmulShape};

/// Deepest product whose sums of (-128)² fit in i32.
pub(crate) const MAX_DEPTH: u32 = 131_071;

/// Checks an int8 product that lies in memory as numbers. See [`crate::check_bytes`] for panels of bytes.
///
/// Shapes: `a` is M x K, `bt` is B transposed, N x K, `c` is M x N; all row-major. No parameter of [`Params`]
/// matters to an exact check; it is taken for symmetry with [`crate::check_f32`].
///
/// # Errors
/// [`CheckError`] if the operands are not what the shape says, or K > 131,071.
pub fn check_int8(
    shape: MatmulShape,
    a: &[i8],
    bt: &[i8],
    c: &[i32],
    seed: &ProbeSeed,
    _params: &Params,
) -> Result<Report, CheckError> {
    let bytes = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let product =
        Product { dtype: DType::Int8, shape, a: &[bytemuck::cast_slice(a)], bt: &[bytemuck::cast_slice(bt)] };
    if cfg!(target_endian = "little") {
        check(&product, bytemuck::cast_slice(c), seed)
    } else {
        check(&product, &bytes(c), seed)
    }
}

/// Elements side by side in a block: one AVX2 register of i32.
const LANES: usize = 8;
/// Rows that share one pass over a vector.
const GROUP: usize = 4;

/// An integer as it lies in a blob.
trait Element: Copy + Default {
    fn value(self) -> i32;
}

impl Element for u8 {
    #[inline(always)]
    fn value(self) -> i32 {
        i32::from(self.cast_signed())
    }
}

impl Element for [u8; 4] {
    #[inline(always)]
    fn value(self) -> i32 {
        i32::from_le_bytes(self)
    }
}

/// A vector over Z/2^64 in blocks, padded with zeros: low as i64 while it is summed, and in i32 afterwards.
#[derive(Clone)]
struct Vector<L> {
    low: Vec<[L; LANES]>,
    high: Vec<[i32; LANES]>,
}

impl<L: Copy + Default> Vector<L> {
    fn zeros(len: usize) -> Self {
        let blocks = len.div_ceil(LANES);
        Self { low: vec![[L::default(); LANES]; blocks], high: vec![[0; LANES]; blocks] }
    }
}

impl Vector<i32> {
    /// Splits a number into its halves. For uniform numbers the halves are independent and uniform.
    #[inline(always)]
    fn set(&mut self, index: usize, v: u64) {
        let low = v as i32;
        self.low[index / LANES][index % LANES] = low;
        self.high[index / LANES][index % LANES] = (v.wrapping_sub(i64::from(low) as u64) >> 32) as i32;
    }
}

/// The number with these halves, modulo 2^64.
#[inline(always)]
fn join(low: i64, high: i32) -> u64 {
    (u64::from(high as u32) << 32).wrapping_add(low as u64)
}

#[inline(always)]
fn blocks<E: Element>(row: &[E]) -> (&[[E; LANES]], [E; LANES]) {
    let (body, rest) = row.as_chunks();
    let mut tail = [E::default(); LANES];
    tail[..rest.len()].copy_from_slice(rest);
    (body, tail)
}

/// y += Σ x[r] · row r, for one probe and rows of B transposed.
#[inline(always)]
fn add_scaled<const R: usize>(rows: [&[u8]; R], x: [(i32, i32); R], y: &mut Vector<i64>) {
    let parts = rows.map(blocks);
    let count = parts[0].0.len();
    let bodies = parts.map(|(body, _)| &body[..count]);
    let (low, low_rest) = y.low.split_at_mut(count);
    let (high, high_rest) = y.high.split_at_mut(count);
    for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
        let (mut sum_low, mut sum_high) = (*low, *high);
        for r in 0..R {
            add_block(&bodies[r][i], x[r], &mut sum_low, &mut sum_high);
        }
        (*low, *high) = (sum_low, sum_high);
    }
    if let ([low, ..], [high, ..]) = (low_rest, high_rest) {
        for r in 0..R {
            add_block(&parts[r].1, x[r], low, high);
        }
    }
}

#[inline(always)]
fn add_block(block: &[u8; LANES], x: (i32, i32), low: &mut [i64; LANES], high: &mut [i32; LANES]) {
    for l in 0..LANES {
        let v = block[l].value();
        low[l] = low[l].wrapping_add(i64::from(v) * i64::from(x.0));
        high[l] = high[l].wrapping_add(v.wrapping_mul(x.1));
    }
}

/// The product of a row with each probe's vector, modulo 2^64.
#[inline(always)]
fn products<E: Element>(row: &[E], y: &[Vector<i32>; PROBES]) -> [u64; PROBES] {
    let (body, tail) = blocks(row);
    let mut low = [[0; LANES]; PROBES];
    let mut high = [[0; LANES]; PROBES];
    let count = body.len();
    let bodies = y.each_ref().map(|y| (&y.low[..count], &y.high[..count]));
    for (i, block) in body.iter().enumerate() {
        for p in 0..PROBES {
            product_block(block, &bodies[p].0[i], &bodies[p].1[i], &mut low[p], &mut high[p]);
        }
    }
    for p in 0..PROBES {
        if let (Some(l), Some(h)) = (y[p].low.get(count), y[p].high.get(count)) {
            product_block(&tail, l, h, &mut low[p], &mut high[p]);
        }
    }
    let mut sums = [0u64; PROBES];
    for p in 0..PROBES {
        for l in 0..LANES {
            sums[p] = sums[p].wrapping_add(join(low[p][l], high[p][l]));
        }
    }
    sums
}

#[inline(always)]
fn product_block<E: Element>(
    block: &[E; LANES],
    y_low: &[i32; LANES],
    y_high: &[i32; LANES],
    low: &mut [i64; LANES],
    high: &mut [i32; LANES],
) {
    for l in 0..LANES {
        let v = block[l].value();
        low[l] = low[l].wrapping_add(i64::from(v) * i64::from(y_low[l]));
        high[l] = high[l].wrapping_add(v.wrapping_mul(y_high[l]));
    }
}

/// The int8 check on panels of bytes.
pub(crate) fn check(product: &Product<'_>, c: &[u8], seed: &ProbeSeed) -> Result<Report, CheckError> {
    let [m, k, n] = dimensions(product.shape, MAX_DEPTH)?;
    let a = rows("A", product.a, m, k)?;
    let bt = rows("B transposed", product.bt, n, k)?;
    let (expected, found) = (4 * m as u64 * n as u64, c.len() as u64);
    if found != expected {
        return Ok(Report::rejected(RejectReason::WrongLength { expected, found }));
    }
    Ok(dispatch(Check { a: &a, bt: &bt, c, seed }))
}

/// The arithmetic of a check.
struct Check<'a> {
    a: &'a [&'a [u8]],
    bt: &'a [&'a [u8]],
    c: &'a [u8],
    seed: &'a ProbeSeed,
}

impl Job for Check<'_> {
    type Output = Report;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> Report {
        run(self.a, self.bt, self.c, self.seed)
    }
}

#[inline(always)]
fn run(a: &[&[u8]], bt: &[&[u8]], c: &[u8], seed: &ProbeSeed) -> Report {
    let (k, n) = (bt[0].len(), bt.len());
    let words = seed.words("int8 probes", PROBES * n);
    let mut x = [(); PROBES].map(|()| Vector::<i32>::zeros(n));
    for (i, &word) in words.iter().enumerate() {
        x[i % PROBES].set(i / PROBES, word);
    }
    // Not `map`: what is called through it is not compiled for the dispatched instruction set.
    let y = [multiply(bt, &x[0]), multiply(bt, &x[1])];
    let mut report = Report { work: (PROBES * n * k) as u64, ..Report::default() };
    for (row, (a, c)) in a.iter().zip(c.chunks_exact(4 * n)).enumerate() {
        let c = c.as_chunks().0;
        report.work += (PROBES * (k + n)) as u64;
        if products(a, &y) == products(c, &x) {
            continue;
        }
        // Some element of this row is wrong: name it.
        report.flagged_rows = 1;
        report.recomputed_rows = 1;
        for (col, (b, &found)) in bt.iter().zip(c).enumerate() {
            let expected: i32 = a.iter().zip(*b).map(|(&a, &b)| a.value() * b.value()).sum();
            report.work += k as u64;
            let found = found.value();
            if found != expected {
                report.verdict = Verdict::Rejected(RejectReason::Int8Mismatch { row, col, found, expected });
                return report;
            }
        }
    }
    report
}

/// Bx modulo 2^64.
#[inline(always)]
fn multiply(bt: &[&[u8]], x: &Vector<i32>) -> Vector<i32> {
    let k = bt[0].len();
    let mut sums = Vector::<i64>::zeros(k);
    let at = |j: usize| (x.low[j / LANES][j % LANES], x.high[j / LANES][j % LANES]);
    let (groups, rest) = bt.as_chunks::<GROUP>();
    for (group, rows) in groups.iter().enumerate() {
        add_scaled::<GROUP>(*rows, std::array::from_fn(|r| at(GROUP * group + r)), &mut sums);
    }
    for (i, row) in rest.iter().enumerate() {
        add_scaled::<1>([row], [at(GROUP * groups.len() + i)], &mut sums);
    }
    let mut y = Vector::<i32>::zeros(k);
    for index in 0..k {
        y.set(index, join(sums.low[index / LANES][index % LANES], sums.high[index / LANES][index % LANES]));
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Secret, probe_seed};
    use potluck_types::BlobHash;

    #[test]
    fn vectors_are_summed_modulo_2_64() {
        let (n, k) = (23, 45);
        let words = probe_seed(&Secret([3; 32]), &BlobHash([4; 32])).words("test", n + n * k);
        let bt: Vec<u8> = words[n..].iter().map(|w| *w as u8).collect();
        let rows: Vec<&[u8]> = bt.chunks_exact(k).collect();
        let mut x = Vector::<i32>::zeros(n);
        (0..n).for_each(|j| x.set(j, words[j]));
        let at = |v: &Vector<i32>, i: usize| {
            join(i64::from(v.low[i / LANES][i % LANES]), v.high[i / LANES][i % LANES])
        };
        assert!((0..n).all(|j| at(&x, j) == words[j]));
        let y = multiply(&rows, &x);
        let wide = |b: u8| i64::from(b.cast_signed()) as u64;
        let column =
            |i: usize| (0..n).fold(0u64, |s, j| s.wrapping_add(words[j].wrapping_mul(wide(rows[j][i]))));
        assert!((0..k).all(|i| at(&y, i) == column(i)));
        let z = (0..k).fold(0u64, |s, i| s.wrapping_add(at(&y, i).wrapping_mul(wide(rows[5][i]))));
        assert_eq!(products(rows[5], &[y.clone(), y]), [z, z]);
    }
}
