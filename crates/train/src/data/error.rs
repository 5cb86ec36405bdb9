//! Why a corpus, a tokenizer or a block cannot be used, and what to do.

use super::{BpeError, MAX_BATCH, MAX_CHARACTERS, MAX_CORPUS_BYTES, MAX_TOKENS, MIN_CORPUS_BYTES};

/// Why data cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No text, or too much.
    #[error(
        "a corpus of {bytes} bytes cannot be used: give {MIN_CORPUS_BYTES} to {MAX_CORPUS_BYTES} bytes of text"
    )]
    Corpus {
        /// Bytes given.
        bytes: usize,
    },
    /// Bytes that are no text.
    #[error(
        "byte {position} (line {line}) is not valid UTF-8: save the text as UTF-8, or leave the file out"
    )]
    NotUtf8 {
        /// Bytes before the first bad one.
        position: usize,
        /// Its line, from 1.
        line: usize,
    },
    /// More distinct characters than a vocabulary of characters may have.
    #[error(
        "the corpus has more than {MAX_CHARACTERS} distinct characters: use the tokenizer \"bytes\" or a BPE tokenizer"
    )]
    Vocabulary,
    /// A vocabulary of characters that is not sorted, or names one twice, or has fewer than two.
    #[error("a vocabulary of characters must have at least two, sorted, each once: build it from the corpus")]
    Unsorted,
    /// A character that the corpus did not have.
    #[error(
        "the character {character:?} at byte {position} is not in the vocabulary: leave it out, or use the tokenizer \
         \"bytes\""
    )]
    Character {
        /// The character.
        character: char,
        /// Bytes before it.
        position: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocabulary}: it belongs to another tokenizer")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A part of the corpus does not hold one sequence.
    #[error(
        "the {part} part has {tokens} tokens and needs {needed}: give more text, or the model a shorter context"
    )]
    TooShort {
        /// `training` or `validation`.
        part: &'static str,
        /// Tokens that it has.
        tokens: usize,
        /// Context + 1.
        needed: usize,
    },
    /// Tokens or a vocabulary that no data set can have.
    #[error(
        "a data set of {tokens} tokens from a vocabulary of {vocabulary} is outside 2..={MAX_TOKENS} and 2..=131072: \
         split the corpus, or use a smaller vocabulary"
    )]
    Size {
        /// Tokens.
        tokens: u64,
        /// Size of the vocabulary.
        vocabulary: u64,
    },
    /// There is no such block.
    #[error("block {index} does not exist: the data set has {blocks}")]
    NoBlock {
        /// Asked for.
        index: u32,
        /// Blocks of the data set.
        blocks: u32,
    },
    /// A block of another length than it must have.
    #[error("block {index} has {found} bytes instead of {expected}: fetch it again, from another peer")]
    BlockLength {
        /// The block.
        index: u32,
        /// Bytes given.
        found: usize,
        /// Bytes that it has.
        expected: usize,
    },
    /// A block that is not the data set's.
    #[error("block {index} is not in the data set: fetch it again, from another peer")]
    NotIncluded {
        /// The block.
        index: u32,
    },
    /// A block that has not arrived.
    #[error("block {index} is not here: fetch it first")]
    Missing {
        /// The block.
        index: u32,
    },
    /// A sequence that lies outside of the data set.
    #[error("no sequence of {length} tokens begins at token {start}: the data set has {tokens}")]
    Start {
        /// First token.
        start: u64,
        /// Positions.
        length: usize,
        /// Tokens of the data set.
        tokens: u64,
    },
    /// A batch of no or too many sequences.
    #[error("a batch of {sequences} sequences is outside 1..={MAX_BATCH}: choose another batch size")]
    Batch {
        /// Sequences asked for.
        sequences: usize,
    },
    /// The BPE tokenizer's tables do not fit together.
    #[error(transparent)]
    Bpe(#[from] BpeError),
}
