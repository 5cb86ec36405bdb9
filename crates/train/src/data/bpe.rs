//! Byte-level byte-pair encoding, as GPT-2's and as the `tokenizers` library runs it.
//!
//! Text is cut at added tokens, then into words by GPT-2's pattern, and each word's bytes are merged: always the pair whose
//! merge comes first in the list, leftmost first. Source: Sennrich et al., arXiv 1508.07909; Radford et al. 2019,
//! `encoder.py`.

use super::letters::is_letter;
use crate::gpt::MAX_VOCABULARY;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Most bytes of a token: real vocabularies stay below 130.
pub const MAX_TOKEN_BYTES: usize = 1024;
/// Most added tokens: the text is searched for each of them.
pub const MAX_ADDED: usize = 256;
/// Words whose tokens are remembered while a text is encoded.
const MAX_REMEMBERED: usize = 1 << 16;
/// Longest word that is remembered, in bytes.
const MAX_REMEMBERED_BYTES: usize = 64;

/// Why tables make no tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BpeError {
    /// Too few or too many tokens.
    #[error("a BPE vocabulary of {found} tokens is outside 256..={MAX_VOCABULARY}: use another tokenizer")]
    Size {
        /// Tokens found.
        found: usize,
    },
    /// Too many added tokens.
    #[error("{found} added tokens are more than {MAX_ADDED}: remove those that the text does not use")]
    Added {
        /// Tokens found.
        found: usize,
    },
    /// Ids must be 0, 1, 2 and so on.
    #[error(
        "the id {id} of the token {token:?} is used twice, or there are gaps below it: number tokens from 0"
    )]
    Id {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
    },
    /// A token that is empty, or longer than [`MAX_TOKEN_BYTES`].
    #[error("the token {token:?} is empty or longer than {MAX_TOKEN_BYTES} bytes: use another tokenizer")]
    Length {
        /// Its beginning.
        token: String,
    },
    /// A token twice in the vocabulary.
    #[error("the token {token:?} is in the vocabulary twice: use another tokenizer")]
    Twice {
        /// The token.
        token: String,
    },
    /// A character that stands for no byte.
    #[error(
        "the token {token:?} is not written in GPT-2's characters for bytes: only byte-level BPE is implemented"
    )]
    Alphabet {
        /// The token.
        token: String,
    },
    /// A byte without a token of its own.
    #[error(
        "the byte {byte:#04x} has no token: only vocabularies that can encode every text are implemented"
    )]
    Byte {
        /// The byte.
        byte: u8,
    },
    /// A merge whose parts or whole are not in the vocabulary, or that is listed twice.
    #[error(
        "merge {number} ({left:?} {right:?}) is listed twice, or the vocabulary lacks a part of it or its result"
    )]
    Merge {
        /// Its place in the list, from 0.
        number: usize,
        /// Left part.
        left: String,
        /// Right part.
        right: String,
    },
}

/// A token that is found in the text as it stands, before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its text.
    pub content: String,
    /// Its id; may be in the vocabulary too.
    pub id: u32,
}

/// A byte-level BPE tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bpe {
    /// The bytes of each token.
    tokens: Vec<Vec<u8>>,
    /// What stands in the vocabulary, by id; `None` for tokens that were only added.
    names: Vec<Option<String>>,
    merges: Vec<(u32, u32)>,
    added: Vec<Added>,
    /// Token of each byte.
    bytes: Vec<u32>,
    /// For a pair: its place in the list, and the token that it becomes.
    pairs: HashMap<(u32, u32), (u32, u32)>,
}

/// GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others are moved up from U+0100.
pub fn byte_characters() -> [char; 256] {
    let mut moved = 0x100..;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => moved.next().and_then(char::from_u32).unwrap_or_default(),
    })
}

impl Bpe {
    /// Builds a tokenizer from the tables of a `tokenizer.json`: tokens in GPT-2's characters for bytes, merges in order,
    /// tokens added to them.
    ///
    /// # Errors
    /// [`BpeError`]: every byte must have a token, and every merge must lead from tokens to a token.
    pub fn new(
        vocabulary: Vec<(String, u32)>,
        merges: Vec<(String, String)>,
        added: Vec<Added>,
    ) -> Result<Self, BpeError> {
        if added.len() > MAX_ADDED {
            return Err(BpeError::Added { found: added.len() });
        }
        let size = vocabulary.len()
            + added.iter().filter(|added| !vocabulary.iter().any(|(_, id)| *id == added.id)).count();
        if !(256..=MAX_VOCABULARY).contains(&size) {
            return Err(BpeError::Size { found: size });
        }
        let mut built = Self {
            tokens: vec![Vec::new(); size],
            names: vec![None; size],
            merges: Vec::with_capacity(merges.len()),
            added: Vec::new(),
            bytes: vec![u32::MAX; 256],
            pairs: HashMap::with_capacity(merges.len()),
        };
        let mut ids = HashMap::with_capacity(vocabulary.len());
        built.take_added(added)?;
        let characters = byte_characters();
        let back: HashMap<char, u8> =
            (0..=u8::MAX).map(|byte| (characters[usize::from(byte)], byte)).collect();
        for (token, id) in vocabulary {
            let is_added = built.added.iter().any(|added| added.id == id && added.content == token);
            let name = built.names.get_mut(id as usize).filter(|name| name.is_none());
            let free = is_added || built.tokens.get(id as usize).is_some_and(Vec::is_empty);
            let Some(name) = name.filter(|_| free) else { return Err(BpeError::Id { token, id }) };
            *name = Some(token.clone());
            if !is_added {
                let bytes: Option<Vec<u8>> = token.chars().map(|c| back.get(&c).copied()).collect();
                let Some(bytes) = bytes else { return Err(BpeError::Alphabet { token }) };
                check_length(&bytes, &token)?;
                if let [byte] = bytes[..] {
                    built.bytes[usize::from(byte)] = id;
                }
                built.tokens[id as usize] = bytes;
            }
            if ids.insert(token.clone(), id).is_some() {
                return Err(BpeError::Twice { token });
            }
        }
        // As many ids as places, none used twice: no gaps are left.
        if let Some(byte) = built.bytes.iter().position(|id| *id == u32::MAX) {
            return Err(BpeError::Byte { byte: byte as u8 });
        }
        for (number, (left, right)) in merges.into_iter().enumerate() {
            let whole = ids.get(&format!("{left}{right}")).copied();
            let parts = ids.get(&left).copied().zip(ids.get(&right).copied());
            let fresh = parts.zip(whole).filter(|(pair, _)| !built.pairs.contains_key(pair));
            let Some((pair, whole)) = fresh else { return Err(BpeError::Merge { number, left, right }) };
            built.pairs.insert(pair, (number as u32, whole));
            built.merges.push(pair);
        }
        Ok(built)
    }

    fn take_added(&mut self, added: Vec<Added>) -> Result<(), BpeError> {
        for one in added {
            check_length(one.content.as_bytes(), &one.content)?;
            if self.added.iter().any(|other| other.content == one.content) {
                return Err(BpeError::Twice { token: one.content });
            }
            let place = self.tokens.get_mut(one.id as usize).filter(|bytes| bytes.is_empty());
            let Some(bytes) = place else { return Err(BpeError::Id { token: one.content, id: one.id }) };
            *bytes = one.content.clone().into_bytes();
            self.added.push(one);
        }
        Ok(())
    }

    /// Size of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in GPT-2's characters for bytes, with their ids; without those that were only added.
    pub fn names(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..).zip(&self.names).filter_map(|(id, name)| name.as_deref().map(|name| (name, id)))
    }

    /// Merges, in order, as names.
    pub fn merges(&self) -> impl Iterator<Item = (&str, &str)> {
        let name = |id: u32| self.names.get(id as usize).and_then(Option::as_deref).unwrap_or_default();
        self.merges.iter().map(move |(left, right)| (name(*left), name(*right)))
    }

    /// Tokens that were added.
    pub fn added(&self) -> &[Added] {
        &self.added
    }

    /// Whether this is nothing but the 256 bytes, each its own id.
    pub fn is_bytes(&self) -> bool {
        self.tokens.len() == 256
            && self.added.is_empty()
            && (0..).zip(&self.bytes).all(|(byte, id): (u32, _)| byte == *id)
    }

    /// The bytes of a token.
    pub fn bytes_of(&self, token: u32) -> Option<&[u8]> {
        self.tokens.get(token as usize).map(Vec::as_slice)
    }

    /// Tokens of a text, in time that grows with its length times the logarithm of its longest word.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut remembered: HashMap<&str, Vec<u32>> = HashMap::new();
        // Where each added token comes next: looked for again only once it was passed, so that the text is searched
        // once for each of them.
        let mut next: Vec<Option<usize>> = self.added.iter().map(|added| text.find(&added.content)).collect();
        let mut at = 0;
        while at < text.len() {
            let found = self.next_added(text, at, &mut next);
            let end = found.map_or(text.len(), |(place, _)| place);
            let mut words = &text[at..end];
            while !words.is_empty() {
                let (word, after) = words.split_at(word_length(words));
                words = after;
                if let Some(known) = remembered.get(word) {
                    tokens.extend_from_slice(known);
                    continue;
                }
                let from = tokens.len();
                self.merge(word.as_bytes(), &mut tokens);
                if word.len() <= MAX_REMEMBERED_BYTES && remembered.len() < MAX_REMEMBERED {
                    remembered.insert(word, tokens[from..].to_vec());
                }
            }
            tokens.extend(found.map(|(_, added)| added.id));
            at = end + found.map_or(0, |(_, added)| added.content.len());
        }
        tokens
    }

    /// The first added token at or after `at`: the leftmost, of these the longest.
    fn next_added(&self, text: &str, at: usize, next: &mut [Option<usize>]) -> Option<(usize, &Added)> {
        for (place, added) in next.iter_mut().zip(&self.added) {
            if place.is_some_and(|place| place < at) {
                *place = text[at..].find(&added.content).map(|found| at + found);
            }
        }
        let places = next.iter().zip(&self.added).filter_map(|(place, added)| Some(((*place)?, added)));
        places.min_by_key(|(place, added)| (*place, Reverse(added.content.len())))
    }

    /// Merges the bytes of a word. A heap of candidates and a list of neighbors: no word takes quadratic time.
    fn merge(&self, word: &[u8], into: &mut Vec<u32>) {
        let mut parts: Vec<Part> = (0..word.len())
            .map(|at| Part {
                token: self.bytes[usize::from(word[at])],
                before: at.checked_sub(1),
                after: (at + 1 < word.len()).then_some(at + 1),
                alive: true,
            })
            .collect();
        let candidate = |parts: &[Part], left: usize| {
            let right = parts[left].after?;
            let pair = (parts[left].token, parts[right].token);
            self.pairs.get(&pair).map(|(rank, whole)| Reverse((*rank, left, pair, *whole)))
        };
        let mut heap: BinaryHeap<_> = (0..word.len()).filter_map(|left| candidate(&parts, left)).collect();
        while let Some(Reverse((_, left, pair, whole))) = heap.pop() {
            let Some(right) = parts[left].after.filter(|_| parts[left].alive) else { continue };
            if (parts[left].token, parts[right].token) != pair {
                continue;
            }
            let after = parts[right].after;
            parts[right].alive = false;
            parts[left].token = whole;
            parts[left].after = after;
            if let Some(after) = after {
                parts[after].before = Some(left);
            }
            heap.extend(candidate(&parts, left));
            heap.extend(parts[left].before.and_then(|before| candidate(&parts, before)));
        }
        into.extend(parts.iter().filter(|part| part.alive).map(|part| part.token));
    }
}

/// A token of a word that is being merged.
struct Part {
    token: u32,
    before: Option<usize>,
    after: Option<usize>,
    alive: bool,
}

fn check_length(bytes: &[u8], token: &str) -> Result<(), BpeError> {
    if (1..=MAX_TOKEN_BYTES).contains(&bytes.len()) {
        return Ok(());
    }
    Err(BpeError::Length { token: token.chars().take(32).collect() })
}

/// Bytes of the first word of a text that is not empty, by GPT-2's pattern:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn word_length(text: &str) -> usize {
    const SHORT: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
    if let Some(short) = SHORT.iter().find(|short| text.starts_with(**short)) {
        return short.len();
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    if let Some(class) = body.chars().next().map(Class::of).filter(|class| *class != Class::Space) {
        let end = body.find(|character| Class::of(character) != class).unwrap_or(body.len());
        return text.len() - body.len() + end;
    }
    // White space. Where a word follows, the last character of it is left to that word.
    let end = text.find(|character: char| !character.is_whitespace()).unwrap_or(text.len());
    if end == text.len() {
        return end;
    }
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end > last { end - last } else { end }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Class {
    fn of(character: char) -> Self {
        if is_letter(character) {
            Self::Letter
        } else if character.is_numeric() {
            Self::Number
        } else if character.is_whitespace() {
            Self::Space
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
#[path = "bpe_tests.rs"]
mod tests;
