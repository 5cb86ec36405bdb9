//! What JavaScript sees: texts and bytes in, JSON out, problems as `Error`s.

#![allow(unreachable_pub, reason = "JavaScript reaches them: wasm-bindgen exports what is public")]

use crate::receipt::Trusted;
use crate::witness::TabWitness;
use crate::{Problem, receipt};
use js_sys::Uint8Array;
use potluck_ledger::Policy;
use potluck_types::VolunteerKey;
use serde::Serialize;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

#[cfg(feature = "governance")]
mod governance;

fn thrown(problem: Problem) -> JsError {
    JsError::new(&problem)
}

fn json(of: &impl Serialize) -> Result<String, JsError> {
    serde_json::to_string(of).map_err(|error| JsError::new(&error.to_string()))
}

/// Reads a volunteer's secret.
fn secret(hex: &str) -> Result<VolunteerKey, JsError> {
    hex.parse().map_err(|_| JsError::new("a secret key has 64 lower-case hexadecimal digits"))
}

/// Runs when the module is loaded.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// A tab as witness of one log.
#[wasm_bindgen]
pub struct Witness(TabWitness);

#[wasm_bindgen]
impl Witness {
    /// `key`: the log's, as `/log/key` has it. `remembered`: the last checkpoint that was accepted. `volunteer`: the
    /// volunteer's secret in 64 hexadecimal digits; without it nothing is cosigned.
    ///
    /// # Errors
    /// What of these cannot be used.
    #[wasm_bindgen(constructor)]
    pub fn new(key: &str, remembered: Option<String>, volunteer: Option<String>) -> Result<Witness, JsError> {
        let volunteer = volunteer.as_deref().map(secret).transpose()?;
        TabWitness::new(key, remembered.as_deref(), volunteer.as_ref()).map(Self).map_err(thrown)
    }

    /// Entries of the last checkpoint: what to ask the proof for.
    pub fn size(&self) -> f64 {
        self.0.size() as f64
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> Option<String> {
        self.0.checkpoint()
    }

    /// Takes the answer of `/api/v1/log/since/SIZE`; `now_s` in seconds since 1970. A `Verdict` as JSON.
    ///
    /// # Errors
    /// Never in practice: verdicts can be written.
    pub fn offer(&mut self, answer: &str, now_s: f64) -> Result<String, JsError> {
        json(&self.0.offer(answer, now_s as u64))
    }

    /// Takes a checkpoint without a proof: of a log that says it is shorter. A `Verdict` as JSON.
    ///
    /// # Errors
    /// As [`Self::offer`].
    #[wasm_bindgen(js_name = offerCheckpoint)]
    pub fn offer_checkpoint(&mut self, note: &str, now_s: f64) -> Result<String, JsError> {
        json(&self.0.offer_checkpoint(note, now_s as u64))
    }

    /// Takes the files that a verdict `unproven` asks for, in its order. A `Verdict` as JSON.
    ///
    /// # Errors
    /// As [`Self::offer`].
    pub fn prove(&mut self, paths: Vec<String>, files: Vec<Uint8Array>) -> Result<String, JsError> {
        json(&self.0.prove(paths.into_iter().zip(files.iter().map(Uint8Array::to_vec))))
    }
}

/// Checks receipts.
#[wasm_bindgen]
pub struct Receipts(Policy);

#[wasm_bindgen]
impl Receipts {
    /// `trusted`: JSON with `log`, and optionally `witnesses` and `threshold`; see [`Trusted`].
    ///
    /// # Errors
    /// Keys that are none, or a policy that makes no sense.
    #[wasm_bindgen(constructor)]
    pub fn new(trusted: &str) -> Result<Receipts, JsError> {
        let trusted: Trusted = serde_json::from_str(trusted)?;
        trusted.policy().map(Self).map_err(thrown)
    }

    /// Checks a receipt: what it proves, as JSON.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, receipt: &[u8]) -> Result<String, JsError> {
        json(&receipt::verify(receipt, &self.0).map_err(thrown)?)
    }
}

/// The public key that belongs to a secret of 64 hexadecimal digits.
///
/// # Errors
/// A text that is no secret.
#[wasm_bindgen(js_name = publicKey)]
pub fn public_key(hex: &str) -> Result<String, JsError> {
    Ok(secret(hex)?.id().to_string())
}
