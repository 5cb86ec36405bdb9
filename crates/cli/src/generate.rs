//! `potluck model generate` and `potluck model logits`: a folder's model on this machine's CPU, without a relay.

use crate::args::{GenerateArgs, LogitsArgs};
use crate::error::CliError;
use crate::model::{self, Model, ModelError};
use crate::stop::Stop;
use futures_util::FutureExt as _;
use potluck_train::data::{DataError, Tokenizer};
use potluck_train::gpt::{CpuGpt, GptConfig, Sampling};
use potluck_train::{Engine as _, TrainError};
use serde_json::json;
use std::io::{IsTerminal as _, Write};
use std::time::Instant;

/// Tokens that `logits` lists without `--json`.
const LISTED: usize = 10;

/// A model that writes.
pub struct Writer {
    engine: CpuGpt,
    seen: Vec<u32>,
    sampling: Sampling,
    position: u64,
}

impl Writer {
    /// A model with its parameters, about to write what follows `prompt` (at least one token).
    ///
    /// # Errors
    /// Sizes and parameters that do not fit.
    pub fn new(
        config: GptConfig,
        parameters: &[f32],
        prompt: &[u32],
        sampling: Sampling,
    ) -> Result<Self, TrainError> {
        let engine = loaded(config, parameters)?;
        let seen = prompt[prompt.len().saturating_sub(config.context)..].to_vec();
        Ok(Self { engine, seen, sampling, position: 0 })
    }

    /// The next token, as `potluck_train::gpt::generate` would draw it.
    ///
    /// # Errors
    /// A prompt that the model cannot read, or parameters that give no finite logits.
    pub fn write(&mut self) -> Result<u32, TrainError> {
        let token = self.sampling.draw(&self.engine.logits(&self.seen)?, self.position)?;
        if self.seen.len() == self.engine.config().context {
            self.seen.remove(0);
        }
        self.seen.push(token);
        self.position += 1;
        Ok(token)
    }
}

/// A CPU engine with parameters.
fn loaded(config: GptConfig, parameters: &[f32]) -> Result<CpuGpt, TrainError> {
    let mut engine = CpuGpt::new(config)?;
    ready(engine.load(parameters))??;
    Ok(engine)
}

/// The value of a future of the CPU engine, which never waits.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Result<T, TrainError> {
    future.now_or_never().ok_or_else(|| TrainError::Device("the CPU engine waits".to_owned()))
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
pub(crate) fn seed_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

/// Bytes of tokens as they come, text as soon as its characters are complete.
#[derive(Debug, Default)]
pub(crate) struct Characters {
    left: Vec<u8>,
}

impl Characters {
    /// The characters that are complete now. What can be no UTF-8 shows as U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
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
    pub(crate) fn finish(self) -> String {
        String::from_utf8_lossy(&self.left).into_owned()
    }
}

/// Whether bytes are the beginning of a character.
fn may_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// What a terminal may be sent: a model can write the characters that steer it.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Writes a text with a model, to stdout as it is made.
///
/// # Errors
/// A folder that cannot be read, a prompt with a character that the model does not know, Ctrl-C.
pub fn generate(args: &GenerateArgs, stop: &Stop) -> Result<(), CliError> {
    let Model { config, parameters, tokenizer } = model::import(&args.folder)?;
    let prompt = prompt_tokens(&tokenizer, &args.prompt).map_err(|cause| prompt_refused(&cause))?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, seed: seed_bytes(args.seed) };
    let mut writer = Writer::new(config, &parameters, &prompt, sampling).map_err(ModelError::from)?;
    let plain = std::io::stdout().is_terminal();
    let show = |text: &str| {
        if args.json || text.is_empty() {
            return Ok(());
        }
        let text = if plain { harmless(text) } else { text.to_owned() };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    let failed = |cause| CliError::System { what: "the text could not be written to stdout", cause };
    let (mut characters, mut text) = (Characters::default(), String::new());
    show(&args.prompt).map_err(failed)?;
    let started = Instant::now();
    for _ in 0..args.tokens {
        if stop.count() > 0 {
            return Err(CliError::Interrupted { job: None });
        }
        let token = writer.write().map_err(ModelError::from)?;
        let bytes = tokenizer.decode_bytes(&[token]).map_err(|cause| prompt_refused(&cause))?;
        let more = characters.push(&bytes);
        show(&more).map_err(failed)?;
        text += &more;
    }
    let more = characters.finish();
    show(&more).map_err(failed)?;
    text += &more;
    let speed = args.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
    if args.json {
        let outcome = json!({
            "prompt": args.prompt, "text": text, "tokens": args.tokens, "tokens_per_s": speed,
        });
        println!("{outcome}");
    } else {
        println!();
        if std::io::stderr().is_terminal() {
            eprintln!("{} tokens, {speed:.0} tokens/s", args.tokens);
        }
    }
    Ok(())
}

fn prompt_refused(cause: &DataError) -> CliError {
    CliError::Input {
        message: format!("the text cannot be read by this model: {cause}"),
        hint: "use characters that the model was trained on".into(),
    }
}

/// Prints logits.
///
/// # Errors
/// A folder that cannot be read, tokens that the model does not have, more of them than its context, Ctrl-C.
pub fn logits(args: &LogitsArgs, stop: &Stop) -> Result<(), CliError> {
    let Model { config, parameters, tokenizer } = model::import(&args.folder)?;
    let tokens = match &args.text {
        Some(text) => tokenizer.encode(text).map_err(|cause| prompt_refused(&cause))?,
        None => args.tokens.clone(),
    };
    if !(1..=config.context).contains(&tokens.len()) {
        return Err(CliError::Input {
            message: format!("{} tokens; the model sees 1 to {}", tokens.len(), config.context),
            hint: "give fewer or more of them".into(),
        });
    }
    let mut engine = loaded(config, &parameters).map_err(ModelError::from)?;
    let first = if args.all { 1 } else { tokens.len() };
    let mut rows = Vec::new();
    for end in first..=tokens.len() {
        if stop.count() > 0 {
            return Err(CliError::Interrupted { job: None });
        }
        rows.push(engine.logits(&tokens[..end]).map_err(ModelError::from)?);
    }
    if args.json {
        let mut object = json!({ "tokens": tokens, "logits": rows });
        if let Some(text) = &args.text {
            object["text"] = json!(text);
        }
        println!("{object}");
        return Ok(());
    }
    for (end, row) in (first..).zip(&rows) {
        println!("after {end} token(s):");
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        for token in order.into_iter().take(LISTED) {
            let text = tokenizer.decode(&[token as u32]).map_err(|cause| prompt_refused(&cause))?;
            println!("{token:>8}  {:>9.4}  {text:?}", row[token]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_train::gpt;

    #[test]
    fn the_writer_draws_as_the_library_does() {
        let config = GptConfig { vocabulary: 11, context: 6, layers: 2, heads: 2, width: 8, bias: false };
        let parameters = gpt::init(&config, &[1; 32]);
        let sampling = Sampling { temperature: 1.0, top_k: 5, seed: seed_bytes(7) };
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut engine = loaded(config, &parameters).unwrap();
        let expected = gpt::generate(&mut engine, &prompt, 30, &sampling).unwrap();
        let mut writer = Writer::new(config, &parameters, &prompt, sampling).unwrap();
        let found: Vec<u32> = (0..30).map(|_| writer.write().unwrap()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn characters_come_when_they_are_complete() {
        let mut characters = Characters::default();
        let parts: Vec<String> = "aä🙂".bytes().map(|byte| characters.push(&[byte])).collect();
        assert_eq!(parts, ["a", "", "ä", "", "", "", "🙂"]);
        assert_eq!(characters.push(b"\xf0\x9fx\xffy\xc3"), "\u{fffd}x\u{fffd}y");
        assert_eq!(characters.finish(), "\u{fffd}");
        assert_eq!(harmless("a\x1b[2Jb\n\u{9b}c\td"), "a[2Jb\nc\td");
    }
}
