//! Text in, text out.

use potluck_train::TrainError;
use potluck_train::data::{DataError, Tokenizer};
use potluck_train::gpt::{Decoder, Sampling, Writer};

/// Why a model writes nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A prompt with a character that the model does not know.
    #[error("the model cannot read this: {0}; use characters that it was trained on")]
    Prompt(DataError),
    /// A token that stands for no text: tokenizer and model do not belong together.
    #[error("what the model writes is no text: {0}; its tokenizer is another model’s")]
    Token(DataError),
    /// What the model itself says.
    #[error(transparent)]
    Model(#[from] TrainError),
}

/// Tokens of a prompt; of an empty one a line break, as at the beginning of a text, or the first token.
///
/// # Errors
/// A character that the vocabulary does not have.
pub fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, DataError> {
    if !prompt.is_empty() {
        return tokenizer.encode(prompt);
    }
    Ok(tokenizer.encode("\n").ok().filter(|tokens| !tokens.is_empty()).unwrap_or_else(|| vec![0]))
}

/// A seed for drawing: the number's bytes, then zeros.
pub fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Bytes of tokens as they come, text as soon as its characters are complete.
#[derive(Debug, Default)]
pub struct Characters {
    left: Vec<u8>,
}

impl Characters {
    /// The characters that are complete now. What can be no UTF-8 shows as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.left.extend_from_slice(bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.left.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let end = used + chunk.invalid().len();
            if chunk.invalid().is_empty() || (end == self.left.len() && may_go_on(chunk.invalid())) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            used = end;
        }
        self.left.drain(..used);
        text
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.left)).into_owned()
    }
}

/// Whether bytes are the beginning of a character.
fn may_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// A model that continues texts.
///
/// Determinism: bitwise, everywhere, as [`Writer`]: a seed gives the same text at the relay, at a command line and in a
/// page.
pub struct TextWriter {
    tokenizer: Tokenizer,
    writer: Writer,
    characters: Characters,
    prompt_tokens: usize,
}

impl TextWriter {
    /// Begins to continue a prompt. Nothing is computed yet.
    ///
    /// # Errors
    /// [`TextError::Prompt`]; [`TextError::Model`] for a tokenizer with more tokens than the model.
    pub fn new(
        decoder: Decoder,
        tokenizer: Tokenizer,
        prompt: &str,
        sampling: Sampling,
    ) -> Result<Self, TextError> {
        let tokens = prompt_tokens(&tokenizer, prompt).map_err(TextError::Prompt)?;
        let writer = Writer::new(decoder, &tokens, sampling)?;
        Ok(Self { tokenizer, writer, characters: Characters::default(), prompt_tokens: tokens.len() })
    }

    /// Begins another text.
    ///
    /// # Errors
    /// As [`TextWriter::new`]; the text before can go on then.
    pub fn begin(&mut self, prompt: &str, sampling: Sampling) -> Result<(), TextError> {
        let tokens = prompt_tokens(&self.tokenizer, prompt).map_err(TextError::Prompt)?;
        self.writer.begin(&tokens, sampling)?;
        (self.characters, self.prompt_tokens) = (Characters::default(), tokens.len());
        Ok(())
    }

    /// Tokens of the prompt.
    pub const fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens written.
    pub const fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Works for a moment. `None` while it reads; else what a token added to the text: nothing where a character is not
    /// complete yet.
    ///
    /// # Errors
    /// [`TextError::Token`], and what [`Writer::step`] says.
    pub fn step(&mut self) -> Result<Option<String>, TextError> {
        let Some(token) = self.writer.step()? else { return Ok(None) };
        let bytes = self.tokenizer.decode_bytes(&[token]).map_err(TextError::Token)?;
        Ok(Some(self.characters.push(&bytes)))
    }

    /// What the next token adds to the text.
    ///
    /// # Errors
    /// As [`TextWriter::step`].
    pub fn write(&mut self) -> Result<String, TextError> {
        loop {
            if let Some(text) = self.step()? {
                return Ok(text);
            }
        }
    }

    /// What is left of a character that was never completed, at the end of a text.
    pub fn finish(&mut self) -> String {
        self.characters.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_train::gpt::{GptConfig, init};

    #[test]
    fn characters_come_when_they_are_complete() {
        let mut characters = Characters::default();
        let parts: Vec<String> = "aä🙂".bytes().map(|byte| characters.push(&[byte])).collect();
        assert_eq!(parts, ["a", "", "ä", "", "", "", "🙂"]);
        assert_eq!(characters.push(b"\xf0\x9fx\xffy\xc3"), "\u{fffd}x\u{fffd}y");
        assert_eq!(characters.finish(), "\u{fffd}");
        assert_eq!(characters.finish(), "");
    }

    #[test]
    fn pieces_are_the_whole_and_a_seed_gives_the_same() {
        let config = GptConfig { vocabulary: 256, context: 12, layers: 2, heads: 2, width: 16, bias: false };
        let sampling = |seed| Sampling { temperature: 1.0, top_k: 0, seed: seed_bytes(seed) };
        let decoder = Decoder::new(config, init(&config, &[2; 32])).unwrap();
        let mut writer = TextWriter::new(decoder, Tokenizer::Bytes, "Ahoi", sampling(1)).unwrap();
        assert_eq!(writer.prompt_tokens(), 4);
        let mut text = |prompt: &str, seed: u64| {
            writer.begin(prompt, sampling(seed)).unwrap();
            let mut text: String = (0..60).map(|_| writer.write().unwrap()).collect();
            assert_eq!(writer.written(), 60);
            text += &writer.finish();
            text
        };
        let one = text("Ahoi", 1);
        assert_ne!(one, text("Ahoi", 2));
        assert_ne!(one, text("", 1));
        assert_eq!(one, text("Ahoi", 1));
        assert_eq!(text("", 3), text("\n", 3));
        // The whole at once, from the tokens themselves.
        let decoder = Decoder::new(config, init(&config, &[2; 32])).unwrap();
        let tokens = Tokenizer::Bytes.encode("Ahoi").unwrap();
        let mut writer = Writer::new(decoder, &tokens, sampling(1)).unwrap();
        let tokens: Vec<u32> = (0..60).map(|_| writer.write().unwrap()).collect();
        assert_eq!(one, Tokenizer::Bytes.decode(&tokens).unwrap());
    }
}
