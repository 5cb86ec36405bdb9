//! From text to batches: tokenizers, the data set as a Merkle tree of token blocks, and who trains on what.
//!
//! The submitter turns the corpus into tokens once and publishes them as blocks. Volunteers and auditors know the
//! [`Spec`] of the data set and the [`Order`], fetch the blocks that a round touches, check each against the root, and
//! cut the same batches out of them.

mod blocks;
mod bpe;
mod error;
mod letters;
mod order;
mod tokenizer;
mod tree;

pub use blocks::{BLOCK_TOKENS, DataSet, Held, MAX_TOKENS, Spec};
pub use bpe::{Added, Bpe, BpeError, MAX_ADDED, MAX_TOKEN_BYTES, byte_characters};
pub use error::DataError;
pub use order::{BLOCKS_PER_ROUND, MAX_BATCH, Order, evenly};
pub use tokenizer::{Characters, MAX_CHARACTERS, Tokenizer};
pub use tree::{MAX_PROOF, Tree, check_inclusion, leaf};

/// Most bytes of text in a corpus: text, tokens and blocks are in memory together, up to nine times as many bytes.
pub const MAX_CORPUS_BYTES: usize = 256 << 20;
/// Least bytes of a corpus: one token to see and one to predict.
pub const MIN_CORPUS_BYTES: usize = 2;
/// One token in this many is kept for validation: the last tenth of the text.
pub const VALIDATION_SHARE: usize = 10;

/// A corpus as text.
///
/// # Errors
/// [`DataError::Corpus`] for too few or too many bytes, [`DataError::NotUtf8`] with the place of the first bad byte.
pub fn text(bytes: Vec<u8>) -> Result<String, DataError> {
    if !(MIN_CORPUS_BYTES..=MAX_CORPUS_BYTES).contains(&bytes.len()) {
        return Err(DataError::Corpus { bytes: bytes.len() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        let before = error.as_bytes()[..position].split(|byte| *byte == b'\n');
        DataError::NotUtf8 { position, line: before.count() }
    })
}

/// Tokens to train on and tokens to validate with: all but the last one in `share`, and these.
///
/// # Errors
/// [`DataError::TooShort`] if either part has no sequence of `context` tokens and the one that follows.
pub fn split(tokens: &[u32], share: usize, context: usize) -> Result<(&[u32], &[u32]), DataError> {
    // As nanoGPT's int(0.9 n): the training part is rounded down.
    let kept = tokens.len().div_ceil(share.max(2));
    let (train, validation) = tokens.split_at(tokens.len() - kept);
    for (part, tokens) in [("training", train.len()), ("validation", validation.len())] {
        if tokens <= context {
            return Err(DataError::TooShort { part, tokens, needed: context + 1 });
        }
    }
    Ok((train, validation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_corpus_is_refused_with_the_place() {
        assert_eq!(text(Vec::new()), Err(DataError::Corpus { bytes: 0 }));
        assert_eq!(text(b"x".to_vec()), Err(DataError::Corpus { bytes: 1 }));
        assert_eq!(text(b"ab\nc\xffd".to_vec()), Err(DataError::NotUtf8 { position: 4, line: 2 }));
        assert_eq!(text("äb".into()).as_deref(), Ok("äb"));
    }

    #[test]
    fn the_last_tenth_validates_and_both_parts_hold_a_sequence() {
        let tokens: Vec<u32> = (0..1_115_394).collect();
        let (train, validation) = split(&tokens, VALIDATION_SHARE, 64).unwrap();
        // nanoGPT prints these for Tiny Shakespeare.
        assert_eq!((train.len(), validation.len()), (1_003_854, 111_540));
        assert_eq!(validation[0], 1_003_854);
        assert!(split(&tokens[..650], VALIDATION_SHARE, 64).is_ok());
        let short = split(&tokens[..640], VALIDATION_SHARE, 64).unwrap_err();
        assert_eq!(short, DataError::TooShort { part: "validation", tokens: 64, needed: 65 });
        assert!(split(&[], VALIDATION_SHARE, 1).is_err());
        assert!(split(&[1, 2], 0, 1).is_err());
    }
}
