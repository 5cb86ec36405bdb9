//! The data set: tokens in blocks, each named by the hash of its bytes, all under one root.
//!
//! A block is [`BLOCK_TOKENS`] tokens (the last one may have fewer), little-endian, two bytes each for vocabularies of
//! up to 65,536 and four for others: 32 or 64 KiB, which is one chunk on a socket. A sequence and the token that follows
//! it lie within one block or two neighbors.
//!
//! The root hashes the vocabulary, the number of tokens and the root of the [`Tree`]: one hash in a round's specification
//! settles everything.

use super::tree::{Tree, check_inclusion, leaf};
use super::{DataError, MAX_BATCH};
use crate::Batch;
use crate::gpt::{MAX_CONTEXT, MAX_VOCABULARY};
use potluck_types::BlobHash;
use std::collections::BTreeMap;

/// Tokens of a block.
pub const BLOCK_TOKENS: usize = 16_384;
/// Most tokens of a data set: those of the largest corpus, byte by byte.
pub const MAX_TOKENS: u64 = super::MAX_CORPUS_BYTES as u64;
/// Most vocabularies that two bytes can number.
const MAX_SHORT: u32 = 1 << 16;
/// Prefix of the root.
const ROOT: &[u8] = b"potluck data root v1";

/// What everybody knows of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Size of the vocabulary.
    pub vocabulary: u32,
    /// Tokens in all.
    pub tokens: u64,
    /// Root of the tree over the blocks.
    pub tree: [u8; 32],
}

impl Spec {
    /// Whether there can be such a data set.
    ///
    /// # Errors
    /// [`DataError::Size`].
    pub fn check(&self) -> Result<(), DataError> {
        let (tokens, vocabulary) = (self.tokens, u64::from(self.vocabulary));
        if (2..=MAX_TOKENS).contains(&tokens) && (2..=MAX_VOCABULARY as u64).contains(&vocabulary) {
            return Ok(());
        }
        Err(DataError::Size { tokens, vocabulary })
    }

    /// The hash that names the data set: BLAKE3 of a prefix, the vocabulary (u32), the tokens (u64) and the root of
    /// the tree, little-endian.
    pub fn root(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(ROOT).update(&self.vocabulary.to_le_bytes()).update(&self.tokens.to_le_bytes());
        *hasher.update(&self.tree).finalize().as_bytes()
    }

    /// Blocks in all.
    pub const fn blocks(&self) -> u32 {
        self.tokens.div_ceil(BLOCK_TOKENS as u64) as u32
    }

    /// Bytes of a token.
    pub const fn token_bytes(&self) -> usize {
        if self.vocabulary <= MAX_SHORT { 2 } else { 4 }
    }

    /// Bytes of a block.
    ///
    /// # Errors
    /// [`DataError::NoBlock`].
    pub fn block_bytes(&self, index: u32) -> Result<usize, DataError> {
        let blocks = self.blocks();
        if index >= blocks {
            return Err(DataError::NoBlock { index, blocks });
        }
        let before = u64::from(index) * BLOCK_TOKENS as u64;
        Ok((self.tokens - before).min(BLOCK_TOKENS as u64) as usize * self.token_bytes())
    }

    /// Whether a block of this name is number `index` of the data set.
    pub fn includes(&self, index: u32, name: &BlobHash, proof: &[[u8; 32]]) -> bool {
        check_inclusion(&self.tree, self.blocks(), index, &leaf(name), proof)
    }

    /// The blocks in which a sequence of `length` tokens and the token after it lie.
    ///
    /// # Errors
    /// [`DataError::Start`] if the data set ends before that, or no model has such a context.
    pub fn blocks_of(&self, start: u64, length: usize) -> Result<std::ops::RangeInclusive<u32>, DataError> {
        let fits = (1..=MAX_CONTEXT).contains(&length);
        let last = start.checked_add(length as u64).filter(|last| fits && *last < self.tokens);
        let last = last.ok_or(DataError::Start { start, length, tokens: self.tokens })?;
        Ok((start / BLOCK_TOKENS as u64) as u32..=(last / BLOCK_TOKENS as u64) as u32)
    }

    fn read(&self, bytes: &[u8], into: &mut Vec<u32>) {
        match self.token_bytes() {
            2 => into.extend(bytes.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two)))),
            _ => into.extend(bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four))),
        }
    }
}

/// A whole data set, for who publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    spec: Spec,
    bytes: Vec<u8>,
    names: Vec<BlobHash>,
    tree: Tree,
}

impl DataSet {
    /// Puts tokens into blocks.
    ///
    /// # Errors
    /// [`DataError::Size`], or [`DataError::Token`] for one beyond the vocabulary.
    pub fn new(tokens: &[u32], vocabulary: usize) -> Result<Self, DataError> {
        let size = u32::try_from(vocabulary).unwrap_or(u32::MAX);
        let mut spec = Spec { vocabulary: size, tokens: tokens.len() as u64, tree: [0; 32] };
        spec.check()?;
        if let Some(&token) = tokens.iter().find(|token| **token >= size) {
            return Err(DataError::Token { token, vocabulary });
        }
        let width = spec.token_bytes();
        let mut bytes = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            bytes.extend_from_slice(&token.to_le_bytes()[..width]);
        }
        let names: Vec<_> = bytes.chunks(BLOCK_TOKENS * width).map(BlobHash::of).collect();
        // A data set of two tokens or more has a block.
        let tree = Tree::new(names.iter().map(leaf).collect())
            .ok_or(DataError::Size { tokens: 0, vocabulary: vocabulary as u64 })?;
        spec.tree = tree.root();
        Ok(Self { spec, bytes, names, tree })
    }

    /// What everybody may know.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// All tokens, in order.
    pub fn tokens(&self) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(self.spec.tokens as usize);
        self.spec.read(&self.bytes, &mut tokens);
        tokens
    }

    /// Names of the blocks, in order.
    pub fn names(&self) -> &[BlobHash] {
        &self.names
    }

    /// A block's bytes.
    ///
    /// # Errors
    /// [`DataError::NoBlock`].
    pub fn block(&self, index: u32) -> Result<&[u8], DataError> {
        let length = self.spec.block_bytes(index)?;
        let start = index as usize * BLOCK_TOKENS * self.spec.token_bytes();
        Ok(&self.bytes[start..start + length])
    }

    /// A block's proof of inclusion.
    ///
    /// # Errors
    /// [`DataError::NoBlock`].
    pub fn proof(&self, index: u32) -> Result<Vec<[u8; 32]>, DataError> {
        self.tree.proof(index).ok_or(DataError::NoBlock { index, blocks: self.spec.blocks() })
    }

    /// Cuts a batch; see [`Held::batch`].
    ///
    /// # Errors
    /// As [`Held::batch`], but no block is missing.
    pub fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        batch(&self.spec, starts, length, |index| self.block(index))
    }
}

/// The blocks of a data set that are here, each checked when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    spec: Spec,
    blocks: BTreeMap<u32, Vec<u8>>,
}

impl Held {
    /// Holds nothing yet.
    ///
    /// # Errors
    /// [`DataError::Size`].
    pub fn new(spec: Spec) -> Result<Self, DataError> {
        spec.check()?;
        Ok(Self { spec, blocks: BTreeMap::new() })
    }

    /// The data set.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Takes a block from a stranger.
    ///
    /// # Errors
    /// [`DataError::NoBlock`], [`DataError::BlockLength`], [`DataError::NotIncluded`], and [`DataError::Token`] if the
    /// publisher put a token into it that the vocabulary does not have. Nothing is kept then.
    pub fn insert(&mut self, index: u32, bytes: Vec<u8>, proof: &[[u8; 32]]) -> Result<(), DataError> {
        let expected = self.spec.block_bytes(index)?;
        if bytes.len() != expected {
            return Err(DataError::BlockLength { index, found: bytes.len(), expected });
        }
        if !self.spec.includes(index, &BlobHash::of(&bytes), proof) {
            return Err(DataError::NotIncluded { index });
        }
        let mut tokens = Vec::with_capacity(BLOCK_TOKENS);
        self.spec.read(&bytes, &mut tokens);
        if let Some(&token) = tokens.iter().find(|token| **token >= self.spec.vocabulary) {
            return Err(DataError::Token { token, vocabulary: self.spec.vocabulary as usize });
        }
        self.blocks.insert(index, bytes);
        Ok(())
    }

    /// Lets a block go.
    pub fn remove(&mut self, index: u32) {
        self.blocks.remove(&index);
    }

    /// Indices of the blocks that are here.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.keys().copied()
    }

    /// Whether a block is here.
    pub fn contains(&self, index: u32) -> bool {
        self.blocks.contains_key(&index)
    }

    /// Cuts the sequences that begin at `starts`, each with the token that follows at every position.
    ///
    /// # Errors
    /// [`DataError::Batch`], [`DataError::Start`], or [`DataError::Missing`] for the first block that is not here.
    pub fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        batch(&self.spec, starts, length, |index| {
            self.blocks.get(&index).map(Vec::as_slice).ok_or(DataError::Missing { index })
        })
    }
}

fn batch<'a>(
    spec: &Spec,
    starts: &[u64],
    length: usize,
    block: impl Fn(u32) -> Result<&'a [u8], DataError>,
) -> Result<Batch, DataError> {
    let sequences = starts.len();
    if !(1..=MAX_BATCH).contains(&sequences) {
        return Err(DataError::Batch { sequences });
    }
    // All starts are checked before anything is reserved for them.
    for start in starts {
        spec.blocks_of(*start, length)?;
    }
    let width = spec.token_bytes();
    let (mut inputs, mut targets) =
        (Vec::with_capacity(sequences * length), Vec::with_capacity(sequences * length));
    let mut tokens = Vec::with_capacity(length + 1);
    for &start in starts {
        tokens.clear();
        for index in spec.blocks_of(start, length)? {
            let bytes = block(index)?;
            // Only the first block is entered in its middle, only the last one left there.
            let first = u64::from(index) * BLOCK_TOKENS as u64;
            let from = start.saturating_sub(first) as usize;
            let to = (bytes.len() / width).min(from + length + 1 - tokens.len());
            spec.read(&bytes[from * width..to * width], &mut tokens);
        }
        inputs.extend_from_slice(&tokens[..length]);
        targets.extend_from_slice(&tokens[1..]);
    }
    Ok(Batch { sequences, length, inputs, targets })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that tell where they stand.
    fn tokens(count: usize, vocabulary: u32) -> Vec<u32> {
        (0..count as u32).map(|at| at.wrapping_mul(2_654_435_761) % vocabulary).collect()
    }

    fn held(set: &DataSet, indices: impl IntoIterator<Item = u32>) -> Held {
        let mut held = Held::new(*set.spec()).unwrap();
        for index in indices {
            held.insert(index, set.block(index).unwrap().to_vec(), &set.proof(index).unwrap()).unwrap();
        }
        held
    }

    #[test]
    fn batches_are_cut_within_blocks_across_them_and_at_the_end() {
        for vocabulary in [65, 65_536, 65_537, 131_072] {
            let tokens = tokens(3 * BLOCK_TOKENS + 100, vocabulary);
            let set = DataSet::new(&tokens, vocabulary as usize).unwrap();
            assert_eq!(set.spec().blocks(), 4);
            assert_eq!(set.block(3).unwrap().len(), 100 * set.spec().token_bytes());
            let end = tokens.len() as u64;
            let starts =
                [0, 5, BLOCK_TOKENS as u64 - 64, BLOCK_TOKENS as u64 - 1, 2 * BLOCK_TOKENS as u64, end - 65];
            let batch = held(&set, 0..4).batch(&starts, 64).unwrap();
            assert_eq!(batch, set.batch(&starts, 64).unwrap());
            for (row, start) in starts.iter().enumerate() {
                let start = *start as usize;
                assert_eq!(batch.inputs[row * 64..][..64], tokens[start..][..64]);
                assert_eq!(batch.targets[row * 64..][..64], tokens[start + 1..][..64]);
            }
            let long = set.batch(&[BLOCK_TOKENS as u64 - 9], MAX_CONTEXT).unwrap();
            assert_eq!(long.targets, tokens[BLOCK_TOKENS - 8..][..MAX_CONTEXT]);
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let set = DataSet::new(&tokens(2 * BLOCK_TOKENS, 65), 65).unwrap();
        let held = held(&set, [0]);
        assert_eq!(held.indices().collect::<Vec<_>>(), [0]);
        let boundary = BLOCK_TOKENS as u64 - 64;
        assert!(held.batch(&[boundary - 1], 64).is_ok());
        assert_eq!(held.batch(&[boundary], 64), Err(DataError::Missing { index: 1 }));
        let end = 2 * BLOCK_TOKENS as u64;
        for start in [end - 64, end, u64::MAX] {
            assert_eq!(
                held.batch(&[start], 64),
                Err(DataError::Start { start, length: 64, tokens: end }),
                "{start}"
            );
        }
        assert!(matches!(held.batch(&[0], usize::MAX), Err(DataError::Start { .. })));
        assert!(matches!(held.batch(&[0], MAX_CONTEXT + 1), Err(DataError::Start { .. })));
        assert!(matches!(held.batch(&[0], 0), Err(DataError::Start { .. })));
        assert_eq!(held.batch(&[], 64), Err(DataError::Batch { sequences: 0 }));
        assert!(matches!(held.batch(&vec![0; MAX_BATCH + 1], 1), Err(DataError::Batch { .. })));
        assert_eq!(DataSet::new(&[0, 1, 2], 2), Err(DataError::Token { token: 2, vocabulary: 2 }));
        assert!(matches!(DataSet::new(&[0], 2), Err(DataError::Size { .. })));
        assert!(matches!(DataSet::new(&[0, 0], 1), Err(DataError::Size { .. })));
        assert!(matches!(DataSet::new(&[0, 0], MAX_VOCABULARY + 1), Err(DataError::Size { .. })));
    }

    #[test]
    fn blocks_of_strangers_are_checked() {
        let set = DataSet::new(&tokens(3 * BLOCK_TOKENS, 65), 65).unwrap();
        let mut held = Held::new(*set.spec()).unwrap();
        let (bytes, proof) = (set.block(1).unwrap().to_vec(), set.proof(1).unwrap());
        let mut changed = bytes.clone();
        changed[0] ^= 1;
        assert_eq!(held.insert(1, changed, &proof), Err(DataError::NotIncluded { index: 1 }));
        assert_eq!(held.insert(0, bytes.clone(), &proof), Err(DataError::NotIncluded { index: 0 }));
        assert_eq!(held.insert(1, bytes.clone(), &[]), Err(DataError::NotIncluded { index: 1 }));
        assert!(matches!(held.insert(1, vec![0; 7], &proof), Err(DataError::BlockLength { .. })));
        assert_eq!(held.insert(3, bytes.clone(), &proof), Err(DataError::NoBlock { index: 3, blocks: 3 }));
        assert!(!held.contains(1));
        held.insert(1, bytes, &proof).unwrap();
        assert!(held.contains(1));
        held.remove(1);
        assert!(!held.contains(1));

        // A publisher who lies about the vocabulary: the blocks are in the tree, but their tokens are refused.
        let liar = Spec { vocabulary: 30, ..*set.spec() };
        let mut held = Held::new(liar).unwrap();
        let refused = held.insert(1, set.block(1).unwrap().to_vec(), &proof);
        assert!(matches!(refused, Err(DataError::Token { vocabulary: 30, .. })));
    }

    #[test]
    fn the_root_settles_everything_and_never_changes() {
        let set = DataSet::new(&tokens(BLOCK_TOKENS + 1, 65), 65).unwrap();
        let spec = *set.spec();
        let others = [
            Spec { vocabulary: 66, ..spec },
            Spec { tokens: spec.tokens + 1, ..spec },
            Spec { tree: [1; 32], ..spec },
        ];
        assert!(others.iter().all(|other| other.root() != spec.root()));
        assert_eq!(
            BlobHash(spec.root()).to_string(),
            "b639a343a5a06fa4fb134b08bad04eecd65e67f93d80706f5957f0b57ce4b8ae"
        );
        assert_eq!(set.names()[1], BlobHash::of(set.block(1).unwrap()));
    }
}
