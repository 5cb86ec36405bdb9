//! Error feedback: what a codec left out is added to the next update.

use super::{Codec, CodecError, check_values};
use potluck_types::BlobHash;

/// Bytes that are hashed at once.
const HASH_BYTES: usize = 4096;

/// What a codec has left out so far.
///
/// With e the error and d the next update: c = (decay · e) + d is encoded, and e becomes c minus what the encoding
/// stands for; each product, sum and difference is rounded to f32 on its own. The state before and after a round
/// is committed with the update, so that an auditor can repeat the encoding bit by bit.
/// Source: Sarfi et al., SparseLoCo, arXiv 2508.15706, algorithm 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    codec: Codec,
    decay: f32,
    error: Vec<f32>,
}

impl Feedback {
    /// What codec S encodes with.
    pub const SPARSE_CODEC: Codec = Codec::TopK;

    /// Decay of the error of [`Codec::TopK`].
    pub const SPARSE_DECAY: f32 = 0.95;

    /// How far ahead a worker of codec S starts: measured, see decision 0012.
    pub const LOOKAHEAD: f32 = 0.5;

    /// Codec S: [`Codec::TopK`] with an error that decays by 0.95.
    ///
    /// # Errors
    /// [`CodecError::Parameters`].
    pub fn sparse(parameters: usize) -> Result<Self, CodecError> {
        Self::new(Self::SPARSE_CODEC, Self::SPARSE_DECAY, parameters)
    }

    /// No error yet. A `decay` of 1 forgets nothing.
    ///
    /// # Errors
    /// [`CodecError::Parameters`].
    pub fn new(codec: Codec, decay: f32, parameters: usize) -> Result<Self, CodecError> {
        if parameters > super::MAX_PARAMETERS {
            return Err(CodecError::Parameters { found: parameters, most: super::MAX_PARAMETERS });
        }
        Ok(Self { codec, decay, error: vec![0.0; parameters] })
    }

    /// Goes on from an error that was stored.
    ///
    /// # Errors
    /// As [`Codec::encode`], for the error.
    pub fn resume(codec: Codec, decay: f32, error: Vec<f32>) -> Result<Self, CodecError> {
        check_values(&error)?;
        Ok(Self { codec, decay, error })
    }

    /// What was left out.
    pub fn error(&self) -> &[f32] {
        &self.error
    }

    /// Where a worker starts its round: ahead of the common parameters by a part of what it has not sent yet,
    /// θ - (lookahead · e), each product and difference rounded on its own. Its next updates then do not repeat what
    /// waits to be sent.
    ///
    /// # Errors
    /// [`CodecError::FeedbackLength`].
    pub fn ahead(&self, parameters: &[f32], lookahead: f32) -> Result<Vec<f32>, CodecError> {
        if parameters.len() != self.error.len() {
            return Err(CodecError::FeedbackLength { found: parameters.len(), expected: self.error.len() });
        }
        Ok(parameters.iter().zip(&self.error).map(|(parameter, e)| parameter - lookahead * e).collect())
    }

    /// An update and what was left out before: what is to be encoded.
    ///
    /// # Errors
    /// [`CodecError::FeedbackLength`].
    pub fn sum(&self, update: &[f32]) -> Result<Vec<f32>, CodecError> {
        if update.len() != self.error.len() {
            return Err(CodecError::FeedbackLength { found: update.len(), expected: self.error.len() });
        }
        Ok(self.error.iter().zip(update).map(|(e, d)| (self.decay * e) + d).collect())
    }

    /// The state of who had such a sum and sent these bytes.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn left(codec: Codec, decay: f32, mut sum: Vec<f32>, bytes: &[u8]) -> Result<Self, CodecError> {
        let sent = codec.decode(bytes, sum.len())?;
        for (value, sent) in sum.iter_mut().zip(sent) {
            *value -= sent;
        }
        Ok(Self { codec, decay, error: sum })
    }

    /// Encodes an update and what was left out before.
    ///
    /// # Errors
    /// [`CodecError::FeedbackLength`], or as [`Codec::encode`] for the sum; the state is then as it was.
    pub fn encode(&mut self, update: &[f32]) -> Result<Vec<u8>, CodecError> {
        let sum = self.sum(update)?;
        let bytes = self.codec.encode(&sum)?;
        *self = Self::left(self.codec, self.decay, sum, &bytes)?;
        Ok(bytes)
    }

    /// Adds something to the error that the next encoding should make good.
    pub(crate) fn carry(&mut self, missing: impl Iterator<Item = f32>) {
        for (error, missing) in self.error.iter_mut().zip(missing) {
            *error += missing;
        }
    }

    /// Hash of the state: BLAKE3 in its mode for deriving keys, of the error's f32, little-endian.
    pub fn hash(&self) -> BlobHash {
        let mut hasher = blake3::Hasher::new_derive_key("potluck 2026 error feedback v1");
        hash_values(&mut hasher, &self.error);
        BlobHash(*hasher.finalize().as_bytes())
    }
}

/// Hashes f32 as little-endian bytes.
pub(crate) fn hash_values(hasher: &mut blake3::Hasher, values: &[f32]) {
    let mut bytes = [0; HASH_BYTES];
    for values in values.chunks(HASH_BYTES / 4) {
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        hasher.update(&bytes[..4 * values.len()]);
    }
}
