//! What a lossy codec leaves open: of all updates that encode into the committed bytes, the one nearest to the replay.
//!
//! An honest volunteer on another device has another rounding: its raw update is within 1e-4 of the replay, and where a
//! value lies near the border of two codes, the two encodings differ by a whole step, which for int4 is a thousand times
//! as much. So not the decoded values are compared with the replay, but the raw update that explains the bytes best. It
//! is never farther from the replay than the volunteer's own, so who is honest passes; who is not must still have each
//! value's code right.

use potluck_train::codec::{BLOCK, Codec, CodecError, KEPT, SPARSE_BLOCK, decode_sparse};

/// The least positive f16: what is smaller is not sent by codec S.
const LEAST_F16: f32 = 1.0 / (1 << 24) as f32;

/// The raw update nearest to `replayed` that [`Codec::encode`] turns into `bytes`, up to the rounding of f32.
///
/// # Errors
/// Bytes that no encoder writes: those that [`Codec::decode`] refuses, and [`CodecError::Scale`] for a block whose scale
/// is larger than its values.
pub fn nearest(codec: Codec, bytes: &[u8], replayed: &[f32]) -> Result<Vec<f32>, CodecError> {
    let decoded = codec.decode(bytes, replayed.len())?;
    match codec {
        Codec::F16 => halves(bytes, replayed),
        Codec::Int8 => blocks(bytes, replayed, &decoded, 127, BLOCK),
        Codec::Int4 => blocks(bytes, replayed, &decoded, 7, BLOCK / 2),
        Codec::TopK => sparse(bytes, replayed),
        // Nothing is left open by f32.
        Codec::F32 => Ok(decoded),
    }
}

/// The values that were sent are at least as large as all others, lie on the right side of the mean of those that were
/// sent, and have the two means that were sent.
fn sparse(bytes: &[u8], replayed: &[f32]) -> Result<Vec<f32>, CodecError> {
    let mut entries = decode_sparse(bytes, replayed.len())?.into_iter().peekable();
    let mut nearest = Vec::with_capacity(replayed.len());
    for block in replayed.chunks(SPARSE_BLOCK) {
        let start = nearest.len();
        let mut sent = Vec::with_capacity(KEPT);
        while let Some((index, value)) = entries.next_if(|entry| (entry.0 as usize) < start + block.len()) {
            sent.push((index as usize - start, value));
        }
        let mut opened = block.to_vec();
        // Fewer than there is room for: the others are too small for an f16.
        let limit = if sent.len() < KEPT { LEAST_F16 } else { kth_largest(block, KEPT) };
        for value in &mut opened {
            *value = value.clamp(-limit, limit);
        }
        for (magnitude, (at, value)) in magnitudes(block, &sent, limit)?.into_iter().zip(&sent) {
            opened[*at] = magnitude.copysign(*value);
        }
        nearest.append(&mut opened);
    }
    Ok(nearest)
}

/// Magnitudes of the values of a block that were sent.
fn magnitudes(block: &[f32], sent: &[(usize, f32)], limit: f32) -> Result<Vec<f32>, CodecError> {
    // With another sign than was sent, a value is as far off as can be.
    let towards = |(at, value): &(usize, f32)| (block[*at] * value.signum()).max(limit);
    let mut all: Vec<f32> = sent.iter().map(towards).collect();
    let mean = |values: &mut dyn Iterator<Item = f32>| {
        let (sum, count) =
            values.fold((0.0, 0.0), |(sum, count), value| (sum + f64::from(value), count + 1.0));
        (sum / count) as f32
    };
    let large = sent.iter().map(|(_, value)| value.abs()).fold(0.0, f32::max);
    let is_large = |(_, value): &(usize, f32)| value.abs() >= large;
    if !sent.iter().all(is_large) {
        let middle = mean(&mut all.iter().copied());
        for (magnitude, sent) in all.iter_mut().zip(sent) {
            *magnitude = if is_large(sent) { magnitude.max(middle) } else { magnitude.min(middle) };
        }
    }
    for of_large in [true, false] {
        let in_bin = |sent: &&(usize, f32)| is_large(sent) == of_large;
        let Some((_, scale)) = sent.iter().find(in_bin) else { continue };
        let mut bin = all.iter().zip(sent).filter(|(_, sent)| in_bin(sent)).map(|(value, _)| *value);
        let found = mean(&mut bin);
        let shift = clamp_to_f16(found, scale.abs())? - found;
        for (magnitude, _) in all.iter_mut().zip(sent).filter(|(_, sent)| in_bin(sent)) {
            *magnitude += shift;
        }
    }
    Ok(all)
}

/// The value of that rank by magnitude, the largest having rank 1; 0 where there are fewer.
fn kth_largest(block: &[f32], rank: usize) -> f32 {
    let mut magnitudes: Vec<f32> = block.iter().map(|value| value.abs()).collect();
    if magnitudes.len() < rank {
        return 0.0;
    }
    let (_, value, _) = magnitudes.select_nth_unstable_by(rank - 1, |a, b| b.total_cmp(a));
    *value
}

/// The nearest value that becomes a given f16.
fn clamp_to_f16(value: f32, half: f32) -> Result<f32, CodecError> {
    let clamped = halves(&Codec::F16.encode(&[half])?, &[value])?;
    Ok(clamped.first().copied().unwrap_or(half))
}

/// Each value may lie anywhere up to the middles between its f16 and the neighbors.
fn halves(bytes: &[u8], replayed: &[f32]) -> Result<Vec<f32>, CodecError> {
    let neighbors = |up: bool| {
        let shifted = bytes.as_chunks().0.iter().flat_map(|&two| {
            let bits = u16::from_le_bytes(two);
            let (sign, magnitude) = (bits & 0x8000, bits & 0x7fff);
            let neighbor = match (up, sign == 0, magnitude) {
                // The other side of zero.
                (true, _, 0) => 1,
                (false, _, 0) => 0x8001,
                (true, true, _) | (false, false, _) => sign | (magnitude + 1).min(0x7bff),
                _ => sign | (magnitude - 1),
            };
            neighbor.to_le_bytes()
        });
        Codec::F16.decode(&shifted.collect::<Vec<u8>>(), replayed.len())
    };
    let (value, above, below) =
        (Codec::F16.decode(bytes, replayed.len())?, neighbors(true)?, neighbors(false)?);
    let ends = value.iter().zip(above).zip(below);
    let clamped = replayed.iter().zip(ends).map(|(replayed, ((value, above), below))| {
        replayed.clamp(f32::midpoint(*value, below), f32::midpoint(*value, above))
    });
    Ok(clamped.collect())
}

/// Each value may lie up to half a step from its code's, but not beyond the scale.
fn blocks(
    bytes: &[u8],
    replayed: &[f32],
    decoded: &[f32],
    most: u16,
    code_bytes: usize,
) -> Result<Vec<f32>, CodecError> {
    let most = f32::from(most);
    let mut nearest = Vec::with_capacity(replayed.len());
    let parts = bytes.chunks(2 + code_bytes).zip(replayed.chunks(BLOCK).zip(decoded.chunks(BLOCK)));
    for (block, (bytes, (replayed, decoded))) in parts.enumerate() {
        let bits = bytes.first_chunk().map_or(0, |two| u16::from_le_bytes(*two));
        let of_bits =
            |bits: u16| Ok(Codec::F16.decode(&bits.to_le_bytes(), 1)?.first().copied().unwrap_or(0.0));
        let (scale, below) = (of_bits(bits)?, of_bits(bits.saturating_sub(1))?);
        let half = scale / (2.0 * most);
        // The scale is the largest magnitude, rounded up: a value above the next lower f16 must be possible.
        let largest = decoded.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if (largest + half) * (1.0 + f32::EPSILON * 8.0) < below {
            return Err(CodecError::Scale { block, scale });
        }
        nearest.extend(
            replayed.iter().zip(decoded).map(|(replayed, value)| {
                replayed.clamp((value - half).max(-scale), (value + half).min(scale))
            }),
        );
    }
    Ok(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, scale: f32) -> Vec<f32> {
        let spread = |at: usize| (((at * 7919) % 1009) as f32 / 504.5 - 1.0).powi(3);
        (0..count).map(|at| scale * spread(at)).collect()
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        let squares = |pairs: &mut dyn Iterator<Item = f64>| pairs.map(|x| x * x).sum::<f64>().sqrt();
        let difference = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
        difference / squares(&mut b.iter().map(|b| f64::from(*b)))
    }

    #[test]
    fn an_honest_update_is_never_farther_than_it_was() {
        for codec in [Codec::F32, Codec::F16, Codec::Int8, Codec::Int4, Codec::TopK] {
            for scale in [1.0, 3e-3, 1e-7] {
                let raw = values(1000, scale);
                let bytes = codec.encode(&raw).unwrap();
                // Within f32's rounding of the borders.
                assert!(distance(&nearest(codec, &bytes, &raw).unwrap(), &raw) < 1e-6, "{codec:?}");
                let drift = |(at, value): (usize, &f32)| value * (1.0 + 5e-5 * ((at % 5) as f32 - 2.0));
                let replayed: Vec<f32> = raw.iter().enumerate().map(drift).collect();
                let opened = nearest(codec, &bytes, &replayed).unwrap();
                assert!(distance(&opened, &replayed) <= distance(&raw, &replayed) + 1e-6, "{codec:?}");
            }
        }
    }

    #[test]
    fn other_updates_stay_far_off() {
        let raw = values(1000, 0.01);
        let doubled: Vec<f32> = raw.iter().map(|value| 2.0 * value).collect();
        let other: Vec<f32> = raw.iter().rev().copied().collect();
        for codec in [Codec::F32, Codec::F16, Codec::Int8, Codec::Int4, Codec::TopK] {
            for cheat in [&doubled, &other] {
                let opened = nearest(codec, &codec.encode(cheat).unwrap(), &raw).unwrap();
                assert!(distance(&opened, &raw) > 0.3, "{codec:?} {}", distance(&opened, &raw));
            }
        }
    }

    #[test]
    fn a_scale_beyond_the_values_explains_nothing() {
        let raw = values(600, 0.01);
        for codec in [Codec::Int8, Codec::Int4] {
            let mut bytes = codec.encode(&raw).unwrap();
            let block = codec.encoded_len(BLOCK);
            // All codes zero under a scale that would let every value be anything.
            bytes[block..2 * block].fill(0);
            bytes[block..][..2].copy_from_slice(&0x3c00_u16.to_le_bytes());
            assert!(
                matches!(nearest(codec, &bytes, &raw), Err(CodecError::Scale { block: 1, .. })),
                "{codec:?}"
            );
        }
    }
}
