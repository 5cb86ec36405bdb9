//! Elementary functions of our own: additions, products and bit patterns only, so that every platform gives the same
//! bits, in a form that compilers vectorize.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

/// Below this `exp` is 0: the result would be subnormal, which some platforms flush.
const LEAST: f32 = -87.0;
/// Above this `exp` stays at its value here, 2^127 and more.
const MOST: f32 = 88.0;
/// 1.5 * 2^23: adding it rounds to the nearest integer, which then lies in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: products of the first with integers below 2^15 are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// e^x, relative error below 2e-7 for x in -87..=88; 0 below, e^88 above, NaN for NaN.
///
/// Source: coefficients of Moshier's Cephes, `expf`.
#[inline(always)]
pub(in crate::gpt) fn exp(x: f32) -> f32 {
    // Comparisons in this form let NaN through.
    let clamped = if x > MOST { MOST } else { x };
    let clamped = if clamped < LEAST { LEAST } else { clamped };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = (p * r) * r + r + 1.0;
    let scale = f32::from_bits(rounded.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000));
    if x < LEAST { 0.0 } else { value * scale }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Natural logarithm of a positive normal number, absolute error below 1e-15 + 1e-15 |ln x|; NaN and infinities give
/// something that is not finite.
pub(super) fn ln(x: f64) -> f64 {
    if !x.is_finite() {
        return x;
    }
    // x = m 2^e with m in [sqrt(1/2), sqrt(2)).
    let shifted = x.to_bits().wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = shifted.cast_signed() >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((exponent << 52).cast_unsigned()));
    // ln m = 2 atanh((m - 1) / (m + 1)), whose argument is at most 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for odd in (1..=19).rev().step_by(2) {
        series = series * square + 1.0 / f64::from(odd);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_bound_everywhere() {
        let mut worst = 0.0_f64;
        let steps = 2_000_000;
        for i in 0..=steps {
            let x = (-87.0 + 175.0 * f64::from(i) / f64::from(steps)) as f32;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!([-87.1, -1e30, f32::NEG_INFINITY].map(|x| exp(x).to_bits()), [0; 3]);
        assert!(exp(1e30).is_finite() && exp(f32::INFINITY) > 1e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_its_bound() {
        let mut x = 1e-300_f64;
        while x < 1e300 {
            assert!((ln(x) - x.ln()).abs() <= 1e-15 + 1e-15 * x.ln().abs(), "{x:e} {:e}", ln(x) - x.ln());
            x *= 1.003_7;
        }
        assert_eq!(ln(1.0).to_bits(), 0.0_f64.to_bits());
        assert!(ln(f64::NAN).is_nan() && ln(f64::INFINITY).is_infinite());
    }
}
