//! Codec S: the 64 largest of each 4096, with two bits a value.
//!
//! A block is 116 bytes, also where it is short:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | two f16: the small magnitude, then the large one |
//! | 4..100 | 64 slots of 12 bits: indices in the block, ascending. Slot 2i is the low byte of byte 3i and the low half of byte 3i + 1, slot 2i + 1 the rest |
//! | 100..116 | 64 slots of 2 bits, the first in the lowest bits: 1 = negative, 2 = the large magnitude |
//!
//! The encoder keeps the 64 values of largest magnitude (of equal ones those with lower indices), but none below 2^-24,
//! the least f16. With μ the mean of the kept magnitudes (added up by ascending index, then divided by their number,
//! each rounded to f32), the small magnitude stands for those up to μ and is their mean, computed alike; the large one
//! for the others. Where the two are equal as f16, or one stands for nothing, both are equal and no value has the bit of
//! the large one. Two means keep two bits accurate whatever the tail of the distribution: the paper's quantizer,
//! too, gives each bin its mean.
//!
//! Slots that are not used come last and are zero. They are told apart by their index: 0 can only be the first. A block
//! without kept values has two zeros as magnitudes.

use super::{Codec, CodecError, KEPT, SPARSE_BLOCK, SPARSE_BLOCK_BYTES, half};

const INDICES: std::ops::Range<usize> = 4..100;
const CODES: std::ops::Range<usize> = 100..116;
const NEGATIVE: u8 = 1;
const LARGE: u8 = 2;

/// Writes blocks of finite values.
pub(super) fn encode(values: &[f32], bytes: &mut Vec<u8>) {
    for block in values.chunks(SPARSE_BLOCK) {
        bytes.extend(encode_block(block));
    }
}

fn encode_block(block: &[f32]) -> [u8; SPARSE_BLOCK_BYTES] {
    let mut bytes = [0; SPARSE_BLOCK_BYTES];
    let kept = largest(block);
    if kept.is_empty() {
        return bytes;
    }
    let magnitude = |&index: &u16| block[usize::from(index)].abs();
    let mean = mean(kept.iter().map(magnitude)).unwrap_or(0.0);
    let small = self::mean(kept.iter().map(magnitude).filter(|&value| value <= mean));
    let large = self::mean(kept.iter().map(magnitude).filter(|&value| value > mean));
    // One of the two exists, for something was kept.
    let (small, large) = (small.or(large).unwrap_or(0.0), large.or(small).unwrap_or(0.0));
    let (small, large) = (half::from_f32(small), half::from_f32(large));
    bytes[..2].copy_from_slice(&small.to_le_bytes());
    bytes[2..4].copy_from_slice(&large.to_le_bytes());
    for (slot, index) in kept.iter().enumerate() {
        write_index(&mut bytes[INDICES], slot, *index);
        let value = block[usize::from(*index)];
        let large = small != large && value.abs() > mean;
        let code = u8::from(value < 0.0) * NEGATIVE + u8::from(large) * LARGE;
        bytes[CODES][slot / 4] |= code << (2 * (slot % 4));
    }
    bytes
}

/// Indices of the values to keep, ascending.
fn largest(block: &[f32]) -> Vec<u16> {
    // Sorted by falling magnitude, then by index: magnitudes compare like their bits.
    let least = half::LEAST.to_bits();
    let mut keys: Vec<u64> = Vec::with_capacity(block.len());
    for (index, value) in block.iter().enumerate() {
        let magnitude = value.to_bits() & 0x7fff_ffff;
        if magnitude >= least {
            keys.push(u64::from(!magnitude) << 16 | index as u64);
        }
    }
    if keys.len() > KEPT {
        keys.select_nth_unstable(KEPT);
        keys.truncate(KEPT);
    }
    let mut indices: Vec<u16> = keys.into_iter().map(|key| key as u16).collect();
    indices.sort_unstable();
    indices
}

/// Mean of a few positive values, added up in their order.
fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (sum, count) = values.fold((0.0_f32, 0_u8), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f32::from(count))
}

fn write_index(bytes: &mut [u8], slot: usize, index: u16) {
    let at = slot / 2 * 3;
    let [low, high] = index.to_le_bytes();
    if slot.is_multiple_of(2) {
        bytes[at] = low;
        bytes[at + 1] |= high;
    } else {
        bytes[at + 1] |= low << 4;
        bytes[at + 2] = low >> 4 | high << 4;
    }
}

fn read_index(bytes: &[u8], slot: usize) -> u16 {
    let at = slot / 2 * 3;
    if slot.is_multiple_of(2) {
        u16::from_le_bytes([bytes[at], bytes[at + 1] & 15])
    } else {
        u16::from_le_bytes([bytes[at + 1] >> 4 | bytes[at + 2] << 4, bytes[at + 2] >> 4])
    }
}

pub(super) fn decode(bytes: &[u8], parameters: usize) -> Result<Vec<f32>, CodecError> {
    let mut values = vec![0.0; parameters];
    for_each(bytes, parameters, |index, value| values[index as usize] = value)?;
    Ok(values)
}

/// Reads what [`Codec::TopK`] kept: indices, ascending, and values.
///
/// # Errors
/// As [`Codec::decode`].
pub fn decode_sparse(bytes: &[u8], parameters: usize) -> Result<Vec<(u32, f32)>, CodecError> {
    Codec::TopK.check_length(bytes, parameters)?;
    let mut entries = Vec::with_capacity((bytes.len() / SPARSE_BLOCK_BYTES * KEPT).min(parameters));
    for_each(bytes, parameters, |index, value| entries.push((index, value)))?;
    Ok(entries)
}

/// Gives the kept values by ascending index. The caller has compared the lengths.
fn for_each(bytes: &[u8], parameters: usize, mut take: impl FnMut(u32, f32)) -> Result<(), CodecError> {
    for (number, block) in bytes.chunks_exact(SPARSE_BLOCK_BYTES).enumerate() {
        let start = number * SPARSE_BLOCK;
        let length = (parameters - start).min(SPARSE_BLOCK);
        let [small, large] = [[block[0], block[1]], [block[2], block[3]]].map(u16::from_le_bytes);
        for scale in [small, large] {
            if scale >= 0x7c00 {
                return Err(CodecError::Scale { block: number, scale: half::to_f32(scale) });
            }
        }
        if (small, large) == (0, 0) {
            if block.iter().any(|&byte| byte != 0) {
                return Err(CodecError::Unused { block: number });
            }
            continue;
        }
        if small == 0 || large < small {
            return Err(CodecError::Scale { block: number, scale: half::to_f32(small) });
        }
        let (small, large) = (half::to_f32(small), half::to_f32(large));
        let mut before = None;
        let mut ended = false;
        for slot in 0..KEPT {
            let index = read_index(&block[INDICES], slot);
            let code = block[CODES][slot / 4] >> (2 * (slot % 4)) & 3;
            ended |= slot > 0 && index == 0;
            if ended {
                if index != 0 || code != 0 {
                    return Err(CodecError::Unused { block: number });
                }
                continue;
            }
            if usize::from(index) >= length || before.is_some_and(|before| before >= index) {
                return Err(CodecError::Index { block: number, slot, index });
            }
            before = Some(index);
            let magnitude = if code & LARGE == 0 { small } else { large };
            let value = if code & NEGATIVE == 0 { magnitude } else { -magnitude };
            take((start + usize::from(index)) as u32, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_survive_packing() {
        let indices: Vec<u16> = (0..64).map(|slot| slot * 65 % 4096).collect();
        let mut bytes = [0; 96];
        for (slot, &index) in indices.iter().enumerate() {
            write_index(&mut bytes, slot, index);
        }
        let read: Vec<u16> = (0..64).map(|slot| read_index(&bytes, slot)).collect();
        assert_eq!(read, indices);
    }

    #[test]
    fn of_equal_magnitudes_the_lower_indices_are_kept() {
        let mut block = vec![0.25; 200];
        block[150] = -0.5;
        block[70] = 0.5;
        let expected: Vec<u16> = (0..62).chain([70, 150]).collect();
        assert_eq!(largest(&block), expected);
    }
}
