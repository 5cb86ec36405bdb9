//! Half precision (IEEE binary16) by integer arithmetic, so that every platform gives the same bits.

/// Largest finite value.
pub(super) const MAX: f32 = 65504.0;
/// Least positive value, 2^-24: one step of the subnormals.
pub(super) const LEAST: f32 = 1.0 / 16_777_216.0;

/// 2^-14, the least normal f16, as f32 bits.
const LEAST_NORMAL: u32 = 0x3880_0000;
/// Difference of the exponents' biases, 127 - 15, at its place in an f32.
const REBIAS: u32 = 112 << 23;
/// Bits of the fraction that an f16 does not have.
const DROPPED: u32 = 13;

/// Rounds to nearest, ties to even. Too large a value becomes an infinity; a NaN stays one.
pub(super) fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    sign | shifted(magnitude, |significand, shift| {
        let half = 1_u64 << (shift - 1);
        let odd = (significand >> shift) & 1;
        (significand + half - 1 + odd) >> shift
    })
}

/// Rounds a value that is positive or zero, and at most [`MAX`], towards infinity.
pub(super) fn from_f32_up(value: f32) -> u16 {
    shifted(value.to_bits() & 0x7fff_ffff, |significand, shift| (significand + (1_u64 << shift) - 1) >> shift)
}

/// The exact value.
pub(super) fn to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10) & 31, u32::from(half & 0x3ff));
    let magnitude = match exponent {
        // Exact: ten bits times a power of two.
        0 => (fraction as f32 * LEAST).to_bits(),
        31 => 0x7f80_0000 | (fraction << DROPPED),
        _ => ((exponent << 23) + REBIAS) | (fraction << DROPPED),
    };
    f32::from_bits(sign | magnitude)
}

/// Shifts the bits of an f32's magnitude to those of an f16, with the given rounding shift.
fn shifted(magnitude: u32, round: impl Fn(u64, u32) -> u64) -> u16 {
    let half = if magnitude >= LEAST_NORMAL {
        // A carry out of the fraction raises the exponent, as it must.
        round(u64::from(magnitude - REBIAS), DROPPED)
    } else {
        // A subnormal f16 counts steps of 2^-24. Below 2^-32 all significands round alike.
        let exponent = magnitude >> 23;
        let hidden = u32::from(exponent != 0) << 23;
        let significand = u64::from((magnitude & 0x007f_ffff) | hidden);
        round(significand, (126 - exponent.max(1)).min(32))
    };
    half.min(0x7c00) as u16
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "halves are exact")]
mod tests {
    use super::*;

    /// The two f16 around a value and the value, in f64, where all of it is exact.
    fn nearest(value: f32) -> u16 {
        let magnitude = f64::from(value.abs());
        let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
        let below = (0..0x7c00_u16).rev().find(|&h| f64::from(to_f32(h)) <= magnitude).unwrap();
        let exact = |h: u16| if h == 0x7c00 { 65536.0 } else { f64::from(to_f32(h)) };
        let (down, up) = (magnitude - exact(below), exact(below + 1) - magnitude);
        let up_is_nearer = up < down || (up == down && below % 2 == 1);
        sign | (below + u16::from(up_is_nearer))
    }

    #[test]
    fn every_half_survives_and_so_do_the_midpoints_between_them() {
        for half in 0..0x7c00_u16 {
            let value = to_f32(half);
            assert_eq!((from_f32(value), from_f32_up(value)), (half, half));
            assert_eq!(from_f32(-value), half | 0x8000);
            let next = if half == 0x7bff { 65536.0 } else { to_f32(half + 1) };
            let middle = value / 2.0 + next / 2.0;
            let (before, after) = (middle.to_bits() - 1, middle.to_bits() + 1);
            assert_eq!(from_f32(f32::from_bits(before)), half, "just under the middle");
            assert_eq!(from_f32(middle), half + half % 2, "ties go to even");
            assert_eq!(from_f32(f32::from_bits(after)), half + 1, "just over the middle");
            if half < 0x7bff {
                assert_eq!(from_f32_up(f32::from_bits(value.to_bits() + 1)), half + 1);
                assert_eq!(from_f32_up(next), half + 1);
            }
        }
        assert_eq!(to_f32(0x3c00), 1.0);
        assert_eq!(to_f32(0x7bff), MAX);
        assert_eq!(to_f32(1), LEAST);
    }

    #[test]
    fn rounding_agrees_with_a_search_through_all_halves() {
        let mut bits = 0x1234_5678_u32;
        for _ in 0..300 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents from 2^-30 to 2^17.
            let exponent = 97 + (bits >> 23) % 47;
            let value = f32::from_bits((bits & 0x807f_ffff) | (exponent << 23));
            assert_eq!(from_f32(value), nearest(value), "{value:e}");
        }
    }

    #[test]
    fn edges() {
        assert_eq!(from_f32(f32::INFINITY), 0x7c00);
        assert_eq!(from_f32(1e30), 0x7c00);
        assert!(to_f32(from_f32(f32::NAN)).is_nan());
        assert_eq!(to_f32(0xfc00), f32::NEG_INFINITY);
        assert_eq!(from_f32(f32::from_bits(1)), 0);
        assert_eq!(from_f32_up(f32::from_bits(1)), 1, "the least subnormal f32 is not nothing");
        assert_eq!(from_f32_up(f32::MIN_POSITIVE), 1);
        assert_eq!(from_f32_up(0.0), 0);
        assert_eq!(from_f32(-0.0), 0x8000);
    }
}
