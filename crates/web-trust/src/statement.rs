//! The texts that people sign: made of what a form holds, and read again before they are sent.

use crate::Problem;
use potluck_governance::constitution::ParameterChange;
use potluck_governance::statement::{self, Said, Statement};
use potluck_governance::{Constitution, Key, Mirrors, Roles, Signature};
use potluck_types::BlobHash;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Largest form, in bytes: four times what a person can sign.
const MAX_FORM_BYTES: usize = 4 * potluck_governance::limits::MAX_STATEMENT_BYTES;

fn fields<T: DeserializeOwned>(form: Map<String, Value>) -> Result<T, Problem> {
    serde_json::from_value(Value::Object(form)).map_err(|error| format!("the form is not complete: {error}"))
}

macro_rules! said {
    ($kind:expr, $form:expr, $($name:literal => $statement:ident,)*) => {
        match $kind {
            $($name => fields::<statement::$statement>($form).map(Said::from),)*
            other => Err(format!("nobody can sign a statement of kind {other:?}: {}", concat!($($name, " "),*))),
        }
    };
}

/// The exact text to sign. `form` is an object with `origin`, `seq`, `at_ms`, `kind` and the kind's fields.
///
/// # Errors
/// What is missing or out of bounds.
pub fn text(form: &str) -> Result<String, Problem> {
    if form.len() > MAX_FORM_BYTES {
        return Err(format!("the form has {} bytes; the limit is {MAX_FORM_BYTES}: write less", form.len()));
    }
    let mut form: Map<String, Value> =
        serde_json::from_str(form).map_err(|error| format!("the form cannot be read: {error}"))?;
    let mut take = |name: &str| form.remove(name).ok_or_else(|| format!("the form has no {name}"));
    let (origin, kind, seq, at_ms) = (take("origin")?, take("kind")?, take("seq")?, take("at_ms")?);
    let number = |name: &str, value: &Value| {
        value.as_u64().ok_or_else(|| format!("{name} is not a whole number: {value}"))
    };
    let said = said!(kind.as_str().unwrap_or_default(), form,
        "propose" => Propose,
        "vote" => Vote,
        "attest" => Attest,
        "sign_off" => SignOff,
        "advise" => Advise,
        "second" => Second,
        "pause" => Pause,
        "ratify_pause" => RatifyPause,
        "resume" => Resume,
        "revoke" => Revoke,
        "quarantine" => Quarantine,
        "appeal" => Appeal,
    )?;
    let origin = origin.as_str().ok_or("origin is not a text")?.to_owned();
    let statement = Statement { origin, seq: number("seq", &seq)?, at_ms: number("at_ms", &at_ms)?, said };
    statement.text().map_err(|error| error.to_string())
}

/// Checks a signature as the log will, before it is sent; gives the statement's id.
///
/// # Errors
/// What is wrong with text, key or signature.
pub fn check(text: &str, key: &str, signature: &str) -> Result<String, Problem> {
    Statement::parse(text).map_err(|error| error.to_string())?;
    let key: Key = key.parse().map_err(|error| format!("the key cannot be used: {error}"))?;
    let signature: Signature =
        signature.parse().map_err(|error| format!("the signature cannot be used: {error}"))?;
    if !key.signed(text.as_bytes(), &signature) {
        return Err("the signature is not that of this key over this text".to_owned());
    }
    Ok(BlobHash::of(text.as_bytes()).to_string())
}

/// What a proposal names as its body, for a document in JSON: `roles`, `constitution`, `mirrors` or `parameter`.
///
/// # Errors
/// What is wrong with the document.
pub fn document_hash(kind: &str, document: &str) -> Result<String, Problem> {
    fn read<T: DeserializeOwned>(document: &str) -> Result<T, Problem> {
        if document.len() > potluck_governance::limits::MAX_ENTRY_BYTES {
            return Err("the document is longer than an entry can be".to_owned());
        }
        serde_json::from_str(document).map_err(|error| format!("the document cannot be read: {error}"))
    }
    let hash = match kind {
        "roles" => {
            let roles: Roles = read(document)?;
            roles.validate().map_err(|error| error.to_string())?;
            roles.hash()
        }
        "constitution" => {
            let constitution: Constitution = read(document)?;
            constitution.validate().map_err(|error| error.to_string())?;
            constitution.hash()
        }
        "mirrors" => {
            let mirrors: Mirrors = read(document)?;
            mirrors.validate().map_err(|error| error.to_string())?;
            mirrors.hash()
        }
        "parameter" => read::<ParameterChange>(document)?.hash(),
        _ => return Err(format!("no proposal of kind {kind:?} is about a document")),
    };
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_governance::SigningKey;
    use serde_json::json;

    fn vote() -> Value {
        json!({ "origin": "relay.example/log", "seq": 3, "at_ms": 5, "kind": "vote",
            "proposal": "ab".repeat(32), "vote": "yes" })
    }

    #[test]
    fn a_form_becomes_the_text_that_the_log_reads() {
        let text = text(&vote().to_string()).unwrap();
        let expected = format!(
            r#"{{"v":1,"origin":"relay.example/log","kind":"vote","seq":3,"at_ms":5,"proposal":"{}","vote":"yes"}}"#,
            "ab".repeat(32)
        );
        assert_eq!(text, expected);
        let secret = SigningKey::from_bytes(&[3; 32]);
        let (key, signature) = (Key::of(&secret), Signature::sign(&secret, text.as_bytes()));
        assert_eq!(check(&text, &key.to_string(), &signature.to_string()).unwrap().len(), 64);
        let other = text.replace("yes", "no");
        assert!(check(&other, &key.to_string(), &signature.to_string()).is_err());
        assert!(check(&text.replace(":3", ": 3"), &key.to_string(), &signature.to_string()).is_err());
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        for (change, says) in [
            (json!({ "vote": null }), "form is not complete"),
            (json!({ "vote": "maybe" }), "maybe"),
            (json!({ "proposal": "ab" }), "form"),
            (json!({ "kind": "rotate" }), "rotate"),
            (json!({ "seq": -1 }), "seq"),
            (json!({ "extra": 1 }), "extra"),
            (json!({ "reason": "x".repeat(2000) }), "reason"),
        ] {
            let mut form = vote();
            for (name, value) in change.as_object().unwrap() {
                form[name] = value.clone();
            }
            let error = text(&form.to_string()).unwrap_err();
            assert!(error.contains(says), "{change}: {error}");
        }
        assert!(text("[]").is_err() && text(&"x".repeat(MAX_FORM_BYTES + 1)).is_err());
    }

    #[test]
    fn documents_have_the_hash_that_the_log_asks_for() {
        let constitution = Constitution::default();
        let document = serde_json::to_string(&constitution).unwrap();
        assert_eq!(document_hash("constitution", &document).unwrap(), constitution.hash().to_string());
        assert!(document_hash("roles", r#"{"stewards":[],"auditors":[],"operators":[]}"#).is_err());
        let mirrors = r#"{"mirrors":[{"name":"b","url":"https://b.example","key":"KEY"}]}"#
            .replace("KEY", &"ab".repeat(32));
        assert_eq!(document_hash("mirrors", &mirrors).unwrap().len(), 64);
        assert!(document_hash("mirrors", &mirrors.replace("https", "ftp")).unwrap_err().contains("https"));
        assert!(document_hash("run", "{}").is_err());
        assert_eq!(document_hash("parameter", r#"{"name":"rounds","value":7}"#).unwrap().len(), 64);
    }
}
