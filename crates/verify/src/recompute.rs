//! Tier 3 of the f32 check: flagged rows are computed in f64 and judged element by element, with a bound that
//! holds for every order of summation, fused or not, rounded to nearest or to zero, subnormals flushed or not.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

use crate::float::Operands;
use crate::lanes::{F32, dots, value};
use crate::report::{RejectReason, Report};

/// Terms that a kernel adds up by themselves before it adds them to the sum, if it sums in blocks.
const BLOCK: usize = 32;

/// Worst-case rounding of a sum of K products in f32.
pub(crate) struct Rounding {
    /// γ_d = d·u / (1 - d·u) with u = 2^-23: one rounding, to zero at worst, for each of the d operations that a
    /// term goes through. d = K for any order of summation; 32 + K/32 for a kernel that sums in blocks of 32.
    gamma: f64,
    /// K · 2^-126: each flush of a subnormal product or sum uses up at least one of the K terms.
    flushes: f64,
}

impl Rounding {
    pub(crate) fn new(k: usize, kernel_sums_in_blocks: bool) -> Self {
        let operations = if kernel_sums_in_blocks { k.min(BLOCK + k.div_ceil(BLOCK)) } else { k };
        let du = operations as f64 * f64::from(f32::EPSILON);
        Self { gamma: du / (1.0 - du), flushes: k as f64 * f64::from(f32::MIN_POSITIVE) }
    }

    /// Whether some order of summation of terms whose absolute values sum to `size` may leave f32's range.
    pub(crate) fn may_overflow(&self, size: f64) -> bool {
        size * (1.0 + 2.0 * self.gamma) >= f64::from(f32::MAX)
    }

    fn tolerance(&self, size: f64) -> f64 {
        2.0 * self.gamma * size + self.flushes
    }
}

/// Recomputes rows of C, counts work and overflows in the report, and stops at the first wrong element.
#[inline(always)]
pub(crate) fn recompute<const FUSED: bool>(
    operands: &Operands<'_>,
    rows: &[usize],
    rounding: &Rounding,
    report: &mut Report,
) -> Result<(), RejectReason> {
    let (groups, rest) = rows.as_chunks::<4>();
    for group in groups {
        recompute_group::<FUSED, 4>(operands, *group, rounding, report)?;
    }
    for &row in rest {
        recompute_group::<FUSED, 1>(operands, [row], rounding, report)?;
    }
    Ok(())
}

#[inline(always)]
fn recompute_group<const FUSED: bool, const R: usize>(
    operands: &Operands<'_>,
    rows: [usize; R],
    rounding: &Rounding,
    report: &mut Report,
) -> Result<(), RejectReason> {
    let a = rows.map(|row| operands.a[row]);
    report.recomputed_rows += R as u32;
    for (col, b) in operands.bt.iter().enumerate() {
        let references = dots::<FUSED, R>(a, b);
        report.work += (R * b.len()) as u64;
        for r in 0..R {
            let found = operands.c[rows[r]][col];
            // |reference| <= |a|·|b|, so most elements pass without the sum of absolute values.
            let near = (value(found) - references[r]).abs() <= rounding.tolerance(references[r].abs());
            if !near {
                let element = Element { row: rows[r], col, found: f32::from_le_bytes(found) };
                report.work += b.len() as u64;
                report.overflowed_elements +=
                    u32::from(element.overflows(a[r], b, references[r], rounding)?);
            }
        }
    }
    Ok(())
}

struct Element {
    row: usize,
    col: usize,
    found: f32,
}

impl Element {
    /// The full judgment of one element: `Ok(true)` if it is there by overflow, `Ok(false)` if it is within
    /// tolerance.
    fn overflows(
        &self,
        a: &[F32],
        b: &[F32],
        reference: f64,
        rounding: &Rounding,
    ) -> Result<bool, RejectReason> {
        let Self { row, col, found } = *self;
        // Devices may take subnormal operands for zero: such terms may be missing altogether.
        let (mut size, mut flushed) = (0.0, 0.0);
        for (&x, &y) in a.iter().zip(b) {
            let term = (value(x) * value(y)).abs();
            size += term;
            if is_subnormal(x) || is_subnormal(y) {
                flushed += term;
            }
        }
        let tolerance = rounding.tolerance(size) + flushed;
        if (f64::from(found) - reference).abs() <= tolerance {
            return Ok(false);
        }
        let may_overflow = rounding.may_overflow(size);
        if !found.is_finite() {
            return if may_overflow { Ok(true) } else { Err(RejectReason::NotFinite { row, col }) };
        }
        let saturated = found.abs() >= f32::MAX
            && found.is_sign_negative() == reference.is_sign_negative()
            && reference.abs() + tolerance >= f64::from(f32::MAX);
        if may_overflow && saturated {
            return Ok(true);
        }
        Err(RejectReason::RowMismatch { row, col, found, reference, tolerance })
    }
}

fn is_subnormal(bytes: F32) -> bool {
    f32::from_le_bytes(bytes).is_subnormal()
}
