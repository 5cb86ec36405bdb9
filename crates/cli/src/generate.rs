//! `potluck model generate` and `potluck model logits`: a folder's model on this machine's CPU, without a relay.

use crate::args::{GenerateArgs, LogitsArgs};
use crate::error::CliError;
use crate::model::{self, Model, ModelError};
use crate::stop::Stop;
use futures_util::FutureExt as _;
use potluck_model::{TextError, TextWriter, seed_bytes};
use potluck_train::data::DataError;
use potluck_train::gpt::{CpuGpt, Decoder, GptConfig, Sampling};
use potluck_train::{Engine as _, TrainError};
use serde_json::json;
use std::io::{IsTerminal as _, Write};
use std::time::Instant;

/// Tokens that `logits` lists without `--json`.
const LISTED: usize = 10;

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
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, seed: seed_bytes(args.seed) };
    let decoder = Decoder::new(config, parameters).map_err(ModelError::from)?;
    let mut writer = TextWriter::new(decoder, tokenizer, &args.prompt, sampling).map_err(refused)?;
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
    let mut text = String::new();
    show(&args.prompt).map_err(failed)?;
    let started = Instant::now();
    for _ in 0..args.tokens {
        if stop.count() > 0 {
            return Err(CliError::Interrupted { job: None });
        }
        let more = writer.write().map_err(refused)?;
        show(&more).map_err(failed)?;
        text += &more;
    }
    let more = writer.finish();
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

fn refused(cause: TextError) -> CliError {
    match cause {
        TextError::Prompt(cause) | TextError::Token(cause) => prompt_refused(&cause),
        TextError::Model(cause) => ModelError::from(cause).into(),
        other => CliError::Input { message: other.to_string(), hint: "take another model".into() },
    }
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

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(harmless("a\x1b[2Jb\n\u{9b}c\td"), "a[2Jb\nc\td");
    }
}
