//! The f32 check, tiers 0 to 2: shape, finiteness, and probes that flag rows. Tier 3 is in [`crate::recompute`].
//!
//! Probe p has x_j = s_j · w_j / ||b_j|| with a random sign and w_j uniform in [1/2, 1] · sqrt(12/7), so that
//! E w² = 1. Row i's residual r_i = a_i·(Bx) - c_i·x is a sum of the row's errors, each scaled to its column.
//! Everything is summed in f64. x_j has 24 significant bits and y = Bx is rounded to 29, which makes every
//! product exact. Rounding y changes r_i by at most 2^-29 · ||a_i|| · ||y||, and E ||y||² = Σ w_j²: a 1/(32 λ)
//! of the threshold.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

use crate::Product;
use crate::error::CheckError;
use crate::lanes::{
    F32, Job, LANES, Sums, add_scaled, dispatch, elements, products, round_to_29_bits, squares, value,
};
use crate::operand::{dimensions, rows};
use crate::params::{PROBES, Params};
use crate::recompute::{Rounding, recompute};
use crate::report::{RejectReason, Report, Verdict};
use crate::secret::ProbeSeed;
use potluck_types::limits::MAX_DIMENSION;
use potluck_types::{DType, MatmulShape};
use std::borrow::Cow;

/// Checks an f32 product that lies in memory as numbers. See [`crate::check_bytes`] for panels of bytes.
///
/// Shapes: `a` is M x K, `bt` is B transposed, N x K, `c` is M x N; all row-major.
/// `kernel_sums_in_blocks` says that the kernel adds up each 32 terms along K by themselves, and that the device
/// passed calibration with it. It tightens both tiers (λ = 3, and a bound for 32 + K/32 operations instead of K),
/// so it must be true: constant data summed in another order on round-to-zero hardware could be rejected.
///
/// Limit: a result is rejected where a row is flagged *and* an element is outside of tier 3's tolerance. For K
/// above 7 · sqrt(N) and no blocks that tolerance, about 3 K · 2^-24 · ||a_i|| · ||b_j||, is the larger of the two:
/// no order of summation is ever wronged, at the price of small perturbations that pass.
///
/// Overflow: a sum whose terms' absolute values reach f32's largest number may give Inf or NaN on a conforming
/// device, in some order of summation. There, and only there, an element that is not finite is accepted (and so
/// is the largest number itself where the product is at least that: round-to-zero hardware stops there);
/// [`Report::overflowed_elements`] counts them.
///
/// # Errors
/// [`CheckError`] if the operands are not what the shape says, or not finite.
pub fn check_f32(
    shape: MatmulShape,
    a: &[f32],
    bt: &[f32],
    c: &[f32],
    seed: &ProbeSeed,
    params: &Params,
    kernel_sums_in_blocks: bool,
) -> Result<Report, CheckError> {
    let product = Product { dtype: DType::F32, shape, a: &[&little_endian(a)], bt: &[&little_endian(bt)] };
    check(&product, &little_endian(c), seed, params, kernel_sums_in_blocks)
}

fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

/// What tier 3 needs to know of a product.
pub(crate) struct Operands<'a> {
    pub(crate) a: Vec<&'a [F32]>,
    pub(crate) bt: Vec<&'a [F32]>,
    pub(crate) c: Vec<&'a [F32]>,
}

/// The probes' vectors after the pass over B.
struct Probes {
    /// x, in blocks, padded with zeros.
    x: [Vec<Sums>; PROBES],
    /// y = Bx, in blocks, padded with zeros.
    y: [Vec<Sums>; PROBES],
    /// sqrt(Σ w_j²) over the columns that are not zero.
    weight: [f64; PROBES],
    /// ||b_j||.
    norms: Vec<f64>,
    /// Columns of B that are zero.
    zeros: Vec<usize>,
}

/// A row that tier 2 could not accept.
#[derive(Clone, Copy)]
struct Flag {
    row: usize,
    /// Residual over threshold; infinite where either is of no use.
    ratio: f64,
}

/// The f32 check on panels of bytes.
pub(crate) fn check(
    product: &Product<'_>,
    c: &[u8],
    seed: &ProbeSeed,
    params: &Params,
    kernel_sums_in_blocks: bool,
) -> Result<Report, CheckError> {
    let [m, k, n] = dimensions(product.shape, MAX_DIMENSION)?;
    let a = rows("A", product.a, m, 4 * k)?;
    let bt = rows("B transposed", product.bt, n, 4 * k)?;
    let (expected, found) = (4 * m as u64 * n as u64, c.len() as u64);
    if found != expected {
        return Ok(Report::rejected(RejectReason::WrongLength { expected, found }));
    }
    let operands = Operands {
        a: a.into_iter().map(elements).collect(),
        bt: bt.into_iter().map(elements).collect(),
        c: c.chunks_exact(4 * n).map(elements).collect(),
    };
    let lambda = params.lambda_for(product.shape.k, kernel_sums_in_blocks);
    let limit = params.max_flagged_rows as usize;
    dispatch(Check { operands: &operands, seed, lambda, limit, blocked: kernel_sums_in_blocks })
}

/// The arithmetic of a check.
struct Check<'a> {
    operands: &'a Operands<'a>,
    seed: &'a ProbeSeed,
    lambda: f64,
    limit: usize,
    blocked: bool,
}

impl Job for Check<'_> {
    type Output = Result<Report, CheckError>;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> Result<Report, CheckError> {
        let Self { operands, seed, lambda, limit, blocked } = self;
        let (m, n) = (operands.a.len() as u64, operands.bt.len() as u64);
        let k = operands.a[0].len();
        let rounding = Rounding::new(k, blocked);
        let probes = probe_columns::<FUSED>(&operands.bt, seed)?;
        let work = (PROBES as u64 + 1) * (n + m) * k as u64 + PROBES as u64 * m * n;
        let mut report = Report { work, ..Report::default() };
        let flags = match flag_rows::<FUSED>(operands, &probes, lambda, &rounding)? {
            Ok(flags) => flags,
            Err(reason) => {
                report.verdict = Verdict::Rejected(reason);
                return Ok(report);
            }
        };
        report.flagged_rows = flags.len() as u32;
        report.worst_ratio = flags.iter().map(|f| f.ratio).filter(|r| r.is_finite()).fold(0.0, f64::max);
        let chosen = choose(flags, limit, seed);
        // The worst row alone first: a cheat that shows there costs the relay one row and not all of them.
        let (worst, others) = chosen.split_at(chosen.len().min(1));
        for batch in [worst, others] {
            if let Err(reason) = recompute::<FUSED>(operands, batch, &rounding, &mut report) {
                report.verdict = Verdict::Rejected(reason);
                break;
            }
        }
        Ok(report)
    }
}

/// One pass over B: norms, probes, and y = Bx while the rows are in the nearest cache.
#[inline(always)]
fn probe_columns<const FUSED: bool>(bt: &[&[F32]], seed: &ProbeSeed) -> Result<Probes, CheckError> {
    let (n, k) = (bt.len(), bt[0].len());
    let empty = |len: usize| [(); PROBES].map(|()| vec![[0.0; LANES]; len.div_ceil(LANES)]);
    let mut probes = Probes {
        x: empty(n),
        y: empty(k),
        weight: [0.0; PROBES],
        norms: Vec::with_capacity(n),
        zeros: Vec::new(),
    };
    let words = seed.words("f32 probes", PROBES * n);
    let (groups, rest) = bt.as_chunks::<4>();
    for (group, rows) in groups.iter().enumerate() {
        add_columns::<FUSED, 4>(4 * group, *rows, &words, &mut probes)?;
    }
    for (i, row) in rest.iter().enumerate() {
        add_columns::<FUSED, 1>(4 * groups.len() + i, [row], &words, &mut probes)?;
    }
    probes.weight = probes.weight.map(f64::sqrt);
    probes.y.iter_mut().flatten().flatten().for_each(|v| *v = round_to_29_bits(*v));
    Ok(probes)
}

#[inline(always)]
fn add_columns<const FUSED: bool, const R: usize>(
    first: usize,
    rows: [&[F32]; R],
    words: &[u64],
    probes: &mut Probes,
) -> Result<(), CheckError> {
    let mut x = [[0.0; R]; PROBES];
    for (r, row) in rows.into_iter().enumerate() {
        let j = first + r;
        let square = squares::<FUSED>(row);
        if !square.is_finite() {
            return Err(CheckError::OperandNotFinite { operand: "B transposed", row: j });
        }
        let norm = square.sqrt();
        probes.norms.push(norm);
        if norm == 0.0 {
            probes.zeros.push(j);
            continue;
        }
        for p in 0..PROBES {
            let w = weight(words[PROBES * j + p]);
            probes.weight[p] += w * w;
            x[p][r] = truncate_to_24_bits(w / norm);
            probes.x[p][j / LANES][j % LANES] = x[p][r];
        }
    }
    add_scaled::<FUSED, R>(rows, x, &mut probes.y);
    Ok(())
}

/// s·w from 53 random bits: sign, and w uniform in [1/2, 1] · sqrt(12/7).
///
/// Plain signs miss a pair of errors ±d half of the time, Gaussian weights miss small ones too often.
#[inline(always)]
fn weight(word: u64) -> f64 {
    const SCALE: f64 = 1.309_307_341_415_954_3; // sqrt(12/7)
    let unit = (word >> 12) as f64 / (1u64 << 52) as f64;
    let w = (0.5 + 0.5 * unit) * SCALE;
    if word & 1 == 0 { w } else { -w }
}

#[inline(always)]
fn truncate_to_24_bits(v: f64) -> f64 {
    f64::from_bits(v.to_bits() & !((1 << 29) - 1))
}

type Flags = Result<Vec<Flag>, RejectReason>;

/// One pass over A and C: residuals against thresholds.
#[inline(always)]
fn flag_rows<const FUSED: bool>(
    operands: &Operands<'_>,
    probes: &Probes,
    lambda: f64,
    rounding: &Rounding,
) -> Result<Flags, CheckError> {
    let (a_pairs, a_rest) = operands.a.as_chunks::<2>();
    let (c_pairs, c_rest) = operands.c.as_chunks::<2>();
    let mut flags = Vec::new();
    for (pair, (a, c)) in a_pairs.iter().zip(c_pairs).enumerate() {
        let left = products::<FUSED, true, 2>(*a, &probes.y);
        let right = products::<FUSED, false, 2>(*c, &probes.x);
        for r in 0..2 {
            match judge(2 * pair + r, c[r], left[r], right[r].0, probes, lambda, rounding)? {
                Ok(flag) => flags.extend(flag),
                Err(reason) => return Ok(Err(reason)),
            }
        }
    }
    for (i, (a, c)) in a_rest.iter().zip(c_rest).enumerate() {
        let [left] = products::<FUSED, true, 1>([a], &probes.y);
        let [(right, _)] = products::<FUSED, false, 1>([c], &probes.x);
        match judge(2 * a_pairs.len() + i, c, left, right, probes, lambda, rounding)? {
            Ok(flag) => flags.extend(flag),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(flags))
}

/// Accepts a row (no flag), flags it, or rejects the result because of it.
#[inline(always)]
fn judge(
    row: usize,
    c: &[F32],
    (left, square): ([f64; PROBES], f64),
    right: [f64; PROBES],
    probes: &Probes,
    lambda: f64,
    rounding: &Rounding,
) -> Result<Result<Option<Flag>, RejectReason>, CheckError> {
    const UNIT: f64 = 1.0 / (1 << 24) as f64;
    if !square.is_finite() {
        return Err(CheckError::OperandNotFinite { operand: "A", row });
    }
    let norm = square.sqrt();
    if let Some(&col) = probes.zeros.iter().find(|&&col| value(c[col]) != 0.0) {
        return Ok(Err(RejectReason::ZeroColumnNotZero { row, col }));
    }
    // A weighted sum of finite f32 cannot overflow f64, and Inf or NaN times any weight, 0 included, stays.
    if !right.iter().all(|r| r.is_finite()) {
        // |a_i|·|b_j| <= ||a_i||·||b_j||: most are decided without recomputing the row.
        let wrong = |(col, v): (usize, &F32)| {
            (!value(*v).is_finite() && !rounding.may_overflow(norm * probes.norms[col])).then_some(col)
        };
        return Ok(match c.iter().enumerate().find_map(wrong) {
            Some(col) => Err(RejectReason::NotFinite { row, col }),
            None => Ok(Some(Flag { row, ratio: f64::INFINITY })),
        });
    }
    let mut flagged = false;
    let mut ratio = 0.0;
    for p in 0..PROBES {
        let residual = (left[p] - right[p]).abs();
        let threshold = lambda * UNIT * norm * probes.weight[p];
        // Not `residual > threshold`: NaN must flag.
        let passes = residual <= threshold;
        flagged |= !passes;
        ratio = f64::max(ratio, residual / threshold);
    }
    Ok(Ok(flagged.then_some(Flag { row, ratio })))
}

/// At most `limit` flagged rows, worst first. If there are more: half of the limit are the worst, the others
/// are drawn from the rest by the seed. A cheat hides neither behind honest flags nor by being less wrong.
fn choose(mut flags: Vec<Flag>, limit: usize, seed: &ProbeSeed) -> Vec<usize> {
    flags.sort_by(|f, g| g.ratio.total_cmp(&f.ratio).then(f.row.cmp(&g.row)));
    if flags.len() > limit {
        let certain = limit.div_ceil(2);
        for (i, word) in (certain..limit).zip(seed.words("f32 rows", limit - certain)) {
            let left = (flags.len() - i) as u128;
            flags.swap(i, i + ((u128::from(word) * left) >> 64) as usize);
        }
        flags.truncate(limit);
    }
    flags.into_iter().map(|f| f.row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Secret, probe_seed};
    use potluck_types::BlobHash;

    fn seed(i: u8) -> ProbeSeed {
        probe_seed(&Secret([i; 32]), &BlobHash([7; 32]))
    }

    #[test]
    fn reports_do_not_depend_on_the_instruction_set() {
        // With and without fused multiply-add, vectorized or not: each product is exact, each sum in order.
        let (m, k, n) = (37, 203, 331);
        let words = seed(1).words("data", m * k + n * k);
        let number = |w: &u64| ((*w >> 40) as f32 / 8_388_608.0 - 1.0).to_le_bytes();
        let all: Vec<F32> = words.iter().map(number).collect();
        let (a, bt) = all.split_at(m * k);
        let dot = |a: &[F32], b: &[F32]| a.iter().zip(b).map(|(x, y)| value(*x) * value(*y)).sum::<f64>();
        let c: Vec<F32> = a
            .chunks_exact(k)
            .flat_map(|a| bt.chunks_exact(k).map(move |b| ((dot(a, b) * (1.0 + 1e-6)) as f32).to_le_bytes()))
            .collect();
        let operands = Operands {
            a: a.chunks_exact(k).collect(),
            bt: bt.chunks_exact(k).collect(),
            c: c.chunks_exact(n).collect(),
        };
        for i in 0..10 {
            let seed = seed(i);
            let job = || Check { operands: &operands, seed: &seed, lambda: 0.5, limit: 9, blocked: false };
            let report = dispatch(job());
            assert_eq!(job().run::<true>(), report);
            assert_eq!(job().run::<false>(), report);
            let report = report.unwrap();
            assert!(report.flagged_rows > 9 && report.recomputed_rows == 9 && report.worst_ratio > 1.0);
        }
    }

    #[test]
    fn weights_are_as_designed() {
        let weights: Vec<f64> = seed(2).words("weights", 100_000).into_iter().map(weight).collect();
        let mean = |f: fn(f64) -> f64| weights.iter().map(|&w| f(w)).sum::<f64>() / 1e5;
        assert!(weights.iter().all(|w| (0.654..1.3094).contains(&w.abs())));
        // Standard errors: 0.003, 0.0016, 0.002.
        assert!(mean(|w| w).abs() < 0.015);
        assert!((mean(|w| w * w) - 1.0).abs() < 0.008);
        assert!((mean(|w| f64::from(u8::from(w > 0.0))) - 0.5).abs() < 0.01);
    }

    #[test]
    fn too_many_flags_are_sampled_by_the_seed() {
        let flags: Vec<Flag> = (0..100).map(|row| Flag { row, ratio: 2.0 + row as f64 }).collect();
        let mut seen = [0; 100];
        for i in 0..=255 {
            let mut chosen = choose(flags.clone(), 20, &seed(i));
            assert_eq!(chosen[..10], (90..100).rev().collect::<Vec<_>>());
            for &row in &chosen {
                seen[row] += 1;
            }
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 20);
        }
        // Each of the other 90 is drawn 28 times in the mean, with a standard deviation of 5.
        assert!(seen[..90].iter().all(|count| (8..50).contains(count)), "{seen:?}");
        assert_eq!(choose(flags, 100, &seed(0)).len(), 100);
    }
}
