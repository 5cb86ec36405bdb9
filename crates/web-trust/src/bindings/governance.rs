//! What JavaScript sees of whole logs and statements.

use super::{json, thrown};
use crate::reader::Reader as PureReader;
use crate::successor::{self, Remembered};
use crate::{pages, statement};
use potluck_governance::Key;
use potluck_types::BlobHash;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

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

    /// Has the root at the size that a checkpoint, or `/log/predecessor`, states kept for [`Self::taken`]. Before the log is read.
    pub fn mark(&mut self, text: &str) {
        self.0.mark(successor::size_of(text));
    }

    /// Whether the log that was read goes on from one that is remembered, because people appointed its relay:
    /// `{name, url, lost}`.
    ///
    /// # Errors
    /// What does not hold.
    pub fn taken(&self, key: &str, note: &str, predecessor: &str) -> Result<String, JsError> {
        let log = self.0.read().map_err(thrown)?;
        json(&successor::taken(log, Remembered { key, note }, predecessor).map_err(thrown)?)
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
