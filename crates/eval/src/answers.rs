//! What a volunteer sends back: the answers one after the other, each of the length that its item fixes.
//!
//! To a score item: millionths of a nat (i64, little-endian). To a generate item: each token (u32, little-endian).

use crate::EvalError;
use crate::items::{Item, Items, SCORE_ANSWER};
use potluck_train::gpt::GptConfig;

/// Most that a model may say against a token, in nats: far beyond what anything but a broken model says, and small
/// enough for the sum of a window to stay an integer that a double holds.
pub const MAX_NATS: f64 = 1e6;

/// The answer to an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What the model says against the window, in millionths of a nat.
    Score(i64),
    /// How the prompt goes on.
    Tokens(Vec<u32>),
}

/// The answers to the items of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers(Vec<Answer>);

impl Answers {
    /// Reads a result.
    ///
    /// # Errors
    /// [`EvalError::Answers`] for another length than [`Items::result_bytes`]; [`EvalError::Answer`] for a token beyond
    /// the vocabulary or a score that no model gives.
    pub fn decode(items: &Items, config: &GptConfig, bytes: &[u8]) -> Result<Self, EvalError> {
        let expected = items.result_bytes();
        if bytes.len() != expected {
            return Err(EvalError::Answers { found: bytes.len(), expected });
        }
        let mut rest = bytes;
        let answers = items.items().iter().enumerate().map(|(index, item)| {
            let (own, after) = rest.split_at(item.answer_bytes());
            rest = after;
            read(item, config, own).map_err(|why| EvalError::Answer { item: index, why })
        });
        Ok(Self(answers.collect::<Result<_, _>>()?))
    }

    /// The answers, in the order of the items.
    pub fn answers(&self) -> &[Answer] {
        &self.0
    }
}

/// The answer to one item, from exactly its bytes.
fn read(item: &Item, config: &GptConfig, bytes: &[u8]) -> Result<Answer, &'static str> {
    match item {
        Item::Score { tokens, from } => {
            let mut eight = [0; SCORE_ANSWER];
            eight.copy_from_slice(bytes);
            let score = i64::from_le_bytes(eight);
            let most = MAX_NATS * 1e6 * tokens.len().saturating_sub(*from) as f64;
            if score < 0 || score as f64 > most {
                return Err("no model gives such a score");
            }
            Ok(Answer::Score(score))
        }
        Item::Generate { .. } => {
            let tokens: Vec<_> =
                bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
            if tokens.iter().any(|token| *token as usize >= config.vocabulary) {
                return Err("a token is beyond the vocabulary");
            }
            Ok(Answer::Tokens(tokens))
        }
    }
}
