//! Text to tokens and back: characters, bytes, or a byte-level BPE.

use super::{Bpe, DataError};
use crate::gpt::MAX_VOCABULARY;

/// Most distinct characters of a vocabulary: enough for any novel in any script; more would make the embedding the
/// greater part of a small model.
pub const MAX_CHARACTERS: usize = 8192;

/// A vocabulary of characters: token `n` is the `n`th in the order of Unicode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Characters(Vec<char>);

impl Characters {
    /// The distinct characters of a corpus.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] for more than [`MAX_CHARACTERS`], [`DataError::Unsorted`] for fewer than two.
    pub fn of(corpus: &str) -> Result<Self, DataError> {
        // A bit for each code point; most texts have few.
        let mut seen = vec![false; char::MAX as usize + 1];
        let mut distinct = Vec::new();
        for character in corpus.chars() {
            if !std::mem::replace(&mut seen[character as usize], true) {
                distinct.push(character);
            }
            if distinct.len() > MAX_CHARACTERS {
                return Err(DataError::Vocabulary);
            }
        }
        distinct.sort_unstable();
        Self::new(distinct)
    }

    /// A vocabulary that is known.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] for more than [`MAX_CHARACTERS`], [`DataError::Unsorted`] unless there are two or more,
    /// sorted, each once.
    pub fn new(characters: Vec<char>) -> Result<Self, DataError> {
        if characters.len() > MAX_CHARACTERS {
            return Err(DataError::Vocabulary);
        }
        if characters.len() < 2 || !characters.is_sorted_by(|one, next| one < next) {
            return Err(DataError::Unsorted);
        }
        Ok(Self(characters))
    }

    /// The characters, in order.
    pub fn characters(&self) -> &[char] {
        &self.0
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ascii = [None; 128];
        for (token, character) in (0..).zip(&self.0) {
            if let Some(place) = ascii.get_mut(*character as usize) {
                *place = Some(token);
            }
        }
        let find = |(position, character): (usize, char)| {
            let known = match ascii.get(character as usize) {
                Some(token) => *token,
                None => self.0.binary_search(&character).ok().map(|at| at as u32),
            };
            known.ok_or(DataError::Character { character, position })
        };
        text.char_indices().map(find).collect()
    }
}

/// A tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokenizer {
    /// A token for each character of the corpus.
    Characters(Characters),
    /// A token for each byte.
    Bytes,
    /// A byte-level BPE, as GPT-2's.
    Bpe(Bpe),
}

impl Tokenizer {
    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Characters(characters) => characters.0.len(),
            Self::Bytes => 256,
            Self::Bpe(bpe) => bpe.vocabulary(),
        }
    }

    /// Tokens of a text, never more than it has bytes.
    ///
    /// # Errors
    /// [`DataError::Character`] for the first character that a vocabulary of characters does not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self {
            Self::Characters(characters) => characters.encode(text),
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::Bpe(bpe) => Ok(bpe.encode(text)),
        }
    }

    /// The bytes that tokens stand for. What was encoded comes back exactly.
    ///
    /// # Errors
    /// [`DataError::Token`] for the first token that there is not.
    pub fn decode_bytes(&self, tokens: &[u32]) -> Result<Vec<u8>, DataError> {
        let vocabulary = self.vocabulary();
        debug_assert!(vocabulary <= MAX_VOCABULARY);
        let mut bytes = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let unknown = DataError::Token { token, vocabulary };
            match self {
                Self::Characters(characters) => {
                    let character = characters.0.get(token as usize).ok_or(unknown)?;
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Self::Bytes => bytes.push(u8::try_from(token).map_err(|_| unknown)?),
                Self::Bpe(bpe) => bytes.extend_from_slice(bpe.bytes_of(token).ok_or(unknown)?),
            }
        }
        Ok(bytes)
    }

    /// The text that tokens stand for. Bytes that are no UTF-8, as a model may well write, show as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode_bytes`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        let bytes = self.decode_bytes(tokens)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_are_sorted_and_come_back() {
        let text = "Ein Käfer – 🙂\n";
        let tokenizer = Tokenizer::Characters(Characters::of(text).unwrap());
        assert_eq!(tokenizer.vocabulary(), 12);
        let tokens = tokenizer.encode(text).unwrap();
        // Newline, space, E, K, e, f, i, n, r, ä, –, 🙂.
        assert_eq!(tokens, [2, 6, 7, 1, 3, 9, 5, 4, 8, 1, 10, 1, 11, 0]);
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        let unknown = tokenizer.encode("Käse").unwrap_err();
        assert_eq!(unknown, DataError::Character { character: 's', position: 3 });
        assert_eq!(tokenizer.decode(&[0, 12]), Err(DataError::Token { token: 12, vocabulary: 12 }));
    }

    #[test]
    fn vocabularies_have_limits() {
        let many: String = ('\u{4e00}'..).take(MAX_CHARACTERS + 1).collect();
        assert_eq!(Characters::of(&many), Err(DataError::Vocabulary));
        assert!(Characters::of(many.strip_prefix('\u{4e00}').unwrap()).is_ok());
        assert_eq!(Characters::new(many.chars().collect()), Err(DataError::Vocabulary));
        assert_eq!(Characters::of("aaaa"), Err(DataError::Unsorted));
        assert_eq!(Characters::of(""), Err(DataError::Unsorted));
        assert_eq!(Characters::new(vec!['b', 'a']), Err(DataError::Unsorted));
        assert_eq!(Characters::new(vec!['a', 'a']), Err(DataError::Unsorted));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_and_kept() {
        assert_eq!(Tokenizer::Bytes.decode(&[0xc3, 0xa4, 0xff, 0x41]).unwrap(), "ä\u{fffd}A");
        assert_eq!(Tokenizer::Bytes.decode_bytes(&[0xff]).unwrap(), [0xff]);
        assert_eq!(Tokenizer::Bytes.decode(&[256]), Err(DataError::Token { token: 256, vocabulary: 256 }));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in ".{2,60}") {
            let mut tokenizers = vec![Tokenizer::Bytes];
            tokenizers.extend(Characters::of(&text).map(Tokenizer::Characters));
            for tokenizer in tokenizers {
                let tokens = tokenizer.encode(&text).unwrap();
                prop_assert!(tokens.len() <= text.len());
                prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text.clone());
            }
        }
    }
}
