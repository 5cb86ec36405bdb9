//! The integer codecs: a scale for each block of 256 values.

use super::{BLOCK, CodecError, half};

/// Added and taken away, it rounds |x| < 2^22 to an integer, ties to even: 1.5 · 2^23.
const ROUNDER: f32 = 12_582_912.0;

const MOST_INT8: f32 = 127.0;
const MOST_INT4: f32 = 7.0;

/// The scale of a block of finite values: the largest magnitude, rounded up.
fn scale_of(block: &[f32]) -> u16 {
    // Magnitudes compare like their bits; integers have no order of summation to worry about.
    let largest = block.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    half::from_f32_up(f32::from_bits(largest))
}

/// The integer for a value. The scale is not below the value's magnitude, so the result is within ±most.
fn quantize(value: f32, scale: f32, most: f32) -> i8 {
    let rounded = (value * most) / scale + ROUNDER;
    rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i8
}

/// The value of an integer. The product is exact: 7 bits times 11.
fn value_of(code: i8, scale: f32, most: f32) -> f32 {
    (f32::from(code) * scale) / most
}

fn read_scale(bytes: [u8; 2], block: usize) -> Result<f32, CodecError> {
    let half = u16::from_le_bytes(bytes);
    let scale = half::to_f32(half);
    // 0x7c00 and above: infinities, NaN and everything with a sign.
    if half < 0x7c00 { Ok(scale) } else { Err(CodecError::Scale { block, scale }) }
}

fn read_code(code: i8, index: usize, scale: f32, most: f32) -> Result<f32, CodecError> {
    if f32::from(code) < -most {
        return Err(CodecError::Code { index, code });
    }
    if scale == 0.0 && code != 0 {
        return Err(CodecError::Scale { block: index / BLOCK, scale });
    }
    Ok(value_of(code, scale, most))
}

pub(super) fn encode_int8(values: &[f32], bytes: &mut Vec<u8>) {
    for block in values.chunks(BLOCK) {
        let half = scale_of(block);
        bytes.extend(half.to_le_bytes());
        let scale = half::to_f32(half);
        if half == 0 {
            bytes.resize(bytes.len() + block.len(), 0);
        } else {
            bytes.extend(block.iter().map(|&value| quantize(value, scale, MOST_INT8).cast_unsigned()));
        }
    }
}

/// The caller has compared the lengths.
pub(super) fn decode_int8(bytes: &[u8], parameters: usize) -> Result<Vec<f32>, CodecError> {
    let mut values = Vec::with_capacity(parameters);
    for (number, block) in bytes.chunks(2 + BLOCK).enumerate() {
        let Some((&scale, codes)) = block.split_first_chunk() else { continue };
        let scale = read_scale(scale, number)?;
        for code in codes {
            values.push(read_code(code.cast_signed(), values.len(), scale, MOST_INT8)?);
        }
    }
    Ok(values)
}

pub(super) fn encode_int4(values: &[f32], bytes: &mut Vec<u8>) {
    for block in values.chunks(BLOCK) {
        let half = scale_of(block);
        bytes.extend(half.to_le_bytes());
        let scale = half::to_f32(half);
        if half == 0 {
            bytes.resize(bytes.len() + block.len().div_ceil(2), 0);
        } else {
            bytes.extend(block.chunks(2).map(|pair| {
                let nibble = |at: usize| {
                    let value = pair.get(at).copied().unwrap_or(0.0);
                    quantize(value, scale, MOST_INT4).cast_unsigned() & 15
                };
                nibble(0) | (nibble(1) << 4)
            }));
        }
    }
}

/// The caller has compared the lengths.
pub(super) fn decode_int4(bytes: &[u8], parameters: usize) -> Result<Vec<f32>, CodecError> {
    let mut values = Vec::with_capacity(parameters);
    for (number, block) in bytes.chunks(2 + BLOCK / 2).enumerate() {
        let Some((&scale, pairs)) = block.split_first_chunk() else { continue };
        let scale = read_scale(scale, number)?;
        for pair in pairs {
            let (low, high) = ((pair << 4).cast_signed() >> 4, pair.cast_signed() >> 4);
            values.push(read_code(low, values.len(), scale, MOST_INT4)?);
            if values.len() < parameters {
                values.push(read_code(high, values.len(), scale, MOST_INT4)?);
            } else if high != 0 {
                return Err(CodecError::Unused { block: number });
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the ends of a scale are exact")]
mod tests {
    use super::*;

    #[test]
    fn integers_are_rounded_to_even() {
        // With scale 7 and most 7 a value is its own integer.
        let codes: Vec<i8> =
            [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, 7.0, -7.0, -0.0].map(|x| quantize(x, 7.0, 7.0)).into();
        assert_eq!(codes, [0, 2, 2, 0, -2, -2, 0, 7, -7, 0]);
    }

    #[test]
    fn every_integer_of_every_scale_survives() {
        for half in 1..0x7c00_u16 {
            let scale = half::to_f32(half);
            for code in -127..=127_i8 {
                assert_eq!(quantize(value_of(code, scale, MOST_INT8), scale, MOST_INT8), code);
            }
            for code in -7..=7_i8 {
                assert_eq!(quantize(value_of(code, scale, MOST_INT4), scale, MOST_INT4), code);
            }
            assert_eq!(value_of(127, scale, MOST_INT8), scale);
            assert_eq!(value_of(-7, scale, MOST_INT4), -scale);
        }
    }
}
