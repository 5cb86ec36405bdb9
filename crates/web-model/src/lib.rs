//! A model that writes in a Worker of the visitor's own tab: adapter around `potluck-model`.
//!
//! The Worker hands over files and asks for one short step at a time, so that it hears Stop in between. Nothing that is
//! handed over needs to be right: everything is checked against the hashes that the page read in the log.
//!
//! Architecture invariant: no decision is made here, and nothing leaves: this module has no way to the network.

#![cfg(target_arch = "wasm32")]
#![allow(unreachable_pub, reason = "JavaScript reaches them: wasm-bindgen exports what is public")]

use potluck_model::promised::Promised as Known;
use potluck_model::{TextWriter, seed_bytes};
use potluck_train::gpt::Sampling;
use potluck_types::BlobHash;
use std::fmt::Display;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

/// Runs when the module is loaded.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

fn thrown(problem: impl Display) -> JsError {
    JsError::new(&problem.to_string())
}

fn hash(hex: &str) -> Result<BlobHash, JsError> {
    hex.parse().map_err(|_| JsError::new("a hash has 64 hexadecimal digits"))
}

/// What the log promises of a model.
#[wasm_bindgen]
pub struct Promised(Known);

#[wasm_bindgen]
impl Promised {
    /// Reads a run's request; `hash` stands in the run's entry in the log.
    ///
    /// # Errors
    /// It is another request, or its model does not write.
    #[wasm_bindgen(constructor)]
    pub fn new(request: &[u8], hash_of_request: &str) -> Result<Promised, JsError> {
        Known::read(request, &hash(hash_of_request)?).map(Self).map_err(thrown)
    }

    /// The hash of its tokenizer.
    pub fn tokenizer(&self) -> String {
        self.0.tokenizer.to_string()
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> f64 {
        self.0.parameters() as f64
    }

    /// Bytes of its parameters.
    pub fn bytes(&self) -> f64 {
        self.0.bytes() as f64
    }

    /// Tokens that it can know at once.
    pub fn context(&self) -> usize {
        self.0.config.context
    }

    /// Blocks of attention.
    pub fn layers(&self) -> usize {
        self.0.config.layers
    }

    /// Tokens of its vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.0.config.vocabulary
    }

    /// The model, ready to write; `hash` of the parameters stands in the candidate's entry in the log.
    ///
    /// # Errors
    /// A file is not what the log names.
    pub fn open(&self, tokenizer: &[u8], parameters: &[u8], hash_of_it: &str) -> Result<Model, JsError> {
        let (decoder, tokenizer) = self.0.open(tokenizer, parameters, &hash(hash_of_it)?).map_err(thrown)?;
        let sampling = Sampling { temperature: 0.0, top_k: 0, seed: [0; 32] };
        TextWriter::new(decoder, tokenizer, "", sampling).map(Model).map_err(thrown)
    }
}

/// A model that writes.
#[wasm_bindgen]
pub struct Model(TextWriter);

#[wasm_bindgen]
impl Model {
    /// Begins a text. The same version, prompt, temperature, `top_k` and seed give the same text on every machine. The
    /// number of the prompt's tokens.
    ///
    /// # Errors
    /// A prompt with a character that the model does not know.
    pub fn begin(&mut self, prompt: &str, temperature: f32, top_k: u32, seed: u32) -> Result<usize, JsError> {
        let sampling = Sampling { temperature, top_k: top_k as usize, seed: seed_bytes(seed.into()) };
        self.0.begin(prompt, sampling).map_err(thrown)?;
        Ok(self.0.prompt_tokens())
    }

    /// Works for a moment: what a token adds to the text, or nothing while it still reads.
    ///
    /// # Errors
    /// The model gives no numbers.
    pub fn step(&mut self) -> Result<Option<String>, JsError> {
        self.0.step().map_err(thrown)
    }

    /// What is left of a character that was never completed, at the end of a text.
    pub fn finish(&mut self) -> String {
        self.0.finish()
    }
}
