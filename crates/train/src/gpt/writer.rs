//! A text from a model, a token at a time: what a prompt's tokens are continued with.
//!
//! # Beyond the context
//! A model knows as many positions as its context has, and what is kept of a token belongs to its position. Once they are
//! all taken, the last half of what was seen is read anew, from the first position on, and half of the context is free
//! again: on average a token more is read for each that is written, and the model sees at least half of its context.
//! (Moving on by a single token would be a forward pass over the whole context for each.)

use super::cpu::{CHUNK, Decoder};
use super::{GptConfig, Sampling};
use crate::TrainError;

/// A model that writes.
///
/// Determinism: bitwise, everywhere, a function of parameters, prompt and sampling, as [`Decoder`] and [`Sampling::draw`].
pub struct Writer {
    decoder: Decoder,
    /// What the model sees, the newest last: never more than the context. It has read the first of these.
    window: Vec<u32>,
    sampling: Sampling,
    /// Tokens written.
    written: u64,
}

impl Writer {
    /// Begins to continue a prompt. Nothing is computed yet. Of a prompt that is longer than the context, the end is seen.
    ///
    /// # Errors
    /// [`TrainError::Batch`] for an empty prompt, [`TrainError::Token`].
    pub fn new(decoder: Decoder, prompt: &[u32], sampling: Sampling) -> Result<Self, TrainError> {
        let mut writer = Self { decoder, window: Vec::new(), sampling, written: 0 };
        writer.begin(prompt, sampling)?;
        Ok(writer)
    }

    /// Begins another text.
    ///
    /// # Errors
    /// As [`Writer::new`]; the text before can go on then.
    pub fn begin(&mut self, prompt: &[u32], sampling: Sampling) -> Result<(), TrainError> {
        let GptConfig { context, vocabulary, .. } = *self.decoder.config();
        if prompt.is_empty() {
            let why = "it has no tokens: a text needs something to begin with";
            return Err(TrainError::Batch { sequences: 1, length: 0, why });
        }
        if let Some(token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Err(TrainError::Token { token: *token, vocabulary });
        }
        self.decoder.clear();
        self.window.clear();
        self.window.extend_from_slice(&prompt[prompt.len().saturating_sub(context)..]);
        (self.sampling, self.written) = (sampling, 0);
        Ok(())
    }

    /// The model's sizes.
    pub const fn config(&self) -> &GptConfig {
        self.decoder.config()
    }

    /// Tokens written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Works for a moment: reads at most [`CHUNK`] tokens of what it has to see. If it has read all of it, the next token.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] for parameters that give no finite logits.
    pub fn step(&mut self) -> Result<Option<u32>, TrainError> {
        let Self { decoder, window, sampling, written } = self;
        let unread = &window[decoder.seen()..];
        decoder.feed(&unread[..unread.len().min(CHUNK)])?;
        if decoder.seen() < window.len() {
            return Ok(None);
        }
        let token = sampling.draw(decoder.logits()?, *written)?;
        let context = decoder.config().context;
        if window.len() == context {
            // With the new token, half of the context.
            window.drain(..=context - (context / 2).max(1));
            decoder.clear();
        }
        window.push(token);
        *written += 1;
        Ok(Some(token))
    }

    /// The next token.
    ///
    /// # Errors
    /// As [`Writer::step`].
    pub fn write(&mut self) -> Result<u32, TrainError> {
        loop {
            if let Some(token) = self.step()? {
                return Ok(token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::{CpuGpt, init};

    fn sampling(temperature: f32, top_k: usize) -> Sampling {
        Sampling { temperature, top_k, seed: [9; 32] }
    }

    fn config(context: usize) -> GptConfig {
        GptConfig { vocabulary: 11, context, layers: 2, heads: 2, width: 8, bias: true }
    }

    fn text(config: GptConfig, prompt: &[u32], sampling: Sampling, count: usize) -> Vec<u32> {
        let decoder = Decoder::new(config, init(&config, &[1; 32])).unwrap();
        let mut writer = Writer::new(decoder, prompt, sampling).unwrap();
        (0..count).map(|_| writer.write().unwrap()).collect()
    }

    #[test]
    fn the_seed_decides_the_text() {
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
        let write = |prompt: &[u32], sampling| text(config(6), prompt, sampling, 40);
        let one = write(&prompt, sampling(1.0, 0));
        assert_eq!(one.len(), 40);
        assert_eq!(one, write(&prompt, sampling(1.0, 0)));
        assert_eq!(one, write(&prompt[2..], sampling(1.0, 0)), "only the context is seen");
        assert_ne!(one, write(&prompt, Sampling { seed: [8; 32], ..sampling(1.0, 0) }));
        assert_eq!(write(&prompt, sampling(1.0, 1)), write(&prompt, sampling(0.0, 0)));
        let decoder = || Decoder::new(config(6), init(&config(6), &[1; 32])).unwrap();
        assert!(matches!(Writer::new(decoder(), &[], sampling(1.0, 0)), Err(TrainError::Batch { .. })));
        let mut writer = Writer::new(decoder(), &prompt, sampling(1.0, 0)).unwrap();
        let half: Vec<u32> = (0..20).map(|_| writer.write().unwrap()).collect();
        assert_eq!(half, one[..20]);
        assert!(matches!(writer.begin(&[11], sampling(1.0, 0)), Err(TrainError::Token { .. })));
        let half: Vec<u32> = (0..20).map(|_| writer.write().unwrap()).collect();
        assert_eq!(half, one[20..], "what was refused changes nothing");
        writer.begin(&prompt, sampling(1.0, 0)).unwrap();
        assert_eq!((writer.written(), writer.write().unwrap()), (0, one[0]));
    }

    #[test]
    fn the_likeliest_tokens_are_those_of_the_full_pass_over_what_is_seen() {
        for context in [1, 2, 3, 6, 9] {
            let config = config(context);
            let mut engine = CpuGpt::new(config).unwrap();
            engine.take(&init(&config, &[1; 32])).unwrap();
            let mut window = vec![3, 1, 4, 1, 5];
            window.drain(..window.len().saturating_sub(context));
            let found = text(config, &[3, 1, 4, 1, 5], sampling(0.0, 0), 30);
            for (at, token) in found.into_iter().enumerate() {
                let logits = engine.logits(&window).unwrap();
                let could = sampling(0.0, 0).could_draw(&logits, at as u64, token, 1e-5).unwrap();
                assert!(could, "context {context}: {token} at {at} of {logits:?}");
                if window.len() == context {
                    window = window[context - (context / 2).max(1)..].to_vec();
                    window.remove(0);
                }
                window.push(token);
            }
        }
    }

    #[test]
    fn a_step_is_a_moment() {
        let decoder = Decoder::new(config(40), init(&config(40), &[1; 32])).unwrap();
        let mut writer = Writer::new(decoder, &[5; 30], sampling(1.0, 0)).unwrap();
        let steps: Vec<bool> = (0..5).map(|_| writer.step().unwrap().is_some()).collect();
        assert_eq!(steps, [false, false, false, true, true]);
        // The context is full after ten; then twenty are read anew for each twenty that are written.
        let mut pauses = 0;
        while writer.written() < 100 {
            pauses += u32::from(writer.step().unwrap().is_none());
        }
        assert!((5..20).contains(&pauses), "{pauses}");
    }
}
