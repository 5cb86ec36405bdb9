//! What a shard asks: windows of text to score, prompts to continue; and their encoding.
//!
//! # Encoding
//! All numbers little-endian: 8 bytes [`MAGIC`], the number of items (u32), then each item:
//! - score: 1 (u8), tokens (u32), from (u32), the tokens (u32 each);
//! - generate: 2 (u8), tokens of the prompt (u32), tokens to generate (u32), temperature (f32), top k (u32), seed (32
//!   bytes), the prompt's tokens (u32 each).
//!
//! Nothing follows. There is one encoding for each list of items.

use crate::EvalError;
use potluck_train::gpt::{GptConfig, Sampling};

/// First bytes: the format and its version.
pub const MAGIC: [u8; 8] = *b"PLEVAL\x00\x01";
/// Most items of a shard: each is at least one forward pass.
pub const MAX_ITEMS: usize = 1 << 12;
/// Most tokens of all windows and prompts of a shard: 4 MiB of encoding, a moment's download.
pub const MAX_TOKENS: usize = 1 << 20;
/// Most tokens that a shard generates, each a forward pass: minutes of a slow core with the smallest models.
pub const MAX_GENERATED: usize = 1 << 16;
/// Least temperature above 0. Below, what machines round differently would decide the draw; take 0 instead.
pub const MIN_TEMPERATURE: f32 = 0.1;
/// Greatest temperature: beyond, every token is as likely as any.
pub const MAX_TEMPERATURE: f32 = 100.0;
/// Most bytes of an encoding.
pub const MAX_ITEMS_BYTES: usize = MAGIC.len() + 4 + MAX_ITEMS * GENERATE_BYTES + 4 * MAX_TOKENS;

const SCORE: u8 = 1;
const GENERATE: u8 = 2;
/// Bytes of a generate item before its prompt; a score item has fewer before its tokens.
const GENERATE_BYTES: usize = 1 + 4 + 4 + 4 + 4 + 32;
/// Bytes of the answer to a score item.
pub(crate) const SCORE_ANSWER: usize = 8;
/// Bytes of the answer to each token to generate.
pub(crate) const TOKEN_ANSWER: usize = 4;

/// One question to a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// How likely a window of text is. The answer is what the model says against `tokens[from..]`, each given all tokens
    /// before it, summed, in millionths of a nat.
    Score {
        /// The window: at least two tokens, and at most one more than the context.
        tokens: Vec<u32>,
        /// The first token that counts, from 1.
        from: usize,
    },
    /// How a text goes on. The answer is the tokens.
    Generate {
        /// What the model sees first: 1 to context tokens. Later it sees the last of prompt and output.
        prompt: Vec<u32>,
        /// Tokens to generate.
        count: usize,
        /// How they are drawn.
        sampling: Sampling,
    },
}

impl Item {
    /// A prompt to be continued with the likeliest tokens.
    pub const fn greedy(prompt: Vec<u32>, count: usize) -> Self {
        Self::Generate { prompt, count, sampling: Sampling { temperature: 0.0, top_k: 0, seed: [0; 32] } }
    }

    /// The window or prompt.
    pub fn tokens(&self) -> &[u32] {
        match self {
            Self::Score { tokens, .. } => tokens,
            Self::Generate { prompt, .. } => prompt,
        }
    }

    /// Bytes of the answer.
    pub fn answer_bytes(&self) -> usize {
        match self {
            Self::Score { .. } => SCORE_ANSWER,
            Self::Generate { count, .. } => TOKEN_ANSWER * count,
        }
    }

    /// Tokens that are generated.
    pub const fn generated(&self) -> usize {
        match self {
            Self::Score { .. } => 0,
            Self::Generate { count, .. } => *count,
        }
    }

    /// Forward passes that a volunteer makes: one to score a window, one for each token generated.
    pub const fn passes(&self) -> u64 {
        match self {
            Self::Score { .. } => 1,
            Self::Generate { count, .. } => *count as u64,
        }
    }

    /// Floating-point operations of a volunteer.
    pub fn flops(&self, config: &GptConfig) -> u64 {
        match self {
            Self::Score { tokens, .. } => config.forward_flops(tokens.len().saturating_sub(1)),
            Self::Generate { prompt, count, .. } => {
                let pass = |at: usize| config.forward_flops((prompt.len() + at).min(config.context));
                (0..*count).map(pass).fold(0, u64::saturating_add)
            }
        }
    }

    /// Floating-point operations of who checks the answer: one pass for all generated tokens that the model saw with the
    /// whole prompt, and one for each after that.
    pub fn check_flops(&self, config: &GptConfig) -> u64 {
        match self {
            Self::Score { .. } => self.flops(config),
            Self::Generate { prompt, count, .. } => {
                let whole = prompt.len() + count.saturating_sub(1);
                let beyond = whole.saturating_sub(config.context) as u64;
                let pass = config.forward_flops(config.context);
                config.forward_flops(whole.min(config.context)).saturating_add(beyond.saturating_mul(pass))
            }
        }
    }

    /// Tokens of the longest pass.
    fn longest(&self, config: &GptConfig) -> usize {
        match self {
            Self::Score { tokens, .. } => tokens.len().saturating_sub(1),
            Self::Generate { prompt, count, .. } => {
                (prompt.len() + count.saturating_sub(1)).min(config.context)
            }
        }
    }

    /// What is wrong with the item, if anything.
    fn problem(&self, config: &GptConfig) -> Option<&'static str> {
        let beyond = |tokens: &[u32]| tokens.iter().any(|token| *token as usize >= config.vocabulary);
        match self {
            Self::Score { tokens, from } => {
                if !(2..=config.context + 1).contains(&tokens.len()) {
                    return Some("a window has two tokens at least and one more than the context at most");
                }
                if !(1..tokens.len()).contains(from) {
                    return Some("scores begin with the second token or a later one of the window");
                }
            }
            Self::Generate { prompt, count, sampling } => {
                if !(1..=config.context).contains(&prompt.len()) {
                    return Some("a prompt has one token at least and the context at most");
                }
                if *count == 0 {
                    return Some("it generates nothing: ask for a token");
                }
                let Sampling { temperature, top_k, .. } = *sampling;
                let draws = (MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&temperature);
                if !draws && temperature.to_bits() != 0 {
                    return Some("its temperature is neither 0 nor within 0.1 to 100");
                }
                if top_k >= config.vocabulary {
                    return Some("its top k is the whole vocabulary or more: write 0 for all");
                }
            }
        }
        beyond(self.tokens()).then_some("a token is beyond the vocabulary: it belongs to another tokenizer")
    }
}

/// The items of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Items(Vec<Item>);

impl Items {
    /// Items for a model.
    ///
    /// # Errors
    /// [`EvalError::Limit`], [`EvalError::Item`], [`EvalError::Model`] for sizes that make no model.
    pub fn new(items: Vec<Item>, config: &GptConfig) -> Result<Self, EvalError> {
        let items = Self(items);
        items.check(config)?;
        Ok(items)
    }

    /// Whether a model can run them.
    ///
    /// # Errors
    /// As [`Items::new`].
    pub fn check(&self, config: &GptConfig) -> Result<(), EvalError> {
        config.check()?;
        within("items", self.0.len(), MAX_ITEMS)?;
        within("tokens", self.0.iter().map(|item| item.tokens().len()).sum(), MAX_TOKENS)?;
        let generated = self.0.iter().fold(0, |sum: usize, item| sum.saturating_add(item.generated()));
        if generated > MAX_GENERATED {
            within("tokens to generate", generated, MAX_GENERATED)?;
        }
        match self.0.iter().enumerate().find_map(|(item, it)| Some((item, it.problem(config)?))) {
            Some((item, why)) => Err(EvalError::Item { item, why }),
            None => Ok(()),
        }
    }

    /// The items, in order.
    pub fn items(&self) -> &[Item] {
        &self.0
    }

    /// Bytes of the result.
    pub fn result_bytes(&self) -> usize {
        self.0.iter().map(Item::answer_bytes).sum()
    }

    /// Forward passes of a volunteer.
    pub fn passes(&self) -> u64 {
        self.0.iter().map(Item::passes).sum()
    }

    /// Floating-point operations of a volunteer. An estimate, for deadlines.
    pub fn flops(&self, config: &GptConfig) -> u64 {
        self.0.iter().map(|item| item.flops(config)).fold(0, u64::saturating_add)
    }

    /// Bytes that [`crate::Evaluation`] holds, beside the caller's own copy of the parameters.
    pub fn memory_bytes(&self, config: &GptConfig) -> u64 {
        let longest = self.0.iter().map(|item| item.longest(config)).max().unwrap_or(1);
        let tokens: usize = self.0.iter().map(|item| item.tokens().len()).sum();
        let held =
            tokens * 4 + self.0.len() * size_of::<Item>() + self.result_bytes() + 16 * config.vocabulary;
        config.step_bytes(1, longest).saturating_add(held as u64)
    }

    /// The items as bytes, at most [`MAX_ITEMS_BYTES`] of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let number = |out: &mut Vec<u8>, value: usize| out.extend((value as u32).to_le_bytes());
        number(&mut out, self.0.len());
        for item in &self.0 {
            match item {
                Item::Score { tokens, from } => {
                    out.push(SCORE);
                    number(&mut out, tokens.len());
                    number(&mut out, *from);
                }
                Item::Generate { prompt, count, sampling } => {
                    out.push(GENERATE);
                    number(&mut out, prompt.len());
                    number(&mut out, *count);
                    out.extend(sampling.temperature.to_le_bytes());
                    number(&mut out, sampling.top_k);
                    out.extend(sampling.seed);
                }
            }
            out.extend(item.tokens().iter().flat_map(|token| token.to_le_bytes()));
        }
        out
    }

    /// Reads what [`Items::encode`] wrote.
    ///
    /// # Errors
    /// [`EvalError::Encoding`] where the bytes are no items, and as [`Items::new`].
    pub fn decode(bytes: &[u8], config: &GptConfig) -> Result<Self, EvalError> {
        let mut reader = Reader { bytes, position: 0 };
        if reader.array::<8>("the first bytes of items")? != MAGIC {
            return Err(EvalError::Encoding { position: 0, expected: "the first bytes of items" });
        }
        let count = reader.number("the number of items")?;
        within("items", count, MAX_ITEMS)?;
        let mut left = MAX_TOKENS;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            let position = reader.position;
            let item = match reader.array::<1>("an item")? {
                [SCORE] => {
                    let length = reader.number("a window's length")?;
                    let from = reader.number("where scores begin")?;
                    Item::Score { tokens: reader.tokens(length, &mut left)?, from }
                }
                [GENERATE] => {
                    let length = reader.number("a prompt's length")?;
                    let count = reader.number("the tokens to generate")?;
                    let temperature = f32::from_le_bytes(reader.array("a temperature")?);
                    let top_k = reader.number("a top k")?;
                    let seed = reader.array("a seed")?;
                    let prompt = reader.tokens(length, &mut left)?;
                    Item::Generate { prompt, count, sampling: Sampling { temperature, top_k, seed } }
                }
                _ => return Err(EvalError::Encoding { position, expected: "1 (score) or 2 (generate)" }),
            };
            items.push(item);
        }
        if reader.position < bytes.len() {
            return Err(EvalError::Encoding { position: reader.position, expected: "the end" });
        }
        Self::new(items, config)
    }
}

fn within(what: &'static str, found: usize, most: usize) -> Result<(), EvalError> {
    if (1..=most).contains(&found) {
        Ok(())
    } else {
        Err(EvalError::Limit { what, found: found as u64, most: most as u64 })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], EvalError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(slice) = rest.get(..length) else {
            return Err(EvalError::Encoding { position: self.bytes.len(), expected });
        };
        self.position += length;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], EvalError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(N, expected)?);
        Ok(array)
    }

    fn number(&mut self, expected: &'static str) -> Result<usize, EvalError> {
        Ok(u32::from_le_bytes(self.array(expected)?) as usize)
    }

    /// Tokens, of which `left` may come.
    fn tokens(&mut self, length: usize, left: &mut usize) -> Result<Vec<u32>, EvalError> {
        if length > *left {
            let found = (MAX_TOKENS - *left).saturating_add(length) as u64;
            return Err(EvalError::Limit { what: "tokens", found, most: MAX_TOKENS as u64 });
        }
        *left -= length;
        let bytes = self.slice(4 * length, "tokens")?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect())
    }
}
