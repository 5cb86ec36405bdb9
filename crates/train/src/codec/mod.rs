//! Codecs: how an update travels. Each is a function of the values' bits alone, specified down to each f32 operation.
//!
//! An update is a flat f32 vector, most often a pseudo-gradient. Blocks are cut from its start; the last one may be
//! short. All numbers are little-endian.
//!
//! | codec | bytes of a block | what they are |
//! |---|---|---|
//! | [`Codec::F32`] | 4 a value | the value |
//! | [`Codec::F16`] | 2 a value | the nearest f16, ties to even |
//! | [`Codec::Int8`] | 2 + 256 | f16 scale, then a signed byte a value, -127 to 127 |
//! | [`Codec::Int4`] (codec R) | 2 + 128 | f16 scale, then four bits a value, -7 to 7, the first value in the low half |
//! | [`Codec::TopK`] (codec S) | 116 of 4096 values | 64 indices and 64 two-bit values, see [`decode_sparse`] |
//!
//! The scale of an integer block is its largest magnitude, rounded up to f16, so that nothing is clipped. With m = 127
//! or 7, a value x becomes the integer next to (x · m) / scale (ties to even), and an integer q stands for
//! (q · scale) / m; each product and quotient is rounded to f32 once. So an integer's error is at most scale / 2m, save
//! for a rounding of f32, and the block's largest value comes back to within an f16's rounding.
//!
//! Determinism: additions, products, quotients and comparisons of f32 that IEEE 754 defines, in a fixed order, none of
//! them fused; no function of a math library. Subnormal f32 values take no part in a result, except in
//! [`Codec::F32`] and [`Feedback`], so the integer codecs and the sparse one do not depend on whether they are flushed.
//!
//! Limits: no codec carries a magnitude above [`MAX_MAGNITUDE`] or more than [`MAX_PARAMETERS`] values. Decoding
//! compares the length first and allocates only what that many values need.

mod blocks;
mod feedback;
mod half;
mod topk;

pub use feedback::Feedback;
pub use topk::decode_sparse;

pub(crate) use feedback::hash_values;

/// Largest magnitude that a codec carries: the largest f16. An update beyond it has diverged.
pub const MAX_MAGNITUDE: f32 = half::MAX;
/// Most values of one vector: 1 GiB of f32, more than a tab can hold.
pub const MAX_PARAMETERS: usize = 1 << 28;
/// Values that share one scale in [`Codec::Int8`] and [`Codec::Int4`].
pub const BLOCK: usize = 256;
/// Values of which [`Codec::TopK`] keeps the largest [`KEPT`].
pub const SPARSE_BLOCK: usize = 4096;
/// Values that [`Codec::TopK`] keeps of a block.
pub const KEPT: usize = 64;

/// Bytes of one block of [`Codec::TopK`]: two magnitudes, indices of 12 bits, values of 2 bits.
const SPARSE_BLOCK_BYTES: usize = 4 + KEPT * 12 / 8 + KEPT * 2 / 8;

/// A way to write an update as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    F32,
    /// Half precision.
    F16,
    /// Eight bits a value, a scale for each block of 256: the downlink.
    Int8,
    /// Codec R: four bits a value, a scale for each block of 256.
    Int4,
    /// Codec S: the 64 largest of each 4096, two bits a value. Use it with [`Feedback`].
    /// Source: Sarfi et al., SparseLoCo, arXiv 2508.15706.
    TopK,
}

/// Why something cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A vector that no tab could hold.
    #[error("{found} parameters; a codec takes at most {most}")]
    Parameters {
        /// Values asked for.
        found: usize,
        /// Most values.
        most: usize,
    },
    /// A NaN or an infinity.
    #[error("value {index} is not finite: the run diverged, or the update is broken; discard the update")]
    NotFinite {
        /// Which value.
        index: usize,
    },
    /// A magnitude above [`MAX_MAGNITUDE`].
    #[error("value {index} is {value:e}, beyond ±{MAX_MAGNITUDE}: the run diverged; discard the update")]
    TooLarge {
        /// Which value.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// Bytes of another length than the codec gives that many parameters.
    #[error("{found} bytes instead of {expected}: encode the same number of parameters with the same codec")]
    Length {
        /// Bytes that came.
        found: usize,
        /// Bytes by codec and parameters.
        expected: usize,
    },
    /// An update of another length than the error feedback has.
    #[error("{found} values for an error feedback of {expected}: it belongs to another model")]
    FeedbackLength {
        /// Values given.
        found: usize,
        /// Values of the error.
        expected: usize,
    },
    /// A scale that no encoder writes: negative, not finite, or zero in a block that has values.
    #[error("the scale of block {block} is {scale:e}: discard these bytes")]
    Scale {
        /// Which block.
        block: usize,
        /// What it says.
        scale: f32,
    },
    /// An integer that no encoder writes.
    #[error("value {index} is coded as {code}, which stands for nothing: discard these bytes")]
    Code {
        /// Which value.
        index: usize,
        /// The integer.
        code: i8,
    },
    /// An index beyond the parameters, or not above the one before it.
    #[error(
        "slot {slot} of block {block} names value {index} of it, out of order or beyond: discard these bytes"
    )]
    Index {
        /// Which block.
        block: usize,
        /// Which of the kept values.
        slot: usize,
        /// The index in the block.
        index: u16,
    },
    /// Bits that must be zero are not.
    #[error("unused bits of block {block} are not zero: discard these bytes")]
    Unused {
        /// Which block.
        block: usize,
    },
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Int8, Self::Int4, Self::TopK];

    /// Its name in run files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::TopK => "topk",
        }
    }

    /// Bytes of that many values.
    pub fn encoded_len(self, parameters: usize) -> usize {
        match self {
            Self::F32 => parameters.saturating_mul(4),
            Self::F16 => parameters.saturating_mul(2),
            Self::Int8 => parameters.saturating_add(2 * parameters.div_ceil(BLOCK)),
            Self::Int4 => parameters.div_ceil(2).saturating_add(2 * parameters.div_ceil(BLOCK)),
            Self::TopK => SPARSE_BLOCK_BYTES.saturating_mul(parameters.div_ceil(SPARSE_BLOCK)),
        }
    }

    /// Writes the values as [`Codec::encoded_len`] bytes.
    ///
    /// # Errors
    /// [`CodecError::NotFinite`] or [`CodecError::TooLarge`] with the index, or [`CodecError::Parameters`].
    pub fn encode(self, values: &[f32]) -> Result<Vec<u8>, CodecError> {
        check_values(values)?;
        let mut bytes = Vec::with_capacity(self.encoded_len(values.len()));
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|&value| half::from_f32(value).to_le_bytes())),
            Self::Int8 => blocks::encode_int8(values, &mut bytes),
            Self::Int4 => blocks::encode_int4(values, &mut bytes),
            Self::TopK => topk::encode(values, &mut bytes),
        }
        Ok(bytes)
    }

    /// Reads that many values. What [`Codec::TopK`] did not keep is zero.
    ///
    /// # Errors
    /// [`CodecError::Length`] and the errors of bytes that no encoder writes.
    pub fn decode(self, bytes: &[u8], parameters: usize) -> Result<Vec<f32>, CodecError> {
        self.check_length(bytes, parameters)?;
        match self {
            Self::F32 => {
                let values = bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
                checked(values)
            }
            Self::F16 => {
                let halves = bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word));
                checked(halves.map(half::to_f32).collect())
            }
            Self::Int8 => blocks::decode_int8(bytes, parameters),
            Self::Int4 => blocks::decode_int4(bytes, parameters),
            Self::TopK => topk::decode(bytes, parameters),
        }
    }

    fn check_length(self, bytes: &[u8], parameters: usize) -> Result<(), CodecError> {
        if parameters > MAX_PARAMETERS {
            return Err(CodecError::Parameters { found: parameters, most: MAX_PARAMETERS });
        }
        let expected = self.encoded_len(parameters);
        if bytes.len() == expected {
            return Ok(());
        }
        Err(CodecError::Length { found: bytes.len(), expected })
    }
}

/// Rounds values to f16 in place, as [`Codec::F16`] does.
///
/// # Errors
/// As [`Codec::encode`]; the values are then unchanged.
pub(crate) fn round_to_f16(values: &mut [f32]) -> Result<(), CodecError> {
    check_values(values)?;
    for value in values {
        *value = half::to_f32(half::from_f32(*value));
    }
    Ok(())
}

/// Whether the values are finite, small enough and not too many.
pub(crate) fn check_values(values: &[f32]) -> Result<(), CodecError> {
    if values.len() > MAX_PARAMETERS {
        return Err(CodecError::Parameters { found: values.len(), most: MAX_PARAMETERS });
    }
    // The magnitude's bits grow with the magnitude, and those of infinities and NaN are the greatest.
    let most = MAX_MAGNITUDE.to_bits();
    let bad = values.iter().position(|value| value.to_bits() & 0x7fff_ffff > most);
    match bad.map(|index| (index, values[index])) {
        None => Ok(()),
        Some((index, value)) if value.is_finite() => Err(CodecError::TooLarge { index, value }),
        Some((index, _)) => Err(CodecError::NotFinite { index }),
    }
}

fn checked(values: Vec<f32>) -> Result<Vec<f32>, CodecError> {
    check_values(&values)?;
    Ok(values)
}
