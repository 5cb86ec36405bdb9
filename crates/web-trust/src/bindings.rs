//! What JavaScript sees: texts and bytes in, JSON out, problems as `Error`s.

use crate::reader::Reader as PureReader;
use crate::receipt::Trusted;
use crate::witness::TabWitness;
use crate::{Problem, pages, receipt, statement};
use js_sys::Uint8Array;
use potluck_governance::Key;
use potluck_ledger::Policy;
use potluck_types::{BlobHash, VolunteerKey};
use serde::Serialize;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

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
        let secret = volunteer.as_ref().map(|key| &key.0);
        TabWitness::new(key, remembered.as_deref(), secret).map(Self).map_err(thrown)
    }

    /// Entries of the last checkpoint: what to ask the proof for.
    pub fn size(&self) -> f64 {
        self.0.size() as f64
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> Option<String> {
        self.0.checkpoint()
    }

    /// The public key of cosignatures.
    pub fn cosigner(&self) -> Option<String> {
        self.0.cosigner()
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

/// Reads a whole log.
#[wasm_bindgen]
pub struct Reader(PureReader);

#[wasm_bindgen]
impl Reader {
    /// A reader of the log of this key.
    ///
    /// # Errors
    /// A key that is none.
    #[wasm_bindgen(constructor)]
    pub fn new(key: &str) -> Result<Reader, JsError> {
        PureReader::new(key).map(Self).map_err(thrown)
    }

    /// Takes the checkpoint up to which to read: `{read, size}`.
    ///
    /// # Errors
    /// One that the log did not sign, or that is shorter than what was read.
    pub fn begin(&mut self, note: &str) -> Result<String, JsError> {
        json(&self.0.begin(note).map_err(thrown)?)
    }

    /// The file to fetch next: `{path, full}`, or `null`.
    ///
    /// # Errors
    /// As [`Witness::offer`].
    pub fn wanted(&self) -> Result<String, JsError> {
        json(&self.0.wanted())
    }

    /// Takes that file; `full` if it is the one at the second path. `{read, size}`.
    ///
    /// # Errors
    /// It is no such file, or the entries are not those that the log signed.
    pub fn take(&mut self, bytes: &[u8], full: bool) -> Result<String, JsError> {
        json(&self.0.take(bytes, full).map_err(thrown)?)
    }

    /// People, rules, proposals, pauses, models. Times in milliseconds since 1970.
    ///
    /// # Errors
    /// The log is not read to its end.
    pub fn overview(&self, now_ms: f64) -> Result<String, JsError> {
        json(&pages::overview(self.0.read().map_err(thrown)?, now_ms as u64))
    }

    /// A proposal's page, or `null`.
    ///
    /// # Errors
    /// As [`Self::overview`], and for an id that is none.
    pub fn proposal(&self, id: &str, now_ms: f64) -> Result<String, JsError> {
        let id: BlobHash =
            id.parse().map_err(|_| JsError::new("a proposal is named by 64 hexadecimal digits"))?;
        json(&pages::proposal(self.0.read().map_err(thrown)?, &id, now_ms as u64))
    }

    /// A model's page, or `null`.
    ///
    /// # Errors
    /// As [`Self::overview`].
    pub fn model(&self, name: &str, now_ms: f64) -> Result<String, JsError> {
        json(&pages::model(self.0.read().map_err(thrown)?, name, now_ms as u64))
    }

    /// What a key is here.
    ///
    /// # Errors
    /// As [`Self::overview`], and for a key that is none.
    pub fn holder(&self, key: &str) -> Result<String, JsError> {
        let key: Key = key.parse().map_err(|_| JsError::new("a key has 64 lower-case hexadecimal digits"))?;
        json(&pages::holder(self.0.read().map_err(thrown)?, &key))
    }
}

/// The exact text to sign: see [`statement::text`].
///
/// # Errors
/// What is missing or out of bounds.
#[wasm_bindgen(js_name = statementText)]
pub fn statement_text(form: &str) -> Result<String, JsError> {
    statement::text(form).map_err(thrown)
}

/// Checks a signature as the log will: the statement's id.
///
/// # Errors
/// What is wrong with it.
#[wasm_bindgen(js_name = checkStatement)]
pub fn check_statement(text: &str, key: &str, signature: &str) -> Result<String, JsError> {
    statement::check(text, key, signature).map_err(thrown)
}

/// What a proposal for a document names as its body: see [`statement::document_hash`].
///
/// # Errors
/// What is wrong with the document.
#[wasm_bindgen(js_name = documentHash)]
pub fn document_hash(kind: &str, document: &str) -> Result<String, JsError> {
    statement::document_hash(kind, document).map_err(thrown)
}

/// The name under which blobs are kept: BLAKE3, in hexadecimal.
#[wasm_bindgen(js_name = blobHash)]
pub fn blob_hash(bytes: &[u8]) -> String {
    BlobHash::of(bytes).to_string()
}

/// The public key that belongs to a secret of 64 hexadecimal digits.
///
/// # Errors
/// A text that is no secret.
#[wasm_bindgen(js_name = publicKey)]
pub fn public_key(hex: &str) -> Result<String, JsError> {
    Ok(secret(hex)?.id().to_string())
}
